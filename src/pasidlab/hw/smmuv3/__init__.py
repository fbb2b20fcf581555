"""Arm SMMUv3 (IHI 0070 G.b): the hardware that reads stream tables, context descriptors, page tables and queues."""

"""Hardware: it reads registers, tables and queues, and knows nothing of the software that wrote them."""

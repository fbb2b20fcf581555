"""Arm SMMUv3 (IHI 0070 G.b): the hardware that reads stream tables, context descriptors, page tables and queues.

What people who use the model alone need is here; the modules have the words of tables, queues and registers.
"""

from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.request import AtsCompletion, Completion, Outcome, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Transferred, Translated

__all__ = [
    "Ats",
    "AtsCompletion",
    "AtsStatus",
    "Completion",
    "Features",
    "Operation",
    "Outcome",
    "Request",
    "Smmuv3",
    "StallModel",
    "Stalled",
    "Terminated",
    "Transferred",
    "Translated",
]

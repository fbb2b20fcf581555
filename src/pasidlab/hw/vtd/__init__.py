"""Intel VT-d 4.1: the hardware that reads root, context and PASID tables, page tables and queues.

What people who use the model alone need is here; the modules have the words of tables, queues and registers.
"""

from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Transferred, Translated
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.records import FaultRecord, PageRequest, Reason, ResponseCode
from pasidlab.hw.vtd.request import Blocked, Outcome, Request, TranslationCompletion
from pasidlab.hw.vtd.unit import RemappingUnit

__all__ = [
    "Ats",
    "AtsStatus",
    "Blocked",
    "FaultRecord",
    "Features",
    "Operation",
    "Outcome",
    "PageRequest",
    "Reason",
    "RemappingUnit",
    "Request",
    "ResponseCode",
    "Transferred",
    "Translated",
    "TranslationCompletion",
]

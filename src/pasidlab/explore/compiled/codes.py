"""Verbs, results and words of a world as the plain integers that compiled functions compare."""

from __future__ import annotations

from typing import Final

import numpy as np

from pasidlab.explore.action import FREED as FREED_OWNER
from pasidlab.explore.action import KERNEL as KERNEL_OWNER
from pasidlab.explore.action import Result, Verb
from pasidlab.explore.compiled.layout import ARCHITECTURES, DRIVER_STEPS, GUARDS, IOMMU_STEPS, ORDERS, SCHEMES
from pasidlab.explore.state import CORE as CORE_MODE
from pasidlab.explore.state import DRIVER as DRIVER_MODE
from pasidlab.explore.state import LOCAL as LOCAL_HANDLE
from pasidlab.explore.state import NORMAL as NORMAL_HANDLE
from pasidlab.explore.state import OPENED as OPENED_HANDLE


def _code(value: int) -> int:
    """Return a constant for which numba does not compile functions anew, as it does for each of Python's integers."""
    return np.int64(value)  # type: ignore[return-value]


ZERO: Final = _code(0)
NONE: Final = _code(-1)
"""No process."""

BIND: Final = _code(Verb.BIND)
BIND_DEVICE: Final = _code(Verb.BIND_DEVICE)
BIND_DEVICE_PASID: Final = _code(Verb.BIND_DEVICE_PASID)
UNBIND: Final = _code(Verb.UNBIND)
MMAP_PORTAL: Final = _code(Verb.MMAP_PORTAL)
SUBMIT: Final = _code(Verb.SUBMIT)
FORGE: Final = _code(Verb.FORGE)
COMPLETE: Final = _code(Verb.COMPLETE)
ASK: Final = _code(Verb.ASK)
ANSWER: Final = _code(Verb.ANSWER)
EXIT: Final = _code(Verb.EXIT)
RESUME: Final = _code(Verb.RESUME)
ALLOC_GLOBAL: Final = _code(Verb.ALLOC_GLOBAL)
FREE_GLOBAL: Final = _code(Verb.FREE_GLOBAL)
ATTACH: Final = _code(Verb.ATTACH)
DETACH: Final = _code(Verb.DETACH)
FAIL_NEXT: Final = _code(Verb.FAIL_NEXT)
DMA: Final = _code(Verb.DMA)

OK: Final = _code(Result.OK)
FAULT: Final = _code(Result.FAULT)
IGNORED: Final = _code(Result.IGNORED)
SIGSEGV: Final = _code(Result.SIGSEGV)
SIGILL: Final = _code(Result.SIGILL)
EPERM: Final = _code(Result.EPERM)
ENOMEM: Final = _code(Result.ENOMEM)
EBUSY: Final = _code(Result.EBUSY)
ENODEV: Final = _code(Result.ENODEV)
EINVAL: Final = _code(Result.EINVAL)
ENOSPC: Final = _code(Result.ENOSPC)
EOVERFLOW: Final = _code(Result.EOVERFLOW)
ENOSYS: Final = _code(Result.ENOSYS)

RFC: Final = _code(SCHEMES.index("rfc"))
V2: Final = _code(SCHEMES.index("v2"))
HYBRID: Final = _code(SCHEMES.index("hybrid"))
GUARD_MMAP: Final = _code(GUARDS.index("mmap"))
GUARD_RANGE: Final = _code(GUARDS.index("range"))
GUARD_DECLARED: Final = _code(GUARDS.index("declared"))
HIGHEST: Final = _code(ORDERS.index("highest"))
RESERVE_LOW: Final = _code(ORDERS.index("reserve-low"))
X86: Final = _code(ARCHITECTURES.index("x86"))
STOP: Final = _code(DRIVER_STEPS.index("stop"))
DRAIN: Final = _code(DRIVER_STEPS.index("drain"))
TABLE: Final = _code(IOMMU_STEPS.index("table"))
IOTLB: Final = _code(IOMMU_STEPS.index("iotlb"))
ATC: Final = _code(IOMMU_STEPS.index("atc"))

OPENED: Final = _code(OPENED_HANDLE)
NORMAL: Final = _code(NORMAL_HANDLE)
LOCAL: Final = _code(LOCAL_HANDLE)
NOBODY: Final = ZERO
FREED: Final = _code(FREED_OWNER)
KERNEL: Final = _code(KERNEL_OWNER)

CORE: Final = _code(CORE_MODE)
DRIVER: Final = _code(DRIVER_MODE)

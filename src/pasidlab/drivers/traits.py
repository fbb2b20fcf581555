"""What tells real IOMMU drivers apart before any table is written; the mock driver can act like each of them.

Sources: drivers/iommu/arm/arm-smmu-v3, intel, amd and riscv of Linux 6.12.117 and 7.3.4 (read). What each driver does
with tables, caches and queues is not modelled here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from pasidlab.linux.iopf import PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE, Fault, ResponseCode
from pasidlab.rules import WAS_READ, Rule

_ACCESS = PERM_READ | PERM_WRITE
_CANONICAL_BITS = 48


class Mode(StrEnum):
    """Whose operations the mock driver has; the kernels' records were made with the first four."""

    USUAL = "usual"
    NO_DOMAIN_ALLOC_SVA = "no_domain_alloc_sva"
    NO_SET_DEV_PASID = "no_set_dev_pasid"
    OTHER_DRIVER = "other_driver"
    ARM_SMMU_V3 = "arm-smmu-v3"
    INTEL_VTD = "intel-vtd"
    AMD_VI = "amd-vi"
    RISCV = "riscv"


STOP_MARKER = Rule(
    "prq.stop-marker",
    "prq_event_thread (drivers/iommu/intel/prq.c)",
    "neither read nor write, last request: the PASID stop marker",
    "the IOMMU driver drops a stop marker and answers nothing",
    source=WAS_READ,
)
DRIVER_INVALID = Rule(
    "prq.driver-invalid",
    "the page request thread of the IOMMU driver",
    "no PASID, a privileged access, execute with read, or an address that is not canonical",
    "the IOMMU driver answers INVALID by itself",
    source=WAS_READ,
    remedy="see the line before it, which says what is wrong with the request",
)
DRIVER_FAILURE = Rule(
    "prq.driver-failure",
    "ppr_notifier (drivers/iommu/amd)",
    "no PASID, or PASID 0",
    "the IOMMU driver answers FAILURE by itself",
    source=WAS_READ,
)
NO_PAGE_REQUESTS = Rule(
    "prq.not-delivered",
    "the IOMMU driver",
    "it has no page_response operation",
    "the IOMMU driver knows no page requests",
    source=WAS_READ,
)


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """The IOMMU driver settles a request itself: with a code, or with silence."""

    rule: Rule
    code: ResponseCode | None = None


Screen = Callable[[Fault], Fault | OwnAnswer]


def _all(fault: Fault) -> Fault:
    return fault


def _stall(fault: Fault) -> Fault:
    """arm-smmu-v3: a stall event is a group of one; its group index is the stall tag."""
    return replace(fault, last=True)


def _vtd(fault: Fault) -> Fault | OwnAnswer:
    if fault.pasid is not None and fault.last and not fault.perm & _ACCESS:
        return OwnAnswer(STOP_MARKER)
    upper = fault.addr >> (_CANONICAL_BITS - 1)
    canonical = upper in (0, (1 << (64 - _CANONICAL_BITS + 1)) - 1)
    privileged = bool(fault.perm & PERM_PRIV and fault.perm & _ACCESS)
    executes_and_reads = fault.perm & (PERM_EXEC | PERM_READ) == PERM_EXEC | PERM_READ
    if fault.pasid is None or privileged or executes_and_reads or not canonical:
        return OwnAnswer(DRIVER_INVALID, ResponseCode.INVALID)
    return fault


def _amd(fault: Fault) -> Fault | OwnAnswer:
    return fault if fault.pasid else OwnAnswer(DRIVER_FAILURE, ResponseCode.FAILURE)


def _none(fault: Fault) -> OwnAnswer:
    return OwnAnswer(NO_PAGE_REQUESTS)


RAW_CODES = {ResponseCode.SUCCESS: "0", ResponseCode.INVALID: "1", ResponseCode.FAILURE: "2"}
"""VT-d and AMD write the core's number; 2 is a reserved code, PCIe's Response Failure is 0xF."""
RESUME = {
    ResponseCode.SUCCESS: "CMD_RESUME Retry",
    ResponseCode.INVALID: "CMD_RESUME Abort",
    ResponseCode.FAILURE: "CMD_RESUME Abort",
}


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of one driver.

    Attributes:
        domain_alloc_sva, set_dev_pasid: it has the operation.
        paging_pasids: a paging domain can be attached to a PASID, too.
        replaces: set_dev_pasid takes a PASID that has an old domain.
        carries_pasids: it reports max_pasids at all.
        bound_one_less: its max_pasids is one less than the power of two (AMD).
        no_memory_is_einval: set_dev_pasid allocates, and answers -EINVAL without memory (AMD).
        needs_pasid_on: which operation refuses a device whose PASID could not be switched on; None is no operation.
        screen: which page requests reach the core.
        wire: what each response becomes on the wire.
    """

    domain_alloc_sva: bool = True
    set_dev_pasid: bool = True
    paging_pasids: bool = True
    replaces: bool = True
    carries_pasids: bool = True
    bound_one_less: bool = False
    no_memory_is_einval: bool = False
    needs_pasid_on: Literal["set_dev_pasid", "domain_alloc_sva"] | None = "set_dev_pasid"
    screen: Screen = _all
    wire: dict[ResponseCode, str] | None = None


TRAITS = {
    Mode.USUAL: Traits(),
    Mode.NO_DOMAIN_ALLOC_SVA: Traits(domain_alloc_sva=False),
    Mode.NO_SET_DEV_PASID: Traits(set_dev_pasid=False),
    Mode.OTHER_DRIVER: Traits(),
    Mode.ARM_SMMU_V3: Traits(needs_pasid_on=None, screen=_stall, wire=RESUME),
    Mode.INTEL_VTD: Traits(needs_pasid_on="domain_alloc_sva", screen=_vtd, wire=RAW_CODES),
    Mode.AMD_VI: Traits(
        paging_pasids=False,
        replaces=False,
        bound_one_less=True,
        no_memory_is_einval=True,
        screen=_amd,
        wire=RAW_CODES,
    ),
    Mode.RISCV: Traits(domain_alloc_sva=False, set_dev_pasid=False, carries_pasids=False, screen=_none),
}

"""Which fault reason a walk's fault is recorded as, and how a translation request that faults is answered.

The rules of page-table formats are those of all who use the format; what a remapping unit calls their failure depends
on the table mode (legacy mode has reasons of its own) and, in nested translation, on whose tables were being read.

Source: Intel VT-d 4.1, 7.1.3 (fault reasons), 7.2 (recoverable faults), 4.2 (completion of translation requests).
Decided where the sources leave it open: a first-stage table that the second stage does not let be read is a nested
fault (75h, 76h), while an entry of the second stage that is unreadable or has reserved bits is the second stage's own.
A translation request that faults is answered Success without rights where the fault is recoverable, Completer Abort
where tables are unreadable or broken, Unsupported Request otherwise; only recoverable faults are not recorded. That
PASIDs that are not present, and addresses that are not canonical, count as recoverable follows QEMU's reading.
"""

from __future__ import annotations

from pasidlab.hw.pagetable import vtd_second, x86
from pasidlab.hw.pagetable.contract import WalkFault
from pasidlab.hw.transaction import AtsStatus
from pasidlab.hw.vtd.contexts import Paging
from pasidlab.hw.vtd.records import Reason
from pasidlab.rules import Rule

_FIRST_STAGE: dict[Rule, Reason] = {
    x86.CANONICAL: Reason.NOT_CANONICAL,
    x86.ABORTED: Reason.FIRST_ACCESS,
    x86.NOT_PRESENT: Reason.FIRST_NOT_PRESENT,
    x86.PAGE_SIZE: Reason.FIRST_RESERVED,
    x86.RESERVED: Reason.FIRST_RESERVED,
    x86.USER: Reason.NO_USER,
    x86.READ_ONLY: Reason.NO_WRITE,
    x86.XD: Reason.NO_EXECUTE,
    x86.SMEP: Reason.NO_EXECUTE,
}
_SECOND_STAGE: dict[Rule, Reason] = {
    vtd_second.RANGE: Reason.SECOND_BEYOND_WIDTH,
    vtd_second.ABORTED: Reason.SECOND_ACCESS,
    vtd_second.NOT_PRESENT: Reason.SECOND_NOT_PRESENT,
    vtd_second.PAGE_SIZE: Reason.SECOND_RESERVED,
    vtd_second.RESERVED: Reason.SECOND_RESERVED,
    vtd_second.NO_READ: Reason.NO_READ,
    vtd_second.NO_WRITE: Reason.NO_WRITE,
    vtd_second.NO_EXECUTE: Reason.NO_EXECUTE,
}
STAGES = _FIRST_STAGE | _SECOND_STAGE
"""The reason of every rule by which a walk faults, in scalable mode."""
TOP = {x86.ABORTED: Reason.FIRST_TABLE_ACCESS, vtd_second.ABORTED: Reason.SECOND_TABLE_ACCESS}
"""The same for the entry of the first table, where it has a reason of its own."""
UNDER_TABLES: dict[Rule, Reason] = _SECOND_STAGE | {
    vtd_second.RANGE: Reason.FIRST_BEYOND_MGAW,
    vtd_second.NOT_PRESENT: Reason.NESTED_READ,
    vtd_second.NO_READ: Reason.NESTED_READ,
    vtd_second.NO_WRITE: Reason.NESTED_WRITE,
}
"""The same for a second stage that faults on the address of a first-stage table."""
LEGACY: dict[Rule, Reason] = {
    vtd_second.RANGE: Reason.LEGACY_BEYOND_MGAW,
    vtd_second.ABORTED: Reason.LEGACY_PAGING_ACCESS,
    vtd_second.PAGE_SIZE: Reason.LEGACY_PAGING_RESERVED,
    vtd_second.RESERVED: Reason.LEGACY_PAGING_RESERVED,
    vtd_second.NO_READ: Reason.LEGACY_NO_READ,
    vtd_second.NO_WRITE: Reason.LEGACY_NO_WRITE,
}
"""The same in legacy mode; an entry that is not present lacks the right that the request needs."""
LEGACY_TOP = LEGACY | {vtd_second.ABORTED: Reason.LEGACY_CONTEXT_INVALID}
"""The same for the entry of the first table: a context entry that leads where nothing can be read is invalid."""

RECOVERABLE = frozenset(
    {
        Reason.LEGACY_NO_WRITE,
        Reason.LEGACY_NO_READ,
        Reason.DIRECTORY_NOT_PRESENT,
        Reason.PASID_NOT_PRESENT,
        Reason.FIRST_NOT_PRESENT,
        Reason.SECOND_NOT_PRESENT,
        Reason.NOT_CANONICAL,
        Reason.NO_USER,
        Reason.NO_EXECUTE,
        Reason.NO_WRITE,
        Reason.NO_READ,
    }
)
"""Faults that a device can get over by requesting the page: not recorded for translation requests."""
BROKEN = frozenset(
    {
        Reason.LEGACY_PAGING_ACCESS,
        Reason.LEGACY_ROOT_ACCESS,
        Reason.LEGACY_CONTEXT_ACCESS,
        Reason.LEGACY_ROOT_RESERVED,
        Reason.LEGACY_CONTEXT_RESERVED,
        Reason.LEGACY_PAGING_RESERVED,
        Reason.ROOT_ACCESS,
        Reason.ROOT_RESERVED,
        Reason.CONTEXT_ACCESS,
        Reason.CONTEXT_RESERVED,
        Reason.DIRECTORY_ACCESS,
        Reason.DIRECTORY_RESERVED,
        Reason.PASID_ACCESS,
        Reason.PASID_RESERVED,
        Reason.FIRST_ACCESS,
        Reason.FIRST_RESERVED,
        Reason.FIRST_TABLE_ACCESS,
        Reason.FIRST_BEYOND_MGAW,
        Reason.NESTED_TOP_READ,
        Reason.NESTED_READ,
        Reason.NESTED_WRITE,
        Reason.SECOND_ACCESS,
        Reason.SECOND_RESERVED,
        Reason.SECOND_TABLE_ACCESS,
    }
)
"""Faults of unreadable or broken tables."""


def reason_of(paging: Paging, fault: WalkFault, *, write: bool, top: bool) -> Reason:
    """Return the reason of a walk's fault; `top`: no first-stage entry had been read before."""
    rule = fault.rule
    if paging.legacy:
        assert paging.stage is not None
        reasons = LEGACY_TOP if fault.level == paging.stage.levels else LEGACY
        return reasons.get(rule) or (Reason.LEGACY_NO_WRITE if write else Reason.LEGACY_NO_READ)
    stage = paging.below if fault.stage == 2 and paging.below is not None else paging.stage
    reason = (UNDER_TABLES if fault.on_table else STAGES)[rule]
    if stage is not None and fault.level == stage.levels:
        reason = TOP.get(rule, reason)
    return Reason.NESTED_TOP_READ if top and reason is Reason.NESTED_READ else reason


def completion_status(reason: Reason) -> AtsStatus:
    """Return how a translation request is answered that met a fault."""
    if reason in RECOVERABLE:
        return AtsStatus.SUCCESS
    return AtsStatus.COMPLETER_ABORT if reason in BROKEN else AtsStatus.UNSUPPORTED_REQUEST

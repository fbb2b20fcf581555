"""A walk of a VT-d remapping unit: root, context, directory and PASID entries, page tables, the record of a fault."""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.errors import InputError
from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.pagetable.paging_entries import (
    LargePageEntry,
    PageEntry,
    PagingTable,
    SecondStageEntry,
    SecondStageLeaf,
    SecondStageTable,
)
from pasidlab.hw.transaction import Translated
from pasidlab.hw.vtd.lookup import CONTEXT_LEVEL, DIRECTORY_LEVEL, PASID_LEVEL, ROOT_LEVEL
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.registers import Ttm
from pasidlab.hw.vtd.request import Blocked, Request, TranslationCompletion, facts
from pasidlab.hw.vtd.structures import (
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report.walked import NotReached, Step, Transaction, Walk, quiet_copy, reached, step_of
from pasidlab.words import Word

_SCALABLE: dict[int, tuple[str, type[Word]]] = {
    ROOT_LEVEL: ("root entry", ScalableRootEntry),
    CONTEXT_LEVEL: ("context entry", ScalableContextEntry),
    DIRECTORY_LEVEL: ("PASID directory entry", PasidDirectoryEntry),
    PASID_LEVEL: ("PASID entry", PasidEntry),
}
_LEGACY: dict[int, tuple[str, type[Word]]] = {
    ROOT_LEVEL: ("root entry", RootEntry),
    CONTEXT_LEVEL: ("context entry", ContextEntry),
}
"""What an access of stage 0 reached, by its level."""


def walk(machine: Machine, dev: Device, asked: Transaction) -> Walk:
    """Walk for one transaction of a device behind a remapping unit; InputError for what no such device can send."""
    unit, source_id = _twin(machine, dev)
    request = _request(source_id, asked)
    touches: list[Touch] = []
    outcome = unit.translate(request, touches)
    assert not isinstance(outcome, TranslationCompletion)
    steps = list(_steps(touches, request, _SCALABLE if unit.interface.root.ttm is Ttm.SCALABLE else _LEGACY))
    if isinstance(outcome, Translated):
        return reached(machine, steps, outcome, facts(request))
    why = outcome.rule.sentence(outcome.facts)
    return Walk(steps, "blocked", outcome.rule, why, _refusal(outcome, steps))


def _request(source_id: int, asked: Transaction) -> Request:
    if asked.pasid is None and (asked.privileged or asked.instruction):
        option = "--privileged" if asked.privileged else "--instruction"
        raise InputError(f"{option}: needs --pasid; only a request with PASID says so to a VT-d unit")
    return Request(source_id, asked.pasid, asked.address, asked.access, asked.privileged, asked.instruction)


def _twin(machine: Machine, dev: Device) -> tuple[RemappingUnit, int]:
    """Return a copy of the unit in front of a device, quiet and with empty caches, and the device's source."""
    driver = machine.parts.vtds
    assert dev.iommu is not None
    twin = quiet_copy(driver.instances[dev.iommu].hw)
    twin.lookup.clear()
    twin.tlb.clear()
    return twin, driver.traits[dev].source_id


def _refusal(outcome: Blocked, steps: list[Step]) -> NotReached:
    reason = outcome.reason
    more = {"reason": None if reason is Reason.NONE else reason.name}
    return NotReached("fault, blocked", "fault record", reason.name, outcome.record, _unrecorded(reason, steps), more)


def _unrecorded(reason: Reason, steps: list[Step]) -> str:
    """Say why there is no fault record."""
    if reason is Reason.NONE:
        return "no fault record: such a request ends without one"
    code = f"reason {reason.name} ({reason.value:#04x})"
    silenced = [step.what for step in steps if getattr(step.word, "fpd", False)]
    if silenced:
        return f"{code}, no fault record: FPD is set in the {silenced[0]}"
    return f"{code}, no fault record: no fault recording register is free"


def _steps(touches: list[Touch], request: Request, tables: dict[int, tuple[str, type[Word]]]) -> Iterator[Step]:
    for touch in touches:
        what, kind = _paging_entry(touch) if touch.stage else tables[touch.level]
        yield step_of(touch, what, kind, facts(request))


def _paging_entry(touch: Touch) -> tuple[str, type[Word]]:
    what = f"stage {touch.stage} level {touch.level} entry{', written' if touch.store else ''}"
    maps = touch.level == 1 or SecondStageEntry(touch.value or 0).ps
    if touch.stage == 1:
        leaf = PageEntry if touch.level == 1 else LargePageEntry
        return what, leaf if maps else PagingTable
    return what, SecondStageLeaf if maps else SecondStageTable

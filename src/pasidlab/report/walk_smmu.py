"""A walk of an Arm SMMUv3: stream table, CD table, page tables, and the event record of a fault."""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.pagetable.descriptors import Descriptor, Stage1Leaf, Stage2Leaf, TableDescriptor
from pasidlab.hw.smmuv3.request import AtsCompletion, Request, Stalled, Terminated, facts
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, L1Cd, L1Std, Ste
from pasidlab.hw.transaction import Translated
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report.walked import NotReached, Step, Transaction, Walk, quiet_copy, reached, step_of
from pasidlab.words import Word

_LAST_LEVEL = 3


def walk(machine: Machine, dev: Device, asked: Transaction) -> Walk:
    """Walk for one transaction of a device behind an SMMU."""
    smmu, sid = _twin(machine, dev)
    request = Request(sid, asked.pasid, asked.address, asked.access, asked.privileged, asked.instruction)
    touches: list[Touch] = []
    outcome = smmu.translate(request, touches)
    assert not isinstance(outcome, AtsCompletion)
    steps = list(_steps(touches, request))
    if isinstance(outcome, Translated):
        return reached(machine, steps, outcome, facts(request))
    result, why = type(outcome).__name__.lower(), outcome.rule.sentence(outcome.facts)
    return Walk(steps, result, outcome.rule, why, _refusal(outcome))


def _twin(machine: Machine, dev: Device) -> tuple[Smmuv3, int]:
    """Return a copy of the SMMU in front of a device, quiet and with empty caches, and the device's StreamID."""
    driver = machine.parts.smmus
    assert dev.iommu is not None
    twin = quiet_copy(driver.instances[dev.iommu].hw)
    twin.lookup.forget_all()
    twin.tlb.clear()
    return twin, driver.traits[dev].streams[0]


def _refusal(outcome: Terminated | Stalled) -> NotReached:
    event = outcome.event
    name = "" if event is None else event.CODE.name
    return NotReached(_how_it_ends(outcome), "event", name, event, "no event is recorded", {})


def _how_it_ends(outcome: Terminated | Stalled) -> str:
    if isinstance(outcome, Terminated):
        return f"fault, {outcome.completion.value}"
    return "fault, stalled until software answers" if outcome.stag is not None else "fault, no stall tag is free"


def _steps(touches: list[Touch], request: Request) -> Iterator[Step]:
    stream_known = False
    for touch in touches:
        what, kind = _kind(touch, stream_known)
        stream_known = stream_known or kind is Ste
        yield step_of(touch, what, kind, facts(request))


def _kind(touch: Touch, stream_known: bool) -> tuple[str, type[Word]]:
    """Return what an access reached: the configuration comes first, the stream's before the context's."""
    if touch.stage:
        return _descriptor(touch)
    if touch.level:
        return ("L1CD", L1Cd) if stream_known else ("L1STD", L1Std)
    return ("CD", Cd) if stream_known else ("STE", Ste)


def _descriptor(touch: Touch) -> tuple[str, type[Word]]:
    what = f"stage {touch.stage} level {touch.level} descriptor{', written' if touch.store else ''}"
    entry = Descriptor(touch.value or 0)
    if entry.valid and entry.table_or_page and touch.level < _LAST_LEVEL:
        return what, TableDescriptor
    return what, Stage1Leaf if touch.stage == 1 else Stage2Leaf

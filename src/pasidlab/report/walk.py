"""One transaction of a device, access by access: which structures its SMMU reads, what they say, and how it ends.

The walk is made with empty caches on a copy of the machine, whose driver does not hear of it, so that asking changes
nothing. A device with several streams uses its first; one with ATS asks for translations by the same tables, which the
walk shows as it shows them for any other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from pasidlab.errors import InputError
from pasidlab.formats import fields_dict, fields_text, hex_words, words_text
from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.pagetable.descriptors import Descriptor, Stage1Leaf, Stage2Leaf, TableDescriptor
from pasidlab.hw.smmuv3.records import Event
from pasidlab.hw.smmuv3.request import AtsCompletion, Outcome, Request, Stalled, Terminated, facts
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, L1Cd, L1Std, Ste
from pasidlab.hw.transaction import Translated
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report.places import device_named, memory_text, rights_text, size_text
from pasidlab.words import Word

_LAST_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One memory access of a walk.

    Attributes:
        address: physical address.
        what: the structure.
        word: what was read or written; None where memory did not answer.
        store: hardware wrote.
        rule: the id of the rule that was applied; `why` is its sentence.
    """

    address: int
    what: str
    word: Word | None
    store: bool
    rule: str
    why: str

    def as_dict(self, number: int) -> dict[str, Any]:
        """Return the access as `pasidlab walk --json` prints it."""
        word = self.word
        return {
            "access": number,
            "address": self.address,
            "what": self.what,
            "words": None if word is None else hex_words(word),
            "fields": {} if word is None else fields_dict(word),
            "store": self.store,
            "rule": self.rule,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk and its end.

    Attributes:
        owners: whose memory the output address is; empty where it is nobody's, and for a walk that has none.
        rights: what the tables grant there, in words.
    """

    request: Request
    steps: list[Step]
    outcome: Outcome
    owners: tuple[str, ...]
    rights: str

    @property
    def event(self) -> Event | None:
        """The record of a fault, where there is one."""
        return None if isinstance(self.outcome, Translated) else self.outcome.event

    @property
    def result(self) -> str:
        """The end in one word: translated, stalled or terminated."""
        return type(self.outcome).__name__.lower()

    @property
    def why(self) -> str:
        """The sentence of the rule that ended the walk."""
        rule = self.outcome.rule
        if isinstance(self.outcome, Translated):
            return rule.sentence(facts(self.request))
        return rule.sentence(self.outcome.facts)

    def as_dicts(self) -> Iterator[dict[str, Any]]:
        """Yield each access as a record, then the end."""
        for number, step in enumerate(self.steps, start=1):
            yield step.as_dict(number)
        end: dict[str, Any] = {"result": self.result, "rule": self.outcome.rule.id, "why": self.why}
        if isinstance(self.outcome, Translated):
            end |= {"output": self.outcome.address, "lg2": self.outcome.lg2}
            end |= {"rights": self.rights, "owners": list(self.owners)}
        else:
            end["event"] = None if self.event is None else _event_dict(self.event)
        yield end

    def print(self, title: str, console: Console) -> None:
        """Print each access with what it found and the rule that it applied, and the end."""
        console.print(f"[bold]{escape(title)}[/bold]", highlight=False, soft_wrap=True)
        for line in (*self._accesses(), *self._end()):
            console.print(escape(line), highlight=False, soft_wrap=True)

    def _accesses(self) -> Iterator[str]:
        for number, step in enumerate(self.steps, start=1):
            value = "memory does not answer" if step.word is None else words_text(step.word)
            yield f"{number:>2}  {step.address:#x}  {step.what}  {value}"
            if step.word is not None:
                yield f"      {fields_text(step.word)}"
            yield f"      {step.why} [{step.rule}]"

    def _end(self) -> Iterator[str]:
        outcome = self.outcome
        if isinstance(outcome, Translated):
            yield f"translated to {outcome.address:#x}, {memory_text(self.owners)} [{outcome.rule.id}]"
            yield f"      the same holds for the {size_text(outcome.lg2)} around it: {self.rights}"
            return
        how = _how_it_ends(outcome)
        yield f"{how}: {self.why} [{outcome.rule.id}]"
        if self.event is None:
            yield "      no event is recorded"
        else:
            yield f"      event {self.event.CODE.name}  {words_text(self.event)}"
            yield f"      {fields_text(self.event)}"


def _how_it_ends(outcome: Terminated | Stalled) -> str:
    if isinstance(outcome, Terminated):
        return f"fault, {outcome.completion.value}"
    return "fault, stalled until software answers" if outcome.stag is not None else "fault, no stall tag is free"


def _event_dict(event: Event) -> dict[str, Any]:
    return {"name": event.CODE.name, "words": hex_words(event), "fields": fields_dict(event)}


def walk(machine: Machine, device: str, request: Request) -> Walk:
    """Walk for one transaction of a device; the StreamID of the request is filled in.

    Raises InputError for a device that there is not, or that is behind no SMMU.
    """
    smmu, sid = _smmu_of(machine, device_named(machine, device))
    request = replace(request, sid=sid)
    touches: list[Touch] = []
    outcome = smmu.translate(request, touches)
    assert not isinstance(outcome, AtsCompletion)
    steps = list(_steps(touches, request))
    if not isinstance(outcome, Translated):
        return Walk(request, steps, outcome, (), "")
    owners = machine.kernel.page_alloc.owners_of(outcome.address)
    return Walk(request, steps, outcome, owners, rights_text(outcome.rights))


def _smmu_of(machine: Machine, dev: Device) -> tuple[Smmuv3, int]:
    """Return a copy of the SMMU in front of a device, quiet and with empty caches, and the device's StreamID."""
    driver = machine.parts.smmus
    if dev.iommu is None or dev.iommu not in driver.instances:
        behind = [name for name, one in machine.endpoints.items() if one.dev.iommu in driver.instances]
        raise InputError(
            f"--device {dev.name!r}: has no tables to walk, since it is behind no IOMMU of model arm-smmu-v3; "
            f"allowed: {', '.join(behind) or 'none in this scenario'}"
        )
    original = driver.instances[dev.iommu].hw
    callbacks = original.interface.irq, original.interface.refused
    twin = copy.deepcopy(original, {id(callback): None for callback in callbacks})
    twin.lookup.forget_all()
    twin.tlb.clear()
    return twin, driver.traits[dev].streams[0]


def _steps(touches: list[Touch], request: Request) -> Iterator[Step]:
    stream_known = False
    for touch in touches:
        what, kind = _kind(touch, stream_known)
        stream_known = stream_known or kind is Ste
        word = None if touch.value is None else kind(touch.value)
        known = facts(request) | {"stage": touch.stage, "level": touch.level}
        yield Step(touch.address, what, word, touch.store, touch.rule.id, touch.rule.sentence(known))


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

"""A walk as people and programs see it, whichever IOMMU made it: what was asked, each access, and how it ended."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.markup import escape

from pasidlab.formats import fields_dict, fields_text, hex_words, words_text
from pasidlab.hw.mmio import ProgrammingInterface
from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.transaction import Operation, Translated
from pasidlab.machine import Machine
from pasidlab.report.places import memory_text, rights_text, size_text
from pasidlab.rules import Rule
from pasidlab.words import Word


class Hardware(Protocol):
    """An IOMMU, as far as it can be told to be quiet."""

    @property
    def interface(self) -> ProgrammingInterface:
        """Its registers, with who hears of it."""


H = TypeVar("H", bound=Hardware)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One access of a device; `pasid` None is one without."""

    pasid: int | None = None
    address: int = 0
    access: Operation = Operation.READ
    privileged: bool = False
    instruction: bool = False


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
class Reached:
    """The end of a walk that found a translation.

    Attributes:
        address, lg2: where the access goes, and log2 of the bytes around it that are translated alike.
        rights: what the tables grant there, in words.
        owners: whose memory it is; empty where it is nobody's.
    """

    address: int
    lg2: int
    rights: str
    owners: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what the last record has of it."""
        return {"output": self.address, "lg2": self.lg2, "rights": self.rights, "owners": list(self.owners)}


@dataclass(frozen=True, slots=True)
class NotReached:
    """The end of a walk that found none.

    Attributes:
        how: what becomes of the access, in words.
        record: what the IOMMU tells software, if anything; `name` is its name, `kind` what such a record is called.
        unrecorded: why it tells nothing.
        more: what the last record says of it beyond the event.
    """

    how: str
    kind: str
    name: str
    record: Word | None
    unrecorded: str
    more: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what the last record has of it."""
        if self.record is None:
            return {"event": None} | self.more
        event = {"name": self.name, "words": hex_words(self.record), "fields": fields_dict(self.record)}
        return {"event": event} | self.more

    def lines(self) -> Iterator[str]:
        """Yield what the IOMMU tells software, or why it tells nothing."""
        if self.record is None:
            yield f"      {self.unrecorded}"
            return
        yield f"      {self.kind} {self.name}  {words_text(self.record)}"
        yield f"      {fields_text(self.record)}"


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk and its end; `result` is one word, `rule` ended it, and `why` is the rule's sentence."""

    steps: list[Step]
    result: str
    rule: Rule
    why: str
    end: Reached | NotReached

    @property
    def owners(self) -> tuple[str, ...]:
        """Whose memory the walk leads to; empty where nobody's, or where there is no translation."""
        return self.end.owners if isinstance(self.end, Reached) else ()

    @property
    def record(self) -> Word | None:
        """What the IOMMU tells software of a fault."""
        return self.end.record if isinstance(self.end, NotReached) else None

    def as_dicts(self) -> Iterator[dict[str, Any]]:
        """Yield each access as a record, then the end."""
        for number, step in enumerate(self.steps, start=1):
            yield step.as_dict(number)
        yield {"result": self.result, "rule": self.rule.id, "why": self.why} | self.end.as_dict()

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
        end = self.end
        if isinstance(end, Reached):
            yield f"translated to {end.address:#x}, {memory_text(end.owners)} [{self.rule.id}]"
            yield f"      the same holds for the {size_text(end.lg2)} around it: {end.rights}"
            return
        yield f"{end.how}: {self.why} [{self.rule.id}]"
        yield from end.lines()


def reached(machine: Machine, steps: list[Step], outcome: Translated, facts: dict[str, object]) -> Walk:
    """Return a walk that found a translation."""
    owners = tuple(machine.kernel.page_alloc.owners_of(outcome.address))
    end = Reached(outcome.address, outcome.lg2, rights_text(outcome.rights), owners)
    return Walk(steps, "translated", outcome.rule, outcome.rule.sentence(facts), end)


def step_of(touch: Touch, what: str, kind: type[Word], known: dict[str, object]) -> Step:
    """Return an access that reached a structure of some kind; `known` is what rules' sentences may name."""
    word = None if touch.value is None else kind(touch.value)
    why = touch.rule.sentence(known | {"stage": touch.stage, "level": touch.level})
    return Step(touch.address, what, word, touch.store, touch.rule.id, why)


def quiet_copy(hardware: H) -> H:
    """Return a copy of an IOMMU with its memory, of which nobody hears anything."""
    interface = hardware.interface
    return copy.deepcopy(hardware, {id(callback): None for callback in (interface.irq, interface.refused)})

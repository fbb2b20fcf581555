"""Doing steps in order, those with the key `during` inside the call of the step before them.

A call that takes a table entry away stands in a window after each step of the IOMMU's driver but the last. What is to
happen `during` "table" happens when the entry is cleared and, on real tables, not cached as configuration any more;
"iotlb" and "atc" are the invalidations of the IOMMU's and of the device's cache of translations.

Decided here: only what devices, instructions and the fault worker do fits into a window, since the call holds the locks
that other calls of the kernel wait for (`iommu_sva_lock`, the group's mutex).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pasidlab.errors import Errno, InputError
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.rules import Rule
from pasidlab.scenario.steps import AnyStep

NOT_REACHED = Rule(
    "during.not-reached",
    "the scenario",
    "the call before it does not stand in that window, or not after the step before",
    "the call of {do} did not stand after the step {window} of an IOMMU's driver: nothing happened",
    Errno.ENOENT,
)


def perform(machine: Machine, steps: Iterable[AnyStep]) -> Iterator[tuple[AnyStep, Outcome]]:
    """Do the steps on a machine; yield each with what it led to, in the order in which they are given."""
    for step, inside in _calls(steps):
        yield from _perform_call(machine, step, inside)


def check_windows(steps: Sequence[AnyStep]) -> None:
    """Raise InputError, its message naming the step, for one that cannot be inside a call."""
    for index, step in enumerate(steps):
        if step.during is None:
            continue
        place = f"step[{index}].during = {step.during!r}"
        if all(before.during is not None for before in steps[:index]):
            raise InputError(f"{place}: there is no step before it, in whose call it could happen")
        if not step.fits_window:
            raise InputError(f"{place}: {step.verb} waits until that call is over; leave it out")


def _calls(steps: Iterable[AnyStep]) -> Iterator[tuple[AnyStep, list[AnyStep]]]:
    """Yield each step with those that happen inside it."""
    call: tuple[AnyStep, list[AnyStep]] | None = None
    for step in steps:
        if call is not None and step.during is not None:
            call[1].append(step)
            continue
        if call is not None:
            yield call
        call = step, []
    if call is not None:
        yield call


def _perform_call(machine: Machine, step: AnyStep, inside: list[AnyStep]) -> Iterator[tuple[AnyStep, Outcome]]:
    if not inside:
        yield step, step.perform(machine)
        return
    waiting = _Waiting(machine, deque(inside))
    machine.kernel.at_window = waiting.at_window
    try:
        outcome = step.perform(machine)
    finally:
        machine.kernel.at_window = None
    yield step, outcome
    yield from waiting.done
    for left in waiting.steps:
        refusal = NOT_REACHED.refuse(do=step.verb, window=left.during)
        yield left, Outcome(refusal.result, rule=refusal.rule.id, why=refusal.why)


@dataclass(slots=True)
class _Waiting:
    """Steps that wait for the windows of a call, and those that have found theirs."""

    machine: Machine
    steps: deque[AnyStep]
    done: list[tuple[AnyStep, Outcome]] = field(default_factory=list)

    def at_window(self, window: str) -> None:
        """Do the next steps, as far as this is their window."""
        with self.machine.aside():
            while self.steps and self.steps[0].during == window:
                step = self.steps.popleft()
                self.done.append((step, step.perform(self.machine)))

"""What still names a number that is handed out, in words: why `no-early-reuse` is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.explore.action import Step
from pasidlab.explore.names import task_name
from pasidlab.explore.properties import lingers, new_bonds, others_of, still_named, taken_number
from pasidlab.explore.state import OnDevice, State

if TYPE_CHECKING:
    from pasidlab.explore.world import World


def remains(world: World, before: State, step: Step, after: State) -> str:
    """Say what of other processes names the number that a step handed out; empty when nothing does."""
    number = taken_number(before, step, after)
    bonds = new_bonds(before, step, after)
    said = list(dict.fromkeys(_all(world, before, step, number, bonds)))
    handed = number or bonds.bit_length() - 1
    return f"number {handed} is handed out while it is named by {', '.join(said)}" if said else ""


def _all(world: World, before: State, step: Step, number: int, bonds: int) -> Iterator[str]:
    """Yield what names a number, on the device of a new bond and, if it was taken from the global space, anywhere."""
    for index in others_of(before, step):
        process, name = before.processes[index], task_name(world, index)
        for device, on in enumerate(process.on):
            if device == step.action.device and lingers(on, bonds):
                yield from _on(on, bonds, name, world.devices[device].name)
            if number and still_named(on, number):
                yield from _on(on, 1 << number, name, world.devices[device].name)
        for task, one in enumerate(process.tasks):
            if number and one.alive and one.register == number:
                yield f"the register of {task_name(world, index, task)}"


def _on(on: OnDevice, numbers: int, process: str, device: str) -> Iterator[str]:
    held = (
        (1 << on.asked, f"a page request of {device} for {process}"),
        (on.iotlb, f"the IOTLB, for {process} on {device}"),
        (on.atc, f"the ATC of {device}, for {process}"),
    )
    return (text for mask, text in held if mask & numbers)

"""What is wrong with a state, in words: why a property of states is broken in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pasidlab.explore.names import task_name
from pasidlab.explore.properties import carries

if TYPE_CHECKING:
    from pasidlab.explore.state import OnDevice, ProcessState, State
    from pasidlab.explore.world import World


def amiss(world: World, broken: str, state: State) -> str:
    """Say what of a state breaks a property; empty for a property that this does not know."""
    tell = _TELLERS.get(broken)
    return "" if tell is None else "; ".join(tell(world, state))


def _shared(world: World, state: State) -> Iterator[str]:
    for device, spec in enumerate(world.devices):
        for number in range(1, world.numbers + 1):
            named = [
                task_name(world, index)
                for index, process in enumerate(state.processes)
                if process.on[device].entry >> number & 1
            ]
            if state.attached[device] >> number & 1:
                named.append("a kernel module's domain")
            if len(named) > 1:
                yield f"number {number} of {spec.name} names {' and '.join(named)}"


def _beside_table(world: World, state: State) -> Iterator[str]:
    for name, device, on in _everything(world, state):
        if world.machine.device[device].iommu is None:
            continue
        where = world.devices[device].name
        if on.bonds & ~on.entry:
            yield f"{name} has a bond on {where} at {_numbers(on.bonds & ~on.entry)}, where the table does not name it"
        if on.entry & ~on.bonds:
            yield f"the table of {where} names {name} at {_numbers(on.entry & ~on.bonds)}, where it has no bond"


def _unbound(world: World, state: State) -> Iterator[str]:
    for index, process in enumerate(state.processes):
        if process.alive and not process.bound and carries(process, world):
            name = task_name(world, index)
            yield f"{name} has {_carried(process)} for ENQCMD and ST64BV0, and no normal bind has succeeded in it"


def _carried(process: ProcessState) -> str:
    """Name the number of a process, or of the register of one of its tasks."""
    number = process.number or max(task.register for task in process.tasks)
    return f"number {number}" if number else "a number"


def _left(world: World, state: State) -> Iterator[str]:
    """Yield what nobody is left to give back."""
    if state.lost:
        yield f"the global space still holds {_numbers(state.lost)}, which nobody is left to give back"
    for index, process in enumerate(state.processes):
        if process.number:
            yield f"number {process.number} of {task_name(world, index)} is left"
    for name, device, on in _everything(world, state):
        where = world.devices[device].name
        for mask, what in ((on.entry, "the table"), (on.iotlb, "the IOTLB"), (on.atc, "the ATC")):
            if mask:
                yield f"{what} of {where} still names {name} at {_numbers(mask)}"


def _everything(world: World, state: State) -> Iterator[tuple[str, int, OnDevice]]:
    """Yield what each process has on each device, with their name and index."""
    for index, process in enumerate(state.processes):
        for device, on in enumerate(process.on):
            yield task_name(world, index), device, on


def _numbers(mask: int) -> str:
    return ", ".join(str(number) for number in range(mask.bit_length()) if mask >> number & 1)


_TELLERS: dict[str, Callable[[World, State], Iterator[str]]] = {
    "one-mm-per-number": _shared,
    "bond-in-table": _beside_table,
    "enqcmd-after-normal-bind": _unbound,
    "no-leak": _left,
}

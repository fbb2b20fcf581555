"""What must hold in every state or step of a world: the named properties, and those of a user's file.

A property is a function that says whether a state, or a step from one state to the next, breaks it. A step is judged
before its outcome is renamed by symmetry: process 1 of `before`, of the step and of `after` are the same one.

Decided here: `no-early-reuse` spares what names a number of another device for a process that still has its bond there:
under rfc, v2 and hybrid a number of one device may be given to another process for other devices, and is not reused.
What remains after the bond counts, whatever space the number was from. A device that carries no number serves nobody,
which `idle-device-serves` and its siblings do not hold against a scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pasidlab.explore.action import BINDS, NOBODY, WORKS, Result, Step, Verb
from pasidlab.explore.state import DRIVER, OnDevice, ProcessState, State
from pasidlab.explore.world import World
from pasidlab.rules import Rule

StateTest = Callable[[State, World], bool]
StepTest = Callable[[State, Step, State, World], bool]


@dataclass(frozen=True, slots=True)
class Property:
    """A property; `state` or `step` is the test, True meaning that it is broken.

    Attributes:
        rule: what must hold, in a sentence.
        source: where that comes from.
    """

    name: str
    rule: str
    source: str
    state: StateTest | None = None
    step: StepTest | None = None

    @property
    def kind(self) -> Literal["state", "step"]:
        """Whether states are judged or steps."""
        return "state" if self.state is not None else "step"


def _shared_number(state: State, world: World) -> bool:
    """Return whether two address spaces, or one and a kernel-managed domain, are entered under one number."""
    for device, attached in enumerate(state.attached):
        taken = attached
        for process in state.processes:
            if taken & process.on[device].entry:
                return True
            taken |= process.on[device].entry
    return False


def _foreign_work(before: State, step: Step, after: State, world: World) -> bool:
    """Return whether work was done in memory that is not the submitter's."""
    return step.action.verb in WORKS and _of_another(step)


def _foreign_page(before: State, step: Step, after: State, world: World) -> bool:
    """Return whether a page request was served in an address space whose work did not ask."""
    return step.action.verb is Verb.ANSWER and _of_another(step)


def _of_another(step: Step) -> bool:
    return step.owner not in (NOBODY, step.action.process + 1)


def _early_reuse(before: State, step: Step, after: State, world: World) -> bool:
    """Return whether a number was handed out that something of another process still names."""
    others = [before.processes[index] for index in others_of(before, step)]
    bonds = new_bonds(before, step, after)
    if bonds and any(lingers(process.on[step.action.device], bonds) for process in others):
        return True
    number = taken_number(before, step, after)
    return number > 0 and any(_names(process, number) for process in others)


def others_of(state: State, step: Step) -> Iterator[int]:
    """Yield the processes other than the one that binds: all of them when a kernel module takes a number."""
    binder = step.action.process if step.action.verb in BINDS else None
    return (index for index in range(len(state.processes)) if index != binder)


def new_bonds(before: State, step: Step, after: State) -> int:
    """Return the mask of the numbers at which a step made a bond."""
    verb, index, device, _ = step.action
    if verb not in BINDS or step.result is not Result.OK:
        return 0
    return after.processes[index].on[device].bonds & ~before.processes[index].on[device].bonds


def taken_number(before: State, step: Step, after: State) -> int:
    """Return the number that a step took from the global space, 0 for none."""
    verb, index, device, _ = step.action
    if step.result is not Result.OK:
        return 0
    if verb is Verb.ALLOC_GLOBAL:
        return after.module[device]
    old, new = before.processes[index], after.processes[index]
    return new.number if verb in BINDS and new.number != old.number and new.mode != DRIVER else 0


def lingers(on: OnDevice, numbers: int) -> bool:
    """Return whether cache lines or a page request of a process on a device name one of the numbers."""
    return bool((on.iotlb | on.atc | 1 << on.asked) & ~1 & numbers)


def still_named(on: OnDevice, number: int) -> bool:
    """Return whether they name a number at which the process has no bond there."""
    return lingers(on, 1 << number & ~on.bonds)


def _names(process: ProcessState, number: int) -> bool:
    """Return whether a register of a process names a number, or a device on which the process has no bond there."""
    if any(task.alive and task.register == number for task in process.tasks):
        return True
    return any(still_named(on, number) for on in process.on)


def _bond_beside_table(state: State, world: World) -> bool:
    """Return whether a bond has no entry at its number, or an entry no bond; within a call they may differ."""
    if state.in_window is not None:
        return False
    behind = [device for device, spec in enumerate(world.machine.device) if spec.iommu is not None]
    return any(process.on[device].entry != process.on[device].bonds for process in state.processes for device in behind)


def _enqcmd_unbound(state: State, world: World) -> bool:
    """Return whether ENQCMD or ST64BV0 has a number for a process that never had a normal bind."""
    return any(carries(process, world) for process in state.processes if process.alive and not process.bound)


def carries(process: ProcessState, world: World) -> bool:
    """Return whether ENQCMD or ST64BV0 has a number in a process."""
    first = bool(process.order) and world.options.rfc_enqcmd == "first"
    carried = first or (process.number > 0 and process.mode != DRIVER)
    return carried or any(task.alive and task.register for task in process.tasks)


def _leak(state: State, world: World) -> bool:
    """Return whether something is held when no process lives and no file is open."""
    everything = [on for process in state.processes for on in process.on]
    if state.in_window is not None or any(process.alive for process in state.processes):
        return False
    if any(on.closing or on.handles() for on in everything):
        return False
    numbers = state.lost or any(process.number for process in state.processes)
    return bool(numbers) or any(on.entry | on.iotlb | on.atc for on in everything)


def _idle_refuses(before: State, step: Step, after: State, world: World) -> bool:
    """Return whether a device refuses a bind though nothing at all is bound or attached on it."""
    return _refused(before, step, world) and _idle(before, step.action.device)


def _fresh_refused(before: State, step: Step, after: State, world: World) -> bool:
    """Return whether a process that has nothing is refused while a number of the device is held by nobody."""
    if not _refused(before, step, world) or not _is_fresh(before.processes[step.action.process]):
        return False
    held = _held_on(before, step.action.device)
    return any(not held >> number & 1 for number in _wanted(step, world))


def _given_back_refused(before: State, step: Step, after: State, world: World) -> bool:
    """Return whether a process that gave everything back is refused by an idle device."""
    process = before.processes[step.action.process]
    used = not any(on.bonds for on in process.on) and (process.bound or process.mode or process.number)
    return bool(used) and _refused(before, step, world) and _idle(before, step.action.device)


def _refused(before: State, step: Step, world: World) -> bool:
    """Return whether a bind failed by the scheme's decision: not for a missing call, a wrong argument or on request."""
    verb, _, device, number = step.action
    if verb not in BINDS or step.result in (Result.OK, Result.ENOSYS) or before.armed[device]:
        return False
    return 0 < (number if verb is Verb.BIND_DEVICE_PASID else 1) <= world.largest[device]


def _idle(state: State, device: int) -> bool:
    return not state.attached[device] and not any(process.on[device].bonds for process in state.processes)


def _is_fresh(process: ProcessState) -> bool:
    return not (process.bound or process.number or any(on.bonds for on in process.on))


def _held_on(state: State, device: int) -> int:
    """Return the mask of the numbers that are bound or attached on a device, or taken from the global space."""
    held = state.attached[device]
    for process in state.processes:
        held |= process.on[device].bonds
        held |= 1 << process.number if process.mode != DRIVER else 0
    for number in state.module:
        held |= 1 << number
    return held & ~1


def _wanted(step: Step, world: World) -> Iterator[int]:
    """Yield the numbers with which a refused bind could have been served."""
    verb, _, device, number = step.action
    yield from (number,) if verb is Verb.BIND_DEVICE_PASID else range(1, world.largest[device] + 1)


def _declared(
    name: str, broken: str, must: str, source: str, state: StateTest | None = None, step: StepTest | None = None
) -> Property:
    """Declare a property, and its rule for `pasidlab rules check.`."""
    Rule(f"check.{name}", "pasidlab check", broken, must, source=source)
    return Property(name, must, source, state, step)


_ALL = (
    _declared(
        "one-mm-per-number",
        "entries of two address spaces, or of one and a kernel-managed domain, under one number of a device",
        "a PASID on a device names one address space, or one kernel-managed domain",
        "thread 2.1 rows 9 and 10; xa_insert of group->pasid_array (drivers/iommu/iommu.c)",
        _shared_number,
    ),
    _declared(
        "isolation",
        "work that a device did elsewhere",
        "work is never done in memory that is not the submitter's: another process's, freed, or the kernel's",
        "docs/thread.md R11, R12, R15, R22",
        step=_foreign_work,
    ),
    _declared(
        "page-request-owner",
        "a page request that was served elsewhere",
        "a page request is served in the address space of the work that asked, or not at all",
        "docs/thread.md R25",
        step=_foreign_page,
    ),
    _declared(
        "no-early-reuse",
        "a bind or allocation that gets a number which something of another process still names",
        "a number is not handed out while a cache line, a page request or a register of another process names it",
        "docs/thread.md R22",
        step=_early_reuse,
    ),
    _declared(
        "bond-in-table",
        "a bond without an entry at its number, or an entry without a bond, outside a call",
        "the table has an entry of a process at the number of each of its bonds, and at no other",
        "docs/thread.md R20",
        _bond_beside_table,
    ),
    _declared(
        "enqcmd-after-normal-bind",
        "a number that ENQCMD or ST64BV0 would carry in a process without a normal bind so far",
        "ENQCMD and ST64BV0 have a number only for a process in which a normal bind has succeeded",
        "docs/thread.md R8, R9; mm_get_enqcmd_pasid (include/linux/iommu.h)",
        _enqcmd_unbound,
    ),
    _declared(
        "no-leak",
        "a number, table entry or cache line that outlives all processes and files",
        "when no process lives and no file is open, no number, table entry or cache line is left",
        "docs/thread.md R22, R27",
        _leak,
    ),
    _declared(
        "idle-device-serves",
        "a bind that such a device refuses",
        "a device on which nothing is bound or attached refuses no bind",
        "docs/thread.md R1, F1 and F2",
        step=_idle_refuses,
    ),
    _declared(
        "fresh-process-served",
        "a bind of such a process that is refused",
        "a process without any bond or number is not refused while a number that the device carries is held by nobody",
        "docs/thread.md N1",
        step=_fresh_refused,
    ),
    _declared(
        "given-back-is-fresh",
        "a bind of such a process that is refused",
        "a process that gave back all it had is not refused by a device on which nothing is bound or attached",
        "docs/thread.md R17, L3: the stickiness of v2",
        step=_given_back_refused,
    ),
)
PROPERTIES: dict[str, Property] = {one.name: one for one in _ALL}
"""The named properties."""
DEFAULT = tuple(PROPERTIES)[:7]
"""Those that every world has that does not name its own."""

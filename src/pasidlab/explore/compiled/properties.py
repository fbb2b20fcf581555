"""Compiled: the named properties of `explore.properties`, under the same names and meaning the same.

Each test returns true when its property is broken. The functions that the search calls answer for all properties at
once, as masks in the order of STATE_PROPERTIES and STEP_PROPERTIES.
"""

from __future__ import annotations

from pasidlab.explore.compiled.codes import (
    ALLOC_GLOBAL,
    ANSWER,
    BIND,
    BIND_DEVICE,
    BIND_DEVICE_PASID,
    COMPLETE,
    DMA,
    DRIVER,
    ENOSYS,
    NOBODY,
    NONE,
    OK,
    ZERO,
)
from pasidlab.explore.compiled.common import (
    between,
    bonds,
    devices,
    has,
    has_domain,
    held_global,
    processes,
    signed,
    slots,
)
from pasidlab.explore.compiled.layout import RESULT_BITS
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.explore.state import MAX_TASKS
from pasidlab.hw.batch.compiling import compiled, compiled_once, compiled_within

STATE_PROPERTIES = ("one-mm-per-number", "bond-in-table", "enqcmd-after-normal-bind", "no-leak")
STEP_PROPERTIES = (
    "isolation",
    "page-request-owner",
    "no-early-reuse",
    "idle-device-serves",
    "fresh-process-served",
    "given-back-is-fresh",
)
_SHARED, _BESIDE, _UNBOUND, _LEAK = (1 << place for place in range(4))
_WORK, _PAGE, _REUSE, _IDLE, _FRESH, _GIVEN_BACK = (1 << place for place in range(6))
_RESULT = (1 << RESULT_BITS) - 1


@compiled_within
def broken_in_state(world: WorldRecord, state: StateRecord, wanted: int) -> int:
    """Return which of the wanted properties of states are broken."""
    broken = 0
    if wanted & _SHARED and _shared_number(world, state):
        broken |= _SHARED
    if wanted & _BESIDE and _bond_beside_table(world, state):
        broken |= _BESIDE
    if wanted & _UNBOUND and _enqcmd_unbound(world, state):
        broken |= _UNBOUND
    if wanted & _LEAK and _leaks(world, state):
        broken |= _LEAK
    return broken


@compiled_within
def broken_by_step(
    world: WorldRecord,
    before: StateRecord,
    after: StateRecord,
    verb: int,
    p: int,
    device: int,
    arg: int,
    step: int,
    wanted: int,
) -> int:
    """Return which of the wanted properties of steps are broken; `step` is a step code."""
    owner, result = step >> RESULT_BITS, step & _RESULT
    if verb in (COMPLETE, DMA, ANSWER):
        of_another = owner not in (NOBODY, p + 1)
        return (_PAGE if verb == ANSWER else _WORK) & wanted if of_another else 0
    if verb not in (BIND, BIND_DEVICE, BIND_DEVICE_PASID, ALLOC_GLOBAL):
        return 0
    if result == OK:
        return wanted & _REUSE if wanted & _REUSE and _early_reuse(world, before, after, verb, p, device) else 0
    if not wanted & (_IDLE | _FRESH | _GIVEN_BACK) or verb == ALLOC_GLOBAL:
        return 0
    return wanted & _refusals(world, before, verb, p, device, arg, result)


# --- properties of states --------------------------------------------------------------------------------------------


@compiled_once
def _shared_number(world: WorldRecord, state: StateRecord) -> bool:
    """Whether two address spaces, or one and a kernel-managed domain, are entered under one number."""
    shared = 0
    for device in devices(world):
        taken = signed(state.attached[device])
        for p in processes(world):
            shared |= taken & state.process[p].entry[device]
            taken |= state.process[p].entry[device]
    return shared != 0


@compiled
def _in_window(world: WorldRecord, state: StateRecord) -> bool:
    found = 0
    for p in processes(world):
        found |= state.process[p].window[0]
    return found != 0


@compiled_once
def _bond_beside_table(world: WorldRecord, state: StateRecord) -> bool:
    """Whether a bond has no entry at its number, or an entry no bond; within a call they may differ."""
    if _in_window(world, state):
        return False
    differing = 0
    for device in devices(world):
        for p in processes(world):
            if world.has_iommu[device]:
                differing |= state.process[p].entry[device] ^ bonds(state.process[p], device)
    return differing != 0


@compiled_once
def _enqcmd_unbound(world: WorldRecord, state: StateRecord) -> bool:
    """Whether ENQCMD or ST64BV0 has a number for a process that never had a normal bind."""
    found = False
    for p in processes(world):
        process = state.process[p]
        if process.task_alive and not process.bound and _carries(world, process):
            found = True
    return found


@compiled_once
def _carries(world: WorldRecord, process: ProcessRecord) -> bool:
    first = process.order[0] != 0 and world.rfc_enqcmd != 0
    carried = process.number != 0 and process.mode != DRIVER
    return first or carried or _has_register(process, ZERO)


@compiled_once
def _has_register(process: ProcessRecord, number: int) -> bool:
    """Whether a register of a process names a number; 0 is any."""
    found = False
    for task in range(MAX_TASKS):
        register = process.register[task]
        if register and (number == 0 or number == register):
            found = True
    return found


@compiled_once
def _leaks(world: WorldRecord, state: StateRecord) -> bool:
    """Whether something is held when no process lives and no file is open."""
    open_or_alive, held = 0, 0
    for p in processes(world):
        process = state.process[p]
        open_or_alive |= process.task_alive
        held |= process.number
        for device in devices(world):
            open_or_alive |= process.closing[device] | bonds(process, device)
            held |= process.entry[device] | process.iotlb[device] | process.atc[device]
    return held != 0 and open_or_alive == 0 and not _in_window(world, state)


# --- properties of steps ---------------------------------------------------------------------------------------------


@compiled_once
def _early_reuse(world: WorldRecord, before: StateRecord, after: StateRecord, verb: int, p: int, device: int) -> bool:
    """Whether a number was handed out that something of another process still names."""
    if verb == ALLOC_GLOBAL:
        return _is_named(world, before, NONE, signed(after.module[device]))
    old, new = before.process[p], after.process[p]
    made = bonds(new, device) & ~bonds(old, device)
    for other in processes(world):
        if other != p and _named(before.process[other], device) & made:
            return True
    if new.number == old.number or new.mode == DRIVER:
        return False
    return _is_named(world, before, p, signed(new.number))


@compiled_once
def _named(process: ProcessRecord, device: int) -> int:
    """Return the mask of the numbers that cache lines and a page request of a process name."""
    return (process.iotlb[device] | process.atc[device] | 1 << process.asked[device]) & ~1


@compiled_once
def _is_named(world: WorldRecord, state: StateRecord, but: int, number: int) -> bool:
    """Whether a register of another process names a number, or a device on which that one has no bond there."""
    found = False
    for p in processes(world):
        process = state.process[p]
        if p != but and _has_register(process, number):
            found = True
        for device in devices(world):
            if p != but and has(_named(process, device) & ~bonds(process, device), number):
                found = True
    return found


@compiled_once
def _refusals(world: WorldRecord, before: StateRecord, verb: int, p: int, device: int, arg: int, result: int) -> int:
    """Return which properties a refused bind breaks, those not counted that the scheme did not decide."""
    asked = arg if verb == BIND_DEVICE_PASID else 1
    if result == ENOSYS or before.armed[device] or asked >= world.bound[device]:
        return 0
    process = before.process[p]
    idle = slots(world, before, device) == 0
    bound = has_domain(world, process)
    broken = 0
    if idle:
        broken |= _IDLE
    if idle and not bound and (process.bound or process.mode or process.number):
        broken |= _GIVEN_BACK
    if not bound and not process.bound and not process.number:
        wanted = 1 << arg if verb == BIND_DEVICE_PASID else between(1, world.bound[device] - 1)
        held = slots(world, before, device) | held_global(world, before)
        broken |= _FRESH if wanted & ~held else 0
    return broken

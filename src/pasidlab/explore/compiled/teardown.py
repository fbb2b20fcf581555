"""Compiled: the driver's steps of a teardown, the IOMMU driver's, exits, and the end of an address space.

Source: machine/binds.py, linux/task.py, linux/mm.py and drivers/mock_caches.py. A call that stands in a window has its
place in `window`: steps done, device counted from 1 or 0 for an exit, number.
"""

from __future__ import annotations

from pasidlab.explore.compiled.caches import forget_all, take_away
from pasidlab.explore.compiled.codes import DRAIN, LOCAL, NORMAL, OPENED, STOP, TABLE, ZERO
from pasidlab.explore.compiled.common import bonds, devices, has_domain, processes, signed, users
from pasidlab.explore.compiled.layout import STEPS
from pasidlab.explore.compiled.records import Bytes, ProcessRecord, StateRecord, WorldRecord
from pasidlab.explore.compiled.schemes import forget_bond, unmap_where_barred
from pasidlab.explore.compiled.work import answer
from pasidlab.explore.state import MAX_DEVICES
from pasidlab.hw.batch.compiling import compiled, compiled_once

# --- handles ---------------------------------------------------------------------------------------------------------


@compiled
def number_of(process: ProcessRecord, device: int, handle: int) -> int:
    """Return the number of a live handle."""
    if handle > LOCAL:
        return handle - LOCAL
    return process.opened[device] if handle == OPENED else process.normal[device]


@compiled
def only_handle(process: ProcessRecord, device: int, number: int) -> int:
    """Return the handle of a bond that has one user."""
    if process.opened[device] == number:
        return OPENED
    return NORMAL if process.normal[device] == number else LOCAL + number


@compiled_once
def drop_handle(process: ProcessRecord, device: int, handle: int) -> None:
    """Forget a handle."""
    if handle == OPENED:
        process.opened[device] = 0
    elif handle == NORMAL:
        process.normal[device] = 0
    else:
        process.local[device] &= ~(1 << (handle - LOCAL))


# --- the device's driver ---------------------------------------------------------------------------------------------


@compiled_once
def unbind(world: WorldRecord, state: StateRecord, p: int, device: int, handle: int) -> None:
    """Do the next step of the teardown of a handle; one that shares its bond only counts down."""
    process = state.process[p]
    number = signed(process.closing_number[device])
    if number == 0:
        number = number_of(process, device, handle)
        if users(process, device, number) > 1:
            _unmap_file(process, device, handle)
            drop_handle(process, device, handle)
            return
    step = world.driver_steps[process.phase[device]]
    if step == STOP:
        _unmap_file(process, device, handle)
        _stop(world, state, p, device, number)
        _end_step(world, process, device, handle, number)
    elif step == DRAIN:
        _drain(world, state, device, number)
        _end_step(world, process, device, handle, number)
    else:
        _unmap_file(process, device, handle)
        unmap_where_barred(world, process, device, number)
        _detach(world, state, p, device, number, ZERO)


@compiled
def _unmap_file(process: ProcessRecord, device: int, handle: int) -> None:
    """Take the portal away that was mapped through a file (`InFlight._unmap_file`)."""
    if handle == OPENED:
        process.portal[device] = 0


@compiled_once
def _stop(world: WorldRecord, state: StateRecord, p: int, device: int, number: int) -> None:
    """Drop the device's work under a number, and unmap the portal where the unbind will bar it."""
    for other in processes(world):
        if state.process[other].job[device] == number:
            state.process[other].job[device] = 0
    unmap_where_barred(world, state.process[p], device, number)


@compiled_once
def _drain(world: WorldRecord, state: StateRecord, device: int, number: int) -> None:
    """Answer the device's page requests in flight under a number."""
    for other in processes(world):
        if state.process[other].asked[device] == number:
            answer(world, state, other, device)


@compiled_once
def _end_step(world: WorldRecord, process: ProcessRecord, device: int, handle: int, number: int) -> None:
    """Count a step of the device's driver; the last one leaves nothing of the teardown."""
    done = process.phase[device] + 1
    last = done == _length(world.driver_steps)
    process.phase[device] = 0 if last else done
    process.closing[device] = 0 if last else handle
    process.closing_number[device] = 0 if last else number


@compiled_once
def _length(steps: Bytes) -> int:
    """Return how many steps an order has."""
    count = 0
    while count < STEPS and steps[count]:
        count += 1
    return count


# --- the IOMMU's driver ----------------------------------------------------------------------------------------------


@compiled_once
def _detach(world: WorldRecord, state: StateRecord, p: int, device: int, number: int, done: int) -> None:
    """Take an entry away from the step `done` on, up to the next window or the end (`iommu_detach_device_pasid`)."""
    process = state.process[p]
    if not world.caches[device]:
        take_away(world, state, device, number, TABLE)
        _release_bond(world, process, device, number)
        return
    last = _length(world.iommu_steps)
    while done < last:
        take_away(world, state, device, number, signed(world.iommu_steps[done]))
        done += 1
        if world.windows and done < last:
            _set_window(process, done, device + 1, number)
            return
    _set_window(process, ZERO, ZERO, ZERO)
    _release_bond(world, process, device, number)


@compiled_once
def _set_window(process: ProcessRecord, done: int, device: int, number: int) -> None:
    process.window[0] = done
    process.window[1] = device
    process.window[2] = number


@compiled_once
def _release_bond(world: WorldRecord, process: ProcessRecord, device: int, number: int) -> None:
    """Forget a bond that is detached; an address space that nobody lives in goes with its last one."""
    handle = signed(process.closing[device])
    if handle == 0:
        handle = only_handle(process, device, number)
    drop_handle(process, device, handle)
    forget_bond(world, process, device, number)
    _end_step(world, process, device, handle, number)
    mm_drop(world, process)


@compiled_once
def resume(world: WorldRecord, state: StateRecord, p: int) -> None:
    """Let the call that stands in a window go on."""
    process = state.process[p]
    window = process.window
    done, device, number = signed(window[0]), signed(window[1]), signed(window[2])
    if device == 0:
        _release_mm(world, process, done)
    else:
        _detach(world, state, p, device - 1, number, done)


# --- the end of a process --------------------------------------------------------------------------------------------


@compiled_once
def exit_task(world: WorldRecord, process: ProcessRecord, task: int) -> None:
    """End a task; with the last one the address space goes (`do_exit` up to `exit_mm`)."""
    process.task_alive &= ~(1 << task)
    process.task_activated &= ~(1 << task)
    process.register[task] = 0
    if process.task_alive:
        return
    for device in range(MAX_DEVICES):
        process.portal[device] = 0
    if _is_watched(world, process):
        _release_mm(world, process, ZERO)
    mm_drop(world, process)


@compiled_once
def _is_watched(world: WorldRecord, process: ProcessRecord) -> bool:
    """Whether an IOMMU with caches hears of the end of an address space, as it does where there is a domain of it."""
    found = 0
    for device in devices(world):
        if world.caches[device]:
            found |= bonds(process, device)
    return found != 0


@compiled_once
def _release_mm(world: WorldRecord, process: ProcessRecord, done: int) -> None:
    """End an address space in the same steps, from `done` on, up to the next window (`MockCaches.release`)."""
    last = _length(world.iommu_steps)
    while done < last:
        forget_all(process, signed(world.iommu_steps[done]))
        done += 1
        if world.windows and done < last:
            _set_window(process, done, ZERO, ZERO)
            return
    _set_window(process, ZERO, ZERO, ZERO)


@compiled_once
def mm_drop(world: WorldRecord, process: ProcessRecord) -> None:
    """Let the address space and its number go, if nobody lives in it and no bond keeps it (`__mmdrop`)."""
    if process.task_alive or has_domain(world, process):
        return
    process.number = 0
    process.mode = 0
    process.bound = 0
    for place in range(MAX_DEVICES):
        process.order[place] = 0

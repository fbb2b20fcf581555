"""Compiled: `action.actions`, the actions that a state offers, as codes and in the same order."""

from __future__ import annotations

from pasidlab.explore.compiled.codes import (
    ALLOC_GLOBAL,
    ANSWER,
    ASK,
    ATTACH,
    BIND,
    BIND_DEVICE,
    BIND_DEVICE_PASID,
    COMPLETE,
    DETACH,
    DMA,
    EXIT,
    FAIL_NEXT,
    FORGE,
    FREE_GLOBAL,
    LOCAL,
    MMAP_PORTAL,
    NONE,
    NORMAL,
    OPENED,
    RESUME,
    SUBMIT,
    UNBIND,
    ZERO,
)
from pasidlab.explore.compiled.common import bonds, devices, has, processes, signed
from pasidlab.explore.compiled.layout import action_code
from pasidlab.explore.compiled.records import Bytes, ProcessRecord, StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled, compiled_once


@compiled_once
def offer(world: WorldRecord, state: StateRecord, out: Bytes) -> int:
    """Fill `out` with the codes of what can happen next, and return how many there are."""
    count, in_window = ZERO, _in_window(world, state)
    for p in processes(world):
        process = state.process[p]
        for device in devices(world):
            if in_window == NONE:
                count = _calls(world, process, p, device, out, count)
            count = _work(world, process, p, device, out, count)
        if in_window == NONE and _allows(world, EXIT):
            count = _of_tasks(process, EXIT, p, ZERO, out, count)
    if in_window == NONE:
        return _of_kernel(world, state, out, count)
    return _put(out, count, RESUME, in_window, ZERO, ZERO)


@compiled
def _in_window(world: WorldRecord, state: StateRecord) -> int:
    """Return the process whose kernel call stands in a window, `NONE` if none does."""
    found = NONE
    for p in processes(world):
        if state.process[p].window[0]:
            found = p
    return found


@compiled
def _allows(world: WorldRecord, verb: int) -> bool:
    return world.verbs >> verb & 1 != 0


@compiled
def _put(out: Bytes, count: int, verb: int, p: int, device: int, arg: int) -> int:
    """Add an action, and return how many there are now."""
    out[count] = action_code(verb, p, device, arg)
    return count + 1


@compiled_once
def _calls(world: WorldRecord, process: ProcessRecord, p: int, device: int, out: Bytes, count: int) -> int:
    """Add the calls of one process about one device."""
    alive = process.task_alive != 0
    if alive and not process.closing[device]:
        count = _binds(world, process, p, device, out, count)
    if _allows(world, UNBIND):
        count = _unbinds(world, process, p, device, out, count)
    has_open = bonds(process, device) != 0 and not process.closing[device]
    if _allows(world, MMAP_PORTAL) and alive and has_open and world.portal[device] and not process.portal[device]:
        count = _put(out, count, MMAP_PORTAL, p, device, ZERO)
    return count


@compiled_once
def _binds(world: WorldRecord, process: ProcessRecord, p: int, device: int, out: Bytes, count: int) -> int:
    if _allows(world, BIND) and not process.opened[device]:
        count = _put(out, count, BIND, p, device, ZERO)
    if _allows(world, BIND_DEVICE) and not process.normal[device]:
        count = _put(out, count, BIND_DEVICE, p, device, ZERO)
    if _allows(world, BIND_DEVICE_PASID):
        count = _of_numbers(world, ~signed(process.local[device]), BIND_DEVICE_PASID, p, device, out, count)
    return count


@compiled_once
def _unbinds(world: WorldRecord, process: ProcessRecord, p: int, device: int, out: Bytes, count: int) -> int:
    """Add the handles that can be torn down: the one that is being so, else all."""
    if process.closing[device]:
        return _put(out, count, UNBIND, p, device, signed(process.closing[device]))
    if process.opened[device]:
        count = _put(out, count, UNBIND, p, device, OPENED)
    if process.normal[device]:
        count = _put(out, count, UNBIND, p, device, NORMAL)
    for number in range(1, world.numbers + 1):
        if has(process.local[device], number):
            count = _put(out, count, UNBIND, p, device, LOCAL + number)
    return count


@compiled_once
def _work(world: WorldRecord, process: ProcessRecord, p: int, device: int, out: Bytes, count: int) -> int:
    """Add what instructions and devices can do, also while a kernel call stands in a window."""
    job, asked = process.job[device], process.asked[device]
    if not job and not asked and _has_free_task(process):
        count = _submissions(world, process, p, device, out, count)
    if job and not asked:
        count = _put(out, count, COMPLETE, p, device, ZERO)
        if _allows(world, DMA):
            count = _put(out, count, DMA, p, device, ZERO)
        if _allows(world, ASK):
            count = _put(out, count, ASK, p, device, ZERO)
    if asked:
        count = _put(out, count, ANSWER, p, device, ZERO)
    return count


@compiled
def _has_free_task(process: ProcessRecord) -> bool:
    """Whether a task lives that is not inside the kernel call which stands in a window."""
    alive = process.task_alive
    if process.window[0]:
        return alive & (alive - 1) != 0
    return alive != 0


@compiled_once
def _submissions(world: WorldRecord, process: ProcessRecord, p: int, device: int, out: Bytes, count: int) -> int:
    portal = world.portal[device]
    if _allows(world, SUBMIT) and portal and process.portal[device]:
        count = _of_tasks(process, SUBMIT, p, device, out, count)
    if _allows(world, SUBMIT) and not portal:
        count = _of_numbers(world, _queues(process, device), SUBMIT, p, device, out, count)
    if _allows(world, FORGE) and process.portal[device]:
        count = _of_numbers(world, NONE, FORGE, p, device, out, count)
    return count


@compiled
def _queues(process: ProcessRecord, device: int) -> int:
    """Return the mask of the bonds whose queue takes work: not that of the one that is torn down."""
    queues = bonds(process, device) & ~(1 << process.closing_number[device])
    if process.window[1] == device + 1:
        queues &= ~(1 << process.window[2])
    return queues


@compiled_once
def _of_tasks(process: ProcessRecord, verb: int, p: int, device: int, out: Bytes, count: int) -> int:
    """Add an action for each living task."""
    task = 0
    while process.task_alive >> task:
        if has(process.task_alive, task):
            count = _put(out, count, verb, p, device, task)
        task += 1
    return count


@compiled_once
def _of_numbers(world: WorldRecord, mask: int, verb: int, p: int, device: int, out: Bytes, count: int) -> int:
    """Add an action for each number in a mask."""
    for number in range(1, world.numbers + 1):
        if has(mask, number):
            count = _put(out, count, verb, p, device, number)
    return count


@compiled_once
def _of_kernel(world: WorldRecord, state: StateRecord, out: Bytes, count: int) -> int:
    """Add what kernel modules do, and failures of the IOMMU driver."""
    for device in devices(world):
        module = state.module[device]
        if _allows(world, ALLOC_GLOBAL) and not module:
            count = _put(out, count, ALLOC_GLOBAL, ZERO, device, ZERO)
        if _allows(world, FREE_GLOBAL) and module:
            count = _put(out, count, FREE_GLOBAL, ZERO, device, ZERO)
        count = _of_domains(world, state, device, out, count)
        if _allows(world, FAIL_NEXT) and not state.armed[device]:
            count = _put(out, count, FAIL_NEXT, ZERO, device, ZERO)
    return count


@compiled_once
def _of_domains(world: WorldRecord, state: StateRecord, device: int, out: Bytes, count: int) -> int:
    """Add attaches and detaches, number by number."""
    for number in range(1, world.numbers + 1):
        attached = has(state.attached[device], number)
        if _allows(world, ATTACH) and not attached:
            count = _put(out, count, ATTACH, ZERO, device, number)
        if _allows(world, DETACH) and attached:
            count = _put(out, count, DETACH, ZERO, device, number)
    return count

"""Compiled: what an action does to a state; `offer` says which actions there are.

Each verb does what its namesake of `Machine` does, as `perform` drives it.
"""

from __future__ import annotations

from pasidlab.explore.compiled import kernel, schemes, teardown, work
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
    MMAP_PORTAL,
    OK,
    RESUME,
    SUBMIT,
    UNBIND,
)
from pasidlab.explore.compiled.common import driver_owns_pasids
from pasidlab.explore.compiled.records import StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled_within


@compiled_within
def apply(world: WorldRecord, state: StateRecord, verb: int, p: int, device: int, arg: int) -> int:
    """Do an action of process `p`, changing the state, and return its step code."""
    if verb in (BIND, BIND_DEVICE, BIND_DEVICE_PASID):
        return _bind(world, state, verb, p, device, arg)
    if verb in (COMPLETE, DMA, ASK, ANSWER):
        return _of_device(world, state, verb, p, device)
    if verb >= ALLOC_GLOBAL:
        return _of_kernel(world, state, verb, device, arg)
    return _of_process(world, state, verb, p, device, arg)


@compiled_within
def _of_process(world: WorldRecord, state: StateRecord, verb: int, p: int, device: int, arg: int) -> int:
    """Do what a process does, or a kernel call of it that stands in a window."""
    if verb == SUBMIT:
        return work.submit(world, state, p, device, arg)
    if verb == FORGE:
        return work.forge(world, state.process[p], device, arg)
    if verb == MMAP_PORTAL:
        return schemes.mmap_portal(world, state.process[p], device)
    if verb == UNBIND:
        teardown.unbind(world, state, p, device, arg)
    elif verb == EXIT:
        teardown.exit_task(world, state.process[p], arg)
    elif verb == RESUME:
        teardown.resume(world, state, p)
    return OK


@compiled_within
def _of_device(world: WorldRecord, state: StateRecord, verb: int, p: int, device: int) -> int:
    """Let a device go on with the work of process `p`."""
    if verb == COMPLETE:
        return work.complete(world, state, p, device)
    if verb == DMA:
        return work.dma(world, state, p, device)
    if verb == ANSWER:
        return work.answer(world, state, p, device)
    work.ask(state.process[p], device)
    return OK


@compiled_within
def _of_kernel(world: WorldRecord, state: StateRecord, verb: int, device: int, arg: int) -> int:
    """Do what kernel modules do."""
    if verb == ALLOC_GLOBAL:
        return kernel.alloc_global(world, state, device)
    if verb == ATTACH:
        return kernel.attach(world, state, device, arg)
    if verb == DETACH:
        kernel.detach(world, state, device, arg)
    elif verb == FREE_GLOBAL:
        state.module[device] = 0
    elif verb == FAIL_NEXT:
        state.armed[device] = 1
    return OK


@compiled_within
def _bind(world: WorldRecord, state: StateRecord, verb: int, p: int, device: int, asked: int) -> int:
    """Bind by one of the three calls, and keep its handle."""
    if verb == BIND_DEVICE_PASID:
        answer = schemes.iommu_sva_bind_device_pasid(world, state, p, device, asked)
    elif verb == BIND_DEVICE:
        answer = schemes.iommu_sva_bind_device(world, state, p, device)
    else:
        answer = schemes.open_device(world, state, p, device)
    if answer < 0:
        return -answer
    process = state.process[p]
    if verb == BIND_DEVICE_PASID:
        process.local[device] |= 1 << answer
        return OK
    if verb == BIND_DEVICE:
        process.normal[device] = answer
    else:
        process.opened[device] = answer
    if verb == BIND_DEVICE or not driver_owns_pasids(world, device):
        process.bound = 1
    return OK

"""Compiled: numbers and domains of kernel modules, and failures on request (machine/attachments.py, faults.py).

A device without PASIDs takes an attach that nothing is told of, as a group does whose members have none.
"""

from __future__ import annotations

from pasidlab.explore.compiled import common
from pasidlab.explore.compiled.caches import take_away
from pasidlab.explore.compiled.codes import EBUSY, EINVAL, ENODEV, ENOMEM, ENOSPC, OK, TABLE
from pasidlab.explore.compiled.common import has, held_global, signed, slots
from pasidlab.explore.compiled.layout import STEPS
from pasidlab.explore.compiled.records import StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def alloc_global(world: WorldRecord, state: StateRecord, device: int) -> int:
    """Take a number for a module (`iommu_alloc_global_pasid`)."""
    number = common.alloc_global(world, device, held_global(world, state))
    state.module[device] = number
    return OK if number else ENOSPC


@compiled_once
def attach(world: WorldRecord, state: StateRecord, device: int, number: int) -> int:
    """Attach a kernel-managed domain (`iommu_attach_device_pasid`)."""
    bound = world.bound[device]
    if not world.has_iommu[device]:
        return ENODEV
    if bound and number >= bound:
        return EINVAL
    if has(slots(world, state, device), number):
        return EBUSY
    if bound and state.armed[device]:
        state.armed[device] = 0
        return ENOMEM
    state.attached[device] |= 1 << number
    return OK


@compiled_once
def detach(world: WorldRecord, state: StateRecord, device: int, number: int) -> None:
    """Detach it; the lines of that number go as the IOMMU's order says."""
    state.attached[device] &= ~(1 << number)
    if not world.caches[device] or not world.bound[device]:
        return
    for place in range(STEPS):
        if world.iommu_steps[place] != TABLE:
            take_away(world, state, device, number, signed(world.iommu_steps[place]))

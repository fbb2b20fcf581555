"""Compiled: what the core asks of whichever scheme runs, and the calls of drivers that lead there.

Source: the entry points of linux/sva.py, `Endpoint.open` of devices, and `Scheme.may_map_portal`.
"""

from __future__ import annotations

from pasidlab.explore.compiled import hybrid, mainline, rfc, v2
from pasidlab.explore.compiled.codes import (
    CORE,
    EINVAL,
    ENODEV,
    ENOSPC,
    ENOSYS,
    EPERM,
    GUARD_DECLARED,
    GUARD_MMAP,
    GUARD_RANGE,
    HYBRID,
    OK,
    RFC,
    V2,
    ZERO,
)
from pasidlab.explore.compiled.common import between, bonds, driver_owns_pasids, lowest, processes, takes_driver_numbers
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def iommu_sva_bind_device(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Bind a process, the core picking the number."""
    if not world.has_iommu[device]:
        return -ENODEV
    if world.scheme == HYBRID:
        return hybrid.bind(world, state, p, device)
    if world.scheme == V2:
        return v2.bind(world, state, p, device, ZERO)
    if world.scheme == RFC:
        return rfc.bind(world, state, p, device)
    return mainline.bind(world, state, p, device)


@compiled_once
def iommu_sva_bind_device_pasid(world: WorldRecord, state: StateRecord, p: int, device: int, number: int) -> int:
    """Bind a process under a number of the driver's own."""
    if not takes_driver_numbers(world):
        return -ENOSYS
    if not world.has_iommu[device]:
        return -ENODEV
    if world.guard == GUARD_RANGE and number < world.local_first and world.portal[device]:
        return -EINVAL
    if world.scheme == HYBRID:
        return hybrid.bind_pasid(world, state, p, device, number)
    return v2.bind(world, state, p, device, number)


@compiled_once
def open_device(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Open the device, whose driver binds as the scheme lets it (`Endpoint.open`)."""
    if not driver_owns_pasids(world, device):
        return iommu_sva_bind_device(world, state, p, device)
    number = _free_number(world, state, device)
    return iommu_sva_bind_device_pasid(world, state, p, device, number) if number else -ENOSPC


@compiled_once
def _free_number(world: WorldRecord, state: StateRecord, device: int) -> int:
    """Return the lowest number that the device's driver has not given out, 0 for none (`Endpoint._free_number`)."""
    given = 0
    for p in processes(world):
        given |= 1 << state.process[p].opened[device]
    guarded = world.guard == GUARD_RANGE and world.portal[device] != 0
    first = world.local_first if guarded else 1
    return lowest(between(first, world.bound[device] - 1) & ~given)


@compiled_once
def mm_get_enqcmd_pasid(world: WorldRecord, process: ProcessRecord) -> int:
    """Return the number that ENQCMD and ST64BV0 shall carry, 0 for IOMMU_PASID_INVALID."""
    if world.scheme == HYBRID:
        return hybrid.mm_get_enqcmd_pasid(process)
    if world.scheme == V2:
        return v2.mm_get_enqcmd_pasid(process)
    if world.scheme == RFC:
        return rfc.mm_get_enqcmd_pasid(world, process)
    return mainline.mm_get_enqcmd_pasid(process)


@compiled_once
def forget_bond(world: WorldRecord, process: ProcessRecord, device: int, number: int) -> None:
    """Let the scheme forget a bond that is gone."""
    if world.scheme == HYBRID:
        hybrid.forget_bond(process, device, number)
    elif world.scheme == RFC:
        rfc.forget_bond(process, device)


# --- portals ---------------------------------------------------------------------------------------------------------


@compiled_once
def normal_bond(world: WorldRecord, process: ProcessRecord, device: int, gone: int) -> bool:
    """Whether a process has a bond that `iommu_sva_bind_device()` made, one at the number `gone` not counted."""
    if world.scheme == HYBRID:
        return process.marked[device] != 0 and process.number != gone
    if world.scheme == V2 and process.mode != CORE:
        return False
    return bonds(process, device) & ~(1 << gone) != 0


@compiled_once
def mmap_portal(world: WorldRecord, process: ProcessRecord, device: int) -> int:
    """Map the portal, if the guard lets it (`may_map_portal`)."""
    if world.guard == GUARD_MMAP and not normal_bond(world, process, device, ZERO):
        return EPERM
    if world.guard == GUARD_DECLARED and world.own[device]:
        return ENODEV
    process.portal[device] = 1
    return OK


@compiled_once
def unmap_where_barred(world: WorldRecord, process: ProcessRecord, device: int, gone: int) -> None:
    """Take the portal away from a process that may not map it any more once its bond at `gone` is gone."""
    if world.guard == GUARD_MMAP and not normal_bond(world, process, device, gone):
        process.portal[device] = 0

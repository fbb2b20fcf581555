"""Compiled: what all schemes share, as `schemes/base.py`, linux/sva.py and linux/iommu.py have it.

As in the kernel, a call that makes a bond returns its number, or a negative errno.

Decided here: which numbers of the global space are taken is not kept, since it follows from who holds them; nor are the
SVA domains of an address space, which it has while it has a bond.

Not modelled: what `supported` keeps away from the compiled search: quotas, IOMMU drivers that lack operations.
"""

from __future__ import annotations

import numpy as np

from pasidlab.explore.compiled.codes import (
    DRIVER,
    EBUSY,
    ENOMEM,
    GUARD_RANGE,
    HIGHEST,
    HYBRID,
    RESERVE_LOW,
    V2,
)
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled, compiled_once

# --- masks of numbers ------------------------------------------------------------------------------------------------


@compiled
def has(mask: int, number: int) -> bool:
    """Whether a number is in a mask."""
    return mask >> number & 1 != 0


@compiled
def lowest(mask: int) -> int:
    """Return the lowest number in a mask, 0 for none."""
    if mask == 0:
        return 0
    number = 0
    while not has(mask, number):
        number += 1
    return number


@compiled
def highest(mask: int) -> int:
    """Return the highest number in a mask, 0 for none."""
    number = 0
    while mask >> number > 1:
        number += 1
    return number


@compiled
def between(first: int, last: int) -> int:
    """Return the mask of the numbers from `first` to `last`; there are none if that is less."""
    return (2 << last) - (1 << first) if first <= last else 0


@compiled
def signed(value: int) -> int:
    """Return a value as a signed integer, since numba makes a float of an unsigned and a signed one."""
    return int(np.int64(value))


@compiled
def processes(world: WorldRecord) -> range:
    """Return the indexes of a world's processes."""
    return range(signed(world.processes))


@compiled
def devices(world: WorldRecord) -> range:
    """Return the indexes of a world's devices."""
    return range(signed(world.devices))


# --- who has what ----------------------------------------------------------------------------------------------------


@compiled
def bonds(process: ProcessRecord, device: int) -> int:
    """Return the mask of the numbers at which a process has a bond on a device."""
    return (process.local[device] | 1 << process.opened[device] | 1 << process.normal[device]) & ~1


@compiled
def users(process: ProcessRecord, device: int, number: int) -> int:
    """Return how many handles share a bond (`iommu_sva->users`)."""
    opened = 1 if process.opened[device] == number else 0
    normal = 1 if process.normal[device] == number else 0
    return opened + normal + (process.local[device] >> number & 1)


@compiled_once
def has_domain(world: WorldRecord, process: ProcessRecord) -> bool:
    """Whether an address space has an SVA domain (`!list_empty(&iommu_mm->sva_domains)`): while it has a bond."""
    found = 0
    for device in devices(world):
        found |= bonds(process, device)
    return found != 0


@compiled_once
def slots(world: WorldRecord, state: StateRecord, device: int) -> int:
    """Return the mask of the numbers that are taken in `group->pasid_array` of a device."""
    taken = signed(state.attached[device])
    for process in processes(world):
        taken |= bonds(state.process[process], device)
    return taken


@compiled_once
def held_global(world: WorldRecord, state: StateRecord) -> int:
    """Return the mask of the numbers of the global space that are taken (`iommu_global_pasid_ida`)."""
    held = 0
    for device in devices(world):
        held |= 1 << state.module[device]
    for process in processes(world):
        if state.process[process].mode != DRIVER:
            held |= 1 << state.process[process].number
    return held & ~1


@compiled
def takes_driver_numbers(world: WorldRecord) -> bool:
    """Whether the scheme has `iommu_sva_bind_device_pasid()`."""
    return world.scheme in (V2, HYBRID)


@compiled
def driver_owns_pasids(world: WorldRecord, device: int) -> bool:
    """Whether a device's driver picks its numbers under the scheme; under rfc its own space is the core's to give."""
    return world.own[device] != 0 and takes_driver_numbers(world)


# --- numbers and bonds -----------------------------------------------------------------------------------------------


@compiled_once
def alloc_global(world: WorldRecord, device: int, taken: int) -> int:
    """Return a number of the global space that is not in `taken`, in the order of the options; 0 when there is none."""
    last = world.bound[device] - 1
    if world.guard == GUARD_RANGE and takes_driver_numbers(world):
        last = min(last, world.local_first - 1)
    first = 1
    if world.order == RESERVE_LOW and last > world.reserve:
        first = world.reserve + 1
    free = between(first, last) & ~taken
    return highest(free) if world.order == HIGHEST else lowest(free)


@compiled_once
def iommu_sva_bind_pasid(world: WorldRecord, state: StateRecord, p: int, device: int, number: int) -> int:
    """Find or make the bond of process `p` at a number: the second half of every bind; the number fits the device."""
    process = state.process[p]
    if has(bonds(process, device), number):
        return number
    if has(slots(world, state, device), number):
        return -EBUSY
    if _set_dev_pasid_fails(state, device) and not has_domain(world, process):
        return -ENOMEM
    process.entry[device] |= 1 << number
    return number


@compiled_once
def _set_dev_pasid_fails(state: StateRecord, device: int) -> bool:
    """Whether the failure that was asked for comes now, once.

    An SVA domain that the address space has masks it: the bind tries that domain first, and then makes a new one.
    """
    fails = state.armed[device] != 0
    state.armed[device] = 0
    return fails

"""Compiled: `schemes/hybrid.py`, a global number for ENQCMD and its like beside numbers of drivers.

`marked` says of a device that the bond at the process's number is in `HybridMmData.normal`.
"""

from __future__ import annotations

from pasidlab.explore.compiled.codes import ENOSPC, EOVERFLOW
from pasidlab.explore.compiled.common import alloc_global, held_global, iommu_sva_bind_pasid, signed, slots
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def bind(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Bind at the mm's global number, taken lazily, and kept only when the bind succeeds."""
    process = state.process[p]
    number = _global_number(world, state, p, device)
    if number < 0:
        return number
    answer = iommu_sva_bind_pasid(world, state, p, device, number)
    if answer > 0:
        process.number = number
        process.marked[device] = 1
    return answer


@compiled_once
def _global_number(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Return the mm's number if it fits the device; else one that is free globally and on the device."""
    number = signed(state.process[p].number)
    if number:
        return number if number < world.bound[device] else -EOVERFLOW
    number = alloc_global(world, device, held_global(world, state) | slots(world, state, device))
    return number if number else -ENOSPC


@compiled_once
def bind_pasid(world: WorldRecord, state: StateRecord, p: int, device: int, number: int) -> int:
    """Bind at the driver's number: an existing pair matches, a new one needs its slot free."""
    if number >= world.bound[device]:
        return -EOVERFLOW
    return iommu_sva_bind_pasid(world, state, p, device, number)


@compiled_once
def forget_bond(process: ProcessRecord, device: int, number: int) -> None:
    """A pair ends with its bond, the global number stays with the mm."""
    if number == process.number:
        process.marked[device] = 0


@compiled_once
def mm_get_enqcmd_pasid(process: ProcessRecord) -> int:
    """Return the global number, which there is once a normal bind has succeeded."""
    return process.number

"""Compiled: `schemes/rfc.py`, numbers from the device's own space where the IOMMU keeps one.

`order` has the devices of `RfcMmData.local`: those on which the process has a bond at a number of the device's own.
"""

from __future__ import annotations

from pasidlab.explore.compiled import mainline
from pasidlab.explore.compiled.codes import ENOSPC
from pasidlab.explore.compiled.common import between, bonds, iommu_sva_bind_pasid, lowest, slots
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.explore.state import MAX_DEVICES
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def bind(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Bind at any free number of the device, or as mainline does."""
    if world.own[device]:
        return _bind_local(world, state, p, device)
    return mainline.bind(world, state, p, device)


@compiled_once
def _bind_local(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    process = state.process[p]
    number = lowest(bonds(process, device))
    if number == 0:
        number = _any_free(world, state, device)
    if number == 0:
        return -ENOSPC
    answer = iommu_sva_bind_pasid(world, state, p, device, number)
    if answer > 0:
        _remember(process, device)
    return answer


@compiled_once
def _any_free(world: WorldRecord, state: StateRecord, device: int) -> int:
    """Return the lowest number that is free on the device, 0 for none."""
    return lowest(between(1, world.bound[device] - 1) & ~slots(world, state, device))


@compiled_once
def _remember(process: ProcessRecord, device: int) -> None:
    """Put a device behind the others, unless it is among them."""
    place = 0
    while process.order[place] not in (0, device + 1):
        place += 1
    process.order[place] = device + 1


@compiled_once
def forget_bond(process: ProcessRecord, device: int) -> None:
    """Take a device out of the order, if it is there; its bond is gone."""
    kept = 0
    for place in range(MAX_DEVICES):
        one = process.order[place]
        process.order[place] = 0
        if one not in (0, device + 1):
            process.order[kept] = one
            kept += 1


@compiled_once
def mm_get_enqcmd_pasid(world: WorldRecord, process: ProcessRecord) -> int:
    """Return the global number; without one, by `rfc_enqcmd`, that of the oldest local bond."""
    if process.number or not world.rfc_enqcmd or not process.order[0]:
        return process.number
    return lowest(bonds(process, process.order[0] - 1))

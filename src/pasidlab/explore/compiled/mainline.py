"""Compiled: `schemes/mainline.py`, today's Linux.

The number is taken at the first bind and kept before that bind can fail.
"""

from __future__ import annotations

from pasidlab.explore.compiled.codes import ENOSPC, EOVERFLOW
from pasidlab.explore.compiled.common import alloc_global, held_global, iommu_sva_bind_pasid, signed
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def bind(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Take or keep the mm's number, then bind at it."""
    process = state.process[p]
    if process.number == 0:
        process.number = alloc_global(world, device, held_global(world, state))
        if process.number == 0:
            return -ENOSPC
    elif process.number >= world.bound[device]:
        return -EOVERFLOW
    return iommu_sva_bind_pasid(world, state, p, device, signed(process.number))


@compiled_once
def mm_get_enqcmd_pasid(process: ProcessRecord) -> int:
    """Return the mm's number, 0 for IOMMU_PASID_INVALID."""
    return process.number

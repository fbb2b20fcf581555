"""Compiled: `schemes/v2.py`, the patch of 2026-05-20; the rows are those of its decision table.

`asked` is the driver's number, 0 when the core picks it.
"""

from __future__ import annotations

from pasidlab.explore.compiled.codes import CORE, DRIVER, EBUSY, ENOSPC, EOVERFLOW
from pasidlab.explore.compiled.common import alloc_global, has_domain, held_global, iommu_sva_bind_pasid, signed
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.hw.batch.compiling import compiled, compiled_once


@compiled_once
def bind(world: WorldRecord, state: StateRecord, p: int, device: int, asked: int) -> int:
    """Bind in core mode, or in driver mode."""
    process = state.process[p]
    if process.mode == 0:
        return _first_bind(world, state, p, device, asked)
    refusal = _mode_refused(process, asked)
    if refusal == 0:
        refusal = _number_refused(world, process, device, asked)
    if refusal:
        return refusal
    return iommu_sva_bind_pasid(world, state, p, device, signed(process.number))


@compiled_once
def _first_bind(world: WorldRecord, state: StateRecord, p: int, device: int, asked: int) -> int:
    """Row 7, and publication only after success: a failed first bind leaves nothing."""
    number = asked
    if asked == 0:
        number = alloc_global(world, device, held_global(world, state))
        if number == 0:
            return -ENOSPC
    elif asked >= world.bound[device]:
        return -EOVERFLOW
    answer = iommu_sva_bind_pasid(world, state, p, device, number)
    if answer > 0:
        state.process[p].number = number
        state.process[p].mode = DRIVER if asked else CORE
    return answer


@compiled
def _mode_refused(process: ProcessRecord, asked: int) -> int:
    """Row 3."""
    return 0 if (process.mode == CORE) == (asked == 0) else -EBUSY


@compiled_once
def _number_refused(world: WorldRecord, process: ProcessRecord, device: int, asked: int) -> int:
    """Rows 4 to 6; the overwrite of row 4 stays whatever comes after it."""
    if asked and not has_domain(world, process):
        process.number = asked
    if asked and asked != process.number:
        return -ENOSPC
    return 0 if process.number < world.bound[device] else -EOVERFLOW


@compiled_once
def mm_get_enqcmd_pasid(process: ProcessRecord) -> int:
    """Return the number in core mode only."""
    return process.number if process.mode == CORE else 0

"""Compiled: what is read ahead of the translations of a block; see `batch.ahead`."""

from __future__ import annotations

from pasidlab.hw.batch.ahead import follow, is_large, pointer_at
from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.requests import Requests
from pasidlab.hw.batch.store import Store, part
from pasidlab.hw.vtd.batch_config import CONTEXT, FIRST_STAGE, PASID
from pasidlab.hw.vtd.batch_records import Unit
from pasidlab.hw.vtd.batch_walk import level_shift
from pasidlab.hw.vtd.lookup import DIRECTORY_BYTES, PASID_BYTES
from pasidlab.hw.vtd.structures import PASID_TABLE_BITS

_FSPTPTR = 8 * PASID.fsptptr.word


@compiled
def reads_ahead(memory: Store, unit: Unit) -> bool:
    """Whether it pays: the memory is large, and what was translated last went through the first stage alone."""
    return is_large(memory) and unit.kind == FIRST_STAGE


@compiled
def read_ahead(memory: Store, unit: Unit, requests: Requests, first: int, behind: int) -> None:
    """Read the PASID entries and the paging entries that a block of requests needs if they are like the last one."""
    directory = part(unit.context[0], CONTEXT.pasiddirptr)
    for index in range(first, behind):
        place = directory + (max(requests.pasid[index], 0) >> PASID_TABLE_BITS) * DIRECTORY_BYTES
        table = pointer_at(memory, unit, place)
        place = table + (requests.pasid[index] & (1 << PASID_TABLE_BITS) - 1) * PASID_BYTES
        unit.ahead[index - first] = pointer_at(memory, unit, place + _FSPTPTR)
    for level in range(unit.first.levels, 0, -1):
        follow(memory, unit, requests, first, behind, level_shift(level + 1), level_shift(level))

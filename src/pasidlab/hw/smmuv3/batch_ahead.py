"""Compiled: what is read ahead of the translations of a block; see `batch.ahead`."""

from __future__ import annotations

from pasidlab.hw.batch.ahead import follow, is_large, pointer_at
from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.requests import Requests
from pasidlab.hw.batch.store import Store
from pasidlab.hw.smmuv3 import batch_tables as tables
from pasidlab.hw.smmuv3.batch_config import CD, STE, cd_table_split
from pasidlab.hw.smmuv3.batch_records import ENTRY_WORDS, Smmu, field
from pasidlab.hw.smmuv3.tables import CD_BYTES, L1_BYTES

_TTB0, _TTB1 = 8 * (CD.ttb0.word - ENTRY_WORDS), 8 * (CD.ttb1.word - ENTRY_WORDS)


@compiled
def reads_ahead(memory: Store, smmu: Smmu) -> bool:
    """Whether it pays: the memory is large, and what was translated last went through stage 1 alone."""
    return is_large(memory) and smmu.stage1.number == 1 and smmu.stage2.number == 0


@compiled
def read_ahead(memory: Store, smmu: Smmu, requests: Requests, first: int, behind: int) -> None:
    """Read the CDs and the entries that a block of transactions needs if they are like the last one."""
    stage = smmu.stage1
    for index in range(first, behind):
        smmu.ahead[index - first] = _table_of(memory, smmu, max(requests.pasid[index], 0), requests.address[index])
    reach = stage.bits
    for level in range(stage.start, tables.LEVELS):
        shift = smmu.told.levels[stage.shape, level, tables.SHIFT]
        follow(memory, smmu, requests, first, behind, reach, shift)
        reach = shift


@compiled
def _table_of(memory: Store, smmu: Smmu, ssid: int, address: int) -> int:
    """Return what looks like the base of the first table."""
    split = cd_table_split(smmu)
    at = field(smmu, STE.s1contextptr)
    if split:
        at = pointer_at(memory, smmu, at + (ssid >> split) * L1_BYTES)
        ssid &= (1 << split) - 1
    return pointer_at(memory, smmu, at + ssid * CD_BYTES + (_TTB1 if address >> 55 & 1 else _TTB0))

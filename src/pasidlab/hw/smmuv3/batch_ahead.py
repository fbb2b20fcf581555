"""Compiled: reading ahead, so that memory answers several transactions at a time where it is larger than the caches.

A translation is too long for a processor to begin the loads of the next one meanwhile. So a block of transactions is
gone through twice: first by `read_ahead`, which is short and only follows pointers, as if every transaction were like
the last one that was translated, and then by the translation itself, which finds what it reads in the caches of the
processor that runs it. A wrong guess costs time and nothing else: what is read here is thrown away.
"""

from __future__ import annotations

from pasidlab.hw.smmuv3 import batch_tables as tables
from pasidlab.hw.smmuv3.batch_config import CD, STE, cd_table_split
from pasidlab.hw.smmuv3.batch_records import ENTRY_WORDS, Requests, Smmu, Store, compiled, field, word_index
from pasidlab.hw.smmuv3.tables import CD_BYTES, L1_BYTES
from pasidlab.memory import PAGE_SIZE

CACHED_WORDS = 1 << 22
"""Memories of up to so many words, 32 MiB, are taken to stay in the caches."""
_TTB0, _TTB1 = 8 * (CD.ttb0.word - ENTRY_WORDS), 8 * (CD.ttb1.word - ENTRY_WORDS)
_POINTER = (1 << 48) - PAGE_SIZE


@compiled
def reads_ahead(memory: Store, smmu: Smmu) -> bool:
    """Whether it pays: the memory is large, and what was translated last went through stage 1 alone."""
    return memory.words.size > CACHED_WORDS and smmu.stage1.number == 1 and smmu.stage2.number == 0


@compiled
def read_ahead(memory: Store, smmu: Smmu, requests: Requests, first: int, behind: int) -> None:
    """Read the CDs and the entries that a block of transactions needs if they are like the last one.

    All of them take each step together, so that their loads do not wait for each other.
    """
    stage = smmu.stage1
    for index in range(first, behind):
        smmu.ahead[index - first] = _table_of(memory, smmu, max(requests.ssid[index], 0), requests.address[index])
    for level in range(stage.start, tables.LEVELS):
        shift = smmu.told.levels[stage.shape, level, tables.SHIFT]
        reach = (
            1 << (smmu.told.levels[stage.shape, level - 1, tables.SHIFT] if level > stage.start else stage.bits)
        ) - 1
        for index in range(first, behind):
            place = smmu.ahead[index - first] + ((requests.address[index] & reach) >> shift << 3)
            smmu.ahead[index - first] = _pointer_at(memory, smmu, place)


@compiled
def _table_of(memory: Store, smmu: Smmu, ssid: int, address: int) -> int:
    """Return what looks like the base of the first table."""
    split = cd_table_split(smmu)
    at = field(smmu, STE.s1contextptr)
    if split:
        at = _pointer_at(memory, smmu, at + (ssid >> split) * L1_BYTES)
        ssid &= (1 << split) - 1
    return _pointer_at(memory, smmu, at + ssid * CD_BYTES + (_TTB1 if address >> 55 & 1 else _TTB0))


@compiled
def _pointer_at(memory: Store, smmu: Smmu, address: int) -> int:
    """Return what looks like an address in the word at anything that looks like one."""
    word: int = memory.words[word_index(memory, address & (1 << smmu.memory_bits) - 1)]
    return word & _POINTER

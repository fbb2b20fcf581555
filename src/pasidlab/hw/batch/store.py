"""Compiled: physical memory, as the translations of a batch read it.

What hardware would write back to a table is noted in a journal that the rest of the same translation reads, and then
forgotten, so that a translation ends as it does with hardware updates although memory stays as it is. Such a store
cannot abort: the same word has just been read.

Source: `memory`; the layouts are ours.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.numbers import Place, Words
from pasidlab.memory import PAGE_SHIFT, PAGE_SIZE, Memory

BLOCK_LG2 = 12
BLOCK = 1 << BLOCK_LG2
"""Entries of a block of the directory, of which each of the two lower levels has its own."""
_WORDS_LG2 = PAGE_SHIFT - 3
_PAGE_OFFSET = PAGE_SIZE - 1
_BLOCK_OFFSET = BLOCK - 1


class Store(NamedTuple):
    """Physical memory as compiled code sees it.

    Attributes:
        words: all rows of the memory, one after the other; row 0 is zeros.
        directory: three levels from a page number to a row; each entry is where the next block begins, the last a row.
        poison: start and end of each poisoned range, one after the other.
    """

    words: Words
    directory: npt.NDArray[np.int32]
    poison: Words


class Reader(Protocol):
    """What the record of an IOMMU has for reading memory.

    Attributes:
        memory_bits: how many address bits memory has.
        stores, journal: how many stores there were in this translation; address and value of each, oldest first.
    """

    memory_bits: int
    stores: int
    journal: Words


class Directory:
    """Rows of a memory by page number, as `Store.directory`; pages that were touched since are added by `update`.

    Block 0 is all zeros and stands for everything untouched; the top level follows it.
    """

    __slots__ = ("_end", "_known", "entries")

    def __init__(self, bits: int) -> None:
        self._known = 0
        self._end = BLOCK + (1 << max(bits - PAGE_SHIFT - 2 * BLOCK_LG2, 0))
        self.entries = np.zeros(self._end, np.int32)

    def update(self, rows: dict[int, int]) -> None:
        """Add the pages that are new in a dictionary that only grows."""
        if len(rows) == self._known:
            return
        pages = np.fromiter(islice(rows, self._known, None), np.int64)
        numbers = np.fromiter(islice(rows.values(), self._known, None), np.int64)
        blocks = self._below(BLOCK + (pages >> 2 * BLOCK_LG2))
        blocks = self._below(blocks + (pages >> BLOCK_LG2 & BLOCK - 1))
        self.entries[blocks + (pages & BLOCK - 1)] = numbers
        self._known = len(rows)

    def _below(self, places: Words) -> npt.NDArray[np.int32]:
        """Return the block that each entry leads to, making those that are not there."""
        missing = np.unique(places[self.entries[places] == 0])
        begin, self._end = self._end, self._end + missing.size * BLOCK
        if self._end > self.entries.size:
            grown = np.zeros(max(2 * self.entries.size, self._end), np.int32)
            grown[:begin] = self.entries[:begin]
            self.entries = grown
        self.entries[missing] = np.arange(begin, self._end, BLOCK)
        return self.entries[places]


_LARGEST = (1 << 63) - 1


def store_of(memory: Memory, directory: Directory) -> Store:
    """Return a memory as it is now, whose pages `directory` remembers."""
    rows, words = memory.page_table()
    directory.update(rows)
    ends = [(min(bad.start, _LARGEST), min(bad.stop, _LARGEST)) for bad in memory.poisoned]
    return Store(words.reshape(-1).view(np.int64), directory.entries, np.array(ends, np.int64).reshape(-1))


# --- accesses --------------------------------------------------------------------------------------------------------


@compiled
def aborts(memory: Store, reader: Reader, address: int, size: int) -> bool:
    """Whether an access is answered with an external abort."""
    if address >> reader.memory_bits:
        return True
    for index in range(0, memory.poison.size, 2):
        if address < memory.poison[index + 1] and memory.poison[index] < address + size:
            return True
    return False


@compiled
def word_index(memory: Store, address: int) -> int:
    """Return where in `words` an address that does not abort lies."""
    page = address >> PAGE_SHIFT
    block = memory.directory[BLOCK + (page >> 2 * BLOCK_LG2)]
    block = memory.directory[block + (page >> BLOCK_LG2 & _BLOCK_OFFSET)]
    row: Any = np.int64(memory.directory[block + (page & _BLOCK_OFFSET)])
    index: int = row << _WORDS_LG2 | (address & _PAGE_OFFSET) >> 3
    return index


@compiled
def load64(memory: Store, reader: Reader, address: int) -> int:
    """Return the word at an address that does not abort."""
    value = memory.words[word_index(memory, address)]
    return newest(reader, address, value) if reader.stores else value


@compiled
def newest(reader: Reader, address: int, value: int) -> int:
    """Return what this translation stored to an address, else `value`."""
    for index in range(reader.stores):
        if reader.journal[index, 0] == address:
            value = reader.journal[index, 1]
    return value


@compiled
def store64(reader: Reader, address: int, value: int) -> None:
    """Note a store, for this translation only."""
    reader.journal[reader.stores, 0] = address
    reader.journal[reader.stores, 1] = value
    reader.stores += 1


@compiled
def part(word: int, place: Place) -> int:
    """Return a field of the word it lies in."""
    return (word >> place[1] & place[2]) << place[3]

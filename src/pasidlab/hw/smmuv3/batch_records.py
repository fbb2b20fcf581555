"""Compiled: what the parts of a batch hand to each other, and access to memory.

What hardware would write back to a table is noted in a journal that the rest of the same translation reads, and then
forgotten, so that a translation ends as it does with hardware updates although memory stays as it is. Such a store
cannot abort: the same word has just been read.

Source: `memory`; the layouts are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from pasidlab.hw.smmuv3.batch_tables import Place, Tables, Words
from pasidlab.memory import PAGE_SHIFT, PAGE_SIZE, Memory

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"_nrt": False}
"""No reference counts: Python holds every array until a batch is done, and counting takes longer than translating."""


def compiled(function: F) -> F:
    """Compile a function into those that call it."""
    return cast(F, numba.njit(forceinline=True, **_OPTIONS)(function))


def compiled_once(function: F) -> F:
    """Compile a function on its own, where it would be too long to be repeated."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def compiled_entry(function: F) -> F:
    """Compile a function that Python calls, and keep it on disk."""
    return cast(F, numba.njit(cache=True, nogil=True, **_OPTIONS)(function))


# --- records ---------------------------------------------------------------------------------------------------------


def record_of(layout: type) -> np.dtype[np.void]:
    """Return the layout of an object of integers, which compiled code uses in place of it."""
    return np.dtype([(name, np.int64) for name in layout.__annotations__])


class Stage:
    """One stage of translation, made ready for a walk.

    Attributes:
        number: 1 or 2; 0 is a stage that does not translate.
        refusal: the rule for which there is no walk at all, or 0.
        table: the first table.
        start: its level.
        bits: how many address bits the stage translates.
        shape: row of `Tables.levels`.
        mode: which rights its leaves grant.
        limits: the bits of a table entry that take rights away.
        accessible: no access flag faults.
        ha, hd: hardware updates.
        ptw: a table of the other stage in device memory faults.
    """

    number: int
    refusal: int
    table: int
    start: int
    bits: int
    shape: int
    mode: int
    limits: int
    accessible: int
    ha: int
    hd: int
    ptw: int


class Requests(NamedTuple):
    """What is asked: an `ssid` of -1 is a transaction without; `access` has the bits that `batch_walk` names."""

    sid: Words
    ssid: Words
    address: Words
    access: Words


class Setup:
    """Registers as they are when a batch begins, and features; names are those of `Interface` and `Features`.

    `strtab_base` is aligned as the size of the table demands, `log2size` is at most what StreamIDs have; `fmt` is 1
    where the stream table has two levels, and `split` one of the values that mean something.
    """

    smmuen: int
    gbpa_abort: int
    recinvsid: int
    e2h: int
    strtab_base: int
    log2size: int
    fmt: int
    split: int
    ssid_bits: int
    two_level_cds: int
    stage1: int
    stage2: int
    stall_model: int
    term_model: int
    oas_bits: int
    ats: int
    httu: int
    asid16: int
    vmid16: int
    hyp: int
    attr_perms_ovr: int


class Smmu:
    """What the translations of a batch need beside memory; all but `setup`, `told` and `memory_bits` is one's own.

    Attributes:
        memory_bits: how many address bits memory has.
        setup, told: registers, features and tables.
        entries: the words of the STE and of the CD.
        stage1, stage2: the stages that they select.
        stores, journal: how many stores there were; address and value of each, oldest first.
        ahead: how far each of a block of transactions was read ahead; see `batch_ahead`.
    """

    memory_bits: int
    setup: Setup
    told: Tables
    entries: Words
    stage1: Stage
    stage2: Stage
    stores: int
    journal: Words
    ahead: Words


AHEAD = 64
"""Transactions of a block."""
JOURNAL = 32
"""More stores than one translation can make: stage 1 makes one, and stage 2 one for each of at most 8 walks."""
ENTRY_WORDS = 4
"""Words of an STE or a CD that matter here, which are the first ones."""
_STAGE = record_of(Stage)


def smmu_record(told: Tables) -> npt.NDArray[np.void]:
    """Return an Smmu, alone in its array, with its tables filled in."""
    tables_record = np.dtype([(name, np.int64, table.shape) for name, table in told._asdict().items()])
    layouts: dict[str, Any] = {
        "setup": record_of(Setup),
        "told": tables_record,
        "entries": (np.int64, 2 * ENTRY_WORDS),
        "stage1": _STAGE,
        "stage2": _STAGE,
        "journal": (np.int64, (JOURNAL, 2)),
        "ahead": (np.int64, AHEAD),
    }
    smmu = np.zeros(1, [(name, layouts.get(name, np.int64)) for name in Smmu.__annotations__])
    for name, table in told._asdict().items():
        smmu["told"][name][0] = table
    return smmu


# --- memory ----------------------------------------------------------------------------------------------------------

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


def poison_of(memory: Memory) -> Words:
    """Return the poisoned ranges, as `Store.poison`."""
    ends = [(min(bad.start, _LARGEST), min(bad.stop, _LARGEST)) for bad in memory.poisoned]
    return np.array(ends, np.int64).reshape(-1)


# --- accesses --------------------------------------------------------------------------------------------------------


@compiled
def aborts(memory: Store, smmu: Smmu, address: int, size: int) -> bool:
    """Whether an access is answered with an external abort."""
    if address >> smmu.memory_bits:
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
def load64(memory: Store, smmu: Smmu, address: int) -> int:
    """Return the word at an address that does not abort."""
    value = memory.words[word_index(memory, address)]
    return newest(smmu, address, value) if smmu.stores else value


@compiled
def newest(smmu: Smmu, address: int, value: int) -> int:
    """Return what this translation stored to an address, else `value`."""
    for index in range(smmu.stores):
        if smmu.journal[index, 0] == address:
            value = smmu.journal[index, 1]
    return value


@compiled
def store64(smmu: Smmu, address: int, value: int) -> None:
    """Note a store, for this translation only."""
    smmu.journal[smmu.stores, 0] = address
    smmu.journal[smmu.stores, 1] = value
    smmu.stores += 1


@compiled
def field(smmu: Smmu, place: Place) -> int:
    """Return a field of the STE or the CD."""
    return part(smmu.entries[place[0]], place)


@compiled
def part(word: int, place: Place) -> int:
    """Return a field of the word it lies in."""
    return (word >> place[1] & place[2]) << place[3]

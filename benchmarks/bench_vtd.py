"""Translations by the VT-d model: one after the other, and in compiled batches beside a bare loop of the same loads.

The bare loop reads root entry, context entry, PASID directory entry, PASID entry and four paging entries; see `walks`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row
from benchmarks.walks import ADDRESS_BITS, LEVELS, START, Numbers, Walks, batch_rows, first_row, single_row
from pasidlab.hw.transaction import Translated
from pasidlab.hw.vtd.batch import Batch, BatchTranslator
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.registers import REGISTERS, Gcmd, Offset, Rtaddr
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.structures import (
    PASID_TABLE_BITS,
    PasidDirectoryEntry,
    PasidEntry,
    Pgtt,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.hw.vtd.unit import CACHE_ENTRIES, RemappingUnit
from pasidlab.memory import PAGE_SIZE
from pasidlab.words import Word

PASID_COUNTS = (1, 32, 1_024, 65_536, 1 << 20)

SOURCE = 0x0208
BUS, DEVICE = SOURCE >> 8, SOURCE & 0x7F
CONTEXTS = START + PAGE_SIZE
DIRECTORY = CONTEXTS + PAGE_SIZE
PASIDS = DIRECTORY + (8 << 20 - PASID_TABLE_BITS)
PASID_BYTES = 64


def rows() -> Iterator[Row]:
    rigs = [Rig(count) for count in PASID_COUNTS]
    for rig in rigs:
        rig.check()
    gc.collect()
    yield from _single_rows(rigs[0])
    yield _first_row(rigs[PASID_COUNTS.index(1_024)])
    yield from batch_rows(rigs)


def _single_rows(rig: Rig) -> Iterator[Row]:
    request = Request(SOURCE, 0, int(rig.pages[0]))
    for name, entries in (("all caches off", 0), ("IOTLB hit", CACHE_ENTRIES)):
        unit = rig.unit(entries)
        yield single_row(name, lambda: unit.translate(request), None)  # noqa: B023


def _first_row(rig: Rig) -> Row:
    """Time the first translation of each PASID by a new unit, which has seen none of the PASID entries before."""
    requests = [Request(SOURCE, pasid, int(page)) for pasid, page in enumerate(rig.pages)]

    def fresh() -> Callable[[], object]:
        translate = rig.unit(0).translate
        return lambda: [translate(request) for request in requests]

    return first_row("a PASID entry never seen before", len(requests), fresh)


# --- one machine -------------------------------------------------------------------------------------------------


class Rig(Walks):
    """A remapping unit with one device, whose PASIDs each map one page."""

    NUMBERS = "PASIDs"
    TABLE, PAGE = 0x27, 0x67

    def __init__(self, pasids: int) -> None:
        self.tables = max(pasids >> PASID_TABLE_BITS, 1)
        super().__init__(pasids, PASIDS - START + self.tables * PAGE_SIZE)
        self._batches = BatchTranslator(self.unit(0).translator)

    def store_configuration(self) -> None:
        """Store root table, context table, PASID directory and PASID tables."""
        self.memory.store(START + BUS * 16, ScalableRootEntry(lp=True, lctp=CONTEXTS).pack())
        context = ScalableContextEntry(p=True, paside=True, pdts=7, pasiddirptr=DIRECTORY)
        self.memory.store(CONTEXTS + DEVICE * 32, context.pack())
        first = int(PasidDirectoryEntry(p=True, smptblptr=PASIDS))
        directory = first + np.arange(self.tables, dtype=np.uint64) * PAGE_SIZE
        self.memory.store(DIRECTORY, directory.tobytes())
        entry = PasidEntry(p=True, pgtt=Pgtt.FIRST_STAGE, did=1, sre=True)
        entries = np.tile(np.array(entry.words, np.uint64), (self.count, 1))
        entries[:, 2] |= self.trees_of(np.arange(self.count))
        self.memory.store(PASIDS, entries.tobytes())

    def unit(self, cache_entries: int) -> RemappingUnit:
        """Return a unit that translates."""
        unit = RemappingUnit(self.memory, Features(), cache_entries=cache_entries)
        writes: tuple[tuple[Offset, Word], ...] = (
            (Offset.RTADDR, Rtaddr(ttm=1, rta=START)),
            (Offset.GCMD, Gcmd(srtp=True)),
            (Offset.GCMD, Gcmd(te=True)),
        )
        for offset, value in writes:
            unit.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)
        return unit

    def single(self, number: int, address: int) -> int | None:
        """Translate one request."""
        outcome = self.unit(0).translate(Request(SOURCE, number, address))
        return outcome.address if isinstance(outcome, Translated) else None

    def batch(self) -> Batch:
        """Translate all requests."""
        return self._batches.translate(SOURCE, self.asked, self.asked_addresses)

    def bare(self) -> Numbers:
        """Follow the pointers of all requests."""
        output = np.empty_like(self.asked_addresses)
        _bare_walks(self.words, self.asked, self.asked_addresses, output)
        return output


def _compiled(function: Callable[..., None]) -> Any:
    return numba.njit(function)


@_compiled
def _bare_walks(words: Numbers, pasids: npt.NDArray[np.int64], addresses: Numbers, output: Numbers) -> None:
    for number in range(pasids.size):
        pasid, address = pasids[number], np.int64(addresses[number])
        at = np.int64(words[BUS * 2]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + DEVICE * 4]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + (pasid >> PASID_TABLE_BITS)]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + (pasid & (1 << PASID_TABLE_BITS) - 1) * 8 + 2]) & ADDRESS_BITS
        for level in range(LEVELS):
            at = np.int64(words[(at - START >> 3) + (address >> 39 - 9 * level & 511)]) & ADDRESS_BITS
        output[number] = at | address & PAGE_SIZE - 1

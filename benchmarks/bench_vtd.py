"""Translations by the VT-d model: one after the other, and in compiled batches beside a bare loop of the same loads.

The bare loop reads root entry, context entry, PASID directory entry, PASID entry and four paging entries; see `walks`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row
from benchmarks.walks import ADDRESS_BITS, LEVELS, START, Numbers, Walks, compiled, walk_rows
from pasidlab.hw.vtd.batch import BatchTranslator
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
from pasidlab.hw.vtd.unit import RemappingUnit
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
    return walk_rows([Rig(count) for count in PASID_COUNTS], None)


# --- one machine -------------------------------------------------------------------------------------------------


class Rig(Walks):
    """A remapping unit with one device, whose PASIDs each map one page."""

    NUMBERS, ENTRY, HIT = "PASIDs", "PASID entry", "IOTLB hit"
    REQUESTER = SOURCE
    TABLE, PAGE = 0x27, 0x67

    def __init__(self, pasids: int) -> None:
        self.tables = max(pasids >> PASID_TABLE_BITS, 1)
        super().__init__(pasids, PASIDS - START + self.tables * PAGE_SIZE)

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

    def iommu(self, cache_entries: int) -> RemappingUnit:
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

    def request(self, number: int, address: int) -> Request:
        """Return a request of the device."""
        return Request(self.REQUESTER, number, address)

    def batches(self) -> BatchTranslator:
        """Return a new translator of batches."""
        return BatchTranslator(self.iommu(0).translator)

    def follow(self, output: Numbers) -> None:
        """Follow the pointers of all requests, compiled."""
        _bare_walks(self.words, self.asked, self.asked_addresses, output)


@compiled
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

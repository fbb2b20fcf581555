"""Translations by the SMMUv3 model: one after the other, and in compiled batches beside a bare loop of the same loads.

The bare loop reads STE, level 1 CD descriptor, CD and four entries; see `walks`.
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
from pasidlab.hw.smmuv3.batch import Batch, BatchTranslator
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0, Offset, StrtabBase, StrtabBaseCfg
from pasidlab.hw.smmuv3.request import Request
from pasidlab.hw.smmuv3.smmu import CACHE_ENTRIES, Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, S1Fmt, Ste
from pasidlab.hw.transaction import Translated
from pasidlab.memory import PAGE_SIZE
from pasidlab.words import Word

SSID_COUNTS = (1, 32, 1_024, 65_536)
MAX_SINGLE = ("<=", 25.0)

SID = 5
LEAF_LG2 = 10
"""SubstreamID bits of a CD table leaf of 64 KiB."""
LEAF_BYTES = 64 << LEAF_LG2
LEVEL_1_CDS = START + 4 * PAGE_SIZE
CDS = START + 16 * PAGE_SIZE


def rows() -> Iterator[Row]:
    rigs = [Rig(count) for count in SSID_COUNTS]
    for rig in rigs:
        rig.check()
    gc.collect()
    yield from _single_rows(rigs[0])
    yield _first_row(rigs[SSID_COUNTS.index(1_024)])
    yield from batch_rows(rigs)


def _single_rows(rig: Rig) -> Iterator[Row]:
    request = Request(SID, 0, int(rig.pages[0]))
    for name, entries, target in (("all caches off", 0, MAX_SINGLE), ("TLB hit", CACHE_ENTRIES, None)):
        smmu = rig.smmu(entries)
        yield single_row(name, lambda: smmu.translate(request), target)  # noqa: B023


def _first_row(rig: Rig) -> Row:
    """Time the first translation of each SubstreamID by a new SMMU, which has seen none of the CDs before."""
    requests = [Request(SID, ssid, int(page)) for ssid, page in enumerate(rig.pages)]

    def fresh() -> Callable[[], object]:
        translate = rig.smmu(0).translate
        return lambda: [translate(request) for request in requests]

    return first_row("a CD never seen before", len(requests), fresh)


# --- one machine -------------------------------------------------------------------------------------------------


class Rig(Walks):
    """An SMMU with one stream, whose SubstreamIDs each map one page."""

    NUMBERS = "SSIDs"
    TABLE, PAGE = 0x3, 0x3 | 1 << 6 | 1 << 10 | 1 << 11

    def __init__(self, ssids: int) -> None:
        self.leaves = max(ssids >> LEAF_LG2, 1)
        super().__init__(ssids, CDS - START + self.leaves * LEAF_BYTES)
        self._batches = BatchTranslator(self.smmu(0))

    def store_configuration(self) -> None:
        """Store stream table and CD table."""
        ste = Ste(v=True, config=Config.STAGE_1, s1fmt=S1Fmt.LEAF_64K, s1contextptr=LEVEL_1_CDS, s1cdmax=20)
        self.memory.store(START + SID * 64, ste.pack())
        level_1 = b"".join(L1Cd(v=True, l2ptr=CDS + leaf * LEAF_BYTES).pack() for leaf in range(self.leaves))
        self.memory.store(LEVEL_1_CDS, level_1)
        cd = Cd(v=True, aa64=True, a=True, r=True, t0sz=16, epd1=True, ips=5)
        cds = np.tile(np.array(cd.words, np.uint64), (self.count, 1))
        cds[:, 1] |= self.trees_of(np.arange(self.count))
        self.memory.store(CDS, cds.tobytes())

    def smmu(self, cache_entries: int) -> Smmuv3:
        """Return an SMMU that is switched on."""
        smmu = Smmuv3(self.memory, Features(), cache_entries=cache_entries)
        registers: dict[Offset, Word] = {
            Offset.STRTAB_BASE: StrtabBase(addr=START),
            Offset.STRTAB_BASE_CFG: StrtabBaseCfg(log2size=6),
            Offset.CR0: Cr0(smmuen=True),
        }
        for offset, value in registers.items():
            smmu.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)
        return smmu

    def single(self, number: int, address: int) -> int | None:
        """Translate one transaction."""
        outcome = self.smmu(0).translate(Request(SID, number, address))
        return outcome.address if isinstance(outcome, Translated) else None

    def batch(self) -> Batch:
        """Translate all requests."""
        return self._batches.translate(SID, self.asked, self.asked_addresses)

    def bare(self) -> Numbers:
        """Follow the pointers of all requests."""
        output = np.empty_like(self.asked_addresses)
        _bare_walks(self.words, self.asked, self.asked_addresses, output)
        return output


def _compiled(function: Callable[..., None]) -> Any:
    return numba.njit(function)


@_compiled
def _bare_walks(words: Numbers, ssids: npt.NDArray[np.int64], addresses: Numbers, output: Numbers) -> None:
    for number in range(ssids.size):
        ssid, address = ssids[number], np.int64(addresses[number])
        at = np.int64(words[SID * 8]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + (ssid >> LEAF_LG2)]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + (ssid & (1 << LEAF_LG2) - 1) * 8 + 1]) & ADDRESS_BITS
        for level in range(LEVELS):
            at = np.int64(words[(at - START >> 3) + (address >> 39 - 9 * level & 511)]) & ADDRESS_BITS
        output[number] = at | address & PAGE_SIZE - 1

"""Translations by the SMMUv3 model: one after the other, and in compiled batches beside a bare loop of the same loads.

Every SubstreamID has a CD and four levels of page tables of its own, 16 KiB each, which map one page at a random
address; so with 65,536 of them the tables fill 1 GiB. Requests take SubstreamIDs in random order. The bare loop does
what depends on memory and nothing else: STE, level 1 CD descriptor, CD, four entries, each address taken from the last
load; it knows that the tables lie in one piece, where the model has to look every page up. Batches, as a caller calls
them, and bare loops take turns; ratios are medians over rounds. Compiling is done before anything is timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row, cpu_seconds
from pasidlab.hw.smmuv3.batch import Batch, BatchTranslator, Status
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0, Offset, StrtabBase, StrtabBaseCfg
from pasidlab.hw.smmuv3.request import Request
from pasidlab.hw.smmuv3.smmu import CACHE_ENTRIES, Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, S1Fmt, Ste
from pasidlab.hw.transaction import Translated
from pasidlab.memory import PAGE_SIZE, Memory
from pasidlab.words import Word

SSID_COUNTS = (1, 32, 1_024, 65_536)
REQUESTS = 1 << 18
SINGLES = 2_000
ROUNDS = 9
MAX_SINGLE = ("<=", 25.0)
MAX_BATCH = ("<=", 200.0)
MAX_RATIO = ("<=", 3.0)

Numbers = npt.NDArray[np.uint64]
SID = 5
LEVELS = 4
LEAF_LG2 = 10
"""SubstreamID bits of a CD table leaf of 64 KiB."""
LEAF_BYTES = 64 << LEAF_LG2
STREAM_TABLE = 0x8000_0000
LEVEL_1_CDS = STREAM_TABLE + 4 * PAGE_SIZE
CDS = STREAM_TABLE + 16 * PAGE_SIZE
TABLE, PAGE = 0x3, 0x3 | 1 << 6 | 1 << 10 | 1 << 11
"""A table entry; a page for all, accessed, not global."""
ADDRESS_BITS = 0xFFFF_FFFF_F000
CHUNK = 1_024


def rows() -> Iterator[Row]:
    rigs = [Rig(count) for count in SSID_COUNTS]
    for rig in rigs:
        rig.check()
    gc.collect()
    yield from _single_rows(rigs[0])
    yield _first_row(rigs[SSID_COUNTS.index(1_024)])
    times = [[(cpu_seconds(rig.batch), cpu_seconds(rig.bare)) for rig in rigs] for _ in range(ROUNDS)]
    for index, rig in enumerate(rigs):
        title = f"batch, {rig.ssids:,} SSIDs"
        limited = rig.ssids <= 1_024
        nanoseconds = median(turn[index][0] for turn in times) / REQUESTS * 1e9
        yield Row(f"{title}, one translation", nanoseconds, "ns", MAX_BATCH if limited else None)
        yield Row(f"{title}, one bare walk", median(turn[index][1] for turn in times) / REQUESTS * 1e9, "ns")
        ratio = median(turn[index][0] / turn[index][1] for turn in times)
        tables = f"{rig.memory.touched_pages * PAGE_SIZE / 2**20:,.1f} MiB"
        yield Row(f"{title}, {tables} / bare loads", ratio, "x", None if limited else MAX_RATIO)
    growth = median(turn[-1][0] / turn[0][0] for turn in times)
    yield Row(f"batch, growth from 1 to {SSID_COUNTS[-1]:,} SSIDs", growth, "x")


def _single_rows(rig: Rig) -> Iterator[Row]:
    for name, entries, target in (("all caches off", 0, MAX_SINGLE), ("TLB hit", CACHE_ENTRIES, None)):
        smmu = rig.smmu(entries)
        request = Request(SID, 0, int(rig.pages[0]))
        seconds = [cpu_seconds(lambda: _translate_singly(smmu, request)) for _ in range(ROUNDS)]  # noqa: B023
        yield Row(f"single translate, 4 levels, {name}", median(seconds) / SINGLES * 1e6, "us", target)


def _first_row(rig: Rig) -> Row:
    """Time the first translation of each SubstreamID by a new SMMU, which has seen none of the CDs before."""
    requests = [Request(SID, ssid, int(page)) for ssid, page in enumerate(rig.pages)]
    seconds = []
    for _ in range(ROUNDS):
        translate = rig.smmu(0).translate
        seconds.append(cpu_seconds(lambda: [translate(request) for request in requests]))  # noqa: B023
    return Row("single translate, 4 levels, a CD never seen before", median(seconds) / len(requests) * 1e6, "us")


def _translate_singly(smmu: Smmuv3, request: Request) -> None:
    translate = smmu.translate
    for _ in range(SINGLES):
        translate(request)


# --- one machine -------------------------------------------------------------------------------------------------


class Rig:
    """An SMMU with one stream, whose SubstreamIDs each map one page."""

    def __init__(self, ssids: int) -> None:
        random = np.random.default_rng(ssids)
        self.ssids = ssids
        self.memory = Memory()
        self.pages: Numbers = random.integers(0, 1 << 36, ssids, np.uint64) << np.uint64(12)
        asked = random.integers(0, ssids, REQUESTS)
        self.asked_ssids = asked
        self.asked_addresses: Numbers = self.pages[asked] | random.integers(0, PAGE_SIZE, REQUESTS, np.uint64)
        self._store_configuration()
        for first in range(0, ssids, CHUNK):
            self._store_tables(first, self.pages[first : first + CHUNK])
        self._batches = BatchTranslator(self.smmu(0))
        self._words = self._all_in_one_piece()

    def _tables_of(self, ssid: int) -> int:
        """Return the first of a SubstreamID's tables, which lie behind the CDs, one level after the other."""
        leaves = max(self.ssids >> LEAF_LG2, 1)
        return CDS + leaves * LEAF_BYTES + ssid * LEVELS * PAGE_SIZE

    def _store_configuration(self) -> None:
        leaves = max(self.ssids >> LEAF_LG2, 1)
        ste = Ste(v=True, config=Config.STAGE_1, s1fmt=S1Fmt.LEAF_64K, s1contextptr=LEVEL_1_CDS, s1cdmax=20)
        stes = bytes(SID * 64) + ste.pack()
        level_1 = b"".join(L1Cd(v=True, l2ptr=CDS + leaf * LEAF_BYTES).pack() for leaf in range(leaves))
        both = stes.ljust(LEVEL_1_CDS - STREAM_TABLE, b"\0") + level_1
        self.memory.store(STREAM_TABLE, both.ljust(CDS - STREAM_TABLE, b"\0"))
        cd = Cd(v=True, aa64=True, a=True, r=True, t0sz=16, epd1=True, ips=5)
        cds = np.zeros((leaves << LEAF_LG2, 8), np.uint64)
        cds[: self.ssids] = np.array(cd.words, np.uint64)
        bases = self._tables_of(0) + np.arange(self.ssids, dtype=np.uint64) * (LEVELS * PAGE_SIZE)
        cds[: self.ssids, 1] |= bases
        self.memory.store(CDS, cds.tobytes())

    def _store_tables(self, first: int, pages: Numbers) -> None:
        """Store the tables of neighbouring SubstreamIDs, from the page that each maps."""
        tables = np.zeros((len(pages), LEVELS, PAGE_SIZE // 8), np.uint64)
        which = np.arange(len(pages), dtype=np.uint64)
        base = self._tables_of(first)
        for level in range(LEVELS):
            index = pages >> np.uint64(39 - 9 * level) & np.uint64(511)
            below = base + (which * LEVELS + level + 1) * PAGE_SIZE
            entry = (
                below | np.uint64(TABLE) if level < LEVELS - 1 else pages & np.uint64((1 << 44) - 1) | np.uint64(PAGE)
            )
            tables[which, level, index] = entry
        self.memory.store(base, tables.tobytes())

    def smmu(self, cache_entries: int) -> Smmuv3:
        """Return an SMMU that is switched on."""
        smmu = Smmuv3(self.memory, Features(), cache_entries=cache_entries)
        registers: dict[Offset, Word] = {
            Offset.STRTAB_BASE: StrtabBase(addr=STREAM_TABLE),
            Offset.STRTAB_BASE_CFG: StrtabBaseCfg(log2size=6),
            Offset.CR0: Cr0(smmuen=True),
        }
        for offset, value in registers.items():
            smmu.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)
        return smmu

    def batch(self) -> Batch:
        """Translate all requests."""
        return self._batches.translate(SID, self.asked_ssids, self.asked_addresses)

    def bare(self) -> Numbers:
        """Follow the pointers of all requests."""
        output = np.empty(REQUESTS, np.uint64)
        _bare_walks(self._words, self.asked_ssids, self.asked_addresses, output)
        return output

    def check(self) -> None:
        """Raise unless batches, bare walks and single translations agree; both are compiled then."""
        batch, output = self.batch(), self.bare()
        single = self.smmu(0).translate(Request(SID, int(self.asked_ssids[0]), int(self.asked_addresses[0])))
        agree = isinstance(single, Translated) and single.address == output[0] and (batch.address == output).all()
        if not agree or (batch.status != Status.TRANSLATED).any():
            raise ValueError("batch, bare loop and single translation differ, so their times say nothing")

    def _all_in_one_piece(self) -> Numbers:
        """Return the words of memory, the first being that at STREAM_TABLE."""
        rows, words = self.memory.page_table()
        first = STREAM_TABLE // PAGE_SIZE
        if list(rows.values()) != [page - first + 1 for page in rows]:
            raise ValueError("the tables do not lie in one piece, as the bare loop takes for granted")
        return words[1:].reshape(-1)


def _compiled(function: Callable[..., None]) -> Any:
    return numba.njit(function)


@_compiled
def _bare_walks(words: Numbers, ssids: npt.NDArray[np.int64], addresses: Numbers, output: Numbers) -> None:
    for number in range(ssids.size):
        ssid, address = ssids[number], np.int64(addresses[number])
        at = np.int64(words[SID * 8]) & ADDRESS_BITS
        at = np.int64(words[(at - STREAM_TABLE >> 3) + (ssid >> LEAF_LG2)]) & ADDRESS_BITS
        at = np.int64(words[(at - STREAM_TABLE >> 3) + (ssid & (1 << LEAF_LG2) - 1) * 8 + 1]) & ADDRESS_BITS
        for level in range(LEVELS):
            at = np.int64(words[(at - STREAM_TABLE >> 3) + (address >> 39 - 9 * level & 511)]) & ADDRESS_BITS
        output[number] = at | address & PAGE_SIZE - 1

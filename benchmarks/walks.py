"""What benchmarks of compiled batches have in common: machines full of page tables, and how their batches are timed.

Every number has four levels of page tables, 16 KiB each, which map one page at a random address; so with 65,536 of
them the tables fill 1 GiB. Beyond that, numbers share them. Requests take numbers in random order. The bare loop does
what depends on memory and nothing else, each address taken from the last load; it knows that the tables lie in one
piece, where the model has to look every page up. Batches, as a caller calls them, and bare loops take turns; ratios are
medians over rounds. Compiling is done before anything is timed.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row, cpu_seconds
from pasidlab.hw.transaction import Translated
from pasidlab.memory import PAGE_SIZE, Memory

REQUESTS = 1 << 18
SINGLES = 2_000
ROUNDS = 9
MAX_BATCH = ("<=", 200.0)
MAX_RATIO = ("<=", 3.0)
LIMITED = 1_024
"""Up to so many numbers the time of a translation is limited, beyond them its ratio to the bare loop."""
MOST_TREES = 65_536
CACHE_ENTRIES = 4_096
"""Capacity of each cache where caches are on."""

Numbers = npt.NDArray[np.uint64]
START = 0x8000_0000
"""Where all tables begin."""
LEVELS = 4
ADDRESS_BITS = 0xFFFF_FFFF_F000
_CHUNK = 1_024


class Walks(ABC):
    """An IOMMU with one device, whose numbers each map one page.

    Attributes:
        NUMBERS, ENTRY, HIT: what they, the entry that each has, and the cache of translations are called.
        REQUESTER: the device.
        TABLE, PAGE: a table entry, and one of a page for all, without their addresses.
        pages: the page that each number maps.
        asked, asked_addresses: the requests.
    """

    NUMBERS: str
    ENTRY: str
    HIT: str
    REQUESTER: int
    TABLE: int
    PAGE: int

    def __init__(self, count: int, configuration_bytes: int) -> None:
        random = np.random.default_rng(count)
        self.count, self.trees = count, min(count, MOST_TREES)
        self.first_tree = START + configuration_bytes
        self.memory = Memory()
        pages: Numbers = random.integers(0, 1 << 35, self.trees, np.uint64) << np.uint64(12)
        self.pages = pages[np.arange(count) % self.trees]
        self.asked = random.integers(0, count, REQUESTS)
        self.asked_addresses: Numbers = self.pages[self.asked] | random.integers(0, PAGE_SIZE, REQUESTS, np.uint64)
        for filler in (b"\xff", b"\0"):  # a page that is only cleared gets no row, and these lie one behind the other
            self.memory.store(START, filler * configuration_bytes)
        self.store_configuration()
        for first in range(0, self.trees, _CHUNK):
            self._store_trees(first, pages[first : first + _CHUNK])
        self.words = self._all_in_one_piece()
        self._batches = self.batches()

    @abstractmethod
    def store_configuration(self) -> None:
        """Store everything above the page tables."""

    @abstractmethod
    def iommu(self, cache_entries: int) -> Any:
        """Return an IOMMU that translates."""

    @abstractmethod
    def request(self, number: int, address: int) -> Any:
        """Return a request of the device."""

    @abstractmethod
    def batches(self) -> Any:
        """Return a new translator of batches."""

    @abstractmethod
    def follow(self, output: Numbers) -> None:
        """Follow the pointers of all requests, compiled."""

    def batch(self) -> Any:
        """Translate all requests; the result has `address` and `status`."""
        return self._batches.translate(self.REQUESTER, self.asked, self.asked_addresses)

    def bare(self) -> Numbers:
        """Return where the pointers of all requests lead."""
        output = np.empty_like(self.asked_addresses)
        self.follow(output)
        return output

    def single(self, number: int, address: int) -> int | None:
        """Translate one request."""
        outcome = self.iommu(0).translate(self.request(number, address))
        return outcome.address if isinstance(outcome, Translated) else None

    def trees_of(self, numbers: npt.NDArray[np.int64]) -> Numbers:
        """Return the first table of each number; its levels lie one behind the other."""
        return (self.first_tree + numbers % self.trees * (LEVELS * PAGE_SIZE)).astype(np.uint64)

    def _store_trees(self, first: int, pages: Numbers) -> None:
        """Store the tables of neighbouring numbers, from the page that each maps."""
        tables = np.zeros((len(pages), LEVELS, PAGE_SIZE // 8), np.uint64)
        which = np.arange(len(pages), dtype=np.uint64)
        base = self.first_tree + first * LEVELS * PAGE_SIZE
        for level in range(LEVELS):
            index = pages >> np.uint64(39 - 9 * level) & np.uint64(511)
            below = base + (which * LEVELS + level + 1) * PAGE_SIZE
            page = pages & np.uint64((1 << 44) - 1) | np.uint64(self.PAGE)
            tables[which, level, index] = below | np.uint64(self.TABLE) if level < LEVELS - 1 else page
        self.memory.store(base, tables.tobytes())

    def _all_in_one_piece(self) -> Numbers:
        """Return the words of memory, the first being that at START."""
        rows, words = self.memory.page_table()
        first = START // PAGE_SIZE
        if list(rows.values()) != [page - first + 1 for page in rows]:
            raise ValueError("the tables do not lie in one piece, as the bare loop takes for granted")
        return words[1:].reshape(-1)

    def check(self) -> None:
        """Raise unless batches, bare walks and single translations agree; both are compiled then."""
        batch, output = self.batch(), self.bare()
        single = self.single(int(self.asked[0]), int(self.asked_addresses[0]))
        if single != output[0] or (batch.address != output).any() or batch.status.any():
            raise ValueError("batch, bare loop and single translation differ, so their times say nothing")


def compiled(function: Callable[..., None]) -> Any:
    """Compile a bare loop."""
    return numba.njit(function)


def walk_rows(rigs: Sequence[Walks], max_single: tuple[str, float] | None) -> Iterator[Row]:
    """Time single translations, then batches; the rigs have ascending counts, 1 and LIMITED among them."""
    for rig in rigs:
        rig.check()
    gc.collect()
    first = rigs[0]
    request = first.request(0, int(first.pages[0]))
    for name, entries, target in (("all caches off", 0, max_single), (first.HIT, CACHE_ENTRIES, None)):
        yield _single_row(name, first.iommu(entries), request, target)
    yield _never_seen_row(next(rig for rig in rigs if rig.count == LIMITED))
    yield from _batch_rows(rigs)


def _single_row(name: str, iommu: Any, request: Any, target: tuple[str, float] | None) -> Row:
    """Time the same translation again and again."""

    def repeated() -> None:
        for _ in range(SINGLES):
            iommu.translate(request)

    seconds = [cpu_seconds(repeated) for _ in range(ROUNDS)]
    return Row(f"single translate, 4 levels, {name}", median(seconds) / SINGLES * 1e6, "us", target)


def _never_seen_row(rig: Walks) -> Row:
    """Time the first translation of each number by a new IOMMU, which has seen none of their entries before."""
    requests = [rig.request(number, int(page)) for number, page in enumerate(rig.pages)]
    seconds = []
    for _ in range(ROUNDS):
        translate = rig.iommu(0).translate
        seconds.append(cpu_seconds(lambda: [translate(request) for request in requests]))  # noqa: B023
    name = f"single translate, 4 levels, a {rig.ENTRY} never seen before"
    return Row(name, median(seconds) / len(requests) * 1e6, "us")


def _batch_rows(rigs: Sequence[Walks]) -> Iterator[Row]:
    """Time batches beside bare loops, and how their time grows with the numbers."""
    times = [[(cpu_seconds(rig.batch), cpu_seconds(rig.bare)) for rig in rigs] for _ in range(ROUNDS)]
    for index, rig in enumerate(rigs):
        title = f"batch, {rig.count:,} {rig.NUMBERS}"
        limited = rig.count <= LIMITED
        nanoseconds = median(turn[index][0] for turn in times) / REQUESTS * 1e9
        yield Row(f"{title}, one translation", nanoseconds, "ns", MAX_BATCH if limited else None)
        yield Row(f"{title}, one bare walk", median(turn[index][1] for turn in times) / REQUESTS * 1e9, "ns")
        ratio = median(turn[index][0] / turn[index][1] for turn in times)
        tables = f"{rig.memory.touched_pages * PAGE_SIZE / 2**20:,.1f} MiB"
        yield Row(f"{title}, {tables} / bare loads", ratio, "x", None if limited else MAX_RATIO)
    growth = median(turn[-1][0] / turn[0][0] for turn in times)
    yield Row(f"batch, growth from 1 to {rigs[-1].count:,} {rigs[-1].NUMBERS}", growth, "x")

"""What benchmarks of compiled batches have in common: machines full of page tables, and how their batches are timed.

Every number has four levels of page tables, 16 KiB each, which map one page at a random address; so with 65,536 of
them the tables fill 1 GiB. Beyond that, numbers share them. Requests take numbers in random order. The bare loop does
what depends on memory and nothing else, each address taken from the last load; it knows that the tables lie in one
piece, where the model has to look every page up. Batches, as a caller calls them, and bare loops take turns; ratios are
medians over rounds. Compiling is done before anything is timed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row, cpu_seconds
from pasidlab.memory import PAGE_SIZE, Memory

REQUESTS = 1 << 18
SINGLES = 2_000
ROUNDS = 9
MAX_BATCH = ("<=", 200.0)
MAX_RATIO = ("<=", 3.0)
LIMITED = 1_024
"""Up to so many numbers the time of a translation is limited, beyond them its ratio to the bare loop."""
MOST_TREES = 65_536

Numbers = npt.NDArray[np.uint64]
START = 0x8000_0000
"""Where all tables begin."""
LEVELS = 4
ADDRESS_BITS = 0xFFFF_FFFF_F000
_CHUNK = 1_024


class Walks(ABC):
    """An IOMMU with one device, whose numbers each map one page.

    Attributes:
        NUMBERS: what they are called.
        TABLE, PAGE: a table entry, and one of a page for all, without their addresses.
        pages: the page that each number maps.
        asked, asked_addresses: the requests.
    """

    NUMBERS: str
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
        self.memory.store(START, bytes(configuration_bytes))
        self.store_configuration()
        for first in range(0, self.trees, _CHUNK):
            self._store_trees(first, pages[first : first + _CHUNK])
        self.words = self._all_in_one_piece()

    @abstractmethod
    def store_configuration(self) -> None:
        """Store everything above the page tables."""

    @abstractmethod
    def batch(self) -> Any:
        """Translate all requests; the result has `address` and `status`."""

    @abstractmethod
    def bare(self) -> Numbers:
        """Follow the pointers of all requests."""

    @abstractmethod
    def single(self, number: int, address: int) -> int | None:
        """Translate one request."""

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


def batch_rows(rigs: Sequence[Walks]) -> Iterator[Row]:
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


def single_row(name: str, translate: Callable[[], object], target: tuple[str, float] | None) -> Row:
    """Time the same translation again and again."""

    def repeated() -> None:
        for _ in range(SINGLES):
            translate()

    seconds = [cpu_seconds(repeated) for _ in range(ROUNDS)]
    return Row(f"single translate, 4 levels, {name}", median(seconds) / SINGLES * 1e6, "us", target)


def first_row(name: str, count: int, fresh: Callable[[], Callable[[], object]]) -> Row:
    """Time `count` translations of an IOMMU that is made anew for each round."""
    seconds = [cpu_seconds(fresh()) for _ in range(ROUNDS)]
    return Row(f"single translate, 4 levels, {name}", median(seconds) / count * 1e6, "us")

"""Time and memory of `PasidSpace` with 10 to 2**20 held numbers.

The counts take turns, and growth is the median over the rounds of a time divided by that of the smallest count.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from statistics import median

from benchmarks.rows import Row, cpu_seconds
from pasidlab.pasid import INT_MAX, PasidSpace

HELD_COUNTS = (10, 1_000, 2**16, 2**20)
PAIRS = 5_000
ROUNDS = 15
MAX_GROWTH = ("<=", 2.0)
MAX_MEMORY = ("<", 128.0)


def rows() -> Iterator[Row]:
    spaces = {count: _filled(range(1, count + 1)) for count in HELD_COUNTS}
    yield from _time_rows(spaces, "lowest free at the end")
    for count, space in spaces.items():
        space.free(count // 2)
    yield from _time_rows(spaces, "lowest free in a hole")
    for count in HELD_COUNTS:
        target = MAX_MEMORY if count == 2**20 else None
        yield Row(f"memory, 1..{count - 1:,} held", _memory(range(1, count)), "KiB", target)
    yield Row(f"memory, every second below {2**20:,} held", _memory(range(0, 2**20, 2)), "KiB")


def _time_rows(spaces: dict[int, PasidSpace], where: str) -> Iterator[Row]:
    times: dict[int, list[float]] = {count: [] for count in spaces}
    for _ in range(ROUNDS):
        for count, space in spaces.items():
            times[count].append(cpu_seconds(lambda: _run_pairs(space)))  # noqa: B023 - called at once
    base = times[HELD_COUNTS[0]]
    yield Row(f"alloc+free, {HELD_COUNTS[0]} held, {where}", median(base) / PAIRS * 1e6, "us")
    for count in HELD_COUNTS[1:]:
        growth = median(seconds / first for seconds, first in zip(times[count], base, strict=True))
        yield Row(f"alloc+free, {count:,} held, {where}, growth", growth, "x", MAX_GROWTH)


def _filled(numbers: range) -> PasidSpace:
    space = PasidSpace()
    for number in numbers:
        space.take(number)
    return space


def _run_pairs(space: PasidSpace) -> None:
    alloc, free = space.alloc, space.free
    for _ in range(PAIRS):
        pasid = alloc(1, INT_MAX)
        assert pasid is not None
        free(pasid)


def _memory(numbers: range) -> float:
    """KiB that a space with these numbers held keeps."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        space = _filled(numbers)
        after, _ = tracemalloc.get_traced_memory()
        assert len(space) == len(numbers)
    finally:
        tracemalloc.stop()
    return (after - before) / 1024

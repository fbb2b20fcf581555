"""Time and memory of `PasidSpace` with 10 to 2**20 held numbers.

A ratio compares with the same measurement at the smallest count.
"""

from __future__ import annotations

import tracemalloc
from time import perf_counter
from typing import TYPE_CHECKING

from pasidlab.pasid import INT_MAX, PasidSpace

if TYPE_CHECKING:
    from collections.abc import Iterator

HELD_COUNTS = (10, 1_000, 2**16, 2**20)
PAIRS = 20_000
REPEATS = 7

Row = tuple[str, float, str]


def rows() -> list[Row]:
    return [*_time_rows(), *_memory_rows()]


def _time_rows() -> Iterator[Row]:
    times = {count: _pair_times(count) for count in HELD_COUNTS}
    base = times[HELD_COUNTS[0]]
    for count, (at_end, in_hole) in times.items():
        yield f"alloc+free, {count} held, lowest free at the end", at_end, "us"
        yield f"alloc+free, {count} held, lowest free at the end, ratio", at_end / base[0], "x"
        yield f"alloc+free, {count} held, lowest free in a hole", in_hole, "us"
        yield f"alloc+free, {count} held, lowest free in a hole, ratio", in_hole / base[1], "x"


def _memory_rows() -> Iterator[Row]:
    for count in HELD_COUNTS:
        yield f"memory, 1..{count - 1} held", _memory(range(1, count)), "KiB"
    yield f"memory, every second number below {2**20} held", _memory(range(0, 2**20, 2)), "KiB"


def _filled(numbers: range) -> PasidSpace:
    space = PasidSpace()
    for number in numbers:
        space.take(number)
    return space


def _pair_times(count: int) -> tuple[float, float]:
    """Time of a pair when the lowest free number is after all held ones, and when it is among them."""
    space = _filled(range(1, count + 1))
    at_end = _pair_time(space)
    space.free(count // 2)
    return at_end, _pair_time(space)


def _pair_time(space: PasidSpace) -> float:
    """Microseconds of one alloc and the free of what it got: the best of several runs."""
    best = min(_run_time(space) for _ in range(REPEATS))
    return best / PAIRS * 1e6


def _run_time(space: PasidSpace) -> float:
    alloc, free = space.alloc, space.free
    start = perf_counter()
    for _ in range(PAIRS):
        pasid = alloc(1, INT_MAX)
        assert pasid is not None
        free(pasid)
    return perf_counter() - start


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


if __name__ == "__main__":
    for name, value, unit in rows():
        print(f"{name:<55} {value:8.2f} {unit}")

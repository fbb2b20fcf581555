"""What looking at any IOMMU from outside has in common: which entries of a table to look at, and what queues hold.

Tables are listed by the pages of memory that were ever stored to. What was never stored is zero, so that entries which
are not listed are not valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pasidlab.memory import PAGE_SHIFT, PAGE_SIZE, Memory
from pasidlab.words import Word


class PendingQueue(NamedTuple):
    """A queue: how many entries it has room for, and those that nobody has consumed."""

    base: int
    entries: int
    pending: list[Word]


def stored(memory: Memory, base: int, count: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield index and address of each of `count` entries of a table that lies in a page which was stored to."""
    end = base + count * size
    rows, _ = memory.page_table()
    within = range(base >> PAGE_SHIFT, (end - 1 >> PAGE_SHIFT) + 1)
    few, many = (within, rows) if len(within) < len(rows) else (rows, within)
    pages = sorted(page for page in few if page in many)
    for page in pages:
        start = max(page << PAGE_SHIFT, base)
        for address in range(start, min((page << PAGE_SHIFT) + PAGE_SIZE, end), size):
            yield (address - base) // size, address

"""The free numbers of a space in the order in which binds take them, and how to take many of them at once.

Source: the rules of `pasidlab.pasid`: the lowest free number of a range, or under an option the highest.
Decided here: taking is reserving, which costs as much for a million numbers as for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from pasidlab.pasid import PasidSpace

Range = tuple[int, int]


class Supply:
    """What a space has to give, the next number first.

    Attributes:
        space: whose numbers these are.
        ranges: the free ones, in the order in which they are taken; within a range they go up, or down.
        descending: the highest is taken first.
    """

    def __init__(self, space: PasidSpace, low: int, high: int, *, descending: bool = False) -> None:
        self.space = space
        self.descending = descending
        self.ranges = list(free_ranges(space, low, high))
        if descending:
            self.ranges.reverse()
        self._taken: list[Range] = []

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.ranges)

    def __getitem__(self, index: int) -> int:
        for low, high in self.ranges:
            if index <= high - low:
                return high - index if self.descending else low + index
            index -= high - low + 1
        raise IndexError(index)

    def take(self, count: int) -> None:
        """Take the first `count` numbers, or all if there are fewer, until `give_back()`."""
        for low, high in self.ranges:
            part = min(count, high - low + 1)
            if not part:
                return
            taken = (high - part + 1, high) if self.descending else (low, low + part - 1)
            self.space.reserve(*taken)
            self._taken.append(taken)
            count -= part

    def give_back(self) -> None:
        """Let all that was taken be free again."""
        for low, high in self._taken:
            self.space.unreserve(low, high)
        self._taken.clear()

    def ends(self, starts: Iterable[int]) -> list[int]:
        """Return the index of the last number of each run: a run ends with its range, and before or at a start.

        `starts` are the numbers from which on something may be different.
        """
        cuts = sorted(set(starts))
        sizes = (part for low, high in self.ranges for part in self._cut(low, high, cuts))
        ends, end = [], -1
        for size in sizes:
            end += size
            ends.append(end)
        return ends

    def _cut(self, low: int, high: int, cuts: list[int]) -> Iterator[int]:
        """Yield the sizes of the parts of a range, in the order in which they are taken."""
        firsts = [low, *(cut for cut in cuts if low < cut <= high), high + 1]
        sizes = [after - first for first, after in pairwise(firsts)]
        return iter(reversed(sizes) if self.descending else sizes)


def free_ranges(space: PasidSpace, low: int, high: int) -> Iterator[Range]:
    """Yield the runs of numbers in [low, high] that nobody holds, ascending."""
    for held in space:
        if held > high:
            break
        if held > low:
            yield low, held - 1
        low = max(low, held + 1)
    if low <= high:
        yield low, high

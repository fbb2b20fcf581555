"""The numbers an allocator hands out, with the rules of the Linux IDA.

Source: `ida_alloc_range()` and `ida_free()` in lib/idr.c, Linux v7.3. The kernel takes every global PASID
from one such set.

The rules:

* An allocation gets the smallest free number of its range; both ends belong to the range.
* A freed number is free at once: the next allocation whose range holds it can get it. Nothing ages, and
  nothing goes round.
* Freeing a number that is not held changes nothing. The kernel warns; here the caller is told.
* The numbers are 0 to INT_MAX. A larger upper bound of an allocation is read as INT_MAX. Any other bound
  outside raises ValueError; the kernel, whose bounds are unsigned, answers -ENOSPC to a larger lower bound.

The IDA has neither `alloc_highest()` nor reservations; other designs need them, and they follow the same
rules. Not modelled: the lock inside the IDA, and an allocation that fails for want of memory.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INT_MAX = 2**31 - 1

# Three levels of 2**11-bit words cover 2**33 numbers. Smaller words need a fourth level and more memory,
# larger ones take longer to change (benchmarks/bench_pasid.py).
_LEVELS = 3
_SHIFT = 11
_WORD_BITS = 1 << _SHIFT
_OFFSET = _WORD_BITS - 1
_ALL_FREE = (1 << _WORD_BITS) - 1


class PasidSpace:
    """A set of held numbers that always knows its lowest and its highest free number.

    The set is a tree of words. A bit of a lowest word says that one number is free; a bit of a higher word
    says that the word below it has a free bit. A missing word is all free, and a full word is the int 0, so
    bits take memory only in words that are partly held.

    Reservations are kept apart from the tree, as few ranges are expected: a search steps over each reserved
    range in its way, and a huge range costs no more than a single number.
    """

    __slots__ = ("_held_count", "_levels", "_reserved")

    def __init__(self) -> None:
        self._levels: tuple[dict[int, int], ...] = tuple({} for _ in range(_LEVELS))
        self._held_count = 0
        self._reserved: list[tuple[int, int]] = []  # ascending, with a gap between any two

    def __contains__(self, pasid: int) -> bool:
        return not self._levels[0].get(pasid >> _SHIFT, _ALL_FREE) >> (pasid & _OFFSET) & 1

    def __len__(self) -> int:
        return self._held_count

    def __iter__(self) -> Iterator[int]:
        return self._held_from(0)

    def alloc(self, low: int, high: int) -> int | None:
        """Take the lowest free number in low..high; None when there is none."""
        pasid = self.lowest_free(low, high)
        if pasid is not None:
            self._hold(pasid)
        return pasid

    def alloc_highest(self, low: int, high: int) -> int | None:
        """Take the highest free number in low..high; None when there is none."""
        pasid = self.highest_free(low, high)
        if pasid is not None:
            self._hold(pasid)
        return pasid

    def lowest_free(self, low: int, high: int) -> int | None:
        """Return the number that `alloc()` would take, and leave it free."""
        high = _checked_high(low, high)
        pasid = self._first_unheld(low)
        while pasid <= high and (reserved := self._reservation_of(pasid)):
            pasid = self._first_unheld(reserved[1] + 1)
        return pasid if pasid <= high else None

    def highest_free(self, low: int, high: int) -> int | None:
        """Return the number that `alloc_highest()` would take, and leave it free."""
        high = _checked_high(low, high)
        pasid = self._last_unheld(high)
        while pasid >= low and (reserved := self._reservation_of(pasid)):
            pasid = self._last_unheld(reserved[0] - 1)
        return pasid if pasid >= low else None

    def take(self, pasid: int) -> bool:
        """Take one particular number; False when it is held or reserved."""
        _check(pasid)
        if pasid in self or self._reservation_of(pasid):
            return False
        self._hold(pasid)
        return True

    def free(self, pasid: int) -> bool:
        """Give a number back; False, and no change, when it is not held.

        A number outside 0..INT_MAX is not held either; the kernel ignores it without a warning.
        """
        if pasid not in self:
            return False
        self._release(pasid)
        return True

    def reserve(self, low: int, high: int) -> None:
        """Keep low..high from being handed out; the range may overlap earlier ones, or be empty.

        Raises:
            ValueError: a number of the range is held. Nothing is reserved then.
        """
        _check(low)
        _check(high)
        if low > high:
            return
        held = next(self._held_from(low), None)
        if held is not None and held <= high:
            raise ValueError(f"cannot reserve {low}..{high}: {held} is held")
        touching = [(first, last) for first, last in self._reserved if first <= high + 1 and last >= low - 1]
        apart = [reserved for reserved in self._reserved if reserved not in touching]
        touching.append((low, high))
        merged = (min(first for first, _ in touching), max(last for _, last in touching))
        self._reserved = sorted([*apart, merged])

    def unreserve(self, low: int, high: int) -> None:
        """Let low..high be handed out again; numbers that are not reserved stay as they are."""
        _check(low)
        _check(high)
        if low > high:
            return
        below = [(first, min(last, low - 1)) for first, last in self._reserved]
        above = [(max(first, high + 1), last) for first, last in self._reserved]
        self._reserved = [(first, last) for first, last in below + above if first <= last]

    def _reservation_of(self, pasid: int) -> tuple[int, int] | None:
        """Return the reserved range that holds the number."""
        if not self._reserved:
            return None
        index = bisect_right(self._reserved, pasid, key=itemgetter(0)) - 1
        if index < 0 or self._reserved[index][1] < pasid:
            return None
        return self._reserved[index]

    def _held_from(self, low: int) -> Iterator[int]:
        """Yield the held numbers from low up."""
        lowest_words = self._levels[0]
        for index in sorted(index for index in lowest_words if index >= low >> _SHIFT):
            base = index << _SHIFT
            skipped = max(low - base, 0)
            held = (_ALL_FREE ^ lowest_words[index]) >> skipped << skipped
            while held:
                offset = _lowest_bit(held)
                yield base + offset
                held ^= 1 << offset

    # On its way up, a search or a change turns the position of a word into the position of the bit that
    # stands for this word one level higher.

    def _first_unheld(self, position: int) -> int:
        """Return the lowest number from position up that is not held, reserved or not.

        Of the 2**33 numbers in the tree at most 2**31 are held, so there is one; it may exceed INT_MAX.
        """
        level = 0
        while not (free := self._levels[level].get(position >> _SHIFT, _ALL_FREE) >> (position & _OFFSET)):
            position = (position >> _SHIFT) + 1
            level += 1
        return self._descend(level, position + _lowest_bit(free), _lowest_bit)

    def _last_unheld(self, position: int) -> int:
        """Return the highest number from position down that is not held, reserved or not; -1 for none."""
        level = 0
        while position >= 0:
            up_to_position = (2 << (position & _OFFSET)) - 1
            free = self._levels[level].get(position >> _SHIFT, _ALL_FREE) & up_to_position
            if free:
                return self._descend(level, (position & ~_OFFSET) + _highest_bit(free), _highest_bit)
            position = (position >> _SHIFT) - 1
            level += 1
        return -1

    def _descend(self, level: int, position: int, pick: Callable[[int], int]) -> int:
        """Follow the picked free bit of each word from a level down to a number."""
        while level:
            level -= 1
            position = (position << _SHIFT) + pick(self._levels[level].get(position, _ALL_FREE))
        return position

    def _hold(self, pasid: int) -> None:
        """Clear the free bit of a number, and of each word that is full by that."""
        self._held_count += 1
        position = pasid
        for words in self._levels:
            index = position >> _SHIFT
            word = words.get(index, _ALL_FREE) ^ (1 << (position & _OFFSET))
            words[index] = word
            if word:
                return
            position = index

    def _release(self, pasid: int) -> None:
        """Set the free bit of a number, and of each word that was full until now."""
        self._held_count -= 1
        position = pasid
        for words in self._levels:
            index = position >> _SHIFT
            before = words[index]
            after = before | (1 << (position & _OFFSET))
            if after == _ALL_FREE:
                del words[index]
            else:
                words[index] = after
            if before:
                return
            position = index


def _check(pasid: int) -> None:
    if not 0 <= pasid <= INT_MAX:
        raise ValueError(f"{pasid} is outside the range of a PASID, 0..{INT_MAX}")


def _checked_high(low: int, high: int) -> int:
    """Check the bounds of an allocation, and return the upper one as the IDA reads it."""
    _check(low)
    if high > INT_MAX:
        return INT_MAX
    _check(high)
    return high


def _lowest_bit(word: int) -> int:
    return (word & -word).bit_length() - 1


def _highest_bit(word: int) -> int:
    return word.bit_length() - 1


class Allocator(Protocol):
    """What takes numbers: a space, or two of them seen as one."""

    def alloc(self, low: int, high: int) -> int | None:
        """Take the lowest free number in [low, high]; None when there is none."""

    def alloc_highest(self, low: int, high: int) -> int | None:
        """Take the highest free number in [low, high]; None when there is none."""


class FreeInBoth:
    """Take numbers of `space` that are free in `other` too; a search steps over whole runs of held numbers."""

    __slots__ = ("other", "space")

    def __init__(self, space: PasidSpace, other: PasidSpace) -> None:
        self.space = space
        self.other = other

    def alloc(self, low: int, high: int) -> int | None:
        """Take the lowest number in [low, high] that is free in both; None when there is none."""
        pasid = self.space.lowest_free(low, high)
        while pasid is not None and pasid in self.other:
            free = self.other.lowest_free(pasid, high)
            pasid = None if free is None else self.space.lowest_free(free, high)
        return self._take(pasid)

    def alloc_highest(self, low: int, high: int) -> int | None:
        """Take the highest number in [low, high] that is free in both; None when there is none."""
        pasid = self.space.highest_free(low, high)
        while pasid is not None and pasid in self.other:
            free = self.other.highest_free(low, pasid)
            pasid = None if free is None else self.space.highest_free(low, free)
        return self._take(pasid)

    def _take(self, pasid: int | None) -> int | None:
        if pasid is not None:
            self.space.take(pasid)
        return pasid

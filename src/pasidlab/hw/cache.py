"""A bounded cache, as hardware has them for configuration and translations.

Decided here: the oldest entry makes room, which no specification demands; refilling a key pushes nothing out and
does not make the entry younger; capacity 0 keeps nothing, so that every access reads memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Cache(Generic[K, V]):
    """A bounded table whose oldest entry makes room for a new one; capacity 0 keeps nothing."""

    capacity: int
    entries: dict[K, V] = field(default_factory=dict)

    def get(self, key: K) -> V | None:
        """Return what is kept for a key."""
        return self.entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        if not self.capacity:
            return
        if len(self.entries) >= self.capacity and key not in self.entries:
            del self.entries[next(iter(self.entries))]
        self.entries[key] = value

    def drop(self, key: K) -> None:
        """Forget one entry."""
        self.entries.pop(key, None)

    def drop_where(self, reached: Callable[[K], bool]) -> None:
        """Forget the entries whose key an invalidation reaches."""
        for key in [key for key in self.entries if reached(key)]:
            del self.entries[key]

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()


@dataclass(slots=True)
class PairCache(Cache[tuple[int, int], V]):
    """A cache whose keys are pairs, and that can forget those with one first half without looking at all."""

    seconds: dict[int, set[int]] = field(default_factory=dict)

    def put(self, key: tuple[int, int], value: V) -> None:
        """Keep a value."""
        if self.capacity and len(self.entries) >= self.capacity and key not in self.entries:
            self.drop(next(iter(self.entries)))
        Cache.put(self, key, value)
        if self.capacity:
            self.seconds.setdefault(key[0], set()).add(key[1])

    def drop(self, key: tuple[int, int]) -> None:
        """Forget one entry."""
        if self.entries.pop(key, None) is not None:
            left = self.seconds[key[0]]
            left.discard(key[1])
            if not left:
                del self.seconds[key[0]]

    def drop_first(self, first: int) -> None:
        """Forget the entries whose key begins with `first`."""
        for second in self.seconds.pop(first, ()):
            del self.entries[first, second]

    def drop_where(self, reached: Callable[[tuple[int, int]], bool]) -> None:
        """Forget the entries whose key an invalidation reaches."""
        for key in [key for key in self.entries if reached(key)]:
            self.drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self.seconds.clear()

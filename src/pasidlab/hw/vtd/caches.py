"""What a remapping unit keeps of translations: the IOTLB and the paging-structure caches.

An entry stays until an invalidation removes it or newer ones push it out, however memory changes; so a driver that
leaves an invalidation out is seen to translate by what was once there. Translations of the first stage are tagged with
domain and PASID, those of the second stage alone with the domain, so that all its PASIDs and devices share them.

Source: Intel VT-d 4.1, 6.2.4 (IOTLB), 6.2.5 (paging-structure caches), 6.5.2.3 and 6.5.2.4 (what invalidations reach).
Decided where the specification leaves a choice: of the tables that a walk goes through the last one is remembered, the
one that holds the leaf; in nested translation by its guest address, which the second stage translates anew. An
invalidation of pages of a domain reaches every nested translation of that domain, for nothing says from which of its
pages one was made, and none of the first stage alone.
Not modelled: caches of second-stage tables in nested translation, global pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pasidlab.hw.cache import Cache
from pasidlab.hw.pagetable.contract import Leaf, Start, WalkFault
from pasidlab.hw.pagetable.intel import INDEX_BITS, PAGE_LG2


class Tag(NamedTuple):
    """What distinguishes translations of one address; `pasid` None is the second stage alone, for every PASID."""

    did: int
    pasid: int | None
    nested: bool = False


TlbKey = tuple[Tag, int, int]
"""One cached entry: its tag, log2 of the bytes that it covers, and the address in units of that size."""
_Reach = Callable[[TlbKey], bool]


class Kept(NamedTuple):
    """A cached translation; `usable` are those of its rights that need no walk, as a write to a clean page does."""

    leaf: Leaf
    usable: int


class Tlb:
    """The IOTLB and the paging-structure cache of one unit; `capacity` bounds each, 0 switches them off."""

    __slots__ = ("_absent", "_cache", "_sizes", "_tables")

    def __init__(self, capacity: int) -> None:
        self._cache: Cache[TlbKey, Kept] = Cache(capacity)
        self._tables: Cache[TlbKey, Start] = Cache(capacity)
        self._absent: Cache[TlbKey, WalkFault] = Cache(capacity)
        self._sizes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._cache.entries)

    # --- looking -----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> Mapping[TlbKey, Kept]:
        """Every translation that is kept, oldest first."""
        return MappingProxyType(self._cache.entries)

    @property
    def tables(self) -> Mapping[TlbKey, Start]:
        """Where walks of an area may start, with the rights that the tables above take away."""
        return MappingProxyType(self._tables.entries)

    @property
    def absent(self) -> Mapping[TlbKey, WalkFault]:
        """Pages that are known not to be there, which only units with CAP.CM keep."""
        return MappingProxyType(self._absent.entries)

    # --- the IOTLB ---------------------------------------------------------------------------------------------

    def lookup(self, tag: Tag, address: int, wanted: int) -> Leaf | None:
        """Return the translation of an address if it has all the rights that are wanted; its output is the page's."""
        entries = self._cache.entries
        for lg2 in self._sizes:
            kept = entries.get((tag, lg2, address >> lg2))
            if kept is not None and kept.usable & wanted == wanted:
                return kept.leaf
        return None

    def fill(self, tag: Tag, address: int, leaf: Leaf, usable: int) -> None:
        """Keep the translation that a walk for `address` found."""
        if not self._cache.capacity:
            return
        lg2 = leaf.lg2
        if lg2 not in self._sizes:
            self._sizes = tuple(sorted((*self._sizes, lg2)))
        self._cache.put((tag, lg2, address >> lg2), Kept(leaf, usable))

    def find_absent(self, tag: Tag, address: int) -> WalkFault | None:
        """Return what is known of a page that is not there."""
        return self._absent.get((tag, PAGE_LG2, address >> PAGE_LG2))

    def keep_absent(self, tag: Tag, address: int, fault: WalkFault) -> None:
        """Keep that a page is not there."""
        self._absent.put((tag, PAGE_LG2, address >> PAGE_LG2), fault)

    # --- the paging-structure cache ----------------------------------------------------------------------------

    def table(self, tag: Tag, address: int) -> Start | None:
        """Return the lowest table that is known for an address."""
        entries = self._tables.entries
        for lg2 in _TABLE_SIZES:
            start = entries.get((tag, lg2, address >> lg2))
            if start is not None:
                return Start(start.table, start.levels, address & (1 << lg2) - 1, start.limits)
        return None

    def keep_table(self, tag: Tag, address: int, start: Start) -> None:
        """Keep a table that a walk for `address` went through."""
        lg2 = start.levels[0].shift + INDEX_BITS
        self._tables.put((tag, lg2, address >> lg2), start)

    @property
    def keeps(self) -> bool:
        """Whether there are caches at all."""
        return self._cache.capacity > 0

    # --- invalidation ------------------------------------------------------------------------------------------

    def invalidate(
        self, did: int | None = None, first: int | None = None, size: int = 0, *, leaf: bool = False
    ) -> None:
        """Forget everything, what belongs to a domain, or what its second stage makes of `size` bytes.

        With `leaf` the paging-structure cache stays, if not everything of the domain is meant.
        """
        if did is None:
            self.clear()
        elif first is None:
            self._drop(lambda key: key[0].did == did, leaf=False)
        else:
            self._drop(lambda key: key[0].did == did and _of_second_stage(key, first, size), leaf=leaf)

    def invalidate_pasid(
        self, did: int, pasid: int, first: int | None = None, size: int = 0, *, leaf: bool = False
    ) -> None:
        """Forget what belongs to a PASID of a domain: everything, or `size` bytes; `leaf` as for `invalidate`."""
        tags = (Tag(did, pasid), Tag(did, pasid, nested=True))
        if first is None:
            self._drop(lambda key: key[0] in tags, leaf=False)
        else:
            self._drop(lambda key: key[0] in tags and _overlaps(key, first, size), leaf=leaf)

    def _drop(self, reached: _Reach, *, leaf: bool) -> None:
        self._cache.drop_where(reached)
        self._absent.drop_where(reached)
        if not leaf:
            self._tables.drop_where(reached)

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()
        self._tables.clear()
        self._absent.clear()


_TABLE_SIZES = tuple(PAGE_LG2 + INDEX_BITS * levels for levels in range(1, 6))
"""log2 of the bytes that tables cover, lowest tables first."""


def _overlaps(key: TlbKey, first: int, size: int) -> bool:
    _, lg2, page = key
    start = page << lg2
    return start < first + size and first < start + (1 << lg2)


def _of_second_stage(key: TlbKey, first: int, size: int) -> bool:
    """Whether an entry may come from `size` bytes of second-stage input; see the module docstring."""
    return key[0].nested or (key[0].pasid is None and _overlaps(key, first, size))

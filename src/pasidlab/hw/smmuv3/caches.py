"""What an SMMU keeps: configuration by StreamID and SubstreamID, translations by world, VMID, ASID and address.

An entry stays until a command removes it or newer ones push it out, however memory changes; so a driver that leaves
an invalidation out is seen to translate by what was once there. Invalid structures are kept too, as an implementation
may: a driver must invalidate after making a structure valid as well as after making it invalid. Level 1 stream table
descriptors are the exception, since Linux invalidates none of them when it adds a level 2 table.

Source: IHI 0070 G.b, 3.17 (TLB tagging), 3.21 (structure access and invalidation), 4.3 and 4.4 (CFGI and TLBI).
Not modelled: caches of intermediate levels of a page-table walk; broadcast TLB maintenance by CPUs (BTM).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pasidlab.hw.cache import Cache
from pasidlab.hw.pagetable.contract import Leaf
from pasidlab.hw.smmuv3.target import Regime, TlbScope


class Tag(NamedTuple):
    """What distinguishes translations of one address; `asid` None holds for every ASID, as a global page does."""

    regime: Regime
    vmid: int
    asid: int | None


class TlbKey(NamedTuple):
    """One TLB entry: its tag, log2 of its size, and the address in units of that size."""

    tag: Tag
    lg2: int
    page: int


class Tlb:
    """Translations that were found by walks; see the module docstring."""

    __slots__ = ("_cache", "_sizes")

    def __init__(self, capacity: int) -> None:
        self._cache: Cache[TlbKey, Leaf] = Cache(capacity)
        self._sizes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._cache.entries)

    @property
    def entries(self) -> Mapping[TlbKey, Leaf]:
        """Everything that is kept, oldest first."""
        return MappingProxyType(self._cache.entries)

    def lookup(self, tag: Tag, address: int) -> Leaf | None:
        """Return the translation of an address, with its output completed to that address."""
        if not self._cache.entries:
            return None
        every_asid = Tag(tag.regime, tag.vmid, None)
        for lg2 in self._sizes:
            page = address >> lg2
            leaf = self._cache.get(TlbKey(tag, lg2, page)) or self._cache.get(TlbKey(every_asid, lg2, page))
            if leaf is not None:
                return leaf
        return None

    def fill(self, tag: Tag, address: int, leaf: Leaf) -> None:
        """Keep the translation that a walk for `address` found."""
        if not self._cache.capacity:
            return
        if leaf.global_:
            tag = Tag(tag.regime, tag.vmid, None)
        if leaf.lg2 not in self._sizes:
            self._sizes = tuple(sorted((*self._sizes, leaf.lg2)))
        self._cache.put(TlbKey(tag, leaf.lg2, address >> leaf.lg2), leaf)

    def invalidate(self, scope: TlbScope) -> None:
        """Forget every entry in the scope of a TLBI command."""
        self._cache.drop_where(lambda key: _in_scope(key, scope))

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()


_REGIMES_OF = {
    Regime.NH: {Regime.NH},
    Regime.EL2: {Regime.EL2},
    Regime.S2: {Regime.S2},
    Regime.S12: {Regime.NH, Regime.S2},
    Regime.NSNH: {Regime.NH, Regime.S2},
}


def _in_scope(key: TlbKey, scope: TlbScope) -> bool:
    """Whether a TLBI reaches an entry; an operation by ASID leaves global entries alone."""
    tag = key.tag
    if tag.regime not in _REGIMES_OF[scope.regime]:
        return False
    if scope.vmid is not None and tag.vmid != scope.vmid:
        return False
    if scope.first is None:
        return scope.asid is None or tag.asid == scope.asid
    if scope.asid is not None and tag.asid not in (scope.asid, None):
        return False
    start = key.page << key.lg2
    size = scope.size or 1
    return start < scope.first + size and scope.first < start + (1 << key.lg2)

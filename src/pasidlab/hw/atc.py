"""The address translation cache (ATC) of a PCIe device with ATS, which VT-d calls a device TLB.

What an IOMMU granted stays here until an invalidation request removes it: a device believes its ATC and sends
translated addresses, so that an invalidation that a driver leaves out is an access to memory that is no longer the
process's.

Source: PCI Express Base Specification, Address Translation Services; what Linux 6.12 pci/ats.c relies on.
Decided here: entries of all sizes lie in one cache of the given capacity; where entries of several sizes cover an
address, the smallest that gives the right counts; an instruction fetch needs the right to read too, as a completion's
Exe bit says nothing where its R bit is clear.
Not modelled: translations that hold for every PASID; invalidation tags and their completion messages; the size that a
device's STU imposes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from pasidlab.hw.cache import Cache

_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class AtcEntry:
    """A translation: where 2**`lg2` bytes lead, and what may be done there.

    One that was granted to requests for `privileged` mode serves no others, nor do others serve those.
    """

    output: int
    lg2: int
    read: bool
    write: bool
    execute: bool = False
    privileged: bool = False

    def allows(self, *, write: bool, execute: bool) -> bool:
        """Whether the entry gives the right to write, or to read, which to execute needs as well."""
        return (self.write if write else self.read) and (self.execute or not execute)


class AtcKey(NamedTuple):
    """What distinguishes entries: PASID, log2 of the size, address in units of that size, privileged mode."""

    pasid: int | None
    lg2: int
    page: int
    privileged: bool


@dataclass(slots=True, eq=False)
class Atc:
    """The cache; its oldest entry makes room. `hung`: the device completes no invalidation any more."""

    capacity: int = _CAPACITY
    hung: bool = False
    _cache: Cache[AtcKey, AtcEntry] = field(init=False, repr=False)
    _sizes: tuple[int, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        self._cache = Cache(self.capacity)

    @property
    def entries(self) -> Mapping[AtcKey, AtcEntry]:
        """Everything that is kept, oldest first."""
        return MappingProxyType(self._cache.entries)

    def fill(self, pasid: int | None, address: int, entry: AtcEntry) -> None:
        """Keep a translation; one without rights is not kept, as the page may come any time."""
        if not (entry.read or entry.write):
            return
        if entry.lg2 not in self._sizes:
            self._sizes = tuple(sorted((*self._sizes, entry.lg2)))
        self._cache.put(AtcKey(pasid, entry.lg2, address >> entry.lg2, entry.privileged), entry)

    def lookup(
        self, pasid: int | None, address: int, *, write: bool, execute: bool = False, privileged: bool = False
    ) -> int | None:
        """Return the translated address, if the cache has it for that mode and with that right."""
        for lg2 in self._sizes:
            entry = self._cache.get(AtcKey(pasid, lg2, address >> lg2, privileged))
            if entry is not None and entry.allows(write=write, execute=execute):
                offset = (1 << lg2) - 1
                return entry.output & ~offset | address & offset
        return None

    def invalidate(self, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> bool:
        """Forget a range, all of it when `size` is None; false when the device does not answer.

        Without PASID every entry of the range goes, those with a PASID too; privileged entries go with the others.
        """
        if self.hung:
            return False
        only = None if every_pasid else pasid
        self._cache.drop_where(lambda key: _hit(key, only, first, size))
        return True


def _hit(key: AtcKey, pasid: int | None, first: int, size: int | None) -> bool:
    """Whether an invalidation of one PASID, or of all (None), reaches an entry."""
    if pasid is not None and key.pasid != pasid:
        return False
    start = key.page << key.lg2
    return size is None or (start < first + size and first < start + (1 << key.lg2))

"""The address translation cache (ATC) of a PCIe device with ATS.

What an IOMMU granted stays here until an invalidation request removes it: a device believes its ATC and sends
translated addresses, so that an invalidation that a driver leaves out is an access to memory that is no longer the
process's.

Source: PCI Express Base Specification, Address Translation Services; what Linux 6.12 pci/ats.c relies on.
Not modelled: translations that hold for every PASID; invalidation tags and their completion messages; the size that a
device's STU imposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class AtcEntry:
    """A translation: where 2**`lg2` bytes lead, and what may be done there."""

    output: int
    lg2: int
    read: bool
    write: bool


@dataclass(slots=True, eq=False)
class Atc:
    """The cache; its oldest entry makes room. `hung`: the device completes no invalidation any more."""

    capacity: int = _CAPACITY
    hung: bool = False
    entries: dict[tuple[int | None, int, int], AtcEntry] = field(default_factory=dict)

    def fill(self, pasid: int | None, address: int, entry: AtcEntry) -> None:
        """Keep a translation; one without rights is not kept, as the page may come any time."""
        if not (entry.read or entry.write):
            return
        if len(self.entries) >= self.capacity:
            del self.entries[next(iter(self.entries))]
        self.entries[pasid, entry.lg2, address >> entry.lg2] = entry

    def lookup(self, pasid: int | None, address: int, *, write: bool) -> int | None:
        """Return the translated address, if the cache has it with that right."""
        for (owner, lg2, page), entry in self.entries.items():
            if owner != pasid or page != address >> lg2:
                continue
            if entry.write if write else entry.read:
                offset = (1 << lg2) - 1
                return entry.output & ~offset | address & offset
        return None

    def invalidate(self, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> bool:
        """Forget a range, all of it when `size` is None; false when the device does not answer.

        Without PASID every entry of the range goes, those with a PASID too.
        """
        if self.hung:
            return False
        for key in [key for key in self.entries if _hit(key, pasid, every_pasid, first, size)]:
            del self.entries[key]
        return True


def _hit(key: tuple[int | None, int, int], pasid: int | None, every_pasid: bool, first: int, size: int | None) -> bool:
    owner, lg2, page = key
    if pasid is not None and not every_pasid and owner != pasid:
        return False
    start = page << lg2
    return size is None or (start < first + size and first < start + (1 << lg2))

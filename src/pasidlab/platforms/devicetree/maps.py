"""`iommu-map`: which requester IDs of a PCI host bridge reach which IOMMU, and as what.

Source: of_map_id() (drivers/of/base.c) of Linux 6.12, the binding pci/pci-iommu.txt. A requester ID is first masked;
the first entry whose range has the result counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pasidlab.platforms.devicetree.nodes import DtNode

ALL_RIDS = 0xFFFF
"""The largest requester ID."""
_CELLS, _ENTRY_BYTES = 4, 16


class Entry(NamedTuple):
    """An entry of a map: `size` requester IDs from `first` on reach an IOMMU, which knows the first as `output`."""

    number: int
    first: int
    phandle: int
    output: int
    size: int


class Mapped(NamedTuple):
    """Requester IDs from `first` to `last`, both inclusive, and what the IOMMU knows the first as."""

    first: int
    last: int
    entry: Entry
    output: int


def entries_of(node: DtNode) -> list[Entry]:
    """Return the entries of a node's map; none when its length fits none, for which Linux refuses it."""
    if len(node.properties["iommu-map"]) % _ENTRY_BYTES:
        return []
    cells = node.cells("iommu-map")
    return [Entry(at // _CELLS, *cells[at : at + _CELLS]) for at in range(0, len(cells), _CELLS)]


def mapped(entries: Sequence[Entry], mask: int) -> Iterator[Mapped]:
    """Yield the ranges of a map, in order of entries; with a mask that hides bits of an ID, in order of IDs."""
    if mask & ALL_RIDS == ALL_RIDS:
        for entry in entries:
            if entry.size and entry.first <= ALL_RIDS:
                last = min(entry.first + entry.size - 1, ALL_RIDS)
                yield Mapped(entry.first, last, entry, entry.output)
        return
    yield from _runs(_owners(entries), mask)


def _owners(entries: Sequence[Entry]) -> list[Entry | None]:
    """Return the entry of each masked ID: the first that has it. Each ID is given away once."""
    owners: list[Entry | None] = [None] * (ALL_RIDS + 1)
    free = list(range(ALL_RIDS + 2))
    for entry in entries:
        at = _next_free(free, min(entry.first, ALL_RIDS + 1))
        while at < min(entry.first + entry.size, ALL_RIDS + 1):
            owners[at] = entry
            free[at] = at + 1
            at = _next_free(free, at)
    return owners


def _next_free(free: list[int], at: int) -> int:
    """Return the first ID from `at` on that nobody has, and shorten the way there."""
    end = at
    while free[end] != end:
        end = free[end]
    while free[at] != end:
        free[at], at = end, free[at]
    return end


def _runs(owners: list[Entry | None], mask: int) -> Iterator[Mapped]:
    """Join IDs that follow each other, and whose IDs at the IOMMU do, too."""
    run: Mapped | None = None
    for number in range(ALL_RIDS + 1):
        entry = owners[number & mask]
        output = 0 if entry is None else entry.output + (number & mask) - entry.first
        if run is not None and entry is run.entry and output == run.output + number - run.first:
            run = run._replace(last=number)
            continue
        if run is not None:
            yield run
        run = None if entry is None else Mapped(number, number, entry, output)
    if run is not None:
        yield run

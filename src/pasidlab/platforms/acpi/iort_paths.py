"""Where an ID of a device leads: through the ID mappings of its node, and of the nodes after it, to an SMMU or past it.

Source: iort_node_map_id() and iort_id_map() (drivers/acpi/arm64/iort.c, 7.3.4).

What Linux does, and this with it: the first mapping that has an ID counts. But some firmware wrote the number of IDs
where the number minus 1 belongs, so that two ranges share an ID: the last one of a range that is also the first one
of a later range belongs to the later. A mapping with the single flag takes every ID, such a last one too, and counts
in named components and root complexes only.

Decided here: where Linux would follow mappings that close a circle for ever, the path ends after MOST_STEPS nodes, and
the paths of one table are followed through MOST_VISITS nodes in all; `iort_checks` reports circles.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from pasidlab.platforms.acpi.iort_nodes import Iort, Mapping, Node
from pasidlab.platforms.acpi.iort_words import ITS_GROUP, NAMED_COMPONENT, ROOT_COMPLEX, SMMU, SMMUV3

MOST_STEPS = 4
"""Nodes that a path has between a device and its SMMU at the most; the specification knows none."""
MOST_VISITS = 512
"""Nodes between devices and SMMUs that are gone through for one table."""
IOMMUS = (SMMU, SMMUV3)
_SINGLES = (NAMED_COMPONENT, ROOT_COMPLEX)
_LAST_ID = 0xFFFF_FFFF


class Reach(NamedTuple):
    """IDs of a device, and where they lead.

    Attributes:
        first, last: the IDs, both inclusive.
        node: the SMMU; None where they reach memory without one.
        output: what the SMMU knows `first` as.
        single: the SMMU knows them all as `output`; else they count up from it.
        mapping: the mapping of the device's own node that takes them.
    """

    first: int
    last: int
    node: Node | None
    output: int
    single: bool
    mapping: Mapping


class Taken(NamedTuple):
    """IDs that a mapping takes, both inclusive, if none before it took them."""

    mapping: Mapping
    first: int
    last: int


def taken(node: Node) -> Iterator[Taken]:
    """Yield what the mappings of a node take, as Linux uses them: of several that take an ID the first counts."""
    heirs = _Heirs(node)
    for mapping in node.mappings:
        word = mapping.word
        if word.single:
            if node.type in _SINGLES:
                yield Taken(mapping, 0, _LAST_ID)
            continue
        last = min(word.input_base + word.id_count, _LAST_ID)
        heir = heirs.of(last, mapping.index) if word.id_count else None
        yield Taken(mapping, word.input_base, last if heir is None else last - 1)
        if heir is not None and heir.index > mapping.index + 1:
            yield Taken(heir, last, last)


class _Heirs:
    """Finds which mapping of a node the last ID of a range belongs to, where it is not the range's own."""

    def __init__(self, node: Node) -> None:
        self.mappings = node.mappings
        self.singles: list[int] = []
        self.begun: dict[int, list[int]] = {}
        for mapping in node.mappings:
            if not mapping.word.single:
                self.begun.setdefault(mapping.word.input_base, []).append(mapping.index)
            elif node.type in _SINGLES:
                self.singles.append(mapping.index)

    def of(self, last: int, index: int) -> Mapping | None:
        """Return the first mapping after that of an index which begins with an ID, or takes any."""
        later = [_after(indexes, index) for indexes in (self.singles, self.begun.get(last, []))]
        found = min((one for one in later if one is not None), default=None)
        return None if found is None else self.mappings[found]


def _after(indexes: list[int], index: int) -> int | None:
    """Return the first of ascending indexes that is larger than one."""
    place = bisect_right(indexes, index)
    return indexes[place] if place < len(indexes) else None


class Paths:
    """Follows IDs through the nodes of one table. `cut` tells whether a path was not followed to its end."""

    def __init__(self, iort: Iort) -> None:
        self.iort = iort
        self.cut = False
        self._visits = MOST_VISITS

    def reaches(self, node: Node, first: int, last: int) -> Iterator[Reach]:
        """Yield where the IDs of a device lead; where several have an ID, the first counts.

        IDs that no mapping takes are not named, nor those of mappings that refer to no node, or to one that could
        not be read.
        """
        for mapping, low, high in taken(node):
            low, high = max(first, low), min(last, high)
            if low <= high:
                yield from self._arrivals(mapping, low, high)

    def through(self, mapping: Mapping, first: int, last: int) -> Iterator[Reach]:
        """Yield where IDs lead that one mapping of a device takes."""
        return self._arrivals(mapping, first, last)

    def _arrivals(self, mapping: Mapping, first: int, last: int, steps: int = MOST_STEPS) -> Iterator[Reach]:
        word = mapping.word
        target = self.iort.by_offset.get(word.output_reference)
        output = word.output_base if word.single else word.output_base + first - word.input_base
        if target is None or target.word is None:
            return
        if target.type in IOMMUS or target.type == ITS_GROUP:
            smmu = target if target.type in IOMMUS else None
            yield Reach(first, last, smmu, output, word.single, mapping)
            return
        width = 0 if word.single else last - first
        for part in self._onward(target, output, output + width, steps):
            start = first if word.single else first + part.first - output
            end = last if word.single else first + part.last - output
            yield Reach(start, end, part.node, part.output, word.single or part.single, mapping)
        yield Reach(first, last, None, output, word.single, mapping)

    def _onward(self, node: Node, first: int, last: int, steps: int) -> Iterator[Reach]:
        """Yield where IDs lead that arrive at a node between a device and an SMMU."""
        self._visits -= 1
        if not steps or self._visits < 0:
            self.cut = True
            return
        for mapping, low, high in taken(node):
            low, high = max(first, low), min(last, high)
            if low <= high:
                yield from self._arrivals(mapping, low, high, steps - 1)

"""The VIOT, the table in which virtual machines say which devices reach which virtio-iommu.

Source: ACPI 6.5, 5.2, Virtual I/O Translation Table, and drivers/acpi/viot.c (7.3.4) for what Linux makes of
it. Its structures are in `viot_words`.

The first PCI range that has a function counts. Its endpoint ID counts up from the range's, 0x10000 a segment. A
virtio-iommu that is a PCI function does not translate for itself, although ranges usually have it. None has PASIDs:
Linux's driver of the virtio-iommu knows none.

Decided here: as many nodes are read as the header counts, as Linux does, and none after one with a wrong length. A
range of several segments becomes one map of requester IDs for each, MOST_MAPS in all.

Not said: addresses of the devices of MMIO endpoint nodes lead to no name in Linux, so they are called mmio@ADDRESS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.header import HEADER_BYTES, ReadTable, read_table
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.platforms.acpi.viot_words import (
    NODE_KINDS,
    NODE_NAMES,
    MmioEndpoint,
    PciRange,
    ViotFields,
    ViotNodeHeader,
    VirtioIommuMmio,
    VirtioIommuPci,
)
from pasidlab.platforms.said import Endpoint, Iommu, Rid, RidMap, Said
from pasidlab.rules import Level, Rule

MOST_BYTES = 256 << 10
"""Largest VIOT that is read."""
MOST_MAPS = 4096
"""Maps of requester IDs that are said of one table."""

NODE_OFFSET = Rule(
    "viot.node-offset",
    "VIOT header, node offset",
    "the offset of the first node lies outside of the table, or in its header",
    "{file}: the first node is said to be at {node_offset:#x}; allowed are 0x30 to {most:#x}; no node is read",
    source="ACPI 6.5, 5.2, VIOT",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NODE_COUNT = Rule(
    "viot.node-count",
    "VIOT header, node count",
    "the table has fewer nodes than its header counts",
    "{file}: the header counts {count} nodes, and {read} can be read",
    source="ACPI 6.5, 5.2, VIOT",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
UNKNOWN_NODE = Rule(
    "viot.unknown-node",
    "VIOT node header, type",
    "the type of a node is none of 1 to 4",
    "{file}, offset {offset}: a node of type {type}, which the specification does not have; it is kept raw",
    source="ACPI 6.5, 5.2, VIOT",
    level=Level.NOTE,
)
SHORT_NODE = Rule(
    "viot.short-node",
    "VIOT node header, length",
    "a node is too short for its type",
    "{file}, offset {offset}: the {what} node has {have} bytes, and needs {needed}; what it says is not read",
    source="ACPI 6.5, 5.2, VIOT",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
BAD_REFERENCE = Rule(
    "viot.bad-reference",
    "VIOT nodes, output node",
    "an output node is no virtio-iommu",
    "{file}, offset {offset}: the {node} refers to {reference:#x}, where no virtio-iommu node begins; "
    "Linux leaves its devices without an IOMMU",
    source="viot_get_iommu (drivers/acpi/viot.c)",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
EMPTY_RANGE = Rule(
    "viot.empty-range",
    "VIOT PCI range node",
    "a range ends before it begins",
    "{file}, offset {offset}: the {node} has segments {first_segment:#x} to {last_segment:#x} and functions {first:#x} "
    "to {last:#x}, so none",
    source="ACPI 6.5, 5.2, VIOT",
    remedy=TAKE_AGAIN,
)
TOO_MANY_MAPS = Rule(
    "viot.too-many-maps",
    "VIOT PCI range nodes",
    "the ranges have more segments than are said",
    "{file}: the PCI ranges have more than 4096 segments in all; the rest is not said",
    source="pasidlab's bound",
    remedy=TAKE_AGAIN,
)


_LEAST_OFFSET = HEADER_BYTES + ViotFields.SIZE // 8
_NODE_HEADER_BYTES = ViotNodeHeader.SIZE // 8


@dataclass(frozen=True, slots=True)
class ViotNode:
    """A node: its offset in the table, its bytes, and its fields; only its header's where the rest cannot be read."""

    offset: int
    raw: bytes
    word: ViotNodeHeader

    @property
    def title(self) -> str:
        """What it is and where: `PCI range node at 0x30`."""
        name = NODE_NAMES.get(self.word.type)
        kind = f"{name} node" if name else f"node of type {self.word.type}"
        return f"{kind} at {self.offset:#x}"


@dataclass(frozen=True)
class Viot(ReadTable):
    """A VIOT: `fields` after its header, and its nodes in order."""

    fields: ViotFields
    nodes: tuple[ViotNode, ...]

    @cached_property
    def units(self) -> dict[int, str]:
        """The names of the virtio-iommus by the offset of their nodes, numbered in order."""
        nodes = [node for node in self.nodes if isinstance(node.word, VirtioIommuPci | VirtioIommuMmio)]
        return {node.offset: f"virtio-iommu{number}" for number, node in enumerate(nodes)}


def read_viot(data: bytes, file: str = "VIOT") -> Viot:
    """Read a VIOT: its nodes, as ACPI 6.5, 5.2, defines them.

    `data` are the table's bytes, `file` what messages call it. What is wrong with the table is in `findings`, and what
    can be read is read. Raises InputError for what is no VIOT, or larger than 256 KiB.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 10} KiB, the most that is read of a VIOT")
    table = read_table(data, file, "VIOT")
    fields = table.region.read(ViotFields, HEADER_BYTES, "the header of the VIOT")
    viot = Viot(table, fields or ViotFields(), _nodes(table.region, fields) if fields is not None else ())
    for node in viot.nodes:
        _check(viot, node)
    return viot


def _nodes(table: Region, fields: ViotFields) -> tuple[ViotNode, ...]:
    """Read the nodes of a table, as many as its header counts."""
    start, count = fields.node_offset, fields.node_count
    if not _LEAST_OFFSET <= start <= len(table):
        table.found(NODE_OFFSET, HEADER_BYTES, node_offset=start, most=len(table))
        return ()
    every = table.part(start).headed(ViotNodeHeader, "a node of the VIOT", "the header of a node of the VIOT")
    parts = list(islice(every, count))
    if len(parts) < count:
        table.found(NODE_COUNT, HEADER_BYTES, count=count, read=len(parts))
    return tuple(ViotNode(part.start - table.start, part.data, _word(part)) for part in parts)


def _word(part: Region) -> ViotNodeHeader:
    """Return a node's fields; only its header's where its type is not known, or it is too short."""
    header = ViotNodeHeader.unpack(part.data[:_NODE_HEADER_BYTES])
    form = NODE_KINDS.get(header.type)
    if form is None:
        part.found(UNKNOWN_NODE, type=header.type)
        return header
    needed = form.SIZE // 8
    if len(part) < needed:
        part.found(SHORT_NODE, what=NODE_NAMES[header.type], have=len(part), needed=needed)
        return header
    return form.unpack(part.data[:needed])


def _check(viot: Viot, node: ViotNode) -> None:
    """Check where a node leads, and which functions it has."""
    word, region = node.word, viot.table.region
    if isinstance(word, PciRange | MmioEndpoint) and word.output_node not in viot.units:
        region.found(BAD_REFERENCE, node.offset, node=node.title, reference=word.output_node)
    if isinstance(word, PciRange) and (word.segment_end < word.segment_start or word.bdf_end < word.bdf_start):
        segments = {"first_segment": word.segment_start, "last_segment": word.segment_end}
        region.found(EMPTY_RANGE, node.offset, node=node.title, **segments, first=word.bdf_start, last=word.bdf_end)


def viot_says(viot: Viot) -> Said:
    """Say what a VIOT means for a machine."""
    said = Said(viot.file, findings=list(viot.findings))
    for node in viot.nodes:
        if node.offset in viot.units:
            said.iommus.append(_unit(viot, node))
        if isinstance(node.word, MmioEndpoint):
            said.endpoints.append(_endpoint(viot, node, node.word))
    maps = _rid_maps(viot)
    said.rid_maps.extend(islice(maps, MOST_MAPS))
    if next(maps, None) is not None:
        said.found([TOO_MANY_MAPS.finding(file=viot.file)])
    return said


def _unit(viot: Viot, node: ViotNode) -> Iommu:
    """Say what the table tells of a virtio-iommu."""
    origin = f"VIOT, {node.title}"
    base = node.word.base_address if isinstance(node.word, VirtioIommuMmio) else None
    rid = Rid(node.word.segment, node.word.bdf) if isinstance(node.word, VirtioIommuPci) else None
    if rid is not None:
        origin += f" (function {rid})"
    unit = Iommu(viot.units[node.offset], "virtio-iommu", origin, base, rid=rid)
    unit.say("pasid_bits", 0, f"{origin}: a virtio-iommu has no PASIDs in Linux")
    unit.say("sva", False, f"{origin}: Linux's driver of the virtio-iommu has no SVA")
    return unit


def _endpoint(viot: Viot, node: ViotNode, word: MmioEndpoint) -> Endpoint:
    """Say what the table tells of a device that is no PCI function."""
    origin = f"VIOT, {node.title}"
    device = Endpoint(f"mmio@{word.base_address:x}", "platform", origin)
    device.say("kind", "narrow", f"{origin}: no PCI function")
    unit = viot.units.get(word.output_node)
    if unit is not None:
        device.say("iommu", unit, f"{origin}, output node {word.output_node:#x}")
    return device


def _rid_maps(viot: Viot) -> Iterator[RidMap]:
    """Yield which functions reach which virtio-iommu; first of all those that are one."""
    for node in viot.nodes:
        if isinstance(node.word, VirtioIommuPci):
            segment, bdf = node.word.segment, node.word.bdf
            yield RidMap(segment, bdf, bdf, None, f"VIOT, {node.title}: it does not translate for itself")
    for node in viot.nodes:
        if isinstance(node.word, PciRange):
            yield from _range_maps(viot, node, node.word)


def _range_maps(viot: Viot, node: ViotNode, word: PciRange) -> Iterator[RidMap]:
    """Yield the map of each segment of a PCI range."""
    if word.bdf_end < word.bdf_start:
        return
    unit = viot.units.get(word.output_node)
    for number, segment in enumerate(range(word.segment_start, word.segment_end + 1)):
        endpoint = word.endpoint_start + (number << 16)
        yield RidMap(segment, word.bdf_start, word.bdf_end, unit, f"VIOT, {node.title}", output=endpoint)

"""Reading a RIMT: its nodes, their ID mappings, and what is wrong with them.

Source: RISC-V IO Mapping Table specification 1.0; rimt_scan_node(), rimt_id_map() and rimt_node_map_id()
(drivers/acpi/riscv/rimt.c), Linux 6.18.

Decided here: nodes beyond the number that the table says are not used, as in Linux.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pasidlab.platforms.acpi.bounds import Budget, first_ones
from pasidlab.platforms.acpi.header import HEADER_BYTES, ReadTable, read_table
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.platforms.acpi.rimt_words import (
    NODE_NAMES,
    IdMapping,
    InterruptWire,
    IommuNode,
    NodeType,
    PlatformNode,
    RimtFields,
    RimtNode,
    RootComplexNode,
)
from pasidlab.rules import Level, Rule

N = TypeVar("N", bound=RimtNode)
W = TypeVar("W", IdMapping, InterruptWire)
RIMT_SPEC = "RISC-V IO Mapping Table 1.0"
RIMT_C = "(drivers/acpi/riscv/rimt.c)"

UNKNOWN_NODE = Rule(
    "rimt.unknown-node",
    RIMT_SPEC,
    "a node's type is none of 0 to 2",
    "{file}, offset {offset}: node of type {type}, {length} bytes, is none that the specification has",
    source=RIMT_SPEC,
    level=Level.NOTE,
)
NODE_COUNT = Rule(
    "rimt.node-count",
    f"rimt_scan_node {RIMT_C}",
    "the table has another number of nodes than it says",
    "{file}: says that it has {said} nodes, and has {found}; Linux looks at no more than it says",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
)
NODE_OFFSET = Rule(
    "rimt.node-offset",
    RIMT_SPEC,
    "the first node is not where nodes can be",
    "{file}: the first node should be at {start:#x}, outside of the table or within its header; no node is read",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
ARRAY = Rule(
    "rimt.array",
    RIMT_SPEC,
    "an array of a node begins within the node's fields, or ends beyond the node",
    "{file}, offset {offset}: {count} {what} from byte {start} on do not fit in the {length} bytes of the {node} node; "
    "{read} are read",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """An ID mapping: its fields, and where it begins in the file."""

    word: IdMapping
    offset: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        word: its fields; a `RimtNode` only, for a type that is not known.
        offset: where it begins in the file.
        mappings: of a root complex or platform device.
        wires: of an IOMMU.
        name: of a platform device, its path in the ACPI namespace.
    """

    word: RimtNode
    offset: int
    mappings: tuple[Mapping, ...] = ()
    wires: tuple[InterruptWire, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rimt(ReadTable):
    """A RIMT: `fields` after its header, and all nodes in order."""

    fields: RimtFields
    nodes: tuple[Node, ...]

    def all_of(self, kind: type[N]) -> Iterator[tuple[Node, N]]:
        """Yield the nodes of one kind, each with its fields."""
        return ((node, node.word) for node in self.nodes if isinstance(node.word, kind))


def read_nodes(data: bytes, file: str) -> Rimt:
    """Read a table without comparing its nodes with each other; raises InputError for what is no RIMT."""
    table = read_table(data, file, "RIMT")
    region = table.region
    fields = region.read(RimtFields, HEADER_BYTES, "what follows the header")
    if fields is None:
        return Rimt(table, RimtFields(), ())
    start, count = fields.node_offset, fields.number_of_nodes
    if count and not HEADER_BYTES + RimtFields.SIZE // 8 <= start < len(region):
        region.found(NODE_OFFSET, start=start)
        return Rimt(table, fields, ())
    every = region.part(start).headed(RimtNode, "node") if count else iter(())
    parts = list(first_ones(every, "nodes"))
    if len(parts) != count:
        region.found(NODE_COUNT, said=count, found=len(parts))
    left = Budget()
    nodes = tuple(node for part in parts[:count] if (node := _node(part, left)) is not None)
    return Rimt(table, fields, nodes)


def _node(region: Region, left: Budget) -> Node | None:
    """Read one node; None, and a finding, when it is too short for its type. `left` is how much more is read."""
    head = RimtNode.unpack(region.data[: RimtNode.SIZE // 8])
    match head.type:
        case NodeType.IOMMU:
            iommu = region.read(IommuNode, 0, "IOMMU node")
            return None if iommu is None else Node(iommu, region.start, wires=_wires(region, iommu, left))
        case NodeType.PCIE_ROOT_COMPLEX:
            root = region.read(RootComplexNode, 0, "PCIe root complex node")
            return None if root is None else Node(root, region.start, _mappings(region, root, left))
        case NodeType.PLATFORM_DEVICE:
            device = region.read(PlatformNode, 0, "platform device node")
            name = region.text(PlatformNode.SIZE // 8)
            return None if device is None else Node(device, region.start, _mappings(region, device, left), name=name)
    region.found(UNKNOWN_NODE, type=head.type, length=head.length)
    return Node(head, region.start)


def _mappings(region: Region, word: RootComplexNode | PlatformNode, left: Budget) -> tuple[Mapping, ...]:
    found = _array(region, IdMapping, word.mapping_offset, word.number_of_mappings, left)
    return tuple(Mapping(one, region.start + at) for at, one in found)


def _wires(region: Region, word: IommuNode, left: Budget) -> tuple[InterruptWire, ...]:
    return tuple(one for _, one in _array(region, InterruptWire, word.wire_offset, word.number_of_wires, left))


FIELD_BYTES: dict[int, int] = {
    NodeType.IOMMU: IommuNode.SIZE // 8,
    NodeType.PCIE_ROOT_COMPLEX: RootComplexNode.SIZE // 8,
    NodeType.PLATFORM_DEVICE: PlatformNode.SIZE // 8,
}
ARRAY_NAMES: dict[type, str] = {IdMapping: "ID mappings", InterruptWire: "interrupt wires"}


def _array(region: Region, kind: type[W], at: int, count: int, left: Budget) -> list[tuple[int, W]]:
    """Read an array of a node, as much of it as lies behind the node's fields and within the node."""
    node = RimtNode.unpack(region.data[: RimtNode.SIZE // 8])
    size = kind.SIZE // 8
    fitting = max(0, len(region) - at) // size if at >= FIELD_BYTES[node.type] else 0
    what = ARRAY_NAMES[kind]
    read = left.take(min(count, fitting), region, what)
    if fitting < count:
        name, length = NODE_NAMES[node.type], len(region)
        region.found(ARRAY, count=count, what=what, start=at, read=fitting, node=name, length=length)
    starts = range(at, at + read * size, size)
    return [(start, kind.unpack(region.data[start : start + size])) for start in starts]

"""RHCT, the table by which firmware describes RISC-V harts: instructions and page tables.

Source: RISC-V Hart Capabilities Table (ACPI 6.6, 5.2.37); acpi_get_riscv_isa() (drivers/acpi/riscv/rhct.c), Linux 6.12.

Decided here: harts of one machine are told together, by what they have in common. Shared page tables need the IOMMU to
walk what harts have, so the widest table of any hart is told; no key of a machine description depends on it, since
Linux has no SVA on RISC-V.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pasidlab.platforms.acpi.bounds import Budget, first_ones
from pasidlab.platforms.acpi.header import HEADER_BYTES, ReadTable, read_table
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.platforms.acpi.rhct_words import (
    MMU_TYPES,
    NODE_NAMES,
    CmoNode,
    HartInfoNode,
    IsaStringNode,
    MmuNode,
    NodeType,
    RhctFields,
    RhctNode,
)
from pasidlab.platforms.said import Said
from pasidlab.rules import Level, Rule

N = TypeVar("N", bound=RhctNode)
RHCT_SPEC = "ACPI 6.6, 5.2.37"
OFFSET_BYTES = 4

UNKNOWN_NODE = Rule(
    "rhct.unknown-node",
    RHCT_SPEC,
    "a node's type is none of 0 to 2 and 65535",
    "{file}, offset {offset}: node of type {type}, {length} bytes, is none that the specification has",
    source=RHCT_SPEC,
    level=Level.NOTE,
)
NODE_OFFSET = Rule(
    "rhct.node-offset",
    RHCT_SPEC,
    "the first node is not where nodes can be",
    "{file}: the first node should be at {start:#x}, outside of the table or within its header; no node is read",
    source=RHCT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NODE_COUNT = Rule(
    "rhct.node-count",
    RHCT_SPEC,
    "the table has another number of nodes than it says",
    "{file}: says that it has {said} nodes, and has {found}; Linux reads to the end of the table",
    source=RHCT_SPEC,
    remedy=TAKE_AGAIN,
)
HART_OFFSETS = Rule(
    "rhct.hart-offsets",
    RHCT_SPEC,
    "a hart's list of offsets does not fit in its node, or leads to no node",
    "{file}, offset {offset}: hart {uid}: {what}",
    source=RHCT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NO_ISA = Rule(
    "rhct.no-isa",
    "acpi_get_riscv_isa (drivers/acpi/riscv/rhct.c)",
    "a hart has no ISA string",
    "{file}, offset {offset}: hart {uid} has no ISA string; Linux does not start it",
    source=RHCT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
ISA_STRING = Rule(
    "rhct.isa-string",
    RHCT_SPEC,
    "an ISA string does not begin with rv, or has no end",
    "{file}, offset {offset}: the ISA string {text!r} {what}",
    source=RHCT_SPEC,
    remedy=TAKE_AGAIN,
)
MMU_TYPE = Rule(
    "rhct.mmu-type",
    RHCT_SPEC,
    "an MMU type is none of 0 to 2",
    "{file}, offset {offset}: MMU type {type}; known are 0 (Sv39), 1 (Sv48) and 2 (Sv57)",
    source=RHCT_SPEC,
    remedy=TAKE_AGAIN,
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its fields, where it begins in the file, an ISA string's text, and what a hart's offsets lead to."""

    word: RhctNode
    offset: int
    text: str = ""
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rhct(ReadTable):
    """An RHCT: `fields` after its header, and all nodes in order."""

    fields: RhctFields
    nodes: tuple[Node, ...]

    def all_of(self, kind: type[N]) -> Iterator[tuple[Node, N]]:
        """Yield the nodes of one kind, each with its fields."""
        return ((node, node.word) for node in self.nodes if isinstance(node.word, kind))


def read_rhct(data: bytes, file: str = "RHCT") -> Rhct:
    """Read an RHCT: harts, their ISA strings and page tables, as ACPI 6.6, 5.2.37, defines them.

    `data` are the table's bytes, `file` what messages call it. What is wrong with the table is in `findings`, and what
    can be read is read. Raises InputError for what is no RHCT, or larger than 1 MiB.
    """
    table = read_table(data, file, "RHCT")
    region = table.region
    fields = region.read(RhctFields, HEADER_BYTES, "what follows the header")
    if fields is None:
        return Rhct(table, RhctFields(), ())
    start = fields.node_offset
    if fields.node_count and not HEADER_BYTES + RhctFields.SIZE // 8 <= start < len(region):
        region.found(NODE_OFFSET, start=start)
        return Rhct(table, fields, ())
    every = region.part(start).headed(RhctNode, "node") if fields.node_count else iter(())
    parts = list(first_ones(every, "nodes"))
    if len(parts) != fields.node_count:
        region.found(NODE_COUNT, said=fields.node_count, found=len(parts))
    left = Budget()
    rhct = Rhct(table, fields, tuple(node for part in parts if (node := _node(part, left)) is not None))
    _check_harts(rhct)
    return rhct


def rhct_says(rhct: Rhct) -> Said:
    """Return what a table says of a machine: remarks on its harts."""
    said = Said(rhct.file, findings=list(rhct.findings))
    at = {node.offset: node for node in rhct.nodes}
    isas: Counter[str] = Counter()
    tables: Counter[str] = Counter()
    for node, _ in rhct.all_of(HartInfoNode):
        words = [at[offset] for offset in node.offsets if offset in at]
        isas.update([one.text for one in words if isinstance(one.word, IsaStringNode)][:1])
        tables.update([_mmu(one.word) for one in words if isinstance(one.word, MmuNode)][:1])
    total = sum(1 for _ in rhct.all_of(HartInfoNode))
    said.remarks.append(f"RHCT: harts: {total}")
    said.remarks.extend(f"RHCT: {count} of {total} harts with {isa}" for isa, count in isas.items())
    said.remarks.extend(f"RHCT: {count} of {total} harts with page tables {name}" for name, count in tables.items())
    return said


def _mmu(word: MmuNode) -> str:
    return MMU_TYPES.get(word.mmu_type, f"of unknown type {word.mmu_type}")


# --- reading -------------------------------------------------------------------------------------------------------


KINDS: dict[int, type[RhctNode]] = {
    NodeType.ISA_STRING: IsaStringNode,
    NodeType.CMO: CmoNode,
    NodeType.MMU: MmuNode,
    NodeType.HART_INFO: HartInfoNode,
}


def _node(region: Region, left: Budget) -> Node | None:
    """Read one node; None, and a finding, when it is too short for its type."""
    head = RhctNode.unpack(region.data[: RhctNode.SIZE // 8])
    kind = KINDS.get(head.type)
    if kind is None:
        region.found(UNKNOWN_NODE, type=head.type, length=head.length)
        return Node(head, region.start)
    word = region.read(kind, 0, f"{NODE_NAMES[head.type]} node")
    match word:
        case None:
            return None
        case IsaStringNode():
            return Node(word, region.start, text=_isa(region, word))
        case HartInfoNode():
            return Node(word, region.start, offsets=_offsets(region, word, left))
        case MmuNode() if word.mmu_type not in MMU_TYPES:
            region.found(MMU_TYPE, type=word.mmu_type)
    return Node(word, region.start)


def _isa(region: Region, word: IsaStringNode) -> str:
    """Return the text of an ISA string."""
    raw = region.part(IsaStringNode.SIZE // 8, word.isa_length)
    text = raw.text(0)
    if b"\0" not in raw.data:
        region.found(ISA_STRING, text=text, what="has no end within its length")
    elif not text.startswith("rv"):
        region.found(ISA_STRING, text=text, what="does not begin with rv32 or rv64")
    return text


def _offsets(region: Region, word: HartInfoNode, left: Budget) -> tuple[int, ...]:
    """Return a hart's offsets, those that are within its node."""
    start = HartInfoNode.SIZE // 8
    fitting = (len(region) - start) // OFFSET_BYTES
    read = left.take(min(word.number_of_offsets, fitting), region, "offsets of harts")
    if fitting < word.number_of_offsets:
        what = f"{word.number_of_offsets} offsets do not fit in its {len(region)} bytes; {fitting} are read"
        region.found(HART_OFFSETS, uid=word.uid, what=what)
    ends = range(start, start + read * OFFSET_BYTES, OFFSET_BYTES)
    return tuple(int.from_bytes(region.data[at : at + OFFSET_BYTES], "little") for at in ends)


def _check_harts(rhct: Rhct) -> None:
    """Look where the offsets of harts lead."""
    at = {node.offset: node for node in rhct.nodes}
    found = rhct.table.region.found
    for node, hart in rhct.all_of(HartInfoNode):
        lost = [offset for offset in node.offsets if offset not in at]
        if lost:
            found(HART_OFFSETS, node.offset, uid=hart.uid, what=f"no node begins at {lost[0]:#x}")
        if not any(isinstance(at[offset].word, IsaStringNode) for offset in node.offsets if offset in at):
            found(NO_ISA, node.offset, uid=hart.uid)

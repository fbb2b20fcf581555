"""The nodes of an IORT: each read by its type, its revision and its length.

Source: Arm DEN0049, IO Remapping Table, issues A to E.g; how Linux goes through them is iort_scan_node()
(drivers/acpi/arm64/iort.c). The structures are in `iort_words`.

Decided here: as many nodes are read as the header counts, as Linux does, and none after one with a wrong length. A
field that the node's revision does not define reads as 0, and so does one that should be there and is not, which is a
finding. ID mappings that do not fit in their node are not read; Linux reads them from what follows the node.

Not read: the interrupts of an SMMUv1/v2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from pasidlab.platforms.acpi.header import HEADER_BYTES, ReadTable
from pasidlab.platforms.acpi.iort_words import (
    NODE_NAMES,
    NODES,
    IdMapping,
    IortFields,
    IortNodeHeader,
    ItsGroup,
    Iwb,
    NamedComponent,
    Rmr,
    RmrRange,
)
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.rules import Level, Rule
from pasidlab.words import Word

_HEADER_BYTES = IortNodeHeader.SIZE // 8
_LEAST_OFFSET = HEADER_BYTES + IortFields.SIZE // 8

NODE_OFFSET = Rule(
    "iort.node-offset",
    "IORT header, node offset",
    "the offset of the first node lies outside of the table, or in its header",
    "{file}: the first node is said to be at {node_offset:#x}; allowed are {least:#x} to {most:#x}; no node is read",
    source="DEN0049, IORT",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NODE_COUNT = Rule(
    "iort.node-count",
    "IORT header, node count",
    "the table has fewer nodes than its header counts",
    "{file}: the header counts {count} nodes, and {read} can be read",
    source="DEN0049, IORT",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
BYTES_LEFT = Rule(
    "iort.bytes-left",
    "IORT header, node count",
    "bytes follow the last node that the header counts",
    "{file}, offset {offset}: {left} bytes follow the last of {count} nodes; Linux does not read them, nor does this",
    source="iort_scan_node (drivers/acpi/arm64/iort.c)",
    remedy="if nodes are missing, the firmware counts them wrongly",
)
UNKNOWN_NODE = Rule(
    "iort.unknown-node",
    "IORT node header, type",
    "the type of a node is none of 0 to 7",
    "{file}, offset {offset}: a node of type {type}, which the specification (issue E.g) does not have; it is kept raw",
    source="DEN0049 E.g, node format",
    level=Level.NOTE,
)
SHORT_NODE = Rule(
    "iort.short-node",
    "IORT node header, length",
    "a node is too short for what its type has in every revision",
    "{file}, offset {offset}: the {what} has {have} bytes between header and ID mappings, and needs {needed}; "
    "what it says is not read",
    source="DEN0049",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
MISSING_FIELDS = Rule(
    "iort.missing-fields",
    "IORT node header, revision",
    "a node is too short for its revision",
    "{file}, offset {offset}: the {what} is of revision {revision}, which has {needed} bytes between header and ID "
    "mappings, and there are {have}; fields that are missing read as 0",
    source="DEN0049",
    remedy=TAKE_AGAIN,
)
LIST_TOO_LONG = Rule(
    "iort.list-too-long",
    "IORT nodes, counts and offsets",
    "a node counts more parts than fit in it",
    "{file}, offset {offset}: the {what} counts {count} {items} from its byte {byte} on, and {fit} fit in it; "
    "only those are read",
    source="DEN0049; iort_node_map_id reads on beyond the node",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """An ID mapping of a node: its place in the node's array, its offset in the table, and its fields."""

    index: int
    offset: int
    word: IdMapping


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        offset: from the start of the table, by which other nodes refer to it.
        raw: all its bytes.
        word: what its type has; None for a type that is not known, and for a node that is too short.
        given: how many bytes of `word` the node has; the fields after them read as 0.
        mappings: its ID mappings, as far as they fit in it.
        name: of a named component and of an interrupt wire bridge, the path of its object in the ACPI namespace.
        identifiers: of an ITS group, those of its translation services.
        ranges: of a reserved memory range node, its ranges.
    """

    offset: int
    header: IortNodeHeader
    raw: bytes
    word: Word | None
    given: int = 0
    mappings: tuple[Mapping, ...] = ()
    name: str = ""
    identifiers: tuple[int, ...] = ()
    ranges: tuple[RmrRange, ...] = ()

    @property
    def type(self) -> int:
        """Its type, as in `iort_words.NODE_NAMES`."""
        return self.header.type

    @property
    def title(self) -> str:
        """What it is and where: `SMMUv3 node at 0x48`."""
        return f"{kind_of(self.header)} at {self.offset:#x}"


@dataclass(frozen=True)
class Iort(ReadTable):
    """An IORT: `fields` after its header, and its nodes in order."""

    fields: IortFields
    nodes: tuple[Node, ...]

    @cached_property
    def by_offset(self) -> dict[int, Node]:
        """The nodes by their offset in the table."""
        return {node.offset: node for node in self.nodes}


def kind_of(header: IortNodeHeader) -> str:
    """Return what a node is, in words."""
    name = NODE_NAMES.get(header.type)
    return f"{name} node" if name else f"node of type {header.type}"


def read_nodes(table: Region, fields: IortFields) -> tuple[Node, ...]:
    """Read the nodes of a table, as many as its header counts."""
    start, count = fields.node_offset, fields.node_count
    if not _LEAST_OFFSET <= start <= len(table):
        table.found(NODE_OFFSET, HEADER_BYTES, node_offset=start, least=_LEAST_OFFSET, most=len(table))
        return ()
    every = table.part(start).headed(IortNodeHeader, "a node of the IORT", "the header of a node of the IORT")
    parts = list(islice(every, count))
    if len(parts) < count:
        table.found(NODE_COUNT, HEADER_BYTES, count=count, read=len(parts))
    end = parts[-1].start - table.start + len(parts[-1]) if parts else start
    if len(parts) == count and end < len(table):
        table.found(BYTES_LEFT, end, left=len(table) - end, count=count)
    return tuple(_node(part, part.start - table.start) for part in parts)


def _node(part: Region, offset: int) -> Node:
    """Read a node."""
    header = IortNodeHeader.unpack(part.data[:_HEADER_BYTES])
    mappings = _mappings(part, offset, header)
    body = part.part(_HEADER_BYTES, _body_end(part, header) - _HEADER_BYTES)
    word, given = _word(body, header)
    if word is None:
        return Node(offset, header, part.data, None, mappings=mappings)
    return Node(
        offset,
        header,
        part.data,
        word,
        given,
        mappings,
        name=body.text(given) if isinstance(word, NamedComponent | Iwb) else "",
        identifiers=_identifiers(part, word),
        ranges=_ranges(part, word),
    )


def _body_end(part: Region, header: IortNodeHeader) -> int:
    """Return where in a node that ends which its type has: at its ID mappings, or at its own end."""
    at = header.mapping_offset
    return at if header.mapping_count and _HEADER_BYTES <= at < len(part) else len(part)


def _word(body: Region, header: IortNodeHeader) -> tuple[Word | None, int]:
    """Return what a node's type has, and how many bytes of it there are; None when it cannot be told."""
    form = NODES.get(header.type)
    if form is None:
        body.found(UNKNOWN_NODE, -_HEADER_BYTES, type=header.type)
        return None, 0
    have, least, needed = len(body), form.needed(0), form.needed(header.revision)
    if have < least:
        body.found(SHORT_NODE, -_HEADER_BYTES, what=kind_of(header), have=have, needed=least)
        return None, 0
    if have < needed:
        facts = {"what": kind_of(header), "revision": header.revision, "have": have, "needed": needed}
        body.found(MISSING_FIELDS, -_HEADER_BYTES, **facts)
    given = min(have, needed)
    return form.word.unpack(body.data[:given]), given


def _mappings(part: Region, offset: int, header: IortNodeHeader) -> tuple[Mapping, ...]:
    """Read a node's ID mappings."""
    at, size = header.mapping_offset, IdMapping.SIZE // 8
    pieces = _list(part, at, header.mapping_count, size, "ID mappings")
    return tuple(
        Mapping(index, offset + at + index * size, IdMapping.unpack(piece)) for index, piece in enumerate(pieces)
    )


def _identifiers(part: Region, word: Word) -> tuple[int, ...]:
    """Read the identifiers of an ITS group; other nodes have none."""
    if not isinstance(word, ItsGroup):
        return ()
    at = _HEADER_BYTES + ItsGroup.SIZE // 8
    return tuple(int.from_bytes(piece, "little") for piece in _list(part, at, word.its_count, 4, "identifiers"))


def _ranges(part: Region, word: Word) -> tuple[RmrRange, ...]:
    """Read the ranges of a reserved memory range node; other nodes have none."""
    if not isinstance(word, Rmr):
        return ()
    pieces = _list(part, word.range_offset, word.range_count, RmrRange.SIZE // 8, "memory ranges")
    return tuple(RmrRange.unpack(piece) for piece in pieces)


def _list(part: Region, at: int, count: int, size: int, items: str) -> list[bytes]:
    """Return the bytes of each part of an array in a node, as far as it fits."""
    fit = max(0, len(part) - at) // size if at >= _HEADER_BYTES else 0
    if count > fit:
        what = kind_of(IortNodeHeader.unpack(part.data[:_HEADER_BYTES]))
        part.found(LIST_TOO_LONG, what=what, count=count, items=items, byte=at, fit=fit)
    return [part.data[at + index * size : at + (index + 1) * size] for index in range(min(count, fit))]

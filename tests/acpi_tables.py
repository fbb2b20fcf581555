"""Makes ACPI tables out of the package's own words, for the tests of their readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pasidlab.platforms.acpi.header import HEADER_BYTES, AcpiHeader
from pasidlab.platforms.acpi.iort_words import NODES, IdMapping, IortFields, IortNodeHeader, RmrRange
from pasidlab.platforms.acpi.viot_words import ViotFields, ViotNodeHeader
from pasidlab.words import Word


def table(signature: str, body: bytes, revision: int = 0) -> bytes:
    """Return a table with a right length and checksum."""
    header = AcpiHeader(
        signature=int.from_bytes(signature.encode(), "little"), length=HEADER_BYTES + len(body), revision=revision
    )
    return summed(header.pack() + body)


def summed(data: bytes) -> bytes:
    """Return a table with the checksum set right."""
    clean = data[:9] + b"\0" + data[10:]
    return data[:9] + bytes([-sum(clean) & 0xFF]) + data[10:]


@dataclass(frozen=True)
class To:
    """An ID mapping to the node of a number; `offset` refers to any place instead."""

    node: int
    input_base: int = 0
    count: int = 1
    output_base: int = 0
    single: bool = False
    offset: int | None = None


@dataclass(frozen=True)
class Make:
    """A node to be made. `body` cuts what its type has to so many bytes."""

    word: Word
    type: int
    revision: int = 4
    identifier: int = 0
    maps: Sequence[To] = ()
    name: str = ""
    identifiers: Sequence[int] = ()
    ranges: Sequence[RmrRange] = ()
    body: int | None = None
    count: int | None = None

    def own(self) -> bytes:
        """Return the bytes between header and ID mappings."""
        size = NODES[self.type].needed(self.revision) if self.type in NODES else len(self.word.pack())
        raw = self.word.pack()[: size if self.body is None else self.body]
        raw += self.name.encode() + b"\0" if self.name else b""
        raw += b"".join(one.to_bytes(4, "little") for one in self.identifiers)
        return raw + bytes(-len(raw) % 4) if self.name else raw

    def bytes(self, places: Sequence[int]) -> bytes:
        """Return the whole node, when it is known where the others begin."""
        own = self.own()
        after = 16 + len(own) + 20 * len(self.maps)
        if self.ranges:
            word = type(self.word)(self.word, range_count=len(self.ranges), range_offset=after)
            own = word.pack()
        header = IortNodeHeader(
            type=self.type,
            length=after + 20 * len(self.ranges),
            revision=self.revision,
            identifier=self.identifier,
            mapping_count=len(self.maps) if self.count is None else self.count,
            mapping_offset=16 + len(own) if self.maps else 0,
        )
        maps = b"".join(_mapping(one, places).pack() for one in self.maps)
        return header.pack() + own + maps + b"".join(one.pack() for one in self.ranges)


def _mapping(one: To, places: Sequence[int]) -> IdMapping:
    return IdMapping(
        input_base=one.input_base,
        id_count=one.count - 1,
        output_base=one.output_base,
        output_reference=places[one.node] if one.offset is None else one.offset,
        single=one.single,
    )


def iort(*nodes: Make, count: int | None = None, start: int = 0x30) -> bytes:
    """Return an IORT of nodes; those that refer to another do so by its number."""
    places = []
    at = start
    for node in nodes:
        places.append(at)
        at += len(node.bytes([0] * len(nodes)))
    header = IortFields(node_count=len(nodes) if count is None else count, node_offset=start)
    return table("IORT", header.pack() + bytes(start - 0x30) + b"".join(node.bytes(places) for node in nodes), 6)


def viot(*words: ViotNodeHeader, count: int | None = None) -> bytes:
    """Return a VIOT of nodes, whose lengths are set."""
    nodes = b"".join(type(word)(word, length=len(word.pack())).pack() for word in words)
    header = ViotFields(node_count=len(words) if count is None else count, node_offset=0x30)
    return table("VIOT", header.pack() + nodes)

"""A device tree blob as the library `fdt` reads it, and what has to be true of the blob before it may.

Source: Devicetree Specification 0.4, chapter 5 (flattened format); Linux takes no deeper tree (FDT_MAX_DEPTH,
drivers/of/fdt.c), and on arm64 no larger one than half of what is read here.

Decided here: the library is made for trees of a build, not for ones that somebody sends. It looks through all
siblings for every node and property that it adds, knows no FDT_NOP, walks to the end of any string, and trusts each
offset. So the structure block is first walked once and written anew: what does not fit is an InputError with its
offset, NOPs are left out, and nodes beside one another are put into groups of at most GROUP, under nodes with a name
that no tree can have. The library reads that; its guess at the type of a property is taken back, which is exact.

Not read: memory reservations; versions before 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import NoReturn

import fdt  # type: ignore[import-untyped]
from fdt.header import (  # type: ignore[import-untyped]
    DTB_BEGIN_NODE,
    DTB_END,
    DTB_END_NODE,
    DTB_NOP,
    DTB_PROP,
)

from pasidlab.errors import InputError

MAGIC = b"\xd0\x0d\xfe\xed"
HEADER_BYTES = 40
MOST_BYTES = 4 << 20
MOST_DEPTH = 64
MOST_NODES = 200_000
LONGEST_NAME = 255
GROUP = 64
MOST_LOOKS = 20_000_000
"""How often the library may compare the names of two properties."""
_GROUP_NAME = "\x0b"
_VERSIONS = (16, 17)
_WORD, _PROPERTY = Struct(">I"), Struct(">II")


@dataclass(slots=True, eq=False)
class BlobNode:
    """A node of a blob: its name, its properties as bytes, and the nodes below it."""

    name: str
    properties: dict[str, bytes]
    children: list[BlobNode] = field(default_factory=list)


def read_blob(data: bytes, file: str) -> BlobNode:
    """Return the root of a device tree blob; raises InputError for what is none."""
    if data[:4] != MAGIC:
        raise InputError(f"{file}: begins with {data[:4].hex() or 'nothing'}; a device tree blob begins with d00dfeed")
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 20} MiB, the most that is read of a device tree")
    if len(data) < HEADER_BYTES:
        raise InputError(f"{file}: {len(data)} bytes are too few for the header of a device tree")
    try:
        header = fdt.Header.parse(data)
    except Exception as wrong:
        raise InputError(f"{file}: the header of the device tree is wrong: {wrong}") from wrong
    return _parse(_Rewriter(data, file, header).blob(), file)


def _parse(blob: bytes, file: str) -> BlobNode:
    """Let the library read a blob that was written anew."""
    try:
        root = fdt.parse_dtb(blob).root
    except Exception as wrong:
        raise InputError(f"{file}: the device tree is wrong: {wrong}") from wrong
    return _without_groups(root)


def _without_groups(root: fdt.Node) -> BlobNode:
    """Return the library's tree as ours, the groups dissolved."""
    top = BlobNode("/", _properties(root))
    pending = [(root, top)]
    for node, ours in pending:
        for child in node.nodes:
            if child.name.startswith(_GROUP_NAME):
                pending.append((child, ours))
                continue
            below = BlobNode(child.name, _properties(child))
            ours.children.append(below)
            pending.append((child, below))
    return top


def _properties(node: fdt.Node) -> dict[str, bytes]:
    return {prop.name: _bytes(prop) for prop in node.props}


def _bytes(prop: fdt.Property) -> bytes:
    """Return the bytes of a property, of whichever type the library takes it for."""
    if isinstance(prop, fdt.PropStrings):
        return b"".join(text.encode("ascii") + b"\0" for text in prop.data)
    if isinstance(prop, fdt.PropWords):
        return b"".join(map(_WORD.pack, prop.data))
    return bytes(prop.data) if isinstance(prop, fdt.PropBytes) else b""


class _Rewriter:
    """Walks the structure block of a blob once, checks it, and writes it anew."""

    def __init__(self, data: bytes, file: str, header: fdt.Header) -> None:
        self.file = file
        self.end = header.total_size
        if header.version not in _VERSIONS:
            raise InputError(f"{file}: a device tree of version {header.version}; 16 and 17 are read")
        if self.end > len(data):
            raise InputError(f"{file}: the device tree says that it has {self.end} bytes, and the file has {len(data)}")
        self.data = data[: self.end]
        self.at = header.off_dt_struct
        strings = header.off_dt_strings
        self.strings = self.data[strings : strings + header.size_dt_strings]
        self.out: list[bytes] = []
        self.children: list[int] = []
        self.properties = 0
        self.nodes = self.looks = 0

    def blob(self) -> bytes:
        """Return a blob of the same tree."""
        while self._token():
            pass
        structure = b"".join(self.out)
        header = fdt.Header()
        header.version = 17
        header.off_mem_rsvmap = header.size
        header.off_dt_struct = header.off_mem_rsvmap + 16
        header.off_dt_strings = header.off_dt_struct + len(structure)
        header.size_dt_struct, header.size_dt_strings = len(structure), len(self.strings)
        header.total_size = header.off_dt_strings + len(self.strings)
        whole: bytes = header.export() + bytes(16) + structure + self.strings
        return whole

    def _token(self) -> bool:
        """Take one token; returns whether more may follow."""
        start = self.at
        token = self._word()
        if token == DTB_NOP:
            return True
        if token == DTB_BEGIN_NODE:
            self._begin(start)
        elif token == DTB_PROP:
            self._property(start)
        elif token == DTB_END_NODE:
            self._end(start)
        elif token == DTB_END:
            if self.children or not self.nodes:
                self._wrong(start, f"it ends {'inside of a node' if self.children else 'without a node'}")
            self.out.append(_WORD.pack(DTB_END))
            return False
        else:
            self._wrong(start, f"{token:#x} is no token")
        return True

    def _begin(self, start: int) -> None:
        name = self._name(self.data, self.at, "the name of a node")
        self.at = _aligned(self.at + len(name) + 1)
        self.nodes += 1
        if len(self.children) >= MOST_DEPTH:
            self._wrong(start, f"nodes are more than {MOST_DEPTH} deep")
        if self.nodes > MOST_NODES:
            self._wrong(start, f"more than {MOST_NODES} nodes")
        if self.children:
            self._count_child()
        elif self.nodes > 1:
            self._wrong(start, "a second root")
        if self.children and (not name or b"/" in name or min(name) <= ord(" ")):
            self._wrong(start, f"{name!r} is no name of a node")
        self.out.append(_begin(name if self.children else b""))
        self.children.append(0)
        self.properties = 0

    def _count_child(self) -> None:
        """Begin a new group where one is due."""
        before = self.children[-1]
        self.children[-1] += 1
        if before and before % GROUP == 0:
            if before > GROUP:
                self.out.append(_WORD.pack(DTB_END_NODE))
            self.out.append(_begin(f"{_GROUP_NAME}{before}".encode()))

    def _end(self, start: int) -> None:
        if not self.children:
            self._wrong(start, "a node ends that did not begin")
        grouped = self.children.pop() > GROUP
        self.out.append(_WORD.pack(DTB_END_NODE) * (2 if grouped else 1))

    def _property(self, start: int) -> None:
        if not self.children:
            self._wrong(start, "a property outside of all nodes")
        if self.children[-1]:
            self._wrong(start, "a property behind the nodes below its own")
        if start + 12 > self.end:
            self._wrong(start, "a property is cut off")
        size, name = _PROPERTY.unpack_from(self.data, start + 4)
        value = start + 12
        if value + size > self.end:
            self._wrong(start, f"a property of {size} bytes reaches beyond the end")
        self._name(self.strings, name, f"the name, at {name:#x} of the strings, of the property at {start:#x}")
        self.looks += self.properties
        self.properties += 1
        if self.looks > MOST_LOOKS:
            self._wrong(start, "too many properties in a node")
        self.at = _aligned(value + size)
        self.out.append(self.data[start : value + size].ljust(self.at - start, b"\0"))

    def _word(self) -> int:
        if self.at % 4 or self.at + 4 > self.end:
            self._wrong(self.at, "it ends without its last token")
        word: int = _WORD.unpack_from(self.data, self.at)[0]
        self.at += 4
        return word

    def _name(self, data: bytes, at: int, what: str) -> bytes:
        end = data.find(b"\0", at, at + LONGEST_NAME + 1)
        if end < 0:
            self._wrong(self.at, f"{what} does not end within {LONGEST_NAME} characters")
        return data[at:end]

    def _wrong(self, at: int, what: str) -> NoReturn:
        raise InputError(f"{self.file}, offset {at:#x}: the device tree is wrong: {what}")


def _begin(name: bytes) -> bytes:
    whole = _WORD.pack(DTB_BEGIN_NODE) + name + b"\0"
    return whole.ljust(_aligned(len(whole)), b"\0")


def _aligned(size: int) -> int:
    return size + 3 & ~3

"""The tables that a file holds: one table, several one after another, or the text that acpidump prints.

Source: ACPI 6.5, 5.2.6, for what a table begins with; acpidump and acpixtract of ACPICA for the text: a line with
the signature, `@` and the address, then lines of an offset, a colon, up to 16 bytes in hexadecimal, and the same bytes
as characters, until an empty line. The offset has any number of digits, the file any kind of line end.

Decided here: the bytes of a line are what stands between the colon and the first two spaces behind a byte, so that
characters which look like bytes are not taken for them; an offset must be that of the bytes so far. Lines before the
first table, between tables and after the last say nothing and are passed over, and so is the root pointer, `RSD PTR`,
which is no table. A table that is shorter or longer than its header says is handed on as it is, for whoever reads it
to tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.header import HEADER_BYTES, AcpiHeader

MOST_BYTES = 64 << 20
"""Largest file of tables that is read; a line of acpidump has some 75 characters for 16 bytes."""
MOST_TABLES = 1024
"""Tables of one file that are read."""
_TITLE = re.compile(rb"^\s*(\S.{0,9}?) @ (?:0x)?[0-9A-Fa-f]+\s*$")
_BYTES = re.compile(rb"^\s*([0-9A-Fa-f]{1,8}): ((?:[0-9A-Fa-f]{2}(?: |$)){1,16})")
_SIGNATURE = re.compile(rb"[A-Z0-9_]{4}")


def tables_in(data: bytes, file: str) -> list[tuple[str, bytes]]:
    """Return the tables that a file holds, each with its signature, in order; InputError when it holds none."""
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 20} MiB, the most that is read of a file of ACPI tables")
    if not data.strip():
        raise InputError(f"{file}: is empty")
    tables: list[tuple[str, bytes]] = []
    for table in _dumped(data, file) if _is_text(data) else _concatenated(data, file):
        if len(tables) == MOST_TABLES:
            raise InputError(f"{file}: holds more than {MOST_TABLES} tables, the most that are read of one file")
        tables.append(table)
    if not tables:
        raise InputError(f"{file}: holds no ACPI table: neither a binary one nor acpidump's text, as 'IORT @ 0x...'")
    return tables


def _is_text(data: bytes) -> bool:
    """Tell text from a table: a table's length, revision and checksum are no text."""
    return b"\0" not in data


def _concatenated(data: bytes, file: str) -> Iterator[tuple[str, bytes]]:
    """Yield the tables of a binary file."""
    at = 0
    while at < len(data):
        if _SIGNATURE.fullmatch(data[at : at + 4]) is None:
            if at and not data[at:].strip(b"\0"):
                return
            raise InputError(f"{file}: begins with {data[at : at + 4]!r} at offset {at:#x}, which is no ACPI signature")
        length = _length(data[at : at + HEADER_BYTES], len(data) - at, at, file)
        yield data[at : at + 4].decode(), data[at : at + length]
        at += length


def _length(header: bytes, left: int, at: int, file: str) -> int:
    """Return how long the table at an offset is; the rest of the file if its header says what cannot be."""
    if len(header) < HEADER_BYTES:
        raise InputError(f"{file}: {left} bytes at offset {at:#x} are no ACPI table; its header alone has 36")
    length = AcpiHeader.unpack(header).length
    return length if HEADER_BYTES <= length <= left else left


def _dumped(data: bytes, file: str) -> Iterator[tuple[str, bytes]]:
    """Yield the tables of acpidump's text."""
    name, content = "", bytearray()
    for number, line in enumerate(data.splitlines(), 1):
        title = _TITLE.match(line)
        if title is not None:
            if name:
                yield _whole(name, content, file)
            name, content = _name(title[1]), bytearray()
        elif name:
            _add_line(content, line, f"{file}, line {number}")
    if name:
        yield _whole(name, content, file)


def _name(title: bytes) -> str:
    """Return the signature that a title names; empty when what follows is no table."""
    return title.decode() if _SIGNATURE.fullmatch(title) else ""


def _add_line(content: bytearray, line: bytes, place: str) -> None:
    """Add the bytes of a line to a table; a line that is none of a table's is passed over."""
    match = _BYTES.match(line)
    if match is None:
        return
    if int(match[1], 16) != len(content):
        raise InputError(
            f"{place}: the offset is {match[1].decode()}, and {len(content):#x} bytes came before; a line is missing"
        )
    content += bytes.fromhex(match[2].decode())


def _whole(name: str, content: bytearray, file: str) -> tuple[str, bytes]:
    """Return a table that ends; InputError when it has no bytes, or those of another."""
    if not content:
        raise InputError(f"{file}: {name} has no bytes; lines as '    0000: 49 4F 52 54 ...' should follow its name")
    if bytes(content[:4]) != name.encode():
        raise InputError(f"{file}: {name} begins with {bytes(content[:4])!r}, not with its name")
    return name, bytes(content)

"""What lspci printed: hexadecimal dumps (`-xxx`, `-xxxx`), text (`-v` to `-vvv`), or both together.

Source: pciutils 3.4 to 3.14 (lspci.c, lib/dump.c). Decided here: a function's dump counts before its text, as text
leaves things out; the text adds what a dump does not have (driver, group) or did not reach. Outputs may follow each
other in one file: blocks of one function are put together. Space before lines, and marks of quoted mail, are left out,
as people paste lspci into reports. Not read: `-t`, `-m` and `-P`, which leave out capabilities or addresses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from pasidlab.errors import InputError
from pasidlab.platforms.pci.config import HEADER_BYTES, ConfigSpace, joined, read_config
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.lspci_verbose import Line, driver_and_group, read_verbose
from pasidlab.platforms.pci.words import CONFIG_BYTES
from pasidlab.platforms.said import Rid, rid_of
from pasidlab.rules import Finding, Level, Rule

MOST_CHARS = 64 << 20
"""Longest text that is read: 10,000 functions with all their text have about 60 MiB."""

_START = re.compile(r"((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7])(?:\s+(.*))?")
_HEX = re.compile(r"([0-9a-f]{2,3}): ((?:[0-9a-f]{2} ){0,15}[0-9a-f]{2})")
_QUOTE = re.compile(r"(?:>\s?)+")

GAP = Rule(
    "lspci.gap",
    "lspci -xxxx",
    "a line of a dump does not begin where the one before ended",
    "{file}, line {line}: the dump of {rid} goes on at {offset:#x}, and {expected:#x} is next; the rest is not read",
    source="pciutils, lspci.c",
    remedy="give the output of lspci as it was printed",
    level=Level.ERROR,
)
STUB = Rule(
    "lspci.stub",
    "lspci -xxxx",
    "a dump has fewer bytes than a header",
    "{file}: the dump of {rid} has {count} bytes, fewer than the 64 of a header; it is not read",
    source="pciutils, lspci.c",
    remedy="give the output of lspci as it was printed",
    level=Level.ERROR,
)


@dataclass(slots=True, eq=False)
class _Block:
    """What a text has of one function."""

    rid: Rid
    line: int
    title: str
    lines: list[Line] = field(default_factory=list)
    dump: bytearray = field(default_factory=bytearray)
    dumping: bool = False
    findings: list[Finding] = field(default_factory=list)


def read_lspci(text: str, file: str = "lspci") -> list[Function]:
    """Read the functions that lspci printed, in their order, with their configuration space as far as it was printed.

    `text` is the output of `lspci -vv` or `lspci -xxxx`, with any of -D, -n and -nn; `file` is what messages call it.
    What is wrong with a function is in its `config.findings`. Raises InputError for what is no output of lspci.
    """
    if len(text) > MOST_CHARS:
        raise InputError(f"{file}: longer than {MOST_CHARS >> 20} MiB, the most that is read of lspci's output")
    blocks = _blocks(text, file)
    if not blocks:
        raise InputError(
            f"{file}: no line begins with the address of a PCI function, as lspci's do: 6a:01.0 or 0000:6a:01.0"
        )
    return [_function(block, file) for block in blocks.values()]


def _blocks(text: str, file: str) -> dict[Rid, _Block]:
    """Sort the lines of a text by function."""
    blocks: dict[Rid, _Block] = {}
    block: _Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        bare = _QUOTE.sub("", line, count=1).strip() if line.lstrip().startswith(">") else line.strip()
        start = _START.fullmatch(bare)
        rid = None if start is None else rid_of(start[1])
        if start is not None and rid is not None:
            block = blocks.setdefault(rid, _Block(rid, number, start[2] or ""))
            block.dumping = not block.dump
        elif block is not None and bare:
            _add(block, number, bare, file)
    return blocks


def _add(block: _Block, number: int, line: str, file: str) -> None:
    """Add a line to what is known of its function."""
    match = _HEX.fullmatch(line)
    if match is None:
        block.lines.append(Line(number, line))
        return
    if not block.dumping:
        return
    offset, expected = int(match[1], 16), len(block.dump)
    raw = bytes.fromhex(match[2])
    if offset != expected or expected + len(raw) > CONFIG_BYTES:
        block.dumping = False
        facts = {"rid": block.rid, "offset": offset, "expected": expected}
        block.findings.append(GAP.finding(file=file, line=number, **facts))
        return
    block.dump += raw


def _function(block: _Block, file: str) -> Function:
    """Return a function out of its text and its dump."""
    config = read_verbose(block.title, block.lines, f"{file}, {block.rid}")
    if len(block.dump) >= HEADER_BYTES:
        config = joined(read_config(bytes(block.dump), file, block.rid), config)
    elif block.dump:
        block.findings.append(STUB.finding(file=file, rid=block.rid, count=len(block.dump)))
    driver, group = driver_and_group(block.lines)
    whole: ConfigSpace = replace(config, findings=[*block.findings, *config.findings])
    return Function(block.rid, whole, f"{file}, line {block.line}", driver=driver, group=group)

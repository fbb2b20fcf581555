"""Bytes of a firmware table that know their offset: each read is bounded, and what does not fit is a finding.

Firmware is not to be trusted: a length may be 0 or reach beyond the end, an offset may point anywhere, a chain of
references may close. Nothing here raises for what a table says; a read that does not fit returns None, and readers
say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pasidlab.rules import Finding, Level, Rule
from pasidlab.words import Word

W = TypeVar("W", bound=Word)
HEAD_BYTES = 256
"""More than any structure has before its length is known."""

TAKE_AGAIN = "take the table again; if it is the same, the firmware is wrong: ask for a newer one"
"""What to do about most that can be wrong with a table."""

SHORT = Rule(
    "acpi.short",
    "the table's structure",
    "a structure reaches beyond the end of what holds it",
    "{file}, offset {offset}: {what} needs {needed} bytes, and {left} are left",
    source="ACPI 6.5, 5.2.6",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
BAD_LENGTH = Rule(
    "acpi.bad-length",
    "the table's structure",
    "a structure's length is smaller than its header, or reaches beyond the end",
    "{file}, offset {offset}: {what} says {length} bytes, allowed are {least} to {most}; nothing after it is read",
    source="ACPI 6.5, 5.2.6",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)


@dataclass(slots=True, eq=False)
class Region:
    """A part of a file.

    Attributes:
        data: its bytes.
        file: the file's name, for findings.
        start: where it begins in the file.
        findings: where findings go; the parts of one table share the list.
    """

    data: bytes
    file: str
    start: int
    findings: list[Finding]

    def __len__(self) -> int:
        return len(self.data)

    def found(self, rule: Rule, at: int = 0, **facts: object) -> None:
        """Add a finding about the byte `at` of this region."""
        self.findings.append(rule.finding(file=self.file, offset=hex(self.start + at), **facts))

    def read(self, kind: type[W], at: int = 0, what: str = "") -> W | None:
        """Return the word at an offset of this region; None, and a finding, when it does not fit."""
        size = kind.SIZE // 8
        if at >= 0 and at + size <= len(self.data):
            return kind.unpack(self.data[at : at + size])
        left = max(0, len(self.data) - max(0, at))
        self.found(SHORT, at, what=what or _words(kind.__name__), needed=size, left=left)
        return None

    def part(self, at: int, length: int | None = None) -> Region:
        """Return the region from an offset on, cut where this one ends."""
        at = max(0, at)
        end = len(self.data) if length is None else at + max(0, length)
        return Region(self.data[at:end], self.file, self.start + at, self.findings)

    def text(self, at: int) -> str:
        """Return the characters from an offset up to a zero or the end; those that are none of ASCII as dots."""
        return ascii_text(self.data[max(0, at) :])

    def headed(self, head: type[Word], what: str, header: str = "") -> Iterator[Region]:
        """Yield structures that follow each other, each of as many bytes as the field `length` of its header says.

        `what` they are called, and `header` their header, in findings.
        """
        length = head.FIELDS["length"]

        def length_of(rest: Region) -> int | None:
            word = rest.read(head, what=header)
            return None if word is None else (word & length.mask) >> length.lsb

        return self.structures(length_of, head.SIZE // 8, what)

    def structures(self, length_of: Callable[[Region], int | None], least: int, what: str) -> Iterator[Region]:
        """Yield structures that follow each other, `length_of` telling how long each is; a wrong length ends it.

        `length_of` is given the first HEAD_BYTES of the rest of this region, so that a large one is not copied for
        each structure; it returns None where it could not read the length (and said so).
        """
        at = 0
        while at < len(self.data):
            head, left = self.part(at, HEAD_BYTES), len(self.data) - at
            length = length_of(head)
            if length is None:
                return
            if not least <= length <= left:
                head.found(BAD_LENGTH, what=what, length=length, least=least, most=left)
                return
            yield self.part(at, length)
            at += length


def ascii_text(data: bytes) -> str:
    """Return the characters up to a zero or the end; those that are none of ASCII as dots."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data.split(b"\0", 1)[0])


def _words(name: str) -> str:
    """Return the name of a class as words: `IortNode` is `iort node`."""
    return "".join(f" {char.lower()}" if char.isupper() else char for char in name).strip()

"""The header that ACPI tables share, and a file that should hold one.

Source: ACPI 6.5, 5.2.6 (System Description Table Header). Decided here: a file shorter than a header, or with a
signature that is none, is no table (InputError); everything else that is wrong with a table is a finding, and what
can be read is read. A length that is larger than the file is cut to the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.rules import Finding, Level, Rule
from pasidlab.words import Word, bits

MOST_BYTES = 1 << 20
"""Largest table that is read; those that bear on PASIDs have a few KiB."""


class AcpiHeader(Word, size=288):
    """System Description Table Header (ACPI 6.5, 5.2.6)."""

    signature = bits(31, 0, doc="four characters")
    length = bits(63, 32, doc="bytes of the whole table")
    revision = bits(71, 64)
    checksum = bits(79, 72, doc="makes the sum of all bytes 0")
    oem_id = bits(127, 80)
    oem_table_id = bits(191, 128)
    oem_revision = bits(223, 192)
    creator_id = bits(255, 224)
    creator_revision = bits(287, 256)


HEADER_BYTES = AcpiHeader.SIZE // 8

CHECKSUM = Rule(
    "acpi.checksum",
    "ACPI 6.5, 5.2.6",
    "the sum of all bytes of the table is not 0",
    "{file}: the bytes of {signature} add up to {total:#04x}, not 0: checksum {checksum:#04x}, right were {right:#04x}",
    source="ACPI 6.5, 5.2.6",
    remedy=f"{TAKE_AGAIN}, since Linux may have refused the table",
)
TRUNCATED = Rule(
    "acpi.truncated",
    "ACPI 6.5, 5.2.6",
    "the length in the header is larger than the file",
    "{file}: {signature} says that it has {length} bytes, and the file has {size}",
    source="ACPI 6.5, 5.2.6",
    remedy="take the table again, whole",
    level=Level.ERROR,
)
TOO_SMALL = Rule(
    "acpi.length-too-small",
    "ACPI 6.5, 5.2.6",
    "the length in the header is smaller than the header",
    "{file}: {signature} says that it has {length} bytes, fewer than its header of 36; all {size} of the file are read",
    source="ACPI 6.5, 5.2.6",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)


@dataclass(slots=True, eq=False)
class Table:
    """A table as its header describes it.

    Attributes:
        signature: four characters.
        header: the header's fields.
        region: the whole table, header included, as long as header and file allow.
        checksum_ok: whether all bytes add up to 0; false for a truncated table.
        findings: what was wrong so far; readers add to it.
    """

    signature: str
    header: AcpiHeader
    region: Region
    checksum_ok: bool
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class ReadTable:
    """A table that was read; each kind adds the `fields` after the header, and its structures.

    Attributes:
        table: as its header describes it.
    """

    table: Table

    @property
    def file(self) -> str:
        """What messages call the file."""
        return self.table.region.file

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with it."""
        return self.table.findings


def read_table(data: bytes, file: str, signature: str | None = None) -> Table:
    """Read a table's header from the bytes of a file.

    `signature` is the one that it must have; None takes any. Raises InputError for what is no such table.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 20} MiB, the most that is read of a table")
    if len(data) < HEADER_BYTES:
        raise InputError(f"{file}: {len(data)} bytes are no ACPI table; its header alone has {HEADER_BYTES}")
    header = AcpiHeader.unpack(data[:HEADER_BYTES])
    found = data[:4].decode("latin-1")
    if not all(char.isascii() and (char.isalnum() or char == "_") for char in found):
        raise InputError(f"{file}: begins with {data[:4]!r}, which is no ACPI signature")
    if signature is not None and found != signature:
        raise InputError(f"{file}: is a table {found}, not {signature}")
    return _measured(data, file, found, header)


def _measured(data: bytes, file: str, signature: str, header: AcpiHeader) -> Table:
    """Cut the file to the table's length, and add its bytes up."""
    findings: list[Finding] = []
    length = header.length
    if length < HEADER_BYTES:
        findings.append(TOO_SMALL.finding(file=file, signature=signature, length=length, size=len(data)))
        length = len(data)
    if length > len(data):
        findings.append(TRUNCATED.finding(file=file, signature=signature, length=length, size=len(data)))
    body = data[:length]
    total = sum(body) & 0xFF
    if total and length <= len(data):
        right = (header.checksum - total) & 0xFF
        facts = {"total": total, "checksum": header.checksum, "right": right}
        findings.append(CHECKSUM.finding(file=file, signature=signature, **facts))
    whole = not findings
    return Table(signature, header, Region(body, file, 0, findings), whole, findings)

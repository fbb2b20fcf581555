"""VT-d's debugfs: the remapping tables and the registers of each unit, as text.

Source: drivers/iommu/intel/debugfs.c of Linux 5.x to 7.3: dmar_translation_struct_show(), print_tbl_walk() and
iommu_regset_show(). A line of `dmar_translation_struct` is bus:device.function, the root entry, the context entry, a
PASID and three of the eight words of its entry, each entry high word first; in legacy mode the PASID is -1. The lines
of a unit follow `IOMMU dmar0: Root Table Address: 0x…`, or `DMA Remapping is not enabled on dmar0` stands there.
A scalable context entry is printed by its low half, and a PASID directory not at all.

Decided here: what is no line of the format is a remark; a text without any line of it is refused. People send such
texts by mail: marks of quotation are taken off, and a line that was broken into up to four is put together again.
Not read: `domain_translation_struct`, `invalidation_queue`, `ir_translation_struct`, `dmar_perf_latency`; the segment
of a unit, which the text does not tell, so that a line names no function for sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pasidlab.errors import InputError
from pasidlab.hw.requester import rid_number, rid_text
from pasidlab.hw.vtd.registers import Cap, Ecap, Gsts, Rtaddr
from pasidlab.hw.vtd.structures import ContextEntry, PasidEntry, RootEntry, ScalableContextEntry, ScalableRootEntry

MOST_CHARACTERS = 64 << 20
MOST_REMARKS = 20
_U32 = (1 << 32) - 1
_QWORD = r"0x([0-9a-fA-F]{16})"
_ROW = re.compile(
    rf"([0-9a-fA-F]{{2}}):([01][0-9a-fA-F])\.([0-7])\s+{_QWORD}:{_QWORD}\s+{_QWORD}:{_QWORD}"
    rf"\s+(-1|\d{{1,7}})\s+{_QWORD}:{_QWORD}:{_QWORD}\s*"
)
_TABLE = re.compile(r"\s*IOMMU (\S+): Root Table Address: ?0x([0-9a-fA-F]{1,16})\s*")
_OFF = re.compile(r"\s*DMA Remapping is not enabled on (\S+)\s*")
_TABLE_HEAD = re.compile(r"(B\.D\.F|Root_entry|Context_entry|PASID|PASID_table_entry|\s)*")
_FUNCTION = re.compile(r"[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7](\s|$)")
_QUOTED = re.compile(r"^[>\s]+")
_LONGEST_ROW, _MOST_PARTS = 300, 4
_UNIT = re.compile(r"\s*IOMMU: (\S+) Register Base Address: (?:0x)?([0-9a-fA-F]{1,16})\s*")
_REGISTER = re.compile(r"([A-Z][A-Z0-9_a-z]{0,31})\s+0x([0-9a-fA-F]{1,4})\s+0x([0-9a-fA-F]{1,16})\s*")
_UNIT_HEAD = re.compile(r"Name\s+Offset\s+Contents\s*")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tables.

    Attributes:
        line: its number, from 1.
        source: bus << 8 | device << 3 | function.
        root, context: of the mode that the unit is in; of a scalable context entry the low 128 bits.
        pasid, entry: the PASID and the low 192 bits of its entry; None in legacy mode.
    """

    line: int
    source: int
    root: RootEntry | ScalableRootEntry
    context: ContextEntry | ScalableContextEntry
    pasid: int | None
    entry: PasidEntry | None

    @property
    def name(self) -> str:
        """The function as the text has it, without the segment: `6a:01.0`."""
        return rid_text(self.source)


@dataclass(slots=True, eq=False)
class UnitTables:
    """The tables of a unit; `root_table` is None while it does not translate."""

    name: str
    line: int
    root_table: int | None
    rows: list[Row] = field(default_factory=list)

    @property
    def legacy(self) -> bool:
        """Whether the unit translates in legacy mode; a unit of which no entry is shown is not known to."""
        return any(row.pasid is None for row in self.rows)


@dataclass(slots=True, eq=False)
class VtdTables:
    """What `dmar_translation_struct` shows."""

    file: str
    units: list[UnitTables] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class UnitRegisters:
    """The registers of a unit, by the kernel's names."""

    name: str
    line: int
    base: int
    registers: dict[str, int] = field(default_factory=dict)

    @property
    def cap(self) -> Cap | None:
        """Capabilities; None when they are not there."""
        return None if "CAP" not in self.registers else Cap(self.registers["CAP"])

    @property
    def ecap(self) -> Ecap | None:
        """Extended capabilities; None when they are not there."""
        return None if "ECAP" not in self.registers else Ecap(self.registers["ECAP"])

    @property
    def gsts(self) -> Gsts | None:
        """Global status; None when it is not there."""
        return None if "GSTS" not in self.registers else Gsts(self.registers["GSTS"] & _U32)

    @property
    def rtaddr(self) -> Rtaddr | None:
        """Root table address and mode; None when it is not there."""
        return None if "RTADDR" not in self.registers else Rtaddr(self.registers["RTADDR"])


@dataclass(slots=True, eq=False)
class VtdRegisters:
    """What `iommu_regset` shows."""

    file: str
    units: list[UnitRegisters] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def unit(self, name: str) -> UnitRegisters | None:
        """Return the registers of a unit; None when they are not there."""
        return next((unit for unit in self.units if unit.name == name), None)


def read_vtd_tables(text: str, file: str = "dmar_translation_struct") -> VtdTables:
    """Read `dmar_translation_struct`: the remapping tables of each unit, each entry as its Word.

    `text` is what the file of debugfs shows, also quoted or broken by mail; `file` is what messages call it. Lines of
    no known form are in `remarks`. Raises InputError for a text that names no unit, or is larger than 64 MiB.
    """
    tables = VtdTables(file)
    reader = _TableReader(tables)
    for number, line in enumerate(lines_of(text, file), 1):
        reader.take(number, _QUOTED.sub("", line))
    reader.drop()
    if not tables.units:
        raise InputError(f"{file}: no line names a unit, as 'IOMMU dmar0: Root Table Address: 0x…' does")
    tables.remarks += remarks_about(file, reader.strange)
    return tables


@dataclass(slots=True, eq=False)
class _TableReader:
    """Takes the lines of the tables; the parts of a row are kept until they are one."""

    tables: VtdTables
    strange: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    first: int = 0

    def take(self, number: int, line: str) -> None:
        """Take a line."""
        unit, off = _TABLE.fullmatch(line), _OFF.fullmatch(line)
        if unit is not None:
            self.drop()
            self.tables.units.append(UnitTables(unit[1], number, int(unit[2], 16)))
        elif off is not None:
            self.drop()
            self.tables.units.append(UnitTables(off[1], number, None))
        elif len(line) > _LONGEST_ROW:
            self.drop()
            self.strange.append(number)
        elif not _TABLE_HEAD.fullmatch(line):
            self.take_part(number, line)

    def take_part(self, number: int, line: str) -> None:
        """Take a row, or a part of one."""
        if _FUNCTION.match(line):
            self.drop()
            self.first = number
        elif not self.parts:
            self.strange.append(number)
            return
        self.parts.append(line)
        row = _ROW.fullmatch(" ".join(self.parts))
        if row is not None and self.tables.units:
            self.tables.units[-1].rows.append(_row(self.first, row))
            self.parts.clear()
        elif len(self.parts) >= _MOST_PARTS:
            self.drop()

    def drop(self) -> None:
        """Give up the parts that are no row."""
        if self.parts:
            self.strange.append(self.first)
        self.parts.clear()


def _row(number: int, match: re.Match[str]) -> Row:
    bus, device, function, *words = match.groups()
    source = rid_number(int(bus, 16), int(device, 16), int(function))
    pasid = int(words.pop(4))
    root_high, root_low, high, low, *entry = (int(word, 16) for word in words)
    if pasid < 0:
        root = RootEntry.from_words(root_low, root_high)
        return Row(number, source, root, ContextEntry.from_words(low, high), None, None)
    scalable = ScalableRootEntry.from_words(root_low, root_high)
    context = ScalableContextEntry.from_words(low, high)
    return Row(number, source, scalable, context, pasid, PasidEntry.from_words(*reversed(entry)))


def read_vtd_registers(text: str, file: str = "iommu_regset") -> VtdRegisters:
    """Read `iommu_regset`: the registers of each unit, by the kernel's names.

    `text` is what the file of debugfs shows, `file` what messages call it. Lines of no known form are in `remarks`.
    Raises InputError for a text that names no unit, or is larger than 64 MiB.
    """
    read = VtdRegisters(file)
    strange: list[int] = []
    for number, line in enumerate(lines_of(text, file), 1):
        unit = _UNIT.fullmatch(line)
        register = _REGISTER.fullmatch(line)
        if unit is not None:
            read.units.append(UnitRegisters(unit[1], number, int(unit[2], 16)))
        elif register is not None and read.units:
            read.units[-1].registers.setdefault(register[1], int(register[3], 16))
        elif line.strip() and not _UNIT_HEAD.fullmatch(line):
            strange.append(number)
    if not read.units:
        raise InputError(f"{file}: no line names a unit, as 'IOMMU: dmar0 Register Base Address: …' does")
    read.remarks += remarks_about(file, strange)
    return read


def lines_of(text: str, file: str) -> list[str]:
    """Return the lines of a text; raises InputError for one that is too large."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{file}: larger than {MOST_CHARACTERS >> 20} MiB, the most that is read of a dump")
    return text.split("\n")


def remarks_about(file: str, strange: Iterable[int]) -> list[str]:
    """Return what to tell of lines that are none of a format."""
    numbers = list(strange)
    if not numbers:
        return []
    shown = ", ".join(map(str, numbers[:MOST_REMARKS]))
    more = len(numbers) - MOST_REMARKS
    return [f"{file}: not read, since of no known form: line {shown}{f' and {more} more' if more > 0 else ''}"]

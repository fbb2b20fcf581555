"""Reading an IVRS table: its blocks and their device entries, and what is wrong with them.

Source: init_iommu_from_acpi(), ivhd_entry_length(), get_ivhd_header_size() and get_highest_supported_ivhd_type()
(drivers/iommu/amd/init.c), Linux 6.12.

Decided here: a device entry of a type that has no length ends the entries of its block only; a block that does not fit
ends the table. For the choice of the type only IVHD count; Linux would let an IVMD that bears the first IOMMU's own ID
count too, and find no IOMMU then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pasidlab.platforms.acpi.bounds import Budget, first_ones
from pasidlab.platforms.acpi.header import HEADER_BYTES, ReadTable, read_table
from pasidlab.platforms.acpi.ivrs_words import (
    ENTRY_KINDS,
    ENTRY_NAMES,
    IVHD_KINDS,
    IVMD_TYPES,
    Block,
    Entry4,
    EntryType,
    HidEntry,
    Ivhd,
    IvhdWithEfr,
    Ivmd,
    IvrsFields,
)
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.platforms.amd import Efr
from pasidlab.rules import Level, Rule

INIT = "(drivers/iommu/amd/init.c)"
READ = "Linux 6.12 and later (read)"
FIRST_BLOCK = HEADER_BYTES + IvrsFields.SIZE // 8
ENDLESS_FROM = 0x80
"""From this type on, only an ACPI device has a length."""

UNKNOWN_BLOCK = Rule(
    "ivrs.unknown-block",
    f"get_ivhd_header_size {INIT}",
    "a block's type is none of IVHD 0x10, 0x11, 0x40 and IVMD 0x20 to 0x22",
    "{file}, offset {offset}: block of type {type:#x}, {length} bytes, which Linux does not know either",
    source=READ,
    level=Level.NOTE,
)
UNKNOWN_ENTRY = Rule(
    "ivrs.unknown-entry",
    f"ivhd_entry_length {INIT}",
    "a device entry's type has no known length",
    "{file}, offset {offset}: device entry of type {type:#x} in {holder} has no length that Linux knows, and Linux "
    "would not get beyond it; the rest of the block is not read",
    source=READ,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
SKIPPED_ENTRY = Rule(
    "ivrs.skipped-entry",
    f"init_iommu_from_acpi {INIT}",
    "a device entry's type is not known, but its length is",
    "{file}, offset {offset}: device entry of type {type:#x} in {holder}; Linux leaves it out",
    source=READ,
    level=Level.NOTE,
)
NO_UNIT = Rule(
    "ivrs.no-unit",
    f"init_iommu_all {INIT}",
    "the table has no IVHD",
    "{file}: no IVHD of type 0x10, 0x11 or 0x40, so no IOMMU",
    source=READ,
    remedy="turn the IOMMU on in the firmware's setup, there called IOMMU or AMD-Vi",
    level=Level.ERROR,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A device entry: its fields, where it begins in the file, and an ACPI device's unique ID."""

    word: Entry4
    offset: int
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """An IVHD: its fields, where it begins in the file, and its device entries."""

    word: Ivhd
    offset: int
    entries: tuple[Entry, ...]

    @property
    def efr(self) -> int | None:
        """The copy of the feature register; None where the type has none."""
        return self.word.efr if isinstance(self.word, IvhdWithEfr) else None


@dataclass(frozen=True, slots=True)
class Memory:
    """An IVMD: its fields, and where it begins in the file."""

    word: Ivmd
    offset: int


@dataclass(frozen=True, slots=True)
class Ivrs(ReadTable):
    """An IVRS table: `fields` after its header, and all blocks in order."""

    fields: IvrsFields
    units: tuple[Unit, ...]
    memory: tuple[Memory, ...]

    @property
    def linux_type(self) -> int | None:
        """The type of IVHD that Linux takes: the last that the first IOMMU has; None without any."""
        if not self.units:
            return None
        own = self.units[0].word.device_id
        return [unit.word.type for unit in self.units if unit.word.device_id == own][-1]

    @property
    def common_efr(self) -> Efr | None:
        """What the feature registers of all IOMMUs have in common, bit by bit; None where the table has none valid."""
        images = [unit.efr for unit in self.linux_units]
        if not images or not self.fields.efr_sup:
            return None
        common = (1 << Efr.SIZE) - 1
        for image in images:
            if image is None:
                return None
            common &= image
        return Efr(common)

    @property
    def linux_units(self) -> list[Unit]:
        """The IVHD that Linux takes, in order."""
        kind = self.linux_type
        return [unit for unit in self.units if unit.word.type == kind]


def read_blocks(data: bytes, file: str) -> Ivrs:
    """Read a table without comparing its blocks with each other; raises InputError for what is no IVRS."""
    table = read_table(data, file, "IVRS")
    fields = table.region.read(IvrsFields, HEADER_BYTES, "what follows the header") or IvrsFields()
    body = table.region.part(FIRST_BLOCK)
    units: list[Unit] = []
    memory: list[Memory] = []
    left = Budget()
    for region in first_ones(body.headed(Block, "block"), "blocks"):
        one = _block(region, left)
        if isinstance(one, Unit):
            units.append(one)
        elif one is not None:
            memory.append(one)
    if not units:
        table.region.found(NO_UNIT)
    return Ivrs(table, fields, tuple(units), tuple(memory))


def _block(region: Region, left: Budget) -> Unit | Memory | None:
    """Read one block; None, and a finding, when it is of no known type or too short."""
    head = Block.unpack(region.data[: Block.SIZE // 8])
    if head.type in IVMD_TYPES:
        memory = region.read(Ivmd, 0, f"IVMD of type {head.type:#x}")
        return None if memory is None else Memory(memory, region.start)
    kind = IVHD_KINDS.get(head.type)
    if kind is None:
        region.found(UNKNOWN_BLOCK, type=head.type, length=head.length)
        return None
    word = region.read(kind, 0, f"IVHD of type {head.type:#x}")
    if word is None:
        return None
    return Unit(word, region.start, tuple(_entries(region, word, left)))


def _entries(region: Region, unit: Ivhd, left: Budget) -> Iterator[Entry]:
    """Yield the device entries of a block."""
    holder = f"IVHD at {region.start:#x}"
    body = region.part(type(unit).SIZE // 8)

    def length(rest: Region) -> int | None:
        return _entry_length(rest, holder)

    for part in first_ones(body.structures(length, 4, f"device entry of {holder}"), "device entries", left):
        kind = ENTRY_KINDS.get(part.data[0], Entry4)
        word = part.read(kind)
        if word is None:
            continue
        if word.type not in ENTRY_NAMES:
            part.found(SKIPPED_ENTRY, type=word.type, holder=holder)
        yield Entry(word, part.start, _uid(part, word) if isinstance(word, HidEntry) else "")


def _entry_length(rest: Region, holder: str) -> int | None:
    """Return how long a device entry is; None, and a finding, where nobody knows."""
    kind = rest.data[0]
    if kind < ENDLESS_FROM:
        return 4 << (kind >> 6)
    if kind != EntryType.ACPI_HID:
        rest.found(UNKNOWN_ENTRY, type=kind, holder=holder)
        return None
    word = rest.read(HidEntry, 0, f"ACPI device of {holder}")
    return None if word is None else HidEntry.SIZE // 8 + word.uid_length


def _uid(region: Region, word: HidEntry) -> str:
    """Return the unique ID of an ACPI device as text."""
    raw = region.part(HidEntry.SIZE // 8)
    if word.uid_format == 1:
        return str(int.from_bytes(raw.data[:8], "little"))
    return raw.text(0) if word.uid_format == 2 else ""

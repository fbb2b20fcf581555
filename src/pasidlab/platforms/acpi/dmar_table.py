"""Reading a DMAR table: its structures and their device scopes, and what is wrong with them.

Source: Intel VT-d specification 4.1, chapter 8; what Linux refuses is that of dmar_parse_one_drhd(),
dmar_parse_one_andd(), dmar_parse_one_rhsa() and parse_dmar_table() (drivers/iommu/intel/dmar.c, Linux 6.12).

Decided here: a device scope that does not fit ends the scopes of its structure only; a structure that does not fit
ends the table. Types of structures that the specification does not have yet are kept as what they are: bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pasidlab.platforms.acpi.bounds import Budget, first_ones
from pasidlab.platforms.acpi.dmar_words import (
    SCOPE_NAMES,
    Andd,
    Atsr,
    DeviceScope,
    DmarFields,
    Drhd,
    PathEntry,
    RemappingStructure,
    RemappingType,
    Rhsa,
    Rmrr,
    Satc,
    ScopeType,
    Sidp,
)
from pasidlab.platforms.acpi.header import HEADER_BYTES, ReadTable, read_table
from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.rules import Level, Rule

R = TypeVar("R", bound=RemappingStructure)
VTD = "VT-d 4.1, chapter 8"
MOST_ADDRESS_BITS = 52
FIRST_STRUCTURE = HEADER_BYTES + DmarFields.SIZE // 8
PAGE_BYTES = 4096

ADDRESS_WIDTH = Rule(
    "dmar.address-width",
    "parse_dmar_table (drivers/iommu/intel/dmar.c)",
    "the host address width is below 12 bits or above 52",
    "{file}, offset {offset}: physical addresses of {width} bits; there are 12 to 52. Linux refuses fewer than 12",
    source=VTD,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NO_UNIT = Rule(
    "dmar.no-unit",
    "parse_dmar_table (drivers/iommu/intel/dmar.c)",
    "the table has no DRHD",
    "{file}: no DRHD, so no IOMMU: Linux says that the firmware is wrong",
    source=VTD,
    remedy="turn VT-d on in the firmware's setup",
    level=Level.ERROR,
)
UNKNOWN_STRUCTURE = Rule(
    "dmar.unknown-structure",
    VTD,
    "a structure's type is 7 or more",
    "{file}, offset {offset}: structure of type {type}, {length} bytes, is none that VT-d 4.1 has; Linux skips it too",
    source=VTD,
    level=Level.NOTE,
)
UNKNOWN_SCOPE = Rule(
    "dmar.unknown-scope",
    "dmar_alloc_dev_scope (drivers/iommu/intel/dmar.c)",
    "a device scope's type is none of 1 to 5",
    "{file}, offset {offset}: device scope of type {type} in {holder}; Linux warns and leaves it out, as is done here",
    source=VTD,
    remedy=TAKE_AGAIN,
)
BAD_PATH = Rule(
    "dmar.bad-path",
    "VT-d 4.1, 8.3.1",
    "a path has a device above 31 or a function above 7, is empty, or ends within an entry",
    "{file}, offset {offset}: device scope of {holder}: {what}; the scope is left out",
    source="VT-d 4.1, 8.3.1",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
ANDD_NAME = Rule(
    "dmar.andd-name",
    "dmar_parse_one_andd (drivers/iommu/intel/dmar.c)",
    "the name of an ANDD does not end with a zero",
    "{file}, offset {offset}: the name of ANDD device {number} has no end; Linux refuses the whole table",
    source=VTD,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """A device scope: which device, by a path from a root bus.

    Attributes:
        word: its fields.
        path: device and function of each bridge on the way, and of the device.
        offset: where it begins in the file.
    """

    word: DeviceScope
    path: tuple[PathEntry, ...]
    offset: int

    @property
    def text(self) -> str:
        """As people write a path: `00:03.0/00.1`, the numbers in hexadecimal."""
        steps = "/".join(f"{step.device:02x}.{step.function}" for step in self.path)
        return f"{self.word.start_bus_number:02x}:{steps}"


@dataclass(frozen=True, slots=True)
class Structure:
    """A remapping structure.

    Attributes:
        word: its fields; a `RemappingStructure` only, for a type that is not known.
        offset: where it begins in the file.
        scopes: its device scopes, those that can be used.
        name: of an ANDD, the device's name in the ACPI namespace.
        raw: all its bytes.
    """

    word: RemappingStructure
    offset: int
    scopes: tuple[Scope, ...]
    name: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Dmar(ReadTable):
    """A DMAR table: `fields` after its header, and all structures in order."""

    fields: DmarFields
    structures: tuple[Structure, ...]

    def all_of(self, kind: type[R]) -> Iterator[tuple[Structure, R]]:
        """Yield the structures of one kind, each with its fields."""
        return ((one, one.word) for one in self.structures if isinstance(one.word, kind))


KINDS: dict[int, type[RemappingStructure]] = {
    RemappingType.DRHD: Drhd,
    RemappingType.RMRR: Rmrr,
    RemappingType.ATSR: Atsr,
    RemappingType.RHSA: Rhsa,
    RemappingType.ANDD: Andd,
    RemappingType.SATC: Satc,
    RemappingType.SIDP: Sidp,
}
WITHOUT_SCOPES = (Rhsa, Andd)


def read_structures(data: bytes, file: str) -> Dmar:
    """Read a table without comparing its structures with each other; raises InputError for what is no DMAR."""
    table = read_table(data, file, "DMAR")
    fields = table.region.read(DmarFields, HEADER_BYTES, "what follows the header") or DmarFields()
    _check_width(table.region, fields)
    body = table.region.part(FIRST_STRUCTURE)
    found = first_ones(body.headed(RemappingStructure, "remapping structure"), "remapping structures")
    left = Budget()
    structures = tuple(one for region in found if (one := _structure(region, left)) is not None)
    if not any(isinstance(one.word, Drhd) for one in structures):
        table.region.found(NO_UNIT)
    return Dmar(table, fields, structures)


def _check_width(region: Region, fields: DmarFields) -> None:
    width = fields.host_address_width + 1
    if len(region) >= FIRST_STRUCTURE and not 12 <= width <= MOST_ADDRESS_BITS:
        region.found(ADDRESS_WIDTH, HEADER_BYTES, width=width)


def _structure(region: Region, left: Budget) -> Structure | None:
    """Read one structure; None, and a finding, when it is too short for its type."""
    head = RemappingStructure.unpack(region.data[: RemappingStructure.SIZE // 8])
    kind = KINDS.get(head.type)
    if kind is None:
        region.found(UNKNOWN_STRUCTURE, type=head.type, length=head.length)
        return Structure(head, region.start, (), "", region.data)
    word = region.read(kind, 0, kind.__name__.upper())
    if word is None:
        return None
    name = _andd_name(region, word) if isinstance(word, Andd) else ""
    scopes = () if isinstance(word, WITHOUT_SCOPES) else tuple(_scopes(region, kind, left))
    return Structure(word, region.start, scopes, name, region.data)


def _andd_name(region: Region, word: Andd) -> str:
    at = Andd.SIZE // 8
    if b"\0" not in region.data[at:]:
        region.found(ANDD_NAME, at, number=word.acpi_device_number)
    return region.text(at)


def _scopes(region: Region, kind: type[RemappingStructure], left: Budget) -> Iterator[Scope]:
    """Yield the usable device scopes of a structure."""
    holder = f"{kind.__name__.upper()} at {region.start:#x}"
    body = region.part(kind.SIZE // 8)
    least = DeviceScope.SIZE // 8
    every = body.headed(DeviceScope, f"device scope of {holder}")
    for part in first_ones(every, "device scopes", left):
        word = DeviceScope.unpack(part.data[:least])
        path = tuple(PathEntry.unpack(part.data[at : at + 2]) for at in range(least, len(part) - 1, 2))
        if _is_good(part, word, path, holder):
            yield Scope(word, path, part.start)


def _is_good(region: Region, word: DeviceScope, path: tuple[PathEntry, ...], holder: str) -> bool:
    """Whether a scope can be used; says why not."""
    if word.type not in SCOPE_NAMES:
        region.found(UNKNOWN_SCOPE, type=word.type, holder=holder)
        return False
    wrong = _wrong_path(word, path)
    if wrong:
        region.found(BAD_PATH, holder=holder, what=wrong)
    return not wrong


def _wrong_path(word: DeviceScope, path: tuple[PathEntry, ...]) -> str:
    """Return what is wrong with a path, empty when nothing is."""
    if not path:
        return "its path is empty"
    if word.length % 2:
        return f"its {word.length} bytes end within an entry of the path"
    for step in path:
        if step.device > 31:
            return f"device {step.device} in its path; there are 0 to 31"
        if step.function > 7:
            return f"function {step.function} in its path; there are 0 to 7"
    return ""


def is_pci(scope: Scope) -> bool:
    """Whether a scope names a PCI function: an endpoint, or a bridge with all behind it."""
    return scope.word.type in (ScopeType.ENDPOINT, ScopeType.BRIDGE)

"""What is wrong with a DMAR table when its structures are held against each other.

Source: Intel VT-d specification 4.1, chapter 8; dmar_parse_one_drhd(), dmar_find_dmaru(), dmar_register_drhd_unit()
and dmar_parse_one_rhsa() (drivers/iommu/intel/dmar.c), and rmrr_sanity_check() (drivers/iommu/intel/iommu.c), all of
Linux 6.12.
"""

from __future__ import annotations

from pasidlab.platforms.acpi.dmar_table import PAGE_BYTES, VTD, Dmar, Structure, is_pci
from pasidlab.platforms.acpi.dmar_words import Andd, Drhd, Rhsa, Rmrr, ScopeType
from pasidlab.platforms.acpi.region import TAKE_AGAIN
from pasidlab.rules import Level, Rule

BAD_BASE = Rule(
    "dmar.bad-base",
    "dmar_parse_one_drhd (drivers/iommu/intel/dmar.c)",
    "a unit's registers are at address 0, or not at a page",
    "{file}, offset {offset}: a DRHD with registers at {base:#x}; Linux refuses 0, and registers begin at a page",
    source=VTD,
    remedy="turn VT-d off and on again in the firmware's setup; if it stays, ask for newer firmware",
    level=Level.ERROR,
)
SAME_UNIT = Rule(
    "dmar.same-unit",
    "dmar_find_dmaru (drivers/iommu/intel/dmar.c)",
    "two DRHD have the same segment and the same registers",
    "{file}, offset {offset}: a second DRHD of segment {segment:04x} with registers at {base:#x}; "
    "Linux leaves it out with its device scopes, as is done here",
    source="Linux 6.12 and later (read)",
    remedy=TAKE_AGAIN,
)
SAME_BASE = Rule(
    "dmar.same-base",
    "map_iommu (drivers/iommu/intel/dmar.c)",
    "two DRHD of different segments have the same registers",
    "{file}, offset {offset}: the registers at {base:#x} of segment {segment:04x} are those of a DRHD of segment "
    "{other:04x} too; Linux cannot reserve them twice, and drops all IOMMUs",
    source="Linux 6.12 and later (read)",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
TWO_INCLUDE_ALL = Rule(
    "dmar.two-include-all",
    "VT-d 4.1, 8.3",
    "two DRHD of one segment have INCLUDE_PCI_ALL",
    "{file}, offset {offset}: a second DRHD of segment {segment:04x} that takes all the rest; the first takes it",
    source="VT-d 4.1, 8.3",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NOT_LAST = Rule(
    "dmar.include-all-not-last",
    "VT-d 4.1, 8.3; dmar_register_drhd_unit (drivers/iommu/intel/dmar.c)",
    "a DRHD follows the one with INCLUDE_PCI_ALL of its segment",
    "{file}, offset {offset}: a DRHD of segment {segment:04x} after the one that takes all the rest; "
    "Linux asks that one last nevertheless",
    source="VT-d 4.1, 8.3",
    level=Level.NOTE,
)
SAME_SCOPE = Rule(
    "dmar.same-scope",
    "dmar_pci_bus_add_dev (drivers/iommu/intel/dmar.c)",
    "two DRHD of one segment name the same device",
    "{file}, offset {offset}: {scope} of segment {segment:04x} belongs to the DRHD at {first:#x} too; "
    "Linux takes the one that comes later in the table",
    source="Linux 6.12 and later (read)",
    remedy=TAKE_AGAIN,
)
RHSA_UNIT = Rule(
    "dmar.rhsa-unit",
    "dmar_parse_one_rhsa (drivers/iommu/intel/dmar.c)",
    "an RHSA names registers that no DRHD has",
    "{file}, offset {offset}: an RHSA for registers at {base:#x}, which no DRHD has; Linux warns and leaves it out",
    source=VTD,
    remedy=TAKE_AGAIN,
)
RMRR_RANGE = Rule(
    "dmar.rmrr-range",
    "rmrr_sanity_check (drivers/iommu/intel/iommu.c)",
    "an RMRR does not begin and end at a page, or ends before it begins",
    "{file}, offset {offset}: an RMRR from {base:#x} to {limit:#x}, which are no whole pages; Linux warns",
    source=VTD,
    remedy=TAKE_AGAIN,
)
NO_ANDD = Rule(
    "dmar.no-andd",
    "VT-d 4.1, 8.3.1 and 8.7",
    "a device scope names a namespace device that no ANDD declares",
    "{file}, offset {offset}: namespace device {number} in a device scope, and no ANDD gives its name",
    source=VTD,
    remedy=TAKE_AGAIN,
)


def check(dmar: Dmar) -> None:
    """Add what is wrong to the table's findings."""
    _check_units(dmar)
    _check_order(dmar)
    _check_scopes(dmar)
    _check_references(dmar)


def _found(dmar: Dmar, rule: Rule, at: int, **facts: object) -> None:
    dmar.table.region.found(rule, at, **facts)


def _check_units(dmar: Dmar) -> None:
    """Where the registers are."""
    segment_of: dict[int, int] = {}
    for one, drhd in dmar.all_of(Drhd):
        base, segment = drhd.register_base_address, drhd.segment_number
        if not base or base % PAGE_BYTES:
            _found(dmar, BAD_BASE, one.offset, base=base)
        other = segment_of.setdefault(base, segment)
        if other != segment:
            _found(dmar, SAME_BASE, one.offset, base=base, segment=segment, other=other)


def units(dmar: Dmar) -> list[tuple[Structure, Drhd]]:
    """Return the DRHD that Linux takes, in the table's order: the first of each segment and registers."""
    taken: dict[tuple[int, int], tuple[Structure, Drhd]] = {}
    for one, drhd in dmar.all_of(Drhd):
        taken.setdefault((drhd.segment_number, drhd.register_base_address), (one, drhd))
    return list(taken.values())


def _check_order(dmar: Dmar) -> None:
    """Units that are there twice, and the one that takes the rest."""
    taken = {structure.offset for structure, _ in units(dmar)}
    with_all: set[int] = set()
    for one, drhd in dmar.all_of(Drhd):
        segment = drhd.segment_number
        if one.offset not in taken:
            _found(dmar, SAME_UNIT, one.offset, base=drhd.register_base_address, segment=segment)
        elif drhd.include_pci_all and segment in with_all:
            _found(dmar, TWO_INCLUDE_ALL, one.offset, segment=segment)
        elif segment in with_all:
            _found(dmar, NOT_LAST, one.offset, segment=segment)
        if drhd.include_pci_all:
            with_all.add(segment)


def _check_scopes(dmar: Dmar) -> None:
    """Devices that two units have; what one that takes the rest names itself does not count."""
    owner: dict[tuple[int, str], int] = {}
    for structure, drhd in units(dmar):
        for scope in () if drhd.include_pci_all else structure.scopes:
            key = (drhd.segment_number, scope.text)
            if not is_pci(scope) or owner.setdefault(key, structure.offset) == structure.offset:
                continue
            facts = {"scope": scope.text, "segment": drhd.segment_number, "first": owner[key]}
            _found(dmar, SAME_SCOPE, scope.offset, **facts)


def _check_references(dmar: Dmar) -> None:
    """What names something else, and memory ranges."""
    bases = {drhd.register_base_address for _, drhd in units(dmar)}
    declared = {andd.acpi_device_number for _, andd in dmar.all_of(Andd)}
    for one in dmar.structures:
        match one.word:
            case Rhsa() as rhsa if rhsa.register_base_address not in bases:
                _found(dmar, RHSA_UNIT, one.offset, base=rhsa.register_base_address)
            case Rmrr() as rmrr:
                _check_rmrr(dmar, one, rmrr)
        for scope in one.scopes:
            number = scope.word.enumeration_id
            if scope.word.type == ScopeType.NAMESPACE and number not in declared:
                _found(dmar, NO_ANDD, scope.offset, number=number)


def _check_rmrr(dmar: Dmar, one: Structure, rmrr: Rmrr) -> None:
    base, limit = rmrr.reserved_memory_region_base_address, rmrr.reserved_memory_region_limit_address
    if base % PAGE_BYTES or (limit + 1) % PAGE_BYTES or limit < base:
        _found(dmar, RMRR_RANGE, one.offset, base=base, limit=limit)

"""What is wrong with an IVRS table when its blocks are held against each other, and against what Linux can do.

Source: get_highest_supported_ivhd_type(), get_global_efr(), init_iommu_all(), init_iommu_from_acpi() and
iommu_init_pci() (drivers/iommu/amd/init.c), Linux 6.12; which features Linux asks for is in `amd`.
"""

from __future__ import annotations

from pasidlab.platforms.acpi.ivrs_table import INIT, READ, Entry, Ivrs, Unit
from pasidlab.platforms.acpi.ivrs_words import EntryType, ExtEntry, HidEntry
from pasidlab.platforms.acpi.region import TAKE_AGAIN
from pasidlab.platforms.amd import LINUX_PASID_BITS, missing_features
from pasidlab.platforms.said import Rid
from pasidlab.rules import Level, Rule

ACPI_TYPE = 0x40
"""The only type of block whose ACPI devices Linux takes."""
RANGES = (EntryType.SELECT_RANGE_START, EntryType.ALIAS_RANGE, EntryType.EXT_SELECT_RANGE)

UNIT_SKIPPED = Rule(
    "ivrs.unit-skipped",
    f"get_highest_supported_ivhd_type {INIT}",
    "an IOMMU has no IVHD of the type that the first IOMMU has last",
    "{file}, offset {offset}: the IOMMU {device} has no IVHD of type {type:#x}, the only one that Linux takes of this "
    "table: Linux does not know it, and its devices have no IOMMU",
    source=READ,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
SAME_UNIT = Rule(
    "ivrs.same-unit",
    f"init_iommu_all {INIT}",
    "two IVHD of one type have the same requester ID or the same registers",
    "{file}, offset {offset}: {what} is that of the IVHD at {first:#x} too",
    source=READ,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NO_BASE = Rule(
    "ivrs.no-base",
    f"init_iommu_one {INIT}",
    "an IVHD has no address of registers",
    "{file}, offset {offset}: the IVHD of {device} has registers at 0",
    source=READ,
    remedy="turn the IOMMU on in the firmware's setup",
    level=Level.ERROR,
)
EFR_DIFFERS = Rule(
    "ivrs.efr-differs",
    f"get_global_efr {INIT}",
    "two IOMMUs have different feature registers",
    "{file}, offset {offset}: EFR {efr:#x} differs from {first:#x} of the first IOMMU; "
    "Linux takes for all what they have in common, {common:#x}",
    source=READ,
    remedy="ask for newer firmware; a width of PASIDs that differs can become 1 bit this way",
)
TOO_WIDE = Rule(
    "ivrs.pasid-too-wide",
    f"iommu_init_pci {INIT}",
    "PASmax is above 15",
    "{file}, offset {offset}: PASIDs of {bits} bits (EFR {efr:#x}); Linux stops with a BUG above 16, taken here",
    source=READ,
    remedy="ask the maker of the kernel for a driver that takes wider PASIDs",
    level=Level.ERROR,
)
NO_SVA = Rule(
    "ivrs.no-sva",
    "amd_iommu_gt_ppr_supported (drivers/iommu/amd/amd_iommu.h)",
    "a feature is missing without which devices get no PASID",
    "{file}, offset {offset}: EFR {efr:#x} is without {missing}, and Linux gives no device a PASID without it",
    source=READ,
    remedy="look for a setting in the firmware's setup; most often the processor is too old",
    level=Level.ERROR,
)
OPEN_RANGE = Rule(
    "ivrs.open-range",
    f"init_iommu_from_acpi {INIT}",
    "a range of device entries has no end, no beginning, or ends before it begins",
    "{file}, offset {offset}: {what}",
    source=READ,
    remedy=TAKE_AGAIN,
)
ATS_DISABLED = Rule(
    "ivrs.ats-disabled",
    f"set_dev_entry_from_acpi {INIT}",
    "a device entry has ATSDIS",
    "{file}, offset {offset}: firmware wants no ATS for {device}; Linux does not look",
    source=READ,
    remedy="if the device fails, boot with pci=noats, which turns off ATS of all devices",
)
HID_TYPE = Rule(
    "ivrs.hid-type",
    f"init_iommu_from_acpi {INIT}",
    "an ACPI device is in a block of another type than 0x40, or has no hardware ID",
    "{file}, offset {offset}: an ACPI device {what}; Linux leaves it out",
    source=READ,
    remedy=TAKE_AGAIN,
)


def check(ivrs: Ivrs) -> None:
    """Add what is wrong to the table's findings."""
    _check_units(ivrs)
    _check_features(ivrs)
    for unit in ivrs.linux_units:
        _check_entries(ivrs, unit)


def rid(unit: Unit, number: int) -> Rid:
    """Return the function of a unit's segment that has a requester ID."""
    return Rid(unit.word.pci_segment, number)


def _check_features(ivrs: Ivrs) -> None:
    """Hold the feature registers against what Linux asks of them."""
    common, found = ivrs.common_efr, ivrs.table.region.found
    if common is None:
        return
    first, *others = ivrs.linux_units
    for unit in others:
        if unit.efr != first.efr:
            found(EFR_DIFFERS, unit.offset, efr=unit.efr, first=first.efr, common=common)
    missing = missing_features(common)
    if missing:
        found(NO_SVA, first.offset, efr=common, missing=missing)
    if common.gtsup and common.pasmax >= LINUX_PASID_BITS:
        found(TOO_WIDE, first.offset, bits=common.pasmax + 1, efr=common)


def _check_units(ivrs: Ivrs) -> None:
    """Compare blocks with each other."""
    found = ivrs.table.region.found
    taken = ivrs.linux_units
    known = {rid(unit, unit.word.device_id) for unit in taken}
    first_id: dict[Rid, int] = {}
    first_base: dict[int, int] = {}
    for unit in ivrs.units:
        device = rid(unit, unit.word.device_id)
        if device not in known:
            known.add(device)
            found(UNIT_SKIPPED, unit.offset, device=device, type=ivrs.linux_type)
    for unit in taken:
        device, base = rid(unit, unit.word.device_id), unit.word.base_address
        if not base:
            found(NO_BASE, unit.offset, device=device)
        if (first := first_id.setdefault(device, unit.offset)) != unit.offset:
            found(SAME_UNIT, unit.offset, what=f"its requester ID {device}", first=first)
        elif base and (first := first_base.setdefault(base, unit.offset)) != unit.offset:
            found(SAME_UNIT, unit.offset, what=f"its address {base:#x}", first=first)


def _check_entries(ivrs: Ivrs, unit: Unit) -> None:
    """Look at the device entries of a block that Linux takes."""
    found = ivrs.table.region.found
    begun: Entry | None = None
    first = 0
    for entry in unit.entries:
        word = entry.word
        if word.type in RANGES:
            _check_closed(ivrs, unit, begun)
            begun, first = entry, word.device_id
        elif word.type == EntryType.RANGE_END:
            last = word.device_id
            if begun is None:
                what = f"a range ends at {rid(unit, last)}, and none began; Linux takes it from {rid(unit, first)} on"
                found(OPEN_RANGE, entry.offset, what=what)
            elif last < first:
                what = f"a range from {rid(unit, first)} ends at {rid(unit, last)}; it covers nothing"
                found(OPEN_RANGE, entry.offset, what=what)
            begun = None
        _check_entry(ivrs, unit, entry)
    _check_closed(ivrs, unit, begun)


def _check_closed(ivrs: Ivrs, unit: Unit, begun: Entry | None) -> None:
    """Tell of a range that began and has no end."""
    if begun is not None:
        what = f"the range from {rid(unit, begun.word.device_id)} has no end; it covers nothing"
        ivrs.table.region.found(OPEN_RANGE, begun.offset, what=what)


def _check_entry(ivrs: Ivrs, unit: Unit, entry: Entry) -> None:
    found, word = ivrs.table.region.found, entry.word
    if isinstance(word, ExtEntry) and word.ats_disabled:
        more = " and the rest of its range" if word.type in RANGES else ""
        found(ATS_DISABLED, entry.offset, device=f"{rid(unit, word.device_id)}{more}")
    if isinstance(word, HidEntry) and not takes_acpi(unit, word):
        wrong_type = unit.word.type != ACPI_TYPE
        what = f"in a block of type {unit.word.type:#x}" if wrong_type else "without a hardware ID"
        found(HID_TYPE, entry.offset, what=what)


def takes_acpi(unit: Unit, word: HidEntry) -> bool:
    """Whether Linux takes an ACPI device of a block."""
    return unit.word.type == ACPI_TYPE and word.hardware_id & 0xFF != 0

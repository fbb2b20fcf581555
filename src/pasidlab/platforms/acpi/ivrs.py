"""IVRS, the table by which firmware describes AMD's IOMMUs: what it says of a machine.

Source: init_iommu_all(), init_iommu_from_acpi(), get_global_efr(), early_iommu_features_init(), iommu_init_pci() and
amd_iommu_pasid_supported() (drivers/iommu/amd/init.c), Linux 6.12; what the feature registers mean is in `amd`.

Linux takes blocks of one type only, the last that the first IOMMU has, and of all feature registers what they have in
common: bit by bit, the width of a PASID included. A function belongs to the unit whose entry comes last; a range
without a beginning goes on where the last one began.

Decided here: units are named ivhd0, ivhd1, ... in the order of the blocks that Linux takes, as it does. The maps of
requester IDs are in the opposite order of the table, so that the first that has an ID is right. Where the table has no
valid feature register (a block of type 0x10, or EFRSUP clear) Linux reads the register itself, and this table says
nothing of PASIDs.

Not modelled: SNP, which takes PASIDs away when a kernel turns it on; ivrs_ioapic, ivrs_hpet and ivrs_acpihid of the
command line, and quirks of single machines.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.acpi.ivrs_checks import RANGES, check, takes_acpi
from pasidlab.platforms.acpi.ivrs_table import Entry, Ivrs, Memory, Unit, read_blocks
from pasidlab.platforms.acpi.ivrs_words import (
    ENTRY_NAMES,
    AliasEntry,
    Entry4,
    EntryType,
    HidEntry,
    IvhdFeatures,
    SpecialEntry,
)
from pasidlab.platforms.acpi.region import ascii_text
from pasidlab.platforms.amd import Efr, efr_says
from pasidlab.platforms.origins import inside
from pasidlab.platforms.said import Endpoint, Iommu, RidMap, Said

__all__ = ["Entry", "Ivrs", "Memory", "Unit", "ivrs_says", "read_ivrs"]

_SINGLE = (EntryType.SELECT, EntryType.EXT_SELECT, EntryType.ACPI_HID)


def read_ivrs(data: bytes, file: str = "IVRS") -> Ivrs:
    """Read an IVRS: its IOMMUs with their device entries, and memory blocks, as drivers/iommu/amd/init.c takes them.

    `data` are the table's bytes, `file` what messages call it. What is wrong with the table is in `findings`, and what
    can be read is read. Raises InputError for what is no IVRS, or larger than 1 MiB.
    """
    ivrs = read_blocks(data, file)
    check(ivrs)
    return ivrs


def ivrs_says(ivrs: Ivrs) -> Said:
    """Return what a table says of a machine."""
    said = Said(ivrs.file, findings=list(ivrs.findings))
    for number, unit in enumerate(ivrs.linux_units):
        said.iommus.append(Iommu(f"ivhd{number}", "amd-vi", _origin(unit), unit.word.base_address))
    _say_types(ivrs, said)
    _say_features(ivrs, said)
    for number, unit in reversed(list(enumerate(ivrs.linux_units))):
        _say_devices(unit, f"ivhd{number}", said)
    return said


def _origin(unit: Unit) -> str:
    """Say where a block is: `IVRS, IVHD of type 0x11 at 0x30`."""
    return f"IVRS, IVHD of type {unit.word.type:#x} at {unit.offset:#x}"


# --- what it says --------------------------------------------------------------------------------------------------


def _say_types(ivrs: Ivrs, said: Said) -> None:
    """Tell which blocks count."""
    types = sorted({unit.word.type for unit in ivrs.units})
    if len(types) > 1:
        listed = ", ".join(f"{kind:#x}" for kind in types)
        said.remarks.append(f"IVRS: IVHD of types {listed}; Linux takes those of type {ivrs.linux_type:#x}")
    for one in ivrs.memory:
        word = one.word
        last = word.start_address + max(1, word.memory_length) - 1
        said.remarks.append(f"IVRS, IVMD at {one.offset:#x}: memory {word.start_address:#x} to {last:#x} for devices")


def _say_features(ivrs: Ivrs, said: Said) -> None:
    """Say what the feature registers mean for PASIDs, as Linux takes them: in common."""
    common = ivrs.common_efr
    if common is None:
        _say_without_efr(ivrs, said)
        return
    for unit, iommu in zip(ivrs.linux_units, said.iommus, strict=True):
        _say_pasids(unit, common, iommu)
    levels = 5 if common.gats == 1 else 4
    said.remarks.append(f"IVRS: page tables of processes up to {levels} levels (EFR {common:#x}, GATS)")
    if common.snpsup:
        said.remarks.append("IVRS: SNP is supported (EFR bit 63); a kernel that turns it on gives no device a PASID")


def _say_without_efr(ivrs: Ivrs, said: Said) -> None:
    """Tell that widths are not in this table, and what a block of type 0x10 says of them."""
    for number, unit in enumerate(ivrs.linux_units):
        hint = "EFRSUP is clear"
        if unit.efr is None:
            features = IvhdFeatures(unit.word.features)
            width = f"PASIDs of {features.pasmax + 1} bits" if features.gt_sup else "no guest translation"
            hint = f"its feature field {unit.word.features:#x} says {width}"
        where = "Linux reads the register: amd-iommu/features in sysfs"
        said.remarks.append(f"ivhd{number}: no valid EFR in the table ({hint}); {where}")


def _say_pasids(unit: Unit, common: Efr, iommu: Iommu) -> None:
    """Say the width of a unit's PASIDs, and whether it can share page tables with the CPU."""
    shared = "" if unit.efr == common else f", {common:#x} in common with the others"
    place = f"{_origin(unit)}, EFR {unit.efr:#x}{shared}"
    efr_says(iommu, common, inside(place))


# --- devices -------------------------------------------------------------------------------------------------------


def _say_devices(unit: Unit, name: str, said: Said) -> None:
    """Say which functions a unit has, last entries first."""
    segment, own = unit.word.pci_segment, unit.word.device_id
    said.rid_maps.append(RidMap(segment, own, own, None, f"{_origin(unit)}: Linux takes an IOMMU for none of its own"))
    said.rid_maps.extend(reversed(list(_maps(unit, name))))
    for entry in unit.entries:
        if isinstance(entry.word, HidEntry) and takes_acpi(unit, entry.word):
            said.endpoints.append(_acpi_device(unit, name, entry, entry.word))


def _maps(unit: Unit, name: str) -> Iterator[RidMap]:
    """Yield the requester IDs of a unit in the order of its entries; an alias brings those that requests bear."""
    segment = unit.word.pci_segment
    begin = Entry4()
    for entry in unit.entries:
        word = entry.word
        if isinstance(word, HidEntry) and not takes_acpi(unit, word):
            continue
        origin = f"{_origin(unit)}, {ENTRY_NAMES.get(word.type, 'unknown')} at {entry.offset:#x}"
        if word.type == EntryType.ALL:
            yield RidMap(segment, 0, LAST_RID, name, origin)
        elif word.type in RANGES:
            begin = word
        elif word.type == EntryType.RANGE_END:
            yield from _range(segment, begin, word.device_id, name, origin)
        elif isinstance(word, AliasEntry):
            alias = word.source_device_id
            yield RidMap(segment, alias, alias, name, origin)
            yield RidMap(segment, word.device_id, word.device_id, name, origin, output=alias)
        elif isinstance(word, SpecialEntry):
            yield RidMap(segment, word.source_device_id, word.source_device_id, name, origin)
        elif word.type in _SINGLE:
            yield RidMap(segment, word.device_id, word.device_id, name, origin)


def _range(segment: int, begin: Entry4, last: int, name: str, origin: str) -> Iterator[RidMap]:
    """Yield what a range covers; requests of an alias range all bear one ID, which is not said of each."""
    if last < begin.device_id:
        return
    if isinstance(begin, AliasEntry):
        yield RidMap(segment, begin.source_device_id, begin.source_device_id, name, origin)
    yield RidMap(segment, begin.device_id, last, name, origin)


def _acpi_device(unit: Unit, name: str, entry: Entry, word: HidEntry) -> Endpoint:
    """Return the platform device of an entry, named as Linux compares it: hardware ID and unique ID."""
    hid = ascii_text(word.hardware_id.to_bytes(8, "little"))
    label = f"{hid}:{entry.uid}" if entry.uid else hid
    origin = f"{_origin(unit)}, ACPI device at {entry.offset:#x}"
    device = Endpoint(label, "platform", origin)
    device.say("iommu", name, origin)
    return device

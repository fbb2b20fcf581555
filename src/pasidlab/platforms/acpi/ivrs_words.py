"""The structures of an IVRS table, the one by which firmware describes AMD's IOMMUs.

Source: struct ivhd_header, struct ivhd_entry and struct ivmd_header (drivers/iommu/amd/init.c) and the IOMMU_ names of
drivers/iommu/amd/amd_iommu_types.h, Linux 6.12; names of flags that Linux does not have are those of
other open drivers. Multi-byte fields are little-endian, so each structure is one `Word`, bit 0 being bit 0 of its
first byte.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, bits, flag


class EntryType(IntEnum):
    """Types of device entries (IVHD_DEV_ in Linux)."""

    PAD4 = 0x00
    ALL = 0x01
    SELECT = 0x02
    SELECT_RANGE_START = 0x03
    RANGE_END = 0x04
    PAD8 = 0x40
    ALIAS = 0x42
    ALIAS_RANGE = 0x43
    EXT_SELECT = 0x46
    EXT_SELECT_RANGE = 0x47
    SPECIAL = 0x48
    ACPI_HID = 0xF0


ENTRY_NAMES: dict[int, str] = {
    EntryType.PAD4: "padding",
    EntryType.ALL: "all",
    EntryType.SELECT: "select",
    EntryType.SELECT_RANGE_START: "range",
    EntryType.RANGE_END: "end of range",
    EntryType.PAD8: "padding",
    EntryType.ALIAS: "alias",
    EntryType.ALIAS_RANGE: "alias range",
    EntryType.EXT_SELECT: "extended select",
    EntryType.EXT_SELECT_RANGE: "extended range",
    EntryType.SPECIAL: "special device",
    EntryType.ACPI_HID: "ACPI device",
}
VARIETIES: dict[int, str] = {1: "I/O APIC", 2: "HPET"}
"""What a special device is."""
UID_FORMATS: dict[int, str] = {0: "none", 1: "number", 2: "text"}
"""What form the unique ID of an ACPI device has."""


class IvrsFields(Word, size=96):
    """What follows the table's header."""

    efr_sup = flag(0, doc="the feature registers in blocks of type 0x11 and 0x40 are valid")
    dma_remap = flag(1, doc="firmware had remapping on before boot")
    pa_size = bits(14, 8, doc="bits of a physical address")
    va_size = bits(21, 15, doc="bits of a virtual address")
    ht_ats_resv = flag(22, doc="the HyperTransport range is reserved in ATS answers")


class Block(Word, size=32):
    """What all blocks begin with."""

    type = bits(7, 0)
    flags = bits(15, 8)
    length = bits(31, 16, doc="bytes, device entries included")


class Ivhd(Word, size=192):
    """I/O Virtualization Hardware Definition: one IOMMU; type 0x10. Device entries follow."""

    type = bits(7, 0)
    ht_tun_en = flag(8)
    pass_pw = flag(9)
    res_pass_pw = flag(10)
    isoc = flag(11)
    iotlb_sup = flag(12, doc="it serves devices with ATS")
    coherent = flag(13)
    pref_sup = flag(14)
    ppr_sup = flag(15, doc="it takes page requests")
    length = bits(31, 16, doc="bytes, device entries included")
    device_id = bits(47, 32, doc="its own requester ID")
    capability_offset = bits(63, 48, doc="where its capability is in configuration space")
    base_address = bits(127, 64, doc="its registers")
    pci_segment = bits(143, 128)
    msi_number = bits(148, 144)
    unit_id = bits(156, 152)
    features = bits(191, 160, doc="`IvhdFeatures` in type 0x10; other attributes in later types")


class IvhdWithEfr(Ivhd, size=320):
    """The same of type 0x11 or 0x40, which has copies of both feature registers. Device entries follow."""

    efr = bits(255, 192, doc="copy of the register EFR, `amd.Efr`")
    efr2 = bits(319, 256, doc="copy of the register EFR2")


class IvhdFeatures(Word, size=32):
    """Feature reporting of an IVHD of type 0x10, which Linux does not read for PASIDs."""

    xt_sup = flag(0)
    nx_sup = flag(1)
    gt_sup = flag(2, doc="guest translation, which PASIDs need")
    glx_sup = bits(4, 3)
    ia_sup = flag(5)
    ga_sup = flag(6)
    he_sup = flag(7)
    pasmax = bits(12, 8, doc="width of a PASID, less 1")
    gats = bits(29, 28)
    hats = bits(31, 30)


class Entry4(Word, size=32):
    """Device entry of 4 bytes; all others begin with it."""

    type = bits(7, 0, names=ENTRY_NAMES)
    device_id = bits(23, 8)
    dte_setting = bits(31, 24)


class AliasEntry(Entry4, size=64):
    """Device entry of a function whose requests bear another's ID."""

    source_device_id = bits(55, 40, doc="the ID that its requests bear")


class ExtEntry(Entry4, size=64):
    """Device entry with more settings."""

    ats_disabled = flag(63)


class SpecialEntry(Entry4, size=64):
    """Device entry of an I/O APIC or HPET."""

    handle = bits(39, 32)
    source_device_id = bits(55, 40, doc="the ID that its requests bear")
    variety = bits(63, 56, names=VARIETIES)


class HidEntry(Entry4, size=176):
    """Device entry of an ACPI device, in IVHD of type 0x40 only; its unique ID follows."""

    hardware_id = bits(95, 32, doc="8 characters")
    compatible_id = bits(159, 96, doc="8 characters")
    uid_format = bits(167, 160, names=UID_FORMATS)
    uid_length = bits(175, 168)


class Ivmd(Word, size=256):
    """I/O Virtualization Memory Definition: memory that devices use from boot on."""

    type = bits(7, 0)
    unity = flag(8, doc="mapped to itself")
    ir = flag(9, doc="devices may read")
    iw = flag(10, doc="devices may write")
    exclusion_range = flag(11, doc="not translated")
    length = bits(31, 16)
    device_id = bits(47, 32)
    aux = bits(63, 48, doc="of type 0x22 the last device ID")
    pci_segment = bits(79, 64)
    start_address = bits(191, 128)
    memory_length = bits(255, 192)


IVHD_KINDS: dict[int, type[Ivhd]] = {0x10: Ivhd, 0x11: IvhdWithEfr, 0x40: IvhdWithEfr}
"""Which word an IVHD of each type is."""
IVMD_TYPES: dict[int, str] = {0x20: "all devices", 0x21: "one device", 0x22: "a range of devices"}
ENTRY_KINDS: dict[int, type[Entry4]] = {
    EntryType.ALIAS: AliasEntry,
    EntryType.ALIAS_RANGE: AliasEntry,
    EntryType.EXT_SELECT: ExtEntry,
    EntryType.EXT_SELECT_RANGE: ExtEntry,
    EntryType.SPECIAL: SpecialEntry,
    EntryType.ACPI_HID: HidEntry,
}
"""Which word a device entry of each type is, where it is more than an `Entry4`."""

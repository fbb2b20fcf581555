"""The structures of a DMAR table, the one by which firmware describes Intel's IOMMUs (VT-d).

Source: Intel VT-d specification 4.1, chapter 8; fields are named as there. Multi-byte fields are little-endian, so
each structure is one `Word`, bit 0 being bit 0 of its first byte.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, bits, flag


class RemappingType(IntEnum):
    """Types of remapping structures (8.2)."""

    DRHD = 0
    RMRR = 1
    ATSR = 2
    RHSA = 3
    ANDD = 4
    SATC = 5
    SIDP = 6


class ScopeType(IntEnum):
    """Types of device scopes (8.3.1)."""

    ENDPOINT = 1
    BRIDGE = 2
    IOAPIC = 3
    HPET = 4
    NAMESPACE = 5


TYPE_NAMES: dict[int, str] = {member: member.name for member in RemappingType}
SCOPE_NAMES: dict[int, str] = {
    ScopeType.ENDPOINT: "PCI endpoint",
    ScopeType.BRIDGE: "PCI sub-hierarchy",
    ScopeType.IOAPIC: "I/O APIC",
    ScopeType.HPET: "HPET",
    ScopeType.NAMESPACE: "ACPI namespace device",
}


class DmarFields(Word, size=96):
    """What follows the table's header (8.1)."""

    host_address_width = bits(7, 0, doc="bits of a physical address, less 1")
    intr_remap = flag(8, doc="the platform supports interrupt remapping")
    x2apic_opt_out = flag(9, doc="firmware asks not to turn x2APIC on")
    dma_ctrl_platform_opt_in_flag = flag(10, doc="firmware asks for protection from external devices")


class RemappingStructure(Word, size=32):
    """What all remapping structures begin with (8.2)."""

    type = bits(15, 0, names=TYPE_NAMES)
    length = bits(31, 16, doc="bytes, device scopes included")


class Drhd(RemappingStructure, size=128):
    """DMA Remapping Hardware Unit Definition (8.3): one IOMMU. Device scopes follow."""

    include_pci_all = flag(32, doc="it has all PCI functions of the segment that no other unit names")
    size = bits(43, 40, doc="its registers take 2^size pages of 4 KiB")
    segment_number = bits(63, 48)
    register_base_address = bits(127, 64)


class Rmrr(RemappingStructure, size=192):
    """Reserved Memory Region Reporting (8.4): memory that devices use from boot on. Device scopes follow."""

    segment_number = bits(63, 48)
    reserved_memory_region_base_address = bits(127, 64)
    reserved_memory_region_limit_address = bits(191, 128, doc="the last byte")


class Atsr(RemappingStructure, size=64):
    """Root Port ATS Capability Reporting (8.5). Device scopes, all of root ports, follow."""

    all_ports = flag(32, doc="all root ports of the segment support ATS")
    segment_number = bits(63, 48)


class Rhsa(RemappingStructure, size=160):
    """Remapping Hardware Static Affinity (8.6): the memory that is near to an IOMMU."""

    register_base_address = bits(127, 64)
    proximity_domain = bits(159, 128)


class Andd(RemappingStructure, size=64):
    """ACPI Namespace Device Declaration (8.7). The device's name follows, ending with a zero."""

    acpi_device_number = bits(63, 56, doc="what device scopes call it")


class Satc(RemappingStructure, size=64):
    """SoC Integrated Address Translation Cache (8.8). Device scopes follow."""

    atc_required = flag(32, doc="the devices work only with ATS on")
    segment_number = bits(63, 48)


class Sidp(RemappingStructure, size=64):
    """SoC Integrated Device Property (8.9). Device scopes follow, with flags."""

    segment_number = bits(63, 48)


class DeviceScope(Word, size=48):
    """Device Scope (8.3.1). The path follows, one `PathEntry` for each bridge and for the device.

    The flags count in a SIDP only.
    """

    type = bits(7, 0, names=SCOPE_NAMES)
    length = bits(15, 8, doc="bytes, the path included")
    req_wo_pasid_nested_notallowed = flag(16, doc="requests without PASID must not be translated nested")
    req_wo_pasid_pwsnp_notallowed = flag(17, doc="walks for requests without PASID must not snoop")
    req_wo_pasid_pgsnp_notallowed = flag(18, doc="pages of requests without PASID must not be snooped")
    atc_hardened = flag(19, doc="the device's ATC is hardened")
    atc_required = flag(20, doc="the device works only with ATS on")
    enumeration_id = bits(39, 32, doc="of an I/O APIC, an HPET or a namespace device")
    start_bus_number = bits(47, 40)


class PathEntry(Word, size=16):
    """One step of a device scope's path (8.3.1)."""

    device = bits(7, 0)
    function = bits(15, 8)

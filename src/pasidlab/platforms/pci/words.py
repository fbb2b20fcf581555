"""The structures of PCI configuration space that decide whether a function can use PASIDs.

Source: PCI Express Base Specification 6.0, chapter 7, as Linux's include/uapi/linux/pci_regs.h and pciutils' header.h
have it. A capability is one word from its header on, so that its fields have the offsets that the specification
prints. Not read: fields that have no part in PASIDs, ATS, page requests, ACS or the place of a function in the tree.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, bits, flag

PCI_CAP_START, EXTENDED_START, CONFIG_BYTES = 0x40, 0x100, 0x1000
"""Where capabilities begin, where the extended ones begin, and how large a configuration space is."""


class HeaderLayout(IntEnum):
    """Header Type, its layout (PCIe 6.0, 7.5.1.1.9)."""

    ENDPOINT = 0
    BRIDGE = 1
    CARDBUS = 2


class ConfigHeader(Word, size=512):
    """The first 64 bytes (PCIe 6.0, 7.5.1.1); the bus numbers are those of a bridge, layout 1."""

    vendor_id = bits(15, 0)
    device_id = bits(31, 16)
    command = bits(47, 32)
    capabilities_list = flag(52, doc="status: the capabilities pointer is one")
    revision_id = bits(71, 64)
    class_code = bits(95, 72, doc="base class, subclass, programming interface")
    layout = bits(118, 112, names={int(kind): kind.name for kind in HeaderLayout})
    multi_function = flag(119)
    primary_bus = bits(199, 192)
    secondary_bus = bits(207, 200)
    subordinate_bus = bits(215, 208)
    capabilities_pointer = bits(423, 416)


class CapabilityHeader(Word, size=16):
    """What each capability below 0x100 begins with (PCIe 6.0, 7.5.3.1)."""

    capability_id = bits(7, 0)
    next_capability = bits(15, 8, doc="offset of the next one, 0 at the end")


class ExtendedHeader(Word, size=32):
    """What each capability from 0x100 on begins with (PCIe 6.0, 7.6.3)."""

    capability_id = bits(15, 0)
    version = bits(19, 16)
    next_capability = bits(31, 20, doc="offset of the next one, 0 at the end")


class PortType(IntEnum):
    """Device/Port Type (PCIe 6.0, 7.5.3.2)."""

    ENDPOINT = 0
    LEGACY_ENDPOINT = 1
    RESERVED_2 = 2
    RESERVED_3 = 3
    ROOT_PORT = 4
    UPSTREAM_PORT = 5
    DOWNSTREAM_PORT = 6
    PCIE_TO_PCI_BRIDGE = 7
    PCI_TO_PCIE_BRIDGE = 8
    INTEGRATED_ENDPOINT = 9
    EVENT_COLLECTOR = 10
    RESERVED_11 = 11
    RESERVED_12 = 12
    RESERVED_13 = 13
    RESERVED_14 = 14
    RESERVED_15 = 15


class ExpressCapability(CapabilityHeader, size=352):
    """PCI Express capability up to Device Control 2 (PCIe 6.0, 7.5.3)."""

    version = bits(19, 16, doc="1 has no Device Capabilities 2")
    port_type = bits(23, 20, PortType)
    prefix_supported = flag(309, doc="Device Capabilities 2: end-end TLP prefixes")
    max_prefixes = bits(311, 310, names={0: "4"}, doc="Device Capabilities 2: end-end TLP prefixes at once")
    prefix_blocking = flag(335, doc="Device Control 2: end-end TLP prefixes do not leave the port")


EXPRESS_1_BYTES = 0x14
"""What of the PCI Express capability each function has; from version 2 on all have all."""


class AcsCapability(ExtendedHeader, size=64):
    """Access Control Services (PCIe 6.0, 7.7.11)."""

    source_validation = flag(32)
    translation_blocking = flag(33)
    request_redirect = flag(34)
    completion_redirect = flag(35)
    upstream_forwarding = flag(36)
    egress_control = flag(37)
    direct_translated = flag(38)
    source_validation_enable = flag(48)
    translation_blocking_enable = flag(49)
    request_redirect_enable = flag(50)
    completion_redirect_enable = flag(51)
    upstream_forwarding_enable = flag(52)
    egress_control_enable = flag(53)
    direct_translated_enable = flag(54)


class AtsCapability(ExtendedHeader, size=64):
    """Address Translation Services (PCIe 6.0, 10.5.1)."""

    invalidate_queue_depth = bits(36, 32, doc="0 is 32")
    page_aligned_request = flag(37)
    smallest_translation_unit = bits(52, 48, doc="2^(12 + this) bytes")
    enable = flag(63)


class SriovCapability(ExtendedHeader, size=256):
    """Single Root I/O Virtualization (PCIe 6.0, 9.3.3)."""

    vf_enable = flag(64)
    initial_vfs = bits(111, 96)
    total_vfs = bits(127, 112)
    num_vfs = bits(143, 128)
    first_vf_offset = bits(175, 160, doc="added to the physical function's ID")
    vf_stride = bits(191, 176, doc="from one virtual function's ID to the next")
    vf_device_id = bits(223, 208)


class PriCapability(ExtendedHeader, size=128):
    """Page Request Interface (PCIe 6.0, 10.5.2)."""

    enable = flag(32)
    reset = flag(33)
    response_failure = flag(48)
    unexpected_prg_index = flag(49)
    stopped = flag(56)
    prg_response_pasid_required = flag(63)
    outstanding_capacity = bits(95, 64)
    outstanding_allocation = bits(127, 96)


class PasidCapability(ExtendedHeader, size=64):
    """Process Address Space ID (PCIe 6.0, 7.8.9)."""

    execute = flag(33)
    privileged = flag(34)
    max_width = bits(44, 40, doc="PASIDs have this many bits, 20 at most")
    enable = flag(48)
    execute_enable = flag(49)
    privileged_enable = flag(50)


EXPRESS_ID = 0x10
EXTENDED: dict[int, type[ExtendedHeader]] = {
    0x0D: AcsCapability,
    0x0F: AtsCapability,
    0x10: SriovCapability,
    0x13: PriCapability,
    0x1B: PasidCapability,
}
"""Extended capabilities that are decoded, by their ID."""
CAPABILITY_NAMES: dict[type[Word], str] = {
    ExpressCapability: "PCI Express",
    AcsCapability: "ACS",
    AtsCapability: "ATS",
    SriovCapability: "SR-IOV",
    PriCapability: "PRI",
    PasidCapability: "PASID",
}
"""What messages call them."""

"""The structures of a RIMT, the table by which firmware describes RISC-V IOMMUs and what is behind them.

Source: RISC-V IO Mapping Table specification 1.0; fields are named as there, or as in Linux where it has only words.
Each structure is one `Word`, bit 0 being bit 0 of its first byte.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, bits, flag


class NodeType(IntEnum):
    """Types of nodes."""

    IOMMU = 0
    PCIE_ROOT_COMPLEX = 1
    PLATFORM_DEVICE = 2


NODE_NAMES: dict[int, str] = {
    NodeType.IOMMU: "IOMMU",
    NodeType.PCIE_ROOT_COMPLEX: "PCIe root complex",
    NodeType.PLATFORM_DEVICE: "platform device",
}


class RimtFields(Word, size=96):
    """What follows the table's header."""

    number_of_nodes = bits(31, 0)
    node_offset = bits(63, 32, doc="of the first node, from the table's beginning")


class RimtNode(Word, size=64):
    """What all nodes begin with."""

    type = bits(7, 0, names=NODE_NAMES)
    revision = bits(15, 8)
    length = bits(31, 16)
    id = bits(63, 48)


class IommuNode(RimtNode, size=320):
    """An IOMMU. Its interrupt wires follow."""

    hardware_id = bits(127, 64, doc="8 characters")
    base_address = bits(191, 128, doc="its registers, if it is a platform device")
    pcie = flag(192, doc="it is a PCIe device")
    proximity_domain_valid = flag(193)
    proximity_domain = bits(255, 224)
    pcie_segment = bits(271, 256)
    pcie_bdf = bits(287, 272)
    number_of_wires = bits(303, 288)
    wire_offset = bits(319, 304, doc="from the node's beginning")


class RootComplexNode(RimtNode, size=160):
    """A PCIe root complex. Its ID mappings follow."""

    ats = flag(64, doc="it supports ATS")
    pri = flag(65, doc="it supports page requests")
    pcie_segment = bits(127, 112)
    mapping_offset = bits(143, 128, doc="from the node's beginning")
    number_of_mappings = bits(159, 144)


class PlatformNode(RimtNode, size=96):
    """A platform device. Its name, ending with a zero, and its ID mappings follow."""

    mapping_offset = bits(79, 64, doc="from the node's beginning")
    number_of_mappings = bits(95, 80)


class IdMapping(Word, size=160):
    """Which device IDs of an IOMMU a range of source IDs has."""

    source_id_base = bits(31, 0)
    number_of_ids = bits(63, 32)
    destination_device_id_base = bits(95, 64)
    destination_iommu_offset = bits(127, 96, doc="of the IOMMU's node, from the table's beginning")
    ats_required = flag(128)
    pri_required = flag(129)


class InterruptWire(Word, size=64):
    """One interrupt of an IOMMU."""

    number = bits(31, 0)
    level_triggered = flag(32)
    active_high = flag(33)

"""The structures of a VIOT, the table in which virtual machines say which devices reach which virtio-iommu.

Source: ACPI 6.5, 5.2, Virtual I/O Translation Table. Multi-byte fields are little-endian, so each structure is one
`Word`, bit 0 being bit 0 of its first byte.
"""

from __future__ import annotations

from pasidlab.words import Word, address, bits

PCI_RANGE, MMIO, VIRTIO_PCI, VIRTIO_MMIO = 1, 2, 3, 4
NODE_NAMES = {
    PCI_RANGE: "PCI range",
    MMIO: "MMIO endpoint",
    VIRTIO_PCI: "virtio-iommu PCI",
    VIRTIO_MMIO: "virtio-iommu MMIO",
}


class ViotFields(Word, size=96):
    """What follows the ACPI header."""

    node_count = bits(15, 0)
    node_offset = bits(31, 16, doc="of the first node, from the start of the table")


class ViotNodeHeader(Word, size=32):
    """What all nodes begin with."""

    type = bits(7, 0, names=NODE_NAMES)
    length = bits(31, 16, doc="bytes of the node, this header included")


class PciRange(ViotNodeHeader, size=192):
    """Node type 1: functions from segment_start to segment_end, and from bdf_start to bdf_end in each."""

    endpoint_start = bits(63, 32)
    segment_start = bits(79, 64)
    segment_end = bits(95, 80)
    bdf_start = bits(111, 96)
    bdf_end = bits(127, 112)
    output_node = bits(143, 128, doc="offset of a virtio-iommu node, from the start of the table")


class MmioEndpoint(ViotNodeHeader, size=192):
    """Node type 2: a device that is told by the address of its registers."""

    endpoint = bits(63, 32)
    base_address = address(127, 64)
    output_node = bits(143, 128, doc="offset of a virtio-iommu node, from the start of the table")


class VirtioIommuPci(ViotNodeHeader, size=128):
    """Node type 3: a virtio-iommu that is a PCI function."""

    segment = bits(47, 32)
    bdf = bits(63, 48)


class VirtioIommuMmio(ViotNodeHeader, size=128):
    """Node type 4: a virtio-iommu with registers of its own."""

    base_address = address(127, 64)


NODE_KINDS: dict[int, type[ViotNodeHeader]] = {
    PCI_RANGE: PciRange,
    MMIO: MmioEndpoint,
    VIRTIO_PCI: VirtioIommuPci,
    VIRTIO_MMIO: VirtioIommuMmio,
}
"""Which word a node of each type is."""

"""A device tree as bindings read it: cells, phandles, addresses through `ranges`, and which nodes are IOMMUs.

Source: Devicetree Specification 0.4, 2.3 (standard properties); drivers/of/address.c (of_translate_address) and
drivers/of/property.c of Linux 6.12; the bindings iommu/iommu.txt, pci/pci-iommu.txt, iommu/arm,smmu-v3.yaml,
iommu/riscv,iommu.yaml and virtio/pci-iommu.yaml.

Decided here: a property is its bytes, and whoever knows the binding says what they are; what is too short for its
type is as if it were not there, as of_property_read_u32() has it. Of nodes that have the same phandle the first counts.
Not read: overlays, symbols, aliases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import unpack

from pasidlab.platforms.devicetree.blob import BlobNode, read_blob
from pasidlab.platforms.said import MOST_PASID_BITS, Kind
from pasidlab.rules import Finding

ADDRESS_CELLS, SIZE_CELLS = 2, 1
"""What a node without `#address-cells` and `#size-cells` has."""
TRUNCATED_FROM = 32
"""From how many bits on Linux, which shifts 1 by them in 32 bits, computes no PASIDs."""
_CELL = 4
_U64 = (1 << 64) - 1

IOMMU_KINDS: dict[str, Kind] = {
    "arm,smmu-v3": "arm-smmu-v3",
    "arm,smmu-v1": "arm-smmu",
    "arm,smmu-v2": "arm-smmu",
    "arm,mmu-400": "arm-smmu",
    "arm,mmu-401": "arm-smmu",
    "arm,mmu-500": "arm-smmu",
    "riscv,iommu": "riscv",
    "riscv,pci-iommu": "riscv",
    "virtio,pci-iommu": "virtio-iommu",
    "virtio,mmio": "virtio-iommu",
}
"""What an IOMMU is, by what it is compatible with; a virtio,mmio is one only with `#iommu-cells`."""


@dataclass(slots=True, eq=False)
class DtNode:
    """A node of a device tree.

    Attributes:
        path: from the root, as `/soc/npu@10000000`.
        properties: by name, each as its bytes.
    """

    path: str
    properties: dict[str, bytes]
    parent: DtNode | None = field(default=None, repr=False)
    children: list[DtNode] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path; `/` of the root."""
        return self.path.rsplit("/", 1)[-1] or "/"

    def has(self, name: str) -> bool:
        """Whether there is such a property, which is all that a flag says."""
        return name in self.properties

    def cells(self, name: str) -> list[int]:
        """Return a property's 32-bit cells; what is left of the last is dropped, nothing is no cells."""
        raw = self.properties.get(name, b"")
        count = len(raw) // _CELL
        return list(unpack(f">{count}I", raw[: count * _CELL]))

    def u32(self, name: str) -> int | None:
        """Return a property's first cell; None when it has none."""
        raw = self.properties.get(name, b"")
        return int.from_bytes(raw[:_CELL], "big") if len(raw) >= _CELL else None

    def strings(self, name: str) -> list[str]:
        """Return a property's strings."""
        raw = self.properties.get(name, b"")
        return [text.decode("ascii", errors="replace") for text in raw.split(b"\0") if text]

    @property
    def available(self) -> bool:
        """Whether `status` lets Linux use it: okay, ok, or no such property (of_device_is_available)."""
        return not self.has("status") or self.properties["status"].split(b"\0")[0] in (b"okay", b"ok")

    @property
    def iommu_kind(self) -> Kind | None:
        """What kind of IOMMU it is; None when it is none, or one that nobody here knows."""
        known = (IOMMU_KINDS[name] for name in self.strings("compatible") if name in IOMMU_KINDS)
        kind = next(known, None)
        if kind == "virtio-iommu" and not self.has("#iommu-cells"):
            return None
        return kind

    @property
    def is_pci_bus(self) -> bool:
        """Whether it is a PCI bus: host bridge, or bridge."""
        return self.properties.get("device_type", b"").rstrip(b"\0") in (b"pci", b"pciex")

    @property
    def is_host_bridge(self) -> bool:
        """Whether it is a PCI bus that is not itself on one."""
        return self.is_pci_bus and not (self.parent is not None and self.parent.is_pci_bus)

    def base(self) -> int | None:
        """Return the physical address of its registers, the first `reg`; None where no address of CPUs leads there."""
        parent = self.parent
        address = None if parent is None else _address(self.cells("reg"), parent)
        while address is not None and parent is not None and parent.parent is not None:
            address = _through_ranges(address, parent)
            parent = parent.parent
        return address


def _address(reg: list[int], parent: DtNode) -> int | None:
    """Return the address that a `reg` begins with; None of a PCI function, whose is one of configuration space."""
    cells = _count(parent, "#address-cells", ADDRESS_CELLS)
    if parent.is_pci_bus or not 1 <= cells <= 2 or len(reg) < cells:
        return None
    return _number(reg[:cells])


def _count(node: DtNode, name: str, default: int) -> int:
    value = node.u32(name)
    return default if value is None else value


def _number(cells: list[int]) -> int:
    value = 0
    for cell in cells:
        value = value << 32 | cell
    return value


def _through_ranges(address: int, bus: DtNode) -> int | None:
    """Return an address as the bus above has it: by `ranges`, an empty one keeps it; None where no range has it."""
    if not bus.has("ranges"):
        return None
    cells = bus.cells("ranges")
    if not cells:
        return address
    above = bus.parent
    child = _count(bus, "#address-cells", ADDRESS_CELLS)
    parent = ADDRESS_CELLS if above is None else _count(above, "#address-cells", ADDRESS_CELLS)
    size = _count(bus, "#size-cells", SIZE_CELLS)
    if not (1 <= child <= 2 and 1 <= parent <= 2 and 1 <= size <= 2):
        return None
    step = child + parent + size
    for at in range(0, len(cells) - step + 1, step):
        first = _number(cells[at : at + child])
        length = _number(cells[at + child + parent : at + step])
        if first <= address < first + length:
            return _number(cells[at + child : at + child + parent]) + address - first & _U64
    return None


@dataclass(slots=True, eq=False)
class DeviceTree:
    """A device tree.

    Attributes:
        file: as messages call it.
        root: the node `/`.
        phandles: the node of each phandle.
        findings: what is wrong with the blob itself, though it could be read.
    """

    file: str
    root: DtNode
    phandles: dict[int, DtNode]
    findings: list[Finding] = field(default_factory=list)

    def nodes(self) -> Iterator[DtNode]:
        """Yield all nodes, each before those below it, in the order of the blob."""
        pending = [self.root]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(reversed(node.children))

    def node(self, path: str) -> DtNode | None:
        """Return the node of a path; None when there is none."""
        found = self.root
        for name in path.strip("/").split("/") if path.strip("/") else ():
            below = next((child for child in found.children if child.name == name), None)
            if below is None:
                return None
            found = below
        return found


def read_devicetree(data: bytes, file: str = "device tree") -> DeviceTree:
    """Read a device tree blob: its nodes and properties, as the Devicetree Specification 0.4, chapter 5, has them.

    `data` is the blob, `file` what messages call it. Raises InputError for what is no blob, is broken, or is larger
    than 4 MiB.
    """
    tree = DeviceTree(file, _convert(read_blob(data, file)), {})
    for node in tree.nodes():
        for name in ("phandle", "linux,phandle"):
            phandle = node.u32(name)
            if phandle is not None:
                tree.phandles.setdefault(phandle, node)
    return tree


def _convert(blob: BlobNode) -> DtNode:
    root = DtNode("/", blob.properties)
    pending = [(blob, root)]
    for source, node in pending:
        prefix = node.path.rstrip("/")
        for child in source.children:
            below = DtNode(f"{prefix}/{child.name}", child.properties, node)
            node.children.append(below)
            pending.append((child, below))
    return root


def width_of(bits: int) -> int:
    """Return the width that has the effect of a `pasid-num-bits`, as Linux takes it."""
    return 0 if bits >= TRUNCATED_FROM else min(bits, MOST_PASID_BITS)

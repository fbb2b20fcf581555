"""RIMT, the table by which firmware describes RISC-V IOMMUs and what is behind them: what it says of a machine.

Source: RISC-V IO Mapping Table specification 1.0; rimt_iommu_configure_id(), rimt_scan_node(), rimt_id_map() and
rimt_pci_iommu_init() (drivers/acpi/riscv/rimt.c), Linux 6.18.

Decided here: IOMMUs are named riscv-iommu@ and the address of their registers, or their PCI function, as Linux does for
the latter. Where Linux and the specification differ, on the last ID of a mapping, the specification is followed, and a
finding tells where it matters. An IOMMU's PASID width is in none of its nodes: it is in the capabilities register.

Not modelled: the source IDs of platform devices, which mean something to their drivers only.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.acpi.rimt_checks import check, rids
from pasidlab.platforms.acpi.rimt_table import Mapping, Node, Rimt, read_nodes
from pasidlab.platforms.acpi.rimt_words import IommuNode, PlatformNode, RootComplexNode
from pasidlab.platforms.said import Endpoint, Iommu, Known, Rid, RidMap, Said, name_by_base

__all__ = ["Mapping", "Node", "Rimt", "read_rimt", "rimt_says"]


def read_rimt(data: bytes, file: str = "RIMT") -> Rimt:
    """Read a RIMT: its nodes with their ID mappings, as the RISC-V IO Mapping Table specification 1.0 defines them.

    `data` are the table's bytes, `file` what messages call it. What is wrong with the table is in `findings`, and what
    can be read is read. Raises InputError for what is no RIMT, or larger than 1 MiB.
    """
    rimt = read_nodes(data, file)
    check(rimt)
    return rimt


def rimt_says(rimt: Rimt) -> Said:
    """Return what a table says of a machine."""
    said = Said(rimt.file, findings=list(rimt.findings))
    said.remarks.append("RIMT: no PASID width is in this table")
    names: dict[int, str] = {}
    for node, iommu in rimt.all_of(IommuNode):
        origin = f"RIMT, IOMMU node at {node.offset:#x}"
        base = None if iommu.pcie else iommu.base_address
        names[node.offset] = _name(iommu)
        said.iommus.append(Iommu(names[node.offset], "riscv", origin, base))
    segments: set[int] = set()
    for node, root in rimt.all_of(RootComplexNode):
        if root.pcie_segment not in segments:
            segments.add(root.pcie_segment)
            said.rid_maps.extend(_maps(node, root, names))
            said.remarks.append(_features(node, root))
    for node, _ in rimt.all_of(PlatformNode):
        said.endpoints.append(_device(node, names))
    return said


def _name(iommu: IommuNode) -> str:
    """Return what an IOMMU is called."""
    if iommu.pcie:
        return f"riscv-iommu@{Rid(iommu.pcie_segment, iommu.pcie_bdf)}"
    return name_by_base("riscv", iommu.base_address)


def _features(node: Node, root: RootComplexNode) -> str:
    has = [text for flag, text in ((root.ats, "ATS"), (root.pri, "page requests")) if flag]
    return f"RIMT, PCIe root complex node at {node.offset:#x}: segment {root.pcie_segment:04x}, {_list(has)}"


def _list(has: list[str]) -> str:
    return f"has {' and '.join(has)}" if has else "has neither ATS nor page requests"


def _maps(node: Node, root: RootComplexNode, names: dict[int, str]) -> Iterator[RidMap]:
    """Yield the requester IDs of a root complex, as its mappings are in order."""
    place = f"RIMT, PCIe root complex node at {node.offset:#x}"
    keys = {} if root.ats else {"ats": Known(False, f"{place}, ATS support clear")}
    for mapping in node.mappings:
        word = mapping.word
        first, last = rids(word)
        iommu = names.get(word.destination_iommu_offset)
        if iommu is None or first > LAST_RID or last < first:
            continue
        output = word.destination_device_id_base
        origin = f"{place}, ID mapping at {mapping.offset:#x}"
        yield RidMap(root.pcie_segment, first, min(last, LAST_RID), iommu, origin, output, keys)


def _device(node: Node, names: dict[int, str]) -> Endpoint:
    """Return a platform device, behind the IOMMU of its first mapping."""
    origin = f"RIMT, platform device node at {node.offset:#x}"
    device = Endpoint(node.name, "platform", origin, node=node.name)
    for mapping in node.mappings:
        iommu = names.get(mapping.word.destination_iommu_offset)
        if iommu is not None:
            device.say("iommu", iommu, f"{origin}, ID mapping at {mapping.offset:#x}")
    return device

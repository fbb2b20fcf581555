"""What is wrong with a RIMT when its nodes are held against each other.

Source: RISC-V IO Mapping Table specification 1.0; rimt_scan_node(), rimt_id_map() and rimt_node_map_id()
(drivers/acpi/riscv/rimt.c), Linux 6.18.
"""

from __future__ import annotations

from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.acpi.region import TAKE_AGAIN
from pasidlab.platforms.acpi.rimt_table import RIMT_C, RIMT_SPEC, Mapping, Node, Rimt
from pasidlab.platforms.acpi.rimt_words import IdMapping, IommuNode, PlatformNode, RootComplexNode
from pasidlab.platforms.said import Rid
from pasidlab.rules import Level, Rule

READ = "Linux 6.18 (read)"

NO_IOMMU = Rule(
    "rimt.no-iommu",
    RIMT_SPEC,
    "the table has no IOMMU node",
    "{file}: no IOMMU node, so nothing is behind an IOMMU",
    source=RIMT_SPEC,
    remedy="turn the IOMMU on in the firmware's setup",
    level=Level.ERROR,
)
SAME_IOMMU = Rule(
    "rimt.same-iommu",
    f"rimt_match_node_callback {RIMT_C}",
    "two IOMMU nodes have the same registers or the same PCI function",
    "{file}, offset {offset}: the IOMMU at {place} has the node at {first:#x} too; Linux takes that one",
    source=READ,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
NO_BASE = Rule(
    "rimt.no-base",
    RIMT_SPEC,
    "an IOMMU that is a platform device has no address",
    "{file}, offset {offset}: an IOMMU that is no PCIe device has registers at 0",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
SAME_SEGMENT = Rule(
    "rimt.same-segment",
    f"rimt_scan_node {RIMT_C}",
    "two root complex nodes have one PCIe segment",
    "{file}, offset {offset}: a second root complex of segment {segment:04x}; the specification allows it, but Linux "
    "takes the one at {first:#x} for all, as is done here: devices of this one have no IOMMU",
    source=READ,
    remedy="ask for firmware that gives each root complex a segment, or for a kernel that takes both",
    level=Level.ERROR,
)
NO_TARGET = Rule(
    "rimt.mapping-target",
    f"rimt_node_map_id {RIMT_C}",
    "an ID mapping does not lead to an IOMMU node",
    "{file}, offset {offset}: the ID mapping leads to {target:#x}, where no IOMMU node begins; it is left out",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
BAD_RANGE = Rule(
    "rimt.mapping-range",
    RIMT_SPEC,
    "an ID mapping has no IDs, or goes beyond what IDs there are",
    "{file}, offset {offset}: the ID mapping has {count} IDs from {base:#x} on; {what}",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
)
OVERLAP = Rule(
    "rimt.mapping-overlap",
    RIMT_SPEC,
    "two ID mappings of a node have the same source IDs",
    "{file}, offset {offset}: source IDs {first:#x} to {last:#x} are in the mapping at {other:#x} too, which counts",
    source=RIMT_SPEC,
    remedy=TAKE_AGAIN,
)
ONE_MORE = Rule(
    "rimt.one-more",
    f"rimt_id_map {RIMT_C}",
    "a mapping begins where another ends, and leads elsewhere",
    "{file}, offset {offset}: source ID {rid:#x} is the first of this mapping, but Linux 6.18 takes it for one more of "
    "the mapping at {other:#x}, so it gets device ID {wrong:#x} there instead of {right:#x} here",
    source=READ,
    remedy="ask for a kernel in which rimt_id_map() compares with the last ID",
)


def check(rimt: Rimt) -> None:
    """Add what is wrong to the table's findings."""
    _check_iommus(rimt)
    targets = {node.offset for node, _ in rimt.all_of(IommuNode)}
    first: dict[int, int] = {}
    for node, root in rimt.all_of(RootComplexNode):
        if (other := first.setdefault(root.pcie_segment, node.offset)) != node.offset:
            rimt.table.region.found(SAME_SEGMENT, node.offset, segment=root.pcie_segment, first=other)
        _check_mappings(rimt, node, targets, LAST_RID)
        _check_neighbours(rimt, node)
    for node, _ in rimt.all_of(PlatformNode):
        _check_mappings(rimt, node, targets, (1 << 32) - 1)


def rids(word: IdMapping) -> tuple[int, int]:
    """Return the first and the last source ID of a mapping; the last is below the first when it has none."""
    return word.source_id_base, word.source_id_base + word.number_of_ids - 1


def _check_iommus(rimt: Rimt) -> None:
    found = rimt.table.region.found
    first: dict[str, int] = {}
    for node, iommu in rimt.all_of(IommuNode):
        place = f"{iommu.base_address:#x}"
        if iommu.pcie:
            place = str(Rid(iommu.pcie_segment, iommu.pcie_bdf))
        elif not iommu.base_address:
            found(NO_BASE, node.offset)
            continue
        if (other := first.setdefault(place, node.offset)) != node.offset:
            found(SAME_IOMMU, node.offset, place=place, first=other)
    if not any(isinstance(node.word, IommuNode) for node in rimt.nodes):
        found(NO_IOMMU)


def _check_mappings(rimt: Rimt, node: Node, targets: set[int], most: int) -> None:
    """Look at each mapping of a node by itself."""
    found = rimt.table.region.found
    for mapping in node.mappings:
        word = mapping.word
        first, last = rids(word)
        facts = {"count": word.number_of_ids, "base": first}
        if last < first:
            found(BAD_RANGE, mapping.offset, what="it has no effect", **facts)
        elif last > most:
            found(BAD_RANGE, mapping.offset, what=f"there are none above {most:#x}", **facts)
        if word.destination_iommu_offset not in targets:
            found(NO_TARGET, mapping.offset, target=word.destination_iommu_offset)


def _check_neighbours(rimt: Rimt, node: Node) -> None:
    """Hold the mappings of a root complex against those next to them, in the order of their source IDs."""
    order = {mapping.offset: index for index, mapping in enumerate(node.mappings)}
    used = [mapping for mapping in node.mappings if mapping.word.number_of_ids]
    used.sort(key=lambda mapping: (mapping.word.source_id_base, order[mapping.offset]))
    if not used:
        return
    left = used[0]
    for right in used[1:]:
        end, begin = rids(left.word)[1], right.word.source_id_base
        if begin <= end:
            last = min(end, rids(right.word)[1])
            earlier, later = sorted((left, right), key=lambda mapping: order[mapping.offset])
            rimt.table.region.found(OVERLAP, later.offset, first=begin, last=last, other=earlier.offset)
        elif begin == end + 1 and order[left.offset] < order[right.offset]:
            _check_one_more(rimt, left, right)
        if rids(right.word)[1] > end:
            left = right


def _check_one_more(rimt: Rimt, left: Mapping, right: Mapping) -> None:
    """Tell where Linux takes the first ID of a mapping for one more of the mapping before."""
    wrong = left.word.destination_device_id_base + left.word.number_of_ids
    right_id = right.word.destination_device_id_base
    same_iommu = left.word.destination_iommu_offset == right.word.destination_iommu_offset
    if wrong != right_id or not same_iommu:
        facts = {"rid": right.word.source_id_base, "other": left.offset, "wrong": wrong, "right": right_id}
        rimt.table.region.found(ONE_MORE, right.offset, **facts)

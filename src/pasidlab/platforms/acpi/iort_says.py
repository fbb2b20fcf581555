"""What an IORT says of a machine: its SMMUs, which PCI functions reach which of them, and the named components.

Source: drivers/acpi/arm64/iort.c (7.3.4); the SMMUs' names are those of the drivers (arm_smmu_device_probe() in
drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c and arm-smmu/arm-smmu.c).

What an IORT does not tell is said by nobody here: an SMMU's PASIDs and whether it stalls are in its registers, a PCI
function's capabilities in its configuration space.

Decided here: an override of the table registers (HTTU) is said as what the SMMU does, as Linux takes it; COHACC is a
remark, since no key depends on it. The root complex's PASID fields are no keys, since Linux does not look at them. A
named component that maps a range of IDs, not single ones, is said to be behind the SMMU with all of them, though Linux
does this only for buses whose devices bring their own ID; a finding tells. All its ID mappings count; Linux stops at
the first that leads to no SMMU. A PASID width above 20 is said as 20, which is what Linux makes of it.

Not said: reserved memory ranges, performance counters, interrupts, and address limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.acpi.iort_nodes import Iort, Mapping, Node
from pasidlab.platforms.acpi.iort_paths import Paths, Reach
from pasidlab.platforms.acpi.iort_words import NamedComponent, RootComplex, Smmu, Smmuv3
from pasidlab.platforms.acpi.region import TAKE_AGAIN
from pasidlab.platforms.said import MOST_PASID_BITS, Endpoint, Iommu, Kind, Known, RidMap, Said, name_by_base
from pasidlab.rules import Level, Rule

MOST_STREAMS = 64
"""StreamIDs of a named component that are said."""
MOST_MAPS = 4096
"""Maps of requester IDs that are said of one table."""

COMPONENT_RANGE = Rule(
    "iort.component-range",
    "IORT named component node, ID mappings",
    "a named component maps a range of IDs, without the single flag",
    "{file}, offset {offset}: ID mapping {index} of the {node}, {name}, has no single flag; Linux takes its IDs only "
    "for devices that bring their own, as those of fsl-mc, and leaves the component itself without an SMMU",
    source="iort_nc_iommu_map, iort_nc_iommu_map_id (drivers/acpi/arm64/iort.c)",
    remedy="firmware has to map each StreamID of a device with the single flag",
)
COMPONENT_SMMUS = Rule(
    "iort.component-smmus",
    "IORT named component node, ID mappings",
    "the ID mappings of a named component lead to several SMMUs",
    "{file}, offset {offset}: the {node}, {name}, maps to the {other} too; it is taken to be behind the {first}",
    source="iort_nc_iommu_map (drivers/acpi/arm64/iort.c)",
    remedy="a device of the model is behind one IOMMU",
)
COMPONENT_UNMAPPED = Rule(
    "iort.component-unmapped",
    "IORT named component node, ID mappings",
    "a named component has PASIDs and reaches no SMMU",
    "{file}, offset {offset}: the {node}, {name}, has PASIDs of {width} bits, and no ID mapping of it leads to an SMMU",
    source="iort_nc_iommu_map (drivers/acpi/arm64/iort.c)",
    remedy="firmware has to map the device's StreamID to its SMMU",
)
COMPONENT_STREAMS = Rule(
    "iort.component-streams",
    "IORT named component node, ID mappings",
    "a named component has more StreamIDs than are said",
    "{file}, offset {offset}: the {node}, {name}, maps {count} StreamIDs; a device is described with 64 at the most, "
    "so none is said",
    source="DEN0049, named component node",
    level=Level.NOTE,
)
PATHS_CUT = Rule(
    "iort.paths-cut",
    "IORT ID mappings",
    "ID mappings lead through more nodes than are followed",
    "{file}: ID mappings lead through too many nodes before an SMMU; where they end is not said",
    source="DEN0049, ID mapping format",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
TOO_MANY_MAPS = Rule(
    "iort.too-many-maps",
    "IORT root complex nodes, ID mappings",
    "the root complexes have more ID mappings than are said",
    "{file}: the root complexes have more than 4096 ID mappings in all; the rest is not said",
    source="pasidlab's bound",
    remedy=TAKE_AGAIN,
)


def iort_says(iort: Iort) -> Said:
    """Say what an IORT means for a machine; of several SMMUs with one base address, the first."""
    said = Said(iort.file, findings=list(iort.findings))
    paths = Paths(iort)
    names: set[str] = set()
    for node in iort.nodes:
        if isinstance(node.word, Smmu | Smmuv3) and smmu_name(node) not in names:
            names.add(smmu_name(node))
            _say_smmu(said, node, node.word)
        if isinstance(node.word, NamedComponent):
            said.endpoints.append(_component(said, paths, node, node.word))
    maps = (one for node in _root_complexes(iort) for one in _rid_maps(paths, node))
    said.rid_maps.extend(islice(maps, MOST_MAPS))
    if next(maps, None) is not None:
        said.found([TOO_MANY_MAPS.finding(file=iort.file)])
    if paths.cut:
        said.found([PATHS_CUT.finding(file=iort.file)])
    return said


def _say_smmu(said: Said, node: Node, word: Smmu | Smmuv3) -> None:
    """Say what the table tells of an SMMU."""
    origin = f"IORT, {node.title}"
    name = smmu_name(node)
    smmu = Iommu(name, _kind(node), origin, word.base_address)
    said.iommus.append(smmu)
    if isinstance(word, Smmu):
        smmu.say("pasid_bits", 0, f"{origin}: an SMMUv1/v2 has no SubstreamIDs")
        smmu.say("sva", False, f"{origin}: Linux's driver of SMMUv1/v2 has no SVA")
        return
    if word.httu_override in (1, 2):
        smmu.say("httu", word.httu_override, f"{origin}, flags, bits 2:1 (HTTU override)")
    if word.cohacc_override:
        said.remarks.append(f"{origin}: COHACC override, so {name} is coherent whatever its IDR0 says")


def smmu_name(node: Node) -> str:
    """Return the name in Linux of the SMMU that a node describes."""
    base = node.word.base_address if isinstance(node.word, Smmu | Smmuv3) else 0
    return name_by_base(_kind(node), base)


def _kind(node: Node) -> Kind:
    return "arm-smmu-v3" if isinstance(node.word, Smmuv3) else "arm-smmu"


def _root_complexes(iort: Iort) -> Iterator[Node]:
    """Yield the root complexes, of each segment the first, the only one that Linux uses."""
    segments: set[int] = set()
    for node in iort.nodes:
        if isinstance(node.word, RootComplex) and node.word.pci_segment_number not in segments:
            segments.add(node.word.pci_segment_number)
            yield node


def _rid_maps(paths: Paths, node: Node) -> Iterator[RidMap]:
    """Say where the requester IDs of a root complex lead."""
    word = node.word
    assert isinstance(word, RootComplex)
    keys = {}
    if not word.ats_supported:
        keys["ats"] = Known(False, f"IORT, {node.title}, ATS attribute, bit 0")
    for reach in paths.reaches(node, 0, LAST_RID):
        yield _rid_map(word.pci_segment_number, node, reach, keys)


def _rid_map(segment: int, node: Node, reach: Reach, keys: dict[str, Known]) -> RidMap:
    """Say where some requester IDs lead."""
    origin = f"IORT, {node.title}, ID mapping {reach.mapping.index}"
    if reach.node is None:
        return RidMap(segment, reach.first, reach.last, None, origin, keys=keys)
    if reach.single:
        keys = {**keys, "stream_id": Known(reach.output, f"{origin}, single")}
    name = smmu_name(reach.node)
    return RidMap(segment, reach.first, reach.last, name, origin, output=reach.output, keys=keys)


def _component(said: Said, paths: Paths, node: Node, word: NamedComponent) -> Endpoint:
    """Say what the table tells of a named component."""
    origin = f"IORT, {node.title}"
    device = Endpoint(node.name or node.title, "platform", origin, node=node.name)
    device.say("kind", "narrow", f"{origin}: a named component")
    width = word.substream_width
    streams = _Streams(said, paths.iort, node)
    for mapping in node.mappings:
        streams.add(mapping, paths)
    if streams.smmu is None:
        if width:
            streams.found(COMPONENT_UNMAPPED, width=width)
        return device
    streams.say(device)
    raw = f", raw {width}" if width > MOST_PASID_BITS else ""
    device.say("pasid_bits", min(width, MOST_PASID_BITS), f"{origin}, flags, bits 5:1 (SubstreamID width){raw}")
    device.say("can_stall", word.stall_supported, f"{origin}, flags, bit 0 (stall supported)")
    return device


class _Streams:
    """The StreamIDs of a named component, as its ID mappings are followed one by one."""

    def __init__(self, said: Said, iort: Iort, node: Node) -> None:
        self.said, self.iort, self.node = said, iort, node
        self.smmu: Node | None = None
        self.mapping = 0
        self.ranges: list[range] = []

    def found(self, rule: Rule, at: int | None = None, **facts: object) -> None:
        """Add a finding about the component."""
        offset = hex(self.node.offset if at is None else at)
        facts = {"file": self.iort.file, "offset": offset, "node": self.node.title, "name": self.node.name, **facts}
        self.said.found([rule.finding(**facts)])

    def add(self, mapping: Mapping, paths: Paths) -> None:
        """Add the StreamIDs that an ID mapping leads to."""
        word = mapping.word
        first, last = (0, 0) if word.single else (word.input_base, word.input_base + word.id_count)
        for reach in paths.through(mapping, first, last):
            if reach.node is None:
                continue
            if not word.single and not self.ranges:
                self.found(COMPONENT_RANGE, mapping.offset, index=mapping.index)
            self._arrived(reach.node, reach)

    def _arrived(self, smmu: Node, reach: Reach) -> None:
        """Add StreamIDs of an SMMU, if it is the one that the component is behind."""
        if self.smmu is None:
            self.smmu, self.mapping = smmu, reach.mapping.index
        if smmu is not self.smmu:
            names = {"other": smmu.title, "first": self.smmu.title}
            self.found(COMPONENT_SMMUS, reach.mapping.offset, **names)
            return
        count = 1 if reach.single else reach.last - reach.first + 1
        self.ranges.append(range(reach.output, reach.output + count))

    def say(self, device: Endpoint) -> None:
        """Say which SMMU the component is behind, and as which StreamIDs."""
        assert self.smmu is not None
        origin = f"IORT, {self.node.title}, ID mapping {self.mapping}"
        device.say("iommu", smmu_name(self.smmu), origin)
        total = sum(len(ids) for ids in self.ranges)
        if total > MOST_STREAMS:
            self.found(COMPONENT_STREAMS, count=total)
            return
        streams = list(dict.fromkeys(stream for ids in self.ranges for stream in ids))
        device.say("stream_id", streams[0] if len(streams) == 1 else streams, origin)

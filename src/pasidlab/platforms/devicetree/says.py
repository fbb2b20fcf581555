"""What a device tree says of a machine: IOMMUs, which requester IDs and devices reach them, PASIDs and stalls.

Source: Linux 6.12: of_iommu_configure() (drivers/iommu/of_iommu.c), of_map_id() (drivers/of/base.c),
iommu_init_device() and dev_iommu_get_max_pasids() (drivers/iommu/iommu.c), arm_smmu_probe_device() and
arm_smmu_ats_supported() (arm-smmu-v3.c), of_device_make_bus_id() (drivers/of/platform.c) for names.

Decided here: only devices that name an IOMMU are devices of the machine. Where a device names several IOMMUs, the
first counts, with all StreamIDs that it has there. Functions of a host bridge that no entry of its map has, and those
of one without a map, are behind no IOMMU. A host bridge without `linux,pci-domain` takes the lowest number that no
other one names. IOMMUs of kinds that have no model here are told of in a remark.
Not read: reserved memory, `dma-ranges`, `msi-map`, nodes of PCI functions below a host bridge but for findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pasidlab.platforms.devicetree.maps import ALL_RIDS, Entry, entries_of, mapped
from pasidlab.platforms.devicetree.nodes import DeviceTree, DtNode, width_of
from pasidlab.platforms.said import MOST_PASID_BITS, Endpoint, Iommu, Kind, Known, Rid, RidMap, Said, name_by_base
from pasidlab.rules import Level, Rule

BINDING = "Documentation/devicetree/bindings/iommu"
MOST_MASKED, MOST_MAPS = 8, 1 << 17
"""How many maps with a mask are followed, each of which has to be looked at for every requester ID, and how many ranges
of requester IDs are kept."""
MOST_FINDINGS = 1000

NO_SUCH_PHANDLE = Rule(
    "dt.no-such-phandle",
    "of_parse_phandle_with_args, of_map_id (drivers/of)",
    "the phandle of iommus or iommu-map is no node's",
    "{file}: {node}: {property} names phandle {phandle:#x}, which no node has: the device is behind no IOMMU",
    source="Linux 6.12 (read)",
    remedy="correct the phandle, or enable the overlay that has the node",
    level=Level.ERROR,
)
MAP_SHORT = Rule(
    "dt.map-short",
    "of_map_id (drivers/of/base.c)",
    "the length of iommu-map is 0, or no multiple of 16 bytes",
    "{file}: {node}: iommu-map has {size} bytes, which are no entries of 16: Linux refuses the whole map",
    source="Linux 6.12 (read)",
    remedy="give each entry four cells: first requester ID, IOMMU, first ID there, count",
    level=Level.ERROR,
)
MAP_MASK = Rule(
    "dt.map-mask",
    "of_map_id (drivers/of/base.c)",
    "rid-base & ~iommu-map-mask",
    "{file}: {node}: entry {index} of iommu-map begins at {first:#x}, which iommu-map-mask {mask:#x} never lets "
    "through: Linux gives an error for every function that no entry before it has",
    source="Linux 6.12 (read)",
    remedy="correct the entry or the mask",
    level=Level.ERROR,
)
MAP_TOO_MANY = Rule(
    "dt.map-too-many",
    "pasidlab's limits",
    "a device tree with very many maps",
    "{file}: {node}: iommu-map is not followed to its end: {most} are the most that are",
    level=Level.WARNING,
)
NO_IOMMU_CELLS = Rule(
    "dt.no-iommu-cells",
    "of_parse_phandle_with_args (drivers/of/base.c)",
    "the IOMMU has no #iommu-cells",
    "{file}: {node}: iommus names {iommu}, which has no #iommu-cells: the device is behind no IOMMU",
    source="Linux 6.12 (read)",
    remedy="add #iommu-cells to the IOMMU's node",
    level=Level.ERROR,
)
IOMMU_CELLS = Rule(
    "dt.iommu-cells",
    f"{BINDING}/arm,smmu-v3.yaml",
    "#iommu-cells is not 1",
    "{file}: {node}: #iommu-cells is {cells}, and one of its kind has 1, the ID",
    source="Linux 6.12 (read)",
    remedy="set #iommu-cells to 1, and give each iommus entry one cell behind the phandle",
    level=Level.ERROR,
)
IOMMUS_SHORT = Rule(
    "dt.iommus-short",
    "of_parse_phandle_with_args (drivers/of/base.c)",
    "an entry of iommus has fewer cells than #iommu-cells of its IOMMU",
    "{file}: {node}: iommus ends within an entry for {iommu}, which takes {cells} cells behind the phandle",
    source="Linux 6.12 (read)",
    remedy="complete the entry",
    level=Level.ERROR,
)
SEVERAL_IOMMUS = Rule(
    "dt.several-iommus",
    f"{BINDING}/iommu.txt",
    "iommus names more than one IOMMU",
    "{file}: {node}: iommus names {first} and {second}; only what it is at the first is taken",
    source="Linux 6.12 (read)",
    level=Level.WARNING,
)
PASID_BITS_WIDE = Rule(
    "dt.pasid-num-bits",
    "dev_iommu_get_max_pasids (drivers/iommu/iommu.c)",
    "pasid-num-bits > 20",
    "{file}: {node}: pasid-num-bits is {bits}, and PASIDs have {most} bits at most: {effect}",
    source="Linux 6.12 (read)",
    remedy="set pasid-num-bits to what the device has, 20 at most",
    level=Level.ERROR,
)
STALL_ON_PCI = Rule(
    "dt.stall-on-pci",
    f"{BINDING}/iommu.txt, dma-can-stall",
    "dma-can-stall at a PCI function",
    "{file}: {node}: dma-can-stall is for devices of a platform bus; a PCI function that stalls can block its bus",
    source="Linux 6.12 (read)",
    remedy="take the property away; PCI functions have page requests",
    level=Level.WARNING,
)
STALL_WITHOUT_PASIDS = Rule(
    "dt.stall-without-pasids",
    f"{BINDING}/iommu.txt, pasid-num-bits",
    "dma-can-stall, and pasid-num-bits is 0 or not there",
    "{file}: {node}: its faults can stall, and it has no PASIDs (pasid-num-bits {bits}): no SVA, though it could fault",
    source="Linux 6.12 (read)",
    remedy="if the device has SubstreamIDs, say how many bits in pasid-num-bits",
    level=Level.WARNING,
)
IOMMU_DISABLED = Rule(
    "dt.iommu-disabled",
    "of_iommu_xlate (drivers/iommu/of_iommu.c)",
    "!of_device_is_available() of the IOMMU",
    "{file}: {node} is behind {iommu}, whose status is {status!r}: Linux takes it for a device behind no IOMMU",
    source="Linux 6.12 (read)",
    remedy="set the IOMMU's status to okay, in the device tree or in the firmware's setup",
    level=Level.ERROR,
)


def devicetree_says(tree: DeviceTree) -> Said:
    """Return what a device tree says of a machine."""
    said = Said(tree.file, findings=list(tree.findings))
    reading = _Reading(tree, said)
    nodes = list(tree.nodes())
    reading.iommus(nodes)
    reading.bridges([node for node in nodes if node.is_host_bridge and node.available])
    reading.devices(nodes)
    if reading.dropped:
        said.remarks.append(f"{tree.file}: {reading.dropped} more findings of this device tree are not kept")
    return said


@dataclass(slots=True, eq=False)
class _Reading:
    """What is known while a tree is read: the IOMMU of each node, and those that are PCI functions with their nodes."""

    tree: DeviceTree
    said: Said
    names: dict[str, Iommu] = field(default_factory=dict)
    on_pci: list[tuple[DtNode, Iommu]] = field(default_factory=list)
    masked: int = 0
    dropped: int = 0

    def found(self, rule: Rule, node: DtNode, **facts: object) -> None:
        if len(self.said.findings) >= MOST_FINDINGS:
            self.dropped += 1
            return
        self.said.findings.append(rule.finding(file=self.tree.file, node=node.path, **facts))

    # --- IOMMUs -----------------------------------------------------------------------------------------------------

    def iommus(self, nodes: list[DtNode]) -> None:
        """Name the IOMMUs."""
        unknown: dict[str, int] = {}
        virtio = 0
        for node in nodes:
            kind = node.iommu_kind
            if kind is None:
                if node.has("#iommu-cells"):
                    name = next(iter(node.strings("compatible")), node.path)
                    unknown[name] = unknown.get(name, 0) + 1
                continue
            if not node.available:
                continue
            base = node.base()
            name = _iommu_name(node, kind, base, virtio)
            virtio += kind == "virtio-iommu"
            one = Iommu(name, kind, self.origin(node), base)
            self.names[node.path] = one
            if node.parent is not None and node.parent.is_host_bridge:
                self.on_pci.append((node, one))
            self.said.iommus.append(one)
            self.check_cells(node, kind)
        for name, count in unknown.items():
            self.said.remarks.append(f"{count} of {name}: an IOMMU of a kind that is not known here")

    def check_cells(self, node: DtNode, kind: str) -> None:
        cells = node.u32("#iommu-cells")
        if cells is not None and cells != 1 and kind != "arm-smmu":
            self.found(IOMMU_CELLS, node, cells=cells)

    def origin(self, node: DtNode, what: str = "") -> str:
        return f"{self.tree.file}, {node.path}{', ' if what else ''}{what}"

    def target(self, node: DtNode, name: str, phandle: int) -> DtNode | None:
        """Return the node that a phandle names; None, and a finding, when there is none, or it is switched off."""
        target = self.tree.phandles.get(phandle)
        if target is None:
            self.found(NO_SUCH_PHANDLE, node, property=name, phandle=phandle)
        elif not target.available:
            status = " ".join(target.strings("status"))
            self.found(IOMMU_DISABLED, node, iommu=target.path, status=status)
            return None
        return target

    # --- PCI --------------------------------------------------------------------------------------------------------

    def bridges(self, bridges: list[DtNode]) -> None:
        """Say which requester IDs reach which IOMMU."""
        named = {domain for node in bridges if (domain := node.u32("linux,pci-domain")) is not None}
        free = (number for number in range(len(bridges) + len(named)) if number not in named)
        for node in bridges:
            domain = node.u32("linux,pci-domain")
            self.bridge(node, next(free) if domain is None else domain)

    def bridge(self, node: DtNode, segment: int) -> None:
        """Say what the map of one host bridge tells, and which functions of it are IOMMUs."""
        for child, one in self.on_pci:
            reg = child.cells("reg")
            if child.parent is node and reg:
                one.rid = Rid(segment, reg[0] >> 8 & ALL_RIDS)
        if not node.has("iommu-map"):
            origin = self.origin(node, "no iommu-map")
        else:
            origin = self.origin(node, "no entry of iommu-map")
            self.map(node, segment)
        self.said.rid_maps.append(RidMap(segment, 0, ALL_RIDS, None, origin))

    def map(self, node: DtNode, segment: int) -> None:
        """Follow a map; the part that Linux would refuse is not followed."""
        raw = node.properties["iommu-map"]
        entries = entries_of(node)
        if not entries:
            self.found(MAP_SHORT, node, size=len(raw))
            return
        mask = node.u32("iommu-map-mask")
        mask = 0xFFFF_FFFF if mask is None else mask
        wrong = next((one for one in entries if one.first & ~mask), None)
        if wrong is not None:
            self.found(MAP_MASK, node, index=wrong.number, first=wrong.first, mask=mask)
            entries = entries[: wrong.number]
        if mask & ALL_RIDS != ALL_RIDS:
            self.masked += 1
            if self.masked > MOST_MASKED:
                self.found(MAP_TOO_MANY, node, most=f"{MOST_MASKED} maps with a mask")
                return
        targets = self.targets(node, entries)
        known: dict[int, RidMap] = {}
        for first, last, entry, output in mapped(entries, mask):
            if len(self.said.rid_maps) >= MOST_MAPS:
                self.found(MAP_TOO_MANY, node, most=f"{MOST_MAPS} ranges of requester IDs")
                return
            if entry.number not in known:
                known[entry.number] = self.rid_map(node, segment, entry, targets[entry.phandle])
            one = known[entry.number]
            shown = None if one.iommu is None else output
            self.said.rid_maps.append(RidMap(segment, first, last, one.iommu, one.origin, shown, one.keys))

    def targets(self, node: DtNode, entries: list[Entry]) -> dict[int, Iommu | None]:
        """Return the IOMMU of each phandle in a map."""
        known: dict[int, Iommu | None] = {}
        for phandle in dict.fromkeys(entry.phandle for entry in entries):
            target = self.target(node, "iommu-map", phandle)
            known[phandle] = None if target is None else self.names.get(target.path)
        return known

    def rid_map(self, node: DtNode, segment: int, entry: Entry, iommu: Iommu | None) -> RidMap:
        """Return what is the same for all ranges of an entry."""
        origin = self.origin(node, f"iommu-map, entry {entry.number}")
        if iommu is None:
            return RidMap(segment, 0, ALL_RIDS, None, origin)
        keys: dict[str, Known] = {}
        if iommu.kind == "arm-smmu-v3":
            keys["can_stall"] = Known(False, self.origin(node, "no dma-can-stall for PCI functions"))
            if not node.has("ats-supported"):
                keys["ats"] = Known(False, self.origin(node, "no ats-supported"))
        return RidMap(segment, 0, ALL_RIDS, iommu.name, origin, None, keys)

    # --- platform devices -------------------------------------------------------------------------------------------

    def devices(self, nodes: list[DtNode]) -> None:
        """Say what is known of each device that names an IOMMU."""
        for node in nodes:
            if node.parent is not None and node.parent.is_pci_bus:
                if node.has("dma-can-stall"):
                    self.found(STALL_ON_PCI, node)
            elif node.has("iommus") and node.available and node.iommu_kind is None:
                self.device(node)

    def device(self, node: DtNode) -> None:
        endpoint = Endpoint(_platform_name(node), "platform", self.origin(node), node=node.path)
        endpoint.say("kind", "narrow", self.origin(node, "compatible " + " ".join(node.strings("compatible"))))
        self.said.endpoints.append(endpoint)
        iommu, streams = self.behind(node)
        if iommu is not None:
            self.place(endpoint, node, iommu, streams)
        self.pasids(endpoint, node)

    def place(self, endpoint: Endpoint, node: DtNode, iommu: Iommu, streams: list[int]) -> None:
        """Say behind which IOMMU a device is, and as what."""
        endpoint.say("iommu", iommu.name, self.origin(node, "iommus"))
        if iommu.kind != "arm-smmu-v3":
            return
        known = list(dict.fromkeys(streams))
        if known:
            endpoint.say("stream_id", known[0] if len(known) == 1 else known, self.origin(node, "iommus"))
        stalls = node.has("dma-can-stall")
        endpoint.say("can_stall", stalls, self.origin(node, "dma-can-stall" if stalls else "no dma-can-stall"))

    def behind(self, node: DtNode) -> tuple[Iommu | None, list[int]]:
        """Return a device's IOMMU and the IDs that it has there."""
        first: DtNode | None = None
        streams: list[int] = []
        for target, args in self.iommu_entries(node):
            if first is None:
                first = target
            if target is not first:
                self.found(SEVERAL_IOMMUS, node, first=first.path, second=target.path)
                break
            streams += args[:1]
        return (None if first is None else self.names.get(first.path)), streams

    def iommu_entries(self, node: DtNode) -> Iterator[tuple[DtNode, list[int]]]:
        """Yield the IOMMU and the cells of each entry of `iommus`; the first that is wrong ends it."""
        cells, at = node.cells("iommus"), 0
        while at < len(cells):
            target = self.target(node, "iommus", cells[at])
            if target is None:
                return
            count = target.u32("#iommu-cells")
            if count is None:
                self.found(NO_IOMMU_CELLS, node, iommu=target.path)
                return
            if at + 1 + count > len(cells):
                self.found(IOMMUS_SHORT, node, iommu=target.path, cells=count)
                return
            yield target, cells[at + 1 : at + 1 + count]
            at += 1 + count

    def pasids(self, endpoint: Endpoint, node: DtNode) -> None:
        """Say how many PASIDs a device has, as Linux takes the property."""
        bits = node.u32("pasid-num-bits")
        if bits is None:
            endpoint.say("pasid_bits", None, self.origin(node, "no pasid-num-bits"))
        else:
            endpoint.say("pasid_bits", self.width(node, bits), self.origin(node, f"pasid-num-bits {bits}"))
        if node.has("dma-can-stall") and not bits:
            self.found(STALL_WITHOUT_PASIDS, node, bits="is not there" if bits is None else bits)

    def width(self, node: DtNode, bits: int) -> int:
        """Return the width that has the effect of a `pasid-num-bits`."""
        width = width_of(bits)
        if bits > MOST_PASID_BITS:
            effect = "Linux takes as many as the IOMMU has" if width else "Linux computes no PASIDs from it"
            self.found(PASID_BITS_WIDE, node, bits=bits, most=MOST_PASID_BITS, effect=effect)
        return width


def _iommu_name(node: DtNode, kind: Kind, base: int | None, virtio: int) -> str:
    """Return what Linux calls an IOMMU; the path of its node where that needs an address which it does not have."""
    if kind == "virtio-iommu":
        return f"virtio-iommu{virtio}"
    return node.path.lstrip("/") if base is None else name_by_base(kind, base)


def _platform_name(node: DtNode) -> str:
    """Return what Linux calls the device of a node: by its address, else by the names of the nodes above it."""
    base = node.base()
    if base is not None:
        return f"{base:x}.{node.name.split('@')[0]}"
    return ":".join(part.split("@")[0] for part in node.path.strip("/").split("/"))

import gzip
import struct
from pathlib import Path

import fdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.devicetree import DeviceTree, read_devicetree
from pasidlab.platforms.devicetree.blob import MOST_BYTES, MOST_DEPTH, MOST_LOOKS, read_blob
from pasidlab.platforms.devicetree.says import MOST_FINDINGS, MOST_MAPS, devicetree_says
from pasidlab.platforms.said import Endpoint, RidMap, Said

DATA = Path(__file__).parent / "data" / "platforms" / "devicetree"
SMMU = "smmu3.0x000000002b400000"


def blob(name: str) -> bytes:
    data = (DATA / name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


def tree_of(name: str) -> DeviceTree:
    return read_devicetree(blob(name), name)


def said_of(name: str) -> Said:
    return devicetree_says(tree_of(name))


def endpoint(said: Said, name: str) -> Endpoint:
    return next(one for one in said.endpoints if one.name == name)


def values(one: Endpoint) -> dict[str, object]:
    return {key: known.value for key, known in one.keys.items()}


def maps_of(said: Said, segment: int) -> list[RidMap]:
    return [one for one in said.rid_maps if one.segment == segment]


def find_map(said: Said, segment: int, rid: int) -> RidMap:
    return next(one for one in said.rid_maps if one.segment == segment and one.first <= rid <= one.last)


# --- blobs that the tests build ------------------------------------------------------------------------------------

BEGIN, END_NODE, PROP, NOP, END = (struct.pack(">I", token) for token in (1, 2, 3, 4, 9))


class Blob:
    """Writes a structure block token by token, also wrong ones."""

    def __init__(self) -> None:
        self.structure = b""
        self.strings = b""

    def begin(self, name: str = "") -> "Blob":
        text = name.encode() + b"\0"
        self.structure += BEGIN + text + bytes(-len(text) % 4)
        return self

    def end(self, count: int = 1) -> "Blob":
        self.structure += END_NODE * count
        return self

    def prop(self, name: str, value: bytes = b"") -> "Blob":
        at = len(self.strings)
        self.strings += name.encode() + b"\0"
        self.structure += PROP + struct.pack(">II", len(value), at) + value + bytes(-len(value) % 4)
        return self

    def raw(self, data: bytes) -> "Blob":
        self.structure += data
        return self

    def bytes(self, version: int = 17, magic: int = 0xD00DFEED, more: int = 0) -> bytes:
        start = 40 + 16
        strings = start + len(self.structure)
        total = strings + len(self.strings)
        words = (magic, total + more, start, strings, 40, version, 16, 0, len(self.strings), len(self.structure))
        return struct.pack(">10I", *words) + bytes(16) + self.structure + self.strings


def refused(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read_devicetree(data, "it.dtb")
    return str(caught.value)


# --- reading -------------------------------------------------------------------------------------------------------


def library_nodes(node: fdt.Node, path: str = "") -> dict[str, set[str]]:
    found = {path or "/": {prop.name for prop in node.props}}
    for child in node.nodes:
        found |= library_nodes(child, f"{path}/{child.name}")
    return found


@pytest.mark.parametrize("name", [path.name for path in sorted(DATA.iterdir()) if ".dtb" in path.name])
def test_reads_the_same_nodes_and_properties_as_the_library_alone(name: str) -> None:
    expected = library_nodes(fdt.parse_dtb(blob(name)).root)
    assert {node.path: set(node.properties) for node in tree_of(name).nodes()} == expected


@given(st.lists(st.binary(max_size=24), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_property_keeps_its_bytes_whatever_the_library_takes_it_for(raw: list[bytes]) -> None:
    made = Blob().begin()
    for index, value in enumerate(raw):
        made.prop(f"p{index}", value)
    properties = read_blob(made.end().raw(END).bytes(), "it").properties
    assert properties == {f"p{index}": value for index, value in enumerate(raw)}


@pytest.mark.parametrize(
    "text", [b"arm,smmu-v3\0", b"a\0bc\0", b"tab\there\0", b"a\0\0b\0", b"\0", b"new\nline\0", b"abc"]
)
def test_strings_that_are_hard_to_tell_keep_their_bytes(text: bytes) -> None:
    assert read_blob(Blob().begin().prop("p", text).end().raw(END).bytes(), "it").properties == {"p": text}


def test_what_was_taken_out_of_a_tree_by_nops_is_passed_over() -> None:
    made = (
        Blob().raw(NOP).begin().raw(NOP * 3).prop("a", b"1234").raw(NOP).begin("x").raw(NOP).end().end().raw(NOP + END)
    )
    root = read_blob(made.bytes(), "it")
    assert root.properties == {"a": b"1234"}
    assert [child.name for child in root.children] == ["x"]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128, 129, 700])
def test_many_nodes_beside_one_another_keep_their_order_and_place(count: int) -> None:
    made = Blob().begin().begin("bus")
    for index in range(count):
        made.begin(f"n{index}").prop("p", struct.pack(">I", index)).begin("below").end(2)
    bus = read_devicetree(made.end().begin("last").end(2).raw(END).bytes(), "it").node("/bus")
    assert bus is not None
    assert [(node.path, node.u32("p")) for node in bus.children] == [(f"/bus/n{i}", i) for i in range(count)]
    assert [[below.path for below in node.children] for node in bus.children] == [
        [f"/bus/n{index}/below"] for index in range(count)
    ]


def test_ten_thousand_devices_are_read() -> None:
    made = Blob().begin().begin("smmu").prop("compatible", b"arm,smmu-v3\0").prop("phandle", struct.pack(">I", 1))
    made.prop("#iommu-cells", struct.pack(">I", 1)).end()
    parts = []
    for index in range(10_000):
        one = Blob()
        one.strings = made.strings
        one.begin(f"npu{index}").prop("iommus", struct.pack(">II", 1, index))
        parts.append(one.structure + END_NODE)
    made.strings += b"iommus\0"
    said = devicetree_says(read_devicetree(made.raw(b"".join(parts)).end().raw(END).bytes()))
    assert [one.keys["stream_id"].value for one in said.endpoints] == list(range(10_000))


def test_nodes_are_found_by_path_and_by_phandle() -> None:
    tree = tree_of("narrow.dtb")
    node = tree.node("/soc/npu@10000")
    assert node is not None
    assert (node.name, node.parent and node.parent.path) == ("npu@10000", "/soc")
    assert tree.node("/soc/none") is None
    assert tree.node("/") is tree.root
    assert [found.path for found in tree.phandles.values()] == ["/iommu@2b400000"]


@pytest.mark.parametrize(
    ("status", "available"), [(None, True), (b"okay\0", True), (b"ok\0", True), (b"disabled\0", False), (b"", False)]
)
def test_status_lets_linux_use_a_node(status: bytes | None, available: bool) -> None:
    made = Blob().begin()
    if status is not None:
        made.prop("status", status)
    assert read_devicetree(made.end().raw(END).bytes()).root.available is available


def test_cells_and_numbers_that_are_too_short_are_not_there() -> None:
    root = read_devicetree(Blob().begin().prop("a", b"\0\0\1").prop("b", b"\0\0\0\1\2").end().raw(END).bytes()).root
    assert (root.u32("a"), root.cells("a"), root.u32("b"), root.cells("b"), root.u32("c")) == (None, [], 1, [1], None)


# --- addresses -----------------------------------------------------------------------------------------------------


def bus_with(ranges: bytes | None, reg: bytes = struct.pack(">II", 0x1000, 0x10), device_type: str = "") -> int | None:
    cells = struct.pack(">I", 1)
    made = Blob().begin().prop("#address-cells", struct.pack(">I", 2)).prop("#size-cells", cells).begin("bus")
    made.prop("#address-cells", cells).prop("#size-cells", cells)
    if ranges is not None:
        made.prop("ranges", ranges)
    if device_type:
        made.prop("device_type", device_type.encode() + b"\0")
    node = read_devicetree(made.begin("x").prop("reg", reg).end(3).raw(END).bytes()).node("/bus/x")
    assert node is not None
    return node.base()


def test_an_address_goes_through_the_ranges_of_the_buses_above() -> None:
    entry = struct.pack(">4I", 0x1000, 8, 0x5000, 0x100)
    assert bus_with(entry) == 0x8_0000_5000
    assert bus_with(struct.pack(">4I", 0, 1, 0, 0x1000) + entry) == 0x8_0000_5000
    assert bus_with(b"") == 0x1000


@pytest.mark.parametrize(
    ("ranges", "reg", "device_type"),
    [
        (None, struct.pack(">II", 0x1000, 0x10), ""),
        (struct.pack(">4I", 0, 0, 0, 0x1000), struct.pack(">II", 0x1000, 0x10), ""),
        (b"\0\0\0\0\0\0", struct.pack(">II", 0x1000, 0x10), ""),
        (b"", b"\0\0", ""),
        (b"", struct.pack(">II", 0x1000, 0x10), "pci"),
    ],
)
def test_no_address_where_none_leads_to_the_cpus(ranges: bytes | None, reg: bytes, device_type: str) -> None:
    assert bus_with(ranges, reg, device_type) is None


# --- what a tree says ----------------------------------------------------------------------------------------------


def test_the_emulators_machine_has_one_smmu_for_all_functions() -> None:
    said = said_of("virt-smmuv3.dtb.gz")
    assert [(one.name, one.kind, one.base) for one in said.iommus] == [
        ("smmu3.0x0000000009050000", "arm-smmu-v3", 0x9050000)
    ]
    first = said.rid_maps[0]
    assert (first.segment, first.first, first.last, first.iommu) == (0, 0, 0xFFFF, "smmu3.0x0000000009050000")
    assert first.stream(0x6A08) == 0x6A08
    assert first.keys["ats"] == (False, "virt-smmuv3.dtb.gz, /pcie@10000000, no ats-supported")
    assert first.keys["can_stall"].value is False
    assert (said.endpoints, said.findings, said.remarks) == ([], [], [])


def test_a_virtio_iommu_reaches_all_functions_but_itself() -> None:
    said = said_of("virt-virtio-iommu.dtb.gz")
    assert [(one.name, one.kind, one.base) for one in said.iommus] == [("virtio-iommu0", "virtio-iommu", None)]
    assert [find_map(said, 0, rid).iommu for rid in (0x0F, 0x10, 0x11)] == ["virtio-iommu0", None, "virtio-iommu0"]
    assert find_map(said, 0, 0x11).keys == {}


def test_a_platform_device_is_told_with_its_numbers_stalls_and_pasids() -> None:
    said = said_of("narrow.dtb")
    npu = endpoint(said, "810010000.npu")
    assert (npu.bus, npu.node, npu.rid) == ("platform", "/soc/npu@10000", None)
    assert values(npu) == {"kind": "narrow", "iommu": SMMU, "stream_id": [16, 17], "can_stall": True, "pasid_bits": 2}
    assert npu.keys["pasid_bits"].origin == "narrow.dtb, /soc/npu@10000, pasid-num-bits 2"
    assert values(endpoint(said, "810020000.npu"))["pasid_bits"] == 1


def test_a_device_without_the_property_has_no_width_and_zero_is_a_width() -> None:
    said = said_of("narrow.dtb")
    dma, codec = values(endpoint(said, "810030000.dma")), values(endpoint(said, "soc:codec"))
    assert (dma["pasid_bits"], codec["pasid_bits"]) == (None, 0)
    assert (dma["can_stall"], dma["stream_id"]) == (False, 0x30)


def test_a_disabled_device_is_no_device() -> None:
    assert [one.name for one in said_of("narrow.dtb").endpoints if "off" in one.name] == []


def test_entries_of_a_map_are_ranges_that_count_up_and_the_rest_has_no_iommu() -> None:
    said = said_of("server.dtb")
    smmu0, smmu1 = said.iommus[0].name, said.iommus[1].name
    seen = [(find_map(said, 1, rid).iommu, find_map(said, 1, rid).stream(rid)) for rid in (0xFF, 0x17F, 0x200, 0xFFFF)]
    assert seen == [(smmu0, 0xFF), (smmu1, 0x1017F), (smmu1, 0x20000), (smmu1, 0x2FDFF)]
    nothing = find_map(said, 1, 0x180)
    assert (nothing.iommu, nothing.origin) == (None, "server.dtb, /pcie@40000000, no entry of iommu-map")


def test_ats_is_off_only_where_the_host_bridge_does_not_say_that_it_has_it() -> None:
    said = said_of("server.dtb")
    assert "ats" not in find_map(said, 1, 0).keys
    assert find_map(said, 0, 0).keys["ats"].value is False


@given(st.integers(0, 0xFFFF))
@settings(max_examples=50, deadline=None)
def test_a_mask_hides_bits_of_an_id_before_the_map_is_looked_at(rid: int) -> None:
    assert find_map(SERVER, 0, rid).stream(rid) == 0x30000 + (rid & 0xFF)


SERVER = said_of("server.dtb")


def test_host_bridges_without_a_number_take_the_lowest_that_is_free() -> None:
    assert [one.segment for one in SERVER.rid_maps if one.last == 0xFFFF and one.iommu is None] == [1, 0, 2]
    assert find_map(SERVER, 2, 0).origin == "server.dtb, /pcie@60000000, no iommu-map"


def test_an_smmuv2_gives_no_stream_ids_and_an_unknown_iommu_is_a_remark() -> None:
    assert values(endpoint(SERVER, "5000000.gpu")) == {
        "kind": "narrow",
        "iommu": "smmu.0x0000000003000000",
        "pasid_bits": 4,
    }
    assert values(endpoint(SERVER, "6000000.isp")) == {"kind": "narrow", "pasid_bits": None}
    assert SERVER.remarks == ["1 of apple,t8103-dart: an IOMMU of a kind that is not known here"]


def test_riscv_iommus_are_on_the_platform_bus_or_are_pci_functions() -> None:
    said = said_of("riscv.dtb")
    assert [(one.name, one.kind, one.base) for one in said.iommus] == [
        ("riscv-iommu@1bccd000", "riscv", 0x1BCCD000),
        ("pcie@30000000/iommu@1,0", "riscv", None),
    ]
    assert values(endpoint(said, "10000000.npu")) == {
        "kind": "narrow",
        "iommu": "riscv-iommu@1bccd000",
        "pasid_bits": 8,
    }
    assert [find_map(said, 0, rid).iommu for rid in (7, 8, 9)] == [said.iommus[1].name, None, said.iommus[1].name]


WRONG = said_of("wrong.dtb")


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("dt.iommu-cells", "wrong.dtb: /iommu@3000000: #iommu-cells is 2, and one of its kind has 1, the ID"),
        (
            "dt.map-short",
            "wrong.dtb: /pcie@10000000: iommu-map has 20 bytes, which are no entries of 16: Linux refuses the whole "
            "map",
        ),
        (
            "dt.map-mask",
            "wrong.dtb: /pcie@20000000: entry 1 of iommu-map begins at 0x108, which iommu-map-mask 0xff00 never lets "
            "through: Linux gives an error for every function that no entry before it has",
        ),
        (
            "dt.no-such-phandle",
            "wrong.dtb: /pcie@30000000: iommu-map names phandle 0x78, which no node has: the device is behind no IOMMU",
        ),
        (
            "dt.no-such-phandle",
            "wrong.dtb: /nobody@1: iommus names phandle 0x77, which no node has: the device is behind no IOMMU",
        ),
        (
            "dt.iommu-disabled",
            "wrong.dtb: /disabled@2 is behind /iommu@2000000, whose status is 'disabled': Linux takes it for a device "
            "behind no IOMMU",
        ),
        (
            "dt.no-iommu-cells",
            "wrong.dtb: /cells@3: iommus names /iommu@4000000, which has no #iommu-cells: the device is behind no "
            "IOMMU",
        ),
        (
            "dt.iommus-short",
            "wrong.dtb: /short@4: iommus ends within an entry for /iommu@1000000, which takes 1 cells behind the "
            "phandle",
        ),
        (
            "dt.several-iommus",
            "wrong.dtb: /several@5: iommus names /iommu@1000000 and /iommu@3000000; only what it is at the first is "
            "taken",
        ),
        (
            "dt.pasid-num-bits",
            "wrong.dtb: /wide@6: pasid-num-bits is 21, and PASIDs have 20 bits at most: Linux takes as many as the "
            "IOMMU has",
        ),
        (
            "dt.pasid-num-bits",
            "wrong.dtb: /wider@7: pasid-num-bits is 32, and PASIDs have 20 bits at most: Linux computes no PASIDs "
            "from it",
        ),
        (
            "dt.stall-without-pasids",
            "wrong.dtb: /stalls@8: its faults can stall, and it has no PASIDs (pasid-num-bits is not there): no SVA, "
            "though it could fault",
        ),
        (
            "dt.stall-on-pci",
            "wrong.dtb: /pcie@10000000/nic@0,0: dma-can-stall is for devices of a platform bus; a PCI function that "
            "stalls can block its bus",
        ),
    ],
)
def test_what_is_wrong_with_a_tree_is_a_finding(rule: str, why: str) -> None:
    assert (rule, why) in [(finding.rule.id, finding.why) for finding in WRONG.findings]


def test_nothing_else_is_found_in_the_wrong_tree() -> None:
    assert len(WRONG.findings) == 13


def test_a_device_that_names_its_iommu_wrongly_is_behind_none() -> None:
    for name in ("nobody", "disabled", "cells", "short"):
        assert "iommu" not in endpoint(WRONG, name).keys


def test_a_width_beyond_pasids_has_the_effect_that_it_has_in_linux() -> None:
    widths = {name: values(endpoint(WRONG, name)).get("pasid_bits") for name in ("wide", "wider", "cut")}
    assert widths == {"wide": 20, "wider": 0, "cut": None}


def test_a_map_that_linux_refuses_puts_nothing_behind_an_iommu() -> None:
    assert [one.iommu for one in maps_of(WRONG, 0)] == [None]
    assert [one.iommu for one in maps_of(WRONG, 2)] == [None, None]


def test_the_entries_before_a_wrong_one_count() -> None:
    assert find_map(WRONG, 1, 0x01).iommu == WRONG.iommus[0].name
    assert find_map(WRONG, 1, 0x108).iommu is None


# --- broken blobs --------------------------------------------------------------------------------------------------

OK = Blob().begin().prop("a", b"1234").begin("x").end(2).raw(END)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it.dtb: begins with nothing; a device tree blob begins with d00dfeed"),
        (b"\x7fELF", "it.dtb: begins with 7f454c46; a device tree blob begins with d00dfeed"),
        (OK.bytes()[:20], "it.dtb: 20 bytes are too few for the header of a device tree"),
        (OK.bytes()[:30], "it.dtb: 30 bytes are too few for the header of a device tree"),
        (OK.bytes()[:60], f"it.dtb: the device tree says that it has {len(OK.bytes())} bytes, and the file has 60"),
        (OK.bytes(version=3), "it.dtb: a device tree of version 3; 16 and 17 are read"),
        (OK.bytes(version=99), "it.dtb: the header of the device tree is wrong: Invalid Version 99, use: 0 - 17 !"),
        (Blob().raw(END).bytes(), "it.dtb, offset 0x38: the device tree is wrong: it ends without a node"),
        (Blob().begin().raw(END).bytes(), "it.dtb, offset 0x40: the device tree is wrong: it ends inside of a node"),
        (Blob().begin().bytes(), "it.dtb, offset 0x40: the device tree is wrong: it ends without its last token"),
        (Blob().raw(b"\0\0\0\7").bytes(), "it.dtb, offset 0x38: the device tree is wrong: 0x7 is no token"),
        (Blob().end().bytes(), "it.dtb, offset 0x38: the device tree is wrong: a node ends that did not begin"),
        (
            Blob().prop("a").bytes(),
            "it.dtb, offset 0x38: the device tree is wrong: a property outside of all nodes",
        ),
        (
            Blob().begin().end().begin().bytes(),
            "it.dtb, offset 0x44: the device tree is wrong: a second root",
        ),
        (
            Blob().begin().begin("x").end().prop("a").bytes(),
            "it.dtb, offset 0x4c: the device tree is wrong: a property behind the nodes below its own",
        ),
        (
            Blob().begin().raw(PROP + struct.pack(">II", 500, 0)).bytes(),
            "it.dtb, offset 0x40: the device tree is wrong: a property of 500 bytes reaches beyond the end",
        ),
        (
            Blob().begin().raw(PROP).bytes(),
            "it.dtb, offset 0x40: the device tree is wrong: a property is cut off",
        ),
        (
            Blob().begin().raw(PROP + struct.pack(">II", 0, 77)).bytes(),
            "it.dtb, offset 0x44: the device tree is wrong: the name, at 0x4d of the strings, of the property at 0x40 "
            "does not end within 255 characters",
        ),
        (
            Blob().begin().begin("a/b").bytes(),
            "it.dtb, offset 0x40: the device tree is wrong: b'a/b' is no name of a node",
        ),
        (Blob().begin().begin("").bytes(), "it.dtb, offset 0x40: the device tree is wrong: b'' is no name of a node"),
        (
            Blob().begin().begin("\x0b64").bytes(),
            "it.dtb, offset 0x40: the device tree is wrong: b'\\x0b64' is no name of a node",
        ),
        (
            Blob().begin().begin("x" * 300).bytes(),
            "it.dtb, offset 0x44: the device tree is wrong: the name of a node does not end within 255 characters",
        ),
        (
            Blob().begin().begin("x").end().begin("x").end(2).raw(END).bytes(),
            'it.dtb: the device tree is wrong: < /: 0 props, 1 nodes >: "x" node already exists',
        ),
        (
            Blob().begin().prop("a").prop("a").end().raw(END).bytes(),
            'it.dtb: the device tree is wrong: < /: 1 props, 0 nodes >: "a" property already exists',
        ),
    ],
)
def test_a_broken_blob_is_refused_and_named(data: bytes, message: str) -> None:
    assert refused(data) == message


def test_a_tree_that_is_too_deep_is_refused() -> None:
    made = Blob().begin()
    for _ in range(MOST_DEPTH):
        made.begin("x")
    assert refused(made.bytes()).endswith("the device tree is wrong: nodes are more than 64 deep")


def test_a_file_that_is_too_large_is_refused() -> None:
    data = OK.bytes().ljust(MOST_BYTES + 1, b"\0")
    assert refused(data) == "it.dtb: larger than 4 MiB, the most that is read of a device tree"


def test_a_node_with_too_many_properties_is_refused() -> None:
    made = Blob().begin()
    count = int((2 * MOST_LOOKS) ** 0.5) + 2
    made.strings = b"a\0"
    made.raw((PROP + struct.pack(">II", 0, 0)) * count)
    assert refused(made.end().raw(END).bytes()).endswith("the device tree is wrong: too many properties in a node")


def say_or_refuse(data: bytes) -> None:
    try:
        said = devicetree_says(read_devicetree(data, "it.dtb"))
    except InputError as error:
        said = Said(str(error))
    assert said.source.startswith("it.dtb")
    assert all(finding.why and finding.rule.id.startswith("dt.") for finding in said.findings)


@given(
    name=st.sampled_from(["narrow.dtb", "server.dtb", "riscv.dtb", "wrong.dtb"]),
    changes=st.lists(
        st.tuples(st.integers(0, 1600), st.sampled_from([0, 1, 2, 3, 4, 9, 0x7F, 0x80, 0xFF])), max_size=6
    ),
    cut=st.integers(0, 40),
)
@settings(max_examples=300, deadline=None)
def test_changed_blobs_are_read_or_refused(name: str, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(BLOBS[name])
    for at, value in changes:
        data[at % len(data)] = value
    say_or_refuse(bytes(data[: len(data) - cut]))


BLOBS = {name: blob(name) for name in ("narrow.dtb", "server.dtb", "riscv.dtb", "wrong.dtb")}


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_structure_block_is_read_or_refused(structure: bytes) -> None:
    say_or_refuse(Blob().raw(structure).bytes())
    say_or_refuse(b"\xd0\x0d\xfe\xed" + structure)


def test_maps_of_a_hostile_tree_with_masks_are_followed_only_so_far() -> None:
    made = Blob().begin().begin("smmu").prop("compatible", b"arm,smmu-v3\0").prop("phandle", struct.pack(">I", 1)).end()
    for index in range(10):
        made.begin(f"pcie{index}").prop("device_type", b"pci\0").prop("iommu-map-mask", struct.pack(">I", 0xFF))
        made.prop("iommu-map", struct.pack(">4I", 0, 1, 0, 0x100) * 500).end()
    said = devicetree_says(read_devicetree(made.end().raw(END).bytes(), "it.dtb"))
    assert [finding.why for finding in said.findings] == [
        f"it.dtb: /pcie{index}: iommu-map is not followed to its end: 8 maps with a mask are the most that are"
        for index in (8, 9)
    ]


def test_ranges_of_a_hostile_tree_are_kept_only_so_far() -> None:
    made = Blob().begin().begin("smmu").prop("compatible", b"arm,smmu-v3\0").prop("phandle", struct.pack(">I", 1)).end()
    entries = struct.pack(">4I", 0, 1, 0, 1) * (MOST_MAPS + 5)
    made.begin("pcie").prop("device_type", b"pci\0").prop("iommu-map", entries).end()
    said = devicetree_says(read_devicetree(made.end().raw(END).bytes(), "it.dtb"))
    assert len(said.rid_maps) == MOST_MAPS + 1
    most = f"{MOST_MAPS} ranges of requester IDs are the most that are"
    assert [one.why for one in said.findings] == [f"it.dtb: /pcie: iommu-map is not followed to its end: {most}"]


def test_findings_of_a_hostile_tree_are_kept_only_so_far() -> None:
    made = Blob().begin().begin("pcie").prop("device_type", b"pci\0")
    entries = b"".join(struct.pack(">4I", 0, 9 + index, 0, 1) for index in range(MOST_FINDINGS + 7))
    said = devicetree_says(read_devicetree(made.prop("iommu-map", entries).end(2).raw(END).bytes(), "it.dtb"))
    assert len(said.findings) == MOST_FINDINGS
    assert said.remarks == ["it.dtb: 7 more findings of this device tree are not kept"]

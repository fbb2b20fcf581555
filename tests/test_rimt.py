"""The RIMT: what is read of every node, what is found wrong, and which IOMMU a function or device has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.bounds import MOST_STRUCTURES
from pasidlab.platforms.acpi.header import AcpiHeader
from pasidlab.platforms.acpi.rimt import Rimt, read_rimt, rimt_says
from pasidlab.platforms.acpi.rimt_words import (
    IdMapping,
    InterruptWire,
    IommuNode,
    PlatformNode,
    RimtFields,
    RimtNode,
    RootComplexNode,
)
from pasidlab.platforms.said import RidMap, Said
from tests.acpi_mutations import broken
from tests.acpi_tables import summed, table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-riscv"
FIRST = 48
"""Where the first node of a table is."""


def iommu(base: int = 0x301_0000, *wires: InterruptWire, pcie: tuple[int, int] | None = None, **fields: int) -> bytes:
    segment, bdf = pcie or (0, 0)
    word = IommuNode(base_address=base, pcie=pcie is not None, pcie_segment=segment, pcie_bdf=bdf, **fields)
    word = word.replace(revision=1, length=40 + 8 * len(wires), number_of_wires=len(wires), wire_offset=40)
    return word.pack() + b"".join(one.pack() for one in wires)


def mapping(first: int, count: int, output: int = 0, iommu_at: int = FIRST, **flags: int) -> bytes:
    return IdMapping(
        source_id_base=first,
        number_of_ids=count,
        destination_device_id_base=output,
        destination_iommu_offset=iommu_at,
        **flags,
    ).pack()


def root(*maps: bytes, segment: int = 0, ats: bool = True, **fields: int) -> bytes:
    word = RootComplexNode(type=1, revision=1, pcie_segment=segment, ats=ats, length=20 + 20 * len(maps))
    return word.replace(**({"mapping_offset": 20, "number_of_mappings": len(maps)} | fields)).pack() + b"".join(maps)


def platform(name: str, *maps: bytes, **fields: int) -> bytes:
    text = name.encode() + b"\0"
    text += bytes(-len(text) % 4)
    word = PlatformNode(type=2, revision=1, length=12 + len(text) + 20 * len(maps), **fields)
    return word.replace(mapping_offset=12 + len(text), number_of_mappings=len(maps)).pack() + text + b"".join(maps)


def body(*nodes: bytes, count: int | None = None, start: int = FIRST) -> bytes:
    return RimtFields(number_of_nodes=len(nodes) if count is None else count, node_offset=start).pack() + b"".join(
        nodes
    )


def read(*nodes: bytes, count: int | None = None, start: int = FIRST) -> Rimt:
    return read_rimt(table("RIMT", body(*nodes, count=count, start=start), 1), "rimt")


def number(text: str) -> int:
    return int.from_bytes(text.encode(), "little")


def two_iommus() -> bytes:
    """Make the table of the data: what its README says."""
    wires = (
        InterruptWire(number=0x24, level_triggered=1),
        InterruptWire(number=0x25, level_triggered=1, active_high=1),
    )
    platform_iommu = iommu(
        0x301_0000, *wires, hardware_id=number("RSCV0004"), proximity_domain_valid=1, proximity_domain=1
    )
    pcie_iommu = iommu(0, pcie=(1, 8), hardware_id=number("1EFD0014"), id=1)
    other = FIRST + len(platform_iommu)
    nodes = body(
        platform_iommu,
        pcie_iommu,
        root(mapping(0, 0x100), mapping(0x200, 0x100, 0x10000, ats_required=1, pri_required=1), id=2, pri=1),
        root(mapping(0, 0x10000, iommu_at=other), segment=1, ats=False, id=3),
        platform("\\_SB.DMA0.CH0", mapping(0, 1, 0x20), id=4),
    )
    header = AcpiHeader(
        signature=number("RIMT"),
        length=36 + len(nodes),
        revision=1,
        oem_id=number("PASLAB"),
        oem_table_id=number("RISCV"),
        oem_revision=1,
        creator_id=number("PLAB"),
        creator_revision=1,
    )
    return summed(header.pack() + nodes)


def whys(rimt: Rimt) -> list[str]:
    return [finding.why for finding in rimt.findings]


def first(said: Said, rid: int, segment: int = 0) -> RidMap | None:
    return next((m for m in said.rid_maps if m.segment == segment and m.first <= rid <= m.last), None)


# --- the table of the data -----------------------------------------------------------------------------------------


def test_the_table_of_the_data_is_made_of_our_own_words() -> None:
    assert two_iommus() == (DATA / "rimt-two-iommus.aml").read_bytes()


def two() -> Rimt:
    return read_rimt(two_iommus(), "two")


def test_every_field_is_read() -> None:
    rimt = two()
    assert rimt.findings == []
    assert [(type(node.word).__name__, node.offset, node.word.id) for node in rimt.nodes] == [
        ("IommuNode", 0x30, 0),
        ("IommuNode", 0x68, 1),
        ("RootComplexNode", 0x90, 2),
        ("RootComplexNode", 0xCC, 3),
        ("PlatformNode", 0xF4, 4),
    ]
    (node, word), (_, pcie) = rimt.all_of(IommuNode)
    assert (word.base_address, word.pcie, word.proximity_domain_valid, word.proximity_domain) == (0x301_0000, 0, 1, 1)
    assert word.hardware_id.to_bytes(8, "little") == b"RSCV0004"
    assert [(one.number, one.level_triggered, one.active_high) for one in node.wires] == [(0x24, 1, 0), (0x25, 1, 1)]
    assert (pcie.pcie, pcie.pcie_segment, pcie.pcie_bdf) == (True, 1, 8)
    (behind, root_word), _ = rimt.all_of(RootComplexNode)
    assert (root_word.ats, root_word.pri) == (True, True)
    assert [one.offset for one in behind.mappings] == [0xA4, 0xB8]
    assert (behind.mappings[1].word.ats_required, behind.mappings[1].word.pri_required) == (True, True)
    ((device, _),) = rimt.all_of(PlatformNode)
    assert device.name == "\\_SB.DMA0.CH0"


def test_iommus_are_named_by_their_registers_or_their_function() -> None:
    said = rimt_says(two())
    assert [(one.name, one.kind, one.base, one.origin) for one in said.iommus] == [
        ("riscv-iommu@3010000", "riscv", 0x301_0000, "RIMT, IOMMU node at 0x30"),
        ("riscv-iommu@0001:00:01.0", "riscv", None, "RIMT, IOMMU node at 0x68"),
    ]
    assert all(not one.keys for one in said.iommus)


@pytest.mark.parametrize(
    ("segment", "rid", "name", "device"),
    [
        (0, 0x0000, "riscv-iommu@3010000", 0x0000),
        (0, 0x00FF, "riscv-iommu@3010000", 0x00FF),
        (0, 0x0100, None, None),
        (0, 0x0201, "riscv-iommu@3010000", 0x10001),
        (1, 0xFFFF, "riscv-iommu@0001:00:01.0", 0xFFFF),
        (2, 0x0000, None, None),
    ],
)
def test_functions_are_mapped_to_device_ids(segment: int, rid: int, name: str | None, device: int | None) -> None:
    found = first(rimt_says(two()), rid, segment)
    assert (None if found is None else (found.iommu, found.stream(rid))) == (None if name is None else (name, device))


def test_a_root_complex_without_ats_says_so_of_every_function() -> None:
    said = rimt_says(two())
    without, with_ats = first(said, 0, 1), first(said, 0)
    assert without is not None
    assert with_ats is not None
    assert without.keys["ats"] == (False, "RIMT, PCIe root complex node at 0xcc, ATS support clear")
    assert not with_ats.keys
    assert said.remarks == [
        "RIMT: no PASID width is in this table",
        "RIMT, PCIe root complex node at 0x90: segment 0000, has ATS and page requests",
        "RIMT, PCIe root complex node at 0xcc: segment 0001, has neither ATS nor page requests",
    ]


def test_a_platform_device_is_behind_the_iommu_of_its_mapping() -> None:
    (device,) = rimt_says(two()).endpoints
    assert (device.name, device.node, device.bus) == ("\\_SB.DMA0.CH0", "\\_SB.DMA0.CH0", "platform")
    assert device.keys["iommu"] == ("riscv-iommu@3010000", "RIMT, platform device node at 0xf4, ID mapping at 0x110")


# --- what is found wrong -------------------------------------------------------------------------------------------


def test_a_table_without_iommus_is_an_error() -> None:
    assert whys(read()) == ["rimt: no IOMMU node, so nothing is behind an IOMMU"]


def test_two_nodes_of_one_iommu_are_an_error() -> None:
    rimt = read(iommu(), iommu(), iommu(0, pcie=(1, 8)), iommu(0, pcie=(1, 8)), iommu(0))
    assert whys(rimt) == [
        "rimt, offset 0x58: the IOMMU at 0x3010000 has the node at 0x30 too; Linux takes that one",
        "rimt, offset 0xa8: the IOMMU at 0001:00:01.0 has the node at 0x80 too; Linux takes that one",
        "rimt, offset 0xd0: an IOMMU that is no PCIe device has registers at 0",
    ]


def test_linux_takes_the_first_root_complex_of_a_segment() -> None:
    rimt = read(iommu(), root(mapping(0, 0x100)), root(mapping(0x100, 0x100)))
    assert whys(rimt) == [
        "rimt, offset 0x80: a second root complex of segment 0000; the specification allows it, but Linux takes the "
        "one at 0x58 for all, as is done here: devices of this one have no IOMMU"
    ]
    said = rimt_says(rimt)
    assert first(said, 0x80) is not None
    assert first(said, 0x180) is None


@pytest.mark.parametrize("target", [0, 0x34, 0x58, 0xFFFF_FFFF])
def test_a_mapping_must_lead_to_an_iommu(target: int) -> None:
    rimt = read(iommu(), root(mapping(0, 0x100, iommu_at=target)), platform("\\_SB.X", mapping(0, 1, iommu_at=target)))
    text = f"the ID mapping leads to {target:#x}, where no IOMMU node begins; it is left out"
    assert whys(rimt) == [f"rimt, offset 0x6c: {text}", f"rimt, offset 0x94: {text}"]
    said = rimt_says(rimt)
    assert said.rid_maps == []
    assert said.endpoints[0].keys == {}


def test_a_mapping_must_have_ids_that_there_are() -> None:
    rimt = read(iommu(), root(mapping(5, 0), mapping(0xFF00, 0x200), mapping(0x2_0000, 1)))
    assert whys(rimt) == [
        "rimt, offset 0x6c: the ID mapping has 0 IDs from 0x5 on; it has no effect",
        "rimt, offset 0x80: the ID mapping has 512 IDs from 0xff00 on; there are none above 0xffff",
        "rimt, offset 0x94: the ID mapping has 1 IDs from 0x20000 on; there are none above 0xffff",
    ]
    assert [(one.first, one.last) for one in rimt_says(rimt).rid_maps] == [(0xFF00, 0xFFFF)]


def test_of_two_mappings_of_one_id_the_first_counts() -> None:
    rimt = read(iommu(), root(mapping(0x100, 0x10, 0x5000), mapping(0, 0x10000), mapping(0x200, 1)))
    assert whys(rimt) == [
        "rimt, offset 0x80: source IDs 0x100 to 0x10f are in the mapping at 0x6c too, which counts",
        "rimt, offset 0x94: source IDs 0x200 to 0x200 are in the mapping at 0x80 too, which counts",
    ]
    found = first(rimt_says(rimt), 0x104)
    assert found is not None
    assert found.stream(0x104) == 0x5004


def test_the_id_that_linux_counts_to_the_mapping_before_is_told_where_it_matters() -> None:
    same = root(mapping(0, 0x100), mapping(0x100, 0x100, 0x100))
    assert whys(read(iommu(), same)) == []
    other_id = root(mapping(0, 0x100), mapping(0x100, 0x100, 0x800))
    assert whys(read(iommu(), other_id)) == [
        "rimt, offset 0x80: source ID 0x100 is the first of this mapping, but Linux 6.18 takes it for one more of the "
        "mapping at 0x6c, so it gets device ID 0x100 there instead of 0x800 here"
    ]
    other_iommu = root(mapping(0, 0x100), mapping(0x100, 0x100, 0x100, iommu_at=0x58))
    assert [one.rule.id for one in read(iommu(), iommu(0x4000), other_iommu).findings] == ["rimt.one-more"]
    later_first = root(mapping(0x100, 0x100, 0x800), mapping(0, 0x100))
    assert whys(read(iommu(), later_first)) == []


@pytest.mark.parametrize(("start", "count", "text"), [
    (20, 40, "40 ID mappings from byte 20 on do not fit in the 40 bytes of the PCIe root complex node; 1 are read"),
    (8, 1, "1 ID mappings from byte 8 on do not fit in the 40 bytes of the PCIe root complex node; 0 are read"),
    (0, 1, "1 ID mappings from byte 0 on do not fit in the 40 bytes of the PCIe root complex node; 0 are read"),
    (900, 1, "1 ID mappings from byte 900 on do not fit in the 40 bytes of the PCIe root complex node; 0 are read"),
])  # fmt: skip
def test_an_array_must_fit_in_its_node(start: int, count: int, text: str) -> None:
    rimt = read(iommu(), root(mapping(0, 0x100), mapping_offset=start, number_of_mappings=count))
    assert whys(rimt) == [f"rimt, offset 0x58: {text}"]


def test_wires_must_fit_too() -> None:
    word = IommuNode(base_address=0x1000, length=40, number_of_wires=1, wire_offset=40)
    assert whys(read(word.pack())) == [
        "rimt, offset 0x30: 1 interrupt wires from byte 40 on do not fit in the 40 bytes of the IOMMU node; 0 are read"
    ]


@pytest.mark.parametrize(("count", "used"), [(1, 1), (3, 2)])
def test_linux_goes_by_the_number_of_nodes(count: int, used: int) -> None:
    rimt = read(iommu(), iommu(0x4000), count=count)
    assert whys(rimt) == [f"rimt: says that it has {count} nodes, and has 2; Linux looks at no more than it says"]
    assert len(rimt.nodes) == used


@pytest.mark.parametrize("start", [0, 47, 88, 1 << 31])
def test_the_first_node_must_be_where_nodes_can_be(start: int) -> None:
    rimt = read(iommu(), start=start)
    assert whys(rimt)[0] == (
        f"rimt: the first node should be at {start:#x}, outside of the table or within its header; no node is read"
    )


def test_a_node_that_does_not_end_ends_the_table() -> None:
    rimt = read(iommu(), RimtNode(type=1, length=4).pack())
    assert whys(rimt)[0] == "rimt, offset 0x58: node says 4 bytes, allowed are 8 to 8; nothing after it is read"


def test_nodes_of_unknown_types_or_too_short_are_told() -> None:
    rimt = read(RimtNode(type=9, length=8).pack(), RimtNode(type=1, length=12).pack() + bytes(4), iommu())
    assert whys(rimt) == [
        "rimt, offset 0x30: node of type 9, 8 bytes, is none that the specification has",
        "rimt, offset 0x38: PCIe root complex node needs 20 bytes, and 12 are left",
    ]
    assert [one.name for one in rimt_says(rimt).iommus] == ["riscv-iommu@3010000"]


def test_no_more_mappings_are_read_than_any_machine_needs() -> None:
    maps = [mapping(0, 0x100)] * 3000
    rimt = read(iommu(), root(*maps), root(*maps, segment=1))
    assert sum(len(node.mappings) for node in rimt.nodes) == MOST_STRUCTURES
    assert "more than 4096 ID mappings in one table; the rest is not read" in whys(rimt)[0]


# --- round trip and broken tables ----------------------------------------------------------------------------------

NUMBERS = st.integers(0, 0xFFFF_FFFF)
MAPPINGS = st.builds(mapping, NUMBERS, NUMBERS, NUMBERS, st.sampled_from([48, 88]) | NUMBERS)
NODES = st.one_of(
    st.builds(iommu, st.integers(0, (1 << 64) - 1)),
    st.builds(lambda base, bdf: iommu(base, pcie=(3, bdf)), NUMBERS, st.integers(0, 0xFFFF)),
    st.builds(lambda maps, segment, ats: root(*maps, segment=segment, ats=ats), st.lists(MAPPINGS, max_size=4),
              st.integers(0, 3), st.booleans()),
    st.builds(lambda name, maps: platform(name, *maps), st.text("\\_SB.AZ09", max_size=20),
              st.lists(MAPPINGS, max_size=3)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(NODES, min_size=1, max_size=5))
def test_what_is_written_is_read(nodes: list[bytes]) -> None:
    rimt = read(*nodes)
    assert len(rimt.nodes) == len(nodes)
    for node, raw in zip(rimt.nodes, nodes, strict=True):
        assert raw.startswith(node.word.pack())
        assert raw.endswith(b"".join(one.word.pack() for one in node.mappings))
        if isinstance(node.word, PlatformNode):
            assert raw[12:].startswith(node.name.encode() + b"\0")
    said = rimt_says(rimt)
    names = {one.name for one in said.iommus}
    assert {one.iommu for one in said.rid_maps} <= names


@settings(max_examples=200, deadline=None)
@given(broken(two_iommus()))
def test_no_broken_table_brings_the_reader_down(data: bytes) -> None:
    said = rimt_says(read_rimt(data, "broken"))
    for one in said.rid_maps:
        assert 0 <= one.first <= one.last <= 0xFFFF
    assert all(finding.why.startswith("broken") for finding in said.findings)


@pytest.mark.parametrize("size", range(0, 292, 9))
def test_a_cut_table_is_no_table_or_told_to_be_cut(size: int) -> None:
    data = two_iommus()[:size]
    if size < 36:
        with pytest.raises(InputError, match="bytes are no ACPI table"):
            read_rimt(data, "cut")
        return
    assert "acpi.truncated" in [finding.rule.id for finding in read_rimt(data, "cut").findings]


def test_another_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"^rhct\.aml: is a table RHCT, not RIMT$"):
        read_rimt((DATA / "rhct-four-harts.aml").read_bytes(), "rhct.aml")

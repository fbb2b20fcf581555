"""The RHCT: what is read of every node, what is found wrong, and what people are told of the harts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.bounds import MOST_STRUCTURES
from pasidlab.platforms.acpi.rhct import Rhct, read_rhct, rhct_says
from pasidlab.platforms.acpi.rhct_words import CmoNode, HartInfoNode, IsaStringNode, MmuNode, RhctFields, RhctNode
from tests.acpi_mutations import broken
from tests.acpi_tables import table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-riscv"
FIRST = 56
"""Where the first node of a table is."""


def isa(text: str, end: bytes = b"\0") -> bytes:
    raw = text.encode() + end
    padded = raw + bytes(len(raw) % 2)
    return IsaStringNode(type=0, revision=1, length=8 + len(padded), isa_length=len(raw)).pack() + padded


def mmu(kind: int) -> bytes:
    return MmuNode(type=2, revision=1, length=8, mmu_type=kind).pack()


def hart(uid: int, *offsets: int, count: int | None = None) -> bytes:
    number = len(offsets) if count is None else count
    word = HartInfoNode(type=0xFFFF, revision=1, length=12 + 4 * len(offsets), number_of_offsets=number, uid=uid)
    return word.pack() + b"".join(one.to_bytes(4, "little") for one in offsets)


def read(*nodes: bytes, count: int | None = None, start: int = FIRST) -> Rhct:
    fields = RhctFields(time_base_frequency=10, node_count=len(nodes) if count is None else count, node_offset=start)
    return read_rhct(table("RHCT", fields.pack() + b"".join(nodes), 1), "rhct")


def whys(rhct: Rhct) -> list[str]:
    return [finding.why for finding in rhct.findings]


def four_harts() -> Rhct:
    return read_rhct((DATA / "rhct-four-harts.aml").read_bytes(), "four")


def test_a_table_by_another_compiler_is_read() -> None:
    rhct = four_harts()
    assert rhct.findings == []
    assert rhct.table.checksum_ok
    assert (rhct.fields.timer_cannot_wakeup_cpu, rhct.fields.time_base_frequency) == (True, 10_000_000)
    assert [node.text for node, _ in rhct.all_of(IsaStringNode)] == ["rv64imafdch_zba_zbb_", "rv64imac"]
    ((_, cmo),) = rhct.all_of(CmoNode)
    assert (cmo.cbom_size, cmo.cbop_size, cmo.cboz_size) == (6, 5, 7)
    assert [word.mmu_type for _, word in rhct.all_of(MmuNode)] == [2, 0]
    assert [(word.uid, node.offsets) for node, word in rhct.all_of(HartInfoNode)] == [
        (0, (0x38, 0x68, 0x72)),
        (1, (0x38, 0x68, 0x72)),
        (2, (0x38, 0x68, 0x72)),
        (3, (0x56, 0x68, 0x7A)),
    ]


def test_people_are_told_what_harts_have() -> None:
    said = rhct_says(four_harts())
    assert said.remarks == [
        "RHCT: harts: 4",
        "RHCT: 3 of 4 harts with rv64imafdch_zba_zbb_",
        "RHCT: 1 of 4 harts with rv64imac",
        "RHCT: 3 of 4 harts with page tables Sv57",
        "RHCT: 1 of 4 harts with page tables Sv39",
    ]
    assert (said.iommus, said.endpoints, said.rid_maps, said.cpu) == ([], [], [], {})


def test_a_hart_without_isa_string_is_an_error() -> None:
    rhct = read(mmu(1), hart(7, FIRST))
    assert whys(rhct) == ["rhct, offset 0x40: hart 7 has no ISA string; Linux does not start it"]
    assert rhct_says(rhct).remarks == ["RHCT: harts: 1", "RHCT: 1 of 1 harts with page tables Sv48"]


def test_of_two_isa_strings_of_a_hart_the_first_counts() -> None:
    said = rhct_says(read(isa("rv64i"), isa("rv64g"), hart(0, 0x46, FIRST)))
    assert said.remarks == ["RHCT: harts: 1", "RHCT: 1 of 1 harts with rv64g"]


def test_the_offsets_of_a_hart_must_lead_to_nodes() -> None:
    rhct = read(isa("rv64i"), hart(1, FIRST, 0x3A, 0))
    assert whys(rhct) == ["rhct, offset 0x46: hart 1: no node begins at 0x3a"]


def test_the_offsets_of_a_hart_must_fit() -> None:
    rhct = read(isa("rv64i"), hart(1, FIRST, count=9))
    assert whys(rhct) == ["rhct, offset 0x46: hart 1: 9 offsets do not fit in its 16 bytes; 1 are read"]


@pytest.mark.parametrize(("text", "end", "what"), [
    ("rv64ima", b"", "has no end within its length"),
    ("arm64", b"\0", "does not begin with rv32 or rv64"),
])  # fmt: skip
def test_an_isa_string_begins_with_rv_and_ends(text: str, end: bytes, what: str) -> None:
    assert whys(read(isa(text, end))) == [f"rhct, offset 0x38: the ISA string {text!r} {what}"]


def test_an_unknown_mmu_type_is_told() -> None:
    rhct = read(isa("rv64i"), mmu(3), hart(0, FIRST, 0x46))
    assert whys(rhct) == ["rhct, offset 0x46: MMU type 3; known are 0 (Sv39), 1 (Sv48) and 2 (Sv57)"]
    assert rhct_says(rhct).remarks[-1] == "RHCT: 1 of 1 harts with page tables of unknown type 3"


def test_nodes_of_unknown_types_or_too_short_are_told() -> None:
    rhct = read(RhctNode(type=4, length=6).pack(), RhctNode(type=2, length=6).pack(), isa("rv64i"))
    assert whys(rhct) == [
        "rhct, offset 0x38: node of type 4, 6 bytes, is none that the specification has",
        "rhct, offset 0x3e: MMU node needs 8 bytes, and 6 are left",
    ]


@pytest.mark.parametrize("length", [0, 5, 7])
def test_a_node_that_does_not_end_ends_the_table(length: int) -> None:
    rhct = read(isa("rv64i"), RhctNode(type=2, length=length).pack())
    assert whys(rhct) == [
        f"rhct, offset 0x46: node says {length} bytes, allowed are 6 to 6; nothing after it is read",
        "rhct: says that it has 2 nodes, and has 1; Linux reads to the end of the table",
    ]


@pytest.mark.parametrize("start", [0, 55, 70, 1 << 31])
def test_the_first_node_must_be_where_nodes_can_be(start: int) -> None:
    assert whys(read(isa("rv64i"), start=start)) == [
        f"rhct: the first node should be at {start:#x}, outside of the table or within its header; no node is read"
    ]


def test_no_more_nodes_and_offsets_are_read_than_any_machine_needs() -> None:
    rhct = read(*[mmu(0)] * 5000)
    assert len(rhct.nodes) == MOST_STRUCTURES
    assert "more than 4096 nodes in one table; the rest is not read" in whys(rhct)[0]
    rhct = read(isa("rv64i"), *[hart(uid, *[FIRST] * 1000) for uid in range(5)])
    assert sum(len(node.offsets) for node in rhct.nodes) == MOST_STRUCTURES


def test_a_table_without_fields_is_told() -> None:
    assert whys(read_rhct(table("RHCT", bytes(8)), "rhct")) == [
        "rhct, offset 0x24: what follows the header needs 20 bytes, and 8 are left"
    ]


NODES = st.one_of(
    st.builds(lambda text: isa("rv64" + text), st.text("imafdcv_zsx", max_size=30)),
    st.builds(mmu, st.integers(0, 2)),
    st.builds(lambda size: CmoNode(type=1, length=10, cbom_size=size).pack(), st.integers(0, 255)),
    st.builds(lambda uid, offsets: hart(uid, *offsets), st.integers(0, 99), st.lists(st.integers(0, 999), max_size=4)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(NODES, min_size=1, max_size=6))
def test_what_is_written_is_read(nodes: list[bytes]) -> None:
    rhct = read(*nodes)
    assert len(rhct.nodes) == len(nodes)
    for node, raw in zip(rhct.nodes, nodes, strict=True):
        assert raw.startswith(node.word.pack())
        assert raw.endswith(b"".join(one.to_bytes(4, "little") for one in node.offsets))
        assert node.text.encode() in raw
    rhct_says(rhct)


@settings(max_examples=200, deadline=None)
@given(broken((DATA / "rhct-four-harts.aml").read_bytes()))
def test_no_broken_table_brings_the_reader_down(data: bytes) -> None:
    said = rhct_says(read_rhct(data, "broken"))
    assert all(finding.why.startswith("broken") for finding in said.findings)


@pytest.mark.parametrize("size", range(0, 226, 7))
def test_a_cut_table_is_no_table_or_told_to_be_cut(size: int) -> None:
    data = (DATA / "rhct-four-harts.aml").read_bytes()[:size]
    if size < 36:
        with pytest.raises(InputError, match="bytes are no ACPI table"):
            read_rhct(data, "cut")
        return
    assert "acpi.truncated" in [finding.rule.id for finding in read_rhct(data, "cut").findings]


def test_another_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"^rimt\.aml: is a table RIMT, not RHCT$"):
        read_rhct((DATA / "rimt-two-iommus.aml").read_bytes(), "rimt.aml")

"""The DMAR: what is read of every structure, what is found wrong, and which unit and which ATS a function gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.bounds import MOST_STRUCTURES
from pasidlab.platforms.acpi.dmar import Dmar, dmar_ats, dmar_says, read_dmar
from pasidlab.platforms.acpi.dmar_words import (
    Andd,
    Atsr,
    DeviceScope,
    DmarFields,
    Drhd,
    PathEntry,
    RemappingStructure,
    Rhsa,
    Rmrr,
    Satc,
    ScopeType,
    Sidp,
)
from pasidlab.platforms.said import Rid, RidMap, Said
from tests.acpi_mutations import broken
from tests.acpi_tables import table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-x86"
FIELDS = DmarFields(host_address_width=47)
BUSES = {0x0018: (1, 1), 0x0020: (2, 2), 0x8008: (0x81, 0x81)}
"""What the firmware of the q35 machine gave its root ports (see the README of the data)."""


def scope(kind: int, bus: int, *path: tuple[int, int], number: int = 0, flags: int = 0) -> bytes:
    word = DeviceScope(flags << 16, type=kind, length=6 + 2 * len(path), enumeration_id=number, start_bus_number=bus)
    return word.pack() + b"".join(PathEntry(device=device, function=function).pack() for device, function in path)


def structure(word: RemappingStructure, *scopes: bytes) -> bytes:
    body = b"".join(scopes)
    number = [Drhd, Rmrr, Atsr, Rhsa, Andd, Satc, Sidp].index(type(word))
    return type(word)(word, type=number, length=len(word.pack()) + len(body)).pack() + body


def drhd(base: int, *scopes: bytes, segment: int = 0, rest: bool = False) -> bytes:
    return structure(Drhd(register_base_address=base, segment_number=segment, include_pci_all=rest), *scopes)


def read(*structures: bytes, fields: DmarFields = FIELDS) -> Dmar:
    return read_dmar(table("DMAR", fields.pack() + b"".join(structures)), "dmar")


def endpoint(bus: int, device: int, function: int = 0) -> bytes:
    return scope(ScopeType.ENDPOINT, bus, (device, function))


def bridge(bus: int, device: int) -> bytes:
    return scope(ScopeType.BRIDGE, bus, (device, 0))


def buses(found: Rid) -> tuple[int, int] | None:
    return BUSES.get(found.number) if found.segment == 0 else None


def whys(dmar: Dmar) -> list[str]:
    return [finding.why for finding in dmar.findings]


def rules(dmar: Dmar) -> list[str]:
    return [finding.rule.id for finding in dmar.findings]


def first(said: Said, segment: int, number: int) -> RidMap | None:
    return next((m for m in said.rid_maps if m.segment == segment and m.first <= number <= m.last), None)


def unit_of(said: Said, number: int, segment: int = 0) -> str | None:
    found = first(said, segment, number)
    return None if found is None else found.iommu


# --- tables of machines --------------------------------------------------------------------------------------------


def q35(name: str = "dmar-q35") -> Dmar:
    return read_dmar((DATA / f"{name}.aml").read_bytes(), name)


def test_a_table_from_an_emulator_is_read_without_findings() -> None:
    dmar = q35()
    assert dmar.findings == []
    assert dmar.table.checksum_ok
    assert dmar.fields.host_address_width == 38
    ((unit, word),) = dmar.all_of(Drhd)
    assert (word.register_base_address, word.include_pci_all) == (0xFED9_0000, False)
    assert [one.text for one in unit.scopes] == [
        "ff:00.0", "00:00.0", "00:03.0", "00:04.0", "00:06.0", "00:1f.0", "00:1f.2", "00:1f.3", "80:01.0",
    ]  # fmt: skip


def test_functions_behind_bridges_need_the_bus_numbers() -> None:
    with_buses, without = dmar_says(q35(), buses), dmar_says(q35())
    assert unit_of(with_buses, 0x8100) == unit_of(with_buses, 0x0100) == "dmar0"
    assert unit_of(without, 0x8100) is None
    assert unit_of(without, 0x8008) == unit_of(without, 0x0018) == "dmar0"
    assert "DMAR: no bus number of 0000:80:01.0 is known, so what is behind it is left out" in without.remarks
    assert not [text for text in with_buses.remarks if "no bus number" in text]


def test_all_ports_let_everything_use_ats() -> None:
    assert all(not one.keys for one in dmar_says(q35(), buses).rid_maps)
    known = dmar_ats(q35(), Rid(0, 0x8100), Rid(0, 0x8008), buses)
    assert known == (True, "DMAR, ATSR at 0x88, ALL_PORTS")


def test_without_an_atsr_no_function_below_a_root_port_uses_ats() -> None:
    said = dmar_says(q35("dmar-q35-no-ats"), buses)
    found = first(said, 0, 0x8100)
    assert found is not None
    assert found.iommu == "dmar0"
    assert found.keys["ats"] == (False, "DMAR, no ATSR names the root port 0000:80:01.0")
    root = first(said, 0, 0x00FB)
    assert root is not None
    assert not root.keys


def server() -> Dmar:
    return read_dmar((DATA / "dmar-server.aml").read_bytes(), "server")


def test_a_table_by_another_compiler_is_read_the_same() -> None:
    dmar = server()
    assert dmar.findings == []
    kinds = [type(one.word).__name__ for one in dmar.structures]
    assert kinds == ["Drhd"] * 4 + ["Rmrr", "Atsr", "Atsr", "Rhsa", "Rhsa", "Andd", "Satc", "Sidp"]
    assert [word.register_base_address for _, word in dmar.all_of(Drhd)] == [
        0xD0FF_C000,
        0xD8FF_C000,
        0xE0FF_C000,
        0xC0FF_C000,
    ]
    assert [word.size for _, word in dmar.all_of(Drhd)] == [1, 1, 1, 1]
    ((rmrr, word),) = dmar.all_of(Rmrr)
    assert word.reserved_memory_region_limit_address == 0x6F2C_5FFF
    assert rmrr.scopes[0].text == "00:14.0"
    assert [word.proximity_domain for _, word in dmar.all_of(Rhsa)] == [0, 1]
    ((andd, number),) = dmar.all_of(Andd)
    assert (andd.name, number.acpi_device_number) == ("\\_SB.PCI0.I2C0", 1)
    ((_, satc),) = dmar.all_of(Satc)
    assert satc.atc_required
    ((sidp, _),) = dmar.all_of(Sidp)
    assert (sidp.scopes[0].word.atc_required, sidp.scopes[0].word.atc_hardened) == (True, True)


SERVER_BUSES = {
    (0, 0x1508): (0x16, 0x18),
    (0, 0x3A10): (0x3B, 0x3D),
    (0, 0x3B01): (0x3C, 0x3C),
    (1, 0x8008): (0x81, 255),
}


def server_buses(found: Rid) -> tuple[int, int] | None:
    return SERVER_BUSES.get((found.segment, found.number))


def test_units_are_named_in_order_and_known_by_their_registers() -> None:
    said = dmar_says(server(), server_buses)
    assert [(one.name, one.base, one.kind) for one in said.iommus] == [
        ("dmar0", 0xD0FF_C000, "intel-vtd"),
        ("dmar1", 0xD8FF_C000, "intel-vtd"),
        ("dmar2", 0xE0FF_C000, "intel-vtd"),
        ("dmar3", 0xC0FF_C000, "intel-vtd"),
    ]
    assert said.iommus[1].origin == "DMAR, DRHD at 0x50"
    assert all(not one.keys for one in said.iommus)


@pytest.mark.parametrize(
    ("segment", "number", "unit"),
    [
        (0, 0x1508, "dmar0"),
        (0, 0x1600, "dmar0"),
        (0, 0x18FF, "dmar0"),
        (0, 0x1900, "dmar3"),
        (0, 0x6A08, "dmar0"),
        (0, 0x3CFF, "dmar1"),
        (0, 0x3C00, "dmar3"),
        (0, 0x0000, "dmar3"),
        (1, 0x8008, "dmar2"),
        (1, 0xFFFF, "dmar2"),
        (1, 0x0000, None),
        (2, 0x0000, None),
    ],
)
def test_each_function_has_the_unit_that_names_it_else_the_one_for_the_rest(
    segment: int, number: int, unit: str | None
) -> None:
    assert unit_of(dmar_says(server(), server_buses), number, segment) == unit


@pytest.mark.parametrize(
    ("function", "port", "allowed", "why"),
    [
        (Rid(0, 0x1600), Rid(0, 0x1508), True, "DMAR, ATSR at 0xcc, which names 0000:15:01.0"),
        (Rid(0, 0x3CFF), Rid(0, 0x3A10), False, "DMAR, no ATSR names the root port 0000:3a:02.0"),
        (Rid(0, 0x6A08), None, True, "DMAR, SATC at 0x123, which names 0000:6a:01.0"),
        (Rid(0, 0x6A10), None, True, "DMAR, 0000:6a:02.0 is on a root bus"),
        (Rid(1, 0x8100), Rid(1, 0x8008), True, "DMAR, ATSR at 0xdc, ALL_PORTS"),
        (Rid(1, 0x1600), Rid(1, 0x1508), True, "DMAR, ATSR at 0xdc, ALL_PORTS"),
        (Rid(2, 0x1600), Rid(2, 0x1508), False, "DMAR, no ATSR names the root port 0002:15:01.0"),
    ],
)
def test_ats_is_what_linux_decides(function: Rid, port: Rid | None, allowed: bool, why: str) -> None:
    assert dmar_ats(server(), function, port, server_buses) == (allowed, why)


def test_maps_say_where_ats_is_off_and_where_a_device_has_it() -> None:
    said = dmar_says(server(), server_buses)
    ats = {number: found.keys.get("ats") for number in (0x1600, 0x3CFF, 0x3B00, 0x6A08, 0x6A10)
           if (found := first(said, 0, number)) is not None}  # fmt: skip
    assert ats[0x1600] is None
    assert ats[0x6A10] is None
    assert ats[0x6A08] == (True, "DMAR, SATC at 0x123, ATC_REQUIRED")
    assert ats[0x3CFF] == ats[0x3B00] == (False, "DMAR, no ATSR names the root port 0000:3a:02.0")


def test_a_namespace_device_becomes_a_platform_device() -> None:
    (device,) = dmar_says(server()).endpoints
    assert (device.name, device.bus, device.node) == ("\\_SB.PCI0.I2C0", "platform", "\\_SB.PCI0.I2C0")
    assert device.keys["iommu"].value == "dmar3"
    assert device.keys["source_id"].value == "00:15.0"
    assert device.origin == "DMAR, ANDD at 0x10c; DMAR, DRHD at 0x84"


def test_a_namespace_device_behind_a_bridge_has_no_source_id_yet() -> None:
    behind = scope(ScopeType.NAMESPACE, 0, (1, 0), (2, 0), number=1)
    name = structure(Andd(acpi_device_number=1), b"\\_SB.X\0")
    (device,) = dmar_says(read(drhd(0x1000, behind), name)).endpoints
    assert {key: known.value for key, known in device.keys.items()} == {"iommu": "dmar0"}


def test_no_map_says_what_an_earlier_one_said() -> None:
    units = [
        drhd(0x1000, endpoint(0x6A, 1), endpoint(0x6A, 1)),
        drhd(0x2000, endpoint(0x6A, 1)),
        drhd(0x3000, rest=True),
    ]
    said = dmar_says(read(*units, structure(Satc(), endpoint(0x6A, 1))))
    assert [(one.first, one.last, one.iommu, "ats" in one.keys) for one in said.rid_maps] == [
        (0x6A08, 0x6A08, "dmar1", True),
        (0x6A08, 0x6A08, "dmar1", False),
        (0, 0xFFFF, "dmar2", False),
    ]


def test_remarks_say_what_people_should_know() -> None:
    assert dmar_says(server(), server_buses).remarks == [
        "DMAR: no PASID width is in this table",
        "DMAR: physical addresses of 52 bits",
        "DMAR: firmware asks for protection from external devices (DMA_CTRL_PLATFORM_OPT_IN_FLAG)",
        "DMAR: no unit takes the rest of segment 0001; what no scope names has no IOMMU",
    ]


# --- the order of units --------------------------------------------------------------------------------------------


def test_of_two_units_that_name_a_function_the_later_one_has_it() -> None:
    dmar = read(drhd(0x1000, endpoint(0, 2)), drhd(0x2000, endpoint(0, 2)))
    assert unit_of(dmar_says(dmar), 0x10) == "dmar1"
    assert whys(dmar) == [
        "dmar, offset 0x58: 00:02.0 of segment 0000 belongs to the DRHD at 0x30 too; "
        "Linux takes the one that comes later in the table"
    ]


def test_the_unit_for_the_rest_is_asked_last_wherever_it_stands() -> None:
    dmar = read(drhd(0x1000, rest=True), drhd(0x2000, endpoint(0, 2)))
    said = dmar_says(dmar)
    assert (unit_of(said, 0x10), unit_of(said, 0x18)) == ("dmar1", "dmar0")
    assert whys(dmar) == [
        "dmar, offset 0x40: a DRHD of segment 0000 after the one that takes all the rest; "
        "Linux asks that one last nevertheless"
    ]


def test_what_the_unit_for_the_rest_names_itself_does_not_count() -> None:
    dmar = read(drhd(0x1000, endpoint(0, 2)), drhd(0x2000, endpoint(0, 2), rest=True))
    assert rules(dmar) == []
    assert unit_of(dmar_says(dmar), 0x10) == "dmar0"


def test_of_two_units_for_the_rest_the_first_has_it() -> None:
    dmar = read(drhd(0x1000, rest=True), drhd(0x2000, rest=True), drhd(0x3000, rest=True, segment=1))
    assert whys(dmar) == [
        "dmar, offset 0x40: a second DRHD of segment 0000 that takes all the rest; the first takes it"
    ]
    assert (unit_of(dmar_says(dmar), 0), unit_of(dmar_says(dmar), 0, 1)) == ("dmar0", "dmar2")


def test_a_unit_that_is_there_twice_has_no_name_of_its_own() -> None:
    dmar = read(drhd(0x1000, endpoint(0, 2)), drhd(0x1000, endpoint(0, 3)), drhd(0x2000, endpoint(0, 4)))
    said = dmar_says(dmar)
    assert [one.name for one in said.iommus] == ["dmar0", "dmar1"]
    assert (unit_of(said, 0x18), unit_of(said, 0x20)) == (None, "dmar1")
    assert rules(dmar) == ["dmar.same-unit"]
    assert "a second DRHD of segment 0000 with registers at 0x1000" in whys(dmar)[0]


def test_registers_of_two_segments_are_an_error() -> None:
    dmar = read(drhd(0x1000, rest=True), drhd(0x1000, rest=True, segment=1))
    assert whys(dmar) == [
        "dmar, offset 0x40: the registers at 0x1000 of segment 0001 are those of a DRHD of segment 0000 too; "
        "Linux cannot reserve them twice, and drops all IOMMUs"
    ]


# --- what is found wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [0, 0x1234])
def test_registers_must_be_somewhere(base: int) -> None:
    assert whys(read(drhd(base, rest=True))) == [
        f"dmar, offset 0x30: a DRHD with registers at {base:#x}; Linux refuses 0, and registers begin at a page"
    ]


@pytest.mark.parametrize(("path", "what"), [
    (((32, 0),), "device 32 in its path; there are 0 to 31"),
    (((1, 0), (0, 8)), "function 8 in its path; there are 0 to 7"),
    ((), "its path is empty"),
])  # fmt: skip
def test_a_path_must_be_of_devices_and_functions(path: Sequence[tuple[int, int]], what: str) -> None:
    dmar = read(drhd(0x1000, scope(ScopeType.ENDPOINT, 0, *path), endpoint(0, 5)))
    assert whys(dmar) == [f"dmar, offset 0x40: device scope of DRHD at 0x30: {what}; the scope is left out"]
    assert unit_of(dmar_says(dmar), 0x28) == "dmar0"


def test_a_path_must_not_end_within_an_entry() -> None:
    odd = DeviceScope(type=1, length=9).pack() + b"\1\0\0"
    assert whys(read(drhd(0x1000, odd))) == [
        "dmar, offset 0x40: device scope of DRHD at 0x30: its 9 bytes end within an entry of the path; "
        "the scope is left out"
    ]


def test_a_scope_that_does_not_end_ends_the_scopes_of_its_structure_only() -> None:
    endless = DeviceScope(type=1, length=200).pack() + b"\0\0"
    dmar = read(drhd(0x1000, endpoint(0, 1), endless), drhd(0x2000, endpoint(0, 2)))
    assert whys(dmar) == [
        "dmar, offset 0x48: device scope of DRHD at 0x30 says 200 bytes, allowed are 6 to 8; nothing after it is read"
    ]
    assert (unit_of(dmar_says(dmar), 0x08), unit_of(dmar_says(dmar), 0x10)) == ("dmar0", "dmar1")


@pytest.mark.parametrize("length", [0, 3, 17])
def test_a_structure_that_does_not_end_ends_the_table(length: int) -> None:
    bad = Drhd(length=length, register_base_address=0x2000).pack()
    dmar = read(drhd(0x1000, rest=True), bad)
    assert whys(dmar) == [
        f"dmar, offset 0x40: remapping structure says {length} bytes, allowed are 4 to 16; nothing after it is read"
    ]


def test_a_structure_too_short_for_its_type_is_left_out() -> None:
    short = RemappingStructure(type=0, length=12).pack() + bytes(8)
    dmar = read(short, drhd(0x1000, rest=True))
    assert whys(dmar) == ["dmar, offset 0x30: DRHD needs 16 bytes, and 12 are left"]
    assert [one.name for one in dmar_says(dmar).iommus] == ["dmar0"]


def test_unknown_types_are_kept_and_told() -> None:
    new = RemappingStructure(type=9, length=8).pack() + b"news"
    dmar = read(new, drhd(0x1000, scope(7, 0, (1, 0))))
    assert dmar.structures[0].raw == new
    assert whys(dmar) == [
        "dmar, offset 0x30: structure of type 9, 8 bytes, is none that VT-d 4.1 has; Linux skips it too",
        "dmar, offset 0x48: device scope of type 7 in DRHD at 0x38; Linux warns and leaves it out, as is done here",
    ]


@pytest.mark.parametrize(("raw", "width", "told"), [(10, 11, True), (11, 12, False), (51, 52, False), (52, 53, True)])
def test_the_address_width_is_12_to_52(raw: int, width: int, told: bool) -> None:
    dmar = read(drhd(0x1000, rest=True), fields=DmarFields(host_address_width=raw))
    text = f"dmar, offset 0x24: physical addresses of {width} bits; there are 12 to 52. Linux refuses fewer than 12"
    assert whys(dmar) == ([text] if told else [])


def test_a_table_without_units_is_an_error() -> None:
    assert whys(read()) == ["dmar: no DRHD, so no IOMMU: Linux says that the firmware is wrong"]


def test_references_must_lead_somewhere() -> None:
    named = scope(ScopeType.NAMESPACE, 0, (1, 0), number=3)
    dmar = read(drhd(0x1000, named, rest=True), structure(Rhsa(register_base_address=0x5000)))
    assert whys(dmar) == [
        "dmar, offset 0x40: namespace device 3 in a device scope, and no ANDD gives its name",
        "dmar, offset 0x48: an RHSA for registers at 0x5000, which no DRHD has; Linux warns and leaves it out",
    ]
    assert dmar_says(dmar).endpoints == []


@pytest.mark.parametrize(("base", "limit", "told"), [
    (0x1000, 0x1FFF, False), (0x1000, 0x2000, True), (0x1800, 0x1FFF, True), (0x3000, 0x2FFF, True),
])  # fmt: skip
def test_reserved_memory_is_whole_pages(base: int, limit: int, told: bool) -> None:
    rmrr = Rmrr(reserved_memory_region_base_address=base, reserved_memory_region_limit_address=limit)
    dmar = read(drhd(0x1000, rest=True), structure(rmrr))
    text = f"dmar, offset 0x40: an RMRR from {base:#x} to {limit:#x}, which are no whole pages; Linux warns"
    assert whys(dmar) == ([text] if told else [])


def test_the_name_of_a_namespace_device_must_end() -> None:
    dmar = read(drhd(0x1000, rest=True), structure(Andd(acpi_device_number=4), b"\\_SB.X"))
    assert whys(dmar) == ["dmar, offset 0x48: the name of ANDD device 4 has no end; Linux refuses the whole table"]


@pytest.mark.parametrize("wrong", [(5, 4), (1, 256), (-1, 3)])
def test_bus_numbers_that_make_no_sense_are_not_used(wrong: tuple[int, int]) -> None:
    said = dmar_says(read(drhd(0x1000, bridge(0, 1))), lambda _: wrong)
    assert [(one.first, one.last) for one in said.rid_maps] == [(0x08, 0x08)]


def test_no_more_structures_and_scopes_are_read_than_any_machine_needs() -> None:
    filler = RemappingStructure(type=9, length=4).pack()
    dmar = read(drhd(0x1000, rest=True), filler * MOST_STRUCTURES)
    assert len(dmar.structures) == MOST_STRUCTURES
    assert whys(dmar)[-1].endswith("more than 4096 remapping structures in one table; the rest is not read")
    many = endpoint(0, 1) * 4000
    dmar = read(drhd(0x1000, many), drhd(0x2000, many))
    assert sum(len(one.scopes) for one in dmar.structures) == MOST_STRUCTURES
    assert [text for text in whys(dmar) if "device scopes in one table" in text] == [
        "dmar, offset 0x8050: more than 4096 device scopes in one table; the rest is not read"
    ]


# --- round trip and broken tables ----------------------------------------------------------------------------------

STEPS = st.tuples(st.integers(0, 31), st.integers(0, 7))
SCOPES = st.builds(
    lambda kind, bus, path, number: scope(kind, bus, *path, number=number),
    st.integers(1, 5), st.integers(0, 255), st.lists(STEPS, min_size=1, max_size=4), st.integers(0, 255),
)  # fmt: skip
UNITS = st.builds(
    lambda page, segment, rest, scopes: drhd(page << 12, *scopes, segment=segment, rest=rest),
    st.integers(1, 1 << 40), st.integers(0, 0xFFFF), st.booleans(), st.lists(SCOPES, max_size=3),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(UNITS, min_size=1, max_size=4))
def test_what_is_written_is_read(units: list[bytes]) -> None:
    dmar = read(*units)
    assert [one.raw for one in dmar.structures] == units
    assert b"".join(
        one.word.pack()
        + b"".join(each.word.pack() + b"".join(step.pack() for step in each.path) for each in one.scopes)
        for one in dmar.structures
    ) == b"".join(units)
    said = dmar_says(dmar)
    names = {one.name for one in said.iommus}
    assert {one.iommu for one in said.rid_maps} <= names
    assert len(names) == len(said.iommus)


@settings(max_examples=150, deadline=None)
@given(st.one_of(broken((DATA / "dmar-server.aml").read_bytes()), broken((DATA / "dmar-q35.aml").read_bytes())))
def test_no_broken_table_brings_the_reader_down(data: bytes) -> None:
    dmar = read_dmar(data, "broken")
    said = dmar_says(dmar, server_buses)
    for one in said.rid_maps:
        assert 0 <= one.first <= one.last <= 0xFFFF
    assert all(finding.why.startswith("broken") for finding in said.findings)


@pytest.mark.parametrize("size", range(0, 323, 7))
def test_a_cut_table_is_no_table_or_told_to_be_cut(size: int) -> None:
    data = (DATA / "dmar-server.aml").read_bytes()[:size]
    if size < 36:
        with pytest.raises(InputError, match="bytes are no ACPI table"):
            read_dmar(data, "cut")
        return
    assert "acpi.truncated" in rules(read_dmar(data, "cut"))


def test_another_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"^ivrs\.aml: is a table IVRS, not DMAR$"):
        read_dmar((DATA / "ivrs-q35.aml").read_bytes(), "ivrs.aml")

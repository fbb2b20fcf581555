"""The IVRS: what is read of every block, what is found wrong, and which PASIDs and which unit Linux makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.bounds import MOST_STRUCTURES
from pasidlab.platforms.acpi.ivrs import Ivrs, ivrs_says, read_ivrs
from pasidlab.platforms.acpi.ivrs_words import (
    AliasEntry,
    Block,
    Entry4,
    EntryType,
    ExtEntry,
    HidEntry,
    Ivhd,
    IvhdFeatures,
    IvhdWithEfr,
    Ivmd,
    IvrsFields,
    SpecialEntry,
)
from pasidlab.platforms.amd import Efr
from pasidlab.platforms.said import RidMap, Said
from pasidlab.words import Word
from tests.acpi_mutations import broken
from tests.acpi_tables import table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-x86"
FIELDS = IvrsFields(efr_sup=True, pa_size=48, va_size=64)
ALL = Efr(pprsup=True, gtsup=True, pasmax=15, giosup=True, ephsup=True)
"""A feature register with all that Linux asks for."""
BEGIN, END = EntryType.SELECT_RANGE_START, EntryType.RANGE_END


def ivhd(*entries: Word | bytes, kind: int = 0x40, device: int = 2, base: int = 0xFD00_0000, efr: int = ALL,
         segment: int = 0, features: int = 0) -> bytes:  # fmt: skip
    body = b"".join(one if isinstance(one, bytes) else one.pack() for one in entries)
    common = {"type": kind, "device_id": device, "base_address": base, "pci_segment": segment, "features": features}
    if kind == 0x10:
        return Ivhd(length=24 + len(body), **common).pack() + body
    return IvhdWithEfr(length=40 + len(body), efr=efr, **common).pack() + body


def entry(kind: int, device: int = 0) -> Entry4:
    return Entry4(type=kind, device_id=device)


def select(device: int) -> Entry4:
    return entry(EntryType.SELECT, device)


def hid(name: bytes, device: int, uid: bytes = b"", form: int = 2) -> bytes:
    word = HidEntry(type=0xF0, device_id=device, hardware_id=int.from_bytes(name.ljust(8, b"\0"), "little"))
    return word.replace(uid_format=form, uid_length=len(uid)).pack() + uid


def read(*blocks: bytes, fields: IvrsFields = FIELDS) -> Ivrs:
    return read_ivrs(table("IVRS", fields.pack() + b"".join(blocks)), "ivrs")


def whys(ivrs: Ivrs) -> list[str]:
    return [finding.why for finding in ivrs.findings]


def rules(ivrs: Ivrs) -> list[str]:
    return [finding.rule.id for finding in ivrs.findings]


def first(said: Said, number: int, segment: int = 0) -> RidMap | None:
    return next((m for m in said.rid_maps if m.segment == segment and m.first <= number <= m.last), None)


def unit_of(said: Said, number: int, segment: int = 0) -> str | None:
    found = first(said, number, segment)
    return None if found is None else found.iommu


def keys(said: Said, index: int = 0) -> dict[str, object]:
    return {key: known.value for key, known in said.iommus[index].keys.items()}


# --- tables of machines --------------------------------------------------------------------------------------------


def q35() -> Ivrs:
    return read_ivrs((DATA / "ivrs-q35.aml").read_bytes(), "ivrs-q35")


def test_a_table_from_an_emulator_is_read_without_findings() -> None:
    ivrs = q35()
    assert ivrs.findings == []
    (unit,) = ivrs.units
    assert (unit.word.type, unit.word.device_id, unit.word.base_address) == (0x10, 8, 0xFED8_0000)
    assert (unit.word.ht_tun_en, unit.word.iotlb_sup, unit.word.ppr_sup) == (True, True, True)
    assert len(unit.entries) == 16
    special = unit.entries[-1].word
    assert isinstance(special, SpecialEntry)
    assert (special.source_device_id, special.variety) == (0xA0, 1)
    assert ivrs.fields.pa_size == 40


@pytest.mark.parametrize(
    ("number", "unit"),
    [(0x0018, "ivhd0"), (0x0100, "ivhd0"), (0x01FF, "ivhd0"), (0x8100, "ivhd0"), (0x8200, None), (0x0008, None)],
)
def test_functions_of_the_emulated_machine(number: int, unit: str | None) -> None:
    assert unit_of(ivrs_says(q35()), number) == unit


def test_a_block_of_type_10_says_no_width_but_tells_what_it_says() -> None:
    said = ivrs_says(q35())
    assert said.iommus[0].keys == {}
    assert said.remarks == [
        "ivhd0: no valid EFR in the table (its feature field 0x44 says PASIDs of 1 bits); "
        "Linux reads the register: amd-iommu/features in sysfs",
    ]


def server() -> Ivrs:
    return read_ivrs((DATA / "ivrs-server.aml").read_bytes(), "server")


def test_a_table_by_another_compiler_is_read_the_same() -> None:
    ivrs = server()
    assert whys(ivrs) == ["server, offset 0x1da: firmware wants no ATS for 0000:41:00.0; Linux does not look"]
    assert [(one.word.type, one.word.device_id) for one in ivrs.units] == [
        (0x10, 2), (0x10, 0x4002), (0x11, 2), (0x11, 0x4002), (0x40, 2), (0x40, 0x4002),
    ]  # fmt: skip
    assert [(one.word.type, one.word.device_id, one.word.aux) for one in ivrs.memory] == [
        (0x20, 0, 0), (0x21, 0x14, 0), (0x22, 0x100, 0x1FF),
    ]  # fmt: skip
    memory = ivrs.memory[0].word
    assert (memory.unity, memory.ir, memory.iw, memory.exclusion_range) == (True, True, True, False)
    assert (memory.start_address, memory.memory_length) == (0xA000_0000, 0x1_0000)
    efr = ivrs.common_efr
    assert efr is not None
    assert (efr.gtsup, efr.pprsup, efr.glxsup, efr.pasmax, efr.gats, efr.giosup, efr.ephsup) == (
        True,
        True,
        1,
        15,
        1,
        True,
        True,
    )
    assert IvhdFeatures(ivrs.units[0].word.features).pasmax == 15


def test_linux_takes_the_last_type_of_the_first_iommu() -> None:
    said = ivrs_says(server())
    assert [(one.name, one.base, one.origin) for one in said.iommus] == [
        ("ivhd0", 0xFDF0_0000, "IVRS, IVHD of type 0x40 at 0x128"),
        ("ivhd1", 0xE070_0000, "IVRS, IVHD of type 0x40 at 0x1aa"),
    ]
    assert "IVRS: IVHD of types 0x10, 0x11, 0x40; Linux takes those of type 0x40" in said.remarks


def test_pasids_of_16_bits_end_one_earlier_as_linux_computes_it() -> None:
    said = ivrs_says(server())
    assert keys(said) == keys(said, 1) == {"pasid_bits": 16, "max_pasids": 65535, "sva": True}
    assert said.iommus[0].keys["pasid_bits"].origin == (
        "IVRS, IVHD of type 0x40 at 0x128, EFR 0x17000f000052df, bits 36:32 (PASMAX)"
    )
    assert "IVRS: page tables of processes up to 5 levels (EFR 0x17000f000052df, GATS)" in said.remarks


@pytest.mark.parametrize(
    ("number", "unit", "stream"),
    [
        (0x0002, None, 0x0002),
        (0x4002, None, 0x4002),
        (0x0003, "ivhd0", 0x0003),
        (0x3FFF, "ivhd0", 0x3FFF),
        (0x0101, "ivhd0", 0x0100),
        (0x0200, "ivhd0", 0x0200),
        (0x4001, "ivhd1", 0x4001),
        (0x4003, "ivhd1", 0x4003),
        (0x7FFF, "ivhd1", 0x7FFF),
        (0x8000, None, None),
    ],
)
def test_functions_of_the_server(number: int, unit: str | None, stream: int | None) -> None:
    found = first(ivrs_says(server()), number)
    assert (None if found is None else found.iommu) == unit
    assert (None if found is None else found.stream(number)) == stream


def test_an_acpi_device_becomes_a_platform_device() -> None:
    (device,) = ivrs_says(server()).endpoints
    assert (device.name, device.bus, device.keys["iommu"].value) == ("AMDI0020:FCH.FUR0", "platform", "ivhd0")


# --- feature registers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pasmax", [0, 7, 14, 15])
def test_the_width_is_pasmax_and_one(pasmax: int) -> None:
    ivrs = read(ivhd(efr=ALL.replace(pasmax=pasmax)))
    bits = pasmax + 1
    assert keys(ivrs_says(ivrs)) == {"pasid_bits": bits, "max_pasids": (1 << bits) - 1, "sva": True}
    assert rules(ivrs) == []


@pytest.mark.parametrize("pasmax", [16, 19, 31])
def test_wider_pasids_than_linux_takes_are_cut_and_an_error(pasmax: int) -> None:
    efr = ALL.replace(pasmax=pasmax)
    ivrs = read(ivhd(efr=efr))
    assert keys(ivrs_says(ivrs)) == {"pasid_bits": 16, "max_pasids": 65535, "sva": True}
    assert whys(ivrs) == [
        f"ivrs, offset 0x30: PASIDs of {pasmax + 1} bits (EFR {efr:#x}); Linux stops with a BUG above 16, taken here"
    ]


def test_without_guest_translation_there_are_no_pasids() -> None:
    efr = ALL.replace(gtsup=False)
    ivrs = read(ivhd(efr=efr))
    assert keys(ivrs_says(ivrs)) == {"pasid_bits": 0, "sva": False}
    assert whys(ivrs) == [
        f"ivrs, offset 0x30: EFR {efr:#x} is without GT, and Linux gives no device a PASID without it"
    ]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"pprsup": 0}, "PPR"),
        ({"giosup": 0}, "GIOSUP"),
        ({"ephsup": 0}, "EPHSUP"),
        ({"pprsup": 0, "ephsup": 0}, "PPR, EPHSUP"),
    ],
)
def test_each_feature_that_linux_asks_for_is_needed(fields: dict[str, int], names: str) -> None:
    ivrs = read(ivhd(efr=ALL.replace(**fields)))
    assert keys(ivrs_says(ivrs))["sva"] is False
    assert f"is without {names}, and" in whys(ivrs)[0]


def test_feature_registers_count_only_where_the_table_says_that_they_are_valid() -> None:
    ivrs = read(ivhd(), fields=IvrsFields())
    assert ivrs.common_efr is None
    assert ivrs_says(ivrs).remarks[0] == (
        "ivhd0: no valid EFR in the table (EFRSUP is clear); Linux reads the register: amd-iommu/features in sysfs"
    )


def test_linux_takes_of_two_feature_registers_what_they_have_in_common() -> None:
    nine, sixteen = ALL.replace(pasmax=8), ALL.replace(pasmax=15)
    ivrs = read(ivhd(efr=sixteen), ivhd(device=0x100, base=0xE000_0000, efr=nine))
    said = ivrs_says(ivrs)
    assert keys(said) == keys(said, 1) == {"pasid_bits": 9, "max_pasids": 511, "sva": True}
    assert whys(ivrs) == [
        f"ivrs, offset 0x58: EFR {nine:#x} differs from {sixteen:#x} of the first IOMMU; "
        f"Linux takes for all what they have in common, {nine:#x}"
    ]
    assert f"EFR {sixteen:#x}, {nine:#x} in common with the others" in said.iommus[0].keys["pasid_bits"].origin


def test_widths_without_common_bits_become_one_bit() -> None:
    ivrs = read(ivhd(efr=ALL.replace(pasmax=7)), ivhd(device=0x100, base=0xE000_0000, efr=ALL.replace(pasmax=8)))
    assert keys(ivrs_says(ivrs))["pasid_bits"] == 1


def test_snp_is_told() -> None:
    said = ivrs_says(read(ivhd(efr=ALL.replace(snpsup=1))))
    assert "a kernel that turns it on gives no device a PASID" in said.remarks[-1]


# --- blocks --------------------------------------------------------------------------------------------------------


def test_an_iommu_without_a_block_of_the_chosen_type_is_unknown_to_linux() -> None:
    ivrs = read(ivhd(kind=0x10), ivhd(kind=0x10, device=0x100, base=0xE000_0000), ivhd(kind=0x11))
    assert [one.name for one in ivrs_says(ivrs).iommus] == ["ivhd0"]
    assert whys(ivrs) == [
        "ivrs, offset 0x48: the IOMMU 0000:01:00.0 has no IVHD of type 0x11, the only one that Linux takes of this "
        "table: Linux does not know it, and its devices have no IOMMU"
    ]


def test_two_blocks_of_one_iommu_are_an_error() -> None:
    ivrs = read(ivhd(), ivhd(base=0xE000_0000), ivhd(device=9))
    assert whys(ivrs) == [
        "ivrs, offset 0x58: its requester ID 0000:00:00.2 is that of the IVHD at 0x30 too",
        "ivrs, offset 0x80: its address 0xfd000000 is that of the IVHD at 0x30 too",
    ]


def test_registers_must_be_somewhere() -> None:
    assert whys(read(ivhd(base=0))) == ["ivrs, offset 0x30: the IVHD of 0000:00:00.2 has registers at 0"]


def test_a_table_without_iommus_is_an_error() -> None:
    assert whys(read()) == ["ivrs: no IVHD of type 0x10, 0x11 or 0x40, so no IOMMU"]
    assert read().linux_type is None


def test_unknown_blocks_are_told_and_left_out() -> None:
    ivrs = read(Block(type=0x50, length=8).pack() + bytes(4), ivhd())
    assert whys(ivrs) == ["ivrs, offset 0x30: block of type 0x50, 8 bytes, which Linux does not know either"]
    assert len(ivrs.units) == 1


@pytest.mark.parametrize("length", [0, 2, 41])
def test_a_block_that_does_not_end_ends_the_table(length: int) -> None:
    ivrs = read(ivhd(), IvhdWithEfr(type=0x40, length=length).pack())
    assert whys(ivrs) == [
        f"ivrs, offset 0x58: block says {length} bytes, allowed are 4 to 40; nothing after it is read"
    ]


def test_a_block_too_short_for_its_type_is_left_out() -> None:
    ivrs = read(Block(type=0x40, length=24).pack() + bytes(20), Ivmd(type=0x20, length=32).pack(), ivhd())
    assert whys(ivrs) == ["ivrs, offset 0x30: IVHD of type 0x40 needs 40 bytes, and 24 are left"]
    assert (len(ivrs.units), len(ivrs.memory)) == (1, 1)


# --- device entries ------------------------------------------------------------------------------------------------


def test_of_two_units_that_name_a_function_the_later_one_has_it() -> None:
    said = ivrs_says(read(ivhd(entry(EntryType.ALL)), ivhd(select(0x30), device=0x100, base=0xE000_0000)))
    assert (unit_of(said, 0x30), unit_of(said, 0x31), unit_of(said, 0x100), unit_of(said, 2)) == (
        "ivhd1", "ivhd0", None, None,
    )  # fmt: skip


def test_an_iommu_that_another_one_names_later_is_behind_it() -> None:
    said = ivrs_says(read(ivhd(), ivhd(entry(EntryType.ALL), device=0x100, base=0xE000_0000)))
    assert unit_of(said, 2) == "ivhd1"


def test_segments_are_apart() -> None:
    said = ivrs_says(read(ivhd(entry(EntryType.ALL), segment=3)))
    assert (unit_of(said, 0x30, 3), unit_of(said, 0x30, 0)) == ("ivhd0", None)


def test_an_alias_range_brings_the_alias_too() -> None:
    begin = AliasEntry(type=EntryType.ALIAS_RANGE, device_id=0x100, source_device_id=0x20)
    said = ivrs_says(read(ivhd(begin, entry(END, 0x1FF))))
    assert [unit_of(said, number) for number in (0x20, 0x100, 0x1FF, 0x200)] == ["ivhd0", "ivhd0", "ivhd0", None]


@pytest.mark.parametrize(
    ("entries", "what", "covered"),
    [
        ((entry(BEGIN, 0x20),), "offset 0x58: the range from 0000:00:04.0 has no end; it covers nothing", []),
        ((entry(BEGIN, 0x20), entry(BEGIN, 0x30), entry(END, 0x31)),
         "offset 0x58: the range from 0000:00:04.0 has no end; it covers nothing", [0x30, 0x31]),
        ((entry(BEGIN, 0x20), entry(END, 0x1F)),
         "offset 0x5c: a range from 0000:00:04.0 ends at 0000:00:03.7; it covers nothing", []),
        ((entry(BEGIN, 0x20), entry(END, 0x21), entry(END, 0x24)),
         "offset 0x60: a range ends at 0000:00:04.4, and none began; Linux takes it from 0000:00:04.0 on",
         [0x20, 0x21, 0x24]),
        ((entry(END, 0x20),),
         "offset 0x58: a range ends at 0000:00:04.0, and none began; Linux takes it from 0000:00:00.0 on", [0, 0x20]),
    ],
)  # fmt: skip
def test_ranges_that_are_not_closed_are_told(entries: tuple[Word, ...], what: str, covered: list[int]) -> None:
    ivrs = read(ivhd(*entries))
    assert whys(ivrs) == [f"ivrs, {what}"]
    said = ivrs_says(ivrs)
    numbers = (0, 0x1F, 0x20, 0x21, 0x24, 0x25, 0x30, 0x31, 0x32)
    inside = [number for number in numbers if unit_of(said, number) == "ivhd0"]
    assert set(covered) <= set(inside)
    assert bool(inside) == bool(covered)
    assert 0x32 not in inside


@pytest.mark.parametrize(
    ("setting", "more"), [(EntryType.EXT_SELECT, ""), (EntryType.EXT_SELECT_RANGE, " and the rest of its range")]
)
def test_ats_that_firmware_does_not_want_is_told(setting: EntryType, more: str) -> None:
    ivrs = read(ivhd(ExtEntry(type=setting, device_id=0x20, ats_disabled=True), entry(END, 0x20)))
    assert whys(ivrs)[0] == f"ivrs, offset 0x58: firmware wants no ATS for 0000:00:04.0{more}; Linux does not look"


@pytest.mark.parametrize(
    ("uid", "form", "name"),
    [(b"UID1", 2, "ABCD0001:UID1"), (b"\7\1\0\0\0\0\0\0", 1, "ABCD0001:263"), (b"", 0, "ABCD0001")],
)
def test_acpi_devices_are_named_by_both_ids(uid: bytes, form: int, name: str) -> None:
    said = ivrs_says(read(ivhd(hid(b"ABCD0001", 0xA5, uid, form), select(0x30))))
    assert [one.name for one in said.endpoints] == [name]
    assert (unit_of(said, 0xA5), unit_of(said, 0x30)) == ("ivhd0", "ivhd0")


@pytest.mark.parametrize(
    ("kind", "name", "what"), [(0x11, b"ABCD0001", "in a block of type 0x11"), (0x40, b"", "without a hardware ID")]
)
def test_acpi_devices_that_linux_does_not_take_are_told(kind: int, name: bytes, what: str) -> None:
    ivrs = read(ivhd(hid(name, 0xA5), kind=kind))
    said = ivrs_says(ivrs)
    assert whys(ivrs) == [f"ivrs, offset 0x58: an ACPI device {what}; Linux leaves it out"]
    assert (said.endpoints, unit_of(said, 0xA5)) == ([], None)


def test_an_entry_without_a_known_length_ends_its_block_only() -> None:
    ivrs = read(ivhd(select(0x30), entry(0x90), select(0x40)), ivhd(select(0x50), device=9, base=0xE000_0000))
    assert whys(ivrs) == [
        "ivrs, offset 0x5c: device entry of type 0x90 in IVHD at 0x30 has no length that Linux knows, and Linux "
        "would not get beyond it; the rest of the block is not read"
    ]
    said = ivrs_says(ivrs)
    assert [unit_of(said, number) for number in (0x30, 0x40, 0x50)] == ["ivhd0", None, "ivhd1"]


def test_an_unknown_entry_with_a_length_is_told() -> None:
    ivrs = read(ivhd(entry(0x07), select(0x30)))
    assert whys(ivrs) == ["ivrs, offset 0x58: device entry of type 0x7 in IVHD at 0x30; Linux leaves it out"]
    assert unit_of(ivrs_says(ivrs), 0x30) == "ivhd0"


def test_an_entry_that_does_not_fit_is_told() -> None:
    ivrs = read(ivhd(AliasEntry(type=EntryType.ALIAS).pack()[:4]))
    assert whys(ivrs) == [
        "ivrs, offset 0x58: device entry of IVHD at 0x30 says 8 bytes, allowed are 4 to 4; nothing after it is read"
    ]


def test_no_more_entries_are_read_than_any_machine_needs() -> None:
    ivrs = read(ivhd(*[select(0x30)] * 3000), ivhd(*[select(0x31)] * 3000, device=9, base=0xE000_0000))
    assert sum(len(unit.entries) for unit in ivrs.units) == MOST_STRUCTURES
    assert whys(ivrs)[-1].endswith("more than 4096 device entries in one table; the rest is not read")


# --- round trip and broken tables ----------------------------------------------------------------------------------

IDS = st.integers(0, 0xFFFF)
ENTRIES = st.one_of(
    st.builds(lambda kind, device: entry(kind, device).pack(), st.sampled_from([0, 1, 2, 3, 4]), IDS),
    st.builds(lambda kind, a, b: AliasEntry(type=kind, device_id=a, source_device_id=b).pack(),
              st.sampled_from([0x42, 0x43]), IDS, IDS),
    st.builds(lambda kind, a, off: ExtEntry(type=kind, device_id=a, ats_disabled=off).pack(),
              st.sampled_from([0x46, 0x47]), IDS, st.booleans()),
    st.builds(lambda a, what: SpecialEntry(type=0x48, source_device_id=a, variety=what).pack(), IDS, st.just(1)),
    st.builds(hid, st.binary(max_size=8), IDS, st.binary(max_size=20), st.integers(0, 3)),
)  # fmt: skip
UNITS = st.builds(
    lambda entries, kind, device, base, efr: ivhd(*entries, kind=kind, device=device, base=base, efr=efr),
    st.lists(ENTRIES, max_size=5), st.sampled_from([0x10, 0x11, 0x40]), IDS, st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(UNITS, min_size=1, max_size=4))
def test_what_is_written_is_read(units: list[bytes]) -> None:
    ivrs = read(*units)
    assert len(ivrs.units) == len(units)
    for unit, raw in zip(ivrs.units, units, strict=True):
        size = len(unit.word.pack())
        assert unit.word.pack() == raw[:size]
        for one in unit.entries:
            at = one.offset - unit.offset
            assert raw[at : at + len(one.word.pack())] == one.word.pack()
    said = ivrs_says(ivrs)
    assert [one.name for one in said.iommus] == [f"ivhd{number}" for number in range(len(ivrs.linux_units))]
    for iommu in said.iommus:
        assert iommu.keys.get("pasid_bits") is None or 0 <= iommu.keys["pasid_bits"].value <= 16


@settings(max_examples=150, deadline=None)
@given(st.one_of(broken((DATA / "ivrs-server.aml").read_bytes()), broken((DATA / "ivrs-q35.aml").read_bytes())))
def test_no_broken_table_brings_the_reader_down(data: bytes) -> None:
    said = ivrs_says(read_ivrs(data, "broken"))
    for one in said.rid_maps:
        assert 0 <= one.first <= one.last <= 0xFFFF
    assert all(finding.why.startswith("broken") for finding in said.findings)


@pytest.mark.parametrize("size", range(0, 586, 13))
def test_a_cut_table_is_no_table_or_told_to_be_cut(size: int) -> None:
    data = (DATA / "ivrs-server.aml").read_bytes()[:size]
    if size < 36:
        with pytest.raises(InputError, match="bytes are no ACPI table"):
            read_ivrs(data, "cut")
        return
    assert "acpi.truncated" in rules(read_ivrs(data, "cut"))


def test_another_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"^dmar\.aml: is a table DMAR, not IVRS$"):
        read_ivrs((DATA / "dmar-q35.aml").read_bytes(), "dmar.aml")

"""SMMUv3 words: golden vectors, each with a sibling that differs in one field, and reading that never fails."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3 import commands, records, registers, structures
from pasidlab.hw.smmuv3.commands import (
    COMMANDS,
    AtcInv,
    CfgiCd,
    CfgiSte,
    CfgiSteRange,
    Command,
    Cs,
    Opcode,
    PriResp,
    Resp,
    Resume,
    Sync,
    Tg,
    TlbiEl2Asid,
    TlbiNhAsid,
    TlbiNhVa,
    TlbiNhVaa,
    TlbiNsnhAll,
    TlbiS2Ipa,
    command_of,
)
from pasidlab.hw.smmuv3.records import (
    EVENTS,
    CBadCd,
    CBadSubstreamid,
    Event,
    EventCode,
    FStreamDisabled,
    FTranslation,
    FTranslForbidden,
    FWalkEabt,
    PriRecord,
    TranslationClass,
    event_of,
)
from pasidlab.hw.smmuv3.registers import REGISTERS, CmdqCons, CmdqErr, Gbpa, Gerror, Idr0, Idr1, Idr5, Offset
from pasidlab.hw.smmuv3.structures import (
    OAS_BITS,
    TG0_SHIFT,
    TG1_SHIFT,
    AddressSize,
    Cd,
    Config,
    Eats,
    FetchCache,
    L1Cd,
    L1Std,
    S1Dss,
    S1Fmt,
    ShCfg,
    Ste,
    Tg0,
    Tg1,
    WalkCache,
)
from pasidlab.words import Word

STE = {
    "v": True,
    "config": Config.STAGE_1,
    "s1contextptr": 0x8_2345_0000,
    "s1cdmax": 2,
    "s1dss": S1Dss.SSID0,
    "s1cir": FetchCache.WB_RA,
    "s1cor": FetchCache.WB_RA,
    "s1csh": Shareability.ISH,
    "shcfg": ShCfg.INCOMING,
}
STE_PCIE = STE | {"s1fmt": S1Fmt.LEAF_64K, "s1cdmax": 20, "s1stalld": True, "eats": Eats.FULL}
CD_QUIET = {
    "epd0": True,
    "epd1": True,
    "v": True,
    "ips": AddressSize.BITS_48,
    "aa64": True,
    "a": True,
    "aset": True,
    "asid": 0x12,
}
CD_SVA = CD_QUIET | {
    "epd0": False,
    "t0sz": 16,
    "tg0": Tg0.GRANULE_4K,
    "ir0": WalkCache.WB_RA_WA,
    "or0": WalkCache.WB_RA_WA,
    "sh0": Shareability.ISH,
    "s": True,
    "r": True,
    "ttb0": 0x8_8765_4000,
}

GOLDEN: dict[str, tuple[type[Word], dict[str, int], tuple[int, ...]]] = {
    "STE linear": (Ste, STE, (0x1000_0008_2345_000B, 0x0000_1000_0000_00D6)),
    "STE two-level, PCIe": (Ste, STE_PCIE, (0xA000_0008_2345_002B, 0x0000_1000_1800_00D6)),
    "CD of an mm": (Cd, CD_SVA, (0x0012_F205_C000_3510, 0x0000_0008_8765_4000)),
    "CD after mm exit": (Cd, CD_QUIET, (0x0012_C205_C000_4000,)),
    "CFGI_CD": (CfgiCd, {"sid": 0x100, "ssid": 1, "leaf": True}, (0x0000_0100_0000_1005, 1)),
    "TLBI_NH_ASID": (TlbiNhAsid, {"asid": 0x12, "vmid": 0}, (0x0012_0000_0000_0011,)),
    "TLBI_NH_VA of a range": (
        TlbiNhVa,
        {"num": 3, "scale": 1, "asid": 0x12, "leaf": 1, "ttl": 3, "tg": Tg.GRANULE_4K, "addr": 0x7F00_1234_0000},
        (0x0012_0000_0010_3012, 0x0000_7F00_1234_0701),
    ),
    "ATC_INV": (AtcInv, {"sid": 0x100, "ssv": 1, "ssid": 1, "size": 52}, (0x0000_0100_0000_1840, 0x34)),
    "RESUME": (Resume, {"ac": True, "sid": 0x100, "stag": 7}, (0x0000_0100_0000_1044, 7)),
    "PRI_RESP": (
        PriResp,
        {"sid": 0x100, "ssv": 1, "ssid": 1, "prgindex": 0x1A, "resp": Resp.SUCCESS},
        (0x0000_0100_0000_1841, 0x201A),
    ),
    "SYNC": (
        Sync,
        {"cs": Cs.IRQ, "msh": Shareability.ISH, "msiattr": 0xF, "msidata": 0, "msiaddr": 0x8_8000_1000},
        (0x0000_0000_0FC0_1046, 0x0000_0008_8000_1000),
    ),
    "F_TRANSLATION": (
        FTranslation,
        {
            "sid": 0x100, "ssv": 1, "ssid": 1, "stall": 1, "stag": 7, "rnw": 1, "pnu": 0, "ind": 0,
            "class_": TranslationClass.IN, "inputaddr": 0x7F00_1234_5678,
        },
        (0x0000_0100_0000_1810, 0x0000_0208_8000_0007, 0x0000_7F00_1234_5678),
    ),
    "PRI record": (
        PriRecord,
        {
            "sid": 0x100, "ssv": 1, "ssid": 1, "r": 1, "w": 1, "last": 1, "prgindex": 0x1A,
            "addr": 0x7F00_1234_5000,
        },
        (0xF000_0001_0000_0100, 0x0000_7F00_1234_501A),
    ),
}  # fmt: skip

SIBLINGS: dict[str, dict[str, int]] = {
    "STE linear": {"s1cdmax": 1},
    "STE two-level, PCIe": {"s1fmt": S1Fmt.LEAF_4K},
    "CD of an mm": {"s": False},
    "CD after mm exit": {"epd0": False},
    "CFGI_CD": {"ssid": 2},
    "TLBI_NH_ASID": {"vmid": 1},
    "TLBI_NH_VA of a range": {"scale": 0x21},
    "ATC_INV": {"ssv": 0},
    "RESUME": {"ab": 1},
    "PRI_RESP": {"resp": Resp.INVALID_REQUEST},
    "SYNC": {"cs": Cs.SEV},
    "F_TRANSLATION": {"class_": TranslationClass.TTD},
    "PRI record": {"last": 0},
}

golden = pytest.mark.parametrize("name", GOLDEN)


def build(name: str) -> Word:
    word, fields, _ = GOLDEN[name]
    return word.make(**fields) if issubclass(word, Command | Event) else word(**fields)


def raw(name: str) -> int:
    _, _, words = GOLDEN[name]
    return sum(word << 64 * index for index, word in enumerate(words))


def all_words() -> list[type[Word]]:
    modules = (structures, registers, commands, records)
    found = (value for module in modules for value in vars(module).values())
    return sorted({w for w in found if isinstance(w, type) and issubclass(w, Word) and w is not Word}, key=str)


# --- golden vectors ----------------------------------------------------------------------------------------------


@golden
def test_a_golden_vector_is_encoded(name):
    assert int(build(name)) == raw(name)


@golden
def test_a_golden_vector_is_decoded(name):
    kind, fields, words = GOLDEN[name]
    word = kind.from_words(*words)
    shown = {v.field.name: v.value for v in word.values() if v.value and v.field.name not in ("opcode", "code")}
    assert shown == {field: value for field, value in fields.items() if value}
    assert word.reserved == 0


@golden
def test_a_sibling_that_differs_in_one_field_does_not_match(name):
    kind = GOLDEN[name][0]
    (changed,) = SIBLINGS[name]
    sibling = build(name).replace(**SIBLINGS[name])
    different = [v.field.name for v, w in zip(sibling.values(), kind(raw(name)).values(), strict=True) if v != w]
    assert different == [changed]
    assert int(sibling) != raw(name)
    assert (int(sibling) ^ raw(name)) & ~kind.FIELDS[changed].mask == 0


@pytest.mark.parametrize("name", [n for n, (kind, _, _) in GOLDEN.items() if issubclass(kind, Command)])
def test_a_golden_command_is_recognised(name):
    assert command_of(raw(name)) == build(name)
    assert type(command_of(raw(name))) is GOLDEN[name][0]


def test_a_golden_event_is_recognised():
    assert type(event_of(raw("F_TRANSLATION"))) is FTranslation


# --- structures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "bit"),
    [
        (Ste(s2vmid=1), 128), (Ste(s2t0sz=1), 160), (Ste(s2tg=1), 174), (Ste(s2aa64=1), 179), (Ste(s2s=1), 185),
        (Ste(s2r=1), 186), (Ste(s2ds=1), 195), (Ste(s2ttb=0x10), 196), (Ste(strw=1), 94), (Ste(mev=1), 83),
        (Cd(t1sz=1), 16), (Cd(tg1=1), 22), (Cd(asid=1), 48), (Cd(had0=1), 65), (Cd(e0pd0=1), 66), (Cd(ttb1=0x10), 132),
        (Cd(mair0=1), 192), (Cd(mair1=1), 224), (Cd(amair1=1), 288), (L1Std(span=1), 0), (L1Std(l2ptr=0x40), 6),
        (L1Cd(v=1), 0), (L1Cd(l2ptr=0x1000), 12),
    ],
)  # fmt: skip
def test_a_field_begins_at_its_bit(word, bit):
    assert int(word) == 1 << bit


@pytest.mark.parametrize(("word", "pointer"), [(Ste, "s1contextptr"), (L1Std, "l2ptr"), (L1Cd, "l2ptr")])
def test_table_pointers_reach_address_bit_55_and_no_further(word, pointer):
    assert getattr(word(**{pointer: 1 << 55}), pointer) == 1 << 55
    with pytest.raises(ValueError, match=f"{word.__name__}.{pointer}=0x100000000000000 does not fit"):
        word(**{pointer: 1 << 56})


@pytest.mark.parametrize(("word", "base"), [(Cd, "ttb0"), (Cd, "ttb1"), (Ste, "s2ttb")])
def test_translation_table_bases_reach_address_bit_51_and_no_further(word, base):
    assert getattr(word(**{base: 1 << 51}), base) == 1 << 51
    with pytest.raises(ValueError, match=f"{word.__name__}.{base}=0x10000000000000 does not fit"):
        word(**{base: 1 << 52})


def test_every_address_size_has_its_number_of_bits():
    assert [size.name for size in AddressSize] == [f"BITS_{n}" for n in OAS_BITS]


def test_tg0_and_tg1_are_different_codes_of_the_same_granules():
    shifts = {"GRANULE_4K": 12, "GRANULE_16K": 14, "GRANULE_64K": 16}
    assert {code.name: TG0_SHIFT[code] for code in Tg0 if code.name in shifts} == shifts
    assert {code.name: TG1_SHIFT[code] for code in Tg1 if code.name in shifts} == shifts
    assert TG0_SHIFT[Tg0.RESERVED_3] is None
    assert TG1_SHIFT[Tg1.RESERVED_0] is None


# --- registers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "bit"),
    [
        (Idr0(stall_model=1), 24), (Idr0(st_level=1), 27), (Idr0(cd2l=1), 19), (Idr0(httu=1), 6),
        (Idr0(term_model=1), 26), (Idr1(ssidsize=1), 6), (Idr1(cmdqs=1), 21), (Idr1(eventqs=1), 16),
        (Idr1(priqs=1), 11), (Idr5(vax=1), 10), (Idr5(stall_max=1), 16), (Gbpa(abort=1), 20), (Gbpa(update=1), 31),
        (Gerror(msi_priq_abt_err=1), 6), (CmdqCons(err=1), 24),
    ],
)  # fmt: skip
def test_a_register_field_begins_at_its_bit(word, bit):
    assert int(word) == 1 << bit


def test_every_register_has_a_layout():
    assert set(REGISTERS) == set(Offset)


def test_registers_are_aligned_to_their_size_and_do_not_overlap():
    end = 0
    for offset in sorted(REGISTERS):
        size = REGISTERS[offset].SIZE // 8
        assert offset % size == 0
        assert offset >= end
        end = offset + size


def test_queue_indexes_of_events_and_page_requests_are_in_page_1():
    assert [offset.name for offset in Offset if offset >= 0x10000] == [
        "EVENTQ_PROD", "EVENTQ_CONS", "PRIQ_PROD", "PRIQ_CONS",
    ]  # fmt: skip
    assert (Offset.EVENTQ_PROD, Offset.PRIQ_CONS) == (0x100A8, 0x100CC)


def test_the_command_queue_error_has_a_name():
    assert repr(CmdqCons(err=CmdqErr.ATC_INV_SYNC, rd=5)) == "CmdqCons(rd=0x5, err=ATC_INV_SYNC)"


# --- commands ----------------------------------------------------------------------------------------------------


def test_every_opcode_of_a_non_secure_queue_has_a_layout():
    without = {Opcode(code) for code in set(Opcode) - set(COMMANDS)}
    assert {code.name for code in without} == {
        "TLBI_EL3_ALL", "TLBI_EL3_VA", "TLBI_S_EL2_ALL", "TLBI_S_EL2_ASID", "TLBI_S_EL2_VA", "TLBI_S_EL2_VAA",
        "TLBI_S_S12_VMALL", "TLBI_S_S2_IPA", "TLBI_SNH_ALL", "DPTI_ALL", "DPTI_PA",
    }  # fmt: skip


@pytest.mark.parametrize("code", COMMANDS)
def test_make_sets_the_opcode_of_its_class(code):
    made = COMMANDS[code].make()
    assert int(made) == code
    assert type(command_of(made)) is COMMANDS[code]
    assert made.reserved == 0


@given(st.binary(min_size=16, max_size=16))
def test_any_16_bytes_are_a_command(data):
    command = command_of(int.from_bytes(data, "little"))
    assert command.pack() == data
    assert command.opcode == data[0]
    assert type(command) is COMMANDS.get(data[0], Command)
    assert repr(command)


@pytest.mark.parametrize("code", sorted(set(range(256)) - set(COMMANDS)))
def test_an_opcode_without_layout_is_a_plain_command(code):
    assert type(command_of(code | 0xFF << 64)) is Command


def test_what_is_left_of_other_fields_in_a_command_is_reserved():
    assert TlbiNhAsid.from_words(0x0012_0000_0000_1811).reserved == 0x1800
    assert TlbiNhVaa.from_words(0x0012_0000_0000_0013).reserved == 0x0012_0000_0000_0000
    assert TlbiEl2Asid.from_words(0x0012_0001_0000_0021).reserved == 0x0001_0000_0000
    assert CfgiSte.from_words(0x0000_0100_0000_1803).reserved == 0x1800
    assert TlbiNsnhAll.from_words(0x30 | 1 << 10).reserved == 1 << 10


def test_the_scale_of_a_range_has_6_bits():
    assert TlbiNhVa(scale=0x3F) == 0x3F << 20


@pytest.mark.parametrize("command", [TlbiNhVa, TlbiNhVaa, COMMANDS[Opcode.TLBI_EL2_VA], COMMANDS[Opcode.TLBI_EL2_VAA]])
def test_invalidations_by_va_take_any_page_address(command):
    assert command.make(addr=0xFFFF_FFFF_FFFF_F000).addr == 0xFFFF_FFFF_FFFF_F000


def test_invalidations_by_ipa_take_52_bits():
    assert TlbiS2Ipa.make(ipa=(1 << 52) - 0x1000).words[1] == (1 << 52) - 0x1000
    with pytest.raises(ValueError, match=r"^TlbiS2Ipa\.ipa=0x10000000000000 does not fit bits 115:76$"):
        TlbiS2Ipa.make(ipa=1 << 52)


def test_all_configuration_is_a_range_of_31():
    assert CfgiSteRange.make(range=commands.CFGI_ALL_RANGE).words == (0x04, 0x1F)


# --- records -----------------------------------------------------------------------------------------------------


def test_every_event_code_has_a_layout():
    assert set(EVENTS) == set(EventCode)


@pytest.mark.parametrize("code", EVENTS)
def test_make_sets_the_code_of_its_class(code):
    made = EVENTS[code].make(sid=0x100)
    assert made == 0x100 << 32 | code
    assert type(event_of(made)) is EVENTS[code]


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_are_an_event(data):
    event = event_of(int.from_bytes(data, "little"))
    assert event.pack() == data
    assert event.code == data[0]
    assert type(event) is EVENTS.get(data[0], Event)
    assert repr(event)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (FStreamDisabled, 0x0000_0100_0000_0006),
        (FTranslForbidden, 0x0000_0100_0000_0007),
        (CBadSubstreamid, 0x0000_0100_0000_1008),
        (CBadCd, 0x0000_0100_0000_180A),
    ],
)
def test_a_record_carries_the_substream_only_where_it_has_a_place_for_it(event, expected):
    assert event.make(sid=0x100, ssv=True, ssid=1) == expected


def test_a_record_refuses_a_field_that_it_does_not_have():
    with pytest.raises(TypeError, match=r"^CBadCd\.inputaddr: no such field; known: code, ssv, ssid, sid$"):
        CBadCd.make(inputaddr=0)


def test_the_address_of_a_failed_walk_is_whole():
    event = FWalkEabt.make(fetchaddr=0x8_8765_4008, class_=TranslationClass.TTD, s2=True)
    assert event.words == (0x0B, 0x0000_0180_0000_0000, 0, 0x8_8765_4008)


@pytest.mark.parametrize(("ssv", "last", "r", "w"), [*product((0, 1), repeat=4)])
def test_a_stop_marker_asks_for_nothing_and_ends_its_group(ssv, last, r, w):
    record = PriRecord(ssv=ssv, last=last, r=r, w=w)
    assert record.is_stop_marker is ((ssv, last, r, w) == (1, 1, 0, 0))


# --- all words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", all_words(), ids=lambda word: word.__name__)
def test_every_field_holds_each_of_its_bits_and_no_other(word):
    for field in word.FIELDS.values():
        full = word(field.mask)
        assert int(getattr(full, field.name)) == ((1 << field.width) - 1) << field.shift
        assert int(getattr(word((1 << word.SIZE) - 1 ^ field.mask), field.name)) == 0


@pytest.mark.parametrize("word", all_words(), ids=lambda word: word.__name__)
def test_every_raw_value_can_be_read(word):
    for raw_value in (0, (1 << word.SIZE) - 1, int("5A" * (word.SIZE // 8), 16), int("A5" * (word.SIZE // 8), 16)):
        value = word(raw_value)
        assert [v.value for v in value.values()] == [int(getattr(value, v.field.name)) for v in value.values()]
        assert value.reserved == raw_value & word.RESERVED

"""From StreamID and SubstreamID to a legal configuration: tables, legality, S1DSS, and the order of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest

from pasidlab.hw.smmuv3.features import StallModel
from pasidlab.hw.smmuv3.legality import STE_S2SL0, STE_S2T0SZ
from pasidlab.hw.smmuv3.request import Completion, Terminated
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, L1Std, Ste
from pasidlab.hw.transaction import Translated
from tests.smmuv3_hardware import (
    ACCESS,
    AF,
    BAD_CD,
    BAD_STE,
    BAD_STREAMID,
    BAD_SUBSTREAMID,
    CD_FETCH,
    CDTAB,
    CLASS_CD,
    CLASS_TT,
    PA,
    PERMISSION,
    S1_ALL,
    SID,
    STE_FETCH,
    STREAM_DISABLED,
    STRTAB,
    TRANSLATION,
    USER,
    VA,
    WALK_EABT,
    Software,
    Tables,
    World,
    fault,
    record,
)

S1, S2, NESTED, BYPASS = Config.STAGE_1, Config.STAGE_2, Config.NESTED, Config.BYPASS
TERMINATE_ONLY, STALL_FORCED = StallModel.TERMINATE_ONLY, StallModel.STALL_FORCED
BIT48 = 1 << 48

# --- legality ------------------------------------------------------------------------------------------------------

ILLEGAL_STES: list[tuple[str, dict[str, Any], Config, dict[str, int], dict[str, int]]] = [
    ("V", {}, S1, {"v": 0}, {}),
    ("V goes before Config", {}, Config.ABORT, {"v": 0}, {}),
    ("S1P", {"stage1": False}, S1, {}, {"config": BYPASS}),
    ("S1P nested", {"stage1": False}, NESTED, {}, {"config": S2}),
    ("S2P", {"stage2": False}, S2, {}, {"config": BYPASS}),
    ("S2P nested", {"stage2": False}, NESTED, {}, {"config": S1}),
    ("S1CDMax", {"ssid_bits": 4}, S1, {"s1cdmax": 5}, {"s1cdmax": 4}),
    ("S1CDMax full", {"ssid_bits": 20}, S1, {"s1cdmax": 21}, {"s1cdmax": 20}),
    ("S1CDMax nested", {"ssid_bits": 4}, NESTED, {"s1cdmax": 31}, {"s1cdmax": 3}),
    ("S1Fmt 01", {"two_level_cds": False}, S1, {"s1fmt": 1, "s1cdmax": 1}, {"s1fmt": 1}),
    ("S1Fmt 10", {"two_level_cds": False}, S1, {"s1fmt": 2, "s1cdmax": 1}, {"s1fmt": 3, "s1cdmax": 1}),
    ("S1ContextPtr", {}, S1, {"s1contextptr": BIT48}, {"s1contextptr": BIT48 - 64}),
    ("S1ContextPtr small", {"oas_bits": 32}, S1, {"s1contextptr": 1 << 32}, {"s1contextptr": (1 << 32) - 64}),
    ("S1ContextPtr nested", {}, NESTED, {"s1contextptr": BIT48}, {}),
    ("S1ContextPtr ignored", {}, S1, {"s1contextptr": BIT48}, {"s1contextptr": BIT48, "config": S2}),
    ("S1STALLD terminate only", {"stall_model": TERMINATE_ONLY}, S1, {"s1stalld": 1}, {}),
    ("S1STALLD forced", {"stall_model": STALL_FORCED}, S1, {"s1stalld": 1}, {}),
    ("S1STALLD both", {"stall_model": TERMINATE_ONLY}, S1, {"s1stalld": 1}, {"s1stalld": 1, "config": BYPASS}),
    ("STRW 01", {"hyp": True}, S1, {"strw": 1}, {"strw": 2}),
    ("STRW 11", {"hyp": True}, S1, {"strw": 3}, {"strw": 0}),
    ("STRW ignored by nested", {"hyp": True}, S1, {"strw": 1}, {"strw": 1, "config": NESTED}),
    ("EATS 10", {"ats": True}, NESTED, {"eats": 2}, {"eats": 3}),
    ("EATS 10 stage 1", {"ats": True, "stage2": False}, S1, {"eats": 2}, {"eats": 2, "config": BYPASS}),
    ("EATS 01 S2S", {"ats": True}, NESTED, {"eats": 1, "s2s": 1}, {"eats": 1}),
    ("EATS 01 S2S bypassed", {"ats": True}, S2, {"eats": 1, "s2s": 1}, {"eats": 1, "s2s": 1, "config": S1}),
    ("S2AA64", {}, S2, {"s2aa64": 0}, {"s2aa64": 0, "config": S1}),
    ("S2ENDI", {}, S2, {"s2endi": 1}, {"s2endi": 1, "config": BYPASS}),
    ("S2S terminate only", {"stall_model": TERMINATE_ONLY}, S2, {"s2s": 1}, {"s2s": 0}),
    ("S2S forced", {"stall_model": STALL_FORCED}, S2, {"s2s": 0}, {"s2s": 1}),
    ("S2HA", {"httu": 0}, S2, {"s2ha": 1}, {}),
    ("S2HD none", {"httu": 0}, S2, {"s2hd": 1}, {}),
    ("S2HD", {"httu": 1}, S2, {"s2ha": 1, "s2hd": 1}, {"s2ha": 1}),
    ("S2HD alone", {"httu": 1}, S2, {"s2hd": 1}, {"s2ha": 1}),
    ("S2TG 11", {}, S2, {"s2tg": 3}, {"s2tg": 0}),
    ("S2TG 16K", {"granules": frozenset({12, 16})}, S2, {"s2tg": 2, "s2sl0": 2}, {"s2tg": 1, "s2sl0": 2}),
    ("S2TG 4K", {"granules": frozenset({14})}, S2, {"s2tg": 0}, {"s2tg": 2, "s2sl0": 2}),
    ("S2T0SZ small", {}, S2, {"s2t0sz": 15}, {"s2t0sz": 16}),
    ("S2T0SZ below OAS", {"oas_bits": 44}, S2, {"s2t0sz": 19}, {"s2t0sz": 20}),
    ("S2T0SZ 64K", {}, S2, {"s2t0sz": 15, "s2tg": 1}, {"s2t0sz": 16, "s2tg": 1}),
    ("S2T0SZ 64K 52 bits", {"oas_bits": 52}, S2, {"s2t0sz": 11, "s2tg": 1}, {"s2t0sz": 12, "s2tg": 1}),
    ("S2T0SZ 4K 52 bits", {"oas_bits": 52}, S2, {"s2t0sz": 15}, {"s2t0sz": 16}),
    ("S2T0SZ large", {}, S2, {"s2t0sz": 40, "s2sl0": 0}, {"s2t0sz": 39, "s2sl0": 0}),
    ("S2T0SZ small tables", {"stt": True}, S2, {"s2t0sz": 49, "s2sl0": 3}, {"s2t0sz": 48, "s2sl0": 3}),
    (
        "S2T0SZ small tables 64K",
        {"stt": True},
        S2,
        {"s2t0sz": 48, "s2tg": 1, "s2sl0": 0},
        {"s2t0sz": 47, "s2tg": 1, "s2sl0": 0},
    ),
    ("S2SL0 too low a level", {}, S2, {"s2sl0": 1}, {"s2sl0": 1, "s2t0sz": 21}),
    ("S2SL0 too high a level", {}, S2, {"s2sl0": 2, "s2t0sz": 25}, {"s2sl0": 2, "s2t0sz": 24}),
    ("S2SL0 level 3 of 4K", {}, S2, {"s2sl0": 3, "s2t0sz": 39}, {"s2sl0": 0, "s2t0sz": 39}),
    ("S2SL0 level 0 of 4K", {"oas_bits": 42}, S2, {"s2sl0": 2, "s2t0sz": 22, "s2ps": 3}, {"s2sl0": 1, "s2t0sz": 22}),
    (
        "S2SL0 level 1 of 16K",
        {"oas_bits": 40},
        S2,
        {"s2sl0": 2, "s2t0sz": 24, "s2tg": 2},
        {"s2sl0": 1, "s2t0sz": 24, "s2tg": 2},
    ),
    ("S2SL0 11 of 16K", {}, S2, {"s2sl0": 3, "s2tg": 2}, {"s2sl0": 2, "s2tg": 2}),
    ("S2SL0 11 of 64K", {}, S2, {"s2sl0": 3, "s2tg": 1}, {"s2sl0": 2, "s2tg": 1}),
    ("S2TTB beyond S2PS", {}, S2, {"s2ps": 0, "s2ttb": 1 << 32}, {"s2ps": 0, "s2ttb": (1 << 32) - 0x1000}),
    ("S2TTB beyond OAS", {"oas_bits": 44}, S2, {"s2t0sz": 20, "s2ttb": 1 << 44}, {"s2t0sz": 20}),
    ("S2TTB beyond 48 bits", {"oas_bits": 52}, S2, {"s2ps": 6, "s2ttb": BIT48}, {"s2ps": 6}),
    (
        "S2TTB of 64K",
        {"oas_bits": 52},
        S2,
        {"s2ps": 6, "s2ttb": BIT48},
        {"s2ps": 6, "s2ttb": BIT48, "s2tg": 1, "s2sl0": 2},
    ),
    ("S2VMID", {"vmid16": False}, S2, {"s2vmid": 0x100}, {"s2vmid": 0xFF}),
    ("S2VMID stage 1", {"vmid16": False}, S1, {"s2vmid": 0x100}, {"s2vmid": 0x100, "config": BYPASS}),
    ("S2VMID EL2", {"vmid16": False, "hyp": True}, S1, {"s2vmid": 0x100}, {"s2vmid": 0x100, "strw": 2}),
]


@pytest.mark.parametrize(
    ("features", "config", "bad", "good"), [c[1:] for c in ILLEGAL_STES], ids=[c[0] for c in ILLEGAL_STES]
)
def test_an_illegal_ste_is_c_bad_ste_and_its_sibling_is_not(
    features: dict[str, Any], config: Config, bad: dict[str, int], good: dict[str, int]
) -> None:
    world = World(**features)
    world.cd()
    world.stream(config, **bad)
    outcome = world.refused(record(BAD_STE))
    assert outcome.completion is Completion.ABORT
    world = World(**features)
    world.cd(s=int(features.get("stall_model") is STALL_FORCED))
    world.stream(Config(good.get("config", config)), **good)
    world.go()
    assert all(event[0] != BAD_STE for event in world.events())


LEGAL_STES: list[tuple[str, dict[str, Any], Config, dict[str, int], int]] = [
    ("S1CDMax ignored without substreams", {"ssid_bits": 0}, S1, {"s1cdmax": 9, "s1fmt": 2}, PA),
    ("S1Fmt 11 is linear", {"two_level_cds": False}, S1, {"s1cdmax": 2, "s1fmt": 3}, PA),
    ("STRW ignored without EL2", {"hyp": False}, S1, {"strw": 3}, PA),
    ("EL2", {"hyp": True}, S1, {"strw": 2}, PA),
    ("EATS ignored without ATS", {"ats": False}, NESTED, {"eats": 2}, PA),
    ("EATS ignored by bypass", {"ats": True}, BYPASS, {"eats": 2}, VA),
    ("EATS 11 acts as 00", {"ats": True}, NESTED, {"eats": 3}, PA),
    ("S2 fields ignored by stage 1", {}, S1, {"s2tg": 3, "s2t0sz": 63, "s2ha": 1, "s2endi": 1}, PA),
    ("S1 fields ignored by stage 2", {}, S2, {"s1contextptr": BIT48, "s1cdmax": 31, "strw": 3, "s1stalld": 1}, VA),
    ("everything ignored by bypass", {}, BYPASS, {"s1cdmax": 31, "strw": 3, "s2tg": 3, "eats": 2, "s2vmid": 1}, VA),
    ("HD without HA means nothing", {"httu": 2}, S2, {"s2hd": 1}, VA),
    ("S2VMID ignored without stage 2", {"vmid16": False, "stage2": False}, S1, {"s2vmid": 0x100}, PA),
    ("reserved words", {}, S1, {"partid": 7, "software": 15, "impl_127_116": 0xFFF, "cont": 15}, PA),
]


@pytest.mark.parametrize(
    ("features", "config", "fields", "output"), [c[1:] for c in LEGAL_STES], ids=[c[0] for c in LEGAL_STES]
)
def test_an_ste_field_that_does_not_count_is_ignored(
    features: dict[str, Any], config: Config, fields: dict[str, int], output: int
) -> None:
    world = World(**features)
    world.cd()
    world.stream(config, **fields)
    world.passes(output)


@pytest.mark.parametrize("config", [0, 1, 2, 3])
def test_an_ste_that_says_abort_is_silent_whatever_else_it_says(config: int) -> None:
    world = World()
    world.ste(SID, v=1, config=config, s1cdmax=31, strw=3, s2tg=3, eats=2)
    assert world.refused().completion is Completion.ABORT
    world.refused(ssid=3)


@pytest.mark.parametrize(("t0sz", "sl0", "rule"), [(40, 0, STE_S2T0SZ), (16, 1, STE_S2SL0)])
def test_size_and_start_level_of_stage_2_have_rules_of_their_own(t0sz: int, sl0: int, rule: object) -> None:
    world = World()
    world.stream(S2, s2t0sz=t0sz, s2sl0=sl0)
    assert world.go().rule is rule


EL2 = {"strw": 2}
ILLEGAL_CDS: list[tuple[str, dict[str, Any], dict[str, int], dict[str, int], dict[str, int]]] = [
    ("V", {}, {}, {"v": 0}, {}),
    ("AA64", {}, {}, {"aa64": 0}, {}),
    ("ENDI", {}, {}, {"endi": 1}, {}),
    ("ENDI with both halves off", {}, {}, {"endi": 1}, {"endi": 1, "epd0": 1}),
    ("ENDI of EL2", {"hyp": True}, EL2, {"endi": 1, "epd0": 1}, {"epd0": 1}),
    ("S against S1STALLD", {}, {"s1stalld": 1}, {"s": 1}, {"s": 0}),
    ("S terminate only", {"stall_model": TERMINATE_ONLY}, {}, {"s": 1}, {"s": 0}),
    ("S forced", {"stall_model": STALL_FORCED}, {}, {"s": 0}, {"s": 1}),
    ("A", {"term_model": True}, {}, {"a": 0}, {"a": 1}),
    ("ASID", {"asid16": False}, {}, {"asid": 0x100}, {"asid": 0xFF}),
    ("HA", {"httu": 0}, {}, {"ha": 1}, {}),
    ("HD none", {"httu": 0}, {}, {"hd": 1}, {}),
    ("HD", {"httu": 1}, {}, {"ha": 1, "hd": 1}, {"ha": 1}),
    ("TG0 11", {}, {}, {"tg0": 3}, {"tg0": 3, "epd0": 1}),
    ("TG0 64K", {"granules": frozenset({12})}, {}, {"tg0": 1}, {"tg0": 0}),
    ("TG0 16K", {"granules": frozenset({12})}, {}, {"tg0": 2}, {"tg0": 0}),
    ("TG1 00", {}, {}, {"epd1": 0, "t1sz": 16, "tg1": 0}, {"epd1": 0, "t1sz": 16, "tg1": 2}),
    ("TG1 16K", {"granules": frozenset({12})}, {}, {"epd1": 0, "t1sz": 16, "tg1": 1}, {"tg1": 1}),
    ("T0SZ 15", {}, {}, {"t0sz": 15}, {"t0sz": 16}),
    ("T0SZ 40", {}, {}, {"t0sz": 40}, {"t0sz": 39}),
    ("T0SZ 49", {"stt": True}, {}, {"t0sz": 49}, {"t0sz": 48}),
    ("T0SZ 48 of 64K", {"stt": True}, {}, {"t0sz": 48, "tg0": 1}, {"t0sz": 47, "tg0": 1}),
    ("T0SZ 12", {"vax": 1}, {}, {"t0sz": 12}, {"t0sz": 12, "tg0": 1}),
    ("T0SZ 11", {"vax": 1}, {}, {"t0sz": 11, "tg0": 1}, {"t0sz": 12, "tg0": 1}),
    ("T0SZ 12 without VAX", {"vax": 0}, {}, {"t0sz": 12, "tg0": 1}, {"t0sz": 16, "tg0": 1}),
    ("T0SZ off", {}, {}, {"t0sz": 0}, {"t0sz": 0, "epd0": 1}),
    ("T0SZ of EL2, which has no EPD0", {"hyp": True}, EL2, {"t0sz": 0, "epd0": 1}, {"t0sz": 16, "epd0": 1}),
    ("T1SZ", {}, {}, {"epd1": 0, "tg1": 2, "t1sz": 15}, {"epd1": 0, "tg1": 2, "t1sz": 16}),
    ("T1SZ off", {}, {}, {"epd1": 0, "tg1": 2, "t1sz": 40}, {"tg1": 2, "t1sz": 40}),
    ("TTB0 beyond IPS", {}, {}, {"ips": 0, "ttb0": 1 << 32}, {"ips": 0, "ttb0": (1 << 32) - 0x1000}),
    ("TTB0 beyond OAS", {"oas_bits": 36}, {}, {"ttb0": 1 << 36}, {"ttb0": 1 << 36, "epd0": 1}),
    ("TTB0 beyond 48 bits", {"oas_bits": 52}, {}, {"ips": 6, "ttb0": BIT48}, {"ips": 6}),
    ("TTB0 of 64K", {"oas_bits": 52}, {}, {"ips": 6, "ttb0": BIT48}, {"ips": 6, "ttb0": BIT48, "tg0": 1}),
    ("TTB1", {}, {}, {"epd1": 0, "tg1": 2, "t1sz": 16, "ttb1": BIT48}, {"epd1": 0, "tg1": 2, "t1sz": 16}),
]


@pytest.mark.parametrize(
    ("features", "ste", "bad", "good"), [c[1:] for c in ILLEGAL_CDS], ids=[c[0] for c in ILLEGAL_CDS]
)
def test_an_illegal_cd_is_c_bad_cd_and_its_sibling_is_not(
    features: dict[str, Any], ste: dict[str, int], bad: dict[str, int], good: dict[str, int]
) -> None:
    for fields, illegal in ((bad, True), (good, False)):
        world = World(**features)
        world.stream(S1, **ste)
        world.cd(**fields)
        if illegal:
            assert world.refused(record(BAD_CD)).completion is Completion.ABORT
        else:
            world.go()
            assert all(event[0] != BAD_CD for event in world.events())


@pytest.mark.parametrize(
    ("features", "ste", "cd"),
    [
        ({"hyp": True, "asid16": False}, EL2, {"asid": 0x100}),
        ({"hyp": True}, EL2, {"epd0": 1, "epd1": 0, "t1sz": 0, "tg1": 0, "ttb1": BIT48}),
        ({"httu": 2}, {}, {"hd": 1}),
        ({}, {}, {"tg1": 0, "t1sz": 63, "ttb1": BIT48}),
        ({"stall_model": STALL_FORCED}, {}, {"s": 1}),
        ({}, {}, {"mair0": 0xFFFF_FFFF, "hwu0": 15, "pie": 1, "ds": 1, "haft": 1, "e0pd0": 1, "pmg": 255}),
    ],
    ids=["ASID of EL2", "TTB1 and EPD of EL2", "HD without HA", "half that is off", "stall forced", "absent features"],
)
def test_a_cd_field_that_does_not_count_is_ignored(
    features: dict[str, Any], ste: dict[str, int], cd: dict[str, int]
) -> None:
    world = World(**features)
    world.stream(S1, **ste)
    world.cd(**cd)
    world.passes(PA)


def test_el2_with_e2h_has_both_halves() -> None:
    world = World(hyp=True, start={"e2h": 1})
    world.stream(S1, **EL2)
    world.cd(epd1=0, tg1=0, t1sz=16)
    world.refused(record(BAD_CD))


def test_c_bad_cd_names_the_substream() -> None:
    world = World()
    world.stream(S1, s1cdmax=4)
    world.cd(9, v=0)
    world.refused(record(BAD_CD, ssid=9), ssid=9)
    world.cd(0, aa64=0)
    world.refused(record(BAD_CD))


# --- the stream table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log2size", [0, 1, 6, 10])
def test_a_linear_stream_table_ends_at_its_size(log2size: int) -> None:
    software = Software().start(strtab={"log2size": log2size})
    last = (1 << log2size) - 1
    for sid in (last, last + 1):
        software.ste(sid, v=1, config=BYPASS)
    software.passes(VA, sid=last)
    software.refused(record(BAD_STREAMID, last + 1), sid=last + 1)
    software.refused(record(BAD_STREAMID, last + 1, 7), sid=last + 1, ssid=7)


def test_a_linear_table_larger_than_the_streamids_ends_with_them() -> None:
    software = Software(sid_bits=4).start(strtab={"log2size": 8})
    software.ste(15, v=1, config=BYPASS)
    software.ste(16, v=1, config=BYPASS)
    software.passes(VA, sid=15)
    software.refused(record(BAD_STREAMID, 16), sid=16)


def test_a_linear_table_counts_as_aligned_to_the_size_that_is_programmed() -> None:
    software = Software(sid_bits=4)
    software.strtab = STRTAB + 0x1000
    software.start(strtab={"log2size": 8})
    software.store(STRTAB + 3 * 64, Ste(v=1, config=BYPASS))
    software.passes(VA, sid=3)


def test_the_whole_streamid_is_recorded() -> None:
    software = Software(sid_bits=32).start(strtab={"log2size": 32})
    software.refused(record(BAD_STE, 0xFFFF_FFFF), sid=0xFFFF_FFFF)


def test_an_unknown_stream_is_recorded_only_with_recinvsid() -> None:
    software = Software().start(recinvsid=0, strtab={"log2size": 2})
    outcome = software.refused(sid=4)
    assert outcome.completion is Completion.ABORT
    assert outcome.event is None


L2 = 0x500_0000


@pytest.mark.parametrize(("split", "bits"), [(6, 6), (8, 8), (10, 10), (0, 6), (7, 6), (31, 6)])
def test_split_says_where_level_2_begins_and_anything_else_is_6(split: int, bits: int) -> None:
    software = Software().start(strtab={"log2size": 12, "split": split, "fmt": 1})
    software.store(STRTAB + 3 * 8, L1Std(span=bits + 1, l2ptr=L2))
    sid = 3 << bits | (1 << bits) - 1
    software.store(L2 + (sid & (1 << bits) - 1) * 64, Ste(v=1, config=BYPASS))
    software.passes(VA, sid=sid)
    software.refused(record(BAD_STE, 3 << bits), sid=3 << bits)
    software.refused(record(BAD_STREAMID, 2 << bits), sid=2 << bits)


@pytest.mark.parametrize("split", [6, 8, 10])
@pytest.mark.parametrize("span", range(32))
def test_span_bounds_a_level_2_table(split: int, span: int) -> None:
    software = Software().start(strtab={"log2size": 12, "split": split, "fmt": 1})
    software.store(STRTAB, L1Std(span=span, l2ptr=L2))
    valid = 1 <= span <= min(11, split + 1)
    for sid in {0, (1 << split) - 1, *((1 << span - 1) + step for step in (-1, 0) if valid)}:
        if sid >> split:
            continue
        software.store(L2 + sid * 64, Ste(v=1, config=BYPASS))
        if valid and sid < 1 << span - 1:
            software.passes(VA, sid=sid)
        else:
            software.refused(record(BAD_STREAMID, sid), sid=sid)


def test_a_level_2_table_counts_as_aligned_to_its_span() -> None:
    software = Software().start(strtab={"log2size": 12, "split": 8, "fmt": 1})
    software.store(STRTAB, L1Std(span=3, l2ptr=L2 + 0xC0))
    software.store(L2 + 64, Ste(v=1, config=BYPASS))
    software.passes(VA, sid=1)


@pytest.mark.parametrize(("log2size", "alignment"), [(12, 128), (13, 256)])
def test_a_level_1_table_counts_as_aligned_to_its_size(log2size: int, alignment: int) -> None:
    software = Software()
    software.strtab = STRTAB + alignment // 2
    software.start(strtab={"log2size": log2size, "split": 8, "fmt": 1})
    place = (STRTAB + alignment // 2) & -alignment
    software.store(place, L1Std(span=5, l2ptr=L2))
    software.store(L2 + 9 * 64, Ste(v=1, config=BYPASS))
    software.passes(VA, sid=9)


def test_a_two_level_table_ends_at_log2size_even_within_a_span() -> None:
    software = Software().start(strtab={"log2size": 4, "split": 8, "fmt": 1})
    software.store(STRTAB, L1Std(span=9, l2ptr=L2))
    for sid in (15, 16):
        software.store(L2 + sid * 64, Ste(v=1, config=BYPASS))
    software.passes(VA, sid=15)
    software.refused(record(BAD_STREAMID, 16), sid=16)


def test_without_two_level_tables_fmt_is_linear() -> None:
    software = Software(two_level_streams=False).start(strtab={"log2size": 8, "split": 8, "fmt": 1})
    software.ste(SID, v=1, config=BYPASS)
    software.passes(VA)


@pytest.mark.parametrize("fmt", [2, 3])
def test_a_reserved_fmt_is_linear(fmt: int) -> None:
    software = Software().start(strtab={"log2size": 8, "split": 8, "fmt": fmt})
    software.ste(SID, v=1, config=BYPASS)
    software.passes(VA)


def test_an_ste_that_cannot_be_read_is_f_ste_fetch() -> None:
    world = World()
    world.stream(BYPASS)
    world.memory.poison(STRTAB + SID * 64 + 56, 8)
    outcome = world.refused(record(STE_FETCH, fetchaddr=STRTAB + SID * 64))
    assert outcome.completion is Completion.ABORT
    world.refused(record(STE_FETCH, ssid=3, fetchaddr=STRTAB + SID * 64), ssid=3)
    world.memory.heal()
    world.passes(VA)


def test_a_level_1_descriptor_that_cannot_be_read_is_f_ste_fetch() -> None:
    software = Software().start(strtab={"log2size": 12, "split": 6, "fmt": 1})
    software.memory.poison(STRTAB + 8 * 2, 8)
    software.refused(record(STE_FETCH, 130, fetchaddr=STRTAB + 16), sid=130)


def test_an_ste_beyond_the_output_size_is_f_ste_fetch_with_the_address_cut_to_that_size() -> None:
    software = Software(oas_bits=36).start(strtab={"log2size": 12, "split": 6, "fmt": 1})
    software.store(STRTAB, L1Std(span=7, l2ptr=0x90_0000_1000))
    software.refused(record(STE_FETCH, 1, fetchaddr=0x1040), sid=1)


# --- the CD table --------------------------------------------------------------------------------------------------

LEAF = 0x510_0000
LINEAR, LEAF_4K, LEAF_64K = 0, 1, 2


def place_cd(world: World, fmt: int, s1cdmax: int, index: int) -> None:
    """Write a legal CD at an index of a CD table, with the level 1 descriptor above it."""
    split = {LEAF_4K: 6, LEAF_64K: 10}.get(fmt)
    if split is None or s1cdmax == 0:
        world.cd(index)
        return
    world.store(CDTAB + (index >> split) * 8, L1Cd(v=1, l2ptr=LEAF))
    world.store(LEAF + (index & (1 << split) - 1) * 64, Cd(**world.cd_fields()))


def cd_world(fmt: int, s1cdmax: int, **more: int) -> World:
    world = World()
    world.stream(S1, **{"s1fmt": fmt, "s1cdmax": s1cdmax, "s1dss": 0} | more)
    return world


@pytest.mark.parametrize("fmt", [LEAF_4K, LEAF_64K])
@pytest.mark.parametrize("s1cdmax", range(21))
def test_a_two_level_cd_table_is_walked_to_its_last_substream(fmt: int, s1cdmax: int) -> None:
    world = cd_world(fmt, s1cdmax)
    last = (1 << s1cdmax) - 1
    place_cd(world, fmt, s1cdmax, last)
    if s1cdmax == 0:
        world.passes(PA)
        world.refused(record(BAD_SUBSTREAMID, ssid=0, ssv=0), ssid=0)
        return
    world.passes(PA, ssid=last)
    if last < (1 << 20) - 1:
        world.refused(record(BAD_SUBSTREAMID, ssid=last + 1, ssv=0), ssid=last + 1)


@pytest.mark.parametrize("fmt", [LINEAR, 3])
@pytest.mark.parametrize("s1cdmax", range(21))
def test_a_linear_cd_table_is_indexed_to_its_last_substream(fmt: int, s1cdmax: int) -> None:
    world = World()
    table = 0x8000_0000
    world.stream(S1, s1contextptr=table, s1fmt=fmt, s1cdmax=s1cdmax, s1dss=0)
    last = (1 << s1cdmax) - 1
    world.store(table + last * 64, Cd(**world.cd_fields()))
    world.passes(PA, ssid=last if s1cdmax else None)
    if 0 < s1cdmax < 20:
        world.refused(record(BAD_SUBSTREAMID, ssid=last + 1, ssv=0), ssid=last + 1)


@pytest.mark.parametrize(
    ("fmt", "s1cdmax", "alignment"), [(LINEAR, 4, 1024), (LEAF_4K, 12, 512), (LEAF_4K, 8, 64), (LEAF_64K, 15, 256)]
)
def test_a_cd_table_counts_as_aligned_to_its_size(fmt: int, s1cdmax: int, alignment: int) -> None:
    world = cd_world(fmt, s1cdmax, s1contextptr=CDTAB + alignment - 64)
    place_cd(world, fmt, s1cdmax, 1)
    world.passes(PA, ssid=1)


@pytest.mark.parametrize(("fmt", "size"), [(LEAF_4K, 0x1000), (LEAF_64K, 0x10000)])
def test_a_leaf_counts_as_aligned_to_its_size(fmt: int, size: int) -> None:
    world = cd_world(fmt, 12)
    world.store(CDTAB, L1Cd(v=1, l2ptr=LEAF + size - 0x1000))
    world.store(LEAF + 5 * 64, Cd(**world.cd_fields()))
    world.passes(PA, ssid=5)


def test_an_invalid_l1cd_is_c_bad_substreamid() -> None:
    world = cd_world(LEAF_64K, 20, s1dss=2)
    place_cd(world, LEAF_64K, 20, 0x400)
    world.passes(PA, ssid=0x400)
    world.refused(record(BAD_SUBSTREAMID, ssid=0x800, ssv=0), ssid=0x800)
    world.refused(record(BAD_SUBSTREAMID))


def test_a_leaf_beyond_the_output_size_is_c_bad_substreamid() -> None:
    world = cd_world(LEAF_4K, 8)
    world.store(CDTAB, L1Cd(v=1, l2ptr=BIT48))
    world.refused(record(BAD_SUBSTREAMID, ssid=5, ssv=0), ssid=5)
    world.store(CDTAB + 8, L1Cd(v=1, l2ptr=BIT48 - 0x1000))
    world.refused(record(BAD_CD, ssid=65), ssid=65)


@pytest.mark.parametrize("ssid", [None, 0, 3])
def test_a_cd_that_cannot_be_read_is_f_cd_fetch(ssid: int | None) -> None:
    world = cd_world(LINEAR, 4, s1dss=0 if ssid == 0 else 2)
    place = CDTAB + 64 * (ssid or 0)
    world.memory.poison(place, 1)
    assert world.refused(record(CD_FETCH, ssid=ssid, fetchaddr=place), ssid=ssid).completion is Completion.ABORT


def test_an_l1cd_that_cannot_be_read_is_f_cd_fetch() -> None:
    world = cd_world(LEAF_4K, 12)
    world.memory.poison(CDTAB + 8, 8)
    world.refused(record(CD_FETCH, ssid=100, fetchaddr=CDTAB + 8), ssid=100)


# --- which CD ------------------------------------------------------------------------------------------------------

TERMINATE, S1_BYPASS, SSID0, RESERVED = range(4)
S1DSS_TABLE = [
    # S1CDMax, S1DSS, SubstreamID, what happens: a CD's index, "bypass", or an event
    *((0, dss, None, 0) for dss in range(4)),
    *((0, dss, ssid, BAD_SUBSTREAMID) for dss in range(4) for ssid in (0, 1)),
    *((3, dss, ssid, ssid) for dss in range(4) for ssid in (1, 7)),
    *((3, dss, 8, BAD_SUBSTREAMID) for dss in range(4)),
    *((3, dss, 0xF_FFFF, BAD_SUBSTREAMID) for dss in range(4)),
    (3, TERMINATE, None, STREAM_DISABLED),
    (3, TERMINATE, 0, 0),
    (3, S1_BYPASS, None, "bypass"),
    (3, S1_BYPASS, 0, 0),
    (3, SSID0, None, 0),
    (3, SSID0, 0, STREAM_DISABLED),
    (3, RESERVED, None, STREAM_DISABLED),
    (3, RESERVED, 0, 0),
]


@pytest.mark.parametrize("config", [S1, NESTED])
@pytest.mark.parametrize(("s1cdmax", "s1dss", "ssid", "expected"), S1DSS_TABLE)
def test_which_cd_serves_a_transaction(
    config: Config, s1cdmax: int, s1dss: int, ssid: int | None, expected: int | str
) -> None:
    world = World()
    world.stream(config, s1cdmax=s1cdmax, s1dss=s1dss)
    if expected == "bypass":
        world.passes(VA, ssid=ssid)
    elif ssid is not None and expected == BAD_SUBSTREAMID:
        world.refused(record(BAD_SUBSTREAMID, ssid=ssid, ssv=0), ssid=ssid)
    elif expected == STREAM_DISABLED:
        world.refused(record(STREAM_DISABLED), ssid=ssid)
    else:
        world.refused(record(BAD_CD, ssid=ssid), ssid=ssid)
        world = World()
        world.stream(config, s1cdmax=s1cdmax, s1dss=s1dss)
        world.cd(int(expected))
        world.passes(PA, ssid=ssid)


@pytest.mark.parametrize("config", [BYPASS, S2])
@pytest.mark.parametrize("ssid", [0, 1, 0xF_FFFF])
def test_a_substreamid_without_stage_1_is_refused(config: Config, ssid: int) -> None:
    world = World()
    world.stream(config, s1cdmax=20, s1dss=1)
    world.refused(record(BAD_SUBSTREAMID, ssid=ssid, ssv=0), ssid=ssid)
    world.passes(VA)


def test_an_smmu_without_substreams_has_one_cd_and_refuses_substreamids() -> None:
    world = World(ssid_bits=0)
    world.stream(S1, s1cdmax=5, s1fmt=2, s1dss=0)
    world.cd()
    world.passes(PA)
    world.refused(record(BAD_SUBSTREAMID, ssid=1, ssv=0), ssid=1)


# --- order ---------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """A nested stream with substreams and a read of its SSID 1; each wrong spoils it in one way."""

    strtab: dict[str, int] = field(default_factory=lambda: {"log2size": 8})
    ste: dict[str, int] = field(default_factory=lambda: {"s1cdmax": 4, "s1dss": 2})
    cd: dict[str, int] = field(default_factory=dict)
    leaf: int = S1_ALL
    ssid: int = 1
    unmapped: list[str] = field(default_factory=list)
    poisoned: list[str] = field(default_factory=list)
    level_1: int | None = None

    def places(self, world: World) -> dict[str, int]:
        return {"ste": STRTAB + SID * 64, "cd": CDTAB + self.ssid * 64, "root": world.stage1.root, "output": PA}

    def run(self) -> list[bytes]:
        world = World(start={"strtab": self.strtab})
        places = self.places(world)
        world.stream(NESTED, **self.ste)
        world.cd(self.ssid, **self.cd)
        world.stage1.map(VA, PA, self.leaf)
        if self.level_1 is not None:
            world.stage1.put(VA, self.level_1, level=1)
        for name in self.unmapped:
            world.stage2.put(places[name], 0, level=2)
        for name in self.poisoned:
            world.memory.poison(places[name], 8)
        assert isinstance(world.go(self.ssid), Terminated)
        return world.events()


def event_of(plan: Plan, code: int, **fields: int) -> bytes:
    """Return the record of a translation-related event of the plan's read."""
    return fault(code, plan.ssid, **fields)


ROOT = World().stage1.root
LEVEL_0 = ROOT + Tables.index(VA, 0) * 8
WRONGS: list[tuple[str, Callable[[Plan], Any], Callable[[Plan], list[bytes]]]] = [
    ("StreamID", lambda p: p.strtab.update(log2size=2), lambda p: [record(BAD_STREAMID, ssid=p.ssid)]),
    (
        "STE fetch",
        lambda p: p.poisoned.append("ste"),
        lambda p: [record(STE_FETCH, ssid=p.ssid, fetchaddr=STRTAB + SID * 64)],
    ),
    ("STE", lambda p: p.ste.update(v=0), lambda p: [record(BAD_STE, ssid=p.ssid)]),
    ("abort", lambda p: p.ste.update(config=0), lambda p: []),
    ("SubstreamID", lambda p: setattr(p, "ssid", 16), lambda p: [record(BAD_SUBSTREAMID, ssid=16, ssv=0)]),
    ("S1DSS", lambda p: setattr(p, "ssid", 0), lambda p: [record(STREAM_DISABLED)]),
    (
        "IPA of the CD",
        lambda p: p.unmapped.append("cd"),
        lambda p: [event_of(p, TRANSLATION, s2=1, class_=CLASS_CD, ipa=CDTAB)],
    ),
    (
        "CD fetch",
        lambda p: p.poisoned.append("cd"),
        lambda p: [record(CD_FETCH, ssid=p.ssid, fetchaddr=CDTAB + p.ssid * 64)],
    ),
    ("CD", lambda p: p.cd.update(aa64=0), lambda p: [record(BAD_CD, ssid=p.ssid)]),
    ("range", lambda p: p.cd.update(t0sz=39), lambda p: [event_of(p, TRANSLATION)]),
    (
        "IPA of a table",
        lambda p: p.unmapped.append("root"),
        lambda p: [event_of(p, TRANSLATION, s2=1, class_=CLASS_TT, ipa=ROOT)],
    ),
    (
        "table fetch",
        lambda p: p.poisoned.append("root"),
        lambda p: [event_of(p, WALK_EABT, class_=CLASS_TT, fetchaddr=LEVEL_0)],
    ),
    ("descriptor", lambda p: setattr(p, "level_1", 0), lambda p: [event_of(p, TRANSLATION)]),
    ("access flag", lambda p: setattr(p, "leaf", p.leaf & ~AF), lambda p: [event_of(p, ACCESS)]),
    ("permission", lambda p: setattr(p, "leaf", p.leaf & ~USER), lambda p: [event_of(p, PERMISSION)]),
    (
        "IPA of the output",
        lambda p: p.unmapped.append("output"),
        lambda p: [event_of(p, TRANSLATION, s2=1, ipa=PA & -4096)],
    ),
]
"""Name, how to spoil the plan, and what that alone leads to; in the order of the architecture's checks."""
ONE_SSID = {"SubstreamID", "S1DSS"}


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda wrong: wrong[0])
def test_each_wrong_alone_has_its_event(wrong: Any) -> None:
    plan = Plan()
    wrong[1](plan)
    assert plan.run() == wrong[2](plan)


PAIRS = [(a, b) for a, b in combinations(WRONGS, 2) if {a[0], b[0]} != ONE_SSID]


@pytest.mark.parametrize(("earlier", "later"), PAIRS, ids=lambda wrong: wrong[0])
def test_of_two_wrongs_the_earlier_check_wins(earlier: Any, later: Any) -> None:
    plan = Plan()
    later[1](plan)
    earlier[1](plan)
    assert plan.run() == earlier[2](plan)


def test_an_unspoiled_plan_passes() -> None:
    world = World()
    world.stream(NESTED, s1cdmax=4, s1dss=2)
    world.cd(1)
    assert isinstance(world.passes(PA, ssid=1), Translated)

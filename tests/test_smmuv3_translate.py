"""Transactions through stage 1, stage 2 and both: outputs, exact event records, fault models, stalls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pasidlab.hw.pagetable.contract import Rights
from pasidlab.hw.pagetable.vmsa import Granule
from pasidlab.hw.smmuv3.commands import CfgiSte, Resume, StallTerm, TlbiNsnhAll
from pasidlab.hw.smmuv3.features import StallModel
from pasidlab.hw.smmuv3.registers import Gbpa, Offset
from pasidlab.hw.smmuv3.request import Completion, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd
from pasidlab.hw.smmuv3.target import ResumeAction
from pasidlab.hw.transaction import Ats, Operation, Transferred, Translated
from tests.smmuv3_hardware import (
    ACCESS,
    ADDR_SIZE,
    AF,
    BLOCK,
    CD_FETCH,
    CDTAB,
    CLASS_CD,
    CLASS_IN,
    CLASS_TT,
    NG,
    PA,
    PERMISSION,
    READ_ONLY,
    S1_ALL,
    S2_ALL,
    S2_NORMAL,
    S2_READ,
    S2_WRITE,
    SID,
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
from tests.tables import FIRST_TABLE, ROOT, SETUPS, Setup

S1, S2, NESTED, BYPASS = Config.STAGE_1, Config.STAGE_2, Config.NESTED, Config.BYPASS
OFFSET = 0x40_0000_0000
BIT48 = 1 << 48
UXN, PXN, DBM = 1 << 54, 1 << 53, 1 << 51
IPA = PA & -4096


def stage1_world(cd: dict[str, int] | None = None, ste: dict[str, int] | None = None, **more: Any) -> World:
    world = World(**more)
    world.stream(S1, **(ste or {}))
    world.cd(**(cd or {}))
    return world


def stage2_world(**more: Any) -> World:
    """Return a world whose stage 2 maps an IPA at VA, with an offset."""
    world = World(offset=OFFSET)
    world.stream(S2, **more)
    return world


def nested_world(ste: dict[str, int] | None = None, cd: dict[str, int] | None = None, **features: Any) -> World:
    world = World(offset=OFFSET, **features)
    world.stream(NESTED, **(ste or {}))
    world.guest_cd(**(cd or {}))
    return world


# --- the SMMU switched off -----------------------------------------------------------------------------------------


def test_after_reset_everything_passes_untranslated() -> None:
    software = Software()
    software.passes(VA)
    software.passes(VA, ssid=3, sid=0xFFFF_FFFF, write=True)


def test_gbpa_abort_aborts_everything_in_silence() -> None:
    software = Software().start(smmuen=0)
    software.write(Offset.GBPA, Gbpa(abort=1))
    software.passes(VA)
    software.write(Offset.GBPA, Gbpa(abort=1, update=1))
    assert software.refused().completion is Completion.ABORT


@pytest.mark.parametrize("oas_bits", [32, 40, 48])
def test_an_address_beyond_the_output_size_is_aborted_in_silence_while_off(oas_bits: int) -> None:
    software = Software(oas_bits=oas_bits).start(smmuen=0)
    software.passes((1 << oas_bits) - 1, address=(1 << oas_bits) - 1)
    assert software.refused(address=1 << oas_bits).completion is Completion.ABORT


def test_gbpa_does_not_count_once_the_smmu_is_on() -> None:
    software = Software().start(smmuen=0)
    software.write(Offset.GBPA, Gbpa(abort=1, update=1))
    software.enable(smmuen=1)
    software.ste(SID, v=1, config=BYPASS)
    software.passes(VA)


# --- no stage 1 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oas_bits", [32, 44, 48])
@pytest.mark.parametrize("config", [BYPASS, S2, S1, NESTED], ids=lambda config: config.name)
def test_without_stage_1_an_address_beyond_the_output_size_is_a_stage_1_address_size_fault(
    config: Config, oas_bits: int
) -> None:
    world = World(oas_bits=oas_bits)
    fields: dict[str, int] = {"s1cdmax": 3, "s1dss": 1} if config & 1 else {}
    world.stream(config, **fields | {"s2t0sz": max(20, 64 - oas_bits), "s2sl0": 1 if oas_bits == 32 else 2})
    address = 1 << oas_bits | 0x123
    outcome = world.refused(fault(ADDR_SIZE, address=address), address=address)
    assert outcome.completion is Completion.ABORT
    write = record(ADDR_SIZE, pnu=1, class_=CLASS_IN, inputaddr=(1 << 64) - 1)
    world.refused(write, address=(1 << 64) - 1, write=True, privileged=True)


def test_an_address_size_fault_of_a_bypassed_stage_1_never_stalls() -> None:
    world = stage2_world(s2s=1, s2r=0)
    world.refused(fault(ADDR_SIZE, address=BIT48), address=BIT48)


@pytest.mark.parametrize("address", [0, 1, VA, BIT48 - 1])
def test_bypass_changes_nothing(address: int) -> None:
    world = World()
    world.stream(BYPASS)
    outcome = world.passes(address, address=address, write=True)
    assert isinstance(outcome, Translated)
    assert outcome.rights == Rights(63)


def test_s1dss_bypass_goes_on_to_stage_2() -> None:
    world = World(offset=OFFSET)
    world.stream(NESTED, s1cdmax=3, s1dss=1)
    world.passes(VA + OFFSET)
    world.stage2.put(VA, 0, level=1)
    world.stream(NESTED, s1cdmax=3, s1dss=1, sid=SID + 1, s2vmid=9)
    world.refused(record(TRANSLATION, SID + 1, rnw=1, s2=1, class_=CLASS_IN, inputaddr=VA, ipa=VA & -4096), sid=SID + 1)


# --- stage 1 -------------------------------------------------------------------------------------------------------


def test_stage_1_translates_by_the_low_half() -> None:
    world = stage1_world()
    outcome = world.passes(PA)
    assert isinstance(outcome, Translated)
    assert outcome.lg2 == 12
    world.refused(fault(TRANSLATION, address=VA + 0x1000), address=VA + 0x1000)


HIGH = 0xFFFF_0000_4000_5678


def test_stage_1_translates_by_the_high_half() -> None:
    world = World()
    high = Tables(world)
    high.map(HIGH, PA + 0x1000, S1_ALL)
    world.stream(S1)
    world.cd(epd1=0, tg1=2, t1sz=16, ttb1=high.root)
    world.passes(PA + 0x1000, address=HIGH)
    world.passes(PA)
    world.cd(1, epd0=1, epd1=0, tg1=2, t1sz=16, ttb1=high.root)
    world.stream(S1, sid=SID + 1, s1contextptr=CDTAB + 64)
    world.passes(PA + 0x1000, address=HIGH, sid=SID + 1)


@pytest.mark.parametrize(
    ("cd", "address"),
    [
        ({}, BIT48),
        ({}, HIGH),
        ({"t0sz": 25}, 1 << 39),
        ({"t0sz": 39}, 1 << 25),
        ({}, 0x00FF_0000_4000_5678),
        ({}, 0x1200_0000_4000_5678),
        ({"epd0": 1}, VA),
        ({"tbi0": 1}, 0x5500_0000_4000_5678 | BIT48),
        ({"epd1": 0, "t1sz": 25, "tg1": 2}, HIGH),
    ],
)
def test_an_address_outside_of_both_halves_is_a_translation_fault(cd: dict[str, int], address: int) -> None:
    world = stage1_world(cd)
    world.refused(fault(TRANSLATION, address=address), address=address)


def test_a_tagged_address_is_ignored_with_tbi_but_recorded_as_it_came() -> None:
    tagged = 0xA5 << 56
    world = stage1_world({"tbi0": 1})
    world.passes(PA, address=tagged | VA)
    unmapped = tagged | VA + 0x1000
    world.refused(fault(TRANSLATION, address=unmapped), address=unmapped)
    world = stage1_world()
    world.refused(fault(TRANSLATION, address=tagged | VA), address=tagged | VA)


def test_a_tagged_address_of_the_high_half_needs_tbi1() -> None:
    tagged = HIGH ^ 0x3C << 56
    for tbi1 in (0, 1):
        world = World()
        world.stage1.map(HIGH, PA, S1_ALL)
        world.stream(S1)
        world.cd(epd1=0, tg1=2, t1sz=16, ttb1=world.stage1.root, tbi1=tbi1, tbi0=1 - tbi1)
        if tbi1:
            world.passes(PA, address=tagged)
        else:
            world.refused(fault(TRANSLATION, address=tagged), address=tagged)


@pytest.mark.parametrize(("level", "lg2"), [(1, 30), (2, 21), (3, 12)])
def test_a_block_keeps_the_address_within_it(level: int, lg2: int) -> None:
    world = stage1_world()
    base = 0x80_0000_0000
    world.stage1.map(base, 0x40_0000_0000, S1_ALL, level)
    inside = (1 << lg2) - 0x123
    outcome = world.passes(0x40_0000_0000 + inside, address=base + inside)
    assert isinstance(outcome, Translated)
    assert outcome.lg2 == lg2


def test_a_contiguous_run_is_one_translation() -> None:
    world = stage1_world()
    for page in range(16):
        world.stage1.map(0x1000_0000 + page * 4096, 0x2000_0000 + page * 4096, S1_ALL | 1 << 52)
    outcome = world.passes(0x2000_0000 + 0x3456, address=0x1000_3456)
    assert isinstance(outcome, Translated)
    assert outcome.lg2 == 16


CODE_OF = {Granule.K4: 0, Granule.K64: 1, Granule.K16: 2}
CODE1_OF = {Granule.K4: 2, Granule.K64: 3, Granule.K16: 1}
HOME = 0x123_4567_0000


def place_setup(setup: Setup, software: Software) -> int:
    """Map the sample address of a setup in a software, and return the output."""
    placed = replace(setup, memory=software.memory, tables={}, next_table=FIRST_TABLE)
    placed.map(setup.sample, HOME)
    return HOME | setup.sample & (1 << setup.granule) - 1


@pytest.mark.parametrize("setup", [s for s in SETUPS if s.stage == 1], ids=lambda setup: setup.name)
def test_stage_1_translates_with_every_granule_and_size(setup: Setup) -> None:
    world = World(vax=1, stt=True)
    world.stream(S1)
    if setup.high:
        world.cd(epd0=1, epd1=0, t1sz=setup.tsz, tg1=CODE1_OF[setup.granule], ttb1=ROOT)
    else:
        world.cd(t0sz=setup.tsz, tg0=CODE_OF[setup.granule], ttb0=ROOT)
    world.passes(place_setup(setup, world), address=setup.address(setup.sample))


@pytest.mark.parametrize("setup", [s for s in SETUPS if s.stage == 2], ids=lambda setup: setup.name)
def test_stage_2_translates_with_every_granule_and_size(setup: Setup) -> None:
    world = World(stt=True, oas_bits=52)
    world.stream(S2, s2t0sz=setup.tsz, s2tg=CODE_OF[setup.granule], s2sl0=setup.sl0, s2ttb=ROOT)
    world.passes(place_setup(setup, world), address=setup.sample)
    beyond = 1 << 64 - setup.tsz
    if not beyond >> 52:
        world.refused(fault(TRANSLATION, s2=1, address=beyond, ipa=beyond), address=beyond)


@pytest.mark.parametrize(("ips", "bits"), list(enumerate((32, 36, 40, 42, 44, 48, 48, 48))))
def test_an_output_beyond_ips_is_an_address_size_fault(ips: int, bits: int) -> None:
    world = stage1_world({"ips": ips})
    world.stage1.map(VA, (1 << bits) - 4096, S1_ALL)
    world.passes((1 << bits) - 4096 | 0x678)
    if bits < 48:
        world.stage1.map(VA + 4096, 1 << bits, S1_ALL)
        world.refused(fault(ADDR_SIZE, address=VA + 4096), address=VA + 4096)
        world.stage1.put(VA + (1 << 39), 1 << bits | 3, level=0)
        world.refused(fault(ADDR_SIZE, address=VA + (1 << 39)), address=VA + (1 << 39))


def test_ips_counts_no_more_than_the_output_size() -> None:
    world = stage1_world({"ips": 7}, oas_bits=40)
    world.stage1.map(VA, 1 << 40, S1_ALL)
    world.refused(fault(ADDR_SIZE))


@pytest.mark.parametrize("level", range(4))
def test_an_abort_of_a_table_is_f_walk_eabt_of_that_entry(level: int) -> None:
    world = stage1_world({"a": 0, "r": 0})
    place = world.stage1.entry(VA, level)
    world.memory.poison(place, 8)
    outcome = world.refused(fault(WALK_EABT, class_=CLASS_TT, fetchaddr=place))
    assert outcome.completion is Completion.ABORT


def test_walk_aborts_never_stall() -> None:
    world = stage1_world({"s": 1})
    world.memory.poison(world.stage1.root, 4096)
    place = world.stage1.entry(VA, 0)
    assert isinstance(world.refused(fault(WALK_EABT, class_=CLASS_TT, fetchaddr=place)), Terminated)


# --- EL2 -----------------------------------------------------------------------------------------------------------


def test_el2_has_one_privilege_and_one_half() -> None:
    world = stage1_world({"epd0": 1}, {"strw": 2}, hyp=True)
    world.stage1.map(VA, PA, AF | PXN)
    for privileged in (False, True):
        world.passes(PA, privileged=privileged, write=True)
        world.passes(PA, privileged=privileged, instruction=True)
    world.refused(fault(TRANSLATION, address=HIGH), address=HIGH)


def test_el2_with_e2h_tells_privileges_apart() -> None:
    world = stage1_world({}, {"strw": 2}, hyp=True, start={"e2h": 1})
    world.stage1.map(VA, PA, AF | NG)
    world.passes(PA, privileged=True)
    world.refused(fault(PERMISSION))


# --- permissions and flags -----------------------------------------------------------------------------------------

FLAGS = [(w, p, i) for w in (False, True) for p in (False, True) for i in (False, True)]


@pytest.mark.parametrize(("write", "privileged", "instruction"), FLAGS)
@pytest.mark.parametrize("ssid", [None, 6])
def test_a_record_says_who_wanted_what(write: bool, privileged: bool, instruction: bool, ssid: int | None) -> None:
    world = stage1_world({}, {"s1cdmax": 3})
    world.cd(6)
    address = VA + 0x1000
    event = record(
        TRANSLATION,
        ssid=ssid,
        rnw=not write,
        pnu=privileged,
        ind=instruction and not write,
        class_=CLASS_IN,
        inputaddr=address,
    )
    world.refused(event, ssid=ssid, address=address, write=write, privileged=privileged, instruction=instruction)


PERMISSIONS = [
    # leaf attributes; then who may: user read, write, execute, privileged read, write, execute
    (USER, "rwxrw-"),
    (USER | READ_ONLY, "r-xr-x"),
    (0, "--xrwx"),
    (READ_ONLY, "--xr-x"),
    (USER | UXN, "rw-rw-"),
    (USER | READ_ONLY | PXN, "r-xr--"),
    (READ_ONLY | UXN, "---r-x"),
]


@pytest.mark.parametrize(("attributes", "allowed"), PERMISSIONS)
def test_permissions_of_stage_1(attributes: int, allowed: str) -> None:
    world = stage1_world()
    world.stage1.map(VA, PA, AF | NG | attributes)
    for position, letter in enumerate(allowed):
        kind, privileged = "rwx"[position % 3], position > 2
        more: dict[str, Any] = {"write": kind == "w", "instruction": kind == "x", "privileged": privileged}
        if letter == "-":
            event = fault(PERMISSION, rnw=int(kind != "w"), ind=int(kind == "x"), pnu=int(privileged))
            world.refused(event, **more)
        else:
            world.passes(PA, **more)


def test_stage_2_takes_rights_away() -> None:
    world = stage2_world()
    world.stage2.map(VA, VA, AF | S2_READ | S2_NORMAL, level=1)
    world.passes(VA)
    world.refused(fault(PERMISSION, rnw=0, s2=1, ipa=VA & -4096), write=True)


def test_execute_never_of_stage_2_tells_privileges_apart() -> None:
    world = stage2_world()
    world.stage2.map(VA, VA, S2_ALL | 1 << 53, level=1)
    world.passes(VA, instruction=True)
    event = fault(PERMISSION, pnu=1, ind=1, s2=1, ipa=VA & -4096)
    world.refused(event, instruction=True, privileged=True)


OVERRIDES = [
    # PRIVCFG, INSTCFG, then PnU and InD of an unprivileged data read and of a privileged instruction read
    (0, 0, (0, 0), (1, 1)),
    (1, 1, (0, 0), (1, 1)),
    (2, 0, (0, 0), (0, 1)),
    (3, 0, (1, 0), (1, 1)),
    (0, 2, (0, 0), (1, 0)),
    (0, 3, (0, 1), (1, 1)),
    (3, 3, (1, 1), (1, 1)),
    (2, 2, (0, 0), (0, 0)),
]


@pytest.mark.parametrize(("privcfg", "instcfg", "first", "second"), OVERRIDES)
def test_the_ste_overrides_privilege_and_instruction(
    privcfg: int, instcfg: int, first: tuple[int, int], second: tuple[int, int]
) -> None:
    world = stage1_world({}, {"privcfg": privcfg, "instcfg": instcfg}, attr_perms_ovr=True)
    address = VA + 0x1000
    world.refused(fault(TRANSLATION, address=address, pnu=first[0], ind=first[1]), address=address)
    event = fault(TRANSLATION, address=address, pnu=second[0], ind=second[1])
    world.refused(event, address=address, privileged=True, instruction=True)
    event = fault(TRANSLATION, address=address, rnw=0, pnu=first[0])
    world.refused(event, address=address, write=True)


def test_overrides_decide_about_rights() -> None:
    world = stage1_world({}, {"privcfg": 3}, attr_perms_ovr=True)
    world.stage1.map(VA, PA, AF | NG)
    world.passes(PA)


def test_without_overriding_the_fields_are_ignored() -> None:
    world = stage1_world({}, {"privcfg": 3, "instcfg": 3}, attr_perms_ovr=False)
    world.stage1.map(VA, PA, AF | NG)
    world.refused(fault(PERMISSION))


# --- stage 2, and both ---------------------------------------------------------------------------------------------


def test_stage_2_translates_alone() -> None:
    world = stage2_world()
    world.passes(VA + OFFSET)
    world.passes(VA + OFFSET, write=True)


@pytest.mark.parametrize("fields", [{"s2t0sz": 25, "s2sl0": 1}, {"s2t0sz": 33, "s2sl0": 1}])
def test_an_ipa_outside_of_stage_2_is_a_translation_fault(fields: dict[str, int]) -> None:
    world = stage2_world(**fields)
    address = 1 << 64 - fields["s2t0sz"]
    world.refused(fault(TRANSLATION, s2=1, address=address | 0x678, ipa=address), address=address | 0x678)


@pytest.mark.parametrize(("s2ps", "bits"), list(enumerate((32, 36, 40, 42, 44))))
def test_an_output_beyond_s2ps_is_an_address_size_fault(s2ps: int, bits: int) -> None:
    world = World()
    world.stream(S2, s2ps=s2ps)
    world.stage2.map(VA, 1 << bits, S2_ALL, level=1)
    world.refused(fault(ADDR_SIZE, s2=1, ipa=VA & -4096))


def test_both_stages_translate_one_after_the_other() -> None:
    world = nested_world()
    outcome = world.passes(PA + OFFSET)
    assert isinstance(outcome, Translated)
    assert outcome.lg2 == 12
    world.passes(PA + OFFSET, write=True)


def test_a_nested_translation_has_the_smaller_size() -> None:
    world = nested_world()
    world.nested.map(1 << 32, 1 << 30, S1_ALL, level=1)
    outcome = world.passes((1 << 30) + OFFSET + 5, address=(1 << 32) + 5)
    assert isinstance(outcome, Translated)
    assert outcome.lg2 == 30
    world.nested.map(2 << 32, 0, S1_ALL, level=1)
    outcome = world.passes(OFFSET + 5, address=(2 << 32) + 5)
    assert isinstance(outcome, Translated)
    assert outcome.lg2 == 21


STAGE2_FAULTS = [
    # how stage 2 maps the place, which event, and its TTRnW where the place is a stage-1 table
    (0, TRANSLATION, {}),
    (S2_ALL & ~AF, ACCESS, {}),
    (S2_ALL & ~S2_READ, PERMISSION, {"ttrnw": 1}),
    (S2_ALL | 1 << 47, ADDR_SIZE, {}),
]


@pytest.mark.parametrize(("attributes", "code", "extra"), STAGE2_FAULTS)
@pytest.mark.parametrize("ssid", [None, 3])
def test_a_stage_2_fault_under_a_cd_fetch_has_class_cd(
    attributes: int, code: int, extra: dict[str, int], ssid: int | None
) -> None:
    world = nested_world({"s1cdmax": 2, "s2ps": 4})
    world.guest_cd(3)
    world.stage2.map(CDTAB, CDTAB + OFFSET, attributes, level=2)
    if not attributes:
        world.stage2.put(CDTAB, 0, level=2)
    outcome = world.refused(fault(code, ssid, s2=1, class_=CLASS_CD, ipa=CDTAB), ssid=ssid)
    assert outcome.completion is Completion.ABORT


@pytest.mark.parametrize(("attributes", "code", "extra"), STAGE2_FAULTS)
def test_a_stage_2_fault_under_a_stage_1_walk_has_class_tt(attributes: int, code: int, extra: dict[str, int]) -> None:
    world = nested_world({"s2ps": 4})
    place = world.nested.entry(VA, 2)
    for block in range(place & -BLOCK, (place & -BLOCK) + 1):
        world.stage2.map(block, block + OFFSET, attributes, level=2)
        if not attributes:
            world.stage2.put(block, 0, level=2)
    root = world.nested.entry(VA, 0)
    event = fault(code, s2=1, class_=CLASS_TT, ipa=root & -4096, **extra)
    world.refused(event)
    write = fault(code, rnw=0, s2=1, class_=CLASS_TT, ipa=root & -4096, **extra)
    world.refused(write, write=True)


@pytest.mark.parametrize(("attributes", "code", "extra"), STAGE2_FAULTS)
def test_a_stage_2_fault_of_the_output_has_class_in(attributes: int, code: int, extra: dict[str, int]) -> None:
    world = nested_world({"s2ps": 4})
    world.stage2.map(PA, PA + OFFSET, attributes, level=2)
    if not attributes:
        world.stage2.put(PA, 0, level=2)
    world.refused(fault(code, s2=1, ipa=IPA))


def test_each_walked_level_reports_the_ipa_of_its_own_table() -> None:
    world = nested_world()
    table = 0x8000_0000
    world.nested.put(VA, table | 3, level=1)
    world.stage2.put(table, 0, level=1)
    world.refused(fault(TRANSLATION, s2=1, class_=CLASS_TT, ipa=table))


def test_aborts_of_stage_2_walks_name_the_class_and_the_stage_2_entry() -> None:
    for place, class_ in ((CDTAB, CLASS_CD), (None, CLASS_TT), (PA, CLASS_IN)):
        world = nested_world()
        entry = world.stage2.entry(world.nested.root if place is None else place, 2)
        world.memory.poison(entry, 8)
        world.refused(fault(WALK_EABT, s2=1, class_=class_, fetchaddr=entry))


def test_an_abort_of_a_stage_1_table_behind_stage_2_is_a_stage_1_abort_at_the_physical_address() -> None:
    world = nested_world()
    place = world.nested.entry(VA, 1) + OFFSET
    world.memory.poison(place, 8)
    world.refused(fault(WALK_EABT, class_=CLASS_TT, fetchaddr=place))


def test_a_cd_behind_stage_2_that_cannot_be_read_is_f_cd_fetch_at_the_physical_address() -> None:
    world = nested_world()
    world.memory.poison(CDTAB + OFFSET, 64)
    world.refused(record(CD_FETCH, fetchaddr=CDTAB + OFFSET))


def test_a_two_level_cd_table_behind_stage_2_is_translated_at_both_levels() -> None:
    leaf = 3 * BLOCK
    world = nested_world({"s1fmt": 2, "s1cdmax": 12})
    world.store(CDTAB + OFFSET + 8, L1Cd(v=1, l2ptr=leaf))
    world.store(leaf + OFFSET + 5 * 64, Cd(**world.cd_fields() | {"ttb0": world.nested.root}))
    ssid = 1 << 10 | 5
    world.passes(PA + OFFSET, ssid=ssid)
    world.command(CfgiSte.make(sid=SID), TlbiNsnhAll.make())
    world.stage2.put(leaf, 0, level=2)
    world.refused(fault(TRANSLATION, ssid, s2=1, class_=CLASS_CD, ipa=leaf), ssid=ssid)
    world.command(CfgiSte.make(sid=SID))
    world.stage2.put(CDTAB, 0, level=2)
    world.refused(fault(TRANSLATION, ssid, s2=1, class_=CLASS_CD, ipa=CDTAB), ssid=ssid)
    world.stage2.map(CDTAB, CDTAB + OFFSET, S2_ALL, level=2)
    world.memory.poison(CDTAB + OFFSET + 8, 8)
    world.refused(record(CD_FETCH, ssid=ssid, fetchaddr=CDTAB + OFFSET + 8), ssid=ssid)


@pytest.mark.parametrize(("place", "class_", "extra"), [(CDTAB, CLASS_CD, {}), (None, CLASS_TT, {"ttrnw": 1})])
def test_s2ptw_keeps_cds_and_tables_out_of_device_memory(place: int | None, class_: int, extra: dict[str, int]) -> None:
    for ptw in (0, 1):
        world = nested_world({"s2ptw": ptw})
        at = world.nested.root if place is None else place
        world.stage2.map(at, at + OFFSET, S2_ALL & ~S2_NORMAL, level=2)
        if ptw:
            ipa = world.nested.entry(VA, 0) & -4096 if place is None else CDTAB
            world.refused(fault(PERMISSION, s2=1, class_=class_, ipa=ipa, **extra))
        else:
            world.passes(PA + OFFSET)


def test_stage_1_faults_of_a_nested_stream_have_no_ipa() -> None:
    world = nested_world()
    world.nested.map(VA, PA, AF | NG)
    world.refused(fault(PERMISSION))
    world.nested.map(VA, 1 << 47, S1_ALL)
    world.guest_cd(ips=4)
    world.stream(NESTED, sid=SID + 1)
    event = record(ADDR_SIZE, SID + 1, rnw=1, class_=CLASS_IN, inputaddr=VA)
    world.refused(event, sid=SID + 1)


def test_hardware_updates_of_a_table_that_stage_2_forbids_are_write_faults() -> None:
    world = nested_world({}, {"ha": 1}, httu=2)
    world.nested.map(VA, PA, S1_ALL & ~AF)
    place = world.nested.root
    world.stage2.map(place, place + OFFSET, S2_ALL & ~S2_WRITE, level=2)
    leaf = world.nested.entry(VA, 3)
    world.refused(fault(PERMISSION, s2=1, class_=CLASS_TT, ttrnw=0, ipa=leaf & -4096))


def test_hardware_sets_access_flags_and_dirty_state() -> None:
    world = stage1_world({"ha": 1, "hd": 1}, httu=2)
    place = world.stage1.map(VA, PA, USER | NG | READ_ONLY | DBM)
    world.passes(PA)
    assert world.memory.load64(place) == IPA | 3 | USER | NG | READ_ONLY | DBM | AF
    world.passes(PA, write=True)
    assert world.memory.load64(place) == IPA | 3 | USER | NG | DBM | AF


def test_a_clean_page_is_not_made_dirty_by_who_may_not_write() -> None:
    world = stage1_world({"ha": 1, "hd": 1}, httu=2)
    place = world.stage1.map(VA, PA, AF | NG | READ_ONLY | DBM)
    world.refused(fault(PERMISSION, rnw=0), write=True)
    assert world.memory.load64(place) == IPA | 3 | AF | NG | READ_ONLY | DBM


# --- fault models --------------------------------------------------------------------------------------------------

SPOILT = {
    TRANSLATION: 0,
    ADDR_SIZE: 1 << 47 | 3 | S1_ALL,
    ACCESS: IPA | 3 | S1_ALL & ~AF,
    PERMISSION: IPA | 3 | S1_ALL & ~USER,
}


@pytest.mark.parametrize("code", SPOILT)
@pytest.mark.parametrize("ars", range(8))
def test_stage_1_faults_by_a_r_s(code: int, ars: int) -> None:
    a, r, s = ars >> 2 & 1, ars >> 1 & 1, ars & 1
    world = stage1_world({"a": a, "r": r, "s": s, "ips": 4})
    world.stage1.put(VA, SPOILT[code])
    if s:
        outcome = world.refused(fault(code, stall=1, stag=0))
        assert isinstance(outcome, Stalled)
        assert outcome.stag == 0
    else:
        outcome = world.refused(*[fault(code)] * r)
        assert isinstance(outcome, Terminated)
        assert outcome.completion is (Completion.ABORT if a else Completion.RAZ_WI)
        assert (outcome.event is not None) == bool(r)


S2_SPOILT = {TRANSLATION: 0, ADDR_SIZE: 1 << 47 | 1 | S2_ALL, ACCESS: 1 | S2_ALL & ~AF, PERMISSION: 1 | AF | S2_NORMAL}


@pytest.mark.parametrize("config", [S2, NESTED], ids=lambda config: config.name)
@pytest.mark.parametrize("code", S2_SPOILT)
@pytest.mark.parametrize("s2r", [0, 1])
@pytest.mark.parametrize("s2s", [0, 1])
def test_stage_2_faults_by_s2r_and_s2s(config: Config, code: int, s2r: int, s2s: int) -> None:
    world = World(offset=OFFSET)
    world.stream(config, s2r=s2r, s2s=s2s, s2ps=4)
    world.guest_cd(a=0, r=1 - s2r, s=0)
    address, level = (VA, 1) if config is S2 else (PA, 2)
    world.stage2.put(address, S2_SPOILT[code], level=level)
    fields = {"s2": 1, "ipa": address & -4096}
    if s2s:
        assert isinstance(world.refused(fault(code, stall=1, stag=0, **fields)), Stalled)
        return
    outcome = world.refused(*[fault(code, **fields)] * s2r)
    assert isinstance(outcome, Terminated)
    assert outcome.completion is Completion.ABORT


@pytest.mark.parametrize("place", ["cd", "root"])
def test_stage_2_faults_under_configuration_and_walk_stall_by_s2s(place: str) -> None:
    world = nested_world({"s2s": 1})
    at = CDTAB if place == "cd" else world.nested.root
    world.stage2.put(at, 0, level=2)
    ipa = CDTAB if place == "cd" else world.nested.entry(VA, 0) & -4096
    class_ = CLASS_CD if place == "cd" else CLASS_TT
    stalled = world.refused(fault(TRANSLATION, stall=1, s2=1, class_=class_, ipa=ipa))
    assert isinstance(stalled, Stalled)
    world.stage2.map(at, at + OFFSET, S2_ALL, level=2)
    world.command(Resume.make(sid=SID, stag=0, ac=1))
    assert world.smmu.answered(stalled) is ResumeAction.RETRY
    world.passes(PA + OFFSET)


# --- stalls --------------------------------------------------------------------------------------------------------


def stalling_world(**more: Any) -> World:
    return stage1_world({"s": 1}, **more)


def stall(world: World, page: int = 1, **more: Any) -> Stalled:
    outcome = world.go(address=VA + page * 4096, **more)
    assert isinstance(outcome, Stalled)
    return outcome


def stall_record(stag: int, page: int = 1, **fields: int) -> bytes:
    return fault(TRANSLATION, address=VA + page * 4096, stall=1, stag=stag, **fields)


def test_stalled_transactions_have_tags_of_their_own_until_they_are_answered() -> None:
    world = stalling_world()
    waiting = [stall(world, page) for page in (1, 2, 3)]
    assert world.events() == [stall_record(tag, tag + 1) for tag in range(3)]
    assert [world.smmu.answered(one) for one in waiting] == [None] * 3
    world.command(Resume.make(sid=SID, stag=1, ac=1))
    assert [world.smmu.answered(one) for one in waiting] == [None, ResumeAction.RETRY, None]
    assert stall(world, 4).stag == 1
    assert world.events() == [stall_record(1, 4)]


def test_a_tag_is_not_reused_before_its_transaction_is_gone() -> None:
    world = stalling_world()
    first = stall(world)
    world.command(Resume.make(sid=SID, stag=0, ac=1))
    assert stall(world, 2).stag == 1
    assert world.smmu.answered(first) is ResumeAction.RETRY
    assert stall(world, 3).stag == 0


@pytest.mark.parametrize(
    ("features", "ac", "ab", "completion"),
    [
        ({}, 0, 0, Completion.RAZ_WI),
        ({}, 0, 1, Completion.ABORT),
        ({"term_model": True}, 0, 0, Completion.ABORT),
        ({"stall_model": StallModel.STALL_FORCED}, 0, 1, Completion.ABORT),
    ],
)
def test_resume_ends_a_transaction_as_it_says(
    features: dict[str, Any], ac: int, ab: int, completion: Completion
) -> None:
    world = stalling_world(**features)
    waiting = stall(world)
    world.events()
    world.command(Resume.make(sid=SID, stag=0, ac=ac, ab=ab))
    answer = world.smmu.answered(waiting)
    assert isinstance(answer, Terminated)
    assert answer.completion is completion
    assert world.events() == []


@pytest.mark.parametrize("ab", [0, 1])
def test_a_retried_transaction_sees_what_changed_and_may_stall_anew(ab: int) -> None:
    world = stalling_world()
    waiting = stall(world)
    world.events()
    world.command(Resume.make(sid=SID, stag=0, ac=1, ab=ab))
    assert world.smmu.answered(waiting) is ResumeAction.RETRY
    again = world.smmu.translate(waiting.request)
    assert isinstance(again, Stalled)
    assert world.events() == [stall_record(0)]
    world.stage1.map(VA + 4096, PA, S1_ALL)
    world.command(Resume.make(sid=SID, stag=0, ac=1))
    assert world.smmu.answered(again) is ResumeAction.RETRY
    assert isinstance(world.smmu.translate(again.request), Translated)


@pytest.mark.parametrize("resume", [{"sid": SID + 1, "stag": 0}, {"sid": SID, "stag": 1}, {"sid": SID, "stag": 0xFFFF}])
def test_a_resume_that_names_no_stalled_transaction_is_ignored(resume: dict[str, int]) -> None:
    world = stalling_world()
    waiting = stall(world)
    world.command(Resume.make(**resume, ac=1))
    assert world.smmu.answered(waiting) is None


def test_the_first_answer_counts() -> None:
    world = stalling_world()
    waiting = stall(world)
    world.command(Resume.make(sid=SID, stag=0, ab=1), Resume.make(sid=SID, stag=0, ac=1))
    assert isinstance(world.smmu.answered(waiting), Terminated)


def test_stall_term_aborts_what_waits_of_one_stream() -> None:
    world = stalling_world()
    world.stream(S1, sid=SID + 1)
    mine, other = stall(world), stall(world, 2, sid=SID + 1)
    world.command(StallTerm.make(sid=SID))
    answer = world.smmu.answered(mine)
    assert isinstance(answer, Terminated)
    assert answer.completion is Completion.ABORT
    assert world.smmu.answered(other) is None


def test_when_all_tags_are_used_the_next_transaction_waits_without_an_event() -> None:
    world = stalling_world(stall_max=2)
    first = stall(world)
    stall(world, 2)
    third = stall(world, 3)
    assert third.stag is None
    assert world.events() == [stall_record(0, 1), stall_record(1, 2)]
    assert world.smmu.answered(third) is ResumeAction.RETRY
    world.command(Resume.make(sid=SID, stag=0, ac=1))
    assert world.smmu.answered(first) is ResumeAction.RETRY
    assert stall(world, 3).stag == 0
    assert world.events() == [stall_record(0, 3)]


def test_stall_events_are_not_lost_when_the_queue_is_full() -> None:
    world = stalling_world(start={"eventq": 1})
    for page in range(1, 6):
        stall(world, page)
    assert world.events() == [stall_record(page - 1, page) for page in range(1, 6)]
    assert not world.read(Offset.EVENTQ_PROD).ovflg


def test_other_events_are_lost_when_the_queue_is_full() -> None:
    world = stage1_world(start={"eventq": 1})
    for page in range(1, 4):
        world.go(address=VA + page * 4096)
    assert world.read(Offset.EVENTQ_PROD).ovflg
    assert world.events() == [fault(TRANSLATION, address=VA + page * 4096) for page in (1, 2)]


@pytest.mark.parametrize("how", ["stall_term", "smmuen", "resume"])
def test_an_event_that_was_not_written_in_time_is_withdrawn(how: str) -> None:
    world = stalling_world(start={"eventq": 0})
    stall(world, 1)
    late = stall(world, 2)
    if how == "stall_term":
        world.command(StallTerm.make(sid=SID))
    elif how == "smmuen":
        world.enable(smmuen=0)
    else:
        world.command(Resume.make(sid=SID, stag=1, ab=1))
    assert isinstance(world.smmu.answered(late), Terminated)
    assert world.events() == [stall_record(0, 1)]


def test_clearing_smmuen_aborts_every_stalled_transaction() -> None:
    world = stalling_world()
    waiting = [stall(world, page) for page in (1, 2)]
    world.enable(smmuen=0)
    for one in waiting:
        answer = world.smmu.answered(one)
        assert isinstance(answer, Terminated)
        assert answer.completion is Completion.ABORT
    world.enable(smmuen=1)
    assert stall(world, 3).stag == 0


def test_a_stalled_transaction_names_its_substream() -> None:
    world = World()
    world.stream(S1, s1cdmax=4)
    world.cd(9, s=1)
    stalled = world.go(9, VA + 4096, write=True)
    assert isinstance(stalled, Stalled)
    event = record(TRANSLATION, ssid=9, stall=1, class_=CLASS_IN, inputaddr=VA + 4096)
    assert world.events() == [event]


# --- data ----------------------------------------------------------------------------------------------------------


def test_reads_and_writes_land_where_the_tables_say() -> None:
    world = nested_world()
    write = Request(SID, None, VA, Operation.WRITE)
    assert world.smmu.dma_write(write, b"hello") == Transferred(PA + OFFSET, b"hello")
    assert world.memory.load(PA + OFFSET, 5) == b"hello"
    assert world.smmu.dma_read(Request(SID, None, VA), 5) == Transferred(PA + OFFSET, b"hello")


def test_a_transfer_needs_no_word_of_its_direction() -> None:
    world = stage1_world()
    assert world.smmu.dma_write(Request(SID, None, VA), b"hello") == Transferred(PA, b"hello")
    assert world.smmu.dma_read(Request(SID, None, VA, Operation.WRITE), 5) == Transferred(PA, b"hello")
    world.stage1.map(VA, PA, S1_ALL | READ_ONLY)
    world.command(TlbiNsnhAll.make())
    assert isinstance(world.smmu.dma_write(Request(SID, None, VA), b"hello"), Terminated)


@pytest.mark.parametrize(
    "request_", [Request(SID, None, VA | 0xFFE), Request(SID, None, VA, ats=Ats.TRANSLATION_REQUEST)]
)
def test_what_no_bus_carries_is_a_mistake_of_the_caller(request_: Request) -> None:
    world = stage1_world()
    with pytest.raises(ValueError, match="no access within 4096 bytes"):
        world.smmu.dma_write(request_, b"hello")
    with pytest.raises(ValueError, match="no access within 4096 bytes"):
        world.smmu.dma_read(request_, 5)


def test_a_refused_write_writes_nothing() -> None:
    world = stage1_world({"a": 0})
    world.stage1.map(VA, PA, S1_ALL | READ_ONLY)
    outcome = world.smmu.dma_write(Request(SID, None, VA, Operation.WRITE), b"hello")
    assert isinstance(outcome, Terminated)
    assert outcome.completion is Completion.RAZ_WI
    assert world.memory.load(PA, 5) == bytes(5)


@pytest.mark.parametrize("write", [False, True])
def test_an_abort_of_the_memory_behind_is_no_event(write: bool) -> None:
    world = stage1_world()
    world.memory.poison(PA, 4)
    if write:
        outcome: Any = world.smmu.dma_write(Request(SID, None, VA, Operation.WRITE), b"x")
    else:
        outcome = world.smmu.dma_read(Request(SID, None, VA), 1)
    assert isinstance(outcome, Terminated)
    assert outcome.completion is Completion.ABORT
    assert world.events() == []


def test_the_memory_accesses_of_a_translation_are_in_order() -> None:
    world = stage1_world()
    touches: list[Any] = []
    world.smmu.translate(Request(SID, None, VA), touches)
    tables = [world.stage1.entry(VA, level) for level in range(4)]
    assert [touch.address for touch in touches] == [STRTAB + SID * 64, CDTAB, *tables]
    assert [touch.stage for touch in touches] == [0, 0, 1, 1, 1, 1]


def test_an_outcome_does_not_depend_on_the_event_queue() -> None:
    world = stage1_world()
    world.enable(eventqen=0)
    outcome = world.go(address=VA + 4096)
    assert isinstance(outcome, Terminated)
    world.enable(eventqen=1)
    assert world.events() == []


@pytest.mark.parametrize("wrong", [{"sid": 1 << 32}, {"sid": 1, "ssid": 1 << 20}, {"sid": 1, "address": -1}])
def test_a_request_that_no_device_can_send_is_refused_when_it_is_built(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at most 32 bits of sid, 20 of ssid, 64 of address"):
        Request(**wrong)

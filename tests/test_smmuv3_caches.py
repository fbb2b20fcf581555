"""What is cached stays until the right command: a stale translation is visible before it, and gone after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.smmuv3.commands import (
    CFGI_ALL_RANGE,
    CfgiCd,
    CfgiCdAll,
    CfgiSte,
    CfgiSteRange,
    Command,
    PrefetchAddr,
    PrefetchConfig,
    TlbiEl2All,
    TlbiEl2Asid,
    TlbiEl2Va,
    TlbiEl2Vaa,
    TlbiNhAll,
    TlbiNhAsid,
    TlbiNhVa,
    TlbiNhVaa,
    TlbiNsnhAll,
    TlbiS2Ipa,
    TlbiS12Vmall,
)
from pasidlab.hw.smmuv3.request import Request
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, L1Std, Ste
from pasidlab.hw.smmuv3.translate import TLB_HIT, WALKED
from pasidlab.hw.transaction import Translated
from tests.smmuv3_hardware import (
    AF,
    ASID,
    BAD_CD,
    BAD_STE,
    BAD_STREAMID,
    BAD_SUBSTREAMID,
    CDTAB,
    NG,
    PA,
    PERMISSION,
    S1_ALL,
    S2_ALL,
    SID,
    STE_FETCH,
    STRTAB,
    TRANSLATION,
    USER,
    VA,
    VMID,
    Software,
    Tables,
    World,
    fault,
    record,
)

S1, S2, NESTED, BYPASS = Config.STAGE_1, Config.STAGE_2, Config.NESTED, Config.BYPASS
SSID = 3
OTHER_PA = 0x600_0678
PAGE = VA & -4096
IPA = PA & -4096
EVERYTHING = CfgiSteRange.make(range=CFGI_ALL_RANGE)


def substream_world(**more: Any) -> World:
    """Return a world whose streams SID and SID + 1 share a CD table with a CD at 0 and at SSID."""
    world = World(**more)
    for sid in (SID, SID + 1):
        world.stream(S1, sid=sid, s1cdmax=4)
    for index in (0, SSID):
        world.cd(index)
    return world


# --- configuration -------------------------------------------------------------------------------------------------

STE_COMMANDS: list[tuple[Command, bool]] = [
    (CfgiSte.make(sid=SID, leaf=1), True),
    (CfgiSte.make(sid=SID, leaf=0), True),
    (CfgiSteRange.make(sid=SID, range=0), True),
    (CfgiSteRange.make(sid=SID - 1, range=0), True),
    (CfgiSteRange.make(sid=0, range=2), True),
    (CfgiSteRange.make(sid=7, range=2), True),
    (EVERYTHING, True),
    (CfgiSte.make(sid=SID + 1, leaf=0), False),
    (CfgiSte.make(sid=0, leaf=0), False),
    (CfgiSteRange.make(sid=SID + 1, range=0), False),
    (CfgiSteRange.make(sid=8, range=2), False),
    (CfgiCd.make(sid=SID, ssid=0), False),
    (CfgiCdAll.make(sid=SID), False),
    (TlbiNsnhAll.make(), False),
    (TlbiNhAll.make(vmid=0), False),
]


@pytest.mark.parametrize(("command", "reaches"), STE_COMMANDS)
def test_an_ste_stays_until_its_command(command: Command, reaches: bool) -> None:
    world = World()
    world.stream(BYPASS)
    world.passes(VA)
    world.ste(SID, v=0)
    world.passes(VA)
    world.command(command)
    if reaches:
        world.refused(record(BAD_STE))
    else:
        world.passes(VA)


CD_COMMANDS: list[tuple[Command, bool]] = [
    (CfgiCd.make(sid=SID, ssid=SSID, leaf=1), True),
    (CfgiCd.make(sid=SID, ssid=SSID, leaf=0), True),
    (CfgiCdAll.make(sid=SID), True),
    (CfgiSte.make(sid=SID, leaf=1), True),
    (CfgiSteRange.make(sid=SID, range=1), True),
    (EVERYTHING, True),
    (CfgiCd.make(sid=SID, ssid=0, leaf=0), False),
    (CfgiCd.make(sid=SID, ssid=SSID + 1, leaf=0), False),
    (CfgiCd.make(sid=SID + 1, ssid=SSID), False),
    (CfgiCdAll.make(sid=SID + 1), False),
    (CfgiSte.make(sid=SID + 1), False),
    (CfgiSteRange.make(sid=8, range=2), False),
    (TlbiNsnhAll.make(), False),
    (TlbiNhAsid.make(asid=ASID), False),
]


@pytest.mark.parametrize(("command", "reaches"), CD_COMMANDS)
def test_a_cd_stays_until_its_command(command: Command, reaches: bool) -> None:
    world = substream_world()
    world.passes(PA, ssid=SSID)
    world.cd(SSID, v=0)
    world.passes(PA, ssid=SSID)
    world.command(command)
    if reaches:
        world.refused(record(BAD_CD, ssid=SSID), ssid=SSID)
    else:
        world.passes(PA, ssid=SSID)


def test_a_cd_is_cached_apart_for_each_stream() -> None:
    world = substream_world()
    for sid in (SID, SID + 1):
        world.passes(PA, ssid=SSID, sid=sid)
    world.cd(SSID, v=0)
    world.command(CfgiCd.make(sid=SID, ssid=SSID, leaf=1))
    world.refused(record(BAD_CD, ssid=SSID), ssid=SSID)
    world.passes(PA, ssid=SSID, sid=SID + 1)


@pytest.mark.parametrize("ssid", [None, SSID])
def test_the_cd_of_transactions_without_substreamid_is_that_of_index_0(ssid: int | None) -> None:
    world = substream_world()
    world.passes(PA)
    world.cd(0, v=0)
    world.command(CfgiCd.make(sid=SID, ssid=ssid or 0, leaf=1))
    if ssid is None:
        world.refused(record(BAD_CD))
    else:
        world.passes(PA)


def test_an_illegal_ste_and_cd_stay_too() -> None:
    world = World()
    world.stream(S1, strw=0, v=0)
    world.cd(v=0)
    world.refused(record(BAD_STE))
    world.stream(S1)
    world.refused(record(BAD_STE))
    world.command(CfgiSte.make(sid=SID, leaf=1))
    world.refused(record(BAD_CD))
    world.cd()
    world.refused(record(BAD_CD))
    world.command(CfgiCd.make(sid=SID, leaf=1))
    world.passes(PA)


def test_a_failed_fetch_is_not_cached() -> None:
    world = World()
    world.stream(BYPASS)
    world.memory.poison(STRTAB + SID * 64, 64)
    world.refused(record(STE_FETCH, fetchaddr=STRTAB + SID * 64))
    world.memory.heal()
    world.passes(VA)


L2 = 0x500_0000


def two_level_software() -> Software:
    software = Software().start(strtab={"log2size": 12, "split": 6, "fmt": 1})
    software.store(STRTAB, L1Std(span=7, l2ptr=L2))
    for sid in (1, 2):
        software.store(L2 + sid * 64, Ste(v=1, config=BYPASS))
    return software


@pytest.mark.parametrize(
    ("command", "reaches"),
    [
        (CfgiSte.make(sid=2, leaf=0), True),
        (CfgiSteRange.make(sid=2, range=0), True),
        (EVERYTHING, True),
        (CfgiSte.make(sid=2, leaf=1), False),
        (CfgiCdAll.make(sid=2), False),
    ],
)
def test_a_level_1_stream_descriptor_stays_until_a_command_without_leaf(command: Command, reaches: bool) -> None:
    software = two_level_software()
    software.passes(VA, sid=1)
    software.store(STRTAB, L1Std(span=0))
    software.command(command)
    if reaches:
        software.refused(record(BAD_STREAMID, 2), sid=2)
    else:
        software.passes(VA, sid=2)


def test_a_level_1_stream_descriptor_without_a_table_is_not_cached() -> None:
    software = two_level_software()
    software.store(STRTAB, L1Std(span=0))
    software.refused(record(BAD_STREAMID, 1), sid=1)
    software.store(STRTAB, L1Std(span=7, l2ptr=L2))
    software.passes(VA, sid=1)


LEAF = 0x510_0000


@pytest.mark.parametrize(
    ("command", "reaches"),
    [
        (CfgiCd.make(sid=SID, ssid=2, leaf=0), True),
        (CfgiCdAll.make(sid=SID), True),
        (CfgiSte.make(sid=SID, leaf=1), True),
        (EVERYTHING, True),
        (CfgiCd.make(sid=SID, ssid=2, leaf=1), False),
        (CfgiCd.make(sid=SID + 1, ssid=2, leaf=0), False),
        (CfgiCdAll.make(sid=SID + 1), False),
    ],
)
def test_a_level_1_cd_descriptor_stays_until_a_command_without_leaf(command: Command, reaches: bool) -> None:
    world = World()
    world.stream(S1, s1fmt=1, s1cdmax=8)
    world.store(CDTAB, L1Cd(v=1, l2ptr=LEAF))
    for ssid in (1, 2):
        world.store(LEAF + ssid * 64, Cd(**world.cd_fields()))
    world.passes(PA, ssid=1)
    world.store(CDTAB, L1Cd(v=0))
    world.passes(PA, ssid=1)
    world.command(command)
    if reaches:
        world.refused(record(BAD_SUBSTREAMID, ssid=2, ssv=0), ssid=2)
    else:
        world.passes(PA, ssid=2)


def test_an_invalid_level_1_cd_descriptor_stays_too() -> None:
    world = World()
    world.stream(S1, s1fmt=1, s1cdmax=8)
    world.refused(record(BAD_SUBSTREAMID, ssid=1, ssv=0), ssid=1)
    world.store(CDTAB, L1Cd(v=1, l2ptr=LEAF))
    world.store(LEAF + 64, Cd(**world.cd_fields()))
    world.refused(record(BAD_SUBSTREAMID, ssid=1, ssv=0), ssid=1)
    world.command(CfgiCd.make(sid=SID, ssid=1))
    world.passes(PA, ssid=1)


# --- translations --------------------------------------------------------------------------------------------------

Remap = Callable[[World], None]


def remap(world: World) -> None:
    world.stage1.map(VA, OTHER_PA, S1_ALL)


NEXT = PAGE + 4096
NH_COMMANDS: list[tuple[Command, bool]] = [
    (TlbiNhAll.make(vmid=VMID), True),
    (TlbiNhAsid.make(vmid=VMID, asid=ASID), True),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=PAGE), True),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=PAGE, leaf=1), True),
    (TlbiNhVaa.make(vmid=VMID, addr=PAGE), True),
    (TlbiNhVaa.make(vmid=VMID, addr=PAGE, leaf=1), True),
    (TlbiS12Vmall.make(vmid=VMID), True),
    (TlbiNsnhAll.make(), True),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=PAGE, tg=1, ttl=3), True),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=PAGE - 3 * 4096, tg=1, num=3), True),
    (TlbiNhVaa.make(vmid=VMID, addr=0, tg=1, num=31, scale=20), True),
    (TlbiNhAll.make(vmid=VMID + 1), False),
    (TlbiNhAsid.make(vmid=VMID, asid=ASID + 1), False),
    (TlbiNhAsid.make(vmid=VMID + 1, asid=ASID), False),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=NEXT), False),
    (TlbiNhVa.make(vmid=VMID, asid=ASID + 1, addr=PAGE), False),
    (TlbiNhVa.make(vmid=VMID + 1, asid=ASID, addr=PAGE), False),
    (TlbiNhVaa.make(vmid=VMID + 1, addr=PAGE), False),
    (TlbiNhVaa.make(vmid=VMID, addr=PAGE - 4096), False),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=PAGE - 3 * 4096, tg=1, num=2), False),
    (TlbiNhVa.make(vmid=VMID, asid=ASID, addr=NEXT, tg=1, num=31, scale=3), False),
    (TlbiS12Vmall.make(vmid=VMID + 1), False),
    (TlbiS2Ipa.make(vmid=VMID, ipa=IPA), False),
    (TlbiS2Ipa.make(vmid=VMID, ipa=PAGE), False),
    (TlbiEl2All.make(), False),
    (TlbiEl2Vaa.make(addr=PAGE), False),
    (EVERYTHING, False),
]


@pytest.mark.parametrize("config", [S1, NESTED], ids=lambda config: config.name)
@pytest.mark.parametrize(("command", "reaches"), NH_COMMANDS)
def test_a_stage_1_translation_stays_until_its_command(command: Command, reaches: bool, config: Config) -> None:
    world = World(hyp=True)
    world.stream(config, s2vmid=VMID)
    world.cd()
    world.passes(PA)
    remap(world)
    world.passes(PA)
    world.command(command)
    world.passes(OTHER_PA if reaches else PA)


S2_COMMANDS: list[tuple[Command, bool]] = [
    (TlbiS2Ipa.make(vmid=VMID, ipa=PAGE), True),
    (TlbiS2Ipa.make(vmid=VMID, ipa=PAGE, leaf=1), True),
    (TlbiS2Ipa.make(vmid=VMID, ipa=1 << 30, tg=1, ttl=1), True),
    (TlbiS12Vmall.make(vmid=VMID), True),
    (TlbiNsnhAll.make(), True),
    (TlbiS2Ipa.make(vmid=VMID + 1, ipa=PAGE), False),
    (TlbiS2Ipa.make(vmid=VMID, ipa=2 << 30), False),
    (TlbiS12Vmall.make(vmid=VMID + 1), False),
    (TlbiNhAll.make(vmid=VMID), False),
    (TlbiNhVaa.make(vmid=VMID, addr=PAGE), False),
    (TlbiEl2All.make(), False),
    (EVERYTHING, False),
]


@pytest.mark.parametrize(("command", "reaches"), S2_COMMANDS)
def test_a_stage_2_translation_stays_until_its_command(command: Command, reaches: bool) -> None:
    world = World(hyp=True)
    world.stream(S2)
    world.passes(VA)
    world.stage2.map(VA, 2 << 30, S2_ALL, level=1)
    world.passes(VA)
    world.command(command)
    world.passes(VA + (1 << 30) if reaches else VA)


EL2_COMMANDS: list[tuple[Command, bool, bool]] = [
    # command, whether it reaches an entry of EL2, and one of EL2-E2H
    (TlbiEl2All.make(), True, True),
    (TlbiEl2Va.make(asid=ASID, addr=PAGE), True, True),
    (TlbiEl2Va.make(asid=ASID + 1, addr=PAGE), True, False),
    (TlbiEl2Vaa.make(addr=PAGE), True, True),
    (TlbiEl2Asid.make(asid=ASID), False, True),
    (TlbiEl2Asid.make(asid=ASID + 1), False, False),
    (TlbiEl2Va.make(asid=ASID, addr=NEXT), False, False),
    (TlbiEl2Vaa.make(addr=NEXT), False, False),
    (TlbiNhAll.make(vmid=0), False, False),
    (TlbiNhVaa.make(vmid=0, addr=PAGE), False, False),
    (TlbiS12Vmall.make(vmid=0), False, False),
    (TlbiNsnhAll.make(), False, False),
]


@pytest.mark.parametrize("e2h", [0, 1])
@pytest.mark.parametrize(("command", "el2", "el2_e2h"), EL2_COMMANDS)
def test_a_translation_of_el2_stays_until_its_command(command: Command, el2: bool, el2_e2h: bool, e2h: int) -> None:
    world = World(hyp=True, start={"e2h": e2h})
    world.stream(S1, strw=2)
    world.cd()
    world.passes(PA)
    remap(world)
    world.command(command)
    world.passes(OTHER_PA if (el2_e2h if e2h else el2) else PA)


def test_substreams_and_streams_with_one_asid_share_translations() -> None:
    world = substream_world()
    world.passes(PA, ssid=SSID)
    remap(world)
    world.passes(PA)
    world.passes(PA, sid=SID + 1)
    world.command(TlbiNhVa.make(asid=ASID, addr=PAGE))
    for sid in (SID, SID + 1):
        world.passes(OTHER_PA, sid=sid)
        world.passes(OTHER_PA, ssid=SSID, sid=sid)


def test_different_asids_do_not_share_translations() -> None:
    world = substream_world()
    other = Tables(world)
    other.map(VA, OTHER_PA, S1_ALL)
    world.cd(SSID, asid=ASID + 1, ttb0=other.root)
    world.passes(PA)
    world.passes(OTHER_PA, ssid=SSID)
    world.stage1.put(VA, 0)
    other.put(VA, 0)
    world.command(TlbiNhAsid.make(asid=ASID))
    world.refused(fault(TRANSLATION))
    world.passes(OTHER_PA, ssid=SSID)


def test_different_vmids_do_not_share_translations() -> None:
    world = World()
    for sid in (SID, SID + 1):
        world.stream(S1, sid=sid, s2vmid=sid)
    world.cd()
    world.passes(PA)
    remap(world)
    world.passes(OTHER_PA, sid=SID + 1)
    world.passes(PA)


def test_vmids_mean_nothing_without_stage_2() -> None:
    world = World(stage2=False)
    for sid in (SID, SID + 1):
        world.stream(S1, sid=sid, s2vmid=sid)
    world.cd()
    world.passes(PA)
    remap(world)
    world.passes(PA, sid=SID + 1)
    world.command(TlbiNhAll.make(vmid=7))
    world.passes(OTHER_PA)


GLOBAL_COMMANDS: list[tuple[Command, bool]] = [
    (TlbiNhVa.make(asid=ASID + 9, addr=PAGE), True),
    (TlbiNhVaa.make(addr=PAGE), True),
    (TlbiNhAll.make(), True),
    (TlbiNhAsid.make(asid=ASID), False),
    (TlbiNhVa.make(asid=ASID, addr=NEXT), False),
]


@pytest.mark.parametrize(("command", "reaches"), GLOBAL_COMMANDS)
def test_a_global_translation_serves_every_asid(command: Command, reaches: bool) -> None:
    world = substream_world()
    other = Tables(world)
    world.cd(SSID, asid=ASID + 1, ttb0=other.root)
    world.stage1.map(VA, PA, AF | USER)
    world.passes(PA)
    world.passes(PA, ssid=SSID)
    world.stage1.put(VA, 0)
    world.command(command)
    if reaches:
        world.refused(fault(TRANSLATION))
        world.refused(fault(TRANSLATION, SSID), ssid=SSID)
    else:
        world.passes(PA)


def test_a_whole_block_goes_by_any_address_within_it() -> None:
    world = World()
    world.stream(S1)
    world.cd()
    block = 0x80_0000_0000
    world.stage1.map(block, 0x40_0000_0000, S1_ALL, level=2)
    world.passes(0x40_0000_0123, address=block + 0x123)
    world.stage1.put(block, 0, level=2)
    world.passes(0x40_0010_0000, address=block + 0x10_0000)
    world.command(TlbiNhVa.make(asid=ASID, addr=block + 0x1F_F000))
    world.refused(fault(TRANSLATION, address=block), address=block)


def test_an_absent_page_is_not_cached() -> None:
    world = World()
    world.stream(S1)
    world.cd()
    world.refused(fault(TRANSLATION, address=NEXT), address=NEXT)
    world.stage1.map(NEXT, PA, S1_ALL)
    world.passes(IPA, address=NEXT)


def test_rights_that_were_taken_away_stay_and_rights_that_were_given_are_seen() -> None:
    world = World()
    world.stream(S1)
    world.cd()
    world.stage1.map(VA, PA, AF | NG)
    world.passes(PA, privileged=True)
    world.refused(fault(PERMISSION))
    world.stage1.map(VA, PA, S1_ALL)
    world.passes(PA)
    world.stage1.map(VA, PA, AF | NG)
    world.passes(PA)
    world.command(TlbiNhAsid.make(asid=ASID))
    world.refused(fault(PERMISSION))


def test_an_address_with_a_tag_shares_the_translation_without() -> None:
    world = World()
    world.stream(S1)
    world.cd(tbi0=1)
    world.passes(PA, address=VA | 0xAB << 56)
    remap(world)
    world.passes(PA)
    world.command(TlbiNhVa.make(asid=ASID, addr=PAGE))
    world.passes(OTHER_PA, address=VA | 0xCD << 56)


def test_a_fault_model_needs_no_tlb_invalidation() -> None:
    world = World()
    world.stream(S1)
    world.cd()
    world.passes(PA)
    world.cd(r=0)
    world.command(CfgiCd.make(sid=SID, leaf=1))
    world.refused(address=NEXT)


# --- prefetch ------------------------------------------------------------------------------------------------------


def test_prefetch_config_brings_in_configuration_only() -> None:
    world = substream_world()
    world.command(PrefetchConfig.make(sid=SID, ssv=1, ssid=SSID))
    world.ste(SID, v=0)
    world.cd(SSID, v=0)
    remap(world)
    world.passes(OTHER_PA, ssid=SSID)


def test_prefetch_addr_brings_in_a_translation() -> None:
    world = substream_world()
    world.command(PrefetchAddr.make(sid=SID, ssv=1, ssid=SSID, addr=PAGE))
    remap(world)
    world.passes(PA, ssid=SSID)


@pytest.mark.parametrize(
    "command",
    [
        PrefetchConfig.make(sid=0xFFFF_FFFF),
        PrefetchConfig.make(sid=SID, ssv=1, ssid=0xFFFFF),
        PrefetchConfig.make(sid=SID + 2),
        PrefetchAddr.make(sid=SID, addr=NEXT),
        PrefetchAddr.make(sid=SID, addr=(1 << 64) - 4096),
        PrefetchAddr.make(sid=SID, ssv=1, addr=PAGE),
    ],
)
def test_a_prefetch_that_fails_is_silent(command: Command) -> None:
    world = substream_world()
    world.command(command)
    assert world.events() == []


# --- no caches, small caches ---------------------------------------------------------------------------------------


def test_without_caches_memory_shows_at_once() -> None:
    world = substream_world(cache_entries=0)
    world.passes(PA, ssid=SSID)
    remap(world)
    world.passes(OTHER_PA, ssid=SSID)
    world.cd(SSID, v=0)
    world.refused(record(BAD_CD, ssid=SSID), ssid=SSID)
    world.ste(SID, v=0)
    world.refused(record(BAD_STE))
    assert len(world.smmu.tlb) == 0


@pytest.mark.parametrize("entries", [1, 2, 7])
def test_a_cache_holds_no_more_than_its_capacity(entries: int) -> None:
    world = World(cache_entries=entries)
    world.cd()
    for sid in range(12):
        world.stream(S1, sid=sid)
    for page in range(12):
        world.stage1.map(VA + page * 4096, PA + page * 4096, S1_ALL)
        world.passes(PA + page * 4096, address=VA + page * 4096, sid=page)
        assert len(world.smmu.tlb) == min(page + 1, entries)
    world.stage1.put(VA, 0)
    world.stage1.put(VA + 11 * 4096, 0)
    world.refused(record(TRANSLATION, 0, rnw=1, class_=2, inputaddr=VA), sid=0)
    world.passes(PA + 11 * 4096, address=VA + 11 * 4096, sid=11)


def test_a_tlb_hit_is_told_from_a_walk_even_where_accesses_are_collected_over_several_translations() -> None:
    world = substream_world()
    smmu, request = world.start().smmu, Request(SID, SSID, VA)
    touches: list[Touch] = []
    walked = smmu.translate(request, touches)
    hit = smmu.translate(request, touches)
    assert isinstance(walked, Translated)
    assert isinstance(hit, Translated)
    assert (walked.rule, hit.rule) == (WALKED, TLB_HIT)

"""Translation requests, translated requests, and who may request pages."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.hw.transaction import Ats, AtsStatus
from pasidlab.hw.vtd import ats
from pasidlab.hw.vtd.reasons import BROKEN, RECOVERABLE, STAGES, TOP, UNDER_TABLES
from pasidlab.hw.vtd.reasons import LEGACY as LEGACY_REASONS
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.hw.vtd.request import Blocked
from tests.vtd_tables import (
    ABORT_DMA,
    BEHIND,
    LEGACY,
    PA,
    PASID,
    PASS,
    RESERVED_TTM,
    RW,
    SID,
    US,
    USER_PAGE,
    VA,
    XD,
    A,
    D,
    P,
    R,
    W,
    World,
    expected_record,
)

SUCCESS, UR, CA = AtsStatus.SUCCESS, AtsStatus.UNSUPPORTED_REQUEST, AtsStatus.COMPLETER_ABORT
PAGE = -0x1000


def answer(world: World, *args: Any, **more: Any) -> tuple[AtsStatus, bool, bool, int]:
    """Ask for a translation; returns status, rights, and the reason of what was recorded."""
    before = len(world.records)
    got = world.ask(*args, **more)
    if len(world.records) > before:
        assert got.record == world.records[-1] == expected_record(got.request, got.reason)
    else:
        assert got.record is None
    return got.status, got.read, got.write, got.reason


# --- translation requests --------------------------------------------------------------------------------------------


def test_a_translation_request_is_granted_what_the_page_grants() -> None:
    world = World()
    world.first()
    got = world.ask(write=True)
    assert (got.status, got.address, got.lg2) == (SUCCESS, PA & PAGE, 12)
    assert (got.read, got.write, got.execute, got.privileged) == (True, True, False, False)
    assert got.rule is ats.GRANTED


def test_write_permission_must_be_asked_for_and_makes_the_page_dirty() -> None:
    world = World()
    tree = world.first()
    assert answer(world) == (SUCCESS, True, False, 0)
    assert tree.get(VA) & (A | D) == A
    assert answer(world, write=True) == (SUCCESS, True, True, 0)
    assert tree.get(VA) & (A | D) == A | D


def test_a_read_only_page_is_granted_for_reading() -> None:
    world = World()
    tree = world.first()
    tree.map(VA, PA, P | US)
    assert answer(world, write=True) == (SUCCESS, True, False, 0)
    assert not tree.get(VA) & D


def test_rights_that_were_gained_are_seen_without_an_invalidation() -> None:
    world = World()
    tree = world.first()
    tree.map(VA, PA, P | US)
    assert answer(world, write=True) == (SUCCESS, True, False, 0)
    tree.map(VA, PA, USER_PAGE)
    assert answer(world, write=True) == (SUCCESS, True, True, 0)


def test_execution_is_granted_where_it_was_asked_for() -> None:
    world = World()
    tree = world.first(ere=1, nxe=1)
    assert world.ask(instruction=True).execute
    assert not world.ask().execute
    tree.map(VA + 0x1000, PA, USER_PAGE | XD)
    got = world.ask(address=VA + 0x1000, instruction=True)
    assert (got.status, got.read, got.execute) == (SUCCESS, True, False)


def test_a_supervisors_page_grants_a_user_nothing() -> None:
    world = World()
    world.first(sre=1).map(VA, PA, P | RW)
    assert answer(world, write=True) == (SUCCESS, False, False, 0)
    assert world.ask().rule is ats.NOTHING_GRANTED
    got = world.ask(privileged=True, write=True)
    assert (got.read, got.write, got.privileged) == (True, True, True)


def test_large_pages_and_pass_through_are_granted_whole() -> None:
    world = World(host_bits=46)
    world.first().map(VA, PA, USER_PAGE, 3)
    assert world.ask().lg2 == 30
    world.pasid(3, pgtt=PASS)
    got = world.ask(3, PA, write=True)
    assert (got.address, got.lg2, got.read, got.write) == (PA & PAGE, 46, True, True)


def test_nested_translation_requests() -> None:
    world = World()
    world.nested()
    got = world.ask(write=True)
    assert (got.address, got.read, got.write) == (PA + BEHIND & PAGE, True, True)


def test_legacy_translation_requests() -> None:
    world = World(ttm=LEGACY)
    tree = world.legacy(tt=1)
    assert answer(world, None, write=True) == (SUCCESS, True, True, 0)
    tree.map(VA, PA, R)
    world.tlb.clear()
    assert answer(world, None, write=True) == (SUCCESS, True, False, 0)
    tree.map(VA, PA, W)
    world.tlb.clear()
    assert answer(world, None, write=True) == (SUCCESS, False, True, 0)


@pytest.mark.parametrize(
    ("address", "pasid", "rule"),
    [
        (0, PASID, "x86.not-present"),
        (1 << 62, PASID, "x86.canonical"),
        (VA, PASID + 1, "vtd.pasid-not-present"),
        (VA, PASID + 64, "vtd.directory-not-present"),
    ],
)
def test_recoverable_faults_are_answered_success_without_rights_and_not_recorded(
    address: int, pasid: int, rule: str
) -> None:
    world = World()
    world.first()
    assert answer(world, pasid, address) == (SUCCESS, False, False, 0)
    assert world.ask(pasid, address).rule.id == rule
    assert world.blocked(pasid, address)[0] == rule
    assert len(world.records) == 1


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"p": 0}, UR, Reason.CONTEXT_NOT_PRESENT),
        ({"dte": 0}, UR, Reason.DTE_CLEAR),
        ({"paside": 0}, UR, Reason.PASIDE_CLEAR),
        ({"pdts": 0}, UR, Reason.PASID_BEYOND_PDTS),
    ],
)
def test_what_the_context_entry_forbids_is_an_unsupported_request(
    change: dict[str, int], status: AtsStatus, reason: Reason
) -> None:
    world = World()
    world.first()
    world.context(**change)
    assert answer(world) == (status, False, False, reason)


def test_dte_is_checked_before_paside() -> None:
    world = World()
    world.context(dte=0, paside=0)
    assert answer(world)[3] == Reason.DTE_CLEAR


def test_broken_tables_are_a_completer_abort() -> None:
    world = World()
    tree = world.first()
    world.memory.poison(tree.place(VA), 8)
    assert answer(world) == (CA, False, False, Reason.FIRST_ACCESS)
    world.memory.heal()
    tree.put(VA, tree.get(VA) | XD)
    assert answer(world) == (CA, False, False, Reason.FIRST_RESERVED)
    tree.map(VA, PA, USER_PAGE)
    assert answer(world)[0] is SUCCESS


def test_fpd_silences_translation_requests_too() -> None:
    world = World()
    world.first(fpd=1)
    assert answer(world, instruction=True) == (UR, False, False, Reason.ERE_CLEAR)
    assert not world.records


@pytest.mark.parametrize(("ttm", "reason"), [(ABORT_DMA, 0), (RESERVED_TTM, Reason.ROOT_TABLE_ADDRESS)])
def test_translation_requests_without_tables(ttm: int, reason: int) -> None:
    assert answer(World(ttm=ttm)) == (UR, False, False, reason)
    world = World(ttm=ttm)
    world.te = False
    assert answer(world) == (UR, False, False, 0)


def test_every_reason_of_a_walk_says_how_a_translation_request_is_answered() -> None:
    reasons = {reason for table in (STAGES, TOP, UNDER_TABLES, LEGACY_REASONS) for reason in table.values()}
    neither = reasons - RECOVERABLE - BROKEN
    assert neither == {Reason.SECOND_BEYOND_WIDTH, Reason.LEGACY_BEYOND_MGAW}
    assert not RECOVERABLE & BROKEN


# --- translated requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pasid", [None, PASID, PASID + 1])
def test_a_translated_request_passes_without_a_look_at_its_pasid(pasid: int | None) -> None:
    world = World()
    world.first()
    ended = world.go(pasid, PA, ats=Ats.TRANSLATED)
    assert (ended.address, ended.rule) == (PA, ats.TRANSLATED_PASSES)


def test_translated_addresses_are_the_hosts() -> None:
    for ttm, wide, msi in (
        (1, Reason.BEYOND_HOST_WIDTH, Reason.INTERRUPT_RANGE),
        (LEGACY, Reason.LEGACY_BEYOND_MGAW, Reason.LEGACY_INTERRUPT_RANGE),
    ):
        world = World(ttm=ttm, host_bits=46)
        if ttm == LEGACY:
            world.legacy(tt=1)
        else:
            world.context()
        assert world.go(None, (1 << 46) - 1, ats=Ats.TRANSLATED).address == (1 << 46) - 1
        assert world.blocked(None, 1 << 46, ats=Ats.TRANSLATED) == ("vtd.translated-width", wide)
        assert world.blocked(None, 0xFEE0_0000, write=True, ats=Ats.TRANSLATED) == ("vtd.output-interrupt", msi)


def test_translated_requests_of_unknown_devices_are_blocked() -> None:
    assert World().blocked(None, ats=Ats.TRANSLATED)[1] == Reason.ROOT_NOT_PRESENT
    assert World(ttm=LEGACY).blocked(None, ats=Ats.TRANSLATED)[1] == Reason.LEGACY_ROOT_NOT_PRESENT
    assert World(ttm=RESERVED_TTM).blocked(None, ats=Ats.TRANSLATED)[1] == Reason.ROOT_TABLE_ADDRESS


# --- page requests ---------------------------------------------------------------------------------------------------


def page_request(world: World, **fields: int) -> tuple[str, int] | None:
    known = {"type": 1, "rid": SID, "pp": 1, "pasid": PASID, "rd": 1, "lpig": 1, "addr": VA & PAGE}
    ended = ats.page_request_refused(world.translator, PageRequest(**(known | fields)))
    assert ended is None or isinstance(ended, Blocked)
    return None if ended is None else (ended.rule.id, ended.reason)


def test_page_requests_pass_where_the_context_entry_allows_them() -> None:
    world = World()
    world.context()
    assert page_request(world) is None
    assert page_request(world, pp=0) is None
    world.lookup.clear()
    world.context(pre=0)
    assert page_request(world) == ("vtd.pre-clear", Reason.PRE_CLEAR)


def test_a_refused_page_request_is_recorded_as_one() -> None:
    world = World()
    world.context(pre=0)
    page_request(world, wr=1, pr=1, exe=1)
    assert world.records[0].words == (VA & PAGE, 0x8123_4547_F000_0000 | SID)
    page_request(world, pp=0, pr=1, exe=1)
    assert world.records[1].words == (VA & PAGE, 0x8000_0047_1000_0000 | SID)


def test_page_requests_with_a_pasid_that_may_not_be() -> None:
    world = World()
    world.context(paside=0)
    assert page_request(world) == ("vtd.paside-clear", Reason.PASIDE_CLEAR)
    assert page_request(world, pp=0) is None
    world.lookup.clear()
    world.context(pdts=0)
    assert page_request(world) == ("vtd.pasid-beyond-directory", Reason.PASID_BEYOND_PDTS)
    assert page_request(world, pasid=0x1FFF) is None


def test_page_requests_where_there_are_no_tables() -> None:
    assert page_request(World()) == ("vtd.root-not-present", Reason.ROOT_NOT_PRESENT)
    assert page_request(World(ttm=LEGACY)) == ("vtd.legacy-page-request", Reason.TTM_PAGE_REQUEST)
    assert page_request(World(ttm=ABORT_DMA)) == ("vtd.abort-dma", 0)
    world = World()
    world.te = False
    assert page_request(world) == ("vtd.disabled-refused", 0)
    assert not world.records


def test_fpd_of_the_context_entry_silences_page_requests() -> None:
    world = World()
    world.context(pre=0, fpd=1)
    assert page_request(world) == ("vtd.pre-clear", Reason.PRE_CLEAR)
    assert not world.records

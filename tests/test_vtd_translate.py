"""Requests through page tables: first stage, second stage, both, none; fault reasons and exact records."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.hw.pagetable.contract import ALL_RIGHTS, Rights
from pasidlab.hw.transaction import Ats, Operation, Translated
from pasidlab.hw.vtd.records import FaultRecord, Reason
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.translate import fault_record
from tests.vtd_tables import (
    A2,
    BEHIND,
    D2,
    DID,
    FIRST,
    GIB,
    LEGACY,
    NESTED,
    PA,
    PASID,
    PASS,
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
    Tree,
    W,
    World,
    X,
    narrow,
)

PAGE = -0x1000
ELSEWHERE = VA ^ 1 << 30
MSI = 0xFEE0_1000


def test_faults_are_recorded_to_the_bit() -> None:
    request = Request(0x6A01, 0x12345, 0x7F00_1234_5678, Operation.WRITE, privileged=True, instruction=True)
    assert fault_record(request, Reason.NO_WRITE) == FaultRecord.from_words(
        0x0000_7F00_1234_5000, 0x8123_4585_E000_6A01
    )
    read = Request(0x6A01, None, 0xFFFF_8000_0000_0FFF)
    assert fault_record(read, Reason.ROOT_NOT_PRESENT) == FaultRecord.from_words(
        0xFFFF_8000_0000_0000, 0xC000_0039_0000_6A01
    )
    asked = Request(0x6A01, 1, 0, Operation.WRITE, ats=Ats.TRANSLATION_REQUEST)
    assert fault_record(asked, Reason.DTE_CLEAR) == FaultRecord.from_words(0, 0xD000_0144_8000_6A01)
    assert fault_record(Request(1, 1), Reason.PRE_CLEAR, page_request=True).words[1] == 0x8000_0147_9000_0001


# --- first stage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(("level", "lg2"), [(1, 12), (2, 21), (3, 30)])
def test_the_first_stage_translates_at_every_page_size(levels: int, level: int, lg2: int) -> None:
    world = World()
    tree = world.first(levels)
    tree.map(ELSEWHERE, PA, USER_PAGE, level)
    ended = world.go(address=ELSEWHERE)
    offset = (1 << lg2) - 1
    assert ended[:2] == (PA & ~offset | ELSEWHERE & offset, lg2)
    assert ended.rights == ALL_RIGHTS
    assert ended.rule.id == "vtd.walked"


def test_five_levels_reach_farther_than_four() -> None:
    far = 1 << 55 | VA
    world = World()
    world.first(5).map(far, PA, USER_PAGE)
    assert world.go(address=far).address == PA
    world = World()
    world.first(4)
    assert world.blocked(address=far) == ("x86.canonical", Reason.NOT_CANONICAL)


@pytest.mark.parametrize(("levels", "bit"), [(4, 47), (5, 56)])
def test_addresses_that_are_not_canonical(levels: int, bit: int) -> None:
    world = World()
    tree = world.first(levels)
    low, high = (1 << bit) - 0x1000, (1 << 64) - (1 << bit)
    for address in (low, high):
        tree.map(address, PA & PAGE, USER_PAGE)
        assert world.go(address=address).address == PA & PAGE
    for address in (low + 0x1000, high - 0x1000):
        assert world.blocked(address=address) == ("x86.canonical", Reason.NOT_CANONICAL)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_first_stage_entry_that_is_not_present(level: int) -> None:
    world = World()
    world.first().put(VA, RW | US, level)
    assert world.blocked() == ("x86.not-present", Reason.FIRST_NOT_PRESENT)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_first_stage_entry_out_of_reach(level: int) -> None:
    world = World()
    place = world.first().place(VA, level)
    world.memory.poison(place, 8)
    expected = Reason.FIRST_TABLE_ACCESS if level == 4 else Reason.FIRST_ACCESS
    assert world.blocked() == ("x86.abort", expected)
    assert world.touches[-1].address == place


@pytest.mark.parametrize(("level", "bit"), [(1, 46), (2, 51), (3, 46), (4, 46), (4, 7), (1, 63), (2, 63)])
def test_reserved_bits_of_a_first_stage_entry(level: int, bit: int) -> None:
    world = World(host_bits=46)
    tree = world.first()
    tree.put(VA, tree.get(VA, level) | 1 << bit, level)
    assert world.blocked()[1] == Reason.FIRST_RESERVED


def test_large_pages_of_a_first_stage_without_1g_pages() -> None:
    world = World(first_1g=False)
    world.first().map(VA, PA, USER_PAGE, 3)
    assert world.blocked() == ("x86.page-size", Reason.FIRST_RESERVED)


@pytest.mark.parametrize(
    ("leaf", "fields", "more", "rule", "reason"),
    [
        (P | RW, {}, {}, "x86.user", Reason.NO_USER),
        (P | US, {}, {"write": True}, "x86.read-only", Reason.NO_WRITE),
        (USER_PAGE | XD, {"nxe": 1, "ere": 1}, {"instruction": True}, "x86.xd", Reason.NO_EXECUTE),
        (P | US, {"wpe": 1, "sre": 1}, {"write": True, "privileged": True}, "x86.read-only", Reason.NO_WRITE),
        (
            USER_PAGE,
            {"smep": 1, "sre": 1, "ere": 1},
            {"instruction": True, "privileged": True},
            "x86.smep",
            Reason.NO_EXECUTE,
        ),
    ],
)
def test_rights_of_the_first_stage(
    leaf: int, fields: dict[str, int], more: dict[str, Any], rule: str, reason: Reason
) -> None:
    world = World()
    world.first(**fields).map(VA, PA, leaf)
    assert world.blocked(**more) == (rule, reason)
    everything = {"sre": 1, "ere": 1}
    world = World()
    world.first(**everything)
    assert world.go(**more).address == PA


def test_the_supervisor_writes_read_only_pages_without_wpe() -> None:
    world = World()
    world.first(sre=1).map(VA, PA, P)
    assert world.go(write=True, privileged=True).address == PA
    assert world.blocked()[1] == Reason.NO_USER


def test_hardware_marks_first_stage_entries() -> None:
    world = World()
    tree = world.first(eafe=1)
    world.go()
    assert [tree.get(VA, level) & (A | D | 1 << 10) for level in (4, 3, 2, 1)] == [A | 1 << 10] * 4
    world.go(write=True)
    assert tree.get(VA) & D


def test_without_pasid_the_first_stage_of_rid_pasid_translates() -> None:
    world = World()
    world.first(pasid=33)
    world.context(rid_pasid=33)
    assert world.go(None).address == PA
    assert world.go(33).rule.id == "vtd.iotlb-hit"


# --- second stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize(("level", "lg2"), [(1, 12), (2, 21), (3, 30)])
def test_the_second_stage_translates_at_every_level_and_page_size(levels: int, level: int, lg2: int) -> None:
    world = World()
    tree = world.second(levels)
    address = narrow(ELSEWHERE, levels)
    tree.map(address, PA, R | W, level)
    offset = (1 << lg2) - 1
    assert world.go(address=address)[:2] == (PA & ~offset | address & offset, lg2)


@pytest.mark.parametrize(("levels", "mgaw", "width"), [(3, 57, 39), (4, 57, 48), (5, 57, 57), (4, 40, 40)])
def test_addresses_beyond_the_second_stage(levels: int, mgaw: int, width: int) -> None:
    world = World(guest_bits=mgaw)
    tree = world.second(levels)
    tree.map((1 << width) - 1, PA, R | W)
    assert world.go(address=(1 << width) - 1).address == PA | 0xFFF
    assert world.blocked(address=1 << width) == ("vtd.second-range", Reason.SECOND_BEYOND_WIDTH)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_second_stage_entry_without_rights(level: int) -> None:
    world = World()
    world.second().put(VA, X, level)
    assert world.blocked() == ("vtd.second-not-present", Reason.SECOND_NOT_PRESENT)


@pytest.mark.parametrize("level", [1, 4])
def test_a_second_stage_entry_out_of_reach(level: int) -> None:
    world = World()
    world.memory.poison(world.second().place(VA, level), 8)
    expected = Reason.SECOND_TABLE_ACCESS if level == 4 else Reason.SECOND_ACCESS
    assert world.blocked() == ("vtd.second-abort", expected)


@pytest.mark.parametrize(("level", "bit"), [(1, 46), (4, 46), (4, 7), (1, 11)])
def test_reserved_bits_of_a_second_stage_entry(level: int, bit: int) -> None:
    world = World(host_bits=46)
    tree = world.second()
    tree.put(VA, tree.get(VA, level) | 1 << bit, level)
    assert world.blocked()[1] == Reason.SECOND_RESERVED


@pytest.mark.parametrize(("rights", "write", "reason"), [(R, True, Reason.NO_WRITE), (W, False, Reason.NO_READ)])
def test_rights_of_the_second_stage(rights: int, write: bool, reason: Reason) -> None:
    world = World()
    world.second().map(VA, PA, rights)
    assert world.blocked(write=write)[1] == reason
    assert world.go(write=not write).address == PA


def test_execution_through_the_second_stage_needs_x_only_with_ssee() -> None:
    world = World()
    world.second(ere=1, ssee=1)
    assert world.blocked(instruction=True) == ("vtd.second-no-execute", Reason.NO_EXECUTE)
    world = World()
    world.second(ere=1)
    assert world.go(instruction=True).address == PA


def test_the_second_stage_marks_entries_only_with_ssade() -> None:
    for ssade in (0, 1):
        world = World()
        tree = world.second(ssade=ssade)
        world.go(write=True)
        assert tree.get(VA) & (A2 | D2) == (A2 | D2) * ssade
        assert tree.get(VA, 4) & A2 == A2 * ssade


# --- nested ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_nested_translation_takes_tables_and_output_through_the_second_stage(levels: int) -> None:
    world = World()
    first, _ = world.nested(levels)
    ended = world.go(write=True)
    assert ended[:2] == (PA + BEHIND, 12)
    places = [touch.address for touch in world.touches if touch.stage == 1 and not touch.store]
    assert places == [first.place(VA, level) for level in (4, 3, 2, 1)]
    assert len([touch for touch in world.touches if touch.stage == 2]) == 9 * (levels - 2)


def test_nested_translation_grants_what_both_stages_grant() -> None:
    world = World()
    first, second = world.nested()
    second.map(PA, PA + BEHIND, R | X, 3)
    assert world.go().rights & Rights.USER_WRITE == 0
    assert world.blocked(write=True)[1] == Reason.NO_WRITE
    first.map(VA, PA, P | RW)
    world.tlb.clear()
    assert world.blocked()[1] == Reason.NO_USER


@pytest.mark.parametrize("bit", [39, 51, 52, 56, 63])
def test_a_first_stage_table_beyond_the_second_stage_at_any_bit_of_its_address(bit: int) -> None:
    world = World()
    first, second = world.nested(3)
    world.pasid(pgtt=NESTED, aw=1, ssptptr=second.root, fsptptr=first.root | 1 << bit)
    assert world.blocked() == ("vtd.second-range", Reason.FIRST_BEYOND_MGAW)


def test_a_first_stage_entry_beyond_the_second_stage() -> None:
    world = World()
    first, _ = world.nested(3)
    first.put(VA, 1 << 39 | USER_PAGE, 3)
    assert world.blocked()[1] == Reason.FIRST_BEYOND_MGAW


def test_output_beyond_the_second_stage() -> None:
    world = World()
    first, _ = world.nested(3)
    first.map(VA, 1 << 39, USER_PAGE)
    assert world.blocked() == ("vtd.second-range", Reason.SECOND_BEYOND_WIDTH)


@pytest.mark.parametrize(("level", "reason"), [(4, Reason.NESTED_TOP_READ), (3, Reason.NESTED_READ)])
@pytest.mark.parametrize("rights", [0, W])
def test_a_first_stage_table_that_the_second_stage_hides(level: int, reason: Reason, rights: int) -> None:
    world = World()
    first, second = world.nested()
    hide(first, second, level, rights)
    assert world.blocked()[1] == reason


def hide(first: Tree, second: Tree, level: int, rights: int) -> None:
    """Map the first GiB of the guest, where its tables lie, by 4 KiB pages, and one table with other rights."""
    tables = first.tables
    hidden = first.place(VA, level) - BEHIND & PAGE
    second.put(0, tables.allocate() | R | W | X, 3)
    for page in range(0x800_0000, 0x810_0000, 0x1000):
        second.map(page, page + BEHIND, rights if page == hidden else R | W | X)


def test_a_first_stage_table_that_the_second_stage_write_protects() -> None:
    world = World()
    first, second = world.nested()
    hide(first, second, 1, R)
    assert world.blocked() == ("vtd.second-no-write", Reason.NESTED_WRITE)
    first.put(VA, first.get(VA) | A)
    assert world.go().address == PA + BEHIND
    assert world.blocked(write=True)[1] == Reason.NESTED_WRITE


def test_unreadable_tables_of_either_stage_in_nested_translation() -> None:
    for stage, level, reason in (
        (0, 4, Reason.FIRST_TABLE_ACCESS),
        (0, 1, Reason.FIRST_ACCESS),
        (1, 4, Reason.SECOND_TABLE_ACCESS),
        (1, 3, Reason.SECOND_ACCESS),
    ):
        world = World()
        tree = world.nested()[stage]
        world.memory.poison(tree.place(0 if stage else VA, level), 8)
        assert world.blocked()[1] == reason


def test_a_broken_second_stage_under_a_first_stage_table_is_the_second_stages_fault() -> None:
    world = World(host_bits=46)
    _, second = world.nested()
    second.put(0, second.get(0, 3) | 1 << 46, 3)
    assert world.blocked()[1] == Reason.SECOND_RESERVED


def test_guest_addresses_in_first_stage_entries_may_be_wider_than_the_hosts() -> None:
    world = World(host_bits=39)
    _, second = world.nested()
    world.first().map(VA, 1 << 39, USER_PAGE)
    assert world.blocked()[1] == Reason.FIRST_RESERVED
    world = World(host_bits=42)
    first, second = world.nested()
    second.map(1 << 43, PA, R | W, 3)
    first.map(VA, 1 << 43, USER_PAGE)
    assert isinstance(world.go(), Translated)


# --- pass-through ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pasid", [None, PASID])
def test_pass_through_passes_up_to_the_host_width(pasid: int | None) -> None:
    world = World(host_bits=46)
    world.context(rid_pasid=PASID)
    world.pasid(pgtt=PASS)
    assert world.go(pasid, (1 << 46) - 1)[:2] == ((1 << 46) - 1, 52)
    assert world.go(pasid, VA & (1 << 46) - 1).rule.id == "vtd.pass-through"
    assert world.blocked(pasid, 1 << 46) == ("vtd.pass-through-width", Reason.BEYOND_HOST_WIDTH)


# --- the interrupt range ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("te", [False, True])
def test_a_write_without_pasid_to_the_interrupt_range_is_an_interrupt(te: bool) -> None:
    world = World()
    world.te = te
    assert world.blocked(None, MSI, write=True) == ("vtd.interrupt", 0)
    assert not world.records


def test_a_read_without_pasid_from_the_interrupt_range_is_blocked() -> None:
    world = World()
    world.second(pasid=0).map(MSI, PA, R | W)
    assert world.blocked(None, MSI) == ("vtd.output-interrupt", Reason.INTERRUPT_RANGE)
    assert world.go(0, MSI).address == PA & PAGE


@pytest.mark.parametrize("edge", [0xFEE0_0000, 0xFEEF_F000])
def test_translations_into_the_interrupt_range_are_blocked(edge: int) -> None:
    world = World()
    tree = world.first()
    tree.map(VA, edge, USER_PAGE)
    for write in (False, True, False):
        assert world.blocked(write=write) == ("vtd.output-interrupt", Reason.INTERRUPT_RANGE)
    tree.map(ELSEWHERE, edge ^ 1 << 20, USER_PAGE)
    assert isinstance(world.go(address=ELSEWHERE), Translated)


def test_a_large_page_is_blocked_only_where_it_touches_the_interrupt_range() -> None:
    world = World()
    world.first().map(0xC000_0000, 0xC000_0000, USER_PAGE, 3)
    assert world.go(address=0xFED0_0000).lg2 == 30
    assert world.blocked(address=MSI)[1] == Reason.INTERRUPT_RANGE


def test_pass_through_into_the_interrupt_range_is_blocked() -> None:
    world = World()
    world.context()
    world.pasid(pgtt=PASS)
    assert world.blocked(address=MSI)[1] == Reason.INTERRUPT_RANGE
    world = World(ttm=LEGACY)
    world.legacy(tt=2)
    assert world.blocked(None, MSI)[1] == Reason.LEGACY_INTERRUPT_RANGE


# --- legacy mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_legacy_mode_translates(levels: int) -> None:
    world = World(ttm=LEGACY)
    world.legacy(levels)
    assert world.go(None, narrow(VA, levels), write=True)[:2] == (PA, 12)
    (key,) = world.tlb.entries
    assert key[0] == (DID, None, False)


@pytest.mark.parametrize(
    ("raw", "level", "write", "reason"),
    [
        (0, 1, False, Reason.LEGACY_NO_READ),
        (0, 3, True, Reason.LEGACY_NO_WRITE),
        (PA & PAGE | R, 1, True, Reason.LEGACY_NO_WRITE),
        (PA & PAGE | W, 1, False, Reason.LEGACY_NO_READ),
        (PA & PAGE | R | W | 1 << 50, 1, False, Reason.LEGACY_PAGING_RESERVED),
        (R | W | 1 << 7, 4, False, Reason.LEGACY_PAGING_RESERVED),
    ],
)
def test_faults_of_legacy_paging(raw: int, level: int, write: bool, reason: Reason) -> None:
    world = World(ttm=LEGACY, host_bits=46)
    world.legacy().put(VA, raw, level)
    assert world.blocked(None, write=write)[1] == reason


@pytest.mark.parametrize(
    ("level", "reason"),
    [(1, Reason.LEGACY_PAGING_ACCESS), (3, Reason.LEGACY_PAGING_ACCESS), (4, Reason.LEGACY_CONTEXT_INVALID)],
)
def test_a_first_legacy_table_out_of_reach_makes_the_context_invalid_others_do_not(level: int, reason: Reason) -> None:
    world = World(ttm=LEGACY)
    world.memory.poison(world.legacy().place(VA, level), 8)
    assert world.blocked(None) == ("vtd.second-abort", reason)


@pytest.mark.parametrize("tt", [0, 2])
def test_legacy_addresses_beyond_the_width(tt: int) -> None:
    world = World(ttm=LEGACY)
    world.legacy(3, tt=tt).map((1 << 39) - 1, PA, R)
    assert isinstance(world.go(None, (1 << 39) - 1), Translated)
    assert world.blocked(None, 1 << 39)[1] == Reason.LEGACY_BEYOND_MGAW


def test_legacy_reads_and_translations_into_the_interrupt_range() -> None:
    world = World(ttm=LEGACY)
    world.legacy().map(VA, MSI, R | W)
    assert world.blocked(None)[1] == Reason.LEGACY_INTERRUPT_RANGE
    assert world.blocked(None, MSI)[1] == Reason.LEGACY_INTERRUPT_RANGE


# --- several devices and PASIDs --------------------------------------------------------------------------------------


def test_pasids_of_one_device_are_separate_and_a_pasid_of_two_devices_is_not_read_twice() -> None:
    world = World()
    tree = world.first()
    other = world.first(pasid=PASID + 1)
    other.map(VA, PA + GIB, USER_PAGE)
    assert world.go(PASID).address == PA
    assert world.go(PASID + 1).address == PA + GIB
    world.context(SID + 1)
    world.pasid(PASID, SID + 1, pgtt=FIRST, fsptptr=tree.root)
    assert world.go(sid=SID + 1).rule.id == "vtd.iotlb-hit"

"""What stays cached until which invalidation, by its effect on requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pasidlab.hw.transaction import Translated
from pasidlab.hw.vtd.caches import Tag
from pasidlab.hw.vtd.records import Reason
from tests.vtd_tables import (
    BEHIND,
    DID,
    FIRST,
    GIB,
    LEGACY,
    PA,
    PASID,
    PASS,
    RW,
    SID,
    US,
    USER_PAGE,
    VA,
    D,
    P,
    R,
    Tree,
    W,
    World,
)

PAGE = -0x1000
NEW = PA + GIB
OTHER_DID = DID + 1


def remapped(world: World, tree: Tree, rights: int = USER_PAGE, pasid: int | None = PASID) -> Callable[[], bool]:
    """Use a translation, change its page, and return whether the old one is still in use."""
    assert world.go(pasid).address in (PA, PA + BEHIND)
    tree.map(VA, NEW, rights)

    def stale() -> bool:
        ended = world.go(pasid)
        assert ended.address in (PA, PA + BEHIND, NEW, NEW + BEHIND)
        return ended.address in (PA, PA + BEHIND)

    assert stale()
    return stale


# --- the IOTLB -------------------------------------------------------------------------------------------------------


def test_nothing_is_kept_without_caches() -> None:
    world = World(cache_entries=0)
    tree = world.first()
    assert world.go().address == PA
    tree.map(VA, NEW, USER_PAGE)
    assert world.go().address == NEW
    assert not len(world.tlb)
    assert not world.tlb.tables


def test_a_first_stage_translation_stays_until_its_pasid_is_invalidated() -> None:
    world = World()
    stale = remapped(world, world.first())
    page = VA & PAGE
    world.tlb.invalidate_pasid(DID, PASID + 1)
    world.tlb.invalidate_pasid(OTHER_DID, PASID)
    world.tlb.invalidate_pasid(DID, PASID, page + 0x1000, 0x1000)
    world.tlb.invalidate_pasid(DID, PASID, page - 0x1000, 0x1000)
    world.tlb.invalidate(OTHER_DID)
    world.tlb.invalidate(DID, 0, 1 << 57)
    assert stale()
    world.tlb.invalidate_pasid(DID, PASID, page, 0x1000)
    assert not stale()


@pytest.mark.parametrize("how", ["pasid", "domain", "everything", "range"])
def test_wider_invalidations_reach_first_stage_translations(how: str) -> None:
    world = World()
    stale = remapped(world, world.first())
    {
        "pasid": lambda: world.tlb.invalidate_pasid(DID, PASID),
        "domain": lambda: world.tlb.invalidate(DID),
        "everything": lambda: world.tlb.invalidate(),
        "range": lambda: world.tlb.invalidate_pasid(DID, PASID, VA & -(1 << 30), 1 << 30),
    }[how]()
    assert not stale()


def test_a_second_stage_translation_belongs_to_its_domain_whatever_the_pasid() -> None:
    world = World()
    tree = world.second()
    world.pasid(9, pgtt=2, aw=2, ssptptr=tree.root)
    stale = remapped(world, tree, R | W)
    assert world.go(9).rule.id == "vtd.iotlb-hit"
    world.tlb.invalidate_pasid(DID, PASID)
    world.tlb.invalidate(OTHER_DID, VA & PAGE, 0x1000)
    world.tlb.invalidate(DID, (VA & PAGE) + 0x1000, 0x1000)
    assert stale()
    world.tlb.invalidate(DID, VA & PAGE, 0x1000)
    assert not stale()


def test_nested_translations_are_reached_by_pasid_and_by_any_page_of_the_domain() -> None:
    for reach in (
        lambda world: world.tlb.invalidate_pasid(DID, PASID, VA & PAGE, 0x1000),
        lambda world: world.tlb.invalidate(DID, 0, 0x1000),
    ):
        world = World()
        first, _ = world.nested()
        stale = remapped(world, first)
        world.tlb.invalidate_pasid(DID, PASID, 0, 0x1000)
        assert stale()
        reach(world)
        assert not stale()


def test_legacy_translations_are_reached_by_domain() -> None:
    world = World(ttm=LEGACY)
    stale = remapped(world, world.legacy(), R | W, None)
    world.tlb.invalidate(OTHER_DID)
    assert stale()
    world.tlb.invalidate(DID, VA & PAGE, 0x1000)
    assert not stale()


def test_any_part_of_a_large_page_reaches_all_of_it() -> None:
    world = World()
    tree = world.first()
    tree.map(VA, PA, USER_PAGE, 3)
    before = world.go().address
    tree.map(VA, NEW, USER_PAGE, 3)
    assert world.go().address == before
    world.tlb.invalidate_pasid(DID, PASID, VA & -GIB, 0x1000)
    assert world.go().address == before + GIB


# --- rights ----------------------------------------------------------------------------------------------------------


def test_rights_that_are_gained_need_no_invalidation_and_rights_that_are_lost_do() -> None:
    world = World()
    tree = world.first()
    tree.map(VA, PA, P | US)
    assert world.go().address == PA
    assert world.blocked(write=True)[1] == Reason.NO_WRITE
    tree.map(VA, PA, USER_PAGE)
    assert world.go(write=True).address == PA
    tree.map(VA, PA, P | US)
    assert world.go(write=True).rule.id == "vtd.iotlb-hit"
    world.tlb.invalidate_pasid(DID, PASID, VA & PAGE, 0x1000, leaf=True)
    assert world.blocked(write=True)[1] == Reason.NO_WRITE


def test_rights_that_a_table_above_gained_need_no_invalidation() -> None:
    world = World()
    tree = world.first()
    tree.put(VA, tree.get(VA, 2) & ~RW, 2)
    assert world.go().address == PA
    assert world.blocked(write=True)[1] == Reason.NO_WRITE
    tree.put(VA, tree.get(VA, 2) | RW, 2)
    assert world.go(write=True).address == PA


def test_the_first_write_to_a_page_that_was_read_marks_it_dirty() -> None:
    world = World()
    tree = world.first()
    world.go()
    assert world.go(write=True).rule.id == "vtd.walked"
    assert tree.get(VA) & D
    assert world.go(write=True).rule.id == "vtd.iotlb-hit"


@pytest.mark.parametrize(("ssade", "rule"), [(0, "vtd.iotlb-hit"), (1, "vtd.walked")])
def test_the_second_stage_has_dirty_flags_to_set_only_with_ssade(ssade: int, rule: str) -> None:
    world = World()
    world.second(ssade=ssade)
    world.go()
    assert world.go(write=True).rule.id == rule


def test_a_nested_write_behind_a_read_walks_where_the_second_stage_has_dirty_flags() -> None:
    for ssade, rule in ((0, "vtd.iotlb-hit"), (1, "vtd.walked")):
        world = World()
        first, _ = world.nested(ssade=ssade)
        first.put(VA, first.get(VA) | D)
        world.go()
        assert world.go(write=True).rule.id == rule


# --- paging structures -----------------------------------------------------------------------------------------------


def neighbour_walked(world: World) -> tuple[int, int]:
    """Walk for a neighbour of VA; returns where it leads and how many entries were read."""
    ended = world.go(address=VA + 0x1000)
    assert isinstance(ended, Translated)
    return ended.address, len([touch for touch in world.touches if touch.stage and not touch.store])


def move_table(world: World, tree: Tree, pasid: int | None = PASID) -> None:
    """Use the lowest table of VA, then replace it by one that leads elsewhere."""
    tree.map(VA + 0x1000, PA + 0x1000, tree.get(VA) & 7)
    assert world.go(pasid).address == PA
    tree.put(VA, tree.tables.allocate() | tree.on_the_way, 2)
    tree.map(VA + 0x1000, NEW, tree.on_the_way)


def test_a_walk_starts_at_the_lowest_table_that_is_known() -> None:
    world = World()
    world.first().map(VA + 0x1000, NEW, USER_PAGE)
    world.go()
    assert neighbour_walked(world) == (NEW, 1)


def test_leaf_invalidations_keep_tables_and_others_do_not() -> None:
    world = World()
    move_table(world, world.first())
    world.tlb.invalidate_pasid(DID, PASID, VA & PAGE, 0x2000, leaf=True)
    assert neighbour_walked(world) == (PA + 0x1000, 1)
    world.tlb.invalidate_pasid(DID, PASID, VA & PAGE, 0x2000)
    assert neighbour_walked(world) == (NEW, 4)


def test_leaf_invalidations_of_a_domain_keep_second_stage_tables() -> None:
    world = World(ttm=LEGACY)
    move_table(world, world.legacy(), None)
    world.tlb.invalidate(DID, VA & PAGE, 0x2000, leaf=True)
    assert world.go(None, VA + 0x1000).address == PA + 0x1000
    world.tlb.invalidate(DID, VA & PAGE, 0x2000)
    assert world.go(None, VA + 0x1000).address == NEW


def test_rights_of_the_tables_above_a_cached_one_count() -> None:
    world = World()
    tree = world.first()
    tree.map(VA + 0x1000, NEW, USER_PAGE)
    tree.put(VA, tree.get(VA, 3) & ~RW, 3)
    world.go()
    assert world.blocked(address=VA + 0x1000, write=True)[1] == Reason.NO_WRITE


def test_a_cached_table_that_leads_nowhere_is_no_fault() -> None:
    world = World()
    tree = world.first()
    world.go()
    other = tree.tables.allocate()
    tree.put(VA, other | USER_PAGE, 2)
    tree.map(VA + 0x1000, NEW, USER_PAGE)
    assert neighbour_walked(world) == (NEW, 5)


def test_tables_are_kept_for_nested_translation_by_their_guest_address() -> None:
    world = World()
    first, _ = world.nested()
    first.map(VA + 0x1000, NEW, USER_PAGE)
    world.go()
    assert world.go(address=VA + 0x1000).address == NEW + BEHIND
    assert len([touch for touch in world.touches if touch.stage == 1 and not touch.store]) == 1
    (key,) = world.tlb.tables
    assert key == (Tag(DID, PASID, nested=True), 21, VA >> 21)


# --- context and PASID caches ----------------------------------------------------------------------------------------


def test_context_entries_stay_until_their_device_is_invalidated() -> None:
    world = World()
    world.first()
    world.go()
    world.context(p=0)
    world.lookup.forget_contexts(source_id=SID + 8)
    assert isinstance(world.go(), Translated)
    world.lookup.forget_contexts(DID, SID)
    assert world.blocked()[1] == Reason.CONTEXT_NOT_PRESENT


@pytest.mark.parametrize(("mask", "reached"), [(0, {0}), (1, {0, 4}), (2, {0, 2, 4, 6}), (3, set(range(8)))])
def test_the_function_mask_reaches_other_functions(mask: int, reached: set[int]) -> None:
    world = World()
    for function in range(8):
        world.context(SID + function)
        world.pasid(PASID, SID + function, pgtt=PASS)
        world.go(sid=SID + function)
    world.lookup.forget_contexts(None, SID, mask)
    assert {key - SID for key in world.lookup.cached_contexts} == set(range(8)) - reached


def test_domain_selective_context_invalidation_reaches_that_domain_in_legacy_mode_and_all_in_scalable_mode() -> None:
    world = World(ttm=LEGACY)
    world.legacy()
    world.go(None)
    world.lookup.forget_contexts(OTHER_DID)
    assert len(world.lookup.cached_legacy_contexts) == 1
    world.lookup.forget_contexts(DID)
    assert not world.lookup.cached_legacy_contexts
    world = World()
    world.first()
    world.go()
    world.lookup.forget_contexts(OTHER_DID)
    assert not world.lookup.cached_contexts


def test_pasid_entries_stay_until_their_pasid_or_domain_is_invalidated() -> None:
    world = World()
    world.first()
    world.go()
    world.pasid(p=0)
    world.lookup.forget_contexts()
    world.lookup.forget_pasids(DID, PASID + 1)
    world.lookup.forget_pasids(OTHER_DID)
    assert isinstance(world.go(), Translated)
    world.lookup.forget_pasids(DID, PASID)
    assert world.blocked()[1] == Reason.PASID_NOT_PRESENT


@pytest.mark.parametrize("did", [DID, None])
def test_pasid_entries_are_forgotten_by_domain_and_altogether(did: int | None) -> None:
    world = World()
    world.first()
    world.go()
    world.lookup.forget_pasids(did)
    assert not world.lookup.cached_pasids


# --- caching mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching_mode", [False, True])
def test_entries_that_are_not_present_are_cached_only_in_caching_mode(caching_mode: bool) -> None:
    world = World(caching_mode=caching_mode)
    world.context(p=0)
    assert world.blocked()[1] == Reason.CONTEXT_NOT_PRESENT
    world.context()
    if caching_mode:
        assert world.blocked()[1] == Reason.CONTEXT_NOT_PRESENT
        world.lookup.forget_contexts(0, SID)
    assert world.blocked()[1] == Reason.DIRECTORY_NOT_PRESENT
    world.pasid(pgtt=FIRST, fsptptr=Tree(world).root)
    if caching_mode:
        assert world.blocked()[1] == Reason.DIRECTORY_NOT_PRESENT
        world.lookup.forget_pasids(OTHER_DID, PASID)
    assert world.blocked()[1] == Reason.FIRST_NOT_PRESENT


def test_entries_that_cannot_be_read_are_never_cached() -> None:
    world = World(caching_mode=True)
    world.first()
    world.memory.poison(world.pasid_place(), 64)
    assert world.blocked()[1] == Reason.PASID_ACCESS
    world.memory.heal()
    assert isinstance(world.go(), Translated)


@pytest.mark.parametrize("caching_mode", [False, True])
def test_pages_that_are_not_present_are_cached_only_in_caching_mode(caching_mode: bool) -> None:
    world = World(caching_mode=caching_mode)
    tree = world.second()
    assert world.blocked(address=VA + 0x1000)[1] == Reason.SECOND_NOT_PRESENT
    tree.map(VA + 0x1000, NEW, R | W)
    if caching_mode:
        assert world.blocked(address=VA + 0x1000)[1] == Reason.SECOND_NOT_PRESENT
        world.tlb.invalidate(DID, (VA & PAGE) + 0x1000, 0x1000, leaf=True)
    assert world.go(address=VA + 0x1000).address == NEW


def test_the_first_stage_caches_no_absent_pages_even_in_caching_mode() -> None:
    world = World(caching_mode=True)
    tree = world.first()
    assert world.blocked(address=VA + 0x1000)[1] == Reason.FIRST_NOT_PRESENT
    tree.map(VA + 0x1000, NEW, USER_PAGE)
    assert isinstance(world.go(address=VA + 0x1000), Translated)
    assert not world.tlb.absent


# --- capacity --------------------------------------------------------------------------------------------------------


def test_the_oldest_translation_makes_room() -> None:
    world = World(cache_entries=2)
    tree = world.first()
    for page in range(3):
        tree.map(VA + page * 0x1000, PA, USER_PAGE)
        world.go(address=VA + page * 0x1000)
    assert [key[2] for key in world.tlb.entries] == [(VA >> 12) + 1, (VA >> 12) + 2]


def test_the_cache_of_a_pasid_can_be_cleared_as_a_whole() -> None:
    world = World()
    world.first()
    world.go()
    world.tlb.clear()
    world.lookup.clear()
    assert not len(world.tlb)
    world.go()
    assert len(world.touches) >= 8

"""Root, context and PASID tables: every check in its order, each with its fault reason and its FPD."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.hw.transaction import Ats, Translated
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.registers import Rtaddr
from pasidlab.hw.vtd.structures import PasidEntry, ScalableContextEntry, ScalableRootEntry
from tests.vtd_tables import (
    ABORT_DMA,
    FIRST,
    HIGH_SID,
    LEGACY,
    NESTED,
    PA,
    PASID,
    PASS,
    RESERVED_TTM,
    SCALABLE,
    SECOND,
    SID,
    VA,
    Tree,
    World,
)

WIDE = 1 << 46
NARROW_HOST: dict[str, Any] = {"host_bits": 46}


def passing(world: World, pasid: int | None = PASID, **more: Any) -> bool:
    return isinstance(world.go(pasid, **more), Translated)


def store_bit(world: World, place: int, bit: int) -> None:
    """Set one bit of an entry in memory."""
    word = place + bit // 64 * 8
    world.memory.store64(word, (world.memory.load64(word) or 0) | 1 << bit % 64)


# --- golden encodings ------------------------------------------------------------------------------------------------


def test_a_context_entry_is_read_from_its_golden_encoding() -> None:
    word = 0x0000_0001_2345_6E1D
    world = World()
    place = world.context_place()
    world.memory.store64(place, word)
    world.memory.store64(place + 8, 0x5 | 1 << 20)
    context = world.lookup.context(SID, [])
    assert (context.dte, context.paside, context.pre, context.fpd) == (True, True, True, False)
    assert (context.directory, context.pasids) == (0x1_2345_6000, 1 << 20)
    assert (context.rid_pasid, context.rid_priv) == (5, True)
    assert ScalableContextEntry(p=1, dte=1, paside=1, pre=1, pdts=7, pasiddirptr=0x1_2345_6000).words[0] == word


def test_a_pasid_entry_is_read_from_its_golden_encoding() -> None:
    world = World()
    world.context()
    place = world.pasid_place()
    for offset, word in enumerate((0x49, 0x1, 0x8_8765_4000)):
        world.memory.store64(place + 8 * offset, word)
    paging = world.lookup.pasid(SID, world.lookup.context(SID, []), PASID, [])
    assert (paging.did, paging.tag, paging.below) == (1, (1, PASID, False), None)
    assert (paging.stage.table, paging.stage.levels) == (0x8_8765_4000, 4)
    assert (paging.sre, paging.ere, paging.fpd) == (False, False, False)
    entry = PasidEntry(p=1, aw=2, pgtt=FIRST, did=1, fsptptr=0x8_8765_4000)
    assert entry.words[:4] == (0x49, 0x1, 0x8_8765_4000, 0)


# --- RTADDR ----------------------------------------------------------------------------------------------------------


def test_translation_off_lets_only_requests_without_pasid_pass() -> None:
    world = World()
    world.te = False
    assert world.go(None)[:2] == (VA, 52)
    assert world.go(None).rule.id == "vtd.disabled"
    assert world.blocked() == ("vtd.disabled-refused", 0)
    assert world.blocked(None, ats=Ats.TRANSLATED) == ("vtd.disabled-refused", 0)
    assert not world.records


@pytest.mark.parametrize("pasid", [None, PASID])
def test_abort_mode_blocks_everything_without_a_record(pasid: int | None) -> None:
    world = World(ttm=ABORT_DMA)
    assert world.blocked(pasid) == ("vtd.abort-dma", 0)
    assert world.blocked(pasid, ats=Ats.TRANSLATED) == ("vtd.abort-dma", 0)
    assert not world.records


@pytest.mark.parametrize(
    ("ttm", "features"),
    [(RESERVED_TTM, {}), (SCALABLE, {"scalable": False}), (ABORT_DMA, {"abort_dma": False})],
)
def test_a_table_mode_that_is_not_there_is_an_invalid_root_table(ttm: int, features: dict[str, Any]) -> None:
    world = World(ttm=ttm, **features)
    assert world.blocked(None) == ("vtd.ttm-invalid", Reason.ROOT_TABLE_ADDRESS)
    assert len(world.records) == 1


# --- root entries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sid", "half"), [(SID, 0), (HIGH_SID, 8)])
def test_each_half_of_a_root_entry_serves_its_devices(sid: int, half: int) -> None:
    world = World()
    for device in (SID, HIGH_SID):
        world.context(device)
        world.pasid(PASID, device, pgtt=PASS)
        assert passing(world, sid=device)
    world.lookup.clear()
    world.memory.store64(world.root_place() + half, 0)
    assert world.blocked(sid=sid) == ("vtd.root-not-present", Reason.ROOT_NOT_PRESENT)
    assert passing(world, sid=SID if half else HIGH_SID)


def test_a_root_entry_out_of_reach_is_an_access_error() -> None:
    world = World()
    world.first()
    world.memory.poison(world.root_place(), 16)
    assert world.blocked() == ("vtd.root-access", Reason.ROOT_ACCESS)
    assert world.touches[-1][:2] == (world.root_place(), None)
    world.memory.heal()
    assert passing(world)


def test_a_root_table_beyond_the_host_width_is_an_access_error() -> None:
    world = World(**NARROW_HOST)
    world.root_register = Rtaddr(ttm=SCALABLE, rta=WIDE)
    assert world.blocked() == ("vtd.root-access", Reason.ROOT_ACCESS)


@pytest.mark.parametrize("bit", [1, 11, 46, 63])
def test_reserved_bits_of_a_root_entry(bit: int) -> None:
    world = World(**NARROW_HOST)
    world.first()
    store_bit(world, world.root_place(), bit)
    assert world.blocked() == ("vtd.root-reserved", Reason.ROOT_RESERVED)


def test_reserved_bits_of_the_other_half_do_not_count() -> None:
    world = World()
    world.first()
    store_bit(world, world.root_place(), 65)
    assert passing(world)


def test_root_entries_have_no_fault_processing_disable() -> None:
    world = World()
    world.root(lp=0)
    world.memory.store64(world.root_place(), 2)
    assert world.blocked() == ("vtd.root-not-present", Reason.ROOT_NOT_PRESENT)
    assert len(world.records) == 1


# --- scalable-mode context entries -----------------------------------------------------------------------------------


def test_a_context_entry_out_of_reach_is_an_access_error() -> None:
    world = World()
    world.first()
    world.memory.poison(world.context_place(), 8)
    assert world.blocked() == ("vtd.context-access", Reason.CONTEXT_ACCESS)
    world.memory.heal()
    assert passing(world)


def test_a_context_entry_that_is_not_present() -> None:
    world = World()
    world.first()
    world.context(p=0)
    assert world.blocked() == ("vtd.context-not-present", Reason.CONTEXT_NOT_PRESENT)
    world.context()
    assert passing(world)


@pytest.mark.parametrize("bit", [5, 8, 46, 63, 85, 128, 255])
def test_reserved_bits_of_a_context_entry(bit: int) -> None:
    world = World(**NARROW_HOST)
    world.first()
    store_bit(world, world.context_place(), bit)
    assert world.blocked() == ("vtd.context-reserved", Reason.CONTEXT_RESERVED)


@pytest.mark.parametrize(
    ("field", "features"),
    [
        ("dte", {"device_tlb": False, "page_requests": False}),
        ("paside", {"pasid_bits": 0}),
        ("pre", {"page_requests": False}),
    ],
)
def test_a_context_entry_enables_only_what_the_unit_has(field: str, features: dict[str, Any]) -> None:
    off = {"dte": 0, "paside": 0, "pre": 0}
    world = World(**features)
    world.context(**(off | {field: 1}))
    assert world.blocked(None) == ("vtd.context-invalid", Reason.CONTEXT_INVALID)
    world = World()
    world.context(**(off | {field: 1}))
    world.pasid(0, pgtt=PASS)
    assert passing(world, None)


def test_translated_requests_need_dte() -> None:
    world = World()
    world.first()
    assert passing(world, ats=Ats.TRANSLATED)
    world.lookup.clear()
    world.context(dte=0)
    assert world.blocked(ats=Ats.TRANSLATED) == ("vtd.dte-clear", Reason.DTE_CLEAR)
    assert passing(world)


def test_requests_with_pasid_need_paside() -> None:
    world = World()
    world.first()
    world.context(paside=0)
    world.pasid(0, pgtt=PASS)
    assert world.blocked() == ("vtd.paside-clear", Reason.PASIDE_CLEAR)
    assert passing(world, None)


@pytest.mark.parametrize(("pdts", "features"), [(0, {}), (3, {}), (7, {"pasid_bits": 14})])
def test_pasids_beyond_the_directory(pdts: int, features: dict[str, Any]) -> None:
    world = World(**features)
    limit = 1 << (min(pdts + 13, features.get("pasid_bits", 20)))
    world.context(pdts=pdts)
    world.pasid(limit - 1, pgtt=PASS)
    assert passing(world, limit - 1)
    assert world.blocked(limit) == ("vtd.pasid-beyond-directory", Reason.PASID_BEYOND_PDTS)


def test_rid_pasid_beyond_the_directory() -> None:
    world = World()
    world.context(pdts=0, rid_pasid=1 << 13)
    assert world.blocked(None) == ("vtd.rid-pasid-beyond-directory", Reason.RID_PASID)
    assert passing_rid(1 << 12)


def passing_rid(rid_pasid: int, **features: Any) -> bool:
    world = World(**features)
    world.context(pdts=0, rid_pasid=rid_pasid)
    world.pasid(rid_pasid, pgtt=PASS)
    return passing(world, None)


@pytest.mark.parametrize("rid_pasid", [0, 1, 0x1FFF])
def test_requests_without_pasid_use_any_rid_pasid(rid_pasid: int) -> None:
    assert passing_rid(rid_pasid)


def test_rid_pasid_is_0_where_the_unit_has_none() -> None:
    world = World(rid_pasid=False)
    world.context(rid_pasid=9)
    world.pasid(0, pgtt=PASS)
    assert passing(world, None)
    world = World()
    world.context(rid_pasid=9)
    world.pasid(0, pgtt=PASS)
    assert world.blocked(None)[1] == Reason.PASID_NOT_PRESENT


def test_requests_without_pasid_do_not_need_paside_and_their_record_has_no_pasid() -> None:
    world = World()
    world.context(paside=0, rid_pasid=7)
    world.pasid(7, pgtt=FIRST, fsptptr=Tree(world).root)
    assert world.blocked(None) == ("x86.not-present", Reason.FIRST_NOT_PRESENT)
    assert not world.records[0].pp
    assert not world.records[0].pv


# --- PASID directory and table ---------------------------------------------------------------------------------------


def test_a_directory_entry_out_of_reach_is_an_access_error() -> None:
    world = World()
    world.first()
    world.memory.poison(world.directory_place(), 8)
    assert world.blocked() == ("vtd.directory-access", Reason.DIRECTORY_ACCESS)
    assert world.touches[-1].address == world.directory_place()


def test_a_directory_entry_that_is_not_present() -> None:
    world = World()
    world.first()
    assert passing(world)
    assert world.blocked(PASID + 64) == ("vtd.directory-not-present", Reason.DIRECTORY_NOT_PRESENT)


@pytest.mark.parametrize("bit", [2, 11, 46, 63])
def test_reserved_bits_of_a_directory_entry(bit: int) -> None:
    world = World(**NARROW_HOST)
    world.first()
    store_bit(world, world.directory_place(), bit)
    assert world.blocked() == ("vtd.directory-reserved", Reason.DIRECTORY_RESERVED)


def test_a_pasid_entry_out_of_reach_is_an_access_error() -> None:
    world = World()
    world.first()
    world.memory.poison(world.pasid_place() + 56, 8)
    assert world.blocked() == ("vtd.pasid-access", Reason.PASID_ACCESS)
    assert world.touches[-1][:2] == (world.pasid_place(), None)


def test_a_pasid_entry_that_is_not_present() -> None:
    world = World()
    world.first()
    assert passing(world)
    assert world.blocked(PASID + 1) == ("vtd.pasid-not-present", Reason.PASID_NOT_PRESENT)


@pytest.mark.parametrize("bit", [10, 11, 80, 86, 88, 89, 95, 96, 127, 136, 139, 192, 511])
def test_reserved_bits_of_a_pasid_entry(bit: int) -> None:
    world = World()
    world.first()
    store_bit(world, world.pasid_place(), bit)
    assert world.blocked() == ("vtd.pasid-reserved", Reason.PASID_RESERVED)


@pytest.mark.parametrize(
    ("field", "feature"),
    [
        ("ssee", "execute_requests"),
        ("ere", "execute_requests"),
        ("sre", "supervisor_requests"),
        ("ssade", "second_ad"),
        ("eafe", "extended_accessed"),
        ("pwsnp", "coherent"),
    ],
)
def test_fields_of_features_that_the_unit_lacks_are_reserved(field: str, feature: str) -> None:
    world = World(**{feature: False})
    world.first(**{field: 1})
    assert world.blocked() == ("vtd.pasid-reserved", Reason.PASID_RESERVED)
    world = World()
    world.first(**{field: 1})
    assert passing(world)


@pytest.mark.parametrize(
    ("pgtt", "pointer"), [(FIRST, "fsptptr"), (SECOND, "ssptptr"), (NESTED, "ssptptr")], ids=["1", "2", "nested"]
)
def test_table_pointers_beyond_the_host_width_are_reserved_bits(pgtt: int, pointer: str) -> None:
    world = World(**NARROW_HOST)
    world.context()
    world.pasid(**{"pgtt": pgtt, "aw": 2, pointer: WIDE})
    assert world.blocked() == ("vtd.pasid-reserved", Reason.PASID_RESERVED)


def test_a_pointer_that_is_not_used_does_not_count() -> None:
    world = World(**NARROW_HOST)
    world.first(ssptptr=WIDE)
    assert passing(world)


@pytest.mark.parametrize(
    ("pgtt", "features"),
    [
        (0, {}),
        (5, {}),
        (7, {}),
        (FIRST, {"first_stage": False}),
        (SECOND, {"second_stage": False}),
        (NESTED, {"nested": False}),
        (PASS, {"pass_through": False}),
    ],
)
def test_translation_types_that_are_not_there(pgtt: int, features: dict[str, Any]) -> None:
    world = World(**features)
    world.context()
    world.pasid(pgtt=pgtt, aw=2)
    assert world.blocked() == ("vtd.pasid-pgtt", Reason.PASID_INVALID)


@pytest.mark.parametrize(("aw", "levels"), [(0, {3, 4, 5}), (4, {3, 4, 5}), (1, {4}), (2, {3, 5}), (3, {4})])
def test_widths_of_the_second_stage_that_are_not_there(aw: int, levels: set[int]) -> None:
    world = World(second_levels=frozenset(levels))
    world.context()
    world.pasid(pgtt=SECOND, aw=aw)
    assert world.blocked() == ("vtd.pasid-aw", Reason.PASID_INVALID)
    world.lookup.clear()
    world.pasid(pgtt=FIRST, aw=aw)
    assert world.blocked() == ("x86.not-present", Reason.FIRST_NOT_PRESENT)


@pytest.mark.parametrize(("fspm", "five"), [(1, False), (2, True), (3, True)])
def test_paging_modes_of_the_first_stage_that_are_not_there(fspm: int, five: bool) -> None:
    world = World(five_level=five)
    world.context()
    world.pasid(pgtt=FIRST, fspm=fspm)
    assert world.blocked() == ("vtd.pasid-fspm", Reason.PASID_INVALID)
    world.lookup.clear()
    world.pasid(pgtt=PASS, fspm=fspm)
    assert passing(world)


def test_execute_requests_need_ere() -> None:
    world = World()
    world.first()
    assert world.blocked(instruction=True) == ("vtd.ere-clear", Reason.ERE_CLEAR)
    assert world.records[0].exe
    world = World()
    world.first(ere=1)
    assert passing(world, instruction=True)


def test_supervisor_requests_need_sre() -> None:
    world = World()
    world.first(ere=1)
    assert world.blocked(privileged=True) == ("vtd.sre-clear", Reason.SRE_CLEAR)
    assert world.records[0].priv
    world = World()
    world.first(sre=1)
    assert passing(world, privileged=True)


def test_execute_comes_before_supervisor() -> None:
    world = World()
    world.first()
    assert world.blocked(privileged=True, instruction=True)[1] == Reason.ERE_CLEAR


def test_rid_priv_makes_requests_without_pasid_supervisor_requests() -> None:
    world = World()
    world.context(rid_priv=1)
    world.pasid(0, pgtt=PASS)
    assert world.blocked(None) == ("vtd.sre-clear", Reason.SRE_CLEAR)
    assert not world.records[0].priv
    world = World(rid_priv=False)
    world.context(rid_priv=1)
    world.pasid(0, pgtt=PASS)
    assert passing(world, None)


# --- fault processing disable ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [0, 1])
def test_fpd_of_a_context_entry_silences_its_faults_and_those_behind_it(present: int) -> None:
    world = World()
    world.first()
    world.context(fpd=1, p=present)
    reasons = [Reason.PASID_NOT_PRESENT, Reason.PASIDE_CLEAR] if present else [Reason.CONTEXT_NOT_PRESENT]
    assert world.blocked(PASID + 1)[1] == reasons[0]
    world.lookup.clear()
    world.context(fpd=1, p=present, paside=0)
    assert world.blocked()[1] == reasons[-1]
    assert not world.records


def test_fpd_of_a_context_entry_silences_page_faults() -> None:
    world = World()
    world.first()
    world.context(fpd=1)
    assert world.blocked(address=0)[1] == Reason.FIRST_NOT_PRESENT
    assert world.blocked(address=0)[1] == Reason.FIRST_NOT_PRESENT
    assert not world.records


@pytest.mark.parametrize("present", [0, 1])
def test_fpd_of_a_directory_entry_silences_its_faults_and_those_behind_it(present: int) -> None:
    world = World()
    world.first()
    table = world.memory.load64(world.directory_place()) or 0
    world.directory(p=present, fpd=1, smptblptr=table & -0x1000)
    expected = Reason.PASID_NOT_PRESENT if present else Reason.DIRECTORY_NOT_PRESENT
    assert world.blocked(PASID + 1)[1] == expected
    if present:
        assert world.blocked(address=0)[1] == Reason.FIRST_NOT_PRESENT
    assert not world.records


@pytest.mark.parametrize("present", [0, 1])
def test_fpd_of_a_pasid_entry_silences_its_faults_and_those_behind_it(present: int) -> None:
    world = World()
    world.first(p=present, fpd=1)
    expected = Reason.FIRST_NOT_PRESENT if present else Reason.PASID_NOT_PRESENT
    assert world.blocked(address=0)[1] == expected
    assert world.blocked(instruction=True)[1] == (Reason.ERE_CLEAR if present else Reason.PASID_NOT_PRESENT)
    assert not world.records


def test_fpd_of_one_pasid_silences_no_other() -> None:
    world = World()
    world.first(fpd=1)
    assert world.blocked(PASID + 1)[1] == Reason.PASID_NOT_PRESENT
    assert len(world.records) == 1


def test_an_entry_that_cannot_be_read_silences_nothing() -> None:
    world = World()
    world.first(fpd=1)
    world.memory.poison(world.pasid_place(), 1)
    assert world.blocked()[1] == Reason.PASID_ACCESS
    assert len(world.records) == 1


# --- legacy mode -----------------------------------------------------------------------------------------------------


def test_legacy_mode_knows_no_pasids() -> None:
    world = World(ttm=LEGACY)
    world.legacy()
    assert world.blocked() == ("vtd.legacy-pasid", Reason.TTM_REQUEST_WITH_PASID)
    assert passing(world, None)


def test_a_legacy_root_entry() -> None:
    world = World(ttm=LEGACY, **NARROW_HOST)
    world.legacy()
    place = world.root_place()
    context = world.memory.load64(place) or 0
    for raw, rule, reason in (
        (0, "vtd.legacy-root-not-present", Reason.LEGACY_ROOT_NOT_PRESENT),
        (context | 2, "vtd.legacy-root-reserved", Reason.LEGACY_ROOT_RESERVED),
        (context | WIDE, "vtd.legacy-root-reserved", Reason.LEGACY_ROOT_RESERVED),
        (context | 1 << 64, "vtd.legacy-root-reserved", Reason.LEGACY_ROOT_RESERVED),
    ):
        world.memory.store(place, raw.to_bytes(16, "little"))
        assert world.blocked(None) == (rule, reason)
    world.memory.poison(place, 16)
    assert world.blocked(None) == ("vtd.legacy-root-access", Reason.LEGACY_ROOT_ACCESS)
    world.memory.heal()
    world.memory.store(place, context.to_bytes(16, "little"))
    assert passing(world, None)


def test_a_legacy_context_entry_that_is_absent_or_lost() -> None:
    world = World(ttm=LEGACY)
    world.legacy(p=0)
    assert world.blocked(None) == ("vtd.legacy-context-not-present", Reason.LEGACY_CONTEXT_NOT_PRESENT)
    world.memory.poison(world.legacy_context_place(), 16)
    assert world.blocked(None) == ("vtd.legacy-context-access", Reason.LEGACY_CONTEXT_ACCESS)
    assert len(world.records) == 2


@pytest.mark.parametrize("bit", [4, 11, 46, 63, 71, 88, 127])
def test_reserved_bits_of_a_legacy_context_entry(bit: int) -> None:
    world = World(ttm=LEGACY, **NARROW_HOST)
    world.legacy()
    store_bit(world, world.legacy_context_place(), bit)
    assert world.blocked(None) == ("vtd.legacy-context-reserved", Reason.LEGACY_CONTEXT_RESERVED)


@pytest.mark.parametrize("bit", [67, 70])
def test_available_bits_of_a_legacy_context_entry_are_free(bit: int) -> None:
    world = World(ttm=LEGACY)
    world.legacy()
    store_bit(world, world.legacy_context_place(), bit)
    assert passing(world, None)


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        ({"tt": 3}, {}),
        ({"tt": 1}, {"device_tlb": False, "page_requests": False}),
        ({"tt": 2}, {"pass_through": False}),
        ({"aw": 0}, {}),
        ({"aw": 1}, {"second_levels": frozenset({4})}),
        ({"tt": 2, "aw": 3}, {"second_levels": frozenset({4})}),
    ],
)
def test_a_legacy_context_entry_that_the_unit_does_not_do(fields: dict[str, int], features: dict[str, Any]) -> None:
    world = World(ttm=LEGACY, **features)
    world.legacy_context(**fields)
    assert world.blocked(None) == ("vtd.legacy-context-invalid", Reason.LEGACY_CONTEXT_INVALID)


@pytest.mark.parametrize("tt", [0, 1, 2])
def test_every_legacy_translation_type_takes_plain_requests(tt: int) -> None:
    world = World(ttm=LEGACY)
    world.legacy(tt=tt)
    assert world.go(None).address == (VA if tt == 2 else PA)


@pytest.mark.parametrize("ats", [Ats.TRANSLATED, Ats.TRANSLATION_REQUEST])
def test_only_translation_type_1_has_device_tlbs(ats: Ats) -> None:
    for tt in (0, 2):
        world = World(ttm=LEGACY)
        world.legacy(tt=tt)
        assert world.go(None, ats=ats).rule.id == "vtd.legacy-blocked"
        assert [record.fr for record in world.records] == [Reason.LEGACY_BLOCKED]
    world = World(ttm=LEGACY)
    world.legacy(tt=1)
    world.go(None, ats=ats)
    assert not world.records


def test_fpd_of_a_legacy_context_entry() -> None:
    world = World(ttm=LEGACY)
    world.legacy(fpd=1)
    assert world.blocked(None, 0x1000)[1] == Reason.LEGACY_NO_READ
    assert not world.records


# --- what was touched ------------------------------------------------------------------------------------------------


def test_a_cold_lookup_reads_four_tables_in_order_and_a_warm_one_none() -> None:
    world = World()
    world.context()
    world.pasid(pgtt=PASS)
    world.go()
    assert [touch.rule.id for touch in world.touches] == [
        "vtd.root-read",
        "vtd.context-read",
        "vtd.directory-read",
        "vtd.pasid-read",
    ]
    assert [touch.address for touch in world.touches] == [
        world.root_place(),
        world.context_place(),
        world.directory_place(),
        world.pasid_place(),
    ]
    assert [touch.level for touch in world.touches] == [3, 2, 1, 0]
    world.go()
    assert not world.touches


def test_a_record_that_finds_no_room_is_lost_and_the_request_is_blocked_all_the_same() -> None:
    world = World()
    world.full = True
    assert world.blocked() == ("vtd.root-not-present", Reason.ROOT_NOT_PRESENT)


def test_root_entries_are_the_specifications() -> None:
    assert ScalableRootEntry(lp=1, lctp=0x1000, up=1, uctp=0x2000).words == (0x1001, 0x2001)

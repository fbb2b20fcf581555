"""Looking at a remapping unit from outside: what is found is what the unit itself would find, and nothing changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.pagetable.listing import TableEntry
from pasidlab.hw.pagetable.vtd_second import SecondStage
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.hw.transaction import Operation, Translated
from pasidlab.hw.vtd import inspect
from pasidlab.hw.vtd.contexts import DeviceContext, LegacyContext, Paging
from pasidlab.hw.vtd.descriptors import ContextCacheInvalidate, InvalidationWait, PasidCacheInvalidate
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.legality import Check
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.hw.vtd.registers import REGISTERS, Gcmd, Offset, Rtaddr, Ttm
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.structures import PasidEntry, RootEntry, ScalableContextEntry, ScalableRootEntry
from pasidlab.hw.vtd.unit import RemappingUnit

from .vtd_tables import (
    DID,
    FIRST,
    HIGH_SID,
    LEGACY,
    NESTED,
    PA,
    PASID,
    PS,
    SCALABLE,
    SECOND,
    SID,
    US,
    USER_PAGE,
    VA,
    P,
    R,
    Tables,
    Tree,
    W,
    X,
)

QUEUE, REQUESTS = 0x10_0000, 0x20_0000


def write(unit: RemappingUnit, offset: Offset, **fields: int) -> None:
    word = REGISTERS[offset]
    unit.mmio_write(offset, word(**fields), word.SIZE // 8)


def unit_on(tables: Tables, ttm: int = SCALABLE, **features: Any) -> RemappingUnit:
    """Return a unit that translates by some tables."""
    unit = RemappingUnit(tables.memory, Features(**features))
    unit.mmio_write(Offset.RTADDR, Rtaddr(ttm=ttm, rta=tables.root_table), 8)
    unit.mmio_write(Offset.GCMD, Gcmd(srtp=True), 4)
    unit.mmio_write(Offset.GCMD, Gcmd(te=True), 4)
    return unit


def present(entries: Any) -> dict[int, Any]:
    """Return the entries that are not zero, by what they are for."""
    return {entry.key: entry.word for entry in entries if entry.word != 0}


def context_of(unit: RemappingUnit, sid: int = SID) -> DeviceContext:
    root = present(inspect.root_entries(unit))[sid >> 8]
    found = inspect.context(unit, present(inspect.context_entries(unit, sid >> 8, root))[sid])
    assert isinstance(found, DeviceContext)
    return found


def pasids_of(unit: RemappingUnit, sid: int = SID) -> dict[int, PasidEntry]:
    found: dict[int, PasidEntry] = {}
    for first, entry in present(inspect.directory_entries(unit, context_of(unit, sid))).items():
        found |= present(inspect.pasid_entries(unit, first, entry))
    return found


def paging_of(unit: RemappingUnit, pasid: int = PASID) -> Paging:
    found = inspect.paging(unit, pasid, pasids_of(unit)[pasid])
    assert isinstance(found, Paging)
    return found


def leaves(entries: Any) -> list[TableEntry]:
    return [entry for entry in entries if entry.reading.leaf]


def one_first_stage(levels: int = 4) -> tuple[Tables, Tree]:
    tables = Tables()
    tables.context()
    tree = Tree(tables, levels)
    tables.pasid(pgtt=FIRST, fspm=levels - 4, fsptptr=tree.root)
    return tables, tree


class TestTables:
    def test_every_source_is_listed_under_its_number_in_both_halves(self) -> None:
        tables = Tables()
        for sid in (SID, HIGH_SID, 0xFF00):
            tables.context(sid)
        unit = unit_on(tables)
        roots = present(inspect.root_entries(unit))
        assert sorted(roots) == [0x02, 0xFF]
        assert all(isinstance(root, ScalableRootEntry) for root in roots.values())
        assert sorted(present(inspect.context_entries(unit, 2, roots[2]))) == [SID, HIGH_SID]
        assert sorted(present(inspect.context_entries(unit, 0xFF, roots[0xFF]))) == [0xFF00]

    @settings(max_examples=20)
    @given(st.sets(st.integers(0, (1 << 20) - 1), min_size=1, max_size=6))
    def test_every_pasid_is_listed_under_its_number(self, numbers: set[int]) -> None:
        tables = Tables()
        tables.context()
        for pasid in numbers:
            tables.pasid(pasid, pgtt=FIRST)
        assert set(pasids_of(unit_on(tables))) == numbers

    def test_entries_lie_where_they_are_said_to(self) -> None:
        tables, _ = one_first_stage()
        unit = unit_on(tables)
        for entry in inspect.root_entries(unit):
            assert unit.memory.load(entry.address, 16) == entry.word.pack()
        context = next(iter(inspect.context_entries(unit, 2, present(inspect.root_entries(unit))[2])))
        assert (context.key, context.address) == (0x0200, tables.context_place(0x0200))

    def test_a_directory_is_as_large_as_the_context_entry_and_the_unit_say(self) -> None:
        tables = Tables()
        tables.context(pdts=0)
        tables.pasid(0x10, pgtt=FIRST)
        assert set(pasids_of(unit_on(tables))) == {0x10}
        tables.directory(1 << 13, p=1)
        assert set(present(inspect.directory_entries(unit_on(tables), context_of(unit_on(tables))))) == {0}
        tables.context(pdts=1)
        assert set(present(inspect.directory_entries(unit_on(tables), context_of(unit_on(tables))))) == {0, 1 << 13}
        few = unit_on(tables, pasid_bits=13)
        assert set(present(inspect.directory_entries(few, context_of(few)))) == {0}

    def test_an_entry_for_which_memory_does_not_answer_has_no_word(self) -> None:
        tables, _ = one_first_stage()
        unit = unit_on(tables)
        unit.memory.poison(tables.pasid_place(), 64)
        assert pasids_of(unit)[PASID] is None

    def test_memory_beyond_the_host_address_width_does_not_answer(self) -> None:
        tables = Tables(root=1 << 40)
        tables.context()
        assert set(present(inspect.root_entries(unit_on(tables, host_bits=41)))) == {2}
        narrow = unit_on(tables, host_bits=41)
        narrow.features = Features(host_bits=40)
        assert {entry.word for entry in inspect.root_entries(narrow)} == {None}

    def test_a_half_that_is_not_legal_leads_nowhere_and_is_said_to_be_refused(self) -> None:
        tables = Tables()
        tables.context(SID)
        tables.context(HIGH_SID)
        raw = ScalableRootEntry.unpack(tables.memory.load(tables.root_place(), 16))
        tables.store(tables.root_place(), ScalableRootEntry(raw | 0x10))
        unit = unit_on(tables)
        root = present(inspect.root_entries(unit))[2]
        assert [check.reason for check in inspect.root_checks(unit, root)] == [Reason.ROOT_RESERVED]
        assert set(present(inspect.context_entries(unit, 2, root))) == {HIGH_SID}

    def test_what_the_unit_refuses_is_the_check_that_it_fails(self) -> None:
        unit = unit_on(Tables(), nested=False)
        for found, reason in (
            (inspect.context(unit, ScalableContextEntry()), Reason.CONTEXT_NOT_PRESENT),
            (inspect.paging(unit, 1, PasidEntry(p=True, pgtt=NESTED)), Reason.PASID_INVALID),
        ):
            assert isinstance(found, Check)
            assert found.reason is reason

    def test_legacy_tables_are_found_in_legacy_mode(self) -> None:
        tables = Tables()
        tree = Tree(tables, on_the_way=R | W)
        tables.legacy_context(HIGH_SID, ssptptr=tree.root)
        tree.map(VA, PA, R)
        unit = unit_on(tables, LEGACY)
        table = inspect.root_table(unit)
        assert (table.mode, table.scalable, table.on) == (Ttm.LEGACY, False, True)
        [root] = present(inspect.root_entries(unit)).values()
        assert isinstance(root, RootEntry)
        assert inspect.root_checks(unit, root) == []
        [(source, entry)] = present(inspect.context_entries(unit, 2, root)).items()
        found = inspect.context(unit, entry)
        assert isinstance(found, LegacyContext)
        assert isinstance(found.paging.stage, SecondStage)
        [leaf] = leaves(inspect.second_stage_entries(unit, found.paging.stage))
        assert (source, found.paging.did, leaf.first, leaf.target) == (HIGH_SID, DID, VA & -4096, PA & -4096)

    def test_the_root_table_is_the_one_that_was_set_and_not_the_one_that_was_only_written(self) -> None:
        unit = unit_on(Tables())
        before = inspect.root_table(unit)
        unit.mmio_write(Offset.RTADDR, Rtaddr(rta=0x5000), 8)
        assert inspect.root_table(unit) == before
        unit.mmio_write(Offset.GCMD, Gcmd(srtp=True, te=True), 4)
        assert inspect.root_table(unit).address == 0x5000


class TestPageTables:
    @pytest.mark.parametrize("levels", [4, 5])
    def test_both_halves_of_a_first_stage_have_canonical_addresses(self, levels: int) -> None:
        tables, tree = one_first_stage(levels)
        top = -(1 << 8 + 9 * levels + 3) & (1 << 64) - 1
        for address in (VA, top):
            tree.map(address, PA, USER_PAGE)
        unit = unit_on(tables)
        stage = paging_of(unit).stage
        assert isinstance(stage, X86Paging)
        found = leaves(inspect.first_stage_entries(unit, stage))
        assert [(leaf.first, leaf.target, leaf.lg2) for leaf in found] == [
            (VA & -4096, PA & -4096, 12),
            (top, PA & -4096, 12),
        ]
        for leaf in found:
            ended = unit.translate(Request(SID, PASID, leaf.first))
            assert isinstance(ended, Translated)
            assert (ended.address, ended.rights) == (leaf.target, leaf.rights)

    def test_every_leaf_of_a_listing_is_what_the_unit_translates_to(self) -> None:
        tables, tree = one_first_stage()
        tree.map(VA, PA, USER_PAGE)
        tree.map(VA + (1 << 21), PA & -(1 << 21), P | US, 2)
        tree.map(VA + (1 << 40), PA & -(1 << 30), USER_PAGE, 3)
        unit = unit_on(tables)
        stage = paging_of(unit).stage
        assert isinstance(stage, X86Paging)
        found = leaves(inspect.first_stage_entries(unit, stage))
        assert [leaf.lg2 for leaf in found] == [12, 21, 30]
        for leaf in found:
            ended = unit.translate(Request(SID, PASID, leaf.first + 0x678))
            assert isinstance(ended, Translated)
            assert (ended.address, ended.lg2, ended.rights) == (leaf.target + 0x678, leaf.lg2, leaf.rights)

    def test_entries_that_are_not_present_are_left_out_and_faulty_ones_are_not(self) -> None:
        tables, tree = one_first_stage()
        tree.map(VA, PA, USER_PAGE)
        tree.put(VA + 0x1000, 0x7FFF_FFFF_FFFF_FFFE)
        tree.put(VA, P | PS, 4)
        unit = unit_on(tables)
        stage = paging_of(unit).stage
        assert isinstance(stage, X86Paging)
        found = list(inspect.first_stage_entries(unit, stage))
        assert [entry.reading.rule.id for entry in found] == ["x86.page-size"]

    def test_a_second_stage_without_any_right_is_not_present(self) -> None:
        tables = Tables()
        tables.context()
        tree = Tree(tables, 3, on_the_way=R | W | X)
        tables.pasid(pgtt=SECOND, aw=1, ssptptr=tree.root)
        tree.map(0x1000, PA, R)
        tree.put(0x2000, PA & -4096)
        unit = unit_on(tables)
        stage = paging_of(unit).stage
        assert isinstance(stage, SecondStage)
        assert [leaf.first for leaf in leaves(inspect.second_stage_entries(unit, stage))] == [0x1000]

    def test_a_second_stage_is_listed_as_far_as_the_unit_takes_addresses(self) -> None:
        tables = Tables()
        tables.context()
        tree = Tree(tables, 5, on_the_way=R | W | X)
        tables.pasid(pgtt=SECOND, aw=3, ssptptr=tree.root)
        for address in (0x1000, 1 << 40, 1 << 52):
            tree.map(address, PA, R)
        for bits, count in ((57, 3), (48, 2), (30, 2)):
            unit = unit_on(tables, guest_bits=bits)
            stage = paging_of(unit).stage
            assert isinstance(stage, SecondStage)
            assert len(leaves(inspect.second_stage_entries(unit, stage))) == count

    def test_a_table_that_leads_to_itself_ends_where_levels_end(self) -> None:
        tables, tree = one_first_stage()
        tables.memory.store64(tree.root, tree.root | USER_PAGE)
        unit = unit_on(tables)
        stage = paging_of(unit).stage
        assert isinstance(stage, X86Paging)
        assert [entry.level for entry in inspect.first_stage_entries(unit, stage)] == [4, 3, 2, 1]


class TestQueuesAndFaults:
    def test_descriptors_that_were_not_taken_are_pending(self) -> None:
        unit = unit_on(Tables())
        write(unit, Offset.IQA, iqa=QUEUE, dw=True)
        unit.mmio_write(Offset.GCMD, Gcmd(te=True, qie=True), 4)
        bad, good = ContextCacheInvalidate.make(), InvalidationWait.make(sw=True, stdata=1, staddr=0x30_0000)
        for index, descriptor in enumerate((PasidCacheInvalidate.make(g=3), bad, good)):
            unit.memory.store(QUEUE + 32 * index, descriptor.pack())
        write(unit, Offset.IQT, qt=96)
        queue = inspect.invalidation_queue(unit)
        assert (queue.base, queue.entries, queue.pending) == (QUEUE, 128, [bad, good])
        assert [type(word) for word in queue.pending] == [ContextCacheInvalidate, InvalidationWait]

    def test_a_queue_of_short_descriptors_has_twice_as_many(self) -> None:
        unit = unit_on(Tables(), LEGACY)
        write(unit, Offset.IQA, iqa=QUEUE, qs=1)
        write(unit, Offset.IQT, qt=16)
        unit.memory.store(QUEUE, InvalidationWait.make().pack()[:16])
        queue = inspect.invalidation_queue(unit)
        assert (queue.entries, queue.pending) == (512, [InvalidationWait.make()])

    def test_page_requests_wait_in_the_queue_or_on_their_way(self) -> None:
        tables = Tables()
        tables.context()
        unit = unit_on(tables)
        write(unit, Offset.PQA, pqa=REQUESTS)
        asked = [PageRequest(rid=SID, rd=True, lpig=True, prgi=index, addr=0x1000) for index in range(3)]
        unit.page_request(asked[0])
        unit.page_requests.hold = True
        for request in asked[1:]:
            unit.page_request(request)
        queue = inspect.page_request_queue(unit)
        assert queue is not None
        assert [word.prgi for word in queue.pending] == [0]
        assert [request.prgi for request in inspect.page_requests_in_flight(unit)] == [1, 2]

    def test_a_unit_without_page_requests_has_no_such_queue(self) -> None:
        assert inspect.page_request_queue(unit_on(Tables(), page_requests=False)) is None

    def test_fault_records_are_those_that_software_did_not_clear_oldest_first(self) -> None:
        unit = unit_on(Tables(), fault_records=3)
        for sid in (0x100, 0x200, 0x300):
            unit.translate(Request(sid, 1, 0x1000))
        assert [(index, record.sid) for index, record in inspect.fault_records(unit)] == [
            (0, 0x100),
            (1, 0x200),
            (2, 0x300),
        ]
        unit.mmio_write(0x50C, 1 << 31, 4)
        assert [index for index, _ in inspect.fault_records(unit)] == [1, 2]

    @settings(max_examples=50)
    @given(st.data())
    def test_any_register_contents_can_be_looked_at(self, data: st.DataObject) -> None:
        unit = unit_on(one_first_stage()[0])
        for offset in (Offset.IQA, Offset.IQT, Offset.PQA, Offset.PQH, Offset.PQT, Offset.RTADDR):
            unit.mmio_write(offset, data.draw(st.integers(0, (1 << 64) - 1)), 8)
        unit.mmio_write(Offset.GCMD, Gcmd(srtp=True), 4)
        assert len(inspect.invalidation_queue(unit).pending) < inspect.invalidation_queue(unit).entries
        list(inspect.root_entries(unit))
        assert inspect.page_request_queue(unit) is not None


def test_looking_changes_nothing() -> None:
    tables, tree = one_first_stage()
    place = tree.map(VA, PA, USER_PAGE)
    unit = unit_on(tables)
    before = copy.deepcopy(unit)
    stage = paging_of(unit).stage
    assert isinstance(stage, X86Paging)
    assert len(list(inspect.first_stage_entries(unit, stage))) == 4
    assert unit.memory.load64(place) == before.memory.load64(place)
    assert (len(unit.lookup.cached_contexts), len(unit.lookup.cached_pasids), len(unit.tlb)) == (0, 0, 0)
    for offset in Offset:
        assert inspect.register(unit, offset) == inspect.register(before, offset)
    assert isinstance(unit.translate(Request(SID, PASID, VA, Operation.WRITE)), Translated)
    assert unit.memory.load64(place) != before.memory.load64(place)

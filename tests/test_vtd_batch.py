"""Batches, held against one translation after the other, on random worlds whose tables are mostly legal."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.batch.ahead import CACHED_WORDS
from pasidlab.hw.pagetable import vtd_second, x86
from pasidlab.hw.transaction import Operation, Translated
from pasidlab.hw.vtd import legality, lookup, translate
from pasidlab.hw.vtd.batch import Batch, BatchTranslator, Status
from pasidlab.hw.vtd.batch_tables import NUMBERING
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.registers import REGISTERS, Gcmd, Offset, Rtaddr
from pasidlab.hw.vtd.request import Blocked, Request
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.memory import Memory
from pasidlab.rules import Rule
from pasidlab.words import Word
from tests.test_vtd_oracle import CONTEXT, DIRECTORY, HOST, PASIDS, POOL, ROOT, SID, built
from tests.test_vtd_oracle import Dice as OracleDice
from tests.vtd_tables import FIRST, LEGACY, PA, PASID, USER_PAGE, VA, Tables, Tree, World
from tests.vtd_tables import SID as DEVICE

WORLDS, REQUESTS = 1600, 25
UPPER_SID = SID | 0x80
LACKING = (
    "first_stage",
    "second_stage",
    "nested",
    "pass_through",
    "five_level",
    "first_1g",
    "second_2m",
    "second_1g",
    "execute_requests",
    "supervisor_requests",
    "rid_pasid",
    "rid_priv",
    "extended_accessed",
    "second_ad",
    "abort_dma",
    "scalable",
)


class Dice(OracleDice):
    """Chances with names, and what differs from world to world."""

    def chance(self, percent: float) -> bool:
        return self.random() * 100 < percent

    def features(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: False for name in LACKING if self.chance(4)}
        if self.chance(10):
            found |= {"device_tlb": False, "page_requests": False}
        if self.chance(20):
            found["second_levels"] = self.choice((frozenset({4}), frozenset({3, 4})))
        found["host_bits"] = self.choice((HOST, HOST, HOST, 39, 52))
        found["guest_bits"] = self.choice((57, 57, 57, 48, 39))
        return found | {"pasid_bits": self.choice((20, 20, 20, 6, 7, 0))}

    def richer_context(self) -> int:
        """A context that names any PASID for requests without one."""
        context = self.context()
        if self.chance(50):
            context |= self.choice((0x41, 0x41, 0x3FFFF, 0)) << 64
        return context ^ (self.chance(20) << 84) ^ (self.chance(5) << 3)

    def richer_pasid_entry(self) -> int:
        """A PASID entry that may have the flags of the second stage, and less often what a unit does not do."""
        entry = self.pasid_entry() ^ (self.chance(20) << 9) ^ (self.chance(20) << 5)
        return entry ^ (self.chance(8) << 130) ^ (self.chance(2) << 131) ^ (self.chance(3) << 8)

    def some_with_fewer_rights(self, entries: list[int]) -> list[int]:
        """Clear R/W, set XD."""
        return [entry & ~(self.chance(10) << 1) | self.chance(10) << 63 for entry in entries]

    def some_not_the_guests(self, entries: list[int]) -> list[int]:
        """Let guest tables lie where the second stage maps nothing, or beyond what it translates."""
        return [self.choice((1 << 40, 0x8000_0000)) | 0x27 if self.chance(15) else entry for entry in entries]

    def any_request(self, scalable: bool) -> Request:
        request = self.request(scalable)
        if self.chance(8):
            request = replace(request, source_id=self.choice((UPPER_SID, SID ^ 1, 0x0208, 0xFFFF)))
        if self.chance(10) and request.pasid is not None:
            request = replace(request, instruction=True, access=Operation.READ)
        if self.chance(8) and request.pasid is not None:
            request = replace(request, pasid=self.choice((0, 1, 0x7F, 0x1FFF, 0x2000, 0xFFFFF)))
        if self.chance(15):
            request = replace(request, address=self.choice((*POOL, 0xFEE0_1000, 1 << 39, 1 << 48, 1 << 57, 1 << 63)))
        return request


def random_world(seed: int) -> tuple[World, list[Request]]:
    dice = Dice(seed)
    scalable = not dice.chance(25)
    context = dice.richer_context() if scalable else dice.legacy_context()
    features = dice.features()
    pasid_entry, entries = dice.richer_pasid_entry(), dice.entries()
    if dice.chance(25):
        pasid_entry |= 1 << 129 | 1 << 133 | dice.choice((0, 1 << 128, 0x51 << 128)) | 1 << 5
        entries = dice.some_with_fewer_rights(entries)
    if dice.chance(15):
        pasid_entry, entries = pasid_entry & ~(7 << 6) | 3 << 6, dice.some_not_the_guests(entries)
    world = built(scalable, context, pasid_entry, entries, 0, **features)
    if dice.chance(4):
        world.te = False
    if dice.chance(6):
        world.root_register = Rtaddr(ttm=dice.choice((1, 2, 3)), rta=dice.choice((ROOT, 1 << 60, ROOT + 0x1000)))
    if dice.chance(15):
        bad = dice.choice((ROOT + 16, CONTEXT, DIRECTORY, PASIDS))
        world.memory.poison(bad, dice.choice((8, 0x1000)))
    if dice.chance(10):
        place = dice.choice((ROOT + 16, ROOT + 24, DIRECTORY, DIRECTORY + 8))
        world.memory.store64(place, dice.flipped(world.memory.load64(place) or 0, 64) ^ dice.choice((0, 1, 2, 4)))
    if seed % 40 == 0:
        world.memory.store(1 << 33, bytes(8 * CACHED_WORDS))  # more than the caches hold, so that batches read ahead
    return world, [dice.any_request(scalable) for _ in range(REQUESTS)]


# --- comparing -------------------------------------------------------------------------------------------------------


def batched(world: World, requests: list[Request]) -> Batch:
    return BatchTranslator(world.translator).translate(
        [request.source_id for request in requests],
        [-1 if request.pasid is None else request.pasid for request in requests],
        np.array([request.address for request in requests], np.uint64),
        [request.access is Operation.WRITE for request in requests],
        privileged=[request.privileged for request in requests],
        instruction=[request.instruction for request in requests],
    )


@dataclass
class Singly:
    """Translates by the readable form in a world without caches, whose memory goes back to what it was."""

    world: World
    updates: int = 0

    def __post_init__(self) -> None:
        self.pristine = copy.copy(self.world.memory)

    def translate(self, request: Request) -> dict[str, Any]:
        memory, stored = self.world.memory, []
        memory.observers[:] = [lambda address, data: stored.append(address)]
        outcome = self.world.translator.translate(request, [])
        memory.observers.clear()
        for address in stored:
            assert memory.store64(address, self.pristine.load64(address) or 0)
        self.updates += len(stored)
        return of_single(outcome)


def of_single(outcome: Translated | Blocked) -> dict[str, Any]:
    """What a batch must say."""
    said: dict[str, Any] = dict.fromkeys(Batch._fields, 0) | {"rule": outcome.rule}
    if isinstance(outcome, Translated):
        return said | {"address": outcome.address, "lg2": outcome.lg2, "rights": int(outcome.rights)}
    said |= {"status": Status.BLOCKED, "reason": outcome.reason, "recorded": int(outcome.record is not None)}
    fault = outcome.fault
    if fault is not None:
        said |= {"stage": fault.stage, "level": fault.level, "on_table": int(fault.on_table)}
        said |= {"fault_address": fault.address, "fetch_address": fault.fetch_address or 0}
    return said


def of_batch(batch: Batch, number: int) -> dict[str, Any]:
    return {name: int(column[number]) for name, column in batch._asdict().items()} | {"rule": batch.rule_of(number)}


@dataclass
class Corpus:
    """What was compared, and how it ended."""

    differences: list[str] = field(default_factory=list)
    rules: set[Rule] = field(default_factory=set)
    reasons: set[int] = field(default_factory=set)
    silent: int = 0
    updates: int = 0


def compare(found: Corpus, name: str, world: World, requests: list[Request]) -> None:
    batch, singly = batched(world, requests), Singly(world)
    for number, request in enumerate(requests):
        single, many = singly.translate(request), of_batch(batch, number)
        if single != many:
            found.differences.append(f"{name}, {request}:\n{single}\n{many}")
        found.rules.add(many["rule"])
    found.reasons.update(batch.reason)
    found.silent += int(((batch.reason != 0) & (batch.recorded == 0)).sum())
    found.updates += singly.updates


@cache
def corpus() -> Corpus:
    found = Corpus()
    for seed in range(WORLDS):
        compare(found, f"world {seed}", *random_world(seed))
    return found


# --- tests -----------------------------------------------------------------------------------------------------------


def test_a_batch_says_what_single_translations_say() -> None:
    assert not corpus().differences, corpus().differences[0]


def test_the_random_worlds_meet_every_rule_that_a_request_can_end_by() -> None:
    passed = {lookup.ROOT_READ, lookup.CONTEXT_READ, lookup.DIRECTORY_READ, lookup.PASID_READ, translate.TLB_HIT}
    for paging in (x86, vtd_second):
        passed |= {paging.TABLE, paging.LARGE_PAGE, paging.PAGE, paging.MARKED_ACCESSED, paging.MARKED_DIRTY}
    of_device_tlbs = {legality.DTE_CLEAR, legality.PRE_CLEAR, legality.LEGACY_BLOCKED, legality.LEGACY_PAGE_REQUEST}
    expected = set(NUMBERING.rules) - passed - {check.rule for check in of_device_tlbs}
    assert {rule.id for rule in expected - corpus().rules} == set()
    assert {rule.id for rule in corpus().rules - expected} == set()


def test_the_random_worlds_meet_every_reason() -> None:
    elsewhere = {Reason.DTE_CLEAR, Reason.PRE_CLEAR, Reason.LEGACY_BLOCKED, Reason.TTM_PAGE_REQUEST}
    never = {Reason.SECOND_AD_SNOOP, Reason.SECOND_AD_FAILED, Reason.FIRST_AD_SNOOP, Reason.FIRST_AD_FAILED}
    assert {reason.name for reason in set(Reason) - elsewhere - never - corpus().reasons} == set()


def test_the_random_worlds_silence_faults_and_have_flags_set() -> None:
    assert corpus().silent > 500
    assert corpus().updates > 500


@settings(max_examples=60, deadline=None)
@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 256) - 1), st.integers(0, (1 << 512) - 1))
def test_a_batch_says_what_single_translations_say_of_noise(seed: int, context: int, pasid_entry: int) -> None:
    dice, found = Dice(seed), Corpus()
    scalable = dice.chance(70)
    if not dice.chance(30):
        context = dice.context() if scalable else dice.legacy_context()
    elif not scalable:
        context >>= 128
    entries = [dice.getrandbits(64) | dice.choice((0, 1, 7)) for _ in dice.entries()]
    world = built(scalable, context, pasid_entry | 1, entries, 0, **dice.features())
    compare(found, "noise", world, [dice.any_request(scalable) for _ in range(REQUESTS)])
    assert not found.differences, found.differences[0]


def test_an_entry_that_was_just_marked_is_not_written_again_where_the_guest_may_only_read_it() -> None:
    world = World(cache_entries=0)
    second = Tree(world, on_the_way=7)
    page = world.allocate()
    # All four of a guest's tables are one page; the second stage maps it at two addresses, one of them read-only.
    world.context()
    writable, read_only = 0x1000, 0x2000
    world.pasid(pgtt=3, aw=2, ssptptr=second.root, fsptptr=writable)
    second.map(writable, page, 3)
    second.map(read_only, page, 1)
    world.memory.store64(page, read_only | USER_PAGE)
    second.map(0, PA, 3)
    found = Corpus()
    compare(found, "one page", world, [Request(DEVICE, PASID, address) for address in (0, 1 << 39, 0x1000)])
    assert not found.differences, found.differences[0]
    assert translate.WALKED in found.rules


@pytest.fixture
def world() -> World:
    """A world in which one PASID maps one page."""
    made = World(cache_entries=0)
    made.first()
    return made


def test_a_batch_changes_nothing(world: World) -> None:
    stores: list[int] = []
    world.memory.observers.append(lambda address, data: stores.append(address))
    BatchTranslator(world.translator).translate([DEVICE, DEVICE, 7], PASID, [VA, 0, 0], True)
    assert (stores, world.records) == ([], [])


def test_registers_and_memory_are_read_anew_by_each_batch(world: World) -> None:
    batches = BatchTranslator(world.translator)
    assert batches.translate(DEVICE, [PASID, 5], VA).status.tolist() == [Status.TRANSLATED, Status.BLOCKED]
    tree = Tree(world)
    world.pasid(5, pgtt=FIRST, fsptptr=tree.root)
    tree.map(VA, PA, USER_PAGE)
    assert batches.translate(DEVICE, [PASID, 5], VA).address.tolist() == [PA, PA]
    world.memory.poison(world.root_table, 0x1000)
    assert batches.translate(DEVICE, 5, VA).reason.tolist() == [Reason.ROOT_ACCESS]
    world.root_register = Rtaddr(ttm=LEGACY, rta=ROOT)
    assert batches.translate(DEVICE, 5, VA).reason.tolist() == [Reason.TTM_REQUEST_WITH_PASID]
    world.te = False
    assert batches.translate(DEVICE, -1, VA).rule_of(0) == translate.DISABLED


def write(unit: RemappingUnit, offset: Offset, word: Word) -> None:
    unit.mmio_write(offset, word, REGISTERS[offset].SIZE // 8)


def test_the_unit_offers_batches_that_know_its_registers() -> None:
    tables = Tables(Memory())
    tables.context()
    tree = Tree(tables)
    tables.pasid(pgtt=FIRST, fsptptr=tree.root)
    tree.map(VA, PA, USER_PAGE)
    unit = RemappingUnit(tables.memory)
    assert unit.translate_batch(DEVICE, -1, 5).rule_of(0) == translate.DISABLED
    write(unit, Offset.RTADDR, Rtaddr(ttm=1, rta=tables.root_table))
    write(unit, Offset.GCMD, Gcmd(srtp=True))
    write(unit, Offset.GCMD, Gcmd(te=True))
    batch = unit.translate_batch(DEVICE, [PASID, 3], VA, [True, False])
    assert batch.address.tolist() == [PA, 0]
    assert batch.reason.tolist() == [0, Reason.DIRECTORY_NOT_PRESENT]
    assert not any(record.f for record in unit.interface.faults.records)


def test_compiled_code_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, pasidlab, pasidlab.cli, pasidlab.hw.vtd; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_large_batches_are_translated_element_by_element(world: World) -> None:
    offsets = np.arange(1 << 14, dtype=np.uint64) & np.uint64(0xFFF)
    page = np.uint64(VA & -0x1000)
    batch = BatchTranslator(world.translator).translate(DEVICE, [PASID, 3] * (1 << 13), page | offsets)
    assert (batch.address[0::2] == offsets[0::2] | np.uint64(PA & -0x1000)).all()
    assert (batch.reason[1::2] == Reason.DIRECTORY_NOT_PRESENT).all()


def test_an_empty_batch_has_empty_outcomes(world: World) -> None:
    assert {column.size for column in BatchTranslator(world.translator).translate([], [], [])} == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [3], [4]), "different lengths: source_ids 2, pasids 1, addresses 1"),
        ((1 << 16, 1, 1), "source_ids: 0x10000 to 0x10000, allowed is 0 to 0xffff"),
        ((1, -2, 1), "pasids: -0x2 to -0x2, allowed is -1 to 0xfffff"),
        ((1, 1, -1), "addresses: -0x1 to -0x1, allowed is 0 to 0xffffffffffffffff"),
        ((1, 1, 1.5), "addresses: float64 elements, expected integers"),
        ((1, 1, 1, 1), "writes: int64 elements, expected booleans"),
        (([[1]], 1, 1), "source_ids: 2 dimensions, expected one"),
    ],
)
def test_what_no_device_can_send_is_refused(world: World, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        BatchTranslator(world.translator).translate(*arguments)
    assert str(raised.value) == message


def test_only_requests_with_pasid_are_privileged_or_instruction_fetches(world: World) -> None:
    batches = BatchTranslator(world.translator)
    with pytest.raises(ValueError, match="only a request with PASID"):
        batches.translate(DEVICE, [PASID, -1], VA, privileged=True)
    with pytest.raises(ValueError, match="only a request with PASID"):
        batches.translate(DEVICE, -1, VA, instruction=True)
    batches.translate(DEVICE, [PASID, -1], VA, privileged=[True, False])

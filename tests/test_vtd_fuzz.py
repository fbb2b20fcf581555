"""Anything in memory, registers, queues and requests has an architectural outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Transferred, Translated
from pasidlab.hw.vtd.features import FAULT_RECORDING_OFFSET, IOTLB_OFFSET, Features
from pasidlab.hw.vtd.port import DmaPort, PageRefused
from pasidlab.hw.vtd.records import FaultRecord, PageRequest
from pasidlab.hw.vtd.registers import Offset, QueueError
from pasidlab.hw.vtd.request import Blocked, Request, TranslationCompletion
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.memory import Memory
from pasidlab.rules import Faulted

ROOT, CONTEXTS, DIRECTORY, PASIDS, QUEUE, REQUESTS, TABLES = (0x10_0000 + 0x1_0000 * at for at in range(7))
SECOND = TABLES + 0x8000
SID, PORT_SID = 0x0001, 0x0002
WORD = st.integers(0, (1 << 64) - 1)
PAGES = [ROOT, CONTEXTS, DIRECTORY, PASIDS, QUEUE, REQUESTS, *range(TABLES, TABLES + 0xC000, 0x1000)]
PLACE = st.builds(lambda page, word: page + word * 8, st.sampled_from(PAGES), st.integers(0, 24) | st.integers(0, 511))
POINTER = st.builds(
    lambda page, low, high: page | low | high << 52,
    st.sampled_from(PAGES),
    st.sampled_from([1, 3, 7, 0x67, 0x80 | 0x67]) | st.integers(0, 0xFFF),
    st.just(0) | st.integers(0, 0xFFF),
)
VALUE = WORD | POINTER | st.integers(0, 63) | st.builds(lambda bit, word: 1 << bit ^ word, st.integers(0, 63), POINTER)
ANY_ADDRESS = WORD | st.integers(0, (1 << 48) - 1) | st.integers(0, 1 << 22) | PLACE
ADDRESS = st.builds(
    lambda mapped, odd, rare: odd if rare == 1 else mapped,
    st.integers(0, (1 << 18) - 1),
    ANY_ADDRESS,
    st.integers(0, 7),
)
SIDS = st.sampled_from([SID, PORT_SID] * 8 + [0, 3, 0x100, 0xFFFF])
PASID = st.sampled_from([0, 1, 2, 3] * 4 + [4, 63, 64, 0x12345, 0xFFFFF])
ATS = st.sampled_from([Ats.UNTRANSLATED, *Ats])
REQUEST = st.builds(
    Request,
    source_id=SIDS,
    pasid=PASID,
    address=ADDRESS,
    access=st.sampled_from(Operation),
    privileged=st.booleans(),
    instruction=st.booleans(),
    ats=ATS,
) | st.builds(Request, source_id=SIDS, address=ADDRESS, access=st.sampled_from(Operation), ats=ATS)
DESCRIPTOR = st.builds(
    lambda kind, low, high, top: kind | low << 4 | high << 64 | top << 128,
    st.integers(0, 15),
    st.integers(0, 15) | st.integers(0, (1 << 60) - 1) | st.just(1 | SID << 28),
    st.just(0) | st.integers(0, 8) | WORD,
    st.just(0) | st.integers(0, 1 << 127),
)
OFFSETS = (
    st.sampled_from([int(offset) for offset in Offset])
    | st.sampled_from([IOTLB_OFFSET, IOTLB_OFFSET + 8, *range(FAULT_RECORDING_OFFSET, FAULT_RECORDING_OFFSET + 32, 4)])
    | st.integers(0, 0x2000)
)
GCMD = st.sampled_from([0, 1 << 31, 1 << 26, 1 << 31 | 1 << 26, 1 << 30, 1 << 30 | 1 << 31])
ACTION = st.one_of(
    st.tuples(st.just("go"), REQUEST),
    st.tuples(st.just("transfer"), PASID | st.none(), ADDRESS, st.booleans(), st.booleans()),
    st.tuples(st.just("store"), PLACE, VALUE),
    st.tuples(st.just("mmio"), OFFSETS, VALUE, st.sampled_from([1, 2, 4, 4, 8, 8])),
    st.tuples(st.just("mmio"), st.just(int(Offset.GCMD)), GCMD, st.just(4)),
    st.tuples(st.just("descriptor"), DESCRIPTOR),
    st.tuples(st.just("poison"), PLACE, st.sampled_from([1, 8, 64, 4096])),
    st.tuples(st.just("page"), st.integers(0, (1 << 256) - 1)),
    st.tuples(st.just("hold"), st.booleans()),
)
FEATURES = st.builds(
    Features,
    pasid_bits=st.sampled_from([0, 1, 5, 20]),
    scalable=st.booleans() | st.just(True),
    nested=st.booleans(),
    pass_through=st.booleans(),
    five_level=st.booleans(),
    second_levels=st.sampled_from([frozenset({3}), frozenset({4}), frozenset({3, 4, 5})]),
    guest_bits=st.sampled_from([39, 48, 57]),
    host_bits=st.sampled_from([36, 39, 46, 52]),
    execute_requests=st.booleans(),
    supervisor_requests=st.booleans(),
    rid_pasid=st.booleans(),
    second_ad=st.booleans(),
    caching_mode=st.booleans(),
    page_requests=st.booleans() | st.just(True),
    page_request_drain=st.booleans(),
    abort_dma=st.booleans(),
    root_invalidates=st.booleans(),
    fault_records=st.sampled_from([1, 2, 8]),
)


class Endpoint:
    """A device that takes everything, and does not always answer."""

    def invalidate(self, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> bool:
        assert size is None or first % size == 0
        return size != 0x2000

    def page_response(self, pasid: int | None, prg_index: int, code: int) -> None:
        assert 0 <= code < 16
        assert 0 <= prg_index < 512


def check_blocked(blocked: Blocked) -> None:
    assert blocked.rule.sentence(blocked.facts)
    assert blocked.record is None or (blocked.record.f and blocked.record.fr == blocked.reason)


@dataclass
class Fuzzed:
    """A started unit that carries out random actions, and checks every outcome."""

    unit: RemappingUnit
    memory: Memory
    heard: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unit.interface.irq = self.hear
        self.unit.interface.refused = self.refuse
        self.unit.connect(SID, Endpoint())
        self.port = DmaPort(self.unit, PORT_SID, ats=True, pri=True)

    def hear(self, name: str) -> None:
        """Serve what happened, as software may at any moment."""
        self.heard.append(name)
        self.unit.mmio_write(Offset.FSTS, 0x6F, 4)
        self.unit.mmio_write(Offset.PRS, 3, 4)
        self.unit.mmio_write(Offset.PQH, self.unit.mmio_read(Offset.PQT, 8), 8)

    def refuse(self, why: Faulted) -> None:
        assert why.why

    def act(self, action: tuple[Any, ...]) -> None:
        getattr(self, f"do_{action[0]}")(*action[1:])
        self.check_registers()

    def do_go(self, request: Request) -> None:
        touches: list[Any] = []
        outcome = self.unit.translate(request, touches)
        assert len(touches) < 200
        if request.ats is Ats.TRANSLATION_REQUEST:
            assert isinstance(outcome, TranslationCompletion)
            assert outcome.status is AtsStatus.SUCCESS or not (outcome.read or outcome.write)
            return
        assert isinstance(outcome, Translated | Blocked)
        if isinstance(outcome, Blocked):
            check_blocked(outcome)
            return
        assert 0 <= outcome.address < 1 << 64

    def do_transfer(self, pasid: int | None, address: int, write: bool, ask: bool) -> None:
        data = b"x" if write else None
        outcome = self.port.transfer(pasid, address, data, 1, page_requests=ask)
        assert isinstance(outcome, Transferred | Blocked | PageRefused)
        if isinstance(outcome, Blocked):
            check_blocked(outcome)

    def do_store(self, place: int, value: int) -> None:
        self.memory.store64(place, value)

    def do_mmio(self, offset: int, value: int, size: int) -> None:
        self.unit.mmio_write(offset, value, size)
        assert 0 <= self.unit.mmio_read(offset, size) < 1 << 8 * size

    def do_descriptor(self, raw: int) -> None:
        self.unit.mmio_write(Offset.FSTS, 0x70, 4)
        iqa = self.unit.mmio_read(Offset.IQA, 8)
        step = 32 if iqa >> 11 & 1 else 16
        head = self.unit.mmio_read(Offset.IQH, 8)
        self.memory.store((iqa & -4096) + head, raw.to_bytes(32, "little")[:step])
        self.unit.mmio_write(Offset.IQT, (head + step) % (4096 << (iqa & 7)), 8)

    def do_poison(self, place: int, size: int) -> None:
        self.memory.poison(place, size)

    def do_page(self, raw: int) -> None:
        self.unit.page_request(PageRequest(raw))

    def do_hold(self, hold: bool) -> None:
        self.unit.page_requests.hold = hold

    def check_registers(self) -> None:
        read = self.unit.mmio_read
        assert read(Offset.IQH, 8) < 4096 << (read(Offset.IQA, 8) & 7)
        assert bool(read(Offset.FSTS, 4) & 2) == any(record.f for record in self.unit.interface.faults.records)
        assert read(Offset.FSTS, 4) & ~0xFF73 == 0
        assert read(Offset.IQER, 8) & 0xF <= QueueError.INVALID_TTM
        for control in (Offset.FECTL, Offset.IECTL, Offset.PECTL):
            assert read(control, 4) >> 30 != 1, "pending, but not masked"


def fill(memory: Memory, scalable: bool) -> None:
    """Write tables of which everything can be reached."""
    memory.store64(ROOT, CONTEXTS | 1)
    context = (DIRECTORY | 0x1D, 1) if scalable else (SECOND | 5, 2 | 7 << 8)
    for sid in (SID, PORT_SID):
        store(memory, CONTEXTS + (32 if scalable else 16) * sid, *context)
    memory.store64(DIRECTORY, PASIDS | 1)
    for pasid, pgtt in enumerate((1, 2, 3, 4)):
        store(memory, PASIDS + 64 * pasid, SECOND | pgtt << 6 | 2 << 2 | 1, 7, TABLES | 3)
    for root, bits in ((TABLES, 0x67), (SECOND, 3)):
        for level in range(3):
            memory.store64(root + 0x1000 * level, root + 0x1000 * (level + 1) | bits)
        store(memory, root + 0x3000, *(PAGES[page % len(PAGES)] | bits for page in range(64)))


def store(memory: Memory, place: int, *words: int) -> None:
    for at, word in enumerate(words):
        memory.store64(place + 8 * at, word)


def bring_up(features: Features, scalable: bool) -> Fuzzed:
    """Return a unit with such tables, switched on."""
    memory = Memory()
    fill(memory, scalable)
    unit = RemappingUnit(memory, features)
    for offset, value in (
        (Offset.RTADDR, ROOT | scalable << 10),
        (Offset.IQA, QUEUE | scalable << 11),
        (Offset.PQA, REQUESTS),
    ):
        unit.mmio_write(offset, value, 8)
    for control in (Offset.FECTL, Offset.IECTL, Offset.PECTL):
        unit.mmio_write(control, 0, 4)
    for command in (1 << 30, 1 << 26, 1 << 26 | 1 << 31):
        unit.mmio_write(Offset.GCMD, command, 4)
    return Fuzzed(unit, memory)


QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(FEATURES, st.booleans(), st.lists(ACTION, max_size=25))
def test_whatever_happens_has_an_outcome(features: Features, scalable: bool, actions: list[tuple[Any, ...]]) -> None:
    fuzzed = bring_up(features, scalable and features.scalable)
    for action in actions:
        fuzzed.act(action)


@QUICK
@given(st.lists(st.tuples(PLACE, VALUE), max_size=40), st.lists(REQUEST, min_size=1, max_size=6), st.booleans())
def test_any_tables_lead_to_an_outcome(tables: list[tuple[int, int]], requests: list[Request], scalable: bool) -> None:
    fuzzed = bring_up(Features(), scalable)
    for place, value in tables:
        fuzzed.do_store(place, value)
    for request in requests:
        fuzzed.act(("go", request))


@QUICK
@given(st.binary(min_size=0, max_size=512), st.integers(0, (1 << 19) - 1), st.booleans())
def test_any_bytes_in_the_invalidation_queue_are_taken_or_stop_it(data: bytes, tail: int, scalable: bool) -> None:
    fuzzed = bring_up(Features(), scalable)
    fuzzed.unit.mmio_write(Offset.FECTL, 1 << 31, 4)
    fuzzed.memory.store(QUEUE, data)
    fuzzed.unit.mmio_write(Offset.IQT, tail, 8)
    head, status = fuzzed.unit.mmio_read(Offset.IQH, 8), fuzzed.unit.mmio_read(Offset.FSTS, 4)
    assert status & 0x50 or head == tail & 0x7FFF0
    fuzzed.check_registers()


@QUICK
@given(st.lists(st.tuples(OFFSETS, VALUE, st.sampled_from([4, 8])), max_size=30))
def test_any_register_writes_after_reset_leave_registers_that_can_be_read(writes: list[tuple[int, int, int]]) -> None:
    fuzzed = Fuzzed(unit := RemappingUnit(Memory()), unit.memory)
    for offset, value, size in writes:
        fuzzed.do_mmio(offset, value, size)
        fuzzed.check_registers()


@QUICK
@given(st.lists(st.integers(0, (1 << 128) - 1), max_size=12), st.integers(1, 4))
def test_every_fault_is_recorded_or_lost(raws: list[int], records: int) -> None:
    unit = RemappingUnit(Memory(), Features(fault_records=records))
    lost: list[Faulted] = []
    unit.interface.refused = lost.append
    kept = [unit.interface.faults.record(FaultRecord(raw)) for raw in raws]
    assert sum(one is None for one in kept) == len(lost) == max(len(raws) - records, 0)
    assert bool(unit.mmio_read(Offset.FSTS, 4) & 1) == bool(lost)

"""Anything in memory, registers, queues and requests has an architectural outcome; legal tables agree with a reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.smmuv3.commands import COMMANDS, Resp
from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.records import EVENTS, PriRecord
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.request import AtsCompletion, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.structures import Cd, Config, Ste
from pasidlab.hw.transaction import Ats, Operation, Translated
from pasidlab.memory import Memory
from tests.smmuv3_hardware import CDTAB, CMDQ, EVENTQ, HEAP, PRIQ, SID, STRTAB, Software, Tables, World

WORD = st.integers(0, (1 << 64) - 1)
PAGES = [STRTAB, STRTAB + 0x1000, CDTAB, CMDQ, EVENTQ, PRIQ, *range(HEAP, HEAP + 0xC000, 0x1000)]
PLACE = st.builds(lambda page, word: page + word * 8, st.sampled_from(PAGES), st.integers(0, 511) | st.integers(0, 64))
POINTER = st.builds(
    lambda page, low, high: page | low | high << 52, st.sampled_from(PAGES), st.integers(0, 0xFFF), st.integers(0, 4095)
)
VALUE = WORD | POINTER | st.integers(0, 63) | st.builds(lambda bit, word: 1 << bit ^ word, st.integers(0, 63), POINTER)
ADDRESS = WORD | st.integers(0, (1 << 48) - 1) | st.integers(0, 1 << 22) | PLACE
SIDS = st.integers(0, 8) | st.integers(0, (1 << 32) - 1)
SSIDS = st.none() | st.integers(0, 5) | st.integers(0, (1 << 20) - 1)
REQUEST = st.builds(
    Request,
    sid=SIDS,
    ssid=SSIDS,
    address=ADDRESS,
    access=st.sampled_from(Operation),
    privileged=st.booleans(),
    instruction=st.booleans(),
    ats=st.sampled_from(Ats),
)
COMMAND = st.builds(
    lambda opcode, low, high: opcode | low << 8 | high << 64,
    st.sampled_from(sorted(COMMANDS)) | st.integers(0, 255),
    st.integers(0, (1 << 56) - 1) | st.just(SID << 24) | st.just(0),
    WORD | st.integers(0, 8) | st.just(0),
)
OFFSETS = st.sampled_from([int(offset) for offset in Offset]) | st.integers(0, 0x2_0000)
ACTION = st.one_of(
    st.tuples(st.just("go"), REQUEST),
    st.tuples(st.just("store"), PLACE, VALUE),
    st.tuples(st.just("mmio"), OFFSETS, VALUE | st.integers(0, 31), st.sampled_from([1, 2, 4, 8, 8, 4])),
    st.tuples(st.just("command"), COMMAND),
    st.tuples(st.just("poison"), PLACE, st.sampled_from([1, 8, 64, 4096])),
    st.tuples(st.just("page"), st.integers(0, (1 << 128) - 1)),
    st.tuples(st.just("answer")),
)
FEATURES = st.builds(
    Features,
    ssid_bits=st.sampled_from([0, 1, 5, 20]),
    sid_bits=st.sampled_from([0, 3, 16, 32]),
    two_level_streams=st.booleans(),
    two_level_cds=st.booleans(),
    stage1=st.booleans(),
    stage2=st.booleans(),
    stall_model=st.sampled_from([model for model in StallModel if model is not StallModel.RESERVED_3]),
    term_model=st.booleans(),
    oas_bits=st.sampled_from([32, 36, 40, 42, 44, 48, 52, 56]),
    vax=st.integers(0, 1),
    ats=st.just(True),
    pri=st.booleans(),
    httu=st.integers(0, 2),
    asid16=st.booleans(),
    vmid16=st.booleans(),
    hyp=st.booleans(),
    stt=st.booleans(),
    attr_perms_ovr=st.booleans(),
    range_invalidation=st.booleans(),
    stall_max=st.integers(0, 3),
)


class Endpoint:
    """A device that takes everything."""

    def invalidate(self, ssid: int | None, *, every_ssid: bool, first: int, size: int | None) -> bool:
        return size != 4096

    def page_response(self, ssid: int | None, prg_index: int, response: Resp) -> None:
        assert isinstance(response, Resp)


@dataclass
class Fuzzed:
    """A started SMMU that carries out random actions, and checks every outcome."""

    world: World
    stalled: list[Stalled]

    def act(self, action: tuple[Any, ...]) -> None:
        getattr(self, f"do_{action[0]}")(*action[1:])
        self.check_queue()

    def do_go(self, request: Request) -> None:
        touches: list[Any] = []
        outcome = self.world.smmu.translate(request, touches)
        assert len(touches) < 200
        if request.ats is Ats.TRANSLATION_REQUEST:
            assert isinstance(outcome, AtsCompletion)
            return
        assert isinstance(outcome, Translated | Terminated | Stalled)
        if isinstance(outcome, Translated):
            assert 0 <= outcome.address < 1 << 64
            return
        assert outcome.rule.sentence(outcome.facts)
        assert outcome.event is None or outcome.event.code == EVENTS[outcome.event.code].CODE
        if isinstance(outcome, Stalled):
            self.stalled.append(outcome)

    def do_store(self, place: int, value: int) -> None:
        self.world.memory.store(place & -8, value.to_bytes(8, "little"))

    def do_mmio(self, offset: int, value: int, size: int) -> None:
        self.world.smmu.mmio_write(offset, value, size)
        assert 0 <= self.world.smmu.mmio_read(offset, size) < 1 << 64

    def do_command(self, raw: int) -> None:
        self.world.write(Offset.GERRORN, self.world.read(Offset.GERROR))
        cons = self.world.read(Offset.CMDQ_CONS)
        self.world.memory.store(CMDQ + (cons.rd & 31) * 16, raw.to_bytes(16, "little"))
        self.world.write(Offset.CMDQ_PROD, wr=cons.rd + 1 & 63)

    def do_poison(self, place: int, size: int) -> None:
        self.world.memory.poison(place, size)

    def do_page(self, raw: int) -> None:
        self.world.smmu.page_request(PriRecord(raw))

    def do_answer(self) -> None:
        self.stalled = [one for one in self.stalled if one.stag is not None and self.world.smmu.answered(one) is None]

    def check_queue(self) -> None:
        for offset in (Offset.EVENTQ_PROD, Offset.PRIQ_PROD, Offset.CMDQ_CONS):
            assert 0 <= self.world.read(offset) < 1 << 32
        tags = [one.stag for one in self.stalled if one.stag is not None]
        assert len(tags) == len(set(tags))


STE_BYTES = st.dictionaries(st.integers(0, 511), st.booleans(), max_size=6)


def flipped(word: int, bits: dict[int, bool]) -> int:
    for bit, value in bits.items():
        word = word & ~(1 << bit) | value << bit
    return word


@settings(max_examples=120, deadline=None)
@given(
    FEATURES,
    st.sampled_from(Config),
    STE_BYTES,
    STE_BYTES,
    st.sampled_from([0, 4096]),
    st.lists(ACTION, min_size=5, max_size=40),
)
def test_whatever_happens_has_an_architectural_outcome(
    features: Features,
    config: Config,
    ste_bits: dict[int, bool],
    cd_bits: dict[int, bool],
    cache_entries: int,
    actions: list[tuple[Any, ...]],
) -> None:
    world = World(
        cache_entries=cache_entries, **{name: getattr(features, name) for name in features.__dataclass_fields__}
    )
    for sid in range(4):
        ste = Ste(**world.stream_fields(config) | {"s1cdmax": sid, "eats": 1})
        world.store(STRTAB + sid * 64, Ste(flipped(ste, ste_bits)))
    for ssid in range(4):
        world.store(CDTAB + ssid * 64, Cd(flipped(Cd(**world.cd_fields()), cd_bits)))
    for sid in range(6):
        world.smmu.connect_ats(sid, Endpoint())
    fuzzed = Fuzzed(world, [])
    for action in actions:
        fuzzed.act(action)


@settings(max_examples=60, deadline=None)
@given(FEATURES, st.lists(st.tuples(st.integers(0, 0x1_00FF), WORD, st.sampled_from([4, 8]))), st.lists(REQUEST))
def test_random_registers_and_random_memory_have_an_outcome(
    features: Features, writes: list[tuple[int, int, int]], requests: list[Request]
) -> None:
    software = Software(**{name: getattr(features, name) for name in features.__dataclass_fields__})
    for number, place in enumerate(PAGES):
        pattern = (number * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1).to_bytes(8, "little")
        software.memory.store(place, pattern * 512)
    for offset, value, size in writes:
        software.smmu.mmio_write(offset & -size, value, size)
    software.write(Offset.STRTAB_BASE, addr=STRTAB)
    software.enable(smmuen=1, eventqen=1)
    for request in requests:
        assert isinstance(software.smmu.translate(request), Translated | Terminated | Stalled | AtsCompletion)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=64, max_size=64),
    st.binary(min_size=64, max_size=64),
    st.integers(4, 7),
    st.lists(VALUE, min_size=16, max_size=16),
    st.lists(REQUEST, min_size=1, max_size=6),
)
def test_random_bytes_in_stes_cds_and_page_tables_have_an_outcome(
    ste: bytes, cd: bytes, config: int, descriptors: list[int], requests: list[Request]
) -> None:
    world = World(oas_bits=52, vax=1, httu=2, hyp=True, stt=True, attr_perms_ovr=True, stall_max=3)
    for sid in range(9):
        raw = Ste.unpack(ste)
        fields = {"v": 1, "config": config, "s1contextptr": CDTAB, "s2ttb": HEAP, "s1cdmax": sid % 4}
        world.store(STRTAB + sid * 64, raw.replace(**fields) if sid < 6 else raw)
    for ssid in range(8):
        raw_cd = Cd.unpack(cd)
        world.store(CDTAB + ssid * 64, raw_cd.replace(v=1, aa64=1, endi=0, ttb0=HEAP) if ssid < 6 else raw_cd)
    for page in range(HEAP, HEAP + 0x4000, 0x1000):
        world.memory.store(page, b"".join(value.to_bytes(8, "little") for value in descriptors) * 32)
    fuzzed = Fuzzed(world, [])
    for request in requests:
        fuzzed.act(("go", request))


# --- a reader of its own, for linear tables and stage 1 with 4K pages ------------------------------------------------


def bits(raw: int, msb: int, lsb: int) -> int:
    return raw >> lsb & (1 << msb - lsb + 1) - 1


@dataclass
class Reader:
    """Reads linear tables and 4K page tables as the specification's tables say, one field after the other."""

    memory: Memory
    oas_bits: int

    def raw(self, place: int, size: int) -> int:
        data = self.memory.load(place, size)
        assert data is not None
        return int.from_bytes(data, "little")

    def outcome(self, request: Request) -> str:
        """Return "out ADDRESS", "event CODE", or "silent abort" or "silent zero"."""
        ste = self.raw(STRTAB + request.sid * 64, 64)
        if not bits(ste, 0, 0):
            return "event 0x4"
        config = bits(ste, 3, 1)
        if config < 4:
            return "silent abort"
        if config == 4:
            return "event 0x8" if request.ssid is not None else self.bypass(request)
        return self.stage_1(request, ste)

    def bypass(self, request: Request) -> str:
        return "event 0x11" if request.address >> self.oas_bits else f"out {request.address:#x}"

    def stage_1(self, request: Request, ste: int) -> str:
        s1cdmax, s1dss, index = bits(ste, 63, 59), bits(ste, 65, 64), request.ssid
        if s1cdmax == 0 and index is None:
            index = 0
        elif index is None:
            if s1dss == 1:
                return self.bypass(request)
            if s1dss != 2:
                return "event 0x6"
            index = 0
        elif s1cdmax == 0 or index >= 1 << s1cdmax:
            return "event 0x8"
        elif index == 0 and s1dss == 2:
            return "event 0x6"
        return self.by_cd(request, self.raw((bits(ste, 55, 6) << 6) + index * 64, 64))

    def by_cd(self, request: Request, cd: int) -> str:
        t0sz, epd0 = bits(cd, 5, 0), bits(cd, 14, 14)
        legal = bits(cd, 31, 31) and bits(cd, 41, 41) and (epd0 or 16 <= t0sz <= 39)
        ips = min((32, 36, 40, 42, 44, 48, 52, 56)[bits(cd, 34, 32)], self.oas_bits)
        ttb = bits(cd, 115, 68) << 4
        if not legal or (not epd0 and ttb >> min(ips, 48)):
            return "event 0xa"
        code = self.walk(request, cd, ttb, 64 - t0sz, ips)
        if isinstance(code, str):
            return code
        if bits(cd, 45, 45):
            return f"event {code:#x}"
        return "silent abort" if bits(cd, 46, 46) else "silent zero"

    def walk(self, request: Request, cd: int, table: int, size: int, ips: int) -> str | int:
        """Return the output as text, or the code of the fault."""
        address = request.address
        if bits(cd, 38, 38) and not address >> 55 & 1:
            address &= (1 << 56) - 1
        if bits(cd, 14, 14) or address >> size:
            return 0x10
        level = next(level for level in range(4) if size > 39 - 9 * level)
        limits = 0
        while True:
            shift = 39 - 9 * level
            top = 9 if shift + 9 <= size else size - shift
            entry = self.raw(table + (address >> shift & (1 << top) - 1) * 8, 8)
            leads_on = level < 3 and bits(entry, 1, 0) == 3
            if not (leads_on or bits(entry, 1, 0) == (3 if level == 3 else 1)) or (level == 0 and not leads_on):
                return 0x10
            target = bits(entry, 47, 12) << 12 if leads_on or level == 3 else bits(entry, 47, shift) << shift
            if target >> ips:
                return 0x11
            if not leads_on:
                break
            table, level, limits = target, level + 1, limits | entry
        if not bits(entry, 10, 10) and not bits(cd, 35, 35):
            return 0x12
        return f"out {target | address & (1 << shift) - 1:#x}" if self.allowed(request, cd, entry, limits) else 0x13

    @staticmethod
    def allowed(request: Request, cd: int, entry: int, limits: int) -> bool:
        write = request.access is Operation.WRITE
        user = bool(bits(entry, 6, 6)) and not bits(limits, 61, 61)
        writable = not bits(entry, 7, 7) and not bits(limits, 62, 62)
        if request.instruction and not write:
            if request.privileged:
                wxn = bits(cd, 36, 36) and writable
                return not (bits(entry, 53, 53) or bits(limits, 59, 59) or (user and writable) or wxn)
            wxn = bits(cd, 36, 36) and user and writable
            return not (bits(entry, 54, 54) or bits(limits, 60, 60) or wxn)
        if write and not writable:
            return False
        if request.privileged:
            return not (bits(cd, 40, 40) and user)
        return user


FLAG = st.booleans()
ROOTS = [HEAP + 0x10_0000 + page * 0x1000 for page in range(4)]
DESCRIPTOR = st.builds(
    lambda target, low, attributes, high: target | low | attributes << 2 | high << 51,
    st.sampled_from([*ROOTS, 0x4000_0000, 0x40_0000_0000, 1 << 33, 1 << 45]),
    st.sampled_from([3, 3, 3, 3, 1, 0]),
    st.integers(0, 1023) | st.sampled_from([0x110, 0x130, 0x310, 0x330]),
    st.sampled_from([0, 0, 0, 4, 8, 12, 0x100, 0x200, 0x400, 0x800]),
)
CDS = st.fixed_dictionaries(
    {
        "v": st.sampled_from([1, 1, 1, 1, 0]),
        "aa64": st.sampled_from([1, 1, 1, 1, 0]),
        "t0sz": st.sampled_from([16, 16, 16, 25, 28, 34, 39, 15, 40]),
        "epd0": st.sampled_from([0, 0, 0, 0, 1]),
        "ips": st.sampled_from([5, 5, 0, 2, 7]),
        "affd": FLAG,
        "wxn": FLAG,
        "pan": FLAG,
        "tbi0": FLAG,
        "a": FLAG,
        "r": FLAG,
        "ttb0": st.sampled_from(ROOTS),
        "asid": st.integers(0, 3),
    }
)
STES = st.fixed_dictionaries(
    {
        "v": st.sampled_from([1, 1, 1, 0]),
        "config": st.sampled_from([Config.STAGE_1] * 4 + [Config.BYPASS, Config.ABORT_1]),
        "s1cdmax": st.integers(0, 2),
        "s1dss": st.integers(0, 3),
        "s1contextptr": st.just(CDTAB),
    }
)
INDEX = st.integers(0, 3) | st.just(511)
VIRTUAL = st.builds(
    lambda a, b, c, d, low, top: a << 39 | b << 30 | c << 21 | d << 12 | low | top << 56,
    *[INDEX] * 4,
    st.integers(0, 4095),
    st.sampled_from([0, 0, 0, 0x5A, 0xFF]),
)
PLAIN = st.builds(
    Request,
    sid=st.integers(0, 1),
    ssid=st.none() | st.integers(0, 4),
    address=VIRTUAL | ADDRESS.map(lambda address: address & ~(1 << 55)),
    access=st.sampled_from(Operation),
    privileged=FLAG,
    instruction=FLAG,
)


def seen(world: Software, request: Request) -> str:
    outcome = world.smmu.translate(request)
    events = world.events()
    if isinstance(outcome, Translated):
        assert not events
        return f"out {outcome.address:#x}"
    assert isinstance(outcome, Terminated)
    if events:
        (event,) = events
        assert int.from_bytes(event[4:8], "little") == request.sid
        if event[0] >= 0x10:
            assert int.from_bytes(event[16:24], "little") == request.address
        return f"event {event[0]:#x}"
    return "silent abort" if outcome.completion.name == "ABORT" else "silent zero"


@settings(max_examples=250, deadline=None)
@given(
    st.lists(STES, min_size=2, max_size=2),
    st.lists(CDS, min_size=4, max_size=4),
    st.lists(DESCRIPTOR, min_size=20, max_size=20),
    st.sampled_from([36, 44, 48]),
    st.lists(PLAIN, min_size=1, max_size=8),
)
def test_stage_1_agrees_with_a_reader_of_its_own(
    stes: list[dict[str, int]],
    cds: list[dict[str, int]],
    descriptors: list[int],
    oas_bits: int,
    requests: list[Request],
) -> None:
    software = Software(oas_bits=oas_bits, cache_entries=0).start()
    for sid, fields in enumerate(stes):
        software.store(STRTAB + sid * 64, Ste(**fields))
    for index, fields in enumerate(cds):
        software.store(CDTAB + index * 64, Cd(epd1=1, **fields))
    slots = [(root, index) for root in ROOTS for index in (0, 1, 2, 3, 511)]
    for (root, index), descriptor in zip(slots, descriptors, strict=True):
        software.memory.store64(root + index * 8, descriptor)
    reader = Reader(software.memory, oas_bits)
    for request in requests:
        assert seen(software, request) == reader.outcome(request)


def test_the_reader_meets_every_outcome() -> None:
    """The reader's own check: one request of each kind, so that agreement above means something."""
    software = Software(cache_entries=0).start()
    tables = Tables(software)
    tables.map(0, 0x5000, 1 << 10 | 1 << 6)
    tables.map(0x1000, 0x5000, 1 << 6)
    tables.map(0x2000, 0x5000, 1 << 10)
    tables.map(0x3000, 1 << 40, 1 << 10)
    software.store(STRTAB, Ste(v=1, config=Config.STAGE_1, s1contextptr=CDTAB, s1cdmax=1, s1dss=0))
    software.store(CDTAB + 64, Cd(v=1, aa64=1, a=1, r=1, t0sz=16, ips=2, epd1=1, ttb0=tables.root))
    reader = Reader(software.memory, 48)
    met = {
        reader.outcome(Request(0, ssid, address))
        for ssid, address in ((1, 0), (1, 0x1000), (1, 0x2000), (1, 0x3000), (1, 0x4000), (0, 0), (2, 0), (None, 0))
    }
    codes = {f"event {code:#x}" for code in (0x6, 0x8, 0xA, 0x10, 0x11, 0x12, 0x13)}
    assert met == codes | {"out 0x5000"}
    assert met == {
        seen(software, Request(0, ssid, address))
        for ssid, address in ((1, 0), (1, 0x1000), (1, 0x2000), (1, 0x3000), (1, 0x4000), (0, 0), (2, 0), (None, 0))
    }

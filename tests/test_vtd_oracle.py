"""Random tables and requests against a second, plain reading of the specification, written without the model's code.

The oracle knows words of memory and bit numbers only. It answers with the output address, or with the fault reason and
whether the fault is recorded.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Translated
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.registers import Rtaddr
from pasidlab.hw.vtd.request import Blocked, Request, TranslationCompletion
from pasidlab.memory import Memory
from tests.vtd_tables import World

HOST = 46
ROOT, CONTEXT, DIRECTORY, PASIDS, SID, PASID = 0x10_0000, 0x11_0000, 0x12_0000, 0x13_0000, 0x0108, 0x41
POOL = tuple(range(0x2C_5000, 0x2C_D000, 0x1000))
"""The pages of which all page tables are made, so that most walks lead somewhere."""
BAD_MEMORY = 0x2C_C000
"""One of them does not answer."""
INDICES = (0, 1, 511)


class Fault(Exception):  # noqa: N818
    """What the oracle stops with."""


class Wish(NamedTuple):
    write: bool
    execute: bool
    supervisor: bool


def words(memory: Memory, place: int, count: int) -> int | None:
    data = memory.load(place, 8 * count) if place < 1 << HOST else None
    return None if data is None else int.from_bytes(data, "little")


def field(raw: int, high: int, low: int) -> int:
    return raw >> low & (1 << high - low + 1) - 1


def pointer(raw: int, low: int = 12) -> int:
    return field(raw, low - 12 + 63, low) << 12


class Oracle:
    """One request; `quiet` once an FPD was met."""

    def __init__(self, memory: Memory, scalable: bool, request: Request) -> None:
        self.memory, self.scalable, self.request = memory, scalable, request
        self.quiet = False
        self.first_entries_read = 0
        write = request.access is Operation.WRITE
        self.wish = Wish(write, request.instruction and not write, request.privileged)

    def run(self) -> tuple[str, int, bool]:
        request = self.request
        if request.pasid is None and self.wish.write and request.address >> 20 == 0xFEE:
            return "fault", 0, False
        try:
            output = self.scalable_mode() if self.scalable else self.legacy_mode()
            self.check_interrupt_range(output)
        except Fault as fault:
            return "fault", fault.args[0], not self.quiet
        return "output", output, False

    # --- tables --------------------------------------------------------------------------------------------------

    def legacy_mode(self) -> int:
        if self.request.pasid is not None:
            raise Fault(0x31)
        root = words(self.memory, ROOT + (SID >> 8) * 16, 2)
        assert root is not None
        self.check(root & 1, 0x01)
        self.check(not root >> 64 and not field(root, 11, 1) and not root >> HOST & (1 << 64 - HOST) - 1, 0x0A)
        entry = words(self.memory, pointer(root) + (SID & 0xFF) * 16, 2)
        self.check(entry is not None, 0x09)
        assert entry is not None
        self.quiet |= bool(entry & 2)
        self.check(entry & 1, 0x02)
        kind, width = field(entry, 3, 2), field(entry, 66, 64)
        reserved = field(entry, 11, 4) or field(entry, 71, 71) or entry >> 88
        self.check(not reserved and (kind == 2 or not field(entry, 63, HOST)), 0x0B)
        self.check(kind != 3 and width in (1, 2, 3), 0x03)
        bits = {1: 39, 2: 48, 3: 57}[width]
        self.check(not self.request.address >> (min(bits, HOST) if kind == 2 else bits), 0x04)
        if kind == 2:
            return self.request.address
        self.check_interrupt_range(self.request.address)
        reasons = {"access": 0x07, "top": 0x03, "absent": 0, "reserved": 0x0C, "read": 0x06, "write": 0x05}
        reasons["absent"] = reasons["write" if self.wish.write else "read"]
        return self.second(pointer(entry), width + 2, self.request.address, self.wish, reasons)

    def check_interrupt_range(self, address: int) -> None:
        self.check(address >> 20 != 0xFEE, 0x87 if self.scalable else 0x0E)

    def check(self, good: object, reason: int) -> None:
        if not good:
            raise Fault(reason)

    def scalable_mode(self) -> int:
        root = words(self.memory, ROOT + (SID >> 8) * 16, 2)
        assert root is not None
        self.check(root & 1, 0x39)
        self.check(not field(root, 11, 1) and not field(root, 63, HOST), 0x3A)
        entry = words(self.memory, pointer(root) + (SID & 0x7F) * 32, 4)
        self.check(entry is not None, 0x40)
        assert entry is not None
        self.quiet |= bool(entry & 2)
        self.check(entry & 1, 0x41)
        self.check(not (field(entry, 8, 5) or entry >> 85 or field(entry, 63, HOST)), 0x42)
        pasid = self.request.pasid
        if pasid is not None:
            self.check(entry & 8, 0x45)
            self.check(pasid < 1 << field(entry, 11, 9) + 13, 0x46)
        else:
            pasid = field(entry, 83, 64)
            self.wish = self.wish._replace(supervisor=bool(entry >> 84 & 1))
            self.check(pasid < 1 << field(entry, 11, 9) + 13, 0x48)
        return self.by_pasid(self.pasid_entry(pointer(entry), pasid))

    def pasid_entry(self, directory: int, pasid: int) -> int:
        above = words(self.memory, directory + (pasid >> 6) * 8, 1)
        self.check(above is not None, 0x50)
        assert above is not None
        self.quiet |= bool(above & 2)
        self.check(above & 1, 0x51)
        self.check(not field(above, 11, 2) and not above >> HOST, 0x52)
        entry = words(self.memory, pointer(above) + (pasid & 63) * 64, 8)
        self.check(entry is not None, 0x58)
        assert entry is not None
        self.quiet |= bool(entry & 2)
        self.check(entry & 1, 0x59)
        return entry

    def by_pasid(self, entry: int) -> int:
        kind, width, mode = field(entry, 8, 6), field(entry, 4, 2), field(entry, 131, 130)
        first, second = kind in (1, 3), kind in (2, 3)
        reserved = field(entry, 11, 10) | field(entry, 86, 80) | field(entry, 139, 136) | entry >> 192
        reserved |= field(entry, 127, 88)
        reserved |= (second and field(entry, 63, HOST)) or (kind == 1 and field(entry, 191, 128 + HOST))
        self.check(not reserved, 0x5A)
        self.check(1 <= kind <= 4 and (not second or width in (1, 2, 3)) and (not first or mode < 2), 0x5B)
        self.check(entry >> 129 & 1 or not self.request.instruction, 0x5C)
        self.check(entry >> 128 & 1 or not self.wish.supervisor, 0x5D)
        address = self.request.address
        if kind == 4:
            self.check(not address >> HOST, 0x83)
            return address
        if self.request.pasid is None:
            self.check_interrupt_range(address)
        if first:
            address = self.first(entry, 4 + mode, kind == 3)
        return self.through_second(entry, address, self.wish) if second else address

    # --- first stage ---------------------------------------------------------------------------------------------

    def first(self, entry: int, levels: int, nested: bool) -> int:
        address = self.request.address
        top = address >> 9 * levels + 11
        self.check(top in (0, (1 << 64 - 9 * levels - 11) - 1), 0x80)
        table, rights, nxe = field(entry, 191, 140) << 12, 6, entry >> 133 & 1
        executes = True
        for level in range(levels, 0, -1):
            place = table + (address >> 9 * level + 3 & 511) * 8
            raw = words(self.memory, self.table_place(entry, place, nested, write=False), 1)
            self.check(raw is not None, 0x73 if level == levels else 0x70)
            assert raw is not None
            self.first_entries_read += 1
            self.check(raw & 1, 0x71)
            large = level > 1 and raw >> 7 & 1
            self.check(not large or level in (2, 3), 0x72)
            wide = 0 if nested else field(raw, 51, HOST)
            low = field(raw, 9 * level + 2, 13) if large else 0
            self.check(not (wide or low or (raw >> 63 and not nxe)), 0x72)
            rights, executes = rights & raw, executes and not raw >> 63
            if level == 1 or large:
                self.first_rights(entry, rights, executes)
                dirty_due = self.wish.write and not raw & 0x40
                self.marks(entry, place, nested, bool(dirty_due) or self.accessed_due(entry, raw))
                offset = (1 << 9 * level + 3) - 1
                return raw & (1 << 52) - 1 & ~offset | address & offset
            self.marks(entry, place, nested, self.accessed_due(entry, raw))
            table = pointer(raw) & (1 << 52) - 1
        raise AssertionError

    @staticmethod
    def accessed_due(entry: int, raw: int) -> bool:
        return not raw & 0x20 or (bool(entry >> 135 & 1) and not raw & 0x400)

    def first_rights(self, entry: int, rights: int, executes: bool) -> None:
        wish = self.wish
        if wish.supervisor:
            if wish.execute:
                self.check(executes and not (entry >> 134 & 1 and rights & 4), 0x82)
            self.check(not wish.write or rights & 2 or not entry >> 132 & 1, 0x85)
            return
        self.check(rights & 4, 0x81)
        self.check(not wish.write or rights & 2, 0x85)
        self.check(not wish.execute or executes, 0x82)

    def marks(self, entry: int, place: int, nested: bool, due: bool) -> None:
        if nested and due:
            self.table_place(entry, place, nested, write=True)

    def table_place(self, entry: int, place: int, nested: bool, *, write: bool) -> int:
        if not nested:
            return place
        read_fault = 0x76 if self.first_entries_read else 0x75
        reasons = {"absent": read_fault, "read": read_fault, "write": 0x77, "range": 0x74}
        return self.through_second(entry, place, Wish(write, False, False), reasons)

    # --- second stage --------------------------------------------------------------------------------------------

    def through_second(self, entry: int, address: int, wish: Wish, changed: dict[str, int] | None = None) -> int:
        known = {"access": 0x78, "top": 0x7B, "absent": 0x79, "reserved": 0x7A, "read": 0x86, "write": 0x85}
        reasons = known | {"range": 0x84} | (changed or {})
        levels = field(entry, 4, 2) + 2
        self.check(not address >> 9 * levels + 12, reasons["range"])
        executable = bool(entry >> 5 & 1)
        return self.second(pointer(entry), levels, address, wish, reasons, executable)

    def second(
        self, table: int, levels: int, address: int, wish: Wish, reasons: dict[str, int], executable: bool = False
    ) -> int:
        rights = 7
        for level in range(levels, 0, -1):
            raw = words(self.memory, table + (address >> 9 * level + 3 & 511) * 8, 1)
            self.check(raw is not None, reasons["top" if level == levels else "access"])
            assert raw is not None
            self.check(raw & (7 if executable else 3), reasons["absent"])
            large = level > 1 and raw >> 7 & 1
            self.check(not large or level in (2, 3), reasons["reserved"])
            low = field(raw, 9 * level + 2, 12) if large else 0
            self.check(not (low or field(raw, 51, HOST) or raw >> 11 & 1), reasons["reserved"])
            rights &= raw
            if level == 1 or large:
                self.check(wish.write or rights & 1, reasons["read"])
                self.check(not wish.write or rights & 2, reasons["write"])
                self.check(not (wish.execute and executable) or rights & 4, 0x82)
                offset = (1 << 9 * level + 3) - 1
                return raw & (1 << 52) - 1 & ~offset | address & offset
            table = pointer(raw) & (1 << 52) - 1
        raise AssertionError


# --- random tables ---------------------------------------------------------------------------------------------------

FLAGS = (*(7,) * 8, 0x27, 0x67, 0x67, 0x87, 0xE7, 0xE7, 5, 3, 1, 6, 2, 0, 4, 0x18F)
PLACES = (*POOL * 3, 0x8000_0000, 0xFEE0_0000, 1 << 45, 1 << HOST)
ODD = (*(0,) * 40, 1 << 63, 1 << 11, 1 << 10, 1 << 12, 1 << 52)
HIGH = (*(0,) * 30, 1 << 48, 0xFFFF << 48, 0xFE << 56, 1 << 56)
PASID_BITS = (*(0x3,) * 8, 0, 0x23, 0x33, 0x73, 0x37, 0x2, 0xB3)
"""SRE, ERE, FSPM, WPE, NXE, SMEP, EAFE, from bit 128 on."""


class Dice(Random):
    """Makes words that are mostly legal."""

    def flipped(self, raw: int, bits: int) -> int:
        """Return a word with one bit wrong, now and then."""
        return raw ^ 1 << self.randrange(bits) if self.random() < 0.15 else raw

    def entry(self, wild: float) -> int:
        if self.random() > wild:
            return self.choice(POOL[:-1]) | self.choice((0x7, 0x27, 0x67, 0x67))
        return self.choice(PLACES) | self.choice(FLAGS) | self.choice(ODD)

    def entries(self) -> list[int]:
        wild = self.choice((0.05, 0.2, 1.0))
        return [self.entry(wild) for _ in range(len(POOL) * len(INDICES))]

    def address(self) -> int:
        if self.random() < 0.1:
            return self.choice((0xFEE0_0000, POOL[0], 1 << HOST, (1 << 64) - 1))
        indices = sum(self.choice(INDICES) << 12 + 9 * level for level in range(self.choice((3, 4, 4))))
        return indices & (1 << 47) - 1 | self.choice((0, 0x678, 0xFF8)) | self.choice(HIGH)

    def context(self) -> int:
        return self.flipped(0xE1D | DIRECTORY, 192)

    def legacy_context(self) -> int:
        kind, width = self.choice((0, 0, 0, 0, 1, 2, 3)), self.choice((1, 1, 2, 2, 2, 3, 3, 0))
        return self.flipped(1 | kind << 2 | self.choice(POOL) | width << 64 | 1 << 72, 128)

    def pasid_entry(self) -> int:
        kind, width = self.choice((1, 1, 2, 2, 3, 3, 3, 4)), self.choice((1, 2, 2, 2, 3))
        low = 1 | width << 2 | self.choice((0, 0, 0x20)) | kind << 6 | self.choice(POOL) | 1 << 64
        return self.flipped(low | self.choice(PASID_BITS) << 128 | self.choice(POOL) << 128, 192)

    def request(self, scalable: bool = True) -> Request:
        pasid = PASID if self.random() < (0.7 if scalable else 0.05) else None
        access = Operation.WRITE if self.random() < 0.4 else Operation.READ
        if pasid is None:
            return Request(SID, None, self.address(), access)
        privileged, instruction = self.random() < 0.2, self.random() < 0.2
        return Request(SID, pasid, self.address(), access, privileged, instruction)


def built(
    scalable: bool, context: int, pasid_entry: int, entries: list[int], cache_entries: int, /, **features: Any
) -> World:
    """Write all tables; second-stage and first-stage tables are the same pages, read in two ways."""
    world = World(cache_entries=cache_entries, **{"host_bits": HOST} | features)
    world.root_register = Rtaddr(ttm=int(scalable), rta=ROOT)
    memory = world.memory
    memory.store64(ROOT + (SID >> 8) * 16, CONTEXT | 1)
    memory.store(CONTEXT + (SID & 0xFF) * (32 if scalable else 16), context.to_bytes(32 if scalable else 16, "little"))
    for place in (0, PASID >> 6):
        memory.store64(DIRECTORY + place * 8, PASIDS | (1 if pasid_entry % 5 else 3))
    for index in (0, PASID & 63):
        memory.store(PASIDS + index * 64, pasid_entry.to_bytes(64, "little"))
    for number, entry in enumerate(entries):
        memory.store64(POOL[number // len(INDICES)] + INDICES[number % len(INDICES)] * 8, entry)
    for page in POOL:
        # Each maps the whole pool, so that nested translation finds its tables.
        for other in POOL:
            memory.store64(page + (other >> 12 & 511) * 8, other | 0x27)
    memory.poison(BAD_MEMORY, 0x1000)
    return world


@settings(max_examples=2500, deadline=None)
@given(st.integers(0, (1 << 32) - 1), st.booleans(), st.sampled_from([0, 64]))
def test_every_request_ends_as_the_specification_says(seed: int, scalable: bool, cache_entries: int) -> None:
    dice = Dice(seed)
    context = dice.context() if scalable else dice.legacy_context()
    world = built(scalable, context, dice.pasid_entry(), dice.entries(), cache_entries)
    request = dice.request(scalable)
    expected = Oracle(world.memory, scalable, request).run()
    for _ in range(2):
        before = len(world.records)
        ended = world.translator.translate(request, [])
        recorded = len(world.records) > before
        if isinstance(ended, Translated):
            assert ("output", ended.address, recorded) == expected
        else:
            assert isinstance(ended, Blocked)
            assert ("fault", ended.reason, recorded) == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(0, (1 << 32) - 1), st.integers(0, 3), st.integers(0, (1 << 256) - 1), st.integers(0, (1 << 512) - 1))
def test_no_content_of_tables_raises(seed: int, ttm: int, context: int, pasid_entry: int) -> None:
    dice = Dice(seed)
    wild = dice.random() < 0.5
    entries = [dice.getrandbits(64) for _ in dice.entries()] if wild else dice.entries()
    world = built(True, context if wild else dice.context(), pasid_entry if wild else dice.pasid_entry(), entries, 4)
    world.root_register = Rtaddr(ttm=ttm, rta=ROOT)
    for ats in Ats:
        request = dice.request()
        ended = world.go(request.pasid, request.address, write=request.access is Operation.WRITE, ats=ats)
        assert isinstance(ended, Translated | Blocked | TranslationCompletion)
        if isinstance(ended, TranslationCompletion):
            assert ended.reason in Reason
            assert ended.status is AtsStatus.SUCCESS or not (ended.read or ended.write)

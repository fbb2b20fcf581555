"""Remapping tables in memory as software writes them, and the translation behind them without registers and queues.

`Tables` needs nothing but memory, for any test that programs a unit. `World` adds a translator whose registers are two
attributes and whose fault recording is a list. Fault records are encoded here from bit positions, not by the class
under test.
"""

from __future__ import annotations

from typing import Any

from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.transaction import Ats, Operation
from pasidlab.hw.vtd import ats
from pasidlab.hw.vtd.caches import Tlb
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.lookup import Lookup
from pasidlab.hw.vtd.records import FaultRecord
from pasidlab.hw.vtd.registers import Rtaddr
from pasidlab.hw.vtd.request import Blocked, Request, TranslationCompletion
from pasidlab.hw.vtd.structures import (
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.hw.vtd.translate import Translator
from pasidlab.memory import Memory
from pasidlab.words import Word

ROOT, HEAP = 0x100_0000, 0x800_0000
SID, HIGH_SID = 0x0208, 0x02F8
"""Devices in the lower and in the upper half of the same root entry."""
PASID, DID = 0x12345, 0x77
VA, PA = 0x7F12_3456_7678, 0x5_4321_0678
BEHIND = 0x40_0000_0000
"""How far above its guest address memory lies in nested translation."""
LEGACY, SCALABLE, RESERVED_TTM, ABORT_DMA = range(4)
FIRST, SECOND, NESTED, PASS = 1, 2, 3, 4
P, RW, US, A, D, PS = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7
XD = 1 << 63
USER_PAGE = P | RW | US
R, W, X, A2, D2 = 1, 2, 4, 1 << 8, 1 << 9
GIB = 1 << 30


class Tree:
    """Page tables of `levels` levels, made as they are needed at `behind` above the addresses that they name."""

    def __init__(self, tables: Tables, levels: int = 4, *, on_the_way: int = USER_PAGE, behind: int = 0) -> None:
        self.tables, self.levels, self.on_the_way, self.behind = tables, levels, on_the_way, behind
        self.root = tables.allocate()

    def place(self, address: int, level: int = 1) -> int:
        """Return where an entry lies in memory, making the tables above it."""
        memory, table = self.tables.memory, self.root
        for above in range(self.levels, level, -1):
            place = self.behind + table + self.index(address, above) * 8
            entry = memory.load64(place) or 0
            if not entry & 7:
                entry = self.tables.allocate() | self.on_the_way
                memory.store64(place, entry)
            table = entry & 0xF_FFFF_FFFF_F000
        return self.behind + table + self.index(address, level) * 8

    @staticmethod
    def index(address: int, level: int) -> int:
        return address >> 3 + 9 * level & 0x1FF

    def put(self, address: int, raw: int, level: int = 1) -> int:
        place = self.place(address, level)
        self.tables.memory.store64(place, raw)
        return place

    def get(self, address: int, level: int = 1) -> int:
        return self.tables.memory.load64(self.place(address, level)) or 0

    def map(self, address: int, output: int, rights: int, level: int = 1) -> int:
        size = 1 << 3 + 9 * level
        return self.put(address, output & -size | rights | (PS if level > 1 else 0), level)


class Tables:
    """Root, context and PASID tables in memory, made as they are needed."""

    def __init__(self, memory: Memory | None = None, *, root: int = ROOT) -> None:
        self.memory = Memory() if memory is None else memory
        self.root_table = root
        self._heap = HEAP

    def allocate(self, size: int = 0x1000) -> int:
        """Return fresh zeroed memory, aligned to its size."""
        place = (self._heap + size - 1) & -size
        self._heap = place + size
        return place

    def store(self, place: int, word: Word) -> int:
        assert self.memory.store(place, word.pack())
        return place

    # --- where entries lie ---------------------------------------------------------------------------------------

    def root_place(self, sid: int = SID) -> int:
        return self.root_table + (sid >> 8) * 16

    def context_place(self, sid: int = SID) -> int:
        """Return where the context entry of a device lies in scalable mode, making its context table."""
        place = self.root_place(sid) + (8 if sid & 0x80 else 0)
        half = self.memory.load64(place) or 0
        if not half & 1:
            half = self.allocate() | 1
            self.memory.store64(place, half)
        return (half & 0xF_FFFF_FFFF_F000) + (sid & 0x7F) * 32

    def legacy_context_place(self, sid: int = SID) -> int:
        place = self.root_place(sid)
        root = self.memory.load64(place) or 0
        if not root & 1:
            root = self.allocate() | 1
            self.memory.store64(place, root)
        return (root & 0xF_FFFF_FFFF_F000) + (sid & 0xFF) * 16

    def directory_place(self, pasid: int = PASID, sid: int = SID) -> int:
        """Return where the directory entry lies; the context entry must be there."""
        directory = self.memory.load64(self.context_place(sid)) or 0
        assert directory & -0x1000
        return (directory & 0xF_FFFF_FFFF_F000) + (pasid >> 6) * 8

    def pasid_place(self, pasid: int = PASID, sid: int = SID) -> int:
        place = self.directory_place(pasid, sid)
        entry = self.memory.load64(place) or 0
        if not entry & 1:
            entry = self.allocate() | 1
            self.memory.store64(place, entry)
        return (entry & 0xF_FFFF_FFFF_F000) + (pasid & 63) * 64

    # --- entries -------------------------------------------------------------------------------------------------

    def root(self, sid: int = SID, /, **fields: int) -> int:
        return self.store(self.root_place(sid), ScalableRootEntry(**fields))

    def legacy_root(self, sid: int = SID, /, **fields: int) -> int:
        return self.store(self.root_place(sid), RootEntry(**fields))

    def context(self, sid: int = SID, /, **fields: int) -> int:
        """Write a scalable-mode context entry with a directory for 20 bits, which allows everything."""
        known = {"p": 1, "dte": 1, "paside": 1, "pre": 1, "pdts": 7}
        if "pasiddirptr" not in fields:
            old = self.memory.load64(self.context_place(sid)) or 0
            known["pasiddirptr"] = old & -0x1000 or self.allocate(1 << 17)
        return self.store(self.context_place(sid), ScalableContextEntry(**(known | fields)))

    def legacy_context(self, sid: int = SID, /, **fields: int) -> int:
        return self.store(self.legacy_context_place(sid), ContextEntry(**({"p": 1, "aw": 2, "did": DID} | fields)))

    def directory(self, pasid: int = PASID, /, **fields: int) -> int:
        return self.store(self.directory_place(pasid), PasidDirectoryEntry(**fields))

    def pasid(self, pasid: int = PASID, sid: int = SID, /, **fields: int) -> int:
        """Write a PASID entry, making its table."""
        return self.store(self.pasid_place(pasid, sid), PasidEntry(**({"p": 1, "did": DID} | fields)))


class World(Tables):
    """Tables, and a translator that reads them; `te`, `root_register`, `records` and `full` are what registers say."""

    def __init__(self, *, ttm: int = SCALABLE, cache_entries: int = 4096, **features: Any) -> None:
        super().__init__()
        self.features = Features(**features)
        self.te = True
        self.root_register = Rtaddr(ttm=ttm, rta=self.root_table)
        self.full = False
        self.records: list[FaultRecord] = []
        state = WorldState(self)
        self.lookup = Lookup(self.memory, self.features, state, cache_entries)
        self.tlb = Tlb(cache_entries)
        self.translator = Translator(self.memory, self.features, state, self.lookup, self.tlb, state)
        self.touches: list[Touch] = []

    # --- whole set-ups -------------------------------------------------------------------------------------------

    def first(self, levels: int = 4, *, pasid: int = PASID, **fields: int) -> Tree:
        """Give a PASID a first stage that maps VA to PA for users, readable and writable."""
        self.context()
        tree = Tree(self, levels)
        self.pasid(pasid, pgtt=FIRST, fspm=levels - 4, fsptptr=tree.root, **fields)
        tree.map(VA, PA, USER_PAGE)
        return tree

    def second(self, levels: int = 4, *, pasid: int = PASID, **fields: int) -> Tree:
        """Give a PASID a second stage of its own that maps VA, as far as it is wide, to PA."""
        self.context()
        tree = Tree(self, levels, on_the_way=R | W | X)
        self.pasid(pasid, **({"pgtt": SECOND, "aw": levels - 2, "ssptptr": tree.root} | fields))
        tree.map(narrow(VA, levels), PA, R | W)
        return tree

    def nested(self, levels: int = 4, **fields: int) -> tuple[Tree, Tree]:
        """Give a PASID both: the guest's memory lies BEHIND its addresses, 32 GiB of it mapped by 1 GiB pages."""
        self.context()
        second = Tree(self, levels, on_the_way=R | W | X)
        for gib in range(32):
            second.map(gib * GIB, gib * GIB + BEHIND, R | W | X, 3)
        first = Tree(self, behind=BEHIND)
        self.pasid(pgtt=NESTED, aw=levels - 2, ssptptr=second.root, fsptptr=first.root, **fields)
        first.map(VA, PA, USER_PAGE)
        return first, second

    def legacy(self, levels: int = 4, **fields: int) -> Tree:
        """Give a device of legacy mode tables that map VA, as far as they are wide, to PA."""
        tree = Tree(self, levels, on_the_way=R | W)
        self.legacy_context(**({"aw": levels - 2, "ssptptr": tree.root} | fields))
        tree.map(narrow(VA, levels), PA, R | W)
        return tree

    # --- requests ------------------------------------------------------------------------------------------------

    def go(
        self, pasid: int | None = PASID, address: int = VA, *, sid: int = SID, write: bool = False, **more: Any
    ) -> Any:
        """Send a request; `touches` are its own afterwards."""
        request = Request(sid, pasid, address, Operation.WRITE if write else Operation.READ, **more)
        self.touches = []
        if request.ats is Ats.TRANSLATION_REQUEST:
            return ats.translation_request(self.translator, request, self.touches)
        if request.ats is Ats.TRANSLATED:
            return ats.translated(self.translator, request, self.touches)
        return self.translator.translate(request, self.touches)

    def ask(self, pasid: int | None = PASID, address: int = VA, **more: Any) -> TranslationCompletion:
        """Send a translation request."""
        answer = self.go(pasid, address, ats=Ats.TRANSLATION_REQUEST, **more)
        assert isinstance(answer, TranslationCompletion)
        return answer

    def blocked(self, *args: Any, **more: Any) -> tuple[str, int]:
        """Send a request that must be blocked; returns its rule and its reason. Its record must be exact."""
        before = len(self.records)
        ended = self.go(*args, **more)
        assert isinstance(ended, Blocked), ended
        assert ended.rule.sentence(ended.facts)
        if len(self.records) > before:
            assert len(self.records) == before + 1
            assert ended.record == self.records[-1] == expected_record(ended.request, ended.reason)
        else:
            assert ended.record is None
        return ended.rule.id, ended.reason


class WorldState:
    """The registers, and the fault recording."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def te(self) -> bool:
        return self.world.te

    @property
    def root(self) -> Rtaddr:
        return self.world.root_register

    def record(self, record: FaultRecord) -> FaultRecord | None:
        if self.world.full:
            return None
        self.world.records.append(record)
        return record


ADDRESS_TYPES = {Ats.UNTRANSLATED: 0, Ats.TRANSLATION_REQUEST: 1, Ats.TRANSLATED: 2}


def expected_record(request: Request, reason: int) -> int:
    """Encode the record of a fault of a request to memory from its bit positions."""
    value = request.address >> 12 << 12 | request.source_id << 64 | reason << 96 | 1 << 127
    if request.pasid is not None:
        value |= request.pasid << 104 | 1 << 95 | request.instruction << 94 | request.privileged << 93
    reads = request.access is Operation.READ or request.ats is Ats.TRANSLATION_REQUEST
    return value | ADDRESS_TYPES[request.ats] << 124 | reads << 126


def narrow(address: int, levels: int) -> int:
    """Return an address cut to what tables of some levels translate."""
    return address & (1 << 12 + 9 * levels) - 1

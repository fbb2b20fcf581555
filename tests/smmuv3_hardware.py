"""A whole SMMU as software and devices meet it: registers, queues and tables in memory, and transactions.

Everything is programmed through MMIO and memory. Event records are encoded here from bit positions, not by the classes
under test, and compared as the 32 bytes that lie in the event queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pasidlab.hw.smmuv3.commands import CFGI_ALL_RANGE, CfgiSteRange, Command, Sync, TlbiNsnhAll
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.request import Outcome, Request
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, L1Std, Ste
from pasidlab.hw.transaction import Ats, Operation, Translated
from pasidlab.memory import Memory

from .smmuv3_rig import Programmer

STRTAB, CMDQ, EVENTQ, PRIQ = 0x100_0000, 0x20_0000, 0x21_0000, 0x22_0000
CDTAB, HEAP = 0x30_0000, 0x800_0000
SID = 5
VA, PA = 0x4000_5678, 0x500_0678
ASID, VMID = 0x12, 0x34
LINEAR_LOG2SIZE = 8
BLOCK = 2 << 20

AF, NG, USER, READ_ONLY = 1 << 10, 1 << 11, 1 << 6, 1 << 7
S2_READ, S2_WRITE, S2_NORMAL = 1 << 6, 1 << 7, 0xF << 2
S1_ALL, S2_ALL = AF | NG | USER, AF | S2_READ | S2_WRITE | S2_NORMAL

# Event codes and positions of fields, as the tables of the specification print them.
UUT, BAD_STREAMID, STE_FETCH, BAD_STE, BAD_ATS_TREQ, STREAM_DISABLED, TRANSL_FORBIDDEN = range(1, 8)
BAD_SUBSTREAMID, CD_FETCH, BAD_CD, WALK_EABT = range(8, 12)
TRANSLATION, ADDR_SIZE, ACCESS, PERMISSION = range(0x10, 0x14)
CLASS_CD, CLASS_TT, CLASS_IN = range(3)
POSITION = {
    "stag": 64,
    "stall": 95,
    "pnu": 97,
    "ind": 98,
    "rnw": 99,
    "s2": 103,
    "class_": 104,
    "ttrnw": 108,
    "inputaddr": 128,
    "ipa": 192,
    "fetchaddr": 192,
    "p": 92,
    "x": 93,
    "w": 94,
    "r": 95,
    "span": 64,
}


def record(code: int, sid: int = SID, ssid: int | None = None, *, ssv: int | None = None, **fields: int) -> bytes:
    """Encode an event; `ssv` only where it does not follow from `ssid`."""
    value = code | sid << 32
    if ssid is not None:
        value |= ssid << 12 | (1 if ssv is None else ssv) << 11
    for name, number in fields.items():
        value |= number << POSITION[name]
    return value.to_bytes(32, "little")


def fault(code: int, ssid: int | None = None, *, address: int = VA, **fields: int) -> bytes:
    """Encode a fault of a plain read of the stage's input."""
    fields = {"rnw": 1, "class_": CLASS_IN, "inputaddr": address} | fields
    return record(code, SID, ssid, **fields)


class Tables:
    """4K translation tables from level 0 on, written entry by entry at `behind` above the addresses they name."""

    def __init__(self, software: Software, behind: int = 0) -> None:
        self.software = software
        self.behind = behind
        self.root = software.allocate()

    def entry(self, address: int, level: int = 3) -> int:
        """Return where an entry lies, before any `behind`, making the tables above it."""
        table = self.root
        for above in range(level):
            place = table + self.index(address, above) * 8
            found = self.software.memory.load64(place + self.behind) or 0
            if not found & 1:
                found = self.software.allocate() | 3
                self.software.memory.store64(place + self.behind, found)
            table = found & 0xFFFF_FFFF_F000
        return table + self.index(address, level) * 8

    @staticmethod
    def index(address: int, level: int) -> int:
        return address >> 39 - 9 * level & 0x1FF

    def put(self, address: int, raw: int, level: int = 3) -> int:
        place = self.entry(address, level)
        self.software.memory.store64(place + self.behind, raw)
        return place

    def map(self, address: int, output: int, attributes: int, level: int = 3) -> int:
        size = 1 << 39 - 9 * level
        return self.put(address, output & -size | attributes | (3 if level == 3 else 1), level)


class Software(Programmer):
    """Software that programs one whole SMMU, and what devices send to it; nothing is programmed before `start`."""

    def __init__(self, *, cache_entries: int = 4096, **features: Any) -> None:
        memory = Memory()
        self.smmu = Smmuv3(memory, Features(**features), cache_entries=cache_entries)
        super().__init__(memory, self.smmu, CMDQ)
        self._heap = HEAP
        self.strtab = STRTAB

    def allocate(self, size: int = 0x1000) -> int:
        """Return fresh zeroed memory, aligned to its size."""
        place = (self._heap + size - 1) & -size
        self._heap = place + size
        return place

    # --- registers -----------------------------------------------------------------------------------------------

    def start(
        self, *, strtab: dict[str, int] | None = None, eventq: int = 6, recinvsid: int = 1, e2h: int = 0, **cr0: int
    ) -> Software:
        """Bring the SMMU up from reset as a driver does; returns itself."""
        self.write(Offset.CR0)
        self.write(Offset.STRTAB_BASE, addr=self.strtab)
        self.write(Offset.STRTAB_BASE_CFG, **(strtab or {"log2size": LINEAR_LOG2SIZE}))
        self.write(Offset.CR2, recinvsid=recinvsid, e2h=e2h)
        self.write(Offset.CMDQ_BASE, addr=CMDQ, log2size=5)
        self.write(Offset.CMDQ_PROD)
        self.write(Offset.CMDQ_CONS)
        self.enable(cmdqen=1)
        self.command(CfgiSteRange.make(range=CFGI_ALL_RANGE), TlbiNsnhAll.make())
        self.write(Offset.EVENTQ_BASE, addr=EVENTQ, log2size=eventq)
        self.write(Offset.EVENTQ_PROD)
        self.write(Offset.EVENTQ_CONS)
        self.enable(eventqen=1)
        self.enable(**({"smmuen": 1} | cr0))
        return self

    def start_page_requests(self, log2size: int = 2) -> None:
        self.write(Offset.PRIQ_BASE, addr=PRIQ, log2size=log2size)
        self.write(Offset.PRIQ_PROD)
        self.write(Offset.PRIQ_CONS)
        self.enable(priqen=1)

    # --- queues --------------------------------------------------------------------------------------------------

    def command(self, *commands: Command) -> None:
        """Let the SMMU carry out commands, with a SYNC behind them; none may fail."""
        self.put(*commands, Sync.make())
        assert not self.errors().cmdq_err
        assert self.read(Offset.CMDQ_CONS).rd == self.read(Offset.CMDQ_PROD).wr

    def events(self) -> list[bytes]:
        """Take all records from the event queue."""
        return list(self._consume("EVENTQ", EVENTQ, 32))

    def page_requests(self) -> list[bytes]:
        """Take all records from the PRI queue."""
        return list(self._consume("PRIQ", PRIQ, 16))

    def _consume(self, queue: str, base: int, size: int) -> Iterator[bytes]:
        log2size = self.read(Offset[f"{queue}_BASE"]).log2size
        while (cons := self.read(Offset[f"{queue}_CONS"])).rd != (prod := self.read(Offset[f"{queue}_PROD"])).wr:
            data = self.memory.load(base + (cons.rd & (1 << log2size) - 1) * size, size)
            assert data is not None
            self.write(Offset[f"{queue}_CONS"], cons.replace(rd=cons.rd + 1 & (2 << log2size) - 1, ovackflg=prod.ovflg))
            yield data

    # --- tables --------------------------------------------------------------------------------------------------

    def store(self, place: int, word: Ste | Cd | L1Std | L1Cd) -> None:
        assert self.memory.store(place, word.pack())

    def ste(self, sid: int = SID, /, **fields: int) -> Ste:
        """Write an STE of a linear stream table."""
        ste = Ste(**fields)
        self.store(self.strtab + sid * 64, ste)
        return ste

    # --- transactions --------------------------------------------------------------------------------------------

    def go(
        self, ssid: int | None = None, address: int = VA, *, sid: int = SID, write: bool = False, **more: Any
    ) -> Any:
        """Send a transaction."""
        access = Operation.WRITE if write else Operation.READ
        return self.smmu.translate(Request(sid, ssid, address, access, **more))

    def ats(self, ssid: int | None = None, address: int = VA, **more: Any) -> Any:
        """Send an ATS translation request."""
        return self.go(ssid, address, ats=Ats.TRANSLATION_REQUEST, **more)

    def refused(self, *expected: bytes, ssid: int | None = None, address: int = VA, **more: Any) -> Any:
        """Send a transaction that must not pass, with exactly the events given."""
        outcome = self.go(ssid, address, **more)
        assert not isinstance(outcome, Translated)
        assert [event.hex() for event in self.events()] == [event.hex() for event in expected]
        return outcome

    def passes(self, output: int, ssid: int | None = None, address: int = VA, **more: Any) -> Outcome:
        """Send a transaction that must pass without an event."""
        outcome: Outcome = self.go(ssid, address, **more)
        assert isinstance(outcome, Translated), outcome
        assert outcome.address == output
        assert self.events() == []
        return outcome


class World(Software):
    """A started SMMU with tables for every configuration: stage 1 maps VA to PA, stage 2 moves all by `offset`.

    Stage 2 maps low memory by blocks of 2M, so that CDs, tables and PA each have an entry of their own.
    """

    def __init__(
        self, *, offset: int = 0, start: dict[str, Any] | None = None, cache_entries: int = 4096, **features: Any
    ) -> None:
        super().__init__(cache_entries=cache_entries, **features)
        self.offset = offset
        self.stage1 = Tables(self)
        self.stage1.map(VA, PA, S1_ALL)
        self.nested = Tables(self, behind=offset)
        self.nested.map(VA, PA, S1_ALL)
        self.stage2 = Tables(self)
        for low in range(0, HEAP + (64 << 20), BLOCK):
            self.stage2.map(low, low + offset, S2_ALL, level=2)
        for high in range(1 << 30, 4 << 30, 1 << 30):
            self.stage2.map(high, high + offset, S2_ALL, level=1)
        self.start(**(start or {}))

    def cd(self, index: int = 0, /, **fields: int) -> Cd:
        """Write a CD of the linear CD table, for stage 1 alone."""
        cd = Cd(**self.cd_fields() | fields)
        self.store(CDTAB + index * 64, cd)
        return cd

    def guest_cd(self, index: int = 0, /, **fields: int) -> Cd:
        """Write a CD of the linear CD table where stage 2 finds it, with the tables behind stage 2."""
        cd = Cd(**self.cd_fields() | {"ttb0": self.nested.root} | fields)
        self.store(CDTAB + self.offset + index * 64, cd)
        return cd

    def cd_fields(self) -> dict[str, int]:
        return {
            "v": 1,
            "aa64": 1,
            "a": 1,
            "r": 1,
            "t0sz": 16,
            "epd1": 1,
            "ips": 5,
            "asid": ASID,
            "aset": 1,
            "ttb0": self.stage1.root,
        }

    def stream(self, config: Config, /, sid: int = SID, **fields: int) -> Ste:
        """Write an STE for a configuration; stage 1 uses the CD table at CDTAB."""
        return self.ste(sid, **self.stream_fields(config) | fields)

    def stream_fields(self, config: Config) -> dict[str, int]:
        fields: dict[str, int] = {"v": 1, "config": config}
        if config & 1:
            fields |= {"s1contextptr": CDTAB, "s1dss": 2}
        if config & 2:
            fields |= {
                "s2vmid": VMID,
                "s2t0sz": 16,
                "s2sl0": 2,
                "s2ps": 5,
                "s2aa64": 1,
                "s2r": 1,
                "s2ttb": self.stage2.root,
            }
        return fields

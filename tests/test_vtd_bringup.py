"""A remapping unit as bare software meets it: registers and memory, and of the model only the bus on either side.

Every structure, descriptor and expected record is written here from the specification's figures, bit by bit, so that
these tests share no layout with the code they test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from pasidlab.hw.transaction import Ats, Operation, Transferred
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.port import DmaPort, PageRefused
from pasidlab.hw.vtd.request import Blocked, Request
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.memory import Memory

# Registers

CAP, ECAP, GCMD, GSTS, RTADDR, CCMD = 0x08, 0x10, 0x18, 0x1C, 0x20, 0x28
FSTS, FECTL, FEDATA, FEADDR, FEUADDR = 0x34, 0x38, 0x3C, 0x40, 0x44
IQH, IQT, IQA = 0x80, 0x88, 0x90
PQH, PQT, PQA, PRS, PECTL = 0xC0, 0xC8, 0xD0, 0xDC, 0xE0
QIE, SRTP, TE = 1 << 26, 1 << 30, 1 << 31
STATUS_BITS = 0x96FF_FFFF
"""Of GSTS: what is written back to GCMD, without the one-shot commands."""

SID, HIGH_SID, PLAIN_SID = 0x6A01, 0x6AF9, 0x0010
PASID, DID = 0x12345, 7
VA = 0x1234_5678_9000
PAGE, OTHER_PAGE = 0x5_0000_0000, 0x5_0001_0000
READ_WRITE_USER = 0x67
"""P, R/W, U/S, A and D of an entry of the first stage."""
READ_WRITE = 3
"""R and W of an entry of the second stage."""
FIRST, SECOND, NESTED, PASS_THROUGH = 1, 2, 3, 4
FORWARD, BACKWARD = "low, high", "high, low"


@dataclass
class Software:
    """A driver without a kernel: it may touch memory and registers, and nothing else."""

    features: dict[str, Any] = field(default_factory=dict)
    accesses: str = "64"
    base: int = 0x8000_0000
    width: int = 32
    tail: int = 0
    waits: int = 0

    def __post_init__(self) -> None:
        self.memory = Memory()
        self.unit = RemappingUnit(self.memory, Features(**self.features))
        self.queue, self.status, self.root, self.requests = (self.base + at for at in (0, 0x1000, 0x2000, 0x3000))
        self.contexts, self.directory = self.base + 0x4000, self.base + 0x10_0000
        self.pasids, self.tables, self.second = (self.base + at for at in (0x20_0000, 0x100_0000, 0x200_0000))

    # registers

    def read(self, offset: int, size: int = 4) -> int:
        return self.unit.mmio_read(offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.unit.mmio_write(offset, value, size)

    def write64(self, offset: int, value: int) -> None:
        if self.accesses == "64":
            self.write(offset, value, 8)
            return
        halves = [(offset, value & 0xFFFF_FFFF), (offset + 4, value >> 32)]
        for place, half in halves if self.accesses == FORWARD else halves[::-1]:
            self.write(place, half)

    def command(self, bit: int) -> None:
        self.write(GCMD, self.read(GSTS) & STATUS_BITS | bit)
        assert self.read(GSTS) & bit

    # memory

    def words(self, address: int, *words: int) -> None:
        for index, word in enumerate(words):
            assert self.memory.store(address + 8 * index, word.to_bytes(8, "little"))

    def map(self, root: int, levels: int, address: int, page: int, bits: int) -> int:
        """Write one entry for each level, all tables side by side, and return the address of the leaf's."""
        for level in range(levels, 0, -1):
            table = root + 0x1000 * (levels - level)
            place = table + 8 * (address >> 12 + 9 * (level - 1) & 0x1FF)
            self.words(place, (page if level == 1 else table + 0x1000) | bits)
        return place

    # bring-up

    def start_queue(self) -> None:
        self.write64(IQT, 0)
        self.write64(IQA, self.queue | (1 << 11 if self.width == 32 else 0))
        self.command(QIE)

    def put(self, *words: int) -> None:
        descriptor = b"".join(word.to_bytes(8, "little") for word in words).ljust(self.width, b"\0")
        assert self.memory.store(self.queue + self.tail, descriptor)
        self.tail = (self.tail + self.width) % 4096

    def flush(self, *descriptors: tuple[int, int]) -> None:
        """Put descriptors and a wait into the queue, ring, and look for the status."""
        for descriptor in descriptors:
            self.put(*descriptor)
        self.waits += 1
        self.put(5 | 1 << 5 | self.waits << 32, self.status)
        self.write64(IQT, self.tail)
        assert self.memory.load64(self.status) == self.waits
        assert self.read(IQH) == self.tail

    def set_root(self, mode: int) -> None:
        self.write64(RTADDR, self.root | mode << 10)
        self.command(SRTP)

    def start_legacy(self, sid: int, word0: int, word1: int, *, by_register: bool = False) -> None:
        self.words(self.root + 16 * (sid >> 8), self.contexts | 1)
        self.words(self.contexts + 16 * (sid & 0xFF), word0, word1)
        if not by_register:
            self.start_queue()
        self.set_root(0)
        if by_register:
            self.invalidate_by_register()
        else:
            self.flush((1 | 1 << 4, 0), (2 | 1 << 4, 0))
        self.command(TE)

    def invalidate_by_register(self) -> None:
        self.write64(CCMD, 1 << 63 | 1 << 61)
        assert self.read(CCMD + 4) >> 27 & 3 == 1
        iotlb = (self.read(ECAP, 8) >> 8 & 0x3FF) * 16 + 8
        self.write64(iotlb, 1 << 63 | 1 << 60)
        assert self.read(iotlb + 4) >> 25 & 3 == 1
        assert not (self.read(CCMD + 4) | self.read(iotlb + 4)) >> 31

    def start_scalable(self, sid: int = SID, *, rid_pasid: int = 0, flags: int = 0x1C) -> None:
        upper = sid >> 7 & 1
        self.words(self.root + 16 * (sid >> 8) + 8 * upper, self.contexts | 1)
        self.words(self.contexts + 32 * (sid & 0x7F), self.directory | 7 << 9 | flags | 1, rid_pasid, 0, 0)
        self.start_queue()
        self.set_root(1)
        self.flush((1 | 1 << 4, 0), (7 | 3 << 4, 0), (2 | 1 << 4, 0))
        self.command(TE)

    def pasid_entry(self, pasid: int, *words: int) -> int:
        self.words(self.directory + 8 * (pasid >> 6), self.pasids | 1)
        place = self.pasids + 64 * (pasid & 63)
        self.words(place, *words)
        return place

    def first_stage(self, pasid: int, levels: int = 4) -> int:
        self.pasid_entry(pasid, 1 | FIRST << 6, DID, self.tables | (1 << 2 if levels == 5 else 0))
        return self.map(self.tables, levels, VA, PAGE, READ_WRITE_USER)

    def second_stage(self, pasid: int, levels: int = 4) -> int:
        self.pasid_entry(pasid, 1 | levels - 2 << 2 | SECOND << 6 | self.second, DID)
        return self.map(self.second, levels, VA & (1 << 12 + 9 * levels) - 1, PAGE, READ_WRITE)

    # outcomes

    def moves(self, sid: int, pasid: int | None, address: int = VA, page: int = PAGE) -> None:
        """Check that bytes that a device writes are in the page, and that it reads them there."""
        request = Request(sid, pasid, address + 0x123)
        assert self.unit.dma_write(request, b"moved") == Transferred(page + 0x123, b"moved")
        assert self.memory.load(page + 0x123, 5) == b"moved"
        assert self.unit.dma_read(request, 5) == Transferred(page + 0x123, b"moved")
        self.memory.store(page + 0x123, bytes(5))

    def blocked(self, sid: int, pasid: int | None, address: int = VA, *, write: bool = False) -> None:
        request = Request(sid, pasid, address)
        outcome = self.unit.dma_write(request, b"x") if write else self.unit.dma_read(request, 1)
        assert isinstance(outcome, Blocked)
        assert outcome.rule.sentence(outcome.facts)

    def fault(self) -> tuple[int, int]:
        """Take the first pending fault record, and clear it."""
        fsts = self.read(FSTS)
        assert fsts & 2
        place = (self.read(CAP, 8) >> 24 & 0x3FF) * 16 + 16 * (fsts >> 8 & 0xFF)
        record = self.read(place, 8), self.read(place + 8, 8)
        assert record[1] >> 63
        self.write(place + 12, 1 << 31)
        assert not self.read(FSTS) & 2
        return record


def record(sid: int, reason: int, pasid: int | None, *, read: bool) -> int:
    """Return the upper half of a fault record of an untranslated request."""
    with_pasid = 0 if pasid is None else 1 << 31 | pasid << 40
    return sid | reason << 32 | with_pasid | (1 << 62 if read else 0) | 1 << 63


ACCESSES = pytest.mark.parametrize("accesses", ["64", FORWARD])


def test_after_reset_requests_without_pasid_pass_and_others_do_not() -> None:
    software = Software()
    software.moves(SID, None, 0x1000, 0x1000)
    software.blocked(SID, PASID)
    assert software.read(FSTS) == 0


# --- legacy mode -----------------------------------------------------------------------------------------------------


@ACCESSES
@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("by_register", [False, True], ids=["queue", "registers"])
@pytest.mark.parametrize("sid", [SID, HIGH_SID, PLAIN_SID])
def test_legacy_mode_translates(accesses: str, levels: int, by_register: bool, sid: int) -> None:
    software = Software(accesses=accesses, width=16)
    address = VA & (1 << 12 + 9 * levels) - 1
    software.map(software.second, levels, address, PAGE, READ_WRITE)
    software.start_legacy(sid, software.second | 1, levels - 2 | DID << 8, by_register=by_register)
    software.moves(sid, None, address)
    software.blocked(sid, None, address + 0x1000, write=True)
    assert software.fault() == (address + 0x1000, record(sid, 0x05, None, read=False))
    software.blocked(sid, PASID, address)
    assert software.fault()[1] >> 32 & 0xFF == 0x31
    software.blocked(sid ^ 2, None)
    assert software.fault() == (VA, record(sid ^ 2, 0x02, None, read=True))


def test_legacy_pass_through_leads_to_the_same_address() -> None:
    software = Software(width=16)
    software.start_legacy(SID, 2 << 2 | 1, 2 | DID << 8)
    software.moves(SID, None, PAGE)


@pytest.mark.parametrize("by_register", [False, True], ids=["queue", "registers"])
def test_in_legacy_mode_a_changed_mapping_counts_when_it_was_invalidated(by_register: bool) -> None:
    software = Software(width=16)
    leaf = software.map(software.second, 4, VA, PAGE, READ_WRITE)
    software.start_legacy(SID, software.second | 1, 2 | DID << 8, by_register=by_register)
    software.moves(SID, None)
    software.words(leaf, OTHER_PAGE | READ_WRITE)
    software.moves(SID, None)
    if by_register:
        place = (software.read(ECAP, 8) >> 8 & 0x3FF) * 16
        software.write64(place, VA)
        software.write64(place + 8, 1 << 63 | 3 << 60 | DID << 32)
        assert software.read(place + 12) >> 25 & 3 == 3
    else:
        software.flush((2 | 3 << 4 | DID << 16, VA))
    software.moves(SID, None, page=OTHER_PAGE)


# --- scalable mode ---------------------------------------------------------------------------------------------------


@ACCESSES
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("sid", [SID, HIGH_SID, PLAIN_SID])
@pytest.mark.parametrize("pasid", [1, PASID, 0xFFFFF])
def test_the_first_stage_translates_requests_with_pasid(accesses: str, levels: int, sid: int, pasid: int) -> None:
    software = Software(accesses=accesses)
    software.first_stage(pasid, levels)
    software.start_scalable(sid)
    software.moves(sid, pasid)
    software.blocked(sid, pasid, VA + 0x1000, write=True)
    assert software.fault() == (VA + 0x1000, record(sid, 0x71, pasid, read=False))
    software.blocked(sid, pasid ^ 64)
    assert software.fault() == (VA, record(sid, 0x51, pasid ^ 64, read=True))
    software.blocked(sid, pasid ^ 1)
    assert software.fault() == (VA, record(sid, 0x59, pasid ^ 1, read=True))


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("pasid", [None, PASID])
def test_the_second_stage_translates(levels: int, pasid: int | None) -> None:
    software = Software()
    software.second_stage(pasid or 0, levels)
    address = VA & (1 << 12 + 9 * levels) - 1
    software.start_scalable()
    software.moves(SID, pasid, address)
    software.blocked(SID, pasid, address + 0x1000)
    assert software.fault() == (address + 0x1000, record(SID, 0x79, pasid, read=True))


@pytest.mark.parametrize("rid_pasid", [0, 1, 63, 64, PASID, 0xFFFFF])
@pytest.mark.parametrize("stage", [FIRST, SECOND, PASS_THROUGH])
def test_requests_without_pasid_take_whatever_rid_pasid_names(rid_pasid: int, stage: int) -> None:
    software = Software()
    if stage == FIRST:
        software.first_stage(rid_pasid)
    elif stage == SECOND:
        software.second_stage(rid_pasid)
    else:
        software.pasid_entry(rid_pasid, 1 | 2 << 2 | PASS_THROUGH << 6, DID)
    software.start_scalable(rid_pasid=rid_pasid, flags=0)
    software.moves(SID, None, page=VA if stage == PASS_THROUGH else PAGE)
    software.blocked(SID, rid_pasid)
    assert software.fault() == (VA, record(SID, 0x45, rid_pasid, read=True))


def test_without_rid_pasid_support_requests_without_pasid_take_pasid_0() -> None:
    software = Software(features={"rid_pasid": False})
    software.first_stage(0)
    software.start_scalable(flags=0x8)
    software.moves(SID, None)


def test_nested_translation_takes_both_stages() -> None:
    software = Software()
    guest = 0x10_0000_0000
    pages = {software.tables + at: software.tables + at for at in range(0, 0x4000, 0x1000)}
    for page, host in (pages | {software.tables + 0x10_0000: PAGE}).items():
        software.map(software.second, 4, guest + page, host, READ_WRITE)
    for level in range(4, 0, -1):
        table = software.tables + 0x1000 * (4 - level)
        target = table + 0x1000 if level > 1 else software.tables + 0x10_0000
        software.words(table + 8 * (VA >> 12 + 9 * (level - 1) & 0x1FF), guest + target | READ_WRITE_USER)
    software.pasid_entry(PASID, 1 | 2 << 2 | NESTED << 6 | software.second, DID, guest + software.tables)
    software.start_scalable()
    software.moves(SID, PASID)


def test_abort_dma_blocks_everything_and_records_nothing() -> None:
    software = Software()
    software.start_queue()
    software.set_root(3)
    software.command(TE)
    software.blocked(SID, None)
    software.blocked(SID, PASID)
    assert software.read(FSTS) == 0


@pytest.mark.parametrize("descriptor", [(6 | 3 << 4, VA), (6 | 2 << 4, 0)], ids=["page", "PASID"])
def test_a_changed_mapping_of_a_pasid_counts_when_it_was_invalidated(descriptor: tuple[int, int]) -> None:
    software = Software()
    leaf = software.first_stage(PASID)
    software.start_scalable()
    software.moves(SID, PASID)
    software.words(leaf, OTHER_PAGE | READ_WRITE_USER)
    software.moves(SID, PASID)
    software.flush((6 | 2 << 4 | DID << 16 | PASID + 1 << 32, 0))
    software.moves(SID, PASID)
    software.flush((descriptor[0] | DID << 16 | PASID << 32, descriptor[1]))
    software.moves(SID, PASID, page=OTHER_PAGE)


def test_a_pasid_entry_is_gone_when_its_caches_were_invalidated() -> None:
    software = Software()
    software.first_stage(PASID)
    software.start_scalable()
    software.moves(SID, PASID)
    software.pasid_entry(PASID, 0)
    software.moves(SID, PASID)
    software.flush((7 | 1 << 4 | DID << 16 | PASID << 32, 0), (6 | 2 << 4 | DID << 16 | PASID << 32, 0))
    software.blocked(SID, PASID)
    assert software.fault() == (VA, record(SID, 0x59, PASID, read=True))


def test_a_context_entry_is_gone_when_its_cache_was_invalidated() -> None:
    software = Software()
    software.first_stage(PASID)
    software.start_scalable()
    software.moves(SID, PASID)
    software.words(software.contexts + 32 * (SID & 0x7F), 0)
    software.flush((1 | 3 << 4 | SID + 1 << 32, 0))
    software.moves(SID, PASID)
    software.flush((1 | 3 << 4 | SID << 32, 0))
    software.blocked(SID, PASID)
    assert software.fault() == (VA, record(SID, 0x41, PASID, read=True))


@pytest.mark.parametrize("forgets", [False, True])
def test_setting_the_root_table_forgets_everything_only_where_cap_says_so(forgets: bool) -> None:
    software = Software(features={"root_invalidates": forgets})
    assert software.read(CAP, 8) >> 63 == forgets
    software.first_stage(PASID)
    software.start_scalable()
    software.moves(SID, PASID)
    software.root += 0x8000
    software.set_root(1)
    if not forgets:
        software.moves(SID, PASID)
        return
    software.blocked(SID, PASID)
    assert software.fault() == (VA, record(SID, 0x39, PASID, read=True))


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "all levels"])
@pytest.mark.parametrize("stage", [FIRST, SECOND])
def test_an_invalidation_of_leaves_keeps_what_leads_to_them(leaf: bool, stage: int) -> None:
    software = Software()
    old = software.first_stage(PASID) if stage == FIRST else software.second_stage(PASID)
    software.start_scalable()
    software.moves(SID, PASID)
    bits = READ_WRITE_USER if stage == FIRST else READ_WRITE
    table = (old & -4096) + 0x10_0000
    software.words(table + old % 4096, OTHER_PAGE | bits)
    software.words((old & -4096) - 0x1000 + 8 * (VA >> 21 & 0x1FF), table | bits)
    word0 = 6 | 3 << 4 | DID << 16 | PASID << 32 if stage == FIRST else 2 | 3 << 4 | DID << 16
    software.flush((word0, VA | leaf << 6))
    software.moves(SID, PASID, page=PAGE if leaf else OTHER_PAGE)


# --- faults ----------------------------------------------------------------------------------------------------------


def test_the_fault_event_is_sent_once_until_all_records_are_cleared() -> None:
    software = Software()
    sent: list[str] = []
    software.unit.interface.irq = sent.append
    for offset, value in ((FEDATA, 0x4021), (FEADDR, 0xFEE0_1000), (FEUADDR, 0)):
        software.write(offset, value)
        assert software.read(offset) == value
    software.write(FECTL, 0)
    software.start_scalable()
    software.blocked(SID, 5)
    software.blocked(SID, 6)
    assert sent == ["fault"]
    place = (software.read(CAP, 8) >> 24 & 0x3FF) * 16
    for index in range(2):
        software.write(place + 16 * index + 12, 1 << 31)
    software.blocked(SID, 7)
    assert sent == ["fault", "fault"]
    assert software.fault()[1] == record(SID, 0x51, 7, read=True)


def test_after_an_overflow_software_clears_records_and_pfo() -> None:
    software = Software(features={"fault_records": 1})
    software.start_scalable()
    software.blocked(SID, 5)
    software.blocked(SID, 6)
    assert software.read(FSTS) == 3
    assert software.fault()[1] == record(SID, 0x51, 5, read=True)
    software.blocked(SID, 7)
    assert software.read(FSTS) == 1
    software.write(FSTS, 1)
    software.blocked(SID, 8)
    assert software.fault()[1] == record(SID, 0x51, 8, read=True)


# --- devices that translate ------------------------------------------------------------------------------------------


@dataclass
class Pager:
    """Software that brings a page for each request, and answers as it is told."""

    software: Software
    code: int = 0
    seen: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        software = self.software
        for offset, value in ((PQH, 0), (PQT, 0), (PQA, software.requests)):
            software.write64(offset, value)
        software.write(PRS, 3)
        software.unit.interface.irq = self.serve
        software.write(PECTL, 0)

    def serve(self, name: str) -> None:
        assert name == "page_request"
        software = self.software
        software.write(PRS, 1)
        head, tail = software.read(PQH), software.read(PQT)
        while head != tail:
            word0, word1 = (software.memory.load64(software.requests + head + at) or 0 for at in (0, 8))
            self.seen.append((word0, word1))
            self.answer(word0, word1)
            head = (head + 32) % 4096
        software.write64(PQH, head)

    def answer(self, word0: int, word1: int) -> None:
        software = self.software
        if self.code == 0:
            software.map(software.tables, 4, word1 & -4096, PAGE, READ_WRITE_USER)
        if word1 & 4 and word1 & 3:
            pasid = word0 >> 32 & 0xFFFFF
            first = 9 | 1 << 4 | self.code << 12 | (word0 >> 16 & 0xFFFF) << 16 | pasid << 32
            software.flush((first, 1 << 2 | (word1 >> 3 & 0x1FF) << 3))


def paged(code: int = 0) -> tuple[Software, Pager, DmaPort]:
    software = Software()
    software.pasid_entry(PASID, 1 | FIRST << 6, DID, software.tables)
    software.start_scalable()
    return software, Pager(software, code), DmaPort(software.unit, SID, ats=True, pri=True)


def test_a_page_that_a_device_asks_for_is_brought_and_used() -> None:
    software, pager, port = paged()
    for index, page in enumerate((VA, VA + 0x1000)):
        assert port.transfer(PASID, page + 5, b"bytes", 5) == Transferred(PAGE + 5, b"bytes")
        assert pager.seen[index] == (1 | 1 << 8 | SID << 16 | PASID << 32, page | index << 3 | 1 << 2 | 1 << 1)
    assert software.read(FSTS) == 0


@pytest.mark.parametrize("code", [1, 2, 15])
def test_a_device_gets_the_response_code_that_software_wrote(code: int) -> None:
    software, _, port = paged(code)
    outcome = port.transfer(PASID, VA, b"x", 1)
    assert isinstance(outcome, PageRefused)
    assert outcome.response == code
    assert software.read(FSTS) == 0, "a page that is not there is nothing to record"


def test_what_a_device_was_granted_lasts_until_its_device_tlb_is_invalidated() -> None:
    software, _, port = paged()
    port.transfer(PASID, VA, b"x", 1)
    software.pasid_entry(PASID, 0)
    software.flush((7 | 1 << 4 | DID << 16 | PASID << 32, 0), (6 | 2 << 4 | DID << 16 | PASID << 32, 0))
    assert isinstance(port.transfer(PASID, VA, b"y", 1), Transferred)
    software.flush((8 | SID << 16 | PASID << 32, 0x7FFF_FFFF_FFFF_F800))
    assert not isinstance(port.transfer(PASID, VA, b"z", 1, page_requests=False), Transferred)
    assert software.memory.load(PAGE, 1) == b"y"


def test_a_draining_wait_finds_the_requests_that_are_under_way() -> None:
    software, pager, port = paged(1)
    software.unit.page_requests.hold = True
    refused = port.transfer(PASID, VA, b"x", 1)
    assert isinstance(refused, PageRefused)
    assert refused.prg_index is not None
    assert (pager.seen, port.answer(refused.prg_index)) == ([], None)
    software.put(5 | 1 << 7, 0)
    software.flush()
    assert len(pager.seen) == 1
    assert port.answer(refused.prg_index) == 1


@pytest.mark.parametrize(("flags", "code", "reason"), [(0x0C, 1, 0x47), (0x1C, 15, 0)])
def test_a_page_request_that_is_not_allowed_is_answered_by_the_unit(flags: int, code: int, reason: int) -> None:
    software = Software()
    software.first_stage(PASID)
    software.start_scalable(flags=flags)
    if not reason:
        software.write(GCMD, software.read(GSTS) & STATUS_BITS & ~TE)
    port = DmaPort(software.unit, SID, ats=True, pri=True)
    index = port.request_page(Request(SID, PASID, VA, Operation.WRITE))
    assert index is not None
    assert port.answer(index) == code
    if reason:
        assert software.fault()[1] >> 32 & 0xFF == reason
    assert software.read(FSTS) == 0


def test_without_device_tlb_enable_a_device_may_neither_ask_nor_claim() -> None:
    software = Software()
    software.first_stage(PASID)
    software.start_scalable(flags=0x18)
    port = DmaPort(software.unit, SID, ats=True)
    assert isinstance(port.transfer(PASID, VA, b"x", 1), Blocked)
    assert software.fault()[1] >> 32 & 0xFF == 0x44
    claimed = software.unit.dma_write(Request(SID, PASID, PAGE, ats=Ats.TRANSLATED), b"x")
    assert isinstance(claimed, Blocked)
    assert software.fault()[1] >> 32 & 0xFF == 0x44
    assert software.memory.load(PAGE, 1) == b"\0"

"""An SMMU as bare software meets it: registers and memory, and of the model only the bus on either side.

Every structure, command and expected record is written here from the specification's figures, bit by bit, so that
these tests share no layout with the code they test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.request import Completion, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.target import ResumeAction
from pasidlab.hw.transaction import Operation, Transferred
from pasidlab.memory import Memory

# Registers

IDR0, IDR1, IDR3, IDR5, AIDR = 0x00, 0x04, 0x0C, 0x14, 0x1C
CR0, CR0ACK, CR1, CR2, GBPA = 0x20, 0x24, 0x28, 0x2C, 0x44
IRQ_CTRL, IRQ_CTRLACK, GERROR, GERRORN = 0x50, 0x54, 0x60, 0x64
GERROR_IRQ_CFG0, GERROR_IRQ_CFG1 = 0x68, 0x70
STRTAB_BASE, STRTAB_BASE_CFG = 0x80, 0x88
CMDQ_BASE, CMDQ_PROD, CMDQ_CONS = 0x90, 0x98, 0x9C
EVENTQ_BASE, EVENTQ_IRQ_CFG0, EVENTQ_IRQ_CFG1 = 0xA0, 0xB0, 0xB8
EVENTQ_PROD, EVENTQ_CONS = 0x100A8, 0x100AC
SMMUEN, EVENTQEN, CMDQEN = 1, 1 << 2, 1 << 3
OVERFLOW = 1 << 31

# Commands

CFGI_ALL = (0x04, 31)
TLBI_NSNH_ALL = (0x30, 0)
SYNC = (0x46, 0)

# Descriptors

AF, SH, NG, RO, USER = 1 << 10, 3 << 8, 1 << 11, 1 << 7, 1 << 6
LEAF = AF | SH | NG | USER
S2_RW, S2_RO = AF | SH | 3 << 6 | 0xF << 2, AF | SH | 1 << 6 | 0xF << 2

SID = 0x107
VA = 0x1234_5678_9000
PAGE, OTHER_PAGE = 0x5_0000_0000, 0x5_0001_0000
IPA_OFFSET = 0x10_0000_0000
"""Stage 2 maps 1 GiB from here to 0, so that no intermediate address is a physical one."""


@dataclass
class Software:
    """A driver without a kernel: it may touch memory and registers, and nothing else.

    Attributes:
        accesses: how 64-bit registers are written.
        base: where its structures begin.
        log2size: of both queues.
    """

    features: dict[str, Any] = field(default_factory=dict)
    accesses: str = "64"
    base: int = 0x8000_0000
    log2size: int = 4
    prod: int = 0
    cons: int = 0

    def __post_init__(self) -> None:
        self.memory = Memory()
        self.smmu = Smmuv3(self.memory, Features(**self.features))
        self.cmdq, self.eventq, self.strtab = self.base + 0x1_0000, self.base + 0x2_0000, self.base + 0x10_0000
        self.level2, self.cds, self.tables = self.base + 0x20_0000, self.base + 0x24_0000, self.base + 0x30_0000
        self.stage2_root = self.base + 0x80_0000

    # registers

    def read(self, offset: int, size: int = 4) -> int:
        return self.smmu.mmio_read(offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.smmu.mmio_write(offset, value, size)

    def write64(self, offset: int, value: int) -> None:
        if self.accesses == "64":
            self.write(offset, value, 8)
            return
        halves = [(offset, value & 0xFFFF_FFFF), (offset + 4, value >> 32)]
        for place, half in halves if self.accesses == "low, high" else halves[::-1]:
            self.write(place, half)

    def update(self, offset: int, value: int, ack: int) -> None:
        self.write(offset, value)
        assert self.read(ack) == value

    # memory

    def words(self, address: int, *words: int) -> None:
        for index, word in enumerate(words):
            assert self.memory.store(address + 8 * index, word.to_bytes(8, "little"))

    def map(self, root: int, shifts: tuple[int, ...], address: int, leaf: int, table: Callable[[int], int]) -> int:
        """Write one entry for each level, all tables side by side, and return the address of the leaf's."""
        for level, shift in enumerate(shifts):
            bits = 16 if not level else shifts[level - 1] - shift
            place = root + 0x2_0000 * level + 8 * (address >> shift & (1 << bits) - 1)
            last = shift == shifts[-1]
            self.words(place, leaf if last else table(root + 0x2_0000 * (level + 1)) | 3)
        return place

    # bring-up

    def bring_up(self, *, two_level: bool = False, record: bool = True) -> None:
        """Follow the order of IHI 0070 G.b, 3.11, from reset on."""
        self.update(CR0, 0, CR0ACK)
        self.write(CR1, 0xD75)
        self.write(CR2, 2 if record else 0)
        self.write64(STRTAB_BASE, self.strtab | 1 << 62)
        self.write(STRTAB_BASE_CFG, 16 | 8 << 6 | 1 << 16 if two_level else 9)
        if two_level:
            self.words(self.strtab + 8 * (SID >> 8), self.level2 | 9)
        self.write64(CMDQ_BASE, self.cmdq | 1 << 62 | self.log2size)
        self.write(CMDQ_PROD, 0)
        self.write(CMDQ_CONS, 0)
        self.update(CR0, CMDQEN, CR0ACK)
        self.command(*CFGI_ALL)
        self.command(*TLBI_NSNH_ALL)
        self.command(*SYNC)
        self.write64(EVENTQ_BASE, self.eventq | 1 << 62 | self.log2size)
        self.write(EVENTQ_PROD, 0)
        self.write(EVENTQ_CONS, 0)
        self.update(CR0, CMDQEN | EVENTQEN, CR0ACK)
        self.update(CR0, CMDQEN | EVENTQEN | SMMUEN, CR0ACK)
        self.ste_at = self.level2 + 64 * (SID & 0xFF) if two_level else self.strtab + 64 * SID

    def put(self, *words: int) -> int:
        """Write a command, and return the value for PROD behind it."""
        slot = self.prod & (1 << self.log2size) - 1
        self.words(self.cmdq + 16 * slot, *words)
        self.prod = self.prod + 1 & (2 << self.log2size) - 1
        return self.prod

    def command(self, *words: int) -> None:
        self.write(CMDQ_PROD, self.put(*words))
        assert self.read(CMDQ_CONS) & 0xFFFFF == self.prod, "ERR means nothing without an error"
        assert self.read(GERROR) == self.read(GERRORN)

    def forget(self) -> None:
        for command in (CFGI_ALL, TLBI_NSNH_ALL, SYNC):
            self.command(*command)

    # configuration

    def ste(self, config: int, w0: int = 0, w1: int = 0, w2: int = 0, w3: int = 0) -> None:
        self.words(self.ste_at, 1 | config << 1 | w0, w1, w2, w3)

    def cd(self, at: int = 0, w0: int = 0, ttb0: int = 0, ttb1: int = 0) -> None:
        self.words(at or self.cds, w0, ttb0, ttb1, 0xFF44_04)

    def stage_1(self, leaf: int = PAGE | LEAF | 3) -> int:
        """Point the stream at one CD with 4K tables for VA, and return the address of the page's entry."""
        self.ste(5, self.cds)
        self.cd(w0=CD_4K, ttb0=self.tables)
        return self.map(self.tables, (39, 30, 21, 12), VA, leaf, lambda table: table)

    def stage_2(self, leaf: int = PAGE | S2_RW | 3) -> int:
        """Let stage 2 alone translate the lowest 40 bits, which takes two tables at level 1."""
        self.ste(6, 0, 0, STE_S2, self.tables)
        return self.map(self.tables, (30, 21, 12), VA & (1 << 40) - 1, leaf, lambda table: table)

    def nested(self, leaf: int = PAGE + IPA_OFFSET | LEAF | 3) -> int:
        """Both stages, all of stage 1 at intermediate addresses, and return the address of the page's entry."""
        self.ste(7, self.cds + IPA_OFFSET, 0, STE_S2, self.stage2_root)
        self.cd(w0=CD_4K, ttb0=self.tables + IPA_OFFSET)
        for gib in range(64):
            self.words(self.stage2_root + 8 * (gib + (IPA_OFFSET >> 30)), gib << 30 | S2_RW | 1)
        return self.map(self.tables, (39, 30, 21, 12), VA, leaf, lambda table: table + IPA_OFFSET)

    # the device

    def dma(self, address: int = VA, data: bytes | None = None, ssid: int | None = None, **how: Any) -> Any:
        if data is None:
            return self.smmu.dma_read(Request(SID, ssid, address, **how), 8)
        return self.smmu.dma_write(Request(SID, ssid, address, Operation.WRITE, **how), data)

    def reaches(self, place: int, address: int = VA, ssid: int | None = None) -> None:
        """Check that writes and reads of an address are those of a place in memory."""
        assert isinstance(self.dma(address + 8, b"written!", ssid), Transferred)
        assert self.memory.load(place + 8, 8) == b"written!"
        self.words(place + 16, 0x1122_3344_5566_7788)
        assert self.dma(address + 16, ssid=ssid).data == bytes.fromhex("8877665544332211")
        assert self.events() == []

    def output(self, address: int = VA) -> int:
        outcome = self.dma(address)
        assert isinstance(outcome, Transferred)
        return outcome.address

    # events

    def events(self) -> list[str]:
        """Consume all events, as the hexadecimal digits of their 64-bit words."""
        found = []
        prod = self.read(EVENTQ_PROD)
        while (self.cons ^ prod) & (2 << self.log2size) - 1:
            data = self.memory.load(self.eventq + 32 * (self.cons & (1 << self.log2size) - 1), 32)
            assert data is not None
            found.append(" ".join(f"{int.from_bytes(data[at : at + 8], 'little'):016x}" for at in range(0, 32, 8)))
            self.cons = self.cons + 1 & (2 << self.log2size) - 1
        self.write(EVENTQ_CONS, self.cons | prod & OVERFLOW)
        return found


CD_4K = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 3 << 45 | 0x12 << 48
"""T0SZ 16, 4K, EPD1, V, IPS 48 bits, AA64, R and A, ASID 0x12."""
STE_S2 = 7 | 24 << 32 | 1 << 38 | 1 << 40 | 1 << 42 | 3 << 44 | 5 << 48 | 1 << 51 | 1 << 58
"""S2VMID 7, S2T0SZ 24, S2SL0 1 (level 1), 4K, S2PS 48 bits, S2AA64, S2R."""


def started(**options: Any) -> Software:
    software = Software(**options)
    software.bring_up()
    return software


# Reset


def test_after_reset_transactions_pass_untranslated_and_all_enables_are_clear() -> None:
    bare = Software()
    assert bare.read(CR0) == bare.read(CR0ACK) == bare.read(IRQ_CTRL) == bare.read(IRQ_CTRLACK) == 0
    assert bare.read(GERROR) == bare.read(GERRORN)
    assert not bare.read(GBPA) >> 31
    bare.reaches(PAGE, PAGE)


def test_the_id_registers_say_what_bring_up_relies_on() -> None:
    bare = Software()
    assert bare.read(IDR0) & 3 == 3
    assert bare.read(IDR0) >> 2 & 3 == 2
    assert bare.read(IDR0) >> 27 & 3 == 1
    sizes = bare.read(IDR1)
    assert (sizes & 63, sizes >> 6 & 31) == (16, 20)
    assert min(sizes >> 16 & 31, sizes >> 21 & 31) >= 8
    assert bare.read(IDR3) >> 4 & 1, "XNX comes with stage 2 from SMMUv3.1 on"
    assert bare.read(IDR5) >> 4 & 7 == 7
    assert bare.read(AIDR) >> 4 == 0


def test_global_bypass_can_be_made_to_abort_and_back() -> None:
    bare = Software()
    bare.write(GBPA, 1 << 20 | 1 << 31)
    assert bare.read(GBPA) >> 20 == 1
    outcome = bare.dma(PAGE)
    assert isinstance(outcome, Terminated)
    assert outcome.event is None
    bare.write(GBPA, 1 << 31)
    bare.reaches(PAGE, PAGE, ssid=5)


# Bring-up


@pytest.mark.parametrize("base", [0x4000_0000, 0x7FFF_F000_0000, 0xFFF0_0000])
@pytest.mark.parametrize("accesses", ["64", "low, high", "high, low"])
@pytest.mark.parametrize("two_level", [False, True])
def test_bring_up_from_reset_by_any_accesses_at_any_place(accesses: str, base: int, two_level: bool) -> None:
    software = Software(accesses=accesses, base=base)
    software.bring_up(two_level=two_level)
    software.stage_1()
    software.reaches(PAGE)
    assert software.read(STRTAB_BASE, 8) == software.strtab | 1 << 62
    assert software.read(STRTAB_BASE + 4) == (software.strtab | 1 << 62) >> 32


def test_queues_and_stream_table_are_aligned_down_to_their_size() -> None:
    software = Software(log2size=5)
    aligned = {"cmdq": 0x1E0, "eventq": 0x3E0, "strtab": 0x7FC0}
    for name, offset in aligned.items():
        setattr(software, name, getattr(software, name) | offset)
    software.write64(STRTAB_BASE, software.strtab)
    software.write64(CMDQ_BASE, software.cmdq | 5)
    software.write64(EVENTQ_BASE, software.eventq | 5)
    software.write(STRTAB_BASE_CFG, 9)
    for name, offset in aligned.items():
        setattr(software, name, getattr(software, name) - offset)
    software.update(CR0, CMDQEN | EVENTQEN | SMMUEN, CR0ACK)
    software.command(*SYNC)
    assert isinstance(software.dma(), Terminated)
    assert [event[:16] for event in software.events()] == ["0000010700000004"]
    software.ste_at = software.strtab + 64 * SID
    software.stage_1()
    software.forget()
    software.reaches(PAGE)


def test_streams_have_tables_of_their_own_up_to_the_last() -> None:
    software = started()
    software.stage_1()
    software.ste_at = software.strtab + 64 * 0x1FF
    software.ste(4)
    last = software.smmu.dma_read(Request(0x1FF, None, PAGE), 8)
    assert isinstance(last, Transferred)
    assert last.address == PAGE
    beyond = software.smmu.dma_read(Request(0x200, None, PAGE), 8)
    assert isinstance(beyond, Terminated)
    assert software.events() == ["0000020000000002 0000000000000000 0000000000000000 0000000000000000"]


# What translates


GRANULES = {
    "4K page, level 0": (0, 16, (39, 30, 21, 12)),
    "4K page, level 1": (0, 25, (30, 21, 12)),
    "4K page, level 2": (0, 34, (21, 12)),
    "2M block": (0, 20, (39, 30, 21)),
    "1G block": (0, 25, (30,)),
    "64K page": (1, 16, (42, 29, 16)),
    "512M block": (1, 22, (29,)),
    "16K page, level 0": (2, 16, (47, 36, 25, 14)),
    "16K page, level 2": (2, 28, (25, 14)),
    "32M block": (2, 17, (36, 25)),
}


@pytest.mark.parametrize("shape", GRANULES)
@pytest.mark.parametrize("high", [False, True])
def test_stage_1_reads_pages_and_blocks_of_every_granule_in_both_halves(shape: str, high: bool) -> None:
    granule, tsz, shifts = GRANULES[shape]
    software = started()
    software.ste(5, software.cds)
    region = tsz | granule << 6
    if high:
        region = tsz << 16 | {0: 2, 1: 3, 2: 1}[granule] << 22
    common = CD_4K & ~(0x3F | 1 << 30)
    software.cd(w0=common | region | (1 << 14 if high else 1 << 30), ttb0=software.tables, ttb1=software.tables)
    inner = VA & (1 << 64 - tsz) - 1
    size = 1 << shifts[-1]
    leaf = (PAGE & -size) | LEAF | (3 if shifts[-1] in (12, 14, 16) else 1)
    software.map(software.tables, shifts, inner, leaf, lambda table: table)
    address = inner | (-1 << 64 - tsz & 2**64 - 1 if high else 0)
    software.reaches((PAGE & -size) + inner % size, address)


S2_SHAPES = {
    "4K, level 0": (0, 16, 2, (39, 30, 21, 12)),
    "4K, level 1, 8 tables": (0, 22, 1, (30, 21, 12)),
    "4K, level 1, 16 tables, block": (0, 21, 1, (30, 21)),
    "4K, level 2, 16 tables": (0, 30, 0, (21, 12)),
    "16K, level 1": (2, 18, 2, (36, 25, 14)),
    "16K, level 2, 8 tables": (2, 25, 1, (25, 14)),
    "64K, level 1": (1, 17, 2, (42, 29, 16)),
    "64K, level 2, block": (1, 25, 1, (29,)),
}


@pytest.mark.parametrize("shape", S2_SHAPES)
def test_stage_2_starts_where_s2sl0_says_with_tables_side_by_side(shape: str) -> None:
    granule, tsz, sl0, shifts = S2_SHAPES[shape]
    software = started()
    size = STE_S2 & ~(0x3F << 32 | 3 << 38 | 3 << 46)
    software.ste(6, 0, 0, size | tsz << 32 | sl0 << 38 | granule << 46, software.tables)
    inner = VA & (1 << 64 - tsz) - 1
    leaf = (PAGE & -(1 << shifts[-1])) | S2_RW | (3 if shifts[-1] in (12, 14, 16) else 1)
    software.map(software.tables, shifts, inner, leaf, lambda table: table)
    software.reaches((PAGE & -(1 << shifts[-1])) + inner % (1 << shifts[-1]), inner)


@pytest.mark.parametrize("two_level", [False, True])
def test_nested_translation_takes_cd_tables_and_output_through_stage_2(two_level: bool) -> None:
    software = Software()
    software.bring_up(two_level=two_level)
    software.nested()
    software.reaches(PAGE)


@pytest.mark.parametrize(("s1fmt", "split"), [(0, None), (1, 6), (2, 10)])
@pytest.mark.parametrize("nested", [False, True])
def test_a_substream_selects_its_cd_in_tables_of_every_format(s1fmt: int, split: int | None, nested: bool) -> None:
    software = started()
    software.nested() if nested else software.stage_1()
    offset = IPA_OFFSET if nested else 0
    substream = 0xC05
    table, leaf_table = software.cds + 0x1_0000, software.cds + 0x8_0000
    if split is None:
        table, cd = software.base + 0x50_0000, software.base + 0x50_0000 + 64 * substream
    else:
        software.words(table + 8 * (substream >> split), leaf_table + offset | 1)
        cd = leaf_table + 64 * (substream & (1 << split) - 1)
    w0, w1 = (table + offset) | s1fmt << 4 | 12 << 59, 0
    software.ste(7 if nested else 5, w0, w1, STE_S2, software.stage2_root)
    software.cd(cd, CD_4K, software.tables + offset)
    software.reaches(PAGE, ssid=substream)
    assert isinstance(software.dma(), Terminated)
    assert software.events() == ["0000010700000006 0000000000000000 0000000000000000 0000000000000000"]
    assert isinstance(software.dma(ssid=0x1000), Terminated)
    assert software.events() == ["0000010701000008 0000000000000000 0000000000000000 0000000000000000"]


def test_without_a_substream_s1dss_terminates_bypasses_or_takes_the_first_cd() -> None:
    software = started()
    software.stage_1()
    for s1dss, place in ((1, VA), (2, PAGE)):
        software.ste(5, software.cds | 4 << 59, s1dss)
        software.forget()
        assert software.output() == place
    outcome = software.dma(ssid=0)
    assert isinstance(outcome, Terminated)
    assert software.events() == ["0000010700000006 0000000000000000 0000000000000000 0000000000000000"]


def test_the_top_byte_is_ignored_where_tbi_says_so_but_is_recorded() -> None:
    software = started()
    software.stage_1()
    tagged = VA | 0xA5 << 56
    software.cd(w0=CD_4K | 1 << 38, ttb0=software.tables)
    software.reaches(PAGE, tagged)
    software.cd(w0=CD_4K, ttb0=software.tables)
    software.forget()
    assert isinstance(software.dma(tagged), Terminated)
    assert software.events() == ["0000010700000010 0000020800000000 a500123456789000 0000000000000000"]


# Faults of stage 1: CLASS is 2 (IN) at bits 105:104, RnW bit 99, S2 bit 103, so the second word is telling


READ, WRITE = "0000020800000000", "0000020000000000"
STAGE_1_LEAVES = {
    "not valid": (0, None, 0x10, READ),
    "a block at level 3": (PAGE | LEAF | 1, b"12345678", 0x10, WRITE),
    "beyond IPS": (PAGE | 1 << 47 | LEAF | 3, None, 0x11, READ),
    "not accessed": (PAGE | (LEAF & ~AF) | 3, None, 0x12, READ),
    "read-only": (PAGE | LEAF | RO | 3, b"12345678", 0x13, WRITE),
    "privileged": (PAGE | (LEAF & ~USER) | 3, None, 0x13, READ),
    "access flag goes before permission": (PAGE | (LEAF & ~AF) | RO | 3, b"12345678", 0x12, WRITE),
    "size goes before access flag": (PAGE | 1 << 47 | (LEAF & ~AF) | 3, None, 0x11, READ),
}


@pytest.mark.parametrize("what", STAGE_1_LEAVES)
def test_a_page_that_stage_1_does_not_grant_gives_one_event(what: str) -> None:
    leaf, data, code, access = STAGE_1_LEAVES[what]
    software = started()
    software.stage_1(leaf)
    software.cd(w0=CD_4K & ~(7 << 32) | 4 << 32, ttb0=software.tables)
    outcome = software.dma(VA + 0x678, data)
    assert isinstance(outcome, Terminated)
    assert outcome.completion is Completion.ABORT
    assert software.events() == [f"00000107000000{code:02x} {access} 0000123456789678 0000000000000000"]


def test_privileged_and_instruction_stand_in_the_event_but_never_for_a_write() -> None:
    software = started()
    software.stage_1(PAGE | LEAF | 3 << 53 | 3)
    assert isinstance(software.dma(privileged=True, instruction=True), Terminated)
    software.stage_1(PAGE | LEAF | RO | 3)
    assert isinstance(software.dma(data=b"12345678", privileged=True, instruction=True), Terminated)
    assert [event.split()[:2] for event in software.events()] == [
        ["0000010700000013", "0000020e00000000"],
        ["0000010700000013", "0000020200000000"],
    ]


@pytest.mark.parametrize("address", [1 << 48, 1 << 63, (1 << 64) - 4096, 0xFFFF_0000_0000_0000])
def test_an_address_outside_of_the_region_faults_without_a_walk(address: int) -> None:
    software = started()
    software.stage_1()
    software.memory.poison(software.tables, 0x1000)
    assert isinstance(software.dma(address), Terminated)
    assert software.events() == [f"0000010700000010 {READ} {address:016x} 0000000000000000"]


def test_a_table_beyond_the_output_size_faults_and_one_that_aborts_names_its_entry() -> None:
    software = started()
    software.stage_1()
    level1 = software.tables + 0x2_0000 + 8 * (VA >> 30 & 0x1FF)
    software.cd(w0=CD_4K & ~(7 << 32) | 3 << 32, ttb0=software.tables)
    software.words(level1, 1 << 43 | 3)
    assert isinstance(software.dma(), Terminated)
    software.memory.poison(level1, 8)
    assert isinstance(software.dma(), Terminated)
    assert software.events() == [
        f"0000010700000011 {READ} {VA:016x} 0000000000000000",
        f"000001070000000b 0000010800000000 {VA:016x} {level1:016x}",
    ]


def test_terminated_faults_are_recorded_and_aborted_as_the_cd_says() -> None:
    software = started()
    software.stage_1(0)
    for bits, recorded, completion in (
        (0, 0, Completion.RAZ_WI),
        (1, 1, Completion.RAZ_WI),
        (2, 0, Completion.ABORT),
        (3, 1, Completion.ABORT),
    ):
        software.cd(w0=CD_4K & ~(3 << 45) | bits << 45, ttb0=software.tables)
        software.forget()
        outcome = software.dma()
        assert isinstance(outcome, Terminated)
        assert outcome.completion is completion
        assert len(software.events()) == recorded


# Faults of stage 2


def test_a_fault_of_stage_2_alone_names_the_intermediate_page() -> None:
    software = started()
    software.stage_2(PAGE | S2_RO | 3)
    ipa = VA & (1 << 40) - 1
    assert isinstance(software.dma(ipa + 0x678), Transferred)
    assert isinstance(software.dma(ipa + 0x678, b"12345678"), Terminated)
    beyond = 1 << 40
    assert isinstance(software.dma(beyond), Terminated)
    too_large = 1 << 48
    assert isinstance(software.dma(too_large), Terminated)
    assert software.events() == [
        f"0000010700000013 0000028000000000 {ipa + 0x678:016x} {ipa:016x}",
        f"0000010700000010 0000028800000000 {beyond:016x} {beyond:016x}",
        f"0000010700000011 {READ} {too_large:016x} 0000000000000000",
    ]


def test_faults_of_stage_2_under_stage_1_say_what_was_being_translated() -> None:
    software = started()
    software.nested()
    slot = software.stage2_root + 8 * ((software.base + IPA_OFFSET) >> 30)
    good = software.memory.load64(slot)
    assert good
    software.words(slot, 0)
    assert isinstance(software.dma(ssid=None), Terminated)
    cd_ipa = software.cds + IPA_OFFSET
    assert software.events() == [f"0000010700000010 0000008800000000 {VA:016x} {cd_ipa & -4096:016x}"]
    software.words(slot, good)
    software.reaches(PAGE)
    software.command(*TLBI_NSNH_ALL)
    software.words(slot, 0)
    assert isinstance(software.dma(), Terminated)
    table_ipa = software.tables + IPA_OFFSET + 8 * (VA >> 39)
    assert software.events() == [f"0000010700000010 0000018800000000 {VA:016x} {table_ipa & -4096:016x}"]
    software.words(slot, good)
    page_slot = software.stage2_root + 8 * ((PAGE + IPA_OFFSET) >> 30)
    software.words(page_slot, (PAGE & -(1 << 30)) | S2_RO | 1)
    assert isinstance(software.dma(VA + 8, b"12345678"), Terminated)
    assert software.events() == [f"0000010700000013 0000028000000000 {VA + 8:016x} {PAGE + IPA_OFFSET:016x}"]


def test_an_abort_of_a_stage_2_table_is_stage_2_and_one_of_a_stage_1_table_is_stage_1() -> None:
    software = started()
    entry = software.nested()
    software.memory.poison(entry, 8)
    assert isinstance(software.dma(), Terminated)
    assert software.events() == [f"000001070000000b 0000010800000000 {VA:016x} {entry:016x}"]
    software.memory.heal()
    page_slot = software.stage2_root + 8 * ((PAGE + IPA_OFFSET) >> 30)
    software.memory.poison(page_slot, 8)
    assert isinstance(software.dma(), Terminated)
    assert software.events() == [f"000001070000000b 0000028800000000 {VA:016x} {page_slot:016x}"]


@pytest.mark.parametrize(("xn", "user", "privileged"), [(0, 1, 1), (1, 1, 0), (2, 0, 0), (3, 0, 1)])
def test_execution_is_forbidden_by_stage_2_to_each_privilege_apart(xn: int, user: int, privileged: int) -> None:
    software = started()
    software.stage_2(PAGE | S2_RW | xn << 53 | 3)
    ipa = VA & (1 << 40) - 1
    for allowed, is_privileged in ((user, False), (privileged, True)):
        outcome = software.dma(ipa, instruction=True, privileged=is_privileged)
        assert isinstance(outcome, Transferred if allowed else Terminated)
    software.events()
    assert isinstance(software.dma(ipa), Transferred)


def test_without_s2r_faults_of_stage_2_are_silent_and_aborts_are_not() -> None:
    software = started()
    entry = software.stage_2(0)
    software.ste(6, 0, 0, STE_S2 & ~(1 << 58), software.tables)
    ipa = VA & (1 << 40) - 1
    assert isinstance(software.dma(ipa), Terminated)
    assert software.events() == []
    software.memory.poison(entry, 8)
    assert isinstance(software.dma(ipa), Terminated)
    assert software.events() == [f"000001070000000b 0000028800000000 {ipa:016x} {entry:016x}"]


# Configuration errors


def test_an_invalid_ste_or_cd_and_a_stream_that_aborts() -> None:
    software = started()
    assert isinstance(software.dma(ssid=3), Terminated)
    assert software.events() == ["0000010700003804 0000000000000000 0000000000000000 0000000000000000"]
    software.ste(5, software.cds)
    software.forget()
    assert isinstance(software.dma(), Terminated)
    assert software.events() == ["000001070000000a 0000000000000000 0000000000000000 0000000000000000"]
    software.ste(0)
    software.forget()
    assert isinstance(software.dma(), Terminated)
    assert software.events() == []


def test_fetches_that_abort_name_their_address() -> None:
    software = started()
    software.stage_1()
    software.memory.poison(software.ste_at, 64)
    assert isinstance(software.dma(), Terminated)
    software.memory.heal()
    software.memory.poison(software.cds, 64)
    assert isinstance(software.dma(ssid=None), Terminated)
    assert software.events() == [
        f"0000010700000003 0000000000000000 0000000000000000 {software.ste_at:016x}",
        f"0000010700000009 0000000000000000 0000000000000000 {software.cds:016x}",
    ]
    software.memory.heal()
    software.reaches(PAGE)


def test_a_stream_that_bypasses_takes_no_substream_and_no_address_beyond_the_output_size() -> None:
    software = started()
    software.ste(4)
    software.reaches(PAGE, PAGE)
    assert isinstance(software.dma(PAGE, ssid=0), Terminated)
    assert isinstance(software.dma(1 << 48), Terminated)
    assert software.events() == [
        "0000010700000008 0000000000000000 0000000000000000 0000000000000000",
        f"0000010700000011 {READ} 0001000000000000 0000000000000000",
    ]


@pytest.mark.parametrize(
    ("span", "reached"), [(0, False), (3, False), (4, True), (8, True), (10, False), (12, False), (31, False)]
)
def test_a_two_level_stream_table_has_a_stream_only_within_its_span(span: int, reached: bool) -> None:
    software = Software()
    software.bring_up(two_level=True)
    software.stage_1()
    descriptor = software.strtab + 8 * (SID >> 8)
    software.words(descriptor, software.level2 | span)
    assert isinstance(software.dma(), Transferred) is reached
    assert len(software.events()) == (not reached)
    software.words(descriptor, software.level2 | 0x1FC0 | 9)
    software.forget()
    software.reaches(PAGE)


def test_a_bad_streamid_is_recorded_only_if_asked_for() -> None:
    software = Software()
    software.bring_up(record=False)
    assert isinstance(software.smmu.dma_read(Request(0x200, None, PAGE), 8), Terminated)
    assert software.events() == []


# The command queue


ILLEGAL = {
    "no opcode": (0, 0),
    "reserved opcode": (0x08, 0),
    "EL3": (0x18, 0),
    "EL2 without IDR0.Hyp": (0x20, 0),
    "Secure": (0x60, 0),
    "a Secure stream": (0x03 | 1 << 10 | SID << 32, 1),
    "ATC_INV without ATS": (0x40 | SID << 32, 52),
    "PRI_RESP without PRI": (0x41 | SID << 32, 2 << 12),
    "SYNC with CS 3": (0x46 | 3 << 12, 0),
    "a granule without a range": (0x12, 1 << 10),
    "the last opcode": (0xFF, 0),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_an_illegal_command_stops_the_queue_until_it_is_mended_and_acknowledged(what: str) -> None:
    software = started()
    software.stage_1()
    assert software.output() == PAGE
    software.stage_1(OTHER_PAGE | LEAF | 3)
    bad = software.prod
    software.put(*ILLEGAL[what])
    software.put(*TLBI_NSNH_ALL)
    software.write(CMDQ_PROD, software.prod)
    assert software.read(CMDQ_CONS) == bad | 1 << 24
    assert software.read(GERROR) ^ software.read(GERRORN) == 1
    assert software.output() == PAGE, "the command behind the error has no effect"
    software.words(software.cmdq + 16 * bad, *SYNC)
    software.write(CMDQ_PROD, software.prod)
    assert software.read(CMDQ_CONS) & 0xFFFFF == bad, "PROD alone starts nothing"
    software.write(GERRORN, software.read(GERROR))
    assert software.read(CMDQ_CONS) & 0xFFFFF == software.prod
    assert software.read(GERROR) == software.read(GERRORN)
    assert software.output() == OTHER_PAGE


def test_a_command_that_cannot_be_fetched_is_an_abort() -> None:
    software = started()
    bad = software.prod
    software.memory.poison(software.cmdq + 16 * bad, 16)
    software.write(CMDQ_PROD, bad + 1)
    assert software.read(CMDQ_CONS) == bad | 2 << 24
    software.memory.heal()
    software.put(*SYNC)
    software.write(GERRORN, software.read(GERROR))
    assert software.read(CMDQ_CONS) & 0xFFFFF == bad + 1


def test_software_may_take_bad_commands_back_while_the_error_is_active() -> None:
    software = started()
    bad = software.prod
    software.put(0xFF, 0)
    software.put(0xFE, 0)
    software.write(CMDQ_PROD, software.prod)
    software.prod = bad
    software.write(CMDQ_PROD, bad)
    software.write(GERRORN, software.read(GERROR))
    assert software.read(CMDQ_CONS) & 0xFFFFF == bad
    assert software.read(GERROR) == software.read(GERRORN)
    software.command(*SYNC)


@pytest.mark.parametrize("log2size", [0, 1, 3])
def test_the_command_queue_wraps_at_its_size(log2size: int) -> None:
    software = started(log2size=log2size)
    for _ in range(5 << log2size):
        software.command(*SYNC)
    for _ in range(1 << log2size):
        software.put(*SYNC)
    software.write(CMDQ_PROD, software.prod)
    assert software.read(CMDQ_CONS) == software.prod


def test_sync_writes_its_message() -> None:
    software = started()
    place = software.base + 0x7_0004
    software.command(0x46 | 1 << 12 | 3 << 22 | 0xF << 24 | 0xCAFE_F00D << 32, place)
    assert software.memory.load(place - 4, 12) == bytes.fromhex("00000000 0df0feca 00000000")


def test_commands_wait_for_the_enable_of_their_queue() -> None:
    software = started()
    software.update(CR0, EVENTQEN | SMMUEN, CR0ACK)
    before = software.read(CMDQ_CONS)
    software.write(CMDQ_PROD, software.put(*SYNC))
    assert software.read(CMDQ_CONS) == before
    software.update(CR0, CMDQEN | EVENTQEN | SMMUEN, CR0ACK)
    assert software.read(CMDQ_CONS) == software.prod


# Interrupts


def test_interrupts_fire_by_their_enables_with_a_message_each() -> None:
    software = Software()
    wires: list[str] = []
    software.smmu.interface.irq = wires.append
    messages = software.base + 0x7_0000
    software.write64(EVENTQ_IRQ_CFG0, messages)
    software.write(EVENTQ_IRQ_CFG1, 0x11)
    software.write64(GERROR_IRQ_CFG0, messages + 4)
    software.write(GERROR_IRQ_CFG1, 0x22)
    software.bring_up()
    software.dma()
    software.events()
    assert wires == []
    software.update(IRQ_CTRL, 5, IRQ_CTRLACK)
    software.dma()
    software.dma()
    assert wires == ["eventq"], "only an empty queue gets attention"
    software.put(0, 0)
    software.write(CMDQ_PROD, software.prod)
    assert wires == ["eventq", "gerror"]
    assert software.memory.load(messages, 8) == bytes.fromhex("11000000 22000000")
    assert len(software.events()) == 2
    software.dma()
    assert wires == ["eventq", "gerror", "eventq"]


# The event queue


def test_a_full_event_queue_toggles_its_flag_once_until_software_does_the_same() -> None:
    software = started(log2size=1)
    for _ in range(2):
        software.dma()
    assert software.read(EVENTQ_PROD) == 2
    for _ in range(2):
        software.dma()
    assert software.read(EVENTQ_PROD) == 2 | OVERFLOW
    assert software.read(GERROR) == software.read(GERRORN)
    assert len(software.events()) == 2
    assert software.read(EVENTQ_CONS) == software.read(EVENTQ_PROD) == 2 | OVERFLOW
    for _ in range(3):
        software.dma()
    assert software.read(EVENTQ_PROD) == 0, "two more, and the flag is back"


def test_an_event_that_cannot_be_written_closes_the_queue_until_acknowledged() -> None:
    software = started()
    software.memory.poison(software.eventq, 32)
    software.dma()
    software.dma()
    assert software.read(EVENTQ_PROD) == 0
    assert software.read(GERROR) ^ software.read(GERRORN) == 1 << 2
    software.memory.heal()
    software.dma()
    assert software.events() == []
    software.write(GERRORN, software.read(GERROR))
    software.dma()
    assert len(software.events()) == 1


def test_without_its_enable_the_event_queue_is_left_alone() -> None:
    software = started()
    software.update(CR0, CMDQEN | SMMUEN, CR0ACK)
    assert isinstance(software.dma(), Terminated)
    assert software.read(EVENTQ_PROD) == 0
    assert software.memory.load(software.eventq, 32) == bytes(32)


# Invalidation


def commands(asid: int, vmid: int, address: int) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Name stage 1 invalidations, and whether each reaches the page of VA in ASID 0x12 and VMID 7."""
    tags, mine = vmid << 32 | asid << 48, vmid == 7
    here = address == VA
    yield "NH_ALL", (0x10 | vmid << 32, 0), mine
    yield "NH_ASID", (0x11 | tags, 0), mine and asid == 0x12
    yield "NH_VA", (0x12 | tags, address), mine and asid == 0x12 and here
    yield "NH_VA, leaf", (0x12 | tags, address | 1), mine and asid == 0x12 and here
    yield "NH_VAA", (0x13 | vmid << 32, address), mine and here
    yield "NH_VA, range", (0x12 | tags | 3 << 12, address | 1 << 10), mine and asid == 0x12 and here
    yield "NH_VA, level", (0x12 | tags, address | 1 << 10 | 3 << 8), mine and asid == 0x12 and here
    yield "S12_VMALL", (0x28 | vmid << 32, 0), mine
    yield "NSNH_ALL", (0x30, 0), True
    yield "S2_IPA", (0x2A | vmid << 32, address & (1 << 40) - 1), False


TLBI = [
    (f"{name}, ASID {asid:#x}, VMID {vmid}, {address:#x}", words, reached)
    for asid, vmid, address in ((0x12, 7, VA), (0x13, 7, VA), (0x12, 8, VA), (0x12, 7, VA + 0x10_0000))
    for name, words, reached in commands(asid, vmid, address)
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("words", "reached"), [case[1:] for case in TLBI], ids=[case[0] for case in TLBI])
def test_a_changed_page_is_seen_after_an_invalidation_that_reaches_it(
    nested: bool, words: tuple[int, int], reached: bool
) -> None:
    software = started()
    entry = software.nested() if nested else software.stage_1()
    if not nested:
        software.ste(5, software.cds, 0, 7)
    assert software.output() == PAGE
    offset = IPA_OFFSET if nested else 0
    software.words(entry, OTHER_PAGE + offset | LEAF | 3)
    assert software.output() == PAGE, "the old translation is kept"
    software.command(*words)
    software.command(*SYNC)
    assert software.output() == (OTHER_PAGE if reached else PAGE)


@pytest.mark.parametrize(
    ("words", "reached"),
    [
        ((0x2A | 7 << 32, VA & (1 << 40) - 1), True),
        ((0x2A | 7 << 32, VA + 4096 & (1 << 40) - 1), False),
        ((0x2A | 8 << 32, VA & (1 << 40) - 1), False),
        ((0x28 | 7 << 32, 0), True),
        ((0x30, 0), True),
        ((0x10 | 7 << 32, 0), False),
    ],
)
def test_a_changed_page_of_stage_2_alone_is_seen_after_an_invalidation_by_ipa(
    words: tuple[int, int], reached: bool
) -> None:
    software = started()
    entry = software.stage_2()
    ipa = VA & (1 << 40) - 1
    assert software.output(ipa) == PAGE
    software.words(entry, OTHER_PAGE | S2_RW | 3)
    software.command(*words)
    software.command(*SYNC)
    assert software.output(ipa) == (OTHER_PAGE if reached else PAGE)


def test_global_pages_outlive_their_asid_but_not_their_address() -> None:
    software = started()
    entry = software.stage_1(PAGE | LEAF & ~NG | 3)
    assert software.output() == PAGE
    software.words(entry, OTHER_PAGE | LEAF | 3)
    software.command(0x11 | 0x12 << 48, 0)
    assert software.output() == PAGE
    software.command(0x12 | 0x99 << 48, VA)
    assert software.output() == OTHER_PAGE


@pytest.mark.parametrize(
    ("words", "reached"),
    [
        ((0x05 | SID << 32, 1), True),
        ((0x05 | SID << 32, 0), True),
        ((0x05 | 1 << 12 | SID << 32, 1), False),
        ((0x05 | SID + 1 << 32, 1), False),
        ((0x06 | SID << 32, 0), True),
        ((0x03 | SID << 32, 1), True),
        ((0x04 | SID << 32, 2), True),
        ((0x04 | SID + 8 << 32, 2), False),
        ((0x04, 31), True),
        ((0x30, 0), False),
    ],
)
def test_a_changed_cd_is_seen_after_an_invalidation_that_reaches_it(words: tuple[int, int], reached: bool) -> None:
    software = started()
    software.stage_1()
    assert software.output() == PAGE
    other_tables = software.base + 0x60_0000
    software.map(other_tables, (39, 30, 21, 12), VA, OTHER_PAGE | LEAF | 3, lambda table: table)
    software.cd(w0=CD_4K + (1 << 48), ttb0=other_tables)
    software.command(*words)
    software.command(*SYNC)
    assert software.output() == (OTHER_PAGE if reached else PAGE)


@pytest.mark.parametrize(
    ("words", "reached"),
    [
        ((0x03 | SID << 32, 1), True),
        ((0x03 | SID << 32, 0), True),
        ((0x03 | SID - 1 << 32, 1), False),
        ((0x04 | SID << 32, 7), True),
        ((0x04, 31), True),
        ((0x05 | SID << 32, 1), False),
        ((0x06 | SID << 32, 0), False),
    ],
)
def test_a_changed_ste_is_seen_after_an_invalidation_that_reaches_it(words: tuple[int, int], reached: bool) -> None:
    software = started()
    software.stage_1()
    assert software.output() == PAGE
    software.ste(4)
    software.command(*words)
    software.command(*SYNC)
    assert software.output() == (VA if reached else PAGE)


# Stalls


CD_STALL = CD_4K | 1 << 44


@pytest.mark.parametrize(
    ("answer", "action"),
    [(1 << 12, ResumeAction.RETRY), (1 << 13, Completion.ABORT), (0, Completion.RAZ_WI), (3 << 12, ResumeAction.RETRY)],
)
def test_a_stalled_transaction_waits_for_its_resume(answer: int, action: ResumeAction | Completion) -> None:
    software = started()
    entry = software.stage_1(0)
    software.cd(w0=CD_STALL, ttb0=software.tables)
    stalled = software.dma(VA + 8, b"12345678")
    assert isinstance(stalled, Stalled)
    (event,) = software.events()
    code, syndrome, address, ipa = (int(word, 16) for word in event.split())
    assert (code, address, ipa) == (SID << 32 | 0x10, VA + 8, 0)
    assert syndrome & ~0xFFFF == 0x200_8000_0000, "Stall"
    tag = syndrome & 0xFFFF
    software.words(entry, PAGE | LEAF | 3)
    software.command(0x44 | answer | SID + 1 << 32, tag)
    software.command(0x44 | answer | SID << 32, tag ^ 0x8000)
    assert software.smmu.answered(stalled) is None, "another stream, another tag"
    software.command(0x44 | answer | SID << 32, tag)
    answered = software.smmu.answered(stalled)
    if isinstance(answered, Terminated):
        assert answered.completion is action
        assert software.memory.load(PAGE + 8, 8) == bytes(8)
    else:
        assert answered is action
        software.reaches(PAGE)


def test_stall_term_and_switching_off_abort_what_waits() -> None:
    software = started()
    software.stage_1(0)
    software.cd(w0=CD_STALL, ttb0=software.tables)
    first = software.dma()
    software.command(0x45 | SID + 1 << 32, 0)
    assert software.smmu.answered(first) is None
    software.command(0x45 | SID << 32, 0)
    second = software.dma()
    software.update(CR0, CMDQEN | EVENTQEN, CR0ACK)
    for stalled in (first, second):
        assert isinstance(stalled, Stalled)
        outcome = software.smmu.answered(stalled)
        assert isinstance(outcome, Terminated)
        assert outcome.completion is Completion.ABORT


def test_switching_translation_off_and_on_again_keeps_the_queues() -> None:
    software = started()
    software.stage_1()
    software.reaches(PAGE)
    software.update(CR0, CMDQEN | EVENTQEN, CR0ACK)
    software.reaches(VA)
    software.command(*SYNC)
    software.update(CR0, CMDQEN | EVENTQEN | SMMUEN, CR0ACK)
    software.reaches(PAGE)

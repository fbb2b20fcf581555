"""The walker against an interpreter of the Arm manual's tables that shares no code with it, on random tables."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pasidlab.hw.pagetable.contract import Access, FaultKind, Leaf, Rights, Touch, WalkFault
from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2
from pasidlab.hw.pagetable.walker import walk
from pasidlab.memory import Memory

RESOLVED = {
    12: {0: (47, 39), 1: (38, 30), 2: (29, 21), 3: (20, 12)},
    14: {0: (47, 47), 1: (46, 36), 2: (35, 25), 3: (24, 14)},
    16: {1: (51, 42), 2: (41, 29), 3: (28, 16)},
}
"""Which input address bits each level resolves, by log2 of the granule."""
BLOCK_LEVELS = {12: {1, 2}, 14: {2}, 16: {2}}
CONTIGUOUS = {
    (12, 1): 16,
    (12, 2): 16,
    (12, 3): 16,
    (14, 2): 32,
    (14, 3): 128,
    (16, 1): 32,
    (16, 2): 32,
    (16, 3): 32,
}
S2_START = {
    (12, 0): 2,
    (12, 1): 1,
    (12, 2): 0,
    (12, 3): 3,
    (14, 0): 3,
    (14, 1): 2,
    (14, 2): 1,
    (16, 0): 3,
    (16, 1): 2,
    (16, 2): 1,
}


@dataclass
class Config:
    """One stage, in the plainest terms."""

    stage: int
    granule: int
    tsz: int
    ttb: int
    oa_bits: int = 48
    oas: int = 48
    sl0: int = 0
    high: bool = False
    flags: dict[str, bool] = field(default_factory=dict)

    def on(self, name: str) -> bool:
        return self.flags.get(name, False)

    def format(self) -> Stage1 | Stage2:
        options: dict[str, Any] = {"oa_bits": self.oa_bits, "oas_bits": self.oas, **self.flags}
        if self.stage == 2:
            return Stage2(ttb=self.ttb, tsz=self.tsz, sl0=self.sl0, granule=Granule(self.granule), **options)
        region_options = {name: options.pop(name) for name in ("tbi", "had", "disabled") if name in options}
        region = Region(self.ttb, self.tsz, Granule(self.granule), **region_options)
        other = Region(0, 63, Granule.K4, disabled=True)
        low, high = (other, region) if self.high else (region, other)
        return Stage1(ttb0=low, ttb1=high, **options)


def field_of(word: int, msb: int, lsb: int) -> int:
    return word >> lsb & (1 << msb - lsb + 1) - 1


def interpret(memory: Memory, c: Config, address: int, access: Access) -> tuple[Any, ...]:
    """Return ("fault", kind, level) or ("ok", output, size, rights, entry, global, clean), changing nothing."""
    bits = 64 - c.tsz
    if not in_range(c, address, bits):
        return "fault", FaultKind.TRANSLATION, 0
    if c.ttb >= 2**c.oa_bits or (c.granule != 16 and c.ttb >= 2**48):
        return "fault", FaultKind.ADDR_SIZE, 0
    level = start_level(c, bits)
    inside = field_of(address, bits - 1, 0)
    index = inside >> RESOLVED[c.granule][level][1]
    table = first_table(c, level, bits)
    limits = {"ap": 0, "uxn": 0, "pxn": 0}
    while True:
        entry = memory.load64(table + 8 * index)
        if entry is None:
            return "fault", FaultKind.EXTERNAL_ABORT, level
        what, target = decode(c, entry, level)
        if what == "invalid":
            return "fault", FaultKind.TRANSLATION, level
        if target >= 2**c.oa_bits:
            return "fault", FaultKind.ADDR_SIZE, level
        if what == "leaf":
            return finish(c, entry, level, inside, target, limits, access)
        if c.stage == 1 and not c.on("had"):
            limits["ap"] |= field_of(entry, 62, 61)
            limits["uxn"] |= field_of(entry, 60, 60)
            limits["pxn"] |= field_of(entry, 59, 59)
        table, level = target, level + 1
        index = field_of(inside, *RESOLVED[c.granule][level])


def in_range(c: Config, address: int, bits: int) -> bool:
    if c.stage == 2:
        return address < 2**bits
    top = 55 if c.on("tbi") else 63
    wanted = field_of(ONES, top, bits) if c.high else 0
    return bool(field_of(address, 55, 55)) == c.high and field_of(address, top, bits) == wanted


def start_level(c: Config, bits: int) -> int:
    if c.stage == 2:
        return S2_START[c.granule, c.sl0]
    return next(level for level, (msb, lsb) in RESOLVED[c.granule].items() if lsb < bits <= msb + 1)


def first_table(c: Config, level: int, bits: int) -> int:
    """Return the base with the bits below the table's size cleared; with 52 bits it has at least 64 bytes."""
    size = 8 * 2 ** (bits - RESOLVED[c.granule][level][1])
    if c.granule == 16 and c.oa_bits == 52:
        size = max(size, 64)
    return c.ttb - c.ttb % size


def decode(c: Config, entry: int, level: int) -> tuple[str, int]:
    """Return what an entry is, and the address in it."""
    kind, lsb = entry % 4, RESOLVED[c.granule][level][1]
    wide = c.granule == 16 and c.oas == 52
    folded = field_of(entry, 15, 12) * 2**48 if wide else 0
    if kind == 3 and level < 3:
        return "table", field_of(entry, 47, c.granule) * 2**c.granule + folded
    block = kind == 1 and (level in BLOCK_LEVELS[c.granule] or (wide and level == 1))
    if block or (kind == 3 and level == 3):
        return "leaf", field_of(entry, 47, lsb) * 2**lsb + folded
    return "invalid", 0


def finish(
    c: Config, entry: int, level: int, inside: int, base: int, limits: dict[str, int], access: Access
) -> tuple[Any, ...]:
    if not field_of(entry, 10, 10) and not c.on("affd") and not c.on("ha"):
        return "fault", FaultKind.ACCESS, level
    allowed = stage1_rights(c, entry, limits) if c.stage == 1 else stage2_rights(c, entry)
    want = ("p" if access.privileged else "u") + ("w" if access.write else "x" if access.instruction else "r")
    if want not in allowed:
        return "fault", FaultKind.PERMISSION, level
    lsb = RESOLVED[c.granule][level][1]
    output = base + inside % 2**lsb
    size = size_of(c, entry, level, lsb, output, inside)
    return "ok", output, size, *attributes(c, entry, allowed, access)


ONES = 2**64 - 1


def size_of(c: Config, entry: int, level: int, lsb: int, output: int, inside: int) -> int:
    size = 2**lsb
    if field_of(entry, 52, 52):
        run = min(size * CONTIGUOUS[c.granule, level], 2 ** (64 - c.tsz))
        if output % run == inside % run:
            return run
    return size


def attributes(c: Config, entry: int, allowed: set[str], access: Access) -> tuple[Any, ...]:
    """Return rights as a TLB keeps them, the entry as it is afterwards, whether it is global, and still clean."""
    read_only = field_of(entry, 7, 7) == (1 if c.stage == 1 else 0)
    clean = c.on("ha") and c.on("hd") and bool(field_of(entry, 51, 51)) and read_only and bool(allowed & {"uw", "pw"})
    after = entry
    if c.on("ha"):
        after |= 1 << 10
        if c.on("hd") and access.write and field_of(entry, 51, 51):
            after = after & ~(1 << 7) if c.stage == 1 else after | 1 << 7
            clean = False
    kept = allowed - {"uw", "pw"} if clean else allowed
    return kept, after, c.stage == 2 or not field_of(entry, 11, 11), clean


def stage1_rights(c: Config, entry: int, limits: dict[str, int]) -> set[str]:
    """The manual's table of AP[2:1], restricted by APTable[1:0], then the execute-never rules."""
    ap = field_of(entry, 7, 6)
    if c.on("ha") and c.on("hd") and field_of(entry, 51, 51):
        ap &= 0b01
    data = {0b00: {"pr", "pw"}, 0b01: {"pr", "pw", "ur", "uw"}, 0b10: {"pr"}, 0b11: {"pr", "ur"}}[ap]
    data = (
        data
        & {
            0b00: {"pr", "pw", "ur", "uw"},
            0b01: {"pr", "pw"},
            0b10: {"pr", "ur"},
            0b11: {"pr"},
        }[limits["ap"]]
    )
    execute = set()
    if not field_of(entry, 54, 54) and not limits["uxn"] and not (c.on("wxn") and "uw" in data):
        execute.add("ux")
    if (
        not field_of(entry, 53, 53)
        and not limits["pxn"]
        and "uw" not in data
        and not (c.on("wxn") and "pw" in data)
    ):  # fmt: skip
        execute.add("px")
    if c.on("pan") and "ur" in data:
        data = data - {"pr", "pw"}
    return data | execute


def stage2_rights(c: Config, entry: int) -> set[str]:
    allowed = set()
    if field_of(entry, 6, 6):
        allowed |= {"ur", "pr"}
    if field_of(entry, 7, 7) or (c.on("ha") and c.on("hd") and field_of(entry, 51, 51)):
        allowed |= {"uw", "pw"}
    xn = field_of(entry, 54, 53) if c.on("xnx") else field_of(entry, 54, 54) * 2
    return allowed | {0: {"ux", "px"}, 1: {"ux"}, 2: set(), 3: {"px"}}[xn]


NAMES = {
    "ur": Rights.USER_READ,
    "uw": Rights.USER_WRITE,
    "ux": Rights.USER_EXECUTE,
    "pr": Rights.PRIVILEGED_READ,
    "pw": Rights.PRIVILEGED_WRITE,
    "px": Rights.PRIVILEGED_EXECUTE,
}


def plain(found: Leaf | WalkFault) -> tuple[Any, ...]:
    if isinstance(found, WalkFault):
        return "fault", found.kind, found.level
    rights = {name for name, right in NAMES.items() if right in found.rights}
    return "ok", found.output, 1 << found.lg2, rights, found.entry, found.global_, found.writable_clean


# --- random configurations, tables and accesses ----------------------------------------------------------------------

TABLES = 6
"""Tables that the entries of a random map point to; they lie one after the other, and so can form circles."""
BASE = 0x1000_0000
TSZ_STAGE1 = {12: (16, 48), 14: (16, 48), 16: (12, 47)}
FLAGS = ("affd", "ha", "hd", "haft")

accesses = st.builds(Access, st.booleans(), st.booleans(), st.booleans(), on_table=st.just(False))


def flags(*names: str) -> st.SearchStrategy[dict[str, bool]]:
    return st.fixed_dictionaries({name: st.booleans() for name in names})


@st.composite
def configs(draw: st.DrawFn, stage: int | None = None) -> Config:
    stage = stage or draw(st.sampled_from([1, 2]))
    granule = draw(st.sampled_from([12, 14, 16]))
    ttb = BASE + draw(st.sampled_from([0, 0, 8, 0x18]))
    oas = draw(st.sampled_from([48, 52]))
    oa_bits = min(draw(st.sampled_from([32, 36, 40, 48, 52])), oas)
    if stage == 1:
        tsz = draw(st.integers(*TSZ_STAGE1[granule]))
        names = (*FLAGS, "wxn", "pan", "tbi", "had")
        return Config(1, granule, tsz, ttb, oa_bits, oas, high=draw(st.booleans()), flags=draw(flags(*names)))
    sl0 = draw(st.sampled_from([code for g, code in S2_START if g == granule]))
    lsb = RESOLVED[granule][S2_START[granule, sl0]][1]
    most = min(lsb + granule - 3 + 4, 52 if granule == 16 else 48)
    bits = draw(st.integers(max(lsb + 1, 16), most))
    return Config(2, granule, 64 - bits, ttb, oa_bits, oas, sl0=sl0, flags=draw(flags(*FLAGS, "xnx")))


@st.composite
def entries(draw: st.DrawFn, granule: int) -> int:
    kind = draw(st.sampled_from([3, 3, 3, 3, 1, 1, 0, 2]))
    target = BASE + draw(st.integers(0, TABLES - 1)) * (1 << granule)
    if draw(st.integers(0, 3)) == 0:
        target = draw(st.integers(0, (1 << 48) - 1)) & ~0xFFF
    high = draw(st.sampled_from([0, 0, 0, 0, 0xA000])) if granule == 16 else 0
    attributes = draw(st.integers(0, 0x3FF)) << 2 & ~(1 << 10) | draw(st.sampled_from([1, 1, 1, 0])) << 10
    upper = draw(st.one_of(st.just(0), st.integers(0, (1 << 13) - 1))) << 51
    return target & -(1 << granule) | high | attributes | upper | kind


def fill(memory: Memory, granule: int, chosen: list[int]) -> None:
    """Write the entries over and over, so that every index of every table has one."""
    table = b"".join(entry.to_bytes(8, "little") for entry in chosen)
    size = TABLES << granule
    memory.store(BASE, (table * (size // len(table) + 1))[:size])


@st.composite
def addresses(draw: st.DrawFn, c: Config) -> int:
    inside = draw(st.integers(0, (1 << 64 - c.tsz) - 1))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.integers(0, ONES))
    if c.stage == 1 and c.high:
        inside |= ONES << 64 - c.tsz & ONES
    if c.on("tbi"):
        inside ^= draw(st.integers(0, 255)) << 56
    return inside


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_random_maps_agree_with_an_interpreter_of_the_tables(data: st.DataObject) -> None:
    c = data.draw(configs())
    memory = Memory()
    chosen = data.draw(st.lists(entries(c.granule), min_size=1, max_size=5))
    fill(memory, c.granule, chosen)
    if data.draw(st.integers(0, 5)) == 0:
        memory.poison(BASE + data.draw(st.integers(0, (TABLES << c.granule) - 1)), 1 << c.granule)
    address, access = data.draw(addresses(c)), data.draw(accesses)
    expected = interpret(memory, c, address, access)
    touches: list[Touch] = []
    found = walk(memory, c.format(), address, access, touches)
    assert plain(found) == expected
    if isinstance(found, WalkFault) and touches:
        assert touches[-1].rule is found.rule
        assert touches[-1].level == found.level
    for touch in touches:
        assert touch.store or touch.value is None or memory.load64(touch.address) is not None
    if isinstance(found, Leaf):
        assert memory.load64(found.entry_address) == found.entry


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_bytes_as_tables_never_raise(data: st.DataObject) -> None:
    c1, c2 = data.draw(configs(1)), data.draw(configs(2))
    for c in (c1, c2):
        c.tsz = data.draw(st.one_of(st.just(c.tsz), st.integers(0, 63)))
        c.sl0 = data.draw(st.one_of(st.just(c.sl0), st.integers(0, 3)))
        c.ttb = data.draw(st.one_of(st.just(BASE), st.integers(0, (1 << 56) - 1)))
        c.oa_bits = data.draw(st.sampled_from([32, 48, 52, 56]))
    memory = Memory()
    noise = data.draw(st.binary(min_size=8, max_size=512))
    memory.store(BASE, (noise * (0x10000 // len(noise) + 1))[:0x10000])
    address = data.draw(st.integers(0, ONES))
    access = data.draw(st.one_of(st.none(), accesses))
    stage2 = data.draw(st.sampled_from([None, c2.format()]))
    touches: list[Touch] = []
    found = walk(memory, c1.format(), address, access, touches, stage2)
    assert isinstance(found, Leaf | WalkFault)
    walk(memory, c2.format(), address, access, touches)


# --- nested ----------------------------------------------------------------------------------------------------------

PAGES = 8
ROOM = 0x40_0000
"""Where stage 2 puts the pages of its input space, and the stage-2 tables themselves below it."""


@st.composite
def machines(draw: st.DrawFn) -> tuple[Memory, Memory, Stage2]:
    """Return an intermediate memory of a few pages, and a physical one in which stage 2 shuffles those pages."""
    places = draw(st.permutations(range(PAGES)))
    seen, physical = Memory(), Memory()
    words = draw(st.lists(small_entries(), min_size=PAGES * 4, max_size=PAGES * 4))
    for page in range(PAGES):
        content = b"".join(w.to_bytes(8, "little") for w in words[page * 4 : page * 4 + 4]) * 128
        seen.store(page << 12, content)
        physical.store(ROOM + (places[page] << 12), content)
    table = 0x10_0000
    physical.store64(table, table + 0x1000 | 3)
    for page in range(PAGES):
        rights = draw(st.sampled_from([3] * 9 + [1, 1, 2]))
        xn = draw(st.sampled_from([0, 0, 2]))
        valid = draw(st.sampled_from([3] * 15 + [0]))
        entry = ROOM + (places[page] << 12) | rights << 6 | xn << 53 | 1 << 10 | valid
        physical.store64(table + 0x1000 + page * 8, entry)
    return seen, physical, Stage2(ttb=table, tsz=34, sl0=0, granule=Granule.K4)


@st.composite
def small_entries(draw: st.DrawFn) -> int:
    target = draw(st.sampled_from([*range(PAGES)] * 4 + [PAGES])) << 12
    return target | draw(st.sampled_from([3] * 7 + [0])) | draw(st.integers(0, 15)) << 6 | 1 << 10


@settings(max_examples=200, deadline=None)
@given(machines(), st.integers(0, (1 << 39) - 1), accesses)
def test_nested_is_stage_1_in_the_memory_that_stage_2_shows(
    machine: tuple[Memory, Memory, Stage2], address: int, access: Access
) -> None:
    seen, physical, s2 = machine
    s1 = Stage1(ttb0=Region(0, 25, Granule.K4), ttb1=None)
    touches: list[Touch] = []
    both = walk(physical, s1, address, access, touches, s2)
    first_touches: list[Touch] = []
    first = walk(seen, s1, address, access, first_touches)
    for touch in first_touches:
        there = walk(physical, s2, touch.address, Access(), [])
        if isinstance(there, WalkFault):
            assert isinstance(both, WalkFault)
            assert (both.kind, both.rule, both.level, both.stage) == (there.kind, there.rule, there.level, 2)
            assert (both.address, both.on_table) == (touch.address, True)
            return
    if isinstance(first, WalkFault):
        assert both == first
        return
    second = walk(physical, s2, first.output, access, [])
    if isinstance(second, WalkFault):
        assert both == second
        return
    assert isinstance(both, Leaf)
    assert both.output == second.output
    assert both.rights == first.rights & second.rights
    assert both.lg2 == min(first.lg2, second.lg2)
    assert [t.value for t in touches if t.stage == 1] == [t.value for t in first_touches]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_address_of_a_leaf_translates_as_its_size_promises(data: st.DataObject) -> None:
    c = data.draw(configs())
    memory = Memory()
    fill(memory, c.granule, data.draw(st.lists(entries(c.granule), min_size=1, max_size=2)))
    fmt, address = c.format(), data.draw(addresses(c))
    found = walk(memory, fmt, address, None, [])
    assume(isinstance(found, Leaf))
    assert isinstance(found, Leaf)
    lowest = RESOLVED[c.granule][found.level][1]
    offset = data.draw(st.integers(0, (1 << lowest) - 1))
    other = walk(memory, fmt, address & -(1 << lowest) | offset, None, [])
    assert isinstance(other, Leaf)
    assert other.output == found.output & -(1 << lowest) | offset
    assert (other.lg2, other.rights, other.entry) == (found.lg2, found.rights, found.entry)

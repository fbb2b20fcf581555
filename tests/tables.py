"""Page tables for tests, written from the Arm manual's figures and not from the code that reads them."""

from dataclasses import dataclass, field, replace
from typing import Any

from pasidlab.hw.pagetable.contract import Format
from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2
from pasidlab.memory import Memory

LOWEST_BIT = {
    Granule.K4: {0: 39, 1: 30, 2: 21, 3: 12},
    Granule.K16: {0: 47, 1: 36, 2: 25, 3: 14},
    Granule.K64: {1: 42, 2: 29, 3: 16},
}
"""The lowest input address bit that each level translates."""
BLOCKS = {Granule.K4: (1, 2, 3), Granule.K16: (2, 3), Granule.K64: (2, 3)}
"""Levels at which an entry can map."""
RUNS = {
    Granule.K4: {1: 16, 2: 16, 3: 16},
    Granule.K16: {2: 32, 3: 128},
    Granule.K64: {2: 32, 3: 32},
}
"""Entries of a contiguous run."""
ROOT = 0x4000_0000
FIRST_TABLE = 0x8000_0000
ONES = (1 << 64) - 1

VALID, TABLE, AF, NG = 1, 2, 1 << 10, 1 << 11
AP_USER, AP_RO = 1 << 6, 1 << 7
S2_R, S2_W = 1 << 6, 1 << 7
DBM, CONTIGUOUS, PXN, UXN = 1 << 51, 1 << 52, 1 << 53, 1 << 54
PXN_TABLE, UXN_TABLE, AP_TABLE_USER, AP_TABLE_RO = 1 << 59, 1 << 60, 1 << 61, 1 << 62


@dataclass
class Setup:
    """One configuration of one format, with its tables in a memory of its own."""

    name: str
    stage: int
    granule: Granule
    tsz: int
    start_level: int
    high: bool = False
    sl0: int = 0
    memory: Memory = field(default_factory=Memory)
    tables: dict[tuple[int, int], int] = field(default_factory=dict)
    next_table: int = FIRST_TABLE

    def fresh(self) -> "Setup":
        """Return the same configuration with an empty memory."""
        return replace(self, memory=Memory(), tables={}, next_table=FIRST_TABLE)

    def format(self, root: int = ROOT, **options: Any) -> Format:
        """Return the format; the half that is not tested is disabled."""
        if self.stage == 2:
            return Stage2(ttb=root, tsz=self.tsz, sl0=self.sl0, granule=self.granule, **options)
        names = Region._fields[3:]
        region = Region(root, self.tsz, self.granule, **{n: options.pop(n) for n in names if n in options})
        other = Region(0, 0, self.granule, disabled=True)
        halves = (other, region) if self.high else (region, other)
        return Stage1(ttb0=halves[0], ttb1=halves[1], **options)

    @property
    def leaf(self) -> int:
        """Attributes of a leaf that all may read and write."""
        return AF | (S2_R | S2_W if self.stage == 2 else AP_USER | NG)

    @property
    def levels(self) -> range:
        return range(self.start_level, 4)

    @property
    def leaf_levels(self) -> list[int]:
        return [level for level in self.levels if level in BLOCKS[self.granule]]

    @property
    def sample(self) -> int:
        """Bits of an address inside of the region, with a different index at each level."""
        return 0x000A_5C3B_72D9_6E48 & ((1 << (64 - self.tsz)) - 1)

    def address(self, inside: int) -> int:
        """Return the input address from its bits inside of the region."""
        return inside | (ONES << (64 - self.tsz)) & ONES if self.high else inside

    def shift(self, level: int) -> int:
        return LOWEST_BIT[self.granule][level]

    def place(self, inside: int, level: int) -> int:
        """Return where the entry of an address lies, making the tables above it if there are none yet."""
        if level == self.start_level:
            return ROOT + (inside >> self.shift(level)) * 8
        above = self.shift(level - 1)
        key = (level, inside >> above)
        if key not in self.tables:
            entry = self.place(inside, level - 1)
            self.tables[key] = self.next_table
            self.next_table += 1 << self.granule
            self.memory.store64(entry, self.tables[key] | TABLE | VALID)
        index = inside >> self.shift(level) & ((1 << above - self.shift(level)) - 1)
        return self.tables[key] + index * 8

    def put(self, inside: int, level: int, entry: int) -> int:
        """Write an entry and return where."""
        place = self.place(inside, level)
        self.memory.store64(place, entry)
        return place

    def map(self, inside: int, output: int, level: int = 3, attributes: int | None = None) -> int:
        """Map the page or block of an address, and return where its entry lies."""
        kind = VALID | (TABLE if level == 3 else 0)
        return self.put(inside, level, output | kind | (self.leaf if attributes is None else attributes))

    def limit(self, inside: int, level: int, attributes: int) -> None:
        """Set attributes of the table entry above an address."""
        place = self.place(inside, level)
        self.memory.store64(place, (self.memory.load64(place) or 0) | attributes)


K4, K16, K64 = Granule.K4, Granule.K16, Granule.K64
STAGE1_STARTS = [
    *(
        (K4, 16, 0),
        (K4, 24, 0),
        (K4, 25, 1),
        (K4, 33, 1),
        (K4, 34, 2),
        (K4, 39, 2),
        (K4, 42, 2),
        (K4, 43, 3),
        (K4, 48, 3),
    ),
    *((K16, 16, 0), (K16, 17, 1), (K16, 27, 1), (K16, 28, 2), (K16, 38, 2), (K16, 39, 3), (K16, 48, 3)),
    *((K64, 12, 1), (K64, 16, 1), (K64, 21, 1), (K64, 22, 2), (K64, 34, 2), (K64, 35, 3), (K64, 47, 3)),
]
"""Granule, T0SZ, start level: the ends of what each start level resolves."""
STAGE2_STARTS = [
    *((K4, 16, 2, 0), (K4, 24, 2, 0), (K4, 21, 1, 1), (K4, 25, 1, 1), (K4, 33, 1, 1), (K4, 30, 0, 2), (K4, 39, 0, 2)),
    *((K4, 39, 3, 3), (K16, 16, 2, 1), (K16, 24, 1, 2), (K16, 38, 1, 2), (K16, 39, 0, 3), (K16, 35, 0, 3)),
    *((K64, 12, 2, 1), (K64, 18, 1, 2), (K64, 34, 1, 2), (K64, 31, 0, 3), (K64, 39, 0, 3)),
]
"""Granule, S2T0SZ, SL0, start level; the smallest sizes of a level take 16 concatenated tables."""
SETUPS = [
    *(
        Setup(f"s1-{'high' if high else 'low'}-{1 << g - 10}k-{tsz}", 1, g, tsz, level, high)
        for g, tsz, level in STAGE1_STARTS
        for high in (False, True)
    ),
    *(Setup(f"s2-{1 << g - 10}k-{tsz}-sl{sl0}", 2, g, tsz, level, sl0=sl0) for g, tsz, sl0, level in STAGE2_STARTS),
]

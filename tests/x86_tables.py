"""Tables of x86-64 and of VT-d's second stage for tests, written from the manuals' figures and not from the model."""

from dataclasses import dataclass, field

from pasidlab.hw.pagetable.contract import Access, Format, Leaf, Touch, WalkFault
from pasidlab.hw.pagetable.walker import walk
from pasidlab.memory import Memory

ROOT = 0x40_0000
PAGE = 0x1_2345_6000
LOWEST_BIT = {1: 12, 2: 21, 3: 30, 4: 39, 5: 48}
P, RW, US, PWT, PCD, A, D, PS, G, EA = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10))
XD = 1 << 63
R, W, X, A2, D2, SNP, TM = (1 << bit for bit in (0, 1, 2, 8, 9, 11, 62))
SAMPLE = 0x0034_5A5A_5B6C_7D8E & (1 << 47) - 1
"""A user's address with another index at each level."""
USER_READ, USER_WRITE, USER_EXECUTE = Access(), Access(write=True), Access(instruction=True)
SUPER_READ, SUPER_WRITE = Access(privileged=True), Access(write=True, privileged=True)
SUPER_EXECUTE = Access(instruction=True, privileged=True)


def index(address: int, level: int) -> int:
    return address >> LOWEST_BIT[level] & 511


@dataclass
class Path:
    """The tables that lead to one address: one for each level, `base` bytes up in memory from where they say they are.

    Attributes:
        memory: where the tables lie.
        levels: how many there are.
        table_bits: what an entry that leads on has beside the address.
    """

    levels: int = 4
    table_bits: int = P | RW | US
    address: int = SAMPLE
    root: int = ROOT
    base: int = 0
    memory: Memory = field(default_factory=Memory)

    def table(self, level: int) -> int:
        """Return where the table of a level lies, as the entries say it."""
        return self.root + 0x1000 * (self.levels - level)

    def place(self, level: int) -> int:
        """Return where the entry of a level lies in memory."""
        return self.base + self.table(level) + 8 * index(self.address, level)

    def put(self, level: int, entry: int) -> None:
        self.memory.store64(self.place(level), entry)

    def get(self, level: int) -> int:
        return self.memory.load64(self.place(level)) or 0

    def change(self, level: int, *, add: int = 0, take: int = 0) -> "Path":
        self.put(level, self.get(level) & ~take | add)
        return self

    def map(self, leaf: int, level: int = 1) -> "Path":
        """Lead to an entry at a level, which is written as it is."""
        for above in range(self.levels, level, -1):
            self.put(above, self.table(above - 1) | self.table_bits)
        self.put(level, leaf)
        return self

    def entries(self, lowest: int = 1) -> dict[int, int]:
        return {level: self.get(level) for level in range(self.levels, lowest - 1, -1)}


def walked(
    path: Path, fmt: Format, access: Access | None = USER_READ, stage2: Format | None = None
) -> tuple[Leaf | WalkFault, list[Touch]]:
    touches: list[Touch] = []
    return walk(path.memory, fmt, path.address, access, touches, stage2), touches


def leaf_of(path: Path, fmt: Format, access: Access | None = USER_READ, stage2: Format | None = None) -> Leaf:
    found, _ = walked(path, fmt, access, stage2)
    assert isinstance(found, Leaf), found
    return found


def fault_of(path: Path, fmt: Format, access: Access | None = USER_READ, stage2: Format | None = None) -> WalkFault:
    found, touches = walked(path, fmt, access, stage2)
    assert isinstance(found, WalkFault), found
    assert not touches or touches[-1].rule is found.rule or found.level == 0
    facts = {"stage": found.stage, "level": found.level, "address": found.address}
    assert found.rule.sentence(facts)
    return found

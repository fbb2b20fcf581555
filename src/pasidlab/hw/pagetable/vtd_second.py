"""VT-d's second stage: the page tables of a host for its devices, also those of legacy mode.

Source: Intel VT-d 4.1, 3.7 Second-stage translation, 9.8 Second-stage paging entries (9.3 Context entry for legacy
mode, whose words are the same). Levels count down to 1, as those of the first stage.

SNP and TM are fields of pages alone; in an entry that points to a table both are reserved, whatever the unit has.
Decided here: as in the first stage, rights are those of all levels together and are checked when the walk has ended;
an execute request needs R beside X, for it is a read.
Not modelled: memory types (EMT, IPAT), and the updates of flags that fail under no-snoop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from pasidlab.hw.pagetable.contract import EXECUTE, READ, WRITE, Access, FaultKind, Grant, Level, Reading, Start
from pasidlab.hw.pagetable.intel import ADDRESS, INDEX_BITS, PAGE_LG2, IntelPaging, level_of
from pasidlab.hw.pagetable.paging_entries import SecondStageEntry, SecondStageLeaf
from pasidlab.rules import Rule

_SOURCE = "Intel VT-d 4.1"
_ENTRIES = "9.8 Second-stage paging entries"
_RIGHTS = "3.7.1 Access rights"
_FLAGS = "3.7.2 Accessed and dirty flags"
_ENTRY = "the entry at level {level} of stage {stage}"
_ON_THE_WAY = _ENTRY + ", or one above it,"


def _rule(name: str, where: str, check: str, why: str) -> Rule:
    return Rule(f"vtd.second-{name}", f"{_SOURCE}, {where}", check, why, source=_SOURCE)


# --- rules, in the order of the checks -------------------------------------------------------------------------------

RANGE = _rule(
    "range",
    "3.7 Second-stage translation",
    "address >= 2^AW or 2^MGAW",
    "address {address:#x} lies beyond what stage {stage} translates",
)
ABORTED = _rule("abort", _ENTRIES, "memory does not answer", _ENTRY + " could not be accessed")
NOT_PRESENT = _rule("not-present", _ENTRIES, "R == 0, W == 0 (with SLEE: X == 0)", _ENTRY + " gives no right at all")
PAGE_SIZE = _rule(
    "page-size",
    _ENTRIES,
    "PS == 1 at level 5 or 4, or at level 3 or 2 without pages of that size",
    _ENTRY + " maps a page of a size that there is not",
)
RESERVED = _rule(
    "reserved",
    _ENTRIES,
    "address bits from the host address width on, low address bits of large pages, SNP without SC, TM without device"
    " TLBs, or SNP or TM of an entry that points to a table are set",
    _ENTRY + " has reserved bits set",
)
TABLE = _rule("table", _ENTRIES, "present, PS == 0", _ENTRY + " points to the next table")
LARGE_PAGE = _rule("large-page", _ENTRIES, "present, PS == 1", _ENTRY + " maps a large page")
PAGE = _rule("page", _ENTRIES, "present, level 1", _ENTRY + " maps a page")
NO_READ = _rule("no-read", _RIGHTS, "read, R == 0 at a level", _ON_THE_WAY + " forbids reads")
NO_WRITE = _rule("no-write", _RIGHTS, "write, W == 0 at a level", _ON_THE_WAY + " forbids writes")
NO_EXECUTE = _rule(
    "no-execute", _RIGHTS, "SLEE, execute request, X == 0 at a level", _ON_THE_WAY + " forbids execution"
)
MARKED_ACCESSED = _rule("set-accessed", _FLAGS, "SLADE, A == 0", _ENTRY + " gets its accessed flag")
MARKED_DIRTY = _rule("set-dirty", _FLAGS, "SLADE, D == 0, write", _ENTRY + " is marked dirty")

_OUT_OF_RANGE = Reading(RANGE, FaultKind.TRANSLATION)
_ABORTED = Reading(ABORTED, FaultKind.EXTERNAL_ABORT)
_NOT_PRESENT = Reading(NOT_PRESENT, FaultKind.TRANSLATION)
_NO_SUCH_PAGE = Reading(PAGE_SIZE, FaultKind.RESERVED)
_RESERVED = Reading(RESERVED, FaultKind.RESERVED)
_TABLE = Reading(TABLE)
_LARGE_PAGE = Reading(LARGE_PAGE, leaf=True)
_PAGE = Reading(PAGE, leaf=True)

# --- levels ----------------------------------------------------------------------------------------------------------

_R, _W, _X = (int(SecondStageEntry.mask(name)) for name in "rwx")
_A = int(SecondStageEntry.mask("a"))
_D = int(SecondStageLeaf.mask("d"))
_SNP = int(SecondStageLeaf.mask("snp"))
_TM = int(SecondStageLeaf.mask("tm"))
_PS_SHIFT = SecondStageEntry.FIELDS["ps"].lsb


@cache
def _levels(levels: int, host_bits: int, sizes: frozenset[int], reserved: int) -> tuple[Level, ...]:
    return tuple(_level(number, host_bits, number in sizes, reserved) for number in range(levels, 0, -1))


def _level(number: int, host_bits: int, large: bool, reserved: int) -> Level:
    readings = (_PAGE, _PAGE) if number == 1 else (_TABLE, _LARGE_PAGE if large else _NO_SUCH_PAGE)
    return level_of(number, host_bits, readings, leaf=reserved, table=_SNP | _TM)


_LARGE_LEVELS = (frozenset[int](), frozenset({2}), frozenset({3}), frozenset({2, 3}))
"""Levels that have large pages, by `pages_2m` and twice `pages_1g`."""

# --- the format ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class SecondStage(IntelPaging):
    """One tree of second-stage tables with its configuration, as a PASID table entry or a context entry gives it.

    Not to be changed after it was made, which nothing enforces, since one is made for each translation.

    Attributes:
        table: address of the first table (SLPTPTR); bits 11:0 are ignored.
        levels: 3, 4 or 5, for an input of 39, 48 or 57 bits (AW).
        host_bits: host address width; address bits from there on are reserved.
        mgaw: the widest input that the unit takes, where that is less than AW.
        pages_2m: there are pages of 2 MiB (SLLPS).
        pages_1g: there are pages of 1 GiB (SLLPS).
        ad: hardware sets accessed and dirty flags (SLADE).
        execute: X counts (SLEE); else an execute request needs what a read needs.
        snoop: SNP of pages is not reserved (SC).
        device_tlb: TM of pages is not reserved (DT).
    """

    stage: ClassVar[int] = 2
    aborted: ClassVar[Reading] = _ABORTED

    table: int
    levels: int
    host_bits: int = 52
    mgaw: int = 57
    pages_2m: bool = True
    pages_1g: bool = True
    ad: bool = False
    execute: bool = False
    snoop: bool = True
    device_tlb: bool = True

    @property
    def input_bits(self) -> int:
        """How many bits an input address may have."""
        return min(PAGE_LG2 + self.levels * INDEX_BITS, self.mgaw)

    def start(self, address: int) -> Start | Reading:
        """Check that the address is not too wide."""
        if address >> self.input_bits:
            return _OUT_OF_RANGE
        reserved = (0 if self.snoop else _SNP) | (0 if self.device_tlb else _TM)
        sizes = _LARGE_LEVELS[self.pages_2m | self.pages_1g << 1]
        return Start(self.table & ADDRESS, _levels(self.levels, self.host_bits, sizes, reserved), address)

    def read(self, entry: int, level: Level) -> Reading:
        """Decide what an entry is: any right, page size, reserved bits."""
        if not entry & (_R | _W | _X if self.execute else _R | _W):
            return _NOT_PRESENT
        reading = level.readings[entry >> _PS_SHIFT & 1]
        if reading.fault is not None:
            return reading
        return _RESERVED if entry & (level.output_excess if reading.leaf else level.table_excess) else reading

    def descend(self, entry: int, level: Level, limits: int) -> tuple[int, int]:
        """Return the next table; each entry adds the rights that it does not give."""
        return entry & ADDRESS, limits | ~entry & (_R | _W | _X)

    @property
    def marks_tables(self) -> bool:
        """Whether hardware sets accessed flags, those of table entries too."""
        return self.ad

    def mark_table(self, entry: int) -> tuple[int, Rule] | None:
        """Set the accessed flag of a table entry."""
        return None if entry & _A else (entry | _A, MARKED_ACCESSED)

    def grant(self, entry: int, limits: int, access: Access | None) -> Grant:
        """Apply R, W and X of all levels."""
        return _grant(limits | ~entry & (_R | _W | _X), self.execute)

    def mark_leaf(self, entry: int, write: bool) -> tuple[int, Rule] | None:
        """Set the accessed flag, and the dirty flag for a write."""
        if not self.ad:
            return None
        if write and not entry & _D:
            return entry | _D | _A, MARKED_DIRTY
        return self.mark_table(entry)

    def is_global(self, entry: int) -> bool:
        """Whether a page holds for every PASID: the second stage knows none."""
        return True


@cache
def _grant(taken: int, execute: bool) -> Grant:
    grant = Grant()
    if taken & _R:
        grant.take(READ | EXECUTE, NO_READ)
    if taken & _W:
        grant.take(WRITE, NO_WRITE)
    if execute and taken & _X:
        grant.take(EXECUTE, NO_EXECUTE)
    return grant

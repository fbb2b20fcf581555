"""x86-64 paging with 4 and 5 levels: the page tables of x86 CPUs, VT-d's first stage and AMD-Vi's guest tables.

Source: Intel SDM volume 3, chapter 4; Intel VT-d 4.1, 3.6 First-stage translation and 9.7 First-stage paging entries,
whose names for the configuration are used. Levels count down to 1: 5 PML5, 4 PML4, 3 PDPT, 2 PD, 1 PT.

Decided here: as on the CPU, rights are those of all levels together and are checked when the walk has ended, so that
an entry that is not present wins over a right that a table above it does not give. A table entry gets its accessed
flag as soon as it was used, also where the walk faults further down.
Not modelled: protection keys, SMAP, shadow stacks, memory types, 3-level (PAE) and 32-bit paging.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from pasidlab.hw.pagetable.contract import EXECUTE, Access, FaultKind, Grant, Level, Reading, Rights, Start
from pasidlab.hw.pagetable.intel import ADDRESS, INDEX_BITS, PAGE_LG2, IntelPaging, level_of
from pasidlab.hw.pagetable.paging_entries import LargePageEntry, PageEntry, PagingEntry, PagingTable
from pasidlab.rules import Rule

_SOURCE = "Intel VT-d 4.1; Intel SDM volume 3"
_ENTRY = "the entry at level {level} of stage {stage}"
_ON_THE_WAY = _ENTRY + ", or one above it,"


def _rule(name: str, where: str, check: str, why: str) -> Rule:
    return Rule(f"x86.{name}", f"Intel VT-d 4.1, {where}", check, why, source=_SOURCE)


# --- rules, in the order of the checks -------------------------------------------------------------------------------

CANONICAL = _rule(
    "canonical",
    "3.6 First-stage translation",
    "the highest bits, from 47 on (5 levels: 56), are not all alike",
    "address {address:#x} is not canonical",
)
ABORTED = _rule("abort", "9.7 First-stage paging entries", "memory does not answer", _ENTRY + " could not be accessed")
NOT_PRESENT = _rule("not-present", "9.7 First-stage paging entries", "P == 0", _ENTRY + " is not present")
PAGE_SIZE = _rule(
    "page-size",
    "9.7 First-stage paging entries",
    "PS == 1 at level 5 or 4, or at level 3 without pages of 1 GiB",
    _ENTRY + " maps a page of a size that there is not",
)
RESERVED = _rule(
    "reserved",
    "9.7 First-stage paging entries",
    "address bits from the host address width on, low address bits of large pages, or XD without NXE are set",
    _ENTRY + " has reserved bits set",
)
TABLE = _rule("table", "9.7 First-stage paging entries", "P == 1, PS == 0", _ENTRY + " points to the next table")
LARGE_PAGE = _rule("large-page", "9.7 First-stage paging entries", "P == 1, PS == 1", _ENTRY + " maps a large page")
PAGE = _rule("page", "9.7 First-stage paging entries", "P == 1, level 1", _ENTRY + " maps a page")
USER = _rule("user", "3.6.1 Access rights", "user request, U/S == 0 at a level", _ON_THE_WAY + " is for the supervisor")
READ_ONLY = _rule(
    "read-only",
    "3.6.1 Access rights",
    "write, R/W == 0 at a level; of the supervisor only with WPE",
    _ON_THE_WAY + " is read-only",
)
XD = _rule("xd", "3.6.1 Access rights", "execute request, XD == 1 at a level", _ON_THE_WAY + " forbids execution")
SMEP = _rule(
    "smep",
    "3.6.1 Access rights",
    "SMEP, supervisor execute request, U/S == 1 at every level",
    _ENTRY + " is the user's, where the supervisor does not execute under SMEP",
)
MARKED_ACCESSED = _rule(
    "set-accessed", "3.6.2 Accessed, extended accessed and dirty flags", "A == 0", _ENTRY + " gets its accessed flag"
)
MARKED_DIRTY = _rule(
    "set-dirty", "3.6.2 Accessed, extended accessed and dirty flags", "D == 0, write", _ENTRY + " is marked dirty"
)

_NOT_CANONICAL = Reading(CANONICAL, FaultKind.TRANSLATION)
_ABORTED = Reading(ABORTED, FaultKind.EXTERNAL_ABORT)
_NOT_PRESENT = Reading(NOT_PRESENT, FaultKind.TRANSLATION)
_NO_SUCH_PAGE = Reading(PAGE_SIZE, FaultKind.RESERVED)
_RESERVED = Reading(RESERVED, FaultKind.RESERVED)
_TABLE = Reading(TABLE)
_LARGE_PAGE = Reading(LARGE_PAGE, leaf=True)
_PAGE = Reading(PAGE, leaf=True)

# --- levels ----------------------------------------------------------------------------------------------------------

_P = int(PagingEntry.mask("p"))
_RW = int(PagingEntry.mask("rw"))
_US = int(PagingEntry.mask("us"))
_XD = int(PagingEntry.mask("xd"))
_A = int(PagingEntry.mask("a"))
_EA = int(PagingEntry.mask("ea"))
_D = int(PageEntry.mask("d"))
_PS_SHIFT = PagingTable.FIELDS["ps"].lsb - 1
_LARGE_PAT = int(LargePageEntry.mask("pat"))
_LEAVES = {1: _PAGE, 2: _LARGE_PAGE, 3: _LARGE_PAGE}
_ALL_ONES = (1 << 64) - 1


@cache
def _levels(levels: int, host_bits: int, nxe: bool, pages_1g: bool) -> tuple[Level, ...]:
    return tuple(_level(number, host_bits, nxe, number <= 2 + pages_1g) for number in range(levels, 0, -1))


def _level(number: int, host_bits: int, nxe: bool, leaves: bool) -> Level:
    reserved = 0 if nxe else _XD
    return level_of(number, host_bits, _readings(number, leaves), leaf=reserved, table=reserved, free=_LARGE_PAT)


def _readings(number: int, leaves: bool) -> tuple[Reading, ...]:
    """Return what an entry is by P, and by what is PS above level 1."""
    leaf = _LEAVES[number] if leaves else _NO_SUCH_PAGE
    return _NOT_PRESENT, leaf if number == 1 else _TABLE, _NOT_PRESENT, leaf


# --- the format ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class X86Paging(IntelPaging):
    """One tree of x86-64 tables with its configuration, as a PASID table entry or a CPU's registers give it.

    Not to be changed after it was made, which nothing enforces, since one is made for each translation.

    Attributes:
        table: address of the first table; bits 11:0 are ignored.
        levels: 4 or 5.
        host_bits: host address width; address bits from there on are reserved.
        wpe: the supervisor does not write what is read-only (CR0.WP).
        nxe: XD forbids execution; else it is reserved (EFER.NXE).
        smep: the supervisor does not execute what is the user's.
        eafe: hardware sets the extended accessed flag beside the accessed flag.
        pages_1g: there are pages of 1 GiB.
    """

    stage: ClassVar[int] = 1
    aborted: ClassVar[Reading] = _ABORTED
    marks_tables: ClassVar[bool] = True

    table: int
    levels: int
    host_bits: int = 52
    wpe: bool = False
    nxe: bool = False
    smep: bool = False
    eafe: bool = False
    pages_1g: bool = True

    def start(self, address: int) -> Start | Reading:
        """Check that the address is canonical."""
        bits = PAGE_LG2 + self.levels * INDEX_BITS
        if (address + (1 << bits - 1) & _ALL_ONES) >> bits:
            return _NOT_CANONICAL
        levels = _levels(self.levels, self.host_bits, self.nxe, self.pages_1g)
        return Start(self.table >> PAGE_LG2 << PAGE_LG2, levels, address & (1 << bits) - 1)

    def read(self, entry: int, level: Level) -> Reading:
        """Decide what an entry is: present, page size, reserved bits."""
        reading = level.readings[entry & _P | entry >> _PS_SHIFT & 2]
        if reading.fault is not None:
            return reading
        return _RESERVED if entry & (level.output_excess if reading.leaf else level.table_excess) else reading

    def descend(self, entry: int, level: Level, limits: int) -> tuple[int, int]:
        """Return the next table; each entry adds the rights that it does not give."""
        return entry & ADDRESS, limits | _taken(entry)

    def mark_table(self, entry: int) -> tuple[int, Rule] | None:
        """Set the accessed flag of a table entry."""
        mark = _A | _EA if self.eafe else _A
        return None if entry & mark == mark else (entry | mark, MARKED_ACCESSED)

    def grant(self, entry: int, limits: int, access: Access | None) -> Grant:
        """Apply U/S, R/W and XD of all levels, and SMEP."""
        return _grant(limits | _taken(entry), self.wpe, self.smep)

    def mark_leaf(self, entry: int, write: bool) -> tuple[int, Rule] | None:
        """Set the accessed flag, and the dirty flag for a write."""
        if write and not entry & _D:
            return entry | _D | (_A | _EA if self.eafe else _A), MARKED_DIRTY
        return self.mark_table(entry)

    def is_global(self, entry: int) -> bool:
        """Never: IOMMUs ignore G."""
        return False


def _taken(entry: int) -> int:
    """Return the rights that an entry takes away: R/W and U/S where they are clear, XD where it is set."""
    return ~entry & (_RW | _US) | entry & _XD


@cache
def _grant(taken: int, wpe: bool, smep: bool) -> Grant:
    user = Rights.USER_READ | Rights.USER_WRITE | Rights.USER_EXECUTE
    grant = Grant()
    for applies, rights, rule in (
        (taken & _US, user, USER),
        (taken & _RW, Rights.USER_WRITE, READ_ONLY),
        (taken & _RW and wpe, Rights.PRIVILEGED_WRITE, READ_ONLY),
        (taken & _XD, EXECUTE, XD),
        (smep and not taken & _US, Rights.PRIVILEGED_EXECUTE, SMEP),
    ):
        if applies:
            grant.take(rights, rule)
    return grant

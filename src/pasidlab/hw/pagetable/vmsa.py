"""VMSAv8-64, stage 1 and stage 2: the page tables of Arm's CPUs and SMMUs.

Source: Arm Architecture Reference Manual (DDI 0487), "The AArch64 Virtual Memory System Architecture"; where the
SMMU's names for the configuration differ from the CPU's, those of IHI 0070 G.b, 5.2 and 5.4, are used.
Not modelled: 128-bit descriptors, DS (52 bits with 4K and 16K granules), permission indirection and overlays,
E0PD, EPAN, NSTable and the other security states, memory types except that S2PTW looks for device memory (without
FEAT_S2FWB).

Implementation defined, and decided here: with OAS below 52 bits, bits 15:12 of 64K entries are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import ClassVar, NamedTuple

from pasidlab.hw.pagetable.contract import (
    ALL_RIGHTS,
    EXECUTE,
    NO_RIGHTS,
    READ,
    WRITE,
    Access,
    FaultKind,
    Grant,
    Level,
    Reading,
    Rights,
    Start,
)
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, Stage2Leaf, TableDescriptor
from pasidlab.rules import Rule

_SOURCE = "DDI 0487"
_ENTRY = "the entry at level {level} of stage {stage}"


def _rule(name: str, where: str, check: str, why: str) -> Rule:
    return Rule(f"vmsa.{name}", f"{_SOURCE}, VMSAv8-64, {where}", check, why, source=_SOURCE)


# --- rules, in the order of the checks -------------------------------------------------------------------------------

DISABLED = _rule("epd", "TCR_ELx.EPDn", "EPDn == 1", "walks for the half of address {address:#x} are disabled")
TSZ = _rule("tsz", "TCR_ELx.TnSZ", "TnSZ names no size that the granule has", "the size of the region is not possible")
RANGE = _rule(
    "range",
    "input address range",
    "bits above the region differ from bit 55 (stage 2: are not 0); with TBI not bits 63:56",
    "address {address:#x} lies outside of the region of stage {stage}",
)
START_LEVEL = _rule(
    "start-level",
    "VTCR_EL2.SL0",
    "the input size does not resolve from the start level with 1 to 16 tables",
    "stage 2 starts at a level that its input size does not fit",
)
BASE_SIZE = _rule(
    "base-size", "TTBR", "TTB >= 2^output size", "the table base of stage {stage} is wider than the output size"
)
ABORTED = _rule("abort", "translation table walks", "memory does not answer", _ENTRY + " could not be accessed")
INVALID = _rule("invalid", "descriptor formats", "bit 0 == 0", _ENTRY + " is not valid")
RESERVED = _rule("reserved", "descriptor formats", "bits 1:0 == 01 where no block may be", _ENTRY + " is reserved")
TABLE = _rule("table", "descriptor formats", "bits 1:0 == 11, levels 0 to 2", _ENTRY + " points to the next table")
BLOCK = _rule("block", "descriptor formats", "bits 1:0 == 01", _ENTRY + " maps a block")
PAGE = _rule("page", "descriptor formats", "bits 1:0 == 11, level 3", _ENTRY + " maps a page")
TABLE_SIZE = _rule(
    "table-size", "output address size", "next table >= 2^output size", _ENTRY + " points beyond the output size"
)
OUTPUT_SIZE = _rule(
    "output-size", "output address size", "output >= 2^output size", _ENTRY + " maps beyond the output size"
)
ACCESS_FLAG = _rule(
    "access-flag", "the Access flag", "AF == 0, without HA and AFFD", _ENTRY + " has its access flag clear"
)
NO_USER = _rule("ap-user", "AP[2:1]", "AP[1] == 0", _ENTRY + " keeps unprivileged accesses out")
READ_ONLY = _rule("ap-read-only", "AP[2:1]", "AP[2] == 1, not DBM with HD", _ENTRY + " is read-only")
TABLE_NO_USER = _rule("aptable-user", "APTable", "APTable[0] == 1", "a table above keeps unprivileged accesses out")
TABLE_READ_ONLY = _rule("aptable-read-only", "APTable", "APTable[1] == 1", "a table above makes all read-only")
UXN = _rule("uxn", "UXN, PXN, XN", "UXN == 1 (XN == 1)", _ENTRY + " forbids execution")
PXN = _rule("pxn", "UXN, PXN, XN", "PXN == 1", _ENTRY + " forbids privileged execution")
UXN_TABLE = _rule("uxntable", "UXNTable, PXNTable, XNTable", "UXNTable == 1", "a table above forbids execution")
PXN_TABLE = _rule(
    "pxntable", "UXNTable, PXNTable, XNTable", "PXNTable == 1", "a table above forbids privileged execution"
)
USER_WRITABLE = _rule(
    "user-writable",
    "access permissions for instruction execution",
    "writable unprivileged",
    _ENTRY + " can be written unprivileged, so that privileged code does not execute it",
)
WXN = _rule("wxn", "WXN", "WXN == 1 and writable", _ENTRY + " can be written, which forbids execution under WXN")
PAN = _rule("pan", "PAN", "PAN == 1 and readable unprivileged", _ENTRY + " is for unprivileged accesses, under PAN")
S2_NO_READ = _rule("s2ap-read", "S2AP", "S2AP[0] == 0", _ENTRY + " forbids reads")
S2_NO_WRITE = _rule("s2ap-write", "S2AP", "S2AP[1] == 0, not DBM with HD", _ENTRY + " forbids writes")
S2_XN = _rule("s2xn", "XN[1:0]", "XN forbids that privilege to execute", _ENTRY + " forbids execution")
DEVICE_TABLE = _rule(
    "s2ptw", "HCR_EL2.PTW", "PTW == 1 and device memory", _ENTRY + " is device memory, where stage 1 has a table"
)
MARKED_ACCESSED = _rule("set-af", "hardware management of the Access flag", "HA == 1", _ENTRY + " gets its access flag")
MARKED_DIRTY = _rule(
    "set-dirty", "hardware management of dirty state", "HD == 1, DBM == 1, write", _ENTRY + " is marked dirty"
)

_NOT_ENABLED = Reading(DISABLED, FaultKind.TRANSLATION)
_BAD_TSZ = Reading(TSZ, FaultKind.TRANSLATION)
_OUT_OF_RANGE = Reading(RANGE, FaultKind.TRANSLATION)
_BAD_START = Reading(START_LEVEL, FaultKind.TRANSLATION)
_BASE_TOO_WIDE = Reading(BASE_SIZE, FaultKind.ADDR_SIZE)
_ABORTED = Reading(ABORTED, FaultKind.EXTERNAL_ABORT)
_INVALID = Reading(INVALID, FaultKind.TRANSLATION)
_RESERVED = Reading(RESERVED, FaultKind.TRANSLATION)
_TABLE = Reading(TABLE)
_BLOCK = Reading(BLOCK, leaf=True)
_PAGE = Reading(PAGE, leaf=True)
_TABLE_TOO_WIDE = Reading(TABLE_SIZE, FaultKind.ADDR_SIZE)
_OUTPUT_TOO_WIDE = Reading(OUTPUT_SIZE, FaultKind.ADDR_SIZE)
_NOT_ACCESSED = Reading(ACCESS_FLAG, FaultKind.ACCESS)

# --- levels ----------------------------------------------------------------------------------------------------------


class Granule(IntEnum):
    """log2 of the size of a page, which is that of a full table."""

    K4 = 12
    K16 = 14
    K64 = 16


_LAST_LEVEL = 3
_WIDEST = 52
_WIDE = 48
"""Address bits where no format gives more: 64K granules alone can have 52."""
_SMALLEST_REGION = 16
_ENTRY_LG2 = 3
_WIDE_BASE_LG2 = 6
_MOST_CONCATENATED_LG2 = 4
_BLOCK_LEVELS = {Granule.K4: (1, 2), Granule.K16: (2,), Granule.K64: (2,)}
_RUN_LG2 = {Granule.K4: (4, 4, 4, 4), Granule.K16: (0, 0, 5, 7), Granule.K64: (5, 5, 5, 5)}
"""log2 of the entries of a contiguous run, by level."""
_SL0: dict[Granule, tuple[int | None, ...]] = {
    Granule.K4: (2, 1, 0, 3),
    Granule.K16: (3, 2, 1, None),
    Granule.K64: (3, 2, 1, None),
}
"""Start level of stage 2 by SL0."""
_FOLDED = 0xF000
_FOLDED_SHIFT = 36
"""A 64K entry has address bits 51:48 in bits 15:12."""


def _reach(granule: Granule, level: int) -> int:
    """Return log2 of the bytes that one entry maps."""
    return granule + (_LAST_LEVEL - level) * (granule - _ENTRY_LG2)


def stage1_start_level(granule: Granule, tsz: int) -> int | None:
    """Return the level of the first table of a stage-1 region; None where TnSZ is impossible with the granule."""
    bits = 64 - tsz
    if not max(_SMALLEST_REGION, granule + 1) <= bits <= _most_bits(granule):
        return None
    return _LAST_LEVEL - (bits - granule - 1) // (granule - _ENTRY_LG2)


def stage2_start_level(granule: Granule, tsz: int, sl0: int) -> int | None:
    """Return the level of the first table of stage 2.

    None where SL0 has no meaning with the granule, or the input size does not resolve by 1 to 16 tables from there.
    """
    bits, level = 64 - tsz, _SL0[granule][sl0 & 3]
    if level is None or not _SMALLEST_REGION <= bits <= _most_bits(granule):
        return None
    shift = _reach(granule, level)
    return level if shift < bits <= shift + granule - _ENTRY_LG2 + _MOST_CONCATENATED_LG2 else None


def _most_bits(granule: Granule) -> int:
    return _WIDEST if granule == Granule.K64 else _WIDE


class _Tree(NamedTuple):
    """The shape of a tree of tables.

    Attributes:
        levels: from the first table's to the last.
        input_bits: how many bits of an address it translates.
        base_bits: how many bits the address of the first table may have.
        base_lg2: log2 of the first table's alignment: its size, and at least 64 bytes where addresses have 52 bits.
    """

    levels: tuple[Level, ...]
    input_bits: int
    base_bits: int
    base_lg2: int

    def enter(self, ttb: int, left: int) -> Start | Reading:
        """Check the address of the first table, and align it as hardware does."""
        if ttb >> self.base_bits:
            return _BASE_TOO_WIDE
        return Start(ttb >> self.base_lg2 << self.base_lg2, self.levels, left)


@cache
def _stage1_tree(granule: Granule, tsz: int, oa_bits: int, oas_bits: int, had: bool) -> _Tree | None:
    start = stage1_start_level(granule, tsz)
    return None if start is None else _tree(granule, start, tsz, oa_bits, oas_bits, 0 if had else _TABLE_LIMITS)


@cache
def _stage2_tree(granule: Granule, tsz: int, sl0: int, oa_bits: int, oas_bits: int) -> _Tree | None:
    start = stage2_start_level(granule, tsz, sl0)
    return None if start is None else _tree(granule, start, tsz, oa_bits, oas_bits, 0)


def _tree(granule: Granule, start: int, tsz: int, oa_bits: int, oas_bits: int, limits: int) -> _Tree:
    wide = granule == Granule.K64 and max(oa_bits, oas_bits) >= _WIDEST
    bits = 64 - tsz
    base_bits = min(oa_bits, _most_bits(granule))
    base_lg2 = bits - _reach(granule, start) + _ENTRY_LG2
    levels = tuple(_level(granule, number, bits, oa_bits, wide, limits) for number in range(start, _LAST_LEVEL + 1))
    return _Tree(levels, bits, base_bits, max(base_lg2, _WIDE_BASE_LG2) if base_bits == _WIDEST else base_lg2)


def _level(granule: Granule, number: int, bits: int, oa_bits: int, wide: bool, limits: int) -> Level:
    shift = _reach(granule, number)
    folded = _FOLDED if wide else 0
    excess = _excess(oa_bits) | _excess(oa_bits) >> _FOLDED_SHIFT & folded
    output, table = _address_bits(shift), _address_bits(granule)
    return Level(
        number=number,
        shift=shift,
        run=min(shift + _RUN_LG2[granule][number], bits),
        readings=_readings(number, number in _BLOCK_LEVELS[granule] or (wide and number == 1)),
        output=output,
        table=table,
        output_excess=(output | folded) & excess,
        table_excess=(table | folded) & excess,
        folded=folded,
        limits=limits,
    )


def _excess(bits: int) -> int:
    """Return the address bits from `bits` on."""
    return (1 << _WIDEST) - (1 << min(bits, _WIDEST))


def _readings(level: int, blocks: bool) -> tuple[Reading, ...]:
    """Return what an entry is by its bits 1:0."""
    if level == _LAST_LEVEL:
        return _INVALID, _RESERVED, _INVALID, _PAGE
    return _INVALID, _BLOCK if blocks else _RESERVED, _INVALID, _TABLE


def _address_bits(lowest: int) -> int:
    return (1 << _WIDE) - (1 << lowest)


# --- what both stages share ------------------------------------------------------------------------------------------

_AF = int(Stage1Leaf.mask("af"))
_DBM = int(Stage1Leaf.mask("dbm"))
_CONTIGUOUS = int(Stage1Leaf.mask("contiguous"))
_NG = int(Stage1Leaf.mask("ng"))
_TABLE_LIMITS = int(TableDescriptor.mask("pxn_table", "uxn_table", "ap_table"))
_STAGE1_RIGHTS = int(Stage1Leaf.mask("ap", "dbm", "pxn", "uxn"))
_STAGE2_RIGHTS = int(Stage2Leaf.mask("s2ap", "dbm", "xn"))
_DEVICE = int(Stage2Leaf.mask("mem_attr")) & 0x30
"""MemAttr[3:2], which are 0 for device memory."""
_USER, _READ_ONLY = 1, 2
"""AP[1] and AP[2]."""
_S2_READ, _S2_WRITE = 1, 2
_AP2 = _READ_ONLY << Stage1Leaf.FIELDS["ap"].lsb
_S2AP1 = _S2_WRITE << Stage2Leaf.FIELDS["s2ap"].lsb


@dataclass(slots=True, kw_only=True)
class _Vmsa:
    """How one stage is configured, as far as both stages are alike.

    Not to be changed after it was made, which nothing enforces: a frozen class takes three times as long to make, and
    one is made for each new CD.

    Attributes:
        oa_bits: effective output address size (IPS or S2PS, at most OAS).
        oas_bits: physical address size of the implementation (OAS), where that is more than `oa_bits`.
        affd: no access flag faults.
        ha: hardware sets the access flag.
        hd: hardware makes pages with DBM dirty; needs `ha`.
        haft: hardware sets the access flag of table entries too; needs `ha`.
    """

    aborted: ClassVar[Reading] = _ABORTED

    oa_bits: int = _WIDE
    oas_bits: int = 0
    affd: bool = False
    ha: bool = False
    hd: bool = False
    haft: bool = False

    def read(self, entry: int, level: Level) -> Reading:
        """Decide what an entry is: valid, address size, access flag."""
        reading = level.readings[entry & 3]
        if reading.leaf:
            if entry & level.output_excess:
                return _OUTPUT_TOO_WIDE
            return reading if entry & _AF or self.ha or self.affd else _NOT_ACCESSED
        if entry & level.table_excess and reading is _TABLE:
            return _TABLE_TOO_WIDE
        return reading

    def output(self, entry: int, level: Level) -> int:
        """Return the address that a leaf puts out for the first byte it maps."""
        return entry & level.output | (entry & level.folded) << _FOLDED_SHIFT

    def descend(self, entry: int, level: Level, limits: int) -> tuple[int, int]:
        """Return the next table; APTable, UXNTable and PXNTable add to those of the tables above."""
        return entry & level.table | (entry & level.folded) << _FOLDED_SHIFT, limits | entry & level.limits

    @property
    def marks_tables(self) -> bool:
        """Whether table entries have an access flag."""
        return self.haft and self.ha

    def mark_table(self, entry: int) -> tuple[int, Rule] | None:
        """Set the access flag of a table entry, with HAFT."""
        return None if entry & _AF else (entry | _AF, MARKED_ACCESSED)

    def is_run(self, entry: int) -> bool:
        """Whether the Contiguous bit is set."""
        return bool(entry & _CONTIGUOUS)


# --- stage 1 ---------------------------------------------------------------------------------------------------------

_ALL_ONES = (1 << 64) - 1
_TOP_BYTE = 0xFF << 56


class Region(NamedTuple):
    """One half of the virtual address space, or its only part.

    Attributes:
        ttb: address of the first table; bits below its size are ignored.
        tsz: the region has 2^(64 - tsz) bytes.
        granule: of its tables.
        disabled: walks are disabled (EPD); nothing else counts then.
        tbi: the top byte of an address is ignored.
        had: the attributes of table entries are ignored (HAD).
    """

    ttb: int
    tsz: int
    granule: Granule
    disabled: bool = False
    tbi: bool = False
    had: bool = False


@dataclass(slots=True, kw_only=True)
class Stage1(_Vmsa):
    """Stage 1 as a context descriptor, or the registers of a CPU, configure it.

    Attributes:
        ttb0: the region of addresses with bit 55 clear.
        ttb1: that of addresses with bit 55 set; EL2 without E2H has none.
        wxn: what can be written cannot be executed.
        pan: privileged data accesses keep out of what unprivileged ones may read.
        el2: the regime of EL2, which without `ttb1` knows one privilege level only.
    """

    stage: ClassVar[int] = 1

    ttb0: Region
    ttb1: Region | None
    wxn: bool = False
    pan: bool = False
    el2: bool = False

    def canonical(self, address: int) -> int:
        """Return the address without its tag, where TBI is on: the top byte filled with bit 55, as a TLB keeps it."""
        high = address >> 55 & 1
        region = self.ttb1 if high else self.ttb0
        if region is None or not region.tbi:
            return address
        return address | _TOP_BYTE if high else address & ~_TOP_BYTE

    def start(self, address: int) -> Start | Reading:
        """Choose the region by bit 55, and check that the address lies in it."""
        high = address >> 55 & 1
        region = self.ttb1 if high else self.ttb0
        if region is None:
            return _OUT_OF_RANGE
        if region.disabled:
            return _NOT_ENABLED
        tree = _stage1_tree(region.granule, region.tsz, self.oa_bits, self.oas_bits, region.had)
        if tree is None:
            return _BAD_TSZ
        left = self.canonical(address) if region.tbi else address
        if high:
            left ^= _ALL_ONES
        if left >> tree.input_bits:
            return _OUT_OF_RANGE
        return tree.enter(region.ttb, address & ((1 << tree.input_bits) - 1))

    def grant(self, entry: int, limits: int, access: Access | None) -> Grant:
        """Apply AP, UXN and PXN, those of the tables above, WXN and PAN."""
        dirty = self.hd and self.ha
        if self._one_privilege:
            return _one_privilege_grant(entry & _STAGE1_RIGHTS, limits, dirty, self.wxn)
        return _stage1_grant(entry & _STAGE1_RIGHTS, limits, dirty, self.wxn, self.pan)

    def mark_leaf(self, entry: int, write: bool) -> tuple[int, Rule] | None:
        """Set AF, and clear AP[2] for a write where DBM lets hardware do so."""
        if not self.ha:
            return None
        if self.hd and write and entry & _DBM and entry & _AP2:
            return entry & ~_AP2 | _AF, MARKED_DIRTY
        return None if entry & _AF else (entry | _AF, MARKED_ACCESSED)

    def is_global(self, entry: int) -> bool:
        """Whether nG is 0, or the regime has no ASIDs."""
        return not entry & _NG or self._one_privilege

    @property
    def _one_privilege(self) -> bool:
        return self.el2 and self.ttb1 is None


@cache
def _stage1_grant(entry: int, limits: int, dirty: bool, wxn: bool, pan: bool) -> Grant:
    leaf, above = Stage1Leaf(entry), TableDescriptor(limits)
    user_data = Rights.USER_READ | Rights.USER_WRITE
    clean = dirty and leaf.dbm and bool(leaf.ap & _READ_ONLY)
    grant = Grant()
    for applies, rights, rule in (
        (not leaf.ap & _USER, user_data, NO_USER),
        (leaf.ap & _READ_ONLY and not clean, WRITE, READ_ONLY),
        (above.ap_table & _USER, user_data, TABLE_NO_USER),
        (above.ap_table & _READ_ONLY, WRITE, TABLE_READ_ONLY),
        (leaf.uxn, Rights.USER_EXECUTE, UXN),
        (leaf.pxn, Rights.PRIVILEGED_EXECUTE, PXN),
        (above.uxn_table, Rights.USER_EXECUTE, UXN_TABLE),
        (above.pxn_table, Rights.PRIVILEGED_EXECUTE, PXN_TABLE),
    ):
        if applies:
            grant.take(rights, rule)
    if grant.rights & Rights.USER_WRITE:
        grant.take(Rights.PRIVILEGED_EXECUTE, USER_WRITABLE)
    _forbid_writable_execution(grant, wxn)
    if pan and grant.rights & Rights.USER_READ:
        grant.take(Rights.PRIVILEGED_READ | Rights.PRIVILEGED_WRITE, PAN)
    grant.clean = clean and bool(grant.rights & WRITE)
    return grant


@cache
def _one_privilege_grant(entry: int, limits: int, dirty: bool, wxn: bool) -> Grant:
    """Grant the same to both privileges: AP[1], APTable[0], PXN and PXNTable mean nothing here, UXN is XN."""
    leaf, above = Stage1Leaf(entry), TableDescriptor(limits)
    clean = dirty and leaf.dbm and bool(leaf.ap & _READ_ONLY)
    grant = Grant()
    for applies, rights, rule in (
        (leaf.ap & _READ_ONLY and not clean, WRITE, READ_ONLY),
        (above.ap_table & _READ_ONLY, WRITE, TABLE_READ_ONLY),
        (leaf.uxn, EXECUTE, UXN),
        (above.uxn_table, EXECUTE, UXN_TABLE),
    ):
        if applies:
            grant.take(rights, rule)
    _forbid_writable_execution(grant, wxn)
    grant.clean = clean and bool(grant.rights & WRITE)
    return grant


def _forbid_writable_execution(grant: Grant, wxn: bool) -> None:
    if wxn and grant.rights & Rights.USER_WRITE:
        grant.take(Rights.USER_EXECUTE, WXN)
    if wxn and grant.rights & Rights.PRIVILEGED_WRITE:
        grant.take(Rights.PRIVILEGED_EXECUTE, WXN)


# --- stage 2 ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Stage2(_Vmsa):
    """Stage 2 as a stream table entry, or the registers of a CPU, configure it.

    Attributes:
        ttb: address of the first table, or of the first of those that are concatenated.
        tsz: the input has 64 - tsz bits.
        sl0: code of the start level, which depends on the granule.
        granule: of the tables.
        ptw: a stage-1 table in device memory faults (S2PTW).
        xnx: XN tells the privileges apart (FEAT_XNX).
    """

    stage: ClassVar[int] = 2

    ttb: int
    tsz: int
    sl0: int
    granule: Granule
    ptw: bool = False
    xnx: bool = False

    def start(self, address: int) -> Start | Reading:
        """Check that the tables can start where they do, and that the address lies in their reach."""
        tree = _stage2_tree(self.granule, self.tsz, self.sl0, self.oa_bits, self.oas_bits)
        if tree is None:
            return _BAD_START
        return _OUT_OF_RANGE if address >> tree.input_bits else tree.enter(self.ttb, address)

    def grant(self, entry: int, limits: int, access: Access | None) -> Grant:
        """Apply S2AP and XN; and S2PTW, for a walk of stage 1."""
        if self.ptw and access is not None and access.on_table and not entry & _DEVICE:
            return _NO_TABLES
        return _stage2_grant(entry & _STAGE2_RIGHTS, self.hd and self.ha, self.xnx)

    def mark_leaf(self, entry: int, write: bool) -> tuple[int, Rule] | None:
        """Set AF, and S2AP[1] for a write where DBM lets hardware do so."""
        if not self.ha:
            return None
        if self.hd and write and entry & _DBM and not entry & _S2AP1:
            return entry | _S2AP1 | _AF, MARKED_DIRTY
        return None if entry & _AF else (entry | _AF, MARKED_ACCESSED)

    def is_global(self, entry: int) -> bool:
        """Whether the leaf holds for every ASID: stage 2 knows none."""
        return True


@cache
def _stage2_grant(entry: int, dirty: bool, xnx: bool) -> Grant:
    leaf = Stage2Leaf(entry)
    clean = dirty and leaf.dbm and not leaf.s2ap & _S2_WRITE
    grant = Grant(clean=clean)
    if not leaf.s2ap & _S2_READ:
        grant.take(READ, S2_NO_READ)
    if not leaf.s2ap & _S2_WRITE and not clean:
        grant.take(WRITE, S2_NO_WRITE)
    grant.take(_XN[leaf.xn if xnx else leaf.xn & 2], S2_XN)
    return grant


_XN = (NO_RIGHTS, Rights.PRIVILEGED_EXECUTE, EXECUTE, Rights.USER_EXECUTE)
"""Who may not execute, by XN[1:0]."""
_NO_TABLES = Grant()
_NO_TABLES.take(ALL_RIGHTS, DEVICE_TABLE)

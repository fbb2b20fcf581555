"""VMSAv8-64 descriptors: the 8 bytes of a page-table entry, as named bits.

Source: Arm Architecture Reference Manual, "VMSAv8-64 translation table format descriptors"; io-pgtable-arm.c, v6.12.
Which bits of an output address a granule uses is the format's business: a field here is the widest there is.

Not modelled: descriptors of 128 bits (D128), permission indirection (PIE) and overlays, the realm security states.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, address, bits, flag


class Shareability(IntEnum):
    """SH: who sees the memory as one."""

    NSH = 0
    RESERVED_1 = 1
    OSH = 2
    ISH = 3


class Ap(IntEnum):
    """AP[2:1] of stage 1: bit 0 lets unprivileged accesses in, bit 1 forbids writes."""

    PRIVILEGED_READ_WRITE = 0
    READ_WRITE = 1
    PRIVILEGED_READ_ONLY = 2
    READ_ONLY = 3


class ApTable(IntEnum):
    """APTable: what is taken away from everything below a table; bit 0 unprivileged accesses, bit 1 writes."""

    NO_LIMIT = 0
    PRIVILEGED = 1
    READ_ONLY = 2
    PRIVILEGED_READ_ONLY = 3


class S2Ap(IntEnum):
    """S2AP: bit 0 allows reads, bit 1 writes."""

    NO_ACCESS = 0
    READ_ONLY = 1
    WRITE_ONLY = 2
    READ_WRITE = 3


class Xn(IntEnum):
    """XN[1:0] of stage 2; without FEAT_XNX bit 0 means nothing."""

    EXECUTABLE = 0
    UNPRIVILEGED_EXECUTABLE = 1
    NOT_EXECUTABLE = 2
    PRIVILEGED_EXECUTABLE = 3


MEM_ATTR = {
    0b0000: "DEVICE_NGNRNE",
    0b0001: "DEVICE_NGNRE",
    0b0010: "DEVICE_NGRE",
    0b0011: "DEVICE_GRE",
    0b0101: "NORMAL_NC",
    0b1010: "NORMAL_WT",
    0b1111: "NORMAL_WB",
}
"""Names of MemAttr[3:0] of stage 2, but for ordinary memory that is cached otherwise inside than outside."""


class Descriptor(Word, size=64):
    """What all entries have: invalid unless `valid`; then `table_or_page` tells 11 from the 01 of a block."""

    valid = flag(0, "the other bits count")
    table_or_page = flag(1, "a table at levels 0 to 2, a page at level 3; 0 is a block at levels 1 and 2")


class TableDescriptor(Descriptor, size=64):
    """An entry that points to the next level, and may take rights away from everything below it (stage 1)."""

    next_table = address(47, 12, doc="where the next table lies")
    pxn_table = flag(59, "no privileged execution")
    uxn_table = flag(60, "no unprivileged execution; none at all where one privilege level executes (XNTable)")
    ap_table = bits(62, 61, ApTable, doc="what is taken away")
    ns_table = flag(63, "Non-secure, for Secure regimes")


class Stage1Leaf(Descriptor, size=64):
    """A page or a block of stage 1."""

    attr_indx = bits(4, 2, doc="memory type: index into MAIR")
    ns = flag(5, "Non-secure, for Secure regimes")
    ap = bits(7, 6, Ap, doc="rights of data accesses")
    sh = bits(9, 8, Shareability, doc="shareability")
    af = flag(10, "was accessed; 0 faults on access, or is set by hardware")
    ng = flag(11, "holds for one ASID only")
    output = address(47, 12, doc="where the page or block lies")
    dbm = flag(51, "a write to a read-only page marks it dirty instead of faulting, where hardware does that")
    contiguous = flag(52, "one of a run of entries that make one translation")
    pxn = flag(53, "no privileged execution")
    uxn = flag(54, "no unprivileged execution; none at all where one privilege level executes (XN)")
    software = bits(58, 55, doc="left to software")


class Stage2Leaf(Descriptor, size=64):
    """A page or a block of stage 2."""

    mem_attr = bits(5, 2, names=MEM_ATTR, doc="memory type, unless S2FWB gives it another meaning")
    s2ap = bits(7, 6, S2Ap, doc="rights of data accesses")
    sh = bits(9, 8, Shareability, doc="shareability")
    af = flag(10, "was accessed; 0 faults on access, or is set by hardware")
    output = address(47, 12, doc="where the page or block lies")
    dbm = flag(51, "a write to a page without write right marks it dirty instead of faulting, where hardware does that")
    contiguous = flag(52, "one of a run of entries that make one translation")
    xn = bits(54, 53, Xn, doc="rights of execution")
    software = bits(58, 55, doc="left to software")

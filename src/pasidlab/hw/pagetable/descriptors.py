"""VMSAv8-64 descriptors: the 8 bytes of a page-table entry, as named bits.

Source: Arm Architecture Reference Manual, "VMSAv8-64 translation table format descriptors"; io-pgtable-arm.c, v6.12.
Which bits of an output address a granule uses is the format's business: a field here is the widest there is.

Not modelled: descriptors of 128 bits (D128), permission indirection (PIE) and overlays, the realm security states.
"""

from __future__ import annotations

from pasidlab.words import Word, address, bits, flag


class Descriptor(Word, size=64):
    """What all entries have: invalid unless `valid`; then `table_or_page` tells 11 from the 01 of a block."""

    valid = flag(0)
    table_or_page = flag(1, "a table at levels 0 to 2, a page at level 3; 0 is a block at levels 1 and 2")


class TableDescriptor(Descriptor, size=64):
    """An entry that points to the next level, and may take rights away from everything below it (stage 1)."""

    next_table = address(47, 12)
    pxn_table = flag(59)
    uxn_table = flag(60, "XNTable where only one privilege level executes")
    ap_table = bits(62, 61, doc="bit 0: no unprivileged access; bit 1: read only")
    ns_table = flag(63)


class Stage1Leaf(Descriptor, size=64):
    """A page or a block of stage 1."""

    attr_indx = bits(4, 2, doc="index into MAIR")
    ns = flag(5)
    ap = bits(7, 6, doc="bit 0: unprivileged access; bit 1: read only")
    sh = bits(9, 8)
    af = flag(10, "0 faults on access, or is set by hardware")
    ng = flag(11, "1: specific to an ASID")
    output = address(47, 12)
    dbm = flag(51, "a write to a read-only page marks it dirty instead of faulting, where hardware does that")
    contiguous = flag(52)
    pxn = flag(53)
    uxn = flag(54)
    software = bits(58, 55)


class Stage2Leaf(Descriptor, size=64):
    """A page or a block of stage 2."""

    mem_attr = bits(5, 2)
    s2ap = bits(7, 6, doc="bit 0: read; bit 1: write")
    sh = bits(9, 8)
    af = flag(10)
    output = address(47, 12)
    dbm = flag(51)
    contiguous = flag(52)
    xn = bits(54, 53, doc="0 executable, 2 not; 1 and 3 by privilege with FEAT_XNX")
    software = bits(58, 55)

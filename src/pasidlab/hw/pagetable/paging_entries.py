"""Paging entries of x86-64 (first stage) and of VT-d's second stage: the 8 bytes of an entry, as named bits.

Source: Intel SDM volume 3, chapter 4 (4-level and 5-level paging); Intel VT-d 4.1, 9.7 and 9.8. Large pages have the
same bits as 4 KiB ones but for PS, PAT and the lowest bits of the address, which are reserved.

Not modelled: protection keys (bits 62:59), HLAT's restart bit, memory types.
"""

from __future__ import annotations

from pasidlab.words import Word, address, bits, flag

# --- first stage: x86-64 ---------------------------------------------------------------------------------------------


class PagingEntry(Word, size=64):
    """What all entries of the first stage have."""

    p = flag(0, "present: the other bits count")
    rw = flag(1, "may be written; every level has to allow it")
    us = flag(2, "user accesses too; every level has to allow it")
    pwt = flag(3, "write-through")
    pcd = flag(4, "cache disabled")
    a = flag(5, "accessed; set by hardware")
    ea = flag(10, "extended accessed, with EAFE; else ignored")
    ignored_11 = flag(11, "software's")
    ignored_62_52 = bits(62, 52, doc="software's")
    xd = flag(63, "no execution, with NXE; else reserved; one level is enough to forbid it")


class PagingTable(PagingEntry, size=64):
    """An entry that points to the next table."""

    ignored_6 = flag(6, "software's")
    ps = flag(7, "0: a table; reserved where no page of that size may be")
    ignored_9_8 = bits(9, 8, doc="software's")
    next_table = address(51, 12, doc="where the next table lies")


class PageEntry(PagingEntry, size=64):
    """A page of 4 KiB."""

    d = flag(6, "dirty; set by hardware")
    pat = flag(7, "memory type")
    g = flag(8, "global; ignored by VT-d")
    ignored_9 = flag(9, "software's")
    output = address(51, 12, doc="where the page lies")


class LargePageEntry(PagingEntry, size=64):
    """A page of 2 MiB or 1 GiB."""

    d = flag(6, "dirty; set by hardware")
    ps = flag(7, "1: a page")
    g = flag(8, "global; ignored by VT-d")
    ignored_9 = flag(9, "software's")
    pat = flag(12, "memory type")
    output = address(51, 21, doc="where the page lies; bits 29:21 are reserved for 1 GiB")


# --- second stage: VT-d ----------------------------------------------------------------------------------------------


class SecondStageEntry(Word, size=64):
    """What all entries of the second stage have; without a right the entry is not present."""

    r = flag(0, "may be read; every level has to allow it")
    w = flag(1, "may be written; every level has to allow it")
    x = flag(2, "may be executed, with SLEE; else ignored")
    ps = flag(7, "1: a page of 2 MiB or 1 GiB; ignored at level 1")
    a = flag(8, "accessed; set by hardware with SLADE")
    ignored_10 = flag(10, "software's")
    ignored_61_52 = bits(61, 52, doc="software's")
    ignored_63 = flag(63, "software's")


class SecondStageTable(SecondStageEntry, size=64):
    """An entry that points to the next table."""

    ignored_6_3 = bits(6, 3, doc="software's")
    ignored_9 = flag(9, "software's")
    next_table = address(51, 12, doc="where the next table lies")


class SecondStageLeaf(SecondStageEntry, size=64):
    """A page."""

    emt = bits(5, 3, doc="memory type")
    ipat = flag(6, "EMT alone decides the memory type")
    d = flag(9, "dirty; set by hardware with SLADE")
    snp = flag(11, "accesses snoop caches, with SC; else reserved")
    tm = flag(62, "transient mapping, with device TLBs; else reserved")
    output = address(51, 12, doc="where the page lies")

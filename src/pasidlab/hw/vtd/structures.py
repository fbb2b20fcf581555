"""The remapping tables: root, context and PASID entries, of legacy and of scalable mode (Intel VT-d 4.1, chapter 9).

A root table has one 16-byte entry a bus. In legacy mode it leads to a context table of 256 entries of 16 bytes; in
scalable mode each half leads to one of 128 entries of 32 bytes, which lead to a PASID directory, PASID tables and
PASID entries of 64 bytes.

Not modelled: fields of revisions after 4.1.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, address, bits, flag

SOURCE_ID_BITS, PASID_BITS = 16, 20
PASID_TABLE_BITS = 6
"""log2 of the entries of a PASID table; the rest of a PASID indexes the directory."""
SMALLEST_DIRECTORY = 7
"""log2 of the entries of a PASID directory whose PDTS is 0."""


class TranslationType(IntEnum):
    """TT of a legacy context entry: what becomes of each kind of request."""

    UNTRANSLATED_ONLY = 0
    ALL = 1
    PASS_THROUGH = 2
    RESERVED = 3


class AddressWidth(IntEnum):
    """AW: the guest address width, thus the levels of second-stage tables."""

    RESERVED_0 = 0
    BITS_39 = 1
    BITS_48 = 2
    BITS_57 = 3
    RESERVED_4 = 4
    RESERVED_5 = 5
    RESERVED_6 = 6
    RESERVED_7 = 7


LEVELS = {AddressWidth.BITS_39: 3, AddressWidth.BITS_48: 4, AddressWidth.BITS_57: 5}
"""Levels of the tables of each width."""


class Pgtt(IntEnum):
    """PASID granular translation type."""

    RESERVED_0 = 0
    FIRST_STAGE = 1
    SECOND_STAGE = 2
    NESTED = 3
    PASS_THROUGH = 4
    RESERVED_5 = 5
    RESERVED_6 = 6
    RESERVED_7 = 7


class Flpm(IntEnum):
    """First-stage paging mode."""

    FOUR_LEVEL = 0
    FIVE_LEVEL = 1
    RESERVED_2 = 2
    RESERVED_3 = 3


class RootEntry(Word, size=128):
    """Root entry of legacy mode (9.1)."""

    p = flag(0, doc="present")
    ctp = address(63, 12, doc="context table")


class ScalableRootEntry(Word, size=128):
    """Root entry of scalable mode (9.2): one context table for device and function 0 to 127, one for the others."""

    lp = flag(0, doc="lower half present")
    lctp = address(63, 12, doc="lower context table")
    up = flag(64, doc="upper half present")
    uctp = address(127, 76, low=12, doc="upper context table")


class ContextEntry(Word, size=128):
    """Context entry of legacy mode (9.3)."""

    p = flag(0, doc="present")
    fpd = flag(1, doc="fault processing disabled")
    tt = bits(3, 2, TranslationType, doc="translation type")
    ssptptr = address(63, 12, doc="second-stage page table")
    aw = bits(66, 64, AddressWidth, doc="address width")
    avail = bits(70, 67, doc="software's")
    did = bits(87, 72, doc="domain identifier")


class ScalableContextEntry(Word, size=256):
    """Context entry of scalable mode (9.4)."""

    p = flag(0, doc="present")
    fpd = flag(1, doc="fault processing disabled")
    dte = flag(2, doc="device-TLB enable: translation requests and translated requests are allowed")
    paside = flag(3, doc="PASID enable: requests with PASID are allowed")
    pre = flag(4, doc="page request enable")
    pdts = bits(11, 9, doc="log2 of the directory's entries, less 7")
    pasiddirptr = address(63, 12, doc="PASID directory")
    rid_pasid = bits(83, 64, doc="PASID of requests without PASID")
    rid_priv = flag(84, doc="requests without PASID are supervisor requests")


class PasidDirectoryEntry(Word, size=64):
    """PASID directory entry (9.5), one for 64 PASIDs."""

    p = flag(0, doc="present")
    fpd = flag(1, doc="fault processing disabled")
    smptblptr = address(63, 12, doc="PASID table")


class PasidEntry(Word, size=512):
    """PASID table entry of scalable mode (9.6)."""

    p = flag(0, doc="present")
    fpd = flag(1, doc="fault processing disabled")
    aw = bits(4, 2, AddressWidth, doc="address width of the second stage")
    ssee = flag(5, doc="second-stage execute enable")
    pgtt = bits(8, 6, Pgtt, doc="translation type")
    ssade = flag(9, doc="second-stage accessed and dirty bits")
    ssptptr = address(63, 12, doc="second-stage page table")
    did = bits(79, 64, doc="domain identifier")
    pwsnp = flag(87, doc="page walks snoop")
    pgsnp = flag(88, doc="pages are snooped")
    cd = flag(89, doc="cache disable")
    emte = flag(90, doc="extended memory type enable")
    emt = bits(93, 91, doc="extended memory type")
    pwt = flag(94)
    pcd = flag(95)
    pat = bits(127, 96, doc="page attribute table")
    sre = flag(128, doc="supervisor requests are allowed")
    ere = flag(129, doc="execute requests are allowed")
    fspm = bits(131, 130, Flpm, doc="first-stage paging mode")
    wpe = flag(132, doc="write protect: supervisor writes obey R/W")
    nxe = flag(133, doc="no-execute enable: XD is no reserved bit")
    smep = flag(134, doc="supervisor-mode execution prevention")
    eafe = flag(135, doc="extended accessed bit")
    fsptptr = address(191, 140, low=12, doc="first-stage page table")

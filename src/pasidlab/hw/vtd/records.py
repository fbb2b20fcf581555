"""What a remapping unit tells software: fault records, and page request descriptors.

Source: Intel VT-d 4.1, 7.2 (fault reasons), 11.4.7.6 (fault recording registers), 7.4 (page requests).

Where sources disagree (reasons 30h to 32h, on RTADDR), the names are those of Linux.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, address, bits, flag


class Reason(IntEnum):
    """FR: why a request was blocked."""

    NONE = 0x00
    LEGACY_ROOT_NOT_PRESENT = 0x01
    LEGACY_CONTEXT_NOT_PRESENT = 0x02
    LEGACY_CONTEXT_INVALID = 0x03
    LEGACY_BEYOND_MGAW = 0x04
    LEGACY_NO_WRITE = 0x05
    LEGACY_NO_READ = 0x06
    LEGACY_PAGING_ACCESS = 0x07
    LEGACY_ROOT_ACCESS = 0x08
    LEGACY_CONTEXT_ACCESS = 0x09
    LEGACY_ROOT_RESERVED = 0x0A
    LEGACY_CONTEXT_RESERVED = 0x0B
    LEGACY_PAGING_RESERVED = 0x0C
    LEGACY_BLOCKED = 0x0D
    LEGACY_INTERRUPT_RANGE = 0x0E
    ROOT_TABLE_ADDRESS = 0x30
    TTM_REQUEST_WITH_PASID = 0x31
    TTM_PAGE_REQUEST = 0x32
    ROOT_ACCESS = 0x38
    ROOT_NOT_PRESENT = 0x39
    ROOT_RESERVED = 0x3A
    CONTEXT_ACCESS = 0x40
    CONTEXT_NOT_PRESENT = 0x41
    CONTEXT_RESERVED = 0x42
    CONTEXT_INVALID = 0x43
    DTE_CLEAR = 0x44
    PASIDE_CLEAR = 0x45
    PASID_BEYOND_PDTS = 0x46
    PRE_CLEAR = 0x47
    RID_PASID = 0x48
    DIRECTORY_ACCESS = 0x50
    DIRECTORY_NOT_PRESENT = 0x51
    DIRECTORY_RESERVED = 0x52
    PASID_ACCESS = 0x58
    PASID_NOT_PRESENT = 0x59
    PASID_RESERVED = 0x5A
    PASID_INVALID = 0x5B
    ERE_CLEAR = 0x5C
    SRE_CLEAR = 0x5D
    FIRST_ACCESS = 0x70
    FIRST_NOT_PRESENT = 0x71
    FIRST_RESERVED = 0x72
    FIRST_TABLE_ACCESS = 0x73
    FIRST_BEYOND_MGAW = 0x74
    NESTED_TOP_READ = 0x75
    NESTED_READ = 0x76
    NESTED_WRITE = 0x77
    SECOND_ACCESS = 0x78
    SECOND_NOT_PRESENT = 0x79
    SECOND_RESERVED = 0x7A
    SECOND_TABLE_ACCESS = 0x7B
    SECOND_AD_SNOOP = 0x7C
    SECOND_AD_FAILED = 0x7D
    NOT_CANONICAL = 0x80
    NO_USER = 0x81
    NO_EXECUTE = 0x82
    BEYOND_HOST_WIDTH = 0x83
    SECOND_BEYOND_WIDTH = 0x84
    NO_WRITE = 0x85
    NO_READ = 0x86
    INTERRUPT_RANGE = 0x87
    FIRST_AD_SNOOP = 0x90
    FIRST_AD_FAILED = 0x91


class FaultRecord(Word, size=128):
    """Fault recording register (11.4.7.6)."""

    fi = address(63, 12, doc="page of the request's address")
    sid = bits(79, 64, doc="source")
    t2 = flag(92, doc="type, bit 2")
    priv = flag(93, doc="supervisor request; where PP is set")
    exe = flag(94, doc="execute request; where PP is set")
    pp = flag(95, doc="PASID present")
    fr = bits(103, 96, names={reason: reason.name for reason in Reason}, doc="fault reason")
    pv = bits(123, 104, doc="PASID; where PP is set")
    at = bits(125, 124, doc="address type: 0 untranslated, 1 translation request, 2 translated")
    t1 = flag(126, doc="type: 1 read or atomic, 0 write")
    f = flag(127, doc="a fault is recorded; software clears it by writing 1")


class ResponseCode(IntEnum):
    """Response of a page group response, the code of PCI Express; the others are reserved."""

    SUCCESS = 0x0
    INVALID = 0x1
    FAILURE = 0xF


PAGE_REQUEST = 1
"""Type of a page request descriptor."""


class PageRequest(Word, size=256):
    """Page request descriptor (7.4.1)."""

    type = bits(7, 0, names={PAGE_REQUEST: "PAGE_REQUEST"})
    pp = flag(8, doc="PASID present")
    rid = bits(31, 16, doc="the device")
    pasid = bits(51, 32)
    exe = flag(52, doc="execute requested")
    pr = flag(53, doc="privileged mode requested")
    rd = flag(64, doc="read requested")
    wr = flag(65, doc="write requested")
    lpig = flag(66, doc="last page in group")
    prgi = bits(75, 67, doc="page request group index")
    addr = address(127, 76, low=12, doc="page")
    private_data = bits(255, 128)

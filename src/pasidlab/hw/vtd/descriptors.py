"""Invalidation descriptors: the entries of the invalidation queue, of 16 or 32 bytes (Intel VT-d 4.1, 6.5.2).

A descriptor class declares the fields its descriptor has and no others, so that `reserved` shows what software left in
the rest. All are declared with the 256 bits of scalable mode; the upper 128 are reserved, and in a queue of 16-byte
descriptors not there.

Not modelled: page stream responses (type 10 of older revisions), the upper type bits of revisions after 4.1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self

from pasidlab.hw.vtd.records import ResponseCode
from pasidlab.hw.vtd.registers import Granularity
from pasidlab.words import Word, address, bits, flag


class DescriptorType(IntEnum):
    """The types that there are."""

    CONTEXT_CACHE = 1
    IOTLB = 2
    DEVICE_TLB = 3
    INTERRUPT_ENTRY_CACHE = 4
    WAIT = 5
    PASID_IOTLB = 6
    PASID_CACHE = 7
    PASID_DEVICE_TLB = 8
    PAGE_GROUP_RESPONSE = 9


class PasidIotlbGranularity(IntEnum):
    """G of a PASID-based IOTLB invalidation."""

    RESERVED_0 = 0
    RESERVED_1 = 1
    PASID = 2
    PAGES = 3


class PasidCacheGranularity(IntEnum):
    """G of a PASID cache invalidation."""

    DOMAIN = 0
    PASID = 1
    RESERVED_2 = 2
    GLOBAL = 3


class Descriptor(Word, size=256):
    """Any descriptor: what all have in common."""

    TYPE: ClassVar[DescriptorType]
    type = bits(3, 0, names={one: one.name for one in DescriptorType})

    @classmethod
    def make(cls, **fields: int) -> Self:
        """Build a descriptor of this class's type."""
        return cls(type=cls.TYPE, **fields)


class ContextCacheInvalidate(Descriptor, size=256):
    """Context-cache invalidate (6.5.2.1)."""

    TYPE = DescriptorType.CONTEXT_CACHE
    g = bits(5, 4, Granularity)
    did = bits(31, 16)
    sid = bits(47, 32)
    fm = bits(49, 48, doc="function mask: how many of the function's low bits do not count")


class IotlbInvalidate(Descriptor, size=256):
    """IOTLB invalidate (6.5.2.3)."""

    TYPE = DescriptorType.IOTLB
    g = bits(5, 4, Granularity)
    dw = flag(6, doc="drain writes")
    dr = flag(7, doc="drain reads")
    did = bits(31, 16)
    am = bits(69, 64, doc="2^AM pages")
    ih = flag(70, doc="only leaves changed")
    addr = address(127, 76, low=12)


class DeviceTlbInvalidate(Descriptor, size=256):
    """Device-TLB invalidate, of requests without PASID (6.5.2.5)."""

    TYPE = DescriptorType.DEVICE_TLB
    pfsid_low = bits(15, 12, doc="physical function, low bits")
    mip = bits(20, 16, doc="most invalidations pending")
    sid = bits(47, 32)
    pfsid_high = bits(63, 52, doc="physical function, high bits")
    s = flag(64, doc="the address says a size")
    addr = address(127, 76, low=12)


class InterruptEntryCacheInvalidate(Descriptor, size=256):
    """Interrupt entry cache invalidate (6.5.2.7)."""

    TYPE = DescriptorType.INTERRUPT_ENTRY_CACHE
    g = flag(4)
    im = bits(31, 27)
    iidx = bits(47, 32)


class InvalidationWait(Descriptor, size=256):
    """Invalidation wait (6.5.2.8)."""

    TYPE = DescriptorType.WAIT
    if_ = flag(4, doc="interrupt when done")
    sw = flag(5, doc="write the status data when done")
    fn = flag(6, doc="fence: later descriptors wait")
    pd = flag(7, doc="drain page requests")
    stdata = bits(63, 32, doc="status data")
    staddr = address(127, 66, low=2, doc="where the status data goes")


class PasidIotlbInvalidate(Descriptor, size=256):
    """PASID-based IOTLB invalidate (6.5.2.4)."""

    TYPE = DescriptorType.PASID_IOTLB
    g = bits(5, 4, PasidIotlbGranularity)
    did = bits(31, 16)
    pasid = bits(51, 32)
    am = bits(69, 64, doc="2^AM pages")
    ih = flag(70, doc="only leaves changed")
    addr = address(127, 76, low=12)


class PasidCacheInvalidate(Descriptor, size=256):
    """PASID-cache invalidate (6.5.2.2)."""

    TYPE = DescriptorType.PASID_CACHE
    g = bits(5, 4, PasidCacheGranularity)
    did = bits(31, 16)
    pasid = bits(51, 32)


class PasidDeviceTlbInvalidate(Descriptor, size=256):
    """PASID-based device-TLB invalidate (6.5.2.6)."""

    TYPE = DescriptorType.PASID_DEVICE_TLB
    mip = bits(8, 4, doc="most invalidations pending")
    pfsid_low = bits(15, 12, doc="physical function, low bits")
    sid = bits(31, 16)
    pasid = bits(51, 32)
    pfsid_high = bits(63, 52, doc="physical function, high bits")
    g = flag(64, doc="of every PASID")
    s = flag(75, doc="the address says a size")
    addr = address(127, 76, low=12)


class PageGroupResponse(Descriptor, size=256):
    """Page group response (7.5.1)."""

    TYPE = DescriptorType.PAGE_GROUP_RESPONSE
    pp = flag(4, doc="PASID present")
    rc = bits(15, 12, names={code: code.name for code in ResponseCode}, doc="response code")
    rid = bits(31, 16, doc="the device")
    pasid = bits(51, 32)
    lpig = flag(66, doc="last page in group")
    prgi = bits(75, 67, doc="page request group index")


_CLASSES: dict[int, type[Descriptor]] = {
    one.TYPE: one
    for one in (
        ContextCacheInvalidate,
        IotlbInvalidate,
        DeviceTlbInvalidate,
        InterruptEntryCacheInvalidate,
        InvalidationWait,
        PasidIotlbInvalidate,
        PasidCacheInvalidate,
        PasidDeviceTlbInvalidate,
        PageGroupResponse,
    )
}


def descriptor_of(raw: int) -> Descriptor:
    """Return a descriptor as what its type says; one of no known type as plain `Descriptor`."""
    return _CLASSES.get(raw & 0xF, Descriptor)(raw)


def sized_range(addr: int, s: bool) -> tuple[int, int | None]:
    """Return start and size of a device-TLB invalidation; a size of None is everything.

    With S the lowest zero bit of the address from bit 12 on, at bit b, says 2^(b + 1) bytes (PCI Express, ATS).
    """
    if not s:
        return addr, 1 << 12
    pages = addr >> 12
    lowest_zero = (~pages & pages + 1).bit_length() + 11
    if lowest_zero >= 63:
        return 0, None
    size = 2 << lowest_zero
    return addr & -size, size

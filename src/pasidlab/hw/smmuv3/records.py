"""What the SMMU tells software: 32-byte event records and 16-byte page requests (IHI 0070 G.b, chapters 7.3 and 8).

As with commands, a class declares the fields its record has and no others, but for `ssv` and `ssid`: these read as 0
in the few records that have no place for them, and `make` leaves them out there, so that who reports a fault need not
know which record it becomes.

Not modelled, and shown as reserved if they are set: NSIPA of translation faults; the fields of E_PAGE_REQUEST,
F_TLB_CONFLICT, F_CFG_CONFLICT and F_VMS_FETCH beyond the common ones, whose positions were not verified; the widening
of IPA to bit 55.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self

from pasidlab.words import Word, address, bits, flag


class EventCode(IntEnum):
    """The codes that the architecture has given out."""

    F_UUT = 0x01
    C_BAD_STREAMID = 0x02
    F_STE_FETCH = 0x03
    C_BAD_STE = 0x04
    F_BAD_ATS_TREQ = 0x05
    F_STREAM_DISABLED = 0x06
    F_TRANSL_FORBIDDEN = 0x07
    C_BAD_SUBSTREAMID = 0x08
    F_CD_FETCH = 0x09
    C_BAD_CD = 0x0A
    F_WALK_EABT = 0x0B
    F_TRANSLATION = 0x10
    F_ADDR_SIZE = 0x11
    F_ACCESS = 0x12
    F_PERMISSION = 0x13
    F_TLB_CONFLICT = 0x20
    F_CFG_CONFLICT = 0x21
    E_PAGE_REQUEST = 0x24
    F_VMS_FETCH = 0x25


class TranslationClass(IntEnum):
    """CLASS: what was being translated or accessed when the fault arose."""

    CD = 0
    TTD = 1
    IN = 2
    RESERVED_3 = 3


EVENTS: dict[int, type[Event]] = {}
"""The class of each event code."""


class Event(Word, size=256):
    """What all events have; a subclass that names its code stands in EVENTS."""

    CODE: ClassVar[EventCode]
    OMITS: ClassVar[tuple[str, ...]]
    """Which of `ssv` and `ssid` the record has no place for."""

    code = bits(7, 0, names={member: member.name for member in EventCode})
    ssv = flag(11, "ssid is valid")
    ssid = bits(31, 12, doc="SubstreamID")
    sid = bits(63, 32, doc="StreamID")

    def __init_subclass__(cls, code: EventCode | None = None, omits: tuple[str, ...] = ()) -> None:
        super().__init_subclass__(size=256)
        cls.OMITS = omits
        if code is not None:
            cls.CODE = code
            EVENTS[code] = cls

    @classmethod
    def make(cls, **fields: int) -> Self:
        """Build the event with its code, without what the record omits."""
        for name in cls.OMITS:
            fields.pop(name, None)
        return cls(code=cls.CODE, **fields)


def event_of(raw: int) -> Event:
    """Return a queue entry as the event that its code says."""
    return EVENTS.get(raw & 0xFF, Event)(raw)


# --- parts that events share -------------------------------------------------------------------------------------


class _Access(Event):
    pnu = flag(97, "privileged")
    ind = flag(98, "instruction")
    rnw = flag(99, "read")
    inputaddr = address(191, 128)


class _Fetch(Event):
    reason = bits(79, 64, doc="implementation defined")
    gpcf = flag(80, "granule protection check failed")
    fetchaddr = address(247, 195)


class _Fault(_Access):
    stag = bits(79, 64, doc="names the stalled transaction")
    stall = flag(95, "the transaction is stalled; RESUME decides")
    s2 = flag(103, "stage 2")
    class_ = bits(105, 104, TranslationClass, doc="what was translated")
    impl_127_112 = bits(127, 112, doc="implementation defined")
    ipa = address(243, 204, doc="stage 2 only")


# --- transactions and configuration ------------------------------------------------------------------------------


class FUut(_Access, code=EventCode.F_UUT):
    """Unsupported upstream transaction."""

    reason = bits(79, 64, doc="implementation defined")


class CBadStreamid(Event, code=EventCode.C_BAD_STREAMID):
    """StreamID out of range."""


class FSteFetch(_Fetch, code=EventCode.F_STE_FETCH):
    """Fetch of an STE, or of its L1STD, aborted."""


class CBadSte(Event, code=EventCode.C_BAD_STE):
    """STE not valid, or illegal."""


class FBadAtsTreq(Event, code=EventCode.F_BAD_ATS_TREQ):
    """ATS translation request where ATS is not allowed."""

    span = bits(67, 64)
    p = flag(92, "privileged")
    x = flag(93, "execute")
    w = flag(94, "write")
    r = flag(95, "read")
    inputaddr = address(191, 140)


class FStreamDisabled(Event, code=EventCode.F_STREAM_DISABLED, omits=("ssv", "ssid")):
    """Not allowed by STE.S1DSS."""


class FTranslForbidden(Event, code=EventCode.F_TRANSL_FORBIDDEN, omits=("ssv", "ssid")):
    """Translated transaction where ATS is not allowed."""

    rnw = flag(99, "read")
    inputaddr = address(191, 128)


class CBadSubstreamid(Event, code=EventCode.C_BAD_SUBSTREAMID, omits=("ssv",)):
    """SubstreamID not allowed, out of range, or in a hole of the CD table; ssid is always valid."""


class FCdFetch(_Fetch, code=EventCode.F_CD_FETCH):
    """Fetch of a CD, or of its L1CD, aborted."""


class CBadCd(Event, code=EventCode.C_BAD_CD):
    """CD not valid, or illegal."""


# --- translation -------------------------------------------------------------------------------------------------


class FWalkEabt(_Access, code=EventCode.F_WALK_EABT):
    """Access to a translation table aborted."""

    reason = bits(79, 64, doc="implementation defined")
    s2 = flag(103, "stage 2")
    class_ = bits(105, 104, TranslationClass, doc="what was translated")
    fetchaddr = address(247, 195)


class FTranslation(_Fault, code=EventCode.F_TRANSLATION):
    """Not mapped."""


class FAddrSize(_Fault, code=EventCode.F_ADDR_SIZE):
    """An address is too large."""


class FAccess(_Fault, code=EventCode.F_ACCESS):
    """Access flag is 0."""


class FPermission(_Fault, code=EventCode.F_PERMISSION):
    """Not permitted."""

    ttrnw = flag(108, "access to the table was a read")


class FTlbConflict(Event, code=EventCode.F_TLB_CONFLICT):
    """More than one TLB entry matched."""


class FCfgConflict(Event, code=EventCode.F_CFG_CONFLICT):
    """More than one configuration cache entry matched."""


class EPageRequest(Event, code=EventCode.E_PAGE_REQUEST):
    """Hint to make a page present."""


class FVmsFetch(Event, code=EventCode.F_VMS_FETCH):
    """Fetch of a VMS aborted."""


# --- page requests -----------------------------------------------------------------------------------------------


class PriRecord(Word, size=128):
    """Page request of a device, as it lies in the PRI queue (8.1)."""

    sid = bits(31, 0, doc="StreamID")
    ssid = bits(51, 32, doc="SubstreamID")
    priv = flag(58, "privileged")
    x = flag(59, "execute")
    r = flag(60, "read")
    w = flag(61, "write")
    last = flag(62, "last request of its group")
    ssv = flag(63, "ssid is valid")
    prgindex = bits(72, 64, doc="page request group")
    addr = address(127, 76)

    @property
    def is_stop_marker(self) -> bool:
        """Whether the device says that it has stopped using the PASID."""
        return self.ssv and self.last and not (self.r or self.w)

"""TLP headers: memory requests, translation requests, completions, and the messages of ATS and page requests.

A class is one kind of TLP. `KIND` has the fields that make a header this kind; `make` sets them, and `parse` finds the
class by them. Fields are numbered as `wire` says.

Source: PCI Express Base Specification 5.0 (sections in the docstrings), which we know by how open code reads it:
- common header, memory requests, completions: cocotbext-pcie; message codes: the same, and a Wireshark dissector
- PASID prefix: byte 0 and the place of the PASID in an open FPGA core (bsa-pcie-exerciser)
- page request, group response, vector and count of an invalidate completion: the RISC-V IOMMU reference model; response
  codes: the same, and Intel's Simics API
- by general knowledge of the specification only: PMR in bit 7 and Exe in bit 6 of the prefix's byte 1 (that core has
  them in bits 5 and 4, which the specification reserves); NW in bit 0 of the last dword; the ITag in the lowest 5 bits
  of what is the tag in other messages (the RISC-V model hands it over as the tag); the destination ID of an invalidate
  request in bytes 8 and 9, where the other messages routed by ID have it

Not modelled: flit mode, where the PASID is in OHC content; 14-bit tags; the attributes of CXL devices; TLPs of other
types (I/O, configuration, atomics, other messages).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, ClassVar, Self, TypeAlias

from pasidlab.hw.pcie.wire import BigEndianWord
from pasidlab.words import address, bits, flag


class Fmt(IntEnum):
    """What a TLP is made of: dwords of its header, and whether data follow."""

    DW3 = 0
    DW4 = 1
    DW3_DATA = 2
    DW4_DATA = 3
    PREFIX = 4
    RESERVED_5 = 5
    RESERVED_6 = 6
    RESERVED_7 = 7


class Type(IntEnum):
    """The types that carry PASIDs, or answer to what does."""

    MEMORY = 0x00
    COMPLETION = 0x0A
    MESSAGE_TO_ROOT = 0x10
    MESSAGE_BY_ID = 0x12


PASID_PREFIX_TYPE = 0x11
"""The type of the PASID prefix, an end-to-end prefix."""


class AddressType(IntEnum):
    """AT: what the address of a memory request is."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1
    TRANSLATED = 2
    RESERVED_3 = 3


class CompletionStatus(IntEnum):
    """How a request ended: success, unsupported request, configuration retry, completer abort."""

    SC = 0
    UR = 1
    CRS = 2
    RESERVED_3 = 3
    CA = 4
    RESERVED_5 = 5
    RESERVED_6 = 6
    RESERVED_7 = 7


class MessageCode(IntEnum):
    """The messages of ATS and page requests."""

    INVALIDATE_REQUEST = 0x01
    INVALIDATE_COMPLETION = 0x02
    PAGE_REQUEST = 0x04
    PRG_RESPONSE = 0x05


class ResponseCode(IntEnum):
    """The answers to a page request group; a device takes every other code as a response failure."""

    SUCCESS = 0x0
    INVALID_REQUEST = 0x1
    RESPONSE_FAILURE = 0xF


_TYPES: Mapping[int, str] = {member: member.name for member in Type}
_CODES: Mapping[int, str] = {member: member.name for member in MessageCode}
_ID = "bus 15:8, device 7:3, function 2:0"
_NO_KIND: Mapping[str, int] = {}


class PasidPrefix(BigEndianWord, size=32):
    """PASID TLP prefix, in front of a header (6.20)."""

    KIND: ClassVar[Mapping[str, int]] = {"fmt": Fmt.PREFIX, "type_": PASID_PREFIX_TYPE}
    fmt = bits(31, 29, Fmt)
    type_ = bits(28, 24, names={PASID_PREFIX_TYPE: "PASID"})
    pmr = flag(23, "privileged mode requested")
    exe = flag(22, "execute requested")
    pasid = bits(19, 0)

    @classmethod
    def make(cls, pasid: int, *, pmr: bool = False, exe: bool = False) -> Self:
        """Build the prefix for a PASID."""
        return cls(**cls.KIND, pmr=pmr, exe=exe, pasid=pasid)


# --- what headers of one size share ------------------------------------------------------------------------------


class _Kind(BigEndianWord, size=0):
    KIND: ClassVar[Mapping[str, int]] = _NO_KIND
    """The fields that make a header this kind of TLP."""

    def __init_subclass__(cls, size: int, kind: Mapping[str, int] = _NO_KIND, **more: Any) -> None:
        super().__init_subclass__(size=size, **more)
        cls.KIND = {**cls.KIND, **kind}

    @classmethod
    def make(cls, **fields: int) -> Self:
        """Build a header of this kind."""
        return cls(**{**cls.KIND, **fields})


class Header3(_Kind, size=96):
    """A header of 3 dwords (2.2.1)."""

    fmt = bits(95, 93, Fmt)
    type_ = bits(92, 88, names=_TYPES)
    t9 = flag(87, "bit 9 of the tag")
    tc = bits(86, 84, doc="traffic class")
    t8 = flag(83, "bit 8 of the tag")
    attr2 = flag(82, "ordering by ID")
    ln = flag(81, "lightweight notification")
    th = flag(80, "has processing hints")
    td = flag(79, "a digest of 1 dword ends the TLP")
    ep = flag(78, "the data are poisoned")
    attr = bits(77, 76, doc="2: relaxed ordering, 1: no snoop")
    at = bits(75, 74, AddressType, doc="address type")
    length = bits(73, 64, doc="dwords of data; 0: 1024")


class Header4(_Kind, size=128):
    """A header of 4 dwords (2.2.1)."""

    fmt = bits(127, 125, Fmt)
    type_ = bits(124, 120, names=_TYPES)
    t9 = flag(119, "bit 9 of the tag")
    tc = bits(118, 116, doc="traffic class")
    t8 = flag(115, "bit 8 of the tag")
    attr2 = flag(114, "ordering by ID")
    ln = flag(113, "lightweight notification")
    th = flag(112, "has processing hints")
    td = flag(111, "a digest of 1 dword ends the TLP")
    ep = flag(110, "the data are poisoned")
    attr = bits(109, 108, doc="2: relaxed ordering, 1: no snoop")
    at = bits(107, 106, AddressType, doc="address type")
    length = bits(105, 96, doc="dwords of data; 0: 1024")


Header: TypeAlias = Header3 | Header4


# --- memory and translation requests -----------------------------------------------------------------------------


class _Request3(Header3, size=96):
    requester_id = bits(63, 48, doc=_ID)
    tag = bits(47, 40)
    last_be = bits(39, 36, doc="bytes of the last dword; 0 where there is but one")
    first_be = bits(35, 32, doc="bytes of the first dword")


class _Request4(Header4, size=128):
    requester_id = bits(95, 80, doc=_ID)
    tag = bits(79, 72)
    last_be = bits(71, 68, doc="bytes of the last dword; 0 where there is but one")
    first_be = bits(67, 64, doc="bytes of the first dword")


class Memory32(_Request3, size=96, kind={"type_": Type.MEMORY}):
    """Memory request with a 32-bit address (2.2.7)."""

    addr = address(31, 2, doc="of the first dword")
    ph = bits(1, 0, doc="processing hint, where th")


class Memory64(_Request4, size=128, kind={"type_": Type.MEMORY}):
    """Memory request with a 64-bit address (2.2.7)."""

    addr = address(63, 2, doc="of the first dword")
    ph = bits(1, 0, doc="processing hint, where th")


class MemoryRead32(Memory32, size=96, kind={"fmt": Fmt.DW3}):
    """Memory read request with a 32-bit address."""


class MemoryWrite32(Memory32, size=96, kind={"fmt": Fmt.DW3_DATA}):
    """Memory write request with a 32-bit address."""


class MemoryRead64(Memory64, size=128, kind={"fmt": Fmt.DW4}):
    """Memory read request with a 64-bit address."""


class MemoryWrite64(Memory64, size=128, kind={"fmt": Fmt.DW4_DATA}):
    """Memory write request with a 64-bit address."""


_ASKS = {"type_": Type.MEMORY, "at": AddressType.TRANSLATION_REQUEST}
_NW = "no write: the right to read is enough"


class TranslationRequest32(_Request3, size=96, kind={"fmt": Fmt.DW3, **_ASKS}):
    """ATS translation request with a 32-bit address (10.2.2)."""

    untranslated_address = address(31, 12, doc="of the first page")
    nw = flag(0, _NW)

    @property
    def translations(self) -> int:
        """How many translations are asked for, of 2 dwords each."""
        return (self.length or 1024) // 2


class TranslationRequest64(_Request4, size=128, kind={"fmt": Fmt.DW4, **_ASKS}):
    """ATS translation request with a 64-bit address (10.2.2)."""

    untranslated_address = address(63, 12, doc="of the first page")
    nw = flag(0, _NW)

    @property
    def translations(self) -> int:
        """How many translations are asked for, of 2 dwords each."""
        return (self.length or 1024) // 2


# --- completions -------------------------------------------------------------------------------------------------


class Completion(Header3, size=96, kind={"type_": Type.COMPLETION}):
    """Completion, of a translation request too (2.2.9, 10.2.3)."""

    completer_id = bits(63, 48, doc=_ID)
    status = bits(47, 45, CompletionStatus)
    bcm = flag(44, "byte count modified, by PCI-X only")
    byte_count = bits(43, 32, doc="bytes that remain, these included; 0: 4096")
    requester_id = bits(31, 16, doc=_ID)
    tag = bits(15, 8)
    lower_address = bits(6, 0)


class Cpl(Completion, size=96, kind={"fmt": Fmt.DW3}):
    """Completion without data."""


class CplD(Completion, size=96, kind={"fmt": Fmt.DW3_DATA}):
    """Completion with data; those of a translation request are TranslationEntry words."""


# --- messages ----------------------------------------------------------------------------------------------------


class _Message(Header4, size=128):
    requester_id = bits(95, 80, doc=_ID)
    message_code = bits(71, 64, names=_CODES)


def _message(fmt: Fmt, routing: Type, code: MessageCode) -> Mapping[str, int]:
    return {"fmt": fmt, "type_": routing, "message_code": code}


class InvalidateRequest(
    _Message, size=128, kind=_message(Fmt.DW4_DATA, Type.MESSAGE_BY_ID, MessageCode.INVALIDATE_REQUEST)
):
    """ATS invalidate request, to a device; its data are an InvalidateRange (10.3.1)."""

    itag = bits(76, 72, doc="names the request to its completion")
    device_id = bits(63, 48, doc=f"destination: {_ID}")


class InvalidateCompletion(
    _Message, size=128, kind=_message(Fmt.DW4, Type.MESSAGE_BY_ID, MessageCode.INVALIDATE_COMPLETION)
):
    """ATS invalidate completion, from a device (10.3.2)."""

    tag = bits(79, 72)
    device_id = bits(63, 48, doc=f"destination: {_ID}")
    cc = bits(34, 32, doc="completions that each request gets; 0: 8")
    itag_vector = bits(31, 0, doc="bit n: the request with ITag n")


class PageRequest(_Message, size=128, kind=_message(Fmt.DW4, Type.MESSAGE_TO_ROOT, MessageCode.PAGE_REQUEST)):
    """Page request, from a device (10.4.1)."""

    tag = bits(79, 72)
    page_address = address(63, 12)
    prg_index = bits(11, 3, doc="page request group")
    last = flag(2, "last request of the group")
    write = flag(1, "asks for the right to write")
    read = flag(0, "asks for the right to read")


class PrgResponse(_Message, size=128, kind=_message(Fmt.DW4, Type.MESSAGE_BY_ID, MessageCode.PRG_RESPONSE)):
    """Page request group response, to a device (10.4.2)."""

    tag = bits(79, 72)
    device_id = bits(63, 48, doc=f"destination: {_ID}")
    response_code = bits(47, 44, names={member: member.name for member in ResponseCode})
    prg_index = bits(40, 32, doc="page request group")


KINDS: tuple[type[Header], ...] = (
    TranslationRequest32,
    TranslationRequest64,
    MemoryRead32,
    MemoryRead64,
    MemoryWrite32,
    MemoryWrite64,
    Cpl,
    CplD,
    InvalidateRequest,
    InvalidateCompletion,
    PageRequest,
    PrgResponse,
)
"""Every kind of TLP; a translation request stands before the memory read that it is without its AT."""

"""A whole TLP as bytes, both ways: PASID prefix, header, data, digest.

`Tlp.make` counts the data, `Tlp.pack` gives the bytes, `parse` reads them::

    tlp = Tlp.make(PageRequest.make(page_address=0x7000, read=True), PasidPrefix.make(5))
    parse(tlp.pack()) == tlp

Source: PCI Express Base Specification 5.0, 2.2.1 (order of the parts) and 2.2.10 (prefixes).
Decided here: bytes that are no TLP of these kinds, and parts that do not belong together, raise TlpError, a ValueError
that names the byte or field, what it is, and what is allowed. Reserved bits and values are kept and refuse nothing,
since a receiver ignores them; a prefix may stand before any kind. A translation completion looks like any other: who
asked knows by the tag that `entries` may be read.
Not modelled: other prefixes; the content of the digest; sequence numbers and LCRC, which the data link layer adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pasidlab.errors import InputError
from pasidlab.hw.pcie.headers import (
    KINDS,
    PASID_PREFIX_TYPE,
    CplD,
    Fmt,
    Header,
    Header3,
    Header4,
    InvalidateRequest,
    PageRequest,
    PasidPrefix,
    TranslationRequest32,
    TranslationRequest64,
)
from pasidlab.hw.pcie.payloads import InvalidateRange, TranslationEntry

_DWORD = 4
_ENTRY = TranslationEntry.SIZE // 8
_MOST_DWORDS = 1024
_HEADER_BYTES = {Fmt.DW3: 12, Fmt.DW4: 16, Fmt.DW3_DATA: 12, Fmt.DW4_DATA: 16}
_WITH_DATA = (Fmt.DW3_DATA, Fmt.DW4_DATA)
_PREFIX_BYTE = Fmt.PREFIX << 5 | PASID_PREFIX_TYPE
_CODE_BYTE = 7
_KINDS = tuple((kind, kind.mask(*kind.KIND), kind.make()) for kind in KINDS)
"""Every kind with the bits that make a header this kind."""


class TlpError(InputError, ValueError):
    """Bytes are no TLP, or parts of one do not belong together; the message names what, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Tlp:
    """A transaction layer packet; raises TlpError where the data, or the digest, are not what the header says."""

    header: Header
    prefix: PasidPrefix | None = None
    payload: bytes = b""
    digest: bytes = b""

    @classmethod
    def make(cls, header: Header, prefix: PasidPrefix | None = None, payload: bytes = b"", digest: bytes = b"") -> Self:
        """Build a TLP whose header says how long the data are and whether there is a digest."""
        header = header.replace(td=bool(digest))
        if header.fmt in _WITH_DATA:
            header = header.replace(length=_length(payload))
        return cls(header, prefix, payload, digest)

    def __post_init__(self) -> None:
        _check_kind(self.header)
        _check_length(self.header)
        _check_size("payload", self.payload, _payload_bytes(self.header))
        _check_size("digest", self.digest, _DWORD if self.header.td else 0)

    def pack(self) -> bytes:
        """Return the bytes in the order in which they are sent."""
        prefix = b"" if self.prefix is None else self.prefix.pack()
        return prefix + self.header.pack() + self.payload + self.digest

    @property
    def pasid(self) -> int | None:
        """The PASID of the prefix."""
        return None if self.prefix is None else self.prefix.pasid

    @property
    def entries(self) -> tuple[TranslationEntry, ...]:
        """The translations of a translation completion; raises TlpError where the data are none."""
        if not isinstance(self.header, CplD) or len(self.payload) % _ENTRY:
            name, size = type(self.header).__name__, len(self.payload)
            raise TlpError(f"{name} with {size} bytes: no translations; allowed: CplD with {_ENTRY} bytes for each")
        starts = range(0, len(self.payload), _ENTRY)
        return tuple(TranslationEntry.unpack(self.payload[start : start + _ENTRY]) for start in starts)

    @property
    def invalidate_range(self) -> InvalidateRange:
        """The range of an invalidate request; raises TlpError for any other TLP."""
        if not isinstance(self.header, InvalidateRequest):
            raise TlpError(f"{type(self.header).__name__}: has no range; allowed: InvalidateRequest")
        return InvalidateRange.unpack(self.payload)

    @property
    def is_stop_marker(self) -> bool:
        """Whether it says that no more page requests of its PASID come; without PASID it is a page request."""
        header = self.header
        if not isinstance(header, PageRequest) or self.prefix is None:
            return False
        return header.last and not (header.write or header.read)


def stop_marker(requester_id: int, pasid: int) -> Tlp:
    """Return the message by which a device says that no more page requests of a PASID come (10.4.1.2)."""
    return Tlp.make(PageRequest.make(requester_id=requester_id, last=True), PasidPrefix.make(pasid))


def _length(payload: bytes) -> int:
    dwords, rest = divmod(len(payload), _DWORD)
    if rest or not 0 < dwords <= _MOST_DWORDS:
        raise TlpError(f"payload: {len(payload)} bytes; allowed: whole dwords, 4 to {_MOST_DWORDS * _DWORD} bytes")
    return dwords % _MOST_DWORDS


def _payload_bytes(header: Header) -> int:
    return (header.length or _MOST_DWORDS) * _DWORD if header.fmt in _WITH_DATA else 0


def _kind_of(word: Header) -> type[Header] | None:
    return next((kind for kind, mask, value in _KINDS if kind.SIZE == word.SIZE and word & mask == value), None)


def _check_kind(header: Header) -> None:
    """Raise TlpError for a header whose fields make it another kind than its class says."""
    found = _kind_of(header)
    if found is not type(header):
        what = "none that is known" if found is None else f"a {found.__name__}"
        raise TlpError(f"{header!r}: not a {type(header).__name__} by its fields, but {what}")


def _check_length(header: Header) -> None:
    """Raise TlpError for a length that a kind of TLP never has."""
    name = type(header).__name__
    if isinstance(header, TranslationRequest32 | TranslationRequest64) and header.length % 2:
        raise TlpError(f"{name}.length={header.length}: a translation has 2 dwords; allowed: even numbers")
    if isinstance(header, InvalidateRequest) and header.length != _ENTRY // _DWORD:
        raise TlpError(f"{name}.length={header.length}: the range has 2 dwords; allowed: 2")


def _check_size(part: str, found: bytes, size: int) -> None:
    if len(found) != size:
        raise TlpError(f"{part}: {len(found)} bytes; {size} are what the header says")


# --- reading -----------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Tlp:
    """Read one TLP, with or without a PASID prefix; raises TlpError, a ValueError, for anything else."""
    prefix = _prefix(data)
    start = 0 if prefix is None else _DWORD
    header = _header(data, start)
    first = start + header.SIZE // 8
    end = first + _payload_bytes(header)
    size = end + (_DWORD if header.td else 0)
    if len(data) != size:
        raise TlpError(f"{len(data)} bytes: {type(header).__name__} at byte {start} says that the TLP has {size}")
    return Tlp(header, prefix, bytes(data[first:end]), bytes(data[end:]))


def _prefix(data: bytes) -> PasidPrefix | None:
    if not data or data[0] >> 5 != Fmt.PREFIX:
        return None
    if data[0] != _PREFIX_BYTE:
        raise TlpError(f"byte 0 is {data[0]:#04x}: not a prefix that is known; allowed: {_PREFIX_BYTE:#04x}, PASID")
    if len(data) < _DWORD:
        raise TlpError(f"{len(data)} bytes: the PASID prefix has {_DWORD}")
    return PasidPrefix.unpack(bytes(data[:_DWORD]))


def _header(data: bytes, start: int) -> Header:
    """Return the header at byte `start` as the kind that it is."""
    if len(data) <= start:
        raise TlpError(f"{len(data)} bytes: no header; allowed: 12 bytes or more from byte {start} on")
    size = _HEADER_BYTES.get(Fmt(data[start] >> 5))
    if size is None:
        raise _unknown(data, start)
    if len(data) < start + size:
        raise TlpError(f"{len(data)} bytes: the header at byte {start} has {size}, and {len(data) - start} are there")
    raw = bytes(data[start : start + size])
    word = Header3.unpack(raw) if size == Header3.SIZE // 8 else Header4.unpack(raw)
    kind = _kind_of(word)
    if kind is None:
        raise _unknown(data, start)
    return kind(word)


def _unknown(data: bytes, start: int) -> TlpError:
    """Return the error that names the byte that makes a header at byte `start` unknown, and what it may be."""
    made = [value.pack() for _, _, value in _KINDS]
    codes = {one[_CODE_BYTE] for one in made if one[0] == data[start]}
    if codes:
        return _not_known(data, start + _CODE_BYTE, f"message code after {data[start]:#04x}", codes)
    return _not_known(data, start, "format and type", {one[0] for one in made})


def _not_known(data: bytes, at: int, what: str, known: set[int]) -> TlpError:
    allowed = ", ".join(f"{byte:#04x}" for byte in sorted(known))
    return TlpError(f"byte {at} is {data[at]:#04x}: not a {what} that is known; allowed: {allowed}")

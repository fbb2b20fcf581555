"""A PCI function's configuration space: its header, its two lists of capabilities, and what they say of PASIDs.

Source: PCI Express Base Specification 6.0, 7.5 and 7.6; the walk through the lists is that of Linux's
__pci_find_next_cap() and pci_find_next_ext_capability() (drivers/pci/pci.c): pointers lose their two lowest bits, the
list ends at a pointer below where capabilities begin, at an ID of all ones, or where it comes back, and of several
capabilities with one ID the first counts.

Decided here: sysfs shows 64 bytes to those who are not root, `lspci -xxx` prints 256, and all are 4096. What a read
did not reach is unknown, never absent (`has` answers None), and `unread` says why. A function that answers all ones
is asleep or gone: all of it is unknown. A virtual function has all ones in the place of its IDs only. A broken list is
read as far as Linux reads it, so what it hides is absent, with a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from pasidlab.errors import InputError
from pasidlab.platforms.pci.words import (
    CAPABILITY_NAMES,
    CONFIG_BYTES,
    EXPRESS_1_BYTES,
    EXPRESS_ID,
    EXTENDED,
    EXTENDED_START,
    PCI_CAP_START,
    CapabilityHeader,
    ConfigHeader,
    ExpressCapability,
    ExtendedHeader,
    HeaderLayout,
    PasidCapability,
)
from pasidlab.platforms.said import MOST_PASID_BITS, Rid
from pasidlab.rules import Finding, Level, Rule
from pasidlab.words import Word

W = TypeVar("W", bound=Word)
H = TypeVar("H", CapabilityHeader, ExtendedHeader)

HEADER_BYTES = ConfigHeader.SIZE // 8
_POINTER_AT, _CARDBUS_POINTER_AT = 0x34, 0x14
_BAD_LIST = (
    "read the function again; if it is the same, the device or its power state is at fault, and Linux sees no more"
)

ASLEEP = Rule(
    "pci.asleep",
    "configuration space",
    "all bytes of the header are ones",
    "{file}: the function answers all ones, so it is powered down (D3cold) or gone; nothing is known of it",
    source="Linux, PCI_ERROR_RESPONSE (include/linux/pci.h)",
    remedy="wake it (write `on` to its power/control in sysfs) and read it again",
)
LOOP = Rule(
    "pci.capability-loop",
    "Linux, __pci_find_next_cap() and pci_find_next_ext_capability() (drivers/pci/pci.c)",
    "a list of capabilities comes back to one of its own",
    "{file}, {place}: the list of capabilities comes back here; what follows is not read",
    source="PCIe 6.0, 7.5.3.1 and 7.6.3",
    remedy=_BAD_LIST,
)
LOW_POINTER = Rule(
    "pci.bad-pointer",
    "Linux, __pci_find_next_cap() and pci_find_next_ext_capability() (drivers/pci/pci.c)",
    "a pointer of a list of capabilities leads to before where capabilities begin",
    "{file}, {place}: the next capability is said to be at {pointer:#x}, below {least:#x}; the list ends here",
    source="PCIe 6.0, 7.5.3.1 and 7.6.3",
    remedy=_BAD_LIST,
)
UNALIGNED = Rule(
    "pci.unaligned-pointer",
    "Linux, __pci_find_next_cap() and pci_find_next_ext_capability() (drivers/pci/pci.c)",
    "a pointer of a list of capabilities is no multiple of 4",
    "{file}, {place}: the next capability is said to be at {pointer:#x}; its two lowest bits are left out",
    source="PCIe 6.0, 7.5.3.1 and 7.6.3",
    level=Level.NOTE,
)
BROKEN = Rule(
    "pci.broken-list",
    "Linux, __pci_find_next_cap() (drivers/pci/pci.c)",
    "a capability's header is all ones",
    "{file}, {place}: the capability here is all ones; the list ends here",
    source="PCIe 6.0, 7.5.3.1 and 7.6.3",
    remedy=_BAD_LIST,
)
SHORT = Rule(
    "pci.capability-short",
    "configuration space",
    "a capability reaches beyond the end of the space that it lies in",
    "{file}, {place}: {capability} needs {needed} bytes, and {left} are left; it is not read",
    source="PCIe 6.0, 7.5.3 and 7.6",
    remedy=_BAD_LIST,
)
WIDE = Rule(
    "pci.pasid-width",
    "PASID capability",
    "Max PASID Width is larger than 20",
    "{file}, {place}: Max PASID Width is {width}, and a PASID has 20 bits; 20 are taken",
    source="PCIe 6.0, 7.8.9.2",
    remedy="tell whoever makes the device; Linux takes the smaller of this and the IOMMU's",
)


class Found(NamedTuple):
    """A capability: its word, None where it is listed but could not be read, and where it stands in the source."""

    word: Word | None
    place: str


class Listed(NamedTuple):
    """An entry of a list of capabilities, decoded or not."""

    capability_id: int
    offset: int


class Header(NamedTuple):
    """What the header says; None is not known.

    `buses` are the secondary and subordinate bus of a bridge; None is no bridge, or one that firmware left alone.
    """

    vendor_id: int | None = None
    device_id: int | None = None
    revision_id: int | None = None
    class_code: int | None = None
    layout: int | None = None
    multi_function: bool | None = None
    buses: tuple[int, int] | None = None

    def filled(self, other: Header) -> Header:
        """Return this with what another read of the same function knows, where this does not."""
        return self._replace(**{name: value for name, value in other._asdict().items() if getattr(self, name) is None})


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """What is known of a function's configuration space, from its bytes or from what lspci prints of them.

    Attributes:
        file: what messages call it.
        size: how many bytes were read; 0 from words of lspci.
        found: the decoded capabilities.
        standard, extended: all entries of the two lists, in their order.
        standard_known, extended_known: the list was read to its end, so what is not in it is not there.
        unsaid: fields of words that the source does not have, as older lspci leave out some.
        unread: why something is unknown; empty where all is known.
        findings: what is wrong with it.
    """

    file: str
    size: int = 0
    header: Header = field(default_factory=Header)
    found: Mapping[type[Word], Found] = field(default_factory=dict)
    standard: tuple[Listed, ...] = ()
    extended: tuple[Listed, ...] = ()
    standard_known: bool = False
    extended_known: bool = False
    unsaid: frozenset[str] = frozenset()
    unread: str = ""
    findings: list[Finding] = field(default_factory=list)

    def get(self, kind: type[W]) -> W | None:
        """Return a capability; None where there is none, or it was not read (`has` tells)."""
        word = self.found[kind].word if kind in self.found else None
        return word if isinstance(word, kind) else None

    def has(self, kind: type[Word]) -> bool | None:
        """Return whether the function has a capability; None where that is not known."""
        if kind in self.found:
            return True
        known = self.standard_known if kind is ExpressCapability else self.extended_known
        return False if known else None

    def origin(self, kind: type[Word], what: str = "") -> str:
        """Return where a capability stands, for people: file, place, capability, and what of it."""
        name = CAPABILITY_NAMES[kind]
        place = f", {self.found[kind].place}" if kind in self.found else ""
        return f"{self.file}{place}, {name} capability{what and ', '}{what}"

    @property
    def prefix_supported(self) -> bool | None:
        """Whether it takes end-to-end TLP prefixes; None where that is not known."""
        express = self.get(ExpressCapability)
        if express is None:
            return False if self.has(ExpressCapability) is False else None
        return None if "prefix_supported" in self.unsaid else express.prefix_supported

    @property
    def pasid_bits(self) -> int | None:
        """Bits of the PASIDs that it takes, 20 at most; None where it takes none, or that is not known."""
        pasid = self.get(PasidCapability)
        return None if pasid is None else min(pasid.max_width, MOST_PASID_BITS)


def read_config(data: bytes, file: str = "config", rid: Rid | None = None) -> ConfigSpace:
    """Read a function's configuration space, or as much of it as there is.

    `rid` names the function where a file has several. Raises InputError for what can be no configuration space.
    """
    name = file if rid is None else f"{file}, {rid}"
    if not HEADER_BYTES <= len(data) <= CONFIG_BYTES:
        raise InputError(f"{name}: {len(data)} bytes are no configuration space, which has {HEADER_BYTES} to 4096")
    if data.count(0xFF, 0, HEADER_BYTES) == HEADER_BYTES:
        return ConfigSpace(name, len(data), unread="it answers all ones", findings=[ASLEEP.finding(file=name)])
    header = ConfigHeader.unpack(data[:HEADER_BYTES])
    return _Walk(data, name).space(header)


def wide(file: str, place: str, width: int) -> list[Finding]:
    """Return what is wrong with a Max PASID Width."""
    return [WIDE.finding(file=file, place=place, width=width)] if width > MOST_PASID_BITS else []


def joined(first: ConfigSpace, second: ConfigSpace) -> ConfigSpace:
    """Return what two reads of one function tell together; where both do, the first counts."""
    if first.extended_known:
        return replace(first, header=first.header.filled(second.header))
    known = first.standard_known or second.standard_known, first.extended_known or second.extended_known
    read = {name for kind in first.found for name in kind.FIELDS}
    return ConfigSpace(
        first.file,
        first.size,
        first.header.filled(second.header),
        {**second.found, **first.found},
        first.standard or second.standard,
        first.extended or second.extended,
        *known,
        second.unsaid - read,
        "" if all(known) else second.unread or first.unread,
        [*first.findings, *second.findings],
    )


def _header(header: ConfigHeader) -> Header:
    """Return what a function's header says; a virtual function's IDs are all ones."""
    virtual = header.vendor_id == 0xFFFF
    bridge = header.layout in (HeaderLayout.BRIDGE, HeaderLayout.CARDBUS)
    buses = (header.secondary_bus, header.subordinate_bus)
    return Header(
        None if virtual else header.vendor_id,
        None if virtual else header.device_id,
        header.revision_id,
        header.class_code,
        header.layout,
        header.multi_function,
        buses if bridge and buses[0] else None,
    )


class _Walk:
    """A walk through the lists of one configuration space."""

    def __init__(self, data: bytes, file: str) -> None:
        self.data, self.file = data, file
        self.findings: list[Finding] = []
        self.found: dict[type[Word], Found] = {}
        self.cut = False

    def space(self, header: ConfigHeader) -> ConfigSpace:
        """Return what the bytes say."""
        standard = self._standard(header)
        standard_known = not self.cut
        express = ExpressCapability in self.found
        extended = self._extended() if express else ()
        extended_known = standard_known and (not express or not self.cut)
        size = len(self.data)
        return ConfigSpace(
            self.file,
            size,
            _header(header),
            self.found,
            standard,
            extended,
            standard_known,
            extended_known,
            unread="" if extended_known else f"{size} bytes were read",
            findings=self.findings,
        )

    def _standard(self, header: ConfigHeader) -> tuple[Listed, ...]:
        """Walk the list that begins at the capabilities pointer."""
        listed: list[Listed] = []
        if not header.capabilities_list:
            return ()
        at = _CARDBUS_POINTER_AT if header.layout == HeaderLayout.CARDBUS else _POINTER_AT
        for offset, entry in self._chain(CapabilityHeader, self.data[at], PCI_CAP_START, at):
            listed.append(Listed(entry.capability_id, offset))
            if entry.capability_id == EXPRESS_ID:
                self._express(offset)
        return tuple(listed)

    def _extended(self) -> tuple[Listed, ...]:
        """Walk the list that begins at 0x100."""
        listed: list[Listed] = []
        for offset, entry in self._chain(ExtendedHeader, EXTENDED_START, EXTENDED_START, EXTENDED_START):
            if not entry:
                break
            listed.append(Listed(entry.capability_id, offset))
            kind = EXTENDED.get(entry.capability_id)
            if kind is not None and kind not in self.found:
                self.found[kind] = Found(self._word(kind, offset, kind.SIZE // 8, CONFIG_BYTES), _place(offset))
        pasid = self.found.get(PasidCapability)
        if pasid is not None and isinstance(pasid.word, PasidCapability):
            self.findings += wide(self.file, pasid.place, pasid.word.max_width)
        return tuple(listed)

    def _chain(self, kind: type[H], pointer: int, least: int, at: int) -> Iterator[tuple[int, H]]:
        """Yield the entries of a list with their offsets, each once; `at` is where its first pointer stands."""
        seen: set[int] = set()
        while pointer:
            if pointer & 3:
                self._say(UNALIGNED, at, pointer=pointer)
            offset = pointer & ~3
            if offset < least:
                if offset:
                    self._say(LOW_POINTER, at, pointer=offset, least=least)
                return
            if offset in seen:
                self._say(LOOP, offset)
                return
            seen.add(offset)
            entry = self._entry(kind, offset)
            if entry is None:
                return
            yield offset, entry
            pointer, at = entry.next_capability, offset

    def _entry(self, kind: type[H], offset: int) -> H | None:
        """Return the header of a capability; None where it was not read, or is all ones."""
        raw = self.data[offset : offset + kind.SIZE // 8]
        if len(raw) < kind.SIZE // 8:
            self.cut = True
            return None
        entry = kind.unpack(raw)
        ones = 0xFF if kind is CapabilityHeader else 0xFFFF
        if entry.capability_id == ones:
            self._say(BROKEN, offset)
            return None
        return entry

    def _express(self, offset: int) -> None:
        """Read the PCI Express capability, the second half of which its first version need not have."""
        if ExpressCapability in self.found:
            return
        head = self._word(ExpressCapability, offset, EXPRESS_1_BYTES, EXTENDED_START)
        whole = head
        if head is not None and head.version > 1:
            whole = self._word(ExpressCapability, offset, ExpressCapability.SIZE // 8, EXTENDED_START)
        self.found[ExpressCapability] = Found(whole, _place(offset))

    def _word(self, kind: type[W], offset: int, size: int, end: int) -> W | None:
        """Return a capability's first bytes, zeros for the rest; None where they are not there, or were not read."""
        if offset + size > end:
            left = end - offset
            self._say(SHORT, offset, capability=CAPABILITY_NAMES[kind], needed=size, left=left)
            return None
        if offset + size > len(self.data):
            self.cut = True
            return None
        return kind.unpack(self.data[offset : offset + size])

    def _say(self, rule: Rule, offset: int, **facts: object) -> None:
        self.findings.append(rule.finding(file=self.file, place=_place(offset), **facts))


def _place(offset: int) -> str:
    return f"offset {offset:#x}"

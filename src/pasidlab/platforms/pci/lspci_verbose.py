"""The text that `lspci -vv` prints of one function.

Source: pciutils 3.4 to 3.14 (ls-caps.c, ls-ecaps.c, lspci.c), and its output here. Numbers are printed as follows:
Max PASID Width, Invalidate Queue Depth, Smallest Translation Unit and bus numbers hexadecimal without 0x, those of
SR-IOV decimal. So "Max PASID Width: 14" is 20.

Decided here: a width that is more than 20 in hexadecimal but not in decimal is taken as decimal, with a finding: the
text is another tool's. A capability that is named only, as `-v` does, is there with unknown content. Older versions
leave out EETLPPrefix (before 3.6.3), the PASID bit of PRISta and EETLPPrefixBlk (before 3.11): the first two are
unknown then, the last is off. The bit for several functions is never printed: `topology` counts the functions. A text
that names no capability, and does not say "Cap-", tells nothing of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pasidlab.platforms.pci.config import ASLEEP, BROKEN, LOOP, ConfigSpace, Found, Header, Listed, wide
from pasidlab.platforms.pci.function import INTEL
from pasidlab.platforms.pci.words import (
    EXPRESS_ID,
    EXTENDED,
    EXTENDED_START,
    AcsCapability,
    AtsCapability,
    ExpressCapability,
    HeaderLayout,
    PasidCapability,
    PortType,
    PriCapability,
    SriovCapability,
)
from pasidlab.platforms.said import MOST_PASID_BITS
from pasidlab.rules import Finding, Rule
from pasidlab.words import Word

DECIMAL_WIDTH = Rule(
    "lspci.decimal-width",
    "lspci -vv",
    "Max PASID Width is more than 20 in hexadecimal, which lspci prints, but not in decimal",
    "{file}, line {line}: Max PASID Width: {printed} is {hexadecimal} in hexadecimal, as lspci prints it, and a PASID "
    "has 20 bits; {printed} is taken as decimal",
    source="pciutils, ls-ecaps.c, cap_pasid()",
    remedy="compare with `lspci -xxxx`, which has the bits themselves",
)

_VIRTUAL = 0xFFFF
"""The Vendor ID that a virtual function's own configuration space has."""
_INTEL_NAME = re.compile(r"Intel Corporation Device ([0-9a-f]{4})\b")
_IDS = (
    re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]"),
    re.compile(r"[0-9a-f]{4}: ([0-9a-f]{4}):([0-9a-f]{4})\b"),
    re.compile(r": Device ([0-9a-f]{4}):([0-9a-f]{4})\b"),
)
_CLASS = re.compile(r"\[([0-9a-f]{4})\]:|([0-9a-f]{4}): ")
_REVISION = re.compile(r"\(rev ([0-9a-f]{2})\)")
_BUSES = re.compile(r"Bus: primary=([0-9a-f]{2}), secondary=([0-9a-f]{2}), subordinate=([0-9a-f]{2})")
_GROUP = re.compile(r"(?:^|, )IOMMU group:? (\S+)")
_DRIVER = re.compile(r"Kernel driver in use: (.+)")
_CAPABILITY = re.compile(r"Capabilities: \[([0-9a-f]{2,3})(?: v(\d+))?\] ?(.*)")
_UNNAMED = re.compile(r"(?:Extended Capability ID 0x|#)([0-9a-f]{1,4})\b")
_FLAG = re.compile(r"(\w+)([+-])")

_NAMED: tuple[tuple[str, type[Word]], ...] = (
    ("Access Control Services", AcsCapability),
    ("Address Translation Service", AtsCapability),
    ("Page Request Interface", PriCapability),
    ("Process Address Space ID", PasidCapability),
    ("Single Root I/O Virtualization", SriovCapability),
)
_PORTS: tuple[tuple[str, PortType], ...] = (
    ("Root Complex Integrated Endpoint", PortType.INTEGRATED_ENDPOINT),
    ("Root Complex Event Collector", PortType.EVENT_COLLECTOR),
    ("Legacy Endpoint", PortType.LEGACY_ENDPOINT),
    ("Endpoint", PortType.ENDPOINT),
    ("Root Port", PortType.ROOT_PORT),
    ("Upstream Port", PortType.UPSTREAM_PORT),
    ("Downstream Port", PortType.DOWNSTREAM_PORT),
    ("PCI-Express to PCI/PCI-X Bridge", PortType.PCIE_TO_PCI_BRIDGE),
    ("PCI/PCI-X to PCI-Express Bridge", PortType.PCI_TO_PCIE_BRIDGE),
)
_ACS = {
    "SrcValid": "source_validation",
    "TransBlk": "translation_blocking",
    "ReqRedir": "request_redirect",
    "CmpltRedir": "completion_redirect",
    "UpstreamFwd": "upstream_forwarding",
    "EgressCtrl": "egress_control",
    "DirectTrans": "direct_translated",
}
_PRI_STATUS = {
    "RF": "response_failure",
    "UPRGI": "unexpected_prg_index",
    "Stopped": "stopped",
    "PASID": "prg_response_pasid_required",
}
_FLAGS: dict[str, tuple[type[Word], dict[str, str]]] = {
    "ACSCap": (AcsCapability, _ACS),
    "ACSCtl": (AcsCapability, {name: f"{field}_enable" for name, field in _ACS.items()}),
    "ATSCtl": (AtsCapability, {"Enable": "enable"}),
    "PRICtl": (PriCapability, {"Enable": "enable", "Reset": "reset"}),
    "PRISta": (PriCapability, _PRI_STATUS),
    "PASIDCap": (PasidCapability, {"Exec": "execute", "Priv": "privileged"}),
    "PASIDCtl": (PasidCapability, {"Enable": "enable", "Exec": "execute_enable", "Priv": "privileged_enable"}),
    "IOVCtl": (SriovCapability, {"Enable": "vf_enable"}),
}
"""What the lines with flags are called, and what their flags are."""
_NUMBERS: tuple[tuple[str, type[Word], str, int], ...] = (
    ("Invalidate Queue Depth", AtsCapability, "invalidate_queue_depth", 16),
    ("Smallest Translation Unit", AtsCapability, "smallest_translation_unit", 16),
    ("Page Request Capacity", PriCapability, "outstanding_capacity", 16),
    ("Page Request Allocation", PriCapability, "outstanding_allocation", 16),
    ("Initial VFs", SriovCapability, "initial_vfs", 10),
    ("Total VFs", SriovCapability, "total_vfs", 10),
    ("Number of VFs", SriovCapability, "num_vfs", 10),
    ("VF offset", SriovCapability, "first_vf_offset", 10),
    ("stride", SriovCapability, "vf_stride", 10),
)
_NUMBER = re.compile("(" + "|".join(name for name, *_ in _NUMBERS) + r"): ([0-9a-f]+)\b")
_NUMBER_FIELDS = {name: (kind, field, base) for name, kind, field, base in _NUMBERS}
_NEEDED: dict[type[Word], str] = {
    AcsCapability: "request_redirect",
    PasidCapability: "max_width",
    SriovCapability: "num_vfs",
    PriCapability: "stopped",
    AtsCapability: "enable",
    ExpressCapability: "port_type",
}
"""The field without which a capability was named only."""
_OFTEN_UNSAID = {ExpressCapability: "prefix_supported", PriCapability: "prg_response_pasid_required"}
"""Fields that older versions do not print."""


class Line(NamedTuple):
    """A line of a text, with its number."""

    number: int
    text: str


def driver_and_group(lines: Iterable[Line]) -> tuple[str | None, str | None]:
    """Return the driver that a function has, and its IOMMU group."""
    driver: str | None = None
    group: str | None = None
    for line in lines:
        if driver is None and (match := _DRIVER.match(line.text)):
            driver = match[1].strip()
        if group is None and (match := _GROUP.search(line.text)):
            group = match[1]
    return driver, group


def read_verbose(title: str, lines: Iterable[Line], file: str) -> ConfigSpace:
    """Read what lspci says of one function: the line that begins with its address, without it, and those below."""
    text = _Text(file)
    for line in lines:
        text.take(line)
    return text.space(title)


def _hexadecimal(match: re.Match[str] | None) -> tuple[int, ...]:
    return () if match is None else tuple(int(part, 16) for part in match.groups() if part)


class _Text:
    """The lines of one function as they are read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.fields: dict[type[Word], dict[str, int]] = {}
        self.places: dict[type[Word], int] = {}
        self.standard: list[Listed] = []
        self.extended: list[Listed] = []
        self.buses: tuple[int, int] | None = None
        self.bridge = False
        self.denied = ""
        self.known = False
        self.asleep = False

    def take(self, line: Line) -> None:
        """Read one line."""
        label, colon, rest = line.text.partition(":")
        if label in _FLAGS:
            self._flags(line, rest, *_FLAGS[label])
        reader = _READERS.get(label) if colon else None
        if reader is not None:
            reader(self, line)
        if "EETLPPrefix" in line.text:
            self._prefixes(line)
        for name, value in _NUMBER.findall(line.text):
            kind, field, base = _NUMBER_FIELDS[name]
            self._number(kind, field, value, base)
        if line.text.startswith("!!! Unknown header type 7f"):
            self.asleep = True

    def space(self, title: str) -> ConfigSpace:
        """Return what the lines said."""
        if self.asleep:
            findings = [ASLEEP.finding(file=self.file)]
            return ConfigSpace(self.file, unread="it answers all ones", findings=findings)
        unread = self.denied or ("" if self.known else "the text has no capabilities")
        found = {kind: Found(self._word(kind), f"line {line}") for kind, line in self.places.items()}
        known = self.known and not self.denied
        unsaid = frozenset(
            field for kind, field in _OFTEN_UNSAID.items() if kind in found and field not in self.fields.get(kind, {})
        )
        self._check_width(found)
        return ConfigSpace(
            self.file,
            0,
            self._header(title),
            found,
            tuple(self.standard),
            tuple(self.extended),
            known,
            known,
            unsaid,
            unread,
            self.findings,
        )

    def _check_width(self, found: dict[type[Word], Found]) -> None:
        pasid = self.fields.get(PasidCapability, {}).get("max_width")
        if pasid is not None:
            self.findings += wide(self.file, found[PasidCapability].place, pasid)

    def _header(self, title: str) -> Header:
        """Return what the lines say of the header."""
        ids = next((pair for pattern in _IDS if len(pair := _hexadecimal(pattern.search(title))) == 2), None)
        intel = _hexadecimal(_INTEL_NAME.search(title))
        vendor, device = ids or ((INTEL, intel[0]) if intel else (None, None))
        if vendor == _VIRTUAL:
            vendor = device = None
        revision = _hexadecimal(_REVISION.search(title))
        kind = _hexadecimal(_CLASS.match(title) or _CLASS.search(title))
        layout = HeaderLayout.BRIDGE if self.bridge else HeaderLayout.ENDPOINT if self.known else None
        return Header(
            vendor,
            device,
            revision[0] if revision else None,
            kind[0] << 8 if kind else None,
            layout,
            None,
            self.buses,
        )

    def _word(self, kind: type[Word]) -> Word | None:
        """Return a capability's word; None where it was named only."""
        fields = self.fields.get(kind, {})
        return kind(0, **fields) if _NEEDED[kind] in fields else None

    def _set(self, kind: type[Word], field: str, value: int) -> None:
        """Keep what a line says of a capability that was named; what was said first stays, and what fits."""
        if kind in self.places and not value >> kind.FIELDS[field].width:
            self.fields.setdefault(kind, {}).setdefault(field, value)

    def _number(self, kind: type[Word], field: str, value: str, base: int) -> None:
        digits = value[:10]
        if base == 16 or digits.isdecimal():
            self._set(kind, field, int(digits, base))

    def _flags(self, line: Line, rest: str, kind: type[Word], names: dict[str, str]) -> None:
        """Read a line of flags."""
        for name, sign in _FLAG.findall(rest):
            if name in names:
                self._set(kind, names[name], sign == "+")
        match = re.search(r"Max PASID Width: ([0-9a-f]{1,2})\b", rest)
        if kind is PasidCapability and match is not None:
            self._set(kind, "max_width", self._width(line, match[1]))

    def _width(self, line: Line, printed: str) -> int:
        """Return a width that is printed in hexadecimal."""
        width = int(printed, 16)
        if width > MOST_PASID_BITS and printed.isdecimal() and int(printed) <= MOST_PASID_BITS:
            facts = {"file": self.file, "line": line.number, "printed": printed, "hexadecimal": width}
            self.findings.append(DECIMAL_WIDTH.finding(**facts))
            return int(printed)
        return width

    def _prefixes(self, line: Line) -> None:
        """Read what a line says of end-to-end TLP prefixes."""
        for name, sign in _FLAG.findall(line.text):
            if name == "EETLPPrefix":
                self._set(ExpressCapability, "prefix_supported", sign == "+")
            elif name == "EETLPPrefixBlk":
                self._set(ExpressCapability, "prefix_blocking", sign == "+")
        match = re.search(r"MaxEETLPPrefixes ([1-4])", line.text)
        if match is not None:
            self._set(ExpressCapability, "max_prefixes", int(match[1]) & 3)

    def _read_buses(self, line: Line) -> None:
        match = _BUSES.match(line.text)
        if match is not None:
            self.bridge = True
            secondary, subordinate = int(match[2], 16), int(match[3], 16)
            self.buses = (secondary, subordinate) if secondary else None

    def _read_status(self, line: Line) -> None:
        if line.text.startswith("Status: Cap-"):
            self.known = True

    def _read_capability(self, line: Line) -> None:
        """Read a line that names a capability."""
        if "<access denied>" in line.text:
            self.denied = f"line {line.number}: <access denied>"
            return
        match = _CAPABILITY.match(line.text)
        if match is None:
            return
        self.known = True
        offset, name = int(match[1], 16), match[3]
        for mark, rule in (("<chain looped>", LOOP), ("<chain broken>", BROKEN)):
            if name.startswith(mark):
                self.findings.append(rule.finding(file=self.file, place=f"line {line.number}"))
                return
        self._named(line, offset, name, int(match[2] or "0"))

    def _named(self, line: Line, offset: int, name: str, version: int) -> None:
        """Keep that a capability is there, and what its name tells."""
        if offset < EXTENDED_START:
            if name.startswith("Express"):
                self._express(line, name)
                self.standard.append(Listed(EXPRESS_ID, offset))
            return
        kind = next((kind for start, kind in _NAMED if name.startswith(start)), None)
        unnamed = _UNNAMED.match(name)
        if kind is None and unnamed is not None:
            kind = EXTENDED.get(int(unnamed[1], 16))
        if kind is None:
            return
        number = next(number for number, other in EXTENDED.items() if other is kind)
        self.extended.append(Listed(number, offset))
        if kind not in self.places:
            self.places[kind] = line.number
            self._set(kind, "capability_id", number)
            self._set(kind, "version", version)

    def _express(self, line: Line, name: str) -> None:
        port = next((kind for text, kind in _PORTS if text in name), None)
        version = re.search(r"\(v(\d)\)", name)
        if ExpressCapability in self.places:
            return
        self.places[ExpressCapability] = line.number
        self._set(ExpressCapability, "capability_id", EXPRESS_ID)
        if port is not None:
            self._set(ExpressCapability, "port_type", port)
        if version is not None:
            self._set(ExpressCapability, "version", int(version[1]))
            if version[1] == "1":
                self._set(ExpressCapability, "prefix_supported", 0)


_READERS: dict[str, Callable[[_Text, Line], None]] = {
    "Bus": _Text._read_buses,
    "Status": _Text._read_status,
    "Capabilities": _Text._read_capability,
}
"""Lines that are read by what stands before their colon."""

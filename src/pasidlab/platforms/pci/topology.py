"""How PCI functions hang together: which bridge is above which function, and what the path to the root lets through.

Source: Linux, drivers/pci: pci_configure_eetlp_prefix() (probe.c), pci_acs_path_enabled(), pci_acs_enabled(),
pci_acs_flags_enabled() and pci_std_enable_acs() (pci.c), quirk_huawei_pcie_sva() and pci_quirk_rciep_acs()
(quirks.c), pci_iov_virtfn_bus() and pci_iov_virtfn_devfn() (iov.c).

End-to-end TLP prefixes reach the root where the function and each port above it support them; the path begins at a
root port or an integrated endpoint. So an endpoint that virtual machines put on the root bus has no such path, whatever
it supports. HiSilicon's devices that need none (pasid_no_tlp) have it.

ACS is on for the path where request redirect and upstream forwarding are on at each root and downstream port, and at
each function of a device with several functions, as far as the function has these controls; a single function needs
none; a conventional PCI device or bridge on the path never has it. Intel's integrated endpoints count as having it.

Decided here:

* The function's own bridge is the one whose secondary bus is its bus, unless the source says. A bus that is none's
  secondary bus but within a bridge's range holds virtual functions of what is behind the bridge.
* Linux turns ACS on at boot only where an IOMMU driver asks. Where no port of a source has redirection on and no
  function has an IOMMU group, nobody asked: then what the ports could have counts, as a kernel with an IOMMU would turn
  it on, and a finding says so.
* A virtual function's paths are those of its physical function, which is the one that pci_enable_pasid() looks at.
* What is not known of any function on a path, if nothing known fails, leaves the whole path unknown. Where a source has
  no bridge above a function, that is the root only if the source says so, if the bus is 0, or if it has what only root
  buses have: a host bridge, a root port, an integrated endpoint.

Not modelled: Linux's other quirks for ports that isolate without the capability (pci_dev_acs_enabled[]), of many Intel
chipsets among others, and `pci=disable_acs_redir=` and `config_acs=`, but as the control bits show them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.pci.function import INTEL, Function
from pasidlab.platforms.pci.words import AcsCapability, ExpressCapability, PortType, SriovCapability
from pasidlab.platforms.said import Rid
from pasidlab.rules import Finding, Rule

HUAWEI = 0x19E5
NO_TLP_IDS = frozenset({0xA250, 0xA251, 0xA255, 0xA256, 0xA258, 0xA259})
NO_TLP_REVISIONS = frozenset({0x21, 0x30})
"""HiSilicon's devices that look like PCI, but use PASIDs without TLP prefixes (Linux, quirk_huawei_pcie_sva())."""

_PORTS = (PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT)
_WITHOUT_ACS = (PortType.PCI_TO_PCIE_BRIDGE, PortType.PCIE_TO_PCI_BRIDGE, PortType.EVENT_COLLECTOR)
_MAY_BE_SEVERAL = (
    PortType.ENDPOINT,
    PortType.LEGACY_ENDPOINT,
    PortType.INTEGRATED_ENDPOINT,
    PortType.UPSTREAM_PORT,
)
_ON_ROOT = (PortType.ROOT_PORT, PortType.INTEGRATED_ENDPOINT, PortType.EVENT_COLLECTOR)
_HOST_BRIDGE = 0x0600
_NO_BRIDGE = "has a bridge above it that is not in the source"

BAD_BUSES = Rule(
    "pci.bad-bus-numbers",
    "Linux, pci_scan_bridge_extend() (drivers/pci/probe.c)",
    "a bridge's buses do not come after its own, or end before they begin",
    "{source}: bridge {rid} says buses {secondary:02x} to {subordinate:02x}, and is on bus {bus:02x} itself; what is "
    "behind it is not known",
    source="PCIe 6.0, 7.5.1.3",
    remedy="read it again on the running host; the kernel corrects what firmware did wrong",
)
SAME_BUS = Rule(
    "pci.same-bus",
    "Linux, pci_scan_bridge_extend() (drivers/pci/probe.c)",
    "two bridges have one secondary bus",
    "{source}: bridges {first} and {rid} both say that bus {secondary:02x} is behind them; the first counts",
    source="PCIe 6.0, 7.5.1.3",
    remedy="read it again on the running host; give the output of one host only",
)
VF_OVERLAP = Rule(
    "pci.vf-overlap",
    "SR-IOV capability",
    "the virtual functions of a physical function have other functions' addresses, or more than there are",
    "{source}: {rid} says {count} virtual functions from offset {offset} on, stride {stride}, which are more than its "
    "segment has, or another's; what is left counts",
    source="PCIe 6.0, 9.3.3",
    remedy="read it again on the running host",
)


class Path(NamedTuple):
    """What a path to the root lets through.

    Attributes:
        ok: whether it does; None where that is not known.
        at: the function that is to blame, or of which it is not known; the one that is nearest to the device.
        why: what is wrong with that function, in words.
    """

    ok: bool | None
    at: Rid | None = None
    why: str = ""


CLEAR = Path(True)


class Topology:
    """PCI functions by their addresses, and what follows from their places.

    Attributes:
        functions: by address, the first where a source has several.
        acs_asked: whether an IOMMU driver asked Linux to turn ACS on.
        findings: what is wrong with bus numbers and virtual functions.
    """

    def __init__(self, functions: Iterable[Function], source: str = "the functions") -> None:
        self.source = source
        self.findings: list[Finding] = []
        self.functions: dict[Rid, Function] = {}
        for function in functions:
            self.functions.setdefault(function.rid, function)
        self.acs_asked = any(_shows_acs(function) for function in self.functions.values())
        self._roots = {(one.rid.segment, one.rid.bus) for one in self.functions.values() if _on_root(one)}
        self._behind: dict[tuple[int, int], Rid] = {}
        self._within: dict[tuple[int, int], Rid] = {}
        self._find_bridges()
        self._physfns: dict[Rid, Rid] = {}
        self._find_virtual()
        self._several = _several(self.functions.values(), self._physfns)
        self._prefixes: dict[Rid, Path] = {}
        self._acs: dict[Rid, Path] = {}
        self._blocking: dict[Rid, Path] = {}

    # --- places ----------------------------------------------------------------------------------------------------

    def buses(self, rid: Rid) -> tuple[int, int] | None:
        """Return the secondary and the subordinate bus of a bridge; None where it is none, or not known."""
        function = self.functions.get(rid)
        buses = None if function is None else function.buses
        return buses if buses is not None and _sound(rid, buses) else None

    def physfn(self, rid: Rid) -> Rid | None:
        """Return the physical function of a virtual one; None for any other."""
        return self._physfns.get(rid)

    def parent(self, rid: Rid) -> Rid | None:
        """Return the bridge above a function; None where there is none."""
        function = self.functions.get(rid)
        if function is not None and (function.at_root or function.parent is not None):
            return function.parent
        bus = rid.segment, rid.bus
        bridge = self._behind.get(bus) or self._within.get(bus)
        return None if bridge == rid else bridge

    def at_root(self, rid: Rid) -> bool:
        """Whether a function is on a root bus for sure."""
        function = self.functions.get(rid)
        known = function is not None and (function.at_root or _on_root(function))
        return known or (self.parent(rid) is None and (rid.segment, rid.bus) in self._roots)

    def path(self, rid: Rid) -> Iterator[Rid]:
        """Yield a function and the bridges above it, up to the root; each once."""
        seen: set[Rid] = set()
        at: Rid | None = rid
        while at is not None and at not in seen:
            seen.add(at)
            yield at
            at = self.parent(at)

    def is_bridge(self, rid: Rid) -> bool:
        """Whether a function is a bridge or a port."""
        function = self.functions.get(rid)
        return function is not None and function.config.header.layout in (1, 2)

    # --- what a path lets through ----------------------------------------------------------------------------------

    def prefix_path(self, rid: Rid) -> Path:
        """Return whether end-to-end TLP prefixes reach the root, as dev->eetlp_prefix_max and pasid_no_tlp say."""
        rid = self._physfns.get(rid, rid)
        function = self.functions.get(rid)
        if function is not None and needs_no_prefix(function):
            return CLEAR
        return self._judge(rid, self._prefixes, self._prefix_at, _prefix_ends)

    def acs_path(self, rid: Rid) -> Path:
        """Return what pci_acs_path_enabled(dev, NULL, PCI_ACS_RR | PCI_ACS_UF) says."""
        return self._judge(self._physfns.get(rid, rid), self._acs, self._acs_at, lambda _: False)

    def unblocked_path(self, rid: Rid) -> Path:
        """Return whether no port above a function blocks end-to-end TLP prefixes; ports that are not known do not."""
        return self._judge(self._physfns.get(rid, rid), self._blocking, _blocking_at, _prefix_ends)

    def _judge(
        self, rid: Rid, known: dict[Rid, Path], at: Callable[[Function], Path], ends: Callable[[Function], bool]
    ) -> Path:
        """Return what a path lets through, remembering it for each function on the way."""
        way: list[Rid] = []
        for one in self.path(rid):
            way.append(one)
            function = self.functions.get(one)
            if one in known or (function is not None and ends(function)):
                break
        last = way[-1]
        result = CLEAR if self.parent(last) is not None or self.at_root(last) else Path(None, last, _NO_BRIDGE)
        for one in reversed(way):
            function = self.functions.get(one)
            own = Path(None, one, "is not in the source") if function is None else at(function)
            result = known.setdefault(one, _worse(own, result))
        return result

    def _prefix_at(self, function: Function) -> Path:
        """Return what pci_configure_eetlp_prefix() sees at one function."""
        supported = function.config.prefix_supported
        if supported is None:
            return Path(None, function.rid, _unread(function))
        if not supported:
            express = function.config.has(ExpressCapability)
            why = "does not support end-to-end TLP prefixes" if express else "is no PCI Express function"
            return Path(False, function.rid, why)
        if not _prefix_ends(function) and self.parent(function.rid) is None and self.at_root(function.rid):
            return Path(
                False, function.rid, "has no port above it, and is neither a root port nor an integrated endpoint"
            )
        return CLEAR

    def _acs_at(self, function: Function) -> Path:
        """Return what pci_acs_enabled() sees at one function."""
        config, rid = function.config, function.rid
        express = config.has(ExpressCapability)
        if express is False:
            return Path(False, rid, "is no PCI Express function")
        kind = function.port_type
        if kind is None:
            return Path(None, rid, _unread(function))
        if kind is PortType.INTEGRATED_ENDPOINT and function.vendor_id == INTEL:
            return CLEAR
        if kind in _WITHOUT_ACS:
            return Path(False, rid, "is a bridge to conventional PCI, or an event collector")
        if kind in _PORTS or (kind in _MAY_BE_SEVERAL and rid in self._several):
            return self._acs_flags(function)
        return CLEAR

    def _acs_flags(self, function: Function) -> Path:
        """Return what pci_acs_flags_enabled() sees at one function."""
        acs = function.config.get(AcsCapability)
        if acs is None:
            known = function.config.has(AcsCapability) is False
            return Path(False, function.rid, "has no ACS") if known else Path(None, function.rid, _unread(function))
        if not self.acs_asked:
            return CLEAR
        off = [
            name
            for name, has, on in (
                ("request redirect", acs.request_redirect, acs.request_redirect_enable),
                ("upstream forwarding", acs.upstream_forwarding, acs.upstream_forwarding_enable),
            )
            if has and not on
        ]
        return Path(False, function.rid, f"has {' and '.join(off)} turned off") if off else CLEAR

    # --- how they are found ----------------------------------------------------------------------------------------

    def _find_bridges(self) -> None:
        """Find which bridge each bus is behind; of several around a bus, that with the fewest buses."""
        around: list[tuple[int, Rid, tuple[int, int]]] = []
        for rid, function in self.functions.items():
            buses = function.buses
            if buses is None:
                continue
            facts = {"source": self.source, "rid": rid, "secondary": buses[0], "subordinate": buses[1]}
            if not _sound(rid, buses):
                self.findings.append(BAD_BUSES.finding(bus=rid.bus, **facts))
                continue
            first = self._behind.setdefault((rid.segment, buses[0]), rid)
            if first == rid:
                around.append((buses[1] - buses[0], rid, buses))
            else:
                self.findings.append(SAME_BUS.finding(first=first, **facts))
        for _, rid, (secondary, subordinate) in sorted(around):
            for bus in range(secondary + 1, subordinate + 1):
                self._within.setdefault((rid.segment, bus), rid)

    def _find_virtual(self) -> None:
        """Find which functions are virtual ones, and whose."""
        left: dict[int, int] = {}
        members: dict[int, list[int]] = {}
        for rid, function in self.functions.items():
            members.setdefault(rid.segment, []).append(rid.number)
            if function.physfn is not None:
                self._physfns[rid] = function.physfn
        for rid, function in self.functions.items():
            sriov = function.config.get(SriovCapability)
            if sriov is None or not sriov.vf_enable or not sriov.num_vfs:
                continue
            claimed = _virtual(rid, sriov)[: left.setdefault(rid.segment, LAST_RID + 1)]
            left[rid.segment] -= len(claimed)
            if not self._claim(rid, claimed, members[rid.segment]) or len(claimed) < sriov.num_vfs:
                facts = {"count": sriov.num_vfs, "offset": sriov.first_vf_offset, "stride": sriov.vf_stride}
                self.findings.append(VF_OVERLAP.finding(source=self.source, rid=rid, **facts))

    def _claim(self, physfn: Rid, claimed: range, members: list[int]) -> bool:
        """Keep whose virtual functions some numbers are, as far as there are such; false where one is another's."""
        few = claimed if len(claimed) <= len(members) else [number for number in members if number in claimed]
        there = [rid for number in few if (rid := Rid(physfn.segment, number)) in self.functions]
        owners = {self._physfns.setdefault(rid, physfn) for rid in there}
        return owners <= {physfn}


def needs_no_prefix(function: Function) -> bool:
    """Whether Linux lets a device use PASIDs without TLP prefixes; such a device may stall, too."""
    header = function.config.header
    ours = header.vendor_id == HUAWEI and header.device_id in NO_TLP_IDS
    return ours and header.revision_id in NO_TLP_REVISIONS


def _virtual(rid: Rid, sriov: SriovCapability) -> range:
    """Return the numbers of a physical function's virtual ones, as far as its segment has them."""
    first, stride = rid.number + sriov.first_vf_offset, sriov.vf_stride
    if not sriov.first_vf_offset or (not stride and sriov.num_vfs > 1):
        return range(0)
    step = stride or 1
    return range(first, min(first + step * sriov.num_vfs, LAST_RID + 1), step)


def _sound(rid: Rid, buses: tuple[int, int]) -> bool:
    return rid.bus < buses[0] <= buses[1]


def _on_root(function: Function) -> bool:
    """Whether a function is where only a root bus has one; a root bus may have any number, but bus 0 is one."""
    kind = function.config.header.class_code
    host = kind is not None and kind >> 8 == _HOST_BRIDGE
    return host or function.port_type in _ON_ROOT or function.rid.bus == 0


def _blocking_at(function: Function) -> Path:
    """Return whether a port lets end-to-end TLP prefixes through."""
    express = function.config.get(ExpressCapability)
    blocks = express is not None and express.prefix_blocking
    return Path(False, function.rid, "blocks end-to-end TLP prefixes") if blocks else CLEAR


def _shows_acs(function: Function) -> bool:
    """Whether a function shows that an IOMMU driver asked for ACS."""
    acs = function.config.get(AcsCapability)
    return function.group is not None or (acs is not None and acs.request_redirect_enable)


def _several(functions: Iterable[Function], physfns: dict[Rid, Rid]) -> set[Rid]:
    """Return the functions for which Linux sets dev->multifunction: by their header, or as they have siblings."""
    real = [function for function in functions if function.rid not in physfns]
    siblings = {(one.rid.segment, one.rid.number >> 3) for one in real if one.rid.number & 7}
    return {
        one.rid
        for one in real
        if one.config.header.multi_function
        or one.rid.number & 7
        or (one.config.header.multi_function is None and (one.rid.segment, one.rid.number >> 3) in siblings)
    }


def _prefix_ends(function: Function) -> bool:
    """Whether pci_configure_eetlp_prefix() looks no further up."""
    return function.port_type in (PortType.ROOT_PORT, PortType.INTEGRATED_ENDPOINT)


def _unread(function: Function) -> str:
    return f"is not known: {function.config.unread or 'the source leaves it out'}"


def _worse(own: Path, above: Path) -> Path:
    """Return the worse of two: what fails before what is not known, the nearer one before the one above."""
    if own.ok is False or above.ok is True:
        return own
    return above if above.ok is False or own.ok is True else own

"""What PCI functions say of a machine: which devices there are, and what each can do with PASIDs.

Source: pci_enable_pasid(), pci_max_pasids() and pci_prg_resp_pasid_required() (Linux, drivers/pci/ats.c).

Decided here:

* A control register shows today's state. PASID Enable on says that pci_enable_pasid() succeeded, whatever the path is
  like from here; off says nothing, as nobody may have asked.
* Paths are said of the functions that have a PASID capability only, as nothing else depends on them, and a virtual
  function has no width of its own: its physical function's counts.
* A bridge is an endpoint without `kind`: it may share a group, and never carries PASIDs.
* How PASIDs reach a device is not said: it follows from its kind. An IOMMU group 12 is named group12.
"""

from __future__ import annotations

from collections.abc import Iterable

from pasidlab.description import unknown
from pasidlab.linux.pci_ats import PASID_NO_ACS, PASID_NO_PREFIX_PATH
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.topology import Path, Topology, needs_no_prefix
from pasidlab.platforms.pci.words import (
    AcsCapability,
    AtsCapability,
    PasidCapability,
    PriCapability,
)
from pasidlab.platforms.said import Endpoint, Rid, Said
from pasidlab.rules import Level, Rule

NO_PREFIX_PATH = Rule(
    "pci.no-tlp-prefix-path",
    "Linux, pci_configure_eetlp_prefix() (drivers/pci/probe.c)",
    "a port between a device with PASIDs and the root does not support end-to-end TLP prefixes",
    "{source}: {device} has PASIDs, but they cannot reach the IOMMU: {port} {why}, so pci_enable_pasid() fails",
    source="PCIe 6.0, 6.20; Linux, drivers/pci/ats.c",
    remedy=PASID_NO_PREFIX_PATH.remedy,
    level=Level.ERROR,
)
NO_ACS_PATH = Rule(
    "pci.no-acs-path",
    "Linux, pci_acs_path_enabled() (drivers/pci/pci.c)",
    "a port between a device with PASIDs and the root does not redirect requests upstream",
    "{source}: {device} has PASIDs, but not all it sends reaches the IOMMU: {port} {why}, so pci_enable_pasid() fails",
    source="Linux, drivers/pci/ats.c and pci.c",
    remedy=f"{PASID_NO_ACS.remedy}. Linux knows chipsets that isolate without ACS (drivers/pci/quirks.c): not modelled",
    level=Level.ERROR,
)
ACS_NOT_ASKED = Rule(
    "pci.acs-not-asked",
    "Linux, pci_request_acs() (drivers/pci/pci.c)",
    "ACS is off everywhere, and no function has an IOMMU group",
    "{source}: ACS is off at all {count} functions that have it, and no IOMMU group is known, so no IOMMU driver asked "
    "for it; taken as it would be with an IOMMU",
    source="Linux, pci_enable_acs() (drivers/pci/pci.c)",
    remedy="capture again from a kernel that was booted with its IOMMU on",
    level=Level.NOTE,
)
ON_ALL_THE_SAME = Rule(
    "pci.enabled-all-the-same",
    "PASID capability, control register",
    "PASIDs are on although the path to the root does not look like it",
    "{source}: PASID is enabled at {device} although {port} {why}; Linux, or firmware, knows better, and both paths "
    "are taken as good",
    source="Linux, pci_enable_pasid() (drivers/pci/ats.c)",
    level=Level.NOTE,
)
BLOCKED = Rule(
    "pci.prefix-blocked",
    "PCI Express capability, Device Control 2",
    "a port between a device with PASIDs and the root has End-End TLP Prefix Blocking on",
    "{source}: {device} has PASIDs, and {port} {why}; Linux does not look, so PASIDs are enabled, and do not arrive",
    source="PCIe 6.0, 7.5.3.16",
    remedy="turn bit 15 of Device Control 2 of that port off (`setpci`: CAP_EXP+28.W), or firmware's setting for it",
)
UNREADABLE = Rule(
    unknown.UNREADABLE,
    "configuration space",
    "capabilities of some functions were not read",
    "{source}: of {count} of {total} functions the capabilities are not all known; the first is {rid}: {reason}",
    source="Linux, pci_read_config() (drivers/pci/pci-sysfs.c)",
    remedy="read as root, and all 4096 bytes: capture as root, or `lspci -vv` or `lspci -xxxx` as root. Where root "
    "sees 256 bytes only, the kernel has no access to the rest (pci=nommconf, no MCFG table), and there are no PASIDs",
)
NO_IDS = Rule(
    "pci.no-ids",
    "lspci",
    "the text has names in the place of vendor and device numbers",
    "{source}: {device} has PASIDs, and its vendor and device numbers are not printed, so it may be a DSA or an IAA",
    source="pciutils, lspci.c",
    remedy="use `lspci -nn -vv`",
    level=Level.NOTE,
)


def functions_say(functions: Iterable[Function], source: str) -> Said:
    """Return what PCI functions say, however they were read; `source` is what people call it."""
    topology = Topology(functions, source)
    said = Said(source)
    for function in topology.functions.values():
        said.found(function.config.findings)
        said.endpoints.append(_endpoint(function, topology, said))
    said.found(topology.findings)
    _say_unread(topology, said)
    _say_acs(topology, said)
    return said


def _endpoint(function: Function, topology: Topology, said: Said) -> Endpoint:
    """Return what is known of one function."""
    rid = function.rid
    physfn = topology.physfn(rid)
    endpoint = Endpoint(str(rid), "pci", function.origin, rid=rid, parent=topology.parent(physfn or rid))
    if function.group is not None:
        endpoint.say("group", f"group{function.group}", f"{function.origin}, IOMMU group {function.group}")
    if topology.is_bridge(rid):
        return endpoint
    _say_kind(endpoint, function)
    _say_translation(endpoint, function)
    if physfn is not None:
        endpoint.say("physfn", str(physfn), _physfn_origin(function, physfn, topology))
        _say_requests(endpoint, topology.functions.get(physfn))
    else:
        _say_requests(endpoint, function)
        _say_pasids(endpoint, function, topology, said)
    return endpoint


def _say_kind(endpoint: Endpoint, function: Function) -> None:
    if function.vendor_id is None or function.device_id is None:
        return
    ids = f"{function.vendor_id:04x}:{function.device_id:04x}"
    endpoint.say("kind", function.kind, f"{function.config.file}, vendor and device {ids}")
    if needs_no_prefix(function):
        why = f"Linux, quirk_huawei_pcie_sva() for {ids} revision {function.config.header.revision_id:#x}"
        endpoint.say("can_stall", True, why)


def _say_translation(endpoint: Endpoint, function: Function) -> None:
    """Say whether a function has ATS; a virtual function has its own."""
    has = function.config.has(AtsCapability)
    if has is not None:
        endpoint.say("ats", has, _origin(function, AtsCapability, has))


def _say_requests(endpoint: Endpoint, function: Function | None) -> None:
    """Say whether a function has page requests; virtual functions have their physical one's."""
    has = None if function is None else function.config.has(PriCapability)
    if function is None or has is None:
        return
    endpoint.say("pri", has, _origin(function, PriCapability, has))
    pri = function.config.get(PriCapability)
    if pri is not None and "prg_response_pasid_required" not in function.config.unsaid:
        origin = function.config.origin(PriCapability, "PRG Response PASID Required")
        endpoint.say("prg_pasid", pri.prg_response_pasid_required, origin)


def _origin(function: Function, kind: type[AtsCapability] | type[PriCapability], has: bool) -> str:
    return function.config.origin(kind) if has else f"{function.config.origin(kind)}: none"


def _physfn_origin(function: Function, physfn: Rid, topology: Topology) -> str:
    if function.physfn is not None:
        return f"{function.origin}, physfn"
    owner = topology.functions[physfn]
    return f"{owner.config.file}, SR-IOV capability, VF offset and stride"


def _say_pasids(endpoint: Endpoint, function: Function, topology: Topology, said: Said) -> None:
    """Say what a function that has PASIDs can do with them."""
    config = function.config
    pasid = config.get(PasidCapability)
    if pasid is None:
        if config.extended_known:
            endpoint.say("pasid_bits", None, f"{config.origin(PasidCapability)}: none")
        return
    if function.vendor_id is None:
        said.findings.append(NO_IDS.finding(source=said.source, device=endpoint.name))
    endpoint.say("pasid_bits", config.pasid_bits, config.origin(PasidCapability, f"Max PASID Width {pasid.max_width}"))
    if pasid.enable:
        endpoint.say("pasid_enabled", True, config.origin(PasidCapability, "PASID Enable is on"))
    for key, path, rule in (
        ("prefix_path", topology.prefix_path(function.rid), NO_PREFIX_PATH),
        ("acs_path", topology.acs_path(function.rid), NO_ACS_PATH),
    ):
        if path.ok is False:
            port = "it" if path.at == function.rid else path.at
            found = ON_ALL_THE_SAME if pasid.enable else rule
            said.findings.append(found.finding(source=said.source, device=endpoint.name, port=port, why=path.why))
        _say_path(endpoint, key, path, said.source)
    blocked = topology.unblocked_path(function.rid)
    if blocked.ok is False:
        said.findings.append(
            BLOCKED.finding(source=said.source, device=endpoint.name, port=blocked.at, why=blocked.why)
        )


def _say_path(endpoint: Endpoint, key: str, path: Path, source: str) -> None:
    """Say whether a path lets PASIDs through, as far as that is known."""
    if "pasid_enabled" in endpoint.keys:
        endpoint.say(key, True, f"{source}: PASID Enable is on at {endpoint.name}")
    elif path.ok is not None:
        why = "all on the path to the root have it" if path.ok else f"{path.at} {path.why}"
        endpoint.say(key, path.ok, f"{source}: {why}")


def _say_unread(topology: Topology, said: Said) -> None:
    """Find functions whose capabilities are not known, once for all of them."""
    unread = [one for one in topology.functions.values() if one.unknown]
    if unread:
        first = unread[0]
        counts = {"count": len(unread), "total": len(topology.functions)}
        reason = first.config.unread
        said.findings.append(UNREADABLE.finding(source=said.source, rid=first.rid, reason=reason, **counts))


def _say_acs(topology: Topology, said: Said) -> None:
    """Find that ACS was not asked for, where a device with PASIDs depends on it."""
    if topology.acs_asked:
        return
    functions = topology.functions.values()
    count = sum(one.config.get(AcsCapability) is not None for one in functions)
    pasids = any(one.config.get(PasidCapability) is not None for one in functions)
    if count and pasids:
        said.findings.append(ACS_NOT_ASKED.finding(source=said.source, count=count))

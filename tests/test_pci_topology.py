"""What follows from the places of PCI functions: parents, paths to the root, virtual functions, and what is said."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.lspci import read_lspci
from pasidlab.platforms.pci.says import functions_say
from pasidlab.platforms.pci.sysfs import functions as functions_of
from pasidlab.platforms.pci.topology import Path as Way
from pasidlab.platforms.pci.topology import Topology
from pasidlab.platforms.pci.words import PortType
from pasidlab.platforms.said import Endpoint, Rid, Said, rid_of
from tests.pci_machine import MADE, acs, ats, bridge, config, endpoint, function, functions, pasid, pri, sriov

DATA = Path(__file__).parent / "data/platforms/pci"
ROOT_PORT = config(bridge(1, 1), PortType.ROOT_PORT, [acs()])
DEVICE = config(endpoint(), PortType.ENDPOINT, [pasid(20)])
SWITCH = {
    "00:01.0": config(bridge(1, 3), PortType.ROOT_PORT, [acs()]),
    "01:00.0": config(bridge(2, 3), PortType.UPSTREAM_PORT),
    "02:00.0": config(bridge(3, 3), PortType.DOWNSTREAM_PORT, [acs()]),
    "03:00.0": DEVICE,
}


def rid(address: str) -> Rid:
    """Return the function that an address names."""
    found = rid_of(address)
    assert found is not None
    return found


def topology(spaces: dict[str, bytes], **changed: bytes) -> Topology:
    """Return the topology of functions, some of them changed: `p00_01_0=bytes`."""
    new = {f"{name[1:3]}:{name[4:6]}.{name[7]}": data for name, data in changed.items()}
    return Topology(functions({**spaces, **new}))


def said_of(spaces: dict[str, bytes]) -> tuple[dict[str, Endpoint], Said]:
    """Return what functions say, endpoints by address."""
    said = functions_say(functions(spaces), "dump")
    return {one.name[5:]: one for one in said.endpoints}, said


def value(one: Endpoint, key: str) -> Any:
    """Return what is said of a key; None where nothing is."""
    return one.keys[key].value if key in one.keys else None


# --- places ---------------------------------------------------------------------------------------------------------


def test_parents_follow_from_secondary_buses() -> None:
    tree = topology(SWITCH)
    assert tree.parent(rid("03:00.0")) == rid("02:00.0")
    assert tree.parent(rid("00:01.0")) is None
    assert list(tree.path(rid("03:00.0"))) == [rid(name) for name in ("03:00.0", "02:00.0", "01:00.0", "00:01.0")]
    assert tree.buses(rid("00:01.0")) == (1, 3)
    assert tree.buses(rid("03:00.0")) is None


def test_a_bus_within_a_range_but_nobodys_is_behind_the_innermost_bridge() -> None:
    """Virtual functions get such buses."""
    tree = topology(
        {"00:01.0": config(bridge(1, 9)), "01:00.0": config(bridge(2, 5)), "04:00.0": DEVICE, "08:00.0": DEVICE}
    )
    assert tree.parent(rid("04:00.0")) == rid("01:00.0")
    assert tree.parent(rid("08:00.0")) == rid("00:01.0")


def test_segments_do_not_mix() -> None:
    tree = topology({"0001:00:01.0": ROOT_PORT, "01:00.0": DEVICE})
    assert tree.parent(rid("01:00.0")) is None


@pytest.mark.parametrize(("secondary", "subordinate"), [(1, 3), (2, 3), (5, 4)])
def test_buses_that_do_not_come_after_their_own_are_not_believed(secondary: int, subordinate: int) -> None:
    tree = topology({"02:00.0": config(bridge(secondary, subordinate))})
    assert tree.buses(rid("02:00.0")) is None
    (finding,) = tree.findings
    assert finding.rule.id == "pci.bad-bus-numbers"
    assert finding.why == (
        f"the functions: bridge 0000:02:00.0 says buses {secondary:02x} to {subordinate:02x}, and is on bus 02 itself; "
        "what is behind it is not known"
    )


def test_of_two_bridges_with_one_bus_the_first_counts() -> None:
    tree = topology({"00:01.0": ROOT_PORT, "00:02.0": ROOT_PORT, "01:00.0": DEVICE})
    assert tree.parent(rid("01:00.0")) == rid("00:01.0")
    (finding,) = tree.findings
    assert finding.why == (
        "the functions: bridges 0000:00:01.0 and 0000:00:02.0 both say that bus 01 is behind them; the first counts"
    )


def test_virtual_functions_belong_to_the_function_with_offset_and_stride() -> None:
    pf = config(endpoint(), PortType.ENDPOINT, [sriov(3, 0x80, 2)])
    spaces = {"00:01.0": config(bridge(1, 2)), "01:00.0": pf} | {
        f"01:{0x10 + n:02x}.{m}": DEVICE for n in (0, 1) for m in (0, 2, 4)
    }
    tree = topology(spaces)
    owned = [name for name in spaces if tree.physfn(rid(name)) == rid("01:00.0")]
    assert owned == ["01:10.0", "01:10.2", "01:10.4"]
    assert tree.findings == []


@pytest.mark.parametrize(("count", "offset", "stride"), [(4, 0xFF00, 1), (3, 1, 0), (2, 0, 1), (0xFFFF, 1, 1)])
def test_virtual_functions_that_cannot_be_are_a_finding(count: int, offset: int, stride: int) -> None:
    tree = topology({"01:00.0": config(endpoint(), PortType.ENDPOINT, [sriov(count, offset, stride)])})
    (finding,) = tree.findings
    assert finding.rule.id == "pci.vf-overlap"
    assert f"0000:01:00.0 says {count} virtual functions from offset {offset} on, stride {stride}, " in finding.why


# --- end-to-end TLP prefixes ----------------------------------------------------------------------------------------


def test_prefixes_reach_the_root_where_all_ports_support_them() -> None:
    assert topology(SWITCH).prefix_path(rid("03:00.0")) == Way(True)


@pytest.mark.parametrize("port", ["p00_01_0", "p01_00_0", "p02_00_0", "p03_00_0"])
def test_one_function_without_prefixes_closes_the_path(port: str) -> None:
    address = f"{port[1:3]}:{port[4:6]}.{port[7]}"
    kinds = {"p00_01_0": PortType.ROOT_PORT, "p01_00_0": PortType.UPSTREAM_PORT, "p02_00_0": PortType.DOWNSTREAM_PORT}
    header = endpoint() if port == "p03_00_0" else bridge(int(port[1:3]) + 1, 3)
    closed = config(header, kinds.get(port, PortType.ENDPOINT), [acs(), pasid()], prefix=False)
    path = topology(SWITCH, **{port: closed}).prefix_path(rid("03:00.0"))
    assert path == Way(False, rid(address), "does not support end-to-end TLP prefixes")


def test_an_integrated_endpoint_is_at_the_root_itself() -> None:
    tree = topology({"6a:01.0": config(endpoint(), PortType.INTEGRATED_ENDPOINT, [pasid()])})
    assert tree.prefix_path(rid("6a:01.0")) == Way(True)


def test_an_endpoint_on_the_root_bus_has_no_port_that_could_take_prefixes() -> None:
    path = topology({"00:05.0": DEVICE}).prefix_path(rid("00:05.0"))
    assert path == Way(
        False, rid("00:05.0"), "has no port above it, and is neither a root port nor an integrated endpoint"
    )


def test_a_bridge_that_the_source_lacks_leaves_the_path_unknown() -> None:
    tree = topology({"03:00.0": DEVICE})
    assert tree.prefix_path(rid("03:00.0")) == Way(
        None, rid("03:00.0"), "has a bridge above it that is not in the source"
    )
    assert tree.acs_path(rid("03:00.0")).ok is None


def test_a_port_that_was_not_read_leaves_the_path_unknown() -> None:
    path = topology(SWITCH, p01_00_0=SWITCH["01:00.0"][:64]).prefix_path(rid("03:00.0"))
    assert path == Way(None, rid("01:00.0"), "is not known: 64 bytes were read")


def test_a_known_failure_counts_more_than_what_is_not_known() -> None:
    bad = config(bridge(1, 3), PortType.ROOT_PORT, prefix=False)
    path = topology(SWITCH, p01_00_0=SWITCH["01:00.0"][:64], p00_01_0=bad).prefix_path(rid("03:00.0"))
    assert (path.ok, path.at) == (False, rid("00:01.0"))


def test_a_bridge_to_conventional_pci_is_on_no_path() -> None:
    spaces = {"00:01.0": config(bridge(1, 1), None), "01:00.0": DEVICE}
    path = topology(spaces).prefix_path(rid("01:00.0"))
    assert path == Way(False, rid("00:01.0"), "is no PCI Express function")


@pytest.mark.parametrize(
    ("device", "revision", "ok"), [(0xA250, 0x21, True), (0xA250, 0x20, False), (0xA252, 0x30, False)]
)
def test_hisilicons_devices_need_no_prefixes(device: int, revision: int, ok: bool) -> None:
    data = config(endpoint(0x19E5, device, revision_id=revision), PortType.ENDPOINT, [pasid(16)], prefix=False)
    endpoints, _ = said_of({"00:01.0": ROOT_PORT, "01:00.0": data})
    assert value(endpoints["01:00.0"], "prefix_path") is ok
    assert value(endpoints["01:00.0"], "can_stall") is (True if ok else None)


# --- ACS ------------------------------------------------------------------------------------------------------------


def test_ports_that_redirect_make_a_path() -> None:
    assert topology(SWITCH).acs_path(rid("03:00.0")) == Way(True)


def test_a_downstream_port_without_acs_breaks_the_path() -> None:
    path = topology(SWITCH, p02_00_0=config(bridge(3, 3), PortType.DOWNSTREAM_PORT)).acs_path(rid("03:00.0"))
    assert path == Way(False, rid("02:00.0"), "has no ACS")


def test_only_controls_that_a_port_has_need_be_on() -> None:
    """pci_acs_flags_enabled() leaves out flags that the capability lacks."""
    some = config(bridge(3, 3), PortType.DOWNSTREAM_PORT, [acs(has=["upstream_forwarding"])])
    assert topology(SWITCH, p02_00_0=some).acs_path(rid("03:00.0")).ok is True


def test_a_control_that_is_off_breaks_the_path() -> None:
    off = config(bridge(3, 3), PortType.DOWNSTREAM_PORT, [acs(on=False)])
    path = topology(SWITCH, p02_00_0=off).acs_path(rid("03:00.0"))
    assert path == Way(False, rid("02:00.0"), "has request redirect and upstream forwarding turned off")


def test_an_upstream_port_needs_acs_only_with_siblings() -> None:
    sibling = config(endpoint(), PortType.ENDPOINT)
    several = config(bridge(2, 3, multi_function=1), PortType.UPSTREAM_PORT)
    path = topology({**SWITCH, "01:00.1": sibling}, p01_00_0=several).acs_path(rid("03:00.0"))
    assert path == Way(False, rid("01:00.0"), "has no ACS")


@pytest.mark.parametrize(("extended", "ok"), [([pasid()], False), ([pasid(), acs()], True)])
def test_each_function_of_several_needs_acs(extended: list[Any], ok: bool) -> None:
    second = config(endpoint(), PortType.ENDPOINT, extended)
    tree = topology({"00:01.0": ROOT_PORT, "01:00.0": DEVICE, "01:00.1": second})
    assert tree.acs_path(rid("01:00.1")).ok is ok
    assert tree.acs_path(rid("01:00.0")).ok is True, "its header does not say that there are several"


def test_siblings_count_where_the_header_is_not_known() -> None:
    """lspci's text does not have the bit."""
    text = "\n".join(
        f"00:1d.{number} Endpoint [0880]: X [1b36:0010]\n\tCapabilities: [40] Express (v2) Endpoint, MSI 00\n"
        for number in (0, 1)
    )
    path = Topology(read_lspci(text)).acs_path(rid("00:1d.0"))
    assert path == Way(False, rid("00:1d.0"), "has no ACS")


@pytest.mark.parametrize(("vendor", "ok"), [(0x8086, True), (0x1022, False)])
def test_integrated_endpoints_of_intel_count_as_isolated(vendor: int, ok: bool) -> None:
    several = config(endpoint(vendor, 0x0B25, multi_function=1), PortType.INTEGRATED_ENDPOINT, [pasid()])
    assert topology({"6a:01.0": several}).acs_path(rid("6a:01.0")).ok is ok


@pytest.mark.parametrize("kind", [PortType.PCIE_TO_PCI_BRIDGE, PortType.PCI_TO_PCIE_BRIDGE, PortType.EVENT_COLLECTOR])
def test_bridges_to_conventional_pci_never_redirect(kind: PortType) -> None:
    path = topology(SWITCH, p02_00_0=config(bridge(3, 3), kind, [acs()])).acs_path(rid("03:00.0"))
    assert (path.ok, path.at) == (False, rid("02:00.0"))


def test_where_nobody_asked_for_acs_what_ports_could_do_counts() -> None:
    off = config(bridge(1, 1), PortType.ROOT_PORT, [acs(on=False)])
    spaces = {"00:01.0": off, "01:00.0": DEVICE}
    endpoints, said = said_of(spaces)
    assert value(endpoints["01:00.0"], "acs_path") is True
    (finding,) = said.findings
    assert finding.rule.id == "pci.acs-not-asked"
    assert finding.why == (
        "dump: ACS is off at all 1 functions that have it, and no IOMMU group is known, so no IOMMU driver asked for "
        "it; taken as it would be with an IOMMU"
    )
    asked = Topology([function("00:01.0", off), function("01:00.0", DEVICE, group="4")])
    assert asked.acs_path(rid("01:00.0")).ok is False, "an IOMMU group shows that a driver asked"


# --- the kernel's functions, written down again ---------------------------------------------------------------------

KINDS = st.sampled_from(
    [PortType.ROOT_PORT, PortType.UPSTREAM_PORT, PortType.DOWNSTREAM_PORT, PortType.PCIE_TO_PCI_BRIDGE]
)
PORTS = st.lists(
    st.tuples(KINDS, st.booleans(), st.sampled_from(["none", "on", "off"]), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=200, deadline=None)
@given(PORTS, st.booleans())
def test_paths_are_those_of_the_kernels_loops(ports: list[tuple[PortType, bool, str, bool]], own: bool) -> None:
    spaces = {}
    for bus, (kind, prefix, has, several) in enumerate(ports):
        extended = [] if has == "none" else [acs(on=has == "on")]
        header = bridge(bus + 1, len(ports), multi_function=several)
        spaces[f"{bus:02x}:00.0"] = config(header, kind, extended, prefix=prefix)
    name = f"{len(ports):02x}:00.0"
    spaces[name] = config(endpoint(), PortType.ENDPOINT, [pasid()], prefix=own)
    known = [function(at, data, group="1") for at, data in spaces.items()]
    tree = Topology(known)
    assert tree.prefix_path(rid(name)).ok is prefix_loop(ports, own)
    assert tree.acs_path(rid(name)).ok is acs_loop(ports)


def prefix_loop(ports: list[tuple[PortType, bool, str, bool]], own: bool) -> bool:
    """Go down from the root, as Linux probes: pci_configure_eetlp_prefix()."""
    path = False
    for kind, prefix, _, _ in ports:
        path = prefix and (kind is PortType.ROOT_PORT or path)
    return own and path


def acs_loop(ports: list[tuple[PortType, bool, str, bool]]) -> bool:
    """Go up from the device: pci_acs_path_enabled()."""
    for kind, _, has, several in reversed(ports):
        if kind is PortType.PCIE_TO_PCI_BRIDGE:
            return False
        if (kind is not PortType.UPSTREAM_PORT or several) and has != "on":
            return False
    return True


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_machine_with_pasids_says_what_its_devices_can_do() -> None:
    endpoints, said = said_of(MADE)
    first, second, dsa, iaa = (endpoints[name] for name in ("01:00.0", "04:00.0", "6a:01.0", "6a:02.0"))
    keys = ("kind", "pasid_bits", "ats", "pri", "prg_pasid", "prefix_path", "acs_path", "pasid_enabled")
    assert [value(first, key) for key in keys] == ["pcie", 20, True, True, True, True, True, True]
    assert [value(second, key) for key in keys] == ["pcie", 16, False, True, False, False, False, None]
    assert [value(dsa, key) for key in keys] == ["dsa", 20, True, True, True, True, True, None]
    assert [value(iaa, key) for key in keys] == ["iaa", 20, False, False, None, False, True, None]
    assert first.parent == rid("00:01.0")
    assert dsa.parent is None
    assert [(finding.rule.id, finding.facts["device"]) for finding in said.findings] == [
        ("pci.no-tlp-prefix-path", "0000:04:00.0"),
        ("pci.no-acs-path", "0000:04:00.0"),
        ("pci.no-tlp-prefix-path", "0000:6a:02.0"),
    ]


def test_values_say_where_they_come_from() -> None:
    endpoints, _ = said_of(MADE)
    origins = {key: known.origin for key, known in endpoints["04:00.0"].keys.items()}
    assert origins == {
        "kind": "dump, 0000:04:00.0, vendor and device 1b36:1102",
        "ats": "dump, 0000:04:00.0, ATS capability: none",
        "pri": "dump, 0000:04:00.0, offset 0x140, PRI capability",
        "prg_pasid": "dump, 0000:04:00.0, offset 0x140, PRI capability, PRG Response PASID Required",
        "pasid_bits": "dump, 0000:04:00.0, offset 0x100, PASID capability, Max PASID Width 16",
        "prefix_path": "dump: 0000:02:00.0 does not support end-to-end TLP prefixes",
        "acs_path": "dump: 0000:03:00.0 has no ACS",
    }
    assert endpoints["6a:01.0"].keys["acs_path"].origin == "dump: all on the path to the root have it"


def test_findings_name_the_port_that_is_to_blame() -> None:
    _, said = said_of(MADE)
    prefix, redirect, own = said.findings
    assert prefix.why == (
        "dump: 0000:04:00.0 has PASIDs, but they cannot reach the IOMMU: 0000:02:00.0 does not support end-to-end TLP "
        "prefixes, so pci_enable_pasid() fails"
    )
    assert redirect.why == (
        "dump: 0000:04:00.0 has PASIDs, but not all it sends reaches the IOMMU: 0000:03:00.0 has no ACS, so "
        "pci_enable_pasid() fails"
    )
    assert "cannot reach the IOMMU: it does not support end-to-end TLP prefixes" in own.why
    assert all(finding.rule.remedy for finding in said.findings)


def test_virtual_functions_say_whose_they_are_and_have_no_width() -> None:
    endpoints, _ = said_of(MADE)
    for name in ("01:00.1", "01:00.2"):
        virtual = endpoints[name]
        assert value(virtual, "physfn") == "0000:01:00.0"
        assert value(virtual, "ats") is True
        assert value(virtual, "pri") is True, "that of the physical function"
        assert value(virtual, "pasid_bits") is None
        assert virtual.parent == rid("00:01.0")


def test_bridges_are_endpoints_without_a_kind() -> None:
    endpoints, _ = said_of(MADE)
    assert endpoints["00:01.0"].keys == {}
    said = functions_say([function("00:01.0", ROOT_PORT, group="3")], "sysfs")
    assert value(said.endpoints[0], "group") == "group3"
    assert said.endpoints[0].keys["group"].origin == "dump, 00:01.0, IOMMU group 3"


def test_pasids_that_are_on_prove_their_path() -> None:
    on = config(endpoint(), PortType.ENDPOINT, [pasid(enable=1)], prefix=False)
    endpoints, said = said_of({"00:01.0": ROOT_PORT, "01:00.0": on})
    assert value(endpoints["01:00.0"], "pasid_enabled") is True
    assert value(endpoints["01:00.0"], "prefix_path") is True
    (finding,) = said.findings
    assert finding.rule.id == "pci.enabled-all-the-same"
    assert finding.why == (
        "dump: PASID is enabled at 0000:01:00.0 although it does not support end-to-end TLP prefixes; Linux, or "
        "firmware, knows better, and both paths are taken as good"
    )


def test_a_port_that_blocks_prefixes_is_a_finding() -> None:
    blocking = config(bridge(1, 1), PortType.ROOT_PORT, [acs()], blocking=True)
    endpoints, said = said_of({"00:01.0": blocking, "01:00.0": DEVICE})
    assert value(endpoints["01:00.0"], "prefix_path") is True, "Linux does not look"
    (finding,) = said.findings
    assert finding.why == (
        "dump: 0000:01:00.0 has PASIDs, and 0000:00:01.0 blocks end-to-end TLP prefixes; Linux does not look, so "
        "PASIDs are enabled, and do not arrive"
    )


def test_functions_that_were_not_read_are_one_finding() -> None:
    spaces = {name: data[:64] for name, data in MADE.items()}
    endpoints, said = said_of(spaces)
    assert all(
        "pasid_bits" not in one.keys and "ats" not in one.keys
        for one in endpoints.values()
        if one.name[-7:] != "00:00.0"
    )
    (finding,) = said.findings
    assert finding.why == (
        "dump: of 10 of 11 functions the capabilities are not all known; the first is 0000:00:01.0: 64 bytes were read"
    )


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        (0x0B25, "dsa"),
        (0x11FB, "dsa"),
        (0x1212, "dsa"),
        (0x0CFE, "iaa"),
        (0x1216, "iaa"),
        (0xB02D, "iaa"),
        (0xFD2D, "iaa"),
        (0x0B26, "pcie"),
    ],
)
def test_what_the_idxd_driver_takes_is_a_dsa_or_an_iaa(device: int, kind: str) -> None:
    assert function("6a:01.0", config(endpoint(0x8086, device))).kind == kind
    assert function("6a:01.0", config(endpoint(0x1022, device))).kind == "pcie"


def test_a_text_without_numbers_does_not_say_what_a_device_is() -> None:
    text = """\
6a:01.0 System peripheral: Intel Corporation Data Streaming Accelerator
\tCapabilities: [40] Express (v2) Root Complex Integrated Endpoint, MSI 00
\tCapabilities: [220 v1] Process Address Space ID (PASID)
\t\tPASIDCap: Exec- Priv+, Max PASID Width: 14
\t\tPASIDCtl: Enable- Exec- Priv-
"""
    said = functions_say(read_lspci(text), "lspci")
    assert "kind" not in said.endpoints[0].keys
    (finding,) = said.findings
    assert finding.why == (
        "lspci: 0000:6a:01.0 has PASIDs, and its vendor and device numbers are not printed, so it may be a DSA or "
        "an IAA"
    )


def test_an_emulated_machine_is_as_its_command_line_says() -> None:
    text = gzip.decompress((DATA / "q35-xxxx.txt.gz").read_bytes()).decode()
    tree = Topology(read_lspci(text))
    assert [str(at)[5:] for at in tree.path(rid("03:00.0"))] == ["03:00.0", "02:00.0", "01:00.0", "00:02.0"]
    assert tree.prefix_path(rid("03:00.0")).ok is True
    assert tree.acs_path(rid("03:00.0")) == Way(False, rid("02:00.0"), "has no ACS")
    assert [tree.physfn(rid(f"04:00.{number}")) for number in (0, 1, 2)] == [None, rid("04:00.0"), rid("04:00.0")]
    assert tree.acs_path(rid("04:00.2")).ok is True


# --- sysfs ----------------------------------------------------------------------------------------------------------


class Files:
    """A tree of files in memory."""

    name = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self.listed: list[str] = []

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def names(self, path: str) -> list[str]:
        return sorted(self.listed) if path == "sys/bus/pci/devices" else []

    def link(self, path: str) -> str | None:
        return self.links.get(path)

    def add(self, above: str, name: str, data: bytes, **links: str) -> str:
        """Add a function below a directory of sys/devices, and return its own."""
        place = f"{above}/{name}"
        self.listed.append(name)
        self.links[f"sys/bus/pci/devices/{name}"] = f"../../../{place.removeprefix('sys/')}"
        self.files[f"{place}/config"] = data
        self.links |= {f"{place}/{key}": target for key, target in links.items()}
        return place


def host() -> Files:
    """Return the files of a host with a root port, a function behind it, and a virtual one."""
    tree = Files()
    pf = config(endpoint(), PortType.ENDPOINT, [pasid(20), pri()])
    vf = config(endpoint(0xFFFF, 0xFFFF), PortType.ENDPOINT, [ats()])
    port = tree.add("sys/devices/pci0000:00", "0000:00:01.0", ROOT_PORT, iommu_group="../../../kernel/iommu_groups/1")
    own = {"driver": "../../../../bus/pci/drivers/hisi_zip", "iommu_group": "../../../../kernel/iommu_groups/2"}
    tree.add(port, "0000:01:00.0", pf, **own)
    place = tree.add(port, "0000:01:00.1", vf, physfn="../0000:01:00.0")
    tree.files |= {f"{place}/vendor": b"0x19e5\n", f"{place}/device": b"0xa251\n", f"{place}/class": b"0x120000\n"}
    tree.listed.append("not a function")
    return tree


def test_sysfs_says_what_functions_are_and_where() -> None:
    port, pf, vf = functions_of(host())
    assert (port.parent, port.at_root, port.group) == (None, True, "1")
    assert (pf.parent, pf.at_root, pf.driver, pf.group) == (rid("00:01.0"), False, "hisi_zip", "2")
    assert (vf.physfn, vf.vendor_id, vf.device_id) == (rid("01:00.0"), 0x19E5, 0xA251)
    assert vf.config.header.class_code == 0x120000
    said = functions_say(functions_of(host()), "sys/bus/pci/devices")
    endpoints = {one.name: one for one in said.endpoints}
    assert value(endpoints["0000:01:00.1"], "physfn") == "0000:01:00.0"
    assert endpoints["0000:01:00.1"].keys["physfn"].origin == "sys/bus/pci/devices/0000:01:00.1, physfn"
    assert value(endpoints["0000:01:00.0"], "acs_path") is True
    assert endpoints["0000:01:00.0"].keys["pasid_bits"].origin == (
        "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/config, offset 0x100, PASID capability, Max PASID Width 20"
    )
    assert said.findings == []


def test_a_capture_without_the_links_targets_is_read_at_the_links() -> None:
    tree = Files()
    tree.listed = ["0000:00:01.0"]
    tree.files["sys/bus/pci/devices/0000:00:01.0/config"] = ROOT_PORT
    (port,) = functions_of(tree)
    assert port.buses == (1, 1)
    tree.links["sys/bus/pci/devices/0000:00:01.0"] = "../../../devices/pci0000:00/0000:00:01.0"
    (port,) = functions_of(tree)
    assert (port.buses, port.at_root) == ((1, 1), True)


def test_64_bytes_in_sysfs_still_tell_what_a_function_is() -> None:
    tree = host()
    tree.files = {path: data[:64] for path, data in tree.files.items()}
    said = functions_say(functions_of(tree), "sys/bus/pci/devices")
    assert [value(one, "kind") for one in said.endpoints] == [None, "pcie", "pcie"]
    (finding,) = said.findings
    assert finding.rule.id == "pci.unreadable"


def test_256_bytes_in_sysfs_are_the_kernels_limit() -> None:
    tree = host()
    tree.files = {path: data[:256] for path, data in tree.files.items()}
    (finding,) = functions_say(functions_of(tree), "sys/bus/pci/devices").findings
    assert finding.why == (
        "sys/bus/pci/devices: of 3 of 3 functions the capabilities are not all known; the first is 0000:00:01.0: "
        "256 bytes were read, which is all where the kernel has no access to more"
    )


def test_a_function_without_config_is_a_finding() -> None:
    tree = host()
    del tree.files["sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/config"]
    vf = functions_of(tree)[2]
    assert vf.device_id == 0xA251
    (finding,) = vf.config.findings
    assert finding.why == (
        "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/config: 0 bytes, which are no configuration space; only the "
        "files beside it are read"
    )


def test_links_that_go_round_are_walked_once() -> None:
    tree = Files()
    for name, above in (("0000:01:00.0", "0000:02:00.0"), ("0000:02:00.0", "0000:01:00.0")):
        tree.add(f"sys/devices/pci0000:00/{above}", name, DEVICE)
    said = functions_say(functions_of(tree), "sys/bus/pci/devices")
    assert len(said.endpoints) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 0x3F),
            st.integers(0, 5),
            st.integers(0, 5),
            st.sampled_from(list(PortType)),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_any_functions_say_something(made: list[tuple[int, int, int, PortType, int, int, int]]) -> None:
    known: list[Function] = []
    for number, secondary, subordinate, kind, count, offset, stride in made:
        address = f"{number >> 3:02x}:00.{number & 7}"
        data = config(bridge(secondary, subordinate), kind, [pasid(), sriov(count, offset, stride), acs()])
        known.append(function(address, data))
    said = functions_say(known, "any")
    assert len(said.endpoints) == len({one.rid for one in known})
    assert all(finding.why for finding in said.findings)

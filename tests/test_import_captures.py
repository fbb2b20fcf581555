"""Captures of real Linux kernels, which ran in virtual machines: what comes of them, and that their sources agree.

How each was made: tests/data/platforms/captures/README.md.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pasidlab.audit import audit, compare
from pasidlab.platforms import Imported, import_machine, load_machine
from pasidlab.platforms.host.manifest import NAME
from pasidlab.platforms.host.trees import open_tree
from pasidlab.platforms.pci.sysfs import functions
from pasidlab.platforms.pci.topology import Topology
from pasidlab.platforms.pci.words import PasidCapability
from pasidlab.runner import run
from pasidlab.scenario import Scenario

DATA = Path(__file__).parent / "data" / "platforms" / "captures"
CAPTURES = sorted(path.name.removesuffix(".tar.gz") for path in DATA.glob("*.tar.gz"))
PCI, GROUPS = "sys/bus/pci/devices", "sys/kernel/iommu_groups"
SMMU = "smmu3.0x0000000009050000"
IORT = {"iort.overlap", "iort.rc-no-ats"}
NO_ACS = "pci.no-acs-path"


class Expected(NamedTuple):
    """What an import of all devices gives.

    Attributes:
        off: devices behind no IOMMU.
    """

    kernel: str
    cmdline: str
    iommu: tuple[str, str, str]
    keys: dict[str, Any]
    devices: int
    off: list[str]
    groups: int
    findings: set[str]


SCALABLE_UNIT = {
    "pasid_bits": 1,
    "scalable": True,
    "sva": False,
    "five_level": False,
    "caching_mode": True,
    "ats": False,
}
ATS_UNIT = {"pasid_bits": 0, "scalable": False, "sva": False, "caching_mode": False, "ats": True, "pri": False}
LOGGED_SMMU = {
    "pasid_bits": 20,
    "two_level": False,
    "stall": False,
    "ats": False,
    "pri": False,
    "httu": 0,
}
EXPECTED = {
    "vtd-scalable": Expected(
        "v6.12", "intel_iommu=on,sm_on", ("dmar0", "intel-vtd", "usual"), SCALABLE_UNIT, 20, [], 14, {NO_ACS}
    ),
    "vtd-legacy": Expected(
        "v6.12",
        "intel_iommu=on,sm_off",
        ("dmar0", "intel-vtd", "usual"),
        SCALABLE_UNIT | {"scalable": False},
        20,
        [],
        14,
        {"kernel.scalable-mode-off", NO_ACS},
    ),
    "vtd-user": Expected(
        "v6.12",
        "intel_iommu=on,sm_on",
        ("dmar0", "intel-vtd", "usual"),
        SCALABLE_UNIT,
        20,
        [],
        14,
        {"pci.unreadable"},
    ),
    "vtd-off": Expected(
        "v6.12",
        "intel_iommu=off pci=noats",
        ("dmar0", "intel-vtd", "usual"),
        ATS_UNIT | {"ats": False},
        20,
        ["all"],
        0,
        {"kernel.iommu-off", "kernel.ats-off", "pci.acs-not-asked", NO_ACS},
    ),
    "vtd-ats": Expected("v7.0", "intel_iommu=on", ("dmar0", "intel-vtd", "usual"), ATS_UNIT, 20, [], 14, {NO_ACS}),
    "vtd-7.2": Expected("v7.0", "intel_iommu=on", ("dmar0", "intel-vtd", "usual"), SCALABLE_UNIT, 20, [], 14, {NO_ACS}),
    "amd": Expected(
        "v6.12",
        "iommu=pt",
        ("ivhd0", "mock", "amd-vi"),
        {"pasid_bits": 1, "max_pasids": 1, "sva": False},
        21,
        ["0000:00:01.0"],
        14,
        {NO_ACS},
    ),
    "smmu-dt": Expected(
        "v6.12",
        "",
        (SMMU, "arm-smmu-v3", "usual"),
        LOGGED_SMMU,
        12,
        [],
        3,
        {"import.width-assumed", NO_ACS},
    ),
    "smmu-acpi": Expected(
        "v6.12",
        "iommu.passthrough=1",
        (SMMU, "arm-smmu-v3", "usual"),
        LOGGED_SMMU,
        14,
        [],
        11,
        {*IORT, "import.width-assumed", NO_ACS},
    ),
    "smmu-acpi-7.2": Expected(
        "v7.0", "", (SMMU, "arm-smmu-v3", "usual"), LOGGED_SMMU, 14, [], 13, {*IORT, "import.width-assumed"}
    ),
    "virtio-acpi": Expected(
        "v6.12", "", ("0000:00:01.0", "mock", "riscv"), {"pasid_bits": 0, "sva": False}, 15, ["0000:00:01.0"], 11, set()
    ),
    "virtio-dt": Expected(
        "v7.0", "", ("0000:00:01.0", "mock", "riscv"), {"pasid_bits": 0, "sva": False}, 13, ["0000:00:01.0"], 11, set()
    ),
}


WITHOUT_PASIDS = {"vtd-user", "smmu-acpi-7.2", "virtio-acpi", "virtio-dt"}
"""Captures in which no device shows PASIDs."""


def archive(name: str) -> Path:
    return DATA / f"{name}.tar.gz"


@cache
def imported(name: str) -> Imported:
    return import_machine([archive(name)], every=True)


@cache
def links(name: str) -> dict[str, str]:
    with tarfile.open(archive(name)) as tar:
        stream = tar.extractfile(NAME)
        assert stream is not None
        found: dict[str, str] = json.load(stream)["links"]
    return found


def unpacked(name: str, into: Path) -> Path:
    with tarfile.open(archive(name)) as tar:
        tar.extractall(into, filter="data")
    return into


def behind(one: Imported) -> dict[str, str]:
    return {device.name: device.iommu for device in one.spec.device if device.iommu is not None}


def keys(spec: Any, names: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(spec, key) for key in names}


NO_DRIVER = {
    "smmu-dt": ["0000:00:00.0", "0000:00:04.0"],
    "smmu-acpi": ["0000:00:00.0", "0000:00:04.0"],
    "virtio-acpi": ["0000:00:00.0", "0000:00:05.0"],
}
"""Functions without a driver, of which arm64 kernels before 6.15 do not ask firmware: they do when a driver binds."""


def test_each_capture_is_expected() -> None:
    assert set(CAPTURES) == set(EXPECTED)


@pytest.mark.parametrize("name", CAPTURES)
class TestACapture:
    def test_becomes_the_machine_that_it_was_taken_of(self, name: str) -> None:
        spec, expected = imported(name).spec, EXPECTED[name]
        assert (spec.kernel, spec.cmdline) == (expected.kernel, expected.cmdline)
        assert [(one.name, one.model, one.ops.value) for one in spec.iommu] == [expected.iommu]
        assert keys(spec.iommu[0], expected.keys) == expected.keys
        names = [one.name for one in spec.device]
        assert len(names) == expected.devices
        off = [one for one in names if one not in behind(imported(name))]
        assert off == (names if expected.off == ["all"] else expected.off)
        assert len({one.group for one in spec.device} - {None}) == expected.groups

    def test_has_the_findings_that_its_machine_deserves(self, name: str) -> None:
        found = {finding.rule.id for finding in imported(name).findings}
        assert found - {"import.property-unknown"} == EXPECTED[name].findings

    def test_has_each_device_behind_the_iommu_and_in_the_group_of_its_links(self, name: str) -> None:
        shown = links(name)
        iommus = {
            path.split("/")[-2]: target.rsplit("/", 1)[1]
            for path, target in shown.items()
            if path.startswith(f"{PCI}/") and path.endswith("/iommu")
        }
        groups = {
            path.rsplit("/", 1)[1]: f"group{path.split('/')[3]}" for path in shown if path.startswith(f"{GROUPS}/")
        }
        assert set(iommus) == set(groups)
        assert bool(iommus) == (name != "vtd-off")
        devices = {one.name: one for one in imported(name).spec.device}
        assert {device: devices[device].group for device in groups} == groups
        assert {device: devices[device].iommu for device in iommus} == iommus

    def test_says_the_same_unpacked(self, name: str, tmp_path: Path) -> None:
        again = import_machine([unpacked(name, tmp_path)], every=True)
        assert again.spec == imported(name).spec
        assert [finding.why for finding in again.findings] == [finding.why for finding in imported(name).findings]

    def test_written_as_toml_loads_and_runs_and_can_be_audited(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "machine.toml"
        path.write_text(imported(name).text)
        spec = load_machine(path)
        assert spec.iommu == imported(name).spec.iommu
        assert spec.device == imported(name).spec.device
        assert isinstance(spec, Scenario)
        assert [report.steps for report in run(spec)] == [[]]
        assert audit(spec).spec == spec

    def test_keeps_what_carries_pasids_and_the_others_of_its_group(self, name: str) -> None:
        kept = import_machine([archive(name)])
        widths = {one.name: one.pasid_bits for one in kept.spec.device if one.pasid_bits is not None}
        assert sorted(widths.values()) == ([] if name in WITHOUT_PASIDS else [10, 20, 20])
        assert len(kept.spec.device) + kept.left_out == EXPECTED[name].devices


@pytest.mark.parametrize("name", sorted(set(CAPTURES) - WITHOUT_PASIDS))
def test_linux_enabled_pasids_just_where_the_paths_to_the_root_let_it(name: str) -> None:
    found = list(functions(open_tree(archive(name))))
    topology = Topology(found)
    carrying = {one.rid: one.config.get(PasidCapability) for one in found}
    paths = {
        str(rid): (topology.prefix_path(rid).ok, topology.acs_path(rid).ok)
        for rid, capability in carrying.items()
        if capability is not None
    }
    enabled = {str(rid) for rid, capability in carrying.items() if capability is not None and capability.enable}
    drives, network = PASID_FUNCTIONS[name.split("-")[0]]
    isolated = name != "smmu-dt"
    assert paths == dict.fromkeys(drives, (True, isolated)) | {network: (True, False)}
    asked = name in ("vtd-scalable", "vtd-7.2") or name.startswith("smmu")
    assert enabled == ({device for device, path in paths.items() if path == (True, True)} if asked else set())


PASID_FUNCTIONS = {
    "vtd": (["0000:01:00.0", "0000:06:00.0"], "0000:04:00.0"),
    "amd": (["0000:01:00.0", "0000:06:00.0"], "0000:04:00.0"),
    "smmu": (["0000:01:00.0", "0000:05:00.0"], "0000:04:00.0"),
}
"""The two drives, and the network device behind the switch without ACS, by the first word of a capture's name."""


@pytest.mark.parametrize("name", sorted(set(CAPTURES) - {"vtd-off", "vtd-user"}))
def test_firmware_and_configuration_space_put_each_device_behind_the_same_iommu_as_sysfs(
    name: str, tmp_path: Path
) -> None:
    root = unpacked(name, tmp_path)
    configs = sorted(root.glob(f"{PCI}/*/config"))
    tables = [path for path in sorted(root.glob("sys/firmware/acpi/tables/*")) if path.name != "RHCT"]
    firmware = tables or [root / "sys/firmware/fdt"]
    by_firmware = behind(import_machine([*firmware, *configs], every=True))
    iommus = set(by_firmware.values())
    assert len(iommus) == 1
    by_sysfs = {path.split("/")[-2] for path in links(name) if path.startswith(f"{PCI}/") and path.endswith("/iommu")}
    assert len(configs) == EXPECTED[name].devices
    assert by_sysfs <= set(by_firmware)
    assert sorted(set(by_firmware) - by_sysfs) == NO_DRIVER.get(name, [])


def test_a_kernel_without_scalable_mode_differs_from_one_with_it_in_just_that() -> None:
    scalable, legacy = (audit(imported(name).spec) for name in ("vtd-scalable", "vtd-legacy"))
    told = [(one.kind, one.name, one.key, one.first, one.second) for one in compare(scalable, legacy)]
    why = "scalable mode of VT-d is off by proc/cmdline, intel_iommu=on,sm_off, without which it has no PASIDs"
    assert ("iommu", "dmar0", "scalable", True, False) in told
    assert ("finding", "kernel.scalable-mode-off", "", "absent", why) in told
    assert {one[0] for one in told} == {"command line", "iommu", "device", "row", "finding"}
    assert {one[2] for one in told if one[0] == "iommu"} == {"scalable"}


def test_an_audit_refuses_sva_where_the_kernel_itself_logged_that_it_does() -> None:
    with tarfile.open(archive("vtd-scalable")) as tar:
        stream = tar.extractfile("var/log/dmesg")
        assert stream is not None
        log = stream.read().decode()
    assert "dmar0 SVM disabled, incompatible 1GB page capability" in log
    limits = {row.device: row.limit.fact for row in audit(imported("vtd-scalable").spec).rows}
    assert limits["0000:06:00.0"].startswith("SVM disabled, incompatible 1GB page capability")


def test_where_linux_drives_no_iommu_no_device_is_behind_one() -> None:
    off = imported("vtd-off")
    assert behind(off) == {}
    rows = {row.device: row.limit.kind.value for row in audit(off.spec).rows}
    assert set(rows.values()) == {"no IOMMU"}


def test_without_root_the_same_machine_comes_but_for_what_capabilities_say() -> None:
    user, root = imported("vtd-user").spec, imported("vtd-scalable").spec
    assert user.iommu == root.iommu
    assert user.config == root.config
    assert behind(imported("vtd-user")) == behind(imported("vtd-scalable"))
    assert [one.group for one in user.device] == [one.group for one in root.device]


def test_debians_kernels_tell_which_of_them_can_have_sva() -> None:
    options = {name: imported(name).spec.config for name in CAPTURES}
    assert {name for name, config in options.items() if config["IOMMU_SVA"]} == {
        "vtd-scalable",
        "vtd-legacy",
        "vtd-user",
        "vtd-off",
        "vtd-ats",
        "vtd-7.2",
        "amd",
    }
    assert all(options[name]["ARM_SMMU_V3_SVA"] is False for name in ("smmu-dt", "smmu-acpi", "smmu-acpi-7.2"))


def test_captures_are_small_and_name_nobody() -> None:
    for name in CAPTURES:
        data = archive(name).read_bytes()
        assert len(data) < 20_000
        assert b"hostname" not in gzip.decompress(data)

"""What no source tells is not known, which an import says, and an audit and an explanation do not take for absent."""

import errno
import json
import shutil
from io import StringIO
from pathlib import Path

import pytest

from pasidlab.audit import Kind, audit
from pasidlab.description import MachineSpec
from pasidlab.description.unknown import Unknown
from pasidlab.errors import InputError
from pasidlab.explain import Question, Standing, explain
from pasidlab.platforms import Imported, import_machine, load_machine
from pasidlab.platforms.host.capture import capture
from pasidlab.platforms.host.trees import HostTree, open_tree
from pasidlab.report.machine import machine_text
from tests.example_host import DMA, GPU, NPU, SMMU, make_board
from tests.host_files import link, write
from tests.pci_machine import config, endpoint, pasid

FDT = "sys/firmware/fdt"
DATA = Path(__file__).parent / "data" / "platforms"
NODES = {NPU: "npu@2c000000", DMA: "dma@2d000000"}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def captured(board: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("captured") / "whole"
    capture(board, place)
    return place


@pytest.fixture
def refused(captured: Path, tmp_path: Path) -> Path:
    """The capture of somebody who may not read the device tree."""
    return without(captured, tmp_path / "refused", [FDT])


def without(captured: Path, place: Path, paths: list[str]) -> Path:
    """A copy of a capture in which some files could not be read."""
    shutil.copytree(captured, place)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"] = [entry for entry in manifest["files"] if entry["path"] not in paths]
    manifest["missing"] += [{"path": path, "reason": "Permission denied"} for path in paths]
    for path in paths:
        (place / path).unlink(missing_ok=True)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def whys(imported: Imported, rule: str) -> list[str]:
    return [finding.why for finding in imported.findings if finding.rule.id == rule]


def with_nodes(board: Path, place: Path, properties: dict[str, dict[str, bytes]]) -> Path:
    """The board without its blob, whose nodes are shown below of_node as users see them."""
    shutil.copytree(board, place, symlinks=True)
    (place / FDT).unlink()
    for device, node in NODES.items():
        shown = {"compatible": b"acme,it\0", **properties.get(device, {})}
        for name, content in shown.items():
            write(place, f"sys/firmware/devicetree/base/{node}/{name}", content)
    return place


class TestAFileThatCouldNotBeRead:
    def test_is_one_finding_with_its_path_the_reason_and_what_is_not_known(self, refused: Path) -> None:
        (why,) = whys(import_machine([refused]), "capture.incomplete")
        assert why == (
            "sys/firmware/fdt was not read (Permission denied): it is not known which PASIDs (pasid-num-bits) and "
            "stalls firmware gives platform devices, and where ATS is allowed"
        )

    def test_counts_together_with_others_of_its_kind(self, captured: Path, tmp_path: Path) -> None:
        tables = [f"sys/firmware/acpi/tables/{name}" for name in ("IORT", "DMAR", "IORT1")]
        found = whys(import_machine([without(captured, tmp_path / "x", tables)]), "capture.incomplete")
        assert [why.partition(" (")[0] for why in found] == [
            "sys/firmware/acpi/tables/IORT and 1 more like it were not read",
            "sys/firmware/acpi/tables/DMAR was not read",
        ]

    def test_is_none_where_all_was_read_or_another_file_tells_the_same(self, captured: Path, tmp_path: Path) -> None:
        assert whys(import_machine([captured]), "capture.incomplete") == []
        other = without(captured, tmp_path / "other", ["boot/config-7.3.4", "dmesg"])
        assert whys(import_machine([other]), "capture.incomplete") == []

    def test_is_the_log_where_an_smmu_shows_its_features_there_only(self, captured: Path, tmp_path: Path) -> None:
        (why,) = whys(
            import_machine([without(captured, tmp_path / "x", ["dmesg", "var/log/dmesg"])]), "capture.incomplete"
        )
        assert why.startswith("dmesg was not read (Permission denied): it is not known which features the SMMUs have")

    def test_is_found_on_a_running_host_too(self, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        get = HostTree.get

        def refuse(tree: HostTree, path: str, most: int = 1 << 20) -> bytes:
            if path == FDT:
                raise PermissionError(errno.EACCES, "Permission denied")
            return get(tree, path, most)

        monkeypatch.setattr(HostTree, "get", refuse)
        assert len(whys(import_machine([board]), "capture.incomplete")) == 1

    def test_is_there_to_be_seen_as_on_the_host_and_cannot_be_read(self, refused: Path) -> None:
        tree = open_tree(refused)
        assert "fdt" in tree.names("sys/firmware")
        assert tree.read(FDT) is None
        assert [one.path for one in tree.missing] == [FDT]


class TestAPlatformDeviceThatNoSourceTellsOf:
    def test_is_a_finding_each_by_name(self, refused: Path) -> None:
        imported = import_machine([refused])
        assert whys(imported, "import.property-unknown") == [
            f"{name}: no source tells its pasid-num-bits, so it is not known how many PASIDs it has, if any"
            for name in (NPU, DMA)
        ]
        assert set(Unknown.of(imported.spec.finding).pasids) == {NPU, DMA}

    def test_has_no_finding_where_the_device_tree_was_read(self, captured: Path) -> None:
        assert whys(import_machine([captured]), "import.property-unknown") == []

    def test_is_not_said_to_lack_the_property_by_an_audit(self, refused: Path, captured: Path) -> None:
        def rules(path: Path) -> set[str]:
            return {finding.rule.id for finding in audit(load_machine(path)).findings}

        assert "audit.no-pasid-property" in rules(captured)
        assert rules(refused) >= {"import.property-unknown", "capture.incomplete"}
        assert "audit.no-pasid-property" not in rules(refused)

    def test_is_not_shown_to_carry_no_pasid_by_an_explanation(self, refused: Path, captured: Path) -> None:
        shown = cause_of(load_machine(captured), DMA, "bind.device-without-pasids")
        assert shown[0] is Standing.SHOWN
        standing, fact = cause_of(load_machine(refused), DMA, "bind.device-without-pasids")
        assert standing is Standing.OPEN
        assert fact.startswith(f"{DMA}: no source tells its pasid-num-bits")

    def test_does_not_hide_what_else_can_be_the_cause(self, refused: Path) -> None:
        assert cause_of(load_machine(refused), NPU, "bind.no-number-free")[0] is Standing.FITS
        answer = explain(Question("bind", "ENOSPC", load_machine(refused), NPU))
        assert any(note.startswith("the model takes it for a device with 20 bits of PASIDs: ") for note in answer.notes)

    def test_may_be_meant_where_no_device_is_named(self, refused: Path) -> None:
        with pytest.raises(InputError, match=f"must name one of .*{NPU}"):
            explain(Question("bind", None, load_machine(refused)))

    def test_bounds_a_group_by_what_is_not_known(self, refused: Path) -> None:
        imported = import_machine([refused])
        devices = [
            {"name": name, "iommu": SMMU, "group": "g", "kind": "narrow"} | ({"pasid_bits": 4} if name == GPU else {})
            for name in (GPU, DMA)
        ]
        told = [{"rule": found.rule, "why": found.why} for found in imported.spec.finding]
        raw = {"kernel": "v6.12", "iommu": [{"name": SMMU}], "device": devices, "finding": told}
        rows = {row.device: row for row in audit(machine(raw)).rows}
        assert rows[DMA].limit.kind is Kind.UNKNOWN
        assert rows[DMA].limit.fact.startswith(f"{DMA}: no source tells")
        assert "group.member-without" not in {found.rule.id for found in audit(machine(raw)).findings}


def machine(raw: dict[str, object]) -> MachineSpec:
    from pasidlab.decode import convert

    return convert(raw, MachineSpec)


def cause_of(spec: MachineSpec, device: str, rule: str) -> tuple[Standing, str]:
    answer = explain(Question("bind", None, spec, device))
    return next((cause.standing, cause.fact) for cause in answer.causes if cause.rule.id == rule)


class TestTheNodeOfAPlatformDeviceThatUsersSee:
    @pytest.fixture(params=["host", "capture"])
    def shown(self, board: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        properties = {NPU: {"pasid-num-bits": b"\0\0\0\x05", "dma-can-stall": b""}}
        host = with_nodes(board, tmp_path / "host", properties)
        if request.param == "capture":
            capture(host, tmp_path / "taken")
        return host if request.param == "host" else tmp_path / "taken"

    def test_tells_what_the_blob_would(self, shown: Path) -> None:
        imported = import_machine([shown])
        devices = {one.name: (one.pasid_bits, one.can_stall) for one in imported.spec.device}
        assert (devices[NPU], devices[DMA]) == ((5, True), (None, False))
        assert f"sys/bus/platform/devices/{NPU}/of_node/pasid-num-bits 5" in imported.text

    def test_leaves_nothing_unknown(self, shown: Path) -> None:
        assert whys(import_machine([shown]), "import.property-unknown") == []
        answer = cause_of(load_machine(shown), DMA, "bind.device-without-pasids")
        assert answer[0] is Standing.SHOWN

    @pytest.mark.parametrize(("raw", "bits"), [(b"\0\0", None), (b"\0\0\0\x19", 20), (b"\0\0\0\x20", 0)])
    def test_is_taken_as_linux_takes_it(self, board: Path, tmp_path: Path, raw: bytes, bits: int | None) -> None:
        host = with_nodes(board, tmp_path / "host", {NPU: {"pasid-num-bits": raw}})
        npu = next(one for one in import_machine([host]).spec.device if one.name == NPU)
        assert npu.pasid_bits == bits

    def test_is_not_believed_of_a_property_that_could_not_be_read(self, board: Path, tmp_path: Path) -> None:
        shown = tmp_path / "taken"
        capture(with_nodes(board, tmp_path / "host", {NPU: {"pasid-num-bits": b"\0\0\0\x05"}}), shown)
        path = f"sys/bus/platform/devices/{NPU}/of_node/pasid-num-bits"
        imported = import_machine([without(shown, tmp_path / "less", [path])])
        assert len(whys(imported, "import.property-unknown")) == 1
        assert whys(imported, "capture.incomplete")[0].startswith(f"{path} was not read")


class TestAFunctionWhoseCapabilitiesWereNotRead:
    def test_is_told_of_where_explain_does_not_find_it(self) -> None:
        spec = load_machine(DATA / "captures" / "vtd-user.tar.gz")
        left_out = r"no such device; .*not known to have PASIDs: .*functions the capabilities are not all known"
        with pytest.raises(InputError, match=left_out):
            explain(Question("bind", None, spec, "0000:6a:01.0"))
        with pytest.raises(InputError, match=r"no such device; known: [^;]*$"):
            explain(Question("bind", None, spec, "no address"))

    def test_is_not_shown_to_have_no_capability_where_it_was_kept(self) -> None:
        imported = import_machine([DATA / "captures" / "vtd-user.tar.gz"], every=True)
        name = next(iter(Unknown.of(imported.spec.finding).pasids))
        assert cause_of(imported.spec, name, "bind.device-without-pasids")[0] is Standing.OPEN
        assert "no source tells its PCI capabilities" in cause_of(imported.spec, name, "bind.device-without-pasids")[1]


class TestPasidsWithoutAnyWordOfAnIommu:
    @pytest.fixture
    def alone(self, tmp_path: Path) -> Path:
        folder = tmp_path / "0000:01:00.0"
        folder.mkdir()
        (folder / "config").write_bytes(config(endpoint(), extended=[pasid(16)]))
        return folder / "config"

    def test_are_the_first_finding(self, alone: Path) -> None:
        found = import_machine([alone]).findings[0]
        assert (found.rule.id, found.rule.level) == ("import.no-iommu", "warning")
        assert "what is in front of 0000:01:00.0 is not known" in found.why

    def test_are_limited_by_what_is_not_known(self, alone: Path) -> None:
        result = audit(load_machine(alone))
        assert [row.limit.kind for row in result.rows] == [Kind.UNKNOWN]
        rules = {finding.rule.id for finding in result.findings}
        assert "import.no-iommu" in rules
        assert not rules & {"audit.no-iommu", "audit.sva-refused"}

    def test_leave_open_what_an_iommu_decides(self, alone: Path) -> None:
        answer = explain(Question("bind", None, load_machine(alone), "0000:01:00.0"))
        standings = {cause.rule.id: cause.standing for cause in (*answer.causes, *answer.ruled_out)}
        assert answer.ran is None
        assert standings["bind.no-group"] is Standing.OPEN
        assert standings["arm-smmu-v3.no-sva"] is Standing.OPEN
        assert any(note.startswith("the call was not tried on the model: ") for note in answer.notes)

    @pytest.mark.parametrize("beside", ["acpi-x86/ivrs-server.aml", "devicetree/riscv.dtb"])
    def test_are_no_finding_where_firmware_was_read(self, alone: Path, beside: str) -> None:
        assert whys(import_machine([alone, DATA / beside]), "import.no-iommu") == []

    def test_are_no_finding_where_a_running_kernel_showed_that_there_is_none(self, tmp_path: Path, alone: Path) -> None:
        write(tmp_path / "host", "sys/bus/pci/devices/0000:01:00.0/config", alone.read_bytes())
        imported = import_machine([tmp_path / "host"])
        assert whys(imported, "import.no-iommu") == []
        assert "audit.no-iommu" in {finding.rule.id for finding in audit(imported.spec).findings}

    def test_are_no_finding_where_the_kernel_was_told_to_use_none(self, tmp_path: Path, alone: Path) -> None:
        line = tmp_path / "cmdline"
        line.write_text("root=/dev/sda1 iommu=off\n")
        assert whys(import_machine([alone, line]), "import.no-iommu") == []


def test_an_iommu_that_a_link_names_and_nobody_describes_is_not_known_of_that_device(tmp_path: Path) -> None:
    place = "sys/devices/pci0000:01/0000:01:00.0"
    write(tmp_path, f"{place}/config", config(endpoint(), extended=[pasid(16)]))
    link(tmp_path, "sys/bus/pci/devices/0000:01:00.0", f"../../../../{place}")
    link(tmp_path, f"{place}/iommu", "../../virtual/iommu/dmar7")
    write(tmp_path, "sys/class/iommu/other/uevent", "")
    spec = load_machine(tmp_path)
    assert [(found.rule, found.why.split(" by ")[0]) for found in spec.finding][-1:] == [
        ("import.no-such-iommu", "0000:01:00.0 is behind dmar7")
    ]
    result = audit(spec)
    assert [row.limit.kind for row in result.rows] == [Kind.UNKNOWN]
    assert "audit.no-iommu" not in {finding.rule.id for finding in result.findings}
    assert cause_of(spec, "0000:01:00.0", "bind.no-group")[0] is Standing.OPEN


def test_every_device_of_which_nothing_is_known_is_told_of_however_many_there_are(tmp_path: Path) -> None:
    names = [f"{number:x}000.acc" for number in range(16, 56)]
    link(tmp_path, f"sys/class/iommu/{SMMU}", f"../../devices/platform/smmu/iommu/{SMMU}")
    for name in names:
        write(tmp_path, f"sys/devices/platform/{name}/uevent", "")
        link(tmp_path, f"sys/bus/platform/devices/{name}", f"../../../devices/platform/{name}")
        link(tmp_path, f"sys/devices/platform/{name}/iommu", f"../smmu/iommu/{SMMU}")
    assert set(Unknown.of(load_machine(tmp_path).finding).pasids) == set(names)


class TestADumpThatDoesNotSayWhoseItIs:
    @pytest.fixture
    def registers(self, tmp_path: Path) -> Path:
        path = tmp_path / "registers.txt"
        path.write_text("IDR1: 0x00000318\n")
        return path

    def test_is_the_only_smmus(self, captured: Path, registers: Path) -> None:
        imported = import_machine([captured, registers])
        (smmu,) = imported.spec.iommu
        assert (smmu.name, smmu.ssid_bits) == (SMMU, 12)
        assert not {finding.rule.id for finding in imported.findings} & {"import.nameless-smmu", "import.width-assumed"}

    def test_of_an_smmu_with_fewer_stream_ids_than_devices_have_is_a_finding(
        self, captured: Path, registers: Path
    ) -> None:
        registers.write_text("IDR1: 0x00000310\n")
        imported = import_machine([captured, registers])
        (why,) = whys(imported, "import.stream-bits")
        assert why.startswith(f"{SMMU} has StreamIDs of 16 bits by registers.txt, line 1, IDR1 0x310")
        assert imported.spec.iommu[0].sid_bits == 17

    def test_is_nobodys_where_there_are_several_and_says_so(self, tmp_path: Path, registers: Path) -> None:
        (why,) = whys(import_machine([DATA / "devicetree" / "server.dtb", registers]), "import.nameless-smmu")
        assert why == (
            "registers.txt: does not say which SMMU it is of, and the machine has 2: its registers and capabilities "
            "count for none"
        )

    def test_is_nobodys_where_there_is_none_and_says_so(self, registers: Path) -> None:
        (why,) = whys(import_machine([registers]), "import.nameless-smmu")
        assert "and no source names one" in why


def test_the_remedy_of_an_assumed_width_is_one_that_can_be_followed(captured: Path) -> None:
    (found,) = [one for one in import_machine([captured]).findings if one.rule.id == "import.width-assumed"]
    assert "ssid_bits" in found.remedy
    assert "debugfs" not in found.remedy


def test_each_source_is_named_once(captured: Path) -> None:
    imported = import_machine([captured])
    assert sum(str(captured) in source for source in imported.sources) == 1


def test_a_width_of_zero_is_no_pasids() -> None:
    raw = {"kernel": "v6.12", "device": [{"name": "a", "kind": "narrow", "pasid_bits": bits} for bits in (0,)]}
    assert machine_text(machine(raw)) == "0 IOMMUs, 1 device, 0 of them with PASIDs"


def test_what_users_of_the_library_read_they_can_also_have_said() -> None:
    from pasidlab.platforms import Said, iort_says, read_iort

    data = (DATA / "acpi-arm" / "components.aml").read_bytes()
    iort = read_iort(data)
    said = iort_says(iort)
    assert isinstance(said, Said)
    assert len(said.findings) >= len(iort.findings)
    assert {one.name for one in said.endpoints} >= {r"\_SB.ZIP0"}


def test_the_table_of_an_audit_counts_nothing_of_what_is_not_known() -> None:
    from rich.console import Console

    from pasidlab.report.audit_text import print_audit

    shown = StringIO()
    console = Console(width=200, file=shown)
    print_audit(audit(load_machine(DATA / "pci" / "made-vv.txt.gz")), "alone", console)
    text = shown.getvalue()
    row = next(line for line in text.splitlines() if line.startswith("0000:04:00.0"))
    assert [cell.strip() for cell in row.split("│")] == ["0000:04:00.0", "?", "16", "?", "not known", "?"]
    assert "ENODEV" not in text

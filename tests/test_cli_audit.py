"""`pasidlab audit`: what it prints for people and programs, and how it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pasidlab.audit import audit
from pasidlab.description import DeviceSpec, FindingSpec, IommuSpec, MachineSpec
from pasidlab.report.audit_json import audit_records
from pasidlab.report.audit_text import MOST_ALIKE, print_audit
from pasidlab.report.findings import counts_text
from pasidlab.scenario import Scenario

from .conftest import ROOT, Command

MACHINES = "docs/examples/machines"
NPU, SERVER, SERVER_B, APU = (f"{MACHINES}/{name}.toml" for name in ("narrow_npu", "server", "server_b", "apu"))


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def printed(spec: MachineSpec, width: int = 120) -> str:
    out = io.StringIO()
    print_audit(audit(spec), "a machine", Console(file=out, width=width, emoji=False))
    return out.getvalue()


def alike(count: int) -> MachineSpec:
    devices = [DeviceSpec(f"0000:{index:02x}:00.0", "u", pasid_bits=20) for index in range(count)]
    return MachineSpec(iommu=[IommuSpec("u")], device=devices)


# --- exit status -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "status"), [(NPU, 0), (SERVER, 0), (SERVER_B, 1), (APU, 1)])
@pytest.mark.parametrize("output", [(), ("--json",)])
def test_the_status_says_whether_a_finding_is_an_error(
    pasidlab: Command, machine: str, status: int, output: tuple[str, ...]
) -> None:
    assert pasidlab("audit", machine, *output).status == status


@pytest.mark.parametrize(
    ("first", "second", "status"), [(SERVER, SERVER, 0), (SERVER, SERVER_B, 1), (SERVER, NPU, 1), (APU, APU, 1)]
)
def test_the_status_of_a_comparison_says_whether_anything_matters(
    pasidlab: Command, first: str, second: str, status: int
) -> None:
    assert pasidlab("audit", first, "--compare", second).status == status
    assert pasidlab("audit", first, "--compare", second, "--json").status == status


def test_machines_that_differ_in_what_does_not_bear_on_sva_are_well(pasidlab: Command, tmp_path: Path) -> None:
    text = (Path(SERVER) if Path(SERVER).exists() else Path(__file__).parents[1] / SERVER).read_text()
    other = tmp_path / "other.toml"
    other.write_text(text.replace("root=/dev/sda2", "root=/dev/sdb2"))
    done = pasidlab("audit", SERVER, "--compare", other)
    assert done.status == 0
    assert "does not bear on SVA" in done.out
    assert "1 difference, 0 of them bear on SVA" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.toml"], "missing.toml: cannot be read"),
        ([NPU, "--compare", "missing.toml"], "missing.toml: cannot be read"),
        ([NPU, "--scheme", "none"], "scheme 'none': no such scheme"),
        ([NPU, "--scheme", "docs/examples/top_down.py:TopDown"], "counts with mainline, rfc, v2, hybrid only"),
        ([NPU, "--kernel", "v1.0"], "kernel 'v1.0': no such profile"),
        ([NPU, "-o", "guard=maybe"], "--option guard = 'maybe'"),
        (["worlds/default.toml"], "worlds/default.toml: actions"),
    ],
)
def test_bad_input_is_one_line_and_status_2(pasidlab: Command, arguments: list[str], message: str) -> None:
    done = pasidlab("audit", *arguments)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


# --- text ------------------------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")]


def test_the_table_has_a_row_for_each_device(pasidlab: Command) -> None:
    lines = pasidlab("audit", NPU).out.splitlines()
    assert cells(lines[1])[-1] == "every"
    assert cells(lines[2]) == ["device", "IOMMU", "bits", "usable", "limit", "scheme"]
    assert cells(lines[4]) == ["2c000000.npu", "smmu3.0x000000002b400000", "2", "3", "firmware", "3"]
    assert cells(lines[5])[-1] == "ENOSPC"
    assert cells(lines[6])[-1] == "65,532"
    assert "  ENOSPC: the device carries 1..M, and each of them is attached [rfc.device-full]" in lines


def test_schemes_that_do_not_agree_have_columns_of_their_own() -> None:
    iommu = IommuSpec("dmar0", model="intel-vtd", per_device_pasid_space=True)
    lines = printed(MachineSpec(iommu=[iommu], device=[DeviceSpec("d", "dmar0", pasid_bits=20)])).splitlines()
    assert cells(lines[1])[-2:] == ["", "rfc"]
    assert cells(lines[2])[-2:] == ["", "v2"]
    assert cells(lines[3])[-2:] == ["mainline", "hybrid"]
    assert cells(lines[5])[-2:] == ["1,048,575", "65,533"]
    assert cells(lines[6])[-2:] == ["ENOSPC", "ENOSPC"]


def test_only_the_asked_schemes_have_columns(pasidlab: Command) -> None:
    assert cells(pasidlab("audit", NPU, "--scheme", "v2").out.splitlines()[1])[5:] == ["v2"]


def test_the_kernel_and_options_of_the_command_line_count(pasidlab: Command) -> None:
    assert "audit.kernel-refuses" in pasidlab("audit", SERVER, "--kernel", "v6.12").out
    few = pasidlab("audit", NPU, "-o", "quota_device=2", "--scheme", "mainline").out
    assert "[quota.device]" in few


@pytest.mark.parametrize("machine", [NPU, SERVER, SERVER_B, APU])
def test_the_table_fits_120_columns(pasidlab: Command, machine: str) -> None:
    assert max(map(len, pasidlab("audit", machine).out.splitlines())) <= 120


def test_in_80_columns_no_number_is_cut() -> None:
    text = printed(alike(3), 80)
    table = [line for line in text.splitlines() if "│" in line]
    assert max(map(len, table)) <= 80
    assert cells(table[0])[3:] == ["1,048,575", "device", "1,048,575"]


def test_devices_that_are_alike_share_a_row_of_the_table() -> None:
    text = printed(alike(200))
    assert sum("│" in line for line in text.splitlines()) == 2
    assert "and 199 more" in text
    assert "0000:07:00.0, and 192 more: its PASID capability says 20 bits" in text.replace("\n    ", " ")
    assert "200 devices with PASIDs or in a group with one, 200 usable" in text


def test_a_table_of_many_different_rows_says_how_many_more_there_are() -> None:
    iommus = [IommuSpec(f"u{index}") for index in range(MOST_ALIKE + 5)]
    devices = [DeviceSpec(f"d{index}", f"u{index}", pasid_bits=4) for index in range(MOST_ALIKE + 5)]
    text = printed(MachineSpec(iommu=iommus, device=devices))
    assert "and 5 more rows, which --json prints" in text


def test_names_from_a_file_are_not_taken_for_markup() -> None:
    spec = MachineSpec(iommu=[IommuSpec("[red]")], device=[DeviceSpec("[bold]d[/bold]", "[red]", pasid_bits=2)])
    text = printed(spec)
    assert "[bold]d[/bold]" in text
    assert "[red]" in text


def test_a_narrow_terminal_has_narrow_lines() -> None:
    text = printed(Scenario.load(ROOT / SERVER), width=80)
    assert max(map(len, text.splitlines()[1:])) <= 80


def test_findings_that_an_import_only_counted_count() -> None:
    told = [FindingSpec("import.stream-taken", "first"), FindingSpec("import.stream-taken", "second", more=4_998)]
    found = audit(MachineSpec(finding=told))
    assert "and 4,998 more like these" in printed(MachineSpec(finding=told))
    assert counts_text(found.findings) == "5,000 warnings"
    assert [record.get("more") for record in audit_records(found, "m") if record["record"] == "finding"] == [
        None,
        4_998,
    ]
    assert list(audit_records(found, "m"))[-1]["findings"] == {"note": 0, "warning": 5_000, "error": 0}


def test_a_finding_that_was_told_has_a_remedy_without_its_facts() -> None:
    (finding,) = audit(MachineSpec(finding=[FindingSpec("enable-pasid.physfn-off", "no")])).findings
    assert finding.remedy.startswith("see why PASID is off in the physfn;")


def test_a_machine_without_pasids_says_so() -> None:
    assert "[audit.no-pasids]" in printed(MachineSpec(device=[DeviceSpec("nic")]))
    assert "0 devices with PASIDs or in a group with one, 0 usable; nothing found" in printed(MachineSpec())


def test_a_comparison_tells_what_differs_and_nothing_else(pasidlab: Command) -> None:
    done = pasidlab("audit", SERVER, "--compare", SERVER_B)
    lines = done.out.splitlines()
    assert lines[0] == "bears on SVA"
    assert lines[3].split(" │ ")[0].strip() == "device 0000:6a:01.0 prefix_path"
    assert [cell.strip() for cell in lines[3].split("│")[1:]] == ["-", "false"]
    assert "usable" not in lines[1]
    assert lines[-2].startswith(f"{SERVER}: ")
    assert "1 error" in lines[-1]
    assert pasidlab("audit", SERVER, "--compare", SERVER).out.splitlines()[0] == "nothing differs"


# --- JSON ------------------------------------------------------------------------------------------------------


def test_json_has_a_record_for_each_row_and_finding_and_a_summary(pasidlab: Command) -> None:
    found = records(pasidlab("audit", NPU, "--json").out)
    assert [record["record"] for record in found] == ["row", "row", "finding", "finding", "summary"]
    npu = found[0]
    assert (npu["device"], npu["bits"], npu["own"], npu["usable"], npu["held"]) == ("2c000000.npu", 2, 3, 3, 0)
    assert npu["limit"] == {"kind": "firmware", "below": 4, "fact": "pasid-num-bits is 2", "rule": None}
    assert npu["sharing"] == {"devices": 1, "first": ["0000:01:00.0"]}
    assert list(npu["rooms"]) == ["mainline", "rfc", "v2", "hybrid"]
    assert npu["rooms"]["rfc"]["rule"] == "rfc.device-full"
    assert found[2]["rule"] == "audit.starvation"
    assert found[2]["level"] == "warning"
    assert found[2]["remedy"]
    assert found[-1]["findings"] == {"note": 1, "warning": 1, "error": 0}


def test_json_has_every_device_however_many_are_alike() -> None:
    from pasidlab.report.audit_json import audit_records

    found = list(audit_records(audit(alike(50)), "m.toml"))
    assert sum(record["record"] == "row" for record in found) == 50
    assert json.loads(json.dumps(found)) == found


def test_json_of_a_comparison_has_a_record_for_each_difference_and_a_summary(pasidlab: Command) -> None:
    found = records(pasidlab("audit", SERVER, "--compare", SERVER_B, "--json").out)
    assert found[0] == {
        "record": "difference",
        "kind": "device",
        "name": "0000:6a:01.0",
        "key": "prefix_path",
        "first": None,
        "second": False,
        "bears": True,
    }
    summary = found[-1]
    assert summary["record"] == "summary"
    assert summary["machines"] == [SERVER, SERVER_B]
    assert summary["differences"] == len(found) - 1
    assert [counted["error"] for counted in summary["findings"]] == [0, 1]


def test_help_shows_an_example(pasidlab: Command) -> None:
    done = pasidlab("audit", "--help")
    assert done.status == 0
    assert "Example: pasidlab audit docs/examples/machines/server.toml" in done.out

"""`pasidlab explain` on the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from pasidlab.explain import Question, explain, recognise
from pasidlab.report.explain_text import print_answer

from .conftest import Command

NARROW = "scenarios/narrow.toml"
BIND = ("explain", "-28", "--call", "bind", "--machine", NARROW, "--device", "npu0")


def test_without_argument_the_calls_are_listed_with_their_checks(pasidlab: Command) -> None:
    done = pasidlab("explain")
    assert done.status == 0
    assert done.out.startswith("bind  iommu_sva_bind_device: give a device the memory of the calling process")
    assert "  ENOSPC      bind.device-without-pasids, bind.no-number-free\n" in done.out
    assert "  by amdxdna: kernels to 7.0 pass the errno on" in done.out


def test_the_list_is_records_too(pasidlab: Command) -> None:
    records = [json.loads(line) for line in pasidlab("explain", "--json").out.splitlines()]
    assert [record["call"] for record in records][:3] == ["bind", "bind_pasid", "open"]
    first = records[0]["checks"][0]
    assert first == {"rule": "bind.not-built", "result": "ENODEV", "when": ""}


@pytest.mark.parametrize("errno", ["-28", "28", "ENOSPC"])
def test_an_errno_is_explained_on_a_machine(pasidlab: Command, errno: str) -> None:
    done = pasidlab("explain", errno, *BIND[2:])
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "iommu_sva_bind_device gives ENOSPC (-28) (device npu0, kernel v7.3)"
    assert lines[1] == "  1. npu0 carries 1..3 and none of them is free in the global space"
    assert lines[2].startswith(
        "     fits, if other processes and drivers hold every number that the device carries [bind."
    )
    assert "  ruled out: bind.device-without-pasids: npu0 carries 1..3 (max_pasids: its own 4" in done.out


def test_a_cause_has_remedy_check_function_and_version_in_this_order(pasidlab: Command) -> None:
    out = pasidlab(*BIND).out
    remedy = out.index("     what to do: end processes that hold low numbers")
    check = out.index("     check: iommu_alloc_global_pasid(dev) == IOMMU_PASID_INVALID, in iommu_alloc_mm_data")
    assert remedy < check < out.index("Linux 6.12.117 and 7.3.4 (run)\n")


@pytest.mark.parametrize("width", [60, 80])
def test_lines_are_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    answer = explain(Question("open"))
    stream = io.StringIO()
    print_answer(answer, Console(file=stream, width=width))
    words = max(len(word) for cause in answer.causes for word in cause.rule.check.split())
    assert max(len(line) for line in stream.getvalue().splitlines()) <= max(width, words + 5)


def test_causes_after_the_sixth_have_a_line_each(pasidlab: Command) -> None:
    out = pasidlab("explain", "-22", "--call", "bind").out
    assert out.count("     check: ") == 6
    assert "  7. the device has no PASID capability [enable-pasid.no-capability, EINVAL (-22)]\n" in out
    assert out.count(", EINVAL (-22)]") + out.count("[enable-pasid.already, EBUSY") > 10


def test_checks_that_one_fact_rules_out_share_a_paragraph(pasidlab: Command) -> None:
    out = pasidlab("explain", "EINVAL", "--call", "bind", *BIND[4:]).out
    (line,) = [line for line in out.splitlines() if line.startswith("  ruled out: intel.sva-no-pasid-or-ats")]
    assert "intel.sva-no-pasid-or-ats, intel.sva-pri-off" in line


def test_an_answer_as_json_is_one_record(pasidlab: Command) -> None:
    record = json.loads(pasidlab(*BIND, "--json").out)
    assert record["result"] == "ENOSPC"
    assert [cause["rule"] for cause in record["causes"]] == ["bind.no-number-free"]


def test_a_call_alone_is_explained_as_a_whole(pasidlab: Command) -> None:
    done = pasidlab("explain", "--call", "lam", "--kernel", "v7.3")
    assert done.status == 0
    assert done.out.startswith(
        "arch_prctl(ARCH_ENABLE_TAGGED_ADDR): whatever it gives (kernel v7.3, no machine given)\n"
    )


def test_no_machine_and_no_kernel_is_any_kernel(pasidlab: Command) -> None:
    out = pasidlab("explain", "-95", "--call", "bind").out
    assert out.startswith("iommu_sva_bind_device gives EOPNOTSUPP (-95) (any kernel, no machine given)\n")
    assert "     which kernels: stable kernels on x86 that took the refusal" in out


def test_a_line_is_explained(pasidlab: Command) -> None:
    done = pasidlab("explain", "DMAR: IOMMU feature pasid inconsistent")
    assert done.status == 0
    assert done.out.startswith(
        "line 1: DMAR: IOMMU feature pasid inconsistent\n  means: the remapping units do not agree about a feature: "
    )
    assert done.out.endswith("  printed by check_dmar_capabilities (drivers/iommu/intel/cap_audit.c)\n")


def test_brackets_of_a_line_are_printed_as_they_are(pasidlab: Command) -> None:
    out = pasidlab("explain", "[drm:amdxdna_drm_open] *ERROR* SVA bind device failed, ret -28").out
    assert "line 1: [drm:amdxdna_drm_open] *ERROR* SVA bind device failed, ret -28\n" in out


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_a_log_is_read_from_standard_input(pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    give_input(monkeypatch, b"noise\xff\nidxd x: Unable to turn on user SVA feature.\n" * 2)
    done = pasidlab("explain", "-", "--json")
    (record,) = [json.loads(line) for line in done.out.splitlines()]
    assert (record["line"], record["times"], record["pattern"]) == (2, 2, "idxd-sva")


def test_a_line_said_twice_is_told_once_with_the_count(pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    give_input(monkeypatch, b"cuInit = 3\ncuInit = 3\n")
    assert pasidlab("explain", "-").out.startswith("line 1 (2 times): cuInit = 3\n")


def test_lines_that_differ_in_numbers_only_are_told_four_times(
    pasidlab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "DMAR: [DMA Read PASID {}] Request device [6a:01.0] fault addr 0x{}000 [fault reason 0x3a] SM\n"
    give_input(monkeypatch, "".join(fault.format(hex(n), n) for n in range(1, 21)).encode())
    out = pasidlab("explain", "-").out
    assert out.count("  printed by dmar_fault_do_one") == 4
    assert "line 4 (16 more with other numbers are not told): DMAR: [DMA Read PASID 0x4]" in out


def test_colours_of_a_log_do_not_reach_the_terminal(pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    give_input(monkeypatch, b"\x1b[31mDMAR: IOMMU feature pasid\x1b[0m inconsistent\x1b]0;title\x07\r\n")
    out = pasidlab("explain", "-").out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.startswith("line 1: DMAR: IOMMU feature pasid inconsistent")


def test_a_long_line_of_anything_is_looked_at_quickly() -> None:
    lines = (("00:00.0 " * 250), ("uacce open " * 180), "x" * 2000)
    assert not list(recognise("\n".join(lines * 20)))


def test_closed_standard_input_is_bad_input(pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    done = pasidlab("explain", "-")
    assert (done.status, done.err) == (2, "pasidlab: -: standard input is closed\n")


def test_a_device_without_pasids_of_a_capture_can_be_asked_about(pasidlab: Command, tmp_path: Path) -> None:
    config = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:00:02.0" / "config"
    config.parent.mkdir(parents=True)
    config.write_bytes(bytes.fromhex("861034120000000000000012") + bytes(52))
    done = pasidlab("explain", "-19", "--call", "bind", "--machine", tmp_path, "--device", "0000:00:02.0")
    assert (done.status, done.err) == (0, "")
    assert "  1. 0000:00:02.0 is behind no IOMMU\n" in done.out


def test_a_log_of_unknown_lines_is_status_1(pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    give_input(monkeypatch, b"usb 1-1: new device\n")
    done = pasidlab("explain", "-")
    assert done.status == 1
    assert done.err == "pasidlab: no line of this is known; `pasidlab explain` lists the calls\n"


def test_an_errno_that_no_check_gives_on_the_machine_is_status_1(pasidlab: Command) -> None:
    done = pasidlab("explain", "EOVERFLOW", "--call", "alloc_global", *BIND[4:])
    assert done.status == 1
    assert "no check of iommu_alloc_global_pasid gives EOVERFLOW on this machine" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-28",), "--call: must say which call gave -28; those that can give ENOSPC: bind, open, alloc_global, "),
        (("ENOFOO",), "ERRNO 'ENOFOO': neither an errno"),
        (("-28", "--call", "bind", "--device", "npu0"), "--device 'npu0': needs --machine"),
        (("-28", "--call", "bund"), "--call 'bund': no such call"),
        (("--cal",), "--cal: no such option"),
        (("-x",), "-x: no such option"),
        (("-28", "--call", "bind", "--machine", NARROW), "--device: must name one of npu0, gpu0"),
        (("-28", "--call", "bind", "--machine", "no.toml"), "no.toml"),
        (("-28", "--call", "bind", "--kernel", "v5"), "kernel 'v5': no such profile"),
        (("-28", "--call", "bind", "--scheme", "x", *BIND[4:]), "scheme"),
        (("-9998", "--call", "bind"), "ERRNO '-9998': no errno"),
    ],
)
def test_bad_input_is_status_2_and_one_line(pasidlab: Command, arguments: tuple[str, ...], message: str) -> None:
    done = pasidlab("explain", *arguments)
    assert done.status == 2
    assert done.err.startswith("pasidlab: ")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_bad_machine_is_named(pasidlab: Command, scenario_file: Callable[[str], Path]) -> None:
    path = scenario_file("[[device]]\nname = 3\n")
    done = pasidlab("explain", "-28", "--call", "bind", "--machine", path)
    assert done.status == 2
    assert str(path) in done.err


def test_a_machine_without_steps_is_taken(pasidlab: Command, scenario_file: Callable[[str], Path]) -> None:
    path = scenario_file('[[device]]\nname = "npu"\npasid_bits = 4\n')
    done = pasidlab("explain", "ENODEV", "--call", "bind", "--machine", path)
    assert done.status == 0
    assert "  1. npu is behind no IOMMU\n     shown on the model [bind.no-group, ENODEV (-19)]\n" in done.out


def test_numbers_that_drivers_hold_from_the_start_are_told(
    pasidlab: Command, scenario_file: Callable[[str], Path]
) -> None:
    path = scenario_file(
        '[[iommu]]\nname = "dmar0"\nmodel = "intel-vtd"\n'
        '[[device]]\nname = "dsa0"\niommu = "dmar0"\nkind = "dsa"\npasid_bits = 20\n'
        '[[device]]\nname = "npu"\niommu = "dmar0"\npasid_bits = 2\n'
    )
    out = pasidlab("explain", "ENOSPC", "--call", "bind", "--machine", path, "--device", "npu").out
    taken = "of 1..3, 1 are taken before any process binds: 1 is held by idxd (dsa0, kernel work queues)"
    assert f"  note: {taken}\n" in out


def test_a_line_shows_no_more_than_six_causes(pasidlab: Command) -> None:
    out = pasidlab("explain", "cuInit = 3").out
    record = json.loads(pasidlab("explain", "cuInit = 3", "--json").out)
    shown = [line for line in out.splitlines() if line.lstrip()[:2] in {f"{place}." for place in range(1, 10)}]
    assert len(shown) == min(6, len(record["causes"]))


def test_help_has_an_example(pasidlab: Command) -> None:
    assert "Example: pasidlab explain -28 --call bind" in pasidlab("explain", "--help").out

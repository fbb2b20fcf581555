"""The command line as its user meets it: exit status, tables, JSON, messages, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pasidlab.rules import RULES
from pasidlab.schemes import SCHEMES

from .conftest import ROOT, Command

NARROW = "scenarios/narrow.toml"


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


class TestRun:
    def test_the_first_scenario_shows_the_failure_and_the_four_schemes(self, pasidlab: Command) -> None:
        done = pasidlab("run", NARROW)
        assert done.status == 0
        assert "ENOSPC" in done.out
        assert all(name in done.out for name in SCHEMES)
        assert "npu0 carries 1..3 and none of them is free in the global space" in done.out
        assert "1 is held by process a" in done.out
        assert "[bind.no-number-free; Linux 6.12.117 and 7.3.4 (run)]" in done.out
        assert "all expectations met" in done.out

    def test_json_gives_one_object_a_step_and_a_summary(self, pasidlab: Command) -> None:
        found = records(pasidlab("run", NARROW, "--json").out)
        steps = [r for r in found if not r.get("summary")]
        assert {r["scheme"] for r in steps} == set(SCHEMES)
        assert len([r for r in found if r.get("summary")]) == len(SCHEMES)
        refused = next(r for r in steps if r["result"] == "ENOSPC")
        assert {"scheme", "step", "do", "result", "pasid", "rule", "why", "holders"} <= set(refused)
        assert refused["rule"] == "bind.no-number-free"
        assert [h["pasid"] for h in refused["holders"]] == [1, 2, 3]
        assert refused["pasid"] is None

    def test_an_expectation_that_is_not_met_is_marked_and_gives_status_1(
        self, pasidlab: Command, scenario_file: Callable[[str], Path]
    ) -> None:
        path = scenario_file('[[process]]\nname = "a"\n[[step]]\ndo = "exit"\nprocess = "a"\nexpect = { v2 = "EIO" }\n')
        done = pasidlab("run", path)
        assert done.status == 1
        assert "! expected EIO" in done.out
        assert "expectations not met under v2" in done.out
        summaries = [r for r in records(pasidlab("run", path, "--json").out) if r.get("summary")]
        assert {r["scheme"]: r["met"] for r in summaries} == dict.fromkeys(SCHEMES, True) | {"v2": False}

    def test_a_job_that_moved_nothing_is_in_nobodys_memory_and_the_table_leaves_it_out(
        self, pasidlab: Command, scenario_file: Callable[[str], Path]
    ) -> None:
        names = 'device = "dsa0"\nprocess = "a"\n'
        steps = "".join(f'[[step]]\ndo = "{verb}"\n{names}' for verb in ("bind", "mmap_portal", "submit"))
        steps += 'instruction = "enqcmd"\n'
        device = '[[device]]\nname = "dsa0"\niommu = "i"\nkind = "dsa"\npasid_bits = 8\n'
        text = f'[[iommu]]\nname = "i"\n{device}[[process]]\nname = "a"\n{steps}'
        none = pasidlab("run", scenario_file(f'{text}data = ""\n'), "--scheme", "mainline").out
        some = pasidlab("run", scenario_file(text), "--scheme", "mainline").out
        assert re.search(r"submit a dsa0 enqcmd +│ ok 2 *$", none, re.MULTILINE)
        assert "nobody" not in none
        assert "ok 2 in a" in some

    def test_work_in_the_wrong_memory_stands_out(self, pasidlab: Command) -> None:
        done = pasidlab("run", "scenarios/portal_hole.toml", "--scheme", "hybrid")
        assert "ok 1 in b, not a" in done.out
        assert "acc0 works under PASID 1 of the write; for a, in the memory of b" in done.out
        steps = records(pasidlab("run", "scenarios/portal_hole.toml", "--json").out)
        assert [r["scheme"] for r in steps if r.get("trespass")] == ["rfc", "v2", "hybrid"]

    def test_the_header_tells_switches_and_options(self, pasidlab: Command) -> None:
        out = pasidlab("run", "scenarios/nginx_2022_number_freed_early.toml", "-o", "order=lowest").out
        assert "(kernel v7.3, pasid_freed_at_mmput = true)" in out
        done = pasidlab("run", "scenarios/portal_hole.toml", "--scheme", "mainline", "--json")
        assert records(done.out)[-1]["settings"] == {"guard": "none"}

    def test_scheme_and_kernel_override_the_file(self, pasidlab: Command) -> None:
        found = records(pasidlab("run", NARROW, "--scheme", "v2,rfc", "--kernel", "v6.12", "--json").out)
        assert [r["scheme"] for r in found if r.get("summary")] == ["v2", "rfc"]
        assert {r["kernel"] for r in found if r.get("summary")} == {"v6.12"}

    def test_several_files_run_one_after_the_other(self, pasidlab: Command) -> None:
        assert pasidlab("run", NARROW, NARROW).out.count("all expectations met") == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--scheme", "best"],
                "scheme 'best': no such scheme; known: mainline, rfc, v2, hybrid, all, or FILE.py:CLASS",
            ),
            (["--kernel", "v9"], "kernel 'v9': no such profile; known: v6.12.0"),
            (["--option", "guard=wall"], "--option guard = 'wall': invalid enum value 'wall'; allowed: declared"),
            (["--option", "wall=1"], "--option wall = 1: unknown key; allowed: order, reserve"),
            (["--option", "reserve=-1"], "--option reserve = -1: expected `int` >= 0"),
            (["--scheme", ""], "scheme '': no such scheme"),
            (["--option", "reserve=" + "9" * 5000], "expected `int`"),
            (["--option", "guard"], "--option 'guard': must be KEY=VALUE"),
        ],
    )
    def test_a_bad_argument_is_named_with_status_2(self, pasidlab: Command, arguments: list[str], message: str) -> None:
        done = pasidlab("run", NARROW, *arguments)
        assert (done.status, done.out) == (2, "")
        assert message in done.err

    def test_a_bad_file_among_good_ones_stops_before_any_output(self, pasidlab: Command, tmp_path: Path) -> None:
        done = pasidlab("run", NARROW, tmp_path / "none.toml")
        assert (done.status, done.out) == (2, "")
        assert "none.toml: cannot be read: No such file or directory" in done.err

    def test_an_expectation_for_an_unknown_scheme_names_file_and_key(
        self, pasidlab: Command, scenario_file: Callable[[str], Path]
    ) -> None:
        path = scenario_file('[[process]]\nname = "a"\n[[step]]\ndo = "exit"\nprocess = "a"\nexpect = { v3 = "ok" }\n')
        done = pasidlab("run", path)
        assert done.status == 2
        known = "arm-smmu-v3, hybrid, intel-vtd, mainline, mock, rfc, v2"
        assert f"{path}: step[0].expect.v3: no such scheme or model; known here: {known}" in done.err


class TestConform:
    def test_a_file_gives_one_line_of_counts(self, pasidlab: Command) -> None:
        done = pasidlab("conform", "tests/data/fixup_v2.jsonl", "tests/data/scenarios_7.3.jsonl")
        assert done.status == 0
        assert done.out.splitlines() == [
            "tests/data/fixup_v2.jsonl: 11 sequences, 81 steps, 0 differ",
            "tests/data/scenarios_7.3.jsonl: 42 sequences, 496 steps, 0 differ",
        ]

    def test_a_difference_is_shown_and_gives_status_1(self, pasidlab: Command, tmp_path: Path) -> None:
        path = tmp_path / "changed.jsonl"
        path.write_text((ROOT / "tests/data/fixup_v2.jsonl").read_text().replace('"was":0', '"was":1', 1))
        done = pasidlab("conform", path)
        assert done.status == 1
        assert done.out.count("recorded") == 1
        assert "1 differ" in done.out
        difference, summary = records(pasidlab("conform", path, "--json").out)
        assert difference["command"][0] == "pgp"
        assert summary["differ"] == 1

    def test_a_file_that_is_no_record_gives_status_2(self, pasidlab: Command) -> None:
        done = pasidlab("conform", "README.md")
        assert done.status == 2
        assert done.err.startswith("pasidlab: README.md:1: not a recorded sequence")


class TestLists:
    def test_schemes_tell_who_proposed_them_and_the_options(self, pasidlab: Command) -> None:
        out = pasidlab("schemes").out
        assert all(scheme.source in out for scheme in SCHEMES.values())
        assert "guard         mmap      declared | mmap | none | range" in out

    def test_schemes_as_json(self, pasidlab: Command) -> None:
        assert [r["name"] for r in records(pasidlab("schemes", "--json").out)] == list(SCHEMES)

    def test_rules_lists_every_rule(self, pasidlab: Command) -> None:
        assert len(pasidlab("rules").out.splitlines()) == len(RULES)

    def test_a_rule_is_shown_with_function_check_and_sentence(self, pasidlab: Command) -> None:
        out = pasidlab("rules", "bind.no-number-free").out
        assert "ENOSPC" in out
        assert "iommu_alloc_mm_data (drivers/iommu/iommu-sva.c)" in out
        assert "iommu_alloc_global_pasid(dev) == IOMMU_PASID_INVALID" in out

    def test_the_beginning_of_an_id_lists_a_family(self, pasidlab: Command) -> None:
        found = records(pasidlab("rules", "attach.", "--json").out)
        assert len(found) > 5
        assert all(r["id"].startswith("attach.") for r in found)

    def test_an_unknown_rule_is_an_error(self, pasidlab: Command) -> None:
        done = pasidlab("rules", "bind.moon")
        assert (done.status, done.err) == (2, "pasidlab: rule 'bind.moon': no such rule; `pasidlab rules` lists them\n")

    def test_kernels_say_which_are_witnessed(self, pasidlab: Command) -> None:
        witnessed = {r["name"] for r in records(pasidlab("kernels", "--json").out) if r["witnessed"]}
        assert witnessed == {"v6.12", "v7.3"}

    def test_a_kernel_shows_its_switches_with_sources(self, pasidlab: Command) -> None:
        out = pasidlab("kernels", "v6.12").out
        assert "late_publication = false" in out
        assert "run on 7.3.4" in out


class TestTables:
    def test_clash_has_a_row_for_every_scheme_and_holder(self, pasidlab: Command) -> None:
        rows = records(pasidlab("table", "clash", "--json").out)
        cells = {(r["scheme"], r["held by"]): r for r in rows}
        assert len(cells) == 24
        assert cells["v2", "kernel DMA, without handle"]["bind_device"] == "EBUSY"
        assert cells["hybrid", "kernel DMA, without handle"]["bind_device"] == "ok 2"
        assert cells["mainline", "SVA, driver-numbered, other process"]["bind_device"] == "-"

    def test_the_global_space_is_needed_in_one_row_only(self, pasidlab: Command) -> None:
        rows = records(pasidlab("table", "global-needed", "--json").out)
        needed = [r for r in rows if r["global space needed"] == "yes"]
        assert len(rows) == 8
        assert [(r["ST64BV and ST64BV0"], r["device tells posted writes"], r["portal mapped"]) for r in needed] == [
            ("present", "yes", "yes")
        ]

    def test_an_unknown_table_is_an_error(self, pasidlab: Command) -> None:
        done = pasidlab("table", "moon")
        assert (done.status, done.err) == (2, "pasidlab: table 'moon': no such table; known: clash, global-needed\n")

    def test_a_table_prints_for_people(self, pasidlab: Command) -> None:
        assert "May a device's numbers be local? (R14)" in pasidlab("table", "global-needed").out


@pytest.mark.parametrize(
    "command", ["run", "check", "conform", "schemes", "rules", "kernels", "table", "decode", "dump", "walk"]
)
def test_every_command_has_help_with_an_example_and_json(pasidlab: Command, command: str) -> None:
    out = pasidlab(command, "--help").out
    assert f"Example: pasidlab {command}" in out
    assert "--json" in out


def test_no_command_shows_the_help(pasidlab: Command) -> None:
    done = pasidlab()
    assert done.status == 2
    assert "Example: pasidlab run scenarios/narrow.toml" in done.out + done.err


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes((ROOT / "tests/data/binds_7.3.jsonl").read_bytes() * 200)
    program = [sys.executable, "-m", "pasidlab", "conform", str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(1.5)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert (out, err) == ("", "pasidlab: interrupted\n")


def test_ctrl_c_while_modules_are_imported_ends_alike(pasidlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "pasidlab.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "pasidlab.cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    done = pasidlab("schemes")
    assert (done.status, done.out, done.err) == (130, "", "pasidlab: interrupted\n")


def test_a_closed_pipe_is_no_traceback() -> None:
    program = f"{sys.executable} -m pasidlab rules | head -1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("rules",), ("run", NARROW), ("run", NARROW, "--json"), ("dump", NARROW)])
def test_a_closed_pipe_is_told_apart_from_unmet_expectations(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-m", "pasidlab", *arguments]
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(program, stdout=closed, stderr=subprocess.PIPE, cwd=ROOT, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_imports_neither_numpy_nor_the_model() -> None:
    program = (
        "import sys; sys.argv = ['pasidlab', 'walk', '--help']\n"
        "from pasidlab.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({'numpy', 'numba', 'pasidlab.machine'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_model_puts_an_smmu_in_the_place_of_every_mock(pasidlab: Command) -> None:
    mock, smmu = (
        [json.loads(line) for line in pasidlab("run", NARROW, "--model", model, "--json").out.splitlines()]
        for model in ("mock", "arm-smmu-v3")
    )
    assert [(one.get("result"), one.get("pasid")) for one in mock] == [(o.get("result"), o.get("pasid")) for o in smmu]
    walked = pasidlab(
        "walk",
        NARROW,
        "--model",
        "arm-smmu-v3",
        "--scheme",
        "v2",
        "--device",
        "npu0",
        "--pasid",
        "1",
        "--address",
        "0x10000000",
    )
    assert "F_TRANSLATION" in walked.out
    refused = pasidlab("walk", NARROW, "--device", "npu0", "--address", "0")
    assert refused.status == 2


def test_model_leaves_out_what_a_mock_has_no_key_for(pasidlab: Command) -> None:
    done = pasidlab("run", "scenarios/narrow_smmu.toml", "--model", "mock")
    assert (done.status, done.err) == (0, "")


def test_a_model_that_there_is_not_is_named(pasidlab: Command) -> None:
    done = pasidlab("run", NARROW, "--model", "vtd")
    known = "mock, arm-smmu-v3, intel-vtd"
    assert (done.status, done.err) == (2, f"pasidlab: {NARROW}: model 'vtd': no such model; known: {known}\n")

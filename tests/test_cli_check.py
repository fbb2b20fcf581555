"""`pasidlab check` as its user meets it: exit status, lines, files, messages, Ctrl-C."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from pasidlab.cli.common import patience
from pasidlab.cli.files import write_whole
from pasidlab.explore.world import World

from .conftest import ROOT, Command

HEAD = """
title = "Small"
actions = ["bind", "unbind", "exit"]
"""
MACHINE = """
[[iommu]]
name = "iommu0"
max_pasids = 2

[[device]]
name = "acc0"
iommu = "iommu0"
pasid_bits = 1

[[process]]
name = "p"
count = 2
"""
SMALL = HEAD + MACHINE
SLOPPY = """
title = "Sloppy"
actions = ["bind", "mmap_portal", "forge"]
always = ["isolation"]

[options]
guard = "none"

[[iommu]]
name = "iommu0"
max_pasids = 3

[[device]]
name = "dsa0"
iommu = "iommu0"
pasid_bits = 2
submit = "enqcmd"
sloppy = true

[[process]]
name = "p"
count = 2
"""
READABLE = ("--engine", "readable", "--scheme", "mainline")
Written = Callable[..., Path]


@pytest.fixture
def world(tmp_path: Path) -> Written:
    """Write a world and return its path."""

    def write(text: str = SMALL, name: str = "world.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


class TestStatus:
    def test_a_world_in_which_all_holds_gives_0(self, pasidlab: Command, world: Written) -> None:
        done = pasidlab("check", world(), *READABLE)
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        assert lines[0] == "Small  (kernel v7.3)"
        assert lines[1] == "2 processes (p0 p1), 1 device (acc0), 1 number"
        assert lines[2] == (
            "may happen: bind, unbind, exit; drivers of devices stop, drain, unbind; "
            "those of IOMMUs take away table, iotlb, atc"
        )
        assert lines[3].startswith("mainline  holds: 7 properties in ")
        assert lines[4].startswith("  reached: bind ok ")

    def test_a_counterexample_gives_1_and_is_shown_step_by_step(self, pasidlab: Command, world: Written) -> None:
        done = pasidlab("check", world(SLOPPY), *READABLE)
        assert done.status == 1
        assert "mainline  violated: isolation; in " in done.out
        assert "isolation: work is never done in memory that is not the submitter's" in done.out
        assert "(docs/thread.md R11, R12, R15, R22)" in done.out
        assert "ok 2 in p1, not p0" in done.out
        assert "  5  dsa0 does not tell posted from non-posted writes and believed PASID 2" in done.out
        assert (
            done.err == "pasidlab: --scenario FILE writes the trace as a scenario, which `pasidlab run FILE` replays\n"
        )

    @pytest.mark.parametrize(
        ("option", "value", "name"),
        [("--max-states", "3", "states"), ("--max-depth", "2", "depth"), ("--max-seconds", "0.0001", "seconds")],
    )
    def test_a_bound_that_stops_it_gives_3(
        self, pasidlab: Command, world: Written, option: str, value: str, name: str
    ) -> None:
        done = pasidlab("check", world(), *READABLE, option, value)
        assert done.status == 3
        assert f"stopped by the bound on {name}: nothing broken in " in done.out

    def test_the_worlds_own_bound_counts_unless_it_is_overridden(self, pasidlab: Command, world: Written) -> None:
        path = world(f"{SMALL}\n[bounds]\ndepth = 2\n")
        assert pasidlab("check", path, *READABLE).status == 3
        assert pasidlab("check", path, *READABLE, "--max-depth", "1000").status == 0

    def test_a_sometimes_that_is_never_reached_gives_1(self, pasidlab: Command, world: Written) -> None:
        path = world(f'{SMALL}\n[sometimes]\nmainline = ["bind=ok", "bind=EBUSY"]\n')
        done = pasidlab("check", path, *READABLE)
        assert done.status == 1
        assert "  never reached: bind=EBUSY\n" in done.out

    def test_the_gravest_of_several_counts(self, pasidlab: Command, world: Written) -> None:
        small, sloppy = world(), world(SLOPPY, "sloppy.toml")
        done = pasidlab("check", small, sloppy, *READABLE)
        assert done.status == 1
        assert "holds: 7" in done.out
        assert "\n\nSloppy  (kernel v7.3, guard = none)\n" in done.out

    def test_a_world_without_title_is_called_after_its_file(self, pasidlab: Command, world: Written) -> None:
        path = world(SMALL.replace('title = "Small"', ""), "nameless.toml")
        assert pasidlab("check", path, *READABLE).out.startswith("nameless  (kernel")


class TestWhatIsSearched:
    def test_schemes_of_the_command_line_override_the_worlds(self, pasidlab: Command, world: Written) -> None:
        path = world('scheme = "v2"\n' + SMALL)
        assert "\nv2        holds" in pasidlab("check", path, "--engine", "readable").out
        several = pasidlab("check", path, "--engine", "readable", "--scheme", "rfc,hybrid").out
        assert [line.split()[0] for line in several.splitlines() if " holds: " in line] == ["rfc", "hybrid"]

    def test_options_of_the_command_line_override_the_worlds(self, pasidlab: Command, world: Written) -> None:
        done = pasidlab("check", world(SLOPPY), *READABLE, "--option", "guard=mmap")
        assert done.out.startswith("Sloppy  (kernel v7.3)\n")

    def test_properties_of_the_command_line_replace_the_worlds(self, pasidlab: Command, world: Written) -> None:
        done = pasidlab("check", world(), *READABLE, "--property", "default", "--property", "idle-device-serves")
        assert (done.status, "idle-device-serves" in done.out) == (1, True)
        assert "holds: 1 property in" in pasidlab("check", world(), *READABLE, "--property", "no-leak").out

    def test_a_function_of_ones_own_is_a_property(self, pasidlab: Command, world: Written, tmp_path: Path) -> None:
        mine = tmp_path / "mine.py"
        mine.write_text("def two(state):\n    'Never two.'\n    return all(p.number for p in state.processes)\n")
        wider = SMALL.replace("max_pasids = 2", "max_pasids = 3").replace("pasid_bits = 1", "pasid_bits = 2")
        done = pasidlab("check", world(wider), *READABLE, "--property", f"{mine}:two")
        assert done.status == 1
        assert f"{mine}:two: Never two. ({mine})" in done.out

    def test_without_symmetry_there_are_more_states_and_the_same_verdict(
        self, pasidlab: Command, world: Written
    ) -> None:
        def states(*more: str) -> int:
            record = json.loads(pasidlab("check", world(), *READABLE, "--json", "-", *more).out)
            assert record["status"] == "holds"
            return int(record["states"])

        assert states("--no-symmetry") > states()

    def test_keep_going_searches_to_the_end(self, pasidlab: Command, world: Written) -> None:
        def record(*more: str) -> dict:
            found: dict = json.loads(pasidlab("check", world(SLOPPY), *READABLE, "--json", "-", *more).out)
            return found

        first, all_ = record(), record("--keep-going")
        assert (first["complete"], all_["complete"]) == (False, True)
        assert [trace["actions"] for trace in all_["traces"]] == [trace["actions"] for trace in first["traces"]] == [5]

    def test_a_users_scheme_is_searched_readably_with_a_note(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        mine = tmp_path / "mine.py"
        mine.write_text("from pasidlab.schemes import Mainline\n\nclass Mine(Mainline):\n    name = 'mine'\n")
        done = pasidlab("check", world(), "--scheme", f"{mine}:Mine")
        assert done.status == 0
        assert "mine      holds: 7 properties" in done.out
        assert "readable engine\n  note: searched by the readable engine: scheme mine has no compiled form" in done.out
        refused = pasidlab("check", world(), "--scheme", f"{mine}:Mine", "--engine", "compiled")
        assert refused.status == 2
        assert "engine 'compiled': not for this world under mine: scheme mine has no compiled form" in refused.err


class TestFiles:
    def test_json_is_one_object_a_line_in_a_file_or_on_standard_output(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        path, file = world(), tmp_path / "found.json"
        done = pasidlab("check", path, "--engine", "readable", "--scheme", "mainline,v2", "--json", file)
        assert "holds" in done.out
        assert [json.loads(line)["scheme"] for line in file.read_text().splitlines()] == ["mainline", "v2"]
        printed = pasidlab("check", path, "--engine", "readable", "--scheme", "mainline,v2", "--json", "-")
        assert [json.loads(line)["scheme"] for line in printed.out.splitlines()] == ["mainline", "v2"]

    def test_the_scenario_replays(self, pasidlab: Command, world: Written, tmp_path: Path) -> None:
        file = tmp_path / "found.toml"
        assert pasidlab("check", world(SLOPPY), *READABLE, "--scenario", file).status == 1
        for model in ("mock", "arm-smmu-v3", "intel-vtd"):
            assert pasidlab("run", file, "--model", model).status == 0

    def test_of_several_traces_the_shortest_is_written_and_a_directory_gets_all(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        attaching = SLOPPY.replace('"forge"', '"forge", "attach"')
        path, file, folder = world(attaching), tmp_path / "found.toml", tmp_path / "all"
        folder.mkdir()
        search = ("check", path, "--engine", "readable", "--scheme", "mainline,v2", "--property", "default")
        done = pasidlab(*search, "--keep-going", "--scenario", file)
        assert f"pasidlab: {file} has the shortest of 3 traces; a directory gets all\n" in done.err
        assert tomllib.loads(file.read_text())["title"].startswith("enqcmd-after-normal-bind broken under mainline")
        pasidlab(*search, "--keep-going", "--scenario", folder)
        assert sorted(one.name for one in folder.iterdir()) == [
            "world-mainline-enqcmd_after_normal_bind.toml",
            "world-mainline-isolation.toml",
            "world-v2-isolation.toml",
        ]

    def test_without_counterexample_no_scenario_is_written(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        file = tmp_path / "found.toml"
        done = pasidlab("check", world(), *READABLE, "--scenario", file)
        assert (done.status, file.exists()) == (0, False)
        assert done.err == f"pasidlab: no counterexample, so {file} is not written\n"

    def test_page_and_junit_are_written(self, pasidlab: Command, world: Written, tmp_path: Path) -> None:
        page, junit = tmp_path / "found.html", tmp_path / "found.xml"
        pasidlab("check", world(SLOPPY), *READABLE, "--html", page, "--junit", junit)
        assert "<h1>pasidlab check</h1>" in page.read_text()
        assert ElementTree.parse(junit).getroot().find("testsuite/testcase/failure") is not None
        assert {one.name for one in tmp_path.iterdir()} == {"world.toml", "found.html", "found.xml"}

    @pytest.mark.parametrize("option", ["--html", "--json", "--junit", "--scenario"])
    def test_a_file_that_cannot_be_written_is_known_before_the_search(
        self, pasidlab: Command, world: Written, tmp_path: Path, option: str
    ) -> None:
        done = pasidlab("check", world(), *READABLE, option, tmp_path / "none" / "file")
        assert (done.status, done.out) == (2, "")
        assert f"{option} '{tmp_path}/none/file': there is no directory {tmp_path}/none" in done.err

    @pytest.mark.parametrize("option", ["--html", "--json", "--junit"])
    def test_a_directory_is_no_file(self, pasidlab: Command, world: Written, tmp_path: Path, option: str) -> None:
        done = pasidlab("check", world(), *READABLE, option, tmp_path)
        assert (done.status, done.err) == (2, f"pasidlab: {option} '{tmp_path}': is a directory\n")

    def test_a_file_is_written_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "kept"
        path.write_text("before")
        with pytest.raises(UnicodeEncodeError):
            write_whole(path, "after \ud800")
        assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("kept", "before")]

    def test_a_link_stays_one_and_what_is_no_file_is_written_to(self, tmp_path: Path) -> None:
        path, link = tmp_path / "file", tmp_path / "link"
        link.symlink_to(path)
        write_whole(link, "text")
        assert (link.is_symlink(), path.read_text()) == (True, "text")
        write_whole(Path("/dev/null"), "text")
        assert not Path("/dev/null").is_file()

    def test_worlds_of_one_file_name_do_not_overwrite_each_others_traces(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        folder, other = tmp_path / "all", tmp_path / "other"
        folder.mkdir()
        other.mkdir()
        done = pasidlab("check", world(SLOPPY), world(SLOPPY, "other/world.toml"), *READABLE, "--scenario", folder)
        assert done.status == 1
        assert sorted(one.name for one in folder.iterdir()) == [
            "world-2-mainline-isolation.toml",
            "world-mainline-isolation.toml",
        ]

    def test_a_file_that_cannot_be_written_in_the_end_leaves_the_others(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        done = pasidlab("check", world(), *READABLE, "--html", "/dev/full", "--junit", tmp_path / "all.xml")
        assert done.status == 2
        assert done.err == "pasidlab: --html '/dev/full': cannot be written: No space left on device\n"
        assert "<testsuites" in (tmp_path / "all.xml").read_text()

    def test_where_no_file_can_be_made_is_known_before_the_search(self, pasidlab: Command, world: Written) -> None:
        done = pasidlab("check", world(), *READABLE, "--junit", "/proc/all.xml")
        assert (done.status, done.out) == (2, "")
        assert done.err == "pasidlab: --junit '/proc/all.xml': may not be written: No such file or directory\n"


class TestWhatAVerdictTells:
    def test_actions_that_never_happened_are_named_once_all_was_searched(
        self, pasidlab: Command, world: Written
    ) -> None:
        path = world(SMALL.replace('"exit"', '"exit", "forge", "dma"'))
        assert "\n  never: forge, complete, dma\n" in pasidlab("check", path, *READABLE).out
        assert "never:" not in pasidlab("check", path, *READABLE, "--max-depth", "1").out
        record = json.loads(pasidlab("check", path, *READABLE, "--json", "-").out)
        assert record["never"] == ["forge", "complete", "dma"]
        assert record["assumed"].startswith("may happen: bind, unbind, exit, forge, dma; drivers of devices stop")

    def test_of_many_processes_the_first_and_the_last_are_named(self, pasidlab: Command, world: Written) -> None:
        done = pasidlab("check", world(SMALL.replace("count = 2", "count = 50")), *READABLE, "--max-depth", "1")
        assert "\n50 processes (p0 p1 ... p49), 1 device (acc0), 1 number\n" in done.out

    def test_why_a_state_is_broken_is_told(self, pasidlab: Command, world: Written) -> None:
        path = world(SMALL.replace('"exit"', '"exit", "attach"'))
        done = pasidlab("check", path, *READABLE)
        assert "\n3 │ the state then: p0 and acc0                             │       \n" in done.out
        assert "\n  2  p0 has number 1 for ENQCMD and ST64BV0, and no normal bind has succeeded in it\n" in done.out

    def test_a_number_that_a_scheme_never_gives_back_is_a_leak(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        mine = scheme(tmp_path, "def mm_pasid_drop(self, mm): pass")
        done = pasidlab("check", world(), "--scheme", mine)
        assert done.status == 1
        assert "mine      violated: no-leak; " in done.out
        assert "the global space still holds 1, which nobody is left to give back\n" in done.out


def scheme(folder: Path, *methods: str) -> str:
    """Write a scheme that differs from mainline in some methods, and return its name for the command line."""
    path = folder / "mine.py"
    lines = ["from pasidlab.schemes import Mainline", "class Mine(Mainline):", "    name = 'mine'"]
    path.write_text("\n".join([*lines, *(f"    {method}" for method in methods)]) + "\n")
    return f"{path}:Mine"


class TestSpread:
    def test_processes_give_the_same_results_in_the_same_order(self, pasidlab: Command, world: Written) -> None:
        search = ("check", world(), world(SLOPPY, "sloppy.toml"), "--engine", "readable", "--scheme", "v2,mainline")

        def records(*more: object) -> list[dict]:
            found = [json.loads(line) for line in pasidlab(*search, "--json", "-", *more).out.splitlines()]
            return [{key: value for key, value in one.items() if key not in ("seconds", "memory")} for one in found]

        assert records("--processes", 2) == records()


class TestMessages:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("actions = []" + MACHINE, "actions = []: nothing may happen; allowed: bind, bind_device"),
            (MACHINE, "actions: missing; name some of: bind, "),
            (SMALL.replace("pasid_bits = 1", 'group = "g"'), "device[0].group = 'g': a device of a world has a group"),
            (
                SMALL.replace("max_pasids = 2", "").replace("pasid_bits = 1", "pasid_bits = 20"),
                "device acc0: carries 1,048,575 numbers, more than the 1023 of a world; set max_pasids of iommu0",
            ),
            (SMALL + "[[process]]\nname = 'p0'\n", "process[2].name = 'p0': another process has this name"),
            (
                SMALL.replace('"exit"', '"fly"'),
                "actions[2] = 'fly': invalid enum value 'fly'; allowed: alloc_global, attach",
            ),
            (HEAD, "process: missing; a world has at least one [[process]]"),
            ('always = ["none"]' + SMALL, "property 'none': no such property; known: one-mm-per-number"),
            ("always = []" + SMALL, "always = []: nothing to hold"),
            (SMALL + "\n[bounds]\nstates = 0\n", "bounds.states = 0: expected `int` >= 1"),
            (SMALL + "\n[bounds]\nseconds = 0\n", "bounds.seconds = 0: expected `float` > 0"),
            (SMALL + '\n[sometimes]\nmine = ["bind=ok"]\n', "sometimes.mine: no such scheme; known here: hybrid"),
            (SMALL + '\n[sometimes]\nv2 = ["bind=wet"]\n', "sometimes.v2 = 'bind=wet': no such result; allowed: ok"),
            (SMALL + '\n[sometimes]\nv2 = ["attach=ok"]\n', "sometimes.v2 = 'attach=ok': can never be reached"),
            ('scheme = "v9"' + SMALL, "scheme 'v9': no such scheme; known: mainline"),
            ("= 3", "not TOML"),
            ("", "the file is empty"),
        ],
    )
    def test_a_bad_world_is_told_with_its_file(
        self, pasidlab: Command, world: Written, text: str, message: str
    ) -> None:
        path = world(text)
        done = pasidlab("check", path, "--engine", "readable")
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"pasidlab: {path}: ")
        assert message in done.err
        assert len(done.err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--max-states", "0"), "--max-states 0: must be at least 1"),
            (("--max-depth", "-1"), "--max-depth -1: must be at least 1"),
            (("--max-seconds", "0"), "--max-seconds 0.0: must be more than 0"),
            (("--max-seconds", "nan"), "--max-seconds nan: must be more than 0"),
            (("--workers", "0"), "--workers 0: must be at least 1"),
            (("--workers", "65"), "--workers 65: must be at most 64"),
            (("--cluster", "nowhere"), "--cluster 'nowhere': no dask scheduler answers there: an address is HOST:PORT"),
            (("--processes", "0"), "--processes 0: must be at least 1"),
            (("--engine", "steam"), "--engine 'steam': allowed: compiled, readable"),
            (("--scheme", "v9"), "scheme 'v9': no such scheme; known: mainline"),
            (("--property", "none"), "property 'none': no such property"),
            (("--property", "none.py:bad"), "none.py: no such file"),
            (("--option", "guard=wall"), "--option guard = 'wall': invalid enum value"),
        ],
    )
    def test_a_bad_option_is_told(
        self, pasidlab: Command, world: Written, options: tuple[str, ...], message: str
    ) -> None:
        done = pasidlab("check", world(), *options)
        assert (done.status, done.out) == (2, "")
        assert message in done.err
        assert len(done.err.splitlines()) == 1

    def test_a_missing_file_is_told(self, pasidlab: Command, tmp_path: Path) -> None:
        done = pasidlab("check", tmp_path / "none.toml")
        assert (done.status, done.err) == (
            2,
            f"pasidlab: {tmp_path}/none.toml: cannot be read: No such file or directory\n",
        )

    def test_a_bad_world_behind_a_good_one_is_told_before_any_search(self, pasidlab: Command, world: Written) -> None:
        bad = world(SMALL + '\n[sometimes]\nv2 = ["attach=ok"]\n', "bad.toml")
        done = pasidlab("check", world(), bad, *READABLE)
        assert (done.status, done.out) == (2, "")

    def test_a_property_that_raises_is_told_with_file_line_and_function(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        mine = tmp_path / "mine.py"
        mine.write_text("def bad(state):\n    raise RuntimeError('not today')\n")
        path, page = world(), tmp_path / "page.html"
        done = pasidlab("check", path, *READABLE, "--property", f"{mine}:bad", "--html", page)
        assert done.status == 2
        assert done.err == f"pasidlab: {path}: property bad ({mine}, line 2) raised RuntimeError: not today\n"
        assert not page.exists()

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ("def bad(state):\n    exit(3)", "line 2) raised SystemExit: 3\n"),
            ("def bad(state):\n    int(\n        'x')", "line 2) raised ValueError: invalid literal"),
            (
                "async def bad(state):\n    return False",
                "'bad' must be a plain function, neither async nor with a yield",
            ),
            ("def bad(state):\n    yield False", "'bad' must be a plain function, neither async nor with a yield"),
            ("def bad(state):\n    pass", "returned None; it must return True when it is broken, else False"),
        ],
    )
    def test_what_a_property_does_wrong_is_told(
        self, pasidlab: Command, world: Written, tmp_path: Path, lines: str, message: str
    ) -> None:
        mine = tmp_path / "mine.py"
        mine.write_text(f"{lines}\n")
        done = pasidlab("check", world(), *READABLE, "--property", os.path.relpath(f"{mine}:bad", ROOT))
        assert done.status == 2
        assert message in done.err

    def test_a_scheme_that_raises_is_told_with_the_steps_that_led_there(
        self, pasidlab: Command, world: Written, tmp_path: Path
    ) -> None:
        mine = scheme(tmp_path, "def unbind_device(self, handle): return 1 / 0")
        done = pasidlab("check", world(), "--scheme", mine)
        assert done.status == 2
        assert "scheme Mine raised ZeroDivisionError: division by zero (" in done.err
        assert done.err.endswith(
            "line 4, in unbind_device); this came of: p0 opens acc0; p0 gives back its file of acc0: "
            "the driver of acc0 stops the work of p0; the driver of acc0 drains the page requests of p0; "
            "the driver of acc0 unbinds p0\n"
        )


ENDLESS = """
import pathlib, time
def endless(state):
    pathlib.Path(__file__).with_name(f"begun.{time.monotonic_ns()}").touch()
    time.sleep(60)
"""
IMPATIENT = """
import pasidlab.explore.sweep
from pasidlab.cli import main
pasidlab.explore.sweep.LAST_WORDS = 0.2
main()
"""


def test_ctrl_c_ends_processes_that_do_not_look_up(tmp_path: Path, world: Written) -> None:
    (tmp_path / "mine.py").write_text(ENDLESS)
    path = world()
    search = ["check", path, *READABLE[:2], "--scheme", "mainline,v2", "--property", tmp_path / "mine.py:endless"]
    program = [sys.executable, "-c", IMPATIENT, *map(str, search), "--processes", "2"]
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        for _ in range(200):
            if len(list(tmp_path.glob("begun.*"))) == 2:
                break
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        out, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert out.splitlines()[3:] == []
    assert err == f"pasidlab: not searched: {path} under mainline, {path} under v2\npasidlab: interrupted\n"


def test_ctrl_c_prints_what_was_covered_and_ends_with_130(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    search = ["check", "worlds/default.toml", *READABLE[:3], "mainline,v2", "--html", str(page)]
    program = [sys.executable, "-u", "-m", "pasidlab", *search]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        first = [running.stdout.readline() for _ in range(3)]
        try:
            running.wait(timeout=0.7)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert first[0].startswith("Three processes")
    assert running.returncode == 130
    assert out.startswith("mainline  interrupted: nothing broken in ")
    assert err == "pasidlab: not searched: worlds/default.toml under v2\npasidlab: interrupted\n"
    assert "interrupted" in page.read_text()


def test_ctrl_c_is_heard_though_a_callback_of_the_compiler_ignores_it() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def compile_patiently() -> None:
        with patience():
            ctypes.CFUNCTYPE(None)(interrupted)()
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        compile_patiently()


def test_what_takes_long_before_a_search_begins_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pasidlab.cli.common.PATIENCE", 0.05)
    with patience() as begun:
        begun()
        time.sleep(0.2)
    assert capsys.readouterr().err == ""
    with patience():
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("pasidlab: the search is being compiled, once on this machine")


def test_every_shipped_world_can_be_read() -> None:
    paths = sorted((ROOT / "worlds").glob("*.toml"))
    assert {"portal.toml", "narrow.toml", "teardown.toml", "default.toml"} <= {path.name for path in paths}
    assert all(World.load(path).verbs for path in paths)

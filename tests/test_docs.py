"""What the documents show is run: commands with the output that stands under them, Python as it stands."""

from __future__ import annotations

import json
import re
import shlex
import tarfile
import typing
from pathlib import Path
from typing import Any

import pytest

from pasidlab import platforms
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.explore.action import NAMES
from pasidlab.explore.properties import PROPERTIES
from pasidlab.explore.world import Bounds, DeviceClass, ProcessClass, Teardown, World
from pasidlab.platforms import capture
from pasidlab.platforms.host.wanted import TABLES
from pasidlab.report.lists import rules_matching
from pasidlab.scenario import AnyStep, Scenario
from pasidlab.schemes import SCHEMES

from .conftest import ROOT, Command
from .example_host import CAPTURES, make_board

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CHECK = ROOT / "docs" / "check.md"
IMPORT = ROOT / "docs" / "import.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STATUS = re.compile(r"exit status (\d+)")
TAKEN = re.compile(r"[\d,.]+ s, [\d,.]+ MiB")
"""Seconds and memory, which differ from run to run."""


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        texts = [text for kind, text in BLOCK.findall(document.read_text()) if kind == language]
        found += [(f"{document.name} {number}", text) for number, text in enumerate(texts, start=1)]
    return found


class Shown(typing.NamedTuple):
    """A command of a console block: what is under it, and the exit status that its last line may tell."""

    command: str
    lines: list[str]
    status: int = 0


def commands(text: str) -> list[Shown]:
    """Split a console block into commands, each with the output lines under it."""
    found: list[Shown] = []
    for line in text.splitlines():
        status = STATUS.fullmatch(line)
        if line.startswith("$ "):
            found.append(Shown(line[2:], []))
        elif status and found:
            found[-1] = found[-1]._replace(status=int(status[1]))
        elif line.strip() and found:
            found[-1].lines.append(stable(line))
    return found


def stable(line: str) -> str:
    return TAKEN.sub("some s, some MiB", line.rstrip())


CONSOLE = blocks("console")


PAGES = {
    name: [shown for page, text in CONSOLE if page.partition(" ")[0] == name for shown in commands(text)]
    for name in dict.fromkeys(page.partition(" ")[0] for page, _ in CONSOLE)
}
"""The commands of each page, which may use files that earlier ones of it wrote."""


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Make a directory in which commands find the repository's files and write their own."""
    for name in ("docs", "scenarios", "tests", "worlds"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_a_command_prints_what_the_document_shows(pasidlab: Command, workplace: Path, page: str) -> None:
    for command, expected, status in PAGES[page]:
        program, *arguments = shlex.split(command)
        assert program == "pasidlab", command
        done = pasidlab(*arguments, cwd=workplace)
        assert done.status == status, done.err or done.out
        printed = iter([stable(line) for line in done.out.splitlines()])
        for line in expected:
            assert line in printed, f"{command} does not print: {line}"


def test_an_exit_status_in_a_console_block_belongs_to_the_command_above_it() -> None:
    shown = commands("$ pasidlab a\nout  1.2 s, 3 MiB\nexit status 3\n$ pasidlab b\n")
    assert shown == [Shown("pasidlab a", ["out  some s, some MiB"], 3), Shown("pasidlab b", [])]


PYTHON = blocks("python")


@pytest.mark.parametrize("block", [text for _, text in PYTHON], ids=[name for name, _ in PYTHON])
def test_python_in_a_document_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block, "document", "exec"), {})


def in_backticks(text: str) -> list[tuple[str, int]]:
    """Return the commands of a page, each with the status that may stand behind it, as (exit status 1)."""
    found = re.findall(rf"`pasidlab ([^`]+)`(?:\s+\({STATUS.pattern}\))?", text)
    return sorted({(command, int(status or 0)) for command, status in found})


THREAD = in_backticks((ROOT / "docs" / "thread.md").read_text())


@pytest.mark.parametrize(("command", "status"), THREAD, ids=[command[:60] for command, _ in THREAD])
def test_a_command_in_backticks_of_the_thread_document_works(pasidlab: Command, command: str, status: int) -> None:
    done = pasidlab(*shlex.split(command))
    assert done.status == status, f"pasidlab {command}: {done.err or done.out}"


def test_a_status_in_brackets_belongs_to_the_command_before_it() -> None:
    assert in_backticks("`pasidlab a b` (exit status 1), and `pasidlab c` (slow)") == [("a b", 1), ("c", 0)]


SEARCHED = ("R1", "R8", "R11", "R12", "R15", "R17", "R18", "R22", "R23", "N1")


@pytest.mark.parametrize("requirement", SEARCHED)
def test_what_a_search_settles_names_the_search(requirement: str) -> None:
    text = (ROOT / "docs" / "thread.md").read_text()
    section = re.search(rf"^### {requirement} .*?(?=^### )", text, re.MULTILINE | re.DOTALL)
    assert section
    assert "`pasidlab check worlds/" in section[0]


@pytest.mark.parametrize("number", range(1, 34))
def test_every_requirement_of_the_thread_has_its_section(number: int) -> None:
    text = (ROOT / "docs" / "thread.md").read_text()
    assert re.search(rf"^### R{number} ", text, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    named = re.findall(r"(?:scenarios|tests/data|docs|benchmarks|worlds)/[\w./*-]+\.\w+", document.read_text())
    missing = [name for name in named if "*" not in name and not (ROOT / name).exists()]
    assert not missing


def test_every_rule_id_in_a_document_exists() -> None:
    seen = 0
    known = {rule.id for rule in rules_matching("")}
    families = "|".join(sorted({rule.partition(".")[0] for rule in known}))
    for document in DOCUMENTS:
        found = re.findall(rf"[`\[]((?:{families})\.[\w-]+)[`;\]]", document.read_text())
        seen += len(found)
        assert [
            rule for rule in found if rule not in known and not rule.startswith("kernel.") and not rule.endswith(".py")
        ] == [], document.name
    assert seen > 10


def test_the_scheme_authors_guide_has_its_example(pasidlab: Command) -> None:
    examples = "docs/examples/top_down.py:TopDown,docs/examples/own_space.py:OwnSpace"
    done = pasidlab("run", "scenarios/narrow.toml", "--scheme", f"mainline,{examples}")
    assert done.status == 0
    assert re.search(r"bind npu0 c +│ ENOSPC +│ ok 3 +│ ok 1", done.out)


def test_an_example_scheme_refuses_in_its_own_words(pasidlab: Command) -> None:
    example = "docs/examples/own_space.py:OwnSpace"
    done = pasidlab("run", "scenarios/core_or_driver_exhausted.toml", "--scheme", example)
    assert "every number of npu0 is attached [own-space.full]" in done.out


TOML = [(name, text) for name, text in blocks("toml") if "[[step]]" in text]


@pytest.mark.parametrize("block", [text for _, text in TOML], ids=[name for name, _ in TOML])
def test_a_scenario_in_a_document_meets_its_expectations(pasidlab: Command, tmp_path: Path, block: str) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(block)
    done = pasidlab("run", path)
    assert done.status == 0, done.out


def test_the_scenario_reference_has_every_verb_and_every_key() -> None:
    text = (ROOT / "docs" / "scenarios.md").read_text()
    words = set(re.findall(r"\w+", text))
    for step in typing.get_args(AnyStep):
        assert step.__struct_config__.tag in words
        assert set(step.__struct_encode_fields__) <= words, step
    for spec in (CpuSpec, IommuSpec, DeviceSpec, ProcessSpec, Scenario):
        assert set(spec.__struct_encode_fields__) <= words, spec


# --- docs/import.md ----------------------------------------------------------------------------------------------


def test_the_import_document_names_every_reader() -> None:
    quoted = set(re.findall(r"`(\w+)`", IMPORT.read_text()))
    readers = {name for name in platforms.__all__ if name.startswith("read_")}
    assert len(readers) > 10
    assert readers | {"import_machine", "load_machine"} <= quoted


def test_the_import_document_names_every_table_that_a_capture_takes() -> None:
    assert set(TABLES.split("|")) <= set(re.findall(r"[A-Z]{4}", IMPORT.read_text()))


def test_the_capture_of_the_import_document_is_what_its_board_gives(tmp_path: Path) -> None:
    shown = CAPTURES / "npu-board.tar.gz"
    capture(make_board(tmp_path / "board"), tmp_path / "board.tar.gz")
    assert content(tmp_path / "board.tar.gz") == content(shown)


def content(archive: Path) -> dict[str, Any]:
    """Return the files of a capture, without the version of what took it."""
    with tarfile.open(archive) as members:
        files: dict[str, Any] = {one.name: members.extractfile(one).read() for one in members}
    files["manifest.json"] = json.loads(files["manifest.json"])
    del files["manifest.json"]["tool"]
    return files


# --- docs/check.md -----------------------------------------------------------------------------------------------


WORLD_BLOCKS = [(name, text) for name, text in blocks("toml") if "actions = " in text and "[[step]]" not in text]


@pytest.mark.parametrize("block", [text for _, text in WORLD_BLOCKS], ids=[name for name, _ in WORLD_BLOCKS])
def test_a_world_in_a_document_can_be_searched(pasidlab: Command, tmp_path: Path, block: str) -> None:
    path = tmp_path / "world.toml"
    path.write_text(block)
    done = pasidlab("check", path, "--max-states", "10000")
    assert done.status in (0, 3), done.err or done.out


def test_the_worlds_of_the_check_document_are_those_that_ship() -> None:
    named = set(re.findall(r"`worlds/(\w+\.toml)`", CHECK.read_text()))
    assert named == {path.name for path in (ROOT / "worlds").glob("*.toml")}


def test_the_check_document_has_every_key_action_property_and_option(pasidlab: Command) -> None:
    quoted = {word for text in re.findall(r"`([^`\n]+)`", CHECK.read_text()) for word in re.findall(r"[\w-]+", text)}
    for spec in (World, Teardown, Bounds):
        assert set(spec.__struct_encode_fields__) <= quoted, spec
    for counted, plain in ((ProcessClass, ProcessSpec), (DeviceClass, DeviceSpec)):
        assert set(counted.__struct_encode_fields__) - set(plain.__struct_encode_fields__) <= quoted, counted
    assert {*NAMES} <= quoted
    assert {verb.name.lower() for verbs in NAMES.values() for verb in verbs} <= quoted
    assert {*PROPERTIES} <= quoted
    options = set(re.findall(r"(?<=\s)--[\w-]+", pasidlab("check", "--help").out))
    assert {"--scheme", "--no-symmetry", "--max-depth", "--junit"} <= options <= quoted


def verdict_rows() -> list[tuple[str, str, str]]:
    """Return the cells of the table of verdicts: what is searched, under which scheme, and what comes out."""
    rows = re.findall(r"^\| `(worlds/\w+\.toml[^`]*)` \| (.* \| .* \| .* \| .*) \|$", CHECK.read_text(), re.MULTILINE)
    return [
        (arguments, scheme, cell)
        for arguments, cells in rows
        for scheme, cell in zip(SCHEMES, cells.split(" | "), strict=True)
    ]


VERDICTS = verdict_rows()
SLOW = {("worlds/default.toml", scheme) for scheme in ("mainline", "v2", "hybrid")}
"""Millions of states, which tests/test_worlds.py has."""
SOON = [row for row in VERDICTS if row[:2] not in SLOW]


@pytest.mark.parametrize("row", SOON, ids=[f"{arguments} {scheme}" for arguments, scheme, _ in SOON])
def test_a_verdict_in_the_check_document_is_what_a_search_says(pasidlab: Command, row: tuple[str, str, str]) -> None:
    arguments, scheme, cell = row
    done = pasidlab("check", *shlex.split(f"{arguments} --scheme {scheme} --json -"))
    verdict = json.loads(done.out)
    first = verdict["traces"][0] if verdict["traces"] else None
    assert cell == (f"`{first['property']}`, {len(first['steps'])}" if first else verdict["status"])


def test_the_table_of_verdicts_has_every_world() -> None:
    searched = {arguments.split()[0] for arguments, _, _ in VERDICTS}
    assert searched == {f"worlds/{path.name}" for path in (ROOT / "worlds").iterdir()}


def test_the_example_of_own_properties_stands_in_the_check_document() -> None:
    example = (ROOT / "docs" / "examples" / "properties.py").read_text()
    shown = next(text for name, text in blocks("python") if name == "check.md 1")
    assert example.endswith(shown)


@pytest.mark.parametrize(("scheme", "status"), [("mainline", 0), ("rfc", 1), ("v2", 0)])
def test_the_example_of_a_property_of_states_is_judged(pasidlab: Command, scheme: str, status: int) -> None:
    name = "docs/examples/properties.py:one_register"
    done = pasidlab("check", "worlds/caches.toml", "--scheme", scheme, "--property", name)
    assert done.status == status, done.out
    assert "1 property in" in done.out or "violated: docs/examples/properties.py:one_register" in done.out

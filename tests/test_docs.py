"""What the documents show is run: commands with the output that stands under them, Python as it stands."""

from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path

import pytest

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.rules import RULES
from pasidlab.scenario import AnyStep, Scenario

from .conftest import ROOT, Command

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        texts = [text for kind, text in BLOCK.findall(document.read_text()) if kind == language]
        found += [(f"{document.name} {number}", text) for number, text in enumerate(texts, start=1)]
    return found


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Split a console block into commands, each with the output lines under it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip() and found:
            found[-1][1].append(line.rstrip())
    return found


CONSOLE = blocks("console")


@pytest.mark.parametrize("block", [text for _, text in CONSOLE], ids=[name for name, _ in CONSOLE])
def test_a_command_prints_what_the_document_shows(pasidlab: Command, block: str) -> None:
    for command, expected in commands(block):
        program, *arguments = shlex.split(command)
        assert program == "pasidlab", command
        done = pasidlab(*arguments)
        assert done.status == 0, done.err
        printed = iter([line.rstrip() for line in done.out.splitlines()])
        for line in expected:
            assert line in printed, f"{command} does not print: {line}"


PYTHON = blocks("python")


@pytest.mark.parametrize("block", [text for _, text in PYTHON], ids=[name for name, _ in PYTHON])
def test_python_in_a_document_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block, "document", "exec"), {})


def test_every_command_in_backticks_of_the_thread_document_works(pasidlab: Command) -> None:
    text = (ROOT / "docs" / "thread.md").read_text()
    for command in sorted(set(re.findall(r"`pasidlab ([^`]+)`", text))):
        done = pasidlab(*shlex.split(command))
        assert done.status == 0, f"pasidlab {command}: {done.err or done.out}"


@pytest.mark.parametrize("number", range(1, 34))
def test_every_requirement_of_the_thread_has_its_section(number: int) -> None:
    text = (ROOT / "docs" / "thread.md").read_text()
    assert re.search(rf"^### R{number} ", text, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    named = re.findall(r"(?:scenarios|tests/data|docs|benchmarks)/[\w./*-]+\.\w+", document.read_text())
    missing = [name for name in named if "*" not in name and not (ROOT / name).exists()]
    assert not missing


def test_every_rule_id_in_a_document_exists() -> None:
    seen = 0
    for document in DOCUMENTS:
        families = "|".join(sorted({rule.partition(".")[0] for rule in RULES}))
        found = re.findall(rf"[`\[]((?:{families})\.[\w-]+)[`;\]]", document.read_text())
        seen += len(found)
        assert [
            rule for rule in found if rule not in RULES and not rule.startswith("kernel.") and not rule.endswith(".py")
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

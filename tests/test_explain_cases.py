"""Public cases: the symptom goes in, and the cause is among the first two answers.

`tests/data/cases/README.md` says what the files are. A case whose cause nobody knows has `honest` in the place of
`expected`: what can be said of it without guessing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pasidlab.decode import convert, read_toml
from pasidlab.explain import Question, Standing, explain, explain_log
from pasidlab.platforms.importing import load_machine
from pasidlab.rules import RULES

from .conftest import ROOT, Command

CASES = sorted(path for path in (ROOT / "tests" / "data" / "cases").iterdir() if path.is_dir())
DOCUMENT = ROOT / "docs" / "explain.md"
NUMBERS = (*range(1, 21), 25, 28)
OF_A_CALL = [path for path in CASES if "\nresult = " in (path / "case.toml").read_text()]
BY_LINE_ALONE = {
    "11": "the line says that SVA is off, the machine says why",
    "18": "the library's status says nothing of page tables",
}
"""Cases that need the machine, and why."""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    symptom: str
    device: str
    known: str
    assumed: str
    call: str = ""
    result: str = ""
    expected: str = ""
    honest: str = ""

    @property
    def wanted(self) -> str:
        return self.expected or self.honest


def read_case(path: Path) -> Case:
    return convert(read_toml(path / "case.toml"), Case)


def first_two(path: Path, *, with_machine: bool) -> list[str]:
    case = read_case(path)
    machine = load_machine(path / "machine.toml") if with_machine else None
    answers = explain_log(case.symptom, machine, case.device if with_machine else None)
    return [cause.rule.id for cause in answers[-1].causes[:2]]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_the_cause_is_among_the_first_two_answers(path: Path) -> None:
    assert read_case(path).wanted in first_two(path, with_machine=True)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_the_line_alone_names_the_cause_unless_only_the_machine_knows(path: Path) -> None:
    found = read_case(path).wanted in first_two(path, with_machine=False)
    assert found != (path.name[:2] in BY_LINE_ALONE)


@pytest.mark.parametrize("path", OF_A_CALL, ids=lambda path: path.name)
def test_the_call_gives_the_same_on_the_model(path: Path) -> None:
    case = read_case(path)
    answer = explain(Question(case.call, case.result, load_machine(path / "machine.toml"), case.device))
    assert answer.ran is not None
    assert (answer.ran.result, answer.ran.rule) == (case.result, case.expected)
    assert answer.causes[0].standing is Standing.SHOWN
    assert answer.causes[0].remedy


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_a_case_says_what_is_known_and_what_was_assumed(path: Path) -> None:
    case = read_case(path)
    assert case.wanted in RULES
    assert bool(case.expected) != bool(case.honest)
    assert case.known.endswith(".")
    assert case.assumed.endswith(".")


def test_every_case_is_there() -> None:
    assert [int(path.name[:2]) for path in CASES] == list(NUMBERS)


def test_a_cause_that_nobody_knows_is_not_claimed() -> None:
    assert [path.name[:2] for path in CASES if read_case(path).honest] == ["06", "08", "15"]


def test_five_level_tables_are_ruled_out_where_no5lvl_was_given() -> None:
    path = next(path for path in CASES if path.name.startswith("08"))
    answer = explain(Question("enable_feature", machine=load_machine(path / "machine.toml")))
    fact = next(cause.fact for cause in answer.ruled_out if cause.rule.id == "intel.svm-no-5-level")
    assert fact == "page tables of 4 levels, 0000:f2:01.0 is behind dmar0 (intel-vtd), which walks up to 5"


def table() -> list[str]:
    """Return the table of cases as the document has it."""
    lines = ["| case | symptom | first answers | known | assumed here |", "|---|---|---|---|---|"]
    for path in CASES:
        case = read_case(path)
        symptom = case.symptom.strip().splitlines()[-1].replace("|", "\\|")
        answers = ", ".join(f"`{rule}`" for rule in first_two(path, with_machine=True))
        known = case.known.replace("\n", " ").strip()
        if case.honest:
            known = f"{known} **Cause unknown.**"
        assumed = case.assumed.replace("\n", " ").strip()
        lines.append(f"| {case.source} | `{symptom}` | {answers} | {known} | {assumed} |")
    return lines


def test_the_document_has_the_table_of_cases() -> None:
    text = DOCUMENT.read_text()
    missing = [line for line in table() if line not in text.splitlines()]
    assert not missing, "\n".join(table())


def test_a_case_is_explained_on_the_command_line(pasidlab: Command) -> None:
    path = "tests/data/cases/18-qpl-50/machine.toml"
    done = pasidlab("explain", "QPL_STS_INIT_WORK_QUEUES_NOT_AVAILABLE", "--machine", path)
    assert done.status == 0
    assert "do: boot with no5lvl" in done.out

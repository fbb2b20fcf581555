"""Every scenario that ships, under every scheme, with the expectations that it carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from pasidlab.events import Event, PasidAllocated, PasidFreed
from pasidlab.machine import Machine
from pasidlab.rules import RULES
from pasidlab.runner import run
from pasidlab.scenario import Scenario
from pasidlab.schemes import SCHEMES

from .conftest import ROOT

FILES = sorted((ROOT / "scenarios").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_expectation_is_met_under_every_scheme(path: Path) -> None:
    reports = run(path, "all")
    unmet = [(r.scheme, s.number, s.unmet) for r in reports for s in r.steps if s.unmet]
    assert not unmet
    assert [report.scheme for report in reports] == list(SCHEMES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_outcome_names_a_rule_that_resolves(path: Path) -> None:
    for report in run(path, "all"):
        for step in report.steps:
            assert step.outcome.rule in RULES, (report.scheme, step)
            assert step.outcome.why
            assert "{" not in step.outcome.why


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_expects_something_under_each_scheme(path: Path) -> None:
    steps = Scenario.load(path).step
    for scheme in SCHEMES:
        assert any(s.expect is not None and (isinstance(s.expect, str) or scheme in s.expect) for s in steps), scheme


def test_every_scenario_is_listed_with_the_question_that_it_answers() -> None:
    text = (ROOT / "docs" / "thread.md").read_text()
    assert [path.name for path in FILES if f"scenarios/{path.name}" not in text] == []


def test_every_refusal_of_a_full_space_names_the_holders() -> None:
    seen = 0
    for path in FILES:
        for report in run(path, "all"):
            for step in report.steps:
                if step.outcome.rule == "bind.no-number-free":
                    seen += 1
                    assert step.outcome.holders
                    assert all(holder for _, holder in step.outcome.holders)
                    assert f"{step.outcome.holders[0][0]} is held by" in step.outcome.why
    assert seen > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_events_tell_every_number_that_comes_and_goes(path: Path) -> None:
    scenario = Scenario.load(path)
    for scheme in SCHEMES.values():
        machine = Machine(scenario, scheme(scenario.options))
        held = set(machine.kernel.iommu_global_pasid_ida)

        def follow(event: Event, held: set[int] = held) -> None:
            if isinstance(event, PasidAllocated):
                held.add(event.pasid)
            elif isinstance(event, PasidFreed):
                held.remove(event.pasid)

        machine.kernel.observers.append(follow)
        for step in scenario.step:
            step.perform(machine)
            assert held == set(machine.kernel.iommu_global_pasid_ida), (scheme.name, step)

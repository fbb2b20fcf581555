"""What is the same of a scenario on a mock and on an IOMMU to the bit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pasidlab.description import MOCK, on_model
from pasidlab.runner import Report, StepReport, run
from pasidlab.scenario import Scenario

from .conftest import ROOT

FILES = [path for path in sorted((ROOT / "scenarios").glob("*.toml")) if "\ndetach = " not in path.read_text()]
"""Where a driver has an order of its own for taking entries away, what comes of it is up to the model of IOMMU."""
NO_SVA = ("EOPNOTSUPP", "driver.no-sva-feature")
WORDS_OF_THE_MOCK = {("EOPNOTSUPP", "arm-smmu-v3.no-sva"): NO_SVA, ("ENODEV", "intel.svm-not-coherent"): NO_SVA}
"""Refusals for which a driver has an errno or a name of its own."""


@cache
def scenario_of(path: Path) -> Scenario:
    return Scenario.load(path)


@cache
def on_mocks(path: Path) -> list[Report]:
    return run(on_model(scenario_of(path), MOCK), "all")


def seen(step: StepReport) -> tuple[Any, ...]:
    """What must be equal; of a fault the rule differs, since hardware names its own."""
    outcome = step.outcome
    rule = "" if outcome.result == "fault" else outcome.rule
    words = WORDS_OF_THE_MOCK.get((outcome.result, rule), (outcome.result, rule))
    return step.number, words, outcome.pasid, outcome.work, step.trespass, outcome.holders


def differences(mock: list[Report], other: list[Report]) -> list[Any]:
    pairs = [(a.scheme, x, y) for a, b in zip(mock, other, strict=True) for x, y in zip(a.steps, b.steps, strict=True)]
    return [(scheme, x.do, seen(x), seen(y)) for scheme, x, y in pairs if seen(x) != seen(y)]


def unmet(reports: list[Report]) -> list[Any]:
    return [(report.scheme, step.number, step.unmet) for report in reports for step in report.steps if step.unmet]


def done_by_devices(reports: Iterable[Report]) -> int:
    return sum(any(step.outcome.work for step in report.steps) for report in reports)

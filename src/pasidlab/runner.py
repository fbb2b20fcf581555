"""Run a scenario under one scheme or several, and hold each step against what was expected."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pasidlab.decode import convert
from pasidlab.description import MODELS, NOBODY, FindingSpec, MachineSpec, on_model
from pasidlab.drivers.traits import Mode
from pasidlab.errors import InputError
from pasidlab.linux.profiles import profile
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.rules import MOST_LISTED, RULES, Finding, counted, listing
from pasidlab.scenario import Scenario, Step, perform
from pasidlab.schemes import SCHEMES, Options, Scheme, find_schemes

T = TypeVar("T", int, str)


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step under one scheme.

    Attributes:
        number: counts from 1.
        unmet: what was expected and did not come.
        trespass: the process that submitted, where the work was done in memory that is not its own; else empty.
        during: the step of an IOMMU's driver after which it happened, inside the call of a step before; else empty.
    """

    number: int
    do: str
    subject: str
    outcome: Outcome
    unmet: tuple[str, ...] = ()
    trespass: str = ""
    during: str = ""

    @property
    def result(self) -> str:
        """The result in one word."""
        return self.outcome.result

    def as_dict(self, scheme: str) -> dict[str, Any]:
        """Return the step as `pasidlab run --json` prints it."""
        outcome, work = self.outcome, self.outcome.work
        rule = RULES.get(outcome.rule)
        return {
            "scheme": scheme,
            "step": self.number,
            "do": self.do,
            "subject": self.subject,
            "during": self.during or None,
            "result": outcome.result,
            "pasid": outcome.pasid,
            "rule": outcome.rule or None,
            "source": rule.source if rule else None,
            "why": outcome.why,
            "holders": [{"pasid": pasid, "holder": holder} for pasid, holder in outcome.holders],
            "work": None if work is None else {"owner": work.owner, "pasid": work.pasid, "data": _text(work.data)},
            "trespass": bool(self.trespass),
            "detail": list(outcome.detail),
            "unmet": list(self.unmet),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A scenario under one scheme.

    Attributes:
        settings: the switches and options that differ from their defaults.
        findings: what was found out about the machine on the way.
        machine: of a machine without steps, what it is in a line or two; else nothing.
        imported: what an import of the machine found.
    """

    title: str
    scheme: str
    kernel: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: list[StepReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    machine: tuple[str, ...] = ()
    imported: tuple[FindingSpec, ...] = ()

    @property
    def found(self) -> list[tuple[str, str]]:
        """Rule and sentence of each finding, those of an import first."""
        own = [(finding.rule.id, finding.why) for finding in self.findings]
        return list(dict.fromkeys([(finding.rule, finding.why) for finding in self.imported] + own))

    @property
    def met(self) -> bool:
        """Whether every expectation was met."""
        return not any(step.unmet for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as `pasidlab run --json` prints it."""
        unmet = sum(bool(step.unmet) for step in self.steps)
        return {
            "scheme": self.scheme,
            "summary": True,
            "title": self.title,
            "kernel": self.kernel,
            "settings": self.settings,
            "steps": len(self.steps),
            "unmet": unmet,
            "met": self.met,
            "findings": [{"rule": rule, "why": why} for rule, why in self.found],
        }


def run(
    scenario: Scenario | str | Path,
    schemes: str | Iterable[type[Scheme]] | None = None,
    *,
    kernel: str | None = None,
    model: str | None = None,
    options: dict[str, Any] | None = None,
) -> list[Report]:
    """Run a scenario, or the file of one, under each scheme; the order is that of `schemes`.

    `schemes` is a name, a comma-separated list, "all", FILE.py:CLASS, or classes; None is the scenario's own.
    `kernel` and `options` override the scenario's, and `model` that of each of its IOMMUs. Raises InputError for bad
    input, and for a user's scheme that raises. A machine without steps is the same under all: there is one report.
    """
    if not isinstance(scenario, Scenario):
        scenario = Scenario.load(scenario)
    if schemes is None:
        schemes = scenario.scheme
    classes = find_schemes(schemes) if isinstance(schemes, str) else list(schemes)
    if kernel is not None:
        profile(kernel)
        scenario = msgspec.structs.replace(scenario, kernel=kernel)
    if model is not None:
        scenario = on_model(scenario, model)
    if options:
        changed = convert(msgspec.structs.asdict(scenario.options) | options, Options)
        scenario = msgspec.structs.replace(scenario, options=changed)
    _check_scheme_names(scenario, {scheme.name for scheme in classes})
    return [_run_one(scenario, scheme) for scheme in (classes if scenario.step else classes[:1])]


def machine_at(
    scenario: Scenario, scheme: str = "mainline", steps: int | None = None, *, model: str | None = None
) -> Machine:
    """Return the machine of a scenario as it is under one scheme after its first `steps` steps, None for all.

    `model` overrides that of each of its IOMMUs. Raises InputError for a scheme that there is not, and for a step that
    the scenario does not have.
    """
    classes = find_schemes(scheme)
    if len(classes) != 1:
        raise InputError(f"scheme {scheme!r}: one scheme at a time; known: {', '.join(SCHEMES)}, or FILE.py:CLASS")
    last = len(scenario.step)
    if steps is not None and not 0 <= steps <= last:
        raise InputError(f"step {steps}: no such step; allowed: 0 (before the first) to {last}")
    if model is not None:
        scenario = on_model(scenario, model)
    with blamed(classes[0]):
        machine = Machine(scenario, classes[0](scenario.options))
        for _ in perform(machine, scenario.step[:steps]):
            pass
    return machine


def _run_one(scenario: Scenario, scheme: type[Scheme]) -> Report:
    machine_text = () if scenario.step else machine_lines(scenario)
    imported = tuple(scenario.finding)
    settings = settings_of(scenario)
    report = Report(scenario.title, scheme.name, scenario.kernel, settings, machine=machine_text, imported=imported)
    case = (*dict.fromkeys(iommu.model for iommu in scenario.iommu), scheme.name)
    with blamed(scheme):
        machine = Machine(scenario, scheme(scenario.options))
        for number, (step, outcome) in enumerate(perform(machine, scenario.step), start=1):
            unmet = tuple(_unmet(step, outcome, case))
            trespass = _trespass(step, machine, outcome)
            during = step.during or ""
            report.steps.append(StepReport(number, step.verb, step.subject, outcome, unmet, trespass, during))
    report.findings.extend(machine.kernel.findings)
    return report


def machine_lines(spec: MachineSpec) -> tuple[str, ...]:
    """Say in a line or two what a machine consists of."""
    models = Counter(iommu.model if iommu.ops is Mode.USUAL else iommu.ops.value for iommu in spec.iommu)
    iommus = ", ".join(f"{count:,} {model}" for model, count in models.items()) or "no IOMMU"
    behind = Counter(device.iommu for device in spec.device)
    units = (f"{iommu.name} ({behind[iommu.name]:,})" for iommu in spec.iommu[:MOST_LISTED])
    where = listing(units, len(spec.iommu)) if spec.iommu else ""
    alone = f"; behind none: {behind[None]:,}" if behind[None] else ""
    pasids = sum(bool(device.pasid_bits) or device.physfn is not None for device in spec.device)
    first = f"{iommus}" + (f", with the devices behind each: {where}" if where else "")
    names = listing((device.name for device in spec.device[:MOST_LISTED]), len(spec.device))
    devices = f"{counted(len(spec.device), 'device')}{f' ({names})' if names else ''}"
    return f"{first}{alone}", f"{devices}, {pasids:,} of them with PASIDs"


def settings_of(spec: MachineSpec) -> dict[str, Any]:
    """Return the switches and options of a machine that differ from their defaults."""
    defaults = msgspec.structs.asdict(Options())
    options = msgspec.structs.asdict(spec.options)
    return dict(spec.switches) | {key: value for key, value in options.items() if value != defaults[key]}


def _trespass(step: Step, machine: Machine, outcome: Outcome) -> str:
    """Return the submitting process if its work was done in memory of somebody else, or by somebody else's page."""
    if outcome.submitter:
        own = outcome.work is None or outcome.work.owner == outcome.submitter
        return "" if own else outcome.submitter
    submitter = getattr(step, "process", None)
    mm = machine.processes[submitter].mm if submitter in machine.processes else None
    if outcome.work is None or mm is None or outcome.work.owner == mm.name or not outcome.work.data:
        return ""
    return str(submitter)


class blamed:  # noqa: N801 - reads as a phrase: `with blamed(scheme)`
    """Turn an exception out of a user's scheme into an InputError that names file, line and class."""

    def __init__(self, scheme: type[Scheme]) -> None:
        self.scheme = scheme

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        builtin = self.scheme in SCHEMES.values()
        if builtin or error is None or isinstance(error, (InputError, KeyboardInterrupt)):
            return
        source = sys.modules[self.scheme.__module__].__file__
        frames = traceback.extract_tb(trace)
        frame = next((f for f in reversed(frames) if f.filename == source), None)
        place = f"{source}, line {frame.lineno}, in {frame.name}" if frame else str(source)
        raise InputError(f"scheme {self.scheme.__name__} raised {type(error).__name__}: {error} ({place})") from error


def _check_scheme_names(scenario: Scenario, running: set[str]) -> None:
    known = running | set(SCHEMES) | set(MODELS)
    for index, step in enumerate(scenario.step):
        for key in ("expect", "expect_pasid", "expect_work", "expect_data", "expect_detail"):
            table = getattr(step, key)
            unknown = sorted(set(table) - known) if isinstance(table, dict) else []
            if unknown:
                listed = ", ".join(sorted(known))
                raise InputError(f"step[{index}].{key}.{unknown[0]}: no such scheme or model; known here: {listed}")


def _unmet(step: Step, outcome: Outcome, case: tuple[str, ...]) -> Iterable[str]:
    """Yield what was expected and did not come; `case` names the models of the IOMMUs, then the scheme."""
    expected = _expected(step.expect, case)
    if expected is not None and expected != outcome.result:
        yield f"expected {expected}"
    number = _expected(step.expect_pasid, case)
    if number is not None and number != outcome.pasid:
        yield f"expected PASID {number}"
    owner = _expected(step.expect_work, case)
    touched = NOBODY if outcome.work is None else outcome.work.owner
    if owner is not None and owner != touched:
        yield f"expected work in the memory of {owner}, not {touched}"
    data = _expected(step.expect_data, case)
    moved = "" if outcome.work is None else _text(outcome.work.data)
    if data is not None and data != moved:
        yield f"expected the data {data!r}, not {moved!r}"
    detail = _expected(step.expect_detail, case)
    if detail is not None and not any(detail in line for line in outcome.detail):
        yield f"expected the detail to have {detail!r}"


def _expected(expected: T | dict[str, T] | None, case: tuple[str, ...]) -> T | None:
    if not isinstance(expected, dict):
        return expected
    return next((expected[name] for name in case if name in expected), None)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="backslashreplace")

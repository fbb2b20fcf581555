"""A counterexample as a scenario that `pasidlab run` replays, and as a trace for people.

Nothing is reported that was not seen: the scenario is run before it is shown, its outcomes must be those that the
search found, and the sentences of the trace are those of that run. Then it is run on every model of IOMMU; where
another model comes to something else, the expectation is a table by model, so that the file can be run on all of them.

Decided here: the steps of the file are counted, not the actions of the search, to which the RESUME of a call that
stands in a window belongs too. A property of states ends with a `show`, since its last step need not look wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pasidlab.description import KERNEL as KERNEL_MEMORY
from pasidlab.description import MOCK, MODELS
from pasidlab.description import NOBODY as NO_MEMORY
from pasidlab.drivers.hardware import FREED as FREED_MEMORY
from pasidlab.errors import InputError, ModelError
from pasidlab.explore.action import KERNEL, NOBODY, WORKS, Action, Result, Step, Verb
from pasidlab.explore.amiss import amiss
from pasidlab.explore.document import document
from pasidlab.explore.names import task_name
from pasidlab.explore.perform import WORK
from pasidlab.explore.properties import Property
from pasidlab.explore.readable import states_along
from pasidlab.explore.remains import remains
from pasidlab.explore.retold import Retold, living_task, retell, window_name
from pasidlab.explore.state import State
from pasidlab.explore.verdict import Counterexample
from pasidlab.explore.wanted import result_text
from pasidlab.explore.world import World
from pasidlab.runner import Report, StepReport, run
from pasidlab.scenario import Scenario
from pasidlab.schemes import Scheme
from pasidlab.toml_text import toml_text


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a trace, as the replay showed it.

    Attributes:
        number: the step's in the scenario, from 1.
        words: what happens.
        during: the step of the IOMMU's driver after which it happens, inside a call; else empty.
        result, pasid: how the call or the access ended; empty and None for a look at the state.
        owner: whose memory a device touched; empty when it was none.
        trespass: whose work it was, when that is another's; else empty.
        rule, why: the rule that settled it, and its sentence.
        detail: lines of a `show`.
    """

    number: int
    words: str
    during: str
    result: str
    pasid: int | None
    owner: str
    trespass: str
    rule: str
    why: str
    detail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A shortest way to break a property under a scheme.

    Attributes:
        property, rule, source: what is broken, what should hold, and where that is from.
        actions: how many actions of the search it is.
        last: the number of the step that breaks it.
        because: what of the state makes that step break it, where the step does not tell; else empty.
        scenario: the text of a file for `pasidlab run`.
    """

    property: str
    rule: str
    source: str
    actions: int
    last: int
    because: str
    steps: tuple[TraceStep, ...]
    scenario: str


class _Told(NamedTuple):
    """A step of the scenario to be; `found` is what the search says of it, None for one that it does not know."""

    retold: Retold
    found: Step | None = None


def trace_of(world: World, scheme: type[Scheme], counterexample: Counterexample, broken: Property) -> Trace:
    """Write the scenario of a counterexample, replay it, and say what happened; ModelError when it does not replay."""
    states = states_along(world, scheme, [step.action for step in counterexample.steps])
    told = list(_tell(world, states, counterexample.steps, broken))
    written, report = _written(world, scheme, counterexample, broken, told)
    return Trace(
        broken.name,
        broken.rule,
        broken.source,
        actions=len(counterexample.steps),
        last=max((number for number, one in enumerate(told, start=1) if one.found), default=0),
        because=_because(world, states, counterexample.steps, broken),
        steps=tuple(_seen(one, step) for one, step in zip(told, report.steps, strict=True)),
        scenario=toml_text(written),
    )


def scenario_of(world: World, scheme: type[Scheme], counterexample: Counterexample, broken: Property) -> dict[str, Any]:
    """Return the scenario of a counterexample, decoded; ModelError when it does not replay."""
    states = states_along(world, scheme, [step.action for step in counterexample.steps])
    told = list(_tell(world, states, counterexample.steps, broken))
    return _written(world, scheme, counterexample, broken, told)[0]


def told_words(world: World, scheme: type[Scheme], taken: Sequence[Action]) -> list[str]:
    """Tell actions from the start in words, of which the last need not succeed."""
    try:
        states = states_along(world, scheme, taken[:-1])
    except InputError:
        return ["something that does not repeat itself: does the scheme keep state outside its objects?"]
    told = (retell(world, before, action) for before, action in zip(states, taken, strict=True))
    return [one.words for one in told if one is not None]


def _because(world: World, states: Sequence[State], steps: Sequence[Step], broken: Property) -> str:
    if broken.name == "no-early-reuse":
        return remains(world, states[-2], steps[-1], states[-1])
    return amiss(world, broken.name, states[-1])


# --- the steps ---------------------------------------------------------------------------------------------------


def _tell(world: World, states: Sequence[State], steps: Sequence[Step], broken: Property) -> Iterator[_Told]:
    """Yield the steps of the scenario."""
    yield from _threads(world, steps)
    yield from _pages(world, states, steps)
    for before, step in zip(states, steps, strict=False):
        retold = retell(world, before, step.action)
        if retold is not None:
            yield _Told(retold, step)
    if broken.kind == "state":
        yield _Told(_look(world, steps[-1], states[-1]) if steps else AT_THE_START)


def _threads(world: World, steps: Sequence[Step]) -> Iterator[_Told]:
    """Yield the clones of each process of which a thread acts or a task exits."""
    for process in sorted({step.action.process for step in steps if _needs_threads(world, step)}):
        first, *others = world.processes[process]
        for other in others:
            yield _Told(Retold({"do": "clone", "process": first, "as": other}, f"{first} starts the thread {other}"))


def _needs_threads(world: World, step: Step) -> bool:
    verb, _, device, task = step.action
    return verb is Verb.EXIT or (verb is Verb.SUBMIT and world.devices[device].portal and task > 0)


def _pages(world: World, states: Sequence[State], steps: Sequence[Step]) -> Iterator[_Told]:
    """Yield a store by each process that a device reaches after its end has begun, when no page comes in any more."""
    reached = {step.owner - 1 for before, step in zip(states, steps, strict=False) if _reaches_dying(before, step)}
    for process in sorted(reached):
        name = task_name(world, process)
        store = {"do": "store", "process": name, "address": WORK.address, "data": "its own"}
        yield _Told(Retold(store, f"{name} writes the page that its work will touch"))


def _reaches_dying(before: State, step: Step) -> bool:
    processes = before.processes
    return step.action.verb in WORKS and 0 < step.owner <= len(processes) and not processes[step.owner - 1].alive


def _look(world: World, last: Step, state: State) -> Retold:
    """Show the device of the last step and, while it lives, its process."""
    task, device = living_task(world, state, last.action.process), world.devices[last.action.device].name
    shown = {"process": task, "device": device} if task else {"device": device}
    window = window_name(world, state)
    words = f"the state then: {' and '.join(shown.values())}"
    return Retold({"do": "show", **shown} | ({"during": window} if window else {}), words)


AT_THE_START = Retold({"do": "show"}, "the machine at its start")


# --- the replay --------------------------------------------------------------------------------------------------


def _written(
    world: World, scheme: type[Scheme], counterexample: Counterexample, broken: Property, told: list[_Told]
) -> tuple[dict[str, Any], Report]:
    """Return the scenario, and how it ran on a mock."""
    plain = document(world, scheme, counterexample, broken, [one.retold.step for one in told])
    report = _run(plain, scheme, MOCK)
    _compare(world, told, report)
    reports = {MOCK: report}
    for model in MODELS:
        other = report if model == MOCK else _run_if_possible(plain, scheme, model)
        if other is not None:
            reports[model] = other
    steps = [_expecting(one, index, reports) for index, one in enumerate(told)]
    written = plain | {"step": steps}
    for model in reports:
        if not _run(written, scheme, model).met:
            raise ModelError(f"the trace of {broken.name} under {scheme.name} does not repeat itself on {model}")
    return written, report


def _run(written: dict[str, Any], scheme: type[Scheme], model: str) -> Report:
    return run(Scenario.from_dict(written), [scheme], model=model)[0]


def _run_if_possible(written: dict[str, Any], scheme: type[Scheme], model: str) -> Report | None:
    """Run on another model of IOMMU; None when the machine cannot be of it."""
    try:
        return _run(written, scheme, model)
    except InputError:
        return None


def _compare(world: World, told: list[_Told], report: Report) -> None:
    """Raise ModelError where the replay came to something else than the search."""
    for one, step in zip(told, report.steps, strict=True):
        if one.found is None:
            continue
        expected = "ok" if one.found.result is Result.IGNORED else result_text(one.found.result)
        owner = _owner_name(world, one.found.owner)
        if step.result != expected or (one.found.owner != NOBODY and _owner(step) != owner):
            seen = f"{step.result} {_owner(step)}".strip()
            raise ModelError(
                f"the search found {expected} {owner} for step {step.number}, {one.retold.words}, but the machine "
                f"says {seen}: {step.outcome.why}"
            )


def _owner_name(world: World, owner: int) -> str:
    """Return what scenarios call an owner of memory."""
    if owner in (NOBODY, KERNEL):
        return KERNEL_MEMORY if owner == KERNEL else ""
    return world.processes[owner - 1][0] if owner <= len(world.processes) else FREED_MEMORY


def _owner(step: StepReport) -> str:
    return "" if step.outcome.work is None else step.outcome.work.owner


def _seen(told: _Told, step: StepReport) -> TraceStep:
    outcome = step.outcome
    looked = told.retold.step["do"] == "show"
    during = told.retold.step.get("during", "")
    return TraceStep(
        step.number,
        told.retold.words,
        during,
        "" if looked else outcome.result,
        None if looked else outcome.pasid,
        _owner(step),
        step.trespass,
        outcome.rule,
        outcome.why,
        outcome.detail,
    )


# --- expectations ------------------------------------------------------------------------------------------------


def _expecting(told: _Told, index: int, reports: dict[str, Report]) -> dict[str, Any]:
    """Return a step with what came of it, by model where they differ, and with its words."""
    seen = {model: report.steps[index] for model, report in reports.items()}
    worked = any(step.outcome.work for step in seen.values())
    expected = {
        "expect": _by_model({model: step.result for model, step in seen.items()}),
        "expect_pasid": _by_model({model: step.outcome.pasid for model, step in seen.items()}),
        "expect_work": _by_model({model: _owner(step) or NO_MEMORY for model, step in seen.items()})
        if worked
        else None,
    }
    step = told.retold.step | {key: value for key, value in expected.items() if value is not None}
    return step | {"note": told.retold.words}


def _by_model(values: dict[str, Any]) -> Any:
    """Return one value for all models, or a table of those that have one."""
    if len(set(values.values())) == 1:
        return values[MOCK]
    return {model: value for model, value in values.items() if value is not None}

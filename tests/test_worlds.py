"""What the shipped worlds show under each scheme, to the state; and that a machine with a mistake shows something else.

A row of FINDINGS is one search: `breaks` names what is broken and in how many actions, at the level at which the search
stopped. `engine` is `both` where the readable search, which is slow, has to come to the same.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

from pasidlab.description import MODELS
from pasidlab.explore.action import FREED, Action, Result, Step, Verb
from pasidlab.explore.check import Verdict, check
from pasidlab.explore.readable import Readable
from pasidlab.explore.state import State
from pasidlab.explore.verdict import Engine, Found, Status
from pasidlab.explore.world import World
from pasidlab.runner import run
from pasidlab.scenario import Scenario
from pasidlab.schemes import SCHEMES

from .conftest import ROOT

FINDINGS = """
# world                 scheme    guard     status    actions  states    transitions  engine    breaks
blockade                mainline  -         holds     -        2675      6058         compiled  -
blockade                rfc       -         holds     -        2675      6058         compiled  -
blockade                v2        -         violated  2        25        85           both      fresh-process-served
blockade                hybrid    -         holds     -        353128    802542       compiled  -
caches                  mainline  -         holds     -        145201    823298       compiled  -
caches                  rfc       -         violated  6        1692      5454         compiled  isolation
caches                  v2        -         holds     -        16418     80464        compiled  -
caches                  hybrid    -         holds     -        281941    1600751      compiled  -
default                 mainline  -         holds     -        4717636   80401606     compiled  -
default                 rfc       -         violated  6        9081      35246        compiled  isolation
default                 v2        -         holds     -        1283102   20990128     compiled  -
default                 hybrid    -         holds     -        11821423  202657176    compiled  -
forge                   mainline  -         violated  5        139       223          both      isolation
forge                   rfc       -         violated  5        139       223          both      isolation
forge                   v2        -         violated  5        139       223          both      isolation
forge                   hybrid    -         violated  5        139       223          both      isolation
growth                  mainline  -         holds     -        5         7            both      -
growth                  rfc       -         holds     -        5         7            both      -
growth                  v2        -         holds     -        5         7            both      -
growth                  hybrid    -         holds     -        4         5            both      -
narrow                  mainline  -         violated  2        16        35           both      idle-device-serves
narrow                  rfc       -         holds     -        554150    1952178      compiled  -
narrow                  v2        -         violated  2        15        35           both      idle-device-serves
narrow                  hybrid    -         holds     -        316084    1099569      compiled  -
narrow_overflow         mainline  -         violated  4        68        226          both      given-back-is-fresh
narrow_overflow         rfc       -         holds     -        358       2182         compiled  -
narrow_overflow         v2        -         violated  3        33        98           both      given-back-is-fresh
narrow_overflow         hybrid    -         holds     -        355       2087         both      -
portal                  mainline  -         holds     -        106931    332473       compiled  -
portal                  rfc       -         violated  6        2016      3871         compiled  isolation
portal                  v2        -         holds     -        2235      5841         compiled  -
portal                  hybrid    -         violated  6        1043      2075         both      isolation
portal                  hybrid    mmap      holds     -        61733     155751       compiled  -
portal                  hybrid    range     holds     -        243450    871468       compiled  -
portal                  hybrid    declared  holds     -        61733     155751       compiled  -
sticky                  mainline  -         holds     -        2631      5821         compiled  -
sticky                  rfc       -         holds     -        2631      5821         compiled  -
sticky                  v2        -         violated  7        1560      3956         compiled  given-back-is-fresh
sticky                  hybrid    -         holds     -        424820    925549       compiled  -
teardown                mainline  -         holds     -        1651      5123         compiled  -
teardown                rfc       -         holds     -        1650      5121         compiled  -
teardown                v2        -         holds     -        1700      5260         compiled  -
teardown                hybrid    -         holds     -        1599      4978         both      -
teardown_atc_first      mainline  -         violated  8        482       1037         compiled  isolation
teardown_atc_first      rfc       -         violated  8        482       1037         compiled  isolation
teardown_atc_first      v2        -         violated  8        486       1042         both      isolation
teardown_atc_first      hybrid    -         violated  8        476       1026         compiled  isolation
teardown_iotlb_first    mainline  -         violated  7        384       761          compiled  isolation
teardown_iotlb_first    rfc       -         violated  7        384       761          compiled  isolation
teardown_iotlb_first    v2        -         violated  7        385       761          compiled  isolation
teardown_iotlb_first    hybrid    -         violated  7        381       757          both      isolation
teardown_no_drain       mainline  -         violated  9        923       2457         compiled  no-early-reuse
teardown_no_drain       rfc       -         violated  8        675       1659         compiled  no-early-reuse
teardown_no_drain       v2        -         violated  8        686       1676         compiled  no-early-reuse
teardown_no_drain       hybrid    -         violated  8        662       1636         both      no-early-reuse
teardown_no_iotlb       mainline  -         violated  6        276       578          both      isolation
teardown_no_iotlb       rfc       -         violated  6        276       578          both      isolation
teardown_no_iotlb       v2        -         violated  6        277       578          both      isolation
teardown_no_iotlb       hybrid    -         violated  6        273       574          both      isolation
teardown_no_stop        mainline  -         violated  9        1360      4078         compiled  isolation,no-early-reuse
teardown_no_stop        rfc       -         violated  8        958       2570         compiled  isolation,no-early-reuse
teardown_no_stop        v2        -         violated  8        970       2587         compiled  isolation,no-early-reuse
teardown_no_stop        hybrid    -         violated  8        944       2547         compiled  isolation,no-early-reuse
teardown_unbind_first   mainline  -         violated  8        653       1720         compiled  isolation,no-early-reuse
teardown_unbind_first   rfc       -         violated  7        439       1034         both      isolation,no-early-reuse
teardown_unbind_first   v2        -         violated  7        440       1034         compiled  isolation,no-early-reuse
teardown_unbind_first   hybrid    -         violated  7        436       1030         compiled  isolation,no-early-reuse
"""


class Case(NamedTuple):
    """One row; `guard` overrides that of the world unless it is "-"."""

    world: str
    scheme: str
    guard: str
    status: str
    actions: str
    states: int
    transitions: int
    engine: str
    breaks: tuple[str, ...]

    def __str__(self) -> str:
        return "-".join((self.world, self.scheme, self.guard)).removesuffix("--")


def _case(line: str) -> Case:
    *words, actions, states, transitions, engine, breaks = line.split()
    return Case(
        *words, actions, int(states), int(transitions), engine, tuple(breaks.split(",") if breaks != "-" else ())
    )


CASES = [_case(line) for line in FINDINGS.strip().splitlines()[1:]]
VIOLATED = [case for case in CASES if case.breaks]
SMALL = [case for case in CASES if case.engine == "both"]


@cache
def world_of(name: str) -> World:
    return World.load(ROOT / "worlds" / f"{name}.toml")


def verdict(world: str, scheme: str, guard: str = "-") -> Verdict:
    """Search a shipped world, each once for all tests."""
    return searched(world, scheme, guard)


@cache
def searched(world: str, scheme: str, guard: str) -> Verdict:
    (found,) = check(world_of(world), [SCHEMES[scheme]], options=options_of(guard), workers=2)
    return found


def options_of(guard: str) -> dict[str, str]:
    return {} if guard == "-" else {"guard": guard}


def lengths(found: Found) -> dict[str, int]:
    return {one.property: len(one.steps) for one in found.counterexamples}


# --- all of them --------------------------------------------------------------------------------------------------


def test_every_shipped_world_is_searched_under_every_scheme() -> None:
    shipped = {path.stem for path in (ROOT / "worlds").glob("*.toml")}
    assert {(case.world, case.scheme) for case in CASES} == {(world, scheme) for world in shipped for scheme in SCHEMES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_world_shows_what_it_is_for(case: Case) -> None:
    found = verdict(case.world, case.scheme, case.guard)
    assert (found.status.value, found.engine) == (case.status, Engine.COMPILED)
    assert (found.found.states, found.found.transitions) == (case.states, case.transitions)
    assert lengths(found.found) == {name: int(case.actions) for name in case.breaks}
    assert {trace.property: trace.actions for trace in found.traces} == lengths(found.found)
    assert found.unreached == ()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_search_of_the_machine_itself_finds_the_same(case: Case) -> None:
    compiled = verdict(case.world, case.scheme, case.guard).found
    (read,) = check(
        world_of(case.world), [SCHEMES[case.scheme]], options=options_of(case.guard), engine=Engine.READABLE
    )
    assert (read.found.states, read.found.transitions, read.found.depth) == (
        compiled.states,
        compiled.transitions,
        compiled.depth,
    )
    assert read.found.reached == compiled.reached
    assert lengths(read.found) == lengths(compiled)


@pytest.mark.parametrize("case", VIOLATED, ids=str)
def test_a_counterexample_is_a_scenario_that_runs_on_every_model_of_iommu(case: Case) -> None:
    for trace in verdict(case.world, case.scheme, case.guard).traces:
        scenario = Scenario.from_dict(tomllib.loads(trace.scenario))
        assert [(model, run(scenario, model=model)[0].met) for model in MODELS] == [(model, True) for model in MODELS]


@pytest.mark.parametrize("case", [case for case in CASES if case.states < 20_000], ids=str)
def test_symmetry_changes_no_verdict(case: Case) -> None:
    (found,) = check(world_of(case.world), [SCHEMES[case.scheme]], options=options_of(case.guard), symmetry=False)
    assert found.status == case.status
    assert lengths(found.found) == {name: int(case.actions) for name in case.breaks}
    assert found.found.states >= case.states
    assert set(found.found.reached) == set(verdict(case.world, case.scheme, case.guard).found.reached)


# --- what each shows ----------------------------------------------------------------------------------------------


def steps_of(world: str, scheme: str, broken: str) -> tuple[Step, ...]:
    found = verdict(world, scheme).found
    return next(one.steps for one in found.counterexamples if one.property == broken)


def verbs(steps: tuple[Step, ...]) -> list[Verb]:
    return [step.action.verb for step in steps]


def works_for_another(step: Step) -> bool:
    return step.action.verb is Verb.COMPLETE and step.owner not in (0, step.action.process + 1)


THROUGH_THE_HOLE = [Verb.BIND, Verb.BIND, Verb.BIND, Verb.MMAP_PORTAL, Verb.SUBMIT, Verb.COMPLETE]


def test_without_a_guard_hybrid_has_the_portal_hole() -> None:
    steps = steps_of("portal", "hybrid", "isolation")
    assert verbs(steps) == THROUGH_THE_HOLE
    assert works_for_another(steps[-1])


@pytest.mark.parametrize("guard", ["mmap", "range", "declared"])
def test_each_guard_closes_the_portal_hole(guard: str) -> None:
    assert verdict("portal", "hybrid", guard).status is Status.HOLDS


@pytest.mark.parametrize("world", ["portal", "default", "caches"])
def test_rfc_on_a_device_with_enqcmd_works_in_the_wrong_process(world: str) -> None:
    steps = steps_of(world, "rfc", "isolation")
    assert verbs(steps) == THROUGH_THE_HOLE
    assert works_for_another(steps[-1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_forged_number_on_a_sloppy_device_reaches_another_process_whatever_the_scheme(scheme: str) -> None:
    steps = steps_of("forge", scheme, "isolation")
    assert verbs(steps)[-2:] == [Verb.FORGE, Verb.COMPLETE]
    assert works_for_another(steps[-1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_stop_work_in_flight_is_done_in_the_next_process_with_the_number(scheme: str) -> None:
    steps = steps_of("teardown_no_stop", scheme, "isolation")
    assert verbs(steps)[-2:] == [Verb.BIND, Verb.COMPLETE]
    assert works_for_another(steps[-1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_drain_a_number_is_reused_while_a_page_request_names_it(scheme: str) -> None:
    steps = steps_of("teardown_no_drain", scheme, "no-early-reuse")
    assert Verb.ASK in verbs(steps)
    assert Verb.ANSWER not in verbs(steps)
    assert steps[-1].action[:2] == (Verb.BIND, 1)
    (trace,) = verdict("teardown_no_drain", scheme).traces
    assert trace.because == "number 1 is handed out while it is named by a page request of acc0 for p0"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_drain_a_page_request_is_served_in_the_wrong_process_one_action_later(scheme: str) -> None:
    (found,) = check(
        world_of("teardown_no_drain"),
        [SCHEMES[scheme]],
        properties=["no-early-reuse", "page-request-owner"],
        keep_going=True,
    )
    found_lengths = lengths(found.found)
    assert found_lengths["page-request-owner"] == found_lengths["no-early-reuse"] + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_when_the_unbind_comes_first_the_number_is_reused_before_the_stop(scheme: str) -> None:
    steps = steps_of("teardown_unbind_first", scheme, "isolation")
    assert works_for_another(steps[-1])
    assert verbs(steps).count(Verb.UNBIND) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("world", ["teardown_no_iotlb", "teardown_atc_first", "teardown_iotlb_first"])
def test_a_line_that_outlives_its_process_leads_into_freed_memory(world: str, scheme: str) -> None:
    steps = steps_of(world, scheme, "isolation")
    assert (steps[-1].action.verb, steps[-1].owner) == (Verb.COMPLETE, FREED)
    assert Verb.EXIT in verbs(steps)


@pytest.mark.parametrize(
    ("world", "window"), [("teardown_no_iotlb", ""), ("teardown_atc_first", "atc"), ("teardown_iotlb_first", "iotlb")]
)
def test_the_line_is_filled_again_after_the_invalidation_that_came_too_early(world: str, window: str) -> None:
    (trace,) = verdict(world, "hybrid").traces
    filled = [step for step in trace.steps if step.words.startswith("acc0 accesses memory")]
    assert (filled[-1].during, filled[-1].owner) == (window, "p0")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_right_order_of_a_teardown_holds_although_devices_act_in_its_windows(scheme: str) -> None:
    found = verdict("teardown", scheme)
    assert found.status is Status.HOLDS
    assert {goal for goal in found.goals if found.of_goal(goal)} >= {"answer=fault", "dma=fault", "complete=fault"}


# --- refusals -----------------------------------------------------------------------------------------------------


def last_of(world: str, scheme: str, broken: str) -> Step:
    return steps_of(world, scheme, broken)[-1]


def test_under_mainline_an_idle_device_starves_because_others_hold_its_numbers() -> None:
    """F1."""
    last = last_of("narrow", "mainline", "idle-device-serves")
    assert (last.action, last.result) == (Action(Verb.BIND, process=1, device=0), Result.ENOSPC)


def test_under_mainline_an_idle_device_starves_because_a_number_for_life_is_too_wide() -> None:
    """F2."""
    *before, last = steps_of("narrow_overflow", "mainline", "given-back-is-fresh")
    assert [step.action.verb for step in before] == [Verb.BIND, Verb.BIND, Verb.UNBIND]
    assert (last.action, last.result) == (Action(Verb.BIND, process=1, device=0), Result.EOVERFLOW)


def test_both_starvations_are_reached_in_the_narrow_world() -> None:
    (found,) = check(world_of("narrow"), [SCHEMES["mainline"]], keep_going=True)
    assert [found.of_goal(goal) for goal in ("bind=ENOSPC", "bind=EOVERFLOW")] == [True, True]
    assert found.unreached == ()


def test_v2_refuses_an_idle_narrow_device_by_its_mode() -> None:
    assert last_of("narrow", "v2", "idle-device-serves").result is Result.EBUSY
    assert last_of("narrow_overflow", "v2", "given-back-is-fresh").result is Result.EBUSY


def following(world: str, scheme: str, *actions: Action) -> Iterator[tuple[Result, State]]:
    """Do actions one after the other from the start of a world."""
    readable = Readable(world_of(world), SCHEMES[scheme])
    node = readable.start
    for action in actions:
        reached = readable.follow(node, action)
        node = readable.keep(reached.node)
        yield reached.step.result, node.state


def test_v2s_mode_sticks_to_a_process_that_has_given_everything_back() -> None:
    """Whatever it asks for again and again: a dead end."""
    steps = steps_of("sticky", "v2", "given-back-is-fresh")
    assert [Verb.UNBIND in verbs(steps), steps[-1].result] == [True, Result.EBUSY]
    core = [Action(Verb.BIND_DEVICE, 0, device) for device in (0, 1)]
    results = [one for one, _ in following("sticky", "v2", *(step.action for step in steps), *core * 2)]
    assert results[-4:] == [Result.EBUSY] * 4


def test_v2s_blockade_stands_while_numbers_are_free() -> None:
    """N1: two actions, and no fresh process gets in until another number is taken."""
    driver, refused = steps_of("blockade", "v2", "fresh-process-served")
    assert driver.action == Action(Verb.BIND_DEVICE_PASID, 0, 0, 1)
    assert (refused.action, refused.result) == (Action(Verb.BIND_DEVICE, 1, 0), Result.EBUSY)
    retries = [Action(Verb.BIND_DEVICE, process, 0) for process in (1, 2, 1, 2)]
    done = list(following("blockade", "v2", driver.action, *retries))
    assert {result for result, _ in done[1:]} == {Result.EBUSY}
    assert {state for _, state in done} == {done[0][1]}
    assert world_of("blockade").numbers == 3


def test_hybrid_has_no_blockade() -> None:
    assert verdict("blockade", "hybrid").of_property("fresh-process-served") == "holds"


# --- the default world --------------------------------------------------------------------------------------------


def test_the_default_world_is_that_of_the_thread() -> None:
    world = world_of("default")
    assert [len(tasks) for tasks in world.processes] == [2, 2, 2]
    assert [device.portal for device in world.devices] == [False, True, True]
    assert world.largest == (1, 3, 3)


@pytest.mark.parametrize("scheme", ["mainline", "v2", "hybrid"])
def test_a_scheme_holds_in_the_default_world_and_all_that_should_happen_does(scheme: str) -> None:
    found = verdict("default", scheme)
    assert (found.status, found.found.complete) == (Status.HOLDS, True)
    assert len(found.claims) == 7
    assert {found.of_goal(goal) for goal in found.goals} == {True}
    assert len(found.goals) > 6

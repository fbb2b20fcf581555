"""Traces: a counterexample becomes a scenario that `pasidlab run` replays on every model of IOMMU, and sentences."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pasidlab.description import MODELS
from pasidlab.errors import ModelError
from pasidlab.explore.action import Action, Result, Step, Verb
from pasidlab.explore.check import Plan, verdicts
from pasidlab.explore.document import scheme_text
from pasidlab.explore.properties import PROPERTIES, Property
from pasidlab.explore.readable import Readable
from pasidlab.explore.state import LOCAL, NORMAL, OPENED
from pasidlab.explore.trace import Trace, scenario_of, trace_of
from pasidlab.explore.verdict import Counterexample, Engine
from pasidlab.explore.world import World
from pasidlab.runner import run
from pasidlab.scenario import Scenario
from pasidlab.schemes import SCHEMES, find_scheme
from pasidlab.toml_text import toml_text

ALL = ["bind", "bind_device", "bind_device_pasid", "unbind", "mmap_portal", "submit", "forge", "page_request", "exit"]
KERNEL = ["alloc_global", "free_global", "attach", "detach", "fail_next"]
STEPS = PROPERTIES["isolation"]
STATES = PROPERTIES["bond-in-table"]


def world(**changed: Any) -> World:
    """Two processes of two threads, an accelerator with its own numbers and one with a portal."""
    raw: dict[str, Any] = {
        "title": "A world of tests",
        "actions": ALL + KERNEL,
        "options": {"guard": "none"},
        "iommu": [{"name": "iommu0", "max_pasids": 4}],
        "device": [
            {"name": "acc0", "iommu": "iommu0", "pasid_bits": 2, "pasids": "local"},
            {"name": "dsa0", "iommu": "iommu0", "pasid_bits": 2, "submit": "enqcmd", "sloppy": True},
        ],
        "process": [{"name": "p", "count": 2, "threads": 2}],
    }
    return World.from_dict(raw | changed)


def counterexample(given: World, scheme: str, actions: Sequence[tuple[Any, ...]]) -> Counterexample:
    """Take actions from the start, on the machine, and call the way a counterexample."""
    readable = Readable(given, SCHEMES[scheme])
    node, steps = readable.start, []
    for action in actions:
        reached = readable.follow(node, Action(*action))
        node = readable.keep(reached.node)
        steps.append(reached.step)
    return Counterexample("isolation", tuple(steps))


def trace(given: World, scheme: str, *actions: tuple[Any, ...], broken: Property = STEPS) -> Trace:
    return trace_of(given, SCHEMES[scheme], counterexample(given, scheme, actions), broken)


def replayed(found: Trace, model: str) -> bool:
    return run(Scenario.from_dict(tomllib.loads(found.scenario)), model=model)[0].met


BIND, UNBIND, SUBMIT, COMPLETE, EXIT = Verb.BIND, Verb.UNBIND, Verb.SUBMIT, Verb.COMPLETE, Verb.EXIT
EVERY_VERB: dict[str, tuple[tuple[Any, ...], ...]] = {
    "work on a queue, its page request, and the teardown": (
        (BIND, 0, 0),
        (SUBMIT, 0, 0, 1),
        (Verb.ASK, 0, 0),
        (Verb.ANSWER, 0, 0),
        (COMPLETE, 0, 0),
        (UNBIND, 0, 0, OPENED),
        (UNBIND, 0, 0, OPENED),
        (UNBIND, 0, 0, OPENED),
        (Verb.RESUME, 0),
        (Verb.RESUME, 0),
    ),
    "work at a portal by the second thread, and its exit": (
        (Verb.BIND_DEVICE, 0, 1),
        (Verb.MMAP_PORTAL, 0, 1),
        (SUBMIT, 0, 1, 1),
        (COMPLETE, 0, 1),
        (EXIT, 0, 0, 1),
        (SUBMIT, 0, 1, 0),
    ),
    "acts of a process whose first task is gone": (
        (EXIT, 0, 0, 0),
        (BIND, 0, 1),
        (Verb.MMAP_PORTAL, 0, 1),
        (SUBMIT, 0, 1, 1),
        (COMPLETE, 0, 1),
        (BIND, 0, 0),
        (SUBMIT, 0, 0, 1),
    ),
    "a forged number": ((BIND, 0, 1), (BIND, 1, 1), (Verb.MMAP_PORTAL, 0, 1), (Verb.FORGE, 0, 1, 2), (COMPLETE, 0, 1)),
    "what kernel modules do": (
        (Verb.ALLOC_GLOBAL, 0, 1),
        (Verb.ATTACH, 0, 1, 1),
        (Verb.BIND_DEVICE, 0, 1),
        (Verb.DETACH, 0, 1, 1),
        (Verb.FREE_GLOBAL, 0, 1),
        (Verb.FAIL_NEXT, 0, 1),
        (Verb.BIND_DEVICE, 1, 1),
    ),
    "the end of an address space with a file open": (
        (BIND, 0, 1),
        (EXIT, 0, 0, 0),
        (EXIT, 0, 0, 1),
        (Verb.RESUME, 0),
        (Verb.RESUME, 0),
        (UNBIND, 0, 1, OPENED),
    ),
}


class TestReplay:
    @pytest.mark.parametrize("name", EVERY_VERB)
    @pytest.mark.parametrize("scheme", ["mainline", "hybrid"])
    def test_every_action_replays_on_every_model(self, name: str, scheme: str) -> None:
        found = trace(world(), scheme, *EVERY_VERB[name])
        assert [replayed(found, model) for model in MODELS] == [True, True, True]

    @pytest.mark.parametrize("scheme", ["v2", "hybrid"])
    def test_several_handles_of_one_bond_replay(self, scheme: str) -> None:
        found = trace(
            world(),
            scheme,
            (Verb.BIND_DEVICE_PASID, 0, 0, 2),
            (Verb.BIND_DEVICE_PASID, 1, 0, 3),
            (SUBMIT, 0, 0, 2),
            (COMPLETE, 0, 0),
            (UNBIND, 0, 0, LOCAL + 2),
        )
        assert [step.result for step in found.steps] == ["ok"] * 5
        assert all(replayed(found, model) for model in MODELS)

    def test_a_handle_that_shares_its_bond_is_given_back_in_one_step(self) -> None:
        found = trace(world(), "mainline", (BIND, 0, 1), (Verb.BIND_DEVICE, 0, 1), (UNBIND, 0, 1, NORMAL))
        assert found.steps[-1].words == "p0 gives back its bond of dsa0, whose bond another handle shares"
        assert all(replayed(found, model) for model in MODELS)

    def test_a_result_that_the_machine_does_not_give_is_an_error_of_the_model(self) -> None:
        wrong = Counterexample("isolation", (Step(Action(BIND, 0, 1), Result.ENOSPC),))
        with pytest.raises(ModelError, match=r"found ENOSPC .*p0 opens dsa0, but the machine says ok"):
            trace_of(world(), SCHEMES["mainline"], wrong, STEPS)

    def test_an_owner_that_the_machine_does_not_give_is_an_error_of_the_model(self) -> None:
        right = counterexample(world(), "mainline", ((BIND, 0, 0), (SUBMIT, 0, 0, 1), (COMPLETE, 0, 0)))
        wrong = right.steps[-1]._replace(owner=2)
        with pytest.raises(ModelError, match=r"found ok p1 .*but the machine says ok p0"):
            trace_of(world(), SCHEMES["mainline"], Counterexample("isolation", (*right.steps[:-1], wrong)), STEPS)


class TestWindows:
    def no_stop(self) -> World:
        teardown = {"driver": ["unbind"], "iommu": ["iotlb", "table", "atc"]}
        return world(teardown=teardown, actions=["bind", "unbind", "submit"])

    def test_what_happens_in_a_window_is_a_step_during_the_call(self) -> None:
        actions = ((BIND, 0, 0), (SUBMIT, 0, 0, 1), (UNBIND, 0, 0, OPENED), (COMPLETE, 0, 0), (Verb.RESUME, 0))
        found = trace(self.no_stop(), "hybrid", *actions)
        assert [step.during for step in found.steps] == ["", "", "", "iotlb"]
        assert found.steps[-1].owner == "p0"
        assert (found.actions, found.last) == (5, 4)
        assert all(replayed(found, model) for model in MODELS)

    def test_a_look_at_a_state_within_a_call_is_taken_there(self) -> None:
        found = trace(self.no_stop(), "hybrid", (BIND, 0, 0), (UNBIND, 0, 0, OPENED), broken=STATES)
        assert (found.steps[-1].during, found.steps[-1].result) == ("iotlb", "")
        assert all(replayed(found, model) for model in MODELS)

    def test_the_second_window_bears_the_name_of_the_second_step(self) -> None:
        actions = ((BIND, 0, 0), (SUBMIT, 0, 0, 1), (UNBIND, 0, 0, OPENED), (Verb.RESUME, 0), (COMPLETE, 0, 0))
        assert trace(self.no_stop(), "hybrid", *actions).steps[-1].during == "table"

    def test_the_end_of_an_address_space_does_the_steps_of_the_iommus_driver(self) -> None:
        given = world(teardown={"iommu": ["iotlb", "table", "atc"]}, process=[{"name": "p", "count": 2}])
        actions = ((BIND, 0, 0), (SUBMIT, 0, 0, 1), (EXIT, 0, 0, 0), (Verb.RESUME, 0), (COMPLETE, 0, 0))
        assert trace(given, "hybrid", *actions).steps[-1].during == "table"
        assert trace(given, "hybrid", *actions[:3], (COMPLETE, 0, 0)).steps[-1].during == "iotlb"

    def test_the_order_of_the_iommus_driver_is_written_where_it_matters(self) -> None:
        plain = scenario_of(world(), SCHEMES["hybrid"], counterexample(world(), "hybrid", ((BIND, 0, 0),)), STEPS)
        assert "detach" not in plain["iommu"][0]
        other = self.no_stop()
        made = scenario_of(other, SCHEMES["hybrid"], counterexample(other, "hybrid", ((BIND, 0, 0),)), STEPS)
        assert made["iommu"][0]["detach"] == ["iotlb", "table", "atc"]


class TestWhatIsWritten:
    def test_a_scenario_has_only_what_is_not_the_default(self) -> None:
        found = counterexample(world(), "hybrid", ((BIND, 0, 0),))
        written = scenario_of(world(), SCHEMES["hybrid"], found, STEPS)
        assert written["title"] == "isolation broken under hybrid: A world of tests"
        assert written["scheme"] == "hybrid"
        assert written["options"] == {"guard": "none"}
        assert written["iommu"] == [{"name": "iommu0", "max_pasids": 4, "caches": True}]
        assert written["process"] == [{"name": "p0"}, {"name": "p1"}]
        assert written["step"] == [
            {"do": "bind", "device": "acc0", "process": "p0", "as": "p0 acc0 open", "expect": "ok"}
            | {"expect_pasid": 1, "note": "p0 opens acc0"}
        ]

    def test_the_text_says_the_same(self) -> None:
        found = counterexample(world(), "hybrid", EVERY_VERB["a forged number"])
        written = scenario_of(world(), SCHEMES["hybrid"], found, STEPS)
        assert tomllib.loads(toml_text(written)) == written | {"about": written["about"] + "\n"}

    def test_threads_are_started_only_where_they_matter(self) -> None:
        quiet = trace(world(), "mainline", (BIND, 0, 1), (BIND, 1, 1))
        assert all("thread" not in step.words for step in quiet.steps)
        found = trace(world(), "mainline", (BIND, 0, 1), (EXIT, 1, 0, 1))
        assert [step.words for step in found.steps] == ["p1 starts the thread p1/1", "p0 opens dsa0", "p1/1 exits"]
        assert found.last == 3

    def test_a_property_of_states_ends_with_a_look(self) -> None:
        found = trace(world(), "mainline", (BIND, 0, 1), broken=STATES)
        assert (found.last, len(found.steps)) == (1, 2)
        assert found.steps[-1].words == "the state then: p0 and dsa0"
        assert any("dsa0" in line for line in found.steps[-1].detail)
        assert replayed(found, "intel-vtd")

    def test_the_look_leaves_out_a_process_that_is_gone(self) -> None:
        given = world(process=[{"name": "p", "count": 2}])
        found = trace(given, "mainline", (EXIT, 0, 0, 0), broken=STATES)
        assert found.steps[-1].words == "the state then: acc0"

    def test_a_property_that_is_broken_from_the_start_has_a_scenario_too(self) -> None:
        found = trace(world(), "mainline", broken=STATES)
        assert (found.actions, found.last) == (0, 0)
        assert [step.words for step in found.steps] == ["the machine at its start"]
        assert replayed(found, "mock")

    def test_an_expectation_that_differs_by_model_is_a_table(self) -> None:
        given = world(teardown={"driver": ["unbind"], "iommu": ["table"]}, actions=["bind", "unbind", "submit"])
        actions = ((BIND, 0, 0), (SUBMIT, 0, 0, 1), (COMPLETE, 0, 0), (SUBMIT, 0, 0, 1), (UNBIND, 0, 0, OPENED))
        found = trace(given, "hybrid", *actions, (COMPLETE, 0, 0))
        last = tomllib.loads(found.scenario)["step"][-1]
        assert last["expect"].keys() == set(MODELS)
        assert (last["expect"]["mock"], last["expect"]["intel-vtd"]) == ("ok", "fault")
        assert (last["expect_work"]["mock"], last["expect_work"]["intel-vtd"]) == ("p0", "nobody")
        assert all(replayed(found, model) for model in MODELS)

    def test_work_in_memory_that_is_not_its_own_is_told(self) -> None:
        last = trace(world(), "mainline", *EVERY_VERB["a forged number"]).steps[-1]
        assert (last.result, last.owner, last.trespass) == ("ok", "p1", "p0")
        assert last.words == "dsa0 does the work of p0, under number 2"

    def test_what_still_names_a_number_is_told(self) -> None:
        given = world(teardown={"driver": ["unbind"]}, actions=["bind", "unbind", "submit", "page_request"])
        actions = ((BIND, 0, 0), (SUBMIT, 0, 0, 1), (Verb.ASK, 0, 0), (UNBIND, 0, 0, OPENED), (Verb.RESUME, 0))
        found = trace(given, "hybrid", *actions, (Verb.RESUME, 0), (BIND, 1, 0), broken=PROPERTIES["no-early-reuse"])
        said = "number 1 is handed out while it is named by a page request of acc0 for p0"
        assert found.because == said

    def test_a_users_scheme_is_named_by_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text("from pasidlab.schemes import Mainline\n\nclass Mine(Mainline):\n    name = 'mine'\n")
        assert scheme_text(find_scheme(f"{path}:Mine")) == f"{path}:Mine"
        assert scheme_text(SCHEMES["v2"]) == "v2"


class TestToml:
    @pytest.mark.parametrize(
        "value",
        [
            "plain",
            'a "quote" and a \\ backslash',
            "tab\tand \x01 and \x7f and é",
            "",
            7,
            -1,
            True,
            ["a", "b"],
            [],
            {"a b": 1, "c": "d"},
        ],
    )
    def test_what_is_written_is_read(self, value: Any) -> None:
        document = {"key": value, "other key": [{"inner": value}], "step": [{"x": value}, {"y": 1}]}
        assert tomllib.loads(toml_text(document)) == document

    def test_text_of_several_lines_stands_between_quotes(self) -> None:
        text = toml_text({"about": 'one "two" """\nthree \\'})
        assert text.startswith('about = """\n')
        assert tomllib.loads(text)["about"] == 'one "two" """\nthree \\\n'

    def test_the_layout_is_that_of_people(self) -> None:
        document = {"title": "t", "cpu": {"arch": "x86"}, "step": [{"do": "a", "expect": {"v2": "ok"}}, {"do": "b"}]}
        assert toml_text(document) == (
            'title = "t"\n\n[cpu]\narch = "x86"\n\n[[step]]\ndo = "a"\nexpect = { v2 = "ok" }\n\n[[step]]\ndo = "b"\n'
        )

    def test_what_a_scenario_does_not_have_is_an_error_of_the_model(self) -> None:
        with pytest.raises(ModelError, match="no float"):
            toml_text({"key": 1.5})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_search_finds_replays_on_every_model(scheme: str) -> None:
    """A sloppy device, found by the search itself: the trace of each scheme is a file that runs."""
    given = world(
        actions=["bind", "mmap_portal", "forge"],
        process=[{"name": "p", "count": 2}],
        device=[{"name": "dsa0", "iommu": "iommu0", "pasid_bits": 2, "submit": "enqcmd", "sloppy": True}],
        always=["isolation"],
    )
    (verdict,) = verdicts(given, [SCHEMES[scheme]], Plan(engine=Engine.READABLE))
    (found,) = verdict.traces
    assert found.actions == 5
    assert found.steps[-1].trespass
    assert all(replayed(found, model) for model in MODELS)

"""The readable search: what it counts, windows, symmetry, and users' schemes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pasidlab.errors import InputError
from pasidlab.explore.action import FREED, Action, Result, Step, Verb, actions
from pasidlab.explore.properties import DEFAULT, PROPERTIES
from pasidlab.explore.readable import Node, Readable, states_along
from pasidlab.explore.search import reachable, search
from pasidlab.explore.state import OPENED, canonical
from pasidlab.explore.verdict import Limits, Progress
from pasidlab.schemes import SCHEMES, Mainline, find_scheme

from .explore_worlds import DSA, NARROW, PCIE, world

BY_DEFAULT = [PROPERTIES[name] for name in DEFAULT]
schemes = pytest.mark.parametrize("scheme", SCHEMES)


# --- counts -----------------------------------------------------------------------------------------------------------


def test_two_binds_have_three_states_and_five_when_processes_have_names() -> None:
    binds = world("bind")
    found = search(binds, Mainline, ())
    assert (found.states, found.transitions, found.depth) == (3, 3, 2)
    found = search(binds, Mainline, (), symmetry=False)
    assert (found.states, found.transitions, found.depth) == (5, 4, 2)
    assert found.complete
    assert found.stopped_by == ""
    assert found.reached == {(Verb.BIND, Result.OK): 4}
    assert found.memory > 0


def test_a_call_through_windows_is_as_many_states_longer() -> None:
    # without windows: the start, bound, stopped, drained, and unbound with its number
    quick = world("bind", "unbind", processes=1, teardown={"windows": False})
    found = search(quick, Mainline, ())
    assert (found.states, found.transitions, found.depth) == (5, 5, 4)
    slow = world("bind", "unbind", processes=1)
    found = search(slow, Mainline, ())
    assert (found.states, found.transitions, found.depth) == (7, 7, 6)
    assert found.reached[Verb.RESUME, Result.OK] == 2


def test_refusals_are_counted_and_lead_nowhere() -> None:
    found = search(world("bind", processes=2, numbers=1), Mainline, ())
    assert (found.states, found.transitions) == (2, 3)
    assert found.reached == {(Verb.BIND, Result.OK): 2, (Verb.BIND, Result.ENOSPC): 1}


# --- symmetry ---------------------------------------------------------------------------------------------------------


SYMMETRIC = world(
    *("bind", "unbind", "exit"),
    devices=(PCIE | {"count": 2},),
    numbers=1,
    teardown={"driver": ["unbind"], "iommu": ["table", "iotlb"]},
)


@schemes
def test_symmetry_reaches_a_representative_of_every_state(scheme: str) -> None:
    every = reachable(SYMMETRIC, SCHEMES[scheme], symmetry=False)
    representatives = reachable(SYMMETRIC, SCHEMES[scheme])
    assert representatives == {canonical(state, SYMMETRIC.classes) for state in every}
    assert len(representatives) < len(every)


@schemes
@pytest.mark.parametrize("teardown", [{}, {"driver": ["unbind"]}, {"iommu": ["table"]}], ids=["well", "stop", "iotlb"])
def test_symmetry_changes_no_verdict(scheme: str, teardown: dict[str, list[str]]) -> None:
    small = world("bind", "unbind", "submit", "exit", devices=(PCIE,), numbers=1, teardown=teardown)
    with_it, without = (search(small, SCHEMES[scheme], BY_DEFAULT, symmetry=one) for one in (True, False))
    lengths = [{one.property: len(one.steps) for one in found.counterexamples} for found in (with_it, without)]
    assert lengths[0] == lengths[1]
    assert with_it.states < without.states
    assert with_it.depth == without.depth
    assert set(with_it.reached) == set(without.reached)


# --- windows ----------------------------------------------------------------------------------------------------------


def traced(readable: Readable, *taken: Action) -> tuple[list[Step], Node]:
    """Do actions from the start; return their steps and the last state."""
    node, steps = readable.start, []
    for action in taken:
        assert action in actions(node.state, readable.world)
        reached = readable.follow(node, action)
        steps.append(reached.step)
        node = readable.keep(reached.node)
    return steps, node


BIND, SUBMIT = Action(Verb.BIND), Action(Verb.SUBMIT, arg=1)
COMPLETE, RESUME = Action(Verb.COMPLETE), Action(Verb.RESUME)
UNBIND, EXIT = Action(Verb.UNBIND, arg=OPENED), Action(Verb.EXIT)


@pytest.fixture
def windows() -> Readable:
    """One process with a PCIe device whose driver only unbinds."""
    one = world(
        *("bind", "unbind", "submit", "exit"), devices=(PCIE,), processes=1, numbers=1, teardown={"driver": ["unbind"]}
    )
    return Readable(one, Mainline)


def test_devices_act_in_the_windows_of_a_call(windows: Readable) -> None:
    _, node = traced(windows, BIND, SUBMIT, UNBIND)
    assert node.state.processes[0].window == (1, 1, 1)
    assert node.state.processes[0].on[0].opened == 1
    assert list(actions(node.state, windows.world)) == [COMPLETE, RESUME]
    steps, node = traced(windows, BIND, SUBMIT, UNBIND, COMPLETE, RESUME, RESUME)
    assert steps[2:] == [Step(UNBIND), Step(COMPLETE, Result.FAULT), Step(RESUME), Step(RESUME)]
    assert node.state.processes[0].window == (0, 0, 0)
    assert not node.state.processes[0].on[0].opened


def test_what_was_done_in_a_window_is_still_done_in_the_next(windows: Readable) -> None:
    before = BIND, SUBMIT, COMPLETE, SUBMIT, UNBIND
    _, node = traced(windows, *before)
    assert (node.state.processes[0].on[0].atc, node.state.processes[0].on[0].job) == (1 << 1, 1)
    steps, node = traced(windows, *before, COMPLETE, RESUME)
    assert steps[-2] == Step(COMPLETE, Result.OK, 1)
    on = node.state.processes[0].on[0]
    assert (on.entry, on.iotlb, on.atc, on.job) == (0, 0, 1 << 1, 0)


def test_the_end_of_an_address_space_stands_in_windows_while_it_has_a_domain(windows: Readable) -> None:
    _, node = traced(windows, BIND, EXIT)
    assert node.state.processes[0].window == (1, 0, 0)
    _, node = traced(windows, EXIT)
    assert node.state.in_window is None


def test_a_call_without_a_second_step_has_no_window() -> None:
    one = world("bind", "unbind", "exit", processes=1, teardown={"iommu": ["table"]})
    assert not any(state.in_window is not None for state in reachable(one, Mainline))


def test_the_order_of_a_teardown_is_that_of_the_world() -> None:
    one = world("bind", "unbind", processes=1, numbers=1, teardown={"driver": ["drain", "unbind", "stop"]})
    readable = Readable(one, Mainline)
    _, node = traced(readable, BIND, UNBIND)
    assert node.state.processes[0].on[0][8:11] == (OPENED, 1, 1)
    _, node = traced(readable, BIND, UNBIND, UNBIND, RESUME, RESUME)
    on = node.state.processes[0].on[0]
    assert (on.opened, on.closing, on.closing_number, on.phase) == (0, OPENED, 1, 2)
    _, node = traced(readable, BIND, UNBIND, UNBIND, RESUME, RESUME, UNBIND)
    assert node.state.processes[0].on[0].closing == 0


def test_one_of_two_handles_of_a_bond_is_only_counted_off() -> None:
    readable = Readable(world("bind", "bind_device", "unbind", processes=1, numbers=1), Mainline)
    steps, node = traced(readable, BIND, Action(Verb.BIND_DEVICE), UNBIND)
    on = node.state.processes[0].on[0]
    assert (steps[-1].result, on.opened, on.normal, on.closing) == (Result.OK, 0, 1, 0)


# --- traces -----------------------------------------------------------------------------------------------------------


@schemes
def test_a_counterexample_can_be_done_from_the_start(scheme: str) -> None:
    stale = world(
        *("bind", "unbind", "submit", "exit"),
        devices=(PCIE,),
        numbers=1,
        teardown={"driver": ["stop", "drain", "unbind"], "iommu": ["table", "atc"]},
    )
    found = search(stale, SCHEMES[scheme], BY_DEFAULT)
    assert found.stopped_by == "violation"
    assert not found.complete
    (broken,) = found.counterexamples
    assert (broken.property, broken.steps[-1].owner) == ("isolation", FREED)
    steps, node = traced(Readable(stale, SCHEMES[scheme]), *(step.action for step in broken.steps))
    assert tuple(steps) == broken.steps
    states = states_along(stale, SCHEMES[scheme], [step.action for step in steps])
    assert len(states) == len(steps) + 1
    assert states[-1] == node.state


def test_keep_going_finds_the_shortest_way_to_break_each_property() -> None:
    given = {"driver": ["stop", "unbind"]}
    verbs = ("bind", "submit", "page_request", "exit", "unbind")
    stale = world(*verbs, devices=(PCIE,), numbers=1, teardown=given)
    first = search(stale, Mainline, BY_DEFAULT)
    found = search(stale, Mainline, BY_DEFAULT, keep_going=True)
    assert found.complete
    assert found.states > first.states
    assert [one.property for one in first.counterexamples] == ["no-early-reuse"]
    assert [one.property for one in found.counterexamples] == ["no-early-reuse", "page-request-owner"]
    assert found.counterexamples[0] == first.counterexamples[0]


# --- bounds -----------------------------------------------------------------------------------------------------------


LARGE = world("bind", "unbind", "exit", devices=(NARROW, DSA), processes=3)


def test_a_bound_on_states_stops_the_search_once_it_is_passed() -> None:
    found = search(LARGE, Mainline, (), Limits(states=50))
    assert 50 <= found.states < 70
    assert (found.complete, found.stopped_by) == (False, "states")


def test_a_bound_on_steps_stops_before_that_level_is_expanded() -> None:
    found = search(LARGE, Mainline, (), Limits(depth=3))
    assert (found.depth, found.complete, found.stopped_by) == (3, False, "depth")


def test_a_bound_on_time_stops_the_search() -> None:
    found = search(LARGE, Mainline, (), Limits(seconds=0.05))
    assert (found.complete, found.stopped_by) == (False, "seconds")


@pytest.mark.parametrize("limits", [Limits(states=3), Limits(depth=3)])
def test_a_bound_that_is_met_at_the_very_end_stopped_nothing(limits: Limits) -> None:
    found = search(world("bind", numbers=1, processes=1), Mainline, (), limits)
    assert found.complete
    assert found.stopped_by == ""


def test_an_interrupt_returns_what_was_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []

    def interrupted(progress: Progress) -> None:
        seen.append(progress)
        raise KeyboardInterrupt

    monkeypatch.setattr("pasidlab.explore.search.BETWEEN_REPORTS", 0)
    found = search(LARGE, Mainline, (), progress=interrupted)
    assert (found.complete, found.stopped_by) == (False, "interrupted")
    assert (seen[0].states, seen[0].transitions) == (found.states, found.transitions)
    assert found.states > 1


# --- what a scheme keeps beside a State -------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path: Path) -> Callable[[str], type[Mainline]]:
    def load(body: str) -> type[Mainline]:
        path = tmp_path / "own.py"
        path.write_text("from pasidlab.schemes import Mainline\n\n\nclass Own(Mainline):\n" + body)
        found = find_scheme(f"{path}:Own")
        assert issubclass(found, Mainline)
        return found

    return load


TOP_DOWN = """
    def alloc_global(self, space, dev):
        return space.alloc_highest(1, dev.max_pasids - 1)
"""
COUNTING = """
    def __init__(self, options=None):
        super().__init__(options)
        self.binds = 0

    def bind(self, dev, mm):
        self.binds = min(self.binds + 1, 3)
        self.last = mm
        return super().bind(dev, mm)
"""
RAISING = """
    def bind(self, dev, mm):
        if mm.name == "p1":
            raise ValueError("not this one")
        return super().bind(dev, mm)
"""
UNKNOWN_ERRNO = """
    def bind(self, dev, mm):
        from pasidlab.errors import Errno
        from pasidlab.linux.sva import BIND_LAM

        return BIND_LAM.refuse(Errno.EPROTO, mm=mm.name)
"""
NOT_TO_BE_COPIED = """
    def bind(self, dev, mm):
        self.lookup = lambda: mm
        return super().bind(dev, mm)
"""


def test_a_pair_that_only_a_quota_still_counts_tells_states_apart() -> None:
    binds = "bind_device", "bind_device_pasid", "unbind"
    once = {"driver": ["unbind"], "windows": False}
    free, counted = (world(*binds, processes=1, teardown=once, options={"quota_user": quota}) for quota in (0, 9))
    assert search(free, SCHEMES["hybrid"], ()).states < search(counted, SCHEMES["hybrid"], ()).states
    assert search(free, SCHEMES["v2"], ()).states == search(counted, SCHEMES["v2"], ()).states


def test_a_users_scheme_is_searched(user: Callable[[str], type[Mainline]]) -> None:
    scheme = user(TOP_DOWN)
    found = search(world("bind"), scheme, ())
    assert (found.states, found.complete) == (3, True)
    numbers = {tuple(process.number for process in state.processes) for state in reachable(world("bind"), scheme)}
    assert numbers == {(0, 0), (0, 2), (1, 2)}


def test_what_a_users_scheme_keeps_tells_states_apart(user: Callable[[str], type[Mainline]]) -> None:
    one = world("bind", "unbind", processes=1, teardown={"driver": ["unbind"], "windows": False})
    assert search(one, Mainline, ()).states == 3
    assert search(one, user(COUNTING), ()).states == 1 + 3 + 3  # each state after one, two, and three or more binds


def test_names_are_not_exchanged_where_a_users_scheme_knows_them(user: Callable[[str], type[Mainline]]) -> None:
    binds = world("bind")
    assert search(binds, user(COUNTING), ()).states == search(binds, user(COUNTING), (), symmetry=False).states == 5


def test_a_users_scheme_that_raises_is_blamed_by_file_and_line(user: Callable[[str], type[Mainline]]) -> None:
    scheme = user(RAISING)
    with pytest.raises(InputError, match=r"scheme Own raised ValueError: not this one .*own\.py, line 8, in bind"):
        search(world("bind"), scheme, ())


def test_an_errno_that_no_result_stands_for_is_named(user: Callable[[str], type[Mainline]]) -> None:
    with pytest.raises(InputError, match="EPROTO: no result of a search; known: OK, "):
        search(world("bind"), user(UNKNOWN_ERRNO), ())


def test_a_users_scheme_that_keeps_what_cannot_be_copied_is_told_so(user: Callable[[str], type[Mainline]]) -> None:
    with pytest.raises(InputError, match="scheme Own: its state cannot be"):
        search(world("bind"), user(NOT_TO_BE_COPIED), ())

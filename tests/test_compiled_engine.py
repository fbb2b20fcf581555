from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError, ModelError
from pasidlab.explore import compiled
from pasidlab.explore import search as readable
from pasidlab.explore.action import Result, Step, Verb
from pasidlab.explore.compiled import engine, visited
from pasidlab.explore.compiled import search as compiled_search
from pasidlab.explore.compiled.engine import reachable, search
from pasidlab.explore.compiled.search import ENTRIES
from pasidlab.explore.compiled.visited import ENVELOPE, Visited
from pasidlab.explore.properties import PROPERTIES, Property
from pasidlab.explore.state import State, canonical
from pasidlab.explore.verdict import Found, Limits, Progress
from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES
from tests.compiled_states import world_of

ACTIONS = ["bind", "unbind", "submit", "page_request", "exit"]
SMALL = world_of((2,), (2,), tasks=1, bits=1, actions=["bind", "unbind", "exit"])
LARGER = world_of((2,), (2,), tasks=1, actions=["bind", "unbind", "exit"])
REUSE = World.from_dict(
    {
        "actions": ACTIONS,
        "teardown": {"driver": ["unbind"], "windows": False},
        "iommu": [{"name": "i", "pasid_bits": 2}],
        "device": [{"name": "d", "iommu": "i", "pasid_bits": 2}],
        "process": [{"name": "p", "count": 2}],
    }
)
"""A driver that only unbinds: numbers are reused too early."""
MAINLINE = SCHEMES["mainline"]
ALL = tuple(PROPERTIES[name] for name in ("one-mm-per-number", "isolation", "page-request-owner", "no-leak"))


def counts(found: Found) -> tuple[int, int, int, dict[tuple[Verb, Result], int]]:
    return found.states, found.transitions, found.depth, found.reached


def lengths(found: Found) -> dict[str, int]:
    return {one.property: len(one.steps) for one in found.counterexamples}


def twin(name: str) -> Property:
    """The same property without its compiled form."""
    one = PROPERTIES[name]
    return Property(f"twin of {name}", one.rule, one.source, one.state, one.step)


# --- the same as the readable search ---------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetry", [True, False])
def test_counts_are_those_of_the_readable_search(symmetry: bool) -> None:
    found = search(SMALL, MAINLINE, ALL, symmetry=symmetry)
    assert counts(found) == counts(readable.search(SMALL, MAINLINE, ALL, symmetry=symmetry))
    assert found.complete
    assert found.stopped_by == ""


@pytest.mark.parametrize("symmetry", [True, False])
def test_reached_states_are_those_of_the_readable_search(symmetry: bool) -> None:
    assert reachable(SMALL, MAINLINE, symmetry=symmetry) == readable.reachable(SMALL, MAINLINE, symmetry=symmetry)


def test_symmetry_leaves_one_state_of_each_class() -> None:
    every = reachable(REUSE, MAINLINE, symmetry=False)
    some = reachable(REUSE, MAINLINE)
    assert len(some) < len(every)
    assert {canonical(state, REUSE.classes) for state in every} == some


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("keep_going", [True, False])
def test_counts_and_lengths_do_not_depend_on_the_workers(workers: int, keep_going: bool) -> None:
    alone = search(REUSE, MAINLINE, ALL, keep_going=keep_going)
    together = search(REUSE, MAINLINE, ALL, keep_going=keep_going, workers=workers)
    assert counts(together) == counts(alone)
    assert lengths(together) == lengths(alone) != {}


def test_workers_share_parts_of_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """More parts than one a level, so that letters are read in between."""
    told: list[Progress] = []
    monkeypatch.setattr(engine, "BETWEEN_REPORTS", 0.0)
    found = search(REUSE, MAINLINE, (), workers=2, progress=told.append)
    assert len(told) > found.depth
    assert [one.states for one in told] == sorted(one.states for one in told)
    assert told[-1][:2] == (found.states, found.transitions)


# --- traces ----------------------------------------------------------------------------------------------------------


def test_a_trace_is_the_shortest_and_starts_at_the_start() -> None:
    found = search(REUSE, MAINLINE, ALL, keep_going=True)
    assert lengths(found) == lengths(readable.search(REUSE, MAINLINE, ALL, keep_going=True))
    by_name = {one.property: one.steps for one in found.counterexamples}
    last = by_name["isolation"][-1]
    assert last.action.verb is Verb.COMPLETE
    assert last.owner not in (0, last.action.process + 1)
    assert list(lengths(found).values()) == sorted(lengths(found).values())


def test_without_keep_going_the_level_of_the_first_violation_is_the_last() -> None:
    found = search(REUSE, MAINLINE, ALL)
    assert found.stopped_by == "violation"
    assert not found.complete
    assert set(lengths(found).values()) == {found.depth}
    assert counts(found)[:2] == counts(readable.search(REUSE, MAINLINE, ALL))[:2]


def test_traces_need_nothing_compiled_that_the_search_did_not() -> None:
    search(REUSE, MAINLINE, [*ALL, twin("no-leak")], keep_going=True, workers=2)
    assert {name: len(entry.signatures) for name, entry in ENTRIES._asdict().items()} == dict.fromkeys(
        ENTRIES._fields, 1
    )


# --- properties without a compiled form ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("names", [("isolation", "page-request-owner"), ("isolation",)])
def test_a_property_of_steps_without_compiled_form_is_found_as_early(names: Sequence[str], workers: int) -> None:
    fast = search(REUSE, MAINLINE, [PROPERTIES[name] for name in names], keep_going=True)
    slow = search(REUSE, MAINLINE, [twin(name) for name in names], keep_going=True, workers=workers)
    assert counts(slow) == counts(fast)
    assert lengths(slow) == {f"twin of {name}": length for name, length in lengths(fast).items()} != {}


def held(state: State) -> int:
    return sum(on.opened != 0 for process in state.processes for on in process.on)


def test_a_property_of_states_without_compiled_form_is_found() -> None:
    full = Property("three", "two bonds at most", "", state=lambda state, world: held(state) > 2)
    found = search(LARGER, MAINLINE, [full])
    assert [step.action.verb for step in found.counterexamples[0].steps] == [Verb.BIND] * 3


def test_a_property_that_the_start_breaks_has_no_steps() -> None:
    living = Property("dead", "nothing lives", "", state=lambda state, world: state.processes[0].alive)
    found = search(SMALL, MAINLINE, [living])
    assert found.counterexamples[0].steps == ()
    assert (found.states, found.transitions, found.stopped_by) == (1, 0, "violation")


def test_a_property_of_names_is_found_without_symmetry() -> None:
    def is_broken(before: State, step: Step, after: State, world: World) -> bool:
        return step.action.verb is Verb.EXIT and step.action.process == 1 and held(before) > 0

    named = Property("only-first", "only the first process leaves", "", step=is_broken)
    found = search(LARGER, MAINLINE, [named], symmetry=False)
    assert [step.action.verb for step in found.counterexamples[0].steps] == [Verb.BIND, Verb.EXIT]


def test_a_property_of_names_is_refused_when_symmetry_hides_it() -> None:
    """Of two such properties, which are each other's mirror image, the representative breaks only one."""

    def bound(process: int, device: int) -> Property:
        return Property("bound", "", "", state=lambda state, world: state.processes[process].on[device].opened > 0)

    said: list[int | str] = []
    for mirrored in (bound(0, 0), bound(1, 1)):
        try:
            said.append(len(search(LARGER, MAINLINE, [mirrored], Limits(depth=1)).counterexamples))
        except InputError as error:
            said.append(str(error))
    refused = [one for one in said if isinstance(one, str)]
    assert len(refused) == 1
    assert "search without symmetry" in refused[0]


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_bound_on_the_depth_leaves_the_last_level_unexpanded() -> None:
    found = search(SMALL, MAINLINE, (), Limits(depth=3))
    assert (found.depth, found.stopped_by, found.complete) == (3, "depth", False)
    assert found.transitions == search(SMALL, MAINLINE, (), Limits(depth=4)).transitions - _of_level(SMALL, 3)


def _of_level(world: World, depth: int) -> int:
    """How many transitions the states of a level have."""
    fewer, more = (readable.search(world, MAINLINE, (), Limits(depth=one)) for one in (depth, depth + 1))
    return more.transitions - fewer.transitions


def test_a_bound_on_states_stops_when_it_is_passed() -> None:
    found = search(REUSE, MAINLINE, (), Limits(states=50))
    assert (found.stopped_by, found.complete) == ("states", False)
    assert 50 <= found.states < search(REUSE, MAINLINE, ()).states


def test_a_bound_that_is_not_reached_stops_nothing() -> None:
    most = search(SMALL, MAINLINE, ())
    found = search(SMALL, MAINLINE, (), Limits(states=most.states + 1, seconds=1e6, depth=most.depth + 1))
    assert counts(found) == counts(most)
    assert found.complete


@pytest.mark.parametrize("one", [search, readable.search], ids=["compiled", "readable"])
def test_a_bound_on_memory_stops_either_search_and_says_so(one: Any) -> None:
    whole = one(REUSE, MAINLINE, (), Limits())
    found = one(REUSE, MAINLINE, (), Limits(memory=1))
    assert (found.complete, found.stopped_by) == (False, "memory")
    assert found.states < whole.states


def test_no_seconds_stop_at_once() -> None:
    found = search(REUSE, MAINLINE, (), Limits(seconds=1e-9))
    assert found.stopped_by == "seconds"
    assert found.depth == 1


def test_an_interrupt_returns_what_was_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.depth > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "BETWEEN_REPORTS", 0.0)
    found = search(REUSE, MAINLINE, ALL, keep_going=True, workers=2, progress=interrupt)
    assert (found.stopped_by, found.complete) == ("interrupted", False)
    assert 1 < found.states < search(REUSE, MAINLINE, (), keep_going=True).states


def test_what_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(*arguments: object, **keys: bool) -> np.ndarray:
        plan = plan_of(*arguments, **keys)
        plan["allowed"] = 0
        return plan

    plan_of = engine.plan_of
    monkeypatch.setattr(engine, "plan_of", narrow)
    world = world_of((1,), (1,), tasks=1)
    with pytest.raises(ModelError, match="no place"):
        search(world, MAINLINE, ())


# --- the visited set -------------------------------------------------------------------------------------------------


def letters_of(words: Sequence[int], hashes: Sequence[int]) -> np.ndarray:
    """Letters of states of one word, whose links are their places."""
    letters = np.zeros((len(words), ENVELOPE + 1), np.int64)
    letters[:, 0], letters[:, 1], letters[:, 2] = hashes, range(len(words)), words
    return letters


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=60), max_size=6), st.integers(0, 63), st.booleans())
def test_a_set_keeps_each_state_once_whatever_the_hashes(parts: list[list[int]], shift: int, bad: bool) -> None:
    seen = Visited(1)
    for words in parts:
        hashes = [0 if bad else (word << shift & (1 << 64) - 1) - (1 << 63) for word in words]
        seen.insert(letters_of(words, hashes), len(words))
    assert seen.table.words[: seen.size, 0].tolist() == list(dict.fromkeys(word for words in parts for word in words))


def test_a_set_grows_and_still_knows_its_states() -> None:
    seen = Visited(1)
    words = np.random.default_rng(1).permutation(30_000)
    letters = letters_of(words, (words * 0x1E37_79B9_7F4A_7C15).tolist())
    for first in (0, 10_000, 20_000, 5_000):
        seen.insert(letters[first : first + 10_000].copy(), 10_000)
    assert seen.size == 30_000
    assert seen.table.words[:30_000, 0].tolist() == words.tolist()
    assert seen.table.link[:30_000].tolist() == list(range(30_000))
    assert seen.memory >= 30_000 * 24


def test_a_set_takes_no_more_states_than_it_can_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visited, "CAPACITY", 3)
    seen = Visited(1)
    seen.insert(letters_of([1, 2, 3], [1, 2, 3]), 3)
    with pytest.raises(InputError, match="no room for more than 3 states: bound them, or take more workers"):
        seen.insert(letters_of([4], [4]), 1)


def test_the_largest_set_has_as_many_slots_as_tags_can_name() -> None:
    slots_lg2 = next(lg2 for lg2 in range(64) if visited.FULL * (1 << lg2) >= visited.CAPACITY)
    assert slots_lg2 <= visited.TAG_BITS


def test_letters_behind_the_last_are_not_read() -> None:
    seen = Visited(1)
    seen.insert(letters_of([1, 2, 3], [1, 2, 3]), 2)
    assert seen.size == 2


def test_the_cache_on_disk_depends_on_every_compiled_module() -> None:
    folder = Path(compiled.__file__).parent
    names = [path.stem for path in folder.glob("*.py") if "\n@compiled" in path.read_text()]
    known = {Path(str(module.__file__)).stem for module in compiled_search.SOURCES} | {"search"}
    assert len(names) > 10
    assert {*names, "action", "state", "compiling"} <= known

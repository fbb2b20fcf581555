"""Long random walks on the machine, which the compiled transitions and properties follow step by step."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasidlab.explore.abstract import Abstraction, Ghosts, Standing
from pasidlab.explore.action import Action, Step, Verb, actions
from pasidlab.explore.compiled.supported import unsupported
from pasidlab.explore.perform import number_of, perform, start
from pasidlab.explore.properties import PROPERTIES
from pasidlab.explore.state import State
from pasidlab.explore.world import World
from pasidlab.machine import Machine
from pasidlab.schemes import SCHEMES, Scheme
from tests.compiled_worlds import (
    BARE,
    ELSEWHERE,
    EVERYTHING,
    LOCAL_PORTAL,
    NARROW,
    PORTAL,
    QUEUED,
    WIDE,
    WITHOUT_PASIDS,
    Compiled,
    world_of,
)

STEPS = 120
CALLS = (Verb.UNBIND, Verb.EXIT)
ARM64 = {"arch": "arm64", "ls64": 3, "accdata": "switched"}


class Walk:
    """A machine that goes at random, and the compiled form that must go the same way."""

    def __init__(self, world: World, scheme: type[Scheme], seed: int) -> None:
        self.world = world
        self.random = Random(seed)
        self.machine = Machine(world.machine, scheme(world.options))
        start(world, self.machine)
        self.abstraction = Abstraction(world)
        self.compiled = Compiled(world, scheme)
        self.ghosts = Ghosts()
        self.state = self.abstraction.state(self.machine, self.ghosts)
        self.left = STEPS
        self.exits = self.random.choice((0.02, 0.3))

    def go(self) -> None:
        """Take steps outside calls."""
        while self.left > 0 and (offered := self._offered()):
            self._take(self.random.choice(_seldom_ending(offered, self.random, self.exits)))

    def _offered(self) -> list[Action]:
        offered = list(actions(self.state, self.world))
        assert self.compiled.offered(self.state) == offered
        return offered

    def _take(self, action: Action) -> None:
        """Do an action; windows on the way are gone through at random as well."""
        self.left -= 1
        self.action, self.windows = action, 0
        before, call = self.ghosts, action
        if self.world.teardown.windows and action.verb in CALLS:
            number = number_of(self.machine, self.world, action) if action.verb is Verb.UNBIND else 0
            self.machine.kernel.at_window = lambda _: self._stand(call, number, before)
        step, self.ghosts = perform(self.machine, self.world, action, before)
        self.machine.kernel.at_window = None
        self._compare(step._replace(action=self.action))

    def _stand(self, call: Action, number: int, ghosts: Ghosts) -> None:
        """Stand in a window until the call goes on."""
        self.windows += 1
        self.ghosts = ghosts._replace(standing=Standing(call, number, self.windows))
        self._compare(Step(self.action))
        while True:
            offered = self._offered()
            action = self.random.choice(offered) if self.left > 0 else offered[-1]
            self.left -= 1
            if action.verb is Verb.RESUME:
                self.action = action
                return
            step, _ = perform(self.machine, self.world, action, ghosts)
            self._compare(step)

    def _compare(self, step: Step) -> None:
        """Compare a step and what it led to, and which properties it broke."""
        before, self.state = self.state, self.abstraction.state(self.machine, self.ghosts)
        assert self.compiled.follow(before, step.action) == (step, self.state)
        assert set(self.compiled.broken(before, step, self.state)) == set(_broken(before, step, self.state, self.world))


def _seldom_ending(offered: list[Action], random: Random, exits: float) -> list[Action]:
    """Leave exits out most of the time, so that a walk is long, and give each kind of action the same weight."""
    living = [action for action in offered if action.verb is not Verb.EXIT]
    if not living or random.random() < exits:
        return offered
    kinds = sorted({action.verb for action in living})
    kind = random.choice(kinds)
    return [action for action in living if action.verb is kind]


def _broken(before: State, step: Step, after: State, world: World) -> Iterator[str]:
    for one in PROPERTIES.values():
        if one.state is not None and one.state(after, world):
            yield one.name
        if one.step is not None and one.step(before, step, after, world):
            yield one.name


ST64BV0 = {"submit": "st64bv0"}
PLACES = {
    "portals": (PORTAL, LOCAL_PORTAL),
    "narrow": (NARROW, WIDE, QUEUED),
    "mixed": (PORTAL, NARROW, QUEUED, LOCAL_PORTAL),
    "two iommus": (QUEUED, ELSEWHERE, LOCAL_PORTAL),
    "odd": (WITHOUT_PASIDS, BARE, LOCAL_PORTAL),
    "arm64": (PORTAL | ST64BV0, LOCAL_PORTAL | ST64BV0),
}
OPTIONS = st.fixed_dictionaries(
    {
        "guard": st.sampled_from(["none", "mmap", "range", "declared"]),
        "local_first": st.sampled_from([1, 2, 3]),
        "order": st.sampled_from(["lowest", "highest", "reserve-low"]),
        "reserve": st.sampled_from([0, 1, 2]),
        "rfc_enqcmd": st.sampled_from(["first", "none"]),
    },
    optional={"local_by": st.sampled_from(["iommu", "arch", "device", "driver"])},
)
TEARDOWNS = st.builds(
    lambda driver, iommu, windows: {"driver": driver, "iommu": iommu, "windows": windows},
    st.permutations(["stop", "drain", "unbind"]).flatmap(lambda all_of: _with("unbind", all_of)),
    st.permutations(["table", "iotlb", "atc"]).flatmap(lambda all_of: _with("table", all_of)),
    st.booleans(),
)


def _with(needed: str, steps: list[str]) -> st.SearchStrategy[list[str]]:
    """Draw an order that may leave out steps, but not the one that is needed."""
    kept = st.sets(st.sampled_from([step for step in steps if step != needed]))
    return kept.map(lambda some: [step for step in steps if step == needed or step in some])


@pytest.mark.parametrize("scheme", SCHEMES)
@given(
    places=st.sampled_from(sorted(PLACES)),
    options=OPTIONS,
    teardown=TEARDOWNS,
    usual=st.booleans(),
    processes=st.integers(1, 3),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_compiled_transitions_do_what_the_machine_does(
    scheme: str,
    places: str,
    options: dict[str, Any],
    teardown: dict[str, Any],
    usual: bool,
    processes: int,
    threads: int,
    seed: int,
) -> None:
    cpu = ARM64 if places == "arm64" else {}
    more = {"options": options, "cpu": cpu} | ({} if usual else {"teardown": teardown})
    world = world_of(EVERYTHING, *PLACES[places], processes=processes, threads=threads, **more)
    assert unsupported(world, SCHEMES[scheme]) is None
    Walk(world, SCHEMES[scheme], seed).go()

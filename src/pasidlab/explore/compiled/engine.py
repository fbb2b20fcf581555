"""The compiled search: breadth first, level by level, over packed states.

Decided here: the bounds on states and seconds are looked at, progress is told and Ctrl-C is heard between parts of a
level, each of which is some ten thousand transitions a worker. Of two properties' traces neither depends on the other,
but which of several shortest ones is found may depend on the number of workers; counts do not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pasidlab.explore.compiled.crew import Crew
from pasidlab.explore.compiled.facts import record_of
from pasidlab.explore.compiled.judge import Judge
from pasidlab.explore.compiled.layout import Records, decode, encode
from pasidlab.explore.compiled.plan import plan_of
from pasidlab.explore.compiled.retrace import Retracer
from pasidlab.explore.compiled.search import Question
from pasidlab.explore.state import OnDevice, ProcessState, State, TaskState, canonical
from pasidlab.explore.verdict import BETWEEN_REPORTS, Counterexample, Found, Limits, Progress, Report, StoppedBy

if TYPE_CHECKING:
    from pasidlab.explore.properties import Property
    from pasidlab.explore.world import World
    from pasidlab.schemes import Scheme


def search(
    world: World,
    scheme: type[Scheme],
    properties: Sequence[Property],
    limits: Limits = Limits(),  # noqa: B008 - a tuple
    *,
    symmetry: bool = True,
    keep_going: bool = False,
    progress: Report | None = None,
    workers: int = 1,
) -> Found:
    """Search a world that is supported under a scheme until it is done, broken or bounded."""
    with Crew(_question(world, scheme, symmetry=symmetry), workers) as crew:
        return _Search(crew, world, scheme, properties).run(limits, keep_going=keep_going, progress=progress)


def reachable(world: World, scheme: type[Scheme], *, symmetry: bool = True, limit: int | None = None) -> set[State]:
    """Return the states that can be reached, in canonical form with symmetry; `limit` bounds their number."""
    with Crew(_question(world, scheme, symmetry=symmetry), 1) as crew:
        _Search(crew, world, scheme, ()).run(Limits(states=limit), keep_going=False, progress=None)
        crew.done = [0]
        states = (decode(record, world) for _, record in crew.records())
        return {canonical(state, world.classes) if symmetry else state for state in states}


def _question(world: World, scheme: type[Scheme], *, symmetry: bool) -> Question:
    return Question(record_of(world, scheme), plan_of(world, scheme.name, symmetry=symmetry))


def start_of(world: World) -> Records:
    """Return the first state: all tasks live, and nothing has happened."""
    devices = len(world.devices)
    nothing = tuple(OnDevice() for _ in range(devices))
    processes = (ProcessState(tuple(TaskState() for _ in tasks), on=nothing) for tasks in world.processes)
    return encode(State(tuple(processes), (0,) * devices, (0,) * devices, (False,) * devices))


class _Search:
    """One search; `depth` is that of the deepest states that were found."""

    def __init__(self, crew: Crew, world: World, scheme: type[Scheme], properties: Sequence[Property]) -> None:
        self._crew, self._world, self._scheme = crew, world, scheme
        self._properties = {one.name: one for one in properties}
        self._judge = Judge(crew, world, properties)
        self._start = start_of(world)
        self.depth = 0
        self._began = time.monotonic()
        self._next_report = self._began

    def run(self, limits: Limits, *, keep_going: bool, progress: Report | None) -> Found:
        """Search, level by level."""
        stopped: StoppedBy = ""
        try:
            self._crew.begin(self._start)
            self._end_level()
            while self._crew.frontier and not stopped:
                stopped = self._stopped_before_level(limits, keep_going) or self._expand_level(limits, progress)
        except KeyboardInterrupt:
            stopped = "interrupted"
        return self._found(stopped)

    def _end_level(self) -> None:
        self._crew.end_level()
        self._judge.judge_level()

    def _stopped_before_level(self, limits: Limits, keep_going: bool) -> StoppedBy:
        if self._judge.broken and not keep_going:
            return "violation"
        return limits.at_depth(self.depth)

    def _expand_level(self, limits: Limits, progress: Report | None) -> StoppedBy:
        """Expand all states of the deepest level; a bound stops it after a part."""
        stopped: StoppedBy = ""
        known = self._crew.states
        while self._crew.in_level and not stopped:
            self._crew.expand(self._judge.wanted, self._judge.told)
            if self._crew.frontier:
                stopped = limits.passed(self._crew.states, time.monotonic() - self._began, self._crew.memory)
            self._report(progress)
        self.depth += self._crew.states > known
        self._end_level()
        return stopped

    def _report(self, progress: Report | None) -> None:
        now = time.monotonic()
        if progress is not None and now >= self._next_report:
            self._next_report = now + BETWEEN_REPORTS
            crew = self._crew
            progress(Progress(crew.states, crew.transitions, self.depth, crew.frontier, now - self._began))

    def _found(self, stopped: StoppedBy) -> Found:
        crew = self._crew
        return Found(
            states=crew.states,
            transitions=crew.transitions,
            depth=self.depth,
            complete=not stopped,
            stopped_by=stopped,
            reached=crew.reached,
            counterexamples=self._counterexamples(),
            seconds=time.monotonic() - self._began,
            memory=crew.memory,
        )

    def _counterexamples(self) -> tuple[Counterexample, ...]:
        """Return the shortest trace to each property that was broken, short ones first."""
        if not self._judge.broken:
            return ()
        retracer = Retracer(self._crew, self._world, self._scheme, self._start)
        broken = [(self._properties[name], breach) for name, breach in self._judge.broken.items()]
        found = [Counterexample(one.name, retracer.steps_to(breach, one)) for one, breach in broken]
        return tuple(sorted(found, key=lambda one: len(one.steps)))

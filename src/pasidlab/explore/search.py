"""The readable search: breadth first over the machine itself, level by level.

One machine stands for all that differ from it by interchangeable names only: the first that was reached. It is the one
that is gone on from, so that a trace, which follows the parents of a state, can be done from the start as it stands.

Decided here: bounds on states and seconds are looked at after each expanded state. Of the states, the search keeps
their canonical forms, and snapshots of those that are still to be expanded.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pasidlab.errors import InputError
from pasidlab.explore.action import Result, Step, Verb
from pasidlab.explore.own_state import OwnState
from pasidlab.explore.readable import Node, Readable
from pasidlab.explore.state import State, canonical
from pasidlab.explore.trace import told_words
from pasidlab.explore.verdict import BETWEEN_REPORTS, Counterexample, Found, Limits, Progress, Report, StoppedBy

if TYPE_CHECKING:
    from pasidlab.explore.properties import Property
    from pasidlab.explore.world import World
    from pasidlab.schemes import Scheme

Rest = tuple[tuple[int, ...], bytes]
"""What `OwnState` adds to the key of a state."""


def search(
    world: World,
    scheme: type[Scheme],
    properties: Sequence[Property],
    limits: Limits = Limits(),  # noqa: B008 - a tuple
    *,
    symmetry: bool = True,
    keep_going: bool = False,
    progress: Report | None = None,
) -> Found:
    """Search a world under a scheme until it is done, broken or bounded; InputError for a scheme that raises."""
    return _Search(world, scheme, properties, symmetry=symmetry).run(limits, keep_going=keep_going, progress=progress)


def reachable(world: World, scheme: type[Scheme], *, symmetry: bool = True, limit: int | None = None) -> set[State]:
    """Return the states that can be reached, in canonical form with symmetry; `limit` bounds their number."""
    made = _Search(world, scheme, (), symmetry=symmetry)
    made.run(Limits(states=limit), keep_going=False, progress=None)
    return {key if isinstance(key, State) else key[0] for key in made.visited.numbers}


class _Visited:
    """The states that were reached, numbered in their order from the start, which is 0, and how each was reached."""

    def __init__(self) -> None:
        self.numbers: dict[State | tuple[State, Rest], int] = {}
        self._arrivals: list[tuple[int, Step]] = []
        self._shared: dict[Any, Any] = {}
        self._bytes = 0

    def add(self, state: State, rest: Rest | None) -> int | None:
        """Number a state; None for one that is known. `rest` is what else its key has."""
        key = state if rest is None else (state, rest)
        if key in self.numbers:
            return None
        shared = state._replace(processes=tuple([self._once(process) for process in state.processes]))
        self._bytes += sys.getsizeof(shared) + sys.getsizeof(shared.processes)
        number = len(self.numbers)
        self.numbers[shared if rest is None else (shared, rest)] = number
        return number

    def arrive(self, parent: int, step: Step) -> None:
        """Note how the state was reached that was numbered last."""
        arrival = parent, self._once(step)
        self._bytes += sys.getsizeof(arrival)
        self._arrivals.append(arrival)

    def _once(self, part: Any) -> Any:
        """Return the first of all equal parts, which stands for them."""
        known = self._shared.setdefault(part, part)
        if known is part:
            self._bytes += sys.getsizeof(part)
        return known

    def trace(self, number: int) -> list[Step]:
        """Return the steps from the start to a state."""
        steps: list[Step] = []
        while number:
            number, step = self._arrivals[number - 1]
            steps.append(step)
        return steps[::-1]

    @property
    def memory(self) -> int:
        """How many bytes it takes, but for small parts that states share."""
        return self._bytes + sum(sys.getsizeof(table) for table in (self.numbers, self._arrivals, self._shared))


class _Search:
    """One search.

    Attributes:
        frontier: the states of the deepest level, with their numbers.
        depth: the steps from the start to them.
    """

    def __init__(self, world: World, scheme: type[Scheme], properties: Sequence[Property], *, symmetry: bool) -> None:
        self.world = world
        self.readable = Readable(world, scheme)
        self.visited = _Visited()
        self.frontier: list[tuple[int, Node]] = []
        self.transitions = self.depth = 0
        self._kept = self._most_kept = 0  # bytes of snapshots
        self._own = OwnState(self.readable.machine)
        self._symmetry = symmetry
        self._reached: Counter[tuple[Verb, Result]] = Counter()
        self._broken: dict[str, Counterexample] = {}
        self._of_states = {one.name: one.state for one in properties if one.state is not None}
        self._of_steps = {one.name: one.step for one in properties if one.step is not None}
        self._began = time.monotonic()
        self._next_report = self._began

    def run(self, limits: Limits, *, keep_going: bool, progress: Report | None) -> Found:
        """Search, level by level."""
        stopped: StoppedBy = ""
        try:
            self._begin()
            while self.frontier and not stopped:
                stopped = self._stopped_before_level(limits, keep_going) or self._expand_level(limits, progress)
        except KeyboardInterrupt:
            stopped = "interrupted"
        return self._found(stopped)

    def _begin(self) -> None:
        start = self.readable.start
        self._number(start.state)
        self._judge_state(start.state, 0)
        self._keep(0, start)

    def _keep(self, number: int, node: Node) -> None:
        """Keep a state for the next level."""
        self.frontier.append((number, node))
        self._kept += sys.getsizeof(node.snapshot)
        self._most_kept = max(self._kept, self._most_kept)

    def _stopped_before_level(self, limits: Limits, keep_going: bool) -> StoppedBy:
        if self._broken and not keep_going:
            return "violation"
        return limits.at_depth(self.depth)

    def _expand_level(self, limits: Limits, progress: Report | None) -> StoppedBy:
        """Expand all states of the deepest level; a bound stops it after any of them."""
        level, self.frontier = self.frontier[::-1], []
        below = self.depth + 1
        while level:
            number, node = level.pop()
            self._expand(number, node, below)
            self._kept -= sys.getsizeof(node.snapshot)
            stopped = limits.passed(len(self.visited.numbers), time.monotonic() - self._began, self.memory)
            if stopped:
                return stopped if level or self.frontier else ""
            if progress is not None and time.monotonic() >= self._next_report:
                self._next_report = time.monotonic() + BETWEEN_REPORTS
                progress(self._progress())
        return ""

    def _expand(self, number: int, node: Node, below: int) -> None:
        """Do every action that is offered in a state; `below` is the depth of what is new then."""
        try:
            for step, reached in self.readable.successors(node):
                self._arrive(number, node, step, reached, below)
        except InputError as error:
            steps = [step.action for step in self.visited.trace(number)]
            told = told_words(self.world, self.readable.scheme, [*steps, self.readable.trying])
            raise InputError(f"{error}; this came of: {'; '.join(told)}") from error

    def _arrive(self, number: int, node: Node, step: Step, reached: Node, below: int) -> None:
        """Judge where an action led, and keep it if it is new."""
        self.transitions += 1
        self._reached[step.action.verb, step.result] += 1
        self._judge_step(number, node.state, step, reached.state)
        new = self._number(reached.state)
        if new is None:
            return
        self.depth = below
        self.visited.arrive(number, step)
        self._judge_state(reached.state, new)
        self._keep(new, self.readable.keep(reached))

    def _number(self, state: State) -> int | None:
        """Number the state in which the machine is; None if it is known."""
        rest = self._own.key()
        if self._symmetry and not (rest and rest[1]):
            state = canonical(state, self.world.classes)
        return self.visited.add(state, rest)

    # --- properties --------------------------------------------------------------------------------------------

    def _judge_state(self, state: State, number: int) -> None:
        for name, is_broken in self._of_states.items():
            if name not in self._broken and is_broken(state, self.world):
                self._broken[name] = Counterexample(name, tuple(self.visited.trace(number)))

    def _judge_step(self, number: int, before: State, step: Step, after: State) -> None:
        for name, is_broken in self._of_steps.items():
            if name not in self._broken and is_broken(before, step, after, self.world):
                self._broken[name] = Counterexample(name, (*self.visited.trace(number), step))

    # --- reports -----------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        states, seconds = len(self.visited.numbers), time.monotonic() - self._began
        return Progress(states, self.transitions, self.depth, len(self.frontier), seconds)

    @property
    def memory(self) -> int:
        """How many bytes the visited set takes, the snapshots that were kept at most, and what they share."""
        shared = sum(map(sys.getsizeof, self.readable.snapshots.memories))
        return self.visited.memory + self._most_kept + shared

    def _found(self, stopped: StoppedBy) -> Found:
        broken = [self._broken[name] for name in (*self._of_states, *self._of_steps) if name in self._broken]
        return Found(
            states=len(self.visited.numbers),
            transitions=self.transitions,
            depth=self.depth,
            complete=not stopped,
            stopped_by=stopped,
            reached=dict(self._reached),
            counterexamples=tuple(sorted(broken, key=lambda one: len(one.steps))),
            seconds=time.monotonic() - self._began,
            memory=self.memory,
        )

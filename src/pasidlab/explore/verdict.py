"""What a search is given and what it returns, whichever engine did it.

A search is breadth first and finishes every level, so that its counts do not depend on the order of the work: it stops
after the level in which the first violation was found, or with `keep_going` at the end. A bound on states, seconds
or memory stops it at once, in the midst of a level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from pasidlab.explore.action import Result, Step, Verb

StoppedBy = Literal["", "states", "seconds", "memory", "depth", "interrupted", "violation"]


class Engine(StrEnum):
    """Which search was used: over compiled transitions, or over the machine itself."""

    COMPILED = "compiled"
    READABLE = "readable"


class Status(StrEnum):
    """What a search says of a world under a scheme."""

    HOLDS = "holds"
    VIOLATED = "violated"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


class Limits(NamedTuple):
    """Where a search stops if it was not done before; None is no such bound. `memory` is in bytes."""

    states: int | None = None
    seconds: float | None = None
    depth: int | None = None
    memory: int | None = None

    def passed(self, states: int, seconds: float, memory: int) -> StoppedBy:
        """Say which bound a search has reached that has found so many states, and taken so long and so much."""
        if self.states is not None and states >= self.states:
            return "states"
        if self.memory is not None and memory >= self.memory:
            return "memory"
        return "seconds" if self.seconds is not None and seconds >= self.seconds else ""

    def at_depth(self, depth: int) -> StoppedBy:
        """Say which bound a search has reached whose deepest states are so many steps from the start."""
        return "depth" if self.depth is not None and depth >= self.depth else ""


UNLIMITED = Limits()


class Progress(NamedTuple):
    """How far a search has come; `frontier` is how many states of the deepest level are still to be expanded."""

    states: int
    transitions: int
    depth: int
    frontier: int
    seconds: float


Report = Callable[[Progress], None]
BETWEEN_REPORTS = 0.1
"""Seconds from one report of progress to the next."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Steps from the start, after whose last one the property does not hold."""

    property: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        states: distinct states, those of the last level included.
        transitions: actions that were offered in all expanded states.
        depth: the steps from the start to the last level; the start is 0.
        complete: every reachable state was expanded.
        stopped_by: what stopped it before that; empty when nothing did.
        reached: how many transitions of each kind were taken, those included that change nothing.
        counterexamples: the shortest for each property that was broken.
        memory: bytes of the visited set and what belongs to it.
    """

    states: int
    transitions: int
    depth: int
    complete: bool
    stopped_by: StoppedBy
    reached: dict[tuple[Verb, Result], int]
    counterexamples: tuple[Counterexample, ...]
    seconds: float
    memory: int

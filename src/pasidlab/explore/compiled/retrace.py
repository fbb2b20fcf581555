"""From a path of representatives to steps that can be done from the start as they stand.

Each state of the path stands for many; a step is done from the one that the steps before really led to, and the first
action that leads to a state of the next representative is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pasidlab.errors import InputError, ModelError
from pasidlab.explore.action import Step
from pasidlab.explore.compiled.crew import Crew
from pasidlab.explore.compiled.judge import Breach
from pasidlab.explore.compiled.layout import STATE, Records, decode, step_of
from pasidlab.explore.compiled.packing import bytes_of
from pasidlab.explore.compiled.plan import plan_of
from pasidlab.explore.compiled.properties import STATE_PROPERTIES, STEP_PROPERTIES
from pasidlab.explore.compiled.search import ENTRIES, Question, new_desk, new_successors
from pasidlab.explore.compiled.visited import ENVELOPE
from pasidlab.explore.state import State

if TYPE_CHECKING:
    from pasidlab.explore.properties import Property
    from pasidlab.explore.world import World
    from pasidlab.schemes import Scheme

_ALL = -1
"""A mask of all properties."""


class Retracer:
    """Finds the steps to what a search has found; each step is done once more."""

    def __init__(self, crew: Crew, world: World, scheme: type[Scheme], start: Records) -> None:
        self._crew, self._world, self._start = crew, world, start
        plain = plan_of(world, scheme.name, symmetry=False)
        self._plain = Question(crew.question.worlds, plain)
        self._desk = new_desk(crew.words, 1)
        self._made = new_successors()

    def steps_to(self, breach: Breach, broken: Property) -> tuple[Step, ...]:
        """Return the steps from the start to where a property was broken."""
        steps, record = [], self._start[0]
        for number in self._crew.chain(breach.number):
            place = self._place_of(self._crew.words_of(number), self._follow(record))
            steps.append(self._step(place))
            record = self._after(place)
        if breach.is_step:
            steps.append(self._step(self._breaking(broken, record)))
        elif broken.name not in STATE_PROPERTIES and not self._is_broken(broken, decode(record, self._world)):
            raise _unequal(broken)
        return tuple(steps)

    def _is_broken(self, broken: Property, state: State) -> bool:
        assert broken.state is not None
        return broken.state(state, self._world)

    def _follow(self, record: Any) -> int:
        """Do all that a state offers; returns how many actions that is."""
        letter = np.zeros((1, ENVELOPE + self._crew.words), np.int64)
        ENTRIES.pack_all(self._plain, self._desk, bytes_of(np.array([record], STATE)), letter)
        self._desk.reached[:] = 0
        self._desk.written[:] = 0
        ENTRIES.expand(self._plain, self._desk, letter[:, ENVELOPE:].copy(), 0, 1, 0, _ALL, self._made)
        return int(self._desk.reached.sum())

    def _place_of(self, words: Any, count: int) -> int:
        """Return the first of the actions that were just done which led to what is packed as these words."""
        letters = np.zeros((count, ENVELOPE + self._crew.words), np.int64)
        ENTRIES.pack_all(self._crew.question, self._desk, self._made.state[:count], letters)
        places = np.flatnonzero((letters[:, ENVELOPE:] == words).all(axis=1))
        if not places.size:
            raise ModelError("a path of states by which a property is broken cannot be gone from the start")
        return int(places[0])

    def _breaking(self, broken: Property, record: Any) -> int:
        """Return the first action of a state that breaks a property of steps."""
        for place in range(self._follow(record)):
            if self._breaks(broken, record, place):
                return place
        raise _unequal(broken)

    def _breaks(self, broken: Property, record: Any, place: int) -> bool:
        if broken.name in STEP_PROPERTIES:
            return bool(int(self._made.broken[place]) >> STEP_PROPERTIES.index(broken.name) & 1)
        assert broken.step is not None
        before, after = (decode(one, self._world) for one in (record, self._after(place)))
        return broken.step(before, self._step(place), after, self._world)

    def _step(self, place: int) -> Step:
        return step_of(int(self._made.action[place]), int(self._made.step[place]))

    def _after(self, place: int) -> Any:
        """Return a copy of the record that an action led to."""
        return self._made.state[place].copy().view(STATE)[0]


def _unequal(broken: Property) -> InputError:
    return InputError(
        f"property {broken.name!r} tells interchangeable processes, tasks or devices apart; search without symmetry "
        "(--no-symmetry)"
    )

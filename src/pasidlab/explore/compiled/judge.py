"""Which properties hold: those with a compiled form are looked at by the workers, the others here, state by state.

What is judged is the representative of each state. It breaks a named property just when every state that it stands for
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pasidlab.explore.compiled.crew import Crew, Expanded
from pasidlab.explore.compiled.layout import STATE, decode, step_of
from pasidlab.explore.compiled.properties import STATE_PROPERTIES, STEP_PROPERTIES
from pasidlab.explore.compiled.search import LINK_BITS, OF_STATES, OF_STEPS, Successors

if TYPE_CHECKING:
    from pasidlab.explore.properties import Property
    from pasidlab.explore.world import World


class Breach(NamedTuple):
    """Where a property was first broken: in a state, or by a step from it."""

    number: int
    is_step: bool


class Judge:
    """The properties of a search, and which were broken.

    Attributes:
        of_states, of_steps: those with a compiled form, by bit.
        slow_states, slow_steps: the others.
        broken: where each was broken first, in the order in which that was found.
    """

    def __init__(self, crew: Crew, world: World, properties: Sequence[Property]) -> None:
        self._crew, self._world = crew, world
        by_name = {one.name: one for one in properties}
        self.of_states = {bit: name for bit, name in enumerate(STATE_PROPERTIES) if name in by_name}
        self.of_steps = {bit: name for bit, name in enumerate(STEP_PROPERTIES) if name in by_name}
        slow = [one for one in properties if one.name not in (*STATE_PROPERTIES, *STEP_PROPERTIES)]
        self.slow_states = {one.name: one.state for one in slow if one.state is not None}
        self.slow_steps = {one.name: one.step for one in slow if one.step is not None}
        self.broken: dict[str, Breach] = {}
        self._slow_broken: dict[str, Breach] = {}

    @property
    def wanted(self) -> int:
        """Mask of the compiled properties of steps."""
        return _mask(self.of_steps)

    @property
    def told(self) -> Expanded | None:
        """What wants to hear of each expanded state."""
        return self._judge_steps if self.slow_steps else None

    def judge_level(self) -> None:
        """Judge the steps to the last complete level, and its states."""
        if self.of_states:
            self._crew.check(_mask(self.of_states))
        if self.slow_states:
            self._judge_states()
        for row, names in ((OF_STEPS, self.of_steps), (OF_STATES, self.of_states)):
            for bit, name in names.items():
                place = self._crew.first(row, bit)
                if place is not None and name not in self.broken:
                    is_step = row == OF_STEPS
                    self.broken[name] = Breach(place >> LINK_BITS if is_step else place, is_step)
        self.broken = self._slow_broken | self.broken

    def _judge_states(self) -> None:
        for number, record in self._crew.records():
            waiting = [name for name in self.slow_states if name not in self._slow_broken]
            if not waiting:
                return
            state = decode(record, self._world)
            for name in waiting:
                if self.slow_states[name](state, self._world):
                    self._slow_broken[name] = Breach(number, is_step=False)

    def _judge_steps(self, number: int, record: Any, count: int, made: Successors) -> None:
        waiting = {name: test for name, test in self.slow_steps.items() if name not in self._slow_broken}
        if not waiting:
            return
        before = decode(record, self._world)
        for place in range(count):
            step = step_of(int(made.action[place]), int(made.step[place]))
            after = decode(made.state[place].view(STATE)[0], self._world)
            for name, is_broken in waiting.items():
                if is_broken(before, step, after, self._world):
                    self._slow_broken.setdefault(name, Breach(number, is_step=True))


def _mask(bits: Iterable[int]) -> int:
    return sum(1 << bit for bit in bits)

"""The successors of states on the machine itself: the same `Machine` that `pasidlab run` drives.

A state outside calls is kept as a snapshot, and each action starts from it. A call that stands in a window cannot be
kept, since it is half done: what is kept is the snapshot before the call and what was done in each window so far, and
the call is done again from there, then left by an exception at the place wanted.

Decided here: the state of a user's scheme may be more than a `State` has. What its objects keep beside the attributes
of pasidlab's own classes is part of the key, by which two states are known to be the same; so are the numbers that are
held in the global space. Where there is anything of the first kind, names are not exchanged by symmetry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.explore.abstract import Abstraction, Ghosts, Standing
from pasidlab.explore.action import Action, Step, Verb, actions
from pasidlab.explore.perform import number_of, perform, start
from pasidlab.explore.snapshot import Snapshots
from pasidlab.explore.state import State
from pasidlab.machine import Machine
from pasidlab.runner import blamed

if TYPE_CHECKING:
    from pasidlab.explore.world import World
    from pasidlab.schemes import Scheme

_CALLS = (Verb.UNBIND, Verb.EXIT)
"""The actions that can stand in a window."""


class Node(NamedTuple):
    """A state that can be gone on from.

    Attributes:
        state: as it is on the machine, not its canonical form.
        ghosts: what belongs to the state and is not in the machine.
        snapshot: the machine, or as it was before the call that stands in a window.
        before: the ghosts before that call.
        done: what was done in each window of that call so far, the last being that in which it stands.
    """

    state: State
    ghosts: Ghosts
    snapshot: bytes
    before: Ghosts = Ghosts()
    done: tuple[tuple[Action, ...], ...] = ()


class Reached(NamedTuple):
    """Where an action led: a node whose snapshot has not been taken yet when it is outside calls."""

    step: Step
    node: Node


class _LeftError(BaseException):
    """Leaves a call in a window; nothing but the search may catch it, so it is no Exception."""


class Readable:
    """One world under one scheme: its machine, put into one state after another, of which `start` is the first.

    Attributes:
        trying: the action that `successors` began last.
    """

    def __init__(self, world: World, scheme: type[Scheme]) -> None:
        self.world = world
        self.scheme = scheme
        self.abstraction = Abstraction(world)
        with blamed(scheme):
            self.machine = Machine(world.machine, scheme(world.options))
            start(world, self.machine)
        self.snapshots = Snapshots(self.machine)
        self.trying = Action(Verb.RESUME)
        self.start = self.keep(Node(self.abstraction.state(self.machine, Ghosts()), Ghosts(), b""))

    def successors(self, node: Node) -> Iterator[Reached]:
        """Yield where each action that is offered leads; until the next one the machine stands there, for `keep`."""
        for action in actions(node.state, self.world):
            self.trying = action
            yield self.follow(node, action)

    def follow(self, node: Node, action: Action) -> Reached:
        """Do one action in a state; InputError when a user's scheme raises."""
        with blamed(self.scheme):
            self.snapshots.restore(node.snapshot)
            standing = node.ghosts.standing
            if standing is None:
                return self._call(node, action, action, ())
            if action.verb is Verb.RESUME:
                return self._call(node, action, standing.action, node.done)
            return self._inside(node, action, standing)

    def keep(self, node: Node) -> Node:
        """Return a node that was just reached so that it can be gone on from."""
        return node if node.done else node._replace(snapshot=self.snapshots.take())

    # --- calls -------------------------------------------------------------------------------------------------

    def _call(self, node: Node, action: Action, call: Action, done: tuple[tuple[Action, ...], ...]) -> Reached:
        """Do a call, up to the first window in which nothing was done yet, or to its end."""
        before = node.before if done else node.ghosts
        windows = self.world.teardown.windows and call.verb in _CALLS
        number = number_of(self.machine, self.world, call) if windows and call.verb is Verb.UNBIND else 0
        seen = 0

        def at_window(_: str) -> None:
            nonlocal seen
            if seen == len(done):
                raise _LeftError
            self._do_all(done[seen], before)
            seen += 1

        if windows:
            self.machine.kernel.at_window = at_window
        try:
            step, ghosts = perform(self.machine, self.world, call, before)
        except _LeftError:
            ghosts = before._replace(standing=Standing(call, number, seen + 1))
            state = self.abstraction.state(self.machine, ghosts)
            return Reached(Step(action), Node(state, ghosts, node.snapshot, before, (*done, ())))
        self.machine.kernel.at_window = None
        state = self.abstraction.state(self.machine, ghosts)
        return Reached(step._replace(action=action), Node(state, ghosts, b""))

    def _inside(self, node: Node, action: Action, standing: Standing) -> Reached:
        """Do a call again up to the window in which it stands, and there one action more."""
        seen = 0
        reached: list[tuple[Step, State]] = []

        def at_window(_: str) -> None:
            nonlocal seen
            self._do_all(node.done[seen], node.before)
            seen += 1
            if seen == len(node.done):
                step = perform(self.machine, self.world, action, node.before)[0]
                reached.append((step, self.abstraction.state(self.machine, node.ghosts)))
                raise _LeftError

        self.machine.kernel.at_window = at_window
        with suppress(_LeftError):
            perform(self.machine, self.world, standing.action, node.before)
        step, state = reached[0]
        done = (*node.done[:-1], (*node.done[-1], action))
        return Reached(step, node._replace(state=state, done=done))

    def _do_all(self, taken: Iterable[Action], ghosts: Ghosts) -> None:
        """Do what was done in a window."""
        for action in taken:
            perform(self.machine, self.world, action, ghosts)


def states_along(world: World, scheme: type[Scheme], taken: Iterable[Action]) -> list[State]:
    """Return the states of a world along a trace: that at the start, and that after each action."""
    readable = Readable(world, scheme)
    node = readable.start
    states = [node.state]
    for action in taken:
        node = readable.keep(readable.follow(node, action).node)
        states.append(node.state)
    return states

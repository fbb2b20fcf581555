"""Compiled: what a search does with many states at a time; `engine` says with which.

A worker expands some of its states: each is unpacked, what it offers is done to a copy, and what that leads to goes, as
a letter, to the worker that owns it by its hash. Nothing is written but the worker's own desk, so that workers expand
at the same time, and then read their letters at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pasidlab.explore import action, state
from pasidlab.explore.compiled import (
    caches,
    codes,
    common,
    hybrid,
    kernel,
    layout,
    mainline,
    offer,
    packing,
    properties,
    rfc,
    schemes,
    symmetry,
    teardown,
    transitions,
    v2,
    visited,
    work,
)
from pasidlab.explore.compiled.layout import (
    ACTIONS,
    RESULT_BITS,
    RESULTS,
    STATE,
    VERBS,
    Records,
    arg_of,
    device_of,
    process_of,
    verb_of,
)
from pasidlab.explore.compiled.packing import PIECES, Bytes, bytes_of, copy, cut, cut_changed, lanes_of, unpack
from pasidlab.explore.compiled.plan import Plan
from pasidlab.explore.compiled.properties import broken_by_step, broken_in_state
from pasidlab.explore.compiled.symmetry import ROOM, pack
from pasidlab.explore.compiled.transitions import apply
from pasidlab.explore.compiled.visited import ENVELOPE, hash_of
from pasidlab.hw.batch import compiling
from pasidlab.hw.batch.compiling import built_from, compiled, compiled_entry, compiled_within
from pasidlab.hw.batch.numbers import Words

PROPERTY_BITS = 16
"""More properties than have a compiled form."""
LETTERS = 1 << 14
"""Letters that a worker may write to another one before they are read."""
LINK_BITS = layout.ARG_LSB + 4
NO_LINK = -1
"""A link has the action code in its lowest bits, then the number of the state that it was done in. As workers number
their states each on their own, what is said here is that number times the workers, plus the worker."""
_RESULT = (1 << RESULT_BITS) - 1
OWNERS = 0xFFFF
"""The bits of a hash that say which worker owns a state."""


class Question(NamedTuple):
    """What is searched, the same for all workers: a WORLD and a Plan, each alone in its array."""

    worlds: Records
    plans: Records


class Desk(NamedTuple):
    """What one worker works on.

    Attributes:
        states, lanes, raw: two records, before and after a step, also as 64-bit lanes and as bytes.
        pieces: of both.
        room: for `symmetry`.
        offered: action codes.
        words: a packed state.
        letters: for each worker, LETTERS letters; `written`, how many there are.
        reached: transitions by verb and result.
        first: for each property of steps, the link of the first step that breaks it, -1 for none; then for each
            property of states the first state in the same way.
    """

    states: Records
    lanes: Words
    raw: Bytes
    pieces: Records
    room: Records
    offered: Words
    words: Words
    letters: Words
    written: Words
    reached: Words
    first: Words


def new_desk(words: int, workers: int) -> Desk:
    """Return an empty desk for packed states of so many words."""
    states = np.zeros(2, STATE)
    return Desk(
        states,
        lanes_of(states),
        bytes_of(states),
        np.zeros(2, PIECES),
        np.zeros(1, ROOM),
        np.zeros(ACTIONS, np.int64),
        np.zeros(words, np.int64),
        np.zeros((workers, LETTERS, ENVELOPE + words), np.int64),
        np.zeros(workers, np.int64),
        np.zeros((VERBS, RESULTS), np.int64),
        np.full((2, PROPERTY_BITS), -1, np.int64),
    )


class Successors(NamedTuple):
    """What a state leads to, for each action that it offers; arrays without room keep nothing.

    Attributes:
        action, step: their codes.
        broken: mask of the properties of steps that the step breaks.
        state: the record after it, as bytes.
    """

    action: Words
    step: Words
    broken: Words
    state: Bytes


def new_successors(room: int = ACTIONS) -> Successors:
    """Return room for so many actions."""
    action, step, broken = (np.zeros(room, np.int64) for _ in range(3))
    return Successors(action, step, broken, np.zeros((room, STATE.itemsize), np.uint8))


# --- steps -----------------------------------------------------------------------------------------------------------

_BEFORE, _AFTER = 0, 1
OF_STEPS, OF_STATES = 0, 1
"""Rows of `Desk.first`."""


@compiled_within
def do(world: Any, plan: Plan, desk: Desk, action: int) -> int:
    """Do an action to a copy of the state before it; returns the step code."""
    for lane in range(plan.lanes):
        desk.lanes[_AFTER, lane] = desk.lanes[_BEFORE, lane]
    return apply(world, desk.states[_AFTER], verb_of(action), process_of(action), device_of(action), arg_of(action))


@compiled_within
def breaks(world: Any, desk: Desk, action: int, step: int, wanted: int) -> int:
    """Return which of the wanted properties the step that was just done breaks."""
    before, after = desk.states[_BEFORE], desk.states[_AFTER]
    verb, process, device, arg = verb_of(action), process_of(action), device_of(action), arg_of(action)
    return broken_by_step(world, before, after, verb, process, device, arg, step, wanted)


@compiled
def note(desk: Desk, row: int, broken: int, found: int) -> None:
    """Remember where properties were first broken."""
    for bit in range(PROPERTY_BITS):
        if broken >> bit & 1 and desk.first[row, bit] < 0:
            desk.first[row, bit] = found


@compiled_within
def open_state(plan: Plan, desk: Desk, words: Words) -> None:
    """Put a packed state on the desk, as what is before a step."""
    unpack(plan, words, desk.raw[_BEFORE], desk.pieces[_BEFORE])


@compiled_within
def has_changed(plan: Plan, desk: Desk) -> bool:
    """Cut the state after a step; whether it is another one."""
    before, after = desk.pieces[_BEFORE], desk.pieces[_AFTER]
    return cut_changed(plan, desk.lanes[_BEFORE], desk.lanes[_AFTER], desk.raw[_AFTER], before, after)


@compiled
def owner_of(hashed: int, workers: int) -> int:
    """Return the worker that owns states of a hash."""
    return (hashed & OWNERS) % workers


@compiled
def post(plan: Plan, desk: Desk, link: int) -> None:
    """Write a letter with the packed state on the desk to its owner."""
    hashed = hash_of(plan, desk.words)
    owner = owner_of(hashed, desk.written.size)
    place = desk.written[owner]
    desk.written[owner] = place + 1
    desk.letters[owner, place, 0] = hashed
    desk.letters[owner, place, 1] = link
    for word in range(plan.words):
        desk.letters[owner, place, ENVELOPE + word] = desk.words[word]


@compiled
def has_room(desk: Desk) -> bool:
    """Whether all that one state can lead to fits among the letters."""
    most = 0
    for owner in range(desk.written.size):
        most = max(most, desk.written[owner])
    return most <= LETTERS - ACTIONS


@compiled_within
def expand_state(world: Any, plan: Plan, desk: Desk, number: int, wanted: int, made: Successors) -> None:
    """Do all that the state on the desk offers."""
    for place in range(offer.offer(world, desk.states[_BEFORE], desk.offered)):
        action = desk.offered[place]
        step = do(world, plan, desk, action)
        desk.reached[verb_of(action), step & _RESULT] += 1
        link = number << LINK_BITS | action
        broken = breaks(world, desk, action, step, wanted) if wanted else 0
        if broken:
            note(desk, OF_STEPS, broken, link)
        if made.action.size:
            keep(desk, made, place, step, broken)
        if has_changed(plan, desk):
            pack(plan, desk.pieces[_AFTER], desk.room[0], desk.words)
            post(plan, desk, link)


@compiled
def keep(desk: Desk, made: Successors, place: int, step: int, broken: int) -> None:
    """Keep what an action led to."""
    made.action[place], made.step[place], made.broken[place] = desk.offered[place], step, broken
    copy(desk.raw[_AFTER], made.state[place])


# --- entries ---------------------------------------------------------------------------------------------------------


class Entries(NamedTuple):
    """What Python calls.

    - `expand(question, desk, words, first, behind, worker, wanted, made) -> int`: expand the states of a worker from
      number `first` on, until the letters are full; returns the number of the next one. `made` is what the last of
      them led to.
    - `check(question, desk, words, first, behind, worker, wanted)`: look for states that break properties.
    - `pack_all(question, desk, states, letters)`: pack records into letters without links.
    - `unpack_all(question, desk, words, states)`.
    """

    expand: Callable[[Question, Desk, Words, int, int, int, int, Successors], int]
    check: Callable[[Question, Desk, Words, int, int, int, int], None]
    pack_all: Callable[[Question, Desk, Bytes, Words], None]
    unpack_all: Callable[[Question, Desk, Words, Bytes], None]


@compiled_within
def pack_after(plan: Plan, desk: Desk, letter: Words) -> None:
    """Pack the state that is after a step on the desk into a letter."""
    cut(plan, desk.lanes[_AFTER], desk.raw[_AFTER], desk.pieces[_AFTER])
    pack(plan, desk.pieces[_AFTER], desk.room[0], desk.words)
    letter[0], letter[1] = hash_of(plan, desk.words), NO_LINK
    for word in range(plan.words):
        letter[ENVELOPE + word] = desk.words[word]


def _entries(built: int) -> Entries:
    """Return the compiled entries, which numba keeps on disk for what they were built from."""

    @compiled_entry
    def expand(
        question: Question,
        desk: Desk,
        words: Words,
        first: int,
        behind: int,
        worker: int,
        wanted: int,
        made: Successors,
    ) -> int:
        assert built >= 0
        number, workers = first, desk.written.size
        while number < behind and has_room(desk):
            open_state(question.plans[0], desk, words[number])
            expand_state(question.worlds[0], question.plans[0], desk, number * workers + worker, wanted, made)
            number += 1
        return number

    @compiled_entry
    def check(question: Question, desk: Desk, words: Words, first: int, behind: int, worker: int, wanted: int) -> None:
        assert built >= 0
        for number in range(first, behind):
            open_state(question.plans[0], desk, words[number])
            broken = broken_in_state(question.worlds[0], desk.states[_BEFORE], wanted)
            if broken:
                note(desk, OF_STATES, broken, number * desk.written.size + worker)

    @compiled_entry
    def pack_all(question: Question, desk: Desk, states: Bytes, letters: Words) -> None:
        assert built >= 0
        for index in range(states.shape[0]):
            copy(states[index], desk.raw[_AFTER])
            pack_after(question.plans[0], desk, letters[index])

    @compiled_entry
    def unpack_all(question: Question, desk: Desk, words: Words, states: Bytes) -> None:
        assert built >= 0
        for index in range(words.shape[0]):
            open_state(question.plans[0], desk, words[index])
            copy(desk.raw[_BEFORE], states[index])

    return Entries(expand, check, pack_all, unpack_all)


SOURCES: tuple[ModuleType, ...] = (
    *(layout, packing, symmetry, visited),
    *(caches, codes, common, kernel, offer, properties, schemes, teardown, transitions, work),
    *(mainline, rfc, v2, hybrid),
    *(action, state, compiling),
)
"""Everything that is compiled into the entries, or whose constants and options are, so that a change of any compiles
them anew."""
ENTRIES = _entries(built_from(SOURCES, VERBS, RESULTS))

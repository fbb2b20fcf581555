"""The workers of a search: each has a desk and the states that its share of the hashes names, and is a thread.

All expand a part of what they own at the same time; when the last is done, all read what was written to them. So no
worker waits for another one within a step, and the levels are the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from pasidlab.errors import ModelError
from pasidlab.explore.action import Result, Verb
from pasidlab.explore.compiled.layout import STATE, Records
from pasidlab.explore.compiled.packing import bytes_of
from pasidlab.explore.compiled.search import (
    ENTRIES,
    LINK_BITS,
    NO_LINK,
    OWNERS,
    Question,
    Successors,
    new_desk,
    new_successors,
)
from pasidlab.explore.compiled.visited import ENVELOPE, Visited
from pasidlab.hw.batch.numbers import Words

_UNPACKED = 1 << 12
"""States that are unpacked at a time."""
T = TypeVar("T")
Expanded = Callable[[int, Any, int, Successors], None]
"""What is told of an expanded state: its number, its record, how many actions it offered, and what they led to."""


class Crew:
    """Workers with their states; a state's number is its number with its owner, times the workers, plus the owner.

    Attributes:
        visited: by worker, its states.
        ends: by worker, how many of them are of levels that are complete.
        done: by worker, how many of them were expanded.
    """

    def __init__(self, question: Question, workers: int) -> None:
        self.question = question
        self.words = int(question.plans["words"][0])
        self.desks = [new_desk(self.words, workers) for _ in range(workers)]
        self.visited = [Visited(self.words) for _ in range(workers)]
        self.done, self.ends = [0] * workers, [0] * workers
        self._nothing = new_successors(0)
        self._pool = ThreadPoolExecutor(workers)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown()

    # --- what was found ------------------------------------------------------------------------------------------

    @property
    def states(self) -> int:
        """How many states are known."""
        return sum(visited.size for visited in self.visited)

    @property
    def frontier(self) -> int:
        """How many of them were not expanded yet."""
        return self.states - sum(self.done)

    @property
    def in_level(self) -> bool:
        """Whether states of the last complete level are still to be expanded."""
        return self.done != self.ends

    @property
    def reached(self) -> dict[tuple[Verb, Result], int]:
        """How many transitions of each kind were taken."""
        counts = np.sum([desk.reached for desk in self.desks], axis=0)
        return {(Verb(verb), Result(result)): int(counts[verb, result]) for verb, result in np.argwhere(counts)}

    @property
    def transitions(self) -> int:
        """How many transitions were taken."""
        return sum(int(desk.reached.sum()) for desk in self.desks)

    @property
    def memory(self) -> int:
        """Bytes of the states, and of what the workers write to each other."""
        return sum(visited.memory for visited in self.visited) + sum(desk.letters.nbytes for desk in self.desks)

    def first(self, row: int, bit: int) -> int | None:
        """Return the least that the workers noted for a property; see `Desk.first`."""
        return min((int(desk.first[row, bit]) for desk in self.desks if desk.first[row, bit] >= 0), default=None)

    def words_of(self, number: int) -> Words:
        """Return a packed state."""
        owner = number % len(self.visited)
        words: Words = self.visited[owner].table.words[number // len(self.visited)]
        return words

    def chain(self, number: int) -> list[int]:
        """Return the states on the way from the start to a state, that one included and the start not."""
        numbers: list[int] = []
        while (
            link := int(self.visited[number % len(self.visited)].table.link[number // len(self.visited)])
        ) != NO_LINK:
            numbers.append(number)
            number = link >> LINK_BITS
        return numbers[::-1]

    # --- what is done --------------------------------------------------------------------------------------------

    def begin(self, state: Records) -> None:
        """Know the first state."""
        letters = np.zeros((1, ENVELOPE + self.words), np.int64)
        ENTRIES.pack_all(self.question, self.desks[0], bytes_of(state), letters)
        self.visited[(int(letters[0, 0]) & OWNERS) % len(self.visited)].insert(letters, 1)

    def end_level(self) -> None:
        """Count what was found since as the next level."""
        self.ends = [visited.size for visited in self.visited]
        for desk in self.desks:
            beyond = int(np.bitwise_or.reduce(desk.pieces["beyond"])) & (1 << 64) - 1
            if beyond:
                raise ModelError(
                    f"a state has bits for which the plan of its world has no place: {beyond:#x} in a lane"
                )

    def expand(self, wanted: int, told: Expanded | None) -> None:
        """Expand a part of the level; properties of steps that are `wanted` are looked at, and `told` is called."""
        workers = range(len(self.desks))
        self.done = self._all(lambda worker: self._expand(worker, wanted, told), workers)
        self._all(self._read_letters, workers)

    def _expand(self, worker: int, wanted: int, told: Expanded | None) -> int:
        """Expand what fits among the letters; returns the number of the next state."""
        desk, words = self.desks[worker], self.visited[worker].table.words
        first, behind = self.done[worker], self.ends[worker]
        desk.written[:] = 0
        if told is None:
            return int(ENTRIES.expand(self.question, desk, words, first, behind, worker, wanted, self._nothing))
        made = new_successors()
        while first < behind:
            before = int(desk.reached.sum())
            after = int(ENTRIES.expand(self.question, desk, words, first, first + 1, worker, wanted, made))
            if after == first:
                break
            told(first * len(self.desks) + worker, desk.states[0], int(desk.reached.sum()) - before, made)
            first = after
        return first

    def _read_letters(self, worker: int) -> None:
        for desk in self.desks:
            self.visited[worker].insert(desk.letters[worker], int(desk.written[worker]))

    def check(self, wanted: int) -> None:
        """Look for broken properties of states in the last complete level."""

        def check(worker: int) -> None:
            words, first, behind = self.visited[worker].table.words, self.done[worker], self.ends[worker]
            ENTRIES.check(self.question, self.desks[worker], words, first, behind, worker, wanted)

        self._all(check, range(len(self.desks)))

    def records(self) -> Iterator[tuple[int, Any]]:
        """Yield the numbers and records of the states of the last complete level that were not expanded."""
        for worker, (first, behind) in enumerate(zip(self.done, self.ends, strict=True)):
            for at in range(first, behind, _UNPACKED):
                words = self.visited[worker].table.words[at : min(at + _UNPACKED, behind)]
                states = np.zeros(len(words), STATE)
                ENTRIES.unpack_all(self.question, self.desks[worker], words, bytes_of(states))
                yield from (((at + index) * len(self.visited) + worker, state) for index, state in enumerate(states))

    def _all(self, work: Callable[[int], T], workers: range) -> list[T]:
        """Let all workers work, on threads if they are many."""
        return [work(0)] if len(workers) == 1 else list(self._pool.map(work, workers))

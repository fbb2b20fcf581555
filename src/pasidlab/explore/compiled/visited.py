"""The set of states that a search has seen: compiled look-up and insertion, and its memory, which Python holds.

States are numbered in the order in which they are found. A table with open addressing has for each state a slot of
64 bits: a tag, which is half of the state's hash, and its number. A slot is searched from the place that the highest
bits of the tag name, so that a table grows without a look at the states; the tag's other bits spare most comparisons.

States come in letters: the hash, the link to where the state came from, then its words. They are inserted in blocks:
first the slots of a whole block are read, then the words of those whose tag is there, and only then is anything
compared, so that the waits for memory overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pasidlab.errors import InputError
from pasidlab.explore.compiled.plan import Plan
from pasidlab.hw.batch.compiling import compiled, compiled_entry
from pasidlab.hw.batch.numbers import Words

TAG_BITS = 32
_TAG = (1 << TAG_BITS) - 1
ENVELOPE = 2
"""What a letter has before the words: hash and link."""
BLOCK = 32
"""Letters of a block."""
_MIX = -0x61C8864680B583EB
"""An odd number with bits everywhere, 2^64 divided by the golden section."""
FULL = 0.6
"""How much of a table may be taken."""
CAPACITY = 1 << TAG_BITS - 1
"""The most states of a set: their numbers fit beside a tag, and tags tell the places of its slots apart."""
_FIRST_STATES, _FIRST_SLOTS_LG2 = 1 << 12, 13


class Table(NamedTuple):
    """A set of states as compiled code sees it.

    Attributes:
        words: of each state, a row.
        link: of each state, where it came from.
        slots: 2^n slots; 0 is free, else the tag above the state's number, counted from 1.
        seen: a place for what is read ahead.
    """

    words: Words
    link: Words
    slots: Words
    seen: Words


@compiled
def hash_of(plan: Plan, words: Words) -> int:
    """Return the hash of a packed state."""
    mixed = 0
    for word in range(plan.words):
        mixed = (mixed ^ words[word]) * _MIX
        mixed ^= mixed >> 32 & _TAG
    return mixed * _MIX


@compiled
def tag_of(hashed: int) -> int:
    """Return the half of a hash, or of a slot, that a slot has."""
    return hashed >> TAG_BITS & _TAG


@compiled
def look_ahead(table: Table, letters: Words, first: int, behind: int, shift: int) -> int:
    """Read what the insertion of letters will read first."""
    seen = 0
    for index in range(first, behind):
        seen ^= table.slots[tag_of(letters[index, 0]) >> shift]
    for index in range(first, behind):
        tag = tag_of(letters[index, 0])
        slot = table.slots[tag >> shift]
        if slot and tag_of(slot) == tag:
            seen ^= table.words[(slot & _TAG) - 1, 0]
    return seen


@compiled
def is_same(table: Table, number: int, letters: Words, index: int) -> bool:
    """Whether a letter has the words of a state."""
    difference = 0
    for word in range(table.words.shape[1]):
        difference |= table.words[number, word] ^ letters[index, ENVELOPE + word]
    return difference == 0


@compiled
def free_slot(table: Table, letters: Words, index: int, shift: int) -> int:
    """Return the slot where the state of a letter belongs; -1 when it is in the table."""
    tag, mask = tag_of(letters[index, 0]), table.slots.size - 1
    place = tag >> shift
    while table.slots[place]:
        slot = table.slots[place]
        if tag_of(slot) == tag and is_same(table, (slot & _TAG) - 1, letters, index):
            return -1
        place = place + 1 & mask
    return place


@compiled
def keep(table: Table, number: int, letters: Words, index: int) -> None:
    """Make the state of a letter that of a number."""
    table.link[number] = letters[index, 1]
    for word in range(table.words.shape[1]):
        table.words[number, word] = letters[index, ENVELOPE + word]


@compiled_entry
def insert(table: Table, size: int, letters: Words, count: int) -> int:
    """Insert what is new of `count` letters into a set of `size` states, and return its new size."""
    shift = TAG_BITS
    while 1 << TAG_BITS - shift < table.slots.size:
        shift -= 1
    for first in range(0, count, BLOCK):
        behind = min(first + BLOCK, count)
        table.seen[0] ^= look_ahead(table, letters, first, behind, shift)
        for index in range(first, behind):
            place = free_slot(table, letters, index, shift)
            if place >= 0:
                keep(table, size, letters, index)
                size += 1
                table.slots[place] = tag_of(letters[index, 0]) << TAG_BITS | size
    return size


@compiled_entry
def move_slots(old: Words, new: Words) -> None:
    """Fill in an empty, larger table of slots."""
    shift, mask = TAG_BITS, new.size - 1
    while 1 << TAG_BITS - shift < new.size:
        shift -= 1
    for slot in old:
        if slot:
            place = tag_of(slot) >> shift
            while new[place]:
                place = place + 1 & mask
            new[place] = slot


class Visited:
    """The states that one worker owns."""

    def __init__(self, words: int) -> None:
        self.size = 0
        self.table = Table(
            np.empty((_FIRST_STATES, words), np.int64),
            np.empty(_FIRST_STATES, np.int64),
            np.zeros(1 << _FIRST_SLOTS_LG2, np.int64),
            np.zeros(1, np.int64),
        )

    def insert(self, letters: Words, count: int) -> None:
        """Insert what is new of the first `count` letters."""
        self._make_room(self.size + count)
        self.size = int(insert(self.table, self.size, letters, count))

    def _make_room(self, states: int) -> None:
        """Double what is too small for so many states; pages that are not used yet are not taken from the system."""
        if states > CAPACITY:
            raise InputError(
                f"a worker has no room for more than {CAPACITY:,} states: bound them, or take more workers"
            )
        table = self.table
        if states > table.link.size:
            capacity = max(2 * table.link.size, states)
            self.table = table = table._replace(
                words=_grown(table.words, capacity, self.size), link=_grown(table.link, capacity, self.size)
            )
        slots = table.slots.size
        while self.size > FULL * slots or states >= slots:
            slots *= 2
        if slots > table.slots.size:
            self.table = table._replace(slots=np.zeros(slots, np.int64))
            move_slots(table.slots, self.table.slots)

    @property
    def memory(self) -> int:
        """Bytes in use."""
        table = self.table
        return int(table.slots.nbytes + self.size * (table.words.strides[0] + table.link.itemsize))


def _grown(array: Words, capacity: int, size: int) -> Words:
    """Return a longer array with the first `size` rows of another one."""
    grown = np.empty((capacity, *array.shape[1:]), array.dtype)
    grown[:size] = array[:size]
    return grown

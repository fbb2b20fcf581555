"""Compiled: reading ahead, so that memory answers several requests at a time where it is larger than the caches.

A translation is too long for a processor to begin the loads of the next one meanwhile. So a block of requests is gone
through twice: first by a function which is short and only follows pointers, as if every request were like the last
one that was translated, and then by the translation itself, which finds what it reads in the caches of the processor
that runs it. A wrong guess costs time and nothing else: what is read here is thrown away.

All requests of a block take each step together, so that their loads do not wait for each other.
"""

from __future__ import annotations

from typing import Protocol

from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.numbers import Words
from pasidlab.hw.batch.requests import Requests
from pasidlab.hw.batch.store import Store, word_index
from pasidlab.memory import PAGE_SIZE

AHEAD = 64
"""Requests of a block."""
CACHED_WORDS = 1 << 22
"""Memories of up to so many words, 32 MiB, are taken to stay in the caches."""
_POINTER = (1 << 48) - PAGE_SIZE


class Ahead(Protocol):
    """What the record of an IOMMU has for reading ahead: how far each request of a block was followed."""

    memory_bits: int
    ahead: Words


@compiled
def is_large(memory: Store) -> bool:
    """Whether reading ahead pays."""
    return memory.words.size > CACHED_WORDS


@compiled
def pointer_at(memory: Store, unit: Ahead, address: int) -> int:
    """Return what looks like an address in the word at anything that looks like one."""
    word: int = memory.words[word_index(memory, address & (1 << unit.memory_bits) - 1)]
    return word & _POINTER


@compiled
def follow(memory: Store, unit: Ahead, requests: Requests, first: int, behind: int, reach: int, shift: int) -> None:
    """Take the step through one level of page tables, which cover `reach` bits and whose entries cover `shift`."""
    for index in range(first, behind):
        place = unit.ahead[index - first] + ((requests.address[index] & (1 << reach) - 1) >> shift << 3)
        unit.ahead[index - first] = pointer_at(memory, unit, place)

"""The three queues: circular buffers in memory with an index and a wrap bit on either side.

A queue of 2^QS entries has indexes of QS bits and a wrap bit above them. Equal indexes mean empty with equal wrap bits
and full with different ones. Indexes that no sequence of increments leads to are inconsistent: the command queue is
then not consumed, an output queue counts as full, which is one of the choices the architecture leaves.

Source: IHI 0070 G.b, 3.5 (queues), 6.3.26 to 6.3.29 and 6.3.95 to 6.3.98 (registers), 7.4 and 8.1 (overflow).
Not modelled: asynchronous aborts; merging of events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from pasidlab.hw.smmuv3.registers import CmdqCons, CmdqProd, EventqCons, EventqProd, QueueBase
from pasidlab.memory import Memory
from pasidlab.words import Word

COMMAND_BYTES = 16
EVENT_BYTES = 32
PRI_BYTES = 16
_SMALLEST_ALIGNMENT = 32


P = TypeVar("P", CmdqProd, EventqProd)
C = TypeVar("C", CmdqCons, EventqCons)


class Queue(Generic[P, C]):
    """What all queues have: where they lie, how large they are, and how their indexes move.

    `limit` is log2 of the most entries, from IDR1; a larger LOG2SIZE acts as the limit.
    """

    __slots__ = ("_entry_bytes", "_limit", "base", "cons", "memory", "prod")

    def __init__(self, memory: Memory, base: QueueBase, prod: P, cons: C, entry_bytes: int, limit: int) -> None:
        self.memory = memory
        self.base = base
        self.prod: P = prod
        self.cons: C = cons
        self._entry_bytes = entry_bytes
        self._limit = limit

    @property
    def bits(self) -> int:
        """QS: log2 of the number of entries in use."""
        return min(self.base.log2size, self._limit)

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return 1 << self.bits

    @property
    def _mask(self) -> int:
        """The bits of an index that count: the index proper and its wrap bit."""
        return (2 << self.bits) - 1

    @property
    def distance(self) -> int:
        """How far the producer is ahead; more than the number of entries is inconsistent."""
        return self.prod.wr - self.cons.rd & self._mask

    def pending(self) -> Iterator[int]:
        """Yield the entries between the indexes, as 0 where memory does not answer; none if these are inconsistent."""
        distance = self.distance
        for index in range(distance if distance <= self.entries else 0):
            data = self.memory.load(self._address(self.cons.rd + index), self._entry_bytes)
            yield 0 if data is None else int.from_bytes(data, "little")

    def trim(self) -> None:
        """Clear the bits of both indexes that have no meaning in a queue of this size."""
        self.prod = self.prod.replace(wr=self.prod.wr & self._mask)
        self.cons = self.cons.replace(rd=self.cons.rd & self._mask)

    def _after(self, index: int) -> int:
        return index + 1 & self._mask

    def _address(self, index: int) -> int:
        """Return where an entry lies; the base counts as aligned to the size of the queue."""
        alignment = max(self.entries * self._entry_bytes, _SMALLEST_ALIGNMENT)
        return (self.base.addr & -alignment) + (index & self.entries - 1) * self._entry_bytes


class InputQueue(Queue[CmdqProd, CmdqCons]):
    """The command queue: software produces, the SMMU consumes."""

    __slots__ = ()

    @property
    def has_work(self) -> bool:
        """Whether there is an entry to consume."""
        return 0 < self.distance <= self.entries

    def fetch(self) -> int | None:
        """Return the entry to be consumed next, without consuming it; None is an external abort."""
        data = self.memory.load(self._address(self.cons.rd), self._entry_bytes)
        return None if data is None else int.from_bytes(data, "little")

    def advance(self) -> None:
        """Consume an entry."""
        self.cons = self.cons.replace(rd=self._after(self.cons.rd))


class OutputQueue(Queue[EventqProd, EventqCons]):
    """The event queue and the PRI queue: the SMMU produces, software consumes."""

    __slots__ = ()

    @property
    def is_empty(self) -> bool:
        """Whether software has consumed everything."""
        return self.distance == 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room."""
        return self.distance >= self.entries

    @property
    def overflows(self) -> bool:
        """Whether an overflow waits to be acknowledged."""
        return self.prod.ovflg != self.cons.ovackflg

    def overflow(self) -> None:
        """Note that a record was lost, unless software has yet to acknowledge an earlier loss."""
        if not self.overflows:
            self.prod = self.prod.replace(ovflg=not self.prod.ovflg)

    def write(self, record: Word) -> bool:
        """Append a record; false is an external abort, after which the queue is as before."""
        if not self.memory.store(self._address(self.prod.wr), record.pack()):
            return False
        self.prod = self.prod.replace(wr=self._after(self.prod.wr))
        return True

"""Sparse physical memory: 2^52 bytes that can be addressed, of which only touched pages cost anything.

Everything that hardware reads and software writes lies here: stream tables, page tables, queues, pages of processes.
An access that cannot be made, because its range is poisoned or no memory answers there, is an external abort: loads
return None and stores return False, for hardware has an architectural answer to that and Python has not.

Not modelled: caches of CPUs, memory attributes, order of accesses. Bytes are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
_OFFSET = PAGE_SIZE - 1
_WORDS_PER_PAGE = PAGE_SIZE // 8
_FIRST_CAPACITY = 64
_ZEROS = bytes(PAGE_SIZE)

StoreObserver = Callable[[int, bytes], None]
"""Called after each store with the address and the bytes."""


class Memory:
    """One physical address space.

    Pages live as rows of one numpy array, in the order of their first store; row 0 is a page of zeros that stands for
    all untouched ones, also those that were only ever cleared as a whole. `observers` are called after every store.
    """

    __slots__ = ("_bytes", "_poisoned", "_pool", "_rows", "_words", "bits", "observers")

    def __init__(self, bits: int = 52) -> None:
        self.bits = bits
        self.observers: list[StoreObserver] = []
        self._poisoned: list[range] = []
        self._rows: dict[int, int] = {}
        self._use_pool(np.zeros((_FIRST_CAPACITY, _WORDS_PER_PAGE), np.uint64))

    def _use_pool(self, pool: npt.NDArray[np.uint64]) -> None:
        self._pool = pool
        flat = pool.reshape(-1).data.cast("B")
        self._bytes, self._words = flat, flat.cast("Q")

    # --- looking -----------------------------------------------------------------------------------------------

    @property
    def touched_pages(self) -> int:
        """How many pages were stored to, other than cleared: what the memory costs, in pages of 4 KiB."""
        return len(self._rows)

    def page_table(self) -> tuple[dict[int, int], npt.NDArray[np.uint64]]:
        """Return the row of each touched page number, and the rows of 512 words; for bulk reading, not for writing."""
        return self._rows, self._pool

    def aborts(self, address: int, size: int) -> bool:
        """Whether an access to the range is answered with an external abort."""
        if address < 0 or address + size > 1 << self.bits:
            return True
        poisoned = self._poisoned
        return bool(poisoned) and any(address < bad.stop and bad.start < address + size for bad in poisoned)

    def poison(self, address: int, size: int) -> None:
        """Let every access to the range be aborted."""
        self._poisoned.append(range(address, address + size))

    def heal(self) -> None:
        """Take all poison away; what was stored before is still there."""
        self._poisoned.clear()

    @property
    def poisoned(self) -> tuple[range, ...]:
        """The ranges that are poisoned."""
        return tuple(self._poisoned)

    # --- loads -------------------------------------------------------------------------------------------------

    def load64(self, address: int) -> int | None:
        """Return the 64-bit word at an address, of which the lowest 3 bits are ignored; None is an abort."""
        if address >> self.bits or (self._poisoned and self.aborts(address & ~7, 8)):
            return None
        row = self._rows.get(address >> PAGE_SHIFT, 0)
        return self._words[row << 9 | (address & _OFFSET) >> 3]

    def load(self, address: int, size: int) -> bytes | None:
        """Return `size` bytes, or None for an abort anywhere in the range."""
        if address >> self.bits or (self._poisoned and self.aborts(address, size)):
            return None
        offset = address & _OFFSET
        if offset + size > PAGE_SIZE:
            return self._load_across(address, size)
        start = self._rows.get(address >> PAGE_SHIFT, 0) << PAGE_SHIFT | offset
        return bytes(self._bytes[start : start + size])

    def _load_across(self, address: int, size: int) -> bytes | None:
        if self.aborts(address, size):
            return None
        parts = []
        end = address + size
        while address < end:
            part = min(end - address, PAGE_SIZE - (address & _OFFSET))
            start = self._rows.get(address >> PAGE_SHIFT, 0) << PAGE_SHIFT | address & _OFFSET
            parts.append(bytes(self._bytes[start : start + part]))
            address += part
        return b"".join(parts)

    # --- stores ------------------------------------------------------------------------------------------------

    def store64(self, address: int, value: int) -> bool:
        """Store a 64-bit word at an address that is a multiple of 8; false is an abort, and stores nothing."""
        return self.store(address, value.to_bytes(8, "little"))

    def store(self, address: int, data: bytes) -> bool:
        """Store bytes; false is an abort anywhere in the range, and stores nothing."""
        if self.aborts(address, len(data)):
            return False
        done = 0
        while done < len(data):
            at = address + done
            part = min(len(data) - done, PAGE_SIZE - (at & _OFFSET))
            stored = data[done : done + part]
            if stored != _ZEROS or at >> PAGE_SHIFT in self._rows:
                start = self._row(at >> PAGE_SHIFT) << PAGE_SHIFT | at & _OFFSET
                self._bytes[start : start + part] = stored
            done += part
        for observer in self.observers:
            observer(address, data)
        return True

    def _row(self, page: int) -> int:
        """Return the row of a page, given to it at its first store; the array doubles when it is full."""
        row = self._rows.get(page)
        if row is not None:
            return row
        row = len(self._rows) + 1
        if row == len(self._pool):
            grown = np.zeros((2 * row, _WORDS_PER_PAGE), np.uint64)
            grown[:row] = self._pool
            self._use_pool(grown)
        self._rows[page] = row
        return row

    # --- copies ------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        used = self._pool[: len(self._rows) + 1].copy()
        kept = ("observers", "_poisoned", "_rows")
        return {"bits": self.bits, "pool": used} | {name: getattr(self, name).copy() for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._use_pool(state.pop("pool"))
        for name, value in state.items():
            setattr(self, name, value)

"""What the programming interfaces of IOMMUs have in common: 32 bits of registers at a time, and who hears of what.

Decided where the architectures leave a choice: a 64-bit access is two 32-bit ones, the lower first, also on
neighbouring registers; any other size, and an address that is not a multiple of the size, reads zero and writes
nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from pasidlab.rules import Faulted

HALF = 0xFFFF_FFFF
"""The 32 bits of one access."""


class Listeners:
    """Who hears what one IOMMU does.

    Attributes:
        irq: called with the name of an interrupt whenever it fires.
        refused: called with the rule for everything that is ignored, lost, or not carried out; no hardware does that.
    """

    __slots__ = ("irq", "refused")

    def __init__(self) -> None:
        self.irq: Callable[[str], None] | None = None
        self.refused: Callable[[Faulted], None] | None = None

    def refuse(self, why: Faulted) -> None:
        """Tell whoever wants to know that something was not done, and why."""
        if self.refused is not None:
            self.refused(why)


class ProgrammingInterface(ABC):
    """Registers in memory; a subclass says which piece of which register lies at an offset."""

    signals: Listeners

    @property
    def irq(self) -> Callable[[str], None] | None:
        """Called with the name of an interrupt whenever it fires; `Signals` says which there are."""
        return self.signals.irq

    @irq.setter
    def irq(self, callback: Callable[[str], None] | None) -> None:
        self.signals.irq = callback

    @property
    def refused(self) -> Callable[[Faulted], None] | None:
        """Called with the rule for everything that is ignored, lost, or not carried out; `Signals` says what is."""
        return self.signals.refused

    @refused.setter
    def refused(self, callback: Callable[[Faulted], None] | None) -> None:
        self.signals.refused = callback

    def mmio_read(self, offset: int, size: int) -> int:
        """Return `size` bytes, 4 or 8, at a byte offset."""
        if not _is_access(offset, size):
            return 0
        return sum(self._read32(offset + part) << 8 * part for part in range(0, size, 4))

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write `size` bytes, 4 or 8, at a byte offset."""
        if not _is_access(offset, size):
            return
        for part in range(0, size, 4):
            self._write32(offset + part, value >> 8 * part & HALF)

    @abstractmethod
    def _read32(self, offset: int) -> int:
        """Return the 32 bits at an offset, 0 where there is nothing."""

    @abstractmethod
    def _write32(self, offset: int, value: int) -> None:
        """Write the 32 bits at an offset."""

    def _place(self, path: str) -> tuple[Any, str]:
        """Return the object and the attribute that hold a register, by the path from the interface."""
        owner, _, name = path.rpartition(".")
        return (attrgetter(owner)(self) if owner else self), name


def _is_access(offset: int, size: int) -> bool:
    """Whether an access has a size that registers have, and is aligned to it."""
    return size in (4, 8) and offset % size == 0

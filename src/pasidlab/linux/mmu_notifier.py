"""mm/mmu_notifier.c: who else looks into an address space, and is told before its pages go.

Source: Linux 6.12 (general knowledge). An IOMMU that walks the page table keeps what it has read;
`arch_invalidate_secondary_tlbs` reaches it from inside the CPU's own flush (`linux.memory`), after the entries have
changed and before the pages are free. `release` comes once, when the last user leaves and all pages are still there.

Not modelled: invalidate_range_start and _end, which IOMMUs that share the table do not use; ageing; SRCU, so that
`mmu_notifier_put()` frees at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pasidlab.errors import Errno, ModelError
from pasidlab.linux.memory import KNOWN
from pasidlab.linux.mm import mmdrop, mmgrab
from pasidlab.rules import Refusal, Rule

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct

NOTIFIER_NO_MEMORY = Rule(
    "mmu-notifier.no-memory",
    "__mmu_notifier_register (mm/mmu_notifier.c)",
    "!kzalloc(subscriptions)",
    "no memory for the first notifier of {mm}",
    Errno.ENOMEM,
    source=KNOWN,
    remedy="free memory, and try again",
)


class MmuNotifierOps(Protocol):
    """`struct mmu_notifier_ops`: what a subscriber does."""

    def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
        """Forget what was cached of [start, end); the entries have changed, their pages are still there."""

    def release(self, mm: MmStruct) -> None:
        """Stop accessing the memory for good: its pages and tables go when this returns."""


@dataclass(slots=True, eq=False, repr=False)
class MmuNotifier:
    """`struct mmu_notifier`: one subscription; `mm` is set by its registration, and held."""

    ops: MmuNotifierOps
    mm: MmStruct | None = None


@dataclass(slots=True, eq=False, repr=False)
class NotifierSubscriptions:
    """`struct mmu_notifier_subscriptions`: those of one mm, the newest first as in the kernel's list."""

    mm: MmStruct
    subscriptions: list[MmuNotifier] = field(default_factory=list)

    def arch_invalidate_secondary_tlbs(self, start: int, end: int) -> None:
        """Tell every subscriber."""
        for notifier in list(self.subscriptions):
            notifier.ops.arch_invalidate_secondary_tlbs(self.mm, start, end)

    def release(self) -> None:
        """Tell every subscriber the end, and forget them all."""
        for notifier in list(self.subscriptions):
            notifier.ops.release(self.mm)
        self.subscriptions.clear()


def mmu_notifier_register(notifier: MmuNotifier, mm: MmStruct) -> Refusal | None:
    """Subscribe to an mm in which the caller lives, and hold its structure."""
    if not mm.mm_users:
        raise ModelError(f"a notifier was registered with {mm.name}, which has no user any more (BUG_ON)")
    if mm.notifier_subscriptions is None:
        if mm.kernel.allocation_fails():
            return NOTIFIER_NO_MEMORY.refuse(mm=mm.name)
        mm.notifier_subscriptions = NotifierSubscriptions(mm)
    mmgrab(mm)
    notifier.mm = mm
    mm.notifier_subscriptions.subscriptions.insert(0, notifier)
    return None


def mmu_notifier_unregister(notifier: MmuNotifier, mm: MmStruct) -> None:
    """Unsubscribe; a subscriber that was not released yet is released now, as AMD's driver does to free a domain."""
    if _unhash(notifier, mm):
        notifier.ops.release(mm)
    notifier.mm = None
    mmdrop(mm)


def mmu_notifier_put(notifier: MmuNotifier) -> None:
    """Unsubscribe without `release`: the subscriber has stopped by itself."""
    mm = notifier.mm
    assert mm is not None
    _unhash(notifier, mm)
    notifier.mm = None
    mmdrop(mm)


def _unhash(notifier: MmuNotifier, mm: MmStruct) -> bool:
    """Take a subscription off the list; false when the mm's end has done so."""
    assert mm.notifier_subscriptions is not None
    subscriptions = mm.notifier_subscriptions.subscriptions
    if notifier not in subscriptions:
        return False
    subscriptions.remove(notifier)
    return True


def mmu_notifier_arch_invalidate_secondary_tlbs(mm: MmStruct, start: int, end: int) -> None:
    """Tell the subscribers of an mm to forget [start, end)."""
    if mm.notifier_subscriptions is not None:
        mm.notifier_subscriptions.arch_invalidate_secondary_tlbs(start, end)

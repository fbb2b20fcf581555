"""What the SMMU writes for software: events and page requests, or what becomes of them when they cannot be written.

Source: IHI 0070 G.b, 7.2 and 7.4 (event queue), 8.1 and 8.2 (PRI queue), 6.3.36 (PRIQ_IRQ_CFG2.LO).
Aborts of writes are noticed at once, so that a queue holds nothing but whole records; the stall event whose write
aborted goes on waiting, any other record is lost.
Not modelled: merging of events (STE.MEV).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from pasidlab.hw.smmuv3.queues import OutputQueue
from pasidlab.hw.smmuv3.records import Event, PriRecord
from pasidlab.hw.smmuv3.registers import PriqIrqCfg2
from pasidlab.hw.smmuv3.signals import Signals
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.rules import Rule

EVENT_LOST = Rule(
    "smmu.event-lost", f"{SPEC}, 7.2.1", "the event queue is not writable", "{record} is lost: {reason}", source=SPEC
)
PAGE_REQUEST_LOST = Rule(
    "smmu.page-request-lost",
    f"{SPEC}, 8.1 and 8.2",
    "the PRI queue takes no records",
    "a page request of stream {sid:#x} is lost: {reason}",
    source=SPEC,
)


class Enables(Protocol):
    """Which queues are on."""

    @property
    def eventq_en(self) -> bool:
        """Whether the event queue is."""

    @property
    def priq_en(self) -> bool:
        """Whether the PRI queue is, with translation."""


class Recorder:
    """Writes to both output queues.

    Attributes:
        waiting: stall events that could not be written yet, oldest first.
    """

    __slots__ = ("_draining", "_enables", "_eventq", "_priq", "_signals", "waiting")

    def __init__(self, enables: Enables, eventq: OutputQueue, priq: OutputQueue, signals: Signals) -> None:
        self.waiting: deque[Event] = deque()
        self._enables = enables
        self._eventq = eventq
        self._priq = priq
        self._signals = signals
        self._draining = False

    def event(self, event: Event, stalled: bool) -> None:
        """Write an event; one of a stalled transaction waits while it cannot be written, any other is then lost."""
        if stalled:
            self.waiting.append(event)
            self.drain()
            return
        reason = self._event_obstacle()
        if reason is None:
            if not self._write_event(event):
                self._lose(event, "the write to the event queue aborted")
            return
        if self._enables.eventq_en and not self._signals.active.eventq_abt_err:
            self._eventq.overflow()
        self._lose(event, reason)

    def _lose(self, event: Event, reason: str) -> None:
        self._signals.refuse(EVENT_LOST.fault(record=event, reason=reason))

    def withdraw(self, unwanted: Callable[[Event], bool]) -> None:
        """Take back waiting stall events, whose transactions are no longer stalled."""
        kept = [event for event in self.waiting if not unwanted(event)]
        self.waiting.clear()
        self.waiting.extend(kept)

    def _event_obstacle(self) -> str | None:
        if not self._enables.eventq_en:
            return "the event queue is off"
        if self._signals.active.eventq_abt_err:
            return "an abort of the event queue is not acknowledged"
        return "the event queue is full" if self._eventq.is_full else None

    def drain(self) -> None:
        """Write the events that wait, until there is no room or a write aborts.

        Software that makes room in reaction to an event is served by the same loop.
        """
        if self._draining:
            return
        self._draining = True
        try:
            while self.waiting and self._event_obstacle() is None:
                event = self.waiting.popleft()
                if not self._write_event(event):
                    self.waiting.appendleft(event)
                    break
        finally:
            self._draining = False

    def _write_event(self, event: Event) -> bool:
        """Append to the event queue; false is an abort, which closes the queue until it is acknowledged."""
        was_empty = self._eventq.is_empty
        if not self._eventq.write(event):
            self._signals.error("eventq_abt_err")
            return False
        if was_empty and self._signals.irq_ctrl.eventq_irqen:
            self._signals.fire(self._signals.eventq)
        return True

    def page_request(self, record: PriRecord) -> bool:
        """Write a page request; false: it was dropped, and `drops_for_overflow` tells whether for an overflow."""
        reason = self._page_request_obstacle()
        if reason is None:
            return self._write_page_request(record)
        if self.drops_for_overflow and record.last:
            self._page_request_irq(last_only=True)
        self._signals.refuse(PAGE_REQUEST_LOST.fault(sid=record.sid, reason=reason))
        return False

    @property
    def drops_for_overflow(self) -> bool:
        """Whether page requests are dropped for an overflow, and not because the PRI queue is off or aborted."""
        return self._enables.priq_en and not self._signals.active.priq_abt_err and self._priq.overflows

    def _page_request_obstacle(self) -> str | None:
        if not self._enables.priq_en:
            return "the PRI queue is off"
        if self._signals.active.priq_abt_err:
            return "an abort of the PRI queue is not acknowledged"
        if self._priq.is_full:
            self._priq.overflow()
        return "the PRI queue overflowed" if self._priq.overflows else None

    def _write_page_request(self, record: PriRecord) -> bool:
        was_empty = self._priq.is_empty
        if not self._priq.write(record):
            self._signals.error("priq_abt_err")
            self._signals.refuse(PAGE_REQUEST_LOST.fault(sid=record.sid, reason="the write to the PRI queue aborted"))
            return False
        if was_empty:
            self._page_request_irq(last_only=False)
        if record.last:
            self._page_request_irq(last_only=True)
        return True

    def _page_request_irq(self, last_only: bool) -> None:
        """Fire the interrupt if software chose this occasion for it by PRIQ_IRQ_CFG2.LO."""
        chosen = PriqIrqCfg2(self._signals.priq.cfg2).lo is last_only
        if chosen and self._signals.irq_ctrl.priq_irqen:
            self._signals.fire(self._signals.priq)

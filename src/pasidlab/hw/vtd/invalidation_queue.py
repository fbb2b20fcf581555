"""The invalidation queue: descriptors are taken in order, judged, and carried out.

A bad descriptor does nothing: it stops the queue with FSTS.IQE and leaves IQH at itself, until software clears IQE. A
device that does not answer an invalidation of its device-TLB stops the queue with FSTS.ITE, until software clears
that; the wait descriptor that waited for the device is passed over, and completes neither with data nor with an
interrupt.

Source: Intel VT-d 4.1, 6.5.2 (queue), 6.5.2.8 (wait), 6.5.2.10 (errors), 11.4.9 (registers).
Decided where the architecture leaves a choice: a bad tail is noticed when there is something to take, before any
descriptor; without FN, too, descriptors are carried out in order; a device-TLB invalidation times out when a wait
descriptor, or nothing else, follows it; status data that cannot be written is lost.
Not modelled: time.
"""

from __future__ import annotations

from typing import Protocol

from pasidlab.hw.vtd.descriptors import Descriptor, InvalidationWait, descriptor_of
from pasidlab.hw.vtd.faults import Faults
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.invalidation import (
    ABORTED,
    ALIGNMENT,
    MODE,
    TAIL,
    WIDTH,
    Failure,
    illegal,
    name_of,
    perform,
)
from pasidlab.hw.vtd.registers import Ics, Iqa, Iqer, Iqh, Iqt, Rtaddr, Ttm
from pasidlab.hw.vtd.signals import Signals
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.target import InvalidationTarget
from pasidlab.memory import PAGE_SIZE, Memory
from pasidlab.rules import Rule

TIMED_OUT = Rule(
    "vtd.qi-time-out",
    f"{SPEC}, 6.5.2.10, FSTS.ITE",
    "a device does not complete an invalidation of its device-TLB",
    "device {source:#06x} does not answer invalidations, and the queue waits no more",
    source=SPEC,
)
STATUS_LOST = Rule(
    "vtd.wait-status-lost",
    f"{SPEC}, 6.5.2.8",
    "memory does not answer at the status address",
    "the status data of a wait descriptor cannot be written to {address:#x}",
    source=SPEC,
)


class Control(Protocol):
    """The state of the unit that the queue depends on."""

    @property
    def root(self) -> Rtaddr:
        """RTADDR as it was when the root table was set."""


class InvalidationQueue:
    """Takes descriptors whenever it may: switched on, not empty, neither IQE nor ITE set.

    Attributes:
        iqa, iqt, iqh, iqer, ics: the registers.
        on: GSTS.QIES.
    """

    __slots__ = (
        "_control",
        "_faults",
        "_features",
        "_memory",
        "_running",
        "_signals",
        "_target",
        "ics",
        "iqa",
        "iqer",
        "iqh",
        "iqt",
        "on",
    )

    def __init__(
        self,
        memory: Memory,
        features: Features,
        target: InvalidationTarget,
        control: Control,
        faults: Faults,
        signals: Signals,
    ) -> None:
        self.iqa, self.iqt, self.iqh = Iqa(), Iqt(), Iqh()
        self.iqer, self.ics = Iqer(), Ics()
        self.on = False
        self._memory = memory
        self._features = features
        self._target = target
        self._control = control
        self._faults = faults
        self._signals = signals
        self._running = False

    @property
    def step(self) -> int:
        """Bytes of a descriptor."""
        return 32 if self.iqa.dw else 16

    @property
    def size(self) -> int:
        """Bytes of the queue."""
        return PAGE_SIZE << self.iqa.qs

    # --- what software does --------------------------------------------------------------------------------------

    def switch(self, on: bool) -> None:
        """Follow GCMD.QIE: a queue that is switched on or off begins at its first descriptor again."""
        self.on = on
        self.iqh = Iqh()
        self.run()

    def completion_cleared(self) -> None:
        """Follow a write to ICS: when software served the completion, a pending event is none any more."""
        if not self.ics.iwc:
            self._signals.invalidation.served()

    def run(self) -> None:
        """Take descriptors until there are none, or one stops the queue; then let software hear of it."""
        if self._running:
            return
        self._running = self._signals.held = True
        try:
            while self._may_run() and self.iqh.qh != self.iqt.qt:
                self._take()
            if self._may_run():
                self._devices_answered()
        finally:
            self._running = False
            self._signals.release()

    # --- one descriptor ------------------------------------------------------------------------------------------

    def _may_run(self) -> bool:
        return self.on and not self._faults.stops_invalidation

    def _take(self) -> None:
        failure = self._obstacle()
        if failure is not None:
            self._stop(failure)
            return
        raw = self._memory.load(self.iqa.iqa + self.iqh.qh, self.step)
        if raw is None:
            self._stop(ABORTED)
            return
        descriptor = descriptor_of(int.from_bytes(raw, "little"))
        failure = illegal(descriptor, self._features)
        if failure is not None:
            self._stop(failure, name_of(descriptor))
            return
        self.iqh = self.iqh.replace(qh=(self.iqh.qh + self.step) % self.size)
        self._perform(descriptor)

    def _obstacle(self) -> Failure | None:
        """Return what stands against any descriptor."""
        if self.iqt.qt % self.step:
            return ALIGNMENT
        if self.iqt.qt >= self.size:
            return TAIL
        mode = self._control.root.ttm
        if not self._features.has_mode(mode):
            return MODE
        return WIDTH if mode is Ttm.SCALABLE and not self.iqa.dw else None

    def _stop(self, failure: Failure, descriptor: str = "") -> None:
        self.iqer = self.iqer.replace(iqei=failure.error)
        why = failure.rule.fault(descriptor=descriptor, head=self.iqh.qh, tail=self.iqt.qt)
        self._signals.refuse(why)
        self._faults.note(iqe=True)

    def _perform(self, descriptor: Descriptor) -> None:
        if isinstance(descriptor, InvalidationWait):
            self._wait(descriptor)
        else:
            perform(descriptor, self._target)

    def _wait(self, wait: InvalidationWait) -> None:
        if not self._devices_answered():
            return
        if wait.pd:
            self._target.drain_page_requests()
        if wait.sw and not self._memory.store(wait.staddr, wait.stdata.to_bytes(4, "little")):
            self._signals.refuse(STATUS_LOST.fault(address=wait.staddr))
        if wait.if_ and not self.ics.iwc:
            self.ics = self.ics.replace(iwc=True)
            self._signals.invalidation.occurred()

    def _devices_answered(self) -> bool:
        """Wait for earlier device-TLB invalidations; false when one timed out, which stops the queue."""
        source = self._target.device_tlb_timed_out()
        if source is None:
            return True
        self.iqer = self.iqer.replace(itesid=source)
        self._signals.refuse(TIMED_OUT.fault(source=source))
        self._faults.note(ite=True)
        return False

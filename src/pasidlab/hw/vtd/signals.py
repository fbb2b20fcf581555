"""How a remapping unit gets attention: three events, each an interrupt that software can mask.

An event that occurs while it is masked stays pending, is delivered when the mask goes, and is forgotten when software
has served all that it was about before.

Source: Intel VT-d 4.1, 7.3 (fault event), 6.5.2.8 (invalidation event), 7.4.2 (page request event), 11.4.7.2 (FECTL).
Decided here: software runs when a message is delivered. While the invalidation queue is at work messages wait, so that
what software then puts into the queue is carried out at once; and the software that serves an event is not called again
before it has returned. Of events that go on and on because of what that software does, it hears `STORM` in a row.
Not modelled: the message itself. What software puts into the data and address registers is kept, and delivery is a
callback with the event's name.
"""

from __future__ import annotations

from pasidlab.hw.mmio import Listeners
from pasidlab.hw.vtd.registers import EventAddress, EventControl, EventData, EventUpperAddress

STORM = 1024
"""How often in a row software can be told of an event that it causes itself."""


class Event:
    """One interrupt with its four registers; `name` is what the callback hears."""

    __slots__ = ("_delivering", "_signals", "address", "control", "data", "name", "upper_address")

    def __init__(self, name: str, signals: Signals) -> None:
        self.name = name
        self._signals = signals
        self._delivering = False
        self.control = EventControl(im=True)
        self.data = EventData()
        self.address = EventAddress()
        self.upper_address = EventUpperAddress()

    def occurred(self) -> None:
        """Note the event, and deliver it unless it is masked."""
        self.control = self.control.replace(ip=True)
        self.deliver()

    def deliver(self) -> None:
        """Deliver the event if it is pending, not masked, and software can be told now."""
        if self._delivering or self._signals.held:
            return
        self._delivering = True
        try:
            for _ in range(STORM):
                if not self.control.ip or self.control.im:
                    return
                self.served()
                if self._signals.irq is not None:
                    self._signals.irq(self.name)
            self.served()
        finally:
            self._delivering = False

    def served(self) -> None:
        """Forget a pending event: it was delivered, or software served what it was about without it."""
        self.control = self.control.replace(ip=False)


class Signals(Listeners):
    """The three events.

    `irq` is called with "fault", "invalidation" or "page_request" whenever that message is sent. `refused` is called
    with the rule for every write that is ignored, record that is lost, and descriptor that is not carried out; no
    hardware does that. While `held`, messages wait.
    """

    __slots__ = ("fault", "held", "invalidation", "page_request")

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.fault = Event("fault", self)
        self.invalidation = Event("invalidation", self)
        self.page_request = Event("page_request", self)

    def release(self) -> None:
        """Let the messages go that were held."""
        self.held = False
        for event in (self.fault, self.invalidation, self.page_request):
            event.deliver()

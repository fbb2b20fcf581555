"""What a unit tells of faults: the fault recording registers, the fault status register and the fault event.

Faults go into the recording registers in turn. When the next one still holds a fault, the overflow is noted, and all
later faults are lost until software clears PFO. The event occurs when a status bit becomes set while none was.

Source: Intel VT-d 4.1, 7.3.1 (primary fault logging), 11.4.7.1 (FSTS), 11.4.7.6 (FRCD).
Decided where the architecture leaves a choice: faults of one source are not merged into one record; what a recording
register held stays readable when its F was cleared; FRI stays as it is until a fault sets PPF again.
Not modelled: advanced fault logs; completions of device-TLB invalidations that nobody waits for (FSTS.ICE stays 0).
"""

from __future__ import annotations

from pasidlab.hw.vtd.records import FaultRecord
from pasidlab.hw.vtd.registers import Fsts
from pasidlab.hw.vtd.signals import Signals
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.rules import Rule

FAULT_LOST = Rule(
    "vtd.fault-lost",
    f"{SPEC}, 7.3.1",
    "FSTS.PFO == 1, or the next recording register holds a fault",
    "{record} is not recorded: {reason}",
    source=SPEC,
)
_STATUS = Fsts.mask("pfo", "ppf", "iqe", "ice", "ite")


class Faults:
    """The recording registers and FSTS; the recorder of the unit's translation."""

    __slots__ = ("_next", "_records", "_signals", "_status")

    def __init__(self, count: int, signals: Signals) -> None:
        self._records = [FaultRecord() for _ in range(count)]
        self._next = 0
        self._status = Fsts()
        self._signals = signals

    # --- registers -----------------------------------------------------------------------------------------------

    @property
    def fsts(self) -> Fsts:
        """FSTS, of which PPF follows from the recording registers."""
        return self._status.replace(ppf=any(record.f for record in self._records))

    @fsts.setter
    def fsts(self, value: Fsts) -> None:
        self._status = value.replace(ppf=False)
        self._settle()

    @property
    def stops_invalidation(self) -> bool:
        """Whether the invalidation queue stands still: IQE or ITE waits for software."""
        return self._status.iqe or self._status.ite

    @property
    def records(self) -> tuple[FaultRecord, ...]:
        """The fault recording registers."""
        return tuple(self._records)

    def set_record(self, index: int, value: FaultRecord) -> None:
        """Change a recording register, as software does when it clears F."""
        self._records[index] = value
        self._settle()

    def _settle(self) -> None:
        """Forget a pending event when software has served everything."""
        if not self.fsts & _STATUS:
            self._signals.fault.served()

    # --- what happens --------------------------------------------------------------------------------------------

    def record(self, record: FaultRecord) -> FaultRecord | None:
        """Record a fault, and return what was recorded; None: there was no room."""
        obstacle = self._obstacle()
        if obstacle:
            self._signals.refuse(FAULT_LOST.fault(record=record, reason=obstacle))
            return None
        before = self.fsts
        recorded = record.replace(f=True)
        self._records[self._next] = recorded
        if not before.ppf:
            self._status = self._status.replace(fri=self._next)
        self._next = (self._next + 1) % len(self._records)
        self._occurred(before)
        return recorded

    def _obstacle(self) -> str:
        """Return why no fault can be recorded, or nothing; where there is no room, that is the overflow."""
        if self._status.pfo:
            return "an overflow is not cleared"
        if self._records[self._next].f:
            self.note(pfo=True)
            return "the next recording register holds a fault"
        return ""

    def note(self, **status: bool) -> None:
        """Set a status bit: PFO, IQE or ITE."""
        before = self.fsts
        self._status = self._status.replace(**status)
        self._occurred(before)

    def _occurred(self, before: Fsts) -> None:
        """Let the fault event occur if no status bit was set before."""
        if not before & _STATUS:
            self._signals.fault.occurred()

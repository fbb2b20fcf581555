"""What translation needs of the registers, and where its faults go, as protocols.

Source: Intel VT-d 4.1, 11.4.4 (GSTS), 11.4.5 (RTADDR), 7.1.2 (fault recording).
"""

from __future__ import annotations

from typing import Protocol

from pasidlab.hw.vtd.records import FaultRecord
from pasidlab.hw.vtd.registers import Rtaddr


class State(Protocol):
    """The registers that decide how requests are treated."""

    @property
    def te(self) -> bool:
        """GSTS.TES: translation is on."""

    @property
    def root(self) -> Rtaddr:
        """RTADDR as GCMD.SRTP latched it."""


class Recorder(Protocol):
    """The fault recording registers."""

    def record(self, record: FaultRecord) -> FaultRecord | None:
        """Put a record into a free register; None where it was lost."""

"""What commands act upon: the caches, stalled transactions and devices behind the command queue, as one protocol.

Source: IHI 0070 G.b, chapter 4; 6.3 (CR0.SMMUEN). Everything here is decoded: a command that reaches its target is
legal and not ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pasidlab.hw.smmuv3.commands import Resp


class Regime(Enum):
    """What a TLB entry translates for, and the wider sets that a TLB invalidation can name."""

    NH = "EL1 stage 1"
    EL2 = "EL2 stage 1"
    S2 = "stage 2"
    S12 = "EL1 stage 1 and stage 2"
    NSNH = "all but EL2"


class ResumeAction(Enum):
    """RESUME: what becomes of a stalled transaction."""

    TERMINATE = "reads zero, writes nothing"
    RETRY = "starts over"
    ABORT = "aborts"


@dataclass(frozen=True, slots=True)
class TlbScope:
    """The TLB entries that one invalidation reaches; None stands for any.

    Attributes:
        regime: which translations.
        vmid: of this VMID; also None where there is no stage 2, so that VMIDs mean nothing.
        asid: of this ASID. Together with an address it reaches entries without ASID too (global pages, EL2 without
            E2H), without an address it does not.
        first: the lowest address, virtual, or intermediate for S2.
        size: bytes from there on; given if and only if `first` is.
    """

    regime: Regime
    vmid: int | None = None
    asid: int | None = None
    first: int | None = None
    size: int | None = None


class CommandTarget(Protocol):
    """Receives commands in the order of the queue, and the end of translation."""

    def disabled(self) -> None:
        """CR0.SMMUEN was cleared: abort every stalled transaction, and withdraw its event."""

    def cfgi_ste(self, sid: int, leaf: bool) -> None:
        """Forget an STE and all CDs reached through it; unless `leaf`, also its level 1 descriptor."""

    def cfgi_ste_range(self, first: int, lg2: int) -> None:
        """Forget the STEs of 2**`lg2` streams, their CDs and level 1 descriptors; `first` is aligned."""

    def cfgi_all(self) -> None:
        """Forget all configuration."""

    def cfgi_cd(self, sid: int, ssid: int, leaf: bool) -> None:
        """Forget the CD at an index of the CD table; unless `leaf`, also its level 1 descriptor."""

    def cfgi_cd_all(self, sid: int) -> None:
        """Forget all CDs of a stream."""

    def tlbi(self, scope: TlbScope) -> None:
        """Forget translations."""

    def atc_inv(self, sid: int, ssid: int | None, global_: bool, first: int, size: int | None) -> None:
        """Invalidate `size` bytes in a device's ATC; None is everything, `global_` every PASID."""

    def atc_sync(self) -> bool:
        """Wait for all earlier ATC invalidations; false: one timed out."""

    def pri_resp(self, sid: int, ssid: int | None, prg_index: int, response: Resp) -> None:
        """Answer a page request group."""

    def resume(self, sid: int, stag: int, action: ResumeAction) -> None:
        """Let a stalled transaction go on, if the stream has one with this tag."""

    def stall_term(self, sid: int) -> None:
        """Terminate all stalled transactions of a stream with an abort."""

    def prefetch_config(self, sid: int, ssid: int | None) -> None:
        """Load configuration, silently if that fails."""

    def prefetch_addr(self, sid: int, ssid: int | None, first: int, size: int) -> None:
        """Load configuration and the translations of `size` bytes, silently if that fails."""

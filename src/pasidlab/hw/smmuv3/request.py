"""What reaches an SMMU from a device, and what becomes of it.

Source: IHI 0070 G.b, 3.2 (stream and substream identifiers), 3.9 (PCIe ATS), 3.12 (fault models).
Not modelled: memory attributes and security states of transactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pasidlab.hw.pagetable.contract import WalkFault
from pasidlab.hw.smmuv3.records import Event
from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Translated, place_of
from pasidlab.rules import Rule

SID_BITS, SSID_BITS, ADDRESS_BITS = 32, 20, 64


@dataclass(frozen=True, slots=True)
class Request:
    """One transaction of a device.

    Attributes:
        sid: the StreamID.
        ssid: the SubstreamID, which is the PASID; None is a transaction without.
        address: where to; for a translated transaction the physical address.
        access: read or write; of an ATS translation request, what is hoped for.
        privileged, instruction: as the device says; the STE may override them.
        ats: untranslated, an ATS translation request, or already translated.

    Building raises ValueError for what no device can send: wider identifiers or addresses than there are wires for.
    """

    sid: int
    ssid: int | None = None
    address: int = 0
    access: Operation = Operation.READ
    privileged: bool = False
    instruction: bool = False
    ats: Ats = Ats.UNTRANSLATED

    def __post_init__(self) -> None:
        if self.sid >> SID_BITS or (self.ssid or 0) >> SSID_BITS or self.address >> ADDRESS_BITS:
            raise ValueError(f"{self}: at most {SID_BITS} bits of sid, {SSID_BITS} of ssid, {ADDRESS_BITS} of address")


class Completion(Enum):
    """How a transaction that is not translated ends at the device."""

    ABORT = "aborted"
    RAZ_WI = "read as zero, write ignored"


@dataclass(frozen=True, slots=True)
class Terminated:
    """The transaction ended here: by which rule, with which event record (None is silence)."""

    request: Request
    rule: Rule
    completion: Completion = Completion.ABORT
    event: Event | None = None
    fault: WalkFault | None = None

    @property
    def facts(self) -> dict[str, object]:
        """What the rule's sentence needs."""
        return facts(self.request, self.fault)


@dataclass(frozen=True, slots=True)
class Stalled:
    """The transaction waits for software. `stag` names it in CMD_RESUME; None: all tags are in use, ask again."""

    request: Request
    rule: Rule
    stag: int | None
    event: Event | None = None
    fault: WalkFault | None = None

    @property
    def facts(self) -> dict[str, object]:
        """What the rule's sentence needs."""
        return facts(self.request, self.fault)


@dataclass(frozen=True, slots=True)
class AtsCompletion:
    """The answer to an ATS translation request; `read` and `write` both false is a page that is not there.

    None is global: the SMMU makes every translation the requesting PASID's own (3.9.1).
    """

    request: Request
    status: AtsStatus
    rule: Rule
    address: int = 0
    lg2: int = 12
    read: bool = False
    write: bool = False
    execute: bool = False
    event: Event | None = None


Outcome = Translated | Terminated | Stalled


def facts(request: Request, fault: WalkFault | None = None) -> dict[str, object]:
    """Return what the sentence of a hardware rule may name: `sid`, `ssid`, `address`, `stage` and `level`."""
    ssid = "none" if request.ssid is None else f"{request.ssid:#x}"
    return {"sid": request.sid, "ssid": ssid} | place_of(request, fault)

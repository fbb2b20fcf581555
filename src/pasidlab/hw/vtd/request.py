"""What reaches a remapping unit from a device, and what becomes of it.

Source: Intel VT-d 4.1, 3.1 and 3.2 (requests without and with PASID), 4.1 (device-TLBs), 7.1 (faults).
Not modelled: requests of interrupts, atomics, zero-length reads, memory types.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.hw.pagetable.contract import WalkFault
from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Translated, place_of
from pasidlab.hw.vtd.records import FaultRecord, Reason
from pasidlab.hw.vtd.structures import PASID_BITS, SOURCE_ID_BITS
from pasidlab.rules import Rule

ADDRESS_BITS = 64


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a device.

    Attributes:
        source_id: bus, device and function of the requester.
        pasid: None is a request without PASID.
        address: where to; of a translated request the physical address.
        access: read or write; of a translation request, whether write permission is hoped for.
        privileged, instruction: supervisor and execute requests; only requests with PASID can be either.
        ats: untranslated, a translation request, or already translated.

    Building raises ValueError for what no device can send: wider identifiers or addresses than there are wires for,
    and supervisor or execute requests without PASID.
    """

    source_id: int
    pasid: int | None = None
    address: int = 0
    access: Operation = Operation.READ
    privileged: bool = False
    instruction: bool = False
    ats: Ats = Ats.UNTRANSLATED

    def __post_init__(self) -> None:
        if self.source_id >> SOURCE_ID_BITS or (self.pasid or 0) >> PASID_BITS or self.address >> ADDRESS_BITS:
            widths = f"{SOURCE_ID_BITS} bits of source_id, {PASID_BITS} of pasid, {ADDRESS_BITS} of address"
            raise ValueError(f"{self}: at most {widths}")
        if self.pasid is None and (self.privileged or self.instruction):
            raise ValueError(f"{self}: only a request with PASID can be privileged or an instruction fetch")


@dataclass(frozen=True, slots=True)
class Blocked:
    """The request ended here: by which rule, for which reason, with which record (None: FPD, or none was free)."""

    request: Request
    rule: Rule
    reason: Reason
    record: FaultRecord | None = None
    fault: WalkFault | None = None

    @property
    def facts(self) -> dict[str, object]:
        """What the rule's sentence needs."""
        return facts(self.request, self.fault)


@dataclass(frozen=True, slots=True)
class TranslationCompletion:
    """The answer to a translation request; without any right, a page that is not there.

    Attributes:
        status: Success, Unsupported Request, or Completer Abort.
        rule: what settled it; for a page that is not there, what is wrong with it.
        address, lg2: where 2**`lg2` bytes lead.
        read, write, execute: what may be done.
        privileged: the rights are a supervisor's.
        reason, record: of a fault that is recorded; NONE and None otherwise.
    """

    request: Request
    status: AtsStatus
    rule: Rule
    address: int = 0
    lg2: int = 12
    read: bool = False
    write: bool = False
    execute: bool = False
    privileged: bool = False
    reason: Reason = Reason.NONE
    record: FaultRecord | None = None
    fault: WalkFault | None = None


Outcome = Translated | Blocked


def facts(request: Request, fault: WalkFault | None = None) -> dict[str, object]:
    """Return what the sentence of a hardware rule may name.

    `source`, `pasid`, `address`, `stage` and `level`; `entry` is whose entry of the PASID table serves the request.
    """
    pasid, entry = ("no PASID", "RID_PASID") if request.pasid is None else (f"PASID {request.pasid:#x}",) * 2
    return {"source": request.source_id, "pasid": pasid, "entry": entry} | place_of(request, fault)

"""A device's way through an SMMU: plain transactions, or with ATS translation requests, an ATC and page requests.

Source: IHI 0070 G.b, 3.9; PCI Express, Address Translation Services and Page Request Interface.
Not modelled: more than one page request at a time; translation requests for more than one page.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pasidlab.hw.atc import Atc, AtcEntry
from pasidlab.hw.smmuv3.commands import Resp
from pasidlab.hw.smmuv3.records import PriRecord
from pasidlab.hw.smmuv3.request import AtsCompletion, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Transferred
from pasidlab.memory import PAGE_SIZE

PRG_INDEX = 0
"""The one page request group that a port uses."""


@dataclass(frozen=True, slots=True)
class PageRefused:
    """The device has no translation with that right.

    It `asked` for the page, and `response` was not Success (None: there was no answer), or it did not ask.
    """

    request: Request
    response: Resp | None
    asked: bool = True


@dataclass(slots=True, eq=False)
class DmaPort:
    """One stream of a device; with `ats` it is a PCIe function that translates by itself, with `pri` it asks for pages.

    The SMMU reaches its ATC with invalidations, and itself with page responses.
    """

    smmu: Smmuv3
    sid: int
    ats: bool = False
    pri: bool = False
    atc: Atc = field(default_factory=Atc)
    responses: dict[int, Resp] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ats:
            self.smmu.connect_ats(self.sid, self)

    def transfer(
        self,
        ssid: int | None,
        address: int,
        data: bytes | None,
        size: int,
        *,
        page_requests: bool = True,
        privileged: bool = False,
    ) -> Transferred | Terminated | Stalled | PageRefused:
        """Write `data`, or read `size` bytes (None), all of one page; `page_requests` where it may ask for pages."""
        access = Operation.READ if data is None else Operation.WRITE
        request = Request(self.sid, ssid, address, access, privileged)
        if self.ats:
            return self._transfer_translated(request, data, size, self.pri and page_requests)
        return self._move(request, data, size)

    def _move(self, request: Request, data: bytes | None, size: int) -> Transferred | Terminated | Stalled:
        return self.smmu.dma_read(request, size) if data is None else self.smmu.dma_write(request, data)

    def _transfer_translated(
        self, request: Request, data: bytes | None, size: int, may_ask: bool
    ) -> Transferred | Terminated | Stalled | PageRefused:
        """Translate by the ATC, by a translation request, and at last after a page request."""
        output = self._translate(request)
        if output is None and may_ask:
            response = self._request_page(request)
            if response is not Resp.SUCCESS:
                return PageRefused(request, response)
            output = self._translate(request)
        if output is None:
            return PageRefused(request, None, asked=may_ask)
        if isinstance(output, Terminated):
            return output
        moved = replace(request, address=output, ats=Ats.TRANSLATED)
        return self._move(moved, data, size)

    def _translate(self, request: Request) -> int | Terminated | None:
        """Return the translated address; None where the page is not there with that right."""
        write = request.access == Operation.WRITE
        hit = self.atc.lookup(request.ssid, request.address, write=write)
        if hit is not None:
            return hit
        asked = replace(request, ats=Ats.TRANSLATION_REQUEST)
        completion = self.smmu.translate(asked)
        assert isinstance(completion, AtsCompletion)
        if completion.status is not AtsStatus.SUCCESS:
            return Terminated(request, completion.rule, event=completion.event)
        entry = AtcEntry(completion.address, completion.lg2, completion.read, completion.write)
        self.atc.fill(request.ssid, request.address, entry)
        return self.atc.lookup(request.ssid, request.address, write=write)

    def _request_page(self, request: Request) -> Resp | None:
        write = request.access == Operation.WRITE
        self.responses.pop(PRG_INDEX, None)
        record = PriRecord(
            sid=self.sid,
            ssv=request.ssid is not None,
            ssid=request.ssid or 0,
            r=not write,
            w=write,
            last=True,
            prgindex=PRG_INDEX,
            addr=request.address & -PAGE_SIZE,
        )
        self.smmu.page_request(record)
        return self.responses.pop(PRG_INDEX, None)

    # --- what the SMMU sends -----------------------------------------------------------------------------------

    def invalidate(self, ssid: int | None, *, every_ssid: bool, first: int, size: int | None) -> bool:
        """Take an ATC invalidation."""
        return self.atc.invalidate(ssid, every_pasid=every_ssid, first=first, size=size)

    def page_response(self, ssid: int | None, prg_index: int, response: Resp) -> None:
        """Take the answer to a page request group."""
        self.responses[prg_index] = response

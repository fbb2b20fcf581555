"""A device's way through a remapping unit: plain requests, or with ATS a device-TLB, and with PRI page requests.

Source: Intel VT-d 4.1, chapter 4 (device-TLBs), 7.4 and 7.5 (page requests); PCI Express, Address Translation Services
and Page Request Interface.
Decided here: every page request is a group of its own, with the next index that is not outstanding; a response to an
index that is not outstanding is counted, and does nothing.
Not modelled: translation requests for more than one page; that a device stops requesting pages after Response Failure;
how many requests a device may have outstanding, beyond the 512 that have an index.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pasidlab.hw.atc import Atc, AtcEntry
from pasidlab.hw.transaction import Ats, AtsStatus, Operation, Transferred
from pasidlab.hw.vtd.records import PageRequest, ResponseCode
from pasidlab.hw.vtd.request import Blocked, Request, TranslationCompletion
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.memory import PAGE_SIZE

GROUPS = 1 << 9
"""How many page request groups can be outstanding."""


@dataclass(frozen=True, slots=True)
class PageRefused:
    """The device has no translation with that right.

    Attributes:
        request: what it wanted to do.
        response: the code that answered its page request; None: there was no answer yet, or it did not ask.
        asked: whether it asked.
        prg_index: of a page request that is not answered yet; `DmaPort.answer()` tells what becomes of it.
    """

    request: Request
    response: int | None
    asked: bool = True
    prg_index: int | None = None


@dataclass(slots=True, eq=False)
class DmaPort:
    """One requester; with `ats` it is a PCIe function that translates by itself, with `pri` it asks for pages.

    The unit reaches its device-TLB with invalidations, and itself with page group responses.

    Attributes:
        outstanding: indexes of page requests that are not answered.
        responses: answers that nobody took yet, by index.
        unexpected: how many responses there were that answered nothing.
    """

    unit: RemappingUnit
    source_id: int
    ats: bool = False
    pri: bool = False
    atc: Atc = field(default_factory=Atc)
    outstanding: set[int] = field(default_factory=set)
    responses: dict[int, int] = field(default_factory=dict)
    unexpected: int = 0
    _next: int = 0

    def __post_init__(self) -> None:
        if self.ats:
            self.unit.connect(self.source_id, self)

    def transfer(
        self,
        pasid: int | None,
        address: int,
        data: bytes | None,
        size: int,
        *,
        page_requests: bool = True,
        privileged: bool = False,
    ) -> Transferred | Blocked | PageRefused:
        """Write `data`, or read `size` bytes (None), all of one page; `page_requests` where it may ask for pages."""
        write = data is not None
        access = Operation.WRITE if write else Operation.READ
        known = self.atc.lookup(pasid, address, write=write, privileged=privileged) if self.ats else None
        if known is not None:
            return self._move_translated(pasid, known, access, privileged, data, size)
        request = Request(self.source_id, pasid, address, access, privileged)
        if self.ats:
            return self._transfer_translated(request, data, size, self.pri and page_requests)
        return self._move(request, data, size)

    def _move(self, request: Request, data: bytes | None, size: int) -> Transferred | Blocked:
        return self.unit.dma_read(request, size) if data is None else self.unit.dma_write(request, data)

    def _move_translated(
        self, pasid: int | None, output: int, access: Operation, privileged: bool, data: bytes | None, size: int
    ) -> Transferred | Blocked:
        request = Request(self.source_id, pasid, output, access, privileged, ats=Ats.TRANSLATED)
        return self._move(request, data, size)

    def _transfer_translated(
        self, request: Request, data: bytes | None, size: int, may_ask: bool
    ) -> Transferred | Blocked | PageRefused:
        """Translate what the device-TLB does not have: by a translation request, and at last after a page request."""
        output = self._translate(request)
        if output is None and may_ask:
            refused = self._request_page(request)
            if refused is not None:
                return refused
            output = self._translate(request)
        if output is None:
            return PageRefused(request, None, asked=may_ask)
        if isinstance(output, Blocked):
            return output
        return self._move_translated(request.pasid, output, request.access, request.privileged, data, size)

    def _translate(self, request: Request) -> int | Blocked | None:
        """Ask for a translation and keep it; None where the page is not there with that right."""
        write, privileged = request.access is Operation.WRITE, request.privileged
        completion = self.unit.translate(replace(request, ats=Ats.TRANSLATION_REQUEST))
        assert isinstance(completion, TranslationCompletion)
        if completion.status is not AtsStatus.SUCCESS:
            return Blocked(request, completion.rule, completion.reason, completion.record, completion.fault)
        entry = AtcEntry(
            completion.address, completion.lg2, completion.read, completion.write, completion.execute, privileged
        )
        self.atc.fill(request.pasid, request.address, entry)
        return self.atc.lookup(request.pasid, request.address, write=write, privileged=privileged)

    # --- page requests -------------------------------------------------------------------------------------------

    def _request_page(self, request: Request) -> PageRefused | None:
        """Ask for the page; None when it is said to be there."""
        index = self.request_page(request)
        if index is None:
            return PageRefused(request, None, asked=False)
        response = self.answer(index)
        if response is None:
            return PageRefused(request, None, prg_index=index)
        return None if response == ResponseCode.SUCCESS else PageRefused(request, response)

    def request_page(self, request: Request) -> int | None:
        """Send a page request, and return its index; None when all indexes are outstanding."""
        index = self._fresh_index()
        if index is None:
            return None
        self.outstanding.add(index)
        write = request.access is Operation.WRITE
        message = PageRequest(
            rid=self.source_id,
            pp=request.pasid is not None,
            pasid=request.pasid or 0,
            exe=request.instruction,
            pr=request.privileged,
            rd=not write,
            wr=write,
            lpig=True,
            prgi=index,
            addr=request.address & -PAGE_SIZE,
        )
        self.unit.page_request(message)
        return index

    def _fresh_index(self) -> int | None:
        """Return the next index without a request or an answer, round and round."""
        for step in range(GROUPS):
            index = (self._next + step) % GROUPS
            if index not in self.outstanding and index not in self.responses:
                self._next = (index + 1) % GROUPS
                return index
        return None

    def stop_marker(self, pasid: int) -> None:
        """Say that no more pages will be requested with a PASID; nothing answers that."""
        self.unit.page_request(PageRequest(rid=self.source_id, pp=True, pasid=pasid, lpig=True))

    def answer(self, prg_index: int) -> int | None:
        """Take the answer to a page request; None while there is none."""
        return self.responses.pop(prg_index, None)

    # --- what the unit sends -------------------------------------------------------------------------------------

    def invalidate(self, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> bool:
        """Take an invalidation of the device-TLB."""
        return self.atc.invalidate(pasid, every_pasid=every_pasid, first=first, size=size)

    def page_response(self, pasid: int | None, prg_index: int, code: int) -> None:
        """Take the answer to a page request group."""
        if prg_index not in self.outstanding:
            self.unexpected += 1
            return
        self.outstanding.discard(prg_index)
        self.responses[prg_index] = code

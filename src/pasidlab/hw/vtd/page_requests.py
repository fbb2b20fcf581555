"""Page requests of devices: into the queue in memory, or answered at once.

A request that arrives passes the checks of its context entry and goes into the queue. When the queue is full, it and
all that follow are lost until software clears PRS.PRO: the last request of a group is then answered with Success, so
that the device asks again; the others vanish. A request that is refused is answered by the unit itself.

On the way from the devices requests can be held up (`PageRequests.hold`), as in a root port; a wait descriptor that
drains them, or the end of the hold, lets them in, in order.

Source: Intel VT-d 4.1, 7.4 (page requests), 7.5 (responses), 11.4.11 (registers).
Decided where the architecture leaves a choice: a device without page request enable gets Invalid Request, any other
refusal, and a queue that cannot be written, is Response Failure; only the last request of a group is answered, a stop
marker never; a head or tail beyond the queue counts modulo its size.
Not modelled: private data; implicit invalidation of the requested page, which walks for missing rights make needless.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.records import PAGE_REQUEST, PageRequest, Reason, ResponseCode
from pasidlab.hw.vtd.registers import Pqa, Pqh, Pqt, Prs
from pasidlab.hw.vtd.request import Blocked
from pasidlab.hw.vtd.signals import Signals
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.memory import PAGE_SIZE, Memory
from pasidlab.rules import Rule

REQUEST_BYTES = 32
ABSENT = Rule(
    "vtd.page-requests-absent",
    f"{SPEC}, 11.4.3",
    "ECAP.PRS == 0",
    "device {source:#06x} requests page {address:#x} of a unit without page requests",
    source=SPEC,
)
OVERFLOW = Rule(
    "vtd.page-request-overflow",
    f"{SPEC}, 7.4.1",
    "PRS.PRO == 1, or PQT + 1 == PQH",
    "a page request of device {source:#06x} for {address:#x} finds no room in the queue",
    source=SPEC,
)
ABORTED = Rule(
    "vtd.page-request-lost",
    f"{SPEC}, 7.4.1",
    "memory does not answer at PQA + PQT",
    "a page request of device {source:#06x} for {address:#x} cannot be written to the queue",
    source=SPEC,
)
_RESPONSES = {Reason.PRE_CLEAR: ResponseCode.INVALID}
"""How refusals are answered; all others are failures."""


class PageRequestTarget(Protocol):
    """The rest of the unit, as page requests meet it."""

    def page_request_refused(self, request: PageRequest) -> Blocked | None:
        """Return why a device may not request pages, or None."""

    def page_group_response(self, source_id: int, pasid: int | None, prg_index: int, code: int) -> None:
        """Answer a page request group."""


def is_stop_marker(request: PageRequest) -> bool:
    """Whether a device says that it asks for no more pages with this PASID, and expects no answer."""
    return request.pp and request.lpig and not (request.rd or request.wr)


class PageRequests:
    """The page request queue with its registers, and the requests on the way to it.

    Attributes:
        pqa, pqh, pqt, prs: the registers.
        in_flight: requests that are held up, oldest first.
    """

    __slots__ = ("_features", "_hold", "_memory", "_signals", "_target", "in_flight", "pqa", "pqh", "pqt", "prs")

    def __init__(self, memory: Memory, features: Features, target: PageRequestTarget, signals: Signals) -> None:
        self.pqa, self.pqh, self.pqt, self.prs = Pqa(), Pqh(), Pqt(), Prs()
        self.in_flight: deque[PageRequest] = deque()
        self._hold = False
        self._memory = memory
        self._features = features
        self._target = target
        self._signals = signals

    @property
    def size(self) -> int:
        """Bytes of the queue."""
        return PAGE_SIZE << self.pqa.pqs

    @property
    def hold(self) -> bool:
        """Whether requests wait on their way; the end of a hold lets them go on."""
        return self._hold

    @hold.setter
    def hold(self, value: bool) -> None:
        self._hold = value
        if not value:
            self.drain()

    def take(self, request: PageRequest) -> None:
        """Take a request of a device."""
        self.in_flight.append(request.replace(type=PAGE_REQUEST))
        if not self._hold:
            self.drain()

    def drain(self) -> None:
        """Let every request that is on its way arrive."""
        while self.in_flight:
            self._arrive(self.in_flight.popleft())

    def status_cleared(self) -> None:
        """Follow a write to PRS: when software served everything, a pending event is none any more."""
        if not self.prs:
            self._signals.page_request.served()

    # --- one request ---------------------------------------------------------------------------------------------

    def _arrive(self, request: PageRequest) -> None:
        if not self._features.page_requests:
            self._lose(ABSENT, request, ResponseCode.FAILURE)
            return
        refused = self._target.page_request_refused(request)
        if refused is not None:
            self._signals.refuse(refused.rule.fault(**refused.facts))
            self._answer(request, _RESPONSES.get(refused.reason, ResponseCode.FAILURE))
        elif self._overflows():
            self._lose(OVERFLOW, request, ResponseCode.SUCCESS)
        elif not self._memory.store(self.pqa.pqa + self.pqt.pqt % self.size, request.pack()):
            self._lose(ABORTED, request, ResponseCode.FAILURE)
        else:
            self.pqt = self.pqt.replace(pqt=self._after_tail)
            self._note(ppr=True)

    @property
    def _after_tail(self) -> int:
        return (self.pqt.pqt + REQUEST_BYTES) % self.size

    def _overflows(self) -> bool:
        if self._after_tail == self.pqh.pqh % self.size:
            self._note(pro=True)
            return True
        return self.prs.pro

    def _note(self, **status: bool) -> None:
        """Set a status bit; the event occurs if none was set before."""
        before, self.prs = self.prs, self.prs.replace(**status)
        if not before:
            self._signals.page_request.occurred()

    def _lose(self, rule: Rule, request: PageRequest, code: ResponseCode) -> None:
        self._signals.refuse(rule.fault(source=request.rid, address=request.addr))
        self._answer(request, code)

    def _answer(self, request: PageRequest, code: ResponseCode) -> None:
        if request.lpig and not is_stop_marker(request):
            pasid = request.pasid if request.pp else None
            self._target.page_group_response(request.rid, pasid, request.prgi, code)

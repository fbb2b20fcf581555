"""What comes of a device's request: bytes, a fault, or after a page request the waiting for the kernel.

A device with ATS asks for translations and keeps them, and with PRI for pages; it starts over when the kernel's workers
have answered that the page is there. Any other takes what the unit answers.

Source: Intel VT-d 4.1, 7.4 to 7.6 (page requests); prq_event_thread(), Linux 6.12.117 and 7.3.4.
"""

from __future__ import annotations

from typing import Any

from pasidlab.drivers.hardware import Denied, Seen
from pasidlab.drivers.intel.structs import DeviceDomainInfo
from pasidlab.hw.vtd.port import DmaPort, PageRefused
from pasidlab.hw.vtd.records import ResponseCode
from pasidlab.hw.vtd.request import Blocked
from pasidlab.linux.iopf import run_work
from pasidlab.rules import WAS_READ, Faulted, Rule

Failed = Blocked | PageRefused
"""What a port answers."""

UNANSWERED = Rule(
    "intel.page-request-unanswered",
    "the device",
    "no page group response",
    "{dev} asked for the page of {address:#x} under PASID {pasid}, and nobody answers",
)
PAGE_LOST = Rule(
    "intel.page-not-asked",
    "the device",
    "no translation with that right, and no page request is made",
    "{dev} has no translation of {address:#x} under PASID {pasid} and does not ask for the page: the access is lost",
)
PAGE_REFUSED = Rule(
    "intel.page-request-refused",
    "the device, after a page group response",
    "the response code is not Success",
    "{dev} asked for the page of {address:#x} under PASID {pasid}, and was answered {response}",
    source=WAS_READ,
)
NO_PROGRESS = Rule(
    "intel.no-progress",
    "the device",
    "the page is gone again after each answer",
    "{dev} asked {times} times for the page of {address:#x} under PASID {pasid}, and it is still not there",
)

_CODE_NAMES: dict[int, str] = {code: code.name for code in ResponseCode}


def settle_transfer(info: DeviceDomainInfo, port: DmaPort, failed: Failed, facts: dict[str, Any]) -> Faulted | None:
    """Return how an attempt that failed ended; None: the page was asked for, and is said to be there."""
    if isinstance(failed, Blocked):
        return Faulted(failed.rule, failed.facts)
    response = _answer(info, port, failed)
    return None if response == ResponseCode.SUCCESS else _denied(failed, response, facts)


def _answer(info: DeviceDomainInfo, port: DmaPort, refused: PageRefused) -> int | None:
    """Return the answer to a page request, after the workers if there was none at once; None: no answer, or not asked.

    Where a request was answered at once, and the port has no answer to show, it was Success and the page not there.
    """
    if not refused.asked:
        return None
    if refused.prg_index is None:
        return ResponseCode.SUCCESS if refused.response is None else refused.response
    run_work(info.iommu.iopf_queue)
    return port.answer(refused.prg_index)


def _denied(refused: PageRefused, response: int | None, facts: dict[str, Any]) -> Denied:
    if not refused.asked:
        return Denied(PAGE_LOST, facts, Seen.NO_PAGE)
    if response is None:
        return Denied(UNANSWERED, facts, Seen.FAILURE)
    seen = Seen.INVALID if response == ResponseCode.INVALID else Seen.FAILURE
    return Denied(PAGE_REFUSED, {**facts, "response": _CODE_NAMES.get(response, f"{response:#x}")}, seen)

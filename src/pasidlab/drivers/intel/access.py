"""A device's access to memory: its requests, the waiting for the kernel after a page request, and what comes of it.

A device with ATS asks for translations and keeps them, and with PRI for pages; it starts over when the kernel's workers
have answered that the page is there. Any other takes what the unit answers.

Source: Intel VT-d 4.1, 7.4 to 7.6 (page requests); prq_event_thread(), Linux 6.12.117 and 7.3.4.
Decided here: a device whose page is gone again after each answer gives up after MOST_RETRIES.
Not modelled: accesses of several devices at a time.
"""

from __future__ import annotations

from pasidlab.drivers.hardware import Denied, Moved, Seen
from pasidlab.drivers.intel.structs import DeviceDomainInfo
from pasidlab.hw.transaction import Transferred
from pasidlab.hw.vtd.port import DmaPort, PageRefused
from pasidlab.hw.vtd.records import ResponseCode
from pasidlab.hw.vtd.request import Blocked
from pasidlab.linux.iommu import iommu_attach_handle_get
from pasidlab.linux.iopf import run_work
from pasidlab.rules import WAS_READ, Faulted, Refusal, Rule

FREED = "freed memory"
"""Owner of memory that nobody has any more."""
MOST_RETRIES = 8
"""How often a device may find its page gone again before the model gives up."""

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


def access_memory(
    info: DeviceDomainInfo,
    port: DmaPort,
    pasid: int | None,
    address: int,
    data: bytes | None,
    size: int,
    *,
    page_requests: bool,
    privileged: bool,
) -> Moved | Faulted:
    """Write `data`, or read `size` bytes (None), within one page, asking for the page where that may help."""
    facts: dict[str, object] = {"dev": info.dev.name, "address": address, "pasid": pasid}
    for _ in range(MOST_RETRIES):
        outcome = port.transfer(pasid, address, data, size, page_requests=page_requests, privileged=privileged)
        if isinstance(outcome, Transferred):
            return Moved(_owner(info, pasid, outcome.address), outcome.data)
        if isinstance(outcome, Blocked):
            return Faulted(outcome.rule, outcome.facts)
        response = _answer(info, port, outcome)
        if response != ResponseCode.SUCCESS:
            return _denied(outcome, response, facts)
    return Denied(NO_PROGRESS, {**facts, "times": MOST_RETRIES}, Seen.FAILURE)


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


def _denied(refused: PageRefused, response: int | None, facts: dict[str, object]) -> Denied:
    if not refused.asked:
        return Denied(PAGE_LOST, facts, Seen.NO_PAGE)
    if response is None:
        return Denied(UNANSWERED, facts, Seen.FAILURE)
    seen = Seen.INVALID if response == ResponseCode.INVALID else Seen.FAILURE
    return Denied(PAGE_REFUSED, {**facts, "response": _CODE_NAMES.get(response, f"{response:#x}")}, seen)


def _owner(info: DeviceDomainInfo, pasid: int | None, address: int) -> str:
    """Say whose memory an address is: of several owners, the one that (device, PASID) is for."""
    owners = info.iommu.kernel.page_alloc.owners_of(address)
    meant = _process_of(info, pasid)
    if meant in owners:
        return meant
    return owners[0] if owners else FREED


def _process_of(info: DeviceDomainInfo, pasid: int | None) -> str:
    """Return the process whose memory (device, PASID) is for; empty where it is no process's."""
    group = info.dev.iommu_group
    if pasid is None or group is None:
        return ""
    handle = iommu_attach_handle_get(group, pasid)
    if isinstance(handle, Refusal) or handle.domain is None or handle.domain.mm is None:
        return ""
    return handle.domain.mm.name

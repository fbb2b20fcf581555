"""A device's access to memory: its transaction, the waiting for the kernel where it stalls, and what comes of it.

A device that stalls waits for the kernel's workers and starts over as they tell it; one with ATS asks for translations
and keeps them; any other takes what the SMMU answers.

Source: IHI 0070 G.b, 3.12 (stalled transactions); arm_smmu_handle_ppr(), Linux 6.12.117 and 7.3.4.
Decided here: a device whose page is gone again after each retry gives up after MOST_RETRIES.
Not modelled: accesses of several devices at a time.
"""

from __future__ import annotations

from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuMaster
from pasidlab.drivers.hardware import Denied, Moved, Seen
from pasidlab.hw.smmuv3.commands import Resp
from pasidlab.hw.smmuv3.port import DmaPort, PageRefused
from pasidlab.hw.smmuv3.request import Stalled, Terminated
from pasidlab.hw.smmuv3.target import ResumeAction
from pasidlab.hw.transaction import Transferred
from pasidlab.linux.iopf import run_work
from pasidlab.rules import WAS_READ, Faulted, Rule

FREED = "freed memory"
"""Owner of memory that nobody has any more."""
MOST_RETRIES = 8
"""How often a device may find its page gone again before the model gives up."""

STALL_UNANSWERED = Rule(
    "dma.stall-unanswered",
    "the SMMU",
    "software has not answered the stall",
    "the access of {dev} to {address:#x} under PASID {pasid} is stalled, and nobody answers",
)
PAGE_LOST = Rule(
    "dma.page-lost",
    "the device",
    "no translation with that right, and no page request interface",
    "{dev} has no translation of {address:#x} under PASID {pasid} and cannot ask for the page: the access is lost",
)
NO_PROGRESS = Rule(
    "dma.no-progress",
    "the SMMU",
    "the page is gone again after each retry",
    "the access of {dev} to {address:#x} under PASID {pasid} was retried {times} times and still faults",
)
PAGE_DENIED = Rule(
    "dma.page-denied",
    "arm_smmu_handle_ppr (drivers/iommu/arm/arm-smmu-v3)",
    "PRI is not used by the driver: every page request is denied",
    "{dev} asked for the page of {address:#x} under PASID {pasid}, and its page request was denied",
    source=WAS_READ,
)


def access_memory(
    master: ArmSmmuMaster,
    port: DmaPort,
    pasid: int | None,
    address: int,
    data: bytes | None,
    size: int,
    *,
    page_requests: bool,
    privileged: bool,
) -> Moved | Faulted:
    """Write `data`, or read `size` bytes (None), within one page; a stalled access waits for the kernel's workers.

    A stall is the SMMU's doing, so it comes to a device without `page_requests` too.
    """
    facts = {"dev": master.dev.name, "address": address, "pasid": pasid}
    port.ats = master.pci_ats
    for _ in range(MOST_RETRIES):
        outcome = port.transfer(pasid, address, data, size, page_requests=page_requests, privileged=privileged)
        if isinstance(outcome, Stalled):
            answer = _wait(master, port, outcome)
            if answer is None:
                return STALL_UNANSWERED.fault(**facts)
            if not isinstance(answer, Terminated):
                continue
            outcome = answer
        if isinstance(outcome, Transferred):
            return Moved(_owner(master, pasid, outcome.address), outcome.data)
        return _faulted(outcome, facts)
    return NO_PROGRESS.fault(**facts, times=MOST_RETRIES)


def _wait(master: ArmSmmuMaster, port: DmaPort, stalled: Stalled) -> ResumeAction | Terminated | None:
    """Run the workers, and return what became of a stalled access."""
    run_work(master.smmu.iopf_queue)
    return port.smmu.answered(stalled)


def _owner(master: ArmSmmuMaster, pasid: int | None, address: int) -> str:
    """Say whose memory an address is: of several owners, the one that (device, PASID) is for."""
    owners = master.smmu.kernel.page_alloc.owners_of(address)
    record = None if pasid is None else master.master_domains.get(pasid)
    meant = record.domain.mm.name if record is not None and record.domain.mm is not None else ""
    if meant in owners:
        return meant
    return owners[0] if owners else FREED


def _faulted(outcome: Terminated | PageRefused, facts: dict[str, object]) -> Faulted:
    if isinstance(outcome, PageRefused):
        rule = PAGE_LOST if outcome.response is None else PAGE_DENIED
        return Denied(rule, facts, _seen(outcome))
    return Faulted(outcome.rule, outcome.facts)


def _seen(refused: PageRefused) -> Seen:
    if not refused.asked:
        return Seen.NO_PAGE
    return Seen.INVALID if refused.response is Resp.INVALID_REQUEST else Seen.FAILURE

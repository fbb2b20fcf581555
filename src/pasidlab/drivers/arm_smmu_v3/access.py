"""What comes of a device's transaction: bytes, a fault, or where it stalls the waiting for the kernel.

A device that stalls waits for the kernel's workers and starts over as they tell it; one with ATS asks for translations
and keeps them; any other takes what the SMMU answers. A stall is the SMMU's doing, so it comes to a device that makes
no page requests too.

Source: IHI 0070 G.b, 3.12 (stalled transactions); arm_smmu_handle_ppr(), Linux 6.12.117 and 7.3.4.
"""

from __future__ import annotations

from typing import Any

from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuMaster
from pasidlab.drivers.hardware import Denied, Seen
from pasidlab.hw.smmuv3.commands import Resp
from pasidlab.hw.smmuv3.port import DmaPort, PageRefused
from pasidlab.hw.smmuv3.request import Stalled, Terminated
from pasidlab.hw.smmuv3.target import ResumeAction
from pasidlab.linux.iopf import run_work
from pasidlab.rules import WAS_READ, Faulted, Rule

Failed = Terminated | Stalled | PageRefused
"""What a port answers."""

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


def settle_transfer(master: ArmSmmuMaster, port: DmaPort, failed: Failed, facts: dict[str, Any]) -> Faulted | None:
    """Return how an attempt that failed ended; None: it had stalled, and the kernel lets the device start over."""
    if not isinstance(failed, Stalled):
        return _faulted(failed, facts)
    answer = _wait(master, port, failed)
    if answer is None:
        return STALL_UNANSWERED.fault(**facts)
    return _faulted(answer, facts) if isinstance(answer, Terminated) else None


def _wait(master: ArmSmmuMaster, port: DmaPort, stalled: Stalled) -> ResumeAction | Terminated | None:
    """Run the workers, and return what became of a stalled access."""
    run_work(master.smmu.iopf_queue)
    return port.smmu.answered(stalled)


def _faulted(failed: Terminated | PageRefused, facts: dict[str, Any]) -> Faulted:
    if isinstance(failed, PageRefused):
        rule = PAGE_LOST if failed.response is None else PAGE_DENIED
        return Denied(rule, facts, _seen(failed))
    return Faulted(failed.rule, failed.facts)


def _seen(refused: PageRefused) -> Seen:
    if not refused.asked:
        return Seen.NO_PAGE
    return Seen.INVALID if refused.response is Resp.INVALID_REQUEST else Seen.FAILURE

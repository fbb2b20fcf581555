"""Steps of what goes wrong: page requests, resets, owners, flushes, and failures on request."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from pasidlab.description import MachineSpec, Name
from pasidlab.errors import Errno, InputError
from pasidlab.linux.iopf import Fault
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario.step import DEVICE, Address, OnDevice, SentPasid, Step, perm_of


class PageRequest(Step, frozen=True, tag="page_request"):
    """A device asks for a page; `perm` of the letters r, w, x and p (privileged); without `pasid` for its RID."""

    device: Name
    pasid: SentPasid | None = None
    address: Address = 0x1000_0000
    perm: Annotated[str, Meta(pattern="^[rwxp]*$", description="any of the letters r, w, x and p, or none")] = "r"
    last: bool = True
    group: Annotated[int, Meta(ge=0, le=511)] = 0
    uses: ClassVar = DEVICE | {"pasid": "number"}
    fits_window: ClassVar = True

    def perform(self, machine: Machine) -> Outcome:
        """Ask."""
        perm = perm_of(self.perm)
        return machine.page_request(
            self.device, self.pasid, lambda pasid: Fault(pasid, self.address, perm, self.last, self.group)
        )


class Discard(Step, frozen=True, tag="discard"):
    """The IOMMU's page request queue overflowed: partial requests are forgotten."""

    iommu: Name
    uses: ClassVar = {"iommu": "iommu"}

    def perform(self, machine: Machine) -> Outcome:
        """Discard."""
        return machine.discard(self.iommu)


class ResetPrepare(OnDevice, frozen=True, tag="reset_prepare"):
    """Fence a device before its reset."""

    def perform(self, machine: Machine) -> Outcome:
        """Fence."""
        return machine.reset_prepare(self.device)


class ResetDone(OnDevice, frozen=True, tag="reset_done"):
    """Lift the fence after the reset."""

    def perform(self, machine: Machine) -> Outcome:
        """Lift."""
        return machine.reset_done(self.device)


class ClaimDmaOwner(OnDevice, frozen=True, tag="claim_dma_owner"):
    """Give a device's group to user space, as VFIO and iommufd do."""

    def perform(self, machine: Machine) -> Outcome:
        """Claim."""
        return machine.claim_dma_owner(self.device)


class ReleaseDmaOwner(OnDevice, frozen=True, tag="release_dma_owner"):
    """Undo a claim."""

    def perform(self, machine: Machine) -> Outcome:
        """Release."""
        return machine.release_dma_owner(self.device)


class InvalidateKva(Step, frozen=True, tag="invalidate_kva"):
    """The kernel frees page-table pages of its own half and flushes the IOMMU's caches."""

    def perform(self, machine: Machine) -> Outcome:
        """Flush."""
        return machine.invalidate_kva()


class FailNext(OnDevice, frozen=True, tag="fail_next"):
    """The next such call for the device fails; `memory` is the next allocation in the kernel."""

    call: Literal["set_dev_pasid", "domain_alloc_sva", "memory"]
    errno: str = "ENOMEM"

    def perform(self, machine: Machine) -> Outcome:
        """Arm the failure."""
        return machine.fail_next(self.device, self.call, Errno[self.errno])

    def check(self, spec: MachineSpec) -> None:
        """See that there is the errno, and that the call can return it."""
        if self.errno not in Errno.__members__:
            raise InputError(f"errno = {self.errno!r}: no such errno; allowed: {', '.join(Errno.__members__)}")
        if self.call == "memory" and self.errno != "ENOMEM":
            raise InputError(f"errno = {self.errno!r}: a failing allocation is ENOMEM")

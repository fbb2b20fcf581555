"""What every IOMMU driver here does with the calls of the core, whatever stands behind it.

A failure that a scenario asked for comes before anything of the driver's own, and observers hear what became of a call.
A driver adds its hooks, and an operation of its own for each type of domain that can be attached.

Source: struct iommu_ops and iommu_domain_ops (include/linux/iommu.h), domain_alloc_sva of arm-smmu-v3, intel and amd,
Linux 6.12.117 and 7.3.4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pasidlab import events
from pasidlab.errors import Errno
from pasidlab.linux.iopf import Fault
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.structs import Device, IommuDomain, IommuOps
from pasidlab.rules import Refusal, Rule

TABLE, IOTLB, ATC = "table", "iotlb", "atc"
"""Steps in which drivers take an entry away: it is cleared and not cached any more; translations are forgotten."""
SET_FAILED = Rule(
    "driver.set-failed",
    "set_dev_pasid of the IOMMU driver",
    "the driver reports an error",
    "the IOMMU driver of {dev} failed to set the PASID",
    remedy="look into the kernel's log for what the IOMMU driver says of the device; in a scenario, fail_next "
    "asked for it",
)
ALLOC_FAILED = Rule(
    "driver.domain-alloc-failed",
    "domain_alloc_sva of the IOMMU driver",
    "the driver reports an error",
    "the IOMMU driver of {dev} failed to make an SVA domain",
    remedy="look into the kernel's log for what the IOMMU driver says of the device; in a scenario, fail_next "
    "asked for it",
)
NO_SVA_TO_ENABLE = Rule(
    "driver.enable-sva-refused",
    "dev_enable_feat of the IOMMU driver",
    "the IOMMU lacks what SVA needs",
    "the IOMMU of {dev} cannot share page tables with this CPU",
    Errno.EINVAL,
    "6.12.117 (read)",
    remedy="see the findings about the machine for what the IOMMU or the device lacks; what hardware lacks can "
    "only be changed by another machine, PASIDs that are off by firmware and kernel options",
)
MM_DYING = Rule(
    "driver.mm-dying",
    "domain_alloc_sva of the IOMMU driver (mmu_notifier_register)",
    "mm_users == 0",
    "process {mm} has exited; nothing can be bound to it any more",
    Errno.EINVAL,
    "a caller must live in the mm (BUG_ON in the kernel)",
    remedy="bind only a living process: current->mm, or one whose mm_users is held",
)


def in_steps(kernel: Kernel, steps: Sequence[str], do: Callable[[str], None]) -> None:
    """Do the steps in their order, and let devices act after each but the last."""
    for step in steps[:-1]:
        do(step)
        kernel.window(step)
    do(steps[-1])


@dataclass(slots=True, eq=False, repr=False)
class Driver(ABC):
    """Base of all drivers; see the module docstring.

    Attributes:
        fail_set, fail_alloc: errnos with which the next set_dev_pasid and domain_alloc_sva of a device fail.
        next_domain: the number of the next domain.
    """

    kernel: Kernel
    fail_set: dict[Device, Errno] = field(default_factory=dict)
    fail_alloc: dict[Device, Errno] = field(default_factory=dict)
    next_domain: int = 0

    def iommu_ops(self, name: str) -> IommuOps:
        """Return `struct iommu_ops`, still without its static domains."""
        return IommuOps(
            name=name,
            domain_alloc_sva=self.domain_alloc_sva,
            domain_alloc_paging=self.domain_alloc_paging,
            remove_dev_pasid=self.remove_dev_pasid,
            page_response=self.page_response,
            dev_enable_sva=self.dev_enable_sva,
        )

    def _new_id(self) -> int:
        number = self.next_domain
        self.next_domain += 1
        return number

    # --- what a driver adds ------------------------------------------------------------------------------------

    @abstractmethod
    def sva_refused(self, dev: Device) -> Refusal | None:
        """Say why a device cannot share page tables, if domain_alloc_sva is where the driver looks."""

    @abstractmethod
    def new_sva_domain(self, dev: Device, mm: MmStruct) -> IommuDomain | Refusal:
        """Make an SVA domain for the IOMMU of a device; the mm has a user."""

    @abstractmethod
    def domain_alloc_paging(self, dev: Device) -> IommuDomain | Refusal:
        """Make a domain for kernel-managed DMA."""

    @abstractmethod
    def domain_free(self, domain: IommuDomain) -> None:
        """Give back what a domain holds, which nothing is attached to any more."""

    @abstractmethod
    def clear_dev_pasid(self, dev: Device, pasid: int, old: IommuDomain | None) -> None:
        """Take the domain of (dev, pasid) away; never fails."""

    @abstractmethod
    def dev_enable_sva(self, dev: Device) -> Refusal | None:
        """Answer `iommu_dev_enable_feature()` of page faults and SVA, which kernels before 6.16 ask first."""

    @abstractmethod
    def page_response(self, dev: Device, fault: Fault, code: int) -> None:
        """Answer a page request group of a device."""

    # --- SVA domains, and the end of all domains ---------------------------------------------------------------

    def domain_alloc_sva(self, dev: Device, mm: MmStruct) -> IommuDomain | Refusal:
        """Make an SVA domain for the IOMMU of `dev`."""
        domain = self._alloc_refused(dev, mm) or self.new_sva_domain(dev, mm)
        if self.kernel.observers:
            number, errno = (None, domain.errno) if isinstance(domain, Refusal) else (domain.id, None)
            self.kernel.emit(events.DomainAllocated(dev.name, number, errno))
        return domain

    def _alloc_refused(self, dev: Device, mm: MmStruct) -> Refusal | None:
        errno = self.fail_alloc.pop(dev, None)
        if errno is not None:
            return ALLOC_FAILED.refuse(errno, dev=dev.name)
        refusal = self.sva_refused(dev)
        if refusal is None and not mm.mm_users:
            refusal = MM_DYING.refuse(mm=mm.name)
        return refusal

    def release_domain(self, domain: IommuDomain) -> None:
        """Free a domain, and tell observers."""
        self.domain_free(domain)
        if self.kernel.observers:
            self.kernel.emit(events.DomainFreed(domain.id))

    # --- attach and detach -------------------------------------------------------------------------------------

    def _injected(self, dev: Device) -> Refusal | None:
        """Return the failure that was asked for, once."""
        errno = self.fail_set.pop(dev, None)
        return None if errno is None else SET_FAILED.refuse(errno, dev=dev.name)

    def _report_set(
        self, domain: IommuDomain, dev: Device, pasid: int, old: IommuDomain | None, refusal: Refusal | None
    ) -> Refusal | None:
        """Tell observers of a set_dev_pasid, and return what it came to."""
        if self.kernel.observers:
            errno = None if refusal is None else refusal.errno
            label = None if old is None else old.label
            self.kernel.emit(events.PasidSet(dev.name, pasid, domain.id, errno, label))
        return refusal

    def _report_rid(self, dev: Device, label: Literal["B", "I"], refusal: Refusal | None) -> Refusal | None:
        """Tell observers of an attach of the traffic without PASID, and return what it came to."""
        if self.kernel.observers:
            self.kernel.emit(events.RidAttached(dev.name, label))
        return refusal

    def block_dev_pasid(self, blocked: IommuDomain, dev: Device, pasid: int, old: IommuDomain | None) -> Refusal | None:
        """Detach (dev, pasid), as kernels since 6.14 do: set_dev_pasid of the blocked domain; never fails."""
        self.clear_dev_pasid(dev, pasid, old)
        if self.kernel.observers:
            self.kernel.emit(events.PasidBlocked(dev.name, pasid, None if old is None else old.label))
        return None

    def remove_dev_pasid(self, dev: Device, pasid: int, domain: IommuDomain) -> None:
        """Detach (dev, pasid), as kernels before 6.14 do."""
        self.clear_dev_pasid(dev, pasid, domain)
        if self.kernel.observers:
            self.kernel.emit(events.PasidRemoved(dev.name, pasid, domain.id))

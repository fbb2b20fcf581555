"""What the drivers of IOMMUs with tables in memory have in common: default domains, the kernel's buffer, and accesses.

Source: iommu_group_alloc_default_domain() (drivers/iommu/iommu.c), Linux 6.12.117 and 7.3.4.
Decided here: the kernel maps a buffer of its own at the addresses that processes have into every domain it manages, so
that work under such a domain finds memory; a device whose page is gone again after each answer gives up after
MOST_RETRIES.
Not modelled: accesses of several devices at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pasidlab.drivers.base import Driver
from pasidlab.drivers.hardware import FREED, Moved
from pasidlab.hw.transaction import Transferred
from pasidlab.linux.iommu import iommu_attach_handle_get, iommu_setup_default_domain
from pasidlab.linux.mm import process_memory
from pasidlab.linux.structs import Device, IommuDomain, IommuDomainOps, IommuOps
from pasidlab.rules import Faulted, Refusal

MOST_RETRIES = 8
"""How often a device may find its page gone again before the model gives up."""

DefaultDomain = Literal["dma", "identity", "blocked", "stage2"]
"""What the traffic without PASID of a group starts in."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Port(Protocol[T_co]):
    """A device's way through an IOMMU."""

    def transfer(
        self,
        pasid: int | None,
        address: int,
        data: bytes | None,
        size: int,
        /,
        *,
        page_requests: bool,
        privileged: bool,
    ) -> Transferred | T_co:
        """Write `data`, or read `size` bytes (None), all of one page, and return what came of it."""


class KernelTable(Protocol):
    """A page table that the kernel maps itself."""

    def map_buffer(self, start: int, end: int) -> None:
        """Map pages of the kernel's own, which may be written, at a range of addresses."""


@dataclass(slots=True, eq=False, repr=False)
class TableDriver(Driver, Generic[T]):
    """Base of these drivers; T is how an attempt to access memory can fail at a port.

    Attributes:
        ops: the driver's operations.
        sva_ops: those of its SVA domains.
    """

    ops: IommuOps = field(init=False)
    sva_ops: IommuDomainOps = field(init=False)

    # --- what a driver adds ------------------------------------------------------------------------------------

    @abstractmethod
    def domain_alloc_stage2(self, dev: Device) -> IommuDomain:
        """Make a domain with a second-stage table, as a virtual machine's memory has."""

    @abstractmethod
    def port_of(self, dev: Device) -> Port[T]:
        """Return a device's way through its IOMMU, as it is switched on now."""

    @abstractmethod
    def settle(self, dev: Device, failed: T, facts: dict[str, Any]) -> Faulted | None:
        """Let the kernel see to an attempt that failed; None: the page may be there now, and the device starts over."""

    @abstractmethod
    def no_progress(self, facts: dict[str, Any]) -> Faulted:
        """Say that a device gave up."""

    # --- domains of the kernel ---------------------------------------------------------------------------------

    def _setup_default_domain(self, dev: Device, kind: DefaultDomain) -> None:
        """Attach the traffic without PASID of a device that was just met to the domain of its group."""
        refusal = iommu_setup_default_domain(dev, self._default_domain(dev, kind))
        if refusal:
            self.kernel.warn("iommu_setup_default_domain", f"{dev.name} stays without a domain: {refusal.why}")

    def _default_domain(self, dev: Device, kind: DefaultDomain) -> IommuDomain:
        """Return the domain of the group, made for its first device (iommu_group_alloc_default_domain())."""
        group = dev.iommu_group
        assert group is not None
        if group.devices[0] is not dev:
            assert group.domain is not None
            return group.domain
        if kind == "stage2":
            return self.domain_alloc_stage2(dev)
        fixed = {"identity": self.ops.identity_domain, "blocked": self.ops.blocked_domain}
        domain = fixed.get(kind) or self.domain_alloc_paging(dev)
        assert isinstance(domain, IommuDomain)
        return domain

    def _map_kernel_buffer(self, table: KernelTable) -> None:
        for area in process_memory(page_size=self.kernel.page_size):
            table.map_buffer(area.start, area.end)

    # --- what stands before devices (Hardware) -----------------------------------------------------------------

    def access(
        self,
        dev: Device,
        pasid: int | None,
        address: int,
        data: bytes | None,
        size: int,
        *,
        page_requests: bool = True,
        privileged: bool = False,
    ) -> Moved | Faulted:
        """Let a device read or write memory within one page, again for as long as the kernel says that it may help."""
        port = self.port_of(dev)
        for _ in range(MOST_RETRIES):
            outcome = port.transfer(pasid, address, data, size, page_requests=page_requests, privileged=privileged)
            if isinstance(outcome, Transferred):
                return Moved(owner_of(dev, pasid, outcome.address), outcome.data)
            ended = self.settle(dev, outcome, {"dev": dev.name, "address": address, "pasid": pasid})
            if ended is not None:
                return ended
        return self.no_progress({"dev": dev.name, "address": address, "pasid": pasid, "times": MOST_RETRIES})


def owner_of(dev: Device, pasid: int | None, address: int) -> str:
    """Say whose memory an address is: of several owners, the one that (device, PASID) is for."""
    owners = dev.kernel.page_alloc.owners_of(address)
    if len(owners) < 2:
        return owners[0] if owners else FREED
    meant = _process_of(dev, pasid)
    return meant if meant in owners else owners[0]


def _process_of(dev: Device, pasid: int | None) -> str:
    """Return the process whose memory (device, PASID) is for; empty where it is no process's."""
    group = dev.iommu_group
    if pasid is None or group is None:
        return ""
    handle = iommu_attach_handle_get(group, pasid)
    if isinstance(handle, Refusal) or handle.domain is None or handle.domain.mm is None:
        return ""
    return handle.domain.mm.name

"""What mock IOMMUs and the devices behind them keep of translations, and how their driver lets them forget it.

An IOTLB stands before the table, and each PCIe device has an ATC before both; a line says whose address space a PASID
of a device is. Of a page the page table is asked anew at each access. To take an entry away, the driver does the steps
of `detach` one after the other, between which devices may act (`Kernel.window`): the table's entry is cleared, and the
lines of that device and PASID are invalidated. Setting an entry where none was invalidates nothing.

Source: the order of intel_pasid_tear_down_entry() (drivers/iommu/intel/pasid.c) and of arm_smmu_mmu_notifier's release
(drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-sva.c), v7.3.
Decided here: blocked accesses and kernel-managed domains leave no line; the end of an
address space does the same steps for all its devices at once, `table` being to make its entries quiet.
Not modelled: pages and ranges, eviction: a line stays until it is invalidated; PASIDs are all that a line is found by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pasidlab.drivers.base import ATC, IOTLB, TABLE, in_steps
from pasidlab.linux.mmu_notifier import MmuNotifier, mmu_notifier_put, mmu_notifier_register
from pasidlab.rules import Refusal, Rule

if TYPE_CHECKING:
    from pasidlab.linux.kernel import Kernel
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device, IommuDevice, IommuDomain

DETACH_STEPS = (TABLE, IOTLB, ATC)
"""What a driver does, in order, when nobody says otherwise."""
DMA_FREED = Rule(
    "dma.freed",
    "the IOMMU's or the device's cache",
    "a line of an address space that is gone",
    "what was cached of PASID {pasid} of {dev} outlived {mm}: the access went to pages that are anybody's by now",
    source="include/linux/mmu_notifier.h: nobody accesses the memory after release",
)

Line = tuple["Device", int]


@dataclass(slots=True, eq=False, repr=False)
class MockCaches:
    """The caches of a machine's mock IOMMUs.

    Attributes:
        detach: the steps of each IOMMU that keeps anything.
        quiet: the address spaces whose entries were made quiet at their end.
        iotlb, atc: what is kept, by device and PASID.
        notifiers: the registration with each address space that has domains here, and how many these are.
    """

    kernel: Kernel
    detach: dict[IommuDevice | None, tuple[str, ...]] = field(default_factory=dict)
    quiet: set[MmStruct] = field(default_factory=set)
    iotlb: dict[Line, IommuDomain] = field(default_factory=dict)
    atc: dict[Line, IommuDomain] = field(default_factory=dict)
    notifiers: dict[MmStruct, tuple[MmuNotifier, list[IommuDomain]]] = field(default_factory=dict)

    # --- translations ------------------------------------------------------------------------------------------

    def look_up(self, dev: Device, pasid: int) -> IommuDomain | None:
        """Return what is cached; the device asks its own cache first, and keeps what the IOTLB answers."""
        found = self.atc.get((dev, pasid))
        if found is None:
            found = self.iotlb.get((dev, pasid))
            if found is not None and dev.pci:
                self.atc[dev, pasid] = found
        return found

    def fill(self, dev: Device, pasid: int, domain: IommuDomain) -> None:
        """Keep what the table answered, if it is an address space."""
        if dev.iommu not in self.detach or domain.mm is None:
            return
        self.iotlb[dev, pasid] = domain
        if dev.pci:
            self.atc[dev, pasid] = domain

    def forget(self, dev: Device, pasid: int, step: str) -> None:
        """Invalidate one cache for one PASID of a device."""
        cache = self.iotlb if step == IOTLB else self.atc
        cache.pop((dev, pasid), None)

    def is_quiet(self, domain: IommuDomain) -> bool:
        """Whether an entry blocks, since its address space has ended; with caches its end has to say so first."""
        assert domain.mm is not None
        return domain.mm in self.quiet if domain.iommu in self.detach else not domain.mm.mm_users

    # --- the end of an address space ---------------------------------------------------------------------------

    def subscribe(self, domain: IommuDomain) -> Refusal | None:
        """Hear of the end of a domain's address space, once for all its domains."""
        assert domain.mm is not None
        known = self.notifiers.get(domain.mm)
        if known is None:
            notifier = MmuNotifier(self)
            refusal = mmu_notifier_register(notifier, domain.mm)
            if refusal:
                return refusal
            known = self.notifiers[domain.mm] = notifier, []
        known[1].append(domain)
        return None

    def unsubscribe(self, domain: IommuDomain) -> None:
        """Hear no more with the last domain of an address space."""
        assert domain.mm is not None
        notifier, domains = self.notifiers[domain.mm]
        domains.remove(domain)
        if not domains:
            del self.notifiers[domain.mm]
            self.quiet.discard(domain.mm)
            mmu_notifier_put(notifier)

    def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
        """Nothing of a page is kept."""

    def release(self, mm: MmStruct) -> None:
        """Make the entries of an address space quiet and invalidate its lines, in the order of each IOMMU's driver."""
        _, domains = self.notifiers[mm]
        for detach in dict.fromkeys(self.detach[domain.iommu] for domain in domains):
            in_steps(self.kernel, detach, partial(self._end, mm, detach))

    def _end(self, mm: MmStruct, detach: tuple[str, ...], step: str) -> None:
        """Do one step of the end of an address space, on the IOMMUs that have these steps."""
        if step == TABLE:
            self.quiet.add(mm)
            return
        cache = self.iotlb if step == IOTLB else self.atc
        gone = [line for line, domain in cache.items() if domain.mm is mm and self.detach[domain.iommu] == detach]
        for line in gone:
            del cache[line]

"""The intel-iommu driver of a machine: its units and their devices, its operations for the core, its interrupts.

Source: intel_iommu_ops, the operations of each domain type, intel_iommu_domain_alloc_paging_flags(),
intel_svm_domain_alloc(), intel_iommu_dev_enable_feat() (drivers/iommu/intel/iommu.c, svm.c), Linux 6.12.117 and 7.3.4.
Decided here: 6.12's enabling of page requests is taken as done at probe, as idxd does it.
Not modelled: nested domains, dirty tracking, release of devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pasidlab.drivers.hardware import Denied, Seen
from pasidlab.drivers.intel.access import NO_PROGRESS, Failed, settle_transfer
from pasidlab.drivers.intel.cap_audit import CapAudit
from pasidlab.drivers.intel.dma_pte import DmaPageTable
from pasidlab.drivers.intel.dmar import dmar_fault, intel_iommu_init
from pasidlab.drivers.intel.iommu import (
    address_width,
    blocking_domain_attach_dev,
    clear_dev_pasid,
    first_level_by_default,
    identity_domain_attach_dev,
    identity_domain_set_dev_pasid,
    intel_iommu_attach_device,
    intel_iommu_probe_device,
    intel_iommu_probe_finalize,
    intel_iommu_set_dev_pasid,
    iommu_paging_structure_coherency,
    iommu_superpage_capability,
)
from pasidlab.drivers.intel.prq import intel_iommu_page_response, prq_event_thread, prq_request
from pasidlab.drivers.intel.structs import DeviceDomainInfo, DmarDomain, IntelIommu
from pasidlab.drivers.intel.svm import (
    SVM_NOT_BUILT,
    IntelMmuNotifier,
    intel_iommu_sva_supported,
    intel_svm_set_dev_pasid,
)
from pasidlab.drivers.tables import DefaultDomain, TableDriver
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.port import DmaPort
from pasidlab.hw.vtd.unit import CACHE_ENTRIES, RemappingUnit
from pasidlab.linux.iopf import Fault, ResponseCode, iopf_queue_add_device
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.mmu_notifier import MmuNotifier, mmu_notifier_put, mmu_notifier_register
from pasidlab.linux.pci_ats import pci_pasid_features
from pasidlab.linux.structs import Device, DomainType, IommuDevice, IommuDomain, IommuDomainOps
from pasidlab.rules import Faulted, Refusal

Old = IommuDomain | None


@dataclass(slots=True, eq=False, repr=False)
class Instance:
    """One remapping unit of a machine: the hardware, and the driver's view of it."""

    hw: RemappingUnit
    iommu: IntelIommu


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits:
    """What firmware and configuration space say of a device.

    Attributes:
        source_id: bus, device and function of its requests.
        ats, pri: it has ATS, page requests.
        default_domain: what its traffic without PASID starts in.
    """

    source_id: int
    ats: bool = True
    pri: bool = True
    default_domain: DefaultDomain = "dma"


@dataclass(slots=True, eq=False, repr=False)
class IntelDriver(TableDriver[Failed]):
    """All remapping units of a machine; see the module docstring.

    Attributes:
        audit: what all units have in common.
        infos, ports: the driver's and the hardware's side of each device.
    """

    audit: CapAudit = field(default_factory=CapAudit)
    instances: dict[IommuDevice, Instance] = field(default_factory=dict)
    infos: dict[Device, DeviceDomainInfo] = field(default_factory=dict)
    ports: dict[Device, DmaPort] = field(default_factory=dict)
    traits: dict[Device, DeviceTraits] = field(default_factory=dict)
    paging_ops: IommuDomainOps = field(init=False)

    def __post_init__(self) -> None:
        self.ops = self.iommu_ops("intel-iommu")
        blocked = IommuDomainOps(self.block_dev_pasid, self.attach_blocked)
        identity = IommuDomainOps(self.identity_set_dev_pasid, self.attach_identity)
        self.ops.blocked_domain = IommuDomain(DomainType.BLOCKED, self.ops, blocked)
        self.ops.identity_domain = IommuDomain(DomainType.IDENTITY, self.ops, identity)
        self.sva_ops = IommuDomainOps(self.sva_set_dev_pasid, free=self.release_domain)
        self.paging_ops = IommuDomainOps(self.paging_set_dev_pasid, self.attach_dev, self.release_domain)

    # --- instances and devices ---------------------------------------------------------------------------------

    def instance(
        self, name: str, features: Features, max_pasids: int | None, *, per_device: bool, caches: bool = True
    ) -> IommuDevice:
        """Make one unit in hardware, and bring it up; `max_pasids` None is what ECAP.PSS says."""
        hw = RemappingUnit(self.kernel.memory, features, cache_entries=CACHE_ENTRIES if caches else 0)
        iommu = intel_iommu_init(self.kernel, name, hw, self.audit)
        hw.interface.irq = partial(_interrupt, iommu)
        computed = 2 << iommu.ecap.pss if iommu.pasid_supported else 0
        bound = computed if max_pasids is None else max_pasids
        made = IommuDevice(name, self.ops, bound, iommu.iopf_queue, per_device, iommu.svm_refused is None)
        self.instances[made] = Instance(hw, iommu)
        return made

    def describe(self, dev: Device, traits: DeviceTraits) -> None:
        """Say what a device is like, before it is probed."""
        self.traits[dev] = traits

    def probe_device(self, dev: Device) -> None:
        """Meet a device, attach its traffic without PASID to the domain of its group, and switch on what it has."""
        assert dev.iommu is not None
        instance, traits = self.instances[dev.iommu], self.traits[dev]
        has_pasid = pci_pasid_features(dev) is not None
        info = intel_iommu_probe_device(
            instance.iommu, dev, traits.source_id, pasid=has_pasid, ats=traits.ats, pri=traits.pri
        )
        self.infos[dev] = info
        self._setup_default_domain(dev, traits.default_domain)
        intel_iommu_probe_finalize(info)
        self.ports[dev] = DmaPort(instance.hw, traits.source_id, ats=info.ats_enabled, pri=info.pri_enabled)
        if info.pri_enabled and not self.kernel.profile.iopf_at_attach:
            iopf_queue_add_device(instance.iommu.iopf_queue, dev)

    # --- domains -----------------------------------------------------------------------------------------------

    def _new_domain(
        self, type: DomainType, ops: IommuDomainOps, *, first_level: bool, mm: MmStruct | None = None
    ) -> DmarDomain:
        return DmarDomain(type, self.ops, ops, id=self._new_id(), use_first_level=first_level, mm=mm)

    def sva_refused(self, dev: Device) -> Refusal | None:
        """Ask unit and device, where `iommu_dev_enable_feature()` has not; without INTEL_IOMMU_SVM it is a stub."""
        if "INTEL_IOMMU_SVM" in self.kernel.not_built:
            return SVM_NOT_BUILT.refuse(dev=dev.name)
        return None if self.kernel.profile.enable_feature else intel_iommu_sva_supported(self.infos[dev])

    def new_sva_domain(self, dev: Device, mm: MmStruct) -> IommuDomain | Refusal:
        """Make an SVA domain: a notifier on the mm."""
        domain = self._new_domain(DomainType.SVA, self.sva_ops, first_level=True, mm=mm)
        domain.iommu = dev.iommu
        domain.notifier = MmuNotifier(IntelMmuNotifier(domain))
        return mmu_notifier_register(domain.notifier, mm) or domain

    def domain_alloc_paging(self, dev: Device) -> IommuDomain:
        """Make a domain for kernel-managed DMA, with the kernel's buffer in it."""
        return self._alloc_paging(dev, first_level=first_level_by_default(self.infos[dev].iommu))

    def domain_alloc_stage2(self, dev: Device) -> DmarDomain:
        """Make a second-stage domain, as a virtual machine's memory is."""
        return self._alloc_paging(dev, first_level=False)

    def _alloc_paging(self, dev: Device, *, first_level: bool) -> DmarDomain:
        """paging_domain_alloc(): a table that suits the unit of the device."""
        iommu = self.infos[dev].iommu
        domain = self._new_domain(DomainType.PAGING, self.paging_ops, first_level=first_level)
        domain.iommu = dev.iommu
        domain.agaw, domain.gaw = iommu.agaw, address_width(iommu)
        domain.coherent = iommu_paging_structure_coherency(iommu)
        domain.superpage = iommu_superpage_capability(iommu, first_stage=first_level)
        domain.table = DmaPageTable(self.kernel, domain.agaw + 2, first_level=first_level)
        self._map_kernel_buffer(domain.table)
        return domain

    def domain_free(self, domain: IommuDomain) -> None:
        """Free a domain, which nothing is attached to any more: its table, its notifier."""
        assert isinstance(domain, DmarDomain)
        if domain.notifier is not None:
            mmu_notifier_put(domain.notifier)
        if domain.table is not None:
            domain.table.free()

    # --- struct iommu_ops and iommu_domain_ops -----------------------------------------------------------------

    def dev_enable_sva(self, dev: Device) -> Refusal | None:
        """Answer `iommu_dev_enable_feature()` of page faults and SVA: asked before 6.16."""
        return intel_iommu_sva_supported(self.infos[dev])

    def sva_set_dev_pasid(self, domain: IommuDomain, dev: Device, pasid: int, old: Old) -> Refusal | None:
        """Attach an SVA domain to (dev, pasid)."""
        assert isinstance(domain, DmarDomain)
        refusal = self._injected(dev) or intel_svm_set_dev_pasid(domain, self.infos[dev], pasid, old)
        return self._report_set(domain, dev, pasid, old, refusal)

    def paging_set_dev_pasid(self, domain: IommuDomain, dev: Device, pasid: int, old: Old) -> Refusal | None:
        """Attach a kernel-managed domain to (dev, pasid)."""
        assert isinstance(domain, DmarDomain)
        refusal = self._injected(dev) or intel_iommu_set_dev_pasid(domain, self.infos[dev], pasid, old)
        return self._report_set(domain, dev, pasid, old, refusal)

    def identity_set_dev_pasid(self, domain: IommuDomain, dev: Device, pasid: int, old: Old) -> Refusal | None:
        """Attach the identity domain to (dev, pasid)."""
        refusal = self._injected(dev) or identity_domain_set_dev_pasid(domain, self.infos[dev], pasid, old)
        return self._report_set(domain, dev, pasid, old, refusal)

    def clear_dev_pasid(self, dev: Device, pasid: int, old: Old) -> None:
        """Take the PASID table entry of (dev, pasid) away."""
        clear_dev_pasid(self.infos[dev], pasid, old)

    def attach_dev(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Attach a domain to the traffic without PASID."""
        assert isinstance(domain, DmarDomain)
        return intel_iommu_attach_device(domain, self.infos[dev])

    def attach_identity(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Let the traffic without PASID pass."""
        return self._report_rid(dev, "I", identity_domain_attach_dev(self.infos[dev]))

    def attach_blocked(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Stop the traffic without PASID."""
        blocking_domain_attach_dev(self.infos[dev])
        return self._report_rid(dev, "B", None)

    def page_response(self, dev: Device, fault: Fault, code: int) -> None:
        """Answer a page request group."""
        intel_iommu_page_response(self.infos[dev], fault, ResponseCode(code))

    # --- what stands before devices (Hardware) -----------------------------------------------------------------

    def report(self, dev: Device, fault: Fault) -> Refusal | None:
        """Take a page request as if the device had sent it; a refusal is the core's, and was answered."""
        info = self.infos[dev]
        info.iommu.reported = None
        assert dev.iommu is not None
        self.instances[dev.iommu].hw.page_request(prq_request(info.source_id, fault))
        reported, info.iommu.reported = info.iommu.reported, None
        return reported

    def port_of(self, dev: Device) -> DmaPort:
        """Return its way through the unit."""
        return self.ports[dev]

    def settle(self, dev: Device, failed: Failed, facts: dict[str, Any]) -> Faulted | None:
        """Wait for the kernel after a page request."""
        return settle_transfer(self.infos[dev], self.ports[dev], failed, facts)

    def no_progress(self, facts: dict[str, Any]) -> Faulted:
        """Say that a device gave up asking for its page."""
        return Denied(NO_PROGRESS, facts, Seen.FAILURE)


def _interrupt(iommu: IntelIommu, name: str) -> None:
    """Run the handler of an interrupt of a unit; the kernel uses none for invalidations."""
    if name == "fault":
        dmar_fault(iommu)
    elif name == "page_request":
        prq_event_thread(iommu)

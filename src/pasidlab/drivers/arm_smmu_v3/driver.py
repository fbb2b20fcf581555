"""The arm-smmu-v3 driver of a machine: its SMMUs and their devices, its operations for the core, its interrupts.

Source: arm_smmu_ops, arm_smmu_probe_device(), arm_smmu_sva_domain_alloc() and the operations of each domain type,
Linux 6.12.117 and 7.3.4.
Decided here: 6.12's enabling of page faults is taken as done at probe, as uacce's drivers do.
Not modelled: nested domains, dirty tracking, release of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pasidlab import events
from pasidlab.drivers.arm_smmu_v3.access import NO_PROGRESS, Failed, settle_transfer
from pasidlab.drivers.arm_smmu_v3.cmdq import arm_smmu_gerror_handler
from pasidlab.drivers.arm_smmu_v3.device import arm_smmu_device_probe, arm_smmu_sva_supported
from pasidlab.drivers.arm_smmu_v3.domain import (
    arm_smmu_attach_dev,
    arm_smmu_attach_dev_blocked,
    arm_smmu_attach_dev_identity,
    arm_smmu_clear_pasid,
    arm_smmu_domain_cd,
    arm_smmu_set_pasid,
)
from pasidlab.drivers.arm_smmu_v3.fault import (
    arm_smmu_dump_event,
    arm_smmu_events,
    arm_smmu_handle_ppr,
    arm_smmu_page_requests,
    arm_smmu_page_response,
    stall_event,
    stall_fault,
)
from pasidlab.drivers.arm_smmu_v3.invalidation import WHOLE, arm_smmu_domain_inv_range
from pasidlab.drivers.arm_smmu_v3.master import arm_smmu_probe_device
from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDevice, ArmSmmuDomain, ArmSmmuMaster, Stage
from pasidlab.drivers.arm_smmu_v3.sva import (
    NO_FEAT_SVA,
    ArmSmmuMmuNotifier,
    arm_smmu_sva_domain_free,
    arm_smmu_sva_set_dev_pasid,
)
from pasidlab.drivers.base import NO_SVA_TO_ENABLE
from pasidlab.drivers.io_pgtable_arm import ArmLpaeTable, domain_granule
from pasidlab.drivers.tables import DefaultDomain, TableDriver
from pasidlab.drivers.traits import RESUME
from pasidlab.errors import Errno
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.port import DmaPort
from pasidlab.hw.smmuv3.smmu import CACHE_ENTRIES, Smmuv3
from pasidlab.linux.iopf import Fault, ResponseCode, iommu_report_device_fault, iopf_queue_add_device
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.mmu_notifier import MmuNotifier, mmu_notifier_register
from pasidlab.linux.structs import Device, DomainType, IommuDevice, IommuDomain, IommuDomainOps
from pasidlab.pasid import PasidSpace
from pasidlab.rules import WAS_READ, Faulted, Refusal, Rule

ENABLE_IOPF_STREAMS = Rule(
    "arm-smmu-v3.enable-iopf-streams",
    "arm_smmu_dev_enable_feature(IOPF) (drivers/iommu/arm/arm-smmu-v3)",
    "master->num_streams != 1",
    "{dev} stalls and has several streams: its faults cannot be told apart",
    Errno.EINVAL,
    "6.12.117 (read)",
    remedy="let firmware give a device that may stall one StreamID, or take dma-can-stall away from it",
)
ASIDS_USED_UP = Rule(
    "arm-smmu-v3.no-asid",
    "arm_smmu_sva_domain_alloc (drivers/iommu/arm/arm-smmu-v3)",
    "xa_alloc(&arm_smmu_asid_xa) == -EBUSY",
    "the SMMUs' {count} ASIDs are all in use; {dev} cannot get one for {mm}",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="end processes that have devices bound: each takes an ASID on each SMMU, each kernel domain one",
)


@dataclass(slots=True, eq=False, repr=False)
class Instance:
    """One SMMU of a machine: the hardware, and the driver's view of it."""

    hw: Smmuv3
    smmu: ArmSmmuDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits:
    """What firmware and configuration space say of a device.

    Attributes:
        streams: its StreamIDs.
        can_stall: firmware says `dma-can-stall`; None is a device that may unless it uses ATS.
        ats: it has ATS.
        default_domain: what its traffic without PASID starts in.
    """

    streams: tuple[int, ...]
    can_stall: bool | None = None
    ats: bool = False
    default_domain: DefaultDomain = "dma"


@dataclass(slots=True, eq=False, repr=False)
class ArmSmmuDriver(TableDriver[Failed]):
    """All SMMUs of a machine; see the module docstring.

    Attributes:
        asids: the one machine-wide space of ASIDs (arm_smmu_asid_xa).
        masters, ports: the driver's and the hardware's side of each device.
    """

    instances: dict[IommuDevice, Instance] = field(default_factory=dict)
    masters: dict[Device, ArmSmmuMaster] = field(default_factory=dict)
    ports: dict[Device, DmaPort] = field(default_factory=dict)
    traits: dict[Device, DeviceTraits] = field(default_factory=dict)
    asids: PasidSpace = field(default_factory=PasidSpace)
    s1_ops: IommuDomainOps = field(init=False)
    s2_ops: IommuDomainOps = field(init=False)

    def __post_init__(self) -> None:
        self.ops = self.iommu_ops("arm-smmu-v3")
        if "ARM_SMMU_V3_SVA" in self.kernel.not_built:
            self.ops.domain_alloc_sva = None
        blocked = IommuDomainOps(self.block_dev_pasid, self.attach_blocked)
        identity = IommuDomainOps(None, self.attach_identity)
        self.ops.blocked_domain = IommuDomain(DomainType.BLOCKED, self.ops, blocked)
        self.ops.identity_domain = IommuDomain(DomainType.IDENTITY, self.ops, identity)
        self.sva_ops = IommuDomainOps(self.sva_set_dev_pasid, free=self.release_domain)
        self.s1_ops = IommuDomainOps(self.s1_set_dev_pasid, self.attach_dev, self.release_domain)
        self.s2_ops = IommuDomainOps(None, self.attach_dev, self.release_domain)

    # --- instances and devices ---------------------------------------------------------------------------------

    def instance(
        self,
        name: str,
        features: Features,
        max_pasids: int | None,
        *,
        per_device: bool,
        caches: bool = True,
        detach: Sequence[str] | None = None,
    ) -> IommuDevice:
        """Make one SMMU in hardware, and probe it; `max_pasids` None is what IDR1.SSIDSIZE says."""
        hw = Smmuv3(self.kernel.memory, features, cache_entries=CACHE_ENTRIES if caches else 0)
        smmu = arm_smmu_device_probe(self.kernel, name, hw)
        smmu.detach = None if detach is None else tuple(detach)
        hw.interface.irq = partial(self._interrupt, smmu)
        bound = 1 << smmu.ssid_bits if max_pasids is None else max_pasids
        sva = arm_smmu_sva_supported(smmu)
        iommu = IommuDevice(name, self.ops, bound, smmu.iopf_queue, per_device, sva)
        self.instances[iommu] = Instance(hw, smmu)
        return iommu

    def describe(self, dev: Device, traits: DeviceTraits) -> None:
        """Say what a device is like, before it is probed."""
        self.traits[dev] = traits

    def probe_device(self, dev: Device) -> None:
        """Meet a device and attach its traffic without PASID to the domain of its group."""
        assert dev.iommu is not None
        instance, traits = self.instances[dev.iommu], self.traits[dev]
        ats = traits.ats and instance.smmu.ats
        master = arm_smmu_probe_device(
            instance.smmu,
            dev,
            traits.streams,
            can_stall=not ats if traits.can_stall is None else traits.can_stall,
            ats=ats,
        )
        self.masters[dev] = master
        self.ports[dev] = DmaPort(instance.hw, traits.streams[0], ats=ats, pri=instance.smmu.pri)
        self._setup_default_domain(dev, traits.default_domain)
        if _takes_stalls(master) and not self.kernel.profile.iopf_at_attach:
            iopf_queue_add_device(instance.smmu.iopf_queue, dev)

    # --- domains -----------------------------------------------------------------------------------------------

    def _new_domain(
        self, dev: Device, stage: Stage, type: DomainType, ops: IommuDomainOps, mm: MmStruct | None = None
    ) -> ArmSmmuDomain:
        domain = ArmSmmuDomain(self.masters[dev].smmu, stage, type, self.ops, ops, id=self._new_id(), mm=mm)
        domain.iommu = dev.iommu
        return domain

    def sva_refused(self, dev: Device) -> Refusal | None:
        """Ask the features of the SMMU."""
        return None if arm_smmu_sva_supported(self.masters[dev].smmu) else NO_FEAT_SVA.refuse(dev=dev.name)

    def new_sva_domain(self, dev: Device, mm: MmStruct) -> IommuDomain | Refusal:
        """Make an SVA domain for the SMMU of `dev`: an ASID, and a notifier on the mm."""
        asid = self._take_asid(dev, mm.name)
        if isinstance(asid, Refusal):
            return asid
        domain = self._new_domain(dev, Stage.SVA, DomainType.SVA, self.sva_ops, mm)
        domain.asid = asid
        domain.notifier = MmuNotifier(ArmSmmuMmuNotifier(domain))
        refusal = mmu_notifier_register(domain.notifier, mm)
        if refusal:
            self.asids.free(asid)
            return refusal
        return domain

    def _take_asid(self, dev: Device, owner: str) -> int | Refusal:
        last = (1 << self.masters[dev].smmu.asid_bits) - 1
        asid = self.asids.alloc(1, last)
        return ASIDS_USED_UP.refuse(count=last, dev=dev.name, mm=owner) if asid is None else asid

    def domain_alloc_paging(self, dev: Device) -> IommuDomain | Refusal:
        """Make a stage 1 domain for kernel-managed DMA, with the kernel's buffer in it."""
        asid = self._take_asid(dev, "the kernel")
        if isinstance(asid, Refusal):
            return asid
        domain = self._new_domain(dev, Stage.S1, DomainType.PAGING, self.s1_ops)
        domain.asid = asid
        self._make_table(domain)
        return domain

    def domain_alloc_stage2(self, dev: Device) -> ArmSmmuDomain:
        """Make a stage 2 domain, as a virtual machine's memory is."""
        smmu = self.masters[dev].smmu
        domain = self._new_domain(dev, Stage.S2, DomainType.PAGING, self.s2_ops)
        vmid = smmu.vmid_map.alloc(1, (1 << smmu.vmid_bits) - 1)
        assert vmid is not None
        domain.vmid = vmid
        self._make_table(domain)
        return domain

    def _make_table(self, domain: ArmSmmuDomain) -> None:
        granule = domain_granule(self.kernel.page_shift, domain.smmu.granules)
        domain.table = ArmLpaeTable(self.kernel, granule, stage2=domain.stage is Stage.S2)
        self._map_kernel_buffer(domain.table)

    def domain_free(self, domain: IommuDomain) -> None:
        """Free a domain: its tag, its table, its notifier."""
        assert isinstance(domain, ArmSmmuDomain)
        if domain.stage is Stage.SVA:
            arm_smmu_sva_domain_free(domain)
        if domain.table is not None:
            arm_smmu_domain_inv_range(domain, 0, WHOLE)
            domain.table.free()
        if domain.asid:
            self.asids.free(domain.asid)
        if domain.vmid:
            domain.smmu.vmid_map.free(domain.vmid)

    # --- struct iommu_ops and iommu_domain_ops -----------------------------------------------------------------

    def dev_enable_sva(self, dev: Device) -> Refusal | None:
        """Answer `iommu_dev_enable_feature()` of page faults, if the device stalls, and SVA: asked before 6.16."""
        master = self.masters[dev]
        if master.stall_enabled and not _takes_stalls(master):
            return ENABLE_IOPF_STREAMS.refuse(dev=dev.name)
        if arm_smmu_sva_supported(master.smmu) and master.ssid_bits:
            return None
        return NO_SVA_TO_ENABLE.refuse(dev=dev.name)

    def sva_set_dev_pasid(
        self, domain: IommuDomain, dev: Device, pasid: int, old: IommuDomain | None
    ) -> Refusal | None:
        """Attach an SVA domain to (dev, pasid)."""
        assert isinstance(domain, ArmSmmuDomain)
        refusal = self._injected(dev) or arm_smmu_sva_set_dev_pasid(domain, self.masters[dev], pasid)
        return self._report_set(domain, dev, pasid, old, refusal)

    def s1_set_dev_pasid(self, domain: IommuDomain, dev: Device, pasid: int, old: IommuDomain | None) -> Refusal | None:
        """Attach a kernel-managed domain to (dev, pasid)."""
        assert isinstance(domain, ArmSmmuDomain)
        master = self.masters[dev]
        cd = arm_smmu_domain_cd(domain, master)
        refusal = self._injected(dev) or arm_smmu_set_pasid(master, domain, pasid, cd)
        return self._report_set(domain, dev, pasid, old, refusal)

    def clear_dev_pasid(self, dev: Device, pasid: int, old: IommuDomain | None) -> None:
        """Clear the CD of (dev, pasid)."""
        arm_smmu_clear_pasid(self.masters[dev], pasid)

    def attach_dev(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Attach a domain to the traffic without PASID."""
        assert isinstance(domain, ArmSmmuDomain)
        return arm_smmu_attach_dev(domain, self.masters[dev])

    def attach_identity(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Let the traffic without PASID pass."""
        return self._report_rid(dev, "I", arm_smmu_attach_dev_identity(domain, self.masters[dev]))

    def attach_blocked(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Stop the traffic without PASID."""
        return self._report_rid(dev, "B", arm_smmu_attach_dev_blocked(domain, self.masters[dev]))

    def page_response(self, dev: Device, fault: Fault, code: int) -> None:
        """Answer a stalled device."""
        answer = ResponseCode(code)
        arm_smmu_page_response(self.masters[dev], fault, answer)
        if self.kernel.observers:
            wire = RESUME[answer] if self.masters[dev].stall_enabled else ""
            self.kernel.emit(events.PageResponded(dev.name, fault.pasid or 0, fault.grpid, code, wire))

    # --- interrupts --------------------------------------------------------------------------------------------

    def _interrupt(self, smmu: ArmSmmuDevice, name: str) -> None:
        """Run the handler of an interrupt of an SMMU; that of CMD_SYNC has none."""
        if name == "gerror":
            arm_smmu_gerror_handler(smmu)
        elif name == "eventq":
            self._evtq_thread(smmu)
        elif name == "priq":
            self._priq_thread(smmu)

    def _evtq_thread(self, smmu: ArmSmmuDevice) -> None:
        """arm_smmu_evtq_thread(): a stalled fault goes to the core; an event that nobody takes is printed."""
        for event in arm_smmu_events(smmu):
            fault, master = stall_fault(event), self._master_of(smmu, event.sid)
            if fault is None or master is None or iommu_report_device_fault(master.dev, fault):
                arm_smmu_dump_event(smmu, master, event)

    def _priq_thread(self, smmu: ArmSmmuDevice) -> None:
        """arm_smmu_priq_thread()."""
        for record in arm_smmu_page_requests(smmu):
            arm_smmu_handle_ppr(smmu, record)

    def _master_of(self, smmu: ArmSmmuDevice, sid: int) -> ArmSmmuMaster | None:
        """arm_smmu_find_master()."""
        masters = (master for master in self.masters.values() if master.smmu is smmu)
        return next((master for master in masters if sid in master.streams), None)

    # --- what stands before devices (Hardware) -----------------------------------------------------------------

    def report(self, dev: Device, fault: Fault) -> Refusal | None:
        """Take a page request as if the SMMU had reported a stalled fault: the record is built, and read again.

        One that is not the last of its group, which no stall can be, goes to the core as it is.
        """
        if not fault.last:
            return iommu_report_device_fault(dev, fault)
        heard = stall_fault(stall_event(self.masters[dev].streams[0], fault))
        assert heard is not None
        return iommu_report_device_fault(dev, heard)

    def port_of(self, dev: Device) -> DmaPort:
        """Return its way through the SMMU, by its ATC where the driver has ATS switched on."""
        port = self.ports[dev]
        port.ats = self.masters[dev].pci_ats
        return port

    def settle(self, dev: Device, failed: Failed, facts: dict[str, Any]) -> Faulted | None:
        """Wait for the kernel where the access stalled."""
        return settle_transfer(self.masters[dev], self.ports[dev], failed, facts)

    def no_progress(self, facts: dict[str, Any]) -> Faulted:
        """Say that a stalled access gave up."""
        return NO_PROGRESS.fault(**facts)


def _takes_stalls(master: ArmSmmuMaster) -> bool:
    """arm_smmu_master_iopf_supported(), before 6.16."""
    return master.stall_enabled and len(master.streams) == 1

"""An IOMMU driver that records calls, as the kernel's own self-test driver does; no tables, and caches on request only.

It answers as the driver that the records under `tests/data` were made with: -EINVAL for a domain of another
instance (as arm-smmu-v3), an errno on request, and success otherwise; its blocked domain always takes a PASID. From
6.16 on a device is in the fault queue from its first attach of a domain with a fault handler to the last.

What the driver was told is kept in `entries`, by (device, PASID): for this driver that is the hardware, and
`translate()` answers from it whose memory a device reaches. `access()` looks into the process's page table anew each
time, as the CPU does, and asks for a page that it cannot use. An instance with `detach` keeps what it has translated
(`drivers.mock_caches`), which is how a teardown in the wrong order shows.

Decided here: PASID is switched on in a PCI device when it is probed, and where that fails a usual mock refuses to set
one, as AMD's driver does. A device leaves the fault queue when its entry is wholly taken away, as behind an
arm-smmu-v3.
Not modelled: stream tables, context descriptors, what is in freed memory and what a kernel-managed domain maps (reads
give zeros); the drivers of real IOMMUs are for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from pasidlab import events
from pasidlab.drivers.base import ATC, IOTLB, NO_SVA_TO_ENABLE, SET_FAILED, TABLE, Driver, in_steps
from pasidlab.drivers.hardware import FREED, Denied, Moved, Seen
from pasidlab.drivers.mock_caches import DMA_FREED, MockCaches
from pasidlab.drivers.traits import RAW_CODES, TRAITS, Mode, Traits
from pasidlab.errors import Errno
from pasidlab.linux.iopf import (
    Fault,
    IopfQueue,
    ResponseCode,
    iommu_report_device_fault,
    iopf_queue_add_device,
    iopf_queue_flush_dev,
    iopf_queue_remove_device,
)
from pasidlab.linux.mm import MmStruct, permitted_page
from pasidlab.linux.page_alloc import KERNEL
from pasidlab.linux.pci_ats import enable_pasid_at_probe
from pasidlab.linux.pgtable import READ, WRITE
from pasidlab.linux.structs import Device, DomainType, IommuDevice, IommuDomain, IommuDomainOps, IommuOps
from pasidlab.rules import WAS_READ, Faulted, Refusal, Rule

OTHER_INSTANCE = Rule(
    "driver.other-instance",
    "set_dev_pasid of the IOMMU driver",
    "the domain belongs to another IOMMU instance",
    "the domain was made for another IOMMU than that of {dev}",
    Errno.EINVAL,
    "arm-smmu-v3: smmu_domain->smmu != master->smmu",
    remedy="allocate a domain for each IOMMU; SVA does so by itself",
)
NO_REPLACE = Rule(
    "driver.no-replace",
    "iommu_sva_set_dev_pasid (drivers/iommu/amd/pasid.c)",
    "old != NULL",
    "the IOMMU driver of {dev} cannot set a PASID that has a domain",
    Errno.EOPNOTSUPP,
    WAS_READ,
    remedy="detach first, then attach: AMD's driver cannot replace",
)
PASID_OFF = Rule(
    "driver.pasid-off",
    "iommu_sva_set_dev_pasid (drivers/iommu/amd/pasid.c)",
    "!is_pasid_enabled(dev_data)",
    "PASID is off in {dev}: {cause}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="see what pci_enable_pasid() refused: prefixes or ACS on the path, the capability, the kernel's options",
)
NO_SVA_FEATURE = Rule(
    "driver.no-sva-feature",
    "domain_alloc_sva of the IOMMU driver",
    "the IOMMU lacks what SVA needs (arm-smmu-v3: ARM_SMMU_FEAT_SVA)",
    "the IOMMU of {dev} cannot share page tables with this CPU",
    Errno.EOPNOTSUPP,
    "7.3.4 (read); before 6.16 enable_feature refused it",
    remedy="see what the IOMMU lacks beside the CPUs: coherent walks, page size, address and ASID width",
)
DMA_NO_ENTRY = Rule(
    "dma.no-entry",
    "the IOMMU",
    "no entry for (device, PASID)",
    "the IOMMU has no entry for PASID {pasid} of {dev}: the access is blocked",
    remedy="see under which PASID the device worked and whether somebody was bound under it at that time",
)
DMA_QUIET = Rule(
    "dma.quiet",
    "the IOMMU",
    "the mm was released: its entry is quiet",
    "PASID {pasid} of {dev} names {mm}, which has exited: the access is blocked",
)
PAGE_REFUSED = Rule(
    "dma.page-request-refused",
    "the IOMMU, after a page request",
    "the response was not SUCCESS, or the page is still not there",
    "{dev} asked for {address:#x} of {mm} under PASID {pasid} to {access}, and was refused",
)
PAGE_NOT_ASKED = Rule(
    "dma.page-not-there",
    "the IOMMU",
    "no page with that right, and the device makes no page request",
    "{dev} may not {access} {address:#x} of {mm} under PASID {pasid}, and does not ask for the page",
    remedy="see whether the process has that page with that right, and let it touch the page before the device does",
)
DMA_RID_BLOCKED = Rule(
    "dma.rid-blocked",
    "the IOMMU",
    "no domain for requests without PASID",
    "{dev} has no domain for accesses without PASID: the access is blocked",
    remedy="the device worked without PASID: give it the PASID of its bond, or map memory for DMA",
)
DMA_ABORTED = Rule(
    "dma.aborted",
    "the memory behind the IOMMU",
    "external abort",
    "no memory answers {dev} at {address:#x} of {mm} under PASID {pasid}",
)


RACE_GROUP = 99
"""The group index of a page request that arrives inside a set, as in the kernels' records."""


@dataclass(slots=True, eq=False, repr=False)
class MockDriver(Driver):
    """The driver of a machine's mock IOMMUs.

    Attributes:
        entries: what the hardware would translate with, by device and PASID.
        races: address and rights of a page request that arrives inside the next successful set, by device.
        fault_users: how many entries of a device have a fault handler.
        caches: what the IOMMUs and their devices keep, those that keep anything.
    """

    entries: dict[tuple[Device, int], IommuDomain] = field(default_factory=dict)
    races: dict[Device, tuple[int, int]] = field(default_factory=dict)
    fault_users: dict[Device, int] = field(default_factory=dict)
    ops_by_mode: dict[Mode, IommuOps] = field(default_factory=dict)
    domain_ops: dict[tuple[IommuOps, DomainType], IommuDomainOps] = field(default_factory=dict)
    traits: dict[IommuOps, Traits] = field(default_factory=dict)
    caches: MockCaches = field(init=False)

    def __post_init__(self) -> None:
        self.caches = MockCaches(self.kernel)

    @property
    def iotlb(self) -> dict[tuple[Device, int], IommuDomain]:
        """What the IOMMUs have cached, by device and PASID."""
        return self.caches.iotlb

    @property
    def atc(self) -> dict[tuple[Device, int], IommuDomain]:
        """What each device has cached, by device and PASID."""
        return self.caches.atc

    # --- instances ---------------------------------------------------------------------------------------------

    def instance(
        self,
        name: str,
        max_pasids: int,
        mode: Mode = Mode.USUAL,
        *,
        per_device: bool = True,
        sva: bool = True,
        detach: Sequence[str] = (),
    ) -> IommuDevice:
        """Return one IOMMU instance; instances of one mode share a driver. One with steps of `detach` has caches."""
        made = IommuDevice(name, self.ops(mode), max_pasids, IopfQueue(), per_device, sva)
        if detach:
            self.caches.detach[made] = tuple(detach)
        return made

    def ops(self, mode: Mode = Mode.USUAL) -> IommuOps:
        """Return the driver's operations, made once per mode."""
        if mode not in self.ops_by_mode:
            self.ops_by_mode[mode] = self._make_ops(mode)
        return self.ops_by_mode[mode]

    def _make_ops(self, mode: Mode) -> IommuOps:
        traits = TRAITS[mode]
        ops = self.iommu_ops(f"mock-{mode.value}")
        if not traits.domain_alloc_sva:
            ops.domain_alloc_sva = None
        self.traits[ops] = traits
        set_dev_pasid = self.set_dev_pasid if traits.set_dev_pasid else None
        static = IommuDomainOps(self.block_dev_pasid if traits.set_dev_pasid else None, self.attach_dev)
        ops.blocked_domain = IommuDomain(DomainType.BLOCKED, ops, static)
        ops.identity_domain = IommuDomain(DomainType.IDENTITY, ops, IommuDomainOps(set_dev_pasid, self.attach_dev))
        paging = set_dev_pasid if traits.paging_pasids else None
        self.domain_ops[ops, DomainType.SVA] = IommuDomainOps(set_dev_pasid, free=self.release_domain)
        self.domain_ops[ops, DomainType.PAGING] = IommuDomainOps(paging, free=self.release_domain)
        return ops

    def max_pasids(self, mode: Mode, bits: int) -> int:
        """Return the bound that such a driver reports for an IOMMU of that width."""
        traits = TRAITS[mode]
        one_less = traits.bound_one_less and self.kernel.profile.amd_bound_one_less
        return (1 << bits) - one_less if traits.carries_pasids else 0

    def _new_domain(self, type: DomainType, dev: Device, mm: MmStruct | None = None) -> IommuDomain:
        ops = self.domain_ops[dev.ops, type]
        return IommuDomain(type, dev.ops, ops, id=self._new_id(), iommu=dev.iommu, mm=mm)

    # --- struct iommu_ops --------------------------------------------------------------------------------------

    def sva_refused(self, dev: Device) -> Refusal | None:
        """See whether the instance of a device may share page tables."""
        assert dev.iommu is not None
        if not dev.iommu.sva:
            return NO_SVA_FEATURE.refuse(dev=dev.name)
        return self._pasid_off(dev, "domain_alloc_sva")

    def _pasid_off(self, dev: Device, operation: str) -> Refusal | None:
        """Refuse a device whose PASID could not be switched on, in the operation in which its driver looks."""
        if dev.pasid_refused is None or self.traits[dev.ops].needs_pasid_on != operation:
            return None
        return PASID_OFF.refuse(dev=dev.name, cause=dev.pasid_refused.why)

    def new_sva_domain(self, dev: Device, mm: MmStruct) -> IommuDomain | Refusal:
        """Make an SVA domain for the instance of `dev`; one with caches hears when the mm ends."""
        domain = self._new_domain(DomainType.SVA, dev, mm)
        refusal = self.caches.subscribe(domain) if dev.iommu in self.caches.detach else None
        return refusal or domain

    def domain_alloc_paging(self, dev: Device) -> IommuDomain:
        """Make a domain for kernel-managed DMA."""
        return self._new_domain(DomainType.PAGING, dev)

    def dev_enable_sva(self, dev: Device) -> Refusal | None:
        """Answer `iommu_dev_enable_feature(SVA)`, which kernels before 6.16 ask first."""
        assert dev.iommu is not None
        return None if dev.iommu.sva else NO_SVA_TO_ENABLE.refuse(dev=dev.name)

    def page_response(self, dev: Device, fault: Fault, code: int) -> None:
        """Answer the device."""
        if self.kernel.observers:
            wire = self._wire(dev, ResponseCode(code))
            self.kernel.emit(events.PageResponded(dev.name, fault.pasid or 0, fault.grpid, int(code), wire))

    def _wire(self, dev: Device, code: ResponseCode) -> str:
        """Say what an answer becomes on the wire; empty for a driver without a real one's habits."""
        codes = self.traits[dev.ops].wire
        if codes is None:
            return ""
        if codes is RAW_CODES and code is ResponseCode.FAILURE and not self.kernel.profile.failure_sent_raw:
            return "0xF"
        return codes[code]

    def report(self, dev: Device, fault: Fault) -> Refusal | None:
        """Take a page request of the hardware; what the driver does not settle itself goes to the core."""
        taken = self.traits[dev.ops].screen(fault) if dev.iommu is not None else fault
        if isinstance(taken, Fault):
            return iommu_report_device_fault(dev, taken)
        if taken.code is not None:
            self.page_response(dev, fault, taken.code)
        self.kernel.decided(taken.rule)
        return None

    # --- struct iommu_domain_ops -------------------------------------------------------------------------------

    def set_dev_pasid(self, domain: IommuDomain, dev: Device, pasid: int, old: IommuDomain | None) -> Refusal | None:
        """Write the entry of (dev, pasid)."""
        refusal = self._set_refused(domain, dev, old)
        if refusal is None:
            self._receive_race(dev, pasid)
            self._write_entry(dev, pasid, domain)
        return self._report_set(domain, dev, pasid, old, refusal)

    def _set_refused(self, domain: IommuDomain, dev: Device, old: IommuDomain | None) -> Refusal | None:
        traits = self.traits[dev.ops]
        if old is not None and not traits.replaces:
            return NO_REPLACE.refuse(dev=dev.name)
        refusal = self._pasid_off(dev, "set_dev_pasid")
        if refusal:
            return refusal
        if traits.no_memory_is_einval and self.kernel.allocation_fails():
            no_memory = Errno.EINVAL if self.kernel.profile.amd_no_memory_is_einval else Errno.ENOMEM
            return SET_FAILED.refuse(no_memory, dev=dev.name)
        refusal = self._injected(dev)
        if refusal is None and domain.iommu is not dev.iommu and domain.type is not DomainType.IDENTITY:
            refusal = OTHER_INSTANCE.refuse(dev=dev.name)
        return refusal

    def attach_dev(self, domain: IommuDomain, dev: Device) -> Refusal | None:
        """Attach the traffic without PASID."""
        return self._report_rid(dev, "B" if domain.type is DomainType.BLOCKED else "I", None)

    def domain_free(self, domain: IommuDomain) -> None:
        """A domain holds nothing but, where there are caches, its part in hearing of its mm's end."""
        if domain.mm is not None and domain.iommu in self.caches.detach:
            self.caches.unsubscribe(domain)

    # --- the hardware ------------------------------------------------------------------------------------------

    def probe_device(self, dev: Device) -> None:
        """Switch PASID on, and put a device in the fault queue at its probe, as drivers before 6.16."""
        if dev.pci and self.traits[dev.ops].carries_pasids:
            enable_pasid_at_probe(dev)
        if not self.kernel.profile.iopf_at_attach:
            assert dev.iommu is not None
            assert dev.iommu.iopf_queue is not None
            iopf_queue_add_device(dev.iommu.iopf_queue, dev)

    def _write_entry(self, dev: Device, pasid: int, domain: IommuDomain) -> None:
        before = self.entries.get((dev, pasid))
        self.entries[dev, pasid] = domain
        if before is not None and self.caches.detach:
            self.caches.forget(dev, pasid, IOTLB)
            self.caches.forget(dev, pasid, ATC)
        self._count_fault_users(dev, _takes_faults(domain) - _takes_faults(before))

    def clear_dev_pasid(self, dev: Device, pasid: int, old: IommuDomain | None) -> None:
        """Clear the entry of (dev, pasid), and do what its IOMMU's order says about caches."""
        before = self.entries.get((dev, pasid))
        steps = self.caches.detach.get(dev.iommu)
        if steps is None:
            self._take_away(dev, pasid, TABLE)
        else:
            in_steps(self.kernel, steps, partial(self._take_away, dev, pasid))
        self._count_fault_users(dev, -_takes_faults(before))

    def _take_away(self, dev: Device, pasid: int, step: str) -> None:
        """Do one step of clearing an entry."""
        if step == TABLE:
            self.entries.pop((dev, pasid), None)
        else:
            self.caches.forget(dev, pasid, step)

    def _count_fault_users(self, dev: Device, change: int) -> None:
        """Join the fault queue with the first entry that takes faults, leave it with the last (since 6.16)."""
        if not change:
            return
        users = self.fault_users[dev] = self.fault_users.get(dev, 0) + change
        if not self.kernel.profile.iopf_at_attach:
            return
        assert dev.iommu is not None
        assert dev.iommu.iopf_queue is not None
        if users == 0:
            iopf_queue_remove_device(dev.iommu.iopf_queue, dev)
        elif users == change:
            iopf_queue_add_device(dev.iommu.iopf_queue, dev)

    def _receive_race(self, dev: Device, pasid: int) -> None:
        """Let the page request that was asked for arrive before the entry is set."""
        race = self.races.pop(dev, None) if self.races else None
        if race is None:
            return
        address, perm = race
        iommu_report_device_fault(dev, Fault(pasid, address, perm, last=True, grpid=RACE_GROUP))
        if dev.fault_param is not None:
            iopf_queue_flush_dev(dev)

    def translate(self, dev: Device, pasid: int | None) -> IommuDomain | Faulted:
        """Return the domain whose memory the device reaches under a PASID, or without (None)."""
        if pasid is None:
            return self._rid_domain(dev)
        cached = self.caches.look_up(dev, pasid) if self.caches.detach else None
        if cached is not None:
            return cached
        domain = self.entries.get((dev, pasid))
        if domain is None:
            return DMA_NO_ENTRY.fault(dev=dev.name, pasid=pasid)
        if domain.mm is not None and self.caches.is_quiet(domain):
            return DMA_QUIET.fault(dev=dev.name, pasid=pasid, mm=domain.mm.name)
        self.caches.fill(dev, pasid, domain)
        return domain

    def _rid_domain(self, dev: Device) -> IommuDomain | Faulted:
        domain = None if dev.iommu_group is None else dev.iommu_group.domain
        if domain is None or domain.type is DomainType.BLOCKED:
            return DMA_RID_BLOCKED.fault(dev=dev.name)
        return domain

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
        """Read or write memory within one page, asking for the page when the process's table does not permit it.

        Pages of a process answer privileged accesses like others: this driver knows no such right.
        """
        domain = self.translate(dev, pasid)
        if isinstance(domain, Faulted):
            return domain
        mm = domain.mm
        if mm is None:
            return Moved(KERNEL, bytes(size) if data is None else data)
        if mm.torn_down:
            self.kernel.found(DMA_FREED, dev=dev.name, pasid=pasid, mm=mm.name)
            return Moved(FREED, bytes(size) if data is None else data)
        facts = {"dev": dev.name, "address": address, "mm": mm.name, "pasid": pasid}
        physical = permitted_page(mm, address, data is not None)
        if physical is None and page_requests:
            self._request_page(dev, pasid, address, READ if data is None else WRITE)
            physical = permitted_page(mm, address, data is not None)
        if physical is None:
            facts["access"] = "read" if data is None else "write"
            return _denied(facts, page_requests)
        moved = self._move(physical, data, size)
        return DMA_ABORTED.fault(**facts) if moved is None else Moved(mm.name, moved)

    def _request_page(self, dev: Device, pasid: int | None, address: int, perm: int) -> None:
        self.report(dev, Fault(pasid, address & -self.kernel.page_size, perm, last=True, grpid=0))
        if dev.fault_param is not None:
            iopf_queue_flush_dev(dev)

    def _move(self, physical: int, data: bytes | None, size: int) -> bytes | None:
        """Read or write memory; None is an abort."""
        if data is None:
            return self.kernel.memory.load(physical, size)
        return data if self.kernel.memory.store(physical, data) else None


def _denied(facts: dict[str, object], asked: bool) -> Denied:
    """Say how the device saw that it may not use a page; a refused page request is answered Invalid Request."""
    if asked:
        return Denied(PAGE_REFUSED, facts, Seen.INVALID)
    return Denied(PAGE_NOT_ASKED, facts, Seen.NO_PAGE)


def _takes_faults(domain: IommuDomain | None) -> bool:
    return domain is not None and domain.iopf_handler is not None

"""Intel DSA and IAA: a portal that believes the PASID of ENQCMD, and a number for the kernel taken at probe.

Source: drivers/dma/idxd (init.c `idxd_enable_system_pasid()`, cdev.c `idxd_cdev_open()`), v6.12 and v7.3. At probe the
driver takes one global number per device and attaches the device's own RID domain to it without handle, so that
N such devices hold 1..N before any process binds. A shared work queue takes the PASID from each write; a dedicated one
has one owner, whose number the driver writes into WQCFG at open.

Not modelled yet: groups, engines, descriptors' operations beyond read and write, completion records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pasidlab.devices.endpoint import Done, Endpoint, Work
from pasidlab.errors import Errno
from pasidlab.hw.cpu import Store
from pasidlab.linux.iommu import iommu_alloc_global_pasid, iommu_attach_device_pasid, iommu_free_global_pasid
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.sva import IommuSva
from pasidlab.rules import WAS_READ, Faulted, Refusal, Rule, Verdict

SYSTEM_PASID_NONE = Rule(
    "idxd.no-kernel-number",
    "idxd_enable_system_pasid (drivers/dma/idxd/init.c)",
    "iommu_alloc_global_pasid() == IOMMU_PASID_INVALID",
    "{dev} got no number for the kernel: the driver warns and goes on without",
    Errno.ENOSPC,
    source=WAS_READ,
)
DEDICATED_BUSY = Rule(
    "idxd.dedicated-busy",
    "idxd_cdev_open (drivers/dma/idxd/cdev.c)",
    "idxd_wq_refcount(wq) > 0 && wq_dedicated(wq)",
    "the dedicated queue of {dev} belongs to process {owner}",
    Errno.EBUSY,
    source=WAS_READ,
)
DEDICATED_RETRY = Rule(
    "idxd.dedicated-takes-no-enqcmd",
    "the device's portal",
    "a non-posted write to a dedicated queue",
    "{dev} answers Retry (ZF = 1): its queue is dedicated and takes MOVDIR64B",
    Errno.EAGAIN,
    source=WAS_READ,
)
DEDICATED_NO_OWNER = Rule(
    "idxd.dedicated-disabled",
    "the device's portal",
    "WQCFG.pasid is not set: the queue is disabled",
    "the dedicated queue of {dev} has no owner and is disabled",
    source=WAS_READ,
)


DEDICATED_USED = Rule(
    "idxd.dedicated-used",
    "the device's portal",
    "the queue is dedicated: WQCFG.pasid counts, not what the write carries",
    "{dev} works under PASID {pasid} of WQCFG",
    source=WAS_READ,
)


@dataclass(slots=True, eq=False, repr=False)
class Idxd(Endpoint):
    """A DSA or IAA instance with one work queue.

    Attributes:
        queue: shared (PASID from each write) or dedicated (PASID from WQCFG).
        takes_kernel_pasid: the driver takes a number for kernel work queues at probe.
        kernel_pasid: that number, or None.
        wqcfg_pasid, owner: of a dedicated queue that is in use.
    """

    queue: Literal["shared", "dedicated"] = "shared"
    takes_kernel_pasid: bool = True
    kernel_pasid: int | None = None
    wqcfg_pasid: int | None = None
    owner: MmStruct | None = None

    def probe(self) -> Refusal | None:
        """Take the kernel's number and attach the RID domain to it; a failure only warns."""
        dev = self.dev
        if not self.takes_kernel_pasid or dev.iommu_group is None:
            return None
        pasid = iommu_alloc_global_pasid(dev)
        if pasid == IOMMU_PASID_INVALID:
            dev.kernel.warn("idxd_enable_system_pasid", f"{dev.name} got no number for the kernel")
            return SYSTEM_PASID_NONE.refuse(dev=dev.name)
        domain = dev.iommu_group.domain
        assert domain is not None
        refusal = iommu_attach_device_pasid(domain, dev, pasid)
        if refusal:
            iommu_free_global_pasid(dev.kernel, pasid)
            return refusal
        self.kernel_pasid = pasid
        self.own_numbers.take(pasid)
        dev.kernel.global_users[pasid] = f"idxd ({dev.name}, kernel work queues)"
        return None

    def open(self, mm: MmStruct) -> IommuSva | Refusal:
        """Bind; a dedicated queue has one owner, and gets its number."""
        if self.queue == "shared":
            return Endpoint.open(self, mm)
        if self.owner is not None:
            return DEDICATED_BUSY.refuse(dev=self.dev.name, owner=self.owner.name)
        handle = Endpoint.open(self, mm)
        if isinstance(handle, IommuSva):
            self.owner, self.wqcfg_pasid = mm, handle.pasid
        return handle

    def release(self, handle: IommuSva) -> None:
        """Drain the queue and unbind; a dedicated queue is disabled first."""
        if self.owner is handle.mm:
            self.owner = self.wqcfg_pasid = None
        Endpoint.release(self, handle)

    def receive(self, store: Store, work: Work) -> Done | Verdict | None:
        """Take a write; a dedicated queue works under WQCFG's number, whatever the write carries."""
        if self.queue == "shared":
            return Endpoint.receive(self, store, work)
        if not store.posted:
            return DEDICATED_RETRY.refuse(dev=self.dev.name)
        if self.wqcfg_pasid is None:
            return Faulted(DEDICATED_NO_OWNER, {"dev": self.dev.name})
        return self._access_by(DEDICATED_USED, self.wqcfg_pasid, work)

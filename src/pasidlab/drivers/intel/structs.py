"""iommu.h and pasid.h: the structures of the driver; what is done with them is in the other modules.

Source: drivers/iommu/intel/iommu.h, pasid.h, Linux 6.12.117 and 7.3.4.
Not modelled: locks, segments, aliases of devices, and what belongs to features that the modules beside this one leave
out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pasidlab.drivers.intel.cap_audit import CapAudit
from pasidlab.hw.vtd.registers import REGISTERS, Cap, Ecap, Gcmd, Offset
from pasidlab.linux.iopf import IopfQueue
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.structs import Device, DomainType, IommuDomain, IommuDomainOps, IommuOps
from pasidlab.pasid import PasidSpace
from pasidlab.rules import Refusal, Rule

if TYPE_CHECKING:
    from pasidlab.drivers.intel.dma_pte import DmaPageTable
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.mmu_notifier import MmuNotifier

VTD_PAGE_SHIFT = 12
VTD_PAGE_SIZE = 1 << VTD_PAGE_SHIFT
MAX_AGAW_PFN_WIDTH = 64 - VTD_PAGE_SHIFT
"""log2 of the pages of everything."""
FLPT_DEFAULT_DID = 1
"""Domain identifier of everything that needs none of its own: SVA, and pass-through."""
FIRST_DID = FLPT_DEFAULT_DID + 1
"""IDA_START_DID: 0 is kept for entries that are not present (caching mode), 1 is the default."""
ATS_QUEUE_DEPTH = 0
"""MIP of an invalidation for a device that takes 32 at a time, the most that there are."""


# --- one unit ------------------------------------------------------------------------------------------------


class Registers(Protocol):
    """The memory-mapped registers of a remapping unit."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Read a register."""

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write a register."""


@dataclass(slots=True, eq=False, repr=False)
class QInval:
    """`struct q_inval`: where the queue and the status words lie, and the next descriptor's index."""

    desc: int
    desc_status: int
    free_head: int = 0


@dataclass(slots=True, eq=False, repr=False)
class IntelIommu:
    """`struct intel_iommu`: one remapping unit as its driver knows it; made by `intel_iommu_init()`.

    Attributes:
        audit: what all units of the machine have in common.
        agaw: width of its tables, as AW says it: 1 is 39 bits, 2 is 48, 3 is 57.
        root_entry: the root table.
        gcmd: what was last written to GCMD of what stays switched on.
        prq: the page request queue, if there is one.
        domain_ids: the domain identifiers in use.
        svm_refused: why it cannot share page tables with the CPUs; None is VTD_FLAG_SVM_CAPABLE.
        device_rbtree: its devices by source identifier.
        reported: what the core said to the page request that was reported last.
    """

    kernel: Kernel
    name: str
    registers: Registers
    audit: CapAudit
    cap: Cap
    ecap: Ecap
    agaw: int
    root_entry: int
    qi: QInval
    gcmd: Gcmd = field(default_factory=Gcmd)
    prq: int | None = None
    iopf_queue: IopfQueue = field(default_factory=IopfQueue)
    domain_ids: PasidSpace = field(default_factory=PasidSpace)
    svm_refused: Rule | None = None
    device_rbtree: dict[int, DeviceDomainInfo] = field(default_factory=dict)
    reported: Refusal | None = None

    def mmio_read(self, offset: Offset) -> int:
        """Read a register (readl or readq, by its size)."""
        return self.registers.mmio_read(offset, REGISTERS[offset].SIZE // 8)

    def mmio_write(self, offset: Offset, value: int) -> None:
        """Write a register (writel or writeq, by its size)."""
        self.registers.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)

    @property
    def sm_supported(self) -> bool:
        """Whether it works in scalable mode, which the kernel uses wherever there is it."""
        return self.ecap.smts

    @property
    def pasid_supported(self) -> bool:
        """Whether requests may carry PASIDs."""
        return self.sm_supported and self.ecap.pasid


# --- devices and domains -------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, repr=False)
class PasidTable:
    """`struct pasid_table`: the directory, its order in pages, and one more than the largest PASID it has room for."""

    table: int
    order: int
    max_pasid: int


@dataclass(slots=True, eq=False, repr=False)
class DeviceDomainInfo:
    """`struct device_domain_info`: one device behind a unit.

    Attributes:
        source_id: bus, device and function of its requests.
        pasid_supported, ats_supported, pri_supported: device and unit have it.
        pasid_enabled, ats_enabled, pri_enabled: it is on in the device.
        domain: the paging domain of its traffic without PASID, if that is what it has.
        domain_attached: its traffic without PASID has any domain but the blocked one.
        iopf_refcount: attachments whose domain has a fault handler.
    """

    iommu: IntelIommu
    dev: Device
    source_id: int
    pasid_supported: bool
    ats_supported: bool
    pri_supported: bool
    pasid_enabled: bool = False
    ats_enabled: bool = False
    pri_enabled: bool = False
    pasid_table: PasidTable | None = None
    domain: DmarDomain | None = None
    domain_attached: bool = False
    iopf_refcount: int = 0


class CacheTagType(Enum):
    """`enum cache_tag_type`."""

    IOTLB = "IOTLB"
    DEVTLB = "device TLB"


class CacheTag(NamedTuple):
    """`struct cache_tag`: one place that caches what a domain maps; `info` is the device of a device TLB."""

    type: CacheTagType
    iommu: IntelIommu
    domain_id: int
    pasid: int
    info: DeviceDomainInfo | None = None


class DevPasidInfo(NamedTuple):
    """`struct dev_pasid_info`: one attachment of a domain to (device, PASID)."""

    info: DeviceDomainInfo
    pasid: int


@dataclass(slots=True, eq=False, repr=False)
class IommuDomainInfo:
    """`struct iommu_domain_info`: the domain identifier of a domain on one unit, and how many attachments use it."""

    did: int
    refcnt: int = 1


class DmarDomain(IommuDomain):
    """`struct dmar_domain`.

    `use_first_level` says which kind of table it has; `table` is the kernel's own, `notifier` watches the mm of an SVA
    domain. `dids` are its identifiers by unit, `cache_tags` the places that cache it with the number of their users,
    `dev_pasids` its attachments to PASIDs. `gaw` is how wide its addresses are, `agaw` the levels of its table as AW
    says them; both, and whether tables must be coherent, decide about the units that can use it.
    """

    __slots__ = (
        "agaw",
        "cache_tags",
        "coherent",
        "dev_pasids",
        "dids",
        "gaw",
        "notifier",
        "superpage",
        "table",
        "use_first_level",
    )

    def __init__(
        self,
        type: DomainType,
        owner: IommuOps,
        ops: IommuDomainOps,
        *,
        id: int,
        use_first_level: bool,
        mm: MmStruct | None = None,
    ) -> None:
        super().__init__(type, owner, ops, id=id, mm=mm)
        self.use_first_level = use_first_level
        self.agaw = 0
        self.gaw = 0
        self.coherent = True
        self.superpage = 0
        self.table: DmaPageTable | None = None
        self.notifier: MmuNotifier | None = None
        self.dids: dict[IntelIommu, IommuDomainInfo] = {}
        self.cache_tags: dict[CacheTag, int] = {}
        self.dev_pasids: list[DevPasidInfo] = []

    def did_on(self, iommu: IntelIommu) -> int:
        """Return its identifier on a unit (domain_get_id_for_dev()); SVA has the default one."""
        if self.has_default_did(iommu):
            return FLPT_DEFAULT_DID
        return self.dids[iommu].did

    def has_default_did(self, iommu: IntelIommu) -> bool:
        """Whether it shares the default identifier with all domains of processes."""
        return self.type is DomainType.SVA and iommu.kernel.scheme.shares_vtd_did

"""arm-smmu-v3.h: the structures of the driver, of devices and domains; what is done with them is in the other modules.

Source: drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h, Linux 6.12.117 and 7.3.4.
Not modelled: locks, and what belongs to features that the modules beside this one leave out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pasidlab.drivers.arm_smmu_v3.entries import CdTable, CpuRegisters, Features
from pasidlab.hw.smmuv3.registers import REGISTERS, Offset
from pasidlab.linux.iopf import IopfQueue
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.structs import Device, DomainType, IommuDomain, IommuDomainOps, IommuOps
from pasidlab.pasid import PasidSpace

if TYPE_CHECKING:
    from pasidlab.drivers.io_pgtable_arm import ArmLpaeTable
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.mmu_notifier import MmuNotifier

STRTAB_SPLIT = 8
STRTAB_STE_BYTES = 64


# --- one SMMU ------------------------------------------------------------------------------------------------


class Registers(Protocol):
    """The memory-mapped registers of the SMMU."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Read a register."""

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write a register."""


@dataclass(slots=True, eq=False, repr=False)
class CmdQueue:
    """`struct arm_smmu_cmdq`: where the queue lies, log2 of its entries, and how far it was written."""

    base: int
    max_n_shift: int
    prod: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Queue:
    """`struct arm_smmu_queue` of events or page requests: where it lies, log2 of its entries, how far it was read."""

    base: int
    max_n_shift: int
    cons: int = 0


@dataclass(slots=True, eq=False, repr=False)
class StrtabCfg:
    """`struct arm_smmu_strtab_cfg`: the stream table; `l2` has the address of each level 2 table by its index."""

    base: int
    log2size: int
    two_level: bool
    l2: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False, repr=False)
class ArmSmmuDevice:
    """`struct arm_smmu_device`: one SMMU as its driver knows it; made by `arm_smmu_device_probe()`.

    Attributes:
        features: what decides about entries.
        ssid_bits, sid_bits, asid_bits, vmid_bits, oas_bits: widths.
        two_level_cds: FEAT_2_LVL_CDTAB.
        range_inv, ats, pri, coherent: FEAT_RANGE_INV, FEAT_ATS, FEAT_PRI, FEAT_COHERENCY.
        granules: log2 of each granule (pgsize_bitmap).
        cpu: what SVA takes from the CPU.
        vmid_map: the VMIDs in use.
        detach: the steps in which entries are taken away; None is Linux's own order, all else an experiment.
    """

    kernel: Kernel
    name: str
    registers: Registers
    features: Features
    ssid_bits: int
    sid_bits: int
    asid_bits: int
    vmid_bits: int
    oas_bits: int
    two_level_cds: bool
    range_inv: bool
    ats: bool
    pri: bool
    coherent: bool
    granules: frozenset[int]
    cpu: CpuRegisters
    cmdq: CmdQueue
    evtq: Queue
    priq: Queue
    strtab: StrtabCfg
    vmid_map: PasidSpace = field(default_factory=PasidSpace)
    iopf_queue: IopfQueue = field(default_factory=IopfQueue)
    detach: tuple[str, ...] | None = None

    def mmio_read(self, offset: Offset) -> int:
        """Read a register (readl or readq, by its size)."""
        return self.registers.mmio_read(offset, REGISTERS[offset].SIZE // 8)

    def mmio_write(self, offset: Offset, value: int) -> None:
        """Write a register (writel or writeq, by its size)."""
        self.registers.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)

    def ste_address(self, sid: int) -> int:
        """Return where an STE lies; its level 2 table has been made."""
        if not self.strtab.two_level:
            return self.strtab.base + sid * STRTAB_STE_BYTES
        index = sid & (1 << STRTAB_SPLIT) - 1
        return self.strtab.l2[sid >> STRTAB_SPLIT] + index * STRTAB_STE_BYTES


# --- invalidation --------------------------------------------------------------------------------------------


class InvType(IntEnum):
    """`enum arm_smmu_inv_type`, in the order in which the commands are issued."""

    S1_ASID = 0
    S2_VMID = 1
    ATS = 2


class Inv(NamedTuple):
    """`struct arm_smmu_inv`: one thing to invalidate; `id` is an ASID, a VMID or a StreamID."""

    smmu: ArmSmmuDevice
    type: InvType
    id: int
    ssid: int = 0


@dataclass(slots=True)
class Invs:
    """`struct arm_smmu_invs`: things to invalidate, each with the number of attachments that need it."""

    users: dict[Inv, int] = field(default_factory=dict)

    def merge(self, added: Invs) -> None:
        """arm_smmu_invs_merge()."""
        for inv, count in added.users.items():
            self.users[inv] = self.users.get(inv, 0) + count

    def unref(self, released: Invs) -> list[Inv]:
        """arm_smmu_invs_unref(): drop attachments; returns what nobody needs any more."""
        last = []
        for inv, count in released.users.items():
            self.users[inv] -= count
            if not self.users[inv]:
                del self.users[inv]
                last.append(inv)
        return last

    def in_order(self) -> list[Inv]:
        """Return the entries by SMMU, type, id and SSID."""
        return sorted(self.users, key=lambda inv: (inv.smmu.name, inv.type, inv.id, inv.ssid))


# --- devices and domains -------------------------------------------------------------------------------------


class Stage(Enum):
    """`enum arm_smmu_domain_stage`."""

    S1 = "stage 1"
    S2 = "stage 2"
    SVA = "the page table of a process"


class ArmSmmuDomain(IommuDomain):
    """`struct arm_smmu_domain`.

    `asid` tags stage 1, `vmid` stage 2; `table` is the kernel's own page table, `notifier` watches the mm of an SVA
    domain; `devices` are its attachments, the newest first (6.12 walks them), `invs` what 7.3 invalidates when its
    table changes.
    """

    __slots__ = ("asid", "devices", "invs", "notifier", "smmu", "stage", "table", "vmid")

    def __init__(
        self,
        smmu: ArmSmmuDevice,
        stage: Stage,
        type: DomainType,
        owner: IommuOps,
        ops: IommuDomainOps,
        *,
        id: int,
        mm: MmStruct | None = None,
    ) -> None:
        super().__init__(type, owner, ops, id=id, mm=mm)
        self.smmu = smmu
        self.stage = stage
        self.asid = 0
        self.vmid = 0
        self.table: ArmLpaeTable | None = None
        self.notifier: MmuNotifier | None = None
        self.devices: list[ArmSmmuMasterDomain] = []
        self.invs = Invs()


@dataclass(slots=True, eq=False, repr=False)
class ArmSmmuMasterDomain:
    """`struct arm_smmu_master_domain`: one attachment of a domain to (device, SSID)."""

    master: ArmSmmuMaster
    domain: ArmSmmuDomain
    ssid: int


@dataclass(slots=True, eq=False, repr=False)
class ArmSmmuMaster:
    """`struct arm_smmu_master`: one device behind an SMMU.

    Attributes:
        streams: its StreamIDs.
        ssid_bits: width of the SSIDs that its CD table has room for.
        stall_enabled: its faults stall.
        ats_supported: the device has ATS, and so has the SMMU.
        ats_enabled: what its domains and invalidations reckon with.
        pci_ats: ATS is on in the device.
        cd_table: where the CD table is, once it is made; `cd_leaves` are the level 2 tables by their index.
        used_ssids: valid CDs but that of SSID 0.
        rid_domain: what the traffic without PASID is attached to.
        master_domains: what is attached, by SSID.
        fault_users: attachments whose domain has a fault handler.
    """

    smmu: ArmSmmuDevice
    dev: Device
    streams: tuple[int, ...]
    ssid_bits: int
    stall_enabled: bool
    ats_supported: bool
    ats_enabled: bool = False
    pci_ats: bool = False
    cd_table: CdTable | None = None
    cd_leaves: dict[int, int] = field(default_factory=dict)
    used_ssids: int = 0
    rid_domain: IommuDomain | None = None
    master_domains: dict[int, ArmSmmuMasterDomain] = field(default_factory=dict)
    fault_users: int = 0

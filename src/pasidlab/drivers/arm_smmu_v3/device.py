"""`struct arm_smmu_device`: one SMMU as its driver knows it, from ID registers to a running translation.

The driver reaches the hardware through registers and memory only.

Source: arm_smmu_device_hw_probe(), arm_smmu_init_structures(), arm_smmu_device_reset(), arm_smmu_sva_supported(),
Linux 6.12.117 and 7.3.4.
Not modelled: implementations with quirks (Tegra, HiSilicon erratum), EL2 (VHE) operation, power management, kdump.
"""

from __future__ import annotations

from pasidlab.drivers.arm_smmu_v3.cmdq import CMDQ_ENT_BYTES, arm_smmu_cmdq_issue_cmd_with_sync
from pasidlab.drivers.arm_smmu_v3.entries import CpuRegisters, Features, arm_smmu_make_abort_ste
from pasidlab.drivers.arm_smmu_v3.structs import (
    STRTAB_SPLIT,
    STRTAB_STE_BYTES,
    ArmSmmuDevice,
    CmdQueue,
    Queue,
    Registers,
    StrtabCfg,
)
from pasidlab.drivers.io_pgtable_arm import ARM_LPAE_TCR_TG0
from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3.commands import CFGI_ALL_RANGE, CfgiSteRange, TlbiNsnhAll
from pasidlab.hw.smmuv3.registers import (
    Cacheability,
    CmdqBase,
    Cr0,
    Cr1,
    Cr2,
    EventqBase,
    Idr0,
    Idr1,
    Idr3,
    Idr5,
    IrqCtrl,
    Offset,
    PriqBase,
    StallModel,
    StLevel,
    StrtabBase,
    StrtabBaseCfg,
    StrtabFmt,
)
from pasidlab.hw.smmuv3.structures import OAS_BITS, AddressSize, L1Std, Ste
from pasidlab.linux import pgtable_arm64
from pasidlab.linux.kernel import Kernel

STRTAB_MAX_L1_ENTRIES = 1 << 17
STRTAB_L1_DESC_BYTES = 8
EVTQ_ENT_BYTES = 32
PRIQ_ENT_BYTES = 16
CPU_ASID_BITS = 16
"""ID_AA64MMFR0_EL1.ASIDBits of the modelled CPUs."""
CPU_PARANGE = AddressSize.BITS_48
_WB, _ISH = Cacheability.WB, Shareability.ISH


def arm_smmu_device_probe(kernel: Kernel, name: str, registers: Registers) -> ArmSmmuDevice:
    """Read the ID registers, make queues and stream table, and switch translation on."""
    idr0 = Idr0(registers.mmio_read(Offset.IDR0, 4))
    idr1 = Idr1(registers.mmio_read(Offset.IDR1, 4))
    idr3 = Idr3(registers.mmio_read(Offset.IDR3, 4))
    idr5 = Idr5(registers.mmio_read(Offset.IDR5, 4))
    smmu = ArmSmmuDevice(
        kernel,
        name,
        registers,
        _entry_features(idr0, idr1),
        ssid_bits=idr1.ssidsize,
        sid_bits=idr1.sidsize,
        asid_bits=16 if idr0.asid16 else 8,
        vmid_bits=16 if idr0.vmid16 else 8,
        oas_bits=OAS_BITS[idr5.oas],
        two_level_cds=idr0.cd2l,
        range_inv=idr3.ril,
        ats=idr0.ats,
        pri=idr0.pri,
        coherent=idr0.cohacc,
        granules=frozenset(g for g, has in ((12, idr5.gran4k), (14, idr5.gran16k), (16, idr5.gran64k)) if has),
        cpu=cpu_registers(kernel),
        cmdq=CmdQueue(alloc_bytes(kernel, CMDQ_ENT_BYTES << idr1.cmdqs), idr1.cmdqs),
        evtq=Queue(alloc_bytes(kernel, EVTQ_ENT_BYTES << idr1.eventqs), idr1.eventqs),
        priq=Queue(alloc_bytes(kernel, PRIQ_ENT_BYTES << idr1.priqs), idr1.priqs),
        strtab=arm_smmu_init_strtab(kernel, idr1.sidsize, _two_level_streams(idr0, idr1)),
    )
    arm_smmu_device_reset(smmu)
    return smmu


def _two_level_streams(idr0: Idr0, idr1: Idr1) -> bool:
    """FEAT_2_LVL_STRTAB, which StreamIDs that fit into one level 2 table do without."""
    return idr0.st_level is StLevel.TWO_LEVEL and idr1.sidsize > STRTAB_SPLIT


def _entry_features(idr0: Idr0, idr1: Idr1) -> Features:
    return Features(
        attr_types_ovr=idr1.attr_types_ovr,
        stalls=idr0.stall_model in (StallModel.STALL_AND_TERMINATE, StallModel.STALL_FORCED),
        stall_force=idr0.stall_model is StallModel.STALL_FORCED,
        ha=idr0.httu >= 1,
        hd=idr0.httu >= 2,
        haft=idr0.httu >= 3,
    )


def cpu_registers(kernel: Kernel) -> CpuRegisters:
    """Return the system registers of the modelled CPUs: 48-bit virtual and physical addresses, no FEAT_HAFT."""
    tg0 = ARM_LPAE_TCR_TG0[kernel.page_shift]
    return CpuRegisters(t0sz=64 - pgtable_arm64.VA_BITS, tg0=tg0, ips=CPU_PARANGE, mair=pgtable_arm64.MAIR_EL1)


def alloc_bytes(kernel: Kernel, size: int) -> int:
    """Return the address of zeroed memory, aligned to the power of two that holds `size` (dma_alloc_coherent)."""
    pages = max(-(-size >> kernel.page_shift), 1)
    return kernel.page_alloc.alloc_pages((pages - 1).bit_length())


# --- the stream table ----------------------------------------------------------------------------------------


def arm_smmu_init_strtab(kernel: Kernel, sid_bits: int, two_level: bool) -> StrtabCfg:
    """Make the stream table; a linear one is filled with entries that abort."""
    if not two_level:
        base = alloc_bytes(kernel, STRTAB_STE_BYTES << sid_bits)
        _fill_with_abort(kernel, base, 1 << sid_bits)
        return StrtabCfg(base, sid_bits, two_level=False)
    l1_entries = min(STRTAB_MAX_L1_ENTRIES, 1 << sid_bits - STRTAB_SPLIT)
    base = alloc_bytes(kernel, l1_entries * STRTAB_L1_DESC_BYTES)
    return StrtabCfg(base, l1_entries.bit_length() - 1 + STRTAB_SPLIT, two_level=True)


def arm_smmu_init_l2_strtab(smmu: ArmSmmuDevice, sid: int) -> None:
    """Make the level 2 table for a stream, filled with entries that abort, unless it is there."""
    index = sid >> STRTAB_SPLIT
    if not smmu.strtab.two_level or index in smmu.strtab.l2:
        return
    table = alloc_bytes(smmu.kernel, STRTAB_STE_BYTES << STRTAB_SPLIT)
    _fill_with_abort(smmu.kernel, table, 1 << STRTAB_SPLIT)
    smmu.strtab.l2[index] = table
    descriptor = L1Std(span=STRTAB_SPLIT + 1, l2ptr=table)
    smmu.kernel.memory.store64(smmu.strtab.base + index * STRTAB_L1_DESC_BYTES, descriptor)


def _fill_with_abort(kernel: Kernel, base: int, count: int) -> None:
    if not kernel.memory.store(base, arm_smmu_make_abort_ste().pack() * count):
        raise ModelError(f"the stream table at {base:#x} cannot be written")


def read_ste(smmu: ArmSmmuDevice, sid: int) -> Ste:
    """Return an STE as it lies in memory."""
    raw = smmu.kernel.memory.load(smmu.ste_address(sid), STRTAB_STE_BYTES)
    if raw is None:
        raise ModelError(f"the STE of stream {sid:#x} cannot be read")
    return Ste.unpack(raw)


# --- reset ---------------------------------------------------------------------------------------------------


def arm_smmu_device_reset(smmu: ArmSmmuDevice) -> None:
    """Bring the SMMU up from reset: tables, queues one by one, caches emptied, translation last."""
    write = smmu.mmio_write
    write(Offset.CR0, Cr0())
    write(Offset.CR1, Cr1(table_sh=_ISH, table_oc=_WB, table_ic=_WB, queue_sh=_ISH, queue_oc=_WB, queue_ic=_WB))
    write(Offset.CR2, Cr2(ptm=True, recinvsid=True))
    strtab = smmu.strtab
    write(Offset.STRTAB_BASE, StrtabBase(addr=strtab.base, ra=True))
    fmt = StrtabFmt.TWO_LEVEL if strtab.two_level else StrtabFmt.LINEAR
    split = STRTAB_SPLIT if strtab.two_level else 0
    write(Offset.STRTAB_BASE_CFG, StrtabBaseCfg(fmt=fmt, split=split, log2size=strtab.log2size))

    write(Offset.CMDQ_BASE, CmdqBase(addr=smmu.cmdq.base, log2size=smmu.cmdq.max_n_shift, ra=True))
    write(Offset.CMDQ_PROD, 0)
    write(Offset.CMDQ_CONS, 0)
    enables = _enable(smmu, Cr0(cmdqen=True))
    arm_smmu_cmdq_issue_cmd_with_sync(smmu, CfgiSteRange.make(range=CFGI_ALL_RANGE))
    arm_smmu_cmdq_issue_cmd_with_sync(smmu, TlbiNsnhAll.make())

    write(Offset.EVENTQ_BASE, EventqBase(addr=smmu.evtq.base, log2size=smmu.evtq.max_n_shift, wa=True))
    write(Offset.EVENTQ_PROD, 0)
    write(Offset.EVENTQ_CONS, 0)
    enables = _enable(smmu, enables.replace(eventqen=True))
    if smmu.pri:
        write(Offset.PRIQ_BASE, PriqBase(addr=smmu.priq.base, log2size=smmu.priq.max_n_shift, wa=True))
        write(Offset.PRIQ_PROD, 0)
        write(Offset.PRIQ_CONS, 0)
        enables = _enable(smmu, enables.replace(priqen=True))
    if smmu.ats:
        enables = _enable(smmu, enables.replace(atschk=True))
    write(Offset.IRQ_CTRL, IrqCtrl(gerror_irqen=True, eventq_irqen=True, priq_irqen=smmu.pri))
    _enable(smmu, enables.replace(smmuen=True))


def _enable(smmu: ArmSmmuDevice, enables: Cr0) -> Cr0:
    """arm_smmu_write_reg_sync(): write CR0 and wait for CR0ACK."""
    smmu.mmio_write(Offset.CR0, enables)
    if smmu.mmio_read(Offset.CR0ACK) != enables:
        raise ModelError(f"{smmu.name} does not acknowledge {enables!r}")
    return enables


# --- SVA -----------------------------------------------------------------------------------------------------


def arm_smmu_sva_supported(smmu: ArmSmmuDevice) -> bool:
    """FEAT_SVA: the SMMU can walk the CPU's page tables as the CPU does."""
    return not arm_smmu_sva_lacks(smmu)


def arm_smmu_sva_lacks(smmu: ArmSmmuDevice) -> list[str]:
    """Return what keeps FEAT_SVA away, in words: the kernel's options, coherency, page size, widths as the CPU's."""
    wanted = {
        "the kernel was built without CONFIG_ARM_SMMU_V3_SVA": "ARM_SMMU_V3_SVA" not in smmu.kernel.not_built,
        "its walks are not coherent (IDR0.COHACC)": smmu.coherent,
        "it has no tables of the kernel's page size (IDR5)": smmu.kernel.page_shift in smmu.granules,
        "its addresses are narrower than the CPU's (IDR5.OAS)": smmu.oas_bits >= OAS_BITS[CPU_PARANGE],
        "its ASIDs are narrower than the CPU's (IDR0.ASID16)": smmu.asid_bits >= CPU_ASID_BITS,
    }
    return [words for words, met in wanted.items() if not met]

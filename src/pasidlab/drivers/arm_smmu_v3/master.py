"""`struct arm_smmu_master`: one device behind an SMMU, its streams, its CD table, its STEs.

Source: arm_smmu_probe_device(), arm_smmu_alloc_cd_tables(), arm_smmu_alloc_cd_ptr(), arm_smmu_write_cd_entry(),
arm_smmu_clear_cd(), arm_smmu_write_ste(), arm_smmu_install_ste_for_dev(), Linux 6.12.117 and 7.3.4.
Not modelled: release of a device; streams that alias between devices; `ats_always_on` (7.3).
"""

from __future__ import annotations

from pasidlab.drivers.arm_smmu_v3.cmdq import (
    CmdqBatch,
    arm_smmu_cmdq_batch_submit,
    arm_smmu_cmdq_issue_cmd,
    arm_smmu_cmdq_issue_cmd_with_sync,
)
from pasidlab.drivers.arm_smmu_v3.device import (
    alloc_bytes,
    arm_smmu_init_l2_strtab,
    arm_smmu_sva_lacks,
    read_ste,
)
from pasidlab.drivers.arm_smmu_v3.entries import CdTable
from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDevice, ArmSmmuMaster
from pasidlab.drivers.arm_smmu_v3.writer import arm_smmu_cd_writer, arm_smmu_ste_writer, arm_smmu_write_entry
from pasidlab.errors import Errno, ModelError
from pasidlab.hw.smmuv3.commands import CfgiCd, CfgiSte, PrefetchConfig
from pasidlab.hw.smmuv3.structures import Cd, L1Cd, S1Fmt, Ste
from pasidlab.linux.pci_ats import enable_pasid_at_probe, pasid_width
from pasidlab.linux.structs import IOMMU_NO_PASID, Device
from pasidlab.rules import WAS_READ, Level, Refusal, Rule

CD_BYTES = 64
L1_DESC_BYTES = 8
CTXDESC_L2_ENTRIES = 1024
CTXDESC_LINEAR_BITS = 10
"""Without two-level CD tables a device gets at most 2^10 CDs, 64 KiB."""

CD_NO_MEMORY = Rule(
    "arm-smmu-v3.cd-no-memory",
    "arm_smmu_alloc_cd_ptr (drivers/iommu/arm/arm-smmu-v3)",
    "no memory for the CD table or its leaf",
    "no memory for the context descriptor of PASID {pasid} of {dev}",
    Errno.ENOMEM,
    source=WAS_READ,
    remedy="free memory, and try again: a leaf of the CD table takes 64 KiB in one piece",
)
CD_OUT_OF_BOUNDS = Rule(
    "arm-smmu-v3.cd-out-of-bounds",
    "arm_smmu_get_cd_ptr (drivers/iommu/arm/arm-smmu-v3)",
    "ssid >= 1 << s1cdmax of a linear table: the driver has no check of its own",
    "the core let {dev} have PASID {pasid}, and its CD table ends at {last}: the driver writes 64 bytes at {place:#x}, "
    "which is not its memory, and the SMMU refuses the PASID",
    source=WAS_READ,
    remedy="keep numbers below the limit that arm-smmu-v3.two-limits names, or boot so that both limits agree",
)


TWO_LIMITS = Rule(
    "arm-smmu-v3.two-limits",
    "arm_smmu_probe_device (drivers/iommu/arm/arm-smmu-v3)",
    "dev->iommu->max_pasids > 1 << master->ssid_bits",
    "the core believes that {dev} has PASIDs below {core}, its CD table has room for those below {driver}: {cause}",
    source=WAS_READ,
    remedy="make pci_enable_pasid() succeed; with a linear CD table, do not bind more than 1,023 processes at a time",
    level=Level.ERROR,
)
NO_FAULT_PATH = Rule(
    "arm-smmu-v3.no-fault-path",
    "arm_smmu_enable_iopf (drivers/iommu/arm/arm-smmu-v3)",
    "!master->stall_enabled: neither stall nor PRI",
    "{dev} has PASIDs and cannot wait for pages: SVA is allowed, and an access to a page that is not there is lost",
    source=WAS_READ,
    remedy="let firmware say dma-can-stall if the device can wait, or pin the memory that the device uses",
)
ATS_DOES_NOT_STALL = Rule(
    "arm-smmu-v3.ats-does-not-stall",
    "IHI 0070 G.b, 3.12; arm_smmu_handle_ppr (drivers/iommu/arm/arm-smmu-v3)",
    "master->ats_supported && master->stall_enabled",
    "{dev} uses ATS, whose requests never stall, and the driver denies page requests: an access to a page that is not "
    "there is lost, although firmware lets the device stall",
    source=WAS_READ,
    remedy="pin the memory that the device uses, or switch its ATS off (pci=noats) so that it stalls",
)
NO_SVA = Rule(
    "arm-smmu-v3.sva-lacking",
    "arm_smmu_sva_supported (drivers/iommu/arm/arm-smmu-v3)",
    "!ARM_SMMU_FEAT_SVA",
    "{dev} has PASIDs, but its SMMU cannot share page tables with this CPU: {lacking}",
    source=WAS_READ,
    remedy="what hardware lacks is final; the page size is chosen by CONFIG_ARM64_4K_PAGES and the like",
)


def arm_smmu_probe_device(
    smmu: ArmSmmuDevice, dev: Device, streams: tuple[int, ...], *, can_stall: bool, ats: bool
) -> ArmSmmuMaster:
    """Meet a device: how many SSIDs, whether it stalls; its STEs abort until a domain is attached."""
    for sid in streams:
        arm_smmu_init_l2_strtab(smmu, sid)
    stalls = smmu.features.stall_force or (smmu.features.stalls and can_stall)
    if dev.pci:
        enable_pasid_at_probe(dev)
    bits = _ssid_bits(smmu, dev)
    master = ArmSmmuMaster(smmu, dev, streams, bits, stalls, ats and smmu.ats)
    _report_mismatches(master)
    return master


def _report_mismatches(master: ArmSmmuMaster) -> None:
    """Tell what of a device will surprise whoever binds it."""
    smmu, dev = master.smmu, master.dev
    room = 1 << master.ssid_bits
    if dev.max_pasids > room:
        cause = _cause_of_two_limits(master)
        smmu.kernel.found(TWO_LIMITS, dev=dev.name, core=dev.max_pasids, driver=room, cause=cause)
    if dev.max_pasids <= 1:
        return
    lacking = arm_smmu_sva_lacks(smmu)
    if lacking:
        smmu.kernel.found(NO_SVA, dev=dev.name, lacking=", ".join(lacking))
    elif not master.stall_enabled:
        smmu.kernel.found(NO_FAULT_PATH, dev=dev.name)
    elif master.ats_supported:
        smmu.kernel.found(ATS_DOES_NOT_STALL, dev=dev.name)


def _cause_of_two_limits(master: ArmSmmuMaster) -> str:
    if master.dev.pasid_refused is not None:
        return f"pci_enable_pasid() failed: {master.dev.pasid_refused.why}"
    if not master.smmu.two_level_cds and master.ssid_bits == CTXDESC_LINEAR_BITS:
        return "the SMMU has no two-level CD tables"
    return "the machine's description gives the SMMU more PASIDs than it has SubstreamID bits for"


def _ssid_bits(smmu: ArmSmmuDevice, dev: Device) -> int:
    """Return min(device, SMMU), and at most 10 without two-level CD tables; the core's max_pasids is not lowered."""
    width = pasid_width(dev) if dev.pci else dev.pasid_num_bits
    bits = min(width or 0, smmu.ssid_bits) if dev.pasid_refused is None else 0
    return bits if smmu.two_level_cds else min(bits, CTXDESC_LINEAR_BITS)


# --- the CD table --------------------------------------------------------------------------------------------


def arm_smmu_alloc_cd_tables(master: ArmSmmuMaster) -> CdTable:
    """Make the CD table: linear up to 1024 entries, else two levels with leaves of 64 KiB; it lives as the device."""
    if master.cd_table is not None:
        return master.cd_table
    kernel, entries = master.smmu.kernel, 1 << master.ssid_bits
    if entries <= CTXDESC_L2_ENTRIES:
        base, fmt = alloc_bytes(kernel, entries * CD_BYTES), S1Fmt.LINEAR
    else:
        base, fmt = alloc_bytes(kernel, entries // CTXDESC_L2_ENTRIES * L1_DESC_BYTES), S1Fmt.LEAF_64K
    master.cd_table = CdTable(cdtab_dma=base, s1fmt=fmt, s1cdmax=master.ssid_bits)
    return master.cd_table


def arm_smmu_alloc_cd_ptr(master: ArmSmmuMaster, ssid: int) -> int | Refusal:
    """Return where the CD of an SSID lies, with its leaf made and announced on first use."""
    kernel = master.smmu.kernel
    if master.cd_table is None and kernel.allocation_fails():
        return CD_NO_MEMORY.refuse(dev=master.dev.name, pasid=ssid)
    table = arm_smmu_alloc_cd_tables(master)
    if not _has_leaf(master, table, ssid):
        if kernel.allocation_fails():
            return CD_NO_MEMORY.refuse(dev=master.dev.name, pasid=ssid)
        _add_leaf(master, table, ssid)
    return arm_smmu_get_cd_ptr(master, ssid)


def _has_leaf(master: ArmSmmuMaster, table: CdTable, ssid: int) -> bool:
    return table.s1fmt is not S1Fmt.LEAF_64K or ssid // CTXDESC_L2_ENTRIES in master.cd_leaves


def _add_leaf(master: ArmSmmuMaster, table: CdTable, ssid: int) -> None:
    kernel, index = master.smmu.kernel, ssid // CTXDESC_L2_ENTRIES
    leaf = master.cd_leaves[index] = alloc_bytes(kernel, CTXDESC_L2_ENTRIES * CD_BYTES)
    kernel.memory.store64(table.cdtab_dma + index * L1_DESC_BYTES, L1Cd(v=True, l2ptr=leaf))
    arm_smmu_sync_cd(master, ssid, leaf=False)


def arm_smmu_get_cd_ptr(master: ArmSmmuMaster, ssid: int) -> int:
    """Return where the CD of an SSID lies; there is no check against the end of a linear table."""
    table = master.cd_table
    assert table is not None
    if table.s1fmt is S1Fmt.LEAF_64K:
        return master.cd_leaves[ssid // CTXDESC_L2_ENTRIES] + ssid % CTXDESC_L2_ENTRIES * CD_BYTES
    return table.cdtab_dma + ssid * CD_BYTES


def cd_table_in_ste(master: ArmSmmuMaster) -> bool:
    """Whether the STEs of a device lead to its CD table."""
    return bool(read_ste(master.smmu, master.streams[0]).config & 1)


def read_cd(master: ArmSmmuMaster, ssid: int) -> Cd:
    """Return a CD as it lies in memory; one beyond the table reads as empty."""
    if _beyond_table(master, ssid):
        return Cd()
    raw = master.smmu.kernel.memory.load(arm_smmu_get_cd_ptr(master, ssid), CD_BYTES)
    if raw is None:
        raise ModelError(f"the CD {ssid} of {master.dev.name} cannot be read")
    return Cd.unpack(raw)


def arm_smmu_write_cd_entry(master: ArmSmmuMaster, ssid: int, target: Cd) -> None:
    """Change a CD, hitless where that is possible, and count the valid ones.

    One beyond a linear table is reported and not written: the real driver corrupts memory there, which would only
    hide what is being looked for.
    """
    place = arm_smmu_get_cd_ptr(master, ssid)
    if _beyond_table(master, ssid):
        last = (1 << master.ssid_bits) - 1
        master.smmu.kernel.found(CD_OUT_OF_BOUNDS, dev=master.dev.name, pasid=ssid, last=last, place=place)
        return
    current = read_cd(master, ssid)
    if ssid != IOMMU_NO_PASID:
        master.used_ssids += target.v - current.v
    memory = master.smmu.kernel.memory
    writer = arm_smmu_cd_writer(
        store=lambda index, value: memory.store64(place + 8 * index, value),
        sync=lambda: arm_smmu_sync_cd(master, ssid, leaf=True),
    )
    arm_smmu_write_entry(writer, current, target)


def _beyond_table(master: ArmSmmuMaster, ssid: int) -> bool:
    table = master.cd_table
    assert table is not None
    return bool(ssid >> table.s1cdmax)


def arm_smmu_clear_cd(master: ArmSmmuMaster, ssid: int) -> None:
    """Take a CD away; where there is no CD table there is nothing to do, and where its leaf is missing a warning."""
    table = master.cd_table
    if table is None:
        return
    if not _has_leaf(master, table, ssid):
        master.smmu.kernel.warn("arm_smmu_clear_cd", f"{master.dev.name} has no leaf for the CD of {ssid}")
        return
    arm_smmu_write_cd_entry(master, ssid, Cd())


def arm_smmu_sync_cd(master: ArmSmmuMaster, ssid: int, *, leaf: bool) -> None:
    """Let the SMMU forget a CD, and unless `leaf` the level 1 descriptor; wait until it has."""
    batch = CmdqBatch()
    for sid in master.streams:
        batch.add(CfgiCd.make(sid=sid, ssid=ssid, leaf=leaf))
    arm_smmu_cmdq_batch_submit(master.smmu, batch)


# --- STEs ----------------------------------------------------------------------------------------------------


def arm_smmu_install_ste_for_dev(master: ArmSmmuMaster, target: Ste) -> None:
    """Change the STE of every stream of a device."""
    for sid in master.streams:
        _write_ste(master.smmu, sid, target)


def _write_ste(smmu: ArmSmmuDevice, sid: int, target: Ste) -> None:
    place, memory = smmu.ste_address(sid), smmu.kernel.memory
    writer = arm_smmu_ste_writer(
        smmu.kernel.profile,
        store=lambda index, value: memory.store64(place + 8 * index, value),
        sync=lambda: arm_smmu_sync_ste(smmu, sid),
    )
    arm_smmu_write_entry(writer, read_ste(smmu, sid), target)
    arm_smmu_cmdq_issue_cmd(smmu, PrefetchConfig.make(sid=sid))


def arm_smmu_sync_ste(smmu: ArmSmmuDevice, sid: int) -> None:
    """Let the SMMU forget an STE; wait until it has."""
    arm_smmu_cmdq_issue_cmd_with_sync(smmu, CfgiSte.make(sid=sid, leaf=True))

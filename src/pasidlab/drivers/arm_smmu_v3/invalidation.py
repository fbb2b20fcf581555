"""What the driver invalidates: TLB entries by ASID, VMID and address, and the ATCs of devices.

Since 7.x a domain has an array of what must be invalidated when its table changes (`Invs`), and a tag that is in no
array any more is flushed at once. 6.12 walks the domain's devices, and flushes an ASID when its domain is freed.

Source: arm_smmu_tlb_inv_range_asid(), __arm_smmu_tlb_inv_range(), arm_smmu_atc_inv_to_cmd(), arm_smmu_atc_inv_domain()
(6.12.117), arm_smmu_domain_inv_range(), arm_smmu_invs_merge(), arm_smmu_invs_unref() (7.3.4).
Not modelled: RCU and the purge of trash entries; batches are issued whole.
"""

from __future__ import annotations

from pasidlab.drivers.arm_smmu_v3.cmdq import (
    CmdqBatch,
    arm_smmu_cmdq_batch_submit,
    arm_smmu_cmdq_issue_cmd_with_sync,
)
from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDevice, ArmSmmuDomain, ArmSmmuMaster, Inv, Invs, InvType
from pasidlab.hw.smmuv3.commands import ATC_INV_ALL, AtcInv, Command, Tg, TlbiNhAsid, TlbiNhVa, TlbiS12Vmall
from pasidlab.linux.structs import IOMMU_NO_PASID

WHOLE = 0
"""As a size: everything."""
_RANGE_NUM_MAX = 31
"""A range invalidation covers at most 31 units of its scale."""
_ULONG_MAX = (1 << 64) - 1
_ATC_SHIFT = 12


def arm_smmu_invs_of(master: ArmSmmuMaster, domain: ArmSmmuDomain, ssid: int, ats_enabled: bool) -> Invs:
    """Return what one attachment of a domain needs invalidated (arm_smmu_master_build_invs())."""
    invs = Invs()
    if domain.vmid:
        invs.users[Inv(master.smmu, InvType.S2_VMID, domain.vmid)] = 1
    else:
        invs.users[Inv(master.smmu, InvType.S1_ASID, domain.asid)] = 1
    if ats_enabled:
        for sid in master.streams:
            invs.users[Inv(master.smmu, InvType.ATS, sid, ssid)] = 1
    return invs


# --- a table changed -----------------------------------------------------------------------------------------


def arm_smmu_domain_inv_range(domain: ArmSmmuDomain, start: int, size: int) -> None:
    """Invalidate [start, start + size) of a domain, all of it when `size` is WHOLE: TLBs first, then ATCs."""
    arm_smmu_domain_inv_tlb(domain, start, size)
    arm_smmu_domain_inv_atc(domain, start, size)


def arm_smmu_domain_inv_tlb(domain: ArmSmmuDomain, start: int, size: int) -> None:
    """Invalidate a range in the SMMU's TLB: the first half of `arm_smmu_domain_inv_range()`."""
    if domain.smmu.kernel.profile.smmu_invs:
        for inv in domain.invs.in_order():
            _inv_tag(inv, start, size)
    elif domain.vmid:
        arm_smmu_tlb_inv_vmid(domain.smmu, domain.vmid)
    else:
        _tlb_inv(domain.smmu, domain.asid, start, size)


def arm_smmu_domain_inv_atc(domain: ArmSmmuDomain, start: int, size: int) -> None:
    """Invalidate a range in the ATCs of a domain's devices: the second half of `arm_smmu_domain_inv_range()`."""
    batch = CmdqBatch()
    for sid, ssid in _atcs(domain):
        batch.add(arm_smmu_atc_inv_to_cmd(sid, ssid, start, size))
    if batch.cmds:
        arm_smmu_cmdq_batch_submit(domain.smmu, batch)


def _atcs(domain: ArmSmmuDomain) -> list[tuple[int, int]]:
    """Return StreamID and SSID of what devices may have cached of a domain."""
    if domain.smmu.kernel.profile.smmu_invs:
        return [(inv.id, inv.ssid) for inv in domain.invs.in_order() if inv.type is InvType.ATS]
    records = [record for record in domain.devices if record.master.ats_enabled]
    return [(sid, record.ssid) for record in records for sid in record.master.streams]


def _inv_tag(inv: Inv, start: int, size: int) -> None:
    if inv.type is InvType.S1_ASID:
        _tlb_inv(inv.smmu, inv.id, start, size)
    elif inv.type is InvType.S2_VMID:
        arm_smmu_tlb_inv_vmid(inv.smmu, inv.id)


def _tlb_inv(smmu: ArmSmmuDevice, asid: int, start: int, size: int) -> None:
    if size == WHOLE:
        arm_smmu_tlb_inv_asid(smmu, asid)
        return
    batch = CmdqBatch(_tlbi_range(smmu, asid, start, size))
    arm_smmu_cmdq_batch_submit(smmu, batch)


def arm_smmu_tlb_inv_asid(smmu: ArmSmmuDevice, asid: int) -> None:
    """Invalidate an ASID."""
    arm_smmu_cmdq_issue_cmd_with_sync(smmu, TlbiNhAsid.make(asid=asid))


def arm_smmu_tlb_inv_vmid(smmu: ArmSmmuDevice, vmid: int) -> None:
    """Invalidate both stages of a VMID."""
    arm_smmu_cmdq_issue_cmd_with_sync(smmu, TlbiS12Vmall.make(vmid=vmid))


def range_or_whole(smmu: ArmSmmuDevice, size: int) -> int:
    """Return WHOLE where a range costs too many commands: without range invalidation from page size / 8 pages on."""
    shift = smmu.kernel.page_shift
    if size == _ULONG_MAX:
        return WHOLE
    too_many = not smmu.range_inv and size >= 1 << (shift - 3) + shift
    return WHOLE if too_many else size


def _tlbi_range(smmu: ArmSmmuDevice, asid: int, start: int, size: int) -> list[Command]:
    """Cover a range by as few commands as the SMMU allows (__arm_smmu_tlb_inv_range()).

    SVA cannot tell at which level a table changed, so the commands name no level and reach table descriptors too. A
    range that would need a command for one page alone is a page longer, which some SMMUs depend on.
    """
    shift = smmu.kernel.page_shift
    first, pages = start >> shift, -(-(start + size) >> shift) - (start >> shift)
    if not smmu.range_inv:
        places = range(first, first + pages)
        return [TlbiNhVa.make(asid=asid, addr=page << shift) for page in places]
    cmds: list[Command] = []
    tg = {12: Tg.GRANULE_4K, 14: Tg.GRANULE_16K, 16: Tg.GRANULE_64K}[shift]
    if pages & _RANGE_NUM_MAX == 1:
        pages += 1
    while pages:
        scale = (pages & -pages).bit_length() - 1
        num = pages >> scale & _RANGE_NUM_MAX
        cmds.append(TlbiNhVa.make(asid=asid, tg=tg, scale=scale, num=num - 1, addr=first << shift))
        first += num << scale
        pages -= num << scale
    return cmds


# --- devices' caches -----------------------------------------------------------------------------------------


def arm_smmu_atc_inv_to_cmd(sid: int, ssid: int, start: int, size: int) -> Command:
    """Return the command that covers a range by one power of two; without SSID it reaches the tagged entries too."""
    ssv = ssid != IOMMU_NO_PASID
    if size == WHOLE:
        return AtcInv.make(sid=sid, ssv=ssv, ssid=ssid, size=ATC_INV_ALL)
    first, last = start >> _ATC_SHIFT, (start + size - 1) >> _ATC_SHIFT
    log2_span = (first ^ last).bit_length()
    first &= -(1 << log2_span)
    return AtcInv.make(sid=sid, ssv=ssv, ssid=ssid, size=log2_span, addr=first << _ATC_SHIFT)


def arm_smmu_atc_inv_master(master: ArmSmmuMaster, ssid: int) -> None:
    """Let a device forget everything that it cached under an SSID."""
    batch = CmdqBatch()
    for sid in master.streams:
        batch.add(arm_smmu_atc_inv_to_cmd(sid, ssid, 0, WHOLE))
    arm_smmu_cmdq_batch_submit(master.smmu, batch)


def arm_smmu_flush_released(released: list[Inv]) -> None:
    """Flush the tags that are in no array any more, so that they can be given out again."""
    for inv in released:
        _inv_tag(inv, 0, WHOLE)

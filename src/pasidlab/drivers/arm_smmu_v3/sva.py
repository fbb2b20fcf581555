"""SVA domains: the page table of a process, shared with an SMMU by reference.

Source: drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-sva.c, Linux 6.12.117 and 7.3.4.
Not modelled: BTM (the ASID is the SMMU's own); permission overlays; RCU before a domain's memory goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pasidlab.drivers.arm_smmu_v3.device import arm_smmu_sva_supported
from pasidlab.drivers.arm_smmu_v3.domain import arm_smmu_set_pasid
from pasidlab.drivers.arm_smmu_v3.entries import arm_smmu_make_sva_cd
from pasidlab.drivers.arm_smmu_v3.invalidation import (
    WHOLE,
    arm_smmu_domain_inv_atc,
    arm_smmu_domain_inv_range,
    arm_smmu_domain_inv_tlb,
    arm_smmu_tlb_inv_asid,
    range_or_whole,
)
from pasidlab.drivers.arm_smmu_v3.master import arm_smmu_write_cd_entry
from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDomain, ArmSmmuMaster
from pasidlab.drivers.base import ATC, IOTLB, TABLE, in_steps
from pasidlab.errors import Errno
from pasidlab.hw.smmuv3.structures import Cd
from pasidlab.linux.mm import mmget_not_zero, mmput
from pasidlab.linux.mmu_notifier import mmu_notifier_put
from pasidlab.rules import WAS_READ, Refusal, Rule

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct

_RELEASE = (TABLE, IOTLB, ATC)
"""Linux's order at the end of an mm."""
NO_FEAT_SVA = Rule(
    "arm-smmu-v3.no-sva",
    "arm_smmu_sva_set_dev_pasid (drivers/iommu/arm/arm-smmu-v3)",
    "!(smmu->features & ARM_SMMU_FEAT_SVA)",
    "the SMMU of {dev} cannot share page tables with this CPU",
    Errno.EOPNOTSUPP,
    "7.3.4 (read)",
    remedy="see the finding arm-smmu-v3.sva-lacking: coherent walks and widths are the hardware's, the page "
    "size is chosen by CONFIG_ARM64_4K_PAGES and the like, CONFIG_ARM_SMMU_V3_SVA has to be set",
)
MM_GONE = Rule(
    "arm-smmu-v3.mm-gone",
    "arm_smmu_sva_set_dev_pasid (drivers/iommu/arm/arm-smmu-v3)",
    "!mmget_not_zero(domain->mm)",
    "process {mm} has exited; {dev} cannot get its memory any more",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="bind only a living process, whose mm_users is held",
)


def arm_smmu_sva_cd(domain: ArmSmmuDomain, master: ArmSmmuMaster, *, quiet: bool) -> Cd:
    """Return the CD of a domain's mm, or the quiet one of an mm that is released."""
    smmu, mm = master.smmu, domain.mm
    assert mm is not None
    pgd = None if quiet else mm.pgd
    profile, stalls = smmu.kernel.profile, master.stall_enabled
    return arm_smmu_make_sva_cd(smmu.features, smmu.cpu, pgd, domain.asid, profile, stall_enabled=stalls)


def arm_smmu_sva_set_dev_pasid(domain: ArmSmmuDomain, master: ArmSmmuMaster, pasid: int) -> Refusal | None:
    """Give (device, PASID) the page table of the domain's mm, which must still have a user."""
    mm = domain.mm
    assert mm is not None
    if master.smmu.kernel.profile.smmu_invs and not arm_smmu_sva_supported(master.smmu):
        return NO_FEAT_SVA.refuse(dev=master.dev.name)
    if not mmget_not_zero(mm):
        return MM_GONE.refuse(mm=mm.name, dev=master.dev.name)
    try:
        cd = arm_smmu_sva_cd(domain, master, quiet=False)
        return arm_smmu_set_pasid(master, domain, pasid, cd)
    finally:
        mmput(mm)


@dataclass(slots=True, eq=False, repr=False)
class ArmSmmuMmuNotifier:
    """`arm_smmu_mmu_notifier_ops` of one domain."""

    domain: ArmSmmuDomain

    def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
        """Forget a range: TLB entries by ASID, then the ATCs of the domain's devices."""
        size = range_or_whole(self.domain.smmu, end - start)
        arm_smmu_domain_inv_range(self.domain, start, size)

    def release(self, mm: MmStruct) -> None:
        """Make every CD of the mm quiet, so that its devices reach nothing, before its pages and tables are freed."""
        smmu = self.domain.smmu
        in_steps(smmu.kernel, smmu.detach or _RELEASE, self._release_step)

    def _release_step(self, step: str) -> None:
        """Do one step of the end of the mm."""
        if step == IOTLB:
            arm_smmu_domain_inv_tlb(self.domain, 0, WHOLE)
            return
        if step == ATC:
            arm_smmu_domain_inv_atc(self.domain, 0, WHOLE)
            return
        for record in self.domain.devices:
            quiet = arm_smmu_sva_cd(self.domain, record.master, quiet=True)
            arm_smmu_write_cd_entry(record.master, record.ssid, quiet)


def arm_smmu_sva_domain_free(domain: ArmSmmuDomain) -> None:
    """Free an SVA domain; before 7.x its ASID is flushed now, since 7.x it was when its last attachment went."""
    flushed = domain.smmu.detach is None or IOTLB in domain.smmu.detach
    if flushed and not domain.smmu.kernel.profile.smmu_invs:
        arm_smmu_tlb_inv_asid(domain.smmu, domain.asid)
    assert domain.notifier is not None
    mmu_notifier_put(domain.notifier)

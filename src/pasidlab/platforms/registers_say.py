"""What the registers of a VT-d unit or an SMMUv3 say of it, wherever they were read: sysfs, debugfs, or a log.

Source: Intel VT-d 4.1, 11.4.2 and 11.4.3; intel_svm_check() (drivers/iommu/intel/svm.c); IHI 0070 G.b, 6.3;
arm_smmu_device_hw_probe(), arm_smmu_sva_supported() (arm-smmu-v3). Kernels: Linux 6.12. AMD's register is in `amd`.

Decided here: what hardware has is said, not what the kernel makes of it by its command line. CPUs are not known here:
an SMMU's page sizes and addresses are not held against theirs.
"""

from __future__ import annotations

from pasidlab.hw.smmuv3.registers import Httu, Idr0, Idr1, Idr5, StallModel, StLevel
from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.platforms.origins import Where, fields_of
from pasidlab.platforms.said import MOST_PASID_BITS, Iommu

# --- Intel VT-d ----------------------------------------------------------------------------------------------------


def cap_says(iommu: Iommu, cap: Cap, where: Where) -> None:
    """Say what CAP tells of a unit."""
    iommu.say("five_level", cap.fs5lp, where(fields_of(Cap, "fs5lp")))
    iommu.say("caching_mode", cap.cm, where(fields_of(Cap, "cm")))
    iommu.say("first_1g", cap.fs1gp, where(fields_of(Cap, "fs1gp")))


def ecap_says(iommu: Iommu, ecap: Ecap, where: Where) -> None:
    """Say what ECAP tells of a unit."""
    width = min(ecap.pss + 1, MOST_PASID_BITS) if ecap.pasid else 0
    iommu.say("pasid_bits", width, where(fields_of(Ecap, "pss") if ecap.pasid else fields_of(Ecap, "pasid")))
    iommu.say("scalable", ecap.smts, where(fields_of(Ecap, "smts")))
    iommu.say("ats", ecap.dt, where(fields_of(Ecap, "dt")))
    iommu.say("pri", ecap.dt and ecap.prs, where(fields_of(Ecap, "prs")))
    capable = ecap.smts and ecap.pasid and ecap.smpwcs and ecap.fsts
    iommu.say("sva", bool(capable), where(fields_of(Ecap, "pasid", "smts", "fsts", "smpwcs")))


# --- Arm SMMUv3 ----------------------------------------------------------------------------------------------------


def idr0_says(iommu: Iommu, idr0: Idr0, where: Where) -> None:
    """Say what IDR0 tells of an SMMU."""
    two_level = idr0.st_level is StLevel.TWO_LEVEL and idr0.cd2l
    iommu.say("two_level", two_level, where(fields_of(Idr0, "cd2l", "st_level")))
    iommu.say("stall", idr0.stall_model is not StallModel.TERMINATE_ONLY, where(fields_of(Idr0, "stall_model")))
    iommu.say("httu", min(idr0.httu, int(Httu.ACCESS_DIRTY)), where(fields_of(Idr0, "httu")))
    iommu.say("ats", idr0.ats, where(fields_of(Idr0, "ats")))
    iommu.say("pri", idr0.ats and idr0.pri, where(fields_of(Idr0, "pri")))
    if not (idr0.s1p and idr0.cohacc):
        iommu.say("sva", False, where(fields_of(Idr0, "s1p", "cohacc")))


def idr1_says(iommu: Iommu, idr1: Idr1, where: Where) -> None:
    """Say what IDR1 tells of an SMMU."""
    iommu.say("ssid_bits", min(idr1.ssidsize, MOST_PASID_BITS), where(fields_of(Idr1, "ssidsize")))
    iommu.say("sid_bits", min(idr1.sidsize, 24), where(fields_of(Idr1, "sidsize")))


def idr5_says(iommu: Iommu, idr5: Idr5, where: Where) -> None:
    """Say what IDR5 tells of an SMMU: the granule, where it has only one."""
    has = {4096: idr5.gran4k, 16384: idr5.gran16k, 65536: idr5.gran64k}
    sizes = [size for size, there in has.items() if there]
    if len(sizes) == 1:
        iommu.say("granule", sizes[0], where(fields_of(Idr5, "gran4k", "gran16k", "gran64k")))

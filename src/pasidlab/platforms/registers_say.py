"""What the registers of an IOMMU say of it, wherever they were read: sysfs, debugfs, or an image in firmware.

Source: Intel VT-d 4.1, 11.4.2 and 11.4.3; intel_svm_check() (drivers/iommu/intel/svm.c); AMD I/O Virtualization
Technology 3.09, Extended Feature Register; amd_iommu_gt_ppr_supported() (drivers/iommu/amd); IHI 0070 G.b, 6.3;
arm_smmu_device_hw_probe(), arm_smmu_sva_supported() (arm-smmu-v3). Kernels: Linux 6.12.

Decided here: what hardware has is said, not what the kernel makes of it by its command line. CPUs are not known here:
an SMMU's page sizes and addresses are not held against theirs, and a unit without 1 GiB pages in first-stage tables
has no SVA, since x86 CPUs have such pages.
"""

from __future__ import annotations

from collections.abc import Callable

from pasidlab.hw.smmuv3.registers import Httu, Idr0, Idr1, Idr5, StallModel, StLevel
from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.platforms.said import Iommu
from pasidlab.words import Field, Word, bits, flag

Where = Callable[[str], str]
"""Returns an origin for a part of a register, as `bits 39:35 (PSS)`."""
MOST_PASID_BITS = 20


class Efr(Word, size=64):
    """Extended features of an AMD IOMMU (MMIO offset 0x30), those that bear on PASIDs."""

    prefsup = flag(0)
    pprsup = flag(1, doc="peripheral page requests")
    xtsup = flag(2)
    nxsup = flag(3)
    gtsup = flag(4, doc="guest translation, thus PASIDs")
    iasup = flag(6)
    gasup = flag(7)
    hesup = flag(8)
    pcsup = flag(9)
    hats = bits(11, 10, doc="levels of host tables, less 4")
    gats = bits(13, 12, doc="levels of guest tables, less 4")
    glxsup = bits(15, 14, doc="levels of the GCR3 table, less 1")
    pasmax = bits(36, 32, doc="PASID bits, less 1")
    giosup = flag(48)
    hasup = flag(49)
    ephsup = flag(50, doc="enhanced page requests")
    hdsup = flag(52)
    snpsup = flag(63)


def part(word: type[Word], *names: str) -> str:
    """Return how an origin names fields of a register: `bits 39:35 (PSS)`."""
    return ", ".join(_field(word.FIELDS[name]) for name in names)


def _field(field: Field[int]) -> str:
    return f"bit{'s' if field.width > 1 else ''} {field.bits_text} ({field.name.upper()})"


# --- Intel VT-d ----------------------------------------------------------------------------------------------------


def cap_says(iommu: Iommu, cap: Cap, where: Where) -> None:
    """Say what CAP tells of a unit."""
    iommu.say("five_level", cap.fs5lp, where(part(Cap, "fs5lp")))
    iommu.say("caching_mode", cap.cm, where(part(Cap, "cm")))
    if not cap.fs1gp:
        iommu.say("sva", False, where(part(Cap, "fs1gp")))


def ecap_says(iommu: Iommu, ecap: Ecap, where: Where) -> None:
    """Say what ECAP tells of a unit; after CAP, which may have said that there is no SVA."""
    width = min(ecap.pss + 1, MOST_PASID_BITS) if ecap.pasid else 0
    iommu.say("pasid_bits", width, where(part(Ecap, "pss") if ecap.pasid else part(Ecap, "pasid")))
    iommu.say("scalable", ecap.smts, where(part(Ecap, "smts")))
    iommu.say("ats", ecap.dt, where(part(Ecap, "dt")))
    iommu.say("pri", ecap.dt and ecap.prs, where(part(Ecap, "prs")))
    capable = ecap.smts and ecap.pasid and ecap.smpwcs and ecap.fsts
    iommu.say("sva", bool(capable), where(part(Ecap, "pasid", "smts", "fsts", "smpwcs")))


# --- AMD -----------------------------------------------------------------------------------------------------------


def efr_says(iommu: Iommu, efr: Efr, where: Where) -> None:
    """Say what the extended features tell of an AMD IOMMU."""
    width = min(efr.pasmax + 1, MOST_PASID_BITS) if efr.gtsup else 0
    iommu.say("pasid_bits", width, where(part(Efr, "pasmax") if efr.gtsup else part(Efr, "gtsup")))
    iommu.say("sva", efr.gtsup and efr.pprsup, where(part(Efr, "pprsup", "gtsup")))


# --- Arm SMMUv3 ----------------------------------------------------------------------------------------------------


def idr0_says(iommu: Iommu, idr0: Idr0, where: Where) -> None:
    """Say what IDR0 tells of an SMMU."""
    two_level = idr0.st_level is StLevel.TWO_LEVEL and idr0.cd2l
    iommu.say("two_level", two_level, where(part(Idr0, "cd2l", "st_level")))
    iommu.say("stall", idr0.stall_model is not StallModel.TERMINATE_ONLY, where(part(Idr0, "stall_model")))
    iommu.say("httu", min(idr0.httu, int(Httu.ACCESS_DIRTY)), where(part(Idr0, "httu")))
    iommu.say("ats", idr0.ats, where(part(Idr0, "ats")))
    iommu.say("pri", idr0.ats and idr0.pri, where(part(Idr0, "pri")))
    if not (idr0.s1p and idr0.cohacc):
        iommu.say("sva", False, where(part(Idr0, "s1p", "cohacc")))


def idr1_says(iommu: Iommu, idr1: Idr1, where: Where) -> None:
    """Say what IDR1 tells of an SMMU."""
    iommu.say("ssid_bits", min(idr1.ssidsize, MOST_PASID_BITS), where(part(Idr1, "ssidsize")))
    iommu.say("sid_bits", min(idr1.sidsize, 24), where(part(Idr1, "sidsize")))


def idr5_says(iommu: Iommu, idr5: Idr5, where: Where) -> None:
    """Say what IDR5 tells of an SMMU: the granule, where it has only one."""
    has = {4096: idr5.gran4k, 16384: idr5.gran16k, 65536: idr5.gran64k}
    sizes = [size for size, there in has.items() if there]
    if len(sizes) == 1:
        iommu.say("granule", sizes[0], where(part(Idr5, "gran4k", "gran16k", "gran64k")))

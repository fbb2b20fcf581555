"""The extended features of an AMD IOMMU, read from its register or from their image in firmware, and what Linux asks.

Source: AMD I/O Virtualization Technology 3.09, Extended Feature Register (MMIO offset 0x30), and the FEATURE_ names of
drivers/iommu/amd/amd_iommu_types.h; amd_iommu_gt_ppr_supported() (drivers/iommu/amd/amd_iommu.h) and iommu_init_pci()
(drivers/iommu/amd/init.c), Linux 6.12.

Decided here: PASIDs of more than 16 bits, at which Linux stops with a BUG, are said as 16.
"""

from __future__ import annotations

from pasidlab.platforms.origins import Where, fields_of
from pasidlab.platforms.said import Iommu
from pasidlab.words import Word, bits, flag

LINUX_PASID_BITS = 16
"""The widest PASIDs that Linux takes of an AMD IOMMU."""


class Efr(Word, size=64):
    """Extended Feature Register of an AMD IOMMU, those features that bear on PASIDs and the tables around them."""

    prefsup = flag(0)
    pprsup = flag(1, doc="peripheral page requests")
    xtsup = flag(2)
    nxsup = flag(3)
    gtsup = flag(4, doc="guest translation, which PASIDs need")
    iasup = flag(6)
    gasup = flag(7)
    hesup = flag(8)
    pcsup = flag(9)
    hats = bits(11, 10, doc="levels of host tables, less 4")
    gats = bits(13, 12, names={0: "4 levels", 1: "5 levels"}, doc="levels of guest tables")
    glxsup = bits(15, 14, doc="levels of GCR3 tables, less 1")
    gamsup = bits(23, 21)
    pasmax = bits(36, 32, doc="width of a PASID, less 1")
    giosup = flag(48, doc="guest tables for requests without PASID")
    hasup = flag(49)
    ephsup = flag(50, doc="enhanced handling of page requests")
    hdsup = flag(52)
    snpsup = flag(63)


SVA_FEATURES = {"gtsup": "GT", "pprsup": "PPR", "giosup": "GIOSUP", "ephsup": "EPHSUP"}
"""The features without which Linux gives no device a PASID, by field, each with its name in Linux."""


def missing_features(efr: Efr) -> str:
    """Return which features Linux misses before it gives a device a PASID; empty when none."""
    return ", ".join(name for field, name in SVA_FEATURES.items() if not getattr(efr, field))


def efr_says(iommu: Iommu, efr: Efr, where: Where) -> None:
    """Say what the extended features tell of an AMD IOMMU."""
    width = min(efr.pasmax + 1, LINUX_PASID_BITS) if efr.gtsup else 0
    origin = where(fields_of(Efr, "pasmax") if efr.gtsup else fields_of(Efr, "gtsup"))
    iommu.say("pasid_bits", width, origin)
    if width:
        iommu.say("max_pasids", (1 << width) - 1, f"{origin}, as Linux computes it: one less than the width allows")
    iommu.say("sva", not missing_features(efr), where(fields_of(Efr, *SVA_FEATURES)))

"""Which bits of an entry the hardware uses, as the driver sees it; the rest may change at any time.

Source: arm_smmu_get_ste_used(), arm_smmu_get_cd_used() (Linux 6.12.117 and 7.3.4), arm_smmu_get_ste_update_safe()
(7.3.4), arm-smmu-v3.c. The masks are the driver's: it only asks what its own entries need, not what the architecture
says of every entry.

Not modelled: nothing of these functions.
"""

from __future__ import annotations

from pasidlab.drivers.arm_smmu_v3.entries import S1CTXPTR_MASK, TTB_MASK
from pasidlab.hw.smmuv3.structures import Cd, Config, Eats, S1Dss, Ste
from pasidlab.linux.profiles import Profile

_ALL_BITS = (1 << Cd.SIZE) - 1
_STAGE_1 = 0b001
"""The bit of STE.Config that enables stage 1."""
_STAGE_2 = 0b010
"""The bit of STE.Config that enables stage 2."""

_STAGE_1_USED = Ste.mask("s1fmt", "s1cdmax", "s1dss", "s1cir", "s1cor", "s1csh", "s1stalld", "strw", "eats", "s2vmid")
_VTCR = Ste.mask("s2t0sz", "s2sl0", "s2ir0", "s2or0", "s2sh0", "s2tg", "s2ps")
_STAGE_2_USED = Ste.mask("eats", "shcfg", "s2vmid", "s2aa64", "s2endi", "s2ptw", "s2s", "s2r") | _VTCR
_UNUSED_UNDER_EPD0 = Cd.mask("t0sz", "tg0", "ir0", "or0", "sh0") | Cd(ttb0=TTB_MASK)


def arm_smmu_get_ste_used(ste: Ste, profile: Profile) -> int:
    """Return the bits of a stream table entry that the hardware uses."""
    used: int = Ste.mask("v")
    if not ste.v:
        return used
    used |= Ste.mask("config")
    if ste.config & _STAGE_1:
        used |= _stage_1_used(ste, profile)
    if ste.config & _STAGE_2:
        used |= _stage_2_used(profile)
    if ste.config is Config.BYPASS:
        used |= Ste.mask("shcfg")
    return used


def _stage_1_used(ste: Ste, profile: Profile) -> int:
    used = _STAGE_1_USED | Ste(s1contextptr=S1CTXPTR_MASK)
    if profile.smmu_used_mev_s2fwb:
        used |= Ste.mask("mev")
    if ste.s1dss is S1Dss.BYPASS:
        used |= Ste.mask("shcfg")
    return used


def _stage_2_used(profile: Profile) -> int:
    used = _STAGE_2_USED | Ste(s2ttb=TTB_MASK)
    if profile.smmu_used_mev_s2fwb:
        used |= Ste.mask("mev", "s2fwb")
    return used


def arm_smmu_get_cd_used(cd: Cd) -> int:
    """Return the bits of a context descriptor that the hardware uses."""
    if not cd.v:
        return Cd.mask("v")
    return _ALL_BITS & ~_UNUSED_UNDER_EPD0 if cd.epd0 else _ALL_BITS


def arm_smmu_get_ste_update_safe(ste: Ste, target: Ste) -> int:
    """Return the bits that may change while both entries use them.

    MEV only changes how many events are seen. EATS may go between off and full: the driver turns ATS off in the device
    first. But split-stage ATS depends on CR0.ATSCHK, and EATS=1 with S2S=1 is illegal, so either forbids it.
    """
    safe: int = Ste.mask("mev")
    split_stage = (ste.eats | target.eats) & Eats.SPLIT_STAGE
    if not split_stage and not (ste.s2s or target.s2s):
        safe |= Ste(eats=Eats.FULL)
    return safe

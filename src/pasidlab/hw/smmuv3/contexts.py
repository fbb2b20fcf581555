"""The page-table formats that a CD and an STE select.

Source: IHI 0070 G.b, 5.2 (STE stage 2 fields), 5.4 (CD), 3.4.1 (input and output address sizes).
Not modelled: hierarchical attribute disable, E0PD, permission indirection and 128-bit descriptors, which the
modelled SMMU does not offer (IDR3), so that their fields are ignored.
"""

from __future__ import annotations

from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.structures import OAS_BITS, TG0_SHIFT, TG1_SHIFT, Cd, Ste


def stage1_of(cd: Cd, features: Features, *, high_half: bool, el2: bool) -> Stage1:
    """Return the format of a legal CD."""
    high = _region(TG1_SHIFT[cd.tg1], cd.ttb1, cd.t1sz, cd.epd1, cd.tbi1) if high_half else None
    return Stage1(
        ttb0=_region(TG0_SHIFT[cd.tg0], cd.ttb0, cd.t0sz, cd.epd0, cd.tbi0),
        ttb1=high,
        oa_bits=min(OAS_BITS[cd.ips], features.oas_bits),
        affd=cd.affd,
        ha=cd.ha,
        hd=cd.hd,
        wxn=cd.wxn,
        pan=cd.pan,
        el2=el2 and not high_half,
    )


def _region(shift: int | None, ttb: int, tsz: int, disabled: bool, tbi: bool) -> Region:
    return Region(ttb, tsz, Granule(shift or Granule.K4), disabled, tbi)


def stage2_of(ste: Ste, features: Features) -> Stage2:
    """Return the format of the stage 2 of a legal STE."""
    shift = TG0_SHIFT[ste.s2tg]
    assert shift is not None
    return Stage2(
        ttb=ste.s2ttb,
        tsz=ste.s2t0sz,
        sl0=ste.s2sl0,
        granule=Granule(shift),
        oa_bits=min(OAS_BITS[ste.s2ps], features.oas_bits),
        affd=ste.s2affd,
        ha=ste.s2ha,
        hd=ste.s2hd,
    )

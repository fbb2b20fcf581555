"""The page-table formats that a CD and an STE select.

Source: IHI 0070 G.b, 5.2 (STE stage 2 fields), 5.4 (CD), 3.4.1 (input and output address sizes).
Execute-never of stage 2 tells the privileges apart (IDR3.XNX is 1 where there is stage 2).
Not modelled: E0PD, permission indirection and 128-bit descriptors, which the modelled SMMU does not offer (IDR3), so
that their fields are ignored.
"""

from __future__ import annotations

from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.structures import OAS_BITS, TG0_SHIFT, TG1_SHIFT, Cd, Ste

_GRANULE = {granule.value: granule for granule in Granule}
_DISABLED = Region(0, 0, Granule.K4, disabled=True)
"""A half without walks, in which every address faults whatever else the CD says of it."""


def stage1_of(cd: Cd, features: Features, *, high_half: bool, el2: bool) -> Stage1:
    """Return the format of a legal CD; only EL2 without E2H has no `high_half`, and there EPD0 does not count."""
    return Stage1(
        ttb0=_DISABLED if cd.epd0 and high_half else _low_half(cd),
        ttb1=_high_half(cd) if high_half else None,
        oa_bits=min(OAS_BITS[cd.ips], features.oas_bits),
        oas_bits=features.oas_bits,
        affd=cd.affd,
        ha=cd.ha,
        hd=cd.hd,
        wxn=cd.wxn,
        pan=cd.pan,
        el2=el2 and not high_half,
    )


def _low_half(cd: Cd) -> Region:
    shift = TG0_SHIFT[cd.tg0]
    assert shift is not None
    return Region(cd.ttb0, cd.t0sz, _GRANULE[shift], False, cd.tbi0, cd.had0)


def _high_half(cd: Cd) -> Region:
    if cd.epd1:
        return _DISABLED
    shift = TG1_SHIFT[cd.tg1]
    assert shift is not None
    return Region(cd.ttb1, cd.t1sz, _GRANULE[shift], False, cd.tbi1, cd.had1)


def stage2_of(ste: Ste, features: Features) -> Stage2:
    """Return the format of the stage 2 of a legal STE."""
    shift = TG0_SHIFT[ste.s2tg]
    assert shift is not None
    return Stage2(
        ttb=ste.s2ttb,
        tsz=ste.s2t0sz,
        sl0=ste.s2sl0,
        granule=_GRANULE[shift],
        oa_bits=min(OAS_BITS[ste.s2ps], features.oas_bits),
        oas_bits=features.oas_bits,
        affd=ste.s2affd,
        ha=ste.s2ha,
        hd=ste.s2hd,
        ptw=ste.s2ptw,
        xnx=True,
    )

"""What the bytes of an STE or a CD say: whether they are legal, and the page-table formats that they select.

That depends on the bytes and the features alone, so it is worked out once for a value and remembered. This is no cache
of the hardware: whoever asks has read the bytes from memory.

Source: IHI 0070 G.b, 5.2 (STE), 5.4 (CD), 3.4.1 (input and output address sizes).
Execute-never of stage 2 tells the privileges apart (IDR3.XNX is 1 where there is stage 2).
Not modelled: E0PD, permission indirection and 128-bit descriptors, which the modelled SMMU does not offer (IDR3), so
that their fields are ignored.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.hw.cache import Cache
from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.legality import cd_fault, is_el2, ste_fault
from pasidlab.hw.smmuv3.structures import OAS_BITS, TG0_SHIFT, TG1_SHIFT, Cd, Config, Ste
from pasidlab.hw.smmuv3.tables import CdTable, cd_table_of
from pasidlab.hw.smmuv3.target import Regime
from pasidlab.rules import Rule

REMEMBERED = 4096
"""How many values of each kind are remembered."""

_GRANULE = {granule.value: granule for granule in Granule}
_DISABLED = Region(0, 0, Granule.K4, disabled=True)
"""A half without walks, in which every address faults whatever else the CD says of it."""


class Stream(NamedTuple):
    """A legal STE, with what every transaction needs of it made ready; `cds` counts where there is a stage 1."""

    ste: Ste
    config: Config
    stage2: Stage2 | None
    regime: Regime
    vmid: int
    cds: CdTable

    @property
    def has_stage1(self) -> bool:
        """Whether stage 1 translates."""
        return self.config in (Config.STAGE_1, Config.NESTED)


class Context(NamedTuple):
    """A legal CD, with the page-table format that it selects."""

    cd: Cd
    stage1: Stage1


class Decoder:
    """Reads the bytes of STEs and CDs as an SMMU with certain features does; see the module docstring."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._streams: Cache[int, Stream | Rule] = Cache(REMEMBERED)
        self._contexts: Cache[tuple[int, bool, bool, bool], Context | Rule] = Cache(REMEMBERED)

    def stream(self, raw: int) -> Stream | Rule:
        """Return what an STE says, or the rule by which it is illegal."""
        known = self._streams.get(raw)
        if known is None:
            ste = Ste(raw)
            known = ste_fault(ste, self._features) or self._stream_of(ste)
            self._streams.put(raw, known)
        return known

    def _stream_of(self, ste: Ste) -> Stream:
        features = self._features
        if not features.ssid_bits:
            ste = ste.replace(s1cdmax=0)
        stage2 = stage2_of(ste, features) if ste.config in (Config.STAGE_2, Config.NESTED) else None
        el2 = is_el2(ste, features)
        vmid = ste.s2vmid if features.stage2 and not el2 else 0
        return Stream(ste, ste.config, stage2, Regime.EL2 if el2 else Regime.NH, vmid, cd_table_of(ste))

    def context(self, raw: int, stream: Stream, *, high_half: bool) -> Context | Rule:
        """Return what a CD says under the STE of its stream, or the rule by which it is illegal."""
        el2 = stream.regime is Regime.EL2
        key = raw, stream.ste.s1stalld, high_half, el2
        known = self._contexts.get(key)
        if known is None:
            cd = Cd(raw)
            known = cd_fault(cd, stream.ste, self._features, high_half=high_half) or Context(
                cd, stage1_of(cd, self._features, high_half=high_half, el2=el2)
            )
            self._contexts.put(key, known)
        return known


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

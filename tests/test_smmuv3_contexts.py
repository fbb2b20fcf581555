"""The bytes of an STE or CD are understood once per value, and the same value may mean another thing elsewhere."""

from __future__ import annotations

from pasidlab.hw.smmuv3.contexts import REMEMBERED, Context, Decoder, Stream
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.legality import CD_STALLD, CD_TTB, STE_INVALID
from pasidlab.hw.smmuv3.structures import Cd, Config, Ste, Strw

CD = Cd(v=True, aa64=True, a=True, r=True, s=True, t0sz=16, epd1=True, ips=5, ttb0=0x8000_0000)


def stream(decoder: Decoder, **fields: int) -> Stream:
    found = decoder.stream(Ste(v=True, config=Config.STAGE_1, **fields))
    assert isinstance(found, Stream)
    return found


def test_a_value_is_understood_once() -> None:
    decoder = Decoder(Features())
    first = decoder.context(CD, stream(decoder), high_half=True)
    assert isinstance(first, Context)
    assert decoder.context(int(CD), stream(decoder), high_half=True) is first


def test_a_cd_that_stalls_is_legal_or_not_by_the_ste_it_is_found_through() -> None:
    decoder = Decoder(Features())
    assert isinstance(decoder.context(CD, stream(decoder), high_half=True), Context)
    assert decoder.context(CD, stream(decoder, s1stalld=True), high_half=True) is CD_STALLD


def test_a_cd_has_its_high_half_by_the_translation_regime() -> None:
    decoder = Decoder(Features(hyp=True))
    both = CD.replace(epd1=False, tg1=2, t1sz=16, ttb1=1 << 48)
    assert decoder.context(both, stream(decoder), high_half=True) is CD_TTB
    low_only = decoder.context(both, stream(decoder, strw=Strw.EL2), high_half=False)
    assert isinstance(low_only, Context)
    assert low_only.stage1.ttb1 is None


def test_illegal_values_are_remembered_too() -> None:
    decoder = Decoder(Features())
    assert decoder.stream(0) is STE_INVALID
    assert decoder.stream(0) is STE_INVALID


def test_what_is_remembered_is_bounded() -> None:
    decoder = Decoder(Features())
    for vmid in range(REMEMBERED + 10):
        assert stream(decoder, s2vmid=vmid).vmid == vmid
    assert len(decoder._streams.entries) == REMEMBERED

"""Which stream table entries and context descriptors an SMMU accepts: C_BAD_STE and C_BAD_CD, check by check.

Source: IHI 0070 G.b, 5.2 (STE) and 5.4 (CD), and the ID registers of chapter 6.
Not modelled: Secure and Realm streams; split-stage ATS (IDR0.NS1ATS is 1), big-endian and AArch32 tables
(IDR0.TTENDIAN, IDR0.TTF), which the modelled SMMU does not offer, so that entries which ask for them are illegal.
"""

from __future__ import annotations

from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.structures import (
    OAS_BITS,
    TG0_SHIFT,
    TG1_SHIFT,
    Cd,
    Config,
    Eats,
    S1Fmt,
    Ste,
    Strw,
)
from pasidlab.rules import Rule

_SPEC = "IHI 0070 G.b"


def _ste_rule(name: str, check: str, why: str) -> Rule:
    return Rule(f"smmu.ste-{name}", f"{_SPEC}, 5.2 STE", check, f"the STE of stream {{sid:#x}} {why}", source=_SPEC)


def _cd_rule(name: str, check: str, why: str) -> Rule:
    text = f"the CD of stream {{sid:#x}}, SubstreamID {{ssid}}, {why}"
    return Rule(f"smmu.cd-{name}", f"{_SPEC}, 5.4 CD", check, text, source=_SPEC)


STE_INVALID = _ste_rule("invalid", "V == 0", "is not valid")
STE_NO_STAGE_1 = _ste_rule("no-stage-1", "Config[0] == 1 and IDR0.S1P == 0", "asks for a stage 1 that is not there")
STE_NO_STAGE_2 = _ste_rule("no-stage-2", "Config[1] == 1 and IDR0.S2P == 0", "asks for a stage 2 that is not there")
STE_STRW = _ste_rule(
    "strw", "STRW is reserved, or EL2 without IDR0.Hyp", "names a translation regime that is not there"
)
STE_S1CDMAX = _ste_rule("s1cdmax", "S1CDMax > IDR1.SSIDSIZE", "has more substreams than the SMMU can tell apart")
STE_S1FMT = _ste_rule("s1fmt", "two-level CD table and IDR0.CD2L == 0", "has a two-level CD table, which is not there")
STE_S1STALLD = _ste_rule("s1stalld", "S1STALLD == 1 and IDR0.STALL_MODEL != 0", "forbids what cannot be chosen")
STE_S2S = _ste_rule("s2s", "S2S against IDR0.STALL_MODEL", "has a fault model of stage 2 that the SMMU does not have")
STE_EATS_S2S = _ste_rule("eats-s2s", "EATS == 01, stage 2 and S2S == 1", "lets stage 2 stall an ATS device")
STE_EATS_SPLIT = _ste_rule(
    "eats-split", "EATS == 10 and IDR0.NS1ATS == 1", "asks for split-stage ATS, which is not there"
)
STE_S2AA64 = _ste_rule("s2aa64", "S2AA64 == 0 and IDR0.TTF == 2", "has AArch32 tables at stage 2, which is not there")
STE_S2ENDI = _ste_rule("s2endi", "S2ENDI == 1 and IDR0.TTENDIAN == 2", "has big-endian tables, which is not there")
STE_S2TG = _ste_rule("s2tg", "S2TG is reserved, or against IDR5", "has a stage-2 granule that the SMMU does not have")
STE_S2T0SZ = _ste_rule(
    "s2t0sz", "S2T0SZ out of range, or against S2SL0", "starts stage 2 at a level its size does not fit"
)
STE_S2TTB = _ste_rule("s2ttb", "S2TTB >= 2^S2PS", "has its stage-2 table outside of the address size")
STE_S2HA = _ste_rule("s2ha", "S2HA or S2HD against IDR0.HTTU", "wants table updates that the SMMU does not do")
STE_S2VMID = _ste_rule("s2vmid", "S2VMID[15:8] != 0 and IDR0.VMID16 == 0", "has a VMID of more than 8 bits")

CD_INVALID = _cd_rule("invalid", "V == 0", "is not valid")
CD_AA64 = _cd_rule("aa64", "AA64 == 0 and IDR0.TTF == 2", "has AArch32 tables, which the SMMU does not read")
CD_ENDI = _cd_rule("endi", "ENDI == 1 and IDR0.TTENDIAN == 2", "has big-endian tables, which the SMMU does not read")
CD_STALLD = _cd_rule("stalld", "S == 1 and STE.S1STALLD == 1", "stalls, which its STE forbids")
CD_STALL = _cd_rule("stall", "S against IDR0.STALL_MODEL", "has a fault model that the SMMU does not have")
CD_TERM = _cd_rule("term", "A == 0 and IDR0.TERM_MODEL == 1", "reads zeros on a fault, which the SMMU does not do")
CD_HTTU = _cd_rule("httu", "HA or HD against IDR0.HTTU, or HD without HA", "wants table updates that are not there")
CD_ASID = _cd_rule("asid", "ASID[15:8] != 0 and IDR0.ASID16 == 0", "has an ASID of more than 8 bits")
CD_TG = _cd_rule(
    "tg", "TGx of an enabled half is reserved, or against IDR5", "has a granule that the SMMU does not have"
)
CD_TSZ = _cd_rule("tsz", "TxSZ of an enabled half out of range", "has a region size that the SMMU does not do")
CD_TTB = _cd_rule("ttb", "TTBx of an enabled half >= 2^IPS", "has its table outside of the address size")

_S2_START = {
    12: {0: 2, 1: 1, 2: 0},
    14: {0: 3, 1: 2, 2: 1, 3: 0},
    16: {0: 3, 1: 2, 2: 1},
}
"""Start level by log2 of the granule and S2SL0."""


def stage2_start_level(ste: Ste) -> int | None:
    """Return the level at which stage 2 starts; None where S2TG or S2SL0 has no meaning."""
    granule = TG0_SHIFT[ste.s2tg]
    return None if granule is None else _S2_START[granule].get(ste.s2sl0)


def ste_fault(ste: Ste, features: Features) -> Rule | None:
    """Return the first rule that makes an STE illegal.

    An STE that is valid and says abort is legal whatever else it says.
    """
    if not ste.v:
        return STE_INVALID
    if ste.config < Config.BYPASS:
        return None
    stage1, stage2 = bool(ste.config & 1), bool(ste.config & 2)
    if stage1 and not features.stage1:
        return STE_NO_STAGE_1
    if stage2 and not features.stage2:
        return STE_NO_STAGE_2
    refused = _stage1_fault(ste, features) if stage1 else None
    if refused is None and stage2:
        refused = _stage2_fault(ste, features)
    return refused or _ats_fault(ste, features, stage2)


def _stage1_fault(ste: Ste, features: Features) -> Rule | None:
    if ste.strw is not Strw.EL1 and (ste.strw is not Strw.EL2 or not features.hyp):
        return STE_STRW
    if features.ssid_bits and ste.s1cdmax > features.ssid_bits:
        return STE_S1CDMAX
    two_level = ste.s1fmt in (S1Fmt.LEAF_4K, S1Fmt.LEAF_64K)
    if two_level and ste.s1cdmax and not features.two_level_cds:
        return STE_S1FMT
    if ste.s1stalld and features.stall_model is not StallModel.STALL_AND_TERMINATE:
        return STE_S1STALLD
    return None


def _stage2_fault(ste: Ste, features: Features) -> Rule | None:
    if not ste.s2aa64:
        return STE_S2AA64
    if ste.s2endi:
        return STE_S2ENDI
    if ste.s2vmid >> 8 and not features.vmid16:
        return STE_S2VMID
    if _stall_mismatch(ste.s2s, features):
        return STE_S2S
    if (ste.s2ha and features.httu < 1) or (ste.s2hd and (features.httu < 2 or not ste.s2ha)):
        return STE_S2HA
    return _stage2_table_fault(ste, features)


def _stage2_table_fault(ste: Ste, features: Features) -> Rule | None:
    granule = TG0_SHIFT[ste.s2tg]
    if granule is None or granule not in features.granules:
        return STE_S2TG
    level = stage2_start_level(ste)
    if level is None or not _start_fits(64 - ste.s2t0sz, granule, level, features):
        return STE_S2T0SZ
    if ste.s2ttb >> min(OAS_BITS[ste.s2ps], features.oas_bits):
        return STE_S2TTB
    return None


def _start_fits(ipa_bits: int, granule: int, level: int, features: Features) -> bool:
    """Whether an input size resolves from a start level with 1 to 16 concatenated tables."""
    if not 64 - _LARGEST_TSZ <= ipa_bits <= min(64 - smallest_tsz(granule, features), max(features.oas_bits, 40)):
        return False
    below = granule + (3 - level) * (granule - 3)
    return below < ipa_bits <= below + (granule - 3) + 4


def _stall_mismatch(stalls: bool, features: Features) -> bool:
    model = features.stall_model
    return model is (StallModel.TERMINATE_ONLY if stalls else StallModel.STALL_FORCED)


def _ats_fault(ste: Ste, features: Features, stage2: bool) -> Rule | None:
    if not features.ats:
        return None
    if ste.eats is Eats.FULL and stage2 and ste.s2s:
        return STE_EATS_S2S
    return STE_EATS_SPLIT if ste.eats is Eats.SPLIT_STAGE else None


_LARGEST_TSZ = 39
_LARGEST_TSZ_SMALL_TABLES = 48


def smallest_tsz(granule: int, features: Features) -> int:
    """Return the smallest TxSZ, the largest region: 52 bits only with 64K tables and IDR5.VAX."""
    return 12 if features.vax and granule == 16 else 16


def largest_tsz(granule: int, features: Features) -> int:
    """Return the largest TxSZ; IDR3.STT allows small tables."""
    if not features.stt:
        return _LARGEST_TSZ
    return _LARGEST_TSZ_SMALL_TABLES - 1 if granule == 16 else _LARGEST_TSZ_SMALL_TABLES


def cd_fault(cd: Cd, ste: Ste, features: Features, *, high_half: bool = True) -> Rule | None:
    """Return the first rule that makes a CD illegal under its STE.

    `high_half`: the translation regime has TTB1 (EL2 has it only with CR2.E2H).
    """
    if not cd.v:
        return CD_INVALID
    if not cd.aa64:
        return CD_AA64
    if cd.endi:
        return CD_ENDI
    if cd.s and ste.s1stalld:
        return CD_STALLD
    if _stall_mismatch(cd.s, features):
        return CD_STALL
    if features.term_model and not cd.a:
        return CD_TERM
    if cd.asid >> 8 and not features.asid16:
        return CD_ASID
    if (cd.ha and features.httu < 1) or (cd.hd and (features.httu < 2 or not cd.ha)):
        return CD_HTTU
    return _halves_fault(cd, features, high_half)


def _halves_fault(cd: Cd, features: Features, high_half: bool) -> Rule | None:
    """Check each enabled half of the address space."""
    limit = min(OAS_BITS[cd.ips], features.oas_bits)
    refused = None
    if not cd.epd0:
        refused = _half_fault(TG0_SHIFT[cd.tg0], cd.t0sz, cd.ttb0, limit, features)
    if refused is None and high_half and not cd.epd1:
        refused = _half_fault(TG1_SHIFT[cd.tg1], cd.t1sz, cd.ttb1, limit, features)
    return refused


def _half_fault(granule: int | None, tsz: int, ttb: int, limit: int, features: Features) -> Rule | None:
    if granule is None or granule not in features.granules:
        return CD_TG
    if not smallest_tsz(granule, features) <= tsz <= largest_tsz(granule, features):
        return CD_TSZ
    return CD_TTB if ttb >> limit else None

"""Which stream table entries and context descriptors an SMMU accepts: C_BAD_STE and C_BAD_CD, check by check.

Source: IHI 0070 G.b, 5.2.2 (validity of the STE), 5.4.2 (validity of the CD), 3.4.3 (addresses out of range), and the
ID registers of chapter 6; DDI 0487, AArch64.S2InvalidSL (where stage 2 may start).
Decided where the architecture leaves a choice: an S1ContextPtr out of range makes the STE illegal with stage 2, too,
as it must without.
Not modelled: Secure and Realm streams; split-stage ATS (IDR0.NS1ATS is 1), big-endian and AArch32 tables
(IDR0.TTENDIAN, IDR0.TTF), which the modelled SMMU does not offer, so that entries which ask for them are illegal.
"""

from __future__ import annotations

from pasidlab.hw.pagetable.vmsa import Granule, stage2_start_level
from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.structures import (
    OAS_BITS,
    TG0_SHIFT,
    TG1_SHIFT,
    AddressSize,
    Cd,
    Config,
    Eats,
    S1Fmt,
    Ste,
    Strw,
)
from pasidlab.rules import Rule


def _ste_rule(name: str, check: str, why: str) -> Rule:
    return Rule(f"smmu.ste-{name}", f"{SPEC}, 5.2 STE", check, f"the STE of stream {{sid:#x}} {why}", source=SPEC)


def _cd_rule(name: str, check: str, why: str) -> Rule:
    text = f"the CD of stream {{sid:#x}}, SubstreamID {{ssid}}, {why}"
    return Rule(f"smmu.cd-{name}", f"{SPEC}, 5.4 CD", check, text, source=SPEC)


STE_INVALID = _ste_rule("invalid", "V == 0", "is not valid")
STE_NO_STAGE_1 = _ste_rule("no-stage-1", "Config[0] == 1 and IDR0.S1P == 0", "asks for a stage 1 that is not there")
STE_NO_STAGE_2 = _ste_rule("no-stage-2", "Config[1] == 1 and IDR0.S2P == 0", "asks for a stage 2 that is not there")
STE_STRW = _ste_rule(
    "strw", "Config == 101, IDR0.Hyp == 1 and STRW is reserved", "names a translation regime that does not exist"
)
STE_S1CDMAX = _ste_rule("s1cdmax", "S1CDMax > IDR1.SSIDSIZE", "has more substreams than the SMMU can tell apart")
STE_S1FMT = _ste_rule(
    "s1fmt", "two-level CD table and IDR0.CD2L == 0", "has a two-level CD table, which the SMMU does not read"
)
STE_S1CONTEXTPTR = _ste_rule("s1contextptr", "S1ContextPtr >= 2^OAS", "has its CDs outside of the address size")
STE_S1STALLD = _ste_rule(
    "s1stalld", "S1STALLD == 1 and IDR0.STALL_MODEL != 0", "forbids stalls, and the SMMU gives no choice"
)
STE_S2S = _ste_rule("s2s", "S2S against IDR0.STALL_MODEL", "has a fault model of stage 2 that the SMMU does not have")
STE_EATS_S2S = _ste_rule("eats-s2s", "EATS == 01, stage 2 and S2S == 1", "lets stage 2 stall an ATS device")
STE_EATS_SPLIT = _ste_rule(
    "eats-split", "EATS == 10 and IDR0.NS1ATS == 1", "asks for split-stage ATS, which is not there"
)
STE_S2AA64 = _ste_rule(
    "s2aa64", "S2AA64 == 0 and IDR0.TTF == 2", "has AArch32 tables at stage 2, which the SMMU does not read"
)
STE_S2ENDI = _ste_rule(
    "s2endi", "S2ENDI == 1 and IDR0.TTENDIAN == 2", "has big-endian stage-2 tables, which the SMMU does not read"
)
STE_S2TG = _ste_rule("s2tg", "S2TG is reserved, or against IDR5", "has a stage-2 granule that the SMMU does not have")
STE_S2T0SZ = _ste_rule("s2t0sz", "S2T0SZ out of range", "has an input size of stage 2 that the SMMU does not do")
STE_S2SL0 = _ste_rule("s2sl0", "S2SL0 against S2T0SZ or S2TG", "starts stage 2 at a level its size does not fit")
STE_S2TTB = _ste_rule("s2ttb", "S2TTB >= 2^S2PS", "has its stage-2 table outside of the address size")
STE_S2HA = _ste_rule("s2ha", "S2HA or S2HD against IDR0.HTTU", "wants table updates that the SMMU does not do")
STE_S2VMID = _ste_rule("s2vmid", "S2VMID[15:8] != 0 and IDR0.VMID16 == 0", "has a VMID of more than 8 bits")

CD_INVALID = _cd_rule("invalid", "V == 0", "is not valid")
CD_AA64 = _cd_rule("aa64", "AA64 == 0 and IDR0.TTF == 2", "has AArch32 tables, which the SMMU does not read")
CD_ENDI = _cd_rule("endi", "ENDI == 1 and IDR0.TTENDIAN == 2", "has big-endian tables, which the SMMU does not read")
CD_STALLD = _cd_rule("stalld", "S == 1 and STE.S1STALLD == 1", "stalls, which its STE forbids")
CD_STALL = _cd_rule("stall", "S against IDR0.STALL_MODEL", "has a fault model that the SMMU does not have")
CD_TERM = _cd_rule("term", "A == 0 and IDR0.TERM_MODEL == 1", "reads zeros on a fault, which the SMMU does not do")
CD_HTTU = _cd_rule("httu", "HA or HD against IDR0.HTTU", "wants table updates that are not there")
CD_ASID = _cd_rule("asid", "ASID[15:8] != 0 and IDR0.ASID16 == 0", "has an ASID of more than 8 bits")
CD_TG = _cd_rule(
    "tg", "TGx of an enabled half is reserved, or against IDR5", "has a granule that the SMMU does not have"
)
CD_TSZ = _cd_rule("tsz", "TxSZ of an enabled half out of range", "has a region size that the SMMU does not do")
CD_TTB = _cd_rule("ttb", "TTBx of an enabled half >= 2^IPS", "has its table outside of the address size")

_HIGHEST_START = {Granule.K4: (0, 44), Granule.K16: (1, 42), Granule.K64: (1, 44)}
"""The highest level at which stage 2 may start, and the smallest OAS with which it may."""


def is_el2(ste: Ste, features: Features) -> bool:
    """Whether stage 1 of a stream is that of EL2; STRW counts only where there is EL2, and no stage 2."""
    return features.hyp and ste.config is Config.STAGE_1 and ste.strw is Strw.EL2


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
    if refused is None and (stage1 or stage2):
        refused = _vmid_fault(ste, features) or _ats_fault(ste, features, stage2)
    return refused


def _stage1_fault(ste: Ste, features: Features) -> Rule | None:
    if features.hyp and ste.config is Config.STAGE_1 and ste.strw & 1:
        return STE_STRW
    if features.ssid_bits and ste.s1cdmax > features.ssid_bits:
        return STE_S1CDMAX
    if not features.two_level_cds and ste.s1fmt in _TWO_LEVEL and ste.s1cdmax and features.ssid_bits:
        return STE_S1FMT
    if ste.s1contextptr >> features.oas_bits:
        return STE_S1CONTEXTPTR
    if ste.s1stalld and features.stall_model is not StallModel.STALL_AND_TERMINATE:
        return STE_S1STALLD
    return None


_TWO_LEVEL = (S1Fmt.LEAF_4K, S1Fmt.LEAF_64K)


def _stage2_fault(ste: Ste, features: Features) -> Rule | None:
    if not ste.s2aa64:
        return STE_S2AA64
    if ste.s2endi:
        return STE_S2ENDI
    if _stall_mismatch(ste.s2s, features):
        return STE_S2S
    if _httu_mismatch(ste.s2ha, ste.s2hd, features):
        return STE_S2HA
    return _stage2_table_fault(ste, features)


def _stage2_table_fault(ste: Ste, features: Features) -> Rule | None:
    shift = TG0_SHIFT[ste.s2tg]
    if shift is None or shift not in features.granules:
        return STE_S2TG
    if not _smallest_s2t0sz(shift, features) <= ste.s2t0sz <= largest_tsz(shift, features):
        return STE_S2T0SZ
    granule = Granule(shift)
    level = stage2_start_level(granule, ste.s2t0sz, ste.s2sl0)
    if level is None or not _may_start(granule, level, features):
        return STE_S2SL0
    return STE_S2TTB if ste.s2ttb >> _base_bits(ste.s2ps, shift, features) else None


def _may_start(granule: Granule, level: int, features: Features) -> bool:
    """Whether stage 2 may start at a level: the highest needs large addresses, 3 with 4K needs small tables."""
    if granule is Granule.K4 and level == _LAST_LEVEL:
        return features.stt
    highest, oas_bits = _HIGHEST_START[granule]
    return level > highest or features.oas_bits >= oas_bits


def _base_bits(size: AddressSize, granule: int, features: Features) -> int:
    """Return how many bits the base of a table may have; only 64K tables can lie above 48."""
    return min(OAS_BITS[size], features.oas_bits, _WIDE if granule == Granule.K64 else _NARROW)


_LAST_LEVEL = 3
_NARROW = 48
_WIDE = 52


def _stall_mismatch(stalls: bool, features: Features) -> bool:
    model = features.stall_model
    return model is (StallModel.TERMINATE_ONLY if stalls else StallModel.STALL_FORCED)


def _httu_mismatch(access: bool, dirty: bool, features: Features) -> bool:
    """Whether hardware is to update what it cannot; dirty state without access flags is legal and means nothing."""
    return features.httu < (2 if dirty else 1 if access else 0)


def _vmid_fault(ste: Ste, features: Features) -> Rule | None:
    """Check the VMID, which tags all translations of EL1 if there is stage 2 at all."""
    if features.vmid16 or not ste.s2vmid >> 8 or not features.stage2 or is_el2(ste, features):
        return None
    return STE_S2VMID


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
    return 12 if features.vax and granule == Granule.K64 else 16


def _smallest_s2t0sz(granule: int, features: Features) -> int:
    """Return the smallest S2T0SZ: stage 2 takes no larger addresses than stage 1 can put out."""
    return max(12 if granule == Granule.K64 else 16, 64 - features.oas_bits)


def largest_tsz(granule: int, features: Features) -> int:
    """Return the largest TxSZ; IDR3.STT allows small tables."""
    if not features.stt:
        return _LARGEST_TSZ
    return _LARGEST_TSZ_SMALL_TABLES - 1 if granule == Granule.K64 else _LARGEST_TSZ_SMALL_TABLES


def cd_fault(cd: Cd, ste: Ste, features: Features, *, high_half: bool = True) -> Rule | None:
    """Return the first rule that makes a CD illegal under its STE.

    `high_half`: the translation regime has TTB1; EL2 without CR2.E2H has not, nor ASIDs, nor does EPD0 count there.
    """
    if not cd.v:
        return CD_INVALID
    if not cd.aa64:
        return CD_AA64
    if cd.endi and not (high_half and cd.epd0 and cd.epd1):
        return CD_ENDI
    if cd.s and ste.s1stalld:
        return CD_STALLD
    if _stall_mismatch(cd.s, features):
        return CD_STALL
    if features.term_model and not cd.a:
        return CD_TERM
    if high_half and not features.asid16 and cd.asid >> 8:
        return CD_ASID
    if _httu_mismatch(cd.ha, cd.hd, features):
        return CD_HTTU
    return _halves_fault(cd, features, high_half)


def _halves_fault(cd: Cd, features: Features, high_half: bool) -> Rule | None:
    """Check each enabled half of the address space."""
    refused = None
    if not (high_half and cd.epd0):
        refused = _half_fault(TG0_SHIFT[cd.tg0], cd.t0sz, cd.ttb0, cd.ips, features)
    if refused is None and high_half and not cd.epd1:
        refused = _half_fault(TG1_SHIFT[cd.tg1], cd.t1sz, cd.ttb1, cd.ips, features)
    return refused


def _half_fault(granule: int | None, tsz: int, ttb: int, size: AddressSize, features: Features) -> Rule | None:
    if granule is None or granule not in features.granules:
        return CD_TG
    if not smallest_tsz(granule, features) <= tsz <= largest_tsz(granule, features):
        return CD_TSZ
    return CD_TTB if ttb >> _base_bits(size, granule, features) else None

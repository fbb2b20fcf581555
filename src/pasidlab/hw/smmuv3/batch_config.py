"""Compiled: from StreamID and SubstreamID to stages that are ready for a walk; see `lookup`, `legality`, `contexts`.

Source: IHI 0070 G.b, chapters 3.3 and 5, as those modules have it.
Not modelled: what those modules leave out, and caches.
"""

from __future__ import annotations

from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.numbers import places
from pasidlab.hw.batch.store import Store, aborts, load64, newest, part, word_index
from pasidlab.hw.smmuv3 import batch_tables as tables
from pasidlab.hw.smmuv3.batch_records import ENTRY_WORDS, Smmu, Stage, field
from pasidlab.hw.smmuv3.batch_tables import EVENT, RULE
from pasidlab.hw.smmuv3.batch_walk import CLASS_CD, READ_TABLE, Found, ended, reached, through
from pasidlab.hw.smmuv3.features import StallModel
from pasidlab.hw.smmuv3.structures import OAS_BITS, Cd, Config, Eats, L1Cd, L1Std, S1Dss, S1Fmt, Ste, Strw
from pasidlab.hw.smmuv3.tables import CD_BYTES, L1_BYTES, LARGEST_SPAN, LEAF_SPLIT, STE_BYTES

STE, CD = places(Ste), places(Cd, first=ENTRY_WORDS)
"""Fields of the STE and the CD of one translation, which are kept one after the other."""
L1STD, L1CD = places(L1Std), places(L1Cd)


BYPASS, STAGE_1 = int(Config.BYPASS), int(Config.STAGE_1)
_EL2 = int(Strw.EL2)
_S1DSS_BYPASS, _S1DSS_SSID0 = int(S1Dss.BYPASS), int(S1Dss.SSID0)
_EATS_FULL, _EATS_SPLIT_STAGE = int(Eats.FULL), int(Eats.SPLIT_STAGE)
_SPLITS = tuple(LEAF_SPLIT.get(shape, 0) for shape in S1Fmt)
"""SubstreamID bits of a leaf for each S1Fmt, 0 for a linear table."""
_CHOICE, _TERMINATE_ONLY, _FORCED = (int(model) for model in list(StallModel)[:3])
_TG0, _TG1, _BASE_BITS = tables.TG0_INDEX, tables.TG1_INDEX, tables.BASE_BITS
_WIDE_BITS = max(_BASE_BITS)
_WIDE_BASE_LG2 = 6
"""Tables lie at multiples of 64 bytes at least where their addresses have 52 bits."""
_TOP_BYTE = -1 << 56


# --- stream table ----------------------------------------------------------------------------------------------------


@compiled
def unreadable(memory: Store, smmu: Smmu, address: int, size: int) -> bool:
    """Whether a fetch of configuration is aborted; beyond the output address size it is, too."""
    return bool(address >> smmu.setup.oas_bits) or aborts(memory, smmu, address, size)


@compiled
def fetch_entry(memory: Store, smmu: Smmu, address: int, first: int) -> None:
    """Keep those words of an entry that matter here, from word `first` of `entries` on."""
    index = word_index(memory, address)
    for word in range(ENTRY_WORDS):
        value = memory.words[index + word]
        smmu.entries[first + word] = newest(smmu, address + 8 * word, value) if smmu.stores else value


@compiled
def config_fault(event: int, rule: int) -> Found:
    """End a translation for its configuration."""
    return ended(event, rule, 0)


@compiled
def fetch_fault(smmu: Smmu, event: int, rule: int, address: int) -> Found:
    """End a translation because its configuration cannot be read."""
    return ended(event, rule, address & (1 << smmu.setup.oas_bits) - 1)


@compiled
def find_stream(memory: Store, smmu: Smmu, sid: int) -> Found:
    """Fetch the STE of a stream, if it is legal."""
    place = ste_address(memory, smmu, sid)
    if place.event:
        return place
    if unreadable(memory, smmu, place.address, STE_BYTES):
        return fetch_fault(smmu, EVENT.F_STE_FETCH, RULE.STE_ABORT, place.address)
    fetch_entry(memory, smmu, place.address, 0)
    rule = ste_fault(smmu)
    return config_fault(EVENT.C_BAD_STE, rule) if rule else place


@compiled
def ste_address(memory: Store, smmu: Smmu, sid: int) -> Found:
    """Find where an STE lies."""
    if sid >> smmu.setup.log2size:
        return config_fault(EVENT.C_BAD_STREAMID, RULE.SID_RANGE)
    if not smmu.setup.fmt:
        return reached(smmu.setup.strtab_base + sid * STE_BYTES)
    place = smmu.setup.strtab_base + (sid >> smmu.setup.split) * L1_BYTES
    if unreadable(memory, smmu, place, L1_BYTES):
        return fetch_fault(smmu, EVENT.F_STE_FETCH, RULE.L1STD_ABORT, place)
    l1std = load64(memory, smmu, place)
    span, index = part(l1std, L1STD.span), sid & (1 << smmu.setup.split) - 1
    if not 0 < span <= min(LARGEST_SPAN, smmu.setup.split + 1) or index >> (span - 1):
        return config_fault(EVENT.C_BAD_STREAMID, RULE.L1STD_SPAN)
    return reached((part(l1std, L1STD.l2ptr) & -(STE_BYTES << (span - 1))) + index * STE_BYTES)


@compiled
def is_el2(smmu: Smmu) -> int:
    """Whether stage 1 of a stream is that of EL2."""
    is_stage1 = field(smmu, STE.config) == STAGE_1 and field(smmu, STE.strw) == _EL2
    return smmu.setup.hyp if is_stage1 else 0


@compiled
def ste_fault(smmu: Smmu) -> int:
    """Return the first rule that makes an STE illegal, 0 for none."""
    config = field(smmu, STE.config)
    if not field(smmu, STE.v):
        return RULE.STE_INVALID
    if config < BYPASS:
        return 0
    if config & 1 and not smmu.setup.stage1:
        return RULE.STE_NO_STAGE_1
    if config & 2 and not smmu.setup.stage2:
        return RULE.STE_NO_STAGE_2
    rule = stage1_fault(smmu) if config & 1 else 0
    if not rule and config & 2:
        rule = stage2_fault(smmu)
    if not rule and config & 3:
        rule = shared_fault(smmu)
    return rule


@compiled
def stage1_fault(smmu: Smmu) -> int:
    """Check what an STE says for stage 1."""
    if smmu.setup.hyp and field(smmu, STE.config) == STAGE_1 and field(smmu, STE.strw) & 1:
        return RULE.STE_STRW
    s1cdmax = s1cdmax_of(smmu)
    if s1cdmax > smmu.setup.ssid_bits:
        return RULE.STE_S1CDMAX
    if s1cdmax and not smmu.setup.two_level_cds and _SPLITS[field(smmu, STE.s1fmt)]:
        return RULE.STE_S1FMT
    if field(smmu, STE.s1contextptr) >> smmu.setup.oas_bits:
        return RULE.STE_S1CONTEXTPTR
    if field(smmu, STE.s1stalld) and smmu.setup.stall_model != _CHOICE:
        return RULE.STE_S1STALLD
    return 0


@compiled
def stage2_fault(smmu: Smmu) -> int:
    """Check what an STE says for stage 2."""
    if not field(smmu, STE.s2aa64):
        return RULE.STE_S2AA64
    if field(smmu, STE.s2endi):
        return RULE.STE_S2ENDI
    if stall_mismatch(smmu, field(smmu, STE.s2s)):
        return RULE.STE_S2S
    if httu_mismatch(smmu, field(smmu, STE.s2ha), field(smmu, STE.s2hd)):
        return RULE.STE_S2HA
    tg = field(smmu, STE.s2tg)
    rule: int = smmu.told.stage2_rules[tg, field(smmu, STE.s2t0sz), field(smmu, STE.s2sl0)]
    if rule:
        return rule
    return RULE.STE_S2TTB if field(smmu, STE.s2ttb) >> base_bits(smmu, field(smmu, STE.s2ps), _TG0[tg]) else 0


@compiled
def shared_fault(smmu: Smmu) -> int:
    """Check the VMID, and ATS."""
    if not smmu.setup.vmid16 and field(smmu, STE.s2vmid) >> 8 and smmu.setup.stage2 and not is_el2(smmu):
        return RULE.STE_S2VMID
    if not smmu.setup.ats:
        return 0
    eats = field(smmu, STE.eats)
    if eats == _EATS_FULL and field(smmu, STE.config) & 2 and field(smmu, STE.s2s):
        return RULE.STE_EATS_S2S
    return RULE.STE_EATS_SPLIT if eats == _EATS_SPLIT_STAGE else 0


@compiled
def base_bits(smmu: Smmu, size: int, granule: int) -> int:
    """Return how many bits the base of a table may have."""
    return min(OAS_BITS[size], smmu.setup.oas_bits, _BASE_BITS[granule])


@compiled
def stall_mismatch(smmu: Smmu, stalls: int) -> bool:
    """Whether the SMMU does not have a fault model."""
    return smmu.setup.stall_model == (_TERMINATE_ONLY if stalls else _FORCED)


@compiled
def httu_mismatch(smmu: Smmu, access: int, dirty: int) -> bool:
    """Whether hardware is to update what it cannot."""
    return smmu.setup.httu < (2 if dirty else 1 if access else 0)


# --- CD table --------------------------------------------------------------------------------------------------------

BYPASSED = -1
"""Index of a CD where S1DSS bypasses stage 1."""


@compiled
def cd_index(smmu: Smmu, ssid: int, s1cdmax: int) -> Found:
    """Find which CD a transaction uses."""
    s1dss = field(smmu, STE.s1dss)
    if not s1cdmax:
        return reached(0) if ssid < 0 else config_fault(EVENT.C_BAD_SUBSTREAMID, RULE.SSID_WITHOUT_TABLE)
    if ssid < 0 and s1dss == _S1DSS_BYPASS:
        return reached(BYPASSED)
    if ssid < 0 and s1dss != _S1DSS_SSID0:
        return config_fault(EVENT.F_STREAM_DISABLED, RULE.S1DSS_TERMINATE)
    if ssid > 0 and ssid >> s1cdmax:
        return config_fault(EVENT.C_BAD_SUBSTREAMID, RULE.SSID_RANGE)
    if ssid == 0 and s1dss == _S1DSS_SSID0:
        return config_fault(EVENT.F_STREAM_DISABLED, RULE.S1DSS_SSID0)
    return reached(max(ssid, 0))


@compiled
def find_context(memory: Store, smmu: Smmu, ssid: int, high_half: int) -> Found:
    """Fetch the CD of a transaction, if it is legal; its `address` is BYPASSED where there is none to be fetched."""
    s1cdmax = s1cdmax_of(smmu)
    index = cd_index(smmu, ssid, s1cdmax)
    if index.event or index.address == BYPASSED:
        return index
    place = cd_address(memory, smmu, index.address, s1cdmax)
    if place.event:
        return place
    at = fetch_through(memory, smmu, place.address)
    if at.event:
        return at
    if unreadable(memory, smmu, at.address, CD_BYTES):
        return fetch_fault(smmu, EVENT.F_CD_FETCH, RULE.CD_ABORT, at.address)
    fetch_entry(memory, smmu, at.address, ENTRY_WORDS)
    rule = cd_fault(smmu, high_half)
    return config_fault(EVENT.C_BAD_CD, rule) if rule else at


@compiled
def s1cdmax_of(smmu: Smmu) -> int:
    """Return log2 of the number of CDs, which is 0 without substreams."""
    return field(smmu, STE.s1cdmax) if smmu.setup.ssid_bits else 0


@compiled
def cd_table_split(smmu: Smmu) -> int:
    """Return how many SubstreamID bits index a leaf of the CD table, 0 where it has one level."""
    return _SPLITS[field(smmu, STE.s1fmt)] if s1cdmax_of(smmu) else 0


@compiled
def cd_address(memory: Store, smmu: Smmu, index: int, s1cdmax: int) -> Found:
    """Find where a CD lies, for stage 2 to translate."""
    pointer = field(smmu, STE.s1contextptr)
    split = cd_table_split(smmu)
    if not split:
        return reached((pointer & -(CD_BYTES << s1cdmax)) + index * CD_BYTES)
    base = pointer & -max(CD_BYTES, L1_BYTES << max(s1cdmax - split, 0))
    at = fetch_through(memory, smmu, base + (index >> split) * L1_BYTES)
    if at.event:
        return at
    if unreadable(memory, smmu, at.address, L1_BYTES):
        return fetch_fault(smmu, EVENT.F_CD_FETCH, RULE.L1CD_ABORT, at.address)
    l1cd = load64(memory, smmu, at.address)
    if not part(l1cd, L1CD.v):
        return config_fault(EVENT.C_BAD_SUBSTREAMID, RULE.L1CD_INVALID)
    if part(l1cd, L1CD.l2ptr) >> smmu.setup.oas_bits:
        return config_fault(EVENT.C_BAD_SUBSTREAMID, RULE.L1CD_RANGE)
    return reached((part(l1cd, L1CD.l2ptr) & -(CD_BYTES << split)) + (index & (1 << split) - 1) * CD_BYTES)


@compiled
def fetch_through(memory: Store, smmu: Smmu, address: int) -> Found:
    """Translate the address of a CD or L1CD by stage 2, if there is one."""
    at = through(memory, smmu, address, READ_TABLE)
    if at.event:
        return Found(at.event, at.rule, at.address, 0, 0, at.stage, at.level, CLASS_CD, at.fetch_address)
    return at


@compiled
def cd_fault(smmu: Smmu, high_half: int) -> int:
    """Return the first rule that makes a CD illegal, 0 for none."""
    no_low, no_high = high_half and field(smmu, CD.epd0), not high_half or field(smmu, CD.epd1)
    stalls = field(smmu, CD.s)
    if not field(smmu, CD.v):
        return RULE.CD_INVALID
    if not field(smmu, CD.aa64):
        return RULE.CD_AA64
    if field(smmu, CD.endi) and not (high_half and no_low and no_high):
        return RULE.CD_ENDI
    if stalls and field(smmu, STE.s1stalld):
        return RULE.CD_STALLD
    if stall_mismatch(smmu, stalls):
        return RULE.CD_STALL
    if smmu.setup.term_model and not field(smmu, CD.a):
        return RULE.CD_TERM
    if high_half and not smmu.setup.asid16 and field(smmu, CD.asid) >> 8:
        return RULE.CD_ASID
    if httu_mismatch(smmu, field(smmu, CD.ha), field(smmu, CD.hd)):
        return RULE.CD_HTTU
    rule = 0 if no_low else low_half_fault(smmu)
    return high_half_fault(smmu) if not rule and not no_high else rule


@compiled
def low_half_fault(smmu: Smmu) -> int:
    """Check TG0, T0SZ and TTB0."""
    tg = field(smmu, CD.tg0)
    rule: int = smmu.told.half_rules[0, tg, field(smmu, CD.t0sz)]
    if not rule and field(smmu, CD.ttb0) >> base_bits(smmu, field(smmu, CD.ips), _TG0[tg]):
        rule = RULE.CD_TTB
    return rule


@compiled
def high_half_fault(smmu: Smmu) -> int:
    """Check TG1, T1SZ and TTB1."""
    tg = field(smmu, CD.tg1)
    rule: int = smmu.told.half_rules[1, tg, field(smmu, CD.t1sz)]
    if not rule and field(smmu, CD.ttb1) >> base_bits(smmu, field(smmu, CD.ips), _TG1[tg]):
        rule = RULE.CD_TTB
    return rule


# --- formats ---------------------------------------------------------------------------------------------------------


shape_index = compiled(tables.shape_index)


@compiled
def table_base(smmu: Smmu, stage: Stage, ttb: int, base: int) -> int:
    """Align the address of a first table as hardware does: to the table's size."""
    lg2: int = stage.bits - smmu.told.levels[stage.shape, stage.start, tables.SHIFT] + 3
    if base == _WIDE_BITS:
        lg2 = max(lg2, _WIDE_BASE_LG2)
    return ttb >> lg2 << lg2


@compiled
def prepare_stage2(smmu: Smmu) -> None:
    """Make stage 2 of a legal STE ready."""
    stage = smmu.stage2
    stage.number = 2 if field(smmu, STE.config) & 2 else 0
    if not stage.number:
        return
    granule, size, tsz = _TG0[field(smmu, STE.s2tg)], field(smmu, STE.s2ps), field(smmu, STE.s2t0sz)
    stage.refusal = 0
    stage.start = smmu.told.starts2[granule, tsz, field(smmu, STE.s2sl0)]
    stage.bits = 64 - tsz
    stage.shape = shape_index(2, granule, size)
    stage.table = table_base(smmu, stage, field(smmu, STE.s2ttb), base_bits(smmu, size, granule))
    stage.ha, stage.hd, stage.ptw = field(smmu, STE.s2ha), field(smmu, STE.s2hd), field(smmu, STE.s2ptw)
    stage.accessible = stage.ha | field(smmu, STE.s2affd)
    stage.mode, stage.limits = tables.STAGE2_MODE | stage.ha & stage.hd, 0


@compiled
def canonical(smmu: Smmu, address: int, high_half: int) -> int:
    """Return an address without its tag, where TBI is on in an enabled half."""
    if address >> 55 & 1:
        tagged = high_half and field(smmu, CD.tbi1) and not field(smmu, CD.epd1)
        return address | _TOP_BYTE if tagged else address
    tagged = field(smmu, CD.tbi0) and not (high_half and field(smmu, CD.epd0))
    return address & ~_TOP_BYTE if tagged else address


@compiled
def stage1_refusal(smmu: Smmu, address: int, high_half: int) -> int:
    """Return the rule for which there is no walk for a canonical address, 0 for none."""
    if address >> 55 & 1:
        if not high_half:
            return RULE.RANGE
        if field(smmu, CD.epd1):
            return RULE.DISABLED
        return RULE.RANGE if ~address >> (64 - field(smmu, CD.t1sz)) else 0
    if high_half and field(smmu, CD.epd0):
        return RULE.DISABLED
    return RULE.RANGE if address >> (64 - field(smmu, CD.t0sz)) else 0


@compiled
def prepare_stage1(smmu: Smmu, address: int, high_half: int) -> None:
    """Make the half of a legal CD ready in which a canonical address lies."""
    stage = smmu.stage1
    stage.number = 1
    stage.refusal = stage1_refusal(smmu, address, high_half)
    if stage.refusal:
        return
    granule, tsz, ttb, had = _TG0[field(smmu, CD.tg0)], field(smmu, CD.t0sz), field(smmu, CD.ttb0), field(smmu, CD.had0)
    if address >> 55 & 1:
        granule, tsz, ttb, had = (
            _TG1[field(smmu, CD.tg1)],
            field(smmu, CD.t1sz),
            field(smmu, CD.ttb1),
            field(smmu, CD.had1),
        )
    size = field(smmu, CD.ips)
    stage.start = smmu.told.starts1[granule, tsz]
    stage.bits = 64 - tsz
    stage.shape = shape_index(1, granule, size)
    stage.table = table_base(smmu, stage, ttb, base_bits(smmu, size, granule))
    stage.ha, stage.hd = field(smmu, CD.ha), field(smmu, CD.hd)
    stage.accessible = stage.ha | field(smmu, CD.affd)
    stage.limits = 0 if had else tables.LIMITS
    stage.mode = stage.ha & stage.hd | field(smmu, CD.wxn) << 1 | field(smmu, CD.pan) << 2 | (0 if high_half else 8)

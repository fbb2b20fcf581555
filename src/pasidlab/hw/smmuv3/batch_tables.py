"""What compiled translation is told about entries, page-table formats and rules, worked out by those who declare them.

Compiled code knows integers only: a rule is its number, a field of an entry its `Place`, and what a format says about
a level, a start or the rights of a leaf is a row of an array that was filled by asking the format.
Nothing here decides anything.

Source: what the modules that it asks name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from pasidlab.hw.batch.numbers import ACCESS_OF, Numbering, Numbers, Words, constants, places
from pasidlab.hw.pagetable import vmsa
from pasidlab.hw.pagetable.contract import WRITE, Format, Level, Start
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, TableDescriptor
from pasidlab.hw.pagetable.vmsa import Granule, Region, Stage1, Stage2
from pasidlab.hw.smmuv3 import legality, lookup, translate
from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.records import EventCode
from pasidlab.hw.smmuv3.structures import OAS_BITS, TG0_SHIFT, TG1_SHIFT, Cd, Config, Ste
from pasidlab.rules import Rule

TG_CODES = 4
SIZES = 64
"""Values of a T0SZ field."""
SL0_CODES = 4
LEVELS = 4

# --- rules -----------------------------------------------------------------------------------------------------------


def _rules() -> dict[str, Rule]:
    modules = (translate, lookup, legality, vmsa)
    return {name: rule for module in modules for name, rule in vars(module).items() if isinstance(rule, Rule)}


_BY_NAME = _rules()
NUMBERING = Numbering(_BY_NAME.values())
"""Every rule that an untranslated transaction can meet."""
RULE = NUMBERING.by_name(_BY_NAME)
"""The number of each rule by the name it is declared with."""
EVENT: Numbers = constants({code.name: int(code) for code in EventCode})
"""The code of each event by name."""
number_of = NUMBERING.number_of

# --- levels and starts -----------------------------------------------------------------------------------------------

GRANULES = tuple(Granule)
_GRANULE_INDEX: dict[int | None, int] = {shift: index for index, shift in enumerate(GRANULES)}
TG0_INDEX = tuple(_GRANULE_INDEX.get(shift, 0) for shift in TG0_SHIFT)
"""Index into GRANULES for each code of TG0 and S2TG."""
TG1_INDEX = tuple(_GRANULE_INDEX.get(shift, 0) for shift in TG1_SHIFT)
"""The same for TG1."""


def _widest_tsz(granule: Granule) -> int:
    return min(tsz for tsz in range(SIZES) if vmsa.stage1_start_level(granule, tsz) is not None)


BASE_BITS = tuple(64 - _widest_tsz(granule) for granule in GRANULES)
"""The address bits that the base of a table can have at most, for each granule: those of its widest region."""

SHIFT, RUN, OUTPUT, TABLE, OUTPUT_EXCESS, TABLE_EXCESS, FOLDED, READINGS = range(8)
"""Columns of a level: the attributes of `Level`; from READINGS on, the rule for each value of an entry's bits 1:0."""
_COLUMNS = READINGS + 4


def shape_index(stage: int, granule: int, size: int) -> int:
    """Return the row of `levels` for a stage, an index into GRANULES and a code of the output size."""
    return ((stage - 1) * len(GRANULES) + granule) * len(OAS_BITS) + size


def _levels(features: Features) -> Words:
    table = np.zeros((2 * len(GRANULES) * len(OAS_BITS), LEVELS, _COLUMNS), np.int64)
    for stage, (granule, shift), (size, bits) in product((1, 2), enumerate(GRANULES), enumerate(OAS_BITS)):
        start = _widest(stage, shift, min(bits, features.oas_bits), features.oas_bits).start(0)
        assert isinstance(start, Start)
        for level in start.levels:
            table[shape_index(stage, granule, size), level.number] = _row(level)
    return table


def _widest(stage: int, granule: Granule, oa_bits: int, oas_bits: int) -> Format:
    """Return a format that has every level a granule can have at a stage."""
    tsz = _widest_tsz(granule)
    if stage == 1:
        return Stage1(ttb0=Region(0, tsz, granule), ttb1=None, oa_bits=oa_bits, oas_bits=oas_bits)
    sl0 = min(range(SL0_CODES), key=lambda code: _start_or(LEVELS, vmsa.stage2_start_level(granule, tsz, code)))
    return Stage2(ttb=0, tsz=tsz, sl0=sl0, granule=granule, oa_bits=oa_bits, oas_bits=oas_bits)


def _row(level: Level) -> list[int]:
    masks = [level.output, level.table, level.output_excess, level.table_excess, level.folded]
    return [level.shift, level.run, *masks, *(number_of(reading.rule) for reading in level.readings)]


def _start_or(default: int, level: int | None) -> int:
    return default if level is None else level


def _starts1() -> Words:
    found = [[_start_or(-1, vmsa.stage1_start_level(g, tsz)) for tsz in range(SIZES)] for g in GRANULES]
    return np.array(found, np.int64)


def _starts2() -> Words:
    found = [
        [[_start_or(-1, vmsa.stage2_start_level(g, tsz, sl0)) for sl0 in range(SL0_CODES)] for tsz in range(SIZES)]
        for g in GRANULES
    ]
    return np.array(found, np.int64)


# --- legality of sizes -----------------------------------------------------------------------------------------------


def _half_rules(features: Features) -> Words:
    """Return the rule that TGx and TxSZ of each half break."""
    legal = Cd(v=True, aa64=True, a=True, s=features.stall_model is StallModel.STALL_FORCED)
    rules = np.zeros((2, TG_CODES, SIZES), np.int64)
    for tg, tsz in product(range(TG_CODES), range(SIZES)):
        halves = (legal.replace(epd1=True, tg0=tg, t0sz=tsz), legal.replace(epd0=True, tg1=tg, t1sz=tsz))
        rules[:, tg, tsz] = [number_of(legality.cd_fault(half, Ste(), features)) for half in halves]
    return rules


def _stage2_rules(features: Features) -> Words:
    """Return the rule that S2TG, S2T0SZ and S2SL0 break."""
    stalls = features.stall_model is StallModel.STALL_FORCED
    legal = Ste(v=True, config=Config.STAGE_2, s2aa64=True, s2s=stalls)
    rules = np.zeros((TG_CODES, SIZES, SL0_CODES), np.int64)
    for tg, tsz, sl0 in product(range(TG_CODES), range(SIZES), range(SL0_CODES)):
        ste = legal.replace(s2tg=tg, s2t0sz=tsz, s2sl0=sl0)
        rules[tg, tsz, sl0] = number_of(legality.ste_fault(ste, features))
    return rules


# --- rights ----------------------------------------------------------------------------------------------------------

LEAF = places(Stage1Leaf)
ENTRY_CODES = 32
"""Values of the bits of a leaf that matter for rights: AP, DBM, PXN and UXN, in stage 2 S2AP, DBM and XN."""
LIMIT_CODES = 16
"""Values of the bits that a table takes away by."""
STAGE2_MODE = 16
"""The first mode of stage 2; modes of stage 1 are its flags `dirty`, `wxn`, `pan` and `one privilege`, bit 0 first."""
LIMITS = int(TableDescriptor.mask("pxn_table", "uxn_table", "ap_table"))
"""The bits of a table entry that take rights away, which are neighbours, the lowest being FIRST_LIMIT."""
FIRST_LIMIT = TableDescriptor.FIELDS["pxn_table"].lsb


def _entry_of(code: int) -> int:
    return int(Stage1Leaf(ap=code & 3, dbm=code >> 2 & 1, pxn=code >> 3 & 1, uxn=code >> 4))


def _modes() -> Iterator[Format]:
    nowhere = Region(0, 0, Granule.K4)
    for mode in range(STAGE2_MODE):
        dirty, wxn, pan, one = (bool(mode >> bit & 1) for bit in range(4))
        yield Stage1(ttb0=nowhere, ttb1=None if one else nowhere, ha=dirty, hd=dirty, wxn=wxn, pan=pan, el2=one)
    for dirty in (False, True):
        yield Stage2(ttb=0, tsz=0, sl0=0, granule=Granule.K4, ha=dirty, hd=dirty, xnx=True)


@cache
def _grants() -> tuple[Words, Words]:
    """Return the rights of a leaf, and for each right the rule that denies it, by mode, limits and entry."""
    rows = [
        fmt.grant(_entry_of(entry), limits << FIRST_LIMIT, None)
        for fmt, limits, entry in product(_modes(), range(LIMIT_CODES), range(ENTRY_CODES))
    ]
    rights = [int(grant.rights & ~WRITE if grant.clean else grant.rights) for grant in rows]
    denials = [[number_of(grant.denial(access)) for access in ACCESS_OF] for grant in rows]
    return np.array(rights, np.int64), np.array(denials, np.int64)


class Tables(NamedTuple):
    """Everything above, for one set of features."""

    levels: Words
    starts1: Words
    starts2: Words
    half_rules: Words
    stage2_rules: Words
    rights: Words
    denials: Words


@cache
def tables_of(features: Features) -> Tables:
    """Return the tables of an SMMU."""
    half_rules, stage2_rules = _half_rules(features), _stage2_rules(features)
    return Tables(_levels(features), _starts1(), _starts2(), half_rules, stage2_rules, *_grants())

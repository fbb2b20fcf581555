"""What compiled translation is told about entries, page-table formats, rules and reasons, by those who declare them.

Compiled code knows integers only: a rule is its number, a field of an entry its `Place`, and which entries are legal,
what an entry of a level is, which rights a leaf grants and which reason a fault has are rows of arrays that were filled
by asking the readable code. Nothing here decides anything.

Source: what the modules that it asks name.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pasidlab.hw.batch.numbers import ACCESS_OF, Numbering, Numbers, Words, constants
from pasidlab.hw.pagetable import vtd_second, x86
from pasidlab.hw.pagetable.contract import FaultKind, Format, Level, Start, WalkFault
from pasidlab.hw.pagetable.paging_entries import PagingEntry, SecondStageEntry
from pasidlab.hw.pagetable.vtd_second import SecondStage
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.hw.vtd import legality, lookup, translate
from pasidlab.hw.vtd.caches import Tag
from pasidlab.hw.vtd.contexts import GUEST_BITS, Paging, second_stage
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.legality import Check
from pasidlab.hw.vtd.reasons import STAGES, UNDER_TABLES, reason_of
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.structures import AddressWidth, ContextEntry, PasidEntry, ScalableContextEntry
from pasidlab.rules import Rule

# --- rules and reasons -----------------------------------------------------------------------------------------------


def _rules_of(*modules: ModuleType) -> dict[str, Rule]:
    named = {name: value for module in modules for name, value in vars(module).items()}
    checks = {name: value.rule for name, value in named.items() if isinstance(value, Check)}
    return {name: value for name, value in named.items() if isinstance(value, Rule)} | checks


_OF_TABLES = _rules_of(lookup, legality, translate)
_OF_FIRST, _OF_SECOND = _rules_of(x86), _rules_of(vtd_second)
NUMBERING = Numbering((*_OF_TABLES.values(), *_OF_FIRST.values(), *_OF_SECOND.values()))
"""Every rule that an untranslated request can meet."""
RULE = NUMBERING.by_name(_OF_TABLES)
"""The numbers of the rules of tables, by the names that they are declared with."""
FIRST, SECOND = NUMBERING.by_name(_OF_FIRST), NUMBERING.by_name(_OF_SECOND)
"""The same for both stages."""
REASON: Numbers = constants({reason.name: int(reason) for reason in Reason})
"""The code of each reason by name."""
number_of = NUMBERING.number_of


def _of_check(check: Check | None) -> int:
    return 0 if check is None else number_of(check.rule)


def _check_reasons() -> Words:
    """Return the reason of every check, by the number of its rule."""
    reasons = np.zeros(len(NUMBERING.rules) + 1, np.int64)
    for check in vars(legality).values():
        if isinstance(check, Check):
            reasons[number_of(check.rule)] = check.reason
    return reasons


def _walk_reasons() -> Words:
    """Return the reason of a walk's fault by legacy mode, `on_table`, write, first table, `top`, and rule."""
    second = second_stage(0, AddressWidth.BITS_48, Features())
    first = X86Paging(table=0, levels=4)
    reasons = np.zeros((2, 2, 2, 2, 2, len(NUMBERING.rules) + 1), np.int64)
    for legacy, on_table, write, highest, top in product((False, True), repeat=5):
        for rule in UNDER_TABLES if on_table or legacy else STAGES:
            stage = 2 if rule in _OF_SECOND.values() else 1
            paging = Paging(0, first if stage == 1 else second, None, Tag(0, None), 0, False, False, False, legacy)
            fault = WalkFault(FaultKind.TRANSLATION, rule, stage, 4 if highest else 1, 0, on_table=on_table)
            reason = reason_of(paging, fault, write=write, top=top)
            reasons[int(legacy), int(on_table), int(write), int(highest), int(top), number_of(rule)] = reason
    return reasons


# --- legality of entries ---------------------------------------------------------------------------------------------


def signed(word: int) -> int:
    """Return a word of 64 bits as compiled code has it."""
    return word - (1 << 64) if word >> 63 else word


def words_of(bits: int, count: int) -> tuple[int, ...]:
    """Return bits of an entry as its words."""
    return tuple(signed(bits >> 64 * word & (1 << 64) - 1) for word in range(count))


def _context_rules(features: Features) -> Words:
    """Return the rule that DTE, PASIDE and PRE break."""
    rules = np.zeros((2, 2, 2), np.int64)
    for bits in product((0, 1), repeat=3):
        entry = ScalableContextEntry(p=True, **dict(zip(("dte", "paside", "pre"), bits, strict=True)))
        rules[bits] = _of_check(legality.context_fault(entry, features))
    return rules


def _legacy_rules(features: Features) -> Words:
    """Return the rule that TT and AW break."""
    rules = np.zeros((4, 8), np.int64)
    for tt, aw in product(range(4), range(8)):
        rules[tt, aw] = _of_check(legality.legacy_context_fault(ContextEntry(p=True, tt=tt, aw=aw), features))
    return rules


def _pasid_rules(features: Features) -> Words:
    """Return the rule that PGTT, AW and FSPM break."""
    rules = np.zeros((8, 8, 4), np.int64)
    for pgtt, aw, fspm in product(range(8), range(8), range(4)):
        entry = PasidEntry(p=True, pgtt=pgtt, aw=aw, fspm=fspm)
        rules[pgtt, aw, fspm] = _of_check(legality.pasid_fault(entry, features, 0))
    return rules


# --- levels ----------------------------------------------------------------------------------------------------------

LEVELS = 5
LEADS_ON, MAPS = 0, -1
"""What an entry is that is no fault: a table, or a leaf; a fault is the number of its rule."""
OUTPUT, TABLE, OUTPUT_EXCESS, TABLE_EXCESS, READINGS = range(5)
"""Columns of a level: the attributes of `Level`; from READINGS on, what an entry is by being present, and by PS."""
_COLUMNS = READINGS + 4
_PS = int(SecondStageEntry.mask("ps"))
PS_SHIFT = SecondStageEntry.FIELDS["ps"].lsb
"""PS has the same place in both stages."""
SECOND_SHAPE = 4
"""The row of `levels` of the second stage; those of the first are its flags `nxe` and `nested`, bit 0 first."""
FIRST_RIGHTS = signed(int(PagingEntry.mask("rw", "us", "xd")))
SECOND_RIGHTS = int(SecondStageEntry.mask("r", "w", "x"))
"""The bits of an entry that its rights depend on."""
FIRST_GIVES, SECOND_GIVES = int(PagingEntry.mask("rw", "us")), SECOND_RIGHTS
"""Those of them that give a right where they are set."""
_PRESENT = int(PagingEntry.mask("p"))
"""Makes entries of both stages present, for in the second it is R."""


def _levels(features: Features) -> Words:
    table = np.zeros((SECOND_SHAPE + 1, LEVELS + 1, _COLUMNS), np.int64)
    for shape in range(SECOND_SHAPE):
        host_bits = GUEST_BITS if shape & 2 else features.host_bits
        first = X86Paging(table=0, levels=LEVELS, host_bits=host_bits, nxe=bool(shape & 1), pages_1g=features.first_1g)
        _fill(table[shape], first)
    _fill(table[SECOND_SHAPE], second_stage(0, AddressWidth.BITS_57, features))
    return table


def _fill(rows: Words, fmt: Format) -> None:
    start = fmt.start(0)
    assert isinstance(start, Start)
    for level in start.levels:
        masks = [level.output, level.table, level.output_excess, level.table_excess]
        readings = [_reading(fmt, level, entry) for entry in (0, _PRESENT, _PS, _PRESENT | _PS)]
        rows[level.number] = [*map(signed, masks), *readings]


def _reading(fmt: Format, level: Level, entry: int) -> int:
    reading = fmt.read(entry, level)
    if reading.leaf:
        return MAPS
    return LEADS_ON if reading.fault is None else number_of(reading.rule)


# --- rights ----------------------------------------------------------------------------------------------------------

TAKEN_CODES = 16
"""Values of the rights that entries take away: bits 2:0 of an entry as they are, XD in bit 3."""
SECOND_MODE = 4
"""The first mode of the second stage, the next one is with X; those of the first are WPE and SMEP, bit 0 first."""
XD_SHIFT = 60
"""How far XD is shifted for its place in a code."""


def _modes() -> list[tuple[Format, int]]:
    """Return the formats by mode, each with an entry that takes nothing away."""
    first = [X86Paging(table=0, levels=4, wpe=bool(mode & 1), smep=bool(mode & 2)) for mode in range(SECOND_MODE)]
    second = [SecondStage(table=0, levels=4, execute=execute) for execute in (False, True)]
    return [(fmt, FIRST_GIVES) for fmt in first] + [(fmt, SECOND_GIVES) for fmt in second]


@cache
def _grants() -> tuple[Words, Words]:
    """Return the rights of a leaf, and for each right the rule that denies it, by mode and by what entries take."""
    grants = [
        fmt.grant(entry, code & 7 | code >> 3 << 63, None)
        for (fmt, entry), code in product(_modes(), range(TAKEN_CODES))
    ]
    denials = [[number_of(grant.denial(access)) for access in ACCESS_OF] for grant in grants]
    return np.array([int(grant.rights) for grant in grants], np.int64), np.array(denials, np.int64)


class Tables(NamedTuple):
    """Everything above, for one set of features; `reserved` are the reserved bits of a PASID entry."""

    check_reasons: Words
    walk_reasons: Words
    context_rules: Words
    legacy_rules: Words
    pasid_rules: Words
    reserved: Words
    levels: Words
    rights: Words
    denials: Words


@cache
def tables_of(features: Features) -> Tables:
    """Return the tables of a unit."""
    reserved: Any = np.array(words_of(legality.reserved_in_pasid_entry(features), PasidEntry.SIZE // 64), np.int64)
    return Tables(
        _check_reasons(),
        _walk_reasons(),
        _context_rules(features),
        _legacy_rules(features),
        _pasid_rules(features),
        reserved,
        _levels(features),
        *_grants(),
    )

"""Compiled: the walk through page tables; see `pagetable.walker`, which says the same in Python.

Source: DDI 0487, VMSAv8-64, as `pagetable.vmsa` has it.
Not modelled: access flags of table entries (HAFT), which the modelled SMMU does not offer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from pasidlab.hw.batch.compiling import compiled, compiled_once
from pasidlab.hw.batch.numbers import NEED, ON_TABLE, RIGHTS_OF, WRITES
from pasidlab.hw.batch.store import Store, aborts, load64, part, store64
from pasidlab.hw.pagetable.contract import ALL_RIGHTS as RIGHTS
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, Stage2Leaf
from pasidlab.hw.smmuv3 import batch_tables as tables
from pasidlab.hw.smmuv3.batch_records import Smmu, Stage
from pasidlab.hw.smmuv3.batch_tables import EVENT, RULE
from pasidlab.hw.smmuv3.records import TranslationClass

# --- what a walk ends in ---------------------------------------------------------------------------------------------

CLASS_CD, CLASS_TTD, CLASS_IN = int(TranslationClass.CD), int(TranslationClass.TTD), int(TranslationClass.IN)
READ_TABLE = cast(int, np.int64(ON_TABLE))
UPDATE_TABLE = cast(int, np.int64(ON_TABLE | WRITES))
ALL_RIGHTS = int(RIGHTS)


class Found(NamedTuple):
    """What a translation, or one part of it, ended in.

    Attributes:
        event: code of the event, 0 for none.
        rule: number of the rule.
        address: the output; of a fault, the input address of the stage that faulted.
        lg2, rights: of a translation, as in `Leaf`.
        stage, level, what: of a fault; `what` is its class.
        fetch_address: what could not be read.
    """

    event: int
    rule: int
    address: int
    lg2: int
    rights: int
    stage: int
    level: int
    what: int
    fetch_address: int


@compiled
def reached(address: int) -> Found:
    """Say where something lies."""
    return Found(0, 0, address, 0, 0, 0, 0, 0, 0)


@compiled
def leaf(rule: int, address: int, lg2: int, rights: int) -> Found:
    """End in a translation."""
    return Found(0, rule, address, lg2, rights, 0, 0, 0, 0)


@compiled
def ended(event: int, rule: int, fetch_address: int) -> Found:
    """End without a translation, and not because of one."""
    return Found(event, rule, 0, 0, 0, 0, 0, 0, fetch_address)


@compiled
def ended_silently(rule: int) -> Found:
    """End without a translation and without an event."""
    return Found(0, rule, 0, 0, 0, 0, 0, 0, 0)


@compiled
def fault(event: int, rule: int, stage: Stage, level: int, address: int, access: int) -> Found:
    """End in a fault of a stage."""
    what = CLASS_TTD if access & ON_TABLE else CLASS_IN
    return Found(event, rule, address, 0, 0, stage.number, level, what, 0)


@compiled
def walk_abort(stage: Stage, level: int, address: int, access: int, fetch_address: int) -> Found:
    """End in an external abort of a table; one of stage 1 counts as that table's own."""
    what = CLASS_TTD if access & ON_TABLE or stage.number == 1 else CLASS_IN
    return Found(EVENT.F_WALK_EABT, RULE.ABORTED, address, 0, 0, stage.number, level, what, fetch_address)


# --- rights and updates ----------------------------------------------------------------------------------------------

_AF = int(Stage1Leaf.mask("af"))
_DBM = int(Stage1Leaf.mask("dbm"))
_CONTIGUOUS = int(Stage1Leaf.mask("contiguous"))
_READ_ONLY = 2 << Stage1Leaf.FIELDS["ap"].lsb
_S2_WRITE = 2 << Stage2Leaf.FIELDS["s2ap"].lsb
_DEVICE = int(Stage2Leaf.mask("mem_attr")) & 0x30
_FOLDED_SHIFT = 36
_LAST_LEVEL = tables.LEVELS - 1
LEAF = tables.LEAF


@compiled
def grant_index(entry: int, limits: int, mode: int) -> int:
    """Return the row of `Tables.rights` and `Tables.denials` for a leaf."""
    attributes = (
        part(entry, LEAF.ap) | part(entry, LEAF.dbm) << 2 | part(entry, LEAF.pxn) << 3 | part(entry, LEAF.uxn) << 4
    )
    above = limits >> tables.FIRST_LIMIT & tables.LIMIT_CODES - 1
    return (mode * tables.LIMIT_CODES + above) * tables.ENTRY_CODES + attributes


@compiled
def mark_leaf(stage: Stage, entry: int, access: int) -> int:
    """Return a leaf as hardware leaves it after use."""
    if not stage.ha:
        return entry
    if stage.hd and access & WRITES and entry & _DBM:
        entry = entry & ~_READ_ONLY if stage.number == 1 else entry | _S2_WRITE
    return entry | _AF


# --- the walk --------------------------------------------------------------------------------------------------------

Reach = Callable[[Store, Smmu, int, int], Found]
"""How a stage finds where its tables lie: from an address and an access to a physical address, or a fault."""
Walk = Callable[[Store, Smmu, Stage, int, int], Found]
Arrival = Callable[[Store, Smmu, Stage, int, int, "Spot"], Found]


class Spot(NamedTuple):
    """An entry that maps the address.

    Attributes:
        level: its level.
        place: its address as the tables say it.
        entry: its value.
        left: the bits of the input address below it.
        limits: what the tables above take away.
    """

    level: int
    place: int
    entry: int
    left: int
    limits: int


@compiled
def physical(memory: Store, smmu: Smmu, place: int, access: int) -> Found:
    """Tables lie where they are said to lie."""
    return reached(place)


@compiled
def leaf_fault(smmu: Smmu, stage: Stage, address: int, access: int, spot: Spot) -> Found:
    """Check an entry that maps the address; `event` is 0 if it grants the access."""
    level, entry = spot.level, spot.entry
    if entry & smmu.told.levels[stage.shape, level, tables.OUTPUT_EXCESS]:
        return fault(EVENT.F_ADDR_SIZE, RULE.OUTPUT_SIZE, stage, level, address, access)
    if not (entry & _AF or stage.accessible):
        return fault(EVENT.F_ACCESS, RULE.ACCESS_FLAG, stage, level, address, access)
    if stage.ptw and access & ON_TABLE and not entry & _DEVICE:
        return fault(EVENT.F_PERMISSION, RULE.DEVICE_TABLE, stage, level, address, access)
    denial = smmu.told.denials[grant_index(entry, spot.limits, stage.mode), NEED[access & RIGHTS_OF]]
    if denial:
        return fault(EVENT.F_PERMISSION, denial, stage, level, address, access)
    return reached(0)


@compiled
def table_fault(smmu: Smmu, stage: Stage, address: int, access: int, level: int, entry: int) -> Found:
    """Check an entry that does not map the address; `event` is 0 if it leads on."""
    rule = smmu.told.levels[stage.shape, level, tables.READINGS + (entry & 3)]
    if rule != RULE.TABLE:
        return fault(EVENT.F_TRANSLATION, rule, stage, level, address, access)
    if entry & smmu.told.levels[stage.shape, level, tables.TABLE_EXCESS]:
        return fault(EVENT.F_ADDR_SIZE, RULE.TABLE_SIZE, stage, level, address, access)
    return reached(0)


@compiled
def is_leaf(smmu: Smmu, stage: Stage, level: int, entry: int) -> bool:
    """Whether an entry maps a page or a block."""
    rule: int = smmu.told.levels[stage.shape, level, tables.READINGS + (entry & 3)]
    return rule == RULE.PAGE or rule == RULE.BLOCK


@compiled
def output_of(smmu: Smmu, stage: Stage, address: int, spot: Spot, entry: int) -> Found:
    """Make the translation that an entry gives, as hardware leaves it."""
    output = spot.left | address_in(smmu, stage, spot.level, tables.OUTPUT, entry)
    lg2 = smmu.told.levels[stage.shape, spot.level, tables.SHIFT]
    run = min(smmu.told.levels[stage.shape, spot.level, tables.RUN], stage.bits)
    if entry & _CONTIGUOUS and not (output ^ address) & ((1 << run) - 1):
        lg2 = run
    return leaf(RULE.WALKED, output, lg2, smmu.told.rights[grant_index(entry, spot.limits, stage.mode)])


@compiled
def address_in(smmu: Smmu, stage: Stage, level: int, column: int, entry: int) -> int:
    """Return the address in an entry, by the column of a level that has its bits."""
    bits: int = smmu.told.levels[stage.shape, level, column]
    folded: int = smmu.told.levels[stage.shape, level, tables.FOLDED]
    return entry & bits | (entry & folded) << _FOLDED_SHIFT


def _arrival(reach: Reach) -> Arrival:
    """Make the end of a walk, for a stage that finds its tables by `reach`."""

    @compiled
    def arrive(memory: Store, smmu: Smmu, stage: Stage, address: int, access: int, spot: Spot) -> Found:
        refused = leaf_fault(smmu, stage, address, access, spot)
        if refused.event:
            return refused
        marked = mark_leaf(stage, spot.entry, access)
        if marked != spot.entry:
            at = reach(memory, smmu, spot.place, UPDATE_TABLE)
            if at.event:
                return at
            store64(smmu, at.address, marked)
        return output_of(smmu, stage, address, spot, marked)

    return arrive


def _walker(reach: Reach) -> Walk:
    """Make the walk of a stage that finds its tables by `reach`."""
    arrive = _arrival(reach)

    @compiled
    def walk(memory: Store, smmu: Smmu, stage: Stage, address: int, access: int) -> Found:
        refusal = RULE.RANGE if stage.number == 2 and address >> stage.bits else stage.refusal
        if refusal:
            return fault(EVENT.F_TRANSLATION, refusal, stage, 0, address, access)
        table, left, limits = stage.table, address & ((1 << stage.bits) - 1), 0
        for level in range(stage.start, _LAST_LEVEL + 1):
            shift = smmu.told.levels[stage.shape, level, tables.SHIFT]
            place = table | left >> shift << 3
            left &= (1 << shift) - 1
            at = reach(memory, smmu, place, READ_TABLE)
            if at.event:
                return at
            if aborts(memory, smmu, at.address, 8):
                return walk_abort(stage, level, address, access, at.address)
            entry = load64(memory, smmu, at.address)
            if is_leaf(smmu, stage, level, entry):
                return arrive(memory, smmu, stage, address, access, Spot(level, place, entry, left, limits))
            refused = table_fault(smmu, stage, address, access, level, entry)
            if refused.event:
                return refused
            table = address_in(smmu, stage, level, tables.TABLE, entry)
            limits |= entry & stage.limits
        return fault(EVENT.F_TRANSLATION, RULE.RESERVED, stage, _LAST_LEVEL, address, access)

    return walk


_walk_alone = _walker(physical)


@compiled_once
def walk_stage2(memory: Store, smmu: Smmu, address: int, access: int) -> Found:
    """Translate an address by stage 2."""
    return _walk_alone(memory, smmu, smmu.stage2, address, access)


@compiled
def through(memory: Store, smmu: Smmu, place: int, access: int) -> Found:
    """Translate the address of a table, or of a CD, by stage 2 if there is one."""
    return walk_stage2(memory, smmu, place, access) if smmu.stage2.number else reached(place)


_walk_above = _walker(through)


@compiled
def walk(memory: Store, smmu: Smmu, address: int, access: int) -> Found:
    """Translate an address by stage 1, and by stage 2 what comes out of it if there is one."""
    first = _walk_above(memory, smmu, smmu.stage1, address, access)
    if first.event or not smmu.stage2.number:
        return first
    second = walk_stage2(memory, smmu, first.address, access)
    if second.event:
        return second
    return leaf(second.rule, second.address, min(first.lg2, second.lg2), first.rights & second.rights)

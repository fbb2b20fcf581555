"""Compiled: the walk through page tables; see `pagetable.walker`, `pagetable.x86` and `pagetable.vtd_second`.

Accessed and dirty flags decide one thing only: whether an entry of a guest's table has to be written, which its second
stage may forbid. So only there they are minded; in no other place can setting them fail or change an outcome.

Source: Intel VT-d 4.1, 3.6 to 3.8, as those modules have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from pasidlab.hw.batch.compiling import compiled, compiled_once
from pasidlab.hw.batch.numbers import NEED, ON_TABLE, RIGHTS_OF, WRITES, Numbers
from pasidlab.hw.batch.store import Store, aborts, load64, store64
from pasidlab.hw.pagetable import intel
from pasidlab.hw.pagetable.paging_entries import PageEntry
from pasidlab.hw.vtd import batch_tables as tables
from pasidlab.hw.vtd.batch_records import Stage, Unit
from pasidlab.hw.vtd.batch_tables import FIRST, RULE, SECOND

READ_TABLE = cast(int, np.int64(ON_TABLE))
UPDATE_TABLE = cast(int, np.int64(ON_TABLE | WRITES))
_D = int(PageEntry.mask("d"))


class Found(NamedTuple):
    """What a translation, or one part of it, ended in.

    Attributes:
        rule: number of the rule.
        address: the output; of a fault, the input address of the stage that faulted.
        lg2, rights: of a translation, as in `Leaf`.
        reason: of what no walk refused.
        stage, level: of a fault of a walk.
        on_table: a guest's table was not reached.
        top: of that, it is the first one.
        fetch_address: what could not be read.
    """

    rule: int
    address: int
    lg2: int
    rights: int
    reason: int
    stage: int
    level: int
    on_table: int
    top: int
    fetch_address: int


@compiled
def reached(address: int) -> Found:
    """Say where something lies."""
    return Found(0, address, 0, 0, 0, 0, 0, 0, 0, 0)


@compiled
def leaf(rule: int, address: int, lg2: int, rights: int) -> Found:
    """End in a translation."""
    return Found(rule, address, lg2, rights, 0, 0, 0, 0, 0, 0)


@compiled
def at_top(at: Found) -> Found:
    """Say of a fault that not even a guest's first table was reached."""
    return Found(at.rule, at.address, 0, 0, 0, at.stage, at.level, at.on_table, 1, at.fetch_address)


@compiled
def refused(rule: int, reason: int) -> Found:
    """End without a translation, and not because of a walk."""
    return Found(rule, 0, 0, 0, reason, 0, 0, 0, 0, 0)


# --- the walk --------------------------------------------------------------------------------------------------------

Reach = Callable[[Store, Unit, int, int], Found]
"""How a stage finds where its tables lie: from an address and an access to a physical address, or a fault."""
Mark = Callable[[Store, Unit, int, int, int], Found]
"""How a stage sets flags in an entry."""
Walk = Callable[[Store, Unit, Stage, int, int, int], Found]
Arrival = Callable[[Store, Unit, Stage, int, int, "Spot"], Found]


class Spot(NamedTuple):
    """An entry that maps the address: its level, its address as the tables say it, its value, and rights taken."""

    level: int
    place: int
    entry: int
    taken: int


level_shift = compiled(intel.reach)


@compiled
def physical(memory: Store, unit: Unit, place: int, access: int) -> Found:
    """Tables lie where they are said to lie."""
    return reached(place)


@compiled
def code_of(limits: int) -> int:
    """Return the code of what entries take away."""
    return limits & tables.TAKEN_CODES // 2 - 1 | limits >> tables.XD_SHIFT & tables.TAKEN_CODES // 2


@compiled
def reading(unit: Unit, stage: Stage, level: int, entry: int) -> int:
    """Return what an entry is: a table, a leaf, or a fault."""
    index = (1 if entry & stage.present else 0) | (entry >> tables.PS_SHIFT & 1) << 1
    found: int = unit.told.levels[stage.shape, level, tables.READINGS + index]
    return found


@compiled
def fault(rule: int, stage: Stage, level: int, address: int, access: int) -> Found:
    """End in a fault of a stage."""
    return Found(rule, address, 0, 0, 0, stage.number, level, access // ON_TABLE, 0, 0)


@compiled
def unmarked(memory: Store, unit: Unit, place: int, entry: int, flags: int) -> Found:
    """Leave an entry as it is."""
    return reached(place)


def _marker(reach: Reach) -> Mark:
    """Make what sets flags in an entry of a guest's table; a fault if the entry cannot be written."""

    @compiled
    def mark(memory: Store, unit: Unit, place: int, entry: int, flags: int) -> Found:
        if entry & flags == flags:
            return reached(place)
        at = reach(memory, unit, place, UPDATE_TABLE)
        if not at.stage:
            store64(unit, at.address, entry | flags)
        return at

    return mark


def _arrival(rules: Numbers, mark: Mark) -> Arrival:
    """Make the end of a walk, at an entry that maps the address."""
    reserved = rules.RESERVED

    @compiled
    def arrive(memory: Store, unit: Unit, stage: Stage, address: int, access: int, spot: Spot) -> Found:
        level, entry, row = spot.level, spot.entry, stage.mode * tables.TAKEN_CODES + code_of(spot.taken)
        if entry & unit.told.levels[stage.shape, level, tables.OUTPUT_EXCESS]:
            return fault(reserved, stage, level, address, access)
        denial = unit.told.denials[row, NEED[access & RIGHTS_OF]]
        if denial:
            return fault(denial, stage, level, address, access)
        marked = mark(memory, unit, spot.place, entry, stage.mark | (_D if access & WRITES else 0))
        if marked.stage:
            return marked
        shift = level_shift(level)
        output = entry & unit.told.levels[stage.shape, level, tables.OUTPUT] | address & (1 << shift) - 1
        return leaf(RULE.WALKED, output, shift, unit.told.rights[row])

    return arrive


def _walker(rules: Numbers, reach: Reach, mark: Mark) -> Walk:
    """Make the walk of a stage that finds its tables by `reach` and sets flags in their entries by `mark`."""
    aborted, reserved, arrive = rules.ABORTED, rules.RESERVED, _arrival(rules, mark)

    @compiled
    def walk(memory: Store, unit: Unit, stage: Stage, left: int, address: int, access: int) -> Found:
        table, taken = stage.table, 0
        for level in range(stage.levels, 0, -1):
            shift = level_shift(level)
            place = table | left >> shift << 3
            left &= (1 << shift) - 1
            at = reach(memory, unit, place, READ_TABLE)
            if at.stage:
                return at_top(at) if level == stage.levels else at
            if aborts(memory, unit, at.address, 8):
                return Found(aborted, address, 0, 0, 0, stage.number, level, access // ON_TABLE, 0, at.address)
            entry = load64(memory, unit, at.address)
            is_what = reading(unit, stage, level, entry)
            taken |= (entry ^ stage.gives) & stage.limits
            if is_what == tables.MAPS:
                return arrive(memory, unit, stage, address, access, Spot(level, place, entry, taken))
            if is_what != tables.LEADS_ON:
                return fault(is_what, stage, level, address, access)
            if entry & unit.told.levels[stage.shape, level, tables.TABLE_EXCESS]:
                return fault(reserved, stage, level, address, access)
            marked = mark(memory, unit, place, entry, stage.mark)
            if marked.stage:
                return marked
            table = entry & unit.told.levels[stage.shape, level, tables.TABLE]
        return fault(reserved, stage, 0, address, access)

    return walk


_walk_first = _walker(FIRST, physical, unmarked)
_walk_second = _walker(SECOND, physical, unmarked)


@compiled_once
def walk_second(memory: Store, unit: Unit, address: int, access: int) -> Found:
    """Translate an address by the second stage."""
    if address >> input_bits(unit):
        return Found(SECOND.RANGE, address, 0, 0, 0, 2, 0, access // ON_TABLE, 0, 0)
    return _walk_second(memory, unit, unit.second, address, address, access)


@compiled
def input_bits(unit: Unit) -> int:
    """Return how many bits an input address of the second stage may have."""
    return min(level_shift(unit.second.levels + 1), unit.setup.guest_bits)


_walk_guest = _walker(FIRST, walk_second, _marker(walk_second))


@compiled
def walk_first(memory: Store, unit: Unit, address: int, access: int) -> Found:
    """Translate an address by the first stage alone."""
    bits = level_shift(unit.first.levels + 1)
    if not is_canonical(address, bits):
        return not_canonical(address)
    return _walk_first(memory, unit, unit.first, address & (1 << bits) - 1, address, access)


@compiled_once
def walk_nested(memory: Store, unit: Unit, address: int, access: int) -> Found:
    """Translate an address by the first stage, and by the second what comes out of it."""
    bits = level_shift(unit.first.levels + 1)
    if not is_canonical(address, bits):
        return not_canonical(address)
    first = _walk_guest(memory, unit, unit.first, address & (1 << bits) - 1, address, access)
    if first.stage:
        return first
    second = walk_second(memory, unit, first.address, access)
    if second.stage:
        return second
    return leaf(second.rule, second.address, min(first.lg2, second.lg2), first.rights & second.rights)


@compiled
def is_canonical(address: int, bits: int) -> bool:
    """Whether the highest bits are all alike."""
    highest = address >> bits - 1
    return highest == 0 or highest == -1


@compiled
def not_canonical(address: int) -> Found:
    """End because of the highest bits."""
    return Found(FIRST.CANONICAL, address, 0, 0, 0, 1, 0, 0, 0, 0)

"""The walk through page tables of any format, one stage or two.

Source: what the architectures have in common; the order within a level is that of the Arm ARM (DDI 0487, VMSAv8-64):
read, valid, address size, access flag, then permission, then hardware's update of the entry. With two stages, the
address of every table of the first stage and the first stage's output go through the second.

Decided here: an access that is refused marks no leaf, where the architecture leaves that open; a run of contiguous
entries whose output is not aligned as its input is taken entry by entry, as a TLB may do with any run.
Not modelled: entries that change while they are walked. Caches of intermediate entries are the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.contract import (
    WRITE,
    Access,
    FaultKind,
    Format,
    Leaf,
    Level,
    Reading,
    Start,
    Touch,
    WalkFault,
)
from pasidlab.memory import Memory
from pasidlab.rules import Rule

_READ_TABLE = Access(on_table=True)
_UPDATE_TABLE = Access(write=True, on_table=True)


def walk(
    memory: Memory,
    fmt: Format,
    address: int,
    access: Access | None,
    touches: list[Touch],
    stage2: Format | None = None,
    start: Start | None = None,
) -> Leaf | WalkFault:
    """Translate an address by `fmt`, and by `stage2` what comes out of it if that is given.

    `touches` gets every memory access in order, also when the walk faults. Without `access` no right is asked for.
    With `start` the walk of `fmt` begins there, at a table that a cache remembers.
    """
    first = _Stage(memory, fmt, address, access, touches, stage2).run(start)
    if stage2 is None or isinstance(first, WalkFault):
        return first
    second = _Stage(memory, stage2, first.output, access, touches).run()
    return second if isinstance(second, WalkFault) else _nested(first, second)


def _nested(first: Leaf, second: Leaf) -> Leaf:
    """Combine two stages: what both grant, for the smaller size; the entry is the first stage's."""
    return first._replace(
        output=second.output,
        lg2=min(first.lg2, second.lg2),
        rights=first.rights & second.rights,
        writable_clean=first.writable_clean or second.writable_clean,
    )


class _Spot(NamedTuple):
    """Where an entry lies: its address as the tables say it, and its physical address."""

    level: Level
    place: int
    at: int


class _Stage:
    """One stage of one walk; with `below`, its tables lie at addresses that `below` translates."""

    __slots__ = ("access", "address", "below", "fmt", "memory", "touches")

    def __init__(
        self,
        memory: Memory,
        fmt: Format,
        address: int,
        access: Access | None,
        touches: list[Touch],
        below: Format | None = None,
    ) -> None:
        self.memory = memory
        self.fmt = fmt
        self.address = address
        self.access = access
        self.touches = touches
        self.below = below

    def run(self, begin: Start | None = None) -> Leaf | WalkFault:
        """Go down level by level until an entry maps the address, or a check fails."""
        fmt, load64, touches, below = self.fmt, self.memory.load64, self.touches, self.below
        stage, read, marks_tables = fmt.stage, fmt.read, fmt.marks_tables
        start = begin or fmt.start(self.address)
        if isinstance(start, Reading):
            return self._fault(start, 0)
        table, levels, left, limits = start
        for level in levels:
            place = table | left >> level.shift << 3
            left &= (1 << level.shift) - 1
            at = place if below is None else self._reach(place, _READ_TABLE)
            if isinstance(at, WalkFault):
                return at
            entry = load64(at)
            if entry is None:
                return self._abort(_Spot(level, place, at))
            reading = read(entry, level)
            if reading.leaf:
                return self._arrive(entry, _Spot(level, place, at), left, limits, reading)
            touches.append(Touch(at, entry, reading.rule, stage, level.number))
            if reading.fault is not None:
                return self._fault(reading, level.number)
            marked = fmt.mark_table(entry) if marks_tables else None
            if marked is not None and (fault := self._write_back(marked, _Spot(level, place, at))):
                return fault
            table, limits = fmt.descend(entry, level, limits)
        raise ModelError(f"{fmt!r}: a table entry at the last level")

    def _reach(self, place: int, access: Access) -> int | WalkFault:
        """Translate the address of an entry by the stage below, if there is one."""
        if self.below is None:
            return place
        leaf = _Stage(self.memory, self.below, place, access, self.touches).run()
        return leaf if isinstance(leaf, WalkFault) else leaf.output

    def _arrive(self, entry: int, spot: _Spot, left: int, limits: int, reading: Reading) -> Leaf | WalkFault:
        """Check an entry that maps the address against the access, and make the translation."""
        fmt, access, level = self.fmt, self.access, spot.level
        grant = fmt.grant(entry, limits, access)
        denial = None if access is None else grant.denial(access)
        self.touches.append(Touch(spot.at, entry, denial or reading.rule, fmt.stage, level.number))
        if denial is not None:
            return self._fault(Reading(denial, FaultKind.PERMISSION), level.number)
        marked = fmt.mark_leaf(entry, access is not None and access.write)
        if marked is not None:
            fault = self._write_back(marked, spot)
            if fault is not None:
                return fault
            entry = marked[0]
            grant = fmt.grant(entry, limits, access)
        rights = grant.rights & ~WRITE if grant.clean else grant.rights
        output = fmt.output(entry, level) | left
        lg2 = level.shift
        if fmt.is_run(entry) and not (output ^ self.address) & ((1 << level.run) - 1):
            lg2 = level.run
        return Leaf(output, lg2, rights, entry, spot.at, level.number, fmt.is_global(entry), grant.clean)

    def _write_back(self, marked: tuple[int, Rule], spot: _Spot) -> WalkFault | None:
        """Store what hardware changed in an entry; the stage below sees a write."""
        at = self._reach(spot.place, _UPDATE_TABLE)
        if isinstance(at, WalkFault):
            return at
        entry, rule = marked
        if not self.memory.store64(at, entry):
            return self._abort(spot, store=True)
        self.touches.append(Touch(at, entry, rule, self.fmt.stage, spot.level.number, store=True))
        return None

    def _abort(self, spot: _Spot, store: bool = False) -> WalkFault:
        reading, number = self.fmt.aborted, spot.level.number
        self.touches.append(Touch(spot.at, None, reading.rule, self.fmt.stage, number, store))
        return self._fault(reading, number, spot.at)

    def _fault(self, reading: Reading, level: int, fetch_address: int | None = None) -> WalkFault:
        assert reading.fault is not None
        on_table = self.access is not None and self.access.on_table
        return WalkFault(reading.fault, reading.rule, self.fmt.stage, level, self.address, fetch_address, on_table)

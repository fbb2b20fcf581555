"""The contract between page-table formats and the one walker that walks them all.

A `Format` knows what one stage of translation looks like: where it starts, what the entries of its tables mean, which
rights they grant, and what hardware writes back. `walker.walk` knows the rest: reading memory, the order of the
checks, one stage inside of another. Whatever a walk does is recorded as `Touch`es, and ends in a `Leaf` or a
`WalkFault`; both name rules, which the formats declare.

The shape follows Linux 6.12 drivers/iommu (io-pgtable) and its successor generic_pt: one contract, thin formats. The
words are Arm's where architectures differ: a *table* entry leads on, a *leaf* maps (a page or a block), *level* is
the number that the architecture gives it.

Not modelled: walks that skip levels, memory types, and entries that are not 64 bits wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import NamedTuple, Protocol

from pasidlab.rules import Rule


class Access(NamedTuple):
    """What a transaction wants; a write is never an instruction fetch."""

    write: bool = False
    instruction: bool = False
    privileged: bool = False
    on_table: bool = False
    """The transaction is a walk of the other stage, which reads or updates its own table."""


class Rights(IntFlag):
    """Who may do what."""

    USER_READ = 1
    USER_WRITE = 2
    USER_EXECUTE = 4
    PRIVILEGED_READ = 8
    PRIVILEGED_WRITE = 16
    PRIVILEGED_EXECUTE = 32


NO_RIGHTS = Rights(0)
READ = Rights.USER_READ | Rights.PRIVILEGED_READ
WRITE = Rights.USER_WRITE | Rights.PRIVILEGED_WRITE
EXECUTE = Rights.USER_EXECUTE | Rights.PRIVILEGED_EXECUTE
ALL_RIGHTS = READ | WRITE | EXECUTE

USER = (Rights.USER_READ, Rights.USER_WRITE, Rights.USER_EXECUTE)
PRIVILEGED = (Rights.PRIVILEGED_READ, Rights.PRIVILEGED_WRITE, Rights.PRIVILEGED_EXECUTE)
_NEEDED = (*USER, Rights.USER_WRITE, *PRIVILEGED, Rights.PRIVILEGED_WRITE)


def needed(access: Access) -> Rights:
    """Return the one right that an access needs."""
    return _NEEDED[access.write | access.instruction << 1 | access.privileged << 2]


def allowed(rights: Rights, *, privileged: bool) -> tuple[bool, bool, bool]:
    """Return whether one privilege may read, write and execute."""
    read, write, execute = PRIVILEGED if privileged else USER
    return bool(rights & read), bool(rights & write), bool(rights & execute)


class FaultKind(Enum):
    """Why a walk found no translation; in the order in which one level is checked."""

    EXTERNAL_ABORT = "external abort"
    TRANSLATION = "translation"
    RESERVED = "reserved bits"
    ADDR_SIZE = "address size"
    ACCESS = "access flag"
    PERMISSION = "permission"


class Touch(NamedTuple):
    """One memory access of a walk, in order.

    Attributes:
        address: physical address of the entry.
        value: what was read, or written; None is an external abort.
        rule: what was decided from it; its sentence takes `stage` and `level`.
        stage: the stage whose table it is.
        level: level of the table.
        store: hardware wrote the entry back.
    """

    address: int
    value: int | None
    rule: Rule
    stage: int
    level: int
    store: bool = False


@dataclass(frozen=True, slots=True)
class WalkFault:
    """A walk that found no translation.

    Attributes:
        kind: which fault.
        rule: the check that failed; its sentence takes `stage`, `level` and `address`.
        stage: the stage that faulted.
        level: level of the entry at fault; 0 before any was read.
        address: input address of that stage: virtual, or intermediate physical for stage 2.
        fetch_address: physical address of the entry that could not be read or written.
        on_table: stage 2 faulted on the address of a stage-1 table, not on the address that was asked for.
    """

    kind: FaultKind
    rule: Rule
    stage: int
    level: int
    address: int
    fetch_address: int | None = None
    on_table: bool = False


class Leaf(NamedTuple):
    """The translation of one address.

    Attributes:
        output: output address for the very input address.
        lg2: log2 of the bytes around it that translate alike, the entry or its contiguous run: what a TLB may keep.
        rights: what the entry grants as it now is, after the attributes of the tables above it.
        entry: the entry, after hardware's update.
        entry_address: its physical address.
        level: its level.
        global_: it holds for every address space, not for one ASID only.
        writable_clean: writing is allowed although `rights` do not say so: the walk of a write makes the page dirty.
    """

    output: int
    lg2: int
    rights: Rights
    entry: int
    entry_address: int
    level: int
    global_: bool
    writable_clean: bool


class Reading(NamedTuple):
    """What an entry, or the attempt to start, turned out to be: a fault, a leaf, or a table if it is neither."""

    rule: Rule
    fault: FaultKind | None = None
    leaf: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """What the entries of one level look like.

    Attributes:
        number: the level, as the architecture counts.
        shift: log2 of the bytes that one entry maps.
        run: log2 of the bytes that a run of contiguous entries maps; `shift` where there are no runs.
        readings: what an entry is, by the bits that tell tables from leaves.
        output: the bits of a leaf that are its output address.
        table: the bits of a table entry that are the address of the next table.
        output_excess: the bits of a leaf that make its output too wide.
        table_excess: the bits of a table entry that make the address of the next table too wide.
        folded: bits of either that hold the highest address bits, which had no room in their place.
        limits: the bits of a table entry that take rights away from everything below it.
    """

    number: int
    shift: int
    run: int
    readings: tuple[Reading, ...]
    output: int
    table: int
    output_excess: int
    table_excess: int
    folded: int = 0
    limits: int = 0


class Start(NamedTuple):
    """Where a walk begins: the first table, its level and those below it, and the address within that table's reach.

    `limits` is what table entries above have gathered, where a walk starts further down than at the top.
    """

    table: int
    levels: tuple[Level, ...]
    left: int
    limits: int = 0


class Grant:
    """The rights that an entry grants, and for each of the others the rule that took it away first.

    A format starts with all rights and takes some away, rule by rule.

    Attributes:
        rights: what is left.
        clean: writing is among the rights, but hardware has yet to note in the entry that the page is dirty.
    """

    __slots__ = ("_denials", "clean", "rights")

    def __init__(self, *, clean: bool = False) -> None:
        self.rights = ALL_RIGHTS
        self.clean = clean
        self._denials: dict[Rights, Rule] = {}

    def take(self, rights: Rights, rule: Rule) -> None:
        """Take rights away because of a rule."""
        for right in self.rights & rights:
            self._denials[right] = rule
        self.rights &= ~rights

    def denial(self, access: Access) -> Rule | None:
        """Return the rule that forbids an access, None if it is allowed."""
        return self._denials.get(needed(access))


class Format(Protocol):
    """One stage of translation: a format together with how it is configured.

    Methods get entries as plain integers of 64 bits and never raise, whatever the entry is. `limits` is what the
    table entries above a leaf have gathered, 0 at the start.
    """

    @property
    def stage(self) -> int:
        """1, or 2 for the stage that translates what another one puts out."""

    @property
    def aborted(self) -> Reading:
        """The external abort of reading or writing an entry."""

    def start(self, address: int) -> Start | Reading:
        """Choose the table for an input address, or say why there is none."""

    def read(self, entry: int, level: Level) -> Reading:
        """Decide what an entry is: all checks that do not depend on the access, in the architecture's order."""

    def descend(self, entry: int, level: Level, limits: int) -> tuple[int, int]:
        """Return the address of the table that a table entry leads to, and `limits` with what the entry adds."""

    @property
    def marks_tables(self) -> bool:
        """Whether hardware writes to table entries at all; if not, `mark_table` is not asked."""

    def mark_table(self, entry: int) -> tuple[int, Rule] | None:
        """Return what hardware writes back to a table entry that a walk used, if anything."""

    def grant(self, entry: int, limits: int, access: Access | None) -> Grant:
        """Return the rights that a leaf grants."""

    def mark_leaf(self, entry: int, write: bool) -> tuple[int, Rule] | None:
        """Return what hardware writes back to a leaf whose translation was used, if anything."""

    def output(self, entry: int, level: Level) -> int:
        """Return the address that a leaf puts out for the first byte it maps."""

    def is_run(self, entry: int) -> bool:
        """Whether a leaf says that it belongs to a run of contiguous entries."""

    def is_global(self, entry: int) -> bool:
        """Whether a leaf holds for every address space."""

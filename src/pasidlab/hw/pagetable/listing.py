"""The page tables of one stage as a list: every entry that is present, whatever the format, and what it leads to.

Looking changes nothing: no accessed or dirty flag is set. An entry is left out that is not present, which is what the
format takes a zero for; entries that are present and at fault are listed with their fault.

Not modelled: tables that lie in addresses which another stage translates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pasidlab.hw.looking import stored
from pasidlab.hw.pagetable.contract import Format, Level, Reading, Rights
from pasidlab.memory import Memory

ENTRY_BYTES = 8


class TableEntry(NamedTuple):
    """One entry of a page table, not the ones that are not present.

    Attributes:
        depth: 0 in the first table.
        level: as the architecture counts.
        first: the first input address that the entry is for; `lg2` is log2 of how many there are.
        address: where the entry lies.
        value: the entry; None where memory does not answer.
        reading: what hardware takes it for.
        target: the address of the next table, or the output address.
        rights: what a leaf grants.
    """

    depth: int
    level: int
    first: int
    lg2: int
    address: int
    value: int | None
    reading: Reading
    target: int
    rights: Rights


def table_entries(memory: Memory, form: Format, first: int, bits: int) -> Iterator[TableEntry]:
    """Yield the present entries for 2**`bits` input addresses from `first`, those of a table after what leads to it."""
    start = form.start(first)
    if not isinstance(start, Reading):
        yield from _Listing(memory, form).table(start.table, start.levels, first, bits, 0)


class _Listing:
    """The depth-first listing of one stage's tables."""

    def __init__(self, memory: Memory, form: Format) -> None:
        self.memory = memory
        self.form = form

    def table(
        self, base: int, levels: tuple[Level, ...], first: int, bits: int, limits: int, depth: int = 0
    ) -> Iterator[TableEntry]:
        """Yield the present entries of a table for 2**`bits` input addresses from `first`, and those below them."""
        level, form = levels[0], self.form
        absent = form.read(0, level).rule
        for index, address in stored(self.memory, base, 1 << bits - level.shift, ENTRY_BYTES):
            value = self.memory.load64(address)
            reading = form.aborted if value is None else form.read(value, level)
            if reading.rule is absent:
                continue
            leads = value is not None and not reading.leaf and reading.fault is None
            target, below = form.descend(value or 0, level, limits) if leads else (form.output(value or 0, level), 0)
            rights = form.grant(value or 0, limits, None).rights if reading.leaf else Rights(0)
            here = first + (index << level.shift)
            yield TableEntry(depth, level.number, here, level.shift, address, value, reading, target, rights)
            if leads:
                yield from self.table(target, levels[1:], here, level.shift, below, depth + 1)

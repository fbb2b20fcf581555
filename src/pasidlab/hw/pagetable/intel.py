"""What x86-64 paging and VT-d's second stage share: tables of 512 entries, levels that count down to 1, page sizes.

Source: Intel SDM volume 3, chapter 4; Intel VT-d 4.1, 9.7 and 9.8.
"""

from __future__ import annotations

from pasidlab.hw.pagetable.contract import Level, Reading
from pasidlab.hw.pagetable.paging_entries import PageEntry

PAGE_LG2 = 12
INDEX_BITS = 9
ADDRESS = int(PageEntry.mask("output"))
"""Where an entry has an address, that of the next table or that of a page."""


def reach(level: int) -> int:
    """Return log2 of the bytes that one entry of a level maps."""
    return PAGE_LG2 + (level - 1) * INDEX_BITS


def level_of(
    number: int, host_bits: int, readings: tuple[Reading, ...], *, leaf: int, table: int, free: int = 0
) -> Level:
    """Return a level of tables.

    Of an address the bits from `host_bits` on are reserved, and those below the size of a page, but for `free`;
    `leaf` and `table` are what is reserved beside them in an entry that maps, and in one that leads on.
    """
    shift = reach(number)
    output = ADDRESS >> shift << shift
    too_wide = ADDRESS >> host_bits << host_bits
    return Level(
        number=number,
        shift=shift,
        run=shift,
        readings=readings,
        output=output,
        table=ADDRESS,
        output_excess=too_wide | ADDRESS & ~output & ~free | leaf,
        table_excess=too_wide | table,
    )


class IntelPaging:
    """What formats of such tables answer alike."""

    __slots__ = ()

    def output(self, entry: int, level: Level) -> int:
        """Return the address that a page puts out for its first byte."""
        return entry & level.output

    def is_run(self, entry: int) -> bool:
        """Never: there are no runs."""
        return False

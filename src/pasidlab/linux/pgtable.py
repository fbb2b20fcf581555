"""include/linux/pgtable.h: the page table of an address space, as it lies in memory, whatever the architecture.

Source: Linux 6.12 (general knowledge): include/linux/pgtable.h, include/linux/mm.h, mm/memory.c. What an entry looks
like is the architecture's: `pgtable_arm64` and `pgtable_x86`, of which a kernel has one, `Kernel.pgtable`. A table is
one page, also where its level needs less.

Not modelled: blocks (PMD entries that map), contiguous entries, the folding of levels other than by their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from pasidlab.errors import ModelError
from pasidlab.memory import Memory

if TYPE_CHECKING:
    from pasidlab.linux.kernel import Kernel
    from pasidlab.linux.mm import MmStruct

READ, WRITE, EXEC = 1, 2, 4
"""VM_READ, VM_WRITE, VM_EXEC: rights of an area, and the permission bits of a page request."""


class PageTables(Protocol):
    """What arch/*/include/asm/pgtable.h defines, under the names that it has there.

    Entries are integers as they lie in memory; 0 is an empty one. A `pgprot` is an entry without its page.
    """

    @property
    def task_size(self) -> int:
        """TASK_SIZE: where a user's addresses end."""

    @property
    def va_bits(self) -> int:
        """How many bits of an address the tables translate."""

    @property
    def index_shifts(self) -> tuple[int, ...]:
        """How far an address is shifted right to index each level, the pgd first; the last one is PAGE_SHIFT."""

    def table_entry(self, page: int) -> int:
        """Return the entry that leads to a table (`p4d_populate` and its like)."""

    def table_page(self, entry: int) -> int | None:
        """Return the table that an entry leads to, or None while it is empty."""

    def vm_get_page_prot(self, flags: int) -> int:
        """Return the pgprot of a private area: never writable, for that depends on the page."""

    def mk_pte(self, page: int, prot: int) -> int:
        """Return the entry of a page."""

    def pte_page(self, pte: int) -> int:
        """Return the address of an entry's page."""

    def pte_present(self, pte: int) -> bool:
        """Whether the entry has a page, be it one that nobody may access."""

    def pte_write(self, pte: int) -> bool:
        """Whether the page may be written."""

    def pte_mkdirty(self, pte: int) -> int:
        """Note a write."""

    def pte_mkwrite(self, pte: int) -> int:
        """Allow writes."""

    def pte_wrprotect(self, pte: int) -> int:
        """Forbid writes, and keep that there were some."""

    def pte_mkyoung(self, pte: int) -> int:
        """Note an access."""

    def pte_mkold(self, pte: int) -> int:
        """Forget that there were accesses."""

    def pte_modify(self, pte: int, prot: int) -> int:
        """Give the page other rights."""

    def pte_needs_flush(self, old: int, new: int) -> bool:
        """Whether TLBs may keep what `new` no longer says, after `mprotect()`."""

    def ptep_set_access_flags(self, memory: Memory, ptep: int, entry: int, dirty: bool) -> bool:
        """Write an entry that allows more than the one before; true asks the caller to flush the page."""

    def pte_access(self, pte: int, write: bool) -> int | None:
        """Return the entry as hardware leaves it after a user's access, or None where that is a page fault."""


# --- entries -------------------------------------------------------------------------------------------------


def ptep_get(memory: Memory, ptep: int) -> int:
    """Return the entry at a physical address."""
    word = memory.load64(ptep)
    if word is None:
        raise ModelError(f"the kernel's page table at {ptep:#x} cannot be read")
    return word


def set_pte(memory: Memory, ptep: int, pte: int) -> None:
    """Write an entry to a physical address."""
    if not memory.store64(ptep, pte):
        raise ModelError(f"the kernel's page table at {ptep:#x} cannot be written")


# --- tables --------------------------------------------------------------------------------------------------


def pgd_alloc(kernel: Kernel) -> int:
    """Return the address of an empty first table."""
    return kernel.page_alloc.alloc_page()


def pgd_free(kernel: Kernel, pgd: int) -> None:
    """Give the first table back; the tables below it are gone already."""
    kernel.page_alloc.put_page(pgd)


def pte_offset_map(mm: MmStruct, address: int) -> int | None:
    """Return where the entry of an address is, or None while there is no table for it."""
    kernel = mm.kernel
    tables = kernel.pgtable
    if mm.pgd_page is None or address >> tables.va_bits:
        return None
    memory, table, index = kernel.memory, mm.pgd_page, (1 << kernel.page_shift - 3) - 1
    for shift in tables.index_shifts[:-1]:
        below = tables.table_page(ptep_get(memory, table + 8 * (address >> shift & index)))
        if below is None:
            return None
        table = below
    return table + 8 * (address >> kernel.page_shift & index)


def pte_alloc_map(mm: MmStruct, address: int) -> int:
    """Return where the entry of an address is, with tables made on the way."""
    kernel, table = mm.kernel, mm.pgd
    tables = kernel.pgtable
    *upper, last = tables.index_shifts
    for shift in upper:
        slot = _slot(kernel, table, address, shift)
        below = tables.table_page(ptep_get(kernel.memory, slot))
        if below is None:
            below = kernel.page_alloc.alloc_page()
            set_pte(kernel.memory, slot, tables.table_entry(below))
        table = below
    return _slot(kernel, table, address, last)


def _slot(kernel: Kernel, table: int, address: int, shift: int) -> int:
    bits = kernel.page_shift - 3
    return table + 8 * (address >> shift & (1 << bits) - 1)


def present_ptes(mm: MmStruct, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield address, place and value of each entry of a range that has a page."""
    for address in range(start, end, mm.kernel.page_size):
        ptep = pte_offset_map(mm, address)
        if ptep is None:
            continue
        pte = ptep_get(mm.kernel.memory, ptep)
        if mm.kernel.pgtable.pte_present(pte):
            yield address, ptep, pte


def free_pgtables(mm: MmStruct) -> None:
    """Free all tables but the pgd, which stays as long as the structure of the mm does; pages are gone before."""
    if mm.pgd_page is not None:
        _free_tables_below(mm.kernel, mm.pgd_page, len(mm.kernel.pgtable.index_shifts) - 1)


def _free_tables_below(kernel: Kernel, table: int, depth: int) -> None:
    if not depth:
        return
    words = kernel.memory.load(table, kernel.page_size)
    if words is None:
        raise ModelError(f"the kernel's page table at {table:#x} cannot be read")
    for index, word in enumerate(memoryview(words).cast("Q")):
        page = kernel.pgtable.table_page(word)
        if page is not None:
            set_pte(kernel.memory, table + 8 * index, 0)
            _free_tables_below(kernel, page, depth - 1)
            kernel.page_alloc.put_page(page)

"""arch/x86/include/asm/pgtable.h: the entries of an x86-64 kernel's page tables, with 4 or 5 levels.

Source: Linux 6.12, arch/x86 (pgtable.h, pgtable_types.h, pgtable-invert.h, tlbflush.h, mm/pgtable.c, mm/pgprot.c;
general knowledge). Hardware sets the accessed and the dirty flag by itself, so there is no fault for them, and an entry
that allows more needs no flush: a CPU that meets an older one faults, and walks again.
The bits that software adds: an entry that is not present but has G set (_PAGE_PROTNONE) still has its page, whose
number is inverted, so that a speculative walk finds no memory there; SAVED_DIRTY (bit 58) keeps the dirty flag of a
page that may not be written, since D without RW would be a shadow stack.

Not modelled: shadow stacks, soft-dirty (CONFIG_MEM_SOFT_DIRTY off), protection keys, page table isolation, memory
encryption, the kernel's half of the first table.
"""

from __future__ import annotations

from pasidlab.hw.pagetable.paging_entries import PageEntry
from pasidlab.linux.pgtable import EXEC, READ, WRITE, ptep_get, set_pte
from pasidlab.memory import Memory

PAGE_SHIFT = 12
_INDEX_BITS = 9
_PAGE_PRESENT = int(PageEntry.mask("p"))
_PAGE_RW = int(PageEntry.mask("rw"))
_PAGE_ACCESSED = int(PageEntry.mask("a"))
_PAGE_DIRTY = int(PageEntry.mask("d"))
_PAGE_PROTNONE = int(PageEntry.mask("g"))
_PAGE_NX = int(PageEntry.mask("xd"))
_PAGE_USER = int(PageEntry.mask("us"))
_PAGE_SPECIAL = 1 << 9
_PAGE_SAVED_DIRTY = 1 << 58
_PTE_PFN_MASK = int(PageEntry.mask("output"))
_PAGE_TABLE = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY
_PAGE_CHG_MASK = (
    _PTE_PFN_MASK | int(PageEntry.mask("pwt", "pcd")) | _PAGE_SPECIAL | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_SAVED_DIRTY
)
"""What `pte_modify` keeps."""
_FLUSH_ON_CLEAR = _PAGE_PRESENT | _PAGE_DIRTY
_FLUSH_ON_CHANGE = int(PageEntry.mask("rw", "us", "pwt", "pcd", "pat", "g", "xd"))

PAGE_NONE = _PAGE_ACCESSED | _PAGE_PROTNONE
PAGE_READONLY_EXEC = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED
PAGE_READONLY = PAGE_READONLY_EXEC | _PAGE_NX


def _protnone_mask(pte: int) -> int:
    """Return what the page number is inverted with: all of it in an entry that is neither empty nor present."""
    return _PTE_PFN_MASK if pte and not pte & _PAGE_PRESENT else 0


def _place_dirty(pte: int) -> int:
    """Keep the dirty flag where it belongs: D with RW, else SAVED_DIRTY (`pte_{mk,clear_}saveddirty`)."""
    if not pte & (_PAGE_DIRTY | _PAGE_SAVED_DIRTY):
        return pte
    place = _PAGE_DIRTY if pte & _PAGE_RW else _PAGE_SAVED_DIRTY
    return pte & ~(_PAGE_DIRTY | _PAGE_SAVED_DIRTY) | place


class X86PageTables:
    """x86-64 tables with 4 levels, or 5 (LA57)."""

    __slots__ = ("index_shifts", "task_size", "va_bits")

    def __init__(self, levels: int = 4) -> None:
        self.va_bits = PAGE_SHIFT + levels * _INDEX_BITS
        self.task_size = (1 << self.va_bits - 1) - (1 << PAGE_SHIFT)
        self.index_shifts = tuple(range(self.va_bits - _INDEX_BITS, PAGE_SHIFT - 1, -_INDEX_BITS))

    # --- tables ----------------------------------------------------------------------------------------------

    def table_entry(self, page: int) -> int:
        """Return the entry that leads to a table: everything is allowed, and hardware has no flag left to set."""
        return page | _PAGE_TABLE

    def table_page(self, entry: int) -> int | None:
        """Return the table that an entry leads to, or None while it is empty."""
        return entry & _PTE_PFN_MASK if entry & _PAGE_PRESENT else None

    # --- entries ---------------------------------------------------------------------------------------------

    def vm_get_page_prot(self, flags: int) -> int:
        """Return the entry, without its page, of a private area."""
        if flags & EXEC:
            return PAGE_READONLY_EXEC
        return PAGE_READONLY if flags & (READ | WRITE) else PAGE_NONE

    def mk_pte(self, page: int, prot: int) -> int:
        """Return the entry of a page."""
        return page ^ _protnone_mask(prot) | prot

    def pte_page(self, pte: int) -> int:
        """Return the address of an entry's page."""
        return (pte ^ _protnone_mask(pte)) & _PTE_PFN_MASK

    def pte_present(self, pte: int) -> bool:
        """Whether the entry is present, or is PROT_NONE."""
        return bool(pte & (_PAGE_PRESENT | _PAGE_PROTNONE))

    def pte_write(self, pte: int) -> bool:
        """Whether the page may be written."""
        return bool(pte & _PAGE_RW)

    def pte_mkdirty(self, pte: int) -> int:
        """Note a write."""
        return _place_dirty(pte | _PAGE_DIRTY)

    def pte_mkwrite(self, pte: int) -> int:
        """Allow writes."""
        return _place_dirty(pte | _PAGE_RW)

    def pte_wrprotect(self, pte: int) -> int:
        """Forbid writes, and keep that there were some."""
        return _place_dirty(pte & ~_PAGE_RW)

    def pte_mkyoung(self, pte: int) -> int:
        """Set the accessed flag."""
        return pte | _PAGE_ACCESSED

    def pte_mkold(self, pte: int) -> int:
        """Clear the accessed flag, which hardware sets again."""
        return pte & ~_PAGE_ACCESSED

    def pte_modify(self, pte: int, prot: int) -> int:
        """Give the page other rights, its number inverted where it gets none."""
        changed = pte & _PAGE_CHG_MASK | prot & ~_PAGE_CHG_MASK
        return _place_dirty(changed ^ _protnone_mask(pte) ^ _protnone_mask(changed))

    def pte_needs_flush(self, old: int, new: int) -> bool:
        """Whether a TLB may keep the old entry, and that matters; where nothing was present it cannot."""
        changed = old ^ new
        if not old & _PAGE_PRESENT:
            return False
        return bool(changed & _FLUSH_ON_CHANGE or changed & old & _FLUSH_ON_CLEAR)

    def ptep_set_access_flags(self, memory: Memory, ptep: int, entry: int, dirty: bool) -> bool:
        """Write an entry that allows more, if it is for a write; nothing is flushed (arch/x86/mm/pgtable.c)."""
        if dirty and entry != ptep_get(memory, ptep):
            set_pte(memory, ptep, entry)
        return False

    def pte_access(self, pte: int, write: bool) -> int | None:
        """Return the entry with the flags that a CPU sets when user space accesses the page; None if it may not."""
        needed = _PAGE_PRESENT | _PAGE_USER | (_PAGE_RW if write else 0)
        if pte & needed != needed:
            return None
        return pte | _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)

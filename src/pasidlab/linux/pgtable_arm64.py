"""arch/arm64/include/asm/pgtable.h: the entries of an arm64 kernel's page tables.

Source: Linux 6.12, arch/arm64 (pgtable.h, pgtable-prot.h, pgalloc.h, mm/fault.c; general knowledge): VMSAv8-64 stage 1
with 48 bits of virtual address in every granule; the pgd of 16 and 64 KiB pages needs less than its page.
The bits that software adds: PTE_WRITE is DBM (bit 51) and says that a page may be written, PTE_RDONLY (AP[1]) that
hardware must not yet do so, PTE_DIRTY is bit 55, and an invalid entry with nG set (PTE_PRESENT_INVALID) still has its
page: an area without rights is made of such entries.

Not modelled: 52 bits of address, execute-only pages (EPAN), PTE_SPECIAL, the setting of AF and the clearing of RDONLY
by a CPU's hardware (FEAT_HAFDBS).
"""

from __future__ import annotations

from pasidlab.hw.pagetable.descriptors import Ap, Shareability, Stage1Leaf, TableDescriptor
from pasidlab.linux.pgtable import EXEC, READ, WRITE, ptep_get, set_pte
from pasidlab.memory import Memory

VA_BITS = 48
"""Width of a user's virtual address, T0SZ 16 in TCR_EL1."""
MT_NORMAL = 0
"""Index of ordinary memory in MAIR_EL1."""
MAIR_EL1 = 0x04_0044_FFFF
"""MAIR_EL1_SET: ordinary memory, the same with tags, not cacheable, device memory with and without early ack."""

_USER, _RDONLY = Ap.READ_WRITE, Ap.PRIVILEGED_READ_ONLY
"""PTE_USER and PTE_RDONLY: AP with one of its two bits."""
_PTE_DIRTY = 1
_PAGE_DEFAULT = Stage1Leaf(
    valid=True, table_or_page=True, attr_indx=MT_NORMAL, sh=Shareability.ISH, af=True, ng=True, pxn=True, uxn=True
)
PAGE_NONE = _PAGE_DEFAULT.replace(valid=False, ap=Ap.PRIVILEGED_READ_ONLY)
PAGE_READONLY = _PAGE_DEFAULT.replace(ap=Ap.READ_ONLY)
PAGE_READONLY_EXEC = PAGE_READONLY.replace(uxn=False)
_MODIFIED = ~int(Stage1Leaf.mask("valid", "attr_indx", "ap", "ng", "dbm", "pxn", "uxn"))


def _hw_dirty(pte: Stage1Leaf) -> bool:
    """Whether hardware may have written the page already (`pte_hw_dirty`)."""
    return pte.dbm and not pte.ap & _RDONLY


class Arm64PageTables:
    """VMSAv8-64 tables of a kernel with pages of 2^`page_shift` bytes."""

    __slots__ = ("index_shifts", "task_size", "va_bits")

    def __init__(self, page_shift: int = 12) -> None:
        bits = page_shift - 3
        levels = -(-(VA_BITS - page_shift) // bits)
        self.va_bits = VA_BITS
        self.task_size = 1 << VA_BITS
        self.index_shifts = tuple(range(page_shift + bits * (levels - 1), page_shift - 1, -bits))

    # --- tables ----------------------------------------------------------------------------------------------

    def table_entry(self, page: int) -> TableDescriptor:
        """Return the entry that leads to a table, without privileged execution below it."""
        return TableDescriptor(valid=True, table_or_page=True, next_table=page, pxn_table=True)

    def table_page(self, entry: int) -> int | None:
        """Return the table that an entry leads to, or None while it is empty."""
        descriptor = TableDescriptor(entry)
        return descriptor.next_table if descriptor.valid else None

    # --- entries ---------------------------------------------------------------------------------------------

    def vm_get_page_prot(self, flags: int) -> Stage1Leaf:
        """Return the entry, without its page, of a private area."""
        if flags & EXEC:
            return PAGE_READONLY_EXEC
        return PAGE_READONLY if flags & (READ | WRITE) else PAGE_NONE

    def mk_pte(self, page: int, prot: int) -> Stage1Leaf:
        """Return the entry of a page."""
        return Stage1Leaf(prot, output=page)

    def pte_page(self, pte: int) -> int:
        """Return the address of an entry's page."""
        return Stage1Leaf(pte).output

    def pte_present(self, pte: int) -> bool:
        """Whether the entry is valid, or is PTE_PRESENT_INVALID."""
        leaf = Stage1Leaf(pte)
        return leaf.valid or leaf.ng

    def pte_write(self, pte: int) -> bool:
        """Whether the page may be written (PTE_WRITE)."""
        return Stage1Leaf(pte).dbm

    def pte_mkdirty(self, pte: int) -> Stage1Leaf:
        """Note a write; hardware may write from now on where the page may be written at all."""
        leaf = Stage1Leaf(pte)
        ap = leaf.ap & ~_RDONLY if leaf.dbm else leaf.ap
        return leaf.replace(software=leaf.software | _PTE_DIRTY, ap=ap)

    def pte_mkwrite(self, pte: int) -> Stage1Leaf:
        """Allow writes, hardware's at once (as 6.12 does; from 6.18 on a clean page stays read-only)."""
        leaf = Stage1Leaf(pte)
        return leaf.replace(dbm=True, ap=leaf.ap & ~_RDONLY)

    def pte_wrprotect(self, pte: int) -> Stage1Leaf:
        """Forbid writes, and keep that there were some."""
        leaf = self._keep_dirty(pte)
        return leaf.replace(dbm=False, ap=leaf.ap | _RDONLY)

    def pte_mkyoung(self, pte: int) -> Stage1Leaf:
        """Set the access flag."""
        return Stage1Leaf(pte, af=True)

    def pte_mkold(self, pte: int) -> Stage1Leaf:
        """Clear the access flag: the next access faults and sets it."""
        return Stage1Leaf(pte, af=False)

    def pte_modify(self, pte: int, prot: int) -> Stage1Leaf:
        """Give the page other rights."""
        return Stage1Leaf(self._keep_dirty(pte) & _MODIFIED | prot & ~_MODIFIED)

    def _keep_dirty(self, pte: int) -> Stage1Leaf:
        leaf = Stage1Leaf(pte)
        return self.pte_mkdirty(leaf) if _hw_dirty(leaf) else leaf

    def pte_needs_flush(self, old: int, new: int) -> bool:
        """Always: arm64 leaves the question to the generic answer."""
        return True

    def ptep_set_access_flags(self, memory: Memory, ptep: int, entry: int, dirty: bool) -> bool:
        """Write an entry that allows more, and have the one flushed that allowed less (arch/arm64/mm/fault.c)."""
        if entry == ptep_get(memory, ptep):
            return False
        set_pte(memory, ptep, entry)
        return True

    def pte_access(self, pte: int, write: bool) -> int | None:
        """Return the entry where a CPU without FEAT_HAFDBS lets user space access the page; it changes nothing."""
        leaf = Stage1Leaf(pte)
        if not leaf.valid or not leaf.af or not leaf.ap & _USER:
            return None
        return None if write and leaf.ap & _RDONLY else pte

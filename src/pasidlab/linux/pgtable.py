"""arch/arm64/include/asm/pgtable.h: the page table of an address space, as it lies in memory.

Source: Linux 6.12, arch/arm64 (pgtable.h, pgtable-prot.h, pgalloc.h; general knowledge): VMSAv8-64 stage 1 with 48 bits
of virtual address in every granule. A table is one page, also the pgd of 16 and 64 KiB pages, which needs less.
The bits that software adds: PTE_WRITE is DBM (bit 51) and says that a page may be written, PTE_RDONLY (AP[1]) that
hardware must not yet do so, PTE_DIRTY is bit 55, and an invalid entry with nG set (PTE_PRESENT_INVALID) still has its
page: an area without rights is made of such entries.

Since IOMMUs walk this table, every mm has this format, also where the scenario's CPU is an x86 one. Not modelled: the
x86 format, which will come with VT-d; blocks and contiguous entries, 52 bits of address, execute-only pages (EPAN),
PTE_SPECIAL, the setting of AF and the clearing of RDONLY by a CPU's hardware (FEAT_HAFDBS).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.descriptors import Ap, Shareability, Stage1Leaf, TableDescriptor
from pasidlab.memory import Memory

if TYPE_CHECKING:
    from pasidlab.linux.kernel import Kernel
    from pasidlab.linux.mm import MmStruct

VA_BITS = 48
"""Width of a user's virtual address, T0SZ 16 in TCR_EL1."""
MT_NORMAL = 0
"""Index of ordinary memory in MAIR_EL1."""
MAIR_EL1 = 0x04_0044_FFFF
"""MAIR_EL1_SET: ordinary memory, the same with tags, not cacheable, device memory with and without early ack."""
READ, WRITE, EXEC = 1, 2, 4
"""VM_READ, VM_WRITE, VM_EXEC: rights of an area, and the permission bits of a page request."""

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


def vm_get_page_prot(flags: int) -> Stage1Leaf:
    """Return the entry, without its page, of a private area: never writable, for that depends on the page."""
    if flags & EXEC:
        return PAGE_READONLY_EXEC
    return PAGE_READONLY if flags & (READ | WRITE) else PAGE_NONE


# --- entries -------------------------------------------------------------------------------------------------


def mk_pte(page: int, prot: Stage1Leaf) -> Stage1Leaf:
    """Return the entry of a page."""
    return prot.replace(output=page)


def pte_present(pte: Stage1Leaf) -> bool:
    """Whether the entry has a page, be it one that nobody may access."""
    return pte.valid or pte.ng


def pte_write(pte: Stage1Leaf) -> bool:
    """Whether the page may be written (PTE_WRITE)."""
    return pte.dbm


def pte_hw_dirty(pte: Stage1Leaf) -> bool:
    """Whether hardware may have written the page already."""
    return pte.dbm and not pte.ap & _RDONLY


def pte_mkdirty(pte: Stage1Leaf) -> Stage1Leaf:
    """Note a write; hardware may write from now on where the page may be written at all."""
    ap = pte.ap & ~_RDONLY if pte.dbm else pte.ap
    return pte.replace(software=pte.software | _PTE_DIRTY, ap=ap)


def pte_mkwrite(pte: Stage1Leaf) -> Stage1Leaf:
    """Allow writes, hardware's at once (as 6.12 does; from 6.18 on a clean page stays read-only)."""
    return pte.replace(dbm=True, ap=pte.ap & ~_RDONLY)


def pte_wrprotect(pte: Stage1Leaf) -> Stage1Leaf:
    """Forbid writes, and keep that there were some."""
    if pte_hw_dirty(pte):
        pte = pte_mkdirty(pte)
    return pte.replace(dbm=False, ap=pte.ap | _RDONLY)


def pte_mkyoung(pte: Stage1Leaf) -> Stage1Leaf:
    """Set the access flag."""
    return pte.replace(af=True)


def pte_mkold(pte: Stage1Leaf) -> Stage1Leaf:
    """Clear the access flag: the next access faults and sets it."""
    return pte.replace(af=False)


def pte_modify(pte: Stage1Leaf, prot: Stage1Leaf) -> Stage1Leaf:
    """Give the page other rights."""
    if pte_hw_dirty(pte):
        pte = pte_mkdirty(pte)
    return Stage1Leaf(int(pte) & _MODIFIED | int(prot) & ~_MODIFIED)


def pte_permits(pte: Stage1Leaf, write: bool) -> bool:
    """Whether a CPU without FEAT_HAFDBS that meets the entry lets user space access the page."""
    if not pte.valid or not pte.af or not pte.ap & _USER:
        return False
    return not (write and pte.ap & _RDONLY)


def ptep_get(memory: Memory, ptep: int) -> Stage1Leaf:
    """Return the entry at a physical address."""
    return Stage1Leaf(_load(memory, ptep))


def set_pte(memory: Memory, ptep: int, pte: int) -> None:
    """Write an entry to a physical address."""
    if not memory.store64(ptep, pte):
        raise ModelError(f"the kernel's page table at {ptep:#x} cannot be written")


def _load(memory: Memory, address: int) -> int:
    word = memory.load64(address)
    if word is None:
        raise ModelError(f"the kernel's page table at {address:#x} cannot be read")
    return word


# --- tables --------------------------------------------------------------------------------------------------


def _index_shifts(page_shift: int) -> range:
    """Return how far an address is shifted right to index each level, the pgd first."""
    bits = page_shift - 3
    levels = -(-(VA_BITS - page_shift) // bits)
    return range(page_shift + bits * (levels - 1), page_shift - 1, -bits)


def pgd_alloc(kernel: Kernel) -> int:
    """Return the address of an empty first table."""
    return kernel.page_alloc.alloc_page()


def pgd_free(kernel: Kernel, pgd: int) -> None:
    """Give the first table back; the tables below it are gone already."""
    kernel.page_alloc.put_page(pgd)


def pte_offset_map(mm: MmStruct, address: int) -> int | None:
    """Return where the entry of an address is, or None while there is no table for it."""
    if mm.pgd_page is None or address >> VA_BITS:
        return None
    kernel, table = mm.kernel, mm.pgd_page
    *upper, last = _index_shifts(kernel.page_shift)
    for shift in upper:
        entry = TableDescriptor(_load(kernel.memory, _slot(kernel, table, address, shift)))
        if not entry.valid:
            return None
        table = entry.next_table
    return _slot(kernel, table, address, last)


def pte_alloc_map(mm: MmStruct, address: int) -> int:
    """Return where the entry of an address is, with tables made on the way (`p4d_populate` and its like)."""
    kernel, table = mm.kernel, mm.pgd
    *upper, last = _index_shifts(kernel.page_shift)
    for shift in upper:
        slot = _slot(kernel, table, address, shift)
        entry = TableDescriptor(_load(kernel.memory, slot))
        if not entry.valid:
            page = kernel.page_alloc.alloc_page()
            entry = TableDescriptor(valid=True, table_or_page=True, next_table=page, pxn_table=True)
            set_pte(kernel.memory, slot, entry)
        table = entry.next_table
    return _slot(kernel, table, address, last)


def _slot(kernel: Kernel, table: int, address: int, shift: int) -> int:
    bits = kernel.page_shift - 3
    return table + 8 * (address >> shift & (1 << bits) - 1)


def present_ptes(mm: MmStruct, start: int, end: int) -> Iterator[tuple[int, int, Stage1Leaf]]:
    """Yield address, place and value of each entry of a range that has a page."""
    for address in range(start, end, mm.kernel.page_size):
        ptep = pte_offset_map(mm, address)
        if ptep is None:
            continue
        pte = ptep_get(mm.kernel.memory, ptep)
        if pte_present(pte):
            yield address, ptep, pte


def free_pgtables(mm: MmStruct) -> None:
    """Free all tables but the pgd, which stays as long as the structure of the mm does; pages are gone before."""
    if mm.pgd_page is None:
        return
    levels = len(_index_shifts(mm.kernel.page_shift))
    _free_tables_below(mm.kernel, mm.pgd_page, levels - 1)


def _free_tables_below(kernel: Kernel, table: int, depth: int) -> None:
    if not depth:
        return
    words = kernel.memory.load(table, kernel.page_size)
    if words is None:
        raise ModelError(f"the kernel's page table at {table:#x} cannot be read")
    for index, word in enumerate(memoryview(words).cast("Q")):
        if word:
            page = TableDescriptor(word).next_table
            set_pte(kernel.memory, table + 8 * index, 0)
            _free_tables_below(kernel, page, depth - 1)
            kernel.page_alloc.put_page(page)

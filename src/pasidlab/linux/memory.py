"""mm/memory.c, mm/mprotect.c: page faults, copy-on-write, and the taking away of pages.

Source: Linux 6.12 (general knowledge of mm/, and of mm/fault.c, mm/pgtable.c and include/asm/tlbflush.h of arm64 and
x86). The order is the kernel's: first the entry changes, then TLBs are flushed, which tells mmu notifiers, and only
then a page is freed. What an entry looks like, and which change needs a flush, is for `Kernel.pgtable` to say.

A process's memory begins as if it had been written and swapped out: the first touch brings a page in, with the bytes
that its area repeats, and writable at once where the area allows it, even for a read (`do_swap_page`).

Not modelled: files, shared areas, huge pages, PageAnonExclusive (a page with one reference is reused), the flush of
everything in place of many pages (arm64 512, x86 33), running out of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import ModelError
from pasidlab.linux.pgtable import WRITE, present_ptes, pte_alloc_map, ptep_get, set_pte

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct, Vma

KNOWN = "Linux 6.12 (general knowledge)"
"""Source of what is said of the memory manager, whose code was not at hand."""
TLB_FLUSH_ALL = (1 << 64) - 1
"""End of a flush that means everything."""


# --- TLBs (arch/*/include/asm/tlbflush.h) ----------------------------------------------------------------------


def flush_tlb_range(mm: MmStruct, start: int, end: int) -> None:
    """Flush a range of user addresses; a CPU's TLB is not modelled, those of IOMMUs are told."""
    if mm.notifier_subscriptions is not None:
        mm.notifier_subscriptions.arch_invalidate_secondary_tlbs(start, end)


def flush_tlb_page(mm: MmStruct, address: int) -> None:
    """Flush one page."""
    start = address & -mm.kernel.page_size
    flush_tlb_range(mm, start, start + mm.kernel.page_size)


def flush_tlb_mm(mm: MmStruct) -> None:
    """Flush a whole address space."""
    flush_tlb_range(mm, 0, TLB_FLUSH_ALL)


# --- faults (mm/memory.c) --------------------------------------------------------------------------------------


def handle_mm_fault(mm: MmStruct, address: int, write: bool) -> bool:
    """Make a page accessible: bring it in, copy a shared one that is to be written, note the access.

    False is VM_FAULT_SIGSEGV: no area, or a write to one that may not be written. Whether the area lets the caller
    read is for callers to see, as in the kernel.
    """
    vma = mm.vma_lookup(address)
    if vma is None or (write and not vma.flags & WRITE):
        return False
    tables = mm.kernel.pgtable
    ptep = pte_alloc_map(mm, address)
    pte = ptep_get(mm.kernel.memory, ptep)
    if not tables.pte_present(pte):
        _do_swap_page(mm, vma, ptep, write)
    elif write and not tables.pte_write(pte):
        _do_wp_page(mm, address, ptep, pte)
    else:
        young = tables.pte_mkyoung(tables.pte_mkdirty(pte) if write else pte)
        _ptep_set_access_flags(mm, address, ptep, young, dirty=write)
    return True


def _do_swap_page(mm: MmStruct, vma: Vma, ptep: int, write: bool) -> None:
    """Bring in a page that has none yet; nothing is flushed, for no TLB keeps an invalid entry."""
    kernel, tables = mm.kernel, mm.kernel.pgtable
    page = kernel.page_alloc.alloc_page(mm)
    if any(vma.fill):
        repeats = kernel.page_size // len(vma.fill) + 1
        _write_page(mm, page, (vma.fill * repeats)[: kernel.page_size])
    pte = tables.mk_pte(page, tables.vm_get_page_prot(vma.flags))
    if vma.flags & WRITE:
        pte = tables.pte_mkwrite(pte)
        if write:
            pte = tables.pte_mkdirty(pte)
    set_pte(kernel.memory, ptep, pte)


def _do_wp_page(mm: MmStruct, address: int, ptep: int, pte: int) -> None:
    """Let a write-protected page be written: reuse one that nobody else has, copy any other."""
    tables = mm.kernel.pgtable
    if mm.kernel.page_alloc.page_count(tables.pte_page(pte)) == 1:
        entry = tables.pte_mkwrite(tables.pte_mkdirty(tables.pte_mkyoung(pte)))
        _ptep_set_access_flags(mm, address, ptep, entry, dirty=True)
    else:
        _wp_page_copy(mm, address, ptep, pte)


def _wp_page_copy(mm: MmStruct, address: int, ptep: int, pte: int) -> None:
    """Put a copy in the place of a shared page: clear, flush, set, and only then let the old page go."""
    kernel, tables = mm.kernel, mm.kernel.pgtable
    old = tables.pte_page(pte)
    data = kernel.memory.load(old, kernel.page_size)
    if data is None:
        raise ModelError(f"the page at {old:#x} cannot be copied")
    page = kernel.page_alloc.alloc_page(mm)
    _write_page(mm, page, data)
    set_pte(kernel.memory, ptep, 0)
    flush_tlb_page(mm, address)
    vma = mm.vma_lookup(address)
    assert vma is not None
    entry = tables.pte_mkdirty(tables.mk_pte(page, tables.vm_get_page_prot(vma.flags)))
    set_pte(kernel.memory, ptep, tables.pte_mkwrite(entry))
    kernel.page_alloc.put_page(old, mm)


def _ptep_set_access_flags(mm: MmStruct, address: int, ptep: int, entry: int, *, dirty: bool) -> None:
    """Write an entry that allows more, and flush the one that allowed less where the architecture does so."""
    if mm.kernel.pgtable.ptep_set_access_flags(mm.kernel.memory, ptep, entry, dirty):
        flush_tlb_page(mm, address)


def _write_page(mm: MmStruct, page: int, data: bytes) -> None:
    if not mm.kernel.memory.store(page, data):
        raise ModelError(f"the page at {page:#x} cannot be filled")


# --- ranges ----------------------------------------------------------------------------------------------------


def copy_page_range(child: MmStruct, parent: MmStruct, vma: Vma) -> None:
    """Share the pages of an area with a child, none of them writable any more; the caller flushes the parent."""
    memory, page_alloc, tables = parent.kernel.memory, parent.kernel.page_alloc, parent.kernel.pgtable
    for address, ptep, pte in present_ptes(parent, vma.start, vma.end):
        if tables.pte_write(pte):
            pte = tables.pte_wrprotect(pte)
            set_pte(memory, ptep, pte)
        page_alloc.get_page(tables.pte_page(pte), child)
        set_pte(memory, pte_alloc_map(child, address), tables.pte_mkold(pte))


def change_protection(mm: MmStruct, vma: Vma) -> None:
    """Give the pages of an area the area's rights; a write has to ask for its page again (mm/mprotect.c)."""
    tables = mm.kernel.pgtable
    prot = tables.vm_get_page_prot(vma.flags)
    changed = []
    for address, ptep, pte in present_ptes(mm, vma.start, vma.end):
        modified = tables.pte_modify(pte, prot)
        set_pte(mm.kernel.memory, ptep, modified)
        if tables.pte_needs_flush(pte, modified):
            changed.append(address)
    _flush_touched(mm, changed)


def unmap_page_range(mm: MmStruct, vma: Vma) -> None:
    """Clear the entries of an area, flush what was there, and let its pages go."""
    touched, pages = [], []
    for address, ptep, pte in present_ptes(mm, vma.start, vma.end):
        set_pte(mm.kernel.memory, ptep, 0)
        touched.append(address)
        pages.append(mm.kernel.pgtable.pte_page(pte))
    _flush_touched(mm, touched)
    for page in pages:
        mm.kernel.page_alloc.put_page(page, mm)


def _flush_touched(mm: MmStruct, addresses: list[int]) -> None:
    """Flush from the first to the last entry that was touched, as `struct mmu_gather` collects them."""
    if addresses:
        flush_tlb_range(mm, addresses[0], addresses[-1] + mm.kernel.page_size)

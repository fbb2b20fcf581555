"""mm/memory.c, mm/mprotect.c: page faults, copy-on-write, and the taking away of pages.

Source: Linux 6.12 (general knowledge of mm/, arch/arm64/mm/fault.c, arch/arm64/include/asm/tlbflush.h). The order is
the kernel's: first the entry changes, then TLBs are flushed, which tells mmu notifiers, and only then a page is freed.

A process's memory begins as if it had been written and swapped out: the first touch brings a page in, with the bytes
that its area repeats, and writable at once where the area allows it, even for a read (`do_swap_page`).

Not modelled: files, shared areas, huge pages, PageAnonExclusive (a page with one reference is reused), the flush of
everything in place of more than 512 pages, running out of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.descriptors import Stage1Leaf
from pasidlab.linux import pgtable
from pasidlab.linux.pgtable import WRITE

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct, Vma

KNOWN = "Linux 6.12 (general knowledge)"
"""Source of what is said of the memory manager, whose code was not at hand."""
TLB_FLUSH_ALL = (1 << 64) - 1
"""End of a flush that means everything."""


# --- TLBs (arch/arm64/include/asm/tlbflush.h) ------------------------------------------------------------------


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
    """Make a page accessible: bring it in, copy a shared one that is to be written, set its access flag.

    False is VM_FAULT_SIGSEGV: no area, or a write to one that may not be written. Whether the area lets the caller
    read is for callers to see, as in the kernel.
    """
    vma = mm.vma_lookup(address)
    if vma is None or (write and not vma.flags & WRITE):
        return False
    ptep = pgtable.pte_alloc_map(mm, address)
    pte = pgtable.ptep_get(mm.kernel.memory, ptep)
    if not pgtable.pte_present(pte):
        _do_swap_page(mm, vma, ptep, write)
    elif write and not pgtable.pte_write(pte):
        _do_wp_page(mm, address, ptep, pte)
    else:
        young = pgtable.pte_mkyoung(pgtable.pte_mkdirty(pte) if write else pte)
        _ptep_set_access_flags(mm, address, ptep, young)
    return True


def _do_swap_page(mm: MmStruct, vma: Vma, ptep: int, write: bool) -> None:
    """Bring in a page that has none yet; nothing is flushed, for no TLB keeps an invalid entry."""
    kernel = mm.kernel
    page = kernel.page_alloc.alloc_page(mm)
    if any(vma.fill):
        repeats = kernel.page_size // len(vma.fill) + 1
        _write_page(mm, page, (vma.fill * repeats)[: kernel.page_size])
    pte = pgtable.mk_pte(page, pgtable.vm_get_page_prot(vma.flags))
    if vma.flags & WRITE:
        pte = pgtable.pte_mkwrite(pte)
        if write:
            pte = pgtable.pte_mkdirty(pte)
    pgtable.set_pte(kernel.memory, ptep, pte)


def _do_wp_page(mm: MmStruct, address: int, ptep: int, pte: Stage1Leaf) -> None:
    """Let a write-protected page be written: reuse one that nobody else has, copy any other."""
    if mm.kernel.page_alloc.page_count(pte.output) == 1:
        entry = pgtable.pte_mkwrite(pgtable.pte_mkdirty(pgtable.pte_mkyoung(pte)))
        _ptep_set_access_flags(mm, address, ptep, entry)
    else:
        _wp_page_copy(mm, address, ptep, pte)


def _wp_page_copy(mm: MmStruct, address: int, ptep: int, pte: Stage1Leaf) -> None:
    """Put a copy in the place of a shared page: clear, flush, set, and only then let the old page go."""
    kernel, old = mm.kernel, pte.output
    data = kernel.memory.load(old, kernel.page_size)
    if data is None:
        raise ModelError(f"the page at {old:#x} cannot be copied")
    page = kernel.page_alloc.alloc_page(mm)
    _write_page(mm, page, data)
    pgtable.set_pte(kernel.memory, ptep, 0)
    flush_tlb_page(mm, address)
    vma = mm.vma_lookup(address)
    assert vma is not None
    entry = pgtable.pte_mkdirty(pgtable.mk_pte(page, pgtable.vm_get_page_prot(vma.flags)))
    pgtable.set_pte(kernel.memory, ptep, pgtable.pte_mkwrite(entry))
    kernel.page_alloc.put_page(old, mm)


def _ptep_set_access_flags(mm: MmStruct, address: int, ptep: int, entry: Stage1Leaf) -> None:
    """Write an entry that allows more, and flush the one that allowed less (arch/arm64/mm/fault.c)."""
    if entry == pgtable.ptep_get(mm.kernel.memory, ptep):
        return
    pgtable.set_pte(mm.kernel.memory, ptep, entry)
    flush_tlb_page(mm, address)


def _write_page(mm: MmStruct, page: int, data: bytes) -> None:
    if not mm.kernel.memory.store(page, data):
        raise ModelError(f"the page at {page:#x} cannot be filled")


# --- ranges ----------------------------------------------------------------------------------------------------


def copy_page_range(child: MmStruct, parent: MmStruct, vma: Vma) -> None:
    """Share the pages of an area with a child, none of them writable any more; the caller flushes the parent."""
    memory, page_alloc = parent.kernel.memory, parent.kernel.page_alloc
    for address, ptep, pte in pgtable.present_ptes(parent, vma.start, vma.end):
        if pgtable.pte_write(pte):
            pte = pgtable.pte_wrprotect(pte)
            pgtable.set_pte(memory, ptep, pte)
        page_alloc.get_page(pte.output, child)
        pgtable.set_pte(memory, pgtable.pte_alloc_map(child, address), pgtable.pte_mkold(pte))


def change_protection(mm: MmStruct, vma: Vma) -> None:
    """Give the pages of an area the area's rights; a write has to ask for its page again (mm/mprotect.c)."""
    prot = pgtable.vm_get_page_prot(vma.flags)
    changed = []
    for address, ptep, pte in pgtable.present_ptes(mm, vma.start, vma.end):
        pgtable.set_pte(mm.kernel.memory, ptep, pgtable.pte_modify(pte, prot))
        changed.append(address)
    _flush_touched(mm, changed)


def unmap_page_range(mm: MmStruct, vma: Vma) -> None:
    """Clear the entries of an area, flush what was there, and let its pages go."""
    touched, pages = [], []
    for address, ptep, pte in pgtable.present_ptes(mm, vma.start, vma.end):
        pgtable.set_pte(mm.kernel.memory, ptep, 0)
        touched.append(address)
        pages.append(pte.output)
    _flush_touched(mm, touched)
    for page in pages:
        mm.kernel.page_alloc.put_page(page, mm)


def _flush_touched(mm: MmStruct, addresses: list[int]) -> None:
    """Flush from the first to the last entry that was touched, as `struct mmu_gather` collects them."""
    if addresses:
        flush_tlb_range(mm, addresses[0], addresses[-1] + mm.kernel.page_size)

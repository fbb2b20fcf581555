"""The page tables of domains that the kernel maps itself: first stage as x86 has them, second stage as VT-d has them.

Source: pfn_to_dma_pte(), __domain_mapping() (drivers/iommu/intel/iommu.c), Linux 6.12.117; 7.3 writes the same words
by generic_pt (x86_64, vtdss).
Not modelled: unmapping, large pages, snoop control, dirty tracking.
"""

from __future__ import annotations

from pasidlab.drivers.intel.structs import VTD_PAGE_SHIFT, VTD_PAGE_SIZE
from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.paging_entries import PageEntry, PagingTable, SecondStageLeaf, SecondStageTable
from pasidlab.linux.kernel import Kernel

LEVEL_STRIDE = 9


class DmaPageTable:
    """One table and the memory it is made of; `pgd` is its first page."""

    def __init__(self, kernel: Kernel, levels: int, *, first_level: bool) -> None:
        self.kernel = kernel
        self.levels = levels
        self.first_level = first_level
        self._pages: list[int] = []
        self.pgd = self.alloc_page()

    def alloc_page(self) -> int:
        """Return a new page of the kernel's own, which lives as long as the table."""
        page = self.kernel.page_alloc.alloc_page()
        self._pages.append(page)
        return page

    def map_page(self, iova: int, physical: int, *, write: bool) -> None:
        """Map one page; a page that is mapped already gets the new address."""
        table = self.pgd
        for level in range(self.levels, 1, -1):
            table = self._next_table(self._slot(table, iova, level))
        self._store(self._slot(table, iova, 1), self._leaf(physical, write))

    def _slot(self, table: int, iova: int, level: int) -> int:
        index = iova >> VTD_PAGE_SHIFT + LEVEL_STRIDE * (level - 1) & (1 << LEVEL_STRIDE) - 1
        return table + 8 * index

    def _next_table(self, slot: int) -> int:
        """Return the table that an entry leads to, made where there is none; P of the one kind is R of the other."""
        entry = PagingTable(self.kernel.memory.load64(slot) or 0)
        if entry.p:
            return entry.next_table
        page = self.alloc_page()
        self._store(slot, self._table(page))
        return page

    def _table(self, page: int) -> int:
        if self.first_level:
            return PagingTable(p=True, rw=True, us=True, a=True, next_table=page)
        return SecondStageTable(r=True, w=True, next_table=page)

    def _leaf(self, physical: int, write: bool) -> int:
        if self.first_level:
            return PageEntry(p=True, rw=write, us=True, a=True, d=write, output=physical)
        return SecondStageLeaf(r=True, w=write, output=physical)

    def _store(self, slot: int, entry: int) -> None:
        if not self.kernel.memory.store64(slot, entry):
            raise ModelError(f"the page table at {slot:#x} cannot be written")

    def map_buffer(self, start: int, end: int) -> None:
        """Map pages of the kernel's own, which may be written, at a range of addresses."""
        for base in range(start, end, self.kernel.page_size):
            buffer = self.alloc_page()
            for offset in range(0, self.kernel.page_size, VTD_PAGE_SIZE):
                self.map_page(base + offset, buffer + offset, write=True)

    def free(self) -> None:
        """Give the table's memory back."""
        for page in self._pages:
            self.kernel.page_alloc.put_page(page)
        self._pages.clear()

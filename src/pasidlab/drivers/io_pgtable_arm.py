"""drivers/iommu/io-pgtable-arm.c: the page tables of domains that the kernel maps itself, stage 1 and stage 2.

Source: Linux 6.12.117 and 7.3.4, formats ARM_64_LPAE_S1 and ARM_64_LPAE_S2, 48-bit addresses in and out.
Not modelled: unmapping, blocks, contiguous entries, quirks but dirty tracking by hardware (ARM_HD), which stays off.
"""

from __future__ import annotations

from pasidlab.drivers.arm_smmu_v3.entries import Stage1Config, Stage2Config
from pasidlab.hw.pagetable.descriptors import Ap, S2Ap, Shareability, Stage1Leaf, Stage2Leaf, TableDescriptor
from pasidlab.hw.smmuv3.structures import AddressSize, Tg0, WalkCache
from pasidlab.linux.kernel import Kernel

IAS = 48
MAIR = 0x00_F4_04_FF_44
"""Attribute 0 is normal non-cacheable, 1 write-back, 2 device, 3 inner non-cacheable outer write-back."""
ARM_LPAE_TCR_TG0 = {12: Tg0.GRANULE_4K, 14: Tg0.GRANULE_16K, 16: Tg0.GRANULE_64K}
"""The code of each granule, by log2 of its size."""
_CACHED = 1
_S2_CACHED = 0xF
_PAGE_S1 = Stage1Leaf(valid=True, table_or_page=True, attr_indx=_CACHED, sh=Shareability.ISH, af=True, ng=True)
_PAGE_S2 = Stage2Leaf(valid=True, table_or_page=True, mem_attr=_S2_CACHED, sh=Shareability.ISH, af=True)
_MAX_CONCATENATED = 16


def domain_granule(page_shift: int, granules: frozenset[int]) -> int:
    """Return the granule of a domain: the kernel's page, else the largest below it, else the smallest above."""
    fitting = [granule for granule in granules if granule <= page_shift]
    return max(fitting) if fitting else min(granules)


class ArmLpaeTable:
    """`struct arm_lpae_io_pgtable`: one table and the memory it is made of; `granule` is log2 of its pages."""

    def __init__(self, kernel: Kernel, granule: int, *, stage2: bool) -> None:
        self.kernel = kernel
        self.stage2 = stage2
        self.granule = granule
        bits = self.granule - 3
        levels = -(-(IAS - self.granule) // bits)
        first_bits = IAS - self.granule - bits * (levels - 1)
        if stage2 and 1 << first_bits <= _MAX_CONCATENATED:
            levels, first_bits = levels - 1, first_bits + bits
        self.start_level = 4 - levels
        self._pages: list[int] = []
        self.pgd = self._alloc(max(first_bits + 3, granule))

    def _alloc(self, lg2: int) -> int:
        page = self.kernel.page_alloc.alloc_pages(max(lg2 - self.kernel.page_shift, 0))
        self._pages.append(page)
        return page

    def map_buffer(self, start: int, end: int) -> None:
        """Map pages of the kernel's own, which may be written, at a range of addresses."""
        for iova in range(start >> self.granule << self.granule, end, 1 << self.granule):
            self.map_pages(iova, self._alloc(self.granule), write=True)

    def map_pages(self, iova: int, physical: int, *, write: bool) -> None:
        """Map one page; a page that is mapped already gets the new address."""
        memory, bits = self.kernel.memory, self.granule - 3
        table = self.pgd
        for level in range(self.start_level, 3):
            index = self._index(iova, level)
            entry = TableDescriptor(memory.load64(table + 8 * index) or 0)
            if not entry.valid:
                entry = TableDescriptor(valid=True, table_or_page=True, next_table=self._alloc(self.granule))
                memory.store64(table + 8 * index, entry)
            table = entry.next_table
        index = iova >> self.granule & (1 << bits) - 1
        memory.store64(table + 8 * index, self._leaf(physical, write))

    def _index(self, iova: int, level: int) -> int:
        bits = self.granule - 3
        index = iova >> (self.granule + bits * (3 - level))
        return index if level == self.start_level else index & (1 << bits) - 1

    def _leaf(self, physical: int, write: bool) -> int:
        if self.stage2:
            s2ap = S2Ap.READ_WRITE if write else S2Ap.READ_ONLY
            return _PAGE_S2.replace(s2ap=s2ap, output=physical)
        return _PAGE_S1.replace(ap=Ap.READ_WRITE if write else Ap.READ_ONLY, output=physical)

    def free(self) -> None:
        """Give the table's memory back."""
        for page in self._pages:
            self.kernel.page_alloc.put_page(page)
        self._pages.clear()

    def stage1_config(self) -> Stage1Config:
        """arm_lpae_s1_cfg."""
        return Stage1Config(
            ttbr=self.pgd,
            mair=MAIR,
            tsz=64 - IAS,
            tg=ARM_LPAE_TCR_TG0[self.granule],
            irgn=WalkCache.WB_RA_WA,
            orgn=WalkCache.WB_RA_WA,
            sh=Shareability.ISH,
            ips=AddressSize.BITS_48,
        )

    def stage2_config(self) -> Stage2Config:
        """arm_lpae_s2_cfg; the code of the start level depends on the granule."""
        sl = 2 - self.start_level if self.granule == 12 else 3 - self.start_level
        return Stage2Config(
            vttbr=self.pgd,
            tsz=64 - IAS,
            sl=sl,
            tg=ARM_LPAE_TCR_TG0[self.granule],
            irgn=WalkCache.WB_RA_WA,
            orgn=WalkCache.WB_RA_WA,
            sh=Shareability.ISH,
            ps=AddressSize.BITS_48,
        )

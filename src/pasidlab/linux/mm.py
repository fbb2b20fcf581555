"""struct mm_struct: the address space that a PASID names, its two reference counts, its memory.

Source: include/linux/sched/mm.h, kernel/fork.c, v6.12 and v7.3. `mm_users` counts tasks that
live in the address space; `mm_count` counts references to the structure, all users together being one of them.

Memory is there so that it can be seen whose bytes a device touched: areas with rights, pages filled on first touch.
Not modelled: page tables (a later IOMMU model has them), copy-on-write (a fork copies the pages),
stack growth, huge pages, mmu notifiers (the mock IOMMU asks `mm_users` instead).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pasidlab import events

if TYPE_CHECKING:
    from pasidlab.linux.kernel import Kernel
    from pasidlab.linux.sva import IommuMmData

PAGE_SIZE = 4096
READ, WRITE, EXEC = 1, 2, 4
"""Rights of an area, and the permission bits of a page request."""


@dataclass(slots=True)
class Vma:
    """`struct vm_area_struct`: `size` bytes from `start`, both multiples of the page; `flags` of READ, WRITE, EXEC."""

    start: int
    size: int
    flags: int
    fill: bytes = b"\0"
    pages: dict[int, bytearray] = field(default_factory=dict)

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.start + self.size

    def populate(self, address: int) -> bytearray:
        """Bring in the page of `address`; a new page repeats `fill`."""
        index = (address - self.start) // PAGE_SIZE
        page = self.pages.get(index)
        if page is None:
            repeats = PAGE_SIZE // len(self.fill) + 1
            page = self.pages[index] = bytearray((self.fill * repeats)[:PAGE_SIZE])
        return page

    def is_present(self, address: int) -> bool:
        """Whether the page of `address` has been touched before."""
        return (address - self.start) // PAGE_SIZE in self.pages

    def copy(self) -> Vma:
        """Return the area as a forked child has it."""
        return Vma(self.start, self.size, self.flags, self.fill, {n: bytearray(p) for n, p in self.pages.items()})


def process_memory(fill: bytes = b"\0") -> list[Vma]:
    """Return the areas of a process, those of the kernels' records: RW, R, RX, one without rights, four pages each."""
    areas = {0x1000_0000: READ | WRITE, 0x2000_0000: READ, 0x3000_0000: READ | EXEC, 0x5000_0000: 0}
    return [Vma(start, 4 * PAGE_SIZE, flags, fill) for start, flags in areas.items()]


class MmStruct:
    """One address space.

    Attributes:
        name, user: for reports; `user` is whom a quota charges.
        iommu_mm: the SVA core's data of this mm, None until a bind has made it.
        lam: its page tables are not DMA compatible (x86 LAM is on).
    """

    __slots__ = (
        "iommu_mm",
        "kernel",
        "lam",
        "mm_count",
        "mm_users",
        "name",
        "user",
        "vmas",
    )

    def __init__(self, kernel: Kernel, name: str, user: str = "root") -> None:
        self.kernel = kernel
        self.name = name
        self.user = user
        self.mm_users = 1
        self.mm_count = 1
        self.iommu_mm: IommuMmData | None = None
        self.lam = False
        self.vmas: list[Vma] = []
        kernel.mms[self] = None

    @property
    def global_pasid(self) -> int | None:
        """The number that this mm holds of the global space, if it holds one."""
        return None if self.iommu_mm is None else self.iommu_mm.global_pasid

    @property
    def holder(self) -> str:
        """Name the mm in a report, and say when it is only kept by references."""
        return f"process {self.name}" if self.mm_users else f"process {self.name}, exited, kept by a bond"

    def vma_lookup(self, address: int) -> Vma | None:
        """Return the area that holds `address`."""
        for vma in self.vmas:
            if address in vma:
                return vma
        return None


def mmgrab(mm: MmStruct) -> None:
    """Hold the structure."""
    mm.mm_count += 1


def mmdrop(mm: MmStruct) -> None:
    """Let the structure go; the last one ends the mm and frees its PASID (`__mmdrop`)."""
    mm.mm_count -= 1
    if mm.mm_count == 0:
        __mmdrop(mm)


def __mmdrop(mm: MmStruct) -> None:
    kernel = mm.kernel
    if not kernel.profile.pasid_freed_at_mmput:
        kernel.scheme.mm_pasid_drop(mm)
    del kernel.mms[mm]
    if kernel.observers:
        kernel.emit(events.MmDropped(mm.name))


def mmget(mm: MmStruct) -> None:
    """Live in the address space."""
    mm.mm_users += 1


def mmget_not_zero(mm: MmStruct) -> bool:
    """Live in the address space unless it is already dying."""
    if mm.mm_users == 0:
        return False
    mm.mm_users += 1
    return True


def mmput(mm: MmStruct) -> None:
    """Leave the address space; the last one tears it down (`exit_mmap`) and drops the users' reference."""
    mm.mm_users -= 1
    if mm.mm_users:
        return
    kernel = mm.kernel
    mm.vmas.clear()
    if kernel.observers:
        kernel.emit(events.MmReleased(mm.name))
    if kernel.profile.pasid_freed_at_mmput:
        kernel.scheme.mm_pasid_drop(mm)
    mmdrop(mm)

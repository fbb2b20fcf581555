"""struct mm_struct: the address space that a PASID names, its two reference counts, its areas.

Source: include/linux/sched/mm.h, kernel/fork.c, mm/mmap.c, mm/mprotect.c, arch/{arm64,x86}/mm/fault.c, v6.12 and
v7.3.
`mm_users` counts tasks that live in the address space; `mm_count` counts references to the structure, all users
together being one of them.

Memory is there so that it can be seen whose bytes a device touched: areas with rights, whose pages come with the first
touch (`linux.memory`) into a page table that IOMMUs can walk (`linux.pgtable`). An mm that is only bound costs neither.
Not modelled: stack growth, huge pages, the merging of areas, tables freed before the exit, mmap of new areas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pasidlab import events
from pasidlab.errors import Errno
from pasidlab.linux import pgtable
from pasidlab.linux.memory import (
    KNOWN,
    change_protection,
    copy_page_range,
    flush_tlb_mm,
    handle_mm_fault,
    unmap_page_range,
)
from pasidlab.linux.pgtable import EXEC, READ, WRITE
from pasidlab.rules import Refusal, Rule, Signal, Signalled

if TYPE_CHECKING:
    from pasidlab.linux.kernel import Kernel
    from pasidlab.linux.mmu_notifier import NotifierSubscriptions
    from pasidlab.linux.sva import IommuMmData

PAGE_SIZE = 4096
"""The page of a kernel that was not built for a larger one."""
_AREAS = {0x1000_0000: READ | WRITE, 0x2000_0000: READ, 0x3000_0000: READ | EXEC, 0x5000_0000: 0}
_AREA_PAGES = 4

_FAULT = "do_page_fault (arch/arm64/mm/fault.c), do_user_addr_fault (arch/x86/mm/fault.c)"
SEGV_NO_AREA = Rule(
    "page-fault.no-area",
    _FAULT,
    "!lock_mm_and_find_vma(): SEGV_MAPERR",
    "{mm} has no memory area at {address:#x}",
    source=KNOWN,
)
SEGV_RIGHTS = Rule(
    "page-fault.rights",
    _FAULT,
    "!(vma->vm_flags & vm_flags), x86 access_error(): SEGV_ACCERR",
    "the area of {mm} at {address:#x} does not let it {access}",
    source=KNOWN,
)
BUS_ABORT = Rule(
    "page-fault.external-abort",
    "do_sea (arch/arm64/mm/fault.c), kill_me_maybe (arch/x86/kernel/cpu/mce/core.c)",
    "synchronous external abort, x86: machine check",
    "no memory answers {mm} at {address:#x}",
    source=KNOWN,
)
MUNMAP_BAD_RANGE = Rule(
    "munmap.bad-range",
    "do_vmi_munmap (mm/mmap.c)",
    "offset_in_page(start) || len > TASK_SIZE - start || !PAGE_ALIGN(len)",
    "{size:#x} bytes from {start:#x} are no range of whole pages of user space",
    Errno.EINVAL,
    source=KNOWN,
)
MUNMAPPED = Rule(
    "munmap.done",
    "do_vmi_munmap (mm/mmap.c)",
    "no check failed",
    "{mm} has nothing at {start:#x} to {end:#x} any more",
    source=KNOWN,
)
MPROTECT_BAD_START = Rule(
    "mprotect.bad-start",
    "do_mprotect_pkey (mm/mprotect.c)",
    "start & ~PAGE_MASK",
    "{start:#x} is not the start of a page",
    Errno.EINVAL,
    source=KNOWN,
)
MPROTECT_HOLE = Rule(
    "mprotect.hole",
    "do_mprotect_pkey (mm/mprotect.c)",
    "end <= start, or the areas do not cover the range",
    "{mm} has no memory at {address:#x}; what comes before it has its new rights",
    Errno.ENOMEM,
    source=KNOWN,
)
MPROTECTED = Rule(
    "mprotect.done",
    "do_mprotect_pkey (mm/mprotect.c)",
    "no check failed",
    "{mm} has other rights at {start:#x} to {end:#x}",
    source=KNOWN,
)


@dataclass(slots=True)
class Vma:
    """`struct vm_area_struct`: `size` bytes from `start`, both multiples of the page; `flags` of READ, WRITE, EXEC.

    Each page of it repeats `fill` before it is first written.
    """

    start: int
    size: int
    flags: int
    fill: bytes = b"\0"

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.size


def process_memory(fill: bytes = b"\0", page_size: int = PAGE_SIZE) -> list[Vma]:
    """Return the areas of a process, those of the kernels' records: RW, R, RX, one without rights, four pages each."""
    return [Vma(start, _AREA_PAGES * page_size, flags, fill) for start, flags in _AREAS.items()]


class MmStruct:
    """One address space.

    Attributes:
        name, user: for reports; `user` is whom a quota charges.
        iommu_mm: the SVA core's data of this mm, None until a bind has made it.
        lam: its page tables are not DMA compatible (x86 LAM is on).
        vmas: its areas.
        pgd_page: physical address of its first table, None until `pgd` has made it.
        notifier_subscriptions: who is told of changes, None before the first registration.
    """

    __slots__ = (
        "iommu_mm",
        "kernel",
        "lam",
        "mm_count",
        "mm_users",
        "name",
        "notifier_subscriptions",
        "pgd_page",
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
        self.pgd_page: int | None = None
        self.notifier_subscriptions: NotifierSubscriptions | None = None
        kernel.mms[self] = None

    @property
    def global_pasid(self) -> int | None:
        """The number that this mm holds of the global space, if it holds one."""
        return None if self.iommu_mm is None else self.iommu_mm.global_pasid

    @property
    def holder(self) -> str:
        """Name the mm in a report, and say when it is only kept by references."""
        return f"process {self.name}" if self.mm_users else f"process {self.name}, exited, kept by a bond"

    @property
    def torn_down(self) -> bool:
        """Whether nobody lives in it and `exit_mmap()` is done: its pages may be anybody's."""
        return not self.mm_users and not self.vmas

    @property
    def pgd(self) -> int:
        """Physical address of its first page table, as TTBR0_EL1 or CR3 would have it; made on first use."""
        if self.pgd_page is None:
            self.pgd_page = pgtable.pgd_alloc(self.kernel)
        return self.pgd_page

    def vma_lookup(self, address: int) -> Vma | None:
        """Return the area that holds `address`."""
        for vma in self.vmas:
            if address in vma:
                return vma
        return None

    def has_page(self, address: int) -> bool:
        """Whether the page of `address` was brought in."""
        ptep = pgtable.pte_offset_map(self, address)
        return ptep is not None and self.kernel.pgtable.pte_present(pgtable.ptep_get(self.kernel.memory, ptep))

    # --- what the process's own instructions do ----------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes | Signalled:
        """Load bytes as the process itself, with its pages coming as they are touched."""
        data = b""
        for at, part in self._split(address, size):
            physical = self._translate(at, write=False)
            if isinstance(physical, Signalled):
                return physical
            loaded = self.kernel.memory.load(physical, part)
            if loaded is None:
                return BUS_ABORT.signal(Signal.SIGBUS, mm=self.name, address=at)
            data += loaded
        return data

    def write(self, address: int, data: bytes) -> Signalled | None:
        """Store bytes as the process itself; pages before one that may not be written have been written."""
        for at, part in self._split(address, len(data)):
            physical = self._translate(at, write=True)
            if isinstance(physical, Signalled):
                return physical
            done = at - address
            if not self.kernel.memory.store(physical, data[done : done + part]):
                return BUS_ABORT.signal(Signal.SIGBUS, mm=self.name, address=at)
        return None

    def _split(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield start and size of each part of a range that lies in one page."""
        end = address + size
        while address < end:
            part = min(end - address, -address % self.kernel.page_size or self.kernel.page_size)
            yield address, part
            address += part

    def _translate(self, address: int, *, write: bool) -> int | Signalled:
        """Return the physical address, after a page fault if need be."""
        physical = permitted_page(self, address, write)
        if physical is None:
            signalled = do_page_fault(self, address, write)
            if signalled:
                return signalled
            physical = permitted_page(self, address, write)
            assert physical is not None
        return physical


def permitted_page(mm: MmStruct, address: int, write: bool) -> int | None:
    """Return where the byte of an address lies, if the page table lets user space access it as it stands.

    The access leaves its flags in the entry, where the architecture's hardware sets them.
    """
    ptep = pgtable.pte_offset_map(mm, address)
    if ptep is None:
        return None
    kernel = mm.kernel
    pte = pgtable.ptep_get(kernel.memory, ptep)
    accessed = kernel.pgtable.pte_access(pte, write)
    if accessed is None:
        return None
    if accessed != pte:
        pgtable.set_pte(kernel.memory, ptep, accessed)
    return kernel.pgtable.pte_page(pte) | address & kernel.page_size - 1


def do_page_fault(mm: MmStruct, address: int, write: bool) -> Signalled | None:
    """Serve a fault of the process's own instruction, or tell the signal that it gets (arch/*/mm/fault.c).

    To write implies to read, and to execute does so, on arm64 without EPAN.
    """
    vma = mm.vma_lookup(address)
    if vma is None:
        return SEGV_NO_AREA.signal(Signal.SIGSEGV, mm=mm.name, address=address)
    if not vma.flags & (WRITE if write else READ | WRITE | EXEC):
        access = "write" if write else "read"
        return SEGV_RIGHTS.signal(Signal.SIGSEGV, mm=mm.name, address=address, access=access)
    handle_mm_fault(mm, address, write)
    return None


# --- references (include/linux/sched/mm.h, kernel/fork.c) ------------------------------------------------------


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
    if mm.pgd_page is not None:
        pgtable.pgd_free(kernel, mm.pgd_page)
        mm.pgd_page = None
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
    exit_mmap(mm)
    if kernel.observers:
        kernel.emit(events.MmReleased(mm.name))
    if kernel.profile.pasid_freed_at_mmput:
        kernel.scheme.mm_pasid_drop(mm)
    mmdrop(mm)


def exit_mmap(mm: MmStruct) -> None:
    """Tear an address space down (mm/mmap.c): its notifiers first, then the pages, then the tables below the pgd."""
    if mm.notifier_subscriptions is not None:
        mm.notifier_subscriptions.release()
    for vma in mm.vmas:
        unmap_page_range(mm, vma)
    mm.vmas.clear()
    pgtable.free_pgtables(mm)


def dup_mmap(mm: MmStruct, oldmm: MmStruct) -> None:
    """Give a child its parent's areas, and share the pages until one of the two writes (kernel/fork.c)."""
    mm.vmas = [replace(vma) for vma in oldmm.vmas]
    for vma in oldmm.vmas:
        copy_page_range(mm, oldmm, vma)
    flush_tlb_mm(oldmm)


# --- areas (mm/mmap.c, mm/mprotect.c) --------------------------------------------------------------------------


def munmap(mm: MmStruct, start: int, size: int) -> Refusal | None:
    """Take a range out of an address space; holes in it are no error (`do_vmi_munmap`)."""
    page_size = mm.kernel.page_size
    end = start + page_align(size, page_size)
    if start % page_size or end > mm.kernel.pgtable.task_size or end == start:
        return MUNMAP_BAD_RANGE.refuse(start=start, size=size)
    inside = _split_out(mm, start, end)
    mm.vmas = [vma for vma in mm.vmas if vma not in inside]
    for vma in inside:
        unmap_page_range(mm, vma)
    mm.kernel.decided(MUNMAPPED, mm=mm.name, start=start, end=end)
    return None


def mprotect(mm: MmStruct, start: int, size: int, flags: int) -> Refusal | None:
    """Give a range other rights, as far as areas cover it without a hole (`do_mprotect_pkey`)."""
    page_size = mm.kernel.page_size
    if start % page_size:
        return MPROTECT_BAD_START.refuse(start=start)
    end, reached = start + page_align(size, page_size), start
    for vma in _split_out(mm, start, end):
        if vma.start != reached:
            break
        reached = vma.end
        if vma.flags != flags:
            vma.flags = flags
            change_protection(mm, vma)
    if reached < end:
        return MPROTECT_HOLE.refuse(mm=mm.name, address=reached)
    mm.kernel.decided(MPROTECTED, mm=mm.name, start=start, end=end)
    return None


def page_align(size: int, page_size: int) -> int:
    """Round a size up to whole pages (PAGE_ALIGN)."""
    return -(-size // page_size) * page_size


def _split_out(mm: MmStruct, start: int, end: int) -> list[Vma]:
    """Split areas at the borders of a range (`__split_vma`) and return those inside it, by address."""
    for border in (start, end):
        vma = mm.vma_lookup(border)
        if vma is not None and vma.start != border:
            mm.vmas.append(replace(vma, start=border, size=vma.end - border))
            vma.size = border - vma.start
    return sorted((vma for vma in mm.vmas if start <= vma.start < end), key=lambda vma: vma.start)

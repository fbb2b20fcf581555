"""Address spaces in real memory: pages, page tables, copy-on-write, and who is told of changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab import InputError, Machine, MachineSpec, run
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.devices import Access, Work
from pasidlab.errors import Errno, ModelError
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, TableDescriptor
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.memory import TLB_FLUSH_ALL, handle_mm_fault
from pasidlab.linux.mm import MmStruct, dup_mmap, mmdrop, mmgrab, mmput, mprotect, munmap, process_memory
from pasidlab.linux.mmu_notifier import (
    MmuNotifier,
    mmu_notifier_arch_invalidate_secondary_tlbs,
    mmu_notifier_put,
    mmu_notifier_register,
    mmu_notifier_unregister,
)
from pasidlab.linux.page_alloc import PageAllocator
from pasidlab.linux.pgtable import EXEC, READ, WRITE, PageTables, pte_offset_map, ptep_get
from pasidlab.linux.pgtable_arm64 import Arm64PageTables
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.linux.sva import iommu_sva_bind_device, iommu_sva_invalidate_kva_range, iommu_sva_unbind_device
from pasidlab.memory import Memory
from pasidlab.rules import Faulted, Signal
from pasidlab.scenario import Scenario
from pasidlab.schemes import Mainline

from .rig import Rig, bound, refused, signalled

RW, RO, RX, NONE = 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x5000_0000
PAGE = 4096
SHIFTS = pytest.mark.parametrize("shift", [12, 14, 16])


TABLES: dict[str, Callable[[], PageTables]] = {
    "arm64": Arm64PageTables,
    "x86": X86PageTables,
    "x86-la57": lambda: X86PageTables(levels=5),
}


def kernel_of(shift: int = 12) -> Kernel:
    return Kernel(Mainline(), page_shift=shift)


@pytest.fixture(params=TABLES)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return Kernel(Mainline(), pgtable=TABLES[request.param]())


def process(kernel: Kernel, name: str = "a") -> MmStruct:
    mm = MmStruct(kernel, name)
    mm.vmas = process_memory(f"{name} ".encode(), kernel.page_size)
    return mm


def fork(parent: MmStruct, name: str) -> MmStruct:
    child = MmStruct(parent.kernel, name)
    dup_mmap(child, parent)
    return child


def pte(mm: MmStruct, address: int) -> int:
    ptep = pte_offset_map(mm, address)
    return 0 if ptep is None else ptep_get(mm.kernel.memory, ptep)


def page_of(mm: MmStruct, address: int) -> int:
    return mm.kernel.pgtable.pte_page(pte(mm, address))


def leaf(mm: MmStruct, address: int) -> Stage1Leaf:
    return Stage1Leaf(pte(mm, address))


@dataclass
class Recorder:
    """A subscriber that notes each call with what the page table and the allocator say at that moment."""

    watched: int = RW
    calls: list[tuple[object, ...]] = field(default_factory=list)
    page: int = 0

    def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
        owners = mm.kernel.page_alloc.owners_of(self.page)
        self.calls.append((start, end, pte(mm, self.watched), owners))

    def release(self, mm: MmStruct) -> None:
        self.calls.append(("release", mm.has_page(self.watched), mm.kernel.page_alloc.owners_of(self.page)))


def recorded(mm: MmStruct, watched: int = RW) -> Recorder:
    recorder = Recorder(watched, page=page_of(mm, watched))
    assert mmu_notifier_register(MmuNotifier(recorder), mm) is None
    return recorder


class TestPages:
    def test_a_page_is_zeroed_aligned_and_counted(self) -> None:
        alloc = PageAllocator(Memory(), 14)
        first = alloc.alloc_page()
        assert first == 0x8000_0000
        alloc.memory.store(first, b"old")
        alloc.put_page(first)
        assert alloc.used == 0
        assert alloc.alloc_page() == first
        assert alloc.memory.load(first, 3) == bytes(3)
        assert alloc.alloc_page() == first + 0x4000
        assert alloc.used == 2

    def test_the_page_that_was_freed_last_is_given_out_first(self) -> None:
        alloc = PageAllocator(Memory())
        pages = [alloc.alloc_page() for _ in range(3)]
        for page in pages:
            alloc.put_page(page)
        assert [alloc.alloc_page() for _ in range(3)] == pages[::-1]

    def test_a_page_lives_as_long_as_its_references(self) -> None:
        alloc = PageAllocator(Memory())
        page = alloc.alloc_page()
        alloc.get_page(page)
        alloc.put_page(page)
        assert (alloc.page_count(page), alloc.used) == (1, 1)
        alloc.put_page(page)
        assert (alloc.page_count(page), alloc.used) == (0, 0)
        with pytest.raises(ModelError, match="is free"):
            alloc.put_page(page)
        with pytest.raises(ModelError, match="is free"):
            alloc.get_page(page)

    def test_a_block_is_contiguous_aligned_and_freed_as_a_whole(self) -> None:
        alloc = PageAllocator(Memory())
        alloc.alloc_page()
        block = alloc.alloc_pages(4)
        assert block == 0x8001_0000
        assert alloc.used == 17
        assert alloc.owners_of(block + 0xFFFF) == ("kernel",)
        assert alloc.alloc_page() == block + 0x1_0000
        alloc.put_page(block)
        assert alloc.owners_of(block + 0xFFFF) == ()
        assert alloc.alloc_pages(4) == block

    def test_owners_are_the_mms_that_map_a_page_else_the_kernel(self) -> None:
        kernel = kernel_of()
        a = process(kernel)
        a.write(RW, b"x")
        page = page_of(a, RW)
        assert kernel.page_alloc.owners_of(page + 9) == ("a",)
        b = fork(a, "b")
        assert kernel.page_alloc.owners_of(page) == ("a", "b")
        mmput(a)
        assert kernel.page_alloc.owners_of(page) == ("b",)
        assert kernel.page_alloc.owners_of(b.pgd) == ("kernel",)
        mmput(b)
        assert kernel.page_alloc.owners_of(page) == ()

    def test_a_page_that_cannot_be_cleared_is_not_given_out(self) -> None:
        memory = Memory()
        memory.poison(0x8000_0000, 1)
        with pytest.raises(ModelError, match="cannot clear"):
            PageAllocator(memory).alloc_page()


class TestTables:
    def test_nothing_is_allocated_before_the_first_touch(self) -> None:
        rig = Rig()
        dev = rig.device("dev", 4)
        a = rig.process("a")
        bond = bound(iommu_sva_bind_device(dev, a.mm))
        child = fork(a.mm, "child")
        assert munmap(child, RO, PAGE) is None
        assert mprotect(child, RW, PAGE, READ) is None
        iommu_sva_unbind_device(bond)
        assert rig.kernel.page_alloc.used == 0
        assert rig.kernel.memory.touched_pages == 0

    def test_the_pgd_comes_when_it_is_asked_for_and_goes_with_the_structure(self) -> None:
        kernel = kernel_of()
        mm = process(kernel)
        assert mm.pgd == mm.pgd == 0x8000_0000
        assert kernel.page_alloc.used == 1
        mm.write(RW, b"x")
        mmgrab(mm)
        mmput(mm)
        assert kernel.page_alloc.used == 1
        assert not any(kernel.memory.load(mm.pgd, PAGE))
        mmdrop(mm)
        assert kernel.page_alloc.used == 0

    @pytest.mark.parametrize(
        ("shift", "indices"),
        [
            (12, (0xAB, 0xCD, 0x12, 0x1A5)),
            (14, (0x1, 0x2B9, 0x55E, 0x6A3)),
            (16, (0x1A, 0x1234, 0x0ABC)),
        ],
    )
    def test_the_indices_of_each_granule_lead_to_the_page(self, shift: int, indices: tuple[int, ...]) -> None:
        bits, address = shift - 3, 0
        for index in indices:
            address = address << bits | index
        address <<= shift
        kernel = kernel_of(shift)
        mm = process(kernel)
        mm.vmas[0].start = address
        assert mm.write(address + 5, b"here") is None
        table = mm.pgd
        for index in indices[:-1]:
            entry = TableDescriptor(kernel.memory.load64(table + 8 * index))
            assert (entry.valid, entry.table_or_page, entry.pxn_table) == (True, True, True)
            assert entry.next_table % (1 << shift) == 0
            assert [bool(word) for word in words(kernel, table)].count(True) == 1
            table = entry.next_table
        leaf = Stage1Leaf(kernel.memory.load64(table + 8 * indices[-1]))
        assert kernel.memory.load(leaf.output + 5, 4) == b"here"
        assert kernel.page_alloc.used == len(indices) + 1

    @SHIFTS
    def test_entries_have_the_bits_that_arm64_sets(self, shift: int) -> None:
        mm = process(kernel_of(shift))
        mm.write(RW, b"x")
        for address in (RW + mm.kernel.page_size, RO, RX):
            mm.read(address, 1)
        assert handle_mm_fault(mm, NONE, write=False)
        raw = {a: pte(mm, a) - page_of(mm, a) for a in (RW, RW + mm.kernel.page_size, RO, RX, NONE)}
        assert list(raw.values()) == [
            0x00E8_0000_0000_0F43,  # written: DBM, PTE_DIRTY, not read-only
            0x0068_0000_0000_0F43,  # writable and clean
            0x0060_0000_0000_0FC3,  # read-only
            0x0020_0000_0000_0FC3,  # read-only, executable
            0x0060_0000_0000_0F82,  # no rights: not valid, but it has a page
        ]

    @SHIFTS
    def test_all_tables_go_at_exit(self, shift: int) -> None:
        kernel = kernel_of(shift)
        mm = process(kernel)
        for address in (RW, RO, RX):
            mm.read(address, 4 * kernel.page_size)
        assert kernel.page_alloc.used > 12
        mmput(mm)
        assert kernel.page_alloc.used == 0

    def test_a_table_in_memory_that_aborts_breaks_the_model(self) -> None:
        kernel = kernel_of()
        mm = process(kernel)
        mm.read(RW, 1)
        kernel.memory.poison(mm.pgd, PAGE)
        with pytest.raises(ModelError, match="cannot be read"):
            mm.read(RW, 1)
        with pytest.raises(ModelError, match="cannot be read"):
            mmput(mm)


def words(kernel: Kernel, table: int) -> list[int]:
    data = kernel.memory.load(table, kernel.page_size)
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


class TestAccesses:
    @SHIFTS
    def test_pages_begin_with_what_the_area_repeats(self, shift: int) -> None:
        kernel = kernel_of(shift)
        mm = process(kernel, "abc")
        size = kernel.page_size
        assert mm.read(RO, 7) == b"abc abc"
        assert mm.read(RW + size - 2, 4) == (b"abc " * size)[size - 2 : size] + b"ab"

    def test_a_write_over_a_border_lands_in_both_pages(self, kernel: Kernel) -> None:
        mm = process(kernel)
        assert mm.write(RW + PAGE - 2, b"wxyz") is None
        assert mm.read(RW + PAGE - 3, 6) == b" wxyza"
        assert mm.has_page(RW)
        assert mm.has_page(RW + PAGE)
        assert not mm.has_page(RW + 2 * PAGE)

    @pytest.mark.parametrize(
        ("address", "write", "why"),
        [
            (RO, True, "the area of a at 0x20000000 does not let it write"),
            (NONE, False, "the area of a at 0x50000000 does not let it read"),
            (NONE, True, "the area of a at 0x50000000 does not let it write"),
        ],
    )
    def test_what_an_area_does_not_allow_is_sigsegv(self, kernel: Kernel, address: int, write: bool, why: str) -> None:
        mm = process(kernel)
        outcome = mm.write(address, b"x") if write else mm.read(address, 1)
        assert signalled(outcome, Signal.SIGSEGV, "page-fault.rights") == why
        assert not mm.has_page(address)

    @pytest.mark.parametrize("address", [0, 0x9000_0000, 1 << 47, 1 << 48, 1 << 57, (1 << 64) - 1])
    def test_where_no_area_is_it_is_sigsegv(self, kernel: Kernel, address: int) -> None:
        mm = process(kernel)
        mm.read(RW, 1)
        signalled(mm.read(address, 1), Signal.SIGSEGV, "page-fault.no-area")
        signalled(mm.write(address, b"x"), Signal.SIGSEGV, "page-fault.no-area")

    def test_bytes_before_the_one_that_faults_are_written(self, kernel: Kernel) -> None:
        mm = process(kernel)
        signalled(mm.write(RW + 4 * PAGE - 2, b"xyz"), Signal.SIGSEGV, "page-fault.no-area")
        assert mm.read(RW + 4 * PAGE - 2, 2) == b"xy"

    def test_to_write_or_execute_implies_to_read(self, kernel: Kernel) -> None:
        mm = process(kernel)
        for flags in (WRITE, EXEC):
            assert mprotect(mm, RW, PAGE, flags) is None
            assert mm.read(RW, 1) == b"a"

    def test_memory_that_aborts_is_sigbus(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW, b"x")
        mm.kernel.memory.poison(page_of(mm, RW), 1)
        signalled(mm.read(RW, 1), Signal.SIGBUS, "page-fault.external-abort")
        signalled(mm.write(RW, b"x"), Signal.SIGBUS, "page-fault.external-abort")

    def test_a_fault_that_cannot_be_served_says_so(self, kernel: Kernel) -> None:
        mm = process(kernel)
        assert not handle_mm_fault(mm, 0x9000_0000, write=False)
        assert not handle_mm_fault(mm, RO, write=True)
        assert handle_mm_fault(mm, RO, write=False)


class TestFork:
    def test_pages_are_shared_until_one_of_the_two_writes(self, kernel: Kernel) -> None:
        a = process(kernel)
        a.write(RW, b"before")
        page = page_of(a, RW)
        b = fork(a, "b")
        assert page_of(a, RW) == page_of(b, RW) == page
        assert kernel.page_alloc.page_count(page) == 2
        a.write(RW, b"after ")
        assert (a.read(RW, 6), b.read(RW, 6)) == (b"after ", b"before")
        assert page_of(b, RW) == page != page_of(a, RW)
        assert kernel.page_alloc.page_count(page) == 1

    def test_both_sides_are_write_protected_and_the_childs_entry_is_old(self) -> None:
        a = process(kernel_of())
        a.write(RW, b"x")
        b = fork(a, "b")
        for mm, young in ((a, True), (b, False)):
            assert (leaf(mm, RW).ap, leaf(mm, RW).dbm, leaf(mm, RW).software, leaf(mm, RW).af) == (3, False, 1, young)
        b.read(RW, 1)
        assert leaf(b, RW).af

    def test_the_last_owner_of_a_page_reuses_it(self, kernel: Kernel) -> None:
        a = process(kernel)
        a.write(RW, b"x")
        page = page_of(a, RW)
        b = fork(a, "b")
        mmput(b)
        a.write(RW, b"y")
        assert page_of(a, RW) == page
        assert kernel.page_alloc.page_count(page) == 1

    def test_areas_are_copied_not_shared(self, kernel: Kernel) -> None:
        a = process(kernel)
        b = fork(a, "b")
        assert mprotect(b, RW, 4 * PAGE, 0) is None
        assert a.write(RW, b"x") is None
        signalled(b.read(RW, 1), Signal.SIGSEGV, "page-fault.rights")

    def test_a_page_that_cannot_be_copied_breaks_the_model(self, kernel: Kernel) -> None:
        a = process(kernel)
        a.write(RW, b"x")
        b = fork(a, "b")
        a.kernel.memory.poison(page_of(a, RW), 1)
        with pytest.raises(ModelError, match="cannot be copied"):
            b.write(RW, b"y")


class TestRanges:
    def test_munmap_splits_an_area_and_frees_the_pages_in_between(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW, b"w" * 4 * PAGE)
        used = mm.kernel.page_alloc.used
        assert munmap(mm, RW + PAGE, 2 * PAGE - 100) is None
        assert mm.kernel.page_alloc.used == used - 2
        spans = sorted((vma.start, vma.size) for vma in mm.vmas if vma.start < RO)
        assert spans == [(RW, PAGE), (RW + 3 * PAGE, PAGE)]
        assert mm.read(RW + PAGE - 1, 1) == mm.read(RW + 3 * PAGE, 1) == b"w"
        signalled(mm.read(RW + PAGE, 1), Signal.SIGSEGV, "page-fault.no-area")
        signalled(mm.read(RW + 3 * PAGE - 1, 1), Signal.SIGSEGV, "page-fault.no-area")

    def test_munmap_over_holes_and_several_areas(self, kernel: Kernel) -> None:
        mm = process(kernel)
        assert munmap(mm, 0, RX) is None
        assert [vma.start for vma in mm.vmas] == [RX, NONE]
        assert munmap(mm, 0, RX) is None

    @pytest.mark.parametrize(("start", "size"), [(RW + 1, PAGE), (RW, 0), (-PAGE, PAGE + 1), (1 << 60, 1)])
    def test_munmap_of_no_range_of_pages_is_einval(self, kernel: Kernel, start: int, size: int) -> None:
        mm = process(kernel)
        start = start if start > 0 else kernel.pgtable.task_size + start
        refused(munmap(mm, start, size), Errno.EINVAL, "munmap.bad-range")
        assert mm.vma_lookup(RW) is not None

    def test_mprotect_takes_rights_and_gives_them_back_with_the_bytes(self) -> None:
        mm = process(kernel_of())
        mm.write(RW, b"kept")
        for flags, raw in (
            (READ, 0x00E0_0000_0000_0FC3),
            (0, 0x00E0_0000_0000_0F82),
            (READ | EXEC, 0x00A0_0000_0000_0FC3),
        ):
            assert mprotect(mm, RW, PAGE, flags) is None
            assert pte(mm, RW) - page_of(mm, RW) == raw
            signalled(mm.write(RW, b"x"), Signal.SIGSEGV, "page-fault.rights")
        assert mprotect(mm, RW, PAGE, READ | WRITE) is None
        assert mm.read(RW, 4) == b"kept"
        assert mm.write(RW, b"new!") is None
        assert mm.read(RW, 4) == b"new!"

    def test_mprotect_splits_at_both_ends(self, kernel: Kernel) -> None:
        mm = process(kernel)
        assert mprotect(mm, RW + PAGE, PAGE, READ) is None
        spans = sorted((vma.start, vma.size, vma.flags) for vma in mm.vmas if vma.start < RO)
        assert spans == [(RW, PAGE, 3), (RW + PAGE, PAGE, 1), (RW + 2 * PAGE, 2 * PAGE, 3)]
        assert mm.write(RW, b"x") is None
        assert mm.write(RW + 2 * PAGE, b"x") is None
        signalled(mm.write(RW + PAGE, b"x"), Signal.SIGSEGV, "page-fault.rights")

    def test_mprotect_refuses_a_start_inside_a_page(self, kernel: Kernel) -> None:
        refused(mprotect(process(kernel), RW + 8, PAGE, READ), Errno.EINVAL, "mprotect.bad-start")

    def test_mprotect_of_a_range_with_a_hole_changes_what_comes_before_it(self, kernel: Kernel) -> None:
        mm = process(kernel)
        why = refused(mprotect(mm, RW + 3 * PAGE, 2 * PAGE, READ), Errno.ENOMEM, "mprotect.hole")
        assert why.startswith("a has no memory at 0x10004000")
        signalled(mm.write(RW + 3 * PAGE, b"x"), Signal.SIGSEGV, "page-fault.rights")
        refused(mprotect(mm, RW - PAGE, 2 * PAGE, READ), Errno.ENOMEM, "mprotect.hole")
        assert mm.write(RW, b"x") is None

    def test_mprotect_of_nothing_succeeds(self, kernel: Kernel) -> None:
        assert mprotect(process(kernel), 0x9000_0000, 0, READ) is None


class TestNotifiers:
    def test_munmap_tells_after_the_entry_is_cleared_and_before_the_page_is_free(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW + PAGE, b"x")
        recorder = recorded(mm, RW + PAGE)
        munmap(mm, RW, 4 * PAGE)
        assert recorder.calls == [(RW + PAGE, RW + 2 * PAGE, 0, ("a",))]
        assert mm.kernel.page_alloc.owners_of(recorder.page) == ()

    def test_the_range_spans_the_entries_that_were_touched(self) -> None:
        mm = process(kernel_of(14))
        mm.read(RW, 1)
        mm.read(RW + 2 * 0x4000, 1)
        recorder = recorded(mm)
        munmap(mm, RW, 4 * 0x4000)
        assert [call[:2] for call in recorder.calls] == [(RW, RW + 3 * 0x4000)]

    def test_memory_that_was_never_touched_goes_without_a_word(self, kernel: Kernel) -> None:
        mm = process(kernel)
        recorder = recorded(mm)
        munmap(mm, RW, PAGE)
        mprotect(mm, RW + PAGE, PAGE, READ)
        assert recorder.calls == []

    def test_mprotect_tells_after_the_entry_has_fewer_rights(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW, b"x")
        recorder = recorded(mm)
        mprotect(mm, RW, 4 * PAGE, READ)
        ((start, end, seen, owners),) = recorder.calls
        assert (start, end, kernel.pgtable.pte_write(seen), owners) == (RW, RW + PAGE, False, ("a",))
        mprotect(mm, RW, 4 * PAGE, READ)
        assert len(recorder.calls) == 1

    def test_a_fork_tells_everything_after_the_parent_is_write_protected(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW, b"x")
        recorder = recorded(mm)
        fork(mm, "b")
        ((start, end, seen, _),) = recorder.calls
        assert (start, end, kernel.pgtable.pte_write(seen)) == (0, TLB_FLUSH_ALL, False)

    def test_a_copy_tells_while_the_entry_is_clear_and_the_old_page_held(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW, b"x")
        fork(mm, "b")
        recorder = recorded(mm)
        mm.write(RW + 9, b"y")
        assert recorder.calls == [(RW, RW + PAGE, 0, ("a", "b"))]
        assert mm.kernel.page_alloc.owners_of(recorder.page) == ("b",)
        assert page_of(mm, RW) != recorder.page

    def test_reuse_tells_after_the_entry_allows_more(self) -> None:
        mm = process(kernel_of())
        mm.write(RW, b"x")
        mprotect(mm, RW, PAGE, READ)
        mprotect(mm, RW, PAGE, READ | WRITE)
        recorder = recorded(mm)
        mm.write(RW, b"y")
        ((start, end, seen, _),) = recorder.calls
        assert (start, end, Stage1Leaf(seen).ap) == (RW, RW + PAGE, 1)

    def test_a_page_that_comes_in_is_told_to_nobody(self, kernel: Kernel) -> None:
        mm = process(kernel)
        recorder = recorded(mm)
        mm.write(RW, b"x")
        mm.write(RW, b"x")
        assert recorder.calls == []

    def test_the_end_releases_first_and_only_then_frees(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.write(RW, b"x")
        recorder = recorded(mm)
        mmput(mm)
        assert recorder.calls == [("release", True, ("a",))]
        assert mm.kernel.page_alloc.owners_of(recorder.page) == ()

    def test_a_subscription_holds_the_structure_until_it_is_put(self, kernel: Kernel) -> None:
        mm = process(kernel)
        notifier = MmuNotifier(Recorder())
        mmu_notifier_register(notifier, mm)
        assert notifier.mm is mm
        mmput(mm)
        assert mm in mm.kernel.mms
        mmu_notifier_put(notifier)
        assert mm not in mm.kernel.mms
        assert mm.kernel.page_alloc.used == 0

    def test_put_of_a_living_mm_does_not_release(self, kernel: Kernel) -> None:
        mm = process(kernel)
        recorder = Recorder()
        notifier = MmuNotifier(recorder)
        mmu_notifier_register(notifier, mm)
        mmu_notifier_put(notifier)
        mmu_notifier_arch_invalidate_secondary_tlbs(mm, 0, 1)
        mmput(mm)
        assert recorder.calls == []

    def test_unregister_releases_once(self, kernel: Kernel) -> None:
        for exits_first in (False, True):
            mm = process(kernel)
            recorder = Recorder()
            notifier = MmuNotifier(recorder)
            mmu_notifier_register(notifier, mm)
            if exits_first:
                mmput(mm)
            mmu_notifier_unregister(notifier, mm)
            assert [call[0] for call in recorder.calls] == ["release"]

    def test_only_the_first_subscription_of_an_mm_allocates(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mm.kernel.fail_allocation = 1
        refused(mmu_notifier_register(MmuNotifier(Recorder()), mm), Errno.ENOMEM, "mmu-notifier.no-memory")
        assert mm.mm_count == 1
        assert mmu_notifier_register(MmuNotifier(Recorder()), mm) is None
        mm.kernel.fail_allocation = 1
        assert mmu_notifier_register(MmuNotifier(Recorder()), mm) is None

    def test_a_dead_mm_takes_no_subscription(self, kernel: Kernel) -> None:
        mm = process(kernel)
        mmgrab(mm)
        mmput(mm)
        with pytest.raises(ModelError, match="no user any more"):
            mmu_notifier_register(MmuNotifier(Recorder()), mm)

    def test_kernel_flushes_go_through_the_subscriptions_of_bound_mms(self) -> None:
        rig = Rig()
        dev = rig.device("dev", 4)
        a, b = rig.mm("a"), rig.mm("b")
        bound(iommu_sva_bind_device(dev, a))
        recorders = [recorded(mm) for mm in (a, b)]
        iommu_sva_invalidate_kva_range(rig.kernel, 0x1000, 0x2000)
        assert [[call[:2] for call in recorder.calls] for recorder in recorders] == [[(0x1000, 0x2000)], []]


class TestDevices:
    """What the mock IOMMU reaches is the process's own page."""

    def rig(self) -> tuple[Rig, object, MmStruct]:
        rig = Rig()
        dev = rig.device("dev", 4)
        mm = process(rig.kernel)
        bound(iommu_sva_bind_device(dev, mm))
        return rig, dev, mm

    def test_the_cpu_sees_what_the_device_wrote(self) -> None:
        rig, dev, mm = self.rig()
        moved = rig.driver.access(dev, 1, RW + 4, b"dma", 3)
        assert (moved.owner, moved.data) == ("a", b"dma")
        assert mm.read(RW, 8) == b"a a dma "
        assert rig.driver.access(dev, 1, RW + 4, None, 3).data == b"dma"

    def test_a_write_after_a_fork_asks_and_leaves_the_child_its_page(self) -> None:
        rig, dev, mm = self.rig()
        mm.write(RW, b"old")
        child = fork(mm, "child")
        assert rig.driver.access(dev, 1, RW, b"new", 3).owner == "a"
        assert (mm.read(RW, 3), child.read(RW, 3)) == (b"new", b"old")
        assert "fault.mm-handled" in rig.decided

    def test_memory_that_aborts_is_a_fault_of_the_device(self) -> None:
        rig, dev, mm = self.rig()
        mm.write(RW, b"x")
        rig.kernel.memory.poison(page_of(mm, RW), 1)
        for data in (None, b"y"):
            fault = rig.driver.access(dev, 1, RW, data, 1)
            assert isinstance(fault, Faulted)
            assert fault.rule.id == "dma.aborted"

    def test_a_kernel_managed_domain_reads_as_zeros(self) -> None:
        rig, dev, _ = self.rig()
        rig.attach(dev, 5)
        assert rig.driver.access(dev, 5, 0x1234, None, 4).data == bytes(4)
        assert rig.driver.access(dev, 5, 0x1234, b"to", 2).owner == "kernel"


def machine(**cpu: object) -> Machine:
    return Machine(
        MachineSpec(
            cpu=CpuSpec(**cpu),  # type: ignore[arg-type]
            iommu=[IommuSpec("iommu0")],
            device=[DeviceSpec("dev0", "iommu0", pasid_bits=4), DeviceSpec("loose", pasid_bits=4)],
            process=[ProcessSpec("a")],
        )
    )


class TestVerbs:
    def test_load_and_store(self) -> None:
        m = machine()
        stored = m.store("a", RW, b"text")
        assert (stored.result, stored.rule, stored.work.owner) == ("ok", "store.done", "a")
        loaded = m.load("a", RW, 4)
        assert (loaded.rule, loaded.work.data, loaded.pasid) == ("load.done", b"text", None)
        assert m.store("a", RO, b"x").result == "SIGSEGV"
        assert m.load("a", NONE, 1).rule == "page-fault.rights"

    def test_munmap_and_mprotect_without_size_reach_to_the_end_of_the_area(self) -> None:
        m = machine()
        assert m.mprotect("a", RW + PAGE, READ).rule == "mprotect.done"
        assert m.store("a", RW, b"x").result == "ok"
        assert m.store("a", RW + 3 * PAGE, b"x").result == "SIGSEGV"
        assert m.munmap("a", RO + 3 * PAGE).rule == "munmap.done"
        assert m.load("a", RO + 3 * PAGE - 1, 1).result == "ok"
        assert m.load("a", RO + 3 * PAGE, 1).rule == "page-fault.no-area"
        assert m.munmap("a", 0x9000_0000).result == "ok"
        assert m.mprotect("a", 0x9000_0000, READ).result == "ENOMEM"

    def test_an_exited_process_does_nothing_more(self) -> None:
        m = machine()
        m.exit("a")
        for outcome in (m.load("a", RW, 1), m.store("a", RW, b""), m.munmap("a", RW), m.mprotect("a", RW, READ)):
            assert outcome.result == "ESRCH"

    @pytest.mark.parametrize("size", [4096, 16384, 65536])
    def test_a_device_works_in_pages_of_the_kernel(self, size: int) -> None:
        m = machine(page_size=size)
        m.bind("dev0", "a", "h")
        data = bytes(range(200)) * (2 * size // 200)
        assert m.dma("dev0", "h", Work(data=data, address=RW + 7)).work.data == data
        assert m.load("a", RW + 7, len(data)).work.data == data
        assert m.dma("dev0", "h", Work(Access.READ, RW + 4 * size - 2, size=4)).result == "fault"

    def test_a_copied_machine_has_memory_of_its_own(self) -> None:
        m = machine()
        m.store("a", RW, b"old")
        twin = copy.deepcopy(m)
        twin.store("a", RW, b"new")
        assert [each.load("a", RW, 3).work.data for each in (m, twin)] == [b"old", b"new"]

    def test_an_expectation_of_bytes_that_do_not_come_is_unmet(self) -> None:
        step = {"do": "load", "process": "a", "size": 3}
        steps = [step | {"expect_data": "a a"}, step | {"expect_data": {"rfc": "b b"}}]
        scenario = Scenario.from_dict({"process": [{"name": "a"}], "step": steps})
        unmet = {report.scheme: [step.unmet for step in report.steps] for report in run(scenario, "mainline,rfc")}
        assert unmet == {"mainline": [(), ()], "rfc": [(), ("expected the data 'b b', not 'a a'",)]}

    def test_x86_has_one_page_size(self) -> None:
        with pytest.raises(InputError, match=r"cpu\.page_size = 65536: pages of an x86 kernel have 4096 bytes"):
            machine(arch="x86", page_size=65536)

    def test_a_job_of_no_bytes_asks_for_its_page_all_the_same(self) -> None:
        m = machine()
        m.bind("dev0", "a", "h")
        assert m.dma("dev0", "h", Work(data=b"")).work.data == b""
        assert m.dma("dev0", "h", Work(data=b"", address=NONE)).result == "fault"

    def test_a_device_behind_no_iommu_reaches_nothing(self) -> None:
        m = machine()
        assert m.dma("loose", 1, Work()).rule == "dma.no-entry"
        assert m.driver_of(m.endpoints["dev0"].dev) is m.driver_of(m.endpoints["loose"].dev)


# A process's memory against plain dictionaries

AREA = {RW: READ | WRITE, RO: READ, NONE: 0}
PAGES = [area + index * PAGE for area in AREA for index in range(4)]
TEXT = dict.fromkeys(PAGES, (b"p0 " * PAGE)[:PAGE])
PIDS = st.integers(0, 5)
SPANS = st.tuples(st.sampled_from(PAGES), st.integers(1, 3))
STEPS = st.one_of(
    st.tuples(st.just("store"), PIDS, st.sampled_from(PAGES), st.sampled_from([0, 5, PAGE - 3]), st.binary(max_size=8)),
    st.tuples(st.just("load"), PIDS, st.sampled_from(PAGES), st.sampled_from([0, 5, PAGE - 3]), st.integers(1, 8)),
    st.tuples(st.just("munmap"), PIDS, SPANS),
    st.tuples(st.just("mprotect"), PIDS, SPANS, st.integers(0, 7)),
    st.tuples(st.just("fork"), PIDS),
    st.tuples(st.just("exit"), PIDS),
)


@dataclass
class Simple:
    """A process as dictionaries: rights and bytes of each page."""

    rights: dict[int, int]
    text: dict[int, bytes]

    def copy(self) -> Simple:
        return Simple(dict(self.rights), dict(self.text))

    def may(self, address: int, needed: int) -> bool:
        return bool(self.rights.get(address & -PAGE, 0) & needed)

    def load(self, address: int, size: int) -> bytes | None:
        if not all(self.may(address + n, READ | WRITE | EXEC) for n in range(size)):
            return None
        return bytes(self.text[at & -PAGE][at % PAGE] for at in range(address, address + size))

    def store(self, address: int, data: bytes) -> bool:
        for at, byte in enumerate(data, start=address):
            if not self.may(at, WRITE):
                return False
            page, offset = at & -PAGE, at % PAGE
            self.text[page] = self.text[page][:offset] + bytes([byte]) + self.text[page][offset + 1 :]
        return True


class Pair:
    """The model's processes beside the simple ones."""

    def __init__(self, tables: PageTables) -> None:
        self.kernel = Kernel(Mainline(), pgtable=tables)
        first = MmStruct(self.kernel, "p0")
        first.vmas = [vma for vma in process_memory(b"p0 ") if vma.start in AREA]
        simple = Simple({page: AREA[page & ~0xFFFF] for page in PAGES}, dict(TEXT))
        self.processes: list[tuple[MmStruct, Simple] | None] = [(first, simple)]

    def do(self, verb: str, pid: int, *arguments: object) -> None:
        both = self.processes[pid % len(self.processes)]
        if both is not None:
            getattr(self, verb)(*both, *arguments)

    def store(self, mm: MmStruct, simple: Simple, page: int, offset: int, data: bytes) -> None:
        assert (mm.write(page + offset, data) is None) == simple.store(page + offset, data)

    def load(self, mm: MmStruct, simple: Simple, page: int, offset: int, size: int) -> None:
        data = mm.read(page + offset, size)
        assert (data if isinstance(data, bytes) else None) == simple.load(page + offset, size)

    def munmap(self, mm: MmStruct, simple: Simple, span: tuple[int, int]) -> None:
        start, pages = span
        assert munmap(mm, start, pages * PAGE) is None
        for page in range(start, start + pages * PAGE, PAGE):
            simple.rights.pop(page, None)

    def mprotect(self, mm: MmStruct, simple: Simple, span: tuple[int, int], flags: int) -> None:
        start, pages = span
        refusal = mprotect(mm, start, pages * PAGE, flags)
        for page in range(start, start + pages * PAGE, PAGE):
            if page not in simple.rights:
                assert refusal is not None
                return
            simple.rights[page] = flags
        assert refusal is None

    def fork(self, mm: MmStruct, simple: Simple) -> None:
        self.processes.append((fork(mm, f"p{len(self.processes)}"), simple.copy()))

    def exit(self, mm: MmStruct, simple: Simple) -> None:
        mmput(mm)
        self.processes[next(n for n, both in enumerate(self.processes) if both and both[0] is mm)] = None

    def check_pages(self) -> None:
        """Each present page has the right bytes, owners and count, and what is writable is nobody else's."""
        mapped: dict[int, list[str]] = {}
        for mm, simple in filter(None, self.processes):
            for page in PAGES:
                if mm.has_page(page):
                    output = page_of(mm, page)
                    mapped.setdefault(output, []).append(mm.name)
                    assert page in simple.rights
                    assert self.kernel.memory.load(output, PAGE) == simple.text[page]
                    writable = self.kernel.pgtable.pte_write(pte(mm, page))
                    assert not writable or self.kernel.page_alloc.page_count(output) == 1
        for output, names in mapped.items():
            assert sorted(self.kernel.page_alloc.owners_of(output)) == sorted(names)
            assert self.kernel.page_alloc.page_count(output) == len(names)


@pytest.mark.parametrize("tables", TABLES)
@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_memory_behaves_as_plain_bytes_of_each_process(tables: str, steps: list[tuple[object, ...]]) -> None:
    pair = Pair(TABLES[tables]())
    for step in steps:
        pair.do(*step)
        pair.check_pages()
    for mm, _ in filter(None, pair.processes):
        mmput(mm)
    assert pair.kernel.page_alloc.used == 0

"""Address spaces in real memory: pages, page tables, and accesses that bring pages in."""

from __future__ import annotations

import pytest

from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, TableDescriptor
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.memory import handle_mm_fault
from pasidlab.linux.mm import mmdrop, mmgrab, mmput, mprotect, munmap
from pasidlab.linux.page_alloc import PageAllocator
from pasidlab.linux.pgtable import EXEC, READ, WRITE
from pasidlab.linux.sva import iommu_sva_bind_device, iommu_sva_unbind_device
from pasidlab.memory import Memory
from pasidlab.rules import Signal
from tests.mm_rig import NONE, PAGE, RO, RW, RX, SHIFTS, each_kernel, fork, kernel_of, page_of, process, pte
from tests.rig import Rig, bound, signalled

kernel = each_kernel


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

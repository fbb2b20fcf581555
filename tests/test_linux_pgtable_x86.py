"""Page tables of x86 kernels: their bits, what hardware sets in them, and which change is told to anybody."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab import Machine, MachineSpec
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, ProcessSpec
from pasidlab.errors import Errno, ModelError
from pasidlab.hw.pagetable import x86
from pasidlab.hw.pagetable.contract import Access, Leaf
from pasidlab.hw.pagetable.walker import walk
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.memory import handle_mm_fault
from pasidlab.linux.mm import MmStruct, Vma, dup_mmap, mmput, mprotect, munmap, permitted_page, process_memory
from pasidlab.linux.mmu_notifier import MmuNotifier, mmu_notifier_register
from pasidlab.linux.pgtable import EXEC, READ, WRITE, pte_offset_map, ptep_get, set_pte
from pasidlab.linux.pgtable_arm64 import Arm64PageTables
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.schemes import Mainline

from .rig import refused

RW, RO, RX, NONE = 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x5000_0000
PAGE = 4096
PFN = 0x000F_FFFF_FFFF_F000
A, D, NX, SAVED_DIRTY = 1 << 5, 1 << 6, 1 << 63, 1 << 58
LEVELS = pytest.mark.parametrize("levels", [4, 5])


def process(levels: int = 4, name: str = "a") -> MmStruct:
    kernel = Kernel(Mainline(), arch=Arch.X86, pgtable=X86PageTables(levels))
    mm = MmStruct(kernel, name)
    mm.vmas = process_memory(f"{name} ".encode())
    return mm


def fork(parent: MmStruct) -> MmStruct:
    child = MmStruct(parent.kernel, "child")
    dup_mmap(child, parent)
    return child


def place(mm: MmStruct, address: int) -> int:
    ptep = pte_offset_map(mm, address)
    assert ptep is not None
    return ptep


def pte(mm: MmStruct, address: int) -> int:
    return ptep_get(mm.kernel.memory, place(mm, address))


def flags(mm: MmStruct, address: int) -> int:
    """Return an entry without its page, however that is written."""
    return pte(mm, address) & ~PFN


@dataclass
class Recorder:
    calls: list[tuple[int, int]] = field(default_factory=list)

    def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
        self.calls.append((start, end))

    def release(self, mm: MmStruct) -> None:
        pass


def recorded(mm: MmStruct) -> list[tuple[int, int]]:
    recorder = Recorder()
    assert mmu_notifier_register(MmuNotifier(recorder), mm) is None
    return recorder.calls


class TestKernels:
    def test_the_architecture_decides_unless_tables_are_chosen(self) -> None:
        kinds = {arch: type(Kernel(Mainline(), arch=arch).pgtable) for arch in Arch}
        assert kinds == {Arch.X86: X86PageTables, Arch.ARM64: Arm64PageTables, Arch.UM: Arm64PageTables}
        assert Kernel(Mainline(), arch=Arch.X86).pgtable.va_bits == 48
        chosen = Arm64PageTables()
        assert Kernel(Mainline(), arch=Arch.X86, pgtable=chosen).pgtable is chosen

    def test_tables_for_pages_of_another_size_break_the_model(self) -> None:
        with pytest.raises(ModelError, match="pages of 65536 bytes"):
            Kernel(Mainline(), page_shift=16, pgtable=X86PageTables())
        with pytest.raises(ModelError, match="pages of 4096 bytes"):
            Kernel(Mainline(), pgtable=Arm64PageTables(14))

    @pytest.mark.parametrize(
        ("arch", "model", "kind"),
        [
            ("x86", "mock", X86PageTables),
            ("x86", "arm-smmu-v3", Arm64PageTables),
            ("arm64", "mock", Arm64PageTables),
            ("arm64", "arm-smmu-v3", Arm64PageTables),
        ],
    )
    def test_a_machine_has_tables_that_its_iommus_can_walk(self, arch: str, model: str, kind: type) -> None:
        machine = Machine(
            MachineSpec(
                cpu=CpuSpec(arch=arch),  # type: ignore[arg-type]
                iommu=[IommuSpec("iommu0", model=model)],  # type: ignore[arg-type]
                device=[DeviceSpec("dev0", "iommu0", pasid_bits=4)],
                process=[ProcessSpec("a")],
            )
        )
        assert type(machine.kernel.pgtable) is kind
        assert machine.store("a", RW, b"text").result == "ok"
        assert machine.load("a", RW, 4).work.data == b"text"

    @pytest.mark.parametrize(("levels", "end"), [(4, 0x7FFF_FFFF_F000), (5, 0xFF_FFFF_FFFF_F000)])
    def test_user_space_ends_a_page_before_half_of_what_tables_reach(self, levels: int, end: int) -> None:
        mm = process(levels)
        mm.vmas.append(Vma(end - PAGE, PAGE, READ | WRITE, b"end"))
        assert mm.read(end - PAGE, 3) == b"end"
        refused(munmap(mm, end - PAGE, 2 * PAGE), Errno.EINVAL, "munmap.bad-range")
        assert munmap(mm, end - PAGE, PAGE) is None


class TestTables:
    @pytest.mark.parametrize("indices", [(0x7F, 0xCD, 0x12, 0x1A5), (0x5A, 0x17F, 0xCD, 0x12, 0x1A5)])
    def test_the_indices_lead_to_the_page_through_entries_that_allow_everything(self, indices: tuple[int, ...]) -> None:
        address = 0
        for index in indices:
            address = address << 9 | index
        address <<= 12
        mm = process(len(indices))
        mm.vmas[0].start = address
        assert mm.write(address + 5, b"here") is None
        table = mm.pgd
        for index in indices[:-1]:
            entry = mm.kernel.memory.load64(table + 8 * index) or 0
            assert entry & ~PFN == 0x67
            table = entry & PFN
        entry = mm.kernel.memory.load64(table + 8 * indices[-1]) or 0
        assert mm.kernel.memory.load((entry & PFN) + 5, 4) == b"here"
        assert mm.kernel.page_alloc.used == len(indices) + 1
        mmput(mm)
        assert mm.kernel.page_alloc.used == 0

    @LEVELS
    def test_entries_have_the_bits_that_x86_sets(self, levels: int) -> None:
        mm = process(levels)
        mm.write(RW, b"x")
        for address in (RW + PAGE, RO, RX):
            mm.read(address, 1)
        assert handle_mm_fault(mm, NONE, write=False)
        assert [flags(mm, address) for address in (RW, RW + PAGE, RO, RX, NONE)] == [
            0x8000_0000_0000_0067,  # written
            0x8000_0000_0000_0027,  # writable and clean
            0x8000_0000_0000_0025,  # read-only
            0x0000_0000_0000_0025,  # read-only, executable
            0x0000_0000_0000_0120,  # no rights: not present, but it has a page
        ]

    def test_a_page_without_rights_has_its_number_inverted(self) -> None:
        mm = process()
        mm.write(RW, b"kept")
        page = mm.kernel.pgtable.pte_page(pte(mm, RW))
        assert pte(mm, RW) & PFN == page
        assert mprotect(mm, RW, PAGE, 0) is None
        assert pte(mm, RW) & PFN == page ^ PFN
        assert mm.kernel.pgtable.pte_page(pte(mm, RW)) == page
        assert mprotect(mm, RW, PAGE, READ) is None
        assert (pte(mm, RW) & PFN, mm.read(RW, 4)) == (page, b"kept")
        assert mprotect(mm, RW, PAGE, 0) is None
        munmap(mm, RW, PAGE)
        assert mm.kernel.page_alloc.page_count(page) == 0

    def test_mprotect_keeps_what_was_written_in_the_bit_that_fits(self) -> None:
        mm = process()
        mm.write(RW, b"x")
        for rights, raw in (
            (READ, 0x8400_0000_0000_0025),
            (0, 0x0400_0000_0000_0120),
            (READ | EXEC, 0x0400_0000_0000_0025),
            (READ | WRITE, 0x8400_0000_0000_0025),
        ):
            assert mprotect(mm, RW, PAGE, rights) is None
            assert flags(mm, RW) == raw
        mm.write(RW, b"y")
        assert flags(mm, RW) == 0x8000_0000_0000_0067

    def test_pte_modify_keeps_what_is_no_right(self) -> None:
        tables = X86PageTables()
        kept = 0x8000_0000 | 1 << 3 | 1 << 4 | A | 1 << 9 | SAVED_DIRTY
        rights = 1 | 1 << 2 | NX
        for pte_before in (kept | rights, kept | 1 | 1 << 2):
            assert tables.pte_modify(pte_before, rights | A) == kept | rights
        assert tables.pte_modify(kept & ~A | rights, rights | A) == kept & ~A | rights
        assert tables.pte_modify(kept & ~SAVED_DIRTY | rights | 2 | D, rights) == kept | rights

    def test_only_what_is_present_and_the_users_permits_an_access(self) -> None:
        access = X86PageTables().pte_access
        assert access(0x25, False) == 0x25
        assert access(0x05, False) == 0x25
        assert access(0x07, True) == 0x67
        assert [access(0x05, True), access(0x23, False), access(0x26, False), access(0x120, False)] == [None] * 4

    def test_a_fork_protects_both_sides_and_leaves_the_childs_entry_old(self) -> None:
        a = process()
        a.write(RW, b"x")
        a.read(RW + PAGE, 1)
        child = fork(a)
        assert (flags(a, RW), flags(child, RW)) == (NX | SAVED_DIRTY | 0x25, NX | SAVED_DIRTY | 0x05)
        assert (flags(a, RW + PAGE), flags(child, RW + PAGE)) == (NX | 0x25, NX | 0x05)
        child.write(RW, b"y")
        assert flags(child, RW) == NX | 0x67
        a.write(RW, b"z")
        assert flags(a, RW) == NX | 0x67


class TestHardwareFlags:
    def test_an_access_of_the_process_sets_the_flags_without_a_fault(self) -> None:
        mm = process()
        mm.read(RW, 1)
        set_pte(mm.kernel.memory, place(mm, RW), pte(mm, RW) & ~A)
        assert mm.read(RW, 1) == b"a"
        assert pte(mm, RW) & (A | D) == A
        assert mm.write(RW, b"b") is None
        assert pte(mm, RW) & (A | D) == A | D

    def test_what_is_not_permitted_sets_nothing(self) -> None:
        mm = process()
        mm.read(RO, 1)
        set_pte(mm.kernel.memory, place(mm, RO), pte(mm, RO) & ~A)
        assert permitted_page(mm, RO, write=True) is None
        assert permitted_page(mm, RO + PAGE, write=False) is None
        assert not pte(mm, RO) & (A | D)

    def test_a_fault_of_a_read_leaves_an_old_entry_to_the_hardware(self) -> None:
        mm = process()
        mm.read(RW, 1)
        set_pte(mm.kernel.memory, place(mm, RW), pte(mm, RW) & ~A)
        assert handle_mm_fault(mm, RW, write=False)
        assert not pte(mm, RW) & A
        assert handle_mm_fault(mm, RW, write=True)
        assert pte(mm, RW) & (A | D) == A | D

    @LEVELS
    def test_an_iommu_walks_the_tables_of_a_process(self, levels: int) -> None:
        mm = process(levels)
        mm.write(RW, b"x")
        mm.read(RX, 1)
        fmt = X86Paging(table=mm.pgd, levels=levels, nxe=True, wpe=True)
        found = walk(mm.kernel.memory, fmt, RW + 9, Access(write=True), [])
        assert isinstance(found, Leaf)
        assert found.output == permitted_page(mm, RW + 9, write=True)
        assert isinstance(walk(mm.kernel.memory, fmt, RX, Access(instruction=True), []), Leaf)
        for address, access, rule in (
            (RX, Access(write=True), x86.READ_ONLY),
            (RW, Access(instruction=True), x86.XD),
            (RW + PAGE, Access(), x86.NOT_PRESENT),
        ):
            fault = walk(mm.kernel.memory, fmt, address, access, [])
            assert not isinstance(fault, Leaf)
            assert fault.rule is rule


class TestFlushes:
    def test_an_entry_that_allows_more_is_told_to_nobody(self) -> None:
        mm = process()
        mm.write(RW, b"x")
        mprotect(mm, RW, PAGE, READ)
        mprotect(mm, RW, PAGE, READ | WRITE)
        calls = recorded(mm)
        page = mm.kernel.pgtable.pte_page(pte(mm, RW))
        mm.write(RW, b"y")
        assert mm.kernel.pgtable.pte_page(pte(mm, RW)) == page
        assert calls == []

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            (READ | WRITE, READ, True),
            (READ, READ | EXEC, True),
            (READ | EXEC, READ, True),
            (READ, 0, True),
            (READ, READ | WRITE, False),
            (0, READ, False),
            (0, READ | WRITE, False),
        ],
    )
    def test_mprotect_flushes_what_a_tlb_may_keep_and_nothing_else(self, before: int, after: int, told: bool) -> None:
        mm = process()
        mm.write(RW, b"x")
        mprotect(mm, RW, PAGE, before)
        if before & WRITE:
            mm.write(RW, b"x")
        calls = recorded(mm)
        mprotect(mm, RW, 4 * PAGE, after)
        assert calls == ([(RW, RW + PAGE)] if told else [])

    def test_a_flag_that_is_forgotten_and_one_of_software_need_no_flush_but_a_dirty_one_does(self) -> None:
        needs = X86PageTables().pte_needs_flush
        base = NX | 0x67 | 0x8000_0000
        assert not needs(base, base)
        assert not needs(base, base & ~A)
        assert not needs(base, base | SAVED_DIRTY | 1 << 9)
        assert not needs(base & ~D, base)
        assert needs(base, base & ~D)
        assert needs(base, base & ~1)
        for bit in (1, 2, 3, 4, 7, 8, 63):
            assert needs(base, base ^ 1 << bit)
            assert not needs(base & ~1, (base & ~1) ^ 1 << bit)

    def test_a_copy_flushes_the_shared_page_before_the_new_entry_is_set(self) -> None:
        mm = process()
        mm.write(RW, b"x")
        child = fork(mm)
        seen: list[tuple[int, int, int]] = []

        class Seer(Recorder):
            def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
                seen.append((start, end, pte(mm, RW)))

        assert mmu_notifier_register(MmuNotifier(Seer()), child) is None
        child.write(RW, b"y")
        assert seen == [(RW, RW + PAGE, 0)]


# --- a process's own accesses, and an IOMMU's walk of the same tables ------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("store"), st.integers(0, 3)),
    st.tuples(st.just("load"), st.integers(0, 3)),
    st.tuples(st.just("mprotect"), st.integers(0, 3), st.integers(0, 7)),
    st.tuples(st.just("munmap"), st.integers(0, 3)),
    st.tuples(st.just("fork"), st.just(0)),
)


def do(mm: MmStruct, verb: str, page: int, rights: int = 0) -> None:
    address = RW + page * PAGE
    if verb == "store":
        mm.write(address, b"x")
    elif verb == "load":
        mm.read(address, 1)
    elif verb == "mprotect":
        mprotect(mm, address, PAGE, rights)
    elif verb == "munmap":
        munmap(mm, address, PAGE)
    else:
        fork(mm)


@settings(max_examples=150, deadline=None)
@given(levels=st.sampled_from([4, 5]), steps=st.lists(STEPS, max_size=12))
def test_hardware_reaches_what_the_process_does_and_leaves_the_same_flags(
    levels: int, steps: list[tuple[str, int, int] | tuple[str, int]]
) -> None:
    mm = process(levels)
    for step in steps:
        do(mm, *step)
    fmt = X86Paging(table=mm.pgd, levels=levels, nxe=True, wpe=True)
    for address in range(RW, RW + 4 * PAGE, PAGE):
        for write in (False, True):
            ptep = pte_offset_map(mm, address)
            before = 0 if ptep is None else ptep_get(mm.kernel.memory, ptep)
            found = walk(mm.kernel.memory, fmt, address, Access(write=write), [])
            marked = 0 if ptep is None else ptep_get(mm.kernel.memory, ptep)
            if ptep is not None:
                set_pte(mm.kernel.memory, ptep, before)
            assert (found.output if isinstance(found, Leaf) else None) == permitted_page(mm, address, write)
            assert marked == (0 if ptep is None else ptep_get(mm.kernel.memory, ptep))
            shadow_stack = before & (1 | 2 | D) == 1 | D
            assert not shadow_stack

"""Areas of an address space: fork and copy-on-write, munmap and mprotect, and all of it against plain dictionaries."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import Errno, ModelError
from pasidlab.hw.pagetable.descriptors import Stage1Leaf
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.mm import MmStruct, mmput, mprotect, munmap, process_memory
from pasidlab.linux.pgtable import EXEC, READ, WRITE, PageTables
from pasidlab.rules import Signal
from pasidlab.schemes import Mainline
from tests.mm_rig import NONE, PAGE, RO, RW, RX, TABLES, each_kernel, fork, kernel_of, page_of, process, pte
from tests.rig import refused, signalled

kernel = each_kernel


def leaf(mm: MmStruct, address: int) -> Stage1Leaf:
    return Stage1Leaf(pte(mm, address))


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

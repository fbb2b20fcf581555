"""Who is told of changes to an address space, when, and what is still there at that moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pasidlab.errors import Errno, ModelError
from pasidlab.hw.pagetable.descriptors import Stage1Leaf
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.memory import TLB_FLUSH_ALL
from pasidlab.linux.mm import MmStruct, mmgrab, mmput, mprotect, munmap
from pasidlab.linux.mmu_notifier import (
    MmuNotifier,
    mmu_notifier_arch_invalidate_secondary_tlbs,
    mmu_notifier_put,
    mmu_notifier_register,
    mmu_notifier_unregister,
)
from pasidlab.linux.pgtable import READ, WRITE
from pasidlab.linux.sva import iommu_sva_bind_device, iommu_sva_invalidate_kva_range
from tests.mm_rig import PAGE, RW, each_kernel, fork, kernel_of, page_of, process, pte
from tests.rig import Rig, bound, refused

kernel = each_kernel


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

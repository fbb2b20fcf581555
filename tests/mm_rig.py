"""A process and its memory in a kernel of each kind of page tables, and what its entries say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pasidlab.linux.kernel import Kernel
from pasidlab.linux.mm import MmStruct, dup_mmap, process_memory
from pasidlab.linux.pgtable import PageTables, pte_offset_map, ptep_get
from pasidlab.linux.pgtable_arm64 import Arm64PageTables
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.schemes import Mainline

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
def each_kernel(request: pytest.FixtureRequest) -> Kernel:
    """A test module that says `kernel = each_kernel` runs its tests of `kernel` with each kind of page tables."""
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

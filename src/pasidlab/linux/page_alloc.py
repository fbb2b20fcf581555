"""mm/page_alloc.c: physical pages, their reference counts, and whose they are.

Source: Linux 6.12 (general knowledge); what is kept of it is what can be seen from outside: a page is zeroed when it is
given out, comes back with its last reference, and the page that came back last is given out first, as from a CPU's
page list. A device that still reaches a freed page therefore soon reaches somebody else's memory, which is the point.

Not modelled: zones, the buddy allocator's splitting and merging (a freed block serves requests of its own order only),
reclaim, running out of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pasidlab.errors import ModelError
from pasidlab.memory import Memory

KERNEL = "kernel"
"""Owner of every page in use that no process maps."""


class Mapper(Protocol):
    """Whoever maps a page into an address space: an mm."""

    @property
    def name(self) -> str:
        """The name by which reports call it."""


@dataclass(slots=True, eq=False)
class Page:
    """`struct page` of one block: its first byte, its order, its references, and who maps it."""

    address: int
    order: int
    count: int = 1
    mappers: dict[Mapper, None] = field(default_factory=dict)


class PageAllocator:
    """The physical memory of one kernel, from `base` upwards.

    Attributes:
        memory: where the pages lie.
        page_shift: log2 of the page's size.
        used: how many pages are given out.
    """

    __slots__ = ("_free", "_next", "_pages", "memory", "page_shift", "used")

    def __init__(self, memory: Memory, page_shift: int = 12, base: int = 0x8000_0000) -> None:
        self.memory = memory
        self.page_shift = page_shift
        self.used = 0
        self._next = base
        self._pages: dict[int, Page] = {}
        self._free: dict[int, list[int]] = {}

    def alloc_page(self, mapper: Mapper | None = None) -> int:
        """Return the address of a page of zeros with one reference; without `mapper` it is the kernel's own."""
        return self.alloc_pages(0, mapper)

    def alloc_pages(self, order: int, mapper: Mapper | None = None) -> int:
        """Return the address of 2^order contiguous pages of zeros, aligned to their size, with one reference."""
        address = self._take(order)
        page = Page(address, order)
        if mapper is not None:
            page.mappers[mapper] = None
        first = address >> self.page_shift
        self._pages.update(dict.fromkeys(range(first, first + (1 << order)), page))
        self.used += 1 << order
        if not self.memory.store(address, bytes(1 << order + self.page_shift)):
            raise ModelError(f"the kernel cannot clear the page that it gives out at {address:#x}")
        return address

    def _take(self, order: int) -> int:
        freed = self._free.get(order)
        if freed:
            return freed.pop()
        size = 1 << order + self.page_shift
        address = -(-self._next // size) * size
        self._next = address + size
        return address

    def get_page(self, address: int, mapper: Mapper | None = None) -> None:
        """Take one more reference; `mapper` maps the page from now on."""
        page = self._page(address)
        page.count += 1
        if mapper is not None:
            page.mappers[mapper] = None

    def put_page(self, address: int, mapper: Mapper | None = None) -> None:
        """Let a reference go; `mapper` maps the page no longer. The last reference frees the block."""
        page = self._page(address)
        if mapper is not None:
            del page.mappers[mapper]
        page.count -= 1
        if page.count:
            return
        first = page.address >> self.page_shift
        for number in range(first, first + (1 << page.order)):
            del self._pages[number]
        self._free.setdefault(page.order, []).append(page.address)
        self.used -= 1 << page.order

    def page_count(self, address: int) -> int:
        """How many references hold the page of an address; 0 when it is free."""
        page = self._pages.get(address >> self.page_shift)
        return 0 if page is None else page.count

    def owners_of(self, address: int) -> tuple[str, ...]:
        """Whose memory an address is now: the processes that map it, or "kernel"; empty when it is free."""
        page = self._pages.get(address >> self.page_shift)
        if page is None:
            return ()
        return tuple(mapper.name for mapper in page.mappers) or (KERNEL,)

    def _page(self, address: int) -> Page:
        page = self._pages.get(address >> self.page_shift)
        if page is None:
            raise ModelError(f"the page at {address:#x} is free")
        return page

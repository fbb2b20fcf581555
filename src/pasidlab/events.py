"""What happened, as frozen records; the only way that traces, reports and tests learn of it.

Whoever keeps state emits; whoever is interested observes. Records hold names and numbers, never live objects,
so that they can be kept, compared and printed later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from pasidlab.errors import Errno


class Event(Struct, frozen=True):
    """Base of all events."""


class Decided(Event, frozen=True):
    """A rule settled an outcome that is not a refusal (`facts` fill the rule's sentence)."""

    rule: str
    facts: dict[str, Any]


class Found(Event, frozen=True):
    """Something about the machine that its users should know, though no call failed for it: a rule with its facts."""

    rule: str
    facts: dict[str, Any]


class Warned(Event, frozen=True):
    """The kernel printed a WARN: a caller or driver broke a contract, nothing was changed."""

    where: str
    text: str


class PasidAllocated(Event, frozen=True):
    """A number left the global space."""

    pasid: int
    device: str


class PasidFreed(Event, frozen=True):
    """A number came back to the global space."""

    pasid: int


class DomainAllocated(Event, frozen=True):
    """`ops->domain_alloc_sva`; `domain` is None when the driver refused with `errno`."""

    device: str
    domain: int | None
    errno: Errno | None


class DomainFreed(Event, frozen=True):
    """`domain->ops->free`."""

    domain: int


class PasidSet(Event, frozen=True):
    """`domain->ops->set_dev_pasid`; `old` is the domain that was there ("B" the blocked one), if the core named it."""

    device: str
    pasid: int
    domain: int
    errno: Errno | None
    old: int | Literal["B"] | None


class PasidRemoved(Event, frozen=True):
    """`ops->remove_dev_pasid`, how kernels before 6.14 detach."""

    device: str
    pasid: int
    domain: int


class PasidBlocked(Event, frozen=True):
    """`blocked_domain->ops->set_dev_pasid`, how kernels since 6.14 detach."""

    device: str
    pasid: int
    old: int | Literal["B"] | None


class RidAttached(Event, frozen=True):
    """The traffic without PASID of a device went to the blocked ("B") or identity ("I") domain."""

    device: str
    domain: Literal["B", "I"]


class PageResponded(Event, frozen=True):
    """The answer to a page request group: 0 SUCCESS, 1 INVALID, 2 FAILURE; `wire` is what the hardware gets."""

    device: str
    pasid: int
    grpid: int
    code: int
    wire: str = ""


class SmmuEvent(Event, frozen=True):
    """The driver of an SMMU printed an event record that nobody takes.

    `device` is empty where no device has the stream; `words` are the record, 64 bits each.
    """

    smmu: str
    device: str
    name: str
    sid: int
    ssid: int
    words: tuple[int, ...]


class DmarFault(Event, frozen=True):
    """The driver of a VT-d unit printed a fault that was recorded.

    `device` is empty where no device has the source; `pasid` is None for a request without; `words` are the record,
    64 bits each.
    """

    unit: str
    device: str
    name: str
    sid: int
    pasid: int | None
    words: tuple[int, ...]


class MmReleased(Event, frozen=True):
    """The last user of an address space left: its entries are quiet from now on, its number is kept."""

    mm: str


class MmDropped(Event, frozen=True):
    """The last reference to an address space went: only now its number is free."""

    mm: str


class KvaInvalidated(Event, frozen=True):
    """Kernel mappings were flushed for one bound mm (`iommu_sva_invalidate_kva_range`)."""

    mm: str
    start: int
    end: int


class RegisterLoaded(Event, frozen=True):
    """The operating system wrote a task's IA32_PASID or ACCDATA_EL1."""

    task: str
    register: str
    value: int


class WorkDone(Event, frozen=True):
    """A device read or wrote memory: `owner` is the address space, or "kernel"."""

    device: str
    pasid: int | None
    owner: str
    access: str
    address: int
    data: bytes


Observer = Callable[[Event], None]

"""What all endpoints share: a driver that binds, a device that reads and writes memory under a PASID.

The driver half does what a character-device driver of the kernel does: `open()` binds the caller's mm, under the
scheme at hand either through `iommu_sva_bind_device()` or with a number of its own; the last close unbinds.
The device half takes a submission, decides which PASID it believes, and accesses memory through the IOMMU.

Sources: drivers/dma/idxd/cdev.c and drivers/misc/uacce (v7.3) for the order of calls; the thread's messages 13 and
15 for what a device may believe: "end point has to use the posted vs non-posted write distinction".

Not modelled: queues' depth and order (work is done at once), interrupts, completion records; `devices/idxd` has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from pasidlab import events
from pasidlab.drivers.hardware import Hardware, Moved
from pasidlab.errors import Errno
from pasidlab.hw.cpu import SIZE, Store
from pasidlab.linux.iommu import iommu_dev_enable_feature_sva, pasid_range
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.structs import Device
from pasidlab.linux.sva import (
    IommuSva,
    bond_of,
    has_portal,
    iommu_sva_bind_device,
    iommu_sva_bind_device_pasid,
    iommu_sva_unbind_device,
)
from pasidlab.pasid import PasidSpace
from pasidlab.rules import MOST_LISTED, Faulted, Refusal, Rule, Verdict, listing
from pasidlab.schemes import Scheme

LARGEST_REQUEST = 4096
"""Bytes that no request of a device goes beyond, and whose multiples it does not cross (PCI Express; AXI)."""


class SubmitBy(StrEnum):
    """How a PASID reaches a device."""

    REGISTER = "register"
    ENQCMD = "enqcmd"
    ST64BV0 = "st64bv0"
    ST64B = "st64b"


PORTALS = frozenset({SubmitBy.ENQCMD, SubmitBy.ST64BV0})
"""The ways in which the device believes a PASID that a write to its portal carries."""


class Access(StrEnum):
    """What the device does to memory."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Work:
    """One job: read `size` bytes at `address`, or write `data` there."""

    access: Access = Access.WRITE
    address: int = 0x1000_0000
    data: bytes = b"work"
    size: int = 16


@dataclass(frozen=True, slots=True)
class Command:
    """64 bytes for a portal, as a program makes them of a job; the instruction sets dword 0.

    `store_at` and `store` are what the program writes into its own memory first, if anything.
    """

    data: bytes
    store_at: int = 0
    store: bytes = b""


@dataclass(frozen=True, slots=True)
class Done:
    """A job that was done: in whose memory, under which number (a CPU's has none), and the bytes read or written."""

    owner: str
    pasid: int | None
    data: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a device has taken and not come to yet: a job under a number, by the rule by which it believes that."""

    pasid: int | None
    work: Work
    rule: Rule


DRIVER_FULL = Rule(
    "driver.numbers-exhausted",
    "the device's driver",
    "every number of the driver's own space is in use",
    "{dev} carries {range}, and its driver has given them all out: {held}",
    Errno.ENOSPC,
    "thread 2026-05-12 Jason Gunthorpe: the driver allocates per device and never touches the global space",
)
DRIVER_NO_RANGE = Rule(
    "driver.no-numbers",
    "the device's driver",
    "the driver's own space is empty from the start",
    "{dev} carries {range}, and its driver's own numbers would start at {first}",
    Errno.ENOSPC,
    "docs/thread.md section 3, second guard: a range split leaves narrow devices nothing",
)
NO_QUEUE = Rule(
    "submit.no-queue",
    "the device's driver",
    "the process has no bond on the device",
    "process {mm} has no queue on {dev}: nothing was bound",
    Errno.EPERM,
    remedy="open the device in this process first",
)
NO_PORTAL = Rule(
    "portal.none",
    "mmap of the device's portal",
    "the device has no portal",
    "{dev} takes its PASID through {submit}, not through a portal",
    Errno.ENODEV,
    remedy="the device has no portal: submit through its driver",
)
PORTAL_MAPPED = Rule(
    "portal.mapped",
    "mmap of the device's portal",
    "the guard lets it",
    "process {mm} has the portal of {dev} mapped",
)
POSTED_IGNORED = Rule(
    "portal.posted-ignored",
    "the device's portal",
    "the write is posted",
    "the store went out, but {dev} believes the PASID of non-posted writes only: no work was done",
    source="thread 2026-05-11 Jason Gunthorpe (11) and 2026-05-12 (15)",
)
POSTED_BELIEVED = Rule(
    "portal.posted-believed",
    "the device's portal",
    "the device is sloppy",
    "{dev} does not tell posted from non-posted writes and believed PASID {pasid}, which user space chose",
    source="thread 2026-05-12 (14): must devices ignore PASIDs in ST64B?",
)
PORTAL_BELIEVED = Rule(
    "portal.believed",
    "the device's portal",
    "the write is non-posted",
    "{dev} works under PASID {pasid} of the write",
)
REGISTER_USED = Rule(
    "register.used",
    "the device's queue register",
    "the driver programmed the number of the process's bond",
    "{dev} works under PASID {pasid}, which its driver programmed",
)


@dataclass(slots=True, eq=False, repr=False)
class Endpoint:
    """One device and its driver.

    Attributes:
        dev: the kernel's view of it.
        hardware: the IOMMU in front of it.
        submit: how a PASID reaches it.
        sloppy: it believes the PASID of posted writes too.
        own_numbers: what the driver has given out, when its numbers are its own.
        number_of, opens: the driver's number of each mm, and how often it opened the device under it.
        mapped: the mms that have its portal mapped.
    """

    dev: Device
    hardware: Hardware
    submit: SubmitBy = SubmitBy.REGISTER
    sloppy: bool = False
    own_numbers: PasidSpace = field(default_factory=PasidSpace)
    number_of: dict[MmStruct, int] = field(default_factory=dict)
    opens: dict[MmStruct, int] = field(default_factory=dict)
    mapped: set[MmStruct] = field(default_factory=set)

    @property
    def scheme(self) -> Scheme:
        """The scheme that the kernel runs."""
        scheme = self.dev.kernel.scheme
        assert isinstance(scheme, Scheme)
        return scheme

    # --- the driver --------------------------------------------------------------------------------------------

    def probe(self) -> Refusal | None:
        """Do what the driver does when it meets the device."""
        return None

    def open(self, mm: MmStruct) -> IommuSva | Refusal:
        """Bind the caller's mm, as the scheme lets this driver."""
        if self.dev.kernel.profile.enable_feature and self.dev.iommu is not None:
            refusal = iommu_dev_enable_feature_sva(self.dev)
            if refusal:
                return refusal
        if self.scheme.driver_owns_pasids(self.dev):
            return self._bind_own(mm)
        return iommu_sva_bind_device(self.dev, mm)

    def _bind_own(self, mm: MmStruct) -> IommuSva | Refusal:
        """Bind under the lowest free number of the driver's own, the same for an mm that has one."""
        pasid = self.number_of.get(mm) or self._free_number()
        if pasid is None and not self.number_of:
            first = self._first_number()
            return DRIVER_NO_RANGE.refuse(dev=self.dev.name, range=pasid_range(self.dev), first=first)
        if pasid is None:
            return DRIVER_FULL.refuse(dev=self.dev.name, range=pasid_range(self.dev), held=self._held())
        handle = iommu_sva_bind_device_pasid(self.dev, mm, pasid)
        if isinstance(handle, IommuSva):
            self.own_numbers.take(pasid)
            self.number_of[mm] = pasid
            self.opens[mm] = self.opens.get(mm, 0) + 1
        return handle

    def _free_number(self) -> int | None:
        return self.own_numbers.lowest_free(self._first_number(), max(self.dev.max_pasids - 1, 0))

    def _first_number(self) -> int:
        options = self.scheme.options
        return options.local_first if options.guard == "range" and has_portal(self.dev) else 1

    def _held(self) -> str:
        first = islice(self.number_of.items(), MOST_LISTED)
        return listing((f"{pasid} by {mm.holder}" for mm, pasid in first), len(self.number_of))

    def release(self, handle: IommuSva) -> None:
        """Stop the device's work under the bond and unbind; the last close gives the driver's number back."""
        mm = handle.mm
        iommu_sva_unbind_device(handle)
        self._close_own(mm)

    def _close_own(self, mm: MmStruct) -> None:
        """Count one close of a device that was opened under the driver's own number."""
        if mm not in self.opens:
            return
        self.opens[mm] -= 1
        if not self.opens[mm]:
            del self.opens[mm]
            self.own_numbers.free(self.number_of.pop(mm))

    def unmap_where_barred(self, mm: MmStruct) -> None:
        """Take the portal away from a process that may not map it any more, as after its last normal bond."""
        if mm in self.mapped and self.scheme.may_map_portal(self.dev, mm):
            self.mapped.discard(mm)

    def unmap_without(self, bond: IommuSva) -> None:
        """Take the portal away from a process that may not map it any more once this bond is gone."""
        if bond.mm in self.mapped and self.scheme.bars_portal_without(self.dev, bond):
            self.mapped.discard(bond.mm)

    def mmap_portal(self, mm: MmStruct) -> Refusal | None:
        """Map the portal into a process, if the scheme's guard lets it."""
        if not self.dev.enqcmd_bar and self.submit is SubmitBy.REGISTER:
            return NO_PORTAL.refuse(dev=self.dev.name, submit=self.submit.value)
        refusal = self.scheme.may_map_portal(self.dev, mm)
        if refusal is None:
            self.mapped.add(mm)
            self.dev.kernel.decided(PORTAL_MAPPED, mm=mm.name, dev=self.dev.name)
        return refusal

    # --- the device --------------------------------------------------------------------------------------------

    def ring(self, mm: MmStruct, work: Work, bond: IommuSva | None = None) -> Done | Verdict:
        """Do work for a queue of a process, under the number that the driver programmed into it.

        A process with several bonds has a queue for each; without `bond` it is the first.
        """
        accepted = self.queue_up(mm, work, bond)
        return self.perform(accepted) if isinstance(accepted, Accepted) else accepted

    def queue_up(self, mm: MmStruct, work: Work, bond: IommuSva | None = None) -> Accepted | Refusal:
        """Take work for a queue of a process, as `ring`, without coming to it."""
        if bond is None and self.dev.iommu_group is not None:
            bond = bond_of(self.dev.iommu_group, mm)
        if bond is None:
            return NO_QUEUE.refuse(mm=mm.name, dev=self.dev.name)
        return Accepted(bond.pasid, work, REGISTER_USED)

    def commands(self, work: Work) -> Iterator[Command]:
        """Yield what a program writes to the portal for a job; a device without descriptors has no use for the rest."""
        yield Command(bytes(SIZE))

    def receive(self, store: Store, work: Work, portal: int | None = None) -> Done | Verdict | None:
        """Take a write to the portal, and do the work; None when the device ignores it."""
        accepted = self.accept(store, work, portal)
        return self.perform(accepted) if isinstance(accepted, Accepted) else accepted

    def accept(self, store: Store, work: Work, portal: int | None = None) -> Accepted | Verdict | None:
        """Take a write to the portal without coming to the work; None when the device ignores it."""
        if not store.posted:
            return Accepted(store.pasid, work, PORTAL_BELIEVED)
        if self.sloppy:
            return Accepted(store.pasid, work, POSTED_BELIEVED)
        self.dev.kernel.decided(POSTED_IGNORED, dev=self.dev.name)
        return None

    def perform(self, accepted: Accepted) -> Done | Verdict:
        """Do what was accepted, and report the rule by which the device believed the number."""
        assert accepted.pasid is not None
        outcome = self.access(accepted.pasid, accepted.work)
        if isinstance(outcome, Done):
            self.dev.kernel.decided(accepted.rule, dev=self.dev.name, pasid=accepted.pasid)
        return outcome

    def access(self, pasid: int, work: Work) -> Done | Faulted:
        """Read or write memory under a PASID, request by request; the first fault ends it."""
        moved: list[Moved] = []
        for address, data, size in _requests(work):
            part = self.hardware.access(self.dev, pasid, address, data, size)
            if isinstance(part, Faulted):
                return part
            moved.append(part)
        owner = " and ".join(dict.fromkeys(part.owner for part in moved))
        return self._done(owner, pasid, work, b"".join(part.data for part in moved))

    def _done(self, owner: str, pasid: int, work: Work, data: bytes) -> Done:
        kernel = self.dev.kernel
        kernel.emit(events.WorkDone(self.dev.name, pasid, owner, work.access.value, work.address, data))
        return Done(owner, pasid, data)


def _requests(work: Work) -> Iterator[tuple[int, bytes | None, int]]:
    """Yield address, bytes to write and size of each request of a job; a job of no bytes is one empty request."""
    writes = work.access is Access.WRITE
    size, done = len(work.data) if writes else work.size, 0
    while done < size or not done:
        address = work.address + done
        part = min(LARGEST_REQUEST - address % LARGEST_REQUEST, size - done)
        yield address, work.data[done : done + part] if writes else None, part
        if not size:
            return
        done += part

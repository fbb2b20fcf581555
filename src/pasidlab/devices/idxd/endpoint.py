"""A DSA or IAA instance as a machine has it: hardware, driver, and the character device of its user queue.

Source: drivers/dma/idxd/cdev.c (`idxd_cdev_open()`, `idxd_file_dev_release()`), v6.12 and v7.3. Queue 0 is for user
space, shared or dedicated; a shared queue 1 is the kernel's, where the driver has a number for it.

Decided here: a dedicated queue is enabled only while it has an owner; the outcome of a submission is that of its
descriptor, as `Finished` tells it; a machine enables its queues at probe, as accel-config would.
A descriptor that was accepted and not come to yet, as jobs of scenarios are, takes no room of its queue.
Not modelled: several user queues in a scenario; `IdxdDriver` and `IdxdDevice` have all eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pasidlab import events
from pasidlab.devices.endpoint import (
    PORTAL_BELIEVED,
    POSTED_BELIEVED,
    POSTED_IGNORED,
    Accepted,
    Access,
    Command,
    Done,
    Endpoint,
    Work,
)
from pasidlab.devices.idxd.descriptors import FAULT_ON_WRITE, Status, status_name
from pasidlab.devices.idxd.device import IdxdDevice
from pasidlab.devices.idxd.driver import IdxdDriver, Wq, WqType
from pasidlab.devices.idxd.engine import DSA, IAA, Finished
from pasidlab.devices.idxd.library import commands
from pasidlab.devices.idxd.portals import DEDICATED_NO_OWNER, POSTED_TO_SHARED
from pasidlab.devices.idxd.queues import Entry, WorkQueue
from pasidlab.devices.idxd.registers import PORTAL_BYTES, WQ_PORTALS, portal_offset
from pasidlab.errors import Errno
from pasidlab.hw.cpu import Store
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.sva import IommuSva, iommu_sva_unbind_device
from pasidlab.rules import WAS_READ, Faulted, Refusal, Rule, Verdict

USER_WQ, KERNEL_WQ = 0, 1
NOBODY = "nobody"
"""Whose memory a descriptor touched that touched none."""

DEDICATED_BUSY = Rule(
    "idxd.dedicated-busy",
    "idxd_cdev_open (drivers/dma/idxd/cdev.c)",
    "idxd_wq_refcount(wq) > 0 && wq_dedicated(wq)",
    "the dedicated queue of {dev} belongs to process {owner}",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="use a shared queue, or another dedicated one: it belongs to one process at a time",
)
DEDICATED_USED = Rule(
    "idxd.dedicated-used",
    "the device's portal",
    "the queue is dedicated: WQCFG.pasid counts, not what the write carries",
    "{dev} works under PASID {pasid} of WQCFG",
    source=WAS_READ,
)
QUEUED = Rule(
    "idxd.queued",
    "the device's portal",
    "the write is accepted",
    "{dev} accepted the descriptor, and has not come to it yet",
    source="Intel DSA architecture specification",
)
COMPLETED_WITH = Rule(
    "idxd.completed-with-error",
    "the device's engine",
    "the completion's status is not success",
    "{dev} completed the descriptor with status {status:#04x}, {name}",
    source="Intel DSA architecture specification; include/uapi/linux/idxd.h",
    remedy="read the record's status, address and byte count; mend the descriptor or the memory",
)
RECORD_MISALIGNED = Rule(
    "idxd.record-misaligned",
    "the device's engine",
    "the completion record's address is no multiple of 32, of IAA 64",
    "{dev} did not run the descriptor: its completion record must lie at a multiple of {bytes} bytes",
    source="Intel DSA architecture specification; include/uapi/linux/idxd.h",
)


@dataclass(frozen=True, slots=True)
class AcceptedDescriptor(Accepted):
    """A descriptor that a portal has taken, and its queue."""

    wq: WorkQueue
    entry: Entry
    posted: bool


@dataclass(slots=True, eq=False, repr=False)
class Idxd(Endpoint):
    """A DSA or IAA instance.

    Attributes:
        queue: of queue 0: shared (PASID from each write) or dedicated (PASID from WQCFG).
        takes_kernel_pasid: the driver takes a number for kernel work queues at probe.
        analytics: it is an IAA.
        pasid_enabled: pci_enable_pasid() succeeds, if device and IOMMU have PASIDs.
        owner: of a dedicated queue that is in use.
        hw, driver: the hardware and its kernel driver.
        not_enabled: why the driver could not enable the queue for user space, if so.
    """

    queue: Literal["shared", "dedicated"] = "shared"
    takes_kernel_pasid: bool = True
    analytics: bool = False
    pasid_enabled: bool = True
    owner: MmStruct | None = None
    hw: IdxdDevice = field(init=False)
    driver: IdxdDriver = field(init=False)
    not_enabled: Refusal | None = None
    _finished: Finished | None = None

    def __post_init__(self) -> None:
        kind, pasids = IAA if self.analytics else DSA, self.pasid_enabled and self.dev.max_pasids > 0
        self.hw = IdxdDevice(self.dev, self.hardware, kind, pasid_enabled=pasids, sloppy=self.sloppy)
        self.hw.finished = self._hear
        self.driver = IdxdDriver(self.dev, self.hw)

    @property
    def kernel_pasid(self) -> int | None:
        """The number of the kernel's queue, or None."""
        return self.driver.pasid

    @property
    def wqcfg_pasid(self) -> int | None:
        """The number in the WQCFG of a dedicated queue, or None."""
        return self.driver.wqcfg_pasid(self._user_wq) if self.queue == "dedicated" else None

    @property
    def _user_wq(self) -> Wq:
        return self.driver.wqs[USER_WQ]

    # --- the driver --------------------------------------------------------------------------------------------

    def probe(self) -> Refusal | None:
        """Take the kernel's number and enable the queues; a failure only warns, or is a finding."""
        refusal = self.driver.idxd_probe(system_pasid=self.takes_kernel_pasid)
        if self.driver.pasid is not None:
            self.own_numbers.take(self.driver.pasid)
        self._configure()
        self.not_enabled = self.driver.idxd_device_drv_probe() or self._enable_queues()
        if self.not_enabled:
            self.dev.kernel.found(self.not_enabled.rule, **self.not_enabled.facts)
        return refusal

    def _configure(self) -> None:
        """Set the queues up as accel-config would: one for user space, and one for the kernel if it has a number."""
        user = self._user_wq
        user.type, user.name, user.group = WqType.USER, "user", 0
        user.dedicated, user.size, user.threshold = self.queue == "dedicated", 64, 64
        if self.driver.kernel_pasid_enabled and self.driver.support_enqcmd:
            kernel = self.driver.wqs[KERNEL_WQ]
            kernel.type, kernel.name, kernel.group = WqType.KERNEL, "kernel", 1
            kernel.size = kernel.threshold = 64

    def _enable_queues(self) -> Refusal | None:
        """Enable the queues, and return why that for user space could not be."""
        kernel = self.driver.wqs[KERNEL_WQ]
        if kernel.type is WqType.KERNEL:
            self.driver.drv_enable_wq(kernel)
        refusal = self.driver.idxd_user_drv_probe(self._user_wq)
        if refusal is None and self.queue == "dedicated":
            self.driver.idxd_wq_clear_pasid(self._user_wq)
        return refusal

    def open(self, mm: MmStruct) -> IommuSva | Refusal:
        """Bind; a dedicated queue has one owner, and gets its number."""
        if self.queue == "dedicated" and self.owner is not None:
            return DEDICATED_BUSY.refuse(dev=self.dev.name, owner=self.owner.name)
        handle = Endpoint.open(self, mm)
        if self.queue == "dedicated" and isinstance(handle, IommuSva):
            refusal = self.driver.idxd_wq_set_pasid(self._user_wq, handle.pasid)
            if refusal:
                iommu_sva_unbind_device(handle)
                self._close_own(mm)
                return refusal
            self.owner = mm
        return handle

    def release(self, handle: IommuSva) -> None:
        """Wait for the work of the bond, take a dedicated queue from its owner, and unbind."""
        if self.queue == "shared":
            self.driver.idxd_device_drain_pasid(handle.pasid)
        elif self.owner is handle.mm:
            self.driver.idxd_wq_clear_pasid(self._user_wq)
            self.owner = None
        Endpoint.release(self, handle)

    # --- the device --------------------------------------------------------------------------------------------

    def commands(self, work: Work) -> Iterator[Command]:
        """Yield the descriptors that do a job."""
        return commands(self.hw.engine.kind, work, self.dev.kernel.page_size)

    @property
    def kernel_portal(self) -> int:
        """Where the kernel submits."""
        return portal_offset(KERNEL_WQ)

    def receive(self, store: Store, work: Work, portal: int | None = None) -> Done | Verdict | None:
        """Take a write to a portal of BAR2, by default the one that user space has mapped.

        What comes of it is what the 64 bytes say; `work` is not looked at.
        """
        offset = portal_offset(USER_WQ) if portal is None else portal
        self._finished = None
        refused = self.hw.take(offset, store.data, posted=store.posted)
        if refused is not None:
            return self._not_taken(refused, offset // (PORTAL_BYTES * WQ_PORTALS), posted=store.posted)
        if self._finished is None:
            self.dev.kernel.decided(QUEUED, dev=self.dev.name)
            return None
        return self._outcome(self._finished, posted=store.posted)

    def accept(self, store: Store, work: Work, portal: int | None = None) -> Accepted | Verdict | None:
        """Take a write to a portal, as `receive`, without coming to its descriptor."""
        offset = portal_offset(USER_WQ) if portal is None else portal
        admitted = self.hw.admit(offset, store.data, posted=store.posted)
        if isinstance(admitted, Rule):
            return self._not_taken(admitted, offset // (PORTAL_BYTES * WQ_PORTALS), posted=store.posted)
        wq, entry = admitted
        return AcceptedDescriptor(entry.pasid, work, QUEUED, wq, entry, store.posted)

    def perform(self, accepted: Accepted) -> Done | Verdict:
        """Come to a descriptor that was accepted; what is in the driver's own queue is like other devices' work."""
        if not isinstance(accepted, AcceptedDescriptor):
            return Endpoint.perform(self, accepted)
        self._finished = None
        self.hw.carry_out(accepted.wq, accepted.entry)
        assert self._finished is not None
        return self._outcome(self._finished, posted=accepted.posted)

    def _hear(self, finished: Finished) -> None:
        self._finished = finished

    def _not_taken(self, rule: Rule, index: int, *, posted: bool) -> Verdict | None:
        """Say why a write was not accepted; a posted one has no answer, so its program does not hear."""
        facts = {"dev": self.dev.name, "wq": index, **self._reasons(index)}
        if rule is DEDICATED_NO_OWNER:
            return rule.fault(**facts)
        if not posted:
            return rule.refuse(**facts)
        self.dev.kernel.decided(POSTED_IGNORED if rule is POSTED_TO_SHARED else rule, **facts)
        return None

    def _reasons(self, index: int) -> dict[str, object]:
        """Return the numbers and the state behind an answer of a queue."""
        reason = f": {self.not_enabled.why}" if self.not_enabled and index == USER_WQ else ""
        wq = next((wq for wq in self.hw.queues if wq.index == index), None)
        if wq is None:
            return {"limit": 0, "reason": reason}
        return {"limit": wq.size if wq.occupancy >= wq.size else wq.threshold, "reason": reason}

    def _outcome(self, finished: Finished, *, posted: bool) -> Done | Faulted:
        if finished.fault is not None:
            return finished.fault
        if finished.status == Status.RECORD_ALIGNMENT:
            return RECORD_MISALIGNED.fault(dev=self.dev.name, bytes=self.hw.engine.kind.record_bytes)
        if finished.status not in (Status.SUCCESS, Status.SUCCESS_PREDICATE):
            status = finished.status & ~FAULT_ON_WRITE
            return COMPLETED_WITH.fault(dev=self.dev.name, status=status, name=status_name(status))
        done = self._tell(finished)
        rule = POSTED_BELIEVED if posted else PORTAL_BELIEVED
        if self.hw.queues[finished.wq].dedicated:
            rule = DEDICATED_USED
        self.dev.kernel.decided(rule, dev=self.dev.name, pasid=finished.pasid)
        return done

    def _tell(self, finished: Finished) -> Done:
        """Report what a descriptor wrote, or if it wrote nothing what it read."""
        accesses, access = (finished.writes, Access.WRITE) if finished.writes else (finished.reads, Access.READ)
        touched = dict.fromkeys(moved.owner for _, moved in finished.reads + finished.writes)
        owner = " and ".join(touched) or NOBODY
        data = b"".join(moved.data for _, moved in accesses)
        address = accesses[0][0] if accesses else 0
        kernel = self.dev.kernel
        if accesses and kernel.observers:
            kernel.emit(events.WorkDone(self.dev.name, finished.pasid, owner, access.value, address, data))
        return Done(owner, finished.pasid, data)

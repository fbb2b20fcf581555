"""An engine: a descriptor's checks, its operation, its completion record, and a batch of them.

Source: Intel DSA architecture specification, on descriptor checks, batches and completion; status codes by
include/uapi/linux/idxd.h (v6.12 and v7.3).
Decided here, where the facts at hand say nothing: the order of the checks (alignment of the completion record,
privilege, opcode, flags, reserved bits, interrupt handle, size; other alignment and the operation's own at last); what
an operation does not use of its addresses is not looked at; a batch has 2 descriptors at least, and neither a batch nor
a drain among them (status 0x10); with neither completion record nor success the error goes to SWERR. Status 0x1D goes
there in any case: with privileged mode off no privileged request can be sent, so neither can that of the record.
Not modelled: interrupts themselves, completion record steering, traffic classes, the event log.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pasidlab.devices.idxd.analytics import IAA_OPERATIONS
from pasidlab.devices.idxd.descriptors import (
    DESCRIPTOR_BYTES,
    FAULT_ON_WRITE,
    Descriptor,
    Flags,
    Opcode,
    Status,
    parse,
)
from pasidlab.devices.idxd.job import Job
from pasidlab.devices.idxd.operations import DSA_OPERATIONS, USUAL_FLAGS, Operation, noop
from pasidlab.devices.idxd.queues import Entry, WorkQueue
from pasidlab.devices.idxd.registers import Swerr
from pasidlab.drivers.hardware import Hardware, Moved
from pasidlab.linux.structs import Device
from pasidlab.rules import Faulted

LEAST_BATCH = 2
_RESERVED_DWORD0 = 0x7FF << 20
_HEAD = struct.Struct("<BBBBIQ")
ANY_PASID, NO_PASID = -1, -2
"""What an MSI-X permission entry serves that names no PASID: all, or requests without."""
_NOT_IN_BATCH = frozenset({Opcode.BATCH, Opcode.DRAIN})
_NO_RECORD = frozenset({Status.RECORD_ALIGNMENT, Status.BAD_PRIV})
"""Errors that no completion record tells, for it cannot be written."""
_NO_ERROR = frozenset({Status.SUCCESS, Status.SUCCESS_PREDICATE})
_PAGE_FAULTS = frozenset({Status.PAGE_FAULT_NO_BOF, Status.PAGE_FAULT_INVALID})


@dataclass(frozen=True, slots=True)
class Kind:
    """What sets DSA and IAA apart.

    Attributes:
        operations: by opcode.
        record_bytes: size and alignment of a completion record.
    """

    operations: Mapping[int, Operation]
    record_bytes: int


BATCH = Operation(Opcode.BATCH, noop, sized=False)
"""Stands for the batch among the operations; `Engine` runs it, for it has descriptors of its own."""
DSA = Kind({Opcode.BATCH: BATCH, **DSA_OPERATIONS}, 32)
IAA = Kind(IAA_OPERATIONS, 64)


class Finished(NamedTuple):
    """A descriptor that is done.

    Attributes:
        wq, pasid, privileged: its queue, and what its requests carried.
        opcode, status: status as in the completion record, with the write bit.
        recorded: the completion record was written.
        reads, writes: address and outcome of each access to operands.
        fault: the access that ended it, or its first descriptor that failed by one, or its record.
    """

    wq: int
    pasid: int | None
    privileged: bool
    opcode: int
    status: int
    recorded: bool
    reads: list[tuple[int, Moved]]
    writes: list[tuple[int, Moved]]
    fault: Faulted | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a descriptor stands: in a queue, or at an index of a batch."""

    batch_index: int | None = None


IN_QUEUE = Place()


@dataclass(slots=True, eq=False)
class Engine:
    """Executes descriptors, one at a time.

    Attributes:
        kind: DSA or IAA.
        privileged_enabled: privileged mode is on in the PCIe PASID capability.
        errors: what went to SWERR, taken by the device.
        permissions: the PASID whose descriptors may use each MSI-X entry, or ANY_PASID or NO_PASID.
    """

    hardware: Hardware
    dev: Device
    kind: Kind
    privileged_enabled: bool
    errors: list[Swerr]
    permissions: list[int]

    def execute(self, wq: WorkQueue, entry: Entry, place: Place = IN_QUEUE) -> Finished:
        """Check and run a descriptor, and write its completion record."""
        descriptor = parse(entry.data)
        job = Job(self.hardware, self.dev, entry.pasid, entry.privileged, bool(descriptor.flags & Flags.BOF))
        status = self._checked_run(wq, entry, descriptor, job, place)
        recorded = self._complete(wq, entry, descriptor, job, status, place)
        return Finished(
            wq.index,
            entry.pasid,
            entry.privileged,
            descriptor.opcode,
            status,
            recorded,
            job.reads,
            job.writes,
            job.fault,
        )

    def _checked_run(self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, job: Job, place: Place) -> int:
        """Return the status of the first check that fails, or of the operation; what is refused is not run."""
        if descriptor.flags & Flags.CRAV and descriptor.completion_addr % self.kind.record_bytes:
            return Status.RECORD_ALIGNMENT
        if entry.privileged and entry.pasid is not None and not self.privileged_enabled:
            return Status.BAD_PRIV
        operation = self.kind.operations.get(descriptor.opcode)
        if operation is None:
            return Status.BAD_OPCODE
        refused = self._refused(wq, entry, descriptor, operation, job, place)
        return refused or self._run(wq, entry, descriptor, operation, job)

    def _run(self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, operation: Operation, job: Job) -> int:
        if operation is BATCH:
            return self._batch(wq, entry, descriptor, job)
        return operation.run(job, descriptor)

    # --- checks ------------------------------------------------------------------------------------------------

    def _refused(
        self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, operation: Operation, job: Job, place: Place
    ) -> int:
        """Return the status of the first check that fails, or 0."""
        in_batch = place.batch_index is not None
        if in_batch and operation.opcode in _NOT_IN_BATCH:
            return Status.BAD_OPCODE
        flags = descriptor.flags
        invalid = flags & (operation.invalid_flags | wq.invalid_flags)
        if not in_batch:
            invalid |= flags & Flags.FENCE
        if not flags & Flags.CRAV:
            invalid |= flags & (Flags.RCR | Flags.CRSTS)
        if invalid:
            job.specific = invalid.to_bytes(4, "little")
            return Status.INVALID_FLAGS
        return self._refused_fields(wq, entry, descriptor, operation, in_batch)

    def _refused_fields(
        self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, operation: Operation, in_batch: bool
    ) -> int:
        # A dedicated queue and a batch have their own PASID and do not look at the descriptor's.
        if not (wq.dedicated or in_batch) and descriptor.dword0 & _RESERVED_DWORD0:
            return Status.RESERVED_NOT_ZERO
        if descriptor.rsvd1 and not operation.word19:
            return Status.RESERVED_NOT_ZERO
        if int.from_bytes(descriptor.specific, "little") & ~operation.specific:
            return Status.RESERVED_NOT_ZERO
        if descriptor.flags & Flags.RCI and not self._may_interrupt(descriptor.int_handle, entry.pasid):
            return Status.INT_HANDLE
        if operation.sized and not 0 < descriptor.size <= wq.max_xfer:
            return Status.TRANSFER_SIZE
        return 0

    def _may_interrupt(self, handle: int, pasid: int | None) -> bool:
        """Whether the MSI-X permission entry of an interrupt handle is for this PASID."""
        if handle >= len(self.permissions):
            return False
        permitted = self.permissions[handle]
        return permitted == ANY_PASID or permitted == (NO_PASID if pasid is None else pasid)

    # --- batches -----------------------------------------------------------------------------------------------

    def _batch(self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, job: Job) -> int:
        """Run a list of descriptors under the batch's PASID; `bytes_completed` counts those that were looked at."""
        if descriptor.source % DESCRIPTOR_BYTES:
            return Status.LIST_ALIGNMENT
        if not LEAST_BATCH <= descriptor.size <= wq.max_batch:
            return Status.DESCRIPTOR_COUNT
        reads, writes, failed = list[tuple[int, Moved]](), list[tuple[int, Moved]](), False
        status: int = Status.SUCCESS
        for index in range(descriptor.size):
            data = job.read(descriptor.source + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES)
            if data is None:
                status = _list_fault(job.stopped())
                break
            if failed and int.from_bytes(data[4:8], "little") & Flags.FENCE:
                break
            done = self.execute(wq, Entry(data, entry.pasid, entry.privileged), Place(index))
            job.bytes_completed = index + 1
            failed |= done.status != Status.SUCCESS
            job.fault = job.fault or done.fault
            reads += done.reads
            writes += done.writes
        job.reads, job.writes = reads, writes
        return Status.BATCH_FAILED if failed and status == Status.SUCCESS else status

    # --- completion --------------------------------------------------------------------------------------------

    def _complete(
        self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, job: Job, status: int, place: Place
    ) -> bool:
        """Write the completion record where one is wanted; an error that none can tell goes to SWERR."""
        flags, failed = descriptor.flags, status not in _NO_ERROR
        if not flags & Flags.CRAV or status in _NO_RECORD:
            if failed:
                self._report(wq, entry, descriptor, job, status, place)
            return False
        if status == Status.SUCCESS and not flags & Flags.RCR:
            return False
        return self._write_record(wq, entry, descriptor, job, status, place)

    def _write_record(
        self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, job: Job, status: int, place: Place
    ) -> bool:
        """Write the record under the descriptor's PASID; it may wait for its page wherever its queue has PRS."""
        head = _HEAD.pack(status, job.result, 0, 0, job.bytes_completed, job.fault_address)
        record = (head + job.specific).ljust(self.kind.record_bytes, b"\0")
        writer = Job(self.hardware, self.dev, entry.pasid, entry.privileged, wq.page_requests)
        if writer.write(descriptor.completion_addr, record):
            return True
        job.fault = job.fault or writer.fault
        self._report(wq, entry, descriptor, writer, Status.RECORD_TRANSLATION, place)
        return False

    def _report(self, wq: WorkQueue, entry: Entry, descriptor: Descriptor, job: Job, status: int, place: Place) -> None:
        error = Swerr(
            valid=True,
            desc_valid=True,
            wq_idx_valid=True,
            batch=place.batch_index is not None,
            fault_rw=job.fault is not None and job.fault_write,
            priv=entry.privileged,
            error=status & ~FAULT_ON_WRITE,
            wq_idx=wq.index,
            operation=descriptor.opcode,
            pasid=entry.pasid or 0,
            batch_idx=place.batch_index or 0,
            invalid_flags=descriptor.flags & ~USUAL_FLAGS if status == Status.INVALID_FLAGS else 0,
            fault_addr=job.fault_address,
        )
        self.errors.append(error)


def _list_fault(status: int) -> int:
    """Return the status of a batch whose list cannot be read: a page fault is one of its own."""
    return Status.BATCH_PAGE_FAULT if status in _PAGE_FAULTS else status

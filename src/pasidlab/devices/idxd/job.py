"""One descriptor at work: its accesses to memory, all under one PASID, and what they came to.

Source: Intel DSA architecture specification, on address translation and page faults; include/uapi/linux/idxd.h for the
status codes.
Decided here: how a failed access is told from the way in which the device saw it fail. A page request that was not
answered with success gives 0x04, whatever the answer was; an access that was blocked gives 0x22.
Not modelled: read buffers, order between the accesses of one descriptor, a TC or cache for each address.
"""

from __future__ import annotations

from pasidlab.devices.idxd.descriptors import FAULT_ON_WRITE, Status
from pasidlab.drivers.hardware import Hardware, Moved, Seen, seen_as
from pasidlab.linux.structs import Device
from pasidlab.rules import Faulted

LARGEST_REQUEST = 4096
"""Bytes that no request goes beyond, and whose multiples it does not cross (PCI Express)."""
_WRAP = (1 << 64) - 1

_STATUS_OF = {
    Seen.NO_PAGE: Status.PAGE_FAULT_NO_BOF,
    Seen.INVALID: Status.PAGE_FAULT_INVALID,
    Seen.FAILURE: Status.PAGE_FAULT_INVALID,
    Seen.BLOCKED: Status.TRANSLATION_FAILED,
}


class Job:
    """The accesses of one descriptor.

    Attributes:
        pasid, privileged: what its requests carry; None is no PASID.
        block: it asks for pages that it cannot use, and waits (block on fault).
        reads, writes: address and outcome of each access that took place, in order.
        fault: the access that ended it; `fault_address` and `fault_write` as its completion record tells them.
        bytes_completed, result, specific: of its completion record.
    """

    __slots__ = (
        "block",
        "bytes_completed",
        "dev",
        "fault",
        "fault_address",
        "fault_write",
        "hardware",
        "pasid",
        "privileged",
        "reads",
        "result",
        "specific",
        "writes",
    )

    def __init__(self, hardware: Hardware, dev: Device, pasid: int | None, privileged: bool, block: bool) -> None:
        self.hardware, self.dev = hardware, dev
        self.pasid, self.privileged, self.block = pasid, privileged, block
        self.reads: list[tuple[int, Moved]] = []
        self.writes: list[tuple[int, Moved]] = []
        self.fault: Faulted | None = None
        self.fault_address = 0
        self.fault_write = False
        self.bytes_completed = 0
        self.result = 0
        self.specific = b""

    def read(self, address: int, size: int) -> bytes | None:
        """Read within 4 KiB; None is a fault."""
        address &= _WRAP
        moved = self.hardware.access(
            self.dev, self.pasid, address, None, size, page_requests=self.block, privileged=self.privileged
        )
        if not isinstance(moved, Moved):
            self.fault, self.fault_address, self.fault_write = moved, address, False
            return None
        self.reads.append((address, moved))
        return moved.data

    def write(self, address: int, data: bytes) -> bool:
        """Write within 4 KiB; false is a fault."""
        address &= _WRAP
        moved = self.hardware.access(
            self.dev, self.pasid, address, data, len(data), page_requests=self.block, privileged=self.privileged
        )
        if not isinstance(moved, Moved):
            self.fault, self.fault_address, self.fault_write = moved, address, True
            return False
        self.writes.append((address, moved))
        return True

    def read_all(self, address: int, size: int) -> bytes | None:
        """Read any number of bytes; None is a fault."""
        parts, done = [], 0
        while done < size:
            data = self.read(address + done, part_of(size - done, address + done))
            if data is None:
                return None
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def write_all(self, address: int, data: bytes) -> bool:
        """Write any number of bytes; false is a fault."""
        done = 0
        while done < len(data):
            part = data[done : done + part_of(len(data) - done, address + done)]
            if not self.write(address + done, part):
                return False
            done += len(part)
        return True

    def stopped(self, bytes_completed: int = 0) -> int:
        """Return the status of a descriptor that a fault ended, after so many bytes."""
        assert self.fault is not None
        self.bytes_completed = bytes_completed
        status = _STATUS_OF[seen_as(self.fault)]
        return status | FAULT_ON_WRITE if self.fault_write else status

    def done(self, bytes_completed: int) -> int:
        """Return the status of success, after so many bytes."""
        self.bytes_completed = bytes_completed
        return Status.SUCCESS


def part_of(size: int, *addresses: int) -> int:
    """Return how many of `size` bytes one request takes, from the addresses where it starts."""
    return min(size, *(LARGEST_REQUEST - address % LARGEST_REQUEST for address in addresses))

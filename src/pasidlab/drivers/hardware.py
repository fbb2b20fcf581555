"""What stands between a device and memory: the IOMMU as devices use it, and its driver as a machine uses it.

A machine may have IOMMUs of several models. Devices and verbs know them only by these two protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pasidlab.errors import Errno
from pasidlab.linux.iopf import Fault
from pasidlab.linux.structs import Device
from pasidlab.rules import Faulted, Refusal


@dataclass(frozen=True, slots=True)
class Moved:
    """An access that took place: whose memory it was (a process, or "kernel"), and the bytes read or written."""

    owner: str
    data: bytes


class Hardware(Protocol):
    """What a device needs of the IOMMU in front of it."""

    def access(self, dev: Device, pasid: int, address: int, data: bytes | None, size: int) -> Moved | Faulted:
        """Write `data`, or read `size` bytes (None), under a PASID; never beyond the kernel's page of `address`."""

    def report(self, dev: Device, fault: Fault) -> Refusal | None:
        """Take a page request of a device."""


class IommuDriver(Hardware, Protocol):
    """What a machine needs of an IOMMU driver.

    Attributes:
        fail_set, fail_alloc: errnos with which the next set_dev_pasid and domain_alloc_sva of a device fail.
    """

    fail_set: dict[Device, Errno]
    fail_alloc: dict[Device, Errno]

    def probe_device(self, dev: Device) -> None:
        """Meet a device that has joined its group."""

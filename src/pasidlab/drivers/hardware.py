"""What stands between a device and memory: the IOMMU as devices use it, and its driver as a machine uses it.

A machine may have IOMMUs of several models. Devices and verbs know them only by these two protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pasidlab.errors import Errno
from pasidlab.linux.iopf import Fault
from pasidlab.linux.structs import Device
from pasidlab.rules import Faulted, Refusal, Rule

FREED = "freed memory"
"""Owner of memory that no process has any more."""


@dataclass(frozen=True, slots=True)
class Moved:
    """An access that took place: whose memory it was (a process, "kernel", FREED), and the bytes read or written."""

    owner: str
    data: bytes


class Seen(Enum):
    """How an access that did not take place looks to the device.

    The first is all that a device without ATS ever sees; the others need translations and page requests of its own.
    """

    BLOCKED = "aborted or blocked: Unsupported Request or Completer Abort"
    NO_PAGE = "a translation that does not permit the access, and no page request was made"
    INVALID = "the page request was answered Invalid Request"
    FAILURE = "the page request was answered Response Failure, or not at all"


class Denied(Faulted):
    """An access that the device saw fail in another way than by an abort; a plain `Faulted` is `Seen.BLOCKED`."""

    __slots__ = ("seen",)

    def __init__(self, rule: Rule, facts: dict[str, Any], seen: Seen) -> None:
        super().__init__(rule, facts)
        self.seen = seen


def seen_as(fault: Faulted) -> Seen:
    """Return how a failed access looks to the device."""
    return fault.seen if isinstance(fault, Denied) else Seen.BLOCKED


class Hardware(Protocol):
    """What a device needs of the IOMMU in front of it."""

    def access(
        self,
        dev: Device,
        pasid: int | None,
        address: int,
        data: bytes | None,
        size: int,
        *,
        page_requests: bool = True,
        privileged: bool = False,
    ) -> Moved | Faulted:
        """Write `data`, or read `size` bytes (None), under a PASID (None: without); one request within 4 KiB.

        Without `page_requests` the device does not ask for a page that it cannot use. `privileged` is what the
        request claims to be. A failure that is not just an abort to the device is a `Denied`.
        """

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

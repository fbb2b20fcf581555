"""What a portal answers, and what it drops: the rules of `device`.

Source: Intel DSA architecture specification, on portals and on shared and dedicated work queues.
Decided here: the codes with which SWERR tells of a dropped write (0x70 on), since the specification's were not at hand.
"""

from __future__ import annotations

from typing import Final

from pasidlab.devices.idxd.descriptors import status_name
from pasidlab.devices.idxd.queues import WorkQueue
from pasidlab.errors import Errno
from pasidlab.rules import Rule

SPECIFICATION = "Intel DSA architecture specification"

DEDICATED_RETRY = Rule(
    "idxd.dedicated-takes-no-enqcmd",
    "the device's portal",
    "a non-posted write to a dedicated queue",
    "{dev} answers Retry (ZF = 1): its queue is dedicated and takes MOVDIR64B",
    Errno.EAGAIN,
    source=SPECIFICATION,
    remedy="submit to a dedicated queue with MOVDIR64B",
)
QUEUE_FULL = Rule(
    "idxd.queue-full",
    "the device's portal",
    "occupancy == WQCFG.wq_size",
    "{dev} answers Retry (ZF = 1): queue {wq} holds all {limit} descriptors that it has room for",
    Errno.EAGAIN,
    source=SPECIFICATION,
    remedy="try again: the instruction says so by ZF = 1; give the queue more room or a higher threshold",
)
QUEUE_LIMIT = Rule(
    "idxd.queue-threshold",
    "the device's limited portal",
    "occupancy >= WQCFG.wq_thresh",
    "{dev} answers Retry (ZF = 1): queue {wq} is at its threshold of {limit} descriptors for limited portals",
    Errno.EAGAIN,
    source=SPECIFICATION,
    remedy="try again: the instruction says so by ZF = 1; give the queue more room or a higher threshold",
)
QUEUE_DISABLED = Rule(
    "idxd.queue-disabled",
    "the device's portal",
    "no such queue, or it is not enabled",
    "{dev} answers Retry (ZF = 1): queue {wq} is not enabled{reason}",
    Errno.EAGAIN,
    source=SPECIFICATION,
    remedy="accel-config enable-wq, and look why that failed if it did",
)
DEDICATED_NO_OWNER = Rule(
    "idxd.dedicated-disabled",
    "the device's portal",
    "WQCFG.pasid is not set: the queue is disabled",
    "the dedicated queue of {dev} has no owner and is disabled",
    source=SPECIFICATION,
)
POSTED_TO_SHARED = Rule(
    "idxd.shared-takes-no-movdir64b",
    "the device's portal",
    "a posted write to a shared queue",
    "{dev} drops the write: its queue {wq} is shared and takes non-posted writes only",
    source=SPECIFICATION,
)
POSTED_TO_FULL = Rule(
    "idxd.posted-to-full",
    "the device's portal",
    "a posted write, and occupancy == WQCFG.wq_size",
    "{dev} drops the write: queue {wq} holds all {limit} descriptors that it has room for",
    source=SPECIFICATION,
)
POSTED_TO_DISABLED = Rule(
    "idxd.posted-to-disabled",
    "the device's portal",
    "a posted write to a shared queue that is not enabled",
    "{dev} drops the write: queue {wq} is not enabled{reason}",
    source=SPECIFICATION,
)

DROPPED_ERRORS: Final = {
    DEDICATED_NO_OWNER: 0x70,
    POSTED_TO_SHARED: 0x71,
    POSTED_TO_FULL: 0x72,
    POSTED_TO_DISABLED: 0x73,
}
"""SWERR.error of a posted write that was dropped."""
_DROPPED_NAMES = {code: rule.check for rule, code in DROPPED_ERRORS.items()}


def error_name(error: int) -> str:
    """Name SWERR.error for people: why a write was dropped, or the status that no completion record could tell."""
    return _DROPPED_NAMES.get(error) or status_name(error)


def refuse_non_posted(wq: WorkQueue, *, limited: bool) -> Rule | None:
    """Return why a queue answers a non-posted write with Retry, or None when it accepts."""
    if not wq.enabled:
        return QUEUE_DISABLED
    if wq.dedicated:
        return DEDICATED_RETRY
    occupancy = wq.occupancy
    if occupancy >= wq.size:
        return QUEUE_FULL
    return QUEUE_LIMIT if limited and occupancy >= wq.threshold else None


def refuse_posted(wq: WorkQueue, *, dedicated: bool, believed: bool) -> Rule | None:
    """Return why a posted write is dropped, or None when it is accepted.

    `dedicated` is by WQCFG, of a disabled queue too; `believed`: the device takes posted writes to shared queues.
    """
    if not wq.enabled:
        return DEDICATED_NO_OWNER if dedicated else POSTED_TO_DISABLED
    if not (dedicated or believed):
        return POSTED_TO_SHARED
    return POSTED_TO_FULL if wq.occupancy >= wq.size else None

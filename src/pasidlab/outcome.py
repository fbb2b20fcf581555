"""What a verb of a machine led to, and the rules of outcomes that no kernel function stands behind.

An outcome is a result in one word, a number, and the rule with its sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.devices.endpoint import Done
from pasidlab.errors import Errno
from pasidlab.rules import MOST_LISTED, Rule, listing

EXITED = Rule("process.exited", "the process", "it has exited", "process {process} has exited", Errno.ESRCH)
NO_PROCESS = Rule(
    "process.never-started",
    "the scenario",
    "the fork or clone of that name was refused",
    "process {process} was never started",
    Errno.ESRCH,
)
NO_HANDLE = Rule(
    "handle.none",
    "the scenario",
    "the bind of that name was refused or undone",
    "{handle} is not bound",
    Errno.ENOENT,
)
FOREIGN_HANDLE = Rule(
    "handle.foreign",
    "the device's driver",
    "the queue belongs to another process or device",
    "{handle} is no queue of process {mm} on {dev}",
    Errno.EPERM,
    "idxd_cdev_mmap and write by another mm answer -EPERM (read)",
)
NO_NUMBER = Rule(
    "number.none",
    "the scenario",
    "the call of that name gave no number",
    "{name} names no number here",
    Errno.ENOENT,
)
PORTAL_UNMAPPED = Rule(
    "portal.unmapped",
    "the process",
    "the portal is not mapped",
    "{instruction} went to an address where process {mm} has no portal of {dev}",
    remedy="map the queue's file into this very process; a mapping is not inherited by a fork",
)
HANDOFF_NO_NUMBER = Rule(
    "handoff.no-number",
    "the first device",
    "the process has no bond on it",
    "{dev} has no number for process {mm} that it could pass on",
    Errno.EPERM,
)
HANDED_OFF = Rule(
    "handoff.used",
    "the second device",
    "it was told which PASID to use",
    "{second} was told PASID {pasid} by {first}",
    source="thread 2023-08-02 and 2026-04-28 Jason Gunthorpe (6): one number for DSA and IAA (R15)",
)
KERNEL_NO_NUMBER = Rule(
    "kernel.no-number",
    "idxd_enable_system_pasid (drivers/dma/idxd/init.c)",
    "the driver has no number for kernel work queues",
    "the driver of {dev} has no number for the kernel",
    Errno.ENODEV,
)
KERNEL_NO_ENQCMDS = Rule(
    "kernel.no-enqcmds",
    "the CPU",
    "no ENQCMDS",
    "this CPU has no ENQCMDS to submit to {dev} with",
    Errno.EOPNOTSUPP,
)
FOR_ALL = Rule(
    "alloc-for-all.found",
    "a call that was proposed in 2021",
    "the number is free in the global space and on every listed device",
    "{pasid} is free on all of {devices}",
    source="thread 2021-05-07 Jason Gunthorpe and Ashok Raj (R6)",
)
FOR_ALL_NONE = Rule(
    "alloc-for-all.none",
    "a call that was proposed in 2021",
    "no number of [1, smallest max_pasids - 1] is free everywhere",
    "no number up to {last}, the largest that all of {devices} carry, is free on each of them",
    Errno.ENOSPC,
    "thread 2021-05-07 Jason Gunthorpe and Ashok Raj (R6): what if PASIDx is free on RID 1 and taken on RID 2",
)
FREE_SILENT = Rule(
    "free-global.silent",
    "ida_free (lib/idr.c)",
    "(int)id < 0",
    "{pasid} has the sign bit set and is ignored without a word",
)
KVA_ABSENT = Rule(
    "kva.absent",
    "iommu_sva_invalidate_kva_range (drivers/iommu/iommu-sva.c)",
    "the function is not there before 6.19",
    "kernel {kernel} frees its page tables without a word to IOMMUs",
)
DMA_DONE = Rule(
    "dma.done",
    "the IOMMU",
    "the entry of (device, PASID) names that memory",
    "{dev} used PASID {pasid} by itself",
)
FAILURE_ARMED = Rule(
    "failure.armed",
    "the scenario",
    "the next such call fails",
    "the next {call} for {dev} fails with {errno}",
)
LOADED = Rule("load.done", "the process", "its page table lets it", "{mm} read its memory at {address:#x}")
STORED = Rule("store.done", "the process", "its page table lets it", "{mm} wrote its memory at {address:#x}")
SHOWN = Rule("show", "the scenario", "nothing changes", "as it stands")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb led to.

    Attributes:
        result: "ok", an errno name, a signal name, or "fault".
        pasid: the number of the bond, allocation or work; None when there is none.
        rule, why: the rule that settled it, and its sentence.
        holders: for ENOSPC, who holds each number that would have served.
        work: what a device, or the process itself, did to memory.
        detail: for `show`, lines of text.
        submitter: of a job that was done or answered for, whose it was.
    """

    result: str
    pasid: int | None = None
    rule: str = ""
    why: str = ""
    holders: tuple[tuple[int, str], ...] = ()
    work: Done | None = None
    detail: tuple[str, ...] = ()
    submitter: str = ""


def holder_text(holders: tuple[tuple[int, str], ...]) -> str:
    """List holders in words."""
    return listing((f"{pasid} is held by {holder}" for pasid, holder in holders[:MOST_LISTED]), len(holders))

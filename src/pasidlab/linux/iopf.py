"""drivers/iommu/io-pgfault.c and the SVA part of it: page requests of devices, their groups, their answers.

Source: Linux 6.12.117 and 7.3.4 (the same but for when a device is in a queue, which the drivers decide).
A request names (device, PASID); it is answered once per group, with the number of the group's last request.

Not modelled: concurrency of the workqueue. Work waits in `IopfQueue.work` until `iopf_queue_flush_dev()` or
`run_work()` runs it, so that a scenario can look in between.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from pasidlab.errors import Errno
from pasidlab.linux.iommu import iommu_attach_handle_get
from pasidlab.linux.memory import handle_mm_fault
from pasidlab.linux.mm import MmStruct, mmget_not_zero, mmput
from pasidlab.linux.structs import AttachHandle, Device, DomainType
from pasidlab.rules import WAS_READ, WAS_RUN, Refusal, Rule

if TYPE_CHECKING:
    from pasidlab.linux.structs import IommuDomain

PERM_READ, PERM_WRITE, PERM_EXEC, PERM_PRIV = 1, 2, 4, 8
_RIGHTS = PERM_READ | PERM_WRITE | PERM_EXEC


class ResponseCode(IntEnum):
    """`enum iommu_page_response_code`."""

    SUCCESS = 0
    INVALID = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """`struct iommu_fault_page_request`; `pasid` None is a request without PASID."""

    pasid: int | None
    addr: int
    perm: int
    last: bool
    grpid: int


@dataclass(slots=True, eq=False, repr=False)
class IopfGroup:
    """`struct iopf_group`: the requests that are answered together, the last one last."""

    dev: Device
    faults: list[Fault]
    attach_handle: AttachHandle

    @property
    def last_fault(self) -> Fault:
        """The request that the response names."""
        return self.faults[-1]


@dataclass(slots=True, eq=False, repr=False)
class FaultParam:
    """`struct iommu_fault_param`: a device's requests that wait for their last one, and its unanswered groups."""

    queue: IopfQueue
    partial: list[Fault] = field(default_factory=list)
    faults: list[IopfGroup] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class IopfQueue:
    """`struct iopf_queue`: one per IOMMU instance, with the work that is not yet done."""

    devices: dict[Device, None] = field(default_factory=dict)
    work: deque[IopfGroup] = field(default_factory=deque)


_REPORT = "iommu_report_device_fault (drivers/iommu/io-pgfault.c)"
_HANDLE_MM = "iommu_sva_handle_mm (drivers/iommu/io-pgfault.c)"
FAULT_NO_HANDLER = Rule(
    "fault.no-handler",
    _REPORT,
    "no attach handle at the PASID, or its domain has no iopf_handler",
    "nothing on {dev} handles faults {under}; the request is answered INVALID",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="the PASID is not bound, or its domain takes no page requests: bind before the device works",
)
FAULT_NO_PARAM = Rule(
    "fault.no-fault-param",
    _REPORT,
    "WARN_ON(!iopf_get_dev_fault_param(dev))",
    "{dev} is in no fault queue; the request is answered INVALID",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="switch page requests off in the device until its driver has bound something",
)
FAULT_PARTIAL = Rule(
    "fault.partial",
    _REPORT,
    "!(fault->prm.flags & LAST_PAGE)",
    "the request waits for the last one of its group; no answer yet",
    source=WAS_RUN,
)
FAULT_NO_MEMORY = Rule(
    "fault.no-memory",
    _REPORT,
    "iopf_group_alloc() has no memory",
    "no memory for the group: it is answered FAILURE",
    source=WAS_READ,
)
FAULT_PARTIAL_NO_MEMORY = Rule(
    "fault.partial-no-memory",
    _REPORT,
    "report_partial_fault() has no memory",
    "no memory to keep a partial request",
    Errno.ENOMEM,
    source=WAS_READ,
)
FAULT_QUEUED = Rule(
    "fault.queued", _REPORT, "domain->iopf_handler(group) == 0", "the group waits for its worker", source=WAS_RUN
)
FAULT_REFUSED_BY_HANDLER = Rule(
    "fault.handler-refused",
    _REPORT,
    "domain->iopf_handler(group) != 0",
    "the handler did not take the group: it is answered FAILURE",
    source=WAS_READ,
)
MM_NO_PASID = Rule(
    "fault.mm-no-pasid", _HANDLE_MM, "no PASID_VALID flag", "the request carries no PASID", source=WAS_READ
)
MM_EXITING = Rule("fault.mm-exiting", _HANDLE_MM, "!mmget_not_zero(mm)", "process {mm} has exited", source=WAS_RUN)
MM_NO_VMA = Rule(
    "fault.mm-no-area", _HANDLE_MM, "!vma_lookup(mm, addr)", "{mm} has no memory area at {addr:#x}", source=WAS_RUN
)
MM_RIGHTS = Rule(
    "fault.mm-rights",
    _HANDLE_MM,
    "access_flags & ~vma->vm_flags",
    "the area of {mm} at {addr:#x} does not allow that access",
    source=WAS_RUN,
)
MM_HANDLED = Rule(
    "fault.mm-handled", _HANDLE_MM, "handle_mm_fault() succeeded", "{mm} has the page at {addr:#x} now", source=WAS_RUN
)
DISCARD_NO_QUEUE = Rule(
    "fault.discard-no-queue",
    "iopf_queue_discard_partial (drivers/iommu/io-pgfault.c)",
    "!queue",
    "there is no fault queue",
    Errno.EINVAL,
    source=WAS_RUN,
)
DISCARDED = Rule(
    "fault.discarded",
    "iopf_queue_discard_partial (drivers/iommu/io-pgfault.c)",
    "the partial lists of all devices of the queue were emptied",
    "the partial requests of all devices behind this IOMMU are forgotten",
    source=WAS_RUN,
)
QUEUE_NO_RESPONSE = Rule(
    "fault.queue-no-response-op",
    "iopf_queue_add_device (drivers/iommu/io-pgfault.c)",
    "!ops->page_response",
    "the IOMMU driver of {dev} cannot answer page requests",
    Errno.ENODEV,
    source=WAS_READ,
)
QUEUE_TWICE = Rule(
    "fault.queue-twice",
    "iopf_queue_add_device (drivers/iommu/io-pgfault.c)",
    "dev->iommu->fault_param is set",
    "{dev} is in a fault queue already",
    Errno.EBUSY,
    source=WAS_READ,
)
FLUSH_NO_PARAM = Rule(
    "fault.flush-no-param",
    "iopf_queue_flush_dev (drivers/iommu/io-pgfault.c)",
    "WARN_ON(!dev->iommu->fault_param)",
    "{dev} is in no fault queue",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="nothing breaks; a kernel whose IOMMU driver asks first does not warn",
)


def iommu_report_device_fault(dev: Device, fault: Fault) -> Refusal | None:
    """Take one page request from the IOMMU driver; a refusal means that it was answered INVALID at once."""
    handle = _find_fault_handler(dev, fault)
    if handle is None:
        _answer_bad(dev, fault)
        under = "without PASID" if fault.pasid is None else f"of PASID {fault.pasid}"
        return FAULT_NO_HANDLER.refuse(dev=dev.name, under=under)
    param = dev.fault_param
    if param is None:
        dev.kernel.warn("iommu_report_device_fault", f"{dev.name} has no fault parameter")
        _answer_bad(dev, fault)
        return FAULT_NO_PARAM.refuse(dev=dev.name)
    if not fault.last:
        if dev.kernel.allocation_fails():
            return FAULT_PARTIAL_NO_MEMORY.refuse()
        param.partial.append(fault)
        dev.kernel.decided(FAULT_PARTIAL)
        return None
    group = _iopf_group_alloc(param, dev, fault, handle)
    if dev.kernel.allocation_fails():
        iopf_group_response(group, ResponseCode.FAILURE)
        dev.kernel.decided(FAULT_NO_MEMORY)
        return None
    assert handle.domain is not None
    assert handle.domain.iopf_handler is not None
    if handle.domain.iopf_handler(group):
        iopf_group_response(group, ResponseCode.FAILURE)
        dev.kernel.decided(FAULT_REFUSED_BY_HANDLER)
        return None
    dev.kernel.decided(FAULT_QUEUED)
    return None


def _find_fault_handler(dev: Device, fault: Fault) -> AttachHandle | None:
    """Return the handle of the PASID, or of key 0 for a request without; None when its domain takes no faults."""
    if dev.iommu_group is None:
        return None
    handle = iommu_attach_handle_get(dev.iommu_group, fault.pasid or 0)
    if isinstance(handle, Refusal):
        return None
    assert handle.domain is not None
    return handle if handle.domain.iopf_handler else None


def _answer_bad(dev: Device, fault: Fault) -> None:
    if fault.last or dev.kernel.profile.bad_partial_answered_at_once:
        _page_response(dev, fault, ResponseCode.INVALID)


def _page_response(dev: Device, fault: Fault, code: ResponseCode) -> None:
    if dev.iommu is not None and dev.ops.page_response is not None:
        dev.ops.page_response(dev, fault, code)


def _iopf_group_alloc(param: FaultParam, dev: Device, last: Fault, handle: AttachHandle) -> IopfGroup:
    """Join the waiting requests of the device with the same group index, in their order of arrival."""
    by_pasid = not dev.kernel.profile.partial_faults_ignore_pasid

    def joins(fault: Fault) -> bool:
        return fault.grpid == last.grpid and not (by_pasid and fault.pasid != last.pasid)

    joined = [fault for fault in param.partial if joins(fault)]
    param.partial = [fault for fault in param.partial if not joins(fault)]
    group = IopfGroup(dev, [*joined, last], handle)
    param.faults.append(group)
    return group


def iopf_group_response(group: IopfGroup, code: ResponseCode) -> None:
    """Answer a group, once; a group that its queue has already answered gets nothing."""
    param = group.dev.fault_param
    if param is None or group not in param.faults:
        return
    _page_response(group.dev, group.last_fault, code)
    param.faults.remove(group)


def iommu_sva_iopf_handler(group: IopfGroup) -> Refusal | None:
    """Queue a group for the worker (drivers/iommu/iommu-sva.c)."""
    param = group.dev.fault_param
    assert param is not None
    param.queue.work.append(group)
    return None


def run_work(queue: IopfQueue) -> None:
    """Run the queue's worker until nothing waits."""
    while queue.work:
        _iommu_sva_handle_iopf(queue.work.popleft())


def _iommu_sva_handle_iopf(group: IopfGroup) -> None:
    """Handle the requests in order; the first that fails settles the whole group."""
    domain: IommuDomain | None = group.attach_handle.domain
    assert domain is not None
    assert domain.type is DomainType.SVA
    assert domain.mm is not None
    status = ResponseCode.SUCCESS
    for fault in group.faults:
        status = iommu_sva_handle_mm(fault, domain.mm)
        if status is not ResponseCode.SUCCESS:
            break
    iopf_group_response(group, status)


def iommu_sva_handle_mm(fault: Fault, mm: MmStruct) -> ResponseCode:
    """Let the mm serve one request, with the rights of its areas."""
    kernel = mm.kernel
    if fault.pasid is None:
        kernel.decided(MM_NO_PASID)
        return ResponseCode.INVALID
    if not mmget_not_zero(mm):
        kernel.decided(MM_EXITING, mm=mm.name)
        return ResponseCode.INVALID
    try:
        return _serve(fault, mm)
    finally:
        mmput(mm)


def _serve(fault: Fault, mm: MmStruct) -> ResponseCode:
    kernel = mm.kernel
    vma = mm.vma_lookup(fault.addr)
    if vma is None:
        kernel.decided(MM_NO_VMA, mm=mm.name, addr=fault.addr)
        return ResponseCode.INVALID
    if fault.perm & _RIGHTS & ~vma.flags:
        kernel.decided(MM_RIGHTS, mm=mm.name, addr=fault.addr)
        return ResponseCode.INVALID
    handle_mm_fault(mm, fault.addr, write=bool(fault.perm & PERM_WRITE))
    kernel.decided(MM_HANDLED, mm=mm.name, addr=fault.addr)
    return ResponseCode.SUCCESS


def iopf_queue_add_device(queue: IopfQueue, dev: Device) -> Refusal | None:
    """Deliver the page requests of a device from now on."""
    if dev.ops.page_response is None:
        return QUEUE_NO_RESPONSE.refuse(dev=dev.name)
    if dev.fault_param is not None:
        return QUEUE_TWICE.refuse(dev=dev.name)
    dev.fault_param = FaultParam(queue)
    queue.devices[dev] = None
    return None


def iopf_queue_remove_device(queue: IopfQueue, dev: Device) -> None:
    """Stop delivery: waiting partial requests are forgotten, every unanswered group is answered INVALID."""
    param = dev.fault_param
    if param is None or param.queue is not queue:
        dev.kernel.warn("iopf_queue_remove_device", f"{dev.name} is not in this fault queue")
        return
    param.partial.clear()
    for group in list(param.faults):
        iopf_group_response(group, ResponseCode.INVALID)
        if group in queue.work:
            queue.work.remove(group)
    del queue.devices[dev]
    dev.fault_param = None


def iopf_queue_flush_dev(dev: Device) -> Refusal | None:
    """Run the worker of the whole queue, all devices of that IOMMU, until nothing waits."""
    if dev.fault_param is None:
        dev.kernel.warn("iopf_queue_flush_dev", f"{dev.name} is in no fault queue")
        return FLUSH_NO_PARAM.refuse(dev=dev.name)
    run_work(dev.fault_param.queue)
    return None


def iopf_queue_discard_partial(queue: IopfQueue | None) -> Refusal | None:
    """Forget the partial requests of all devices of a queue, after it overflowed."""
    if queue is None:
        return DISCARD_NO_QUEUE.refuse()
    for dev in queue.devices:
        if dev.fault_param is not None:
            dev.fault_param.partial.clear()
    return None

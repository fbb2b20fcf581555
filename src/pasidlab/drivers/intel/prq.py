"""Page requests: their queue, what the driver answers by itself, its waiting for them, and the answers that go out.

Source: drivers/iommu/intel/prq.c, Linux 6.12.117 (there in svm.c) and 7.3.4; intel_iommu_enable_iopf(),
intel_iommu_disable_iopf() (drivers/iommu/intel/iommu.c), 7.3.4.
Decided here: processes on a device without PRI are not counted when they go, as they are not when they come; kernels
between the two mends of that (2026) warn at each unbind.
Not modelled: waiting: who would wait for the queue's thread runs it; private data of page requests, which older
devices of Intel sent; the rate limit of messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab import events
from pasidlab.drivers.intel.qi import QI_DONE, desc_dev_iotlb, qi_desc_iotlb, qi_desc_piotlb, qi_submit_sync
from pasidlab.drivers.intel.structs import (
    FLPT_DEFAULT_DID,
    MAX_AGAW_PFN_WIDTH,
    VTD_PAGE_SIZE,
    DeviceDomainInfo,
    IntelIommu,
)
from pasidlab.drivers.traits import DRIVER_INVALID, RAW_CODES, STOP_MARKER
from pasidlab.errors import Errno
from pasidlab.hw.vtd.descriptors import InvalidationWait, PageGroupResponse
from pasidlab.hw.vtd.records import PAGE_REQUEST, PageRequest
from pasidlab.hw.vtd.records import ResponseCode as WireCode
from pasidlab.hw.vtd.registers import Granularity, Offset, Pqa, Pqh, Pqt, Prs
from pasidlab.linux.iopf import (
    PERM_EXEC,
    PERM_PRIV,
    PERM_READ,
    PERM_WRITE,
    Fault,
    ResponseCode,
    iommu_report_device_fault,
    iopf_queue_add_device,
    iopf_queue_discard_partial,
    iopf_queue_flush_dev,
    iopf_queue_remove_device,
)
from pasidlab.linux.structs import IOMMU_NO_PASID, DomainType, IommuDomain
from pasidlab.rules import WAS_READ, Refusal, Rule

PRQ_ORDER = 4
"""log2 of the queue's pages of 4 KiB."""
PRQ_ENT_BYTES = 32
MENDED_FAILURE = "0xF"
"""PCIe's Response Failure, as reports call it."""
_RING_BYTES = VTD_PAGE_SIZE << PRQ_ORDER
_GROUP_INDICES = 1 << PageRequest.FIELDS["prgi"].width
"""How many page request groups the wire can tell apart."""

NO_PRI = Rule(
    "intel.iopf-no-pri",
    "intel_iommu_enable_iopf (drivers/iommu/intel/iommu.c)",
    "!info->pri_enabled",
    "{dev} does not ask for pages by page requests, which its domain could take",
    Errno.ENODEV,
    source="7.3.4 (read)",
    remedy="use a device with page requests (PRI in lspci -vvv) behind a unit that takes them (ECAP.PRS), or a "
    "domain without a fault handler",
)
OVERFLOW = Rule(
    "intel.prq-overflow",
    "prq_event_thread (drivers/iommu/intel/prq.c)",
    "PRS.PRO, and the queue is empty",
    "a page request of {unit} found no room: partial requests of all its devices are forgotten",
    source=WAS_READ,
)


def intel_iommu_enable_prq(iommu: IntelIommu) -> None:
    """Give the unit a page request queue."""
    kernel = iommu.kernel
    pages = -(-_RING_BYTES >> kernel.page_shift)
    iommu.prq = kernel.page_alloc.alloc_pages((pages - 1).bit_length())
    iommu.mmio_write(Offset.PQH, 0)
    iommu.mmio_write(Offset.PQT, 0)
    iommu.mmio_write(Offset.PQA, Pqa(pqa=iommu.prq, pqs=PRQ_ORDER))


# --- who takes page requests ---------------------------------------------------------------------------------


def _counts(domain: IommuDomain | None, info: DeviceDomainInfo) -> bool:
    """Whether attachments of a domain are counted: it takes faults, but for SVA where the device sees to its own."""
    if domain is None or domain.iopf_handler is None or not info.iommu.kernel.profile.iopf_at_attach:
        return False
    return domain.type is not DomainType.SVA or info.pri_supported


def iopf_for_domain_set(domain: IommuDomain | None, info: DeviceDomainInfo) -> Refusal | None:
    """Count an attachment that takes faults; with the first the device joins the fault queue (since 6.16)."""
    if not _counts(domain, info):
        return None
    if not info.pri_enabled:
        return NO_PRI.refuse(dev=info.dev.name)
    if not info.iopf_refcount:
        refusal = iopf_queue_add_device(info.iommu.iopf_queue, info.dev)
        if refusal:
            return refusal
    info.iopf_refcount += 1
    return None


def iopf_for_domain_remove(domain: IommuDomain | None, info: DeviceDomainInfo) -> None:
    """Count an attachment less; with the last the device leaves the fault queue (since 6.16)."""
    if not _counts(domain, info):
        return
    if not info.pri_enabled or not info.iopf_refcount:
        info.iommu.kernel.warn("intel_iommu_disable_iopf", f"{info.dev.name} takes no page requests")
        return
    info.iopf_refcount -= 1
    if not info.iopf_refcount:
        iopf_queue_remove_device(info.iommu.iopf_queue, info.dev)


def iopf_for_domain_replace(new: IommuDomain | None, old: IommuDomain | None, info: DeviceDomainInfo) -> Refusal | None:
    """Count the new domain's attachment before the old one's goes."""
    refusal = iopf_for_domain_set(new, info)
    if refusal:
        return refusal
    iopf_for_domain_remove(old, info)
    return None


# --- the queue -----------------------------------------------------------------------------------------------


def _waiting(iommu: IntelIommu) -> Iterator[PageRequest]:
    """Yield the requests in the queue, the oldest first, and leave them there."""
    assert iommu.prq is not None
    head, tail = Pqh(iommu.mmio_read(Offset.PQH)).pqh, Pqt(iommu.mmio_read(Offset.PQT)).pqt
    while head != tail:
        entry = iommu.kernel.memory.load(iommu.prq + head, PRQ_ENT_BYTES)
        if entry is not None:
            yield PageRequest.unpack(entry)
        head = (head + PRQ_ENT_BYTES) % _RING_BYTES


def prq_event_thread(iommu: IntelIommu) -> None:
    """Take all requests of the queue, free its places, and see to an overflow."""
    iommu.mmio_write(Offset.PRS, Prs(ppr=True))
    tail = Pqt(iommu.mmio_read(Offset.PQT)).pqt
    for request in list(_waiting(iommu)):
        _take(iommu, request)
    iommu.mmio_write(Offset.PQH, Pqh(pqh=tail))
    if Prs(iommu.mmio_read(Offset.PRS)).pro and not any(_waiting(iommu)):
        iopf_queue_discard_partial(iommu.iopf_queue)
        iommu.kernel.decided(OVERFLOW, unit=iommu.name)
        iommu.mmio_write(Offset.PRS, Prs(pro=True))


def _take(iommu: IntelIommu, request: PageRequest) -> None:
    """Hand one request to the core, unless the driver settles it by itself."""
    info = iommu.device_rbtree.get(request.rid)
    iommu.reported = None
    if _is_bad(iommu, request):
        _handle_bad_prq_event(iommu, info, request)
    elif request.lpig and not request.rd and not request.wr:
        iommu.kernel.decided(STOP_MARKER)
    elif info is None:
        _handle_bad_prq_event(iommu, info, request)
    else:
        iommu.reported = iommu_report_device_fault(info.dev, prq_fault(request))


def _is_bad(iommu: IntelIommu, request: PageRequest) -> bool:
    """Whether the driver answers INVALID: without PASID (until 6.12), not canonical, privileged, execute and read."""
    if not request.pp and iommu.kernel.profile.vtd_prq_needs_pasid:
        return True
    if not _is_canonical_address(request.addr, iommu.kernel.pgtable.va_bits):
        return True
    return (request.pr and (request.rd or request.wr)) or (request.exe and request.rd)


def _is_canonical_address(addr: int, va_bits: int) -> bool:
    upper = addr >> va_bits - 1
    return upper in (0, (1 << 64 - va_bits + 1) - 1)


def prq_fault(request: PageRequest) -> Fault:
    """Return the core's form of a request (intel_prq_report())."""
    rights = ((request.rd, PERM_READ), (request.wr, PERM_WRITE), (request.exe, PERM_EXEC), (request.pr, PERM_PRIV))
    perm = sum(bit for asked, bit in rights if asked)
    return Fault(request.pasid if request.pp else None, request.addr, perm, request.lpig, request.prgi)


def prq_request(source_id: int, fault: Fault) -> PageRequest:
    """Return the descriptor that says the same as a fault, as if the device had sent it."""
    return PageRequest(
        type=PAGE_REQUEST,
        pp=fault.pasid is not None,
        rid=source_id,
        pasid=fault.pasid or 0,
        exe=bool(fault.perm & PERM_EXEC),
        pr=bool(fault.perm & PERM_PRIV),
        rd=bool(fault.perm & PERM_READ),
        wr=bool(fault.perm & PERM_WRITE),
        lpig=fault.last,
        prgi=fault.grpid % _GROUP_INDICES,
        addr=fault.addr & -VTD_PAGE_SIZE,
    )


def _handle_bad_prq_event(iommu: IntelIommu, info: DeviceDomainInfo | None, request: PageRequest) -> None:
    """Answer INVALID where the last of a group waits for an answer."""
    if request.lpig:
        response = PageGroupResponse.make(
            pp=request.pp,
            rc=WireCode.INVALID,
            rid=request.rid,
            pasid=request.pasid,
            lpig=True,
            prgi=request.prgi,
        )
        qi_submit_sync(iommu, (response,))
        if info is not None:
            _report_response(info, prq_fault(request), ResponseCode.INVALID, RAW_CODES[ResponseCode.INVALID])
    iommu.kernel.decided(DRIVER_INVALID)


# --- waiting for requests that are under way -----------------------------------------------------------------


def intel_iommu_drain_pasid_prq(info: DeviceDomainInfo, pasid: int) -> None:
    """Wait until no request of (device, PASID) waits in software or hardware; the entry is gone already.

    The invalidations name the domain of the traffic without PASID, which is what the kernel puts there.
    """
    iommu = info.iommu
    if not _takes_page_requests(info):
        return
    while any(_is_for(request, info, pasid) for request in _waiting(iommu)):
        prq_event_thread(iommu)
    iopf_queue_flush_dev(info.dev)
    did = FLPT_DEFAULT_DID if info.domain is None else info.domain.did_on(iommu)
    by_pasid = pasid != IOMMU_NO_PASID
    descs = (
        InvalidationWait.make(fn=True, stdata=QI_DONE),
        qi_desc_piotlb(did, pasid) if by_pasid else qi_desc_iotlb(iommu, did, 0, 0, Granularity.DOMAIN),
        desc_dev_iotlb(info, pasid, 0, MAX_AGAW_PFN_WIDTH),
    )
    while True:
        qi_submit_sync(iommu, descs, drain=True)
        if not Prs(iommu.mmio_read(Offset.PRS)).pro:
            return
        prq_event_thread(iommu)


def _takes_page_requests(info: DeviceDomainInfo) -> bool:
    """Whether there is anything to wait for: attachments with a fault handler; before 6.16, PRI is on."""
    return bool(info.iopf_refcount) if info.iommu.kernel.profile.iopf_at_attach else info.pri_enabled


def _is_for(request: PageRequest, info: DeviceDomainInfo, pasid: int) -> bool:
    asked = request.pasid if request.pp else IOMMU_NO_PASID
    return request.rid == info.source_id and asked == pasid


# --- answers -------------------------------------------------------------------------------------------------


def intel_iommu_page_response(info: DeviceDomainInfo, fault: Fault, code: ResponseCode) -> None:
    """Answer a group; the core's code goes out as it is, FAILURE too, which PCIe calls otherwise."""
    mended = code is ResponseCode.FAILURE and not info.iommu.kernel.profile.failure_sent_raw
    response = PageGroupResponse.make(
        pp=fault.pasid is not None,
        rc=WireCode.FAILURE if mended else code,
        rid=info.source_id,
        pasid=fault.pasid or 0,
        lpig=fault.last,
        prgi=fault.grpid % _GROUP_INDICES,
    )
    qi_submit_sync(info.iommu, (response,))
    _report_response(info, fault, code, MENDED_FAILURE if mended else RAW_CODES[code])


def _report_response(info: DeviceDomainInfo, fault: Fault, code: ResponseCode, wire: str) -> None:
    kernel = info.iommu.kernel
    if kernel.observers:
        kernel.emit(events.PageResponded(info.dev.name, fault.pasid or 0, fault.grpid, code, wire))

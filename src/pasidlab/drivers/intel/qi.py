"""The invalidation queue from the driver's side: build descriptors, submit them, wait, handle errors.

Source: qi_submit_sync(), qi_check_fault(), the qi_desc_ and qi_flush_ functions (drivers/iommu/intel/dmar.c, iommu.h),
Linux 6.12.117 and 7.3.4.
Decided here: a device that never answers is given up after MOST_RESTARTS, where the kernel goes on for ever.
Not modelled: several submissions at a time, so that the reclaiming of slots and the abortion of other submissions'
wait descriptors have nothing to do; throttling (the physical function in an invalidation is 0); the register interface
that the kernel falls back to without queued invalidation; write buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

from pasidlab.drivers.intel.structs import (
    ATS_QUEUE_DEPTH,
    MAX_AGAW_PFN_WIDTH,
    VTD_PAGE_SHIFT,
    DeviceDomainInfo,
    IntelIommu,
)
from pasidlab.errors import Errno, ModelError
from pasidlab.hw.vtd.descriptors import (
    ContextCacheInvalidate,
    Descriptor,
    DeviceTlbInvalidate,
    InvalidationWait,
    IotlbInvalidate,
    PasidCacheGranularity,
    PasidCacheInvalidate,
    PasidDeviceTlbInvalidate,
    PasidIotlbGranularity,
    PasidIotlbInvalidate,
)
from pasidlab.hw.vtd.registers import Fsts, Granularity, Iqer, Iqh, Offset, QueueError
from pasidlab.linux.structs import IOMMU_NO_PASID
from pasidlab.rules import WAS_READ, Refusal, Rule

QI_LENGTH = 256
"""Descriptors of the queue."""
QI_DONE = 2
QI_IN_USE = 1
DESC_STATUS_BYTES = 4
MOST_RESTARTS = 8

INVALID_DESCRIPTOR = Rule(
    "intel.qi-invalid-descriptor",
    "qi_check_fault (drivers/iommu/intel/dmar.c)",
    "FSTS.IQE, and IQH is at the first descriptor of the submission",
    "{unit} does not take an invalidation descriptor ({error}); a wait descriptor is put in its place",
    Errno.EINVAL,
    source=WAS_READ,
)
DEVICE_GONE = Rule(
    "intel.qi-device-gone",
    "qi_check_fault (drivers/iommu/intel/dmar.c)",
    "FSTS.ITE, and IQER.ITESID is no device that the driver has probed",
    "an invalidation of {unit} timed out: source {source:#x} is no device any more",
    Errno.ETIMEDOUT,
    source=WAS_READ,
)
DEVICE_SILENT = Rule(
    "intel.qi-device-silent",
    "qi_check_fault (drivers/iommu/intel/dmar.c)",
    "FSTS.ITE again after each of {times} submissions",
    "{unit}: source {source:#x} does not answer invalidations; the kernel would repeat them for ever",
    Errno.ETIMEDOUT,
    source=WAS_READ,
)


# --- submission ----------------------------------------------------------------------------------------------


def qi_submit_sync(iommu: IntelIommu, descs: Sequence[Descriptor], *, drain: bool = False) -> Refusal | None:
    """Write descriptors and a wait descriptor, publish them, and see that they are done; repeat after a time-out.

    `drain` is QI_OPT_WAIT_DRAIN: page requests under way come into their queue first.
    """
    outcome: Refusal | int | None = None
    for _ in range(MOST_RESTARTS):
        outcome = _submit(iommu, descs, drain)
        if not isinstance(outcome, int):
            return outcome
    return _warned(iommu, DEVICE_SILENT.refuse(unit=iommu.name, source=outcome, times=MOST_RESTARTS))


def _submit(iommu: IntelIommu, descs: Sequence[Descriptor], drain: bool) -> Refusal | int | None:
    """Submit once; the source of a device that did not answer in time means: repeat."""
    index = iommu.qi.free_head
    wait_index = (index + len(descs)) % QI_LENGTH
    for place, desc in enumerate((*descs, _wait_desc(iommu, wait_index, drain))):
        _write_desc(iommu, (index + place) % QI_LENGTH, desc)
    _set_status(iommu, wait_index, QI_IN_USE)
    iommu.qi.free_head = (wait_index + 1) % QI_LENGTH
    iommu.mmio_write(Offset.IQT, iommu.qi.free_head << qi_shift(iommu))
    return None if _status(iommu, wait_index) == QI_DONE else qi_check_fault(iommu, index, wait_index)


def qi_check_fault(iommu: IntelIommu, index: int, wait_index: int) -> Refusal | int | None:
    """See why a submission is not done; the source that did not answer is a submission to be repeated."""
    fault = Fsts(iommu.mmio_read(Offset.FSTS))
    if fault.iqe:
        return _replace_descriptor(iommu, index, wait_index)
    if fault.ite:
        source = Iqer(iommu.mmio_read(Offset.IQER)).itesid
        iommu.mmio_write(Offset.FSTS, Fsts(ite=True))
        if source and source not in iommu.device_rbtree:
            return _warned(iommu, DEVICE_GONE.refuse(unit=iommu.name, source=source))
        return source
    raise ModelError(f"the invalidation queue of {iommu.name} stands still without an error")


def _replace_descriptor(iommu: IntelIommu, index: int, wait_index: int) -> Refusal:
    """Put the wait descriptor where the queue stopped, and let it go on."""
    if Iqh(iommu.mmio_read(Offset.IQH)).qh >> qi_shift(iommu) != index:
        raise ModelError(f"the invalidation queue of {iommu.name} stopped where the kernel does not look")
    error = Iqer(iommu.mmio_read(Offset.IQER)).iqei
    name = QueueError(error).name
    _write_desc(iommu, index, _wait_desc(iommu, wait_index, drain=False))
    iommu.mmio_write(Offset.FSTS, Fsts(iqe=True))
    return _warned(iommu, INVALID_DESCRIPTOR.refuse(unit=iommu.name, error=name))


def _warned(iommu: IntelIommu, refusal: Refusal) -> Refusal:
    """Print an error that most callers do not look at."""
    iommu.kernel.warn("qi_submit_sync", refusal.why)
    return refusal


def qi_shift(iommu: IntelIommu) -> int:
    """Return log2 of the bytes of a descriptor."""
    return 5 if iommu.ecap.smts else 4


def _write_desc(iommu: IntelIommu, index: int, desc: Descriptor) -> None:
    size = 1 << qi_shift(iommu)
    if not iommu.kernel.memory.store(iommu.qi.desc + index * size, desc.pack()[:size]):
        raise ModelError(f"the invalidation queue of {iommu.name} cannot be written")


def _wait_desc(iommu: IntelIommu, wait_index: int, drain: bool) -> InvalidationWait:
    status = iommu.qi.desc_status + DESC_STATUS_BYTES * wait_index
    return InvalidationWait.make(sw=True, stdata=QI_DONE, staddr=status, pd=drain)


def _set_status(iommu: IntelIommu, index: int, status: int) -> None:
    place = iommu.qi.desc_status + DESC_STATUS_BYTES * index
    iommu.kernel.memory.store(place, status.to_bytes(DESC_STATUS_BYTES, "little"))


def _status(iommu: IntelIommu, index: int) -> int:
    data = iommu.kernel.memory.load(iommu.qi.desc_status + DESC_STATUS_BYTES * index, DESC_STATUS_BYTES)
    return int.from_bytes(data or b"", "little")


# --- descriptors ---------------------------------------------------------------------------------------------


def qi_desc_iotlb(iommu: IntelIommu, did: int, addr: int, size_order: int, granularity: Granularity) -> IotlbInvalidate:
    """IOTLB invalidation: global, of a domain, or of 2^size_order pages of a domain; drained where that is possible."""
    cap = iommu.cap
    return IotlbInvalidate.make(g=granularity, dw=cap.dwd, dr=cap.drd, did=did, am=size_order, addr=addr)


def qi_desc_piotlb(did: int, pasid: int, addr: int = 0, size_order: int | None = None) -> PasidIotlbInvalidate:
    """PASID-based IOTLB invalidation, of a whole PASID (None) or of 2^size_order pages in it, tables included."""
    if size_order is None:
        return PasidIotlbInvalidate.make(g=PasidIotlbGranularity.PASID, did=did, pasid=pasid)
    return PasidIotlbInvalidate.make(g=PasidIotlbGranularity.PAGES, did=did, pasid=pasid, am=size_order, addr=addr)


def _sized(addr: int, size_order: int) -> int:
    """Return an address that says a size of 2^size_order pages: its bits below the size's are 1, but the topmost."""
    low = (1 << VTD_PAGE_SHIFT + size_order - 1) - 1 if size_order else 0
    return (addr | low) >> VTD_PAGE_SHIFT << VTD_PAGE_SHIFT


def qi_desc_dev_iotlb(source_id: int, addr: int, size_order: int) -> DeviceTlbInvalidate:
    """Device-TLB invalidation, of what was requested without PASID."""
    return DeviceTlbInvalidate.make(sid=source_id, mip=ATS_QUEUE_DEPTH, s=size_order > 0, addr=_sized(addr, size_order))


def qi_desc_dev_iotlb_pasid(source_id: int, pasid: int, addr: int, size_order: int) -> PasidDeviceTlbInvalidate:
    """PASID-based device-TLB invalidation."""
    return PasidDeviceTlbInvalidate.make(
        sid=source_id, pasid=pasid, mip=ATS_QUEUE_DEPTH, s=size_order > 0, addr=_sized(addr, size_order)
    )


def desc_dev_iotlb(info: DeviceDomainInfo, pasid: int, addr: int, size_order: int) -> Descriptor:
    """Return the device-TLB invalidation for a PASID, or for what comes without (IOMMU_NO_PASID)."""
    if pasid == IOMMU_NO_PASID:
        return qi_desc_dev_iotlb(info.source_id, addr, size_order)
    return qi_desc_dev_iotlb_pasid(info.source_id, pasid, addr, size_order)


# --- flushes -------------------------------------------------------------------------------------------------


def qi_flush_context(iommu: IntelIommu, did: int, source_id: int, granularity: Granularity) -> None:
    """Forget context entries."""
    qi_submit_sync(iommu, (ContextCacheInvalidate.make(g=granularity, did=did, sid=source_id),))


def qi_flush_pasid_cache(iommu: IntelIommu, did: int, granularity: PasidCacheGranularity, pasid: int) -> None:
    """Forget PASID entries."""
    qi_submit_sync(iommu, (PasidCacheInvalidate.make(g=granularity, did=did, pasid=pasid),))


def qi_flush_iotlb(iommu: IntelIommu, did: int, granularity: Granularity) -> None:
    """Forget translations, all or of a domain (flush.flush_iotlb)."""
    qi_submit_sync(iommu, (qi_desc_iotlb(iommu, did, 0, 0, granularity),))


def qi_flush_piotlb(iommu: IntelIommu, did: int, pasid: int) -> None:
    """Forget the translations of a PASID."""
    qi_submit_sync(iommu, (qi_desc_piotlb(did, pasid),))


def qi_flush_dev_iotlb(info: DeviceDomainInfo, pasid: int) -> None:
    """Empty the device TLB for a PASID, or for what comes without; not while nothing is translated."""
    if info.iommu.gcmd.te:
        qi_submit_sync(info.iommu, (desc_dev_iotlb(info, pasid, 0, MAX_AGAW_PFN_WIDTH),))

"""One remapping unit from capability registers to a running translation, and the faults that it records.

The driver reaches the hardware through registers and memory only.

Source: alloc_iommu(), dmar_enable_qi(), dmar_set_interrupt(), dmar_fault() (drivers/iommu/intel/dmar.c), init_dmars(),
iommu_set_root_entry(), iommu_enable_translation(), __iommu_calculate_agaw() (drivers/iommu/intel/iommu.c), Linux
6.12.117 and 7.3.4.
Decided here: units come up one after the other, each before the first device is probed, so that translation is on when
devices are met; the kernel switches it on when it has met those of its boot.
Not modelled: tables taken over from an earlier kernel, advanced fault logs, interrupt remapping, the vectors of
interrupts, power management.
"""

from __future__ import annotations

from pasidlab import events
from pasidlab.drivers.intel.cap_audit import CapAudit
from pasidlab.drivers.intel.prq import intel_iommu_enable_prq
from pasidlab.drivers.intel.qi import (
    DESC_STATUS_BYTES,
    QI_LENGTH,
    qi_flush_context,
    qi_flush_iotlb,
    qi_flush_pasid_cache,
)
from pasidlab.drivers.intel.structs import (
    IntelIommu,
    QInval,
    Registers,
)
from pasidlab.drivers.intel.svm import intel_svm_check
from pasidlab.errors import InputError, ModelError
from pasidlab.hw.vtd.descriptors import PasidCacheGranularity
from pasidlab.hw.vtd.records import FaultRecord
from pasidlab.hw.vtd.registers import (
    Cap,
    Ecap,
    EventAddress,
    EventControl,
    EventData,
    EventUpperAddress,
    Fsts,
    Gcmd,
    Granularity,
    Gsts,
    Iqa,
    Offset,
    Rtaddr,
    Ttm,
)
from pasidlab.linux.kernel import Kernel

WIDEST_AGAW = 3
"""DEFAULT_DOMAIN_ADDRESS_WIDTH, 57 bits, as AW says it."""
FAULT_RECORD_BYTES = 16
MSI_ADDRESS = 0xFEE0_0000
FAULT_VECTOR, PRQ_VECTOR = 0x20, 0x21
_FIRST_LEVEL_AGAWS = 1 << 2
_FIRST_LEVEL_5_AGAW = 1 << 3


# --- bring-up ------------------------------------------------------------------------------------------------


def intel_iommu_init(kernel: Kernel, name: str, registers: Registers, audit: CapAudit) -> IntelIommu:
    """Read the capability registers, make root table and queues, and switch translation on."""
    cap = Cap(registers.mmio_read(Offset.CAP, 8))
    ecap = Ecap(registers.mmio_read(Offset.ECAP, 8))
    audit.add(kernel, name, cap, ecap)
    qi = QInval(
        desc=_alloc_bytes(kernel, QI_LENGTH * (32 if ecap.smts else 16)),
        desc_status=_alloc_bytes(kernel, QI_LENGTH * DESC_STATUS_BYTES),
    )
    agaw = iommu_calculate_agaw(name, cap, ecap)
    iommu = IntelIommu(
        kernel, name, registers, audit, cap, ecap, agaw, root_entry=kernel.page_alloc.alloc_page(), qi=qi
    )
    dmar_enable_qi(iommu)
    intel_svm_check(iommu)
    iommu_set_root_entry(iommu)
    if ecap.prs:
        intel_iommu_enable_prq(iommu)
        _set_interrupt(iommu, Offset.PECTL, PRQ_VECTOR)
    _set_interrupt(iommu, Offset.FECTL, FAULT_VECTOR)
    iommu_enable_translation(iommu)
    return iommu


def _alloc_bytes(kernel: Kernel, size: int) -> int:
    pages = -(-size >> kernel.page_shift)
    return kernel.page_alloc.alloc_pages((pages - 1).bit_length())


def iommu_calculate_agaw(name: str, cap: Cap, ecap: Ecap) -> int:
    """Return the widest tables that the unit walks, in both stages where it has two; InputError when there is none."""
    stages = [cap.sagaw] if ecap.ssts or not ecap.smts else []
    if ecap.smts and ecap.fsts:
        stages.append(_FIRST_LEVEL_AGAWS | (_FIRST_LEVEL_5_AGAW if cap.fs5lp else 0))
    for agaw in range(WIDEST_AGAW, 0, -1):
        if stages and all(stage >> agaw & 1 for stage in stages):
            return agaw
    raise InputError(f"remapping unit {name!r}: its stages have no number of levels in common; allowed are 3, 4 and 5")


def _issue(iommu: IntelIommu, command: Gcmd, done: Gsts, *, stays: bool) -> None:
    """Write GCMD, with what is on already, and see in GSTS that it took."""
    iommu.mmio_write(Offset.GCMD, Gcmd(iommu.gcmd | command))
    if stays:
        iommu.gcmd = Gcmd(iommu.gcmd | command)
    if not iommu.mmio_read(Offset.GSTS) & done:
        raise ModelError(f"{iommu.name} does not carry out {command!r}")


def dmar_enable_qi(iommu: IntelIommu) -> None:
    """Switch the invalidation queue on; in scalable mode its descriptors have 256 bits."""
    wide = iommu.ecap.smts
    iommu.mmio_write(Offset.IQT, 0)
    iommu.mmio_write(Offset.IQA, Iqa(iqa=iommu.qi.desc, dw=wide, qs=1 if wide else 0))
    _issue(iommu, Gcmd(qie=True), Gsts(qies=True), stays=True)


def iommu_set_root_entry(iommu: IntelIommu) -> None:
    """Set the root table, and forget everything unless the unit does so by itself."""
    mode = Ttm.SCALABLE if iommu.sm_supported else Ttm.LEGACY
    iommu.mmio_write(Offset.RTADDR, Rtaddr(rta=iommu.root_entry, ttm=mode))
    _issue(iommu, Gcmd(srtp=True), Gsts(rtps=True), stays=False)
    if iommu.cap.esrtps:
        return
    qi_flush_context(iommu, 0, 0, Granularity.GLOBAL)
    if iommu.sm_supported:
        qi_flush_pasid_cache(iommu, 0, PasidCacheGranularity.GLOBAL, 0)
    qi_flush_iotlb(iommu, 0, Granularity.GLOBAL)


def _set_interrupt(iommu: IntelIommu, control: Offset, vector: int) -> None:
    """dmar_set_interrupt(), and what enabling the page request queue does for its own: write the message, unmask."""
    for step, value in enumerate((EventData(imd=vector), EventAddress(ma=MSI_ADDRESS), EventUpperAddress()), start=1):
        iommu.mmio_write(Offset(control + 4 * step), value)
    iommu.mmio_write(control, EventControl(im=False))


def iommu_enable_translation(iommu: IntelIommu) -> None:
    """Set TE."""
    _issue(iommu, Gcmd(te=True), Gsts(tes=True), stays=True)


# --- faults --------------------------------------------------------------------------------------------------


def dmar_fault(iommu: IntelIommu) -> None:
    """Take the recorded faults, the oldest first: print and acknowledge them. What stops the queue is not for here."""
    fsts = Fsts(iommu.mmio_read(Offset.FSTS))
    if not fsts.ppf:
        return
    records = iommu.cap.nfr + 1
    for step in range(records):
        record = _take_record(iommu, (fsts.fri + step) % records)
        if record is None:
            break
        _print_fault(iommu, record)
    iommu.mmio_write(Offset.FSTS, Fsts(pfo=True, ppf=True))


def _take_record(iommu: IntelIommu, index: int) -> FaultRecord | None:
    """Read a fault recording register and free it; None when it is empty."""
    place = iommu.cap.fro * 16 + FAULT_RECORD_BYTES * index
    words = [iommu.registers.mmio_read(place + 4 * word, 4) for word in range(4)]
    record = FaultRecord.unpack(b"".join(word.to_bytes(4, "little") for word in words))
    if not record.f:
        return None
    iommu.registers.mmio_write(place + 12, FaultRecord.mask("f") >> 96, 4)
    return record


def _print_fault(iommu: IntelIommu, record: FaultRecord) -> None:
    if iommu.kernel.observers:
        name = FaultRecord.FIELDS["fr"].names.get(record.fr, f"{record.fr:#04x}")
        info = iommu.device_rbtree.get(record.sid)
        device = "" if info is None else info.dev.name
        pasid = record.pv if record.pp else None
        iommu.kernel.emit(events.DmarFault(iommu.name, device, name, record.sid, pasid, record.words))

"""Root and context tables: scalable mode, where a context entry leads to a PASID directory, and legacy mode.

Source: iommu_context_addr(), domain_context_mapping_one(), context_setup_pass_through(), domain_context_clear_one()
(drivers/iommu/intel/iommu.c), intel_pasid_setup_sm_context(), intel_context_flush_no_pasid()
(drivers/iommu/intel/pasid.c), Linux 6.12.117 and 7.3.4.
Not modelled: tables taken over from an earlier kernel, aliases of devices, the tearing down of a device's scalable
context entry when the device goes.
"""

from __future__ import annotations

from pasidlab.drivers.intel.pasid import context_get_sm_pds
from pasidlab.drivers.intel.qi import qi_flush_context, qi_flush_dev_iotlb, qi_flush_iotlb
from pasidlab.drivers.intel.structs import FLPT_DEFAULT_DID, DeviceDomainInfo, DmarDomain, IntelIommu
from pasidlab.errors import ModelError
from pasidlab.hw.vtd.registers import Granularity
from pasidlab.hw.vtd.structures import (
    AddressWidth,
    ContextEntry,
    RootEntry,
    ScalableContextEntry,
    TranslationType,
)
from pasidlab.linux.structs import IOMMU_NO_PASID

ROOT_ENTRY_BYTES = 16
CONTEXT_BYTES = {True: ScalableContextEntry.SIZE // 8, False: ContextEntry.SIZE // 8}
"""Bytes of a context entry, in scalable mode or not."""
NOT_PRESENT_DID = 0
"""Under which a unit in caching mode remembers entries that are not there."""


def iommu_context_addr(iommu: IntelIommu, source_id: int) -> int:
    """Return where the context entry of a source lies, its table made on demand.

    In scalable mode each half of a root entry leads to the table of 128 of a bus's 256 functions.
    """
    bus, devfn = source_id >> 8, source_id & 0xFF
    slot, index = iommu.root_entry + ROOT_ENTRY_BYTES * bus, devfn
    if iommu.sm_supported:
        slot, index = slot + 8 * (devfn >> 7), devfn & 0x7F
    entry = RootEntry(iommu.kernel.memory.load64(slot) or 0)
    if not entry.p:
        entry = RootEntry(p=True, ctp=iommu.kernel.page_alloc.alloc_page())
        iommu.kernel.memory.store64(slot, entry)
    return entry.ctp + CONTEXT_BYTES[iommu.sm_supported] * index


def _store(iommu: IntelIommu, place: int, entry: ContextEntry | ScalableContextEntry) -> None:
    if not iommu.kernel.memory.store(place, entry.pack()):
        raise ModelError(f"the context table of {iommu.name} at {place:#x} cannot be written")


# --- scalable mode -------------------------------------------------------------------------------------------


def intel_pasid_setup_sm_context(info: DeviceDomainInfo) -> None:
    """Lead a device's requests to its PASID directory, once; what it supports decides, not what is on yet."""
    iommu, table = info.iommu, info.pasid_table
    assert table is not None
    entry = ScalableContextEntry(
        p=True,
        dte=info.ats_supported,
        paside=info.pasid_supported,
        pre=info.pri_supported,
        pdts=context_get_sm_pds(table),
        pasiddirptr=table.table,
        rid_pasid=IOMMU_NO_PASID,
    )
    _store(iommu, iommu_context_addr(iommu, info.source_id), entry)
    _flush_not_present(info, NOT_PRESENT_DID)


def _flush_not_present(info: DeviceDomainInfo, did: int) -> None:
    """Forget that a context entry was not there, which only a unit in caching mode remembers."""
    if info.iommu.cap.cm:
        qi_flush_context(info.iommu, NOT_PRESENT_DID, info.source_id, Granularity.SELECTIVE)
        qi_flush_iotlb(info.iommu, did, Granularity.DOMAIN)


# --- legacy mode ---------------------------------------------------------------------------------------------


def domain_context_mapping(domain: DmarDomain, info: DeviceDomainInfo) -> None:
    """Let a device's requests translate by a domain's second-stage table."""
    assert domain.table is not None
    kind = TranslationType.ALL if info.ats_supported else TranslationType.UNTRANSLATED_ONLY
    entry = ContextEntry(
        p=True, tt=kind, ssptptr=domain.table.pgd, aw=AddressWidth(domain.agaw), did=domain.did_on(info.iommu)
    )
    _store(info.iommu, iommu_context_addr(info.iommu, info.source_id), entry)
    _flush_not_present(info, entry.did)


def context_setup_pass_through(info: DeviceDomainInfo) -> None:
    """Let a device's requests pass."""
    width = AddressWidth(info.iommu.agaw)
    entry = ContextEntry(p=True, tt=TranslationType.PASS_THROUGH, aw=width, did=FLPT_DEFAULT_DID)
    _store(info.iommu, iommu_context_addr(info.iommu, info.source_id), entry)
    _flush_not_present(info, entry.did)


def domain_context_clear(info: DeviceDomainInfo) -> None:
    """Take a device's context entry away, and forget what was cached by it."""
    iommu = info.iommu
    place = iommu_context_addr(iommu, info.source_id)
    data = iommu.kernel.memory.load(place, CONTEXT_BYTES[False])
    entry = ContextEntry.unpack(data or b"")
    if not entry.p:
        return
    _store(iommu, place, ContextEntry())
    qi_flush_context(iommu, entry.did, info.source_id, Granularity.SELECTIVE)
    qi_flush_iotlb(iommu, entry.did, Granularity.DOMAIN)
    if info.ats_enabled:
        qi_flush_dev_iotlb(info, IOMMU_NO_PASID)

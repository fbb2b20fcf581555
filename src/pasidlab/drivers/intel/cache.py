"""Who caches what a domain maps, and the flushing of all of them.

Source: drivers/iommu/intel/cache.c, Linux 6.12.117 and 7.3.4.
Decided here: a range of more pages than CAP.MAMV allows flushes a whole PASID, as it flushes a whole domain of the
second stage; the code that was read looks at the second stage only.
Not modelled: nested domains, devices that need each invalidation twice (dtlb_extra_inval), the flush of ranges that
become present (there is nothing to flush without caching mode, and domains are mapped before they are attached).
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.drivers.intel.qi import desc_dev_iotlb, qi_desc_iotlb, qi_desc_piotlb, qi_submit_sync
from pasidlab.drivers.intel.structs import (
    MAX_AGAW_PFN_WIDTH,
    VTD_PAGE_SHIFT,
    CacheTag,
    CacheTagType,
    DeviceDomainInfo,
    DmarDomain,
    IntelIommu,
)
from pasidlab.hw.vtd.descriptors import Descriptor
from pasidlab.hw.vtd.registers import Granularity

QI_MAX_BATCHED_DESC_COUNT = 16
_U64 = (1 << 64) - 1


def _tags(domain: DmarDomain, info: DeviceDomainInfo, pasid: int) -> list[CacheTag]:
    """Return where an attachment is cached: in the unit, and in the device where that has its own TLB."""
    did = domain.did_on(info.iommu)
    tags = [CacheTag(CacheTagType.IOTLB, info.iommu, did, pasid)]
    if info.ats_enabled:
        tags.append(devtlb_tag(domain, info, pasid))
    return tags


def devtlb_tag(domain: DmarDomain, info: DeviceDomainInfo, pasid: int) -> CacheTag:
    """Return the tag of a device's TLB."""
    return CacheTag(CacheTagType.DEVTLB, info.iommu, domain.did_on(info.iommu), pasid, info)


def cache_tag_assign(domain: DmarDomain, tag: CacheTag) -> None:
    """Let a domain flush a place, from its first user on."""
    domain.cache_tags[tag] = domain.cache_tags.get(tag, 0) + 1


def cache_tag_assign_domain(domain: DmarDomain, info: DeviceDomainInfo, pasid: int) -> None:
    """Let a domain flush where an attachment is cached."""
    for tag in _tags(domain, info, pasid):
        cache_tag_assign(domain, tag)


def cache_tag_unassign_domain(domain: DmarDomain, info: DeviceDomainInfo, pasid: int) -> None:
    """Let a domain forget an attachment's places, with the last user of each."""
    for tag in _tags(domain, info, pasid):
        users = domain.cache_tags.get(tag, 0)
        if users > 1:
            domain.cache_tags[tag] = users - 1
        else:
            domain.cache_tags.pop(tag, None)


def calculate_psi_aligned_address(start: int, end: int) -> tuple[int, int]:
    """Return address and log2 of the pages of the smallest aligned block that holds [start, end]."""
    first, last = start >> VTD_PAGE_SHIFT, end >> VTD_PAGE_SHIFT
    mask = (last - first).bit_length()
    bitmask = (1 << mask) - 1
    if first & bitmask:
        shared_bits = ~(first ^ last) & ~bitmask & _U64
        mask = (shared_bits & -shared_bits).bit_length() - 1 if shared_bits else MAX_AGAW_PFN_WIDTH
        mask = min(mask, MAX_AGAW_PFN_WIDTH)
    return start >> VTD_PAGE_SHIFT + mask << VTD_PAGE_SHIFT + mask, mask


def cache_tag_flush_range(domain: DmarDomain, start: int, end: int) -> None:
    """Forget [start, end], the last byte included, wherever the domain is cached."""
    addr, mask = calculate_psi_aligned_address(start, end)
    _flush(domain, addr, mask)


def cache_tag_flush_all(domain: DmarDomain) -> None:
    """Forget everything of the domain."""
    _flush(domain, 0, None)


def _flush(domain: DmarDomain, addr: int, mask: int | None) -> None:
    """Flush 2^mask pages, or everything (None): a submission per unit, of at most a batch's descriptors."""
    for iommu in dict.fromkeys(tag.iommu for tag in domain.cache_tags):
        tags = [tag for tag in domain.cache_tags if tag.iommu is iommu]
        descs = [desc for tag in tags for desc in _descs(domain, tag, addr, mask)]
        for at in range(0, len(descs), QI_MAX_BATCHED_DESC_COUNT):
            qi_submit_sync(iommu, descs[at : at + QI_MAX_BATCHED_DESC_COUNT])


def _descs(domain: DmarDomain, tag: CacheTag, addr: int, mask: int | None) -> Iterator[Descriptor]:
    """Yield what flushes one place; nothing for a device while nothing is translated."""
    if tag.type is CacheTagType.IOTLB:
        yield _flush_iotlb(domain, tag.iommu, tag, addr, mask)
    elif tag.iommu.gcmd.te:
        assert tag.info is not None
        yield desc_dev_iotlb(tag.info, tag.pasid, addr, MAX_AGAW_PFN_WIDTH if mask is None else mask)


def _flush_iotlb(domain: DmarDomain, iommu: IntelIommu, tag: CacheTag, addr: int, mask: int | None) -> Descriptor:
    """First stage by PASID, second stage by domain; page-selective where the unit takes so many pages."""
    everything = mask is None or mask > iommu.cap.mamv
    if domain.use_first_level:
        return qi_desc_piotlb(tag.domain_id, tag.pasid, addr, None if everything else mask)
    if mask is None or everything or not iommu.cap.psi:
        return qi_desc_iotlb(iommu, tag.domain_id, 0, 0, Granularity.DOMAIN)
    return qi_desc_iotlb(iommu, tag.domain_id, addr, mask, Granularity.SELECTIVE)

"""Devices and domains: probing, domain identifiers, and attachment to the traffic with and without PASID.

Source: drivers/iommu/intel/iommu.c: intel_iommu_probe_device(), intel_iommu_probe_finalize(), domain_attach_iommu(),
paging_domain_compatible(), device_block_translation(), dmar_domain_attach_device(), intel_iommu_set_dev_pasid() and the
identity and blocking domains, Linux 6.12.117 and 7.3.4.
Not modelled: release of devices, sub-devices whose DMA is another's, dirty tracking, snoop control, quirks.
"""

from __future__ import annotations

from pasidlab.drivers.intel.cache import (
    cache_tag_assign,
    cache_tag_assign_domain,
    cache_tag_unassign_domain,
    devtlb_tag,
)
from pasidlab.drivers.intel.context import (
    context_setup_pass_through,
    domain_context_clear,
    domain_context_mapping,
    intel_pasid_setup_sm_context,
)
from pasidlab.drivers.intel.pasid import (
    intel_pasid_alloc_table,
    intel_pasid_setup_first_level,
    intel_pasid_setup_pass_through,
    intel_pasid_setup_second_level,
    intel_pasid_tear_down_entry,
)
from pasidlab.drivers.intel.prq import iopf_for_domain_remove, iopf_for_domain_replace, iopf_for_domain_set
from pasidlab.drivers.intel.structs import (
    FIRST_DID,
    DeviceDomainInfo,
    DevPasidInfo,
    DmarDomain,
    IntelIommu,
    IommuDomainInfo,
)
from pasidlab.errors import Errno
from pasidlab.linux.pci_ats import enable_pasid_at_probe, pci_prg_resp_pasid_required
from pasidlab.linux.structs import IOMMU_NO_PASID, Device, IommuDomain
from pasidlab.rules import WAS_READ, Refusal, Rule

FIVE_LEVELS = 5

NO_DID = Rule(
    "intel.no-domain-id",
    "domain_attach_iommu (drivers/iommu/intel/iommu.c)",
    "no free number below cap_ndoms(iommu->cap)",
    "the {count} domain identifiers of {unit} are all in use",
    Errno.ENOSPC,
    source=WAS_READ,
    remedy="detach domains that are not used: each takes an identifier on each unit, SVA none",
)
INCOMPATIBLE = Rule(
    "intel.domain-incompatible",
    "paging_domain_compatible (drivers/iommu/intel/iommu.c)",
    "iommu_coherency, iommu_superpage, gaw or agaw of the domain do not suit the unit",
    "the tables of the domain were made for another remapping unit, and {unit} of {dev} cannot walk them",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="allocate a domain for a device of this very unit",
)
NO_PASID_SUPPORT = Rule(
    "intel.no-pasid-support",
    "intel_iommu_set_dev_pasid (drivers/iommu/intel/iommu.c)",
    "!pasid_supported(iommu)",
    "{unit} has no scalable mode, or no PASIDs in it: {dev} cannot have a domain under a PASID",
    Errno.EOPNOTSUPP,
    source=WAS_READ,
    remedy="boot with intel_iommu=on,sm_on, if the unit's ECAP has SMTS (bit 43) and PASID (bit 40)",
)
NO_MEMORY = Rule(
    "intel.no-memory",
    "domain_add_dev_pasid (drivers/iommu/intel/iommu.c)",
    "!kzalloc(dev_pasid)",
    "no memory for the attachment of {dev} to PASID {pasid}",
    Errno.ENOMEM,
    source=WAS_READ,
    remedy="free memory, and try again",
)


# --- devices -------------------------------------------------------------------------------------------------


def intel_iommu_probe_device(
    iommu: IntelIommu, dev: Device, source_id: int, *, pasid: bool, ats: bool, pri: bool
) -> DeviceDomainInfo:
    """Meet a device: see what it and its unit have in common, and make its tables."""
    ats_supported = ats and iommu.ecap.dt
    info = DeviceDomainInfo(
        iommu,
        dev,
        source_id,
        pasid_supported=pasid and iommu.pasid_supported,
        ats_supported=ats_supported,
        pri_supported=pri and ats_supported and iommu.sm_supported and iommu.ecap.prs,
    )
    iommu.device_rbtree[source_id] = info
    if iommu.sm_supported:
        intel_pasid_alloc_table(info)
        intel_pasid_setup_sm_context(info)
    return info


def intel_iommu_probe_finalize(info: DeviceDomainInfo) -> None:
    """Switch on in the device what it supports, PASID before ATS; its domain caches in its TLB from now on.

    Page requests stay off where PASID is on and the device does not want it in their answers.
    """
    info.pasid_enabled = info.pasid_supported and enable_pasid_at_probe(info.dev)
    info.ats_enabled = info.ats_supported
    answerable = not info.pasid_enabled or pci_prg_resp_pasid_required(info.dev)
    info.pri_enabled = info.pri_supported and info.ats_enabled and answerable
    if info.ats_enabled and info.domain is not None:
        cache_tag_assign(info.domain, devtlb_tag(info.domain, info, IOMMU_NO_PASID))


def first_level_by_default(iommu: IntelIommu) -> bool:
    """Whether kernel-managed domains have first-stage tables: where there are both kinds, or only those."""
    ecap = iommu.ecap if iommu.kernel.profile.vtd_stage_by_unit else iommu.audit.ecap
    assert ecap is not None
    return ecap.smts and ecap.fsts


# --- domain identifiers --------------------------------------------------------------------------------------


def domain_attach_iommu(domain: DmarDomain, iommu: IntelIommu) -> Refusal | None:
    """Give a domain its identifier on a unit, with its first attachment there; SVA has the default one."""
    if domain.has_default_did(iommu):
        return None
    known = domain.dids.get(iommu)
    if known is not None:
        known.refcnt += 1
        return None
    last = (1 << 4 + 2 * iommu.cap.nd) - 1
    did = iommu.domain_ids.alloc(FIRST_DID, last)
    if did is None:
        return NO_DID.refuse(count=last + 1, unit=iommu.name)
    domain.dids[iommu] = IommuDomainInfo(did)
    return None


def domain_detach_iommu(domain: DmarDomain, iommu: IntelIommu) -> None:
    """Take a domain's identifier on a unit back with its last attachment there."""
    if domain.has_default_did(iommu):
        return
    known = domain.dids[iommu]
    known.refcnt -= 1
    if not known.refcnt:
        iommu.domain_ids.free(known.did)
        del domain.dids[iommu]


# --- what domains and units have in common -------------------------------------------------------------------


def address_width(iommu: IntelIommu) -> int:
    """Return the bits of address of a domain for the unit."""
    return min(30 + 9 * iommu.agaw, iommu.cap.mgaw + 1)


def iommu_superpage_capability(iommu: IntelIommu, *, first_stage: bool) -> int:
    """Return the largest pages: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB."""
    if first_stage:
        return 2 if iommu.cap.fs1gp else 1
    if iommu.cap.ssls1g:
        return 2
    return 1 if iommu.cap.ssls2m else 0


def iommu_paging_structure_coherency(iommu: IntelIommu) -> bool:
    """Whether the unit snoops the CPUs' caches when it walks tables."""
    return iommu.ecap.smpwcs if iommu.sm_supported else iommu.ecap.c


def paging_domain_compatible(domain: DmarDomain, info: DeviceDomainInfo) -> Refusal | None:
    """Whether a domain, made for any unit, suits the unit of a device."""
    iommu = info.iommu
    suits = (
        domain.coherent == iommu_paging_structure_coherency(iommu)
        and domain.superpage == iommu_superpage_capability(iommu, first_stage=domain.use_first_level)
        and domain.gaw <= address_width(iommu)
        and domain.agaw <= iommu.agaw
    )
    return None if suits else INCOMPATIBLE.refuse(unit=iommu.name, dev=info.dev.name)


# --- traffic without PASID -----------------------------------------------------------------------------------


def device_block_translation(info: DeviceDomainInfo) -> None:
    """Take the domain of the traffic without PASID away."""
    if not info.domain_attached:
        return
    if info.domain is not None:
        cache_tag_unassign_domain(info.domain, info, IOMMU_NO_PASID)
    if info.iommu.sm_supported:
        intel_pasid_tear_down_entry(info, IOMMU_NO_PASID, fault_ignore=False)
    else:
        domain_context_clear(info)
    info.domain_attached = False
    if info.domain is not None:
        domain_detach_iommu(info.domain, info.iommu)
        info.domain = None


def intel_iommu_attach_device(domain: DmarDomain, info: DeviceDomainInfo) -> Refusal | None:
    """Attach a paging domain to the traffic without PASID; a refusal leaves that blocked."""
    device_block_translation(info)
    refusal = paging_domain_compatible(domain, info) or iopf_for_domain_set(domain, info)
    if refusal:
        return refusal
    refusal = _dmar_domain_attach_device(domain, info)
    if refusal:
        iopf_for_domain_remove(domain, info)
    return refusal


def _dmar_domain_attach_device(domain: DmarDomain, info: DeviceDomainInfo) -> Refusal | None:
    refusal = domain_attach_iommu(domain, info.iommu)
    if refusal:
        return refusal
    info.domain, info.domain_attached = domain, True
    if info.iommu.sm_supported:
        refusal = _setup_paging(domain, info, IOMMU_NO_PASID, None)
    else:
        domain_context_mapping(domain, info)
    if refusal:
        device_block_translation(info)
        return refusal
    cache_tag_assign_domain(domain, info, IOMMU_NO_PASID)
    return None


def identity_domain_attach_dev(info: DeviceDomainInfo) -> Refusal | None:
    """Let the traffic without PASID pass."""
    device_block_translation(info)
    refusal = None
    if info.iommu.sm_supported:
        refusal = intel_pasid_setup_pass_through(info, IOMMU_NO_PASID)
    else:
        context_setup_pass_through(info)
    info.domain_attached = refusal is None
    return refusal


def blocking_domain_attach_dev(info: DeviceDomainInfo) -> None:
    """Stop the traffic without PASID."""
    iopf_for_domain_remove(info.domain, info)
    device_block_translation(info)


# --- PASIDs --------------------------------------------------------------------------------------------------


def domain_add_dev_pasid(domain: DmarDomain, info: DeviceDomainInfo, pasid: int) -> Refusal | None:
    """Note an attachment: the domain's identifier on the unit, what caches it, and who."""
    if info.iommu.kernel.allocation_fails():
        return NO_MEMORY.refuse(dev=info.dev.name, pasid=pasid)
    refusal = domain_attach_iommu(domain, info.iommu)
    if refusal:
        return refusal
    cache_tag_assign_domain(domain, info, pasid)
    domain.dev_pasids.insert(0, DevPasidInfo(info, pasid))
    return None


def domain_remove_dev_pasid(domain: IommuDomain | None, info: DeviceDomainInfo, pasid: int) -> None:
    """Forget an attachment; identity and blocked domains have noted none."""
    if not isinstance(domain, DmarDomain):
        return
    domain.dev_pasids.remove(DevPasidInfo(info, pasid))
    cache_tag_unassign_domain(domain, info, pasid)
    domain_detach_iommu(domain, info.iommu)


def domain_setup_first_level(
    info: DeviceDomainInfo, pasid: int, did: int, pgd: int, old: IommuDomain | None, *, five_level: bool
) -> Refusal | None:
    """Let a PASID translate by a first-stage table; what it had before is torn down first, not replaced in place."""
    _tear_down_old(info, pasid, old)
    return intel_pasid_setup_first_level(info, pgd, pasid, did, five_level=five_level)


def _tear_down_old(info: DeviceDomainInfo, pasid: int, old: IommuDomain | None) -> None:
    if old is not None:
        intel_pasid_tear_down_entry(info, pasid, fault_ignore=False)


def _setup_paging(domain: DmarDomain, info: DeviceDomainInfo, pasid: int, old: IommuDomain | None) -> Refusal | None:
    """Let a PASID translate by a domain's table, of whichever stage it is."""
    if not domain.use_first_level:
        _tear_down_old(info, pasid, old)
        return intel_pasid_setup_second_level(info, domain, pasid)
    assert domain.table is not None
    did, five_level = domain.did_on(info.iommu), domain.table.levels == FIVE_LEVELS
    return domain_setup_first_level(info, pasid, did, domain.table.pgd, old, five_level=five_level)


def intel_iommu_set_dev_pasid(
    domain: DmarDomain, info: DeviceDomainInfo, pasid: int, old: IommuDomain | None
) -> Refusal | None:
    """Attach a paging domain to (device, PASID)."""
    if not info.iommu.pasid_supported:
        return NO_PASID_SUPPORT.refuse(unit=info.iommu.name, dev=info.dev.name)
    refusal = paging_domain_compatible(domain, info) or domain_add_dev_pasid(domain, info, pasid)
    if refusal:
        return refusal
    refusal = iopf_for_domain_replace(domain, old, info)
    if refusal is None:
        refusal = _setup_paging(domain, info, pasid, old)
        if refusal is None:
            domain_remove_dev_pasid(old, info, pasid)
            return None
        iopf_for_domain_replace(old, domain, info)
    domain_remove_dev_pasid(domain, info, pasid)
    return refusal


def identity_domain_set_dev_pasid(
    domain: IommuDomain, info: DeviceDomainInfo, pasid: int, old: IommuDomain | None
) -> Refusal | None:
    """Let what comes under a PASID pass."""
    if not info.iommu.pasid_supported:
        return NO_PASID_SUPPORT.refuse(unit=info.iommu.name, dev=info.dev.name)
    refusal = iopf_for_domain_replace(domain, old, info)
    if refusal:
        return refusal
    _tear_down_old(info, pasid, old)
    refusal = intel_pasid_setup_pass_through(info, pasid)
    if refusal:
        iopf_for_domain_replace(old, domain, info)
        return refusal
    domain_remove_dev_pasid(old, info, pasid)
    return None


def clear_dev_pasid(info: DeviceDomainInfo, pasid: int, old: IommuDomain | None) -> None:
    """Take a domain away from (device, PASID): entry, fault use, record.

    Since 6.14 that is blocking_domain_set_dev_pasid(), before intel_iommu_remove_dev_pasid().
    """
    if info.iommu.kernel.profile.detach_through_blocked_domain:
        intel_pasid_tear_down_entry(info, pasid, fault_ignore=False)
        iopf_for_domain_remove(old, info)
        domain_remove_dev_pasid(old, info, pasid)
    else:
        domain_remove_dev_pasid(old, info, pasid)
        intel_pasid_tear_down_entry(info, pasid, fault_ignore=False)

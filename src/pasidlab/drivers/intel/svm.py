"""SVA domains: the page table of a process, shared with remapping units by reference.

Source: drivers/iommu/intel/svm.c, Linux 6.12.117 and 7.3.4.
Decided here: the CPUs have pages of 1 GiB, as all that have VT-d's scalable mode do; a kernel whose page tables are not
x86's, which no machine with VT-d has, shares none.
Not modelled: RCU before a domain's memory goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pasidlab.drivers.intel.cache import cache_tag_flush_all, cache_tag_flush_range
from pasidlab.drivers.intel.iommu import domain_add_dev_pasid, domain_remove_dev_pasid, domain_setup_first_level
from pasidlab.drivers.intel.pasid import intel_pasid_tear_down_entry
from pasidlab.drivers.intel.prq import iopf_for_domain_replace
from pasidlab.drivers.intel.structs import DeviceDomainInfo, DmarDomain, IntelIommu
from pasidlab.errors import Errno
from pasidlab.linux.iommu import iommu_attach_handle_get
from pasidlab.linux.memory import TLB_FLUSH_ALL
from pasidlab.linux.pci_ats import pasid_off_cause, pci_prg_resp_pasid_required
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.linux.structs import IommuDomain
from pasidlab.rules import WAS_READ, Refusal, Rule

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct

LA57_BITS = 57
"""Width of addresses of a kernel that uses 5 levels."""

_CHECK = "intel_svm_check (drivers/iommu/intel/svm.c)"
SVM_NOT_BUILT = Rule(
    "intel.svm-not-built",
    "intel_svm_domain_alloc (drivers/iommu/intel/iommu.h)",
    "!IS_ENABLED(CONFIG_INTEL_IOMMU_SVM)",
    "the kernel was built without CONFIG_INTEL_IOMMU_SVM: no process can be bound to {dev}",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="boot a kernel with CONFIG_INTEL_IOMMU_SVM",
)
SVM_NO_PASID = Rule(
    "intel.svm-no-pasid",
    _CHECK,
    "!pasid_supported(iommu)",
    "the remapping unit of {dev} has no scalable mode, or no PASIDs in it",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="boot with intel_iommu=on,sm_on, if ECAP has SMTS (bit 43) and PASID (bit 40); else look for it in "
    "the firmware's setup",
)
SVM_NO_1G = Rule(
    "intel.svm-no-1g-pages",
    _CHECK,
    "X86_FEATURE_GBPAGES && !cap_fl1gp_support(iommu->cap)",
    "SVM disabled, incompatible 1GB page capability: the CPUs map pages of 1 GiB, which the unit of {dev} cannot walk",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="none by options: the unit lacks CAP.FS1GP (bit 56); a virtual machine's monitor may offer it",
)
SVM_NO_5_LEVEL = Rule(
    "intel.svm-no-5-level",
    _CHECK,
    "X86_FEATURE_LA57 && !cap_fl5lp_support(iommu->cap)",
    "SVM disabled, incompatible paging mode: processes have tables of 5 levels, and the unit of {dev} walks 4;"
    " boot with no5lvl",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="boot with no5lvl",
)
SVM_NOT_COHERENT = Rule(
    "intel.svm-not-coherent",
    _CHECK,
    "!ecap_smpwc(iommu->ecap)",
    "SVM disabled: the unit of {dev} does not snoop the CPUs' caches when it walks their tables",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="none by options: the unit lacks ECAP.SMPWCS (bit 48); a virtual machine's monitor may offer it",
)
SVM_FOREIGN_TABLES = Rule(
    "intel.svm-foreign-tables",
    _CHECK,
    "the page tables are not those of an x86 kernel",
    "the unit of {dev} walks x86 page tables, and the processes of this machine have others",
    Errno.ENODEV,
    remedy="describe the machine with x86 CPUs, or its IOMMU as an arm-smmu-v3",
)
_SUPPORTED = "intel_iommu_sva_supported (drivers/iommu/intel/svm.c)"
NO_PASID_OR_ATS = Rule(
    "intel.sva-no-pasid-or-ats",
    _SUPPORTED,
    "!info->pasid_enabled || !info->ats_enabled",
    "{dev} has not both PASID and ATS switched on, without which it cannot share page tables: {cause}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="see in lspci -vvv as root whether PASIDCtl and ATSCtl say Enable+; leave pci=noats off the command "
    "line, and see that the ATSR or SATC of the DMAR table names the root port or the device",
)
PRI_OFF = Rule(
    "intel.sva-pri-off",
    _SUPPORTED,
    "info->pri_supported && !info->pri_enabled",
    "{dev} could ask for pages by page requests, but these are switched off{cause}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="none by options: a device that takes PASIDs has to want them in page request answers (lspci: PRISta "
    "PASID+), or to have no PRI",
)

_COLLIDES = "PASID {pasid} is {mm} on {dev} and {there} on {other}"
SHARED_DID = Rule(
    "intel.shared-did",
    "intel_svm_set_dev_pasid (drivers/iommu/intel/svm.c)",
    "FLPT_DEFAULT_DID for every process, and the same PASID for two of them on devices of one unit",
    _COLLIDES + ", both with domain identifier 1: {unit} uses for one device what it has cached for the other",
    source=WAS_READ,
)
OWN_DID = Rule(
    "intel.own-did",
    "intel_svm_set_dev_pasid (drivers/iommu/intel/svm.c), changed",
    "the same PASID for two processes on devices of one unit",
    _COLLIDES + "; each has a domain identifier of its own, which this design needs of the driver: with Linux's one for"
    " all (option vtd_did = shared) {unit} would use for one device what it has cached for the other",
)


def intel_svm_check(iommu: IntelIommu) -> None:
    """See whether the unit can walk the CPUs' page tables.

    Of a unit that lacks both, 6.12.95 complains of the 1 GiB pages and not of the coherent walks (seen in its log).
    """
    iommu.svm_refused = _svm_refused(iommu)


def _svm_refused(iommu: IntelIommu) -> Rule | None:
    if "INTEL_IOMMU_SVM" in iommu.kernel.not_built:
        return SVM_NOT_BUILT
    if not isinstance(iommu.kernel.pgtable, X86PageTables):
        return SVM_FOREIGN_TABLES
    checks = (
        (iommu.pasid_supported, SVM_NO_PASID),
        (iommu.cap.fs1gp, SVM_NO_1G),
        (iommu.cap.fs5lp or not _five_level(iommu), SVM_NO_5_LEVEL),
        (iommu.ecap.smpwcs, SVM_NOT_COHERENT),
    )
    return next((rule for capable, rule in checks if not capable), None)


def _five_level(iommu: IntelIommu) -> bool:
    """X86_FEATURE_LA57, of a kernel that uses it."""
    return iommu.kernel.pgtable.va_bits == LA57_BITS


def intel_iommu_sva_supported(info: DeviceDomainInfo) -> Refusal | None:
    """Whether a device can share the page table of a process; one without page requests sees to its faults itself."""
    if info.iommu.svm_refused is not None:
        return info.iommu.svm_refused.refuse(dev=info.dev.name)
    if not info.pasid_enabled or not info.ats_enabled:
        return NO_PASID_OR_ATS.refuse(dev=info.dev.name, cause=_off_cause(info))
    if info.pri_supported and not info.pri_enabled:
        wants = pci_prg_resp_pasid_required(info.dev)
        cause = "" if wants else ": it does not want PASIDs in the answers, and without them they would be ambiguous"
        return PRI_OFF.refuse(dev=info.dev.name, cause=cause)
    return None


def _off_cause(info: DeviceDomainInfo) -> str:
    """Say which of PASID and ATS is off, and why as far as is known."""
    if not info.pasid_enabled:
        return pasid_off_cause(info.dev) or "PASID is off"
    return "ATS is off" if info.iommu.ecap.dt else "ATS is off, which the unit does not take (ECAP.DT)"


def intel_svm_set_dev_pasid(
    domain: DmarDomain, info: DeviceDomainInfo, pasid: int, old: IommuDomain | None
) -> Refusal | None:
    """Give (device, PASID) the page table of the domain's mm."""
    if not info.iommu.kernel.profile.enable_feature:
        refusal = intel_iommu_sva_supported(info)
        if refusal:
            return refusal
    refusal = domain_add_dev_pasid(domain, info, pasid)
    if refusal:
        return refusal
    refusal = iopf_for_domain_replace(domain, old, info)
    if refusal:
        domain_remove_dev_pasid(domain, info, pasid)
        return refusal
    assert domain.mm is not None
    did, five_level = domain.did_on(info.iommu), _five_level(info.iommu)
    refusal = domain_setup_first_level(info, pasid, did, domain.mm.pgd, old, five_level=five_level)
    if refusal:
        iopf_for_domain_replace(old, domain, info)
        domain_remove_dev_pasid(domain, info, pasid)
        return refusal
    domain_remove_dev_pasid(old, info, pasid)
    _find_other_process(domain, info, pasid)
    return None


def _find_other_process(domain: DmarDomain, info: DeviceDomainInfo, pasid: int) -> None:
    """Say, once for a unit, that the PASID is another process's on another of its devices."""
    kernel, mm = info.iommu.kernel, domain.mm
    assert mm is not None
    rule = SHARED_DID if domain.has_default_did(info.iommu) else OWN_DID
    if any(known.rule is rule and known.facts["unit"] == info.iommu.name for known in kernel.findings):
        return
    for other in info.iommu.device_rbtree.values():
        group = other.dev.iommu_group
        if group is None or group is info.dev.iommu_group:
            continue
        handle = iommu_attach_handle_get(group, pasid)
        there = None if isinstance(handle, Refusal) or handle.domain is None else handle.domain.mm
        if there is not None and there is not mm:
            facts = {"unit": info.iommu.name, "pasid": pasid, "dev": info.dev.name, "mm": mm.name}
            kernel.found(rule, **facts, other=other.dev.name, there=there.name)
            return


@dataclass(slots=True, eq=False, repr=False)
class IntelMmuNotifier:
    """`intel_mmuops` of one domain."""

    domain: DmarDomain

    def arch_invalidate_secondary_tlbs(self, mm: MmStruct, start: int, end: int) -> None:
        """Forget a range, whose end is the first byte behind it, or everything."""
        if start == 0 and end == TLB_FLUSH_ALL:
            cache_tag_flush_all(self.domain)
        else:
            cache_tag_flush_range(self.domain, start, end - 1)

    def release(self, mm: MmStruct) -> None:
        """intel_mm_release(): take every entry of the mm away, so that its devices reach nothing; faults are quiet."""
        for dev_pasid in self.domain.dev_pasids:
            intel_pasid_tear_down_entry(dev_pasid.info, dev_pasid.pasid, fault_ignore=True)

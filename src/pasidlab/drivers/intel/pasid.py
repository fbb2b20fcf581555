"""PASID directories and tables of devices, and the setting up and tearing down of their entries.

Source: drivers/iommu/intel/pasid.c, pasid.h, Linux 6.12.117 and 7.3.4. An entry is torn down by clearing P alone, so
that hardware which reads it meanwhile sees the rest unchanged; what it says is cleared when nothing caches it any more.
Decided here: of a device that is not on PCI, which the kernel has no directory for, the bound on its numbers counts as
its capability's.
Not modelled: cache lines that must be written back where page walks are not coherent, nested translation, snoop
control, the freeing of tables with their device.
"""

from __future__ import annotations

from pasidlab.drivers.base import IOTLB, TABLE
from pasidlab.drivers.intel.prq import intel_iommu_drain_pasid_prq
from pasidlab.drivers.intel.qi import qi_flush_dev_iotlb, qi_flush_iotlb, qi_flush_pasid_cache, qi_flush_piotlb
from pasidlab.drivers.intel.structs import FLPT_DEFAULT_DID, DeviceDomainInfo, DmarDomain, IntelIommu, PasidTable
from pasidlab.errors import Errno, ModelError
from pasidlab.hw.vtd.descriptors import PasidCacheGranularity
from pasidlab.hw.vtd.registers import Granularity
from pasidlab.hw.vtd.structures import PASID_TABLE_BITS, AddressWidth, Flpm, PasidDirectoryEntry, PasidEntry, Pgtt
from pasidlab.linux.iommu import dev_iommu_get_max_pasids
from pasidlab.linux.pci_ats import pci_max_pasids
from pasidlab.rules import WAS_READ, Refusal, Rule

PASID_ENTRY_BYTES = 64
_DIRECTORY_SHIFT = PASID_TABLE_BITS - 3
"""log2 of the PASIDs that each byte of a directory stands for."""
_FLUSHED_BY_PASID = (Pgtt.FIRST_STAGE, Pgtt.PASS_THROUGH)

_FIRST_LEVEL = "intel_pasid_setup_first_level (drivers/iommu/intel/pasid.c)"
NO_FIRST_LEVEL = Rule(
    "intel.no-first-level",
    _FIRST_LEVEL,
    "!ecap_flts(iommu->ecap)",
    "{unit} has no first-stage translation, which {dev} needs for PASID {pasid}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="use a domain with second-stage tables on this unit",
)
NO_5_LEVEL = Rule(
    "intel.no-5-level",
    _FIRST_LEVEL,
    "PASID_FLAG_FL5LP && !cap_fl5lp_support(iommu->cap)",
    "the table for PASID {pasid} of {dev} has 5 levels, and {unit} walks 4",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="boot with no5lvl, so that processes have tables of 4 levels",
)
NO_SECOND_LEVEL = Rule(
    "intel.no-second-level",
    "intel_pasid_setup_second_level (drivers/iommu/intel/pasid.c)",
    "!ecap_slts(iommu->ecap)",
    "{unit} has no second-stage translation, which {dev} needs for PASID {pasid}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="use a domain with first-stage tables on this unit",
)
NO_ENTRY = Rule(
    "intel.pasid-no-entry",
    "intel_pasid_get_entry (drivers/iommu/intel/pasid.c)",
    "pasid >= pasid_table->max_pasid, or no memory for a table",
    "there is no place for PASID {pasid} of {dev}: its directory ends at {bound}, or memory is short",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="use smaller numbers, below what the device's PASID capability says",
)
ENTRY_PRESENT = Rule(
    "intel.pasid-present",
    "intel_pasid_setup_first_level and its like (drivers/iommu/intel/pasid.c)",
    "pasid_pte_is_present(pte)",
    "the entry of PASID {pasid} of {dev} is in use",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="detach what the PASID has first",
)


# --- tables --------------------------------------------------------------------------------------------------


def intel_pasid_alloc_table(info: DeviceDomainInfo) -> None:
    """Make the directory of a device: a bit of it for each PASID, and a page at the least."""
    kernel = info.iommu.kernel
    max_pasid = min(_device_pasids(info), info.iommu.audit.pasid_max_id) if info.pasid_supported else 0
    size = max_pasid >> _DIRECTORY_SHIFT
    order = (max(-(-size >> kernel.page_shift), 1) - 1).bit_length()
    table = kernel.page_alloc.alloc_pages(order)
    info.pasid_table = PasidTable(table, order, 1 << order + kernel.page_shift + _DIRECTORY_SHIFT)


def _device_pasids(info: DeviceDomainInfo) -> int:
    return pci_max_pasids(info.dev) if info.dev.pci else dev_iommu_get_max_pasids(info.dev)


def context_get_sm_pds(table: PasidTable) -> int:
    """Return PDTS: log2 of the directory's entries, less 7."""
    entries = table.max_pasid >> PASID_TABLE_BITS
    return max(entries.bit_length() - 1 - 7, 0)


def intel_pasid_get_entry(info: DeviceDomainInfo, pasid: int) -> int | None:
    """Return where the entry of a PASID lies, its table made on demand; None where there is no place for it."""
    kernel, table = info.iommu.kernel, info.pasid_table
    if table is None or pasid >= table.max_pasid:
        kernel.warn("intel_pasid_get_entry", f"{info.dev.name} has no table for PASID {pasid}")
        return None
    slot = table.table + 8 * (pasid >> PASID_TABLE_BITS)
    entry = PasidDirectoryEntry(kernel.memory.load64(slot) or 0)
    if not entry.p:
        if kernel.allocation_fails():
            return None
        entry = PasidDirectoryEntry(p=True, smptblptr=kernel.page_alloc.alloc_page())
        kernel.memory.store64(slot, entry)
    return entry.smptblptr + PASID_ENTRY_BYTES * (pasid & (1 << PASID_TABLE_BITS) - 1)


def _load(iommu: IntelIommu, place: int) -> PasidEntry:
    data = iommu.kernel.memory.load(place, PASID_ENTRY_BYTES)
    if data is None:
        raise ModelError(f"the PASID table of {iommu.name} at {place:#x} cannot be read")
    return PasidEntry.unpack(data)


def _store(iommu: IntelIommu, place: int, entry: PasidEntry) -> None:
    if not iommu.kernel.memory.store(place, entry.pack()):
        raise ModelError(f"the PASID table of {iommu.name} at {place:#x} cannot be written")


# --- setting up ----------------------------------------------------------------------------------------------


def intel_pasid_setup_first_level(
    info: DeviceDomainInfo, pgd: int, pasid: int, did: int, *, five_level: bool
) -> Refusal | None:
    """Let a PASID translate by a first-stage table."""
    iommu = info.iommu
    facts = {"unit": iommu.name, "dev": info.dev.name, "pasid": pasid}
    if not iommu.ecap.fsts:
        return NO_FIRST_LEVEL.refuse(**facts)
    if five_level and not iommu.cap.fs5lp:
        return NO_5_LEVEL.refuse(**facts)
    levels = Flpm.FIVE_LEVEL if five_level else Flpm.FOUR_LEVEL
    entry = _entry(iommu, Pgtt.FIRST_STAGE, iommu.agaw, did).replace(fspm=levels, nxe=True, fsptptr=pgd)
    return _setup(info, pasid, entry)


def intel_pasid_setup_second_level(info: DeviceDomainInfo, domain: DmarDomain, pasid: int) -> Refusal | None:
    """Let a PASID translate by a domain's second-stage table."""
    iommu = info.iommu
    if not iommu.ecap.ssts:
        return NO_SECOND_LEVEL.refuse(unit=iommu.name, dev=info.dev.name, pasid=pasid)
    assert domain.table is not None
    entry = _entry(iommu, Pgtt.SECOND_STAGE, domain.agaw, domain.did_on(iommu))
    return _setup(info, pasid, entry.replace(ssptptr=domain.table.pgd))


def intel_pasid_setup_pass_through(info: DeviceDomainInfo, pasid: int) -> Refusal | None:
    """Let what comes under a PASID pass."""
    return _setup(info, pasid, _entry(info.iommu, Pgtt.PASS_THROUGH, info.iommu.agaw, FLPT_DEFAULT_DID))


def _entry(iommu: IntelIommu, pgtt: Pgtt, agaw: int, did: int) -> PasidEntry:
    return PasidEntry(aw=AddressWidth(agaw), pgtt=pgtt, did=did, pwsnp=iommu.ecap.smpwcs)


def _setup(info: DeviceDomainInfo, pasid: int, entry: PasidEntry) -> Refusal | None:
    """Write an entry where none is present, P last."""
    iommu, place = info.iommu, intel_pasid_get_entry(info, pasid)
    if place is None:
        bound = info.pasid_table.max_pasid if info.pasid_table else 0
        return NO_ENTRY.refuse(dev=info.dev.name, pasid=pasid, bound=bound)
    if _load(iommu, place).p:
        return ENTRY_PRESENT.refuse(dev=info.dev.name, pasid=pasid)
    _store(iommu, place, entry)
    _store(iommu, place, entry.replace(p=True))
    _pasid_flush_caches(iommu, pasid, entry.did)
    return None


def _pasid_flush_caches(iommu: IntelIommu, pasid: int, did: int) -> None:
    """Forget that the entry was not there, which only a unit in caching mode remembers."""
    if iommu.cap.cm:
        qi_flush_pasid_cache(iommu, did, PasidCacheGranularity.PASID, pasid)
        qi_flush_piotlb(iommu, did, pasid)


# --- tearing down --------------------------------------------------------------------------------------------


def intel_pasid_tear_down_entry(info: DeviceDomainInfo, pasid: int, *, fault_ignore: bool) -> None:
    """Take a PASID's entry away, and wait until nothing uses it.

    With `fault_ignore`, when an mm goes, FPD stays, faults of the device are not recorded, and nothing is drained;
    tearing down once more completes it.
    """
    iommu, place = info.iommu, intel_pasid_get_entry(info, pasid)
    if place is None:
        return
    entry = _load(iommu, place)
    if not entry.p:
        _complete_tear_down(info, pasid, place, entry)
        return
    _store(iommu, place, entry.replace(p=False))
    qi_flush_pasid_cache(iommu, entry.did, PasidCacheGranularity.PASID, pasid)
    iommu.kernel.window(TABLE)
    if entry.pgtt in _FLUSHED_BY_PASID:
        qi_flush_piotlb(iommu, entry.did, pasid)
    else:
        qi_flush_iotlb(iommu, entry.did, Granularity.DOMAIN)
    if info.ats_enabled:
        iommu.kernel.window(IOTLB)
        qi_flush_dev_iotlb(info, pasid)
    _store(iommu, place, PasidEntry(fpd=fault_ignore))
    if not fault_ignore:
        intel_iommu_drain_pasid_prq(info, pasid)


def _complete_tear_down(info: DeviceDomainInfo, pasid: int, place: int, entry: PasidEntry) -> None:
    """Finish what the end of an mm began; any other entry that is not present should be empty."""
    if entry.fpd:
        _store(info.iommu, place, PasidEntry())
        intel_iommu_drain_pasid_prq(info, pasid)
    elif entry:
        info.iommu.kernel.warn("intel_pasid_tear_down_entry", f"the entry of PASID {pasid} of {info.dev.name} is odd")

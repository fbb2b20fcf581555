"""drivers/iommu/iommu-sva.c: binding an address space to a device.

Source: Linux 6.12.117 and 7.3.4. The tests that all designs share and the making of a bond stand here; which number
a bond gets is left to the kernel's scheme (`pasidlab.schemes`), `mainline` being what 6.12 and 7.3 do. The entry points
bear the kernel's names and dispatch to the scheme, so that a caller reads like a Linux driver.

Not modelled: locks (`iommu_sva_lock`), RCU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pasidlab import events
from pasidlab.errors import Errno
from pasidlab.linux.iommu import (
    iommu_alloc_global_pasid,
    iommu_attach_device_pasid,
    iommu_attach_handle_get,
    iommu_detach_device_pasid,
    own_max_pasids,
    pasid_range,
    slot_text,
)
from pasidlab.linux.iopf import iommu_sva_iopf_handler
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.mm import MmStruct, mmdrop, mmgrab
from pasidlab.linux.mmu_notifier import mmu_notifier_arch_invalidate_secondary_tlbs
from pasidlab.linux.structs import (
    IOMMU_NO_PASID,
    IOMMU_PASID_INVALID,
    AttachHandle,
    Device,
    DomainType,
    IommuDomain,
    IommuGroup,
)
from pasidlab.rules import WAS_READ, WAS_RUN, Refusal, Rule


@dataclass(slots=True, eq=False, repr=False)
class IommuMmData:
    """`struct iommu_mm_data`, what an mm knows of SVA. Schemes that need more derive from it.

    `pasid` is the number that the mm itself has; `sva_domains` has the newest first.
    """

    mm: MmStruct
    pasid: int = IOMMU_PASID_INVALID
    sva_domains: list[IommuDomain] = field(default_factory=list)

    @property
    def global_pasid(self) -> int | None:
        """The number that the mm holds of the global space, if any."""
        return None if self.pasid == IOMMU_PASID_INVALID else self.pasid

    @property
    def numbers(self) -> int:
        """How many numbers the mm holds, of whatever space; what a quota counts."""
        return int(self.global_pasid is not None)


@dataclass(slots=True, eq=False, repr=False)
class IommuSva(AttachHandle):
    """`struct iommu_sva`: the bond of a group and an mm, shared by all binds of that pair.

    `dev` is the device that bound first and `users` counts the binds, as in the kernel. `data` and `pasid`, the number
    of this very bond, are kept here beside it: the kernel finds both through the mm.
    """

    dev: Device = field(kw_only=True)
    data: IommuMmData = field(kw_only=True)
    pasid: int = field(kw_only=True)
    users: int = field(default=1, kw_only=True)

    def __repr__(self) -> str:
        return f"<IommuSva {self.mm.name} on {self.dev.name} at {self.pasid}, {self.users} users>"

    @property
    def mm(self) -> MmStruct:
        """The address space that the bond gives to the device."""
        return self.data.mm


_BIND = "iommu_sva_bind_device (drivers/iommu/iommu-sva.c)"
_HAS_SVA = (
    "use a device behind an Arm SMMUv3 (with CONFIG_ARM_SMMU_V3_SVA), Intel VT-d or AMD IOMMU; Linux's drivers "
    "of others (RISC-V, virtio-iommu, SMMUv2) have no SVA"
)
_ALLOC = "iommu_alloc_mm_data (drivers/iommu/iommu-sva.c)"
BIND_NOT_BUILT = Rule(
    "bind.not-built",
    "iommu_sva_bind_device (include/linux/iommu.h)",
    "!IS_ENABLED(CONFIG_IOMMU_SVA)",
    "the kernel was built without CONFIG_IOMMU_SVA: no process can be bound to {dev}, nor to any other device",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="boot a kernel with CONFIG_ARM_SMMU_V3_SVA on arm64, with CONFIG_INTEL_IOMMU_SVM or CONFIG_AMD_IOMMU "
    "on x86: each selects IOMMU_SVA, which cannot be set by itself",
)
BIND_NO_GROUP = Rule(
    "bind.no-group",
    _BIND,
    "!dev->iommu_group",
    "{dev} is behind no IOMMU",
    Errno.ENODEV,
    source=WAS_RUN,
    remedy="switch the IOMMU on in the firmware's setup and on the kernel's command line (iommu=, "
    "intel_iommu=on), and see that the firmware's tables name the device; a virtual machine needs a "
    "virtual IOMMU in front of it",
)
BIND_X86 = Rule(
    "bind.x86-refused",
    _BIND,
    "IS_ENABLED(CONFIG_X86)",
    "no SVA for {dev}: stable kernels refuse it on x86, where nothing flushes kernel mappings from the IOMMU's caches",
    Errno.EOPNOTSUPP,
    "6.12.y stable; lifted in mainline by iommu_sva_invalidate_kva_range()",
    remedy="boot a kernel from 6.19 on, which flushes kernel mappings, or one before its stable branch took the "
    "refusal",
)
BIND_LAM = Rule(
    "bind.page-table-not-dma-compatible",
    _ALLOC,
    "!arch_pgtable_dma_compat(mm)",
    "process {mm} uses tagged addresses (LAM), which devices do not understand",
    Errno.EBUSY,
    source=WAS_RUN,
    remedy="run the program without LAM (arch_prctl ARCH_ENABLE_TAGGED_ADDR), or let it call ARCH_FORCE_TAGGED_SVA and "
    "give devices untagged addresses",
)
BIND_OVERFLOW = Rule(
    "bind.number-too-wide",
    _ALLOC,
    "mm->iommu_mm->pasid >= dev->iommu->max_pasids",
    "process {mm} has number {pasid} for life, and {dev} carries {range}",
    Errno.EOVERFLOW,
    source=WAS_RUN,
    remedy="let the process bind its narrowest device first, early after boot; or start it anew when low "
    "numbers are free: a number is chosen once for an address space",
)
BIND_NO_MEMORY = Rule(
    "bind.no-memory",
    _ALLOC,
    "!kzalloc(iommu_mm)",
    "no memory for the SVA data of {mm}",
    Errno.ENOMEM,
    source=WAS_RUN,
    remedy="free memory, and try again",
)
BIND_NOSPC = Rule(
    "bind.no-number-free",
    _ALLOC,
    "iommu_alloc_global_pasid(dev) == IOMMU_PASID_INVALID",
    "{dev} carries {range} and none of them is free in the global space",
    Errno.ENOSPC,
    source=WAS_RUN,
    remedy="end processes that hold low numbers: one keeps its number until it ends, bound or not; idxd holds "
    "one for each device for as long as its driver is loaded",
)
BIND_NO_PASIDS = Rule(
    "bind.device-without-pasids",
    _ALLOC,
    "iommu_alloc_global_pasid(dev) == IOMMU_PASID_INVALID, as max_pasids is 0 or 1",
    "{dev} carries no PASID at all{reason}",
    Errno.ENOSPC,
    source=WAS_RUN,
    remedy="let firmware say pasid-num-bits of a platform device (IORT: substream width); see that a PCI device "
    "shows its PASID capability, and that its IOMMU has PASIDs switched on (VT-d: intel_iommu=on,sm_on)",
)
BIND_OTHER_MM = Rule(
    "bind.number-of-other-mm",
    _BIND,
    "handle->domain->mm != mm",
    "number {pasid} on {dev} belongs to {held}",
    Errno.EBUSY,
    source=WAS_RUN,
    remedy="let whoever attached the number give it back, or keep drivers' own numbers out of the global range",
)
BIND_HANDLE_NO_MEMORY = Rule(
    "bind.no-memory-for-handle",
    _BIND,
    "!kzalloc(handle)",
    "no memory for the bond of {mm} on {dev}",
    Errno.ENOMEM,
    source=WAS_RUN,
    remedy="free memory, and try again",
)
BIND_SAME_MM = Rule(
    "bind.same-mm",
    _BIND,
    "handle->domain->mm == mm",
    "{mm} is bound to the group of {dev} already: the same handle again, which names {named}",
    source=WAS_RUN,
)
BIND_SHARED_DOMAIN = Rule(
    "bind.domain-shared",
    _BIND,
    "an SVA domain of the mm attaches to the device",
    "{dev} uses the domain that {mm} has on this IOMMU already",
    source=WAS_RUN,
)
BIND_NEW_DOMAIN = Rule(
    "bind.domain-new",
    _BIND,
    "iommu_sva_domain_alloc() and attach succeed",
    "{dev} got a domain of its own for {mm}",
    source=WAS_RUN,
)
BIND_NO_SVA = Rule(
    "bind.driver-without-sva",
    "iommu_sva_domain_alloc (drivers/iommu/iommu-sva.c)",
    "!ops->domain_alloc_sva",
    "the IOMMU driver of {dev} has no SVA",
    Errno.EOPNOTSUPP,
    source=WAS_READ,
    remedy=_HAS_SVA,
)
BIND_NO_SVA_FALLBACK = Rule(
    "bind.driver-without-sva-6.12",
    "iommu_sva_domain_alloc (drivers/iommu/iommu-sva.c)",
    "ops->domain_alloc(IOMMU_DOMAIN_SVA) == NULL",
    "the IOMMU driver of {dev} has no SVA",
    Errno.ENOMEM,
    "6.12.117 (read)",
    remedy=_HAS_SVA,
)
_UNBIND = "iommu_sva_unbind_device (drivers/iommu/iommu-sva.c)"
UNBIND_SHARED = Rule(
    "unbind.shared",
    _UNBIND,
    "!refcount_dec_and_test(&iommu_sva->users)",
    "another bind of {mm} still uses the bond on {dev}",
    source=WAS_RUN,
)
UNBIND_LAST = Rule(
    "unbind.last",
    _UNBIND,
    "refcount_dec_and_test(&iommu_sva->users)",
    "the bond of {mm} on {dev} is gone; number {pasid} is detached",
    source=WAS_RUN,
)
KVA_FLUSHED = Rule(
    "kva.flushed",
    "iommu_sva_invalidate_kva_range (drivers/iommu/iommu-sva.c)",
    "list_for_each_entry(iommu_mm, &iommu_sva_mms, mm_list_elm)",
    "every bound address space was flushed, whatever gave its number",
    source=WAS_READ,
)
BIND_PASID_ZERO = Rule(
    "bind-pasid.zero",
    "iommu_sva_bind_device_pasid (v2 patch)",
    "pasid == IOMMU_NO_PASID",
    "PASID 0 is the traffic of {dev} without PASID",
    Errno.EINVAL,
    "docs/thread.md 2.1, row 0",
    remedy="give out numbers from 1 on",
)


def arch_pgtable_dma_compat(mm: MmStruct) -> bool:
    """Whether a device can walk the mm's page tables: not with x86 LAM, unless forced."""
    return not mm.lam or mm.kernel.force_tagged_sva


# --- the entry points ----------------------------------------------------------------------------------------


def iommu_sva_bind_device(dev: Device, mm: MmStruct) -> IommuSva | Refusal:
    """Bind `mm` to `dev`, the core picking the number; the caller lives in the mm."""
    return _not_built(dev) or _bind_refused(dev, mm) or dev.kernel.scheme.bind_device(dev, mm)


def iommu_sva_bind_device_pasid(dev: Device, mm: MmStruct, pasid: int) -> IommuSva | Refusal:
    """Bind `mm` to `dev` under a number of the driver's own (v2 patch of 2026-05-20, and the hybrid)."""
    scheme = dev.kernel.scheme
    if not scheme.takes_driver_numbers:
        return scheme.bind_device_pasid(dev, mm, pasid)
    if pasid == IOMMU_NO_PASID:
        return _not_built(dev) or BIND_PASID_ZERO.refuse(dev=dev.name)
    return _not_built(dev) or _bind_refused(dev, mm) or scheme.bind_device_pasid(dev, mm, pasid)


def iommu_sva_unbind_device(handle: IommuSva) -> None:
    """Undo one bind; the last one detaches. The device must have stopped using the number."""
    handle.dev.kernel.scheme.unbind_device(handle)


def iommu_sva_get_pasid(handle: IommuSva) -> int:
    """Return the number that the driver shall program."""
    return handle.dev.kernel.scheme.get_pasid(handle)


def mm_get_enqcmd_pasid(mm: MmStruct) -> int:
    """Return the number for ENQCMD and its like, or IOMMU_PASID_INVALID (include/linux/iommu.h)."""
    return mm.kernel.scheme.mm_get_enqcmd_pasid(mm)


def mm_valid_pasid(mm: MmStruct) -> bool:
    """Return whether the mm has SVA data (include/linux/iommu.h)."""
    return mm.kernel.scheme.mm_valid_pasid(mm)


def mm_pasid_init(mm: MmStruct) -> None:
    """Start a new mm without SVA data: a fork copies the structure, not the bonds."""
    mm.iommu_mm = None


def mm_pasid_drop(mm: MmStruct) -> None:
    """Free the number of a dead mm."""
    mm.kernel.scheme.mm_pasid_drop(mm)


def _not_built(dev: Device) -> Refusal | None:
    """Answer as the stub of a kernel without CONFIG_IOMMU_SVA."""
    return BIND_NOT_BUILT.refuse(dev=dev.name) if "IOMMU_SVA" in dev.kernel.not_built else None


def _bind_refused(dev: Device, mm: MmStruct) -> Refusal | None:
    """The tests that come before any number is thought of, the same in all designs."""
    if dev.iommu_group is None:
        return BIND_NO_GROUP.refuse(dev=dev.name)
    kernel = dev.kernel
    if kernel.profile.x86_sva_refused and kernel.arch is Arch.X86:
        return BIND_X86.refuse(dev=dev.name)
    if not arch_pgtable_dma_compat(mm):
        return BIND_LAM.refuse(mm=mm.name)
    return None


# --- what schemes are built from -----------------------------------------------------------------------------


def iommu_alloc_mm_data(mm: MmStruct, dev: Device) -> IommuMmData | Refusal:
    """Return the mm's data, made on first use with the lowest free global number; published at once."""
    data: IommuMmData | None = mm.iommu_mm
    if data is not None:
        if data.pasid >= dev.max_pasids:
            return number_too_wide(dev, mm, data.pasid)
        return data
    if mm.kernel.allocation_fails():
        return BIND_NO_MEMORY.refuse(mm=mm.name)
    pasid = iommu_alloc_global_pasid(dev)
    if pasid == IOMMU_PASID_INVALID:
        return no_number(dev)
    data = mm.iommu_mm = IommuMmData(mm, pasid)
    return data


def no_number(dev: Device) -> Refusal:
    """Refuse because the global space has no number for the device."""
    if dev.max_pasids <= 1:
        return BIND_NO_PASIDS.refuse(dev=dev.name, reason=_lack_of_pasids(dev))
    return BIND_NOSPC.refuse(dev=dev.name, range=pasid_range(dev))


def _lack_of_pasids(dev: Device) -> str:
    """Say that it is the kernel which knows no PASIDs, or the IOMMU which offers none though the device has some."""
    if dev.pci and "PCI_PASID" in dev.kernel.not_built:
        return ": the kernel was built without CONFIG_PCI_PASID"
    bits = own_max_pasids(dev).bit_length() - 1
    return f": of its own it has {bits} bits, and its IOMMU offers none" if bits > 0 else ""


def number_too_wide(dev: Device, mm: MmStruct, pasid: int) -> Refusal:
    """Refuse a number that the mm has and the device cannot carry."""
    return BIND_OVERFLOW.refuse(mm=mm.name, pasid=pasid, dev=dev.name, range=pasid_range(dev))


def iommu_sva_bind_pasid(dev: Device, data: IommuMmData, pasid: int) -> IommuSva | Refusal:
    """Return the bond of the mm at `pasid` in the device's group, found or made: the second half of every bind."""
    mm = data.mm
    assert dev.iommu_group is not None
    if pasid in dev.iommu_group.pasid_array:
        found = iommu_attach_handle_get(dev.iommu_group, pasid, DomainType.SVA)
        if isinstance(found, IommuSva):
            return _bind_again(dev, found, mm)
        if isinstance(found, Refusal) and found.errno is not Errno.ENOENT:
            return found
    if mm.kernel.allocation_fails():
        return BIND_HANDLE_NO_MEMORY.refuse(mm=mm.name, dev=dev.name)
    handle = IommuSva(dev=dev, data=data, pasid=pasid)
    for domain in data.sva_domains:
        if iommu_attach_device_pasid(domain, dev, pasid, handle) is None:
            domain.users += 1
            mm.kernel.decided(BIND_SHARED_DOMAIN, dev=dev.name, mm=mm.name)
            break
    else:
        refusal = _bind_new_domain(handle)
        if refusal:
            return refusal
    dev.iommu_group.bonds.setdefault(mm, []).append(handle)
    return handle


def _bind_again(dev: Device, handle: IommuSva, mm: MmStruct) -> IommuSva | Refusal:
    """Share a bond of the same mm; refuse the number of another."""
    if handle.mm is not mm:
        assert dev.iommu_group is not None
        held = slot_text(dev.iommu_group, handle.pasid)
        return BIND_OTHER_MM.refuse(dev=dev.name, pasid=handle.pasid, held=held)
    handle.users += 1
    mm.kernel.decided(BIND_SAME_MM, dev=dev.name, mm=mm.name, named=handle.dev.name)
    return handle


def _bind_new_domain(handle: IommuSva) -> Refusal | None:
    dev, data = handle.dev, handle.data
    domain = iommu_sva_domain_alloc(dev, data.mm)
    if isinstance(domain, Refusal):
        return domain
    refusal = iommu_attach_device_pasid(domain, dev, handle.pasid, handle)
    if refusal:
        iommu_domain_free(domain)
        return refusal
    domain.users = 1
    if not data.sva_domains:
        data.mm.kernel.iommu_sva_mms[data.mm] = None
    data.sva_domains.insert(0, domain)
    data.mm.kernel.decided(BIND_NEW_DOMAIN, dev=dev.name, mm=data.mm.name)
    return None


def iommu_sva_domain_alloc(dev: Device, mm: MmStruct) -> IommuDomain | Refusal:
    """Let the driver make an SVA domain; it holds the mm's structure."""
    ops = dev.ops
    if ops.domain_alloc_sva is None:
        rule = BIND_NO_SVA_FALLBACK if dev.kernel.profile.domain_alloc_fallback else BIND_NO_SVA
        return rule.refuse(dev=dev.name)
    domain = ops.domain_alloc_sva(dev, mm)
    if isinstance(domain, Refusal):
        return domain
    mmgrab(mm)
    domain.iopf_handler = iommu_sva_iopf_handler
    return domain


def iommu_domain_free(domain: IommuDomain) -> None:
    """Free a domain; an SVA domain lets its mm go (drivers/iommu/iommu.c)."""
    if domain.mm is not None:
        mmdrop(domain.mm)
    if domain.ops.free is not None:
        domain.ops.free(domain)


def iommu_sva_release_bond(handle: IommuSva) -> bool:
    """Give back one use of a bond, and the bond with the last one; true when it went."""
    data, domain, kernel = handle.data, handle.domain, handle.dev.kernel
    if not handle.users:
        kernel.warn("iommu_sva_unbind_device", f"the bond of {data.mm.name} on {handle.dev.name} is gone already")
        return False
    handle.users -= 1
    if handle.users:
        kernel.decided(UNBIND_SHARED, mm=data.mm.name, dev=handle.dev.name)
        return False
    assert domain is not None
    _forget_bond(handle)
    iommu_detach_device_pasid(domain, handle.dev, handle.pasid)
    domain.users -= 1
    if not domain.users:
        data.sva_domains.remove(domain)
        if not data.sva_domains:
            kernel.iommu_sva_mms.pop(data.mm, None)
        iommu_domain_free(domain)
    kernel.decided(UNBIND_LAST, mm=data.mm.name, dev=handle.dev.name, pasid=handle.pasid)
    return True


def iommu_sva_invalidate_kva_range(kernel: Kernel, start: int, end: int) -> None:
    """Flush kernel mappings from the IOMMU's caches for every bound mm, whatever gave its number.

    Reaches an mm through its notifiers, so one that was released gets nothing.
    """
    if not kernel.profile.kva_invalidation:
        return
    kernel.decided(KVA_FLUSHED)
    for mm in kernel.iommu_sva_mms:
        if mm.mm_users:
            mmu_notifier_arch_invalidate_secondary_tlbs(mm, start, end)
            kernel.emit(events.KvaInvalidated(mm.name, start, end))


def _forget_bond(handle: IommuSva) -> None:
    group, mm = handle.dev.iommu_group, handle.mm
    assert group is not None
    group.bonds[mm].remove(handle)
    if not group.bonds[mm]:
        del group.bonds[mm]


def has_portal(dev: Device) -> bool:
    """Whether a device that shares the numbers of `dev`, being of its group, has an ENQCMD-sensitive portal."""
    return any(member.enqcmd_bar for member in dev.members)


def bond_of(group: IommuGroup, mm: MmStruct) -> IommuSva | None:
    """Return the oldest bond of the mm in a group, whatever its number; for drivers' and portals' questions."""
    bonds = group.bonds.get(mm)
    return bonds[0] if bonds else None

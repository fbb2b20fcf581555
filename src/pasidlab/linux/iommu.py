"""drivers/iommu/iommu.c: groups, domains, the global PASID allocator, attach, detach, replace.

Source: Linux 6.12.117 and 7.3.4; where they differ a switch of `profiles` decides. Functions bear the kernel's
names and test in the kernel's order. A function that returns 0 or a negative errno in C returns None or a
`Refusal` here.

Not modelled: locks, deferred attach, default-domain changes at run time, DMA aliases, sysfs. `pasid_array` is a dict.
Ownership and the reset fence of the same kernel file are in `ownership` and `reset`.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

from pasidlab import events
from pasidlab.errors import Errno
from pasidlab.linux.pci_ats import pci_max_pasids
from pasidlab.linux.structs import (
    IOMMU_NO_PASID,
    IOMMU_PASID_INVALID,
    RESERVED,
    AttachHandle,
    Device,
    DomainType,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    Slot,
)
from pasidlab.pasid import INT_MAX
from pasidlab.rules import MOST_LISTED, WAS_READ, WAS_RUN, Refusal, Rule, listing

if TYPE_CHECKING:
    from pasidlab.linux.kernel import Kernel

_U32_BITS = 32


# --- probing -------------------------------------------------------------------------------------------------


def dev_iommu_get_max_pasids(dev: Device) -> int:
    """Return the smaller of the device's and the IOMMU's bound (drivers/iommu/iommu.c)."""
    assert dev.iommu is not None
    return min(own_max_pasids(dev), dev.iommu.max_pasids)


def own_max_pasids(dev: Device) -> int:
    """Return the device's own bound, whatever its IOMMU takes."""
    if dev.pci:
        return pci_max_pasids(dev)
    return 0 if dev.pasid_num_bits is None else _property_bound(dev)


def _property_bound(dev: Device) -> int:
    """Return `1 << pasid-num-bits`, which the kernel keeps in 32 bits."""
    bits = dev.pasid_num_bits or 0
    if bits < _U32_BITS:
        return 1 << bits
    return 0 if dev.kernel.profile.pasid_num_bits_truncated else 1 << _U32_BITS


GROUP_MIXED_WIDTH = Rule(
    "group.mixed-width",
    "iommu_attach_device_pasid (drivers/iommu/iommu.c)",
    "pasid >= device->dev->iommu->max_pasids of a group member: the narrowest limits all",
    "the devices of group {group} have different max_pasids ({widths}): a number must fit each of them",
    source=WAS_RUN,
    remedy="take a slot or ACS setting that gives the device a group of its own",
)


def iommu_probe_device(dev: Device, iommu: IommuDevice, group: IommuGroup) -> None:
    """Put a device behind an IOMMU and into a group (`__iommu_probe_device`); it starts in the identity domain."""
    dev.iommu = iommu
    dev.iommu_group = group
    dev.max_pasids = dev_iommu_get_max_pasids(dev)
    group.devices.append(dev)
    if group.default_domain is None:
        group.default_domain = group.domain = iommu.ops.identity_domain
    _find_mixed_widths(dev, group)


def _find_mixed_widths(dev: Device, group: IommuGroup) -> None:
    """Keep one finding of a group, which grows with each device that joins."""
    kernel = dev.kernel
    group.widths.setdefault(dev.max_pasids, dev.name)
    if len(group.widths) == 1:
        return
    if group.mixed is not None:
        kernel.forget(group.mixed)
    group.mixed = kernel.found(GROUP_MIXED_WIDTH, group=group.name, widths=_width_text(group))


def _width_text(group: IommuGroup) -> str:
    """Say the max_pasids of a group: of each member, or of a large group the first that has each."""
    if len(group.devices) <= MOST_LISTED:
        return ", ".join(f"{member.name} {member.max_pasids}" for member in group.devices)
    firsts = (f"{name} {width}" for width, name in islice(group.widths.items(), MOST_LISTED))
    return f"{listing(firsts, len(group.widths))}, in {len(group.devices)} devices"


def iommu_setup_default_domain(dev: Device, domain: IommuDomain) -> Refusal | None:
    """Attach a device that was just probed to the default domain of its group; the first brings the domain."""
    group = dev.iommu_group
    assert group is not None
    if group.devices[0] is dev:
        group.default_domain = group.domain = domain
    assert domain.ops.attach_dev is not None
    return domain.ops.attach_dev(domain, dev)


ENABLE_SVA_NO_OP = Rule(
    "enable-sva.unsupported",
    "iommu_dev_enable_feature (drivers/iommu/iommu.c)",
    "!ops->dev_enable_feat",
    "the IOMMU driver of {dev} has no SVA feature to enable",
    Errno.ENODEV,
    "6.12.117 (read)",
    remedy="put the device behind an IOMMU whose Linux driver has SVA; from 6.16 on there is nothing to enable",
)


def iommu_dev_enable_feature_sva(dev: Device) -> Refusal | None:
    """`iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_SVA)`, which drivers had to call before binding until 6.16."""
    if dev.iommu is None or dev.ops.dev_enable_sva is None:
        return ENABLE_SVA_NO_OP.refuse(dev=dev.name)
    return dev.ops.dev_enable_sva(dev)


# --- the global PASID allocator ------------------------------------------------------------------------------

ALLOC_GLOBAL = Rule(
    "alloc-global.taken",
    "iommu_alloc_global_pasid (drivers/iommu/iommu.c)",
    "ida_alloc_range(&iommu_global_pasid_ida, 1, max_pasids - 1)",
    "{dev} took {pasid} from the global space",
    source="6.12.117 and 7.3.4 (run)",
)
ALLOC_GLOBAL_NONE = Rule(
    "alloc-global.none",
    "iommu_alloc_global_pasid (drivers/iommu/iommu.c)",
    "!max_pasids || ida_alloc_range(...) < 0 -> IOMMU_PASID_INVALID",
    "{dev} carries {range}, and no such number is free: the call gives IOMMU_PASID_INVALID, its errno is lost",
    Errno.ENOSPC,
    "6.12.117 and 7.3.4 (run)",
    remedy="end processes that hold numbers the device carries, and unload modules that do",
)


FREE_GLOBAL = Rule(
    "free-global.done",
    "iommu_free_global_pasid (drivers/iommu/iommu.c)",
    "ida_free(&iommu_global_pasid_ida, pasid)",
    "{pasid} is free in the global space again",
    source=WAS_RUN,
)
FREE_GLOBAL_WARN = Rule(
    "free-global.not-held",
    "iommu_free_global_pasid (drivers/iommu/iommu.c)",
    "WARN_ON: IOMMU_PASID_INVALID, or a number that is not allocated",
    "the kernel warns: {pasid} is not held; nothing changes",
    source=WAS_RUN,
    remedy="let the driver free each number once, and none that it did not get",
)


def pasid_range(dev: Device) -> str:
    """Say in words which numbers the device can carry."""
    if dev.max_pasids <= 1:
        return "no PASID"
    return "1" if dev.max_pasids == 2 else f"1..{dev.max_pasids - 1}"


def iommu_alloc_global_pasid(dev: Device) -> int:
    """Take a number for `dev`; IOMMU_PASID_INVALID when it carries none or none is free."""
    if not dev.max_pasids:
        return IOMMU_PASID_INVALID
    kernel = dev.kernel
    pasid = kernel.scheme.alloc_global(kernel.iommu_global_pasid_ida, dev)
    if pasid is None:
        return IOMMU_PASID_INVALID
    report_global_pasid(dev, pasid)
    return pasid


def report_global_pasid(dev: Device, pasid: int) -> None:
    """Tell that a number of the global space was taken for a device."""
    if dev.kernel.observers:
        dev.kernel.emit(events.PasidAllocated(pasid, dev.name))


def iommu_free_global_pasid(kernel: Kernel, pasid: int) -> None:
    """Give a number back; WARN for INVALID and for one that is not held, silence from 2^31 on, as ida_free."""
    if pasid == IOMMU_PASID_INVALID:
        kernel.warn("iommu_free_global_pasid", "pasid is IOMMU_PASID_INVALID")
        kernel.decided(FREE_GLOBAL_WARN, pasid="IOMMU_PASID_INVALID")
        return
    if pasid > INT_MAX:
        return
    if not kernel.iommu_global_pasid_ida.free(pasid):
        kernel.warn("ida_free", f"ida_free called for id={pasid} which is not allocated")
        kernel.decided(FREE_GLOBAL_WARN, pasid=pasid)
        return
    kernel.global_users.pop(pasid, None)
    if kernel.observers:
        kernel.emit(events.PasidFreed(pasid))
    kernel.decided(FREE_GLOBAL, pasid=pasid)


# --- attach --------------------------------------------------------------------------------------------------

_ATTACH = "iommu_attach_device_pasid (drivers/iommu/iommu.c)"
ATTACH_NO_GROUP = Rule(
    "attach.no-group",
    _ATTACH,
    "!dev->iommu_group",
    "{dev} is behind no IOMMU",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="switch the IOMMU on in the firmware's setup and on the kernel's command line (iommu=, intel_iommu=on)",
)
ATTACH_NO_OP = Rule(
    "attach.no-set-dev-pasid",
    _ATTACH,
    "!domain->ops->set_dev_pasid, or no blocked domain that has it",
    "the IOMMU driver of {dev} cannot attach this kind of domain to a PASID",
    Errno.EOPNOTSUPP,
    source=WAS_RUN,
    remedy="use a domain that this driver takes under a PASID: AMD's takes SVA domains only, RISC-V's none",
)
ATTACH_FOREIGN = Rule(
    "attach.foreign-domain",
    _ATTACH,
    "!domain_iommu_ops_compatible(ops, domain)",
    "the domain was made by another IOMMU driver than that of {dev}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="allocate the domain for this very device (iommu_paging_domain_alloc(dev))",
)
ATTACH_ZERO = Rule(
    "attach.pasid-zero",
    _ATTACH,
    "pasid == IOMMU_NO_PASID",
    "PASID 0 is the traffic of {dev} without PASID",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="use numbers from 1 on, and iommu_attach_device() for traffic without PASID",
)
ATTACH_RESET = Rule(
    "attach.reset",
    _ATTACH,
    "group->recovery_cnt (7.0: group->resetting_domain)",
    "a device in the group of {dev} is being reset",
    Errno.EBUSY,
    "7.3.4 (run)",
    remedy="try again when the reset is over",
)
ATTACH_TOO_WIDE = Rule(
    "attach.beyond-max-pasids",
    _ATTACH,
    "pasid >= device->dev->iommu->max_pasids of a group member",
    "{member}, in the group of {dev}, carries {range}: {pasid} does not fit",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="use a number that every member of the group carries, or part the group: ACS on the ports above, "
    "another slot",
)
ATTACH_TAKEN = Rule(
    "attach.slot-taken",
    _ATTACH,
    "xa_insert(&group->pasid_array, pasid) == -EBUSY",
    "number {pasid} on {dev} is already attached to {held}",
    Errno.EBUSY,
    source=WAS_RUN,
    remedy="detach what is there first, or use iommu_replace_device_pasid() where there is it",
)
ATTACH_DONE = Rule(
    "attach.done",
    _ATTACH,
    "every member of the group took the domain",
    "{dev} uses the domain under {pasid}",
    source=WAS_RUN,
)


def iommu_attach_device_pasid(
    domain: IommuDomain, dev: Device, pasid: int, handle: AttachHandle | None = None
) -> Refusal | None:
    """Attach `domain` to `pasid` for every member of the device's group, or to none."""
    refusal = _attach_refused(domain, dev, pasid)
    if refusal:
        return refusal
    group = dev.iommu_group
    assert group is not None
    if handle is not None:
        handle.domain = domain
    if pasid in group.pasid_array:
        return ATTACH_TAKEN.refuse(dev=dev.name, pasid=pasid, held=slot_text(group, pasid))
    entry: Slot = RESERVED if handle is None else handle
    late = dev.kernel.profile.late_publication
    group.pasid_array[pasid] = RESERVED if late else entry
    if group.numbers is not None and pasid <= INT_MAX:
        group.numbers.take(pasid)
    refusal = __iommu_set_group_pasid(domain, group, pasid, None)
    if refusal:
        _erase_slot(group, pasid)
        return refusal
    if late:
        group.pasid_array[pasid] = domain if handle is None else handle
    return None


def _attach_refused(domain: IommuDomain, dev: Device, pasid: int) -> Refusal | None:
    """The tests of attach that change nothing, in the order of the profile."""
    first, second = _no_group, _no_operation
    if not dev.kernel.profile.group_test_first:
        first, second = second, first
    refusal = first(domain, dev) or second(domain, dev)
    if refusal:
        return refusal
    if domain.owner is not dev.ops:
        return ATTACH_FOREIGN.refuse(dev=dev.name)
    if pasid == IOMMU_NO_PASID:
        return ATTACH_ZERO.refuse(dev=dev.name)
    group = dev.iommu_group
    assert group is not None
    if group.recovery_cnt:
        return ATTACH_RESET.refuse(dev=dev.name)
    for member in group.devices:
        if pasid >= member.max_pasids and not _left_out(member):
            return ATTACH_TOO_WIDE.refuse(dev=dev.name, member=member.name, range=pasid_range(member), pasid=pasid)
    return None


def _no_group(domain: IommuDomain, dev: Device) -> Refusal | None:
    return None if dev.iommu_group else ATTACH_NO_GROUP.refuse(dev=dev.name)


def _no_operation(domain: IommuDomain, dev: Device) -> Refusal | None:
    missing = domain.ops.set_dev_pasid is None
    if dev.kernel.profile.detach_through_blocked_domain and not missing:
        blocked = dev.ops.blocked_domain
        missing = blocked is None or blocked.ops.set_dev_pasid is None
    return ATTACH_NO_OP.refuse(dev=dev.name) if missing else None


def _left_out(member: Device) -> bool:
    """Whether a member without PASIDs is passed over; 6.12.0 let it refuse every number of its group."""
    return member.max_pasids == 0 and member.kernel.profile.skip_members_without_pasids


def __iommu_set_group_pasid(
    domain: IommuDomain, group: IommuGroup, pasid: int, old: IommuDomain | None
) -> Refusal | None:
    """Set every member that has PASIDs; on failure put back those before it, in list order."""
    set_dev_pasid = domain.ops.set_dev_pasid
    assert set_dev_pasid is not None
    for index, member in enumerate(group.devices):
        if not member.max_pasids:
            continue
        refusal = set_dev_pasid(domain, member, pasid, old)
        if refusal:
            _roll_back(domain, group.devices[:index], pasid, old)
            return refusal
    return None


def _roll_back(domain: IommuDomain, members: list[Device], pasid: int, old: IommuDomain | None) -> None:
    for member in members:
        if not member.max_pasids:
            continue
        if old is None:
            iommu_remove_dev_pasid(member, pasid, domain)
            continue
        assert old.ops.set_dev_pasid is not None
        if old.ops.set_dev_pasid(old, member, pasid, domain):
            member.kernel.warn("__iommu_set_group_pasid", f"{member.name} refuses its old domain at {pasid}")
            iommu_remove_dev_pasid(member, pasid, domain)


def iommu_remove_dev_pasid(dev: Device, pasid: int, domain: IommuDomain) -> None:
    """Take `domain` off the PASID of one device: to the blocked domain, or before 6.14 by remove_dev_pasid."""
    if not dev.kernel.profile.detach_through_blocked_domain:
        assert dev.ops.remove_dev_pasid is not None
        dev.ops.remove_dev_pasid(dev, pasid, domain)
        return
    blocked = dev.ops.blocked_domain
    assert blocked is not None
    assert blocked.ops.set_dev_pasid is not None
    if blocked.ops.set_dev_pasid(blocked, dev, pasid, domain):
        dev.kernel.warn("iommu_remove_dev_pasid", f"{dev.name} refuses the blocked domain at {pasid}")


DETACH_DONE = Rule(
    "detach.done",
    "iommu_detach_device_pasid (drivers/iommu/iommu.c)",
    "every member that is not in reset was set to the blocked domain, then the slot erased",
    "nothing is attached to {pasid} on {dev} any more",
    source=WAS_RUN,
)


def _erase_slot(group: IommuGroup, pasid: int) -> None:
    group.pasid_array.pop(pasid, None)
    if group.numbers is not None:
        group.numbers.free(pasid)


def iommu_detach_device_pasid(domain: IommuDomain, dev: Device, pasid: int) -> None:
    """Detach from every member; hardware first, the slot last. A member in reset is blocked already."""
    group = dev.iommu_group
    assert group is not None
    for member in group.devices:
        if member.max_pasids and not member.blocked:
            iommu_remove_dev_pasid(member, pasid, domain)
    _erase_slot(group, pasid)
    dev.kernel.decided(DETACH_DONE, dev=dev.name, pasid=pasid)


# --- replace -------------------------------------------------------------------------------------------------

_REPLACE = "iommu_replace_device_pasid (drivers/iommu/iommu.c)"
REPLACE_MISSING = Rule(
    "replace.no-such-call",
    _REPLACE,
    "the function is not there before 6.15",
    "kernel {kernel} has no iommu_replace_device_pasid()",
    Errno.ENOSYS,
    source=WAS_RUN,
    remedy="use a kernel from 6.15 on, or detach and attach",
)
REPLACE_NO_GROUP = Rule(
    "replace.no-group",
    _REPLACE,
    "!dev->iommu_group",
    "{dev} is behind no IOMMU",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="switch the IOMMU on in the firmware's setup and on the kernel's command line (iommu=, intel_iommu=on)",
)
REPLACE_NO_OP = Rule(
    "replace.no-set-dev-pasid",
    _REPLACE,
    "!domain->ops->set_dev_pasid",
    "the IOMMU driver of {dev} cannot attach this kind of domain to a PASID",
    Errno.EOPNOTSUPP,
    source=WAS_READ,
    remedy="use a domain that this driver takes under a PASID: AMD's takes SVA domains only, RISC-V's none",
)
REPLACE_INVALID = Rule(
    "replace.invalid",
    _REPLACE,
    "!domain_iommu_ops_compatible() || pasid == IOMMU_NO_PASID || !handle",
    "replacing needs a domain of the driver of {dev}, a PASID that is not 0, and a handle",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="use a domain of this very device, a PASID from 1 on, and a handle",
)
REPLACE_RESET = Rule(
    "replace.reset",
    _REPLACE,
    "group->recovery_cnt (7.0: group->resetting_domain)",
    "a device in the group of {dev} is being reset",
    Errno.EBUSY,
    source=WAS_RUN,
    remedy="try again when the reset is over",
)
REPLACE_EMPTY = Rule(
    "replace.empty-slot",
    _REPLACE,
    "xa_cmpxchg(&group->pasid_array, pasid, NULL, XA_ZERO_ENTRY) == NULL",
    "nothing is attached to {pasid} on {dev}",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="attach first",
)
REPLACE_SAME = Rule(
    "replace.same-handle",
    _REPLACE,
    "WARN_ON(curr == entry)",
    "the handle is the one that {pasid} on {dev} already has",
    Errno.EINVAL,
    source=WAS_RUN,
    remedy="use a new handle for each replacement",
)
REPLACE_DONE = Rule(
    "replace.done",
    _REPLACE,
    "every member took the new domain, or it is the old one",
    "{dev} uses the new domain under {pasid}",
    source=WAS_RUN,
)


def iommu_replace_device_pasid(
    domain: IommuDomain, dev: Device, pasid: int, handle: AttachHandle | None
) -> Refusal | None:
    """Put `domain` where another is attached, with no gap; the same domain needs no driver call."""
    refusal = _replace_refused(domain, dev, pasid, handle)
    if refusal:
        return refusal
    group = dev.iommu_group
    assert group is not None
    assert handle is not None
    handle.domain = domain
    current = group.pasid_array.get(pasid)
    if current is None:
        return REPLACE_EMPTY.refuse(dev=dev.name, pasid=pasid)
    if current is handle:
        dev.kernel.warn("iommu_replace_device_pasid", f"the same handle again at {pasid} of {dev.name}")
        return REPLACE_SAME.refuse(dev=dev.name, pasid=pasid)
    old = slot_domain(current)
    if old is not domain:
        refusal = __iommu_set_group_pasid(domain, group, pasid, old)
        if refusal:
            return refusal
    group.pasid_array[pasid] = handle
    return None


def _replace_refused(domain: IommuDomain, dev: Device, pasid: int, handle: AttachHandle | None) -> Refusal | None:
    if not dev.kernel.profile.replace_device_pasid:
        return REPLACE_MISSING.refuse(kernel=dev.kernel.profile.name)
    if dev.iommu_group is None:
        return REPLACE_NO_GROUP.refuse(dev=dev.name)
    if domain.ops.set_dev_pasid is None:
        return REPLACE_NO_OP.refuse(dev=dev.name)
    if domain.owner is not dev.ops or pasid == IOMMU_NO_PASID or handle is None:
        return REPLACE_INVALID.refuse(dev=dev.name)
    if dev.iommu_group.recovery_cnt:
        return REPLACE_RESET.refuse(dev=dev.name)
    return None


# --- looking into a slot -------------------------------------------------------------------------------------

_GET = "iommu_attach_handle_get (drivers/iommu/iommu.c)"
HANDLE_ABSENT = Rule(
    "handle-get.absent",
    _GET,
    "no entry, a reserved one, or one without handle",
    "no handle is attached at {pasid}",
    Errno.ENOENT,
    source=WAS_RUN,
    remedy="attach with a handle first",
)
HANDLE_TYPE = Rule(
    "handle-get.other-type",
    _GET,
    "type && handle->domain->type != type",
    "number {pasid} on {devices} belongs to {held}",
    Errno.EBUSY,
    source=WAS_RUN,
    remedy="use another number: this one has a domain of another kind",
)


def iommu_attach_handle_get(group: IommuGroup, pasid: int, type: DomainType | None = None) -> AttachHandle | Refusal:
    """Return the handle of a slot, if it has one and its domain is of the asked type."""
    entry = group.pasid_array.get(pasid)
    if not isinstance(entry, AttachHandle):
        return HANDLE_ABSENT.refuse(pasid=pasid)
    assert entry.domain is not None
    if type is not None and entry.domain.type is not type:
        devices = ", ".join(dev.name for dev in group.devices)
        return HANDLE_TYPE.refuse(pasid=pasid, devices=devices, held=slot_text(group, pasid))
    return entry


def slot_domain(entry: Slot) -> IommuDomain | None:
    """Return the domain that an entry of `pasid_array` names, if it names one."""
    if isinstance(entry, AttachHandle):
        return entry.domain
    return entry if isinstance(entry, IommuDomain) else None


def slots_text(group: IommuGroup) -> str:
    """Say in words what holds the slots of a group, the lowest numbers first."""
    first = heapq.nsmallest(MOST_LISTED, group.pasid_array)
    return listing((f"{pasid} to {slot_text(group, pasid)}" for pasid in first), len(group.pasid_array)) or "none"


def slot_text(group: IommuGroup, pasid: int) -> str:
    """Say in words what holds a slot."""
    entry = group.pasid_array.get(pasid)
    domain = None if entry is None else slot_domain(entry)
    if entry is None:
        return "nothing"
    if domain is None:
        return "a domain that was attached without handle (kernel DMA)"
    if domain.type is DomainType.SVA and domain.mm is not None:
        return f"{domain.mm.holder} (SVA)"
    if isinstance(entry, AttachHandle):
        return f"domain {domain.id}, attached with a handle (as iommufd does)"
    return f"domain {domain.id}, attached without handle (kernel DMA)"

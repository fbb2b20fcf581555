"""drivers/iommu/iommu.c, continued: who owns a group, and why nobody takes it while a PASID is attached.

Source: Linux 6.12.117 and 7.3.4 (read). A kernel driver uses the default domain of its group; user space (VFIO,
iommufd) claims the whole group.

Not modelled: claims of a whole group at once, the domain changes that come with a claim beyond blocking the RID.
"""

from __future__ import annotations

from pasidlab.errors import Errno
from pasidlab.linux.structs import Device, IommuDomain, IommuGroup
from pasidlab.rules import WAS_READ, Refusal, Rule

_OWNER = "iommu_device_claim_dma_owner (drivers/iommu/iommu.c)"
_DEFAULT = "iommu_device_use_default_domain (drivers/iommu/iommu.c)"
DEFAULT_DEFERRED = Rule(
    "default-domain.not-ready",
    _DEFAULT,
    "!group->default_domain",
    "the group of {dev} has no default domain yet",
    Errno.EPROBE_DEFER,
    source=WAS_READ,
)
DEFAULT_BUSY = Rule(
    "default-domain.busy",
    _DEFAULT,
    "group->owner_cnt && (domain changed || group->owner || !xa_empty(&group->pasid_array))",
    "the group of {dev} is owned, or has PASIDs attached",
    Errno.EBUSY,
    source=WAS_READ,
)
OWNER_NO_GROUP = Rule(
    "dma-owner.no-group",
    _OWNER,
    "!dev->iommu_group",
    "{dev} is behind no IOMMU",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="switch the IOMMU on; without one, VFIO has only its unsafe mode",
)
OWNER_OTHER = Rule(
    "dma-owner.other-owner",
    _OWNER,
    "group->owner_cnt && group->owner != owner",
    "the group of {dev} belongs to somebody else",
    Errno.EPERM,
    source=WAS_READ,
    remedy="see who has the group: the drivers of all its members, and whose VFIO file is open",
)
OWNER_PASIDS = Rule(
    "dma-owner.pasids-attached",
    _OWNER,
    "!xa_empty(&group->pasid_array)",
    "the group of {dev} still has PASIDs attached: {pasids}",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="close every file of the device, so that its bonds end; disable kernel queues of idxd",
)
OWNER_RELEASED = Rule(
    "dma-owner.released",
    "iommu_device_release_dma_owner (drivers/iommu/iommu.c)",
    "owned, no PASID attached",
    "{dev} has one owner less",
    source=WAS_READ,
)
OWNER_NOT_RELEASED = Rule(
    "dma-owner.not-released",
    "iommu_device_release_dma_owner (drivers/iommu/iommu.c)",
    "WARN_ON(!group->owner_cnt || !group->owner || !xa_empty(&group->pasid_array))",
    "the kernel warns: {dev} is not owned, or has PASIDs attached",
    source=WAS_READ,
)
OWNER_CLAIMED = Rule("dma-owner.claimed", _OWNER, "no owner, no PASID attached", "{dev} is owned", source=WAS_READ)


def iommu_device_use_default_domain(dev: Device) -> Refusal | None:
    """Let a kernel driver use the default domain of its group (called before its probe)."""
    group = dev.iommu_group
    if group is None:
        return None
    if group.default_domain is None:
        return DEFAULT_DEFERRED.refuse(dev=dev.name)
    changed = group.domain is not group.default_domain
    if group.owner_cnt and (changed or group.owner is not None or group.pasid_array):
        return DEFAULT_BUSY.refuse(dev=dev.name)
    group.owner_cnt += 1
    return None


def iommu_device_unuse_default_domain(dev: Device) -> None:
    """Undo `iommu_device_use_default_domain`; WARN while a PASID is attached, nothing changes then."""
    group = dev.iommu_group
    if group is None:
        return
    if not group.owner_cnt or group.pasid_array:
        dev.kernel.warn("iommu_device_unuse_default_domain", f"{dev.name} still has PASIDs attached")
        return
    group.owner_cnt -= 1


def iommu_device_claim_dma_owner(dev: Device, owner: object) -> Refusal | None:
    """Give the group to user space (VFIO, iommufd); refused while any PASID is attached."""
    group = dev.iommu_group
    if group is None:
        return OWNER_NO_GROUP.refuse(dev=dev.name)
    if group.owner_cnt:
        if group.owner != owner:
            return OWNER_OTHER.refuse(dev=dev.name)
    elif group.pasid_array:
        return OWNER_PASIDS.refuse(dev=dev.name, pasids=", ".join(map(str, sorted(group.pasid_array))))
    else:
        group.owner = owner
        _set_group_domain(group, dev.ops.blocked_domain)
    group.owner_cnt += 1
    dev.kernel.decided(OWNER_CLAIMED, dev=dev.name)
    return None


def iommu_device_release_dma_owner(dev: Device) -> None:
    """Undo a claim; WARN when nobody owns the group or a PASID is attached, nothing changes then."""
    group = dev.iommu_group
    if group is not None and group.owner_cnt > 1:
        group.owner_cnt -= 1
        dev.kernel.decided(OWNER_RELEASED, dev=dev.name)
        return
    if group is None or not group.owner_cnt or group.owner is None or group.pasid_array:
        dev.kernel.warn("iommu_device_release_dma_owner", f"{dev.name} is not owned, or has PASIDs attached")
        dev.kernel.decided(OWNER_NOT_RELEASED, dev=dev.name)
        return
    group.owner_cnt = 0
    group.owner = None
    _set_group_domain(group, group.default_domain)
    dev.kernel.decided(OWNER_RELEASED, dev=dev.name)


def _set_group_domain(group: IommuGroup, domain: IommuDomain | None) -> None:
    """Attach the traffic without PASID of every member (`__iommu_group_set_domain_nofail`)."""
    group.domain = domain
    if domain is None or domain.ops.attach_dev is None:
        return
    for member in group.devices:
        if domain.ops.attach_dev(domain, member):
            member.kernel.warn("__iommu_group_set_domain_nofail", f"{member.name} refuses the domain")

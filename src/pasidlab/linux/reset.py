"""drivers/iommu/iommu.c, continued: the fence around a PCI reset.

Source: Linux 7.3.4 (run), and 7.0 (read), whose fence does not nest; before 7.0 there is none.

Not modelled: DMA aliases, the error exits of prepare, RID changes and deferred attach inside the fence.
"""

from __future__ import annotations

from pasidlab.errors import Errno
from pasidlab.linux.iommu import iommu_remove_dev_pasid, slot_domain
from pasidlab.linux.structs import Device, IommuDomain, IommuGroup, Slot
from pasidlab.rules import WAS_READ, WAS_RUN, Refusal, Rule

_RESET = "pci_dev_reset_iommu_prepare (drivers/iommu/iommu.c)"
RESET_NESTED = Rule(
    "reset.already",
    _RESET,
    "WARN_ON(group->resetting_domain)",
    "{dev} is being reset already",
    Errno.EBUSY,
    "7.0 (read); 7.3.4 allows nesting",
)


RESET_NO_FENCE = Rule(
    "reset.no-fence",
    _RESET,
    "the kernel has no fence, or the device no IOMMU",
    "{dev} is reset without any fence",
    source=WAS_READ,
)
RESET_FENCED = Rule(
    "reset.fenced",
    _RESET,
    "RID and every PASID of the device are blocked",
    "{dev} reaches nothing until its reset is done ({depth} deep)",
    source="7.3.4 (run)",
)
RESET_LIFTED = Rule(
    "reset.lifted",
    "pci_dev_reset_iommu_done (drivers/iommu/iommu.c)",
    "reset_depth reached 0",
    "{dev} has its RID and the PASIDs of its group back",
    source="7.3.4 (run)",
)
RESET_UNBALANCED = Rule(
    "reset.unbalanced",
    "pci_dev_reset_iommu_done (drivers/iommu/iommu.c)",
    "WARN_ON(!reset_depth)",
    "the kernel warns: {dev} is not being reset",
    source=WAS_RUN,
)
RESET_STILL = Rule(
    "reset.still-fenced",
    "pci_dev_reset_iommu_done (drivers/iommu/iommu.c)",
    "--reset_depth",
    "{dev} is still being reset, {depth} deep",
    source=WAS_RUN,
)


def pci_dev_reset_iommu_prepare(dev: Device) -> Refusal | None:
    """Block the RID and every PASID of a device before its reset; `pasid_array` stays as it is."""
    kernel, group = dev.kernel, dev.iommu_group
    fence = kernel.profile.reset_fence
    if fence == "none" or group is None:
        kernel.decided(RESET_NO_FENCE, dev=dev.name)
        return None
    if fence == "flat" and group.recovery_cnt:
        kernel.warn("pci_dev_reset_iommu_prepare", f"{dev.name} is being reset already")
        return RESET_NESTED.refuse(dev=dev.name)
    dev.reset_depth += 1
    if dev.reset_depth == 1:
        _block_device(dev, group)
    kernel.decided(RESET_FENCED, dev=dev.name, depth=dev.reset_depth)
    return None


def _block_device(dev: Device, group: IommuGroup) -> None:
    blocked = dev.ops.blocked_domain
    assert blocked is not None
    if group.domain is not blocked:
        _attach_rid(blocked, dev)
    dev.blocked = True
    for pasid, entry in sorted(group.pasid_array.items()):
        domain = slot_domain(entry)
        if pasid and dev.max_pasids and domain is not None:
            iommu_remove_dev_pasid(dev, pasid, domain)
    group.recovery_cnt += 1


def pci_dev_reset_iommu_done(dev: Device) -> None:
    """Put the RID and every PASID of the array back; a driver that refuses leaves that PASID blocked."""
    kernel, group = dev.kernel, dev.iommu_group
    if kernel.profile.reset_fence == "none" or group is None:
        kernel.decided(RESET_NO_FENCE, dev=dev.name)
        return
    if not dev.reset_depth:
        kernel.warn("pci_dev_reset_iommu_done", f"{dev.name} is not being reset")
        kernel.decided(RESET_UNBALANCED, dev=dev.name)
        return
    dev.reset_depth -= 1
    if dev.reset_depth:
        kernel.decided(RESET_STILL, dev=dev.name, depth=dev.reset_depth)
        return
    if group.domain is not None:
        _attach_rid(group.domain, dev)
    dev.blocked = False
    for pasid, entry in sorted(group.pasid_array.items()):
        if pasid and dev.max_pasids:
            _restore_pasid(dev, pasid, entry)
    group.recovery_cnt -= 1
    kernel.decided(RESET_LIFTED, dev=dev.name)


def _restore_pasid(dev: Device, pasid: int, entry: Slot) -> None:
    domain = slot_domain(entry)
    if domain is None:
        return
    assert domain.ops.set_dev_pasid is not None
    if domain.ops.set_dev_pasid(domain, dev, pasid, dev.ops.blocked_domain):
        dev.kernel.warn("pci_dev_reset_iommu_done", f"{dev.name} refuses to restore PASID {pasid}")


def _attach_rid(domain: IommuDomain, dev: Device) -> None:
    assert domain.ops.attach_dev is not None
    domain.ops.attach_dev(domain, dev)

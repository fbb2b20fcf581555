"""What bounds the numbers of a device: the first of the limits that is met, and the fact that says so.

Source: iommu_init_device() (drivers/iommu/iommu.c: the smaller of device and IOMMU), iommu_attach_device_pasid() (every
member of the group), arm_smmu_probe_device() (ten bits without two-level CD tables), intel_pasid_alloc_table() (the
narrowest unit), pci_enable_pasid(), Linux 6.12.117 and 7.3.4. The values are those of the model after probe.
Decided here: of limits that are equal, the one nearest to the device is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pasidlab.audit.capacity import Fit, driver_bound
from pasidlab.description.unknown import Unknown
from pasidlab.linux.iommu import own_max_pasids, pasid_range
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.rules import Verdict

AMD_ONE_LESS = "one less than a power of two, as AMD's driver has it"


class Kind(StrEnum):
    """Where a limit is."""

    NO_IOMMU = "no IOMMU"
    KERNEL = "kernel"
    PREFIX_PATH = "prefix path"
    ACS_PATH = "ACS path"
    PASID_OFF = "PASID off"
    POLICY = "policy"
    DEVICE = "device"
    FIRMWARE = "firmware"
    IOMMU = "IOMMU"
    LINEAR_TABLE = "linear table"
    GROUP = "group"
    UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Limit:
    """Numbers below `below` pass; `fact` is a sentence that says why no others do.

    Where it is a rule's, `rule` is its id, and `remedy` what people can do.
    """

    kind: Kind
    below: int
    fact: str
    rule: str = ""
    remedy: str = ""


def number_limit(machine: Machine, dev: Device, narrowest: Device | None) -> Limit:
    """Return the limit that bounds the numbers of a device which has an IOMMU; `narrowest` is that of its group."""
    assert dev.iommu is not None
    limits = [_own(dev), _iommu(dev), *_driver(machine, dev), *_group(dev, narrowest)]
    return min(limits, key=lambda limit: limit.below)


def _own(dev: Device) -> Limit:
    below = own_max_pasids(dev)
    if not dev.pci:
        lack = "it has no property pasid-num-bits"
        fact = lack if dev.pasid_num_bits is None else f"pasid-num-bits is {dev.pasid_num_bits}"
        return Limit(Kind.FIRMWARE, below, fact)
    function = dev.physfn or dev
    whose = "its PASID capability" if dev.physfn is None else f"the PASID capability of {function.name}"
    if function.pci_pasid_width is None:
        return Limit(Kind.DEVICE, below, f"{'it' if dev.physfn is None else function.name} has no PASID capability")
    return Limit(Kind.DEVICE, below, f"{whose} says {bits_text(function.pci_pasid_width)}")


def _iommu(dev: Device) -> Limit:
    iommu = dev.iommu
    assert iommu is not None
    if not iommu.max_pasids:
        return Limit(Kind.IOMMU, 0, f"{iommu.name} offers no PASIDs")
    if iommu.max_pasids & (iommu.max_pasids + 1) == 0 and iommu.max_pasids > 1:
        return Limit(
            Kind.IOMMU, iommu.max_pasids, f"{iommu.name} takes numbers below {iommu.max_pasids:,}, {AMD_ONE_LESS}"
        )
    return Limit(Kind.IOMMU, iommu.max_pasids, f"{iommu.name} takes numbers below {iommu.max_pasids:,}")


def _driver(machine: Machine, dev: Device) -> list[Limit]:
    """Return the limit of tables that the driver made for the device, unless the core's is as narrow."""
    bound = driver_bound(machine, dev)
    if bound is None or bound >= dev.max_pasids:
        return []
    assert dev.iommu is not None
    if dev in machine.parts.smmus.masters:
        fact = f"{dev.iommu.name} has no two-level CD tables, and the device's linear one has {bound:,} entries"
        return [Limit(Kind.LINEAR_TABLE, bound, fact)]
    return [Limit(Kind.IOMMU, bound, f"directories of PASIDs are made for the narrowest unit: numbers below {bound:,}")]


def doubted(limit: Limit, dev: Device, narrowest: Device | None, unknown: Unknown) -> Limit:
    """Return a limit; where it follows from what an import could not find out, that this is not known."""
    why = ""
    if limit.kind is Kind.NO_IOMMU:
        why = unknown.iommu(dev.name)
    elif limit.kind is Kind.GROUP and narrowest is not None:
        why = unknown.pasids.get((narrowest.physfn or narrowest).name, "")
    elif limit.kind in (Kind.DEVICE, Kind.FIRMWARE, Kind.PASID_OFF):
        why = unknown.pasids.get((dev.physfn or dev).name, "")
    return Limit(Kind.UNKNOWN, limit.below, why) if why else limit


def narrowest_member(dev: Device) -> Device | None:
    """Return the member that bounds a device's group; one without PASIDs is passed over where the kernel does so."""
    skipped = dev.kernel.profile.skip_members_without_pasids
    bounds = (member for member in dev.members if member.max_pasids or not skipped)
    return min(bounds, key=lambda member: member.max_pasids, default=None)


def _group(dev: Device, narrowest: Device | None) -> list[Limit]:
    """Return the limit of a narrower member."""
    if narrowest is None or narrowest.max_pasids >= dev.max_pasids:
        return []
    fact = f"{narrowest.name}, in its group, carries {pasid_range(narrowest)}"
    return [Limit(Kind.GROUP, narrowest.max_pasids, fact)]


def bits_text(bits: int) -> str:
    """Say how many bits."""
    return "1 bit" if bits == 1 else f"{bits} bits"


# --- what allows no SVA at all ---------------------------------------------------------------------------------

OF_NUMBERS = frozenset({"bind.no-number-free", "bind.device-without-pasids", "attach.beyond-max-pasids"})
"""Rules that refuse for want of a number, which the limits of numbers explain."""
_KINDS = {
    "bind.no-group": Kind.NO_IOMMU,
    "bind.not-built": Kind.KERNEL,
    "bind.x86-refused": Kind.KERNEL,
    "policy.too-narrow": Kind.POLICY,
    "quota.user": Kind.POLICY,
    "quota.device": Kind.POLICY,
    "intel.sva-no-pasid-or-ats": Kind.DEVICE,
    "intel.sva-pri-off": Kind.DEVICE,
    "arm-smmu-v3.iopf-streams": Kind.DEVICE,
    "arm-smmu-v3.enable-iopf-streams": Kind.DEVICE,
    "enable-pasid.not-built": Kind.KERNEL,
    "enable-pasid.no-prefix-path": Kind.PREFIX_PATH,
    "enable-pasid.no-acs": Kind.ACS_PATH,
    "enable-pasid.no-capability": Kind.DEVICE,
}
_SVA_OF_DRIVERS = frozenset({"ARM_SMMU_V3_SVA", "INTEL_IOMMU_SVM"})


def barrier(dev: Device, fit: Fit) -> Limit | None:
    """Return what keeps even the first address space from a device, if that is not a want of numbers."""
    if fit.spaces:
        return None
    if dev.pasid_refused is not None:
        return _barred(_kind_of_off(dev), dev.pasid_refused)
    if fit.next.rule.id in OF_NUMBERS:
        return None
    return _barred(_kind(dev, fit.next), fit.next)


def _barred(kind: Kind, refused: Verdict) -> Limit:
    return Limit(kind, 0, refused.why, refused.rule.id, refused.remedy)


def _kind_of_off(dev: Device) -> Kind:
    """Return where the reason lies that PASID could not be switched on, for a virtual function in the physical one."""
    refused = dev.pasid_refused
    if dev.physfn is not None and dev.physfn.pasid_refused is not None:
        refused = dev.physfn.pasid_refused
    assert refused is not None
    return _KINDS.get(refused.rule.id, Kind.PASID_OFF)


def _kind(dev: Device, refused: Verdict) -> Kind:
    if refused.rule.id in _KINDS:
        return _KINDS[refused.rule.id]
    of_driver = refused.rule.id.startswith(("arm-smmu-v3.", "intel.", "driver.", "bind.driver-without-sva"))
    return Kind.KERNEL if of_driver and dev.kernel.not_built & _SVA_OF_DRIVERS else Kind.IOMMU

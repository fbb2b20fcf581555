"""The RFC of 2026-04-24: numbers per device where the IOMMU has IOMMU_CAP_PER_DEV_PASID_SPACE.

Source: commit message of Joonwon Kang's RFC (thread, message 3) and the quotes in messages 19 and 20: a new call
`iommu_attach_device_pasid_any()` picks any free PASID out of the group's `pasid_array`, and SVA uses it instead of
the global allocator when the IOMMU says so. The diff itself was not seen. Ours by decision, therefore: the lowest free
number is picked; the number is freed when the bond goes; and ENQCMD carries the number of the mm's first bond
(option `rfc_enqcmd`), because nothing in the mail changes `mm_get_enqcmd_pasid()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pasidlab.errors import Errno
from pasidlab.linux.iommu import (
    ATTACH_NO_GROUP,
    iommu_alloc_global_pasid,
    iommu_attach_device_pasid,
    pasid_range,
    slots_text,
)
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.sva import (
    IommuMmData,
    IommuSva,
    iommu_sva_bind_pasid,
    iommu_sva_release_bond,
    no_number,
    number_too_wide,
)
from pasidlab.rules import Refusal, Rule
from pasidlab.schemes.base import Scheme
from pasidlab.schemes.local import is_local

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device, IommuDomain, IommuGroup

DEVICE_FULL = Rule(
    "rfc.device-full",
    "iommu_attach_device_pasid_any (RFC)",
    "no free index of group->pasid_array in [1, max_pasids - 1]",
    "{dev} carries {range} and each of them is attached: {held}",
    Errno.ENOSPC,
    "thread 2026-04-24 Joonwon Kang (RFC, message 3)",
    remedy="unbind processes from this device, or detach what else has its numbers",
)
PICKED = Rule(
    "rfc.picked",
    "iommu_attach_device_pasid_any (RFC)",
    "the lowest free index of group->pasid_array",
    "{dev} uses its own number {pasid}",
    source="thread 2026-04-24 Joonwon Kang (RFC, message 3)",
)


@dataclass(slots=True, eq=False, repr=False)
class RfcMmData(IommuMmData):
    """What the RFC keeps of an mm: its bonds on devices with a space of their own, by group, oldest first."""

    local: dict[IommuGroup, IommuSva] = field(default_factory=dict)

    @property
    def numbers(self) -> int:
        """How many numbers the mm holds."""
        return len(self.local) + (self.global_pasid is not None)


class Rfc(Scheme):
    """Numbers from the device's group where the IOMMU keeps a space per device, from the global space elsewhere."""

    name = "rfc"
    summary = "core, per device, when the IOMMU has IOMMU_CAP_PER_DEV_PASID_SPACE; else global"
    source = "Joonwon Kang, RFC of 2026-04-24"

    def bind(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Bind at any free number of the device, or as mainline does."""
        data = self.data_of(mm, RfcMmData)
        if isinstance(data, Refusal):
            return data
        if self._is_local(dev):
            return self._bind_local(dev, data)
        if data.pasid == IOMMU_PASID_INVALID:
            pasid = iommu_alloc_global_pasid(dev)
            if pasid == IOMMU_PASID_INVALID:
                return no_number(dev)
            data.pasid = pasid
            mm.iommu_mm = data
        elif data.pasid >= dev.max_pasids:
            return number_too_wide(dev, mm, data.pasid)
        return iommu_sva_bind_pasid(dev, data, data.pasid)

    def _is_local(self, dev: Device) -> bool:
        return is_local(dev, self.options.local_by or "iommu")

    def has_own_space(self, dev: Device) -> bool:
        """The IOMMU says so."""
        return self._is_local(dev)

    def uses_number_of(self, dev: Device, mm: MmStruct, pasid: int | None) -> bool:
        """A device with a space of its own needs a new number for each bond."""
        return not self._is_local(dev) and super().uses_number_of(dev, mm, pasid)

    def _bind_local(self, dev: Device, data: RfcMmData) -> IommuSva | Refusal:
        group = dev.iommu_group
        assert group is not None
        bond = data.local.get(group)
        pasid = bond.pasid if bond else _any_free(dev)
        if pasid is None:
            return _device_full(dev)
        if pasid >= dev.max_pasids:
            return number_too_wide(dev, data.mm, pasid)
        handle = iommu_sva_bind_pasid(dev, data, pasid)
        if isinstance(handle, IommuSva):
            data.local[group] = handle
            data.mm.iommu_mm = data
        return handle

    def attach_device_pasid_any(self, domain: IommuDomain, dev: Device) -> int | Refusal:
        """Attach `domain` to the lowest free number of the device."""
        if dev.iommu_group is None:
            return ATTACH_NO_GROUP.refuse(dev=dev.name)
        pasid = _any_free(dev)
        if pasid is None:
            return _device_full(dev)
        refusal = iommu_attach_device_pasid(domain, dev, pasid)
        if refusal:
            return refusal
        dev.kernel.decided(PICKED, dev=dev.name, pasid=pasid)
        return pasid

    def unbind_device(self, handle: IommuSva) -> None:
        """Give back one use; the number is free as soon as the bond is gone."""
        data = handle.data
        assert isinstance(data, RfcMmData)
        group = handle.dev.iommu_group
        assert group is not None
        if iommu_sva_release_bond(handle) and data.local.get(group) is handle:
            del data.local[group]

    def mm_get_enqcmd_pasid(self, mm: MmStruct) -> int:
        """Return the global number; without one, by `rfc_enqcmd`, that of the oldest local bond."""
        data = mm.iommu_mm
        if data is None:
            return IOMMU_PASID_INVALID
        assert isinstance(data, RfcMmData)
        if data.pasid != IOMMU_PASID_INVALID or self.options.rfc_enqcmd == "none":
            return data.pasid
        return next((bond.pasid for bond in data.local.values()), IOMMU_PASID_INVALID)


def _any_free(dev: Device) -> int | None:
    """Return the lowest number that is free in the group and that all its members carry."""
    group = dev.iommu_group
    assert group is not None
    if not dev.max_pasids:
        return None
    bound = min(member.max_pasids for member in group.devices if member.max_pasids)
    return group.held_numbers().lowest_free(1, bound - 1)


def _device_full(dev: Device) -> Refusal:
    if dev.max_pasids <= 1:
        return no_number(dev)
    group = dev.iommu_group
    assert group is not None
    return DEVICE_FULL.refuse(dev=dev.name, range=pasid_range(dev), held=slots_text(group))

"""The reviewers' hybrid: one global PASID per mm for ENQCMD and its like, plus an array of [device, pasid] pairs.

Source: the structure is Kevin Tian's (2026-05-25): on #GP fetch the global number, on a device-specific bind match
[dev, pasid]. The rules are Jason Gunthorpe's (2026-05-13, a to f): (a) no number for ENQCMD until the normal bind;
(b) the new call never brings it about; (c) the architecture blocks while it is invalid; (d) no portal without a
normal bind; (e) the driver manages its numbers; (f) groups: nobody said how, see below. Nothing was posted as code.

Ours by decision: pairs are keyed by group, because `pasid_array` is, so the members of a group share a pair; a bind
decides first and publishes after success, as v2 does; the global number is the lowest that is free on this
group too, which cures v2's standing blockade (N1); an mm may have several local numbers on one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pasidlab.errors import Errno
from pasidlab.linux.iommu import iommu_free_global_pasid, pasid_range
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.sva import (
    IommuMmData,
    IommuSva,
    iommu_sva_bind_pasid,
    iommu_sva_release_bond,
)
from pasidlab.rules import Refusal, Rule
from pasidlab.schemes.base import Scheme
from pasidlab.schemes.local import is_local

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device

_BIND = "iommu_sva_bind_device_pasid (hybrid)"
LOCAL_TOO_WIDE = Rule(
    "hybrid.local-too-wide",
    _BIND,
    "pasid >= dev->iommu->max_pasids",
    "{dev} carries {range}: {pasid} does not fit",
    Errno.EOVERFLOW,
    "as v2, rows 6 and 7",
    remedy="let the driver give out numbers that its device carries",
)


@dataclass(slots=True, eq=False, repr=False)
class HybridMmData(IommuMmData):
    """`pasid` is the global number, INVALID until a normal bind succeeds; `local` are the [group, pasid] pairs.

    A pair is the bond that has them: `local` those that the driver numbered, `normal` those that
    `iommu_sva_bind_device()` asked for; a bond can be both.
    """

    local: set[IommuSva] = field(default_factory=set)
    normal: set[IommuSva] = field(default_factory=set)

    @property
    def numbers(self) -> int:
        """How many numbers the mm holds; a pair at its global number is no second one."""
        return len(self.local - self.normal) + (self.global_pasid is not None)


class Hybrid(Scheme):
    """A global number for those instructions, and any number of driver-owned ones beside it."""

    name = "hybrid"
    summary = (
        "both at once: one global PASID per mm for ENQCMD/ST64BV0, plus [dev, pasid] pairs; a portal hole to guard"
    )
    source = "Kevin Tian 2026-05-25, under Jason Gunthorpe's rules of 2026-05-13"

    def bind(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Bind at the mm's global number, taken lazily."""
        data = self.data_of(mm, HybridMmData)
        if isinstance(data, Refusal):
            return data
        pasid = self.global_number(dev, data)
        if isinstance(pasid, Refusal):
            return pasid
        handle = iommu_sva_bind_pasid(dev, data, pasid)
        if isinstance(handle, IommuSva):
            data.pasid = pasid
            data.normal.add(handle)
            mm.iommu_mm = data
        elif data.pasid == IOMMU_PASID_INVALID:
            iommu_free_global_pasid(mm.kernel, pasid)
        return handle

    def bind_pasid(self, dev: Device, mm: MmStruct, pasid: int) -> IommuSva | Refusal:
        """Bind at the driver's number: an existing pair matches, a new one needs its slot free."""
        if pasid >= dev.max_pasids:
            return LOCAL_TOO_WIDE.refuse(dev=dev.name, range=pasid_range(dev), pasid=pasid)
        data = self.data_of(mm, HybridMmData)
        if isinstance(data, Refusal):
            return data
        handle = iommu_sva_bind_pasid(dev, data, pasid)
        if isinstance(handle, IommuSva):
            data.local.add(handle)
            mm.iommu_mm = data
        return handle

    def driver_owns_pasids(self, dev: Device) -> bool:
        """The driver manages its numbers (e)."""
        return is_local(dev, self.options.local_by or "driver")

    def unbind_device(self, handle: IommuSva) -> None:
        """Give back one use; a pair ends with its bond, the global number stays with the mm."""
        data = handle.data
        assert isinstance(data, HybridMmData)
        if iommu_sva_release_bond(handle):
            data.local.discard(handle)
            data.normal.discard(handle)

    def normal_bonds(self, dev: Device, mm: MmStruct) -> Sequence[IommuSva]:
        """Return the bond at the number that ENQCMD will carry, if the normal bind was called for it (d)."""
        data = mm.iommu_mm
        if dev.iommu_group is None or not isinstance(data, HybridMmData):
            return ()
        bond = dev.iommu_group.pasid_array.get(data.pasid)
        return (bond,) if isinstance(bond, IommuSva) and bond in data.normal else ()

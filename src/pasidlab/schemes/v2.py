"""The v2 patch of 2026-05-20: core numbers or driver numbers, one mode per mm, sticky, mutually exclusive.

Source: the patch as read (docs/thread.md, section 2.1) and as run on 6.12.117 (its records are under
`tests/data`); the row numbers below are those of the decision table, with the corrections that the run brought.
Rows 0 to 2 are tested before any scheme is asked, rows 8 to 14 are `iommu_sva_bind_pasid()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pasidlab.errors import Errno
from pasidlab.linux.iommu import iommu_alloc_global_pasid, iommu_free_global_pasid, pasid_range
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.sva import (
    BIND_NO_MEMORY,
    IommuMmData,
    IommuSva,
    iommu_sva_bind_pasid,
    no_number,
    number_too_wide,
)
from pasidlab.rules import Refusal, Rule
from pasidlab.schemes.base import Scheme
from pasidlab.schemes.local import is_local

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device

_BIND = "iommu_sva_bind_device_pasid (v2 patch)"
MODE_DIFFERS = Rule(
    "v2.mode-differs",
    _BIND,
    "iommu_mm->pasid_global != (pasid == IOMMU_NO_PASID)",
    "process {mm} was bound with {first} numbers first, which excludes {asked} numbers for its life, even after unbind",
    Errno.EBUSY,
    "thread 2026-05-20 Joonwon Kang (v2, limits L1 and L3); row 3",
    remedy="use one kind of numbers in a process for its whole life, or another process for the other kind",
)
OTHER_NUMBER_LIVE = Rule(
    "v2.other-number-live",
    _BIND,
    "!list_empty(&iommu_mm->sva_domains) && pasid != iommu_mm->pasid",
    "process {mm} has a live bond under {live}; the patch gives it no second number ({pasid} was asked)",
    Errno.ENOSPC,
    "thread 2026-05-20 Joonwon Kang (v2, limit L2); row 5",
    remedy="unbind the first number before the second, or use another process",
)
NUMBER_TOO_WIDE = Rule(
    "v2.number-too-wide",
    _BIND,
    "pasid >= dev->iommu->max_pasids",
    "{dev} carries {range}: {pasid} does not fit",
    Errno.EOVERFLOW,
    "rows 6 and 7",
    remedy="let the driver give out numbers that its device carries",
)


@dataclass(slots=True, eq=False, repr=False)
class V2MmData(IommuMmData):
    """`struct iommu_mm_data` with the patch's bool: `pasid` is of the global space, or the driver's."""

    pasid_global: bool = True

    @property
    def global_pasid(self) -> int | None:
        """The number that the mm holds of the global space, if it is in that mode."""
        return self.pasid if self.pasid_global else None

    @property
    def numbers(self) -> int:
        """One while the mm holds its global number, or has a bond under the driver's."""
        return int(self.pasid_global or bool(self.sva_domains))


class V2(Scheme):
    """The driver may bring the number, but an mm is in one mode for its life."""

    name = "v2"
    summary = "driver through iommu_sva_bind_device_pasid(), or core; one mode per mm, sticky, mutually exclusive"
    source = "Joonwon Kang, PATCH v2 of 2026-05-20 (run on 6.12.117)"

    def bind(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Bind in core mode."""
        return self._bind(dev, mm, None)

    def bind_pasid(self, dev: Device, mm: MmStruct, pasid: int) -> IommuSva | Refusal:
        """Bind in driver mode."""
        return self._bind(dev, mm, pasid)

    def driver_owns_pasids(self, dev: Device) -> bool:
        """The driver decides (Kevin Tian 2026-05-07, Jason Gunthorpe 2026-05-12)."""
        return is_local(dev, self.options.local_by or "driver")

    def uses_number_of(self, dev: Device, mm: MmStruct, pasid: int | None) -> bool:
        """A driver's number that the mm uses elsewhere is no second one."""
        data = mm.iommu_mm
        if pasid is None or data is None:
            return super().uses_number_of(dev, mm, pasid)
        return bool(data.numbers) and data.pasid == pasid

    def normal_bonds(self, dev: Device, mm: MmStruct) -> Sequence[IommuSva]:
        """Return the bonds of the mm in core mode."""
        return () if mm.global_pasid is None else super().normal_bonds(dev, mm)

    def _bind(self, dev: Device, mm: MmStruct, asked: int | None) -> IommuSva | Refusal:
        data = mm.iommu_mm
        if data is None:
            return self._first_bind(dev, mm, asked)
        assert isinstance(data, V2MmData)
        return _mode_refused(data, asked) or _number_refused(dev, data, asked) or self._bind_known(dev, data)

    def _bind_known(self, dev: Device, data: V2MmData) -> IommuSva | Refusal:
        return iommu_sva_bind_pasid(dev, data, data.pasid)

    def _first_bind(self, dev: Device, mm: MmStruct, asked: int | None) -> IommuSva | Refusal:
        """Row 7, and publication only after success: a failed first bind leaves nothing."""
        data = _first_data(dev, mm, asked)
        if isinstance(data, Refusal):
            return data
        handle = iommu_sva_bind_pasid(dev, data, data.pasid)
        if isinstance(handle, IommuSva):
            mm.iommu_mm = data
        elif data.pasid_global:
            iommu_free_global_pasid(mm.kernel, data.pasid)
        return handle

    def mm_get_enqcmd_pasid(self, mm: MmStruct) -> int:
        """Return the number in core mode only."""
        data = mm.iommu_mm
        if data is None or data.global_pasid is None:
            return IOMMU_PASID_INVALID
        return data.pasid


def _mode_refused(data: V2MmData, asked: int | None) -> Refusal | None:
    """Row 3."""
    if data.pasid_global == (asked is None):
        return None
    first, other = ("core", "driver") if data.pasid_global else ("driver", "core")
    return MODE_DIFFERS.refuse(mm=data.mm.name, first=first, asked=other)


def _number_refused(dev: Device, data: V2MmData, asked: int | None) -> Refusal | None:
    """Rows 4 to 6; the overwrite of row 4 stays whatever comes after it."""
    if asked is not None and not data.sva_domains:
        data.pasid = asked
    if asked is not None and asked != data.pasid:
        return OTHER_NUMBER_LIVE.refuse(mm=data.mm.name, live=data.pasid, pasid=asked)
    if data.pasid < dev.max_pasids:
        return None
    if asked is None:
        return number_too_wide(dev, data.mm, data.pasid)
    return _too_wide(dev, asked)


def _first_data(dev: Device, mm: MmStruct, asked: int | None) -> V2MmData | Refusal:
    if mm.kernel.allocation_fails():
        return BIND_NO_MEMORY.refuse(mm=mm.name)
    if asked is not None:
        return V2MmData(mm, asked, pasid_global=False) if asked < dev.max_pasids else _too_wide(dev, asked)
    pasid = iommu_alloc_global_pasid(dev)
    if pasid == IOMMU_PASID_INVALID:
        return no_number(dev)
    return V2MmData(mm, pasid)


def _too_wide(dev: Device, pasid: int) -> Refusal:
    return NUMBER_TOO_WIDE.refuse(dev=dev.name, range=pasid_range(dev), pasid=pasid)

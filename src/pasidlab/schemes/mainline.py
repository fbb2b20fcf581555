"""Today's Linux: one machine-wide space, one number for an mm, for its life.

Source: `iommu_sva_bind_device()` of Linux 6.12.117 and 7.3.4, both run. The number is taken at an mm's first bind, by
the limits of that first device, and is published before the bind can fail: a failed first bind still pins it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.linux.sva import iommu_alloc_mm_data, iommu_sva_bind_pasid
from pasidlab.rules import Refusal
from pasidlab.schemes.base import Scheme

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device
    from pasidlab.linux.sva import IommuSva


class Mainline(Scheme):
    """One global number per mm, picked by the core, kept until the mm dies."""

    name = "mainline"
    summary = "core, one global space, lowest free; the number belongs to the mm until the mm dies"
    source = "Linux 6.12.117 and 7.3.4 (run)"
    machine_wide = True

    def bind(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Take or keep the mm's number, then bind at it."""
        data = iommu_alloc_mm_data(mm, dev)
        if isinstance(data, Refusal):
            return data
        return iommu_sva_bind_pasid(dev, data, data.pasid)

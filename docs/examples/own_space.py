"""The core picks the lowest free number of each device's group; there is no global space, and no ENQCMD."""

from pasidlab.errors import Errno
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.structs import IOMMU_PASID_INVALID, Device
from pasidlab.linux.sva import IommuMmData, IommuSva, bond_of, iommu_sva_bind_pasid
from pasidlab.rules import Refusal, Rule
from pasidlab.schemes import Scheme

FULL = Rule(
    "own-space.full",
    "OwnSpace.bind (docs/examples/own_space.py)",
    "no free index of group->pasid_array",
    "every number of {dev} is attached",
    Errno.ENOSPC,
)


class OwnSpace(Scheme):
    """A space for each device, whatever the IOMMU or the driver says."""

    name = "own-space"
    summary = "core, per device, always"
    source = "docs/schemes.md"

    def bind(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Use the mm's number on this device, or take the lowest free one."""
        data = self.data_of(mm, IommuMmData)
        if isinstance(data, Refusal):
            return data
        assert dev.iommu_group is not None
        bond = bond_of(dev.iommu_group, mm)
        last = max(dev.max_pasids - 1, 0)
        pasid = bond.pasid if bond else dev.iommu_group.held_numbers().lowest_free(1, last)
        if pasid is None:
            return FULL.refuse(dev=dev.name)
        handle = iommu_sva_bind_pasid(dev, data, pasid)
        if isinstance(handle, IommuSva):
            mm.iommu_mm = data  # published after success: a failed bind leaves nothing
        return handle

    def mm_get_enqcmd_pasid(self, mm: MmStruct) -> int:
        """No number is right for all devices."""
        return IOMMU_PASID_INVALID

"""Mainline, but wide devices take their numbers from the top, which leaves the scarce low ones to narrow devices."""

from pasidlab.linux.iommu import Device
from pasidlab.pasid import Allocator
from pasidlab.schemes import Mainline


class TopDown(Mainline):
    """One global space, the highest number first."""

    name = "top-down"
    summary = "mainline from the top of each device's range"
    source = "R28 of docs/thread.md"

    def alloc_global(self, space: Allocator, dev: Device) -> int | None:
        """Take the highest free number that the device carries."""
        return space.alloc_highest(1, dev.max_pasids - 1)

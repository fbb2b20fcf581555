"""Who decides that a device's numbers are local: the IOMMU, the architecture, the device or its driver (R4).

The thread's candidates, in the order of the mails: the RFC asked the IOMMU (2026-04-24), Jason Gunthorpe the
architecture (2026-04-24, 4), Kevin Tian architecture and device (2026-05-07, 7), both then the driver (10, 18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pasidlab.linux.structs import Device
    from pasidlab.schemes.options import LocalBy


def _by_iommu(dev: Device) -> bool:
    return dev.iommu is not None and dev.iommu.per_device_pasid_space


def _by_arch(dev: Device) -> bool:
    return not dev.kernel.enqcmd_like


def _by_device(dev: Device) -> bool:
    return not dev.enqcmd_bar


def _by_driver(dev: Device) -> bool:
    return dev.owns_pasids


DECIDERS: dict[LocalBy, Callable[[Device], bool]] = {
    "iommu": _by_iommu,
    "arch": _by_arch,
    "device": _by_device,
    "driver": _by_driver,
}


def is_local(dev: Device, by: LocalBy) -> bool:
    """Whether `dev` has a number space of its own in the eyes of the decider."""
    return DECIDERS[by](dev)

"""Small worlds for the tests of the searches."""

from __future__ import annotations

from typing import Any

from pasidlab.explore.world import World

NARROW = {"name": "acc", "iommu": "iommu", "kind": "narrow", "pasid_bits": 2}
PCIE = {"name": "pci", "iommu": "iommu", "pasid_bits": 2}
DSA = {"name": "dsa", "iommu": "iommu", "pasid_bits": 2, "submit": "enqcmd"}
LOCAL = {"pasids": "local"}
ARM64 = {"arch": "arm64", "ls64": 3, "accdata": "switched"}


def world(
    *actions: str,
    devices: tuple[dict[str, Any], ...] = (NARROW,),
    processes: int = 2,
    threads: int = 1,
    numbers: int = 2,
    **more: Any,
) -> World:
    """Return a world of interchangeable processes whose devices are all behind one IOMMU."""
    iommu = {"name": "iommu", "max_pasids": numbers + 1, "per_device_pasid_space": True}
    process = {"name": "p", "count": processes, "threads": threads}
    named = {"actions": list(actions), "iommu": [iommu], "device": list(devices), "process": [process]}
    return World.from_dict(named | more)

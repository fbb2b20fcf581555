"""A machine in a line: how many IOMMUs of which model, how many devices, and how many of these carry PASIDs."""

from __future__ import annotations

from collections import Counter

from pasidlab.description import MachineSpec


def machine_text(spec: MachineSpec) -> str:
    """Return `2 IOMMUs (intel-vtd), 9 devices, 8 of them with PASIDs`."""
    models = ", ".join(Counter(iommu.model for iommu in spec.iommu))
    iommus = f"{_counted(len(spec.iommu), 'IOMMU')}{f' ({models})' if models else ''}"
    carrying = sum(device.pasid_bits is not None for device in spec.device)
    return f"{iommus}, {_counted(len(spec.device), 'device')}, {carrying:,} of them with PASIDs"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

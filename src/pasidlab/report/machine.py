"""A machine in a line: how many IOMMUs of which model, how many devices, and how many of these carry PASIDs."""

from __future__ import annotations

from collections import Counter

from pasidlab.description import MachineSpec
from pasidlab.rules import counted


def machine_text(spec: MachineSpec) -> str:
    """Return `2 IOMMUs (intel-vtd), 9 devices, 8 of them with PASIDs`."""
    models = ", ".join(Counter(iommu.model for iommu in spec.iommu))
    iommus = f"{counted(len(spec.iommu), 'IOMMU')}{f' ({models})' if models else ''}"
    carrying = sum(bool(device.pasid_bits) for device in spec.device)
    return f"{iommus}, {counted(len(spec.device), 'device')}, {carrying:,} of them with PASIDs"

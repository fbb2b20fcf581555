"""A machine as people describe it: its parts, the models of its IOMMUs, and what is wrong with a description."""

from pasidlab.description.check import check
from pasidlab.description.models import ARM_SMMU_V3, INTEL_VTD, MOCK, MODELS, on_model
from pasidlab.description.requesters import SID_BITS, sources_of, streams_of
from pasidlab.description.spec import (
    KERNEL,
    NOBODY,
    PAGE_SHIFTS,
    RESERVED_NAMES,
    CpuSpec,
    DetachStep,
    DeviceSpec,
    IommuSpec,
    MachineSpec,
    Name,
    ProcessSpec,
    operating_system,
)

__all__ = [
    "ARM_SMMU_V3",
    "INTEL_VTD",
    "KERNEL",
    "MOCK",
    "MODELS",
    "NOBODY",
    "PAGE_SHIFTS",
    "RESERVED_NAMES",
    "SID_BITS",
    "CpuSpec",
    "DetachStep",
    "DeviceSpec",
    "IommuSpec",
    "MachineSpec",
    "Name",
    "ProcessSpec",
    "check",
    "on_model",
    "operating_system",
    "sources_of",
    "streams_of",
]

"""A machine as people describe it: its parts, the models of its IOMMUs, and what is wrong with a description."""

from pasidlab.description.check import check
from pasidlab.description.config import EFFECTS, KERNEL_OPTIONS, not_built
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
    FindingSpec,
    IommuSpec,
    MachineSpec,
    Name,
    ProcessSpec,
    architecture,
    operating_system,
)

__all__ = [
    "ARM_SMMU_V3",
    "EFFECTS",
    "INTEL_VTD",
    "KERNEL",
    "KERNEL_OPTIONS",
    "MOCK",
    "MODELS",
    "NOBODY",
    "PAGE_SHIFTS",
    "RESERVED_NAMES",
    "SID_BITS",
    "CpuSpec",
    "DetachStep",
    "DeviceSpec",
    "FindingSpec",
    "IommuSpec",
    "MachineSpec",
    "Name",
    "ProcessSpec",
    "architecture",
    "check",
    "not_built",
    "on_model",
    "operating_system",
    "sources_of",
    "streams_of",
]

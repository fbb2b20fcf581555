"""What is wrong with a description that types alone cannot find: names used twice, names that name nothing."""

from __future__ import annotations

from pasidlab.description.config import check_config
from pasidlab.description.models import ARM_SMMU_V3, INTEL_VTD, check_device_model, check_iommu_model, models_of
from pasidlab.description.requesters import SID_BITS, sources_of, streams_of
from pasidlab.description.spec import (
    PAGE_SHIFTS,
    RESERVED_NAMES,
    DeviceSpec,
    IommuSpec,
    MachineSpec,
    operating_system,
)
from pasidlab.errors import InputError
from pasidlab.linux.mm import PAGE_SIZE
from pasidlab.linux.traps import X86Os

PCI_KEYS = ("prefix_path", "acs_path", "pasid_enabled")
"""Keys of a device that only a PCIe one has."""
PCI_KEYS_OF = {ARM_SMMU_V3: ("ats",)}
"""More of them, by model; behind an intel-vtd every device is one."""


def check(spec: MachineSpec) -> None:
    """Raise InputError for a name that is used twice, that names nothing, and for what no machine has."""
    for key in ("iommu", "device", "process"):
        _check_unique(key, [item.name for item in getattr(spec, key)])
    for index, process in enumerate(spec.process):
        if process.name in RESERVED_NAMES:
            raise InputError(f"process[{index}].name = {process.name!r}: stands for something else in expectations")
    _check_cpu(spec)
    check_config(spec)
    for index, iommu in enumerate(spec.iommu):
        check_iommu_model(index, spec)
        _check_stream_table(index, iommu)
    _check_devices(spec)
    streams_of(spec)
    sources_of(spec)


def _check_cpu(spec: MachineSpec) -> None:
    """Check that the kernel's pages and page tables are those of its architecture, and of the IOMMUs' tables."""
    x86 = isinstance(operating_system(spec), X86Os)
    vtd = any(iommu.model == INTEL_VTD for iommu in spec.iommu)
    if 1 << PAGE_SHIFTS[spec.cpu.page_size] != PAGE_SIZE and (x86 or vtd):
        whose = "an x86 kernel" if x86 else f"a kernel with an {INTEL_VTD}"
        raise InputError(f"cpu.page_size = {spec.cpu.page_size!r}: pages of {whose} have {PAGE_SIZE} bytes")
    if spec.cpu.la57 and not (x86 or vtd):
        raise InputError("cpu.la57 = True: only x86 page tables have 5 levels")


def _check_devices(spec: MachineSpec) -> None:
    """Check each device, with those that are described before it."""
    models = models_of(spec)
    described: set[str] = set()
    groups: set[str | None] = {None}
    for index, device in enumerate(spec.device):
        if device.iommu not in models:
            known = ", ".join(item.name for item in spec.iommu) or "none"
            raise InputError(f"device[{index}].iommu = {device.iommu!r}: no such name; known: {known}")
        if device.physfn is not None and device.physfn not in described:
            place = f"device[{index}].physfn = {device.physfn!r}"
            raise InputError(f"{place}: must name a device that is described before its virtual functions")
        _check_kind(index, device)
        check_device_model(index, device, models[device.iommu])
        _check_bus(index, device, models[device.iommu])
        _check_domain(index, device, joins=device.group in groups)
        described.add(device.name)
        groups.add(device.group)


def _check_kind(index: int, device: DeviceSpec) -> None:
    """Check that a device has only keys of its kind."""
    for key in ("queue", "kernel_pasid"):
        if getattr(device, key) is not None and not device.is_idxd:
            raise InputError(f"device[{index}].{key}: only a device of kind dsa or iaa has it, not {device.kind}")


def _check_stream_table(index: int, iommu: IommuSpec) -> None:
    if iommu.two_level is False and (iommu.sid_bits or 0) > SID_BITS:
        place = f"iommu[{index}].sid_bits = {iommu.sid_bits}"
        raise InputError(f"{place}: a linear stream table, two_level = false, has {SID_BITS} bits at most")


def _check_bus(index: int, device: DeviceSpec, model: str) -> None:
    """Check that only a PCIe device has PCIe keys."""
    for key in (*PCI_KEYS, *PCI_KEYS_OF.get(model, ())) if device.kind == "narrow" else ():
        if getattr(device, key) is not None:
            place = f"device[{index}].{key} = {getattr(device, key)!r}"
            raise InputError(f"{place}: only a PCIe device, of a kind other than narrow, has it")


def _check_domain(index: int, device: DeviceSpec, *, joins: bool) -> None:
    """Check that the first of a group says its domain."""
    if device.default_domain is not None and joins and device.group is not None:
        place = f"device[{index}].default_domain"
        raise InputError(f"{place}: the first device of group {device.group!r} says it for the whole group")


def _check_unique(key: str, names: list[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InputError(f"{key}[{index}].name = {name!r}: another {key} has this name; names are unique")
        seen.add(name)

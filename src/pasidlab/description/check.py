"""What is wrong with a description that types alone cannot find: names used twice, names that name nothing."""

from __future__ import annotations

from pasidlab.description.models import ARM_SMMU_V3, INTEL_VTD, check_device_model, check_iommu_model, model_of
from pasidlab.description.requesters import SID_BITS, sources_of, streams_of
from pasidlab.description.spec import PAGE_SHIFTS, RESERVED_NAMES, IommuSpec, MachineSpec, operating_system
from pasidlab.errors import InputError
from pasidlab.linux.mm import PAGE_SIZE
from pasidlab.linux.traps import X86Os

PCI_KEYS = {ARM_SMMU_V3: ("ats", "pasid_enabled")}
"""Keys of a device that only a PCIe one has, by model; behind an intel-vtd every device is one."""


def check(spec: MachineSpec) -> None:
    """Raise InputError for a name that is used twice, that names nothing, and for what no machine has."""
    for key in ("iommu", "device", "process"):
        _check_unique(key, [item.name for item in getattr(spec, key)])
    for index, process in enumerate(spec.process):
        if process.name in RESERVED_NAMES:
            raise InputError(f"process[{index}].name = {process.name!r}: stands for something else in expectations")
    _check_cpu(spec)
    for index, iommu in enumerate(spec.iommu):
        check_iommu_model(index, spec)
        _check_stream_table(index, iommu)
    for index in range(len(spec.device)):
        _check_device(index, spec)
        check_device_model(index, spec)
        _check_bus(index, spec)
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


def _check_device(index: int, spec: MachineSpec) -> None:
    """Check that a device names what there is, and has only keys of its kind."""
    device = spec.device[index]
    _check_known(f"device[{index}].iommu", device.iommu, [item.name for item in spec.iommu])
    if device.physfn is not None and device.physfn not in [other.name for other in spec.device[:index]]:
        place = f"device[{index}].physfn = {device.physfn!r}"
        raise InputError(f"{place}: must name a device that is described before its virtual functions")
    for key in ("queue", "kernel_pasid"):
        if getattr(device, key) is not None and not device.is_idxd:
            raise InputError(f"device[{index}].{key}: only a device of kind dsa or iaa has it, not {device.kind}")


def _check_stream_table(index: int, iommu: IommuSpec) -> None:
    if iommu.two_level is False and (iommu.sid_bits or 0) > SID_BITS:
        place = f"iommu[{index}].sid_bits = {iommu.sid_bits}"
        raise InputError(f"{place}: a linear stream table, two_level = false, has {SID_BITS} bits at most")


def _check_bus(index: int, spec: MachineSpec) -> None:
    """Check that only a PCIe device has PCIe keys, and that the first of a group says its domain."""
    device = spec.device[index]
    for key in PCI_KEYS.get(model_of(device, spec), ()) if device.kind == "narrow" else ():
        if getattr(device, key) is not None:
            place = f"device[{index}].{key} = {getattr(device, key)!r}"
            raise InputError(f"{place}: only a PCIe device, of a kind other than narrow, has it")
    joins = device.group is not None and device.group in {other.group for other in spec.device[:index]}
    if device.default_domain is not None and joins:
        place = f"device[{index}].default_domain"
        raise InputError(f"{place}: the first device of group {device.group!r} says it for the whole group")


def _check_unique(key: str, names: list[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InputError(f"{key}[{index}].name = {name!r}: another {key} has this name; names are unique")
        seen.add(name)


def _check_known(place: str, name: str | None, known: list[str]) -> None:
    if name is not None and name not in known:
        raise InputError(f"{place} = {name!r}: no such name; known: {', '.join(known) or 'none'}")

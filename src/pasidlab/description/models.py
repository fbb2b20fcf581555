"""The models of IOMMUs that a machine can have: which keys belong to each, and a machine on another model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TypeVar

from msgspec import Struct, structs

from pasidlab.description.spec import DeviceSpec, IommuSpec, MachineSpec, architecture
from pasidlab.drivers.traits import Mode
from pasidlab.errors import InputError

MOCK, ARM_SMMU_V3, INTEL_VTD = "mock", "arm-smmu-v3", "intel-vtd"
IOMMU_KEYS: dict[str, tuple[str, ...]] = {
    MOCK: ("caches", "detach"),
    ARM_SMMU_V3: ("ssid_bits", "sid_bits", "two_level", "stall", "granule", "httu", "ats", "pri", "caches", "detach"),
    INTEL_VTD: ("scalable", "five_level", "first_1g", "caching_mode", "ats", "pri", "caches"),
}
"""What an IOMMU of each model has beside what all have."""
DEVICE_KEYS: dict[str, tuple[str, ...]] = {
    MOCK: (),
    ARM_SMMU_V3: ("stream_id", "can_stall", "ats", "default_domain"),
    INTEL_VTD: ("source_id", "ats", "pri", "prg_pasid", "default_domain"),
}
"""What a device behind an IOMMU of each model has beside what all have."""
MODELS = tuple(IOMMU_KEYS)
M = TypeVar("M", bound=MachineSpec)


def on_model(spec: M, model: str) -> M:
    """Return the machine with every IOMMU of one model, what that model has no key for left out; the CPUs stay.

    Raises InputError for a model that there is not; whether each IOMMU can be of it is found by `check()`.
    """
    if model not in MODELS:
        raise InputError(f"model {model!r}: no such model; known: {', '.join(MODELS)}")
    iommus = [
        _without(structs.replace(iommu, model=model, pasid_bits=iommu.substream_bits), IOMMU_KEYS, model)
        for iommu in spec.iommu
    ]
    devices = [_without(device, DEVICE_KEYS, model) for device in spec.device]
    cpu = structs.replace(spec.cpu, arch=architecture(spec))
    return structs.replace(spec, cpu=cpu, iommu=iommus, device=devices)


S = TypeVar("S", bound=Struct)


def _without(item: S, keys: dict[str, tuple[str, ...]], model: str) -> S:
    """Return an item without the keys that only other models have."""
    return structs.replace(item, **dict.fromkeys(foreign_keys(keys, model)))


def foreign_keys(keys: dict[str, tuple[str, ...]], model: str) -> Iterator[str]:
    """Yield the keys that only other models have, each once."""
    return (key for key in dict.fromkeys(chain(*keys.values())) if key not in keys[model])


def models_of(spec: MachineSpec) -> dict[str | None, str]:
    """Return the model of each IOMMU by name; a device behind none is as one behind a mock."""
    return {None: MOCK, **{iommu.name: iommu.model for iommu in spec.iommu}}


def check_iommu_model(index: int, spec: MachineSpec) -> None:
    """Raise InputError for keys of an IOMMU that belong to other models, or do not agree with each other."""
    iommu = spec.iommu[index]
    _check_foreign(f"iommu[{index}]", iommu, IOMMU_KEYS, iommu.model, "an IOMMU of model")
    if iommu.model != MOCK and iommu.ops is not Mode.USUAL:
        place = f"iommu[{index}].ops = {iommu.ops.value!r}"
        raise InputError(f"{place}: only a mock acts like other drivers; leave it out for {iommu.model}")
    if iommu.pri and not (iommu.model == INTEL_VTD if iommu.ats is None else iommu.ats):
        raise InputError(f"iommu[{index}].pri = True: needs ats = true")
    _check_detach(f"iommu[{index}]", iommu)
    others = {other.model for other in spec.iommu} - {iommu.model, MOCK}
    if iommu.model == INTEL_VTD and others:
        place = f"iommu[{index}].model = {INTEL_VTD!r}"
        raise InputError(f"{place}: this machine has an {ARM_SMMU_V3} too, and no page table suits both")


def _check_detach(place: str, iommu: IommuSpec) -> None:
    """Check what a driver shall do to take an entry away."""
    steps = iommu.detach
    if steps is None:
        return
    if "table" not in steps:
        raise InputError(f"{place}.detach = {steps!r}: has no 'table', without which nothing is taken away")
    if len(set(steps)) < len(steps):
        raise InputError(f"{place}.detach = {steps!r}: names a step twice")
    if iommu.model == MOCK and not iommu.caches:
        raise InputError(f"{place}.detach: a mock has nothing to invalidate without caches = true")


def check_device_model(index: int, device: DeviceSpec, model: str) -> None:
    """Raise InputError for keys of a device that only one behind another model of IOMMU has."""
    _check_foreign(f"device[{index}]", device, DEVICE_KEYS, model, "a device behind an")


def _check_foreign(place: str, item: Struct, keys: dict[str, tuple[str, ...]], model: str, who: str) -> None:
    for key in foreign_keys(keys, model):
        if getattr(item, key) is not None:
            owners = " or ".join(owner for owner, owned in keys.items() if key in owned)
            raise InputError(f"{place}.{key} = {getattr(item, key)!r}: only {who} {owners} has it")

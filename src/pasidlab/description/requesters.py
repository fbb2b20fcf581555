"""How devices are known to IOMMUs: the StreamIDs of an arm-smmu-v3, the source identifiers of an intel-vtd."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from pasidlab.description.models import ARM_SMMU_V3, INTEL_VTD, model_of
from pasidlab.description.spec import MachineSpec
from pasidlab.errors import InputError

SID_BITS = 16
_FIRST_STREAM = 1
_FIRST_SOURCE, _FUNCTIONS, _SOURCES = 0x0008, 8, 1 << 16
"""Source identifiers that are given out: function 0 of each device from 00:01.0 on."""


def streams_of(spec: MachineSpec) -> dict[str, tuple[int, ...]]:
    """Return the StreamIDs of each device behind an arm-smmu-v3; InputError for one used twice or too large."""
    limits = {iommu.name: SID_BITS if iommu.sid_bits is None else iommu.sid_bits for iommu in spec.iommu}
    smmus = {iommu.name for iommu in spec.iommu if iommu.model == ARM_SMMU_V3}
    given: dict[str, tuple[int, ...]] = {}
    taken: dict[str, set[int]] = {name: set() for name in smmus}
    for index, device in enumerate(spec.device):
        if device.iommu not in smmus or device.stream_id is None:
            continue
        streams = (device.stream_id,) if isinstance(device.stream_id, int) else tuple(device.stream_id)
        _check_streams(f"device[{index}].stream_id", streams, limits[device.iommu], taken[device.iommu])
        given[device.name] = streams
    free = {name: _untaken(sids) for name, sids in taken.items()}
    for index, device in enumerate(spec.device):
        if device.iommu in smmus and device.stream_id is None:
            sid, bits = next(free[device.iommu]), limits[device.iommu]
            if sid >> bits:
                place = f"device[{index}].stream_id"
                raise InputError(f"{place}: missing, and none from {_FIRST_STREAM} on is free where sid_bits = {bits}")
            given[device.name] = (sid,)
    return given


def _untaken(taken: set[int]) -> Iterator[int]:
    """Return the StreamIDs that nobody has, the lowest first."""
    return (sid for sid in count(_FIRST_STREAM) if sid not in taken)


def _check_streams(place: str, streams: tuple[int, ...], sid_bits: int, taken: set[int]) -> None:
    if not streams:
        raise InputError(f"{place} = []: a device has one StreamID at least")
    for sid in streams:
        if sid >> sid_bits:
            allowed = f"allowed: 0 to {(1 << sid_bits) - 1}"
            raise InputError(f"{place}: StreamID {sid} does not fit the SMMU's sid_bits = {sid_bits}; {allowed}")
        if streams.count(sid) > 1:
            raise InputError(f"{place}: StreamID {sid} is listed twice")
        if sid in taken:
            raise InputError(f"{place}: StreamID {sid} is another device's; each stream has one device")
        taken.add(sid)


def sources_of(spec: MachineSpec) -> dict[str, int]:
    """Return the source identifier of each device behind an intel-vtd; InputError for one that is used twice.

    All units of a machine share one PCI segment, so that an identifier names one device of the machine.
    """
    behind = [(index, device) for index, device in enumerate(spec.device) if model_of(device, spec) == INTEL_VTD]
    given: dict[str, int] = {}
    for index, device in behind:
        if device.source_id is None:
            continue
        source = source_number(device.source_id)
        if source in given.values():
            place = f"device[{index}].source_id = {device.source_id!r}"
            raise InputError(f"{place}: is another device's; each has its own")
        given[device.name] = source
    free = iter(sorted(set(range(_FIRST_SOURCE, _SOURCES, _FUNCTIONS)) - set(given.values())))
    for index, device in behind:
        if device.source_id is None:
            source = next(free, _SOURCES)
            if source == _SOURCES:
                raise InputError(f"device[{index}].source_id: missing, and none from 00:01.0 on is free")
            given[device.name] = source
    return given


def source_number(text: str) -> int:
    """Return the source identifier of bus, device and function: bits 15:8, 7:3 and 2:0."""
    bus, device, function = int(text[:2], 16), int(text[3:5], 16), int(text[6])
    return bus << 8 | device << 3 | function


def source_text(source_id: int) -> str:
    """Return bus, device and function as lspci prints them."""
    return f"{source_id >> 8:02x}:{source_id >> 3 & 0x1F:02x}.{source_id & 7}"

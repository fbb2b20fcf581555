"""How devices are known to IOMMUs: the StreamIDs of an arm-smmu-v3, the source identifiers of an intel-vtd."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from pasidlab.description.models import ARM_SMMU_V3, INTEL_VTD
from pasidlab.description.spec import MachineSpec
from pasidlab.errors import InputError
from pasidlab.hw.requester import rid_number

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

    A unit sees one PCI segment, and another unit may see another one: an identifier names one device of a unit. Those
    that are given out here differ on the whole machine while there are enough.
    """
    units = {iommu.name for iommu in spec.iommu if iommu.model == INTEL_VTD}
    behind = [(index, device) for index, device in enumerate(spec.device) if device.iommu in units]
    given: dict[str, int] = {}
    taken: dict[str | None, set[int]] = {name: set() for name in units}
    for index, device in behind:
        if device.source_id is None:
            continue
        source = source_number(device.source_id)
        if source in taken[device.iommu]:
            place = f"device[{index}].source_id = {device.source_id!r}"
            raise InputError(f"{place}: is another device's of {device.iommu}; each has its own")
        given[device.name] = source
        taken[device.iommu].add(source)
    free = _free_sources(set().union(*taken.values()))
    of_unit = {name: _free_sources(sources) for name, sources in taken.items()}
    for index, device in behind:
        if device.source_id is None:
            given[device.name] = _next_source(index, free, of_unit[device.iommu], taken[device.iommu])
            taken[device.iommu].add(given[device.name])
    return given


def _free_sources(taken: set[int]) -> Iterator[int]:
    """Return the identifiers of first functions that nobody has, the lowest first."""
    return (source for source in range(_FIRST_SOURCE, _SOURCES, _FUNCTIONS) if source not in taken)


def _next_source(index: int, of_machine: Iterator[int], of_unit: Iterator[int], taken: set[int]) -> int:
    """Take an identifier that no device of the machine has, else one that none of the unit has."""
    source = next(of_machine, None)
    if source is None:
        source = next((source for source in of_unit if source not in taken), None)
    if source is None:
        raise InputError(f"device[{index}].source_id: missing, and none from 00:01.0 on is free")
    return source


def source_number(text: str) -> int:
    """Return the source identifier that a description names by bus, device and function."""
    bus, device, function = int(text[:2], 16), int(text[3:5], 16), int(text[6])
    return rid_number(bus, device, function)

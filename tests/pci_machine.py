"""PCI functions made of words, and how lspci prints their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pasidlab.platforms.pci.config import read_config
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.words import (
    AcsCapability,
    AtsCapability,
    CapabilityHeader,
    ConfigHeader,
    ExpressCapability,
    ExtendedHeader,
    PasidCapability,
    PortType,
    PriCapability,
    SriovCapability,
)
from pasidlab.platforms.said import rid_of

IDS = {AcsCapability: 0x0D, AtsCapability: 0x0F, SriovCapability: 0x10, PriCapability: 0x13, PasidCapability: 0x1B}
ACS_BITS = ("source_validation", "request_redirect", "completion_redirect", "upstream_forwarding")
EXPRESS_AT = 0x40


def config(
    header: ConfigHeader,
    port: PortType | None = PortType.ENDPOINT,
    extended: Iterable[ExtendedHeader] = (),
    *,
    prefix: bool = True,
    blocking: bool = False,
    version: int = 2,
) -> bytes:
    """Return 4096 bytes: a header, a PCI Express capability unless `port` is None, and extended capabilities."""
    space = bytearray(4096)
    if port is not None:
        header = header.replace(capabilities_list=True, capabilities_pointer=EXPRESS_AT)
        bits: dict[str, int] = {"prefix_supported": prefix, "prefix_blocking": blocking}
        express = ExpressCapability(capability_id=0x10, version=version, port_type=port, **bits)
        put(space, EXPRESS_AT, express)
    put(space, 0, header)
    at = 0x100
    words = list(extended)
    for index, word in enumerate(words):
        following = 0 if index == len(words) - 1 else at + 0x40
        put(space, at, word.replace(next_capability=following, version=1))
        at += 0x40
    return bytes(space)


def put(space: bytearray, at: int, word: ConfigHeader | CapabilityHeader | ExtendedHeader) -> None:
    """Put a word into a configuration space."""
    raw = word.pack()
    space[at : at + len(raw)] = raw


def acs(*, on: bool = True, has: Iterable[str] = ACS_BITS) -> AcsCapability:
    """Return ACS with some of its controls, on or off."""
    names = list(has)
    fields: dict[str, int] = dict.fromkeys(names, 1) | {f"{name}_enable": int(on) for name in names}
    return AcsCapability(capability_id=0x0D, **fields)


def pasid(width: int = 20, **fields: int) -> PasidCapability:
    """Return a PASID capability."""
    return PasidCapability(capability_id=0x1B, max_width=width, **fields)


def ats(**fields: int) -> AtsCapability:
    """Return an ATS capability."""
    return AtsCapability(capability_id=0x0F, **fields)


def pri(**fields: int) -> PriCapability:
    """Return a PRI capability."""
    return PriCapability(capability_id=0x13, **fields)


def sriov(count: int, offset: int = 1, stride: int = 1, **fields: int) -> SriovCapability:
    """Return an SR-IOV capability with virtual functions enabled."""
    counts = {"initial_vfs": count, "total_vfs": count, "num_vfs": count}
    places = {"first_vf_offset": offset, "vf_stride": stride}
    return SriovCapability(capability_id=0x10, **{"vf_enable": 1, **counts, **places, **fields})


def bridge(secondary: int, subordinate: int, **fields: int) -> ConfigHeader:
    """Return the header of a bridge."""
    buses = {"secondary_bus": secondary, "subordinate_bus": subordinate}
    return ConfigHeader(
        **{"vendor_id": 0x1B36, "device_id": 0x000C, "class_code": 0x060400, "layout": 1, **buses, **fields}
    )


def endpoint(vendor: int = 0x1B36, device: int = 0x0010, **fields: int) -> ConfigHeader:
    """Return the header of an endpoint."""
    return ConfigHeader(**{"vendor_id": vendor, "device_id": device, "class_code": 0x088000, **fields})


def dump(spaces: Mapping[str, bytes], size: int = 4096) -> str:
    """Return what `lspci -n -xxxx` prints of functions, by address."""
    blocks = []
    for address, data in spaces.items():
        header = ConfigHeader.unpack(data[:64])
        title = f"{address} {header.class_code >> 8:04x}: {header.vendor_id:04x}:{header.device_id:04x}"
        rows = [f"{at:02x}: {data[at : at + 16].hex(' ')}" for at in range(0, size, 16)]
        blocks.append("\n".join([title, *rows]))
    return "\n\n".join(blocks) + "\n\n"


def function(address: str, data: bytes, **known: Any) -> Function:
    """Return a function out of its bytes."""
    rid = rid_of(address)
    assert rid is not None
    return replace(Function(rid, read_config(data, "dump", rid), f"dump, {address}"), **known)


def functions(spaces: Mapping[str, bytes]) -> list[Function]:
    """Return functions out of their bytes, by address."""
    return [function(address, data) for address, data in spaces.items()]


MADE: dict[str, bytes] = {
    "00:00.0": config(endpoint(0x8086, 0x29C0, class_code=0x060000), None),
    "00:01.0": config(bridge(1, 1), PortType.ROOT_PORT, [acs()]),
    "00:02.0": config(bridge(2, 4), PortType.ROOT_PORT, [acs()]),
    "01:00.0": config(
        endpoint(0x1B36, 0x1100),
        PortType.ENDPOINT,
        [
            ats(enable=1, smallest_translation_unit=0, invalidate_queue_depth=4),
            pasid(20, execute=1, privileged=1, enable=1, privileged_enable=1),
            pri(enable=1, prg_response_pasid_required=1, outstanding_capacity=512, outstanding_allocation=32),
            sriov(2, 1, 1, vf_device_id=0x1101),
            ExtendedHeader(capability_id=0x23),
        ],
    ),
    "01:00.1": config(endpoint(0xFFFF, 0xFFFF), PortType.ENDPOINT, [ats()]),
    "01:00.2": config(endpoint(0xFFFF, 0xFFFF), PortType.ENDPOINT, [ats()]),
    "02:00.0": config(bridge(3, 4), PortType.UPSTREAM_PORT, prefix=False),
    "03:00.0": config(bridge(4, 4), PortType.DOWNSTREAM_PORT),
    "04:00.0": config(endpoint(0x1B36, 0x1102), PortType.ENDPOINT, [pasid(16, privileged=1), pri(stopped=1)]),
    "6a:01.0": config(
        endpoint(0x8086, 0x0B25),
        PortType.INTEGRATED_ENDPOINT,
        [ats(page_aligned_request=1), pasid(20, privileged=1), pri(stopped=1, prg_response_pasid_required=1)],
    ),
    "6a:02.0": config(endpoint(0x8086, 0x0CFE), PortType.INTEGRATED_ENDPOINT, [pasid(20)], version=1),
}
"""A machine with PASIDs in many places, which no emulator has: tests/data/platforms/pci/made-*.gz are of it."""

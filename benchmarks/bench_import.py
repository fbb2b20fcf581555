"""Importing a large machine: 10,000 PCI functions with PASIDs behind four VT-d units, or as many device tree nodes.

The host is a directory as sysfs is one, with configuration space, links and firmware's DMAR; all functions are behind
root ports. Reading the same bytes (for the device tree: the fdt library parsing the same blob) is the yardstick for
other machines. Growth is the CPU time of a machine of 10,000 divided by that of ten machines of 1,000: 1 is linear.
The audit is of the machine that was imported, under all schemes; it starts the model of it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import fdt  # type: ignore[import-untyped]

from benchmarks.rows import Row, cpu_seconds
from pasidlab.audit import audit
from pasidlab.description import MachineSpec
from pasidlab.platforms import import_machine
from pasidlab.platforms.acpi.dmar_words import DeviceScope, DmarFields, Drhd, PathEntry, ScopeType
from pasidlab.platforms.acpi.header import HEADER_BYTES, AcpiHeader
from pasidlab.platforms.pci.words import (
    AcsCapability,
    AtsCapability,
    ConfigHeader,
    ExpressCapability,
    ExtendedHeader,
    PasidCapability,
    PortType,
    PriCapability,
)
from pasidlab.schemes import SCHEMES

FEW, MANY = 1_000, 10_000
UNITS = 4
A_BUS = 256
"""How many functions a bus has, the most there can be."""
ROUNDS = 3
MAX_SECONDS, MAX_AUDIT, MAX_GROWTH = ("<", 5.0), ("<", 20.0), ("<=", 2.0)
CAP, ECAP = 0x8D2078C106F0466, 0x3EE9E86F050DF
"""Registers of a unit with scalable mode and 20 bits of PASID."""
EXPRESS_AT, EXTENDED_AT = 0x40, 0x100


def rows() -> Iterator[Row]:
    yield from _rows("PCI functions behind VT-d", _make_host, _read_host)
    yield from _rows("device tree nodes behind SMMUs", _make_tree, _read_tree)


class Times(NamedTuple):
    """Seconds of one round."""

    few: float
    many: float
    read: float


def _rows(what: str, make: Callable[[Path, int], None], read: Callable[[Path], None]) -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        make(few, FEW)
        make(many, MANY)
        import_machine([few])
        times = [_times(few, many, read) for _ in range(ROUNDS)]
        small, spec = import_machine([few]).spec, import_machine([many]).spec
    if len(spec.device) != MANY or any(one.iommu is None for one in spec.device):
        raise ValueError(f"{len(spec.device)} devices were imported, or not all are behind an IOMMU")
    yield Row(f"import of {MANY:,} {what}", median(one.many for one in times), "s", MAX_SECONDS)
    yield Row(f"import / reading the same {what}", median(one.many / one.read for one in times), "x")
    growth = median(one.many * FEW / one.few / MANY for one in times)
    yield Row(f"import of {what}, growth", growth, "x", MAX_GROWTH)
    seconds = _audit_seconds(spec)
    yield Row(f"audit of {MANY:,} {what}", seconds, "s", MAX_AUDIT)
    yield Row(f"audit of {what}, growth", seconds * FEW / _audit_seconds(small) / MANY, "x", MAX_GROWTH)


def _audit_seconds(spec: MachineSpec) -> float:
    return median(cpu_seconds(lambda: audit(spec, list(SCHEMES.values()))) for _ in range(ROUNDS))


def _times(few: Path, many: Path, read: Callable[[Path], None]) -> Times:
    gc.collect()
    return Times(
        cpu_seconds(lambda: import_machine([few])),
        cpu_seconds(lambda: import_machine([many])),
        cpu_seconds(lambda: read(many)),
    )


# --- a host --------------------------------------------------------------------------------------------------------


def _make_host(root: Path, count: int) -> None:
    """Write a host: root ports on bus 0, a bus of functions behind each, and the units in turn."""
    buses = range(1, 1 + -(-count // A_BUS))
    for unit in range(UNITS):
        _make_unit(root / f"sys/devices/virtual/iommu/dmar{unit}/intel-iommu", unit)
        _link(root / f"sys/class/iommu/dmar{unit}", f"../../devices/virtual/iommu/dmar{unit}")
    for bus in buses:
        _make_function(root, "sys/devices/pci0000:00", _address(bus), bus, _root_port(bus))
    space = _endpoint()
    for number in range(count):
        bus = 1 + number // A_BUS
        place = f"sys/devices/pci0000:00/{_address(bus)}"
        _make_function(root, place, _address(bus << 8 | number % A_BUS), bus, space)
    _write(root / "sys/firmware/acpi/tables/DMAR", _dmar(buses))


def _address(number: int) -> str:
    return f"0000:{number >> 8:02x}:{number >> 3 & 0x1F:02x}.{number & 7}"


def _unit_of(bus: int) -> int:
    return bus % UNITS


def _base(unit: int) -> int:
    return 0xFED9_0000 + 0x1000 * unit


def _make_unit(place: Path, unit: int) -> None:
    for name, value in {"address": _base(unit), "cap": CAP, "ecap": ECAP}.items():
        _write(place / name, f"{value:x}\n".encode())


def _make_function(root: Path, above: str, address: str, bus: int, space: bytes) -> None:
    place = root / above / address
    _write(place / "config", space)
    depth = "../" * (above.count("/") + 1)
    _link(place / "iommu", f"{depth}virtual/iommu/dmar{_unit_of(bus)}")
    _link(place / "iommu_group", f"{depth}../kernel/iommu_groups/{int(address[5:7] + address[8:10], 16)}.{address[-1]}")
    _link(root / "sys/bus/pci/devices" / address, f"../../../{above.removeprefix('sys/')}/{address}")


def _root_port(bus: int) -> bytes:
    header = ConfigHeader(
        vendor_id=0x8086, device_id=0x352A, class_code=0x060400, layout=1, secondary_bus=bus, subordinate_bus=bus
    )
    enabled = {"request_redirect": 1, "upstream_forwarding": 1, "request_redirect_enable": 1}
    acs = AcsCapability(capability_id=0x0D, upstream_forwarding_enable=1, **enabled)
    return _space(header, PortType.ROOT_PORT, acs)


def _endpoint() -> bytes:
    header = ConfigHeader(vendor_id=0x1B36, device_id=0x1100, class_code=0x088000)
    ats, pasid = AtsCapability(capability_id=0x0F), PasidCapability(capability_id=0x1B, max_width=20)
    return _space(header, PortType.ENDPOINT, ats, pasid, PriCapability(capability_id=0x13))


def _space(header: ConfigHeader, port: PortType, *extended: ExtendedHeader) -> bytes:
    """Return a function's configuration space, as the kernel shows it to root."""
    header = header.replace(capabilities_list=True, capabilities_pointer=EXPRESS_AT)
    express = ExpressCapability(capability_id=0x10, version=2, port_type=port, prefix_supported=1)
    words = {0: header.pack(), EXPRESS_AT: express.pack()}
    for index, word in enumerate(extended):
        at = EXTENDED_AT + 0x40 * index
        following = 0 if index == len(extended) - 1 else at + 0x40
        words[at] = word.replace(version=1, next_capability=following).pack()
    space = bytearray(4096)
    for at, raw in words.items():
        space[at : at + len(raw)] = raw
    return bytes(space)


def _dmar(buses: range) -> bytes:
    body = DmarFields(host_address_width=51).pack()
    for unit in range(UNITS):
        scopes = b"".join(_scope(bus) for bus in buses if _unit_of(bus) == unit)
        body += Drhd(length=16 + len(scopes), register_base_address=_base(unit)).pack() + scopes
    header = AcpiHeader(signature=int.from_bytes(b"DMAR", "little"), length=HEADER_BYTES + len(body), revision=1)
    raw = header.pack() + body
    return raw[:9] + bytes([-sum(raw) & 0xFF]) + raw[10:]


def _scope(bus: int) -> bytes:
    """Return the scope of a root port on bus 0."""
    scope = DeviceScope(type=ScopeType.BRIDGE, length=8)
    return scope.pack() + PathEntry(device=bus >> 3, function=bus & 7).pack()


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def _link(place: Path, target: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def _read_host(root: Path) -> None:
    """Read every file and every link once."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            place = os.path.join(folder, name)
            if os.path.islink(place):
                os.readlink(place)
            elif name in files:
                with open(place, "rb") as file:
                    file.read()


# --- a device tree -------------------------------------------------------------------------------------------------


def _make_tree(path: Path, count: int) -> None:
    """Write a blob: devices of a platform, each with a StreamID of an SMMU, the SMMUs in turn."""
    tree = fdt.FDT()
    tree.root.append(fdt.PropWords("#address-cells", 2))
    tree.root.append(fdt.PropWords("#size-cells", 2))
    for unit in range(UNITS):
        base = 0x2B40_0000 + 0x20_0000 * unit
        tree.root.append(
            _node(f"iommu@{base:x}", compatible="arm,smmu-v3", reg=(0, base, 0, 0x20000), phandle=1 + unit, cells=1)
        )
    for number in range(count):
        base, iommus = 0x1_0000_0000 + 0x1000 * number, (1 + number % UNITS, 16 + number)
        reg = (base >> 32, base & 0xFFFF_FFFF, 0, 0x1000)
        tree.root.append(_node(f"acc@{base:x}", compatible="vendor,acc", reg=reg, iommus=iommus, bits=16))
    path.write_bytes(tree.to_dtb(version=17))


def _node(name: str, compatible: str, reg: tuple[int, ...], **numbers: int | tuple[int, ...]) -> fdt.Node:
    node = fdt.Node(name)
    node.append(fdt.PropStrings("compatible", compatible))
    node.append(fdt.PropWords("reg", *reg))
    names = {"cells": "#iommu-cells", "bits": "pasid-num-bits"}
    for key, value in numbers.items():
        words = value if isinstance(value, tuple) else (value,)
        node.append(fdt.PropWords(names.get(key, key), *words))
    return node


def _read_tree(path: Path) -> None:
    fdt.parse_dtb(path.read_bytes())

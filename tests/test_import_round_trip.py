"""Machines that are drawn, written as firmware's tables and configuration space, and imported, are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import fdt
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.description import DeviceSpec, MachineSpec
from pasidlab.description.models import DEVICE_KEYS
from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.platforms.acpi.iort_words import (
    NAMED_COMPONENT,
    ROOT_COMPLEX,
    SMMUV3,
    NamedComponent,
    RootComplex,
    Smmuv3,
)
from pasidlab.platforms.acpi.ivrs_words import EntryType
from pasidlab.platforms.importing import Imported, import_sources
from pasidlab.platforms.pci.words import PortType
from pasidlab.platforms.sources import DEVICE_TREE, PCI, TABLES, host_sources
from tests.acpi_tables import Make, To, iort, table
from tests.fuzz.targets import BytesTree
from tests.pci_machine import acs, ats, bridge, config, endpoint, pasid, pri
from tests.test_dmar import FIELDS as DMAR_FIELDS
from tests.test_dmar import bridge as bridge_scope
from tests.test_dmar import drhd
from tests.test_dmar import endpoint as endpoint_scope
from tests.test_ivrs import ALL as ALL_FEATURES
from tests.test_ivrs import FIELDS as IVRS_FIELDS
from tests.test_ivrs import entry, ivhd
from tests.test_rimt import FIRST, body, iommu, mapping, root

FIRST_BUS = 0x10
"""Of the root buses; below are those behind root ports, which are on bus 0."""
SMMU_AT, OUTPUT = 0x2B40_0000, 0x1_0000
"""Where the first SMMU is, and how far the StreamIDs of requester IDs are from those of another SMMU."""
AMD_WIDTH = 16
"""How many bits of PASID Linux has for AMD's IOMMUs at most."""
WIDTHS = st.integers(1, 20)


class Function(NamedTuple):
    """A PCI function with PASIDs; `port` is the root port above it by number, None on a root bus."""

    width: int
    ats: bool
    pri: bool
    unit: int
    port: int | None = None


class Port(NamedTuple):
    """A root port on bus 0, at device 1 + its number; its bus has the same number."""

    unit: int
    prefix: bool
    acs: bool


class Component(NamedTuple):
    """A device of a platform."""

    width: int
    can_stall: bool
    unit: int
    streams: int


@dataclass(frozen=True)
class Drawn:
    """A machine: where its IOMMUs are, their bits of PASID, its functions by requester ID, and the rest."""

    bases: list[int]
    widths: list[int]
    functions: dict[int, Function]
    ports: list[Port] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    ats: bool = True

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Yield the first and last requester ID of functions that follow each other and have the same IOMMU."""
        numbers = sorted(self.functions)
        first = 0
        for index, number in enumerate(numbers):
            unit = self.functions[number].unit
            if index + 1 == len(numbers) or self.functions[numbers[index + 1]].unit != unit:
                yield numbers[first], number, unit
                first = index + 1


@st.composite
def drawn(draw: st.DrawFn, *, ports: bool = False) -> Drawn:
    count = draw(st.integers(1, 4))
    bases = [
        SMMU_AT + 0x10_0000 * number
        for number in draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True))
    ]
    unit = st.integers(0, count - 1)
    one = st.builds(Function, WIDTHS, st.booleans(), st.booleans(), unit, st.none())
    functions = draw(st.dictionaries(st.integers(FIRST_BUS << 8, 0xFFFF), one, max_size=12))
    above = draw(st.lists(st.builds(Port, unit, st.booleans(), st.booleans()), max_size=3)) if ports else []
    for number, port in enumerate(above):
        for place in draw(st.sets(st.integers(0, 0xFF), max_size=4)):
            functions[number + 1 << 8 | place] = draw(one)._replace(unit=port.unit, port=number)
    components = draw(st.lists(st.builds(Component, WIDTHS, st.booleans(), unit, st.integers(1, 3)), max_size=3))
    return Drawn(
        bases, draw(st.lists(WIDTHS, min_size=count, max_size=count)), functions, above, components, draw(st.booleans())
    )


# --- how it is written ---------------------------------------------------------------------------------------------


def address(number: int) -> str:
    return f"0000:{number >> 8:02x}:{number >> 3 & 0x1F:02x}.{number & 7}"


def pci_files(machine: Drawn) -> dict[str, bytes]:
    """Return configuration space, and the links that say what is behind what."""
    files = {}
    for number, port in enumerate(machine.ports):
        header = bridge(number + 1, number + 1)
        place = f"{PCI}/{address(number + 1 << 3)}"
        files[f"{place}/config"] = config(header, PortType.ROOT_PORT, [acs(on=port.acs)], prefix=port.prefix)
        files[f"{place}@"] = f"../../../devices/pci0000:00/{address(number + 1 << 3)}".encode()
    for number, one in machine.functions.items():
        capabilities = [acs(), pasid(one.width), *([ats()] if one.ats else []), *([pri()] if one.pri else [])]
        kind = PortType.INTEGRATED_ENDPOINT if one.port is None else PortType.ENDPOINT
        above = f"pci0000:{number >> 8:02x}" if one.port is None else f"pci0000:00/{address(one.port + 1 << 3)}"
        files[f"{PCI}/{address(number)}/config"] = config(endpoint(), kind, capabilities)
        files[f"{PCI}/{address(number)}@"] = f"../../../devices/{above}/{address(number)}".encode()
    return files


def imported(files: dict[str, bytes]) -> Imported:
    return import_sources(list(host_sources(BytesTree(files), lambda what: None)), "drawn")


def dmar_files(machine: Drawn, *, rest: bool) -> dict[str, bytes]:
    """Return a DMAR, and the units' registers as sysfs shows them; with `rest` the last unit has what none names."""
    structures = []
    for unit, base in enumerate(machine.bases):
        every = rest and unit == len(machine.bases) - 1
        scopes = [bridge_scope(0, number + 1) for number, port in enumerate(machine.ports) if port.unit == unit]
        for number, one in machine.functions.items():
            if one.unit == unit and one.port is None:
                scopes.append(endpoint_scope(number >> 8, number >> 3 & 0x1F, number & 7))
        structures.append(drhd(base, *([] if every else scopes), rest=every))
    files = {f"{TABLES}/DMAR": table("DMAR", DMAR_FIELDS.pack() + b"".join(structures))}
    for unit, (base, width) in enumerate(zip(machine.bases, machine.widths, strict=True)):
        place = f"sys/class/iommu/dmar{unit + 5}/intel-iommu"
        registers = {"address": base, "cap": Cap(), "ecap": Ecap(smts=True, pasid=True, pss=width - 1)}
        files |= {f"{place}/{name}": f"{int(value):x}\n".encode() for name, value in registers.items()}
    return files


def ivrs_files(machine: Drawn) -> dict[str, bytes]:
    """Return an IVRS whose units have the same features, since Linux takes what all have."""
    entries: list[list[Any]] = [[] for _ in machine.bases]
    for first, last, unit in machine.runs():
        if first == last:
            entries[unit].append(entry(EntryType.SELECT, first))
        else:
            entries[unit] += [entry(EntryType.SELECT_RANGE_START, first), entry(EntryType.RANGE_END, last)]
    efr = ALL_FEATURES.replace(pasmax=machine.widths[0] - 1)
    blocks = [ivhd(*entries[unit], device=2 + unit, base=base, efr=efr) for unit, base in enumerate(machine.bases)]
    return {f"{TABLES}/IVRS": table("IVRS", IVRS_FIELDS.pack() + b"".join(blocks))}


def stream(unit: int, number: int) -> int:
    """Return what an SMMU knows a requester ID as."""
    return OUTPUT * (unit + 1) + number


def component_streams(machine: Drawn, index: int) -> list[int]:
    before = sum(one.streams for one in machine.components[:index])
    return [7 + before + number for number in range(machine.components[index].streams)]


def iort_files(machine: Drawn) -> dict[str, bytes]:
    smmus = [Make(Smmuv3(base_address=base), SMMUV3) for base in machine.bases]
    maps = [To(unit, first, last - first + 1, stream(unit, first)) for first, last, unit in machine.runs()]
    complex_ = Make(
        RootComplex(ats_supported=machine.ats, max_pasid_width=20, pasid_supported=1), ROOT_COMPLEX, maps=maps
    )
    components = []
    for index, one in enumerate(machine.components):
        word = NamedComponent(substream_width=one.width, stall_supported=one.can_stall)
        singles = [To(one.unit, output_base=number, single=True) for number in component_streams(machine, index)]
        components.append(Make(word, NAMED_COMPONENT, name=component_name(index), maps=singles))
    return {f"{TABLES}/IORT": iort(*smmus, complex_, *components)}


def component_name(index: int) -> str:
    return f"\\_SB_.ACC{index}"


def rimt_files(machine: Drawn) -> dict[str, bytes]:
    nodes = [iommu(base, id=unit) for unit, base in enumerate(machine.bases)]
    places = [FIRST + sum(map(len, nodes[:unit])) for unit in range(len(nodes))]
    maps = [mapping(first, last - first + 1, first, places[unit]) for first, last, unit in machine.runs()]
    return {f"{TABLES}/RIMT": table("RIMT", body(*nodes, root(*maps, ats=machine.ats)), 1)}


def device_tree_files(machine: Drawn) -> dict[str, bytes]:
    tree = fdt.FDT()
    tree.root.append(fdt.PropWords("#address-cells", 1))
    tree.root.append(fdt.PropWords("#size-cells", 1))
    for unit, base in enumerate(machine.bases):
        words = {"reg": (base, 0x2_0000), "phandle": (unit + 1,), "#iommu-cells": (1,)}
        tree.root.append(node(f"iommu@{base:x}", "arm,smmu-v3", words))
    maps = [
        cell for one in machine.runs() for cell in (one[0], one[2] + 1, stream(one[2], one[0]), one[1] - one[0] + 1)
    ]
    words = {"reg": (0x4000_0000, 0x1000), "linux,pci-domain": (0,)} | ({"iommu-map": tuple(maps)} if maps else {})
    host = node("pcie@40000000", "pci-host-ecam-generic", words)
    host.append(fdt.PropStrings("device_type", "pci"))
    if machine.ats:
        host.append(fdt.Property("ats-supported"))
    tree.root.append(host)
    for index, one in enumerate(machine.components):
        cells = [cell for number in component_streams(machine, index) for cell in (one.unit + 1, number)]
        words = {"reg": (0x5000_0000 + 0x1000 * index, 0x1000), "iommus": tuple(cells), "pasid-num-bits": (one.width,)}
        device = node(f"acc@{words['reg'][0]:x}", "vendor,acc", words)
        if one.can_stall:
            device.append(fdt.Property("dma-can-stall"))
        tree.root.append(device)
    return {DEVICE_TREE: tree.to_dtb(version=17)}


def node(name: str, compatible: str, words: dict[str, tuple[int, ...]]) -> fdt.Node:
    made = fdt.Node(name)
    made.append(fdt.PropStrings("compatible", compatible))
    for key, values in words.items():
        made.append(fdt.PropWords(key, *values))
    return made


# --- that it is the same -------------------------------------------------------------------------------------------


def device(spec: MachineSpec, name: str) -> DeviceSpec:
    return next(one for one in spec.device if one.name == name)


def check_functions(machine: Drawn, spec: MachineSpec, names: list[str], *, ats: bool = True) -> None:
    """Check that each function is behind its IOMMU, and has its capabilities.

    `ats` is what firmware allows on root buses; below root ports it allows none.
    """
    assert [one.name for one in spec.device if one.name.startswith("0000:")] == [
        address(number) for number in sorted(machine.functions)
    ]
    for number, one in machine.functions.items():
        found = device(spec, address(number))
        has = DEVICE_KEYS[next(iommu.model for iommu in spec.iommu if iommu.name == found.iommu)]
        assert found.iommu == names[one.unit]
        assert found.pasid_bits == one.width
        port = None if one.port is None else machine.ports[one.port]
        for key, value in {"ats": one.ats and ats and port is None, "pri": one.pri}.items():
            assert getattr(found, key) is (value if key in has else None)
        assert found.prefix_path is (port is None or port.prefix)
        assert found.acs_path is (port is None or port.acs)


def check_components(machine: Drawn, spec: MachineSpec, names: list[str], called: list[str]) -> None:
    """Check that each device of a platform is behind its SMMU, under its StreamIDs."""
    for index, (one, name) in enumerate(zip(machine.components, called, strict=True)):
        found = device(spec, name)
        streams = component_streams(machine, index)
        assert found.iommu == names[one.unit]
        assert found.stream_id == (streams[0] if len(streams) == 1 else streams)
        assert found.pasid_bits == one.width
        assert bool(found.can_stall) is one.can_stall


def check_streams(machine: Drawn, spec: MachineSpec) -> None:
    for number, one in machine.functions.items():
        assert device(spec, address(number)).stream_id == stream(one.unit, number)


@settings(max_examples=250, deadline=None)
@given(drawn(ports=True), st.booleans())
def test_through_a_dmar_and_registers(machine: Drawn, rest: bool) -> None:
    spec = imported(pci_files(machine) | dmar_files(machine, rest=rest)).spec
    names = [f"dmar{unit + 5}" for unit in range(len(machine.bases))]
    assert {one.name: one.pasid_bits for one in spec.iommu} == dict(zip(names, machine.widths, strict=True))
    assert {one.model for one in spec.iommu} == {"intel-vtd"}
    check_functions(machine, spec, names)
    assert all(device(spec, address(number)).source_id == address(number)[5:] for number in machine.functions)


@settings(max_examples=250, deadline=None)
@given(drawn())
def test_through_an_ivrs(machine: Drawn) -> None:
    spec = imported(pci_files(machine) | ivrs_files(machine)).spec
    names = [f"ivhd{unit}" for unit in range(len(machine.bases))]
    assert [(one.name, one.ops, one.pasid_bits) for one in spec.iommu] == [
        (name, "amd-vi", min(machine.widths[0], AMD_WIDTH)) for name in names
    ]
    check_functions(machine, spec, names)


@settings(max_examples=250, deadline=None)
@given(drawn())
def test_through_an_iort(machine: Drawn) -> None:
    spec = imported(pci_files(machine) | iort_files(machine)).spec
    names = [f"smmu3.0x{base:016x}" for base in machine.bases]
    assert [(one.name, one.model) for one in spec.iommu] == [(name, "arm-smmu-v3") for name in names]
    check_functions(machine, spec, names, ats=machine.ats)
    check_streams(machine, spec)
    check_components(machine, spec, names, [component_name(index) for index in range(len(machine.components))])


@settings(max_examples=250, deadline=None)
@given(drawn())
def test_through_a_rimt(machine: Drawn) -> None:
    spec = imported(pci_files(machine) | rimt_files(machine)).spec
    names = [one.name for one in spec.iommu]
    assert len(names) == len(machine.bases)
    assert all(f"{base:x}" in name for base, name in zip(machine.bases, names, strict=True))
    assert {one.ops for one in spec.iommu} == {"riscv"}
    check_functions(machine, spec, names, ats=machine.ats)


@settings(max_examples=250, deadline=None)
@given(drawn())
def test_through_a_device_tree(machine: Drawn) -> None:
    spec = imported(pci_files(machine) | device_tree_files(machine)).spec
    names = [f"smmu3.0x{base:016x}" for base in machine.bases]
    assert [(one.name, one.model) for one in spec.iommu] == [(name, "arm-smmu-v3") for name in names]
    check_functions(machine, spec, names, ats=machine.ats)
    check_streams(machine, spec)
    check_components(
        machine, spec, names, [f"{0x5000_0000 + 0x1000 * n:x}.acc" for n in range(len(machine.components))]
    )

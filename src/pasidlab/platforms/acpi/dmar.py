"""DMAR, the table by which firmware describes Intel's IOMMUs: what it says of a machine.

Source: Intel VT-d specification 4.1, chapter 8; which unit has a function is dmar_register_drhd_unit(),
dmar_pci_bus_add_dev() (drivers/iommu/intel/dmar.c) and device_lookup_iommu() (drivers/iommu/intel/iommu.c), whether a
function may use ATS is dmar_ats_supported() (there), all of Linux 6.12.

The order in which Linux asks units is not that of the table: later ones first, and those that take all the rest at the
end. The maps of requester IDs are in that order, so that the first that has an ID is right.

Decided here: units are named dmar0, dmar1, ... in the table's order, as Linux does; one that is there twice has no name
of its own. A path leads through bridges, and only who knows the bus numbers that they were given can follow it:
`buses` does. ATS that a table allows says nothing of a device, so only two answers become a device's key: that Linux
will not use it (below a root port that no ATSR names), and that a device has it (SATC).

Not modelled: Linux's repair of paths whose bus is that of the device itself; that scopes of type endpoint which turn
out to be bridges are refused; virtual functions, which have the unit of their physical function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.acpi.dmar_checks import check, units
from pasidlab.platforms.acpi.dmar_table import Dmar, Scope, Structure, is_pci, read_structures
from pasidlab.platforms.acpi.dmar_words import SCOPE_NAMES, Andd, Atsr, Drhd, Satc, ScopeType
from pasidlab.platforms.said import Endpoint, Iommu, Known, Rid, RidMap, Said, rid_at

__all__ = ["Buses", "Dmar", "Scope", "Structure", "dmar_ats", "dmar_says", "read_dmar"]

Buses = Callable[[Rid], tuple[int, int] | None]
"""Gives the secondary and the subordinate bus of a bridge; None when it is none, or not known."""
KEY = "ats"
MOST_COMPARED = 1 << 21
"""How many pairs of a range and a statement of ATS are looked at."""


def no_buses(bridge: Rid) -> tuple[int, int] | None:
    """Know nothing of any bridge."""
    return None


def read_dmar(data: bytes, file: str = "DMAR") -> Dmar:
    """Read a DMAR: its remapping structures with their device scopes, as Intel VT-d 4.1, chapter 8, defines them.

    `data` are the table's bytes, `file` what messages call it. What is wrong with the table is in `findings`, and what
    can be read is read. Raises InputError for what is no DMAR, or larger than 1 MiB.
    """
    dmar = read_structures(data, file)
    check(dmar)
    return dmar


def dmar_says(dmar: Dmar, buses: Buses = no_buses) -> Said:
    """Return what a table says of a machine; without `buses`, only paths of one step can be followed."""
    said = Said(dmar.file, findings=list(dmar.findings))
    _say_platform(dmar, said)
    topology = _Topology(dmar, buses)
    named = [(f"dmar{number}", structure, drhd) for number, (structure, drhd) in enumerate(units(dmar))]
    for name, structure, drhd in named:
        said.iommus.append(Iommu(name, "intel-vtd", _origin(structure), drhd.register_base_address))
        said.endpoints.extend(_namespace_devices(dmar, name, structure))
    maps = list(_maps(topology, named))
    said.rid_maps.extend(_limited(maps, _first_limits(topology.limits(), maps, said)))
    said.remarks.extend(topology.unknown)
    return said


def dmar_ats(dmar: Dmar, function: Rid, root_port: Rid | None, buses: Buses = no_buses) -> Known:
    """Return whether Linux lets a function use ATS, and why: dmar_ats_supported().

    `root_port` is the one above the function, None for a function of a root bus; a virtual function asks for its
    physical function. Of a function behind a PCI bridge that is not PCIe Linux says no without asking the table.
    That an IOMMU in legacy mode has ATS of `atc_required` devices on by itself is not part of the answer.
    """
    topology = _Topology(dmar, buses)
    for structure, satc in dmar.all_of(Satc):
        if function in topology.functions(structure, satc.segment_number):
            return Known(True, f"{_origin(structure)}, which names {function}")
    if root_port is None:
        return Known(True, f"{_where(dmar)}, {function} is on a root bus")
    return topology.ats_below(root_port)


def _origin(structure: Structure) -> str:
    """Say where a structure is: `DMAR, DRHD at 0x30`."""
    return f"DMAR, {type(structure.word).__name__.upper()} at {structure.offset:#x}"


def _where(dmar: Dmar) -> str:
    return dmar.table.signature


# --- paths ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Limit:
    """Requester IDs of which the table says something beside their IOMMU."""

    segment: int
    first: int
    last: int
    known: Known


class _Topology:
    """Follows device scopes to functions.

    Attributes:
        unknown: what could not be followed, for people, once each.
    """

    def __init__(self, dmar: Dmar, buses: Buses) -> None:
        self._dmar = dmar
        self._buses = buses
        self.unknown: dict[str, None] = {}
        self._all_ports: dict[int, str] = {}
        self._named_ports: dict[Rid, str] = {}
        for structure, atsr in dmar.all_of(Atsr):
            if atsr.all_ports:
                self._all_ports.setdefault(atsr.segment_number, f"{_origin(structure)}, ALL_PORTS")
            for port in self.functions(structure, atsr.segment_number):
                self._named_ports.setdefault(port, f"{_origin(structure)}, which names {port}")

    def ats_below(self, root_port: Rid) -> Known:
        """Return whether Linux lets functions below a root port use ATS, and why."""
        origin = self._all_ports.get(root_port.segment) or self._named_ports.get(root_port)
        if origin is not None:
            return Known(True, origin)
        return Known(False, f"{_where(self._dmar)}, no ATSR names the root port {root_port}")

    def function(self, scope: Scope, segment: int) -> Rid | None:
        """Return the function that a scope names; None when a bridge on the way is not known."""
        bus = scope.word.start_bus_number
        rid = Rid(segment, bus << 8)
        for number, step in enumerate(scope.path):
            if number:
                behind = self.behind(rid)
                if behind is None:
                    self._miss(rid, f"{scope.text} is left out")
                    return None
                bus = behind[0]
            rid = rid_at(segment, bus, step.device, step.function)
        return rid

    def functions(self, structure: Structure, segment: int) -> list[Rid]:
        """Return the functions that a structure names."""
        scopes = (self.function(scope, segment) for scope in structure.scopes if is_pci(scope))
        return [rid for rid in scopes if rid is not None]

    def behind(self, bridge: Rid) -> tuple[int, int] | None:
        """Return the buses behind a bridge, those that make sense."""
        found = self._buses(bridge)
        return found if found is not None and 0 <= found[0] <= found[1] <= 0xFF else None

    def ranges(self, scope: Scope, segment: int) -> Iterator[tuple[int, int]]:
        """Yield the first and last requester ID of what a scope covers: its function, and what is behind a bridge."""
        rid = self.function(scope, segment)
        if rid is None:
            return
        yield rid.number, rid.number
        if scope.word.type != ScopeType.BRIDGE:
            return
        behind = self.behind(rid)
        if behind is None:
            self._miss(rid, "what is behind it is left out")
            return
        yield behind[0] << 8, behind[1] << 8 | 0xFF

    def _miss(self, bridge: Rid, what: str) -> None:
        self.unknown[f"{_where(self._dmar)}: no bus number of {bridge} is known, so {what}"] = None

    def limits(self) -> list[_Limit]:
        """Return what the table says of ATS, the most particular first, each range once."""
        found: dict[tuple[int, int, int], _Limit] = {}
        for one in (*self._satc_limits(), *self._port_limits()):
            found.setdefault((one.segment, one.first, one.last), one)
        return list(found.values())

    def _satc_limits(self) -> Iterator[_Limit]:
        for structure, satc in self._dmar.all_of(Satc):
            why = ", ATC_REQUIRED" if satc.atc_required else ""
            for rid in self.functions(structure, satc.segment_number):
                yield _Limit(rid.segment, rid.number, rid.number, Known(True, f"{_origin(structure)}{why}"))

    def _port_limits(self) -> Iterator[_Limit]:
        for port, (secondary, subordinate) in self._root_ports():
            known = self.ats_below(port)
            if not known.value:
                yield _Limit(port.segment, secondary << 8, subordinate << 8 | 0xFF, known)

    def _root_ports(self) -> Iterator[tuple[Rid, tuple[int, int]]]:
        """Yield the bridges on root buses with what is behind: a bus where a path begins is a root bus, and bus 0."""
        starts = {(drhd.segment_number, 0) for _, drhd in units(self._dmar)}
        for structure, drhd in units(self._dmar):
            starts |= {
                (drhd.segment_number, scope.word.start_bus_number) for scope in structure.scopes if is_pci(scope)
            }
        for segment, bus in sorted(starts):
            for number in range(256):
                rid = Rid(segment, bus << 8 | number)
                behind = self.behind(rid)
                if behind is not None:
                    yield rid, behind


# --- maps ----------------------------------------------------------------------------------------------------------


def _maps(topology: _Topology, named: list[tuple[str, Structure, Drhd]]) -> Iterator[RidMap]:
    """Yield the maps in the order in which Linux asks units; a range that an earlier unit has is left out."""
    seen: set[tuple[int, int, int]] = set()
    for name, structure, drhd in reversed(named):
        segment = drhd.segment_number
        for scope in () if drhd.include_pci_all else structure.scopes:
            for first, last in topology.ranges(scope, segment) if is_pci(scope) else ():
                if (segment, first, last) not in seen:
                    seen.add((segment, first, last))
                    origin = f"{_origin(structure)}, {SCOPE_NAMES[ScopeType(scope.word.type)]} {scope.text}"
                    yield RidMap(segment, first, last, name, origin)
    for name, structure, drhd in named:
        if drhd.include_pci_all and (drhd.segment_number, 0, LAST_RID) not in seen:
            seen.add((drhd.segment_number, 0, LAST_RID))
            origin = f"{_origin(structure)}, INCLUDE_PCI_ALL"
            yield RidMap(drhd.segment_number, 0, LAST_RID, name, origin)


def _first_limits(limits: list[_Limit], maps: list[RidMap], said: Said) -> list[_Limit]:
    """Return as many limits as can be held against each map in time; no machine has nearly so many."""
    most = MOST_COMPARED // max(1, len(maps))
    if len(limits) > most:
        said.remarks.append(
            f"DMAR: {len(maps)} ranges and {len(limits)} statements of ATS; only {most} of these are used"
        )
    return limits[:most]


def _limited(maps: Iterable[RidMap], limits: list[_Limit]) -> Iterator[RidMap]:
    """Yield maps, and before each the parts of which the table says more, those that no earlier map had."""
    seen: set[tuple[int, int, int]] = set()
    for one in maps:
        for limit in limits:
            first, last = max(one.first, limit.first), min(one.last, limit.last)
            part = (one.segment, first, last)
            if limit.segment == one.segment and first <= last and part not in seen:
                seen.add(part)
                yield RidMap(*part, one.iommu, one.origin, keys={KEY: limit.known})
        yield one


# --- the rest ------------------------------------------------------------------------------------------------------


def _say_platform(dmar: Dmar, said: Said) -> None:
    """What people should know of the whole platform."""
    fields, file = dmar.fields, _where(dmar)
    remarks = said.remarks
    remarks.append(f"{file}: no PASID width is in this table")
    remarks.append(f"{file}: physical addresses of {fields.host_address_width + 1} bits")
    if fields.dma_ctrl_platform_opt_in_flag:
        remarks.append(f"{file}: firmware asks for protection from external devices (DMA_CTRL_PLATFORM_OPT_IN_FLAG)")
    for segment in sorted({drhd.segment_number for _, drhd in units(dmar)}):
        rest = [drhd for _, drhd in units(dmar) if drhd.segment_number == segment and drhd.include_pci_all]
        if not rest:
            remarks.append(f"{file}: no unit takes the rest of segment {segment:04x}; what no scope names has no IOMMU")


def _namespace_devices(dmar: Dmar, unit: str, structure: Structure) -> Iterator[Endpoint]:
    """Yield the platform devices of a unit, named by ANDD."""
    names = {andd.acpi_device_number: one for one, andd in reversed(list(dmar.all_of(Andd)))}
    for scope in structure.scopes:
        declared = names.get(scope.word.enumeration_id)
        if scope.word.type != ScopeType.NAMESPACE or declared is None or not declared.name:
            continue
        origin = f"{_origin(declared)}; {_origin(structure)}"
        device = Endpoint(declared.name, "platform", origin, node=declared.name)
        device.say("iommu", unit, origin)
        if len(scope.path) == 1:
            device.say("source_id", scope.text, origin)
        yield device

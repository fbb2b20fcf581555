"""A small world out of a whole machine: a few of its devices and two processes, on mocks, with few numbers.

No search ends on a server with all its devices and a million numbers. What goes wrong between processes and devices
does so with two of each already, so that is what a search of a machine takes; it says what it took, and what it left
out.

Decided here:

* Whether a process can be bound to a device is tried on a machine of the device and its IOMMU alone, before these
  become mocks: a world in which every bind is refused proves nothing.
* Of the devices that can be bound, the first is taken, and the first that carries fewer or more numbers, else the next.
* A device carries the numbers below SMALL at most, and one more for each that a driver takes for the kernel at probe.
* IOMMUs become mocks that keep nothing, each device gets a group of its own, and a virtual function its physical one's
  width. What may happen is what a driver and a process do: binding, work, the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from pasidlab.decode import read_toml
from pasidlab.description import MOCK, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec, on_model
from pasidlab.devices.endpoint import PORTALS
from pasidlab.drivers.traits import TRAITS, Mode
from pasidlab.errors import InputError, blamed_on
from pasidlab.explore.world import ActionName, DeviceClass, ProcessClass, Teardown, World, check_world
from pasidlab.machine import Machine
from pasidlab.rules import listed
from pasidlab.scenario import Scenario

SMALL = 4
"""One more than the largest number of a small world."""
DEVICES, PROCESSES = 2, 2
"""How many of each are taken."""
ACTIONS: list[ActionName] = ["bind", "unbind", "submit", "exit"]
"""What may happen; on a device with a portal, `mmap_portal` too."""
_NOT_OF_MACHINES = {*World.__struct_encode_fields__} - set(Scenario.__struct_encode_fields__) | {"step"}
"""Keys that say that a file is meant as a world, or as a scenario."""


class Loaded(NamedTuple):
    """A world, and of one that was made from a machine what was taken and what was left out."""

    world: World
    remarks: tuple[str, ...] = ()


def load_world(path: str | Path, devices: Sequence[str] = ()) -> Loaded:
    """Read a world, or a machine and make a world of it; InputError names file, key, value and what is allowed.

    A machine has neither actions nor steps; `devices` names those that shall be taken of it.
    """
    path = Path(path)
    raw = read_toml(path)
    with blamed_on(path):
        if _is_machine(raw):
            machine = Scenario.from_dict(raw)
            return world_of(machine, devices, title=machine.title, scheme=machine.scheme)
        if devices:
            raise InputError(f"--device {devices[0]}: only for a machine, which has neither actions nor steps")
        return Loaded(World.from_dict(raw))


def _is_machine(raw: dict[str, Any]) -> bool:
    """Whether decoded TOML has nothing that only a world or a scenario with steps has."""
    entries = [one for key in ("process", "device") if isinstance(raw.get(key), list) for one in raw[key]]
    counted = any(isinstance(one, dict) and not one.keys().isdisjoint(("count", "threads")) for one in entries)
    return not counted and raw.keys().isdisjoint(_NOT_OF_MACHINES)


def world_of(machine: MachineSpec, devices: Sequence[str] = (), *, title: str = "", scheme: str = "all") -> Loaded:
    """Make a small world of a machine; InputError when no device of it can be bound, or one that is named cannot."""
    fitting = Fitting(machine)
    chosen = _named(fitting, devices) if devices else _first(fitting)
    small = _smaller(machine, [fitting.plain(device) for device in chosen])
    portal = any(device.submits in PORTALS for device in chosen)
    kept: dict[str, Any] = {name: getattr(small, name) for name in ("kernel", "switches", "cpu", "options", "iommu")}
    world = World(
        **kept,
        title=title,
        scheme=scheme,
        actions=[*ACTIONS, "mmap_portal"] if portal else ACTIONS,
        teardown=Teardown(driver=["stop", "unbind"]),
        device=[DeviceClass(**structs.asdict(device)) for device in small.device],
        process=[ProcessClass("p", count=PROCESSES)],
    )
    check_world(world)
    return Loaded(world, tuple(_remarks(machine, chosen, small)))


# --- which devices can be bound ------------------------------------------------------------------------------


class Fitting:
    """Which devices of a machine can be bound, and how many numbers they carry there."""

    def __init__(self, machine: MachineSpec) -> None:
        self.machine = machine
        self.iommus = {iommu.name: iommu for iommu in machine.iommu}
        self.devices = {device.name: device for device in machine.device}
        self._tried: dict[tuple[DeviceSpec, ...], str] = {}

    def function(self, device: DeviceSpec) -> DeviceSpec:
        """Return the device whose capability counts."""
        return device if device.physfn is None else self.devices[device.physfn]

    def plain(self, device: DeviceSpec) -> DeviceSpec:
        """Return a device by itself: without its group, with the width of its physical function, PASID on."""
        own = dict.fromkeys(("group", "physfn", "prefix_path", "acs_path", "pasid_enabled"))
        return structs.replace(device, **own, pasid_bits=self.function(device).pasid_bits)

    def bound(self, device: DeviceSpec) -> int:
        """Return one more than the largest number that a device carries behind its IOMMU."""
        bits = self.function(device).pasid_bits
        return 0 if device.iommu is None or bits is None else min(1 << bits, iommu_bound(self.iommus[device.iommu]))

    def unfit(self, device: DeviceSpec) -> str:
        """Say why no process can be bound to a device; empty where one can. Devices of one kind are tried once."""
        if device.iommu is None:
            return "it is behind no IOMMU"
        if self.bound(device) < 2:
            return "it carries no PASID" if device.physfn is None else "its physical function carries no PASID"
        names = dict.fromkeys(("group", "source_id", "stream_id"))
        parts = [device] if device.physfn is None else [self.function(device), device]
        alone = tuple(structs.replace(part, name=f"d{number}", **names) for number, part in enumerate(parts))
        if len(alone) == 2:
            alone = alone[0], structs.replace(alone[1], physfn="d0")
        if alone not in self._tried:
            self._tried[alone] = self._refusal(alone)
        return self._tried[alone]

    def _refusal(self, alone: tuple[DeviceSpec, ...]) -> str:
        """Bind a process to the last of these devices on a machine of nothing else, and return why that is refused."""
        used = {part.iommu for part in alone}
        iommus = [iommu for iommu in self.machine.iommu if iommu.name in used]
        spec = MachineSpec(
            kernel=self.machine.kernel,
            switches=self.machine.switches,
            config=self.machine.config,
            cpu=self.machine.cpu,
            options=self.machine.options,
            iommu=iommus,
            device=list(alone),
            process=[ProcessSpec("p")],
        )
        outcome = Machine(spec).bind(alone[-1].name, "p")
        return "" if outcome.result == "ok" else f"{outcome.result} [{outcome.rule}]"


def iommu_bound(iommu: IommuSpec) -> int:
    """Return one more than the largest number that an IOMMU takes."""
    if iommu.scalable is False or not TRAITS[iommu.ops].carries_pasids:
        return 0
    return 1 << iommu.substream_bits if iommu.max_pasids is None else iommu.max_pasids


def _named(fitting: Fitting, names: Sequence[str]) -> list[DeviceSpec]:
    """Return the devices that were asked for."""
    for name in names:
        if name not in fitting.devices:
            known = listed(list(fitting.devices))
            raise InputError(f"--device {name}: no such device; known: {known or 'none'}")
        if list(names).count(name) > 1:
            raise InputError(f"--device {name}: is named twice")
        reason = fitting.unfit(fitting.devices[name])
        if reason:
            raise InputError(f"--device {name}: no process can be bound to it, so there is nothing to search: {reason}")
    return [fitting.devices[name] for name in names]


def _first(fitting: Fitting) -> list[DeviceSpec]:
    """Return the first device that can be bound, and the first beside it with another width, else the next."""
    fit = [device for device in fitting.machine.device if not fitting.unfit(device)]
    if not fit:
        raise InputError(f"device: no process can be bound to any, so there is nothing to search: {_why_none(fitting)}")
    first, rest = fit[0], fit[1:]

    def unlike(device: DeviceSpec) -> tuple[bool, bool]:
        mine, other = fitting.bound(device), fitting.bound(first)
        return min(mine, SMALL) == min(other, SMALL), mine == other

    return [first, *sorted(rest, key=unlike)[: DEVICES - 1]]


def _why_none(fitting: Fitting) -> str:
    """Say why no device can be bound: each reason with the first device that has it."""
    firsts: dict[str, str] = {}
    for device in fitting.machine.device:
        firsts.setdefault(fitting.unfit(device), device.name)
    reasons = [f"{name}: {reason}" for reason, name in firsts.items()]
    return listed(reasons) or "the machine has no devices"


# --- a smaller machine ---------------------------------------------------------------------------------------


def _smaller(machine: MachineSpec, devices: list[DeviceSpec]) -> MachineSpec:
    """Return a machine of these devices and their IOMMUs, on mocks that keep nothing, with few numbers."""
    used = {device.iommu for device in devices}
    for_kernel = sum(device.is_idxd and device.kernel_pasid is not False for device in devices)
    iommus = [iommu for iommu in machine.iommu if iommu.name in used]
    small = on_model(structs.replace(machine, iommu=iommus, device=devices, process=[]), MOCK)
    cut = [
        _cut(mock, min(iommu_bound(whole), SMALL + for_kernel)) for mock, whole in zip(small.iommu, iommus, strict=True)
    ]
    return structs.replace(small, iommu=cut)


def _cut(iommu: IommuSpec, bound: int) -> IommuSpec:
    """Return a mock that takes few numbers and keeps nothing, with the usual operations in the place of AMD's."""
    ops = Mode.USUAL if iommu.ops is Mode.AMD_VI else iommu.ops
    return structs.replace(iommu, max_pasids=bound, caches=False, detach=None, ops=ops)


def _remarks(machine: MachineSpec, chosen: list[DeviceSpec], small: MachineSpec) -> Iterable[str]:
    names = ", ".join(device.name for device in chosen)
    yield f"taken of the machine: {names}; {PROCESSES} processes"
    largest = max(iommu.max_pasids or 1 for iommu in small.iommu) - 1
    others = len(machine.device) - len(chosen)
    left = [f"{others:,} other device{'s' if others > 1 else ''}"] if others else []
    left += [f"numbers above {largest}"]
    left += ["the tables and caches of the IOMMUs"]
    grouped = [device.name for device in chosen if device.group is not None]
    if grouped:
        left.append(f"the groups of {', '.join(grouped)}, whose other members limit them too")
    yield f"left out: {', '.join(left)}"

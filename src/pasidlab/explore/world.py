"""A world: a small machine, what may happen on it, and how far to look, read from TOML.

A world file describes a machine with the keys of a scenario. Processes and devices may have a `count`: those of one
entry are interchangeable, and their names are the entry's with 0, 1, 2... behind it.

Decided here: the IOMMUs of a world keep what they have cached, unless the world says `caches = false`, since a search
that cannot find a stale line proves little; and a group has one device.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct, field, structs

from pasidlab.decode import convert, read_toml
from pasidlab.description import MOCK, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec, check
from pasidlab.devices.endpoint import PORTALS
from pasidlab.errors import InputError, blamed_on
from pasidlab.explore.action import NAMES, Verb
from pasidlab.explore.state import MAX_DEVICES, MAX_NUMBER, MAX_PROCESSES, MAX_TASKS, Classes
from pasidlab.linux.profiles import profile

MOST_NUMBERS = 1023
"""The largest number of a world: each is looked at in every state."""
Count = Annotated[int, Meta(ge=1, le=99)]
ActionName = Literal[
    "bind",
    "bind_device",
    "bind_device_pasid",
    "unbind",
    "mmap_portal",
    "submit",
    "forge",
    "dma",
    "page_request",
    "exit",
    "alloc_global",
    "free_global",
    "attach",
    "detach",
    "fail_next",
]
DriverStep = Literal["stop", "drain", "unbind"]
IommuStep = Literal["table", "iotlb", "atc"]


class ProcessClass(ProcessSpec, frozen=True, forbid_unknown_fields=True):
    """`count` interchangeable processes of `threads` tasks each."""

    count: Count = 1
    threads: Annotated[int, Meta(ge=1, le=9)] = 1


class DeviceClass(DeviceSpec, frozen=True, forbid_unknown_fields=True):
    """`count` interchangeable devices."""

    count: Count = 1


class Teardown(Struct, frozen=True, forbid_unknown_fields=True):
    """In which order a bond and a table entry are taken away; what is left out is not done.

    Attributes:
        driver: what the device's driver does: stop the device's work, drain its page requests, unbind.
        iommu: what the IOMMU's driver does: clear the table's entry, invalidate the IOTLB, invalidate the ATC.
        windows: devices may act between the steps of the IOMMU's driver.
    """

    driver: list[DriverStep] = field(default_factory=lambda: ["stop", "drain", "unbind"])
    iommu: list[IommuStep] = field(default_factory=lambda: ["table", "iotlb", "atc"])
    windows: bool = True


class Bounds(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a search stops, if it was not done before: after so many states, seconds, or steps from the start.

    `memory` is in MiB.
    """

    states: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(gt=0)] | None = None
    depth: Annotated[int, Meta(ge=1)] | None = None
    memory: Annotated[int, Meta(ge=1)] | None = None


class WorldDevice(NamedTuple):
    """One device of a world: its name, whether it has a portal, and whether it has an ATC."""

    name: str
    portal: bool
    ats: bool


class World(MachineSpec, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """A world; `always` and `sometimes` are names of properties, None being those that every world has.

    Attributes:
        title, about: for reports.
        scheme: a name, a list with commas, "all", or FILE.py:CLASS; the command line may override it.
        actions: what may happen.
        always: properties that must hold in every state and step, by name or as FILE.py:FUNCTION.
        sometimes: what must be reached, by scheme: VERB=RESULT, as "bind=ENOSPC".
    """

    title: str = ""
    about: str = ""
    scheme: str = "all"
    actions: list[ActionName]
    always: list[str] | None = None
    sometimes: dict[str, list[str]] = field(default_factory=dict)
    teardown: Teardown = Teardown()
    bounds: Bounds = Bounds()
    device: list[DeviceClass] = field(default_factory=list)  # type: ignore[assignment]
    process: list[ProcessClass] = field(default_factory=list)  # type: ignore[assignment]

    @classmethod
    def load(cls, path: str | Path) -> World:
        """Read and check a TOML file; InputError names file, key, value and what is allowed."""
        path = Path(path)
        raw = read_toml(path)
        with blamed_on(path):
            return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> World:
        """Check decoded TOML."""
        if "actions" not in raw:
            raise InputError(f"actions: missing; name some of: {', '.join(NAMES)}")
        world = convert(raw, cls)
        check_world(world)
        return world

    @cached_property
    def verbs(self) -> frozenset[Verb]:
        """The kinds of action that are allowed."""
        return frozenset(verb for name in self.actions for verb in NAMES[name])

    @cached_property
    def machine(self) -> MachineSpec:
        """The machine, each device and process on its own."""
        parts = {name: getattr(self, name) for name in MachineSpec.__struct_fields__}
        parts["device"] = [spec for one in self.device for spec in _expanded(one, DeviceSpec)]
        parts["process"] = [spec for one in self.process for spec in _expanded(one, ProcessSpec)]
        parts["iommu"] = [self._with_caches(spec) for spec in self.iommu]
        return MachineSpec(**parts)

    def _with_caches(self, spec: Any) -> Any:
        orders = None if spec.caches is False else list(self.teardown.iommu)
        caches = spec.caches is not False
        return structs.replace(spec, caches=caches, detach=orders)

    @cached_property
    def devices(self) -> tuple[WorldDevice, ...]:
        """The devices, in the order of their indexes."""
        return tuple(WorldDevice(one.name, one.submits in PORTALS, one.kind != "narrow") for one in self.machine.device)

    @cached_property
    def processes(self) -> tuple[tuple[str, ...], ...]:
        """The names of each process's tasks; the first is the process's own."""
        specs = ((name, one.threads) for one in self.process for name in _names(one))
        return tuple((name, *(f"{name}/{number}" for number in range(1, threads))) for name, threads in specs)

    @cached_property
    def max_pasids(self) -> tuple[int, ...]:
        """One more than the largest number that each device carries, 0 without PASIDs, as the core computes it."""
        iommus = {iommu.name: iommu for iommu in self.iommu}
        return tuple(_max_pasids(device, iommus) for device in self.machine.device)

    @cached_property
    def largest(self) -> tuple[int, ...]:
        """The largest number that each device carries, 0 for none."""
        return tuple(max(0, bound - 1) for bound in self.max_pasids)

    @cached_property
    def numbers(self) -> int:
        """The largest number that any device carries."""
        return max(self.largest)

    @cached_property
    def classes(self) -> Classes:
        """Which processes and devices are interchangeable: those of one entry."""
        return Classes(
            tuple(number for number, one in enumerate(self.process) for _ in range(one.count)),
            tuple(number for number, one in enumerate(self.device) for _ in range(one.count)),
        )


def _max_pasids(device: DeviceSpec, iommus: dict[str, IommuSpec]) -> int:
    """Return `dev->iommu->max_pasids` (`dev_iommu_get_max_pasids()`)."""
    if device.iommu is None or device.pasid_bits is None:
        return 0
    iommu = iommus[device.iommu]
    bound = 1 << iommu.pasid_bits if iommu.max_pasids is None else iommu.max_pasids
    return min(bound, 1 << device.pasid_bits)


def _names(one: ProcessClass | DeviceClass) -> list[str]:
    """Return the names of an entry's processes or devices."""
    return [one.name] if one.count == 1 else [f"{one.name}{number}" for number in range(one.count)]


def _expanded(one: ProcessClass | DeviceClass, kind: type[DeviceSpec] | type[ProcessSpec]) -> list[Any]:
    """Return an entry's processes or devices without their count."""
    parts = {name: getattr(one, name) for name in kind.__struct_fields__}
    return [kind(**parts | {"name": name}) for name in _names(one)]


def check_world(world: World) -> None:
    """Raise InputError for what no type forbids."""
    if not world.actions:
        raise InputError(f"actions = []: nothing may happen; allowed: {', '.join(NAMES)}")
    for key in ("process", "device"):
        if not getattr(world, key):
            raise InputError(f"{key}: missing; a world has at least one [[{key}]]")
    _check_teardown(world.teardown)
    for index, device in enumerate(world.device):
        if device.group is not None:
            reason = "a device of a world has a group of its own; leave it out"
            raise InputError(f"device[{index}].group = {device.group!r}: {reason}")
    for index, iommu in enumerate(world.iommu):
        if iommu.model != MOCK:
            raise InputError(f"iommu[{index}].model = {iommu.model!r}: a world is searched on a {MOCK}; leave it out")
    try:
        check(world.machine)
    except InputError as error:
        counted = max(len(world.machine.device) - len(world.device), len(world.machine.process) - len(world.process))
        note = " (each one of a `count` has an index here)" if counted and "[" in f"{error}" else ""
        raise InputError(f"{error}{note}") from None
    profile(world.kernel).with_switches(dict(world.switches))
    _check_numbers(world)


def _check_numbers(world: World) -> None:
    """Raise InputError where there are so many numbers that no search would end."""
    for device, largest in zip(world.machine.device, world.largest, strict=True):
        if largest > MOST_NUMBERS:
            raise InputError(
                f"device {device.name}: carries {largest:,} numbers, more than the {MOST_NUMBERS} of a world; "
                f"set max_pasids of {device.iommu} to one more than what is needed"
            )


def _check_teardown(teardown: Teardown) -> None:
    for key, needed in (("driver", "unbind"), ("iommu", "table")):
        steps = getattr(teardown, key)
        if len(set(steps)) < len(steps):
            raise InputError(f"teardown.{key} = {steps!r}: names a step twice")
        if needed not in steps:
            raise InputError(f"teardown.{key} = {steps!r}: has no {needed!r}, without which nothing is taken away")


def too_large(world: World) -> str | None:
    """Say what of a world the compiled search has no room for; None when it fits."""
    sizes = (
        ("processes", len(world.processes), MAX_PROCESSES),
        ("threads of a process", max(map(len, world.processes)), MAX_TASKS),
        ("devices", len(world.devices), MAX_DEVICES),
        ("numbers", world.numbers, MAX_NUMBER),
    )
    return next((f"{size} {what}, more than {most}" for what, size, most in sizes if size > most), None)

"""What the peers need to know of a world: its sizes and orders, as plain numbers.

The peers know fewer actions than `pasidlab check`: a world that asks for more is refused here, so that nobody compares
searches of different machines.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.errors import InputError
from pasidlab.explore.world import World
from pasidlab.machine import Machine

SCHEMES = ("mainline", "hybrid")
ACTIONS = ("bind", "unbind", "mmap_portal", "submit", "exit", "page_request")
GUARDS = ("mmap", "none")


class DeviceSizes(NamedTuple):
    """One device: the numbers below `bound` are its; its driver gives them out, or the core.

    `portal` is where ENQCMD goes, without it the driver programs a register; `ats` is an ATC.
    """

    bound: int
    own_numbers: bool
    portal: bool
    ats: bool


class Sizes(NamedTuple):
    """One world under one scheme.

    Attributes:
        tasks: how many each process has.
        devices: in the order of the world.
        numbers: the largest that any device carries.
        carries: whether the CPU has an instruction that carries the process's number.
        guard: a portal is only for a process with a normal bond.
        driver, iommu: the steps in which a driver closes, and an IOMMU's driver takes an entry away.
        windows: devices act between the latter.
        actions: those that the world allows.
        process_classes, device_classes: what is interchangeable.
    """

    tasks: tuple[int, ...]
    devices: tuple[DeviceSizes, ...]
    numbers: int
    carries: bool
    guard: bool
    driver: tuple[str, ...]
    iommu: tuple[str, ...]
    windows: bool
    actions: frozenset[str]
    process_classes: tuple[int, ...]
    device_classes: tuple[int, ...]


def sizes_of(world: World, scheme: str) -> Sizes:
    """Return what the peers need; InputError for a world that they do not know."""
    foreign = [name for name in world.actions if name not in ACTIONS]
    if foreign or scheme not in SCHEMES or world.options.guard not in GUARDS:
        what = foreign[0] if foreign else f"{scheme} with guard = {world.options.guard}"
        raise InputError(f"{world.title}: the peers do not know {what}")
    machine = Machine(world.machine, scheme)
    devices = []
    for device in world.devices:
        dev = machine.endpoints[device.name].dev
        own_numbers = machine.scheme.driver_owns_pasids(dev)
        devices.append(DeviceSizes(dev.max_pasids, own_numbers, device.portal, device.ats))
    return Sizes(
        tasks=tuple(map(len, world.processes)),
        devices=tuple(devices),
        numbers=world.numbers,
        carries=machine.kernel.enqcmd_like,
        guard=world.options.guard == "mmap",
        driver=tuple(world.teardown.driver),
        iommu=tuple(world.teardown.iommu),
        windows=world.teardown.windows,
        actions=frozenset(world.actions),
        process_classes=world.classes.processes,
        device_classes=world.classes.devices,
    )

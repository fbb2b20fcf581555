"""Look the abstract state of a world up in its machine, without changing anything.

What no part of the machine keeps, since it is only for properties or is the position of a driver inside its own
teardown, comes from `Ghosts`, which whoever performs the actions carries along.

Decided here: an address space is that of the process whose name it has, for processes of a world neither fork nor exec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.explore.action import Action, Verb
from pasidlab.explore.names import job_name, module_name, name_of
from pasidlab.explore.state import CORE, DRIVER, LOCAL, NORMAL, OPENED, OnDevice, ProcessState, State, TaskState
from pasidlab.hw.cpu import MAX_PASID
from pasidlab.linux.kernel import UNKNOWN_HOLDER
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.traps import X86Os
from pasidlab.schemes.hybrid import HybridMmData
from pasidlab.schemes.rfc import RfcMmData
from pasidlab.schemes.v2 import V2MmData

if TYPE_CHECKING:
    from pasidlab.explore.world import World
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device, IommuDomain
    from pasidlab.linux.sva import IommuMmData
    from pasidlab.linux.task import Task
    from pasidlab.machine import Machine
    from pasidlab.machine.in_flight import Job, Request

_DEAD = TaskState(alive=False)
Grid = list[list[int]]
"""A number or a mask by process and device."""


class Closing(NamedTuple):
    """A teardown that a driver has begun: the handle, the number of its bond, how many steps are done."""

    handle: int
    number: int
    phase: int = 0


class Standing(NamedTuple):
    """A kernel call that stands in a window: the action, the number of the bond or 0, how many steps are done."""

    action: Action
    number: int
    steps: int


class Ghosts(NamedTuple):
    """What belongs to a state and is not in the machine.

    Attributes:
        bound: the processes in which a normal bind has succeeded.
        closing: the teardowns that were begun, by process and device; never changed in place.
        standing: the kernel call that stands in a window.
    """

    bound: frozenset[int] = frozenset()
    closing: Mapping[tuple[int, int], Closing] = {}
    standing: Standing | None = None


class Abstraction:
    """Looks up the states of one world's machines."""

    def __init__(self, world: World) -> None:
        self.tasks = world.processes
        self.processes = {names[0]: index for index, names in enumerate(world.processes)}
        self.devices = [device.name for device in world.devices]
        self._places = [(process, device) for process in range(len(self.tasks)) for device in range(len(self.devices))]
        codes = (OPENED, NORMAL, *(LOCAL + number for number in range(1, world.numbers + 1)))
        self._handles = {name_of(world, *place, code): (*place, code) for place in self._places for code in codes}
        self._jobs = {job_name(world, *place): place for place in self._places}
        self._modules = {f"module {module_name(world, index)}": index for index in range(len(self.devices))}

    def state(self, machine: Machine, ghosts: Ghosts) -> State:
        """Return the state that a machine of the world is in."""
        devices = [machine.endpoints[name].dev for name in self.devices]
        groups = {dev.iommu_group: index for index, dev in enumerate(devices)}
        mms = {mm.name: mm for mm in machine.kernel.mms}
        on = self._on_devices(machine, devices, mms, ghosts)
        x86 = isinstance(machine.os, X86Os)
        processes = []
        for index, names in enumerate(self.tasks):
            mm = mms.get(names[0])
            data = None if mm is None else mm.iommu_mm
            processes.append(
                ProcessState(
                    tuple([_task(machine.processes[name], x86) for name in names]),
                    0 if data is None or data.pasid == IOMMU_PASID_INVALID else data.pasid,
                    _mode(data),
                    mm is not None and index in ghosts.bound,
                    tuple([groups[group] for group in data.local]) if isinstance(data, RfcMmData) else (),
                    _window(ghosts.standing, index),
                    on[index],
                )
            )
        armed = tuple([dev in machine.driver_of(dev).fail_set for dev in devices])
        return State(tuple(processes), self._taken(machine), self._attached(machine, devices), armed, _lost(machine))

    def _on_devices(
        self, machine: Machine, devices: list[Device], mms: dict[str, MmStruct], ghosts: Ghosts
    ) -> list[tuple[OnDevice, ...]]:
        """Return what each process has on each device."""
        opened, normal, local = self._bonds(machine, ghosts.standing)
        job, asked = self._work(machine)
        driver = machine.parts.mock
        entry, iotlb, atc = (self._lines(lines, devices) for lines in (driver.entries, driver.iotlb, driver.atc))
        found: list[list[OnDevice]] = [[] for _ in self.tasks]
        for place in self._places:
            p, d = place
            mm = mms.get(self.tasks[p][0])
            closing = ghosts.closing.get(place)
            found[p].append(
                OnDevice(
                    opened[p][d],
                    normal[p][d],
                    local[p][d],
                    mm is not None and _is_marked(mm.iommu_mm, devices[d]),
                    entry[p][d],
                    iotlb[p][d],
                    atc[p][d],
                    mm is not None and mm.mm_users > 0 and mm in machine.endpoints[self.devices[d]].mapped,
                    0 if closing is None else closing.handle,
                    0 if closing is None else closing.number,
                    0 if closing is None else closing.phase,
                    job[p][d],
                    asked[p][d],
                )
            )
        return [tuple(row) for row in found]

    def _grid(self) -> Grid:
        return [[0] * len(self.devices) for _ in self.tasks]

    def _bonds(self, machine: Machine, standing: Standing | None) -> tuple[Grid, Grid, Grid]:
        """Return the numbers of opened and normal handles, and masks of the others; a call counts when it is done."""
        opened, normal, local = self._grid(), self._grid(), self._grid()
        unbinding = _unbinding(standing)
        for name, binding in machine.bindings.items():
            handle = self._handles[name]
            if not binding.live and handle != unbinding:
                continue
            process, device, code = handle
            if code == OPENED:
                opened[process][device] = binding.bond.pasid
            elif code == NORMAL:
                normal[process][device] = binding.bond.pasid
            else:
                local[process][device] |= 1 << binding.bond.pasid
        return opened, normal, local

    def _work(self, machine: Machine) -> tuple[Grid, Grid]:
        """Return the numbers of work and of page requests in flight."""
        return self._numbers(machine.jobs), self._numbers(machine.requests)

    def _numbers(self, waiting: Mapping[str, Job] | Mapping[str, Request]) -> Grid:
        numbers = self._grid()
        for name, one in waiting.items():
            process, device = self._jobs[name]
            numbers[process][device] = one.pasid or 0
        return numbers

    def _lines(self, lines: dict[tuple[Device, int], IommuDomain], devices: list[Device]) -> Grid:
        """Return masks of the numbers at which a table or a cache names each process."""
        masks = self._grid()
        for (dev, pasid), domain in lines.items():
            if domain.mm is not None:
                masks[self.processes[domain.mm.name]][devices.index(dev)] |= 1 << pasid
        return masks

    def _taken(self, machine: Machine) -> tuple[int, ...]:
        """Return the number that a kernel module has for each device."""
        taken = [0] * len(self.devices)
        for number, user in machine.kernel.global_users.items():
            if user in self._modules:
                taken[self._modules[user]] = number
        return tuple(taken)

    def _attached(self, machine: Machine, devices: list[Device]) -> tuple[int, ...]:
        """Return masks of the numbers at which a kernel-managed domain is attached."""
        masks = [0] * len(devices)
        for group, pasid in machine.domains:
            for dev in group.devices:
                masks[devices.index(dev)] |= 1 << pasid
        return tuple(masks)


def _task(task: Task, x86: bool) -> TaskState:
    if task.mm is None:
        return _DEAD
    if x86:
        register = task.x86.ia32_pasid & MAX_PASID if task.x86.pasid_valid else 0
        return TaskState(True, register, task.pasid_activated)
    return TaskState(True, task.arm64.accdata_el1 if task.st64bv0_enabled else 0, task.st64bv0_enabled)


def _lost(machine: Machine) -> int:
    """Return a mask of the numbers of the global space that nobody is known to hold."""
    return sum(1 << number for number, holder in machine.kernel.holders() if holder == UNKNOWN_HOLDER)


def _mode(data: IommuMmData | None) -> int:
    if not isinstance(data, V2MmData):
        return 0
    return CORE if data.pasid_global else DRIVER


def _is_marked(data: IommuMmData | None, dev: Device) -> bool:
    """Whether a normal bind asked for the bond at the process's own number, under hybrid."""
    if not isinstance(data, HybridMmData) or dev.iommu_group is None:
        return False
    return dev.iommu_group.pasid_array.get(data.pasid) in data.normal


def _unbinding(standing: Standing | None) -> tuple[int, int, int] | None:
    """Return the handle whose unbind stands in a window."""
    if standing is None or standing.action.verb is not Verb.UNBIND:
        return None
    return standing.action[1:]


def _window(standing: Standing | None, process: int) -> tuple[int, int, int]:
    if standing is None or standing.action.process != process:
        return 0, 0, 0
    device = standing.action.device + 1 if standing.action.verb is Verb.UNBIND else 0
    return standing.steps, device, standing.number

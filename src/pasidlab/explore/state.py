"""The abstract state of a machine: all that decides what can happen next, and nothing else.

Both searches speak in these: the readable one looks a `State` up in the `Machine`, the compiled one unpacks it from its
record, and they must reach the same ones. What a process has is kept with the process, so that interchangeable
processes are the same when their entries are sorted.

Left out, since it decides nothing here: the contents of memory and which of its pages are present, identifiers of
domains, pids, counts of references that follow from the bonds.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import NamedTuple

MAX_PROCESSES, MAX_TASKS, MAX_DEVICES, MAX_NUMBER = 6, 3, 4, 7
"""What the compiled search has room for; a larger world is for the readable one."""


class TaskState(NamedTuple):
    """One task. `register` is the number in its IA32_PASID or ACCDATA_EL1, 0 when that is not valid.

    `activated` is `task->pasid_activated`, on arm64 that ST64BV0 is enabled. A task that has exited is all zero.
    """

    alive: bool = True
    register: int = 0
    activated: bool = False


class OnDevice(NamedTuple):
    """What one process has on one device; bit n of a mask stands for number n.

    Attributes:
        opened: the number of the bond that the driver's open() made, 0 for none.
        normal: the number of the bond of `iommu_sva_bind_device()`, 0 for none.
        local: mask of the numbers bound with `iommu_sva_bind_device_pasid()`.
        marked: hybrid only: a normal bind asked for the bond at the process's number, which opens the portal.
        entry: mask of the table entries of the device that name this process.
        iotlb, atc: masks of the numbers under which the IOMMU and the device have cached this process.
        portal: the device's portal is mapped.
        closing: the handle that is being torn down, 0 for none; it counts as live until its `unbind`.
        closing_number: the number of its bond.
        phase: how many steps of the driver's teardown are done.
        job: the number of the work in flight that this process submitted, 0 for none.
        asked: the number of the page request in flight that the work made, 0 for none.
    """

    opened: int = 0
    normal: int = 0
    local: int = 0
    marked: bool = False
    entry: int = 0
    iotlb: int = 0
    atc: int = 0
    portal: bool = False
    closing: int = 0
    closing_number: int = 0
    phase: int = 0
    job: int = 0
    asked: int = 0

    @property
    def bonds(self) -> int:
        """Mask of the numbers at which the process has a bond."""
        return self.local | (1 << self.opened | 1 << self.normal) & ~1

    def handles(self) -> tuple[int, ...]:
        """Return its live handles."""
        raw = (LOCAL + number for number in range(1, self.local.bit_length()) if self.local >> number & 1)
        return (*(OPENED,) * bool(self.opened), *(NORMAL,) * bool(self.normal), *raw)

    def number_of(self, handle: int) -> int:
        """Return the number of a handle, 0 when it is not live."""
        if handle > LOCAL:
            return handle - LOCAL if self.local >> handle - LOCAL & 1 else 0
        return self.opened if handle == OPENED else self.normal

    def users(self, number: int) -> int:
        """Return how many handles share the bond at a number."""
        return (self.opened == number) + (self.normal == number) + (self.local >> number & 1)


OPENED, NORMAL, LOCAL = 1, 2, 2
"""Handles of one process on one device: that of open(), that of `iommu_sva_bind_device()`, LOCAL + n for number n."""

CORE, DRIVER = 1, 2
"""`ProcessState.mode` under v2: the number is of the global space, or a driver's, which ENQCMD does not carry."""


class ProcessState(NamedTuple):
    """One process: an address space and its tasks.

    Attributes:
        tasks: in the order of the world; symmetry sorts them.
        number: `mm->iommu_mm->pasid`, 0 for none or INVALID.
        mode: v2 only: 0 without SVA data, else CORE or DRIVER.
        bound: a normal bind has succeeded in this address space (what R8 asks for); nothing of the machine reads it.
        order: rfc only: the devices on which it has a bond at a device's own number, oldest bond first.
        window: a kernel call that stands between two steps of the IOMMU driver: how many are done, the device counted
            from 1 (0: the address space's end), the number. (0, 0, 0) is no such call.
        on: by device.

    An address space that is gone, its tasks and bonds with it, is all zero but for what devices still hold of it.
    """

    tasks: tuple[TaskState, ...]
    number: int = 0
    mode: int = 0
    bound: bool = False
    order: tuple[int, ...] = ()
    window: tuple[int, int, int] = (0, 0, 0)
    on: tuple[OnDevice, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether a task lives in the address space (`mm_users`)."""
        return any(task.alive for task in self.tasks)

    @property
    def free_tasks(self) -> bool:
        """Whether a task lives that is not inside the kernel call which stands in a window."""
        return sum(task.alive for task in self.tasks) > (self.window[0] > 0)


class State(NamedTuple):
    """A machine's abstract state.

    Attributes:
        processes: in the order of the world.
        module: by device, the global number that a kernel module took for it, 0 for none.
        attached: by device, mask of the numbers at which a kernel-managed domain is attached.
        armed: by device, whether its next set_dev_pasid fails.
        lost: mask of the numbers that are held in the global space and that nobody is left to give back.
    """

    processes: tuple[ProcessState, ...]
    module: tuple[int, ...]
    attached: tuple[int, ...]
    armed: tuple[bool, ...]
    lost: int = 0

    @property
    def in_window(self) -> int | None:
        """The process whose kernel call stands in a window, if one does; other kernel calls wait for it."""
        return next((index for index, process in enumerate(self.processes) if process.window[0]), None)


class Classes(NamedTuple):
    """Which processes and devices are interchangeable: the class of each, by index; tasks of a process always are."""

    processes: tuple[int, ...]
    devices: tuple[int, ...]


def canonical(state: State, classes: Classes) -> State:
    """Return the representative of all states that differ from this one by interchangeable names only.

    Tasks are sorted within each process and processes within each class, for each permutation of the devices; the
    smallest result stands for all.
    """
    return min(_sorted(_with_devices(state, order), classes.processes) for order in device_orders(classes.devices))


@cache
def device_orders(classes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the permutations that only exchange devices of one class: new index to old index."""
    members = [[index for index, kind in enumerate(classes) if kind == one] for one in sorted(set(classes))]
    orders = []
    for choice in product(*(permutations(group) for group in members)):
        order = [0] * len(classes)
        for places, group in zip(members, choice, strict=True):
            for place, index in zip(places, group, strict=True):
                order[place] = index
        orders.append(tuple(order))
    return orders


def _with_devices(state: State, order: tuple[int, ...]) -> State:
    """Return the state with device `order[i]` in place i."""
    place = {old: new for new, old in enumerate(order)}

    def moved(process: ProcessState) -> ProcessState:
        steps, device, number = process.window
        return process._replace(
            order=tuple(place[index] for index in process.order),
            window=(steps, place[device - 1] + 1 if device else 0, number),
            on=tuple(process.on[index] for index in order),
        )

    return State(
        tuple(moved(process) for process in state.processes),
        tuple(state.module[index] for index in order),
        tuple(state.attached[index] for index in order),
        tuple(state.armed[index] for index in order),
        state.lost,
    )


def _sorted(state: State, classes: tuple[int, ...]) -> State:
    """Return the state with tasks and processes sorted, each process within the places of its class."""
    tidy = [process._replace(tasks=tuple(sorted(process.tasks))) for process in state.processes]
    for one in set(classes):
        places = [index for index, kind in enumerate(classes) if kind == one]
        for place, process in zip(places, sorted(tidy[index] for index in places), strict=True):
            tidy[place] = process
    return state._replace(processes=tuple(tidy))

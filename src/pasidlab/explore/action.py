"""What can happen next in a state: the actions that a world allows, and what each led to.

Both searches offer the same actions in the same states; what an action leads to is up to the machine. An action is
offered even if it will be refused, since refusals are what people ask about; one that would only repeat itself (a
second bind of the same kind, work while work is in flight) is not.

Decided here: kernel calls exclude each other, as `iommu_sva_lock` does, so that while one stands in a window only
devices, instructions and the fault worker act. The driver's own steps of a teardown (stop, drain, unbind) are single
calls, between which anything may happen. Which task made the call that stands in a window is not kept: of several any
may still submit, and one alone does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.explore.state import ProcessState, State

if TYPE_CHECKING:
    from pasidlab.explore.world import World


class Verb(IntEnum):
    """Kinds of action; what `arg` of an `Action` is stands behind each."""

    BIND = 0  # open() of the device's driver
    BIND_DEVICE = 1
    BIND_DEVICE_PASID = 2  # the number
    UNBIND = 3  # the handle; the next step of its teardown
    MMAP_PORTAL = 4
    SUBMIT = 5  # a portal: the task; a register: the number of the bond
    FORGE = 6  # the number that a posted write claims
    COMPLETE = 7
    ASK = 8
    ANSWER = 9
    EXIT = 10  # the task
    RESUME = 11
    ALLOC_GLOBAL = 12
    FREE_GLOBAL = 13
    ATTACH = 14  # the number
    DETACH = 15  # the number
    FAIL_NEXT = 16
    DMA = 17  # an access for work in flight, which goes on


BINDS = (Verb.BIND, Verb.BIND_DEVICE, Verb.BIND_DEVICE_PASID)
"""The calls that make a bond."""
NAMES: dict[str, tuple[Verb, ...]] = {
    "bind": (Verb.BIND,),
    "bind_device": (Verb.BIND_DEVICE,),
    "bind_device_pasid": (Verb.BIND_DEVICE_PASID,),
    "unbind": (Verb.UNBIND, Verb.RESUME),
    "mmap_portal": (Verb.MMAP_PORTAL,),
    "submit": (Verb.SUBMIT, Verb.COMPLETE),
    "forge": (Verb.FORGE, Verb.COMPLETE),
    "dma": (Verb.DMA,),
    "page_request": (Verb.ASK, Verb.ANSWER),
    "exit": (Verb.EXIT, Verb.RESUME),
    "alloc_global": (Verb.ALLOC_GLOBAL,),
    "free_global": (Verb.FREE_GLOBAL,),
    "attach": (Verb.ATTACH,),
    "detach": (Verb.DETACH,),
    "fail_next": (Verb.FAIL_NEXT,),
}
"""The key `actions` of a world, and which verbs each name allows."""


class Action(NamedTuple):
    """One action: process and device by index, 0 where it has none."""

    verb: Verb
    process: int = 0
    device: int = 0
    arg: int = 0


class Result(IntEnum):
    """What an action led to, in one word: ok, an errno, a signal, a hardware fault, or a store that was ignored."""

    OK = 0
    FAULT = 1
    IGNORED = 2
    SIGSEGV = 3
    SIGILL = 4
    SIGBUS = 5
    EPERM = 6
    ENOENT = 7
    ENOMEM = 8
    EBUSY = 9
    ENODEV = 10
    EINVAL = 11
    ENOSPC = 12
    EOVERFLOW = 13
    EOPNOTSUPP = 14
    ENOSYS = 15
    EDQUOT = 16
    ESRCH = 17


NOBODY, FREED, KERNEL = 0, 15, 14
"""Owners that are no process: nothing was touched, memory of an address space that is gone, the kernel's."""
WORKS = (Verb.COMPLETE, Verb.DMA)
"""The verbs by which a device accesses memory."""
OWNED = (*WORKS, Verb.ANSWER)
"""The verbs whose step has an owner."""


class Step(NamedTuple):
    """An action and what it led to; `owner` is whose memory an action of OWNED was about: a process from 1 on."""

    action: Action
    result: Result = Result.OK
    owner: int = NOBODY


def actions(state: State, world: World) -> Iterator[Action]:
    """Yield what can happen next, in the order of the verbs."""
    window = state.in_window
    for index, process in enumerate(state.processes):
        for device in range(len(world.devices)):
            if window is None:
                yield from _calls(index, process, device, world)
            yield from _work(index, process, device, world)
        if window is None and Verb.EXIT in world.verbs:
            yield from (Action(Verb.EXIT, index, 0, task) for task, one in enumerate(process.tasks) if one.alive)
    if window is None:
        yield from _of_kernel(state, world)
    else:
        yield Action(Verb.RESUME, window)


def _calls(index: int, process: ProcessState, device: int, world: World) -> Iterator[Action]:
    """Yield the calls of one process about one device."""
    on = process.on[device]
    if process.alive and not on.closing:
        if Verb.BIND in world.verbs and not on.opened:
            yield Action(Verb.BIND, index, device)
        if Verb.BIND_DEVICE in world.verbs and not on.normal:
            yield Action(Verb.BIND_DEVICE, index, device)
        if Verb.BIND_DEVICE_PASID in world.verbs:
            free = (number for number in range(1, world.numbers + 1) if not on.local >> number & 1)
            yield from (Action(Verb.BIND_DEVICE_PASID, index, device, number) for number in free)
    if Verb.UNBIND in world.verbs:
        handles = (on.closing,) if on.closing else on.handles()
        yield from (Action(Verb.UNBIND, index, device, handle) for handle in handles)
    if Verb.MMAP_PORTAL in world.verbs and _may_ask_for_portal(process, device, world):
        yield Action(Verb.MMAP_PORTAL, index, device)


def _may_ask_for_portal(process: ProcessState, device: int, world: World) -> bool:
    """Whether a process can call mmap: it lives, and has the device open by a file that is not being closed."""
    on = process.on[device]
    return process.alive and world.devices[device].portal and bool(on.bonds) and not on.portal and not on.closing


def _work(index: int, process: ProcessState, device: int, world: World) -> Iterator[Action]:
    """Yield what instructions and devices can do, also while a kernel call stands in a window."""
    on = process.on[device]
    if process.free_tasks and not on.job and not on.asked:
        yield from _submissions(index, process, device, world)
    if on.job and not on.asked:
        yield Action(Verb.COMPLETE, index, device)
        if Verb.DMA in world.verbs:
            yield Action(Verb.DMA, index, device)
        if Verb.ASK in world.verbs:
            yield Action(Verb.ASK, index, device)
    if on.asked:
        yield Action(Verb.ANSWER, index, device)


def _submissions(index: int, process: ProcessState, device: int, world: World) -> Iterator[Action]:
    on, portal = process.on[device], world.devices[device].portal
    if Verb.SUBMIT in world.verbs and portal and on.portal:
        yield from (Action(Verb.SUBMIT, index, device, task) for task, one in enumerate(process.tasks) if one.alive)
    if Verb.SUBMIT in world.verbs and not portal:
        yield from (Action(Verb.SUBMIT, index, device, number) for number in _queues(process, device, world))
    if Verb.FORGE in world.verbs and on.portal:
        yield from (Action(Verb.FORGE, index, device, number) for number in range(1, world.numbers + 1))


def _queues(process: ProcessState, device: int, world: World) -> Iterator[int]:
    """Yield the numbers of the bonds whose queue takes work: not that of the one that is torn down."""
    on, window = process.on[device], process.window
    torn_down = on.closing_number or (window[2] if window[1] == device + 1 else 0)
    numbers = range(1, world.numbers + 1)
    return (number for number in numbers if on.bonds >> number & 1 and number != torn_down)


def _of_kernel(state: State, world: World) -> Iterator[Action]:
    """Yield what kernel modules do, and failures of the IOMMU driver."""
    for device in range(len(world.devices)):
        if Verb.ALLOC_GLOBAL in world.verbs and not state.module[device]:
            yield Action(Verb.ALLOC_GLOBAL, 0, device)
        if Verb.FREE_GLOBAL in world.verbs and state.module[device]:
            yield Action(Verb.FREE_GLOBAL, 0, device)
        for number in range(1, world.numbers + 1):
            attached = state.attached[device] >> number & 1
            if Verb.ATTACH in world.verbs and not attached:
                yield Action(Verb.ATTACH, 0, device, number)
            if Verb.DETACH in world.verbs and attached:
                yield Action(Verb.DETACH, 0, device, number)
        if Verb.FAIL_NEXT in world.verbs and not state.armed[device]:
            yield Action(Verb.FAIL_NEXT, 0, device)

"""An action as a step of a scenario, and in words: what a trace is written with.

A call that stands in a window is one step of the scenario; what happens in the window are steps `during` it, and its
RESUME is none. The steps of a driver's teardown are the steps `stop`, `drain` and `unbind`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pasidlab.description.spec import architecture
from pasidlab.explore.action import Action, Verb
from pasidlab.explore.names import job_name, module_name, name_of, task_name
from pasidlab.explore.state import LOCAL, NORMAL, OPENED, State
from pasidlab.hw.cpu import Instruction

if TYPE_CHECKING:
    from pasidlab.explore.world import World


class Retold(NamedTuple):
    """A step of a scenario without expectations, and what it does in words."""

    step: dict[str, Any]
    words: str


def retell(world: World, before: State, action: Action) -> Retold | None:
    """Tell an action that is taken in a state; None for one that is no step of its own."""
    told = _TELLERS.get(action.verb)
    if told is None:
        return None
    retold = told(world, before, action)
    window = window_name(world, before)
    return retold._replace(step=retold.step | {"during": window}) if window else retold


def window_name(world: World, state: State) -> str:
    """Return the last step that the kernel call has done which stands in a window; empty when none does."""
    if state.in_window is None:
        return ""
    return world.teardown.iommu[state.processes[state.in_window].window[0] - 1]


def _bind(world: World, before: State, action: Action) -> Retold:
    process, device = _names(world, action)
    name = name_of(world, action.process, action.device, _MADE.get(action.verb, LOCAL + action.arg))
    step = {"do": action.verb.name.lower(), "device": device, "process": living_task(world, before, action.process)}
    if action.verb is Verb.BIND_DEVICE_PASID:
        return Retold(step | {"pasid": action.arg, "as": name}, f"{process} is bound to {device} at {action.arg}")
    words = f"{process} opens {device}" if action.verb is Verb.BIND else f"{process} is bound to {device}"
    return Retold(step | {"as": name}, words)


_MADE = {Verb.BIND: OPENED, Verb.BIND_DEVICE: NORMAL}


def _unbind(world: World, before: State, action: Action) -> Retold:
    on = before.processes[action.process].on[action.device]
    name = name_of(world, action.process, action.device, action.arg)
    process, device = _names(world, action)
    what = _HANDLES.get(action.arg, f"bond {action.arg - LOCAL}")
    if not on.closing and on.users(on.number_of(action.arg)) > 1:
        words = f"{process} gives back {what} of {device}, whose bond another handle shares"
        return Retold({"do": "unbind", "handle": name, "stop": False, "drain": False}, words)
    phase = world.teardown.driver[on.phase]
    begins = f"{process} gives back {what} of {device}: " if not on.closing else ""
    if phase == "unbind":
        words = f"{begins}the driver of {device} unbinds {process}"
        return Retold({"do": "unbind", "handle": name, "stop": False, "drain": False}, words)
    does = "stops the work of" if phase == "stop" else "drains the page requests of"
    return Retold({"do": phase, "handle": name}, f"{begins}the driver of {device} {does} {process}")


_HANDLES = {OPENED: "its file", NORMAL: "its bond"}


def _mmap_portal(world: World, before: State, action: Action) -> Retold:
    process, device = _names(world, action)
    step = {"do": "mmap_portal", "process": living_task(world, before, action.process), "device": device}
    return Retold(step, f"{process} maps the portal of {device}")


def _submit(world: World, before: State, action: Action) -> Retold:
    process, device = _names(world, action)
    job = job_name(world, action.process, action.device)
    if world.devices[action.device].portal:
        task = task_name(world, action.process, action.arg)
        instruction = world.machine.device[action.device].submits.value
        sent = {"do": "submit", "process": task, "device": device, "instruction": instruction, "job": job}
        return Retold(sent, f"{task} submits work to {device} with {instruction.upper()}")
    on = before.processes[action.process].on[action.device]
    handle = next(handle for handle in on.handles() if on.number_of(handle) == action.arg)
    name = name_of(world, action.process, action.device, handle)
    submitter = living_task(world, before, action.process)
    step = {"do": "submit", "process": submitter, "device": device, "handle": name, "job": job}
    return Retold(step, f"{process} submits work to its queue of {device}, whose number is {action.arg}")


def _forge(world: World, before: State, action: Action) -> Retold:
    process, device = _names(world, action)
    posted = Instruction.MOVDIR64B if architecture(world.machine) == "x86" else Instruction.ST64B
    step = {
        "do": "submit",
        "process": living_task(world, before, action.process),
        "device": device,
        "instruction": posted.value,
        "claims": action.arg,
        "job": job_name(world, action.process, action.device),
    }
    return Retold(step, f"{process} claims number {action.arg} in a posted write to {device} ({posted.value.upper()})")


def _job(world: World, before: State, action: Action) -> Retold:
    process, device = _names(world, action)
    on = before.processes[action.process].on[action.device]
    step = {"do": action.verb.name.lower(), "job": job_name(world, action.process, action.device)}
    if action.verb is Verb.DMA:
        words = f"{device} accesses memory for the work of {process}, under number {on.job}, and goes on"
        return Retold({"do": "dma", "device": device, "pasid": on.job}, words)
    if action.verb is Verb.COMPLETE:
        return Retold(step, f"{device} does the work of {process}, under number {on.job}")
    if action.verb is Verb.ASK:
        return Retold(step, f"{device} asks for the page of the work of {process}, under number {on.job}")
    return Retold(step, f"the page request of {device} for {process} is answered, under number {on.asked}")


def _exit(world: World, before: State, action: Action) -> Retold:
    task = task_name(world, action.process, action.arg)
    if sum(one.alive for one in before.processes[action.process].tasks) > 1:
        return Retold({"do": "exit", "process": task}, f"{task} exits")
    words = f"{task} exits, and its address space ends; its files are still open"
    return Retold({"do": "exit_mm", "process": task}, words)


def _module(world: World, before: State, action: Action) -> Retold:
    device, name = world.devices[action.device].name, module_name(world, action.device)
    if action.verb is Verb.FREE_GLOBAL:
        return Retold({"do": "free_global", "pasid": name}, f"a kernel module gives the number of {device} back")
    return Retold({"do": "alloc_global", "device": device, "as": name}, f"a kernel module takes a number for {device}")


def _domain(world: World, before: State, action: Action) -> Retold:
    device, verb = world.devices[action.device].name, action.verb.name.lower()
    words = (
        f"a kernel module {verb}es its domain {'to' if verb == 'attach' else 'from'} number {action.arg} of {device}"
    )
    return Retold({"do": verb, "device": device, "pasid": action.arg}, words)


def _fail_next(world: World, before: State, action: Action) -> Retold:
    device = world.devices[action.device].name
    step = {"do": "fail_next", "device": device, "call": "set_dev_pasid", "errno": "ENOMEM"}
    return Retold(step, f"the next attach to {device} will fail for want of memory")


def _names(world: World, action: Action) -> tuple[str, str]:
    """Return the names of the process and the device of an action."""
    return task_name(world, action.process), world.devices[action.device].name


def living_task(world: World, state: State, process: int) -> str | None:
    """Return the name of the first task of a process that lives."""
    alive = (index for index, task in enumerate(state.processes[process].tasks) if task.alive)
    return next((task_name(world, process, index) for index in alive), None)


_TELLERS = {
    Verb.BIND: _bind,
    Verb.BIND_DEVICE: _bind,
    Verb.BIND_DEVICE_PASID: _bind,
    Verb.UNBIND: _unbind,
    Verb.MMAP_PORTAL: _mmap_portal,
    Verb.SUBMIT: _submit,
    Verb.FORGE: _forge,
    Verb.COMPLETE: _job,
    Verb.DMA: _job,
    Verb.ASK: _job,
    Verb.ANSWER: _job,
    Verb.EXIT: _exit,
    Verb.ALLOC_GLOBAL: _module,
    Verb.FREE_GLOBAL: _module,
    Verb.ATTACH: _domain,
    Verb.DETACH: _domain,
    Verb.FAIL_NEXT: _fail_next,
}

"""Do one action of a world on its machine, by the verbs that a scenario has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pasidlab.description import KERNEL as KERNEL_NAME
from pasidlab.devices.endpoint import POSTED_IGNORED, SubmitBy, Work
from pasidlab.drivers.hardware import FREED as FREED_NAME
from pasidlab.errors import Errno, InputError
from pasidlab.explore.abstract import Closing, Ghosts
from pasidlab.explore.action import FREED, KERNEL, NOBODY, OWNED, Action, Result, Step, Verb
from pasidlab.explore.names import job_name, module_name, name_of, task_name
from pasidlab.explore.state import LOCAL, NORMAL, OPENED
from pasidlab.hw.cpu import Instruction
from pasidlab.linux.traps import X86Os
from pasidlab.machine import Machine

if TYPE_CHECKING:
    from pasidlab.explore.world import World
    from pasidlab.outcome import Outcome

WORK = Work()
"""What every submission asks for: a write to the same address of whatever memory its number names."""
_PORTAL_INSTRUCTIONS = {SubmitBy.ENQCMD: Instruction.ENQCMD, SubmitBy.ST64BV0: Instruction.ST64BV0}
_RESULTS = {"ok": Result.OK, "fault": Result.FAULT} | Result.__members__
_OF_OWNERS = {FREED_NAME: FREED, KERNEL_NAME: KERNEL}


def start(world: World, machine: Machine) -> None:
    """Bring a machine that was just made into the start of its world: threads run, and each process has its page.

    The page is there so that no access of a device has to ask for it, as State leaves out which pages are present.
    """
    for names in world.processes:
        for name in names[1:]:
            machine.clone(names[0], name)
        machine.store(names[0], WORK.address, b"its own")


def perform(machine: Machine, world: World, action: Action, ghosts: Ghosts) -> tuple[Step, Ghosts]:
    """Do an action that is offered; return what it led to, and the ghosts after it."""
    if action.verb is Verb.UNBIND:
        return _tear_down(machine, world, action, ghosts)
    step = _step(machine, world, action, _VERBS[action.verb](machine, world, action))
    if step.result is Result.OK and _is_normal_bind(machine, world, action):
        ghosts = ghosts._replace(bound=ghosts.bound | {action.process})
    return step, ghosts


def number_of(machine: Machine, world: World, action: Action) -> int:
    """Return the number of the bond that an unbind is about."""
    return machine.bindings[name_of(world, *action[1:])].bond.pasid


def _step(machine: Machine, world: World, action: Action, outcome: Outcome) -> Step:
    result = _RESULTS.get(outcome.result)
    if result is None:
        known = ", ".join(one.name for one in Result)
        raise InputError(
            f"scheme {type(machine.scheme).__name__}: {outcome.result}: no result of a search; known: {known}"
        )
    if outcome.rule == POSTED_IGNORED.id:
        result = Result.IGNORED
    return Step(action, result, _owner(world, action, outcome))


def _owner(world: World, action: Action, outcome: Outcome) -> int:
    """Return whose memory work touched, or who served a page request."""
    if action.verb not in OWNED or outcome.work is None:
        return NOBODY
    name = outcome.work.owner
    if name in _OF_OWNERS:
        return _OF_OWNERS[name]
    return 1 + next(index for index, names in enumerate(world.processes) if names[0] == name)


# --- binds -----------------------------------------------------------------------------------------------------


def _bind(machine: Machine, world: World, action: Action) -> Outcome:
    process, handle = _living(machine, world, action), name_of(world, action.process, action.device, OPENED)
    return machine.bind(_device(world, action), process, handle)


def _bind_device(machine: Machine, world: World, action: Action) -> Outcome:
    process, handle = _living(machine, world, action), name_of(world, action.process, action.device, NORMAL)
    return machine.bind_device(_device(world, action), process, handle)


def _bind_device_pasid(machine: Machine, world: World, action: Action) -> Outcome:
    handle = name_of(world, action.process, action.device, LOCAL + action.arg)
    return machine.bind_device_pasid(_device(world, action), _living(machine, world, action), action.arg, handle)


def _is_normal_bind(machine: Machine, world: World, action: Action) -> bool:
    """Whether an action asks the core for a number, as ENQCMD needs it; open() does unless the driver has its own."""
    if action.verb is not Verb.BIND:
        return action.verb is Verb.BIND_DEVICE
    return not machine.scheme.driver_owns_pasids(machine.endpoints[_device(world, action)].dev)


def _tear_down(machine: Machine, world: World, action: Action, ghosts: Ghosts) -> tuple[Step, Ghosts]:
    """Do the next step of a handle's teardown; one that shares its bond is only counted off."""
    place, handle = (action.process, action.device), name_of(world, *action[1:])
    orders, begun = world.teardown.driver, ghosts.closing.get(place)
    bond = machine.bindings[handle].bond
    if begun is None and bond.users > 1:
        return _step(machine, world, action, machine.unbind(handle, stop=False, drain=False)), ghosts
    closing = begun or Closing(action.arg, bond.pasid)
    outcome = _STEPS[orders[closing.phase]](machine, handle)
    after = {other: one for other, one in ghosts.closing.items() if other != place}
    if closing.phase + 1 < len(orders):
        after[place] = closing._replace(phase=closing.phase + 1)
    return _step(machine, world, action, outcome), ghosts._replace(closing=after)


_STEPS: dict[str, Callable[[Machine, str], Outcome]] = {
    "stop": lambda machine, handle: machine.stop(handle),
    "drain": lambda machine, handle: machine.drain(handle),
    "unbind": lambda machine, handle: machine.unbind(handle, stop=False, drain=False),
}


# --- work ------------------------------------------------------------------------------------------------------


def _submit(machine: Machine, world: World, action: Action) -> Outcome:
    """Let a task write to the portal, or ring the queue of a bond."""
    device, job = _device(world, action), job_name(world, action.process, action.device)
    instruction = _PORTAL_INSTRUCTIONS.get(machine.endpoints[device].submit)
    if instruction is not None:
        return machine.submit(task_name(world, action.process, action.arg), device, instruction, WORK, job=job)
    return machine.submit(
        _living(machine, world, action), device, None, WORK, handle=_queue(machine, world, action), job=job
    )


def _queue(machine: Machine, world: World, action: Action) -> str:
    """Return the first live handle whose bond has the number."""
    codes = (OPENED, NORMAL, LOCAL + action.arg)
    handles = [name_of(world, action.process, action.device, code) for code in codes]
    bindings = [(handle, machine.bindings.get(handle)) for handle in handles]
    return next(handle for handle, one in bindings if one and one.live and one.bond.pasid == action.arg)


def _forge(machine: Machine, world: World, action: Action) -> Outcome:
    """Let a task claim any number in a posted write."""
    posted = Instruction.MOVDIR64B if isinstance(machine.os, X86Os) else Instruction.ST64B
    device, job = _device(world, action), job_name(world, action.process, action.device)
    return machine.submit(_living(machine, world, action), device, posted, WORK, claims=action.arg, job=job)


def _complete(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.complete(job_name(world, action.process, action.device))


def _dma(machine: Machine, world: World, action: Action) -> Outcome:
    pasid = machine.jobs[job_name(world, action.process, action.device)].pasid
    assert pasid is not None
    return machine.dma(_device(world, action), pasid, WORK)


def _ask(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.ask(job_name(world, action.process, action.device))


def _answer(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.answer(job_name(world, action.process, action.device))


def _mmap_portal(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.mmap_portal(_living(machine, world, action), _device(world, action))


# --- the rest --------------------------------------------------------------------------------------------------


def _exit(machine: Machine, world: World, action: Action) -> Outcome:
    """End a task; files stay open when it was the process's last one, until each is unbound."""
    name = task_name(world, action.process, action.arg)
    alive = sum(machine.processes[other].mm is not None for other in world.processes[action.process])
    return machine.exit(name) if alive > 1 else machine.exit_mm(name)


def _alloc_global(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.alloc_global(_device(world, action), module_name(world, action.device))


def _free_global(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.free_global(module_name(world, action.device))


def _attach(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.attach(_device(world, action), action.arg)


def _detach(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.detach(_device(world, action), action.arg)


def _fail_next(machine: Machine, world: World, action: Action) -> Outcome:
    return machine.fail_next(_device(world, action), "set_dev_pasid", Errno.ENOMEM)


def _device(world: World, action: Action) -> str:
    return world.devices[action.device].name


def _living(machine: Machine, world: World, action: Action) -> str:
    """Return the first task of the process that lives."""
    return next(name for name in world.processes[action.process] if machine.processes[name].mm is not None)


_VERBS: dict[Verb, Callable[[Machine, World, Action], Outcome]] = {
    Verb.BIND: _bind,
    Verb.BIND_DEVICE: _bind_device,
    Verb.BIND_DEVICE_PASID: _bind_device_pasid,
    Verb.MMAP_PORTAL: _mmap_portal,
    Verb.SUBMIT: _submit,
    Verb.FORGE: _forge,
    Verb.COMPLETE: _complete,
    Verb.DMA: _dma,
    Verb.ASK: _ask,
    Verb.ANSWER: _answer,
    Verb.EXIT: _exit,
    Verb.ALLOC_GLOBAL: _alloc_global,
    Verb.FREE_GLOBAL: _free_global,
    Verb.ATTACH: _attach,
    Verb.DETACH: _detach,
    Verb.FAIL_NEXT: _fail_next,
}

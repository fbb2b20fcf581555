"""States in which a call fails although the machine can do it, each brought about with the model's own verbs."""

from __future__ import annotations

from pasidlab.devices.endpoint import Work
from pasidlab.explain.check import State
from pasidlab.explain.scene import Stage
from pasidlab.hw.cpu import Instruction
from pasidlab.outcome import Outcome


def _or_why(outcome: Outcome) -> str:
    """Return nothing if a verb succeeded, else why it did not."""
    return "" if outcome.result == "ok" else outcome.why


def _tagged(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.enable_lam(stage.process))


def _others_hold_all(stage: Stage) -> str:
    """Let nobody have a number that the device carries."""
    space, last = stage.kernel.iommu_global_pasid_ida, stage.dev.max_pasids - 1
    first = space.lowest_free(1, last) if last >= 1 else None
    while first is not None:
        taken = next((held for held in space if held > first), last + 1)
        space.reserve(first, min(taken - 1, last))
        first = space.lowest_free(1, last)
    return ""


def _full(stage: Stage, variant: int) -> str:
    return _others_hold_all(stage)


def _low_numbers_held(stage: Stage, variant: int) -> str:
    """Let nobody have a number that each member of the group carries."""
    group, own = stage.dev.iommu_group, stage.dev.max_pasids
    least = min((member.max_pasids for member in group.devices if member.max_pasids), default=0) if group else 0
    if least >= own:
        return f"no member of the group of {stage.device} carries less than it"
    for pasid in range(1, least):
        stage.kernel.iommu_global_pasid_ida.take(pasid)
    return ""


def _number_is_wider(stage: Stage, variant: int) -> str:
    """Let the caller have a number that only another device carries."""
    devices = stage.machine.endpoints
    wider = max(devices, key=lambda name: devices[name].dev.max_pasids)
    if devices[wider].dev.max_pasids <= max(stage.dev.max_pasids, 2):
        return f"no other device of the machine carries numbers that {stage.device} does not"
    _others_hold_all(stage)
    return _or_why(stage.machine.bind_device(wider, stage.process))


def _no_memory(stage: Stage, variant: int) -> str:
    stage.kernel.fail_allocation = variant
    return ""


def _attached_with_handle(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.attach(stage.device, 1))


def _attached_without_handle(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.attach(stage.device, 1, with_handle=False))


def _bound_by_driver(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.bind_device_pasid(stage.device, stage.other, 1))


def _in_reset(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.reset_prepare(stage.device))


def _bound(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.bind_device(stage.device, stage.process))


def _bound_by_other(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.bind(stage.device, stage.other))


def _threads(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.clone(stage.process, f"a thread of {stage.process}"))


def _owned(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.claim_dma_owner(stage.device, "somebody else"))


def _zero(stage: Stage, variant: int) -> str:
    stage.pasid = 0
    return ""


def _beyond(stage: Stage, variant: int) -> str:
    stage.pasid = stage.dev.max_pasids
    return ""


def _detached(stage: Stage, variant: int) -> str:
    return _or_why(stage.machine.detach(stage.device, stage.pasid))


def _never_bound(stage: Stage, variant: int) -> str:
    stage.process = stage.other
    return ""


def _forked(stage: Stage, variant: int) -> str:
    child = f"a child of {stage.process}"
    forked = stage.machine.fork(stage.process, child)
    stage.process = child
    return _or_why(forked)


def _after_exec(stage: Stage, variant: int) -> str:
    machine, process, device = stage.machine, stage.process, stage.device
    machine.submit(process, device, Instruction.ENQCMD, Work())
    return _or_why(machine.exec(process)) or _or_why(machine.bind(device, process))


LAM = State("the process uses tagged addresses (LAM)", _tagged)
FULL = State("other processes and drivers hold every number that the device carries", _full)
NARROW_MEMBER = State("every number that all members of the group carry is held", _low_numbers_held)
WIDER = State("the process got a number before that the device cannot carry, which it keeps for life", _number_is_wider)
NO_MEMORY = State("memory has run out", _no_memory, tries=8)
ATTACHED_WITH_HANDLE = State("user space (iommufd) has that number of the device attached", _attached_with_handle)
ATTACHED = State("a kernel driver has that number of the device attached", _attached_without_handle)
OF_OTHER = State("the driver bound another process under that number", _bound_by_driver)
RESET = State("a device of the group is being reset", _in_reset)
BOUND = State("the process is bound to a device, or was", _bound)
BUSY = State("another process has the dedicated queue open", _bound_by_other)
THREADS = State("the process has threads", _threads)
OWNED = State("somebody else has claimed the group", _owned)
ZERO = State("the caller names PASID 0", _zero)
BEYOND = State("the caller names a number that a member of the group cannot carry", _beyond)
NOTHING_THERE = State("nothing is attached to that number", _detached)
NEVER_BOUND = State("the process has bound no device", _never_bound)
FORKED = State("the process is a child of the one that bound, and a fork inherits no number", _forked)
EXECED = State("the task used ENQCMD, called exec, and bound again", _after_exec)
DYING = State("the process has exited already")
NO_ASID = State("every ASID of the SMMU is in use")
NO_DOMAIN_ID = State("every domain identifier of the unit is in use")
CONFIGURED = State("the queue was configured so (accel-config list shows it)")
CALLERS_FAULT = State("the calling driver passes it so")

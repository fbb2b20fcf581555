"""Compiled: submissions, what devices do with them, and page requests.

Source: machine/work.py and machine/in_flight.py, and the fix-up of linux/traps.py on x86 and on the future arm64.

Not modelled: what `supported` keeps away: CPUs without the instructions that the world uses.
"""

from __future__ import annotations

from pasidlab.explore.compiled.caches import access
from pasidlab.explore.compiled.codes import FAULT, IGNORED, NOBODY, OK, SIGILL, SIGSEGV, X86
from pasidlab.explore.compiled.common import bonds, has, processes, signed
from pasidlab.explore.compiled.layout import step_code
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.explore.compiled.schemes import mm_get_enqcmd_pasid
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def submit(world: WorldRecord, state: StateRecord, p: int, device: int, arg: int) -> int:
    """Submit with ENQCMD or ST64BV0 by the task `arg`, or to the queue of the bond at number `arg`."""
    process = state.process[p]
    if not world.portal[device]:
        process.job[device] = arg
        return OK
    if not world.enqcmd_like:
        return SIGILL
    if not process.register[arg] and not _load_register(world, process, arg):
        return SIGSEGV if world.arch == X86 else SIGILL
    process.job[device] = process.register[arg]
    return OK


@compiled_once
def _load_register(world: WorldRecord, process: ProcessRecord, task: int) -> bool:
    """Load IA32_PASID, or ACCDATA_EL1, on a task's first use (`try_fixup_enqcmd_gp`); false without a number."""
    pasid = mm_get_enqcmd_pasid(world, process)
    if pasid == 0:
        return False
    process.register[task] = pasid
    process.task_activated |= 1 << task
    return True


@compiled_once
def forge(world: WorldRecord, process: ProcessRecord, device: int, number: int) -> int:
    """Send a posted write that claims a number, which a sloppy device believes."""
    if not world.sloppy[device]:
        return IGNORED
    process.job[device] = number
    return OK


@compiled_once
def complete(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Let the device do the work of process `p`."""
    step = dma(world, state, p, device)
    state.process[p].job[device] = 0
    return step


@compiled_once
def dma(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Let the device access memory for the work of process `p`, which goes on."""
    owner = access(world, state, device, signed(state.process[p].job[device]))
    return step_code(FAULT if owner == NOBODY else OK, owner)


@compiled_once
def ask(process: ProcessRecord, device: int) -> None:
    """Let the device send a page request for its work."""
    process.asked[device] = process.job[device]


@compiled_once
def answer(world: WorldRecord, state: StateRecord, p: int, device: int) -> int:
    """Serve the page request in flight; work whose request is refused is over."""
    process = state.process[p]
    owner = _served_by(world, state, device, process.asked[device])
    process.asked[device] = 0
    if owner == NOBODY:
        process.job[device] = 0
        return step_code(FAULT, owner)
    return step_code(OK, owner)


@compiled_once
def _served_by(world: WorldRecord, state: StateRecord, device: int, number: int) -> int:
    """Return the process, counted from 1, that the bond at a number names and that lives; else NOBODY."""
    owner = NOBODY
    for p in processes(world):
        process = state.process[p]
        if process.task_alive and has(bonds(process, device), number):
            owner = p + 1
    return owner

"""What things of a world are called on its machine, and in the scenario file of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.explore.state import LOCAL, NORMAL, OPENED

if TYPE_CHECKING:
    from pasidlab.explore.world import World

_KINDS = {OPENED: "open", NORMAL: "normal"}


def task_name(world: World, process: int, task: int = 0) -> str:
    """Return the name of a task; the first one's is the process's own."""
    return world.processes[process][task]


def name_of(world: World, process: int, device: int, handle: int) -> str:
    """Return the name of a handle; see `state.OPENED` for their codes."""
    kind = _KINDS[handle] if handle in _KINDS else f"at {handle - LOCAL}"
    return f"{task_name(world, process)} {world.devices[device].name} {kind}"


def job_name(world: World, process: int, device: int) -> str:
    """Return the name of the work in flight that a process submitted to a device."""
    return f"{task_name(world, process)} {world.devices[device].name} work"


def module_name(world: World, device: int) -> str:
    """Return the name of the number that a kernel module takes for a device."""
    return f"of {world.devices[device].name}"

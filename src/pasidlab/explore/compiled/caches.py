"""Compiled: the table and the caches of `drivers/mock.py` and `drivers/mock_caches.py`, as masks of each process.

An IOTLB stands before the table and each PCIe device's ATC before both; what the table answers fills them, and setting
an entry invalidates nothing. At most one process has a line of a device and a number in each cache.
"""

from __future__ import annotations

from pasidlab.explore.compiled.codes import ATC, FREED, IOTLB, KERNEL, NOBODY, NONE, TABLE
from pasidlab.explore.compiled.common import has, processes
from pasidlab.explore.compiled.records import ProcessRecord, StateRecord, WorldRecord
from pasidlab.explore.state import MAX_DEVICES
from pasidlab.hw.batch.compiling import compiled_once


@compiled_once
def in_exit_window(process: ProcessRecord) -> bool:
    """Whether the end of the address space is not over, so that its pages are still there."""
    return process.window[0] != 0 and process.window[1] == 0


@compiled_once
def owner_of(state: StateRecord, p: int) -> int:
    """Return whose memory a line of process `p` reaches: its own, or after `exit_mmap()` what is anybody's."""
    process = state.process[p]
    if process.task_alive or in_exit_window(process):
        return p + 1
    return FREED


@compiled_once
def is_quiet(world: WorldRecord, process: ProcessRecord, device: int) -> bool:
    """Whether a process's entries answer no more: it has exited, and its end is past the step `table`."""
    if process.task_alive or not in_exit_window(process) or not world.caches[device]:
        return process.task_alive == 0
    quiet = False
    for place in range(process.window[0]):
        if world.iommu_steps[place] == TABLE:
            quiet = True
    return quiet


@compiled_once
def access(world: WorldRecord, state: StateRecord, device: int, number: int) -> int:
    """Let a device access memory under a number; return the owner of that memory, NOBODY for a fault."""
    found = _in_atc(world, state, device, number)
    if found != NONE:
        return owner_of(state, found)
    found = _in_iotlb(world, state, device, number)
    if found != NONE:
        _fill_atc(world, state, found, device, number)
        return owner_of(state, found)
    if has(state.attached[device], number) and world.bound[device]:
        return KERNEL
    found = _in_table(world, state, device, number)
    if found == NONE or is_quiet(world, state.process[found], device):
        return NOBODY
    if world.caches[device]:
        state.process[found].iotlb[device] |= 1 << number
        _fill_atc(world, state, found, device, number)
    return found + 1


@compiled_once
def _fill_atc(world: WorldRecord, state: StateRecord, p: int, device: int, number: int) -> None:
    if world.ats[device]:
        state.process[p].atc[device] |= 1 << number


@compiled_once
def _in_atc(world: WorldRecord, state: StateRecord, device: int, number: int) -> int:
    """Return the process of the device's own line, NONE without one."""
    found = NONE
    for p in processes(world):
        if has(state.process[p].atc[device], number):
            found = p
    return found


@compiled_once
def _in_iotlb(world: WorldRecord, state: StateRecord, device: int, number: int) -> int:
    """Return the process of the IOMMU's line, NONE without one."""
    found = NONE
    for p in processes(world):
        if has(state.process[p].iotlb[device], number):
            found = p
    return found


@compiled_once
def _in_table(world: WorldRecord, state: StateRecord, device: int, number: int) -> int:
    """Return the process of the table's entry, NONE without one."""
    found = NONE
    for p in processes(world):
        if has(state.process[p].entry[device], number):
            found = p
    return found


@compiled_once
def take_away(world: WorldRecord, state: StateRecord, device: int, number: int, step: int) -> None:
    """Do one step of clearing an entry (`MockDriver._take_away`)."""
    kept = ~(1 << number)
    for p in processes(world):
        process = state.process[p]
        if step == TABLE:
            process.entry[device] &= kept
        elif step == IOTLB:
            process.iotlb[device] &= kept
        elif step == ATC:
            process.atc[device] &= kept


@compiled_once
def forget_all(process: ProcessRecord, step: int) -> None:
    """Do one step of the end of an address space (`MockCaches._end`); `is_quiet` knows of the table's."""
    for device in range(MAX_DEVICES):
        if step == IOTLB:
            process.iotlb[device] = 0
        elif step == ATC:
            process.atc[device] = 0

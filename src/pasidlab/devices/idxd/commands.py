"""The commands of the CMD register: enable, disable, drain, abort and reset, of the device, of queues and of PASIDs.

Source: drivers/dma/idxd/registers.h and device.c (v6.12 and v7.3) for codes, operands and errors; the checks behind
each error are those that its name tells.
Decided here: a shared queue needs WQCFG.pasid_en, for it takes PASIDs (error 0x26); a command is done when its write
is; aborted descriptors leave no completion record.
Not modelled: interrupt handles (CMDCAP has no such commands), bus mastering, read buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pasidlab.devices.idxd.queues import WorkQueue
from pasidlab.devices.idxd.registers import (
    MAX_BATCH_SHIFT,
    NUM_ENGINES,
    NUM_WQS,
    TOTAL_WQ_SIZE,
    Command,
    CommandError,
    DeviceState,
    Wqcfg,
    WqMode,
)

if TYPE_CHECKING:
    from pasidlab.devices.idxd.device import IdxdDevice

_SETS_OF = 16
"""The operand of the queue commands names 16 queues by bits 15:0, of the set in bits 19:16."""


def execute(device: IdxdDevice, command: int, operand: int) -> CommandError:
    """Execute a command, and return what CMDSTS will say."""
    run = _COMMANDS.get(command)
    return CommandError.INVALID_COMMAND if run is None else run(device, operand)


# --- the device ----------------------------------------------------------------------------------------------------


def _enable_device(device: IdxdDevice, _: int) -> CommandError:
    if device.enabled:
        return CommandError.DEVICE_ENABLED
    if sum(device.wqcfg(index).wq_size for index in range(NUM_WQS)) > TOTAL_WQ_SIZE:
        return CommandError.WQ_SIZE_RANGE
    error = _check_groups(device)
    if error is CommandError.SUCCESS:
        device.set_state(DeviceState.ENABLED)
    return error


def _check_groups(device: IdxdDevice) -> CommandError:
    """Each group has queues and engines or neither; each queue and engine is of one group, and there."""
    wqs = engines = 0
    for group in device.groups():
        if bool(group.wqs) != bool(group.engines):
            return CommandError.GROUP_CONFIG
        if group.wqs & wqs or group.wqs >> NUM_WQS:
            return CommandError.GROUP_WQS
        if group.engines & engines or group.engines >> NUM_ENGINES:
            return CommandError.GROUP_ENGINES
        wqs, engines = wqs | group.wqs, engines | group.engines
    return CommandError.SUCCESS


def _disable_device(device: IdxdDevice, _: int) -> CommandError:
    if not device.enabled:
        return CommandError.NOT_ENABLED
    device.run()
    _stop(device)
    return CommandError.SUCCESS


def _stop(device: IdxdDevice) -> None:
    for wq in device.queues:
        device.disable_wq(wq)
    device.set_state(DeviceState.DISABLED)


def _drain_all(device: IdxdDevice, _: int) -> CommandError:
    if not device.enabled:
        return CommandError.NOT_ENABLED
    device.run()
    return CommandError.SUCCESS


def _abort_all(device: IdxdDevice, _: int) -> CommandError:
    if not device.enabled:
        return CommandError.NOT_ENABLED
    for wq in device.queues:
        wq.entries.clear()
    return CommandError.SUCCESS


def _reset_device(device: IdxdDevice, _: int) -> CommandError:
    for wq in device.queues:
        wq.entries.clear()
    _stop(device)
    device.clear_configuration()
    return CommandError.SUCCESS


# --- queues --------------------------------------------------------------------------------------------------------


def _enable_wq(device: IdxdDevice, operand: int) -> CommandError:
    if not device.enabled:
        return CommandError.DEVICE_NOT_ENABLED
    if operand >= NUM_WQS:
        return CommandError.INVALID_WQ_INDEX
    wq = device.queues[operand]
    if wq.enabled:
        return CommandError.WQ_ENABLED
    config = device.wqcfg(operand)
    error = _check_wqcfg(device, config)
    if error is CommandError.SUCCESS:
        device.enable_wq(wq, config)
    return error


def _check_wqcfg(device: IdxdDevice, config: Wqcfg) -> CommandError:
    """Return the error of the first check that a queue's configuration fails."""
    shared = config.mode is WqMode.SHARED
    checks = (
        (config.wq_size == 0, CommandError.WQ_SIZE),
        (config.priority == 0, CommandError.WQ_PRIORITY),
        (config.pasid_en and not device.pasid_enabled, CommandError.WQ_PASID_ENABLE),
        (shared and not config.pasid_en, CommandError.WQ_PASID_ENABLE),
        (config.max_batch_shift > MAX_BATCH_SHIFT, CommandError.WQ_MAX_BATCH),
        (
            not shared and config.pasid_en and config.priv and not device.engine.privileged_enabled,
            CommandError.WQ_PRIV,
        ),
    )
    return next((error for failed, error in checks if failed), CommandError.SUCCESS)


def _named(device: IdxdDevice, operand: int) -> Iterator[WorkQueue]:
    first = (operand >> _SETS_OF) * _SETS_OF
    for bit in range(_SETS_OF):
        if operand >> bit & 1 and first + bit < NUM_WQS:
            yield device.queues[first + bit]


def _of_queues(act: Callable[[IdxdDevice, WorkQueue], None]) -> Callable[[IdxdDevice, int], CommandError]:
    """Make the command that does something to each queue that the operand names."""

    def run(device: IdxdDevice, operand: int) -> CommandError:
        wqs = list(_named(device, operand))
        if not device.enabled:
            return CommandError.NOT_ENABLED
        if not wqs:
            return CommandError.INVALID_WQ_INDEX
        if not all(wq.enabled for wq in wqs):
            return CommandError.WQ_NOT_ENABLED
        for wq in wqs:
            act(device, wq)
        return CommandError.SUCCESS

    return run


def _drain_wq(device: IdxdDevice, wq: WorkQueue) -> None:
    device.run_queue(wq)


def _abort_wq(device: IdxdDevice, wq: WorkQueue) -> None:
    wq.entries.clear()


def _disable_wq(device: IdxdDevice, wq: WorkQueue) -> None:
    device.run_queue(wq)
    device.disable_wq(wq)


def _reset_wq(device: IdxdDevice, wq: WorkQueue) -> None:
    wq.entries.clear()
    device.disable_wq(wq)
    device.clear_wqcfg(wq.index)


# --- PASIDs --------------------------------------------------------------------------------------------------------


def _drain_pasid(device: IdxdDevice, operand: int) -> CommandError:
    """Finish the descriptors of one PASID; the others stay where they are."""
    if not device.enabled:
        return CommandError.NOT_ENABLED
    for wq in device.queues:
        device.run_queue(wq, pasid=operand)
    return CommandError.SUCCESS


def _abort_pasid(device: IdxdDevice, operand: int) -> CommandError:
    if not device.enabled:
        return CommandError.NOT_ENABLED
    for wq in device.queues:
        kept = [entry for entry in wq.entries if entry.pasid != operand]
        wq.entries.clear()
        wq.entries.extend(kept)
    return CommandError.SUCCESS


_COMMANDS: dict[int, Callable[[IdxdDevice, int], CommandError]] = {
    Command.ENABLE_DEVICE: _enable_device,
    Command.DISABLE_DEVICE: _disable_device,
    Command.DRAIN_ALL: _drain_all,
    Command.ABORT_ALL: _abort_all,
    Command.RESET_DEVICE: _reset_device,
    Command.ENABLE_WQ: _enable_wq,
    Command.DISABLE_WQ: _of_queues(_disable_wq),
    Command.DRAIN_WQ: _of_queues(_drain_wq),
    Command.ABORT_WQ: _of_queues(_abort_wq),
    Command.RESET_WQ: _of_queues(_reset_wq),
    Command.DRAIN_PASID: _drain_pasid,
    Command.ABORT_PASID: _abort_pasid,
}

"""The command queue from the driver's side: write commands, publish them, wait for CMD_SYNC, handle errors.

Source: arm_smmu_cmdq_issue_cmdlist(), arm_smmu_cmdq_batch_add(), arm_smmu_cmdq_batch_submit(),
__arm_smmu_cmdq_skip_err(), arm-smmu-v3.c, Linux 6.12.117 and 7.3.4.
Not modelled: several CPUs at one queue, MSIs for CMD_SYNC (the driver polls CMDQ_CONS), ECMDQs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pasidlab.drivers.arm_smmu_v3.structs import ArmSmmuDevice
from pasidlab.errors import ModelError
from pasidlab.hw.pagetable.descriptors import Shareability
from pasidlab.hw.smmuv3.commands import Command, Cs, Sync
from pasidlab.hw.smmuv3.registers import CmdqCons, CmdqErr, Gerror, Offset

CMDQ_ENT_BYTES = 16
_OUTER_INNER_WRITE_BACK = 0xF
CMD_SYNC = Sync.make(cs=Cs.SEV, msh=Shareability.ISH, msiattr=_OUTER_INNER_WRITE_BACK)
"""What the driver issues where it uses no MSI."""


@dataclass(slots=True)
class CmdqBatch:
    """`struct arm_smmu_cmdq_batch`: commands that are issued together, with one CMD_SYNC at their end."""

    cmds: list[Command] = field(default_factory=list)

    def add(self, cmd: Command) -> None:
        """arm_smmu_cmdq_batch_add()."""
        self.cmds.append(cmd)


def arm_smmu_cmdq_issue_cmd(smmu: ArmSmmuDevice, cmd: Command) -> None:
    """Issue one command without waiting for it."""
    arm_smmu_cmdq_issue_cmdlist(smmu, (cmd,), sync=False)


def arm_smmu_cmdq_issue_cmd_with_sync(smmu: ArmSmmuDevice, cmd: Command) -> None:
    """Issue one command and wait until it is done."""
    arm_smmu_cmdq_issue_cmdlist(smmu, (cmd,), sync=True)


def arm_smmu_cmdq_batch_submit(smmu: ArmSmmuDevice, batch: CmdqBatch) -> None:
    """Issue what was collected and wait until it is done."""
    arm_smmu_cmdq_issue_cmdlist(smmu, batch.cmds, sync=True)


def arm_smmu_cmdq_issue_cmdlist(smmu: ArmSmmuDevice, cmds: Iterable[Command], *, sync: bool) -> None:
    """Write commands into the queue and publish each by CMDQ_PROD; with `sync`, a CMD_SYNC comes last."""
    for cmd in cmds:
        _publish(smmu, cmd)
    if sync:
        _publish(smmu, CMD_SYNC)


def _publish(smmu: ArmSmmuDevice, cmd: Command) -> None:
    queue = smmu.cmdq
    index = queue.prod & (1 << queue.max_n_shift) - 1
    if not smmu.kernel.memory.store(queue.base + index * CMDQ_ENT_BYTES, cmd.pack()):
        raise ModelError(f"the command queue of {smmu.name} cannot be written")
    queue.prod = (queue.prod + 1) & (2 << queue.max_n_shift) - 1
    smmu.mmio_write(Offset.CMDQ_PROD, queue.prod)


def arm_smmu_cmdq_skip_err(smmu: ArmSmmuDevice) -> None:
    """Put a CMD_SYNC where an illegal command stopped the queue, and acknowledge the error.

    A time-out of an ATC invalidation stops the queue at the CMD_SYNC, which is repeated when the error is
    acknowledged; a queue that cannot be read is left alone.
    """
    queue = smmu.cmdq
    cons = CmdqCons(smmu.mmio_read(Offset.CMDQ_CONS))
    error = cons.err
    smmu.kernel.warn("arm_smmu_cmdq_skip_err", f"{smmu.name}: CMDQ error {CmdqErr(error).name}")
    if error == CmdqErr.ILL:
        index = cons.rd & (1 << queue.max_n_shift) - 1
        smmu.kernel.memory.store(queue.base + index * CMDQ_ENT_BYTES, CMD_SYNC.pack())


def arm_smmu_gerror_handler(smmu: ArmSmmuDevice) -> None:
    """Handle global errors, and acknowledge those that are active."""
    gerror = Gerror(smmu.mmio_read(Offset.GERROR))
    active = Gerror(gerror ^ smmu.mmio_read(Offset.GERRORN))
    if not active:
        return
    if active.cmdq_err:
        arm_smmu_cmdq_skip_err(smmu)
    else:
        smmu.kernel.warn("arm_smmu_gerror_handler", f"{smmu.name}: {active!r}")
    smmu.mmio_write(Offset.GERRORN, gerror)

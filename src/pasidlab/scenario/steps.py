"""All steps that there are; the one that only looks is here."""

from __future__ import annotations

from typing import ClassVar

from pasidlab.description import Name
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario import attachments, binds, faults, in_flight, processes, work
from pasidlab.scenario.step import DEVICE, PROCESS, Step


class Show(Step, frozen=True, tag="show"):
    """Tell the state of a process, a device, or the global space."""

    process: Name | None = None
    device: Name | None = None
    uses: ClassVar = PROCESS | DEVICE
    fits_window: ClassVar = True

    def perform(self, machine: Machine) -> Outcome:
        """Look."""
        return machine.show(self.process, self.device)


AnyStep = (
    binds.Bind
    | binds.BindDevice
    | binds.BindDevicePasid
    | binds.Unbind
    | attachments.AllocGlobal
    | attachments.AllocForAll
    | attachments.FreeGlobal
    | attachments.Attach
    | attachments.Detach
    | attachments.Replace
    | attachments.AttachAny
    | processes.Fork
    | processes.Clone
    | processes.Exec
    | processes.Exit
    | processes.ExitMm
    | processes.EnableLam
    | processes.Load
    | processes.Store
    | processes.Munmap
    | processes.Mprotect
    | work.MmapPortal
    | work.Submit
    | work.SubmitDescriptor
    | work.KernelSubmit
    | work.Dma
    | work.Handoff
    | in_flight.Complete
    | in_flight.Ask
    | in_flight.Answer
    | in_flight.Stop
    | in_flight.Drain
    | faults.PageRequest
    | faults.Discard
    | faults.ResetPrepare
    | faults.ResetDone
    | faults.ClaimDmaOwner
    | faults.ReleaseDmaOwner
    | faults.InvalidateKva
    | faults.FailNext
    | Show
)

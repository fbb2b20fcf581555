"""The verbs that let devices work: submissions by processes and by the kernel, and accesses of their own."""

from __future__ import annotations

from pasidlab.devices import Endpoint, Idxd, Work
from pasidlab.devices.endpoint import Done
from pasidlab.hw.cpu import Instruction, Store, X86Registers, descriptor
from pasidlab.linux import sva, traps
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.task import Task
from pasidlab.machine.state import MachineState
from pasidlab.outcome import (
    DMA_DONE,
    FOREIGN_HANDLE,
    HANDED_OFF,
    HANDOFF_NO_NUMBER,
    KERNEL_NO_ENQCMDS,
    KERNEL_NO_NUMBER,
    NO_HANDLE,
    PORTAL_UNMAPPED,
    Outcome,
)
from pasidlab.rules import Refusal, Signal, Verdict


class Submissions(MachineState):
    """See the module docstring."""

    def mmap_portal(self, process: str, device: str) -> Outcome:
        """Map the device's portal into a process."""

        def call(task: Task) -> Refusal | None:
            assert task.mm is not None
            return self._endpoint(device).mmap_portal(task.mm)

        return self._with_task(process, call)

    def submit(
        self,
        process: str,
        device: str,
        instruction: Instruction | None,
        work: Work,
        *,
        claims: int | str = 0,
        handle: str | None = None,
    ) -> Outcome:
        """Let a process submit work: by an instruction to the portal, or (None) to the queue its driver programmed.

        `claims` is the number that user space writes into bits 31:0 of the 64 bytes; `handle` picks the queue of a
        process that has several on the device.
        """
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        endpoint, mm = self._endpoint(device), task.mm
        assert mm is not None
        if instruction is None:
            return self._settle(self._ring(endpoint, mm, work, handle))
        claimed = self._number(claims)
        if isinstance(claimed, Refusal):
            return self._settle(claimed)
        store = self.os.execute(task, instruction, descriptor(claimed))
        if isinstance(store, Verdict):
            return self._settle(store)
        if mm not in endpoint.mapped:
            facts = {"instruction": instruction.value.upper(), "mm": mm.name, "dev": device}
            return self._settle(PORTAL_UNMAPPED.signal(Signal.SIGSEGV, **facts))
        return self._settle(endpoint.receive(store, work))

    def _ring(self, endpoint: Endpoint, mm: MmStruct, work: Work, handle: str | None) -> Done | Verdict:
        """Use the queue of a process, or the one that a handle names: a handle of its own, on that device."""
        if handle is None:
            return endpoint.ring(mm, work)
        binding = self.bindings.get(handle)
        if binding is None or not binding.live:
            return NO_HANDLE.refuse(handle=handle)
        if binding.endpoint is not endpoint or binding.bond.mm is not mm:
            return FOREIGN_HANDLE.refuse(handle=handle, mm=mm.name, dev=endpoint.dev.name)
        return endpoint.ring(mm, work, binding.bond)

    def kernel_submit(self, device: str, work: Work) -> Outcome:
        """Let the kernel submit with ENQCMDS under the number that the device's driver took at probe."""
        endpoint = self._endpoint(device)
        pasid = endpoint.kernel_pasid if isinstance(endpoint, Idxd) else None
        if pasid is None:
            return self._settle(KERNEL_NO_NUMBER.refuse(dev=device))
        if not isinstance(self.os, traps.X86Os):
            return self._settle(KERNEL_NO_ENQCMDS.refuse(dev=device))
        source = descriptor(pasid, privileged=True)
        store = self.os.cpu.execute(Instruction.ENQCMDS, X86Registers(), source, privileged=True)
        if not isinstance(store, Store):
            return self._settle(KERNEL_NO_ENQCMDS.refuse(dev=device))
        return self._settle(endpoint.receive(store, work))

    def dma(self, device: str, pasid: int | str, work: Work) -> Outcome:
        """Let a device access memory under a number that it has, from wherever."""
        number = self._sent(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        outcome = self._endpoint(device).access(number, work)
        self.kernel.decided(DMA_DONE, dev=device, pasid=number)
        return self._settle(outcome)

    def handoff(self, first: str, second: str, process: str, work: Work) -> Outcome:
        """Let one device work for a process and tell a second one which PASID to use for the rest."""
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        dev = self._endpoint(first).dev
        assert task.mm is not None
        bond = None if dev.iommu_group is None else sva.bond_of(dev.iommu_group, task.mm)
        if bond is None:
            return self._settle(HANDOFF_NO_NUMBER.refuse(dev=first, mm=task.mm.name))
        outcome = self._endpoint(second).access(bond.pasid, work)
        self.kernel.decided(HANDED_OFF, first=first, second=second, pasid=bond.pasid)
        return self._settle(outcome)

"""The verbs that let devices work: submissions by processes and by the kernel, and accesses of their own.

A job for a portal becomes the 64-byte commands that a program would make of it, the instruction sends them, and the
device does what they say. A job of several commands ends with the first that is not done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

from pasidlab.devices import Endpoint, Idxd, Work
from pasidlab.devices.endpoint import Accepted, Done
from pasidlab.devices.idxd.descriptors import Descriptor, DsaCompletion, Flags, IaaCompletion, parse, status_name
from pasidlab.devices.idxd.endpoint import USER_WQ
from pasidlab.devices.idxd.engine import IAA
from pasidlab.devices.idxd.portals import error_name
from pasidlab.devices.idxd.registers import Portal, Swerr, portal_offset
from pasidlab.errors import Errno, InputError
from pasidlab.hw.cpu import (
    SIZE,
    Answer,
    Instruction,
    Store,
    X86Cpu,
    X86Registers,
    descriptor,
    st64bv_status,
    zero_flag,
)
from pasidlab.linux import sva, traps
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.task import Task
from pasidlab.machine.in_flight import InFlight, joined
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
from pasidlab.rules import Refusal, Signal, Signalled, Verdict

P = TypeVar("P", Done, Accepted)
Ring = Callable[[MmStruct, Work, sva.IommuSva | None], P | Verdict]
Receive = Callable[[Store, Work], P | Verdict | None]


class Submission(NamedTuple):
    """What a process submits; the keys of the step."""

    instruction: Instruction | None
    work: Work
    claims: int | str
    handle: str | None


class Submissions(InFlight):
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
        job: str | None = None,
    ) -> Outcome:
        """Let a process submit work: by an instruction to the portal, or (None) to the queue its driver programmed.

        `claims` is the number that user space writes into bits 31:0 of the 64 bytes; `handle` picks the queue of a
        process that has several on the device. The work is done at once, or under the name of a `job` later.
        """
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        endpoint, mm = self._endpoint(device), task.mm
        assert mm is not None
        sent = Submission(instruction, work, claims, handle)
        if job is None:
            parts = self._hand_over(task, endpoint, sent, endpoint.ring, endpoint.receive)
            return self._settle(joined(parts) if isinstance(parts, list) else parts)
        accepted = self._job_taken(job) or self._hand_over(task, endpoint, sent, endpoint.queue_up, endpoint.accept)
        return self._keep(job, mm, endpoint, work, accepted)

    def _hand_over(
        self, task: Task, endpoint: Endpoint, sent: Submission, ring: Ring[P], receive: Receive[P]
    ) -> list[P] | Verdict | None:
        """Hand a job to its device, which has a way to take work from a queue and one from its portal."""
        if sent.instruction is None:
            part = self._ring(task, endpoint, sent, ring)
            return part if isinstance(part, Verdict) else [part]
        claimed = self._number(sent.claims)
        if isinstance(claimed, Refusal):
            return claimed
        assert task.mm is not None
        parts: list[P] = []
        for command in endpoint.commands(sent.work):
            signalled = task.mm.write(command.store_at, command.store) if command.store else None
            store = signalled or self._store(task, endpoint, sent.instruction, descriptor(claimed, command.data[4:]))
            taken = store if isinstance(store, Verdict) else receive(store, sent.work)
            if taken is None or isinstance(taken, Verdict):
                return taken
            parts.append(taken)
        return parts

    def _store(self, task: Task, endpoint: Endpoint, instruction: Instruction, source: bytes) -> Store | Verdict:
        """Execute the instruction for one command, and return what reaches the device on the bus."""
        store = self.os.execute(task, instruction, source)
        if isinstance(store, Verdict):
            return store
        assert task.mm is not None
        if task.mm not in endpoint.mapped:
            facts = {"instruction": instruction.value.upper(), "mm": task.mm.name, "dev": endpoint.dev.name}
            return PORTAL_UNMAPPED.signal(Signal.SIGSEGV, **facts)
        return store

    def submit_descriptor(
        self,
        process: str,
        device: str,
        instruction: Instruction,
        data: bytes,
        *,
        claims: int | str | None = None,
        portal: Portal = Portal.LIMITED,
    ) -> Outcome:
        """Let a process send 64 bytes of its own making to a DSA or IAA, and look at the completion record.

        `claims` goes into dword 0, which otherwise stays as `data` has it; ENQCMD wants 0 there. The detail tells how
        the program saw the answer, what the driver found in SWERR, which it clears, and what is in the program's memory
        where the descriptor wants the record, whose status the program has cleared before.
        """
        endpoint = self._endpoint(device)
        if not isinstance(endpoint, Idxd):
            raise InputError(f"device {device!r}: has no descriptors; only one of kind dsa or iaa has")
        if len(data) != SIZE:
            raise InputError(f"a descriptor has {SIZE} bytes, not {len(data)}")
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        if claims is not None:
            claimed = self._number(claims)
            if isinstance(claimed, Refusal):
                return self._settle(claimed)
            data = descriptor(claimed, data[4:])
        sent = parse(data)
        uncleared = _clear_record(task, sent)
        endpoint.driver.process_misc_interrupts()
        store = self._store(task, endpoint, instruction, data)
        offset = portal_offset(USER_WQ, portal)
        part = store if isinstance(store, Verdict) else endpoint.receive(store, Work(), offset)
        error = endpoint.driver.process_misc_interrupts()
        record = _record_text(task, endpoint, sent, uncleared)
        detail = (_answer_text(instruction, part), "" if error is None else _error_text(error), record)
        return self._settle(part, detail=tuple(line for line in detail if line))

    def _ring(self, task: Task, endpoint: Endpoint, sent: Submission, ring: Ring[P]) -> P | Verdict:
        """Use the queue of a process, or the one that a handle names: a handle of its own, on that device."""
        mm, handle = task.mm, sent.handle
        assert mm is not None
        if handle is None:
            return ring(mm, sent.work, None)
        binding = self.bindings.get(handle)
        if binding is None or not binding.live:
            return NO_HANDLE.refuse(handle=handle)
        if binding.endpoint is not endpoint or binding.bond.mm is not mm:
            return FOREIGN_HANDLE.refuse(handle=handle, mm=mm.name, dev=endpoint.dev.name)
        return ring(mm, sent.work, binding.bond)

    def kernel_submit(self, device: str, work: Work) -> Outcome:
        """Let the kernel submit with ENQCMDS under the number that the device's driver took at probe."""
        endpoint = self._endpoint(device)
        pasid = endpoint.kernel_pasid if isinstance(endpoint, Idxd) else None
        if pasid is None:
            return self._settle(KERNEL_NO_NUMBER.refuse(dev=device))
        if not isinstance(self.os, traps.X86Os):
            return self._settle(KERNEL_NO_ENQCMDS.refuse(dev=device))
        assert isinstance(endpoint, Idxd)
        return self._settle(self._kernel_submit_all(endpoint, self.os.cpu, pasid, work))

    def _kernel_submit_all(self, endpoint: Idxd, cpu: X86Cpu, pasid: int, work: Work) -> Done | Verdict | None:
        """Send the commands of a job, whose descriptors are not privileged, as kernel queues use the DMA API."""
        parts: list[Done] = []
        for command in endpoint.commands(work):
            source = descriptor(pasid, command.data[4:])
            store = cpu.execute(Instruction.ENQCMDS, X86Registers(), source, privileged=True)
            if not isinstance(store, Store):
                return KERNEL_NO_ENQCMDS.refuse(dev=endpoint.dev.name)
            part = endpoint.receive(store, work, endpoint.kernel_portal)
            if not isinstance(part, Done):
                return part
            parts.append(part)
        return joined(parts)

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


_ON_X86 = frozenset({Instruction.ENQCMD, Instruction.ENQCMDS})
_POSTED = frozenset({Instruction.MOVDIR64B, Instruction.ST64B})
_STATUS_BYTE = ("status", "fault_write")
"""Fields of the first byte of a completion record, which programs poll."""


def _answer_text(instruction: Instruction, part: Done | Verdict | None) -> str:
    """Say how the program sees the answer to its instruction; a signal leaves it none."""
    if isinstance(part, Signalled):
        return ""
    if instruction in _POSTED:
        return f"{instruction.value.upper()}: posted, no answer"
    retry = isinstance(part, Refusal) and part.errno is Errno.EAGAIN
    answer = Answer.RETRY if retry else Answer.ACCEPTED
    seen = f"ZF = {zero_flag(answer):d}" if instruction in _ON_X86 else f"Xs = {st64bv_status(answer)}"
    return f"{instruction.value.upper()}: {seen}, {answer.value}"


def _error_text(error: Swerr) -> str:
    """Say what the driver found in SWERR."""
    place = f" at {error.fault_addr:#x}" if error.fault_addr else ""
    return f"SWERR: error {error.error:#04x} ({error_name(error.error)}){place}"


def _clear_record(task: Task, sent: Descriptor) -> Signalled | None:
    """Clear the status that the program will poll, as every program must; return why it cannot."""
    if not sent.flags & Flags.CRAV:
        return None
    assert task.mm is not None
    return task.mm.write(sent.completion_addr, b"\0")


def _record_text(task: Task, endpoint: Idxd, sent: Descriptor, uncleared: Signalled | None) -> str:
    """Say what the program finds where its descriptor wants the completion record."""
    kind = endpoint.hw.engine.kind
    if not sent.flags & Flags.CRAV:
        return ""
    place = f"completion record at {sent.completion_addr:#x}"
    if uncleared is not None:
        return f"{place}: the program cannot write there, so it cannot poll it: {uncleared.why}"
    assert task.mm is not None
    found = task.mm.read(sent.completion_addr, kind.record_bytes)
    return f"{place}: {found.why if isinstance(found, Verdict) else _record_says(found, kind is IAA)}"


@lru_cache
def _record_says(found: bytes, of_iaa: bool) -> str:
    """Say what is in the bytes of a completion record, which depends on nothing else."""
    record = IaaCompletion.unpack(found) if of_iaa else DsaCompletion.unpack(found)
    if not record.status:
        return "status 0x00, nothing has come"
    others = (item for item in record.values() if item.value and item.field.name not in _STATUS_BYTE)
    fields = "".join(f", {item.field.name} = {item.value:#x}" for item in others)
    of_write = "; of a write" if record.fault_write else ""
    return f"status {found[0]:#04x} ({status_name(record.status)}{of_write}){fields}"

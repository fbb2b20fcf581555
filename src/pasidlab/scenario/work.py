"""Steps that let devices work: submissions by processes and by the kernel, and accesses of their own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from pasidlab.description import MachineSpec, Name
from pasidlab.devices import Access, Work
from pasidlab.devices.idxd.library import ALL_OPERANDS, OPERANDS, OPERATIONS, PATTERN_BYTES, Request
from pasidlab.devices.idxd.registers import Portal
from pasidlab.errors import InputError
from pasidlab.hw.cpu import Instruction
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario.step import DEVICE, PROCESS, Address, OnDevice, SentPasid, Step

Bytes = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
"""A size in a descriptor, which has 32 bits."""


class MmapPortal(OnDevice, frozen=True, tag="mmap_portal"):
    """Map a device's portal into a process."""

    process: Name
    uses: ClassVar = PROCESS | DEVICE

    def perform(self, machine: Machine) -> Outcome:
        """Map."""
        return machine.mmap_portal(self.process, self.device)


class Job(Step, frozen=True, kw_only=True):
    """A step that lets a device work; by default it writes at the start of the read-write area."""

    fits_window: ClassVar = True

    access: Access = Access.WRITE
    address: Address = 0x1000_0000
    data: Annotated[str, Meta(max_length=65536)] = "work"
    size: Annotated[int, Meta(ge=1, le=65536)] = 16

    @property
    def work(self) -> Work:
        """The job itself."""
        return Work(self.access, self.address, self.data.encode(), self.size)


class Submit(Job, frozen=True, tag="submit"):
    """A process submits work. Without `instruction` it goes to the queue that the device's driver programmed.

    `claims` is the number that user space writes where the device looks for the PASID; `handle` picks one of several
    queues of the process. `job` names work that the device accepts and does not do yet.
    """

    process: Name
    device: Name
    instruction: Instruction | None = None
    claims: SentPasid = 0
    handle: Name | None = None
    job: Name | None = None
    uses: ClassVar = PROCESS | DEVICE | {"claims": "number", "handle": "handle"}

    def perform(self, machine: Machine) -> Outcome:
        """Submit."""
        return machine.submit(
            self.process,
            self.device,
            self.instruction,
            self.work,
            claims=self.claims,
            handle=self.handle,
            job=self.job,
        )

    @property
    def subject(self) -> str:
        """The names, and how; of work that is not done at once the job's name too."""
        how = self.instruction.value if self.instruction else "register"
        return f"{self.process} {self.device} {how}" + ("" if self.job is None else f" as {self.job}")


class SubmitDescriptor(Step, frozen=True, kw_only=True, tag="descriptor"):
    """A process sends a descriptor of its own making to a DSA or IAA; the detail tells the answer and the record.

    `operation` is that of the device's kind, and has the keys that `OPERANDS` says; `pattern` is text of up to 8 bytes,
    `room` the most bytes of output of an IAA; `delta` and `delta_size` are where create_delta writes its record and how
    much it may, `seed` is what a CRC begins with. `completion` is where the completion record goes; without it there is
    none. `claims` is dword 0, for instructions that leave it to the program.
    """

    process: Name
    device: Name
    operation: str
    instruction: Instruction = Instruction.ENQCMD
    source: Address = 0
    destination: Address = 0
    size: Bytes = 0
    pattern: Annotated[str, Meta(max_length=PATTERN_BYTES)] = ""
    destination2: Address = 0
    room: Bytes = 0
    delta: Address = 0
    delta_size: Bytes = 0
    seed: Bytes = 0
    completion: Address | None = None
    block_on_fault: bool = True
    claims: SentPasid = 0
    portal: Literal["limited", "unlimited", "limited_ims", "unlimited_ims"] = "limited"
    uses: ClassVar = PROCESS | DEVICE | {"claims": "number"}
    fits_window: ClassVar = True

    def perform(self, machine: Machine) -> Outcome:
        """Send it."""
        descriptor, portal = self.packed(machine.spec), Portal[self.portal.upper()]
        return machine.submit_descriptor(
            self.process, self.device, self.instruction, descriptor, claims=self.claims, portal=portal
        )

    @property
    def subject(self) -> str:
        """The names, and what is to be done."""
        return f"{self.process} {self.device} {self.operation}"

    def check(self, spec: MachineSpec) -> None:
        """Build the descriptor, to say where it cannot be."""
        self.packed(spec)

    def packed(self, spec: MachineSpec) -> bytes:
        """Return the 64 bytes; InputError for an operation that the kind of the device does not have."""
        kind = next(device.kind for device in spec.device if device.name == self.device)
        operations = OPERATIONS.get(kind)
        if operations is None:
            raise InputError(f"device = {self.device!r}: has no descriptors; only one of kind dsa or iaa has")
        if self.operation not in operations:
            listed = ", ".join(operations)
            raise InputError(f"operation = {self.operation!r}: no such operation of {kind}; allowed: {listed}")
        opcode, pattern = operations[self.operation], self.pattern.encode()
        self._check_operands(opcode)
        if len(pattern) > PATTERN_BYTES:
            raise InputError(f"pattern = {self.pattern!r}: has {len(pattern)} bytes; allowed: up to {PATTERN_BYTES}")
        return Request(
            opcode,
            self.source,
            self.destination,
            self.size,
            pattern,
            self.destination2,
            self.room,
            self.completion,
            self.block_on_fault,
            self.delta,
            self.delta_size,
            self.seed,
        ).pack()

    def _check_operands(self, opcode: int) -> None:
        """Raise InputError for a key that the operation would not look at."""
        has = OPERANDS[opcode]
        for key in ALL_OPERANDS:
            value = getattr(self, key)
            if value and key not in has:
                listed = f"; it has {', '.join(has)}" if has else ""
                raise InputError(f"{key} = {value!r}: {self.operation} has no such key{listed}")


class KernelSubmit(Job, frozen=True, tag="kernel_submit"):
    """The kernel submits with ENQCMDS, under the number that the device's driver took at probe."""

    device: Name
    uses: ClassVar = DEVICE

    def perform(self, machine: Machine) -> Outcome:
        """Submit."""
        return machine.kernel_submit(self.device, self.work)


class Dma(Job, frozen=True, tag="dma"):
    """A device accesses memory under a number that it has."""

    device: Name
    pasid: SentPasid
    uses: ClassVar = DEVICE | {"pasid": "number"}

    def perform(self, machine: Machine) -> Outcome:
        """Access."""
        return machine.dma(self.device, self.pasid, self.work)


class Handoff(Job, frozen=True, tag="handoff"):
    """A device that works for a process tells a second one which PASID to use."""

    from_: Name = field(name="from")
    to: Name
    process: Name
    uses: ClassVar = {"from_": "device", "to": "device", "process": "process"}

    def perform(self, machine: Machine) -> Outcome:
        """Hand off."""
        return machine.handoff(self.from_, self.to, self.process, self.work)

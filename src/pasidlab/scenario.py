"""A scenario: a machine and steps, read from TOML; each verb is one structure that knows how to be done.

Unknown keys, wrong types and names that name nothing are errors that say where, what stood there and what is
allowed. Every step may carry expectations: one value, or a table by scheme, or by model of IOMMU where their drivers
differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, field

from pasidlab.decode import convert, read_toml
from pasidlab.description import RESERVED_NAMES, MachineSpec, Name, check
from pasidlab.devices import Access, Work
from pasidlab.devices.idxd.library import OPERATIONS, Request
from pasidlab.devices.idxd.registers import Portal
from pasidlab.errors import Errno, InputError
from pasidlab.hw.cpu import MAX_PASID, Instruction
from pasidlab.linux.iopf import PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE, Fault
from pasidlab.linux.profiles import profile
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.rules import Signal

Pasid = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
PasidOrName = Pasid | Name
SentPasid = Annotated[int, Meta(ge=0, le=MAX_PASID)] | Name
"""What a device sends with an access: a PASID of 20 bits; the kernel's calls take any number of 32."""
Address = Annotated[int, Meta(ge=0)]

RESULTS = ("ok", "fault", *(e.name for e in Errno), *(s.value for s in Signal))
"""Every result that a step can have."""

MAX_ADDRESS = (1 << 64) - 1


class Step(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do"):
    """What every step may have.

    Attributes:
        expect: the result that must come; by scheme or by model of IOMMU, what is not named may have any.
        expect_pasid: the number that must come.
        expect_work: whose memory must have been touched: a process, "kernel", or "nobody".
        expect_data: the bytes, as text, that must have been read or written there.
        expect_detail: a text that the detail must contain (of `show`, `invalidate_kva` and `descriptor`).
        note: text for the reader.
    """

    expect: str | dict[str, str] | None = None
    expect_pasid: int | dict[str, int] | None = None
    expect_work: str | dict[str, str] | None = None
    expect_data: str | dict[str, str] | None = None
    expect_detail: str | dict[str, str] | None = None
    note: str = ""

    uses: ClassVar[dict[str, str]] = {}
    """Keys that name something, with the kind of thing: device, process, iommu, handle, number."""
    makes: ClassVar[str] = ""
    """What the key `as` gives a name to: handle, number or process."""

    @property
    def verb(self) -> str:
        """The value of the key `do`."""
        return str(self.__struct_config__.tag)

    @property
    def subject(self) -> str:
        """The names that the step is about, for a report."""
        parts = [str(getattr(self, key)) for key in self.uses if getattr(self, key, None) is not None]
        return " ".join(parts)


_DEVICE, _PROCESS = {"device": "device"}, {"process": "process"}


class OnDevice(Step, frozen=True):
    """A step about one device."""

    device: Name
    uses: ClassVar = _DEVICE


class OnProcess(Step, frozen=True):
    """A step about one process."""

    process: Name
    uses: ClassVar = _PROCESS


class OnNumber(OnDevice, frozen=True):
    """A step about a number of one device; the number may be the name of an allocation or a handle."""

    pasid: PasidOrName
    uses: ClassVar = _DEVICE | {"pasid": "number"}


class BindStep(OnDevice, frozen=True):
    """A step that binds a process to a device; `as` names the handle."""

    process: Name
    as_: Name | None = field(name="as", default=None)
    uses: ClassVar = _DEVICE | _PROCESS
    makes: ClassVar = "handle"


class Numbering(OnDevice, frozen=True):
    """A step that takes a number for a device; `as` names it."""

    as_: Name | None = field(name="as", default=None)
    makes: ClassVar = "number"


class Birth(OnProcess, frozen=True):
    """A step that starts a task; `as` names it."""

    as_: Name = field(name="as")
    makes: ClassVar = "process"


class Bind(BindStep, frozen=True, tag="bind"):
    """What the device's driver does under the scheme at hand."""

    def perform(self, machine: Machine) -> Outcome:
        """Open the device."""
        return machine.bind(self.device, self.process, self.as_)


class BindDevice(BindStep, frozen=True, tag="bind_device"):
    """The exact call iommu_sva_bind_device()."""

    def perform(self, machine: Machine) -> Outcome:
        """Call it."""
        return machine.bind_device(self.device, self.process, self.as_)


class BindDevicePasid(BindStep, frozen=True, kw_only=True, tag="bind_device_pasid"):
    """The exact call iommu_sva_bind_device_pasid()."""

    pasid: Pasid

    def perform(self, machine: Machine) -> Outcome:
        """Call it."""
        return machine.bind_device_pasid(self.device, self.process, self.pasid, self.as_)


class Unbind(Step, frozen=True, tag="unbind"):
    """Undo a bind."""

    handle: Name
    uses: ClassVar = {"handle": "handle"}

    def perform(self, machine: Machine) -> Outcome:
        """Unbind."""
        return machine.unbind(self.handle)


class AllocGlobal(Numbering, frozen=True, tag="alloc_global"):
    """A kernel module takes a number with iommu_alloc_global_pasid()."""

    def perform(self, machine: Machine) -> Outcome:
        """Take it."""
        return machine.alloc_global(self.device, self.as_)


class AllocForAll(Step, frozen=True, tag="alloc_for_all"):
    """Take a number that is free on every listed device: the "must work for all RIDs" allocation of 2021."""

    devices: Annotated[list[Name], Meta(min_length=1)]
    as_: Name | None = field(name="as", default=None)
    uses: ClassVar = {"devices": "device"}
    makes: ClassVar = "number"

    def perform(self, machine: Machine) -> Outcome:
        """Take it."""
        return machine.alloc_for_all(self.devices, self.as_)

    @property
    def subject(self) -> str:
        """The devices."""
        return " ".join(self.devices)


class FreeGlobal(Step, frozen=True, tag="free_global"):
    """A kernel module gives a number back."""

    pasid: PasidOrName
    uses: ClassVar = {"pasid": "number"}

    def perform(self, machine: Machine) -> Outcome:
        """Give it back."""
        return machine.free_global(self.pasid)


class Attach(OnNumber, frozen=True, tag="attach"):
    """Attach a kernel-managed domain to a PASID; `with_handle = false` as for kernel DMA."""

    with_handle: bool = True

    def perform(self, machine: Machine) -> Outcome:
        """Attach."""
        return machine.attach(self.device, self.pasid, with_handle=self.with_handle)


class Detach(OnNumber, frozen=True, tag="detach"):
    """Detach what `attach` or `attach_any` attached."""

    def perform(self, machine: Machine) -> Outcome:
        """Detach."""
        return machine.detach(self.device, self.pasid)


class Replace(OnNumber, frozen=True, tag="replace"):
    """Replace what is attached by a new kernel-managed domain."""

    def perform(self, machine: Machine) -> Outcome:
        """Replace."""
        return machine.replace(self.device, self.pasid)


class AttachAny(Numbering, frozen=True, tag="attach_any"):
    """Attach a kernel-managed domain to any number, with the RFC's call."""

    def perform(self, machine: Machine) -> Outcome:
        """Attach."""
        return machine.attach_any(self.device, self.as_)


class Fork(Birth, frozen=True, tag="fork"):
    """Start a child process."""

    def perform(self, machine: Machine) -> Outcome:
        """Fork."""
        return machine.fork(self.process, self.as_)


class Clone(Birth, frozen=True, tag="clone"):
    """Start a task that shares memory and files (CLONE_VM); an exec of one leaves the other running."""

    def perform(self, machine: Machine) -> Outcome:
        """Clone."""
        return machine.clone(self.process, self.as_)


class Exec(OnProcess, frozen=True, tag="exec"):
    """Replace the process's address space."""

    def perform(self, machine: Machine) -> Outcome:
        """Exec."""
        return machine.exec(self.process)


class Exit(OnProcess, frozen=True, tag="exit"):
    """End a process or thread."""

    def perform(self, machine: Machine) -> Outcome:
        """Exit."""
        return machine.exit(self.process)


class EnableLam(OnProcess, frozen=True, tag="enable_lam"):
    """Turn x86 LAM on for a process."""

    def perform(self, machine: Machine) -> Outcome:
        """Call arch_prctl."""
        return machine.enable_lam(self.process)


class MmapPortal(OnDevice, frozen=True, tag="mmap_portal"):
    """Map a device's portal into a process."""

    process: Name
    uses: ClassVar = _PROCESS | _DEVICE

    def perform(self, machine: Machine) -> Outcome:
        """Map."""
        return machine.mmap_portal(self.process, self.device)


class Load(OnProcess, frozen=True, tag="load"):
    """A process reads its memory."""

    address: Address = 0x1000_0000
    size: Annotated[int, Meta(ge=1, le=65536)] = 16

    def perform(self, machine: Machine) -> Outcome:
        """Read."""
        return machine.load(self.process, self.address, self.size)


class Store(OnProcess, frozen=True, tag="store"):
    """A process writes its memory."""

    address: Address = 0x1000_0000
    data: Annotated[str, Meta(max_length=65536)] = "stored"

    def perform(self, machine: Machine) -> Outcome:
        """Write."""
        return machine.store(self.process, self.address, self.data.encode())


class Munmap(OnProcess, frozen=True, kw_only=True, tag="munmap"):
    """A process gives memory back; without `size` up to the end of the area."""

    address: Address
    size: Annotated[int, Meta(ge=0)] | None = None

    def perform(self, machine: Machine) -> Outcome:
        """Unmap."""
        return machine.munmap(self.process, self.address, self.size)


class Mprotect(OnProcess, frozen=True, kw_only=True, tag="mprotect"):
    """A process changes the rights of its memory, `rights` being of the letters r, w and x."""

    address: Address
    rights: Annotated[str, Meta(pattern="^[rwx]*$")]
    size: Annotated[int, Meta(ge=0)] | None = None

    def perform(self, machine: Machine) -> Outcome:
        """Change them."""
        return machine.mprotect(self.process, self.address, _perm(self.rights), self.size)


class Job(Step, frozen=True, kw_only=True):
    """A step that lets a device work; by default it writes at the start of the read-write area."""

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
    queues of the process.
    """

    process: Name
    device: Name
    instruction: Instruction | None = None
    claims: SentPasid = 0
    handle: Name | None = None
    uses: ClassVar = _PROCESS | _DEVICE | {"claims": "number", "handle": "handle"}

    def perform(self, machine: Machine) -> Outcome:
        """Submit."""
        return machine.submit(
            self.process, self.device, self.instruction, self.work, claims=self.claims, handle=self.handle
        )

    @property
    def subject(self) -> str:
        """The names, and how."""
        return f"{self.process} {self.device} {self.instruction.value if self.instruction else 'register'}"


class SubmitDescriptor(Step, frozen=True, kw_only=True, tag="descriptor"):
    """A process sends a descriptor of its own making to a DSA or IAA; the detail tells the answer and the record.

    `operation` is that of the device's kind; `pattern` text of up to 8 bytes of a fill or a compare_pattern,
    `destination2` of a dualcast, `room` the most bytes of output of an IAA. `completion` is where the completion record
    goes; without it there is none. `claims` is dword 0, for instructions that leave it to the program.
    """

    process: Name
    device: Name
    operation: str
    instruction: Instruction = Instruction.ENQCMD
    source: Address = 0
    destination: Address = 0
    size: Annotated[int, Meta(ge=0)] = 0
    pattern: Annotated[str, Meta(max_length=8)] = ""
    destination2: Address = 0
    room: Annotated[int, Meta(ge=0)] = 0
    completion: Address | None = None
    block_on_fault: bool = True
    claims: SentPasid = 0
    portal: Literal["limited", "unlimited", "limited_ims", "unlimited_ims"] = "limited"
    uses: ClassVar = _PROCESS | _DEVICE | {"claims": "number"}

    def perform(self, machine: Machine) -> Outcome:
        """Send it."""
        kind = next(device.kind for device in machine.spec.device if device.name == self.device)
        portal = Portal[self.portal.upper()]
        return machine.submit_descriptor(
            self.process, self.device, self.instruction, self.packed(kind), claims=self.claims, portal=portal
        )

    @property
    def subject(self) -> str:
        """The names, and what is to be done."""
        return f"{self.process} {self.device} {self.operation}"

    def packed(self, kind: str) -> bytes:
        """Return the 64 bytes; InputError for an operation that a kind of device does not have."""
        operations = OPERATIONS.get(kind)
        if operations is None:
            raise InputError(f"device = {self.device!r}: has no descriptors; only one of kind dsa or iaa has")
        if self.operation not in operations:
            listed = ", ".join(operations)
            raise InputError(f"operation = {self.operation!r}: no such operation of {kind}; allowed: {listed}")
        try:
            return Request(
                operations[self.operation],
                self.source,
                self.destination,
                self.size,
                self.pattern.encode(),
                self.destination2,
                self.room,
                self.completion,
                self.block_on_fault,
            ).pack()
        except ValueError as error:
            raise InputError(f"descriptor: {error}") from None


class KernelSubmit(Job, frozen=True, tag="kernel_submit"):
    """The kernel submits with ENQCMDS, under the number that the device's driver took at probe."""

    device: Name
    uses: ClassVar = _DEVICE

    def perform(self, machine: Machine) -> Outcome:
        """Submit."""
        return machine.kernel_submit(self.device, self.work)


class Dma(Job, frozen=True, tag="dma"):
    """A device accesses memory under a number that it has."""

    device: Name
    pasid: SentPasid
    uses: ClassVar = _DEVICE | {"pasid": "number"}

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


PERMS = {"r": PERM_READ, "w": PERM_WRITE, "x": PERM_EXEC, "p": PERM_PRIV}


def _perm(letters: str) -> int:
    return sum(PERMS[letter] for letter in set(letters))


class PageRequest(Step, frozen=True, tag="page_request"):
    """A device asks for a page; `perm` of the letters r, w, x and p (privileged); without `pasid` for its RID."""

    device: Name
    pasid: SentPasid | None = None
    address: Address = 0x1000_0000
    perm: Annotated[str, Meta(pattern="^[rwxp]*$")] = "r"
    last: bool = True
    group: Annotated[int, Meta(ge=0, le=511)] = 0
    uses: ClassVar = _DEVICE | {"pasid": "number"}

    def perform(self, machine: Machine) -> Outcome:
        """Ask."""
        perm = _perm(self.perm)
        return machine.page_request(
            self.device, self.pasid, lambda pasid: Fault(pasid, self.address, perm, self.last, self.group)
        )


class Discard(Step, frozen=True, tag="discard"):
    """The IOMMU's page request queue overflowed: partial requests are forgotten."""

    iommu: Name
    uses: ClassVar = {"iommu": "iommu"}

    def perform(self, machine: Machine) -> Outcome:
        """Discard."""
        return machine.discard(self.iommu)


class ResetPrepare(OnDevice, frozen=True, tag="reset_prepare"):
    """Fence a device before its reset."""

    def perform(self, machine: Machine) -> Outcome:
        """Fence."""
        return machine.reset_prepare(self.device)


class ResetDone(OnDevice, frozen=True, tag="reset_done"):
    """Lift the fence after the reset."""

    def perform(self, machine: Machine) -> Outcome:
        """Lift."""
        return machine.reset_done(self.device)


class ClaimDmaOwner(OnDevice, frozen=True, tag="claim_dma_owner"):
    """Give a device's group to user space, as VFIO and iommufd do."""

    def perform(self, machine: Machine) -> Outcome:
        """Claim."""
        return machine.claim_dma_owner(self.device)


class ReleaseDmaOwner(OnDevice, frozen=True, tag="release_dma_owner"):
    """Undo a claim."""

    def perform(self, machine: Machine) -> Outcome:
        """Release."""
        return machine.release_dma_owner(self.device)


class InvalidateKva(Step, frozen=True, tag="invalidate_kva"):
    """The kernel frees page-table pages of its own half and flushes the IOMMU's caches."""

    def perform(self, machine: Machine) -> Outcome:
        """Flush."""
        return machine.invalidate_kva()


class FailNext(OnDevice, frozen=True, tag="fail_next"):
    """The next such call for the device fails; `memory` is the next allocation in the kernel."""

    call: Literal["set_dev_pasid", "domain_alloc_sva", "memory"]
    errno: str = "ENOMEM"

    def perform(self, machine: Machine) -> Outcome:
        """Arm the failure."""
        return machine.fail_next(self.device, self.call, Errno[self.errno])


class Show(Step, frozen=True, tag="show"):
    """Tell the state of a process, a device, or the global space."""

    process: Name | None = None
    device: Name | None = None
    uses: ClassVar = _PROCESS | _DEVICE

    def perform(self, machine: Machine) -> Outcome:
        """Look."""
        return machine.show(self.process, self.device)


AnyStep = (
    Bind
    | BindDevice
    | BindDevicePasid
    | Unbind
    | AllocGlobal
    | AllocForAll
    | FreeGlobal
    | Attach
    | Detach
    | Replace
    | AttachAny
    | Fork
    | Clone
    | Exec
    | Exit
    | EnableLam
    | Load
    | Store
    | Munmap
    | Mprotect
    | MmapPortal
    | Submit
    | SubmitDescriptor
    | KernelSubmit
    | Dma
    | Handoff
    | PageRequest
    | Discard
    | ResetPrepare
    | ResetDone
    | ClaimDmaOwner
    | ReleaseDmaOwner
    | InvalidateKva
    | FailNext
    | Show
)


class Scenario(MachineSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine with steps; `scheme` is a name, "all", or FILE.py:CLASS, and the command line may override it."""

    title: str = ""
    about: str = ""
    scheme: str = "all"
    step: list[AnyStep] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """Read and check a TOML file; InputError names file, key, value and what is allowed."""
        path = Path(path)
        raw = read_toml(path)
        try:
            return cls.from_dict(raw)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Scenario:
        """Check decoded TOML."""
        scenario = convert(raw, cls)
        if not scenario.step:
            raise InputError("step: missing; a scenario has at least one [[step]]")
        check(scenario)
        profile(scenario.kernel).with_switches(dict(scenario.switches))
        _check_steps(scenario)
        return scenario


def _check_steps(scenario: Scenario) -> None:
    """Every name that a step uses was given before it; every expectation is a possible result."""
    known = {
        "iommu": {i.name for i in scenario.iommu},
        "device": {d.name for d in scenario.device},
        "process": {p.name for p in scenario.process},
        "handle": set[str](),
        "number": set[str](),
    }
    for index, step in enumerate(scenario.step):
        _check_names(f"step[{index}]", step, known)
        for result in _values(step.expect):
            if result not in RESULTS:
                raise InputError(f"step[{index}].expect = {result!r}: no such result; allowed: {', '.join(RESULTS)}")
        if isinstance(step, SubmitDescriptor):
            _check_descriptor(f"step[{index}]", step, scenario)
        if isinstance(step, FailNext) and step.errno not in Errno.__members__:
            names = ", ".join(Errno.__members__)
            raise InputError(f"step[{index}].errno = {step.errno!r}: no such errno; allowed: {names}")
        if isinstance(step, FailNext) and step.call == "memory" and step.errno != "ENOMEM":
            raise InputError(f"step[{index}].errno = {step.errno!r}: a failing allocation is ENOMEM")
        address = getattr(step, "address", 0)
        if address > MAX_ADDRESS:
            raise InputError(f"step[{index}].address = {address:#x}: must be below 2^64")


def _check_descriptor(place: str, step: SubmitDescriptor, scenario: Scenario) -> None:
    """Build the descriptor of a step, to say where it cannot be."""
    kind = next(device.kind for device in scenario.device if device.name == step.device)
    try:
        step.packed(kind)
    except InputError as error:
        raise InputError(f"{place}.{error}") from None


def _check_names(place: str, step: Step, known: dict[str, set[str]]) -> None:
    for key, kind in step.uses.items():
        value = getattr(step, key)
        names = known["number"] | known["handle"] if kind == "number" else known[kind]
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and name not in names:
                listed = ", ".join(sorted(names)) or "none"
                raise InputError(f"{place}.{key.rstrip('_')} = {name!r}: no such {kind}; known here: {listed}")
    made = getattr(step, "as_", None)
    if not step.makes:
        return
    if made is None:
        made = f"{getattr(step, 'device', '')}/{getattr(step, 'process', '')}" if step.makes == "handle" else None
    elif step.makes == "process" and made in RESERVED_NAMES:
        raise InputError(f"{place}.as = {made!r}: stands for something else in expectations")
    elif step.makes == "process" and made in known["process"]:
        raise InputError(f"{place}.as = {made!r}: another process has this name; names are unique")
    if made is not None:
        known[step.makes].add(made)


def _values(expected: str | dict[str, str] | None) -> Iterator[str]:
    if isinstance(expected, str):
        yield expected
    elif expected:
        yield from expected.values()

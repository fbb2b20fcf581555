"""What the operating system does when an instruction with a PASID traps.

Source: x86, `try_fixup_enqcmd_gp()` (arch/x86/kernel/traps.c, v6.12 and v7.3, with the v2 patch's test, which is the
same where a number is always of the global space). arm64, v7.3: ST64B and LD64B run at EL0, ST64BV and ST64BV0 are kept
off and end in SIGILL; ACCDATA_EL1 is never written.

Model policy, not Linux: `Arm64Os(accdata=True)` is a future kernel that loads ACCDATA_EL1 on a task's first ST64BV0, as
x86 does for IA32_PASID, and `emulate_st64bv=True` one that executes a trapped ST64BV for user space (thread,
message 14).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pasidlab import events
from pasidlab.hw.cpu import MAX_PASID, Arm64Cpu, CpuException, Instruction, Store, X86Cpu
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.sva import mm_get_enqcmd_pasid
from pasidlab.linux.task import Task
from pasidlab.rules import WAS_READ, Rule, Signal, Signalled

GP_NO_NUMBER = Rule(
    "traps.gp-no-number",
    "try_fixup_enqcmd_gp (arch/x86/kernel/traps.c)",
    "mm_get_enqcmd_pasid(current->mm) == IOMMU_PASID_INVALID",
    "{instruction}: {reason}, and process {mm} has no number for it: no normal bind has succeeded",
    source="thread 2026-05-13 Jason Gunthorpe, a and c",
    remedy="open the device in this very process before it submits; a fork has no number of its own",
)
GP_ACTIVATED = Rule(
    "traps.gp-already-activated",
    "try_fixup_enqcmd_gp (arch/x86/kernel/traps.c)",
    "current->pasid_activated",
    "{instruction}: {reason}, and IA32_PASID of {task} was loaded once already, so the #GP is a real one",
    source=WAS_READ,
    remedy="open the device in a new thread, whose register is loaded afresh; exec is the cause",
)
GP_NO_ENQCMD = Rule(
    "traps.gp-other",
    "exc_general_protection (arch/x86/kernel/traps.c)",
    "the CPU has no ENQCMD",
    "{instruction}: {reason}",
    source=WAS_READ,
    remedy="the CPU or the virtual machine has no ENQCMD: use a dedicated queue",
)
UNDEFINED = Rule(
    "traps.undefined",
    "exc_invalid_op / do_el0_undef",
    "the CPU does not have the instruction",
    "{instruction}: {reason}",
    source=WAS_READ,
    remedy="the CPU does not have the instruction: look for enqcmd in /proc/cpuinfo",
)
TRAPPED = Rule(
    "traps.ls64-trapped",
    "do_el0_ls64 -> SIGILL (arch/arm64/kernel/traps.c)",
    "the instruction is not enabled at EL0",
    "{instruction}: {reason}; Linux keeps it off at EL0",
    source="v7.3 (read): EnALS set, EnASR cleared, EnAS0 never set",
)
ACCDATA_NO_NUMBER = Rule(
    "traps.accdata-no-number",
    "model policy: a future arm64 kernel",
    "mm_get_enqcmd_pasid(current->mm) == IOMMU_PASID_INVALID",
    "{instruction}: process {mm} has no number for it: no normal bind has succeeded",
    source="thread 2026-05-13 Jason Gunthorpe, c",
)
MISALIGNED = Rule(
    "traps.misaligned",
    "do_alignment_fault",
    "the address is not 64-byte aligned",
    "{instruction}: {reason}",
    source=WAS_READ,
)


@dataclass(frozen=True, slots=True)
class X86Os:
    """Linux on x86."""

    cpu: X86Cpu = X86Cpu(enqcmd=True, movdir64b=True)

    @property
    def enqcmd_like(self) -> bool:
        """Whether user space has an instruction that carries the mm's number."""
        return self.cpu.enqcmd

    def execute(self, task: Task, instruction: Instruction, source: bytes, destination: int = 0) -> Store | Signalled:
        """Execute at CPL 3; a #GP that the kernel can fix is retried, at most once for a task.

        `source` is the 64-byte command, `destination` the address that it is stored to.
        """
        outcome = self.cpu.execute(instruction, task.x86, source, destination=destination)
        if isinstance(outcome, CpuException) and outcome.name == "#GP(0)" and try_fixup_enqcmd_gp(task):
            outcome = self.cpu.execute(instruction, task.x86, source, destination=destination)
        if isinstance(outcome, Store):
            return outcome
        facts = {"instruction": instruction.value.upper(), "reason": outcome.reason}
        if outcome.name != "#GP(0)":
            return UNDEFINED.signal(Signal.SIGILL, **facts)
        assert task.mm is not None
        if not task.kernel.enqcmd_like:
            return GP_NO_ENQCMD.signal(Signal.SIGSEGV, **facts)
        if mm_get_enqcmd_pasid(task.mm) == IOMMU_PASID_INVALID:
            return GP_NO_NUMBER.signal(Signal.SIGSEGV, mm=task.mm.name, **facts)
        return GP_ACTIVATED.signal(Signal.SIGSEGV, task=task.name, **facts)


def try_fixup_enqcmd_gp(task: Task) -> bool:
    """Load IA32_PASID of a task for the first time; true when the instruction shall be tried again.

    The handler does not look at the instruction, so any first #GP of such a task is "fixed" once.
    """
    mm = task.mm
    assert mm is not None
    if not task.kernel.enqcmd_like:
        return False
    pasid = mm_get_enqcmd_pasid(mm)
    if pasid == IOMMU_PASID_INVALID or task.pasid_activated:
        return False
    if pasid > MAX_PASID:
        task.kernel.warn("try_fixup_enqcmd_gp", f"PASID {pasid:#x} does not fit IA32_PASID bits 19:0")
        return False
    task.x86.load(pasid)
    task.pasid_activated = True
    task.kernel.emit(events.RegisterLoaded(task.name, "IA32_PASID", task.x86.ia32_pasid))
    return True


@dataclass(frozen=True, slots=True)
class Arm64Os:
    """Linux on arm64: today's, or the future ones of the module docstring."""

    cpu: Arm64Cpu = Arm64Cpu(ls64=1, en_als=True)
    accdata: bool = False
    emulate_st64bv: bool = False

    @property
    def enqcmd_like(self) -> bool:
        """Whether user space has an instruction that carries the mm's number."""
        return self.accdata and self.cpu.ls64 >= 3

    def execute(self, task: Task, instruction: Instruction, source: bytes, destination: int = 0) -> Store | Signalled:
        """Execute at EL0; what the kernel can resolve is retried. `source` and `destination` as on x86."""
        outcome: Store | Signalled | CpuException
        outcome = self._cpu_of(task).execute(instruction, task.arm64, source, destination=destination)
        if isinstance(outcome, CpuException) and outcome.name == "LS64 trap":
            resolved = self._resolve(task, instruction, source, outcome.reason)
            outcome = resolved or self._cpu_of(task).execute(instruction, task.arm64, source, destination=destination)
        if isinstance(outcome, (Store, Signalled)):
            return outcome
        facts = {"instruction": instruction.value.upper(), "reason": outcome.reason}
        if outcome.name == "UNDEFINED":
            return UNDEFINED.signal(Signal.SIGILL, **facts)
        return MISALIGNED.signal(Signal.SIGBUS, **facts)

    def _cpu_of(self, task: Task) -> Arm64Cpu:
        """Return the CPU with the enables that it has while the task runs."""
        return replace(self.cpu, en_as0=True) if task.st64bv0_enabled else self.cpu

    def _resolve(self, task: Task, instruction: Instruction, source: bytes, reason: str) -> Store | Signalled | None:
        """Settle a trapped instruction; None when the task shall try it again."""
        name = instruction.value.upper()
        if instruction is Instruction.ST64BV and self.emulate_st64bv:
            return Store(source, posted=False)
        if instruction is not Instruction.ST64BV0 or not self.accdata:
            return TRAPPED.signal(Signal.SIGILL, instruction=name, reason=reason)
        assert task.mm is not None
        pasid = mm_get_enqcmd_pasid(task.mm)
        if pasid == IOMMU_PASID_INVALID:
            return ACCDATA_NO_NUMBER.signal(Signal.SIGILL, instruction=name, mm=task.mm.name)
        task.arm64.accdata_el1 = pasid
        task.st64bv0_enabled = True
        task.kernel.emit(events.RegisterLoaded(task.name, "ACCDATA_EL1", pasid))
        return None

"""Tasks: fork, clone, exec, exit, and the files that outlive a call.

Source: kernel/fork.c, kernel/exit.c, fs/exec.c, fs/file.c, arch/x86/kernel/fpu/core.c, v6.12 and v7.3. What matters to
PASIDs: a fork starts without bonds, threads share them, exec leaves the address space, and at exit the address space
goes before the files do, so that an entry becomes quiet while the bond still stands.

Not modelled: scheduling, signals, close-on-exec, vfork's sharing until exec (clone does that).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pasidlab.hw.cpu import Arm64Registers, X86Registers
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.mm import MmStruct, dup_mmap, mmget, mmput
from pasidlab.linux.sva import mm_pasid_init
from pasidlab.rules import WAS_READ, Rule

INIT_PIDNS = "init"

FORKED = Rule(
    "task.forked",
    "dup_mm, mm_pasid_init, fpu_clone (kernel/fork.c, arch/x86/kernel/fpu/core.c)",
    "mm->iommu_mm = NULL; the PASID state of the child is clear",
    "{child} has a copy of the memory and the open files of {parent}, but no bond and no number",
    source=WAS_READ,
)
CLONED = Rule(
    "task.cloned",
    "copy_mm (kernel/fork.c)",
    "clone_flags & CLONE_VM",
    "{child} shares the memory, the bonds and the number of {parent}; its IA32_PASID is clear",
    source=WAS_READ,
)
EXECED = Rule(
    "task.execed",
    "exec_mmap, flush_thread (fs/exec.c, arch/x86/kernel/process.c)",
    "a new mm without SVA data; IA32_PASID is reset, open files stay open",
    "{task} left its address space and its number; its open files still hold their bonds",
    source=WAS_READ,
)
LEFT_MM = Rule(
    "task.left-mm",
    "exit_mm (kernel/exit.c)",
    "the address space goes, the files are still open",
    "{task} has left its address space and not closed its files yet",
    source=WAS_READ,
)
EXITED = Rule(
    "task.exited",
    "do_exit: exit_mm before exit_files (kernel/exit.c)",
    "the address space goes before the files do",
    "{task} is gone; what no other process has open is unbound",
    source=WAS_READ,
)


@dataclass(slots=True, eq=False, repr=False)
class File:
    """`struct file`: an open device; `release` runs when the last descriptor of it is closed."""

    name: str
    release: Callable[[], None]
    count: int = 1


@dataclass(slots=True, eq=False, repr=False)
class FilesStruct:
    """`struct files_struct`: the open files of a task and its threads."""

    files: list[File] = field(default_factory=list)
    count: int = 1


@dataclass(slots=True, eq=False, repr=False)
class Task:
    """`struct task_struct`, as far as PASIDs bear on it.

    Attributes:
        mm: None once the task has exited.
        pid, pidns: its number in its pid namespace; nothing connects it with a PASID.
        pasid_activated: the #GP fix-up has loaded IA32_PASID once.
        x86, arm64: the registers that travel with the task.
        st64bv0_enabled: this task's SCTLR_EL1.EnAS0 under the modelled future arm64 kernel.
    """

    kernel: Kernel
    name: str
    mm: MmStruct | None
    pid: int
    pidns: str = INIT_PIDNS
    files: FilesStruct = field(default_factory=FilesStruct)
    pasid_activated: bool = False
    x86: X86Registers = field(default_factory=X86Registers)
    arm64: Arm64Registers = field(default_factory=Arm64Registers)
    st64bv0_enabled: bool = False


def fork(parent: Task, name: str, pid: int) -> Task:
    """Copy a task, its memory being shared until it is written.

    The child has no bond, no number and a clear IA32_PASID, but shares open files.
    """
    assert parent.mm is not None
    mm = MmStruct(parent.kernel, name, parent.mm.user)
    mm_pasid_init(mm)
    mm.lam = parent.mm.lam
    dup_mmap(mm, parent.mm)
    for file in parent.files.files:
        file.count += 1
    files = FilesStruct(list(parent.files.files))
    parent.kernel.decided(FORKED, child=name, parent=parent.name)
    return Task(parent.kernel, name, mm, pid, parent.pidns, files)


def clone_vm(parent: Task, name: str, pid: int) -> Task:
    """Start a task that shares memory and files (CLONE_VM | CLONE_FILES), with a clear IA32_PASID of its own.

    It is no member of the thread group (no CLONE_THREAD), so an exec of one leaves the other running.
    """
    assert parent.mm is not None
    mmget(parent.mm)
    parent.files.count += 1
    parent.kernel.decided(CLONED, child=name, parent=parent.name)
    return Task(parent.kernel, name, parent.mm, pid, parent.pidns, parent.files)


def exec_(task: Task, mm_name: str) -> None:
    """Leave the address space for a new, empty one; open files stay open."""
    old = task.mm
    assert old is not None
    task.mm = MmStruct(task.kernel, mm_name, old.user)
    task.x86.init()
    task.arm64 = Arm64Registers()
    task.st64bv0_enabled = False
    if not task.kernel.profile.exec_keeps_pasid_activated:
        task.pasid_activated = False
    _unshare_files(task)
    mmput(old)
    task.kernel.decided(EXECED, task=task.name)


def _unshare_files(task: Task) -> None:
    """Give a task that shares its file table one of its own (`begin_new_exec` does; from general knowledge)."""
    if task.files.count == 1:
        return
    task.files.count -= 1
    for file in task.files.files:
        file.count += 1
    task.files = FilesStruct(list(task.files.files))


def do_exit(task: Task) -> None:
    """End a task: `exit_mm`, and only then `exit_files`."""
    exit_mm(task)
    exit_files(task)
    task.kernel.decided(EXITED, task=task.name)


def exit_mm(task: Task) -> None:
    """Leave the address space."""
    mm = task.mm
    assert mm is not None
    task.mm = None
    mmput(mm)


def exit_files(task: Task) -> None:
    """Leave the open files; the last who does closes them."""
    task.files.count -= 1
    if not task.files.count:
        for file in task.files.files:
            fput(file)
        task.files.files.clear()


def close_file(task: Task, file: File) -> None:
    """Close one descriptor."""
    task.files.files.remove(file)
    fput(file)


def fput(file: File) -> None:
    """Let a file go; the last one calls the driver's release."""
    file.count -= 1
    if not file.count:
        file.release()

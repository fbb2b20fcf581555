"""arch_prctl(ARCH_ENABLE_TAGGED_ADDR): x86 LAM, which SVA excludes and which excludes SVA.

Source: `prctl_enable_tagged_addr()` (arch/x86/kernel/process_64.c), v6.12 and v7.3.

Not modelled: the effect of LAM on addresses; the lock that outlives the threads it was set for; a process's own way to
lift the exclusion (ARCH_FORCE_TAGGED_SVA is `Kernel.force_tagged_sva`, for all).
"""

from __future__ import annotations

from pasidlab.errors import Errno
from pasidlab.linux.kernel import Arch
from pasidlab.linux.sva import mm_valid_pasid
from pasidlab.linux.task import Task
from pasidlab.rules import WAS_READ, Refusal, Rule

_WHERE = "prctl_enable_tagged_addr (arch/x86/kernel/process_64.c)"
MAX_LAM_BITS = 6
LAM_NO_CPU = Rule(
    "lam.no-cpu",
    _WHERE,
    "!cpu_feature_enabled(X86_FEATURE_LAM)",
    "this CPU has no LAM",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="there is no LAM on this CPU, or the kernel was built or booted without it",
)
LAM_BOUND = Rule(
    "lam.has-pasid",
    _WHERE,
    "mm_valid_pasid(mm) && !MM_CONTEXT_FORCE_TAGGED_SVA",
    "process {mm} has SVA data, and devices do not understand tagged addresses",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="do without LAM in a process that binds, or ask for ARCH_FORCE_TAGGED_SVA before",
)
LAM_LOCKED = Rule(
    "lam.locked",
    _WHERE,
    "MM_CONTEXT_LOCK_LAM: the mm has threads",
    "process {mm} has threads",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="ask for LAM before the first thread starts",
)
LAM_BITS = Rule(
    "lam.bits",
    _WHERE,
    "!nr_bits || nr_bits > LAM_U57_BITS",
    "{bits} tag bits: 1..6 are possible",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="ask for 6 tag bits",
)


LAM_ON = Rule("lam.on", _WHERE, "no check failed", "process {mm} uses tagged addresses now", source=WAS_READ)


def prctl_enable_tagged_addr(task: Task, bits: int = MAX_LAM_BITS) -> Refusal | None:
    """Turn LAM on for the task's mm."""
    mm = task.mm
    assert mm is not None
    if task.kernel.arch is not Arch.X86:
        return LAM_NO_CPU.refuse()
    if mm_valid_pasid(mm) and not task.kernel.force_tagged_sva:
        return LAM_BOUND.refuse(mm=mm.name)
    if mm.mm_users > 1:
        return LAM_LOCKED.refuse(mm=mm.name)
    if not 0 < bits <= MAX_LAM_BITS:
        return LAM_BITS.refuse(bits=bits)
    mm.lam = True
    task.kernel.decided(LAM_ON, mm=mm.name)
    return None

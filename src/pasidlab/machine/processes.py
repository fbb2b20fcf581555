"""The verbs of processes: their lives, and what they do to their memory through the CPU."""

from __future__ import annotations

from pasidlab.devices.endpoint import Done
from pasidlab.linux import prctl
from pasidlab.linux import task as tasks
from pasidlab.linux.mm import MmStruct, mprotect, munmap, process_memory
from pasidlab.linux.task import Task
from pasidlab.machine.state import MachineState, fill
from pasidlab.outcome import LOADED, STORED, Outcome
from pasidlab.rules import Refusal, Verdict


class Processes(MachineState):
    """See the module docstring."""

    def fork(self, process: str, child: str) -> Outcome:
        """Start a child process with a copy of the memory, and the parent's open files."""

        def call(task: Task) -> None:
            self.processes[child] = tasks.fork(task, child, self._new_pid(task.pidns))

        return self._with_task(process, call)

    def clone(self, process: str, child: str) -> Outcome:
        """Start a thread: CLONE_VM and CLONE_FILES."""

        def call(task: Task) -> None:
            self.processes[child] = tasks.clone_vm(task, child, self._new_pid(task.pidns))

        return self._with_task(process, call)

    def exec(self, process: str) -> Outcome:
        """Replace the address space."""

        def call(task: Task) -> None:
            self.execs[process] = self.execs.get(process, 0) + 1
            times = self.execs[process]
            name = f"{process} after exec" if times == 1 else f"{process} after exec {times}"
            tasks.exec_(task, name)
            assert task.mm is not None
            task.mm.vmas = process_memory(fill(name), self.kernel.page_size)

        return self._with_task(process, call)

    def exit(self, process: str) -> Outcome:
        """End a process or thread: its memory first, then its files."""
        return self._with_task(process, tasks.do_exit)

    def exit_mm(self, process: str) -> Outcome:
        """Do the first half of the exit of a last task; each file stays open until `unbind` closes it."""

        def call(task: Task) -> None:
            tasks.exit_mm(task)
            self.kernel.decided(tasks.LEFT_MM, task=process)

        return self._with_task(process, call)

    def enable_lam(self, process: str) -> Outcome:
        """`arch_prctl(ARCH_ENABLE_TAGGED_ADDR)`."""
        return self._with_task(process, prctl.prctl_enable_tagged_addr)

    # --- memory ------------------------------------------------------------------------------------------------

    def load(self, process: str, address: int, size: int) -> Outcome:
        """Let a process read its memory."""

        def call(task: Task) -> Done | Verdict:
            assert task.mm is not None
            data = task.mm.read(address, size)
            if isinstance(data, Verdict):
                return data
            self.kernel.decided(LOADED, mm=task.mm.name, address=address)
            return Done(task.mm.name, None, data)

        return self._with_task(process, call)

    def store(self, process: str, address: int, data: bytes) -> Outcome:
        """Let a process write its memory."""

        def call(task: Task) -> Done | Verdict:
            assert task.mm is not None
            signalled = task.mm.write(address, data)
            if signalled:
                return signalled
            self.kernel.decided(STORED, mm=task.mm.name, address=address)
            return Done(task.mm.name, None, data)

        return self._with_task(process, call)

    def munmap(self, process: str, address: int, size: int | None = None) -> Outcome:
        """`munmap()`; without `size` up to the end of the area."""

        def call(task: Task) -> Refusal | None:
            assert task.mm is not None
            return munmap(task.mm, address, _rest(task.mm, address) if size is None else size)

        return self._with_task(process, call)

    def mprotect(self, process: str, address: int, rights: int, size: int | None = None) -> Outcome:
        """`mprotect()` to rights of READ, WRITE and EXEC; without `size` up to the end of the area."""

        def call(task: Task) -> Refusal | None:
            assert task.mm is not None
            return mprotect(task.mm, address, _rest(task.mm, address) if size is None else size, rights)

        return self._with_task(process, call)


def _rest(mm: MmStruct, address: int) -> int:
    """Return how many bytes there are to the end of an area; where none is, those of a page."""
    vma = mm.vma_lookup(address)
    return mm.kernel.page_size if vma is None else vma.end - address

"""One machine from a description, and what can be done on it.

`Machine` is the one mutable root. Each verb does what its namesake in a scenario does and returns an `Outcome`: the
result in one word, the number, and the rule with a sentence. The exact kernel calls underneath are in `linux/`.

Not modelled: mmap of new areas; time. The description is checked as a whole before anything is built.
"""

from __future__ import annotations

from pasidlab.machine.attachments import Attachments
from pasidlab.machine.binds import Binds
from pasidlab.machine.faults import Faults
from pasidlab.machine.processes import Processes
from pasidlab.machine.state import Binding
from pasidlab.machine.work import Submissions
from pasidlab.outcome import SHOWN, Outcome
from pasidlab.views import device_text, enqcmd_number, process_text, space_text

__all__ = ["Binding", "Machine"]


class Machine(Binds, Attachments, Processes, Submissions, Faults):
    """A running machine under one scheme; see the module docstring. `scheme` is one, or the name of one."""

    def show(self, process: str | None = None, device: str | None = None) -> Outcome:
        """Tell the state of a process or a device; without either, that of the global space."""
        self.kernel.decided(SHOWN)
        number, detail = None, []
        if process is not None:
            task = self.processes.get(process)
            number = None if task is None else enqcmd_number(task)
            detail.append(f"{process}: was never started" if task is None else process_text(task))
        if device is not None:
            detail += device_text(self._endpoint(device).dev)
        if process is None and device is None:
            detail += space_text(self.kernel)
        return self._settle(None, number, detail=tuple(detail))

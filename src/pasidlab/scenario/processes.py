"""Steps of processes: their lives, and what they do to their memory through the CPU."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, field

from pasidlab.description import Name
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario.step import Address, OnProcess, perm_of


class Birth(OnProcess, frozen=True):
    """A step that starts a task; `as` names it."""

    as_: Name = field(name="as")
    makes: ClassVar = "process"


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


class ExitMm(OnProcess, frozen=True, tag="exit_mm"):
    """The address space of a last task goes; its files stay open until they are unbound."""

    def perform(self, machine: Machine) -> Outcome:
        """Leave it."""
        return machine.exit_mm(self.process)


class EnableLam(OnProcess, frozen=True, tag="enable_lam"):
    """Turn x86 LAM on for a process."""

    def perform(self, machine: Machine) -> Outcome:
        """Call arch_prctl."""
        return machine.enable_lam(self.process)


class Load(OnProcess, frozen=True, tag="load"):
    """A process reads its memory."""

    fits_window: ClassVar = True

    address: Address = 0x1000_0000
    size: Annotated[int, Meta(ge=1, le=65536)] = 16

    def perform(self, machine: Machine) -> Outcome:
        """Read."""
        return machine.load(self.process, self.address, self.size)


class Store(OnProcess, frozen=True, tag="store"):
    """A process writes its memory."""

    fits_window: ClassVar = True

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
        return machine.mprotect(self.process, self.address, perm_of(self.rights), self.size)

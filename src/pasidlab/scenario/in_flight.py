"""Steps of what takes its time: jobs that wait at devices, page requests on their way, a driver's release by parts."""

from __future__ import annotations

from typing import ClassVar

from pasidlab.description import Name
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario.step import Step


class OnJob(Step, frozen=True):
    """A step about a job that `submit` gave a name to."""

    job: Name
    uses: ClassVar = {"job": "job"}
    fits_window: ClassVar = True


class Complete(OnJob, frozen=True, tag="complete"):
    """The device does a job that waits."""

    def perform(self, machine: Machine) -> Outcome:
        """Do it."""
        return machine.complete(self.job)


class Ask(OnJob, frozen=True, tag="ask"):
    """The device sends a page request for a job that waits; it is on its way."""

    def perform(self, machine: Machine) -> Outcome:
        """Ask."""
        return machine.ask(self.job)


class Answer(OnJob, frozen=True, tag="answer"):
    """The page request of a job reaches the IOMMU's driver, and is answered."""

    def perform(self, machine: Machine) -> Outcome:
        """Answer."""
        return machine.answer(self.job)


class OnHandle(Step, frozen=True):
    """A step about a bind by its name."""

    handle: Name
    uses: ClassVar = {"handle": "handle"}


class Stop(OnHandle, frozen=True, tag="stop"):
    """The device's driver stops the work under the number of a bond: the first step of its release."""

    def perform(self, machine: Machine) -> Outcome:
        """Stop."""
        return machine.stop(self.handle)


class Drain(OnHandle, frozen=True, tag="drain"):
    """The device's driver drains the page requests under the number of a bond: the second step of its release."""

    def perform(self, machine: Machine) -> Outcome:
        """Drain."""
        return machine.drain(self.handle)

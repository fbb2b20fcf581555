"""Steps that bind and unbind a process to a device, with or without opening it."""

from __future__ import annotations

from typing import ClassVar

from msgspec import field

from pasidlab.description import Name
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario.step import DEVICE, PROCESS, OnDevice, Pasid, Step


class BindStep(OnDevice, frozen=True):
    """A step that binds a process to a device; `as` names the handle."""

    process: Name
    as_: Name | None = field(name="as", default=None)
    uses: ClassVar = DEVICE | PROCESS
    makes: ClassVar = "handle"


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
    """Undo a bind; the driver stops the device and drains its page requests first, unless it is told not to."""

    handle: Name
    stop: bool = True
    drain: bool = True
    uses: ClassVar = {"handle": "handle"}

    def perform(self, machine: Machine) -> Outcome:
        """Unbind."""
        return machine.unbind(self.handle, stop=self.stop, drain=self.drain)

"""Steps of kernel modules: numbers of the global space, and domains attached to PASIDs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, field

from pasidlab.description import Name
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.scenario.step import DEVICE, OnDevice, PasidOrName, Step


class Numbering(OnDevice, frozen=True):
    """A step that takes a number for a device; `as` names it."""

    as_: Name | None = field(name="as", default=None)
    makes: ClassVar = "number"


class OnNumber(OnDevice, frozen=True):
    """A step about a number of one device; the number may be the name of an allocation or a handle."""

    pasid: PasidOrName
    uses: ClassVar = DEVICE | {"pasid": "number"}


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

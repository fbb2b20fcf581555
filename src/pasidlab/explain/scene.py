"""A machine and a device of it, for explaining a call: fresh copies to run it on, and facts to tell.

Decided here: the call is made by a process that the machine did not have, which has done nothing yet. Of a machine
with many devices only those are kept that can change the answer: the device's group, its physical function, the
devices whose driver takes numbers at probe, and the one that carries the largest numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import msgspec

from pasidlab.description import ARM_SMMU_V3, INTEL_VTD, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec, architecture
from pasidlab.description.unknown import Unknown
from pasidlab.errors import InputError
from pasidlab.linux.iommu import own_max_pasids, pasid_range
from pasidlab.linux.kernel import Kernel
from pasidlab.linux.profiles import DEFAULT_PROFILE, Profile, profile
from pasidlab.linux.structs import Device
from pasidlab.linux.task import Task
from pasidlab.machine import Machine
from pasidlab.rules import listed
from pasidlab.schemes import find_scheme

MOST_KEPT = 32
"""A machine with more devices is run with those only that matter."""
ARCHITECTURES = {"arm-smmu-v3": "arm64", "intel-vtd": "x86", "amd-vi": "x86"}
"""Where an IOMMU driver is to be found."""
MOST_BITS = 20
"""The width that a device is supposed to have where none is known."""
OF_PASIDS = frozenset(
    {
        "bind.device-without-pasids",
        "enable-pasid.no-capability",
        "intel.sva-no-pasid-or-ats",
        "intel.sva-pri-off",
    }
)
"""Checks that ask what a device itself has of PASIDs."""
OF_IOMMU = frozenset({"bind.no-group", "attach.no-group", "replace.no-group", "dma-owner.no-group"})
"""Checks that ask whether there is an IOMMU."""
_ADDRESS = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", re.IGNORECASE)
CALLER, OTHER = "caller", "other"
"""The process that makes the call, and one that holds what it wants."""


@dataclass(slots=True)
class Stage:
    """A copy of the machine on which a call is made; `process` is who makes it, `pasid` the number that it names."""

    machine: Machine
    device: str
    process: str
    other: str
    pasid: int = 1

    @property
    def kernel(self) -> Kernel:
        """The running kernel."""
        return self.machine.kernel

    @property
    def dev(self) -> Device:
        """The kernel's view of the device."""
        return self.machine.endpoints[self.device].dev

    @property
    def task(self) -> Task:
        """The caller."""
        return self.machine.processes[self.process]


class Scene:
    """What is known of where a call fails: nothing, or a kernel, or a machine and a device.

    Attributes:
        spec: the machine; None if none was given.
        device: the device's name; empty without a machine.
        profile: the kernel's.
        scheme: the name of the scheme that the kernel runs.
        any_kernel: no kernel was named, so that a check of any may be the one.
        hint: without a machine, the IOMMU driver that can be meant; empty for any.
        unknown: what an import of the machine could not find out.
    """

    def __init__(
        self,
        spec: MachineSpec | None = None,
        device: str | None = None,
        kernel: str | None = None,
        scheme: str = "mainline",
        hint: str = "",
    ) -> None:
        self.hint = hint
        self.any_kernel = spec is None and kernel is None
        find_scheme(scheme)
        self.scheme = scheme
        if spec is not None and kernel is not None:
            spec = msgspec.structs.replace(spec, kernel=kernel)
        self.device = "" if spec is None else _device(spec, device)
        self.unknown = Unknown.of(() if spec is None else spec.finding)
        self.spec = None if spec is None else _supposed(_near(spec, self.device), self.unknown)
        named = profile(kernel or (spec.kernel if spec is not None else DEFAULT_PROFILE.name))
        self.profile: Profile = named.with_switches(dict(spec.switches)) if spec is not None else named
        self.kernel = named.name

    @property
    def described(self) -> bool:
        """Whether there is a machine."""
        return self.spec is not None

    @cached_property
    def iommu_unknown(self) -> str:
        """Why it is not known which IOMMU is in front of the device; empty where it is, and without a machine."""
        unknown = self.described and self.device_spec.iommu is None
        return self.unknown.iommu(self.device) if unknown else ""

    @cached_property
    def supposed(self) -> dict[str, str]:
        """The devices that matter of which it is not known whether they have PASIDs, each with the finding."""
        device = self.device_spec
        group = {one.name for one in self.machine.device if device.group and one.group == device.group}
        near = (self.device, device.physfn, *sorted(group))
        return {name: self.unknown.pasids[name] for name in near if name in self.unknown.pasids}

    def doubt(self, check: str) -> str:
        """Say what is not known that decides a check; empty where all is known."""
        if not self.described:
            return ""
        if check in OF_IOMMU:
            return self.iommu_unknown
        own = self.device_spec.physfn or self.device
        return self.unknown.pasids.get(own, "") if check in OF_PASIDS else ""

    def stage(self) -> Stage:
        """Return a fresh copy of the machine, with two processes that have done nothing."""
        assert self.spec is not None
        caller, other = (_unused(self.spec, name) for name in (CALLER, OTHER))
        processes = [*self.spec.process, ProcessSpec(caller), ProcessSpec(other)]
        machine = Machine(msgspec.structs.replace(self.spec, process=processes), self.scheme)
        return Stage(machine, self.device, caller, other)

    # --- facts -------------------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> Stage:
        """The machine as it stands, to be looked at only."""
        return self.stage()

    @property
    def machine(self) -> MachineSpec:
        """The description of the machine, which there must be."""
        assert self.spec is not None
        return self.spec

    @cached_property
    def device_spec(self) -> DeviceSpec:
        """The description of the device."""
        return next(device for device in self.machine.device if device.name == self.device)

    @cached_property
    def iommu_spec(self) -> IommuSpec | None:
        """The description of the IOMMU in front of it."""
        return next((iommu for iommu in self.machine.iommu if iommu.name == self.device_spec.iommu), None)

    @cached_property
    def arch(self) -> str:
        """The architecture of the CPUs; empty if it is not known."""
        return architecture(self.machine) if self.described else ARCHITECTURES.get(self.hint, "")

    @cached_property
    def driver(self) -> str:
        """The IOMMU driver by name: a mock is the driver whose operations it has; "none" without an IOMMU.

        Empty if it is not known.
        """
        if not self.described:
            return self.hint
        iommu = self.iommu_spec
        if iommu is None:
            return "" if self.iommu_unknown else "none"
        return iommu.model if iommu.model in (ARM_SMMU_V3, INTEL_VTD) else iommu.ops.value

    @property
    def behind(self) -> str:
        """Say what is in front of the device."""
        if not self.described:
            return f"such a device is behind {self.hint}"
        if self.iommu_spec is None:
            return self.iommu_unknown or f"{self.device} is behind no IOMMU"
        driver = "" if self.driver == "usual" else f" ({self.driver})"
        return f"{self.device} is behind {self.iommu_spec.name}{driver}"

    @property
    def carries(self) -> str:
        """Say which numbers the device carries, and of whom."""
        dev = self.base.dev
        if dev.iommu is None:
            return self.behind
        own, bound = own_max_pasids(dev), dev.iommu.max_pasids
        return f"{self.device} carries {pasid_range(dev)} (max_pasids: its own {own}, its IOMMU's {bound})"

    @property
    def members(self) -> str:
        """Say what each member of the device's group carries."""
        group = self.base.dev.iommu_group
        if group is None:
            return self.behind
        each = ", ".join(f"{member.name} {pasid_range(member)}" for member in group.devices)
        return f"the group of {self.device} has: {each}"


def _device(spec: MachineSpec, name: str | None) -> str:
    """Return the device that is meant: the named one, or the only one that can carry PASIDs."""
    known = [device.name for device in spec.device]
    if name is not None:
        if name not in known:
            raise InputError(
                f"--device {name!r}: no such device; known: {_listed(known) or 'none'}{_unread(spec, name)}"
            )
        return name
    able = candidates(spec)
    if not able:
        raise InputError("--machine: has no device; name sources that show its devices, too")
    if len(able) != 1:
        raise InputError(f"--device: must name one of {_listed(able)}")
    return able[0]


def _unread(spec: MachineSpec, name: str) -> str:
    """Say that a PCI function may be one that was left out, since its capabilities were not read."""
    unread = Unknown.of(spec.finding).functions
    if not unread or not _ADDRESS.fullmatch(name):
        return ""
    return f"; it may be one that was left out, not known to have PASIDs: {unread}"


def _supposed(spec: MachineSpec, unknown: Unknown) -> MachineSpec:
    """Suppose that devices have PASIDs where that is not known, so that what refuses is never a mere lack of facts."""
    devices = [
        msgspec.structs.replace(one, pasid_bits=MOST_BITS) if one.name in unknown.pasids else one for one in spec.device
    ]
    return msgspec.structs.replace(spec, device=devices) if devices != spec.device else spec


def candidates(spec: MachineSpec) -> list[str]:
    """Return the devices that can be meant where none is named: those that can carry PASIDs, or all if none can."""
    unknown = Unknown.of(spec.finding).pasids
    able = [one.name for one in spec.device if one.pasid_bits is not None or one.is_idxd or one.name in unknown]
    return able or [device.name for device in spec.device]


def _listed(names: list[str]) -> str:
    return listed(names)


def _near(spec: MachineSpec, name: str) -> MachineSpec:
    """Leave out the devices of a large machine that cannot change an answer."""
    if len(spec.device) <= MOST_KEPT:
        return spec
    device = next(one for one in spec.device if one.name == name)
    widest = max(spec.device, key=lambda one: (one.pasid_bits or 0, one.iommu is not None))
    kept = {name, device.physfn, widest.name, widest.physfn}
    kept |= {one.name for one in spec.device if one.is_idxd or (one.group and one.group == device.group)}
    kept |= {one.physfn for one in spec.device if one.name in kept}
    return msgspec.structs.replace(spec, device=[one for one in spec.device if one.name in kept])


def _unused(spec: MachineSpec, name: str) -> str:
    taken = {process.name for process in spec.process}
    return next(free for free in (name, *(f"{name}{n}" for n in range(2, len(taken) + 3))) if free not in taken)

"""A kernel with mock IOMMUs, and what the tests want to see of it: driver calls, rules, numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pasidlab import events
from pasidlab.drivers.mock import MockDriver
from pasidlab.drivers.traits import Mode
from pasidlab.linux.iommu import (
    iommu_alloc_global_pasid,
    iommu_attach_device_pasid,
    iommu_probe_device,
)
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.mm import READ, WRITE, MmStruct, Vma
from pasidlab.linux.profiles import V6_12, V7_3, Profile
from pasidlab.linux.structs import (
    AttachHandle,
    Device,
    IommuDevice,
    IommuDomain,
    IommuGroup,
)
from pasidlab.linux.sva import IommuSva
from pasidlab.linux.task import Task
from pasidlab.rules import Refusal, Signalled, rule_by_id
from pasidlab.schemes import Mainline, Scheme

if TYPE_CHECKING:
    from pasidlab.errors import Errno
    from pasidlab.rules import Signal

PAGE = 4096
DATA, READ_ONLY = 0x1000_0000, 0x2000_0000

both_kernels = pytest.mark.parametrize("profile", [V6_12, V7_3], ids=lambda profile: profile.name)
"""Runs a test under the two profiles that records of real kernels witness."""

DRIVER_CALLS = (
    events.DomainAllocated,
    events.DomainFreed,
    events.PasidSet,
    events.PasidRemoved,
    events.PasidBlocked,
    events.RidAttached,
    events.PageResponded,
)


class Rig:
    """One kernel, its mock IOMMUs, and what its observers saw: rules in `decided`, all other events in `seen`."""

    def __init__(
        self,
        profile: Profile = V7_3,
        scheme: Scheme | None = None,
        *,
        arch: Arch = Arch.ARM64,
        driver: type[MockDriver] = MockDriver,
    ) -> None:
        self.kernel = Kernel(scheme or Mainline(), profile, arch)
        self.driver = driver(self.kernel)
        self.seen: list[events.Event] = []
        self.decided: list[str] = []
        self.kernel.observers.append(self._observe)
        self.smmu = self.iommu("smmu")
        self.tasks = 0

    # --- building ----------------------------------------------------------------------------------------------

    def iommu(self, name: str, max_pasids: int = 1 << 20, mode: Mode = Mode.USUAL, **how: bool) -> IommuDevice:
        """Make an IOMMU instance."""
        return self.driver.instance(name, max_pasids, mode, **how)

    def device(
        self, name: str, bits: int | None, group: IommuGroup | None = None, iommu: IommuDevice | None = None
    ) -> Device:
        """Make a platform device with `bits` PASID bits (None: the property is absent), behind the first IOMMU."""
        return self.probe(Device(self.kernel, name, pasid_num_bits=bits), group, iommu)

    def probe(self, dev: Device, group: IommuGroup | None = None, iommu: IommuDevice | None = None) -> Device:
        """Put a device behind an IOMMU, in a group of its own unless one is given."""
        iommu_probe_device(dev, iommu or self.smmu, group or IommuGroup(f"group of {dev.name}"))
        self.driver.probe_device(dev)
        return dev

    def mm(self, name: str, user: str = "root") -> MmStruct:
        """Make an address space with one user."""
        return MmStruct(self.kernel, name, user)

    def process(self, name: str) -> Task:
        """Make a process with a writable and a read-only area."""
        self.tasks += 1
        task = Task(self.kernel, name, self.mm(name), self.tasks)
        task.mm.vmas += [Vma(DATA, 4 * PAGE, READ | WRITE), Vma(READ_ONLY, 4 * PAGE, READ)]
        return task

    def domain(self, dev: Device) -> IommuDomain:
        """Make a domain for kernel-managed DMA."""
        return self.driver.domain_alloc_paging(dev)

    def attach(self, dev: Device, pasid: int, handle: AttachHandle | None = None) -> Refusal | None:
        """Attach a fresh kernel-managed domain."""
        return iommu_attach_device_pasid(self.domain(dev), dev, pasid, handle)

    def hold(self, *numbers: int) -> None:
        """Let other modules take these numbers, which are the lowest free ones, out of the global space."""
        module = Device(self.kernel, "module", pasid_num_bits=20)
        self.probe(module)
        for number in numbers:
            assert iommu_alloc_global_pasid(module) == number
            self.kernel.global_users[number] = "module"

    # --- looking -----------------------------------------------------------------------------------------------

    def _observe(self, event: events.Event) -> None:
        if isinstance(event, events.Decided):
            rule_by_id(event.rule).sentence(event.facts)  # raises KeyError when a fact is missing
            self.decided.append(event.rule)
        else:
            self.seen.append(event)

    def forget(self) -> None:
        """Look only at what comes from now on."""
        self.seen.clear()
        self.decided.clear()

    def calls(self) -> list[events.Event]:
        """Return what the IOMMU driver was asked since the last look."""
        found = [event for event in self.seen if isinstance(event, DRIVER_CALLS)]
        self.forget()
        return found

    def rules(self, subject: str) -> list[str]:
        """Return the rules of a subject, such as "bind", that were reported as events since the last look."""
        found = [rule for rule in self.decided if rule.startswith(f"{subject}.")]
        self.forget()
        return found

    def cleared(self, dev: str, pasid: int, domain: int) -> events.Event:
        """Return the call that takes a domain off a PASID in this kernel."""
        if self.kernel.profile.detach_through_blocked_domain:
            return events.PasidBlocked(dev, pasid, domain)
        return events.PasidRemoved(dev, pasid, domain)

    @property
    def held(self) -> list[int]:
        """The held numbers of the global space."""
        return list(self.kernel.iommu_global_pasid_ida)

    @property
    def holders(self) -> dict[int, str]:
        """Who holds each number of the global space."""
        return dict(self.kernel.holders())


def programmed(dev: str, pasid: int, domain: int, errno: Errno | None = None) -> events.PasidSet:
    """Return the call that puts a domain on a PASID where none was."""
    return events.PasidSet(dev, pasid, domain, errno, None)


def refused(outcome: object, errno: Errno, rule: str) -> str:
    """Check that a call was refused with this errno by this rule; return its sentence."""
    if not isinstance(outcome, Refusal):
        raise AssertionError(f"not refused: {outcome!r}")
    if (outcome.errno, outcome.rule.id) != (errno, rule):
        raise AssertionError(f"{outcome!r}, expected {errno.name} by {rule}")
    return outcome.why


def bound(outcome: object) -> IommuSva:
    """Check that a bind succeeded; return its bond."""
    if not isinstance(outcome, IommuSva):
        raise AssertionError(f"not bound: {outcome!r} {outcome.why if isinstance(outcome, Refusal) else ''}")
    return outcome


def signalled(outcome: object, signal: Signal, rule: str) -> str:
    """Check that an instruction ended in this signal by this rule; return its sentence."""
    if not isinstance(outcome, Signalled):
        raise AssertionError(f"no signal: {outcome!r}")
    if (outcome.signal, outcome.rule.id) != (signal, rule):
        raise AssertionError(f"{outcome!r}, expected {signal} by {rule}")
    return outcome.why

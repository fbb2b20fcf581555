"""A machine with VT-d units whose driver's invalidations go through a wire: dropped, held back, or watched.

Descriptors are told apart by their type and by the driver's and the kernel's functions that are on the stack.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Access, Work
from pasidlab.drivers.intel import cache, prq, qi
from pasidlab.drivers.intel.driver import IntelDriver
from pasidlab.drivers.intel.structs import DeviceDomainInfo, IntelIommu
from pasidlab.hw.atc import Atc
from pasidlab.hw.vtd.descriptors import Descriptor, DescriptorType, InvalidationWait
from pasidlab.hw.vtd.port import DmaPort
from pasidlab.hw.vtd.registers import EventControl, Offset
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.schemes import Options

DATA, READ_ONLY, CODE, HOLE = 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000
"""Where a process has its areas: read-write, read-only, executable; and where it has none."""
UNIT = "vtd0"
OLD, V7_3 = "v6.12.0", "v7.3"
"""6.12.117 refuses SVA on x86; 6.12.0 does not."""
BOTH = (OLD, V7_3)
ALL_SCHEMES = ("mainline", "rfc", "v2", "hybrid")


def acc(name: str = "acc0", **how: Any) -> DeviceSpec:
    """Return a device with ATS and page requests, whose driver has numbers of its own where a scheme knows them."""
    return DeviceSpec(name, UNIT, **({"pasid_bits": 8, "pasids": "local"} | how))


def dsa(name: str = "dsa0", **how: Any) -> DeviceSpec:
    return DeviceSpec(name, UNIT, kind="dsa", pasid_bits=8, kernel_pasid=False, **how)


class VtdMachine(Machine):
    """A machine with one unit; the hybrid scheme is the default, since under it a driver can use a number again."""

    def __init__(
        self,
        *devices: DeviceSpec,
        kernel: str = V7_3,
        scheme: str = "hybrid",
        processes: str = "a b",
        options: dict[str, Any] | None = None,
        **unit: Any,
    ) -> None:
        spec = MachineSpec(
            kernel=kernel,
            options=Options(**(options or {})),
            iommu=[IommuSpec(UNIT, model="intel-vtd", per_device_pasid_space=True, **unit)],
            device=list(devices),
            process=[ProcessSpec(name) for name in processes.split()],
        )
        super().__init__(spec, scheme)

    # --- parts -------------------------------------------------------------------------------------------------

    @property
    def driver(self) -> IntelDriver:
        return self.parts.vtds

    @property
    def unit(self) -> RemappingUnit:
        return self.driver.instances[self.iommus[UNIT]].hw

    @property
    def iommu(self) -> IntelIommu:
        return self.driver.instances[self.iommus[UNIT]].iommu

    def dev(self, device: str = "acc0") -> Device:
        return self.endpoints[device].dev

    def info(self, device: str = "acc0") -> DeviceDomainInfo:
        return self.driver.infos[self.dev(device)]

    def port(self, device: str = "acc0") -> DmaPort:
        return self.driver.ports[self.dev(device)]

    def atc(self, device: str = "acc0") -> Atc:
        return self.port(device).atc

    def mm(self, process: str) -> MmStruct:
        mm = self.processes[process].mm
        assert mm is not None
        return mm

    # --- doing -------------------------------------------------------------------------------------------------

    def write(self, pasid: int, address: int = DATA, data: bytes = b"work", device: str = "acc0") -> Outcome:
        return self.dma(device, pasid, Work(Access.WRITE, address, data))

    def read(self, pasid: int, address: int = DATA, size: int = 4, device: str = "acc0") -> Outcome:
        return self.dma(device, pasid, Work(Access.READ, address, size=size))

    def raw(self, pasid: int | None, address: int = DATA, device: str = "acc0") -> Any:
        """Write without asking for pages."""
        return self.port(device).transfer(pasid, address, b"raw", 3, page_requests=False)

    def ask(self, pasid: int, address: int = DATA, device: str = "acc0") -> int:
        """Send a page request, and return its index."""
        port = self.port(device)
        index = port.request_page(Request(port.source_id, pasid, address))
        assert index is not None
        return index

    def mask(self, masked: bool) -> None:
        """Keep the thread of the page request queue from running, as when it has not come to its turn yet."""
        self.unit.mmio_write(Offset.PECTL, EventControl(im=masked), 4)

    def hold(self, held: bool) -> None:
        """Hold page requests up on their way, as in a root port."""
        self.unit.page_requests.hold = held


class HarmError(AssertionError):
    """Something is reached that must not be, or not reached that must."""


def expect(condition: object, what: str) -> None:
    if not condition:
        raise HarmError(what)


def refused(m: VtdMachine, pasid: int, address: int = DATA, device: str = "acc0") -> None:
    """No access of (device, PASID) reaches anything."""
    for outcome in (m.write(pasid, address, device=device), m.read(pasid, address, device=device)):
        expect(outcome.result == "fault", f"{device} reached {outcome.work}")


def owned(outcome: Outcome, process: str) -> None:
    """An access reached the memory of that process."""
    owner = outcome.work.owner if outcome.work else outcome.result
    expect(owner == process, f"{process}'s device reached {owner}")


# --- the wire ------------------------------------------------------------------------------------------------


def callers() -> tuple[str, ...]:
    """The driver's and the kernel's functions on the stack, the innermost first."""
    names = []
    frame = sys._getframe(2)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in ("drivers/intel", "pasidlab/linux")):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return tuple(names)


Picks = Callable[[Descriptor, tuple[str, ...]], bool]


def no_descriptor(descriptor: Descriptor, names: tuple[str, ...]) -> bool:
    return False


@dataclass
class Wire:
    """Stands where descriptors are submitted: drops or delays some, notes all, lets a device try in between.

    Attributes:
        drop: picks what is left out.
        late: picks what is submitted only after the next descriptor.
        drains: whether wait descriptors drain page requests.
        seen, dropped: descriptors with the functions that they come from.
        between: called after each descriptor.
    """

    drop: Picks = no_descriptor
    late: Picks = no_descriptor
    drains: bool = True
    seen: list[tuple[Descriptor, tuple[str, ...]]] = field(default_factory=list)
    dropped: list[Descriptor] = field(default_factory=list)
    between: Callable[[], object] | None = None
    _held: list[Descriptor] = field(default_factory=list)

    def submit(self, iommu: Any, descs: Sequence[Descriptor], *, drain: bool = False) -> object:
        names, kept = callers(), []
        for descriptor in descs:
            self.seen.append((descriptor, names))
            if self.drop(descriptor, names):
                self.dropped.append(descriptor)
            elif self.late(descriptor, names):
                self.dropped.append(descriptor)
                self._held.append(descriptor)
            else:
                kept += [descriptor, *self._held]
                self._held.clear()
        outcome = None
        for index in range(max(len(kept), 1)):
            last = index >= len(kept) - 1
            outcome = SUBMIT(iommu, kept[index : index + 1], drain=drain and last and self.drains)
            self._try()
        return outcome

    def _try(self) -> None:
        if self.between is not None:
            between, self.between = self.between, None
            between()
            self.between = between

    def told(self) -> list[str]:
        """The types of the descriptors that invalidate or answer, in order."""
        return [DescriptorType(desc.type).name for desc, _ in self.seen if not isinstance(desc, InvalidationWait)]


SUBMIT = qi.qi_submit_sync


@contextmanager
def wired(wire: Wire) -> Iterator[Wire]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (qi, cache, prq):
            patch.setattr(module, "qi_submit_sync", wire.submit)
        yield wire

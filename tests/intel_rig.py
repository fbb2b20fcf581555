"""A kernel with VT-d units and its driver, looked at through memory and registers: tables, and descriptors queued."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pasidlab import events
from pasidlab.drivers.hardware import Moved
from pasidlab.drivers.intel.driver import DeviceTraits, IntelDriver
from pasidlab.errors import Errno
from pasidlab.hw.vtd.descriptors import (
    Descriptor,
    DescriptorType,
    DeviceTlbInvalidate,
    InvalidationWait,
    IotlbInvalidate,
    PageGroupResponse,
    PasidCacheInvalidate,
    PasidDeviceTlbInvalidate,
    PasidIotlbInvalidate,
    descriptor_of,
    sized_range,
)
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.port import DmaPort
from pasidlab.hw.vtd.registers import REGISTERS, Offset
from pasidlab.hw.vtd.structures import PasidDirectoryEntry, PasidEntry, ScalableContextEntry
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.linux import iommu as core
from pasidlab.linux.iopf import Fault
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.mm import MmStruct, process_memory
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.linux.profiles import V7_3, Profile
from pasidlab.linux.structs import Device, IommuDevice, IommuGroup
from pasidlab.linux.sva import IommuSva
from pasidlab.rules import Faulted, Refusal
from pasidlab.schemes import Mainline, Scheme

DATA, READ_ONLY, NOTHING, HOLE = 0x1000_0000, 0x2000_0000, 0x5000_0000, 0x4000_0000
"""Where a process has its areas: read-write, read-only, without rights; and where it has none."""
SID = 0x6A01
FOUR_LEVELS = Features(five_level=False, second_levels=frozenset({3, 4}), guest_bits=48)
"""A unit whose tables have 4 levels at the most."""


class IntelRig:
    """One kernel; units and devices are added as a test needs them. Descriptors are read where the last look ended."""

    def __init__(
        self, profile: Profile = V7_3, *, levels: int = 4, arch: Arch = Arch.UM, scheme: Scheme | None = None
    ) -> None:
        self.kernel = Kernel(scheme or Mainline(), profile, arch, pgtable=X86PageTables(levels))
        self.driver = IntelDriver(self.kernel)
        self.seen: list[events.Event] = []
        self.kernel.observers.append(self.seen.append)
        self._read: dict[str, int] = {}

    # --- parts -------------------------------------------------------------------------------------------------

    def unit(self, name: str = "dmar0", features: Features = FOUR_LEVELS, **how: Any) -> IommuDevice:
        made = self.driver.instance(name, features, how.pop("max_pasids", None), per_device=True, **how)
        self.forget(made)
        return made

    def device(
        self,
        name: str = "dsa0",
        unit: IommuDevice | None = None,
        *,
        bits: int | None = 20,
        pci: bool = True,
        group: IommuGroup | None = None,
        source_id: int = SID,
        pasid_enabled: bool = True,
        **traits: Any,
    ) -> Device:
        width = bits if pci else None
        dev = Device(
            self.kernel, name, pci=pci, pci_pasid_width=width, pasid_num_bits=bits, pasid_fails=not pasid_enabled
        )
        core.iommu_probe_device(dev, unit or self.unit(), group or IommuGroup(name))
        self.driver.describe(dev, DeviceTraits(source_id=source_id, **traits))
        self.driver.probe_device(dev)
        return dev

    def mm(self, name: str = "a") -> MmStruct:
        mm = MmStruct(self.kernel, name)
        mm.vmas = process_memory(name.encode())
        return mm

    def hw(self, dev: Device) -> RemappingUnit:
        assert dev.iommu is not None
        return self.driver.instances[dev.iommu].hw

    def port(self, dev: Device) -> DmaPort:
        return self.driver.ports[dev]

    # --- doing -------------------------------------------------------------------------------------------------

    def bind(self, dev: Device, mm: MmStruct) -> IommuSva:
        handle = self.kernel.scheme.bind_device(dev, mm)
        assert isinstance(handle, IommuSva), handle
        return handle

    def refused(self, dev: Device, mm: MmStruct) -> tuple[Errno, str]:
        refusal = self.kernel.scheme.bind_device(dev, mm)
        assert isinstance(refusal, Refusal)
        return refusal.errno, refusal.rule.id

    def unbind(self, handle: IommuSva) -> None:
        self.kernel.scheme.unbind_device(handle)

    def pasid(self, handle: IommuSva) -> int:
        return self.kernel.scheme.get_pasid(handle)

    def write(self, dev: Device, pasid: int | None, address: int = DATA, data: bytes = b"work", **how: Any) -> str:
        """Return whose memory was written, or the rule that blocked the write."""
        return self._told(self.driver.access(dev, pasid, address, data, len(data), **how))

    def read(self, dev: Device, pasid: int | None, address: int = DATA, size: int = 4, **how: Any) -> str:
        return self._told(self.driver.access(dev, pasid, address, None, size, **how))

    def _told(self, outcome: Moved | Faulted) -> str:
        return outcome.owner if isinstance(outcome, Moved) else outcome.rule.id

    def report(self, dev: Device, pasid: int | None, address: int = DATA, perm: int = 1, **how: Any) -> Refusal | None:
        fault = Fault(pasid, address, perm, last=how.get("last", True), grpid=how.get("grpid", 3))
        return self.driver.report(dev, fault)

    # --- looking -----------------------------------------------------------------------------------------------

    def register(self, dev: Device | IommuDevice, offset: Offset) -> Any:
        iommu = dev.iommu if isinstance(dev, Device) else dev
        assert iommu is not None
        word = REGISTERS[offset]
        return word(self.driver.instances[iommu].hw.mmio_read(offset, word.SIZE // 8))

    def forget(self, unit: Device | IommuDevice) -> None:
        """Look only at descriptors that come from now on."""
        iommu = unit.iommu if isinstance(unit, Device) else unit
        assert iommu is not None
        self._read[iommu.name] = self.register(iommu, Offset.IQT).qt

    def descriptors(self, unit: Device | IommuDevice) -> list[Descriptor]:
        """Return the descriptors since the last look, wait descriptors at the ends left out."""
        iommu = unit.iommu if isinstance(unit, Device) else unit
        assert iommu is not None
        iqa, tail = self.register(iommu, Offset.IQA), self.register(iommu, Offset.IQT).qt
        assert self.register(iommu, Offset.IQH).qh == tail, "the queue is not empty"
        step, size = (32 if iqa.dw else 16), 4096 << iqa.qs
        at, found = self._read[iommu.name], []
        while at != tail:
            found.append(descriptor_of(self.load(iqa.iqa + at, step)))
            at = (at + step) % size
        self._read[iommu.name] = tail
        return found

    def load(self, address: int, size: int) -> int:
        data = self.kernel.memory.load(address, size)
        assert data is not None
        return int.from_bytes(data, "little")

    def context(self, dev: Device, source_id: int = SID) -> ScalableContextEntry:
        """Return a scalable context entry, found as hardware finds it."""
        root = self.register(dev, Offset.RTADDR).rta
        half = self.load(root + 16 * (source_id >> 8) + 8 * (source_id >> 7 & 1), 8)
        assert half & 1
        return ScalableContextEntry(self.load((half & -4096) + 32 * (source_id & 0x7F), 32))

    def entry(self, dev: Device, pasid: int, source_id: int = SID) -> PasidEntry:
        """Return a PASID entry, found as hardware finds it; an empty one where there is no table."""
        context = self.context(dev, source_id)
        assert pasid >> 6 < 1 << context.pdts + 7
        directory = PasidDirectoryEntry(self.load(context.pasiddirptr + 8 * (pasid >> 6), 8))
        return PasidEntry(self.load(directory.smptblptr + 64 * (pasid & 63), 64)) if directory.p else PasidEntry()

    def events(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def findings(self) -> list[str]:
        return [finding.why for finding in self.kernel.findings]


def told(descriptors: Iterable[Descriptor]) -> list[str]:
    """Say descriptors in short; a wait descriptor with a status is `;` behind what it waits for."""
    lines: list[str] = []
    for descriptor in descriptors:
        if isinstance(descriptor, InvalidationWait) and descriptor.sw:
            lines[-1] += "; drain" if descriptor.pd else ";"
        else:
            lines.append(_told(descriptor))
    return lines


def _told(descriptor: Descriptor) -> str:
    name = DescriptorType(descriptor.type).name
    match descriptor:
        case InvalidationWait():
            return "WAIT fence" if descriptor.fn else "WAIT"
        case PasidCacheInvalidate():
            return f"{name} {descriptor.did}/{descriptor.pasid}"
        case PasidIotlbInvalidate():
            pages = "all" if descriptor.g == 2 else f"{descriptor.addr:#x}+{1 << descriptor.am}"
            return f"{name} {descriptor.did}/{descriptor.pasid} {pages}"
        case IotlbInvalidate():
            pages = f" {descriptor.addr:#x}+{1 << descriptor.am}" if descriptor.g == 3 else ""
            return f"{name} {descriptor.g.name} {descriptor.did}{pages}"
        case DeviceTlbInvalidate():
            return f"{name} {descriptor.sid:#x} {_pages(descriptor)}"
        case PasidDeviceTlbInvalidate():
            return f"{name} {descriptor.sid:#x}/{descriptor.pasid} {_pages(descriptor)}"
        case PageGroupResponse():
            return f"{name} {descriptor.rid:#x}/{descriptor.pasid} {descriptor.prgi} code {descriptor.rc}"
    return name


def _pages(descriptor: DeviceTlbInvalidate | PasidDeviceTlbInvalidate) -> str:
    first, size = sized_range(descriptor.addr, descriptor.s)
    return "all" if size is None else f"{first:#x}+{size >> 12}"

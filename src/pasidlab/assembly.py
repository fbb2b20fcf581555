"""Put the hardware of a machine together from its description: kernel, IOMMUs, groups, devices and their drivers."""

from __future__ import annotations

from dataclasses import dataclass, field

from pasidlab.description import PAGE_SHIFTS, SID_BITS, DeviceSpec, IommuSpec, MachineSpec, operating_system, streams_of
from pasidlab.devices import Endpoint, Idxd, Narrow, PcieEndpoint
from pasidlab.devices.endpoint import PORTALS
from pasidlab.drivers.arm_smmu_v3.driver import ArmSmmuDriver, DeviceTraits
from pasidlab.drivers.hardware import Hardware, IommuDriver
from pasidlab.drivers.mock import MockDriver
from pasidlab.hw.smmuv3.features import GRANULES, Features, StallModel
from pasidlab.linux.iommu import iommu_probe_device
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.pgtable import PageTables
from pasidlab.linux.pgtable_arm64 import Arm64PageTables
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.linux.profiles import profile
from pasidlab.linux.structs import Device, IommuDevice, IommuGroup
from pasidlab.linux.traps import Arm64Os, X86Os
from pasidlab.rules import Rule
from pasidlab.schemes import Scheme

X86_SMMU = Rule(
    "machine.x86-smmu",
    "the scenario",
    "an IOMMU of model arm-smmu-v3, and x86 CPUs",
    "no x86 machine has an Arm SMMUv3: this one is made up, to see the same steps on real tables",
)


@dataclass(slots=True, eq=False, repr=False)
class Assembly:
    """The parts of a machine, by the names of the description.

    Attributes:
        mock: the driver of the mock IOMMUs, and of a device behind none, which reaches nothing.
        smmus: the driver of the Arm SMMUv3s.
        drivers: the driver of each IOMMU.
    """

    kernel: Kernel
    os: X86Os | Arm64Os
    mock: MockDriver
    smmus: ArmSmmuDriver
    drivers: dict[IommuDevice, IommuDriver] = field(default_factory=dict)
    iommus: dict[str, IommuDevice] = field(default_factory=dict)
    groups: dict[str, IommuGroup] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def driver_of(self, dev: Device) -> IommuDriver:
        """Return the driver of the IOMMU in front of a device."""
        return self.mock if dev.iommu is None else self.drivers[dev.iommu]


def assemble(spec: MachineSpec, scheme: Scheme) -> Assembly:
    """Build everything but the processes; devices are probed in the order of the description.

    `spec` has been checked. Raises InputError for an unknown kernel profile or switch.
    """
    os = operating_system(spec)
    switched = profile(spec.kernel).with_switches(dict(spec.switches))
    arch = Arch.X86 if isinstance(os, X86Os) else Arch.ARM64
    page_shift = PAGE_SHIFTS[spec.cpu.page_size]
    kernel = Kernel(scheme, switched, arch, page_shift=page_shift, pgtable=_page_tables(spec, arch, page_shift))
    kernel.enqcmd_like = os.enqcmd_like
    kernel.force_tagged_sva = spec.cpu.force_tagged_sva
    parts = Assembly(kernel, os, MockDriver(kernel), ArmSmmuDriver(kernel))
    for iommu in spec.iommu:
        mock = iommu.model == "mock"
        made = _make_mock(parts.mock, iommu) if mock else _make_smmu(parts.smmus, iommu)
        parts.iommus[iommu.name] = made
        parts.drivers[made] = parts.mock if mock else parts.smmus
    if parts.smmus.instances and arch is Arch.X86:
        kernel.found(X86_SMMU)
    streams = streams_of(spec)
    for device in spec.device:
        parts.endpoints[device.name] = _make_endpoint(parts, device, streams.get(device.name, ()))
    return parts


def _page_tables(spec: MachineSpec, arch: Arch, page_shift: int) -> PageTables:
    """Return what page tables the kernel has: those that its IOMMUs can walk, else those of its CPUs."""
    if arch is not Arch.X86 or any(iommu.model == "arm-smmu-v3" for iommu in spec.iommu):
        return Arm64PageTables(page_shift)
    return X86PageTables()


def _make_smmu(driver: ArmSmmuDriver, spec: IommuSpec) -> IommuDevice:
    features = Features(
        ssid_bits=spec.substream_bits,
        sid_bits=SID_BITS if spec.sid_bits is None else spec.sid_bits,
        two_level_streams=spec.two_level is not False,
        two_level_cds=spec.two_level is not False,
        stall_model=StallModel.TERMINATE_ONLY if spec.stall is False else StallModel.STALL_AND_TERMINATE,
        ats=bool(spec.ats),
        pri=bool(spec.pri),
        granules=GRANULES if spec.granule is None else frozenset({PAGE_SHIFTS[spec.granule]}),
        httu=spec.httu or 0,
        coherent=spec.sva,
    )
    caches = spec.caches is not False
    return driver.instance(spec.name, features, spec.max_pasids, per_device=spec.per_device_pasid_space, caches=caches)


def _make_mock(driver: MockDriver, spec: IommuSpec) -> IommuDevice:
    computed = driver.max_pasids(spec.ops, spec.pasid_bits)
    bound = computed if spec.max_pasids is None else spec.max_pasids
    return driver.instance(spec.name, bound, spec.ops, per_device=spec.per_device_pasid_space, sva=spec.sva)


def _make_endpoint(parts: Assembly, spec: DeviceSpec, streams: tuple[int, ...]) -> Endpoint:
    pci = spec.kind != "narrow"
    dev = Device(
        parts.kernel,
        spec.name,
        pci=pci,
        pasid_num_bits=None if pci else spec.pasid_bits,
        pci_pasid_width=spec.pasid_bits if pci else None,
        physfn=parts.endpoints[spec.physfn].dev if spec.physfn else None,
        enqcmd_bar=spec.submits in PORTALS,
        owns_pasids=spec.pasids == "local",
    )
    if spec.iommu is not None:
        group = parts.groups.setdefault(spec.group or f"{spec.name} alone", IommuGroup(spec.group or spec.name))
        iommu_probe_device(dev, parts.iommus[spec.iommu], group)
        if streams:
            parts.smmus.describe(dev, _smmu_traits(spec, streams, pci))
        parts.driver_of(dev).probe_device(dev)
    endpoint = _endpoint_of_kind(spec, dev, parts.driver_of(dev))
    endpoint.probe()
    return endpoint


def _smmu_traits(spec: DeviceSpec, streams: tuple[int, ...], pci: bool) -> DeviceTraits:
    ats = pci if spec.ats is None else spec.ats
    return DeviceTraits(
        streams=streams,
        can_stall=spec.can_stall,
        ats=ats,
        pasid_enabled=spec.pasid_enabled is not False,
        default_domain=spec.default_domain or "dma",
    )


def _endpoint_of_kind(spec: DeviceSpec, dev: Device, hardware: Hardware) -> Endpoint:
    if spec.is_idxd:
        queue, kernel_pasid = spec.queue or "shared", spec.kernel_pasid is not False
        analytics = spec.kind == "iaa"
        return Idxd(
            dev,
            hardware,
            spec.submits,
            spec.sloppy,
            queue=queue,
            takes_kernel_pasid=kernel_pasid,
            analytics=analytics,
        )
    kind = Narrow if spec.kind == "narrow" else PcieEndpoint
    return kind(dev, hardware, spec.submits, spec.sloppy)

"""Put the hardware of a machine together from its description: kernel, IOMMUs, groups, devices and their drivers."""

from __future__ import annotations

from dataclasses import dataclass, field

from pasidlab.description import (
    ARM_SMMU_V3,
    INTEL_VTD,
    PAGE_SHIFTS,
    SID_BITS,
    DeviceSpec,
    IommuSpec,
    MachineSpec,
    not_built,
    operating_system,
    sources_of,
    streams_of,
)
from pasidlab.devices import Endpoint, Idxd, Narrow, PcieEndpoint
from pasidlab.devices.endpoint import PORTALS
from pasidlab.drivers.arm_smmu_v3.driver import ArmSmmuDriver
from pasidlab.drivers.arm_smmu_v3.driver import DeviceTraits as StreamTraits
from pasidlab.drivers.hardware import Hardware, IommuDriver
from pasidlab.drivers.intel.driver import DeviceTraits as SourceTraits
from pasidlab.drivers.intel.driver import IntelDriver
from pasidlab.drivers.mock import MockDriver
from pasidlab.drivers.mock_caches import DETACH_STEPS
from pasidlab.hw.smmuv3.features import GRANULES, StallModel
from pasidlab.hw.smmuv3.features import Features as SmmuFeatures
from pasidlab.hw.vtd.features import Features as VtdFeatures
from pasidlab.linux.iommu import iommu_probe_device
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.pci_ats import pci_pasid_enabled
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
ARM64_VTD = Rule(
    "machine.arm64-vtd",
    "the scenario",
    "an IOMMU of model intel-vtd, and arm64 CPUs",
    "no arm64 machine has an Intel VT-d unit: this one is made up, with x86 page tables, to see the same steps on them",
)
PLATFORM_VTD = Rule(
    "machine.platform-vtd",
    "the scenario",
    "a device of kind narrow behind an intel-vtd",
    "Linux gives a PASID behind VT-d to PCIe functions only: {dev} is taken for one with ATS and page requests",
)


@dataclass(slots=True, eq=False, repr=False)
class Assembly:
    """The parts of a machine, by the names of the description.

    Attributes:
        mock: the driver of the mock IOMMUs, and of a device behind none, which reaches nothing.
        smmus, vtds: the drivers of the Arm SMMUv3s and of the Intel VT-d units.
        drivers: the driver of each IOMMU.
    """

    kernel: Kernel
    os: X86Os | Arm64Os
    mock: MockDriver
    smmus: ArmSmmuDriver
    vtds: IntelDriver
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
    kernel.not_built = not_built(spec)
    parts = Assembly(kernel, os, MockDriver(kernel), ArmSmmuDriver(kernel), IntelDriver(kernel))
    for iommu in spec.iommu:
        _add_iommu(parts, iommu)
    if parts.smmus.instances and arch is Arch.X86:
        kernel.found(X86_SMMU)
    if parts.vtds.instances and arch is not Arch.X86:
        kernel.found(ARM64_VTD)
    streams, sources = streams_of(spec), sources_of(spec)
    for device in spec.device:
        dev = _make_device(parts, device)
        if device.name in streams:
            parts.smmus.describe(dev, _stream_traits(device, streams[device.name], dev))
        if device.name in sources:
            _describe_source(parts, dev, device, sources[device.name])
        parts.endpoints[device.name] = _make_endpoint(parts, device, dev)
    return parts


def _page_tables(spec: MachineSpec, arch: Arch, page_shift: int) -> PageTables:
    """Return what page tables the kernel has: those that its IOMMUs can walk, else those of its CPUs."""
    models = {iommu.model for iommu in spec.iommu}
    if INTEL_VTD in models or (arch is Arch.X86 and ARM_SMMU_V3 not in models):
        return X86PageTables(levels=5 if spec.cpu.la57 else 4)
    return Arm64PageTables(page_shift)


def _add_iommu(parts: Assembly, spec: IommuSpec) -> None:
    driver: IommuDriver
    if spec.model == ARM_SMMU_V3:
        driver, made = parts.smmus, _make_smmu(parts.smmus, spec)
    elif spec.model == INTEL_VTD:
        driver, made = parts.vtds, _make_vtd(parts.vtds, spec)
    else:
        driver, made = parts.mock, _make_mock(parts.mock, spec)
    parts.iommus[spec.name], parts.drivers[made] = made, driver


def _make_smmu(driver: ArmSmmuDriver, spec: IommuSpec) -> IommuDevice:
    features = SmmuFeatures(
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
    return driver.instance(
        spec.name,
        features,
        spec.max_pasids,
        per_device=spec.per_device_pasid_space,
        caches=caches,
        detach=spec.detach,
    )


def _make_vtd(driver: IntelDriver, spec: IommuSpec) -> IommuDevice:
    ats = spec.ats is not False
    features = VtdFeatures(
        pasid_bits=spec.pasid_bits,
        scalable=spec.scalable is not False,
        five_level=spec.five_level is not False,
        first_1g=spec.first_1g is not False,
        caching_mode=bool(spec.caching_mode),
        device_tlb=ats,
        page_requests=ats and spec.pri is not False,
        coherent=spec.sva,
    )
    caches = spec.caches is not False
    return driver.instance(spec.name, features, spec.max_pasids, per_device=spec.per_device_pasid_space, caches=caches)


def _make_mock(driver: MockDriver, spec: IommuSpec) -> IommuDevice:
    computed = driver.max_pasids(spec.ops, spec.pasid_bits)
    bound = computed if spec.max_pasids is None else spec.max_pasids
    detach = (spec.detach or DETACH_STEPS) if spec.caches else ()
    return driver.instance(
        spec.name, bound, spec.ops, per_device=spec.per_device_pasid_space, sva=spec.sva, detach=detach
    )


def _make_device(parts: Assembly, spec: DeviceSpec) -> Device:
    """Return the kernel's view of a device, in its group behind its IOMMU, whose driver has not met it yet."""
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
        prefix_path=spec.prefix_path is not False or spec.pasid_enabled is True,
        acs_path=spec.acs_path is not False or spec.pasid_enabled is True,
        pasid_fails=spec.pasid_enabled is False,
        pasid_required=spec.prg_pasid is not False,
    )
    if spec.iommu is not None:
        group = parts.groups.setdefault(spec.group or f"{spec.name} alone", IommuGroup(spec.group or spec.name))
        iommu_probe_device(dev, parts.iommus[spec.iommu], group)
    return dev


def _stream_traits(spec: DeviceSpec, streams: tuple[int, ...], dev: Device) -> StreamTraits:
    ats = dev.pci if spec.ats is None else spec.ats
    return StreamTraits(
        streams=streams,
        can_stall=spec.can_stall,
        ats=ats and "PCI_ATS" not in dev.kernel.not_built,
        default_domain=spec.default_domain or "dma",
    )


def _describe_source(parts: Assembly, dev: Device, spec: DeviceSpec, source_id: int) -> None:
    """Describe a device behind a VT-d unit, where each is a PCIe function."""
    if not dev.pci:
        parts.kernel.found(PLATFORM_VTD, dev=dev.name)
    ats = spec.ats is not False and "PCI_ATS" not in parts.kernel.not_built
    traits = SourceTraits(
        source_id=source_id,
        ats=ats,
        pri=ats and spec.pri is not False,
        default_domain=spec.default_domain or "dma",
    )
    parts.vtds.describe(dev, traits)


def _make_endpoint(parts: Assembly, spec: DeviceSpec, dev: Device) -> Endpoint:
    """Let the IOMMU's driver meet a device, then the device's own."""
    driver = parts.driver_of(dev)
    if spec.iommu is not None:
        driver.probe_device(dev)
    endpoint = _endpoint_of_kind(spec, dev, driver)
    endpoint.probe()
    return endpoint


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
            pasid_enabled=pci_pasid_enabled(dev),
        )
    kind = Narrow if spec.kind == "narrow" else PcieEndpoint
    return kind(dev, hardware, spec.submits, spec.sloppy)

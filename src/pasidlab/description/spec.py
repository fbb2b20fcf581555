"""What a machine is made of, as a scenario file describes it: CPUs, IOMMUs, devices, processes, options."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from pasidlab.devices import SubmitBy
from pasidlab.drivers.hardware import FREED
from pasidlab.drivers.traits import Mode
from pasidlab.hw.cpu import Arm64Cpu, X86Cpu
from pasidlab.linux.profiles import DEFAULT_PROFILE
from pasidlab.linux.task import INIT_PIDNS
from pasidlab.linux.traps import Arm64Os, X86Os
from pasidlab.schemes import Options

Name = Annotated[
    str,
    Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$", description="text without control characters"),
]
KERNEL, NOBODY = "kernel", "nobody"
RESERVED_NAMES = (KERNEL, NOBODY, FREED)
"""What `expect_work` calls memory that is no process's."""
StreamId = Annotated[int, Meta(ge=0, lt=1 << 24)]
SourceId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]$",
        description="bus:device.function, as 6a:01.0; device 00 to 1f, function 0 to 7",
    ),
]
PageSize = Literal[4096, 16384, 65536, "4K", "16K", "64K"]
PAGE_SHIFTS: dict[int | str, int] = {4096: 12, 16384: 14, 65536: 16, "4K": 12, "16K": 14, "64K": 16}
"""log2 of each page size, in bytes or as kernels call it."""
PasidBits = Annotated[int, Meta(ge=0, le=20)]
RuleId = Annotated[
    str,
    Meta(
        max_length=80,
        pattern=r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)+$",
        description="the id of a rule, as import.width-assumed",
    ),
]
Line = Annotated[str, Meta(max_length=65536, pattern=r"^[^\x00-\x1f\x7f]*$", description="one line of text")]
DetachStep = Literal["table", "iotlb", "atc"]


class CpuSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The CPUs. `arch` None is x86 where a device takes ENQCMD or an IOMMU is Intel's, else arm64.

    Attributes:
        enqcmd, movdir64b: x86 features.
        ls64: ID_AA64ISAR1_EL1.LS64, 1 to 3 adding ST64BV and ST64BV0.
        accdata: `switched` is a future arm64 kernel that loads ACCDATA_EL1 per task; today's is `off`.
        st64bv: `trapped`, as Linux does; `enabled`, user space executes it; `emulated`, the kernel executes it for EL0.
        page_size: bytes of a page of the kernel; only an arm64 one has another than 4096.
        force_tagged_sva: processes asked for ARCH_FORCE_TAGGED_SVA, so that LAM does not exclude SVA.
        la57: x86 page tables of 5 levels, for addresses of 57 bits; a kernel booted with no5lvl has 4.
    """

    arch: Literal["x86", "arm64"] | None = None
    enqcmd: bool = True
    movdir64b: bool = True
    ls64: Annotated[int, Meta(ge=0, le=3)] = 1
    accdata: Literal["off", "switched"] = "off"
    st64bv: Literal["trapped", "enabled", "emulated"] = "trapped"
    page_size: PageSize = 4096
    force_tagged_sva: bool = False
    la57: bool = False


class IommuSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One IOMMU instance.

    Attributes:
        pasid_bits: width of the numbers it takes; `max_pasids`, one more than the largest, overrides it.
        per_device_pasid_space: IOMMU_CAP_PER_DEV_PASID_SPACE.
        sva: it can share page tables with the CPU.
        ops: of a mock, whose operations its driver has: the usual ones, those of a real driver, or with one missing.
        ssid_bits, sid_bits: of an arm-smmu-v3, SubstreamID bits (else pasid_bits) and StreamID bits (else 16).
        two_level: of an arm-smmu-v3, two-level stream and CD tables (else true).
        stall: of an arm-smmu-v3, its faults can stall (else true).
        granule: of an arm-smmu-v3, the only page size of its tables (else all three).
        httu: of an arm-smmu-v3, it updates tables: 1 access flags, 2 dirty state too (else 0).
        scalable: of an intel-vtd, scalable mode, without which it has no PASIDs (else true).
        five_level: of an intel-vtd, first-stage tables of 5 levels (else true).
        first_1g: of an intel-vtd, pages of 1 GiB in first-stage tables, which x86 CPUs have (else true).
        caching_mode: of an intel-vtd, it may cache what is not present (else false).
        ats, pri: of both, PCIe ATS and page requests (else true for an intel-vtd, false for an arm-smmu-v3).
        caches: of both, it keeps configuration and translations until they are invalidated (else true); of a mock, it
            and its PCIe devices keep which address space a PASID names (else false).
        detach: of a mock with caches and of an arm-smmu-v3, what its driver does to take an entry away, in order; what
            is left out is not done (else table, iotlb, atc; Linux's Arm driver exchanges the last two).
    """

    name: Name
    model: Literal["mock", "arm-smmu-v3", "intel-vtd"] = "mock"
    pasid_bits: PasidBits = 20
    max_pasids: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] | None = None
    per_device_pasid_space: bool = False
    sva: bool = True
    ops: Mode = Mode.USUAL
    ssid_bits: PasidBits | None = None
    sid_bits: Annotated[int, Meta(ge=0, le=24)] | None = None
    two_level: bool | None = None
    stall: bool | None = None
    granule: PageSize | None = None
    httu: Annotated[int, Meta(ge=0, le=2)] | None = None
    scalable: bool | None = None
    five_level: bool | None = None
    first_1g: bool | None = None
    caching_mode: bool | None = None
    ats: bool | None = None
    pri: bool | None = None
    caches: bool | None = None
    detach: list[DetachStep] | None = None

    @property
    def substream_bits(self) -> int:
        """The width of its numbers, by whichever key it is given."""
        return self.pasid_bits if self.ssid_bits is None else self.ssid_bits


class DeviceSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One device.

    Attributes:
        iommu: None is a device behind no IOMMU.
        group: devices that name the same group share it; None is a group of its own.
        pasid_bits: `pasid-num-bits` or the width of the PCI capability; None is no such property or capability.
        physfn: of a PCI virtual function, the device whose capability counts.
        submit: how a PASID reaches it; None is `enqcmd` for dsa and iaa, `register` for the others.
        pasids: `local`, its driver may own its PASIDs.
        sloppy: it believes the PASID of posted writes too.
        queue, kernel_pasid: of dsa and iaa only; by default shared, and a number for kernel work queues at probe.
        stream_id: behind an arm-smmu-v3, its StreamID or StreamIDs; by default the lowest that is free.
        can_stall: behind an arm-smmu-v3, firmware says that its faults may stall; by default true unless it has ATS.
        source_id: behind an intel-vtd, bus, device and function, as 6a:01.0; by default the lowest that is free.
        ats: it has ATS; by default a PCIe device behind an IOMMU that has it.
        pri: behind an intel-vtd, it has page requests; by default as `ats`.
        prg_pasid: behind an intel-vtd, it wants PASIDs in the answers to its page requests; by default true.
        prefix_path: of a PCIe device, end-to-end TLP prefixes reach the root through every port; by default true.
        acs_path: of a PCIe device, each port up to the root has ACS redirect requests upstream; by default true.
        pasid_enabled: pci_enable_pasid() succeeded, whatever the path; by default as path and capability let it.
        default_domain: what its traffic without PASID starts in; by default dma, a stage 1 domain of the kernel's.
    """

    name: Name
    iommu: Name | None = None
    kind: Literal["narrow", "dsa", "iaa", "pcie"] = "pcie"
    group: Name | None = None
    pasid_bits: PasidBits | None = None
    physfn: Name | None = None
    submit: SubmitBy | None = None
    pasids: Literal["local", "global"] = "global"
    sloppy: bool = False
    queue: Literal["shared", "dedicated"] | None = None
    kernel_pasid: bool | None = None
    stream_id: StreamId | list[StreamId] | None = None
    can_stall: bool | None = None
    source_id: SourceId | None = None
    ats: bool | None = None
    pri: bool | None = None
    prg_pasid: bool | None = None
    prefix_path: bool | None = None
    acs_path: bool | None = None
    pasid_enabled: bool | None = None
    default_domain: Literal["dma", "identity", "blocked", "stage2"] | None = None

    @property
    def submits(self) -> SubmitBy:
        """How a PASID reaches the device, its kind's default included."""
        return self.submit or (SubmitBy.ENQCMD if self.is_idxd else SubmitBy.REGISTER)

    @property
    def is_idxd(self) -> bool:
        """Whether the idxd driver drives it."""
        return self.kind in ("dsa", "iaa")


class ProcessSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One process at the start; `user` is charged by quotas, `pidns` is its pid namespace."""

    name: Name
    user: Name = "root"
    pidns: Name = INIT_PIDNS


class FindingSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What an import found wrong with the machine or with what it was read from: the rule's id, and a sentence.

    Attributes:
        more: how many more findings of the rule there are, which are only counted.
    """

    rule: RuleId
    why: Annotated[str, Meta(min_length=1, max_length=4096)]
    more: Annotated[int, Meta(ge=0, le=1 << 31)] = 0


class MachineSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine.

    Attributes:
        switches: they change single switches of the kernel's profile.
        config: options that the kernel was built with (true) or without, written without CONFIG_; see `config`.
        cmdline: the kernel's command line, for people; what it changes is said by other keys.
        finding: what an import found; it changes nothing.
    """

    kernel: str = DEFAULT_PROFILE.name
    switches: dict[str, bool | str] = {}
    config: dict[str, bool] = {}
    cmdline: Line = ""
    finding: list[FindingSpec] = []
    cpu: CpuSpec = CpuSpec()
    options: Options = Options()
    iommu: list[IommuSpec] = []
    device: list[DeviceSpec] = []
    process: list[ProcessSpec] = []


def architecture(spec: MachineSpec) -> Literal["x86", "arm64"]:
    """Return the architecture of a machine's CPUs: as described, else that of its devices and IOMMUs."""
    if spec.cpu.arch is not None:
        return spec.cpu.arch
    enqcmd = any(device.submits is SubmitBy.ENQCMD for device in spec.device)
    intel = any(iommu.model == "intel-vtd" for iommu in spec.iommu)
    return "x86" if enqcmd or intel else "arm64"


def operating_system(spec: MachineSpec) -> X86Os | Arm64Os:
    """Return the CPU side of a machine."""
    cpu = spec.cpu
    if architecture(spec) == "x86":
        return X86Os(X86Cpu(enqcmd=cpu.enqcmd, movdir64b=cpu.movdir64b))
    enabled = Arm64Cpu(ls64=cpu.ls64, en_als=True, en_asr=cpu.st64bv == "enabled")
    return Arm64Os(enabled, accdata=cpu.accdata == "switched", emulate_st64bv=cpu.st64bv == "emulated")

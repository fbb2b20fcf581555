"""What a machine is made of, as a scenario file describes it: CPUs, IOMMUs, devices, processes, options.

`check()` finds what types alone cannot: names used twice, names that name nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct, structs

from pasidlab.devices import SubmitBy
from pasidlab.drivers.traits import Mode
from pasidlab.errors import InputError
from pasidlab.hw.cpu import Arm64Cpu, X86Cpu
from pasidlab.linux.mm import PAGE_SIZE
from pasidlab.linux.profiles import DEFAULT_PROFILE
from pasidlab.linux.task import INIT_PIDNS
from pasidlab.linux.traps import Arm64Os, X86Os
from pasidlab.schemes import Options

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
KERNEL, NOBODY = "kernel", "nobody"
RESERVED_NAMES = (KERNEL, NOBODY)
"""What `expect_work` calls memory that is no process's."""
StreamId = Annotated[int, Meta(ge=0, lt=1 << 24)]
PageSize = Literal[4096, 16384, 65536, "4K", "16K", "64K"]
PAGE_SHIFTS: dict[int | str, int] = {4096: 12, 16384: 14, 65536: 16, "4K": 12, "16K": 14, "64K": 16}
"""log2 of each page size, in bytes or as kernels call it."""
PasidBits = Annotated[int, Meta(ge=0, le=20)]


class CpuSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The CPUs. `arch` None is x86 where a device takes ENQCMD, else arm64.

    Attributes:
        enqcmd, movdir64b: x86 features.
        ls64: ID_AA64ISAR1_EL1.LS64, 1 to 3 adding ST64BV and ST64BV0.
        accdata: `switched` is a future arm64 kernel that loads ACCDATA_EL1 per task; today's is `off`.
        st64bv: `trapped`, as Linux does; `enabled`, user space executes it; `emulated`, the kernel executes it for EL0.
        page_size: bytes of a page of the kernel; only an arm64 one has another than 4096.
        force_tagged_sva: processes asked for ARCH_FORCE_TAGGED_SVA, so that LAM does not exclude SVA.
    """

    arch: Literal["x86", "arm64"] | None = None
    enqcmd: bool = True
    movdir64b: bool = True
    ls64: Annotated[int, Meta(ge=0, le=3)] = 1
    accdata: Literal["off", "switched"] = "off"
    st64bv: Literal["trapped", "enabled", "emulated"] = "trapped"
    page_size: PageSize = 4096
    force_tagged_sva: bool = False


class IommuSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One IOMMU instance.

    Attributes:
        pasid_bits: width of the numbers it takes; `max_pasids`, one more than the largest, overrides it.
        per_device_pasid_space: IOMMU_CAP_PER_DEV_PASID_SPACE.
        sva: it can share page tables with the CPU.
        ops: of a mock, whose operations its driver has: the usual ones, those of a real driver, or with one missing.
        ssid_bits, sid_bits: of an arm-smmu-v3, SubstreamID bits (else pasid_bits) and StreamID bits (else 16).
        two_level: it has two-level stream and CD tables (else true).
        stall: its faults can stall (else true).
        ats, pri: it has PCIe ATS, page requests (else false).
        granule: the only page size of its tables (else all three).
        httu: it updates tables: 1 access flags, 2 dirty state too (else 0).
        caches: it keeps configuration and translations until they are invalidated (else true).
    """

    name: Name
    model: Literal["mock", "arm-smmu-v3"] = "mock"
    pasid_bits: PasidBits = 20
    max_pasids: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] | None = None
    per_device_pasid_space: bool = False
    sva: bool = True
    ops: Mode = Mode.USUAL
    ssid_bits: PasidBits | None = None
    sid_bits: Annotated[int, Meta(ge=0, le=24)] | None = None
    two_level: bool | None = None
    stall: bool | None = None
    ats: bool | None = None
    pri: bool | None = None
    granule: PageSize | None = None
    httu: Annotated[int, Meta(ge=0, le=2)] | None = None
    caches: bool | None = None

    @property
    def substream_bits(self) -> int:
        """The width of its numbers, by whichever key it is given."""
        return self.pasid_bits if self.ssid_bits is None else self.ssid_bits


SMMU_KEYS = ("ssid_bits", "sid_bits", "two_level", "stall", "ats", "pri", "granule", "httu", "caches")
"""Keys that only an IOMMU of model arm-smmu-v3 has."""
SMMU_DEVICE_KEYS = ("stream_id", "can_stall", "ats", "pasid_enabled", "default_domain")
"""Keys that only a device behind an arm-smmu-v3 has."""
PCI_KEYS = ("ats", "pasid_enabled")
"""Of these, what only a PCIe device has."""
SID_BITS = 16
FIRST_STREAM = 1


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
        can_stall: firmware says that its faults may stall; by default true unless it has ATS.
        ats: it has ATS; by default a PCIe device behind an SMMU that has it.
        pasid_enabled: pci_enable_pasid() succeeded; by default true.
        default_domain: what its traffic without PASID starts in; by default dma, the kernel's stage 1 domain.
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
    ats: bool | None = None
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


class MachineSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine. `switches` change single switches of the kernel's profile."""

    kernel: str = DEFAULT_PROFILE.name
    switches: dict[str, bool | str] = {}
    cpu: CpuSpec = CpuSpec()
    options: Options = Options()
    iommu: list[IommuSpec] = []
    device: list[DeviceSpec] = []
    process: list[ProcessSpec] = []


def operating_system(spec: MachineSpec) -> X86Os | Arm64Os:
    """Return the CPU side of a machine."""
    cpu = spec.cpu
    enqcmd = any(device.submits is SubmitBy.ENQCMD for device in spec.device)
    arch = cpu.arch or ("x86" if enqcmd else "arm64")
    if arch == "x86":
        return X86Os(X86Cpu(enqcmd=cpu.enqcmd, movdir64b=cpu.movdir64b))
    enabled = Arm64Cpu(ls64=cpu.ls64, en_als=True, en_asr=cpu.st64bv == "enabled")
    return Arm64Os(enabled, accdata=cpu.accdata == "switched", emulate_st64bv=cpu.st64bv == "emulated")


M = TypeVar("M", bound=MachineSpec)
MODELS = ("mock", "arm-smmu-v3")


def on_model(spec: M, model: str) -> M:
    """Return the machine with every IOMMU of one model, what the other model has no key for left out.

    Raises InputError for a model that there is not; whether each IOMMU can be of it is found by `check()`.
    """
    if model not in MODELS:
        raise InputError(f"model {model!r}: no such model; known: {', '.join(MODELS)}")
    if model == "arm-smmu-v3":
        return structs.replace(spec, iommu=[structs.replace(iommu, model=model) for iommu in spec.iommu])
    iommus = [
        structs.replace(iommu, model=model, pasid_bits=iommu.substream_bits, **dict.fromkeys(SMMU_KEYS))
        for iommu in spec.iommu
    ]
    devices = [structs.replace(device, **dict.fromkeys(SMMU_DEVICE_KEYS)) for device in spec.device]
    return structs.replace(spec, iommu=iommus, device=devices)


def check(spec: MachineSpec) -> None:
    """Raise InputError for a name that is used twice, that names nothing, and for what no machine has."""
    for key in ("iommu", "device", "process"):
        _check_unique(key, [item.name for item in getattr(spec, key)])
    for index, process in enumerate(spec.process):
        if process.name in RESERVED_NAMES:
            raise InputError(f"process[{index}].name = {process.name!r}: stands for something else in expectations")
    if 1 << PAGE_SHIFTS[spec.cpu.page_size] != PAGE_SIZE and isinstance(operating_system(spec), X86Os):
        raise InputError(f"cpu.page_size = {spec.cpu.page_size!r}: pages of an x86 kernel have {PAGE_SIZE} bytes")
    for index, iommu in enumerate(spec.iommu):
        _check_iommu(index, iommu)
    for index in range(len(spec.device)):
        _check_device(index, spec)
        _check_smmu_device(index, spec)
    streams_of(spec)


def _check_device(index: int, spec: MachineSpec) -> None:
    """Check that a device names what there is, and has only keys of its kind."""
    device = spec.device[index]
    _check_known(f"device[{index}].iommu", device.iommu, [item.name for item in spec.iommu])
    if device.physfn is not None and device.physfn not in [other.name for other in spec.device[:index]]:
        place = f"device[{index}].physfn = {device.physfn!r}"
        raise InputError(f"{place}: must name a device that is described before its virtual functions")
    for key in ("queue", "kernel_pasid"):
        if getattr(device, key) is not None and not device.is_idxd:
            raise InputError(f"device[{index}].{key}: only a device of kind dsa or iaa has it, not {device.kind}")


def _check_iommu(index: int, iommu: IommuSpec) -> None:
    """Check that the keys of a model are used with that model, and agree with each other."""
    if iommu.model == "mock":
        _check_unset(f"iommu[{index}]", iommu, SMMU_KEYS, "an IOMMU of model arm-smmu-v3")
    elif iommu.ops is not Mode.USUAL:
        place = f"iommu[{index}].ops = {iommu.ops.value!r}"
        raise InputError(f"{place}: only a mock acts like other drivers; leave it out for arm-smmu-v3")
    if iommu.pri and not iommu.ats:
        raise InputError(f"iommu[{index}].pri = True: needs ats = true")
    if iommu.two_level is False and (iommu.sid_bits or 0) > SID_BITS:
        place = f"iommu[{index}].sid_bits = {iommu.sid_bits}"
        raise InputError(f"{place}: a linear stream table, two_level = false, has {SID_BITS} bits at most")


def _check_smmu_device(index: int, spec: MachineSpec) -> None:
    """Check that only a device behind an SMMU has the keys of one, and the first of a group says its domain."""
    device = spec.device[index]
    if device.iommu not in {iommu.name for iommu in spec.iommu if iommu.model == "arm-smmu-v3"}:
        _check_unset(f"device[{index}]", device, SMMU_DEVICE_KEYS, "a device behind an arm-smmu-v3")
    if device.kind == "narrow":
        _check_unset(f"device[{index}]", device, PCI_KEYS, "a PCIe device, of a kind other than narrow,")
    joins = device.group is not None and device.group in {other.group for other in spec.device[:index]}
    if device.default_domain is not None and joins:
        place = f"device[{index}].default_domain"
        raise InputError(f"{place}: the first device of group {device.group!r} says it for the whole group")


def _check_unset(place: str, item: Struct, keys: tuple[str, ...], who: str) -> None:
    for key in keys:
        if getattr(item, key) is not None:
            raise InputError(f"{place}.{key} = {getattr(item, key)!r}: only {who} has it")


def streams_of(spec: MachineSpec) -> dict[str, tuple[int, ...]]:
    """Return the StreamIDs of each device behind an arm-smmu-v3; InputError for one used twice or too large."""
    limits = {iommu.name: SID_BITS if iommu.sid_bits is None else iommu.sid_bits for iommu in spec.iommu}
    smmus = {iommu.name for iommu in spec.iommu if iommu.model == "arm-smmu-v3"}
    given: dict[str, tuple[int, ...]] = {}
    taken: dict[str, set[int]] = {name: set() for name in smmus}
    for index, device in enumerate(spec.device):
        if device.iommu not in smmus or device.stream_id is None:
            continue
        streams = (device.stream_id,) if isinstance(device.stream_id, int) else tuple(device.stream_id)
        _check_streams(f"device[{index}].stream_id", streams, limits[device.iommu], taken[device.iommu])
        given[device.name] = streams
    free = {name: _untaken(sids) for name, sids in taken.items()}
    for index, device in enumerate(spec.device):
        if device.iommu in smmus and device.stream_id is None:
            sid, bits = next(free[device.iommu]), limits[device.iommu]
            if sid >> bits:
                place = f"device[{index}].stream_id"
                raise InputError(f"{place}: missing, and none from {FIRST_STREAM} on is free where sid_bits = {bits}")
            given[device.name] = (sid,)
    return given


def _untaken(taken: set[int]) -> Iterator[int]:
    """Return the StreamIDs that nobody has, the lowest first."""
    return (sid for sid in count(FIRST_STREAM) if sid not in taken)


def _check_streams(place: str, streams: tuple[int, ...], sid_bits: int, taken: set[int]) -> None:
    if not streams:
        raise InputError(f"{place} = []: a device has one StreamID at least")
    for sid in streams:
        if sid >> sid_bits:
            allowed = f"allowed: 0 to {(1 << sid_bits) - 1}"
            raise InputError(f"{place}: StreamID {sid} does not fit the SMMU's sid_bits = {sid_bits}; {allowed}")
        if streams.count(sid) > 1:
            raise InputError(f"{place}: StreamID {sid} is listed twice")
        if sid in taken:
            raise InputError(f"{place}: StreamID {sid} is another device's; each stream has one device")
        taken.add(sid)


def _check_unique(key: str, names: list[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InputError(f"{key}[{index}].name = {name!r}: another {key} has this name; names are unique")
        seen.add(name)


def _check_known(place: str, name: str | None, known: list[str]) -> None:
    if name is not None and name not in known:
        raise InputError(f"{place} = {name!r}: no such name; known: {', '.join(known) or 'none'}")

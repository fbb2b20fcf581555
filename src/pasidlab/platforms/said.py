"""What one source says of a machine, and where it says so: the form in which all readers hand on what they found.

A source seldom knows all of a machine. Firmware tables know which requester IDs reach which IOMMU, configuration
space knows a function's capabilities, sysfs knows names and groups. So a reader says what it knows, key by key, each
value with its origin; `merge` puts what all say together, and `machine` writes it down.

Keys are those of a machine description (`description.spec`): of `IommuSpec` for an IOMMU, of `DeviceSpec` for a
device, of `CpuSpec` and `MachineSpec` for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pasidlab.hw.requester import rid_number, rid_text
from pasidlab.rules import Finding

MOST_PASID_BITS = 20
"""A PASID has 20 bits, so no width is larger (PCIe 6.0, 7.8.9.2)."""
Bus = Literal["pci", "platform"]
Kind = Literal["arm-smmu-v3", "intel-vtd", "amd-vi", "riscv", "virtio-iommu", "arm-smmu"]
"""What an IOMMU is; those without a model of their own become a mock that has the operations of their driver."""
_NAMES_BY_BASE: dict[Kind, str] = {
    "arm-smmu-v3": "smmu3.0x{:016x}",
    "arm-smmu": "smmu.0x{:016x}",
    "riscv": "riscv-iommu@{:x}",
}


def name_by_base(kind: Kind, base: int) -> str:
    """Return what Linux calls an IOMMU of a kind that is named after the address of its registers.

    Source: arm_smmu_device_probe() (arm-smmu-v3.c, arm-smmu.c); for RISC-V the name of its node in a device tree.
    """
    return _NAMES_BY_BASE[kind].format(base)


class Known(NamedTuple):
    """A value and where it comes from: file, place, and the raw value if it is not the same.

    The value None is what is known not to be there, as a PASID capability; a key that nobody says is not known.
    """

    value: Any
    origin: str


_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)


class Rid(NamedTuple):
    """A PCI function: its segment and its requester ID, which is bus << 8 | device << 3 | function."""

    segment: int
    number: int

    @property
    def bus(self) -> int:
        """The number of the bus that it is on."""
        return self.number >> 8

    @property
    def in_segment(self) -> str:
        """The address without the segment: 6a:01.0."""
        return rid_text(self.number)

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.in_segment}"


def rid_at(segment: int, bus: int, device: int, function: int) -> Rid:
    """Return the function that these numbers name."""
    return Rid(segment, rid_number(bus, device, function))


def rid_of(text: str) -> Rid | None:
    """Return the function that an address names, as 6a:01.0 or 0000:6a:01.0; None for what is no address."""
    match = _ADDRESS.fullmatch(text)
    return None if match is None else rid_at(*(int(part or "0", 16) for part in match.groups()))


@dataclass(slots=True, eq=False)
class Iommu:
    """An IOMMU that a source names.

    Attributes:
        name: as Linux calls it, where that follows from the source: dmar0, smmu3.0x000000002b400000, ivhd0.
        base: physical address of its registers, by which sources agree that they mean the same; None where unknown.
        keys: what is known of it, by the keys of `IommuSpec`.
        rid: of a virtio-iommu that is a PCI function, by which sources agree likewise; Linux names it after that.
    """

    name: str
    kind: Kind
    origin: str
    base: int | None = None
    keys: dict[str, Known] = field(default_factory=dict)
    rid: Rid | None = None

    def say(self, key: str, value: Any, origin: str) -> None:
        """Say what a key is; what was said first stays."""
        self.keys.setdefault(key, Known(value, origin))


@dataclass(slots=True, eq=False)
class Endpoint:
    """A device that a source names.

    Attributes:
        name: as Linux calls it: 0000:6a:01.0, or that of the platform device, else that of the firmware's node.
        rid: of a PCI function.
        node: path of its node in firmware, ACPI namespace or device tree, by which sources agree; empty where unknown.
        parent: of a PCI function, the bridge above it; None at the root, and where unknown.
        keys: what is known of it, by the keys of `DeviceSpec`.
    """

    name: str
    bus: Bus
    origin: str
    rid: Rid | None = None
    node: str = ""
    parent: Rid | None = None
    keys: dict[str, Known] = field(default_factory=dict)

    def say(self, key: str, value: Any, origin: str) -> None:
        """Say what a key is; what was said first stays."""
        self.keys.setdefault(key, Known(value, origin))


@dataclass(frozen=True, slots=True)
class RidMap:
    """Requester IDs of a PCI segment that reach an IOMMU, from `first` to `last`, both inclusive.

    Where several maps of one source have an ID, the first counts.

    Attributes:
        iommu: the name that the same source gave it; None says that these reach memory without one.
        output: what the IOMMU knows `first` as, the following IDs counting up (a StreamID); None is the ID itself.
        keys: what holds for each function behind it, by the keys of `DeviceSpec`, as `ats = false`.
    """

    segment: int
    first: int
    last: int
    iommu: str | None
    origin: str
    output: int | None = None
    keys: Mapping[str, Known] = field(default_factory=dict)

    def stream(self, number: int) -> int:
        """Return what the IOMMU knows a requester ID of this range as."""
        return number if self.output is None else self.output + number - self.first


@dataclass(slots=True, eq=False)
class Said:
    """What one source says.

    Attributes:
        source: the file, as people named it or as it is called on its host.
        cpu, machine: what is known of the CPUs and of the kernel, by the keys of `CpuSpec` and `MachineSpec`.
        unused: what the kernel does not use of IOMMUs of a kind, whatever these have, by the keys of `IommuSpec`.
        undriven: kinds of IOMMUs that the kernel does not drive at all, so that no device is behind one.
        nameless: an SMMUv3 that the source tells of without saying which; it is the only one, where a machine has one.
        findings: what is wrong with the source, or with the machine that it describes.
        remarks: what people should know of how it was read: a checksum, what was left out.
    """

    source: str
    iommus: list[Iommu] = field(default_factory=list)
    endpoints: list[Endpoint] = field(default_factory=list)
    rid_maps: list[RidMap] = field(default_factory=list)
    cpu: dict[str, Known] = field(default_factory=dict)
    machine: dict[str, Known] = field(default_factory=dict)
    unused: dict[Kind, dict[str, Known]] = field(default_factory=dict)
    undriven: set[Kind] = field(default_factory=set)
    nameless: Iommu | None = None
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def found(self, findings: Iterable[Finding]) -> None:
        """Add findings."""
        self.findings.extend(findings)

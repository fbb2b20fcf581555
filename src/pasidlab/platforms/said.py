"""What one source says of a machine, and where it says so: the form in which all readers hand on what they found.

A source seldom knows all of a machine. Firmware tables know which requester IDs reach which IOMMU, configuration
space knows a function's capabilities, sysfs knows names and groups. So a reader says what it knows, key by key, each
value with its origin; `merge` puts what all say together, and `machine` writes it down.

Keys are those of a machine description (`description.spec`): of `IommuSpec` for an IOMMU, of `DeviceSpec` for a
device, of `CpuSpec` and `MachineSpec` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pasidlab.rules import Finding

Bus = Literal["pci", "platform"]
Kind = Literal["arm-smmu-v3", "intel-vtd", "amd-vi", "riscv", "virtio-iommu", "arm-smmu"]
"""What an IOMMU is; those without a model of their own become a mock that has the operations of their driver."""


class Known(NamedTuple):
    """A value and where it comes from: file, place, and the raw value if it is not the same."""

    value: Any
    origin: str


class Rid(NamedTuple):
    """A PCI function: its segment and its requester ID, which is bus << 8 | device << 3 | function."""

    segment: int
    number: int

    def __str__(self) -> str:
        bus, device, function = self.number >> 8, self.number >> 3 & 0x1F, self.number & 7
        return f"{self.segment:04x}:{bus:02x}:{device:02x}.{function}"


@dataclass(slots=True, eq=False)
class Iommu:
    """An IOMMU that a source names.

    Attributes:
        name: as Linux calls it, where that follows from the source: dmar0, smmu3.0x000000002b400000, ivhd0.
        base: physical address of its registers, by which sources agree that they mean the same; None where unknown.
        keys: what is known of it, by the keys of `IommuSpec`.
    """

    name: str
    kind: Kind
    origin: str
    base: int | None = None
    keys: dict[str, Known] = field(default_factory=dict)

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
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def found(self, findings: Iterable[Finding]) -> None:
        """Add findings."""
        self.findings.extend(findings)

"""include/linux/iommu.h: the structures of groups, devices, domains and drivers, as far as PASIDs bear on them.

Source: Linux 6.12.117 and 7.3.4. Only data; what is done with it is in `iommu`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Literal

from pasidlab.pasid import INT_MAX, PasidSpace
from pasidlab.rules import Finding, Refusal

if TYPE_CHECKING:
    from pasidlab.linux.iopf import Fault, FaultParam, IopfGroup, IopfQueue
    from pasidlab.linux.kernel import Kernel
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.sva import IommuSva

IOMMU_NO_PASID = 0
IOMMU_FIRST_GLOBAL_PASID = 1
IOMMU_PASID_INVALID = 0xFFFF_FFFF


class DomainType(IntEnum):
    """What a domain translates with."""

    BLOCKED = 0
    IDENTITY = 1
    PAGING = 2
    SVA = 3


SetDevPasid = Callable[["IommuDomain", "Device", int, "IommuDomain | None"], Refusal | None]


@dataclass(frozen=True, slots=True)
class IommuDomainOps:
    """`struct iommu_domain_ops`, as far as PASIDs bear on it; None is a missing operation."""

    set_dev_pasid: SetDevPasid | None = None
    attach_dev: Callable[[IommuDomain, Device], Refusal | None] | None = None
    free: Callable[[IommuDomain], None] | None = None


@dataclass(slots=True, eq=False, repr=False)
class IommuOps:
    """`struct iommu_ops`: one IOMMU driver; domains and devices of one driver share the object."""

    name: str
    domain_alloc_sva: Callable[[Device, MmStruct], IommuDomain | Refusal] | None = None
    domain_alloc_paging: Callable[[Device], IommuDomain | Refusal] | None = None
    remove_dev_pasid: Callable[[Device, int, IommuDomain], None] | None = None
    page_response: Callable[[Device, Fault, int], None] | None = None
    dev_enable_sva: Callable[[Device], Refusal | None] | None = None
    blocked_domain: IommuDomain | None = None
    identity_domain: IommuDomain | None = None


class IommuDomain:
    """`struct iommu_domain`. `users` counts the bonds of an SVA domain; `id` tells domains apart in reports."""

    __slots__ = ("id", "iommu", "iopf_handler", "mm", "ops", "owner", "type", "users")

    def __init__(
        self,
        type: DomainType,
        owner: IommuOps,
        ops: IommuDomainOps,
        *,
        id: int = -1,
        iommu: IommuDevice | None = None,
        mm: MmStruct | None = None,
    ) -> None:
        self.id = id
        self.type = type
        self.owner = owner
        self.ops = ops
        self.iommu = iommu
        self.mm = mm
        self.users = 0
        self.iopf_handler: Callable[[IopfGroup], Refusal | None] | None = None

    @property
    def label(self) -> int | Literal["B"]:
        """Name the domain in an event."""
        return "B" if self.type is DomainType.BLOCKED else self.id


@dataclass(slots=True, eq=False, repr=False)
class AttachHandle:
    """`struct iommu_attach_handle`: the caller's token for one attachment."""

    domain: IommuDomain | None = None


class _Reserved(Enum):
    """XA_ZERO_ENTRY: the slot is occupied and reads as empty."""

    ENTRY = 0


RESERVED = _Reserved.ENTRY
Slot = AttachHandle | IommuDomain | _Reserved


@dataclass(slots=True, eq=False, repr=False)
class IommuDevice:
    """`struct iommu_device`: one instance (one SMMU, one VT-d unit).

    `max_pasids` is the bound on numbers, one more than the largest; `per_device_pasid_space` is the RFC's
    IOMMU_CAP_PER_DEV_PASID_SPACE.
    """

    name: str
    ops: IommuOps
    max_pasids: int
    iopf_queue: IopfQueue | None = None
    per_device_pasid_space: bool = True
    sva: bool = True


class IommuGroup:
    """`struct iommu_group`. Its `pasid_array` is keyed by PASID: a number is attached for the whole group.

    `numbers` are its keys as a space, made by the first `held_numbers()`; `bonds` are its SVA bonds by mm. `widths` has
    the first member of each max_pasids, and `mixed` what was found of them, if they differ.
    """

    __slots__ = (
        "bonds",
        "default_domain",
        "devices",
        "domain",
        "mixed",
        "name",
        "numbers",
        "owner",
        "owner_cnt",
        "pasid_array",
        "recovery_cnt",
        "widths",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.devices: list[Device] = []
        self.pasid_array: dict[int, Slot] = {}
        self.default_domain: IommuDomain | None = None
        self.domain: IommuDomain | None = None
        self.owner: object | None = None
        self.owner_cnt = 0
        self.recovery_cnt = 0
        self.numbers: PasidSpace | None = None
        self.bonds: dict[MmStruct, list[IommuSva]] = {}
        self.widths: dict[int, str] = {}
        self.mixed: Finding | None = None

    def held_numbers(self) -> PasidSpace:
        """Return the attached numbers as a space, kept in step by attach and detach from now on."""
        if self.numbers is None:
            self.numbers = PasidSpace()
            for pasid in self.pasid_array:
                if pasid <= INT_MAX:
                    self.numbers.take(pasid)
        return self.numbers


@dataclass(slots=True, eq=False, repr=False)
class Device:
    """`struct device` with its `dev->iommu`, as far as PASIDs bear on it.

    Attributes:
        pasid_num_bits: the property of that name of a platform device; None when absent.
        pci_pasid_width: Max PASID Width of the PCI capability; None when the device has none.
        physfn: the physical function of a PCI virtual function.
        enqcmd_bar: a portal that believes the PASID of non-posted writes can be mapped by user space.
        owns_pasids: its driver declares that it hands out its own PASIDs.
        prefix_path: end-to-end TLP prefixes reach the root (`eetlp_prefix_max`).
        acs_path: every port up to the root redirects requests and forwards them upstream.
        pasid_features: what the PASID capability offers beside PASIDs.
        pasid_fails: pci_enable_pasid() is known to fail, for whatever reason.
        pasid_required: it wants the PASID in answers to its page requests.
        pasid_enabled: PASID is on; of a virtual function, that of the physical one counts.
        pasid_refused: why its IOMMU's driver could not switch PASID on, if it tried and could not.
        max_pasids: `dev->iommu->max_pasids`, the bound that the core computed.
        reset_depth, blocked: state of the PCI reset fence.
    """

    kernel: Kernel
    name: str
    pci: bool = False
    pasid_num_bits: int | None = None
    pci_pasid_width: int | None = None
    physfn: Device | None = None
    enqcmd_bar: bool = False
    owns_pasids: bool = False
    prefix_path: bool = True
    acs_path: bool = True
    pasid_features: int = 0x6
    pasid_fails: bool = False
    pasid_required: bool = True
    pasid_enabled: bool = False
    pasid_refused: Refusal | None = None
    iommu: IommuDevice | None = None
    iommu_group: IommuGroup | None = None
    max_pasids: int = 0
    fault_param: FaultParam | None = None
    reset_depth: int = 0
    blocked: bool = False

    @property
    def members(self) -> list[Device]:
        """The devices of its group, which share its numbers; itself alone when it has none."""
        return [self] if self.iommu_group is None else self.iommu_group.devices

    def __repr__(self) -> str:
        return f"<Device {self.name}>"

    @property
    def ops(self) -> IommuOps:
        """`dev_iommu_ops(dev)`; only for a device behind an IOMMU."""
        assert self.iommu is not None
        return self.iommu.ops

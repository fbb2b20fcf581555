"""What Linux keeps in global variables, and the contract between the core and a scheme.

Source: `iommu_global_pasid_ida` (drivers/iommu/iommu.c), `iommu_sva_mms` (drivers/iommu/iommu-sva.c), v7.3.

Not modelled: locks. Every call runs to its end before the next begins, as on the one CPU of the recorded kernels; only
devices may act inside one that takes a table entry away, where `window` says so.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from pasidlab import events
from pasidlab.errors import ModelError
from pasidlab.linux.page_alloc import PageAllocator
from pasidlab.linux.pgtable import PageTables
from pasidlab.linux.pgtable_arm64 import Arm64PageTables
from pasidlab.linux.pgtable_x86 import X86PageTables
from pasidlab.linux.profiles import DEFAULT_PROFILE, Profile
from pasidlab.memory import Memory
from pasidlab.pasid import Allocator, PasidSpace
from pasidlab.rules import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device, IommuDomain
    from pasidlab.linux.sva import IommuSva
    from pasidlab.rules import Refusal, Rule

UNKNOWN_HOLDER = "unknown"
"""Who holds a number that no mm and no module has: nobody can give it back."""


class Arch(StrEnum):
    """The architecture that the kernel was built for."""

    X86 = "x86"
    ARM64 = "arm64"
    UM = "um"


class SvaScheme(Protocol):
    """What the core leaves to a scheme: which number a bond gets, and how long it lasts.

    `pasidlab.schemes.Scheme` implements it and is what authors of schemes derive from. `shares_vtd_did` says whether a
    number means one mm on every device, so that VT-d can tell address spaces apart by it; `takes_driver_numbers` says
    whether the design has `iommu_sva_bind_device_pasid()` at all.
    """

    shares_vtd_did: bool
    takes_driver_numbers: bool

    def bind_device(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Do `iommu_sva_bind_device()` behind the tests that all designs share."""

    def bind_device_pasid(self, dev: Device, mm: MmStruct, pasid: int) -> IommuSva | Refusal:
        """Do `iommu_sva_bind_device_pasid()`, which the v2 patch and the hybrid offer."""

    def unbind_device(self, handle: IommuSva) -> None:
        """Do `iommu_sva_unbind_device()`."""

    def get_pasid(self, handle: IommuSva) -> int:
        """Do `iommu_sva_get_pasid()`."""

    def attach_device_pasid_any(self, domain: IommuDomain, dev: Device) -> int | Refusal:
        """Do `iommu_attach_device_pasid_any()`, which the RFC offers: the number, or why there is none."""

    def mm_get_enqcmd_pasid(self, mm: MmStruct) -> int:
        """Return the number that ENQCMD and ST64BV0 carry for this mm, or IOMMU_PASID_INVALID."""

    def mm_valid_pasid(self, mm: MmStruct) -> bool:
        """Return whether the mm has SVA data at all."""

    def mm_pasid_drop(self, mm: MmStruct) -> None:
        """Give back what the mm holds; called when its last reference goes."""

    def alloc_global(self, space: Allocator, dev: Device) -> int | None:
        """Take a number of the global space for `dev`, whose max_pasids is at least 1; None when none is free."""


class Kernel:
    """One running kernel: its version, its architecture, its scheme, and its global state.

    Attributes:
        iommu_global_pasid_ida: the one machine-wide space of PASIDs.
        global_users: device name by number, for numbers taken through `iommu_alloc_global_pasid()` by modules.
        iommu_sva_mms: the mms with at least one SVA domain, in the order of their first bond.
        mms: every mm whose `mm_count` is not yet 0.
        warnings: how many WARNs were hit.
        not_built: options, as PCI_PASID, that it was built without.
        enqcmd_like: the CPUs let user space execute an instruction that carries the mm's PASID (ENQCMD, ST64BV0).
        force_tagged_sva: ARCH_FORCE_TAGGED_SVA was asked for, so that LAM does not exclude SVA.
        fail_allocation: the N-th memory allocation from now fails once; 0 is none.
        page_shift: log2 of the page size that the kernel was built for: 12, 14 or 16.
        memory: the machine's physical memory.
        page_alloc: who gives its pages out.
        pgtable: what its page tables look like; by the architecture, unless they were chosen.
        at_window: called inside a call that takes a table entry away, with the step just done: table, iotlb or atc.
    """

    __slots__ = (
        "_found",
        "arch",
        "at_window",
        "enqcmd_like",
        "fail_allocation",
        "force_tagged_sva",
        "global_users",
        "iommu_global_pasid_ida",
        "iommu_sva_mms",
        "memory",
        "mms",
        "not_built",
        "observers",
        "page_alloc",
        "page_shift",
        "pgtable",
        "profile",
        "scheme",
        "warnings",
    )

    def __init__(
        self,
        scheme: SvaScheme,
        profile: Profile = DEFAULT_PROFILE,
        arch: Arch = Arch.ARM64,
        *,
        page_shift: int = 12,
        memory: Memory | None = None,
        pgtable: PageTables | None = None,
    ) -> None:
        self.scheme = scheme
        self.profile = profile
        self.arch = arch
        self.enqcmd_like = arch is Arch.X86
        self.force_tagged_sva = False
        self.at_window: Callable[[str], None] | None = None
        self.iommu_global_pasid_ida = PasidSpace()
        self.global_users: dict[int, str] = {}
        self.iommu_sva_mms: dict[MmStruct, None] = {}
        self.mms: dict[MmStruct, None] = {}
        self.observers: list[events.Observer] = []
        self.warnings = 0
        self._found: dict[tuple[str, tuple[tuple[str, Any], ...]], Finding] = {}
        self.not_built: frozenset[str] = frozenset()
        self.fail_allocation = 0
        self.page_shift = page_shift
        self.memory = memory or Memory()
        self.page_alloc = PageAllocator(self.memory, page_shift)
        self.pgtable = pgtable or (X86PageTables() if arch is Arch.X86 else Arm64PageTables(page_shift))
        if self.pgtable.index_shifts[-1] != page_shift:
            raise ModelError(f"a kernel with pages of {self.page_size} bytes has page tables for others")

    @property
    def page_size(self) -> int:
        """How many bytes a page has."""
        return 1 << self.page_shift

    def emit(self, event: events.Event) -> None:
        """Tell every observer; callers on a hot path test `observers` before they make the event."""
        for observer in self.observers:
            observer(event)

    def decided(self, rule: Rule, **facts: Any) -> None:
        """Report the rule that settled an outcome which is not a refusal."""
        if self.observers:
            self.emit(events.Decided(rule.id, facts))

    def warn(self, where: str, text: str) -> None:
        """WARN_ON: count it and report it, change nothing."""
        self.warnings += 1
        if self.observers:
            self.emit(events.Warned(where, text))

    @property
    def findings(self) -> list[Finding]:
        """What was found out about the machine, each once, in order."""
        return list(self._found.values())

    def found(self, rule: Rule, **facts: Any) -> Finding:
        """Keep a finding, unless the same was made before, and return it."""
        key = rule.id, tuple(facts.items())
        if key not in self._found:
            self._found[key] = rule.finding(**facts)
            self.emit(events.Found(rule.id, facts))
        return self._found[key]

    def forget(self, finding: Finding) -> None:
        """Drop a finding, since a fuller one comes."""
        self._found.pop((finding.rule.id, tuple(finding.facts.items())), None)

    def window(self, step: str) -> None:
        """Let others act between this step of a driver, which takes a table entry away, and its next."""
        if self.at_window is not None:
            self.at_window(step)

    def allocation_fails(self) -> bool:
        """Count one memory allocation; true when it is the one that was asked to fail."""
        if not self.fail_allocation:
            return False
        self.fail_allocation -= 1
        return self.fail_allocation == 0

    def holders(self) -> Iterator[tuple[int, str]]:
        """Yield each held number of the global space with who holds it, ascending."""
        by_number = dict(self.global_users)
        for mm in self.mms:
            pasid = mm.global_pasid
            if pasid is not None:
                by_number[pasid] = mm.holder
        for pasid in self.iommu_global_pasid_ida:
            yield pasid, by_number.get(pasid, UNKNOWN_HOLDER)

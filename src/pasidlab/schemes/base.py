"""What every scheme has in common, and what an author of a scheme may change.

A scheme answers two callers. The kernel core asks it for the number of a bond (`bind`, `bind_pasid`), for what
ENQCMD carries, and to clean up. A device's driver asks it whether the device's numbers are its own. Everything has
a default that is right for a scheme with one global space; see docs/schemes.md for the author's guide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pasidlab.errors import Errno
from pasidlab.linux.iommu import iommu_free_global_pasid, pasid_range, report_global_pasid
from pasidlab.linux.structs import IOMMU_FIRST_GLOBAL_PASID, IOMMU_PASID_INVALID
from pasidlab.linux.sva import (
    BIND_NO_MEMORY,
    IommuMmData,
    IommuSva,
    has_portal,
    iommu_sva_release_bond,
    no_number,
    number_too_wide,
)
from pasidlab.pasid import Allocator, FreeInBoth
from pasidlab.rules import Refusal, Rule
from pasidlab.schemes.options import Options

if TYPE_CHECKING:
    from pasidlab.linux.mm import MmStruct
    from pasidlab.linux.structs import Device, IommuDomain

Data = TypeVar("Data", bound=IommuMmData)

NO_SUCH_CALL = Rule(
    "scheme.no-such-call",
    "the scheme",
    "the design does not have this call",
    "scheme {scheme} has no {call}()",
    Errno.ENOSYS,
    remedy="use a design that has the call (pasidlab schemes), or the one that this design has",
)
QUOTA_USER = Rule(
    "quota.user",
    "option quota_user",
    "numbers held by the user's processes >= quota_user",
    "numbers held by the processes of user {user}: {held}, as many as the quota allows",
    Errno.EDQUOT,
    "thread 2021-03-03 Jason Gunthorpe: only a limit by process bounds what unprivileged users pin (R27)",
    remedy="end bindings or processes of that user, or raise option quota_user",
)
QUOTA_DEVICE = Rule(
    "quota.device",
    "option quota_device",
    "numbers attached to the device's group >= quota_device",
    "numbers attached to {dev}: {held}, as many as the quota allows",
    Errno.EDQUOT,
    "R27",
    remedy="detach numbers of the device, or raise option quota_device",
)
PORTAL_NO_BOND = Rule(
    "portal.no-bond",
    "mmap of the device's portal",
    "iommu_sva_bind_device() was not called for this device",
    "process {mm} has no normal bond on {dev}, so its portal must not be mapped",
    Errno.EPERM,
    "thread 2026-05-13 Jason Gunthorpe, d; idxd answers the same today",
    remedy="open and bind the device before its portal is mapped",
)
PORTAL_NOT_ENQCMD = Rule(
    "portal.declared-non-enqcmd",
    "mmap of the device's portal",
    "the device has numbers of its own and is declared not to take ENQCMD-like writes",
    "{dev} has numbers of its own, so it offers no portal",
    Errno.ENODEV,
    "docs/thread.md section 3, third guard",
    remedy="use a queue that the driver programs, or let the core pick this device's numbers (pasids = global)",
)

TOO_NARROW = Rule(
    "policy.too-narrow",
    "option min_sva_bits",
    "dev->iommu->max_pasids < 1 << min_sva_bits",
    "{dev} carries {range}; SVA is for devices with at least {bits} bits",
    Errno.EOPNOTSUPP,
    "thread 2022-06-09 Ashok Raj: no SVM on devices that lack the full width (R7)",
    remedy="use a wider device, or lower option min_sva_bits",
)
LOCAL_IN_GLOBAL_RANGE = Rule(
    "guard.local-in-global-range",
    "option guard = range",
    "the device has a portal && pasid < local_first",
    "{dev} has a portal, so its local numbers start at {first}: {pasid} is of the global range",
    Errno.EINVAL,
    "docs/thread.md section 3, second guard",
    remedy="let the driver start at option local_first",
)


class Scheme(ABC):
    """Base of all schemes: one global space, one number for an mm, no calls but the mainline ones.

    A scheme is one instance per machine. Attributes:
        name, summary, source: for `pasidlab schemes`; `source` names the mail that proposed it.
        options: see `Options`.
        takes_driver_numbers: whether the scheme has `bind_pasid`; only then does guard `range` divide the numbers.
        machine_wide: whether a number means one mm on the whole machine, whatever the device.
        shares_vtd_did: whether intel-iommu gives all processes one domain identifier, as Linux does.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    machine_wide: ClassVar[bool] = False

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.takes_driver_numbers = type(self).bind_pasid is not Scheme.bind_pasid
        self.shares_vtd_did = self.machine_wide or self.options.vtd_did == "shared"
        limits = self.options.quota_user, self.options.quota_device, self.options.min_sva_bits
        self._limited = any(limits) or self.options.guard == "range"

    # --- what an author changes --------------------------------------------------------------------------------

    @abstractmethod
    def bind(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Bind with a number that the core picks; the group, x86 and LAM tests have passed."""

    def bind_pasid(self, dev: Device, mm: MmStruct, pasid: int) -> IommuSva | Refusal:
        """Bind under the driver's number, which is not 0; the group, x86 and LAM tests have passed."""
        return self.no_such_call("iommu_sva_bind_device_pasid")

    def attach_device_pasid_any(self, domain: IommuDomain, dev: Device) -> int | Refusal:
        """Attach a domain to any free number of the device."""
        return self.no_such_call("iommu_attach_device_pasid_any")

    def driver_owns_pasids(self, dev: Device) -> bool:
        """Whether a driver under this scheme picks the number itself and calls bind_device_pasid."""
        return False

    def unbind_device(self, handle: IommuSva) -> None:
        """Give back one use of a bond."""
        iommu_sva_release_bond(handle)

    def get_pasid(self, handle: IommuSva) -> int:
        """Return the number of that very bond (R20)."""
        return handle.pasid

    def mm_get_enqcmd_pasid(self, mm: MmStruct) -> int:
        """Return the mm's number for ENQCMD-like instructions."""
        data = mm.iommu_mm
        return IOMMU_PASID_INVALID if data is None else data.pasid

    def mm_valid_pasid(self, mm: MmStruct) -> bool:
        """Return whether the mm has SVA data."""
        return mm.iommu_mm is not None

    def mm_pasid_drop(self, mm: MmStruct) -> None:
        """Free the global number of a dead mm, if it has one."""
        data = mm.iommu_mm
        if data is None:
            return
        if data.global_pasid is not None:
            iommu_free_global_pasid(mm.kernel, data.global_pasid)
        mm.iommu_mm = None

    def alloc_global(self, space: Allocator, dev: Device) -> int | None:
        """Take a number of the global space, in the order that the options ask for."""
        options, last = self.options, dev.max_pasids - 1
        if options.guard == "range" and self.takes_driver_numbers:
            last = min(last, options.local_first - 1)
        if options.order == "highest":
            return space.alloc_highest(IOMMU_FIRST_GLOBAL_PASID, last)
        if options.order == "reserve-low" and last > options.reserve:
            return space.alloc(options.reserve + 1, last)
        return space.alloc(IOMMU_FIRST_GLOBAL_PASID, last)

    def has_own_space(self, dev: Device) -> bool:
        """Whether numbers of this device mean nothing elsewhere."""
        return self.driver_owns_pasids(dev)

    def normal_bonds(self, dev: Device, mm: MmStruct) -> Sequence[IommuSva]:
        """Return the bonds of the mm on the device that `iommu_sva_bind_device()` made, the oldest first."""
        return () if dev.iommu_group is None else dev.iommu_group.bonds.get(mm, ())

    def normal_bond(self, dev: Device, mm: MmStruct) -> IommuSva | None:
        """Return the oldest of them."""
        bonds = self.normal_bonds(dev, mm)
        return bonds[0] if bonds else None

    def may_map_portal(self, dev: Device, mm: MmStruct) -> Refusal | None:
        """Whether a process may map the device's portal, by option `guard`; idxd does today what `mmap` asks for."""
        if self.options.guard == "mmap" and self.normal_bond(dev, mm) is None:
            return PORTAL_NO_BOND.refuse(dev=dev.name, mm=mm.name)
        if self.options.guard == "declared" and any(self.has_own_space(member) for member in dev.members):
            return PORTAL_NOT_ENQCMD.refuse(dev=dev.name)
        return None

    def bars_portal_without(self, dev: Device, bond: IommuSva) -> bool:
        """Whether its process may not map the device's portal once this bond is gone."""
        return self.options.guard == "mmap" and all(other is bond for other in self.normal_bonds(dev, bond.mm))

    # --- what the core calls -----------------------------------------------------------------------------------

    def bind_device(self, dev: Device, mm: MmStruct) -> IommuSva | Refusal:
        """Apply the policies of the options, then `bind`."""
        return (self._barred(dev, mm, None) if self._limited else None) or self.bind(dev, mm)

    def bind_device_pasid(self, dev: Device, mm: MmStruct, pasid: int) -> IommuSva | Refusal:
        """Apply the policies of the options, then `bind_pasid`; a design without the call refuses it at once."""
        limited = self._limited and self.takes_driver_numbers
        return (self._barred(dev, mm, pasid) if limited else None) or self.bind_pasid(dev, mm, pasid)

    def _barred(self, dev: Device, mm: MmStruct, pasid: int | None) -> Refusal | None:
        options = self.options
        if options.min_sva_bits and dev.max_pasids < 1 << options.min_sva_bits:
            return TOO_NARROW.refuse(dev=dev.name, range=pasid_range(dev), bits=options.min_sva_bits)
        in_global_range = pasid is not None and pasid < options.local_first
        if options.guard == "range" and in_global_range and has_portal(dev):
            return LOCAL_IN_GLOBAL_RANGE.refuse(dev=dev.name, first=options.local_first, pasid=pasid)
        return self.over_quota(dev, mm, pasid)

    # --- tools for authors -------------------------------------------------------------------------------------

    def no_such_call(self, call: str) -> Refusal:
        """Refuse a call that the design does not have."""
        return NO_SUCH_CALL.refuse(scheme=self.name, call=call)

    def over_quota(self, dev: Device, mm: MmStruct, pasid: int | None = None) -> Refusal | None:
        """Refuse a number that a quota forbids; what the mm holds already is not asked for again."""
        group, options = dev.iommu_group, self.options
        assert group is not None
        entry = self.normal_bond(dev, mm) if pasid is None else group.pasid_array.get(pasid)
        if isinstance(entry, IommuSva) and entry.mm is mm:
            return None
        if options.quota_user and not self.uses_number_of(dev, mm, pasid):
            held = sum(other.iommu_mm.numbers for other in mm.kernel.mms if other.user == mm.user and other.iommu_mm)
            if held >= options.quota_user:
                return QUOTA_USER.refuse(user=mm.user, held=held)
        if options.quota_device and len(group.pasid_array) >= options.quota_device:
            return QUOTA_DEVICE.refuse(dev=dev.name, held=len(group.pasid_array))
        return None

    def uses_number_of(self, dev: Device, mm: MmStruct, pasid: int | None) -> bool:
        """Whether a bind would use a number that the mm holds already; `pasid` None is a core-numbered one."""
        return pasid is None and mm.global_pasid is not None

    def data_of(self, mm: MmStruct, kind: type[Data]) -> Data | Refusal:
        """Return the mm's data, or new data of that kind, which the caller publishes on `mm.iommu_mm`."""
        if mm.iommu_mm is not None:
            assert isinstance(mm.iommu_mm, kind)
            return mm.iommu_mm
        return BIND_NO_MEMORY.refuse(mm=mm.name) if mm.kernel.allocation_fails() else kind(mm)

    def global_number(self, dev: Device, data: IommuMmData) -> int | Refusal:
        """Return the mm's global number if it fits the device, else take one; the caller frees a new one on failure."""
        if data.pasid != IOMMU_PASID_INVALID:
            return data.pasid if data.pasid < dev.max_pasids else number_too_wide(dev, data.mm, data.pasid)
        pasid = self.alloc_free_on_group(dev)
        return no_number(dev) if pasid is None else pasid

    def alloc_free_on_group(self, dev: Device) -> int | None:
        """Take the first global number that nobody has attached to the device's group.

        Numbers that a driver gave out on this group are passed over, which is what cures the standing blockade
        N1 of docs/thread.md: a number that fails and goes back would be drawn again by the next caller.
        """
        if not dev.max_pasids:
            return None
        assert dev.iommu_group is not None
        space = dev.kernel.iommu_global_pasid_ida
        taken = dev.iommu_group.pasid_array
        pasid = self.alloc_global(FreeInBoth(space, dev.iommu_group.held_numbers()) if taken else space, dev)
        if pasid is not None:
            report_global_pasid(dev, pasid)
        return pasid

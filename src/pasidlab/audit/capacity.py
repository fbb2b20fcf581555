"""How many address spaces fit on a device before a bind fails, and the rule that refuses the next: asked of the model.

A machine is built as it stands after probe. One address space is bound for real and stays. Then, run by run, the
numbers that further binds would take are taken at once, as are the other things of which each bind takes one (ASIDs of
SMMUs, domain identifiers of VT-d units, quotas), and the last address space of the run is bound for real. Within a run
the model treats all numbers alike, since runs are cut wherever a member of the group or its driver has a bound, or the
group has something attached; so where the last one fits, all do, and where it does not, bisection finds the first that
is refused. What refuses is the model's own answer. Afterwards the machine is as before, so that one machine serves
every device and every scheme.

Source: nothing of its own; the binds are those of the model.
Decided here: every address space opens the device through its driver (`Endpoint.open`), once, and no process binds
elsewhere. A bind that succeeds while arm-smmu-v3 writes beyond its linear CD table ends the count as a refusal would.
A dedicated queue of idxd counts one address space, since it has one owner.
Not modelled: memory, of which every bond takes some; devices beside the one that is asked about.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec import structs

from pasidlab.audit.supply import Supply
from pasidlab.devices import Endpoint
from pasidlab.drivers.arm_smmu_v3.master import CD_OUT_OF_BOUNDS
from pasidlab.drivers.intel.structs import FIRST_DID
from pasidlab.errors import ModelError
from pasidlab.linux.mm import MmStruct, mmput
from pasidlab.linux.structs import Device
from pasidlab.linux.sva import IommuSva
from pasidlab.machine import Machine
from pasidlab.pasid import INT_MAX, PasidSpace
from pasidlab.rules import Verdict
from pasidlab.schemes import Scheme

USER = "audit"
"""Who the address spaces belong to, as far as quotas ask."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How many address spaces fit, and what the next one meets: a refusal, or a finding where the bind succeeds."""

    spaces: int
    next: Verdict

    @property
    def result(self) -> str:
        """The errno of the next bind; where it succeeds and does harm, "damage"."""
        return self.next.result if self.next.result != "finding" else "damage"


@contextmanager
def under(machine: Machine, scheme: Scheme) -> Iterator[None]:
    """Let a machine with no bonds run another scheme."""
    before = machine.scheme
    machine.scheme = machine.kernel.scheme = scheme
    try:
        yield
    finally:
        machine.scheme = machine.kernel.scheme = before


def fit(machine: Machine, device: str) -> Fit:
    """Return how many address spaces fit on a device of a machine that nothing is bound on, under its scheme."""
    endpoint = machine.endpoints[device]
    before = _sizes(machine, endpoint.dev)
    with _Binding(endpoint) as first:
        if isinstance(first, Verdict):
            return Fit(0, first)
        return _Bench(machine, endpoint, first, before).fit()


class _Binding:
    """A new address space on a device: its bond, or what came instead. It ends with the block, and leaves nothing."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.kernel = endpoint.dev.kernel
        self.known = len(self.kernel.findings)
        self.mm = MmStruct(self.kernel, "the next process", USER)
        self.bond: IommuSva | None = None

    def __enter__(self) -> IommuSva | Verdict:
        answer = self.endpoint.open(self.mm)
        if not isinstance(answer, IommuSva):
            return answer
        self.bond = answer
        harm = (found for found in self.kernel.findings[self.known :] if found.rule is CD_OUT_OF_BOUNDS)
        return next(harm, answer)

    def __exit__(self, *error: object) -> None:
        if self.bond is not None:
            self.endpoint.release(self.bond)
        mmput(self.mm)
        for finding in self.kernel.findings[self.known :]:
            self.kernel.forget(finding)


class _Bench:
    """A device on which one address space is bound, and what further binds would take."""

    def __init__(self, machine: Machine, endpoint: Endpoint, first: IommuSva, before: dict[PasidSpace, int]) -> None:
        self.endpoint = endpoint
        self.scheme = machine.scheme
        grown = [space for space, size in before.items() if len(space) > size]
        source = _source(machine, endpoint, grown)
        self.numbers = _supply(source, endpoint.dev, first.pasid, machine)
        self.others = [
            (Supply(space, low, INT_MAX), len(space) - before[space])
            for space, low in _tags(machine, endpoint.dev).items()
            if space in grown
        ]
        self.ends = _run_ends(self.numbers, machine, endpoint.dev, first.pasid)

    def fit(self) -> Fit:
        """Find the first address space that does not fit."""
        begin = 0
        for end in self.ends:
            if self._refused(end):
                found = bisect_left(range(begin, end), True, key=lambda count: self._refused(count) is not None)
                return self._fit(begin + found)
            begin = end + 1
        return self._fit(begin)

    def _fit(self, count: int) -> Fit:
        refused = self._refused(count)
        assert refused is not None
        return Fit(count + 1, refused)

    def _refused(self, count: int) -> Verdict | None:
        """Bind one more where the first address space and `count` others are bound; return what keeps it from that."""
        with self._taken(count), _Binding(self.endpoint) as answer:
            if isinstance(answer, Verdict):
                return answer
            expected = self.numbers[count] if count < len(self.numbers) else "nothing"
            if answer.pasid != expected:
                raise ModelError(f"{self.endpoint.dev.name}: a bind took {answer.pasid}; expected was {expected}")
            return None

    @contextmanager
    def _taken(self, count: int) -> Iterator[None]:
        """Let the machine be as after `count` further binds."""
        options = self.scheme.options
        self.numbers.take(count)
        for supply, each in self.others:
            supply.take(count * each)
        user, device = (_less(quota, count) for quota in (options.quota_user, options.quota_device))
        self.scheme.options = structs.replace(options, quota_user=user, quota_device=device)
        try:
            yield
        finally:
            self.scheme.options = options
            for supply in (self.numbers, *(other for other, _ in self.others)):
                supply.give_back()


def _less(quota: int, count: int) -> int:
    """Return what a quota is where `count` more than are counted use it; it is never 0, which would be no limit."""
    return max(quota - count, 1) if quota else 0


def _sizes(machine: Machine, dev: Device) -> dict[PasidSpace, int]:
    """Return how many numbers are held of each space that a bind on the device could take from."""
    group = dev.iommu_group
    spaces = [machine.kernel.iommu_global_pasid_ida, machine.endpoints[dev.name].own_numbers]
    if group is not None:
        spaces.append(group.held_numbers())
    return {space: len(space) for space in (*spaces, *_tags(machine, dev))}


def _tags(machine: Machine, dev: Device) -> dict[PasidSpace, int]:
    """Return the spaces of what each address space needs beside a PASID, ASIDs and domain identifiers, with the lowest.

    Numbers above the highest that a driver takes do no harm here: who comes that far has been refused before.
    """
    vtds = machine.parts.vtds
    units = {vtds.infos[member].iommu: None for member in dev.members if member in vtds.infos}
    return {machine.parts.smmus.asids: 1, **{unit.domain_ids: FIRST_DID for unit in units}}


def _source(machine: Machine, endpoint: Endpoint, grown: list[PasidSpace]) -> PasidSpace:
    """Return the space that the PASID was taken from: the machine's, the driver's own, or the group's."""
    group = endpoint.dev.iommu_group
    assert group is not None
    first_of = (machine.kernel.iommu_global_pasid_ida, endpoint.own_numbers)
    return next((space for space in first_of if space in grown), group.held_numbers())


def _supply(source: PasidSpace, dev: Device, first: int, machine: Machine) -> Supply:
    """Return the numbers that come after the first one."""
    machine_wide = source is machine.kernel.iommu_global_pasid_ida
    if machine_wide and machine.scheme.options.order == "highest":
        return Supply(source, 1, first - 1, descending=True)
    return Supply(source, first + 1, dev.max_pasids - 1)


def _run_ends(numbers: Supply, machine: Machine, dev: Device, first: int) -> list[int]:
    """Return where runs end: wherever a member, its driver or an option has a bound, and around what is attached."""
    assert dev.iommu_group is not None
    starts = {machine.scheme.options.local_first}
    for member in dev.members:
        starts |= {member.max_pasids, driver_bound(machine, member) or 0}
    for pasid in dev.iommu_group.pasid_array:
        starts |= {pasid, pasid + 1} if pasid != first else set()
    return numbers.ends(starts)


def driver_bound(machine: Machine, dev: Device) -> int | None:
    """Return below which numbers a driver has room for a device: its CD table's, its PASID directory's; None: none."""
    smmus, vtds = machine.parts.smmus, machine.parts.vtds
    if dev in smmus.masters:
        return 1 << smmus.masters[dev].ssid_bits
    table = vtds.infos[dev].pasid_table if dev in vtds.infos else None
    return None if table is None else table.max_pasid

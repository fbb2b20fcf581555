"""One row for each device that has, or could have, PASIDs: how many are usable, what bounds them, how far they go.

A device has a row if it has a PASID capability or property (a virtual function: its physical one), or is in a group
with one that has. Numbers come from the model: limits as they are after probe, and how many address spaces fit by
binding (`capacity`). Devices that are alike are counted once.

Decided here: devices are alike if their descriptions are the same but for names and requester identifiers, and those of
their groups' members, and if they are behind the same IOMMU; where a scheme gives a device a space of its own, also if
the same numbers are attached at probe.
Usable numbers are those of Linux today, whatever the schemes that are asked for: machine-wide, less what is held.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace

from msgspec import structs

from pasidlab.audit.capacity import Fit, fit, under
from pasidlab.audit.limits import Limit, barrier, doubted, narrowest_member, number_limit
from pasidlab.description import MachineSpec
from pasidlab.description.unknown import Unknown
from pasidlab.linux.structs import Device, IommuGroup
from pasidlab.machine import Machine
from pasidlab.rules import MOST_LISTED, Verdict
from pasidlab.schemes import Mainline, Scheme


@dataclass(frozen=True, slots=True)
class Room:
    """How many address spaces fit on a device under a scheme before a bind fails.

    Attributes:
        result: what the next bind gets, an errno, or `damage` where it succeeds and the IOMMU's driver corrupts memory.
        rule, why, remedy: the rule that says so, its sentence, and what people can do.
    """

    spaces: int
    result: str
    rule: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Row:
    """What an audit says of one device.

    Attributes:
        iommu: None is a device behind none.
        group: the group that it is in; None is a group of its own.
        bits: width of its own PASIDs; None is a device that has none.
        own: numbers that the device itself could carry, 0 left out: 1..own.
        of_iommu: the same of its IOMMU.
        usable: how many numbers processes can have on it, on a machine that nothing is bound on.
        limit: what bounds them.
        held: how many numbers within its bound are held at probe.
        beside: how many other devices are in its group, which share every number with it.
        first_beside: the first of these, by name.
        sharing: how many other devices with usable numbers draw from the same machine-wide space.
        first_sharing: the first of these, by name.
        today: under mainline, which `usable` and `limit` follow from.
        rooms: by scheme, of those that were asked for.
    """

    device: str
    kind: str
    iommu: str | None
    group: str | None
    bits: int | None
    own: int
    of_iommu: int
    usable: int
    limit: Limit
    held: int
    beside: int
    first_beside: tuple[str, ...]
    today: Room
    sharing: int = 0
    first_sharing: tuple[str, ...] = ()
    rooms: dict[str, Room] = field(default_factory=dict)


class Probed:
    """A machine after probe, as each scheme leaves it there, and what there is to know of its devices.

    One machine serves all schemes, unless option `guard = range` lets those with numbers of the driver's give out
    others at probe.
    """

    def __init__(self, spec: MachineSpec) -> None:
        self.spec = spec
        self.unknown = Unknown.of(spec.finding)
        self.described = {device.name: device for device in spec.device}
        self.mainline = Mainline(spec.options)
        self._machines: dict[bool, Machine] = {}
        self.machine = self.machine_of(self.mainline)
        self.devices = [self.device(described.name) for described in spec.device]
        carrying = (dev.iommu_group for dev in self.devices if self.bits(dev) is not None)
        self._carrying = {group for group in carrying if group is not None}
        self._narrowest: dict[IommuGroup | None, Device | None] = {}
        self.found = self.machine.kernel.findings
        self._held = list(self.machine.kernel.iommu_global_pasid_ida)

    def machine_of(self, scheme: Scheme) -> Machine:
        """Return the machine as a scheme leaves it after probe."""
        divided = self.spec.options.guard == "range" and scheme.takes_driver_numbers
        if divided not in self._machines:
            self._machines[divided] = Machine(self.spec, scheme)
        return self._machines[divided]

    def device(self, name: str) -> Device:
        """Return the kernel's view of a device."""
        return self.machine.endpoints[name].dev

    def bits(self, dev: Device) -> int | None:
        """Return the width of a device's own PASIDs as it is described, or that of its physical function."""
        return self.described[(dev.physfn or dev).name].pasid_bits

    def is_capable(self, dev: Device) -> bool:
        """Whether a device has PASIDs, or shares a group with one that has."""
        return self.bits(dev) is not None or dev.iommu_group in self._carrying

    def narrowest(self, dev: Device) -> Device | None:
        """Return the member that bounds a device's group, found once for a group."""
        if dev.iommu_group not in self._narrowest:
            self._narrowest[dev.iommu_group] = narrowest_member(dev)
        return self._narrowest[dev.iommu_group]

    def held_below(self, bound: int) -> int:
        """Return how many numbers below a bound are held after probe."""
        return bisect_left(self._held, bound)


class _Likeness:
    """Which devices are alike, so that what holds for one holds for the others."""

    def __init__(self, probed: Probed) -> None:
        self.probed = probed
        self._numbers: dict[Hashable, int] = {}
        self._of_group: dict[object, int] = {}

    def key(self, dev: Device, scheme: Scheme) -> Hashable:
        """Return the same for devices that are alike under a scheme."""
        group = dev.iommu_group
        if group is None:
            return self._traits(dev)
        if group not in self._of_group:
            self._of_group[group] = self._number(tuple(self._traits(member) for member in group.devices))
        own = scheme.has_own_space(dev)
        held = tuple(sorted(group.pasid_array)) if own else ()
        return self._of_group[group], self._traits(dev), held

    def _traits(self, dev: Device) -> int:
        """Return a number for all that is described of a device but what names it."""
        spec = self.probed.described[dev.name]
        streams = len(spec.stream_id) if isinstance(spec.stream_id, list) else 1
        plain = structs.replace(spec, name="-", stream_id=streams, source_id=None, group=None, physfn=None)
        physfn = None if dev.physfn is None else self._traits(dev.physfn)
        return self._number((plain, physfn))

    def _number(self, thing: Hashable) -> int:
        return self._numbers.setdefault(thing, len(self._numbers))


class Rooms:
    """How many address spaces fit on each device under a scheme."""

    def __init__(self, probed: Probed, likeness: _Likeness, scheme: Scheme) -> None:
        self.scheme = scheme
        self._machine = probed.machine_of(scheme)
        self._likeness = likeness
        self._known: dict[Hashable, tuple[Fit, Device]] = {}

    def fit(self, dev: Device) -> Fit:
        """Return it, counted once for devices that are alike, unless a refusal tells of one of them in a sentence."""
        key = self._likeness.key(dev, self.scheme)
        if key not in self._known:
            self._known[key] = self._count(dev), dev
        found, counted = self._known[key]
        if counted is dev:
            return found
        names = _counterparts(counted, dev)
        if not found.spaces and _tells_of(found.next, names):
            return self._count(dev)
        return Fit(found.spaces, _renamed(found.next, names))

    def _count(self, dev: Device) -> Fit:
        with under(self._machine, self.scheme):
            return fit(self._machine, dev.name)

    def room(self, dev: Device) -> Room:
        """Return it in words."""
        found = self.fit(dev)
        return Room(found.spaces, found.result, found.next.rule.id, found.next.why, found.next.remedy)


def _counterparts(counted: Device, dev: Device) -> dict[str, str]:
    """Return the names of a device and of those around it, by the names of their like around the counted one."""
    names = {}
    if counted.iommu_group is not dev.iommu_group:
        names = {member.name: other.name for member, other in zip(counted.members, dev.members, strict=True)}
    if counted.physfn is not None and dev.physfn is not None:
        names[counted.physfn.name] = dev.physfn.name
    return names | {counted.name: dev.name}


def _tells_of(verdict: Verdict, names: Iterable[str]) -> bool:
    """Whether a fact is a sentence in which one of these names stands."""
    sentences = [fact for fact in verdict.facts.values() if isinstance(fact, str) and " " in fact]
    return any(name in sentence for sentence in sentences for name in names)


def _renamed(verdict: Verdict, names: Mapping[str, str]) -> Verdict:
    """Return a verdict with other names."""
    renamed = copy(verdict)
    renamed.facts = {
        key: names.get(fact, fact) if isinstance(fact, str) else fact for key, fact in renamed.facts.items()
    }
    return renamed


def rows_of(probed: Probed, schemes: Iterable[type[Scheme]]) -> list[Row]:
    """Return the rows of a machine, in the order of its description."""
    likeness = _Likeness(probed)
    mainline = Rooms(probed, likeness, probed.mainline)
    asked = [
        mainline if scheme is Mainline else Rooms(probed, likeness, scheme(probed.spec.options)) for scheme in schemes
    ]
    rows = [_row(probed, dev, mainline, asked) for dev in probed.devices if probed.is_capable(dev)]
    return list(_with_sharers(rows))


def _row(probed: Probed, dev: Device, mainline: Rooms, asked: list[Rooms]) -> Row:
    narrowest = probed.narrowest(dev)
    limit = barrier(dev, mainline.fit(dev)) or number_limit(probed.machine, dev, narrowest)
    limit = doubted(limit, dev, narrowest, probed.unknown)
    held = probed.held_below(limit.below)
    bits, described = probed.bits(dev), probed.described[dev.name]
    return Row(
        dev.name,
        described.kind,
        described.iommu,
        described.group,
        bits,
        0 if bits is None else (1 << bits) - 1,
        max(dev.iommu.max_pasids - 1, 0) if dev.iommu else 0,
        max(limit.below - 1, 0) - held,
        limit,
        held,
        len(dev.members) - 1,
        tuple(member.name for member in dev.members[: MOST_LISTED + 1] if member is not dev)[:MOST_LISTED],
        mainline.room(dev),
        rooms={rooms.scheme.name: rooms.room(dev) for rooms in asked},
    )


def _with_sharers(rows: list[Row]) -> Iterator[Row]:
    """Yield the rows with who else draws from the machine-wide space."""
    sharers = [row.device for row in rows if row.usable]
    for row in rows:
        others = [name for name in sharers[: MOST_LISTED + 1] if name != row.device][:MOST_LISTED]
        yield replace(row, sharing=len(sharers) - 1, first_sharing=tuple(others)) if row.usable else row

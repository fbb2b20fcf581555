"""Put together what several sources say of one machine: who means the same, whom to believe, what lies behind what.

Sources are given in the order in which they are believed: what a running kernel shows before configuration space,
that before firmware's tables, logs last. The first that says a key is believed; another value from a later one
becomes a finding.

IOMMUs are the same when they have the same registers, are the same PCI function, or have the same name; functions when
they have the same requester ID; platform devices when they have the same name, or the same node in firmware.

A function that nobody puts behind an IOMMU by name gets there through the maps of requester IDs: of the first source
that puts it behind one, the first map that has it.

Source: the order of `of_iommu_configure()` and `acpi_iommu_configure_id()` (drivers/iommu/of_iommu.c,
drivers/acpi/scan.c) for which source names a device's IOMMU; the rest is decided here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import TypeVar

from pasidlab.description import unknown
from pasidlab.hw.requester import LAST_RID
from pasidlab.platforms.said import Endpoint, Iommu, Kind, Known, Rid, RidMap, Said
from pasidlab.rules import Finding, Rule

DISAGREE = Rule(
    "import.sources-disagree",
    "the sources of an import",
    "two sources give a key different values",
    "{what}: {key} is {first!r} by {first_origin}, and {second!r} by {second_origin}; the first is taken",
    remedy="find out which is right; firmware tables are wrong more often than registers",
)
NO_SUCH_IOMMU = Rule(
    unknown.NO_SUCH_IOMMU,
    "the sources of an import",
    "a device is behind an IOMMU that no source describes",
    "{device} is behind {iommu} by {origin}, which no source describes: it is taken for one behind none",
    remedy="give the firmware's table or sys/class/iommu too",
)


NAMELESS = Rule(
    "import.nameless-smmu",
    "the sources of an import",
    "a dump of an SMMU does not say which it is, and the machine has not just one",
    "{file}: does not say which SMMU it is of, and {others}: its registers and capabilities count for none",
    remedy="give it beside sources that name one SMMU (firmware's tables, sys/class/iommu); else write what it tells "
    "into the machine's file: IDR1.SSIDSIZE is ssid_bits, IDR1.SIDSIZE is sid_bits",
)


@dataclass(slots=True, eq=False)
class Merged:
    """One machine, as all sources together say.

    Attributes:
        iommus: by name, in the order in which they were first named.
        endpoints: likewise; PCI functions and platform devices.
        cpu, machine: keys of `CpuSpec` and `MachineSpec`.
        findings: of all sources, then those of the merge itself.
    """

    iommus: dict[str, Iommu] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    cpu: dict[str, Known] = field(default_factory=dict)
    machine: dict[str, Known] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def merge(sources: Sequence[Said]) -> Merged:
    """Return the machine that the sources describe together."""
    merged = Merged(findings=[finding for said in sources for finding in said.findings])
    smmus = _smmus(sources)
    names = [_join_iommus(merged, [*said.iommus, *_named(merged, said, smmus)]) for said in sources]
    _join_endpoints(merged, sources, names)
    for said in sources:
        _take(merged.findings, "the CPUs", merged.cpu, said.cpu)
        _take(merged.findings, "the kernel", merged.machine, said.machine)
        _leave_unused(merged, said)
    pairs = zip(sources, names, strict=True)
    _route(merged, [[_renamed(one, called) for one in said.rid_maps] for said, called in pairs])
    _forget_unknown_iommus(merged)
    _forget_undriven(merged, set().union(*(said.undriven for said in sources)))
    return merged


def _take(findings: list[Finding], what: str, known: dict[str, Known], said: dict[str, Known]) -> None:
    """Add keys that are not known yet; tell of those that are known otherwise."""
    for key, value in said.items():
        first = known.setdefault(key, value)
        if first.value != value.value:
            facts = {"first": first.value, "first_origin": first.origin}
            facts |= {"second": value.value, "second_origin": value.origin}
            findings.append(DISAGREE.finding(what=what, key=key, **facts))


def _leave_unused(merged: Merged, said: Said) -> None:
    """Take what the kernel does not use of its IOMMUs for what they have."""
    for one in merged.iommus.values():
        one.keys |= said.unused.get(one.kind, {})


# --- who is the same -----------------------------------------------------------------------------------------------

T = TypeVar("T", Iommu, Endpoint)


def _smmus(sources: Sequence[Said]) -> list[Iommu]:
    """Return the SMMUv3s that the sources name, each once."""
    every = (one for said in sources for one in said.iommus if one.kind == "arm-smmu-v3")
    return list({one.name if one.base is None else one.base: one for one in every}.values())


def _named(merged: Merged, said: Said, smmus: Sequence[Iommu]) -> Iterator[Iommu]:
    """Yield the SMMU that a source does not name as the only one that there is; where there are others, say so."""
    one = said.nameless
    if one is None:
        return
    if len(smmus) == 1:
        yield replace(one, name=smmus[0].name, base=smmus[0].base)
    else:
        others = "no source names one" if not smmus else f"the machine has {len(smmus)}"
        merged.findings.append(NAMELESS.finding(file=said.source, others=others))


def _join_iommus(merged: Merged, iommus: Sequence[Iommu]) -> dict[str, str]:
    """Add a source's IOMMUs; returns what each is called now, by the name that the source gave it."""
    by_base = {one.base: one for one in merged.iommus.values() if one.base is not None}
    by_rid = {one.rid: one for one in merged.iommus.values() if one.rid is not None}
    called = {}
    for one in iommus:
        same = by_base.get(one.base) if one.base is not None else by_rid.get(one.rid) if one.rid is not None else None
        named = merged.iommus.get(one.name)
        if same is None and named is not None and (named.base is None or one.base is None):
            same = named
        if same is None:
            same = Iommu(_free(one.name, merged.iommus), one.kind, one.origin, one.base, rid=one.rid)
            merged.iommus[same.name] = same
        if same.base is None:
            same.base = one.base
        _take(merged.findings, same.name, same.keys, one.keys)
        called[one.name] = same.name
    return called


def _free(name: str, taken: dict[str, T]) -> str:
    """Return a name that nobody has: the name itself, or with a number behind it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def _join_endpoints(merged: Merged, sources: Sequence[Said], names: Sequence[dict[str, str]]) -> None:
    by_rid: dict[Rid, Endpoint] = {}
    by_node: dict[str, Endpoint] = {}
    for said, called in zip(sources, names, strict=True):
        for one in said.endpoints:
            same = _same_endpoint(merged, one, by_rid, by_node)
            same.rid = same.rid or one.rid
            same.node = same.node or one.node
            same.parent = same.parent or one.parent
            if same.rid is not None:
                by_rid[same.rid] = same
            if same.node:
                by_node[same.node] = same
            _take(merged.findings, same.name, same.keys, _rename_iommu(one.keys, called))


def _same_endpoint(
    merged: Merged, one: Endpoint, by_rid: dict[Rid, Endpoint], by_node: dict[str, Endpoint]
) -> Endpoint:
    """Return the endpoint that this one is, a new one if it is none that is known."""
    same = by_rid.get(one.rid) if one.rid is not None else by_node.get(one.node) if one.node else None
    if same is None and one.rid is None:
        same = merged.endpoints.get(one.name)
    if same is None:
        same = Endpoint(_free(one.name, merged.endpoints), one.bus, one.origin)
        merged.endpoints[same.name] = same
    return same


def _rename_iommu(keys: dict[str, Known], called: dict[str, str]) -> dict[str, Known]:
    """Return a device's keys with its IOMMU's name as it is in the merge."""
    iommu = keys.get("iommu")
    if iommu is None or iommu.value not in called:
        return keys
    return keys | {"iommu": iommu._replace(value=called[iommu.value])}


def _renamed(one: RidMap, called: dict[str, str]) -> RidMap:
    name = None if one.iommu is None else called.get(one.iommu, one.iommu)
    return RidMap(one.segment, one.first, one.last, name, one.origin, one.output, one.keys)


# --- what lies behind what -----------------------------------------------------------------------------------------


def _route(merged: Merged, maps: Sequence[Sequence[RidMap]]) -> None:
    """Give each function what the first source says that puts it behind an IOMMU; `maps` are those of each source."""
    finders: dict[int, list[Callable[[int], RidMap | None]]] = {}
    for one_source in maps:
        for segment, find in _finders(one_source).items():
            finders.setdefault(segment, []).append(find)

    def found(rid: Rid) -> RidMap | None:
        ones = (find(rid.number) for find in finders.get(rid.segment, ()))
        return next((one for one in ones if one is not None and one.iommu is not None), None)

    for endpoint in merged.endpoints.values():
        one = None if endpoint.rid is None else found(_unit_rid(merged, endpoint, endpoint.rid, found))
        if one is not None and endpoint.rid is not None:
            _follow(merged, endpoint, endpoint.rid.number, one)


def _unit_rid(merged: Merged, endpoint: Endpoint, rid: Rid, found: Callable[[Rid], RidMap | None]) -> Rid:
    """Return whose requester ID decides: behind VT-d a virtual function has the unit of its physical one."""
    physfn = endpoint.keys.get("physfn")
    function = None if physfn is None else merged.endpoints.get(physfn.value)
    if function is None or function.rid is None:
        return rid
    one = found(function.rid)
    iommu = None if one is None else merged.iommus.get(one.iommu or "")
    return function.rid if iommu is not None and iommu.kind == "intel-vtd" else rid


def _finders(maps: Sequence[RidMap]) -> dict[int, Callable[[int], RidMap | None]]:
    """Return what finds a source's map of a requester ID, by segment."""
    by_segment: dict[int, list[RidMap]] = {}
    for one in maps:
        by_segment.setdefault(one.segment, []).append(one)
    return {segment: _painted(within) for segment, within in by_segment.items()}


def _painted(maps: Sequence[RidMap]) -> Callable[[int], RidMap | None]:
    """Return what finds the first map that has a requester ID."""
    starts, winners = _stretches(maps)

    def find(number: int) -> RidMap | None:
        at = bisect_right(starts, number) - 1 if 0 <= number <= LAST_RID else -1
        index = winners[at] if at >= 0 else -1
        return None if index < 0 else maps[index]

    return find


def _stretches(maps: Sequence[RidMap]) -> tuple[list[int], list[int]]:
    """Return where stretches of IDs begin that one map has, and the index of each's map; -1 is none."""
    begins, ends = sorted((one.first, index) for index, one in enumerate(maps)), {one.last + 1 for one in maps}
    starts, winners, open_ones, taken = [], [], list[int](), 0
    for place in sorted({first for first, _ in begins} | ends):
        while taken < len(begins) and begins[taken][0] <= place:
            heappush(open_ones, begins[taken][1])
            taken += 1
        while open_ones and maps[open_ones[0]].last < place:
            heappop(open_ones)
        starts.append(place)
        winners.append(open_ones[0] if open_ones else -1)
    return starts, winners


def _follow(merged: Merged, endpoint: Endpoint, number: int, one: RidMap) -> None:
    """Say of a function what the map says of it; what firmware does not allow, a capability does not bring back."""
    endpoint.say("iommu", one.iommu, one.origin)
    for key, known in one.keys.items():
        first = endpoint.keys.setdefault(key, known)
        if first.value is True and known.value is False:
            endpoint.keys[key] = known
    iommu = merged.iommus.get(endpoint.keys["iommu"].value)
    if iommu is not None and iommu.name == one.iommu and iommu.kind == "arm-smmu-v3":
        endpoint.say("stream_id", one.stream(number), one.origin)


def _forget_unknown_iommus(merged: Merged) -> None:
    """Take devices for ones behind no IOMMU whose IOMMU nobody describes."""
    for endpoint in merged.endpoints.values():
        iommu = endpoint.keys.get("iommu")
        if iommu is not None and iommu.value not in merged.iommus:
            facts = {"device": endpoint.name, "iommu": iommu.value, "origin": iommu.origin}
            merged.findings.append(NO_SUCH_IOMMU.finding(**facts))
            del endpoint.keys["iommu"]


def _forget_undriven(merged: Merged, kinds: set[Kind]) -> None:
    """Take devices for ones behind no IOMMU whose IOMMU the kernel does not drive; who said so has the finding."""
    for endpoint in merged.endpoints.values():
        iommu = endpoint.keys.get("iommu")
        if iommu is not None and merged.iommus[iommu.value].kind in kinds:
            del endpoint.keys["iommu"]

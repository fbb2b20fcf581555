"""What differs between two machines that should be equal, what bears on SVA first, causes before what they lead to.

Decided here: IOMMUs are matched by name, those left over in their order if they are of one model; devices by name.
What only tells how a machine is addressed or modelled (requester identifiers, caches) does not bear on SVA, nor do
options of the kernel and words of its command line that say nothing of IOMMUs, PCI or page tables, nor findings that
are notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from pasidlab.audit.audited import Audit
from pasidlab.description import DeviceSpec, IommuSpec
from pasidlab.description.config import EFFECTS
from pasidlab.rules import Level

KINDS = ("kernel", "config", "command line", "cpu", "options", "iommu", "device", "row", "finding")
"""What differences are about, in the order in which they are told."""
ABSENT = "absent"
"""What stands for the side that has no such thing."""
_ADDRESSES = {"iommu": {"sid_bits", "caches", "detach", "caching_mode"}, "device": {"stream_id", "source_id", "sloppy"}}
_OPTIONS = {*EFFECTS, "INTEL_IDXD_SVM", "INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON", "INTEL_IOMMU_DEFAULT_ON"}
_WORDS = ("iommu", "intel_iommu", "amd_iommu", "arm-smmu", "pci", "no5lvl", "noats", "nopasid", "vfio", "idxd")
"""Beginnings of words of a command line that bear on SVA."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    Attributes:
        kind: one of KINDS.
        name: of the IOMMU, the device, the option, the word or the rule; empty where there is but one.
        key: which of its keys; empty where the whole thing is on one side only.
        first, second: its values, as JSON has them; "absent" on the side that has no such thing.
        bears: it bears on SVA.
    """

    kind: str
    name: str
    key: str
    first: Any
    second: Any
    bears: bool = True


def compare(first: Audit, second: Audit) -> list[Difference]:
    """Return what differs between two machines, in the order in which it is to be told."""
    differing = [
        *_kernel(first, second),
        *_mapping("config", first.spec.config, second.spec.config, _OPTIONS),
        *_command_lines(first.spec.cmdline, second.spec.cmdline),
        *_keys("cpu", "", first.spec.cpu, second.spec.cpu),
        *_keys("options", "", first.spec.options, second.spec.options),
        *_parts(first, second),
        *_rows(first, second),
        *_findings(first, second),
    ]
    return sorted(differing, key=lambda difference: (not difference.bears, KINDS.index(difference.kind)))


def _kernel(first: Audit, second: Audit) -> Iterator[Difference]:
    if first.spec.kernel != second.spec.kernel:
        yield Difference("kernel", "", "profile", first.spec.kernel, second.spec.kernel)
    yield from _mapping("kernel", first.spec.switches, second.spec.switches, None)


def _mapping(
    kind: str, first: Mapping[str, Any], second: Mapping[str, Any], bearing: set[str] | None
) -> Iterator[Difference]:
    """Compare tables; `bearing` are the names that bear on SVA, None for all."""
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name, ABSENT), second.get(name, ABSENT)
        if one != other:
            yield Difference(kind, name, "", one, other, bearing is None or name in bearing)


def _command_lines(first: str, second: str) -> Iterator[Difference]:
    """Compare the words of command lines by what stands before the first `=`; order does not matter."""
    one, other = _words(first), _words(second)
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key):
            here, there = (" ".join(words.get(key, [])) or ABSENT for words in (one, other))
            yield Difference("command line", key, "", here, there, key.startswith(_WORDS))


def _words(line: str) -> dict[str, list[str]]:
    by_key: dict[str, list[str]] = {}
    for word in line.split():
        by_key.setdefault(word.partition("=")[0], []).append(word)
    return by_key


def _keys(kind: str, name: str, first: msgspec.Struct, second: msgspec.Struct) -> Iterator[Difference]:
    """Compare two things key by key."""
    one, other = structs.asdict(first), structs.asdict(second)
    for key in one:
        if one[key] != other[key]:
            bears = key not in _ADDRESSES.get(kind, ())
            yield Difference(kind, name, key, msgspec.to_builtins(one[key]), msgspec.to_builtins(other[key]), bears)


def _parts(first: Audit, second: Audit) -> Iterator[Difference]:
    """Compare IOMMUs, then devices; those of the second machine are called as their counterparts in the first."""
    here = {iommu.name: iommu for iommu in first.spec.iommu}
    there = _called_alike(first.spec.iommu, second.spec.iommu)
    yield from _named("iommu", here, dict(there.values()))
    new_names = {old: name for old, (name, _) in there.items()}
    devices = {device.name: device for device in first.spec.device}
    others = {
        device.name: structs.replace(device, iommu=None if device.iommu is None else new_names[device.iommu])
        for device in second.spec.device
    }
    yield from _named("device", devices, others)


def _called_alike(first: list[IommuSpec], second: list[IommuSpec]) -> dict[str, tuple[str, IommuSpec]]:
    """Return, by name, what each IOMMU of the second machine is called in the first, and itself under that name."""
    names = {iommu.name for iommu in second}
    known = {iommu.name for iommu in first}
    free = [iommu for iommu in first if iommu.name not in names]
    called = {}
    for iommu in second:
        partner = None
        if iommu.name not in known:
            partner = next((other for other in free if other.model == iommu.model), None)
        if partner is not None:
            free.remove(partner)
        name = iommu.name if partner is None else partner.name
        called[iommu.name] = name, structs.replace(iommu, name=name)
    return called


def _named(
    kind: str, first: Mapping[str, IommuSpec | DeviceSpec], second: Mapping[str, IommuSpec | DeviceSpec]
) -> Iterator[Difference]:
    for name in dict.fromkeys([*first, *second]):
        if name not in second:
            yield Difference(kind, name, "", "present", ABSENT)
        elif name not in first:
            yield Difference(kind, name, "", ABSENT, "present")
        else:
            yield from _keys(kind, name, first[name], second[name])


def _rows(first: Audit, second: Audit) -> Iterator[Difference]:
    """Compare what the devices of both come to."""
    others = {row.device: row for row in second.rows}
    for row in first.rows:
        other = others.get(row.device)
        if other is None:
            continue
        if row.usable != other.usable:
            yield Difference("row", row.device, "usable", row.usable, other.usable)
        if row.limit.kind is not other.limit.kind:
            yield Difference("row", row.device, "limit", row.limit.kind.value, other.limit.kind.value)


def _findings(first: Audit, second: Audit) -> Iterator[Difference]:
    """Tell the findings that only one of them has."""
    here = {(finding.rule.id, finding.why): finding for finding in first.findings}
    there = {(finding.rule.id, finding.why): finding for finding in second.findings}
    for key, finding in (here | there).items():
        if key in here and key in there:
            continue
        sides = (finding.why, ABSENT) if key in here else (ABSENT, finding.why)
        yield Difference("finding", finding.rule.id, "", *sides, bears=finding.rule.level is not Level.NOTE)

"""What a host did not show, and what is not known of the machine because of it.

Linux shows firmware's tables, the device tree as a whole and often the log to root only. What was there and could not
be read is a finding where nothing else tells the same, so that an import does not take it for what there is not.

Decided here: files of one kind are one finding. Of configuration space, of which users see 64 bytes, `pci.unreadable`
tells. The log counts only where an SMMUv3 is, whose features are shown nowhere else; debugfs does not count, which
shows what the driver made of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pasidlab.platforms.host.kmsg import DMESG
from pasidlab.platforms.host.manifest import Missing
from pasidlab.platforms.host.tree import Tree
from pasidlab.platforms.host.trees import CheckedTree
from pasidlab.rules import Finding, Rule

INCOMPLETE = Rule(
    "capture.incomplete",
    "the files of a host",
    "a file is there that matters, and it could not be read",
    "{what} not read ({reason}): it is not known {unknown}",
    remedy="capture again as root, or give the file beside the capture",
)


def _has_smmu(tree: Tree) -> bool:
    return any(name.startswith("smmu3.") for name in tree.names("sys/class/iommu"))


def _has_no_config(tree: Tree) -> bool:
    places = ["proc/config.gz", *(f"boot/{name}" for name in tree.names("boot") if name.startswith("config-"))]
    places += [f"lib/modules/{release}/config" for release in tree.names("lib/modules")]
    return not any(tree.read(place) for place in places)


def _always(tree: Tree) -> bool:
    return True


class _Kind(NamedTuple):
    """Files of one kind: their paths, what is not known without them, and where that counts."""

    path: re.Pattern[str]
    unknown: str
    counts: Callable[[Tree], bool] = _always


_TABLES = "sys/firmware/acpi/tables"
_BEHIND = "which devices are behind which IOMMU by firmware's word"
_KINDS = (
    _Kind(
        re.compile(r"sys/firmware/fdt"),
        "which PASIDs (pasid-num-bits) and stalls firmware gives platform devices, and where ATS is allowed",
    ),
    _Kind(
        re.compile(rf"{_TABLES}/IORT.*"),
        "which PASIDs (SubstreamID width) and stalls firmware gives platform devices, and where ATS is allowed",
    ),
    _Kind(
        re.compile(rf"{_TABLES}/DMAR.*"),
        "where firmware allows ATS, and which unit is behind functions that no link of sysfs tells of",
    ),
    _Kind(re.compile(rf"{_TABLES}/(?:IVRS|RIMT|VIOT).*"), _BEHIND),
    _Kind(re.compile(rf"{_TABLES}/RHCT.*"), "which page tables the CPUs have"),
    _Kind(re.compile(_TABLES), "what firmware's tables say of IOMMUs and PASIDs"),
    _Kind(
        re.compile(r"sys/bus/platform/devices/[^/]+/of_node/.*"), "what the device tree says of these platform devices"
    ),
    _Kind(re.compile(r"sys/class/iommu/.*"), "what the registers of these IOMMUs hold, as how many PASIDs they take"),
    _Kind(re.compile(r"sys/kernel/iommu_groups/.*"), "which devices share a group, or what domain they start in"),
    _Kind(
        re.compile(r"proc/config\.gz|boot/config-[^/]*|lib/modules/[^/]*/config"),
        "whether the kernel was built with what SVA needs",
        _has_no_config,
    ),
    _Kind(
        re.compile(DMESG),
        "which features the SMMUs have, as two-level tables and stalls, and what went wrong at boot",
        lambda tree: _has_smmu(tree) and not any(tree.read(f"var/log/{name}") for name in ("dmesg", "kern.log")),
    ),
)


def incomplete(tree: CheckedTree) -> Iterator[Finding]:
    """Yield a finding for each kind of file that a host has and did not show."""
    missing = {one.path: one for one in tree.missing}.values()
    for kind in _KINDS:
        unread = [one for one in missing if kind.path.fullmatch(one.path)]
        if unread and kind.counts(tree):
            yield INCOMPLETE.finding(what=_named(unread), reason=unread[0].reason, unknown=kind.unknown)


def _named(unread: list[Missing]) -> str:
    """Name the first of some files, and count the rest."""
    more = len(unread) - 1
    return f"{unread[0].path} was" if not more else f"{unread[0].path} and {more} more like it were"

"""Accelerators of the uacce framework as sysfs shows them: whether their queues have SVA, and whether any is free.

Source: Documentation/ABI/testing/sysfs-driver-uacce, drivers/misc/uacce/uacce.c, include/uapi/misc/uacce/uacce.h,
Linux 6.12.

Decided here: that a device is one of uacce changes nothing of what its function or platform device can; findings tell
what is wrong with it.
Not read: `region_mmio_size`, `region_dus_size`, `isolate_strategy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pasidlab.platforms.host.numbers import read_flag, read_number
from pasidlab.platforms.host.tree import Tree, link_name, read_text
from pasidlab.platforms.said import Bus, Endpoint, Rid, Said, rid_of
from pasidlab.rules import Finding, Level, Rule

CLASS = "sys/class/uacce"
FLAG_SVA = 1
"""UACCE_DEV_SVA."""
SYSFS = "Documentation/ABI/testing/sysfs-driver-uacce"

NO_SVA = Rule(
    "uacce.no-sva",
    f"{SYSFS}, flags",
    "!(flags & UACCE_DEV_SVA)",
    "{name} ({device}) works without SVA: flags are {flags:#x}",
    source="Linux 6.12 (read)",
    remedy="its driver asked for SVA and was refused, or did not ask: look into the kernel's log when it is loaded, "
    "and at the IOMMU, the width of PASIDs and how faults are served (stall or page requests) of the device",
    level=Level.WARNING,
)
ISOLATED = Rule(
    "uacce.isolated",
    f"{SYSFS}, isolate",
    "isolate == 1",
    "{name} ({device}) is isolated after too many hardware errors: its queues cannot be used",
    source="Linux 6.12 (read)",
    remedy="reset the device, or raise isolate_strategy",
    level=Level.ERROR,
)
NO_INSTANCE = Rule(
    "uacce.no-instance",
    f"{SYSFS}, available_instances",
    "available_instances == 0",
    "{name} ({device}) has no free queue: opening another fails before any PASID is asked for",
    source="Linux 6.12 (read)",
    remedy="end a process that holds one, or use another device of this kind",
    level=Level.NOTE,
)


@dataclass(frozen=True, slots=True)
class Uacce:
    """A uacce device; what is None or empty could not be read.

    Attributes:
        device: the name of the PCI function or platform device that it is of.
        api: the interface of its driver's user-space half, as hisi_qm_v2.
        instances: queues that are free.
    """

    name: str
    device: str
    api: str
    flags: int | None
    instances: int | None
    isolated: bool | None
    algorithms: str

    @property
    def rid(self) -> Rid | None:
        """The requester ID of its function; None of a platform device."""
        return rid_of(self.device)

    @property
    def sva(self) -> bool | None:
        """Whether its queues work on processes' addresses; None when that is not known."""
        return None if self.flags is None else bool(self.flags & FLAG_SVA)


def uacce_devices(tree: Tree) -> list[Uacce]:
    """Return the uacce devices of a host."""
    return [_device(tree, name) for name in tree.names(CLASS)]


def _device(tree: Tree, name: str) -> Uacce:
    place = f"{CLASS}/{name}"
    return Uacce(
        name,
        link_name(tree, f"{place}/device") or "",
        read_text(tree, f"{place}/api") or "",
        read_number(tree, f"{place}/flags"),
        read_number(tree, f"{place}/available_instances"),
        read_flag(tree, f"{place}/isolate"),
        " ".join((read_text(tree, f"{place}/algorithms") or "").split()),
    )


def uacce_says(tree: Tree) -> Said:
    """Return what a host's sysfs says of uacce devices."""
    said = Said(f"{tree.name}: {CLASS}")
    for one in uacce_devices(tree):
        said.found(_findings(one))
        if one.device:
            bus: Bus = "platform" if one.rid is None else "pci"
            said.endpoints.append(Endpoint(one.device, bus, f"{CLASS}/{one.name}", one.rid))
    return said


def _findings(one: Uacce) -> Iterable[Finding]:
    facts = {"name": one.name, "device": one.device or "its device is unknown"}
    if one.sva is False:
        yield NO_SVA.finding(flags=one.flags, **facts)
    if one.isolated:
        yield ISOLATED.finding(**facts)
    if one.instances == 0:
        yield NO_INSTANCE.finding(**facts)

"""What a host's kernel uses of its IOMMUs: whether it drives them at all, VT-d's scalable mode, and ATS.

Source: see `cmdline`; a unit that the kernel drives is in sys/class/iommu (iommu_device_sysfs_add(), Linux 6.12).

Decided here: of which kind a host's IOMMUs are is told by sysfs and by firmware's tables, and by the maker of the CPUs
only where both are silent, since virtual machines mix them. Where firmware describes units of VT-d or AMD, and a
running kernel shows none, it drives none, for whatever reason. What the kernel leaves aside is `Said.unused`, and
where it leaves out all, `Said.undriven`.

Not read: an IORT, which is there without an SMMU too.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.platforms.host.cmdline import ORIGIN, CommandLine, Meant
from pasidlab.platforms.host.processors import Processors
from pasidlab.platforms.host.tree import Tree
from pasidlab.platforms.said import Kind, Known, Said
from pasidlab.rules import Level, Rule

CLASS, TABLES, PCI = "sys/class/iommu", "sys/firmware/acpi/tables", "sys/bus/pci/devices"
SIGNS: dict[Kind, tuple[str, str, str]] = {
    "intel-vtd": ("DMAR", "dmar", "GenuineIntel"),
    "amd-vi": ("IVRS", "ivhd", "AuthenticAMD"),
}
"""How the IOMMUs of x86 show: firmware's table, names in sysfs, and the usual maker of the CPUs."""
_WITH_ATS: tuple[Kind, ...] = ("intel-vtd", "arm-smmu-v3")

IOMMU_OFF = Rule(
    "kernel.iommu-off",
    "the kernel's command line",
    "it turns the IOMMU off",
    "the kernel was started with {word}: there is no IOMMU, and no PASIDs",
    source="intel_iommu_setup(), parse_amd_iommu_options(), iommu_setup(), v6.12 and v7.3",
    remedy="take {word} off the kernel's command line and start again",
    level=Level.ERROR,
)
IOMMU_UNUSED = Rule(
    "kernel.iommu-unused",
    "sys/class/iommu",
    "firmware describes IOMMUs, and the running kernel drives none of them",
    "firmware has the table {table}, and sys/class/iommu has no {unit}: the kernel drives no IOMMU, and there are no "
    "PASIDs",
    source="iommu_device_sysfs_add() (drivers/iommu/iommu-sysfs.c), Linux 6.12",
    remedy="start the kernel with its IOMMU on (intel_iommu=on), and see in its log why it leaves it out if it does; "
    "if this is a copy of files that leaves sys/class/iommu out, take a whole one",
    level=Level.ERROR,
)
SCALABLE_OFF = Rule(
    "kernel.scalable-mode-off",
    "the kernel's command line and configuration",
    "VT-d runs without scalable mode, and has no PASIDs",
    "scalable mode of VT-d is off by {origin}, without which it has no PASIDs",
    source="intel_iommu_sm (drivers/iommu/intel/iommu.c), v6.12 and v7.3",
    remedy="start the kernel with intel_iommu=on,sm_on",
    level=Level.ERROR,
)
ATS_OFF = Rule(
    "kernel.ats-off",
    "the kernel's command line",
    "it turns ATS off, which PCI devices with PASIDs need for page requests",
    "the kernel was started with {word}: no PCI device has ATS",
    source="pci_ats_supported() (drivers/pci/ats.c), v6.12 and v7.3",
    remedy="take {word} off the kernel's command line and start again",
)


def kinds_of(tree: Tree, processors: Processors) -> list[Kind]:
    """Return of which kinds the IOMMUs of an x86 host are; empty where nothing tells."""
    tables, units = tree.names(TABLES), tree.names(CLASS)
    shown = [
        kind
        for kind, (table, unit, _) in SIGNS.items()
        if table in tables or any(name.startswith(unit) for name in units)
    ]
    return shown or [kind for kind, (_, _, vendor) in SIGNS.items() if vendor == processors.vendor]


def say_use(said: Said, kinds: list[Kind], cmdline: CommandLine, scalable: Known | None) -> None:
    """Say what the kernel was told, or does by itself, that keeps PASIDs from working.

    `scalable` is whether VT-d is used in scalable mode, None where that is not known, or the kernel has no such driver.
    """
    for meant, off in _turned_off(kinds, cmdline):
        said.found([IOMMU_OFF.finding(word=meant.word)])
        said.undriven.update(off)
    if "intel-vtd" in kinds and "intel-vtd" not in said.undriven and scalable is not None and not scalable.value:
        said.found([SCALABLE_OFF.finding(origin=scalable.origin)])
        said.unused["intel-vtd"] = {"scalable": scalable}
    if cmdline.ats is not None:
        said.found([ATS_OFF.finding(word=cmdline.ats.word)])
        off_by = Known(False, f"{ORIGIN}, {cmdline.ats.word}")
        for kind in _WITH_ATS:
            said.unused[kind] = said.unused.get(kind, {}) | {"ats": off_by, "pri": off_by}


def _turned_off(kinds: list[Kind], cmdline: CommandLine) -> Iterator[tuple[Meant, list[Kind]]]:
    """Yield the words that turn IOMMUs off, each with the kinds that it is about."""
    own: dict[Kind, Meant | None] = {"intel-vtd": cmdline.vtd, "amd-vi": cmdline.amd}
    if cmdline.iommu is not None and not cmdline.iommu.value:
        yield cmdline.iommu, list(SIGNS)
    for kind in kinds:
        meant = own[kind]
        if meant is not None and not meant.value:
            yield meant, [kind]


def say_undriven(said: Said, tree: Tree) -> None:
    """Say which IOMMUs firmware describes and the running kernel does not drive, unless it was told not to."""
    if not tree.names(PCI):
        return
    tables, units = tree.names(TABLES), tree.names(CLASS)
    for kind, (table, unit, _) in SIGNS.items():
        if table in tables and kind not in said.undriven and not any(name.startswith(unit) for name in units):
            said.found([IOMMU_UNUSED.finding(table=table, unit=unit)])
            said.undriven.add(kind)

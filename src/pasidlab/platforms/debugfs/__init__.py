"""What the debugfs of IOMMU drivers shows, as text: from a host's tree, or from a file that somebody sends.

Decided here: files below `sys/kernel/debug/iommu` that cannot be read as what they should be are told of in a remark,
and the others are read; the files of one SMMU are one source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pasidlab.errors import InputError
from pasidlab.platforms.debugfs.smmu import SmmuDump, Stream, read_smmu_dump
from pasidlab.platforms.debugfs.smmu_says import smmu_dump_says
from pasidlab.platforms.debugfs.vtd import VtdRegisters, VtdTables, read_vtd_registers, read_vtd_tables
from pasidlab.platforms.debugfs.vtd_says import vtd_registers_say, vtd_tables_say
from pasidlab.platforms.host.tree import Tree, read_text
from pasidlab.platforms.said import Said, name_by_base

__all__ = [
    "SmmuDump",
    "Stream",
    "VtdRegisters",
    "VtdTables",
    "debugfs_says",
    "read_smmu_dump",
    "read_vtd_registers",
    "read_vtd_tables",
    "smmu_dump_says",
    "vtd_registers_say",
    "vtd_tables_say",
]

INTEL, ARM = "sys/kernel/debug/iommu/intel", "sys/kernel/debug/iommu/arm_smmu_v3"
TABLES, REGSET = f"{INTEL}/dmar_translation_struct", f"{INTEL}/iommu_regset"
R = TypeVar("R")


def debugfs_says(tree: Tree) -> list[Said]:
    """Return what a host's debugfs says of its IOMMUs, each file, or each SMMU, as a source of its own."""
    said = list(_intel(tree))
    said += [_smmu(tree, name) for name in tree.names(ARM)]
    return said


def _intel(tree: Tree) -> Iterator[Said]:
    broken = Said(f"{tree.name}: {INTEL}")
    registers = _read(tree, REGSET, read_vtd_registers, broken)
    tables = _read(tree, TABLES, read_vtd_tables, broken)
    if registers is not None:
        yield vtd_registers_say(registers)
    if tables is not None:
        yield vtd_tables_say(tables, registers)
    if broken.remarks:
        yield broken


def _read(tree: Tree, path: str, reader: Callable[[str, str], R], broken: Said) -> R | None:
    """Read a file; None when it is not there, or broken, which is told of."""
    text = read_text(tree, path)
    if not text:
        return None
    try:
        return reader(text, path)
    except InputError as error:
        broken.remarks.append(str(error))
        return None


def _smmu(tree: Tree, name: str) -> Said:
    """Return what the files of an SMMU say."""
    place = f"{ARM}/{name}"
    broken = Said(place)
    parts = ["capabilities", "registers", *(f"stream_table/{sid}/ste" for sid in tree.names(f"{place}/stream_table"))]
    dumps = [_read(tree, f"{place}/{part}", read_smmu_dump, broken) for part in parts]
    whole = SmmuDump(place, remarks=broken.remarks)
    for dump in dumps:
        if dump is not None:
            whole.registers |= dump.registers
            whole.capabilities |= dump.capabilities
            whole.places |= dump.places
            whole.streams += dump.streams
            whole.remarks += dump.remarks
    return smmu_dump_says(whole, name_of(name))


def name_of(directory: str) -> str:
    """Return what Linux calls the SMMU of a directory: `smmu3.0x…`, from whichever form has the address."""
    address = directory.rpartition("0x")[2] if "0x" in directory else ""
    try:
        return name_by_base("arm-smmu-v3", int(address, 16))
    except ValueError:
        return directory

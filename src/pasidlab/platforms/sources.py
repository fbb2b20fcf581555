"""What a file is, told by its content, and what all files of a host say together.

A host's files lie where Linux has them, so that a capture, a copy of its directories and `/` itself are read alike. A
single file is told by what it holds. What a DMAR says depends on bus numbers that another file may know, so a source
says its part once all functions are known.

Not read: a file's name, but for a PCI function's configuration space, which does not tell its own address.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.dmar import Buses, dmar_says, read_dmar
from pasidlab.platforms.acpi.dump import tables_in
from pasidlab.platforms.acpi.iort import read_iort
from pasidlab.platforms.acpi.iort_says import iort_says
from pasidlab.platforms.acpi.ivrs import ivrs_says, read_ivrs
from pasidlab.platforms.acpi.rhct import read_rhct, rhct_says
from pasidlab.platforms.acpi.rimt import read_rimt, rimt_says
from pasidlab.platforms.acpi.viot import read_viot, viot_says
from pasidlab.platforms.debugfs import debugfs_says
from pasidlab.platforms.debugfs.smmu import read_smmu_dump
from pasidlab.platforms.debugfs.smmu_says import smmu_dump_says
from pasidlab.platforms.debugfs.vtd import read_vtd_registers, read_vtd_tables
from pasidlab.platforms.debugfs.vtd_says import vtd_registers_say, vtd_tables_say
from pasidlab.platforms.devicetree import read_devicetree
from pasidlab.platforms.devicetree.says import devicetree_says
from pasidlab.platforms.host.dmesg import dmesg_says, log_says, read_dmesg
from pasidlab.platforms.host.dsa import dsa_says
from pasidlab.platforms.host.gzipped import GZIP_MAGIC, unpacked
from pasidlab.platforms.host.incomplete import incomplete
from pasidlab.platforms.host.iommus import iommus_say
from pasidlab.platforms.host.kernel import cmdline_says, config_says, cpuinfo_says, kernel_says
from pasidlab.platforms.host.tree import Tree
from pasidlab.platforms.host.trees import CheckedTree
from pasidlab.platforms.host.uacce import uacce_says
from pasidlab.platforms.pci.config import read_config
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.lspci import read_lspci
from pasidlab.platforms.pci.sysfs import functions
from pasidlab.platforms.said import Rid, Said, rid_of
from pasidlab.rules import Level, Rule

MOST_BYTES = 64 << 20
"""Largest single file that is read, also after it was unpacked."""
TABLES = "sys/firmware/acpi/tables"
DEVICE_TREE = "sys/firmware/fdt"
PCI = "sys/bus/pci/devices"
DEBUGFS = "sys/kernel/debug/iommu"
Tell = Callable[[str], None]

BROKEN = Rule(
    "import.broken-file",
    "the sources of an import",
    "a file of a host is not of its kind at all",
    "{what}; nothing of it is read",
    remedy="capture again, as root; if it is the same, the firmware is wrong",
    level=Level.ERROR,
)


class Trust(IntEnum):
    """Whom to believe first, where sources disagree."""

    RUNNING_KERNEL = 0
    CONFIGURATION_SPACE = 1
    DEVICE_TREE = 2
    ACPI = 3
    DUMP = 4
    LOG = 5


@dataclass(frozen=True, slots=True)
class Source:
    """A source that was read.

    Attributes:
        trust: how far it is believed.
        says: what it says, once the bus numbers behind bridges are known.
        only: of a source that a machine has one of, which one it is; None of others.
    """

    trust: Trust
    says: Callable[[Buses], Said]
    only: Only | None = None


@dataclass(frozen=True, slots=True)
class Only:
    """Something that a machine has one of: a table of a signature, a device tree, a host.

    Attributes:
        what: what it is, for people.
        file: what messages call it.
        digest: of its content; what differs is of two machines.
    """

    what: str
    file: str
    digest: int


@dataclass(frozen=True, slots=True)
class Functions:
    """PCI functions that were read; those of all files together say what lies behind what.

    Attributes:
        file: what messages call their source.
        of_host: they are all of a host in its sysfs, which shows IOMMUs too where it has any.
    """

    file: str
    functions: tuple[Function, ...]
    of_host: bool = False


def _source(trust: Trust, said: Said) -> Source:
    return Source(trust, lambda buses: said)


# --- single files --------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """How a table of ACPI is read, and what it says; some by the bus numbers behind bridges."""

    read: Callable[[bytes, str], Any]
    says: Callable[[Any, Buses], Said]


TABLE_READERS = {
    "DMAR": Table(read_dmar, dmar_says),
    "IORT": Table(read_iort, lambda iort, _: iort_says(iort)),
    "IVRS": Table(read_ivrs, lambda ivrs, _: ivrs_says(ivrs)),
    "RIMT": Table(read_rimt, lambda rimt, _: rimt_says(rimt)),
    "VIOT": Table(read_viot, lambda viot, _: viot_says(viot)),
    "RHCT": Table(read_rhct, lambda rhct, _: rhct_says(rhct)),
}
"""The tables that bear on PASIDs, by signature."""


class Text(NamedTuple):
    """A kind of text: how a line of it looks, how far it is believed, and what says something of it.

    That of lspci says nothing by itself, since its functions count together with those of other files.
    """

    what: str
    line: re.Pattern[str]
    trust: Trust
    says: Callable[[str, str], Said] | None


TEXTS = (
    Text(
        "lspci",
        re.compile(r"^[>\s]*(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7] ", re.MULTILINE),
        Trust.CONFIGURATION_SPACE,
        None,
    ),
    Text(
        "VT-d debugfs, dmar_translation_struct",
        re.compile(r"^[>\s]*(?:IOMMU \S+: Root Table Address:|DMA Remapping is not enabled on )", re.MULTILINE),
        Trust.DUMP,
        lambda text, file: vtd_tables_say(read_vtd_tables(text, file)),
    ),
    Text(
        "VT-d debugfs, iommu_regset",
        re.compile(r"^[>\s]*IOMMU: \S+ Register Base Address:", re.MULTILINE),
        Trust.DUMP,
        lambda text, file: vtd_registers_say(read_vtd_registers(text, file)),
    ),
    Text(
        "SMMUv3 debugfs",
        re.compile(
            r"^[>\s]*(?:STE\[[0-7]\]: 0x|SID:? (?:0x)?[0-9a-f]+:? 0x|IDR[0-5]\s*[:=]|SMMUv3 (?:Cap|Key))", re.MULTILINE
        ),
        Trust.DUMP,
        lambda text, file: smmu_dump_says(read_smmu_dump(text, file)),
    ),
    Text(
        "kernel configuration",
        re.compile(r"^(?:# )?CONFIG_[A-Z0-9_]+[= ]", re.MULTILINE),
        Trust.RUNNING_KERNEL,
        config_says,
    ),
    Text(
        "/proc/cpuinfo",
        re.compile(r"^processor\s*: \d", re.MULTILINE),
        Trust.RUNNING_KERNEL,
        cpuinfo_says,
    ),
    Text(
        "kernel log",
        re.compile(
            r"^(?:<\d+>)?\[ *\d+\.\d+\] |kernel: |^(?:DMAR|AMD-Vi|iommu|arm-smmu-v3[^:\n]{0,64}): ", re.MULTILINE
        ),
        Trust.LOG,
        lambda text, file: dmesg_says(read_dmesg(text, file)),
    ),
    Text(
        "/proc/cmdline",
        re.compile(r"\A[^\n]*\b(?:BOOT_IMAGE|root|iommu|intel_iommu|amd_iommu|console)=\S+[^\n]*\s*\Z"),
        Trust.RUNNING_KERNEL,
        cmdline_says,
    ),
)
"""The kinds of text, in the order in which they are tried."""
CONFIG_SIZES = (64, 256, 4096)
"""How many bytes of a function's configuration space there can be."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""What text begins with that a shell of Windows wrote."""
UTF_8_MARK = b"\xef\xbb\xbf"
FDT_MAGIC = b"\xd0\x0d\xfe\xed"


def file_sources(data: bytes, file: str) -> Iterator[Source | Functions]:
    """Yield what the bytes of a single file are; InputError for what nothing here reads."""
    if data[:2] == GZIP_MAGIC:
        data = _unpacked(data, file)
    if data[:4] == FDT_MAGIC:
        yield _device_tree(data, file)
        return
    if data[:2] in UTF_16:
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(UTF_8_MARK)
    if len(data) in CONFIG_SIZES and not data[:4].isalnum():
        yield _config_space(data, file)
        return
    text = _text_of(data)
    kind = None if text is None else next((kind for kind in TEXTS if kind.line.search(text)), None)
    if text is None or kind is None:
        yield from _tables(data, file)
    elif kind.says is None:
        yield Functions(file, tuple(read_lspci(text, file)))
    else:
        yield _source(kind.trust, kind.says(text, file))


def _device_tree(data: bytes, file: str) -> Source:
    said = devicetree_says(read_devicetree(data, file))
    return Source(Trust.DEVICE_TREE, lambda buses: said, Only("device tree", file, zlib.crc32(data)))


def _unpacked(data: bytes, file: str) -> bytes:
    try:
        content = unpacked(data, MOST_BYTES)
    except ValueError as error:
        raise InputError(f"{file}: cannot be unpacked: {error}") from None
    if content[257:262] == b"ustar":
        raise InputError(f"{file}: is an archive; its name must end in .tar.gz or .tgz")
    return content


def _text_of(data: bytes) -> str | None:
    """Return the text that bytes are; None where they are none. A kernel's log may have some that are no UTF-8."""
    if b"\0" in data:
        return None
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n")


def _config_space(data: bytes, file: str) -> Functions:
    """Return one function, whose address its directory is named after."""
    rid = rid_of(PurePosixPath(file).parent.name) or rid_of(PurePosixPath(file).stem) or Rid(0, 0)
    return Functions(file, (Function(rid, read_config(data, file, rid), file),))


def _tables(data: bytes, file: str) -> Iterator[Source]:
    """Yield the ACPI tables of a file that bear on PASIDs; InputError when it has none."""
    try:
        tables = tables_in(data, file)
    except InputError as error:
        texts = "; ".join(kind.what for kind in TEXTS)
        kinds = f"ACPI tables; device trees that dtc compiled; configuration space; and the text of: {texts}"
        raise InputError(f"{error}. Files that can be read: {kinds}") from None
    readable = [(name, table) for name, table in tables if name in TABLE_READERS]
    if not readable:
        others = ", ".join(name for name, _ in tables)
        raise InputError(f"{file}: no table of it bears on PASIDs: {others}; read are {', '.join(TABLE_READERS)}")
    for name, table in readable:
        yield _table(name, table, file if len(tables) == 1 else f"{file} {name}")


def _table(signature: str, data: bytes, file: str) -> Source:
    reader = TABLE_READERS[signature]
    read = reader.read(data, file)
    remark = f"{file}: {signature} of {len(data)} bytes, checksum {'right' if read.table.checksum_ok else 'WRONG'}"

    def says(buses: Buses) -> Said:
        said = reader.says(read, buses)
        said.remarks.insert(0, remark)
        return said

    return Source(Trust.ACPI, says, Only(signature, file, zlib.crc32(data)))


# --- a host --------------------------------------------------------------------------------------------------------


def host_sources(tree: CheckedTree, tell: Tell) -> Iterator[Source | Functions]:
    """Yield what the files of a host say; InputError when there is nothing that bears on PASIDs."""
    found = False
    for source in _host_sources(tree, tell):
        found = True
        yield source
    if not found:
        places = f"sys/class/iommu, {PCI}, {TABLES}, {DEVICE_TREE}, proc/cmdline"
        raise InputError(f"{tree.name}: is no host and no capture: has none of {places}; name single files one by one")
    only = Only("host", tree.name, zlib.crc32(tree.name.encode()))
    yield Source(Trust.LOG, lambda buses: Said(tree.name, findings=[*tree.findings, *incomplete(tree)]), only)


def _host_sources(tree: CheckedTree, tell: Tell) -> Iterator[Source | Functions]:
    for place, says in _LIVE.items():
        if tree.names(place) or tree.read(place) is not None:
            tell(place)
            yield _source(Trust.RUNNING_KERNEL, says(tree))
    if tree.names(PCI):
        tell(PCI)
        yield Functions(PCI, tuple(functions(tree)), of_host=True)
    yield from _firmware(tree, tell)
    if tree.names(DEBUGFS):
        tell(DEBUGFS)
        yield from (_source(Trust.DUMP, said) for said in debugfs_says(tree))
    log = log_says(tree)
    if log is not None:
        yield _source(Trust.LOG, log)


_LIVE: dict[str, Callable[[Tree], Said]] = {
    "sys/class/iommu": iommus_say,
    "proc/cmdline": kernel_says,
    "sys/bus/dsa/devices": dsa_says,
    "sys/class/uacce": uacce_says,
}
"""What a running kernel shows, by what must be there for it."""


def _firmware(tree: CheckedTree, tell: Tell) -> Iterator[Source]:
    blob = tree.read(DEVICE_TREE)
    if blob is not None:
        tell(DEVICE_TREE)
        yield _unless_broken(DEVICE_TREE, lambda: _device_tree(blob, DEVICE_TREE))
    for name in tree.names(TABLES):
        data = tree.read(f"{TABLES}/{name}") if name[:4] in TABLE_READERS else None
        if data is not None:
            tell(f"{TABLES}/{name}")
            yield _unless_broken(name, partial(_table, name[:4], data, name))


def _unless_broken(file: str, read: Callable[[], Source]) -> Source:
    """Return a source; a file of a host that is not of its kind at all is a finding, for the others still count."""
    try:
        return read()
    except InputError as error:
        return _source(Trust.LOG, Said(file, findings=[BROKEN.finding(what=str(error))]))

"""What is fuzzed: each reader by itself, files whose kind nobody told, and whole hosts, each up to a machine.

A target takes any bytes. InputError is what it may raise inside; whatever else comes out of it is a bug. What was read
is put together, written, parsed as TOML, and must be the same machine; findings must have their sentence.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.dmar import no_buses
from pasidlab.platforms.acpi.dump import tables_in
from pasidlab.platforms.debugfs.smmu import read_smmu_dump
from pasidlab.platforms.debugfs.smmu_says import smmu_dump_says
from pasidlab.platforms.debugfs.vtd import read_vtd_registers, read_vtd_tables
from pasidlab.platforms.debugfs.vtd_says import vtd_registers_say, vtd_tables_say
from pasidlab.platforms.devicetree import read_devicetree
from pasidlab.platforms.devicetree.says import devicetree_says
from pasidlab.platforms.host.archive import read_archive
from pasidlab.platforms.host.dmesg import dmesg_says, read_dmesg
from pasidlab.platforms.host.kernel import cmdline_says, config_says, cpuinfo_says, kernel_says
from pasidlab.platforms.host.manifest import NAME, Missing, read_manifest
from pasidlab.platforms.host.trees import ArchiveTree
from pasidlab.platforms.importing import import_sources
from pasidlab.platforms.pci.config import read_config
from pasidlab.platforms.pci.function import Function
from pasidlab.platforms.pci.lspci import read_lspci
from pasidlab.platforms.said import Rid, Said
from pasidlab.platforms.sources import (
    TABLE_READERS,
    Functions,
    Source,
    Trust,
    file_sources,
    host_sources,
)
from pasidlab.rules import Finding
from pasidlab.scenario import Scenario
from tests.acpi_tables import summed
from tests.fuzz.made import HOST, PROC, manifest, some
from tests.fuzz.made import archive as archive_of
from tests.pci_machine import MADE

DATA = Path(__file__).parents[1] / "data" / "platforms"
CORPUS = DATA / "corpus"
BETWEEN_FILES = b"\xff\xff"
"""What stands between the files of a host that is made of bytes; each is its path, a line end, and its content."""


class Target(NamedTuple):
    """What is fuzzed: what is done with bytes, the files that are good ones, and how long the bytes may be."""

    run: Callable[[bytes], object]
    seeds: tuple[str, ...]
    most: int = 4096


# --- from what was read to a machine -------------------------------------------------------------------------------


def machine_of(sources: Iterable[Source | Functions]) -> None:
    """Import what was read, and see that the text is the machine."""
    known = list(sources)
    for every in (False, True):
        imported = import_sources(known, "fuzzed", every=every)
        whys(imported.findings)
        again = Scenario.from_dict(tomllib.loads(imported.text))
        assert (again.iommu, again.device, again.cpu) == (imported.spec.iommu, imported.spec.device, imported.spec.cpu)
        assert again.finding == imported.spec.finding


def whys(findings: Iterable[Finding]) -> None:
    for finding in findings:
        assert finding.why


def said(one: Said, trust: Trust = Trust.DUMP) -> None:
    machine_of([Source(trust, lambda buses: one)])


def text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


# --- the targets ---------------------------------------------------------------------------------------------------


def acpi(signature: str) -> Callable[[bytes], None]:
    """Return what reads a table, as it is and with a signature, length and checksum that are right."""
    reader = TABLE_READERS[signature]

    def run(data: bytes) -> None:
        table = reader.read(data, signature)
        whys(table.findings)
        said(reader.says(table, no_buses), Trust.ACPI)
        if signature == "DMAR":
            said(reader.says(table, lambda bridge: (bridge.number >> 4 & 0xFF, 0xFF)), Trust.ACPI)

    return lambda data: run(summed(signature.encode() + data[4:]) if data[9:10] == b"\xff" else data)


def dump(data: bytes) -> None:
    for signature, table in tables_in(data, "dump"):
        if signature in TABLE_READERS:
            TABLE_READERS[signature].read(table, "dump")


def config(data: bytes) -> None:
    """Read the configuration space of several functions, 1 KiB of each, that are together in a machine."""
    parts = [data[at : at + 1024] for at in range(0, len(data), 1024)] or [b""]
    read = [Function(Rid(0, 8 * n), read_config(part, "config"), "config") for n, part in enumerate(parts)]
    machine_of([Functions("config", tuple(read))])


def devicetree(data: bytes) -> None:
    said(devicetree_says(read_devicetree(data)), Trust.DEVICE_TREE)


def kernel(data: bytes) -> None:
    for one in (config_says, cmdline_says, cpuinfo_says):
        said(one(text(data)))
    paths = "proc/cmdline", "proc/config.gz", "boot/config", "proc/cpuinfo", "proc/sys/kernel/osrelease", "proc/version"
    said(kernel_says(BytesTree(dict(zip(paths, data.split(BETWEEN_FILES), strict=False)))))


def archive(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(data)
        file.flush()
        read_archive(Path(file.name))
        machine_of(host_sources(ArchiveTree(file.name), lambda what: None))


def host(data: bytes) -> None:
    machine_of(host_sources(BytesTree(files_of(data)), lambda what: None))


def files_of(data: bytes) -> dict[str, bytes]:
    parts = (part.partition(b"\n") for part in data.split(BETWEEN_FILES))
    return {text(path): content for path, _, content in parts}


def bytes_of(files: dict[str, bytes]) -> bytes:
    return BETWEEN_FILES.join(path.encode() + b"\n" + content for path, content in files.items())


class BytesTree:
    """A host of some files; a link's path ends with `@`, and its content is where it leads."""

    name = "host"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.findings: list[Finding] = []
        self.missing: list[Missing] = []
        self.folders: dict[str, set[str]] = {}
        for path in files:
            parts = path.removesuffix("@").split("/")
            for depth in range(1, min(len(parts), 24)):
                self.folders.setdefault("/".join(parts[:depth]), set()).add(parts[depth])

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def names(self, path: str) -> list[str]:
        return sorted(self.folders.get(path, ()))

    def link(self, path: str) -> str | None:
        target = self.files.get(f"{path}@")
        return None if target is None else text(target)


def whole_text(read: Callable[[str], Said]) -> Callable[[bytes], None]:
    return lambda data: said(read(text(data)))


TARGETS: dict[str, Target] = {
    "dmar": Target(acpi("DMAR"), ("acpi-x86/dmar*.aml",)),
    "iort": Target(acpi("IORT"), ("acpi-arm/*iort*.aml", "acpi-arm/components.aml")),
    "ivrs": Target(acpi("IVRS"), ("acpi-x86/ivrs*.aml",)),
    "rimt": Target(acpi("RIMT"), ("acpi-riscv/rimt*.aml",)),
    "rhct": Target(acpi("RHCT"), ("acpi-riscv/rhct*.aml",)),
    "viot": Target(acpi("VIOT"), ("acpi-arm/*viot*.aml",)),
    "dump": Target(dump, ("acpi-*/*.txt", "acpi-*/*.aml"), 8192),
    "config": Target(config, (), 12288),
    "lspci": Target(lambda data: machine_of([Functions("lspci", tuple(read_lspci(text(data))))]), ("pci/*.gz",), 16384),
    "devicetree": Target(devicetree, ("devicetree/*.dtb", "devicetree/*.dtb.gz"), 16384),
    "vtd-tables": Target(whole_text(lambda one: vtd_tables_say(read_vtd_tables(one))), ("debugfs/*translation*",)),
    "vtd-registers": Target(whole_text(lambda one: vtd_registers_say(read_vtd_registers(one))), ("debugfs/*regset*",)),
    "smmu": Target(whole_text(lambda one: smmu_dump_says(read_smmu_dump(one))), ("debugfs/smmu*",)),
    "log": Target(whole_text(lambda one: dmesg_says(read_dmesg(one))), ("host/*.dmesg", "host/*.journal"), 8192),
    "kernel": Target(kernel, ("host/*.config",)),
    "manifest": Target(lambda data: read_manifest(data), ()),
    "archive": Target(archive, (), 16384),
    "host": Target(host, (), 16384),
    "file": Target(lambda data: machine_of(file_sources(data, "file")), ("*/*.*",), 16384),
}


def run(name: str, data: bytes) -> None:
    """Give bytes to a target; raises only what a reader may not."""
    with suppress(InputError):
        TARGETS[name].run(data)


# --- what was found worth keeping ----------------------------------------------------------------------------------


def seeds(name: str) -> list[bytes]:
    """Return the good files of a target, unpacked where they are packed, but for the target that unpacks."""
    paths = sorted({path for pattern in TARGETS[name].seeds for path in DATA.glob(pattern) if path.parent != CORPUS})
    raws = [path.read_bytes() for path in paths if not re.search(r"README|\.tar\.gz$|\.d[st][sl]?$", path.name)]
    unpacked = [gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" and name != "file" else raw for raw in raws]
    return unpacked + _made(name)


def _made(name: str) -> list[bytes]:
    match name:
        case "config":
            return [*(space[:1024] for space in MADE.values()), b"".join(space[:1024] for space in MADE.values())]
        case "host":
            return [bytes_of(some(part)) for part in ("sys/bus/pci", "sys/c", "sys/bus/dsa", "sys/firmware", "proc")]
        case "archive":
            return [archive_of(some("sys/bus/dsa")), archive_of(PROC | {NAME: manifest(PROC).to_json()})]
        case "manifest":
            return [manifest(HOST).to_json()]
        case "kernel":
            return [BETWEEN_FILES.join(PROC.values())]
    return []


def corpus(name: str) -> list[bytes]:
    """Return the inputs that were kept for a target."""
    path = CORPUS / f"{name}.json.gz"
    if not path.exists():
        return []
    return [base64.b64decode(one) for one in json.loads(gzip.decompress(path.read_bytes()))]


def keep(name: str, inputs: Iterable[bytes]) -> Path:
    """Keep inputs for a target, in the place of those that it had."""
    path = CORPUS / f"{name}.json.gz"
    raw = json.dumps([base64.b64encode(one).decode() for one in sorted(set(inputs))]).encode()
    path.write_bytes(gzip.compress(raw, mtime=0))
    return path

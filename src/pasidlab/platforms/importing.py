"""Import a machine: find out what each file is, let its reader say what it knows, and put all of it together.

Decided here: sources are believed in this order, whatever the order of the arguments: what a running kernel shows in
sysfs, configuration space, the device tree, firmware's ACPI tables, dumps of tables and registers, and the kernel's
log last; of equals, the one that was named first. A file that is named twice is read once.
"""

from __future__ import annotations

import errno
import os
import stat
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pasidlab.decode import convert, read_toml
from pasidlab.description import MachineSpec, check, unknown
from pasidlab.errors import InputError, ModelError, blamed_on
from pasidlab.platforms.acpi.dmar import no_buses
from pasidlab.platforms.host.archive import SUFFIXES
from pasidlab.platforms.host.trees import open_tree
from pasidlab.platforms.machine import LONGEST_WHY, Written, written
from pasidlab.platforms.merge import Merged, merge
from pasidlab.platforms.names import line_of
from pasidlab.platforms.pci.says import functions_say
from pasidlab.platforms.pci.topology import Topology
from pasidlab.platforms.said import Known, Said
from pasidlab.platforms.sources import MOST_BYTES, Functions, Only, Source, Trust, file_sources, host_sources
from pasidlab.rules import Finding, Level, Rule, counted, listed
from pasidlab.scenario import Scenario
from pasidlab.toml_text import toml_text

WIDTH = 118
MOST_TOLD = 20
"""How many findings of one rule a description tells; the others are counted."""
MOST_FILES_NAMED = 4
"""How many files of configuration space are named as the source of all."""
Progress = Callable[[str], None]

TWO_MACHINES = Rule(
    "import.two-machines",
    "the sources of an import",
    "two sources differ that a machine has one of",
    "{first} and {second} are each a {what}, and they are not the same: a machine has one {what}; what both say is put "
    "together all the same",
    remedy="import each machine by itself, from its own files",
    level=Level.ERROR,
)


NOTHING = Rule(
    "import.nothing",
    "the sources of an import",
    "no source names an IOMMU or a device, nor says anything of the kernel or the CPUs",
    "nothing in {files} bears on PASIDs",
    remedy="give a capture, or one of the files that docs/import.md lists",
)
NO_IOMMU = Rule(
    unknown.NO_IOMMU,
    "the sources of an import",
    "devices have PASIDs, and no source could show what IOMMU is in front of them",
    "no source tells of IOMMUs, so what is in front of {devices} is not known; the machine is described without any",
    remedy="give the firmware's tables (DMAR, IVRS, IORT, the device tree) or the kernel's log beside; best a capture, "
    "which has sys/class/iommu too",
)
_NONE = Known(None, "")


@dataclass(frozen=True, slots=True)
class Imported:
    """A machine that was imported.

    Attributes:
        spec: the machine, checked.
        text: the machine as TOML, each value with its origin.
        sources: what was read, in the order of trust.
        findings: what is wrong with the sources, and with the machine that they describe.
        remarks: what people should know of how it was read.
        left_out: how many devices were not kept, since they carry no PASIDs.
    """

    spec: MachineSpec
    text: str
    sources: tuple[str, ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()
    left_out: int = 0


def import_machine(paths: Sequence[str | Path], *, every: bool = False, progress: Progress | None = None) -> Imported:
    """Import a machine from captures, hosts' directories, and single files.

    `every` keeps the devices that carry no PASIDs too. `progress` hears what is read. Raises InputError for a file that
    cannot be read or recognised.
    """
    tell = progress or (lambda what: None)
    called = _called(_differing(paths))
    sources = [source for path, name in called for source in _path_sources(path, name, tell)]
    tell("putting it together")
    return import_sources(sources, f"Imported from {', '.join(str(path) for path in paths)}", every=every)


def import_sources(sources: Sequence[Source | Functions], title: str, *, every: bool = False) -> Imported:
    """Put together what sources say that were read already."""
    said = _said(sources)
    merged = merge(said)
    made = written(merged, every=every)
    found = (*_no_iommu(sources, said, merged), *_two_machines(sources), *merged.findings, *made.findings)
    known = found or merged.iommus or merged.endpoints or merged.machine or merged.cpu
    remarks = tuple(dict.fromkeys(remark for one in said for remark in one.remarks))
    onlys = [source.only for source in sources if isinstance(source, Source)]
    hosts = {only.file for only in onlys if only is not None and only.what == "host"}
    names = tuple(dict.fromkeys(one.source for one in said if one.source not in hosts))
    findings = found if known else (NOTHING.finding(files=", ".join(names)),)
    return _imported(title, made, names, findings, remarks)


def _no_iommu(sources: Sequence[Source | Functions], said: Sequence[Said], merged: Merged) -> Iterator[Finding]:
    """Yield that IOMMUs are not known, where devices have PASIDs and no source could have shown that there is none."""
    carrying = [name for name, one in merged.endpoints.items() if one.keys.get("pasid_bits", _NONE).value]
    if carrying and not merged.iommus and not any(one.undriven for one in said) and not any(map(_shows, sources)):
        yield NO_IOMMU.finding(devices=listed(carrying))


def _shows(source: Source | Functions) -> bool:
    """Whether a source would have shown an IOMMU: firmware's tables, a device tree, a running kernel's sysfs."""
    if isinstance(source, Functions):
        return source.of_host
    return source.trust in (Trust.DEVICE_TREE, Trust.ACPI) and source.only is not None and source.only.what != "RHCT"


def _differing(paths: Sequence[str | Path]) -> list[Path]:
    """Return the paths, but for those that lead where another led."""
    places: dict[str, Path] = {}
    for path in paths:
        if "\0" in str(path):
            raise InputError(f"{str(path)!r}: cannot be read: no name of a file has a zero byte")
        places.setdefault(os.path.realpath(path), Path(path))
    return list(places.values())


def _called(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return what origins call each file: its name alone, unless another has it too, or it is a function's `config`."""
    names = Counter(path.name for path in paths)
    return [(path, path.name if names[path.name] == 1 and path.name != "config" else str(path)) for path in paths]


def _path_sources(path: Path, name: str, tell: Progress) -> Iterable[Source | Functions]:
    tell(str(path))
    if path.is_dir() or path.name.endswith(SUFFIXES):
        yield from host_sources(open_tree(path), tell)
        return
    data = _bytes_of(path)
    try:
        yield from file_sources(data, name)
    except InputError as error:
        raise InputError(f"{path}{str(error).removeprefix(name)}") from None


def _two_machines(sources: Iterable[Source | Functions]) -> Iterator[Finding]:
    """Yield a finding for each source that is another than one before, where a machine has one only."""
    first: dict[str, Only] = {}
    for source in sources:
        only = source.only if isinstance(source, Source) else None
        known = None if only is None else first.setdefault(only.what, only)
        if only is not None and known is not None and only.digest != known.digest:
            yield TWO_MACHINES.finding(what=only.what, first=known.file, second=only.file)


def _said(sources: Sequence[Source | Functions]) -> list[Said]:
    """Let every source say its part, those first that are believed most; PCI functions of all sources as one."""
    known = [source for source in sources if isinstance(source, Functions)]
    functions = [one for source in known for one in source.functions]
    buses = Topology(functions).buses if functions else no_buses
    others = [source for source in sources if isinstance(source, Source)]
    spoken = [(source.trust, source.says(buses)) for source in others]
    if known:
        files = ", ".join(dict.fromkeys(source.file for source in known[:MOST_FILES_NAMED]))
        spoken.append((Trust.CONFIGURATION_SPACE, functions_say(functions, files)))
    return [said for _, said in sorted(spoken, key=lambda one: one[0])]


def _bytes_of(path: Path) -> bytes:
    """Return the bytes of a regular file; InputError when it cannot be read, is empty, or too large."""
    if path.suffix == ".toml" and path.exists():
        raise InputError(
            f"{path}: is a description already, which audit, check and run take as it is; -o names another"
        )
    try:
        data = _regular_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB, the most that is read")
    if not data:
        raise InputError(f"{path}: the file is empty")
    return data


def _regular_bytes(path: Path) -> bytes:
    """Return up to MOST_BYTES of a file, and one more; what is none is not read, since a pipe might never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file; write what it gives to one first")
    with path.open("rb") as stream:
        return stream.read(MOST_BYTES + 1)


def _imported(
    title: str,
    made: Written,
    names: tuple[str, ...],
    findings: tuple[Finding, ...],
    remarks: tuple[str, ...],
) -> Imported:
    told = list(_told(findings))
    about = [f"Read: {', '.join(names) or 'nothing'}.", *remarks]
    if made.left_out:
        about.append(f"Left out: {counted(made.left_out, 'device')} of which no PASIDs are known.")
    first = {"title": title, "about": _filled(about)}
    document = first | made.document | ({"finding": told} if told else {})
    spec = _checked(made.plain | ({"finding": told} if told else {}))
    return Imported(spec, toml_text(document), names, findings, remarks, made.left_out)


def _told(findings: Iterable[Finding]) -> Iterator[dict[str, Any]]:
    """Yield the findings as a description has them, the first of each rule; the last of these counts the others.

    Those that say of a device what is not known are all there, since an audit looks for that of each device.
    """
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule.id, []).append(finding)
    for rule, group in by_rule.items():
        most = len(group) if rule in unknown.OF_A_DEVICE else MOST_TOLD
        records: list[dict[str, Any]] = [
            {"rule": rule, "why": line_of(finding.why)[:LONGEST_WHY]} for finding in group[:most]
        ]
        if len(group) > most:
            records[-1]["more"] = len(group) - most
        yield from records


def _filled(lines: Iterable[str]) -> str:
    return "\n".join(textwrap.fill(line_of(line), WIDTH) for line in lines)


def _checked(document: dict[str, Any]) -> MachineSpec:
    """Return the description; what sources say must have been made fit for it before."""
    try:
        spec = convert(document, MachineSpec)
        check(spec)
    except InputError as error:
        raise ModelError(f"an imported machine that cannot be described: {error}") from None
    return spec


def load_machine(path: str | Path, *, every: bool = False) -> MachineSpec:
    """Return the machine of a TOML file (a machine or a scenario), or import it from whatever else there is.

    `every` keeps devices without PASIDs of what is imported, too. Raises InputError that names the file and says what
    is wrong with it.
    """
    path = Path(path)
    if path.suffix == ".toml":
        raw = read_toml(path)
        with blamed_on(path):
            return Scenario.from_dict(raw)
    return import_machine([path], every=every).spec

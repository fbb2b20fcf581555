"""The kernel's log: its lines on IOMMUs and PASIDs, and what some of them tell of the hardware.

Source: the formats of `alloc_iommu()` (drivers/iommu/intel/dmar.c), `DO_CHECK_FEATURE_MISMATCH()`
(drivers/iommu/intel/cap_audit.h), `arm_smmu_device_hw_probe()` with ARM_SMMU_FEAT_*
(drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.{c,h}), `print_iommu_info()` (drivers/iommu/amd/init.c), v6.12 and v7.3. The
feature bits of arm-smmu-v3 are the same in all of these; S2FWB came about 6.13 and BBML2 about 7.0.

Decided here: a log may be that of dmesg, with any of its options, of syslog or of journalctl; what stands before the
text is taken away. Where a log has several starts of the kernel, the last counts. What a line says of hardware is
believed after all else. An SMMU that the log names `arm-smmu-v3.0.auto` has no address in it; `names` says which it is.

Not read: what is no line of the kernel's; faults and other events, which stay lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.platforms.host.kmsg import DMESG
from pasidlab.platforms.host.tree import Tree, link_name
from pasidlab.platforms.host.wanted import LOGS, SYSLOG, bears_on_pasids
from pasidlab.platforms.origins import inside
from pasidlab.platforms.registers_say import cap_says, ecap_says
from pasidlab.platforms.said import Iommu, Said, name_by_base
from pasidlab.rules import Rule

MOST_LINES = 200_000
"""How many lines that bear on PASIDs are kept, the first ones."""
LONGEST_LINE = 4096
SMMU_FEATURES = (
    "2_LVL_STRTAB",
    "2_LVL_CDTAB",
    "TT_LE",
    "TT_BE",
    "PRI",
    "ATS",
    "SEV",
    "MSI",
    "COHERENCY",
    "TRANS_S1",
    "TRANS_S2",
    "STALLS",
    "HYP",
    "STALL_FORCE",
    "VAX",
    "RANGE_INV",
    "BTM",
    "SVA",
    "E2H",
    "NESTING",
    "ATTR_TYPES_OVR",
    "HA",
    "HD",
    "S2FWB",
    "BBML2",
)
"""ARM_SMMU_FEAT_*, bit 0 first."""

INCONSISTENT = Rule(
    "kernel.vtd-inconsistent",
    "intel_cap_audit() (drivers/iommu/intel/cap_audit.c)",
    "VT-d units differ in a feature, and Linux counts on what all of them have",
    "{file}, line {line}: VT-d units differ in {feature}; where Linux asks what all units have, none has it",
    source="intel_cap_audit(), v6.12",
    remedy="look in the firmware's setup for units that are set differently, and compare ecap of all units",
)

_LEVEL = re.compile(r"<\d+>|[a-z]+ *:[a-z]+ *: ?")
_TIME = re.compile(r"\[ *(\d+\.\d+)\](?:\[ *[TC]\d+\])? ?|\[[A-Z][^\]]{10,40}\] ?")
_VTD = re.compile(
    r"DMAR: (?P<name>dmar\d+): reg_base_addr (?P<base>[0-9a-f]+) ver (?P<version>\d+:\d+) "
    r"cap (?P<cap>[0-9a-f]{1,16}) ecap (?P<ecap>[0-9a-f]{1,16})"
)
_INCONSISTENT = re.compile(r"DMAR: IOMMU feature (\w+) inconsistent")
_SMMU = re.compile(
    r"arm-smmu-v3 (?P<device>\S+): (?:ias (?P<ias>\d+)-bit, )?oas (?P<oas>\d+)-bit "
    r"\(features 0x(?P<features>[0-9a-f]{1,16})\)"
)
_AMD = re.compile(
    r"AMD-Vi: Extended features \(0x(?P<efr>[0-9a-f]{1,16})(?:, 0x(?P<efr2>[0-9a-f]{1,16}))?\):(?P<names>.*)"
)
_AT_ADDRESS = re.compile(r"([0-9a-f]{4,16})\.\S+")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the kernel's that bears on PASIDs.

    Attributes:
        number: of the line in the file, from 1.
        time: seconds since the kernel's start; None where the log has none, or the hour of the day.
        text: what the kernel wrote.
    """

    number: int
    time: float | None
    text: str


@dataclass(frozen=True, slots=True)
class VtdLine:
    """What a line tells of a VT-d unit."""

    line: LogLine
    name: str
    base: int
    version: str
    cap: Cap
    ecap: Ecap


@dataclass(frozen=True, slots=True)
class SmmuLine:
    """What a line tells of an SMMUv3: the device's name, and what its driver found.

    Attributes:
        ias: None from a kernel that does not print it, as 7.2.
        features: the driver's bits, ARM_SMMU_FEAT_*.
    """

    line: LogLine
    device: str
    ias: int | None
    oas: int
    features: int

    def has(self, feature: str) -> bool:
        """Return whether the driver found a feature."""
        return bool(self.features >> SMMU_FEATURES.index(feature) & 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The features by name; those of later kernels by bit."""
        found = [bit for bit in range(self.features.bit_length()) if self.features >> bit & 1]
        return tuple(SMMU_FEATURES[bit] if bit < len(SMMU_FEATURES) else f"bit {bit}" for bit in found)


@dataclass(frozen=True, slots=True)
class AmdLine:
    """What a line tells of all AMD IOMMUs together: extended features, and the names that the kernel gave them."""

    line: LogLine
    efr: int
    efr2: int | None
    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Log:
    """What is of interest in a kernel's log.

    Attributes:
        file: its name.
        lines: those that bear on IOMMUs and PASIDs, of the last start of the kernel.
        release: that of the kernel which wrote it; empty where the log does not say.
        vtd: VT-d units, in order.
        inconsistent: features in which VT-d units differ, and where that is said.
        smmus: SMMUv3, in order.
        amd: what is said of AMD's IOMMUs.
        dropped: how many lines of interest there were too many.
    """

    file: str
    lines: list[LogLine] = field(default_factory=list)
    release: str = ""
    vtd: list[VtdLine] = field(default_factory=list)
    inconsistent: list[tuple[str, LogLine]] = field(default_factory=list)
    smmus: list[SmmuLine] = field(default_factory=list)
    amd: list[AmdLine] = field(default_factory=list)
    dropped: int = 0


def read_dmesg(text: str, file: str = DMESG) -> Log:
    """Read a kernel's log: what it says of IOMMUs and PASIDs, of the last start of the kernel in it.

    `text` is the output of dmesg, a syslog or a journal, `file` what messages call it. Lines that are none of the
    kernel's, or bear on nothing here, are passed over, so that any text can be read.
    """
    log = Log(file)
    for number, raw in enumerate(text.split("\n"), 1):
        if not bears_on_pasids(raw):
            continue
        line = read_line(raw, number)
        if line.text.startswith("Linux version "):
            log = Log(file, release=line.text.split()[2] if len(line.text.split()) > 2 else "")
        elif len(log.lines) >= MOST_LINES:
            log.dropped += 1
        else:
            log.lines.append(line)
            _learn(log, line)
    return log


def read_line(raw: str, number: int = 1) -> LogLine:
    """Return a line without what dmesg, syslog or the journal put before the kernel's text."""
    text = raw[:LONGEST_LINE].rstrip()
    at, time = 0, None
    for pattern in (SYSLOG, _LEVEL, _TIME):
        match = pattern.match(text, at)
        if match is not None:
            at = match.end()
            time = float(match[1]) if pattern is _TIME and match[1] else time
    return LogLine(number, time, text[at:])


def _learn(log: Log, line: LogLine) -> None:
    """Take the facts of a line, if it has any."""
    if match := _VTD.search(line.text):
        cap, ecap = Cap(int(match["cap"], 16)), Ecap(int(match["ecap"], 16))
        log.vtd.append(VtdLine(line, match["name"], int(match["base"], 16), match["version"], cap, ecap))
    elif match := _INCONSISTENT.search(line.text):
        log.inconsistent.append((match[1], line))
    elif match := _SMMU.search(line.text):
        features = int(match["features"], 16)
        ias = None if match["ias"] is None else int(match["ias"])
        log.smmus.append(SmmuLine(line, match["device"], ias, int(match["oas"]), features))
    elif match := _AMD.search(line.text):
        second = match["efr2"]
        names = tuple(match["names"].split())
        log.amd.append(AmdLine(line, int(match["efr"], 16), int(second, 16) if second else None, names))


def dmesg_says(log: Log, names: Mapping[str, str] | None = None) -> Said:
    """Say what a kernel's log tells of a machine.

    `names` are those of IOMMUs by their devices' names, as `arm-smmu-v3.0.auto`: `smmu3.0x000000002b400000`.
    """
    said = Said(log.file)
    said.iommus += [_vtd(log.file, unit) for unit in log.vtd]
    for smmu in log.smmus:
        iommu = _smmu(log.file, smmu, names or {})
        if iommu is not None:
            said.iommus.append(iommu)
        else:
            said.remarks.append(f"{log.file}, line {smmu.line.number}: {smmu.device} has {', '.join(smmu.names)}")
    for feature, line in log.inconsistent:
        said.findings.append(INCONSISTENT.finding(file=log.file, line=line.number, feature=feature))
    if log.dropped:
        said.remarks.append(f"{log.file}: {log.dropped} lines that bear on PASIDs were too many, and are not read")
    return said


def log_of(tree: Tree) -> Log | None:
    """Return the kernel's log of a host, from the first place that has it."""
    for wanted in LOGS:
        data = tree.read(wanted.pattern)
        if data:
            return read_dmesg(data.decode("utf-8", errors="replace"), wanted.pattern)
    return None


def log_says(tree: Tree) -> Said | None:
    """Say what the kernel's log of a host tells; None where there is none."""
    log = log_of(tree)
    return None if log is None else dmesg_says(log, dict(_smmu_names(tree)))


def _smmu_names(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield the device of each IOMMU in sysfs, and what the IOMMU is called there."""
    for name in tree.names("sys/class/iommu"):
        device = link_name(tree, f"sys/class/iommu/{name}/device")
        if device is not None:
            yield device, name


def _vtd(file: str, unit: VtdLine) -> Iommu:
    """Say what the capabilities of a VT-d unit are."""
    place = f"{file}, line {unit.line.number}"
    iommu = Iommu(unit.name, "intel-vtd", place, unit.base)
    cap_says(iommu, unit.cap, inside(f"{place}, cap {unit.cap:#x}"))
    ecap_says(iommu, unit.ecap, inside(f"{place}, ecap {unit.ecap:#x}"))
    return iommu


def _smmu(file: str, smmu: SmmuLine, names: Mapping[str, str]) -> Iommu | None:
    """Say what an SMMU has; None where it is not known which one it is."""
    name = names.get(smmu.device, "")
    address = re.fullmatch(r"smmu3\.0x([0-9a-f]+)", name) or _AT_ADDRESS.fullmatch(smmu.device)
    if address is None:
        return None
    base = int(address[1], 16)
    place = f"{file}, line {smmu.line.number}, features {smmu.features:#010x}"
    iommu = Iommu(name_by_base("arm-smmu-v3", base), "arm-smmu-v3", place, base)
    iommu.say("sva", smmu.has("SVA"), f"{place}, bit 17 (SVA)")
    iommu.say("two_level", smmu.has("2_LVL_STRTAB") and smmu.has("2_LVL_CDTAB"), f"{place}, bits 0 and 1 (2_LVL_*)")
    iommu.say("stall", smmu.has("STALLS") or smmu.has("STALL_FORCE"), f"{place}, bits 11 and 13 (STALLS)")
    iommu.say("ats", smmu.has("ATS"), f"{place}, bit 5 (ATS)")
    iommu.say("pri", smmu.has("PRI"), f"{place}, bit 4 (PRI)")
    iommu.say("httu", 2 if smmu.has("HD") else int(smmu.has("HA")), f"{place}, bits 21 and 22 (HA, HD)")
    return iommu

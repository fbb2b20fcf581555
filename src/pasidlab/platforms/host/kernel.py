"""What a host's kernel says of itself in /proc: its release, how it was built and started, and its CPUs.

Source: `parse_args()` and Kconfig of v6.12 and v7.3, see `cmdline` and `processors`. A configuration leaves out options
that nobody can choose: those without a prompt that nothing selects (IOMMU_SVA, PCI_ATS), and those whose parent is off.
So an option that is absent is off where it has no prompt, or where its parent is on; else it is not known.

Decided here: of the command line only the words are told that a capture keeps (`wanted`), since others may be private.
"""

from __future__ import annotations

import re

from pasidlab.description.config import KERNEL_OPTIONS
from pasidlab.linux.profiles import PROFILES
from pasidlab.platforms.host.cmdline import ORIGIN, CommandLine, read_cmdline, scalable_mode, version_of
from pasidlab.platforms.host.gzipped import unpacked
from pasidlab.platforms.host.iommu_use import kinds_of, say_undriven, say_use
from pasidlab.platforms.host.processors import Processors, read_cpuinfo
from pasidlab.platforms.host.releases import profile_for, refuses_x86
from pasidlab.platforms.host.tree import Tree, read_text
from pasidlab.platforms.host.wanted import CONFIG_GZ, MOST_CONFIG, command_line
from pasidlab.platforms.said import Known, Said
from pasidlab.rules import Finding, Level, Rule

RELEASE, VERSION, CPUINFO = "proc/sys/kernel/osrelease", "proc/version", "proc/cpuinfo"
_WITHOUT_PROMPT = ("IOMMU_SVA", "PCI_ATS")
_PARENTS = {
    "INTEL_IOMMU_SVM": "INTEL_IOMMU",
    "INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON": "INTEL_IOMMU",
    "INTEL_IOMMU_DEFAULT_ON": "INTEL_IOMMU",
    "ARM_SMMU_V3_SVA": "ARM_SMMU_V3",
    "INTEL_IDXD_SVM": "INTEL_IDXD",
    "PCI_PASID": "PCI",
    "PCI_PRI": "PCI",
}
_WHOLE = "IOMMU_SUPPORT"
"""An option that every whole configuration names, and with which the absence of others says something."""
_LINE = re.compile(r"(?:CONFIG_(?P<set>\w+)=(?P<value>\S.*)|# CONFIG_(?P<unset>\w+) is not set)\s*")
_PAGES = {"ARM64_4K_PAGES": 4096, "ARM64_16K_PAGES": 16384, "ARM64_64K_PAGES": 65536}

OLDER = Rule(
    "kernel.older",
    "the kernel's release",
    "it is older than any that is modelled",
    "Linux {release} is older than 6.12, the oldest that is modelled; {profile} stands for it",
    remedy="read answers with care: call orders and errnos differ before 6.12",
)
PERHAPS_REFUSED = Rule(
    "kernel.perhaps-no-sva",
    "the kernel's release",
    "it does not tell whether the kernel refuses SVA on x86",
    "Linux {release} may answer every bind with EOPNOTSUPP: kernels of 2026 before 6.19 turn SVA off on x86, and which"
    " of a distribution's do, or which 6.18.y no longer do, the release does not tell; taken as one that does not",
    source="72f98ef9a4be (CVE-2025-71089), e37d5a2d60a3 (CVE-2025-71202)",
    remedy="where binds fail with -95 (EOPNOTSUPP), use 6.19 or later, or add switches.x86_sva_refused = true",
    level=Level.NOTE,
)
BAD_CONFIG = Rule(
    "kernel.config-unreadable",
    "the kernel's configuration",
    "it cannot be unpacked",
    "{file}: {problem}; what the kernel was built with is not known",
    remedy="take it again; boot/config-RELEASE has the same",
)


def kernel_says(tree: Tree) -> Said:
    """Say what a host's files in /proc tell of its kernel and its CPUs; without the kernel's log (`dmesg`)."""
    said = Said("proc")
    release = release_of(tree)
    _say_release(said, release)
    raw = tree.read("proc/cmdline")
    cmdline = read_cmdline(command_line(raw or b"").decode())
    if raw is not None:
        said.machine["cmdline"] = Known(cmdline.text, ORIGIN)
    config, file = _config(tree, release, said.findings)
    _say_config(said, config, file)
    cpuinfo = read_text(tree, CPUINFO)
    if cpuinfo is not None:
        processors = read_cpuinfo(cpuinfo)
        _say_processors(said, processors, CPUINFO)
        if processors.machine == "x86_64":
            said.cpu["la57"] = _five_level(processors, cmdline, config)
        if processors.machine == "x86_64" and release:
            _say_refusal(said, release)
        built = config.get("INTEL_IOMMU", True)
        scalable = scalable_mode(cmdline, config, release) if built else None
        say_use(said, kinds_of(tree, processors), cmdline, scalable)
        say_undriven(said, tree)
    return said


def config_says(text: str, file: str = "config") -> Said:
    """Say what a kernel's configuration tells by itself."""
    said = Said(file)
    _say_config(said, read_config(text), file)
    return said


def cmdline_says(text: str, file: str = ORIGIN) -> Said:
    """Say what a kernel's command line tells by itself, whatever the vendor of the CPUs."""
    said = Said(file)
    cmdline = read_cmdline(command_line(text.encode()).decode())
    said.machine["cmdline"] = Known(cmdline.text, file)
    if cmdline.five_level is not None:
        said.cpu["la57"] = Known(False, f"{file}, {cmdline.five_level.word}")
    say_use(said, [], cmdline, None)
    return said


def cpuinfo_says(text: str, file: str = CPUINFO) -> Said:
    """Say what /proc/cpuinfo tells by itself."""
    said = Said(file)
    _say_processors(said, read_cpuinfo(text), file)
    return said


def release_of(tree: Tree) -> str:
    """Return the kernel's release, as 6.12.30-generic; empty where no file tells it."""
    release = read_text(tree, RELEASE)
    if release:
        return release.split("\n", 1)[0]
    match = re.match(r"Linux version (\S+)", read_text(tree, VERSION) or "")
    return match[1] if match else ""


def kernel_config(tree: Tree, release: str = "") -> dict[str, bool]:
    """Return the options of a host's kernel that are known: on (y or m, or a value), or off."""
    return _config(tree, release or release_of(tree), [])[0]


def read_config(text: str) -> dict[str, bool]:
    """Return the options that a configuration tells: on (y or m, or a value), or off; see the module for the absent."""
    found: dict[str, bool] = {}
    for line in text.split("\n"):
        match = _LINE.fullmatch(line)
        if match and match["unset"]:
            found[match["unset"]] = False
        elif match:
            found[match["set"]] = match["value"].strip() not in ("n", '""')
    if _WHOLE in found:
        for name in _WITHOUT_PROMPT:
            found.setdefault(name, False)
        for name, parent in _PARENTS.items():
            if found.get(parent):
                found.setdefault(name, False)
    return found


def _say_release(said: Said, release: str) -> None:
    if not release:
        said.remarks.append("the kernel's release is not known")
        return
    profile, remark = profile_for(release)
    said.machine["kernel"] = Known(profile, f"{RELEASE}, {release}")
    said.remarks += [remark] if remark else []
    numbers = version_of(release)
    if numbers is not None and numbers < (6, 12, 0):
        said.findings.append(OLDER.finding(release=release, profile=profile))


def _say_refusal(said: Said, release: str) -> None:
    """Say whether the kernel refuses SVA on x86, where its profile says something else, or nothing is known."""
    refuses = refuses_x86(release)
    if refuses is None:
        said.findings.append(PERHAPS_REFUSED.finding(release=release))
    if bool(refuses) != PROFILES[profile_for(release)[0]].x86_sva_refused:
        origin = f"{RELEASE}, {release}; 6.12.64 and 6.18.4 were the first that refuse SVA on x86, 6.19 does not"
        said.machine["switches"] = Known({"x86_sva_refused": bool(refuses)}, origin)


def _config(tree: Tree, release: str, findings: list[Finding]) -> tuple[dict[str, bool], str]:
    """Return the options, and the file that tells them."""
    packed = tree.read(CONFIG_GZ)
    if packed is not None:
        try:
            return read_config(unpacked(packed, MOST_CONFIG).decode("utf-8", errors="replace")), CONFIG_GZ
        except ValueError as error:
            findings.append(BAD_CONFIG.finding(file=CONFIG_GZ, problem=error))
    for file in (f"boot/config-{release}", f"lib/modules/{release}/config") if release else ():
        text = read_text(tree, file)
        if text is not None:
            return read_config(text), file
    return {}, ""


def _say_config(said: Said, config: dict[str, bool], file: str) -> None:
    """Say which options are known, and how large the pages of an arm64 kernel are."""
    known = {name: config[name] for name in KERNEL_OPTIONS if name in config}
    if known:
        said.machine["config"] = Known(known, file)
    for option, size in _PAGES.items():
        if config.get(option):
            said.cpu["page_size"] = Known(size, f"{file}, {option}")


def _say_processors(said: Said, processors: Processors, file: str) -> None:
    """Say what is known of the CPUs."""
    if processors.machine == "aarch64":
        said.cpu["arch"] = Known("arm64", f"{file}, CPU implementer")
    elif processors.machine == "x86_64":
        said.cpu["arch"] = Known("x86", f"{file}, vendor_id")
        for flag in ("enqcmd", "movdir64b", "la57"):
            said.cpu[flag] = _flag(processors, flag, file)
    elif processors.machine:
        said.remarks.append(f"CPUs of {processors.machine} are not modelled; what they tell is left out")


def _flag(processors: Processors, flag: str, file: str = CPUINFO) -> Known:
    has = flag in processors.flags
    return Known(has, f"{file}, {'flag' if has else 'no flag'} {flag}")


def _five_level(processors: Processors, cmdline: CommandLine, config: dict[str, bool]) -> Known:
    """Return whether the kernel's page tables have 5 levels."""
    if cmdline.five_level is not None:
        return Known(False, f"{ORIGIN}, {cmdline.five_level.word}")
    if config.get("X86_5LEVEL") is False:
        return Known(False, "kernel configuration, X86_5LEVEL is not set")
    return _flag(processors, "la57")

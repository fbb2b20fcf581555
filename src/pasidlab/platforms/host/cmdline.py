"""The kernel's command line: the words that decide about IOMMUs, PASIDs, and page tables.

Source: `intel_iommu_setup()` (drivers/iommu/intel/iommu.c), `parse_amd_iommu_options()` (drivers/iommu/amd/init.c),
`iommu_setup()` (arch/x86/kernel/pci-dma.c), `iommu_set_def_domain_type()` (drivers/iommu/iommu.c), `pci_setup()`
(drivers/pci/pci.c), `parse_args()` and `parameqn()` (kernel/params.c), v6.12 and v7.3; where scalable mode is on by
default, INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON (drivers/iommu/intel/Kconfig), which is y by default since v5.15.

Words are read as the kernel reads them: `-` and `_` are the same in a name, of several the last counts, `--` ends
them, and `intel_iommu=sm_on` alone does not turn the IOMMU on. Not read: words of programs and of other drivers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pasidlab.platforms.host.wanted import words_of
from pasidlab.platforms.said import Known

ORIGIN = "proc/cmdline"
SCALABLE_SINCE = (5, 15)
"""The first kernel whose configuration has scalable mode on unless told otherwise."""


class Meant(NamedTuple):
    """What a word says, and the word."""

    value: bool | int
    word: str


@dataclass(slots=True, kw_only=True)
class CommandLine:
    """What the kernel was told; None is nothing.

    Attributes:
        text: the whole.
        iommu: `iommu=off` of x86: there is none, of any vendor.
        vtd: `intel_iommu=on` and `off`.
        scalable_mode: `intel_iommu=sm_on` and `sm_off`.
        igfx_off: the graphics processor's own unit is passed by.
        amd: `amd_iommu=on` and `off`.
        amd_page_tables: `amd_iommu=pgtbl_v1` and `pgtbl_v2`, those of guests, which PASIDs need.
        passthrough: `iommu=pt` and `nopt`, `iommu.passthrough=`: devices begin with an identity domain.
        strict: `iommu.strict=`.
        bounce: `iommu=soft`: memory is copied for devices that reach too little of it; IOMMUs stay.
        smmu_disable_bypass: `arm-smmu-v3.disable_bypass=`; kernels since about 6.8 do not have it.
        ats: `pci=noats` says false.
        acs: words that change the isolation of PCI functions.
        five_level: `no5lvl` says false.
    """

    text: str = ""
    iommu: Meant | None = None
    vtd: Meant | None = None
    scalable_mode: Meant | None = None
    igfx_off: Meant | None = None
    amd: Meant | None = None
    amd_page_tables: Meant | None = None
    passthrough: Meant | None = None
    strict: Meant | None = None
    bounce: Meant | None = None
    smmu_disable_bypass: Meant | None = None
    ats: Meant | None = None
    five_level: Meant | None = None
    acs: tuple[str, ...] = ()


_Parts = Mapping[str, tuple[str, bool | int]]
_INTEL: _Parts = {
    "on": ("vtd", True),
    "off": ("vtd", False),
    "sm_on": ("scalable_mode", True),
    "sm_off": ("scalable_mode", False),
    "igfx_off": ("igfx_off", True),
    "strict": ("strict", True),
}
_AMD: _Parts = {
    "off": ("amd", False),
    "on": ("amd", True),
    "pgtbl_v1": ("amd_page_tables", 1),
    "pgtbl_v2": ("amd_page_tables", 2),
    "fullflush": ("strict", True),
}
_X86: _Parts = {
    "off": ("iommu", False),
    "force": ("iommu", True),
    "soft": ("bounce", True),
    "pt": ("passthrough", True),
    "nopt": ("passthrough", False),
}
_LISTS: dict[str, _Parts] = {"intel_iommu": _INTEL, "amd_iommu": _AMD, "iommu": _X86}
_BOOLEANS = {
    "iommu.passthrough": "passthrough",
    "iommu.strict": "strict",
    "arm_smmu_v3.disable_bypass": "smmu_disable_bypass",
}
_ACS = ("disable_acs_redir", "config_acs")


def read_cmdline(text: str) -> CommandLine:
    """Read a command line; words that mean nothing here are passed over."""
    said = CommandLine(text=text.strip())
    for word in words_of(said.text):
        if word == "--":
            break
        key, equals, value = word.replace('"', "").partition("=")
        key = key.replace("-", "_")
        if key == "no5lvl" and not equals:
            said.five_level = Meant(False, word)
        elif key in _LISTS:
            _read_list(said, word, _LISTS[key], value)
        elif key in _BOOLEANS:
            _read_boolean(said, word, _BOOLEANS[key], value)
        elif key == "pci":
            _read_pci(said, word, value)
        elif key == "pcie_acs_override":
            said.acs += (word,)
    return said


def _read_list(said: CommandLine, word: str, known: _Parts, value: str) -> None:
    """Read the parts between commas, in their order."""
    for part in value.split(","):
        if part in known:
            name, meaning = known[part]
            setattr(said, name, Meant(meaning, word))


def _read_boolean(said: CommandLine, word: str, name: str, value: str) -> None:
    meaning = boolean(value)
    if meaning is not None:
        setattr(said, name, Meant(meaning, word))


def _read_pci(said: CommandLine, word: str, value: str) -> None:
    for part in value.split(","):
        if part == "noats":
            said.ats = Meant(False, word)
        elif part.startswith(_ACS):
            said.acs += (word,)


def boolean(text: str) -> bool | None:
    """Return what kstrtobool() makes of a word; None where it refuses it."""
    low = text[:2].lower()
    if low[:1] in ("y", "t", "1", "e") or low == "on":
        return True
    if low[:1] in ("n", "f", "0", "d") or low == "of":
        return False
    return None


def vtd_enabled(cmdline: CommandLine, config: Mapping[str, bool]) -> Known | None:
    """Return whether Linux turns VT-d on where firmware describes it; None where that is not known.

    A kernel that was not told turns it on by INTEL_IOMMU_DEFAULT_ON, or because firmware asks for it.
    """
    if config.get("INTEL_IOMMU") is False:
        return Known(False, "kernel configuration, INTEL_IOMMU is not set")
    for meant in (cmdline.iommu, cmdline.vtd):
        if meant is not None and not meant.value:
            return Known(False, f"{ORIGIN}, {meant.word}")
    if cmdline.vtd is not None:
        return Known(True, f"{ORIGIN}, {cmdline.vtd.word}")
    if config.get("INTEL_IOMMU_DEFAULT_ON"):
        return Known(True, "kernel configuration, INTEL_IOMMU_DEFAULT_ON=y")
    return None


def scalable_mode(cmdline: CommandLine, config: Mapping[str, bool], release: str) -> Known | None:
    """Return whether Linux uses scalable mode where a VT-d unit has it; None where that is not known."""
    enabled = vtd_enabled(cmdline, config)
    if enabled is not None and not enabled.value:
        return enabled
    if cmdline.scalable_mode is not None:
        return Known(bool(cmdline.scalable_mode.value), f"{ORIGIN}, {cmdline.scalable_mode.word}")
    option = "INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON"
    if option in config:
        return Known(config[option], f"kernel configuration, {option}{'=y' if config[option] else ' is not set'}")
    numbers = version_of(release)
    if numbers is None:
        return None
    return Known(
        numbers[:2] >= SCALABLE_SINCE, f"default of Linux {release}: on since 5.15, unless it was built otherwise"
    )


def version_of(release: str) -> tuple[int, int, int] | None:
    """Return the three numbers that a release begins with, the last 0 where there is none; None for no release."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,6}))?", release)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None

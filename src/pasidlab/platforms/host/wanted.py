"""What a capture takes of a host: which files, which links, how much of each, and what of private text.

Source: Documentation/ABI (v7.3): sysfs-bus-pci, sysfs-class-iommu*, sysfs-kernel-iommu_groups, sysfs-driver-uacce,
sysfs-driver-dma-idxd, debugfs-intel-iommu; sys/firmware/acpi/tables by ACPI name. Decided here: of text that tells
more of a host than its IOMMUs, only what bears on PASIDs is taken: words of the kernel's command line, options of its
configuration, lines of its log, the first CPU. Tables of firmware that hold keys or licences (MSDM, SLIC) are not in
the list, which names those that are taken.

Not left out: PCI configuration space and the device tree are taken whole, and may hold serial numbers.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass

from pasidlab.description.config import KERNEL_OPTIONS
from pasidlab.platforms.host.gzipped import unpacked
from pasidlab.platforms.host.kmsg import DMESG

KIB, MIB = 1 << 10, 1 << 20
PCI, PLATFORM = "sys/bus/pci/devices", "sys/bus/platform/devices"
CONFIG_GZ = "proc/config.gz"
MOST_DEEP = 6
"""How many directories deep debugfs is looked at."""
MOST_CONFIG = 4 * MIB
"""Largest kernel configuration, unpacked."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Files that are taken.

    Attributes:
        pattern: their paths; `*` is any name, a name with `*` is one that fits, and `a|b` is one of these names.
        most: bytes of each.
        keep: what is kept of the content.
    """

    pattern: str
    most: int = 64 * KIB
    keep: Callable[[bytes], bytes] | None = None


PCI_FILES = (
    "vendor|device|class|revision|numa_node|sriov_totalvfs|sriov_numvfs|sriov_offset"
    "|sriov_stride|sriov_vf_device|sriov_vf_total_msix"
)
UACCE_FILES = "api|flags|available_instances|algorithms|region_mmio_size|region_dus_size|isolate|isolate_strategy"
TABLES = "DMAR|IORT|IVRS|RIMT|VIOT|RHCT"

LINKS = (
    f"{PCI}/*",
    f"{PCI}/*/driver|iommu|iommu_group|physfn|of_node|firmware_node",
    f"{PLATFORM}/*",
    f"{PLATFORM}/*/driver|iommu|iommu_group|of_node|firmware_node",
    "sys/class/iommu/*",
    "sys/class/iommu/*/device",
    "sys/class/iommu/*/devices/*",
    "sys/kernel/iommu_groups/*/devices/*",
    "sys/class/uacce/*",
    "sys/class/uacce/*/device",
    "sys/bus/dsa/devices/*",
    "sys/bus/dsa/devices/*/driver",
)
"""Links whose targets are taken, by the same patterns."""

_OPTION = re.compile(r"(?:# )?CONFIG_(\w+)(?:=| is not set)")
_FAMILY = re.compile(r"IOMMU|SMMU|PASID|UACCE|IDXD|_SVA|_SVM|ARM64_(?:VA|PA)_BITS|HW_AFDBM|HAFT|PGTABLE_LEVELS")
_NAMES = frozenset((*KERNEL_OPTIONS, "64BIT", "ARM64", "DEBUG_FS", "IRQ_REMAP", "PCI", "RISCV", "X86_64"))
_WORD = re.compile(
    r"(?:intel_iommu|amd_iommu|iommu|arm[-_]smmu|riscv[-_]iommu|virtio[-_]iommu|pci|no5lvl|idxd|uacce|hisi|amdxdna|vfio"
    r"|intremap|mem_encrypt|clearcpuid|module_blacklist|modprobe\.blacklist|initcall_blacklist|x2apic|nox2apic|ivrs_"
    r"|efi=|acpi=|arm64\.|kvm-arm\.mode|id_aa64|BOOT_IMAGE)\S*"
)
_WORDS = re.compile(r'(?:"[^"]*"?|[^\s"])+')
_LINE = re.compile(
    r"Linux version|DMAR|IOMMU|iommu|AMD-Vi|SMMU|smmu|PASID|pasid(?!lab)|\bSVA\b|\bsva\b|\bSVM\b|idxd|iax|uacce"
    r"|hisi_(?:zip|sec|hpre)|amdxdna|enqcmd|ENQCMD|\bATS\b|\bPRI\b|[pP]age request|\bIOPF\b|la57|5-level|IORT|IVRS"
    r"|RIMT|VIOT|TLP prefix|vfio"
)
_PRIVATE = re.compile(r"ommand line:|UUID|uuid|serial|Serial|hostname")
SYSLOG = re.compile(r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) \S+ kernel: ?")
"""What syslog and the journal put before a line of the kernel's: date, host, and who wrote it."""


def words_of(text: str) -> list[str]:
    """Return the words of a kernel's command line; what stands in quotes is part of its word."""
    return _WORDS.findall(text)


def command_line(data: bytes) -> bytes:
    """Keep the words that bear on IOMMUs, PCI, and page tables."""
    words = words_of(data.decode("utf-8", errors="replace"))
    return (" ".join(word for word in words if _WORD.fullmatch(word)) + "\n").encode()


def first_cpu(data: bytes) -> bytes:
    """Keep what is said of the first CPU."""
    return data.lstrip(b"\n").split(b"\n\n", 1)[0].rstrip(b"\n") + b"\n"


def config_text(data: bytes) -> bytes:
    """Keep the options that bear on IOMMUs, PASIDs, and page tables."""
    return _lines(data, _is_option)


def _is_option(line: str) -> bool:
    match = _OPTION.match(line)
    return match is not None and (match[1] in _NAMES or _FAMILY.search(match[1]) is not None)


def config_gz(data: bytes) -> bytes:
    """Keep the same of a compressed configuration; ValueError for one that cannot be unpacked."""
    return gzip.compress(config_text(unpacked(data, MOST_CONFIG)), mtime=0)


def bears_on_pasids(line: str) -> bool:
    """Return whether a line of the kernel's log is on IOMMUs, PASIDs, or devices that have them; or on its start."""
    return _LINE.search(line) is not None


def log_lines(data: bytes) -> bytes:
    """Keep the kernel's lines on IOMMUs, PASIDs, and devices that have them, but for those with identifiers."""
    return _lines(data, lambda line: bears_on_pasids(line) and not _PRIVATE.search(line))


def kernel_log_lines(data: bytes) -> bytes:
    """Keep the same of a log that other programs write to as well, without the host's name."""
    lines = log_lines(data).decode().split("\n")
    return "".join(f"{SYSLOG.sub('', line, 1)}\n" for line in lines if SYSLOG.match(line)).encode()


def _lines(data: bytes, keep: Callable[[str], bool]) -> bytes:
    lines = data.decode("utf-8", errors="replace").split("\n")
    return "".join(f"{line}\n" for line in lines if keep(line)).encode()


FILES = (
    Wanted(f"sys/firmware/acpi/tables/{TABLES}", 16 * MIB),
    Wanted("sys/firmware/fdt", 64 * MIB),
    Wanted(f"{PCI}/*/config", 4 * KIB),
    Wanted(f"{PCI}/*/{PCI_FILES}"),
    Wanted(f"{PCI}/*/firmware_node/path"),
    Wanted(f"{PLATFORM}/*/of_node/pasid-num-bits|dma-can-stall|compatible|reg"),
    Wanted(f"{PLATFORM}/*/firmware_node/path|hid"),
    Wanted("sys/class/iommu/*/intel-iommu|amd-iommu/*"),
    Wanted("sys/kernel/iommu_groups/*/type|reserved_regions"),
    Wanted(f"sys/class/uacce/*/{UACCE_FILES}"),
    Wanted("sys/bus/dsa/devices/*/*"),
    *(Wanted("sys/kernel/debug/iommu" + "/*" * depth, 8 * MIB) for depth in range(2, MOST_DEEP + 1)),
    Wanted("proc/cmdline", keep=command_line),
    Wanted("proc/version"),
    Wanted("proc/sys/kernel/osrelease"),
    Wanted("proc/cpuinfo", 16 * MIB, first_cpu),
    Wanted(CONFIG_GZ, MIB, config_gz),
    Wanted("boot/config-{release}", MOST_CONFIG, config_text),
    Wanted("lib/modules/{release}/config", MOST_CONFIG, config_text),
)
"""In the order in which they are read; `{release}` is the kernel's."""
LOGS = (
    Wanted(DMESG, 64 * MIB, log_lines),
    Wanted("var/log/dmesg", 64 * MIB, log_lines),
    Wanted("var/log/kern.log", 64 * MIB, kernel_log_lines),
)
"""The kernel's log, of which the first is taken that can be read."""
SKIPPED = frozenset({"domain_translation_struct", "uevent"})
"""Files that are never taken: page tables of all of a host's DMA, and what says nothing more."""
LEFT_OUT = (
    "proc/cmdline: words that do not bear on IOMMUs, PCI, or page tables",
    "proc/cpuinfo: all but the first CPU",
    "the kernel's configuration: options that do not bear on IOMMUs, PASIDs, or page tables",
    "the kernel's log: lines that do not name an IOMMU, PASIDs, or a device that has them; lines with identifiers",
    "ACPI: all tables but DMAR, IORT, IVRS, RIMT, VIOT and RHCT",
    "taken whole: PCI configuration space and the device tree, which may hold serial numbers",
)

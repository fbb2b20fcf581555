"""A small host in a directory: sysfs with its links, /proc, and a table of firmware."""

from __future__ import annotations

import gzip
from pathlib import Path

DATA = Path(__file__).parent / "data" / "platforms" / "host"
DSA, ROOT_PORT = "0000:6a:01.0", "0000:6a:00.0"
PCI = "sys/bus/pci/devices"
CONFIG = "CONFIG_IOMMU_SUPPORT=y\nCONFIG_INTEL_IOMMU=y\nCONFIG_SOUND=m\n# CONFIG_INTEL_IOMMU_SVM is not set\n"
CPU = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: A CPU\nflags\t\t: fpu lm la57 enqcmd movdir64b\n"
CMDLINE = "BOOT_IMAGE=/vmlinuz root=UUID=1234 intel_iommu=on,sm_on cryptdevice=secret no5lvl pci=noats\n"


def write(root: Path, path: str, content: str | bytes) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content.encode() if isinstance(content, str) else content)
    return place


def link(root: Path, path: str, target: str) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def make_host(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    for function in (ROOT_PORT, DSA):
        home = f"sys/devices/pci0000:6a/{function}"
        write(root, f"{home}/vendor", "0x8086\n")
        write(root, f"{home}/config", bytes(range(256)))
        write(root, f"{home}/serial", "secret")
        link(root, f"{PCI}/{function}", f"../../../devices/pci0000:6a/{function}")
        link(root, f"{home}/iommu", "../../virtual/iommu/dmar0")
    link(root, f"sys/devices/pci0000:6a/{DSA}/driver", "../../../bus/pci/drivers/idxd")
    write(root, "sys/devices/virtual/iommu/dmar0/intel-iommu/ecap", "38d98e4f050df\n")
    link(root, "sys/class/iommu/dmar0", "../../devices/virtual/iommu/dmar0")
    write(root, "sys/kernel/iommu_groups/7/type", "DMA-FQ\n")
    link(root, f"sys/kernel/iommu_groups/7/devices/{DSA}", f"../../../../devices/pci0000:6a/{DSA}")
    write(root, "sys/firmware/acpi/tables/DMAR", b"DMAR and so on")
    write(root, "sys/firmware/acpi/tables/MSDM", b"a licence")
    make_platform(root)
    make_proc(root)
    write(root, "var/log/dmesg", (DATA / "vtd.dmesg").read_bytes())
    return root


def make_platform(root: Path) -> None:
    for name, number in (("quiet", "0"), ("acc", "3")):
        write(root, f"sys/devices/platform/{name}/modalias", "x")
        link(root, f"sys/bus/platform/devices/{name}", f"../../../devices/platform/{name}")
        if number != "0":
            link(root, f"sys/devices/platform/{name}/iommu_group", f"../../../kernel/iommu_groups/{number}")


def make_proc(root: Path) -> None:
    write(root, "proc/cmdline", CMDLINE)
    write(root, "proc/version", "Linux version 6.12.30 (build@example)\n")
    write(root, "proc/sys/kernel/osrelease", "6.12.30\n")
    write(root, "proc/cpuinfo", f"{CPU}\n{CPU.replace(': 0', ': 1')}")
    write(root, "proc/config.gz", gzip.compress(CONFIG.encode()))

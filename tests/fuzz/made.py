"""Good inputs for the targets that no file of the tests is one of: configuration space, hosts, and their archives."""

from __future__ import annotations

import io
import tarfile

from pasidlab.platforms.host.manifest import FORMAT, FileEntry, Manifest
from tests.host_files import CMDLINE, CONFIG, CPU, DATA
from tests.pci_machine import MADE

DMAR = (DATA.parent / "acpi-x86" / "dmar-server.aml").read_bytes()
PCI, UNIT = "sys/bus/pci/devices", "sys/class/iommu/dmar0"
PROC = {
    "proc/cmdline": CMDLINE.encode(),
    "proc/config.gz": CONFIG.encode(),
    "boot/config-6.12.30": CONFIG.encode(),
    "proc/cpuinfo": CPU.encode(),
    "proc/sys/kernel/osrelease": b"6.12.30\n",
    "proc/version": b"Linux version 6.12.30 (build@example)\n",
}
DSA = {
    "dsa0@": b"../../../devices/pci0000:6a/0000:6a:01.0/dsa0",
    "dsa0/pasid_enabled": b"1\n",
    "dsa0/state": b"enabled\n",
    "dsa0/cmd_status": b"0x42\n",
    "dsa0/gen_cap": b"0x40915f0107\n",
    "dsa0/max_work_queues": b"8\n",
    "wq0.0/mode": b"shared\n",
    "wq0.0/state": b"enabled\n",
    "wq0.0/type": b"user\n",
    "wq0.0/threshold": b"8\n",
}


def _functions() -> dict[str, bytes]:
    files = {}
    for address, space in MADE.items():
        place = f"{PCI}/0000:{address}"
        files[f"{place}/config"] = space[:0x280].ljust(4096, b"\0") if len(files) < 3 else space[:256]
        files[f"{place}/iommu_group@"] = b"../../../kernel/iommu_groups/" + address[:2].encode()
    files[f"{PCI}/0000:01:00.1/physfn@"] = b"../0000:01:00.0"
    files[f"{PCI}/0000:6a:01.0/iommu@"] = b"../../virtual/iommu/dmar0"
    return files


HOST = {
    **_functions(),
    f"{UNIT}/intel-iommu/address": b"fed90000\n",
    f"{UNIT}/intel-iommu/cap": b"8d2078c106f0466\n",
    f"{UNIT}/intel-iommu/ecap": b"3ee9e86f050df\n",
    "sys/class/iommu/ivhd0/amd-iommu/features": b"246577efa2254afa:10\n",
    "sys/class/iommu/smmu3.0x000000002b400000/devices/acc@": b"../../platform/acc",
    "sys/bus/platform/devices/acc/iommu_group@": b"../../../kernel/iommu_groups/3",
    "sys/bus/platform/devices/acc/iommu@": b"../smmu3.0x000000002b400000",
    "sys/bus/platform/devices/acc/firmware_node/path": b"\\_SB_.ACC0\n",
    "sys/kernel/iommu_groups/3/type": b"DMA-FQ\n",
    "sys/firmware/acpi/tables/DMAR": DMAR,
    **{f"sys/bus/dsa/devices/{name}": content for name, content in DSA.items()},
    "sys/class/uacce/hisi_sec2-0/flags": b"1\n",
    "sys/class/uacce/hisi_sec2-0/device@": b"../../../0000:01:00.0",
    "dmesg": (DATA / "vtd.dmesg").read_bytes(),
    **PROC,
}
"""Files of a host that no machine has: something of everything that is read."""


def manifest(files: dict[str, bytes]) -> Manifest:
    """Return the manifest of a host's files, in which links end with `@`."""
    links = {path[:-1]: target.decode() for path, target in files.items() if path.endswith("@")}
    entries = [FileEntry.of(path, content) for path, content in sorted(files.items()) if not path.endswith("@")]
    return Manifest(FORMAT, "pasidlab", "6.12.30", "x86_64", entries, links)


def archive(files: dict[str, bytes]) -> bytes:
    """Return a tar archive of a host's files, links among them."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path.removesuffix("@"))
            if path.endswith("@"):
                member.type, member.linkname = tarfile.SYMTYPE, content.decode()
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def some(beginning: str) -> dict[str, bytes]:
    """Return the files of the host whose paths begin so."""
    return {path: content for path, content in HOST.items() if path.startswith(beginning)}

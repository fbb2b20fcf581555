"""The board whose capture the documents show: an SMMUv3 with a narrow NPU, a DMA engine, and a GPU in a slot."""

from __future__ import annotations

import gzip
from pathlib import Path

from pasidlab.platforms.pci.words import PortType

from .conftest import ROOT
from .host_files import link, write
from .pci_machine import acs, ats, bridge, config, endpoint, pasid, pri

CAPTURES = ROOT / "docs" / "examples" / "captures"
SMMU, NPU, DMA = "smmu3.0x000000002b400000", "2c000000.npu", "2d000000.dma"
PORT, GPU = "0000:00:00.0", "0000:01:00.0"
BUS = "sys/devices/platform/40000000.pcie/pci0000:00"
HOMES = {
    NPU: f"sys/devices/platform/{NPU}",
    DMA: f"sys/devices/platform/{DMA}",
    PORT: f"{BUS}/{PORT}",
    GPU: f"{BUS}/{PORT}/{GPU}",
}
NODES = {NPU: "npu@2c000000", DMA: "dma@2d000000"}
CPU = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
CONFIG = """\
CONFIG_ARM64=y
CONFIG_ARM64_4K_PAGES=y
CONFIG_SOUND=m
CONFIG_PCI=y
CONFIG_PCI_ATS=y
CONFIG_PCI_PRI=y
CONFIG_PCI_PASID=y
CONFIG_IOMMU_SUPPORT=y
CONFIG_IOMMU_SVA=y
CONFIG_ARM_SMMU_V3=y
CONFIG_ARM_SMMU_V3_SVA=y
"""
LOG = """\
[    0.000000] Linux version 7.3.4 (build@board)
[    0.000000] Kernel command line: root=/dev/nvme0n1p2 ro
[    0.412000] arm-smmu-v3 2b400000.iommu: ias 44-bit, oas 44-bit (features 0x00021fff)
[    2.031000] usb 1-1: New USB device found
[    9.200000] npu 2c000000.npu: iommu_sva_bind_device: -28
"""


def make_board(root: Path) -> Path:
    """Make the board's files below `root`, as Linux would show them to root."""
    for group, (name, home) in enumerate(HOMES.items()):
        write(root, f"{home}/uevent", "")
        link(root, f"{home}/iommu_group", _to(home, f"sys/kernel/iommu_groups/{group}"))
        link(root, f"{home}/iommu", _to(home, f"sys/devices/platform/2b400000.iommu/iommu/{SMMU}"))
        link(root, f"sys/kernel/iommu_groups/{group}/devices/{name}", f"../../../../../{home}")
        write(root, f"sys/kernel/iommu_groups/{group}/type", "DMA\n")
        bus = "platform" if name in NODES else "pci"
        link(root, f"sys/bus/{bus}/devices/{name}", f"../../../../{home}")
    for name, node in NODES.items():
        link(root, f"{HOMES[name]}/of_node", _to(HOMES[name], f"sys/firmware/devicetree/base/{node}"))
    write(root, f"sys/devices/platform/2b400000.iommu/iommu/{SMMU}/uevent", "")
    link(root, f"sys/class/iommu/{SMMU}", f"../../devices/platform/2b400000.iommu/iommu/{SMMU}")
    write(root, "sys/firmware/fdt", (CAPTURES / "npu-board.dtb").read_bytes())
    _make_functions(root)
    _make_proc(root)
    return root


def _to(home: str, target: str) -> str:
    """Return the link that leads from a directory of the host to another path of it."""
    return "../" * len(home.split("/")) + target


def _make_functions(root: Path) -> None:
    port = config(bridge(1, 1), PortType.ROOT_PORT, [acs()])
    gpu = config(endpoint(device=0x1100), extended=[ats(), pri(), pasid(16)])
    for name, space in ((PORT, port), (GPU, gpu)):
        write(root, f"{HOMES[name]}/config", space)
        write(root, f"{HOMES[name]}/vendor", "0x1b36\n")


def _make_proc(root: Path) -> None:
    write(root, "proc/cmdline", "root=/dev/nvme0n1p2 ro iommu.passthrough=0\n")
    write(root, "proc/version", "Linux version 7.3.4 (build@board)\n")
    write(root, "proc/sys/kernel/osrelease", "7.3.4\n")
    write(root, "proc/cpuinfo", f"{CPU}\n{CPU.replace(': 0', ': 1')}")
    write(root, "proc/config.gz", gzip.compress(CONFIG.encode(), mtime=0))
    write(root, "var/log/dmesg", LOG)

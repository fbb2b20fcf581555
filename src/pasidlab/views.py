"""The state of a machine's parts in words."""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.linux.iommu import pasid_range, slot_text
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.structs import IOMMU_PASID_INVALID, Device
from pasidlab.linux.sva import mm_get_enqcmd_pasid
from pasidlab.linux.task import Task


def enqcmd_number(task: Task) -> int | None:
    """Return the number that ENQCMD and its like carry for a task; None when there is none."""
    pasid = IOMMU_PASID_INVALID if task.mm is None else mm_get_enqcmd_pasid(task.mm)
    return None if pasid == IOMMU_PASID_INVALID else pasid


def process_text(task: Task) -> str:
    """Tell pid, number and register of a task."""
    if task.mm is None:
        return f"{task.name}: exited"
    pasid = enqcmd_number(task)
    number = "no number" if pasid is None else f"number {pasid}"
    x86 = task.kernel.arch is Arch.X86
    loaded = f"IA32_PASID {task.x86.ia32_pasid:#x}" if x86 else f"ACCDATA_EL1 {task.arm64.accdata_el1:#x}"
    where = f"pid {task.pid} in pid namespace {task.pidns}"
    return f"{task.name}: {where}, {number} for ENQCMD and its like, {loaded}"


def device_text(dev: Device) -> Iterator[str]:
    """Tell what a device carries, and line by line what is attached to its group."""
    yield f"{dev.name} carries {pasid_range(dev)}"
    if dev.iommu_group is not None:
        for pasid in sorted(dev.iommu_group.pasid_array):
            yield f"{pasid}: {slot_text(dev.iommu_group, pasid)}"


def space_text(kernel: Kernel) -> list[str]:
    """Tell who holds each number of the global space."""
    return [f"{pasid}: {holder}" for pasid, holder in kernel.holders()] or ["the global space is empty"]

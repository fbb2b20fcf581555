"""Whose an address is, whose a page table is, and what a table grants, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pasidlab.drivers.arm_smmu_v3.driver import ArmSmmuDriver, Instance
from pasidlab.drivers.intel.driver import Instance as VtdInstance
from pasidlab.drivers.intel.driver import IntelDriver
from pasidlab.errors import InputError
from pasidlab.linux.page_alloc import KERNEL
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine

_LETTERS = "rwx"


def memory_text(owners: Iterable[str]) -> str:
    """Say whose memory it is that has these owners (`PageAllocator.owners_of`)."""
    names = list(owners)
    if names == [KERNEL]:
        return "the kernel's memory"
    return f"the memory of {' and '.join(names)}" if names else "memory that nobody has"


def table_owner(machine: Machine, address: int) -> str:
    """Say whose address space a first-level table is: a process's, or one that the kernel manages."""
    tasks = (task.mm for task in machine.processes.values())
    bonds = (binding.bond.mm for binding in machine.bindings.values())
    names = (mm.name for mm in (*tasks, *bonds) if mm is not None and mm.pgd_page == address)
    return next(names, KERNEL)


def rights_text(rights: int) -> str:
    """Say rights as `user rw-, privileged r--`."""
    user, privileged = (
        "".join(letter if rights >> first >> bit & 1 else "-" for bit, letter in enumerate(_LETTERS))
        for first in (0, len(_LETTERS))
    )
    return f"user {user}, privileged {privileged}"


def size_text(lg2: int) -> str:
    """Say 2**`lg2` bytes."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if lg2 >= shift:
            return f"{1 << lg2 - shift} {unit}"
    return f"{1 << lg2} bytes"


def streams_of_smmu(machine: Machine, instance: Instance) -> dict[int, Device]:
    """Return the device of each StreamID that firmware names behind one SMMU."""
    driver = machine.parts.smmus
    return {sid: dev for dev in _behind(driver, instance) for sid in driver.traits[dev].streams}


def sources_of_vtd(machine: Machine, instance: VtdInstance) -> dict[int, Device]:
    """Return the device of each source identifier behind one remapping unit."""
    driver = machine.parts.vtds
    return {driver.traits[dev].source_id: dev for dev in _behind(driver, instance)}


def _behind(driver: ArmSmmuDriver | IntelDriver, instance: Instance | VtdInstance) -> Iterator[Device]:
    """Yield the devices that firmware describes behind one IOMMU."""
    for dev in driver.traits:
        if dev.iommu is not None and driver.instances.get(dev.iommu) is instance:
            yield dev


def device_named(machine: Machine, name: str) -> Device:
    """Return a device; InputError names those that there are."""
    if name not in machine.endpoints:
        raise InputError(f"--device {name!r}: no such device; allowed: {', '.join(machine.endpoints) or 'none'}")
    return machine.endpoints[name].dev

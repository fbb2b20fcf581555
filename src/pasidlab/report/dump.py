"""The tables of a machine as a tree: what each IOMMU finds in memory, what waits in its queues, what it has cached.

For a mock IOMMU the tree is what its driver was told: whose memory each PASID of each device reaches.
"""

from __future__ import annotations

from operator import itemgetter

from pasidlab.linux.page_alloc import KERNEL
from pasidlab.linux.structs import Device, IommuDevice, IommuDomain
from pasidlab.machine import Machine
from pasidlab.report.dump_smmu import SmmuTree
from pasidlab.report.dump_vtd import VtdTree
from pasidlab.report.nodes import MOST_CONTEXTS
from pasidlab.report.places import device_named, memory_text
from pasidlab.report.tree import Node


def dump(machine: Machine, title: str, device: str | None = None) -> Node:
    """Return the tables of a machine; `device` leaves out what is not about that one. InputError: no such device."""
    root = Node(title, {"kind": "machine", "title": title})
    only = None if device is None else device_named(machine, device)
    for name, iommu in machine.iommus.items():
        if only is None or only.iommu is iommu:
            root.add(_iommu(machine, name, iommu, only))
    bare = [endpoint.dev for endpoint in machine.endpoints.values() if endpoint.dev.iommu is None]
    for dev in bare:
        if only in (None, dev):
            record = {"kind": "device", "device": dev.name, "iommu": None}
            root.add(Node(f"{dev.name} is behind no IOMMU", record))
    if not root.children:
        root.say("this machine has neither IOMMU nor device")
    return root


def _iommu(machine: Machine, name: str, iommu: IommuDevice, only: Device | None) -> Node:
    """Return the tree of one IOMMU, each model by its own part."""
    smmus, vtds = machine.parts.smmus.instances, machine.parts.vtds.instances
    if iommu in smmus:
        return SmmuTree(machine, name, smmus[iommu], only).node()
    if iommu in vtds:
        return VtdTree(machine, name, vtds[iommu], only).node()
    devices = [endpoint.dev for endpoint in machine.endpoints.values() if endpoint.dev.iommu is iommu]
    return _mock(machine, name, [dev for dev in devices if only in (None, dev)])


def _mock(machine: Machine, name: str, devices: list[Device]) -> Node:
    """Return what a mock IOMMU was told, which is all that it has."""
    node = Node(
        f"{name}: a mock IOMMU; it has no tables in memory, only what its driver was told", shared={"iommu": name}
    )
    node.record = {"kind": "iommu", "model": "mock"}
    for dev in devices:
        child = node.add(Node(f"{dev.name}", shared={"device": dev.name}))
        entries = {pasid: domain for (owner, pasid), domain in machine.parts.mock.entries.items() if owner is dev}
        child.extend(sorted(entries.items(), key=itemgetter(0)), _mock_entry, MOST_CONTEXTS, "PASIDs")
        if not entries:
            child.say("no PASID reaches memory")
    return node


def _mock_entry(entry: tuple[int, IommuDomain]) -> Node:
    pasid, domain = entry
    owners = [KERNEL if domain.mm is None else domain.mm.name]
    return Node(f"PASID {pasid}: {memory_text(owners)}", {"kind": "entry", "pasid": pasid, "owners": owners})

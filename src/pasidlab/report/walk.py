"""One transaction of a device, access by access: which structures its IOMMU reads, what they say, and how it ends.

The walk is made with empty caches on a copy of the machine, whose driver does not hear of it, so that asking changes
nothing. A device with several streams uses its first; one with ATS asks for translations by the same tables, which the
walk shows as it shows them for any other.
"""

from __future__ import annotations

from pasidlab.errors import InputError
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report import walk_smmu, walk_vtd
from pasidlab.report.places import device_named
from pasidlab.report.walked import Transaction, Walk


def walk(machine: Machine, device: str, transaction: Transaction) -> Walk:
    """Walk for one transaction of a device.

    Raises InputError for a device that there is not, that is behind no IOMMU with tables, or cannot send that.
    """
    dev = device_named(machine, device)
    if dev.iommu in machine.parts.smmus.instances:
        return walk_smmu.walk(machine, dev, transaction)
    if dev.iommu in machine.parts.vtds.instances:
        return walk_vtd.walk(machine, dev, transaction)
    raise _no_tables(machine, dev)


def _no_tables(machine: Machine, dev: Device) -> InputError:
    with_tables = {*machine.parts.smmus.instances, *machine.parts.vtds.instances}
    behind = [name for name, one in machine.endpoints.items() if one.dev.iommu in with_tables]
    return InputError(
        f"--device {dev.name!r}: has no tables to walk, since it is behind no IOMMU of model arm-smmu-v3 or intel-vtd; "
        f"allowed: {', '.join(behind) or 'none in this scenario'}"
    )

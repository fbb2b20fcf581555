"""Real machines: what firmware, configuration space and a running Linux show of them, decoded and put together.

Each format has a reader that takes bytes or text and returns what they hold, typed, with what is wrong as `findings`;
a reader raises InputError for a file that is not of its kind at all, and nothing else, whatever the file holds.

>>> from pasidlab.platforms import read_iort
>>> iort = read_iort(open("/sys/firmware/acpi/tables/IORT", "rb").read())  # doctest: +SKIP

`import_machine` and `load_machine` make a machine description of files, whatever they are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pasidlab.platforms.acpi.dmar import Dmar, read_dmar
    from pasidlab.platforms.acpi.iort import Iort, read_iort
    from pasidlab.platforms.acpi.ivrs import Ivrs, read_ivrs
    from pasidlab.platforms.acpi.rhct import Rhct, read_rhct
    from pasidlab.platforms.acpi.rimt import Rimt, read_rimt
    from pasidlab.platforms.acpi.viot import Viot, read_viot
    from pasidlab.platforms.debugfs.smmu import SmmuDump, read_smmu_dump
    from pasidlab.platforms.debugfs.vtd import VtdRegisters, VtdTables, read_vtd_registers, read_vtd_tables
    from pasidlab.platforms.devicetree import DeviceTree, read_devicetree
    from pasidlab.platforms.host.capture import capture
    from pasidlab.platforms.host.dmesg import Log, read_dmesg
    from pasidlab.platforms.importing import Imported, import_machine, load_machine
    from pasidlab.platforms.pci.config import ConfigSpace, read_config
    from pasidlab.platforms.pci.lspci import read_lspci

_HOMES = {
    "ConfigSpace": "pci.config",
    "DeviceTree": "devicetree",
    "Dmar": "acpi.dmar",
    "Imported": "importing",
    "Iort": "acpi.iort",
    "Ivrs": "acpi.ivrs",
    "Log": "host.dmesg",
    "Rhct": "acpi.rhct",
    "Rimt": "acpi.rimt",
    "SmmuDump": "debugfs.smmu",
    "Viot": "acpi.viot",
    "VtdRegisters": "debugfs.vtd",
    "VtdTables": "debugfs.vtd",
    "capture": "host.capture",
    "import_machine": "importing",
    "load_machine": "importing",
    "read_config": "pci.config",
    "read_devicetree": "devicetree",
    "read_dmar": "acpi.dmar",
    "read_dmesg": "host.dmesg",
    "read_iort": "acpi.iort",
    "read_ivrs": "acpi.ivrs",
    "read_lspci": "pci.lspci",
    "read_rhct": "acpi.rhct",
    "read_rimt": "acpi.rimt",
    "read_smmu_dump": "debugfs.smmu",
    "read_viot": "acpi.viot",
    "read_vtd_registers": "debugfs.vtd",
    "read_vtd_tables": "debugfs.vtd",
}

__all__ = [
    "ConfigSpace",
    "DeviceTree",
    "Dmar",
    "Imported",
    "Iort",
    "Ivrs",
    "Log",
    "Rhct",
    "Rimt",
    "SmmuDump",
    "Viot",
    "VtdRegisters",
    "VtdTables",
    "capture",
    "import_machine",
    "load_machine",
    "read_config",
    "read_devicetree",
    "read_dmar",
    "read_dmesg",
    "read_iort",
    "read_ivrs",
    "read_lspci",
    "read_rhct",
    "read_rimt",
    "read_smmu_dump",
    "read_viot",
    "read_vtd_registers",
    "read_vtd_tables",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name when it is first asked for, so that one reader does not bring all others."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Real machines: what firmware, configuration space and a running Linux show of them, decoded and put together.

Each format has a reader that takes bytes or text and returns what they hold, typed, with what is wrong as `findings`;
a reader raises InputError for a file that is not of its kind at all, and nothing else, whatever the file holds. A
structure of fixed form is a `Word` whose fields bear the specification's names.

>>> from pasidlab.platforms import read_iort
>>> iort = read_iort(open("/sys/firmware/acpi/tables/IORT", "rb").read())  # doctest: +SKIP
>>> [(node.title, node.word, node.mappings) for node in iort.nodes]  # doctest: +SKIP

What a reader returns is what the file holds. `iort_says` and its like tell what that means for a machine, as `Said`:
IOMMUs, devices, what reaches which, and all findings: those of the reader, and those that only show where mappings are
followed. An import uses both.

`tables_in` takes the text of acpidump, or several tables, apart. A reader of bytes brings neither the model nor numpy
with it; those of logs and debugfs use the words of the models.

`import_machine` and `load_machine` make a machine description of files, whatever they are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pasidlab.platforms.acpi.dmar import Dmar, dmar_says, read_dmar
    from pasidlab.platforms.acpi.dump import tables_in
    from pasidlab.platforms.acpi.header import Table
    from pasidlab.platforms.acpi.iort import Iort, read_iort
    from pasidlab.platforms.acpi.iort_says import iort_says
    from pasidlab.platforms.acpi.ivrs import Ivrs, ivrs_says, read_ivrs
    from pasidlab.platforms.acpi.rhct import Rhct, read_rhct, rhct_says
    from pasidlab.platforms.acpi.rimt import Rimt, read_rimt, rimt_says
    from pasidlab.platforms.acpi.viot import Viot, read_viot, viot_says
    from pasidlab.platforms.debugfs.smmu import SmmuDump, read_smmu_dump
    from pasidlab.platforms.debugfs.smmu_says import smmu_dump_says
    from pasidlab.platforms.debugfs.vtd import VtdRegisters, VtdTables, read_vtd_registers, read_vtd_tables
    from pasidlab.platforms.debugfs.vtd_says import vtd_registers_say, vtd_tables_say
    from pasidlab.platforms.devicetree import DeviceTree, read_devicetree
    from pasidlab.platforms.devicetree.says import devicetree_says
    from pasidlab.platforms.host.capture import capture
    from pasidlab.platforms.host.dmesg import Log, dmesg_says, read_dmesg
    from pasidlab.platforms.host.manifest import Manifest
    from pasidlab.platforms.importing import Imported, import_machine, load_machine
    from pasidlab.platforms.pci.config import ConfigSpace, read_config
    from pasidlab.platforms.pci.function import Function
    from pasidlab.platforms.pci.lspci import read_lspci
    from pasidlab.platforms.pci.says import functions_say
    from pasidlab.platforms.said import Rid, Said

_HOMES = {
    "ConfigSpace": "pci.config",
    "DeviceTree": "devicetree",
    "Dmar": "acpi.dmar",
    "Function": "pci.function",
    "Imported": "importing",
    "Iort": "acpi.iort",
    "Ivrs": "acpi.ivrs",
    "Log": "host.dmesg",
    "Manifest": "host.manifest",
    "Rhct": "acpi.rhct",
    "Rid": "said",
    "Rimt": "acpi.rimt",
    "Said": "said",
    "SmmuDump": "debugfs.smmu",
    "Table": "acpi.header",
    "Viot": "acpi.viot",
    "VtdRegisters": "debugfs.vtd",
    "VtdTables": "debugfs.vtd",
    "capture": "host.capture",
    "devicetree_says": "devicetree.says",
    "dmar_says": "acpi.dmar",
    "dmesg_says": "host.dmesg",
    "functions_say": "pci.says",
    "import_machine": "importing",
    "iort_says": "acpi.iort_says",
    "ivrs_says": "acpi.ivrs",
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
    "rhct_says": "acpi.rhct",
    "rimt_says": "acpi.rimt",
    "smmu_dump_says": "debugfs.smmu_says",
    "tables_in": "acpi.dump",
    "viot_says": "acpi.viot",
    "vtd_registers_say": "debugfs.vtd_says",
    "vtd_tables_say": "debugfs.vtd_says",
}

__all__ = [
    "ConfigSpace",
    "DeviceTree",
    "Dmar",
    "Function",
    "Imported",
    "Iort",
    "Ivrs",
    "Log",
    "Manifest",
    "Rhct",
    "Rid",
    "Rimt",
    "Said",
    "SmmuDump",
    "Table",
    "Viot",
    "VtdRegisters",
    "VtdTables",
    "capture",
    "devicetree_says",
    "dmar_says",
    "dmesg_says",
    "functions_say",
    "import_machine",
    "iort_says",
    "ivrs_says",
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
    "rhct_says",
    "rimt_says",
    "smmu_dump_says",
    "tables_in",
    "viot_says",
    "vtd_registers_say",
    "vtd_tables_say",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name when it is first asked for, so that one reader does not bring all others."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""The IORT, the table in which Arm firmware says which devices reach which SMMU, and under which StreamIDs.

Source: Arm DEN0049, IO Remapping Table, issues A to E.g, and drivers/acpi/arm64/iort.c (7.3.4) for what Linux makes of
it. Its structures are in `iort_words`, how they are read in `iort_nodes`, what can be wrong between nodes in
`iort_checks`, where an ID leads in `iort_paths`, and what it all means for a machine in `iort_says`.

Decided here: a table of more than 256 KiB is refused; those of machines have some 20 KiB at the most.
"""

from __future__ import annotations

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.header import HEADER_BYTES, read_table
from pasidlab.platforms.acpi.iort_checks import check_iort
from pasidlab.platforms.acpi.iort_nodes import Iort, Mapping, Node, read_nodes
from pasidlab.platforms.acpi.iort_says import iort_says
from pasidlab.platforms.acpi.iort_words import IortHeader

__all__ = ["MOST_BYTES", "Iort", "Mapping", "Node", "iort_says", "read_iort"]

MOST_BYTES = 256 << 10
"""Largest IORT that is read."""


def read_iort(data: bytes, file: str = "IORT") -> Iort:
    """Read an IORT from the bytes of a file; raises InputError for what is none."""
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 10} KiB, the most that is read of an IORT")
    table = read_table(data, file, "IORT")
    header = table.region.read(IortHeader, HEADER_BYTES, "the header of the IORT")
    nodes = read_nodes(table.region, header) if header is not None else ()
    iort = Iort(file, table, header or IortHeader(), nodes)
    check_iort(iort)
    return iort

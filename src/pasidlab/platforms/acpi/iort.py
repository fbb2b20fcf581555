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
from pasidlab.platforms.acpi.iort_words import IortFields

__all__ = ["MOST_BYTES", "Iort", "Mapping", "Node", "iort_says", "read_iort"]

MOST_BYTES = 256 << 10
"""Largest IORT that is read."""


def read_iort(data: bytes, file: str = "IORT") -> Iort:
    """Read an IORT: its nodes with their ID mappings, as Arm DEN0049 defines them.

    `data` are the table's bytes, `file` what messages call it. What is wrong with the table is in `findings`, and what
    can be read is read. Raises InputError for what is no IORT, or larger than 256 KiB.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{file}: larger than {MOST_BYTES >> 10} KiB, the most that is read of an IORT")
    table = read_table(data, file, "IORT")
    fields = table.region.read(IortFields, HEADER_BYTES, "the header of the IORT")
    nodes = read_nodes(table.region, fields) if fields is not None else ()
    iort = Iort(table, fields or IortFields(), nodes)
    check_iort(iort)
    return iort

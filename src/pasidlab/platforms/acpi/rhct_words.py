"""The structures of an RHCT, the table by which firmware describes RISC-V harts.

Source: RISC-V Hart Capabilities Table (ACPI 6.6, 5.2.37), as Linux and ACPICA declare it: struct acpi_table_rhct and
what follows (include/acpi/actbl2.h). Each structure is one `Word`, bit 0 being bit 0 of its first byte.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.words import Word, bits, flag


class NodeType(IntEnum):
    """Types of nodes."""

    ISA_STRING = 0
    CMO = 1
    MMU = 2
    HART_INFO = 0xFFFF


NODE_NAMES: dict[int, str] = {
    NodeType.ISA_STRING: "ISA string",
    NodeType.CMO: "cache management",
    NodeType.MMU: "MMU",
    NodeType.HART_INFO: "hart info",
}
MMU_TYPES: dict[int, str] = {0: "Sv39", 1: "Sv48", 2: "Sv57"}
"""What page tables a hart has."""


class RhctFields(Word, size=160):
    """What follows the table's header."""

    timer_cannot_wakeup_cpu = flag(0)
    time_base_frequency = bits(95, 32, doc="in Hz")
    node_count = bits(127, 96)
    node_offset = bits(159, 128, doc="of the first node, from the table's beginning")


class RhctNode(Word, size=48):
    """What all nodes begin with."""

    type = bits(15, 0, names=NODE_NAMES)
    length = bits(31, 16)
    revision = bits(47, 32)


class IsaStringNode(RhctNode, size=64):
    """What instructions a hart has. The text follows, ending with a zero."""

    isa_length = bits(63, 48, doc="bytes of the text, its zero included")


class CmoNode(RhctNode, size=80):
    """Sizes of cache blocks, each as a power of two."""

    cbom_size = bits(63, 56, doc="management")
    cbop_size = bits(71, 64, doc="prefetch")
    cboz_size = bits(79, 72, doc="zero")


class MmuNode(RhctNode, size=64):
    """Page tables of a hart."""

    mmu_type = bits(63, 56, names=MMU_TYPES)


class HartInfoNode(RhctNode, size=96):
    """A hart. The offsets of the nodes that describe it follow, 4 bytes each, from the table's beginning."""

    number_of_offsets = bits(63, 48)
    uid = bits(95, 64, doc="ACPI processor UID")

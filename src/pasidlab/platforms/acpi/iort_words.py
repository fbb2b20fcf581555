"""The structures of the IORT, the table in which Arm firmware says what reaches which SMMU, and under which number.

Source: Arm DEN0049, IO Remapping Table, issues A to E.g, as ACPICA's actbl2.h (2025), EDK2's IoRemappingTable.h and
Linux's drivers/acpi/arm64/iort.c have it; they agree, but for the bit of the PASID flag of a root complex
(`pasid_supported_once`). Newer revisions only add: bytes at the end of a node, meanings of bits that were reserved, and
the identifier in a node's header.

Decided here: a word has the fields of the newest revision; `NODES` tells what of them a node of each revision has.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.words import Word, address, bits, flag

ITS_GROUP, NAMED_COMPONENT, ROOT_COMPLEX, SMMU, SMMUV3, PMCG, RMR, IWB = range(8)
NODE_NAMES = {
    ITS_GROUP: "ITS group",
    NAMED_COMPONENT: "named component",
    ROOT_COMPLEX: "root complex",
    SMMU: "SMMUv1/v2",
    SMMUV3: "SMMUv3",
    PMCG: "PMCG",
    RMR: "reserved memory range",
    IWB: "interrupt wire bridge",
}
SMMU_MODELS = {0: "SMMUv1", 1: "SMMUv2", 2: "MMU-400", 3: "MMU-500", 4: "MMU-401", 5: "Cavium ThunderX SMMUv2"}
SMMUV3_MODELS = {0: "generic", 1: "HiSilicon Hi161x", 2: "Cavium CN99xx"}


class IortFields(Word, size=96):
    """What follows the ACPI header (DEN0049, IORT)."""

    node_count = bits(31, 0)
    node_offset = bits(63, 32, doc="of the first node, from the start of the table")


class IortNodeHeader(Word, size=128):
    """What all nodes begin with (DEN0049, node format)."""

    type = bits(7, 0, names=NODE_NAMES)
    length = bits(23, 8, doc="bytes of the node, its ID mappings included")
    revision = bits(31, 24)
    identifier = bits(63, 32, doc="since issue E; reserved before")
    mapping_count = bits(95, 64)
    mapping_offset = bits(127, 96, doc="of the first ID mapping, from the start of the node")


class IdMapping(Word, size=160):
    """A range of IDs, and as what the node at output_reference knows them (DEN0049, ID mapping format)."""

    input_base = bits(31, 0)
    id_count = bits(63, 32, doc="number of IDs minus 1")
    output_base = bits(95, 64)
    output_reference = bits(127, 96, doc="offset of a node, from the start of the table")
    single = flag(128, doc="the device has the one ID output_base; input_base and id_count say nothing")


class ItsGroup(Word, size=32):
    """Node type 0, interrupt translation services; their identifiers follow."""

    its_count = bits(31, 0)


class NamedComponent(Word, size=104):
    """Node type 1, a device of the ACPI namespace that is no PCI function; its object's name follows."""

    stall_supported = flag(0)
    substream_width = bits(5, 1, doc="bits of its PASIDs; 0 is none")
    cache_coherent = bits(63, 32)
    allocation_hints = bits(71, 64)
    cpm = flag(88, doc="coherent path to memory")
    dacs = flag(89, doc="device attributes are cacheable and shareable")
    canwbs = flag(90, doc="its accesses are coherent whatever their attributes (issue E.f)")
    memory_address_limit = bits(103, 96, doc="bits of an address that it can reach")


class RootComplex(Word, size=192):
    """Node type 2, a PCI root complex."""

    cache_coherent = bits(31, 0)
    allocation_hints = bits(39, 32)
    cpm = flag(56, doc="coherent path to memory")
    dacs = flag(57, doc="device attributes are cacheable and shareable")
    canwbs = flag(58, doc="its accesses are coherent whatever their attributes (issue E.f)")
    ats_supported = flag(64)
    pri_supported = flag(65, doc="since issue E.b")
    pasid_fwd_supported = flag(66, doc="PASIDs of translated transactions reach the SMMU (issue E.b)")
    pci_segment_number = bits(127, 96)
    memory_address_limit = bits(135, 128, doc="bits of an address that it can reach (revision 1)")
    max_pasid_width = bits(140, 136, doc="PASID capabilities (revision 4, issue E.d)")
    pasid_supported = flag(160, doc="flags (revision 4)")
    pasid_supported_once = flag(161, doc="reserved; what EDK2 took for the PASID flag until April 2025")

    @property
    def flags(self) -> int:
        """The word of flags that a node of revision 4 ends with."""
        return self >> 160


class Smmu(Word, size=352):
    """Node type 3, an SMMUv1 or SMMUv2; its interrupts follow."""

    base_address = address(63, 0)
    span = bits(127, 64)
    model = bits(159, 128, names=SMMU_MODELS)
    dvm_supported = flag(160)
    coherent_walk = flag(161)
    global_interrupt_offset = bits(223, 192)
    context_interrupt_count = bits(255, 224)
    context_interrupt_offset = bits(287, 256)
    pmu_interrupt_count = bits(319, 288)
    pmu_interrupt_offset = bits(351, 320)


class Smmuv3(Word, size=416):
    """Node type 4, an SMMUv3."""

    base_address = address(63, 0)
    cohacc_override = flag(64, doc="its accesses are coherent whatever IDR0.COHACC says")
    httu_override = bits(66, 65, names={0: "none", 1: "access flag", 2: "access flag and dirty state"})
    proximity_valid = flag(67)
    device_id_valid = flag(68, doc="device_id_mapping_index counts (revision 5, issue E.e)")
    vatos_address = address(191, 128)
    model = bits(223, 192, names=SMMUV3_MODELS)
    event_gsiv = bits(255, 224)
    pri_gsiv = bits(287, 256)
    gerr_gsiv = bits(319, 288)
    sync_gsiv = bits(351, 320)
    proximity_domain = bits(383, 352, doc="since revision 1")
    device_id_mapping_index = bits(415, 384, doc="since revision 1")


class Pmcg(Word, size=192):
    """Node type 5, a group of performance counters."""

    page0_base_address = address(63, 0)
    overflow_gsiv = bits(95, 64)
    node_reference = bits(127, 96, doc="offset of the node that it counts for, from the start of the table")
    page1_base_address = address(191, 128, doc="since revision 1")


class Rmr(Word, size=96):
    """Node type 6, memory that devices use from before the kernel runs; descriptors of its ranges follow."""

    remap_permitted = flag(0)
    access_privilege = flag(1)
    access_attributes = bits(9, 2)
    range_count = bits(63, 32)
    range_offset = bits(95, 64, doc="of the first descriptor, from the start of the node")


class RmrRange(Word, size=160):
    """Descriptor of a reserved memory range."""

    base_address = address(63, 0)
    length = bits(127, 64)


class Iwb(Word, size=80):
    """Node type 7, an interrupt wire bridge of a GICv5 (issue E.g); its object's name follows."""

    base_address = address(63, 0)
    iwb_index = bits(79, 64)


class NodeForm(NamedTuple):
    """How nodes of a type look: what follows their header, and how many bytes of it a revision has at least.

    `least` has a pair for each revision that brought more: from this revision on, so many bytes.
    """

    word: type[Word]
    least: tuple[tuple[int, int], ...]

    def needed(self, revision: int) -> int:
        """Return the bytes after the header that a node of a revision has."""
        return max(size for since, size in self.least if since <= revision)


NODES: dict[int, NodeForm] = {
    ITS_GROUP: NodeForm(ItsGroup, ((0, 4),)),
    NAMED_COMPONENT: NodeForm(NamedComponent, ((0, 13),)),
    ROOT_COMPLEX: NodeForm(RootComplex, ((0, 16), (1, 20), (4, 24))),
    SMMU: NodeForm(Smmu, ((0, 44),)),
    SMMUV3: NodeForm(Smmuv3, ((0, 44), (1, 52))),
    PMCG: NodeForm(Pmcg, ((0, 16), (1, 24))),
    RMR: NodeForm(Rmr, ((0, 12),)),
    IWB: NodeForm(Iwb, ((0, 10),)),
}

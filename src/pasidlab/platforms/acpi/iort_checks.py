"""What can be wrong between the nodes of an IORT, and what of it limits SVA.

Source: Arm DEN0049, IO Remapping Table, issue E.g; what Linux makes of each is in drivers/acpi/arm64/iort.c (7.3.4).

The PASID flag of a root complex: since node revision 4 (issue E.d) the node ends with a word of flags, whose bit 0 says
that the root complex supports PASIDs. EDK2 had the flag at bit 1 until April 2025 (tianocore/edk2, pull request
11023), so firmware built before sets bit 1, which is reserved, and leaves bit 0 clear. A table shows just that: bit 1
set, bit 0 clear. A table with neither may be such firmware's for a root complex without PASIDs, and is not blamed.
Linux looks at none of these fields; an operating system that does takes the root complex for one without PASIDs.

Decided here: a node is blamed once for each kind of fault, at the first place; circles are told once each. ATS of a
root complex is a matter of those that reach an SMMU.
"""

from __future__ import annotations

from pasidlab.platforms.acpi.iort_nodes import Iort, Mapping, Node
from pasidlab.platforms.acpi.iort_words import (
    ITS_GROUP,
    IWB,
    NAMED_COMPONENT,
    NODE_NAMES,
    PMCG,
    RMR,
    ROOT_COMPLEX,
    SMMU,
    SMMUV3,
    NamedComponent,
    Pmcg,
    RootComplex,
    Smmu,
    Smmuv3,
)
from pasidlab.platforms.acpi.region import TAKE_AGAIN
from pasidlab.platforms.said import MOST_PASID_BITS
from pasidlab.rules import Level, Rule

"""Bits of a PASID (PCIe 6.0, 6.20)."""
_FIRMWARE = "a newer firmware may say otherwise"

BAD_REFERENCE = Rule(
    "iort.bad-reference",
    "IORT ID mapping, output reference",
    "a reference leads where no node begins",
    "{file}, offset {offset}: {what} of the {node} refers to {reference:#x}, where no node begins; it leads nowhere",
    source="DEN0049, ID mapping format",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
WRONG_REFERENCE = Rule(
    "iort.wrong-reference",
    "IORT ID mapping, output reference",
    "an ID mapping leads to a node that such nodes do not map to",
    "{file}, offset {offset}: {what} of the {node} leads to the {target}; allowed are: {allowed}",
    source="DEN0049, ID mapping format",
    remedy=TAKE_AGAIN,
)
LOOP = Rule(
    "iort.loop",
    "IORT ID mapping, output reference",
    "ID mappings lead back to a node that they came through",
    "{file}, offset {offset}: {what} of the {node} leads back to the {target}; Linux would follow it for ever",
    source="iort_node_map_id (drivers/acpi/arm64/iort.c)",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
OVERLAP = Rule(
    "iort.overlap",
    "IORT ID mapping, input base and number of IDs",
    "two ID mappings of a node have the same ID",
    "{file}, offset {offset}: {what} of the {node} has ID {id:#x}, which ID mapping {other} has too; {counts} counts",
    source="iort_id_map (drivers/acpi/arm64/iort.c)",
    remedy="the number of IDs in a mapping is one less than there are; firmware that forgets it overlaps by one",
)
ID_RANGE = Rule(
    "iort.id-range",
    "IORT ID mapping, number of IDs",
    "the IDs of a mapping do not fit 32 bits",
    "{file}, offset {offset}: {what} of the {node} maps {count} IDs from {input:#x} to {output:#x}, beyond 32 bits",
    source="DEN0049, ID mapping format",
    remedy=TAKE_AGAIN,
)
DUPLICATE_BASE = Rule(
    "iort.duplicate-base",
    "IORT SMMU nodes, base address",
    "two SMMU nodes have the same base address",
    "{file}, offset {offset}: the {node} has base address {base:#x}, as the {other} has",
    source="DEN0049, SMMUv3 node",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)
SEGMENT_TWICE = Rule(
    "iort.segment-twice",
    "IORT root complex node, PCI segment number",
    "two root complex nodes have the same segment",
    "{file}, offset {offset}: the {node} is of segment {segment:#x}, as the {other} is; Linux uses the first only",
    source="iort_match_node_callback (drivers/acpi/arm64/iort.c)",
    remedy=_FIRMWARE,
)
WIDTH = Rule(
    "iort.pasid-width",
    "IORT named component and root complex nodes, PASID width",
    "a width is larger than a PASID",
    "{file}, offset {offset}: the {node} says that its PASIDs have {width} bits; they have 20 at the most",
    source="DEN0049; PCIe 6.0, 6.20",
    remedy=_FIRMWARE,
)
STALL_WITHOUT_PASIDS = Rule(
    "iort.stall-without-pasids",
    "IORT named component node, flags",
    "faults can stall and the PASID width is 0",
    "{file}, offset {offset}: the {node}, {name}, can stall but has no PASIDs (width 0), so SVA cannot be had on it",
    source="iort_named_component_init (drivers/acpi/arm64/iort.c)",
    remedy="firmware has to give the width of the device's SubstreamIDs",
)
NO_ATS = Rule(
    "iort.rc-no-ats",
    "IORT root complex node, ATS attribute",
    "the ATS attribute of a root complex is off",
    "{file}, offset {offset}: the {node}, segment {segment:#x}, does not support ATS, "
    "so Linux leaves ATS off for all its functions",
    source="iort_pci_rc_supports_ats (drivers/acpi/arm64/iort.c)",
    remedy="if the hardware has ATS, firmware has to say so",
)
NO_FORWARDING = Rule(
    "iort.rc-no-pasid-forwarding",
    "IORT root complex node, ATS attribute",
    "ATS is on and PASIDs of translated transactions are not forwarded",
    "{file}, offset {offset}: the {node}, segment {segment:#x}, does not forward PASIDs of translated transactions "
    "to the SMMU",
    source="DEN0049 E.b, root complex node",
    level=Level.NOTE,
)
PASID_FLAG = Rule(
    "iort.rc-pasid-flag",
    "IORT root complex node, flags",
    "the PASID flag is at bit 1, where EDK2 once had it, and not at bit 0",
    "{file}, offset {offset}: the {node}, segment {segment:#x}, has flags {flags:#x}: bit 1, which is reserved, "
    "and not bit 0, PASID supported",
    source="DEN0049 E.d, root complex node; tianocore/edk2 pull request 11023",
    remedy="a firmware from EDK2 of May 2025 or later; Linux does not look at the flag",
)
PASID_DISAGREES = Rule(
    "iort.rc-pasid-disagrees",
    "IORT root complex node, flags and PASID capabilities",
    "the PASID flag and the largest PASID width disagree",
    "{file}, offset {offset}: the {node}, segment {segment:#x}, says PASID supported {supported:d}, "
    "and the largest PASID width is {width}",
    source="DEN0049 E.d, root complex node",
    remedy="Linux does not look at either",
    level=Level.NOTE,
)

_FORWARDING_SINCE = 3
"""Revision of a root complex node that tells whether PASIDs are forwarded."""
_ALLOWED: dict[int, tuple[int, ...]] = {
    NAMED_COMPONENT: (SMMU, SMMUV3, ITS_GROUP),
    ROOT_COMPLEX: (SMMU, SMMUV3, ITS_GROUP),
    SMMU: (ITS_GROUP,),
    SMMUV3: (ITS_GROUP,),
    PMCG: (ITS_GROUP,),
    RMR: (SMMU, SMMUV3),
    IWB: (ITS_GROUP,),
}


def check_iort(iort: Iort) -> None:
    """Check what an IORT says; what is wrong is added to its findings."""
    for node in iort.nodes:
        _references(iort, node)
        _ranges(iort, node)
        _overlap(iort, node)
        if isinstance(node.word, NamedComponent):
            _named_component(iort, node, node.word)
        if isinstance(node.word, RootComplex):
            _root_complex(iort, node, node.word)
    _loops(iort)
    _bases(iort)
    _segments(iort)


def _found(iort: Iort, rule: Rule, node: Node, at: int | None = None, **facts: object) -> None:
    """Add a finding about a node; `at` is the place in the table, by default where the node begins."""
    iort.table.region.found(rule, node.offset if at is None else at, node=node.title, **facts)


def _what(mapping: Mapping) -> str:
    return f"ID mapping {mapping.index}"


def _references(iort: Iort, node: Node) -> None:
    """Check where the references of a node lead."""
    if isinstance(node.word, Pmcg) and node.word.node_reference not in iort.by_offset:
        _found(iort, BAD_REFERENCE, node, what="the node reference", reference=node.word.node_reference)
    for mapping in node.mappings:
        if _misled(iort, node, mapping):
            return


def _misled(iort: Iort, node: Node, mapping: Mapping) -> bool:
    """Check where an ID mapping leads; true when it is wrong."""
    reference = mapping.word.output_reference
    target = iort.by_offset.get(reference)
    if target is None:
        _found(iort, BAD_REFERENCE, node, mapping.offset, what=_what(mapping), reference=reference)
        return True
    allowed = _ALLOWED.get(node.type)
    if allowed is None or target.type in allowed:
        return False
    names = ", ".join(NODE_NAMES[kind] for kind in allowed)
    _found(iort, WRONG_REFERENCE, node, mapping.offset, what=_what(mapping), target=target.title, allowed=names)
    return True


def _ranges(iort: Iort, node: Node) -> None:
    """Check that the IDs of mappings have 32 bits."""
    for mapping in node.mappings:
        word = mapping.word
        if not word.single and max(word.input_base, word.output_base) + word.id_count >> 32:
            facts = {"count": word.id_count + 1, "input": word.input_base, "output": word.output_base}
            _found(iort, ID_RANGE, node, mapping.offset, what=_what(mapping), **facts)
            return


def _overlap(iort: Iort, node: Node) -> None:
    """Check that no two ranges of a node have the same ID."""
    ranges = [mapping for mapping in node.mappings if not mapping.word.single]
    ranges.sort(key=lambda mapping: (mapping.word.input_base, mapping.index))
    farthest: Mapping | None = None
    for mapping in ranges:
        if farthest is not None and mapping.word.input_base <= _last(farthest):
            facts = {"id": mapping.word.input_base, "other": farthest.index, "counts": _winner(farthest, mapping)}
            _found(iort, OVERLAP, node, mapping.offset, what=_what(mapping), **facts)
            return
        if farthest is None or _last(mapping) > _last(farthest):
            farthest = mapping


def _last(mapping: Mapping) -> int:
    return mapping.word.input_base + mapping.word.id_count


def _winner(lower: Mapping, upper: Mapping) -> str:
    """Return which of two mappings counts for the first ID of the upper one, which both have (`iort_paths`)."""
    shared_end = lower.word.id_count and _last(lower) == upper.word.input_base
    return "the later" if lower.index < upper.index and shared_end else "the first"


def _named_component(iort: Iort, node: Node, word: NamedComponent) -> None:
    """Check what a named component says of its PASIDs."""
    if word.substream_width > MOST_PASID_BITS:
        _found(iort, WIDTH, node, width=word.substream_width)
    if word.stall_supported and not word.substream_width:
        _found(iort, STALL_WITHOUT_PASIDS, node, name=node.name)


def _root_complex(iort: Iort, node: Node, word: RootComplex) -> None:
    """Check what a root complex says of its PASIDs, and of ATS if it reaches an SMMU."""
    if _reaches_smmu(iort, node):
        _ats(iort, node, word)
    segment = word.pci_segment_number
    if word.max_pasid_width > MOST_PASID_BITS:
        _found(iort, WIDTH, node, width=word.max_pasid_width)
    if word.pasid_supported_once and not word.pasid_supported:
        _found(iort, PASID_FLAG, node, segment=segment, flags=word.flags)
    elif word.pasid_supported != (word.max_pasid_width > 0):
        facts = {"supported": word.pasid_supported, "width": word.max_pasid_width}
        _found(iort, PASID_DISAGREES, node, segment=segment, **facts)


def _reaches_smmu(iort: Iort, node: Node) -> bool:
    """Return whether an ID mapping of a node leads straight to an SMMU."""
    targets = (iort.by_offset.get(mapping.word.output_reference) for mapping in node.mappings)
    return any(target is not None and target.type in (SMMU, SMMUV3) for target in targets)


def _ats(iort: Iort, node: Node, word: RootComplex) -> None:
    """Check what a root complex says of ATS."""
    segment = word.pci_segment_number
    if not word.ats_supported:
        _found(iort, NO_ATS, node, segment=segment)
    elif not word.pasid_fwd_supported and node.header.revision >= _FORWARDING_SINCE:
        _found(iort, NO_FORWARDING, node, segment=segment)


def _loops(iort: Iort) -> None:
    """Look for ID mappings that lead back."""
    done: set[int] = set()
    for node in iort.nodes:
        if node.offset not in done:
            _loops_from(iort, node, done)


def _loops_from(iort: Iort, root: Node, done: set[int]) -> None:
    """Go through all that a node leads to, depth first; `done` has the nodes that lead to nothing new."""
    path = {root.offset}
    ways = [(root, iter(root.mappings))]
    told: set[tuple[int, int]] = set()
    while ways:
        node, rest = ways[-1]
        mapping = next(rest, None)
        if mapping is None:
            ways.pop()
            path.discard(node.offset)
            done.add(node.offset)
            continue
        target = iort.by_offset.get(mapping.word.output_reference)
        if target is None or target.offset in done or (node.offset, target.offset) in told:
            continue
        if target.offset in path:
            told.add((node.offset, target.offset))
            _found(iort, LOOP, node, mapping.offset, what=_what(mapping), target=target.title)
            continue
        path.add(target.offset)
        ways.append((target, iter(target.mappings)))


def _bases(iort: Iort) -> None:
    """Check that no two SMMUs have the same base address."""
    seen: dict[int, Node] = {}
    for node in iort.nodes:
        if isinstance(node.word, Smmu | Smmuv3):
            base = node.word.base_address
            other = seen.setdefault(base, node)
            if other is not node:
                _found(iort, DUPLICATE_BASE, node, base=base, other=other.title)


def _segments(iort: Iort) -> None:
    """Check that no two root complexes have the same segment."""
    seen: dict[int, Node] = {}
    for node in iort.nodes:
        if isinstance(node.word, RootComplex):
            segment = node.word.pci_segment_number
            other = seen.setdefault(segment, node)
            if other is not node:
                _found(iort, SEGMENT_TWICE, node, segment=segment, other=other.title)

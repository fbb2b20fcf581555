"""The IORT: what is read of every node, what is found wrong, and what it means for a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.iort import MOST_BYTES, Iort, Node, iort_says, read_iort
from pasidlab.platforms.acpi.iort_says import smmu_name
from pasidlab.platforms.acpi.iort_words import (
    ITS_GROUP,
    IWB,
    NAMED_COMPONENT,
    NODES,
    PMCG,
    RMR,
    ROOT_COMPLEX,
    SMMU,
    SMMUV3,
    IortFields,
    IortNodeHeader,
    ItsGroup,
    Iwb,
    NamedComponent,
    Pmcg,
    Rmr,
    RmrRange,
    RootComplex,
    Smmu,
    Smmuv3,
)
from pasidlab.platforms.said import Endpoint, RidMap, Said
from pasidlab.words import Word
from tests.acpi_tables import Make, To, iort, summed
from tests.acpi_tables import table as raw_table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-arm"
NAME = "smmu3.0x000000002b400000"
ITS = Make(ItsGroup(its_count=1), ITS_GROUP, 1, identifiers=(0,))
V3 = Make(Smmuv3(base_address=0x2B40_0000), SMMUV3, maps=(To(0, count=0x10000),))


def root(*maps: To, **fields: int) -> Make:
    facts = {"ats_supported": True, "pasid_fwd_supported": True, **fields}
    return Make(RootComplex(**facts), ROOT_COMPLEX, maps=maps)


def component(*maps: To, name: str = r"\_SB.DEV0", **fields: int) -> Make:
    return Make(NamedComponent(**fields), NAMED_COMPONENT, maps=maps, name=name)


def read(*nodes: Make, **more: int) -> Iort:
    return read_iort(iort(*nodes, **more), "t")


def says(*nodes: Make) -> Said:
    return iort_says(read(*nodes))


def whys(said: Said | Iort) -> list[str]:
    return [finding.why for finding in said.findings]


def ids(said: Said | Iort) -> list[str]:
    return [finding.rule.id for finding in said.findings]


def routes(said: Said) -> list[tuple[int, int, int, str | None, int | None]]:
    return [(one.segment, one.first, one.last, one.iommu, one.output) for one in said.rid_maps]


def first_map(said: Said, number: int) -> RidMap:
    return next(one for one in said.rid_maps if one.first <= number <= one.last)


def values(device: Endpoint) -> dict[str, object]:
    return {key: known.value for key, known in device.keys.items()}


# --- tables of an emulated machine and of iasl ---------------------------------------------------------------------


def stored(name: str) -> Iort:
    return read_iort((DATA / name).read_bytes(), name)


def test_qemus_smmuv3_is_read_field_by_field() -> None:
    its, smmu, bridge = stored("qemu-smmuv3.iort.aml").nodes
    assert [one.title for one in (its, smmu, bridge)] == [
        "ITS group node at 0x30",
        "SMMUv3 node at 0x48",
        "root complex node at 0xa0",
    ]
    assert its.identifiers == (0,)
    fields = {"event_gsiv": 106, "pri_gsiv": 107, "gerr_gsiv": 109, "sync_gsiv": 108}
    assert smmu.word == Smmuv3(base_address=0x905_0000, cohacc_override=True, **fields)
    assert (smmu.header.revision, smmu.header.identifier, smmu.given) == (4, 1, 52)
    facts = {"cache_coherent": 1, "cpm": True, "dacs": True, "memory_address_limit": 64}
    assert bridge.word == RootComplex(**facts)
    assert bridge.given == 20


def test_qemu_counts_one_id_too_many_in_a_mapping_and_the_later_mapping_gets_it() -> None:
    said = iort_says(stored("qemu-smmuv3.iort.aml"))
    smmu = "smmu3.0x0000000009050000"
    assert routes(said) == [(0, 0, 0x1FF, smmu, 0), (0, 0x200, 0xFFFF, None, None)]
    assert whys(said)[0] == (
        "qemu-smmuv3.iort.aml, offset 0xd8: ID mapping 1 of the root complex node at 0xa0 has ID 0x200, "
        "which ID mapping 0 has too; the later counts"
    )
    assert said.remarks == [f"IORT, SMMUv3 node at 0x48: COHACC override, so {smmu} is coherent whatever its IDR0 says"]


def test_of_qemus_two_expander_bridges_the_bypassed_one_reaches_no_smmu() -> None:
    said = iort_says(stored("qemu-pxb.iort.aml"))
    smmu = said.iommus[0].name
    found = {number: first_map(said, number).iommu for number in (0x0008, 0x2000, 0x2100, 0x4000, 0x4100)}
    assert found == {0x0008: smmu, 0x2000: smmu, 0x2100: smmu, 0x4000: None, 0x4100: None}
    assert first_map(said, 0x2100).stream(0x2100) == 0x2100


def test_qemus_root_complex_without_ats_says_so_of_every_function() -> None:
    said = iort_says(stored("qemu-pxb.iort.aml"))
    off = (False, "IORT, root complex node at 0xa0, ATS attribute, bit 0")
    assert {one.keys["ats"] for one in said.rid_maps} == {off}
    assert whys(said)[-1] == (
        "qemu-pxb.iort.aml, offset 0xa0: the root complex node at 0xa0, segment 0x0, does not support ATS, "
        "so Linux leaves ATS off for all its functions"
    )


def test_ats_of_a_root_complex_that_reaches_no_smmu_is_not_blamed() -> None:
    said = iort_says(stored("qemu-bypass.iort.aml"))
    assert [one.iommu for one in said.rid_maps] == [None]
    assert said.findings == []


def test_qemus_iort_beside_a_virtio_iommu_has_no_smmu() -> None:
    said = iort_says(stored("qemu-virtio.iort.aml"))
    assert said.iommus == []
    assert [one.iommu for one in said.rid_maps] == [None]
    assert said.findings == []


def test_what_iasl_compiled_is_read_as_its_source_has_it() -> None:
    table = stored("components.aml")
    assert table.table.checksum_ok
    smmu, old, bridge, pmcg = (table.nodes[index].word for index in (1, 2, 3, 8))
    assert isinstance(smmu, Smmuv3)
    overrides = (smmu.cohacc_override, smmu.httu_override, smmu.proximity_valid, smmu.device_id_valid)
    assert overrides == (True, 2, True, False)
    assert (smmu.vatos_address, smmu.model, smmu.proximity_domain) == (0x2B42_0000, 1, 2)
    assert smmu.device_id_mapping_index == 1
    assert isinstance(old, Smmu)
    assert (old.base_address, old.span, old.model, old.coherent_walk) == (0x2B50_0000, 0x10000, 3, True)
    assert isinstance(bridge, RootComplex)
    assert (bridge.ats_supported, bridge.pri_supported, bridge.pasid_fwd_supported) == (True, True, True)
    assert bridge.memory_address_limit == 48
    assert pmcg == Pmcg(page0_base_address=0x2B40_2000, node_reference=0x4C, page1_base_address=0x2B41_2000)


def test_components_of_iasl_are_said_with_their_streams_widths_and_stalls() -> None:
    said = iort_says(stored("components.aml"))
    both = {"kind": "narrow", "iommu": NAME}
    assert {device.node: values(device) for device in said.endpoints} == {
        r"\_SB.ZIP0": both | {"stream_id": [0x800, 0x801], "pasid_bits": 16, "can_stall": True},
        r"\_SB.SEC0": both | {"stream_id": 0x900, "pasid_bits": 0, "can_stall": True},
        r"\_SB.PCI0.MCE0": both | {"stream_id": [0xA00, 0xA01, 0xA02, 0xA03], "pasid_bits": 10, "can_stall": False},
    }
    assert [(one.name, one.kind, one.base) for one in said.iommus] == [
        (NAME, "arm-smmu-v3", 0x2B40_0000),
        ("smmu.0x000000002b500000", "arm-smmu", 0x2B50_0000),
    ]
    assert said.iommus[0].keys["httu"] == (2, "IORT, SMMUv3 node at 0x4c, flags, bits 2:1 (HTTU override)")
    assert routes(said) == [
        (0, 0, 0xFF, NAME, 0x100),
        (0, 0x100, 0xFFFF, None, None),
        (1, 0, 0xFFFF, "smmu.0x000000002b500000", 0x8000),
    ]


def test_every_finding_about_what_iasl_compiled_names_file_offset_and_node() -> None:
    assert whys(iort_says(stored("components.aml"))) == [
        "components.aml, offset 0x150: the root complex node is of revision 4, which has 24 bytes between header and "
        "ID mappings, and there are 20; fields that are missing read as 0",
        "components.aml, offset 0x150: the root complex node at 0x150, segment 0x1, does not forward PASIDs of "
        "translated transactions to the SMMU",
        "components.aml, offset 0x1d8: the named component node at 0x1d8, \\_SB.SEC0, can stall but has no PASIDs "
        "(width 0), so SVA cannot be had on it",
        "components.aml, offset 0x240: ID mapping 0 of the named component node at 0x214, \\_SB.PCI0.MCE0, has no "
        "single flag; Linux takes its IDs only for devices that bring their own, as those of fsl-mc, and leaves the "
        "component itself without an SMMU",
    ]


# --- reading -------------------------------------------------------------------------------------------------------


def test_nodes_that_only_newer_issues_have_are_read() -> None:
    ranges = (RmrRange(base_address=0x8000_0000, length=0x10000), RmrRange(base_address=0x9000_0000, length=0x20000))
    memory = Make(Rmr(remap_permitted=True, access_attributes=5), RMR, 3, 7, (To(1, output_base=9),), ranges=ranges)
    bridge = Make(Iwb(base_address=0x2F00_0000, iwb_index=3), IWB, 0, name=r"\_SB.IWB0")
    table = read(ITS, V3, memory, bridge)
    assert ids(table) == []
    _, _, rmr, iwb = table.nodes
    assert rmr.ranges == ranges
    assert rmr.header.identifier == 7
    assert isinstance(rmr.word, Rmr)
    assert (rmr.word.remap_permitted, rmr.word.access_privilege, rmr.word.access_attributes) == (True, False, 5)
    assert (iwb.word, iwb.name) == (Iwb(base_address=0x2F00_0000, iwb_index=3), r"\_SB.IWB0")


def test_pasid_fields_of_a_root_complex_count_since_revision_4() -> None:
    word = RootComplex(ats_supported=True, pasid_fwd_supported=True, max_pasid_width=20, pasid_supported=True)
    old, new = (Make(word, ROOT_COMPLEX, revision) for revision in (3, 4))
    assert [node.word for node in read(new).nodes] == [word]
    (node,) = read(old).nodes
    assert isinstance(node.word, RootComplex)
    assert (node.given, node.word.pasid_supported) == (20, False)


def test_a_node_of_an_unknown_type_is_kept_raw_and_the_next_is_read() -> None:
    odd = Make(Iwb(1), 9, 0)
    table = read(ITS, odd, V3)
    assert whys(table) == [
        "t, offset 0x48: a node of type 9, which the specification (issue E.g) does not have; it is kept raw"
    ]
    assert (table.nodes[1].word, table.nodes[1].raw[16:]) == (None, Iwb(1).pack())
    assert table.nodes[2].title == "SMMUv3 node at 0x62"


def test_a_node_without_what_every_revision_has_says_nothing() -> None:
    table = read(ITS, Make(V3.word, SMMUV3, 0, body=40), root(To(1, count=0x10000)))
    assert whys(table)[0] == (
        "t, offset 0x48: the SMMUv3 node has 40 bytes between header and ID mappings, and needs 44; "
        "what it says is not read"
    )
    said = iort_says(table)
    assert (said.iommus, said.rid_maps) == ([], [])


def test_a_count_of_mappings_that_do_not_fit_is_cut_to_those_that_do() -> None:
    bridge = Make(root().word, ROOT_COMPLEX, maps=(To(1, count=8, output_base=8),), count=3)
    table = read(ITS, V3, bridge)
    assert whys(table)[:1] == [
        "t, offset 0xa0: the root complex node counts 3 ID mappings from its byte 40 on, and 1 fit in it; "
        "only those are read"
    ]
    assert routes(iort_says(table)) == [(0, 0, 7, NAME, 8)]


def test_identifiers_and_ranges_that_do_not_fit_are_found() -> None:
    its = Make(ItsGroup(its_count=9), ITS_GROUP, 1, identifiers=(4, 5))
    rmr = Make(Rmr(range_count=2, range_offset=3), RMR, 3)
    table = read(its, rmr)
    assert table.nodes[0].identifiers == (4, 5)
    assert whys(table) == [
        "t, offset 0x30: the ITS group node counts 9 identifiers from its byte 20 on, and 2 fit in it; "
        "only those are read",
        "t, offset 0x4c: the reserved memory range node counts 2 memory ranges from its byte 3 on, and 0 fit in it; "
        "only those are read",
    ]


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (3, "t: the header counts 3 nodes, and 2 can be read"),
        (1, "t, offset 0x48: 88 bytes follow the last of 1 nodes; Linux does not read them, nor does this"),
    ],
)
def test_a_node_count_that_lies_is_found(count: int, why: str) -> None:
    assert why in whys(read(ITS, V3, count=count))


def test_a_first_node_outside_of_the_table_is_found_and_no_node_is_read() -> None:
    data = bytearray(iort(ITS))
    data[40:44] = (0x2F).to_bytes(4, "little")
    table = read_iort(summed(bytes(data)), "t")
    assert table.nodes == ()
    assert whys(table) == ["t: the first node is said to be at 0x2f; allowed are 0x30 to 0x48; no node is read"]


def test_a_node_of_length_0_ends_the_reading() -> None:
    data = bytearray(iort(ITS, V3))
    data[0x49:0x4B] = b"\0\0"
    table = read_iort(summed(bytes(data)), "t")
    assert whys(table)[0] == (
        "t, offset 0x48: a node of the IORT says 0 bytes, allowed are 16 to 88; nothing after it is read"
    )
    assert len(table.nodes) == 1


def test_what_is_no_iort_is_refused() -> None:
    with pytest.raises(InputError, match=r"^t: is a table VIOT, not IORT$"):
        read_iort(b"VIOT" + iort(ITS)[4:], "t")
    with pytest.raises(InputError, match=r"^t: larger than 256 KiB, the most that is read of an IORT$"):
        read_iort(b"IORT" + bytes(MOST_BYTES), "t")


# --- what is wrong between nodes -----------------------------------------------------------------------------------


def test_a_reference_to_no_node_is_found_and_leads_nowhere() -> None:
    said = says(ITS, V3, root(To(0, offset=0x31, count=0x100)))
    assert whys(said)[0] == (
        "t, offset 0xc8: ID mapping 0 of the root complex node at 0xa0 refers to 0x31, where no node begins; "
        "it leads nowhere"
    )
    assert said.rid_maps == []


def test_counters_of_no_node_are_found() -> None:
    assert whys(read(ITS, Make(Pmcg(node_reference=8), PMCG))) == [
        "t, offset 0x48: the node reference of the PMCG node at 0x48 refers to 0x8, where no node begins; "
        "it leads nowhere"
    ]


def test_an_smmu_that_maps_to_an_smmu_is_found() -> None:
    other = Make(Smmuv3(base_address=0x2B50_0000), SMMUV3, maps=(To(1),))
    assert whys(read(ITS, V3, other)) == [
        "t, offset 0xe4: ID mapping 0 of the SMMUv3 node at 0xa0 leads to the SMMUv3 node at 0x48; "
        "allowed are: ITS group"
    ]


def test_a_chain_over_another_device_is_followed_and_found() -> None:
    middle = component(To(1, input_base=0x10, count=0x10, output_base=0x500), name=r"\_SB.HUB0")
    said = says(ITS, V3, middle, root(To(2, count=0x20)))
    assert routes(said) == [(0, 0x10, 0x1F, NAME, 0x500), (0, 0, 0x1F, None, None)]
    assert "iort.wrong-reference" in ids(said)


def test_a_chain_that_closes_a_circle_is_found_once_and_ends() -> None:
    said = says(ITS, root(To(2, count=0x100)), root(To(1, count=0x100), pci_segment_number=1))
    loops = [why for why in whys(said) if "for ever" in why]
    assert loops == [
        "t, offset 0xac: ID mapping 0 of the root complex node at 0x84 leads back to the root complex node at 0x48; "
        "Linux would follow it for ever"
    ]
    assert [one.iommu for one in said.rid_maps] == [None] * len(said.rid_maps)
    assert whys(said)[-1] == ("t: ID mappings lead through too many nodes before an SMMU; where they end is not said")


def test_a_node_that_maps_to_itself_is_a_circle() -> None:
    assert "iort.loop" in ids(read(root(To(0))))


def test_more_mappings_than_are_said_are_found() -> None:
    many = [To(1, number, 1) for number in range(2049)]
    said = says(ITS, V3, root(*many), root(*many, pci_segment_number=1))
    assert len(said.rid_maps) == 4096
    assert whys(said) == ["t: the root complexes have more than 4096 ID mappings in all; the rest is not said"]


def test_paths_that_split_at_every_node_end_after_so_many_visits() -> None:
    nodes = [ITS, V3]
    for level in range(3):
        maps = [To(len(nodes) - 1, count=0x1000) for _ in range(60)]
        nodes.append(component(*maps, name=f"\\L{level}"))
    said = says(*nodes, root(*[To(len(nodes) - 1, count=0x1000) for _ in range(60)]))
    assert "iort.paths-cut" in ids(said)
    assert len(said.rid_maps) <= 4096


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        (To(1, count=0x101), To(1, 0x100, 0x100, 0x900), "the later"),
        (To(1, count=0x102), To(1, 0x100, 0x100, 0x900), "the first"),
        (To(1, 0x100, 0x100, 0x900), To(1, count=0x101), "the first"),
        (To(1, 0x100, 1), To(1, 0x100, 1, 0x900), "the first"),
    ],
)
def test_of_mappings_that_overlap_the_one_counts_that_the_finding_names(first: To, second: To, counts: str) -> None:
    said = says(ITS, V3, root(first, second))
    (why,) = [why for why in whys(said) if "has ID" in why]
    assert why.endswith(f"{counts} counts")
    winner = second if counts == "the later" else first
    assert first_map(said, 0x100).stream(0x100) == winner.output_base + 0x100 - winner.input_base


def test_ids_beyond_32_bits_are_found() -> None:
    assert whys(read(ITS, V3, root(To(1, count=2, output_base=0xFFFF_FFFF))))[0] == (
        "t, offset 0xc8: ID mapping 0 of the root complex node at 0xa0 maps 2 IDs from 0x0 to 0xffffffff, "
        "beyond 32 bits"
    )


def test_two_smmus_with_one_base_are_found_and_said_once() -> None:
    said = says(ITS, V3, V3)
    assert whys(said) == [
        "t, offset 0xa0: the SMMUv3 node at 0xa0 has base address 0x2b400000, as the SMMUv3 node at 0x48 has"
    ]
    assert len(said.iommus) == 1


def test_of_two_root_complexes_of_a_segment_the_first_counts() -> None:
    said = says(ITS, V3, root(To(1, count=8)), root(To(1, count=8, output_base=0x100)))
    assert routes(said) == [(0, 0, 7, NAME, 0)]
    assert (
        "t, offset 0xdc: the root complex node at 0xdc is of segment 0x0, as the root complex node at 0xa0 is; "
        "Linux uses the first only"
    ) in whys(said)


def linux_maps(table: Iort, node: Node, number: int) -> tuple[Node | None, int]:
    """Return the SMMU that an ID reaches, and as what: iort_node_map_id(), ID by ID."""
    while node.type not in (SMMU, SMMUV3):
        found: To | None = None
        for mapping in node.mappings:
            word = mapping.word
            if word.single and node.type in (ROOT_COMPLEX, NAMED_COMPONENT):
                found = To(word.output_reference, output_base=word.output_base)
                break
            last = word.input_base + word.id_count
            if word.single or not word.input_base <= number <= last or (found and number != word.input_base):
                continue
            found = To(word.output_reference, output_base=word.output_base + number - word.input_base)
            if not (word.id_count and number == last):
                break
        if found is None:
            return None, 0
        node, number = table.by_offset[found.node], found.output_base
    return node, number


SMALL = st.integers(0, 12)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_id_is_routed_as_linux_routes_it_one_by_one(data: st.DataObject) -> None:
    nodes = [ITS, V3, Make(Smmuv3(base_address=1 << 32), SMMUV3)]
    between = data.draw(st.lists(st.sampled_from([NAMED_COMPONENT, RMR]), max_size=4))
    for kind in [*between, ROOT_COMPLEX]:
        targets = st.integers(0, len(nodes) - 1)
        single = st.sampled_from([False] * 5 + [True])
        maps = data.draw(st.lists(st.builds(To, targets, SMALL, st.integers(1, 6), SMALL, single), max_size=5))
        word: Word = {ROOT_COMPLEX: RootComplex(), NAMED_COMPONENT: NamedComponent(), RMR: Rmr()}[kind]
        nodes.append(Make(word, kind, maps=maps, name="N" if kind == NAMED_COMPONENT else ""))
    table = read(*nodes)
    source = table.nodes[-1]
    maps_said = iort_says(table).rid_maps
    for number in range(20):
        smmu, stream = linux_maps(table, source, number)
        one = next((one for one in maps_said if one.first <= number <= one.last), None)
        assert (one.iommu if one else None) == (smmu_name(smmu) if smmu else None)
        if one is not None and smmu is not None:
            fixed = one.keys.get("stream_id")
            assert (fixed.value if fixed else one.stream(number)) == stream


# --- PASIDs, stalls, ATS -------------------------------------------------------------------------------------------


def pasids(**fields: int) -> list[str]:
    return [finding.rule.id for finding in read(ITS, V3, root(To(1), **fields)).findings if "pasid" in finding.rule.id]


def test_a_pasid_flag_where_edk2_once_had_it_is_found() -> None:
    table = read(root(max_pasid_width=20, pasid_supported_once=True, pci_segment_number=2))
    assert whys(table) == [
        "t, offset 0x30: the root complex node at 0x30, segment 0x2, has flags 0x2: bit 1, which is reserved, "
        "and not bit 0, PASID supported"
    ]
    assert table.findings[0].rule.id == "iort.rc-pasid-flag"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, []),
        ({"pasid_supported": 1, "max_pasid_width": 16}, []),
        ({"pasid_supported": 1, "pasid_supported_once": 1, "max_pasid_width": 16}, []),
        ({"pasid_supported_once": 1}, ["iort.rc-pasid-flag"]),
        ({"max_pasid_width": 16}, ["iort.rc-pasid-disagrees"]),
        ({"pasid_supported": 1}, ["iort.rc-pasid-disagrees"]),
        ({"pasid_supported": 1, "max_pasid_width": 21}, ["iort.pasid-width"]),
        ({"pasid_fwd_supported": 0}, ["iort.rc-no-pasid-forwarding"]),
        ({"pasid_fwd_supported": 0, "ats_supported": 0}, []),
    ],
)
def test_pasid_fields_of_a_root_complex_are_checked(fields: dict[str, int], found: list[str]) -> None:
    assert pasids(**fields) == found


def test_before_revision_4_no_pasid_field_is_blamed() -> None:
    word = RootComplex(ats_supported=True, pasid_fwd_supported=True, pasid_supported_once=True)
    assert ids(read(Make(word, ROOT_COMPLEX, 3))) == []


def test_a_width_above_20_is_found_and_said_as_20() -> None:
    said = says(ITS, V3, component(To(1, output_base=3, single=True), substream_width=31))
    assert whys(said) == [
        "t, offset 0xa0: the named component node at 0xa0 says that its PASIDs have 31 bits; they have 20 at the most"
    ]
    assert said.endpoints[0].keys["pasid_bits"] == (
        20,
        "IORT, named component node at 0xa0, flags, bits 5:1 (SubstreamID width), raw 31",
    )


def test_a_component_that_reaches_no_smmu_has_neither_property() -> None:
    said = says(ITS, component(To(0, single=True), substream_width=5, stall_supported=1))
    assert values(said.endpoints[0]) == {"kind": "narrow"}
    assert whys(said) == [
        "t, offset 0x48: the named component node at 0x48, \\_SB.DEV0, has PASIDs of 5 bits, "
        "and no ID mapping of it leads to an SMMU"
    ]


def test_a_component_of_two_smmus_is_behind_the_first() -> None:
    other = Make(Smmuv3(base_address=0x2B50_0000), SMMUV3)
    both = component(To(1, output_base=3, single=True), To(2, output_base=4, single=True), substream_width=5)
    said = says(ITS, V3, other, both)
    facts = {"kind": "narrow", "iommu": NAME, "stream_id": 3, "pasid_bits": 5, "can_stall": False}
    assert values(said.endpoints[0]) == facts
    assert whys(said) == [
        "t, offset 0x120: the named component node at 0xe4, \\_SB.DEV0, maps to the SMMUv3 node at 0xa0 too; "
        "it is taken to be behind the SMMUv3 node at 0x48"
    ]


def test_a_component_with_too_many_streams_is_said_without_them() -> None:
    said = says(ITS, V3, component(To(1, count=65), substream_width=5))
    assert "stream_id" not in said.endpoints[0].keys
    assert whys(said)[-1] == (
        "t, offset 0xa0: the named component node at 0xa0, \\_SB.DEV0, maps 65 StreamIDs; "
        "a device is described with 64 at the most, so none is said"
    )


def test_a_single_mapping_of_a_root_complex_gives_every_function_one_stream() -> None:
    (one,) = says(ITS, V3, root(To(1, output_base=0x77, single=True))).rid_maps
    assert (one.first, one.last, one.iommu) == (0, 0xFFFF, NAME)
    assert one.keys["stream_id"] == (0x77, "IORT, root complex node at 0xa0, ID mapping 0, single")


def test_ids_above_16_bits_are_no_requester_ids() -> None:
    said = says(ITS, V3, root(To(1, 0xFFFE, 4, 0x100), To(1, 0x8703_0000, 4)))
    assert routes(said) == [(0, 0xFFFE, 0xFFFF, NAME, 0x100)]


def test_a_single_flag_counts_in_no_other_node() -> None:
    middle = Make(Rmr(), RMR, maps=(To(1, output_base=9, single=True),))
    said = says(ITS, V3, middle, root(To(2, count=4)))
    assert routes(said) == [(0, 0, 3, None, None)]


@pytest.mark.parametrize(("override", "known"), [(0, None), (1, 1), (2, 2), (3, None)])
def test_an_override_of_the_table_updates_is_said_where_it_means_something(override: int, known: int | None) -> None:
    (smmu,) = says(Make(Smmuv3(base_address=1 << 40, httu_override=override), SMMUV3)).iommus
    assert smmu.name == "smmu3.0x0000010000000000"
    assert {key: one.value for key, one in smmu.keys.items()} == ({} if known is None else {"httu": known})


# --- any table -----------------------------------------------------------------------------------------------------

U32 = st.integers(0, 0xFFFF_FFFF)


def words(kind: type[Word]) -> st.SearchStrategy[Word]:
    fields = {name: st.integers(0, (1 << field.width) - 1) for name, field in kind.FIELDS.items()}
    return st.fixed_dictionaries(fields).map(lambda values: kind(**values))


@st.composite
def made(draw: st.DrawFn, nodes: int) -> Make:
    kind = draw(st.sampled_from([ITS_GROUP, NAMED_COMPONENT, ROOT_COMPLEX, SMMU, SMMUV3, PMCG, RMR, IWB]))
    word, revision = draw(words(NODES[kind].word)), draw(st.integers(0, 255))
    maps = draw(st.lists(st.builds(To, st.integers(0, nodes - 1), U32, st.integers(1, 1 << 32), U32, st.booleans())))
    name = draw(st.text(r"\_AZ09.", min_size=1, max_size=30)) if kind in (NAMED_COMPONENT, IWB) else ""
    identifiers = draw(st.lists(U32, max_size=5)) if kind == ITS_GROUP else []
    ranges = draw(st.lists(words(RmrRange), min_size=1, max_size=3)) if kind == RMR else []
    if kind == ITS_GROUP:
        word = ItsGroup(its_count=len(identifiers))
    return Make(word, kind, revision, draw(U32), maps, name, identifiers, ranges)


@st.composite
def tables(draw: st.DrawFn) -> list[Make]:
    count = draw(st.integers(1, 6))
    return [draw(made(count)) for _ in range(count)]


@given(tables(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_any_table_of_nodes_is_read_as_it_was_made(nodes: list[Make], gap: int) -> None:
    data = iort(*nodes, start=0x30 + gap)
    table = read_iort(data)
    assert table.table.checksum_ok
    assert len(table.nodes) == len(nodes)
    places = [node.offset for node in table.nodes]
    for node, one in zip(table.nodes, nodes, strict=True):
        assert node.raw == one.bytes(places)
        assert node.word is not None
        assert node.word.pack()[: node.given] == one.bytes(places)[16 : 16 + node.given]
        assert (node.header.type, node.header.revision, node.header.identifier) == (
            one.type,
            one.revision,
            one.identifier,
        )
        assert (node.name, node.identifiers, node.ranges) == (one.name, tuple(one.identifiers), tuple(one.ranges))
        found = [(m.word.input_base, m.word.id_count + 1, m.word.output_base, m.word.single) for m in node.mappings]
        assert found == [(m.input_base, m.count, m.output_base, m.single) for m in one.maps]
        assert [m.word.output_reference for m in node.mappings] == [places[m.node] for m in one.maps]
    iort_says(table)


@given(tables(), st.data())
@settings(max_examples=150, deadline=None)
def test_no_mutation_of_a_table_raises_anything_but_an_input_error(nodes: list[Make], data: st.DataObject) -> None:
    raw = bytearray(iort(*nodes))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0xFF])))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        said = iort_says(read_iort(cut))
    except InputError:
        return
    assert all(finding.why for finding in said.findings)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_after_the_headers_raise_anything(junk: bytes) -> None:
    header = IortFields(node_count=0xFFFF_FFFF, node_offset=0x30)
    iort_says(read_iort(raw_table("IORT", header.pack() + junk)))


def test_the_largest_table_of_circles_ends() -> None:
    node = IortNodeHeader(type=ROOT_COMPLEX, length=56, mapping_count=1, mapping_offset=36).pack() + bytes(20)
    count = (MOST_BYTES - 0x30) // 56
    body = bytearray()
    for number in range(count):
        target = 0x30 + 56 * ((number + 1) % count)
        body += node + b"\0\0\0\0\xff\xff\0\0\0\0\0\0" + target.to_bytes(4, "little") + bytes(4)
    header = IortFields(node_count=count, node_offset=0x30)
    said = iort_says(read_iort(raw_table("IORT", header.pack() + bytes(body))))
    assert ids(said).count("iort.loop") == 1


def test_the_largest_table_of_smmus_says_each_once() -> None:
    count = (MOST_BYTES - 0x30) // 68
    node = IortNodeHeader(type=SMMUV3, revision=4, length=68)
    bases = (Smmuv3(base_address=(number % 3000) << 16) for number in range(count))
    body = b"".join(node.pack() + word.pack() for word in bases)
    said = iort_says(read_iort(raw_table("IORT", IortFields(node_count=count, node_offset=0x30).pack() + body)))
    assert len(said.iommus) == 3000
    assert ids(said).count("iort.duplicate-base") == count - 3000

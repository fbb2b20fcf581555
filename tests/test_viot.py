"""The VIOT: what is read of every node, what is found wrong, and what it means for a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import InputError
from pasidlab.platforms.acpi.viot import MOST_BYTES, MOST_MAPS, Viot, read_viot, viot_says
from pasidlab.platforms.acpi.viot_words import (
    MMIO,
    PCI_RANGE,
    VIRTIO_MMIO,
    VIRTIO_PCI,
    MmioEndpoint,
    PciRange,
    ViotFields,
    ViotNodeHeader,
    VirtioIommuMmio,
    VirtioIommuPci,
)
from pasidlab.platforms.said import Said
from tests.acpi_tables import summed, viot
from tests.acpi_tables import table as raw_table

DATA = Path(__file__).parent / "data" / "platforms" / "acpi-arm"
UNIT = VirtioIommuPci(type=VIRTIO_PCI, segment=0, bdf=0x28)
FIRST = 0x30
"""Offset of the first node, where the tests have their virtio-iommu."""


def pci_range(**fields: int) -> PciRange:
    return PciRange(type=PCI_RANGE, **{"output_node": FIRST, "bdf_end": 0xFFFF, **fields})


def read(*words: ViotNodeHeader, **more: int) -> Viot:
    return read_viot(viot(*words, **more), "t")


def says(*words: ViotNodeHeader) -> Said:
    return viot_says(read(*words))


def whys(said: Said | Viot) -> list[str]:
    return [finding.why for finding in said.findings]


def routes(said: Said) -> list[tuple[int, int, int, str | None, int | None]]:
    return [(one.segment, one.first, one.last, one.iommu, one.output) for one in said.rid_maps]


def test_qemus_virtio_iommu_has_all_functions_but_itself() -> None:
    table = read_viot((DATA / "qemu-virtio.viot.aml").read_bytes(), "VIOT")
    assert [node.title for node in table.nodes] == [
        "virtio-iommu PCI node at 0x30",
        "PCI range node at 0x40",
        "PCI range node at 0x58",
    ]
    said = viot_says(table)
    assert said.findings == []
    assert routes(said) == [
        (0, 0x28, 0x28, None, None),
        (0, 0, 0xFF, "virtio-iommu0", 0),
        (0, 0x2000, 0x21FF, "virtio-iommu0", 0x2000),
    ]
    assert said.rid_maps[2].stream(0x2108) == 0x2108


def test_a_virtio_iommu_has_no_pasids() -> None:
    (unit,) = says(UNIT).iommus
    origin = "VIOT, virtio-iommu PCI node at 0x30 (function 0000:00:05.0)"
    assert (unit.name, unit.kind, unit.base, unit.origin) == ("virtio-iommu0", "virtio-iommu", None, origin)
    assert unit.keys == {
        "pasid_bits": (0, f"{origin}: a virtio-iommu has no PASIDs in Linux"),
        "sva": (False, f"{origin}: Linux's driver of the virtio-iommu has no SVA"),
    }


def test_virtio_iommus_are_numbered_in_order_and_those_with_registers_have_a_base() -> None:
    said = says(VirtioIommuMmio(type=VIRTIO_MMIO, base_address=0xA00_3E00), UNIT)
    assert [(one.name, one.base) for one in said.iommus] == [("virtio-iommu0", 0xA00_3E00), ("virtio-iommu1", None)]


def test_a_device_with_registers_is_behind_its_unit_without_a_width() -> None:
    said = says(UNIT, MmioEndpoint(type=MMIO, endpoint=7, base_address=0xA00_3C00, output_node=FIRST))
    (device,) = said.endpoints
    assert (device.name, device.bus) == ("mmio@a003c00", "platform")
    assert device.keys == {
        "kind": ("narrow", "VIOT, MMIO endpoint node at 0x40: no PCI function"),
        "iommu": ("virtio-iommu0", "VIOT, MMIO endpoint node at 0x40, output node 0x30"),
    }


def test_each_segment_of_a_range_has_endpoint_ids_of_its_own() -> None:
    said = says(UNIT, pci_range(segment_start=2, segment_end=3, bdf_start=8, bdf_end=9, endpoint_start=0x100))
    assert routes(said)[1:] == [(2, 8, 9, "virtio-iommu0", 0x100), (3, 8, 9, "virtio-iommu0", 0x10100)]


def test_ranges_of_more_segments_than_are_said_are_found() -> None:
    said = says(UNIT, pci_range(segment_end=0xFFFF), pci_range(segment_end=0xFFFF))
    assert len(said.rid_maps) == MOST_MAPS
    assert whys(said) == ["t: the PCI ranges have more than 4096 segments in all; the rest is not said"]


@pytest.mark.parametrize("reference", [0, 0x40, 0x31])
def test_an_output_node_that_is_no_virtio_iommu_leaves_the_functions_without_one(reference: int) -> None:
    said = says(UNIT, pci_range(output_node=reference))
    assert whys(said) == [
        f"t, offset 0x40: the PCI range node at 0x40 refers to {reference:#x}, where no virtio-iommu node begins; "
        "Linux leaves its devices without an IOMMU"
    ]
    assert said.rid_maps[1].iommu is None


def test_an_endpoint_of_no_virtio_iommu_is_behind_none() -> None:
    (device,) = says(MmioEndpoint(type=MMIO, base_address=1, output_node=4)).endpoints
    assert list(device.keys) == ["kind"]


def test_a_range_that_ends_before_it_begins_has_no_function() -> None:
    said = says(UNIT, pci_range(bdf_start=9, bdf_end=8), pci_range(segment_start=2, segment_end=1))
    assert whys(said) == [
        "t, offset 0x40: the PCI range node at 0x40 has segments 0x0 to 0x0 and functions 0x9 to 0x8, so none",
        "t, offset 0x58: the PCI range node at 0x58 has segments 0x2 to 0x1 and functions 0x0 to 0xffff, so none",
    ]
    assert len(said.rid_maps) == 1


def test_a_node_of_an_unknown_type_is_kept_raw_and_the_next_is_read() -> None:
    table = read(ViotNodeHeader(type=9), UNIT)
    assert whys(table) == ["t, offset 0x30: a node of type 9, which the specification does not have; it is kept raw"]
    assert [node.title for node in table.nodes] == ["node of type 9 at 0x30", "virtio-iommu PCI node at 0x34"]


def test_a_node_too_short_for_its_type_says_nothing() -> None:
    table = read(ViotNodeHeader(type=VIRTIO_PCI))
    assert whys(table) == [
        "t, offset 0x30: the virtio-iommu PCI node has 4 bytes, and needs 16; what it says is not read"
    ]
    assert viot_says(table).iommus == []


def test_a_node_count_that_lies_is_found() -> None:
    assert whys(read(UNIT, count=2)) == ["t: the header counts 2 nodes, and 1 can be read"]


def test_a_first_node_outside_of_the_table_is_found() -> None:
    table = read_viot(raw_table("VIOT", ViotFields(node_count=1, node_offset=0x2F).pack()), "t")
    assert whys(table) == ["t: the first node is said to be at 0x2f; allowed are 0x30 to 0x30; no node is read"]


def test_what_is_no_viot_is_refused() -> None:
    with pytest.raises(InputError, match=r"^t: is a table IORT, not VIOT$"):
        read_viot(raw_table("IORT", bytes(12)), "t")
    with pytest.raises(InputError, match=r"^t: larger than 256 KiB, the most that is read of a VIOT$"):
        read_viot(bytes(MOST_BYTES + 1), "t")


def fields(kind: type[ViotNodeHeader], number: int) -> st.SearchStrategy[ViotNodeHeader]:
    some = {name: st.integers(0, (1 << field.width) - 1) for name, field in kind.FIELDS.items() if name != "length"}
    return st.fixed_dictionaries(some).map(lambda values: kind(**values).replace(type=number))


NODES = st.lists(
    st.one_of(
        fields(PciRange, PCI_RANGE),
        fields(MmioEndpoint, MMIO),
        fields(VirtioIommuPci, VIRTIO_PCI),
        fields(VirtioIommuMmio, VIRTIO_MMIO),
    ),
    max_size=8,
)


@given(NODES)
@settings(max_examples=60, deadline=None)
def test_any_table_of_nodes_is_read_as_it_was_made(nodes: list[ViotNodeHeader]) -> None:
    table = read(*nodes)
    assert table.table.checksum_ok
    assert [node.word for node in table.nodes] == [one.replace(length=len(one.pack())) for one in nodes]
    assert [type(node.word) for node in table.nodes] == [type(one) for one in nodes]


@given(NODES, st.data())
@settings(max_examples=100, deadline=None)
def test_no_mutation_of_a_table_raises_anything_but_an_input_error(
    nodes: list[ViotNodeHeader], data: st.DataObject
) -> None:
    raw = bytearray(viot(UNIT, *nodes))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        said = viot_says(read_viot(data.draw(st.sampled_from([cut, summed(cut + bytes(36))]))))
    except InputError:
        return
    assert all(finding.why for finding in said.findings)

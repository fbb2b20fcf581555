import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.platforms.said import Kind, Rid, name_by_base, rid_of


@pytest.mark.parametrize(
    ("text", "rid"),
    [
        ("6a:01.0", Rid(0, 0x6A08)),
        ("0000:6A:01.0", Rid(0, 0x6A08)),
        ("10000:e1:1f.7", Rid(0x10000, 0xE1FF)),
        ("0000:6a:21.0", None),
        ("0000:6a:01.8", None),
        ("0000:6a:01.0\n", None),
        ("pci0000:00", None),
        ("dsa0", None),
    ],
)
def test_an_address_is_read_with_or_without_its_segment(text: str, rid: Rid | None) -> None:
    assert rid_of(text) == rid


@given(st.builds(Rid, st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF)))
def test_what_a_function_is_printed_as_is_read_back(rid: Rid) -> None:
    assert rid_of(str(rid)) == rid
    assert rid_of(rid.in_segment) == Rid(0, rid.number)
    assert str(rid).endswith(f":{rid.in_segment}")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("arm-smmu-v3", "smmu3.0x000000002b400000"),
        ("arm-smmu", "smmu.0x000000002b400000"),
        ("riscv", "riscv-iommu@2b400000"),
    ],
)
def test_iommus_without_a_number_are_named_after_their_registers(kind: Kind, name: str) -> None:
    assert name_by_base(kind, 0x2B40_0000) == name

"""Where stream tables and CD tables lie: base, alignment, and the split of an index over two levels."""

from __future__ import annotations

import pytest

from pasidlab.hw.smmuv3.registers import StrtabBase, StrtabBaseCfg
from pasidlab.hw.smmuv3.structures import L1Cd, L1Std, S1Fmt, Ste
from pasidlab.hw.smmuv3.tables import cd_table_of, level2_stes, stream_table_of

BASE = StrtabBase(addr=0xFFFF_FFFF_FFC0 & ((1 << 48) - 1))


@pytest.mark.parametrize(
    ("config", "low_zero_bits", "log2size", "split"),
    [
        (StrtabBaseCfg(log2size=4), 10, 4, 0),
        (StrtabBaseCfg(log2size=20), 26, 16, 0),
        (StrtabBaseCfg(log2size=16, split=8, fmt=1), 11, 16, 8),
        (StrtabBaseCfg(log2size=8, split=10, fmt=1), 6, 8, 10),
        (StrtabBaseCfg(log2size=12, split=7, fmt=1), 9, 12, 6),
        (StrtabBaseCfg(log2size=12, split=8, fmt=2), 18, 12, 0),
    ],
    ids=[
        "linear",
        "beyond SIDSIZE",
        "two levels",
        "one descriptor",
        "reserved split is 6",
        "reserved format is linear",
    ],
)
def test_the_stream_table_is_aligned_to_the_size_that_its_register_names(
    config: StrtabBaseCfg, low_zero_bits: int, log2size: int, split: int
) -> None:
    table = stream_table_of(BASE, config, 16)
    assert table == (BASE.addr >> low_zero_bits << low_zero_bits, log2size, split)


@pytest.mark.parametrize(("span", "leads"), [(0, False), (1, True), (9, True), (10, False), (11, False), (31, False)])
def test_a_span_leads_to_stes_up_to_one_more_than_the_split(span: int, leads: bool) -> None:
    table = stream_table_of(BASE, StrtabBaseCfg(log2size=16, split=8, fmt=1), 16)
    assert table.spans(L1Std(span=span)) is leads


def test_level_2_is_aligned_to_its_size() -> None:
    assert level2_stes(L1Std(span=3, l2ptr=0x1_00C0)) == (0x1_0000, 4)


@pytest.mark.parametrize(
    ("s1fmt", "s1cdmax", "base", "split"),
    [
        (S1Fmt.LINEAR, 0, 0x1_FFC0, 0),
        (S1Fmt.LEAF_64K, 0, 0x1_FFC0, 0),
        (S1Fmt.LINEAR, 2, 0x1_FF00, 0),
        (S1Fmt.RESERVED_3, 2, 0x1_FF00, 0),
        (S1Fmt.LEAF_4K, 5, 0x1_FFC0, 6),
        (S1Fmt.LEAF_4K, 10, 0x1_FF80, 6),
        (S1Fmt.LEAF_64K, 20, 0x1_E000, 10),
    ],
)
def test_a_cd_table_is_aligned_to_its_size_and_split_by_its_format(
    s1fmt: S1Fmt, s1cdmax: int, base: int, split: int
) -> None:
    table = cd_table_of(Ste(s1contextptr=0x1_FFC0, s1fmt=s1fmt, s1cdmax=s1cdmax))
    assert table == (base, s1cdmax, split)


def test_a_leaf_of_cds_is_aligned_to_its_size() -> None:
    table = cd_table_of(Ste(s1fmt=S1Fmt.LEAF_64K, s1cdmax=20))
    assert table.leaf(L1Cd(v=True, l2ptr=0x12_F000)) == 0x12_0000
    assert table.level1(5 << 10 | 3) == 5 * 8

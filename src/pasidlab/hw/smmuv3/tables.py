"""Where stream tables and CD tables lie, how they are aligned, and how an index is split over two levels.

Source: IHI 0070 G.b, 3.3.1 and 3.3.2 (linear and two-level tables), 5.1 (L1STD), 5.3 (L1CD), 6.3.24 (STRTAB_BASE).
Address bits below a table's size are taken as 0. Not modelled: STE.CONT.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.hw.smmuv3.registers import StrtabBase, StrtabBaseCfg, StrtabFmt
from pasidlab.hw.smmuv3.structures import L1Cd, L1Std, S1Fmt, Ste

STE_BYTES = CD_BYTES = 64
L1_BYTES = 8
LARGEST_SPAN = 11
SPLITS = (6, 8, 10)
"""Values of STRTAB_BASE_CFG.SPLIT; any other acts as the first."""
LEAF_SPLIT = {S1Fmt.LEAF_4K: 6, S1Fmt.LEAF_64K: 10}
"""SubstreamID bits that index a leaf of a two-level CD table."""


class StreamTable(NamedTuple):
    """The stream table: `log2size` StreamID bits, of which the lowest `split` index level 2; 0 is a linear table."""

    base: int
    log2size: int
    split: int

    def level1(self, sid: int) -> int:
        """Return where the level 1 descriptor of a stream lies."""
        return self.base + (sid >> self.split) * L1_BYTES

    def spans(self, descriptor: L1Std) -> bool:
        """Whether a level 1 descriptor leads to STEs."""
        return 0 < descriptor.span <= min(LARGEST_SPAN, self.split + 1)


def stream_table_of(base: StrtabBase, config: StrtabBaseCfg, sid_bits: int) -> StreamTable:
    """Return the stream table that the registers describe; the alignment is that of the size that they name."""
    log2size = min(config.log2size, sid_bits)
    if config.fmt is not StrtabFmt.TWO_LEVEL:
        return StreamTable(base.addr & -(STE_BYTES << config.log2size), log2size, 0)
    split = config.split if config.split in SPLITS else SPLITS[0]
    size = L1_BYTES << max(config.log2size - split, 0)
    return StreamTable(base.addr & -max(STE_BYTES, size), log2size, split)


def level2_stes(descriptor: L1Std) -> tuple[int, int]:
    """Return where the STEs of a level 1 descriptor lie, and how many there are."""
    count = 1 << descriptor.span - 1
    return descriptor.l2ptr & -(STE_BYTES * count), count


class CdTable(NamedTuple):
    """A stream's CD table: `bits` SubstreamID bits, of which the lowest `split` index a leaf; 0 is a linear table."""

    base: int
    bits: int
    split: int

    def level1(self, ssid: int) -> int:
        """Return where the level 1 descriptor of a SubstreamID lies."""
        return self.base + (ssid >> self.split) * L1_BYTES

    def leaf(self, descriptor: L1Cd) -> int:
        """Return where the leaf of a level 1 descriptor lies."""
        return descriptor.l2ptr & -(CD_BYTES << self.split)


def cd_table_of(ste: Ste) -> CdTable:
    """Return the CD table of an STE with stage 1; without S1CDMax it is one CD, whatever S1Fmt says."""
    bits = ste.s1cdmax
    split = LEAF_SPLIT.get(ste.s1fmt, 0) if bits else 0
    size = L1_BYTES << max(bits - split, 0) if split else CD_BYTES << bits
    return CdTable(ste.s1contextptr & -max(CD_BYTES, size), bits, split)

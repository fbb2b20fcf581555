"""Translations by the SMMUv3 model: one after the other, and in compiled batches beside a bare loop of the same loads.

The bare loop reads STE, level 1 CD descriptor, CD and four entries; see `walks`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row
from benchmarks.walks import ADDRESS_BITS, LEVELS, START, Numbers, Walks, compiled, walk_rows
from pasidlab.hw.smmuv3.batch import BatchTranslator
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0, Offset, StrtabBase, StrtabBaseCfg
from pasidlab.hw.smmuv3.request import Request
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, S1Fmt, Ste
from pasidlab.memory import PAGE_SIZE
from pasidlab.words import Word

SSID_COUNTS = (1, 32, 1_024, 65_536)
MAX_SINGLE = ("<=", 25.0)

SID = 5
LEAF_LG2 = 10
"""SubstreamID bits of a CD table leaf of 64 KiB."""
LEAF_BYTES = 64 << LEAF_LG2
LEVEL_1_CDS = START + 4 * PAGE_SIZE
CDS = START + 16 * PAGE_SIZE


def rows() -> Iterator[Row]:
    return walk_rows([Rig(count) for count in SSID_COUNTS], MAX_SINGLE)


# --- one machine -------------------------------------------------------------------------------------------------


class Rig(Walks):
    """An SMMU with one stream, whose SubstreamIDs each map one page."""

    NUMBERS, ENTRY, HIT = "SSIDs", "CD", "TLB hit"
    REQUESTER = SID
    TABLE, PAGE = 0x3, 0x3 | 1 << 6 | 1 << 10 | 1 << 11

    def __init__(self, ssids: int) -> None:
        self.leaves = max(ssids >> LEAF_LG2, 1)
        super().__init__(ssids, CDS - START + self.leaves * LEAF_BYTES)

    def store_configuration(self) -> None:
        """Store stream table and CD table."""
        ste = Ste(v=True, config=Config.STAGE_1, s1fmt=S1Fmt.LEAF_64K, s1contextptr=LEVEL_1_CDS, s1cdmax=20)
        self.memory.store(START + SID * 64, ste.pack())
        level_1 = b"".join(L1Cd(v=True, l2ptr=CDS + leaf * LEAF_BYTES).pack() for leaf in range(self.leaves))
        self.memory.store(LEVEL_1_CDS, level_1)
        cd = Cd(v=True, aa64=True, a=True, r=True, t0sz=16, epd1=True, ips=5)
        cds = np.tile(np.array(cd.words, np.uint64), (self.count, 1))
        cds[:, 1] |= self.trees_of(np.arange(self.count))
        self.memory.store(CDS, cds.tobytes())

    def iommu(self, cache_entries: int) -> Smmuv3:
        """Return an SMMU that is switched on."""
        smmu = Smmuv3(self.memory, Features(), cache_entries=cache_entries)
        registers: dict[Offset, Word] = {
            Offset.STRTAB_BASE: StrtabBase(addr=START),
            Offset.STRTAB_BASE_CFG: StrtabBaseCfg(log2size=6),
            Offset.CR0: Cr0(smmuen=True),
        }
        for offset, value in registers.items():
            smmu.mmio_write(offset, value, REGISTERS[offset].SIZE // 8)
        return smmu

    def request(self, number: int, address: int) -> Request:
        """Return a request of the device."""
        return Request(self.REQUESTER, number, address)

    def batches(self) -> BatchTranslator:
        """Return a new translator of batches."""
        return BatchTranslator(self.iommu(0))

    def follow(self, output: Numbers) -> None:
        """Follow the pointers of all requests, compiled."""
        _bare_walks(self.words, self.asked, self.asked_addresses, output)


@compiled
def _bare_walks(words: Numbers, ssids: npt.NDArray[np.int64], addresses: Numbers, output: Numbers) -> None:
    for number in range(ssids.size):
        ssid, address = ssids[number], np.int64(addresses[number])
        at = np.int64(words[SID * 8]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + (ssid >> LEAF_LG2)]) & ADDRESS_BITS
        at = np.int64(words[(at - START >> 3) + (ssid & (1 << LEAF_LG2) - 1) * 8 + 1]) & ADDRESS_BITS
        for level in range(LEVELS):
            at = np.int64(words[(at - START >> 3) + (address >> 39 - 9 * level & 511)]) & ADDRESS_BITS
        output[number] = at | address & PAGE_SIZE - 1

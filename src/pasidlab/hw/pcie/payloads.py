"""The data of translation completions and of invalidate requests: 8 bytes that name a range and what holds there.

Both code the size of the range in the same way. Without S it is 4 KiB. With S it is told by the lowest bit of the
address, from bit 12 on, that is 0: bit 12 says 8 KiB, bit 13 16 KiB. The bits below it are 1, and the address has 0.

Source: PCI Express Base Specification 5.0, 10.2.3 and 10.3.1; the bits as Intel's Simics API declares them; the coding
of the size as Linux 6.12's VT-d driver writes it into the same field of its descriptors (qi_flush_dev_iotlb).
Decided here: an address that is all ones with S, for which no size is given, means everything.
Not modelled: the fields for CXL (bit 9) and memory attributes (8:6), which newer revisions define.
"""

from __future__ import annotations

from typing import Self

from pasidlab.hw.pcie.wire import BigEndianWord
from pasidlab.words import address, flag

_PAGE_LG2 = 12
_EVERYTHING_LG2 = 64


class _Range(BigEndianWord, size=64):
    addr = address(63, 12, doc="with the size coded in, where s")
    s = flag(11, "more than 4 KiB")

    @classmethod
    def covering(cls, first: int, lg2: int, **fields: int) -> Self:
        """Build the word for 2**`lg2` bytes from `first` on, which must be aligned to it.

        Raises ValueError for a size that has no code, or an address that is not aligned.
        """
        if not _PAGE_LG2 <= lg2 <= _EVERYTHING_LG2:
            raise ValueError(f"{cls.__name__}: lg2={lg2} has no code; allowed: {_PAGE_LG2} to {_EVERYTHING_LG2}")
        if first & ((1 << lg2) - 1):
            raise ValueError(f"{cls.__name__}: first={first:#x} is not aligned to {1 << lg2:#x}")
        more = lg2 > _PAGE_LG2
        ones = (1 << lg2 - 1) - (1 << _PAGE_LG2) if more else 0
        return cls(addr=first | ones, s=more, **fields)

    @property
    def lg2(self) -> int:
        """Log2 of the size of the range."""
        if not self.s:
            return _PAGE_LG2
        ones = self.addr >> _PAGE_LG2
        lowest_zero = (~ones & (ones + 1)).bit_length() - 1
        return min(_PAGE_LG2 + lowest_zero + 1, _EVERYTHING_LG2)

    @property
    def first(self) -> int:
        """The first address of the range."""
        return self.addr >> self.lg2 << self.lg2


class TranslationEntry(_Range, size=64):
    """One translation of an ATS translation completion (10.2.3)."""

    n = flag(10, "accesses are not snooped")
    global_ = flag(5, "holds for every PASID")
    priv = flag(4, "the rights hold in privileged mode")
    exe = flag(3, "the right to execute")
    u = flag(2, "untranslated access only")
    w = flag(1, "the right to write")
    r = flag(0, "the right to read")


class InvalidateRange(_Range, size=64):
    """Range of an ATS invalidate request (10.3.1)."""

    global_ = flag(0, "of every PASID")

"""Words as PCI Express sends them: byte 0 first, and it is the most significant.

A header of n dwords is one word of 32n bits. Its dword 0 holds the highest bits, so that a field which the
specification prints in bits 15:8 of the last dword is 15:8 here too, and one of the dword before it is 47:40. An
address of two dwords is one field, since its upper half goes first.
"""

from __future__ import annotations

from typing import Self

from pasidlab.words import Word

_WORD_BITS = 64


class BigEndianWord(Word, size=0):
    """Base of words whose byte 0 is the most significant; a last 64-bit word that is not full is shorter."""

    @classmethod
    def from_words(cls, *words: int) -> Self:
        """Build from 64-bit words, that of the first bytes first; the last has the bits that remain."""
        raw = 0
        for index, word in enumerate(words):
            raw = raw << min(cls.SIZE - index * _WORD_BITS, _WORD_BITS) | word
        return cls(raw)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Build from the bytes on the wire; raises ValueError for a wrong number of them."""
        if len(data) != cls.SIZE // 8:
            raise ValueError(f"{cls.__name__}: {len(data)} bytes given; it has {cls.SIZE // 8}")
        return cls(int.from_bytes(data, "big"))

    def pack(self) -> bytes:
        """Return the bytes on the wire."""
        return self.to_bytes(self.SIZE // 8, "big")

    @property
    def words(self) -> tuple[int, ...]:
        """The 64-bit words, that of the first bytes first; the last has the bits that remain."""
        data = self.pack()
        return tuple(int.from_bytes(data[start : start + 8], "big") for start in range(0, len(data), 8))

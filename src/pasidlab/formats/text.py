"""Words as text: their digits, their fields, the bits of a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pasidlab.words import Field, Word

WORD_DIGITS = 16
"""Hexadecimal digits of a 64-bit word."""
_LONGEST_SHOWN = 40


def short(text: str) -> str:
    """Return what someone typed, quoted, and cut where it is long."""
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


def hex_words(word: Word) -> list[str]:
    """Return the 64-bit words, word 0 first, with all their digits."""
    digits = [min(word.SIZE // 4 - start, WORD_DIGITS) for start in range(0, word.SIZE // 4, WORD_DIGITS)]
    return [f"{one:#0{count + 2}x}" for one, count in zip(word.words, digits, strict=True)]


def words_text(word: Word) -> str:
    """Return the 64-bit words in a line, without zeros at the end."""
    words = hex_words(word)
    while len(words) > 1 and not int(words[-1], 16):
        words.pop()
    return " ".join(words)


def field_name(field: Field[Any]) -> str:
    """Return the specification's name of a field, in lower case; Python's reserved words bear an underscore in code."""
    return field.name.rstrip("_")


def fields_text(word: Word) -> str:
    """Return the fields that are not zero in a line, and what is set without being a field."""
    parts = [
        f"{field_name(shown.field)} {shown.meaning or number_text(shown.value)}"
        for shown in word.values()
        if shown.value
    ]
    if word.reserved:
        parts.append(f"reserved bits {bits_text(word.reserved)}")
    return ", ".join(parts) or "all zero"


def fields_dict(word: Word) -> dict[str, int | str]:
    """Return the fields that are not zero, each by its name, with the value's name where it has one."""
    return {field_name(shown.field): shown.meaning or shown.value for shown in word.values() if shown.value}


def number_text(value: int) -> str:
    """Return a number with one digit as it is, and any other in hexadecimal."""
    return str(value) if value < 10 else f"{value:#x}"


def bits_text(mask: int) -> str:
    """Return the bits of a mask as specifications print them, most significant first: `63:60, 12`."""
    runs: list[tuple[int, int]] = []
    for bit in _bits(mask):
        if runs and runs[-1][1] == bit + 1:
            runs[-1] = runs[-1][0], bit
        else:
            runs.append((bit, bit))
    return ", ".join(f"{msb}:{lsb}" if msb != lsb else f"{lsb}" for msb, lsb in runs)


def _bits(mask: int) -> Iterable[int]:
    return (bit for bit in range(mask.bit_length() - 1, -1, -1) if mask >> bit & 1)

"""What a format is: a name, a size, how a word is read, and which hardware judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pasidlab.formats.text import field_name, hex_words
from pasidlab.hw.pcie.wire import BigEndianWord
from pasidlab.rules import Rule
from pasidlab.words import Word

WORD_BITS = 64


class Objection(NamedTuple):
    """Why hardware refuses a word: the rule, and what it answers, as the name of an event or of a fault reason."""

    rule: Rule
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WordFormat:
    """One kind of word that can be decoded.

    Attributes:
        name: `family.word`, as users call it.
        summary: what it is, in a few words.
        bits: its size.
        read: makes the word of its value; events and commands become what their code says.
        named: the name that a word gives to itself: that of the event, of the command; empty for an unknown code.
        judge: why hardware would refuse the word, if it would; None where nothing can be refused.
        judged_by: the hardware that `judge` stands for, in words.
        fills: words that are left out at the end are zero.
        big_endian: its first byte, and its word 0, are the most significant; the last word has the bits that remain.
    """

    name: str
    summary: str
    bits: int
    read: Callable[[int], Word]
    named: Callable[[Word], str] | None = None
    judge: Callable[[Word], Objection | None] | None = None
    judged_by: str = ""
    fills: bool = False
    big_endian: bool = False

    @property
    def words(self) -> int:
        """How many 64-bit words it has; 32 bits are one."""
        return -(-self.bits // WORD_BITS)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A word and its format; `refused` is why hardware would refuse it."""

    format: WordFormat
    word: Word
    refused: Objection | None

    @property
    def name(self) -> str:
        """The name of the event or command; empty for a word that has none of its own."""
        return "" if self.format.named is None else self.format.named(self.word)

    def as_dict(self) -> dict[str, Any]:
        """Return the word as `pasidlab decode --json` prints it."""
        return {
            "format": self.format.name,
            "name": self.name or None,
            "words": hex_words(self.word),
            "fields": [
                {
                    "name": field_name(shown.field),
                    "msb": shown.field.msb,
                    "lsb": shown.field.lsb,
                    "value": shown.value,
                    "meaning": shown.meaning,
                    "doc": shown.field.doc,
                }
                for shown in self.word.values()
            ],
            "reserved": hex(self.word.reserved),
            "legal": None if self.format.judge is None else self.refused is None,
            "judged_for": self.format.judged_by or None,
            "rule": None if self.refused is None else self.refused.rule.id,
            "answer": None if self.refused is None else self.refused.answer,
        }


def form_of(name: str, word: type[Word], summary: str = "") -> WordFormat:
    """Return the format of a word; its summary is by default what the class says of itself."""
    big_endian = issubclass(word, BigEndianWord)
    return WordFormat(name=name, summary=summary or _first_line(word), bits=word.SIZE, read=word, big_endian=big_endian)


def _first_line(word: type[Word]) -> str:
    return (word.__doc__ or "").partition("\n")[0].rstrip(".")


def named_by(field: str) -> Callable[[Word], str]:
    """Return what names words by the value of one of their fields; a value without a name gives none."""

    def name(word: Word) -> str:
        return word.FIELDS[field].names.get(getattr(word, field), "")

    return name

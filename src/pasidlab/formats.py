"""Every word that can be decoded from hexadecimal digits, by name: table entries, commands, records, registers.

A format is one line in `FORMATS`; whoever adds an IOMMU or a device adds its words there. Digits come as 64-bit words,
word 0 first, as kernels' debugfs and the records print them, or as bytes in the order of memory, or of the link. Bytes
are little-endian, but for PCI Express, where the first is the most significant and word 0 has the first eight. The two
are never guessed from one another: sixteen digits may be either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pasidlab.errors import InputError
from pasidlab.hw.pagetable.descriptors import Stage1Leaf, Stage2Leaf, TableDescriptor
from pasidlab.hw.pcie.headers import (
    Completion,
    InvalidateCompletion,
    InvalidateRequest,
    Memory32,
    Memory64,
    PageRequest,
    PasidPrefix,
    PrgResponse,
    TranslationRequest32,
    TranslationRequest64,
)
from pasidlab.hw.pcie.payloads import InvalidateRange, TranslationEntry
from pasidlab.hw.pcie.wire import BigEndianWord
from pasidlab.hw.smmuv3.commands import Command, Opcode, command_of
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.legality import cd_fault, ste_fault
from pasidlab.hw.smmuv3.records import Event, EventCode, PriRecord, event_of
from pasidlab.hw.smmuv3.registers import REGISTERS
from pasidlab.hw.smmuv3.structures import Cd, L1Cd, L1Std, Ste
from pasidlab.rules import Rule
from pasidlab.words import Field, Word

_WORD_BITS = 64
_WORD_DIGITS = 16
_LONGEST_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class WordFormat:
    """One kind of word that can be decoded.

    Attributes:
        name: `family.word`, as users call it.
        summary: what it is, in a few words.
        bits: its size.
        read: makes the word of its value; events and commands become what their code says.
        named: the name that a word gives to itself: that of the event, of the command; empty for an unknown code.
        judge: the rule by which hardware would refuse the word, if any; None where nothing can be refused.
        judged_by: the hardware that `judge` stands for, in words, and what it answers to a word that it refuses.
        fills: words that are left out at the end are zero.
        big_endian: its first byte, and its word 0, are the most significant; the last word has the bits that remain.
    """

    name: str
    summary: str
    bits: int
    read: Callable[[int], Word]
    named: Callable[[Word], str] | None = None
    judge: Callable[[Word], Rule | None] | None = None
    judged_by: tuple[str, str] = ("", "")
    fills: bool = False
    big_endian: bool = False

    @property
    def words(self) -> int:
        """How many 64-bit words it has; 32 bits are one."""
        return -(-self.bits // _WORD_BITS)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A word and its format; `refused` is the rule by which hardware would refuse it."""

    format: WordFormat
    word: Word
    refused: Rule | None

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
            "judged_for": self.format.judged_by[0] or None,
            "rule": None if self.refused is None else self.refused.id,
        }


# --- the formats -------------------------------------------------------------------------------------------------


def _of(name: str, word: type[Word], summary: str = "") -> WordFormat:
    big_endian = issubclass(word, BigEndianWord)
    return WordFormat(name=name, summary=summary or _first_line(word), bits=word.SIZE, read=word, big_endian=big_endian)


def _first_line(word: type[Word]) -> str:
    return (word.__doc__ or "").partition("\n")[0].rstrip(".")


_FEATURES = Features()
_SMMU = (
    f"an SMMU with {_FEATURES.ssid_bits} SubstreamID bits, {_FEATURES.oas_bits}-bit addresses, every granule, "
    "stall and terminate, and no hardware updates of tables"
)


def _ste_refused(word: Word) -> Rule | None:
    return ste_fault(Ste(word), _FEATURES)


def _cd_refused(word: Word) -> Rule | None:
    return cd_fault(Cd(word), Ste(), _FEATURES)


def _event_name(word: Word) -> str:
    code = word & 0xFF
    return EventCode(code).name if code in set(EventCode) else ""


def _command_name(word: Word) -> str:
    code = word & 0xFF
    return Opcode(code).name if code in set(Opcode) else ""


_LIST = (
    replace(_of("smmuv3.ste", Ste), judge=_ste_refused, judged_by=(_SMMU, "C_BAD_STE"), fills=True),
    replace(_of("smmuv3.cd", Cd), judge=_cd_refused, judged_by=(_SMMU, "C_BAD_CD"), fills=True),
    _of("smmuv3.l1std", L1Std),
    _of("smmuv3.l1cd", L1Cd),
    WordFormat(name="smmuv3.event", summary="Event record (7.3)", bits=Event.SIZE, read=event_of, named=_event_name),
    WordFormat(name="smmuv3.cmd", summary="Command (4)", bits=Command.SIZE, read=command_of, named=_command_name),
    _of("smmuv3.pri", PriRecord),
    _of("vmsa.pte", Stage1Leaf, "VMSAv8-64 stage 1 page or block"),
    _of("vmsa.table", TableDescriptor, "VMSAv8-64 table, stage 1 or 2"),
    _of("vmsa.stage2", Stage2Leaf, "VMSAv8-64 stage 2 page or block"),
    *(
        _of(f"smmuv3.{offset.name.lower()}", word, f"Register {offset.name} at {offset:#x}")
        for offset, word in REGISTERS.items()
    ),
    _of("pcie.pasid_prefix", PasidPrefix),
    _of("pcie.memory_32", Memory32),
    _of("pcie.memory", Memory64),
    _of("pcie.ats_request_32", TranslationRequest32),
    _of("pcie.ats_request", TranslationRequest64),
    _of("pcie.ats_completion", Completion),
    _of("pcie.ats_entry", TranslationEntry),
    _of("pcie.invalidate", InvalidateRequest),
    _of("pcie.invalidate_range", InvalidateRange),
    _of("pcie.invalidate_cpl", InvalidateCompletion),
    _of("pcie.page_request", PageRequest),
    _of("pcie.prg_response", PrgResponse),
)
FORMATS: dict[str, WordFormat] = {one.name: one for one in _LIST}
"""Every format by its name."""


def find_format(name: str) -> WordFormat:
    """Return a format; InputError lists those that are like it."""
    if name in FORMATS:
        return FORMATS[name]
    family, word = name.lower().partition(".")[0], name.lower().rpartition(".")[2]
    alike = [known for known in FORMATS if known.endswith(f".{word}")]
    near = alike or [known for known in FORMATS if known.startswith(f"{family}.")] or list(FORMATS)
    raise InputError(f"FORMAT {_short(name)}: no such format; allowed: {', '.join(near)}")


# --- decoding ----------------------------------------------------------------------------------------------------


def decode(form: WordFormat, raw: int) -> Decoded:
    """Decode a value that fits the format."""
    word = form.read(raw)
    return Decoded(form, word, form.judge(word) if form.judge else None)


def decode_words(form: WordFormat, text: str, place: str = "HEX") -> Decoded:
    """Decode 64-bit words, word 0 first, with spaces or commas between; InputError says what is wrong at `place`."""
    tokens = _tokens(text, place)
    words = [_word(token, form, place) for token in tokens]
    _check_length(len(words), form.words, "64-bit word" if form.words == 1 else "64-bit words", form, place)
    last_bits = form.bits - (len(words) - 1) * _WORD_BITS
    if words[-1] >> last_bits:
        raise InputError(f"{place} {_short(text)}: {form.name} has {form.bits} bits, and this does not fit")
    if form.big_endian:
        head = int.from_bytes(b"".join(word.to_bytes(8, "big") for word in words[:-1]), "big")
        return decode(form, head << last_bits | words[-1])
    return decode(form, sum(word << index * _WORD_BITS for index, word in enumerate(words)))


def decode_bytes(form: WordFormat, text: str, place: str = "HEX") -> Decoded:
    """Decode bytes in the order of memory, spaces or commas between any two; InputError as `decode_words`."""
    digits = "".join(_digits(token, place) for token in _tokens(text, place))
    if len(digits) % 2:
        raise InputError(f"{place} {_short(text)}: {len(digits)} digits are no whole bytes; two digits are a byte")
    data = bytes.fromhex(digits)
    _check_length(len(data), form.bits // 8, "bytes", form, place)
    return decode(form, int.from_bytes(data, "big" if form.big_endian else "little"))


def _tokens(text: str, place: str) -> list[str]:
    tokens = [token for token in re.split(r"[,\s]+", text) if token]
    if not tokens:
        raise InputError(f"{place}: empty; hexadecimal digits are needed")
    return tokens


def _digits(token: str, place: str) -> str:
    """Return the digits of one token, without 0x and underscores."""
    digits = re.sub(r"^0[xX]", "", token).replace("_", "")
    if not re.fullmatch(r"[0-9a-fA-F]+", digits):
        raise InputError(f"{place} {_short(token)}: not hexadecimal; allowed: 0-9, a-f, underscores, 0x in front")
    return digits


def _word(token: str, form: WordFormat, place: str) -> int:
    digits = _digits(token, place)
    if len(digits) > _WORD_DIGITS:
        raise InputError(
            f"{place} {_short(token)}: {len(digits)} digits; a word of {form.name} has at most {_WORD_DIGITS}, "
            "and the bytes of a memory dump need --bytes"
        )
    return int(digits, 16)


def _check_length(found: int, size: int, unit: str, form: WordFormat, place: str) -> None:
    if found == size or (form.fills and found < size):
        return
    fewer = ", or fewer where the rest is zero" if form.fills else ""
    raise InputError(f"{place}: {form.name} has {size} {unit}{fewer}; {found} given")


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


# --- words as text -----------------------------------------------------------------------------------------------


def hex_words(word: Word) -> list[str]:
    """Return the 64-bit words, word 0 first, with all their digits."""
    digits = [min(word.SIZE // 4 - start, _WORD_DIGITS) for start in range(0, word.SIZE // 4, _WORD_DIGITS)]
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

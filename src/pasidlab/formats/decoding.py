"""From hexadecimal digits to a decoded word; InputError says what is wrong with them.

Digits come as 64-bit words, word 0 first, as kernels' debugfs and the records print them, or as bytes in the order of
memory, or of the link. Bytes are little-endian, but for PCI Express, where the first is the most significant and word
0 has the first eight. The two are never guessed from one another: sixteen digits may be either.
"""

from __future__ import annotations

import re

from pasidlab.errors import InputError
from pasidlab.formats.form import WORD_BITS, Decoded, WordFormat
from pasidlab.formats.text import WORD_DIGITS, short


def decode(form: WordFormat, raw: int) -> Decoded:
    """Decode a value that fits the format."""
    word = form.read(raw)
    return Decoded(form, word, form.judge(word) if form.judge else None)


def decode_words(form: WordFormat, text: str, place: str = "HEX") -> Decoded:
    """Decode 64-bit words, word 0 first, with spaces or commas between; InputError says what is wrong at `place`."""
    tokens = _tokens(text, place)
    words = [_word(token, form, place) for token in tokens]
    _check_length(len(words), form.words, "64-bit word" if form.words == 1 else "64-bit words", form, place)
    last_bits = form.bits - (len(words) - 1) * WORD_BITS
    if words[-1] >> last_bits:
        raise InputError(f"{place} {short(text)}: {form.name} has {form.bits} bits, and this does not fit")
    if form.big_endian:
        head = int.from_bytes(b"".join(word.to_bytes(8, "big") for word in words[:-1]), "big")
        return decode(form, head << last_bits | words[-1])
    return decode(form, sum(word << index * WORD_BITS for index, word in enumerate(words)))


def decode_bytes(form: WordFormat, text: str, place: str = "HEX") -> Decoded:
    """Decode bytes in the order of memory, spaces or commas between any two; InputError as `decode_words`."""
    digits = "".join(_digits(token, place) for token in _tokens(text, place))
    if len(digits) % 2:
        raise InputError(f"{place} {short(text)}: {len(digits)} digits are no whole bytes; two digits are a byte")
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
        raise InputError(f"{place} {short(token)}: not hexadecimal; allowed: 0-9, a-f, underscores, 0x in front")
    return digits


def _word(token: str, form: WordFormat, place: str) -> int:
    digits = _digits(token, place)
    if len(digits) > WORD_DIGITS:
        raise InputError(
            f"{place} {short(token)}: {len(digits)} digits; a word of {form.name} has at most {WORD_DIGITS}, "
            "and the bytes of a memory dump need --bytes"
        )
    return int(digits, 16)


def _check_length(found: int, size: int, unit: str, form: WordFormat, place: str) -> None:
    if found == size or (form.fills and found < size):
        return
    fewer = ", or fewer where the rest is zero" if form.fills else ""
    raise InputError(f"{place}: {form.name} has {size} {unit}{fewer}; {found} given")

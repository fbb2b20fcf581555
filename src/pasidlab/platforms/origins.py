"""How an origin names a register and the fields of it that say something: `…/ecap 0x…, bits 39:35 (PSS)`."""

from __future__ import annotations

from collections.abc import Callable

from pasidlab.words import Field, Word

Where = Callable[[str], str]
"""Returns an origin for a part of a register, as `bits 39:35 (PSS)`."""


def inside(place: str) -> Where:
    """Return the origins of what lies in a place: a file with the register's value, a line of a log."""
    return lambda part: f"{place}, {part}"


def fields_of(word: type[Word], *names: str) -> str:
    """Return how an origin names fields of a register: `bits 39:35 (PSS)`."""
    return ", ".join(_field(word.FIELDS[name]) for name in names)


def _field(field: Field[int]) -> str:
    return f"bit{'s' if field.width > 1 else ''} {field.bits_text} ({field.name.upper()})"

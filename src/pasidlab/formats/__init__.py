"""Every word that can be decoded from hexadecimal digits, by name: table entries, commands, records, registers, and the
structures of firmware's tables and of configuration space.

A format is one line in the list of its family; whoever adds an IOMMU or a device adds its words there.
"""

from __future__ import annotations

from pasidlab.errors import InputError
from pasidlab.formats.acpi import ACPI
from pasidlab.formats.amd import AMD
from pasidlab.formats.arm import ARM
from pasidlab.formats.decoding import decode, decode_bytes, decode_words
from pasidlab.formats.form import Decoded, WordFormat
from pasidlab.formats.idxd import IDXD
from pasidlab.formats.intel import INTEL
from pasidlab.formats.pci import PCI
from pasidlab.formats.pcie import PCIE
from pasidlab.formats.text import (
    bits_text,
    field_name,
    fields_dict,
    fields_text,
    hex_words,
    number_text,
    short,
    words_text,
)

__all__ = [
    "FORMATS",
    "Decoded",
    "WordFormat",
    "bits_text",
    "decode",
    "decode_bytes",
    "decode_words",
    "field_name",
    "fields_dict",
    "fields_text",
    "find_format",
    "hex_words",
    "number_text",
    "words_text",
]

FORMATS: dict[str, WordFormat] = {one.name: one for one in (*ARM, *INTEL, *AMD, *PCIE, *PCI, *IDXD, *ACPI)}
"""Every format by its name."""


def find_format(name: str) -> WordFormat:
    """Return a format; InputError lists those that are like it."""
    if name in FORMATS:
        return FORMATS[name]
    family, word = name.lower().partition(".")[0], name.lower().rpartition(".")[2]
    alike = [known for known in FORMATS if known.endswith(f".{word}")]
    near = alike or [known for known in FORMATS if known.startswith(f"{family}.")] or list(FORMATS)
    raise InputError(f"FORMAT {short(name)}: no such format; allowed: {', '.join(near)}")

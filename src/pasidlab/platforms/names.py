"""Names of a machine as a description takes them: short, plain, and different from each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pasidlab.description import RESERVED_NAMES
from pasidlab.platforms.said import MOST_PASID_BITS
from pasidlab.toml_text import one_line

LONGEST_NAME = 64
LONGEST_LINE = 65_536


def line_of(text: str) -> str:
    """Return text as a description takes it: of one line, none too long, and nothing that controls a terminal."""
    return one_line(text)[:LONGEST_LINE]


def name_of(name: str) -> str:
    """Return a name that a description takes: 1 to 64 characters, none that controls a terminal."""
    shown = line_of(name) or "?"
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 3]}..."


def clean_names(names: Iterable[str]) -> dict[str, str]:
    """Return what each name becomes in a description, where all of them differ."""
    cleaned: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        clean, number = name_of(name), 1
        while clean in taken or clean in RESERVED_NAMES:
            number += 1
            clean = f"{name_of(name)[: LONGEST_NAME - 8]}#{number}"
        taken.add(clean)
        cleaned[name] = clean
    return cleaned


@dataclass(frozen=True, slots=True)
class Names:
    """What IOMMUs and devices are called in the description, by what sources call them."""

    iommus: dict[str, str]
    devices: dict[str, str]

    def clean(self, key: str, value: Any) -> Any:
        """Return a value of a device's key as a description takes it; None to leave the key out."""
        match key:
            case "iommu":
                return self.iommus.get(value)
            case "physfn":
                return self.devices.get(value)
            case "group":
                return name_of(value)
            case "pasid_bits":
                return None if value is None else min(value, MOST_PASID_BITS)
        return value

"""Rules, codes and fields of entries as compiled code knows them, which is as integers."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pasidlab.hw.pagetable.contract import Access, Rights, needed
from pasidlab.rules import Rule
from pasidlab.words import Word

Words = npt.NDArray[np.int64]


class Numbers(Protocol):
    """Numbers by name."""

    def __getattr__(self, name: str) -> int: ...


def constants(values: Mapping[str, Any]) -> Any:
    """Return constants that compiled code can read by attribute."""
    make: Any = namedtuple
    return make("Constants", values)(**values)


class Numbering:
    """Numbers for rules; compiled code counts them from 1, and 0 is none."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(dict.fromkeys(rules))
        self._numbers = {rule: number for number, rule in enumerate(self.rules, start=1)}

    def number_of(self, rule: Rule | None) -> int:
        """Return the number of a rule, 0 for none."""
        return 0 if rule is None else self._numbers[rule]

    def rule_of(self, number: int) -> Rule:
        """Return the rule that has a number."""
        return self.rules[number - 1]

    def by_name(self, rules: Mapping[str, Rule]) -> Numbers:
        """Return the numbers of rules under the names that they are declared with."""
        numbers: Numbers = constants({name: self._numbers[rule] for name, rule in rules.items()})
        return numbers


class Place(NamedTuple):
    """Where a field lies: which 64-bit word, its lowest bit, its bits there, and how far an address is shifted."""

    word: int
    lsb: int
    mask: int
    shift: int


class Places(Protocol):
    """Places of fields by name."""

    def __getattr__(self, name: str) -> Place: ...


def places(layout: type[Word], first: int = 0) -> Places:
    """Return the Place of every field of a layout by name; word 0 of the entry is word `first` of where it is kept."""
    fields = layout.FIELDS
    found = (Place(first + f.lsb // 64, f.lsb % 64, (1 << f.width) - 1, f.shift) for f in fields.values())
    places: Places = constants(dict(zip(fields, found, strict=True)))
    return places


def record_of(layout: type) -> np.dtype[np.void]:
    """Return the layout of an object of integers, which compiled code uses in place of it."""
    return np.dtype([(name, np.int64) for name in layout.__annotations__])


WRITES, INSTRUCTION, PRIVILEGED, ON_TABLE = 1, 2, 4, 8
"""Bits of an access."""
RIGHTS_OF = WRITES | INSTRUCTION | PRIVILEGED
ACCESSES = tuple(Access(bool(code & WRITES), bool(code & INSTRUCTION), bool(code & PRIVILEGED)) for code in range(8))
NEED = tuple(int(needed(access)).bit_length() - 1 for access in ACCESSES)
"""Which bit of Rights an access needs, by its bits but ON_TABLE."""
ACCESS_OF = tuple(ACCESSES[NEED.index(bit)] for bit in range(len(Rights)))
"""An access that needs each bit of Rights."""

"""How many structures of one table are read: firmware has some dozens, a broken or hostile file could have millions.

Decided here: MOST_STRUCTURES, far above what machines have; the rest is left out, with a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pasidlab.platforms.acpi.region import TAKE_AGAIN, Region
from pasidlab.rules import Level, Rule

MOST_STRUCTURES = 4096
"""The most structures of one kind that are read of one table."""

TOO_MANY = Rule(
    "acpi.too-many",
    "pasidlab's bound of structures",
    "a table has more structures than any machine needs",
    "{file}, offset {offset}: more than {most} {what} in one table; the rest is not read",
    remedy=TAKE_AGAIN,
    level=Level.ERROR,
)


@dataclass(slots=True, eq=False)
class Budget:
    """How many structures of one kind may still be read of one table."""

    left: int = MOST_STRUCTURES

    def take(self, wanted: int, region: Region, what: str) -> int:
        """Return how many of those wanted at a region may be read, and say so when not all; `what` they are."""
        taken = min(wanted, self.left)
        self.left -= taken
        if taken < wanted:
            region.found(TOO_MANY, what=what, most=MOST_STRUCTURES)
        return taken


def first_ones(structures: Iterator[Region], what: str, budget: Budget | None = None) -> Iterator[Region]:
    """Yield as many structures as a budget has, a whole one by default; `what` is their name in the plural."""
    budget = budget or Budget()
    for structure in structures:
        if not budget.take(1, structure, what):
            return
        yield structure

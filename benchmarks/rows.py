"""What every benchmark reports, and how it is timed.

Work inside this process is timed in CPU time: other jobs on the machine disturb it less than wall time, and it is what
one core does. What a caller waits for (a start, a replay) is timed in wall time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

COMPARE: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value; `target` is how it compares with which limit, None for information."""

    name: str
    value: float
    unit: str
    target: tuple[str, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        compare, limit = self.target
        return COMPARE[compare](self.value, limit)

    @property
    def target_text(self) -> str:
        """The target as people write it."""
        return "" if self.target is None else f"{self.target[0]} {self.target[1]:,g}"

    def as_dict(self) -> dict[str, str | float | bool | None]:
        """Return the row as `--json` prints it."""
        target = self.target_text or None
        return {"name": self.name, "value": self.value, "unit": self.unit, "target": target, "met": self.met}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = process_time()
    work()
    return process_time() - start

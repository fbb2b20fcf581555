"""How a world's states grow with its size: the same world searched with more processes, devices and numbers.

The world has one entry each of processes, devices and IOMMUs; their counts, and the IOMMU's bound, are what is varied.
A search goes to its end even where a property is broken, so that sizes compare; a cell that a bound stopped says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from msgspec import structs

from pasidlab.errors import InputError
from pasidlab.explore.check import Plan, Verdict
from pasidlab.explore.sweep import Done, Search, sweep
from pasidlab.explore.verdict import Engine, Limits
from pasidlab.explore.world import World

MOST = 99
"""The largest end of a range."""


class Size(NamedTuple):
    """How many processes, devices and numbers a world has."""

    processes: int
    devices: int
    numbers: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One search of the table; `verdict` is None when an interruption left it out."""

    size: Size
    scheme: str
    verdict: Verdict | None

    @property
    def ended(self) -> str:
        """How the search ended: `all` states were reached, or what stopped it."""
        if self.verdict is None:
            return "not begun"
        return "all" if self.verdict.found.complete else self.verdict.found.stopped_by

    def as_dict(self) -> dict[str, Any]:
        """Return the cell as `--json` prints it."""
        parts: dict[str, Any] = {**self.size._asdict(), "scheme": self.scheme, "ended": self.ended}
        if self.verdict is not None:
            found = self.verdict.found
            parts |= {
                "states": found.states,
                "transitions": found.transitions,
                "depth": found.depth,
                "seconds": found.seconds,
                "memory": found.memory,
                "engine": self.verdict.engine.value,
                "broken": [one.property for one in found.counterexamples],
            }
        return parts


@dataclass(frozen=True, slots=True)
class Growth:
    """The cells, smallest size first and schemes innermost, and whether an interruption left some out."""

    cells: tuple[Cell, ...]
    interrupted: bool


def read_range(option: str, text: str) -> range:
    """Read `2..5` or `3`."""
    found = re.fullmatch(r"(\d{1,2})(?:\.\.(\d{1,2}))?", text)
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        if 1 <= first <= last:
            return range(first, last + 1)
    raise InputError(f"{option} {text!r}: allowed: a number or a range such as 1..5, from 1 to {MOST}, smallest first")


def sizes(processes: Iterable[int], devices: Iterable[int], numbers: Iterable[int]) -> Iterator[Size]:
    """Yield every size, the processes growing slowest."""
    return (Size(*size) for size in product(processes, devices, numbers))


def sized(world: World, size: Size) -> World:
    """Return the world in another size; InputError when it has several entries, or devices that are too narrow."""
    for key in ("process", "device", "iommu"):
        if len(getattr(world, key)) != 1:
            raise InputError(
                f"{key}: a world that shall grow has one [[{key}]], this one has {len(getattr(world, key))}"
            )
    device, most = world.device[0], size.numbers + 1
    if device.pasid_bits is None or 1 << device.pasid_bits < most:
        raise InputError(f"device[0].pasid_bits = {device.pasid_bits}: too few for numbers up to {size.numbers}")
    return structs.replace(
        world,
        process=[structs.replace(world.process[0], count=size.processes)],
        device=[structs.replace(device, count=size.devices)],
        iommu=[structs.replace(world.iommu[0], max_pasids=most)],
    )


def growth(
    world: World,
    schemes: Sequence[str],
    chosen: Iterable[Size],
    *,
    limits: Limits,
    engine: Engine | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    done: Done | None = None,
    ready: Callable[[], None] | None = None,
) -> Growth:
    """Search a world in each size under each scheme."""
    places = [(size, scheme) for size in chosen for scheme in schemes]
    plan = Plan(limits=limits, engine=engine, keep_going=True)
    searches = [Search(sized(world, size), scheme, plan) for size, scheme in places]
    swept = sweep(searches, workers=workers, cluster=cluster, done=done, ready=ready)
    cells = (Cell(*place, verdict) for place, verdict in zip(places, swept.verdicts, strict=True))
    return Growth(tuple(cells), swept.interrupted)

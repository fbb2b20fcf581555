"""The growth of a world's states as a table for each scheme: on a terminal, and as a page in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table

from pasidlab.explore.growth import Cell, Growth
from pasidlab.explore.world import World
from pasidlab.report.check_words import STOPPED

COLUMNS = ("processes", "devices", "numbers", "states", "transitions", "seconds", "MiB", "")
MIB = 1 << 20
ENDED = {"all": "", "not begun": "not begun", **STOPPED}


def print_growth(found: Growth, console: Console) -> None:
    """Print a table for each scheme."""
    for scheme, cells in _by_scheme(found):
        table = Table(title=scheme)
        for column in COLUMNS:
            table.add_column(column, justify="left" if not column else "right")
        for cell in cells:
            table.add_row(*_row(cell))
        console.print(table)


def markdown(world: World, found: Growth, command: str) -> Iterator[str]:
    """Yield the lines of the page that `command` makes."""
    where = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    yield "# How the states of a world grow"
    yield ""
    yield f"{world.title}. {' '.join(world.about.split())}"
    yield ""
    yield f"Actions: {', '.join(world.actions)}; threads of a process: {world.process[0].threads}; symmetry is on."
    yield f"Made by `{command}` ({where})."
    yield "A cell says states, seconds and MiB of the search; > is where a bound stopped it."
    for scheme, cells in _by_scheme(found):
        numbers = sorted({cell.size.numbers for cell in cells})
        yield ""
        yield f"## {scheme}"
        yield ""
        yield f"| processes | devices | {' | '.join(f'{number} numbers' for number in numbers)} |"
        yield f"|{'---:|' * (2 + len(numbers))}"
        yield from _pivot(cells)


def _pivot(cells: list[Cell]) -> Iterator[str]:
    """Yield a line for each count of processes and devices, with a cell for each count of numbers."""
    for (processes, devices), row in groupby(cells, lambda cell: cell.size[:2]):
        yield f"| {processes} | {devices} | {' | '.join(map(_summary, row))} |"


def _summary(cell: Cell) -> str:
    if cell.verdict is None:
        return "not begun"
    found = cell.verdict.found
    least = "" if found.complete else "> "
    return f"{least}{found.states:,} · {found.seconds:.1f} s · {found.memory / MIB:,.1f} MiB"


def _by_scheme(found: Growth) -> Iterator[tuple[str, list[Cell]]]:
    for scheme in dict.fromkeys(cell.scheme for cell in found.cells):
        yield scheme, [cell for cell in found.cells if cell.scheme == scheme]


def _row(cell: Cell) -> list[str]:
    """Write a cell; counts of a search that was stopped are so many at least."""
    size = [str(number) for number in cell.size]
    if cell.verdict is None:
        return [*size, "", "", "", "", ENDED[cell.ended]]
    found = cell.verdict.found
    least = "" if found.complete else "> "
    counts = [f"{least}{found.states:,}", f"{least}{found.transitions:,}"]
    return [*size, *counts, f"{found.seconds:.2f}", f"{found.memory / MIB:,.1f}", ENDED[cell.ended]]

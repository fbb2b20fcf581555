"""`pasidlab growth`: how many states a world has in other sizes, and what it takes to search them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pasidlab.cli import INTERRUPTED
from pasidlab.cli.common import at_least_one, console, patience, positive, print_json
from pasidlab.cli.files import STANDARD_OUTPUT, check_writable, write_all
from pasidlab.errors import blamed_on

if TYPE_CHECKING:
    from pasidlab.explore.growth import Growth
    from pasidlab.explore.sweep import Done
    from pasidlab.explore.world import World


def growth(
    file: Annotated[Path, typer.Argument(metavar="WORLD", help="A world to grow.", show_default=False)],
    processes: Annotated[str, typer.Option(metavar="RANGE", help="How many processes, as 3 or 1..5.")] = "1..5",
    devices: Annotated[str, typer.Option(metavar="RANGE", help="How many devices.")] = "1..4",
    numbers: Annotated[str, typer.Option(metavar="RANGE", help="How many numbers each device carries.")] = "2..5",
    scheme: Annotated[str, typer.Option(help="NAME, a comma-separated list, all, or FILE.py:CLASS.")] = "all",
    max_states: Annotated[int, typer.Option(help="Stop a search after so many states.")] = 20_000_000,
    max_seconds: Annotated[float, typer.Option(help="Stop a search after so many seconds.")] = 60.0,
    workers: Annotated[
        int | None, typer.Option(help="How many searches at once, on local processes; else one for each CPU.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Search on the cluster of this dask scheduler.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write one JSON object a line; - prints them.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown.")] = False,
) -> None:
    """Search a world in many sizes under schemes: states, transitions, seconds and memory of each.

    The world has one entry each of processes, devices and IOMMUs. Exit status 0, also where a bound stopped a search,
    which the table says; 2 for bad input.
    """
    from pasidlab.explore.growth import growth as grow
    from pasidlab.explore.growth import read_range, sized, sizes
    from pasidlab.explore.verdict import Limits
    from pasidlab.explore.world import World

    limits = Limits(at_least_one("--max-states", max_states), positive("--max-seconds", max_seconds))
    ranges = zip(("--processes", "--devices", "--numbers"), (processes, devices, numbers), strict=True)
    chosen = list(sizes(*(read_range(option, text) for option, text in ranges)))
    if json_file is not None and json_file != STANDARD_OUTPUT:
        check_writable("--json", json_file)
    world, names = World.load(file), _names(scheme)
    with blamed_on(file):
        sized(world, chosen[-1])
    with _progress() as done, patience() if cluster is None else nullcontext() as ready:
        found = grow(
            world,
            names,
            chosen,
            limits=limits,
            workers=at_least_one("--workers", workers),
            cluster=cluster,
            done=done,
            ready=ready,
        )
    _show(world, found, json_file, markdown=markdown)
    raise typer.Exit(INTERRUPTED if found.interrupted else 0)


def _names(scheme: str) -> list[str]:
    """Return what names each scheme, which is looked for here and again where it is searched."""
    from pasidlab.explore.document import scheme_text
    from pasidlab.schemes import find_schemes

    return [scheme_text(one) for one in find_schemes(scheme)]


@contextmanager
def _progress() -> Iterator[Done]:
    """Show how many searches are done, on standard error if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _show(world: World, found: Growth, json_file: Path | None, *, markdown: bool) -> None:
    """Print the table, as a page or as records if that was asked for, and write the records to a file."""
    from pasidlab.report.growth import markdown as page
    from pasidlab.report.growth import print_growth

    records = [cell.as_dict() for cell in found.cells]
    if json_file == STANDARD_OUTPUT:
        for record in records:
            print_json(record)
    elif markdown:
        print("\n".join(page(world, found, _command())))
    else:
        print_growth(found, console())
    if json_file is not None and json_file != STANDARD_OUTPUT:
        write_all([("--json", json_file, "".join(f"{json.dumps(record)}\n" for record in records))])


def _command() -> str:
    """Return the command line as it was typed."""
    return " ".join(["pasidlab", *sys.argv[1:]])

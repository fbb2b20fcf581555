"""`pasidlab check`: search worlds, print what was found, and write it to files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pasidlab.cli import INTERRUPTED
from pasidlab.cli.common import at_least_one, console, patience, positive, print_json, read_options
from pasidlab.cli.files import STANDARD_OUTPUT, check_folder, check_writable, write_all
from pasidlab.errors import InputError, blamed_on

if TYPE_CHECKING:
    from pasidlab.explore.check import Plan, Telling, Verdict
    from pasidlab.explore.world import World
    from pasidlab.schemes import Scheme

HOLDS, VIOLATED, STOPPED = 0, 1, 3
"""Exit status; that of bad input is 2."""
REPLAY = "--scenario FILE writes the trace as a scenario, which `pasidlab run FILE` replays"
MOST_WORKERS = 64
"""Each thread has room for what it sends to each other one."""


def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="WORLD", help="One or more worlds, or machines.", show_default=False)
    ],
    scheme: Annotated[
        str | None, typer.Option(help="NAME, a comma-separated list, all, or FILE.py:CLASS; else the world's own.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="KEY=VALUE, an option of the schemes, e.g. guard=none.")
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property", help="NAME, FILE.py:FUNCTION, or default, in the place of the world's own; may be repeated."
        ),
    ] = None,
    symmetry: Annotated[
        bool, typer.Option("--symmetry/--no-symmetry", help="Take states that differ in names only for one.")
    ] = True,
    engine: Annotated[
        str | None, typer.Option(help="compiled or readable; else compiled where it knows the world.")
    ] = None,
    max_states: Annotated[int | None, typer.Option(help="Stop after so many states.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds, for each scheme.")] = None,
    max_depth: Annotated[int | None, typer.Option(help="Look so many steps far.")] = None,
    max_memory: Annotated[
        int | None, typer.Option(metavar="MIB", help="Stop at so much memory; else at three quarters of the machine's.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Search to the end, and show the shortest trace of each property.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Threads of the compiled engine.")] = 1,
    processes: Annotated[int, typer.Option(help="Search so many schemes and worlds at once, in processes.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Search them on a dask.distributed scheduler.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write one JSON object a line; - prints them.")
    ] = None,
    scenario: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the shortest counterexample; into a directory, each of them."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of a machine, a device to take, in the place of the first two; repeatable."),
    ] = None,
) -> None:
    """Search all that can happen in small worlds: each property holds, or a shortest trace that breaks it is shown.

    Of a machine, which has neither actions nor steps, a small world of two devices and two processes is made.

    Exit status 0 when all properties hold, 1 with a counterexample or a `sometimes` that was never reached, 2 for bad
    input, 3 when a bound stopped the search before anything was found.
    """
    from pasidlab.explore.check import Plan
    from pasidlab.explore.verdict import Limits

    outputs = Outputs(html, json_file, scenario, junit)
    outputs.check()
    plan = Plan(
        tuple(properties or ()),
        Limits(
            at_least_one("--max-states", max_states),
            positive("--max-seconds", max_seconds),
            at_least_one("--max-depth", max_depth),
            _bytes(at_least_one("--max-memory", max_memory)),
        ),
        symmetry,
        _engine(engine),
        at_least_one("--workers", workers, MOST_WORKERS) or 1,
        read_options(option or []),
        keep_going,
    )
    asked = _loaded(files, scheme, plan, device or [])
    if json_file == STANDARD_OUTPUT:
        print("".join(f"pasidlab: {line}\n" for one in asked for line in one.remarks), end="", file=sys.stderr)
    spread = cluster is not None or (at_least_one("--processes", processes) or 1) > 1
    searched = _spread(asked, plan, processes, cluster) if spread else _in_turn(asked, plan)
    found, interrupted = _print_all(searched, plan, as_json=json_file == STANDARD_OUTPUT)
    outputs.write(found)
    if not any((html, json_file, scenario, junit)) and any(verdict.traces for _, verdict in found):
        print(f"pasidlab: {REPLAY}", file=sys.stderr)
    raise typer.Exit(INTERRUPTED if interrupted else _status(verdict for _, verdict in found))


def _bytes(mebibytes: int | None) -> int | None:
    return None if mebibytes is None else mebibytes << 20


def _engine(name: str | None) -> Any:
    from pasidlab.explore.verdict import Engine

    if name is None:
        return None
    if name not in list(Engine):
        raise InputError(f"--engine {name!r}: allowed: {', '.join(Engine)}")
    return Engine(name)


class Asked(NamedTuple):
    """A world that is to be searched; `name` is what its files are called, `remarks` what it has of a machine."""

    path: Path
    name: str
    world: World
    schemes: list[type[Scheme]]
    remarks: tuple[str, ...] = ()


Searched = Iterator[tuple[Asked, Iterator["Verdict | None"]]]
"""The worlds with their verdicts, which come as they are found; None for one that an interruption left out."""
Given = list[tuple[Asked, "Verdict"]]
"""The verdicts, each with its world."""


def _loaded(files: Iterable[Path], scheme: str | None, plan: Plan, devices: Sequence[str]) -> list[Asked]:
    """Read every world and look for what is wrong with any before the first search; one without title gets one."""
    from msgspec import structs

    from pasidlab.explore.check import check_plan
    from pasidlab.explore.of_machine import load_world
    from pasidlab.schemes import find_schemes

    asked: list[Asked] = []
    for path in files:
        world, remarks = load_world(path, devices)
        given = None if scheme is None else find_schemes(scheme)
        with blamed_on(path):
            schemes = find_schemes(world.scheme) if given is None else given
            check_plan(world, schemes, plan)
        name = _unused(path.stem, {one.name for one in asked})
        titled = structs.replace(world, title=world.title or path.stem)
        asked.append(Asked(path, name, titled, schemes, remarks))
    return asked


def _unused(name: str, used: set[str]) -> str:
    """Return the name, with a number behind it where it is used."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(one for one in names if one not in used)


def _in_turn(asked: Iterable[Asked], plan: Plan) -> Searched:
    """Search one world after the other, under one scheme after the other; an interruption leaves the rest out."""
    from pasidlab.explore.check import verdicts
    from pasidlab.explore.verdict import Status

    interrupted = False

    def searched(one: Asked) -> Iterator[Verdict | None]:
        nonlocal interrupted
        for scheme in one.schemes:
            if interrupted:
                yield None
                continue
            with blamed_on(one.path), _progress(one.world, scheme, plan) as telling:
                (verdict,) = verdicts(one.world, [scheme], plan, telling)
            interrupted = verdict.status is Status.INTERRUPTED
            yield verdict

    for one in asked:
        yield one, searched(one)


def _spread(asked: list[Asked], plan: Plan, processes: int, cluster: str | None) -> Searched:
    """Search all at once, on processes or on a cluster."""
    from rich.progress import Progress

    from pasidlab.explore.document import scheme_text
    from pasidlab.explore.sweep import Search, sweep

    searches = [Search(one.world, scheme_text(scheme), plan) for one in asked for scheme in one.schemes]
    bar = Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar, patience() if cluster is None else nullcontext(_nothing) as ready:
        task = bar.add_task("searches", total=len(searches))
        swept = sweep(
            searches,
            workers=processes,
            cluster=cluster,
            done=lambda done, of: bar.update(task, completed=done),
            ready=ready,
        )
    results = iter(swept.verdicts)
    for one in asked:
        yield one, islice(results, len(one.schemes))


def _print_all(searched: Searched, plan: Plan, *, as_json: bool) -> tuple[Given, bool]:
    """Print each verdict when it is there, and what was left out; return them, and whether an interruption did that."""
    found: Given = []
    left_out: list[str] = []
    headed: set[str] = set()
    for one, verdicts in searched:
        if not as_json and not left_out:
            _print_world(one, plan, headed)
        for scheme, verdict in zip(one.schemes, verdicts, strict=True):
            if verdict is None:
                left_out.append(f"{one.path} under {scheme.name}")
                continue
            if not as_json:
                _print_world(one, plan, headed)
            found.append((one, verdict))
            _print_verdict(verdict, as_json=as_json)
    if left_out:
        print(f"pasidlab: not searched: {', '.join(left_out)}", file=sys.stderr)
    return found, bool(left_out)


def _print_world(one: Asked, plan: Plan, headed: set[str]) -> None:
    """Print what is searched, once."""
    from pasidlab.explore.check import with_options
    from pasidlab.report.check_text import print_world
    from pasidlab.runner import settings_of

    if one.name in headed:
        return
    if headed:
        print()
    headed.add(one.name)
    print_world(one.world, settings_of(with_options(one.world, plan.options)), console(), one.remarks)


def _print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    from pasidlab.report.check_json import verdict_dict
    from pasidlab.report.check_text import print_verdict

    if as_json:
        print_json(verdict_dict(verdict))
    else:
        print_verdict(verdict, console())


@contextmanager
def _progress(world: World, scheme: type[Scheme], plan: Plan) -> Iterator[Telling]:
    """Show how far the search has come, on standard error if that is a terminal, and say when it is only compiled."""
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from pasidlab.explore.check import choose_engine
    from pasidlab.explore.verdict import Engine

    columns = SpinnerColumn(), TextColumn("{task.description}")
    compiled = choose_engine(world, scheme, plan.engine)[0] is Engine.COMPILED
    bar = Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar, patience() if compiled else nullcontext(_nothing) as begun:
        task = bar.add_task(scheme.name, total=None)

        def tell(scheme: str, so_far: Any) -> None:
            begun()
            rate = so_far.states / so_far.seconds if so_far.seconds else 0
            text = f"{scheme}: {so_far.states:,} states, depth {so_far.depth}, {rate:,.0f} states/s"
            bar.update(task, description=text)

        yield tell


def _nothing() -> None:
    """Tell nobody."""


def _status(found: Iterable[Verdict]) -> int:
    """Return the exit status: the gravest of what was found."""
    statuses = {verdict.status.value for verdict in found}
    for name, status in (("interrupted", INTERRUPTED), ("violated", VIOLATED), ("stopped", STOPPED)):
        if name in statuses:
            return status
    return HOLDS


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that were asked for."""

    html: Path | None
    json: Path | None
    scenario: Path | None
    junit: Path | None

    def check(self) -> None:
        """Raise InputError for a file that could not be written."""
        for option, path in (("--html", self.html), ("--json", self.json), ("--junit", self.junit)):
            if path is not None and path != STANDARD_OUTPUT:
                check_writable(option, path)
        if self.scenario is not None:
            (check_folder if self.scenario.is_dir() else check_writable)("--scenario", self.scenario)

    def write(self, found: Given) -> None:
        """Write them all."""
        write_all(self._texts(found))

    def _texts(self, found: Given) -> Iterator[tuple[str, Path, str]]:
        """Yield what is written where, and by which option."""
        verdicts = [verdict for _, verdict in found]
        if self.html is not None:
            from pasidlab.report.check_html import html_text

            yield "--html", self.html, html_text(verdicts)
        if self.json is not None and self.json != STANDARD_OUTPUT:
            from pasidlab.report.check_json import verdict_dict

            yield "--json", self.json, "".join(f"{json.dumps(verdict_dict(verdict))}\n" for verdict in verdicts)
        if self.junit is not None:
            from pasidlab.report.check_junit import junit_text

            yield "--junit", self.junit, junit_text(verdicts)
        if self.scenario is not None:
            yield from (("--scenario", *written) for written in _scenarios(self.scenario, found))


def _scenarios(path: Path, found: Given) -> Iterator[tuple[Path, str]]:
    """Yield the shortest trace for a file, or each for a file of a directory; standard error tells which."""
    traces = [(one, verdict, trace) for one, verdict in found for trace in verdict.traces]
    if not traces:
        print(f"pasidlab: no counterexample, so {path} is not written", file=sys.stderr)
    elif path.is_dir():
        for one, verdict, trace in traces:
            yield path / f"{one.name}-{_file_name(verdict.scheme, trace.property)}.toml", trace.scenario
    else:
        yield path, min((trace for *_, trace in traces), key=lambda trace: trace.actions).scenario
        if len(traces) > 1:
            print(f"pasidlab: {path} has the shortest of {len(traces)} traces; a directory gets all", file=sys.stderr)


def _file_name(*parts: str) -> str:
    """Return a name for a file out of names for people."""
    kept = ("".join(letter if letter.isalnum() else "_" for letter in part.lower()) for part in parts)
    return "-".join(part[:60] for part in kept)

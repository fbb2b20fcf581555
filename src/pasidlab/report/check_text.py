"""The verdicts of a search for people: one line for each scheme, and the trace that breaks a property step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pasidlab.explore.check import Verdict, assumptions_of, shape_of
from pasidlab.explore.trace import Trace, TraceStep
from pasidlab.explore.verdict import Engine, Status
from pasidlab.explore.world import World
from pasidlab.report.check_words import coverage, last_sentences, outcome_text, step_text, verdict_text

STYLES = {Status.HOLDS: "green", Status.VIOLATED: "red", Status.STOPPED: "yellow", Status.INTERRUPTED: "yellow"}


def print_world(world: World, settings: dict[str, Any], console: Console, remarks: Iterable[str] = ()) -> None:
    """Print what is searched, and what was taken of a machine for it."""
    said = "".join(f", {key} = {str(value).lower()}" for key, value in settings.items())
    _print(console, f"[bold]{escape(world.title or 'world')}[/bold]  (kernel {world.kernel}{escape(said)})")
    for line in remarks:
        _print(console, escape(line))
    _print(console, escape(shape_of(world)))
    _print(console, escape(assumptions_of(world)))


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print what a search under one scheme came to."""
    style = STYLES[verdict.status]
    engine = ", readable engine" if verdict.engine is Engine.READABLE else ""
    name = escape(f"{verdict.scheme:<9}")
    _print(console, f"[bold]{name}[/bold] [{style}]{escape(verdict_text(verdict))}[/{style}]{engine}")
    if verdict.note:
        _print(console, f"  note: {escape(verdict.note)}")
    if verdict.unreached:
        _print(console, f"  [red]never reached: {escape(', '.join(verdict.unreached))}[/red]")
    for trace in verdict.traces:
        _print_trace(trace, console)
    reached = "; ".join(f"{verb} {_counts(results)}" for verb, results in coverage(verdict.found).items())
    _print(console, f"  reached: {escape(reached or 'nothing')}")
    if verdict.never:
        _print(console, f"  never: {escape(', '.join(verdict.never))}")


def _counts(results: dict[str, int]) -> str:
    return ", ".join(f"{result} {count:,}" for result, count in results.items())


def _print_trace(trace: Trace, console: Console) -> None:
    _print(console, f"  [bold]{escape(trace.property)}[/bold]: {escape(f'{trace.rule} ({trace.source})')}")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("step", overflow="fold")
    table.add_column("result", overflow="fold")
    for step in trace.steps:
        table.add_row(str(step.number), escape(step_text(step)), _result(step))
    console.print(table)
    for number, text in last_sentences(trace):
        _print(console, f"{number:>3}  {escape(text)}")


def _result(step: TraceStep) -> str:
    style = "bold red" if step.trespass else "green" if step.result == "ok" else "yellow"
    return f"[{style}]{escape(outcome_text(step))}[/{style}]"


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)

"""An audit for people: a row for each kind of device, its bounds, what is found; and what two machines differ in."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pasidlab.audit import Audit, Difference, Kind, Row
from pasidlab.explain.general import sentence_of
from pasidlab.report.findings import WIDTH, counts_text, finding_lines
from pasidlab.report.machine import machine_text
from pasidlab.rules import RULES, counted, listed

Alike = list[Row]
"""Rows that differ in nothing that the table shows but the device."""
UNKNOWN = "?"
"""What the table has where an import could not find it out."""
MOST_ALIKE = 40
"""How many different rows the table has; the JSON output has all."""


def print_audit(audit: Audit, title: str, console: Console) -> None:
    """Print an audit: table, bounds, sharing, findings, and a line that counts."""
    _print(console, f"[bold]{escape(title)}[/bold]  (kernel {audit.spec.kernel}): {escape(machine_text(audit.spec))}")
    rows = _alike(audit.rows)
    if rows:
        console.print(_table(audit, rows[:MOST_ALIKE]))
    width = min(console.width, WIDTH)
    for line in (*_after_table(audit, rows, width), *finding_lines(audit.findings, width=width)):
        _print(console, escape(line))
    usable = sum(bool(row.usable) for row in audit.rows)
    found = counts_text(audit.findings)
    _print(
        console, f"{counted(len(audit.rows), 'device')} with PASIDs or in a group with one, {usable:,} usable; {found}"
    )


def _alike(rows: Iterable[Row]) -> list[Alike]:
    """Put rows together that differ in the device only."""
    together: dict[Any, Alike] = {}
    for row in rows:
        rooms = tuple((name, room.spaces, room.result, room.rule) for name, room in row.rooms.items())
        key = row.iommu, row.group, row.bits, row.usable, row.limit.kind, row.limit.below, rooms
        together.setdefault(key, []).append(row)
    return list(together.values())


def _table(audit: Audit, rows: list[Alike]) -> Table:
    """Make the table; schemes that agree about every row share a column."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("device", overflow="fold")
    table.add_column("IOMMU", overflow="fold")
    table.add_column("bits", justify="right", no_wrap=True)
    table.add_column("usable", justify="right", no_wrap=True)
    table.add_column("limit", overflow="fold")
    columns = _columns(audit, rows)
    for schemes in columns.values():
        every = len(schemes) > 1 and len(columns) == 1
        table.add_column("every\nscheme" if every else "\n".join(schemes), justify="right", no_wrap=True)
    for number, alike in enumerate(rows):
        row = alike[0]
        bits = "-" if row.bits is None else str(row.bits)
        style = "green" if row.usable else "red"
        usable = UNKNOWN if _unknown(row) else f"[{style}]{row.usable:,}[/{style}]"
        rooms = (cells[number] for cells in columns)
        table.add_row(escape(_names(alike)), escape(_iommu(row)), bits, usable, row.limit.kind.value, *rooms)
    return table


def _iommu(row: Row) -> str:
    return row.iommu or (UNKNOWN if _unknown(row) else "none")


def _unknown(row: Row) -> bool:
    return row.limit.kind is Kind.UNKNOWN


def _columns(audit: Audit, rows: list[Alike]) -> dict[tuple[str, ...], list[str]]:
    """Return the different columns of rooms, cell by cell, each with the schemes that it is of."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for scheme in audit.schemes:
        cells = tuple(_room(alike[0], scheme) for alike in rows)
        columns.setdefault(cells, []).append(scheme)
    return columns


def _room(row: Row, scheme: str) -> str:
    room = row.rooms[scheme]
    return UNKNOWN if _unknown(row) else f"{room.spaces:,}\n{room.result}"


def _names(alike: Alike) -> str:
    more = len(alike) - 1
    return alike[0].device if not more else f"{alike[0].device}\nand {more:,} more"


def _after_table(audit: Audit, rows: list[Alike], width: int) -> Iterator[str]:
    """Yield what stands between the table and the findings."""
    if len(rows) > MOST_ALIKE:
        yield f"and {len(rows) - MOST_ALIKE:,} more rows, which --json prints"
    lines = [*_limits(rows[:MOST_ALIKE]), *_sharing(audit), *_groups(audit.rows), *_nexts(audit, rows)]
    for line in lines:
        yield from textwrap.wrap(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    if lines and audit.findings:
        yield ""


def _limits(rows: list[Alike]) -> Iterator[str]:
    """Yield the fact behind each limit, once for the devices that it holds for, which it names where it is one."""
    by_fact: dict[tuple[str, str], list[Row]] = {}
    for row in (row for alike in rows for row in alike):
        fact = row.limit.fact.replace(row.device, "the device")
        by_fact.setdefault((row.limit.kind.value, fact), []).append(row)
    for (kind, fact), of_fact in by_fact.items():
        devices = [row.device for row in of_fact]
        told = of_fact[0].limit.fact if len(devices) == 1 else fact
        yield f"limit {kind}, {listed(devices)}: {told}"


def _sharing(audit: Audit) -> Iterator[str]:
    sharers = [row.device for row in audit.rows if row.usable]
    if len(sharers) > 1:
        named = listed(sharers)
        yield f"one machine-wide space today: a number that is taken for one of {named} is taken for all"


def _groups(rows: Iterable[Row]) -> Iterator[str]:
    grouped = sorted((row for row in rows if row.beside), key=lambda row: row.group or "")
    for group, members in groupby(grouped, key=lambda row: row.group):
        devices = [row.device for row in members]
        yield f"group {group}: {listed(devices)} share every number, under every scheme"


def _nexts(audit: Audit, rows: Iterable[Alike]) -> Iterator[str]:
    """Yield each rule that refuses the bind after the last that fits."""
    rooms = [room for alike in rows if not _unknown(alike[0]) for room in alike[0].rooms.values()]
    if rooms:
        last = "the last column counts" if len(audit.schemes) == 1 else "the last columns count"
        yield f"{last} the processes that fit where nothing else is bound; one more gets"
    for rule, result in {room.rule: room.result for room in rooms}.items():
        yield f"  {result}: {sentence_of(RULES[rule])} [{rule}]"


# --- what differs ----------------------------------------------------------------------------------------------


def print_differences(differences: list[Difference], titles: tuple[str, str], console: Console) -> None:
    """Print what two machines differ in, what bears on SVA first."""
    bearing = [difference for difference in differences if difference.bears]
    others = [difference for difference in differences if not difference.bears]
    for heading, shown in (("bears on SVA", bearing), ("does not bear on SVA", others)):
        if shown:
            _print(console, f"[bold]{heading}[/bold]")
            console.print(_difference_table(shown, titles))


def _difference_table(differences: list[Difference], titles: tuple[str, str]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("what", *titles):
        table.add_column(escape(heading), overflow="fold")
    for difference in differences:
        values = (_value(value) for value in (difference.first, difference.second))
        table.add_row(escape(_what(difference)), *map(escape, values))
    return table


def _what(difference: Difference) -> str:
    return " ".join(part for part in (difference.kind, difference.name, difference.key) if part)


def _value(value: Any) -> str:
    """Say a value as TOML would; what is not said is a dash."""
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def summary_of_differences(differences: list[Difference]) -> str:
    """Return how many differences there are, in words."""
    if not differences:
        return "nothing differs"
    bearing = sum(difference.bears for difference in differences)
    count = "1 difference" if len(differences) == 1 else f"{len(differences):,} differences"
    return f"{count}, {bearing:,} of them bear on SVA"


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)

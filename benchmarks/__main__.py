"""Run the benchmarks and hold the values against their targets.

Exit status 0 when every target is met, 1 when one is missed. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from time import perf_counter

from rich.console import Console
from rich.table import Table

from benchmarks import (
    bench_bind,
    bench_check,
    bench_enqcmd,
    bench_import,
    bench_pasid,
    bench_replay,
    bench_smmu,
    bench_start,
    bench_vtd,
)
from benchmarks.rows import Row

BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {
    "bind": bench_bind.rows,
    "check": bench_check.rows,
    "enqcmd": bench_enqcmd.rows,
    "import": bench_import.rows,
    "pasid": bench_pasid.rows,
    "replay": bench_replay.rows,
    "smmu": bench_smmu.rows,
    "start": bench_start.rows,
    "vtd": bench_vtd.rows,
}
VERDICTS = {None: "", True: "[green]ok[/]", False: "[red]missed[/]"}


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure pasidlab against its targets.")
    parser.add_argument("--only", metavar="NAME", choices=BENCHMARKS, help=f"run one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, for programs")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(BENCHMARKS)
    rows: list[Row] = []
    for number, name in enumerate(names, start=1):
        for row in _with_progress(f"[{number}/{len(names)}] {name} ", BENCHMARKS[name]()):
            rows.append(row)
            if arguments.json:
                print(json.dumps({"benchmark": name, **row.as_dict()}), flush=True)
    if not arguments.json:
        _print_table(rows)
    return 0 if all(row.met is not False for row in rows) else 1


def _with_progress(title: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Pass the rows on, one dot each; nothing runs beside a measurement."""
    start = perf_counter()
    print(title, end="", file=sys.stderr, flush=True)
    for row in rows:
        print(".", end="", file=sys.stderr, flush=True)
        yield row
    print(f" {perf_counter() - start:.1f} s", file=sys.stderr)


def _print_table(rows: list[Row]) -> None:
    missed = sum(row.met is False for row in rows)
    where = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    table = Table("name", title=f"{where}: {missed or 'no'} target{'' if missed == 1 else 's'} missed")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("target", justify="right")
    table.add_column("")
    for row in rows:
        digits = 0 if row.value >= 1_000 else 3 if row.unit == "s" else 2
        table.add_row(row.name, f"{row.value:,.{digits}f}", row.unit, row.target_text, VERDICTS[row.met])
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


if __name__ == "__main__":
    sys.exit(main())

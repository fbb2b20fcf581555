"""Wall time of replaying 2,400 recorded sequences of 60 steps, reading included.

They are the records of `tests/data/binds_*.jsonl`, over and over. Parsing the same file with the standard library is
the yardstick for other machines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.rows import Row
from pasidlab.conform import conform_file

DATA = Path(__file__).parent.parent / "tests" / "data"
SEQUENCES = 2_400
STEPS = 60
ROUNDS = 3
MAX_SECONDS = ("<", 10.0)


def rows() -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        path.write_text("".join(islice(cycle(_records()), SEQUENCES)))
        times = [(_wall_seconds(lambda: _replay(path)), _wall_seconds(lambda: _parse(path))) for _ in range(ROUNDS)]
    seconds = median(replay for replay, _ in times)
    yield Row(f"replay of {SEQUENCES:,} sequences of {STEPS} steps", seconds, "s", MAX_SECONDS)
    yield Row("replay, one step", seconds / (SEQUENCES * STEPS) * 1e6, "us")
    yield Row("replay / json.loads of the same records", median(replay / parse for replay, parse in times), "x")


def _records() -> list[str]:
    paths = sorted(DATA.glob("binds_*.jsonl"))
    if not paths:
        raise FileNotFoundError(f"{DATA}/binds_*.jsonl: no such file; run from a source tree")
    return [line for path in paths for line in path.read_text().splitlines(keepends=True)]


def _replay(path: Path) -> None:
    summary = conform_file(path)
    if (summary.sequences, summary.steps) != (SEQUENCES, SEQUENCES * STEPS):
        raise ValueError(f"{summary.sequences} sequences with {summary.steps} steps: not what the target speaks of")
    if summary.differences:
        raise ValueError(f"the model differs from the records, so its time says nothing:\n{summary.differences[0]}")


def _parse(path: Path) -> None:
    with path.open() as lines:
        for line in lines:
            json.loads(line)


def _wall_seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start

"""Wall time of the whole process `pasidlab --help`, beside that of a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.rows import Row

ROUNDS = 15
MAX_SECONDS = ("<", 0.5)


def rows() -> Iterator[Row]:
    script = Path(sys.executable).with_name("pasidlab")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "pasidlab"]
    _seconds([*command, "--help"])  # so that the bytecode is compiled
    times = [(_seconds([*command, "--help"]), _seconds([sys.executable, "-c", "pass"])) for _ in range(ROUNDS)]
    yield Row("pasidlab --help, whole process", median(ours for ours, _ in times), "s", MAX_SECONDS)
    yield Row("python -c pass, whole process", median(bare for _, bare in times), "s")
    yield Row("pasidlab --help / python -c pass", median(ours / bare for ours, bare in times), "x")


def _seconds(command: list[str]) -> float:
    start = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start

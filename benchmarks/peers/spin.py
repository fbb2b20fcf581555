"""Runs the Promela model of the abstract machine: Spin makes a verifier in C of it, a C compiler a program of that.

Only the verifier is timed, not the making of it. Flags: `-O2 -DSAFETY -DNOFAIR -DNOREDUCE`, since there is one process
and nothing to reduce; depth first with an exact hash table is the fastest exact search of this model (`-DBFS` and
`-DCOLLAPSE` take longer). Spin has no symmetry of its own: it searches what `pasidlab check --no-symmetry` does.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.sizes import Sizes
from pasidlab.errors import InputError

MODEL = Path(__file__).with_name("machine.pml")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-DSAFETY", "-DNOFAIR", "-DNOREDUCE", "-w")
DRIVER = {"stop": 1, "drain": 2, "unbind": 3}
IOMMU = {"table": 1, "iotlb": 2, "atc": 3}
ACTIONS = {
    "bind": "CAN_BIND",
    "unbind": "CAN_UNBIND",
    "mmap_portal": "CAN_MAP",
    "submit": "CAN_SUBMIT",
    "exit": "CAN_EXIT",
    "page_request": "CAN_ASK",
}
MOST_PROCESSES, MOST_TASKS, MOST_DEVICES = 4, 3, 4
"""What the model has actions for."""


class SpinCounts(NamedTuple):
    """What the verifier found, in so many seconds of CPU time; without the state and transitions before the start."""

    states: int
    transitions: int
    errors: int
    seconds: float
    mebibytes: float


def missing() -> str | None:
    """Say what is not installed; None when Spin can run."""
    if shutil.which("spin") is None:
        return "spin is not installed"
    return None if _compiler() else f"no C compiler ({', '.join(COMPILERS)})"


def _compiler() -> str | None:
    return next((name for name in COMPILERS if shutil.which(name)), None)


def verify(sizes: Sizes, *, flags: tuple[str, ...] = FLAGS, depth: int = 10_000_000, hash_bits: int = 25) -> SpinCounts:
    """Search a world with Spin; up to the first error, if there is one."""
    compiler = _compiler()
    assert compiler is not None
    with tempfile.TemporaryDirectory() as directory:
        _run(["spin", *_definitions(sizes), *_ways(flags), "-a", str(MODEL)], directory)
        _run([compiler, *flags, "-o", "pan", "pan.c"], directory)
        start = _children_seconds()
        output = _run(["./pan", "-E", f"-m{depth}", f"-w{hash_bits}"], directory)
        seconds = _children_seconds() - start
    return SpinCounts(
        states=int(_value(output, r"([\d.e+]+) states, stored")) - 1,
        transitions=int(_value(output, r"([\d.e+]+) transitions \(=")) - 2,
        errors=int(_value(output, r"errors: (\d+)")),
        seconds=seconds,
        mebibytes=_value(output, r"([\d.e+]+)\s+total actual memory usage"),
    )


def _children_seconds() -> float:
    """Return the CPU time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: list[str], directory: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command[:1])} failed: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def _value(output: str, pattern: str) -> float:
    found = re.search(pattern, output)
    if found is None:
        raise InputError(f"the verifier's output has no {pattern!r}: {output[-500:]}")
    return float(found[1])


def _ways(flags: tuple[str, ...]) -> Iterator[str]:
    """Yield what the model wants to know of the verifier."""
    if "-DBFS" in flags:
        yield "-DWITH_BFS"


def _definitions(sizes: Sizes) -> Iterator[str]:
    """Yield what the model wants to know of a world."""
    processes, devices, tasks = len(sizes.tasks), len(sizes.devices), sizes.tasks[0]
    if processes > MOST_PROCESSES or devices > MOST_DEVICES or tasks > MOST_TASKS or len(set(sizes.tasks)) > 1:
        raise InputError("the Promela model has no room for this world")
    values: dict[str, int] = {
        "P": processes,
        "T": tasks,
        "D": devices,
        "STEPS": len(sizes.driver),
        "SYNCS": len(sizes.iommu),
        "WINDOWS": sizes.windows,
        "GUARD": sizes.guard,
        "CARRIES": sizes.carries,
    }
    for place in range(3):
        values[f"STEP_{place}"] = DRIVER[sizes.driver[place]] if place < len(sizes.driver) else 0
        values[f"SYNC_{place}"] = IOMMU[sizes.iommu[place]] if place < len(sizes.iommu) else 0
    for place, device in enumerate(sizes.devices):
        values[f"BOUND_{place}"] = device.bound
        values[f"OWN_{place}"] = device.own_numbers
        values[f"PORTAL_{place}"] = device.portal
        values[f"ATS_{place}"] = device.ats
    values |= {definition: name in sizes.actions for name, definition in ACTIONS.items()}
    yield from (f"-D{name}={int(value)}" for name, value in values.items())

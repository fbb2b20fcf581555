"""`pasidlab check`: transitions a second, a world of ten million states, and other searches of the same machine.

The peers are a search written by hand in Python and a Promela model for Spin (`benchmarks.peers`). They must find as
many states and transitions as the compiled search (Spin as many as it does without symmetry) before anything is said of
them; all look for the same broken properties. Ratios to peers are in CPU time, since each uses one core; two workers
are held against one in wall time. Compiling, Numba's as well as Spin's, is not timed.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

from benchmarks.peers import python_bfs, spin
from benchmarks.peers.sizes import Sizes, sizes_of
from benchmarks.rows import Row, cpu_seconds
from pasidlab.explore.compiled.engine import search
from pasidlab.explore.verdict import Found, Limits
from pasidlab.explore.wanted import always
from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES

WORLDS = Path(__file__).parent / "worlds"
SCHEME = "mainline"
ROUNDS = 3
MIN_RATE = (">=", 2.0)
MAX_SECONDS, MAX_MEMORY = ("<=", 90.0), ("<=", 2_048.0)
MIN_TIMES_PYTHON, MIN_TIMES_SPIN, MIN_TIMES_ONE = (">=", 30.0), (">=", 5.0), (">=", 1.6)
MIB = 1 << 20


class Run(NamedTuple):
    """One search in a process of its own: what it found, its CPU time, and the most memory that the process had."""

    found: Found
    cpu: float
    peak: float


def rows() -> Iterator[Row]:
    yield from _large_rows()
    yield from _peer_rows()


def _search(world: World, *, symmetry: bool = True, workers: int = 1) -> Found:
    found = search(world, SCHEMES[SCHEME], always(world), Limits(), symmetry=symmetry, workers=workers)
    if not found.complete or found.counterexamples:
        raise ValueError(f"{world.title}: was to hold, and does not")
    return found


# --- a large world ---------------------------------------------------------------------------------------------------


def _large_rows() -> Iterator[Row]:
    """Search the same world with one worker and with two, each in a process of its own."""
    runs = [_run_alone("ten_million.toml", workers) for workers in (1, 2)[: os.cpu_count()]]
    found = runs[0].found
    yield Row(f"check, {found.states:,} states", found.states, "states")
    yield Row("check, one core", found.transitions / runs[0].cpu / 1e6, "million transitions/s", MIN_RATE)
    yield Row(f"check, {found.states:,} states, to the verdict", found.seconds, "s", MAX_SECONDS)
    yield Row(f"check, {found.states:,} states, peak of the process", runs[0].peak, "MiB", MAX_MEMORY)
    yield Row(f"check, {found.states:,} states, visited set", found.memory / MIB, "MiB")
    if len(runs) > 1:
        if runs[1].found.states != found.states or runs[1].found.transitions != found.transitions:
            raise ValueError("two workers found other states than one")
        yield Row("check, two workers / one", found.seconds / runs[1].found.seconds, "x", MIN_TIMES_ONE)


def _run_alone(name: str, workers: int) -> Run:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, name, workers).result()


def _run(name: str, workers: int) -> Run:
    """Search a world once the compiled code is there."""
    _search(World.load(WORLDS / "compared.toml"), workers=workers)
    world = World.load(WORLDS / name)
    start = process_time()
    found = _search(world, workers=workers)
    cpu = process_time() - start
    return Run(found, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB)


# --- peers -----------------------------------------------------------------------------------------------------------


def _peer_rows() -> Iterator[Row]:
    """Time the compiled search before and after the long searches of the peers, since the machine may change."""
    world = World.load(WORLDS / "compared.toml")
    sizes, found = sizes_of(world, SCHEME), _search(world)
    times = _times(world)
    python = _python_search(sizes, found)
    spun = _spin_search(world, sizes)
    ours = median([*times, *_times(world)])
    yield Row(f"check, {found.states:,} states", ours, "s")
    yield Row("by hand in Python", found.transitions / python / 1e6, "million transitions/s")
    yield Row("by hand in Python / check", python / ours, "x", MIN_TIMES_PYTHON)
    if spun is not None:
        yield Row("Spin, no symmetry", spun.transitions / spun.seconds / 1e6, "million transitions/s")
        yield Row("Spin to the same verdict / check", spun.seconds / ours, "x", MIN_TIMES_SPIN)


def _times(world: World) -> list[float]:
    return [cpu_seconds(lambda: _search(world)) for _ in range(ROUNDS)]


def _python_search(sizes: Sizes, found: Found) -> float:
    """Return the seconds of the Python search, which must find the same."""
    start = process_time()
    counts = python_bfs.search(sizes)
    seconds = process_time() - start
    if counts != (found.states, found.transitions, found.depth, frozenset()):
        raise ValueError(f"the Python search found something else: {counts}, not {found}")
    return seconds


def _spin_search(world: World, sizes: Sizes) -> spin.SpinCounts | None:
    """Return what Spin found, which must be what is found without symmetry; None where it is not installed."""
    missing = spin.missing()
    if missing:
        print(f"({missing}: not compared)", end="", file=sys.stderr)
        return None
    counts, found = spin.verify(sizes), _search(world, symmetry=False)
    if (counts.states, counts.transitions, counts.errors) != (found.states, found.transitions, 0):
        raise ValueError(f"Spin found something else: {counts}, not {found}")
    return counts

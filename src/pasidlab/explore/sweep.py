"""Many independent searches at once: worlds, schemes, sizes and options, on local processes or on a dask cluster.

What comes back is in the order of the searches, and the same wherever they ran, but for seconds. A search that is
interrupted says what it covered; those that had not begun are missing.

Decided here: each local process has one thread of the compiled engine, since the searches are many; what they need
compiled is compiled before they start, once and not by each. Ctrl-C reaches a local search through an event that it
looks at whenever it tells its progress; one that does not look up for some seconds is ended. A search that a cluster
has begun goes on there up to its own bounds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pasidlab.errors import InputError
from pasidlab.explore.check import Plan, Verdict, prepare, verdicts
from pasidlab.explore.verdict import Progress, Status
from pasidlab.explore.world import World
from pasidlab.schemes import find_scheme

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

CLUSTER_TIMEOUT = 10.0
"""Seconds within which a cluster's scheduler must answer."""
ADDRESS = r"inproc://\S+|((tcp|tls|wss?|ucxx?)://)?([^\s:/\[\]]+|\[[0-9a-fA-F:.%]+\]):\d{1,5}"
"""What an address of a scheduler looks like."""
LAST_WORDS = 5.0
"""Seconds that a search has after Ctrl-C to say what it covered."""


class Search(NamedTuple):
    """One search: a world, the name of a scheme (or FILE.py:CLASS), and how to search."""

    world: World
    scheme: str
    plan: Plan = Plan()


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep came to: a verdict for each search, None for one that an interruption left out."""

    verdicts: tuple[Verdict | None, ...]
    interrupted: bool


Done = Callable[[int, int], None]
"""Told, after each search, how many of how many are done."""


def sweep(
    searches: Sequence[Search],
    *,
    workers: int | None = None,
    cluster: str | None = None,
    done: Done | None = None,
    ready: Callable[[], None] | None = None,
) -> Swept:
    """Do searches on `workers` local processes (None: one for each CPU), or on the cluster at an address.

    `ready` is called when local searches begin, since what they need may have to be compiled before. InputError for
    what is wrong with a search, and for a cluster that does not answer.
    """
    tell = done or _ignore
    if cluster is not None:
        return _on_cluster(searches, cluster, tell)
    try:
        _prepare(searches)
    except KeyboardInterrupt:
        return Swept((None,) * len(searches), interrupted=True)
    (ready or _ignore)()
    count = min(workers or os.cpu_count() or 1, len(searches))
    return _in_turn(searches, tell) if count <= 1 else _on_processes(searches, count, tell)


def _ignore(*_: int) -> None:
    """Tell nobody."""


def _prepare(searches: Sequence[Search]) -> None:
    """Have compiled what the searches need: all that a compiled search needs is the same."""
    for search in searches:
        if prepare(search.world, find_scheme(search.scheme), search.plan):
            return


def run_search(search: Search, progress: Callable[[str, Progress], None] | None = None) -> Verdict:
    """Do one search."""
    return next(verdicts(search.world, [find_scheme(search.scheme)], search.plan, progress))


# --- in this process -----------------------------------------------------------------------------------------------


def _in_turn(searches: Sequence[Search], done: Done) -> Swept:
    results: list[Verdict | None] = []
    interrupted = False
    try:
        for search in searches:
            verdict = run_search(search)
            results.append(verdict)
            if verdict.status is Status.INTERRUPTED:
                interrupted = True
                break
            done(len(results), len(searches))
    except KeyboardInterrupt:
        interrupted = True
    results += [None] * (len(searches) - len(results))
    return Swept(tuple(results), interrupted)


# --- on local processes --------------------------------------------------------------------------------------------

_stopped: Event | None = None
"""In a worker process: set when the sweep was interrupted."""


def _on_processes(searches: Sequence[Search], count: int, done: Done) -> Swept:
    """Spawn processes, which do not hear Ctrl-C themselves: this one does, and tells them."""
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    others = set(multiprocessing.active_children())
    try:
        with ProcessPoolExecutor(count, context, _begin, (stopped,)) as pool:
            with _without_ctrl_c():
                futures = [pool.submit(_run_here, search) for search in searches]
            interrupted = _wait_for_all(futures, done, stopped)
            if interrupted:
                _end(futures, others)
        return Swept(tuple(_verdict_of(future, interrupted=interrupted) for future in futures), interrupted)
    except BrokenProcessPool:
        raise InputError("a search's process was killed, as happens when memory runs out; try fewer workers") from None


def _end(futures: Sequence[Future[Verdict | None]], others: set[Any]) -> None:
    """Let searches say what they covered, and end the processes of those that do not, as one that compiles."""
    try:
        late = wait(futures, timeout=LAST_WORDS).not_done
    except KeyboardInterrupt:
        late = set(futures)
    if late:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()


def _verdict_of(future: Future[Verdict | None], *, interrupted: bool) -> Verdict | None:
    """Return what a search came to; None for one that an interruption left out or ended."""
    if future.cancelled() or (interrupted and isinstance(future.exception(), BrokenProcessPool)):
        return None
    return future.result()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back; processes that start meanwhile never hear it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_all(futures: Sequence[Future[Verdict | None]], done: Done, stopped: Event) -> bool:
    """Tell of each search that is done, and return whether they were interrupted; one that is wrong raises here.

    Either way nothing new begins then, and what runs is left.
    """
    waiting = set(futures)
    try:
        while waiting:
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                future.result()
            done(len(futures) - len(waiting), len(futures))
    except KeyboardInterrupt:
        return True
    finally:
        stopped.set()
        for future in waiting:
            future.cancel()
    return False


def _begin(stopped: Event) -> None:
    """Prepare a worker process."""
    global _stopped
    _stopped = stopped


def _run_here(search: Search) -> Verdict | None:
    """Do one search in a worker process; None when the sweep was interrupted before it began."""
    return None if _is_stopped() else run_search(search, _look_up)


def _is_stopped() -> bool:
    return _stopped is not None and _stopped.is_set()


def _look_up(scheme: str, progress: Progress) -> None:
    """Leave a search as Ctrl-C does, if the sweep was interrupted."""
    if _is_stopped():
        raise KeyboardInterrupt


# --- on a cluster --------------------------------------------------------------------------------------------------


def _on_cluster(searches: Sequence[Search], address: str, done: Done) -> Swept:
    """Give the searches to a dask.distributed scheduler."""
    distributed = _distributed()
    with _client(distributed, address) as client:
        futures = [client.submit(run_search, search, pure=False) for search in searches]
        count, interrupted = 0, False
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                _result(future, address)
                count += 1
                done(count, len(searches))
        except KeyboardInterrupt:
            interrupted = True
        finished = [future.status == "finished" for future in futures]
        results = tuple(future.result() if ready else None for future, ready in zip(futures, finished, strict=True))
        client.cancel([future for future, ready in zip(futures, finished, strict=True) if not ready])
    return Swept(results, interrupted)


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise InputError("--cluster: needs dask.distributed; pip install 'pasidlab[cluster]'") from None


def _client(distributed: Any, address: str) -> Any:
    """Return a connection to the scheduler."""
    if not re.fullmatch(ADDRESS, address):
        raise _no_answer(address, "an address is HOST:PORT or PROTOCOL://HOST:PORT, as tcp://127.0.0.1:8786")
    try:
        return distributed.Client(address, timeout=CLUSTER_TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        raise _no_answer(address, reason) from None


def _no_answer(address: str, reason: str) -> InputError:
    return InputError(f"--cluster {address!r}: no dask scheduler answers there: {reason}")


def _result(future: Any, address: str) -> Verdict:
    """Return a search's verdict, or raise what it raised; InputError for a cluster without this package."""
    try:
        verdict: Verdict = future.result()
    except ImportError as error:
        raise InputError(f"--cluster {address!r}: a worker has no pasidlab: {error}") from None
    return verdict

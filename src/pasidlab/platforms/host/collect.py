"""Read files of a running host one by one, none of which may stop the others.

A file of sysfs or debugfs can wait for its driver, and Python cannot end a read that waits in the kernel. So
threads read them, some in turn, and a file that gives no answer is left behind with its thread: the next one goes on
after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import NamedTuple

from pasidlab.platforms.host.wanted import Wanted

PATIENCE = 5.0
"""Seconds that a file may take."""
MOST_WAITING = 8
"""How many files may give no answer before all that follow are given up."""
TOGETHER = 32
"""How many files a thread reads before another is asked."""

Get = Callable[[str, int], bytes]


class Task(NamedTuple):
    """A file to read."""

    path: str
    wanted: Wanted


class Answer(NamedTuple):
    """What reading a file gave: its bytes, or why there are none."""

    task: Task
    data: bytes | None
    error: str


def collect(tasks: Sequence[Task], get: Get, patience: float = PATIENCE) -> Iterator[Answer]:
    """Yield an answer for each task, in order; `get` raises OSError or ValueError that says why not."""
    at, waited = 0, 0
    while at < len(tasks) and waited < MOST_WAITING:
        answers: SimpleQueue[Answer] = SimpleQueue()
        stop = Event()
        some = tasks[at : at + TOGETHER]
        Thread(target=_work, args=(some, get, answers, stop), daemon=True).start()
        for task in some:
            at += 1
            answer = _next(answers, patience)
            yield answer or Answer(task, None, f"gave no answer in {patience:g} seconds")
            if answer is None:
                waited += 1
                stop.set()
                break
    yield from (Answer(task, None, "not tried, since too many files gave no answer") for task in tasks[at:])


def _next(answers: SimpleQueue[Answer], patience: float) -> Answer | None:
    try:
        return answers.get(timeout=patience)
    except Empty:
        return None


def _work(tasks: Sequence[Task], get: Get, answers: SimpleQueue[Answer], stop: Event) -> None:
    for task in tasks:
        if stop.is_set():
            return
        answers.put(_answer(task, get))


def _answer(task: Task, get: Get) -> Answer:
    try:
        return Answer(task, get(task.path, task.wanted.most), "")
    except OSError as error:
        return Answer(task, None, error.strerror or str(error))
    except ValueError as error:
        return Answer(task, None, str(error))

"""What several commands share: options of schemes, where to print, and records as JSON."""

from __future__ import annotations

import json
import re
import sys
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from pasidlab.errors import InputError

AGAIN = 0.05
"""Seconds from a Ctrl-C that was ignored to the next."""
PATIENCE = 3.0
"""Seconds after which a search that has not begun is said to be compiled."""
COMPILING = "pasidlab: the search is being compiled, once on this machine, which takes up to a minute"


def read_options(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs, checked against the options that there are."""
    import msgspec

    from pasidlab.decode import convert
    from pasidlab.schemes import Options

    raw: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--option {pair!r}: must be KEY=VALUE")
        raw[key] = int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) else value
    try:
        checked = convert(raw, Options)
    except InputError as error:
        raise InputError(f"--option {error}") from None
    return {key: value for key, value in msgspec.structs.asdict(checked).items() if key in raw}


def at_least_one(option: str, value: int | None, most: int | None = None) -> int | None:
    """Return a number that a user gave, if any; InputError for one below 1 or above `most`."""
    if value is not None and value < 1:
        raise InputError(f"{option} {value}: must be at least 1")
    if value is not None and most is not None and value > most:
        raise InputError(f"{option} {value}: must be at most {most}")
    return value


def positive(option: str, value: float | None) -> float | None:
    """Return a number that a user gave, if any; InputError for one that is not above 0."""
    if value is not None and not value > 0:
        raise InputError(f"{option} {value}: must be more than 0")
    return value


@contextmanager
def patience() -> Iterator[Callable[[], None]]:
    """Say on standard error what takes so long, unless what this yields is called within a few seconds.

    A Ctrl-C that comes in a callback of the compiler, where Python ignores it, comes again a moment later.
    """
    timer = Timer(PATIENCE, print, (COMPILING,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    before, sys.unraisablehook = sys.unraisablehook, _heard
    try:
        yield timer.cancel
    finally:
        sys.unraisablehook = before
        timer.cancel()


def _heard(ignored: Any) -> None:
    """Let a Ctrl-C that was ignored come again outside what ignored it; tell of anything else."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        Timer(AGAIN, interrupt_main).start()
    else:
        sys.__unraisablehook__(ignored)


def print_json(record: dict[str, Any]) -> None:
    """Print a record and its newline in one piece, so that Ctrl-C does not come between the two."""
    print(f"{json.dumps(record)}\n", end="")


def console(*, stderr: bool = False, width: int = 160) -> Any:
    """Return where to print; `width` counts where there is no terminal."""
    from rich.console import Console

    terminal = Console(stderr=stderr, emoji=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, emoji=False, width=width)

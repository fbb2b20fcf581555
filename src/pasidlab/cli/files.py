"""Files that a command writes: whole or not at all, and known to be writable before a long search."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pasidlab.errors import InputError

STANDARD_OUTPUT = Path("-")
"""What stands for it where a file is asked for."""


def check_writable(option: str, path: Path) -> None:
    """Raise InputError where a file could not be written."""
    folder = _place(path).parent
    if path.is_dir():
        raise InputError(f"{option} {str(path)!r}: is a directory")
    if not folder.is_dir():
        raise InputError(f"{option} {str(path)!r}: there is no directory {folder}")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {str(path)!r}: may not be written")
    if not path.exists() or path.is_file():
        _try_beside(option, path)


def check_folder(option: str, path: Path) -> None:
    """Raise InputError where no file could be written into a directory."""
    _try_beside(option, path / "file")


def _try_beside(option: str, path: Path) -> None:
    """Make and remove the file that `write_whole` would write first."""
    beside = _beside(_place(path))
    try:
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise InputError(f"{option} {str(path)!r}: may not be written: {error.strerror}") from None


def write_all(files: Iterable[tuple[str, Path, str]]) -> None:
    """Write files that options named; InputError, once all others are written, for those that cannot be."""
    failed = []
    for option, path, text in files:
        try:
            write_whole(path, text)
        except OSError as error:
            failed.append(f"{option} {str(path)!r}: cannot be written: {error.strerror}")
    if failed:
        raise InputError("; ".join(failed))


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and move it there; what is no file, as /dev/stdout, is written to as it is."""
    path = _place(path)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    beside = _beside(path)
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _place(path: Path) -> Path:
    """Return where links lead; `Path.resolve` raises for links that lead in a circle."""
    return Path(os.path.realpath(path))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")

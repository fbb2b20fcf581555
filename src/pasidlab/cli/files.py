"""Files that a command writes: whole or not at all, and known to be writable before a long search."""

from __future__ import annotations

import os
from pathlib import Path

from pasidlab.errors import InputError


def check_writable(option: str, path: Path) -> None:
    """Raise InputError where a file could not be written."""
    folder = path.resolve().parent
    if path.is_dir():
        raise InputError(f"{option} {str(path)!r}: is a directory")
    if not folder.is_dir():
        raise InputError(f"{option} {str(path)!r}: there is no directory {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{option} {str(path)!r}: may not be written")


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and move it there; what is no file, as /dev/stdout, is written to as it is."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

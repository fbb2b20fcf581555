"""The records of real kernels: one JSON object a line, plain or gzipped; the schema is described in docs/records.md.

Lines are read one at a time, so that a file may be larger than memory.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from pasidlab.errors import InputError

MAX_LINE = 16 * 1024 * 1024
"""Longest line of a record file, in bytes."""


class Instance(msgspec.Struct, frozen=True):
    """An IOMMU instance of a record."""

    id: int
    max_pasids: int
    ret: int = 0
    ops: str = "usual"


class Dev(msgspec.Struct, frozen=True):
    """A platform device of a record; `bits` and `group` -1 are none, `inst` -1 is behind no IOMMU."""

    id: int
    inst: int
    bits: int
    group: int
    max_pasids: int
    ret: int = 0


class Sequence(msgspec.Struct, frozen=True):
    """One recorded sequence: it starts from a fresh kernel."""

    seq: int
    kind: str
    kernel: str
    insts: list[Instance]
    devs: list[Dev]
    steps: list[tuple[list[Any], dict[str, Any]]]


def read_sequences(path: Path) -> Iterator[tuple[int, Sequence]]:
    """Yield line number and sequence."""
    decoder = msgspec.json.Decoder(Sequence)
    with _readable(path) as stream:
        for number in range(1, 2**31):
            line = stream.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise InputError(f"{path}:{number}: the line is longer than {MAX_LINE} bytes")
            if not line.strip():
                continue
            try:
                yield number, decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InputError(f"{path}:{number}: not a recorded sequence: {error}") from None


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == b"\x1f\x8b":
                with gzip.open(raw) as stream:
                    yield cast("BinaryIO", stream)
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}") from None

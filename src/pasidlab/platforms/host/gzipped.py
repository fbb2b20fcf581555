"""What gzip packed, unpacked within bounds: a kernel's configuration, a log, a table that somebody sends."""

from __future__ import annotations

import gzip
import io
import zlib

GZIP_MAGIC = b"\x1f\x8b"
"""What a file begins with that gzip packed."""


def unpacked(data: bytes, most: int) -> bytes:
    """Unpack what gzip packed; ValueError for what cannot be unpacked to its end, or has more than `most` bytes."""
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not compressed by gzip, or cut short: {error}") from None
    if len(content) > most:
        raise ValueError(f"more than {most >> 20} MiB when unpacked")
    return content

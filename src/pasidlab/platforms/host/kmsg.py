"""The kernel's log from /dev/kmsg, as `dmesg` prints it: a time in brackets, then the text.

Source: Documentation/ABI/testing/dev-kmsg (v7.3): a record a read, `level,number,microseconds,flags;text`, then lines
of further facts that begin with a space; a read that was overtaken gives EPIPE and goes on. Decided here: the device is
opened without waiting, so that the end of the log is an end. Not read: syslog(2), which Python cannot call, and the
journal, which is another program's.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator

DMESG = "dmesg"
"""What the kernel's log is called among the files of a host, where it is none."""
DEVICE = "dev/kmsg"
MOST_BYTES = 32 << 20
"""How much of the log is read; a kernel keeps a few MiB at most."""
_RECORD_BYTES = 16 << 10
_RECORD = re.compile(r"(?P<head>\d+),\d+,(?P<time>\d+),[^;]*;(?P<text>.*)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def read_kmsg(device: str | os.PathLike[str]) -> str | None:
    """Return the log as text, a line a record; None when the device is none, or may not be read."""
    try:
        if not stat.S_ISCHR(os.stat(device).st_mode):
            return None
        handle = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return "".join(f"{_line(record)}\n" for record in _records(handle))
    finally:
        os.close(handle)


def _records(handle: int) -> Iterator[str]:
    """Yield what is in the log now, bounded."""
    left = MOST_BYTES
    while left > 0:
        try:
            raw = os.read(handle, _RECORD_BYTES)
        except OSError as error:
            if error.errno == errno.EPIPE:
                left -= _RECORD_BYTES
                continue
            return
        if not raw:
            return
        left -= len(raw)
        yield raw.decode("utf-8", errors="replace").split("\n", 1)[0]


def _line(record: str) -> str:
    """Return a record as dmesg prints it."""
    match = _RECORD.fullmatch(record)
    if match is None:
        return record
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), match["text"])
    shown = "".join(char if char.isprintable() else " " for char in text)
    return f"[{int(match['time']) / 1_000_000:12.6f}] {shown}"

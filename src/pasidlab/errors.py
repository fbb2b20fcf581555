"""What Linux returns, and what a user of pasidlab can do wrong.

Three kinds of failure exist and are never mixed: an `Errno` is data, the answer of a kernel call; a hardware
fault is data too, an event of the device or IOMMU model; an exception means bad input or a broken model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class Errno(IntEnum):
    """Error numbers of Linux that the modelled calls, or a failing driver, can return (positive)."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    EINTR = 4
    EIO = 5
    ENXIO = 6
    E2BIG = 7
    ENOEXEC = 8
    EBADF = 9
    ECHILD = 10
    EAGAIN = 11
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    EXDEV = 18
    ENODEV = 19
    EINVAL = 22
    ENOTTY = 25
    ENOSPC = 28
    EDOM = 33
    ERANGE = 34
    ENOSYS = 38
    ENODATA = 61
    EPROTO = 71
    EOVERFLOW = 75
    EMSGSIZE = 90
    EOPNOTSUPP = 95
    ENOBUFS = 105
    ETIMEDOUT = 110
    EREMOTEIO = 121
    EDQUOT = 122
    ECANCELED = 125
    EPROBE_DEFER = 517
    ENOTSUPP = 524


class PasidlabError(Exception):
    """Base of every exception that pasidlab raises on purpose."""


class InputError(PasidlabError):
    """The user's file, argument or scheme is wrong; the message names it, and says what is allowed."""


class ModelError(PasidlabError):
    """An invariant of the model does not hold: a defect of pasidlab, or of a user's own scheme."""


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Name a file in front of what an InputError says is wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

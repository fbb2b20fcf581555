"""How the functions of a batch are compiled.

Decided here: only entries can be called from Python. What they call has no wrapper for it, which would take a quarter
of the time in which everything is compiled; a call from Python ends the interpreter, and a test calls `py_func`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast
from zlib import crc32

import numba

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"_nrt": False}
"""No reference counts: Python holds every array until a batch is done, and counting takes longer than translating."""
_INNER = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""What only compiled code calls."""


def compiled(function: F) -> F:
    """Compile a function into those that call it."""
    return cast(F, numba.njit(forceinline=True, **_INNER)(function))


def compiled_within(function: F) -> F:
    """Compile a function as if it stood in those that call it, for a few lines around calls of what is long.

    Otherwise all that is called would be optimized once more for each function on the way to it.
    """
    return cast(F, numba.njit(inline="always", **_INNER)(function))


def compiled_once(function: F) -> F:
    """Compile a function on its own, where it would be too long to be repeated."""
    return cast(F, numba.njit(**_INNER)(function))


def compiled_entry(function: F) -> F:
    """Compile a function that Python calls, and keep it on disk where something can be kept."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True, **_OPTIONS)(function))
    except RuntimeError:  # neither beside the source nor in the user's cache can a file be made
        return cast(F, numba.njit(nogil=True, **_OPTIONS)(function))


def built_from(modules: tuple[ModuleType, ...], *constants: object) -> int:
    """Return a number that stands for the sources of some modules, and for constants that come from elsewhere.

    Numba compiles an entry anew when its file changes or a variable that it takes from there, but not when what it
    calls, or the constants in that, come from elsewhere and change there; an entry that closes over this number does.
    """
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return crc32(repr(constants).encode(), crc32(sources))

"""What a person types for an errno: -28, 28, ENOSPC, or a signal."""

from __future__ import annotations

import re

from pasidlab.errors import Errno, InputError
from pasidlab.rules import Signal

SIGNALS = tuple(signal.value for signal in Signal)
_ALIASES = {"ENOTSUP": "EOPNOTSUPP", "EWOULDBLOCK": "EAGAIN", "#GP": "SIGSEGV"}


def is_result(text: str) -> bool:
    """Whether a text is meant as an errno or a signal, and not as a line of a log."""
    return re.fullmatch(r"-?\d{1,4}|E[A-Z0-9]+|SIG[A-Z]+|#GP", text.strip().upper()) is not None


def read_result(text: str | int) -> str:
    """Return the name of an errno or signal; InputError says what is allowed."""
    word = str(text).strip().upper()
    if re.fullmatch(r"-?\d{1,4}", word):
        number = abs(int(word))
        if number in Errno._value2member_map_:
            return Errno(number).name
        raise InputError(f"ERRNO {text!r}: no errno of the modelled calls has this number")
    name = _ALIASES.get(word, word)
    if name in Errno.__members__ or name in SIGNALS:
        return name
    raise InputError(f"ERRNO {text!r}: neither an errno (as -28, 28 or ENOSPC) nor a signal ({', '.join(SIGNALS)})")

"""Numbers in files of sysfs, as kernel drivers print them."""

from __future__ import annotations

import re

from pasidlab.platforms.host.tree import Tree, read_text

_HEX, _DECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}"), re.compile(r"[0-9]{1,19}")


def read_number(tree: Tree, path: str) -> int | None:
    """Return the number in a file, decimal or hexadecimal behind 0x; None where there is none."""
    text = read_text(tree, path) or ""
    if _HEX.fullmatch(text):
        return int(text, 16)
    return int(text) if _DECIMAL.fullmatch(text) else None


def read_flag(tree: Tree, path: str) -> bool | None:
    """Return whether a file's number is another than 0; None where there is none."""
    value = read_number(tree, path)
    return None if value is None else value != 0

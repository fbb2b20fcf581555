"""Write a scenario or a machine as TOML, laid out like those that people write: keys, then tables, then blocks.

Python reads TOML but does not write it, and libraries that do put each table by model or scheme on lines of its own,
where a scenario has it on one. What a scenario is made of is little: text, numbers, booleans, lists, and tables. A
value can have a comment behind it, which says where it comes from.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pasidlab.errors import ModelError

BARE = re.compile(r"[A-Za-z0-9_-]+")
COMMENT_COLUMN = 32
"""Where comments begin, unless the value reaches further."""


@dataclass(frozen=True, slots=True)
class Commented:
    """A value with a comment of one line; control characters in the comment are shown, not written."""

    value: Any
    comment: str


def toml_text(document: dict[str, Any]) -> str:
    """Return a document as text: first what is no table, then tables, then arrays of tables."""
    plain = [_line(key, value) for key, value in document.items() if not _is_block(value)]
    blocks = ["\n".join(plain)] if plain else []
    for key, value in document.items():
        if isinstance(value, dict):
            blocks.append(_block(f"[{_key(key)}]", value))
        elif _is_block(value):
            blocks += [_block(f"[[{_key(key)}]]", item) for item in value]
    return "\n\n".join(blocks) + "\n"


def _is_block(value: Any) -> bool:
    """Return whether a value of the document stands under a header of its own."""
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _block(header: str, table: dict[str, Any]) -> str:
    return "\n".join([header, *(_line(key, value) for key, value in table.items())])


def _line(key: str, value: Any) -> str:
    """Return a key with its value, and the comment of one that has one."""
    if not isinstance(value, Commented):
        return f"{_key(key)} = {_value(value)}"
    return f"{f'{_key(key)} = {_value(value.value)}':<{COMMENT_COLUMN}}  # {one_line(value.comment)}"


def one_line(text: str) -> str:
    """Return text that may come from a file as one line that controls no terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return _long_text(value) if "\n" in value else _text(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    raise ModelError(f"a scenario has no {type(value).__name__}")


def _text(text: str) -> str:
    """Return text in quotes; TOML has the escapes of JSON, and forbids DEL too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _long_text(text: str) -> str:
    """Return text of several lines, between lines of three quotes."""
    lines = (_text(line)[1:-1] for line in text.strip("\n").split("\n"))
    return '"""\n' + "\n".join(lines) + '\n"""'

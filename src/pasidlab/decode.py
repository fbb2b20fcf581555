"""TOML into typed structures, with messages that name file, key, value and what is allowed.

msgspec checks the types and says where; this module adds the value that stood there and the allowed ones. A text with a
pattern has a description in its type (`Meta`), which is shown in the place of the pattern.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from pasidlab.errors import InputError

MAX_BYTES = 32 * 1024 * 1024
"""Largest TOML file that is read."""

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; InputError says what is wrong with it and where."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES // 1024 // 1024} MiB, the most that is read")
    if not raw.strip():
        raise InputError(f"{path}: the file is empty")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file: byte {error.start} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not TOML that can be read: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: not TOML that can be read: {error}") from None


def convert(raw: dict[str, Any], into: type[T]) -> T:
    """Convert decoded TOML; InputError names key path, value and what is allowed."""
    try:
        return msgspec.convert(raw, into)
    except msgspec.ValidationError as error:
        raise InputError(_message(str(error), raw, into)) from None


def _message(text: str, raw: dict[str, Any], into: type[Any]) -> str:
    complaint, _, path = text.partition(" - at `$")
    # `[...]` is msgspec's "some value of a table"; the table itself is shown then.
    keys = _keys(path.rstrip("`").partition("[...]")[0])
    value, kind = _follow(raw, inspect.type_info(into), keys)
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", complaint)
    if unknown:
        key = unknown[1]
        where = f"{place}.{key}" if place else key
        shown = repr(value.get(key)) if isinstance(value, dict) else "?"
        return f"{where} = {_short(shown)}: unknown key; allowed: {_allowed(kind)}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", complaint)
    if missing:
        key = missing[1]
        where = f"{place}.{key}" if place else key
        values = _allowed(_member(kind, key))
        hint = f"; allowed: {values}" if values else f"; {place or 'the file'} has the keys {_allowed(kind)}"
        return f"{where}: missing{hint}"
    allowed = _allowed(kind)
    hint = f"; allowed: {allowed}" if allowed else ""
    described = _description(kind)
    if described and " matching regex " in complaint:
        complaint = f"expected {described}"
    # TOML has no null: leave a key out.
    complaint = complaint.replace(" | null", "").replace("Expected `str`", "expected text")
    return f"{place or 'the file'} = {_short(repr(value))}: {complaint[0].lower()}{complaint[1:]}{hint}"


def _short(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _keys(path: str) -> list[str | int]:
    found = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path)
    return [name or int(index) for name, index in found]


def _follow(value: Any, kind: inspect.Type, keys: list[str | int]) -> tuple[Any, inspect.Type]:
    """Walk value and type together as far as both go."""
    for key in keys:
        kind = _member(_chosen(kind, value), key)
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            value = None
    return value, _chosen(kind, value)


def _chosen(kind: inspect.Type, value: Any) -> inspect.Type:
    """Of a union, take the member that the value asks for: a struct by its tag, anything else as it is."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    if isinstance(value, dict):
        structs = [t for t in kind.types if isinstance(t, inspect.StructType)]
        tagged = [t for t in structs if t.tag_field and value.get(t.tag_field) == t.tag]
        if tagged or len(structs) == 1:
            return (tagged or structs)[0]
    return kind


def _member(kind: inspect.Type, key: str | int) -> inspect.Type:
    if isinstance(kind, inspect.ListType):
        return kind.item_type
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            if field.encode_name == key:
                return field.type
        if key == kind.tag_field:
            return inspect.LiteralType((kind.tag,))
    if isinstance(kind, inspect.UnionType):
        tags = tuple(
            t.tag for t in kind.types if isinstance(t, inspect.StructType) and t.tag_field == key and t.tag is not None
        )
        return inspect.LiteralType(tags) if tags else kind
    return inspect.AnyType()


def _description(kind: inspect.Type) -> str:
    """Return what a type says of itself in words, or the first such member of a union."""
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", ""))
    members = kind.types if isinstance(kind, inspect.UnionType) else ()
    return next((text for text in map(_description, members) if text), "")


def _allowed(kind: inspect.Type) -> str:
    """Say in words what a type allows; empty when msgspec's own words say enough."""
    if isinstance(kind, inspect.StructType):
        tag = [kind.tag_field] if kind.tag_field else []
        return ", ".join([*tag, *(field.encode_name for field in kind.fields)])
    if isinstance(kind, inspect.LiteralType):
        return ", ".join(str(value) for value in kind.values)
    if isinstance(kind, inspect.EnumType):
        return ", ".join(str(member.value) for member in kind.cls)
    if isinstance(kind, inspect.UnionType):
        named = (_allowed(member) for member in kind.types if not isinstance(member, inspect.StructType))
        return ", ".join(part for part in named if part)
    return ""

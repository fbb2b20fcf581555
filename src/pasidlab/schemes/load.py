"""Find a scheme by name, or a user's own in a Python file: FILE.py:CLASS."""

from __future__ import annotations

import inspect
from pathlib import Path

from pasidlab.errors import InputError
from pasidlab.rules import RULES
from pasidlab.schemes.base import Scheme
from pasidlab.schemes.hybrid import Hybrid
from pasidlab.schemes.mainline import Mainline
from pasidlab.schemes.rfc import Rfc
from pasidlab.schemes.v2 import V2
from pasidlab.user_code import load_module

SCHEMES: dict[str, type[Scheme]] = {scheme.name: scheme for scheme in (Mainline, Rfc, V2, Hybrid)}
ALL = "all"
_declared: dict[Path, set[str]] = {}
"""The rules that each user's file declared, so that it can be loaded again."""


def find_schemes(names: str) -> list[type[Scheme]]:
    """Return the schemes that a comma-separated list names, "all" being the four; InputError when one is not found."""
    found: list[type[Scheme]] = []
    for name in names.split(","):
        found += SCHEMES.values() if name.strip() == ALL else [find_scheme(name.strip())]
    return found


def find_scheme(name: str) -> type[Scheme]:
    """Return the scheme of a name, or the class that FILE.py:CLASS names."""
    if name in SCHEMES:
        return SCHEMES[name]
    path, colon, class_name = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        known = ", ".join(SCHEMES)
        raise InputError(f"scheme {name!r}: no such scheme; known: {known}, {ALL}, or FILE.py:CLASS")
    return _load(Path(path), class_name)


def _load(path: Path, class_name: str) -> type[Scheme]:
    for rule in _declared.pop(path, ()):
        del RULES[rule]
    known = set(RULES)
    module = load_module(path, "scheme")
    _declared[path] = set(RULES) - known
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Scheme)):
        own = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, Scheme) and c is not Scheme]
        listed = ", ".join(own) or "none"
        raise InputError(f"{path}: {class_name!r} is no subclass of pasidlab.schemes.Scheme in it; there are: {listed}")
    if not found.name:
        found.name = class_name.lower()
    return found

"""Find a scheme by name, or a user's own in a Python file: FILE.py:CLASS."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

from pasidlab.errors import InputError
from pasidlab.rules import RULES
from pasidlab.schemes.base import Scheme
from pasidlab.schemes.hybrid import Hybrid
from pasidlab.schemes.mainline import Mainline
from pasidlab.schemes.rfc import Rfc
from pasidlab.schemes.v2 import V2

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
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"pasidlab_user_scheme_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle, dataclasses and tracebacks look for it
    for rule in _declared.pop(path, ()):
        del RULES[rule]
    known = set(RULES)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    _declared[path] = set(RULES) - known
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Scheme)):
        own = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, Scheme) and c is not Scheme]
        listed = ", ".join(own) or "none"
        raise InputError(f"{path}: {class_name!r} is no subclass of pasidlab.schemes.Scheme in it; there are: {listed}")
    if not found.name:
        found.name = class_name.lower()
    return found

"""A user's own Python file as a module, for schemes and properties."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pasidlab.errors import InputError


def load_module(path: Path, kind: str) -> ModuleType:
    """Execute a file and return its module, named after `kind` and the file; InputError when it cannot be loaded."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"pasidlab_user_{kind}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle, dataclasses and tracebacks look for it
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module

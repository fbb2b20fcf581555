"""What a world asks for: properties by name or from a user's file, and what must be reached.

A user's property is a function in a Python file, FILE.py:FUNCTION, that returns True when it is broken: of `(state)` or
of `(before, step, after)`, each with `world` as a last parameter if it wants it. Its docstring is its rule. Whatever it
raises is an InputError that says where.

Decided here: a function must return True or False, since one that forgets to return anything would always hold.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pasidlab.errors import InputError
from pasidlab.explore.action import NAMES, Result, Step, Verb
from pasidlab.explore.properties import DEFAULT, PROPERTIES, Property
from pasidlab.explore.state import State
from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES
from pasidlab.user_code import load_module

DEFAULT_NAME = "default"
"""Stands for the properties that a world has when it names none."""
STEP_PARAMETERS = 3
LOWER = (Result.OK, Result.FAULT, Result.IGNORED)
"""Results that are written in lower case, as everywhere."""
Goal = tuple[Verb, Result]


def always(world: World, names: Iterable[str] | None = None) -> tuple[Property, ...]:
    """Return the properties that must hold: those of `names`, else the world's own, else those that every world has."""
    chosen = list(names or ()) or (list(DEFAULT) if world.always is None else world.always)
    if not chosen:
        raise InputError(f"always = []: nothing to hold; leave it out, or name some of: {_known()}")
    found: dict[str, Property] = {}
    for name in chosen:
        for one in map(find_property, DEFAULT if name == DEFAULT_NAME else (name,)):
            found[one.name] = one
    return tuple(found.values())


def find_property(name: str) -> Property:
    """Return the property of a name, or the function that FILE.py:FUNCTION names."""
    if name in PROPERTIES:
        return PROPERTIES[name]
    path, colon, function = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise InputError(f"property {name!r}: no such property; known: {_known()}")
    return _user_property(name, Path(path), function)


def _known() -> str:
    return f"{', '.join(PROPERTIES)}, {DEFAULT_NAME}, or FILE.py:FUNCTION"


def sometimes(world: World, scheme: str) -> tuple[Goal, ...]:
    """Return what must be reached under a scheme."""
    return tuple(_goal(world, scheme, text) for text in world.sometimes.get(scheme, ()))


def check_sometimes(world: World, running: Iterable[str]) -> None:
    """Raise InputError for a scheme that there is not, or something that can never be reached."""
    known = {*SCHEMES, *running}
    for scheme in world.sometimes:
        if scheme not in known:
            raise InputError(f"sometimes.{scheme}: no such scheme; known here: {', '.join(sorted(known))}")
        sometimes(world, scheme)


def goal_text(goal: Goal) -> str:
    """Write a goal as a world does."""
    return f"{goal[0].name.lower()}={result_text(goal[1])}"


def result_text(result: Result) -> str:
    """Write a result as scenarios do."""
    return result.name.lower() if result in LOWER else result.name


def _goal(world: World, scheme: str, text: str) -> Goal:
    place = f"sometimes.{scheme} = {text!r}"
    verb_name, equals, result_name = text.partition("=")
    if not equals:
        raise InputError(f"{place}: must be VERB=RESULT, as 'bind=ENOSPC'")
    verbs = {verb.name.lower(): verb for verb in Verb}
    results = {result_text(result): result for result in Result}
    if verb_name not in verbs:
        raise InputError(f"{place}: no such verb; allowed: {', '.join(verbs)}")
    if result_name not in results:
        raise InputError(f"{place}: no such result; allowed: {', '.join(results)}")
    verb = verbs[verb_name]
    if verb not in world.verbs:
        names = ", ".join(name for name, group in NAMES.items() if verb in group)
        raise InputError(f"{place}: can never be reached; add to `actions`: {names}")
    return verb, results[result_name]


def _user_property(name: str, path: Path, function_name: str) -> Property:
    """Load a user's file and wrap the function."""
    module = load_module(path, "property")
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        own = [
            one
            for one, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise InputError(f"{path}: {function_name!r} is no function in it; there are: {', '.join(own) or 'none'}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InputError(f"{path}: {function_name!r} must be a plain function, neither async nor with a yield")
    parameters = list(inspect.signature(function).parameters)
    with_world = parameters[-1:] == ["world"]
    count = len(parameters) - with_world
    test = _Guarded(function, path, with_world=with_world)
    rule = inspect.cleandoc(function.__doc__ or function_name).split("\n\n")[0].replace("\n", " ")
    if count == 1:
        return Property(name, rule, str(path), state=test)
    if count == STEP_PARAMETERS:
        return Property(name, rule, str(path), step=test)
    place = f"{path}, line {function.__code__.co_firstlineno}: {function_name}({', '.join(parameters)})"
    raise InputError(f"{place}: must take (state) or (before, step, after), and `world` behind them if it wants it")


class _Guarded:
    """A user's function, called with the world if it takes it; what goes wrong in it is the user's to mend."""

    def __init__(self, function: Callable[..., Any], path: Path, *, with_world: bool) -> None:
        self.function = function
        self.path = path
        self.with_world = with_world

    def __call__(self, *args: State | Step | World) -> bool:
        given = args if self.with_world else args[:-1]
        try:
            broken = self.function(*given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise InputError(f"{self._place(error)} raised {type(error).__name__}: {error}") from error
        if not isinstance(broken, bool):
            raise InputError(f"{self._place()} returned {broken!r}; it must return True when it is broken, else False")
        return broken

    def _place(self, error: BaseException | None = None) -> str:
        """Name the function and the line: that of the error, else that of the function."""
        line = self.function.__code__.co_firstlineno
        frames = traceback.extract_tb(error.__traceback__) if error else []
        own = [frame.lineno for frame in frames if frame.filename == self.function.__code__.co_filename]
        return f"property {self.function.__name__} ({self.path}, line {own[-1] if own else line})"

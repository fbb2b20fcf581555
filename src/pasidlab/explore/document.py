"""A world's machine as the beginning of a scenario: what is as it is by default is left out, as people do.

Decided here: the order in which an IOMMU's driver takes entries away is written only where it matters, that is when it
is not the usual one or something happens between its steps; else each model keeps the order of its own driver.
"""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import msgspec

from pasidlab.explore.action import Verb
from pasidlab.explore.properties import Property
from pasidlab.explore.verdict import Counterexample
from pasidlab.explore.world import Teardown, World
from pasidlab.schemes import SCHEMES, Scheme

WIDTH = 118
"""Columns of text in a scenario."""


def document(
    world: World, scheme: type[Scheme], counterexample: Counterexample, broken: Property, steps: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a scenario of these steps, decoded."""
    count = len(counterexample.steps)
    paused = any(step.action.verb is Verb.RESUME for step in counterexample.steps)
    about = [
        f"{broken.name}: {broken.rule} ({broken.source}).",
        f"Found by `pasidlab check`: a shortest way to break it under {scheme.name}, at depth {count} of the search"
        f"{' (where a call goes on after a pause is no step here)' if paused else ''}.",
    ]
    title = f"{broken.name} broken under {scheme.name}: {world.title or 'a world'}"
    machine = _changed(world.machine)
    if world.teardown.iommu == Teardown().iommu and not any("during" in step for step in steps):
        for iommu in machine["iommu"]:
            iommu.pop("detach", None)
    machine.pop("kernel", None)
    first = {
        "title": title,
        "about": "\n".join(textwrap.fill(line, WIDTH) for line in about),
        "kernel": world.kernel,
        "scheme": scheme_text(scheme),
    }
    return first | machine | {"step": steps}


def scheme_text(scheme: type[Scheme]) -> str:
    """Return what names a scheme on a command line: its name, or FILE.py:CLASS."""
    if scheme in SCHEMES.values():
        return scheme.name
    return f"{sys.modules[scheme.__module__].__file__}:{scheme.__qualname__}"


def _changed(item: msgspec.Struct) -> dict[str, Any]:
    """Return the keys of a structure that differ from their defaults, decoded."""
    keys = {}
    for field in msgspec.structs.fields(item):
        value = getattr(item, field.name)
        if value != _default(field):
            keys[field.encode_name] = _decoded(value)
    return keys


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _decoded(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _changed(value)
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    return msgspec.to_builtins(value)

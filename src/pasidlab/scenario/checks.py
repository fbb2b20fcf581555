"""What is checked over all steps: a name stands for something, an expectation can be met, an address fits 64 bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pasidlab.description import RESERVED_NAMES, MachineSpec
from pasidlab.errors import Errno, InputError
from pasidlab.rules import Signal
from pasidlab.scenario.step import Step

RESULTS = ("ok", "fault", *(e.name for e in Errno), *(s.value for s in Signal))
"""Every result that a step can have."""

MAX_ADDRESS = (1 << 64) - 1
ADDRESSES = ("address", "source", "destination", "destination2", "delta", "completion")
"""Keys of steps that are addresses, whose largest value no type can say."""


def check_steps(spec: MachineSpec, steps: Iterable[Step]) -> None:
    """Every name that a step uses was given before it; every expectation is a possible result."""
    known = {
        "iommu": {i.name for i in spec.iommu},
        "device": {d.name for d in spec.device},
        "process": {p.name for p in spec.process},
        "handle": set[str](),
        "number": set[str](),
        "job": set[str](),
    }
    for index, step in enumerate(steps):
        try:
            _check_names(step, known)
            _check_results(step)
            _check_addresses(step)
            step.check(spec)
        except InputError as error:
            raise InputError(f"step[{index}].{error}") from None


def _check_results(step: Step) -> None:
    for result in _values(step.expect):
        if result not in RESULTS:
            raise InputError(f"expect = {result!r}: no such result; allowed: {', '.join(RESULTS)}")


def _values(expected: str | dict[str, str] | None) -> Iterator[str]:
    if isinstance(expected, str):
        yield expected
    elif expected:
        yield from expected.values()


def _check_addresses(step: Step) -> None:
    for key in ADDRESSES:
        address = getattr(step, key, None)
        if isinstance(address, int) and address > MAX_ADDRESS:
            raise InputError(f"{key} = {address:#x}: must be below 2^64")


def _check_names(step: Step, known: dict[str, set[str]]) -> None:
    for key, kind in step.uses.items():
        value = getattr(step, key)
        names = known["number"] | known["handle"] if kind == "number" else known[kind]
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and name not in names:
                listed = ", ".join(sorted(names)) or "none"
                raise InputError(f"{key.rstrip('_')} = {name!r}: no such {kind}; known here: {listed}")
    _note_name(step, known)


def _note_name(step: Step, known: dict[str, set[str]]) -> None:
    """Remember the names that a step gives; a handle without one is named after its device and process."""
    job = getattr(step, "job", None)
    if job is not None:
        known["job"].add(job)
    if not step.makes:
        return
    made = getattr(step, "as_", None)
    if made is None:
        made = f"{getattr(step, 'device', '')}/{getattr(step, 'process', '')}" if step.makes == "handle" else None
    elif step.makes == "process" and made in RESERVED_NAMES:
        raise InputError(f"as = {made!r}: stands for something else in expectations")
    elif step.makes == "process" and made in known["process"]:
        raise InputError(f"as = {made!r}: another process has this name; names are unique")
    if made is not None:
        known[step.makes].add(made)

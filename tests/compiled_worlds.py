"""Worlds on which the compiled search and the machine are compared, and compiled transitions as Python calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pasidlab.explore import search
from pasidlab.explore.action import NAMES, Action, Step
from pasidlab.explore.compiled import (
    caches,
    codes,
    common,
    engine,
    hybrid,
    kernel,
    layout,
    mainline,
    offer,
    properties,
    rfc,
    schemes,
    teardown,
    transitions,
    v2,
    work,
)
from pasidlab.explore.compiled.facts import record_of
from pasidlab.explore.compiled.layout import ACTIONS, action_code, action_of, decode, encode, step_of
from pasidlab.explore.compiled.supported import unsupported
from pasidlab.explore.properties import PROPERTIES, Property
from pasidlab.explore.state import State, canonical
from pasidlab.explore.verdict import Found
from pasidlab.explore.world import World
from pasidlab.hw.batch.compiling import built_from, compiled_entry
from pasidlab.schemes import Scheme

EVERYTHING = list(NAMES)
IOMMU = {"name": "smmu0", "max_pasids": 4, "per_device_pasid_space": True}
OTHER_IOMMU = {"name": "smmu1", "max_pasids": 3}
PORTAL = {"name": "dsa", "iommu": "smmu0", "pasid_bits": 2, "submit": "enqcmd"}
LOCAL_PORTAL = PORTAL | {"name": "acc", "pasids": "local", "sloppy": True}
NARROW = {"name": "narrow", "iommu": "smmu0", "kind": "narrow", "pasid_bits": 1, "pasids": "local"}
QUEUED = {"name": "queued", "iommu": "smmu0", "pasid_bits": 2, "pasids": "local"}
WIDE = {"name": "wide", "iommu": "smmu0", "kind": "narrow", "pasid_bits": 2}
ELSEWHERE = {"name": "elsewhere", "iommu": "smmu1", "pasid_bits": 2}
WITHOUT_PASIDS = {"name": "without", "iommu": "smmu0", "pasid_bits": 0}
BARE = {"name": "bare", "pasid_bits": 2, "submit": "enqcmd"}


def world_of(actions: list[str], *devices: dict[str, Any], processes: int = 2, threads: int = 1, **more: Any) -> World:
    """Return a world of the devices, behind the IOMMUs that they name."""
    iommus = [one for one in (IOMMU, OTHER_IOMMU) if any(device.get("iommu") == one["name"] for device in devices)]
    raw = {
        "actions": actions,
        "iommu": iommus,
        "device": list(devices),
        "process": [{"name": "p", "count": processes, "threads": threads}],
    }
    return World.from_dict(raw | more)


class Compiled:
    """A world under a scheme, whose transitions are the compiled ones."""

    def __init__(self, world: World, scheme: type[Scheme]) -> None:
        self.world = world
        self.record = record_of(world, scheme)
        self._codes = np.zeros(ACTIONS, np.uint32)

    def offered(self, state: State) -> list[Action]:
        count = ENTRIES.offer(self.record, encode(state), self._codes)
        return [action_of(int(code)) for code in self._codes[:count]]

    def follow(self, state: State, action: Action) -> tuple[Step, State]:
        record = encode(state)
        code = ENTRIES.apply(self.record, record, *map(int, action))
        return step_of(action_code.py_func(*action), int(code)), decode(record[0], self.world)

    def broken(self, before: State, step: Step, after: State) -> Iterator[str]:
        """Yield the properties that a step, or the state after it, breaks."""
        records = encode(before), encode(after)
        of_state = ENTRIES.broken_in_state(self.record, records[1])
        code = int(step.result) | step.owner << 8
        of_step = ENTRIES.broken_by_step(self.record, *records, *map(int, step.action), code)
        yield from (name for place, name in enumerate(properties.STATE_PROPERTIES) if of_state >> place & 1)
        yield from (name for place, name in enumerate(properties.STEP_PROPERTIES) if of_step >> place & 1)


def compare(world: World, scheme: type[Scheme]) -> None:
    """Search a world both ways; they find the same states, transitions and shortest violations."""
    assert unsupported(world, scheme) is None
    states: set[State] = set()

    def keep(state: State, world: World) -> bool:
        states.add(canonical(state, world.classes))
        return False

    keeping = Property("keep", "keeps each state that is reached, and is never broken", "here", state=keep)
    properties = tuple(PROPERTIES.values())
    read = search.search(world, scheme, (*properties, keeping), keep_going=True)
    computed = engine.search(world, scheme, properties, keep_going=True)
    assert computed.complete
    assert (computed.states, computed.transitions, computed.depth) == (read.states, read.transitions, read.depth)
    assert computed.reached == read.reached
    assert _lengths(computed) == _lengths(read)
    assert engine.reachable(world, scheme) == states


def _lengths(found: Found) -> dict[str, int]:
    return {one.property: len(one.steps) for one in found.counterexamples}


ALL = 0xFF


class Entries(NamedTuple):
    """The compiled functions as Python calls them."""

    offer: Any
    apply: Any
    broken_in_state: Any
    broken_by_step: Any


def _entries(built: int) -> Entries:
    """Return the entries, which numba keeps on disk for the sources that they were built from."""

    @compiled_entry
    def offered(world: Any, state: Any, out: Any) -> int:
        assert built >= 0
        return offer.offer(world[0], state[0], out)

    @compiled_entry
    def apply(world: Any, state: Any, verb: int, process: int, device: int, arg: int) -> int:
        assert built >= 0
        return transitions.apply(world[0], state[0], verb, process, device, arg)

    @compiled_entry
    def broken_in_state(world: Any, state: Any) -> int:
        assert built >= 0
        return properties.broken_in_state(world[0], state[0], ALL)

    @compiled_entry
    def broken_by_step(
        world: Any, before: Any, after: Any, verb: int, process: int, device: int, arg: int, step: int
    ) -> int:
        assert built >= 0
        return properties.broken_by_step(world[0], before[0], after[0], verb, process, device, arg, step, ALL)

    return Entries(offered, apply, broken_in_state, broken_by_step)


SCHEMES = (mainline, rfc, v2, hybrid, schemes)
SOURCES = (layout, codes, common, caches, work, teardown, kernel, offer, transitions, properties, *SCHEMES)
ENTRIES = _entries(built_from(SOURCES))

"""Each scheme's compiled form reaches the same states as the machine: what binds, guards, options and exits lead to."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES
from tests.compiled_worlds import (
    BARE,
    ELSEWHERE,
    IOMMU,
    LOCAL_PORTAL,
    NARROW,
    PORTAL,
    QUEUED,
    WIDE,
    WITHOUT_PASIDS,
    compare,
    world_of,
)

USE = ["bind", "unbind", "mmap_portal", "submit", "exit"]
CALLS = ["bind_device", "bind_device_pasid", "unbind", "exit"]
STRAIGHT = {"teardown": {"windows": False, "driver": ["unbind"]}}
"""Teardowns in one step, so that a world has room for other things."""
SMALL = {"iommu": [IOMMU | {"max_pasids": 3}]}
ONE = {"iommu": [IOMMU | {"max_pasids": 2}]}
ARM64 = {"arch": "arm64", "ls64": 3, "accdata": "switched"}


def guarded(guard: str) -> tuple[World, World]:
    """Return a world in which two processes fill the portals' devices, and one in which a process gives back."""
    options = {"guard": guard, "local_first": 2}
    filling = world_of(["bind", "mmap_portal", "submit"], PORTAL, LOCAL_PORTAL, processes=2, options=options, **ONE)
    return filling, world_of(USE, PORTAL, LOCAL_PORTAL, processes=1, options=options, **SMALL, **STRAIGHT)


def allocating(order: str) -> World:
    options = {"order": order, "reserve": 1, "guard": "range", "local_first": 3}
    return world_of(["bind", "unbind", "exit"], NARROW, PORTAL, processes=2, options=options, **STRAIGHT)


def arm64(**cpu: Any) -> World:
    return world_of(USE, PORTAL | {"submit": "st64bv0"}, processes=1, threads=2, cpu=ARM64 | cpu, **STRAIGHT)


WORLDS = {
    "narrow and wide": world_of(["bind", "unbind", "exit"], NARROW, WIDE, processes=2, **STRAIGHT),
    "both calls": world_of(CALLS, NARROW, QUEUED, processes=1, **SMALL, **STRAIGHT),
    "both calls of two": world_of(CALLS, QUEUED, processes=2, **SMALL, **STRAIGHT),
    "both calls in steps": world_of(CALLS, QUEUED, processes=1, **SMALL),
    "open beside a bind": world_of([*CALLS, "bind", "submit"], QUEUED, processes=1, **SMALL, **STRAIGHT),
    "portals": world_of(["bind", "mmap_portal", "submit", "exit"], PORTAL, processes=2, **SMALL, **STRAIGHT),
    "threads": world_of(USE, PORTAL, processes=1, threads=3, **STRAIGHT),
    "forges": world_of([*USE, "forge"], LOCAL_PORTAL | {"pasids": "global"}, processes=1, **SMALL),
    "forges in vain": world_of([*USE, "forge"], PORTAL, processes=1, **STRAIGHT),
    "no guard": guarded("none")[0],
    "no guard, giving back": guarded("none")[1],
    "guard mmap": guarded("mmap")[0],
    "guard mmap, giving back": guarded("mmap")[1],
    "guard range": guarded("range")[0],
    "guard declared": guarded("declared")[0],
    "range and raw": world_of(
        [*CALLS, "mmap_portal"], LOCAL_PORTAL, processes=1, options={"guard": "range", "local_first": 2}, **STRAIGHT
    ),
    "lowest": allocating("lowest"),
    "highest": allocating("highest"),
    "reserve-low": allocating("reserve-low"),
    "rfc_enqcmd none": world_of(USE, PORTAL, processes=1, threads=2, options={"rfc_enqcmd": "none"}, **STRAIGHT),
    "the first local bond": world_of(["bind", "unbind", "mmap_portal", "submit"], PORTAL, NARROW, processes=1),
    "local by device": world_of(USE, PORTAL, QUEUED, processes=1, options={"local_by": "device"}, **STRAIGHT),
    "arm64 with accdata": arm64(),
    "arm64 of today": arm64(accdata="off"),
    "arm64 without st64bv0": arm64(ls64=1),
    "x86 without enqcmd": world_of(USE, PORTAL, processes=1, cpu={"enqcmd": False}),
    "two iommus": world_of(["bind", "unbind", "exit", "submit"], QUEUED, ELSEWHERE, processes=1, **STRAIGHT),
    "devices without much": world_of(
        ["bind", "bind_device", "mmap_portal", "attach", "detach", "alloc_global"],
        *(WITHOUT_PASIDS, BARE, NARROW),
        processes=1,
    ),
    "failures": world_of([*CALLS, "bind", "fail_next"], QUEUED, processes=1, **SMALL, **STRAIGHT),
    "modules": world_of(["bind", "unbind", "alloc_global", "free_global"], PORTAL, NARROW, processes=2, **STRAIGHT),
    "attachments": world_of(["bind", "unbind", "exit", "attach", "detach", "fail_next"], QUEUED, processes=1),
    "kernel-managed work": world_of(
        [*USE, "forge", "attach", "detach"],
        LOCAL_PORTAL | {"pasid_bits": 1},
        processes=1,
        options={"guard": "none"},
        **STRAIGHT,
    ),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", WORLDS)
def test_compiled_schemes_reach_the_states_of_the_machine(name: str, scheme: str) -> None:
    compare(WORLDS[name], SCHEMES[scheme])

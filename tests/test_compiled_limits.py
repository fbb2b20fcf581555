"""The largest number of a record, whose bit is the top one of each mask."""

from typing import Any

import pytest

from pasidlab.explore.compiled import engine
from pasidlab.explore.state import MAX_NUMBER
from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES
from tests.compiled_worlds import compare

PORTAL = {"submit": "enqcmd", "sloppy": True}
LOCAL = {"pasids": "local"}


def world_of(actions: list[str], device: dict[str, Any]) -> World:
    return World.from_dict(
        {
            "actions": actions,
            "options": {"order": "highest"},
            "teardown": {"driver": ["unbind"], "windows": False},
            "iommu": [{"name": "i", "max_pasids": MAX_NUMBER + 1, "per_device_pasid_space": True}],
            "device": [{"name": "d", "iommu": "i", "pasid_bits": 3, **device}],
            "process": [{"name": "p"}],
        }
    )


GIVEN_BY_THE_CORE = world_of(["bind", "unbind", "alloc_global", "exit", "mmap_portal", "submit", "forge"], PORTAL)
GIVEN_BY_THE_DRIVER = world_of(["bind_device_pasid", "unbind", "exit"], LOCAL)
ATTACHED = world_of(["attach", "detach"], {})


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("world", [GIVEN_BY_THE_CORE, GIVEN_BY_THE_DRIVER, ATTACHED], ids=["core", "driver", "attach"])
def test_the_largest_number_is_one_like_the_others(world: World, scheme: str) -> None:
    compare(world, SCHEMES[scheme])


def test_the_largest_number_is_reached() -> None:
    mainline, hybrid = SCHEMES["mainline"], SCHEMES["hybrid"]
    on = [state.processes[0].on[0] for state in engine.reachable(GIVEN_BY_THE_CORE, mainline)]
    assert {one.job for one in on} == set(range(MAX_NUMBER + 1))
    assert any(one.opened == MAX_NUMBER and one.iotlb >> MAX_NUMBER and one.atc >> MAX_NUMBER for one in on)
    local = {state.processes[0].on[0].local for state in engine.reachable(GIVEN_BY_THE_DRIVER, hybrid)}
    assert max(local) == (1 << MAX_NUMBER + 1) - 2
    assert max(state.attached[0] for state in engine.reachable(ATTACHED, mainline)) == max(local)

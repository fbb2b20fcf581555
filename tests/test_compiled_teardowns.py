"""The compiled teardowns reach the same states as the machine's: orders right and wrong, windows, delayed effects."""

from __future__ import annotations

import pytest

from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES
from tests.compiled_worlds import IOMMU, PORTAL, QUEUED, compare, world_of

LIFE = ["bind", "unbind", "submit", "page_request", "exit"]
ONE_NUMBER = QUEUED | {"pasid_bits": 1}
ONE_WINDOW = "table iotlb"


def life(driver: str = "stop drain unbind", iommu: str = "table iotlb atc", *, windows: bool = True) -> World:
    """Return a world of two processes that share the one number of a device."""
    teardown = {"driver": driver.split(), "iommu": iommu.split(), "windows": windows}
    return world_of(LIFE, ONE_NUMBER, processes=2, teardown=teardown)


WORLDS = {
    "right": life(),
    "right, one IOMMU step": life(iommu="table"),
    "right, without windows": life(windows=False),
    "no stop": life("drain unbind", ONE_WINDOW),
    "no drain": life("stop unbind"),
    "unbind only": life("unbind", ONE_WINDOW),
    "unbind first": life("unbind stop drain", ONE_WINDOW),
    "unbind between": life("stop unbind drain", windows=False),
    "no iotlb": life(iommu="table atc"),
    "no atc": life(iommu="table iotlb"),
    "atc first": life(iommu="table atc iotlb"),
    "invalidation first": life(iommu="iotlb atc table"),
    "table in between": life(iommu="iotlb table atc"),
    "accesses of work that goes on": world_of([*LIFE, "dma"], ONE_NUMBER, processes=2),
    "accesses, no stop": world_of(
        [*LIFE, "dma"], ONE_NUMBER, processes=2, teardown={"driver": ["unbind"], "iommu": ONE_WINDOW.split()}
    ),
    "no caches": world_of(LIFE, ONE_NUMBER, processes=2, iommu=[IOMMU | {"caches": False}]),
    "without ATC": world_of(LIFE, ONE_NUMBER | {"kind": "narrow"}, processes=2),
    "portals": world_of(
        ["bind", "unbind", "mmap_portal", "submit", "exit"],
        PORTAL | {"pasid_bits": 1},
        processes=1,
        threads=2,
        teardown={"driver": ["unbind", "stop"]},
    ),
    "threads": world_of(["bind", "bind_device", "unbind", "submit", "exit"], ONE_NUMBER, processes=1, threads=2),
    "attachments": world_of(
        ["bind", "unbind", "submit", "attach", "detach"],
        ONE_NUMBER,
        processes=1,
        teardown={"iommu": ["table", "iotlb"]},
    ),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", WORLDS)
def test_compiled_teardowns_reach_the_states_of_the_machine(name: str, scheme: str) -> None:
    compare(WORLDS[name], SCHEMES[scheme])

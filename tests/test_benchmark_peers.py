"""The peers of the benchmark search the same machine: as many states and transitions, and the same verdict."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.peers import python_bfs, spin
from benchmarks.peers.sizes import SCHEMES, sizes_of

from pasidlab.errors import InputError
from pasidlab.explore.compiled.engine import search
from pasidlab.explore.verdict import Found, Limits
from pasidlab.explore.wanted import always
from pasidlab.explore.world import World
from pasidlab.schemes import SCHEMES as CLASSES

QUICK = ("-O0", "-DSAFETY", "-DNOFAIR", "-DNOREDUCE", "-w")


def world(**changes: Any) -> World:
    """Return two processes and a device behind a register, with every action that the peers know."""
    whole: dict[str, Any] = {
        "actions": ["bind", "unbind", "mmap_portal", "submit", "page_request", "exit"],
        "iommu": [{"name": "iommu0", "max_pasids": 3}],
        "device": [{"name": "acc", "iommu": "iommu0", "pasid_bits": 2}],
        "process": [{"name": "p", "count": 2}],
    }
    return World.from_dict(whole | changes)


PORTAL = {"name": "dsa", "iommu": "iommu0", "pasid_bits": 2, "submit": "enqcmd"}
LOCAL = {"name": "acc", "iommu": "iommu0", "pasid_bits": 2, "pasids": "local"}
NARROW = {"name": "narrow", "iommu": "iommu0", "kind": "narrow", "pasid_bits": 1, "pasids": "local"}
NO_PASIDS = {"name": "plain", "iommu": "iommu0"}
THREADS = [{"name": "p", "count": 2, "threads": 2}]
WORLDS: dict[str, World] = {
    "register": world(),
    "portal": world(device=[PORTAL]),
    "portal, threads": world(device=[PORTAL], process=THREADS),
    "portal that nothing guards": world(device=[PORTAL], options={"guard": "none"}),
    "driver's numbers": world(device=[LOCAL]),
    "narrow and wide": world(device=[PORTAL, NARROW], teardown={"windows": False}),
    "without PASIDs": world(device=[PORTAL, NO_PASIDS], teardown={"windows": False}),
    "two alike": world(
        device=[LOCAL | {"count": 2}], actions=["bind", "unbind", "submit"], teardown={"windows": False}
    ),
    "two kinds of processes": world(process=[{"name": "p"}, {"name": "q", "count": 2}]),
    "without windows": world(teardown={"windows": False}),
    "unbind only, threads": world(teardown={"driver": ["unbind"]}, process=THREADS),
    "unbind first": world(teardown={"driver": ["unbind", "stop", "drain"]}),
    "no drain": world(teardown={"driver": ["stop", "unbind"]}),
    "no stop": world(teardown={"driver": ["drain", "unbind"]}),
    "caches first": world(teardown={"driver": ["unbind"], "iommu": ["atc", "iotlb", "table"]}),
    "caches first, in order": world(teardown={"iommu": ["iotlb", "atc", "table"]}),
    "no IOTLB": world(teardown={"iommu": ["table", "atc"]}),
    "arm64 without ACCDATA_EL1": world(device=[PORTAL | {"submit": "st64bv0"}], cpu={"arch": "arm64"}),
}


def searched(one: World, scheme: str, *, symmetry: bool = True) -> Found:
    found = search(one, CLASSES[scheme], always(one), Limits(), symmetry=symmetry, keep_going=True)
    assert found.complete
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", WORLDS)
def test_the_python_search_finds_as_much_and_the_same(name: str, scheme: str) -> None:
    found = searched(WORLDS[name], scheme)
    broken = frozenset(one.property for one in found.counterexamples)
    counts = python_bfs.search(sizes_of(WORLDS[name], scheme))
    assert counts == (found.states, found.transitions, found.depth, broken)
    assert counts.states > 1


@pytest.mark.skipif(spin.missing() is not None, reason=f"{spin.missing()}")
@pytest.mark.parametrize(
    ("name", "scheme"),
    [("portal, threads", "mainline"), ("caches first, in order", "hybrid"), ("narrow and wide", "hybrid")],
)
def test_spin_finds_as_much_as_a_search_without_symmetry(name: str, scheme: str) -> None:
    found = searched(WORLDS[name], scheme, symmetry=False)
    assert not found.counterexamples
    counts = spin.verify(sizes_of(WORLDS[name], scheme), flags=QUICK, depth=100_000, hash_bits=18)
    assert (counts.states, counts.transitions, counts.errors) == (found.states, found.transitions, 0)


@pytest.mark.skipif(spin.missing() is not None, reason=f"{spin.missing()}")
def test_spin_finds_what_is_broken() -> None:
    assert searched(WORLDS["no drain"], "mainline").counterexamples
    counts = spin.verify(sizes_of(WORLDS["no drain"], "mainline"), flags=QUICK, depth=100_000, hash_bits=18)
    assert counts.errors == 1


@pytest.mark.parametrize(
    ("changes", "scheme", "what"),
    [
        ({"actions": ["bind", "forge"]}, "mainline", "forge"),
        ({}, "v2", "v2"),
        ({"options": {"guard": "range"}}, "hybrid", "guard = range"),
    ],
)
def test_a_world_that_the_peers_do_not_know_is_refused(changes: dict[str, Any], scheme: str, what: str) -> None:
    with pytest.raises(InputError, match=f"the peers do not know .*{what}"):
        sizes_of(world(**changes), scheme)

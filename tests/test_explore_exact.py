"""A `State` has all that decides what can happen next: machines that are in the same one go on alike."""

from __future__ import annotations

from collections import deque

import pytest

from pasidlab.explore.action import Step
from pasidlab.explore.readable import Node, Readable
from pasidlab.explore.state import State
from pasidlab.schemes import SCHEMES

from .explore_worlds import DSA, LOCAL, NARROW, PCIE, world

WORLDS = {
    "pages": world("bind", "unbind", "submit", "page_request", "exit", devices=(PCIE,), processes=1, numbers=1),
    "reuse": world(
        *("bind", "unbind", "submit", "exit"),
        devices=(PCIE,),
        numbers=1,
        teardown={"driver": ["unbind"], "iommu": ["table", "iotlb"]},
    ),
    "numbers": world(
        "bind", "bind_device", "bind_device_pasid", "unbind", "exit", devices=(NARROW | LOCAL,), processes=1
    ),
    "portal": world(
        *("bind_device", "bind_device_pasid", "unbind", "mmap_portal", "submit", "exit"),
        devices=(DSA | LOCAL,),
        processes=1,
        threads=2,
        numbers=1,
        teardown={"driver": ["stop", "unbind"], "iommu": ["table", "iotlb"]},
    ),
    "modules": world("bind", "alloc_global", "free_global", "attach", "detach", "fail_next", processes=1),
    "wrong order": world(
        *("bind", "unbind", "submit", "page_request", "exit"),
        devices=(PCIE | LOCAL,),
        processes=1,
        teardown={"driver": ["unbind", "drain"], "iommu": ["atc", "table"]},
    ),
}


def following(readable: Readable, node: Node) -> list[tuple[Step, State]]:
    return [(reached.step, reached.node.state) for reached in readable.successors(node)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", WORLDS)
def test_a_state_decides_what_happens_next_whatever_trace_led_to_it(scheme: str, name: str) -> None:
    readable = Readable(WORLDS[name], SCHEMES[scheme])
    first: dict[State, list[tuple[Step, State]]] = {}
    others: list[Node] = []
    start = readable.start
    known, waiting = {start.state}, deque([start])
    while waiting:
        node = waiting.popleft()
        first[node.state] = []
        for reached in readable.successors(node):
            first[node.state].append((reached.step, reached.node.state))
            kept = readable.keep(reached.node)
            (others if kept.state in known else waiting).append(kept)
            known.add(kept.state)
    assert others
    for node in others:
        assert following(readable, node) == first[node.state]

"""A mistake in the machine is found: the search of the machine itself breaks the property that is there for it.

Each mistake is one that a kernel, a driver or a device could make. The same worlds hold without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from pasidlab.devices.endpoint import Endpoint
from pasidlab.drivers.base import TABLE
from pasidlab.drivers.mock import MockDriver
from pasidlab.drivers.mock_caches import MockCaches
from pasidlab.explore.properties import DEFAULT, PROPERTIES
from pasidlab.explore.search import search
from pasidlab.explore.verdict import Found
from pasidlab.linux import iopf, sva
from pasidlab.linux.iommu import iommu_free_global_pasid
from pasidlab.linux.sva import iommu_attach_handle_get, iommu_sva_release_bond
from pasidlab.machine.in_flight import InFlight
from pasidlab.rules import Refusal
from pasidlab.schemes import SCHEMES, Hybrid, Mainline, Scheme

from .explore_worlds import DSA, LOCAL, PCIE, world

V2 = SCHEMES["v2"]
ASKED = [PROPERTIES[name] for name in (*DEFAULT, "fresh-process-served")]
QUICK = {"driver": ["stop", "unbind"], "windows": False}
RAW = "bind_device_pasid"
WORLDS = {
    "life": world("bind", "unbind", "submit", "exit", devices=(PCIE,), numbers=1),
    "pages": world("bind", "unbind", "submit", "page_request", devices=(PCIE | LOCAL,), teardown={"windows": False}),
    "portal": world("bind", "unbind", "mmap_portal", "submit", devices=(DSA,), teardown=QUICK),
    "two devices": world("bind", "mmap_portal", "submit", devices=(PCIE, DSA | LOCAL), options={"guard": "mmap"}),
    "raw": world(RAW, "mmap_portal", "submit", devices=(DSA,), processes=1, options={"guard": "none"}),
    "driver": world("bind", "unbind", devices=(PCIE | LOCAL,), teardown=QUICK),
    "ends": world("bind", "unbind", "exit", devices=(PCIE,), numbers=1, teardown=QUICK),
    "attached": world(RAW, "attach", devices=(PCIE,)),
}


def nothing(*_: Any, **__: Any) -> int:
    return 0


# --- mistakes of drivers and devices ------------------------------------------------------------------------------


def the_driver_invalidates_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MockCaches, "forget", nothing)


def the_driver_does_not_hear_of_the_end_of_a_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MockCaches, "release", nothing)


def the_driver_leaves_the_entry_in_the_table(patch: pytest.MonkeyPatch) -> None:
    def take_away(driver: MockDriver, dev: Any, pasid: int, step: str) -> None:
        if step != TABLE:
            right(driver, dev, pasid, step)

    right = MockDriver._take_away
    patch.setattr(MockDriver, "_take_away", take_away)


def the_stop_drops_no_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InFlight, "_stop", nothing)


def the_drain_waits_for_no_page_request(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InFlight, "_drain", nothing)


def the_driver_gives_a_number_out_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Endpoint, "_free_number", lambda endpoint: 1)


# --- mistakes of the core -----------------------------------------------------------------------------------------


def a_bind_throws_a_kernel_managed_domain_out_of_its_slot(patch: pytest.MonkeyPatch) -> None:
    def handle_get(group: Any, pasid: int, *kind: Any) -> Any:
        if isinstance(iommu_attach_handle_get(group, pasid, *kind), Refusal):
            group.pasid_array.pop(pasid)
        return iommu_attach_handle_get(group, pasid, *kind)

    patch.setattr(sva, "iommu_attach_handle_get", handle_get)


def page_requests_are_served_in_the_oldest_address_space(patch: pytest.MonkeyPatch) -> None:
    right = iopf.iommu_sva_handle_mm
    patch.setattr(iopf, "iommu_sva_handle_mm", lambda fault, mm: right(fault, next(iter(mm.kernel.mms))))


class FreesWithTheLastBond(Mainline):
    """The number goes with the last bond, but not from the registers of the tasks that have loaded it."""

    name = "frees-with-the-last-bond"

    def unbind_device(self, handle: Any) -> None:
        data = handle.data
        if iommu_sva_release_bond(handle) and not data.sva_domains:
            iommu_free_global_pasid(data.mm.kernel, data.pasid)
            data.mm.iommu_mm = None


class NeverFrees(Mainline):
    """The number of an address space that is gone is nobody's, and not free."""

    name = "never-frees"

    def mm_pasid_drop(self, mm: Any) -> None:
        mm.iommu_mm = None


class CarriesAnyNumber(V2):
    """ENQCMD has a driver's number too."""

    name = "carries-any-number"
    mm_get_enqcmd_pasid = Mainline.mm_get_enqcmd_pasid


class MapsForEverybody(Hybrid):
    """The guard is forgotten."""

    name = "maps-for-everybody"

    def may_map_portal(self, dev: Any, mm: Any) -> None:
        return None


# --- the search ---------------------------------------------------------------------------------------------------


class Mistake(NamedTuple):
    """Where a mistake is found, by which property, after how many actions."""

    made: Callable[[pytest.MonkeyPatch], None] | type[Scheme]
    world: str
    right: type[Scheme]
    broken: str
    actions: int

    def __str__(self) -> str:
        return self.made.__name__


MISTAKES = [
    Mistake(the_driver_invalidates_nothing, "life", Hybrid, "no-early-reuse", 10),
    Mistake(the_driver_invalidates_nothing, "life", Mainline, "no-leak", 10),
    Mistake(the_driver_does_not_hear_of_the_end_of_a_process, "life", Mainline, "isolation", 4),
    Mistake(the_driver_leaves_the_entry_in_the_table, "life", Mainline, "bond-in-table", 6),
    Mistake(the_stop_drops_no_work, "life", Hybrid, "isolation", 10),
    Mistake(the_drain_waits_for_no_page_request, "pages", Hybrid, "no-early-reuse", 7),
    Mistake(the_driver_gives_a_number_out_twice, "driver", Hybrid, "fresh-process-served", 2),
    Mistake(a_bind_throws_a_kernel_managed_domain_out_of_its_slot, "attached", Hybrid, "one-mm-per-number", 2),
    Mistake(page_requests_are_served_in_the_oldest_address_space, "pages", Mainline, "page-request-owner", 5),
    Mistake(FreesWithTheLastBond, "portal", Mainline, "no-early-reuse", 6),
    Mistake(NeverFrees, "ends", Mainline, "fresh-process-served", 5),
    Mistake(CarriesAnyNumber, "raw", V2, "enqcmd-after-normal-bind", 3),
    Mistake(MapsForEverybody, "two devices", Hybrid, "isolation", 6),
]


def searched(mistake: Mistake, scheme: type[Scheme]) -> Found:
    return search(WORLDS[mistake.world], scheme, ASKED)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_breaks_the_property_that_is_there_for_it(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert searched(mistake, mistake.right).complete
    scheme = mistake.right
    if isinstance(mistake.made, type):
        scheme = mistake.made
    else:
        mistake.made(monkeypatch)
    found = {one.property: len(one.steps) for one in searched(mistake, scheme).counterexamples}
    assert found.get(mistake.broken) == mistake.actions


def test_every_property_of_a_world_is_broken_by_some_mistake() -> None:
    assert {mistake.broken for mistake in MISTAKES} >= set(DEFAULT)

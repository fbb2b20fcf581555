"""Each step of waiting for page requests is needed: without any single one, a request meets the wrong process.

A story ends a bond while a page request is under way, and gives the number to the next process at once. Each mutation
leaves one step of intel_iommu_drain_pasid_prq() out; its story passes with the driver as it is and fails with the
mutation. Then what a process's end does in which order, and what the kernel's way of waiting does not cover.

Not observable in this model, and therefore not mutated:

* the wait descriptor with the fence, since this unit carries descriptors out in order;
* the IOTLB invalidation, which the architecture wants before that of the device-TLB (test_vtd_invalidation);
* the drain of requests without PASID, which no process is behind, and that in replacing a domain, which comes when the
  device has left the fault queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from pasidlab import events
from pasidlab.devices.idxd.driver import IdxdDriver
from pasidlab.drivers.intel import pasid as pasid_module
from pasidlab.drivers.intel import prq, qi
from pasidlab.drivers.intel.structs import IntelIommu
from pasidlab.hw.transaction import Transferred
from pasidlab.hw.vtd.descriptors import (
    Descriptor,
    InvalidationWait,
    IotlbInvalidate,
    PageGroupResponse,
    PasidDeviceTlbInvalidate,
    PasidIotlbInvalidate,
)
from pasidlab.hw.vtd.records import PageRequest, ResponseCode
from pasidlab.hw.vtd.registers import Offset
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.structures import PasidEntry
from pasidlab.linux.iopf import run_work

from .vtd_machine import (
    ALL_SCHEMES,
    BOTH,
    CODE,
    DATA,
    OLD,
    READ_ONLY,
    V7_3,
    HarmError,
    VtdMachine,
    Wire,
    acc,
    callers,
    dsa,
    expect,
    owned,
    refused,
    wired,
)

NUMBER, OTHER, NOBODYS = 5, 6, 99
ROOM = (4096 << prq.PRQ_ORDER) // prq.PRQ_ENT_BYTES - 1
DRAIN, COMPLETE, DETACH = "intel_iommu_drain_pasid_prq", "_complete_tear_down", "clear_dev_pasid"

Story = Callable[[str], None]


# --- stories -------------------------------------------------------------------------------------------------


def bound(kernel: str, *, company: bool = False) -> VtdMachine:
    """A device with process a, which has touched nothing yet; with `company` another process is bound as well."""
    m = VtdMachine(acc(), kernel=kernel, processes="a b c")
    assert m.bind_device_pasid("acc0", "a", NUMBER, "h").result == "ok"
    if company:
        m.bind_device_pasid("acc0", "c", OTHER)
    return m


def next_process(m: VtdMachine, *, answered: bool = True) -> None:
    """Give the number to b, let everything come that was under way, and see that nothing of it meets b."""
    assert m.bind_device_pasid("acc0", "b", NUMBER).result == "ok"
    late: list[events.Event] = []
    m.kernel.observers.append(late.append)
    everything_comes(m)
    for page in (DATA, READ_ONLY, CODE):
        expect(not m.mm("b").has_page(page), f"the page at {page:#x} came into b, who did not ask for it")
    answers = [event for event in late if isinstance(event, events.PageResponded)]
    expect(not (answered and answers), f"under the number of b there is an answer: {answers}")
    expect(not m.port().outstanding, "a request is never answered")
    expect(not m.port().unexpected, "a response answers nothing")


def everything_comes(m: VtdMachine) -> None:
    m.hold(False)
    m.mask(False)
    run_work(m.iommu.iopf_queue)


def request_in_the_queue(kernel: str) -> None:
    m = bound(kernel)
    m.mask(True)
    m.ask(NUMBER)
    m.unbind("h")
    next_process(m)


def request_with_the_worker(kernel: str) -> None:
    m = bound(kernel, company=True)
    m.ask(NUMBER)
    assert m.iommu.iopf_queue.work
    m.unbind("h")
    next_process(m)


def request_on_its_way(kernel: str) -> None:
    m = bound(kernel)
    m.hold(True)
    m.ask(NUMBER)
    m.unbind("h")
    next_process(m, answered=kernel == V7_3)


def request_on_its_way_after_the_exit(kernel: str) -> None:
    m = bound(kernel)
    m.hold(True)
    m.exit("a")
    m.ask(NUMBER)
    m.unbind("h")
    next_process(m, answered=kernel == V7_3)


@dataclass
class Egress:
    """A device that keeps its page requests until something pushes them: the answer to an invalidation does."""

    m: VtdMachine
    waiting: list[PageRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrive = self.m.unit.page_request
        self.m.unit.page_request = self.waiting.append  # type: ignore[method-assign]
        self.m.unit.connect(self.m.port().source_id, self)

    def push(self) -> None:
        while self.waiting:
            self.arrive(self.waiting.pop(0))

    def invalidate(self, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> bool:
        self.push()
        return self.m.port().invalidate(pasid, every_pasid=every_pasid, first=first, size=size)

    def page_response(self, pasid: int | None, prg_index: int, code: int) -> None:
        self.m.port().page_response(pasid, prg_index, code)


def request_in_the_device(kernel: str) -> None:
    m = bound(kernel)
    device = Egress(m)
    m.hold(True)
    m.exit("a")
    m.ask(NUMBER)
    m.unbind("h")
    assert m.bind_device_pasid("acc0", "b", NUMBER, "i").result == "ok"
    device.push()
    m.unit.page_request = device.arrive  # type: ignore[method-assign]
    everything_comes(m)
    expect(not m.mm("b").has_page(DATA), "the page came into b, who did not ask for it")
    expect(not m.port().outstanding, "a request is never answered")


def requests_that_find_no_room(kernel: str) -> None:
    m = bound(kernel)
    m.mask(True)
    for _ in range(ROOM - 1):
        m.port().stop_marker(NOBODYS)
    m.hold(True)
    for page in (DATA, READ_ONLY, CODE):
        m.ask(NUMBER, page)
    m.unbind("h")
    next_process(m, answered=kernel == V7_3)


def request_that_is_served(kernel: str) -> None:
    m = bound(kernel)
    index = m.ask(NUMBER, READ_ONLY)
    run_work(m.iommu.iopf_queue)
    expect(m.port().answer(index) == ResponseCode.SUCCESS, "a request is never answered")


def request_that_the_driver_refuses(kernel: str) -> None:
    m = bound(kernel)
    port = m.port()
    index = port.request_page(Request(port.source_id, NUMBER, DATA, privileged=True))
    assert index is not None
    expect(port.answer(index) == ResponseCode.INVALID, "a request is never answered")


# --- mutations -----------------------------------------------------------------------------------------------

Without = Callable[[], Any]


def at_drain(kind: type[Descriptor]) -> Wire:
    return Wire(lambda descriptor, names: isinstance(descriptor, kind) and DRAIN in names)


def unanswered(place: str) -> Wire:
    return Wire(lambda descriptor, names: isinstance(descriptor, PageGroupResponse) and place in names)


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


def overflow_unseen(iommu: IntelIommu, offset: Offset) -> int:
    """Read a register, but an overflow in the drain."""
    in_drain = offset is Offset.PRS and callers()[:1] == (DRAIN,)
    return 0 if in_drain else MMIO_READ(iommu, offset)


MMIO_READ = IntelIommu.mmio_read


def no_drain_in(place: str) -> Any:
    def drain(info: Any, pasid: int) -> None:
        if place not in callers():
            DRAIN_NOW(info, pasid)

    return patched(pasid_module, DRAIN, drain)


DRAIN_NOW = pasid_module.intel_iommu_drain_pasid_prq


@dataclass(frozen=True)
class Mutation:
    """A step that is left out, the names that it has in the drain's code, and the story that sees it."""

    name: str
    without: Without
    story: Story
    uses: frozenset[str] = frozenset()


MUTATIONS = [
    Mutation(
        "waiting for entries of the queue",
        lambda: patched(prq, "_is_for", lambda request, info, pasid: False),
        request_in_the_queue,
        frozenset({"_waiting", "_is_for", "prq_event_thread"}),
    ),
    Mutation(
        "flushing the work queue",
        lambda: patched(prq, "iopf_queue_flush_dev", lambda dev: None),
        request_with_the_worker,
        frozenset({"iopf_queue_flush_dev", "dev"}),
    ),
    Mutation("PD of the wait descriptor", lambda: wired(Wire(drains=False)), request_on_its_way),
    Mutation("PD, after mm exit", lambda: wired(Wire(drains=False)), request_on_its_way_after_the_exit),
    Mutation(
        "invalidating the device-TLB",
        lambda: wired(at_drain(PasidDeviceTlbInvalidate)),
        request_in_the_device,
        frozenset({"desc_dev_iotlb", "qi_submit_sync", "MAX_AGAW_PFN_WIDTH"}),
    ),
    Mutation(
        "repeating after an overflow",
        lambda: patched(IntelIommu, "mmio_read", overflow_unseen),
        requests_that_find_no_room,
        frozenset({"Prs", "mmio_read", "Offset", "PRS", "pro", "prq_event_thread"}),
    ),
    Mutation("all of it, at detach", partial(no_drain_in, DETACH), request_on_its_way),
    Mutation("all of it, after mm exit", partial(no_drain_in, COMPLETE), request_on_its_way_after_the_exit),
    Mutation("the answer of the core", lambda: wired(unanswered("intel_iommu_page_response")), request_that_is_served),
    Mutation(
        "the answer of the driver",
        lambda: wired(unanswered("_handle_bad_prq_event")),
        request_that_the_driver_refuses,
    ),
]
IN_VAIN = frozenset({"InvalidationWait", "make", "QI_DONE", "qi_desc_piotlb", "qi_desc_iotlb", "Granularity", "DOMAIN"})
"""What the steps that are not mutated use; see the module docstring."""
LOOKS = frozenset({"iommu", "_takes_page_requests", "domain", "did_on", "FLPT_DEFAULT_DID", "IOMMU_NO_PASID", "any"})
"""What only looks."""


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_leaving_one_step_out_is_noticed(kernel: str, mutation: Mutation) -> None:
    mutation.story(kernel)
    with mutation.without(), pytest.raises(HarmError):
        mutation.story(kernel)


def test_every_step_of_the_drain_has_its_mutation() -> None:
    used = set(prq.intel_iommu_drain_pasid_prq.__code__.co_names)
    for const in prq.intel_iommu_drain_pasid_prq.__code__.co_consts:
        used |= set(getattr(const, "co_names", ()))
    covered = frozenset().union(*(mutation.uses for mutation in MUTATIONS))
    assert used - covered - IN_VAIN - LOOKS == set()
    assert covered | IN_VAIN | LOOKS <= used


@pytest.mark.parametrize("kernel", BOTH)
def test_the_fence_and_the_iotlb_are_flushed_in_vain(kernel: str) -> None:
    def fence_or_iotlb(descriptor: Descriptor, names: tuple[str, ...]) -> bool:
        return isinstance(descriptor, (InvalidationWait, PasidIotlbInvalidate, IotlbInvalidate)) and DRAIN in names

    with wired(Wire(fence_or_iotlb)) as wire:
        for mutation in MUTATIONS:
            mutation.story(kernel)
    assert wire.dropped


# --- what the waiting does not cover -------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "company"), [(OLD, False), (OLD, True), (V7_3, True)])
def test_what_only_the_drain_lets_in_is_left_to_a_worker_that_runs_when_the_bond_is_gone(
    kernel: str, company: bool
) -> None:
    """The work queue is flushed before the hardware is drained. Since 6.16 the last bond's end answers what is left."""
    m = bound(kernel, company=company)
    m.hold(True)
    m.ask(NUMBER)
    m.unbind("h")
    (group,) = m.iommu.iopf_queue.work
    assert group.attach_handle is m.bindings["h"].bond
    with pytest.raises(HarmError, match="under the number of b there is an answer"):
        next_process(m)
    assert m.mm("a").has_page(DATA)


@pytest.mark.parametrize("kernel", BOTH)
def test_what_only_the_drain_lets_in_meets_the_next_process_if_the_thread_comes_late(kernel: str) -> None:
    """The queue is looked at before the hardware is drained, and again only after an overflow."""
    m = bound(kernel)
    m.mask(True)
    m.hold(True)
    m.ask(NUMBER)
    m.unbind("h")
    assert not m.unit.page_requests.in_flight
    with pytest.raises(HarmError, match="came into b"):
        next_process(m)


@pytest.mark.parametrize("kernel", BOTH)
def test_what_a_device_asks_for_between_two_owners_of_a_number_is_served_for_the_second(kernel: str) -> None:
    """Nothing is drained when a process is bound: its driver has stopped the device before."""
    m = bound(kernel)
    m.unbind("h")
    m.hold(True)
    m.ask(NUMBER)
    with pytest.raises(HarmError, match="came into b"):
        next_process(m)


# --- a number that is used again at once ---------------------------------------------------------------------


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_neither_a_late_page_request_nor_an_old_translation_meets_the_next_owner_of_a_number(
    kernel: str, scheme: str
) -> None:
    """The number is the driver's own, and free with the unbind; under mainline it is the process's, until its exit."""
    m = VtdMachine(acc(), kernel=kernel, scheme=scheme)
    number = m.bind("acc0", "a", "h").pasid
    assert number is not None
    owned(m.write(number), "a")
    m.hold(True)
    m.ask(number, READ_ONLY)
    if scheme == "mainline":
        m.exit("a")
    else:
        m.unbind("h")
    assert m.bind("acc0", "b").pasid == number
    everything_comes(m)
    assert not m.mm("b").has_page(READ_ONLY)
    owned(m.read(number), "b")
    assert not m.port().outstanding


# --- the end of a process (R23) ------------------------------------------------------------------------------


class Trace:
    """What happens at the end of a process, in order; the device works on, and each change of its luck is noted."""

    def __init__(self, m: VtdMachine, device: str, pasid: int) -> None:
        self.m, self.device, self.pasid = m, device, pasid
        self.steps: list[str] = []
        m.kernel.observers.append(self.hear)

    def note(self, step: str) -> None:
        self.steps.append(step)
        before = next((step for step in reversed(self.steps) if step.startswith("DMA")), "")
        if self.luck() != before:
            self.steps.append(self.luck())

    def luck(self) -> str:
        """Try with what the device has translated, and without."""
        plain = Request(self.m.port(self.device).source_id, self.pasid, DATA)
        moved = self.m.unit.dma_write(plain, b"on")
        if isinstance(self.m.raw(self.pasid, device=self.device), Transferred) or isinstance(moved, Transferred):
            return "DMA lands"
        return "DMA is recorded" if moved.record else "DMA is blocked"

    def hear(self, event: events.Event) -> None:
        if type(event) in HEARD and getattr(event, "mm", "a") == "a":
            self.note(HEARD[type(event)])

    def store(self, iommu: Any, place: int, entry: PasidEntry) -> None:
        STORE(iommu, place, entry)
        self.note("quiet entry" if entry == PasidEntry(fpd=True) else "P is cleared" if entry else "entry is 0")

    def submit(self, iommu: Any, descs: Any, *, drain: bool = False) -> object:
        outcome = SUBMIT(iommu, descs, drain=drain)
        self.note("drain" if drain else type(descs[0]).__name__)
        return outcome


STORE, SUBMIT = pasid_module._store, qi.qi_submit_sync
HEARD: dict[type[events.Event], str] = {
    events.MmReleased: "pages are free",
    events.MmDropped: "the mm is free",
    events.DomainFreed: "the domain is free",
}


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize("device", ["acc0", "dsa0"])
def test_a_process_that_exits_goes_in_order_while_its_device_works_on(kernel: str, device: str) -> None:
    m = VtdMachine(acc(), dsa(), kernel=kernel)
    number = m.bind(device, "a", "h").pasid
    assert number is not None
    m.fork("a", "keeper of the file")
    m.store("a", DATA, b"x")
    m.raw(number, device=device)
    trace = Trace(m, device, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pasid_module, "_store", trace.store)
        for module in (qi, prq):
            patch.setattr(module, "qi_submit_sync", trace.submit)
        patch.setattr(IdxdDriver, "idxd_device_drain_pasid", lambda driver, pasid: trace.note("the driver stops"))
        m.exit("a")
        assert trace.steps == [
            "P is cleared",
            "DMA lands",
            "PasidCacheInvalidate",
            "PasidIotlbInvalidate",
            "PasidDeviceTlbInvalidate",
            "DMA is recorded",
            "quiet entry",
            "DMA is blocked",
            "pages are free",
        ]
        trace.steps.clear()
        m.exit("keeper of the file")
    assert trace.steps == [
        *(["the driver stops", "DMA is blocked"] if device == "dsa0" else []),
        "entry is 0",
        "DMA is recorded",
        "drain",
        "the mm is free",
        "the domain is free",
    ]
    refused(m, number, device=device)

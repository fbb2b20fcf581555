"""Page requests: the queue, its overflow, requests that are held up, refusals, and a device that asks for pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pasidlab.hw.pagetable.contract import ALL_RIGHTS
from pasidlab.hw.transaction import Ats, AtsStatus, Transferred, Translated
from pasidlab.hw.vtd.descriptors import InvalidationWait
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.port import GROUPS, DmaPort, PageRefused
from pasidlab.hw.vtd.records import PAGE_REQUEST, PageRequest, Reason, ResponseCode
from pasidlab.hw.vtd.registers import Offset, Prs
from pasidlab.hw.vtd.request import Blocked, Outcome, Request, TranslationCompletion
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.memory import Memory
from pasidlab.rules import RULES
from tests.vtd_rig import REQUESTS, SOURCE, Rig

PASID = 0x12345
ROOM = 4096 // 32 - 1
"""Requests for which a queue of one page has room."""


def started(*, pqs: int = 0, **features: Any) -> Rig:
    rig = Rig(**features)
    rig.start_queue()
    rig.start_requests(pqs=pqs)
    return rig


def answer(index: int, code: int, pasid: int | None = None, rid: int = SOURCE) -> tuple[Any, ...]:
    return ("page_group_response", rid, pasid, index, code)


def asked(rig: Rig) -> list[int]:
    """Return the pages in the queue, oldest first."""
    head, tail = rig.read(Offset.PQH).pqh, rig.read(Offset.PQT).pqt
    size = 4096 << rig.read(Offset.PQA).pqs
    return [rig.requested((head + at) % size // 32).addr >> 12 for at in range(0, (tail - head) % size, 32)]


# --- the queue -----------------------------------------------------------------------------------------------------


def test_a_request_goes_into_the_queue_as_the_device_made_it() -> None:
    rig = started()
    rig.ask(0x1234_5678_9ABCD, index=0x1FF, pp=True, pasid=PASID, exe=True, pr=True, wr=True)
    qword0, qword1, *rest = rig.requested(0).words
    assert qword0 == 1 | 1 << 8 | SOURCE << 16 | PASID << 32 | 1 << 52 | 1 << 53
    assert qword1 == 1 | 1 << 1 | 1 << 2 | 0x1FF << 3 | 0x1234_5678_9ABCD << 12
    assert rest == [0, 0]
    assert rig.read(Offset.PQT).pqt == 32
    assert rig.read(Offset.PRS) == Prs(ppr=True)
    assert rig.calls == []


def test_a_stop_marker_is_queued() -> None:
    rig = started()
    rig.ask(pp=True, pasid=PASID, rd=False)
    assert rig.requested(0) == PageRequest(type=PAGE_REQUEST, pp=True, rid=SOURCE, pasid=PASID, lpig=True)


@pytest.mark.parametrize("pqs", [0, 1, 7])
def test_the_queue_wraps_at_its_size(pqs: int) -> None:
    rig = started(pqs=pqs)
    entries = (4096 << pqs) // 32
    rig.write(Offset.PQH, pqh=(entries - 1) * 32)
    rig.write(Offset.PQT, pqt=(entries - 1) * 32)
    rig.ask(1)
    rig.ask(2)
    assert asked(rig) == [1, 2]
    assert rig.read(Offset.PQT).pqt == 32


def test_each_queued_request_sets_ppr_and_the_event_comes_again_only_after_ppr_was_cleared() -> None:
    rig = started()
    rig.unmask(Offset.PECTL)
    rig.ask()
    rig.ask()
    assert rig.irqs == ["page_request"]
    rig.write(Offset.PRS, ppr=True)
    assert rig.read(Offset.PRS) == 0
    rig.ask()
    assert (rig.irqs, rig.read(Offset.PRS)) == (["page_request"] * 2, Prs(ppr=True))


# --- overflow ------------------------------------------------------------------------------------------------------


def fill(rig: Rig, requests: int = ROOM) -> None:
    for page in range(requests):
        rig.ask(page)


def test_a_full_queue_has_one_free_place() -> None:
    rig = started()
    fill(rig)
    assert not rig.read(Offset.PRS).pro
    rig.ask(ROOM)
    assert rig.read(Offset.PRS).pro
    assert asked(rig) == list(range(ROOM))


def test_what_finds_no_room_is_answered_with_success_if_it_ends_its_group() -> None:
    rig = started()
    fill(rig)
    rig.ask(1, index=1, last=False)
    rig.ask(2, index=2)
    rig.ask(3, index=3, pp=True, pasid=PASID)
    rig.ask(index=4, pp=True, pasid=PASID, rd=False)
    assert rig.calls == [answer(2, 0), answer(3, 0, PASID)]
    assert rig.rules == ["vtd.page-request-overflow"] * 4
    assert "0x6a01" in rig.refused[0].why


def test_after_an_overflow_nothing_is_queued_until_pro_is_cleared_even_where_there_is_room() -> None:
    rig = started()
    fill(rig, ROOM + 1)
    rig.write(Offset.PQH, pqh=rig.read(Offset.PQT).pqt)
    rig.ask(77)
    assert asked(rig) == []
    rig.write(Offset.PRS, pro=True)
    rig.ask(78)
    assert asked(rig) == [78]


def test_an_overflow_is_an_event_if_no_request_was_waiting_to_be_noticed() -> None:
    rig = started()
    rig.unmask(Offset.PECTL)
    fill(rig)
    rig.write(Offset.PRS, ppr=True)
    rig.irqs.clear()
    rig.ask()
    rig.ask()
    assert rig.irqs == ["page_request"]


def test_a_request_that_cannot_be_written_fails() -> None:
    rig = started()
    rig.memory.poison(REQUESTS, 4)
    rig.ask(index=5)
    assert rig.calls == [answer(5, ResponseCode.FAILURE)]
    assert (rig.read(Offset.PQT).pqt, rig.read(Offset.PRS), rig.rules) == (0, 0, ["vtd.page-request-lost"])


def test_a_unit_without_page_requests_refuses_them() -> None:
    rig = Rig(page_requests=False)
    rig.ask(index=5)
    assert rig.calls == [answer(5, ResponseCode.FAILURE)]
    assert rig.rules == ["vtd.page-requests-absent"]


@pytest.mark.parametrize("beyond", [Offset.PQH, Offset.PQT])
def test_a_head_or_tail_beyond_the_queue_counts_modulo_its_size(beyond: Offset) -> None:
    rig = started()
    rig.write(beyond, 4096 * 3)
    rig.ask(5)
    assert rig.requested(0).addr == 5 << 12
    assert rig.read(Offset.PQT).pqt == 32


# --- held up -------------------------------------------------------------------------------------------------------


def test_requests_that_are_held_up_arrive_in_order_when_the_hold_ends() -> None:
    rig = started()
    rig.interface.page_requests.hold = True
    for page in (3, 1, 2):
        rig.ask(page)
    assert (asked(rig), len(rig.interface.page_requests.in_flight)) == ([], 3)
    assert rig.interface.page_requests.hold
    rig.interface.page_requests.hold = False
    assert asked(rig) == [3, 1, 2]


def test_a_draining_wait_lets_them_arrive_before_its_status_and_others_do_not() -> None:
    rig = started()
    rig.interface.page_requests.hold = True
    rig.ask(1)
    rig.put(rig.wait(1))
    assert (asked(rig), rig.status) == ([], 1)
    rig.put(InvalidationWait.make(pd=True))
    assert asked(rig) == [1]
    rig.ask(2)
    assert asked(rig) == [1], "the hold goes on"


def test_a_drain_into_a_full_queue_answers_what_finds_no_room() -> None:
    rig = started()
    fill(rig)
    rig.interface.page_requests.hold = True
    rig.ask(9, index=9)
    assert rig.calls == []
    rig.put(InvalidationWait.make(pd=True))
    assert rig.calls == [("drain_page_requests",), answer(9, 0)]


def test_requests_that_are_made_while_others_arrive_come_after_them() -> None:
    rig = started()
    rig.unmask(Offset.PECTL)
    rig.interface.page_requests.hold = True
    rig.ask(1)
    rig.ask(2)
    rig.interface.irq = lambda name: rig.ask(3)
    rig.interface.page_requests.hold = False
    assert asked(rig) == [1, 2, 3]


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.PRE_CLEAR, ResponseCode.INVALID),
        (Reason.CONTEXT_NOT_PRESENT, ResponseCode.FAILURE),
        (Reason.ROOT_TABLE_ADDRESS, ResponseCode.FAILURE),
        (Reason.NONE, ResponseCode.FAILURE),
    ],
)
def test_a_refused_request_is_answered_if_it_ends_its_group(reason: Reason, code: ResponseCode) -> None:
    rig = started()
    rig.target.refused[SOURCE] = reason
    rig.ask(1, index=1, last=False)
    rig.ask(2, index=2, pp=True, pasid=PASID)
    rig.ask(index=3, pp=True, pasid=PASID, rd=False)
    assert rig.calls == [answer(2, code, PASID)]
    assert (asked(rig), rig.read(Offset.PRS)) == ([], 0)
    assert rig.rules == ["vtd.output-abort"] * 3


def test_a_request_without_pasid_is_no_stop_marker_though_it_wants_nothing() -> None:
    rig = started()
    rig.target.refused[SOURCE] = Reason.PRE_CLEAR
    rig.ask(index=3, rd=False)
    assert rig.calls == [answer(3, ResponseCode.INVALID)]


def test_software_that_clears_an_overflow_in_its_interrupt_does_not_bring_the_request_back() -> None:
    rig = started()
    fill(rig)
    rig.write(Offset.PRS, ppr=True)
    rig.unmask(Offset.PECTL)
    rig.interface.irq = lambda name: rig.write(Offset.PRS, pro=True)
    rig.ask(index=9)
    assert (rig.calls, len(asked(rig)), rig.read(Offset.PRS)) == ([answer(9, 0)], ROOM, 0)


def test_a_refused_request_is_refused_before_it_can_overflow_the_queue() -> None:
    rig = started()
    fill(rig)
    rig.target.refused[SOURCE] = Reason.PRE_CLEAR
    rig.ask()
    assert not rig.read(Offset.PRS).pro


# --- a device's port -----------------------------------------------------------------------------------------------

ABSENT = RULES["vtd.output-abort"]


@dataclass
class Granting:
    """A unit whose page tables are a set of pages; software answers requests by `software`, or later."""

    present: set[int] = field(default_factory=set)
    requests: list[PageRequest] = field(default_factory=list)
    software: Callable[[PageRequest], int | None] = lambda request: None
    translations: int = 0

    def build(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> DmaPort:
        unit = RemappingUnit(Memory(), Features())
        self.port = DmaPort(unit, SOURCE, ats=True, **options)
        monkeypatch.setattr(RemappingUnit, "translate", lambda unit, request: self.translate(request))
        monkeypatch.setattr(RemappingUnit, "_translate", lambda unit, request, touches: self.translated(request))
        monkeypatch.setattr(RemappingUnit, "page_request", lambda unit, request: self.page_request(request))
        return self.port

    def translate(self, request: Request) -> TranslationCompletion:
        assert request.ats is Ats.TRANSLATION_REQUEST
        self.translations += 1
        there = request.address >> 12 in self.present
        address = request.address + 0x10_0000_0000 & -4096
        return TranslationCompletion(request, AtsStatus.SUCCESS, ABSENT, address, read=there, write=there)

    def translated(self, request: Request) -> Outcome:
        assert request.ats is Ats.TRANSLATED
        return Translated(request.address, 12, ALL_RIGHTS, ABSENT)

    def page_request(self, request: PageRequest) -> None:
        self.requests.append(request)
        code = self.software(request)
        if code is not None:
            self.port.page_response(request.pasid, request.prgi, code)


@pytest.fixture
def granting() -> Granting:
    return Granting()


def test_a_port_keeps_translations_until_they_are_invalidated(
    granting: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = granting.build(monkeypatch)
    granting.present.add(5)
    for _ in range(2):
        assert port.transfer(PASID, 0x5678, b"abc", 3) == Transferred(0x10_0000_5678, b"abc")
    assert port.transfer(PASID, 0x5678, None, 3) == Transferred(0x10_0000_5678, b"abc")
    assert granting.translations == 1
    port.unit.device_tlb(SOURCE, PASID, every_pasid=False, first=0x5000, size=0x1000)
    port.transfer(PASID, 0x5678, None, 3)
    assert granting.translations == 2


def test_supervisor_requests_do_not_use_what_users_were_granted(
    granting: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = granting.build(monkeypatch)
    granting.present.add(5)
    for privileged in (False, True, False, True):
        assert isinstance(port.transfer(PASID, 0x5000, None, 1, privileged=privileged), Transferred)
    assert granting.translations == 2


def test_a_port_asks_for_a_page_and_tries_again(granting: Granting, monkeypatch: pytest.MonkeyPatch) -> None:
    port = granting.build(monkeypatch, pri=True)

    def bring(request: PageRequest) -> int:
        granting.present.add(request.addr >> 12)
        return ResponseCode.SUCCESS

    granting.software = bring
    assert isinstance(port.transfer(PASID, 0x5678, b"x", 1), Transferred)
    assert isinstance(port.transfer(None, 0x6678, None, 1), Transferred)
    fields = [(one.pp, one.pasid, one.rd, one.wr, one.addr, one.lpig) for one in granting.requests]
    assert fields == [(True, PASID, False, True, 0x5000, True), (False, 0, True, False, 0x6000, True)]
    assert [one.rid for one in granting.requests] == [SOURCE] * 2
    assert not port.outstanding


@pytest.mark.parametrize("code", [1, 2, 0xF])
def test_any_answer_but_success_refuses_the_page(
    code: int, granting: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = granting.build(monkeypatch, pri=True)
    granting.software = lambda request: code
    outcome = port.transfer(PASID, 0x5678, b"x", 1)
    assert isinstance(outcome, PageRefused)
    assert (outcome.response, outcome.asked) == (code, True)


def test_success_without_the_page_is_refused_after_one_request(
    granting: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = granting.build(monkeypatch, pri=True)
    granting.software = lambda request: ResponseCode.SUCCESS
    outcome = port.transfer(PASID, 0x5678, b"x", 1)
    assert isinstance(outcome, PageRefused)
    assert (outcome.response, outcome.asked, len(granting.requests)) == (None, True, 1)


@pytest.mark.parametrize(("pri", "allowed"), [(False, True), (True, False)])
def test_a_port_asks_only_where_it_may(
    pri: bool, allowed: bool, granting: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = granting.build(monkeypatch, pri=pri)
    outcome = port.transfer(PASID, 0x5678, b"x", 1, page_requests=allowed)
    assert isinstance(outcome, PageRefused)
    assert (outcome.asked, granting.requests) == (False, [])


def test_answers_may_come_later_and_in_any_order(granting: Granting, monkeypatch: pytest.MonkeyPatch) -> None:
    port = granting.build(monkeypatch, pri=True)
    waiting = [port.transfer(PASID, page << 12, None, 1) for page in (1, 2, 3)]
    indexes = [one.prg_index for one in waiting if isinstance(one, PageRefused)]
    assert indexes == [0, 1, 2]
    port.page_response(PASID, 2, 0)
    port.page_response(PASID, 0, 1)
    assert [port.answer(index) for index in (0, 1, 2)] == [1, None, 0]
    assert port.outstanding == {1}
    port.page_response(PASID, 0, 0)
    assert (port.unexpected, port.answer(0)) == (1, None)


def test_indexes_go_round_and_skip_outstanding_ones(granting: Granting, monkeypatch: pytest.MonkeyPatch) -> None:
    port = granting.build(monkeypatch, pri=True)
    request = Request(SOURCE, PASID)
    assert [port.request_page(request) for _ in range(GROUPS + 1)] == [*range(GROUPS), None]
    outcome = port.transfer(PASID, 0x1000, None, 1)
    assert isinstance(outcome, PageRefused)
    assert not outcome.asked
    port.page_response(PASID, 300, 0)
    assert port.request_page(request) is None, "the answer was not taken yet"
    assert port.answer(300) == 0
    assert port.request_page(request) == 300


def test_a_hung_device_does_not_answer_an_invalidation(granting: Granting, monkeypatch: pytest.MonkeyPatch) -> None:
    port = granting.build(monkeypatch)
    port.atc.hung = True
    port.unit.device_tlb(SOURCE, None, every_pasid=False, first=0, size=None)
    port.unit.device_tlb(SOURCE + 1, None, every_pasid=False, first=0, size=None)
    assert port.unit.device_tlb_timed_out() == SOURCE
    assert port.unit.device_tlb_timed_out() is None


def test_the_first_of_several_hung_devices_is_named(granting: Granting, monkeypatch: pytest.MonkeyPatch) -> None:
    port = granting.build(monkeypatch)
    other = DmaPort(port.unit, SOURCE + 1, ats=True)
    port.atc.hung = other.atc.hung = True
    for source in (SOURCE, SOURCE + 1):
        port.unit.device_tlb(source, None, every_pasid=False, first=0, size=None)
    assert port.unit.device_tlb_timed_out() == SOURCE


def test_a_page_request_says_whether_it_is_for_the_supervisor(
    granting: Granting, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = granting.build(monkeypatch, pri=True)
    for privileged in (False, True):
        port.transfer(PASID, 0x5000, None, 1, privileged=privileged)
    assert [one.pr for one in granting.requests] == [False, True]


def test_a_stop_marker_of_a_port_is_one(granting: Granting, monkeypatch: pytest.MonkeyPatch) -> None:
    port = granting.build(monkeypatch, pri=True)
    port.stop_marker(PASID)
    assert granting.requests == [PageRequest(rid=SOURCE, pp=True, pasid=PASID, lpig=True)]


def test_without_ats_a_port_makes_plain_requests() -> None:
    unit = RemappingUnit(Memory())
    port = DmaPort(unit, SOURCE)
    assert port.transfer(None, 0x5000, b"abc", 3) == Transferred(0x5000, b"abc")
    assert isinstance(port.transfer(PASID, 0x5000, b"abc", 3), Blocked)
    unit.memory.poison(0x5000, 1)
    outcome = port.transfer(None, 0x5000, None, 3)
    assert isinstance(outcome, Blocked)
    assert (outcome.rule.id, outcome.reason) == ("vtd.output-abort", Reason.NONE)
    assert outcome.rule.sentence(outcome.facts)


def test_a_transfer_that_no_bus_carries_is_an_error_of_the_caller() -> None:
    unit = RemappingUnit(Memory())
    with pytest.raises(ValueError, match="no access within 4096"):
        unit.dma_read(Request(SOURCE, None, 0xFFF), 2)
    with pytest.raises(ValueError, match="no access within 4096"):
        unit.dma_write(Request(SOURCE, None, 0, ats=Ats.TRANSLATION_REQUEST), b"x")

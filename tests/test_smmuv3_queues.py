from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.smmuv3.commands import CfgiCdAll, Sync
from pasidlab.hw.smmuv3.queues import COMMAND_BYTES, EVENT_BYTES, InputQueue, OutputQueue
from pasidlab.hw.smmuv3.records import CBadSte, Event, FTranslation, PriRecord
from pasidlab.hw.smmuv3.registers import (
    CmdqBase,
    CmdqCons,
    CmdqProd,
    EventqBase,
    EventqCons,
    EventqProd,
    Gerror,
    Offset,
)
from pasidlab.memory import Memory

from .smmuv3_rig import CMDQ, EVENTQ, MSI, PRIQ, Rig


def input_queue(log2size: int, wr: int, rd: int, limit: int = 19) -> InputQueue:
    base = CmdqBase(addr=CMDQ, log2size=log2size)
    return InputQueue(Memory(), base, CmdqProd(wr=wr), CmdqCons(rd=rd), COMMAND_BYTES, limit)


def output_queue(log2size: int, wr: int, rd: int) -> OutputQueue:
    base = EventqBase(addr=EVENTQ, log2size=log2size)
    return OutputQueue(Memory(), base, EventqProd(wr=wr), EventqCons(rd=rd), EVENT_BYTES, 19)


def event(sid: int) -> Event:
    return CBadSte.make(sid=sid)


def stall(sid: int) -> Event:
    return FTranslation.make(sid=sid, stall=True, stag=sid)


def page_request(sid: int, last: bool = False) -> PriRecord:
    return PriRecord(sid=sid, r=True, last=last)


# Index arithmetic


@pytest.mark.parametrize(
    ("wr", "rd", "waiting"),
    [(0, 0, 0), (1, 0, 1), (4, 0, 4), (0, 4, 4), (1, 6, 3), (7, 7, 0), (4, 1, 3), (3, 7, 4)],
)
def test_the_wrap_bit_tells_empty_from_full(wr: int, rd: int, waiting: int) -> None:
    assert input_queue(2, wr, rd).distance == waiting
    queue = output_queue(2, wr, rd)
    assert queue.is_empty == (waiting == 0)
    assert queue.is_full == (waiting == 4)
    assert input_queue(2, wr, rd).has_work == (waiting > 0)


@pytest.mark.parametrize(("wr", "rd"), [(5, 0), (7, 0), (0, 1), (2, 4), (6, 1)])
def test_inconsistent_indexes_give_no_work_and_no_room(wr: int, rd: int) -> None:
    assert not input_queue(2, wr, rd).has_work
    assert output_queue(2, wr, rd).is_full


def test_pending_entries_are_those_between_the_indexes_in_their_order() -> None:
    queue = input_queue(2, wr=1, rd=6)
    commands = [CfgiCdAll.make(sid=sid) for sid in range(4)]
    for index, command in enumerate(commands):
        queue.memory.store(CMDQ + 16 * index, command.pack())
    assert list(queue.pending()) == [commands[2], commands[3], commands[0]]
    queue.memory.poison(CMDQ + 48, 16)
    assert list(queue.pending()) == [commands[2], 0, commands[0]], "memory that does not answer"
    assert queue.cons.rd == 6


@pytest.mark.parametrize(("wr", "rd"), [(3, 3), (2, 4), (6, 1)])
def test_nothing_is_pending_between_equal_or_inconsistent_indexes(wr: int, rd: int) -> None:
    assert list(input_queue(2, wr, rd).pending()) == []


def test_a_queue_of_one_entry_has_only_a_wrap_bit() -> None:
    assert input_queue(0, 1, 0).has_work
    assert not input_queue(0, 1, 1).has_work
    assert output_queue(0, 1, 0).is_full


def test_index_bits_above_the_size_do_not_count() -> None:
    queue = input_queue(2, 0xFF8 | 3, 0x10 | 2)
    assert queue.distance == 1
    queue.trim()
    assert (queue.prod.wr, queue.cons.rd) == (3, 2)


def test_a_size_above_the_limit_acts_as_the_limit() -> None:
    queue = input_queue(31, 0, 0, limit=3)
    assert queue.entries == 8
    assert queue.base.log2size == 31


def test_index_registers_show_no_bits_above_the_size() -> None:
    rig = Rig()
    rig.write(Offset.EVENTQ_BASE, log2size=2)
    rig.write(Offset.EVENTQ_PROD, wr=0xFFFFF)
    assert rig.read(Offset.EVENTQ_PROD).wr == 7
    rig.write(Offset.EVENTQ_BASE, log2size=1)
    assert rig.read(Offset.EVENTQ_PROD).wr == 3
    rig.write(Offset.EVENTQ_BASE, log2size=4)
    assert rig.read(Offset.EVENTQ_PROD).wr == 3


def test_the_base_counts_as_aligned_to_the_queue() -> None:
    rig = Rig()
    rig.write(Offset.EVENTQ_BASE, addr=EVENTQ + 0x60, log2size=2)
    rig.enable(eventqen=True)
    rig.interface.record_event(event(1))
    assert rig.record_at(EVENTQ, 0, Event).sid == 1
    assert rig.read(Offset.EVENTQ_BASE).addr == EVENTQ + 0x60


@settings(max_examples=300)
@given(
    log2size=st.integers(0, 5),
    start=st.integers(0, 63),
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12),
)
def test_an_output_queue_agrees_with_a_list(log2size: int, start: int, steps: list[tuple[int, int]]) -> None:
    rig = Rig()
    rig.start_output("EVENTQ", log2size, start & (2 << log2size) - 1)
    waiting: list[int] = []
    sid = 0
    lost = False
    for produced, consumed in steps:
        for _ in range(produced):
            sid += 1
            rig.interface.record_event(event(sid))
            if len(waiting) < 1 << log2size:
                waiting.append(sid)
            else:
                lost = True
        for _ in range(min(consumed, len(waiting))):
            cons = rig.read(Offset.EVENTQ_CONS)
            assert rig.record_at(EVENTQ, cons.rd & (1 << log2size) - 1, Event).sid == waiting.pop(0)
            rig.write(Offset.EVENTQ_CONS, cons, rd=cons.rd + 1 & (2 << log2size) - 1)
        ahead = rig.read(Offset.EVENTQ_PROD).wr - rig.read(Offset.EVENTQ_CONS).rd & (2 << log2size) - 1
        assert ahead == len(waiting)
    assert rig.read(Offset.EVENTQ_PROD).ovflg == lost


# Event queue


def test_events_are_written_in_order_and_wrap() -> None:
    rig = Rig()
    rig.start_output("EVENTQ", 2, at=3)
    for sid in (1, 2, 3):
        rig.interface.record_event(event(sid))
    assert [rig.record_at(EVENTQ, index, Event) for index in (3, 0, 1)] == [event(1), event(2), event(3)]
    assert rig.read(Offset.EVENTQ_PROD).wr == 6


def test_an_event_without_the_queue_is_lost_without_overflow() -> None:
    rig = Rig()
    rig.interface.record_event(event(1))
    rig.start_output("EVENTQ")
    assert rig.read(Offset.EVENTQ_PROD) == 0
    assert rig.memory.touched_pages == 0
    assert [refused.rule.id for refused in rig.refused] == ["smmu.event-lost"]
    assert rig.refused[0].why == "CBadSte(code=C_BAD_STE, sid=0x1) is lost: the event queue is off"


def test_a_full_event_queue_overflows_once_until_acknowledged() -> None:
    rig = Rig()
    rig.start_output("EVENTQ", 1)
    for sid in range(5):
        rig.interface.record_event(event(sid))
    prod = rig.read(Offset.EVENTQ_PROD)
    assert (prod.wr, prod.ovflg) == (2, True)
    assert [rig.record_at(EVENTQ, index, Event).sid for index in (0, 1)] == [0, 1]
    rig.write(Offset.EVENTQ_CONS, rd=2, ovackflg=True)
    for sid in range(3):
        rig.interface.record_event(event(sid))
    assert not rig.read(Offset.EVENTQ_PROD).ovflg, "a second overflow toggles back"


def test_an_unacknowledged_overflow_does_not_keep_events_out() -> None:
    rig = Rig()
    rig.start_output("EVENTQ", 0)
    rig.interface.record_event(event(1))
    rig.interface.record_event(event(2))
    rig.write(Offset.EVENTQ_CONS, rd=1)
    rig.interface.record_event(event(3))
    assert rig.record_at(EVENTQ, 0, Event).sid == 3
    assert rig.read(Offset.EVENTQ_PROD).ovflg


def test_stall_events_wait_for_room_and_cause_no_overflow() -> None:
    rig = Rig()
    rig.start_output("EVENTQ", 0)
    for sid in (1, 2, 3):
        rig.interface.record_event(stall(sid), stalled=True)
    assert not rig.read(Offset.EVENTQ_PROD).ovflg
    seen = []
    for _ in range(3):
        seen.append(rig.record_at(EVENTQ, 0, FTranslation).stag)
        rig.write(Offset.EVENTQ_CONS, rd=rig.read(Offset.EVENTQ_PROD).wr)
    assert seen == [1, 2, 3]
    assert rig.read(Offset.EVENTQ_PROD).wr == rig.read(Offset.EVENTQ_CONS).rd
    assert not rig.refused


def test_stall_events_wait_for_the_queue_to_be_enabled() -> None:
    rig = Rig()
    rig.interface.record_event(stall(1), stalled=True)
    rig.start_output("EVENTQ")
    assert rig.record_at(EVENTQ, 0, FTranslation) == stall(1)
    assert rig.read(Offset.EVENTQ_PROD).wr == 1


def test_waiting_stall_events_can_be_withdrawn() -> None:
    rig = Rig()
    for sid in (1, 2, 3):
        rig.interface.record_event(stall(sid), stalled=True)
    rig.interface.recorder.withdraw(lambda waiting: waiting.sid == 2)
    rig.start_output("EVENTQ")
    assert [rig.record_at(EVENTQ, index, Event).sid for index in (0, 1)] == [1, 3]
    assert rig.read(Offset.EVENTQ_PROD).wr == 2


def test_an_aborted_event_write_closes_the_queue_until_acknowledged() -> None:
    rig = Rig()
    rig.start_output("EVENTQ")
    rig.memory.poison(EVENTQ, 1)
    rig.interface.record_event(event(1))
    rig.memory.heal()
    rig.interface.record_event(event(2))
    assert rig.errors() == Gerror.mask("eventq_abt_err")
    assert rig.read(Offset.EVENTQ_PROD) == 0
    assert [lost.rule.id for lost in rig.refused] == ["smmu.event-lost"] * 2
    rig.acknowledge()
    rig.interface.record_event(event(3))
    assert rig.record_at(EVENTQ, 0, Event).sid == 3


def test_a_stall_event_survives_the_abort_of_its_write() -> None:
    rig = Rig()
    rig.start_output("EVENTQ")
    rig.memory.poison(EVENTQ, 1)
    rig.interface.record_event(stall(1), stalled=True)
    rig.acknowledge()
    assert rig.errors() == Gerror.mask("eventq_abt_err"), "tried again, aborted again"
    rig.memory.heal()
    rig.acknowledge()
    assert rig.errors() == 0
    assert rig.record_at(EVENTQ, 0, FTranslation) == stall(1)


def test_software_that_acknowledges_within_the_interrupt_is_not_called_forever() -> None:
    rig = Rig()
    rig.start_output("EVENTQ")
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    rig.memory.poison(EVENTQ, 1)
    rig.interface.irq = lambda name: rig.acknowledge()
    rig.interface.record_event(stall(1), stalled=True)
    assert rig.errors() == 0
    assert list(rig.interface.recorder.waiting) == [stall(1)]


def test_the_event_interrupt_fires_when_the_queue_was_empty() -> None:
    rig = Rig()
    rig.start_output("EVENTQ")
    rig.interface.record_event(event(1))
    assert rig.irqs == []
    rig.write(Offset.EVENTQ_CONS, rd=1)
    rig.write(Offset.IRQ_CTRL, eventq_irqen=True)
    rig.interface.record_event(event(2))
    rig.interface.record_event(event(3))
    assert rig.irqs == ["eventq"]
    rig.write(Offset.EVENTQ_CONS, rd=3)
    rig.interface.record_event(event(4))
    assert rig.irqs == ["eventq", "eventq"]


def test_the_event_interrupt_comes_after_its_message_and_the_record() -> None:
    rig = Rig()
    rig.write(Offset.EVENTQ_IRQ_CFG0, addr=MSI)
    rig.write(Offset.EVENTQ_IRQ_CFG1, data=0xAB)
    rig.write(Offset.IRQ_CTRL, eventq_irqen=True)
    rig.start_output("EVENTQ")
    seen: list[tuple[str, bytes | None, int]] = []
    rig.interface.irq = lambda name: seen.append((name, rig.memory.load(MSI, 4), rig.read(Offset.EVENTQ_PROD).wr))
    rig.interface.record_event(event(1))
    assert seen == [("eventq", b"\xab\0\0\0", 1)]


def test_software_may_consume_within_the_interrupt() -> None:
    rig = Rig()
    for sid in range(300):
        rig.interface.record_event(stall(sid), stalled=True)
    seen: list[int] = []

    def consume(name: str) -> None:
        seen.append(rig.record_at(EVENTQ, 0, Event).sid)
        rig.write(Offset.EVENTQ_CONS, rd=rig.read(Offset.EVENTQ_PROD).wr)

    rig.interface.irq = consume
    rig.write(Offset.IRQ_CTRL, eventq_irqen=True)
    rig.start_output("EVENTQ", 0)
    assert seen == list(range(300))


# PRI queue


def pri_rig(log2size: int = 1) -> Rig:
    rig = Rig(ats=True, pri=True)
    rig.start_output("PRIQ", log2size)
    return rig


def test_page_requests_are_written_in_order() -> None:
    rig = pri_rig()
    assert rig.interface.record_page_request(page_request(1))
    assert rig.interface.record_page_request(page_request(2, last=True))
    assert [rig.record_at(PRIQ, index, PriRecord) for index in (0, 1)] == [page_request(1), page_request(2, last=True)]
    assert rig.read(Offset.PRIQ_PROD).wr == 2


@pytest.mark.parametrize("off", ["priqen", "smmuen"])
def test_page_requests_are_dropped_while_the_queue_is_off(off: str) -> None:
    rig = pri_rig()
    rig.enable(**{off: False})
    assert not rig.interface.record_page_request(page_request(1))
    assert not rig.interface.priq_overflows
    assert rig.read(Offset.PRIQ_PROD) == 0
    assert rig.refused[-1].why == "a page request of stream 0x1 is lost: the PRI queue is off"


def test_an_overflow_keeps_page_requests_out_until_acknowledged() -> None:
    rig = pri_rig(0)
    assert rig.interface.record_page_request(page_request(1))
    assert not rig.interface.record_page_request(page_request(2))
    assert rig.interface.priq_overflows
    rig.write(Offset.PRIQ_CONS, rd=1)
    assert not rig.interface.record_page_request(page_request(3)), "there is room, but software has not acknowledged"
    assert rig.read(Offset.PRIQ_PROD) == EventqProd(wr=1, ovflg=True)
    rig.write(Offset.PRIQ_CONS, rd=1, ovackflg=True)
    assert not rig.interface.priq_overflows
    assert rig.interface.record_page_request(page_request(4))
    assert rig.record_at(PRIQ, 0, PriRecord).sid == 4


def test_an_aborted_page_request_closes_the_queue_until_acknowledged() -> None:
    rig = pri_rig()
    rig.memory.poison(PRIQ, 16)
    assert not rig.interface.record_page_request(page_request(1))
    rig.memory.heal()
    assert not rig.interface.record_page_request(page_request(1))
    assert not rig.interface.priq_overflows
    assert rig.errors() == Gerror.mask("priq_abt_err")
    rig.acknowledge()
    assert rig.interface.record_page_request(page_request(1))


def test_the_pri_interrupt_fires_when_the_queue_was_empty() -> None:
    rig = pri_rig()
    rig.write(Offset.IRQ_CTRL, priq_irqen=True)
    rig.interface.record_page_request(page_request(1))
    rig.interface.record_page_request(page_request(2, last=True))
    assert rig.irqs == ["priq"]


def test_the_pri_interrupt_fires_for_last_requests_where_software_says_so() -> None:
    rig = pri_rig()
    rig.write(Offset.PRIQ_IRQ_CFG2, lo=True)
    rig.write(Offset.IRQ_CTRL, priq_irqen=True)
    rig.interface.record_page_request(page_request(1))
    assert rig.irqs == []
    rig.interface.record_page_request(page_request(1, last=True))
    assert rig.irqs == ["priq"]
    rig.interface.record_page_request(page_request(2))
    assert rig.irqs == ["priq"]
    rig.interface.record_page_request(page_request(2, last=True))
    assert rig.irqs == ["priq", "priq"], "also when an overflow drops it"


def test_an_aborted_pri_message_is_an_error() -> None:
    rig = pri_rig()
    rig.memory.poison(MSI, 4)
    rig.write(Offset.PRIQ_IRQ_CFG0, addr=MSI)
    rig.write(Offset.IRQ_CTRL, priq_irqen=True)
    assert rig.interface.record_page_request(page_request(1))
    assert rig.errors() == Gerror.mask("msi_priq_abt_err")
    assert rig.irqs == []


# Command queue


def test_commands_wait_for_the_queue_to_be_enabled() -> None:
    rig = Rig()
    rig.write(Offset.CMDQ_BASE, addr=CMDQ, log2size=3)
    rig.put(CfgiCdAll.make(sid=1), CfgiCdAll.make(sid=2))
    assert rig.target.calls == []
    rig.enable(cmdqen=True)
    assert rig.target.calls == [("cfgi_cd_all", 1), ("cfgi_cd_all", 2)]
    assert rig.read(Offset.CMDQ_CONS) == rig.read(Offset.CMDQ_PROD) == 2


def test_commands_wrap() -> None:
    rig = Rig()
    rig.start_commands(1, at=1)
    for sid in range(9):
        rig.put(CfgiCdAll.make(sid=sid))
    assert rig.target.calls == [("cfgi_cd_all", sid) for sid in range(9)]
    assert rig.read(Offset.CMDQ_CONS).rd == (1 + 9) & 3


def test_a_full_command_queue_is_consumed() -> None:
    rig = Rig()
    rig.start_commands(2, at=6)
    rig.put(*(CfgiCdAll.make(sid=sid) for sid in range(4)))
    assert len(rig.target.calls) == 4
    assert rig.read(Offset.CMDQ_CONS).rd == 2


def test_an_inconsistent_command_queue_is_not_consumed() -> None:
    rig = Rig()
    rig.start_commands(2)
    rig.write(Offset.CMDQ_PROD, wr=5)
    assert rig.target.calls == []
    assert rig.read(Offset.CMDQ_CONS) == 0
    rig.write(Offset.CMDQ_PROD, wr=0)
    rig.put(CfgiCdAll.make(sid=1))
    assert rig.target.calls == [("cfgi_cd_all", 1)]


def test_a_command_queue_larger_than_the_limit_acts_as_the_limit() -> None:
    rig = Rig(cmdq_bits=1)
    rig.start_commands(8)
    for sid in range(3):
        rig.memory.store(CMDQ + 16 * (sid & 1), CfgiCdAll.make(sid=sid).pack())
        rig.write(Offset.CMDQ_PROD, wr=sid + 1)
    assert rig.target.calls == [("cfgi_cd_all", 0), ("cfgi_cd_all", 1), ("cfgi_cd_all", 2)]


def test_software_may_produce_within_the_interrupt_of_a_command() -> None:
    rig = Rig()
    left = list(range(20))

    def produce(name: str) -> None:
        assert rig.read(Offset.CMDQ_CONS) == rig.read(Offset.CMDQ_PROD), "SYNC is consumed before it signals"
        if left:
            rig.put(CfgiCdAll.make(sid=left.pop(0)), Sync.make(cs=1))

    rig.interface.irq = produce
    rig.start_commands(1)
    rig.put(Sync.make(cs=1))
    assert rig.target.calls == [("cfgi_cd_all", sid) for sid in range(20)]

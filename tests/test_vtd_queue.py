"""The invalidation queue: every descriptor, every error, waits, and devices that do not answer."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.hw.vtd.descriptors import (
    ContextCacheInvalidate,
    Descriptor,
    DeviceTlbInvalidate,
    InterruptEntryCacheInvalidate,
    InvalidationWait,
    IotlbInvalidate,
    PageGroupResponse,
    PasidCacheGranularity,
    PasidCacheInvalidate,
    PasidDeviceTlbInvalidate,
    PasidIotlbGranularity,
    PasidIotlbInvalidate,
)
from pasidlab.hw.vtd.registers import Granularity, Ics, Offset, QueueError, Rtaddr, Ttm
from pasidlab.hw.vtd.signals import STORM
from tests.vtd_rig import QUEUE, SOURCE, STATUS, Rig

PASID = 0x12345
G, PG, CG = Granularity, PasidIotlbGranularity, PasidCacheGranularity
EVERYTHING = 0x7FFF_FFFF_FFFF_F000


def started(*, dw: bool = True, qs: int = 0, **features: Any) -> Rig:
    rig = Rig(**features)
    rig.start_queue(dw=dw, qs=qs)
    return rig


def stopped(rig: Rig) -> QueueError | None:
    """Return why the queue stopped, or None if it did not."""
    assert rig.fsts.iqe == bool(rig.rules and rig.rules[-1].startswith("vtd.qi-"))
    return QueueError(rig.read(Offset.IQER).iqei) if rig.fsts.iqe else None


# --- what descriptors do -------------------------------------------------------------------------------------------

DESCRIPTORS = [
    (ContextCacheInvalidate.make(g=G.GLOBAL, did=9), ("context_cache", None, None, 0)),
    (ContextCacheInvalidate.make(g=G.DOMAIN, did=9), ("context_cache", 9, None, 0)),
    (ContextCacheInvalidate.make(g=G.SELECTIVE, did=9, sid=SOURCE, fm=3), ("context_cache", 9, SOURCE, 3)),
    (IotlbInvalidate.make(g=G.GLOBAL, did=9, dw=True, dr=True), ("iotlb", None, None, 0, False)),
    (IotlbInvalidate.make(g=G.DOMAIN, did=9), ("iotlb", 9, None, 0, False)),
    (IotlbInvalidate.make(g=G.SELECTIVE, did=9, am=1, addr=0x3000), ("iotlb", 9, 0x2000, 0x2000, False)),
    (IotlbInvalidate.make(g=G.SELECTIVE, did=9, ih=True, addr=0x3000), ("iotlb", 9, 0x3000, 0x1000, True)),
    (DeviceTlbInvalidate.make(sid=SOURCE, addr=0x5000), ("device_tlb", SOURCE, None, False, 0x5000, 0x1000)),
    (DeviceTlbInvalidate.make(sid=SOURCE, addr=0x5000, s=True), ("device_tlb", SOURCE, None, False, 0x4000, 0x4000)),
    (DeviceTlbInvalidate.make(sid=SOURCE, addr=EVERYTHING, s=True), ("device_tlb", SOURCE, None, False, 0, None)),
    (PasidIotlbInvalidate.make(g=PG.PASID, did=1, pasid=PASID), ("pasid_iotlb", 1, PASID, None, 0, False)),
    (
        PasidIotlbInvalidate.make(g=PG.PAGES, did=1, pasid=PASID, am=2, ih=True, addr=0x7000),
        ("pasid_iotlb", 1, PASID, 0x4000, 0x4000, True),
    ),
    (PasidCacheInvalidate.make(g=CG.GLOBAL, did=1, pasid=PASID), ("pasid_cache", None, None)),
    (PasidCacheInvalidate.make(g=CG.DOMAIN, did=1, pasid=PASID), ("pasid_cache", 1, None)),
    (PasidCacheInvalidate.make(g=CG.PASID, did=1, pasid=PASID), ("pasid_cache", 1, PASID)),
    (
        PasidDeviceTlbInvalidate.make(sid=SOURCE, pasid=PASID, addr=0x5000),
        ("device_tlb", SOURCE, PASID, False, 0x5000, 0x1000),
    ),
    (
        PasidDeviceTlbInvalidate.make(sid=SOURCE, pasid=PASID, g=True, s=True, addr=EVERYTHING),
        ("device_tlb", SOURCE, PASID, True, 0, None),
    ),
    (
        PageGroupResponse.make(rid=SOURCE, pp=True, pasid=PASID, rc=1, lpig=True, prgi=0x1A),
        ("page_group_response", SOURCE, PASID, 0x1A, 1),
    ),
    (PageGroupResponse.make(rid=SOURCE, pasid=PASID, rc=2), ("page_group_response", SOURCE, None, 0, 2)),
]


@pytest.mark.parametrize(("descriptor", "call"), DESCRIPTORS, ids=[call[0] for _, call in DESCRIPTORS])
@pytest.mark.parametrize("dw", [True, False], ids=["256", "128"])
def test_a_descriptor_reaches_its_target(descriptor: Descriptor, call: tuple[Any, ...], dw: bool) -> None:
    rig = started(dw=dw)
    rig.put(descriptor)
    assert rig.calls == [call]
    assert rig.head == (32 if dw else 16)
    assert stopped(rig) is None


GOLDEN = [
    ((0x0001_2345_0001_0017, 0), ("pasid_cache", 1, PASID)),
    ((0x0001_2345_0001_0026, 0), ("pasid_iotlb", 1, PASID, None, 0, False)),
    ((0x0001_2345_6A01_0008, 0x7FFF_FFFF_FFFF_F800), ("device_tlb", SOURCE, PASID, False, 0, None)),
    ((0x0001_2345_6A01_0019, 0xD4), ("page_group_response", SOURCE, PASID, 0x1A, 0)),
]


@pytest.mark.parametrize(("words", "call"), GOLDEN, ids=[call[0] for _, call in GOLDEN])
def test_known_encodings_mean_what_they_mean(words: tuple[int, int], call: tuple[Any, ...]) -> None:
    rig = started()
    rig.put(words[0] | words[1] << 64)
    assert rig.calls == [call]


@pytest.mark.parametrize("code", range(16))
def test_a_response_code_goes_on_as_software_wrote_it(code: int) -> None:
    rig = started()
    rig.put(PageGroupResponse.make(rid=SOURCE, rc=code, lpig=True))
    assert rig.calls == [("page_group_response", SOURCE, None, 0, code)]


# --- the ring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dw", "step"), [(True, 32), (False, 16)])
@pytest.mark.parametrize("qs", [0, 1, 7])
def test_the_queue_wraps_at_its_size(dw: bool, step: int, qs: int) -> None:
    rig = started(dw=dw, qs=qs)
    entries = (4096 << qs) // step
    rig.put(*[rig.wait(data) for data in range(1, entries)])
    assert (rig.head, rig.status) == ((entries - 1) * step, entries - 1)
    rig.put(rig.wait(0xAA), rig.wait(0xBB))
    assert (rig.head, rig.status) == (step, 0xBB)


def test_nothing_is_taken_while_the_queue_is_off() -> None:
    rig = Rig()
    rig.write(Offset.IQA, iqa=QUEUE, dw=True)
    rig.put(rig.wait())
    assert (rig.status, rig.head) == (0, 0)
    rig.command(qie=True)
    assert (rig.status, rig.head) == (1, 32)


def test_software_that_adds_descriptors_in_an_interrupt_is_served_in_order() -> None:
    rig = started()
    rig.unmask(Offset.IECTL)

    def more(name: str) -> None:
        rig.irqs.append(name)
        rig.put(ContextCacheInvalidate.make(g=G.GLOBAL))

    rig.interface.irq = more
    rig.put(rig.wait(if_=True), PasidCacheInvalidate.make(g=CG.GLOBAL))
    assert [call[0] for call in rig.calls] == ["pasid_cache", "context_cache"]
    assert rig.irqs == ["invalidation"]


def test_what_software_puts_into_the_queue_in_an_interrupt_is_done_when_it_looks() -> None:
    rig = started()
    rig.start_requests()
    rig.unmask(Offset.PECTL)
    rig.interface.page_requests.hold = True
    seen: list[int] = []

    def respond(name: str) -> None:
        rig.put(PageGroupResponse.make(rid=SOURCE, lpig=True), rig.wait(0xB))
        seen.append(rig.status)

    rig.interface.irq = respond
    rig.ask()
    rig.put(rig.wait(0xA, pd=True))
    assert seen == [0xB]
    assert [call[0] for call in rig.calls] == ["drain_page_requests", "page_group_response"]


def test_software_that_serves_an_event_hears_of_the_next_one_when_it_is_done() -> None:
    rig = started()
    rig.start_requests()
    rig.unmask(Offset.PECTL)
    heard: list[str] = []

    def serve(name: str) -> None:
        rig.write(Offset.PRS, ppr=True)
        heard.append("in")
        if len(heard) < 4:
            rig.ask()
        heard.append("out")

    rig.interface.irq = serve
    rig.ask()
    assert heard == ["in", "out"] * 3


# --- errors --------------------------------------------------------------------------------------------------------


def reserved_of(descriptor: Descriptor) -> list[int]:
    return [bit for bit in range(256) if type(descriptor).RESERVED >> bit & 1]


ONE_EACH = [
    next(one for one, _ in DESCRIPTORS if type(one) is kind) for kind in {type(one): None for one, _ in DESCRIPTORS}
] + [InvalidationWait.make()]


@pytest.mark.parametrize("good", ONE_EACH, ids=lambda one: type(one).__name__)
def test_each_reserved_bit_stops_the_queue(good: Descriptor) -> None:
    bits = reserved_of(good)
    assert bits
    rig = started()
    for bit in bits:
        rig.put(good | 1 << bit)
        assert stopped(rig) is QueueError.RESERVED_FIELD, bit
        assert rig.head == (rig.read(Offset.IQT).qt - 32) % 4096
        rig.memory.store(QUEUE + rig.head, good.pack())
        rig.write(Offset.FSTS, iqe=True)
        assert stopped_now(rig) is False
    assert len(rig.calls) == (0 if isinstance(good, InvalidationWait) else len(bits))


def stopped_now(rig: Rig) -> bool:
    return bool(rig.fsts.iqe)


BAD = [
    ("type", 0, QueueError.INVALID_TYPE),
    ("type", 10, QueueError.INVALID_TYPE),
    ("type", 15, QueueError.INVALID_TYPE),
    ("type", InterruptEntryCacheInvalidate.make(), QueueError.INVALID_TYPE),
    ("granularity", ContextCacheInvalidate.make(), QueueError.RESERVED_FIELD),
    ("granularity", IotlbInvalidate.make(), QueueError.RESERVED_FIELD),
    ("granularity", PasidIotlbInvalidate.make(g=PG.RESERVED_0), QueueError.RESERVED_FIELD),
    ("granularity", PasidIotlbInvalidate.make(g=PG.RESERVED_1), QueueError.RESERVED_FIELD),
    ("granularity", PasidCacheInvalidate.make(g=CG.RESERVED_2), QueueError.RESERVED_FIELD),
    ("mask", IotlbInvalidate.make(g=G.SELECTIVE, am=19), QueueError.RESERVED_FIELD),
    ("mask", PasidIotlbInvalidate.make(g=PG.PAGES, am=19), QueueError.RESERVED_FIELD),
]


@pytest.mark.parametrize(("rule", "descriptor", "error"), BAD)
def test_a_bad_descriptor_stops_the_queue_at_itself(rule: str, descriptor: int, error: QueueError) -> None:
    rig = started()
    rig.unmask(Offset.FECTL)
    rig.put(rig.wait(1), descriptor, rig.wait(2))
    assert (stopped(rig), rig.head, rig.status) == (error, 32, 1)
    assert rig.rules == [f"vtd.qi-{rule}"]
    assert rig.refused[0].why
    assert rig.irqs == ["fault"]
    rig.put(rig.wait(3))
    assert (rig.head, rig.status) == (32, 1), "nothing is taken while IQE is set"


def test_a_mended_queue_goes_on_when_iqe_is_cleared() -> None:
    rig = started()
    rig.put(0xF, rig.wait(2))
    rig.memory.store(QUEUE, rig.wait(1).pack())
    assert rig.status == 0
    rig.write(Offset.FSTS, iqe=True)
    assert (stopped_now(rig), rig.status, rig.head) == (False, 2, 64)


def test_what_is_not_mended_stops_the_queue_again() -> None:
    rig = started()
    rig.put(0xF)
    rig.write(Offset.FSTS, iqe=True)
    assert (stopped(rig), rig.head) == (QueueError.INVALID_TYPE, 0)


def test_software_that_clears_errors_and_mends_nothing_does_not_hang_the_unit() -> None:
    rig = started()
    rig.unmask(Offset.FECTL)

    def clear(name: str) -> None:
        rig.irqs.append(name)
        rig.write(Offset.FSTS, iqe=True)

    rig.interface.irq = clear
    rig.put(0xF)
    assert rig.head == 0
    assert len(rig.irqs) == STORM


def test_a_descriptor_that_cannot_be_read_stops_the_queue() -> None:
    rig = started()
    for offset, data in ((0, 1), (32, 2)):
        rig.memory.store(QUEUE + offset, rig.wait(data).pack())
    rig.memory.poison(QUEUE + 48, 1)
    rig.write(Offset.IQT, qt=64)
    assert (stopped(rig), rig.head, rig.status) == (QueueError.FETCH_ERROR, 32, 1)
    rig.memory.heal()
    rig.write(Offset.FSTS, iqe=True)
    assert rig.status == 2


@pytest.mark.parametrize("tail", [16, 48, 4096 + 16])
def test_a_tail_within_a_descriptor_of_256_bits_is_an_error(tail: int) -> None:
    rig = started()
    rig.write(Offset.IQT, qt=tail)
    assert (stopped(rig), rig.head) == (QueueError.TAIL_ALIGNMENT, 0)


def test_a_tail_beyond_the_queue_is_an_error_before_any_descriptor() -> None:
    rig = started()
    rig.memory.store(QUEUE, rig.wait(1).pack())
    rig.write(Offset.IQT, qt=4096)
    assert (stopped(rig), rig.status) == (QueueError.INVALID_TAIL, 0)
    rig.write(Offset.IQT, qt=32)
    rig.write(Offset.FSTS, iqe=True)
    assert rig.status == 1


def test_scalable_mode_needs_descriptors_of_256_bits() -> None:
    rig = started(dw=False)
    rig.put(rig.wait(1))
    rig.root(ttm=Ttm.SCALABLE)
    rig.put(rig.wait(2))
    assert (stopped(rig), rig.status) == (QueueError.INVALID_WIDTH, 1)


@pytest.mark.parametrize(
    ("mode", "features", "bad"),
    [
        (Ttm.RESERVED, {}, True),
        (Ttm.SCALABLE, {"scalable": False}, True),
        (Ttm.ABORT_DMA, {"abort_dma": False}, True),
        (Ttm.ABORT_DMA, {}, False),
        (Ttm.LEGACY, {}, False),
    ],
)
def test_the_queue_needs_a_translation_table_mode_that_exists(mode: Ttm, features: dict[str, Any], bad: bool) -> None:
    rig = started(**features)
    rig.write(Offset.RTADDR, Rtaddr(ttm=mode))
    rig.command(srtp=True)
    rig.put(rig.wait())
    assert (stopped(rig) is QueueError.INVALID_TTM) is bad
    assert rig.status == (not bad)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (DeviceTlbInvalidate, {"device_tlb": False, "page_requests": False}),
        (PasidDeviceTlbInvalidate, {"device_tlb": False, "page_requests": False}),
        (PasidDeviceTlbInvalidate, {"scalable": False}),
        (PasidIotlbInvalidate, {"scalable": False}),
        (PasidCacheInvalidate, {"scalable": False}),
        (PageGroupResponse, {"page_requests": False}),
    ],
)
def test_a_descriptor_of_an_absent_feature_is_unknown(kind: type[Descriptor], missing: dict[str, Any]) -> None:
    good = next(one for one in ONE_EACH if type(one) is kind)
    for features, error in (({}, None), (missing, QueueError.INVALID_TYPE)):
        rig = started(dw=features.get("scalable", True), **features)
        rig.put(good)
        assert stopped(rig) is error


@pytest.mark.parametrize("kind", [PasidCacheInvalidate, PasidIotlbInvalidate, PasidDeviceTlbInvalidate])
def test_a_unit_without_pasids_has_pasid_entries_all_the_same(kind: type[Descriptor]) -> None:
    """Requests without PASID go by the entry of RID_PASID, whose caches software must be able to flush."""
    rig = started(pasid_bits=0)
    rig.put(next(one for one in ONE_EACH if type(one) is kind))
    assert stopped(rig) is None


# --- waits ---------------------------------------------------------------------------------------------------------


def test_a_wait_writes_four_bytes() -> None:
    rig = started()
    rig.memory.store64(STATUS, (1 << 64) - 1)
    rig.put(rig.wait(0x1234_5678))
    assert rig.memory.load64(STATUS) == 0xFFFF_FFFF_1234_5678


def test_a_wait_without_sw_writes_nothing_and_without_if_tells_nobody() -> None:
    rig = started()
    rig.unmask(Offset.IECTL)
    rig.put(InvalidationWait.make(stdata=7, staddr=STATUS, fn=True))
    assert (rig.status, rig.irqs, rig.read(Offset.ICS), rig.head) == (0, [], 0, 32)


def test_a_wait_with_if_sets_iwc_and_a_second_one_is_no_new_event() -> None:
    rig = started()
    rig.unmask(Offset.IECTL)
    rig.put(rig.wait(if_=True), rig.wait(if_=True))
    assert (rig.irqs, rig.read(Offset.ICS)) == (["invalidation"], Ics(iwc=True))
    rig.write(Offset.ICS, iwc=True)
    rig.put(rig.wait(if_=True))
    assert rig.irqs == ["invalidation"] * 2


def test_status_that_cannot_be_written_is_lost_and_the_queue_goes_on() -> None:
    rig = started()
    rig.memory.poison(STATUS, 4)
    rig.put(rig.wait(1), rig.wait(2))
    assert (rig.rules, rig.head, stopped_now(rig)) == (["vtd.wait-status-lost"] * 2, 64, False)
    assert "0x300000" in rig.refused[0].why


def test_a_wait_with_pd_drains_page_requests_before_its_status() -> None:
    rig = started()
    seen: list[int] = []
    rig.memory.observers.append(lambda address, data: seen.append(len(rig.target.calls)) if address == STATUS else None)
    rig.put(rig.wait(pd=True))
    assert rig.calls == [("drain_page_requests",)]
    assert seen == [1]
    rig.put(rig.wait())
    assert rig.calls == []


def test_a_unit_that_cannot_drain_takes_pd_for_a_reserved_bit() -> None:
    rig = started(page_request_drain=False)
    rig.put(rig.wait(1), rig.wait(2, pd=True))
    assert (stopped(rig), rig.status, rig.rules) == (QueueError.RESERVED_FIELD, 1, ["vtd.qi-drain"])


# --- devices that do not answer ------------------------------------------------------------------------------------

FLUSH = DeviceTlbInvalidate.make(sid=SOURCE)


def test_a_wait_behind_a_hung_device_is_passed_over_and_the_queue_stops() -> None:
    rig = started()
    rig.unmask(Offset.FECTL, Offset.IECTL)
    rig.target.hung.add(SOURCE)
    rig.put(FLUSH, rig.wait(1, if_=True), rig.wait(2))
    assert (rig.status, rig.head, rig.irqs) == (0, 64, ["fault"])
    assert (rig.fsts.ite, rig.fsts.iqe, rig.read(Offset.IQER).itesid) == (True, False, SOURCE)
    assert rig.rules == ["vtd.qi-time-out"]
    assert "0x6a01" in rig.refused[0].why
    rig.write(Offset.FSTS, ite=True)
    assert (rig.status, rig.head, rig.fsts.ite) == (2, 96, False)


def test_a_hung_device_is_noticed_without_a_wait() -> None:
    rig = started()
    rig.target.hung.add(SOURCE)
    rig.put(FLUSH)
    assert (rig.fsts.ite, rig.head) == (True, 32)
    rig.put(rig.wait())
    assert rig.status == 0
    rig.write(Offset.FSTS, ite=True)
    assert rig.status == 1


def test_an_answer_of_one_device_does_not_hide_the_silence_of_another() -> None:
    rig = started()
    rig.target.hung.add(SOURCE)
    rig.put(FLUSH, DeviceTlbInvalidate.make(sid=SOURCE + 1), rig.wait())
    assert (rig.read(Offset.IQER).itesid, rig.status) == (SOURCE, 0)

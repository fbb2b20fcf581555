"""Registers of a remapping unit: places, access rules, commands, fault recording and the three events."""

from __future__ import annotations

import pytest

from pasidlab.hw.vtd.features import FAULT_RECORDING_OFFSET, IOTLB_OFFSET
from pasidlab.hw.vtd.records import FaultRecord, Reason
from pasidlab.hw.vtd.registers import Ccmd, Granularity, Gsts, Iotlb, Offset, Rtaddr, Ttm
from tests.vtd_rig import MASK, QUEUE, SOURCE, Rig

ALL_ONES = (1 << 64) - 1
CONTROLS = {"fault": Offset.FECTL, "invalidation": Offset.IECTL, "page_request": Offset.PECTL}


# --- access rules --------------------------------------------------------------------------------------------------


def test_after_reset_nothing_is_on_and_every_event_is_masked() -> None:
    rig = Rig()
    reset = {Offset.VER: 0x50, Offset.FECTL: MASK, Offset.IECTL: MASK, Offset.PECTL: MASK}
    reset |= {Offset.CAP: rig.interface.features.cap(), Offset.ECAP: rig.interface.features.ecap()}
    for offset in Offset:
        assert rig.read(offset) == reset.get(offset, 0), offset.name


@pytest.mark.parametrize(
    ("offset", "size", "stored"),
    [
        (Offset.VER, 4, 0x50),
        (Offset.GCMD, 4, 0),
        (Offset.RTADDR, 8, 0x000F_FFFF_FFFF_FC00),
        (Offset.FSTS, 4, 0),
        (Offset.FECTL, 4, 0x8000_0000),
        (Offset.FEDATA, 4, 0xFFFF_FFFF),
        (Offset.FEADDR, 4, 0xFFFF_FFFC),
        (Offset.FEUADDR, 4, 0xFFFF_FFFF),
        (Offset.IQH, 8, 0),
        (Offset.IQT, 8, 0x7FFF0),
        (Offset.IQA, 8, 0x000F_FFFF_FFFF_F807),
        (Offset.ICS, 4, 0),
        (Offset.IEADDR, 4, 0xFFFF_FFFC),
        (Offset.IQER, 8, 0),
        (Offset.IRTA, 8, 0x000F_FFFF_FFFF_F80F),
        (Offset.PQH, 8, 0x7FFE0),
        (Offset.PQT, 8, 0x7FFE0),
        (Offset.PQA, 8, 0x000F_FFFF_FFFF_F007),
        (Offset.PRS, 4, 0),
        (Offset.PEADDR, 4, 0xFFFF_FFFC),
        (IOTLB_OFFSET, 8, 0),
        (FAULT_RECORDING_OFFSET, 8, 0),
        (FAULT_RECORDING_OFFSET + 8, 8, 0),
    ],
)
def test_reserved_bits_read_zero_and_read_only_ones_keep_their_value(offset: int, size: int, stored: int) -> None:
    rig = Rig()
    rig.interface.mmio_write(offset, ALL_ONES >> 64 - 8 * size, size)
    assert rig.interface.mmio_read(offset, size) == stored


@pytest.mark.parametrize("halves", [(0, 4), (4, 0)], ids=["low first", "high first"])
def test_a_register_of_8_bytes_can_be_accessed_by_halves(halves: tuple[int, int]) -> None:
    rig = Rig()
    value = 0x0008_1234_5678_9400
    for part in halves:
        rig.interface.mmio_write(Offset.RTADDR + part, value >> 8 * part & 0xFFFF_FFFF, 4)
    assert rig.interface.mmio_read(Offset.RTADDR, 8) == value
    assert rig.interface.mmio_read(Offset.RTADDR + 4, 4) == value >> 32


@pytest.mark.parametrize(
    ("offset", "size"), [(0x20, 1), (0x20, 2), (0x22, 4), (0x24, 8), (0x20, 16), (0x100, 4), (-8, 8)]
)
def test_other_sizes_unaligned_and_undefined_places_read_zero_and_write_nothing(offset: int, size: int) -> None:
    rig = Rig()
    rig.write(Offset.RTADDR, ttm=Ttm.SCALABLE, rta=0x5000)
    rig.interface.mmio_write(offset, 0, size)
    assert rig.interface.mmio_read(offset, size) == 0
    assert rig.read(Offset.RTADDR) == Rtaddr(ttm=Ttm.SCALABLE, rta=0x5000)


def test_tables_and_queues_have_no_address_bits_from_the_host_address_width_on() -> None:
    rig = Rig(host_bits=39)
    for offset in (Offset.RTADDR, Offset.IQA, Offset.PQA, Offset.IRTA):
        rig.write(offset, rig.read(offset) | REGISTER_ADDRESS)
        assert rig.read(offset) == 0x0000_007F_FFFF_F000, offset.name


REGISTER_ADDRESS = 0xFFFF_FFFF_FFFF_F000


@pytest.mark.parametrize("offset", [o for o in Offset if o >= Offset.PQH])
def test_without_page_requests_their_registers_are_absent(offset: Offset) -> None:
    rig = Rig(page_requests=False)
    rig.interface.mmio_write(offset, 0x7F0, 4)
    assert rig.interface.mmio_read(offset, 4) == 0


def test_without_scalable_mode_descriptors_have_no_width() -> None:
    rig = Rig(scalable=False)
    rig.write(Offset.IQA, iqa=QUEUE, dw=True)
    assert not rig.read(Offset.IQA).dw


def test_there_are_as_many_recording_registers_as_cap_says() -> None:
    rig = Rig(fault_records=2)
    for _ in range(2):
        rig.fault()
    assert [bool(rig.recorded(index).f) for index in range(3)] == [True, True, False]
    rig.clear_fault(2)
    assert rig.fsts.ppf


# --- commands ------------------------------------------------------------------------------------------------------


def test_the_root_table_is_what_rtaddr_was_when_it_was_set() -> None:
    rig = Rig()
    rig.write(Offset.RTADDR, ttm=Ttm.SCALABLE, rta=0x5000)
    assert (rig.interface.root, rig.calls) == (Rtaddr(), [])
    rig.command(srtp=True)
    rig.write(Offset.RTADDR, rta=0x9000)
    assert rig.interface.root == Rtaddr(ttm=Ttm.SCALABLE, rta=0x5000)
    assert rig.calls == [("root_table_set",)]
    assert rig.read(Offset.GSTS) == Gsts(rtps=True)


def test_translation_follows_te_and_what_is_not_written_again_is_switched_off() -> None:
    rig = Rig()
    rig.command(te=True)
    assert (rig.interface.te, rig.read(Offset.GSTS)) == (True, Gsts(tes=True))
    rig.command(srtp=True)
    assert rig.interface.te
    rig.write(Offset.GCMD, srtp=True)
    assert (rig.interface.te, rig.read(Offset.GSTS)) == (False, Gsts(rtps=True))


def test_commands_of_absent_features_do_nothing() -> None:
    rig = Rig()
    rig.write(Offset.GCMD, cfi=True, sirtp=True, ire=True, wbf=True, eafl=True, sfl=True)
    assert rig.read(Offset.GSTS) == 0


def test_switching_the_queue_on_or_off_resets_its_head() -> None:
    rig = Rig()
    rig.start_queue()
    rig.put(rig.wait(), rig.wait())
    assert rig.head == 64
    rig.command(qie=False)
    assert (rig.head, rig.read(Offset.GSTS).qies) == (0, False)


# --- invalidation by register --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granularity", "call"),
    [
        (Granularity.GLOBAL, ("context_cache", None, None, 0)),
        (Granularity.DOMAIN, ("context_cache", 5, None, 0)),
        (Granularity.SELECTIVE, ("context_cache", 5, SOURCE, 2)),
    ],
)
def test_ccmd_invalidates_at_once_and_says_what(granularity: Granularity, call: tuple[object, ...]) -> None:
    rig = Rig()
    rig.write(Offset.CCMD, icc=True, cirg=granularity, did=5, sid=SOURCE, fm=2)
    assert rig.calls == [call]
    assert rig.read(Offset.CCMD) == Ccmd(cirg=granularity, caig=granularity, did=5)


def test_the_source_of_ccmd_is_for_the_unit_alone_and_reads_zero() -> None:
    rig = Rig()
    rig.interface.mmio_write(Offset.CCMD, 0x1234_5678, 4)
    assert rig.interface.mmio_read(Offset.CCMD, 4) == 0x5678
    rig.interface.mmio_write(Offset.CCMD + 4, 0xE000_0003, 4)
    assert rig.calls == [("context_cache", 0x5678, 0x1234, 3)]
    assert rig.interface.mmio_read(Offset.CCMD + 4, 4) == 0x7800_0000


def test_ccmd_without_icc_does_nothing() -> None:
    rig = Rig()
    rig.write(Offset.CCMD, cirg=Granularity.GLOBAL)
    assert rig.calls == []
    assert rig.read(Offset.CCMD).caig is Granularity.RESERVED


@pytest.mark.parametrize(
    ("granularity", "call"),
    [
        (Granularity.GLOBAL, ("iotlb", None, None, 0, False)),
        (Granularity.DOMAIN, ("iotlb", 5, None, 0, False)),
        (Granularity.SELECTIVE, ("iotlb", 5, 0x1_2345_4000, 0x4000, True)),
    ],
)
def test_iotlb_invalidates_at_once_and_says_what(granularity: Granularity, call: tuple[object, ...]) -> None:
    rig = Rig()
    rig.iva(addr=0x1_2345_6000, am=2, ih=True)
    assert rig.iotlb(iirg=granularity, did=5) == Iotlb(iirg=granularity, iaig=granularity, did=5)
    assert rig.calls == [call]


def test_by_halves_an_invalidation_starts_with_the_upper_one() -> None:
    rig = Rig()
    rig.interface.mmio_write(Offset.CCMD, Ccmd(did=7), 4)
    assert rig.calls == []
    rig.interface.mmio_write(Offset.CCMD + 4, Ccmd(icc=True, cirg=Granularity.DOMAIN) >> 32, 4)
    assert rig.calls == [("context_cache", 7, None, 0)]


@pytest.mark.parametrize("obstacle", ["queue", "granularity"])
def test_an_incorrect_invalidation_by_register_is_ignored_and_says_so(obstacle: str) -> None:
    rig = Rig()
    if obstacle == "queue":
        rig.start_queue()
    granularity = Granularity.RESERVED if obstacle == "granularity" else Granularity.GLOBAL
    rig.write(Offset.CCMD, icc=True, cirg=granularity)
    assert rig.read(Offset.CCMD) == Ccmd(cirg=granularity)
    assert rig.iotlb(iirg=granularity) == Iotlb(iirg=granularity)
    assert rig.calls == []
    assert rig.rules == ["vtd.invalidation-by-register"] * 2
    assert all(why.why for why in rig.refused)


def test_invalidation_by_register_works_in_scalable_mode_too() -> None:
    rig = Rig()
    rig.root(ttm=Ttm.SCALABLE)
    assert rig.iotlb(iirg=Granularity.GLOBAL).iaig is Granularity.GLOBAL
    assert rig.calls == [("iotlb", None, None, 0, False)]


def test_iotlb_does_not_reach_further_than_cap_mamv() -> None:
    rig = Rig()
    rig.iva(am=18)
    assert rig.iotlb(iirg=Granularity.SELECTIVE).iaig is Granularity.SELECTIVE
    rig.iva(am=19)
    assert rig.iotlb(iirg=Granularity.SELECTIVE).iaig is Granularity.RESERVED
    assert rig.calls == [("iotlb", 0, 0, 1 << 30, False)]


# --- fault recording -----------------------------------------------------------------------------------------------


def test_a_fault_is_recorded_with_f_and_shown_by_ppf_and_fri() -> None:
    rig = Rig()
    rig.fault(Reason.NO_READ)
    recorded = rig.fault(Reason.NO_WRITE)
    assert recorded == FaultRecord(sid=SOURCE, fr=Reason.NO_WRITE, f=True)
    assert rig.recorded(1) == recorded
    assert (rig.fsts.ppf, rig.fsts.pfo, rig.fsts.fri) == (True, False, 0)


def test_fri_is_of_the_fault_that_set_ppf() -> None:
    rig = Rig()
    for _ in range(2):
        rig.fault()
    rig.clear_fault(0)
    rig.fault()
    assert rig.fsts.fri == 0
    rig.clear_fault(1)
    rig.clear_fault(2)
    assert not rig.fsts.ppf
    rig.fault()
    assert rig.fsts.fri == 3


@pytest.mark.parametrize(("offset", "size"), [(12, 4), (8, 8)])
def test_software_clears_f_and_nothing_else_of_a_record(offset: int, size: int) -> None:
    rig = Rig()
    rig.fault()
    place = FAULT_RECORDING_OFFSET + offset
    rig.interface.mmio_write(place, (1 << 8 * size - 1) - 1, size)
    assert rig.recorded(0).f
    rig.interface.mmio_write(place, 1 << 8 * size - 1, size)
    assert rig.recorded(0) == FaultRecord(sid=SOURCE, fr=Reason.NO_WRITE)


def test_after_an_overflow_faults_are_lost_until_pfo_is_cleared() -> None:
    rig = Rig(fault_records=2)
    assert [rig.fault() is not None for _ in range(3)] == [True, True, False]
    assert rig.fsts.pfo
    rig.clear_fault(0)
    assert rig.fault() is None, "a register is free, but PFO is set"
    rig.write(Offset.FSTS, pfo=True)
    assert rig.fault() is not None
    assert rig.recorded(0).f
    assert rig.rules == ["vtd.fault-lost"] * 2
    assert "0x6a01" in rig.refused[0].why


def test_faults_are_recorded_round_and_round() -> None:
    rig = Rig(fault_records=3)
    for number in range(7):
        rig.fault()
        assert [bool(rig.recorded(index).f) for index in range(3)] == [index == number % 3 for index in range(3)]
        assert rig.fsts.fri == number % 3
        rig.clear_fault(number % 3)


def test_ppf_cannot_be_cleared_in_fsts() -> None:
    rig = Rig()
    rig.fault()
    rig.write(Offset.FSTS, 0xFFFF_FFFF)
    assert rig.fsts.ppf


# --- events --------------------------------------------------------------------------------------------------------


def cause(rig: Rig, event: str) -> None:
    if event == "fault":
        rig.fault()
    elif event == "invalidation":
        rig.put(rig.wait(if_=True))
    else:
        rig.ask()


def serve(rig: Rig, event: str) -> None:
    if event == "fault":
        for index in range(8):
            rig.clear_fault(index)
    elif event == "invalidation":
        rig.write(Offset.ICS, iwc=True)
    else:
        rig.write(Offset.PRS, ppr=True)


@pytest.fixture(params=CONTROLS)
def event(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.start_queue()
    rig.start_requests()
    return rig


def test_an_event_that_is_not_masked_is_sent(rig: Rig, event: str) -> None:
    rig.unmask(CONTROLS[event])
    cause(rig, event)
    assert rig.irqs == [event]
    assert rig.read(CONTROLS[event]) == 0


def test_a_masked_event_is_pending_and_sent_once_when_the_mask_goes(rig: Rig, event: str) -> None:
    cause(rig, event)
    assert (rig.irqs, rig.read(CONTROLS[event]).ip) == ([], True)
    rig.write(CONTROLS[event], MASK)
    assert rig.irqs == []
    rig.unmask(CONTROLS[event])
    rig.unmask(CONTROLS[event])
    assert (rig.irqs, rig.read(CONTROLS[event]).ip) == ([event], False)


def test_a_pending_event_is_forgotten_when_software_served_its_cause(rig: Rig, event: str) -> None:
    cause(rig, event)
    serve(rig, event)
    assert not rig.read(CONTROLS[event]).ip
    rig.unmask(CONTROLS[event])
    assert rig.irqs == []


def test_no_second_event_while_the_cause_of_the_first_is_not_served(rig: Rig, event: str) -> None:
    rig.unmask(CONTROLS[event])
    cause(rig, event)
    cause(rig, event)
    assert rig.irqs == [event]
    serve(rig, event)
    cause(rig, event)
    assert rig.irqs == [event, event]


def test_an_event_stays_pending_until_everything_it_was_about_is_served() -> None:
    rig = Rig()
    rig.fault()
    rig.fault()
    rig.clear_fault(0)
    assert rig.read(Offset.FECTL).ip
    rig.clear_fault(1)
    assert not rig.read(Offset.FECTL).ip
    rig.start_requests()
    for _ in range(128):
        rig.ask()
    rig.write(Offset.PRS, ppr=True)
    assert rig.read(Offset.PECTL).ip
    rig.write(Offset.PRS, pro=True)
    assert not rig.read(Offset.PECTL).ip


def test_ip_cannot_be_written(rig: Rig, event: str) -> None:
    rig.write(CONTROLS[event], MASK | 1 << 30)
    assert rig.read(CONTROLS[event]) == MASK


def test_a_queue_error_is_no_new_fault_event_while_a_fault_is_pending(rig: Rig) -> None:
    rig.unmask(Offset.FECTL)
    rig.fault()
    rig.put(0xF)
    assert rig.fsts.iqe
    assert rig.irqs == ["fault"]
    rig.clear_fault(0)
    rig.fault()
    assert rig.irqs == ["fault"], "IQE is still set"
    rig.clear_fault(1)
    rig.put(rig.wait())
    rig.write(Offset.IQT, qt=rig.head)
    rig.write(Offset.FSTS, iqe=True)
    rig.fault()
    assert rig.irqs == ["fault", "fault"]


def test_nobody_needs_to_listen(rig: Rig) -> None:
    rig.interface.irq = rig.interface.refused = None
    assert rig.interface.irq is rig.interface.refused is None
    rig.unmask(*CONTROLS.values())
    rig.fault()
    rig.put(0xF)
    assert rig.fsts.iqe
    assert rig.fsts.ppf


def test_iqa_does_not_change_while_the_queue_is_on(rig: Rig) -> None:
    before = rig.read(Offset.IQA)
    rig.write(Offset.IQA, iqa=0x7000)
    assert rig.read(Offset.IQA) == before
    assert "vtd.iqa-on" in rig.rules
    rig.command(qie=False)
    rig.write(Offset.IQA, iqa=0x7000)
    assert rig.read(Offset.IQA).iqa == 0x7000

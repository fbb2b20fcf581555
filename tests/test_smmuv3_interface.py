from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.smmuv3.commands import CfgiCdAll, CfgiSte
from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.interface import Interface
from pasidlab.hw.smmuv3.records import CBadSte
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0, Cr1, Gbpa, Gerror, Idr0, Idr1, Idr3, Idr5, IrqCtrl, Offset
from pasidlab.hw.smmuv3.structures import ShCfg
from pasidlab.memory import Memory

from .smmuv3_rig import CMDQ, MSI, RecordingTarget, Rig

EVERYTHING = {"ats": True, "pri": True, "hyp": True, "btm": True}

# Features and ID registers


@pytest.mark.parametrize(
    ("feature", "value", "offset", "expected"),
    [
        ("vmid16", False, Offset.IDR0, {"vmid16": False}),
        ("coherent", False, Offset.IDR0, {"cohacc": False}),
        ("btm", True, Offset.IDR0, {"btm": True}),
        ("httu", 2, Offset.IDR0, {"httu": 2}),
        ("hyp", True, Offset.IDR0, {"hyp": True}),
        ("ats", True, Offset.IDR0, {"ats": True, "ns1ats": True}),
        ("asid16", False, Offset.IDR0, {"asid16": False}),
        ("msi", False, Offset.IDR0, {"msi": False}),
        ("sev", True, Offset.IDR0, {"sev": True}),
        ("two_level_cds", False, Offset.IDR0, {"cd2l": False}),
        ("stall_model", StallModel.STALL_FORCED, Offset.IDR0, {"stall_model": 2}),
        ("term_model", True, Offset.IDR0, {"term_model": True}),
        ("two_level_streams", False, Offset.IDR0, {"st_level": 0}),
        ("sid_bits", 32, Offset.IDR1, {"sidsize": 32}),
        ("ssid_bits", 0, Offset.IDR1, {"ssidsize": 0}),
        ("priq_bits", 19, Offset.IDR1, {"priqs": 19}),
        ("eventq_bits", 7, Offset.IDR1, {"eventqs": 7}),
        ("cmdq_bits", 1, Offset.IDR1, {"cmdqs": 1}),
        ("attr_perms_ovr", True, Offset.IDR1, {"attr_perms_ovr": True}),
        ("attr_types_ovr", True, Offset.IDR1, {"attr_types_ovr": True}),
        ("pps", True, Offset.IDR3, {"pps": True}),
        ("stt", True, Offset.IDR3, {"stt": True}),
        ("range_invalidation", False, Offset.IDR3, {"ril": False}),
        ("bbml", 2, Offset.IDR3, {"bbml": 2}),
        ("oas_bits", 52, Offset.IDR5, {"oas": 6}),
        ("granules", frozenset({14}), Offset.IDR5, {"gran4k": False, "gran16k": True, "gran64k": False}),
        ("vax", 1, Offset.IDR5, {"vax": 1}),
        ("stall_max", 3, Offset.IDR5, {"stall_max": 3}),
    ],
)
def test_a_feature_changes_its_fields_of_the_id_registers_and_no_others(
    feature: str, value: object, offset: Offset, expected: dict[str, int]
) -> None:
    usual, special = Rig(), Rig(**{feature: value})
    for other in (Offset.IDR0, Offset.IDR1, Offset.IDR2, Offset.IDR3, Offset.IDR4, Offset.IDR5):
        changed = usual.read(other).replace(**expected) if other is offset else usual.read(other)
        assert special.read(other) == changed
    assert special.read(offset) != usual.read(offset)


def test_without_stage_1_its_hierarchical_attributes_go_too() -> None:
    usual, special = Rig(), Rig(stage1=False)
    assert special.read(Offset.IDR0) == usual.read(Offset.IDR0).replace(s1p=False)
    assert special.read(Offset.IDR3) == usual.read(Offset.IDR3).replace(had=False)


def test_the_id_registers_of_the_usual_smmu() -> None:
    rig = Rig()
    assert rig.read(Offset.IDR0) == Idr0(
        s2p=True, s1p=True, ttf=2, cohacc=True, asid16=True, msi=True, vmid16=True, cd2l=True, ttendian=2, st_level=1
    )
    assert rig.read(Offset.IDR1) == Idr1(sidsize=16, ssidsize=20, priqs=8, eventqs=8, cmdqs=8)
    assert rig.read(Offset.IDR3) == Idr3(had=True, ril=True, xnx=True)
    assert rig.read(Offset.IDR5) == Idr5(oas=5, gran4k=True, gran16k=True, gran64k=True, stall_max=64)
    assert rig.read(Offset.AIDR).archminorrev == 1


def test_page_requests_are_told_in_idr0_and_need_ats() -> None:
    assert Rig(ats=True, pri=True).read(Offset.IDR0).pri
    with pytest.raises(ValueError, match=r"^Features\.pri=True: allowed only with ats=True$"):
        Features(pri=True)


def test_without_stage_2_what_belongs_to_it_is_absent() -> None:
    rig = Rig(stage2=False, ats=True)
    assert not rig.read(Offset.IDR0).s2p
    assert not rig.read(Offset.IDR0).ns1ats
    assert not rig.read(Offset.IDR3).xnx


def test_no_stall_is_counted_where_nothing_can_stall() -> None:
    assert Rig(stall_model=StallModel.TERMINATE_ONLY).read(Offset.IDR5).stall_max == 0


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        ("ssid_bits", 21, "Features.ssid_bits=21: allowed are 0 to 20"),
        ("sid_bits", -1, "Features.sid_bits=-1: allowed are 0 to 32"),
        ("oas_bits", 47, "Features.oas_bits=47: allowed are 32, 36, 40, 42, 44, 48, 52, 56"),
        ("vax", 2, "Features.vax=2: allowed are 0 to 1"),
        ("httu", 3, "Features.httu=3: allowed are 0 to 2"),
        ("bbml", 3, "Features.bbml=3: allowed are 0 to 2"),
        ("cmdq_bits", 20, "Features.cmdq_bits=20: allowed are 0 to 19"),
        ("stall_max", 65536, "Features.stall_max=65536: allowed are 0 to 65535"),
        ("granules", frozenset({12, 13}), "Features.granules=[12, 13]: allowed are one or more of 12, 14, 16"),
        ("granules", frozenset(), "Features.granules=[]: allowed are one or more of 12, 14, 16"),
        (
            "stall_model",
            StallModel.RESERVED_3,
            "Features.stall_model=<StallModel.RESERVED_3: 3>: allowed are <StallModel.STALL_AND_TERMINATE: 0>, "
            "<StallModel.TERMINATE_ONLY: 1>, <StallModel.STALL_FORCED: 2>",
        ),
    ],
)
def test_a_feature_that_no_id_register_can_say_is_refused(feature: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^Features\.") as error:
        Features(**{feature: value})
    assert str(error.value) == message


# Access


def test_everything_but_id_registers_and_gbpa_is_zero_after_reset() -> None:
    rig = Rig(**EVERYTHING)
    told = {Offset.IDR0, Offset.IDR1, Offset.IDR3, Offset.IDR5, Offset.AIDR, Offset.GBPA}
    assert {offset for offset in REGISTERS if rig.read(offset)} == told
    assert rig.read(Offset.GBPA) == Gbpa(shcfg=ShCfg.INCOMING)


def test_halves_of_a_64_bit_register_are_written_and_read_apart() -> None:
    rig = Rig()
    at = rig.interface
    at.mmio_write(Offset.STRTAB_BASE, 0x2345_6780, 4)
    at.mmio_write(Offset.STRTAB_BASE + 4, 0x4000_0001, 4)
    assert at.mmio_read(Offset.STRTAB_BASE, 8) == 0x4000_0001_2345_6780
    assert at.mmio_read(Offset.STRTAB_BASE, 4) == 0x2345_6780
    assert at.mmio_read(Offset.STRTAB_BASE + 4, 4) == 0x4000_0001
    assert at.strtab_base.addr == 0x1_2345_6780
    assert at.strtab_base.ra


def test_a_64_bit_access_reaches_two_neighbouring_registers() -> None:
    rig = Rig()
    rig.write(Offset.CMDQ_BASE, log2size=8)
    rig.interface.mmio_write(Offset.CMDQ_PROD, 0x21 << 32 | 0x12, 8)
    assert rig.read(Offset.CMDQ_PROD).wr == 0x12
    assert rig.read(Offset.CMDQ_CONS).rd == 0x21
    assert rig.interface.mmio_read(Offset.CMDQ_PROD, 8) == 0x21 << 32 | 0x12


@pytest.mark.parametrize(("offset", "size"), [(0x80, 1), (0x80, 2), (0x80, 16), (0x81, 4), (0x84, 8), (0x82, 4)])
def test_other_sizes_and_unaligned_addresses_read_zero_and_write_nothing(offset: int, size: int) -> None:
    rig = Rig()
    rig.write(Offset.STRTAB_BASE, 0x1_2345_6780)
    rig.interface.mmio_write(offset, 0, size)
    assert rig.interface.mmio_read(offset, size) == 0
    assert rig.read(Offset.STRTAB_BASE) == 0x1_2345_6780


@pytest.mark.parametrize("offset", [Offset.EVENTQ_PROD, Offset.EVENTQ_CONS, Offset.PRIQ_PROD, Offset.PRIQ_CONS])
def test_page_1_registers_answer_at_their_page_0_places_too(offset: Offset) -> None:
    rig = Rig(ats=True, pri=True)
    rig.interface.mmio_write(offset - 0x1_0000, 1, 4)
    assert rig.read(offset) == 1
    assert rig.interface.mmio_read(offset - 0x1_0000, 4) == 1


@pytest.mark.parametrize("offset", [0x30, 0x8C, 0x100, 0x8000, 0x1_0000, 0x1_0020, 1 << 40, -8])
def test_undefined_offsets_read_zero_and_write_nothing(offset: int) -> None:
    rig = Rig(**EVERYTHING)
    rig.interface.mmio_write(offset, 0xFFFF_FFFF, 4)
    assert rig.interface.mmio_read(offset, 4) == 0
    assert all(rig.read(known) == Rig(**EVERYTHING).read(known) for known in REGISTERS)


@pytest.mark.parametrize(
    "offset",
    [Offset.IDR0, Offset.IDR5, Offset.IIDR, Offset.AIDR, Offset.CR0ACK, Offset.STATUSR, Offset.GERROR, Offset.AGBPA],
)
def test_read_only_registers_stay(offset: Offset) -> None:
    rig = Rig()
    before = rig.read(offset)
    rig.interface.mmio_write(offset, ~before, 4)
    assert rig.read(offset) == before


def test_reserved_bits_read_as_zero() -> None:
    rig = Rig(**EVERYTHING)
    for offset, word in REGISTERS.items():
        rig.interface.mmio_write(offset, (1 << 64) - 1, word.SIZE // 8)
        assert rig.read(offset).reserved == 0


def test_addresses_are_cut_to_the_output_address_size() -> None:
    rig = Rig(oas_bits=40)
    rig.write(Offset.STRTAB_BASE, addr=0xFF_FFFF_FFFF_FFC0)
    rig.write(Offset.EVENTQ_IRQ_CFG0, addr=0xFF_FFFF_FFFF_FFFC)
    assert rig.read(Offset.STRTAB_BASE).addr == 0xFF_FFFF_FFC0
    assert rig.read(Offset.EVENTQ_IRQ_CFG0).addr == 0xFF_FFFF_FFFC


def test_fields_of_absent_features_cannot_be_set() -> None:
    rig = Rig(two_level_streams=False, msi=False)
    rig.write(Offset.CR0, 0xFFFF_FFFF & ~Cr0.mask("cmdqen"))
    rig.write(Offset.IRQ_CTRL, 0xFFFF_FFFF)
    rig.write(Offset.GERRORN, 0xFFFF_FFFF)
    assert rig.read(Offset.CR0) == Cr0(smmuen=True, eventqen=True)
    assert rig.read(Offset.IRQ_CTRL) == IrqCtrl(gerror_irqen=True, eventq_irqen=True)
    assert rig.read(Offset.GERRORN) == Gerror.mask("cmdq_err", "eventq_abt_err", "sfm_err")
    other = Rig(two_level_streams=False, msi=False)
    for offset in (Offset.CR2, Offset.STRTAB_BASE_CFG, Offset.PRIQ_BASE, Offset.PRIQ_CONS, Offset.EVENTQ_IRQ_CFG1):
        other.interface.mmio_write(offset, 0xFFFF_FFFF, 4)
    assert other.read(Offset.CR2) == 2
    assert other.read(Offset.STRTAB_BASE_CFG) == 63
    assert other.read(Offset.PRIQ_BASE) == other.read(Offset.PRIQ_CONS) == other.read(Offset.EVENTQ_IRQ_CFG1) == 0


def test_last_only_of_the_pri_queue_does_not_need_msi() -> None:
    rig = Rig(ats=True, pri=True, msi=False)
    rig.interface.mmio_write(Offset.PRIQ_IRQ_CFG2, 0xFFFF_FFFF, 4)
    assert rig.read(Offset.PRIQ_IRQ_CFG2) == 1 << 31


# CR0, GBPA, IRQ_CTRL


def test_cr0ack_follows_cr0_at_once() -> None:
    rig = Rig(**EVERYTHING)
    for cr0 in (Cr0(smmuen=True, eventqen=True), Cr0(cmdqen=True, atschk=True, priqen=True), Cr0()):
        rig.write(Offset.CR0, cr0)
        assert rig.read(Offset.CR0) == rig.read(Offset.CR0ACK) == cr0


def test_the_effective_enable_of_the_pri_queue_needs_translation() -> None:
    rig = Rig(**EVERYTHING)
    rig.enable(priqen=True)
    assert rig.read(Offset.CR0ACK).priqen
    assert not rig.interface.priq_en
    rig.enable(smmuen=True)
    assert rig.interface.priq_en
    assert rig.interface.smmuen


def test_switching_translation_off_is_told_once() -> None:
    rig = Rig()
    rig.enable(smmuen=True)
    rig.enable(eventqen=True)
    assert rig.target.calls == []
    rig.enable(smmuen=False)
    rig.enable(eventqen=False)
    assert rig.target.calls == [("disabled",)]


def test_gbpa_is_written_with_update_which_reads_back_as_done() -> None:
    rig = Rig()
    rig.write(Offset.GBPA, abort=True, shcfg=ShCfg.ISH, update=True)
    assert rig.read(Offset.GBPA) == Gbpa(abort=True, shcfg=ShCfg.ISH)
    assert rig.interface.gbpa.abort


def test_gbpa_without_update_is_ignored() -> None:
    rig = Rig()
    rig.write(Offset.GBPA, abort=True)
    assert rig.read(Offset.GBPA) == Gbpa(shcfg=ShCfg.INCOMING)
    assert [refused.rule.id for refused in rig.refused] == ["smmu.gbpa-update"]
    assert rig.refused[0].why == "GBPA is written without its Update bit"


def test_irq_ctrlack_follows_irq_ctrl() -> None:
    rig = Rig(**EVERYTHING)
    rig.write(Offset.IRQ_CTRL, 7)
    assert rig.read(Offset.IRQ_CTRLACK) == rig.read(Offset.IRQ_CTRL) == 7


# Guards


@pytest.mark.parametrize(
    ("offset", "rule"),
    [
        (Offset.CR2, "smmuen"),
        (Offset.STRTAB_BASE, "smmuen"),
        (Offset.STRTAB_BASE_CFG, "smmuen"),
        (Offset.CMDQ_BASE, "cmdqen"),
        (Offset.CMDQ_CONS, "cmdqen"),
        (Offset.EVENTQ_BASE, "eventqen"),
        (Offset.EVENTQ_PROD, "eventqen"),
        (Offset.PRIQ_BASE, "priqen"),
        (Offset.PRIQ_PROD, "priqen"),
        (Offset.GERROR_IRQ_CFG0, "gerror_irqen"),
        (Offset.GERROR_IRQ_CFG1, "gerror_irqen"),
        (Offset.GERROR_IRQ_CFG2, "gerror_irqen"),
        (Offset.EVENTQ_IRQ_CFG0, "eventq_irqen"),
        (Offset.EVENTQ_IRQ_CFG2, "eventq_irqen"),
        (Offset.PRIQ_IRQ_CFG1, "priq_irqen"),
        (Offset.PRIQ_IRQ_CFG2, "priq_irqen"),
    ],
)
def test_a_guarded_register_is_written_only_while_its_enable_is_clear(offset: Offset, rule: str) -> None:
    rig = Rig(**EVERYTHING)
    enable = Offset.IRQ_CTRL if "irqen" in rule else Offset.CR0
    if offset is Offset.CMDQ_CONS:
        rig.write(Offset.CMDQ_PROD, wr=1)  # or enabling the queue would move CONS
    rig.interface.mmio_write(offset, 0x45, 4)
    free = rig.read(offset)
    assert free
    rig.write(enable, **{rule: True})
    rig.interface.mmio_write(offset, 0, 4)
    assert rig.read(offset) == free
    assert [refused.rule.id for refused in rig.refused] == [f"smmu.guard-{rule.replace('_', '-')}"]
    assert offset.name in rig.refused[0].why
    rig.interface.mmio_write(offset, free & 0xFFFF_FFFF, 4)
    assert len(rig.refused) == 1, "writing the same value changes nothing"
    rig.write(enable)
    rig.interface.mmio_write(offset, 0, 4)
    assert rig.read(offset) == 0


def test_each_half_of_cr1_has_its_own_guard() -> None:
    tables, queues = Cr1(table_sh=3, table_ic=1), Cr1(queue_oc=1)
    rig = Rig()
    rig.enable(eventqen=True)
    rig.write(Offset.CR1, tables | queues)
    assert rig.read(Offset.CR1) == tables
    rig.write(Offset.CR0, smmuen=True)
    rig.write(Offset.CR1, queues)
    assert rig.read(Offset.CR1) == tables | queues
    assert [refused.rule.id for refused in rig.refused] == ["smmu.guard-queues", "smmu.guard-smmuen"]


def test_software_owns_its_side_of_each_queue_at_any_time() -> None:
    rig = Rig(**EVERYTHING)
    rig.start_output("EVENTQ")
    rig.start_output("PRIQ")
    rig.write(Offset.EVENTQ_CONS, rd=3, ovackflg=True)
    rig.write(Offset.PRIQ_CONS, rd=2)
    assert rig.read(Offset.EVENTQ_CONS) == 3 | 1 << 31
    assert rig.read(Offset.PRIQ_CONS) == 2


# GERROR and interrupts


def test_an_error_is_active_until_gerrorn_follows_gerror() -> None:
    rig = Rig()
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    rig.start_commands()
    rig.put(CfgiSte())
    assert rig.errors() == Gerror.mask("cmdq_err")
    assert rig.irqs == ["gerror"]
    rig.acknowledge()
    assert rig.errors() == Gerror.mask("cmdq_err"), "the command is as illegal as before"
    assert rig.irqs == ["gerror", "gerror"]
    rig.memory.store(CMDQ, CfgiCdAll.make(sid=1).pack())
    rig.acknowledge()
    assert rig.errors() == 0
    assert rig.target.calls == [("cfgi_cd_all", 1)]


def test_gerror_interrupts_need_their_enable() -> None:
    rig = Rig()
    rig.start_commands()
    rig.put(CfgiSte())
    assert rig.errors()
    assert rig.irqs == []


def test_gerror_has_a_message() -> None:
    rig = Rig()
    rig.write(Offset.GERROR_IRQ_CFG0, addr=MSI)
    rig.write(Offset.GERROR_IRQ_CFG1, data=0x1234_5678)
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    rig.start_commands()
    rig.put(CfgiSte())
    assert rig.memory.load(MSI, 8) == bytes.fromhex("7856341200000000")
    assert rig.irqs == ["gerror"]


def test_an_aborted_gerror_message_is_an_error_without_another_message() -> None:
    rig = Rig()
    rig.memory.poison(MSI, 4)
    rig.write(Offset.GERROR_IRQ_CFG0, addr=MSI)
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    rig.start_commands()
    rig.put(CfgiSte())
    assert rig.errors() == Gerror.mask("cmdq_err", "msi_gerror_abt_err")
    assert rig.irqs == []


def test_an_aborted_event_message_is_an_error() -> None:
    rig = Rig()
    rig.memory.poison(MSI, 4)
    rig.write(Offset.EVENTQ_IRQ_CFG0, addr=MSI)
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True, eventq_irqen=True)
    rig.start_output("EVENTQ")
    rig.interface.record_event(CBadSte.make(sid=1))
    assert rig.errors() == Gerror.mask("msi_eventq_abt_err")
    assert rig.irqs == ["gerror"]


def test_an_error_that_is_active_already_is_not_told_again() -> None:
    rig = Rig()
    rig.memory.poison(MSI, 4)
    rig.write(Offset.EVENTQ_IRQ_CFG0, addr=MSI)
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True, eventq_irqen=True)
    rig.start_output("EVENTQ")
    for consumed in (1, 2):
        rig.interface.record_event(CBadSte.make(sid=1))
        rig.write(Offset.EVENTQ_CONS, rd=consumed)
    assert rig.errors() == Gerror.mask("msi_eventq_abt_err")
    assert rig.irqs == ["gerror"]


def test_nobody_need_listen() -> None:
    rig = Rig()
    rig.interface.irq = rig.interface.refused = None
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    rig.start_commands()
    rig.put(CfgiSte())
    assert rig.errors() == Gerror.mask("cmdq_err")
    assert rig.interface.irq is rig.interface.refused is None


def test_toggling_an_inactive_error_makes_it_active_without_an_interrupt() -> None:
    rig = Rig()
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    rig.write(Offset.GERRORN, eventq_abt_err=True)
    assert rig.errors() == Gerror.mask("eventq_abt_err")
    assert rig.irqs == []


# Anything goes


ANY_OFFSET = st.one_of(
    st.sampled_from([*REGISTERS, *(offset + 4 for offset in REGISTERS)]),
    st.integers(-16, 0x2_0000),
)
ACCESS = st.tuples(ANY_OFFSET, st.integers(0, (1 << 64) - 1), st.sampled_from([1, 2, 4, 4, 4, 8, 8, 16]))


@settings(max_examples=200, deadline=None)
@given(
    accesses=st.lists(ACCESS, max_size=40), features=st.sampled_from([{}, EVERYTHING, {"msi": False, "cmdq_bits": 2}])
)
def test_any_sequence_of_accesses_ends_and_keeps_the_registers_sound(
    accesses: list[tuple[int, int, int]], features: dict[str, Any]
) -> None:
    rig = Rig(**features)
    ids = [rig.read(offset) for offset in REGISTERS if offset < Offset.CR0]
    for offset, value, size in accesses:
        rig.interface.mmio_write(offset, value, size)
        assert 0 <= rig.interface.mmio_read(offset, size) < 1 << 64
        rig.interface.record_event(CBadSte.make(sid=1), stalled=bool(value & 1))
    assert ids == [rig.read(offset) for offset in REGISTERS if offset < Offset.CR0]
    assert rig.read(Offset.CR0) == rig.read(Offset.CR0ACK)
    for offset in REGISTERS:
        assert rig.read(offset).reserved == 0
        low, high = rig.interface.mmio_read(offset, 4), rig.interface.mmio_read(offset + 4, 4)
        if offset % 8 == 0:
            assert rig.interface.mmio_read(offset, 8) == high << 32 | low


def test_a_copy_of_an_interface_goes_its_own_way() -> None:
    interface = Interface(Memory(), Features(), RecordingTarget())
    twin = copy.deepcopy(interface)
    twin.mmio_write(Offset.CR0, Cr0(smmuen=True), 4)
    assert twin.smmuen
    assert not interface.smmuen

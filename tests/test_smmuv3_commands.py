from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hw.smmuv3.commands import (
    AtcInv,
    CfgiCd,
    CfgiCdAll,
    CfgiSte,
    CfgiSteRange,
    Command,
    Opcode,
    PrefetchAddr,
    PrefetchConfig,
    PriResp,
    Resume,
    StallTerm,
    Sync,
    TlbiEl2All,
    TlbiEl2Asid,
    TlbiEl2Va,
    TlbiEl2Vaa,
    TlbiNhAll,
    TlbiNhAsid,
    TlbiNhVa,
    TlbiNhVaa,
    TlbiNsnhAll,
    TlbiS2Ipa,
    TlbiS12Vmall,
)
from pasidlab.hw.smmuv3.features import StallModel
from pasidlab.hw.smmuv3.registers import CmdqCons, CmdqErr, Gerror, Offset
from pasidlab.hw.smmuv3.target import Regime, ResumeAction, TlbScope

from .smmuv3_rig import CMDQ, MSI, Rig

DEVICES = {"ats": True, "pri": True, "hyp": True}
VA = 0x7F00_1234_5000


def started(**features: Any) -> Rig:
    rig = Rig(**(DEVICES | features))
    rig.start_commands()
    rig.enable(smmuen=True)
    return rig


def tlbi(regime: Regime, *fields: int | None) -> tuple[str, TlbScope]:
    return ("tlbi", TlbScope(regime, *fields))


# What reaches the target


@pytest.mark.parametrize(
    ("command", "call"),
    [
        (PrefetchConfig.make(sid=5, ssv=True, ssid=6), ("prefetch_config", 5, 6)),
        (PrefetchConfig.make(sid=5, ssid=6), ("prefetch_config", 5, None)),
        (PrefetchAddr.make(sid=5, ssv=True, ssid=6, addr=VA, size=3), ("prefetch_addr", 5, 6, VA, 0x8000)),
        (CfgiSte.make(sid=0x12345678, leaf=True), ("cfgi_ste", 0x12345678, True)),
        (CfgiSte.make(sid=1), ("cfgi_ste", 1, False)),
        (CfgiSteRange.make(sid=0x105, range=0), ("cfgi_ste_range", 0x104, 1)),
        (CfgiSteRange.make(sid=0xFFFF_FFFF, range=30), ("cfgi_ste_range", 1 << 31, 31)),
        (CfgiSteRange.make(sid=5, range=31), ("cfgi_all",)),
        (CfgiCd.make(sid=5, ssid=0xFFFFF, leaf=True), ("cfgi_cd", 5, 0xFFFFF, True)),
        (CfgiCd.make(sid=5), ("cfgi_cd", 5, 0, False)),
        (CfgiCdAll.make(sid=5), ("cfgi_cd_all", 5)),
        (TlbiNhAll.make(vmid=7), tlbi(Regime.NH, 7)),
        (TlbiNhAsid.make(vmid=7, asid=0xFFFF), tlbi(Regime.NH, 7, 0xFFFF)),
        (TlbiNhVa.make(vmid=7, asid=8, addr=VA), tlbi(Regime.NH, 7, 8, VA, 0x1000)),
        (TlbiNhVa.make(vmid=7, asid=8, addr=VA, leaf=True), tlbi(Regime.NH, 7, 8, VA, 0x1000)),
        (TlbiNhVaa.make(vmid=7, addr=VA), tlbi(Regime.NH, 7, None, VA, 0x1000)),
        (TlbiEl2All.make(), tlbi(Regime.EL2)),
        (TlbiEl2Asid.make(asid=8), tlbi(Regime.EL2, None, 8)),
        (TlbiEl2Va.make(asid=8, addr=VA), tlbi(Regime.EL2, None, 8, VA, 0x1000)),
        (TlbiEl2Vaa.make(addr=VA), tlbi(Regime.EL2, None, None, VA, 0x1000)),
        (TlbiS12Vmall.make(vmid=7), tlbi(Regime.S12, 7)),
        (TlbiS2Ipa.make(vmid=7, ipa=VA, leaf=True), tlbi(Regime.S2, 7, None, VA, 0x1000)),
        (TlbiNsnhAll.make(), tlbi(Regime.NSNH)),
        (AtcInv.make(sid=5, ssv=True, ssid=6, size=52), ("atc_inv", 5, 6, False, 0, None)),
        (AtcInv.make(sid=5, ssv=True, ssid=6, global_=True, addr=VA), ("atc_inv", 5, 6, True, VA, 0x1000)),
        (AtcInv.make(sid=5, global_=True, addr=VA, size=2), ("atc_inv", 5, None, False, 0x7F00_1234_4000, 0x4000)),
        (AtcInv.make(sid=5, addr=VA, size=63), ("atc_inv", 5, None, False, 0, None)),
        (PriResp.make(sid=5, ssv=True, ssid=6, prgindex=0x1FF, resp=2), ("pri_resp", 5, 6, 0x1FF, 2)),
        (PriResp.make(sid=5, prgindex=1, resp=0), ("pri_resp", 5, None, 1, 0)),
        (Resume.make(sid=5, stag=0xFFFF), ("resume", 5, 0xFFFF, ResumeAction.TERMINATE)),
        (Resume.make(sid=5, stag=9, ac=True), ("resume", 5, 9, ResumeAction.RETRY)),
        (Resume.make(sid=5, stag=9, ab=True), ("resume", 5, 9, ResumeAction.ABORT)),
        (Resume.make(sid=5, stag=9, ac=True, ab=True), ("resume", 5, 9, ResumeAction.RETRY)),
        (StallTerm.make(sid=5), ("stall_term", 5)),
    ],
    ids=repr,
)
def test_a_command_reaches_its_target_decoded(command: Command, call: tuple[Any, ...]) -> None:
    rig = started()
    rig.put(command)
    assert rig.target.calls == [call]
    assert rig.read(Offset.CMDQ_CONS) == CmdqCons(rd=1)
    assert rig.errors() == 0
    assert rig.refused == []


# Vectors of which another encoder makes the same words.
@pytest.mark.parametrize(
    ("words", "call"),
    [
        ((0x0000010000001005, 1), ("cfgi_cd", 0x100, 1, True)),
        ((0x0012000000000011, 0), tlbi(Regime.NH, 0, 0x12)),
        (
            (0x0012000000103012, 0x00007F0012340701),
            tlbi(Regime.NH, 0, 0x12, 0x7F00_1234_0000, 0x8000),
        ),
        ((0x0000010000001840, 0x34), ("atc_inv", 0x100, 1, False, 0, None)),
        ((0x0000010000001044, 7), ("resume", 0x100, 7, ResumeAction.RETRY)),
        ((0x0000010000001841, 0x201A), ("pri_resp", 0x100, 1, 0x1A, 2)),
    ],
)
def test_known_encodings_mean_what_they_say(words: tuple[int, int], call: tuple[Any, ...]) -> None:
    rig = started()
    rig.put(Command.from_words(*words))
    assert rig.target.calls == [call]


@pytest.mark.parametrize(
    ("tg", "num", "scale", "ttl", "size"),
    [
        (0, 5, 3, 0, 0x1000),
        (1, 0, 0, 3, 0x1000),
        (1, 31, 0, 0, 32 << 12),
        (1, 3, 4, 0, 4 << 4 << 12),
        (2, 1, 1, 0, 4 << 14),
        (2, 0, 0, 2, 1 << 14),
        (3, 0, 1, 0, 2 << 16),
        (1, 1, 32, 0, 2 << 12),
        (1, 31, 31, 0, 32 << 31 << 12),
    ],
)
def test_a_range_covers_granules(tg: int, num: int, scale: int, ttl: int, size: int) -> None:
    rig = started()
    rig.put(TlbiNhVaa.make(addr=VA, tg=tg, num=num, scale=scale, ttl=ttl))
    assert rig.target.calls == [tlbi(Regime.NH, 0, None, VA, size)]


def test_a_range_does_not_wrap_at_the_top() -> None:
    rig = started()
    rig.put(TlbiNhVaa.make(addr=(1 << 64) - 0x2000, tg=1, num=31))
    assert rig.target.calls == [tlbi(Regime.NH, 0, None, (1 << 64) - 0x2000, 0x2000)]


def test_without_range_invalidation_its_fields_are_not_looked_at() -> None:
    rig = started(range_invalidation=False)
    rig.put(TlbiNhVaa.make(addr=VA, tg=3, num=31, scale=5), TlbiNhVaa.make(addr=VA, tg=1))
    assert rig.target.calls == [tlbi(Regime.NH, 0, None, VA, 0x1000)] * 2


def test_narrow_asids_and_vmids_lose_their_upper_bits() -> None:
    rig = started(asid16=False, vmid16=False)
    rig.put(TlbiNhAsid.make(vmid=0x1234, asid=0x5678))
    assert rig.target.calls == [tlbi(Regime.NH, 0x34, 0x78)]


def test_without_stage_2_the_vmid_is_not_looked_at() -> None:
    rig = started(stage2=False)
    rig.put(TlbiNhAsid.make(vmid=3, asid=4))
    assert rig.target.calls == [tlbi(Regime.NH, None, 4)]


def test_without_substreams_a_substream_is_not_looked_at() -> None:
    rig = started(ssid_bits=0)
    rig.put(AtcInv.make(sid=1, ssv=True, ssid=2, global_=True, size=52), PrefetchConfig.make(sid=1, ssv=True, ssid=2))
    assert rig.target.calls == [("atc_inv", 1, None, False, 0, None), ("prefetch_config", 1, None)]


def test_an_smmu_that_always_aborts_terminates_with_an_abort() -> None:
    rig = started(term_model=True)
    rig.put(Resume.make(sid=5, stag=9), Resume.make(sid=5, stag=9, ac=True))
    assert [call[-1] for call in rig.target.calls] == [ResumeAction.ABORT, ResumeAction.RETRY]


def test_reserved_fields_are_ignored() -> None:
    rig = started()
    rig.put(Command(CfgiCdAll.make(sid=5) | 0xFF << 120 | 1 << 9))
    assert rig.target.calls == [("cfgi_cd_all", 5)]


# While translation is off


def test_translation_may_be_off_while_caches_are_maintained() -> None:
    rig = started()
    rig.enable(smmuen=False)
    rig.put(CfgiSteRange.make(range=31), TlbiNsnhAll.make(), Resume.make(sid=1), StallTerm.make(sid=1), Sync.make())
    assert [call[0] for call in rig.target.calls] == ["disabled", "cfgi_all", "tlbi", "resume", "stall_term"]


@pytest.mark.parametrize(
    "command", [AtcInv.make(), PriResp.make(resp=2), PrefetchConfig.make(), PrefetchAddr.make()], ids=repr
)
def test_what_needs_translation_is_ignored_while_it_is_off(command: Command) -> None:
    rig = started()
    rig.enable(smmuen=False)
    rig.put(command)
    assert rig.target.calls == [("disabled",)]
    assert rig.read(Offset.CMDQ_CONS) == CmdqCons(rd=1)
    assert [refused.rule.id for refused in rig.refused] == ["smmu.cmd-smmuen"]


def test_illegal_goes_before_ignored() -> None:
    rig = started(pri=False)
    rig.enable(smmuen=False)
    rig.put(PriResp.make(resp=2))
    assert rig.read(Offset.CMDQ_CONS) == CmdqCons(err=CmdqErr.ILL)


# Illegal commands

SECURE = [
    Opcode.TLBI_EL3_ALL,
    Opcode.TLBI_EL3_VA,
    *(opcode for opcode in Opcode if opcode.name.startswith(("TLBI_S_", "TLBI_SNH"))),
]
STREAM_COMMANDS = [
    PrefetchConfig,
    PrefetchAddr,
    CfgiSte,
    CfgiSteRange,
    CfgiCd,
    CfgiCdAll,
    AtcInv,
    PriResp,
    Resume,
    StallTerm,
]
NO_STALL = {"stall_model": StallModel.TERMINATE_ONLY}
ILLEGAL: list[tuple[Command, dict[str, Any], str]] = [
    (Command(), {}, "opcode"),
    (Command(opcode=0x08), {}, "opcode"),
    (Command(opcode=0x80), {}, "opcode"),
    (Command(opcode=0xFF), {}, "opcode"),
    (Command(opcode=Opcode.CFGI_VMS_PIDM), {}, "mpam"),
    (Command(opcode=Opcode.DPTI_ALL), {}, "dpt"),
    (Command(opcode=Opcode.DPTI_PA), {}, "dpt"),
    *((Command(opcode=opcode), {}, "secure") for opcode in SECURE),
    *((command.make(ssec=True), {}, "ssec") for command in STREAM_COMMANDS),
    *(
        (command.make(), {"stage1": False}, "stage-1")
        for command in (CfgiCd, CfgiCdAll, TlbiNhAll, TlbiNhAsid, TlbiNhVa, TlbiNhVaa)
    ),
    *((command.make(), {"stage2": False}, "stage-2") for command in (TlbiS12Vmall, TlbiS2Ipa)),
    *((command.make(), {"hyp": False}, "hyp") for command in (TlbiEl2All, TlbiEl2Asid, TlbiEl2Va, TlbiEl2Vaa)),
    *((command.make(tg=1), {}, "range") for command in (TlbiNhVa, TlbiNhVaa, TlbiEl2Va, TlbiEl2Vaa, TlbiS2Ipa)),
    (TlbiNhVa.make(tg=2, ttl=1), {}, "range"),
    (TlbiNhVa.make(tg=1, scale=32), {}, "range"),
    (AtcInv.make(), {"ats": False, "pri": False}, "ats"),
    (PriResp.make(), {"pri": False}, "pri"),
    (PriResp.make(resp=3), {}, "pri-resp"),
    (Resume.make(), NO_STALL, "stall"),
    (StallTerm.make(), NO_STALL, "stall"),
    (Sync.make(cs=3), {}, "sync-cs"),
]


@pytest.mark.parametrize(("command", "features", "rule"), ILLEGAL, ids=lambda value: repr(value))
def test_an_illegal_command_stops_the_queue_at_itself(command: Command, features: dict[str, Any], rule: str) -> None:
    rig = started(**features)
    rig.put(TlbiNsnhAll.make(), command, TlbiNsnhAll.make())
    assert rig.target.calls == [tlbi(Regime.NSNH)]
    assert rig.read(Offset.CMDQ_CONS) == CmdqCons(rd=1, err=CmdqErr.ILL)
    assert rig.errors() == Gerror.mask("cmdq_err")
    assert [refused.rule.id for refused in rig.refused] == [f"smmu.cmd-{rule}"]


def test_an_illegal_command_is_named_in_the_reason() -> None:
    rig = started(ats=False, pri=False)
    rig.put(AtcInv.make(sid=1))
    assert rig.refused[0].why == "CMD_ATC_INV needs ATS, which is not there"
    other = started()
    other.put(Command(opcode=0xEE))
    assert other.refused[0].why == "opcode 0xee is not a command"


# Stop and restart


def test_nothing_is_consumed_while_the_error_is_active() -> None:
    rig = started()
    rig.put(Command())
    rig.put(TlbiNsnhAll.make())
    rig.enable(cmdqen=False)
    rig.enable(cmdqen=True)
    assert rig.target.calls == []
    assert rig.errors() == Gerror.mask("cmdq_err")


def test_the_queue_restarts_at_the_mended_command_when_the_error_is_acknowledged() -> None:
    rig = started()
    rig.put(Command(), TlbiNsnhAll.make())
    rig.memory.store(CMDQ, Sync.make().pack())
    rig.acknowledge()
    assert rig.target.calls == [tlbi(Regime.NSNH)]
    assert rig.read(Offset.CMDQ_CONS).rd == 2
    assert rig.errors() == 0


def test_the_bad_command_can_be_taken_back() -> None:
    rig = started()
    rig.put(TlbiNsnhAll.make(), Command())
    rig.write(Offset.CMDQ_PROD, wr=1)
    rig.acknowledge()
    assert rig.errors() == 0
    rig.put(CfgiCdAll.make(sid=3))
    assert rig.target.calls == [tlbi(Regime.NSNH), ("cfgi_cd_all", 3)]


def test_an_interrupt_handler_can_mend_and_acknowledge() -> None:
    rig = started()
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)

    def mend(name: str) -> None:
        cons = rig.read(Offset.CMDQ_CONS)
        assert cons.err == CmdqErr.ILL
        rig.memory.store(CMDQ + 16 * (cons.rd & 7), Sync.make().pack())
        rig.acknowledge()

    rig.interface.irq = mend
    rig.put(Command(), TlbiNsnhAll.make(), Command(), TlbiNsnhAll.make())
    assert rig.target.calls == [tlbi(Regime.NSNH)] * 2
    assert rig.read(Offset.CMDQ_CONS).rd == 4


def test_an_interrupt_handler_may_go_on_producing_for_more_than_a_queue_full() -> None:
    rig = Rig()
    rig.start_commands(log2size=1)
    left = list(range(7))

    def produce(name: str) -> None:
        if left:
            rig.put(CfgiCdAll.make(sid=left.pop(0)), Sync.make(cs=1))

    rig.interface.irq = produce
    rig.put(Sync.make(cs=1))
    assert rig.target.calls == [("cfgi_cd_all", sid) for sid in range(7)]
    assert rig.read(Offset.CMDQ_CONS).rd == rig.read(Offset.CMDQ_PROD).wr


def test_an_interrupt_handler_that_mends_nothing_is_not_called_forever() -> None:
    rig = started()
    rig.write(Offset.IRQ_CTRL, gerror_irqen=True)
    calls = []

    def acknowledge(name: str) -> None:
        calls.append(name)
        rig.acknowledge()

    rig.interface.irq = acknowledge
    rig.put(Command())
    assert 1 <= len(calls) <= 8


def test_an_abort_on_fetch_stops_the_queue() -> None:
    rig = started()
    rig.memory.poison(CMDQ + 16, 16)
    rig.memory.store(CMDQ, TlbiNsnhAll.make().pack())
    rig.write(Offset.CMDQ_PROD, wr=2)
    assert rig.read(Offset.CMDQ_CONS) == CmdqCons(rd=1, err=CmdqErr.ABT)
    assert rig.refused[0].why == "the command at index 0x1 cannot be read"
    rig.memory.heal()
    rig.memory.store(CMDQ + 16, TlbiNsnhAll.make().pack())
    rig.acknowledge()
    assert len(rig.target.calls) == 2


def test_a_queue_outside_of_memory_aborts() -> None:
    rig = Rig(oas_bits=56)
    rig.write(Offset.CMDQ_BASE, addr=1 << 55, log2size=3)
    rig.write(Offset.CMDQ_PROD, wr=1)
    rig.enable(cmdqen=True)
    assert rig.read(Offset.CMDQ_CONS).err == CmdqErr.ABT


# SYNC


def test_sync_without_a_signal_is_silent() -> None:
    rig = started()
    rig.put(Sync.make(msiaddr=MSI, msidata=1), Sync.make(cs=2, msiaddr=MSI, msidata=1))
    assert rig.irqs == []
    assert rig.memory.load(MSI, 4) == bytes(4)
    assert rig.read(Offset.CMDQ_CONS).rd == 2


def test_sync_writes_its_message() -> None:
    rig = started()
    rig.memory.store(MSI, b"\xff" * 8)
    rig.put(Sync.make(cs=1, msiaddr=MSI, msidata=0x8765_4321))
    assert rig.memory.load(MSI, 8) == bytes.fromhex("21436587ffffffff")
    assert rig.irqs == ["sync"]


def test_sync_without_an_address_only_interrupts() -> None:
    rig = started()
    rig.put(Sync.make(cs=1, msidata=1))
    assert rig.irqs == ["sync"]
    assert rig.memory.load(0, 4) == bytes(4)


def test_sync_writes_no_message_where_there_are_none() -> None:
    rig = started(msi=False)
    rig.put(Sync.make(cs=1, msiaddr=MSI, msidata=1))
    assert rig.memory.load(MSI, 4) == bytes(4)
    assert rig.irqs == ["sync"]


def test_the_address_of_a_sync_message_is_cut_to_the_output_address_size() -> None:
    rig = started(oas_bits=32)
    rig.put(Sync.make(cs=1, msiaddr=1 << 40 | MSI, msidata=9))
    assert rig.memory.load(MSI, 4) == b"\x09\0\0\0"


def test_an_aborted_sync_message_is_an_error_but_sync_is_complete() -> None:
    rig = started()
    rig.memory.poison(MSI, 4)
    rig.put(Sync.make(cs=1, msiaddr=MSI), TlbiNsnhAll.make())
    assert rig.errors() == Gerror.mask("msi_cmdq_abt_err")
    assert rig.read(Offset.CMDQ_CONS).rd == 2
    assert rig.target.calls == [tlbi(Regime.NSNH)]
    assert rig.irqs == []


def test_sync_stops_the_queue_when_an_atc_invalidation_timed_out() -> None:
    rig = started()
    rig.target.timed_out = True
    rig.put(AtcInv.make(sid=1, size=52), Sync.make(cs=1), TlbiNsnhAll.make())
    assert rig.read(Offset.CMDQ_CONS) == CmdqCons(rd=1, err=CmdqErr.ATC_INV_SYNC)
    assert rig.errors() == Gerror.mask("cmdq_err")
    assert rig.irqs == []
    rig.target.timed_out = False
    rig.acknowledge()
    assert rig.read(Offset.CMDQ_CONS).rd == 3
    assert rig.irqs == ["sync"]


# Anything goes


@settings(max_examples=150, deadline=None)
@given(
    entries=st.lists(st.one_of(st.binary(min_size=16, max_size=16), st.none()), min_size=8, max_size=8),
    opcodes=st.lists(st.sampled_from([*Opcode]), min_size=8, max_size=8),
    features=st.sampled_from([{}, {"ats": False, "pri": False}, NO_STALL, {"stage1": False}, {"ssid_bits": 0}]),
)
def test_any_bytes_in_the_queue_are_consumed_or_stop_it(
    entries: list[bytes | None], opcodes: list[Opcode], features: dict[str, Any]
) -> None:
    rig = started(**features)
    for index, (entry, opcode) in enumerate(zip(entries, opcodes, strict=True)):
        if entry is None:
            rig.memory.poison(CMDQ + 16 * index, 16)
        else:
            rig.memory.store(CMDQ + 16 * index, bytes([opcode]) + entry[1:])
    rig.write(Offset.CMDQ_PROD, wr=8)
    for _ in range(8):
        cons = rig.read(Offset.CMDQ_CONS)
        stopped = rig.errors().cmdq_err
        assert stopped == (cons.rd != 8)
        if not stopped:
            break
        assert cons.err in (CmdqErr.ILL, CmdqErr.ABT)
        if cons.err == CmdqErr.ABT:
            assert entries[cons.rd] is None
            rig.memory.heal()
            entries = [entry or b"" for entry in entries]
        rig.memory.store(CMDQ + 16 * cons.rd, Sync.make().pack())
        rig.acknowledge()
        assert rig.read(Offset.CMDQ_CONS).rd > cons.rd
    assert rig.errors() & Gerror.mask("cmdq_err") == 0

"""PCIe ATS and page requests: answers to translation requests, translated transactions, ATCs, the PRI queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pasidlab.hw.atc import Atc, AtcEntry
from pasidlab.hw.smmuv3.commands import AtcInv, CfgiSte, PriResp, Resp, Sync, TlbiNhAsid
from pasidlab.hw.smmuv3.port import DmaPort, PageRefused
from pasidlab.hw.smmuv3.records import PriRecord
from pasidlab.hw.smmuv3.registers import CmdqErr, Offset
from pasidlab.hw.smmuv3.request import Completion, Terminated
from pasidlab.hw.smmuv3.structures import Config
from pasidlab.hw.transaction import Ats, AtsStatus, Transferred, Translated
from tests.smmuv3_hardware import (
    AF,
    ASID,
    BAD_ATS_TREQ,
    CDTAB,
    NG,
    PA,
    PRIQ,
    READ_ONLY,
    S1_ALL,
    SID,
    STRTAB,
    TRANSL_FORBIDDEN,
    USER,
    UUT,
    VA,
    Software,
    World,
    fault,
    record,
)

S1, S2, NESTED, BYPASS, ABORT = Config.STAGE_1, Config.STAGE_2, Config.NESTED, Config.BYPASS, Config.ABORT
SSID = 3
PAGE = VA & -4096
UXN, DBM = 1 << 54, 1 << 51
SUCCESS, UR, CA = AtsStatus.SUCCESS, AtsStatus.UNSUPPORTED_REQUEST, AtsStatus.COMPLETER_ABORT


def ats_world(config: Config = S1, /, ste: dict[str, int] | None = None, **more: Any) -> World:
    """Return a world whose stream has ATS, and a CD at 0 and at SSID."""
    world = World(ats=True, pri=True, **more)
    world.stream(config, **{"eats": 1, "s1cdmax": 4} | (ste or {}))
    for index in (0, SSID):
        world.cd(index)
    return world


def rights(world: Software, ssid: int | None = None, address: int = VA, **more: Any) -> str:
    """Return what a translation request is granted, as text."""
    answer = world.ats(ssid, address, **more)
    assert answer.status is SUCCESS
    assert world.events() == []
    return "r" * answer.read + "w" * answer.write + "x" * answer.execute


# --- translation requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [S1, S2, NESTED], ids=lambda config: config.name)
def test_a_translation_request_is_answered_with_the_output_and_its_rights(config: Config) -> None:
    world = ats_world(config)
    answer = world.ats(write=True)
    assert answer.status is SUCCESS
    output = VA if config is S2 else PA
    assert answer.address == output & -4096
    assert answer.lg2 == (30 if config is S2 else 12)
    assert (answer.read, answer.write, answer.execute) == (True, True, False)
    assert world.events() == []


PAGES = [
    # page attributes, request, what is granted: the examples of 13.7
    (USER | READ_ONLY, {}, "r"),
    (USER, {"write": True}, "rw"),
    (USER | READ_ONLY, {"write": True}, "r"),
    (READ_ONLY, {"privileged": True}, "r"),
    (0, {"privileged": True, "write": True}, "rw"),
    (0, {}, ""),
    (USER | UXN, {"instruction": True}, "rw"),
    (USER, {"instruction": True}, "rwx"),
    (USER | READ_ONLY, {"instruction": True}, "rx"),
    (0, {"instruction": True}, ""),
]


@pytest.mark.parametrize(("attributes", "request_", "granted"), PAGES)
def test_rights_are_granted_as_far_as_the_page_has_them(
    attributes: int, request_: dict[str, Any], granted: str
) -> None:
    world = ats_world()
    world.stage1.map(VA, PA, AF | NG | attributes)
    assert rights(world, SSID, **request_) == granted


def test_a_request_without_pasid_is_unprivileged_data() -> None:
    world = ats_world()
    assert rights(world, instruction=True, privileged=True) == "rw"
    world.stage1.map(VA, PA, AF | NG)
    world.command(TlbiNhAsid.make(asid=ASID))
    assert rights(world, privileged=True) == ""
    assert rights(world, SSID, privileged=True) == "rw"


@pytest.mark.parametrize(
    ("ste", "request_", "granted"),
    [
        ({"privcfg": 3}, {}, "rw"),
        ({"privcfg": 2}, {"privileged": True}, ""),
        ({"privcfg": 3, "instcfg": 2}, {"instruction": True}, "rwx"),
        ({"instcfg": 3}, {"instruction": True}, "rx"),
        ({"instcfg": 3}, {}, "r"),
    ],
)
def test_overrides_change_whose_rights_count(ste: dict[str, int], request_: dict[str, Any], granted: str) -> None:
    world = ats_world(S1, ste, attr_perms_ovr=True)
    world.stage1.map(VA, PA, AF | NG)
    assert rights(world, SSID, **request_) == granted


@pytest.mark.parametrize("leaf", [0, 1 << 47 | 3 | S1_ALL, PA & -4096 | 3 | USER])
@pytest.mark.parametrize("cd", [{}, {"s": 1}, {"a": 0, "r": 0}])
def test_a_page_that_is_not_there_is_success_without_rights(leaf: int, cd: dict[str, int]) -> None:
    world = ats_world(granules=frozenset({12, 16}))
    world.cd(SSID, ips=4, **cd)
    world.stage1.put(VA, leaf)
    answer = world.ats(SSID)
    assert (answer.status, answer.read, answer.write, answer.lg2) == (SUCCESS, False, False, 12)
    assert world.events() == []


@pytest.mark.parametrize("place", [CDTAB, None, PA])
def test_a_stage_2_fault_wherever_is_success_without_rights(place: int | None) -> None:
    world = ats_world(NESTED)
    world.stage2.put(world.stage1.root if place is None else place, 0, level=2)
    assert rights(world) == ""


def spoil_ste(world: World) -> None:
    world.stream(S1, eats=1, v=0)


def spoil_s1dss(world: World) -> None:
    world.stream(S1, eats=1, s1cdmax=4, s1dss=0)


CONFIGURATION_ERRORS: list[tuple[Callable[[World], Any], int | None]] = [
    (spoil_ste, None),
    (lambda world: world.memory.poison(STRTAB + SID * 64, 64), None),
    (lambda world: None, 16),
    (spoil_s1dss, None),
    (lambda world: None, 0),
    (lambda world: world.memory.poison(CDTAB + SSID * 64, 64), SSID),
    (lambda world: world.cd(SSID, aa64=0), SSID),
    (lambda world: world.memory.poison(world.stage1.root, 4096), None),
]


@pytest.mark.parametrize(("spoil", "ssid"), CONFIGURATION_ERRORS)
def test_a_bad_configuration_is_a_completer_abort_without_an_event(
    spoil: Callable[[World], Any], ssid: int | None
) -> None:
    world = ats_world()
    spoil(world)
    assert world.ats(ssid).status is CA
    assert world.events() == []


def test_an_unknown_stream_is_a_completer_abort_without_an_event() -> None:
    world = ats_world()
    assert world.ats(sid=1 << 20).status is CA
    assert world.events() == []


def test_a_stream_told_to_abort_is_unsupported_without_an_event() -> None:
    world = ats_world(ABORT)
    assert world.ats().status is UR
    assert world.events() == []


def bad_request(ssid: int | None = None, **fields: int) -> bytes:
    return record(BAD_ATS_TREQ, ssid=ssid, **{"span": 1, "r": 1, "inputaddr": PAGE} | fields)


@pytest.mark.parametrize(
    ("config", "ste"),
    [(BYPASS, {}), (S1, {"eats": 0}), (S2, {"eats": 0}), (NESTED, {"eats": 3}), (BYPASS, {"eats": 2})],
)
def test_a_stream_without_ats_is_unsupported_with_f_bad_ats_treq(config: Config, ste: dict[str, int]) -> None:
    world = ats_world(config, ste)
    assert world.ats().status is UR
    assert world.events() == [bad_request()]


def test_f_bad_ats_treq_says_what_was_asked_for() -> None:
    world = ats_world(S1, {"eats": 0, "privcfg": 3, "instcfg": 3}, attr_perms_ovr=True)
    for write in (0, 1):
        for privileged in (0, 1):
            for execute in (0, 1):
                asked: dict[str, Any] = {"write": write, "privileged": privileged, "instruction": execute}
                world.ats(SSID, **asked)
                world.ats(**asked)
                assert world.events() == [
                    bad_request(SSID, w=write, p=privileged, x=execute),
                    bad_request(w=write),
                ]


def test_ats_is_checked_before_substreams() -> None:
    world = ats_world(S1, {"eats": 0})
    assert world.ats(16).status is UR
    assert world.events() == [bad_request(16)]


def test_while_the_smmu_is_off_a_translation_request_is_unsupported() -> None:
    world = ats_world()
    world.enable(smmuen=0)
    assert world.ats().status is UR
    assert world.events() == [bad_request()]


def test_an_smmu_without_ats_does_not_support_translation_requests() -> None:
    world = World(ats=False)
    world.stream(S1, eats=1)
    assert world.ats(address=VA).status is UR
    assert world.events() == [record(UUT, rnw=1, inputaddr=VA)]


@pytest.mark.parametrize("config", [S1, NESTED], ids=lambda config: config.name)
def test_a_request_that_s1dss_lets_bypass_stage_1_gets_what_is_left(config: Config) -> None:
    world = ats_world(config, {"s1dss": 1})
    answer = world.ats()
    assert (answer.status, answer.address) == (SUCCESS, PAGE)
    assert (answer.read, answer.write, answer.execute) == (True, True, False)
    assert answer.lg2 == (30 if config is NESTED else 48)


def test_a_bypassing_request_beyond_the_output_size_gets_no_rights() -> None:
    world = ats_world(S1, {"s1dss": 1})
    assert rights(world, address=1 << 48) == ""


@pytest.mark.parametrize(("write", "granted", "dirty"), [(False, "r", False), (True, "rw", True)])
def test_a_request_to_write_makes_a_clean_page_dirty(write: bool, granted: str, dirty: bool) -> None:
    world = ats_world(httu=2)
    world.cd(SSID, ha=1, hd=1)
    place = world.stage1.map(VA, PA, USER | NG | READ_ONLY | DBM)
    assert rights(world, SSID, write=write) == granted
    entry = world.memory.load64(place)
    assert entry is not None
    assert entry & AF
    assert bool(entry & READ_ONLY) is not dirty


def test_a_request_to_write_leaves_a_page_clean_that_it_may_not_write() -> None:
    world = ats_world(httu=2)
    world.cd(SSID, ha=1, hd=1)
    place = world.stage1.map(VA, PA, NG | READ_ONLY | DBM)
    assert rights(world, SSID, write=True) == ""
    assert rights(world, SSID, write=True, privileged=True) == "rw"
    entry = world.memory.load64(place)
    assert entry is not None
    assert not entry & READ_ONLY


# --- translated transactions ---------------------------------------------------------------------------------------


def translated(world: Software, address: int = PA, **more: Any) -> Any:
    return world.go(None, address, ats=Ats.TRANSLATED, **more)


@pytest.mark.parametrize("atschk", [0, 1])
def test_a_translated_transaction_of_a_stream_with_ats_passes(atschk: int) -> None:
    world = ats_world(start={"atschk": atschk})
    outcome = translated(world, write=True)
    assert isinstance(outcome, Translated)
    assert outcome.address == PA
    assert world.events() == []


@pytest.mark.parametrize(("config", "ste"), [(BYPASS, {}), (S1, {"eats": 0}), (NESTED, {"eats": 3})])
def test_a_translated_transaction_of_a_stream_without_ats_is_forbidden_if_checked(
    config: Config, ste: dict[str, int]
) -> None:
    world = ats_world(config, ste)
    assert isinstance(translated(world), Translated)
    world.enable(atschk=1)
    for write in (False, True):
        outcome = translated(world, PA, write=write)
        assert isinstance(outcome, Terminated)
        assert outcome.completion is Completion.ABORT
        assert world.events() == [record(TRANSL_FORBIDDEN, rnw=int(not write), inputaddr=PA)]


@pytest.mark.parametrize("spoil", [spoil_ste, lambda world: world.memory.poison(STRTAB, 1 << 14)])
def test_a_translated_transaction_with_a_bad_ste_is_aborted_in_silence(spoil: Callable[[World], Any]) -> None:
    world = ats_world(start={"atschk": 1})
    spoil(world)
    assert isinstance(translated(world), Terminated)
    assert world.events() == []


def test_a_translated_transaction_of_a_stream_told_to_abort_is_aborted_in_silence() -> None:
    world = ats_world(ABORT)
    assert isinstance(translated(world), Translated)
    world.enable(atschk=1)
    assert isinstance(translated(world), Terminated)
    assert isinstance(translated(world, sid=1 << 20), Terminated)
    assert world.events() == []


def test_a_translated_transaction_is_forbidden_while_the_smmu_is_off() -> None:
    world = ats_world()
    world.enable(smmuen=0)
    assert isinstance(translated(world), Terminated)
    assert world.events() == [record(TRANSL_FORBIDDEN, rnw=1, inputaddr=PA)]


@pytest.mark.parametrize("atschk", [0, 1])
def test_a_translated_address_beyond_the_output_size_is_aborted_in_silence(atschk: int) -> None:
    world = ats_world(start={"atschk": atschk})
    assert isinstance(translated(world, (1 << 48) - 1), Translated)
    assert isinstance(translated(world, 1 << 48), Terminated)
    assert world.events() == []


def test_an_smmu_without_ats_aborts_translated_transactions() -> None:
    world = World(ats=False)
    world.stream(S1)
    assert isinstance(translated(world), Terminated)
    assert world.events() == []


# --- the ATC -------------------------------------------------------------------------------------------------------


def port_world(**more: Any) -> tuple[World, DmaPort]:
    world = ats_world(**more)
    return world, DmaPort(world.smmu, SID, ats=True, pri=True)


def read(port: DmaPort, ssid: int | None = SSID, address: int = VA) -> Any:
    return port.transfer(ssid, address, None, 4)


def test_a_device_with_ats_reads_where_the_tables_say_and_keeps_the_translation() -> None:
    world, port = port_world()
    world.memory.store(PA, b"data")
    assert read(port) == Transferred(PA, b"data")
    world.stage1.put(VA, 0)
    world.command(TlbiNhAsid.make(asid=ASID))
    assert read(port) == Transferred(PA, b"data")


ATC_COMMANDS = [
    # command, and which of the entries (SSID, PAGE), (SSID, other page), (SSID + 1, PAGE), (none, PAGE) it removes
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID, size=0, addr=PAGE), {0}),
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID, size=52), {0, 1}),
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID, size=63), {0, 1}),
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID, size=4, addr=PAGE + 4096), {0}),
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID, size=20, addr=PAGE), {0, 1}),
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID, size=0, addr=PAGE + 4096), set()),
    (AtcInv.make(sid=SID, ssv=1, ssid=SSID + 1, size=52), {2}),
    (AtcInv.make(sid=SID, ssv=1, ssid=0, size=52), set()),
    (AtcInv.make(sid=SID, size=52), {0, 1, 2, 3}),
    (AtcInv.make(sid=SID, size=0, addr=PAGE), {0, 2, 3}),
    (AtcInv.make(sid=SID, ssv=1, global_=1, ssid=0, size=0, addr=PAGE), {0, 2, 3}),
    (AtcInv.make(sid=SID, global_=1, size=52), {0, 1, 2, 3}),
    (AtcInv.make(sid=SID + 1, ssv=1, ssid=SSID, size=52), set()),
]


@pytest.mark.parametrize(("command", "gone"), ATC_COMMANDS)
def test_an_atc_entry_stays_until_its_command(command: AtcInv, gone: set[int]) -> None:
    world, port = port_world()
    entries = [(SSID, PAGE), (SSID, PAGE + 0x10_0000), (SSID + 1, PAGE), (None, PAGE)]
    for ssid, address in entries:
        port.atc.fill(ssid, address, AtcEntry(PA & -4096, 12, read=True, write=False))
    world.command(command)
    kept = {n for n, (ssid, address) in enumerate(entries) if port.atc.lookup(ssid, address, write=False) is not None}
    assert kept == {0, 1, 2, 3} - gone


def test_a_device_that_answers_no_invalidation_makes_the_next_sync_fail() -> None:
    world, port = port_world()
    port.atc.hung = True
    world.put(AtcInv.make(sid=SID, size=52))
    assert not world.errors().cmdq_err
    world.put(Sync.make(), CfgiSte.make(sid=SID))
    assert world.errors().cmdq_err
    cons = world.read(Offset.CMDQ_CONS)
    assert cons.err == CmdqErr.ATC_INV_SYNC
    assert cons.rd == world.read(Offset.CMDQ_PROD).wr - 2
    world.write(Offset.GERRORN, world.read(Offset.GERROR))
    assert world.read(Offset.CMDQ_CONS).rd == world.read(Offset.CMDQ_PROD).wr
    assert not world.errors().cmdq_err


def test_while_the_smmu_is_off_atc_invalidations_are_ignored() -> None:
    world, port = port_world()
    port.atc.fill(SSID, PAGE, AtcEntry(PA & -4096, 12, read=True, write=False))
    world.enable(smmuen=0)
    world.command(AtcInv.make(sid=SID, size=52))
    assert port.atc.lookup(SSID, PAGE, write=False) is not None


def test_the_atc_keeps_each_right_apart() -> None:
    world, port = port_world()
    world.stage1.map(VA, PA, S1_ALL | READ_ONLY)
    assert isinstance(read(port), Transferred)
    assert isinstance(port.transfer(SSID, VA, b"x", 1), PageRefused)
    assert isinstance(read(port), Transferred)


def test_the_atc_makes_room_by_forgetting_its_oldest_entry() -> None:
    atc = Atc(capacity=2)
    for page in range(3):
        atc.fill(None, page << 12, AtcEntry(PA & -4096, 12, read=True, write=True))
    assert [atc.lookup(None, page << 12, write=True) is not None for page in range(3)] == [False, True, True]


def test_a_device_may_be_granted_less_than_it_asked_for() -> None:
    world, port = port_world()
    world.stage1.map(VA, PA, S1_ALL | READ_ONLY)
    port.pri = False
    outcome = port.transfer(SSID, VA, b"x", 1)
    assert isinstance(outcome, PageRefused)
    assert outcome.response is None
    assert port.atc.lookup(SSID, VA, write=False) == PA


def test_a_device_whose_request_is_refused_gets_nothing() -> None:
    world, port = port_world()
    world.stream(BYPASS)
    outcome = read(port, None)
    assert isinstance(outcome, Terminated)
    assert world.events() == [bad_request()]


# --- page requests -------------------------------------------------------------------------------------------------


@dataclass
class Endpoint:
    """Notes what the SMMU sends."""

    responses: list[tuple[int | None, int, Resp]] = field(default_factory=list)

    def invalidate(self, ssid: int | None, *, every_ssid: bool, first: int, size: int | None) -> bool:
        return True

    def page_response(self, ssid: int | None, prg_index: int, response: Resp) -> None:
        self.responses.append((ssid, prg_index, response))


def pri_world(log2size: int = 1, ste: dict[str, int] | None = None, **more: Any) -> tuple[World, Endpoint]:
    world = ats_world(S1, ste, **more)
    endpoint = Endpoint()
    world.smmu.connect_ats(SID, endpoint)
    world.start_page_requests(log2size)
    return world, endpoint


def ask(world: World, index: int, ssid: int | None = SSID, *, last: bool = True, **more: int) -> None:
    fields = {"sid": SID, "r": 1, "last": last, "prgindex": index, "addr": PAGE}
    if ssid is not None:
        fields |= {"ssv": 1, "ssid": ssid}
    world.smmu.page_request(PriRecord(**fields | more))


def asked(index: int, ssid: int | None = SSID, last: int = 1) -> bytes:
    """Encode a page request to read, from the bit positions."""
    low = SID | 1 << 60 | last << 62 | (0 if ssid is None else 1 << 63 | ssid << 32)
    return (low | (index | PAGE) << 64).to_bytes(16, "little")


SUCCEEDED, FAILED = Resp.SUCCESS, Resp.FAILURE


def test_page_requests_lie_in_the_queue_as_they_came() -> None:
    world, endpoint = pri_world()
    ask(world, 1, last=False)
    ask(world, 0x1FF, None)
    assert world.page_requests() == [asked(1, last=0), asked(0x1FF, None)]
    assert endpoint.responses == []


@pytest.mark.parametrize(("code", "response"), [(0, FAILED), (1, Resp.INVALID_REQUEST), (2, SUCCEEDED)])
def test_pri_resp_reaches_the_device(code: int, response: Resp) -> None:
    world, endpoint = pri_world()
    world.command(PriResp.make(sid=SID, ssv=1, ssid=SSID, prgindex=0x1A, resp=code))
    world.command(PriResp.make(sid=SID, ssid=SSID, prgindex=1, resp=code), PriResp.make(sid=SID + 1, resp=code))
    assert endpoint.responses == [(SSID, 0x1A, response), (None, 1, response)]


AUTOMATIC = [
    # features, STE, SubstreamID of the request, the automatic response after an overflow
    ({"pps": True}, {}, SSID, (SSID, SUCCEEDED)),
    ({"pps": True}, {}, None, (None, SUCCEEDED)),
    ({}, {"ppar": 1}, SSID, (SSID, SUCCEEDED)),
    ({}, {"ppar": 0}, SSID, (None, SUCCEEDED)),
    ({}, {"ppar": 1}, None, (None, SUCCEEDED)),
    ({}, {"v": 0}, SSID, (None, FAILED)),
    ({}, {"v": 0}, None, (None, SUCCEEDED)),
    ({"pps": True}, {"v": 0}, SSID, (SSID, SUCCEEDED)),
    ({"pps": True, "ssid_bits": 0}, {}, SSID, (None, SUCCEEDED)),
]


@pytest.mark.parametrize(("features", "ste", "ssid", "answer"), AUTOMATIC)
def test_after_an_overflow_the_smmu_answers_by_itself(
    features: dict[str, Any], ste: dict[str, int], ssid: int | None, answer: tuple[int | None, Resp]
) -> None:
    world, endpoint = pri_world(1, ste, **features)
    for index in range(2):
        ask(world, index)
    ask(world, 7, ssid)
    assert endpoint.responses == [(answer[0], 7, answer[1])]
    assert world.read(Offset.PRIQ_PROD).ovflg
    assert world.memory.load(PRIQ, 32) == asked(0) + asked(1)
    assert world.events() == []


def test_an_overflow_lasts_until_it_is_acknowledged() -> None:
    world, endpoint = pri_world()
    for index in range(3):
        ask(world, index)
    cons = world.read(Offset.PRIQ_CONS)
    world.write(Offset.PRIQ_CONS, cons.replace(rd=2))
    ask(world, 3, None)
    assert endpoint.responses[-1] == (None, 3, SUCCEEDED)
    world.write(Offset.PRIQ_CONS, cons.replace(rd=2, ovackflg=1))
    ask(world, 4)
    assert world.page_requests() == [asked(4)]


def test_an_overflow_answers_only_the_last_request_of_a_group() -> None:
    world, endpoint = pri_world(0)
    ask(world, 0)
    ask(world, 1, last=False)
    assert endpoint.responses == []
    ask(world, 1)
    assert endpoint.responses == [(None, 1, SUCCEEDED)]


@pytest.mark.parametrize("how", ["off", "smmu off", "aborted before", "aborts now"])
def test_a_queue_that_takes_nothing_fails_every_request(how: str) -> None:
    world, endpoint = pri_world(3, {"ppar": 1}, pps=True)
    if how == "off":
        world.enable(priqen=0)
    elif how == "smmu off":
        world.enable(smmuen=0)
    else:
        world.memory.poison(PRIQ, 16)
    if how == "aborted before":
        ask(world, 99)
        assert world.errors().priq_abt_err
        world.memory.heal()
        endpoint.responses.clear()
    ask(world, 1, last=False)
    ask(world, 2)
    assert endpoint.responses == [(None, 1, FAILED), (None, 2, FAILED)]


@pytest.mark.parametrize("how", ["off", "overflow"])
def test_a_stop_marker_is_never_answered(how: str) -> None:
    world, endpoint = pri_world(0)
    if how == "off":
        world.enable(priqen=0)
    else:
        ask(world, 0)
    ask(world, 1, r=0, w=0)
    assert endpoint.responses == []


def test_an_smmu_without_page_requests_fails_them() -> None:
    world = World(ats=True, pri=False)
    endpoint = Endpoint()
    world.smmu.connect_ats(SID, endpoint)
    ask(world, 1)
    assert endpoint.responses == [(None, 1, FAILED)]


def test_a_device_asks_for_the_page_and_goes_on_when_it_is_there() -> None:
    world, port = port_world()
    world.start_page_requests()
    world.stage1.put(VA, 0)

    def serve(name: str) -> None:
        if name != "priq":
            return
        requests = world.page_requests()
        assert requests == [asked(0)]
        world.stage1.map(VA, PA, S1_ALL)
        world.command(PriResp.make(sid=SID, ssv=1, ssid=SSID, prgindex=0, resp=2))

    world.smmu.interface.irq = serve
    world.write(Offset.IRQ_CTRL, priq_irqen=1)
    assert isinstance(read(port), Transferred)
    assert world.events() == []


@pytest.mark.parametrize("response", [Resp.INVALID_REQUEST, FAILED])
def test_a_device_whose_page_is_refused_stops(response: Resp) -> None:
    world, port = port_world()
    world.start_page_requests()
    world.stage1.put(VA, 0)
    command = PriResp.make(sid=SID, ssv=1, ssid=SSID, prgindex=0, resp=response)
    world.smmu.interface.irq = lambda name: world.command(command) if name == "priq" else None
    world.write(Offset.IRQ_CTRL, priq_irqen=1)
    outcome = read(port)
    assert isinstance(outcome, PageRefused)
    assert outcome.response is response


def test_a_device_that_gets_no_answer_has_no_page() -> None:
    world, port = port_world()
    world.start_page_requests()
    world.stage1.put(VA, 0)
    outcome = read(port)
    assert isinstance(outcome, PageRefused)
    assert outcome.response is None


def test_a_device_without_ats_faults_as_any_other() -> None:
    world = ats_world()
    port = DmaPort(world.smmu, SID)
    world.stage1.put(VA, 0)
    assert isinstance(read(port), Terminated)
    assert world.events() == [fault(0x10, SSID)]
    assert world.page_requests() == []

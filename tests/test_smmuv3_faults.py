"""Faults of devices behind an SMMUv3, from the event in the queue's memory to the answer, and what memory shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pasidlab.drivers.arm_smmu_v3.cmdq import arm_smmu_cmdq_issue_cmd_with_sync
from pasidlab.drivers.arm_smmu_v3.fault import stall_event, stall_fault
from pasidlab.events import PageResponded, SmmuEvent
from pasidlab.hw.smmuv3.commands import AtcInv, CfgiCd
from pasidlab.hw.smmuv3.records import (
    CBadCd,
    CBadSubstreamid,
    Event,
    FAccess,
    FPermission,
    FTranslation,
    FWalkEabt,
    PriRecord,
    event_of,
)
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.request import Request, Stalled, Terminated
from pasidlab.linux.iopf import PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE, Fault, run_work
from pasidlab.linux.mm import READ, WRITE
from pasidlab.outcome import Outcome

from .smmuv3_machine import CODE, DATA, HOLE, NOTHING, READ_ONLY, SMMU, SmmuMachine, narrow, nic, told

both_kernels = pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
ATS = {"ats": True}
PRI = {"ats": True, "pri": True}


class Watched(SmmuMachine):
    """Also reads the event queue and the PRI queue from memory."""

    def records(self, queue: str, size: int) -> list[int]:
        base = self.register(Offset[f"{queue}_BASE"])
        prod, wrap = self.register(Offset[f"{queue}_PROD"]), (2 << base.log2size) - 1
        cons = self.register(Offset[f"{queue}_CONS"])
        assert cons.rd == prod.wr, "the driver has read everything"
        start, self._read[queue] = self._read.get(queue, 0), prod.wr
        found = []
        while start != prod.wr:
            found.append(self._load(base.addr + (start & wrap >> 1) * size, size))
            start = start + 1 & wrap
        return found

    def events(self) -> list[Event]:
        return [event_of(raw) for raw in self.records("EVENTQ", 32)]

    def page_requests(self) -> list[PriRecord]:
        return [PriRecord(raw) for raw in self.records("PRIQ", 16)]

    def printed(self) -> list[SmmuEvent]:
        """Return the list that collects the events which the driver prints from now on."""
        heard: list[SmmuEvent] = []
        self.kernel.observers.append(lambda event: heard.append(event) if isinstance(event, SmmuEvent) else None)
        return heard

    def stall(self, device: str, pasid: int, address: int = DATA) -> Stalled:
        """Let a device start an access that waits for its page."""
        stalled = self.driver.ports[self.dev(device)].transfer(pasid, address, b"late", 4)
        assert isinstance(stalled, Stalled)
        return stalled

    def text(self, process: str, address: int = DATA, size: int = 6) -> bytes:
        work = self.load(process, address, size).work
        assert work is not None
        return work.data


def rule(outcome: Outcome) -> tuple[str, str]:
    return outcome.result, outcome.rule


# --- stalls --------------------------------------------------------------------------------------------------


@both_kernels
def test_a_page_comes_by_event_worker_and_retry(kernel: str) -> None:
    m = Watched(narrow(), kernel=kernel)
    m.bind("npu0", "a")
    m.forget()
    mm = m.processes["a"].mm
    assert mm is not None
    assert not mm.has_page(DATA)
    assert m.write("npu0", 1, DATA + 8, b"from npu").work.owner == "a"
    (event,) = m.events()
    assert isinstance(event, FTranslation)
    assert (event.sid, event.ssv, event.ssid, event.stall, event.rnw, event.s2) == (1, True, 1, True, False, False)
    assert (event.inputaddr, event.pnu, event.ind) == (DATA + 8, False, False)
    assert told(m.commands()) == ["RESUME 1 retry"], "nothing waits for a RESUME"
    assert m.text("a", DATA + 8, 8) == b"from npu"
    assert m.write("npu0", 1).result == "ok"
    assert m.events() == []


@both_kernels
@pytest.mark.parametrize(
    ("address", "write"), [(HOLE, True), (HOLE, False), (READ_ONLY, True), (NOTHING, False), (CODE, True)]
)
def test_what_the_process_may_not_do_is_aborted(kernel: str, address: int, write: bool) -> None:
    m = Watched(narrow(), kernel=kernel)
    m.bind("npu0", "a")
    m.forget()
    outcome = m.write("npu0", 1, address) if write else m.read("npu0", 1, address)
    assert rule(outcome) == ("fault", "smmu.resumed-abort")
    (event,) = m.events()
    assert (event.stall, event.rnw) == (True, not write)
    assert told(m.commands()) == ["RESUME 1 abort"]


def test_a_write_to_a_page_that_is_there_to_read_is_a_permission_fault() -> None:
    m = Watched(narrow())
    m.bind("npu0", "a")
    assert m.read("npu0", 1, READ_ONLY).work.data == b"a a "
    m.events()
    assert m.write("npu0", 1, READ_ONLY).result == "fault"
    (event,) = m.events()
    assert isinstance(event, FPermission)
    assert event.stall


def test_the_first_access_of_a_childs_device_finds_an_old_page() -> None:
    m = Watched(narrow())
    m.store("a", DATA, b"before")
    m.fork("a", "child")
    m.bind("npu0", "child")
    assert m.read("npu0", 1, DATA, 6).work.data == b"before"
    (event,) = m.events()
    assert isinstance(event, FAccess)
    assert m.read("npu0", 1).result == "ok"
    assert m.events() == []


@both_kernels
def test_numbers_that_nobody_has_are_reported_and_nobody_is_asked(kernel: str) -> None:
    m = Watched(narrow(), kernel=kernel)
    m.bind("npu0", "a")
    m.forget()
    printed = m.printed()
    assert rule(m.write("npu0", 2)) == ("fault", "smmu.cd-invalid")
    assert rule(m.write("npu0", 5)) == ("fault", "smmu.ssid-range")
    bad_cd, bad_ssid = m.events()
    assert isinstance(bad_cd, CBadCd)
    assert isinstance(bad_ssid, CBadSubstreamid)
    assert (bad_cd.ssid, bad_ssid.ssid) == (2, 5)
    assert printed == [
        SmmuEvent(SMMU, "npu0", "C_BAD_CD", 1, 2, bad_cd.words),
        SmmuEvent(SMMU, "npu0", "C_BAD_SUBSTREAMID", 1, 5, bad_ssid.words),
    ]
    assert m.commands() == []


def test_a_number_without_a_handle_that_takes_faults_is_aborted() -> None:
    m = Watched(narrow())
    m.attach("npu0", 1)
    m.forget()
    printed = m.printed()
    assert rule(m.write("npu0", 1, HOLE)) == ("fault", "smmu.resumed-abort")
    assert told(m.commands()) == ["RESUME 1 abort"]
    assert [(event.device, event.name) for event in printed] == [("npu0", "F_TRANSLATION")]


def test_an_event_of_a_stream_without_device_is_printed_as_such() -> None:
    m = Watched(narrow())
    printed = m.printed()
    m.hw().translate(Request(0x300))
    assert [(event.device, event.name, event.sid) for event in printed] == [("", "C_BAD_STREAMID", 0x300)]


def test_more_faults_than_the_event_queue_has_entries() -> None:
    m = Watched(narrow())
    m.bind("npu0", "a")
    for _ in range(300):
        assert m.write("npu0", 1, HOLE).result == "fault"
    assert m.write("npu0", 1).result == "ok"
    assert not m.register(Offset.EVENTQ_PROD).ovflg


def test_a_stall_that_cannot_be_reported_is_never_answered() -> None:
    m = SmmuMachine(narrow())
    m.bind("npu0", "a")
    m.kernel.memory.poison(m.register(Offset.EVENTQ_BASE).addr, 32 << 8)
    assert rule(m.write("npu0", 1)) == ("fault", "dma.stall-unanswered")


def test_a_device_without_a_free_stall_tag_gives_up(features: Callable[..., None]) -> None:
    features(stall_max=1)
    m = Watched(narrow("npu0"), narrow("npu1"))
    m.bind("npu0", "a")
    m.bind("npu1", "a")
    waits = m.stall("npu0", 1, HOLE)
    assert rule(m.write("npu1", 1)) == ("fault", "dma.no-progress")
    assert isinstance(m.hw().answered(waits), Terminated)
    assert m.write("npu1", 1).result == "ok"


def test_without_stalls_a_fault_is_an_event_and_the_access_is_lost() -> None:
    m = Watched(narrow(), smmu={"stall": False})
    assert m.findings() == ["arm-smmu-v3.no-fault-path"]
    m.bind("npu0", "a")
    m.forget()
    assert m.write("npu0", 1).result == "fault"
    (event,) = m.events()
    assert isinstance(event, FTranslation)
    assert not event.stall
    assert m.commands() == []
    m.store("a", DATA, b"x")
    assert m.write("npu0", 1).result == "ok"


def test_page_tables_that_cannot_be_read_abort_the_access() -> None:
    m = Watched(narrow())
    m.bind("npu0", "a")
    mm = m.processes["a"].mm
    assert mm is not None
    m.kernel.memory.poison(mm.pgd, 8)
    assert m.write("npu0", 1).result == "fault"
    (event,) = m.events()
    assert isinstance(event, FWalkEabt)


@pytest.mark.parametrize("perm", [PERM_READ, PERM_WRITE, PERM_READ | PERM_EXEC, PERM_WRITE | PERM_PRIV])
@pytest.mark.parametrize("pasid", [None, 5])
def test_a_stall_event_says_what_a_page_request_says(perm: int, pasid: int | None) -> None:
    fault = Fault(pasid, 0x1234_5000, perm, last=True, grpid=300)
    assert stall_fault(stall_event(7, fault)) == fault


def test_a_page_request_is_answered_by_resume() -> None:
    m = SmmuMachine(narrow())
    m.bind("npu0", "a")
    granted = m.page_request("npu0", 1, lambda pasid: Fault(pasid, DATA, PERM_WRITE, last=True, grpid=9))
    assert (granted.result, granted.detail) == ("ok", ("on the wire: CMD_RESUME Retry",))
    refused = m.page_request("npu0", 1, lambda pasid: Fault(pasid, HOLE, PERM_WRITE, last=True, grpid=9))
    assert (refused.result, refused.detail) == ("fault", ("on the wire: CMD_RESUME Abort",))


# --- stalls that wait when something goes --------------------------------------------------------------------


def test_a_stall_that_waits_at_the_last_unbind_is_aborted_and_found_since_6_16() -> None:
    m = Watched(narrow())
    m.bind_device("npu0", "a", "h")
    waits = m.stall("npu0", 1)
    m.forget()
    m.unbind("h")
    assert told(m.commands())[2:] == ["RESUME 1 abort", "TLBI_NH_ASID 2;"]
    assert isinstance(m.hw().answered(waits), Terminated)
    assert m.findings() == ["arm-smmu-v3.stall-at-detach"]
    assert "PASID 1 of npu0 is taken away while 1 of its page requests wait" in m.kernel.findings[0].why


@both_kernels
def test_a_stall_of_another_number_is_no_finding_and_survives(kernel: str) -> None:
    m = Watched(narrow(), kernel=kernel)
    m.bind_device("npu0", "a", "h")
    m.bind_device("npu0", "b", "i")
    waits = m.stall("npu0", 2)
    m.unbind("h")
    assert m.findings() == []
    run_work(m.driver.instances[m.iommus[SMMU]].smmu.iopf_queue)
    assert not isinstance(m.hw().answered(waits), Terminated | None)
    assert m.write("npu0", 2).work.owner == "b"


def test_before_6_16_the_worker_still_runs_after_the_unbind_and_the_device_reaches_nothing() -> None:
    m = Watched(narrow(), kernel="v6.12")
    m.bind_device("npu0", "a", "h")
    m.stall("npu0", 1)
    m.unbind("h")
    assert m.findings() == ["arm-smmu-v3.stall-at-detach"]
    m.forget()
    run_work(m.driver.instances[m.iommus[SMMU]].smmu.iopf_queue)
    assert told(m.commands()) == ["RESUME 1 retry"]
    assert m.write("npu0", 1).result == "fault"


@both_kernels
def test_a_stall_that_waits_when_its_process_exits_is_aborted(kernel: str) -> None:
    m = Watched(narrow(), kernel=kernel)
    m.bind_device("npu0", "a", "h")
    waits = m.stall("npu0", 1)
    m.exit("a")
    m.forget()
    run_work(m.driver.instances[m.iommus[SMMU]].smmu.iopf_queue)
    assert told(m.commands()) == ["RESUME 1 abort"]
    assert isinstance(m.hw().answered(waits), Terminated)
    m.events()
    assert m.write("npu0", 1).result == "fault"
    assert m.events() == [], "a quiet CD records nothing"
    assert m.findings() == []


def test_a_fault_inside_a_reset_is_aborted_in_silence() -> None:
    m = Watched(narrow())
    m.bind("npu0", "a")
    m.reset_prepare("npu0")
    assert rule(m.write("npu0", 1)) == ("fault", "smmu.config-abort")
    assert m.events() == []


# --- devices that do not stall -------------------------------------------------------------------------------


@both_kernels
def test_a_device_with_ats_and_no_page_requests_loses_the_access(kernel: str) -> None:
    m = Watched(nic(), smmu=ATS, kernel=kernel)
    assert m.findings() == ["arm-smmu-v3.no-fault-path"]
    m.bind("nic0", "a")
    m.forget()
    outcome = m.write("nic0", 1)
    assert rule(outcome) == ("fault", "dma.page-lost")
    assert "cannot ask for the page" in outcome.why
    assert m.events() == []
    m.store("a", DATA, b"x")
    assert m.write("nic0", 1).work.owner == "a"
    assert m.atc("nic0").entries
    assert m.commands() == []


@both_kernels
def test_page_requests_are_denied(kernel: str) -> None:
    m = Watched(nic(), smmu=PRI, kernel=kernel)
    m.bind("nic0", "a")
    m.forget()
    assert rule(m.write("nic0", 1)) == ("fault", "dma.page-denied")
    (record,) = m.page_requests()
    assert (record.sid, record.ssv, record.ssid, record.w, record.r, record.last) == (1, True, 1, True, False, True)
    assert record.addr == DATA
    assert told(m.commands()) == ["PRI_RESP 1/1 FAILURE"]
    assert m.kernel.warnings == 0, "the driver prints, and does not WARN"


@both_kernels
def test_an_answer_to_a_device_that_does_not_stall_warns_and_sends_nothing(kernel: str) -> None:
    m = SmmuMachine(nic(), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a")
    m.forget()
    answers: list[PageResponded] = []
    m.kernel.observers.append(lambda event: answers.append(event) if isinstance(event, PageResponded) else None)
    outcome = m.page_request("nic0", 1, lambda pasid: Fault(pasid, DATA, PERM_READ, last=True, grpid=1))
    assert rule(outcome) == ("EINVAL", "fault.no-fault-param")
    assert m.kernel.warnings == 2
    assert [answer.wire for answer in answers] == [""]
    assert m.commands() == []


# --- what memory shows ---------------------------------------------------------------------------------------

DEVICES = [pytest.param(narrow("dev"), {}, id="stalls"), pytest.param(nic("dev"), ATS, id="ATS")]
each_device = pytest.mark.parametrize(("device", "how"), DEVICES)


def bound(device: Any, how: dict[str, bool], kernel: str = "v7.3") -> Watched:
    m = Watched(device, smmu=how, kernel=kernel)
    m.store("a", DATA, b"before")
    m.store("a", DATA + 0x1000, b"second")
    m.bind("dev", "a")
    assert m.write("dev", 1, DATA, b"BEFORE").result == "ok"
    return m


@both_kernels
@each_device
def test_a_parents_device_does_not_write_into_the_child(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = bound(device, how, kernel)
    m.fork("a", "child")
    outcome = m.write("dev", 1, DATA, b"after!")
    assert outcome.result == ("fault" if how else "ok"), "only a device that waits can have the page copied"
    assert m.text("child") == b"BEFORE"
    assert m.text("a") == (b"BEFORE" if how else b"after!")
    assert m.read("dev", 1, DATA, 6).work.data == m.text("a")


@both_kernels
@each_device
def test_a_copy_that_the_cpu_makes_is_where_the_device_writes(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = bound(device, how, kernel)
    m.fork("a", "child")
    assert m.read("dev", 1, DATA, 6).work.data == b"BEFORE"
    m.store("a", DATA, b"parent")
    assert m.read("dev", 1, DATA, 6).work.data == b"parent"
    m.write("dev", 1, DATA, b"device")
    assert (m.text("a"), m.text("child")) == (b"device", b"BEFORE")


@both_kernels
@each_device
def test_a_child_that_copies_leaves_the_page_to_the_parent(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = bound(device, how, kernel)
    m.fork("a", "child")
    m.store("child", DATA, b"child!")
    m.store("a", DATA, b"parent")
    m.write("dev", 1, DATA, b"device")
    assert (m.text("a"), m.text("child")) == (b"device", b"child!")


@both_kernels
@each_device
def test_mprotect_stops_writes_at_once_and_reads_go_on(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = bound(device, how, kernel)
    m.mprotect("a", DATA, READ)
    assert m.write("dev", 1, DATA, b"work").result == "fault"
    assert m.read("dev", 1, DATA, 6).work.data == b"BEFORE"
    m.mprotect("a", DATA, READ | WRITE)
    m.store("a", DATA, b"again!")
    assert m.write("dev", 1, DATA, b"AGAIN!").result == "ok"
    assert m.text("a") == b"AGAIN!"


@both_kernels
@each_device
def test_mprotect_to_nothing_stops_reads_too(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = bound(device, how, kernel)
    m.mprotect("a", DATA, 0, 0x1000)
    assert m.read("dev", 1).result == "fault"
    assert m.read("dev", 1, DATA + 0x1000, 6).work.data == b"second"


@both_kernels
@each_device
def test_munmap_stops_access_at_once(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = bound(device, how, kernel)
    m.munmap("a", DATA, 0x1000)
    assert m.read("dev", 1).result == "fault"
    assert m.write("dev", 1, DATA + 0x1000, b"SECOND").result == "ok"
    m.store("b", DATA, b"of b")
    assert m.write("dev", 1).result == "fault"
    assert m.text("b", DATA, 4) == b"of b", "the page went on to another process"


@both_kernels
@each_device
def test_exec_leaves_the_device_without_memory(device: Any, how: dict[str, bool], kernel: str) -> None:
    m = Watched(device, smmu=how, kernel=kernel)
    m.store("a", DATA, b"before")
    m.bind_device("dev", "a", "h")
    assert m.write("dev", 1).result == "ok"
    m.exec("a")
    m.store("a", DATA, b"second")
    assert m.write("dev", 1).result == "fault"
    assert m.text("a") == b"second"


# --- errors of the command queue -----------------------------------------------------------------------------


@both_kernels
def test_an_illegal_command_is_replaced_and_the_queue_goes_on(kernel: str) -> None:
    m = SmmuMachine(narrow(), kernel=kernel)
    smmu = m.driver.instances[m.iommus[SMMU]].smmu
    m.forget()
    arm_smmu_cmdq_issue_cmd_with_sync(smmu, AtcInv.make(sid=1, size=52))
    assert [command.opcode for command in m.commands()] == [0x46, 0x46], "a CMD_SYNC stands in its place"
    assert m.kernel.warnings == 1
    assert m.register(Offset.GERROR) == m.register(Offset.GERRORN)
    m.bind("npu0", "a")
    assert m.write("npu0", 1).work is not None


@both_kernels
def test_a_device_that_never_completes_an_invalidation_stops_nobody_else(kernel: str) -> None:
    m = SmmuMachine(nic("nic0"), nic("nic1"), smmu=ATS, kernel=kernel)
    m.bind("nic0", "a", "h")
    m.bind("nic1", "a")
    m.store("a", DATA, b"x")
    m.atc("nic0").hung = True
    m.unbind("h")
    assert m.kernel.warnings == 1
    assert m.register(Offset.GERROR) == m.register(Offset.GERRORN)
    assert m.write("nic1", 1).work is not None
    arm_smmu_cmdq_issue_cmd_with_sync(m.driver.instances[m.iommus[SMMU]].smmu, CfgiCd.make(sid=2, ssid=1, leaf=True))
    assert m.register(Offset.CMDQ_CONS).rd == m.register(Offset.CMDQ_PROD).wr

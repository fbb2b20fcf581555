"""A DSA or IAA of a machine in use: open and release, work of processes and the kernel, how a failed access looks."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec
from pasidlab.devices import Access, Work
from pasidlab.devices.idxd.descriptors import Status
from pasidlab.devices.idxd.library import SOURCE_PAGE
from pasidlab.devices.idxd.registers import WqState, portal_offset
from pasidlab.drivers.hardware import Seen, seen_as
from pasidlab.hw.cpu import Store
from pasidlab.linux.pgtable import READ
from pasidlab.machine import Machine
from pasidlab.rules import Faulted
from tests.idxd_rig import ENQCMD, MOVDIR64B, RW, idxd, machine, opened

# --- open and release ----------------------------------------------------------------------------------------------


def test_open_of_a_dedicated_queue_writes_its_owners_number():
    m = opened(queue="dedicated")
    own = idxd(m)
    assert own.wqcfg_pasid == 2
    assert own.driver.wq_state(own.driver.wqs[0]) is WqState.ENABLED
    m.unbind("h")
    assert own.wqcfg_pasid is None
    assert own.driver.wq_state(own.driver.wqs[0]) is WqState.DISABLED


def test_a_dedicated_queue_that_cannot_be_enabled_leaves_no_bond():
    m = machine(queue="dedicated")
    idxd(m).hw.pasid_enabled = False
    outcome = m.bind("dsa0", "a")
    assert (outcome.result, outcome.rule) == ("ENXIO", "idxd.queue-without-pasids")
    assert idxd(m).owner is None
    idxd(m).hw.pasid_enabled = True
    assert m.bind("dsa0", "b").result == "ok"


def test_a_posted_write_to_a_full_queue_is_dropped_and_nobody_hears():
    m = opened(queue="dedicated")
    own = idxd(m)
    own.hw.held = True
    for _ in range(64):
        m.submit("a", "dsa0", MOVDIR64B, Work())
    outcome = m.submit("a", "dsa0", MOVDIR64B, Work())
    assert (outcome.result, outcome.rule, outcome.work) == ("ok", "idxd.posted-to-full", None)
    assert own.hw.swerr.valid


def test_a_portal_where_there_is_no_queue_answers_retry():
    own = idxd(machine())
    store = Store(bytes(64), posted=False)
    assert own.receive(store, Work(), portal_offset(9)).rule.id == "idxd.queue-disabled"


def test_release_of_a_shared_queue_waits_for_the_work_of_its_pasid():
    m = opened()
    own = idxd(m)
    own.hw.held = True
    assert m.submit("a", "dsa0", ENQCMD, Work()).rule == "idxd.queued"
    done = []
    own.hw.finished = done.append
    m.unbind("h")
    assert [(finished.pasid, finished.status) for finished in done] == [(2, Status.SUCCESS)]


def test_a_full_queue_gives_eagain():
    m = opened()
    own = idxd(m)
    own.hw.held = True
    for _ in range(64):
        m.submit("a", "dsa0", ENQCMD, Work())
    outcome = m.submit("a", "dsa0", ENQCMD, Work())
    assert (outcome.result, outcome.rule) == ("EAGAIN", "idxd.queue-full")
    assert own.hw.run() == 64


# --- work ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dsa", "iaa"])
@pytest.mark.parametrize("data", [b"x", b"12345678", b"longer than 8 bytes", b"ab" * 5000])
def test_a_write_lands_as_it_did_before_there_were_descriptors(kind, data):
    m = opened(kind=kind)
    outcome = m.submit("a", "dsa0", ENQCMD, Work(data=data, address=RW + 5))
    assert (outcome.result, outcome.pasid, outcome.rule) == ("ok", 2, "portal.believed")
    assert (outcome.work.owner, outcome.work.data) == ("a", data)
    assert m.load("a", RW + 5, len(data)).work.data == data


@pytest.mark.parametrize("kind", ["dsa", "iaa"])
def test_a_read_gives_the_bytes_of_the_process(kind):
    m = opened(kind=kind)
    m.store("a", RW + 4000, b"across a page" * 20)
    outcome = m.submit("a", "dsa0", ENQCMD, Work(Access.READ, RW + 4000, size=260))
    assert (outcome.work.owner, outcome.work.data) == ("a", b"across a page" * 20)


def test_a_job_of_no_bytes_touches_nobody():
    outcome = opened().submit("a", "dsa0", ENQCMD, Work(data=b""))
    assert (outcome.result, outcome.work.owner) == ("ok", "nobody")


def test_the_program_of_an_iaa_stores_its_bytes_first():
    m = opened(kind="iaa")
    m.submit("a", "dsa0", ENQCMD, Work(data=b"bytes"))
    assert m.load("a", RW + SOURCE_PAGE * 4096, 5).work.data == b"bytes"
    m.mprotect("a", RW, READ)
    assert m.submit("a", "dsa0", ENQCMD, Work()).result == "SIGSEGV"


def test_the_kernels_descriptors_are_not_privileged():
    m = machine()
    seen = []
    idxd(m).hw.finished, hear = (lambda done: (seen.append(done), hear(done))), idxd(m).hw.finished
    assert m.kernel_submit("dsa0", Work()).work.owner == "kernel"
    assert [(done.wq, done.pasid, done.privileged) for done in seen] == [(1, 1, False)]


def test_the_kernel_has_a_shared_queue_beside_a_dedicated_one():
    assert machine(queue="dedicated").kernel_submit("dsa0", Work()).result == "ok"


def test_a_fault_of_the_kernels_work_is_the_outcome():
    m = machine()
    m.parts.mock.entries.clear()
    assert m.kernel_submit("dsa0", Work(data=b"in two commands")).result == "fault"


# --- how a failed access looks to the device -----------------------------------------------------------------------

ELSEWHERE = 0x9000_0000


def access(m: Machine, pasid: int | None, address: int, data: bytes | None = None, **how: bool) -> Any:
    dev = m.endpoints["dsa0"].dev
    return m.driver_of(dev).access(dev, pasid, address, data, 4 if data is None else len(data), **how)


@pytest.mark.parametrize(
    ("iommu", "asks", "seen"),
    [
        (IommuSpec("iommu0"), True, Seen.INVALID),
        (IommuSpec("iommu0"), False, Seen.NO_PAGE),
        (IommuSpec("iommu0", model="arm-smmu-v3", ats=True, pri=True), True, Seen.FAILURE),
        (IommuSpec("iommu0", model="arm-smmu-v3", ats=True, pri=True), False, Seen.NO_PAGE),
        (IommuSpec("iommu0", model="arm-smmu-v3", ats=True), True, Seen.NO_PAGE),
        (IommuSpec("iommu0", model="arm-smmu-v3"), False, Seen.BLOCKED),
        (IommuSpec("iommu0", model="intel-vtd"), True, Seen.INVALID),
        (IommuSpec("iommu0", model="intel-vtd"), False, Seen.NO_PAGE),
    ],
)
def test_a_page_that_is_not_there_looks_as_the_iommu_and_the_device_have_it(iommu, asks, seen):
    m = machine(iommu=iommu)
    assert m.bind("dsa0", "a").pasid == 2
    fault = access(m, 2, ELSEWHERE, page_requests=asks)
    assert isinstance(fault, Faulted)
    assert seen_as(fault) is seen


def test_a_number_without_entry_is_blocked():
    assert seen_as(access(machine(), 9, RW)) is Seen.BLOCKED


def test_an_access_without_pasid_reaches_the_domain_of_the_rid():
    moved = access(machine(), None, RW, b"rid")
    assert (moved.owner, moved.data) == ("kernel", b"rid")
    blocked = Machine(MachineSpec(device=[DeviceSpec("dsa0", kind="dsa")]))
    fault = access(blocked, None, RW)
    assert (fault.rule.id, seen_as(fault)) == ("dma.rid-blocked", Seen.BLOCKED)


def test_a_page_comes_to_a_device_that_asks_and_only_to_it():
    m = machine()
    m.bind("dsa0", "a")
    assert seen_as(access(m, 2, RW, page_requests=False)) is Seen.NO_PAGE
    assert access(m, 2, RW).owner == "a"
    assert access(m, 2, RW, page_requests=False).owner == "a"

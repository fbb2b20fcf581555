"""The idxd driver, and DSA and IAA in a machine: PASIDs at probe, queues that cannot be enabled, real descriptors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Access, Work
from pasidlab.devices.idxd import Idxd, IdxdDriver
from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.descriptors import Flags, Opcode, Status, build
from pasidlab.devices.idxd.driver import WqType
from pasidlab.devices.idxd.library import OPERATIONS, SOURCE_PAGE, Request
from pasidlab.devices.idxd.operations import crc32c
from pasidlab.devices.idxd.refusals import Scmd
from pasidlab.devices.idxd.registers import Command, CommandError, Portal, WqState, portal_offset
from pasidlab.drivers.hardware import Seen, seen_as
from pasidlab.errors import Errno, InputError
from pasidlab.hw.cpu import Instruction, Store
from pasidlab.linux.pgtable import READ
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.rules import Faulted, Refusal
from pasidlab.scenario import Scenario

RW, REC = 0x1000_0000, 0x1000_2000
ENQCMD, MOVDIR64B = Instruction.ENQCMD, Instruction.MOVDIR64B


def machine(cpu: CpuSpec | None = None, iommu: IommuSpec | None = None, kernel: str = "v7.3", **keys: Any) -> Machine:
    device = {"name": "dsa0", "iommu": "iommu0", "kind": "dsa", "pasid_bits": 8} | keys
    spec = MachineSpec(
        kernel=kernel,
        cpu=cpu or CpuSpec(arch="x86"),
        iommu=[iommu or IommuSpec("iommu0")],
        device=[DeviceSpec(**device)],
        process=[ProcessSpec("a"), ProcessSpec("b")],
    )
    return Machine(spec)


def idxd(m: Machine) -> Idxd:
    endpoint = m.endpoints["dsa0"]
    assert isinstance(endpoint, Idxd)
    return endpoint


def opened(**keys: Any) -> Machine:
    """A machine where process a has the device open and its portal mapped."""
    m = machine(**keys)
    assert m.bind("dsa0", "a", "h").result == "ok"
    assert m.mmap_portal("a", "dsa0").result == "ok"
    return m


def driver(**keys: Any) -> IdxdDriver:
    """A driver that has probed, and whose device is not configured yet."""
    m = machine(**keys)
    own = idxd(m).driver
    own._command(Command.RESET_DEVICE, 0)
    for wq in own.wqs:
        wq.enabled, wq.group = False, None
    return own


def status_of(refusal: Refusal | None) -> int:
    assert refusal is not None
    return refusal.facts["status"]


# --- probe ---------------------------------------------------------------------------------------------------------


def test_probe_enables_a_queue_for_user_space_and_one_for_the_kernel():
    own = idxd(machine()).driver
    assert [own.wq_state(wq) for wq in own.wqs[:3]] == [WqState.ENABLED, WqState.ENABLED, WqState.DISABLED]
    assert (own.wqs[0].type, own.wqs[1].type) == (WqType.USER, WqType.KERNEL)
    assert (own.pasid, own.kernel_pasid_enabled, own.cmd_status) == (1, True, 0)


def test_shared_queues_have_pasid_enable_and_number_0():
    own = idxd(machine()).driver
    assert [own.wqcfg_pasid(wq) for wq in own.wqs[:3]] == [0, 0, None]


def test_without_a_number_for_the_kernel_it_has_no_queue():
    own = idxd(machine(kernel_pasid=False)).driver
    assert [own.wq_state(wq) for wq in own.wqs[:2]] == [WqState.ENABLED, WqState.DISABLED]
    assert (own.kernel_pasid_enabled, own.pasid_enabled) == (False, True)


def test_sysfs_pasid_enabled_is_about_user_queues_and_not_about_the_kernels_number():
    own = idxd(machine()).driver
    assert (own.pasid_enabled, own.kernel_pasid_enabled) == (True, True)
    own.user_pasid_enabled = False
    assert (own.pasid_enabled, own.kernel_pasid_enabled) == (False, True)


VTD = {"name": "iommu0", "model": "intel-vtd"}
REFUSED_SVA = [
    ({"iommu": IommuSpec("iommu0", sva=False)}, "cannot share page tables"),
    ({"iommu": IommuSpec(**VTD), "ats": False}, "has not both PASID and ATS switched on"),
    ({"iommu": IommuSpec(**VTD), "pasid_enabled": False}, "has not both PASID and ATS switched on"),
    ({"iommu": IommuSpec(**VTD, five_level=False), "cpu": CpuSpec(arch="x86", la57=True)}, "5 levels"),
    ({"iommu": IommuSpec("iommu0"), "pasid_bits": None}, "has no PASIDs"),
]


@pytest.mark.parametrize(("keys", "why"), REFUSED_SVA)
@pytest.mark.parametrize("kernel", ["v6.12", "v6.15"])
def test_before_6_16_a_refusal_of_sva_leaves_no_pasids_for_users_and_none_for_the_kernel(kernel, keys, why):
    m = machine(kernel=kernel, **keys)
    own = idxd(m).driver
    assert (own.pasid_enabled, own.kernel_pasid_enabled, own.pasid) == (False, False, None)
    assert list(m.kernel.holders()) == []
    said = {finding.rule.id: finding.why for finding in m.kernel.findings}
    assert why in said["idxd.user-sva-refused"]
    assert "unable to turn on user SVA feature" in said["idxd.user-sva-refused"]
    assert own.wq_state(own.wqs[0]) is WqState.DISABLED
    assert "cmd_status 0x800c0000" in said["idxd.no-shared-queues"]


def test_before_6_16_a_shared_queue_that_cannot_be_enabled_tells_what_the_iommu_said():
    m = machine(kernel="v6.12", iommu=IommuSpec(**VTD), ats=False)
    refusal = idxd(m).not_enabled
    assert (refusal.rule.id, refusal.facts["status"]) == ("idxd.no-shared-queues", Scmd.WQ_NO_SWQ_SUPPORT)
    assert "needs SVA, and the IOMMU refused it: dsa0 has not both PASID and ATS switched on" in refusal.why


def test_before_6_16_a_dedicated_user_queue_needs_sva_too():
    m = machine(kernel="v6.12", iommu=IommuSpec("iommu0", sva=False), queue="dedicated")
    refusal = idxd(m).not_enabled
    assert (refusal.rule.id, refusal.facts["status"]) == ("idxd.user-queue-without-sva", Scmd.WQ_USER_NO_IOMMU)


@pytest.mark.parametrize(("kernel", "number"), [("v6.12", 1), ("v6.15", 1), ("v6.16", 1), ("v7.3", 1)])
def test_where_the_iommu_has_sva_every_kernel_takes_a_number_at_probe(kernel, number):
    own = idxd(machine(kernel=kernel, iommu=IommuSpec(**VTD))).driver
    assert (own.pasid_enabled, own.pasid, own.sva_refused) == (True, number, None)


@pytest.mark.parametrize("kernel", ["v6.16", "v7.3"])
def test_from_6_16_on_the_iommu_is_not_asked_and_the_bind_is_what_fails(kernel):
    m = machine(kernel=kernel, iommu=IommuSpec(**VTD), ats=False)
    own = idxd(m).driver
    assert (own.pasid_enabled, own.pasid) == (True, 1)
    assert own.wq_state(own.wqs[0]) is WqState.ENABLED
    assert m.bind("dsa0", "a").rule == "intel.sva-no-pasid-or-ats"


@pytest.mark.parametrize("kernel", ["v6.16", "v7.3"])
@pytest.mark.parametrize("keys", [{"pasid_bits": None}, {"iommu": IommuSpec(**VTD), "pasid_enabled": False}])
def test_from_6_16_on_a_device_without_pasids_ends_in_error_0x26(kernel, keys):
    m = machine(kernel=kernel, **keys)
    own = idxd(m).driver
    assert (own.pasid_enabled, own.cmd_status) == (True, 0x26)
    assert idxd(m).not_enabled.rule.id == "idxd.queue-without-pasids"


def test_from_6_16_on_a_dedicated_queue_without_pasids_is_refused_where_it_is_opened():
    m = machine(pasid_bits=None, queue="dedicated")
    assert idxd(m).not_enabled is None
    assert m.bind("dsa0", "a").result != "ok"


@pytest.mark.parametrize(
    ("keys", "rule", "missing"),
    [
        ({"cpu": CpuSpec(arch="x86", enqcmd=False)}, "idxd.no-shared-queues", "needs ENQCMD, and the CPU has none"),
        ({"pasid_bits": None}, "idxd.queue-without-pasids", "needs PASIDs, and the device or its IOMMU has none"),
        (
            {"pasid_bits": None, "kernel": "v6.12"},
            "idxd.no-shared-queues",
            "needs PASIDs, and the device or its IOMMU has none",
        ),
        (
            {"pasid_bits": None, "queue": "dedicated", "kernel": "v6.12"},
            "idxd.user-queue-without-sva",
            "needs SVA: PASIDs",
        ),
    ],
)
def test_a_queue_that_cannot_be_enabled_is_a_finding_that_says_why(keys, rule, missing):
    m = machine(**keys)
    assert idxd(m).driver.wq_state(idxd(m).driver.wqs[0]) is WqState.DISABLED
    found = [finding for finding in m.kernel.findings if finding.rule.id == rule]
    assert missing in found[0].why


@pytest.mark.parametrize(("kernel", "rule"), [("v6.12", "no-shared-queues"), ("v7.3", "queue-without-pasids")])
def test_a_device_behind_no_iommu_says_so(kernel, rule):
    m = Machine(MachineSpec(kernel=kernel, device=[DeviceSpec("dsa0", kind="dsa")], process=[ProcessSpec("a")]))
    assert m.kernel.findings[-1].rule.id == f"idxd.{rule}"
    assert "needs an IOMMU, and there is none in front of the device" in m.kernel.findings[-1].why


def test_error_0x800c0000_is_a_shared_queue_that_the_platform_cannot_have():
    own = driver(cpu=CpuSpec(arch="x86", enqcmd=False))
    own.wqs[0].type, own.wqs[0].group = WqType.USER, 0
    assert status_of(own.idxd_device_drv_probe()) == own.cmd_status == 0x800C_0000


def test_a_configuration_that_cannot_be_is_einval_and_enxio_where_the_device_is_probed():
    shared = driver(cpu=CpuSpec(arch="x86", enqcmd=False))
    shared.wqs[0].type, shared.wqs[0].group = WqType.USER, 0
    for own, rule in ((shared, "idxd.no-shared-queues"), (driver(), "idxd.no-queue-configured")):
        asked, probed = own.idxd_device_config(), own.idxd_device_drv_probe()
        assert asked is not None
        assert probed is not None
        assert (asked.rule.id, asked.errno, asked.rule.errno) == (rule, Errno.EINVAL, Errno.EINVAL)
        assert (probed.rule.id, probed.errno, probed.why) == (rule, Errno.ENXIO, asked.why)


def test_a_program_that_tries_all_the_same_is_told_why_it_gets_retry():
    without = {"name": "dsa1", "iommu": "iommu0", "kind": "dsa"}
    scenario = {
        "options": {"guard": "none"},
        "iommu": [{"name": "iommu0"}],
        "device": [{"name": "dsa0", "iommu": "iommu0", "kind": "dsa", "pasid_bits": 8}, without],
        "process": [{"name": "a"}],
        "step": [{"do": "show"}],
    }
    m = Machine(Scenario.from_dict(scenario))
    assert m.bind("dsa0", "a").result == "ok"
    assert m.mmap_portal("a", "dsa1").result == "ok"
    outcome = m.submit("a", "dsa1", ENQCMD, Work())
    assert (outcome.result, outcome.rule) == ("EAGAIN", "idxd.queue-disabled")
    assert outcome.why == (
        "dsa1 answers Retry (ZF = 1): queue 0 is not enabled: dsa1 refused command ENABLE_WQ with error 0x26, "
        "wq pasid enable: the queue needs PASIDs, and the device or its IOMMU has none"
    )


# --- enabling a queue ----------------------------------------------------------------------------------------------


def configured(**keys: Any) -> IdxdDriver:
    own = driver(**keys)
    wq = own.wqs[0]
    wq.type, wq.name, wq.group, wq.size, wq.threshold, wq.dedicated = WqType.USER, "q", 0, 16, 16, False
    assert own.idxd_device_drv_probe() is None
    return own


def test_a_configured_queue_is_enabled():
    own = configured()
    assert own.idxd_user_drv_probe(own.wqs[0]) is None
    assert own.wq_state(own.wqs[0]) is WqState.ENABLED
    assert own.hw.wqcfg(0).wq_size == 16


@pytest.mark.parametrize(
    ("change", "status", "rule"),
    [
        ({"group": None}, Scmd.WQ_NO_GRP, "idxd.queue-without-group"),
        ({"name": ""}, Scmd.WQ_NO_NAME, "idxd.queue-without-name"),
        ({"threshold": 0}, Scmd.WQ_NO_THRESH, "idxd.shared-without-threshold"),
        ({"enabled": True}, Scmd.WQ_ENABLED, "idxd.queue-enabled"),
        ({"priority": 0}, CommandError.WQ_PRIORITY, "idxd.command-refused"),
    ],
)
def test_a_queue_that_lacks_something_is_not_enabled(change, status, rule):
    own = configured()
    for key, value in change.items():
        setattr(own.wqs[0], key, value)
    refusal = own.idxd_user_drv_probe(own.wqs[0])
    assert status_of(refusal) == own.cmd_status == status
    assert refusal.rule.id == rule
    assert own.wq_state(own.wqs[0]) is WqState.DISABLED


def test_a_disabled_queue_has_finished_its_work_and_forgets_its_configuration():
    own = configured()
    own.idxd_user_drv_probe(own.wqs[0])
    done: list[Any] = []
    own.hw.held, own.hw.finished = True, done.append
    own.hw.portal_write(portal_offset(0), bytes(64), posted=False)
    own.drv_disable_wq(own.wqs[0])
    assert [finished.status for finished in done] == [Status.SUCCESS]
    assert (own.wq_state(own.wqs[0]), own.hw.wqcfg(0).wq_size) == (WqState.DISABLED, 0)
    assert own.wqs[0].type is WqType.NONE


def test_a_queue_that_cannot_be_disabled_keeps_its_number():
    own = configured()
    own.idxd_user_drv_probe(own.wqs[0])
    own.hw.mmio_write(reg.CMD, Command.RESET_DEVICE << 20, 4)
    for refusal in (own.idxd_wq_set_pasid(own.wqs[0], 5), own.idxd_wq_clear_pasid(own.wqs[0])):
        assert refusal.why == "dsa0 refused command DISABLE_WQ with error 0x31, not enabled"
    assert own.wqs[0].enabled


def test_a_shared_kernel_queue_needs_a_system_pasid():
    own = configured(kernel_pasid=False)
    wq = own.wqs[1]
    wq.type, wq.name, wq.group, wq.size, wq.threshold = WqType.KERNEL, "k", 1, 16, 16
    refusal = own.drv_enable_wq(wq)
    assert status_of(refusal) == Scmd.WQ_NO_SVM
    assert "a number for the kernel, and the driver got none" in refusal.why


def test_a_dedicated_kernel_queue_has_the_system_pasid_in_wqcfg_and_is_not_privileged():
    own = configured()
    wq = own.wqs[1]
    wq.type, wq.name, wq.group, wq.size, wq.dedicated = WqType.KERNEL, "k", 1, 16, True
    own._command(Command.DISABLE_DEVICE, 0)
    own.wqs[0].enabled = False
    assert own.idxd_device_drv_probe() is None
    assert own.drv_enable_wq(wq) is None
    assert own.wqcfg_pasid(wq) == own.pasid == 1
    assert not own.hw.wqcfg(1).priv


def test_a_device_has_a_queue_in_a_group_or_is_not_enabled():
    own = driver()
    assert status_of(own.idxd_device_drv_probe()) == Scmd.WQ_NONE_CONFIGURED


def test_a_device_that_is_enabled_is_not_probed_again():
    assert status_of(configured().idxd_device_drv_probe()) == Scmd.DEV_ENABLED


def test_a_queue_of_a_disabled_device_is_not_enabled():
    own = driver()
    assert own.idxd_user_drv_probe(own.wqs[0]).rule.id == "idxd.device-not-enabled"
    assert status_of(own.drv_enable_wq(own.wqs[0])) == Scmd.DEV_NOT_ENABLED


def test_what_the_device_refuses_is_told_with_its_error():
    own = configured()
    own.hw.pasid_enabled = False
    refusal = own.idxd_user_drv_probe(own.wqs[0])
    assert refusal.why == (
        "dsa0 refused command ENABLE_WQ with error 0x26, wq pasid enable: "
        "the queue needs the PCIe PASID capability, and it is off"
    )


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


# --- descriptors of a process's own --------------------------------------------------------------------------------


def descriptor(opcode: Opcode = Opcode.MEMMOVE, **fields: Any) -> bytes:
    return Request(opcode, **({"source": RW, "destination": RW + 64, "size": 4, "completion": REC} | fields)).pack()


def send(m: Machine, data: bytes, instruction: Instruction = ENQCMD, **more: Any) -> Outcome:
    return m.submit_descriptor("a", "dsa0", instruction, data, **more)


def test_a_descriptor_does_what_its_64_bytes_say():
    m = opened()
    m.store("a", RW, b"data")
    outcome = send(m, descriptor())
    assert (outcome.result, outcome.pasid, outcome.work.owner) == ("ok", 2, "a")
    assert m.load("a", RW + 64, 4).work.data == b"data"
    assert outcome.detail == (
        "ENQCMD: ZF = 0, accepted",
        "completion record at 0x10002000: status 0x01 (success), bytes_completed = 0x4",
    )


def test_the_record_lies_in_the_processes_memory():
    m = opened()
    send(m, descriptor())
    assert m.load("a", REC, 8).work.data == b"\1\0\0\0\4\0\0\0"


def test_a_fault_is_in_the_record_and_in_the_outcome():
    m = opened()
    outcome = send(m, descriptor(destination=0x2000_0000))
    assert (outcome.result, outcome.rule) == ("fault", "dma.page-request-refused")
    said = "status 0x84 (page fault, page request refused; of a write), fault_addr = 0x20000000"
    assert outcome.detail[1] == f"completion record at 0x10002000: {said}"
    assert m.load("a", REC, 1).work.data == b"\x84"
    outcome = send(m, descriptor(destination=RW + 0x1000, block_on_fault=False))
    assert (outcome.result, outcome.rule) == ("fault", "dma.page-not-there")
    assert "status 0x83 (page fault, block on fault not set; of a write)" in outcome.detail[1]
    outcome = send(m, descriptor(source=RW + 0x3000, block_on_fault=False))
    assert "status 0x03 (page fault, block on fault not set), fault_addr = 0x10003000" in outcome.detail[1]


def test_a_descriptor_that_is_refused_names_its_status():
    m = opened()
    outcome = send(m, descriptor(size=0))
    assert (outcome.result, outcome.rule) == ("fault", "idxd.completed-with-error")
    assert outcome.why == "dsa0 completed the descriptor with status 0x13, transfer size"


def test_retry_is_zf_1():
    outcome = send(opened(queue="dedicated"), descriptor(completion=None))
    assert (outcome.result, outcome.detail) == ("EAGAIN", ("ENQCMD: ZF = 1, retry",))


def test_where_no_record_came_the_status_is_0():
    m = opened()
    m.store("a", REC, b"\0" * 32)
    idxd(m).hw.held = True
    outcome = send(m, descriptor())
    assert outcome.detail[1] == "completion record at 0x10002000: status 0x00, nothing has come"


def test_a_record_where_the_process_has_no_memory_is_told_of_both_sides():
    outcome = send(opened(), descriptor(completion=0x9000_0000))
    assert (outcome.result, outcome.rule) == ("fault", "dma.page-request-refused")
    assert outcome.detail[1:] == (
        "SWERR: error 0x1a (page fault of the completion record) at 0x90000000",
        "completion record at 0x90000000: the program cannot write there, so it cannot poll it: "
        "a has no memory area at 0x90000000",
    )


def test_the_programs_own_text_is_not_taken_for_a_record():
    outcome = send(opened(), descriptor(completion=0x2000_0000))
    assert outcome.detail[1] == "SWERR: error 0x1a (page fault of the completion record) at 0x20000000"
    place = "completion record at 0x20000000"
    assert outcome.detail[2].startswith(f"{place}: the program cannot write there, so it cannot poll it: ")
    assert "status" not in outcome.detail[2]


@pytest.mark.parametrize(("kind", "at", "size"), [("dsa", REC + 8, 32), ("iaa", REC + 32, 64)])
def test_a_record_that_is_not_aligned_keeps_a_descriptor_from_running(kind, at, size):
    m = opened(kind=kind)
    m.store("a", RW, b"data")
    outcome = send(m, descriptor(OPERATIONS[kind]["memmove"], completion=at))
    assert (outcome.result, outcome.rule, outcome.work) == ("fault", "idxd.record-misaligned", None)
    assert (
        outcome.why == f"dsa0 did not run the descriptor: its completion record must lie at a multiple of {size} bytes"
    )
    assert outcome.detail == (
        "ENQCMD: ZF = 0, accepted",
        "SWERR: error 0x1b (alignment of the completion record)",
        f"completion record at {at:#x}: status 0x00, nothing has come",
    )
    assert m.load("a", RW + 64, 4).work.data == b"a a "


def test_each_submission_tells_its_own_error_of_swerr():
    m = opened()
    for _ in range(3):
        assert send(m, descriptor(size=0, completion=None)).detail[1] == "SWERR: error 0x13 (transfer size)"
    assert not idxd(m).hw.swerr.valid
    m.submit("a", "dsa0", ENQCMD, Work(address=0x9000_0000))
    assert idxd(m).hw.swerr.valid
    assert send(m, descriptor(completion=None)).detail == ("ENQCMD: ZF = 0, accepted",)


def test_a_dropped_write_is_told_by_swerr():
    outcome = send(opened(), descriptor(completion=None), MOVDIR64B, claims=2)
    assert outcome.detail == (
        "MOVDIR64B: posted, no answer",
        "SWERR: error 0x71 (a posted write to a shared queue)",
    )


def test_movdir64b_gets_no_answer():
    m = opened(queue="dedicated")
    outcome = send(m, descriptor(), MOVDIR64B, claims=0x55)
    assert (outcome.result, outcome.rule, outcome.pasid) == ("ok", "idxd.dedicated-used", 2)
    assert outcome.detail[0] == "MOVDIR64B: posted, no answer"


def test_enqcmd_wants_dword_0_to_be_0():
    outcome = send(opened(), b"\1" + descriptor()[1:])
    assert (outcome.result, outcome.rule) == ("SIGSEGV", "traps.gp-already-activated")
    assert all("ZF" not in line for line in outcome.detail)


def test_a_limited_portal_is_what_the_threshold_is_for():
    m = opened()
    own = idxd(m)
    own.hw.held = True
    own.hw.queues[0].threshold = 1
    assert send(m, descriptor()).rule == "idxd.queued"
    assert send(m, descriptor()).rule == "idxd.queue-threshold"
    assert send(m, descriptor(), portal=Portal.UNLIMITED).rule == "idxd.queued"


def test_a_batch_of_the_process_runs_in_its_memory():
    m = opened()
    first = Request(Opcode.FILL, pattern=b"1", destination=RW + 1, size=1).pack()
    second = Request(Opcode.FILL, pattern=b"2", destination=RW + 2, size=1).pack()
    m.store("a", RW + 0x1000, first + second)
    data = build(Opcode.BATCH, Flags.BOF | Flags.CRAV | Flags.RCR, source=RW + 0x1000, size=2, completion_addr=REC)
    outcome = send(m, data)
    assert (outcome.result, outcome.work.data) == ("ok", b"12")
    assert m.load("a", RW + 1, 2).work.data == b"12"


def test_a_process_that_has_exited_and_a_number_that_is_none_send_nothing():
    m = opened()
    m.unbind("h")
    m.alloc_global("dsa0", "none")
    m.numbers["none"] = None
    assert send(m, descriptor(), claims="none").rule == "number.none"
    m.exit("a")
    assert send(m, descriptor()).rule == "process.exited"


def test_only_a_dsa_or_iaa_has_descriptors_and_they_have_64_bytes():
    m = machine(kind="pcie")
    with pytest.raises(InputError, match=r"^device 'dsa0': has no descriptors; only one of kind dsa or iaa has$"):
        send(m, bytes(64))
    with pytest.raises(InputError, match=r"^a descriptor has 64 bytes, not 63$"):
        send(machine(), bytes(63))


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(min_size=60, max_size=60),
    opcode=st.sampled_from(Opcode),
    places=st.lists(st.sampled_from([RW, RW + 0x3FC0, REC, 0x2000_0000, 0]), min_size=3, max_size=3),
    size=st.integers(0, 0x5000),
    clean=st.booleans(),
    model=st.sampled_from(["mock", "arm-smmu-v3", "intel-vtd"]),
)
def test_no_descriptor_of_one_process_touches_another(body, opcode, places, size, clean, model):
    m = opened(iommu=IommuSpec("iommu0", model=model))
    m.bind("dsa0", "b")
    m.store("b", RW, b"of b")
    if clean:
        addresses = b"".join(place.to_bytes(8, "little") for place in places)
        body = bytes([0x0E, 0, 0, opcode]) + addresses + size.to_bytes(4, "little") + bytes(28)
    outcome = send(m, bytes(4) + body)
    assert outcome.work is None or outcome.work.owner in ("a", "nobody")
    assert m.load("b", RW, 0x4000).work.data == b"of b" + (b"b " * 0x2000)[4:]


# --- the scenario step ---------------------------------------------------------------------------------------------


def scenario(**keys: Any) -> Scenario:
    step = {"do": "descriptor", "device": "dsa0", "process": "a", "operation": "fill", "size": 4} | keys
    return Scenario.from_dict(
        {
            "iommu": [{"name": "iommu0"}],
            "device": [
                {"name": "dsa0", "iommu": "iommu0", "kind": "dsa", "pasid_bits": 8},
                {"name": "iaa0", "iommu": "iommu0", "kind": "iaa", "pasid_bits": 8},
                {"name": "nic0", "iommu": "iommu0", "pasid_bits": 8},
            ],
            "process": [{"name": "a"}],
            "step": [
                {"do": "bind", "device": "dsa0", "process": "a"},
                {"do": "mmap_portal", "device": "dsa0", "process": "a"},
                step,
            ],
        }
    )


def test_a_scenario_may_have_descriptors():
    spec = scenario(pattern="text", destination=RW, completion=REC)
    m = Machine(spec)
    outcome = [step.perform(m) for step in spec.step][-1]
    assert (outcome.result, outcome.work.data) == ("ok", b"text")
    assert "status 0x01" in outcome.detail[1]
    assert spec.step[-1].subject == "a dsa0 fill"


def test_a_scenario_may_make_a_delta_and_apply_it():
    common = {"process": "a", "device": "dsa0", "completion": REC, "size": 16}
    delta = RW + 0x1000
    create = {"operation": "create_delta", "source": RW, "destination": RW + 64, "delta": delta, "delta_size": 80}
    apply = {"operation": "apply_delta", "source": delta, "destination": RW, "delta_size": 10}
    m = opened()
    m.store("a", RW, b"12345678abcdefgh")
    m.store("a", RW + 64, b"12345678ABCDEFGH")
    for keys in (create, apply):
        step = scenario(**common | keys).step[-1]
        assert step.perform(m).result == "ok"
    assert m.load("a", RW, 16).work.data == b"12345678ABCDEFGH"
    assert m.load("a", delta, 10).work.data == b"\1\0ABCDEFGH"


def test_a_crc_begins_with_its_seed():
    m = opened()
    m.store("a", RW, b"123456789")
    crc = {"operation": "crc_gen", "source": RW, "completion": REC}
    assert "= 0xe3069283" in scenario(**crc, size=9).step[-1].perform(m).detail[1]
    half = crc32c(b"1234")
    rest = scenario(**crc | {"source": RW + 4}, size=5, seed=half).step[-1].perform(m)
    assert "operation_specific = 0xe3069283" in rest.detail[1]


def test_on_an_smmu_a_device_stalls_so_a_descriptor_that_does_not_block_does_not_fault():
    smmu = IommuSpec("iommu0", model="arm-smmu-v3")
    for unit, result in ((smmu, "ok"), (IommuSpec("iommu0", model="arm-smmu-v3", ats=True, pri=True), "fault")):
        m = opened(iommu=unit)
        outcome = send(m, descriptor(source=RW + 0x2000, destination=RW + 0x3000, block_on_fault=False))
        assert outcome.result == result


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"delta": 64}, r"^step\[2\]\.delta = 64: fill has no such key; it has pattern, destination, size$"),
        (
            {"operation": "create_delta", "delta": 1 << 64},
            r"^step\[2\]\.delta = 0x10000000000000000: must be below 2\^64$",
        ),
        ({"seed": 1 << 32}, r"^step\[2\]\.seed = 4294967296: expected `int` <= 4294967295$"),
        ({"operation": "compress"}, r"^step\[2\]\.operation = 'compress': no such operation of dsa; allowed: noop, "),
        ({"device": "iaa0"}, r"^step\[2\]\.operation = 'fill': no such operation of iaa; allowed: noop, drain, mem"),
        ({"device": "nic0"}, r"^step\[2\]\.device = 'nic0': has no descriptors; only one of kind dsa or iaa has$"),
        ({"size": 1 << 32}, r"^step\[2\]\.size = 4294967296: expected `int` <= 4294967295$"),
        ({"room": 1 << 32}, r"^step\[2\]\.room = 4294967296: expected `int` <= 4294967295$"),
        ({"completion": (1 << 65) - 1}, r"^step\[2\]\.completion = 0x1ffffffffffffffff: must be below 2\^64$"),
        ({"destination": 1 << 64}, r"^step\[2\]\.destination = 0x10000000000000000: must be below 2\^64$"),
        ({"pattern": 0x41}, r"^step\[2\]\.pattern = 65: expected text, got `int`$"),
        ({"pattern": "\u20ac" * 3}, r"^step\[2\]\.pattern = '\u20ac{3}': has 9 bytes; allowed: up to 8$"),
        ({"room": 64}, r"^step\[2\]\.room = 64: fill has no such key; it has pattern, destination, size$"),
        (
            {"operation": "memmove", "pattern": "x"},
            r"^step\[2\]\.pattern = 'x': memmove has no such key; it has source, ",
        ),
        (
            {"operation": "compare", "destination2": 64},
            r"^step\[2\]\.destination2 = 64: compare has no such key; it has",
        ),
        ({"operation": "noop"}, r"^step\[2\]\.size = 4: noop has no such key$"),
        (
            {"device": "iaa0", "operation": "crc64", "room": 9},
            r"^step\[2\]\.room = 9: crc64 has no such key; it has sou",
        ),
        ({"pattern": "123456789"}, r"^step\[2\]\.pattern = '123456789': .*8"),
        ({"portal": "third"}, r"^step\[2\]\.portal = 'third': .*allowed: limited"),
        ({"process": "c"}, r"^step\[2\]\.process = 'c': no such process"),
    ],
)
def test_a_descriptor_that_cannot_be_is_a_message(keys, message):
    with pytest.raises(InputError, match=message):
        scenario(**keys)


@pytest.mark.parametrize(
    ("device", "operation", "keys"),
    [
        ("dsa0", "dualcast", {"source": RW, "destination": RW + 0x1000, "destination2": RW + 0x2000, "size": 4}),
        ("dsa0", "compare_pattern", {"source": RW, "pattern": "a ", "size": 4}),
        ("iaa0", "compress", {"source": RW, "destination": RW + 64, "size": 4, "room": 64}),
    ],
)
def test_an_operation_has_keys_of_its_own(device, operation, keys):
    step = scenario(**{"device": device, "operation": operation} | keys).step[-1]
    assert {key: getattr(step, key) for key in keys} == keys


def test_registers_are_all_that_the_driver_has_of_the_device():
    own = driver()
    assert own.hw.mmio_read(reg.GENSTS, 4) == 0
    own.hw.mmio_write(reg.CMD, Command.ENABLE_DEVICE << 20, 4)
    assert status_of(own.idxd_device_drv_probe()) == Scmd.DEV_ENABLED


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

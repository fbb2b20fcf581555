"""The idxd driver at probe and at its queues: PASIDs at probe, queues that are enabled, and why others cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Work
from pasidlab.devices.idxd import IdxdDriver
from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.descriptors import Status
from pasidlab.devices.idxd.driver import WqType
from pasidlab.devices.idxd.refusals import Scmd
from pasidlab.devices.idxd.registers import Command, CommandError, WqState, portal_offset
from pasidlab.errors import Errno
from pasidlab.machine import Machine
from pasidlab.rules import Refusal
from pasidlab.scenario import Scenario
from tests.idxd_rig import ENQCMD, idxd, machine


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


def test_registers_are_all_that_the_driver_has_of_the_device():
    own = driver()
    assert own.hw.mmio_read(reg.GENSTS, 4) == 0
    own.hw.mmio_write(reg.CMD, Command.ENABLE_DEVICE << 20, 4)
    assert status_of(own.idxd_device_drv_probe()) == Scmd.DEV_ENABLED

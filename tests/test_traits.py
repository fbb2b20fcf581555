"""What real IOMMU drivers do differently, without their tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pasidlab import events
from pasidlab.drivers.traits import Mode
from pasidlab.errors import Errno
from pasidlab.linux import iommu, iopf, reset, sva
from pasidlab.linux.iopf import PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE, Fault
from pasidlab.linux.profiles import V7_3
from pasidlab.linux.structs import AttachHandle, Device
from pasidlab.rules import Refusal
from pasidlab.scenario import Scenario

from .rig import DATA, Rig


def device(rig: Rig, mode: Mode, bits: int = 16) -> Device:
    smmu = rig.iommu(mode.value, rig.driver.max_pasids(mode, bits), mode)
    return rig.probe(Device(rig.kernel, "dev", pci=True, pci_pasid_width=bits), None, smmu)


def bound_device(mode: Mode, profile=V7_3) -> tuple[Rig, Device]:
    rig = Rig(profile)
    dev = device(rig, mode)
    bond = sva.iommu_sva_bind_device(dev, rig.process("a").mm)
    assert isinstance(bond, sva.IommuSva)
    return rig, dev


def answers(rig: Rig, dev: Device, fault: Fault) -> list[tuple[int, str]]:
    seen: list[tuple[int, str]] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.PageResponded):
            seen.append((event.code, event.wire))

    rig.kernel.observers.append(listen)
    rig.driver.report(dev, fault)
    if dev.fault_param is not None:
        iopf.iopf_queue_flush_dev(dev)
    return seen


def request(address: int = DATA, perm: int = PERM_READ, pasid: int | None = 1, *, last: bool = True) -> Fault:
    return Fault(pasid, address, perm, last, grpid=3)


def test_a10_amd_has_one_number_less() -> None:
    rig = Rig(V7_3)
    dev = device(rig, Mode.AMD_VI)
    assert dev.max_pasids == 65535
    mm = rig.process("a").mm
    rig.kernel.iommu_global_pasid_ida.reserve(1, 65533)
    bond = sva.iommu_sva_bind_device(dev, mm)
    assert isinstance(bond, sva.IommuSva)
    assert bond.pasid == 65534
    domain = bond.domain
    refusal = iommu.iommu_attach_device_pasid(domain, dev, 65535, AttachHandle())
    assert refusal is not None
    assert (refusal.errno, refusal.rule.id) == (Errno.EINVAL, "attach.beyond-max-pasids")


def test_a10_without_the_quirk_amd_has_them_all() -> None:
    rig = Rig(replace(V7_3, amd_bound_one_less=False))
    assert device(rig, Mode.AMD_VI).max_pasids == 65536


def test_b18_amd_replaces_nothing_and_the_old_keeps_working() -> None:
    rig, dev = bound_device(Mode.AMD_VI)
    other = rig.driver.domain_alloc_sva(dev, rig.process("b").mm)
    refusal = iommu.iommu_replace_device_pasid(other, dev, 1, AttachHandle())
    assert isinstance(refusal, Refusal)
    assert (refusal.errno, refusal.rule.id) == (Errno.EOPNOTSUPP, "driver.no-replace")
    assert answers(rig, dev, request()) == [(0, "0")]


def test_amd_attaches_no_paging_domain_to_a_pasid() -> None:
    rig = Rig(V7_3)
    dev = device(rig, Mode.AMD_VI)
    refusal = iommu.iommu_attach_device_pasid(rig.driver.domain_alloc_paging(dev), dev, 5)
    assert refusal is not None
    assert refusal.errno is Errno.EOPNOTSUPP


@pytest.mark.parametrize(("quirk", "errno"), [(True, Errno.EINVAL), (False, Errno.ENOMEM)])
def test_amd_answers_einval_when_there_is_no_memory(quirk: bool, errno: Errno) -> None:
    rig = Rig(replace(V7_3, amd_no_memory_is_einval=quirk))
    dev = device(rig, Mode.AMD_VI)
    rig.kernel.fail_allocation = 3  # the mm data, the handle, the driver's own
    refusal = sva.iommu_sva_bind_device(dev, rig.process("a").mm)
    assert isinstance(refusal, Refusal)
    assert refusal.errno is errno


def test_on_amd_sva_does_not_survive_a_reset() -> None:
    rig, dev = bound_device(Mode.AMD_VI)
    reset.pci_dev_reset_iommu_prepare(dev)
    reset.pci_dev_reset_iommu_done(dev)
    assert rig.kernel.warnings == 1
    assert (dev, 1) not in rig.driver.entries
    assert isinstance(dev.iommu_group.pasid_array[1], sva.IommuSva)


def test_c31_riscv_carries_no_pasid() -> None:
    rig = Rig(V7_3)
    dev = device(rig, Mode.RISCV)
    assert dev.max_pasids == 0
    refusal = sva.iommu_sva_bind_device(dev, rig.process("a").mm)
    assert isinstance(refusal, Refusal)
    assert refusal.errno is Errno.ENOSPC
    attach = iommu.iommu_attach_device_pasid(rig.driver.domain_alloc_paging(dev), dev, 5)
    assert attach is not None
    assert attach.errno is Errno.EOPNOTSUPP
    assert answers(rig, dev, request()) == []


@pytest.mark.parametrize(
    ("mode", "wire"),
    [(Mode.ARM_SMMU_V3, "CMD_RESUME Abort"), (Mode.INTEL_VTD, "2"), (Mode.AMD_VI, "2"), (Mode.USUAL, "")],
)
def test_e10_failure_on_the_wire(mode: Mode, wire: str) -> None:
    rig, dev = bound_device(mode)
    rig.kernel.fail_allocation = 1
    assert answers(rig, dev, request()) == [(2, wire)]


@pytest.mark.parametrize("mode", [Mode.INTEL_VTD, Mode.AMD_VI])
def test_e10_without_the_quirk_failure_is_the_code_of_pcie(mode: Mode) -> None:
    rig, dev = bound_device(mode, replace(V7_3, failure_sent_raw=False))
    rig.kernel.fail_allocation = 1
    assert answers(rig, dev, request()) == [(2, "0xF")]


@pytest.mark.parametrize(
    ("mode", "wire"), [(Mode.ARM_SMMU_V3, "CMD_RESUME Retry"), (Mode.INTEL_VTD, "0"), (Mode.AMD_VI, "0")]
)
def test_success_on_the_wire(mode: Mode, wire: str) -> None:
    rig, dev = bound_device(mode)
    assert answers(rig, dev, request()) == [(0, wire)]


def test_e11_vtd_drops_a_stop_marker() -> None:
    rig, dev = bound_device(Mode.INTEL_VTD)
    assert answers(rig, dev, request(perm=0)) == []


def test_e11_the_same_request_elsewhere_is_answered() -> None:
    rig, dev = bound_device(Mode.AMD_VI)
    assert answers(rig, dev, request(perm=0)) == [(0, "0")]


def test_e12_a_stall_event_is_a_group_of_one() -> None:
    rig, dev = bound_device(Mode.ARM_SMMU_V3)
    assert answers(rig, dev, request(last=False)) == [(0, "CMD_RESUME Retry")]
    assert dev.fault_param.partial == []


@pytest.mark.parametrize(
    "fault",
    [
        request(pasid=None),
        request(perm=PERM_WRITE | PERM_PRIV),
        request(perm=PERM_EXEC | PERM_READ),
        request(address=1 << 47),
    ],
    ids=["no PASID", "privileged", "execute and read", "not canonical"],
)
def test_vtd_answers_by_itself(fault: Fault) -> None:
    rig, dev = bound_device(Mode.INTEL_VTD)
    assert answers(rig, dev, fault) == [(1, "1")]


def test_vtd_passes_on_the_canonical_address_of_the_upper_half() -> None:
    rig, dev = bound_device(Mode.INTEL_VTD)
    upper = (1 << 64) - 4096
    assert rig.driver.traits[dev.ops].screen(request(address=upper)) == request(address=upper)


@pytest.mark.parametrize("pasid", [None, 0])
def test_amd_answers_failure_without_a_pasid(pasid: int | None) -> None:
    rig, dev = bound_device(Mode.AMD_VI)
    assert answers(rig, dev, request(pasid=pasid)) == [(2, "2")]


def test_a_scenario_can_name_the_driver() -> None:
    raw = {"iommu": [{"name": "iommu0", "ops": "amd-vi", "pasid_bits": 16}], "step": [{"do": "show"}]}
    assert Scenario.from_dict(raw).iommu[0].ops is Mode.AMD_VI

"""How each call is made on the model, and what comes before it there."""

from __future__ import annotations

from pasidlab.devices import Idxd
from pasidlab.devices.endpoint import Work
from pasidlab.errors import InputError
from pasidlab.explain.scene import Stage
from pasidlab.hw.cpu import Instruction
from pasidlab.linux.iommu import iommu_dev_enable_feature_sva
from pasidlab.linux.pci_ats import probed_pasid
from pasidlab.outcome import Outcome
from pasidlab.rules import Refusal

OK = Outcome("ok")


def outcome(refusal: Refusal | None) -> Outcome:
    """Return what a kernel function gave as the outcome of a verb."""
    return OK if refusal is None else Outcome(refusal.result, rule=refusal.rule.id, why=refusal.why)


def bind(stage: Stage) -> Outcome:
    """`iommu_sva_bind_device()`."""
    return stage.machine.bind_device(stage.device, stage.process)


def bind_pasid(stage: Stage) -> Outcome:
    """`iommu_sva_bind_device_pasid()`."""
    return stage.machine.bind_device_pasid(stage.device, stage.process, stage.pasid)


def open_device(stage: Stage) -> Outcome:
    """Let the device's driver open it."""
    return stage.machine.bind(stage.device, stage.process)


def attach(stage: Stage) -> Outcome:
    """`iommu_attach_device_pasid()`."""
    return stage.machine.attach(stage.device, stage.pasid)


def attached(stage: Stage) -> None:
    """Attach what a replacement needs."""
    stage.machine.attach(stage.device, stage.pasid)


def replace(stage: Stage) -> Outcome:
    """`iommu_replace_device_pasid()`."""
    return stage.machine.replace(stage.device, stage.pasid)


def alloc_global(stage: Stage) -> Outcome:
    """`iommu_alloc_global_pasid()`."""
    return stage.machine.alloc_global(stage.device)


def claim_owner(stage: Stage) -> Outcome:
    """`iommu_device_claim_dma_owner()`."""
    return stage.machine.claim_dma_owner(stage.device)


def enable_feature(stage: Stage) -> Outcome:
    """`iommu_dev_enable_feature(IOMMU_DEV_FEAT_SVA)`, whatever the device's driver."""
    return outcome(iommu_dev_enable_feature_sva(stage.dev))


def enable_pasid(stage: Stage) -> Outcome:
    """Return what `pci_enable_pasid()` gave at the device's probe."""
    return outcome(probed_pasid(stage.dev))


def _idxd(stage: Stage) -> Idxd:
    endpoint = stage.machine.endpoints[stage.device]
    if not isinstance(endpoint, Idxd):
        raise InputError(f"--device {stage.device!r}: only a device of kind dsa or iaa has work queues")
    return endpoint


def idxd_probe(stage: Stage) -> Outcome:
    """Return what the driver's probe came to, which goes on whatever it was; a number that it did not get is refused
    once more.
    """
    endpoint = _idxd(stage)
    driver, wants = endpoint.driver, endpoint.takes_kernel_pasid and stage.dev.iommu_group is not None
    if driver.sva_refused is not None:
        return outcome(driver.sva_refused)
    return outcome(driver.idxd_enable_system_pasid() if wants and driver.pasid is None else None)


def enable_wq(stage: Stage) -> Outcome:
    """Return whether the queue for user space could be enabled."""
    return outcome(_idxd(stage).not_enabled)


def lam(stage: Stage) -> Outcome:
    """`arch_prctl(ARCH_ENABLE_TAGGED_ADDR)`."""
    return stage.machine.enable_lam(stage.process)


def mmap(stage: Stage) -> Outcome:
    """Map the device's portal."""
    return stage.machine.mmap_portal(stage.process, stage.device)


def opened(stage: Stage) -> None:
    """Open the device."""
    stage.machine.bind(stage.device, stage.process)


def mapped(stage: Stage) -> None:
    """Open the device and map its portal."""
    opened(stage)
    stage.machine.mmap_portal(stage.process, stage.device)


def enqcmd(stage: Stage) -> Outcome:
    """Execute ENQCMD to the device's portal."""
    return stage.machine.submit(stage.process, stage.device, Instruction.ENQCMD, Work())

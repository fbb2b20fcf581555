"""The calls that can be explained, each with its checks in the kernel's order.

Source: `pasidlab.linux`, `pasidlab.drivers` and `pasidlab.devices`, whose rules name function and version; the order is
that of Linux 7.3.4, and of 6.12.117 where a check says so.

Decided here: a call is made by a device driver that has done its part, so the mistakes of callers (PASID 0, a handle
twice) stand with the checks but are shown only where the model can make them. Memory is one state for all allocations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pasidlab.errors import InputError
from pasidlab.explain import checks_idxd, checks_sva, runs
from pasidlab.explain.callers import ACCEL, IDXD, IOMMUFD, NVIDIA, UACCE, UIO, Caller
from pasidlab.explain.check import Check
from pasidlab.explain.scene import Stage
from pasidlab.linux.profiles import Profile
from pasidlab.outcome import Outcome

Run = Callable[[Stage], Outcome]


def _nothing(stage: Stage) -> None:
    pass


def _in_all(profile: Profile) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the kernel, of a driver, or of a program.

    Attributes:
        id: how the command line names it.
        function: what it is called in the kernel.
        summary: what it is for.
        checks: what can refuse it, in order.
        run: how to make it on the model.
        before: what a driver or program does before it.
        callers: who calls it, where they change what their own callers see.
        exists: which kernels have it.
        when: these kernels in words; empty where all have it.
        idxd: only devices of kind dsa and iaa have it.
        pci: only PCI functions have it.
    """

    id: str
    function: str
    summary: str
    checks: tuple[Check, ...]
    run: Run
    before: Callable[[Stage], None] = _nothing
    callers: tuple[Caller, ...] = ()
    exists: Callable[[Profile], bool] = _in_all
    when: str = ""
    idxd: bool = False
    pci: bool = False


_ALL = (
    Call(
        "bind",
        "iommu_sva_bind_device",
        "give a device the memory of the calling process, the core picking the PASID",
        checks_sva.BIND,
        runs.bind,
        callers=(IDXD, UACCE, ACCEL, UIO, NVIDIA),
    ),
    Call(
        "bind_pasid",
        "iommu_sva_bind_device_pasid (v2, hybrid)",
        "the same under a number that the driver picks",
        checks_sva.BIND_PASID,
        runs.bind_pasid,
        when="no released kernel: the designs v2 and hybrid have it (--scheme)",
    ),
    Call(
        "open",
        "open() of the device's character device",
        "what a program does: before 6.16 the driver asks for the SVA feature, then it binds",
        checks_sva.OPEN,
        runs.open_device,
        callers=(IDXD, UACCE, ACCEL, UIO),
    ),
    Call(
        "enable_feature",
        "iommu_dev_enable_feature(IOMMU_DEV_FEAT_SVA)",
        "ask the IOMMU driver for SVA, once per device",
        checks_sva.ENABLE_FEATURE,
        runs.enable_feature,
        callers=(IDXD, ACCEL),
        exists=lambda profile: profile.enable_feature,
        when="kernels before 6.16; later ones find the same out at bind",
    ),
    Call(
        "enable_pasid",
        "pci_enable_pasid",
        "switch PASIDs on in a PCI function; IOMMU drivers call it when they meet the device",
        checks_sva.ENABLE_PASID,
        runs.enable_pasid,
        pci=True,
    ),
    Call(
        "alloc_global",
        "iommu_alloc_global_pasid",
        "take a number of the machine's one space for a driver's own use",
        checks_sva.ALLOC_GLOBAL,
        runs.alloc_global,
    ),
    Call(
        "attach",
        "iommu_attach_device_pasid",
        "give a PASID of a device a domain of the kernel's or of user space's",
        checks_sva.ATTACH,
        runs.attach,
        callers=(IOMMUFD,),
    ),
    Call(
        "replace",
        "iommu_replace_device_pasid",
        "exchange the domain of a PASID without a gap",
        checks_sva.REPLACE,
        runs.replace,
        before=runs.attached,
        callers=(IOMMUFD,),
    ),
    Call(
        "claim_owner",
        "iommu_device_claim_dma_owner",
        "take a group for user space (VFIO, iommufd)",
        checks_sva.CLAIM_OWNER,
        runs.claim_owner,
    ),
    Call(
        "idxd_probe",
        "idxd_probe (drivers/dma/idxd)",
        "switch PASIDs on for users and take one for the kernel; a failure is printed and the driver goes on",
        checks_idxd.PROBE,
        runs.idxd_probe,
        callers=(IDXD,),
        idxd=True,
    ),
    Call(
        "enable_wq",
        "drv_enable_wq (drivers/dma/idxd); accel-config enable-wq, enable-device",
        "enable a work queue for user space",
        checks_idxd.ENABLE_WQ,
        runs.enable_wq,
        idxd=True,
    ),
    Call(
        "mmap",
        "mmap() of a portal",
        "let a process write descriptors to a device",
        checks_idxd.MMAP,
        runs.mmap,
        before=runs.opened,
    ),
    Call(
        "enqcmd",
        "ENQCMD",
        "submit to a shared queue; the CPU puts in the PASID of the process",
        checks_idxd.ENQCMD,
        runs.enqcmd,
        before=runs.mapped,
    ),
    Call(
        "lam",
        "arch_prctl(ARCH_ENABLE_TAGGED_ADDR)",
        "use tagged addresses (x86 LAM), which devices do not understand",
        checks_sva.LAM,
        runs.lam,
    ),
)
CALLS = {call.id: call for call in _ALL}
"""Every call by id."""


def call_of(name: str) -> Call:
    """Return the call of that name; InputError says which there are."""
    try:
        return CALLS[name]
    except KeyError:
        raise InputError(f"--call {name!r}: no such call; known: {', '.join(CALLS)}") from None

"""The kernel driver of DSA and IAA: PASIDs at probe, queues and what keeps one from being enabled.

Source: drivers/dma/idxd (init.c, device.c, cdev.c, sysfs.c), v6.12 and v7.3; `enum idxd_scmd_stat` of
include/uapi/linux/idxd.h. Functions have the kernel's names. The driver reaches the device through its registers only.

At probe the driver takes one global number per device for its kernel queues and attaches the device's own RID domain
to it without handle, so that N such devices hold 1..N before any process binds; a failure only warns. A queue's
descriptors of the kernel are not privileged (PRIV 0), since kernel queues run under the DMA API.

Kernels before 6.16 ask the IOMMU first: if it refuses SVA, there are no PASIDs for users and none for the kernel. From
6.16 on nobody is asked, and it is the device that refuses a queue which it has no PASIDs for.

Decided here: a device without PASIDs counts as refused where the IOMMU is asked, whatever its driver says; on arm64,
which has no such device, the model asks for no ENQCMD before it enables a shared queue.
Not modelled: interrupts and their permissions (who wants to know of an error calls `process_misc_interrupts()`, as the
interrupt's thread would), the event log and its drain, names of drivers, sysfs itself (a `Wq` holds what it
configures), dmaengine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.device import IdxdDevice
from pasidlab.devices.idxd.refusals import (
    COMMAND_REFUSED,
    DEV_ENABLED,
    DEV_NOT_ENABLED,
    QUEUE_NO_PASIDS,
    SYSTEM_PASID_NONE,
    USER_SVA_REFUSED,
    WQ_ENABLED,
    WQ_NO_GRP,
    WQ_NO_NAME,
    WQ_NO_SVM,
    WQ_NO_SWQ_SUPPORT,
    WQ_NO_THRESH,
    WQ_NONE_CONFIGURED,
    WQ_USER_NO_IOMMU,
    Scmd,
)
from pasidlab.devices.idxd.registers import (
    Cmd,
    Cmdsts,
    Command,
    CommandError,
    DeviceState,
    Gensts,
    Grpcfg,
    Swerr,
    Wqcfg,
    WqMode,
    WqState,
)
from pasidlab.errors import Errno
from pasidlab.linux.iommu import (
    iommu_alloc_global_pasid,
    iommu_attach_device_pasid,
    iommu_dev_enable_feature_sva,
    iommu_free_global_pasid,
)
from pasidlab.linux.kernel import Arch
from pasidlab.linux.structs import IOMMU_PASID_INVALID, Device
from pasidlab.rules import Refusal, Rule

DEFAULT_QUEUE_DEPTH, DEFAULT_MAX_XFER_SHIFT, DEFAULT_MAX_BATCH_SHIFT = 16, 21, 5
_WQCFG_DWORD2 = 8


class WqType(StrEnum):
    """Whom a queue is for."""

    NONE = "none"
    KERNEL = "kernel"
    USER = "user"


@dataclass(slots=True, eq=False)
class Wq:
    """`struct idxd_wq`: what software has configured of a queue, as sysfs shows it."""

    id: int
    type: WqType = WqType.NONE
    dedicated: bool = False
    size: int = 0
    threshold: int = 0
    priority: int = 10
    name: str = ""
    group: int | None = None
    block_on_fault: bool = True
    prs_disable: bool = False
    enabled: bool = False
    wqcfg: Wqcfg = field(default_factory=Wqcfg)


class IdxdDriver:
    """`struct idxd_device` and the functions on it.

    Attributes:
        pasid: the system PASID, None without.
        user_pasid_enabled: SVA is on for user queues (IDXD_FLAG_USER_PASID_ENABLED).
        sva_refused: why the IOMMU refused SVA at probe, if it did.
        support_enqcmd: the CPU has ENQCMD.
        wqs: its queues.
        cmd_status: why the last command or configuration was refused, as sysfs shows it; 0 is success.
    """

    def __init__(self, dev: Device, hw: IdxdDevice) -> None:
        self.dev, self.hw = dev, hw
        self.pasid: int | None = None
        self.user_pasid_enabled = False
        self.sva_refused: Refusal | None = None
        self.support_enqcmd = dev.kernel.enqcmd_like or dev.kernel.arch is not Arch.X86
        self.wqs = [Wq(index) for index in range(reg.NUM_WQS)]
        self.cmd_status = 0

    @property
    def pasid_enabled(self) -> bool:
        """Sysfs `pasid_enabled`: since Linux 6.5 whether user queues have PASIDs; it says nothing of the kernel's."""
        return self.user_pasid_enabled

    @property
    def kernel_pasid_enabled(self) -> bool:
        """IDXD_FLAG_PASID_ENABLED, which kernel queues need: there is a system PASID."""
        return self.pasid is not None

    # --- probe -------------------------------------------------------------------------------------------------

    def idxd_probe(self, *, system_pasid: bool = True) -> Refusal | None:
        """Reset the device and turn PASIDs on; without a system PASID only kernel queues are without one."""
        self._command(Command.RESET_DEVICE, 0)
        self.sva_refused = self.idxd_enable_sva()
        if self.sva_refused:
            return self.sva_refused
        self.user_pasid_enabled = True
        if self.dev.iommu_group is None:
            return None
        return self.idxd_enable_system_pasid() if system_pasid else None

    def idxd_enable_sva(self) -> Refusal | None:
        """Ask the IOMMU for SVA, which kernels from 6.16 on do not; without SVA there are no PASIDs at all."""
        dev = self.dev
        if not dev.kernel.profile.enable_feature:
            return None
        refusal = iommu_dev_enable_feature_sva(dev)
        if refusal is None and dev.max_pasids:
            return None
        why = refusal.why if refusal else "the device or its IOMMU has no PASIDs"
        dev.kernel.found(USER_SVA_REFUSED, dev=dev.name, why=why)
        return USER_SVA_REFUSED.refuse(refusal.errno if refusal else Errno.EINVAL, dev=dev.name, why=why)

    def idxd_enable_system_pasid(self) -> Refusal | None:
        """Take a global number and attach the RID domain to it."""
        dev = self.dev
        assert dev.iommu_group is not None
        pasid = iommu_alloc_global_pasid(dev)
        if pasid == IOMMU_PASID_INVALID:
            dev.kernel.warn("idxd_enable_system_pasid", f"{dev.name} got no number for the kernel")
            return SYSTEM_PASID_NONE.refuse(dev=dev.name)
        domain = dev.iommu_group.domain
        assert domain is not None
        refusal = iommu_attach_device_pasid(domain, dev, pasid)
        if refusal:
            iommu_free_global_pasid(dev.kernel, pasid)
            return refusal
        self.pasid = pasid
        dev.kernel.global_users[pasid] = f"idxd ({dev.name}, kernel work queues)"
        return None

    def idxd_device_drv_probe(self) -> Refusal | None:
        """Write the configuration and enable the device; a configuration that is refused is ENXIO here."""
        if self._state() is not DeviceState.DISABLED:
            return self._refuse(DEV_ENABLED, Scmd.DEV_ENABLED)
        refusal = self.idxd_device_config()
        if refusal:
            return refusal.rule.refuse(Errno.ENXIO, **refusal.facts)
        return self._checked(Command.ENABLE_DEVICE, 0, CommandError.DEVICE_ENABLED)

    def idxd_device_config(self) -> Refusal | None:
        """Check the queues of all groups, and write WQCFG and GRPCFG."""
        configured = [wq for wq in self.wqs if wq.group is not None]
        for wq in configured:
            if not wq.dedicated and not self._wq_shared_supported(wq):
                return self._refuse(WQ_NO_SWQ_SUPPORT, Scmd.WQ_NO_SWQ_SUPPORT, wq)
        if not configured:
            return self._refuse(WQ_NONE_CONFIGURED, Scmd.WQ_NONE_CONFIGURED)
        for wq in configured:
            self.idxd_wq_config_write(wq)
        self._groups_config_write(configured)
        return None

    def _wq_shared_supported(self, wq: Wq) -> bool:
        return self.support_enqcmd and self._wq_pasid_enabled(wq)

    def _wq_pasid_enabled(self, wq: Wq) -> bool:
        return self.kernel_pasid_enabled if wq.type is WqType.KERNEL else self.user_pasid_enabled

    def _missing(self, wq: Wq) -> str:
        """Say what PASID support of a queue lacks."""
        without = self._without_pasids()
        if without:
            return without
        if self.sva_refused:
            return f"SVA, and the IOMMU refused it: {self.sva_refused.facts['why']}"
        if not self._wq_pasid_enabled(wq):
            return "a number for the kernel, and the driver got none"
        return "ENQCMD, and the CPU has none"

    def _without_pasids(self) -> str:
        """Say why the device has no PASIDs at all; empty if it has."""
        if self.dev.iommu is None:
            return "an IOMMU, and there is none in front of the device"
        return "" if self.dev.max_pasids else "PASIDs, and the device or its IOMMU has none"

    # --- queues ------------------------------------------------------------------------------------------------

    def idxd_user_drv_probe(self, wq: Wq) -> Refusal | None:
        """Enable a queue for user space."""
        if self._state() is not DeviceState.ENABLED:
            return DEV_NOT_ENABLED.refuse(dev=self.dev.name, wq=wq.id, status=self.cmd_status)
        if not self.user_pasid_enabled:
            return self._refuse(WQ_USER_NO_IOMMU, Scmd.WQ_USER_NO_IOMMU, wq)
        wq.type = WqType.USER
        return self.drv_enable_wq(wq)

    def drv_enable_wq(self, wq: Wq) -> Refusal | None:
        """Check a queue's configuration, write it, and enable the queue."""
        refusal = self._check_wq(wq)
        if refusal:
            return refusal
        if self._wq_pasid_enabled(wq) and (wq.type is WqType.KERNEL or not wq.dedicated):
            own = self.pasid if wq.dedicated else 0
            self._set_wqcfg_pasid(wq, own, enabled=True)
        return self.idxd_device_config() or self.idxd_wq_enable(wq)

    def _check_wq(self, wq: Wq) -> Refusal | None:
        checks = (
            (self._state() is not DeviceState.ENABLED, DEV_NOT_ENABLED, Scmd.DEV_NOT_ENABLED),
            (wq.enabled, WQ_ENABLED, Scmd.WQ_ENABLED),
            (wq.group is None, WQ_NO_GRP, Scmd.WQ_NO_GRP),
            (not wq.name, WQ_NO_NAME, Scmd.WQ_NO_NAME),
            (not wq.dedicated and not self._wq_shared_supported(wq), WQ_NO_SVM, Scmd.WQ_NO_SVM),
            (not wq.dedicated and not wq.threshold, WQ_NO_THRESH, Scmd.WQ_NO_THRESH),
        )
        for failed, rule, status in checks:
            if failed:
                return self._refuse(rule, status, wq)
        return None

    def idxd_wq_enable(self, wq: Wq) -> Refusal | None:
        """Enable a queue; one that is enabled stays so."""
        if wq.enabled:
            return None
        refusal = self._checked(Command.ENABLE_WQ, wq.id, CommandError.WQ_ENABLED)
        wq.enabled = refusal is None
        return refusal

    def idxd_wq_disable(self, wq: Wq) -> Refusal | None:
        """Drain and disable a queue."""
        if not wq.enabled:
            return None
        refusal = self._checked(Command.DISABLE_WQ, _wq_operand(wq))
        wq.enabled = refusal is not None
        return refusal

    def drv_disable_wq(self, wq: Wq) -> None:
        """Wait for what is in a queue, and return the queue to what it was before anybody configured it."""
        if wq.enabled:
            self._command(Command.DRAIN_WQ, _wq_operand(wq))
            self._command(Command.RESET_WQ, _wq_operand(wq))
        wq.enabled, wq.type, wq.wqcfg = False, WqType.NONE, Wqcfg()

    def idxd_device_drain_pasid(self, pasid: int) -> None:
        """Wait for the descriptors of a PASID."""
        self._command(Command.DRAIN_PASID, pasid)

    def idxd_wq_set_pasid(self, wq: Wq, pasid: int) -> Refusal | None:
        """Give a dedicated queue its owner's number: disable, write, enable."""
        refusal = self.idxd_wq_disable(wq)
        if refusal:
            return refusal
        self._set_wqcfg_pasid(wq, pasid, enabled=True)
        return self.idxd_wq_enable(wq)

    def idxd_wq_clear_pasid(self, wq: Wq) -> Refusal | None:
        """Take the number away again, as idxd_wq_disable_pasid() does, and leave the queue disabled.

        Linux enables it once more without PASID; nobody has its portal then, since a mapping keeps the file open.
        """
        refusal = self.idxd_wq_disable(wq)
        if refusal is None:
            self._set_wqcfg_pasid(wq, 0, enabled=False)
        return refusal

    # --- errors ------------------------------------------------------------------------------------------------

    def process_misc_interrupts(self) -> Swerr | None:
        """Return what SWERR holds, if anything, and make room for the next error (drivers/dma/idxd/irq.c)."""
        error = Swerr(self.hw.mmio_read(reg.SWERR, reg.SWERR_BYTES))
        if not error.valid:
            return None
        self.hw.mmio_write(reg.SWERR, Swerr(valid=True, overflow=True), 8)
        return error

    # --- registers ---------------------------------------------------------------------------------------------

    def idxd_wq_config_write(self, wq: Wq) -> None:
        """Write a queue's WQCFG; of an enabled queue the device keeps what it has."""
        size = wq.size or (DEFAULT_QUEUE_DEPTH if wq.type is not WqType.NONE else 0)
        wq.wqcfg = wq.wqcfg.replace(
            wq_size=size,
            wq_thresh=wq.threshold,
            mode=WqMode.DEDICATED if wq.dedicated else WqMode.SHARED,
            bof=wq.block_on_fault,
            wq_prs_disable=wq.prs_disable,
            priority=wq.priority,
            max_xfer_shift=DEFAULT_MAX_XFER_SHIFT,
            max_batch_shift=DEFAULT_MAX_BATCH_SHIFT,
        )
        raw = wq.wqcfg.pack()
        for at in range(0, reg.WQCFG_BYTES, 4):
            self.hw.mmio_write(_wqcfg_offset(wq) + at, int.from_bytes(raw[at : at + 4], "little"), 4)

    def _set_wqcfg_pasid(self, wq: Wq, pasid: int | None, *, enabled: bool) -> None:
        """Write the PASID into dword 2 of WQCFG."""
        wq.wqcfg = wq.wqcfg.replace(pasid=pasid or 0, pasid_en=enabled)
        dword2 = int(wq.wqcfg) >> 8 * _WQCFG_DWORD2 & 0xFFFF_FFFF
        self.hw.mmio_write(_wqcfg_offset(wq) + _WQCFG_DWORD2, dword2, 4)

    def _groups_config_write(self, configured: Iterable[Wq]) -> None:
        """Write GRPCFG: the queues of each group, and the engine of its number."""
        for group in range(reg.NUM_GROUPS):
            wqs = sum(1 << wq.id for wq in configured if wq.group == group)
            raw = Grpcfg(wqs=wqs, engines=1 << group if wqs else 0).pack()
            for at in range(0, reg.GRPCFG_BYTES, 8):
                value = int.from_bytes(raw[at : at + 8], "little")
                self.hw.mmio_write(reg.GRPCFG + group * reg.GRPCFG_BYTES + at, value, 8)

    def _state(self) -> DeviceState:
        return Gensts(self.hw.mmio_read(reg.GENSTS, 4)).state

    def wq_state(self, wq: Wq) -> WqState:
        """Return what the device says of a queue's state."""
        return Wqcfg(self.hw.mmio_read(_wqcfg_offset(wq), reg.WQCFG_BYTES)).wq_state

    def wqcfg_pasid(self, wq: Wq) -> int | None:
        """Return the PASID in a queue's WQCFG; None is no PASID."""
        config = Wqcfg(self.hw.mmio_read(_wqcfg_offset(wq), reg.WQCFG_BYTES))
        return config.pasid if config.pasid_en else None

    def _command(self, command: Command, operand: int) -> int:
        """idxd_cmd_exec(): return the device's error, which `cmd_status` keeps."""
        self.hw.mmio_write(reg.CMD, Cmd(cmd=command, operand=operand, int_req=True), 4)
        self.cmd_status = Cmdsts(self.hw.mmio_read(reg.CMDSTS, 4)).err
        return self.cmd_status

    def _checked(self, command: Command, operand: int, *allowed: CommandError) -> Refusal | None:
        status = self._command(command, operand)
        if status == CommandError.SUCCESS or status in allowed:
            return None
        facts = {"dev": self.dev.name, "command": command.name, "status": status}
        if status == CommandError.WQ_PASID_ENABLE:
            missing = self._without_pasids() or "the PCIe PASID capability, and it is off"
            return QUEUE_NO_PASIDS.refuse(**facts, missing=missing)
        return COMMAND_REFUSED.refuse(**facts, error=CommandError(status).name.lower().replace("_", " "))

    def _refuse(self, rule: Rule, status: Scmd, wq: Wq | None = None) -> Refusal:
        """Refuse by the driver itself."""
        self.cmd_status = status
        facts = {} if wq is None else {"wq": wq.id, "missing": self._missing(wq)}
        return rule.refuse(dev=self.dev.name, status=status, **facts)


def _wqcfg_offset(wq: Wq) -> int:
    return reg.WQCFG + wq.id * reg.WQCFG_BYTES


def _wq_operand(wq: Wq) -> int:
    """Name one queue by the bit of its set."""
    return 1 << wq.id % 16 | wq.id // 16 << 16

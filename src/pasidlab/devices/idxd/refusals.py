"""Why the idxd driver cannot enable a device or a queue: the codes of sysfs `cmd_status`, and the rules of `driver`.

Source: `enum idxd_scmd_stat` of include/uapi/linux/idxd.h; drivers/dma/idxd (init.c, device.c, cdev.c), v6.12 and v7.3.
The tool accel-config shows the codes in words, without the state behind them; 0x800c0000 is its "no shared wq support
(platform configuration error)". Of the enumeration only what the model can come to is here.
"""

from __future__ import annotations

from enum import IntEnum

from pasidlab.errors import Errno
from pasidlab.rules import WAS_READ, Rule


class Scmd(IntEnum):
    """`enum idxd_scmd_stat`: what sysfs `cmd_status` shows when the driver itself refuses."""

    DEV_ENABLED = 0x8000_0010
    DEV_NOT_ENABLED = 0x8000_0020
    WQ_ENABLED = 0x8000_0021
    WQ_NO_GRP = 0x8003_0000
    WQ_NO_NAME = 0x8004_0000
    WQ_NO_SVM = 0x8005_0000
    WQ_NO_THRESH = 0x8006_0000
    WQ_NO_SWQ_SUPPORT = 0x800C_0000
    WQ_NONE_CONFIGURED = 0x800D_0000
    WQ_USER_NO_IOMMU = 0x8011_0000


_LOG_OF_PROBE = "see the boot's log for 'Unable to turn on user SVA feature' and explain it; then load idxd again"
_CONFIGURE = "set it with accel-config config-wq before enable-device"


def _rule(name: str, where: str, check: str, why: str, errno: Errno, remedy: str) -> Rule:
    return Rule(f"idxd.{name}", f"{where} (drivers/dma/idxd)", check, why, errno, WAS_READ, remedy)


USER_SVA_REFUSED = Rule(
    "idxd.user-sva-refused",
    "idxd_probe, idxd_enable_sva (drivers/dma/idxd/init.c)",
    "iommu_dev_enable_feature(IOMMU_DEV_FEAT_IOPF or IOMMU_DEV_FEAT_SVA) != 0",
    "{dev}: unable to turn on user SVA feature ({why}); the driver goes on without PASIDs, for users and the kernel",
    Errno.EINVAL,
    "6.12 (read); since 6.16 nobody is asked",
    remedy="take the cause away (`pasidlab explain --call enable_feature --machine ...` names it), and load idxd again",
)
SYSTEM_PASID_NONE = Rule(
    "idxd.no-kernel-number",
    "idxd_enable_system_pasid (drivers/dma/idxd/init.c)",
    "iommu_alloc_global_pasid() == IOMMU_PASID_INVALID",
    "{dev} got no number for the kernel: the driver warns and goes on without",
    Errno.ENOSPC,
    source=WAS_READ,
    remedy="nothing for programs; the kernel's own queues need a free number",
)
DEV_ENABLED = _rule(
    "device-enabled",
    "idxd_device_drv_probe",
    "idxd->state != IDXD_DEV_DISABLED",
    "{dev} is enabled already (cmd_status {status:#x})",
    Errno.ENXIO,
    "accel-config disable-device first",
)
DEV_NOT_ENABLED = _rule(
    "device-not-enabled",
    "drv_enable_wq",
    "idxd->state != IDXD_DEV_ENABLED",
    "{dev} is not enabled, so its queue {wq} cannot be (cmd_status {status:#x})",
    Errno.ENXIO,
    "accel-config enable-device first, and look why that failed if it did",
)
WQ_ENABLED = _rule(
    "queue-enabled",
    "drv_enable_wq",
    "wq->state != IDXD_WQ_DISABLED",
    "queue {wq} of {dev} is enabled already (cmd_status {status:#x})",
    Errno.EBUSY,
    "accel-config disable-wq first",
)
WQ_NO_GRP = _rule(
    "queue-without-group",
    "drv_enable_wq",
    "!wq->group",
    "queue {wq} of {dev} is in no group (cmd_status {status:#x})",
    Errno.ENXIO,
    _CONFIGURE,
)
WQ_NO_NAME = _rule(
    "queue-without-name",
    "drv_enable_wq",
    "strlen(wq->name) == 0",
    "queue {wq} of {dev} has no name (cmd_status {status:#x})",
    Errno.ENXIO,
    _CONFIGURE,
)
WQ_NO_SVM = _rule(
    "shared-without-pasids",
    "drv_enable_wq",
    "wq_shared(wq) && !wq_shared_supported(wq)",
    "queue {wq} of {dev} is shared, which needs {missing} (cmd_status {status:#x})",
    Errno.ENXIO,
    _LOG_OF_PROBE,
)
WQ_NO_THRESH = _rule(
    "shared-without-threshold",
    "drv_enable_wq",
    "wq->threshold == 0",
    "queue {wq} of {dev} is shared and has threshold 0, at which its limited portal takes nothing "
    "(cmd_status {status:#x})",
    Errno.ENXIO,
    _CONFIGURE,
)
WQ_NO_SWQ_SUPPORT = _rule(
    "no-shared-queues",
    "idxd_wqs_setup",
    "wq_shared(wq) && !wq_shared_supported(wq)",
    "{dev} has no support for the shared queue {wq}, which needs {missing} (cmd_status {status:#x})",
    Errno.EINVAL,
    _LOG_OF_PROBE,
)
WQ_NONE_CONFIGURED = _rule(
    "no-queue-configured",
    "idxd_wqs_setup",
    "configured == 0",
    "{dev} has no queue in any group (cmd_status {status:#x})",
    Errno.EINVAL,
    "put a queue and an engine into one group with accel-config, then enable the device",
)
WQ_USER_NO_IOMMU = _rule(
    "user-queue-without-sva",
    "idxd_user_drv_probe",
    "!device_user_pasid_enabled(idxd)",
    "queue {wq} of {dev} is for user space, which needs SVA: {missing} (cmd_status {status:#x})",
    Errno.EOPNOTSUPP,
    _LOG_OF_PROBE,
)
QUEUE_NO_PASIDS = Rule(
    "idxd.queue-without-pasids",
    "idxd_wq_enable, after idxd_probe (drivers/dma/idxd)",
    "ENABLE_WQ gives IDXD_CMDSTS_ERR_PASID_EN; since 6.16 IDXD_FLAG_USER_PASID_ENABLED is set without asking",
    "{dev} refused command {command} with error {status:#x}, wq pasid enable: the queue needs {missing}",
    Errno.ENXIO,
    "the change to idxd_probe of Linux 6.16 (read); include/uapi/linux/idxd.h",
    remedy="see why it has no PASIDs: `pasidlab explain --call enable_pasid`, then --call bind",
)
COMMAND_REFUSED = _rule(
    "command-refused",
    "idxd_cmd_exec",
    "status != IDXD_CMDSTS_SUCCESS",
    "{dev} refused command {command} with error {status:#x}, {error}",
    Errno.ENXIO,
    "look the code up: accel-config prints it; it is one of the device's own",
)

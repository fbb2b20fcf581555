"""What device drivers, libraries and tools print around PASIDs.

Source: drivers/accel/amdxdna, drivers/dma/idxd, Linux 5.14 to 7.3 (read); accel-config's table of errors; the status
codes of QPL (include/qpl/c_api/status.h) and DML; what users of each report.
Decided here: a status number alone is recognised only beside the name of the library or of the record that has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pasidlab.devices.idxd.refusals import Scmd
from pasidlab.devices.idxd.registers import CommandError
from pasidlab.explain import decoded
from pasidlab.explain.pattern import PCI, Pattern, line

_DEVICE = rf"\A(?:.*?{PCI})?.*?"
_SCMD_RULES = {
    Scmd.DEV_ENABLED: "idxd.device-enabled",
    Scmd.DEV_NOT_ENABLED: "idxd.device-not-enabled",
    Scmd.WQ_ENABLED: "idxd.queue-enabled",
    Scmd.WQ_NO_GRP: "idxd.queue-without-group",
    Scmd.WQ_NO_NAME: "idxd.queue-without-name",
    Scmd.WQ_NO_SVM: "idxd.shared-without-pasids",
    Scmd.WQ_NO_THRESH: "idxd.shared-without-threshold",
    Scmd.WQ_NO_SWQ_SUPPORT: "idxd.no-shared-queues",
    Scmd.WQ_NONE_CONFIGURED: "idxd.no-queue-configured",
    Scmd.WQ_USER_NO_IOMMU: "idxd.user-queue-without-sva",
}


def _status(found: re.Match[str]) -> Iterator[str]:
    """Name a code of sysfs cmd_status: the driver's own, or that of the device's command register."""
    code = int(found["code"], 16)
    if code in Scmd._value2member_map_:
        yield f"cmd_status {code:#x}: {Scmd(code).name.lower().replace('_', ' ')}, refused by the driver"
    elif code in CommandError._value2member_map_:
        yield f"cmd_status {code:#x}: {CommandError(code).name.lower().replace('_', ' ')}, refused by the device"
    else:
        yield f"cmd_status {code:#x}: not among the codes that are modelled"


def _status_rules(found: re.Match[str]) -> tuple[str, ...]:
    code = int(found["code"], 16)
    if code in Scmd._value2member_map_:
        return (_SCMD_RULES[Scmd(code)],)
    if code in (CommandError.WQ_PASID_ENABLE, CommandError.WQ_PRIV):
        return ("idxd.queue-without-pasids", "enable-pasid.failed")
    return ("idxd.command-refused",)


DRIVER_LINES = (
    Pattern(
        "amdxdna-bind",
        line(rf"{_DEVICE}SVA bind device failed, ret (?P<errno>-?\d+)"),
        "amdxdna_drm_open, amdxdna_sva_init (drivers/accel/amdxdna)",
        "the NPU's driver could not bind the process that opened it",
        call="bind",
        iommu="amd-vi",
    ),
    Pattern(
        "amdxdna-enable",
        line(rf"{_DEVICE}Enable PASID failed, ret (?P<errno>-?\d+)"),
        "aie2_init (drivers/accel/amdxdna), before 6.16",
        "the NPU's driver asked the IOMMU for the SVA feature at probe",
        call="enable_feature",
        iommu="amd-vi",
    ),
    Pattern(
        "amdxdna-pasid",
        line(rf"{_DEVICE}SVA get pasid failed"),
        "amdxdna_drm_open (drivers/accel/amdxdna)",
        "the bind succeeded and has no number, which mainline never gives",
        rules=("uacce.pasid-invalid",),
    ),
    Pattern(
        "idxd-sva",
        line(rf"{_DEVICE}Unable to turn on (?:user )?SVA feature"),
        "idxd_probe (drivers/dma/idxd/init.c), before 6.16",
        "the IOMMU refused SVA when the driver met the device: shared queues, and PASIDs for users, are off until the"
        " module is loaded again",
        call="enable_feature",
        iommu="intel-vtd",
    ),
    Pattern(
        "idxd-kernel-pasid",
        line(rf"{_DEVICE}(?:No in-kernel DMA with PASID\.?(?: (?P<errno>-\d+))?|Failed to enable system pasid)"),
        "idxd_probe (drivers/dma/idxd/init.c)",
        "the kernel's own queues have no PASID; those of users are not concerned",
        rules=("idxd.no-kernel-number",),
        remedy="nothing to do for programs: before 6.5 the kernel never had one, later it needs a free number and a"
        " domain",
    ),
    Pattern(
        "idxd-forced-off",
        line(r"User forced SVA off via module param"),
        "idxd_probe (drivers/dma/idxd/init.c)",
        "the module was loaded with sva=0",
        rules=("idxd.sva-forced-off",),
    ),
    Pattern(
        "idxd-no-swq",
        line(
            rf"{_DEVICE}(?:No shared wq support but configured|no shared wq support \(platform configuration error\))"
        ),
        "idxd_wqs_setup (drivers/dma/idxd/device.c); accel-config",
        "a queue is configured as shared, and the device has no PASIDs for it: SVA was refused at probe, or the CPU has"
        " no ENQCMD",
        call="enable_wq",
        rules=("idxd.no-shared-queues", "idxd.user-sva-refused"),
        iommu="intel-vtd",
    ),
    Pattern(
        "accel-config-error",
        line(r"Error ?\[(?P<code>0x[0-9a-f]+)\]"),
        "accel-config, sysfs cmd_status",
        "enabling a device or queue was refused",
        call="enable_wq",
        rules_of=_status_rules,
        decode=_status,
        iommu="intel-vtd",
    ),
    Pattern(
        "cmd-status",
        line(r"cmd_status\W+(?P<code>0x[0-9a-f]+)|Invalid value for WQ pasid enable"),
        "sysfs cmd_status, accel-config",
        "the device refused a queue with a PASID",
        call="enable_wq",
        rules=("idxd.queue-without-pasids",),
        iommu="intel-vtd",
    ),
    Pattern(
        "shared-mode",
        line(
            r"shared wq support not available|accfg_wq_set_(?:str_)?mode:.*failed: Invalid argument"
            r"|required feature not found"
        ),
        "accel-config: mode = shared was refused as it was written",
        "the device has no PASIDs for users, or the CPU no ENQCMD",
        rules=("idxd.shared-mode-refused", "idxd.user-sva-refused"),
        iommu="intel-vtd",
    ),
    Pattern(
        "threshold",
        line(r"threshold.*(?:write failed|failed): Invalid arg"),
        "accel-config: threshold was refused as it was written",
        "only a shared queue has a threshold",
        rules=("idxd.threshold-of-dedicated",),
    ),
    Pattern(
        "enable-wq-failed",
        line(r"failed in (?P<device>(?:dsa|iax)\d+(?:/wq\d+\.\d+)?)"),
        "accel-config enable-wq, enable-device",
        "the queue or device was not enabled; accel-config prints why on a line with Error[...], or not at all before"
        " 3.5",
        call="enable_wq",
        iommu="intel-vtd",
    ),
    Pattern(
        "pasid-enabled",
        line(r"pasid_enabled\W{1,4}0\b"),
        "sysfs of a DSA or IAA",
        "the driver has no PASIDs for users: the IOMMU refused SVA, or there is none",
        call="idxd_probe",
        rules=("idxd.user-sva-refused",),
        iommu="intel-vtd",
    ),
    Pattern(
        "idxd-error",
        line(rf"{_DEVICE}err\[0\]: (?P<first>0x[0-9a-f]{{16}})(?P<words>(?:.*err\[\d\]: 0x[0-9a-f]{{16}}){{1,3}})?"),
        "process_misc_interrupts (drivers/dma/idxd/irq.c), register SWERR",
        "a descriptor failed so that no completion record could tell",
        rules=("idxd.completed-with-error", "prq.driver-invalid"),
        decode=decoded.swerr,
        follow=3,
        remedy="where the error is one of translation, see whether the queue has a PASID and whether the page of the"
        " completion record is there",
    ),
    Pattern(
        "idxd-halted",
        line(rf"{_DEVICE}idxd halted"),
        "process_misc_interrupts (drivers/dma/idxd/irq.c)",
        "the device stopped after an error that it cannot go on from; the lines before and after it say which",
    ),
    Pattern(
        "completion",
        line(r"(?:(?:DSA|IAA|IAX|idxd|completion|hw)\b.*?)status\W+(?P<status>0x[0-9a-f]{1,2}|\d{1,3})\b"),
        "a completion record of a DSA or IAA",
        "the device completed a descriptor",
        rules=("idxd.completed-with-error", "dma.page-not-there"),
        decode=decoded.completion,
        remedy="status 0x03 is a page that was not there while block on fault was off: set block_on_fault=1 for the"
        " queue and the flag in the descriptor, or touch the pages first, and go on from the byte count in the record",
    ),
    Pattern(
        "idxd-vdev",
        line(r"idxd_vdev"),
        "modprobe",
        "there is no such module",
        rules=("explain.idxd-no-vdev",),
    ),
    Pattern(
        "qpl",
        line(r"QPL_STS_INIT_\w+|QPL.*\b50[0-3]\b"),
        "QPL",
        "the library found no queue that it can use",
        call="enable_wq",
        rules=("explain.qpl-no-queue", "idxd.no-shared-queues"),
        iommu="intel-vtd",
    ),
    Pattern(
        "dml",
        line(r"DML.*\b(?:status|code|internal library error)\b\W*(?:16\b)?|DML_STATUS_INTERNAL\w*"),
        "DML",
        "the hardware path failed before any descriptor was sent",
        rules=("explain.dml-no-accel-config", "idxd.no-shared-queues"),
        iommu="intel-vtd",
    ),
    Pattern(
        "cuda",
        line(r"cuInit\W.*\b3\b|CUDA_ERROR_NOT_INITIALIZED|CUDA driver initialization failed"),
        "libcuda",
        "CUDA could not start; where the GPU shares page tables with the CPUs (GB10, GH200), the kernel's SVA is what"
        " it lacks, and nothing is printed for that",
        call="bind",
        result="ENODEV",
        iommu="arm-smmu-v3",
    ),
    Pattern(
        "uacce",
        line(r"(?:uacce|hisi_(?:zip|sec|hpre)|wd_\w+|/dev/hisi_\w+).{0,80}?open.{0,80}?[ :=(](?P<errno>-\d+)"),
        "UADK, drivers/misc/uacce",
        "an accelerator could not be opened, which binds the process",
        call="open",
        iommu="arm-smmu-v3",
    ),
    Pattern(
        "riscv-width",
        line(r"capabilities\.PD(?:8|17|20)|\bPD20\b"),
        "the RISC-V IOMMU's capabilities register",
        "how wide a PASID may be behind a RISC-V IOMMU",
        rules=("explain.riscv-widths",),
    ),
    Pattern(
        "bind-failed",
        line(r"iommu_sva_bind_device\b.*?(?P<errno>-\d+)"),
        "a driver that binds",
        "a bind was refused",
        call="bind",
    ),
)

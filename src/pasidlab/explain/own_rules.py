"""Checks of drivers, libraries and tools that the model does not run, so that they have no rule elsewhere.

Source: drivers/accel/amdxdna, drivers/uio/uio_pci_generic_sva.c, drivers/misc/uacce, drivers/dma/idxd/sysfs.c,
drivers/iommu/amd/pasid.c, Linux 6.12 to 7.3.4 (read); the status codes of QPL, DML and the tool accel-config, and what
their issue trackers say of them.
"""

from __future__ import annotations

from pasidlab.errors import Errno
from pasidlab.rules import WAS_READ, Level, Rule

AMD_NOT_V2 = Rule(
    "explain.amd-no-gcr3-table",
    "iommu_sva_set_dev_pasid (drivers/iommu/amd/pasid.c)",
    "the PASID is out of range, or PASID was not enabled when the default domain was attached",
    "{dev} has no GCR3 table: its traffic without PASID runs in a domain with AMD's own (v1) page table",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="boot with iommu=pt or amd_iommu=pgtbl_v2, under which the driver makes that table",
)
SVA_FORCED_OFF = Rule(
    "idxd.sva-forced-off",
    "idxd_probe (drivers/dma/idxd/init.c)",
    "module parameter sva = 0",
    "somebody loaded idxd with sva=0, so no queue has PASIDs",
    Errno.EOPNOTSUPP,
    source=WAS_READ,
    remedy="take idxd.sva=0 off the kernel's command line and out of /etc/modprobe.d, and load the module again",
)
SHARED_MODE_REFUSED = Rule(
    "idxd.shared-mode-refused",
    "wq_mode_store (drivers/dma/idxd/sysfs.c)",
    "sysfs_streq(buf, shared) && !device_swq_supported(idxd)",
    "mode = shared is refused already when it is written: the device has no PASIDs for users, or the CPU no ENQCMD",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="look why SVA is off: `pasidlab explain --call enable_feature --machine ...`, or the boot's log for"
    " 'Unable to turn on user SVA feature'",
)
THRESHOLD_OF_DEDICATED = Rule(
    "idxd.threshold-of-dedicated",
    "wq_threshold_store (drivers/dma/idxd/sysfs.c)",
    "wq_dedicated(wq), or a threshold of 0 or above the queue's size",
    "a threshold belongs to shared queues only, and is at most the queue's size",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="leave --threshold out for a dedicated queue; for a shared one give the size first",
)
NO_VDEV = Rule(
    "explain.idxd-no-vdev",
    "drivers/dma/idxd",
    "no kernel has idxd_vdev, and the mediated devices of vendors' kernels were dropped",
    "Linux cannot split one DSA into virtual ones for guests",
    Errno.ENOENT,
    "intel/idxd-config#24 and #85",
    "give a guest the whole device by VFIO, or use the host's queues through a service; there is no module to install",
    Level.NOTE,
)
DML_NO_LIBRARY = Rule(
    "explain.dml-no-accel-config",
    "hw_dispatcher of DML",
    "libaccel-config.so cannot be loaded, or no device can be opened: all of it is one status",
    "the library finds no libaccel-config.so (1), or no enabled queue that it may open",
    Errno.ENOENT,
    "intel/DML#41",
    "install libaccel-config of the same architecture where the loader looks, then run accel-config list as the same"
    " user",
)
QPL_NO_QUEUE = Rule(
    "explain.qpl-no-queue",
    "hw_dispatcher of QPL",
    "no enabled shared queue that the process may open",
    "QPL uses shared queues only: there is none that is enabled and that this user may open",
    Errno.ENODEV,
    "intel/qpl#50; include/qpl/c_api/status.h",
    "enable a queue with mode shared (accel-config list shows mode and state), and see that the user may open"
    " /dev/iax/wq*; where shared is refused, explain the line that the kernel printed then",
)
AMDXDNA_EINVAL = Rule(
    "amdxdna.always-einval",
    "amdxdna_drm_open, amdxdna_sva_init (drivers/accel/amdxdna)",
    "iommu_sva_bind_device() failed, and there is no carve-out memory",
    "the driver gives EINVAL for whatever the bind answered; since 7.x its log has the number, the caller has not",
    Errno.EINVAL,
    "7.3.4 (read)",
    "look for 'SVA bind device failed, ret' in dmesg, and explain that number",
)
UIO_EINVAL = Rule(
    "uio-pci-generic-sva.always-einval",
    "uio_pci_sva_open (drivers/uio/uio_pci_generic_sva.c)",
    "IS_ERR(iommu_sva_bind_device())",
    "the driver gives EINVAL for whatever the bind answered, and prints nothing",
    Errno.EINVAL,
    "7.3.4 (read)",
    "explain the bind itself: `pasidlab explain --call bind --machine ... --device ...`",
)
UACCE_INVALID = Rule(
    "uacce.pasid-invalid",
    "uacce_bind_queue (drivers/misc/uacce/uacce.c)",
    "iommu_sva_get_pasid() == IOMMU_PASID_INVALID",
    "the bind succeeded and has no number, which mainline never gives",
    Errno.ENODEV,
    source=WAS_READ,
    remedy="tell the maintainers: no released kernel should come here",
)
UACCE_GONE = Rule(
    "uacce.parent-gone",
    "uacce_fops_open (drivers/misc/uacce/uacce.c)",
    "!uacce->parent",
    "the device was removed while its file was there",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="load the device's driver again",
)
TAGGED_WITHOUT_BOND = Rule(
    "amdxdna.pasid-valid-without-bond",
    "aie4 mailbox messages (drivers/accel/amdxdna)",
    "PASID_VLD is set for a client that has no PASID",
    "the driver told its firmware to tag accesses with a PASID although nothing is bound under one",
    Errno.EINVAL,
    "amd/xdna-driver PR#1442, PR#1445",
    "use a driver with the change of June 2026 (skip PASID tag in non-SVA mode), or leave IOMMU translation on",
)
UNBIND_SILENT = Rule(
    "explain.unbind-returns-nothing",
    "iommu_sva_unbind_device (drivers/iommu/iommu-sva.c)",
    "the function returns void",
    "an unbind cannot fail: what people see is a WARN in the IOMMU driver below it, or a handle unbound twice",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="explain the WARN that stands above the trace, and count the driver's binds and unbinds",
)
RISCV_WIDTH = Rule(
    "explain.riscv-widths",
    "RISC-V IOMMU specification, capabilities.PD8, PD17, PD20",
    "each bit stands for one mode of the process directory, and none implies another",
    "the width of a process_id is the largest of 8, 17 and 20 whose bit is set; PD20 does not promise PD17 or PD8, and"
    " all three may be 0",
    Errno.ENOSPC,
    "riscv-non-isa/riscv-iommu#579",
    "read the capabilities register; Linux's driver uses none of them up to 7.3, so that every bind there is refused",
    Level.NOTE,
)
ENDS_TOO_WIDE = Rule(
    "explain.cd-written-to-narrow-member",
    "arm_smmu_write_ctx_desc (drivers/iommu/arm/arm-smmu-v3)",
    "WARN_ON(ssid >= 1 << cd_table->s1cdmax)",
    "at the end of a process the driver wrote its CD for each device of the group, also for one without PASIDs",
    Errno.EINVAL,
    "NVIDIA/NV-Kernels#347",
    "use a kernel since 6.9, whose driver keeps who has which SSID; the warning itself changed nothing",
)

"""What people can do where a rule does not say it: rules of devices, of tables in memory, and of the instruction.

Decided here: what a rule itself says wins; rules that are many and alike (entries of tables) have one for a family.
"""

from __future__ import annotations

from pasidlab.rules import Rule

_LOG_OF_PROBE = "see the boot's log for 'Unable to turn on user SVA feature' and explain it; then load idxd again"
_TABLES = (
    "print the entry (`pasidlab dump`, or the IOMMU's debugfs) and compare it with what the driver writes for a bond"
)
_PAGES = "see whether the process has that page with that right, and let it touch the page before the device does"
_BUSY_QUEUE = "try again: the instruction says so by ZF = 1; give the queue more room or a higher threshold"
_CONFIGURE = "set it with accel-config config-wq before enable-device"

REMEDIES = {
    "arm-smmu-v3.pri-denied": "let the program touch or pin its memory before it gives it to the device",
    "dma-owner.no-group": "switch the IOMMU on; without one, VFIO has only its unsafe mode",
    "dma-owner.other-owner": "see who has the group: the drivers of all its members, and whose VFIO file is open",
    "dma-owner.pasids-attached": "close every file of the device, so that its bonds end; disable kernel queues of idxd",
    "dma.no-entry": "see under which PASID the device worked and whether somebody was bound under it at that time",
    "dma.page-not-there": _PAGES,
    "dma.rid-blocked": "the device worked without PASID: give it the PASID of its bond, or map memory for DMA",
    "fault.flush-no-param": "nothing breaks; a kernel whose IOMMU driver asks first does not warn",
    "fault.no-fault-param": "switch page requests off in the device until its driver has bound something",
    "fault.no-handler": "the PASID is not bound, or its domain takes no page requests: bind before the device works",
    "free-global.not-held": "let the driver free each number once, and none that it did not get",
    "group.mixed-width": "take a slot or ACS setting that gives the device a group of its own",
    "hybrid.local-too-wide": "let the driver pick numbers below the device's bound",
    "idxd.command-refused": "look the code up: accel-config prints it; it is one of the device's own",
    "idxd.completed-with-error": "read the record's status, address and byte count; mend the descriptor or the memory",
    "idxd.dedicated-busy": "use a shared queue, or another dedicated one: it belongs to one process at a time",
    "idxd.dedicated-takes-no-enqcmd": "submit to a dedicated queue with MOVDIR64B",
    "idxd.device-enabled": "accel-config disable-device first",
    "idxd.device-not-enabled": "accel-config enable-device first, and look why that failed if it did",
    "idxd.no-kernel-number": "nothing for programs; the kernel's own queues need a free number",
    "idxd.no-queue-configured": "put a queue and an engine into one group with accel-config, then enable the device",
    "idxd.no-shared-queues": _LOG_OF_PROBE,
    "idxd.queue-disabled": "accel-config enable-wq, and look why that failed if it did",
    "idxd.queue-enabled": "accel-config disable-wq first",
    "idxd.queue-full": _BUSY_QUEUE,
    "idxd.queue-threshold": _BUSY_QUEUE,
    "idxd.queue-without-group": _CONFIGURE,
    "idxd.queue-without-name": _CONFIGURE,
    "idxd.shared-without-threshold": _CONFIGURE,
    "idxd.queue-without-pasids": "see why it has no PASIDs: `pasidlab explain --call enable_pasid`, then --call bind",
    "idxd.shared-without-pasids": _LOG_OF_PROBE,
    "idxd.user-queue-without-sva": _LOG_OF_PROBE,
    "idxd.user-sva-refused": "take the cause away (`pasidlab explain --call enable_feature --machine ...` names"
    " it), and load idxd again",
    "intel.feature-inconsistent": "compare the units' ecap in the boot's log; look for an option of the firmware's"
    " setup and for an update, since firmware can hide what a unit can do",
    "lam.bits": "ask for 6 tag bits",
    "lam.has-pasid": "do without LAM in a process that binds, or ask for ARCH_FORCE_TAGGED_SVA before",
    "lam.locked": "ask for LAM before the first thread starts",
    "lam.no-cpu": "there is no LAM on this CPU, or the kernel was built or booted without it",
    "portal.none": "the device has no portal: submit through its driver",
    "portal.unmapped": "map the queue's file into this very process; a mapping is not inherited by a fork",
    "prq.driver-invalid": "see the line before it, which says what is wrong with the request",
    "submit.no-queue": "open the device in this process first",
    "traps.gp-already-activated": "open the device in a new thread, whose register is loaded afresh; exec is the cause",
    "traps.gp-no-number": "open the device in this very process before it submits; a fork has no number of its own",
    "traps.gp-other": "the CPU or the virtual machine has no ENQCMD: use a dedicated queue",
    "traps.undefined": "the CPU does not have the instruction: look for enqcmd in /proc/cpuinfo",
    "uacce.pasid-invalid": "tell the maintainers: no released kernel should come here",
    "v2.mode-differs": "let one process use one kind of bind only, from its first bind to its end",
    "v2.number-too-wide": "let the driver pick numbers below the device's bound",
}
"""Remedies by rule."""
FAMILIES = {"smmu.": _TABLES, "vtd.": _TABLES, "vmsa.": _PAGES, "x86.": _PAGES}
"""Remedies by the beginning of a rule's id."""


def remedy_of(rule: Rule, device: str = "") -> str:
    """Return what to do about a rule; empty where nothing is known. Remedies may name the device."""
    family = next((remedy for start, remedy in FAMILIES.items() if rule.id.startswith(start)), "")
    return (rule.remedy or REMEDIES.get(rule.id, family)).replace("{dev}", device or "the device")

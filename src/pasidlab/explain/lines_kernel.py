"""What the kernel's core and the IOMMU drivers print around PASIDs.

Source: drivers/iommu (intel/dmar.c, intel/prq.c, intel/svm.c, intel/cap_audit.c, amd/iommu.c, arm/arm-smmu-v3,
io-pgfault.c), lib/idr.c, arch/x86/kernel/traps.c, Linux 5.14 to 7.3 (read).
"""

from __future__ import annotations

from pasidlab.explain import decoded
from pasidlab.explain.pattern import PCI, Pattern, line

_NO_PASID_ON_QUEUE = (
    "give the queue a PASID: SVA on (see the boot's log for 'Unable to turn on user SVA feature'),"
    " then enable the queue again; a program whose queue has none must use DMA addresses"
)
_HEX = r"0x[0-9a-f]+"

KERNEL_LINES = (
    Pattern(
        "dmar-fault",
        line(
            rf"\[(?P<kind>DMA (?:Read|Write))(?: (?:PASID (?P<pasid>{_HEX})|NO_PASID))?\] Request device"
            r" \[(?P<device>[0-9a-fx:.]+)\](?: PASID (?P<old_pasid>[0-9a-f]+))? fault addr (?P<addr>(?:0x)?[0-9a-f]+)"
            r" \[fault reason (?P<reason>(?:0x)?[0-9a-f]+)\]"
        ),
        "dmar_fault_do_one (drivers/iommu/intel/dmar.c)",
        "VT-d blocked an access of a device",
        rules_of=decoded.dmar_rules,
        decode=decoded.dmar_fault,
        remedy="dump the entry that the reason names (`pasidlab dump`, or /sys/kernel/debug/iommu/intel/"
        "dmar_translation_struct) and compare with a machine that works",
    ),
    Pattern(
        "page-request-without-pasid",
        line(r"(?P<unit>dmar\d+): Page request without PASID"),
        "prq_event_thread (drivers/iommu/intel/prq.c), to about 6.13",
        "a device asked for a page with no PASID, to which VT-d's driver answers Invalid Request by itself: the work"
        " came from a queue without PASID and has a process's addresses",
        rules=("prq.driver-invalid", "idxd.user-sva-refused", "idxd.user-queue-without-sva"),
        remedy=_NO_PASID_ON_QUEUE,
    ),
    Pattern(
        "invalid-page-request",
        line(r"dmar\d+: Invalid page request: (?P<low>[0-9a-f]{8,16}) (?P<high>[0-9a-f]{8,16})"),
        "handle_bad_prq_event (drivers/iommu/intel/prq.c)",
        "the request that VT-d's driver answered Invalid Request by itself",
        rules=("prq.driver-invalid",),
        decode=decoded.page_request,
        remedy=_NO_PASID_ON_QUEUE,
    ),
    Pattern(
        "page-request-refused",
        line(r"dmar\d+: (?:Address is not canonical|Page request in Privilege Mode|Execution request not supported)"),
        "prq_event_thread (drivers/iommu/intel/prq.c)",
        "VT-d's driver answers such a page request Invalid Request by itself",
        rules=("prq.driver-invalid",),
        remedy="look at the address that the program gave the device, and at the privilege bit of its descriptors",
    ),
    Pattern(
        "feature-inconsistent",
        line(r"IOMMU feature (?P<feature>\w+) inconsistent"),
        "check_dmar_capabilities (drivers/iommu/intel/cap_audit.c)",
        "the remapping units do not agree about a feature: what is decided for all units goes without, and devices"
        " behind a unit that lacks it have not got it",
        rules=("intel.feature-inconsistent", "intel.svm-no-pasid"),
        remedy="compare the units' ecap values in the boot's log (explain those lines, too); firmware can hide the"
        " feature in some units, so look for an option of its setup and for an update",
    ),
    Pattern(
        "unit",
        line(r"(?P<unit>dmar\d+): reg_base_addr [0-9a-f]+ ver [\d:]+ cap (?P<cap>[0-9a-f]+) ecap (?P<ecap>[0-9a-f]+)"),
        "dmar_parse_one_drhd (drivers/iommu/intel/dmar.c)",
        rules_of=decoded.unit_rules,
        decode=decoded.unit,
    ),
    Pattern(
        "svm-1g-pages",
        line(r"SVM disabled, incompatible 1GB page capability"),
        "intel_svm_check (drivers/iommu/intel/svm.c)",
        "a remapping unit cannot walk the CPUs' page tables",
        rules=("intel.svm-no-1g-pages",),
    ),
    Pattern(
        "svm-paging-mode",
        line(r"SVM disabled, incompatible paging mode"),
        "intel_svm_check (drivers/iommu/intel/svm.c)",
        "processes have page tables of 5 levels, and a remapping unit walks 4",
        rules=("intel.svm-no-5-level",),
        remedy="boot with no5lvl",
    ),
    Pattern(
        "flush-warning",
        line(r"iopf_queue_flush_dev"),
        "iopf_queue_flush_dev (drivers/iommu/io-pgfault.c)",
        "a driver drains page requests of a device that is in no fault queue, because page requests are off there",
        rules=("fault.flush-no-param",),
        remedy="a warning only, after which all is undone as usual; kernels whose IOMMU driver asks first do not print"
        " it (AMD: 6.10 and later)",
    ),
    Pattern(
        "fault-param-warning",
        line(r"iommu_report_device_fault"),
        "iommu_report_device_fault (drivers/iommu/io-pgfault.c)",
        "a device sends page requests, and its IOMMU driver has it in no fault queue",
        rules=("fault.no-fault-param", "fault.no-handler"),
    ),
    Pattern(
        "cd-too-narrow",
        line(r"arm_smmu_write_ctx_desc|ssid >= \(?1 << .*s1cdmax"),
        "arm_smmu_write_ctx_desc (drivers/iommu/arm/arm-smmu-v3)",
        "a context descriptor was to be written beyond the end of a device's table",
        rules=("explain.cd-written-to-narrow-member", "arm-smmu-v3.cd-out-of-bounds", "group.mixed-width"),
    ),
    Pattern(
        "unbind",
        line(r"iommu_sva_unbind_device"),
        "a trace through iommu_sva_unbind_device (drivers/iommu/iommu-sva.c)",
        "an unbind returns nothing, so it does not fail; a trace through it comes from a warning below it",
        rules=("explain.unbind-returns-nothing", "fault.flush-no-param"),
    ),
    Pattern(
        "ida-free",
        line(r"ida_free called for id=(?P<pasid>\d+) which is not allocated"),
        "ida_free (lib/idr.c)",
        "a number was freed that nobody holds: somebody freed it twice, or never had it",
        rules=("free-global.not-held",),
    ),
    Pattern(
        "smmu-event-named",
        line(r"event: (?P<name>\w+) client: (?P<client>.*?) sid: (?P<sid>0x[0-9a-f]+) ssid: (?P<ssid>0x[0-9a-f]+)"),
        "arm_smmu_dump_event (drivers/iommu/arm/arm-smmu-v3), about 6.14 and later",
        "an SMMU refused an access of a device",
        rules_of=decoded.smmu_rules,
        decode=decoded.smmu_named,
        remedy="look at the device's STE and CD (`pasidlab dump` shows what Linux writes there)",
    ),
    Pattern(
        "smmu-event-raw",
        line(r"event (?P<code>0x[0-9a-f]{2}) received:(?P<words>(?:.*0x[0-9a-f]{16}){4})?"),
        "arm_smmu_evtq_thread (drivers/iommu/arm/arm-smmu-v3)",
        "an SMMU refused an access of a device",
        rules_of=decoded.smmu_rules,
        decode=decoded.smmu_raw,
        follow=4,
        remedy="look at the device's STE and CD (`pasidlab dump` shows what Linux writes there)",
    ),
    Pattern(
        "smmu-page-request",
        line(r"sid (?P<sid>0x[0-9a-f]+)\.(?P<ssid>0x[0-9a-f]+): \[.*access at iova (?P<iova>0x[0-9a-f]+)"),
        "arm_smmu_handle_ppr (drivers/iommu/arm/arm-smmu-v3)",
        "a device sent a PCIe page request, which Linux's SMMU driver denies: it knows stalls only",
        rules=("arm-smmu-v3.pri-denied",),
        decode=decoded.smmu_pri,
        remedy="let the program touch or pin its memory before it gives it to the device",
    ),
    Pattern(
        "amd-event",
        line(
            r"Event logged \[(?P<name>IO_PAGE_FAULT|INVALID_DEVICE_REQUEST|INVALID_PPR_REQUEST|ILLEGAL_DEV_TABLE_ENTRY)"
            rf"(?: device={PCI})?(?: domain=0x[0-9a-f]+)?(?: pasid=(?P<pasid>0x[0-9a-f]+))?"
            r" address=(?P<addr>0x[0-9a-f]+)(?: flags=(?P<flags>0x[0-9a-f]+))?"
        ),
        "iommu_print_event (drivers/iommu/amd/iommu.c)",
        "AMD's IOMMU refused an access of a device; PASID 0 in the line is none",
        rules=("dma.no-entry", "amdxdna.pasid-valid-without-bond", "dma.rid-blocked"),
        decode=decoded.amd_event,
        remedy="see under which PASID the device worked and who was bound to it; a driver must not tag accesses with a"
        " PASID that it did not bind",
        iommu="amd-vi",
    ),
    Pattern(
        "general-protection",
        line(r"general protection fault"),
        "exc_general_protection (arch/x86/kernel/traps.c)",
        "where the instruction is ENQCMD, the process has no PASID, or its task cannot get it any more",
        call="enqcmd",
        result="SIGSEGV",
    ),
)

"""What an audit finds in hardware and firmware: paths, groups, units, widths.

Source: the kernel functions that each rule names, Linux 6.12.117 and 7.3.4; what SVA comes to is asked of the model.
Decided here: a device is said to starve where it has at most 255 usable numbers and another has more.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.audit.case import Case, Check, names
from pasidlab.audit.limits import Kind, bits_text
from pasidlab.audit.rows import Row
from pasidlab.description import ARM_SMMU_V3, INTEL_VTD, IommuSpec
from pasidlab.drivers.arm_smmu_v3.master import CTXDESC_LINEAR_BITS
from pasidlab.drivers.intel.svm import SVM_NO_5_LEVEL
from pasidlab.linux.pci_ats import PASID_NO_ACS, PASID_NO_PREFIX_PATH
from pasidlab.rules import WAS_READ, Finding, Level, Rule

NO_IOMMU = Rule(
    "audit.no-iommu",
    "iommu_sva_bind_device (drivers/iommu/iommu-sva.c)",
    "!dev->iommu_group of a device with PASIDs",
    "no IOMMU is in front of {devices}",
    source=WAS_READ,
    remedy="switch the IOMMU on in the firmware's setup (VT-d, AMD-Vi, SMMU) and do not turn it off on the command "
    "line; a virtual machine needs a virtual IOMMU",
    level=Level.ERROR,
)
NO_PREFIX_PATH = Rule(
    "audit.no-prefix-path",
    "pci_enable_pasid (drivers/pci/ats.c)",
    "!pdev->eetlp_prefix_max && !pdev->pasid_no_tlp (6.12: eetlp_prefix_path)",
    "PASIDs cannot travel between {devices} and the root: a port on the way has no end-to-end TLP prefixes",
    source=WAS_READ,
    remedy=PASID_NO_PREFIX_PATH.remedy,
    level=Level.ERROR,
)
NO_ACS_PATH = Rule(
    "audit.no-acs-path",
    "pci_enable_pasid (drivers/pci/ats.c)",
    "!pci_acs_path_enabled(pdev, NULL, PCI_ACS_RR | PCI_ACS_UF)",
    "PASID stays off in {devices}: a port on the way to the root does not redirect requests upstream (ACS)",
    source=WAS_READ,
    remedy=PASID_NO_ACS.remedy,
    level=Level.ERROR,
)
REFUSED = Rule(
    "audit.sva-refused",
    "iommu_sva_bind_device (drivers/iommu/iommu-sva.c) and what it calls",
    "the first bind on the machine after probe does not succeed in the model",
    "no process can be bound to {devices} ({result} by {rule}): {why}{remedy}",
    level=Level.ERROR,
)
UNIT_WIDTHS = Rule(
    "audit.unit-widths",
    "check_dmar_capabilities, intel_pasid_alloc_table (drivers/iommu/intel)",
    "intel_pasid_max_id is the smallest 2 << ecap_pss(iommu->ecap)",
    "remapping units take PASIDs of different widths ({widths}): the directories of all devices are made for {bits}",
    source=WAS_READ,
    remedy="look for a firmware update that makes the units alike; there is no option",
)
GROUP_BLOCKED = Rule(
    "audit.group-blocked",
    "iommu_attach_device_pasid (drivers/iommu/iommu.c)",
    "pasid >= device->dev->iommu->max_pasids of a member whose max_pasids is 1, or on kernels that do not skip it 0",
    "no number can be attached to {devices}: {fact}, and a number has to fit every member of group {group}",
    source=WAS_READ,
    remedy="move the device to a slot with ACS, where it is in a group of its own; a member without any PASIDs, and no "
    "width of 0, is passed over since about 6.16",
    level=Level.ERROR,
)
GROUP_WITHOUT = Rule(
    "audit.group-member-without",
    "iommu_attach_device_pasid (drivers/iommu/iommu.c)",
    "max_pasids == 0 of a member is skipped, about 6.16 and in stable kernels",
    "group {group} has members without PASIDs ({members}), which this kernel passes over; an older one refuses all",
    source=WAS_READ,
    remedy="keep a kernel that passes them over",
    level=Level.NOTE,
)
STALL_WITHOUT = Rule(
    "audit.stall-without-sva",
    "arm_smmu_probe_device (drivers/iommu/arm/arm-smmu-v3)",
    "dma-can-stall without pasid-num-bits",
    "firmware says that {devices} may stall, but gives no PASIDs: stalls serve SVA only, which they cannot have",
    source=WAS_READ,
    remedy="if the device has SubstreamIDs, let firmware give pasid-num-bits (IORT: substream width of the named "
    "component)",
    level=Level.NOTE,
)
NO_PROPERTY = Rule(
    "audit.no-pasid-property",
    "iommu_init_device (drivers/iommu/iommu.c)",
    "device_property_read_u32(dev, pasid-num-bits) fails",
    "firmware gives {devices} no pasid-num-bits: platform devices without it have no PASIDs",
    source=WAS_READ,
    remedy="if the device has SubstreamIDs, add pasid-num-bits to its node (IORT: substream width of the named "
    "component)",
    level=Level.NOTE,
)
LINEAR_TABLE = Rule(
    "audit.linear-table",
    "arm_smmu_write_cd_entry (drivers/iommu/arm/arm-smmu-v3)",
    "no two-level CD tables: ssid_bits is cut to 10, dev->iommu->max_pasids is not, and the driver checks neither",
    "{smmu} has linear CD tables of 1,024 entries, and the core lets {devices} have larger numbers: the 1,024th "
    "process makes the driver write beyond the table",
    source=WAS_READ,
    remedy="let firmware give these devices at most 10 bits, or bind fewer than 1,024 processes at a time",
    level=Level.ERROR,
)
FIVE_LEVEL = Rule(
    "audit.five-level",
    "intel_svm_check (drivers/iommu/intel/svm.c)",
    "X86_FEATURE_LA57 && !cap_fl5lp_support(iommu->cap)",
    "page tables of the kernel have 5 levels (57 bits), and there is no SVA behind units that walk 4 (48): {units}",
    source=WAS_READ,
    remedy="boot with no5lvl",
    level=Level.ERROR,
)
NARROWER = Rule(
    "audit.iommu-narrower",
    "iommu_init_device (drivers/iommu/iommu.c)",
    "dev->iommu->max_pasids is the smaller of device and IOMMU",
    "{iommu} takes numbers up to {last}, fewer than {devices} could carry",
    source=WAS_READ,
    remedy="nothing has to be done unless more processes shall be bound; what the IOMMU takes is fixed",
    level=Level.NOTE,
)
STARVED = Rule(
    "audit.starvation",
    "iommu_alloc_global_pasid (drivers/iommu/iommu.c)",
    "one machine-wide space, of which the lowest free number is taken whatever the device",
    "{devices} can have {numbers} only, which processes bound to wider devices ({wider}) can all hold: a bind is then "
    "refused on an idle device",
    source="thread 2026-04-24 Joonwon Kang (RFC, message 3); docs/thread.md R1",
    remedy="bind the narrow device early in each process that needs it, and end processes that hold low numbers",
)
IDENTITY = Rule(
    "audit.identity-domain",
    "arm_smmu_attach_dev_identity, arm_smmu_set_pasid (drivers/iommu/arm/arm-smmu-v3)",
    "the group's default domain is the identity domain, as with iommu.passthrough=1",
    "traffic of {devices} without PASID passes untranslated: SVA beside it needs S1DSS bypass, which old drivers lack",
    source=WAS_READ,
    remedy="use a kernel from about 6.11 on, or boot with iommu.passthrough=0",
    level=Level.NOTE,
)
_FEW = 255


def _of(rows: list[Row]) -> str:
    return names(row.device for row in rows)


def no_iommu(case: Case) -> Iterator[Finding]:
    """Devices with PASIDs behind no IOMMU."""
    alone = [row for row in case.carrying if row.iommu is None and row.limit.kind is not Kind.UNKNOWN]
    if alone:
        yield NO_IOMMU.finding(devices=_of(alone))


_PATHS = (
    (Kind.PREFIX_PATH, NO_PREFIX_PATH, "pci.no-tlp-prefix-path"),
    (Kind.ACS_PATH, NO_ACS_PATH, "pci.no-acs-path"),
)
"""Limits of a path, the rule that tells of each, and the rule by which an import does."""


def paths(case: Case) -> Iterator[Finding]:
    """Paths to the root that PASIDs cannot take, unless an import has told already which port is to blame."""
    for kind, rule, told in _PATHS:
        blocked = [row for row in case.carrying if row.limit.kind is kind]
        if blocked and not case.imported(told):
            yield rule.finding(devices=_of(blocked))


_TOLD_ELSEWHERE = frozenset({Kind.NO_IOMMU, Kind.PREFIX_PATH, Kind.ACS_PATH, Kind.KERNEL, Kind.GROUP, Kind.UNKNOWN})
"""Where a limit is that a finding of its own tells of."""


def refused(case: Case) -> Iterator[Finding]:
    """Devices on which the first bind fails, for a reason that no other finding tells."""
    by_rule: dict[tuple[str, str], list[Row]] = {}
    legacy = {iommu.name for iommu in case.spec.iommu if iommu.scalable is False}
    for row in case.carrying:
        told = row.limit.kind in _TOLD_ELSEWHERE or row.iommu in legacy or row.today.rule == SVM_NO_5_LEVEL.id
        if row.today.spaces == 0 and not told:
            by_rule.setdefault((row.limit.rule, row.today.rule), []).append(row)
    for (cause, rule), rows in by_rule.items():
        limit, today = rows[0].limit, rows[0].today
        why, remedy = (limit.fact, limit.remedy) if cause else (today.why, today.remedy)
        remedy = f"; {remedy}" if remedy else ""
        yield REFUSED.finding(devices=_of(rows), result=today.result, rule=rule, why=why, remedy=remedy)


def unit_widths(case: Case) -> Iterator[Finding]:
    """VT-d units with different widths of PASIDs."""
    units = [iommu for iommu in case.spec.iommu if iommu.model == INTEL_VTD and iommu.scalable is not False]
    by_bits: dict[int, list[str]] = {}
    for unit in units:
        by_bits.setdefault(unit.pasid_bits, []).append(unit.name)
    if len(by_bits) > 1:
        widths = "; ".join(f"{bits_text(bits)}: {names(by_bits[bits])}" for bits in sorted(by_bits, reverse=True))
        yield UNIT_WIDTHS.finding(widths=widths, bits=bits_text(min(by_bits)))


def groups(case: Case) -> Iterator[Finding]:
    """Groups whose members do not agree about having PASIDs."""
    by_group: dict[str, list[Row]] = {}
    for row in case.rows:
        if row.group is not None:
            by_group.setdefault(row.group, []).append(row)
    for group, rows in by_group.items():
        blocked = [row for row in rows if row.own and row.limit.kind is Kind.GROUP and row.limit.below <= 1]
        without = [row for row in rows if row.bits is None and row.limit.kind is not Kind.UNKNOWN]
        if blocked:
            yield GROUP_BLOCKED.finding(group=group, devices=_of(blocked), fact=blocked[0].limit.fact)
        elif without:
            yield GROUP_WITHOUT.finding(group=group, members=_of(without))


def platform_devices(case: Case) -> Iterator[Finding]:
    """Platform devices behind an SMMU that firmware gives no PASIDs."""
    smmus = {iommu.name for iommu in case.spec.iommu if iommu.model == ARM_SMMU_V3}
    bare = [
        device
        for device in case.spec.device
        if device.kind == "narrow"
        and device.iommu in smmus
        and not device.pasid_bits
        and device.name not in case.probed.unknown.pasids
    ]
    stalling = [device.name for device in bare if device.can_stall]
    silent = [device.name for device in bare if not device.can_stall and device.pasid_bits is None]
    if stalling:
        yield STALL_WITHOUT.finding(devices=names(stalling))
    if silent:
        yield NO_PROPERTY.finding(devices=names(silent))


def linear_tables(case: Case) -> Iterator[Finding]:
    """SMMUs whose linear CD tables are smaller than what the core lets devices have."""
    for smmu in case.iommus(ARM_SMMU_V3):
        if smmu.two_level is False:
            largest = 1 << CTXDESC_LINEAR_BITS
            beyond = [row for row in _behind(case, smmu) if min(row.own, row.of_iommu) >= largest]
            if beyond:
                yield LINEAR_TABLE.finding(smmu=smmu.name, devices=_of(beyond))


def five_level(case: Case) -> Iterator[Finding]:
    """Units that cannot walk the page tables of a kernel with 57 bits."""
    short = [unit.name for unit in case.iommus(INTEL_VTD) if unit.five_level is False]
    if case.spec.cpu.la57 and short:
        yield FIVE_LEVEL.finding(units=names(short))


def narrower(case: Case) -> Iterator[Finding]:
    """IOMMUs that take fewer numbers than the devices behind them could carry."""
    for iommu in case.spec.iommu:
        behind = _behind(case, iommu)
        wider = [row for row in behind if row.of_iommu and row.own > row.of_iommu + 1]
        if wider:
            yield NARROWER.finding(iommu=iommu.name, last=f"{wider[0].of_iommu:,}", devices=_of(wider))


def starved(case: Case) -> Iterator[Finding]:
    """Devices all of whose numbers can be held by processes that are bound elsewhere."""
    widest = max((row.usable for row in case.rows), default=0)
    by_count: dict[int, list[Row]] = {}
    for row in case.carrying:
        if row.limit.below > 1 and row.limit.below - 1 <= min(_FEW, widest - 1):
            by_count.setdefault(row.limit.below - 1, []).append(row)
    for count, rows in sorted(by_count.items()):
        wider = [row for row in case.rows if row.usable > count]
        numbers = "number 1" if count == 1 else f"the numbers 1..{count}"
        yield STARVED.finding(devices=_of(rows), numbers=numbers, wider=_of(wider))


def identity_domains(case: Case) -> Iterator[Finding]:
    """Devices behind an SMMU whose other traffic is not translated."""
    smmus = {iommu.name for iommu in case.iommus(ARM_SMMU_V3)}
    passing = [row for row in case.carrying if row.iommu in smmus and case.described(row).default_domain == "identity"]
    if passing:
        yield IDENTITY.finding(devices=_of(passing))


def _behind(case: Case, iommu: IommuSpec) -> list[Row]:
    return [row for row in case.carrying if row.iommu == iommu.name]


CHECKS: tuple[Check, ...] = (
    no_iommu,
    paths,
    refused,
    five_level,
    linear_tables,
    groups,
    unit_widths,
    starved,
    narrower,
    platform_devices,
    identity_domains,
)

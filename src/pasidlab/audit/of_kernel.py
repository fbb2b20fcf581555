"""What an audit finds in the kernel: its version, configuration and command line, numbers that it holds, portals.

Source: the kernel functions and options that each rule names, Linux 6.12.117 and 7.3.4; docs/thread.md section 3.
Decided here: which options a machine needs follows from what it has: the drivers' for IOMMUs and accelerators with
devices that carry PASIDs, those of PCI if such a device is on PCI. Command lines are looked at for words that turn off
what SVA needs; what a word does is in other keys of the description.
"""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.audit.case import Case, Check, names
from pasidlab.description import ARM_SMMU_V3, INTEL_VTD
from pasidlab.devices import Idxd
from pasidlab.devices.endpoint import PORTALS
from pasidlab.drivers.traits import Mode
from pasidlab.linux.kernel import Arch
from pasidlab.rules import WAS_READ, Finding, Level, Rule
from pasidlab.schemes import V2, Hybrid, Rfc, Scheme

REFUSES = Rule(
    "audit.kernel-refuses",
    "iommu_sva_bind_device (drivers/iommu/iommu-sva.c)",
    "IS_ENABLED(CONFIG_X86), in stable kernels",
    "kernel {kernel} refuses SVA on x86, whatever the hardware: {devices} cannot be bound",
    source="6.12.y stable (read); lifted in mainline by iommu_sva_invalidate_kva_range(), about 6.19",
    remedy="boot a kernel from 6.19 on",
    level=Level.ERROR,
)
CONFIG = Rule(
    "audit.kernel-config",
    "drivers/iommu/Kconfig, drivers/iommu/{arm,intel,amd}/Kconfig, drivers/pci/Kconfig, drivers/dma/Kconfig",
    "an option that this machine's SVA needs is not set",
    "the kernel was built without CONFIG_{option}: {why}",
    source=WAS_READ,
    remedy="build the kernel with it, or boot one that has it (zgrep CONFIG_ /proc/config.gz, or /boot/config-*)",
    level=Level.ERROR,
)
CONFIG_UNKNOWN = Rule(
    "audit.config-unknown",
    "key config of the description",
    "options that this machine's SVA needs are not named in it",
    "whether the kernel was built with {options} is not known; they are taken for set",
    remedy="import that kernel's /boot/config-* or /proc/config.gz, too, or name them in the machine's config table",
    level=Level.NOTE,
)
NO_PASIDS = Rule(
    "audit.no-pasids",
    "the devices of the description",
    "none has a PASID capability or property",
    "no device with PASIDs is known of this machine, so no process can be bound to any",
    remedy="capture as root, or take lspci -vvv as root: without it the kernel does not show a PASID capability; a "
    "virtual machine's devices have what its monitor gives them",
)
SCALABLE_OFF = Rule(
    "audit.scalable-mode-off",
    "pasid_supported, sm_supported (drivers/iommu/intel/iommu.h)",
    "!ecap_smts(iommu->ecap), or intel_iommu_sm is off",
    "without scalable mode a VT-d unit has no PASIDs, and it is off in {units}: {devices} cannot be bound",
    source=WAS_READ,
    remedy="boot with intel_iommu=on,sm_on, if ECAP has SMTS (bit 43); else look for it in the firmware's setup",
    level=Level.ERROR,
)
COMMAND_LINE = Rule(
    "audit.command-line",
    "the kernel's command line",
    "a word that turns off what SVA needs",
    "the kernel was booted with {word}: {why}",
    source="Documentation/admin-guide/kernel-parameters.txt (read)",
    remedy="take the word off the command line, unless it is there for a reason",
)
IDXD_NUMBERS = Rule(
    "audit.idxd-numbers",
    "idxd_enable_system_pasid (drivers/dma/idxd/init.c)",
    "iommu_alloc_global_pasid() at probe, once for each device",
    "{count} of the machine-wide space ({numbers}) since probe, for kernel work queues of {devices}",
    source=WAS_READ,
    remedy="nothing has to be done where devices carry many numbers; a narrow device gets none of these",
    level=Level.NOTE,
)
PORTAL = Rule(
    "audit.portal-unguarded",
    "option guard of the schemes",
    "a portal that takes the number of ENQCMD or ST64BV0, on a device with numbers of its own",
    "under {schemes} with guard {guard}, a process that maps the portal of {devices} can send its number to a device "
    "on which that number is another process's",
    source="docs/thread.md section 3 (R11)",
    remedy="use guard mmap, range or declared with v2 and hybrid; rfc is helped by declared only",
)

_NEEDED = {
    "IOMMU_SVA": "iommu_sva_bind_device() is a stub that answers ENODEV",
    "ARM_SMMU_V3_SVA": "the SMMU's driver has no SVA",
    "INTEL_IOMMU_SVM": "VT-d's driver has no SVA",
    "AMD_IOMMU": "there is no driver for AMD's IOMMU",
    "PCI_PASID": "PCI devices have no PASIDs",
    "PCI_ATS": "PCI devices have no ATS, and PASIDs need it to be built",
    "INTEL_IDXD_SVM": "idxd gives user space no PASIDs",
}
"""The options that SVA can need, and what is without each."""


def _needed(case: Case) -> list[str]:
    """Return the options that the machine's devices with PASIDs need, those that everything needs first."""
    rows = case.carrying
    if not rows:
        return []
    amd = any(iommu.ops is Mode.AMD_VI for iommu in case.iommus("mock"))
    pci = any(row.kind != "narrow" for row in rows)
    wanted = {
        "IOMMU_SVA": True,
        "ARM_SMMU_V3_SVA": bool(case.iommus(ARM_SMMU_V3)),
        "INTEL_IOMMU_SVM": bool(case.iommus(INTEL_VTD)),
        "AMD_IOMMU": amd,
        "PCI_PASID": pci,
        "PCI_ATS": pci,
        "INTEL_IDXD_SVM": any(row.kind in ("dsa", "iaa") for row in rows),
    }
    return [option for option, needed in wanted.items() if needed]


def kernel_refuses(case: Case) -> Iterator[Finding]:
    """A stable kernel that refuses SVA on x86."""
    kernel = case.probed.machine.kernel
    if kernel.profile.x86_sva_refused and kernel.arch is Arch.X86 and case.carrying:
        yield REFUSES.finding(kernel=case.spec.kernel, devices=names(row.device for row in case.carrying))


def no_pasids(case: Case) -> Iterator[Finding]:
    """A machine without any device that SVA is for; an empty description is none."""
    spec = case.spec
    if not case.rows and (spec.device or spec.iommu or spec.config or spec.cmdline):
        yield NO_PASIDS.finding()


def configuration(case: Case) -> Iterator[Finding]:
    """Options that are missing, and those of which nothing is known."""
    needed = _needed(case)
    for option in needed:
        if case.spec.config.get(option) is False:
            yield CONFIG.finding(option=option, why=_NEEDED[option])
    unknown = [f"CONFIG_{option}" for option in needed if option not in case.spec.config]
    if unknown:
        yield CONFIG_UNKNOWN.finding(options=names(unknown))


def scalable_mode(case: Case) -> Iterator[Finding]:
    """VT-d units that are not in scalable mode, unless an import has told why."""
    if case.imported("kernel.scalable-mode-off"):
        return
    off = [unit.name for unit in case.iommus(INTEL_VTD) if unit.scalable is False]
    behind = [row.device for row in case.carrying if row.iommu in off]
    if off:
        yield SCALABLE_OFF.finding(units=names(off), devices=names(behind))


_WORDS = {
    ("intel_iommu", "off"): ("VT-d is off, and with it all PASIDs", "kernel.iommu-off"),
    ("intel_iommu", "sm_off"): ("VT-d's scalable mode is off, and with it all PASIDs", "kernel.scalable-mode-off"),
    ("amd_iommu", "off"): ("AMD's IOMMU is off, and with it all PASIDs", "kernel.iommu-off"),
    ("iommu", "off"): ("IOMMUs are off, and with them all PASIDs", "kernel.iommu-off"),
    ("pci", "noats"): ("ATS is off, which SVA behind VT-d and AMD's IOMMU needs", "kernel.ats-off"),
}
"""Words of command lines, key and one of its values: what each does, and the rule by which an import tells of it."""


def command_line(case: Case) -> Iterator[Finding]:
    """Words of the command line that turn off what SVA needs."""
    if not case.carrying:
        return
    for word in dict.fromkeys(case.spec.cmdline.split()):
        key, _, values = word.partition("=")
        for value in values.split(","):
            why, told = _WORDS.get((key, value), ("", ""))
            if why and not case.imported(told):
                yield COMMAND_LINE.finding(word=word, why=why)


def idxd_numbers(case: Case) -> Iterator[Finding]:
    """Numbers that idxd holds since probe."""
    endpoints = case.probed.machine.endpoints
    held = {
        endpoint.kernel_pasid: name
        for name, endpoint in endpoints.items()
        if isinstance(endpoint, Idxd) and endpoint.kernel_pasid is not None
    }
    if held:
        count = "1 number" if len(held) == 1 else f"{len(held):,} numbers"
        numbers = names(str(number) for number in sorted(held))
        yield IDXD_NUMBERS.finding(count=f"idxd holds {count}", numbers=numbers, devices=names(held.values()))


_UNGUARDED: dict[str, tuple[type[Scheme], ...]] = {
    "none": (Rfc, V2, Hybrid),
    "mmap": (Rfc,),
    "range": (Rfc,),
    "declared": (),
}
"""Which schemes leave the portal hole open under each guard (docs/thread.md, R11)."""


def portals(case: Case) -> Iterator[Finding]:
    """Portals of devices that have numbers of their own under a scheme whose guard does not close the hole."""
    options = case.spec.options
    open_under: dict[str, list[str]] = {}
    for row in case.carrying:
        dev = case.probed.device(row.device)
        if row.usable and case.described(row).submits in PORTALS:
            local = [kind.name for kind in _UNGUARDED[options.guard] if kind(options).has_own_space(dev)]
            open_under.setdefault(", ".join(local), []).append(row.device)
    for schemes, devices in open_under.items():
        if schemes:
            yield PORTAL.finding(schemes=schemes, guard=options.guard, devices=names(devices))


CHECKS: tuple[Check, ...] = (
    no_pasids,
    kernel_refuses,
    configuration,
    scalable_mode,
    command_line,
    portals,
    idxd_numbers,
)

"""drivers/pci/ats.c: the PASID capability of a PCI function, and whether it can be switched on.

Source: pci_max_pasids(), pci_pasid_features(), pci_enable_pasid(), pci_prg_resp_pasid_required() (drivers/pci/ats.c),
pci_configure_eetlp_prefix() (drivers/pci/probe.c), include/linux/pci-ats.h for kernels without CONFIG_PCI_PASID, Linux
6.12 and 7.3; who calls it: arm_smmu_enable_pasid(), iommu_enable_pci_pasid() of VT-d, and AMD's at attach.
Decided here: a function that the kernel knows by a quirk (`pasid_no_tlp`) is one whose path passes prefixes. A platform
device behind VT-d, which no machine has, answers as a PCIe function with a capability as wide as its property says.
Not modelled: pci_disable_pasid(); restoring after a reset.
"""

from __future__ import annotations

from pasidlab.errors import Errno
from pasidlab.linux.structs import Device
from pasidlab.rules import WAS_READ, Refusal, Rule

PCI_PASID_CAP_EXEC, PCI_PASID_CAP_PRIV = 0x2, 0x4
"""Execute permission and privileged mode, as capability and control register have them."""

_ENABLE = "pci_enable_pasid (drivers/pci/ats.c)"
PASID_NOT_BUILT = Rule(
    "enable-pasid.not-built",
    "pci_enable_pasid (include/linux/pci-ats.h)",
    "!IS_ENABLED(CONFIG_PCI_PASID)",
    "the kernel was built without CONFIG_PCI_PASID, so {dev} has no PASIDs",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="boot a kernel with CONFIG_PCI_PASID; the IOMMU drivers of x86 select it, on arm64 it is set by hand",
)
PASID_VF_OF_DISABLED_PF = Rule(
    "enable-pasid.physfn-off",
    _ENABLE,
    "pdev->is_virtfn && !pci_physfn(pdev)->pasid_enabled",
    "{dev} is a virtual function, which shares the PASID switch of {physfn}, and there it is off",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="see why PASID is off in {physfn}; its IOMMU driver has to meet it before the virtual function",
)
PASID_ALREADY_ENABLED = Rule(
    "enable-pasid.already",
    _ENABLE,
    "WARN_ON(pdev->pasid_enabled)",
    "PASID is on in {dev} already",
    Errno.EBUSY,
    source=WAS_READ,
    remedy="leave the call out: IOMMU drivers enable PASID when they meet a device, and device drivers do not",
)
PASID_NO_PREFIX_PATH = Rule(
    "enable-pasid.no-prefix-path",
    _ENABLE,
    "!pdev->eetlp_prefix_max && !pdev->pasid_no_tlp (6.12: eetlp_prefix_path)",
    "{dev}, or a port between it and the root, does not support end-to-end TLP prefixes, in which PASIDs travel",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="use a slot whose ports all say EETLPPrefix+ in lspci -vvv (DevCap2), or let the virtual machine monitor "
    "offer it in each of its ports",
)
PASID_NO_CAPABILITY = Rule(
    "enable-pasid.no-capability",
    _ENABLE,
    "!pdev->pasid_cap",
    "{dev} has no PASID capability",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="look for it with lspci -vvv as root (Process Address Space ID); firmware of the device may hide it, and a "
    "virtual machine has to be given it",
)
PASID_NO_ACS = Rule(
    "enable-pasid.no-acs",
    _ENABLE,
    "!pci_acs_path_enabled(pdev, NULL, PCI_ACS_RR | PCI_ACS_UF)",
    "a port between {dev} and the root does not redirect requests upstream (ACS), so they could pass the IOMMU by",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="switch ACS on in the firmware's setup, take pci=disable_acs_redir= off the command line, or use a "
    "slot below a port of its own",
)
PASID_FEATURES = Rule(
    "enable-pasid.features",
    _ENABLE,
    "(supported & features) != features",
    "{dev} lacks what was asked for with PASID: {lacking}",
    Errno.EINVAL,
    source=WAS_READ,
    remedy="ask only for what pci_pasid_features() returns",
)
PASID_FAILED = Rule(
    "enable-pasid.failed",
    _ENABLE,
    "the machine's description says pasid_enabled = false",
    "pci_enable_pasid() failed for {dev}, and nothing known of the machine says why",
    Errno.EINVAL,
    remedy="compare lspci -vvv of {dev} and of each port above it: PASIDCtl Enable, EETLPPrefix in DevCap2, ACSCtl",
)
PASID_NOBODY_ASKS = Rule(
    "enable-pasid.nobody-asks",
    "the IOMMU driver's probe",
    "no IOMMU in front of the device, or one without PASIDs",
    "no IOMMU driver switches PASID on in {dev}: {cause}",
    Errno.ENODEV,
    remedy="switch the IOMMU on in the firmware's setup and on the kernel's command line (intel_iommu=on,sm_on "
    "for VT-d)",
)
PASID_ENABLED = Rule(
    "enable-pasid.done",
    _ENABLE,
    "PCI_PASID_CTRL_ENABLE is written",
    "PASID is on in {dev}",
    source=WAS_READ,
)


def _function(dev: Device) -> Device:
    """Return the function whose capability counts: that of the physical one."""
    return dev.physfn or dev


def pasid_width(dev: Device) -> int | None:
    """Return Max PASID Width of the capability that a function has or shares; None without it or CONFIG_PCI_PASID."""
    if "PCI_PASID" in dev.kernel.not_built:
        return None
    function = _function(dev)
    return function.pci_pasid_width if function.pci else function.pasid_num_bits


def pci_max_pasids(dev: Device) -> int:
    """Return `1 << Width` of the PASID capability, a VF's being that of its PF; 0 without the capability."""
    width = pasid_width(dev)
    return 0 if width is None else 1 << width


def pci_pasid_features(dev: Device) -> int | None:
    """Return what else the capability offers, execute permission and privileged mode; None without the capability."""
    return None if pasid_width(dev) is None else _function(dev).pasid_features


def pci_pasid_enabled(dev: Device) -> bool:
    """Whether a function sends PASIDs: a virtual one shares the switch of its physical one."""
    return _function(dev).pasid_enabled


def pci_prg_resp_pasid_required(dev: Device) -> bool:
    """Whether a function wants the PASID in answers to its page requests, without which VT-d leaves them off."""
    return _function(dev).pasid_required


def pci_enable_pasid(dev: Device, features: int = 0) -> Refusal | None:
    """Switch PASID on, with these features of the capability."""
    refusal = why_not_enabled(dev, features)
    if refusal is None:
        _function(dev).pasid_enabled = True
    return refusal


def why_not_enabled(dev: Device, features: int = 0) -> Refusal | None:
    """Make the checks of pci_enable_pasid() in its order, then see if it is known to fail; change nothing."""
    if "PCI_PASID" in dev.kernel.not_built:
        return PASID_NOT_BUILT.refuse(dev=dev.name)
    if dev.physfn is not None:
        enabled = dev.physfn.pasid_enabled
        return None if enabled else PASID_VF_OF_DISABLED_PF.refuse(dev=dev.name, physfn=dev.physfn.name)
    checks = (
        (not dev.pasid_enabled, PASID_ALREADY_ENABLED),
        (dev.prefix_path, PASID_NO_PREFIX_PATH),
        (pasid_width(dev) is not None, PASID_NO_CAPABILITY),
        (dev.acs_path, PASID_NO_ACS),
    )
    for passed, rule in checks:
        if not passed:
            return rule.refuse(dev=dev.name)
    lacking = features & ~dev.pasid_features
    if lacking:
        return PASID_FEATURES.refuse(dev=dev.name, lacking=_feature_text(lacking))
    return PASID_FAILED.refuse(dev=dev.name) if dev.pasid_fails else None


def _feature_text(features: int) -> str:
    names = ((PCI_PASID_CAP_EXEC, "execute permission"), (PCI_PASID_CAP_PRIV, "privileged mode"))
    return ", ".join(name for bit, name in names if features & bit) or f"{features:#x}"


def enable_pasid_at_probe(dev: Device) -> bool:
    """Do what IOMMU drivers do with a function that has PASIDs: switch them on, with all that the function offers."""
    features = pci_pasid_features(dev)
    if features is None:
        return False
    dev.pasid_refused = pci_enable_pasid(dev, features)
    return dev.pasid_refused is None


def pasid_off_cause(dev: Device) -> str:
    """Say why PASID is off in a device, as far as its probe tells."""
    if dev.pasid_refused is not None:
        return dev.pasid_refused.why
    refusal = None if pci_pasid_enabled(dev) else why_not_enabled(dev)
    return "" if refusal is None else refusal.why


def probed_pasid(dev: Device) -> Refusal | None:
    """Return what a device's probe got from pci_enable_pasid(); where nobody called it, what a call would get."""
    if dev.pasid_refused is not None:
        return dev.pasid_refused
    if pci_pasid_enabled(dev):
        return None
    cause = "it is behind none" if dev.iommu is None else f"{dev.iommu.name} works without PASIDs"
    return why_not_enabled(dev) or PASID_NOBODY_ASKS.refuse(dev=dev.name, cause=cause)

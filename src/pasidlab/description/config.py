"""Options that a kernel is built with, as far as they bear on PASIDs, and what is missing for lack of one.

Source: drivers/iommu/Kconfig, drivers/iommu/{arm,intel,amd}/Kconfig, drivers/pci/Kconfig, arch/x86/Kconfig,
arch/arm64/Kconfig, Linux 6.12 to 7.3.
Decided here: an option that a description does not name is built in, unless nothing can have selected it: IOMMU_SVA
where every option that selects it on this architecture is off, PCI_PASID without PCI_ATS.
"""

from __future__ import annotations

from pasidlab.description.spec import MachineSpec, architecture
from pasidlab.errors import InputError

EFFECTS: dict[str, str] = {
    "IOMMU_SVA": "without it no process can be bound to any device: ENODEV",
    "ARM_SMMU_V3_SVA": "without it an arm-smmu-v3 shares no page tables; on arm64 it is what selects IOMMU_SVA",
    "INTEL_IOMMU_SVM": "without it an intel-vtd shares no page tables; on x86 it or AMD_IOMMU selects IOMMU_SVA",
    "AMD_IOMMU": "on x86 it or INTEL_IOMMU_SVM selects IOMMU_SVA",
    "PCI_PASID": "without it PCI devices have no PASIDs",
    "PCI_ATS": "without it PCI devices have neither ATS nor PASIDs",
}
"""The options that have an effect in the model, and which."""
KERNEL_OPTIONS: tuple[str, ...] = (
    *EFFECTS,
    "ARM64_4K_PAGES",
    "ARM64_16K_PAGES",
    "ARM64_64K_PAGES",
    "ADDRESS_MASKING",
    "ARM_SMMU_V3",
    "ARM_SMMU_V3_IOMMUFD",
    "ARCH_HAS_CPU_PASID",
    "CRYPTO_DEV_HISI_QM",
    "DMAR_TABLE",
    "DRM_ACCEL_AMDXDNA",
    "INTEL_IDXD",
    "INTEL_IDXD_SVM",
    "INTEL_IOMMU",
    "INTEL_IOMMU_DEBUGFS",
    "INTEL_IOMMU_DEFAULT_ON",
    "INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON",
    "IOMMUFD",
    "IOMMU_DEBUGFS",
    "IOMMU_DEFAULT_DMA_LAZY",
    "IOMMU_DEFAULT_DMA_STRICT",
    "IOMMU_DEFAULT_PASSTHROUGH",
    "IOMMU_IOPF",
    "IOMMU_SUPPORT",
    "MMU_NOTIFIER",
    "PCI_IOV",
    "PCI_PRI",
    "RISCV_IOMMU",
    "UACCE",
    "UIO_PCI_GENERIC_SVA",
    "VIRTIO_IOMMU",
    "X86_5LEVEL",
)
"""The options that a description may name; those without an effect are kept for people and for `explain`."""
_SELECT_SVA = {"arm64": ("ARM_SMMU_V3_SVA",), "x86": ("INTEL_IOMMU_SVM", "AMD_IOMMU")}


def check_config(spec: MachineSpec) -> None:
    """Raise InputError for an option that is not known."""
    for name in spec.config:
        if name not in KERNEL_OPTIONS:
            short = name.removeprefix("CONFIG_")
            hint = f"; write it as {short}" if short in KERNEL_OPTIONS else ""
            raise InputError(f"config.{name}: no such option{hint}; known: {', '.join(KERNEL_OPTIONS)}")


def not_built(spec: MachineSpec) -> frozenset[str]:
    """Return the options with an effect that the kernel was built without."""
    off = {name for name in EFFECTS if spec.config.get(name) is False}
    if "IOMMU_SVA" not in spec.config and off.issuperset(_SELECT_SVA[architecture(spec)]):
        off.add("IOMMU_SVA")
    if "PCI_ATS" in off and "PCI_PASID" not in spec.config:
        off.add("PCI_PASID")
    return frozenset(off)

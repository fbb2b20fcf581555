"""cap_audit.c: what all units of a machine have in common, and what they do not agree about.

Source: intel_cap_audit(), check_dmar_capabilities() (drivers/iommu/intel/cap_audit.c) and intel_pasid_max_id,
Linux 6.12.117.
Decided here: the comparison is made under any profile; what later kernels decide by unit does not ask it.
Not modelled: units that are plugged in later (an inferior one is refused), the audit of interrupt remapping.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.hw.vtd.registers import Cap, Ecap
from pasidlab.linux.kernel import Kernel
from pasidlab.rules import Rule

PASID_MAX = 1 << 20

FEATURE_INCONSISTENT = Rule(
    "intel.feature-inconsistent",
    "check_dmar_capabilities (drivers/iommu/intel/cap_audit.c)",
    "CHECK_FEATURE_MISMATCH(a, b, ...): one unit has the feature, the other has not",
    "dmar: IOMMU feature {name} inconsistent: {first} and {second} differ; what is decided for all units goes without",
    source="6.12.117 (read)",
    remedy="compare the units' ecap in the boot's log; look for an option of the firmware's setup and for an update,"
    " since firmware can hide what a unit can do",
)

CAP_FEATURES = {
    "fl5lp_support": "fs5lp",
    "fl1gp_support": "fs1gp",
    "read_drain": "drd",
    "write_drain": "dwd",
    "pgsel_inv": "psi",
    "zlr": "zlr",
    "caching_mode": "cm",
}
"""Features of CAP that are compared, by the kernel's names."""
ECAP_FEATURES = {
    "rps": "rps",
    "smpwc": "smpwcs",
    "flts": "fsts",
    "slts": "ssts",
    "nwfs": "nwfs",
    "slads": "ssads",
    "smts": "smts",
    "pds": "pds",
    "pasid": "pasid",
    "eafs": "eafs",
    "srs": "srs",
    "ers": "ers",
    "prs": "prs",
    "nest": "nest",
    "pass_through": "pt",
    "dev_iotlb_support": "dt",
    "qis": "qi",
    "coherent": "c",
}
"""Features of ECAP that are compared, by the kernel's names."""
CAP_MINIMA = ("nd", "sagaw", "mgaw", "ssls2m", "ssls1g", "nfr", "mamv")
ECAP_MINIMA = ("pss", "mhmv")
"""Values of which the machine has the smallest."""


@dataclass(slots=True, eq=False, repr=False)
class CapAudit:
    """The capabilities of a machine: of each feature, and of each value, the least that a unit has.

    Attributes:
        cap, ecap: intel_iommu_cap_sanity and intel_iommu_ecap_sanity; None before the first unit.
        pasid_max_id: intel_pasid_max_id, for which directories of PASIDs are made.
        first: name and capabilities of the first unit, with which others are compared.
    """

    cap: Cap | None = None
    ecap: Ecap | None = None
    pasid_max_id: int = PASID_MAX
    first: tuple[str, Cap, Ecap] | None = None

    def add(self, kernel: Kernel, name: str, cap: Cap, ecap: Ecap) -> None:
        """Take a unit into account, comparing it with the first."""
        if ecap.smts and ecap.pasid:
            self.pasid_max_id = min(self.pasid_max_id, 2 << ecap.pss)
        if self.first is None or self.cap is None or self.ecap is None:
            self.first, self.cap, self.ecap = (name, cap, ecap), cap, ecap
            return
        first, first_cap, first_ecap = self.first
        differing = _differing(first_cap, cap, CAP_FEATURES) + _differing(first_ecap, ecap, ECAP_FEATURES)
        for feature in differing:
            kernel.found(FEATURE_INCONSISTENT, name=feature, first=first, second=name)
        self.cap = self.cap.replace(**_least(self.cap, cap, (*CAP_FEATURES.values(), *CAP_MINIMA)))
        self.ecap = self.ecap.replace(**_least(self.ecap, ecap, (*ECAP_FEATURES.values(), *ECAP_MINIMA)))


def _differing(first: Cap | Ecap, second: Cap | Ecap, features: dict[str, str]) -> list[str]:
    return [name for name, bit in features.items() if getattr(first, bit) != getattr(second, bit)]


def _least(known: Cap | Ecap, added: Cap | Ecap, names: tuple[str, ...]) -> dict[str, int]:
    return {name: min(getattr(known, name), getattr(added, name)) for name in names}

"""What an import could not find out of a machine, by its findings: what is not known must not be taken for not there.

An import says so in a `[[finding]]` whose sentence begins with the name of the device that it is about, or that holds
for all. Here is where these are told apart, so that an audit and an explanation say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pasidlab.description.spec import FindingSpec

PROPERTY_UNKNOWN = "import.property-unknown"
"""Rule of a device of which no source tells whether it has PASIDs: `NAME: ...`."""
NO_SUCH_IOMMU = "import.no-such-iommu"
"""Rule of a device whose IOMMU no source describes: `NAME is behind ...`."""
NO_IOMMU = "import.no-iommu"
"""Rule of a machine of which no source describes an IOMMU."""
UNREADABLE = "pci.unreadable"
"""Rule of a machine some of whose PCI functions have capabilities that were not read."""
OF_A_DEVICE = {PROPERTY_UNKNOWN: ": ", NO_SUCH_IOMMU: " is behind "}
"""Rules whose sentences begin with the name of a device, and what ends it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What is not known of a machine, each with the sentence of the finding that says so.

    Attributes:
        pasids: of devices whose PASIDs are not known, by name.
        iommus: of devices whose IOMMU is not known, by name.
        any_iommu: of a machine whose IOMMUs are not known at all; empty where they are.
        functions: of a machine with PCI functions whose capabilities were not read; empty where all were.
    """

    pasids: dict[str, str]
    iommus: dict[str, str]
    any_iommu: str
    functions: str

    def iommu(self, device: str) -> str:
        """Return why the IOMMU of a device that is described without one is not known; empty where it has none."""
        return self.iommus.get(device) or self.any_iommu

    @classmethod
    def of(cls, findings: Sequence[FindingSpec]) -> Unknown:
        """Return what the findings of a description say that is not known."""
        return cls(
            _by_device(findings, PROPERTY_UNKNOWN),
            _by_device(findings, NO_SUCH_IOMMU),
            _first(findings, NO_IOMMU),
            _first(findings, UNREADABLE),
        )


def _by_device(findings: Sequence[FindingSpec], rule: str) -> dict[str, str]:
    return {found.why.partition(OF_A_DEVICE[rule])[0]: found.why for found in findings if found.rule == rule}


def _first(findings: Sequence[FindingSpec], rule: str) -> str:
    return next((found.why for found in findings if found.rule == rule), "")

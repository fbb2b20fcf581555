"""What the checks of an audit look at: the description, the machine after probe, and the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pasidlab.audit.rows import Probed, Row
from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec
from pasidlab.rules import Finding, listed


@dataclass(frozen=True, slots=True)
class Case:
    """See the module docstring."""

    spec: MachineSpec
    probed: Probed
    rows: Sequence[Row]

    @property
    def carrying(self) -> list[Row]:
        """The rows of devices that have PASIDs of their own."""
        return [row for row in self.rows if row.own]

    def imported(self, rule: str) -> bool:
        """Whether an import has found something by this rule already."""
        return any(one.rule == rule for one in self.spec.finding)

    def described(self, row: Row) -> DeviceSpec:
        """Return the description of a row's device."""
        return self.probed.described[row.device]

    def iommus(self, model: str) -> list[IommuSpec]:
        """Return the IOMMUs of one model that devices with PASIDs are behind."""
        used = {row.iommu for row in self.carrying}
        return [iommu for iommu in self.spec.iommu if iommu.model == model and iommu.name in used]


Check = Callable[[Case], Iterator[Finding]]
"""A check of an audit: what it finds, in the order of the description."""


def names(items: Iterable[str]) -> str:
    """List names for a sentence; many are counted."""
    return listed(list(items))

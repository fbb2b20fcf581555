"""One PCI function, however it was read: from sysfs, from a dump of bytes, or from what lspci prints.

Decided here: what a source does not tell is None, and `topology` works it out of the other functions where it can.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.platforms.pci.config import ConfigSpace
from pasidlab.platforms.pci.words import ExpressCapability, PortType
from pasidlab.platforms.said import Rid

INTEL = 0x8086
DSA_IDS = frozenset({0x0B25, 0x11FB, 0x1212})
IAA_IDS = frozenset({0x0CFE, 0x1216, 0xB02D, 0xFD2D})
"""Intel's devices that the idxd driver takes (Linux, drivers/dma/idxd/init.c and registers.h)."""


@dataclass(frozen=True, slots=True)
class Function:
    """One PCI function.

    Attributes:
        config: its configuration space.
        origin: where the source names it.
        parent: the bridge above it, where the source says so (sysfs).
        at_root: the source says that there is no bridge above it.
        physfn: of a virtual function, its physical one, where the source says so.
        driver: that is bound to it.
        group: its IOMMU group.
    """

    rid: Rid
    config: ConfigSpace
    origin: str
    parent: Rid | None = None
    at_root: bool = False
    physfn: Rid | None = None
    driver: str | None = None
    group: str | None = None

    @property
    def vendor_id(self) -> int | None:
        """Vendor ID."""
        return self.config.header.vendor_id

    @property
    def device_id(self) -> int | None:
        """Device ID."""
        return self.config.header.device_id

    @property
    def buses(self) -> tuple[int, int] | None:
        """Secondary and subordinate bus of a bridge; None is no bridge, or one without buses."""
        return self.config.header.buses

    @property
    def port_type(self) -> PortType | None:
        """Device/Port Type; None is not PCI Express, or not known."""
        express = self.config.get(ExpressCapability)
        return None if express is None else express.port_type

    @property
    def kind(self) -> str:
        """What a machine description calls such a device: dsa, iaa or pcie."""
        if self.vendor_id == INTEL and self.device_id in DSA_IDS:
            return "dsa"
        if self.vendor_id == INTEL and self.device_id in IAA_IDS:
            return "iaa"
        return "pcie"

    @property
    def unknown(self) -> bool:
        """Whether some of its capabilities are not known."""
        return not self.config.extended_known

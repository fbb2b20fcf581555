"""A generic PCIe function with a PASID capability; by its `submit` a register device or a portal device.

Source: PCIe PASID TLP prefix; drivers like uacce and amdxdna for the register way.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.devices.endpoint import Endpoint


@dataclass(slots=True, eq=False, repr=False)
class PcieEndpoint(Endpoint):
    """A PCIe function; one that does not bear on ENQCMD unless it says so."""

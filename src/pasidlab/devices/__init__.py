"""Endpoints: the device that does work under a PASID, and the kernel driver that gives it one."""

from pasidlab.devices.endpoint import Access, Endpoint, SubmitBy, Work
from pasidlab.devices.idxd import Idxd
from pasidlab.devices.narrow import Narrow
from pasidlab.devices.pcie_endpoint import PcieEndpoint

__all__ = ["Access", "Endpoint", "Idxd", "Narrow", "PcieEndpoint", "SubmitBy", "Work"]

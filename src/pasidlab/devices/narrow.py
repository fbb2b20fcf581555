"""The thread's device: on the platform bus, with 1 to 3 SSIDs, told its SSID by the kernel in a way of its own.

Source: the RFC's environment (thread, message 3): not PCIe, wants SVA, `pasid-num-bits` of 1 or 2, a custom way
by which the kernel passes the SSID to the device. It has no portal unless the scenario gives it one to study.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.devices.endpoint import Endpoint


@dataclass(slots=True, eq=False, repr=False)
class Narrow(Endpoint):
    """A platform accelerator; its driver programs a register with the number of each bond."""

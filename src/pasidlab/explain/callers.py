"""Drivers between a program and the kernel's call, and what they make of an errno.

Source: drivers/dma/idxd, drivers/misc/uacce, drivers/accel/amdxdna, drivers/uio/uio_pci_generic_sva.c,
drivers/iommu/iommufd, Linux 6.12.117 and 7.3.4 (read).
Not read: NVIDIA's drivers, of which only what their users report is known.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.errors import Errno


@dataclass(frozen=True, slots=True)
class Caller:
    """A driver that passes a call's answer on.

    Attributes:
        name: the driver.
        text: what it makes of an answer, in a sentence.
        gives: the errno that it gives whatever it got; None where it passes the answer on.
        rule: the rule that says so.
        own: errnos that it gives by itself, with the rule of each.
    """

    name: str
    text: str
    gives: Errno | None = None
    rule: str = ""
    own: tuple[tuple[Errno, str], ...] = ()


IDXD = Caller(
    "idxd", "open() passes the errno on; at probe the driver prints it, goes on, and refuses shared queues later"
)
UACCE = Caller(
    "uacce",
    "open() passes the errno on",
    own=((Errno.ENODEV, "uacce.pasid-invalid"), (Errno.EINVAL, "uacce.parent-gone")),
)
ACCEL = Caller(
    "amdxdna",
    "kernels to 7.0 pass the errno on; 7.3 gives EINVAL for all of them and prints the number",
    gives=Errno.EINVAL,
    rule="amdxdna.always-einval",
)
UIO = Caller(
    "uio_pci_generic_sva",
    "gives EINVAL for all of them and prints nothing",
    gives=Errno.EINVAL,
    rule="uio-pci-generic-sva.always-einval",
)
NVIDIA = Caller("nvidia", "nothing is printed; cuInit() gives 3 (not initialized) whatever it was")
IOMMUFD = Caller(
    "iommufd",
    "passes the errno on; EINVAL also where the domain does not go together with that of the traffic without PASID",
)

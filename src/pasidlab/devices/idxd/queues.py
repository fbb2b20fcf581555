"""Work queues as the device has them: what WQCFG said when the queue was enabled, and the descriptors that wait.

Source: drivers/dma/idxd/registers.h (v6.12 and v7.3); Intel DSA architecture specification on shared and dedicated
queues.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from pasidlab.devices.idxd.descriptors import Flags
from pasidlab.devices.idxd.registers import Wqcfg, WqMode


class Entry(NamedTuple):
    """A descriptor in a queue, with what its requests will carry; `pasid` None is no PASID."""

    data: bytes
    pasid: int | None
    privileged: bool


@dataclass(slots=True, eq=False)
class WorkQueue:
    """One work queue; all but `index` and `entries` is what WQCFG said when it was enabled.

    Attributes:
        enabled, dedicated, size, threshold, priority: as their names say.
        pasid: of a dedicated queue whose requests carry one; a shared queue has None here.
        privileged: of a dedicated queue.
        page_requests: the queue has PRS.
        invalid_flags: flags that its descriptors must not have.
        max_xfer, max_batch: bounds of bytes and of descriptors.
        entries: what waits, the oldest first.
    """

    index: int
    enabled: bool = False
    dedicated: bool = False
    size: int = 0
    threshold: int = 0
    priority: int = 0
    pasid: int | None = None
    privileged: bool = False
    page_requests: bool = True
    invalid_flags: int = 0
    max_xfer: int = 0
    max_batch: int = 0
    entries: deque[Entry] = field(default_factory=deque)

    def enable(self, config: Wqcfg) -> None:
        """Take over its configuration, which the command has checked."""
        self.enabled = True
        self.dedicated = config.mode is WqMode.DEDICATED
        self.size, self.threshold, self.priority = config.wq_size, config.wq_thresh, config.priority
        self.pasid = config.pasid if self.dedicated and config.pasid_en else None
        self.privileged = self.dedicated and config.priv
        self.page_requests = not config.wq_prs_disable
        blocks = config.bof and self.page_requests
        self.invalid_flags = 0 if blocks else Flags.BOF
        self.max_xfer, self.max_batch = 1 << config.max_xfer_shift, 1 << config.max_batch_shift

    def disable(self) -> None:
        """Take nothing any more."""
        self.enabled = False

    @property
    def occupancy(self) -> int:
        """How many descriptors wait."""
        return len(self.entries)

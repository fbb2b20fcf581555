"""What the trees of IOMMUs with tables in memory have in common: their parts in order, and the one device they show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report.tree import Node


class IommuTree(ABC):
    """The tree of one IOMMU.

    Attributes:
        MODEL, TITLE: what it is, as a description names it and in words.
        UNTAGGED: which cached translations bear no device, so that they are shown for all devices only.
        devices: those behind it, by the number that requests bear.
        only: the numbers of the one device that the tree is about; None is all of them.
    """

    MODEL: str
    TITLE: str
    UNTAGGED: str

    def __init__(self, machine: Machine, name: str, devices: Mapping[int, Device], only: Device | None) -> None:
        self.machine = machine
        self.name = name
        self.devices = devices
        self.only = None if only is None else {number for number, dev in devices.items() if dev is only}

    def node(self) -> Node:
        """Return the tree."""
        record = {"kind": "iommu", "model": self.MODEL}
        node = Node(f"{self.name}: {self.TITLE}", record, {"iommu": self.name})
        if self.only is None:
            node.add(self._registers())
        for part in self._tables():
            node.add(part)
        if self.only is None:
            for queue in self._queues():
                node.add(queue)
        node.add(self._caches())
        return node

    def _caches(self) -> Node:
        node = Node("caches")
        self._add_caches(node)
        if not node.children:
            node.say("empty")
        if self.only is not None:
            node.say(f"{self.UNTAGGED}: without --device they are shown")
        return node

    def _shown(self, number: int) -> bool:
        return self.only is None or number in self.only

    def _device_at(self, number: int) -> dict[str, Any]:
        """Return the device that a number is, as every record below its entry shows it."""
        dev = self.devices.get(number)
        return {"device": None if dev is None else dev.name}

    @abstractmethod
    def _registers(self) -> Node:
        """Return the registers that decide what the rest means."""

    @abstractmethod
    def _tables(self) -> Iterator[Node]:
        """Yield what is shown of every device, or of the only one."""

    @abstractmethod
    def _queues(self) -> Iterator[Node]:
        """Yield the queues."""

    @abstractmethod
    def _add_caches(self, node: Node) -> None:
        """Put what is cached under a node."""

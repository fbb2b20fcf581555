"""The records of `layout` as functions see them: names and types of their fields, for readers and type checkers.

Bytes are read as integers that never are negative; a mask of numbers has bit n for number n.
"""

from __future__ import annotations

from typing import Protocol


class Bytes(Protocol):
    """A row of bytes."""

    def __getitem__(self, index: int) -> int: ...

    def __setitem__(self, index: int, value: int) -> None: ...


class Processes(Protocol):
    """The processes of a state."""

    def __getitem__(self, index: int) -> ProcessRecord: ...


class ProcessRecord(Protocol):
    """A `ProcessState`: what is its own, then by device what is of its `OnDevice`."""

    task_alive: int
    task_activated: int
    register: Bytes
    number: int
    mode: int
    bound: int
    order: Bytes
    window: Bytes
    opened: Bytes
    normal: Bytes
    local: Bytes
    marked: Bytes
    entry: Bytes
    iotlb: Bytes
    atc: Bytes
    portal: Bytes
    closing: Bytes
    closing_number: Bytes
    phase: Bytes
    job: Bytes
    asked: Bytes


class StateRecord(Protocol):
    """A `State`."""

    process: Processes
    module: Bytes
    attached: Bytes
    armed: Bytes


class WorldRecord(Protocol):
    """A world under one scheme; see `layout.WORLD`."""

    processes: int
    tasks: Bytes
    devices: int
    numbers: int
    bound: Bytes
    own: Bytes
    portal: Bytes
    ats: Bytes
    sloppy: Bytes
    has_iommu: Bytes
    caches: Bytes
    scheme: int
    guard: int
    local_first: int
    order: int
    reserve: int
    rfc_enqcmd: int
    arch: int
    enqcmd_like: int
    driver_steps: Bytes
    iommu_steps: Bytes
    windows: int
    verbs: int

"""From ENQCMD to the completion record: one process, and a shared queue of a DSA behind a VT-d remapping unit.

The CPU executes ENQCMD with the task's IA32_PASID, the device's portal takes the 64 bytes, an engine runs the
descriptor, whose accesses go through device-TLB and remapping unit to the process's memory, and the completion record
is there when the next descriptor is sent. That is what `Machine.submit` and `Machine.submit_descriptor` do between
looking up names and saying in words what happened, which the last row has in it, too; there the program also clears and
reads the record, by its own page table.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from statistics import median

from benchmarks.rows import Row, cpu_seconds
from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Work
from pasidlab.devices.endpoint import Done
from pasidlab.devices.idxd.descriptors import Flags, Opcode, build
from pasidlab.hw.cpu import Instruction, Store
from pasidlab.linux.task import Task
from pasidlab.machine import Machine

ROUNDS = 9
DESCRIPTORS = 2_000
MIN_DESCRIPTORS = (">=", 20_000.0)

DEVICE, PROCESS = "dsa0", "a"
SOURCE, DESTINATION, RECORD = 0x1000_0000, 0x1000_0800, 0x1000_2000
SIZE = 64
PATTERN = b"pattern."
SUCCESS = 1
FLAGS = Flags.CRAV | Flags.RCR | Flags.BOF
CASES = {
    "no-op": build(Opcode.NOOP, Flags.CRAV | Flags.RCR, completion_addr=RECORD),
    "fill": build(
        Opcode.FILL,
        FLAGS,
        completion_addr=RECORD,
        source=int.from_bytes(PATTERN, "little"),
        destination=SOURCE,
        size=SIZE,
    ),
    "memmove": build(Opcode.MEMMOVE, FLAGS, completion_addr=RECORD, source=SOURCE, destination=DESTINATION, size=SIZE),
}
"""Descriptors by what they do; the memmove copies what the fill has written."""


def rows() -> Iterator[Row]:
    rig = Rig()
    for name, descriptor in CASES.items():
        rig.check(descriptor)
        yield _row(f"ENQCMD to completion, {name}", lambda: rig.send(descriptor), MIN_DESCRIPTORS)  # noqa: B023
    if rig.read(DESTINATION, SIZE) != PATTERN * (SIZE // len(PATTERN)):
        raise ValueError("the descriptors are done, and the bytes are not there")
    yield _row("the same, memmove, told as a step of a scenario", lambda: rig.submit(CASES["memmove"]), None)


def _row(name: str, work: Callable[[], object], target: tuple[str, float] | None) -> Row:
    gc.collect()
    seconds = median(cpu_seconds(lambda: _repeat(work)) for _ in range(ROUNDS))
    return Row(name, DESCRIPTORS / seconds, "descriptors/s", target)


def _repeat(work: Callable[[], object]) -> None:
    for _ in range(DESCRIPTORS):
        work()


# --- one machine -------------------------------------------------------------------------------------------------


class Rig:
    """A process that has a DSA open and its portal mapped."""

    def __init__(self) -> None:
        self.machine = Machine(
            MachineSpec(
                cpu=CpuSpec(arch="x86"),
                iommu=[IommuSpec("dmar0", model="intel-vtd")],
                device=[DeviceSpec(DEVICE, iommu="dmar0", kind="dsa", pasid_bits=20)],
                process=[ProcessSpec(PROCESS)],
            )
        )
        for outcome in (self.machine.bind(DEVICE, PROCESS, "handle"), self.machine.mmap_portal(PROCESS, DEVICE)):
            if outcome.result != "ok":
                raise ValueError(f"not set up: {outcome.why}")
        self.task: Task = self.machine.processes[PROCESS]
        self.endpoint = self.machine.endpoints[DEVICE]
        self.work = Work()

    def send(self, descriptor: bytes) -> object:
        """Execute ENQCMD and hand to the device what reaches the bus."""
        store = self.machine.os.execute(self.task, Instruction.ENQCMD, descriptor)
        if not isinstance(store, Store):
            raise ValueError(f"ENQCMD: {store.why}")
        return self.endpoint.receive(store, self.work)

    def submit(self, descriptor: bytes) -> object:
        """Do the same as a step of a scenario does."""
        return self.machine.submit_descriptor(PROCESS, DEVICE, Instruction.ENQCMD, descriptor)

    def read(self, address: int, size: int) -> bytes:
        """Read the process's memory as the process."""
        mm = self.task.mm
        found = None if mm is None else mm.read(address, size)
        if not isinstance(found, bytes):
            raise ValueError(f"{address:#x} cannot be read")
        return found

    def check(self, descriptor: bytes) -> None:
        """Raise unless a descriptor leads to a completion record that says success."""
        mm = self.task.mm
        if mm is None or mm.write(RECORD, bytes(32)):
            raise ValueError("the completion record cannot be cleared")
        done = self.send(descriptor)
        if not isinstance(done, Done) or self.read(RECORD, 1)[0] != SUCCESS:
            raise ValueError(f"not done: {done}")

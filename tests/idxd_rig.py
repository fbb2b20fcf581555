"""A DSA or IAA before memory that a test controls, page by page and PASID by PASID; and one in a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices.idxd import Idxd
from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.descriptors import Flags, IaaOpcode, Opcode, build, build_iaa
from pasidlab.devices.idxd.device import IdxdDevice
from pasidlab.devices.idxd.engine import DSA, IAA, Finished
from pasidlab.devices.idxd.registers import Cmd, Cmdsts, Command, Grpcfg, Portal, Wqcfg, WqMode, portal_offset
from pasidlab.drivers.hardware import Denied, Moved, Seen
from pasidlab.hw.cpu import Answer, Instruction
from pasidlab.machine import Machine
from pasidlab.rules import Rule

PAGE = 4096
A, B = 0x11, 0x22
"""Two PASIDs, of the owners "a" and "b"."""
OWNERS: dict[int | None, str] = {A: "a", B: "b", None: "kernel"}
SRC, DST, REC, LIST = 0x10000, 0x20000, 0x30000, 0x40000

ACCEPTED, RETRY = Answer.ACCEPTED, Answer.RETRY
NOOP = build(Opcode.NOOP)
DEDICATED = {"mode": WqMode.DEDICATED, "pasid": A}
ENQCMD, MOVDIR64B = Instruction.ENQCMD, Instruction.MOVDIR64B
RW = 0x1000_0000
"""Memory of a process of a machine."""

DENIED = Rule("test.idxd-denied", "a test", "as the test wants it", "no access to {address:#x}")


@dataclass
class Pages:
    """Memory by PASID; a page that is not there is denied as `seen` says, or comes when the device asks for it."""

    pages: dict[tuple[int | None, int], bytearray] = field(default_factory=dict)
    served: set[int] = field(default_factory=set)
    seen: Seen = Seen.INVALID
    asked: list[tuple[int | None, int]] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)

    def map(self, pasid: int | None, address: int, pages: int = 4) -> None:
        for index in range(pages):
            self.pages[pasid, address // PAGE + index] = bytearray(PAGE)

    def put(self, pasid: int | None, address: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            at = address + index
            self.pages[pasid, at // PAGE][at % PAGE] = byte

    def get(self, pasid: int | None, address: int, size: int) -> bytes:
        return bytes(self.pages[pasid, at // PAGE][at % PAGE] for at in range(address, address + size))

    def access(
        self,
        dev: Any,
        pasid: int | None,
        address: int,
        data: bytes | None,
        size: int,
        *,
        page_requests: bool = True,
        privileged: bool = False,
    ) -> Moved | Denied:
        assert 0 <= address < 1 << 64
        assert address % PAGE + size <= PAGE, "one request within 4 KiB"
        self.log.append((pasid, address, data is not None, privileged))
        page = self.pages.get((pasid, address // PAGE))
        if page is None and page_requests:
            self.asked.append((pasid, address))
            if address // PAGE in self.served:
                self.map(pasid, address & -PAGE, 1)
                page = self.pages[pasid, address // PAGE]
        if page is None:
            blocked = self.seen is Seen.BLOCKED
            return Denied(DENIED, {"address": address}, self.seen if page_requests or blocked else Seen.NO_PAGE)
        at = address % PAGE
        if data is None:
            return Moved(OWNERS.get(pasid, "?"), bytes(page[at : at + size]))
        page[at : at + size] = data
        return Moved(OWNERS.get(pasid, "?"), data)

    def report(self, dev: Any, fault: Any) -> None:
        raise AssertionError("a DSA does not report by itself")


class Rig:
    """A device with an enabled queue, and memory for two PASIDs."""

    def __init__(self, *, iaa: bool = False, pasids: bool = True, sloppy: bool = False, **wqcfg: Any) -> None:
        self.memory = Pages()
        self.kind = IAA if iaa else DSA
        self.hw = IdxdDevice(SimpleNamespace(name="dsa0"), self.memory, self.kind, pasid_enabled=pasids, sloppy=sloppy)
        self.done: list[Finished] = []
        self.hw.finished = self.done.append
        for pasid in (A, B):
            for at in (SRC, DST, REC, LIST):
                self.memory.map(pasid, at)
        self.config(0, **wqcfg)
        self.group(0, wqs=0b1, engines=0b1)
        self.enabled = (self.command(Command.ENABLE_DEVICE), self.command(Command.ENABLE_WQ, 0))

    # registers

    def config(self, wq: int, **fields: Any) -> None:
        usual = {
            "wq_size": 4,
            "wq_thresh": 2,
            "mode": WqMode.SHARED,
            "bof": True,
            "priority": 1,
            "pasid_en": True,
            "max_xfer_shift": 21,
            "max_batch_shift": 5,
        }
        raw = Wqcfg(**(usual | fields)).pack()
        self.write(reg.WQCFG + wq * reg.WQCFG_BYTES, int.from_bytes(raw, "little"), reg.WQCFG_BYTES)

    def group(self, index: int, *, wqs: int, engines: int) -> None:
        raw = Grpcfg(wqs=wqs, engines=engines)
        self.write(reg.GRPCFG + index * reg.GRPCFG_BYTES, int(raw), reg.GRPCFG_BYTES)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.hw.mmio_write(offset, value, size)

    def command(self, command: int, operand: int = 0) -> int:
        self.write(reg.CMD, Cmd(cmd=command, operand=operand))
        return Cmdsts(self.hw.mmio_read(reg.CMDSTS, 4)).err

    # descriptors

    def send(
        self,
        data: bytes,
        pasid: int = A,
        *,
        priv: bool = False,
        posted: bool = False,
        wq: int = 0,
        portal: Portal = Portal.UNLIMITED,
    ) -> Any:
        dword0 = pasid | priv << 31
        store = dword0.to_bytes(4, "little") + data[4:]
        return self.hw.portal_write(portal_offset(wq, portal), store, posted=posted)

    def do(self, opcode: int, flags: int = 0, *, pasid: int = A, **fields: int) -> Any:
        """Send a descriptor that wants its record at REC, and return the record."""
        make = build_iaa if self.kind is IAA else build
        flags |= Flags.CRAV | Flags.RCR
        self.send(make(opcode, flags, **({"completion_addr": REC} | fields)), pasid)
        return self.record(pasid)

    def record(self, pasid: int | None = A, address: int = REC) -> Any:
        from pasidlab.devices.idxd.descriptors import DsaCompletion, IaaCompletion

        word = IaaCompletion if self.kind is IAA else DsaCompletion
        return word.unpack(self.memory.get(pasid, address, self.kind.record_bytes))


def memmove(size: int = 64, flags: int = 0, source: int = SRC, destination: int = DST, **fields: int) -> bytes:
    return build(Opcode.MEMMOVE, flags, source=source, destination=destination, size=size, **fields)


def iaa_move(size: int = 64, flags: int = 0) -> bytes:
    return build_iaa(IaaOpcode.MEMMOVE, flags, source1=SRC, destination=DST, source1_size=size)


def machine(cpu: CpuSpec | None = None, iommu: IommuSpec | None = None, kernel: str = "v7.3", **keys: Any) -> Machine:
    device = {"name": "dsa0", "iommu": "iommu0", "kind": "dsa", "pasid_bits": 8} | keys
    spec = MachineSpec(
        kernel=kernel,
        cpu=cpu or CpuSpec(arch="x86"),
        iommu=[iommu or IommuSpec("iommu0")],
        device=[DeviceSpec(**device)],
        process=[ProcessSpec("a"), ProcessSpec("b")],
    )
    return Machine(spec)


def idxd(m: Machine) -> Idxd:
    endpoint = m.endpoints["dsa0"]
    assert isinstance(endpoint, Idxd)
    return endpoint


def opened(**keys: Any) -> Machine:
    """A machine where process a has the device open and its portal mapped."""
    m = machine(**keys)
    assert m.bind("dsa0", "a", "h").result == "ok"
    assert m.mmap_portal("a", "dsa0").result == "ok"
    return m

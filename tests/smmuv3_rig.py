"""Software's side of an SMMU's registers and command queue; and an SMMU that only records its commands."""

from __future__ import annotations

from typing import Any, Protocol

from pasidlab.hw.smmuv3.commands import Command, Resp
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.interface import Interface
from pasidlab.hw.smmuv3.registers import REGISTERS, Cr0, Gerror, Offset
from pasidlab.hw.smmuv3.target import ResumeAction, TlbScope
from pasidlab.memory import Memory
from pasidlab.rules import Faulted
from pasidlab.words import Word

CMDQ = 0x10_0000
EVENTQ = 0x20_0000
PRIQ = 0x30_0000
MSI = 0x40_0000


class RecordingTarget:
    """Notes every call as a tuple; ATC invalidations time out while `timed_out`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.timed_out = False

    def disabled(self) -> None:
        self.calls.append(("disabled",))

    def cfgi_ste(self, sid: int, leaf: bool) -> None:
        self.calls.append(("cfgi_ste", sid, leaf))

    def cfgi_ste_range(self, first: int, lg2: int) -> None:
        self.calls.append(("cfgi_ste_range", first, lg2))

    def cfgi_all(self) -> None:
        self.calls.append(("cfgi_all",))

    def cfgi_cd(self, sid: int, ssid: int, leaf: bool) -> None:
        self.calls.append(("cfgi_cd", sid, ssid, leaf))

    def cfgi_cd_all(self, sid: int) -> None:
        self.calls.append(("cfgi_cd_all", sid))

    def tlbi(self, scope: TlbScope) -> None:
        self.calls.append(("tlbi", scope))

    def atc_inv(self, sid: int, ssid: int | None, global_: bool, first: int, size: int | None) -> None:
        self.calls.append(("atc_inv", sid, ssid, global_, first, size))

    def atc_sync(self) -> bool:
        return not self.timed_out

    def pri_resp(self, sid: int, ssid: int | None, prg_index: int, response: Resp) -> None:
        self.calls.append(("pri_resp", sid, ssid, prg_index, response))

    def resume(self, sid: int, stag: int, action: ResumeAction) -> None:
        self.calls.append(("resume", sid, stag, action))

    def stall_term(self, sid: int) -> None:
        self.calls.append(("stall_term", sid))

    def prefetch_config(self, sid: int, ssid: int | None) -> None:
        self.calls.append(("prefetch_config", sid, ssid))

    def prefetch_addr(self, sid: int, ssid: int | None, first: int, size: int) -> None:
        self.calls.append(("prefetch_addr", sid, ssid, first, size))


class Registers(Protocol):
    """What answers at the addresses of an SMMU's registers."""

    def mmio_read(self, offset: int, size: int) -> int: ...
    def mmio_write(self, offset: int, value: int, size: int) -> None: ...


class Programmer:
    """Software that reaches an SMMU through memory and registers only; its command queue lies at `cmdq`."""

    def __init__(self, memory: Memory, registers: Registers, cmdq: int) -> None:
        self.memory = memory
        self.registers = registers
        self.cmdq = cmdq

    def read(self, offset: Offset) -> Any:
        word = REGISTERS[offset]
        return word(self.registers.mmio_read(offset, word.SIZE // 8))

    def write(self, offset: Offset, value: int = 0, /, **fields: int) -> None:
        word = REGISTERS[offset]
        self.registers.mmio_write(offset, word(value, **fields), word.SIZE // 8)

    def enable(self, **fields: int) -> None:
        self.write(Offset.CR0, Cr0(self.read(Offset.CR0), **fields))
        assert self.read(Offset.CR0ACK) == self.read(Offset.CR0)

    def put(self, *commands: Command) -> None:
        """Write commands to the queue and move PROD once."""
        log2size = self.read(Offset.CMDQ_BASE).log2size
        wr = self.read(Offset.CMDQ_PROD).wr
        for command in commands:
            self.memory.store(self.cmdq + (wr & (1 << log2size) - 1) * 16, command.pack())
            wr = wr + 1 & (2 << log2size) - 1
        self.write(Offset.CMDQ_PROD, wr=wr)

    def errors(self) -> Gerror:
        """Return the global errors that are active."""
        return Gerror(self.read(Offset.GERROR) ^ self.read(Offset.GERRORN))


class Rig(Programmer):
    """Software and an SMMU's programming interface, behind which a target records the commands."""

    def __init__(self, **features: Any) -> None:
        memory = Memory()
        self.target = RecordingTarget()
        self.interface = Interface(memory, Features(**features), self.target)
        super().__init__(memory, self.interface, CMDQ)
        self.irqs: list[str] = []
        self.refused: list[Faulted] = []
        self.interface.irq = self.irqs.append
        self.interface.refused = self.refused.append

    def start_commands(self, log2size: int = 3, at: int = 0) -> None:
        self.write(Offset.CMDQ_BASE, addr=CMDQ, log2size=log2size)
        self.write(Offset.CMDQ_PROD, wr=at)
        self.write(Offset.CMDQ_CONS, rd=at)
        self.enable(cmdqen=True)

    def start_output(self, queue: str, log2size: int = 2, at: int = 0) -> None:
        base = EVENTQ if queue == "EVENTQ" else PRIQ
        self.write(Offset[f"{queue}_BASE"], addr=base, log2size=log2size)
        self.write(Offset[f"{queue}_PROD"], wr=at)
        self.write(Offset[f"{queue}_CONS"], rd=at)
        if queue == "EVENTQ":
            self.enable(eventqen=True)
        else:
            self.enable(priqen=True, smmuen=True)

    def acknowledge(self) -> None:
        self.write(Offset.GERRORN, self.read(Offset.GERROR))

    def record_at(self, base: int, index: int, word: type[Word]) -> Any:
        data = self.memory.load(base + index * word.SIZE // 8, word.SIZE // 8)
        assert data is not None
        return word.unpack(data)

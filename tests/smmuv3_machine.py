"""A machine with Arm SMMUv3s, looked at through memory and registers: STEs, CDs, and the commands in the queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pasidlab.description import DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import Access, Work
from pasidlab.drivers.arm_smmu_v3.driver import ArmSmmuDriver
from pasidlab.hw.atc import Atc
from pasidlab.hw.smmuv3.commands import (
    ATC_INV_ALL,
    AtcInv,
    CfgiCd,
    CfgiSte,
    Command,
    Opcode,
    PrefetchConfig,
    PriResp,
    Resume,
    TlbiNhAsid,
    TlbiNhVa,
    TlbiS12Vmall,
    command_of,
)
from pasidlab.hw.smmuv3.registers import REGISTERS, Offset, StrtabFmt
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, L1Cd, L1Std, S1Fmt, Ste
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome

DATA, READ_ONLY, CODE, NOTHING, HOLE = 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x5000_0000, 0x4000_0000
"""Where a process has its areas: read-write, read-only, executable, without rights; and where it has none."""
SMMU = "smmu0"


def smmu_spec(name: str = SMMU, **how: Any) -> IommuSpec:
    return IommuSpec(name, model="arm-smmu-v3", **how)


def narrow(name: str = "npu0", bits: int = 2, iommu: str = SMMU, **how: Any) -> DeviceSpec:
    return DeviceSpec(name, iommu, kind="narrow", pasid_bits=bits, **how)


def nic(name: str = "nic0", bits: int = 16, iommu: str = SMMU, **how: Any) -> DeviceSpec:
    return DeviceSpec(name, iommu, pasid_bits=bits, **how)


class SmmuMachine(Machine):
    """A machine whose commands are read out of the queue's memory, from where the last look ended."""

    def __init__(
        self,
        *devices: DeviceSpec,
        iommus: Iterable[IommuSpec] = (),
        processes: str = "a b",
        scheme: str = "mainline",
        smmu: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        spec = MachineSpec(
            iommu=list(iommus) or [smmu_spec(**(smmu or {}))],
            device=list(devices),
            process=[ProcessSpec(name) for name in processes.split()],
            **more,
        )
        self._read: dict[str, int] = {}
        super().__init__(spec, scheme)

    # --- parts -------------------------------------------------------------------------------------------------

    @property
    def driver(self) -> ArmSmmuDriver:
        return self.parts.smmus

    def hw(self, iommu: str = SMMU) -> Smmuv3:
        return self.driver.instances[self.iommus[iommu]].hw

    def dev(self, device: str) -> Device:
        return self.endpoints[device].dev

    def atc(self, device: str) -> Atc:
        return self.driver.ports[self.dev(device)].atc

    # --- doing -------------------------------------------------------------------------------------------------

    def write(self, device: str, pasid: int | str, address: int = DATA, data: bytes = b"work") -> Outcome:
        return self.dma(device, pasid, Work(Access.WRITE, address, data))

    def read(self, device: str, pasid: int | str, address: int = DATA, size: int = 4) -> Outcome:
        return self.dma(device, pasid, Work(Access.READ, address, size=size))

    # --- looking -----------------------------------------------------------------------------------------------

    def register(self, offset: Offset, iommu: str = SMMU) -> Any:
        word = REGISTERS[offset]
        return word(self.hw(iommu).mmio_read(offset, word.SIZE // 8))

    def commands(self, iommu: str = SMMU) -> list[Command]:
        """Return the commands since the last look, in the order of the queue."""
        base, prod = self.register(Offset.CMDQ_BASE, iommu), self.register(Offset.CMDQ_PROD, iommu)
        wrap = (2 << base.log2size) - 1
        assert self.register(Offset.CMDQ_CONS, iommu).rd == prod.wr, "the queue is not empty"
        at, found = self._read.get(iommu, 0), []
        while at != prod.wr:
            found.append(command_of(self._load(base.addr + (at & wrap >> 1) * 16, 16)))
            at = at + 1 & wrap
        self._read[iommu] = at
        assert len(found) <= 1 << base.log2size
        return found

    def forget(self) -> None:
        """Look only at commands that come from now on."""
        for name in self.iommus:
            self._read[name] = self.register(Offset.CMDQ_PROD, name).wr

    def _load(self, address: int, size: int) -> int:
        data = self.kernel.memory.load(address, size)
        assert data is not None
        return int.from_bytes(data, "little")

    def ste(self, sid: int, iommu: str = SMMU) -> Ste:
        """Return an STE, found as hardware finds it."""
        base, config = self.register(Offset.STRTAB_BASE, iommu), self.register(Offset.STRTAB_BASE_CFG, iommu)
        assert sid < 1 << config.log2size
        if config.fmt == StrtabFmt.LINEAR:
            return Ste(self._load(base.addr + sid * 64, 64))
        l1 = L1Std(self._load(base.addr + (sid >> config.split) * 8, 8))
        assert l1.span == config.split + 1
        return Ste(self._load(l1.l2ptr + (sid & (1 << config.split) - 1) * 64, 64))

    def l1cds(self, sid: int) -> list[L1Cd]:
        ste = self.ste(sid)
        assert ste.s1fmt is S1Fmt.LEAF_64K
        return [L1Cd(self._load(ste.s1contextptr + 8 * index, 8)) for index in range(1 << ste.s1cdmax - 10)]

    def cd(self, sid: int, ssid: int, iommu: str = SMMU) -> Cd:
        """Return a CD, found as hardware finds it."""
        ste = self.ste(sid, iommu)
        assert ste.config & 1, "no stage 1"
        assert ssid < 1 << ste.s1cdmax
        if ste.s1fmt is S1Fmt.LINEAR:
            return Cd(self._load(ste.s1contextptr + 64 * ssid, 64))
        leaf = L1Cd(self._load(ste.s1contextptr + ssid // 1024 * 8, 8))
        assert leaf.v
        return Cd(self._load(leaf.l2ptr + ssid % 1024 * 64, 64))

    def findings(self) -> list[str]:
        return [finding.rule.id for finding in self.kernel.findings]


def told(commands: Iterable[Command]) -> list[str]:
    """Say commands in short: streams as sid/ssid, a CMD_SYNC as `;` behind what it waits for."""
    lines: list[str] = []
    for command in commands:
        if command.opcode == Opcode.SYNC:
            lines[-1] += ";"
        else:
            lines.append(_told(command))
    return lines


def _told(command: Any) -> str:
    name = Opcode(command.opcode).name
    match command:
        case CfgiCd():
            return f"{name} {command.sid}/{command.ssid}" + ("" if command.leaf else " and level 1")
        case CfgiSte():
            return f"{name} {command.sid}" + ("" if command.leaf else " and level 1")
        case PrefetchConfig():
            return f"{name} {command.sid}"
        case TlbiNhAsid():
            return f"{name} {command.asid}"
        case TlbiS12Vmall():
            return f"{name} {command.vmid}"
        case TlbiNhVa():
            pages = (command.num + 1) << command.scale if command.tg else 1
            return f"{name} {command.asid} {command.addr:#x}+{pages}"
        case AtcInv():
            where = f"{command.sid}/{command.ssid}" if command.ssv else f"{command.sid}"
            pages = "all" if command.size == ATC_INV_ALL else f"{command.addr:#x}+{1 << command.size}"
            return f"{name} {where} {pages}"
        case Resume():
            return f"{name} {command.sid} {'retry' if command.ac else 'abort' if command.ab else 'zero'}"
        case PriResp():
            return f"{name} {command.sid}/{command.ssid} {command.resp.name}"
    return name

"""A DSA or IAA instance behind its registers and portals.

BAR0 has the registers and tables, through `mmio_read` and `mmio_write`; BAR2 the portals, through `portal_write`. The
device acts on what the 64 bytes of a write say, and on its registers, and on nothing else. Whatever is written is
answered; nothing raises.

Source: Intel DSA architecture specification, on portals and work queues; drivers/dma/idxd/registers.h (v6.12, v7.3).
Decided here: work is done at once unless the device is `held`, when it waits for `run()` or a drain; of queues that
wait, the one of highest priority goes first, then the lowest index.
Model policy: a `sloppy` device does not tell posted from non-posted writes to a shared queue, and believes the PASID
of either (thread, message 14).
Not modelled: several engines at once, interrupts, IMS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pasidlab.devices.idxd import registers as reg
from pasidlab.devices.idxd.commands import execute
from pasidlab.devices.idxd.descriptors import DESCRIPTOR_BYTES, MAX_PASID, parse
from pasidlab.devices.idxd.engine import ANY_PASID, DSA, NO_PASID, Engine, Finished, Kind
from pasidlab.devices.idxd.portals import DROPPED_ERRORS, QUEUE_DISABLED, refuse_non_posted, refuse_posted
from pasidlab.devices.idxd.queues import Entry, WorkQueue
from pasidlab.devices.idxd.registers import (
    Cmd,
    Cmdsts,
    DeviceState,
    Gensts,
    Grpcfg,
    MsixPerm,
    Swerr,
    Wqcfg,
    WqMode,
    WqState,
)
from pasidlab.drivers.hardware import Hardware
from pasidlab.hw.cpu import Answer
from pasidlab.linux.structs import Device
from pasidlab.rules import Rule

_WRITABLE = (
    (reg.GENCFG, 4),
    (reg.GENCTRL, 4),
    (reg.MSIX_PERM, reg.MSIX_PERM_BYTES * reg.NUM_VECTORS),
)
"""Registers that hold what was written, whatever the state."""
_GRPCFG_END = reg.GRPCFG + reg.GRPCFG_BYTES * reg.NUM_GROUPS
_WQCFG_END = reg.WQCFG + reg.WQCFG_BYTES * reg.NUM_WQS


class IdxdDevice:
    """The hardware.

    Attributes:
        pasid_enabled: the PCIe PASID capability is enabled.
        sloppy: see the module docstring.
        held: descriptors wait in their queues until `run()`.
        queues, engine: its work queues, and what executes their descriptors.
        finished: called with each descriptor of a queue that is done, if anybody wants to know.
    """

    def __init__(
        self,
        dev: Device,
        hardware: Hardware,
        kind: Kind = DSA,
        *,
        pasid_enabled: bool = True,
        privileged_enabled: bool = False,
        sloppy: bool = False,
    ) -> None:
        self.dev = dev
        self.pasid_enabled = pasid_enabled
        self.sloppy = sloppy
        self.held = False
        self.queues = [WorkQueue(index) for index in range(reg.NUM_WQS)]
        self.finished: Callable[[Finished], None] | None = None
        self.enabled = False
        self._served: list[WorkQueue] = []
        self._errors: list[Swerr] = []
        permissions = [NO_PASID] * reg.NUM_VECTORS
        self.engine = Engine(hardware, dev, kind, privileged_enabled, self._errors, permissions)
        self._bar0 = bytearray(reg.BAR0_BYTES)
        for offset, value, size in reg.capabilities(kind.operations):
            self._bar0[offset : offset + size] = value.to_bytes(size, "little")

    # --- portals -----------------------------------------------------------------------------------------------

    def portal_write(self, offset: int, data: bytes, *, posted: bool) -> Answer | None:
        """Take a 64-byte write to BAR2; a posted one gets no answer."""
        refused = self.take(offset, data, posted=posted)
        if posted:
            return None
        return Answer.ACCEPTED if refused is None else Answer.RETRY

    def take(self, offset: int, data: bytes, *, posted: bool) -> Rule | None:
        """As `portal_write()`, and return why a write was not accepted."""
        admitted = self.admit(offset, data, posted=posted)
        if isinstance(admitted, Rule):
            return admitted
        wq, entry = admitted
        wq.entries.append(entry)
        if not self.held:
            self.run()
        return None

    def admit(self, offset: int, data: bytes, *, posted: bool) -> tuple[WorkQueue, Entry] | Rule:
        """Accept a write for its queue, which it does not join yet, or return why not."""
        index = offset // (reg.PORTAL_BYTES * reg.WQ_PORTALS)
        wq = self.queues[index] if 0 <= index < reg.NUM_WQS else None
        if wq is None or len(data) != DESCRIPTOR_BYTES:
            return QUEUE_DISABLED
        limited = bool(offset // reg.PORTAL_BYTES & 1)
        refused = self._refuse_posted(wq) if posted else refuse_non_posted(wq, limited=limited)
        if refused is not None:
            if posted:
                self._drop(wq, data, DROPPED_ERRORS[refused])
            return refused
        return wq, self._entry(wq, data)

    def _refuse_posted(self, wq: WorkQueue) -> Rule | None:
        dedicated = self.wqcfg(wq.index).mode is WqMode.DEDICATED
        return refuse_posted(wq, dedicated=dedicated, believed=self.sloppy)

    def _drop(self, wq: WorkQueue, data: bytes, error: int) -> None:
        """Report a posted write that nobody else can be told of."""
        dropped = parse(data)
        known = {"valid": True, "desc_valid": True, "wq_idx_valid": True, "error": error, "wq_idx": wq.index}
        self._errors.append(Swerr(**known, operation=dropped.opcode, pasid=dropped.pasid))
        self._take_errors()

    def _entry(self, wq: WorkQueue, data: bytes) -> Entry:
        """Fix what a descriptor's requests carry: of a shared queue the write says it, of a dedicated one WQCFG."""
        if wq.dedicated:
            return Entry(data, wq.pasid, wq.privileged)
        dword0 = int.from_bytes(data[:4], "little")
        return Entry(data, dword0 & MAX_PASID, bool(dword0 >> 31))

    # --- work --------------------------------------------------------------------------------------------------

    def run(self, limit: int | None = None) -> int:
        """Execute descriptors that wait, `limit` at the most; return how many."""
        count = 0
        while count != limit:
            wq = next((wq for wq in self._served if wq.entries), None)
            if wq is None:
                break
            self.carry_out(wq, wq.entries.popleft())
            count += 1
        return count

    def run_queue(self, wq: WorkQueue, pasid: int | None = None) -> None:
        """Execute what waits in one queue, or of it only what carries a PASID."""
        if wq not in self._served:
            return
        waiting = list(wq.entries)
        wq.entries.clear()
        for entry in waiting:
            if pasid is None or entry.pasid == pasid:
                self.carry_out(wq, entry)
            else:
                wq.entries.append(entry)

    def carry_out(self, wq: WorkQueue, entry: Entry) -> None:
        """Execute one descriptor of a queue, and tell who wants to know."""
        done = self.engine.execute(wq, entry)
        if self._errors:
            self._take_errors()
        if self.finished is not None:
            self.finished(done)

    # --- what commands do --------------------------------------------------------------------------------------

    def set_state(self, state: DeviceState) -> None:
        """Change the device's state."""
        self.enabled = state is DeviceState.ENABLED
        self._put(reg.GENSTS, Gensts(state=state))

    def enable_wq(self, wq: WorkQueue, config: Wqcfg) -> None:
        """Enable a queue."""
        wq.enable(config)
        self._put_wq_state(wq, WqState.ENABLED)
        self._serve()

    def disable_wq(self, wq: WorkQueue) -> None:
        """Disable a queue; what waits in it is gone."""
        wq.disable()
        wq.entries.clear()
        self._put_wq_state(wq, WqState.DISABLED)
        self._serve()

    def _serve(self) -> None:
        """Find out which queues have an engine, in the order in which they are served."""
        served = 0
        for group in self.groups():
            served |= group.wqs if group.engines else 0
        wqs = (wq for wq in self.queues if wq.enabled and served >> wq.index & 1)
        self._served = sorted(wqs, key=lambda wq: -wq.priority)

    def clear_wqcfg(self, index: int) -> None:
        """Return a queue's configuration to zeros."""
        self._put(reg.WQCFG + index * reg.WQCFG_BYTES, Wqcfg())

    def clear_configuration(self) -> None:
        """Return all that software configured to zeros."""
        self._bar0[reg.GRPCFG : _WQCFG_END] = bytes(_WQCFG_END - reg.GRPCFG)
        for offset, size in _WRITABLE:
            self._bar0[offset : offset + size] = bytes(size)
        self._read_permissions()
        self._serve()

    # --- registers ---------------------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes of BAR0; what is not there reads as zero."""
        if not 0 <= offset < reg.BAR0_BYTES:
            return 0
        if offset + size >= reg.WQCFG and offset < _WQCFG_END:
            for wq in self.queues:
                at = reg.WQCFG + wq.index * reg.WQCFG_BYTES
                self._put(at, self.wqcfg(wq.index).replace(occupancy=wq.occupancy))
        return int.from_bytes(self._bar0[offset : offset + size], "little")

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write `size` bytes of BAR0; what cannot be written, or not now, stays as it is."""
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        for start, length in _WRITABLE:
            self._store(offset, data, start, start + length)
        if not self.enabled:
            self._store(offset, data, reg.GRPCFG, _GRPCFG_END)
        self._store_wqcfg(offset, data)
        if offset == reg.SWERR:
            self._clear_errors(value)
        if offset == reg.CMD:
            self._command(Cmd(value & 0xFFFF_FFFF))
        self._read_permissions()

    def _store(self, offset: int, data: bytes, start: int, end: int) -> None:
        """Store that part of the data that lies in a range."""
        first, last = max(offset, start), min(offset + len(data), end)
        if first < last:
            self._bar0[first:last] = data[first - offset : last - offset]

    def _store_wqcfg(self, offset: int, data: bytes) -> None:
        """Store in the configurations of queues that are disabled; their state is the device's to say."""
        for wq in self.queues:
            start = reg.WQCFG + wq.index * reg.WQCFG_BYTES
            if not wq.enabled and offset < start + reg.WQCFG_BYTES and start < offset + len(data):
                self._store(offset, data, start, start + reg.WQCFG_BYTES)
                self._put_wq_state(wq, WqState.DISABLED)

    def _command(self, command: Cmd) -> None:
        self._put(reg.CMDSTS, Cmdsts(err=execute(self, command.cmd, command.operand)))

    def _read_permissions(self) -> None:
        for index in range(reg.NUM_VECTORS):
            at = reg.MSIX_PERM + index * reg.MSIX_PERM_BYTES
            entry = MsixPerm.unpack(bytes(self._bar0[at : at + 4]))
            permitted = entry.pasid if entry.pasid_en else NO_PASID
            self.engine.permissions[index] = ANY_PASID if entry.ignore else permitted

    def _take_errors(self) -> None:
        """Put the first error into SWERR; those that find it full only leave its overflow bit."""
        for error in self._errors:
            held = self.swerr
            self._put(reg.SWERR, held.replace(overflow=True) if held.valid else error)
        self._errors.clear()

    def _clear_errors(self, value: int) -> None:
        written = Swerr(value & 0b11)
        if written.valid:
            self._put(reg.SWERR, Swerr())
        elif written.overflow:
            self._put(reg.SWERR, self.swerr.replace(overflow=False))

    def _put(self, offset: int, word: Wqcfg | Gensts | Cmdsts | Swerr) -> None:
        data = word.pack()
        self._bar0[offset : offset + len(data)] = data

    def _put_wq_state(self, wq: WorkQueue, state: WqState) -> None:
        self._put(reg.WQCFG + wq.index * reg.WQCFG_BYTES, self.wqcfg(wq.index).replace(wq_state=state))

    # --- looking -----------------------------------------------------------------------------------------------

    def wqcfg(self, index: int) -> Wqcfg:
        """Return a queue's configuration as it stands in its registers."""
        at = reg.WQCFG + index * reg.WQCFG_BYTES
        return Wqcfg.unpack(bytes(self._bar0[at : at + reg.WQCFG_BYTES]))

    def groups(self) -> Iterator[Grpcfg]:
        """Yield each group's configuration as it stands in its registers."""
        for index in range(reg.NUM_GROUPS):
            at = reg.GRPCFG + index * reg.GRPCFG_BYTES
            yield Grpcfg.unpack(bytes(self._bar0[at : at + reg.GRPCFG_BYTES]))

    @property
    def swerr(self) -> Swerr:
        """The error register."""
        return Swerr.unpack(bytes(self._bar0[reg.SWERR : reg.SWERR + reg.SWERR_BYTES]))

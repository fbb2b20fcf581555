"""The programming interface of one unit: registers at their offsets, and what follows when software writes them.

A write changes the fields that software may change and that this unit has, clears status bits where a 1 was written,
and takes effect at once, so that a command is complete when it has been written.

Source: Intel VT-d 4.1, chapter 11.
Decided where the architecture leaves a choice, beside what `mmio` says: undefined offsets read zero and ignore writes;
of several commands in one write to GCMD the root table is set first, then translation is switched, then the
invalidation queue; IQA does not change while the queue is on; invalidations by register are ignored (CAIG and IAIG are
0) while the queue is on, and work in scalable mode, too, though PASID entries are out of their reach; addresses of
tables and queues have no bits from the host address width on.
Not modelled: see `features` and `registers`; commands whose feature is absent are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from pasidlab.hw.mmio import HALF, ProgrammingInterface
from pasidlab.hw.vtd.faults import Faults
from pasidlab.hw.vtd.features import FAULT_RECORDING_OFFSET, IOTLB_OFFSET, Features
from pasidlab.hw.vtd.invalidation import command_context_cache, command_iotlb
from pasidlab.hw.vtd.invalidation_queue import InvalidationQueue
from pasidlab.hw.vtd.page_requests import PageRequests, PageRequestTarget
from pasidlab.hw.vtd.records import FaultRecord
from pasidlab.hw.vtd.registers import (
    REGISTERS,
    Ccmd,
    EventAddress,
    EventControl,
    EventData,
    EventUpperAddress,
    Fsts,
    Gcmd,
    Granularity,
    Gsts,
    Ics,
    Iotlb,
    Iqa,
    Iqt,
    Irta,
    Iva,
    Offset,
    Pqa,
    Pqh,
    Pqt,
    Prs,
    Rtaddr,
    Ver,
)
from pasidlab.hw.vtd.signals import Event, Signals
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.target import InvalidationTarget
from pasidlab.memory import Memory
from pasidlab.rules import Rule
from pasidlab.words import Word

_RECORD_BYTES = FaultRecord.SIZE // 8
_VERSION = Ver(major=5)
"""The last major version in which CCMD and IOTLB invalidate; from 6 on only the queue does."""

IQA_ON = Rule(
    "vtd.iqa-on",
    f"{SPEC}, 11.4.9.3",
    "GSTS.QIES == 1",
    "IQA is written while the invalidation queue is on, and does not change",
    source=SPEC,
)
BY_REGISTER = Rule(
    "vtd.invalidation-by-register",
    f"{SPEC}, 6.5.1, 11.4.6",
    "GSTS.QIES == 1; or CIRG or IIRG is reserved; or AM > CAP.MAMV",
    "an invalidation by {register} is ignored: {reason}",
    source=SPEC,
)


# --- the register table ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """How one register behaves.

    Attributes:
        path: the attribute of the interface that holds it.
        word: its format.
        writable: the fields that software can change.
        cleared: the fields that software clears by writing 1.
        effect: what follows a write.
        needs: a feature without which the register reads zero and ignores writes; empty for none.
        optional: fields of which the same is true, with the feature they need.
        on_bus: its address has no bits from the host address width on.
        hidden: the fields that read zero whatever they hold.
    """

    path: str
    word: type[Word]
    writable: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    effect: Callable[[Interface], None] | None = None
    needs: str = ""
    optional: dict[str, str] = field(default_factory=dict)
    on_bus: bool = False
    hidden: tuple[str, ...] = ()


def _read_only(path: str, offset: Offset) -> Register:
    return Register(path, REGISTERS[offset])


def _open(path: str, word: type[Word], effect: Callable[[Interface], None] | None = None, **more: Any) -> Register:
    """Return a register of which software can change every field."""
    return Register(path, word, tuple(word.FIELDS), effect=effect, **more)


def _control(name: str, needs: str = "") -> Register:
    """Return the register that masks an event."""
    return Register(
        f"signals.{name}.control",
        EventControl,
        ("im",),
        effect=lambda at: at._mask_written(name),
        needs=needs,
    )


def _message(path: str, word: type[Word], needs: str = "") -> Register:
    """Return one of the three registers of an event's message."""
    return _open(f"signals.{path}", word, needs=needs)


_PRS = "page_requests"
_TABLE: dict[int, Register] = {
    Offset.VER: _read_only("ver", Offset.VER),
    Offset.CAP: _read_only("cap", Offset.CAP),
    Offset.ECAP: _read_only("ecap", Offset.ECAP),
    Offset.GCMD: _open("gcmd", Gcmd, lambda at: at._command(), hidden=tuple(Gcmd.FIELDS)),
    Offset.GSTS: _read_only("gsts", Offset.GSTS),
    Offset.RTADDR: _open("rtaddr", Rtaddr, on_bus=True),
    Offset.CCMD: Register(
        "ccmd",
        Ccmd,
        ("did", "sid", "fm", "cirg", "icc"),
        effect=lambda at: at._invalidate_contexts(),
        hidden=("sid", "fm"),
    ),
    Offset.FSTS: Register(
        "faults.fsts", Fsts, cleared=("pfo", "iqe", "ice", "ite"), effect=lambda at: at.invalidation.run()
    ),
    Offset.FECTL: _control("fault"),
    Offset.FEDATA: _message("fault.data", EventData),
    Offset.FEADDR: _message("fault.address", EventAddress),
    Offset.FEUADDR: _message("fault.upper_address", EventUpperAddress),
    Offset.IQH: _read_only("invalidation.iqh", Offset.IQH),
    Offset.IQT: _open("invalidation.iqt", Iqt, lambda at: at.invalidation.run()),
    Offset.IQA: _open("invalidation.iqa", Iqa, on_bus=True, optional={"dw": "scalable"}),
    Offset.ICS: Register(
        "invalidation.ics", Ics, cleared=("iwc",), effect=lambda at: at.invalidation.completion_cleared()
    ),
    Offset.IECTL: _control("invalidation"),
    Offset.IEDATA: _message("invalidation.data", EventData),
    Offset.IEADDR: _message("invalidation.address", EventAddress),
    Offset.IEUADDR: _message("invalidation.upper_address", EventUpperAddress),
    Offset.IQER: _read_only("invalidation.iqer", Offset.IQER),
    Offset.IRTA: _open("irta", Irta, on_bus=True),
    Offset.PQH: _open("page_requests.pqh", Pqh, needs=_PRS),
    Offset.PQT: _open("page_requests.pqt", Pqt, needs=_PRS),
    Offset.PQA: _open("page_requests.pqa", Pqa, needs=_PRS, on_bus=True),
    Offset.PRS: Register(
        "page_requests.prs",
        Prs,
        cleared=("ppr", "pro"),
        effect=lambda at: at.page_requests.status_cleared(),
        needs=_PRS,
    ),
    Offset.PECTL: _control("page_request", _PRS),
    Offset.PEDATA: _message("page_request.data", EventData, _PRS),
    Offset.PEADDR: _message("page_request.address", EventAddress, _PRS),
    Offset.PEUADDR: _message("page_request.upper_address", EventUpperAddress, _PRS),
    IOTLB_OFFSET: _open("iva", Iva, hidden=tuple(Iva.FIELDS)),
    IOTLB_OFFSET + 8: Register(
        "iotlb", Iotlb, ("did", "dw", "dr", "iirg", "ivt"), effect=lambda at: at._invalidate_iotlb()
    ),
}


class Cell(NamedTuple):
    """32 bits of a register: which register, which half (`shift` is 0 or 32), what a write can change, what reads zero.

    `writable`, `cleared` and `hidden` are bits of the whole register.
    """

    register: Register
    shift: int
    writable: int
    cleared: int
    hidden: int


def _cells() -> dict[int, Cell]:
    """Return every 32-bit piece of every register that has a place of its own."""
    cells = {}
    for offset, register in _TABLE.items():
        masks = [register.word.mask(*names) for names in (register.writable, register.cleared, register.hidden)]
        for shift in range(0, register.word.SIZE, 32):
            half = HALF << shift
            cells[offset + shift // 8] = Cell(register, shift, *(mask & half for mask in masks))
    return cells


_CELLS = _cells()


# --- the interface -----------------------------------------------------------------------------------------------


class Target(InvalidationTarget, PageRequestTarget, Protocol):
    """The rest of the unit: what invalidations and page requests reach."""


class Interface(ProgrammingInterface):
    """The registers, queues and events of one unit, as they are after reset.

    Attributes:
        te: GSTS.TES, whether translation is on.
        root: RTADDR as it was when the root table was set.
        faults, invalidation, page_requests, signals: the parts behind the registers.
    """

    faults: Faults
    invalidation: InvalidationQueue
    page_requests: PageRequests
    signals: Signals

    def __init__(self, memory: Memory, features: Features, target: Target) -> None:
        self.features = features
        self._target = target
        self.te = False
        self.root = Rtaddr()
        self.ver, self.cap, self.ecap = _VERSION, features.cap(), features.ecap()
        self.gcmd, self.gsts = Gcmd(), Gsts()
        self.rtaddr = Rtaddr()
        self.ccmd, self.iva, self.iotlb = Ccmd(), Iva(), Iotlb()
        self.irta = Irta()
        self.signals = Signals()
        self.faults = Faults(features.fault_records, self.signals)
        self.invalidation = InvalidationQueue(memory, features, target, self, self.faults, self.signals)
        self.page_requests = PageRequests(memory, features, target, self.signals)

    # --- memory-mapped access ------------------------------------------------------------------------------------

    def _read32(self, offset: int) -> int:
        index, part = self._record_at(offset)
        if index is not None:
            return self.faults.records[index] >> 8 * part & HALF
        cell = _CELLS.get(offset)
        if cell is None or not self._has(cell.register.needs):
            return 0
        value: int = attrgetter(cell.register.path)(self)
        return (value & ~cell.hidden) >> cell.shift & HALF

    def _write32(self, offset: int, value: int) -> None:
        index, part = self._record_at(offset)
        if index is not None:
            self._write_record(index, value << 8 * part)
            return
        cell = _CELLS.get(offset)
        if cell is not None and (cell.writable or cell.cleared) and self._has(cell.register.needs):
            self._write_cell(cell, value << cell.shift)

    def _write_cell(self, cell: Cell, written: int) -> None:
        register = cell.register
        owner, name = self._place(register.path)
        old = getattr(owner, name)
        writable = cell.writable & ~self._absent(register)
        new = register.word((old & ~writable | written & writable) & ~(written & cell.cleared))
        if register.word is Iqa and self.invalidation.on:
            if new != old:
                self.signals.refuse(IQA_ON.fault())
            return
        setattr(owner, name, new)
        if register.effect is not None:
            register.effect(self)

    def _has(self, feature: str) -> bool:
        return not feature or bool(getattr(self.features, feature))

    def _absent(self, register: Register) -> int:
        """Return the bits of a register that this unit does not have."""
        names = [name for name, feature in register.optional.items() if not self._has(feature)]
        beyond = -1 << self.features.host_bits if register.on_bus else 0
        return register.word.mask(*names) | beyond

    def _record_at(self, offset: int) -> tuple[int | None, int]:
        """Return which fault recording register lies at an offset, and the byte within."""
        index, part = divmod(offset - FAULT_RECORDING_OFFSET, _RECORD_BYTES)
        return (index if 0 <= index < self.features.fault_records else None), part

    def _write_record(self, index: int, written: int) -> None:
        """Clear F, which is all that software can change."""
        if FaultRecord(written).f:
            self.faults.set_record(index, self.faults.records[index].replace(f=False))

    # --- what follows a write ------------------------------------------------------------------------------------

    def _mask_written(self, name: str) -> None:
        event: Event = getattr(self.signals, name)
        event.deliver()

    def _command(self) -> None:
        """Carry out GCMD."""
        command, self.gcmd = self.gcmd, Gcmd()
        if command.srtp:
            self.root = self.rtaddr
            self.gsts = self.gsts.replace(rtps=True)
            self._target.root_table_set()
        self.te = command.te
        self.gsts = self.gsts.replace(tes=command.te)
        if command.qie != self.gsts.qies:
            self.gsts = self.gsts.replace(qies=command.qie)
            self.invalidation.switch(command.qie)

    def _invalidate_contexts(self) -> None:
        if not self.ccmd.icc:
            return
        actual = Granularity.RESERVED
        if self._takes_invalidations("CCMD"):
            actual = self._actual("CCMD", command_context_cache(self._target, self.ccmd))
        self.ccmd = self.ccmd.replace(icc=False, caig=actual)

    def _invalidate_iotlb(self) -> None:
        if not self.iotlb.ivt:
            return
        actual = Granularity.RESERVED
        if self._takes_invalidations("IOTLB"):
            actual = self._actual("IOTLB", command_iotlb(self._target, self.iotlb, self.iva))
        self.iotlb = self.iotlb.replace(ivt=False, iaig=actual)

    def _takes_invalidations(self, register: str) -> bool:
        """Whether software may invalidate by register at all."""
        if self.gsts.qies:
            self.signals.refuse(BY_REGISTER.fault(register=register, reason="the invalidation queue is on"))
        return not self.gsts.qies

    def _actual(self, register: str, granularity: Granularity) -> Granularity:
        if granularity is Granularity.RESERVED:
            reason = "it has no granularity, or reaches too far"
            self.signals.refuse(BY_REGISTER.fault(register=register, reason=reason))
        return granularity

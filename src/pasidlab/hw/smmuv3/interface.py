"""The programming interface of one SMMU: registers at their offsets, and behind them the three queues.

A write goes through three filters: bits that are guarded at that moment keep their value, bits that this SMMU does not
implement become 0, and what is left takes effect at once, so that CR0ACK and IRQ_CTRLACK never lag behind.

Source: IHI 0070 G.b, 6.2 (access rules), 6.3 (registers).
Decided where the architecture leaves a choice, beside what `mmio` says: guarded writes are ignored; undefined offsets
read zero and ignore writes; page 1 registers answer at their page 0 places too; registers whose reset values are
unknown or implementation defined reset to 0, but for GBPA.SHCFG, which resets to "use incoming".
Not modelled: see `features` and `registers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from pasidlab.hw.mmio import HALF, ProgrammingInterface
from pasidlab.hw.smmuv3.execute import CommandProcessor
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.queues import COMMAND_BYTES, EVENT_BYTES, PRI_BYTES, InputQueue, OutputQueue
from pasidlab.hw.smmuv3.recorder import Recorder
from pasidlab.hw.smmuv3.records import Event, PriRecord
from pasidlab.hw.smmuv3.registers import (
    REGISTERS,
    Agbpa,
    Aidr,
    CmdqBase,
    CmdqCons,
    CmdqProd,
    Cr0,
    Cr1,
    Cr2,
    EventqBase,
    EventqCons,
    EventqProd,
    Gbpa,
    Iidr,
    Offset,
    PriqBase,
    Statusr,
    StrtabBase,
    StrtabBaseCfg,
)
from pasidlab.hw.smmuv3.signals import Signals
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.structures import ShCfg
from pasidlab.hw.smmuv3.target import CommandTarget
from pasidlab.memory import Memory
from pasidlab.rules import Rule
from pasidlab.words import Word

PAGE_1 = 0x1_0000
_ARCHITECTURE_MINOR = 1
"""SMMUv3.1; an SMMU may have single features of later versions."""


# --- the register table ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guard:
    """Keeps fields of a register from being changed.

    Attributes:
        rule: why.
        closed: whether they are, given the interface and the word that is written.
        fields: the fields that keep their value; empty for all.
    """

    rule: Rule
    closed: Callable[[Interface, Any], bool]
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Register:
    """How one register behaves.

    Attributes:
        path: the attribute of the interface that holds it.
        writable: whether software can change anything.
        guards: what can stand against a write.
        effect: what follows a write.
        needs: features without which the register reads zero and ignores writes.
        optional: fields of which the same is true, with the features they need.
        absent: fields that the modelled SMMU does not have.
    """

    path: str
    writable: bool = True
    guards: tuple[Guard, ...] = ()
    effect: Callable[[Interface], None] | None = None
    needs: tuple[str, ...] = ()
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def _guard(
    enable: str, closed: Callable[[Interface, Any], bool], fields: tuple[str, ...] = (), name: str = ""
) -> Guard:
    rule = Rule(
        f"smmu.guard-{name or enable.partition('.')[2].lower().replace('_', '-')}",
        f"{SPEC}, 6.2 and 6.3",
        f"{enable} == 1",
        f"{{register}} is written, but guarded by {enable}",
        source=SPEC,
    )
    return Guard(rule, closed, fields)


def _any_queue(at: Interface, written: Any) -> bool:
    return at.cr0.cmdqen or at.cr0.eventqen or at.cr0.priqen


_SMMUEN = _guard("CR0.SMMUEN", lambda at, written: at.cr0.smmuen)
_TABLES = Guard(_SMMUEN.rule, _SMMUEN.closed, ("table_ic", "table_oc", "table_sh"))
_QUEUES = _guard("a queue's enable in CR0", _any_queue, ("queue_ic", "queue_oc", "queue_sh"), "queues")
_CMDQEN = _guard("CR0.CMDQEN", lambda at, written: at.cr0.cmdqen)
_EVENTQEN = _guard("CR0.EVENTQEN", lambda at, written: at.cr0.eventqen)
_PRIQEN = _guard("CR0.PRIQEN", lambda at, written: at.cr0.priqen)
_GERROR_IRQEN = _guard("IRQ_CTRL.GERROR_IRQEN", lambda at, written: at.signals.irq_ctrl.gerror_irqen)
_EVENTQ_IRQEN = _guard("IRQ_CTRL.EVENTQ_IRQEN", lambda at, written: at.signals.irq_ctrl.eventq_irqen)
_PRIQ_IRQEN = _guard("IRQ_CTRL.PRIQ_IRQEN", lambda at, written: at.signals.irq_ctrl.priq_irqen)
_GBPA_UPDATE = Guard(
    Rule(
        "smmu.gbpa-update",
        f"{SPEC}, 6.3.14.1",
        "written with Update == 0",
        "{register} is written without its Update bit",
        source=SPEC,
    ),
    lambda at, written: not written.update,
)
_PRI_MSI = ("pri", "msi")
_MSI_ERRORS = dict.fromkeys(("msi_cmdq_abt_err", "msi_eventq_abt_err", "msi_gerror_abt_err"), ("msi",))
_PRI_ERRORS = {"priq_abt_err": ("pri",), "msi_priq_abt_err": _PRI_MSI}


def _read_only(path: str) -> Register:
    return Register(path, writable=False)


def _message(source: str, register: str, guard: Guard, needs: tuple[str, ...]) -> Register:
    """Return one of the three registers of an interrupt's message."""
    return Register(f"signals.{source}.{register}", guards=(guard,), needs=needs)


_TABLE: dict[Offset, Register] = {
    Offset.IDR0: _read_only("idr0"),
    Offset.IDR1: _read_only("idr1"),
    Offset.IDR2: _read_only("idr2"),
    Offset.IDR3: _read_only("idr3"),
    Offset.IDR4: _read_only("idr4"),
    Offset.IDR5: _read_only("idr5"),
    Offset.IIDR: _read_only("iidr"),
    Offset.AIDR: _read_only("aidr"),
    Offset.CR0: Register(
        "cr0",
        effect=lambda at: at._enables_written(),
        optional={"priqen": ("pri",), "atschk": ("ats",)},
        absent=("vmw", "dpt_walk_en"),
    ),
    Offset.CR0ACK: _read_only("cr0ack"),
    Offset.CR1: Register("cr1", guards=(_TABLES, _QUEUES)),
    Offset.CR2: Register(
        "cr2", guards=(_SMMUEN,), optional={"e2h": ("hyp",), "ptm": ("btm",)}, absent=("rec_cfg_ats",)
    ),
    Offset.STATUSR: _read_only("statusr"),
    Offset.GBPA: Register("gbpa", guards=(_GBPA_UPDATE,), absent=("update",)),
    Offset.AGBPA: _read_only("agbpa"),
    Offset.IRQ_CTRL: Register(
        "signals.irq_ctrl", effect=lambda at: at._interrupts_written(), optional={"priq_irqen": ("pri",)}
    ),
    Offset.IRQ_CTRLACK: _read_only("signals.irq_ctrlack"),
    Offset.GERROR: _read_only("signals.gerror"),
    Offset.GERRORN: Register(
        "signals.gerrorn",
        effect=lambda at: at._proceed(),
        optional=_MSI_ERRORS | _PRI_ERRORS,
        absent=("cmdqp_err", "dpt_err"),
    ),
    Offset.GERROR_IRQ_CFG0: _message("gerror_irq", "cfg0", _GERROR_IRQEN, ("msi",)),
    Offset.GERROR_IRQ_CFG1: _message("gerror_irq", "cfg1", _GERROR_IRQEN, ("msi",)),
    Offset.GERROR_IRQ_CFG2: _message("gerror_irq", "cfg2", _GERROR_IRQEN, ("msi",)),
    Offset.STRTAB_BASE: Register("strtab_base", guards=(_SMMUEN,)),
    Offset.STRTAB_BASE_CFG: Register(
        "strtab_base_cfg",
        guards=(_SMMUEN,),
        optional={"split": ("two_level_streams",), "fmt": ("two_level_streams",)},
    ),
    Offset.CMDQ_BASE: Register("cmdq.base", guards=(_CMDQEN,), effect=lambda at: at.cmdq.trim()),
    Offset.CMDQ_PROD: Register("cmdq.prod", effect=lambda at: at._commands_produced()),
    Offset.CMDQ_CONS: Register("cmdq.cons", guards=(_CMDQEN,), effect=lambda at: at.cmdq.trim()),
    Offset.EVENTQ_BASE: Register("eventq.base", guards=(_EVENTQEN,), effect=lambda at: at.eventq.trim()),
    Offset.EVENTQ_IRQ_CFG0: _message("eventq", "cfg0", _EVENTQ_IRQEN, ("msi",)),
    Offset.EVENTQ_IRQ_CFG1: _message("eventq", "cfg1", _EVENTQ_IRQEN, ("msi",)),
    Offset.EVENTQ_IRQ_CFG2: _message("eventq", "cfg2", _EVENTQ_IRQEN, ("msi",)),
    Offset.EVENTQ_PROD: Register("eventq.prod", guards=(_EVENTQEN,), effect=lambda at: at.eventq.trim()),
    Offset.EVENTQ_CONS: Register("eventq.cons", effect=lambda at: at._events_consumed()),
    Offset.PRIQ_BASE: Register("priq.base", guards=(_PRIQEN,), effect=lambda at: at.priq.trim(), needs=("pri",)),
    Offset.PRIQ_IRQ_CFG0: _message("priq", "cfg0", _PRIQ_IRQEN, _PRI_MSI),
    Offset.PRIQ_IRQ_CFG1: _message("priq", "cfg1", _PRIQ_IRQEN, _PRI_MSI),
    Offset.PRIQ_IRQ_CFG2: Register(
        "signals.priq.cfg2",
        guards=(_PRIQ_IRQEN,),
        needs=("pri",),
        optional={"memattr": ("msi",), "sh": ("msi",)},
    ),
    Offset.PRIQ_PROD: Register("priq.prod", guards=(_PRIQEN,), effect=lambda at: at.priq.trim(), needs=("pri",)),
    Offset.PRIQ_CONS: Register("priq.cons", effect=lambda at: at.priq.trim(), needs=("pri",)),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """32 bits of a register as one SMMU has it.

    Attributes:
        offset: of the register.
        word: its format.
        shift: 32 for the upper half of a 64-bit register, else 0.
        implemented: the bits of the whole register that this SMMU stores.
    """

    offset: Offset
    word: type[Word]
    shift: int
    implemented: int


def _implemented(offset: Offset, features: Features) -> int:
    """Return the bits of a register that software can change in an SMMU with these features."""
    register, word = _TABLE[offset], REGISTERS[offset]
    if not register.writable or not _has(features, register.needs):
        return 0
    mask = 0
    for name, bits in word.FIELDS.items():
        if name in register.absent or not _has(features, register.optional.get(name, ())):
            continue
        mask |= bits.mask & (1 << features.oas_bits) - 1 if bits.shift else bits.mask
    return mask


def _has(features: Features, names: tuple[str, ...]) -> bool:
    return all(getattr(features, name) for name in names)


def _cells(features: Features) -> dict[int, Cell]:
    """Return every 32-bit piece of every register by its offset."""
    cells = {}
    for offset in _TABLE:
        word, implemented = REGISTERS[offset], _implemented(offset, features)
        for shift in range(0, word.SIZE, 32):
            cells[offset + shift // 8] = Cell(offset, word, shift, implemented)
        if offset >= PAGE_1:
            cells[offset - PAGE_1] = cells[offset]
    return cells


# --- the interface -----------------------------------------------------------------------------------------------


class Interface(ProgrammingInterface):
    """The registers, queues and command processor of one SMMU, as they are after reset."""

    cr0: Cr0
    cmdq: InputQueue
    eventq: OutputQueue
    priq: OutputQueue
    signals: Signals

    def __init__(self, memory: Memory, features: Features, target: CommandTarget) -> None:
        self.features = features
        self._target = target
        self.idr0, self.idr1, self.idr2 = features.idr0(), features.idr1(), features.idr2()
        self.idr3, self.idr4, self.idr5 = features.idr3(), features.idr4(), features.idr5()
        self.iidr = Iidr()
        self.aidr = Aidr(archminorrev=_ARCHITECTURE_MINOR)
        self.cr0 = Cr0()
        self.cr0ack = Cr0()
        self.cr1 = Cr1()
        self.cr2 = Cr2()
        self.statusr = Statusr()
        self.gbpa = Gbpa(shcfg=ShCfg.INCOMING)
        self.agbpa = Agbpa()
        self.strtab_base = StrtabBase()
        self.strtab_base_cfg = StrtabBaseCfg()
        self.signals = Signals(memory)
        self.cmdq = InputQueue(memory, CmdqBase(), CmdqProd(), CmdqCons(), COMMAND_BYTES, features.cmdq_bits)
        self.eventq = OutputQueue(memory, EventqBase(), EventqProd(), EventqCons(), EVENT_BYTES, features.eventq_bits)
        self.priq = OutputQueue(memory, PriqBase(), EventqProd(), EventqCons(), PRI_BYTES, features.priq_bits)
        self._commands = CommandProcessor(features, target, self, self.cmdq, self.signals)
        self.recorder = Recorder(self, self.eventq, self.priq, self.signals)
        self._cells = _cells(features)

    @property
    def smmuen(self) -> bool:
        """Whether translation is on."""
        return self.cr0.smmuen

    @property
    def eventq_en(self) -> bool:
        """Whether the event queue is on."""
        return self.cr0.eventqen

    @property
    def priq_en(self) -> bool:
        """Whether the PRI queue is on, which needs translation to be on."""
        return self.cr0.priqen and self.cr0.smmuen

    @property
    def priq_overflows(self) -> bool:
        """Whether a page request that is dropped now is dropped for an overflow, and not because the queue is off."""
        return self.recorder.drops_for_overflow

    # --- memory-mapped access ------------------------------------------------------------------------------------

    def _read32(self, offset: int) -> int:
        cell = self._cells.get(offset)
        if cell is None:
            return 0
        value: int = attrgetter(_TABLE[cell.offset].path)(self)
        return value >> cell.shift & HALF

    def _write32(self, offset: int, value: int) -> None:
        cell = self._cells.get(offset)
        if cell is None or not cell.implemented:
            return
        register = _TABLE[cell.offset]
        owner, name = self._place(register.path)
        old = getattr(owner, name)
        written = cell.word(old & ~(HALF << cell.shift) | value << cell.shift)
        kept = self._kept(cell, old, written)
        setattr(owner, name, cell.word((written & ~kept | old & kept) & cell.implemented))
        if register.effect is not None:
            register.effect(self)

    def _kept(self, cell: Cell, old: int, written: Word) -> int:
        """Return the bits that a write cannot change at this moment."""
        kept = 0
        for guard in _TABLE[cell.offset].guards:
            if not guard.closed(self, written):
                continue
            guarded = cell.word.mask(*(guard.fields or cell.word.FIELDS))
            if (old ^ written) & guarded & cell.implemented:
                self.signals.refuse(guard.rule.fault(register=cell.offset.name))
            kept |= guarded
        return kept

    # --- what follows a write ------------------------------------------------------------------------------------

    def _enables_written(self) -> None:
        was_on = self.cr0ack.smmuen
        self.cr0ack = self.cr0
        if was_on and not self.cr0.smmuen:
            self._target.disabled()
        self._proceed()

    def _interrupts_written(self) -> None:
        self.signals.irq_ctrlack = self.signals.irq_ctrl

    def _commands_produced(self) -> None:
        self.cmdq.trim()
        self._commands.produced()

    def _events_consumed(self) -> None:
        self.eventq.trim()
        self.recorder.drain()

    def _proceed(self) -> None:
        """Do what an enable or the acknowledgement of an error may have allowed."""
        self.recorder.drain()
        self._commands.run()

    # --- records -------------------------------------------------------------------------------------------------

    def record_event(self, event: Event, stalled: bool = False) -> None:
        """Write an event; one of a stalled transaction waits while it cannot be written, any other is then lost."""
        self.recorder.event(event, stalled)

    def record_page_request(self, record: PriRecord) -> bool:
        """Write a page request; false: it was dropped, and `priq_overflows` tells whether for an overflow."""
        return self.recorder.page_request(record)

"""How an SMMU gets attention: global errors and interrupts.

An error is active while its bits in GERROR and GERRORN differ; the SMMU toggles the one, software copies it to the
other. Interrupts are edges: a callback, after the write of a message (MSI) where software asked for one.

Source: IHI 0070 G.b, 3.18 (interrupts), 6.3.16 to 6.3.23 (registers), 7.5 (global errors).
A write to GERRORN that acknowledges nothing makes the error active without an interrupt, as the architecture allows.
Not modelled: memory attributes of messages; the event that wakes CPUs (SEV); service failure mode.
"""

from __future__ import annotations

from pasidlab.hw.mmio import Listeners
from pasidlab.hw.smmuv3.registers import Gerror, IrqCfg0, IrqCfg1, IrqCfg2, IrqCtrl, PriqIrqCfg2
from pasidlab.memory import Memory

_MSI_BYTES = 4


class Interrupt:
    """One interrupt source with its message: `cfg0` says where, `cfg1` what, `cfg2` how.

    `name` is what the callback hears, `abort` the field of GERROR that says that the message aborted.
    """

    __slots__ = ("abort", "cfg0", "cfg1", "cfg2", "name")

    def __init__(self, name: str, abort: str, cfg2: IrqCfg2) -> None:
        self.name = name
        self.abort = abort
        self.cfg0 = IrqCfg0()
        self.cfg1 = IrqCfg1()
        self.cfg2 = cfg2


class Signals(Listeners):
    """GERROR, GERRORN, IRQ_CTRL and the interrupt sources.

    `irq` is called with "gerror", "eventq", "priq" or "sync" whenever that interrupt fires. `refused` is called with
    the rule for every guarded write, lost record, and command that is not carried out; no hardware does that.
    """

    __slots__ = (
        "eventq",
        "gerror",
        "gerror_irq",
        "gerrorn",
        "irq_ctrl",
        "irq_ctrlack",
        "memory",
        "priq",
    )

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.gerror = Gerror()
        self.gerrorn = Gerror()
        self.irq_ctrl = IrqCtrl()
        self.irq_ctrlack = IrqCtrl()
        self.gerror_irq = Interrupt("gerror", "msi_gerror_abt_err", IrqCfg2())
        self.eventq = Interrupt("eventq", "msi_eventq_abt_err", IrqCfg2())
        self.priq = Interrupt("priq", "msi_priq_abt_err", PriqIrqCfg2())

    @property
    def active(self) -> Gerror:
        """The errors that software has yet to acknowledge."""
        return Gerror(self.gerror ^ self.gerrorn)

    def error(self, name: str) -> None:
        """Activate an error, which does nothing if it is active already.

        An aborted message about an error is not followed by another message to the same address.
        """
        bit = Gerror.mask(name)
        if self.active & bit:
            return
        self.gerror = Gerror(self.gerror ^ bit)
        if name != self.gerror_irq.abort and self.irq_ctrl.gerror_irqen:
            self.fire(self.gerror_irq)

    def fire(self, source: Interrupt) -> None:
        """Let an interrupt source fire, which the caller knows to be enabled."""
        self.send(source.name, source.abort, source.cfg0.addr or None, source.cfg1.data)

    def send(self, name: str, abort: str, address: int | None, data: int) -> None:
        """Write the message, if there is an address for it, and raise the interrupt."""
        if address is not None and not self.memory.store(address, data.to_bytes(_MSI_BYTES, "little")):
            self.error(abort)
        elif self.irq is not None:
            self.irq(name)

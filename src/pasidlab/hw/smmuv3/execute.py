"""The command queue at work: commands are fetched in order, checked, and handed to what they act upon.

Every command is judged before it does anything: an illegal one stops the queue with CERROR_ILL and leaves CONS at
itself, until software acknowledges the error. Illegal goes before ignored.

Source: IHI 0070 G.b, chapter 4 (commands), 7.1 (command queue errors).
Decided where the architecture leaves a choice: reserved fields are ignored; ATC_INV with a Size above 52 covers
everything; SSV on an SMMU without substreams is ignored.
Not modelled: commands of the Secure queue, CFGI_VMS_PIDM and DPTI, which are illegal here; the level hint TTL, without
which invalidations reach a little more; Leaf of TLB invalidations, since the TLB keeps whole translations only; the
event that wakes CPUs (SYNC with CS=SEV completes silently).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pasidlab.hw.smmuv3.commands import (
    ATC_INV_ALL,
    CFGI_ALL_RANGE,
    AtcInv,
    CfgiCd,
    CfgiCdAll,
    CfgiSte,
    CfgiSteRange,
    Command,
    Cs,
    Opcode,
    PrefetchAddr,
    PrefetchConfig,
    PriResp,
    Resp,
    Resume,
    StallTerm,
    Sync,
    Tg,
    TlbiEl2All,
    TlbiEl2Asid,
    TlbiEl2Va,
    TlbiEl2Vaa,
    TlbiNhAll,
    TlbiNhAsid,
    TlbiNhVa,
    TlbiNhVaa,
    TlbiNsnhAll,
    TlbiS2Ipa,
    TlbiS12Vmall,
    command_of,
)
from pasidlab.hw.smmuv3.features import Features, StallModel
from pasidlab.hw.smmuv3.queues import InputQueue
from pasidlab.hw.smmuv3.registers import CmdqErr, Cr0
from pasidlab.hw.smmuv3.signals import Signals
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.target import CommandTarget, Regime, ResumeAction, TlbScope
from pasidlab.rules import Faulted, Rule

_SMALLEST_PAGE = 12
_ADDRESS_SPACE = 1 << 64
_SCALE_MASK = 31
"""SCALE has 5 bits where IDR5.DS is 0, as it is here."""
_GRANULE = {Tg.GRANULE_4K: 12, Tg.GRANULE_16K: 14, Tg.GRANULE_64K: 16}


# --- what makes a command illegal --------------------------------------------------------------------------------


def _rule(name: str, where: str, check: str, why: str) -> Rule:
    return Rule(f"smmu.cmd-{name}", f"{SPEC}, {where}", check, f"{{command}} {why}", source=SPEC)


class Check(NamedTuple):
    """A rule, and whether a command breaks it on an SMMU with certain features."""

    rule: Rule
    broken: Callable[[Any, Features], bool]


OPCODE = _rule("opcode", "4.1.3", "unknown opcode", "is not a command")
SECURE = _rule("secure", "4.4", "Secure or EL3 TLB invalidation", "belongs in the Secure command queue")
NO_MPAM = _rule("mpam", "4.3.5", "IDR3.MPAM == 0", "needs MPAM, which is not there")
NO_DPT = _rule("dpt", "4.6", "IDR3.DPT == 0", "needs device permission tables, which are not there")
ABORTED = _rule("abort", "7.1 CERROR_ABT", "external abort on fetch", "at index {index:#x} cannot be read")
ATC_TIMEOUT = _rule(
    "atc-sync", "7.1 CERROR_ATC_INV_SYNC", "an ATC invalidation timed out", "waits for a device that does not answer"
)
DISABLED = _rule("smmuen", "4.5", "CR0.SMMUEN == 0", "is ignored while translation is off")

SSEC = Check(
    _rule("ssec", "4.1.6", "SSec == 1", "names a Secure stream in the Non-secure queue"),
    lambda command, features: command.ssec,
)
STAGE_1 = Check(
    _rule("stage-1", "4.3.3, 4.4.2", "IDR0.S1P == 0", "needs stage 1, which is not there"),
    lambda command, features: not features.stage1,
)
STAGE_2 = Check(
    _rule("stage-2", "4.4.3", "IDR0.S2P == 0", "needs stage 2, which is not there"),
    lambda command, features: not features.stage2,
)
HYP = Check(
    _rule("hyp", "4.4.2", "IDR0.Hyp == 0", "needs EL2, which is not there"),
    lambda command, features: not features.hyp,
)
RANGE = Check(
    _rule("range", "4.4.1.1", "TG != 0 and NUM == SCALE == TTL == 0", "names a granule without a use for it"),
    lambda command, features: features.range_invalidation and _is_pointless_range(command),
)
ATS = Check(
    _rule("ats", "4.5.1", "IDR0.ATS == 0", "needs ATS, which is not there"), lambda command, features: not features.ats
)
PRI = Check(
    _rule("pri", "4.5.2", "IDR0.PRI == 0", "needs page requests, which are not there"),
    lambda command, features: not features.pri,
)
RESP = Check(
    _rule("pri-resp", "4.5.2", "Resp == 3", "gives an answer that does not exist"),
    lambda command, features: command.resp is Resp.RESERVED_3,
)
STALLS = Check(
    _rule("stall", "4.7.1, 4.7.2", "IDR0.STALL_MODEL == 1", "is about stalls, and nothing can stall"),
    lambda command, features: features.stall_model is StallModel.TERMINATE_ONLY,
)
COMPLETION = Check(
    _rule("sync-cs", "4.7.3", "CS == 3", "asks for a signal that does not exist"),
    lambda command, features: command.cs is Cs.RESERVED_3,
)

_ABSENT: dict[int, Rule] = {
    Opcode.CFGI_VMS_PIDM: NO_MPAM,
    Opcode.TLBI_EL3_ALL: SECURE,
    Opcode.TLBI_EL3_VA: SECURE,
    Opcode.TLBI_S_EL2_ALL: SECURE,
    Opcode.TLBI_S_EL2_ASID: SECURE,
    Opcode.TLBI_S_EL2_VA: SECURE,
    Opcode.TLBI_S_EL2_VAA: SECURE,
    Opcode.TLBI_S_S12_VMALL: SECURE,
    Opcode.TLBI_S_S2_IPA: SECURE,
    Opcode.TLBI_SNH_ALL: SECURE,
    Opcode.DPTI_ALL: NO_DPT,
    Opcode.DPTI_PA: NO_DPT,
}


def _is_pointless_range(command: Any) -> bool:
    """Whether a granule is given with neither a range nor a level; level 1 of 16K counts as none."""
    ttl = 0 if (command.tg, command.ttl) == (Tg.GRANULE_16K, 1) else command.ttl
    return command.tg is not Tg.NO_RANGE and not (command.num or command.scale & _SCALE_MASK or ttl)


def illegal(command: Command, features: Features) -> Rule | None:
    """Return the first rule that a command breaks."""
    entry = _COMMANDS.get(type(command))
    if entry is None:
        return _ABSENT.get(command.opcode, OPCODE)
    return next((check.rule for check in entry.checks if check.broken(command, features)), None)


# --- what a legal command does -----------------------------------------------------------------------------------


class Control(Protocol):
    """The register values that commands depend on."""

    @property
    def cr0(self) -> Cr0:
        """The enables."""


class Failure(NamedTuple):
    """Why consumption stopped: the code in CMDQ_CONS.ERR and the rule."""

    code: CmdqErr
    rule: Rule


class Place(NamedTuple):
    """Where a command is carried out."""

    features: Features
    target: CommandTarget


def tlb_scope(command: Command, regime: Regime, features: Features) -> TlbScope:
    """Return the TLB entries that an invalidation reaches.

    Without stage 2 the VMID is not looked at; where VMIDs or ASIDs have 8 bits, neither are the higher ones.
    """
    vmid, asid = getattr(command, "vmid", None), getattr(command, "asid", None)
    if not features.stage2:
        vmid = None
    if vmid is not None and not features.vmid16:
        vmid &= 0xFF
    if asid is not None and not features.asid16:
        asid &= 0xFF
    first = getattr(command, "addr", getattr(command, "ipa", None))
    if first is None:
        return TlbScope(regime, vmid, asid)
    return TlbScope(regime, vmid, asid, first, _tlbi_size(command, first, features))


def _tlbi_size(command: Any, first: int, features: Features) -> int:
    """Return how many bytes an invalidation by address covers, which does not wrap at the top."""
    if not features.range_invalidation or command.tg is Tg.NO_RANGE:
        return 1 << _SMALLEST_PAGE
    granules: int = command.num + 1 << (command.scale & _SCALE_MASK)
    return min(granules << _GRANULE[command.tg], _ADDRESS_SPACE - first)


def _ssid(command: Any, features: Features) -> int | None:
    """Return the SubstreamID of a command that may have one."""
    return command.ssid if command.ssv and features.ssid_bits else None


def _prefetch_config(command: PrefetchConfig, at: Place) -> None:
    at.target.prefetch_config(command.sid, _ssid(command, at.features))


def _prefetch_addr(command: PrefetchAddr, at: Place) -> None:
    size = 1 << _SMALLEST_PAGE + command.size
    at.target.prefetch_addr(command.sid, _ssid(command, at.features), command.addr, size)


def _cfgi_ste(command: CfgiSte, at: Place) -> None:
    at.target.cfgi_ste(command.sid, command.leaf)


def _cfgi_ste_range(command: CfgiSteRange, at: Place) -> None:
    if command.range == CFGI_ALL_RANGE:
        at.target.cfgi_all()
        return
    lg2 = command.range + 1
    at.target.cfgi_ste_range(command.sid >> lg2 << lg2, lg2)


def _cfgi_cd(command: CfgiCd, at: Place) -> None:
    at.target.cfgi_cd(command.sid, command.ssid, command.leaf)


def _cfgi_cd_all(command: CfgiCdAll, at: Place) -> None:
    at.target.cfgi_cd_all(command.sid)


def _tlbi(regime: Regime) -> Callable[[Command, Place], None]:
    def tlbi(command: Command, at: Place) -> None:
        at.target.tlbi(tlb_scope(command, regime, at.features))

    return tlbi


def _atc_inv(command: AtcInv, at: Place) -> None:
    ssid = _ssid(command, at.features)
    first, size = 0, None
    if command.size < ATC_INV_ALL:
        size = 1 << _SMALLEST_PAGE + command.size
        first = command.addr & -size
    at.target.atc_inv(command.sid, ssid, command.global_ and ssid is not None, first, size)


def _pri_resp(command: PriResp, at: Place) -> None:
    at.target.pri_resp(command.sid, _ssid(command, at.features), command.prgindex, command.resp)


def _resume(command: Resume, at: Place) -> None:
    action = ResumeAction.TERMINATE
    if command.ac:
        action = ResumeAction.RETRY
    elif command.ab or at.features.term_model:
        action = ResumeAction.ABORT
    at.target.resume(command.sid, command.stag, action)


def _stall_term(command: StallTerm, at: Place) -> None:
    at.target.stall_term(command.sid)


def _sync(command: Sync, at: Place) -> Failure | None:
    return None if at.target.atc_sync() else Failure(CmdqErr.ATC_INV_SYNC, ATC_TIMEOUT)


class Entry(NamedTuple):
    """One command: what it does, what makes it illegal, and whether CR0.SMMUEN == 0 lets it be ignored."""

    perform: Callable[[Any, Place], Failure | None]
    checks: tuple[Check, ...] = ()
    needs_smmuen: bool = False


_COMMANDS: dict[type[Command], Entry] = {
    PrefetchConfig: Entry(_prefetch_config, (SSEC,), needs_smmuen=True),
    PrefetchAddr: Entry(_prefetch_addr, (SSEC,), needs_smmuen=True),
    CfgiSte: Entry(_cfgi_ste, (SSEC,)),
    CfgiSteRange: Entry(_cfgi_ste_range, (SSEC,)),
    CfgiCd: Entry(_cfgi_cd, (SSEC, STAGE_1)),
    CfgiCdAll: Entry(_cfgi_cd_all, (SSEC, STAGE_1)),
    TlbiNhAll: Entry(_tlbi(Regime.NH), (STAGE_1,)),
    TlbiNhAsid: Entry(_tlbi(Regime.NH), (STAGE_1,)),
    TlbiNhVa: Entry(_tlbi(Regime.NH), (STAGE_1, RANGE)),
    TlbiNhVaa: Entry(_tlbi(Regime.NH), (STAGE_1, RANGE)),
    TlbiEl2All: Entry(_tlbi(Regime.EL2), (STAGE_1, HYP)),
    TlbiEl2Asid: Entry(_tlbi(Regime.EL2), (STAGE_1, HYP)),
    TlbiEl2Va: Entry(_tlbi(Regime.EL2), (STAGE_1, HYP, RANGE)),
    TlbiEl2Vaa: Entry(_tlbi(Regime.EL2), (STAGE_1, HYP, RANGE)),
    TlbiS12Vmall: Entry(_tlbi(Regime.S12), (STAGE_2,)),
    TlbiS2Ipa: Entry(_tlbi(Regime.S2), (STAGE_2, RANGE)),
    TlbiNsnhAll: Entry(_tlbi(Regime.NSNH)),
    AtcInv: Entry(_atc_inv, (SSEC, ATS), needs_smmuen=True),
    PriResp: Entry(_pri_resp, (SSEC, PRI, RESP), needs_smmuen=True),
    Resume: Entry(_resume, (SSEC, STALLS)),
    StallTerm: Entry(_stall_term, (SSEC, STALLS)),
    Sync: Entry(_sync, (COMPLETION,)),
}


# --- consumption -------------------------------------------------------------------------------------------------


class CommandProcessor:
    """Consumes the command queue whenever it may: enabled, not empty, no command error active."""

    __slots__ = ("_budget", "_control", "_features", "_running", "_signals", "_target", "queue")

    def __init__(
        self, features: Features, target: CommandTarget, control: Control, queue: InputQueue, signals: Signals
    ) -> None:
        self.queue = queue
        self._features = features
        self._target = target
        self._control = control
        self._signals = signals
        self._budget = 0
        self._running = False

    def produced(self) -> None:
        """Consume commands after software moved PROD; a run that is under way may then consume a queue full more."""
        if self._running:
            self._budget = self.queue.entries
        self.run()

    def run(self) -> None:
        """Consume commands until there are none, at the most a queue full since the start or since PROD was moved.

        What software does in reaction to a command, such as to acknowledge an error, is served by the run that is under
        way; so one that acknowledges without mending ends, too.
        """
        if self._running:
            return
        self._running = True
        self._budget = self.queue.entries
        try:
            while self._budget and self._may_consume():
                self._budget -= 1
                self._consume()
        finally:
            self._running = False

    def _may_consume(self) -> bool:
        return self._control.cr0.cmdqen and not self._signals.active.cmdq_err and self.queue.has_work

    def _consume(self) -> None:
        raw = self.queue.fetch()
        if raw is None:
            self._stop(CmdqErr.ABT, ABORTED.fault(command="the command", index=self.queue.cons.rd))
            return
        command = command_of(raw)
        failure = self._execute(command)
        if failure is not None:
            self._stop(failure.code, failure.rule.fault(command=name_of(command)))
            return
        self.queue.advance()
        if isinstance(command, Sync):
            self._complete(command)

    def _execute(self, command: Command) -> Failure | None:
        rule = illegal(command, self._features)
        if rule is not None:
            return Failure(CmdqErr.ILL, rule)
        entry = _COMMANDS[type(command)]
        if entry.needs_smmuen and not self._control.cr0.smmuen:
            self._signals.refuse(DISABLED.fault(command=name_of(command)))
            return None
        return entry.perform(command, Place(self._features, self._target))

    def _stop(self, code: CmdqErr, why: Faulted) -> None:
        self.queue.cons = self.queue.cons.replace(err=code)
        self._signals.refuse(why)
        self._signals.error("cmdq_err")

    def _complete(self, sync: Sync) -> None:
        """Signal the completion of SYNC, which has been consumed by then."""
        if sync.cs is not Cs.IRQ:
            return
        address = None
        if self._features.msi and sync.msiaddr:
            address = sync.msiaddr & (1 << self._features.oas_bits) - 1
        self._signals.send("sync", "msi_cmdq_abt_err", address, sync.msidata)


def name_of(command: Command) -> str:
    """Return the command as the architecture names it: CMD_CFGI_CD, or the opcode where there is none."""
    name = Command.FIELDS["opcode"].names.get(command.opcode)
    return f"opcode {command.opcode:#04x}" if name is None else f"CMD_{name}"

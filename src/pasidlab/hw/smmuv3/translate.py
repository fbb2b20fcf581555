"""One transaction from request to outcome: configuration, stage 1, stage 2, and the fault model of each.

Source: IHI 0070 G.b, 3.3 and 3.4 (translation, bypass, address sizes), 3.12 (terminate and stall), 7.3 (events).
A transaction whose rights a cached translation does not grant is walked again before it faults, so that a page
table that only gained rights needs no invalidation; the architecture allows both.

Not modelled: memory attributes; merging of events (STE.MEV); F_TLB_CONFLICT and F_CFG_CONFLICT, which an
implementation may report for contradictory caches and this one, which keeps one entry per tag and size, never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pasidlab.hw.pagetable.contract import ALL_RIGHTS, Access, FaultKind, Leaf, Touch, WalkFault, needed
from pasidlab.hw.pagetable.vmsa import S2_NO_WRITE
from pasidlab.hw.pagetable.walker import walk
from pasidlab.hw.smmuv3.caches import Tag, Tlb
from pasidlab.hw.smmuv3.contexts import Context, Stream
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.interface import Interface
from pasidlab.hw.smmuv3.lookup import SSID_WITHOUT_STAGE_1, BadConfig, Lookup
from pasidlab.hw.smmuv3.records import (
    CBadStreamid,
    CBadSubstreamid,
    Event,
    FAccess,
    FAddrSize,
    FPermission,
    FTranslation,
    FWalkEabt,
    TranslationClass,
)
from pasidlab.hw.smmuv3.request import Completion, Outcome, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.stalls import Stalls
from pasidlab.hw.smmuv3.structures import Config, InstCfg, PrivCfg
from pasidlab.hw.smmuv3.target import Regime
from pasidlab.hw.transaction import Operation, Translated
from pasidlab.memory import Memory
from pasidlab.rules import Rule

WHOLE = 52
"""log2 of the bytes that a bypass covers: all of memory."""

DISABLED_BYPASS = Rule(
    "smmu.disabled-bypass",
    f"{SPEC}, 6.3 GBPA",
    "SMMUEN == 0 and GBPA.ABORT == 0",
    "the SMMU is off and lets everything pass untranslated",
    source=SPEC,
)
DISABLED_ABORT = Rule(
    "smmu.disabled-abort",
    f"{SPEC}, 6.3 GBPA",
    "SMMUEN == 0 and GBPA.ABORT == 1",
    "the SMMU is off and aborts everything",
    source=SPEC,
)
CONFIG_ABORT = Rule(
    "smmu.config-abort",
    f"{SPEC}, 5.2 STE.Config",
    "Config == 0xx",
    "stream {sid:#x} is told to abort, without an event",
    source=SPEC,
)
BYPASSED = Rule(
    "smmu.bypass",
    f"{SPEC}, 5.2 STE.Config, S1DSS",
    "no stage translates",
    "stream {sid:#x} passes untranslated",
    source=SPEC,
)
BYPASS_SIZE = Rule(
    "smmu.bypass-address-size",
    f"{SPEC}, 3.4",
    "stage 1 does not translate, and the address >= 2^OAS",
    "address {address:#x} is wider than the SMMU's output",
    source=SPEC,
)
TLB_HIT = Rule(
    "smmu.tlb-hit",
    f"{SPEC}, 3.17",
    "an entry of that regime, VMID, ASID and address is cached and grants the access",
    "the translation was in the TLB",
    source=SPEC,
)
WALKED = Rule(
    "smmu.walked", f"{SPEC}, 3.4", "the page tables grant the access", "the page tables were walked", source=SPEC
)

_EVENTS: dict[FaultKind, type[Event]] = {
    FaultKind.TRANSLATION: FTranslation,
    FaultKind.ADDR_SIZE: FAddrSize,
    FaultKind.ACCESS: FAccess,
    FaultKind.PERMISSION: FPermission,
    FaultKind.EXTERNAL_ABORT: FWalkEabt,
}


@dataclass(frozen=True, slots=True)
class PageFault:
    """A walk that found no translation: the fault, what was being translated, and whose fault model applies."""

    fault: WalkFault
    translation_class: TranslationClass
    stream: Stream
    context: Context | None


Search = Leaf | PageFault | BadConfig | None
"""What a search ends in; None is a stream that is told to abort in silence."""


class Translator:
    """The data path of one SMMU."""

    def __init__(
        self, memory: Memory, features: Features, interface: Interface, lookup: Lookup, tlb: Tlb, stalls: Stalls
    ) -> None:
        self.memory = memory
        self.features = features
        self.interface = interface
        self.lookup = lookup
        self.tlb = tlb
        self.stalls = stalls

    # --- a transaction -----------------------------------------------------------------------------------------

    def translate(self, request: Request, touches: list[Touch]) -> Outcome:
        """Translate an untranslated transaction; faults are recorded in the event queue, and may stall."""
        if not self.interface.smmuen:
            return self._while_disabled(request)
        stream = self.lookup.stream(request.sid, touches)
        if isinstance(stream, BadConfig):
            return self.refuse(request, stream)
        return self.settle(request, stream, self.access_of(request, stream), touches)

    def settle(self, request: Request, stream: Stream, access: Access, touches: list[Touch]) -> Outcome:
        """Search for the translation of a transaction, and apply the fault model where there is none."""
        before = len(touches)
        found = self.search(request, stream, access, touches)
        if isinstance(found, Leaf):
            walked = len(touches) > before and touches[-1].stage
            rule = BYPASSED if found.lg2 == WHOLE else WALKED if walked else TLB_HIT
            return Translated(found.output, found.lg2, found.rights, rule)
        if isinstance(found, BadConfig):
            return self.refuse(request, found)
        if isinstance(found, PageFault):
            return self._page_fault(request, access, found)
        return Terminated(request, CONFIG_ABORT)

    def _while_disabled(self, request: Request) -> Outcome:
        if self.interface.gbpa.abort:
            return Terminated(request, DISABLED_ABORT)
        if request.address >> self.features.oas_bits:
            return Terminated(request, BYPASS_SIZE)
        return Translated(request.address, WHOLE, ALL_RIGHTS, DISABLED_BYPASS)

    def access_of(self, request: Request, stream: Stream) -> Access:
        """Return what a transaction wants, after the overrides of its STE; a write is never an instruction."""
        write = request.access == Operation.WRITE
        privileged, instruction = request.privileged, request.instruction and not write
        if self.features.attr_perms_ovr:
            ste = stream.ste
            if ste.privcfg >= PrivCfg.UNPRIVILEGED:
                privileged = ste.privcfg is PrivCfg.PRIVILEGED
            if ste.instcfg >= InstCfg.DATA and not write:
                instruction = ste.instcfg is InstCfg.INSTRUCTION
        return Access(write, instruction, privileged)

    # --- the search --------------------------------------------------------------------------------------------

    def search(self, request: Request, stream: Stream, access: Access | None, touches: list[Touch]) -> Search:
        """Find the translation of a transaction's address; without `access` no rights are asked for."""
        if stream.config < Config.BYPASS:
            return None
        if not stream.has_stage1:
            if request.ssid is not None:
                return BadConfig(SSID_WITHOUT_STAGE_1, CBadSubstreamid)
            return self._without_stage1(request, stream, access, touches)
        context = self.lookup.context(request.sid, stream, request.ssid, touches)
        if context is None:
            return self._without_stage1(request, stream, access, touches)
        if isinstance(context, BadConfig):
            if context.stage2 is not None:
                return PageFault(context.stage2, TranslationClass.CD, stream, None)
            return context
        tag = Tag(stream.regime, stream.vmid, self._asid(stream, context))
        return self._through(tag, context.stage1.canonical(request.address), access, touches, stream, context)

    def _asid(self, stream: Stream, context: Context) -> int | None:
        """Return the ASID that tags translations; EL2 has none unless it is EL2-E2H."""
        return context.cd.asid if stream.regime is not Regime.EL2 or self.interface.cr2.e2h else None

    def _without_stage1(self, request: Request, stream: Stream, access: Access | None, touches: list[Touch]) -> Search:
        address = request.address
        if address >> self.features.oas_bits:
            fault = WalkFault(FaultKind.ADDR_SIZE, BYPASS_SIZE, 1, 0, address)
            return PageFault(fault, TranslationClass.IN, stream, None)
        if stream.stage2 is None:
            return Leaf(address, WHOLE, ALL_RIGHTS, 0, 0, 0, global_=True, writable_clean=False)
        return self._through(Tag(Regime.S2, stream.vmid, None), address, access, touches, stream, None)

    def _through(
        self,
        tag: Tag,
        address: int,
        access: Access | None,
        touches: list[Touch],
        stream: Stream,
        context: Context | None,
    ) -> Leaf | PageFault:
        """Take a translation from the TLB, or walk for it and keep it: by both stages, or stage 2 alone."""
        leaf = self.tlb.lookup(tag, address)
        if leaf is not None and _grants(leaf, access):
            return _at(leaf, address)
        if context is not None:
            found = walk(self.memory, context.stage1, address, access, touches, stream.stage2)
        else:
            assert stream.stage2 is not None
            found = walk(self.memory, stream.stage2, address, access, touches)
        if isinstance(found, WalkFault):
            return PageFault(found, _class_of(found), stream, context)
        self.tlb.fill(tag, address, found)
        return found

    def prefetch(self, request: Request, *, whole: bool) -> None:
        """Fill the configuration caches, and the TLB where `whole`; nothing is recorded."""
        stream = self.lookup.stream(request.sid, [])
        if not isinstance(stream, Stream):
            return
        if whole:
            self.search(request, stream, None, [])
        elif stream.has_stage1:
            self.lookup.context(request.sid, stream, request.ssid, [])

    # --- faults ------------------------------------------------------------------------------------------------

    def refuse(self, request: Request, bad: BadConfig) -> Terminated:
        """Abort a transaction for its configuration; a bad StreamID is recorded only with CR2.RECINVSID."""
        if bad.event is CBadStreamid and not self.interface.cr2.recinvsid:
            return Terminated(request, bad.rule)
        event = event_for(bad.event, request, **self._fetch_fields(bad))
        self.interface.record_event(event)
        return Terminated(request, bad.rule, event=event)

    def _fetch_fields(self, bad: BadConfig) -> dict[str, int]:
        """Return FetchAddr, of which the bits above the output address size are reserved."""
        if bad.fetch_address is None:
            return {}
        return {"fetchaddr": bad.fetch_address & ((1 << self.features.oas_bits) - 1)}

    def _page_fault(self, request: Request, access: Access, found: PageFault) -> Terminated | Stalled:
        """Apply the fault model: CD.{A,R,S} at stage 1, STE.{S2R,S2S} at stage 2; aborts of walks always abort."""
        fault = found.fault
        records, stalls, aborts = self._model(found)
        if stalls:
            return self._stall(request, access, found)
        completion = Completion.ABORT if aborts else Completion.RAZ_WI
        if not records:
            return Terminated(request, fault.rule, completion, fault=fault)
        event = self.fault_event(request, access, found)
        self.interface.record_event(event)
        return Terminated(request, fault.rule, completion, event, fault)

    def _model(self, found: PageFault) -> tuple[bool, bool, bool]:
        """Return whether the fault is recorded, stalls, aborts."""
        if found.fault.kind is FaultKind.EXTERNAL_ABORT:
            return True, False, True
        if found.fault.stage == 2:
            return found.stream.ste.s2r or found.stream.ste.s2s, found.stream.ste.s2s, True
        if found.context is None:
            return True, False, True
        cd = found.context.cd
        return cd.r or cd.s, cd.s, cd.a

    def _stall(self, request: Request, access: Access, found: PageFault) -> Stalled:
        stag = self.stalls.add(request.sid)
        if stag is None:
            return Stalled(request, found.fault.rule, None, fault=found.fault)
        event = self.fault_event(request, access, found).replace(stall=True, stag=stag)
        self.interface.record_event(event, stalled=True)
        return Stalled(request, found.fault.rule, stag, event, found.fault)

    def fault_event(self, request: Request, access: Access, found: PageFault) -> Event:
        """Make the record of a translation-related fault."""
        fault = found.fault
        fields: dict[str, Any] = {
            "pnu": access.privileged,
            "ind": access.instruction,
            "rnw": not access.write,
            "s2": fault.stage == 2,
            "class_": found.translation_class,
            "inputaddr": request.address,
        }
        if fault.kind is FaultKind.EXTERNAL_ABORT:
            fields["fetchaddr"] = fault.fetch_address or 0
        elif fault.stage == 2:
            fields["ipa"] = fault.address & _IPA
            if fault.kind is FaultKind.PERMISSION and found.translation_class is TranslationClass.TTD:
                fields["ttrnw"] = fault.rule is not S2_NO_WRITE
        return event_for(_EVENTS[fault.kind], request, **fields)


_IPA = (1 << 52) - (1 << 12)


def event_for(kind: type[Event], request: Request, **fields: Any) -> Event:
    """Make the record of an event about a transaction."""
    ssid = request.ssid
    return kind.make(sid=request.sid, ssv=ssid is not None, ssid=ssid or 0, **fields)


def _class_of(fault: WalkFault) -> TranslationClass:
    """Return what was being translated; an abort of a stage-1 table counts as that table's own."""
    on_table = fault.on_table or (fault.stage == 1 and fault.kind is FaultKind.EXTERNAL_ABORT)
    return TranslationClass.TTD if on_table else TranslationClass.IN


def _grants(leaf: Leaf, access: Access | None) -> bool:
    """Whether a cached translation serves; a write to a clean page walks, to mark it dirty."""
    return access is None or bool(needed(access) & leaf.rights)


def _at(leaf: Leaf, address: int) -> Leaf:
    """Return a cached translation for another address of the same page."""
    offset = (1 << leaf.lg2) - 1
    output = leaf.output & ~offset | address & offset
    return leaf if output == leaf.output else leaf._replace(output=output)

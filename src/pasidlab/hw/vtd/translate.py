"""One request from device to memory: table mode, tables, first stage, second stage, and the record of a fault.

Source: Intel VT-d 4.1, 3.4 to 3.8 (translation), 3.14 (interrupt address range), 6.2 (caches), 7.1 and 7.2 (faults).
A request whose rights a cached translation does not grant is walked again before it faults, as CPUs do, so that a page
table that only gained rights needs no invalidation; so is a walk that faulted below a cached table, from the top.

Decided here: RID_PRIV counts as a supervisor request in every respect but the record. With translation off requests
without PASID pass, and all others are refused without a record. A write without PASID to the interrupt range is an
interrupt whatever the tables say. What is not recorded has the reason NONE. Pass-through in legacy mode obeys AW.
With CAP.CM, pages that the second stage alone finds not present are cached as such; the first stage never caches them.
Not modelled: interrupts; reads and writes of the same request; merging of faults of one source; atomics.
"""

from __future__ import annotations

from pasidlab.hw.pagetable.contract import ALL_RIGHTS, WRITE, Access, Leaf, Start, Touch, WalkFault, needed
from pasidlab.hw.pagetable.paging_entries import PageEntry, SecondStageLeaf
from pasidlab.hw.pagetable.vtd_second import NOT_PRESENT, SecondStage
from pasidlab.hw.pagetable.walker import walk
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.hw.transaction import Ats, Operation, Translated
from pasidlab.hw.vtd.caches import Tlb
from pasidlab.hw.vtd.contexts import Paging
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.legality import ERE_CLEAR, LEGACY_BLOCKED, LEGACY_PASID, SRE_CLEAR, Check, request_fault
from pasidlab.hw.vtd.lookup import Lookup, Refused
from pasidlab.hw.vtd.reasons import reason_of
from pasidlab.hw.vtd.records import FaultRecord, Reason
from pasidlab.hw.vtd.registers import Ttm
from pasidlab.hw.vtd.request import Blocked, Outcome, Request
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.state import Recorder, State
from pasidlab.hw.vtd.structures import TranslationType
from pasidlab.memory import Memory
from pasidlab.rules import Rule

WHOLE = 52
"""log2 of the bytes that a pass-through covers: all of memory."""
INTERRUPT_RANGE = 0xFEE
"""The MiB of addresses that are interrupts, not memory."""
MIB_LG2 = 20


def _rule(name: str, where: str, check: str, why: str) -> Rule:
    return Rule(f"vtd.{name}", f"{SPEC}, {where}", check, why, source=SPEC)


INTERRUPT = _rule(
    "interrupt",
    "3.14",
    "write without PASID to 0xFEEx_xxxx",
    "the write of device {source:#06x} to {address:#x} is an interrupt, not an access to memory",
)
DISABLED = _rule(
    "disabled", "11.4.4 GSTS.TES", "TES == 0, request without PASID", "translation is off, and requests pass"
)
DISABLED_REFUSED = _rule(
    "disabled-refused",
    "11.4.4 GSTS.TES",
    "TES == 0, and the request has a PASID, asks for a translation, says it has one, or asks for a page",
    "translation is off, and device {source:#06x} sends what needs it",
)
ABORT_DMA = _rule("abort-dma", "11.4.5 RTADDR.TTM", "TTM == 11", "every request is aborted")
TTM_INVALID = _rule(
    "ttm-invalid",
    "11.4.5 RTADDR.TTM",
    "TTM == 10; or TTM == 01 or 11 against ECAP",
    "RTADDR has a table mode that the unit does not do",
)
PASSED = _rule(
    "pass-through", "9.3 TT, 9.6 PGTT", "TT == 10, or PGTT == 100", "device {source:#06x} passes untranslated"
)
PASS_WIDTH = _rule(
    "pass-through-width",
    "3.8",
    "pass-through, address beyond the host address width (legacy mode: AW and MGAW, too)",
    "address {address:#x} is wider than what may pass through",
)
OUTPUT_INTERRUPT = _rule(
    "output-interrupt",
    "3.14",
    "the translated address is 0xFEEx_xxxx, or the address of a read without PASID",
    "address {address:#x} leads into the interrupt range",
)
TLB_HIT = _rule(
    "iotlb-hit",
    "6.2.4",
    "an entry of that domain, PASID and address is cached and grants the access",
    "the translation was in the IOTLB",
)
WALKED = _rule("walked", "3.6, 3.7", "the page tables grant the access", "the page tables were walked")

_NEEDED = tuple(
    tuple(int(needed(Access(write, False, privileged))) for write in (False, True)) for privileged in (False, True)
)
_EXECUTE = tuple(int(needed(Access(False, True, privileged))) for privileged in (False, True))
_UNWRITTEN = int(ALL_RIGHTS & ~WRITE)
_FIRST_DIRTY, _SECOND_DIRTY = int(PageEntry.mask("d")), int(SecondStageLeaf.mask("d"))
_PAGE = (1 << 64) - (1 << 12)

Found = tuple[Paging, bool]
"""How a request is translated, and whether it is a supervisor request."""


class Translator:
    """The data path of one unit; its parts are public for `ats`."""

    def __init__(
        self, memory: Memory, features: Features, state: State, lookup: Lookup, tlb: Tlb, recorder: Recorder
    ) -> None:
        self.memory = memory
        self.features = features
        self.state = state
        self.lookup = lookup
        self.tlb = tlb
        self.recorder = recorder

    # --- a request ---------------------------------------------------------------------------------------------

    def translate(self, request: Request, touches: list[Touch]) -> Outcome:
        """Translate an untranslated request; faults are recorded."""
        write = request.access is Operation.WRITE
        if request.pasid is None and request.address >> MIB_LG2 == INTERRUPT_RANGE and write:
            return Blocked(request, INTERRUPT, Reason.NONE)
        if not self.state.te:
            return self._while_disabled(request)
        found = self.find(request, touches)
        if isinstance(found, Refused):
            return self.block(request, found)
        paging, privileged = found
        instruction = request.instruction and not write
        wanted = _EXECUTE[privileged] if instruction else _NEEDED[privileged][write]
        ended = self.search(request, paging, Access(write, instruction, privileged), wanted, touches)
        return ended if isinstance(ended, Translated) else self.block(request, ended)

    def _while_disabled(self, request: Request) -> Outcome:
        if request.pasid is not None:
            return Blocked(request, DISABLED_REFUSED, Reason.NONE)
        return Translated(request.address, WHOLE, ALL_RIGHTS, DISABLED)

    def block(self, request: Request, refused: Refused, *, page_request: bool = False) -> Blocked:
        """End a request, and record its fault unless that is silenced."""
        record = None
        if refused.reason is not Reason.NONE and not refused.fpd:
            record = self.recorder.record(fault_record(request, refused.reason, page_request=page_request))
        return Blocked(request, refused.rule, refused.reason, record, refused.fault)

    # --- the tables --------------------------------------------------------------------------------------------

    def mode_fault(self) -> Refused | None:
        """Return why the table mode lets no request pass, if so."""
        mode = self.state.root.ttm
        if not self.features.has_mode(mode):
            return Refused(TTM_INVALID, Reason.ROOT_TABLE_ADDRESS)
        return Refused(ABORT_DMA) if mode is Ttm.ABORT_DMA else None

    def find(self, request: Request, touches: list[Touch]) -> Found | Refused:
        """Find how a request is translated: all checks before page tables, in order."""
        ttm = self.state.root.ttm
        if ttm is Ttm.SCALABLE and self.features.scalable:
            return self._find_scalable(request, touches)
        bad = self.mode_fault()
        return bad if bad is not None else self._find_legacy(request, touches)

    def _find_legacy(self, request: Request, touches: list[Touch]) -> Found | Refused:
        if request.pasid is not None:
            return refuse(LEGACY_PASID)
        context = self.lookup.legacy_context(request.source_id, touches)
        if isinstance(context, Refused):
            return context
        if request.ats is not Ats.UNTRANSLATED and context.tt is not TranslationType.ALL:
            return refuse(LEGACY_BLOCKED, context.paging.fpd)
        return context.paging, False

    def _find_scalable(self, request: Request, touches: list[Touch]) -> Found | Refused:
        source_id, pasid, lookup = request.source_id, request.pasid, self.lookup
        context = lookup.context(source_id, touches)
        if isinstance(context, Refused):
            return context
        bad = request_fault(request, dte=context.dte, paside=context.paside)
        if bad is not None:
            return refuse(bad, context.fpd)
        if pasid is None:
            paging, privileged = lookup.rid_pasid(source_id, context, touches), context.rid_priv
        else:
            paging, privileged = lookup.pasid(source_id, context, pasid, touches), request.privileged
        if isinstance(paging, Refused):
            return paging
        if request.instruction and not paging.ere:
            return refuse(ERE_CLEAR, paging.fpd)
        if privileged and not paging.sre:
            return refuse(SRE_CLEAR, paging.fpd)
        return paging, privileged

    # --- the page tables ---------------------------------------------------------------------------------------

    def search(
        self, request: Request, paging: Paging, access: Access | None, wanted: int, touches: list[Touch]
    ) -> Translated | Refused:
        """Find the translation of a request's address: in the IOTLB if it has the rights `wanted`, else by a walk.

        Without `access` the walk asks for no rights.
        """
        if paging.stage is None:
            return self._pass_through(request, paging)
        address = request.address
        if request.pasid is None and address >> MIB_LG2 == INTERRUPT_RANGE:
            return in_interrupt_range(paging.legacy, paging.fpd)
        leaf = self.tlb.lookup(paging.tag, address, wanted)
        if leaf is not None:
            return _arrive(leaf, address, paging, TLB_HIT)
        before = len(touches)
        found = self._known_absent(paging, address) or self._walk(paging, paging.stage, address, access, touches)
        if isinstance(found, Leaf):
            return _arrive(found, address, paging, WALKED)
        top = not any(touch.stage == 1 for touch in touches[before:])
        reason = reason_of(paging, found, write=request.access is Operation.WRITE, top=top)
        return Refused(found.rule, reason, paging.fpd, found)

    def _pass_through(self, request: Request, paging: Paging) -> Translated | Refused:
        address = request.address
        if address >> paging.limit:
            return too_wide(PASS_WIDTH, paging.legacy, paging.fpd)
        if address >> MIB_LG2 == INTERRUPT_RANGE:
            return in_interrupt_range(paging.legacy, paging.fpd)
        return Translated(address, WHOLE, ALL_RIGHTS, PASSED)

    def _known_absent(self, paging: Paging, address: int) -> WalkFault | None:
        return self.tlb.find_absent(paging.tag, address) if self.features.caching_mode else None

    def _walk(
        self, paging: Paging, stage: X86Paging | SecondStage, address: int, access: Access | None, touches: list[Touch]
    ) -> Leaf | WalkFault:
        """Walk for a translation and keep it; from a cached table if that leads anywhere, else from the top."""
        tlb, memory, below = self.tlb, self.memory, paging.below
        start = tlb.table(paging.tag, address)
        if start is not None:
            found = walk(memory, stage, address, access, touches, below, start)
            if isinstance(found, Leaf):
                tlb.fill(paging.tag, address, found, _usable(found, paging, access))
                return found
        before = len(touches)
        found = walk(memory, stage, address, access, touches, below)
        if isinstance(found, WalkFault):
            if self.features.caching_mode and paging.tag.pasid is None and found.rule is NOT_PRESENT:
                tlb.keep_absent(paging.tag, address, found)
            return found
        tlb.fill(paging.tag, address, found, _usable(found, paging, access))
        if tlb.keeps and found.level < stage.levels:
            tlb.keep_table(paging.tag, address, _lowest_table(stage, address, found, touches[before:]))
        return found


def refuse(check: Check, fpd: bool = False) -> Refused:
    """Refuse a request by a check."""
    return Refused(check.rule, check.reason, fpd)


def too_wide(rule: Rule, legacy: bool, fpd: bool) -> Refused:
    """Refuse an address that is not translated and too wide, by a rule."""
    return Refused(rule, Reason.LEGACY_BEYOND_MGAW if legacy else Reason.BEYOND_HOST_WIDTH, fpd)


def in_interrupt_range(legacy: bool, fpd: bool) -> Refused:
    """Refuse an access that leads to where interrupts are, not memory."""
    return Refused(OUTPUT_INTERRUPT, Reason.LEGACY_INTERRUPT_RANGE if legacy else Reason.INTERRUPT_RANGE, fpd)


def _arrive(leaf: Leaf, address: int, paging: Paging, rule: Rule) -> Translated | Refused:
    """Return where a translation leads for an address of its page."""
    offset = (1 << leaf.lg2) - 1
    output = leaf.output & ~offset | address & offset
    if output >> MIB_LG2 == INTERRUPT_RANGE:
        return in_interrupt_range(paging.legacy, paging.fpd)
    return Translated(output, leaf.lg2, leaf.rights, rule)


def _usable(leaf: Leaf, paging: Paging, access: Access | None) -> int:
    """Return the rights of a translation that need no further walk: not writing, where a dirty flag is still due."""
    rights = int(leaf.rights)
    if access is not None and access.write:
        return rights
    stage, below = paging.stage, paging.below
    if isinstance(stage, X86Paging):
        clean = not leaf.entry & _FIRST_DIRTY or (below is not None and below.ad)
    else:
        clean = stage is not None and stage.ad and not leaf.entry & _SECOND_DIRTY
    return rights & _UNWRITTEN if clean else rights


def _lowest_table(stage: X86Paging | SecondStage, address: int, leaf: Leaf, touches: list[Touch]) -> Start:
    """Return the table that holds a leaf, as a start for other walks through it."""
    top = stage.start(address)
    assert isinstance(top, Start)
    table, limits, number, lowest = top.table, 0, stage.stage, leaf.level
    for _, entry, _, of_stage, level, store in touches:
        if of_stage == number and level > lowest and entry is not None and not store:
            table, limits = stage.descend(entry, top.levels[-level], limits)
    return Start(table, top.levels[-lowest:], 0, limits)


def fault_record(request: Request, reason: Reason, *, page_request: bool = False) -> FaultRecord:
    """Make the record of a fault; T2 and T1 say 00 for a write, 10 (T1) for a read and 01 (T2) for a page request."""
    has_pasid = request.pasid is not None
    reads = request.access is Operation.READ or request.ats is Ats.TRANSLATION_REQUEST
    return FaultRecord(
        fi=request.address & _PAGE,
        sid=request.source_id,
        t2=page_request,
        priv=request.privileged,
        exe=request.instruction,
        pp=has_pasid,
        fr=reason,
        pv=request.pasid or 0,
        at=_ADDRESS_TYPE[request.ats],
        t1=reads and not page_request,
        f=True,
    )


_ADDRESS_TYPE = {Ats.UNTRANSLATED: 0, Ats.TRANSLATION_REQUEST: 1, Ats.TRANSLATED: 2}

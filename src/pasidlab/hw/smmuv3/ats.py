"""PCIe ATS and page requests at the SMMU: translation requests, translated transactions, responses to devices.

Source: IHI 0070 G.b, 3.9.1 (ATS interface), 7.3.6 and 7.3.8 (its events), 8.1 and 8.2 (PRI queue overflow and automatic
responses), 13.7 (PCIe permissions).
Decided where the architecture leaves a choice: write permission is granted where the page is writable, asked for or
not; a translated address beyond the output address size is aborted in silence; an SMMU without ATS, where neither
should reach it, reports a translation request as F_UUT and aborts a translated transaction in silence.
Not modelled: split-stage ATS (IDR0.NS1ATS is 1); CR2.REC_CFG_ATS, so that configuration errors met by ATS are never
recorded; PASIDs of translated transactions (IDR3.PASIDTT is 0); requests for more than one translation unit. Stage 2 is
also walked where stage 1 grants nothing, which shows only in its access flags and external aborts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from pasidlab.hw.pagetable.contract import ALL_RIGHTS, Access, FaultKind, Leaf, Touch, allowed
from pasidlab.hw.smmuv3.commands import Resp
from pasidlab.hw.smmuv3.contexts import Stream
from pasidlab.hw.smmuv3.lookup import BadConfig
from pasidlab.hw.smmuv3.records import FBadAtsTreq, FTranslForbidden, FUut, PriRecord
from pasidlab.hw.smmuv3.request import AtsCompletion, Outcome, Request, Terminated
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.structures import Config, Eats, InstCfg
from pasidlab.hw.smmuv3.translate import CONFIG_ABORT, WHOLE, PageFault, Search, Translator, event_for
from pasidlab.hw.transaction import AtsStatus, Operation, Translated
from pasidlab.memory import PAGE_SIZE
from pasidlab.rules import Rule

ATS_ABSENT = Rule(
    "smmu.ats-absent",
    f"{SPEC}, 7.3 F_UUT",
    "IDR0.ATS == 0",
    "the SMMU has no ATS, and stream {sid:#x} used it",
    source=SPEC,
)
ATS_DISABLED = Rule(
    "smmu.ats-disabled",
    f"{SPEC}, 3.9.1.2, 7.3.6 F_BAD_ATS_TREQ",
    "SMMUEN == 0, Config == 100, or EATS is not 01",
    "stream {sid:#x} may not ask for translations",
    source=SPEC,
)
ATS_CONFIG = Rule(
    "smmu.ats-config",
    f"{SPEC}, 3.9.1",
    "the configuration is bad: completer abort, without an event",
    "the translation request of stream {sid:#x}, SubstreamID {ssid}, met a bad configuration",
    source=SPEC,
)
ATS_ABORT = Rule("smmu.ats-abort", f"{SPEC}, 3.9.1", "Config == 0xx", "stream {sid:#x} is told to abort", source=SPEC)
ATS_ABSENT_PAGE = Rule(
    "smmu.ats-not-present",
    f"{SPEC}, 3.9.1",
    "F_TRANSLATION, F_ACCESS or F_ADDR_SIZE: success without rights",
    "address {address:#x} of stream {sid:#x}, SubstreamID {ssid}, is not there: the device may request the page",
    source=SPEC,
)
ATS_WALK_ABORT = Rule(
    "smmu.ats-walk-abort",
    f"{SPEC}, 3.9.1",
    "external abort on the page tables: completer abort",
    "the page tables of stream {sid:#x}, SubstreamID {ssid}, cannot be read",
    source=SPEC,
)
ATS_GRANTED = Rule(
    "smmu.ats-granted",
    f"{SPEC}, 3.9.1",
    "the page tables have a translation: success with its rights",
    "the device may keep the translation of {address:#x}",
    source=SPEC,
)
TRANSLATED_PASSES = Rule(
    "smmu.translated",
    f"{SPEC}, 3.9.1.3",
    "CR0.ATSCHK == 0, or EATS == 01",
    "the address was translated before, and is believed",
    source=SPEC,
)
TRANSLATED_FORBIDDEN = Rule(
    "smmu.translated-forbidden",
    f"{SPEC}, 3.9.1.3, 7.3.8 F_TRANSL_FORBIDDEN",
    "SMMUEN == 0; or CR0.ATSCHK == 1, and Config == 100 or EATS is not 01",
    "stream {sid:#x} says it has a translation, and may have none",
    source=SPEC,
)
TRANSLATED_SIZE = Rule(
    "smmu.translated-address-size",
    f"{SPEC}, 3.9.1.1",
    "translated address >= 2^OAS",
    "the translated address {address:#x} is wider than the SMMU's output",
    source=SPEC,
)


class AtsEndpoint(Protocol):
    """A device with an address translation cache, as the SMMU meets it."""

    def invalidate(self, ssid: int | None, *, every_ssid: bool, first: int, size: int | None) -> bool:
        """Take an invalidation request; `size` None is everything. False: the device never completes it."""

    def page_response(self, ssid: int | None, prg_index: int, response: Resp) -> None:
        """Take the response to a page request group."""


def translation_request(translator: Translator, request: Request, touches: list[Touch]) -> AtsCompletion:
    """Answer an ATS translation request; one without PASID counts as unprivileged data."""
    interface = translator.interface
    if request.ssid is None:
        request = replace(request, privileged=False, instruction=False)
    if not translator.features.ats:
        return _unsupported(translator, request)
    if not interface.smmuen:
        return _bad_request(translator, request)
    stream = translator.lookup.stream(request.sid, touches)
    if isinstance(stream, BadConfig):
        return AtsCompletion(request, AtsStatus.COMPLETER_ABORT, ATS_CONFIG)
    if stream.config < Config.BYPASS:
        return AtsCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, ATS_ABORT)
    if not _has_ats(stream):
        return _bad_request(translator, request)
    return _completion(translator, request, stream, _search(translator, request, stream, touches))


def _has_ats(stream: Stream) -> bool:
    """Whether a stream has ATS: EATS selects it, and something is translated."""
    return stream.config is not Config.BYPASS and stream.ste.eats is Eats.FULL


def _unsupported(translator: Translator, request: Request) -> AtsCompletion:
    fields = {"pnu": request.privileged, "ind": request.instruction, "rnw": True, "inputaddr": request.address}
    event = event_for(FUut, request, **fields)
    translator.interface.record_event(event)
    return AtsCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, ATS_ABSENT, event=event)


def _bad_request(translator: Translator, request: Request) -> AtsCompletion:
    write = request.access == Operation.WRITE
    fields = {"p": request.privileged, "x": request.instruction, "w": write, "r": True, "span": _ONE_UNIT}
    page = request.address & ((1 << 64) - (1 << 12))
    event = event_for(FBadAtsTreq, request, inputaddr=page, **fields)
    translator.interface.record_event(event)
    return AtsCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, ATS_DISABLED, event=event)


_ONE_UNIT = 1


def _search(translator: Translator, request: Request, stream: Stream, touches: list[Touch]) -> Search:
    """Search without asking for rights; a request to write makes a clean page dirty, if it may be written at all."""
    found = translator.search(request, stream, None, touches)
    if not isinstance(found, Leaf) or not found.writable_clean or request.access == Operation.READ:
        return found
    access = Access(write=True, privileged=translator.access_of(request, stream).privileged)
    written = translator.search(request, stream, access, touches)
    return written if isinstance(written, Leaf) else found


def _completion(translator: Translator, request: Request, stream: Stream, found: Search) -> AtsCompletion:
    if isinstance(found, Leaf):
        return _granted(translator, request, stream, found)
    if not isinstance(found, PageFault):
        return AtsCompletion(request, AtsStatus.COMPLETER_ABORT, ATS_CONFIG)
    if found.fault.kind is FaultKind.EXTERNAL_ABORT:
        return AtsCompletion(request, AtsStatus.COMPLETER_ABORT, ATS_WALK_ABORT)
    return AtsCompletion(request, AtsStatus.SUCCESS, ATS_ABSENT_PAGE, lg2=min(translator.features.granules))


def _granted(translator: Translator, request: Request, stream: Stream, leaf: Leaf) -> AtsCompletion:
    """Return what a translation grants to the privilege that counts: execution only if asked for."""
    privileged = translator.access_of(request, stream).privileged
    read, write, execute = allowed(leaf.rights, privileged=privileged)
    read, execute = _readable(translator, stream, read, execute)
    return AtsCompletion(
        request,
        AtsStatus.SUCCESS,
        ATS_GRANTED,
        address=leaf.output & -PAGE_SIZE,
        lg2=min(leaf.lg2, translator.features.oas_bits),
        read=read,
        write=write,
        execute=request.instruction and execute,
    )


def _readable(translator: Translator, stream: Stream, read: bool, execute: bool) -> tuple[bool, bool]:
    """Return what counts as readable and as executable, which INSTCFG may make one."""
    override = stream.ste.instcfg if translator.features.attr_perms_ovr else InstCfg.INCOMING
    if override is InstCfg.INSTRUCTION:
        return execute, execute
    return read, read and (execute or override is InstCfg.DATA)


def translated(translator: Translator, request: Request, touches: list[Touch]) -> Outcome:
    """Pass a translated transaction on, or refuse it where CR0.ATSCHK has it checked."""
    interface = translator.interface
    if not translator.features.ats:
        return Terminated(request, ATS_ABSENT)
    if not interface.smmuen:
        return _forbidden(translator, request)
    if interface.cr0.atschk:
        stream = translator.lookup.stream(request.sid, touches)
        if isinstance(stream, BadConfig):
            return Terminated(request, stream.rule)
        if stream.config < Config.BYPASS:
            return Terminated(request, CONFIG_ABORT)
        if not _has_ats(stream):
            return _forbidden(translator, request)
    if request.address >> translator.features.oas_bits:
        return Terminated(request, TRANSLATED_SIZE)
    return Translated(request.address, WHOLE, ALL_RIGHTS, TRANSLATED_PASSES)


def _forbidden(translator: Translator, request: Request) -> Terminated:
    event = event_for(FTranslForbidden, request, rnw=request.access == Operation.READ, inputaddr=request.address)
    translator.interface.record_event(event)
    return Terminated(request, TRANSLATED_FORBIDDEN, event=event)


@dataclass(frozen=True, slots=True)
class AutomaticResponse:
    """What the SMMU itself answers to a page request; `ssid` None is an answer without PASID."""

    response: Resp
    ssid: int | None = None


def page_request(translator: Translator, record: PriRecord) -> AutomaticResponse | None:
    """Put a device's page request into the PRI queue; returns the automatic response where it cannot go there.

    After an overflow that is Success for the last request of a group, with PASID where IDR3.PPS or STE.PPAR says so;
    for any other reason it is Failure for every request.
    """
    interface = translator.interface
    accepted = translator.features.pri and interface.priq_en and interface.record_page_request(record)
    if accepted or record.is_stop_marker:
        return None
    if not interface.priq_overflows:
        return AutomaticResponse(Resp.FAILURE)
    return _overflow_response(translator, record) if record.last else None


def _overflow_response(translator: Translator, record: PriRecord) -> AutomaticResponse:
    if not record.ssv or not translator.features.ssid_bits:
        return AutomaticResponse(Resp.SUCCESS)
    if translator.features.pps:
        return AutomaticResponse(Resp.SUCCESS, record.ssid)
    stream = translator.lookup.stream(record.sid, [])
    if not isinstance(stream, Stream):
        return AutomaticResponse(Resp.FAILURE)
    return AutomaticResponse(Resp.SUCCESS, record.ssid if stream.ste.ppar else None)

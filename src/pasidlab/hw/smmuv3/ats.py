"""PCIe ATS and page requests at the SMMU: translation requests, translated transactions, responses to devices.

Source: IHI 0070 G.b, 3.9 (PCIe, PASIDs, PRI and ATS), 8.2 (PRI queue overflow and automatic responses).
Not modelled: split-stage ATS (IDR0.NS1ATS is 1); CR2.REC_CFG_ATS, so that configuration errors of translation
requests are never recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from pasidlab.hw.pagetable.contract import FaultKind, Leaf, Rights, Touch
from pasidlab.hw.smmuv3.lookup import BadConfig, Stream
from pasidlab.hw.smmuv3.records import FBadAtsTreq, FTranslForbidden, FUut, PriRecord
from pasidlab.hw.smmuv3.request import (
    AtsCompletion,
    AtsStatus,
    Operation,
    Outcome,
    Request,
    Terminated,
    Translated,
)
from pasidlab.hw.smmuv3.structures import Config, Eats
from pasidlab.hw.smmuv3.translate import ALL_RIGHTS, WHOLE, PageFault, Translator, event_for
from pasidlab.rules import Rule

_SPEC = "IHI 0070 G.b"

ATS_ABSENT = Rule(
    "smmu.ats-absent",
    f"{_SPEC}, 7.3 F_UUT",
    "IDR0.ATS == 0",
    "the SMMU has no ATS, and stream {sid:#x} used it",
    source=_SPEC,
)
ATS_DISABLED = Rule(
    "smmu.ats-disabled",
    f"{_SPEC}, 3.9.1 F_BAD_ATS_TREQ",
    "SMMUEN == 0, Config == 100, or EATS == 00",
    "stream {sid:#x} may not ask for translations",
    source=_SPEC,
)
ATS_CONFIG = Rule(
    "smmu.ats-config",
    f"{_SPEC}, 3.9.1",
    "the configuration is bad: completer abort, without an event",
    "the translation request of stream {sid:#x}, SubstreamID {ssid}, met a bad configuration",
    source=_SPEC,
)
ATS_ABORT = Rule("smmu.ats-abort", f"{_SPEC}, 3.9.1", "Config == 000", "stream {sid:#x} is told to abort", source=_SPEC)
ATS_ABSENT_PAGE = Rule(
    "smmu.ats-not-present",
    f"{_SPEC}, 3.9.1",
    "F_TRANSLATION, F_ACCESS or F_ADDR_SIZE: success without rights",
    "address {address:#x} of stream {sid:#x}, SubstreamID {ssid}, is not there: the device may request the page",
    source=_SPEC,
)
ATS_WALK_ABORT = Rule(
    "smmu.ats-walk-abort",
    f"{_SPEC}, 3.9.1",
    "external abort on the page tables: completer abort",
    "the page tables of stream {sid:#x}, SubstreamID {ssid}, cannot be read",
    source=_SPEC,
)
ATS_GRANTED = Rule(
    "smmu.ats-granted",
    f"{_SPEC}, 3.9.1",
    "the page tables have a translation: success with its rights",
    "the device may keep the translation of {address:#x}",
    source=_SPEC,
)
TRANSLATED_PASSES = Rule(
    "smmu.translated",
    f"{_SPEC}, 3.9.2",
    "CR0.ATSCHK == 0, or EATS == 01",
    "the address was translated before, and is believed",
    source=_SPEC,
)
TRANSLATED_FORBIDDEN = Rule(
    "smmu.translated-forbidden",
    f"{_SPEC}, 3.9.2 F_TRANSL_FORBIDDEN",
    "CR0.ATSCHK == 1, and Config == 100 or EATS == 00",
    "stream {sid:#x} says it has a translation, and may have none",
    source=_SPEC,
)


class PageResponse(IntEnum):
    """CMD_PRI_RESP.Resp."""

    FAILURE = 0
    INVALID = 1
    SUCCESS = 2


class AtsEndpoint(Protocol):
    """A device with an address translation cache, as the SMMU meets it."""

    def invalidate(self, ssid: int | None, *, every_ssid: bool, first: int, size: int | None) -> bool:
        """Take an invalidation request; `size` None is everything. False: the device never completes it."""

    def page_response(self, ssid: int | None, prg_index: int, response: PageResponse) -> None:
        """Take the response to a page request group."""


def translation_request(translator: Translator, request: Request, touches: list[Touch]) -> AtsCompletion:
    """Answer an ATS translation request; one without PASID counts as unprivileged data."""
    interface = translator.interface
    if not translator.features.ats:
        interface.record_event(event_for(FUut, request, rnw=True, inputaddr=request.address))
        return AtsCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, ATS_ABSENT)
    if not interface.smmuen:
        return _bad_request(translator, request)
    stream = translator.lookup.stream(request.sid, touches)
    if isinstance(stream, BadConfig):
        return AtsCompletion(request, AtsStatus.COMPLETER_ABORT, ATS_CONFIG)
    if stream.config < Config.BYPASS:
        return AtsCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, ATS_ABORT)
    if stream.config is Config.BYPASS or stream.ste.eats is Eats.OFF:
        return _bad_request(translator, request)
    found = translator.search(request, stream, None, touches)
    return _completion(translator, request, found)


def _bad_request(translator: Translator, request: Request) -> AtsCompletion:
    write = request.access is Operation.WRITE
    fields = {"p": request.privileged, "x": request.instruction, "w": write, "r": not write}
    page = request.address & ((1 << 64) - (1 << 12))
    event = event_for(FBadAtsTreq, request, inputaddr=page, **fields)
    translator.interface.record_event(event)
    return AtsCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, ATS_DISABLED, event=event)


def _completion(translator: Translator, request: Request, found: Leaf | PageFault | BadConfig | None) -> AtsCompletion:
    if isinstance(found, PageFault):
        if found.fault.kind is not FaultKind.EXTERNAL_ABORT:
            return AtsCompletion(request, AtsStatus.SUCCESS, ATS_ABSENT_PAGE)
        event = translator.fault_event(request, request.wants, found)
        translator.interface.record_event(event)
        return AtsCompletion(request, AtsStatus.COMPLETER_ABORT, ATS_WALK_ABORT, event=event)
    if not isinstance(found, Leaf):
        return AtsCompletion(request, AtsStatus.COMPLETER_ABORT, ATS_CONFIG)
    return _granted(request, found)


def _granted(request: Request, leaf: Leaf) -> AtsCompletion:
    privileged = request.privileged and request.ssid is not None
    read, write, execute = _PRIVILEGED if privileged else _USER
    readable = bool(leaf.rights & read)
    return AtsCompletion(
        request,
        AtsStatus.SUCCESS,
        ATS_GRANTED,
        address=leaf.output & -4096,
        lg2=leaf.lg2,
        read=readable,
        write=bool(leaf.rights & write),
        execute=readable and request.instruction and bool(leaf.rights & execute),
        global_=leaf.global_,
    )


_USER = (Rights.USER_READ, Rights.USER_WRITE, Rights.USER_EXECUTE)
_PRIVILEGED = (Rights.PRIVILEGED_READ, Rights.PRIVILEGED_WRITE, Rights.PRIVILEGED_EXECUTE)


def translated(translator: Translator, request: Request, touches: list[Touch]) -> Outcome:
    """Pass a translated transaction on, or refuse it where CR0.ATSCHK has it checked."""
    interface = translator.interface
    if not translator.features.ats:
        event = event_for(FUut, request, rnw=request.access is Operation.READ, inputaddr=request.address)
        interface.record_event(event)
        return Terminated(request, ATS_ABSENT, event=event)
    if not interface.smmuen or not interface.cr0.atschk:
        return Translated(request.address, WHOLE, ALL_RIGHTS, TRANSLATED_PASSES)
    stream = translator.lookup.stream(request.sid, touches)
    if isinstance(stream, BadConfig):
        return translator.refuse(request, stream)
    if stream.config < Config.STAGE_1 or stream.ste.eats is Eats.OFF:
        forbidden = event_for(
            FTranslForbidden, request, rnw=request.access is Operation.READ, inputaddr=request.address
        )
        interface.record_event(forbidden)
        return Terminated(request, TRANSLATED_FORBIDDEN, event=forbidden)
    return Translated(request.address, WHOLE, ALL_RIGHTS, TRANSLATED_PASSES)


@dataclass(frozen=True, slots=True)
class AutomaticResponse:
    """What the SMMU itself answers to the last page request of a group; `ssid` None is an answer without PASID."""

    response: PageResponse
    ssid: int | None = None


def page_request(translator: Translator, record: PriRecord) -> AutomaticResponse | None:
    """Put a device's page request into the PRI queue; returns the automatic response where it does not fit.

    After an overflow that is Success, with PASID where IDR3.PPS or STE.PPAR says so; in any other case Failure.
    """
    interface = translator.interface
    accepted = translator.features.pri and interface.priq_en and interface.record_page_request(record)
    if accepted or not record.last or record.is_stop_marker:
        return None
    if not interface.priq_overflows:
        return AutomaticResponse(PageResponse.FAILURE)
    if not record.ssv:
        return AutomaticResponse(PageResponse.SUCCESS)
    if translator.features.pps:
        return AutomaticResponse(PageResponse.SUCCESS, record.ssid)
    stream = translator.lookup.stream(record.sid, [])
    if not isinstance(stream, Stream):
        return AutomaticResponse(PageResponse.FAILURE)
    return AutomaticResponse(PageResponse.SUCCESS, record.ssid if stream.ste.ppar else None)

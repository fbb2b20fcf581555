"""PCIe ATS and page requests at a remapping unit: translation requests, translated requests, who may request pages.

Source: Intel VT-d 4.1, 4.2 (requests of device-TLBs), 7.2 and 7.3 (recoverable faults), 7.4 (page requests).
Decided where the specification leaves a choice, or ours: write permission is granted where it was asked for, and makes
the page dirty; read permission alone never does. How faults are answered says `reasons`. A translated request is
checked up to the context entry, its PASID not at all. A page request is checked up to the size of the PASID directory:
the PASID's own entry is not looked at, so that requests of a PASID that is being torn down reach software, which drains
them.
Not modelled: untranslated-only pages (U), global and supervisor-only translations, requests for several pages.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.hw.pagetable.contract import ALL_RIGHTS, PRIVILEGED, USER, Access, Touch, allowed
from pasidlab.hw.transaction import AtsStatus, Operation, Translated
from pasidlab.hw.vtd.contexts import DeviceContext
from pasidlab.hw.vtd.legality import (
    LEGACY_BLOCKED,
    LEGACY_PAGE_REQUEST,
    PASID_BEYOND,
    PASIDE_CLEAR,
    PRE_CLEAR,
    Check,
    request_fault,
)
from pasidlab.hw.vtd.lookup import Refused
from pasidlab.hw.vtd.reasons import completion_status
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.hw.vtd.registers import Ttm
from pasidlab.hw.vtd.request import Blocked, Outcome, Request, TranslationCompletion
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.structures import TranslationType
from pasidlab.hw.vtd.translate import (
    DISABLED_REFUSED,
    INTERRUPT_RANGE,
    MIB_LG2,
    WHOLE,
    Translator,
    in_interrupt_range,
    refuse,
    too_wide,
)
from pasidlab.memory import PAGE_SIZE
from pasidlab.rules import Rule

GRANTED = Rule(
    "vtd.ats-granted",
    f"{SPEC}, 4.2",
    "the page tables grant something that was asked for",
    "the device may keep the translation of {address:#x}",
    source=SPEC,
)
NOTHING_GRANTED = Rule(
    "vtd.ats-nothing-granted",
    f"{SPEC}, 4.2",
    "the page tables have a translation, and grant the requester neither reading nor writing",
    "the page at {address:#x} is there, but not for device {source:#06x}",
    source=SPEC,
)
TRANSLATED_PASSES = Rule(
    "vtd.translated",
    f"{SPEC}, 4.2",
    "DTE == 1 (legacy mode: TT == 01)",
    "the address was translated before, and is believed",
    source=SPEC,
)
TRANSLATED_WIDTH = Rule(
    "vtd.translated-width",
    f"{SPEC}, 4.2",
    "translated address beyond the host address width",
    "the translated address {address:#x} is wider than the host's",
    source=SPEC,
)


# --- translation requests --------------------------------------------------------------------------------------------


def translation_request(translator: Translator, request: Request, touches: list[Touch]) -> TranslationCompletion:
    """Answer a translation request."""
    if not translator.state.te:
        return TranslationCompletion(request, AtsStatus.UNSUPPORTED_REQUEST, DISABLED_REFUSED)
    found = translator.find(request, touches)
    if isinstance(found, Refused):
        return _refused(translator, request, found)
    paging, privileged = found
    read, write, execute = PRIVILEGED if privileged else USER
    hoped = request.access is Operation.WRITE
    wanted = int(read) | int(write) * hoped | int(execute) * request.instruction
    ended = translator.search(request, paging, None, wanted, touches)
    if isinstance(ended, Translated) and hoped and ended.rights & write:
        access = Access(write=True, privileged=privileged)
        ended = translator.search(request, paging, access, int(write), touches)
    if isinstance(ended, Refused):
        return _refused(translator, request, ended)
    return _granted(translator, request, ended, privileged)


def _granted(translator: Translator, request: Request, found: Translated, privileged: bool) -> TranslationCompletion:
    read, write, execute = allowed(found.rights, privileged=privileged)
    write = write and request.access is Operation.WRITE
    if not read and not write:
        return TranslationCompletion(request, AtsStatus.SUCCESS, NOTHING_GRANTED, privileged=privileged)
    return TranslationCompletion(
        request,
        AtsStatus.SUCCESS,
        GRANTED,
        address=found.address & -PAGE_SIZE,
        lg2=min(found.lg2, translator.features.host_bits),
        read=read,
        write=write,
        execute=request.instruction and read and execute,
        privileged=privileged,
    )


def _refused(translator: Translator, request: Request, refused: Refused) -> TranslationCompletion:
    """Answer a request that met a fault; one that is recoverable is not recorded."""
    status = completion_status(refused.reason)
    if status is AtsStatus.SUCCESS:
        return TranslationCompletion(request, status, refused.rule, fault=refused.fault)
    blocked = translator.block(request, refused)
    return TranslationCompletion(
        request, status, refused.rule, reason=blocked.reason, record=blocked.record, fault=refused.fault
    )


# --- translated requests ---------------------------------------------------------------------------------------------


def translated(translator: Translator, request: Request, touches: list[Touch]) -> Outcome:
    """Pass a translated request on, if its device may have translations."""
    if not translator.state.te:
        return Blocked(request, DISABLED_REFUSED, Reason.NONE)
    trust = translator.mode_fault() or _trust(translator, request, touches)
    if isinstance(trust, Refused):
        return translator.block(request, trust)
    address = request.address
    if address >> translator.features.host_bits:
        return translator.block(request, too_wide(TRANSLATED_WIDTH, *trust))
    if address >> MIB_LG2 == INTERRUPT_RANGE:
        return translator.block(request, in_interrupt_range(*trust))
    return Translated(address, WHOLE, ALL_RIGHTS, TRANSLATED_PASSES)


class _Trust(NamedTuple):
    """A device may send translated requests: what decides how their faults are told."""

    legacy: bool
    fpd: bool


def _trust(translator: Translator, request: Request, touches: list[Touch]) -> _Trust | Refused:
    """Return whether a device may send translated requests."""
    if translator.state.root.ttm is Ttm.LEGACY:
        legacy = translator.lookup.legacy_context(request.source_id, touches)
        if isinstance(legacy, Refused):
            return legacy
        fpd = legacy.paging.fpd
        return _Trust(True, fpd) if legacy.tt is TranslationType.ALL else refuse(LEGACY_BLOCKED, fpd)
    context = translator.lookup.context(request.source_id, touches)
    if isinstance(context, Refused):
        return context
    bad = request_fault(request, dte=context.dte, paside=context.paside)
    return _Trust(False, context.fpd) if bad is None else refuse(bad, context.fpd)


# --- page requests ---------------------------------------------------------------------------------------------------


def page_request_refused(translator: Translator, page_request: PageRequest) -> Blocked | None:
    """Return why a device may not request a page, None where the request goes on to software."""
    request = request_of(page_request)
    if not translator.state.te:
        return Blocked(request, DISABLED_REFUSED, Reason.NONE)
    refused = translator.mode_fault() or _page_request_fault(translator, request)
    return None if refused is None else translator.block(request, refused, page_request=True)


def request_of(page_request: PageRequest) -> Request:
    """Return what a page request asks for, as a request to memory."""
    has_pasid = page_request.pp
    return Request(
        page_request.rid,
        page_request.pasid if has_pasid else None,
        page_request.addr,
        Operation.WRITE if page_request.wr else Operation.READ,
        privileged=has_pasid and page_request.pr,
        instruction=has_pasid and page_request.exe,
    )


def _page_request_fault(translator: Translator, request: Request) -> Refused | None:
    if translator.state.root.ttm is Ttm.LEGACY:
        return refuse(LEGACY_PAGE_REQUEST)
    context = translator.lookup.context(request.source_id, [])
    if isinstance(context, Refused):
        return context
    bad = _context_forbids(context, request.pasid)
    return None if bad is None else refuse(bad, context.fpd)


def _context_forbids(context: DeviceContext, pasid: int | None) -> Check | None:
    if not context.pre:
        return PRE_CLEAR
    if pasid is None:
        return None
    if not context.paside:
        return PASIDE_CLEAR
    return PASID_BEYOND if pasid >= context.pasids else None

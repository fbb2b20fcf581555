"""Which entries of the remapping tables a unit accepts, and which requests they allow, check by check.

Every check is a rule with the fault reason that its failure is recorded as; functions take an entry and the features
of the unit, and return the first check that fails.

Source: Intel VT-d 4.1, 7.1.3 (fault conditions and reasons), 9.1 to 9.6 (formats), 3.4 (requests and tables).
Decided where the specification leaves a choice, or ours: bits of a pointer above the host address width are reserved;
so are the fields of a PASID entry whose feature the unit lacks, while a context entry that enables what the unit lacks
is invalid; a context entry's RID_PASID and RID_PRIV are ignored where the unit lacks them; AW counts only where the
second stage translates.
Not modelled: memory types (ECAP.MTS is 0, so that their fields are reserved).
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.hw.transaction import Ats
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.request import Request
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.structures import (
    LEVELS,
    ContextEntry,
    Flpm,
    PasidDirectoryEntry,
    PasidEntry,
    Pgtt,
    RootEntry,
    ScalableContextEntry,
    TranslationType,
)
from pasidlab.rules import Rule


class Check(NamedTuple):
    """A check that failed: its rule, and the reason that is recorded; NONE where nothing is."""

    rule: Rule
    reason: Reason


def _check(name: str, reason: Reason, where: str, condition: str, why: str) -> Check:
    return Check(Rule(f"vtd.{name}", f"{SPEC}, {where}", condition, why, source=SPEC), reason)


_DEVICE = "device {source:#06x}"
_PASID = "{entry} of device {source:#06x}"

# --- the root table ------------------------------------------------------------------------------------------------

ROOT_ACCESS = _check(
    "root-access", Reason.ROOT_ACCESS, "9.2", "the root entry cannot be read", f"the root entry of {_DEVICE} is lost"
)
ROOT_NOT_PRESENT = _check(
    "root-not-present",
    Reason.ROOT_NOT_PRESENT,
    "9.2",
    "LP == 0, or UP == 0 for device numbers from 16 on",
    f"the half of the root entry that {_DEVICE} needs is not present",
)
ROOT_RESERVED = _check(
    "root-reserved",
    Reason.ROOT_RESERVED,
    "9.2",
    "reserved bits of that half are set",
    f"the root entry of {_DEVICE} has reserved bits set",
)
LEGACY_ROOT_ACCESS = _check(
    "legacy-root-access",
    Reason.LEGACY_ROOT_ACCESS,
    "9.1",
    "the root entry cannot be read",
    f"the root entry of {_DEVICE} is lost",
)
LEGACY_ROOT_NOT_PRESENT = _check(
    "legacy-root-not-present",
    Reason.LEGACY_ROOT_NOT_PRESENT,
    "9.1",
    "P == 0",
    f"the root entry of {_DEVICE} is not present",
)
LEGACY_ROOT_RESERVED = _check(
    "legacy-root-reserved",
    Reason.LEGACY_ROOT_RESERVED,
    "9.1",
    "reserved bits are set",
    f"the root entry of {_DEVICE} has reserved bits set",
)

# --- context entries -----------------------------------------------------------------------------------------------

CONTEXT_ACCESS = _check(
    "context-access",
    Reason.CONTEXT_ACCESS,
    "9.4",
    "the context entry cannot be read",
    f"the context entry of {_DEVICE} is lost",
)
CONTEXT_NOT_PRESENT = _check(
    "context-not-present",
    Reason.CONTEXT_NOT_PRESENT,
    "9.4",
    "P == 0",
    f"the context entry of {_DEVICE} is not present",
)
CONTEXT_RESERVED = _check(
    "context-reserved",
    Reason.CONTEXT_RESERVED,
    "9.4",
    "reserved bits are set",
    f"the context entry of {_DEVICE} has reserved bits set",
)
CONTEXT_INVALID = _check(
    "context-invalid",
    Reason.CONTEXT_INVALID,
    "9.4",
    "DTE, PASIDE or PRE is set against ECAP",
    f"the context entry of {_DEVICE} enables what the unit does not have",
)
LEGACY_CONTEXT_ACCESS = _check(
    "legacy-context-access",
    Reason.LEGACY_CONTEXT_ACCESS,
    "9.3",
    "the context entry cannot be read",
    f"the context entry of {_DEVICE} is lost",
)
LEGACY_CONTEXT_NOT_PRESENT = _check(
    "legacy-context-not-present",
    Reason.LEGACY_CONTEXT_NOT_PRESENT,
    "9.3",
    "P == 0",
    f"the context entry of {_DEVICE} is not present",
)
LEGACY_CONTEXT_RESERVED = _check(
    "legacy-context-reserved",
    Reason.LEGACY_CONTEXT_RESERVED,
    "9.3",
    "reserved bits are set",
    f"the context entry of {_DEVICE} has reserved bits set",
)
LEGACY_CONTEXT_INVALID = _check(
    "legacy-context-invalid",
    Reason.LEGACY_CONTEXT_INVALID,
    "9.3",
    "TT is reserved or against ECAP, or AW against CAP.SAGAW",
    f"the context entry of {_DEVICE} has a translation type or width that the unit does not do",
)

# --- what a context entry allows -------------------------------------------------------------------------------------

DTE_CLEAR = _check(
    "dte-clear",
    Reason.DTE_CLEAR,
    "9.4 DTE",
    "translation request or translated request, DTE == 0",
    f"{_DEVICE} may have no device-TLB",
)
PASIDE_CLEAR = _check(
    "paside-clear",
    Reason.PASIDE_CLEAR,
    "9.4 PASIDE",
    "request with PASID, PASIDE == 0",
    f"{_PASID} is refused: requests of this device may have no PASID",
)
PASID_BEYOND = _check(
    "pasid-beyond-directory",
    Reason.PASID_BEYOND_PDTS,
    "9.4 PDTS",
    "PASID >= 2^(PDTS + 13), or >= 2^(ECAP.PSS + 1)",
    f"{_PASID} is beyond the PASID directory",
)
PRE_CLEAR = _check(
    "pre-clear", Reason.PRE_CLEAR, "9.4 PRE", "page request, PRE == 0", f"{_DEVICE} may not request pages"
)
RID_PASID_BEYOND = _check(
    "rid-pasid-beyond-directory",
    Reason.RID_PASID,
    "9.4 RID_PASID",
    "request without PASID, RID_PASID >= 2^(PDTS + 13), or >= 2^(ECAP.PSS + 1)",
    f"the PASID for requests of {_DEVICE} without one is beyond the PASID directory",
)
LEGACY_BLOCKED = _check(
    "legacy-blocked",
    Reason.LEGACY_BLOCKED,
    "9.3 TT",
    "translation request or translated request, TT is not 01",
    f"{_DEVICE} may have no device-TLB",
)
LEGACY_PASID = _check(
    "legacy-pasid",
    Reason.TTM_REQUEST_WITH_PASID,
    "11.4.5 RTADDR",
    "request with PASID, TTM == 00",
    f"{_PASID}: in legacy mode every request with PASID is blocked",
)
LEGACY_PAGE_REQUEST = _check(
    "legacy-page-request",
    Reason.TTM_PAGE_REQUEST,
    "11.4.5 RTADDR",
    "page request, TTM == 00",
    f"{_DEVICE} requests a page in legacy mode",
)

# --- PASID directory and PASID entries -------------------------------------------------------------------------------

DIRECTORY_ACCESS = _check(
    "directory-access",
    Reason.DIRECTORY_ACCESS,
    "9.5",
    "the PASID directory entry cannot be read",
    f"the directory entry for {_PASID} is lost",
)
DIRECTORY_NOT_PRESENT = _check(
    "directory-not-present",
    Reason.DIRECTORY_NOT_PRESENT,
    "9.5",
    "P == 0",
    f"there is no PASID table for {_PASID}",
)
DIRECTORY_RESERVED = _check(
    "directory-reserved",
    Reason.DIRECTORY_RESERVED,
    "9.5",
    "reserved bits are set",
    f"the directory entry for {_PASID} has reserved bits set",
)
PASID_ACCESS = _check(
    "pasid-access",
    Reason.PASID_ACCESS,
    "9.6",
    "the PASID entry cannot be read",
    f"the entry of {_PASID} is lost",
)
PASID_NOT_PRESENT = _check(
    "pasid-not-present", Reason.PASID_NOT_PRESENT, "9.6", "P == 0", f"the entry of {_PASID} is not present"
)
PASID_RESERVED = _check(
    "pasid-reserved",
    Reason.PASID_RESERVED,
    "9.6",
    "reserved bits are set, or fields of features that the unit lacks",
    f"the entry of {_PASID} has reserved bits set",
)
PASID_PGTT = _check(
    "pasid-pgtt",
    Reason.PASID_INVALID,
    "9.6 PGTT",
    "PGTT is reserved, or against ECAP",
    f"the entry of {_PASID} has a translation type that the unit does not do",
)
PASID_AW = _check(
    "pasid-aw",
    Reason.PASID_INVALID,
    "9.6 AW",
    "second stage, AW is reserved or against CAP.SAGAW",
    f"the entry of {_PASID} has a width of the second stage that the unit does not do",
)
PASID_FSPM = _check(
    "pasid-fspm",
    Reason.PASID_INVALID,
    "9.6 FSPM",
    "first stage, FSPM is reserved or against CAP.FS5LP",
    f"the entry of {_PASID} has a paging mode of the first stage that the unit does not do",
)
ERE_CLEAR = _check(
    "ere-clear",
    Reason.ERE_CLEAR,
    "9.6 ERE",
    "execute request, ERE == 0",
    f"{_PASID} may not execute",
)
SRE_CLEAR = _check(
    "sre-clear",
    Reason.SRE_CLEAR,
    "9.6 SRE",
    "supervisor request, SRE == 0",
    f"{_PASID} may not act as supervisor",
)

# --- the checks ------------------------------------------------------------------------------------------------------


def beyond(address: int, features: Features) -> bool:
    """Whether an address is wider than the host's."""
    return address >> features.host_bits != 0


def root_fault(half: RootEntry, features: Features) -> Check | None:
    """Return the first check that fails of one half of a scalable-mode root entry; both have a legacy one's format."""
    if not half.p:
        return ROOT_NOT_PRESENT
    return ROOT_RESERVED if half.reserved or beyond(half.ctp, features) else None


def legacy_root_fault(entry: RootEntry, features: Features) -> Check | None:
    """Return the first check of a legacy root entry that fails."""
    if not entry.p:
        return LEGACY_ROOT_NOT_PRESENT
    return LEGACY_ROOT_RESERVED if entry.reserved or beyond(entry.ctp, features) else None


def context_fault(entry: ScalableContextEntry, features: Features) -> Check | None:
    """Return the first check of a scalable-mode context entry that fails."""
    if not entry.p:
        return CONTEXT_NOT_PRESENT
    if entry.reserved or beyond(entry.pasiddirptr, features):
        return CONTEXT_RESERVED
    lacks = (
        (entry.dte and not features.device_tlb)
        or (entry.paside and not features.pasid_bits)
        or (entry.pre and not features.page_requests)
    )
    return CONTEXT_INVALID if lacks else None


def legacy_context_fault(entry: ContextEntry, features: Features) -> Check | None:
    """Return the first check of a legacy context entry that fails."""
    if not entry.p:
        return LEGACY_CONTEXT_NOT_PRESENT
    translates = entry.tt is not TranslationType.PASS_THROUGH
    if entry.reserved or (translates and beyond(entry.ssptptr, features)):
        return LEGACY_CONTEXT_RESERVED
    done = {
        TranslationType.UNTRANSLATED_ONLY: True,
        TranslationType.ALL: features.device_tlb,
        TranslationType.PASS_THROUGH: features.pass_through,
    }
    width = LEVELS.get(entry.aw) in features.second_levels
    return None if done.get(entry.tt, False) and width else LEGACY_CONTEXT_INVALID


def directory_fault(entry: PasidDirectoryEntry, features: Features) -> Check | None:
    """Return the first check of a PASID directory entry that fails."""
    if not entry.p:
        return DIRECTORY_NOT_PRESENT
    return DIRECTORY_RESERVED if entry.reserved or beyond(entry.smptblptr, features) else None


def reserved_in_pasid_entry(features: Features) -> int:
    """Return the bits of a PASID entry that are reserved in a unit, whatever else the entry says."""
    lacking = [name for name, feature in _FEATURE_OF.items() if not getattr(features, feature)]
    return PasidEntry.RESERVED | PasidEntry.mask(*_NEVER, *lacking)


_NEVER = ("cd", "emte", "emt", "pwt", "pcd", "pat")
"""Fields of memory types, which the unit does not have."""
_FEATURE_OF = {
    "ssee": "execute_requests",
    "ssade": "second_ad",
    "pwsnp": "coherent",
    "pgsnp": "snoop_control",
    "sre": "supervisor_requests",
    "ere": "execute_requests",
    "eafe": "extended_accessed",
}
"""The feature with which a field is not reserved."""


def pasid_fault(entry: PasidEntry, features: Features, reserved: int) -> Check | None:
    """Return the first check of a PASID entry that fails; `reserved` as `reserved_in_pasid_entry` says."""
    if not entry.p:
        return PASID_NOT_PRESENT
    first, second = entry.pgtt in FIRST_STAGES, entry.pgtt in SECOND_STAGES
    if (
        entry & reserved
        or (second and beyond(entry.ssptptr, features))
        or (entry.pgtt is Pgtt.FIRST_STAGE and beyond(entry.fsptptr, features))
    ):
        return PASID_RESERVED
    if not _does(entry.pgtt, features):
        return PASID_PGTT
    if second and LEVELS.get(entry.aw) not in features.second_levels:
        return PASID_AW
    return PASID_FSPM if first and not _does_levels(entry.fspm, features) else None


FIRST_STAGES, SECOND_STAGES = (Pgtt.FIRST_STAGE, Pgtt.NESTED), (Pgtt.SECOND_STAGE, Pgtt.NESTED)


def _does(pgtt: Pgtt, features: Features) -> bool:
    done = {
        Pgtt.FIRST_STAGE: features.first_stage,
        Pgtt.SECOND_STAGE: features.second_stage,
        Pgtt.NESTED: features.nested,
        Pgtt.PASS_THROUGH: features.pass_through,
    }
    return done.get(pgtt, False)


def _does_levels(mode: Flpm, features: Features) -> bool:
    return mode is Flpm.FOUR_LEVEL or (mode is Flpm.FIVE_LEVEL and features.five_level)


def request_fault(request: Request, *, dte: bool, paside: bool) -> Check | None:
    """Return why a device may not send such a request at all, in scalable mode."""
    if request.ats is not Ats.UNTRANSLATED and not dte:
        return DTE_CLEAR
    return PASIDE_CLEAR if request.pasid is not None and not paside else None

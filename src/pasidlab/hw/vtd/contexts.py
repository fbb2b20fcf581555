"""What the bytes of context and PASID entries say: whether they are legal, and the page tables that they select.

That depends on the bytes and the features alone, so it is worked out once for a value and remembered. This is no cache
of the hardware: whoever asks has read the bytes from memory.

Source: Intel VT-d 4.1, 9.3 (legacy context entry), 9.4 (scalable-mode context entry), 9.6 (PASID entry).
Decided here: in nested translation the addresses in first-stage entries are the guest's, of which no bit is reserved;
what the second stage does not translate is its fault.
"""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.hw.cache import Cache
from pasidlab.hw.pagetable.vtd_second import SecondStage
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.hw.vtd.caches import Tag
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.legality import (
    FIRST_STAGES,
    SECOND_STAGES,
    Check,
    context_fault,
    legacy_context_fault,
    pasid_fault,
    reserved_in_pasid_entry,
)
from pasidlab.hw.vtd.structures import (
    LEVELS,
    PASID_TABLE_BITS,
    SMALLEST_DIRECTORY,
    AddressWidth,
    ContextEntry,
    Flpm,
    PasidEntry,
    Pgtt,
    ScalableContextEntry,
    TranslationType,
)

REMEMBERED = 4096
"""How many values of each kind are remembered."""
GUEST_BITS = 52
"""Width of the addresses that a first-stage entry has room for."""


class Paging(NamedTuple):
    """How requests of one PASID, or of a device in legacy mode, are translated; what is cached of its entry.

    Attributes:
        did: the domain.
        stage: the tables that translate the address; None passes it through.
        below: with nested translation, the second stage.
        tag: what translations are cached under.
        limit: the width of addresses that may pass through.
        fpd: faults are not recorded.
        sre, ere: supervisor and execute requests are allowed.
        legacy: of a legacy context entry, whose faults have reasons of their own.
    """

    did: int
    stage: X86Paging | SecondStage | None
    below: SecondStage | None
    tag: Tag
    limit: int
    fpd: bool
    sre: bool
    ere: bool
    legacy: bool = False


class DeviceContext(NamedTuple):
    """A legal scalable-mode context entry, with what every request needs of it made ready.

    Attributes:
        entry: as it was read.
        fpd, dte, paside, pre: its bits.
        directory: address of the PASID directory.
        pasids: how many PASIDs the directory and the unit have room for.
        rid_pasid, rid_priv: what requests without PASID are taken for.
    """

    entry: ScalableContextEntry
    fpd: bool
    dte: bool
    paside: bool
    pre: bool
    directory: int
    pasids: int
    rid_pasid: int
    rid_priv: bool


class LegacyContext(NamedTuple):
    """A legal legacy context entry."""

    entry: ContextEntry
    tt: TranslationType
    paging: Paging


class Decoder:
    """Reads context and PASID entries as a unit with certain features does; see the module docstring."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._reserved = reserved_in_pasid_entry(features)
        self._contexts: Cache[int, DeviceContext | Check] = Cache(REMEMBERED)
        self._legacy: Cache[int, LegacyContext | Check] = Cache(REMEMBERED)
        self._pasids: Cache[int, Paging | Check] = Cache(REMEMBERED)

    def context(self, raw: int) -> DeviceContext | Check:
        """Return what a scalable-mode context entry says, or the check that it fails."""
        known = self._contexts.get(raw)
        if known is None:
            entry = ScalableContextEntry(raw)
            known = context_fault(entry, self._features) or self._context_of(entry)
            self._contexts.put(raw, known)
        return known

    def _context_of(self, entry: ScalableContextEntry) -> DeviceContext:
        features = self._features
        return DeviceContext(
            entry,
            entry.fpd,
            entry.dte,
            entry.paside,
            entry.pre,
            entry.pasiddirptr,
            1 << min(entry.pdts + SMALLEST_DIRECTORY + PASID_TABLE_BITS, features.pasid_bits),
            entry.rid_pasid if features.rid_pasid else 0,
            entry.rid_priv and features.rid_priv,
        )

    def legacy_context(self, raw: int) -> LegacyContext | Check:
        """Return what a legacy context entry says, or the check that it fails."""
        known = self._legacy.get(raw)
        if known is None:
            entry = ContextEntry(raw)
            known = legacy_context_fault(entry, self._features) or self._legacy_context_of(entry)
            self._legacy.put(raw, known)
        return known

    def _legacy_context_of(self, entry: ContextEntry) -> LegacyContext:
        features = self._features
        second = second_stage(entry.ssptptr, entry.aw, features)
        passes = entry.tt is TranslationType.PASS_THROUGH
        paging = Paging(
            entry.did,
            None if passes else second,
            None,
            Tag(entry.did, None),
            min(second.input_bits, features.host_bits),
            entry.fpd,
            sre=True,
            ere=True,
            legacy=True,
        )
        return LegacyContext(entry, entry.tt, paging)

    def pasid(self, raw: int, pasid: int) -> Paging | Check:
        """Return what the PASID entry of a PASID says, or the check that it fails."""
        known = self._pasids.get(raw)
        if known is None:
            entry = PasidEntry(raw)
            known = pasid_fault(entry, self._features, self._reserved) or self._paging_of(entry)
            self._pasids.put(raw, known)
        if isinstance(known, Check) or known.tag.pasid is None:
            return known
        return known._replace(tag=Tag(known.did, pasid, known.tag.nested))

    def _paging_of(self, entry: PasidEntry) -> Paging:
        """Return what a legal entry says, tagged with PASID 0 where a PASID belongs into the tag."""
        nested, features = entry.pgtt is Pgtt.NESTED, self._features
        second = self._second_of(entry) if entry.pgtt in SECOND_STAGES else None
        first = first_stage(entry, features, nested=nested) if entry.pgtt in FIRST_STAGES else None
        return Paging(
            entry.did,
            first or second,
            second if nested else None,
            Tag(entry.did, 0 if first else None, nested),
            features.host_bits,
            entry.fpd,
            entry.sre,
            entry.ere,
        )

    def _second_of(self, entry: PasidEntry) -> SecondStage:
        return second_stage(entry.ssptptr, entry.aw, self._features, ad=entry.ssade, execute=entry.ssee)


def first_stage(entry: PasidEntry, features: Features, *, nested: bool) -> X86Paging:
    """Return the first stage that a legal PASID entry selects."""
    return X86Paging(
        table=entry.fsptptr,
        levels=5 if entry.fspm is Flpm.FIVE_LEVEL else 4,
        host_bits=GUEST_BITS if nested else features.host_bits,
        wpe=entry.wpe,
        nxe=entry.nxe,
        smep=entry.smep,
        eafe=entry.eafe,
        pages_1g=features.first_1g,
    )


def second_stage(
    table: int, width: AddressWidth, features: Features, *, ad: bool = False, execute: bool = False
) -> SecondStage:
    """Return the second stage of a legal entry."""
    return SecondStage(
        table=table,
        levels=LEVELS[width],
        host_bits=features.host_bits,
        mgaw=features.guest_bits,
        pages_2m=features.second_2m,
        pages_1g=features.second_1g,
        ad=ad,
        execute=execute,
        snoop=features.snoop_control,
        device_tlb=features.device_tlb,
    )

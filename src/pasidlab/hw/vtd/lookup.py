"""From source and PASID to page tables: root table, context table, PASID directory, PASID table.

Each step reads memory, notes the access with the rule it applied, and ends in what the next one needs or in a
`Refused` with its fault reason. Context entries are cached by source, PASID entries by source and PASID, until an
invalidation removes them. Entries that are not present or not legal are cached only with CAP.CM, where a driver has to
invalidate after making one present.

Source: Intel VT-d 4.1, 3.4 (tables and requests), 6.1 (caching mode), 6.2.2 and 6.2.3 (context and PASID cache),
6.5.2.1 and 6.5.2.2 (their invalidations), 7.1.3 (fault processing disable).
Decided where the specification leaves a choice, or ours: root and PASID directory entries are read anew each time; an
entry beyond the host address width cannot be read; an invalidation of the contexts of a domain reaches all of scalable
mode, which have no domain; one of a device does not look at the domain; what is cached of entries that are not present
or not legal belongs to every domain. What is cached of one translation table mode does not count in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pasidlab.hw.cache import Cache
from pasidlab.hw.pagetable.contract import Touch, WalkFault
from pasidlab.hw.vtd.contexts import Decoder, DeviceContext, LegacyContext, Paging
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.legality import (
    CONTEXT_ACCESS,
    DIRECTORY_ACCESS,
    LEGACY_CONTEXT_ACCESS,
    LEGACY_ROOT_ACCESS,
    PASID_ACCESS,
    PASID_BEYOND,
    RID_PASID_BEYOND,
    ROOT_ACCESS,
    Check,
    beyond,
    directory_fault,
    legacy_root_fault,
    root_fault,
)
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.spec import SPEC
from pasidlab.hw.vtd.state import State
from pasidlab.hw.vtd.structures import PASID_TABLE_BITS, PasidDirectoryEntry, PasidEntry, RootEntry
from pasidlab.memory import Memory
from pasidlab.rules import Rule

ROOT_READ = Rule("vtd.root-read", f"{SPEC}, 9.2", "present and legal", "the context table is known", source=SPEC)
CONTEXT_READ = Rule(
    "vtd.context-read", f"{SPEC}, 9.4", "present and legal", "the device has a legal context entry", source=SPEC
)
DIRECTORY_READ = Rule(
    "vtd.directory-read", f"{SPEC}, 9.5", "present and legal", "the PASID table is known", source=SPEC
)
PASID_READ = Rule("vtd.pasid-read", f"{SPEC}, 9.6", "present and legal", "the PASID entry is legal", source=SPEC)

ROOT_BYTES = 16
LEGACY_CONTEXT_BYTES, CONTEXT_BYTES = 16, 32
DIRECTORY_BYTES, PASID_BYTES = 8, 64
ROOT_LEVEL, CONTEXT_LEVEL, DIRECTORY_LEVEL, PASID_LEVEL = 3, 2, 1, 0
"""Levels of the touches of stage 0."""
_HALF = 64
_FPD = int(PasidEntry.mask("fpd"))
"""FPD has the same place in context, directory and PASID entries, and counts in those that are not present."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that ends here: the rule, the reason (NONE: nothing is recorded), whether FPD silences the record."""

    rule: Rule
    reason: Reason = Reason.NONE
    fpd: bool = False
    fault: WalkFault | None = None


FoundPasid = Paging | Refused


class Lookup:
    """The table side of one unit; `capacity` bounds each cache, 0 switches them off."""

    def __init__(self, memory: Memory, features: Features, state: State, capacity: int) -> None:
        self._memory = memory
        self._features = features
        self._state = state
        self._decoder = Decoder(features)
        self._contexts: Cache[int, DeviceContext | Refused] = Cache(capacity)
        self._legacy_contexts: Cache[int, LegacyContext | Refused] = Cache(capacity)
        self._pasids: Cache[tuple[int, int], FoundPasid] = Cache(capacity)

    # --- root and context tables -------------------------------------------------------------------------------

    def context(self, source_id: int, touches: list[Touch]) -> DeviceContext | Refused:
        """Return the scalable-mode context entry of a device."""
        found = self._contexts.get(source_id)
        if found is None:
            found = self._find_context(source_id, touches)
            if not isinstance(found, Refused) or self._keeps(found):
                self._contexts.put(source_id, found)
        return found

    def _find_context(self, source_id: int, touches: list[Touch]) -> DeviceContext | Refused:
        device = source_id & 0xFF
        table = self._context_table(source_id, touches)
        if isinstance(table, Refused):
            return table
        place = table + (device & 0x7F) * CONTEXT_BYTES
        raw = self._fetch(place, CONTEXT_BYTES)
        if raw is None:
            return _refuse(CONTEXT_ACCESS, place, None, CONTEXT_LEVEL, touches)
        context = self._decoder.context(raw)
        if isinstance(context, Check):
            return _refuse(context, place, raw, CONTEXT_LEVEL, touches)
        touches.append(Touch(place, raw, CONTEXT_READ, 0, CONTEXT_LEVEL))
        return context

    def _context_table(self, source_id: int, touches: list[Touch]) -> int | Refused:
        """Return the address of the context table of a device, from its half of the root entry."""
        place, raw = self._read_root(source_id)
        if raw is None:
            return _refuse(ROOT_ACCESS, place, None, ROOT_LEVEL, touches)
        half = raw >> _HALF if source_id & 0x80 else raw & (1 << _HALF) - 1
        bad = root_fault(half, self._features)
        if bad is not None:
            return _refuse(bad, place, raw, ROOT_LEVEL, touches)
        touches.append(Touch(place, raw, ROOT_READ, 0, ROOT_LEVEL))
        return RootEntry(half).ctp

    def legacy_context(self, source_id: int, touches: list[Touch]) -> LegacyContext | Refused:
        """Return the legacy context entry of a device."""
        found = self._legacy_contexts.get(source_id)
        if found is None:
            found = self._find_legacy_context(source_id, touches)
            if not isinstance(found, Refused) or self._keeps(found):
                self._legacy_contexts.put(source_id, found)
        return found

    def _find_legacy_context(self, source_id: int, touches: list[Touch]) -> LegacyContext | Refused:
        place, raw = self._read_root(source_id)
        if raw is None:
            return _refuse(LEGACY_ROOT_ACCESS, place, None, ROOT_LEVEL, touches)
        root = RootEntry(raw)
        bad = legacy_root_fault(root, self._features)
        if bad is not None:
            return _refuse(bad, place, raw, ROOT_LEVEL, touches)
        touches.append(Touch(place, raw, ROOT_READ, 0, ROOT_LEVEL))
        place = root.ctp + (source_id & 0xFF) * LEGACY_CONTEXT_BYTES
        raw = self._fetch(place, LEGACY_CONTEXT_BYTES)
        if raw is None:
            return _refuse(LEGACY_CONTEXT_ACCESS, place, None, CONTEXT_LEVEL, touches)
        context = self._decoder.legacy_context(raw)
        if isinstance(context, Check):
            return _refuse(context, place, raw, CONTEXT_LEVEL, touches)
        touches.append(Touch(place, raw, CONTEXT_READ, 0, CONTEXT_LEVEL))
        return context

    def _read_root(self, source_id: int) -> tuple[int, int | None]:
        place = self._state.root.rta + (source_id >> 8) * ROOT_BYTES
        return place, self._fetch(place, ROOT_BYTES)

    def _keeps(self, bad: Refused) -> bool:
        """Whether an entry that refuses requests is cached; one that could not be read never is."""
        return self._features.caching_mode and bad.reason not in _UNREADABLE

    # --- PASID directory and table -----------------------------------------------------------------------------

    def rid_pasid(self, source_id: int, context: DeviceContext, touches: list[Touch]) -> FoundPasid:
        """Return how requests of a device without PASID are translated."""
        if context.rid_pasid >= context.pasids:
            return Refused(RID_PASID_BEYOND.rule, RID_PASID_BEYOND.reason, context.fpd)
        return self._pasid(source_id, context, context.rid_pasid, touches)

    def pasid(self, source_id: int, context: DeviceContext, pasid: int, touches: list[Touch]) -> FoundPasid:
        """Return how requests of a device with a PASID are translated."""
        if pasid >= context.pasids:
            return Refused(PASID_BEYOND.rule, PASID_BEYOND.reason, context.fpd)
        return self._pasid(source_id, context, pasid, touches)

    def _pasid(self, source_id: int, context: DeviceContext, pasid: int, touches: list[Touch]) -> FoundPasid:
        found = self._pasids.get((source_id, pasid))
        if found is None:
            found = self._find_pasid(context, pasid, touches)
            if not isinstance(found, Refused) or self._keeps(found):
                self._pasids.put((source_id, pasid), found)
        return found if found.fpd or not context.fpd else _silenced(found)

    def _find_pasid(self, context: DeviceContext, pasid: int, touches: list[Touch]) -> FoundPasid:
        place = context.directory + (pasid >> PASID_TABLE_BITS) * DIRECTORY_BYTES
        raw = self._fetch(place, DIRECTORY_BYTES)
        if raw is None:
            return _refuse(DIRECTORY_ACCESS, place, None, DIRECTORY_LEVEL, touches)
        entry = PasidDirectoryEntry(raw)
        bad = directory_fault(entry, self._features)
        if bad is not None:
            return _refuse(bad, place, raw, DIRECTORY_LEVEL, touches)
        touches.append(Touch(place, raw, DIRECTORY_READ, 0, DIRECTORY_LEVEL))
        found = self._read_pasid_entry(entry.smptblptr, pasid, touches)
        return _silenced(found) if entry.fpd and not found.fpd else found

    def _read_pasid_entry(self, table: int, pasid: int, touches: list[Touch]) -> FoundPasid:
        place = table + (pasid & (1 << PASID_TABLE_BITS) - 1) * PASID_BYTES
        raw = self._fetch(place, PASID_BYTES)
        if raw is None:
            return _refuse(PASID_ACCESS, place, None, PASID_LEVEL, touches)
        paging = self._decoder.pasid(raw, pasid)
        if isinstance(paging, Check):
            return _refuse(paging, place, raw, PASID_LEVEL, touches)
        touches.append(Touch(place, raw, PASID_READ, 0, PASID_LEVEL))
        return paging

    def _fetch(self, address: int, size: int) -> int | None:
        if beyond(address, self._features):
            return None
        data = self._memory.load(address, size)
        return None if data is None else int.from_bytes(data, "little")

    # --- looking -----------------------------------------------------------------------------------------------

    @property
    def cached_contexts(self) -> Mapping[int, DeviceContext | Refused]:
        """The scalable-mode context that is kept for each source."""
        return MappingProxyType(self._contexts.entries)

    @property
    def cached_legacy_contexts(self) -> Mapping[int, LegacyContext | Refused]:
        """The legacy context that is kept for each source."""
        return MappingProxyType(self._legacy_contexts.entries)

    @property
    def cached_pasids(self) -> Mapping[tuple[int, int], FoundPasid]:
        """What is kept for each source and PASID."""
        return MappingProxyType(self._pasids.entries)

    # --- invalidation ------------------------------------------------------------------------------------------

    def forget_contexts(self, did: int | None = None, source_id: int | None = None, function_mask: int = 0) -> None:
        """Forget context entries: all, of a domain, or of a device and what `function_mask` adds to it."""
        if source_id is not None:
            care = ~_IGNORED[function_mask]
            self._contexts.drop_where(lambda key: key & care == source_id & care)
            self._legacy_contexts.drop_where(lambda key: key & care == source_id & care)
            return
        self._contexts.clear()
        legacy = self._legacy_contexts.entries
        self._legacy_contexts.drop_where(lambda key: did is None or _domain_of_context(legacy[key]) in (did, None))

    def forget_pasids(self, did: int | None = None, pasid: int | None = None) -> None:
        """Forget PASID entries: all, of a domain, or of a PASID in a domain; of whichever device."""
        if did is None:
            self._pasids.clear()
            return
        entries = self._pasids.entries
        self._pasids.drop_where(lambda key: pasid in (None, key[1]) and _domain_of_paging(entries[key]) in (did, None))

    def clear(self) -> None:
        """Forget everything."""
        for cache in (self._contexts, self._legacy_contexts, self._pasids):
            cache.clear()


_IGNORED = (0, 4, 6, 7)
"""The bits of the function number that do not count, by function mask."""
_UNREADABLE = frozenset(
    check.reason
    for check in (
        ROOT_ACCESS,
        CONTEXT_ACCESS,
        LEGACY_ROOT_ACCESS,
        LEGACY_CONTEXT_ACCESS,
        DIRECTORY_ACCESS,
        PASID_ACCESS,
    )
)


def _refuse(check: Check, place: int, raw: int | None, level: int, touches: list[Touch]) -> Refused:
    """Refuse a request because of an entry; its own FPD counts, except in root entries, which have none."""
    touches.append(Touch(place, raw, check.rule, 0, level))
    fpd = raw is not None and level != ROOT_LEVEL and raw & _FPD != 0
    return Refused(check.rule, check.reason, fpd)


def _silenced(found: FoundPasid) -> FoundPasid:
    """Apply the FPD of an entry above."""
    return Refused(found.rule, found.reason, True) if isinstance(found, Refused) else found._replace(fpd=True)


def _domain_of_context(found: LegacyContext | Refused) -> int | None:
    return found.paging.did if isinstance(found, LegacyContext) else None


def _domain_of_paging(found: FoundPasid) -> int | None:
    return found.did if isinstance(found, Paging) else None

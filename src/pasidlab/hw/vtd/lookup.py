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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

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

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

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


class _Step(NamedTuple):
    """One kind of entry on the way to the page tables.

    Attributes:
        size: its bytes.
        level: of the touches of such entries.
        unreadable: the check that fails where memory does not answer.
        legal: the rule that is applied to one that is present and legal.
    """

    size: int
    level: int
    unreadable: Check
    legal: Rule


_ROOT = _Step(ROOT_BYTES, ROOT_LEVEL, ROOT_ACCESS, ROOT_READ)
_LEGACY_ROOT = _Step(ROOT_BYTES, ROOT_LEVEL, LEGACY_ROOT_ACCESS, ROOT_READ)
_CONTEXT = _Step(CONTEXT_BYTES, CONTEXT_LEVEL, CONTEXT_ACCESS, CONTEXT_READ)
_LEGACY_CONTEXT = _Step(LEGACY_CONTEXT_BYTES, CONTEXT_LEVEL, LEGACY_CONTEXT_ACCESS, CONTEXT_READ)
_DIRECTORY = _Step(DIRECTORY_BYTES, DIRECTORY_LEVEL, DIRECTORY_ACCESS, DIRECTORY_READ)
_PASID = _Step(PASID_BYTES, PASID_LEVEL, PASID_ACCESS, PASID_READ)
_UNREADABLE = frozenset(
    step.unreadable.reason for step in (_ROOT, _LEGACY_ROOT, _CONTEXT, _LEGACY_CONTEXT, _DIRECTORY, _PASID)
)


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
        return found or self._keep(self._contexts, source_id, self._find_context(source_id, touches))

    def _find_context(self, source_id: int, touches: list[Touch]) -> DeviceContext | Refused:
        place = self._root_place(source_id)
        table = self._read(_ROOT, place, lambda raw: self._context_table(raw, source_id), touches)
        if isinstance(table, Refused):
            return table
        return self._read(_CONTEXT, table + (source_id & 0x7F) * CONTEXT_BYTES, self._decoder.context, touches)

    def _context_table(self, root: int, source_id: int) -> int | Check:
        """Return the address of the context table of a device, from its half of the root entry."""
        half = RootEntry(root >> _HALF if source_id & 0x80 else root & (1 << _HALF) - 1)
        return root_fault(half, self._features) or half.ctp

    def legacy_context(self, source_id: int, touches: list[Touch]) -> LegacyContext | Refused:
        """Return the legacy context entry of a device."""
        found = self._legacy_contexts.get(source_id)
        return found or self._keep(self._legacy_contexts, source_id, self._find_legacy_context(source_id, touches))

    def _find_legacy_context(self, source_id: int, touches: list[Touch]) -> LegacyContext | Refused:
        table = self._read(_LEGACY_ROOT, self._root_place(source_id), self._legacy_context_table, touches)
        if isinstance(table, Refused):
            return table
        place = table + (source_id & 0xFF) * LEGACY_CONTEXT_BYTES
        return self._read(_LEGACY_CONTEXT, place, self._decoder.legacy_context, touches)

    def _legacy_context_table(self, root: int) -> int | Check:
        entry = RootEntry(root)
        return legacy_root_fault(entry, self._features) or entry.ctp

    def _root_place(self, source_id: int) -> int:
        return self._state.root.rta + (source_id >> 8) * ROOT_BYTES

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
        key = source_id, pasid
        found = self._pasids.get(key) or self._keep(self._pasids, key, self._find_pasid(context, pasid, touches))
        return found if found.fpd or not context.fpd else _silenced(found)

    def _find_pasid(self, context: DeviceContext, pasid: int, touches: list[Touch]) -> FoundPasid:
        place = context.directory + (pasid >> PASID_TABLE_BITS) * DIRECTORY_BYTES
        above = self._read(_DIRECTORY, place, self._directory_entry, touches)
        if isinstance(above, Refused):
            return above
        place = above.smptblptr + (pasid & (1 << PASID_TABLE_BITS) - 1) * PASID_BYTES
        found = self._read(_PASID, place, lambda raw: self._decoder.pasid(raw, pasid), touches)
        return _silenced(found) if above.fpd and not found.fpd else found

    def _directory_entry(self, raw: int) -> PasidDirectoryEntry | Check:
        entry = PasidDirectoryEntry(raw)
        return directory_fault(entry, self._features) or entry

    # --- any entry ---------------------------------------------------------------------------------------------

    def _read(self, step: _Step, place: int, decode: Callable[[int], T | Check], touches: list[Touch]) -> T | Refused:
        """Read an entry, and return what `decode` makes of it."""
        size, level, unreadable, legal = step
        data = None if beyond(place, self._features) else self._memory.load(place, size)
        if data is None:
            return _refuse(unreadable, place, None, level, touches)
        raw = int.from_bytes(data, "little")
        found = decode(raw)
        if isinstance(found, Check):
            return _refuse(found, place, raw, level, touches)
        touches.append(Touch(place, raw, legal, 0, level))
        return found

    def _keep(self, cache: Cache[K, V], key: K, found: V) -> V:
        """Cache what was found, if it may be cached, and return it."""
        if not isinstance(found, Refused) or self._keeps(found):
            cache.put(key, found)
        return found

    def _keeps(self, bad: Refused) -> bool:
        """Whether an entry that refuses requests is cached; one that could not be read never is."""
        return self._features.caching_mode and bad.reason not in _UNREADABLE

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

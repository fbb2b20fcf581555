"""Compiled: from source and PASID to stages that are ready for a walk; see `lookup`, `legality` and `contexts`.

Source: Intel VT-d 4.1, 3.4 and 9.1 to 9.6, as those modules have it.
Not modelled: what those modules leave out, and caches.
"""

from __future__ import annotations

from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.numbers import INSTRUCTION, PRIVILEGED, Words, places
from pasidlab.hw.batch.store import Store, aborts, part, word_index
from pasidlab.hw.pagetable.intel import ADDRESS
from pasidlab.hw.pagetable.paging_entries import PagingEntry, SecondStageEntry
from pasidlab.hw.vtd import batch_tables as tables
from pasidlab.hw.vtd.batch_records import Stage, Unit
from pasidlab.hw.vtd.batch_tables import RULE, words_of
from pasidlab.hw.vtd.batch_walk import Found, input_bits, refused
from pasidlab.hw.vtd.lookup import (
    CONTEXT_BYTES,
    DIRECTORY_BYTES,
    LEGACY_CONTEXT_BYTES,
    PASID_BYTES,
    ROOT_BYTES,
)
from pasidlab.hw.vtd.structures import (
    PASID_TABLE_BITS,
    SMALLEST_DIRECTORY,
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    Pgtt,
    RootEntry,
    ScalableContextEntry,
    TranslationType,
)

ROOT, LEGACY, CONTEXT = places(RootEntry), places(ContextEntry), places(ScalableContextEntry)
DIRECTORY, PASID = places(PasidDirectoryEntry), places(PasidEntry)
_ROOT_RESERVED = words_of(RootEntry.RESERVED, ROOT_BYTES // 8)
_LEGACY_RESERVED = words_of(ContextEntry.RESERVED, LEGACY_CONTEXT_BYTES // 8)
_CONTEXT_RESERVED = words_of(ScalableContextEntry.RESERVED, CONTEXT_BYTES // 8)
_DIRECTORY_RESERVED = words_of(PasidDirectoryEntry.RESERVED, 1)[0]

FIRST_STAGE, SECOND_STAGE = int(Pgtt.FIRST_STAGE), int(Pgtt.SECOND_STAGE)
NESTED, PASS_THROUGH = int(Pgtt.NESTED), int(Pgtt.PASS_THROUGH)
_TT_PASS = int(TranslationType.PASS_THROUGH)
_PRESENT = int(PagingEntry.mask("p"))
_R_W, _R_W_X = int(SecondStageEntry.mask("r", "w")), int(SecondStageEntry.mask("r", "w", "x"))
_A, _A_EA = int(PagingEntry.mask("a")), int(PagingEntry.mask("a", "ea"))


# --- entries ---------------------------------------------------------------------------------------------------------


@compiled
def beyond(unit: Unit, address: int) -> bool:
    """Whether an address is wider than the host's."""
    return address >> unit.setup.host_bits != 0


@compiled
def unreadable(memory: Store, unit: Unit, address: int, size: int) -> bool:
    """Whether an entry cannot be read."""
    return beyond(unit, address) or aborts(memory, unit, address, size)


@compiled
def fetch(memory: Store, room: Words, address: int, size: int) -> None:
    """Keep the words of an entry."""
    index = word_index(memory, address)
    for word in range(size // 8):
        room[word] = memory.words[index + word]


@compiled
def check(unit: Unit, rule: int) -> Found:
    """End by a check, or say that none failed."""
    return refused(rule, unit.told.check_reasons[rule])


# --- root and context tables -----------------------------------------------------------------------------------------


@compiled
def find_context(memory: Store, unit: Unit, source: int) -> int:
    """Read the scalable-mode context entry of a device; returns the check that fails, 0 for none."""
    place = unit.setup.rta + (source >> 8) * ROOT_BYTES
    if unreadable(memory, unit, place, ROOT_BYTES):
        return RULE.ROOT_ACCESS
    half = memory.words[word_index(memory, place) + (source >> 7 & 1)]
    if not part(half, ROOT.p):
        return RULE.ROOT_NOT_PRESENT
    if half & _ROOT_RESERVED[0] or beyond(unit, part(half, ROOT.ctp)):
        return RULE.ROOT_RESERVED
    place = part(half, ROOT.ctp) + (source & 0x7F) * CONTEXT_BYTES
    if unreadable(memory, unit, place, CONTEXT_BYTES):
        return RULE.CONTEXT_ACCESS
    fetch(memory, unit.context, place, CONTEXT_BYTES)
    return context_fault(unit)


@compiled
def context_fault(unit: Unit) -> int:
    """Check a scalable-mode context entry, and mind its FPD."""
    entry = unit.context
    unit.quiet |= part(entry[0], CONTEXT.fpd)
    if not part(entry[0], CONTEXT.p):
        return RULE.CONTEXT_NOT_PRESENT
    reserved = 0
    for word in range(CONTEXT_BYTES // 8):
        reserved |= entry[word] & _CONTEXT_RESERVED[word]
    if reserved or beyond(unit, part(entry[0], CONTEXT.pasiddirptr)):
        return RULE.CONTEXT_RESERVED
    dte, paside, pre = part(entry[0], CONTEXT.dte), part(entry[0], CONTEXT.paside), part(entry[0], CONTEXT.pre)
    rule: int = unit.told.context_rules[dte, paside, pre]
    return rule


@compiled
def find_legacy(memory: Store, unit: Unit, source: int) -> int:
    """Read the legacy context entry of a device and make ready what it selects; returns the check that fails."""
    place = unit.setup.rta + (source >> 8) * ROOT_BYTES
    if unreadable(memory, unit, place, ROOT_BYTES):
        return RULE.LEGACY_ROOT_ACCESS
    index = word_index(memory, place)
    root = memory.words[index]
    if not part(root, ROOT.p):
        return RULE.LEGACY_ROOT_NOT_PRESENT
    reserved = root & _ROOT_RESERVED[0] | memory.words[index + 1] & _ROOT_RESERVED[1]
    if reserved or beyond(unit, part(root, ROOT.ctp)):
        return RULE.LEGACY_ROOT_RESERVED
    place = part(root, ROOT.ctp) + (source & 0xFF) * LEGACY_CONTEXT_BYTES
    if unreadable(memory, unit, place, LEGACY_CONTEXT_BYTES):
        return RULE.LEGACY_CONTEXT_ACCESS
    fetch(memory, unit.context, place, LEGACY_CONTEXT_BYTES)
    return legacy_fault(unit)


@compiled
def legacy_fault(unit: Unit) -> int:
    """Check a legacy context entry, mind its FPD, and make ready what it selects."""
    low, high = unit.context[0], unit.context[1]
    unit.quiet |= part(low, LEGACY.fpd)
    tt, aw, table = part(low, LEGACY.tt), part(high, LEGACY.aw), part(low, LEGACY.ssptptr)
    if not part(low, LEGACY.p):
        return RULE.LEGACY_CONTEXT_NOT_PRESENT
    reserved = low & _LEGACY_RESERVED[0] | high & _LEGACY_RESERVED[1]
    if reserved or (tt != _TT_PASS and beyond(unit, table)):
        return RULE.LEGACY_CONTEXT_RESERVED
    prepare_second(unit, table, aw, 0)
    unit.kind = PASS_THROUGH if tt == _TT_PASS else SECOND_STAGE
    unit.limit = min(input_bits(unit), unit.setup.host_bits)
    rule: int = unit.told.legacy_rules[tt, aw]
    return rule


# --- PASID directory and table ---------------------------------------------------------------------------------------


@compiled
def is_beyond_directory(unit: Unit, pasid: int) -> bool:
    """Whether the directory, or the unit, has no room for a PASID."""
    bits = min(part(unit.context[0], CONTEXT.pdts) + SMALLEST_DIRECTORY + PASID_TABLE_BITS, unit.setup.pasid_bits)
    return pasid >> bits != 0


@compiled
def find_pasid(memory: Store, unit: Unit, pasid: int) -> int:
    """Read the entry of a PASID; returns the check that fails."""
    place = part(unit.context[0], CONTEXT.pasiddirptr) + (pasid >> PASID_TABLE_BITS) * DIRECTORY_BYTES
    if unreadable(memory, unit, place, DIRECTORY_BYTES):
        return RULE.DIRECTORY_ACCESS
    above = memory.words[word_index(memory, place)]
    unit.quiet |= part(above, DIRECTORY.fpd)
    if not part(above, DIRECTORY.p):
        return RULE.DIRECTORY_NOT_PRESENT
    table = part(above, DIRECTORY.smptblptr)
    if above & _DIRECTORY_RESERVED or beyond(unit, table):
        return RULE.DIRECTORY_RESERVED
    place = table + (pasid & (1 << PASID_TABLE_BITS) - 1) * PASID_BYTES
    if unreadable(memory, unit, place, PASID_BYTES):
        return RULE.PASID_ACCESS
    fetch(memory, unit.entry, place, PASID_BYTES)
    return pasid_fault(unit)


@compiled
def pasid_fault(unit: Unit) -> int:
    """Check a PASID entry, and mind its FPD."""
    entry = unit.entry
    unit.quiet |= part(entry[0], PASID.fpd)
    if not part(entry[0], PASID.p):
        return RULE.PASID_NOT_PRESENT
    pgtt, reserved = part(entry[0], PASID.pgtt), 0
    for word in range(PASID_BYTES // 8):
        reserved |= entry[word] & unit.told.reserved[word]
    second = pgtt in (SECOND_STAGE, NESTED)
    if (
        reserved
        or (second and beyond(unit, part(entry[0], PASID.ssptptr)))
        or (pgtt == FIRST_STAGE and beyond(unit, part(entry[2], PASID.fsptptr)))
    ):
        return RULE.PASID_RESERVED
    rule: int = unit.told.pasid_rules[pgtt, part(entry[0], PASID.aw), part(entry[2], PASID.fspm)]
    return rule


@compiled
def rights_fault(unit: Unit, access: int) -> int:
    """Check whether a legal PASID entry allows execute and supervisor requests."""
    if access & INSTRUCTION and not part(unit.entry[2], PASID.ere):
        return RULE.ERE_CLEAR
    return RULE.SRE_CLEAR if access & PRIVILEGED and not part(unit.entry[2], PASID.sre) else 0


# --- stages ----------------------------------------------------------------------------------------------------------


@compiled
def prepare(unit: Unit) -> None:
    """Make ready what a legal PASID entry selects."""
    low = unit.entry[0]
    unit.kind = part(low, PASID.pgtt)
    unit.limit = unit.setup.host_bits
    if unit.kind in (SECOND_STAGE, NESTED):
        prepare_second(unit, part(low, PASID.ssptptr), part(low, PASID.aw), part(low, PASID.ssee))
    if unit.kind in (FIRST_STAGE, NESTED):
        prepare_first(unit.first, unit.entry[2], 1 if unit.kind == NESTED else 0)


@compiled
def prepare_first(stage: Stage, word: int, nested: int) -> None:
    """Make the first stage ready, from the word of a PASID entry that describes it."""
    stage.table = part(word, PASID.fsptptr)
    stage.levels = 4 + part(word, PASID.fspm)
    stage.shape = part(word, PASID.nxe) | nested << 1
    stage.mode = part(word, PASID.wpe) | part(word, PASID.smep) << 1
    stage.present, stage.gives, stage.limits = _PRESENT, tables.FIRST_GIVES, tables.FIRST_RIGHTS
    stage.mark = _A_EA if part(word, PASID.eafe) else _A


@compiled
def prepare_second(unit: Unit, table: int, width: int, execute: int) -> None:
    """Make the second stage ready."""
    stage = unit.second
    stage.table = table & ADDRESS
    stage.levels = width + 2
    stage.shape = tables.SECOND_SHAPE
    stage.mode = tables.SECOND_MODE + execute
    stage.present = _R_W_X if execute else _R_W
    stage.gives, stage.limits = tables.SECOND_GIVES, tables.SECOND_RIGHTS

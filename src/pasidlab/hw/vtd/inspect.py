"""Looking at one remapping unit from outside: its registers, what lies in memory behind them, what waits for software.

Everything is found as the hardware finds it, from the registers on, and not as a driver remembers it. Looking changes
nothing: no cache is filled, no queue index moves, no accessed flag is set. The root table is the one that the unit
uses, RTADDR as it was when software set the root table; no register shows that.

Source: Intel VT-d 4.1, 3.4 and chapter 9 (tables), 6.5.2 (invalidation queue), 7.4 (page requests), chapter 11.
Not modelled: the first-stage tables of nested translation, which lie in guest addresses; a walk follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from pasidlab.hw.looking import PendingQueue, stored
from pasidlab.hw.pagetable.contract import Start
from pasidlab.hw.pagetable.intel import INDEX_BITS, PAGE_LG2
from pasidlab.hw.pagetable.listing import TableEntry, table_entries
from pasidlab.hw.pagetable.vtd_second import SecondStage
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.hw.vtd.contexts import Decoder, DeviceContext, LegacyContext, Paging
from pasidlab.hw.vtd.descriptors import descriptor_of
from pasidlab.hw.vtd.legality import Check, beyond, directory_fault, legacy_root_fault, root_fault
from pasidlab.hw.vtd.lookup import CONTEXT_BYTES, DIRECTORY_BYTES, LEGACY_CONTEXT_BYTES, PASID_BYTES, ROOT_BYTES
from pasidlab.hw.vtd.page_requests import REQUEST_BYTES
from pasidlab.hw.vtd.records import FaultRecord, PageRequest
from pasidlab.hw.vtd.registers import REGISTERS, Cap, Fsts, Iqa, Iqh, Iqt, Offset, Pqa, Pqh, Pqt, Ttm
from pasidlab.hw.vtd.structures import (
    PASID_TABLE_BITS,
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootEntry,
)
from pasidlab.hw.vtd.unit import RemappingUnit
from pasidlab.memory import PAGE_SIZE
from pasidlab.words import Word

W = TypeVar("W", bound=Word)

BUSES, LEGACY_CONTEXTS, CONTEXTS = 256, 256, 128
"""Entries of a root table, of a context table in legacy mode, and of one in scalable mode."""


class Placed(NamedTuple, Generic[W]):
    """One entry of a table.

    Attributes:
        key: what the entry is for: a bus, a source identifier, the first PASID of a table, or a PASID.
        address: where it lies.
        word: the entry; None where memory does not answer.
    """

    key: int
    address: int
    word: W | None


class RootTable(NamedTuple):
    """The root table that the unit uses, in which table mode, and whether translation is on."""

    address: int
    mode: Ttm
    on: bool

    @property
    def scalable(self) -> bool:
        """Whether the tables are those of scalable mode."""
        return self.mode is Ttm.SCALABLE


# --- registers ---------------------------------------------------------------------------------------------------


def register(unit: RemappingUnit, offset: Offset) -> Word:
    """Read a register as software does."""
    word = REGISTERS[offset]
    return word(unit.mmio_read(offset, word.SIZE // 8))


def _read(unit: RemappingUnit, offset: Offset, word: type[W]) -> W:
    return word(register(unit, offset))


def fault_records(unit: RemappingUnit) -> list[tuple[int, FaultRecord]]:
    """Return the number and content of each fault recording register that holds a fault, the one at FSTS.FRI first."""
    cap = _read(unit, Offset.CAP, Cap)
    count, first = cap.nfr + 1, _read(unit, Offset.FSTS, Fsts).fri
    records = []
    for index in ((first + step) % count for step in range(count)):
        place = (cap.fro + index) * (FaultRecord.SIZE // 8)
        record = FaultRecord.from_words(unit.mmio_read(place, 8), unit.mmio_read(place + 8, 8))
        if record.f:
            records.append((index, record))
    return records


# --- root and context tables -------------------------------------------------------------------------------------


def root_table(unit: RemappingUnit) -> RootTable:
    """Return the root table that the unit uses."""
    root = unit.interface.root
    return RootTable(root.rta, root.ttm, unit.interface.te)


def root_entries(unit: RemappingUnit) -> Iterator[Placed[RootEntry] | Placed[ScalableRootEntry]]:
    """Yield the root entry of every bus, in pages that were stored to."""
    table = root_table(unit)
    if table.scalable:
        yield from _entries(unit, 0, table.address, BUSES, ROOT_BYTES, ScalableRootEntry)
    else:
        yield from _entries(unit, 0, table.address, BUSES, ROOT_BYTES, RootEntry)


def context_entries(
    unit: RemappingUnit, bus: int, root: RootEntry | ScalableRootEntry
) -> Iterator[Placed[ContextEntry] | Placed[ScalableContextEntry]]:
    """Yield the context entry of every source of a bus, in pages that were stored to, in the order of the sources.

    The halves of a root entry that are not present or not legal lead nowhere.
    """
    source = bus << 8
    if isinstance(root, RootEntry):
        if legacy_root_fault(root, unit.features) is None:
            yield from _entries(unit, source, root.ctp, LEGACY_CONTEXTS, LEGACY_CONTEXT_BYTES, ContextEntry)
        return
    for number, half in enumerate(map(RootEntry, root.words)):
        if root_fault(half, unit.features) is None:
            first = source + number * CONTEXTS
            yield from _entries(unit, first, half.ctp, CONTEXTS, CONTEXT_BYTES, ScalableContextEntry)


def root_checks(unit: RemappingUnit, root: RootEntry | ScalableRootEntry) -> list[Check]:
    """Return what is wrong with a root entry, of scalable mode with each half that is not all zero."""
    if isinstance(root, RootEntry):
        checks = [legacy_root_fault(root, unit.features)]
    else:
        checks = [root_fault(RootEntry(half), unit.features) for half in root.words if half]
    return [check for check in checks if check is not None]


def context(unit: RemappingUnit, entry: ContextEntry | ScalableContextEntry) -> DeviceContext | LegacyContext | Check:
    """Return what a context entry says, or the check that it fails."""
    decoder = Decoder(unit.features)
    return decoder.context(entry) if isinstance(entry, ScalableContextEntry) else decoder.legacy_context(entry)


# --- PASID directory and tables ----------------------------------------------------------------------------------


def directory_entries(unit: RemappingUnit, context: DeviceContext) -> Iterator[Placed[PasidDirectoryEntry]]:
    """Yield the entries of a PASID directory, in pages that were stored to; keys are first PASIDs."""
    count = -(-context.pasids >> PASID_TABLE_BITS)
    for place in _entries(unit, 0, context.directory, count, DIRECTORY_BYTES, PasidDirectoryEntry):
        yield place._replace(key=place.key << PASID_TABLE_BITS)


def directory_check(unit: RemappingUnit, entry: PasidDirectoryEntry) -> Check | None:
    """Return the check that a PASID directory entry fails."""
    return directory_fault(entry, unit.features)


def pasid_entries(unit: RemappingUnit, first: int, entry: PasidDirectoryEntry) -> Iterator[Placed[PasidEntry]]:
    """Yield the entries of the PASID table that a directory entry leads to, in pages that were stored to."""
    if directory_fault(entry, unit.features) is None:
        yield from _entries(unit, first, entry.smptblptr, 1 << PASID_TABLE_BITS, PASID_BYTES, PasidEntry)


def paging(unit: RemappingUnit, pasid: int, entry: PasidEntry) -> Paging | Check:
    """Return what a PASID entry says, or the check that it fails."""
    return Decoder(unit.features).pasid(entry, pasid)


def _entries(unit: RemappingUnit, first: int, base: int, count: int, size: int, word: type[W]) -> Iterator[Placed[W]]:
    for index, address in stored(unit.memory, base, count, size):
        data = None if beyond(address, unit.features) else unit.memory.load(address, size)
        yield Placed(first + index, address, None if data is None else word.unpack(data))


# --- page tables -------------------------------------------------------------------------------------------------


def first_stage_entries(unit: RemappingUnit, form: X86Paging) -> Iterator[TableEntry]:
    """Yield the present entries of a first stage; input addresses are canonical."""
    bits = PAGE_LG2 + form.levels * INDEX_BITS
    high = (1 << 64) - (1 << bits)
    for entry in table_entries(unit.memory, form, 0, bits):
        yield entry._replace(first=entry.first | high) if entry.first >> bits - 1 else entry


def second_stage_entries(unit: RemappingUnit, form: SecondStage) -> Iterator[TableEntry]:
    """Yield the present entries of a second stage that an address can reach."""
    start = form.start(0)
    assert isinstance(start, Start), "zero is never too wide"
    yield from table_entries(unit.memory, form, 0, max(form.input_bits, start.levels[0].shift))


# --- queues ------------------------------------------------------------------------------------------------------


def invalidation_queue(unit: RemappingUnit) -> PendingQueue:
    """Return the descriptors that were queued and not taken."""
    iqa = _read(unit, Offset.IQA, Iqa)
    step = 32 if iqa.dw else 16
    head, tail = _read(unit, Offset.IQH, Iqh).qh, _read(unit, Offset.IQT, Iqt).qt
    return _pending(unit, iqa.iqa, PAGE_SIZE << iqa.qs, step, (head, tail), descriptor_of)


def page_request_queue(unit: RemappingUnit) -> PendingQueue | None:
    """Return the page requests that software has not taken; None for a unit without page requests."""
    if not unit.features.page_requests:
        return None
    pqa = _read(unit, Offset.PQA, Pqa)
    head, tail = _read(unit, Offset.PQH, Pqh).pqh, _read(unit, Offset.PQT, Pqt).pqt
    return _pending(unit, pqa.pqa, PAGE_SIZE << pqa.pqs, REQUEST_BYTES, (head, tail), PageRequest)


def page_requests_in_flight(unit: RemappingUnit) -> list[PageRequest]:
    """Return the page requests that are held up on their way to the queue."""
    return list(unit.page_requests.in_flight)


def _pending(
    unit: RemappingUnit, base: int, size: int, step: int, ends: tuple[int, int], word: Callable[[int], Any]
) -> PendingQueue:
    """Return what lies between head and tail; both count modulo the size, and what cannot be read is left out."""
    head, tail = (end % size // step for end in ends)
    entries = size // step
    places = (base + (head + index) % entries * step for index in range((tail - head) % entries))
    found = (unit.memory.load(place, step) for place in places)
    pending = [word(int.from_bytes(data, "little")) for data in found if data is not None]
    return PendingQueue(base, entries, pending)

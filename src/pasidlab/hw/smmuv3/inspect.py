"""Looking at one SMMU from outside: its registers, what lies in memory behind them, and what it has cached.

Everything is found as the hardware finds it, from the registers on, and not as a driver remembers it. Looking changes
nothing: no cache is filled, no queue index moves, no access flag is set.

Source: IHI 0070 G.b, 3.3 (data structures), 3.5 (queues), chapter 6.
Not modelled: the CD table of a nested stream, which lies in intermediate addresses; a walk follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pasidlab.hw.looking import PendingQueue, stored
from pasidlab.hw.pagetable.listing import TableEntry, table_entries
from pasidlab.hw.pagetable.vmsa import Stage1, Stage2
from pasidlab.hw.smmuv3.commands import command_of
from pasidlab.hw.smmuv3.contexts import stage1_of
from pasidlab.hw.smmuv3.legality import is_el2
from pasidlab.hw.smmuv3.queues import COMMAND_BYTES, EVENT_BYTES, PRI_BYTES, Queue
from pasidlab.hw.smmuv3.records import PriRecord, event_of
from pasidlab.hw.smmuv3.registers import (
    REGISTERS,
    Cr2,
    Idr0,
    Idr1,
    Offset,
    StrtabBase,
    StrtabBaseCfg,
)
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Cd, Config, L1Cd, L1Std, Ste
from pasidlab.hw.smmuv3.tables import (
    CD_BYTES,
    L1_BYTES,
    STE_BYTES,
    StreamTable,
    cd_table_of,
    level2_stes,
    stream_table_of,
)
from pasidlab.memory import Memory
from pasidlab.words import Word

_ALL_ONES = (1 << 64) - 1


class StreamEntry(NamedTuple):
    """One STE; None where memory does not answer."""

    sid: int
    address: int
    ste: Ste | None


class ContextEntry(NamedTuple):
    """One CD; None where memory does not answer."""

    ssid: int
    address: int
    cd: Cd | None


# --- registers ---------------------------------------------------------------------------------------------------


def register(smmu: Smmuv3, offset: Offset) -> Word:
    """Read a register as software does."""
    word = REGISTERS[offset]
    return word(smmu.mmio_read(offset, word.SIZE // 8))


# --- the stream table --------------------------------------------------------------------------------------------


def stream_table(smmu: Smmuv3) -> StreamTable:
    """Return where the registers say that the stream table lies, aligned as hardware does."""
    config = StrtabBaseCfg(register(smmu, Offset.STRTAB_BASE_CFG))
    base = StrtabBase(register(smmu, Offset.STRTAB_BASE))
    return stream_table_of(base, config, Idr1(register(smmu, Offset.IDR1)).sidsize)


def level1_descriptors(smmu: Smmuv3) -> Iterator[tuple[int, int, L1Std]]:
    """Yield first StreamID, address and value of each level 1 descriptor that leads to STEs."""
    table = stream_table(smmu)
    if not table.split:
        return
    count = 1 << max(table.log2size - table.split, 0)
    for index, address in stored(smmu.memory, table.base, count, L1_BYTES):
        descriptor = L1Std(smmu.memory.load64(address) or 0)
        if table.spans(descriptor):
            yield index << table.split, address, descriptor


def stream_entries(smmu: Smmuv3) -> Iterator[StreamEntry]:
    """Yield every STE in pages that were stored to, in the order of StreamIDs."""
    table = stream_table(smmu)
    if not table.split:
        yield from _stes(smmu.memory, 0, table.base, 1 << table.log2size)
    for sid, _, descriptor in level1_descriptors(smmu):
        yield from _stes(smmu.memory, sid, *level2_stes(descriptor))


def _stes(memory: Memory, sid: int, base: int, count: int) -> Iterator[StreamEntry]:
    for index, address in stored(memory, base, count, STE_BYTES):
        data = memory.load(address, STE_BYTES)
        yield StreamEntry(sid + index, address, None if data is None else Ste.unpack(data))


# --- CD tables ---------------------------------------------------------------------------------------------------


def has_contexts(ste: Ste) -> bool:
    """Whether an STE has CDs at physical addresses."""
    return bool(ste.v) and ste.config is Config.STAGE_1


def context_entries(smmu: Smmuv3, ste: Ste) -> Iterator[ContextEntry]:
    """Yield every CD of an STE with stage 1 in pages that were stored to, in the order of SubstreamIDs."""
    if not Idr1(register(smmu, Offset.IDR1)).ssidsize:
        ste = ste.replace(s1cdmax=0)
    table = cd_table_of(ste)
    if not table.split:
        yield from _cds(smmu.memory, 0, table.base, 1 << table.bits)
        return
    count = 1 << max(table.bits - table.split, 0)
    for index, address in stored(smmu.memory, table.base, count, L1_BYTES):
        descriptor = L1Cd(smmu.memory.load64(address) or 0)
        if descriptor.v:
            leaf = table.leaf(descriptor)
            yield from _cds(smmu.memory, index << table.split, leaf, 1 << min(table.split, table.bits))


def _cds(memory: Memory, ssid: int, base: int, count: int) -> Iterator[ContextEntry]:
    for index, address in stored(memory, base, count, CD_BYTES):
        data = memory.load(address, CD_BYTES)
        yield ContextEntry(ssid + index, address, None if data is None else Cd.unpack(data))


# --- page tables -------------------------------------------------------------------------------------------------


def context_format(smmu: Smmuv3, ste: Ste, cd: Cd) -> Stage1:
    """Return the page-table format that a legal CD selects."""
    return stage1_of(cd, smmu.features, high_half=has_high_half(smmu, ste), el2=is_el2(ste, smmu.features))


def has_high_half(smmu: Smmuv3, ste: Ste) -> bool:
    """Whether the translation regime of an STE has TTB1, as all have but EL2 without E2H."""
    return not is_el2(ste, smmu.features) or Cr2(register(smmu, Offset.CR2)).e2h


def stage1_entries(memory: Memory, form: Stage1, *, high: bool) -> Iterator[TableEntry]:
    """Yield the valid entries of one half of a stage 1, each table's entries after the one that leads to it."""
    region = form.ttb1 if high else form.ttb0
    if region is not None:
        bits = 64 - region.tsz
        yield from table_entries(memory, form, _ALL_ONES >> bits << bits if high else 0, bits)


def stage2_entries(memory: Memory, form: Stage2) -> Iterator[TableEntry]:
    """Yield the valid entries of a stage 2, each table's entries after the one that leads to it."""
    yield from table_entries(memory, form, 0, 64 - form.tsz)


# --- queues ------------------------------------------------------------------------------------------------------


def command_queue(smmu: Smmuv3) -> PendingQueue:
    """Return the commands that were produced and not consumed."""
    return _pending(smmu, "CMDQ", COMMAND_BYTES, Idr1(register(smmu, Offset.IDR1)).cmdqs, command_of)


def event_queue(smmu: Smmuv3) -> PendingQueue:
    """Return the events that software has not consumed."""
    return _pending(smmu, "EVENTQ", EVENT_BYTES, Idr1(register(smmu, Offset.IDR1)).eventqs, event_of)


def page_request_queue(smmu: Smmuv3) -> PendingQueue | None:
    """Return the page requests that software has not consumed; None for an SMMU without PRI."""
    if not Idr0(register(smmu, Offset.IDR0)).pri:
        return None
    return _pending(smmu, "PRIQ", PRI_BYTES, Idr1(register(smmu, Offset.IDR1)).priqs, PriRecord)


def _pending(smmu: Smmuv3, name: str, entry_bytes: int, limit: int, word: Callable[[int], Word]) -> PendingQueue:
    """Return a queue as its three registers describe it."""

    def read(part: str) -> Any:
        return register(smmu, Offset[f"{name}_{part}"])

    queue: Queue[Any, Any] = Queue(smmu.memory, read("BASE"), read("PROD"), read("CONS"), entry_bytes, limit)
    return PendingQueue(queue.base.addr, queue.entries, [word(raw) for raw in queue.pending()])

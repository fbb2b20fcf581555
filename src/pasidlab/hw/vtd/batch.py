"""Many requests at once, compiled: what `RemappingUnit.translate` says of each, with all caches off.

Each request of a batch is translated as if it were the only one, from the registers and the memory that the batch
begins with. Nothing is recorded, and where hardware would set accessed or dirty flags the outcome is the one with the
flags, which themselves are not set. Legacy and scalable mode, both stages and nested translation are covered; device-
TLBs are left to `RemappingUnit.translate`.

Numba is imported with this module, which is why nothing imports it before it is needed.

Source: Intel VT-d 4.1, as `translate` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pasidlab.hw.batch import ahead, numbers, store
from pasidlab.hw.batch.ahead import AHEAD
from pasidlab.hw.batch.compiling import built_from, compiled, compiled_entry
from pasidlab.hw.batch.numbers import INSTRUCTION, PRIVILEGED, WRITES
from pasidlab.hw.batch.requests import ADDRESSES, Requests, empty_columns, integers, requests_of
from pasidlab.hw.batch.store import Directory, Store, part, store_of
from pasidlab.hw.pagetable import intel
from pasidlab.hw.pagetable.contract import ALL_RIGHTS
from pasidlab.hw.vtd import batch_ahead, batch_config, batch_records, batch_walk
from pasidlab.hw.vtd.batch_ahead import read_ahead, reads_ahead
from pasidlab.hw.vtd.batch_config import (
    CONTEXT,
    DIRECTORY,
    FIRST_STAGE,
    LEGACY,
    NESTED,
    PASID,
    PASS_THROUGH,
    ROOT,
    check,
    find_context,
    find_legacy,
    find_pasid,
    is_beyond_directory,
    prepare,
    rights_fault,
)
from pasidlab.hw.vtd.batch_records import Unit, unit_record
from pasidlab.hw.vtd.batch_tables import FIRST, NUMBERING, REASON, RULE, SECOND, number_of, signed, tables_of
from pasidlab.hw.vtd.batch_walk import Found, leaf, refused, walk_first, walk_nested, walk_second
from pasidlab.hw.vtd.records import Reason
from pasidlab.hw.vtd.registers import Ttm
from pasidlab.hw.vtd.structures import PASID_BITS, SOURCE_ID_BITS
from pasidlab.hw.vtd.translate import INTERRUPT_RANGE, MIB_LG2, WHOLE, Translator
from pasidlab.rules import Rule


class Status(IntEnum):
    """What becomes of a request."""

    TRANSLATED = 0
    BLOCKED = 1


class Batch(NamedTuple):
    """The outcome of each request; what does not apply to an outcome is 0.

    Attributes:
        status: a `Status`.
        address: where a translated request goes.
        lg2: log2 of the bytes around it that translate alike.
        rights: what the translation grants, as `Rights`.
        rule: number of the rule; `rule_of` returns the rule itself.
        reason: of a blocked request, as `Reason`.
        recorded: its fault is recorded, if there is a free register: it has a reason, and no FPD silences it.
        stage, level: of a walk's fault, where it arose.
        on_table: the address at fault is that of a guest's table.
        fault_address: its input address at that stage, virtual or guest physical.
        fetch_address: address of the paging entry that could not be read.
    """

    status: npt.NDArray[np.uint8]
    address: npt.NDArray[np.uint64]
    lg2: npt.NDArray[np.uint8]
    rights: npt.NDArray[np.uint8]
    rule: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.uint8]
    recorded: npt.NDArray[np.uint8]
    stage: npt.NDArray[np.uint8]
    level: npt.NDArray[np.uint8]
    on_table: npt.NDArray[np.uint8]
    fault_address: npt.NDArray[np.uint64]
    fetch_address: npt.NDArray[np.uint64]

    def rule_of(self, number: int) -> Rule:
        """Return the rule by which a request ended."""
        return NUMBERING.rule_of(int(self.rule[number]))


# --- one request -----------------------------------------------------------------------------------------------------

_TRANSLATED, _BLOCKED = int(Status.TRANSLATED), int(Status.BLOCKED)
_RIGHTS, _NONE = int(ALL_RIGHTS), int(Reason.NONE)


@compiled
def translate(memory: Store, unit: Unit, source: int, pasid: int, address: int, access: int) -> Found:
    """Translate one request."""
    unit.stores = unit.quiet = 0
    if pasid < 0 and address >> MIB_LG2 == INTERRUPT_RANGE and access & WRITES:
        return refused(RULE.INTERRUPT, _NONE)
    if not unit.setup.te:
        return refused(RULE.DISABLED_REFUSED, _NONE) if pasid >= 0 else leaf(RULE.DISABLED, address, WHOLE, _RIGHTS)
    bad = find(memory, unit, source, pasid, access)
    return bad if bad.rule else search(memory, unit, pasid, address, wanted(unit, pasid, access))


@compiled
def find(memory: Store, unit: Unit, source: int, pasid: int, access: int) -> Found:
    """Find how a request is translated: all checks before page tables."""
    if unit.setup.scalable:
        return check(unit, find_scalable(memory, unit, source, pasid, access))
    if not unit.setup.legacy:
        return refused(unit.setup.mode_rule, unit.setup.mode_reason)
    return check(unit, RULE.LEGACY_PASID if pasid >= 0 else find_legacy(memory, unit, source))


@compiled
def find_scalable(memory: Store, unit: Unit, source: int, pasid: int, access: int) -> int:
    """Find the PASID entry of a request in scalable mode; returns the check that fails."""
    rule = find_context(memory, unit, source)
    if rule:
        return rule
    if pasid >= 0 and not part(unit.context[0], CONTEXT.paside):
        return RULE.PASIDE_CLEAR
    taken_for = pasid if pasid >= 0 else part(unit.context[1], CONTEXT.rid_pasid) & -unit.setup.rid_pasid
    if is_beyond_directory(unit, taken_for):
        return RULE.PASID_BEYOND if pasid >= 0 else RULE.RID_PASID_BEYOND
    rule = find_pasid(memory, unit, taken_for)
    if not rule:
        prepare(unit)
        rule = rights_fault(unit, as_supervisor(unit, pasid, access))
    return rule


@compiled
def as_supervisor(unit: Unit, pasid: int, access: int) -> int:
    """Return an access with what RID_PRIV adds to it."""
    if pasid >= 0 or not unit.setup.scalable:
        return access
    return access | (PRIVILEGED if part(unit.context[1], CONTEXT.rid_priv) & unit.setup.rid_priv else 0)


@compiled
def wanted(unit: Unit, pasid: int, access: int) -> int:
    """Return what a request wants of page tables, where a write is never an instruction fetch."""
    access = as_supervisor(unit, pasid, access)
    return access & ~INSTRUCTION if access & WRITES else access


@compiled
def search(memory: Store, unit: Unit, pasid: int, address: int, access: int) -> Found:
    """Find the translation of an address."""
    if unit.kind == PASS_THROUGH:
        if address >> unit.limit:
            reason = REASON.LEGACY_BEYOND_MGAW if unit.setup.legacy else REASON.BEYOND_HOST_WIDTH
            return refused(RULE.PASS_WIDTH, reason)
        return leave(unit, leaf(RULE.PASSED, address, WHOLE, _RIGHTS), access)
    if pasid < 0 and address >> MIB_LG2 == INTERRUPT_RANGE:
        return in_interrupt_range(unit)
    if unit.kind == FIRST_STAGE:
        return leave(unit, walk_first(memory, unit, address, access), access)
    if unit.kind == NESTED:
        return leave(unit, walk_nested(memory, unit, address, access), access)
    return leave(unit, walk_second(memory, unit, address, access), access)


@compiled
def in_interrupt_range(unit: Unit) -> Found:
    """End where interrupts are, not memory."""
    reason = REASON.LEGACY_INTERRUPT_RANGE if unit.setup.legacy else REASON.INTERRUPT_RANGE
    return refused(RULE.OUTPUT_INTERRUPT, reason)


@compiled
def leave(unit: Unit, found: Found, access: int) -> Found:
    """End with a translation that does not lead into the interrupt range, or with the reason of a fault."""
    if found.lg2:
        return in_interrupt_range(unit) if found.address >> MIB_LG2 == INTERRUPT_RANGE else found
    levels = unit.first.levels if found.stage == 1 else unit.second.levels
    writes, highest = access & WRITES, 1 if found.level == levels else 0
    reason = unit.told.walk_reasons[unit.setup.legacy, found.on_table, writes, highest, found.top, found.rule]
    where, what = found.address, found.fetch_address
    return Found(found.rule, where, 0, 0, reason, found.stage, found.level, found.on_table, found.top, what)


@compiled
def report(batch: Batch, index: int, unit: Unit, found: Found) -> None:
    """Fill in the outcome of one request."""
    batch.status[index] = _TRANSLATED if found.lg2 else _BLOCKED
    batch.address[index] = found.address if found.lg2 else 0
    batch.lg2[index] = found.lg2
    batch.rights[index] = found.rights
    batch.rule[index] = found.rule
    batch.reason[index] = found.reason
    batch.recorded[index] = 1 if found.reason and not unit.quiet else 0
    batch.stage[index] = found.stage
    batch.level[index] = found.level
    batch.on_table[index] = found.on_table
    batch.fault_address[index] = found.address if found.stage else 0
    batch.fetch_address[index] = found.fetch_address


def _kernel(built: int) -> Callable[[Store, npt.NDArray[np.void], Requests, Batch], None]:
    """Return the compiled loop, which numba keeps on disk for what it was built from."""

    @compiled_entry
    def translate_each(memory: Store, units: npt.NDArray[np.void], requests: Requests, batch: Batch) -> None:
        assert built >= 0
        unit, end = units[0], requests.source.size
        for first in range(0, end, AHEAD):
            behind = min(first + AHEAD, end)
            if reads_ahead(memory, unit):
                read_ahead(memory, unit, requests, first, behind)
            for index in range(first, behind):
                source, pasid, address = requests.source[index], requests.pasid[index], requests.address[index]
                report(batch, index, unit, translate(memory, unit, source, pasid, address, requests.access[index]))

    return translate_each


_SOURCES = (intel, numbers, store, ahead, batch_records, batch_walk, batch_config, batch_ahead)
_translate_each = _kernel(built_from(_SOURCES, RULE, FIRST, SECOND, REASON, ROOT, LEGACY, CONTEXT, DIRECTORY, PASID))


# --- a batch ---------------------------------------------------------------------------------------------------------

_SOURCE_IDS, _PASIDS = (0, (1 << SOURCE_ID_BITS) - 1), (-1, (1 << PASID_BITS) - 1)


class BatchTranslator:
    """Translates batches for one unit, and remembers where the pages of its memory are."""

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._record = unit_record(tables_of(translator.features))
        self._directory = Directory(translator.memory.bits)

    def translate(
        self,
        source_ids: npt.ArrayLike,
        pasids: npt.ArrayLike,
        addresses: npt.ArrayLike,
        writes: npt.ArrayLike = False,
        *,
        privileged: npt.ArrayLike = False,
        instruction: npt.ArrayLike = False,
    ) -> Batch:
        """Translate requests, each given by one element of every array; a scalar holds for all of them.

        A PASID of -1 is a request without. ValueError says which array has another length, other elements than
        integers (flags: booleans), or what no device can send, as for `Request`.
        """
        columns = {
            "source_ids": integers("source_ids", source_ids, *_SOURCE_IDS),
            "pasids": integers("pasids", pasids, *_PASIDS),
            "addresses": integers("addresses", addresses, *ADDRESSES),
        }
        requests = requests_of(columns, writes, privileged, instruction)
        if ((requests.pasid < 0) & (requests.access >= INSTRUCTION)).any():
            raise ValueError("privileged, instruction: only a request with PASID can be either")
        batch = Batch(**empty_columns(Batch._fields, requests.source.size))
        _translate_each(store_of(self._translator.memory, self._directory), self._registers(), requests, batch)
        return batch

    def _registers(self) -> npt.NDArray[np.void]:
        """Return registers as they are now, and features."""
        translator = self._translator
        state, features, bad = translator.state, translator.features, translator.mode_fault()
        setup = {
            "te": state.te,
            "legacy": state.root.ttm is Ttm.LEGACY,
            "scalable": bad is None and state.root.ttm is Ttm.SCALABLE,
            "mode_rule": 0 if bad is None else number_of(bad.rule),
            "mode_reason": 0 if bad is None else bad.reason,
            "rta": signed(state.root.rta),
            "host_bits": features.host_bits,
            "guest_bits": features.guest_bits,
            "pasid_bits": features.pasid_bits,
            "rid_pasid": features.rid_pasid,
            "rid_priv": features.rid_priv,
        }
        self._record["memory_bits"] = translator.memory.bits
        for name, value in setup.items():
            self._record["setup"][name] = value
        return self._record

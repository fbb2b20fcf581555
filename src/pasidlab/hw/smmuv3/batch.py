"""Many transactions at once, compiled: what `Smmuv3.translate` says of each, with all caches off.

Each transaction of a batch is translated as if it were the only one, from the registers and the memory that the batch
begins with. Nothing is recorded: no event reaches the event queue, a transaction that would stall is said to be STALLED
and waits nowhere, and where hardware would update a table (HTTU) the outcome is the one with the update, which itself
is not made. ATS is left to `Smmuv3.translate`.

Numba is imported with this module, which is why nothing imports it before it is needed.

Source: IHI 0070 G.b, as `translate` has it.
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
from pasidlab.hw.batch.store import Directory, Store, store_of
from pasidlab.hw.smmuv3 import batch_ahead, batch_config, batch_records, batch_walk
from pasidlab.hw.smmuv3.batch_ahead import read_ahead, reads_ahead
from pasidlab.hw.smmuv3.batch_config import (
    BYPASS,
    BYPASSED,
    CD,
    L1CD,
    L1STD,
    STE,
    canonical,
    config_fault,
    find_context,
    find_stream,
    is_el2,
    prepare_stage1,
    prepare_stage2,
)
from pasidlab.hw.smmuv3.batch_records import Setup, Smmu, field, smmu_record
from pasidlab.hw.smmuv3.batch_tables import EVENT, NUMBERING, RULE, tables_of
from pasidlab.hw.smmuv3.batch_walk import ALL_RIGHTS, CLASS_IN, Found, ended_silently, leaf, walk, walk_stage2
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.interface import Interface
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import InstCfg, PrivCfg
from pasidlab.hw.smmuv3.tables import stream_table_of
from pasidlab.hw.smmuv3.translate import WHOLE
from pasidlab.rules import Rule


class Status(IntEnum):
    """What becomes of a transaction."""

    TRANSLATED = 0
    ABORTED = 1
    RAZ_WI = 2
    STALLED = 3


class Batch(NamedTuple):
    """The outcome of each transaction; what does not apply to an outcome is 0.

    Attributes:
        status: a `Status`.
        address: where a translated transaction goes.
        lg2: log2 of the bytes around it that translate alike.
        rights: what the translation grants, as `Rights`.
        rule: number of the rule; `rule_of` returns the rule itself.
        event: code of the event record, 0 for none; of a stalled transaction, of the record with its STAG.
        stage, level: of a translation fault, where it arose.
        class_: its `TranslationClass`.
        fault_address: its input address at that stage, virtual or intermediate physical.
        fetch_address: what could not be read, as the event record says it.
    """

    status: npt.NDArray[np.uint8]
    address: npt.NDArray[np.uint64]
    lg2: npt.NDArray[np.uint8]
    rights: npt.NDArray[np.uint8]
    rule: npt.NDArray[np.uint8]
    event: npt.NDArray[np.uint8]
    stage: npt.NDArray[np.uint8]
    level: npt.NDArray[np.uint8]
    class_: npt.NDArray[np.uint8]
    fault_address: npt.NDArray[np.uint64]
    fetch_address: npt.NDArray[np.uint64]

    def rule_of(self, number: int) -> Rule:
        """Return the rule by which a transaction ended."""
        return NUMBERING.rule_of(int(self.rule[number]))


# --- one transaction -------------------------------------------------------------------------------------------------

TRANSLATED, ABORTED = int(Status.TRANSLATED), int(Status.ABORTED)
RAZ_WI, STALLED = int(Status.RAZ_WI), int(Status.STALLED)
_UNPRIVILEGED, _DATA = int(PrivCfg.UNPRIVILEGED), int(InstCfg.DATA)
_TO_PRIVILEGED, _TO_INSTRUCTION = int(PrivCfg.PRIVILEGED), int(InstCfg.INSTRUCTION)


@compiled
def translate(memory: Store, smmu: Smmu, sid: int, ssid: int, address: int, access: int) -> Found:
    """Translate one transaction, short of its fault model."""
    smmu.stores = 0
    if not smmu.setup.smmuen:
        return while_disabled(smmu, address)
    stream = find_stream(memory, smmu, sid)
    if stream.event:
        return stream
    return search(memory, smmu, ssid, address, access_of(smmu, access))


@compiled
def while_disabled(smmu: Smmu, address: int) -> Found:
    """Apply GBPA."""
    if smmu.setup.gbpa_abort:
        return ended_silently(RULE.DISABLED_ABORT)
    if address >> smmu.setup.oas_bits:
        return ended_silently(RULE.BYPASS_SIZE)
    return leaf(RULE.DISABLED_BYPASS, address, WHOLE, ALL_RIGHTS)


@compiled
def access_of(smmu: Smmu, access: int) -> int:
    """Return what a transaction wants, after the overrides of its STE."""
    if access & WRITES:
        access &= ~INSTRUCTION
    if not smmu.setup.attr_perms_ovr:
        return access
    privcfg, instcfg = field(smmu, STE.privcfg), field(smmu, STE.instcfg)
    if privcfg >= _UNPRIVILEGED:
        access = access & ~PRIVILEGED | (PRIVILEGED if privcfg == _TO_PRIVILEGED else 0)
    if instcfg >= _DATA and not access & WRITES:
        access = access & ~INSTRUCTION | (INSTRUCTION if instcfg == _TO_INSTRUCTION else 0)
    return access


@compiled
def search(memory: Store, smmu: Smmu, ssid: int, address: int, access: int) -> Found:
    """Find the translation of an address."""
    config = field(smmu, STE.config)
    if config < BYPASS:
        return ended_silently(RULE.CONFIG_ABORT)
    prepare_stage2(smmu)
    if not config & 1:
        if ssid >= 0:
            return config_fault(EVENT.C_BAD_SUBSTREAMID, RULE.SSID_WITHOUT_STAGE_1)
        return without_stage1(memory, smmu, address, access)
    high_half = 1 if smmu.setup.e2h or not is_el2(smmu) else 0
    context = find_context(memory, smmu, ssid, high_half)
    if context.event:
        return context
    if context.address == BYPASSED:
        return without_stage1(memory, smmu, address, access)
    address = canonical(smmu, address, high_half)
    prepare_stage1(smmu, address, high_half)
    return walk(memory, smmu, address, access)


@compiled
def without_stage1(memory: Store, smmu: Smmu, address: int, access: int) -> Found:
    """Translate by stage 2 alone, or not at all."""
    if address >> smmu.setup.oas_bits:
        return Found(EVENT.F_ADDR_SIZE, RULE.BYPASS_SIZE, address, 0, 0, 1, 0, CLASS_IN, 0)
    if smmu.stage2.number:
        return walk_stage2(memory, smmu, address, access)
    return leaf(RULE.BYPASSED, address, WHOLE, ALL_RIGHTS)


# --- its fault model -------------------------------------------------------------------------------------------------


@compiled
def settle(smmu: Smmu, found: Found) -> tuple[int, int]:
    """Return the status and the event: CD.{A,R,S} decide for stage 1, STE.{S2R,S2S} for stage 2."""
    if found.lg2:
        return TRANSLATED, 0
    if not found.stage:
        silent = found.event == EVENT.C_BAD_STREAMID and not smmu.setup.recinvsid
        return ABORTED, 0 if silent else found.event
    if found.event == EVENT.F_WALK_EABT or found.rule == RULE.BYPASS_SIZE:
        return ABORTED, found.event
    if found.stage == 2:
        records, stalls, ends = field(smmu, STE.s2r), field(smmu, STE.s2s), ABORTED
    else:
        records, stalls = field(smmu, CD.r), field(smmu, CD.s)
        ends = ABORTED if field(smmu, CD.a) else RAZ_WI
    return STALLED if stalls else ends, found.event if records or stalls else 0


@compiled
def report(batch: Batch, index: int, found: Found, status: int, event: int) -> None:
    """Fill in the outcome of one transaction."""
    batch.status[index] = status
    batch.address[index] = found.address if status == TRANSLATED else 0
    batch.lg2[index] = found.lg2
    batch.rights[index] = found.rights
    batch.rule[index] = found.rule
    batch.event[index] = event
    batch.stage[index] = found.stage
    batch.level[index] = found.level
    batch.class_[index] = found.what
    batch.fault_address[index] = found.address if found.stage else 0
    batch.fetch_address[index] = found.fetch_address


@compiled
def translate_one(memory: Store, smmu: Smmu, requests: Requests, batch: Batch, index: int) -> None:
    """Translate one transaction of a batch, and report what became of it."""
    sid, ssid, address = requests.source[index], requests.pasid[index], requests.address[index]
    found = translate(memory, smmu, sid, ssid, address, requests.access[index])
    status, event = settle(smmu, found)
    report(batch, index, found, status, event)


def _kernel(built: int) -> Callable[[Store, npt.NDArray[np.void], Requests, Batch], None]:
    """Return the compiled loop, which numba keeps on disk for what it was built from."""

    @compiled_entry
    def translate_each(memory: Store, smmus: npt.NDArray[np.void], requests: Requests, batch: Batch) -> None:
        assert built >= 0
        smmu, end = smmus[0], requests.source.size
        for first in range(0, end, AHEAD):
            behind = min(first + AHEAD, end)
            if reads_ahead(memory, smmu):
                read_ahead(memory, smmu, requests, first, behind)
            for index in range(first, behind):
                translate_one(memory, smmu, requests, batch, index)

    return translate_each


_SOURCES = (numbers, store, ahead, batch_records, batch_walk, batch_config, batch_ahead)
_translate_each = _kernel(built_from(_SOURCES, RULE, EVENT, STE, CD, L1STD, L1CD))


# --- registers -------------------------------------------------------------------------------------------------------


def _setup(interface: Interface, features: Features) -> dict[str, int]:
    """Read the registers."""
    table = stream_table_of(interface.strtab_base, interface.strtab_base_cfg, features.sid_bits)
    registers = {
        "smmuen": bool(interface.smmuen),
        "gbpa_abort": bool(interface.gbpa.abort),
        "recinvsid": bool(interface.cr2.recinvsid),
        "e2h": bool(interface.cr2.e2h),
        "strtab_base": table.base,
        "log2size": table.log2size,
        "fmt": int(bool(table.split)),
        "split": table.split,
    }
    rest = {name: getattr(features, name) for name in Setup.__annotations__ if name not in registers}
    return registers | rest | {"stall_model": int(features.stall_model)}


# --- a batch ---------------------------------------------------------------------------------------------------------

_SIDS, _SSIDS = (0, (1 << 32) - 1), (-1, (1 << 20) - 1)


class BatchTranslator:
    """Translates batches for one SMMU, and remembers where the pages of its memory are."""

    def __init__(self, smmu: Smmuv3) -> None:
        self._smmu = smmu
        self._record = smmu_record(tables_of(smmu.features))
        self._directory = Directory(smmu.memory.bits)

    def translate(
        self,
        sids: npt.ArrayLike,
        ssids: npt.ArrayLike,
        addresses: npt.ArrayLike,
        writes: npt.ArrayLike = False,
        *,
        privileged: npt.ArrayLike = False,
        instruction: npt.ArrayLike = False,
    ) -> Batch:
        """Translate transactions, each given by one element of every array; a scalar holds for all of them.

        An `ssid` of -1 is a transaction without SubstreamID. ValueError says which array has another length, other
        elements than integers (flags: booleans), or a number that no transaction can carry.
        """
        columns = {
            "sids": integers("sids", sids, *_SIDS),
            "ssids": integers("ssids", ssids, *_SSIDS),
            "addresses": integers("addresses", addresses, *ADDRESSES),
        }
        requests = requests_of(columns, writes, privileged, instruction)
        batch = Batch(**empty_columns(Batch._fields, requests.source.size))
        _translate_each(self._memory(), self._registers(), requests, batch)
        return batch

    def _memory(self) -> Store:
        """Return memory as it is now."""
        return store_of(self._smmu.memory, self._directory)

    def _registers(self) -> npt.NDArray[np.void]:
        """Return registers as they are now."""
        self._record["memory_bits"] = self._smmu.memory.bits
        for name, value in _setup(self._smmu.interface, self._smmu.features).items():
            self._record["setup"][name] = value
        return self._record

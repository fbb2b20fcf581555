"""Compiled: what the parts of a batch hand to each other; the layouts are ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pasidlab.hw.batch.ahead import AHEAD
from pasidlab.hw.batch.compiling import compiled
from pasidlab.hw.batch.numbers import Place, Words, record_of
from pasidlab.hw.batch.store import part
from pasidlab.hw.smmuv3.batch_tables import Tables


class Stage:
    """One stage of translation, made ready for a walk.

    Attributes:
        number: 1 or 2; 0 is a stage that does not translate.
        refusal: the rule for which there is no walk at all, or 0.
        table: the first table.
        start: its level.
        bits: how many address bits the stage translates.
        shape: row of `Tables.levels`.
        mode: which rights its leaves grant.
        limits: the bits of a table entry that take rights away.
        accessible: no access flag faults.
        ha, hd: hardware updates.
        ptw: a table of the other stage in device memory faults.
    """

    number: int
    refusal: int
    table: int
    start: int
    bits: int
    shape: int
    mode: int
    limits: int
    accessible: int
    ha: int
    hd: int
    ptw: int


class Setup:
    """Registers as they are when a batch begins, and features; names are those of `Interface` and `Features`.

    `strtab_base` is aligned as the size of the table demands, `log2size` is at most what StreamIDs have; `fmt` is 1
    where the stream table has two levels, and `split` one of the values that mean something.
    """

    smmuen: int
    gbpa_abort: int
    recinvsid: int
    e2h: int
    strtab_base: int
    log2size: int
    fmt: int
    split: int
    ssid_bits: int
    two_level_cds: int
    stage1: int
    stage2: int
    stall_model: int
    term_model: int
    oas_bits: int
    ats: int
    httu: int
    asid16: int
    vmid16: int
    hyp: int
    attr_perms_ovr: int


class Smmu:
    """What the translations of a batch need beside memory; all but `setup`, `told` and `memory_bits` is one's own.

    Attributes:
        memory_bits: how many address bits memory has.
        setup, told: registers, features and tables.
        entries: the words of the STE and of the CD.
        stage1, stage2: the stages that they select.
        stores, journal: how many stores there were; address and value of each, oldest first.
        ahead: how far each of a block of transactions was read ahead; see `batch.ahead`.
    """

    memory_bits: int
    setup: Setup
    told: Tables
    entries: Words
    stage1: Stage
    stage2: Stage
    stores: int
    journal: Words
    ahead: Words


JOURNAL = 32
"""More stores than one translation can make: stage 1 makes one, and stage 2 one for each of at most 8 walks."""
ENTRY_WORDS = 4
"""Words of an STE or a CD that matter here, which are the first ones."""
_STAGE = record_of(Stage)


def smmu_record(told: Tables) -> npt.NDArray[np.void]:
    """Return an Smmu, alone in its array, with its tables filled in."""
    tables_record = np.dtype([(name, np.int64, table.shape) for name, table in told._asdict().items()])
    layouts: dict[str, Any] = {
        "setup": record_of(Setup),
        "told": tables_record,
        "entries": (np.int64, 2 * ENTRY_WORDS),
        "stage1": _STAGE,
        "stage2": _STAGE,
        "journal": (np.int64, (JOURNAL, 2)),
        "ahead": (np.int64, AHEAD),
    }
    smmu = np.zeros(1, [(name, layouts.get(name, np.int64)) for name in Smmu.__annotations__])
    for name, table in told._asdict().items():
        smmu["told"][name][0] = table
    return smmu


# --- fields ----------------------------------------------------------------------------------------------------------


@compiled
def field(smmu: Smmu, place: Place) -> int:
    """Return a field of the STE or the CD."""
    return part(smmu.entries[place[0]], place)

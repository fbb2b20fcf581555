"""Compiled: what the parts of a batch hand to each other; the layouts are ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pasidlab.hw.batch.ahead import AHEAD
from pasidlab.hw.batch.numbers import Words, record_of
from pasidlab.hw.vtd.batch_tables import Tables
from pasidlab.hw.vtd.structures import PasidEntry, ScalableContextEntry


class Stage:
    """One stage of translation, made ready for a walk.

    Attributes:
        number: 1 or 2.
        table: the first table.
        levels: how many there are.
        shape: row of `Tables.levels`.
        mode: which rights its leaves grant.
        present: an entry that has any of these bits is present.
        gives, limits: the bits of an entry that give rights, and those that give or take rights.
        mark: the accessed flags.
    """

    number: int
    table: int
    levels: int
    shape: int
    mode: int
    present: int
    gives: int
    limits: int
    mark: int


class Setup:
    """Registers as they are when a batch begins, and features.

    `legacy` and `scalable` are the table mode; in any other, `mode_rule` and `mode_reason` refuse every request.
    """

    te: int
    legacy: int
    scalable: int
    mode_rule: int
    mode_reason: int
    rta: int
    host_bits: int
    guest_bits: int
    pasid_bits: int
    rid_pasid: int
    rid_priv: int


class Unit:
    """What the translations of a batch need beside memory; all but `setup`, `told` and `memory_bits` is one's own.

    Attributes:
        memory_bits: how many address bits memory has.
        setup, told: registers, features and tables.
        context, entry: the words of the context entry, and of the PASID entry.
        kind: how the request is translated, as PGTT says it.
        limit: the width of addresses that may pass through.
        quiet: an FPD was met.
        first, second: the stages that are selected.
        stores, journal: how many guest tables were marked; address and value of each entry, oldest first.
        ahead: how far each of a block of requests was read ahead; see `batch.ahead`.
    """

    memory_bits: int
    setup: Setup
    told: Tables
    context: Words
    entry: Words
    kind: int
    limit: int
    quiet: int
    first: Stage
    second: Stage
    stores: int
    journal: Words
    ahead: Words


JOURNAL = 8
"""More guest entries than one translation can mark, which is one a level."""
_STAGE = record_of(Stage)


def unit_record(told: Tables) -> npt.NDArray[np.void]:
    """Return a Unit, alone in its array, with its tables filled in."""
    layouts: dict[str, Any] = {
        "setup": record_of(Setup),
        "told": np.dtype([(name, np.int64, table.shape) for name, table in told._asdict().items()]),
        "context": (np.int64, ScalableContextEntry.SIZE // 64),
        "entry": (np.int64, PasidEntry.SIZE // 64),
        "first": _STAGE,
        "second": _STAGE,
        "journal": (np.int64, (JOURNAL, 2)),
        "ahead": (np.int64, AHEAD),
    }
    unit = np.zeros(1, [(name, layouts.get(name, np.int64)) for name in Unit.__annotations__])
    for name, table in told._asdict().items():
        unit["told"][name][0] = table
    unit["first"]["number"], unit["second"]["number"] = 1, 2
    return unit

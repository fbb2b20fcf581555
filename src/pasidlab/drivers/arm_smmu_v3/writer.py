"""Changing an entry that the hardware may read at any moment: hitless where one 64-bit store can decide, else with V=0.

Source: arm_smmu_write_entry(), arm_smmu_entry_qword_diff(), entry_set() (arm-smmu-v3.c, Linux 6.12.117 and 7.3.4);
each entry in memory at each sync is held against the records of both.

At every sync the hardware sees the old entry, the new one, or an invalid one, never a mixture: that is what the order
of the stores is for. A sync is issued only after stores that changed something.

Not modelled: the kernel's warnings (an entry that sets a bit which it does not use); CMD_PREFETCH_CFG after an STE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from pasidlab.drivers.arm_smmu_v3.used import arm_smmu_get_cd_used, arm_smmu_get_ste_update_safe, arm_smmu_get_ste_used
from pasidlab.hw.smmuv3.structures import Cd, Ste
from pasidlab.linux.profiles import Profile
from pasidlab.words import Word

W = TypeVar("W", bound=Word)
NUM_ENTRY_QWORDS = 8
_ALL = range(NUM_ENTRY_QWORDS)
_FIRST = range(1)
_ALL_BUT_FIRST = range(1, NUM_ENTRY_QWORDS)


def _nothing(entry: Word, target: Word) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryWriter(Generic[W]):
    """How one kind of entry is written (`struct arm_smmu_entry_writer`).

    Attributes:
        store: stores one 64-bit word of the entry, by its index.
        sync: makes the hardware forget what it cached of the entry, and waits until it has.
        get_used: the bits of an entry that the hardware uses.
        get_update_safe: the bits that may change although both entries use them.
    """

    store: Callable[[int, int], object]
    sync: Callable[[], object]
    get_used: Callable[[W], int]
    get_update_safe: Callable[[W, W], int] = _nothing


def arm_smmu_ste_writer(
    profile: Profile, store: Callable[[int, int], object], sync: Callable[[], object]
) -> EntryWriter[Ste]:
    """Return the writer of stream table entries (`arm_smmu_ste_writer_ops`)."""
    return EntryWriter(
        store=store,
        sync=sync,
        get_used=partial(arm_smmu_get_ste_used, profile=profile),
        get_update_safe=arm_smmu_get_ste_update_safe if profile.smmu_ste_update_safe else _nothing,
    )


def arm_smmu_cd_writer(store: Callable[[int, int], object], sync: Callable[[], object]) -> EntryWriter[Cd]:
    """Return the writer of context descriptors (`arm_smmu_cd_writer_ops`)."""
    return EntryWriter(store=store, sync=sync, get_used=arm_smmu_get_cd_used)


def arm_smmu_write_entry(writer: EntryWriter[W], entry: W, target: W) -> None:
    """Change an entry in memory, which is now `entry`, into `target`."""
    unused_update, used_qword_diff = arm_smmu_entry_qword_diff(writer, entry, target)
    memory = list(entry.words)
    if len(used_qword_diff) == 1:
        _write_hitless(writer, memory, unused_update, target.words, used_qword_diff[0])
    elif used_qword_diff:
        _write_broken(writer, memory, target.words)
    else:
        entry_set(writer, memory, target.words, _ALL)


def _write_hitless(
    writer: EntryWriter[W], memory: list[int], unused_update: list[int], target: Sequence[int], critical: int
) -> None:
    """Store what the hardware ignores now, then the word that decides, then what it ignores from then on."""
    # The critical word is written whole in the next step: a sync is saved when nothing else changes.
    unused_update[critical] = memory[critical]
    entry_set(writer, memory, unused_update, _ALL)
    entry_set(writer, memory, target, range(critical, critical + 1))
    entry_set(writer, memory, target, _ALL)


def _write_broken(writer: EntryWriter[W], memory: list[int], target: Sequence[int]) -> None:
    """Take word 0 and with it V away, store the others, then word 0."""
    entry_set(writer, memory, [0] * NUM_ENTRY_QWORDS, _FIRST)
    entry_set(writer, memory, target, _ALL_BUT_FIRST)
    entry_set(writer, memory, target, _FIRST)


def arm_smmu_entry_qword_diff(writer: EntryWriter[W], entry: W, target: W) -> tuple[list[int], list[int]]:
    """Return the entry with only unused and safe bits updated, and the words that still miss used bits of `target`."""
    entry_used = writer.get_used(entry)
    target_used = writer.get_used(target)
    kept = entry_used & ~(writer.get_update_safe(entry, target) & entry_used & target_used)
    unused_update = entry & kept | target & ~kept
    missing = type(entry)(unused_update & target_used ^ target)
    return list(type(entry)(unused_update).words), [index for index, word in enumerate(missing.words) if word]


def entry_set(writer: EntryWriter[W], memory: list[int], target: Sequence[int], indices: Iterable[int]) -> None:
    """Store those words that change; sync if there were any."""
    changed = [index for index in indices if memory[index] != target[index]]
    for index in changed:
        memory[index] = target[index]
        writer.store(index, target[index])
    if changed:
        writer.sync()

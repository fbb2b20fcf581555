"""What the trees of all IOMMU models show alike: page tables, queues, translations that caches hold, words of entries.

A tree is bounded, and says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from typing import Any

from pasidlab.formats import fields_dict, fields_text, hex_words, words_text
from pasidlab.hw.atc import Atc, AtcEntry, AtcKey
from pasidlab.hw.looking import PendingQueue
from pasidlab.hw.pagetable.contract import Rights
from pasidlab.hw.pagetable.listing import TableEntry
from pasidlab.linux.page_alloc import KERNEL
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report.places import memory_text, rights_text, size_text
from pasidlab.report.tree import Node
from pasidlab.rules import Rule
from pasidlab.words import Word

MOST_DEVICES = 64
MOST_CONTEXTS = 64
MOST_TABLE_LINES = 48
MOST_TABLE_ENTRIES = 1 << 14
"""Entries of one page table that are read at most; a table may lead to itself."""
MOST_QUEUED = 16
MOST_CACHED = 32
_MOST_TARGETS = 4


# --- words -------------------------------------------------------------------------------------------------------


def word_record(word: Word) -> dict[str, Any]:
    """Return a word as every record shows it."""
    return {"words": hex_words(word), "fields": fields_dict(word), "reserved": hex(word.reserved)}


def at(address: int, word: Word) -> dict[str, Any]:
    """Return a word with where it lies."""
    return {"address": address} | word_record(word)


def registers_node(registers: Iterable[tuple[str, Word]]) -> Node:
    """Return registers by their names."""
    node = Node("registers")
    for name, word in registers:
        text = f"{name} {hex_words(word)[0]}: {fields_text(word)}"
        node.add(Node(text, {"kind": "register", "name": name} | word_record(word)))
    return node


def entry_node(
    text: str, kind: str, address: int, word: Word | None, shared: dict[str, Any] | None = None, **more: Any
) -> Node:
    """Return an entry of a table with its words and fields below it; None is one for which memory does not answer."""
    if word is None:
        return Node(f"{text}: memory does not answer", {"kind": kind, "address": address, "words": None}, shared or {})
    node = Node(text, {"kind": kind} | at(address, word) | more, shared or {})
    node.say(words_text(word))
    node.say(fields_text(word))
    return node


def say_refused(node: Node, rule: Rule) -> None:
    """Say under an entry that hardware refuses it."""
    node.say(f"refused: {rule.check} [{rule.id}]")


# --- page tables -------------------------------------------------------------------------------------------------


def whose_text(owner: str | None, nobody: str) -> str:
    """Say whose address space it is that `places.table_owner` found; `nobody` is what None means."""
    if owner is None:
        return nobody
    return "the kernel" if owner == KERNEL else owner


def page_table(machine: Machine, what: str, base: int, entries: Iterator[TableEntry]) -> Node:
    """Return a page table, level under level; neighbours that grant the same are one line."""
    node = Node(f"page table of the {what} at {base:#x}", {"kind": "page_table", "part": what, "address": base})
    path, lines, left_out = [node], 0, 0
    for run in _runs(islice(entries, MOST_TABLE_ENTRIES)):
        lines += 1
        if lines > MOST_TABLE_LINES:
            left_out += len(run)
            continue
        del path[run[0].depth + 1 :]
        path.append(path[-1].add(_run_node(machine, run)))
    if next(entries, None) is not None:
        node.say(f"... and more than {left_out} entries, left out: only {MOST_TABLE_ENTRIES} are read")
    elif left_out:
        record = {"kind": "left_out", "of": "entries", "count": left_out}
        node.add(Node(f"... and {left_out} more entries, left out", record))
    return node


def _run_node(machine: Machine, run: list[TableEntry]) -> Node:
    first = run[0]
    record: dict[str, Any] = {"kind": "descriptor", "level": first.level, "input": first.first, "lg2": first.lg2}
    record |= {"address": first.address, "value": _hex(first.value), "rule": first.reading.rule.id, "count": len(run)}
    text = f"level {first.level}, {first.first:#x}: {_hex(first.value)} at {first.address:#x}"
    if first.reading.fault is not None:
        return Node(f"{text}: {first.reading.fault.value} fault [{first.reading.rule.id}]", record)
    if not first.reading.leaf:
        return Node(f"{text}, to the table at {first.target:#x}", record | {"target": first.target})
    owners = list(dict.fromkeys(name for entry in run for name in owners_of(machine, entry.target)))
    record |= {"targets": [entry.target for entry in run], "owners": owners, "rights": rights_text(first.rights)}
    many = f"{len(run)} times {size_text(first.lg2)}" if len(run) > 1 else size_text(first.lg2)
    targets = _targets([entry.target for entry in run], first.lg2)
    return Node(f"{text}, {many} to {targets}: {rights_text(first.rights)}; {memory_text(owners)}", record)


def _runs(entries: Iterable[TableEntry]) -> Iterator[list[TableEntry]]:
    """Put neighbouring leaves of one table together that say the same but for their output."""
    run: list[TableEntry] = []
    for entry in entries:
        if run and not _continues(run[-1], entry):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


def _continues(before: TableEntry, entry: TableEntry) -> bool:
    if not (before.reading.leaf and entry.reading.leaf) or before.reading.fault or entry.reading.fault:
        return False
    if (before.depth, before.lg2, before.rights) != (entry.depth, entry.lg2, entry.rights):
        return False
    return before.first + (1 << before.lg2) == entry.first and before.address + 8 == entry.address


def _targets(targets: list[int], lg2: int) -> str:
    """Say output addresses: the first where all follow it in order, else as many as there is room for."""
    if len(targets) > 1 and all(after - before == 1 << lg2 for before, after in pairwise(targets)):
        return f"{targets[0]:#x} onwards"
    shown = [hex(target) for target in targets[:_MOST_TARGETS]]
    return ", ".join(shown if len(targets) <= _MOST_TARGETS else [*shown, "..."])


def _hex(value: int | None) -> str:
    return "memory does not answer" if value is None else f"{value:#018x}"


# --- queues -----------------------------------------------------------------------------------------------------


def queue_node(name: str, queue: PendingQueue) -> Node:
    """Return a queue with what nobody has consumed."""
    count = len(queue.pending)
    text = f"{name} at {queue.base:#x}: {queue.entries} entries, {count or 'none'} pending"
    node = Node(
        text, {"kind": "queue", "name": name, "address": queue.base, "entries": queue.entries, "pending": count}
    )
    node.extend(queue.pending, partial(_queued, name), MOST_QUEUED, "pending entries")
    return node


def _queued(name: str, word: Word) -> Node:
    record = {"kind": "pending", "queue": name} | word_record(word)
    return Node(f"{words_text(word)}: {fields_text(word)}", record)


# --- caches -----------------------------------------------------------------------------------------------------


def translation_node(
    machine: Machine, who: str, page: tuple[int, int], output: int, rights: Rights, record: dict[str, Any]
) -> Node:
    """Return a translation that an IOMMU has cached; `page` is the input in units of 2**lg2 bytes, and lg2."""
    number, lg2 = page
    first, output = number << lg2, output >> lg2 << lg2
    owners = owners_of(machine, output)
    shown = {"input": first, "lg2": lg2, "output": output, "rights": rights_text(rights), "owners": owners}
    text = f"{who}: {first:#x} to {output:#x}, {size_text(lg2)}: {rights_text(rights)}; {memory_text(owners)}"
    return Node(text, {"kind": "cached_translation"} | record | shown)


def add_atc(node: Node, machine: Machine, dev: Device, atc: Atc) -> None:
    """Put the translations that a device has cached under a node."""
    node.extend(atc.entries.items(), partial(_in_device, machine, dev), MOST_CACHED, f"ATC entries of {dev.name}")


def _in_device(machine: Machine, dev: Device, cached: tuple[AtcKey, AtcEntry]) -> Node:
    (pasid, lg2, page, _), entry = cached
    first, output, owners = page << lg2, entry.output >> lg2 << lg2, owners_of(machine, entry.output)
    record: dict[str, Any] = {"kind": "cached_in_device", "device": dev.name, "pasid": pasid}
    record |= {"input": first, "lg2": lg2, "output": output, "owners": owners}
    who = "no PASID" if pasid is None else f"PASID {pasid}"
    text = f"ATC of {dev.name}, {who}: {first:#x} to {output:#x}, {size_text(lg2)}; {memory_text(owners)}"
    return Node(text, record)


def owners_of(machine: Machine, address: int) -> list[str]:
    """Return whose memory an address is."""
    return list(machine.kernel.page_alloc.owners_of(address))

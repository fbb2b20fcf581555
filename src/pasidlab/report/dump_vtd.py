"""The tree of one VT-d remapping unit: root table, context and PASID entries, page tables, faults, queues, caches.

Entries that are all zero are left out; those that are not present and yet not zero are shown, as those of a PASID that
is being torn down.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from pasidlab.drivers.intel.driver import Instance
from pasidlab.formats import fields_text, words_text
from pasidlab.hw.pagetable.contract import Start, WalkFault
from pasidlab.hw.pagetable.vtd_second import SecondStage
from pasidlab.hw.pagetable.x86 import X86Paging
from pasidlab.hw.requester import rid_text
from pasidlab.hw.vtd import inspect
from pasidlab.hw.vtd.caches import Kept, Tag, TlbKey
from pasidlab.hw.vtd.contexts import DeviceContext, LegacyContext, Paging
from pasidlab.hw.vtd.inspect import Placed
from pasidlab.hw.vtd.legality import Check
from pasidlab.hw.vtd.lookup import Refused
from pasidlab.hw.vtd.records import FaultRecord
from pasidlab.hw.vtd.registers import Offset
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
from pasidlab.linux.structs import Device
from pasidlab.machine import Machine
from pasidlab.report.iommu_tree import IommuTree
from pasidlab.report.nodes import (
    MOST_CACHED,
    MOST_CONTEXTS,
    MOST_DEVICES,
    add_atc,
    at,
    entry_node,
    page_table,
    queue_node,
    registers_node,
    say_refused,
    translation_node,
    whose_text,
    word_record,
)
from pasidlab.report.places import rights_text, size_text, sources_of_vtd, table_owner
from pasidlab.report.tree import Node

_NOTED = (
    Offset.CAP,
    Offset.ECAP,
    Offset.GSTS,
    Offset.RTADDR,
    Offset.FSTS,
    Offset.IQA,
    Offset.IQER,
    Offset.PQA,
    Offset.PRS,
)


class VtdTree(IommuTree):
    """The tree of one unit, whose devices have source identifiers; `only` is the one device that it is about."""

    MODEL, TITLE = "intel-vtd", "an Intel VT-d remapping unit"
    UNTAGGED = "IOTLB entries bear a domain and no device"

    def __init__(self, machine: Machine, name: str, instance: Instance, only: Device | None) -> None:
        super().__init__(machine, name, sources_of_vtd(machine, instance), only)
        self.unit: RemappingUnit = instance.hw

    def _tables(self) -> Iterator[Node]:
        yield self._root_table()
        yield self._faults()

    def _source_name(self, source: int) -> str:
        dev = self.devices.get(source)
        return f"{rid_text(source)}, {'no device' if dev is None else dev.name}"

    # --- registers, fault records, queues ------------------------------------------------------------------------

    def _registers(self) -> Node:
        return registers_node((offset.name, inspect.register(self.unit, offset)) for offset in _NOTED)

    def _faults(self) -> Node:
        records = [(index, record) for index, record in inspect.fault_records(self.unit) if self._shown(record.sid)]
        node = Node(f"fault recording registers: {len(records) or 'none'} with a fault")
        for index, record in records:
            node.add(_fault(index, record))
        return node

    def _queues(self) -> Iterator[Node]:
        yield queue_node("invalidation queue", inspect.invalidation_queue(self.unit))
        page_requests = inspect.page_request_queue(self.unit)
        if page_requests is not None:
            yield queue_node("page request queue", page_requests)
        for request in inspect.page_requests_in_flight(self.unit):
            text = f"page request on its way to the queue: {words_text(request)}: {fields_text(request)}"
            yield Node(text, {"kind": "in_flight"} | word_record(request))

    # --- root and context tables ---------------------------------------------------------------------------------

    def _root_table(self) -> Node:
        table = inspect.root_table(self.unit)
        mode, state = table.mode.name.lower().replace("_", " "), "on" if table.on else "off"
        text = f"root table at {table.address:#x}: {mode} mode, translation is {state}"
        record = {"kind": "root_table", "address": table.address, "mode": table.mode.name, "translation": table.on}
        node = Node(text, record)
        refused = self.unit.translator.mode_fault()
        if refused is not None:
            say_refused(node, refused.rule)
            return node
        for entry in inspect.root_entries(self.unit):
            if entry.word != 0 and (self.only is None or entry.key in {source >> 8 for source in self.only}):
                node.add(self._root(entry))
        return node

    def _root(self, entry: Placed[RootEntry] | Placed[ScalableRootEntry]) -> Node:
        text, word = f"root entry of bus {entry.key:#04x} at {entry.address:#x}", entry.word
        node = entry_node(text, "root", entry.address, word, {"bus": entry.key})
        if word is None:
            return node
        for check in inspect.root_checks(self.unit, word):
            say_refused(node, check.rule)
        contexts = (
            found
            for found in inspect.context_entries(self.unit, entry.key, word)
            if found.word != 0 and self._shown(found.key)
        )
        node.extend(contexts, self._context, MOST_DEVICES, "context entries")
        return node

    def _context(self, entry: Placed[ContextEntry] | Placed[ScalableContextEntry]) -> Node:
        word = entry.word
        text = f"context entry of {self._source_name(entry.key)} at {entry.address:#x}"
        shared = {"source_id": rid_text(entry.key)} | self._device_at(entry.key)
        found = None if word is None else inspect.context(self.unit, word)
        if isinstance(found, LegacyContext):
            text += f": {_domain(found.paging)}"
        node = entry_node(text, "context", entry.address, word, shared)
        if isinstance(found, Check):
            say_refused(node, found.rule)
        elif isinstance(found, LegacyContext):
            self._add_tables(node, found.paging)
        elif found is not None:
            directory = (one for one in inspect.directory_entries(self.unit, found) if one.word != 0)
            node.extend(directory, partial(self._directory, found), MOST_CONTEXTS, "PASID directory entries")
        return node

    # --- PASID directory and tables --------------------------------------------------------------------------------

    def _directory(self, context: DeviceContext, entry: Placed[PasidDirectoryEntry]) -> Node:
        first, word = entry.key, entry.word
        last = first + (1 << PASID_TABLE_BITS) - 1
        text = f"PASID directory entry of PASIDs {first:#x} to {last:#x} at {entry.address:#x}"
        if word is None:
            return entry_node(text, "pasid_directory", entry.address, None)
        record = {"kind": "pasid_directory", "first": first} | at(entry.address, word)
        node = Node(f"{text}: {words_text(word)}, {fields_text(word)}", record)
        refused = inspect.directory_check(self.unit, word)
        if refused is not None:
            say_refused(node, refused.rule)
        entries = (one for one in inspect.pasid_entries(self.unit, first, word) if one.word != 0)
        node.extend(entries, partial(self._pasid, context), MOST_CONTEXTS, "PASID entries")
        return node

    def _pasid(self, context: DeviceContext, entry: Placed[PasidEntry]) -> Node:
        pasid, word = entry.key, entry.word
        also = ", also of requests without PASID," if pasid == context.rid_pasid else ""
        text, shared = f"entry of PASID {pasid}{also} at {entry.address:#x}", {"pasid": pasid}
        if word is None:
            return entry_node(text, "pasid_entry", entry.address, None, shared)
        found = inspect.paging(self.unit, pasid, word)
        owner = self._owner(found)
        whose = whose_text(owner, "nobody") if isinstance(found, Check) or found.stage else "everybody: all memory"
        what = "not present" if not word.p else f"domain {word.did}, {word.pgtt.name.lower().replace('_', ' ')}"
        silent = "; its faults are not recorded" if word.fpd else ""
        node = entry_node(
            f"{text}: {what}, the address space of {whose}{silent}",
            "pasid_entry",
            entry.address,
            word,
            shared,
            did=word.did,
            owner=owner,
        )
        if isinstance(found, Check):
            say_refused(node, found.rule)
        else:
            self._add_tables(node, found)
        return node

    def _owner(self, found: Paging | Check) -> str | None:
        """Return whose address space an entry names; None is nobody's, or that of all memory."""
        if isinstance(found, Check) or found.stage is None:
            return None
        return table_owner(self.machine, (found.below or found.stage).table)

    def _add_tables(self, node: Node, paging: Paging) -> None:
        """Put the page tables that an entry selects under it."""
        if isinstance(paging.stage, X86Paging) and paging.below is None:
            entries = inspect.first_stage_entries(self.unit, paging.stage)
            node.add(page_table(self.machine, "first stage", paging.stage.table, entries))
        if paging.below is not None:
            node.say("its first stage lies in guest addresses and is not shown; `pasidlab walk` follows it")
        second = paging.below or paging.stage
        if isinstance(second, SecondStage):
            entries = inspect.second_stage_entries(self.unit, second)
            node.add(page_table(self.machine, "second stage", second.table, entries))

    # --- caches ------------------------------------------------------------------------------------------------

    def _add_caches(self, node: Node) -> None:
        lookup, tlb = self.unit.lookup, self.unit.tlb
        contexts: dict[int, DeviceContext | LegacyContext | Refused] = {}
        contexts |= lookup.cached_legacy_contexts
        contexts |= lookup.cached_contexts
        shown = [(source, found) for source, found in contexts.items() if self._shown(source)]
        pasids = [(key, found) for key, found in lookup.cached_pasids.items() if self._shown(key[0])]
        node.extend(shown, self._cached_context, MOST_CACHED, "context entries")
        node.extend(pasids, self._cached_pasid, MOST_CACHED, "PASID entries")
        if self.only is None:
            node.extend(tlb.entries.items(), self._translation, MOST_CACHED, "IOTLB entries")
            node.extend(tlb.tables.items(), _cached_table, MOST_CACHED, "tables")
            node.extend(tlb.absent.items(), _absent, MOST_CACHED, "pages that are not there")
        for source, dev in self.devices.items():
            port = self.machine.parts.vtds.ports.get(dev)
            if port is not None and self._shown(source):
                add_atc(node, self.machine, dev, port.atc)

    def _cached_context(self, cached: tuple[int, DeviceContext | LegacyContext | Refused]) -> Node:
        source, found = cached
        if isinstance(found, Refused):
            what = f"refused [{found.rule.id}]"
        elif isinstance(found, LegacyContext):
            what = _domain(found.paging)
        else:
            what = f"PASID directory at {found.directory:#x}"
        record = {"kind": "cached_context", "source_id": rid_text(source), "state": what}
        return Node(f"context entry of {self._source_name(source)}: {what}", record)

    def _cached_pasid(self, cached: tuple[tuple[int, int], Paging | Refused]) -> Node:
        (source, pasid), found = cached
        what = f"refused [{found.rule.id}]" if isinstance(found, Refused) else _domain(found)
        record = {"kind": "cached_pasid", "source_id": rid_text(source), "pasid": pasid, "state": what}
        return Node(f"entry of PASID {pasid} of {self._source_name(source)}: {what}", record)

    def _translation(self, cached: tuple[TlbKey, Kept]) -> Node:
        (tag, lg2, page), kept = cached
        record = _tag_record(tag) | {"usable": rights_text(kept.usable)}
        who = f"IOTLB {_tag_text(tag)}"
        node = translation_node(self.machine, who, (page, lg2), kept.leaf.output, kept.leaf.rights, record)
        if kept.usable != kept.leaf.rights:
            node.text += "; a write walks again, to mark the page dirty"
        return node


def _fault(index: int, record: FaultRecord) -> Node:
    who = {"kind": "fault", "register": index, "source_id": rid_text(record.sid)}
    return Node(f"register {index}: {words_text(record)}: {fields_text(record)}", who | word_record(record))


def _domain(paging: Paging) -> str:
    """Say what an entry selects."""
    if paging.stage is None:
        return f"domain {paging.did}, untranslated"
    name = "first" if isinstance(paging.stage, X86Paging) else "second"
    below = f", under it the second stage at {paging.below.table:#x}" if paging.below is not None else ""
    return f"domain {paging.did}, {name} stage at {paging.stage.table:#x}{below}"


def _tag_text(tag: Tag) -> str:
    who = "every PASID" if tag.pasid is None else f"PASID {tag.pasid}"
    return f"domain {tag.did}, {who}{', nested' if tag.nested else ''}"


def _tag_record(tag: Tag) -> dict[str, Any]:
    return {"did": tag.did, "pasid": tag.pasid, "nested": tag.nested}


def _cached_table(cached: tuple[TlbKey, Start]) -> Node:
    (tag, lg2, number), start = cached
    record = {"kind": "cached_table"} | _tag_record(tag)
    record |= {"input": number << lg2, "lg2": lg2, "table": start.table, "level": start.levels[0].number}
    where = f"{number << lg2:#x}, {size_text(lg2)}"
    return Node(f"table of {_tag_text(tag)}: {where}: level {start.levels[0].number} at {start.table:#x}", record)


def _absent(cached: tuple[TlbKey, WalkFault]) -> Node:
    (tag, lg2, number), fault = cached
    record = {"kind": "cached_absent"} | _tag_record(tag)
    record |= {"input": number << lg2, "lg2": lg2, "rule": fault.rule.id}
    return Node(f"no page of {_tag_text(tag)} at {number << lg2:#x} [{fault.rule.id}]", record)

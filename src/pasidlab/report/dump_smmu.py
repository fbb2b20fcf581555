"""The tree of one Arm SMMUv3: stream table, STEs, CDs and page tables as it would find them, queues, caches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pasidlab.drivers.arm_smmu_v3.driver import Instance
from pasidlab.formats import fields_text, words_text
from pasidlab.hw.pagetable.contract import Leaf
from pasidlab.hw.smmuv3 import inspect
from pasidlab.hw.smmuv3.caches import TlbKey
from pasidlab.hw.smmuv3.contexts import Context, Stream, stage2_of
from pasidlab.hw.smmuv3.inspect import ContextEntry, StreamEntry
from pasidlab.hw.smmuv3.legality import cd_fault, ste_fault
from pasidlab.hw.smmuv3.lookup import BadConfig
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Config, Ste
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
)
from pasidlab.report.places import streams_of_smmu, table_owner
from pasidlab.report.tree import Node

_NOTED = (
    Offset.IDR0,
    Offset.IDR1,
    Offset.IDR5,
    Offset.CR0,
    Offset.CR2,
    Offset.GBPA,
    Offset.STRTAB_BASE,
    Offset.STRTAB_BASE_CFG,
    Offset.GERROR,
    Offset.GERRORN,
)


class SmmuTree(IommuTree):
    """The tree of one SMMU, whose devices have StreamIDs; `only` is the one device that it is about."""

    MODEL, TITLE = "arm-smmu-v3", "an Arm SMMUv3"
    UNTAGGED = "TLB entries bear no StreamID"

    def __init__(self, machine: Machine, name: str, instance: Instance, only: Device | None) -> None:
        super().__init__(machine, name, streams_of_smmu(machine, instance), only)
        self.smmu: Smmuv3 = instance.hw

    def _tables(self) -> Iterator[Node]:
        yield self._stream_table()

    def _stream_name(self, sid: int) -> str:
        dev = self.devices.get(sid)
        return f"stream {sid:#x}, {dev.name}" if dev is not None else f"stream {sid:#x}, no device's"

    # --- registers and queues ----------------------------------------------------------------------------------

    def _registers(self) -> Node:
        return registers_node((offset.name, inspect.register(self.smmu, offset)) for offset in _NOTED)

    def _queues(self) -> Iterator[Node]:
        yield queue_node("command queue", inspect.command_queue(self.smmu))
        yield queue_node("event queue", inspect.event_queue(self.smmu))
        page_requests = inspect.page_request_queue(self.smmu)
        if page_requests is not None:
            yield queue_node("PRI queue", page_requests)

    # --- the stream table --------------------------------------------------------------------------------------

    def _stream_table(self) -> Node:
        table = inspect.stream_table(self.smmu)
        shape = f"two levels, split {table.split}" if table.split else "linear"
        text = f"stream table at {table.base:#x}: {shape}, {table.log2size} StreamID bits"
        record = {"kind": "stream_table", "address": table.base, "log2size": table.log2size, "split": table.split}
        node = Node(text, record)
        parents = {0: node} if not table.split else self._level1(node)
        silent = 0
        shown: dict[int, list[StreamEntry]] = {first: [] for first in parents}
        for entry in inspect.stream_entries(self.smmu):
            if not self._shown(entry.sid):
                continue
            if entry.ste is not None and (not entry.ste.v or entry.ste.config < Config.BYPASS):
                silent += 1
                continue
            shown[entry.sid >> table.split << table.split if table.split else 0].append(entry)
        for first, parent in parents.items():
            parent.extend(shown[first], self._stream, MOST_DEVICES, "STEs")
        if self.only is None:
            node.record["silent"] = silent
            node.say(f"{silent} STEs that abort, or are not valid")
        return node

    def _level1(self, node: Node) -> dict[int, Node]:
        """Add the level 1 descriptors that lead somewhere, and return the node of each by its first StreamID."""
        split = inspect.stream_table(self.smmu).split
        parents = {}
        for first, address, word in inspect.level1_descriptors(self.smmu):
            if self.only is None or any(sid >> split == first >> split for sid in self.only):
                text = f"L1STD of streams from {first:#x} at {address:#x}: {words_text(word)}, {fields_text(word)}"
                parents[first] = node.add(Node(text, {"kind": "l1std", "first": first} | at(address, word)))
        return parents

    def _stream(self, entry: StreamEntry) -> Node:
        who, ste = self._stream_name(entry.sid), entry.ste
        shared = {"sid": entry.sid} | self._device_at(entry.sid)
        node = entry_node(f"STE of {who} at {entry.address:#x}", "ste", entry.address, ste, shared)
        if ste is None:
            return node
        refused = ste_fault(ste, self.smmu.features)
        if refused is not None:
            say_refused(node, refused)
            return node
        if ste.config is Config.STAGE_2:
            entries = inspect.stage2_entries(self.smmu.memory, stage2_of(ste, self.smmu.features))
            node.add(page_table(self.machine, "stage 2", ste.s2ttb, entries))
        if ste.config is Config.NESTED:
            node.say("its CD table lies in intermediate addresses and is not shown; `pasidlab walk` follows it")
        if inspect.has_contexts(ste):
            contexts = (cd for cd in inspect.context_entries(self.smmu, ste) if cd.cd is None or cd.cd.v)
            node.extend(contexts, partial(self._context, ste), MOST_CONTEXTS, "CDs")
        return node

    # --- CDs and page tables -----------------------------------------------------------------------------------

    def _context(self, ste: Ste, entry: ContextEntry) -> Node:
        cd, shared = entry.cd, {"ssid": entry.ssid}
        where = f"CD of SubstreamID {entry.ssid} at {entry.address:#x}"
        if cd is None:
            return entry_node(where, "cd", entry.address, None, shared)
        owner = None if cd.epd0 else table_owner(self.machine, cd.ttb0)
        whose = whose_text(owner, "nobody, its walks are disabled")
        text = f"{where}: ASID {cd.asid}, the address space of {whose}"
        node = entry_node(text, "cd", entry.address, cd, shared, asid=cd.asid, owner=owner)
        refused = cd_fault(cd, ste, self.smmu.features, high_half=inspect.has_high_half(self.smmu, ste))
        if refused is not None:
            say_refused(node, refused)
            return node
        form = inspect.context_format(self.smmu, ste, cd)
        for high, disabled, base in ((False, cd.epd0, cd.ttb0), (True, cd.epd1, cd.ttb1)):
            if not disabled and (not high or form.ttb1 is not None):
                entries = inspect.stage1_entries(self.smmu.memory, form, high=high)
                node.add(page_table(self.machine, "high half" if high else "low half", base, entries))
        return node

    # --- caches ------------------------------------------------------------------------------------------------

    def _add_caches(self, node: Node) -> None:
        smmu = self.smmu
        streams = [(sid, found) for sid, found in smmu.lookup.cached_streams.items() if self._shown(sid)]
        contexts = [(key, found) for key, found in smmu.lookup.cached_contexts.items() if self._shown(key[0])]
        node.extend(streams, self._cached_stream, MOST_CACHED, "STEs")
        node.extend(contexts, self._cached_context, MOST_CACHED, "CDs")
        if self.only is None:
            level1 = smmu.lookup.cached_level1
            if any(level1):
                record = {"kind": "cached_level1", "streams": level1[0], "contexts": level1[1]}
                text = f"level 1 descriptors: {level1[0]} of the stream table, {level1[1]} of CD tables"
                node.add(Node(text, record))
            node.extend(smmu.tlb.entries.items(), self._translation, MOST_CACHED, "TLB entries")
        for sid, dev in self.devices.items():
            port = self.machine.parts.smmus.ports.get(dev)
            if port is not None and port.sid == sid and self._shown(sid):
                add_atc(node, self.machine, dev, port.atc)

    def _cached_stream(self, cached: tuple[int, Stream | BadConfig]) -> Node:
        sid, found = cached
        what = f"refused [{found.rule.id}]" if isinstance(found, BadConfig) else f"config {found.config.name}"
        record = {"kind": "cached_ste", "sid": sid, "state": what}
        return Node(f"STE of {self._stream_name(sid)}: {what}", record)

    def _cached_context(self, cached: tuple[tuple[int, int], Context | BadConfig]) -> Node:
        (sid, ssid), found = cached
        if isinstance(found, BadConfig):
            what = f"refused [{found.rule.id}]"
        else:
            what = f"ASID {found.cd.asid}, ttb0 {found.cd.ttb0:#x}{', walks are disabled' if found.cd.epd0 else ''}"
        record = {"kind": "cached_cd", "sid": sid, "ssid": ssid, "state": what}
        return Node(f"CD of {self._stream_name(sid)}, SubstreamID {ssid}: {what}", record)

    def _translation(self, cached: tuple[TlbKey, Leaf]) -> Node:
        key, leaf = cached
        tag = key.tag
        who = "every ASID" if tag.asid is None else f"ASID {tag.asid}"
        record = {"regime": tag.regime.name, "vmid": tag.vmid, "asid": tag.asid}
        where = f"TLB {tag.regime.name}, VMID {tag.vmid}, {who}"
        return translation_node(self.machine, where, (key.page, key.lg2), leaf.output, leaf.rights, record)

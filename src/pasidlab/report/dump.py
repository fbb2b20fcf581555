"""The tables of a machine as a tree: what each SMMU would find in memory, what waits in its queues, what it has cached.

For a mock IOMMU the tree is what its driver was told: whose memory each PASID of each device reaches. A tree is
bounded, and says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from operator import itemgetter
from typing import Any

from pasidlab.drivers.arm_smmu_v3.driver import Instance
from pasidlab.formats import fields_dict, fields_text, hex_words, words_text
from pasidlab.hw.atc import AtcEntry, AtcKey
from pasidlab.hw.pagetable.contract import Leaf
from pasidlab.hw.pagetable.vmsa import Stage2
from pasidlab.hw.smmuv3 import inspect
from pasidlab.hw.smmuv3.caches import TlbKey
from pasidlab.hw.smmuv3.contexts import Context, Stream, stage2_of
from pasidlab.hw.smmuv3.inspect import ContextEntry, PendingQueue, StreamEntry, TableEntry
from pasidlab.hw.smmuv3.legality import cd_fault, ste_fault
from pasidlab.hw.smmuv3.lookup import BadConfig
from pasidlab.hw.smmuv3.registers import Offset
from pasidlab.hw.smmuv3.smmu import Smmuv3
from pasidlab.hw.smmuv3.structures import Config, Ste
from pasidlab.linux.page_alloc import KERNEL
from pasidlab.linux.structs import Device, IommuDomain
from pasidlab.machine import Machine
from pasidlab.report.places import device_named, memory_text, rights_text, size_text, streams_of_smmu, table_owner
from pasidlab.report.tree import Node
from pasidlab.words import Word

MOST_STREAMS = 64
MOST_CONTEXTS = 64
MOST_TABLE_LINES = 48
MOST_TABLE_ENTRIES = 1 << 14
"""Entries of one page table that are read at most; a table may lead to itself."""
MOST_QUEUED = 16
MOST_CACHED = 32
_MOST_TARGETS = 4
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


def dump(machine: Machine, title: str, device: str | None = None) -> Node:
    """Return the tables of a machine; `device` leaves out what is not about that one. InputError: no such device."""
    root = Node(title, {"kind": "machine", "title": title})
    only = None if device is None else device_named(machine, device)
    smmus = machine.parts.smmus.instances
    for name, iommu in machine.iommus.items():
        if only is not None and only.iommu is not iommu:
            continue
        if iommu in smmus:
            root.add(_SmmuTree(machine, name, smmus[iommu], only).node())
        else:
            devices = [endpoint.dev for endpoint in machine.endpoints.values() if endpoint.dev.iommu is iommu]
            root.add(_mock(machine, name, [dev for dev in devices if only in (None, dev)]))
    bare = [endpoint.dev for endpoint in machine.endpoints.values() if endpoint.dev.iommu is None]
    for dev in bare:
        if only in (None, dev):
            record = {"kind": "device", "device": dev.name, "iommu": None}
            root.add(Node(f"{dev.name} is behind no IOMMU", record))
    if not root.children:
        root.say("this machine has neither IOMMU nor device")
    return root


# --- mock IOMMUs -------------------------------------------------------------------------------------------------


def _mock(machine: Machine, name: str, devices: list[Device]) -> Node:
    """Return what a mock IOMMU was told, which is all that it has."""
    node = Node(
        f"{name}: a mock IOMMU; it has no tables in memory, only what its driver was told", shared={"iommu": name}
    )
    node.record = {"kind": "iommu", "model": "mock"}
    for dev in devices:
        child = node.add(Node(f"{dev.name}", shared={"device": dev.name}))
        entries = {pasid: domain for (owner, pasid), domain in machine.parts.mock.entries.items() if owner is dev}
        child.extend(sorted(entries.items(), key=itemgetter(0)), _mock_entry, MOST_CONTEXTS, "PASIDs")
        if not entries:
            child.say("no PASID reaches memory")
    return node


def _mock_entry(entry: tuple[int, IommuDomain]) -> Node:
    pasid, domain = entry
    owners = [KERNEL if domain.mm is None else domain.mm.name]
    return Node(f"PASID {pasid}: {memory_text(owners)}", {"kind": "entry", "pasid": pasid, "owners": owners})


# --- SMMUs -------------------------------------------------------------------------------------------------------


class _SmmuTree:
    """The tree of one SMMU; `only` is the one device that it is about."""

    def __init__(self, machine: Machine, name: str, instance: Instance, only: Device | None) -> None:
        self.machine = machine
        self.name = name
        self.smmu: Smmuv3 = instance.hw
        self.streams = streams_of_smmu(machine, instance)
        self.only = None if only is None else {sid for sid, dev in self.streams.items() if dev is only}

    def node(self) -> Node:
        node = Node(f"{self.name}: an Arm SMMUv3", {"kind": "iommu", "model": "arm-smmu-v3"}, {"iommu": self.name})
        if self.only is None:
            node.add(self._registers())
        node.add(self._stream_table())
        if self.only is None:
            for queue in self._queues():
                node.add(queue)
        node.add(self._caches())
        return node

    def _shown(self, sid: int) -> bool:
        return self.only is None or sid in self.only

    def _stream_name(self, sid: int) -> str:
        dev = self.streams.get(sid)
        return f"stream {sid:#x}, {dev.name}" if dev is not None else f"stream {sid:#x}, no device's"

    def _owners(self, address: int) -> list[str]:
        return list(self.machine.kernel.page_alloc.owners_of(address))

    # --- registers and queues ----------------------------------------------------------------------------------

    def _registers(self) -> Node:
        node = Node("registers")
        for offset in _NOTED:
            word = inspect.register(self.smmu, offset)
            text = f"{offset.name} {hex_words(word)[0]}: {fields_text(word)}"
            node.add(Node(text, {"kind": "register", "name": offset.name} | _word_record(word)))
        return node

    def _queues(self) -> Iterator[Node]:
        yield _queue("command queue", inspect.command_queue(self.smmu))
        yield _queue("event queue", inspect.event_queue(self.smmu))
        page_requests = inspect.page_request_queue(self.smmu)
        if page_requests is not None:
            yield _queue("PRI queue", page_requests)

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
            parent.extend(shown[first], self._stream, MOST_STREAMS, "STEs")
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
                parents[first] = node.add(Node(text, {"kind": "l1std", "first": first} | _at(address, word)))
        return parents

    def _stream(self, entry: StreamEntry) -> Node:
        who, ste = self._stream_name(entry.sid), entry.ste
        dev = self.streams.get(entry.sid)
        shared = {"sid": entry.sid, "device": None if dev is None else dev.name}
        if ste is None:
            return Node(
                f"STE of {who} at {entry.address:#x}: memory does not answer", _lost("ste", entry.address), shared
            )
        node = Node(f"STE of {who} at {entry.address:#x}", {"kind": "ste"}, shared)
        node.record |= _at(entry.address, ste)
        node.say(words_text(ste))
        node.say(fields_text(ste))
        refused = ste_fault(ste, self.smmu.features)
        if refused is not None:
            node.say(f"refused: {refused.check} [{refused.id}]")
            return node
        if ste.config is Config.STAGE_2:
            node.add(self._page_table("stage 2", stage2_of(ste, self.smmu.features), ste.s2ttb))
        if ste.config is Config.NESTED:
            node.say("its CD table lies in intermediate addresses and is not shown; `pasidlab walk` follows it")
        if inspect.has_contexts(ste):
            entries = (cd for cd in inspect.context_entries(self.smmu, ste) if cd.cd is None or cd.cd.v)
            node.extend(entries, partial(self._context, ste), MOST_CONTEXTS, "CDs")
        return node

    # --- CDs and page tables -----------------------------------------------------------------------------------

    def _context(self, ste: Ste, entry: ContextEntry) -> Node:
        cd, shared = entry.cd, {"ssid": entry.ssid}
        where = f"CD of SubstreamID {entry.ssid} at {entry.address:#x}"
        if cd is None:
            return Node(f"{where}: memory does not answer", _lost("cd", entry.address), shared)
        owner = None if cd.epd0 else table_owner(self.machine, cd.ttb0)
        whose = "nobody, its walks are disabled" if owner is None else "the kernel" if owner == KERNEL else owner
        node = Node(f"{where}: ASID {cd.asid}, the address space of {whose}", {"kind": "cd"}, shared)
        node.record |= _at(entry.address, cd) | {"asid": cd.asid, "owner": owner}
        node.say(words_text(cd))
        node.say(fields_text(cd))
        refused = cd_fault(cd, ste, self.smmu.features, high_half=inspect.has_high_half(self.smmu, ste))
        if refused is not None:
            node.say(f"refused: {refused.check} [{refused.id}]")
            return node
        form = inspect.context_format(self.smmu, ste, cd)
        for high, disabled, base in ((False, cd.epd0, cd.ttb0), (True, cd.epd1, cd.ttb1)):
            if not disabled and (not high or form.ttb1 is not None):
                entries = inspect.stage1_entries(self.smmu.memory, form, high=high)
                node.add(self._tables("high half" if high else "low half", base, entries))
        return node

    def _page_table(self, what: str, form: Stage2, base: int) -> Node:
        return self._tables(what, base, inspect.stage2_entries(self.smmu.memory, form))

    def _tables(self, what: str, base: int, entries: Iterator[TableEntry]) -> Node:
        """Return a page table, level under level; neighbours that grant the same are one line."""
        node = Node(f"page table of the {what} at {base:#x}", {"kind": "page_table", "part": what, "address": base})
        path, lines, left_out = [node], 0, 0
        for run in _runs(islice(entries, MOST_TABLE_ENTRIES)):
            lines += 1
            if lines > MOST_TABLE_LINES:
                left_out += len(run)
                continue
            del path[run[0].depth + 1 :]
            path.append(path[-1].add(self._run(run)))
        if next(entries, None) is not None:
            node.say(f"... and more than {left_out} entries, left out: only {MOST_TABLE_ENTRIES} are read")
        elif left_out:
            record = {"kind": "left_out", "of": "entries", "count": left_out}
            node.add(Node(f"... and {left_out} more entries, left out", record))
        return node

    def _run(self, run: list[TableEntry]) -> Node:
        first = run[0]
        record: dict[str, Any] = {"kind": "descriptor", "level": first.level, "input": first.first, "lg2": first.lg2}
        record |= {
            "address": first.address,
            "value": _hex(first.value),
            "rule": first.reading.rule.id,
            "count": len(run),
        }
        text = f"level {first.level}, {first.first:#x}: {_hex(first.value)} at {first.address:#x}"
        if first.reading.fault is not None:
            return Node(f"{text}: {first.reading.fault.value} fault [{first.reading.rule.id}]", record)
        if not first.reading.leaf:
            return Node(f"{text}, to the table at {first.target:#x}", record | {"target": first.target})
        owners = list(dict.fromkeys(name for entry in run for name in self._owners(entry.target)))
        record |= {"targets": [entry.target for entry in run], "owners": owners, "rights": rights_text(first.rights)}
        many = f"{len(run)} times {size_text(first.lg2)}" if len(run) > 1 else size_text(first.lg2)
        targets = _targets([entry.target for entry in run], first.lg2)
        return Node(f"{text}, {many} to {targets}: {rights_text(first.rights)}; {memory_text(owners)}", record)

    # --- caches ------------------------------------------------------------------------------------------------

    def _caches(self) -> Node:
        smmu = self.smmu
        node = Node("caches")
        streams = [(sid, found) for sid, found in smmu.lookup.cached_streams.items() if self._shown(sid)]
        contexts = [(key, found) for key, found in smmu.lookup.cached_contexts.items() if self._shown(key[0])]
        node.extend(streams, self._cached_stream, MOST_CACHED, "STEs")
        node.extend(contexts, self._cached_context, MOST_CACHED, "CDs")
        if self.only is None:
            level1 = smmu.lookup.cached_level1
            if any(level1):
                record = {"kind": "cached_level1", "streams": level1[0], "contexts": level1[1]}
                node.add(
                    Node(f"level 1 descriptors: {level1[0]} of the stream table, {level1[1]} of CD tables", record)
                )
            node.extend(smmu.tlb.entries.items(), self._translation, MOST_CACHED, "TLB entries")
        for sid, dev in self.streams.items():
            port = self.machine.parts.smmus.ports.get(dev)
            if port is not None and port.sid == sid and self._shown(sid):
                node.extend(
                    port.atc.entries.items(), partial(self._in_device, dev), MOST_CACHED, f"ATC entries of {dev.name}"
                )
        if not node.children:
            node.say("empty")
        if self.only is not None:
            node.say("TLB entries bear no StreamID: without --device they are shown")
        return node

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
        tag, input_ = key.tag, key.page << key.lg2
        output = leaf.output >> key.lg2 << key.lg2
        who = "every ASID" if tag.asid is None else f"ASID {tag.asid}"
        owners = self._owners(output)
        record = {"kind": "cached_translation", "regime": tag.regime.name, "vmid": tag.vmid, "asid": tag.asid}
        record |= {
            "input": input_,
            "lg2": key.lg2,
            "output": output,
            "rights": rights_text(leaf.rights),
            "owners": owners,
        }
        text = f"TLB {tag.regime.name}, VMID {tag.vmid}, {who}: {input_:#x} to {output:#x}, {size_text(key.lg2)}"
        return Node(f"{text}: {rights_text(leaf.rights)}; {memory_text(owners)}", record)

    def _in_device(self, dev: Device, cached: tuple[AtcKey, AtcEntry]) -> Node:
        (pasid, lg2, page, _), entry = cached
        first, output, owners = page << lg2, entry.output >> lg2 << lg2, self._owners(entry.output)
        record: dict[str, Any] = {"kind": "cached_in_device", "device": dev.name, "pasid": pasid}
        record |= {"input": first, "lg2": lg2, "output": output, "owners": owners}
        who = "no PASID" if pasid is None else f"PASID {pasid}"
        text = f"ATC of {dev.name}, {who}: {first:#x} to {output:#x}, {size_text(lg2)}; {memory_text(owners)}"
        return Node(text, record)


def _queue(name: str, queue: PendingQueue) -> Node:
    count = len(queue.pending)
    text = f"{name} at {queue.base:#x}: {queue.entries} entries, {count or 'none'} pending"
    node = Node(
        text, {"kind": "queue", "name": name, "address": queue.base, "entries": queue.entries, "pending": count}
    )
    node.extend(queue.pending, partial(_queued, name), MOST_QUEUED, "pending entries")
    return node


def _queued(name: str, word: Word) -> Node:
    record = {"kind": "pending", "queue": name} | _word_record(word)
    return Node(f"{words_text(word)}: {fields_text(word)}", record)


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


def _word_record(word: Word) -> dict[str, Any]:
    return {"words": hex_words(word), "fields": fields_dict(word), "reserved": hex(word.reserved)}


def _at(address: int, word: Word) -> dict[str, Any]:
    return {"address": address} | _word_record(word)


def _lost(kind: str, address: int) -> dict[str, Any]:
    return {"kind": kind, "address": address, "words": None}


def _hex(value: int | None) -> str:
    return "memory does not answer" if value is None else f"{value:#018x}"

"""Software's side of a remapping unit's registers; and an interface behind which everything is only recorded."""

from __future__ import annotations

from typing import Any

from pasidlab.hw.vtd.descriptors import Descriptor, InvalidationWait
from pasidlab.hw.vtd.features import FAULT_RECORDING_OFFSET, IOTLB_OFFSET, Features
from pasidlab.hw.vtd.interface import Interface
from pasidlab.hw.vtd.records import FaultRecord, PageRequest, Reason
from pasidlab.hw.vtd.registers import REGISTERS, Fsts, Gsts, Iotlb, Iva, Offset, Rtaddr
from pasidlab.hw.vtd.request import Blocked, Request
from pasidlab.memory import Memory
from pasidlab.rules import RULES, Faulted

QUEUE = 0x10_0000
REQUESTS = 0x20_0000
STATUS = 0x30_0000
MASK = 1 << 31
SOURCE = 0x6A01


class RecordingTarget:
    """Notes every call as a tuple; devices in `hung` do not answer, those in `refused` may not request pages."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.hung: set[int] = set()
        self.refused: dict[int, Reason] = {}
        self.interface: Interface | None = None
        self._timed_out: int | None = None

    def root_table_set(self) -> None:
        self.calls.append(("root_table_set",))

    def context_cache(self, did: int | None = None, source_id: int | None = None, function_mask: int = 0) -> None:
        self.calls.append(("context_cache", did, source_id, function_mask))

    def pasid_cache(self, did: int | None = None, pasid: int | None = None) -> None:
        self.calls.append(("pasid_cache", did, pasid))

    def iotlb(self, did: int | None = None, first: int | None = None, size: int = 0, *, leaf: bool = False) -> None:
        self.calls.append(("iotlb", did, first, size, leaf))

    def pasid_iotlb(self, did: int, pasid: int, first: int | None = None, size: int = 0, *, leaf: bool = False) -> None:
        self.calls.append(("pasid_iotlb", did, pasid, first, size, leaf))

    def device_tlb(self, source_id: int, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> None:
        self.calls.append(("device_tlb", source_id, pasid, every_pasid, first, size))
        if source_id in self.hung:
            self._timed_out = source_id

    def device_tlb_timed_out(self) -> int | None:
        source, self._timed_out = self._timed_out, None
        return source

    def drain_page_requests(self) -> None:
        self.calls.append(("drain_page_requests",))
        if self.interface is not None:
            self.interface.page_requests.drain()

    def page_group_response(self, source_id: int, pasid: int | None, prg_index: int, code: int) -> None:
        self.calls.append(("page_group_response", source_id, pasid, prg_index, code))

    def page_request_refused(self, request: PageRequest) -> Blocked | None:
        reason = self.refused.get(request.rid)
        if reason is None:
            return None
        return Blocked(Request(request.rid, request.pasid, request.addr), RULES["vtd.output-abort"], reason)


class Rig:
    """Software and a unit's programming interface, with a target that records."""

    def __init__(self, **features: Any) -> None:
        self.memory = Memory()
        self.target = RecordingTarget()
        self.interface = Interface(self.memory, Features(**features), self.target)
        self.target.interface = self.interface
        self.irqs: list[str] = []
        self.refused: list[Faulted] = []
        self.interface.irq = self.irqs.append
        self.interface.refused = self.refused.append

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        """What reached the target since the last look."""
        calls, self.target.calls = self.target.calls, []
        return calls

    @property
    def rules(self) -> list[str]:
        return [why.rule.id for why in self.refused]

    # registers

    def read(self, offset: Offset) -> Any:
        word = REGISTERS[offset]
        return word(self.interface.mmio_read(offset, word.SIZE // 8))

    def write(self, offset: Offset, value: int = 0, /, **fields: int) -> None:
        word = REGISTERS[offset]
        self.interface.mmio_write(offset, word(value, **fields), word.SIZE // 8)

    def command(self, **fields: int) -> None:
        """Write GCMD with what GSTS shows, changed; one-shot bits are not written again."""
        kept = self.read(Offset.GSTS) & Gsts.mask("tes", "qies")
        self.write(Offset.GCMD, kept, **fields)

    def root(self, **fields: int) -> None:
        self.write(Offset.RTADDR, Rtaddr(**fields))
        self.command(srtp=True)
        self.target.calls.clear()

    def iotlb(self, **fields: int) -> Iotlb:
        self.interface.mmio_write(IOTLB_OFFSET + 8, Iotlb(ivt=True, **fields), 8)
        return Iotlb(self.interface.mmio_read(IOTLB_OFFSET + 8, 8))

    def iva(self, **fields: int) -> None:
        self.interface.mmio_write(IOTLB_OFFSET, Iva(**fields), 8)

    def unmask(self, *events: Offset) -> None:
        for event in events:
            self.write(event, 0)

    # faults

    def fault(self, reason: Reason = Reason.NO_WRITE) -> FaultRecord | None:
        return self.interface.faults.record(FaultRecord(sid=SOURCE, fr=reason))

    def recorded(self, index: int) -> FaultRecord:
        place = FAULT_RECORDING_OFFSET + 16 * index
        return FaultRecord.from_words(self.interface.mmio_read(place, 8), self.interface.mmio_read(place + 8, 8))

    def clear_fault(self, index: int) -> None:
        self.interface.mmio_write(FAULT_RECORDING_OFFSET + 16 * index + 12, 1 << 31, 4)

    @property
    def fsts(self) -> Fsts:
        return Fsts(self.read(Offset.FSTS))

    # the invalidation queue

    def start_queue(self, *, dw: bool = True, qs: int = 0) -> None:
        self.write(Offset.IQT, 0)
        self.write(Offset.IQA, iqa=QUEUE, dw=dw, qs=qs)
        self.command(qie=True)

    def put(self, *descriptors: int) -> None:
        """Write descriptors behind the tail, and move it once."""
        iqa = self.read(Offset.IQA)
        step, size = 32 if iqa.dw else 16, 4096 << iqa.qs
        tail = self.read(Offset.IQT).qt
        for descriptor in descriptors:
            self.memory.store(QUEUE + tail, int(descriptor).to_bytes(32, "little")[:step])
            tail = (tail + step) % size
        self.write(Offset.IQT, qt=tail)

    def wait(self, data: int = 1, **fields: int) -> Descriptor:
        return InvalidationWait.make(sw=True, stdata=data, staddr=STATUS, **fields)

    @property
    def status(self) -> int:
        return (self.memory.load64(STATUS) or 0) & 0xFFFF_FFFF

    @property
    def head(self) -> int:
        return int(self.read(Offset.IQH).qh)

    # the page request queue

    def start_requests(self, *, pqs: int = 0) -> None:
        self.write(Offset.PQH, 0)
        self.write(Offset.PQT, 0)
        self.write(Offset.PQA, pqa=REQUESTS, pqs=pqs)

    def ask(self, page: int = 0, *, index: int = 0, last: bool = True, rid: int = SOURCE, **fields: int) -> None:
        request = PageRequest(rid=rid, rd=fields.pop("rd", True), lpig=last, prgi=index, addr=page << 12, **fields)
        self.interface.page_requests.take(request)

    def requested(self, index: int) -> PageRequest:
        data = self.memory.load(REQUESTS + 32 * index, 32)
        assert data is not None
        return PageRequest.unpack(data)

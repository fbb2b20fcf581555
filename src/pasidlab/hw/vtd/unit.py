"""One remapping unit: registers and queues in front, translation behind, and the caches that invalidations reach.

Software drives it through `mmio_read()` and `mmio_write()` and through memory, as it drives the real one; devices
through `translate()`, `dma_read()`, `dma_write()` and `page_request()`. Everything happens in the order of the calls:
descriptors are taken when IQT is written, and a request is translated when it is made.

Source: Intel VT-d 4.1.
Not modelled: time; interrupt remapping; what the module docstrings of the parts say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy.typing as npt

from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.transaction import Ats, Operation, Transferred, Translated, check_access, move
from pasidlab.hw.vtd import ats
from pasidlab.hw.vtd.caches import Tlb
from pasidlab.hw.vtd.features import Features
from pasidlab.hw.vtd.interface import Interface
from pasidlab.hw.vtd.lookup import Lookup
from pasidlab.hw.vtd.page_requests import PageRequests
from pasidlab.hw.vtd.records import PageRequest, Reason
from pasidlab.hw.vtd.request import Blocked, Outcome, Request, TranslationCompletion
from pasidlab.hw.vtd.translate import Translator
from pasidlab.memory import Memory
from pasidlab.rules import Rule

if TYPE_CHECKING:  # importing it imports numba, which takes longer than most runs of the model
    from pasidlab.hw.vtd.batch import Batch, BatchTranslator

CACHE_ENTRIES = 4096
"""Default capacity of each cache."""

OUTPUT_ABORT = Rule(
    "vtd.output-abort",
    "the memory system",
    "external abort on the access itself",
    "device {source:#06x}, {pasid}: no memory answers where {address:#x} leads",
)


class AtsEndpoint(Protocol):
    """A device with a device-TLB, as the unit meets it."""

    def invalidate(self, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> bool:
        """Take an invalidation request; `size` None is everything. False: the device never completes it."""

    def page_response(self, pasid: int | None, prg_index: int, code: int) -> None:
        """Take the response to a page request group."""


class RemappingUnit:
    """See the module docstring. `cache_entries` bounds each cache; 0 switches all caches off."""

    def __init__(self, memory: Memory, features: Features | None = None, *, cache_entries: int = CACHE_ENTRIES) -> None:
        self.memory = memory
        self.features = features or Features()
        self.interface = Interface(memory, self.features, self)
        self.lookup = Lookup(memory, self.features, self.interface, cache_entries)
        self.tlb = Tlb(cache_entries)
        recorder = self.interface.faults
        self.translator = Translator(memory, self.features, self.interface, self.lookup, self.tlb, recorder)
        self._endpoints: dict[int, AtsEndpoint] = {}
        self._timed_out: int | None = None
        self._batches: BatchTranslator | None = None

    # --- software's side ---------------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """Read a register; `size` is 4 or 8 bytes."""
        return self.interface.mmio_read(offset, size)

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write a register; `size` is 4 or 8 bytes."""
        self.interface.mmio_write(offset, value, size)

    # --- the devices' side -------------------------------------------------------------------------------------

    @property
    def page_requests(self) -> PageRequests:
        """The page request queue, and the requests that are held up on the way to it."""
        return self.interface.page_requests

    def connect(self, source_id: int, endpoint: AtsEndpoint) -> None:
        """Let invalidations of its device-TLB and page group responses reach a device."""
        self._endpoints[source_id] = endpoint

    def translate(self, request: Request, touches: list[Touch] | None = None) -> Outcome | TranslationCompletion:
        """Translate one request; `touches` collects the ordered memory accesses that it took.

        A translation request gives a TranslationCompletion, everything else an Outcome.
        """
        accesses = [] if touches is None else touches
        if request.ats is Ats.TRANSLATION_REQUEST:
            return ats.translation_request(self.translator, request, accesses)
        return self._translate(request, accesses)

    def _translate(self, request: Request, touches: list[Touch]) -> Outcome:
        if request.ats is Ats.TRANSLATED:
            return ats.translated(self.translator, request, touches)
        return self.translator.translate(request, touches)

    def translate_batch(
        self,
        source_ids: npt.ArrayLike,
        pasids: npt.ArrayLike,
        addresses: npt.ArrayLike,
        writes: npt.ArrayLike = False,
        *,
        privileged: npt.ArrayLike = False,
        instruction: npt.ArrayLike = False,
    ) -> Batch:
        """Translate many untranslated requests, compiled; see `BatchTranslator.translate`."""
        if self._batches is None:
            from pasidlab.hw.vtd.batch import BatchTranslator

            self._batches = BatchTranslator(self.translator)
        batches = self._batches
        return batches.translate(source_ids, pasids, addresses, writes, privileged=privileged, instruction=instruction)

    def dma_read(self, request: Request, size: int) -> Transferred | Blocked:
        """Read `size` bytes, whatever `request.access` says.

        ValueError for a request that no bus carries: one that crosses a multiple of 4 KiB, or asks for a translation.
        """
        return self._transfer(request, Operation.READ, size, None)

    def dma_write(self, request: Request, data: bytes) -> Transferred | Blocked:
        """Write bytes, whatever `request.access` says; ValueError as `dma_read()`."""
        return self._transfer(request, Operation.WRITE, len(data), data)

    def _transfer(self, request: Request, access: Operation, size: int, data: bytes | None) -> Transferred | Blocked:
        check_access(request, size)
        if request.access is not access:
            request = replace(request, access=access)
        outcome = self._translate(request, [])
        if not isinstance(outcome, Translated):
            return outcome
        return move(self.memory, outcome.address, size, data) or Blocked(request, OUTPUT_ABORT, Reason.NONE)

    def page_request(self, request: PageRequest) -> None:
        """Take a page request of a device: it goes into the queue, or is answered."""
        self.page_requests.take(request)

    # --- what invalidations and page requests reach --------------------------------------------------------------

    def root_table_set(self) -> None:
        """GCMD.SRTP: forget everything where CAP.ESRTPS says so."""
        if self.features.root_invalidates:
            self.lookup.clear()
            self.tlb.clear()

    def context_cache(self, did: int | None = None, source_id: int | None = None, function_mask: int = 0) -> None:
        """Forget context entries."""
        self.lookup.forget_contexts(did, source_id, function_mask)

    def pasid_cache(self, did: int | None = None, pasid: int | None = None) -> None:
        """Forget PASID entries."""
        self.lookup.forget_pasids(did, pasid)

    def iotlb(self, did: int | None = None, first: int | None = None, size: int = 0, *, leaf: bool = False) -> None:
        """Forget translations whatever their PASID."""
        self.tlb.invalidate(did, first, size, leaf=leaf)

    def pasid_iotlb(self, did: int, pasid: int, first: int | None = None, size: int = 0, *, leaf: bool = False) -> None:
        """Forget translations of a PASID in a domain."""
        self.tlb.invalidate_pasid(did, pasid, first, size, leaf=leaf)

    def device_tlb(self, source_id: int, pasid: int | None, *, every_pasid: bool, first: int, size: int | None) -> None:
        """Invalidate a device-TLB; a device that never completes it is noticed by whoever waits for it."""
        endpoint = self._endpoints.get(source_id)
        if endpoint is None or endpoint.invalidate(pasid, every_pasid=every_pasid, first=first, size=size):
            return
        if self._timed_out is None:
            self._timed_out = source_id

    def device_tlb_timed_out(self) -> int | None:
        """Wait for all earlier invalidations of device-TLBs; the first source of one that timed out, or None."""
        source, self._timed_out = self._timed_out, None
        return source

    def drain_page_requests(self) -> None:
        """Let every page request that is on its way into the queue, or answer it."""
        self.page_requests.drain()

    def page_request_refused(self, request: PageRequest) -> Blocked | None:
        """Return why a device may not request pages, or None."""
        return ats.page_request_refused(self.translator, request)

    def page_group_response(self, source_id: int, pasid: int | None, prg_index: int, code: int) -> None:
        """Answer a page request group."""
        endpoint = self._endpoints.get(source_id)
        if endpoint is not None:
            endpoint.page_response(pasid, prg_index, code)

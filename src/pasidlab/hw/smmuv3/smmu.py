"""One SMMUv3: registers and queues in front, translation behind, and the caches that commands invalidate.

Software drives it through `mmio_read()` and `mmio_write()` and through memory, as it drives the real one; devices
through `translate()`, `dma_read()` and `dma_write()`. Everything happens in the order of the calls: commands are
consumed when CMDQ_PROD is written, and a transaction is translated when it is asked for.

Source: IHI 0070 G.b.
Not modelled: time; Secure and Realm programming interfaces; performance counters; what the module docstrings
of the parts say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy.typing as npt

from pasidlab.hw.pagetable.contract import Touch
from pasidlab.hw.smmuv3 import ats
from pasidlab.hw.smmuv3.ats import AtsEndpoint
from pasidlab.hw.smmuv3.caches import Tlb
from pasidlab.hw.smmuv3.commands import Resp
from pasidlab.hw.smmuv3.features import Features
from pasidlab.hw.smmuv3.interface import Interface
from pasidlab.hw.smmuv3.lookup import Lookup
from pasidlab.hw.smmuv3.records import FTranslation, PriRecord
from pasidlab.hw.smmuv3.request import AtsCompletion, Completion, Outcome, Request, Stalled, Terminated
from pasidlab.hw.smmuv3.spec import SPEC
from pasidlab.hw.smmuv3.stalls import Stalls
from pasidlab.hw.smmuv3.target import ResumeAction, TlbScope
from pasidlab.hw.smmuv3.translate import Translator
from pasidlab.hw.transaction import Ats, Operation, Transferred, Translated, check_access, move
from pasidlab.memory import Memory
from pasidlab.rules import Rule

if TYPE_CHECKING:  # importing it imports numba, which takes longer than most runs of the model
    from pasidlab.hw.smmuv3.batch import Batch, BatchTranslator

CACHE_ENTRIES = 4096
"""Default capacity of each cache."""

RESUMED_ABORT = Rule(
    "smmu.resumed-abort",
    f"{SPEC}, 4.7 CMD_RESUME",
    "Ab == 1, or CMD_STALL_TERM",
    "software aborted the stalled transaction of stream {sid:#x}, SubstreamID {ssid}",
    source=SPEC,
)
RESUMED_TERMINATE = Rule(
    "smmu.resumed-terminate",
    f"{SPEC}, 4.7 CMD_RESUME",
    "Ab == 0 and Ac == 0",
    "software let the stalled transaction of stream {sid:#x}, SubstreamID {ssid}, read zeros",
    source=SPEC,
)
OUTPUT_ABORT = Rule(
    "smmu.output-abort",
    "the memory system",
    "external abort on the access itself",
    "stream {sid:#x}, SubstreamID {ssid}: no memory answers where {address:#x} leads",
)


class Smmuv3:
    """See the module docstring. `cache_entries` bounds each cache; 0 switches all caches off."""

    def __init__(self, memory: Memory, features: Features | None = None, *, cache_entries: int = CACHE_ENTRIES) -> None:
        self.memory = memory
        self.features = features or Features()
        self.interface = Interface(memory, self.features, self)
        self.lookup = Lookup(memory, self.features, self.interface, cache_entries)
        self.tlb = Tlb(cache_entries)
        self.stalls = Stalls(self.features.stall_max)
        self.translator = Translator(memory, self.features, self.interface, self.lookup, self.tlb, self.stalls)
        self._ats_endpoints: dict[int, AtsEndpoint] = {}
        self._batches: BatchTranslator | None = None
        self._atc_timed_out = False

    # --- software's side ---------------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """Read a register; `size` is 4 or 8 bytes."""
        return self.interface.mmio_read(offset, size)

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write a register; `size` is 4 or 8 bytes."""
        self.interface.mmio_write(offset, value, size)

    # --- the devices' side -------------------------------------------------------------------------------------

    def translate(self, request: Request, touches: list[Touch] | None = None) -> Outcome | AtsCompletion:
        """Translate one transaction; `touches` collects the ordered memory accesses that it took.

        An ATS translation request gives an AtsCompletion, everything else an Outcome.
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
        sids: npt.ArrayLike,
        ssids: npt.ArrayLike,
        addresses: npt.ArrayLike,
        writes: npt.ArrayLike = False,
        *,
        privileged: npt.ArrayLike = False,
        instruction: npt.ArrayLike = False,
    ) -> Batch:
        """Translate many untranslated transactions, compiled; see `BatchTranslator.translate`."""
        if self._batches is None:
            from pasidlab.hw.smmuv3.batch import BatchTranslator

            self._batches = BatchTranslator(self)
        return self._batches.translate(sids, ssids, addresses, writes, privileged=privileged, instruction=instruction)

    def dma_read(self, request: Request, size: int) -> Transferred | Terminated | Stalled:
        """Read `size` bytes, whatever `request.access` says; terminated with RAZ_WI reads as zeros at the device.

        ValueError for a request that no bus carries: one that crosses a multiple of 4 KiB, or asks for a translation.
        """
        return self._transfer(request, Operation.READ, size, None)

    def dma_write(self, request: Request, data: bytes) -> Transferred | Terminated | Stalled:
        """Write bytes, whatever `request.access` says; ValueError as `dma_read()`."""
        return self._transfer(request, Operation.WRITE, len(data), data)

    def _transfer(
        self, request: Request, access: Operation, size: int, data: bytes | None
    ) -> Transferred | Terminated | Stalled:
        check_access(request, size)
        if request.access is not access:
            request = replace(request, access=access)
        outcome = self._translate(request, [])
        if not isinstance(outcome, Translated):
            return outcome
        return move(self.memory, outcome.address, size, data) or Terminated(request, OUTPUT_ABORT)

    def answered(self, stalled: Stalled) -> ResumeAction | Terminated | None:
        """Return what became of a stalled transaction: None while it waits, RETRY, or how software ended it."""
        if stalled.stag is None:
            return ResumeAction.RETRY
        action = self.stalls.take(stalled.stag)
        if action is ResumeAction.ABORT:
            return Terminated(stalled.request, RESUMED_ABORT, event=stalled.event)
        if action is ResumeAction.TERMINATE:
            return Terminated(stalled.request, RESUMED_TERMINATE, Completion.RAZ_WI, stalled.event)
        return action

    def connect_ats(self, sid: int, endpoint: AtsEndpoint) -> None:
        """Let ATC invalidations and page responses for a stream reach its device."""
        self._ats_endpoints[sid] = endpoint

    def page_request(self, record: PriRecord) -> None:
        """Take a page request of a device; one that finds no room is answered at once."""
        answer = ats.page_request(self.translator, record)
        if answer is not None:
            self.pri_resp(record.sid, answer.ssid, record.prgindex, answer.response)

    # --- what commands act upon --------------------------------------------------------------------------------

    def disabled(self) -> None:
        """CR0.SMMUEN was cleared: every stalled transaction is aborted, and its event withdrawn."""
        self.stalls.terminate_all()
        self.interface.recorder.withdraw(lambda event: True)

    def cfgi_ste(self, sid: int, leaf: bool) -> None:
        """CMD_CFGI_STE."""
        self.lookup.forget_stream(sid, leaf)

    def cfgi_ste_range(self, first: int, lg2: int) -> None:
        """CMD_CFGI_STE_RANGE."""
        self.lookup.forget_streams(first, lg2)

    def cfgi_all(self) -> None:
        """CMD_CFGI_ALL."""
        self.lookup.forget_all()

    def cfgi_cd(self, sid: int, ssid: int, leaf: bool) -> None:
        """CMD_CFGI_CD."""
        self.lookup.forget_context(sid, ssid, leaf)

    def cfgi_cd_all(self, sid: int) -> None:
        """CMD_CFGI_CD_ALL."""
        self.lookup.forget_contexts(sid)

    def tlbi(self, scope: TlbScope) -> None:
        """Every CMD_TLBI."""
        self.tlb.invalidate(scope)

    def atc_inv(self, sid: int, ssid: int | None, global_: bool, first: int, size: int | None) -> None:
        """CMD_ATC_INV; a device that never completes it is noticed by the next CMD_SYNC."""
        endpoint = self._ats_endpoints.get(sid)
        if endpoint is not None and not endpoint.invalidate(ssid, every_ssid=global_, first=first, size=size):
            self._atc_timed_out = True

    def atc_sync(self) -> bool:
        """CMD_SYNC waits for invalidations of ATCs; false when one timed out."""
        completed, self._atc_timed_out = not self._atc_timed_out, False
        return completed

    def pri_resp(self, sid: int, ssid: int | None, prg_index: int, response: Resp) -> None:
        """CMD_PRI_RESP."""
        endpoint = self._ats_endpoints.get(sid)
        if endpoint is not None:
            endpoint.page_response(ssid, prg_index, response)

    def resume(self, sid: int, stag: int, action: ResumeAction) -> None:
        """CMD_RESUME; an event that was not written yet would come too late, and is withdrawn."""
        if self.stalls.resume(sid, stag, action):
            self.interface.recorder.withdraw(lambda event: FTranslation(event).stag == stag)

    def stall_term(self, sid: int) -> None:
        """CMD_STALL_TERM: events that were not written yet are withdrawn."""
        self.stalls.terminate(sid)
        self.interface.recorder.withdraw(lambda event: event.sid == sid)

    def prefetch_config(self, sid: int, ssid: int | None) -> None:
        """CMD_PREFETCH_CONFIG: bring the configuration of a stream into the caches; faults are silent."""
        self.translator.prefetch(Request(sid, ssid), whole=False)

    def prefetch_addr(self, sid: int, ssid: int | None, first: int, size: int) -> None:
        """CMD_PREFETCH_ADDR: bring the translation of the first address into the TLB; faults are silent."""
        self.translator.prefetch(Request(sid, ssid, first), whole=True)

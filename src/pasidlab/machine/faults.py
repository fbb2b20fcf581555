"""The verbs of what goes wrong: page requests, resets, owners, flushes, and failures on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pasidlab import events
from pasidlab.errors import Errno
from pasidlab.linux import iopf, ownership, reset, sva
from pasidlab.machine.in_flight import InFlight
from pasidlab.outcome import FAILURE_ARMED, KVA_ABSENT, Outcome
from pasidlab.rules import RULES, Faulted, Refusal


class Faults(InFlight):
    """See the module docstring."""

    def page_request(self, device: str, pasid: int | str | None, fault: Callable[[int | None], iopf.Fault]) -> Outcome:
        """Deliver one page request of a device and run the workers; the result is the answer that went out.

        The detail is the answer on the wire, or why there is none.
        """
        number = None if pasid is None else self._sent(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        dev = self._endpoint(device).dev
        refusal, answers = self._deliver(dev, fault(number))
        wire = tuple(f"on the wire: {answer.wire}" for answer in answers if answer.wire)
        if refusal is None and answers and answers[-1].code != iopf.ResponseCode.SUCCESS:
            decision, self._decision = self._decision, None
            assert decision is not None
            return self._settle(Faulted(RULES[decision.rule], decision.facts), detail=wire)
        outcome = self._settle(refusal, number, detail=wire)
        return replace(outcome, detail=(outcome.why,)) if outcome.result == "ok" and not answers else outcome

    def discard(self, name: str) -> Outcome:
        """`iopf_queue_discard_partial()` of an IOMMU, as after an overflow."""
        refusal = iopf.iopf_queue_discard_partial(self.iommus[name].iopf_queue)
        self.kernel.decided(iopf.DISCARDED)
        return self._settle(refusal)

    def reset_prepare(self, device: str) -> Outcome:
        """`pci_dev_reset_iommu_prepare()`."""
        return self._settle(reset.pci_dev_reset_iommu_prepare(self._endpoint(device).dev))

    def reset_done(self, device: str) -> Outcome:
        """`pci_dev_reset_iommu_done()`."""
        reset.pci_dev_reset_iommu_done(self._endpoint(device).dev)
        return self._settle(None)

    def claim_dma_owner(self, device: str, owner: str = "vfio") -> Outcome:
        """`iommu_device_claim_dma_owner()`."""
        return self._settle(ownership.iommu_device_claim_dma_owner(self._endpoint(device).dev, owner))

    def release_dma_owner(self, device: str) -> Outcome:
        """`iommu_device_release_dma_owner()`."""
        ownership.iommu_device_release_dma_owner(self._endpoint(device).dev)
        return self._settle(None)

    def invalidate_kva(self) -> Outcome:
        """`iommu_sva_invalidate_kva_range()`; the detail lists the address spaces that were reached."""
        if not self.kernel.profile.kva_invalidation:
            self.kernel.decided(KVA_ABSENT, kernel=self.kernel.profile.name)
        with self._listening(events.KvaInvalidated) as flushed:
            sva.iommu_sva_invalidate_kva_range(self.kernel, 1 << 63, (1 << 64) - 1)
        reached = ", ".join(event.mm for event in flushed) or "none"
        return self._settle(None, detail=(f"reached: {reached}",))

    def fail_next(self, device: str, call: str, errno: Errno) -> Outcome:
        """Let the next such call of the device's IOMMU driver fail; `memory` fails the next allocation anywhere."""
        dev = self._endpoint(device).dev
        if call == "set_dev_pasid":
            self.driver_of(dev).fail_set[dev] = errno
        elif call == "domain_alloc_sva":
            self.driver_of(dev).fail_alloc[dev] = errno
        else:
            self.kernel.fail_allocation = 1
        self.kernel.decided(FAILURE_ARMED, call=call, errno=errno.name, dev=device)
        return self._settle(None)

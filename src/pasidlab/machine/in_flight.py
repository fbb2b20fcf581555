"""The verbs of what takes its time: work that a device has accepted, and page requests on their way.

A job waits at its device under a name until it is completed, or until the driver stops the device's work under its
number. A page request of a job is in flight until the IOMMU's driver gets it, also when the job was stopped meanwhile.
A driver that lets a bond go stops the device, drains the requests, and only then unbinds.

Source: the comment on iommu_sva_unbind_device() (drivers/iommu/iommu-sva.c), by which the device issues nothing more
under the PASID and its page requests have been flushed; iopf_queue_flush_dev() (drivers/iommu/io-pgfault.c), v7.3.
Decided here: a device stops the work of all processes under the number; a job that asked for a page may be completed
without the answer; a request that was not answered with success ends its job.
Not modelled: several page requests of one job at a time, the order of jobs, the room that they take in queues.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab import events
from pasidlab.description import MachineSpec
from pasidlab.devices import Access, Endpoint, Work
from pasidlab.devices.endpoint import Accepted, Done
from pasidlab.errors import Errno
from pasidlab.linux import iopf
from pasidlab.linux.mm import MmStruct
from pasidlab.linux.pgtable import READ, WRITE
from pasidlab.linux.structs import Device
from pasidlab.machine.state import Binding, MachineState
from pasidlab.outcome import NO_HANDLE, Outcome
from pasidlab.rules import RULES, Faulted, Refusal, Rule, Verdict
from pasidlab.schemes import Scheme

JOB_NONE = Rule(
    "job.none",
    "the scenario",
    "no job of that name waits: it was done or stopped, or never accepted",
    "no job {job} waits at a device",
    Errno.ENOENT,
)
JOB_TAKEN = Rule(
    "job.name-taken",
    "the scenario",
    "a job of that name waits, or its page request is in flight",
    "job {job} is not over yet",
    Errno.EBUSY,
)
JOB_ACCEPTED = Rule(
    "job.accepted",
    "the device",
    "the work waits",
    "{dev} has accepted job {job} under PASID {pasid}, and has not come to it yet",
)
JOB_ASKED = Rule(
    "job.asked",
    "the device",
    "PCIe page request, or a stalled access",
    "{dev} asked for {address:#x} under PASID {pasid} for job {job}; the request is on its way",
)
ASKED_ALREADY = Rule(
    "job.asked-already",
    "the scenario",
    "a page request of the job is in flight",
    "job {job} waits for the answer to its page request",
    Errno.EBUSY,
)
REQUEST_NONE = Rule(
    "job.no-request",
    "the scenario",
    "no page request of that job is in flight",
    "no page request of job {job} is in flight",
    Errno.ENOENT,
)
STOPPED = Rule(
    "job.stopped",
    "the device's driver, in its release",
    "the bond has no other user",
    "{dev} works under PASID {pasid} no more; jobs that were dropped: {count}",
    source="the comment on iommu_sva_unbind_device (drivers/iommu/iommu-sva.c)",
)
STOP_SHARED = Rule(
    "job.stop-shared",
    "the device's driver, in its release",
    "another bind still uses the bond",
    "{dev} goes on under PASID {pasid}, which another bind of {mm} still uses",
)
DRAINED = Rule(
    "job.drained",
    "the device's driver, in its release",
    "no page request of the PASID is in flight",
    "no page request of PASID {pasid} of {dev} is in flight; answered for that: {count}",
    source="the comment on iommu_sva_unbind_device (drivers/iommu/iommu-sva.c)",
)


@dataclass(slots=True, eq=False, repr=False)
class Job:
    """Work that waits at a device.

    Attributes:
        submitter: the address space that submitted it.
        device: the name of `endpoint`.
        pasid: the number under which the device will work.
        accepted: what the device will do.
        asked: its page request is in flight.
    """

    submitter: MmStruct
    endpoint: Endpoint
    work: Work
    accepted: list[Accepted]
    asked: bool = False

    @property
    def device(self) -> str:
        """The name of the device."""
        return self.endpoint.dev.name

    @property
    def pasid(self) -> int | None:
        """The number under which the device will work."""
        return self.accepted[0].pasid


@dataclass(frozen=True, slots=True)
class Request:
    """A page request in flight; `submitter` is whose work asked."""

    submitter: MmStruct
    endpoint: Endpoint
    fault: iopf.Fault

    @property
    def pasid(self) -> int | None:
        """The number that it carries."""
        return self.fault.pasid


class InFlight(MachineState):
    """See the module docstring.

    Attributes:
        jobs: what waits at devices, by name.
        requests: page requests in flight, by the name of the job that asked; the job may be gone.
    """

    def __init__(self, spec: MachineSpec, scheme: Scheme | str = "mainline") -> None:
        super().__init__(spec, scheme)
        self.jobs: dict[str, Job] = {}
        self.requests: dict[str, Request] = {}

    # --- jobs --------------------------------------------------------------------------------------------------

    def _job_taken(self, job: str) -> Refusal | None:
        return JOB_TAKEN.refuse(job=job) if job in self.jobs or job in self.requests else None

    def _keep(
        self, job: str, mm: MmStruct, endpoint: Endpoint, work: Work, accepted: list[Accepted] | Verdict | None
    ) -> Outcome:
        """Let what a device accepted wait; what it did not accept leaves no job."""
        if not isinstance(accepted, list):
            return self._settle(accepted)
        kept = self.jobs[job] = Job(mm, endpoint, work, accepted)
        self.kernel.decided(JOB_ACCEPTED, dev=kept.device, job=job, pasid=kept.pasid)
        return self._settle(None, kept.pasid)

    def complete(self, job: str) -> Outcome:
        """Let the device do a job that waits; the result is what `submit` gives without a job."""
        waiting = self.jobs.pop(job, None)
        if waiting is None:
            return self._settle(JOB_NONE.refuse(job=job))
        return self._settle(_done(waiting), submitter=waiting.submitter.name)

    def ask(self, job: str) -> Outcome:
        """Let the device send a page request for the address of a job that waits."""
        waiting = self.jobs.get(job)
        if waiting is None:
            return self._settle(JOB_NONE.refuse(job=job))
        if job in self.requests:
            return self._settle(ASKED_ALREADY.refuse(job=job))
        page = waiting.work.address & -self.kernel.page_size
        perm = WRITE if waiting.work.access is Access.WRITE else READ
        fault = iopf.Fault(waiting.pasid, page, perm, last=True, grpid=0)
        self.requests[job] = Request(waiting.submitter, waiting.endpoint, fault)
        waiting.asked = True
        self.kernel.decided(JOB_ASKED, dev=waiting.device, job=job, pasid=waiting.pasid, address=page)
        return self._settle(None, waiting.pasid)

    def answer(self, job: str) -> Outcome:
        """Let the page request of a job reach the IOMMU's driver, and the kernel's worker serve it.

        The work of the outcome tells which address space served it. Without success the job ends.
        """
        if job not in self.requests:
            return self._settle(REQUEST_NONE.refuse(job=job))
        submitter = self.requests[job].submitter.name
        return self._settle(self._answer(job), submitter=submitter)

    def _answer(self, job: str) -> Done | Verdict:
        request, waiting = self.requests.pop(job), self.jobs.get(job)
        if waiting is not None:
            waiting.asked = False
        with self._listening(events.Decided) as heard:
            refusal, _ = self._deliver(request.endpoint.dev, request.fault)
        served = next((event for event in heard if event.rule == iopf.MM_HANDLED.id), None)
        if served is not None:
            return Done(served.facts["mm"], request.pasid, b"")
        self.jobs.pop(job, None)
        if refusal is not None:
            return Faulted(refusal.rule, refusal.facts)
        return Faulted(RULES[heard[-1].rule], heard[-1].facts)

    def _deliver(self, dev: Device, fault: iopf.Fault) -> tuple[Refusal | None, list[events.PageResponded]]:
        """Give a page request to the IOMMU's driver and run the workers; return what was answered."""
        with self._listening(events.PageResponded) as answers:
            refusal = self.driver_of(dev).report(dev, fault)
            if dev.fault_param is not None:
                iopf.iopf_queue_flush_dev(dev)
        return refusal, answers

    # --- a driver's release ------------------------------------------------------------------------------------

    def stop(self, handle: str) -> Outcome:
        """Let the driver of a handle's device stop the work under its number, unless another bind uses the bond."""
        binding = self.bindings.get(handle)
        if binding is None:
            return self._settle(NO_HANDLE.refuse(handle=handle))
        bond, dev = binding.bond, binding.endpoint.dev
        if binding.is_last:
            self.kernel.decided(STOPPED, dev=dev.name, pasid=bond.pasid, count=self._stop(binding))
        else:
            self.kernel.decided(STOP_SHARED, dev=dev.name, pasid=bond.pasid, mm=bond.mm.name)
        return self._settle(None, bond.pasid)

    def drain(self, handle: str) -> Outcome:
        """Let the driver of a handle's device wait until the page requests under its number are answered."""
        binding = self.bindings.get(handle)
        if binding is None:
            return self._settle(NO_HANDLE.refuse(handle=handle))
        pasid, count = binding.bond.pasid, self._drain(binding)
        self.kernel.decided(DRAINED, dev=binding.endpoint.dev.name, pasid=pasid, count=count)
        return self._settle(None, pasid)

    def _quiesce(self, binding: Binding, *, stop: bool, drain: bool) -> None:
        """Do what comes before the unbind of a bond that nobody else uses, if it was not done yet."""
        if not binding.is_last:
            return
        if stop and not binding.stopped:
            self._stop(binding)
        self._revoke_portals(binding)
        if drain and not binding.drained:
            self._drain(binding)

    def _stop(self, binding: Binding) -> int:
        """Drop the jobs of a device under a number, and count them."""
        binding.stopped = True
        endpoint, pasid = binding.endpoint, binding.bond.pasid
        dropped = [name for name, job in self.jobs.items() if job.endpoint is endpoint and job.pasid == pasid]
        for name in dropped:
            del self.jobs[name]
        self._revoke_portals(binding)
        return len(dropped)

    def _revoke_portals(self, binding: Binding) -> None:
        """Take the portals of a group away from a process that may not have them without this bond."""
        self._unmap_file(binding)
        group = binding.endpoint.dev.iommu_group
        for endpoint in self.endpoints.values():
            if endpoint.mapped and endpoint.dev.iommu_group is group:
                endpoint.unmap_without(binding.bond)

    def _unmap_file(self, binding: Binding) -> None:
        """Take away the portal that was mapped through a file, which a mapping holds: it goes before the release."""
        endpoint, mm = binding.endpoint, binding.bond.mm
        kept = (one for one in self.bindings.values() if one is not binding and one.live and one.file is not None)
        if binding.file is not None and not any(one.endpoint is endpoint and one.bond.mm is mm for one in kept):
            endpoint.mapped.discard(mm)

    def _drain(self, binding: Binding) -> int:
        """Answer the page requests of a device under a number, and count them."""
        binding.drained = True
        endpoint, pasid = binding.endpoint, binding.bond.pasid
        waiting = [name for name, one in self.requests.items() if one.endpoint is endpoint and one.pasid == pasid]
        for name in waiting:
            self._answer(name)
        return len(waiting)


def _done(job: Job) -> Done | Verdict:
    """Let the device do one command after the other, until one is not done."""
    parts: list[Done] = []
    for accepted in job.accepted:
        part = job.endpoint.perform(accepted)
        if not isinstance(part, Done):
            return part
        parts.append(part)
    return joined(parts)


def joined(parts: list[Done]) -> Done:
    """Return several commands' work as one job's."""
    if len(parts) == 1:
        return parts[0]
    owners = dict.fromkeys(part.owner for part in parts)
    return Done(" and ".join(owners), parts[-1].pasid, b"".join(part.data for part in parts))

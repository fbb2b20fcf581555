"""One machine from a description, and what can be done on it.

`Machine` is the one mutable root. Each verb does what its namesake in a scenario does and returns an `Outcome`: the
result in one word, the number, and the rule with a sentence. The exact kernel calls underneath are in `linux/`.

Not modelled: mmap of new areas; time. The description is checked as a whole before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, TypeVar

from pasidlab import events
from pasidlab.assembly import assemble
from pasidlab.description import MachineSpec, ProcessSpec, check
from pasidlab.devices import Endpoint, Idxd, Work
from pasidlab.devices.endpoint import Done
from pasidlab.drivers.hardware import IommuDriver
from pasidlab.errors import Errno, InputError, ModelError
from pasidlab.hw.cpu import MAX_PASID, Instruction, Store, X86Registers, descriptor
from pasidlab.linux import iommu, iopf, ownership, prctl, reset, structs, sva, traps
from pasidlab.linux import task as tasks
from pasidlab.linux.mm import MmStruct, mprotect, munmap, process_memory
from pasidlab.linux.structs import IOMMU_PASID_INVALID
from pasidlab.linux.task import Task
from pasidlab.outcome import (
    DMA_DONE,
    EXITED,
    FAILURE_ARMED,
    FOR_ALL,
    FOR_ALL_NONE,
    FOREIGN_HANDLE,
    FREE_SILENT,
    HANDED_OFF,
    HANDOFF_NO_NUMBER,
    KERNEL_NO_ENQCMDS,
    KERNEL_NO_NUMBER,
    KVA_ABSENT,
    LOADED,
    NO_HANDLE,
    NO_NUMBER,
    NO_PROCESS,
    PORTAL_UNMAPPED,
    SHOWN,
    STORED,
    Outcome,
    holder_text,
)
from pasidlab.pasid import INT_MAX
from pasidlab.rules import RULES, Faulted, Refusal, Rule, Signal, Verdict
from pasidlab.schemes import Scheme, find_scheme
from pasidlab.views import device_text, enqcmd_number, process_text, space_text


@dataclass(slots=True, eq=False, repr=False)
class Binding:
    """A named handle: the bond, the device it was asked of, and the open file if a driver's open made it."""

    bond: sva.IommuSva
    endpoint: Endpoint
    file: tasks.File | None = None
    live: bool = True


E = TypeVar("E", bound=events.Event)
PutDomain = Callable[[structs.IommuDomain, structs.Device, int, structs.AttachHandle | None], Refusal | None]
GLOBAL_SPACE_FULL = frozenset({sva.BIND_NOSPC.id, sva.BIND_NO_PASIDS.id, iommu.ALLOC_GLOBAL_NONE.id})


class Machine:
    """A running machine under one scheme; see the module docstring. `scheme` is one, or the name of one."""

    def __init__(self, spec: MachineSpec, scheme: Scheme | str = "mainline") -> None:
        check(spec)
        if isinstance(scheme, str):
            scheme = find_scheme(scheme)(spec.options)
        parts = assemble(spec, scheme)
        self.spec = spec
        self.scheme = scheme
        self.os = parts.os
        self.kernel = parts.kernel
        self.parts = parts
        self.iommus = parts.iommus
        self.endpoints = parts.endpoints
        self.processes: dict[str, Task] = {}
        self.bindings: dict[str, Binding] = {}
        self.numbers: dict[str, int | None] = {}
        self.domains: dict[tuple[structs.IommuGroup, int], structs.IommuDomain] = {}
        self.pids: dict[str, int] = {}
        self.execs: dict[str, int] = {}
        self._decision: events.Decided | None = None
        self.kernel.observers.append(self._observe)
        for process in spec.process:
            self._start(process)

    def _start(self, spec: ProcessSpec) -> None:
        mm = MmStruct(self.kernel, spec.name, spec.user)
        mm.vmas = process_memory(_fill(spec.name), self.kernel.page_size)
        self.processes[spec.name] = Task(self.kernel, spec.name, mm, self._new_pid(spec.pidns), spec.pidns)

    def _new_pid(self, pidns: str) -> int:
        self.pids[pidns] = self.pids.get(pidns, 0) + 1
        return self.pids[pidns]

    def driver_of(self, dev: structs.Device) -> IommuDriver:
        """Return the driver of the IOMMU in front of a device."""
        return self.parts.driver_of(dev)

    # --- outcomes ----------------------------------------------------------------------------------------------

    def _observe(self, event: events.Event) -> None:
        if isinstance(event, events.Decided):
            self._decision = event

    @contextmanager
    def _listening(self, kind: type[E]) -> Iterator[list[E]]:
        """Collect the events of one kind while the block runs."""
        heard: list[E] = []

        def listen(event: events.Event) -> None:
            if isinstance(event, kind):
                heard.append(event)

        self.kernel.observers.append(listen)
        try:
            yield heard
        finally:
            self.kernel.observers.remove(listen)

    def _settle(self, value: Verdict | Done | object | None, pasid: int | None = None, **more: Any) -> Outcome:
        """Turn what a call returned into an outcome, with the last rule that was reported on the way."""
        decision, self._decision = self._decision, None
        if isinstance(value, Verdict):
            return Outcome(value.result, rule=value.rule.id, why=value.why, **more)
        rule, why = "", ""
        if decision is not None:
            rule, why = decision.rule, RULES[decision.rule].sentence(decision.facts)
        if isinstance(value, Done):
            return Outcome("ok", value.pasid, rule, why, work=value, **more)
        return Outcome("ok", pasid, rule, why, **more)

    def _settle_for(self, value: Verdict | object | None, endpoint: Endpoint, pasid: int | None = None) -> Outcome:
        """As `_settle`, with the holders of a full space."""
        if not isinstance(value, Refusal) or value.errno is not Errno.ENOSPC:
            return self._settle(value, pasid)
        holders = tuple(self._holders(value.rule.id, endpoint))
        outcome = self._settle(value, holders=holders)
        if value.rule.id not in GLOBAL_SPACE_FULL or not holders:
            return outcome
        why = f"{outcome.why}; {holder_text(holders)}"
        return Outcome(outcome.result, rule=outcome.rule, why=why, holders=holders)

    def _holders(self, rule: str, endpoint: Endpoint) -> Iterator[tuple[int, str]]:
        dev = endpoint.dev
        if rule in GLOBAL_SPACE_FULL:
            yield from (held for held in self.kernel.holders() if held[0] < dev.max_pasids)
        elif dev.iommu_group is not None:
            for pasid in sorted(dev.iommu_group.pasid_array):
                yield pasid, iommu.slot_text(dev.iommu_group, pasid)

    def _task(self, process: str) -> Task | Refusal:
        """Return a living process; one that a refused fork should have started was never there."""
        task = self.processes.get(process)
        if task is None:
            return NO_PROCESS.refuse(process=process)
        return EXITED.refuse(process=process) if task.mm is None else task

    def _endpoint(self, device: str) -> Endpoint:
        """Return a device; InputError names those that there are."""
        try:
            return self.endpoints[device]
        except KeyError:
            raise InputError(f"device {device!r}: no such device; known: {', '.join(self.endpoints)}") from None

    # --- binds -------------------------------------------------------------------------------------------------

    def bind(self, device: str, process: str, handle: str | None = None) -> Outcome:
        """Open the device: its driver binds the process as the scheme lets it; the file keeps the bond."""
        return self._bind(device, process, handle, lambda endpoint, mm: endpoint.open(mm), opens=True)

    def bind_device(self, device: str, process: str, handle: str | None = None) -> Outcome:
        """`iommu_sva_bind_device(dev, mm)`."""
        call = sva.iommu_sva_bind_device
        return self._bind(device, process, handle, lambda endpoint, mm: call(endpoint.dev, mm))

    def bind_device_pasid(self, device: str, process: str, pasid: int, handle: str | None = None) -> Outcome:
        """`iommu_sva_bind_device_pasid(dev, mm, pasid)`."""
        call = sva.iommu_sva_bind_device_pasid
        return self._bind(device, process, handle, lambda endpoint, mm: call(endpoint.dev, mm, pasid))

    def _bind(
        self,
        device: str,
        process: str,
        handle: str | None,
        call: Callable[[Endpoint, MmStruct], sva.IommuSva | Refusal],
        *,
        opens: bool = False,
    ) -> Outcome:
        """Bind by a call; one that opens the device leaves a file with the process."""
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        endpoint = self._endpoint(device)
        assert task.mm is not None
        bond = call(endpoint, task.mm)
        if not _is_bond(bond, self.scheme):
            return self._settle_for(bond, endpoint)
        binding = Binding(bond, endpoint)
        if opens:
            binding.file = tasks.File(device, partial(self._release, binding))
            task.files.files.append(binding.file)
        self.bindings[handle or self._unnamed(device, process)] = binding
        return self._settle(None, sva.iommu_sva_get_pasid(bond))

    def _unnamed(self, device: str, process: str) -> str:
        """Name a bind without `as`: the plain name stands for the oldest one that lives."""
        name = f"{device}/{process}"
        taken = name in self.bindings and self.bindings[name].live
        return f"{name}#{len(self.bindings)}" if taken else name

    def unbind(self, handle: str) -> Outcome:
        """Undo a bind by its name; one that a driver's open made is closed in every process that has the file."""
        binding = self.bindings.get(handle)
        if binding is None or not binding.live:
            return self._settle(NO_HANDLE.refuse(handle=handle))
        for task in self.processes.values():
            if binding.file in task.files.files:
                task.files.files.remove(binding.file)
        self._release(binding)
        return self._settle(None, binding.bond.pasid)

    def _release(self, binding: Binding) -> None:
        binding.live = False
        if binding.file is not None:
            binding.endpoint.release(binding.bond)
        else:
            sva.iommu_sva_unbind_device(binding.bond)
        group = binding.endpoint.dev.iommu_group
        for endpoint in self.endpoints.values():
            if endpoint.dev.iommu_group is group:
                endpoint.unmap_where_barred(binding.bond.mm)

    # --- numbers and attachments -------------------------------------------------------------------------------

    def alloc_global(self, device: str, name: str | None = None) -> Outcome:
        """`iommu_alloc_global_pasid(dev)` by a kernel module."""
        endpoint = self._endpoint(device)
        dev = endpoint.dev
        pasid = iommu.iommu_alloc_global_pasid(dev)
        if pasid == IOMMU_PASID_INVALID:
            if name:
                self.numbers[name] = None
            refusal = iommu.ALLOC_GLOBAL_NONE.refuse(dev=dev.name, range=iommu.pasid_range(dev))
            return self._settle_for(refusal, endpoint)
        self.kernel.global_users[pasid] = f"module {name}" if name else f"the driver of {device}"
        if name:
            self.numbers[name] = pasid
        self.kernel.decided(iommu.ALLOC_GLOBAL, dev=device, pasid=pasid)
        return self._settle(None, pasid)

    def alloc_for_all(self, devices: list[str], name: str | None = None) -> Outcome:
        """Take the lowest global number that every listed device carries and that is free on each of them.

        The "must work for all RIDs" allocation of the 2021 debate (R6); no kernel has it.
        """
        endpoints = [self._endpoint(device) for device in devices]
        bound = min(endpoint.dev.max_pasids for endpoint in endpoints)
        groups = [endpoint.dev.iommu_group for endpoint in endpoints]
        taken = {pasid for group in groups if group is not None for pasid in group.pasid_array}
        space = self.kernel.iommu_global_pasid_ida
        pasid = next((p for p in range(1, bound) if p not in taken and p not in space), None)
        if name:
            self.numbers[name] = pasid
        if pasid is None:
            names, last = ", ".join(devices), max(bound - 1, 0)
            return self._settle(FOR_ALL_NONE.refuse(devices=names, last=last))
        space.take(pasid)
        iommu.report_global_pasid(endpoints[0].dev, pasid)
        self.kernel.global_users[pasid] = f"module {name}" if name else "a module for several devices"
        self.kernel.decided(FOR_ALL, devices=", ".join(devices), pasid=pasid)
        return self._settle(None, pasid)

    def free_global(self, pasid: int | str) -> Outcome:
        """`iommu_free_global_pasid(pasid)`."""
        number = self._number(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        if number > INT_MAX:
            self.kernel.decided(FREE_SILENT, pasid=number)
        iommu.iommu_free_global_pasid(self.kernel, number)
        return self._settle(None, number)

    def _number(self, pasid: int | str) -> int | Refusal:
        """Resolve a number that may be the name of an allocation or of a handle, live or not."""
        if isinstance(pasid, int):
            return pasid
        if pasid in self.bindings:
            return self.bindings[pasid].bond.pasid
        number = self.numbers.get(pasid)
        return NO_NUMBER.refuse(name=pasid) if number is None else number

    def _sent(self, pasid: int | str) -> int | Refusal:
        """Resolve a number that a device sends with an access; InputError for one of more than 20 bits."""
        number = self._number(pasid)
        if isinstance(number, int) and not 0 <= number <= MAX_PASID:
            raise InputError(f"pasid = {number}: a device sends 20 bits; allowed: 0 to {MAX_PASID:#x}")
        return number

    def attach(self, device: str, pasid: int | str, *, with_handle: bool = True) -> Outcome:
        """`iommu_attach_device_pasid()` of a kernel-managed domain of its own."""
        handle = structs.AttachHandle() if with_handle else None
        return self._put_domain(device, pasid, iommu.iommu_attach_device_pasid, handle, iommu.ATTACH_DONE)

    def replace(self, device: str, pasid: int | str) -> Outcome:
        """`iommu_replace_device_pasid()` with a new kernel-managed domain."""
        call = iommu.iommu_replace_device_pasid
        return self._put_domain(device, pasid, call, structs.AttachHandle(), iommu.REPLACE_DONE)

    def _put_domain(
        self, device: str, pasid: int | str, call: PutDomain, handle: structs.AttachHandle | None, done: Rule
    ) -> Outcome:
        """Give a new kernel-managed domain to a call that puts it at a number; one that is refused is freed."""

        def put(dev: structs.Device, number: int) -> Refusal | None:
            domain = self._paging_domain(dev)
            if isinstance(domain, Refusal):
                return domain
            refusal = call(domain, dev, number, handle)
            if refusal:
                sva.iommu_domain_free(domain)
                return refusal
            self._remember(dev, number, domain)
            self.kernel.decided(done, dev=dev.name, pasid=number)
            return None

        return self._with_number(device, pasid, put)

    def detach(self, device: str, pasid: int | str) -> Outcome:
        """`iommu_detach_device_pasid()` of what `attach` attached."""

        def call(dev: structs.Device, number: int) -> Refusal | None:
            if dev.iommu_group is None:
                return iommu.ATTACH_NO_GROUP.refuse(dev=dev.name)
            domain = self.domains.pop((dev.iommu_group, number), None)
            if domain is None:
                return NO_HANDLE.refuse(handle=f"{number} of {dev.name}")
            iommu.iommu_detach_device_pasid(domain, dev, number)
            sva.iommu_domain_free(domain)
            return None

        return self._with_number(device, pasid, call)

    def attach_any(self, device: str, name: str | None = None) -> Outcome:
        """`iommu_attach_device_pasid_any()` of a kernel-managed domain."""
        endpoint = self._endpoint(device)
        domain = self._paging_domain(endpoint.dev)
        if isinstance(domain, Refusal):
            return self._settle(domain)
        pasid = self.scheme.attach_device_pasid_any(domain, endpoint.dev)
        if name:
            self.numbers[name] = None if isinstance(pasid, Refusal) else pasid
        if isinstance(pasid, Refusal):
            sva.iommu_domain_free(domain)
            return self._settle_for(pasid, endpoint)
        self._remember(endpoint.dev, pasid, domain)
        return self._settle(None, pasid)

    def _with_number(
        self, device: str, pasid: int | str, call: Callable[[structs.Device, int], Refusal | None]
    ) -> Outcome:
        number = self._number(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        return self._settle(call(self._endpoint(device).dev, number), number)

    def _paging_domain(self, dev: structs.Device) -> structs.IommuDomain | Refusal:
        if dev.iommu is None or dev.ops.domain_alloc_paging is None:
            return iommu.ATTACH_NO_GROUP.refuse(dev=dev.name)
        return dev.ops.domain_alloc_paging(dev)

    def _remember(self, dev: structs.Device, pasid: int, domain: structs.IommuDomain) -> None:
        assert dev.iommu_group is not None
        old = self.domains.get((dev.iommu_group, pasid))
        self.domains[dev.iommu_group, pasid] = domain
        if old is not None:
            sva.iommu_domain_free(old)

    # --- processes ---------------------------------------------------------------------------------------------

    def _with_task(self, process: str, call: Callable[[Task], Verdict | Done | None]) -> Outcome:
        task = self._task(process)
        return self._settle(task if isinstance(task, Refusal) else call(task))

    def fork(self, process: str, child: str) -> Outcome:
        """Start a child process with a copy of the memory, and the parent's open files."""

        def call(task: Task) -> None:
            self.processes[child] = tasks.fork(task, child, self._new_pid(task.pidns))

        return self._with_task(process, call)

    def clone(self, process: str, child: str) -> Outcome:
        """Start a thread: CLONE_VM and CLONE_FILES."""

        def call(task: Task) -> None:
            self.processes[child] = tasks.clone_vm(task, child, self._new_pid(task.pidns))

        return self._with_task(process, call)

    def exec(self, process: str) -> Outcome:
        """Replace the address space."""

        def call(task: Task) -> None:
            self.execs[process] = self.execs.get(process, 0) + 1
            times = self.execs[process]
            name = f"{process} after exec" if times == 1 else f"{process} after exec {times}"
            tasks.exec_(task, name)
            assert task.mm is not None
            task.mm.vmas = process_memory(_fill(name), self.kernel.page_size)

        return self._with_task(process, call)

    def exit(self, process: str) -> Outcome:
        """End a process or thread: its memory first, then its files."""
        return self._with_task(process, tasks.do_exit)

    def enable_lam(self, process: str) -> Outcome:
        """`arch_prctl(ARCH_ENABLE_TAGGED_ADDR)`."""
        return self._with_task(process, prctl.prctl_enable_tagged_addr)

    # --- memory ------------------------------------------------------------------------------------------------

    def load(self, process: str, address: int, size: int) -> Outcome:
        """Let a process read its memory."""

        def call(task: Task) -> Done | Verdict:
            assert task.mm is not None
            data = task.mm.read(address, size)
            if isinstance(data, Verdict):
                return data
            self.kernel.decided(LOADED, mm=task.mm.name, address=address)
            return Done(task.mm.name, None, data)

        return self._with_task(process, call)

    def store(self, process: str, address: int, data: bytes) -> Outcome:
        """Let a process write its memory."""

        def call(task: Task) -> Done | Verdict:
            assert task.mm is not None
            signalled = task.mm.write(address, data)
            if signalled:
                return signalled
            self.kernel.decided(STORED, mm=task.mm.name, address=address)
            return Done(task.mm.name, None, data)

        return self._with_task(process, call)

    def munmap(self, process: str, address: int, size: int | None = None) -> Outcome:
        """`munmap()`; without `size` up to the end of the area."""

        def call(task: Task) -> Refusal | None:
            assert task.mm is not None
            return munmap(task.mm, address, _rest(task.mm, address) if size is None else size)

        return self._with_task(process, call)

    def mprotect(self, process: str, address: int, rights: int, size: int | None = None) -> Outcome:
        """`mprotect()` to rights of READ, WRITE and EXEC; without `size` up to the end of the area."""

        def call(task: Task) -> Refusal | None:
            assert task.mm is not None
            return mprotect(task.mm, address, _rest(task.mm, address) if size is None else size, rights)

        return self._with_task(process, call)

    # --- work --------------------------------------------------------------------------------------------------

    def mmap_portal(self, process: str, device: str) -> Outcome:
        """Map the device's portal into a process."""

        def call(task: Task) -> Refusal | None:
            assert task.mm is not None
            return self._endpoint(device).mmap_portal(task.mm)

        return self._with_task(process, call)

    def submit(
        self,
        process: str,
        device: str,
        instruction: Instruction | None,
        work: Work,
        *,
        claims: int | str = 0,
        handle: str | None = None,
    ) -> Outcome:
        """Let a process submit work: by an instruction to the portal, or (None) to the queue its driver programmed.

        `claims` is the number that user space writes into bits 31:0 of the 64 bytes; `handle` picks the queue of a
        process that has several on the device.
        """
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        endpoint, mm = self._endpoint(device), task.mm
        assert mm is not None
        if instruction is None:
            return self._settle(self._ring(endpoint, mm, work, handle))
        claimed = self._number(claims)
        if isinstance(claimed, Refusal):
            return self._settle(claimed)
        store = self.os.execute(task, instruction, descriptor(claimed))
        if isinstance(store, Verdict):
            return self._settle(store)
        if mm not in endpoint.mapped:
            facts = {"instruction": instruction.value.upper(), "mm": mm.name, "dev": device}
            return self._settle(PORTAL_UNMAPPED.signal(Signal.SIGSEGV, **facts))
        return self._settle(endpoint.receive(store, work))

    def _ring(self, endpoint: Endpoint, mm: MmStruct, work: Work, handle: str | None) -> Done | Verdict:
        """Use the queue of a process, or the one that a handle names: a handle of its own, on that device."""
        if handle is None:
            return endpoint.ring(mm, work)
        binding = self.bindings.get(handle)
        if binding is None or not binding.live:
            return NO_HANDLE.refuse(handle=handle)
        if binding.endpoint is not endpoint or binding.bond.mm is not mm:
            return FOREIGN_HANDLE.refuse(handle=handle, mm=mm.name, dev=endpoint.dev.name)
        return endpoint.ring(mm, work, binding.bond)

    def kernel_submit(self, device: str, work: Work) -> Outcome:
        """Let the kernel submit with ENQCMDS under the number that the device's driver took at probe."""
        endpoint = self._endpoint(device)
        pasid = endpoint.kernel_pasid if isinstance(endpoint, Idxd) else None
        if pasid is None:
            return self._settle(KERNEL_NO_NUMBER.refuse(dev=device))
        if not isinstance(self.os, traps.X86Os):
            return self._settle(KERNEL_NO_ENQCMDS.refuse(dev=device))
        source = descriptor(pasid, privileged=True)
        store = self.os.cpu.execute(Instruction.ENQCMDS, X86Registers(), source, privileged=True)
        if not isinstance(store, Store):
            return self._settle(KERNEL_NO_ENQCMDS.refuse(dev=device))
        return self._settle(endpoint.receive(store, work))

    def dma(self, device: str, pasid: int | str, work: Work) -> Outcome:
        """Let a device access memory under a number that it has, from wherever."""
        number = self._sent(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        outcome = self._endpoint(device).access(number, work)
        self.kernel.decided(DMA_DONE, dev=device, pasid=number)
        return self._settle(outcome)

    def handoff(self, first: str, second: str, process: str, work: Work) -> Outcome:
        """Let one device work for a process and tell a second one which PASID to use for the rest."""
        task = self._task(process)
        if isinstance(task, Refusal):
            return self._settle(task)
        dev = self._endpoint(first).dev
        assert task.mm is not None
        bond = None if dev.iommu_group is None else sva.bond_of(dev.iommu_group, task.mm)
        if bond is None:
            return self._settle(HANDOFF_NO_NUMBER.refuse(dev=first, mm=task.mm.name))
        outcome = self._endpoint(second).access(bond.pasid, work)
        self.kernel.decided(HANDED_OFF, first=first, second=second, pasid=bond.pasid)
        return self._settle(outcome)

    # --- faults, resets, failures ------------------------------------------------------------------------------

    def page_request(self, device: str, pasid: int | str | None, fault: Callable[[int | None], iopf.Fault]) -> Outcome:
        """Deliver one page request of a device and run the workers; the result is the answer that went out."""
        number = None if pasid is None else self._sent(pasid)
        if isinstance(number, Refusal):
            return self._settle(number)
        dev = self._endpoint(device).dev
        with self._listening(events.PageResponded) as answers:
            refusal = self.driver_of(dev).report(dev, fault(number))
            if dev.fault_param is not None:
                iopf.iopf_queue_flush_dev(dev)
        wire = tuple(f"on the wire: {answer.wire}" for answer in answers if answer.wire)
        if refusal is None and answers and answers[-1].code != iopf.ResponseCode.SUCCESS:
            decision, self._decision = self._decision, None
            assert decision is not None
            return self._settle(Faulted(RULES[decision.rule], decision.facts), detail=wire)
        return self._settle(refusal, number, detail=wire)

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

    # --- looking -----------------------------------------------------------------------------------------------

    def show(self, process: str | None = None, device: str | None = None) -> Outcome:
        """Tell the state of a process or a device; without either, that of the global space."""
        self.kernel.decided(SHOWN)
        number, detail = None, []
        if process is not None:
            task = self.processes.get(process)
            number = None if task is None else enqcmd_number(task)
            detail.append(f"{process}: was never started" if task is None else process_text(task))
        if device is not None:
            detail += device_text(self._endpoint(device).dev)
        if process is None and device is None:
            detail += space_text(self.kernel)
        return self._settle(None, number, detail=tuple(detail))


def _is_bond(answer: sva.IommuSva | Refusal, scheme: Scheme) -> TypeGuard[sva.IommuSva]:
    """Tell a bond from a refusal; raises ModelError when a user's scheme returned neither."""
    if isinstance(answer, sva.IommuSva):
        if answer.mm.iommu_mm is not answer.data:
            raise ModelError(f"a bind of scheme {scheme.name} did not put its data on mm.iommu_mm")
        return True
    if isinstance(answer, Refusal):
        return False
    raise ModelError(f"a bind of scheme {scheme.name} returned {answer!r}, not an IommuSva or a Refusal")


def _rest(mm: MmStruct, address: int) -> int:
    """Return how many bytes there are to the end of an area; where none is, those of a page."""
    vma = mm.vma_lookup(address)
    return mm.kernel.page_size if vma is None else vma.end - address


def _fill(name: str) -> bytes:
    """Fill a process's memory with its name, so that a read shows whose it is."""
    return f"{name} ".encode()

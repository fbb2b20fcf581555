"""What a machine consists of while it runs, and how a verb's result becomes an `Outcome`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pasidlab import events
from pasidlab.assembly import assemble
from pasidlab.description import MachineSpec, ProcessSpec, check
from pasidlab.devices import Endpoint
from pasidlab.devices.endpoint import Done
from pasidlab.drivers.hardware import IommuDriver
from pasidlab.errors import Errno, InputError
from pasidlab.hw.cpu import MAX_PASID
from pasidlab.linux import iommu, structs, sva
from pasidlab.linux import task as tasks
from pasidlab.linux.mm import MmStruct, process_memory
from pasidlab.linux.task import Task
from pasidlab.outcome import EXITED, NO_NUMBER, NO_PROCESS, Outcome, holder_text
from pasidlab.rules import RULES, Refusal, Verdict
from pasidlab.schemes import Scheme, find_scheme


@dataclass(slots=True, eq=False, repr=False)
class Binding:
    """A named handle: the bond, the device it was asked of, and the open file if a driver's open made it.

    `stopped` and `drained` tell what the driver has done to let it go.
    """

    bond: sva.IommuSva
    endpoint: Endpoint
    file: tasks.File | None = None
    live: bool = True
    stopped: bool = False
    drained: bool = False

    @property
    def is_last(self) -> bool:
        """Whether no other bind uses the bond."""
        return self.bond.users == self.live


E = TypeVar("E", bound=events.Event)
GLOBAL_SPACE_FULL = frozenset({sva.BIND_NOSPC.id, sva.BIND_NO_PASIDS.id, iommu.ALLOC_GLOBAL_NONE.id})


class MachineState:
    """A machine without verbs. `scheme` is one, or the name of one."""

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
        mm.vmas = process_memory(fill(spec.name), self.kernel.page_size)
        self.processes[spec.name] = Task(self.kernel, spec.name, mm, self._new_pid(spec.pidns), spec.pidns)

    def _new_pid(self, pidns: str) -> int:
        self.pids[pidns] = self.pids.get(pidns, 0) + 1
        return self.pids[pidns]

    def driver_of(self, dev: structs.Device) -> IommuDriver:
        """Return the driver of the IOMMU in front of a device."""
        return self.parts.driver_of(dev)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let verbs be done inside another one, whose outcome they leave alone."""
        decision = self._decision
        try:
            yield
        finally:
            self._decision = decision

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

    def _with_task(self, process: str, call: Callable[[Task], Verdict | Done | None]) -> Outcome:
        task = self._task(process)
        return self._settle(task if isinstance(task, Refusal) else call(task))


def fill(name: str) -> bytes:
    """Fill a process's memory with its name, so that a read shows whose it is."""
    return f"{name} ".encode()

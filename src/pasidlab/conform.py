"""Replay recorded kernel sequences on the model: replies and driver callbacks, step by step.

A record was made by a real kernel with a mock IOMMU driver (`pasidlab.records`). Its `kernel` field picks the
profile, and behind a `+` the scheme. The replay is the recorder again: it refuses ("bad") what the recorder refused to
ask, calls the kernel's functions with the recorder's objects, and compares its own reply with the recorded one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pasidlab import events
from pasidlab.drivers.mock import MockDriver
from pasidlab.drivers.traits import Mode
from pasidlab.errors import Errno, InputError
from pasidlab.linux import iommu, iopf, reset, structs, sva, task, traps
from pasidlab.linux.kernel import Arch, Kernel
from pasidlab.linux.mm import MmStruct, mmput, process_memory
from pasidlab.linux.profiles import V6_12, V7_3, Profile
from pasidlab.records import Lines, Sequence, read_sequences
from pasidlab.rules import Refusal
from pasidlab.schemes import Mainline, Scheme
from pasidlab.schemes.v2 import V2, V2MmData

KERNELS: dict[str, tuple[Profile, type[Scheme]]] = {
    "6.12": (V6_12, Mainline),
    "7.3": (V7_3, Mainline),
    # The v2 patch was ported with its own behaviour for a driver without domain_alloc_sva.
    "6.12+v2": (replace(V6_12, domain_alloc_fallback=False), V2),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A step that the model answers otherwise; `rule` is the model's."""

    line: int
    sequence: str
    step: int
    command: list[Any]
    recorded: dict[str, Any]
    model: dict[str, Any]
    rule: str

    def __str__(self) -> str:
        return (
            f"line {self.line} ({self.sequence}), step {self.step} {json.dumps(self.command)}\n"
            f"  recorded {json.dumps(self.recorded)}\n"
            f"  model    {json.dumps(self.model)}\n"
            f"  rule     {self.rule}"
        )


@dataclass(slots=True)
class Summary:
    """What replaying one file gave."""

    path: str
    sequences: int = 0
    steps: int = 0
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path}: {self.sequences} sequences, {self.steps} steps, {len(self.differences)} differ"

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        counts = {"sequences": self.sequences, "steps": self.steps, "differ": len(self.differences)}
        return {"path": self.path, "summary": True, **counts}


def conform_file(
    path: Path, progress: Callable[[int], None] = lambda sequences: None, lines: Lines | None = None
) -> Summary:
    """Replay every sequence of a .jsonl or .jsonl.gz file; InputError names file and line of what cannot be read."""
    summary = Summary(str(path))
    for number, sequence in read_sequences(path, lines):
        summary.sequences += 1
        summary.steps += len(sequence.steps)
        summary.differences += replay(sequence, number, f"{path}:{number}")
        progress(summary.sequences)
    if not summary.sequences:
        raise InputError(f"{path}: no record in it; a record is one JSON object a line")
    return summary


def replay(sequence: Sequence, line: int = 0, where: str = "") -> list[Difference]:
    """Return the steps that differ; what follows a difference is replayed all the same."""
    replayer = Replayer(sequence, where or f"sequence {sequence.seq}")
    title = f"sequence {sequence.seq}, {sequence.kind}"
    differences = []
    for dev in sequence.devs:
        bound = replayer.devs[dev.id].max_pasids
        if bound != dev.max_pasids:
            probed = {"max_pasids": dev.max_pasids}, {"max_pasids": bound}
            differences.append(Difference(line, title, -1, ["probe", dev.id], *probed, "dev_iommu_get_max_pasids"))
    for number, (command, recorded) in enumerate(sequence.steps):
        model = replayer.step(number, command)
        if model != recorded:
            differences.append(Difference(line, title, number, command, recorded, model, replayer.rule))
    return differences


def _kernel_of(name: str, where: str) -> tuple[Profile, type[Scheme]]:
    version, plus, scheme = name.partition("+")
    series = ".".join(version.split(".")[:2])
    try:
        return KERNELS[series + plus + scheme]
    except KeyError:
        known = ", ".join(KERNELS)
        raise InputError(f"{where}: kernel {name!r} is not modelled; known series: {known}") from None


MODES = ("h", "n", "s", "r")
"""How attach and replace name domain and handle."""
BAD: dict[str, Any] = {"st": "bad"}
OK: dict[str, Any] = {"st": "ok"}


class _Absent(Exception):  # noqa: N818 - the recorder's precondition failed; it is not an error
    """The recorder would not call the kernel."""


class Replayer:
    """The recorder's state for one sequence: its kernel, its objects by the numbers that the commands use."""

    def __init__(self, sequence: Sequence, where: str) -> None:
        self.where = where
        profile, scheme = _kernel_of(sequence.kernel, where)
        self.patched = scheme is V2
        self.kernel = Kernel(scheme(), profile, Arch.UM)
        self.kernel.enqcmd_like = True
        self.kernel.observers.append(self._observe)
        self.driver = MockDriver(self.kernel)
        self.callbacks: list[list[Any]] = []
        self.rule = ""
        self.devs = self._probe(sequence)
        self.numbers = {dev.name: number for number, dev in self.devs.items()}
        self.mms: dict[int, MmStruct] = {}
        self.tasks: dict[int, task.Task] = {}
        self.handles: dict[int, sva.IommuSva] = {}
        self.globals: set[int] = set()
        self.fail_allocation = 0
        self.attached: dict[
            tuple[structs.IommuGroup, int], tuple[structs.IommuDomain, structs.AttachHandle | None]
        ] = {}

    def _probe(self, sequence: Sequence) -> dict[int, structs.Device]:
        modes = {mode.value: mode for mode in Mode}
        instances = {}
        for inst in sequence.insts:
            if inst.ops not in modes:
                raise InputError(f"{self.where}: insts[].ops = {inst.ops!r}; allowed: {', '.join(modes)}")
            self.driver.ops(modes[inst.ops])
            instances[inst.id] = self.driver.instance(f"iommu{inst.id}", inst.max_pasids, modes[inst.ops])
        groups: dict[int, structs.IommuGroup] = {}
        devices = {}
        for dev in sequence.devs:
            if dev.id in devices:
                raise InputError(f"{self.where}: devs[].id = {dev.id} is there twice")
            device = structs.Device(self.kernel, f"dev{dev.id}", pasid_num_bits=None if dev.bits < 0 else dev.bits)
            devices[dev.id] = device
            if dev.inst < 0:
                continue
            if dev.inst not in instances:
                raise InputError(f"{self.where}: devs[].inst = {dev.inst} names no instance")
            own = structs.IommuGroup(f"group of dev{dev.id}")
            group = own if dev.group < 0 else groups.setdefault(dev.group, own)
            iommu.iommu_probe_device(device, instances[dev.inst], group)
            self.driver.probe_device(device)
        return devices

    # --- one step ----------------------------------------------------------------------------------------------

    def step(self, number: int, command: list[Any]) -> dict[str, Any]:
        """Do one command and return the reply."""
        where = f"{self.where}, step {number}"
        name = command[0] if command and isinstance(command[0], str) else ""
        handler = getattr(self, f"_do_{name}", None) if name else None
        if handler is None:
            raise InputError(f"{where}: no such command {command!r}; known: {', '.join(COMMANDS)}")
        self.callbacks = []
        self.rule = ""
        complaint = _misfit(name, command[1:])
        if complaint:
            raise InputError(f"{where}: {command!r} does not fit its command: {complaint}")
        try:
            reply = dict(handler(*command[1:]))
        except _Absent:
            reply = dict(BAD)
        if self.callbacks:
            reply["cb"] = self.callbacks
        return reply

    def _observe(self, event: events.Event) -> None:
        if isinstance(event, events.Decided):
            self.rule = event.rule
            return
        callback = _CALLBACKS.get(type(event))
        if callback is not None:
            self.callbacks.append(callback(self, event))

    def _number(self, device: str) -> int:
        return self.numbers[device]

    def _ret(self, refusal: Refusal | None) -> dict[str, Any]:
        if refusal is None:
            return {"ret": 0, "st": "ok"}
        self.rule = f"{refusal.rule.id}: {refusal.why}"
        return {"ret": -refusal.errno, "st": "err"}

    # --- the recorder's objects --------------------------------------------------------------------------------

    def _dev(self, number: int) -> structs.Device:
        """Return a device behind an IOMMU; the recorder gives the others nothing but binds."""
        dev = self._any_dev(number)
        if dev.iommu_group is None:
            raise _Absent
        return dev

    def _any_dev(self, number: int) -> structs.Device:
        if number not in self.devs:
            raise InputError(f"{self.where}: device {number} is not in devs")
        return self.devs[number]

    def _errno(self, negative: int) -> Errno:
        try:
            return Errno(-negative)
        except ValueError:
            known = ", ".join(str(-errno) for errno in Errno)
            raise InputError(f"{self.where}: errno {negative} has no name here; known: {known}") from None

    def _mm(self, number: int) -> MmStruct:
        if number not in self.mms:
            raise _Absent
        return self.mms[number]

    def _task(self, number: int) -> task.Task:
        if number not in self.tasks:
            raise _Absent
        return self.tasks[number]

    def _mm_of(self, number: int) -> MmStruct:
        mm = self._task(number).mm
        assert mm is not None
        return mm

    def _handle(self, number: int) -> sva.IommuSva:
        if number not in self.handles:
            raise _Absent
        return self.handles[number]

    # --- address spaces and processes --------------------------------------------------------------------------

    def _do_newmm(self, number: int) -> dict[str, Any]:
        if number in self.mms:
            raise _Absent
        self.mms[number] = MmStruct(self.kernel, f"mm{number}")
        return self._ret(None)

    def _do_exitmm(self, number: int) -> dict[str, Any]:
        mmput(self._mm(number))
        del self.mms[number]
        return OK

    def _do_spawn(self, number: int) -> dict[str, Any]:
        if number in self.tasks:
            raise _Absent
        mm = MmStruct(self.kernel, f"p{number}")
        mm.vmas = process_memory()
        self.tasks[number] = task.Task(self.kernel, f"p{number}", mm, number)
        return OK

    def _do_pfork(self, number: int, child: int) -> dict[str, Any]:
        self.tasks[child] = task.fork(self._new_child(number, child), f"p{child}", child)
        return OK

    def _do_pvm(self, number: int, child: int) -> dict[str, Any]:
        self.tasks[child] = task.clone_vm(self._new_child(number, child), f"p{child}", child)
        return OK

    def _new_child(self, number: int, child: int) -> task.Task:
        parent = self._task(number)
        if child in self.tasks:
            raise _Absent
        return parent

    def _do_pexec(self, number: int) -> dict[str, Any]:
        task.exec_(self._task(number), f"p{number}")
        self._mm_of(number).vmas = process_memory()
        return OK

    def _do_pexit(self, number: int) -> dict[str, Any]:
        task.do_exit(self._task(number))
        del self.tasks[number]
        return OK

    def _do_mmpasid(self, number: int) -> dict[str, Any]:
        return OK | {"pasid": self._enqcmd(self._mm(number))}

    def _do_ppasid(self, number: int) -> dict[str, Any]:
        return OK | {"pasid": self._enqcmd(self._mm_of(number))}

    def _do_enqcmd(self, number: int) -> dict[str, Any]:
        return self._do_mmpasid(number)

    def _do_mmstate(self, number: int) -> dict[str, Any]:
        return self._state(self._mm(number))

    def _do_pstate(self, number: int) -> dict[str, Any]:
        return self._state(self._mm_of(number))

    def _do_pgp(self, number: int) -> dict[str, Any]:
        current = self._task(number)
        was = current.pasid_activated
        fixed = traps.try_fixup_enqcmd_gp(current)
        return OK | {"pasid": self._enqcmd(self._mm_of(number)), "was": int(was), "fixed": int(fixed)}

    def _do_lam(self, number: int, on: int) -> dict[str, Any]:
        self._mm(number).lam = bool(on)
        return OK

    def _enqcmd(self, mm: MmStruct) -> int:
        pasid = sva.mm_get_enqcmd_pasid(mm)
        return -1 if pasid == structs.IOMMU_PASID_INVALID else pasid

    def _stored(self, mm: MmStruct) -> dict[str, int]:
        data = mm.iommu_mm
        if not isinstance(data, V2MmData):
            return {"raw": -1, "mode": -1}
        raw = -1 if data.pasid == structs.IOMMU_PASID_INVALID else data.pasid
        return {"raw": raw, "mode": int(data.pasid_global)}

    def _state(self, mm: MmStruct) -> dict[str, Any]:
        domains = len(mm.iommu_mm.sva_domains) if mm.iommu_mm else 0
        valid = int(sva.mm_valid_pasid(mm))
        return OK | {"pasid": self._enqcmd(mm), "doms": domains, "valid": valid} | self._stored(mm)

    # --- binds -------------------------------------------------------------------------------------------------

    def _do_bind(self, dev: int, mm: int, handle: int) -> dict[str, Any]:
        return self._bind(self._mm(mm), handle, lambda m: sva.iommu_sva_bind_device(self._any_dev(dev), m))

    def _do_pbind(self, dev: int, process: int, handle: int) -> dict[str, Any]:
        return self._bind(self._mm_of(process), handle, lambda m: sva.iommu_sva_bind_device(self._any_dev(dev), m))

    def _do_bind_pasid(self, dev: int, mm: int, pasid: int, handle: int) -> dict[str, Any]:
        call = sva.iommu_sva_bind_device_pasid
        return self._bind(self._mm(mm), handle, lambda m: call(self._any_dev(dev), m, pasid))

    def _do_pbind_pasid(self, dev: int, process: int, pasid: int, handle: int) -> dict[str, Any]:
        call = sva.iommu_sva_bind_device_pasid
        return self._bind(self._mm_of(process), handle, lambda m: call(self._any_dev(dev), m, pasid))

    def _bind(self, mm: MmStruct, number: int, call: Callable[[MmStruct], sva.IommuSva | Refusal]) -> dict[str, Any]:
        if number in self.handles:
            raise _Absent
        self.kernel.fail_allocation, self.fail_allocation = self.fail_allocation, 0
        bond = call(mm)
        self.kernel.fail_allocation = 0
        if isinstance(bond, Refusal):
            self.rule = f"{bond.rule.id}: {bond.why}"
            reply = {"st": "err", "ret": -bond.errno, "mmpasid": self._enqcmd(mm)}
            return reply | self._stored(mm) if self.patched else reply
        same = min((n for n, other in self.handles.items() if other is bond), default=-1)
        self.handles[number] = bond
        reply = {"st": "ok", "pasid": sva.iommu_sva_get_pasid(bond), "same": same}
        return reply | {"hdev": self._number(bond.dev.name), "users": bond.users} if self.patched else reply

    def _do_unbind(self, number: int) -> dict[str, Any]:
        sva.iommu_sva_unbind_device(self._handle(number))
        del self.handles[number]
        return OK

    def _do_getpasid(self, number: int) -> dict[str, Any]:
        return OK | {"pasid": sva.iommu_sva_get_pasid(self._handle(number))}

    # --- the global space, attachments -------------------------------------------------------------------------

    def _do_alloc_global(self, dev: int) -> dict[str, Any]:
        pasid = iommu.iommu_alloc_global_pasid(self._dev(dev))
        if pasid == structs.IOMMU_PASID_INVALID:
            return OK | {"pasid": -1}
        self.globals.add(pasid)
        return OK | {"pasid": pasid}

    def _do_free_global(self, pasid: int) -> dict[str, Any]:
        if pasid not in self.globals:
            raise _Absent
        self.globals.remove(pasid)
        iommu.iommu_free_global_pasid(self.kernel, pasid)
        return OK

    def _paging_domain(self, dev: structs.Device) -> structs.IommuDomain:
        alloc = dev.ops.domain_alloc_paging
        assert alloc is not None
        domain = alloc(dev)
        assert isinstance(domain, structs.IommuDomain)
        return domain

    def _do_attach(self, number: int, pasid: int, mode: str) -> dict[str, Any]:
        dev = self._dev(number)
        group = dev.iommu_group
        assert group is not None
        domain = self._paging_domain(dev)
        handle = structs.AttachHandle() if mode == "h" else None
        refusal = iommu.iommu_attach_device_pasid(domain, dev, pasid, handle)
        if refusal:
            sva.iommu_domain_free(domain)
        else:
            self.attached[group, pasid] = domain, handle
        return self._ret(refusal)

    def _do_detach(self, number: int, pasid: int) -> dict[str, Any]:
        dev = self._dev(number)
        assert dev.iommu_group is not None
        key = dev.iommu_group, pasid
        if key not in self.attached:
            raise _Absent
        domain, _ = self.attached.pop(key)
        iommu.iommu_detach_device_pasid(domain, dev, pasid)
        sva.iommu_domain_free(domain)
        return OK

    def _do_replace(self, number: int, pasid: int, mode: str) -> dict[str, Any]:
        dev = self._dev(number)
        group = dev.iommu_group
        assert group is not None
        if isinstance(group.pasid_array.get(pasid), sva.IommuSva):
            raise _Absent
        ours = self.attached.get((group, pasid))
        if mode in "sr" and ours is None:
            raise _Absent
        domain, handle = ours if ours and mode in "sr" else (self._paging_domain(dev), None)
        if mode != "r":
            handle = None if mode == "n" else structs.AttachHandle()
        elif handle is None:
            handle = structs.AttachHandle()
        refusal = iommu.iommu_replace_device_pasid(domain, dev, pasid, handle)
        if refusal is None:
            self.attached[group, pasid] = domain, handle
        if mode in "hn":
            replaced = domain if refusal else (ours[0] if ours else None)
            if replaced is not None:
                sva.iommu_domain_free(replaced)
        return self._ret(refusal)

    # --- injected failures, page requests, resets --------------------------------------------------------------

    def _do_failset(self, dev: int, errno: int) -> dict[str, Any]:
        self.driver.fail_set[self._any_dev(dev)] = self._errno(errno)
        return OK

    def _do_failalloc(self, dev: int, errno: int) -> dict[str, Any]:
        self.driver.fail_alloc[self._any_dev(dev)] = self._errno(errno)
        return OK

    def _do_failmem(self, nth: int) -> dict[str, Any]:
        self.fail_allocation = nth
        return OK

    def _do_prq(self, number: int, pasid: int, addr: int, perm: int, last: int, grpid: int) -> dict[str, Any]:
        dev = self._dev(number)
        fault = iopf.Fault(None if pasid < 0 else pasid, addr, perm, bool(last), grpid)
        refusal = iopf.iommu_report_device_fault(dev, fault)
        if dev.fault_param is not None:
            iopf.iopf_queue_flush_dev(dev)
        return self._ret(refusal)

    def _do_discard(self, inst: int) -> dict[str, Any]:
        queues = [d.iommu.iopf_queue for d in self.devs.values() if d.iommu and d.iommu.name == f"iommu{inst}"]
        return self._ret(iopf.iopf_queue_discard_partial(queues[0]) if queues else None)

    def _do_race(self, dev: int, addr: int, perm: int) -> dict[str, Any]:
        self.driver.races[self._dev(dev)] = addr, perm
        return OK

    def _do_rprep(self, dev: int) -> dict[str, Any]:
        return self._ret(reset.pci_dev_reset_iommu_prepare(self._dev(dev)))

    def _do_rdone(self, dev: int) -> dict[str, Any]:
        reset.pci_dev_reset_iommu_done(self._dev(dev))
        return OK


COMMANDS = tuple(name.removeprefix("_do_") for name in vars(Replayer) if name.startswith("_do_"))


def _misfit(command: str, arguments: list[Any]) -> str:
    """Say why the arguments of a command do not fit it; empty when they do."""
    parameters = _parameters(command)
    if len(arguments) != len(parameters):
        return f"it takes {', '.join(name for name, _ in parameters) or 'no argument'}"
    for (name, wanted), value in zip(parameters, arguments, strict=True):
        if type(value) is not wanted:
            return f"{name} = {value!r} is no {wanted.__name__}"
        if name == "mode" and value not in MODES:
            return f"mode = {value!r} is none of {', '.join(MODES)}"
        if isinstance(value, int) and name in ("pasid", "nth") and not -1 <= value <= 0xFFFF_FFFF:
            return f"{name} = {value} is out of range"
    return ""


@cache
def _parameters(command: str) -> tuple[tuple[str, type], ...]:
    """Return names and types of a command's arguments."""
    signature = inspect.signature(getattr(Replayer, f"_do_{command}"), eval_str=True)
    return tuple((p.name, p.annotation) for p in list(signature.parameters.values())[1:])


def _ret_of(errno: Errno | None) -> int:
    return 0 if errno is None else -errno


def _set(r: Replayer, e: events.PasidSet) -> list[Any]:
    call = ["set", r.numbers[e.device], e.pasid, e.domain, _ret_of(e.errno)]
    return call if e.old is None else [*call, e.old]


_CALLBACKS: dict[type[events.Event], Callable[[Replayer, Any], list[Any]]] = {
    events.DomainAllocated: lambda r, e: ["alloc_sva", r.numbers[e.device], e.domain, _ret_of(e.errno)],
    events.DomainFreed: lambda r, e: ["free", e.domain],
    events.PasidSet: _set,
    events.PasidRemoved: lambda r, e: ["remove", r.numbers[e.device], e.pasid, e.domain],
    events.PasidBlocked: lambda r, e: ["block", r.numbers[e.device], e.pasid, e.old, 0],
    events.RidAttached: lambda r, e: ["rid", r.numbers[e.device], e.domain],
    events.PageResponded: lambda r, e: ["resp", r.numbers[e.device], e.pasid, e.grpid, e.code],
}

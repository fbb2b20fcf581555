"""Random histories on VT-d: whatever devices reach is mapped by the process that has the number now, or nothing.

Two devices whose drivers own their numbers and a DSA, all with device-TLBs and page requests, that are held up on
their way now and then; four processes that fork, exit, and change their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from pasidlab.devices import Access, Work
from pasidlab.hw.cpu import Instruction
from pasidlab.hw.transaction import Transferred
from pasidlab.hw.vtd.descriptors import PasidCacheInvalidate, PasidDeviceTlbInvalidate, PasidIotlbInvalidate
from pasidlab.hw.vtd.registers import Fsts, Offset
from pasidlab.linux.iopf import run_work
from pasidlab.linux.mm import READ, WRITE

from .vtd_machine import (
    ALL_SCHEMES,
    BOTH,
    CODE,
    DATA,
    HOLE,
    READ_ONLY,
    HarmError,
    VtdMachine,
    Wire,
    acc,
    dsa,
    expect,
    refused,
    wired,
)

PAGES = [DATA, DATA, DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x3000, READ_ONLY, CODE, HOLE]
RARE = [DATA + 0x1000, DATA + 0x2000, DATA + 0x3000, READ_ONLY]
PROCESSES = ("a", "b", "child", "grandchild")
OWN = ("acc0", "acc1")
DEVICES = (*OWN, "dsa0")
VERBS = {
    "bind": 8,
    "unbind": 4,
    "dma": 20,
    "submit": 6,
    "ask": 4,
    "hold": 3,
    "store": 8,
    "munmap": 1,
    "mprotect": 2,
    "fork": 1,
    "exit": 1,
    "flush": 1,
}
STEPS = 150


class History:
    """A machine, and what it must hold after each step.

    Attributes:
        bonds: the number of each device and process that are bound.
        asking: who had the number of a page request that may not have come yet, and the page.
        growing: processes that may get a page by the step.
    """

    def __init__(self, scheme: str, kernel: str, **options: Any) -> None:
        devices = [acc(name, pasid_bits=3) for name in OWN]
        self.m = VtdMachine(*devices, dsa(), kernel=kernel, scheme=scheme, options={"rfc_enqcmd": "none", **options})
        self.bonds: dict[tuple[str, str], int] = {}
        self.used: dict[tuple[str, int], None] = {}
        self.asking: set[tuple[str, int]] = set()
        self.growing: set[str] = set()
        self.held = False
        self.landed = 0
        self.doing: dict[str, Callable[[Random], None]] = {verb: getattr(self, verb) for verb in VERBS}

    def step(self, random: Random) -> None:
        before = {process: self.pages_of(process) for process in PROCESSES if self.alive(process)}
        self.growing, held = set(), self.held
        self.doing[random.choices(list(VERBS), list(VERBS.values()))[0]](random)
        for process, pages in before.items():
            if self.alive(process) and process not in self.growing:
                asked = {page for asker, page in self.asking if asker == process}
                expect(self.pages_of(process) <= pages | asked, f"a page came into {process}, who did not ask for it")
        if held and not self.held:
            self.asking.clear()

    def alive(self, process: str) -> bool:
        task = self.m.processes.get(process)
        return task is not None and task.mm is not None

    def pages_of(self, process: str) -> set[int]:
        mm = self.m.mm(process)
        return {page for page in PAGES if mm.has_page(page)}

    def holders(self, device: str, pasid: int) -> list[str]:
        return [process for (dev, process), number in self.bonds.items() if (dev, number) == (device, pasid)]

    # --- processes ---------------------------------------------------------------------------------------------

    def bind(self, random: Random) -> None:
        device, process = random.choice(DEVICES), random.choice(PROCESSES)
        if (device, process) in self.bonds or not self.alive(process):
            return
        outcome = self.m.bind(device, process, f"{device}/{process}")
        if outcome.result == "ok":
            assert outcome.pasid is not None
            self.bonds[device, process] = outcome.pasid
            self.used[device, outcome.pasid] = None
            if device == "dsa0":
                self.m.mmap_portal(process, device)

    def unbind(self, random: Random) -> None:
        if not self.bonds:
            return
        device, process = random.choice(list(self.bonds))
        pasid = self.bonds.pop((device, process))
        self.m.unbind(f"{device}/{process}")
        for page in PAGES:
            self.refuses(device, pasid, page)

    def store(self, random: Random) -> None:
        process = random.choice(PROCESSES)
        if self.alive(process):
            self.growing = {process}
            self.m.store(process, random.choice(PAGES), process.encode())

    def munmap(self, random: Random) -> None:
        process = random.choice(PROCESSES)
        if self.alive(process):
            self.m.munmap(process, random.choice(PAGES), random.randrange(1, 3) * 0x1000)

    def mprotect(self, random: Random) -> None:
        process, rights = random.choice(PROCESSES), random.choice([0, READ, READ | WRITE, READ | WRITE])
        if self.alive(process):
            self.m.mprotect(process, random.choice(PAGES), rights, 0x1000)

    def fork(self, random: Random) -> None:
        process, child = random.choice(PROCESSES), random.choice(PROCESSES[2:])
        if self.alive(process) and child not in self.m.processes:
            self.m.fork(process, child)

    def exit(self, random: Random) -> None:
        """End a process, but not the last; the files of its children keep its bonds."""
        process = random.choice(PROCESSES)
        if self.alive(process) and sum(map(self.alive, PROCESSES)) > 1:
            self.m.exit(process)
            self.bonds = {key: pasid for key, pasid in self.bonds.items() if self.m.bindings["/".join(key)].live}

    def flush(self, random: Random) -> None:
        self.m.invalidate_kva()

    # --- devices -----------------------------------------------------------------------------------------------

    def number(self, random: Random) -> tuple[str, int]:
        """Pick a device and a number, mostly one that somebody has or had: those are the ones that can hurt."""
        bound = [(device, number) for (device, _), number in self.bonds.items()]
        return random.choice([*bound, *bound, *self.used, (random.choice(OWN), random.randrange(1, 6))])

    def hold(self, random: Random) -> None:
        """Hold page requests up, or let them come."""
        self.held = not self.held
        self.m.hold(self.held)
        if not self.held:
            run_work(self.m.iommu.iopf_queue)

    def refuses(self, device: str, pasid: int, page: int) -> None:
        """Nothing is reached under a number that nobody has; what it asked for would be held up for the next owner."""
        if self.held:
            expect(not isinstance(self.m.raw(pasid, page, device), Transferred), f"{device} reached {page:#x}")
        else:
            refused(self.m, pasid, page, device)

    def ask(self, random: Random) -> None:
        """Send a page request for a process, and do not wait for the answer."""
        if self.bonds:
            (device, process), pasid = random.choice(list(self.bonds.items()))
            page = random.choice(RARE)
            self.asking.add((process, page))
            self.m.ask(pasid, page, device)

    def dma(self, random: Random) -> None:
        """Whatever an access reaches is mapped, with that right, by the one process that has the number now."""
        (device, pasid), page, write = self.number(random), random.choice(PAGES), random.random() < 0.5
        holders = self.holders(device, pasid)
        if not holders:
            self.refuses(device, pasid, page)
            return
        self.growing = set(holders)
        if self.held:
            self.asking |= {(process, page) for process in holders}
        allowed = any(self.lets(process, page, write) for process in holders) and not self.held
        others = {name: self.memory_of(name) for name in PROCESSES if self.alive(name)}
        outcome = self.m.write(pasid, page, b"dma", device) if write else self.m.read(pasid, page, 3, device)
        if outcome.work is None:
            expect(not allowed, f"{holders} let {device} have {page:#x}: {outcome.why}")
            return
        expect(holders == [outcome.work.owner], f"{device} under {pasid} of {holders} reached {outcome.work}")
        self.reached(holders[0], page, write, outcome.work.data, others)

    def submit(self, random: Random) -> None:
        """Let a process send a descriptor to the DSA, which moves its bytes."""
        process, page, write = random.choice(PROCESSES), random.choice(PAGES), random.random() < 0.5
        if not self.alive(process):
            return
        self.growing = {process}
        if self.held:
            self.asking.add((process, page))
        others = {name: self.memory_of(name) for name in PROCESSES if self.alive(name) and name != process}
        work = Work(Access.WRITE if write else Access.READ, page, b"dsa", 3)
        outcome = self.m.submit(process, "dsa0", Instruction.ENQCMD, work)
        if outcome.work is not None:
            expect(outcome.work.owner == process, f"the DSA worked for {process} and reached {outcome.work}")
            self.reached(process, page, write, outcome.work.data, others)

    def reached(self, process: str, page: int, write: bool, data: bytes, others: dict[str, dict[int, Any]]) -> None:
        self.landed += 1
        mm = self.m.mm(process)
        vma = mm.vma_lookup(page)
        expect(vma is not None and vma.flags & (WRITE if write else READ), "the right was taken away")
        expect(mm.read(page, 3) == data, "the device read what the process does not have there")
        for name, memory in others.items():
            now = self.memory_of(name)
            same = all(now[at] == data for at, data in memory.items())
            expect(name == process or same, f"{name}'s memory changed")

    def lets(self, process: str, page: int, write: bool) -> bool:
        """Whether the process lets its devices have a page, which they ask for where it is not there."""
        mm = self.m.processes[process].mm
        vma = None if mm is None else mm.vma_lookup(page)
        return vma is not None and bool(vma.flags & (WRITE if write else READ))

    def memory_of(self, process: str) -> dict[int, Any]:
        """The bytes of the pages that a process has, without bringing any in."""
        mm = self.m.mm(process)
        readable = [page for page in self.pages_of(process) if (vma := mm.vma_lookup(page)) and vma.flags & READ]
        return {page: mm.read(page, 8) for page in readable}

    def end(self) -> None:
        """Let everything come, and see that each page request was answered once."""
        self.m.hold(False)
        run_work(self.m.iommu.iopf_queue)
        for device in DEVICES:
            port = self.m.port(device)
            expect(not port.outstanding, f"{device} waits for {port.outstanding}")
            expect(not port.unexpected, "a response answered nothing")
        status = Fsts(self.m.unit.mmio_read(Offset.FSTS, 4))
        expect((status.iqe, status.ite, status.pfo) == (False,) * 3, f"{status}")


def histories(scheme: str = "hybrid", kernel: str = "v7.3", seeds: Iterable[int] = range(25), **options: Any) -> int:
    """Run them all, and return how often a device reached memory."""
    landed = 0
    for seed in seeds:
        random, done = Random(seed), History(scheme, kernel, **options)
        for _ in range(STEPS):
            done.step(random)
        done.end()
        landed += done.landed
    return landed


@pytest.mark.parametrize("kernel", BOTH)
@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_devices_reach_the_memory_of_the_process_that_has_the_number_and_no_other(scheme: str, kernel: str) -> None:
    assert histories(scheme, kernel) > 150, "the histories hardly reach memory"


@pytest.mark.parametrize("scheme", ["rfc", "v2", "hybrid"])
def test_with_one_domain_identifier_for_all_devices_reach_other_processes(scheme: str) -> None:
    with pytest.raises(HarmError):
        histories(scheme, vtd_did="shared")


@pytest.mark.parametrize("kind", [PasidCacheInvalidate, PasidIotlbInvalidate, PasidDeviceTlbInvalidate])
def test_histories_notice_when_a_cache_is_never_flushed(kind: type[Any]) -> None:
    with wired(Wire(lambda descriptor, names: isinstance(descriptor, kind))), pytest.raises(HarmError):
        histories()


def test_histories_notice_when_page_requests_are_not_drained() -> None:
    with wired(Wire(drains=False)), pytest.raises(HarmError, match="who did not ask"):
        histories(seeds=range(200))

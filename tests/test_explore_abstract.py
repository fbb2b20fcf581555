"""The state of a world is looked up in its machine, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from pasidlab.errors import Errno
from pasidlab.explore.abstract import Abstraction, Closing, Ghosts, Standing
from pasidlab.explore.action import Action, Verb
from pasidlab.explore.names import job_name, module_name, name_of, task_name
from pasidlab.explore.perform import WORK, start
from pasidlab.explore.state import LOCAL, NORMAL, OPENED, OnDevice, ProcessState, State, TaskState
from pasidlab.explore.world import World
from pasidlab.hw.cpu import Instruction
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.schemes import find_scheme

from .explore_worlds import ARM64, DSA, NARROW, PCIE, world
from .explore_worlds import LOCAL as OWN_NUMBERS


class Made:
    """A machine of a world in which process 0, p0, does everything to device 0 unless told otherwise."""

    def __init__(self, scheme: str = "mainline", **described: Any) -> None:
        self.world: World = world("bind", **described)
        self.machine = Machine(self.world.machine, find_scheme(scheme)(self.world.options))
        self.ghosts = Ghosts()
        start(self.world, self.machine)

    def handle(self, code: int, process: int = 0, device: int = 0) -> str:
        return name_of(self.world, process, device, code)

    def device(self, device: int = 0) -> str:
        return self.world.devices[device].name

    def bind(self, process: int = 0, device: int = 0) -> Outcome:
        name, handle = task_name(self.world, process), self.handle(OPENED, process, device)
        return self.machine.bind(self.device(device), name, handle)

    def bind_device(self, process: int = 0, device: int = 0) -> Outcome:
        name, handle = task_name(self.world, process), self.handle(NORMAL, process, device)
        return self.machine.bind_device(self.device(device), name, handle)

    def bind_device_pasid(self, number: int, process: int = 0, device: int = 0) -> Outcome:
        name, handle = task_name(self.world, process), self.handle(LOCAL + number, process, device)
        return self.machine.bind_device_pasid(self.device(device), name, number, handle)

    def submit(self, process: int = 0, device: int = 0, task: int = 0) -> Outcome:
        instruction = {"enqcmd": Instruction.ENQCMD, "st64bv0": Instruction.ST64BV0}.get(
            self.machine.endpoints[self.device(device)].submit.value
        )
        name, job = task_name(self.world, process, task), job_name(self.world, process, device)
        return self.machine.submit(name, self.device(device), instruction, WORK, job=job)

    def dma(self, number: int) -> Outcome:
        return self.machine.dma(self.device(), number, WORK)

    @property
    def job(self) -> str:
        return job_name(self.world, 0, 0)

    @property
    def state(self) -> State:
        return Abstraction(self.world).state(self.machine, self.ghosts)

    @property
    def process(self) -> ProcessState:
        return self.state.processes[0]

    @property
    def on(self) -> OnDevice:
        return self.process.on[0]


def test_at_the_start_tasks_live_and_nothing_else_is_there() -> None:
    made = Made(devices=(NARROW, DSA), threads=2)
    process = ProcessState((TaskState(), TaskState()), on=(OnDevice(), OnDevice()))
    assert made.state == State((process, process), (0, 0), (0, 0), (False, False))


def test_looking_changes_nothing() -> None:
    made = Made()
    made.bind()
    made.dma(1)
    assert made.state == made.state
    assert not made.machine.driver_of(made.machine.endpoints["acc"].dev).atc


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_that_has_exited_is_all_zero() -> None:
    made = Made(devices=(DSA,), threads=2)
    made.bind()
    made.machine.mmap_portal("p0", "dsa")
    made.submit(task=1)
    assert made.process.tasks == (TaskState(), TaskState(True, 1, True))
    made.machine.exit("p0/1")
    assert made.process.tasks == (TaskState(), TaskState(alive=False))


def test_a_register_counts_where_it_is_valid_on_arm64_too() -> None:
    made = Made(devices=(DSA | {"submit": "st64bv0"},), cpu=ARM64)
    made.bind()
    made.machine.mmap_portal("p0", "dsa")
    assert made.process.tasks == (TaskState(),)
    made.submit()
    assert made.process.tasks == (TaskState(True, 1, True),)


# --- the address space -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mainline", "rfc", "v2", "hybrid"])
def test_the_number_is_that_of_the_address_space(scheme: str) -> None:
    made = Made(scheme, options={"local_by": "driver"})
    made.machine.alloc_global("acc", module_name(made.world, 0))
    made.bind_device()
    assert made.process.number == made.on.normal == 2
    made.machine.unbind(made.handle(NORMAL))
    assert made.process.number == 2


def test_a_number_that_a_failed_bind_left_counts() -> None:
    made = Made("mainline")
    made.machine.attach("acc", 1)
    assert made.bind_device().result == "EBUSY"
    assert (made.process.number, made.on.bonds) == (1, 0)


@pytest.mark.parametrize(("driver_numbered", "mode"), [(False, 1), (True, 2)])
def test_the_mode_is_that_of_v2(driver_numbered: bool, mode: int) -> None:
    made = Made("v2")
    assert made.process.mode == 0
    made.bind_device_pasid(2) if driver_numbered else made.bind_device()
    assert made.process.mode == mode


def test_the_order_is_that_in_which_rfc_bound_at_numbers_of_devices() -> None:
    made = Made("rfc", devices=(NARROW, PCIE, DSA))
    for device in (2, 0, 1):
        made.bind(0, device)
    assert made.process.order == (2, 0, 1)
    made.machine.unbind(made.handle(OPENED, 0, 0))
    assert made.process.order == (2, 1)


def test_bound_is_what_was_carried_along_until_the_address_space_is_gone() -> None:
    made = Made()
    made.bind()
    assert not made.process.bound
    made.ghosts = Ghosts(bound=frozenset({0}))
    assert [process.bound for process in made.state.processes] == [True, False]
    made.machine.exit_mm("p0")
    assert made.process.bound
    made.machine.unbind(made.handle(OPENED))
    assert not made.process.bound


def test_of_an_address_space_that_is_gone_only_what_devices_hold_is_left() -> None:
    made = Made(teardown={"iommu": ["table"], "driver": ["unbind"]})
    made.bind()
    made.dma(1)
    made.submit()
    made.machine.ask(made.job)
    made.machine.exit_mm("p0")
    assert (made.process.number, made.on.opened, made.on.entry) == (1, 1, 1 << 1)
    made.machine.unbind(made.handle(OPENED), stop=False, drain=False)
    assert made.process == ProcessState((TaskState(alive=False),), on=(OnDevice(iotlb=1 << 1, job=1, asked=1),))


# --- bonds -----------------------------------------------------------------------------------------------------------


def test_each_kind_of_handle_has_its_place() -> None:
    made = Made("hybrid", devices=(NARROW | OWN_NUMBERS,))
    made.bind_device_pasid(2)
    made.bind()
    made.bind_device()
    assert (made.on.opened, made.on.local, made.on.normal) == (1, 1 << 2, 0)
    made.machine.unbind(made.handle(OPENED))
    made.bind_device()
    assert (made.on.opened, made.on.local, made.on.normal) == (0, 1 << 2, 1)
    made.machine.unbind(made.handle(LOCAL + 2))
    assert (made.on.opened, made.on.local, made.on.normal) == (0, 0, 1)


def test_marked_is_a_bond_that_a_normal_bind_asked_for_under_hybrid() -> None:
    made = Made("hybrid", devices=(NARROW, DSA))
    made.bind_device_pasid(2)
    assert not made.on.marked
    made.bind_device()
    assert [on.marked for on in made.process.on] == [True, False]
    assert not made.state.processes[1].on[0].marked


def test_an_entry_counts_also_when_it_is_quiet() -> None:
    made = Made()
    made.bind(1)
    assert [process.on[0].entry for process in made.state.processes] == [0, 1 << 1]
    made.machine.exit_mm("p1")
    assert made.state.processes[1].on[0].entry == 1 << 1


def test_only_a_pcie_device_has_cached_anything_itself() -> None:
    made = Made(devices=(PCIE, NARROW))
    made.bind()
    made.bind(0, 1)
    for device in ("pci", "acc"):
        made.machine.dma(device, 1, WORK)
    assert [(on.iotlb, on.atc) for on in made.process.on] == [(2, 2), (2, 0)]


def test_a_portal_is_mapped_while_a_task_lives() -> None:
    made = Made(devices=(DSA,))
    made.bind()
    made.machine.mmap_portal("p0", "dsa")
    assert made.on.portal
    assert not made.state.processes[1].on[0].portal
    made.machine.exit_mm("p0")
    assert not made.on.portal


# --- what is under way -----------------------------------------------------------------------------------------------


def test_work_and_page_requests_in_flight_are_told_apart() -> None:
    made = Made(devices=(PCIE,))
    made.bind()
    made.submit()
    assert (made.on.job, made.on.asked) == (1, 0)
    made.machine.ask(made.job)
    assert (made.on.job, made.on.asked) == (1, 1)
    made.machine.stop(made.handle(OPENED))
    assert (made.on.job, made.on.asked) == (0, 1)
    made.machine.drain(made.handle(OPENED))
    assert (made.on.job, made.on.asked) == (0, 0)


def test_a_teardown_that_was_begun_is_carried_along() -> None:
    made = Made()
    made.bind()
    made.ghosts = Ghosts(closing={(0, 0): Closing(OPENED, 1, 2)})
    assert (made.on.closing, made.on.closing_number, made.on.phase) == (OPENED, 1, 2)
    assert made.state.processes[1].on[0] == OnDevice()


def test_in_a_window_the_handle_counts_as_live() -> None:
    made = Made(devices=(NARROW, PCIE))
    made.bind(0, 1)
    action = Action(Verb.UNBIND, 0, 1, OPENED)
    seen = []

    def at_window(step: str) -> None:
        made.ghosts = Ghosts(standing=Standing(action, 1, len(seen) + 1))
        seen.append(made.process)

    made.machine.kernel.at_window = at_window
    made.machine.unbind(made.handle(OPENED, 0, 1))
    assert [process.window for process in seen] == [(1, 2, 1), (2, 2, 1)]
    assert [(process.on[1].opened, process.on[1].entry) for process in seen] == [(1, 0), (1, 0)]


def test_a_window_of_the_end_of_an_address_space_has_no_device() -> None:
    made = Made()
    made.bind()
    made.ghosts = Ghosts(standing=Standing(Action(Verb.EXIT, 0), 0, 1))
    assert made.process.window == (1, 0, 0)
    assert made.state.in_window == 0


# --- modules ---------------------------------------------------------------------------------------------------------


def test_a_number_of_a_module_counts_until_it_is_freed() -> None:
    made = Made(devices=(NARROW, PCIE))
    made.machine.alloc_global("pci", module_name(made.world, 1))
    assert made.state.module == (0, 1)
    made.machine.free_global(module_name(made.world, 1))
    assert made.state.module == (0, 0)


def test_kernel_managed_domains_are_no_entries_of_a_process() -> None:
    made = Made(devices=(NARROW, PCIE))
    made.machine.attach("pci", 2)
    assert made.state.attached == (0, 1 << 2)
    assert not made.process.on[1].entry
    made.machine.detach("pci", 2)
    assert made.state.attached == (0, 0)


def test_a_failure_is_armed_until_a_bind_meets_it() -> None:
    made = Made(devices=(NARROW, PCIE))
    made.machine.fail_next("pci", "set_dev_pasid", Errno.ENOMEM)
    assert made.state.armed == (False, True)
    assert made.bind(0, 1).result == "ENOMEM"
    assert made.state.armed == (False, False)

"""Snapshots of a machine bring it back, in the objects that it consists of."""

from __future__ import annotations

import pickle

import pytest

from pasidlab.errors import ModelError
from pasidlab.explore.abstract import Abstraction, Ghosts
from pasidlab.explore.perform import WORK, start
from pasidlab.explore.snapshot import Snapshots
from pasidlab.explore.state import State
from pasidlab.machine import Machine
from pasidlab.schemes import SCHEMES

from .explore_worlds import DSA, PCIE, world

WORLD = world("bind", devices=(PCIE, DSA), threads=2)


@pytest.fixture(params=SCHEMES)
def machine(request: pytest.FixtureRequest) -> Machine:
    made = Machine(WORLD.machine, request.param)
    start(WORLD, made)
    return made


def bound_and_worked(machine: Machine) -> State:
    machine.bind("pci", "p0", "p0 pci open")
    machine.dma("pci", 1, WORK)
    return Abstraction(WORLD).state(machine, Ghosts())


def test_the_start_comes_back_after_everything(machine: Machine) -> None:
    snapshots = Snapshots(machine)
    taken, before = snapshots.take(), Abstraction(WORLD).state(machine, Ghosts())
    worked = bound_and_worked(machine)
    machine.exit("p1/1")
    machine.exit("p1")
    snapshots.restore(taken)
    assert Abstraction(WORLD).state(machine, Ghosts()) == before
    assert bound_and_worked(machine) == worked != before


def test_bonds_come_back_after_they_went(machine: Machine) -> None:
    snapshots = Snapshots(machine)
    worked, taken = bound_and_worked(machine), snapshots.take()
    machine.unbind("p0 pci open")
    machine.exit("p0/1")
    machine.exit("p0")
    snapshots.restore(taken)
    assert Abstraction(WORLD).state(machine, Ghosts()) == worked
    assert machine.dma("pci", 1, WORK).work is not None
    assert machine.unbind("p0 pci open").result == "ok"
    assert not machine.parts.mock.entries


def test_what_a_machine_consists_of_stays_the_same_objects(machine: Machine) -> None:
    snapshots = Snapshots(machine)
    parts = [machine.kernel, machine.processes["p0"].mm, machine.endpoints["pci"].dev, machine.parts.mock]
    bound_and_worked(machine)
    snapshots.restore(snapshots.take())
    after = [machine.kernel, machine.processes["p0"].mm, machine.endpoints["pci"].dev, machine.parts.mock]
    assert all(one is other for one, other in zip(parts, after, strict=True))


def test_bytes_in_memory_come_back(machine: Machine) -> None:
    snapshots = Snapshots(machine)
    taken = snapshots.take()
    machine.store("p0", WORK.address, b"changed")
    changed = snapshots.take()
    for snapshot, data in ((taken, b"its own"), (changed, b"changed"), (taken, b"its own")):
        snapshots.restore(snapshot)
        work = machine.load("p0", WORK.address, 7).work
        assert work is not None
        assert work.data == data


def test_each_content_of_memory_is_kept_once(machine: Machine) -> None:
    snapshots = Snapshots(machine)
    snapshots.take()
    machine.bind("pci", "p0", "p0 pci open")
    snapshots.take()
    assert len(snapshots.memories) == 1
    machine.store("p0", WORK.address, b"changed")
    snapshots.take()
    assert len(snapshots.memories) == 2


def test_an_attribute_that_a_scheme_got_later_is_gone_again(machine: Machine) -> None:
    snapshots = Snapshots(machine)
    taken = snapshots.take()
    vars(machine.scheme)["seen"] = [machine.kernel]
    later = snapshots.take()
    snapshots.restore(taken)
    assert "seen" not in vars(machine.scheme)
    snapshots.restore(later)
    assert vars(machine.scheme)["seen"] == [machine.kernel]


def test_a_snapshot_is_for_those_that_took_it(machine: Machine) -> None:
    with pytest.raises(ModelError, match="was not restored by those that took it"):
        pickle.loads(Snapshots(machine).take())

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.explore.action import Action, Result, Step, Verb
from pasidlab.explore.compiled import layout
from pasidlab.explore.compiled.layout import WORLD, action_of, decode, encode, step_of, world_record
from pasidlab.explore.compiled.plan import plan_of
from pasidlab.explore.state import MAX_DEVICES, MAX_NUMBER, MAX_PROCESSES, OnDevice, State
from pasidlab.explore.world import World
from tests.compiled_states import EVERYTHING, WORLDS, Packer, states, world_of

SCHEMES = ("mainline", "rfc", "v2", "hybrid")


@dataclass(frozen=True)
class Setting:
    world: World
    scheme: str
    packer: Packer


SETTINGS = tuple(
    Setting(world, scheme, Packer(world, scheme, symmetry=False)) for world in WORLDS for scheme in SCHEMES
)


@st.composite
def settled(draw: st.DrawFn) -> tuple[Setting, State]:
    setting = draw(st.sampled_from(SETTINGS))
    return setting, draw(states(setting.world, setting.scheme))


@settings(max_examples=60, deadline=None)
@given(settled())
def test_a_record_tells_its_state(drawn: tuple[Setting, State]) -> None:
    setting, state = drawn
    assert decode(encode(state)[0], setting.world) == state


@settings(max_examples=60, deadline=None)
@given(settled())
def test_words_tell_their_state(drawn: tuple[Setting, State]) -> None:
    setting, state = drawn
    words = setting.packer.pack(state)
    assert not setting.packer.beyond
    assert decode(setting.packer.unpack(words), setting.world) == state


@settings(max_examples=60, deadline=None)
@given(settled())
def test_unpacking_leaves_nothing_of_the_state_before(drawn: tuple[Setting, State]) -> None:
    setting, state = drawn
    setting.packer.unpack((-1,) * setting.packer.size)
    assert setting.packer.unpack(setting.packer.pack(state)).tobytes() == encode(state)[0].tobytes()


def test_the_largest_world_fits() -> None:
    world = world_of((MAX_PROCESSES,), (MAX_DEVICES,), tasks=3, bits=3)
    full = (1 << world.numbers + 1) - 2
    on = OnDevice(7, 7, full, True, full, full, full, True, 9, 7, 2, 7, 7)
    nothing = decode(encode(State((), (), (), ()))[0], world)
    tasks = tuple(task._replace(alive=True, register=MAX_NUMBER, activated=True) for task in nothing.processes[0].tasks)
    process = nothing.processes[0]._replace(tasks=tasks, number=7, bound=True, window=(2, 4, 7), on=(on,) * MAX_DEVICES)
    for scheme, own in (("v2", {"mode": 2}), ("rfc", {"order": (3, 2, 1, 0)}), ("hybrid", {})):
        one = process._replace(**own) if scheme == "hybrid" else _unmarked(process)._replace(**own)
        state = State((one,) * MAX_PROCESSES, (7,) * 4, (full,) * 4, (True,) * 4)
        packer = Packer(world, scheme, symmetry=False)
        assert decode(packer.unpack(packer.pack(state)), world) == state
        assert not packer.beyond


def _unmarked(process):
    return process._replace(on=tuple(on._replace(marked=False) for on in process.on))


@pytest.mark.parametrize(
    ("missing", "broken"),
    [
        ("fail_next", {"armed": (True, False, False)}),
        ("attach", {"attached": (0, 2, 0)}),
        ("alloc_global", {"module": (0, 0, 3)}),
    ],
)
def test_a_value_that_a_world_cannot_have_is_noticed(missing: str, broken: dict) -> None:
    world = world_of((2,), (3,), actions=[name for name in EVERYTHING if name != missing])
    packer = Packer(world, "mainline", symmetry=True)
    nothing = decode(encode(State((), (), (), ()))[0], world)
    packer.pack(nothing)
    assert not packer.beyond
    packer.pack(nothing._replace(**broken))
    assert packer.beyond


@pytest.mark.parametrize("on", [OnDevice(opened=4), OnDevice(entry=1), OnDevice(marked=True), OnDevice(atc=16)])
def test_a_value_beyond_the_bits_of_a_world_is_noticed(on: OnDevice) -> None:
    world = world_of((2,), (1,))
    packer = Packer(world, "mainline", symmetry=True)
    nothing = decode(encode(State((), (), (), ()))[0], world)
    second = nothing.processes[1]._replace(on=(on,))
    packer.pack(nothing._replace(processes=(nothing.processes[0], second)))
    assert packer.beyond


def test_what_a_world_cannot_have_takes_no_bits() -> None:
    few = plan_of(world_of((2,), (2,), actions=["bind"]), "mainline", symmetry=True)[0]
    many = plan_of(world_of((2,), (2,)), "rfc", symmetry=True)[0]
    assert few["device_bits"] == 0
    assert few["cell_bits"] == 5  # opened, entry
    assert few["words"] == 1 < many["words"]


@given(st.sampled_from(Verb), st.integers(0, 5), st.integers(0, 3), st.integers(0, 9))
def test_a_code_tells_its_action(verb: Verb, process: int, device: int, arg: int) -> None:
    code = layout.action_code.py_func(int(verb), process, device, arg)
    assert action_of(code) == Action(verb, process, device, arg)
    step = layout.step_code.py_func(int(Result.FAULT), 3)
    assert step_of(code, step) == Step(Action(verb, process, device, arg), Result.FAULT, 3)


def test_the_record_of_a_world_says_what_its_file_says() -> None:
    world = World.from_dict(
        {
            "actions": ["bind", "unbind", "exit"],
            "options": {"guard": "range", "local_first": 2, "order": "highest"},
            "teardown": {"driver": ["drain", "unbind"], "iommu": ["iotlb", "table"], "windows": False},
            "iommu": [{"name": "i", "pasid_bits": 2}, {"name": "cold", "pasid_bits": 3, "caches": False}],
            "device": [
                {"name": "e", "iommu": "i", "pasid_bits": 5, "submit": "enqcmd", "sloppy": True},
                {"name": "n", "iommu": "cold", "pasid_bits": 1, "kind": "narrow"},
                {"name": "alone"},
            ],
            "process": [{"name": "p", "threads": 2}, {"name": "q", "count": 2}],
        }
    )
    record = world_record(world)[0]
    said = {name: np.array(record[name]).tolist() for name in WORLD.names or ()}
    assert said["tasks"][:3] == [2, 1, 1]
    assert said["process_class"][:3] == [0, 1, 1]
    assert said["bound"] == [4, 2, 0, 0]
    assert (said["numbers"], said["processes"], said["devices"]) == (3, 3, 3)
    assert (said["portal"], said["sloppy"]) == ([1, 0, 0, 0], [1, 0, 0, 0])
    assert (said["ats"], said["caches"], said["has_iommu"]) == ([1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0])
    assert (said["guard"], said["local_first"], said["order"]) == (2, 2, 1)
    assert (said["driver_steps"], said["iommu_steps"], said["windows"]) == ([2, 3, 0], [2, 1, 0], 0)
    assert said["verbs"] == 1 << Verb.BIND | 1 << Verb.UNBIND | 1 << Verb.RESUME | 1 << Verb.EXIT
    assert said["arch"] == 0


def test_values_beyond_a_byte_are_beyond_every_number() -> None:
    assert world_record(world_of((1,), (1,)))[0]["local_first"] == 255

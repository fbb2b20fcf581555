"""Worlds and arbitrary states of them, for tests of the compiled search."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from pasidlab.explore.compiled.layout import STATE, encode, world_record
from pasidlab.explore.compiled.packing import bytes_of
from pasidlab.explore.compiled.plan import plan_of
from pasidlab.explore.compiled.search import ENTRIES, Question, new_desk
from pasidlab.explore.compiled.visited import ENVELOPE
from pasidlab.explore.state import OnDevice, ProcessState, State, TaskState
from pasidlab.explore.world import World

EVERYTHING = ["bind", "bind_device", "bind_device_pasid", "unbind", "mmap_portal", "submit", "forge"]
EVERYTHING += ["page_request", "exit", "alloc_global", "free_global", "attach", "detach", "fail_next"]


def world_of(processes: tuple[int, ...], devices: tuple[int, ...], tasks: int = 2, bits: int = 2, **keys: Any) -> World:
    """A world with so many processes and devices in each class."""
    return World.from_dict(
        {
            "actions": EVERYTHING,
            "iommu": [{"name": "i", "pasid_bits": bits}],
            "device": [
                {"name": f"d{index}", "iommu": "i", "pasid_bits": bits, "submit": "enqcmd", "count": count}
                for index, count in enumerate(devices)
            ],
            "process": [
                {"name": f"p{index}", "count": count, "threads": tasks} for index, count in enumerate(processes)
            ],
        }
        | keys
    )


WORLDS = (
    world_of((3,), (1, 2)),
    world_of((2, 2), (2,), tasks=3),
    world_of((1, 2), (4,), tasks=1),
    world_of((6,), (2, 2), tasks=1, bits=3),
    world_of((1,), (1,)),
)


def small(most: int) -> st.SearchStrategy[int]:
    """A number up to `most`, often one of few, so that parts of a state are alike."""
    return st.sampled_from((0, 0, 0, min(1, most), most)) | st.integers(0, most)


@st.composite
def on_devices(draw: st.DrawFn, numbers: int) -> OnDevice:
    if draw(st.integers(0, 3)) == 0:
        return OnDevice()
    number, mask = small(numbers), small((1 << numbers) - 1).map(lambda bits: bits << 1)
    return OnDevice(
        opened=draw(number),
        normal=draw(number),
        local=draw(mask),
        entry=draw(mask),
        iotlb=draw(mask),
        atc=draw(mask),
        portal=draw(st.booleans()),
        closing=draw(small(numbers + 2)),
        closing_number=draw(number),
        phase=draw(small(2)),
        job=draw(number),
        asked=draw(number),
    )


@st.composite
def process_states(draw: st.DrawFn, world: World, tasks: int, scheme: str) -> ProcessState:
    number, devices = small(world.numbers), len(world.devices)
    order = draw(st.lists(st.integers(0, devices - 1), unique=True)) if scheme == "rfc" else ()
    window = draw(st.just((0, 0, 0)) | st.tuples(st.integers(1, 2), small(devices), number))
    return ProcessState(
        tuple(TaskState(draw(st.booleans()), draw(number), draw(st.booleans())) for _ in range(tasks)),
        draw(number),
        draw(small(2)) if scheme == "v2" else 0,
        draw(st.booleans()),
        tuple(order),
        window,
        tuple(draw(on_devices(world.numbers)) for _ in range(devices)),
    )


@st.composite
def states(draw: st.DrawFn, world: World, scheme: str) -> State:
    devices = range(len(world.devices))
    attached = small((1 << world.numbers) - 1)
    return State(
        tuple(draw(process_states(world, len(tasks), scheme)) for tasks in world.processes),
        tuple(draw(small(world.numbers)) for _ in devices),
        tuple(draw(attached) << 1 for _ in devices),
        tuple(draw(st.booleans()) for _ in devices),
    )


class Packer:
    """Packs and unpacks states of a world."""

    def __init__(self, world: World, scheme: str, *, symmetry: bool) -> None:
        self.plan = plan_of(world, scheme, symmetry=symmetry)
        self.question = Question(world_record(world), self.plan)
        self.size = int(self.plan["words"][0])
        self.desk = new_desk(self.size, 1)

    def pack(self, state: State) -> tuple[int, ...]:
        letters = np.zeros((1, ENVELOPE + self.size), np.int64)
        ENTRIES.pack_all(self.question, self.desk, bytes_of(encode(state)), letters)
        return tuple(letters[0, ENVELOPE:].tolist())

    def unpack(self, words: tuple[int, ...]) -> Any:
        made = np.zeros(1, STATE)
        ENTRIES.unpack_all(self.question, self.desk, np.array([words], np.int64), bytes_of(made))
        return made[0]

    @property
    def beyond(self) -> bool:
        return bool(self.desk.pieces["beyond"].any())

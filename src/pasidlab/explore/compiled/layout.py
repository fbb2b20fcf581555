"""What the compiled search works on: states and worlds as records of bytes, actions as one number.

A state that is worked on has a byte for each value, in arrays of the largest size that any world may have; `packing`
says how it is stored. Whatever a world does not have is 0. Masks of numbers are as in `State`: bit n stands for n.

Every part of the compiled search speaks of these functions, which numba compiles into one another:

- `transitions.apply(world, state, verb, process, device, arg) -> int`: changes `state` and returns a step code;
- `offer.offer(world, state, out) -> int`: fills `out`, an array of ACTIONS action codes, in the order of
  `action.actions`, and returns how many there are;
- `properties.broken_in_state(world, state, wanted) -> int`: mask of the properties of states that are broken, of
  those in the mask `wanted`; bit i stands for `properties.STATE_PROPERTIES[i]`, a name;
- `properties.broken_by_step(world, before, after, verb, process, device, arg, step, wanted) -> int`: the same for
  `properties.STEP_PROPERTIES`; `step` is the code that `apply` returned.

`world` is a record of WORLD, `state`, `before` and `after` of STATE; the rest are integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pasidlab.description.spec import architecture
from pasidlab.explore.action import Action, Result, Step, Verb
from pasidlab.explore.state import (
    MAX_DEVICES,
    MAX_PROCESSES,
    MAX_TASKS,
    OnDevice,
    ProcessState,
    State,
    TaskState,
)
from pasidlab.explore.world import World
from pasidlab.hw.batch.compiling import compiled

Records = npt.NDArray[np.void]

# --- a state ---------------------------------------------------------------------------------------------------------

ON_DEVICE = OnDevice._fields
"""What a process has on each device: one array of MAX_DEVICES bytes each, one after the other."""
_HEAD = (
    ("task_alive", "u1"),  # mask of tasks
    ("task_activated", "u1"),  # mask of tasks
    ("register", "u1", (MAX_TASKS,)),
    ("number", "u1"),
    ("mode", "u1"),
    ("bound", "u1"),
    ("order", "u1", (MAX_DEVICES,)),  # devices counted from 1, then 0
    ("window", "u1", (3,)),  # steps done, device counted from 1, number
)
_FILL = 5
"""Bytes that make a process whole 64-bit words."""
PROCESS = np.dtype([*_HEAD, *((name, "u1", (MAX_DEVICES,)) for name in ON_DEVICE), ("fill", "u1", (_FILL,))])
STATE = np.dtype(
    [
        ("module", "u1", (MAX_DEVICES,)),
        ("attached", "u1", (MAX_DEVICES,)),
        ("armed", "u1", (MAX_DEVICES,)),
        ("fill", "u1", (16 - 3 * MAX_DEVICES,)),
        ("process", PROCESS, (MAX_PROCESSES,)),
    ]
)
"""The processes stand last, so that what a world uses of a state is one piece."""

# --- a world ---------------------------------------------------------------------------------------------------------

SCHEMES = ("mainline", "rfc", "v2", "hybrid")
GUARDS = ("none", "mmap", "range", "declared")
ORDERS = ("lowest", "highest", "reserve-low")
ARCHITECTURES = ("x86", "arm64")
DRIVER_STEPS = ("", "stop", "drain", "unbind")
IOMMU_STEPS = ("", "table", "iotlb", "atc")
"""Words of a world by their codes in its record; code 0 of a step is no step."""
STEPS = 3
"""The most steps of an order."""

WORLD = np.dtype(
    [
        ("processes", "u1"),
        ("tasks", "u1", (MAX_PROCESSES,)),  # how many each process has
        ("devices", "u1"),
        ("numbers", "u1"),
        ("process_class", "u1", (MAX_PROCESSES,)),
        ("device_class", "u1", (MAX_DEVICES,)),
        ("bound", "u1", (MAX_DEVICES,)),  # max_pasids: one more than the largest number
        ("own", "u1", (MAX_DEVICES,)),  # the scheme leaves the device's numbers to its driver, or to its own space
        ("portal", "u1", (MAX_DEVICES,)),
        ("ats", "u1", (MAX_DEVICES,)),
        ("sloppy", "u1", (MAX_DEVICES,)),
        ("has_iommu", "u1", (MAX_DEVICES,)),
        ("caches", "u1", (MAX_DEVICES,)),  # its IOMMU keeps translations
        ("scheme", "u1"),
        ("guard", "u1"),
        ("local_first", "u1"),
        ("order", "u1"),
        ("reserve", "u1"),
        ("rfc_enqcmd", "u1"),  # 1: the number of the first bond
        ("arch", "u1"),
        ("enqcmd_like", "u1"),  # the CPU and kernel have ENQCMD, or ST64BV0 with ACCDATA_EL1 switched
        ("driver_steps", "u1", (STEPS,)),
        ("iommu_steps", "u1", (STEPS,)),
        ("windows", "u1"),
        ("verbs", "u4"),  # mask of Verb
    ]
)


def world_record(world: World) -> Records:
    """Return what a world says, alone in its array; `scheme`, `own` and `enqcmd_like` are left 0.

    Values beyond a byte, which only `local_first`, `reserve` and bounds can have, are beyond every number anyway.
    """
    made = np.zeros(1, WORLD)
    for name, value in (*_sizes(world), *_of_devices(world), *_of_options(world)):
        field = made[name][0]
        if field.ndim:
            field[: len(value)] = np.minimum(value, 255)
        else:
            made[name] = value if name == "verbs" else min(value, 255)
    return made


def _sizes(world: World) -> Iterator[tuple[str, Any]]:
    """Yield counts, classes and what may happen."""
    yield "processes", len(world.processes)
    yield "tasks", [len(tasks) for tasks in world.processes]
    yield "devices", len(world.devices)
    yield "numbers", world.numbers
    yield "process_class", world.classes.processes
    yield "device_class", world.classes.devices
    yield "verbs", sum(1 << verb for verb in world.verbs)
    yield "windows", world.teardown.windows
    yield "driver_steps", [DRIVER_STEPS.index(step) for step in world.teardown.driver]
    yield "iommu_steps", [IOMMU_STEPS.index(step) for step in world.teardown.iommu]


def _of_devices(world: World) -> Iterator[tuple[str, Any]]:
    """Yield what each device is like."""
    iommus = {iommu.name: iommu for iommu in world.machine.iommu}
    behind = [None if device.iommu is None else iommus[device.iommu] for device in world.machine.device]
    yield "bound", world.max_pasids
    yield "has_iommu", [iommu is not None for iommu in behind]
    yield "caches", [iommu is not None and bool(iommu.caches) for iommu in behind]
    yield "portal", [device.portal for device in world.devices]
    yield "ats", [device.ats for device in world.devices]
    yield "sloppy", [device.sloppy for device in world.machine.device]


def _of_options(world: World) -> Iterator[tuple[str, Any]]:
    """Yield options and the kind of CPU."""
    options = world.options
    yield "guard", GUARDS.index(options.guard)
    yield "local_first", options.local_first
    yield "order", ORDERS.index(options.order)
    yield "reserve", options.reserve
    yield "rfc_enqcmd", options.rfc_enqcmd == "first"
    yield "arch", ARCHITECTURES.index(architecture(world.machine))


# --- actions and steps -----------------------------------------------------------------------------------------------

ACTIONS = 1024
"""More actions than any state offers."""
VERB_BITS, PROCESS_BITS, DEVICE_BITS = 5, 3, 2
"""An action code has the verb in its lowest bits, then the process, the device, and `arg`: 14 bits in all."""
PROCESS_LSB, DEVICE_LSB, ARG_LSB = VERB_BITS, VERB_BITS + PROCESS_BITS, VERB_BITS + PROCESS_BITS + DEVICE_BITS
RESULT_BITS = 8
"""A step code has the Result in its lowest byte, then the owner."""
RESULTS, VERBS = len(Result), len(Verb)


@compiled
def action_code(verb: int, process: int, device: int, arg: int) -> int:
    """Return the code of an action."""
    return verb | process << PROCESS_LSB | device << DEVICE_LSB | arg << ARG_LSB


@compiled
def verb_of(code: int) -> int:
    """Return the verb of an action."""
    return code & (1 << VERB_BITS) - 1


@compiled
def process_of(code: int) -> int:
    """Return the process of an action."""
    return code >> PROCESS_LSB & (1 << PROCESS_BITS) - 1


@compiled
def device_of(code: int) -> int:
    """Return the device of an action."""
    return code >> DEVICE_LSB & (1 << DEVICE_BITS) - 1


@compiled
def arg_of(code: int) -> int:
    """Return the argument of an action."""
    return code >> ARG_LSB


@compiled
def step_code(result: int, owner: int) -> int:
    """Return the code of what an action led to."""
    return result | owner << RESULT_BITS


def action_of(code: int) -> Action:
    """Return the action that has a code."""
    process = code >> PROCESS_LSB & (1 << PROCESS_BITS) - 1
    device = code >> DEVICE_LSB & (1 << DEVICE_BITS) - 1
    return Action(Verb(code & (1 << VERB_BITS) - 1), process, device, code >> ARG_LSB)


def step_of(action: int, step: int) -> Step:
    """Return the step that an action code and a step code stand for."""
    return Step(action_of(action), Result(step & (1 << RESULT_BITS) - 1), step >> RESULT_BITS)


# --- between State and record ----------------------------------------------------------------------------------------


def _offsets(layout: np.dtype[np.void]) -> dict[str, int]:
    """Return where each field begins, in bytes."""
    fields = layout.fields
    assert fields is not None
    return {name: int(place[1]) for name, place in fields.items()}


PROCESS_AT, STATE_AT = _offsets(PROCESS), _offsets(STATE)


def encode(state: State) -> Records:
    """Return the record of a state, alone in its array."""
    made = np.zeros(1, STATE)
    record = made[0]
    for name in ("module", "attached", "armed"):
        values = getattr(state, name)
        record[name][: len(values)] = values
    for index, process in enumerate(state.processes):
        _encode_process(process, record["process"][index])
    return made


def _encode_process(process: ProcessState, record: Any) -> None:
    tasks = process.tasks
    record["task_alive"] = sum(task.alive << place for place, task in enumerate(tasks))
    record["task_activated"] = sum(task.activated << place for place, task in enumerate(tasks))
    record["register"][: len(tasks)] = [task.register for task in tasks]
    for name in ("number", "mode", "bound"):
        record[name] = getattr(process, name)
    record["order"][: len(process.order)] = [device + 1 for device in process.order]
    record["window"] = process.window
    for name in ON_DEVICE:
        record[name][: len(process.on)] = [getattr(on, name) for on in process.on]


def decode(record: Any, world: World) -> State:
    """Return the state that a record of STATE stands for."""
    raw, devices = bytes(record.tobytes()), len(world.devices)
    at, size = STATE_AT["process"], PROCESS.itemsize
    pieces = (raw[at + size * index : at + size * (index + 1)] for index in range(len(world.processes)))
    return State(
        tuple(
            _decode_process(piece, len(tasks), devices) for piece, tasks in zip(pieces, world.processes, strict=True)
        ),
        tuple(raw[STATE_AT["module"] :][:devices]),
        tuple(raw[STATE_AT["attached"] :][:devices]),
        tuple(map(bool, raw[STATE_AT["armed"] :][:devices])),
    )


def _decode_process(raw: bytes, tasks: int, devices: int) -> ProcessState:
    alive, activated, register = (raw[PROCESS_AT[name] :] for name in ("task_alive", "task_activated", "register"))
    steps, device, number = raw[PROCESS_AT["window"] :][:3]
    return ProcessState(
        tuple(
            TaskState(bool(alive[0] >> one & 1), register[one], bool(activated[0] >> one & 1)) for one in range(tasks)
        ),
        raw[PROCESS_AT["number"]],
        raw[PROCESS_AT["mode"]],
        bool(raw[PROCESS_AT["bound"]]),
        tuple(device - 1 for device in raw[PROCESS_AT["order"] :][:MAX_DEVICES] if device),
        (steps, device, number),
        tuple(_decode_device(raw[PROCESS_AT[ON_DEVICE[0]] + device :]) for device in range(devices)),
    )


def _decode_device(raw: bytes) -> OnDevice:
    """Return what a process has on one device, whose values lie MAX_DEVICES bytes apart."""
    on = OnDevice(*raw[: MAX_DEVICES * len(ON_DEVICE) : MAX_DEVICES])
    return on._replace(marked=bool(on.marked), portal=bool(on.portal))

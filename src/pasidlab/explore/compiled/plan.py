"""How the states of a world are packed: which bits each value has, and what may be exchanged by symmetry.

Decided here: a value has the same bits for every device and process, those of the largest number of the world; a
value that a world cannot have, since no action leads to it, has none. `packing` checks that no other bits are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pasidlab.explore.action import BINDS, Verb
from pasidlab.explore.compiled.layout import ON_DEVICE, PROCESS, PROCESS_AT, STATE, STATE_AT, Records
from pasidlab.explore.state import LOCAL, MAX_DEVICES, MAX_PROCESSES, Classes, device_orders
from pasidlab.explore.world import World
from pasidlab.hw.batch.numbers import Words

_ORDERS = 24
"""Permutations of MAX_DEVICES devices."""
_ROWS = 16
"""More bytes than any piece is put together from."""
_STARTS = frozenset((Verb.SUBMIT, Verb.FORGE))


class Plan:
    """How the states of a world are packed; see `packing` for the pieces.

    A row says where a byte of a record goes: its place (from the record's begin for devices, else from the process's;
    that of the first device), how many of its low bits are always 0, its lowest bit in the piece, the mask of what is
    kept.

    Attributes:
        processes, devices: how many there are.
        tasks: of each process.
        words: 64-bit words of a packed state.
        lanes: 64-bit lanes of a record that the world uses.
        allowed: by lane, the bits that have a place.
        device_bits, head_bits, cell_bits: widths of the pieces; a head's with its places.
        places_at: where the places of a head begin.
        task_bits: width of a task, which the lowest bits of a head hold: alive, activated, register.
        device_row, head_row, places_row, cell_row: the rows of each piece; `..._rows`, how many.
        sorts_tasks: the tasks of a process are interchangeable.
        process_class, device_class: of each; those of a class stand together.
        orders: how many permutations of the devices there are.
        order: of each, the old index of a device by its new one.
        place: of each, the new number of a device by its old one, both counted from 1; 0 for none.
    """

    processes: int
    devices: int
    tasks: Words
    words: int
    lanes: int
    allowed: Words
    device_bits: int
    head_bits: int
    cell_bits: int
    places_at: int
    task_bits: int
    device_rows: int
    device_row: Words
    head_rows: int
    head_row: Words
    places_rows: int
    places_row: Words
    cell_rows: int
    cell_row: Words
    sorts_tasks: int
    process_class: Words
    device_class: Words
    orders: int
    order: Words
    place: Words


_SHAPES: dict[str, tuple[int, ...]] = {
    "tasks": (MAX_PROCESSES,),
    "allowed": (STATE.itemsize // 8,),
    "device_row": (_ROWS, 4),
    "head_row": (_ROWS, 4),
    "places_row": (_ROWS, 4),
    "cell_row": (_ROWS, 4),
    "process_class": (MAX_PROCESSES,),
    "device_class": (MAX_DEVICES,),
    "order": (_ORDERS, MAX_DEVICES),
    "place": (_ORDERS, MAX_DEVICES + 1),
}
PLAN = np.dtype([(name, np.int64, _SHAPES.get(name, ())) for name in Plan.__annotations__])


class Value(NamedTuple):
    """A value of a state: the byte that holds it, how many bits it has there, and how many below are always 0."""

    at: int
    width: int
    drop: int = 0

    @property
    def mask(self) -> int:
        """The bits of the byte that may be set."""
        return (1 << self.width) - 1 << self.drop


def plan_of(world: World, scheme: str, *, symmetry: bool) -> Records:
    """Return the Plan of a world under a scheme, alone in its array; without symmetry nothing is exchanged."""
    made = np.zeros(1, PLAN)
    plan, widths = made[0], _Widths(world, scheme)
    sizes = [len(tasks) for tasks in world.processes]
    _exchange(plan, world.classes if symmetry else _distinct(len(sizes), len(world.devices)))
    plan["processes"], plan["devices"], plan["sorts_tasks"] = len(sizes), len(world.devices), symmetry
    plan["tasks"][: len(sizes)] = sizes
    plan["task_bits"] = widths.task
    plan["device_bits"] = _rows(plan, "device", widths.device(), 0)
    plan["places_at"] = _rows(plan, "head", widths.head(), max(sizes) * widths.task)
    plan["head_bits"] = _rows(plan, "places", widths.places(), int(plan["places_at"]))
    plan["cell_bits"] = _rows(plan, "cell", widths.cell(), 0)
    of_process = int(plan["head_bits"] + plan["devices"] * plan["cell_bits"])
    bits = int(plan["devices"] * plan["device_bits"]) + of_process * len(sizes)
    plan["words"] = max(1, -(-bits // 64))
    plan["lanes"] = (STATE_AT["process"] + len(sizes) * PROCESS.itemsize) // 8
    plan["allowed"] = _allowed(world, widths)
    return made


def _distinct(processes: int, devices: int) -> Classes:
    return Classes(tuple(range(processes)), tuple(range(devices)))


def _exchange(plan: Any, classes: Classes) -> None:
    """Fill in what may be exchanged."""
    plan["process_class"][: len(classes.processes)] = classes.processes
    plan["device_class"][: len(classes.devices)] = classes.devices
    orders = device_orders(classes.devices)
    plan["orders"] = len(orders)
    for row, order in enumerate(orders):
        plan["order"][row][: len(order)] = order
        for new, old in enumerate(order):
            plan["place"][row][old + 1] = new + 1


def _rows(plan: Any, piece: str, values: list[Value], first: int) -> int:
    """Fill in the rows of a piece that begins at bit `first`; returns the bit behind it."""
    kept = [value for value in values if value.width]
    plan[f"{piece}_rows"] = len(kept)
    for row, value in zip(plan[f"{piece}_row"], kept, strict=False):
        row[:] = value.at, value.drop, first, (1 << value.width) - 1
        first += value.width
    return first


class _Widths:
    """How many bits each value of a world has under a scheme."""

    def __init__(self, world: World, scheme: str) -> None:
        self.world, self.scheme, self.verbs = world, scheme, world.verbs
        self.numbers = world.numbers
        self.number = world.numbers.bit_length()
        self.place = len(world.devices).bit_length()
        self.binds = not self.verbs.isdisjoint(BINDS)
        self.works = bool(self.verbs & _STARTS)
        self.windows = world.teardown.windows and bool(self.verbs & {Verb.UNBIND, Verb.EXIT})
        self.registers = self.binds and any(device.portal for device in world.devices)
        self.task = 2 + self.number * self.registers

    def device(self) -> list[Value]:
        """Return what the machine holds of the first device."""
        number = self.number * (Verb.ALLOC_GLOBAL in self.verbs)
        mask = self.numbers * (Verb.ATTACH in self.verbs)
        armed = int(Verb.FAIL_NEXT in self.verbs)
        return [
            Value(STATE_AT["module"], number),
            Value(STATE_AT["attached"], mask, 1),
            Value(STATE_AT["armed"], armed),
        ]

    def head(self) -> list[Value]:
        """Return what a process has beside its tasks and what names devices."""
        steps = (len(self.world.teardown.iommu) - 1).bit_length() * self.windows
        return [
            Value(PROCESS_AT["number"], self.number * self.binds),
            Value(PROCESS_AT["mode"], 2 * (self.scheme == "v2")),
            Value(PROCESS_AT["bound"], int(self.binds)),
            Value(PROCESS_AT["window"], steps),
            Value(PROCESS_AT["window"] + 2, self.number * self.windows),
        ]

    def places(self) -> list[Value]:
        """Return what names devices."""
        order = [PROCESS_AT["order"] + place for place in range(len(self.world.devices))]
        bonds = [Value(at, self.place * (self.scheme == "rfc")) for at in order]
        return [*bonds, Value(PROCESS_AT["window"] + 1, self.place * self.windows)]

    def cell(self) -> list[Value]:
        """Return what a process has on the first device."""
        found = self._of_calls() | self._of_work()
        return [Value(PROCESS_AT[name], found[name], int(name in _MASKS)) for name in ON_DEVICE]

    def _of_calls(self) -> dict[str, int]:
        teardown = self.world.teardown
        unbinds = Verb.UNBIND in self.verbs and (self.windows or len(teardown.driver) > 1)
        return {
            "opened": self.number * (Verb.BIND in self.verbs),
            "normal": self.number * (Verb.BIND_DEVICE in self.verbs),
            "local": self.numbers * (Verb.BIND_DEVICE_PASID in self.verbs),
            "marked": int(self.scheme == "hybrid"),
            "entry": self.numbers * self.binds,
            "portal": int(Verb.MMAP_PORTAL in self.verbs),
            "closing": (LOCAL + self.numbers).bit_length() * unbinds,
            "closing_number": self.number * unbinds,
            "phase": (len(teardown.driver) - 1).bit_length() * unbinds,
        }

    def _of_work(self) -> dict[str, int]:
        lines = self.numbers * (self.binds and self.works)
        return {
            "iotlb": lines,
            "atc": lines * any(device.ats for device in self.world.devices),
            "job": self.number * self.works,
            "asked": self.number * (Verb.ASK in self.verbs),
        }


_MASKS = frozenset(("local", "entry", "iotlb", "atc"))
"""Masks of numbers, whose bit 0 is never set."""


def _allowed(world: World, widths: _Widths) -> Words:
    """Return which bits of a record have a place, by lane."""
    allowed = np.zeros(STATE.itemsize, np.uint8)
    for at, mask in _bytes(world, widths):
        allowed[at] |= mask
    lanes: Words = allowed.view(np.int64)
    return lanes


def _bytes(world: World, widths: _Widths) -> Iterator[tuple[int, int]]:
    """Yield the place of every byte that a world uses, and its mask."""
    devices = range(len(world.devices))
    yield from ((value.at + device, value.mask) for value in widths.device() for device in devices)
    for index, names in enumerate(world.processes):
        base = STATE_AT["process"] + index * PROCESS.itemsize
        tasks = (1 << len(names)) - 1
        yield from ((base + PROCESS_AT[name], tasks) for name in ("task_alive", "task_activated"))
        registers = (1 << widths.number * widths.registers) - 1
        yield from ((base + PROCESS_AT["register"] + task, registers) for task in range(len(names)))
        yield from ((base + value.at, value.mask) for value in (*widths.head(), *widths.places()))
        yield from ((base + value.at + device, value.mask) for value in widths.cell() for device in devices)

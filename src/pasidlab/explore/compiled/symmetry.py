"""Compiled: the packed form that all states share which differ by interchangeable names only.

For each order of the devices that only exchanges those of one class, the processes are sorted within their classes by
their pieces; the smallest result is packed. `packing` has sorted the tasks.

Decided here: most orders are never looked at. A number is made of what is held and done on each device, such that
renaming processes, or other devices, does not change it; only orders in which these numbers rise within each class
count. Two devices whose numbers are equal by chance cost time, and nothing else. The representative that this leads to
is not that of `state.canonical`, but two states share it just when they share that.
"""

from __future__ import annotations

import numpy as np

from pasidlab.explore.compiled.packing import Pieces, put
from pasidlab.explore.compiled.plan import Plan
from pasidlab.explore.state import MAX_DEVICES, MAX_PROCESSES
from pasidlab.hw.batch.compiling import compiled, compiled_once
from pasidlab.hw.batch.numbers import Words

_MIX = 0x2545F4914F6CDD1D
"""An odd number with bits everywhere."""


class Arrangement:
    """One way to name the parts of a state, and its state.

    Attributes:
        order: which row of `Plan.order` the devices stand in.
        head: of each process, by its old index, with its places.
        rank: the old index of each process by its new one.
    """

    order: int
    head: Words
    rank: Words


ARRANGEMENT = np.dtype(
    [("order", np.int64), ("head", np.int64, (MAX_PROCESSES,)), ("rank", np.int64, (MAX_PROCESSES,))]
)


class Room:
    """What the search for the smallest arrangement works on: two of them, and the number of each device."""

    best: Arrangement
    other: Arrangement
    mark: Words


ROOM = np.dtype([("best", ARRANGEMENT), ("other", ARRANGEMENT), ("mark", np.int64, (MAX_DEVICES,))])


@compiled_once
def pack(plan: Plan, pieces: Pieces, room: Room, out: Words) -> None:
    """Write the words of a state's representative."""
    best, other = room.best, room.other
    if plan.orders == 1:
        arrange(plan, pieces, best, 0)
        write(plan, pieces, best, out)
        return
    mark_devices(plan, pieces, room.mark)
    none = True
    for order in range(plan.orders):
        if not rises(plan, room.mark, order):
            continue
        if none:
            arrange(plan, pieces, best, order)
            none = False
            continue
        arrange(plan, pieces, other, order)
        if is_less(plan, pieces, other, best):
            best, other = other, best
    write(plan, pieces, best, out)


# --- devices ---------------------------------------------------------------------------------------------------------


@compiled
def mark_devices(plan: Plan, pieces: Pieces, mark: Words) -> None:
    """Make a number for each device that no renaming of anything else changes."""
    for device in range(plan.devices):
        mark[device] = pieces.device[device]
    for process in range(plan.processes):
        seed = (pieces.head[process] ^ plan.process_class[process] << 48) * _MIX
        for device in range(plan.devices):
            mixed = (pieces.cell[process, device] ^ seed) * _MIX
            mark[device] += (mixed ^ mixed >> 29) * _MIX


@compiled
def rises(plan: Plan, mark: Words, order: int) -> bool:
    """Whether the numbers of the devices of each class rise in an order."""
    last = plan.order[order, 0]
    for index in range(1, plan.devices):
        device = plan.order[order, index]
        if plan.device_class[device] == plan.device_class[last] and mark[device] < mark[last]:
            return False
        last = device
    return True


# --- processes -------------------------------------------------------------------------------------------------------


@compiled
def arrange(plan: Plan, pieces: Pieces, made: Arrangement, order: int) -> None:
    """Sort the processes within their classes, the devices standing in an order."""
    made.order = order
    for process in range(plan.processes):
        places = pieces.places[process]
        if places and order:
            places = move(plan, places, order)
        made.head[process] = pieces.head[process] | places
        place = process
        while place and goes_before(plan, pieces, made, process, made.rank[place - 1]):
            made.rank[place] = made.rank[place - 1]
            place -= 1
        made.rank[place] = process


@compiled
def move(plan: Plan, places: int, order: int) -> int:
    """Return places with the devices' new numbers."""
    moved = 0
    for index in range(plan.places_rows):
        shift, mask = plan.places_row[index, 2], plan.places_row[index, 3]
        moved |= plan.place[order, places >> shift & mask] << shift
    return moved


@compiled
def goes_before(plan: Plan, pieces: Pieces, made: Arrangement, one: int, other: int) -> bool:
    """Whether a process stands before another one of its class."""
    if plan.process_class[one] != plan.process_class[other]:
        return False
    difference: int = made.head[one] - made.head[other]
    index = 0
    while difference == 0 and index < plan.devices:
        device = plan.order[made.order, index]
        difference = pieces.cell[one, device] - pieces.cell[other, device]
        index += 1
    return difference < 0


# --- arrangements ----------------------------------------------------------------------------------------------------


@compiled_once
def is_less(plan: Plan, pieces: Pieces, one: Arrangement, other: Arrangement) -> bool:
    """Whether an arrangement is smaller than another one of the same state."""
    difference = 0
    for index in range(plan.devices):
        if difference == 0:
            held = pieces.device[plan.order[one.order, index]]
            difference = held - pieces.device[plan.order[other.order, index]]
    for index in range(plan.processes):
        if difference == 0:
            difference = compare(plan, pieces, one, other, index)
    return difference < 0


@compiled
def compare(plan: Plan, pieces: Pieces, one: Arrangement, other: Arrangement, index: int) -> int:
    """Return a number below 0 if a process is smaller in the one arrangement, 0 if it is the same."""
    mine, its = one.rank[index], other.rank[index]
    difference: int = one.head[mine] - other.head[its]
    for place in range(plan.devices):
        if difference == 0:
            cell = pieces.cell[mine, plan.order[one.order, place]]
            difference = cell - pieces.cell[its, plan.order[other.order, place]]
    return difference


@compiled_once
def write(plan: Plan, pieces: Pieces, made: Arrangement, out: Words) -> None:
    """Pack an arrangement."""
    for word in range(plan.words):
        out[word] = 0
    at = 0
    for index in range(plan.devices):
        at = put(out, at, pieces.device[plan.order[made.order, index]], plan.device_bits)
    for index in range(plan.processes):
        process = made.rank[index]
        at = put(out, at, made.head[process], plan.head_bits)
        for place in range(plan.devices):
            at = put(out, at, pieces.cell[process, plan.order[made.order, place]], plan.cell_bits)

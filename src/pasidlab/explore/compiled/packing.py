"""Compiled: states as few 64-bit words, and both ways between a record and its words.

A state is cut into pieces, each less than 2^63: for each device what the machine holds of it; for each process its
head (tasks, number, mode) and its cell on each device. Packed, the pieces stand one behind the other, lowest bit
first: all devices, then each process with its head and its cells. Symmetry only exchanges pieces, and what a head
says of devices, which therefore is a part of its own (`places`) until it is packed.

That the bits are enough is not believed but checked: `Pieces.beyond` gathers every bit that has no place in the
`Plan`, and a search that ends with any is an error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pasidlab.explore.compiled.layout import PROCESS, PROCESS_AT, STATE, STATE_AT, Records
from pasidlab.explore.compiled.plan import Plan
from pasidlab.explore.state import MAX_DEVICES, MAX_PROCESSES
from pasidlab.hw.batch.compiling import compiled, compiled_once
from pasidlab.hw.batch.numbers import Words

Bytes = npt.NDArray[np.uint8]
WORD, LANE = 64, 8
"""Bits of a word, bytes of a lane."""
LANES, FIRST_LANE, PROCESS_LANES = (size // LANE for size in (STATE.itemsize, STATE_AT["process"], PROCESS.itemsize))
"""64-bit lanes of a record: of the whole, of what stands before the processes, of a process."""
_FIRST, _SIZE = STATE_AT["process"], PROCESS.itemsize
_ALIVE, _ACTIVATED, _REGISTER = (PROCESS_AT[name] for name in ("task_alive", "task_activated", "register"))
_AT, _DROP, _SHIFT, _MASK = range(4)
"""Columns of a row of `Plan`."""


class Pieces:
    """The pieces of a state.

    Attributes:
        device: of each device.
        head: of each process, without its places.
        places: of each process, numbers of devices from 1, as its head will have them.
        cell: of each process and device.
        beyond: bits that had no place, of all states so far.
    """

    device: Words
    head: Words
    places: Words
    cell: Words
    beyond: int


PIECES = np.dtype(
    [
        ("device", "i8", (MAX_DEVICES,)),
        ("head", "i8", (MAX_PROCESSES,)),
        ("places", "i8", (MAX_PROCESSES,)),
        ("cell", "i8", (MAX_PROCESSES, MAX_DEVICES)),
        ("beyond", "i8"),
    ]
)


def lanes_of(states: Records) -> Words:
    """Return the same memory as 64-bit lanes, a row for each state."""
    return states.view(np.int64).reshape(-1, LANES)


def bytes_of(states: Records) -> Bytes:
    """Return the same memory as bytes, a row for each state."""
    return states.view(np.uint8).reshape(-1, STATE.itemsize)


@compiled
def copy(source: Bytes, target: Bytes) -> None:
    """Copy bytes."""
    for index in range(target.size):
        target[index] = source[index]


# --- from a record to pieces -----------------------------------------------------------------------------------------


@compiled_once
def cut(plan: Plan, lanes: Words, raw: Bytes, pieces: Pieces) -> None:
    """Cut a state into pieces; `lanes` and `raw` are its record, as 64-bit lanes and as bytes."""
    for lane in range(plan.lanes):
        pieces.beyond |= lanes[lane] & ~plan.allowed[lane]
    cut_devices(plan, raw, pieces)
    for process in range(plan.processes):
        cut_process(plan, raw, pieces, process)


@compiled_once
def cut_changed(plan: Plan, before: Words, lanes: Words, raw: Bytes, old: Pieces, pieces: Pieces) -> bool:
    """Cut a state that came from one whose pieces are known, and say whether it differs from that.

    `before` and `lanes` are the records as 64-bit lanes.
    """
    changed = False
    if differs(before, lanes, 0, FIRST_LANE):
        changed = True
        cut_devices(plan, raw, pieces)
        check(plan, lanes, pieces, 0, FIRST_LANE)
    else:
        for device in range(plan.devices):
            pieces.device[device] = old.device[device]
    for process in range(plan.processes):
        first = FIRST_LANE + process * PROCESS_LANES
        if differs(before, lanes, first, PROCESS_LANES):
            changed = True
            cut_process(plan, raw, pieces, process)
            check(plan, lanes, pieces, first, PROCESS_LANES)
        else:
            copy_process(plan, old, pieces, process)
    return changed


@compiled
def differs(before: Words, after: Words, first: int, lanes: int) -> bool:
    """Whether a run of lanes is not the same."""
    difference = 0
    for lane in range(first, first + lanes):
        difference |= before[lane] ^ after[lane]
    return difference != 0


@compiled
def check(plan: Plan, lanes: Words, pieces: Pieces, first: int, count: int) -> None:
    """Gather what has no place."""
    beyond = 0
    for lane in range(first, first + count):
        beyond |= lanes[lane] & ~plan.allowed[lane]
    pieces.beyond |= beyond


@compiled
def copy_process(plan: Plan, old: Pieces, pieces: Pieces, process: int) -> None:
    """Take over the pieces of a process."""
    pieces.head[process] = old.head[process]
    pieces.places[process] = old.places[process]
    for device in range(plan.devices):
        pieces.cell[process, device] = old.cell[process, device]


@compiled
def cut_devices(plan: Plan, raw: Bytes, pieces: Pieces) -> None:
    """Cut what the machine holds of devices."""
    for device in range(plan.devices):
        pieces.device[device] = gather(raw, device, plan.device_row, plan.device_rows)


@compiled
def cut_process(plan: Plan, raw: Bytes, pieces: Pieces, process: int) -> None:
    """Cut one process."""
    base = _FIRST + process * _SIZE
    pieces.head[process] = gather(raw, base, plan.head_row, plan.head_rows) | cut_tasks(plan, raw, base, process)
    pieces.places[process] = gather(raw, base, plan.places_row, plan.places_rows)
    for device in range(plan.devices):
        pieces.cell[process, device] = gather(raw, base + device, plan.cell_row, plan.cell_rows)


@compiled
def gather(raw: Bytes, base: int, row: Words, rows: int) -> int:
    """Put the bytes of some rows into one piece."""
    piece = 0
    for index in range(rows):
        piece |= (raw[base + row[index, _AT]] >> row[index, _DROP]) << row[index, _SHIFT]
    return piece


@compiled
def cut_tasks(plan: Plan, raw: Bytes, base: int, process: int) -> int:
    """Return a head's tasks, the largest first where they are interchangeable."""
    alive, activated = raw[base + _ALIVE], raw[base + _ACTIVATED]
    tasks, width = 0, plan.task_bits
    for index in range(plan.tasks[process]):
        task = alive >> index & 1 | (activated >> index & 1) << 1 | raw[base + _REGISTER + index] << 2
        tasks = insert_task(tasks, task, index, width) if plan.sorts_tasks else tasks | task << index * width
    return tasks


@compiled
def insert_task(tasks: int, task: int, count: int, width: int) -> int:
    """Return `count` tasks in falling order, with one more in its place among them."""
    place = count
    while place and (tasks >> (place - 1) * width & (1 << width) - 1) < task:
        place -= 1
    below = tasks & (1 << place * width) - 1
    return below | task << place * width | tasks >> place * width << (place + 1) * width


# --- from pieces to words --------------------------------------------------------------------------------------------


@compiled
def put(out: Words, at: int, value: int, width: int) -> int:
    """Append a piece of so many bits at bit `at` of words that are zero from there on; returns where the next goes."""
    word, used = at >> 6, at & WORD - 1
    out[word] |= value << used
    if used + width > WORD:
        out[word + 1] = value >> WORD - used
    return at + width


@compiled
def take(words: Words, at: int, width: int) -> int:
    """Return the piece of so many bits at bit `at`."""
    word, used = at >> 6, at & WORD - 1
    value = words[word] >> used
    if used + width > WORD:
        value = value & (1 << WORD - used) - 1 | words[word + 1] << WORD - used
    piece: int = value & (1 << width) - 1
    return piece


# --- from words to a record ------------------------------------------------------------------------------------------


@compiled_once
def unpack(plan: Plan, words: Words, raw: Bytes, pieces: Pieces) -> None:
    """Fill in the pieces of a packed state, and its record, as bytes."""
    for index in range(plan.lanes * LANE):
        raw[index] = 0
    at = 0
    for device in range(plan.devices):
        pieces.device[device] = take(words, at, plan.device_bits)
        scatter(pieces.device[device], raw, device, plan.device_row, plan.device_rows)
        at += plan.device_bits
    for process in range(plan.processes):
        head = take(words, at, plan.head_bits)
        pieces.places[process] = head >> plan.places_at << plan.places_at
        pieces.head[process] = head ^ pieces.places[process]
        fill_head(plan, head, raw, process)
        at += plan.head_bits
        for device in range(plan.devices):
            pieces.cell[process, device] = take(words, at, plan.cell_bits)
            base = _FIRST + process * _SIZE + device
            scatter(pieces.cell[process, device], raw, base, plan.cell_row, plan.cell_rows)
            at += plan.cell_bits


@compiled
def fill_head(plan: Plan, head: int, raw: Bytes, process: int) -> None:
    """Fill in what a process has beside its cells."""
    base = _FIRST + process * _SIZE
    scatter(head, raw, base, plan.head_row, plan.head_rows)
    scatter(head, raw, base, plan.places_row, plan.places_rows)
    for index in range(plan.tasks[process]):
        task = head >> index * plan.task_bits & (1 << plan.task_bits) - 1
        raw[base + _ALIVE] |= (task & 1) << index
        raw[base + _ACTIVATED] |= (task >> 1 & 1) << index
        raw[base + _REGISTER + index] = task >> 2


@compiled
def scatter(piece: int, raw: Bytes, base: int, row: Words, rows: int) -> None:
    """Fill in the bytes of some rows from their piece."""
    for index in range(rows):
        raw[base + row[index, _AT]] = (piece >> row[index, _SHIFT] & row[index, _MASK]) << row[index, _DROP]

"""A breadth-first search of the abstract machine as one writes it by hand in Python: tuples, a set, a list per level.

It knows `mainline` and `hybrid` and shares no code with the searches of the project. What follows from the rest is not
kept: here a process has one kind of handle, so that its entry in a table is a number and not a mask, and whether a
normal bind has succeeded shows in its number.

    process = (tasks, number, window, what it has on device 0, on device 1, ...)

A task is the number in its register, 0 for none and -1 when it has exited. A window is (steps done, device from 1 on,
number), device 0 being the end of the address space, or (). What differs only by the names of processes, tasks or
devices of one kind is one state: tasks and processes are sorted, for each order of the devices, and the least counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from operator import itemgetter
from typing import Any, NamedTuple

from benchmarks.peers.sizes import Sizes

State = tuple[Any, ...]
Process = tuple[Any, ...]
OnDevice = tuple[int, ...]

TASKS, NUMBER, WINDOW, DEVICES = range(4)
"""Places in a process; DEVICES is that of device 0."""
OPENED, ENTRY, IOTLB, ATC, PORTAL, CLOSING, PHASE, JOB, ASKED = range(9)
"""Places in what a process has on a device. OPENED to JOB and ASKED are numbers, IOTLB and ATC masks of numbers."""
NOTHING: OnDevice = (0,) * 9
DEAD = -1


class Counts(NamedTuple):
    """What a search found; `broken` names the properties that do not hold."""

    states: int
    transitions: int
    depth: int
    broken: frozenset[str]


def search(sizes: Sizes) -> Counts:
    """Search everything that can be reached."""
    machine = Machine(sizes)
    start = machine.canonical(machine.start())
    seen, level = {start}, [start]
    transitions = depth = 0
    while level:
        following = []
        for state in level:
            for after in machine.successors(state):
                transitions += 1
                if after is state:
                    continue
                after = machine.canonical(after)
                if after not in seen:
                    seen.add(after)
                    following.append(after)
                    machine.judge(after)
        depth += bool(following)
        level = following
    return Counts(len(seen), transitions, depth, frozenset(machine.broken))


class Machine:
    """The transitions. Each returns the state after it, the very same one when nothing changed."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.devices = range(len(sizes.devices))
        self.table = sizes.iommu.index("table")
        self.broken: set[str] = set()
        orders = _orders(sizes.device_classes)
        self.movers = [(order, itemgetter(*range(DEVICES), *(DEVICES + old for old in order))) for order in orders]
        self.one_class = len(set(sizes.process_classes)) == 1

    def start(self) -> State:
        """Return the state in which nothing has happened."""
        return tuple(((0,) * tasks, 0, (), *(NOTHING,) * len(self.devices)) for tasks in self.sizes.tasks)

    # --- symmetry ----------------------------------------------------------------------------------------------

    def canonical(self, state: State) -> State:
        """Return the least of the states that differ from this one by names."""
        if len(self.movers) == 1:
            return self._sorted(state)
        return min(self._sorted(self._moved(state, *mover)) for mover in self.movers)

    def _moved(self, state: State, order: tuple[int, ...], mover: itemgetter[Any]) -> State:
        moved = []
        for process in state:
            window = process[WINDOW]
            process = mover(process)
            if window and window[1]:
                process = put(process, WINDOW, (window[0], order.index(window[1] - 1) + 1, window[2]))
            moved.append(process)
        return tuple(moved)

    def _sorted(self, state: State) -> State:
        if self.one_class:
            return tuple(sorted(state))
        classes = self.sizes.process_classes
        members = sorted(zip(classes, state, strict=True))
        return tuple(process for _, process in members)

    # --- what can happen ---------------------------------------------------------------------------------------

    def successors(self, state: State) -> Iterator[State]:
        """Yield the state after each action."""
        halted = next((p for p, process in enumerate(state) if process[WINDOW]), None)
        for p, process in enumerate(state):
            tasks = process[TASKS]
            alive = sum(task != DEAD for task in tasks)
            for d in self.devices:
                if halted is None:
                    yield from self._calls(state, p, d, alive > 0)
                yield from self._work(state, p, d, alive > (halted == p))
            if halted is None and "exit" in self.sizes.actions:
                yield from (self._exit(state, p, task) for task in tasks if task != DEAD)
        if halted is not None:
            yield self._resume(state, halted)

    def _calls(self, state: State, p: int, d: int, alive: bool) -> Iterator[State]:
        on, device, actions = state[p][DEVICES + d], self.sizes.devices[d], self.sizes.actions
        if alive and not on[CLOSING] and not on[OPENED] and "bind" in actions:
            yield self._bind(state, p, d)
        if "unbind" in actions and (on[CLOSING] or on[OPENED]):
            yield self._unbind(state, p, d)
        if alive and on[OPENED] and not on[CLOSING] and device.portal and not on[PORTAL] and "mmap_portal" in actions:
            barred = self.sizes.guard and device.own_numbers
            yield state if barred else change(state, p, d, on, PORTAL, 1)

    def _work(self, state: State, p: int, d: int, alive: bool) -> Iterator[State]:
        on, actions = state[p][DEVICES + d], self.sizes.actions
        if on[ASKED]:
            yield self._answer(state, p, d)
        elif on[JOB]:
            yield self._complete(state, p, d)
            if "page_request" in actions:
                yield change(state, p, d, on, ASKED, on[JOB])
        elif alive and "submit" in actions:
            if on[PORTAL]:
                yield from (self._submit(state, p, d, t) for t, task in enumerate(state[p][TASKS]) if task != DEAD)
            elif (
                on[OPENED]
                and not on[CLOSING]
                and not self.sizes.devices[d].portal
                and state[p][WINDOW][1:2] != (d + 1,)
            ):
                yield change(state, p, d, on, JOB, on[OPENED])

    # --- the kernel's calls ------------------------------------------------------------------------------------

    def _bind(self, state: State, p: int, d: int) -> State:
        process, device, place = state[p], self.sizes.devices[d], DEVICES + d
        if device.own_numbers:
            number = _lowest_free({other[place][OPENED] for other in state}, device.bound)
        else:
            number = process[NUMBER] or _lowest_free({other[NUMBER] for other in state}, device.bound)
        if not 0 < number < device.bound:
            return state
        self._judge_bind(state, p, d, number)
        on = process[place]
        process = put(process, place, (number, number, *on[IOTLB:]))
        return put(state, p, process if device.own_numbers else put(process, NUMBER, number))

    def _unbind(self, state: State, p: int, d: int) -> State:
        """Do the next step of closing the device; its portal goes with the file, before anything else."""
        sizes, on = self.sizes, state[p][DEVICES + d]
        number, step = on[CLOSING] or on[OPENED], sizes.driver[on[PHASE]]
        if step == "unbind":
            return self._advance(change(state, p, d, on, PORTAL, 0), p, (0, d + 1, number))
        if step == "stop":
            state = self._stop(change(state, p, d, on, PORTAL, 0), d, number)
        else:
            state = self._drain(state, d, number)
        return self._closed_further(state, p, d, number)

    def _stop(self, state: State, d: int, number: int) -> State:
        for p, process in enumerate(state):
            on = process[DEVICES + d]
            if on[JOB] == number:
                state = change(state, p, d, on, JOB, 0)
        return state

    def _drain(self, state: State, d: int, number: int) -> State:
        for p in range(len(state)):
            if state[p][DEVICES + d][ASKED] == number:
                state = self._answer(state, p, d)
        return state

    def _closed_further(self, state: State, p: int, d: int, number: int) -> State:
        """Count a step of closing the device; the last one ends it."""
        on = state[p][DEVICES + d]
        phase = on[PHASE] + 1
        closing = (0, 0) if phase == len(self.sizes.driver) else (number, phase)
        return put(state, p, _settled(put(state[p], DEVICES + d, on[:CLOSING] + closing + on[JOB:])))

    def _exit(self, state: State, p: int, task: int) -> State:
        process = state[p]
        tasks = list(process[TASKS])
        tasks.remove(task)
        tasks = [DEAD, *tasks]
        process = put(process, TASKS, tuple(tasks))
        if tasks[-1] != DEAD:
            return put(state, p, process)
        gone = [(*on[:PORTAL], 0, *on[CLOSING:]) for on in process[DEVICES:]]
        state = put(state, p, process[:DEVICES] + tuple(gone))
        if any(on[OPENED] for on in gone):
            return self._advance(state, p, (0, 0, 0))
        return put(state, p, _settled(state[p]))

    def _resume(self, state: State, p: int) -> State:
        window = state[p][WINDOW]
        return self._advance(put(state, p, put(state[p], WINDOW, ())), p, window)

    def _advance(self, state: State, p: int, window: tuple[int, int, int]) -> State:
        """Do steps of the IOMMU's driver, up to the next window or to the end."""
        done, device, number = window
        steps = self.sizes.iommu
        while done < len(steps):
            state = self._invalidated(state, p, device, number, steps[done])
            done += 1
            if self.sizes.windows and done < len(steps):
                return put(state, p, put(state[p], WINDOW, (done, device, number)))
        if not device:
            return put(state, p, _settled(state[p]))
        on = state[p][DEVICES + device - 1]
        state = change(state, p, device - 1, on, OPENED, 0)
        return self._closed_further(state, p, device - 1, number)

    def _invalidated(self, state: State, p: int, device: int, number: int, step: str) -> State:
        """Do one step: of an entry's end, or, without a device, of the end of an address space."""
        if step == "table":
            return change(state, p, device - 1, state[p][DEVICES + device - 1], ENTRY, 0) if device else state
        place = IOTLB if step == "iotlb" else ATC
        if not device:
            on_all = [put(on, place, 0) for on in state[p][DEVICES:]]
            return put(state, p, state[p][:DEVICES] + tuple(on_all))
        for q, process in enumerate(state):
            on = process[DEVICES + device - 1]
            if on[place] >> number & 1:
                state = change(state, q, device - 1, on, place, on[place] & ~(1 << number))
        return state

    # --- devices and instructions ------------------------------------------------------------------------------

    def _submit(self, state: State, p: int, d: int, t: int) -> State:
        """Let a task write to the portal: its register is loaded the first time."""
        process = state[p]
        register = process[TASKS][t] or process[NUMBER]
        if not register or not self.sizes.carries:
            return state
        if not process[TASKS][t]:
            process = put(process, TASKS, tuple(sorted(put(process[TASKS], t, register))))
        return change(put(state, p, process), p, d, process[DEVICES + d], JOB, register)

    def _complete(self, state: State, p: int, d: int) -> State:
        """Let the device do the work: through its ATC, the IOTLB, or the table."""
        place = DEVICES + d
        number = state[p][place][JOB]
        state = change(state, p, d, state[p][place], JOB, 0)
        for q, process in enumerate(state):
            if process[place][ATC] >> number & 1:
                self._judge_work(p, q, process)
                return state
        for q, process in enumerate(state):
            if process[place][IOTLB] >> number & 1:
                self._judge_work(p, q, process)
                return self._filled(state, q, d, number)
        for q, process in enumerate(state):
            if process[place][ENTRY] == number and not self._is_quiet(process):
                self._judge_work(p, q, process)
                return self._filled(state, q, d, number)
        return state

    def _is_quiet(self, process: Process) -> bool:
        """Whether the entries of a process translate no more: from the step `table` of its end on."""
        ending = process[WINDOW] and not process[WINDOW][1]
        return process[TASKS][-1] == DEAD and not (ending and process[WINDOW][0] <= self.table)

    def _filled(self, state: State, q: int, d: int, number: int) -> State:
        """Keep a translation in the IOTLB and, where the device has one, in its ATC."""
        on, bit = state[q][DEVICES + d], 1 << number
        on = put(on, IOTLB, on[IOTLB] | bit)
        return change(state, q, d, on, ATC, on[ATC] | bit) if self.sizes.devices[d].ats else _with(state, q, d, on)

    def _answer(self, state: State, p: int, d: int) -> State:
        """Serve the page request in the address space that is bound at its number; else the work is dropped."""
        place = DEVICES + d
        on = state[p][place]
        for q, process in enumerate(state):
            if process[place][OPENED] == on[ASKED] and process[TASKS][-1] != DEAD:
                if p != q:
                    self.broken.add("page-request-owner")
                return change(state, p, d, on, ASKED, 0)
        return _with(state, p, d, (*on[:JOB], 0, 0))

    # --- properties --------------------------------------------------------------------------------------------

    def _judge_work(self, p: int, q: int, process: Process) -> None:
        """Note work in memory of another process, or of one whose pages are gone, as they are when its end is done."""
        ending = process[WINDOW] and not process[WINDOW][1]
        if p != q or (process[TASKS][-1] == DEAD and not ending):
            self.broken.add("isolation")

    def _judge_bind(self, state: State, p: int, d: int, number: int) -> None:
        """Note a number that is given out while something of another process names it."""
        new = not self.sizes.devices[d].own_numbers and not state[p][NUMBER]
        for q, process in enumerate(state):
            if q == p:
                continue
            if process[DEVICES + d][ENTRY] == number:
                self.broken.add("one-mm-per-number")
            if _named(process[DEVICES + d]) >> number & 1 or (new and _named_elsewhere(process, number)):
                self.broken.add("no-early-reuse")

    def judge(self, state: State) -> None:
        """Note what is wrong with a state."""
        idle = True
        for process in state:
            if process[WINDOW]:
                return
            idle = idle and process[TASKS][-1] == DEAD
            for on in process[DEVICES:]:
                if on[OPENED] != on[ENTRY]:
                    self.broken.add("bond-in-table")
                idle = idle and not on[OPENED] and not on[CLOSING]
        if idle and any(process[NUMBER] or any(on[IOTLB] | on[ATC] for on in process[DEVICES:]) for process in state):
            self.broken.add("no-leak")


def _lowest_free(taken: set[int], bound: int) -> int:
    """Return the lowest number below the bound that is not taken, 0 for none."""
    return next((number for number in range(1, bound) if number not in taken), 0)


def _settled(process: Process) -> Process:
    """Return a process without its number, once its tasks and its bonds are gone."""
    if process[NUMBER] and process[TASKS][-1] == DEAD and not any(on[OPENED] for on in process[DEVICES:]):
        return put(process, NUMBER, 0)
    return process


def _is_ending(process: Process, d: int) -> bool:
    """Return whether a bond of the process on the device is being taken away, in a window."""
    return bool(process[WINDOW]) and process[WINDOW][1] == d + 1


def _named(on: OnDevice) -> int:
    """Return the mask of the numbers that cache lines, work and page requests name; bit 0 stands for none."""
    return on[IOTLB] | on[ATC] | 1 << on[JOB] | 1 << on[ASKED]


def _named_elsewhere(process: Process, number: int) -> bool:
    """Return whether a register names a number, or a device on which the process has no bond there."""
    if number in process[TASKS]:
        return True
    return any(_named(on) >> number & 1 and on[OPENED] != number for on in process[DEVICES:])


def _orders(classes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the orders of devices that exchange those of one class only."""
    every = permutations(range(len(classes)))
    return [order for order in every if all(classes[old] == classes[new] for new, old in enumerate(order))]


def put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    """Return a tuple with another value in one place."""
    return (*values[:place], value, *values[place + 1 :])


def change(state: State, p: int, d: int, on: OnDevice, place: int, value: int) -> State:
    """Return the state with one value of a process on a device changed; `on` is what the process has there."""
    return _with(state, p, d, (*on[:place], value, *on[place + 1 :]))


def _with(state: State, p: int, d: int, on: OnDevice) -> State:
    process = state[p]
    process = (*process[: DEVICES + d], on, *process[DEVICES + d + 1 :])
    return (*state[:p], process, *state[p + 1 :])

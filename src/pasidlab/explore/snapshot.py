"""A machine's state as bytes, and back into the very same objects.

What a machine consists of when it starts, its kernel, drivers, devices, address spaces and tasks, stays the same
objects for good: a snapshot has the values of their attributes, and names the objects by number. To go back is to
unpickle them over what is there, which costs a quarter of making a machine anew. What came later, as bonds and domains,
lies in the snapshot as a whole.

Decided here: what is frozen is shared by all snapshots, and so are structures that nothing changes after assembly
(`_CONSTANT`). Physical memory has few different contents in a search, each of which is kept once.
"""

from __future__ import annotations

import io
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from types import MethodType
from typing import Any

from msgspec import Struct

from pasidlab.assembly import Assembly
from pasidlab.errors import InputError, ModelError
from pasidlab.linux.structs import IommuOps
from pasidlab.machine import Machine
from pasidlab.memory import Memory
from pasidlab.rules import Rule
from pasidlab.schemes import Scheme

_CONSTANT = (Struct, Enum, Rule, IommuOps, Assembly)
_Reduced = tuple[Any, ...]


class Snapshots:
    """The snapshots of one machine, taken from its start on; `memories` has each content of its memory once."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memories: list[bytes] = []
        self._numbers_of_memories: dict[bytes, int] = {}
        self._parts = list(_parts(machine))
        self._numbers = {id(part): number for number, part in enumerate(self._parts)}
        self._changing = [part for part in self._parts if not _is_constant(part)]
        self._reducers: dict[type, Callable[[Any], _Reduced]] = {}
        for part in self._parts:
            self._reducers[type(part)] = self._constant if _is_constant(part) else self._part
        self._reducers[Memory] = self._memory
        self._globals: dict[tuple[str, str], Any] = {
            (__name__, part_of.__name__): self._parts.__getitem__,
            (__name__, put_memory.__name__): self._put_memory,
        }

    def take(self) -> bytes:
        """Return the machine's state; InputError when a scheme keeps what cannot be copied."""
        written = io.BytesIO()
        pickler = pickle.Pickler(written, pickle.HIGHEST_PROTOCOL)
        pickler.dispatch_table = self._reducers
        try:
            pickler.dump(self._changing)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InputError(
                f"scheme {type(self.machine.scheme).__name__}: its state cannot be copied: {error}"
            ) from error
        return written.getvalue()

    def restore(self, snapshot: bytes) -> None:
        """Put the machine back into a state."""
        _Restorer(io.BytesIO(snapshot), self._globals).load()

    def _constant(self, part: Any) -> _Reduced:
        """Name what never changes by its number; what came later is pickled as a whole."""
        number = self._numbers.get(id(part))
        if number is None:
            return part.__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # type: ignore[no-any-return]
        return part_of, (number,)

    def _part(self, part: Any) -> _Reduced:
        """Name a part by its number, with the values of its attributes; what came later is pickled as a whole."""
        number = self._numbers.get(id(part))
        if number is None:
            return part.__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # type: ignore[no-any-return]
        state = part.__getstate__()
        if isinstance(state, tuple) or state is None:
            return part_of, (number,), state
        return part_of, (number,), state, None, None, put_attributes

    def _memory(self, memory: Memory) -> _Reduced:
        """Name the machine's memory, with the number of its content."""
        content = pickle.dumps(memory.__getstate__(), pickle.HIGHEST_PROTOCOL)
        number = self._numbers_of_memories.setdefault(content, len(self.memories))
        if number == len(self.memories):
            self.memories.append(content)
        return part_of, (self._numbers[id(memory)],), number, None, None, put_memory

    def _put_memory(self, memory: Memory, number: int) -> None:
        memory.__setstate__(pickle.loads(self.memories[number]))


class _Restorer(pickle.Unpickler):
    """Finds parts and contents of memory in the snapshots that they belong to."""

    def __init__(self, file: io.BytesIO, known: dict[tuple[str, str], Any]) -> None:
        super().__init__(file)
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, which is looked up once in all snapshots of a machine."""
        found = self._known.get((module, name))
        if found is None:
            found = self._known[module, name] = super().find_class(module, name)
        return found


def part_of(number: int) -> Any:
    """Stand for a part in snapshots, whose `Snapshots` find it."""
    raise ModelError(f"part {number} is of a snapshot that was not restored by those that took it")


def put_memory(memory: Memory, number: int) -> None:
    """Stand for a content of memory in snapshots, whose `Snapshots` have it."""
    raise ModelError(f"memory {number} is of a snapshot that was not restored by those that took it")


def put_attributes(part: Any, attributes: dict[str, Any]) -> None:
    """Let a part have these attributes and no others."""
    part.__dict__.clear()
    part.__dict__.update(attributes)


def _parts(machine: Machine) -> Iterator[Any]:
    """Yield each object of the model, or of a user's scheme, that can be reached from a machine."""
    seen: dict[int, Any] = {}
    pending: list[Any] = [machine]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        pending.extend(_members(one))
        if _is_part(one):
            yield one


def _is_part(one: Any) -> bool:
    of_model = type(one).__module__.partition(".")[0] == __name__.partition(".")[0]
    return not isinstance(one, type) and (of_model or isinstance(one, (Scheme, Enum)))


def _is_constant(part: Any) -> bool:
    parameters = getattr(type(part), "__dataclass_params__", None)
    return isinstance(part, _CONSTANT) or bool(parameters and parameters.frozen)


def _members(one: Any) -> Iterator[Any]:
    """Yield what an object refers to."""
    if isinstance(one, dict):
        yield from one
        yield from one.values()
    elif isinstance(one, (list, tuple, set, frozenset, deque)):
        yield from one
    elif isinstance(one, MethodType):
        yield one.__self__
    elif isinstance(one, partial):
        yield from (one.func, *one.args, *one.keywords.values())
    elif _is_part(one) and not isinstance(one, (Enum, Struct, Rule, Memory)):
        state = one.__getstate__()
        yield from state if isinstance(state, tuple) else (state,)

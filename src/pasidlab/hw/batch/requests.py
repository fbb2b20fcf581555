"""What a batch is asked, checked and spread to one element a request."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pasidlab.hw.batch.numbers import INSTRUCTION, PRIVILEGED, WRITES, Words

Column = npt.NDArray[Any]
ADDRESSES = (0, (1 << 64) - 1)


class Requests(NamedTuple):
    """What is asked: a `pasid` of -1 is a request without; `access` has the bits that `numbers` names."""

    source: Words
    pasid: Words
    address: Words
    access: Words


def integers(name: str, given: npt.ArrayLike, lowest: int, highest: int) -> Column:
    """Check integers; addresses above 2^63 become negative, as compiled code has them."""
    array = _column(name, given, "iu", "integers")
    if array.size and not (lowest <= int(array.min()) and int(array.max()) <= highest):
        raise ValueError(f"{name}: {int(array.min()):#x} to {int(array.max()):#x}, allowed is {lowest} to {highest:#x}")
    return array.view(np.int64) if array.dtype == np.uint64 else array


def flags(name: str, given: npt.ArrayLike) -> Column:
    """Check booleans."""
    return _column(name, given, "b", "booleans").astype(np.uint8)


def _column(name: str, given: npt.ArrayLike, kinds: str, meant: str) -> Column:
    array = np.asarray(given)
    if array.ndim > 1:
        raise ValueError(f"{name}: {array.ndim} dimensions, expected one")
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"{name}: {array.dtype} elements, expected {meant}")
    return array


def requests_of(
    numbers: dict[str, Column], writes: npt.ArrayLike, privileged: npt.ArrayLike, instruction: npt.ArrayLike
) -> Requests:
    """Put requests together from their sources, PASIDs and addresses, by name and in this order, and flags.

    ValueError says which column has another length, or flags that are no booleans.
    """
    given = {"writes": writes, "privileged": privileged, "instruction": instruction}
    bits = {name: flags(name, column) for name, column in given.items()}
    size = _length(numbers | bits)
    access = bits["writes"] * WRITES | bits["privileged"] * PRIVILEGED | bits["instruction"] * INSTRUCTION
    requests = Requests(*(np.empty(size, np.int64) for _ in Requests._fields))
    for room, column in zip(requests, (*numbers.values(), access), strict=True):
        room[:] = column
    return requests


def _length(columns: dict[str, Column]) -> int:
    """Return how many requests there are."""
    lengths = {name: column.size for name, column in columns.items() if column.ndim}
    if len(set(lengths.values())) > 1:
        raise ValueError("different lengths: " + ", ".join(f"{name} {length}" for name, length in lengths.items()))
    return next(iter(lengths.values()), 1)


def empty_columns(names: tuple[str, ...], size: int) -> dict[str, Column]:
    """Return room for outcomes: 64 bits for what is called an address, 8 bits for the rest."""
    return {name: np.zeros(size, np.uint64 if name.endswith("address") else np.uint8) for name in names}

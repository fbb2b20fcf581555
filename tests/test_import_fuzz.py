"""No bytes bring a reader down: what coverage-guided fuzzing kept (`tests/fuzz`), and good files with errors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

MOST_CHANGED = 8192
"""How large a good file is that gets errors; larger ones are cut."""
INTERESTING = [
    b"",
    b"\0",
    b"\xff",
    b"\x7f",
    b"\n",
    b" ",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x01\0\0\0",
    b"9" * 30,
    b"0x",
]


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_was_kept_is_read_or_refused(name: str) -> None:
    inputs = targets.corpus(name)
    assert inputs, f"no corpus: python -m tests.fuzz.readers {name} --keep DIRECTORY"
    for data in inputs:
        targets.run(name, data)


@pytest.mark.parametrize("name", [name for name in targets.TARGETS if targets.seeds(name)])
def test_good_files_are_read(name: str) -> None:
    for data in targets.seeds(name):
        targets.TARGETS[name].run(data)


@st.composite
def wrong(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw a good file with bytes changed, put in or taken out, a part of it twice, or its end cut off."""
    data = bytearray(good[:MOST_CHANGED])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 64))
        match draw(st.sampled_from(["change", "put", "take", "twice", "cut", "bit"])):
            case "change":
                data[at : at + 1] = draw(st.sampled_from(INTERESTING) | st.binary(min_size=1, max_size=8))
            case "put":
                data[at:at] = draw(st.sampled_from(INTERESTING) | st.binary(max_size=16))
            case "take":
                del data[at : at + length]
            case "twice":
                data[at:at] = data[at : at + 8 * length]
            case "cut":
                del data[at:]
            case "bit" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


SEEDS = [
    (name, good)
    for name in targets.TARGETS
    for good in dict.fromkeys(one[:MOST_CHANGED] for one in targets.seeds(name))
]


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_good_files_with_errors_are_read_or_refused(data: st.DataObject) -> None:
    name, good = data.draw(st.sampled_from(SEEDS), label="target")
    targets.run(name, data.draw(wrong(good)))

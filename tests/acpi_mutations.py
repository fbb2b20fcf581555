"""Broken tables: a good one with some bytes changed, cut, or doubled, for tests that no reader is brought down."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.acpi_tables import summed


def broken(good: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of tables made from a good one; the signature stays, and some have a right checksum."""
    edits = st.lists(st.tuples(st.integers(4, len(good) - 1), st.integers(0, 255)), max_size=12)
    return st.builds(_broken, st.just(good), edits, st.integers(40, 2 * len(good)), st.booleans())


def _broken(good: bytes, edits: list[tuple[int, int]], size: int, right: bool) -> bytes:
    data = bytearray(good + good[36:])
    for at, value in edits:
        data[at] = value
    raw = bytes(data[:size])
    return summed(raw) if right else raw

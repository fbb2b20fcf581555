"""`pasidlab.platforms` as a library: its names, and what a reader brings with it."""

import subprocess
import sys

import pytest

from pasidlab import platforms


def test_every_name_of_the_library_is_where_it_says() -> None:
    assert platforms.__all__ == sorted(platforms.__all__, key=lambda name: (name[0].islower(), name))
    for name in platforms.__all__:
        assert getattr(platforms, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'read_nothing'"):
        _ = platforms.read_nothing


@pytest.mark.parametrize("name", ["read_iort", "read_dmar", "read_ivrs", "read_rimt", "read_viot", "read_config"])
def test_a_reader_of_bytes_brings_neither_the_model_nor_numpy(name: str) -> None:
    code = f"import sys; from pasidlab.platforms import {name}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & {"numpy", "numba", "msgspec", "pasidlab.machine", "pasidlab.description", "typer"}

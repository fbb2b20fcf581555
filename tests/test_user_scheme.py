"""A user's own scheme: one class in one file, named on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pasidlab import InputError
from pasidlab.schemes import SCHEMES, Mainline, find_scheme, find_schemes

from .conftest import Command

NARROW = "scenarios/narrow.toml"

TOP_DOWN = '''
from pasidlab.schemes import Mainline


class TopDown(Mainline):
    """Mainline, from the top of each device's range."""

    name = "top-down"

    def alloc_global(self, space, dev):
        return space.alloc_highest(1, dev.max_pasids - 1)
'''


@pytest.fixture
def scheme_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(text)
        return path

    return write


def test_a_class_in_a_file_runs_beside_the_built_in_ones(pasidlab: Command, scheme_file) -> None:
    path = scheme_file(TOP_DOWN)
    done = pasidlab("run", NARROW, "--scheme", f"mainline,{path}:TopDown", "--json")
    last = {r["scheme"]: r for line in done.out.splitlines() if not (r := json.loads(line)).get("summary")}
    assert last["mainline"]["result"] == "ENOSPC"
    assert (last["top-down"]["result"], last["top-down"]["pasid"]) == ("ok", 3)


def test_a_class_without_a_name_is_called_after_itself(scheme_file) -> None:
    path = scheme_file("from pasidlab.schemes import Mainline\nclass Plain(Mainline):\n    name = ''\n")
    assert find_scheme(f"{path}:Plain").name == "plain"


def test_all_is_the_four_in_order() -> None:
    assert find_schemes("all") == list(SCHEMES.values())
    assert find_schemes("mainline, mainline") == [Mainline, Mainline]


BAD = {
    "raises when loaded": ("raise RuntimeError('boom')", "Mine", r"mine\.py: cannot be loaded: RuntimeError: boom"),
    "exits when loaded": ("raise SystemExit(0)", "Mine", r"mine\.py: cannot be loaded: SystemExit: 0"),
    "no Python": ("def (", "Mine", r"mine\.py: cannot be loaded: SyntaxError"),
    "no such class": (
        TOP_DOWN,
        "Mine",
        r"'Mine' is no subclass of pasidlab\.schemes\.Scheme in it; there are: .*TopDown",
    ),
    "no scheme": ("class Mine: pass", "Mine", r"'Mine' is no subclass .*; there are: none"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(scheme_file, name: str) -> None:
    text, class_name, message = BAD[name]
    with pytest.raises(InputError, match=message):
        find_scheme(f"{scheme_file(text)}:{class_name}")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere\.py: no such file"):
        find_scheme("nowhere.py:Mine")


RAISING = {
    "an exception": (
        "return 1 / 0",
        r"scheme Mine raised ZeroDivisionError: division by zero \(.*mine\.py, line 5, in bind\)",
    ),
    "a wrong answer": ("return 7", r"a bind of scheme mine returned 7, not an IommuSva or a Refusal \(.*mine\.py"),
    "an exit": ("raise SystemExit(0)", r"scheme Mine raised SystemExit: 0 \(.*mine\.py, line 5, in bind"),
    "data that it keeps to itself": (
        "h = super().bind(dev, mm); mm.iommu_mm = None; return h",
        r"a bind of scheme mine did not put its data on mm\.iommu_mm",
    ),
}


@pytest.mark.parametrize("name", RAISING)
def test_a_scheme_that_misbehaves_is_blamed_by_its_file(pasidlab: Command, scheme_file, name: str) -> None:
    body, message = RAISING[name]
    path = scheme_file(
        f"from pasidlab.schemes import Mainline\nclass Mine(Mainline):\n    name = 'mine'\n"
        f"    def bind(self, dev, mm):\n        {body}\n"
    )
    done = pasidlab("run", NARROW, "--scheme", f"{path}:Mine")
    assert done.status == 2
    assert "Traceback" not in done.err
    assert re.search(message, done.err)


def test_a_scheme_without_bind_says_so(pasidlab: Command, scheme_file) -> None:
    path = scheme_file("from pasidlab.schemes import Scheme\nclass Mine(Scheme):\n    name = 'mine'\n")
    done = pasidlab("run", NARROW, "--scheme", f"{path}:Mine")
    assert done.status == 2
    assert "abstract" in done.err
    assert "bind" in done.err

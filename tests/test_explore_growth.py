"""The growth table: sizes of one world, cells that say how they ended, and its command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pasidlab.cli.app import app
from pasidlab.errors import InputError
from pasidlab.explore.growth import Cell, Growth, Size, growth, read_range, sized, sizes
from pasidlab.explore.verdict import Engine, Limits
from pasidlab.explore.world import World
from pasidlab.report.growth import markdown

ROOT = Path(__file__).parent.parent
WORLD = ROOT / "worlds" / "growth.toml"
PAGE = ROOT / "docs" / "growth.md"


@pytest.fixture(scope="module")
def world() -> World:
    return World.load(WORLD)


def in_one_process(world: World, schemes: list[str], chosen: list[Size], limits: Limits = Limits()) -> Growth:  # noqa: B008
    return growth(world, schemes, chosen, limits=limits, engine=Engine.READABLE, workers=1)


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "numbers"), [("1..5", [1, 2, 3, 4, 5]), ("3", [3]), ("2..2", [2])])
def test_a_range_is_one_number_or_two_with_dots(text: str, numbers: list[int]) -> None:
    assert list(read_range("--processes", text)) == numbers


@pytest.mark.parametrize(
    "text", ["", "0", "0..3", "5..1", "1...3", "1-3", "..3", "100", "x", "-1", "1..2..3", " 1", "1\n"]
)
def test_a_range_that_is_none_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match=r"--processes .*: allowed: a number or a range such as 1\.\.5, from 1 to 99"):
        read_range("--processes", text)


def test_a_world_has_the_size_that_was_asked_for(world: World) -> None:
    grown = sized(world, Size(4, 3, 5))
    assert (len(grown.processes), len(grown.devices), grown.numbers) == (4, 3, 5)
    assert grown.classes.processes == (0,) * 4
    assert grown.classes.devices == (0,) * 3


@pytest.mark.parametrize("key", ["process", "device", "iommu"])
def test_a_world_with_several_entries_does_not_grow(world: World, key: str) -> None:
    from msgspec import structs

    doubled = structs.replace(world, **{key: getattr(world, key) * 2})
    with pytest.raises(InputError, match=rf"{key}: a world that shall grow has one \[\[{key}\]\], this one has 2"):
        sized(doubled, Size(1, 1, 2))


def test_devices_must_carry_all_numbers(world: World) -> None:
    sized(world, Size(1, 1, 15))
    with pytest.raises(InputError, match=r"device\[0\]\.pasid_bits = 4: too few for numbers up to 16"):
        sized(world, Size(1, 1, 16))


# --- cells ---------------------------------------------------------------------------------------------------------


def test_cells_are_in_the_order_of_sizes_and_schemes(world: World) -> None:
    chosen = list(sizes(range(1, 3), range(1, 2), range(2, 4)))
    assert chosen == [Size(1, 1, 2), Size(1, 1, 3), Size(2, 1, 2), Size(2, 1, 3)]
    found = in_one_process(world, ["mainline", "v2"], chosen)
    assert [(cell.size, cell.scheme) for cell in found.cells] == [
        (one, name) for one in chosen for name in ("mainline", "v2")
    ]
    assert {cell.ended for cell in found.cells} == {"all"}
    assert not found.interrupted


def test_a_cell_that_a_bound_stopped_says_so(world: World) -> None:
    cell = in_one_process(world, ["mainline"], [Size(3, 2, 2)], Limits(states=20)).cells[0]
    assert cell.ended == "states"
    assert cell.as_dict()["states"] >= 20
    assert page_row(world, cell).startswith("| 3 | 2 | > 2")


def test_a_cell_that_an_interruption_left_out_says_so(world: World) -> None:
    cell = Cell(Size(1, 1, 2), "mainline", None)
    assert cell.as_dict() == {"processes": 1, "devices": 1, "numbers": 2, "scheme": "mainline", "ended": "not begun"}
    assert page_row(world, cell) == "| 1 | 1 | not begun |"


def page_row(world: World, cell: Cell) -> str:
    return list(markdown(world, Growth((cell,), interrupted=False), "pasidlab"))[-1]


def test_a_broken_property_does_not_stop_a_cell(world: World) -> None:
    from msgspec import structs

    never = structs.replace(world, always=["idle-device-serves", "given-back-is-fresh", "no-leak"])
    assert world.device[0].pasids == "local"
    broken = in_one_process(structs.replace(never, actions=["bind", "bind_device", "unbind"]), ["v2"], [Size(2, 1, 2)])
    cell = broken.cells[0]
    assert cell.ended == "all"
    assert "given-back-is-fresh" in cell.as_dict()["broken"]


# --- the command ---------------------------------------------------------------------------------------------------

SMALL = ["growth", str(WORLD), "--processes", "1..2", "--devices", "1", "--numbers", "2", "--workers", "1"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*SMALL, *arguments])


def test_the_command_prints_a_table_for_each_scheme() -> None:
    result = run("--scheme", "mainline,hybrid")
    assert result.exit_code == 0, result.output
    assert result.output.count("processes") == 2
    assert "mainline" in result.output
    assert "hybrid" in result.output


def test_the_command_prints_and_writes_records(tmp_path: Path) -> None:
    written = tmp_path / "growth.jsonl"
    printed = [json.loads(line) for line in run("--scheme", "mainline", "--json", "-").output.splitlines()]
    assert run("--scheme", "mainline", "--json", str(written)).exit_code == 0
    kept = [json.loads(line) for line in written.read_text().splitlines()]
    assert [record["processes"] for record in printed] == [1, 2]
    same = ("scheme", "states", "transitions", "depth", "ended")
    assert [[record[key] for key in same] for record in printed] == [[record[key] for key in same] for record in kept]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "--processes '0': allowed"),
        (["--numbers", "16"], "growth.toml: device[0].pasid_bits = 4"),
        (["--max-states", "0"], "--max-states 0: must be at least 1"),
        (["--max-seconds", "0"], "--max-seconds 0.0: must be more than 0"),
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--scheme", "nonsense"], "scheme 'nonsense': no such scheme"),
        (["--json", "/no/such/place"], "--json '/no/such/place': there is no directory"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_an_interrupted_table_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = (Cell(Size(1, 1, 2), "mainline", None),)
    monkeypatch.setattr("pasidlab.explore.growth.growth", lambda *_, **__: Growth(cells, interrupted=True))
    result = run("--json", "-")
    assert result.exit_code == 130
    assert json.loads(result.output)["ended"] == "not begun"


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_names_its_command_and_has_every_size_of_the_issue() -> None:
    page = PAGE.read_text()
    assert "Made by `pasidlab growth worlds/growth.toml" in page
    assert page.count("| processes | devices | 2 numbers | 3 numbers | 4 numbers | 5 numbers |") == 4
    rows = re.findall(r"^\| (\d) \| (\d) \|", page, re.MULTILINE)
    assert rows == [(str(processes), str(devices)) for processes in range(1, 6) for devices in range(1, 5)] * 4


@pytest.mark.parametrize("scheme", ["mainline", "rfc", "v2", "hybrid"])
def test_the_page_has_the_counts_of_today(world: World, scheme: str) -> None:
    section = PAGE.read_text().split(f"\n## {scheme}\n")[1].split("\n## ")[0]
    chosen = [Size(1, 1, 2), Size(1, 2, 3), Size(2, 2, 2)]
    for cell in in_one_process(world, [scheme], chosen).cells:
        assert cell.verdict is not None
        row = next(line for line in section.splitlines() if line.startswith(f"| {cell.size[0]} | {cell.size[1]} |"))
        assert row.split(" | ")[cell.size.numbers].startswith(f"{cell.verdict.found.states:,} · ")

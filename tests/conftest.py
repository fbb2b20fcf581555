"""Fixtures that several test files use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pasidlab import assembly
from pasidlab.cli import main
from pasidlab.hw.smmuv3.features import Features

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture
def pasidlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process, from the repository root unless told otherwise."""

    def call(*arguments: object, cwd: Path = ROOT) -> Finished:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["pasidlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return Finished(int(ended.value.code or 0), written.out, written.err)

    return call


@pytest.fixture
def scenario_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a scenario and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "scenario.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the SMMUs of machines features that descriptions have no key for."""

    def change(**changed: Any) -> None:
        monkeypatch.setattr(assembly, "SmmuFeatures", lambda **given: Features(**given | changed))

    return change

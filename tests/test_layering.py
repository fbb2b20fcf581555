"""Imports go only downward: the contract in pyproject.toml, checked by import-linter."""

from __future__ import annotations

import pytest
from importlinter.cli import lint_imports

from .conftest import ROOT


def test_imports_go_only_downward(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out

"""A scenario as a whole: a machine with steps, read from TOML and checked. Without steps it is a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import field

from pasidlab.decode import convert, read_toml
from pasidlab.description import MachineSpec, check
from pasidlab.errors import blamed_on
from pasidlab.linux.profiles import profile
from pasidlab.scenario.checks import check_steps
from pasidlab.scenario.steps import AnyStep
from pasidlab.scenario.windows import check_windows


class Scenario(MachineSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine with or without steps; `scheme` is a name, "all" or FILE.py:CLASS; the command line may override it."""

    title: str = ""
    about: str = ""
    scheme: str = "all"
    step: list[AnyStep] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """Read and check a TOML file; InputError names file, key, value and what is allowed."""
        path = Path(path)
        raw = read_toml(path)
        with blamed_on(path):
            return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Scenario:
        """Check decoded TOML."""
        scenario = convert(raw, cls)
        check(scenario)
        profile(scenario.kernel).with_switches(dict(scenario.switches))
        check_steps(scenario, scenario.step)
        check_windows(scenario.step)
        return scenario

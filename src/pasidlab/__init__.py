"""A laboratory for PASID/SSID spaces and Shared Virtual Addressing.

>>> from pasidlab import Scenario, run
>>> reports = run(Scenario.load("scenarios/narrow.toml"), "mainline,rfc")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pasidlab.description import MachineSpec
    from pasidlab.errors import Errno, InputError, ModelError, PasidlabError
    from pasidlab.machine import Machine
    from pasidlab.outcome import Outcome
    from pasidlab.runner import Report, run
    from pasidlab.scenario import Scenario

__version__ = "0.1.0"

__all__ = [
    "Errno",
    "InputError",
    "Machine",
    "MachineSpec",
    "ModelError",
    "Outcome",
    "PasidlabError",
    "Report",
    "Scenario",
    "run",
]

_HOMES = {
    "Errno": "errors",
    "InputError": "errors",
    "Machine": "machine",
    "MachineSpec": "description",
    "ModelError": "errors",
    "Outcome": "outcome",
    "PasidlabError": "errors",
    "Report": "runner",
    "Scenario": "scenario",
    "run": "runner",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name when it is first asked for, so that `pasidlab --help` need not import the model."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

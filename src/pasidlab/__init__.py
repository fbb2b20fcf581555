"""A laboratory for PASID/SSID spaces and Shared Virtual Addressing.

>>> from pasidlab import Scenario, run
>>> reports = run(Scenario.load("scenarios/narrow.toml"), "mainline,rfc")  # doctest: +SKIP
"""

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

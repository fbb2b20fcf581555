"""A scenario: a machine and steps, read from TOML; each verb is one structure that knows how to be done.

Unknown keys, wrong types and names that name nothing are errors that say where, what stood there and what is
allowed. Every step may carry expectations: one value, or a table by scheme, or by model of IOMMU where their drivers
differ. The modules divide the verbs as those of `machine/` do.
"""

from pasidlab.scenario.checks import RESULTS
from pasidlab.scenario.load import Scenario
from pasidlab.scenario.step import Step
from pasidlab.scenario.steps import AnyStep
from pasidlab.scenario.windows import perform

__all__ = ["RESULTS", "AnyStep", "Scenario", "Step", "perform"]

"""All that is found about a machine: by an import, by the model's own assembly, and by the checks of the audit.

Decided here: a finding of an import whose rule is not known here, as in a file of a newer version, is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from pasidlab.audit import of_hardware, of_kernel
from pasidlab.audit.case import Case
from pasidlab.description import FindingSpec
from pasidlab.rules import GRAVEST_FIRST, RULES, Finding, Rule, filled

IMPORTED = Rule(
    "audit.imported",
    "key finding of the description",
    "a finding whose rule this version does not have",
    "{why} (rule {rule})",
    remedy="look the rule up in the version that made the file",
)


class Told(Finding):
    """A finding that an import wrote down: the rule, and its sentence as it was then."""

    __slots__ = ()

    @property
    def why(self) -> str:
        """The sentence as it was written down."""
        told = self.facts["why"]
        assert isinstance(told, str)
        return told

    @property
    def remedy(self) -> str:
        """What people can do about it, as far as that can be said without the facts, which were not written down."""
        return filled(self.rule.remedy, {"dev": "the device"})

    @property
    def more(self) -> int:
        """How many more the import only counted."""
        more = self.facts["more"]
        assert isinstance(more, int)
        return more


def told(finding: FindingSpec) -> Finding:
    """Return a finding of an import; the readers, which declare their rules, are loaded if it is one of theirs."""
    if finding.rule not in RULES:
        import_module("pasidlab.platforms.importing")
    rule = RULES.get(finding.rule)
    if rule is None:
        return IMPORTED.finding(rule=finding.rule, why=finding.why)
    return Told(rule, {"why": finding.why, "more": finding.more})


def findings_of(case: Case) -> list[Finding]:
    """Return all findings, the gravest first, each sentence once."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in _all(case):
        found.setdefault((finding.rule.id, finding.why), finding)
    return sorted(found.values(), key=lambda finding: GRAVEST_FIRST.index(finding.rule.level))


def _all(case: Case) -> Iterator[Finding]:
    """Yield what is found: by the audit's own checks, by an import, by the model when it put the machine together."""
    for check in (*of_kernel.CHECKS, *of_hardware.CHECKS):
        yield from check(case)
    yield from (told(finding) for finding in case.spec.finding)
    yield from case.probed.found

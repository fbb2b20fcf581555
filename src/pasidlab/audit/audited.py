"""One machine: its rows and what is found about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pasidlab.audit.case import Case
from pasidlab.audit.findings import findings_of
from pasidlab.audit.rows import Probed, Row, rows_of
from pasidlab.description import MachineSpec
from pasidlab.errors import InputError
from pasidlab.rules import Finding, Level
from pasidlab.schemes import SCHEMES, Scheme


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit says of a machine.

    Attributes:
        spec: the machine.
        schemes: the names of the schemes that rooms are counted for.
        rows: one for each device that has PASIDs or shares a group with one that has.
        findings: the gravest first.
    """

    spec: MachineSpec
    schemes: tuple[str, ...]
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]

    @property
    def has_error(self) -> bool:
        """Whether a finding says that something cannot work."""
        return any(finding.rule.level is Level.ERROR for finding in self.findings)


def audit(spec: MachineSpec, schemes: Iterable[type[Scheme]] | None = None) -> Audit:
    """Audit a machine; rooms are counted for the four schemes, or for some of them.

    Processes and steps of a scenario do not matter: numbers are those after probe, with nothing bound. Raises
    InputError for a description that is wrong, and for a scheme that is not one of the four.
    """
    kinds = list(dict.fromkeys(SCHEMES.values() if schemes is None else schemes))
    for kind in kinds:
        if kind not in SCHEMES.values():
            known = ", ".join(SCHEMES)
            raise InputError(f"scheme {kind.name!r}: an audit counts with {known} only, whose spaces it knows")
    probed = Probed(spec)
    rows = rows_of(probed, kinds)
    findings = findings_of(Case(spec, probed, rows))
    return Audit(spec, tuple(kind.name for kind in kinds), tuple(rows), tuple(findings))

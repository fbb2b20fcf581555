"""An audit as records for programs: one for each row, each finding, each difference, and a summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pasidlab.audit import Audit, Difference, Row
from pasidlab.report.findings import finding_dict
from pasidlab.rules import Finding, Level


def audit_records(audit: Audit, machine: str) -> Iterator[dict[str, Any]]:
    """Yield the records of one machine, the summary last."""
    for row in audit.rows:
        yield {"record": "row", "machine": machine} | row_dict(row)
    for finding in audit.findings:
        yield {"record": "finding", "machine": machine} | finding_dict(finding)
    yield {
        "record": "summary",
        "machine": machine,
        "kernel": audit.spec.kernel,
        "schemes": list(audit.schemes),
        "devices": len(audit.rows),
        "usable": sum(bool(row.usable) for row in audit.rows),
        "findings": counts(audit.findings),
    }


def row_dict(row: Row) -> dict[str, Any]:
    """Return a row as `pasidlab audit --json` prints it."""
    return {
        "device": row.device,
        "kind": row.kind,
        "iommu": row.iommu,
        "bits": row.bits,
        "own": row.own,
        "of_iommu": row.of_iommu,
        "usable": row.usable,
        "held": row.held,
        "limit": {
            "kind": row.limit.kind.value,
            "below": row.limit.below,
            "fact": row.limit.fact,
            "rule": row.limit.rule or None,
        },
        "group": {"name": row.group, "beside": row.beside, "first": list(row.first_beside)},
        "sharing": {"devices": row.sharing, "first": list(row.first_sharing)},
        "rooms": {name: asdict(room) for name, room in row.rooms.items()},
    }


def comparison_records(
    differences: list[Difference], first: Audit, second: Audit, names: tuple[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the records of a comparison, the summary last."""
    for difference in differences:
        yield {"record": "difference"} | asdict(difference)
    yield {
        "record": "summary",
        "machines": list(names),
        "differences": len(differences),
        "bearing": sum(difference.bears for difference in differences),
        "findings": [counts(first.findings), counts(second.findings)],
    }


def counts(findings: tuple[Finding, ...]) -> dict[str, int]:
    """Return how many findings there are of each level."""
    return {
        level.value: sum(1 + finding.more for finding in findings if finding.rule.level is level) for level in Level
    }

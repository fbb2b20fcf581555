"""What a description tells of the findings of an import: the first of each rule, and how many more there are."""

from __future__ import annotations

import tomllib

from pasidlab.audit import audit
from pasidlab.platforms.importing import MOST_TOLD, Imported, import_sources
from pasidlab.platforms.machine import WIDTH_ASSUMED
from pasidlab.platforms.said import Said
from pasidlab.platforms.sources import Source, Trust
from pasidlab.platforms.streams import STREAM_TOO_LARGE
from pasidlab.report.findings import counts_text

MANY = 5_000


def imported(count: int) -> Imported:
    found = [STREAM_TOO_LARGE.finding(device=f"d{n}", iommu="smmu", stream=1 << 24) for n in range(count)]
    found.append(WIDTH_ASSUMED.finding(iommu="smmu", register="IDR1.SSIDSIZE"))
    return import_sources([Source(Trust.ACPI, lambda buses: Said("IORT", findings=found))], "a machine")


def test_of_each_rule_the_first_are_told_and_the_others_counted() -> None:
    told = tomllib.loads(imported(MANY).text)["finding"]
    assert len(told) == MOST_TOLD + 1
    assert [record.get("more", 0) for record in told] == [0] * (MOST_TOLD - 1) + [MANY - MOST_TOLD, 0]
    assert told[0]["why"].startswith("d0: ")


def test_as_many_as_are_told_need_no_count() -> None:
    assert not any("more" in record for record in tomllib.loads(imported(MOST_TOLD).text)["finding"])


def test_import_and_audit_count_alike() -> None:
    made = imported(MANY)
    found = [finding for finding in audit(made.spec).findings if not finding.rule.id.startswith("audit.")]
    assert counts_text(found) == counts_text(made.findings) == "1 warning, 5,000 notes"

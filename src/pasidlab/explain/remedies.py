"""What people can do about a rule, also about those that are many and alike: entries of tables in memory."""

from __future__ import annotations

from pasidlab.rules import Rule, filled

_TABLES = (
    "print the entry (`pasidlab dump`, or the IOMMU's debugfs) and compare it with what the driver writes for a bond"
)
_PAGES = "see whether the process has that page with that right, and let it touch the page before the device does"
FAMILIES = {"smmu.": _TABLES, "vtd.": _TABLES, "vmsa.": _PAGES, "x86.": _PAGES}
"""Remedies by the beginning of a rule's id."""
FACTS = {"dev": "the device", "physfn": "its physical function"}
"""What stands for a fact that is not known."""


def remedy_of(rule: Rule, device: str = "") -> str:
    """Return what to do about a rule, whatever the facts; empty where nothing is known."""
    family = next((remedy for start, remedy in FAMILIES.items() if rule.id.startswith(start)), "")
    known = FACTS | ({"dev": device} if device else {})
    return filled(rule.remedy or family, known)

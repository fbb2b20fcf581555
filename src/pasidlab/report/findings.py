"""Findings as people read them, the gravest first, those of one rule together; and as records for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from pasidlab.rules import GRAVEST_FIRST, Finding
from pasidlab.toml_text import one_line

SHOWN = 4
"""How many findings of one rule are shown in full; the others are counted."""
WIDTH = 118
INDENT = " " * 9


def finding_lines(findings: Iterable[Finding], *, shown: int = SHOWN, width: int = WIDTH) -> Iterator[str]:
    """Yield the lines of a list of findings: level and sentence, and for each rule once what to do and its name."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule.id, []).append(finding)
    for group in sorted(by_rule.values(), key=lambda group: GRAVEST_FIRST.index(group[0].rule.level)):
        for finding in group[:shown]:
            yield from _wrapped(f"{finding.rule.level.value:<9}{one_line(finding.why)}", width)
        more = sum(finding.more for finding in group) + len(group[shown:])
        yield from _after(group[0], more, width)


def _after(first: Finding, more: int, width: int) -> Iterator[str]:
    """Yield what stands once under the findings of a rule."""
    if more > 0:
        yield f"{INDENT}and {more:,} more like {'this' if more == 1 else 'these'}"
    if first.remedy:
        yield from _wrapped(f"{INDENT}what to do: {first.remedy}", width)
    yield f"{INDENT}[{first.rule.id}]"


def _wrapped(text: str, width: int) -> list[str]:
    width = min(width, WIDTH)
    return textwrap.wrap(text, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def finding_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as a record."""
    rule = finding.rule
    more = {"more": finding.more} if finding.more else {}
    return {"level": rule.level.value, "rule": rule.id, "why": finding.why, "remedy": finding.remedy or None} | more


def counts_text(findings: Iterable[Finding]) -> str:
    """Return how many findings there are of each level: `1 error, 2 warnings`, or `nothing found`."""
    counted = dict.fromkeys(GRAVEST_FIRST, 0)
    for finding in findings:
        counted[finding.rule.level] += 1 + finding.more
    parts = [f"{count:,} {level.value}{'s' if count != 1 else ''}" for level, count in counted.items() if count]
    return ", ".join(parts) or "nothing found"

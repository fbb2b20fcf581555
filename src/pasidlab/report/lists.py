"""Rules, kernel profiles and options, as lists for people and as records for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from pasidlab import audit, conform, explain, runner  # noqa: F401 - importing them declares every rule
from pasidlab.explore import properties  # noqa: F401 - likewise
from pasidlab.linux.profiles import WITNESSED, Profile, switch_fields
from pasidlab.platforms import importing  # noqa: F401 - likewise
from pasidlab.rules import RULES, Rule
from pasidlab.schemes import Options


def rules_matching(beginning: str) -> list[Rule]:
    """Return the rule of that id, else those whose id begins so."""
    if beginning in RULES:
        return [RULES[beginning]]
    return [rule for rule in RULES.values() if rule.id.startswith(beginning)]


def rule_dict(rule: Rule) -> dict[str, Any]:
    """Return a rule as a record."""
    fields = {name: getattr(rule, name) for name in ("id", "where", "check", "why", "source", "remedy")}
    return fields | {"errno": rule.errno.name if rule.errno else None}


def rule_text(rule: Rule, *, whole: bool) -> str:
    """Return a rule as one line, or whole."""
    errno = rule.errno.name if rule.errno else "-"
    if not whole:
        return f"{rule.id:<36} {errno:<12} {rule.where}: {rule.check}"
    lines = [
        rule.id,
        f"  result  {errno}",
        f"  where   {rule.where}",
        f"  check   {rule.check}",
        f"  means   {rule.why}",
    ]
    if rule.source:
        lines.append(f"  source  {rule.source}")
    if rule.remedy:
        lines.append(f"  remedy  {rule.remedy}")
    return "\n".join(lines)


def profile_dict(profile: Profile) -> dict[str, Any]:
    """Return a profile as a record."""
    return asdict(profile) | {"witnessed": profile.name in WITNESSED}


def profile_text(profile: Profile, *, whole: bool) -> str:
    """Return a profile as one line, or with its switches."""
    witness = "witnessed by records" if profile.name in WITNESSED else "by reading, not witnessed"
    lines = [f"{profile.name:<9}{witness}"]
    if whole:
        for switch in switch_fields():
            value = str(getattr(profile, switch.name)).lower()
            lines.append(f"  {switch.name} = {value}")
            lines.append(f"      {switch.metadata['meaning']} ({switch.metadata['source']})")
    return "\n".join(lines)


def option_lines() -> list[str]:
    """Return each option with its default and what it allows."""
    lines = []
    for field in msgspec.inspect.type_info(Options).fields:  # type: ignore[attr-defined]
        kinds = getattr(field.type, "types", (field.type,))
        allowed = [str(v) for kind in kinds for v in getattr(kind, "values", ())]
        default = "-" if field.default is None else field.default
        lines.append(f"  {field.name:<14}{default!s:<10}{' | '.join(allowed) or 'a number'}")
    return lines

"""The verdicts of a search as one page: no scripts, nothing from elsewhere, light or dark as the reader has it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pasidlab.explore.check import Claim, Verdict
from pasidlab.report.check_words import coverage, memory_text, outcome_text, sentence, step_text


@dataclass(slots=True)
class _Searched:
    """The verdicts of one world with the same options, next to each other."""

    title: str
    shape: str
    assumed: str
    kernel: str
    settings: dict[str, Any]
    claims: dict[str, Claim] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def has_goals(self) -> bool:
        """Whether a scheme has to reach something."""
        return any(verdict.goals for verdict in self.verdicts)


def html_text(verdicts: Iterable[Verdict]) -> str:
    """Return the whole page."""
    worlds = _by_world(verdicts)
    page = _environment().get_template("check.html")
    title = ", ".join(dict.fromkeys(world.title or "world" for world in worlds))
    return page.render(title=title, worlds=worlds, anchor=_anchor, goals=_goals)


def _by_world(verdicts: Iterable[Verdict]) -> list[_Searched]:
    """Put the verdicts of each world together, in their order."""
    worlds: dict[str, _Searched] = {}
    for verdict in verdicts:
        key = repr((verdict.world, verdict.shape, verdict.assumed, verdict.kernel, sorted(verdict.settings.items())))
        new = _Searched(verdict.world, verdict.shape, verdict.assumed, verdict.kernel, verdict.settings)
        world = worlds.setdefault(key, new)
        world.claims |= {claim.name: claim for claim in verdict.claims}
        world.verdicts.append(verdict)
    return list(worlds.values())


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pasidlab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": memory_text,
        "coverage": lambda verdict: coverage(verdict.found),
        "results": _results,
        "happening": step_text,
        "outcome": outcome_text,
        "sentence": sentence,
    }
    return environment


def _results(verdict: Verdict) -> list[str]:
    """Return every result that any action had, in the order of their first."""
    return list(dict.fromkeys(result for counts in coverage(verdict.found).values() for result in counts))


def _goals(verdict: Verdict, reached: bool | None) -> str:
    return ", ".join(goal for goal in verdict.goals if verdict.of_goal(goal) is reached)


def _anchor(place: int, verdict: Verdict, name: str) -> str:
    """Return the id of a trace on the page."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"trace-{place}-{verdict.scheme}-{name}")

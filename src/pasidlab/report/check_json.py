"""The verdicts of a search as records for programs: one for each world and scheme."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pasidlab.explore.check import Verdict
from pasidlab.report.check_words import coverage


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as `pasidlab check --json` prints it."""
    found = verdict.found
    return {
        "world": verdict.world,
        "shape": verdict.shape,
        "assumed": verdict.assumed,
        "scheme": verdict.scheme,
        "kernel": verdict.kernel,
        "settings": verdict.settings,
        "engine": verdict.engine.value,
        "note": verdict.note,
        "status": verdict.status.value,
        "states": found.states,
        "transitions": found.transitions,
        "depth": found.depth,
        "complete": found.complete,
        "stopped_by": found.stopped_by,
        "seconds": found.seconds,
        "memory": found.memory,
        "properties": [asdict(claim) | {"status": verdict.of_property(claim.name)} for claim in verdict.claims],
        "sometimes": [{"goal": goal, "reached": verdict.of_goal(goal)} for goal in verdict.goals],
        "reached": coverage(found),
        "never": list(verdict.never),
        "traces": [asdict(trace) for trace in verdict.traces],
    }

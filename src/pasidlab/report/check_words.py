"""What the reports of a search say alike: a verdict in one line, a step's result, a trace as plain lines, coverage."""

from __future__ import annotations

from collections.abc import Iterator

from pasidlab.explore.check import Verdict
from pasidlab.explore.trace import Trace, TraceStep
from pasidlab.explore.verdict import Found, Status
from pasidlab.explore.wanted import result_text
from pasidlab.rules import MODEL, RULES

STOPPED = {
    "states": "stopped by the bound on states",
    "seconds": "stopped by the bound on seconds",
    "memory": "stopped by the bound on memory",
    "depth": "stopped by the bound on depth",
    "interrupted": "interrupted",
}


def verdict_text(verdict: Verdict) -> str:
    """Say what a search came to, and in how much."""
    found = verdict.found
    broken = ", ".join(trace.property for trace in verdict.traces)
    how_much = size_text(found)
    if verdict.status is Status.HOLDS:
        return f"holds: {_properties(verdict)} in {how_much}"
    if verdict.status is Status.VIOLATED and not broken:
        return f"holds, but not everything was reached: {_properties(verdict)} in {how_much}"
    stopped = STOPPED.get(found.stopped_by, "")
    if broken:
        return f"violated: {broken}; in {how_much}{f', {stopped}' if stopped else ''}"
    return f"{stopped}: nothing broken in {how_much}"


def size_text(found: Found) -> str:
    """Say how much was searched."""
    return (
        f"{found.states:,} {'state' if found.states == 1 else 'states'}, {found.transitions:,} transitions, "
        f"depth {found.depth}, {found.seconds:.1f} s, {memory_text(found.memory)}"
    )


def memory_text(size: int) -> str:
    """Write a number of bytes."""
    return f"{size / 1024 / 1024:,.1f} MiB"


def _properties(verdict: Verdict) -> str:
    count = len(verdict.claims)
    return "1 property" if count == 1 else f"{count} properties"


def outcome_text(step: TraceStep) -> str:
    """Write a step's result, its number, and whose memory was touched."""
    text = step.result
    if step.result == "ok" and step.pasid is not None:
        text += f" {step.pasid}"
    if step.owner:
        text += f" in {step.owner}"
    return f"{text}, not {step.trespass}" if step.trespass else text


def step_text(step: TraceStep) -> str:
    """Write what happens in a step, and within which call."""
    return f"within that call, after its step {step.during}: {step.words}" if step.during else step.words


def sentence(step: TraceStep) -> str:
    """Return what settled a step, with its rule; empty where nothing did."""
    if step.detail:
        return "; ".join(step.detail)
    rule = RULES.get(step.rule)
    source = f"; {rule.source}" if rule and rule.source != MODEL else ""
    return f"{step.why} [{step.rule}{source}]" if step.why else ""


def last_sentences(trace: Trace) -> list[tuple[int, str]]:
    """Return the sentences of the step that breaks the property, and of what is shown after it, by their numbers."""
    because = [(trace.last, trace.because)]
    told = [(step.number, sentence(step)) for step in trace.steps if step.number >= trace.last]
    return [(number, text) for number, text in (*because, *told) if text]


def trace_lines(trace: Trace) -> Iterator[str]:
    """Yield a trace as plain text."""
    yield f"{trace.property}: {trace.rule} ({trace.source})"
    for step in trace.steps:
        outcome = outcome_text(step)
        yield f"{step.number:>3}  {step_text(step)}{': ' if outcome else ''}{outcome}"
    for number, text in last_sentences(trace):
        yield f"{number:>3}  {text}"


def coverage(found: Found) -> dict[str, dict[str, int]]:
    """Return how often each action had each result, in the order of the verbs."""
    table: dict[str, dict[str, int]] = {}
    for (verb, result), count in sorted(found.reached.items()):
        if count:
            table.setdefault(verb.name.lower(), {})[result_text(result)] = count
    return table

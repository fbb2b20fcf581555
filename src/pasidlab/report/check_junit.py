"""The verdicts of a search as JUnit XML, for continuous integration: a suite for each world, a case for each claim.

Decided here: a property is a case, and so is each `sometimes`. One that was broken, or never reached, is a failure; one
that a bound or Ctrl-C left open is an error, since a test that was not done must not pass; one that is open because the
search stopped at another violation is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pasidlab.explore.check import Verdict
from pasidlab.report.check_words import STOPPED, trace_lines

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot carry."""


def junit_text(verdicts: Iterable[Verdict]) -> str:
    """Return the whole file."""
    root = Element("testsuites", name="pasidlab check")
    suites: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        suites.setdefault(verdict.world, []).append(verdict)
    for world, group in suites.items():
        suite = SubElement(root, "testsuite", name=_clean(world or "world"))
        for verdict in group:
            _add_cases(suite, verdict)
        _count(suite, sum(verdict.found.seconds for verdict in group))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_cases(suite: Element, verdict: Verdict) -> None:
    """Add the cases of one scheme; the time is with the first, for one search answers all."""
    seconds = [verdict.found.seconds, *(0.0 for _ in (*verdict.claims[1:], *verdict.goals))]
    times = iter(seconds)
    for claim in verdict.claims:
        _judge_property(_add_case(suite, verdict, claim.name, next(times)), verdict, claim.name)
    for goal in verdict.goals:
        _judge_goal(_add_case(suite, verdict, f"sometimes {goal}", next(times)), verdict, goal)


def _add_case(suite: Element, verdict: Verdict, name: str, seconds: float) -> Element:
    group = _clean(f"{verdict.world or 'world'}.{verdict.scheme}")
    return SubElement(suite, "testcase", classname=group, name=_clean(name), time=f"{seconds:.3f}")


def _judge_property(case: Element, verdict: Verdict, name: str) -> None:
    trace = verdict.trace(name)
    if trace is not None:
        failure = SubElement(case, "failure", type=_clean(name), message=_clean(trace.rule))
        failure.text = _clean("\n".join([*trace_lines(trace), "", trace.scenario]))
    elif verdict.of_property(name) == "undecided":
        _leave_open(case, verdict)


def _judge_goal(case: Element, verdict: Verdict, goal: str) -> None:
    reached = verdict.of_goal(goal)
    if reached is False:
        SubElement(case, "failure", type="sometimes", message=_clean(f"{goal} was never reached"))
    elif reached is None:
        _leave_open(case, verdict)


def _leave_open(case: Element, verdict: Verdict) -> None:
    """Say that a search did not come so far."""
    why = STOPPED.get(verdict.found.stopped_by)
    if why is None:
        SubElement(case, "skipped", message="the search stopped at a violation of another property")
    else:
        SubElement(case, "error", type=verdict.found.stopped_by, message=f"{why} before it was decided")


def _count(suite: Element, seconds: float) -> None:
    cases = suite.findall("testcase")
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    suite.set("time", f"{seconds:.3f}")


def _clean(text: str) -> str:
    return NOT_XML.sub("?", text)

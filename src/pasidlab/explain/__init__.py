"""Why a call failed, and what a line of a log means: the checks that can give an errno, tried on a machine's model.

`explain(Question(call, errno, machine, device))` answers about a call, `explain_log(text, machine)` about the known
lines of a log. See docs/explain.md.
"""

from __future__ import annotations

from pasidlab.explain.answer import Answer, Cause, Question, explain
from pasidlab.explain.calls import CALLS, Call
from pasidlab.explain.check import Check, Standing
from pasidlab.explain.log import PATTERNS, LineAnswer, explain_log, recognise

__all__ = [
    "CALLS",
    "PATTERNS",
    "Answer",
    "Call",
    "Cause",
    "Check",
    "LineAnswer",
    "Question",
    "Standing",
    "explain",
    "explain_log",
    "recognise",
]

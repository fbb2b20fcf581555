"""An explanation as text: what can be the cause, the likeliest first, what cannot and by which fact, and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from pasidlab.explain import CALLS, Answer, Call, Cause, LineAnswer, Standing
from pasidlab.explain.answer import errno_number
from pasidlab.rules import MODEL

_STYLES = {Standing.SHOWN: "bold red", Standing.FITS: "yellow", Standing.OPEN: "cyan"}
_WORDS = {
    Standing.SHOWN: "shown on the model",
    Standing.FITS: "fits",
    Standing.OPEN: "open",
}
_INDENT = "     "
MOST_IN_FULL = 6
"""How many causes are told in full; the others in a line each, those of a line of a log not at all."""
MOST_WIDTH = 118
"""Widest line; a narrower terminal has narrower ones."""


def print_calls(console: Console) -> None:
    """List the calls, and what can refuse each."""
    for call in CALLS.values():
        _print(console, f"{call.id}  ", f"{call.function}: {call.summary}", bold=call.id)
        if call.when:
            _print(console, "  ", call.when)
        results: dict[str, list[str]] = {}
        for check in call.checks:
            results.setdefault(check.result, []).append(check.id)
        for result, ids in results.items():
            _print(console, f"  {result:<11} ", ", ".join(dict.fromkeys(ids)))
        for caller in call.callers:
            _print(console, f"  by {caller.name}: ", caller.text, indent="    ")


def print_answer(answer: Answer, console: Console) -> None:
    """Print the answer about a call: what can be the cause, the likeliest first, and then what cannot be."""
    _print(console, "", _header(answer), bold=answer.call.function, indent="  ")
    if answer.ran is not None and answer.ran.result == "ok" and not answer.result:
        _print(console, "  ", "on the model the call succeeds, with a process that has done nothing yet")
    _print_causes(answer.causes[:MOST_IN_FULL], console)
    for place, cause in enumerate(answer.causes[MOST_IN_FULL:], start=MOST_IN_FULL + 1):
        _print(console, f"{place:>3}. ", f"{cause.why}{_condition(cause)} {_name(cause)}")
    for note in answer.notes:
        _print(console, "  note: ", note)
    for fact, group in groupby(answer.ruled_out, key=lambda cause: cause.fact):
        ids = ", ".join(dict.fromkeys(cause.rule.id for cause in group))
        _print(console, "  ruled out: ", f"{ids}: {fact}" if fact else ids, indent="    ")


def _header(answer: Answer) -> str:
    asked = f" gives {result_text(answer.result)}" if answer.result else ": whatever it gives"
    where = f"device {answer.device}, kernel {answer.kernel}" if answer.device else ""
    if not where:
        where = f"kernel {answer.kernel}, no machine given" if answer.kernel else "any kernel, no machine given"
    return f"{answer.call.function}{asked} ({where})"


def result_text(result: str) -> str:
    """Write an errno with its number."""
    number = errno_number(result)
    return result if number is None else f"{result} (-{number})"


def _print_causes(causes: list[Cause], console: Console) -> None:
    for place, cause in enumerate(causes, start=1):
        _print(console, f"{place:>3}. ", cause.why, bold=cause.why)
        _print(console, _INDENT, _standing(cause), style=_STYLES[cause.standing])
        for label, text in _details(cause):
            _print(console, f"{_INDENT}{label}", text, indent=_INDENT)


def _standing(cause: Cause) -> str:
    """Say how a cause stands, and its name."""
    return f"{_WORDS[cause.standing]}{f', {cause.fact}' if cause.fact else ''} {_name(cause)}"


def _condition(cause: Cause) -> str:
    return f", {cause.fact}" if cause.fact.startswith("if ") else ""


def _name(cause: Cause) -> str:
    """Return the name of a cause's rule and what it gives, in brackets."""
    return f"[{cause.rule.id}{f', {result_text(cause.result)}' if cause.result else ''}]"


def _details(cause: Cause) -> Iterator[tuple[str, str]]:
    rule = cause.rule
    if cause.remedy:
        yield "what to do: ", cause.remedy
    if cause.when:
        yield "which kernels: ", cause.when
    source = "" if rule.source == MODEL else f"; {rule.source}"
    yield "check: ", f"{rule.check}, in {rule.where}{source}"


def print_lines(answers: list[LineAnswer], console: Console) -> None:
    """Print the known lines of a log, each with what stands behind it."""
    for answer in answers:
        _print_line(answer, console)


def _print_line(answer: LineAnswer, console: Console) -> None:
    line, pattern = answer.line, answer.line.pattern
    head = f"line {line.number}"
    console.print(Text(f"{head}{_times(answer)}: {line.text}"), soft_wrap=True)
    for decoded in line.decoded:
        _print(console, "  ", decoded)
    if pattern.meaning:
        _print(console, "  means: ", pattern.meaning, indent="  ")
    _print_causes(answer.causes[:MOST_IN_FULL], console)
    hidden = len(answer.causes) - MOST_IN_FULL
    if hidden > 0:
        _print(console, _INDENT, f"and {hidden} more, which --json has")
    ran = None if answer.answer is None else answer.answer.ran
    if ran is not None and ran.result == "ok":
        _print(console, "  ", "the model: the call succeeds on this machine")
    for note in answer.notes:
        _print(console, "  note: ", note)
    if pattern.remedy:
        _print(console, "  what to do: ", pattern.remedy, indent="  ")
    _print(console, "  ", f"printed by {pattern.printed_by}")


def _times(answer: LineAnswer) -> str:
    """Say how often a line came, and how many came that differ from it in numbers only."""
    counted = [f"{answer.times:,} times"] if answer.times > 1 else []
    counted += [f"{answer.alike:,} more with other numbers are not told"] if answer.alike else []
    return f" ({'; '.join(counted)})" if counted else ""


def calls_as_dicts() -> Iterator[dict[str, object]]:
    """Yield each call as a record."""
    for call in CALLS.values():
        yield _call_dict(call)


def _call_dict(call: Call) -> dict[str, object]:
    checks = [{"rule": check.id, "result": check.result, "when": check.when} for check in call.checks]
    callers = [{"name": caller.name, "text": caller.text} for caller in call.callers]
    about = {"call": call.id, "function": call.function, "summary": call.summary, "when": call.when}
    return about | {"checks": checks, "callers": callers}


def _print(
    console: Console, label: str, text: str, *, indent: str | None = None, style: str = "", bold: str = ""
) -> None:
    """Print a paragraph: a label, and a text that is wrapped to the terminal, further lines as far in as the text."""
    further = " " * len(label) if indent is None else indent
    lines = textwrap.wrap(
        f"{label}{text}",
        min(console.width, MOST_WIDTH),
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number, line in enumerate(lines):
        shown = Text(line, style=style)
        if bold and (number == 0 or bold == text):
            shown.stylize("bold", 0, None if bold == text else len(bold))
        console.print(shown, soft_wrap=True)

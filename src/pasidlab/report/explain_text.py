"""An explanation as text: what can be the cause, the likeliest first, what cannot and by which fact, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

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


def print_calls(console: Console) -> None:
    """List the calls, and what can refuse each."""
    for call in CALLS.values():
        _print(console, f"[bold]{call.id}[/bold]  {escape(call.function)}: {escape(call.summary)}")
        if call.when:
            _print(console, f"  {escape(call.when)}")
        results: dict[str, list[str]] = {}
        for check in call.checks:
            results.setdefault(check.result, []).append(check.id)
        for result, ids in results.items():
            _print(console, f"  {result:<11} {escape(', '.join(dict.fromkeys(ids)))}")
        for caller in call.callers:
            _print(console, f"  by {caller.name}: {escape(caller.text)}")


def print_answer(answer: Answer, console: Console, *, most: int | None = None) -> None:
    """Print the answer about a call; `most` is how many causes."""
    _print(console, _header(answer))
    ran = answer.ran
    if ran is not None:
        found = "ok" if ran.result == "ok" else f"{result_text(ran.result)} [{ran.rule}]: {ran.why}"
        _print(console, f"  the model: {escape(found)}")
    _print_causes(answer.causes, console, most)
    for cause in answer.ruled_out:
        fact = f": {cause.fact}" if cause.fact else ""
        _print(console, f"  ruled out  {escape(f'{cause.rule.id} ({cause.result}){fact}')}")
    for note in answer.notes:
        _print(console, f"  note: {escape(note)}")


def _header(answer: Answer) -> str:
    asked = f" gives {result_text(answer.result)}" if answer.result else ": whatever it gives"
    where = f"device {answer.device}, kernel {answer.kernel}" if answer.device else ""
    if not where:
        where = f"kernel {answer.kernel}, no machine given" if answer.kernel else "any kernel, no machine given"
    return f"[bold]{escape(answer.call.function)}[/bold]{asked} ({escape(where)})"


def result_text(result: str) -> str:
    """Write an errno with its number."""
    number = errno_number(result)
    return result if number is None else f"{result} (-{number})"


def _print_causes(causes: list[Cause], console: Console, most: int | None = None) -> None:
    for place, cause in enumerate(causes[:most], start=1):
        style = _STYLES[cause.standing]
        result = f" ({result_text(cause.result)})" if cause.result else ""
        head = f"{place:>3}. [bold]{escape(cause.rule.id)}[/bold]{result}: [{style}]{_WORDS[cause.standing]}[/{style}]"
        _print(console, f"{head}{escape(f', {cause.fact}' if cause.fact else '')}")
        for line in _details(cause):
            _print(console, f"{_INDENT}{escape(line)}")
    hidden = 0 if most is None else len(causes) - most
    if hidden > 0:
        _print(console, f"     and {hidden} more")


def _details(cause: Cause) -> Iterator[str]:
    rule = cause.rule
    source = "" if rule.source == MODEL else f" ({rule.source})"
    yield f"check: {rule.check} in {rule.where}{source}"
    if cause.when:
        yield f"where: {cause.when}"
    if cause.remedy:
        yield f"do: {cause.remedy}"


def print_lines(answers: list[LineAnswer], console: Console) -> None:
    """Print the known lines of a log, each with what stands behind it."""
    for answer in answers:
        _print_line(answer, console)


def _print_line(answer: LineAnswer, console: Console) -> None:
    line, pattern = answer.line, answer.line.pattern
    times = f" ({answer.times} times)" if answer.times > 1 else ""
    _print(console, f"[bold]line {line.number}[/bold]{times}: {escape(line.text)}")
    _print(console, f"  printed by {escape(pattern.printed_by)}")
    if pattern.meaning:
        _print(console, f"  means: {escape(pattern.meaning)}")
    for decoded in line.decoded:
        _print(console, f"  {escape(decoded)}")
    _print_causes(answer.causes, console, MOST_OF_LINE)
    ran = None if answer.answer is None else answer.answer.ran
    if ran is not None and ran.result == "ok":
        _print(console, "  the model: the call succeeds on this machine")
    for note in answer.notes:
        _print(console, f"  note: {escape(note)}")
    if pattern.remedy:
        _print(console, f"  do: {escape(pattern.remedy)}")


MOST_OF_LINE = 6
"""How many causes of a line are printed; --json has all."""


def calls_as_dicts() -> Iterator[dict[str, object]]:
    """Yield each call as a record."""
    for call in CALLS.values():
        yield _call_dict(call)


def _call_dict(call: Call) -> dict[str, object]:
    checks = [{"rule": check.id, "result": check.result, "when": check.when} for check in call.checks]
    callers = [{"name": caller.name, "text": caller.text} for caller in call.callers]
    about = {"call": call.id, "function": call.function, "summary": call.summary, "when": call.when}
    return about | {"checks": checks, "callers": callers}


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)

"""A run as a table of steps by schemes, and under it a sentence for each refusal; a machine without steps in lines."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pasidlab.description import NOBODY
from pasidlab.rules import MODEL, RULES
from pasidlab.runner import Report, StepReport

_OF_DEVICES = ("submit", "complete", "answer", "handoff")
"""Steps whose success has a reason that is worth a sentence."""
_NEXT = (
    "no steps: `pasidlab audit` says what limits each device, `pasidlab explain` why a call fails on it, "
    "`pasidlab check` searches what can happen on two; add steps to try something"
)


def print_reports(reports: list[Report], console: Console) -> None:
    """Print the reports of one scenario, one column each; of a machine without steps, what it is."""
    first = reports[0]
    settings = "".join(f", {key} = {str(value).lower()}" for key, value in first.settings.items())
    title = first.title or ("machine" if first.machine else "scenario")
    header = f"[bold]{escape(title)}[/bold]  (kernel {first.kernel}{settings})"
    console.print(header, highlight=False, soft_wrap=True)
    if first.machine:
        for line in (*map(escape, first.machine), *_findings(reports), _NEXT):
            console.print(line, highlight=False, soft_wrap=True)
        return
    console.print(_table(reports))
    for line in (*_sentences(reports), *_findings(reports)):
        console.print(line, highlight=False, soft_wrap=True)
    unmet = [report.scheme for report in reports if not report.met]
    verdict = f"[red]expectations not met under {', '.join(unmet)}[/red]" if unmet else "all expectations met"
    console.print(verdict, highlight=False)


def _table(reports: list[Report]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("step", overflow="fold")
    for report in reports:
        table.add_column(escape(report.scheme), overflow="fold")
    for steps in zip(*(report.steps for report in reports), strict=True):
        first = steps[0]
        during = f" (during {first.during})" if first.during else ""
        does = f"{first.do} {first.subject}".strip() + during
        table.add_row(str(first.number), escape(does), *(_cell(s) for s in steps))
    return table


def _cell(step: StepReport) -> str:
    outcome = step.outcome
    text = outcome.result
    if outcome.result == "ok" and outcome.pasid is not None:
        text += f" {outcome.pasid}"
    if outcome.work is not None and (step.trespass or outcome.work.owner != NOBODY):
        text += f" in {outcome.work.owner}"
    if step.trespass:
        text += f", not {step.trespass}"
    style = "bold red" if step.trespass else "green" if outcome.result == "ok" else "yellow"
    cell = f"[{style}]{escape(text)}[/{style}]"
    return f"{cell} [red]! {escape('; '.join(step.unmet))}[/red]" if step.unmet else cell


def _sentences(reports: list[Report]) -> Iterator[str]:
    """Say each refusal, each work that landed somewhere and each detail, once for the schemes that agree on it."""
    for steps in zip(*(report.steps for report in reports), strict=True):
        said: dict[str, list[str]] = {}
        for report, step in zip(reports, steps, strict=True):
            text = _sentence(step)
            if text:
                said.setdefault(text, []).append(report.scheme)
        for text, schemes in said.items():
            yield f"{steps[0].number:>3}  [bold]{escape(', '.join(schemes))}[/bold]: {text}"


def _findings(reports: list[Report]) -> Iterator[str]:
    """Say each finding once for the schemes that share it."""
    said: dict[str, list[str]] = {}
    for report in reports:
        for rule, why in report.found:
            said.setdefault(f"{why} [{rule}]", []).append(report.scheme)
    for text, schemes in said.items():
        who = "" if len(schemes) == len(reports) else f" under {', '.join(schemes)}"
        yield f"[bold]finding{escape(who)}[/bold]: {escape(text)}"


def _sentence(step: StepReport) -> str:
    outcome = step.outcome
    if outcome.detail and outcome.result == "ok":
        return escape("; ".join(outcome.detail))
    if outcome.result == "ok" and not (step.do in _OF_DEVICES and outcome.why):
        return ""
    rule = RULES.get(outcome.rule)
    source = f"; {rule.source}" if rule and rule.source != MODEL else ""
    trespass = [f"for {step.trespass}, in the memory of {outcome.work.owner}"] if step.trespass and outcome.work else []
    said = "; ".join([outcome.why, *trespass, *outcome.detail])
    return escape(f"{outcome.result}: {said} [{outcome.rule}{source}]")

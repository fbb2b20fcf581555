"""Lines of a log that are known, each with what stands behind it.

A line that names a call and its result is a question like any other; of the others the rules are known, and a machine
says which of them its model found. Lines that say the same are told once, in the order of the log.

Decided here: where a line names a device by its PCI address and the machine has one of that name, that one is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pasidlab.description import MachineSpec
from pasidlab.errors import InputError
from pasidlab.explain.answer import RANK, Answer, Cause, Question, behind, explain
from pasidlab.explain.check import Standing
from pasidlab.explain.general import sentence_of
from pasidlab.explain.lines_drivers import DRIVER_LINES
from pasidlab.explain.lines_kernel import KERNEL_LINES
from pasidlab.explain.pattern import Pattern
from pasidlab.explain.remedies import remedy_of
from pasidlab.explain.scene import Scene, candidates
from pasidlab.rules import RULES, Finding

PATTERNS = (*DRIVER_LINES, *KERNEL_LINES)
"""Every kind of line; the first that fits a line counts."""
TELLING = frozenset({"unit", "svm-1g-pages", "svm-paging-mode"})
"""Lines that say why others came."""
LONGEST_LINE = 2000
"""Characters of a line that are looked at."""
MOST_ALIKE = 4
"""How many lines are told one by one that differ in numbers only, as addresses of faults do; the others are counted."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ONLY_NUMBERS = re.compile(r"0x[0-9a-fA-F]{16}\s*$")


@dataclass(frozen=True, slots=True)
class Recognised:
    """A line that is known: its text with what followed it, its number, and how often it came."""

    pattern: Pattern
    found: re.Match[str]
    text: str
    number: int

    @property
    def device(self) -> str:
        """The device that the line names, if it names one."""
        return self.found.groupdict().get("device") or ""

    @property
    def result(self) -> str:
        """The result of the call, as the line has it."""
        return self.found.groupdict().get("errno") or self.pattern.result

    @property
    def decoded(self) -> tuple[str, ...]:
        """What the numbers of the line mean."""
        return tuple(self.pattern.decode(self.found))

    @property
    def rules(self) -> tuple[str, ...]:
        """What can stand behind the line, the likeliest first."""
        return tuple(dict.fromkeys((*self.pattern.rules_of(self.found), *self.pattern.rules)))


@dataclass(slots=True)
class LineAnswer:
    """What a line comes to.

    Attributes:
        line: the line.
        times: how often a line that says the same is in the log.
        alike: how many more lines differ from it in their numbers only, and are not told.
        causes: what can stand behind it, the likeliest first.
        answer: the answer about the call that failed, if one did.
        notes: what else there is to say.
    """

    line: Recognised
    times: int = 1
    alike: int = 0
    causes: list[Cause] = field(default_factory=list)
    answer: Answer | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as `pasidlab explain --json` prints it."""
        line = self.line
        return {
            "line": line.number,
            "text": line.text,
            "times": self.times,
            "alike": self.alike,
            "pattern": line.pattern.id,
            "printed_by": line.pattern.printed_by,
            "meaning": line.pattern.meaning,
            "device": line.device or None,
            "decoded": list(line.decoded),
            "causes": [cause.as_dict() for cause in self.causes],
            "remedy": line.pattern.remedy,
            "notes": self.notes,
            "answer": None if self.answer is None else self.answer.as_dict(),
        }


def recognise(log: str) -> Iterator[Recognised]:
    """Yield the known lines of a log."""
    lines = [_plain(line[:LONGEST_LINE]) for line in log.splitlines()]
    for index, line in enumerate(lines):
        for pattern in PATTERNS:
            found = pattern.regex.search(line)
            if found:
                yield _with_following(pattern, found, lines, index)
                break


def _plain(line: str) -> str:
    """Return a line without colours, and without anything else that controls a terminal."""
    line = _COLOUR.sub("", line)
    return (line if line.isprintable() else "".join(char if char.isprintable() else " " for char in line)).rstrip()


def _with_following(pattern: Pattern, found: re.Match[str], lines: list[str], index: int) -> Recognised:
    """Take the lines of numbers that belong to a line with it."""
    text = lines[index]
    for following in lines[index + 1 : index + 1 + pattern.follow]:
        if not _ONLY_NUMBERS.search(following) or "err[0]" in following:
            break
        text = f"{text} {following.strip()}"
    whole = pattern.regex.search(text)
    return Recognised(pattern, whole or found, text.strip(), index + 1)


def explain_log(
    log: str,
    machine: MachineSpec | None = None,
    device: str | None = None,
    kernel: str | None = None,
    scheme: str = "mainline",
    call: str | None = None,
) -> list[LineAnswer]:
    """Explain every known line of a log, lines that say the same once, in order."""
    told: dict[tuple[Any, ...], LineAnswer] = {}
    alike: dict[tuple[Any, ...], list[LineAnswer]] = {}
    for line in recognise(log):
        kind = line.pattern.id, line.device, line.result, line.rules
        key = *kind, line.decoded
        known = alike.setdefault(kind, [])
        if key in told:
            told[key].times += 1
        elif len(known) == MOST_ALIKE and line.pattern.id not in TELLING:
            known[-1].alike += 1
        else:
            told[key] = _explain_line(line, Question(call or line.pattern.call, None, machine, device, kernel, scheme))
            known.append(told[key])
    answers = list(told.values())
    _tell_each_other(answers)
    return answers


def _tell_each_other(answers: list[LineAnswer]) -> None:
    """Let what the log says of remapping units count where a line leaves it open which check of theirs failed."""
    said: dict[str, str] = {}
    for answer in answers:
        if answer.line.pattern.id in TELLING:
            for rule in answer.line.rules:
                said.setdefault(rule, f"line {answer.line.number}: {_says(answer.line)}")
    for answer in answers:
        if answer.line.pattern.id in TELLING:
            continue
        for index, cause in enumerate(answer.causes):
            if cause.standing is Standing.OPEN and cause.rule.id in said:
                answer.causes[index] = replace(cause, standing=Standing.FITS, fact=said[cause.rule.id])
        answer.causes.sort(key=lambda cause: RANK[cause.standing])


def _explain_line(line: Recognised, question: Question) -> LineAnswer:
    answered = LineAnswer(line)
    device = _meant(line, question)
    if question.machine is not None and device is None:
        answered.notes.append("--device says which device of the machine is meant; without it the machine was not used")
    machine = None if device is None else question.machine
    asked = replace(question, machine=machine, device=device, result=line.result or None, iommu=line.pattern.iommu)
    if asked.call:
        answered.answer = _asked(asked, answered)
    answered.causes = list(_causes(line, answered.answer, asked))
    return answered


def _says(line: Recognised) -> str:
    """Return the first thing that a line says."""
    return next(iter(line.decoded), line.pattern.meaning)


def _asked(question: Question, answered: LineAnswer) -> Answer | None:
    """Explain the call of a line; what cannot be asked of this machine is a note."""
    try:
        return explain(question)
    except InputError as error:
        answered.notes.append(f"the call was not tried: {error}")
        return None


def _meant(line: Recognised, question: Question) -> str | None:
    """Return the device that is meant: the one asked for, or the one in the line if the machine has it."""
    if question.device is not None or question.machine is None:
        return question.device
    names = [device.name for device in question.machine.device]
    return next(
        (name for name in names if line.device and name in (line.device, f"0000:{line.device}")), None
    ) or _only(candidates(question.machine))


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _causes(line: Recognised, answer: Answer | None, question: Question) -> Iterator[Cause]:
    """Yield the causes of a line: what the model shows of its call, the rules that stand for it, and what is behind.

    The other checks of the call count only where the line has no rules of its own.
    """
    own = sorted(_of_line(line, question), key=lambda cause: RANK[cause.standing])
    of_call = [] if answer is None else answer.causes
    shown = [cause for cause in of_call if cause.standing is Standing.SHOWN]
    rest = [cause for rule in line.rules for cause in behind(rule, question)] if own else of_call
    known: set[str] = set()
    for cause in (*shown, *own, *rest):
        if cause.rule.id not in known:
            known.add(cause.rule.id)
            yield cause


def _of_line(line: Recognised, question: Question) -> Iterator[Cause]:
    found = _findings(question)
    for rule_id in line.rules:
        rule, finding = RULES[rule_id], found.get(rule_id)
        result = "" if rule.errno is None else rule.errno.name
        standing, fact = (Standing.FITS, _says(line)) if line.pattern.id in TELLING else (Standing.OPEN, "")
        if finding is not None:
            standing, fact = Standing.SHOWN, ""
        device = question.device or line.device
        why = sentence_of(rule, device) if finding is None else finding.why
        yield Cause(0, rule, result, line.pattern.call, why, standing, fact, "", remedy_of(rule, device))


def _findings(question: Question) -> dict[str, Finding]:
    """Return what the model of a machine found out about it, by rule."""
    if question.machine is None:
        return {}
    scene = Scene(question.machine, question.device, question.kernel, question.scheme)
    return {finding.rule.id: finding for finding in reversed(scene.base.kernel.findings)}

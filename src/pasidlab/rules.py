"""Every outcome names its rule: the kernel function and check, or the message of the thread that asked for it.

A `Rule` is declared beside the code that applies it and is found by its id in `RULES`. A call that Linux refuses
returns a `Refusal`: the errno together with the rule, and the facts that the rule's sentence needs. A call that
succeeds for a reason worth telling reports its rule as an event.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pasidlab.errors import Errno, ModelError

RULES: dict[str, Rule] = {}
"""All declared rules by id, in the order of declaration (that of the checks within a function)."""
WAS_RUN = "Linux 6.12.117 and 7.3.4 (run)"
"""Source of what was seen in executed kernels."""
WAS_READ = "Linux 6.12.117 and 7.3.4 (read)"
"""Source of what was read in the kernels' code."""
MODEL = "pasidlab's own"
"""Source of what the model adds around the kernel: devices, scenarios, policies."""


_FACT = re.compile(r"\{(\w+)[^}]*\}")
MOST_LISTED = 8
"""How many holders a sentence lists by name."""


def listing(first: Iterable[str], total: int) -> str:
    """Join the first of `total` items for a sentence, and count the rest; `first` has MOST_LISTED at the most."""
    text = ", ".join(first)
    more = total - MOST_LISTED
    return f"{text}, and {more} more" if more > 0 else text


def listed(items: Sequence[str]) -> str:
    """Join items for a sentence, and count those beyond the first MOST_LISTED."""
    return listing(items[:MOST_LISTED], len(items))


def counted(number: int, what: str) -> str:
    """Count things that have a plural with s: 1 device, 2 devices."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class Level(StrEnum):
    """How much a finding weighs: a note tells, a warning limits, an error keeps something from working."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


GRAVEST_FIRST = (Level.ERROR, Level.WARNING, Level.NOTE)
"""The levels in the order in which findings are told."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of the kernel, of a device or of a scheme.

    Attributes:
        id: `subject.check`, the name under which `pasidlab rules ID` shows it.
        where: the kernel function (file), the specification section, or the scheme.
        check: the condition as the source states it, shortly.
        why: one sentence for people; `{name}` stands for a fact given when the rule is applied.
        errno: what Linux returns when the check fails; None where the rule allows, or the errno is the driver's.
        source: kernel version, specification, or message of the thread.
        remedy: what people can do about it, in a sentence with the facts of `why`; empty where there is nothing to do.
        level: how much a finding of this rule weighs.
    """

    id: str
    where: str
    check: str
    why: str
    errno: Errno | None = None
    source: str = MODEL
    remedy: str = ""
    level: Level = Level.WARNING

    def __post_init__(self) -> None:
        if self.id in RULES:
            raise ModelError(f"rule {self.id!r} is declared twice")
        RULES[self.id] = self

    def refuse(self, errno: Errno | None = None, /, **facts: Any) -> Refusal:
        """Return the refusal that this rule gives; `errno` where it names none, or a caller answers another."""
        answer = errno or self.errno
        if answer is None:
            raise ModelError(f"rule {self.id!r} refuses without an errno")
        return Refusal(self, answer, facts)

    def signal(self, signal: Signal, /, **facts: Any) -> Signalled:
        """Return the signal that this rule sends."""
        return Signalled(self, signal, facts)

    def fault(self, **facts: Any) -> Faulted:
        """Return the fault that this rule raises."""
        return Faulted(self, facts)

    def finding(self, **facts: Any) -> Finding:
        """Return the finding that this rule makes."""
        return Finding(self, facts)

    def sentence(self, facts: dict[str, Any]) -> str:
        """Return `why` with the facts filled in."""
        return self.why.format(**facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return rule_by_id, (self.id,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rule:
        return self


def filled(text: str, known: Mapping[str, str]) -> str:
    """Return a sentence of a rule where only some facts are known; `the unit` stands for an unknown {unit}."""
    return _FACT.sub(lambda fact: known.get(fact[1], f"the {fact[1]}"), text)


def rule_by_id(rule_id: str) -> Rule:
    """Return the declared rule; raises KeyError when there is none."""
    return RULES[rule_id]


class Verdict(ABC):
    """A rule applied: the rule, the facts for its sentence, and the result in one word."""

    __slots__ = ("facts", "rule")

    def __init__(self, rule: Rule, facts: dict[str, Any]) -> None:
        self.rule = rule
        self.facts = facts

    @property
    @abstractmethod
    def result(self) -> str:
        """One word: an errno name, a signal name, or "fault"."""

    @property
    def why(self) -> str:
        """One sentence: the state that caused it."""
        return self.rule.sentence(self.facts)

    @property
    def remedy(self) -> str:
        """What people can do about it; empty where there is nothing to do."""
        return self.rule.remedy.format(**self.facts)

    def __repr__(self) -> str:
        return f"<{self.result} by {self.rule.id}>"


class Refusal(Verdict):
    """What a refused call returns, in the place of the kernel's negative number or ERR_PTR."""

    __slots__ = ("errno",)

    def __init__(self, rule: Rule, errno: Errno, facts: dict[str, Any]) -> None:
        self.rule = rule
        self.errno = errno
        self.facts = facts

    @property
    def result(self) -> str:
        """The errno's name."""
        return self.errno.name


class Signal(StrEnum):
    """What Linux sends to a task whose instruction cannot be executed."""

    SIGSEGV = "SIGSEGV"
    SIGILL = "SIGILL"
    SIGBUS = "SIGBUS"


class Signalled(Verdict):
    """The task was stopped by a signal."""

    __slots__ = ("signal",)

    def __init__(self, rule: Rule, signal: Signal, facts: dict[str, Any]) -> None:
        super().__init__(rule, facts)
        self.signal = signal

    @property
    def result(self) -> str:
        """The signal's name."""
        return self.signal.value


class Faulted(Verdict):
    """The device's access did not happen: the IOMMU, or the process's memory, did not allow it."""

    __slots__ = ()

    @property
    def result(self) -> str:
        """Always the word "fault"."""
        return "fault"


class Finding(Verdict):
    """What users should know of a machine though no call has failed for it: limits that disagree, a missing feature."""

    __slots__ = ()

    @property
    def result(self) -> str:
        """Always the word "finding"."""
        return "finding"

    @property
    def more(self) -> int:
        """How many more findings of the rule there are, which are only counted."""
        return 0

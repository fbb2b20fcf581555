"""One check of a call: its rule, where it exists, and what of a machine bears on it.

A call is an ordered list of checks, in the kernel's order. A check is never computed again here: the call is run on the
model, once as the machine stands and once in each state that a check needs, and what the model answers decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pasidlab.errors import Errno, ModelError
from pasidlab.linux.profiles import Profile
from pasidlab.rules import RULES, Rule

if TYPE_CHECKING:
    from pasidlab.explain.scene import Scene, Stage


class Standing(StrEnum):
    """How a check stands: the model met it, meets it in some state, nothing decides it, or it cannot be the cause."""

    SHOWN = "shown"
    FITS = "fits"
    OPEN = "open"
    RULED_OUT = "ruled out"


@dataclass(frozen=True, slots=True)
class Judged:
    """A standing and the fact behind it.

    Attributes:
        standing: how a check stands.
        fact: by which fact or state.
        why: what the model says where it met the check; empty where it did not.
    """

    standing: Standing
    fact: str = ""
    why: str = ""


Fact = Callable[["Scene"], str]
Bring = Callable[["Stage", int], str]
"""Brings a state about on a machine; what it returns says why that cannot be, and is empty if it can."""


@dataclass(frozen=True, slots=True)
class State:
    """What the outcome of a call can depend on besides the machine's description.

    Attributes:
        words: the state, as it follows "if".
        bring: how to bring it about; None where the model has no way, so that the check stays open.
        tries: how many variants there are, `bring` getting the number of each, from 1.
    """

    words: str
    bring: Bring | None = None
    tries: int = 1


def _always(profile: Profile) -> bool:
    return True


def _silent(scene: Scene) -> str:
    return ""


def _known(scene: Scene) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a call.

    Attributes:
        id: of its rule.
        when: which kernels or machines have it, in words; empty where all have.
        exists: which kernels have it.
        drivers: which IOMMU drivers have it; empty is all, and the core itself.
        arch: which architecture has it; empty is all.
        fact: what of a machine bears on it, in words.
        state: what state it needs; None where the machine alone decides.
        unknown: whether the machine's description leaves it open, so that passing it on the model proves nothing.
        answer: the errno that it gives, where its rule names none.
    """

    id: str
    when: str = ""
    exists: Callable[[Profile], bool] = _always
    drivers: frozenset[str] = frozenset()
    arch: str = ""
    fact: Fact = _silent
    state: State | None = None
    unknown: Callable[[Scene], bool] = _known
    answer: Errno | str | None = None

    @property
    def rule(self) -> Rule:
        """The rule of the model, or one that is declared here."""
        return RULES[self.id]

    @property
    def result(self) -> str:
        """What the call gives when the check fails: the name of an errno or of a signal."""
        if isinstance(self.answer, str):
            return self.answer
        errno = self.answer or self.rule.errno
        if errno is None:
            raise ModelError(f"check {self.id!r} names no errno")
        return errno.name

    def absent(self, scene: Scene) -> str:
        """Say why a kernel or machine does not have the check; empty if it has it, or if nothing is known."""
        if not scene.any_kernel and not self.exists(scene.profile):
            return f"kernel {scene.kernel} has no such check ({self.when})"
        if self.arch and scene.arch not in ("", self.arch):
            return f"the CPUs are {scene.arch}, not {self.arch}"
        if self.drivers and scene.driver and scene.driver not in self.drivers:
            return scene.behind
        return ""

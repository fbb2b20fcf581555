"""What a question comes to: the checks that can give an errno, how each stands, and what to do about it.

With a machine and a device each check is tried on the model: the call as the machine stands shows at most one, and
each state that the model can bring about shows whether it would lead to its check. What comes out is ordered: shown,
possible in a state, open, in the kernel's order each; what cannot be is told with the fact that rules it out.

Decided here: where the model gives another errno than the asked one and a driver in between is known to change it, the
model's check comes first, since the driver hid it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pasidlab.description import MachineSpec
from pasidlab.errors import Errno, InputError
from pasidlab.explain import own_rules  # noqa: F401 - importing it declares its rules
from pasidlab.explain.calls import Call, call_of
from pasidlab.explain.check import Check, Judged, Standing
from pasidlab.explain.checks_idxd import BECAUSE
from pasidlab.explain.errnos import read_result
from pasidlab.explain.general import sentence_of
from pasidlab.explain.remedies import remedy_of
from pasidlab.explain.scene import MOST_BITS, Scene, Stage
from pasidlab.outcome import Outcome, holder_text
from pasidlab.rules import Rule

NUMBERS_RUN_OUT = frozenset({"bind.no-number-free", "alloc-global.none", "idxd.no-kernel-number"})
"""Checks that fail once others hold the numbers."""
RANK = {Standing.SHOWN: 0, Standing.FITS: 1, Standing.OPEN: 2, Standing.RULED_OUT: 3}


@dataclass(frozen=True, slots=True)
class Question:
    """A question: why a call gave that.

    Attributes:
        call: the id of the call.
        result: an errno by name or number, or a signal; None asks for whatever the call can give.
        machine: the machine that it happened on, if known.
        device: its device; the only one that carries PASIDs need not be named.
        kernel: the profile of its kernel; None is what the machine says, or any.
        scheme: the design that the kernel runs.
        iommu: without a machine, the IOMMU driver that can be meant: arm-smmu-v3, intel-vtd, amd-vi; empty for any.
    """

    call: str
    result: str | int | None = None
    machine: MachineSpec | None = None
    device: str | None = None
    kernel: str | None = None
    scheme: str = "mainline"
    iommu: str = ""

    def of(self, call: str, result: str | None = None) -> Question:
        """Return the same question about another call."""
        return replace(self, call=call, result=result)


@dataclass(frozen=True, slots=True)
class Cause:
    """A check that can be the cause.

    Attributes:
        number: its place in the kernel's order, from 1; 0 for what is no check of the call itself.
        rule, result: the rule of the check, and what it gives.
        call: the call that it belongs to.
        why: what is so then, in a sentence: the model's where it met the check.
        standing, fact: how it stands, and by which fact or state.
        when: which kernels or machines have it, in words.
        remedy: what to do.
    """

    number: int
    rule: Rule
    result: str
    call: str
    why: str
    standing: Standing
    fact: str = ""
    when: str = ""
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as `pasidlab explain --json` prints it."""
        return {
            "number": self.number,
            "rule": self.rule.id,
            "result": self.result,
            "call": self.call,
            "why": self.why,
            "standing": self.standing.value,
            "fact": self.fact,
            "when": self.when,
            "where": self.rule.where,
            "check": self.rule.check,
            "source": self.rule.source,
            "remedy": self.remedy,
        }


@dataclass(slots=True)
class Answer:
    """What a question comes to.

    Attributes:
        call: the call.
        result: what was asked about; empty for everything.
        kernel: the kernel's profile; empty for any.
        device: the device; empty without a machine.
        ran: what the call came to on the model; None if it was not run.
        causes: what can be the cause, the likeliest first.
        ruled_out: what cannot, in the kernel's order.
        notes: what else there is to say, in sentences.
    """

    call: Call
    result: str
    kernel: str
    device: str = ""
    ran: Outcome | None = None
    causes: list[Cause] = field(default_factory=list)
    ruled_out: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as `pasidlab explain --json` prints it."""
        ran = self.ran
        return {
            "call": self.call.id,
            "function": self.call.function,
            "result": self.result or None,
            "kernel": self.kernel or None,
            "device": self.device or None,
            "model": None if ran is None else {"result": ran.result, "rule": ran.rule or None, "why": ran.why},
            "causes": [cause.as_dict() for cause in self.causes],
            "ruled_out": [cause.as_dict() for cause in self.ruled_out],
            "notes": self.notes,
        }


def explain(question: Question) -> Answer:
    """Answer a question; InputError for a call, result, kernel, scheme or device that there is not."""
    call = call_of(question.call)
    result = "" if question.result is None else read_result(question.result)
    scene = Scene(question.machine, question.device, question.kernel, question.scheme, question.iommu)
    kernel = "" if scene.any_kernel else scene.kernel
    answer = Answer(call, result, kernel, scene.device)
    if call.idxd and scene.described and not scene.device_spec.is_idxd:
        raise InputError(f"--call {call.id}: {scene.device} is no DSA or IAA; only a device of kind dsa or iaa has it")
    if call.pci and scene.described and scene.device_spec.kind == "narrow":
        raise InputError(f"--call {call.id}: {scene.device} is no PCI function; firmware says how many PASIDs it has")
    if not scene.any_kernel and not call.exists(scene.profile):
        answer.notes.append(f"kernel {scene.kernel} has no {call.function}: {call.when}")
        return answer
    if scene.described and not scene.iommu_unknown:
        answer.ran = _run(call, scene.stage())
    _judge_all(answer, scene)
    _tell_of_model(answer)
    _tell_of_numbers(answer, scene)
    _tell_of_unknown(answer, scene)
    _go_deeper(answer, question)
    return answer


def _judge_all(answer: Answer, scene: Scene) -> None:
    """Put each check where it belongs."""
    causes = [_cause(answer, scene, number, check) for number, check in enumerate(answer.call.checks, start=1)]
    wanted = [cause for cause in causes if answer.result in ("", cause.result)]
    answer.causes = sorted(
        (cause for cause in wanted if cause.standing is not Standing.RULED_OUT), key=lambda cause: RANK[cause.standing]
    )
    answer.ruled_out = [cause for cause in wanted if cause.standing is Standing.RULED_OUT]


def _cause(answer: Answer, scene: Scene, number: int, check: Check) -> Cause:
    judged = _judge(answer, scene, check)
    rule = check.rule
    shown = answer.ran if judged.standing is Standing.SHOWN else None
    result = check.result if shown is None else shown.result
    why = judged.why or sentence_of(rule, scene.device)
    remedy = remedy_of(rule, scene.device)
    return Cause(number, rule, result, answer.call.id, why, judged.standing, judged.fact, check.when, remedy)


def _judge(answer: Answer, scene: Scene, check: Check) -> Judged:
    absent = check.absent(scene)
    if absent:
        return Judged(Standing.RULED_OUT, absent)
    if answer.ran is not None and answer.ran.rule == check.id and answer.ran.result != "ok":
        return Judged(Standing.SHOWN, why=answer.ran.why)
    doubt = scene.doubt(check.id)
    if doubt:
        return Judged(Standing.OPEN, doubt)
    if answer.ran is None:
        return Judged(Standing.OPEN, f"if {check.state.words}" if check.state else "")
    if check.state is None:
        return Judged(Standing.OPEN if check.unknown(scene) else Standing.RULED_OUT, check.fact(scene))
    if check.state.bring is None:
        return Judged(Standing.OPEN, f"if {check.state.words}")
    return _try(answer.call, scene, check)


def _try(call: Call, scene: Scene, check: Check) -> Judged:
    """Bring a check's state about, and see whether the call fails by it."""
    state = check.state
    assert state is not None
    assert state.bring is not None
    reached: Outcome | None = None
    for variant in range(1, state.tries + 1):
        stage = scene.stage()
        call.before(stage)
        why_not = state.bring(stage, variant)
        if why_not:
            return Judged(Standing.RULED_OUT, f"not possible that {state.words}: {why_not}")
        reached = call.run(stage)
        if reached.rule == check.id and reached.result != "ok":
            return Judged(Standing.FITS, f"if {state.words}", reached.why)
    assert reached is not None
    met = "the call succeeds" if reached.result == "ok" else f"the call meets {reached.rule} ({reached.result})"
    return Judged(Standing.RULED_OUT, f"even if {state.words}, {met}")


def _run(call: Call, stage: Stage) -> Outcome:
    call.before(stage)
    return call.run(stage)


# --- beyond the checks ---------------------------------------------------------------------------------------------


def _tell_of_model(answer: Answer) -> None:
    """Say what the model did, and what drivers in between make of an errno."""
    ran = answer.ran
    if ran is not None and answer.result and ran.result != answer.result:
        did = "succeeds" if ran.result == "ok" else f"gives {ran.result} [{ran.rule}]: {ran.why}"
        answer.notes.append(f"on the model, with a process that has done nothing yet, the call {did}")
    for caller in answer.call.callers:
        if caller.gives is not None and answer.result == caller.gives.name:
            answer.notes.append(f"{caller.name}: {caller.text}")
            _add_hidden(answer)
        for errno, rule_id in caller.own:
            if answer.result == errno.name:
                answer.notes.append(f"{caller.name} gives {errno.name} by itself, too [{rule_id}]")
    if answer.result and not answer.causes and ran is not None:
        answer.notes.append(f"no check of {answer.call.function} gives {answer.result} on this machine")


def _tell_of_numbers(answer: Answer, scene: Scene) -> None:
    """Say who holds numbers of the device before any process has bound, where numbers can run out."""
    if answer.ran is None or NUMBERS_RUN_OUT.isdisjoint(cause.rule.id for cause in answer.causes):
        return
    last = scene.base.dev.max_pasids - 1
    held = tuple(holder for holder in scene.base.kernel.holders() if holder[0] <= last)
    if held:
        answer.notes.append(f"of 1..{last}, {len(held)} are taken before any process binds: {holder_text(held)}")


def _tell_of_unknown(answer: Answer, scene: Scene) -> None:
    """Say what was supposed since it is not known, and that nothing was run where the IOMMU is not known."""
    if not scene.described:
        return
    if scene.iommu_unknown:
        answer.notes.append(f"the call was not tried on the model: {scene.iommu_unknown}")
    for why in scene.supposed.values():
        answer.notes.append(f"the model takes it for a device with {MOST_BITS} bits of PASIDs: {why}")


def _add_hidden(answer: Answer) -> None:
    """Put what the model gave first, where a driver hides it."""
    ran = answer.ran
    hidden = ran is not None and ran.result not in ("ok", answer.result)
    if ran is None or not hidden or any(cause.rule.id == ran.rule for cause in answer.causes):
        return
    for number, check in enumerate(answer.call.checks, start=1):
        if check.id == ran.rule:
            remedy = remedy_of(check.rule, answer.device)
            standing = Standing.SHOWN
            shown = Cause(number, check.rule, ran.result, answer.call.id, ran.why, standing, "", check.when, remedy)
            answer.causes.insert(0, shown)
            return


def _go_deeper(answer: Answer, question: Question) -> None:
    """Add the causes of the call that stands behind the first cause, where another does."""
    if not answer.causes or (answer.ran is not None and answer.causes[0].standing is not Standing.SHOWN):
        return
    known = {cause.rule.id for cause in answer.causes}
    deeper = behind(answer.causes[0].rule.id, question)
    answer.causes[1:1] = [cause for cause in deeper if cause.rule.id not in known]


def behind(rule: str, question: Question) -> list[Cause]:
    """Return the causes of the call that stands behind a rule, if another does.

    Where the kernel has no such call, a bind finds the same out.
    """
    call = BECAUSE.get(rule)
    if call is None or call == question.call:
        return []
    deeper = explain(question.of(call))
    if not deeper.causes and not deeper.ruled_out:
        deeper = explain(question.of("bind"))
    return list(_deciding(deeper))


def _deciding(deeper: Answer) -> Iterator[Cause]:
    """Yield what the model showed of a call; without a model all that can be."""
    for cause in deeper.causes:
        if deeper.ran is None or cause.standing is Standing.SHOWN:
            yield cause


def errno_number(result: str) -> int | None:
    """Return the number of an errno; None for a signal."""
    return Errno[result].value if result in Errno.__members__ else None

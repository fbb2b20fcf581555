"""Check a world under schemes: which engine searches, what the search came to, and the traces of what it found.

Decided here: a `sometimes` that was not reached counts only when every state was searched; before that nothing is known
of it. A violation is one whatever stopped the search later; an interruption is told as such even then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec

from pasidlab.decode import convert
from pasidlab.errors import InputError
from pasidlab.explore.action import Verb
from pasidlab.explore.properties import Property
from pasidlab.explore.trace import Trace, trace_of
from pasidlab.explore.verdict import UNLIMITED, Engine, Found, Limits, Progress, Status
from pasidlab.explore.wanted import Goal, always, check_sometimes, goal_text, sometimes
from pasidlab.explore.world import World
from pasidlab.runner import settings_of
from pasidlab.schemes import Options, Scheme

MIB = 1 << 20
MACHINE_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""How many bytes of memory this machine has."""
MOST_NAMES = 8
"""Of more processes or devices, not all are listed."""
Telling = Callable[[str, Progress], None]
"""Told now and then how far the search under a scheme has come."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A property as reports show it."""

    name: str
    rule: str
    source: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a search says of a world under a scheme.

    Attributes:
        world: its title.
        shape: how many processes, devices and numbers it has.
        settings: the options and switches that differ from their defaults.
        note: why the engine is not the compiled one; else empty.
        claims: what had to hold in every state and step.
        goals: what had to be reached.
        unreached: of these, what was not, though every state was searched.
        traces: a shortest way to break each property that was found broken.
        assumed: what may happen, and in which order drivers take things away.
        never: the actions that were allowed and could not be taken in any state, if every state was searched.
    """

    world: str
    shape: str
    scheme: str
    kernel: str
    settings: dict[str, Any]
    engine: Engine
    note: str
    status: Status
    found: Found
    claims: tuple[Claim, ...]
    goals: tuple[str, ...]
    unreached: tuple[str, ...]
    traces: tuple[Trace, ...]
    assumed: str = ""
    never: tuple[str, ...] = ()

    def of_property(self, name: str) -> Literal["holds", "violated", "undecided"]:
        """Say what the search knows of one property."""
        if self.trace(name) is not None:
            return "violated"
        return "holds" if self.found.complete else "undecided"

    def of_goal(self, goal: str) -> bool | None:
        """Return whether a `sometimes` was reached, None where the search did not come far enough to say."""
        if goal in self.unreached:
            return False
        reached = {goal_text(one) for one, count in self.found.reached.items() if count}
        return True if goal in reached else None

    def trace(self, name: str) -> Trace | None:
        """Return the trace that breaks a property, None when none was found."""
        return next((trace for trace in self.traces if trace.property == name), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to search.

    Attributes:
        properties: names, or FILE.py:FUNCTION, of what must hold; none are those of the world.
        limits: each that is given overrides the world's own.
        engine: None is the compiled one where it can.
        workers: how many threads the compiled engine has.
        options: of the schemes, overriding the world's own.
        keep_going: search to the end although something was found.
    """

    properties: tuple[str, ...] = ()
    limits: Limits = UNLIMITED
    symmetry: bool = True
    engine: Engine | None = None
    workers: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    keep_going: bool = False


def check(
    world: World,
    schemes: Iterable[type[Scheme]],
    *,
    properties: Iterable[str] = (),
    limits: Limits = UNLIMITED,
    symmetry: bool = True,
    engine: Engine | None = None,
    workers: int = 1,
    options: dict[str, Any] | None = None,
    keep_going: bool = False,
    progress: Telling | None = None,
) -> list[Verdict]:
    """Search a world under each scheme; `Plan` says what the arguments are.

    InputError for what a user did wrong: a property that there is not, one that raises, an engine that cannot.
    """
    plan = Plan(tuple(properties), limits, symmetry, engine, workers, options or {}, keep_going)
    classes = list(schemes)
    check_plan(world, classes, plan)
    return list(verdicts(world, classes, plan, progress))


def verdicts(
    world: World, schemes: Iterable[type[Scheme]], plan: Plan, progress: Telling | None = None
) -> Iterator[Verdict]:
    """Search a world under each scheme, and yield each verdict when it is there; an interruption ends it."""
    world = with_options(world, plan.options)
    wanted = always(world, plan.properties)
    for scheme in schemes:
        engine, note = choose_engine(world, scheme, plan.engine)
        goals = sometimes(world, scheme.name)
        tell = None if progress is None else partial(progress, scheme.name)
        found = _search(world, scheme, wanted, engine, plan, tell)
        verdict = _verdict(world, scheme, wanted, goals, engine, note, found)
        yield verdict
        if verdict.status is Status.INTERRUPTED:
            return


def prepare(world: World, scheme: type[Scheme], plan: Plan) -> bool:
    """Have compiled what the search of a world needs, and return whether it is a compiled search at all."""
    world = with_options(world, plan.options)
    engine, _ = choose_engine(world, scheme, plan.engine)
    if engine is Engine.READABLE:
        return False
    first = Plan(limits=Limits(states=1), symmetry=plan.symmetry)
    if _search(world, scheme, (), engine, first, None).stopped_by == "interrupted":
        raise KeyboardInterrupt
    return True


def check_plan(world: World, schemes: Iterable[type[Scheme]], plan: Plan) -> None:
    """Raise InputError for what of a plan can be seen to be wrong before the search."""
    classes = list(schemes)
    world = with_options(world, plan.options)
    always(world, plan.properties)
    check_sometimes(world, [scheme.name for scheme in classes])
    for scheme in classes:
        choose_engine(world, scheme, plan.engine)


def with_options(world: World, options: dict[str, Any]) -> World:
    """Return the world with options of its schemes overridden."""
    if not options:
        return world
    changed = convert(msgspec.structs.asdict(world.options) | options, Options)
    return msgspec.structs.replace(world, options=changed)


def shape_of(world: World) -> str:
    """Say how large a world is."""
    names = _listed([tasks[0] for tasks in world.processes])
    threads = sorted({len(tasks) for tasks in world.processes})
    each = f" of {' or '.join(map(str, threads))} threads" if threads != [1] else ""
    devices = _listed([device.name for device in world.devices])
    return (
        f"{_counted(len(world.processes), 'process', 'processes')}{each} ({names}), "
        f"{_counted(len(world.devices), 'device', 'devices')} ({devices}), "
        f"{_counted(world.numbers, 'number', 'numbers')}"
    )


def assumptions_of(world: World) -> str:
    """Say what may happen in a world, and in which order drivers take things away if they ever do."""
    said = [f"may happen: {', '.join(dict.fromkeys(world.actions))}"]
    if {Verb.UNBIND, Verb.EXIT} & world.verbs:
        said.append(f"drivers of devices {', '.join(world.teardown.driver)}")
        cached = "" if any(spec.caches for spec in world.machine.iommu) else " (nothing is cached)"
        said.append(f"those of IOMMUs take away {', '.join(world.teardown.iommu)}{cached}")
    return "; ".join(said)


def _listed(names: list[str]) -> str:
    """Write names, and of many the first and the last."""
    return " ".join(names) if len(names) <= MOST_NAMES else f"{names[0]} {names[1]} ... {names[-1]}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def choose_engine(world: World, scheme: type[Scheme], asked: Engine | None) -> tuple[Engine, str]:
    """Return the engine for a world under a scheme, and why it is not the compiled one."""
    from pasidlab.explore.compiled.supported import unsupported

    if asked is Engine.READABLE:
        return asked, ""
    reason = unsupported(world, scheme)
    if reason is None:
        return Engine.COMPILED, ""
    if asked is Engine.COMPILED:
        raise InputError(f"engine 'compiled': not for this world under {scheme.name}: {reason}")
    return Engine.READABLE, f"searched by the readable engine: {reason}"


def _bounds(world: World, limits: Limits) -> Limits:
    """Return the limits, the world's own where none is given; memory has one in any case, as a machine has."""
    own = world.bounds
    memory = MACHINE_MEMORY * 3 // 4 if own.memory is None else own.memory * MIB
    return Limits(
        own.states if limits.states is None else limits.states,
        own.seconds if limits.seconds is None else limits.seconds,
        own.depth if limits.depth is None else limits.depth,
        memory if limits.memory is None else limits.memory,
    )


def _search(
    world: World,
    scheme: type[Scheme],
    wanted: Sequence[Property],
    engine: Engine,
    plan: Plan,
    progress: Callable[[Progress], None] | None,
) -> Found:
    """Let an engine search; each is imported when it is needed, since the compiled one takes its time."""
    search: Callable[..., Found]
    if engine is Engine.READABLE:
        from pasidlab.explore.search import search
    else:
        from pasidlab.explore.compiled.engine import search as compiled_search

        search = partial(compiled_search, workers=plan.workers)
    bounds = _bounds(world, plan.limits)
    return search(world, scheme, wanted, bounds, symmetry=plan.symmetry, keep_going=plan.keep_going, progress=progress)


def _verdict(
    world: World,
    scheme: type[Scheme],
    wanted: Sequence[Property],
    goals: Sequence[Goal],
    engine: Engine,
    note: str,
    found: Found,
) -> Verdict:
    unreached = tuple(goal_text(goal) for goal in goals if found.complete and not found.reached.get(goal))
    by_name = {one.name: one for one in wanted}
    return Verdict(
        world=world.title,
        shape=shape_of(world),
        scheme=scheme.name,
        kernel=world.kernel,
        settings=settings_of(world),
        engine=engine,
        note=note,
        status=_status(found, unreached),
        found=found,
        claims=tuple(Claim(one.name, one.rule, one.source) for one in wanted),
        goals=tuple(goal_text(goal) for goal in goals),
        unreached=unreached,
        traces=tuple(trace_of(world, scheme, one, by_name[one.property]) for one in found.counterexamples),
        assumed=assumptions_of(world),
        never=_never(world, found),
    )


def _never(world: World, found: Found) -> tuple[str, ...]:
    """Return the verbs that were never taken; RESUME is no action of its own."""
    taken = {verb for (verb, _), count in found.reached.items() if count}
    idle = world.verbs - taken - {Verb.RESUME} if found.complete else ()
    return tuple(verb.name.lower() for verb in sorted(idle))


def _status(found: Found, unreached: Sequence[str]) -> Status:
    if found.stopped_by == "interrupted":
        return Status.INTERRUPTED
    if found.counterexamples or unreached:
        return Status.VIOLATED
    return Status.HOLDS if found.complete else Status.STOPPED

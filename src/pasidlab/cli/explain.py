"""`pasidlab explain`: why a call gave that errno, or what a line of a log means, on a machine and in general."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pasidlab.cli.common import console, print_json
from pasidlab.errors import InputError

if TYPE_CHECKING:
    from pasidlab.description import MachineSpec
    from pasidlab.explain import LineAnswer, Question

UNKNOWN = 1
"""Exit status where nothing of a log is known, or no check of this machine gives the errno."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        epilog="Example: pasidlab explain -28 --call bind --machine scenarios/narrow.toml --device npu0",
        context_settings={"ignore_unknown_options": True},
    )(explain)


def explain(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[ERRNO|LOGLINE|-]",
            help="-28, 28 or ENOSPC; a line of a log, in quotes; - reads a log from standard input.",
            show_default=False,
        ),
    ] = None,
    call: Annotated[str | None, typer.Option(help="Which call; without argument they are listed.")] = None,
    machine: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The machine: TOML, a capture, a host's root, or one of its tables."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Its device; needed where several carry PASIDs.")] = None,
    kernel: Annotated[
        str | None, typer.Option(help="Profile of the kernel; else what the machine says, or any.")
    ] = None,
    scheme: Annotated[str, typer.Option(help="mainline, rfc, v2 or hybrid.")] = "mainline",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for programs.")] = False,
) -> None:
    """Say which checks can give an errno, what to do about each, and which of them this machine rules out.

    With a machine and a device the call is made on the model. Exit status 1 if nothing of a log is known, or no check
    can give the errno on this machine; 2 for bad input.
    """
    from pasidlab.explain.errnos import is_result

    _check_argument(what)
    if device is not None and machine is None:
        raise InputError(f"--device {device!r}: needs --machine, the machine that has it")
    spec = None if machine is None else _load(machine)
    if what is None and call is None:
        _list_calls(as_json=as_json)
    elif what is None or is_result(what):
        _explain_call(what, call, spec, device, kernel, scheme, as_json=as_json)
    else:
        log = _standard_input() if what == "-" else what
        _explain_log(log, spec, device, kernel, scheme, call, as_json=as_json)


def _check_argument(what: str | None) -> None:
    """Refuse what looks like an option: negative numbers are let through, and others with them."""
    if what is not None and what.startswith("-") and what != "-" and not what[1:].isdigit():
        raise InputError(f"{what}: no such option; `pasidlab explain --help` lists them")


def _load(path: Path) -> MachineSpec:
    """Return the machine of a file, also with the devices that carry no PASIDs: one of them may be asked about."""
    from pasidlab.platforms.importing import load_machine

    return load_machine(path, every=True)


def _standard_input() -> str:
    """Read a log; bytes that are no UTF-8 are replaced, as a log may have any."""
    if sys.stdin is None:
        raise InputError("-: standard input is closed")
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def _list_calls(*, as_json: bool) -> None:
    from pasidlab.report.explain_text import calls_as_dicts, print_calls

    if as_json:
        for record in calls_as_dicts():
            print_json(record)
    else:
        print_calls(console())


def _explain_call(
    what: str | None,
    call: str | None,
    spec: MachineSpec | None,
    device: str | None,
    kernel: str | None,
    scheme: str,
    *,
    as_json: bool,
) -> None:
    from pasidlab.explain import Question

    if call is None:
        raise InputError(f"--call: must say which call gave {what}; {_calls_that_give(what or '')}")
    _answer(Question(call, what, spec, device, kernel, scheme), as_json=as_json)


def _calls_that_give(what: str) -> str:
    """Say which calls can give an errno; InputError where it is none."""
    from pasidlab.explain import CALLS
    from pasidlab.explain.errnos import read_result

    result = read_result(what)
    able = [call.id for call in CALLS.values() if result in {check.result for check in call.checks}]
    return f"those that can give {result}: {', '.join(able)}" if able else f"known: {', '.join(CALLS)}"


def _answer(question: Question, *, as_json: bool) -> None:
    from pasidlab.explain import explain as answer_of
    from pasidlab.report.explain_text import print_answer

    answer = answer_of(question)
    if as_json:
        print_json(answer.as_dict())
    else:
        print_answer(answer, console())
    if answer.result and not answer.causes:
        raise typer.Exit(UNKNOWN)


def _explain_log(
    log: str,
    spec: MachineSpec | None,
    device: str | None,
    kernel: str | None,
    scheme: str,
    call: str | None,
    *,
    as_json: bool,
) -> None:
    from pasidlab.explain import explain_log

    answers = explain_log(log, spec, device, kernel, scheme, call)
    _show_lines(answers, as_json=as_json)
    if not answers:
        print("pasidlab: no line of this is known; `pasidlab explain` lists the calls", file=sys.stderr)
        raise typer.Exit(UNKNOWN)


def _show_lines(answers: list[LineAnswer], *, as_json: bool) -> None:
    from pasidlab.report.explain_text import print_lines

    if as_json:
        for answer in answers:
            print_json(answer.as_dict())
    else:
        print_lines(answers, console())

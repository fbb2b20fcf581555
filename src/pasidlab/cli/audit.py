"""`pasidlab audit`: how many PASIDs each device of a machine has, what bounds them, what is wrong, and what differs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pasidlab.cli.common import console, print_json, read_options

if TYPE_CHECKING:
    from pasidlab.audit import Audit
    from pasidlab.description import MachineSpec
    from pasidlab.schemes import Scheme

WIDTH = 120
AMISS = 1
"""Exit status where a finding is an error, or two machines differ in what bears on SVA."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog="Example: pasidlab audit docs/examples/machines/server.toml")(audit)


def audit(
    machine: Annotated[
        Path,
        typer.Argument(
            metavar="MACHINE",
            help="A machine or scenario in TOML, a capture, or what `pasidlab import` takes.",
            show_default=False,
        ),
    ],
    compare: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Say what differs from another machine, and nothing else.")
    ] = None,
    scheme: Annotated[str, typer.Option(help="NAME, a comma-separated list, or all: whose rooms are counted.")] = "all",
    kernel: Annotated[
        str | None, typer.Option(help="Kernel profile, e.g. v6.12; else what the description says.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="KEY=VALUE, an option of the schemes, e.g. guard=none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for programs.")] = False,
) -> None:
    """Say what each device's PASIDs come to: how many are usable, what bounds them, how many processes fit.

    Exit status 0, 1 when a finding is an error or, with --compare, when the machines differ in what bears on SVA, 2 for
    bad input.
    """
    from pasidlab.schemes import find_schemes

    schemes, options = find_schemes(scheme), read_options(option or [])
    first = _audited(machine, schemes, kernel, options)
    if compare is None:
        _print_one(first, machine, as_json=as_json)
        raise typer.Exit(AMISS if first.has_error else 0)
    second = _audited(compare, schemes, kernel, options)
    raise typer.Exit(AMISS if _print_comparison(first, second, (str(machine), str(compare)), as_json=as_json) else 0)


def load(path: Path) -> MachineSpec:
    """Return the machine of a file, whatever it is."""
    from pasidlab.platforms import load_machine

    return load_machine(path)


def _audited(path: Path, schemes: list[type[Scheme]], kernel: str | None, options: dict[str, Any]) -> Audit:
    """Audit the machine of a file, with what the command line changes of it."""
    from msgspec import structs

    from pasidlab.audit import audit as audit_machine
    from pasidlab.errors import blamed_on
    from pasidlab.linux.profiles import profile

    spec = load(path)
    if kernel is not None:
        spec = structs.replace(spec, kernel=profile(kernel).name)
    if options:
        spec = structs.replace(spec, options=structs.replace(spec.options, **options))
    with blamed_on(path):
        return audit_machine(spec, schemes)


def _title(audit: Audit, path: Path) -> str:
    return getattr(audit.spec, "title", "") or str(path)


def _print_one(audit: Audit, path: Path, *, as_json: bool) -> None:
    from pasidlab.report.audit_json import audit_records
    from pasidlab.report.audit_text import print_audit

    if as_json:
        for record in audit_records(audit, str(path)):
            print_json(record)
    else:
        print_audit(audit, _title(audit, path), console(width=WIDTH))


def _print_comparison(first: Audit, second: Audit, names: tuple[str, str], *, as_json: bool) -> bool:
    """Print what differs, and say whether it matters."""
    from pasidlab.audit import compare as compare_audits
    from pasidlab.report.audit_json import comparison_records
    from pasidlab.report.audit_text import print_differences, summary_of_differences
    from pasidlab.report.findings import counts_text

    differences = compare_audits(first, second)
    if as_json:
        for record in comparison_records(differences, first, second, names):
            print_json(record)
    else:
        print_differences(differences, names, console(width=WIDTH))
        print(summary_of_differences(differences))
        for name, audited in zip(names, (first, second), strict=True):
            print(f"{name}: {counts_text(audited.findings)}")
    return any(difference.bears for difference in differences) or first.has_error or second.has_error

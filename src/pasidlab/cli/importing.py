"""`pasidlab import`: firmware tables, device trees, configuration space and captures into a machine description."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from pasidlab.cli.common import console, print_json
from pasidlab.cli.files import STANDARD_OUTPUT, check_writable, write_all

if TYPE_CHECKING:
    from pasidlab.platforms import Imported


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    example = "pasidlab import docs/examples/captures/npu-board.tar.gz -o board.toml"
    app.command("import", epilog=f"Example: {example}")(import_)


def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Captures (directories or .tar.gz), / for this machine, or single files: ACPI tables, device trees, "
            "lspci output, configuration space, debugfs dumps, kernel logs.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the machine; - prints it.")
    ] = STANDARD_OUTPUT,
    every: Annotated[bool, typer.Option("--all", help="Keep the devices that carry no PASIDs, too.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print findings and a summary as JSON, one object a line; needs -o FILE.")
    ] = False,
) -> None:
    """Turn what a machine shows of itself into a description that run, check, audit and explain take.

    Every value has its origin as a comment. Findings go to standard error where the machine is printed. Exit status 0,
    whatever was found; 2 for a file that cannot be read or recognised.
    """
    from pasidlab.errors import InputError
    from pasidlab.platforms import import_machine

    printed = output == STANDARD_OUTPUT
    if printed and as_json:
        raise InputError("--json: needs -o FILE, since the machine itself is printed as TOML")
    if not printed:
        _keep_sources(sources, output)
        check_writable("-o", output)
    with _progress() as tell:
        imported = import_machine(sources, every=every, progress=tell)
    if printed:
        print(imported.text, end="")
    else:
        write_all([("-o", output, imported.text)])
    if as_json:
        _print_records(imported, output)
    else:
        _print_summary(imported, output, sys.stderr if printed else sys.stdout)


def _keep_sources(sources: list[Path], output: Path) -> None:
    """Raise InputError where the machine would be written over what it is made of."""
    from pasidlab.errors import InputError

    if output.is_file() and any(source.exists() and source.samefile(output) for source in sources):
        raise InputError(f"-o {str(output)!r}: is a source, too, and would be lost")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being read."""
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), TextColumn("{task.description}")
    shown = console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("import", total=None)
        yield lambda what: bar.update(task, description=what)


def _print_summary(imported: Imported, output: Path, stream: TextIO) -> None:
    from pasidlab.report.findings import counts_text, finding_lines
    from pasidlab.report.machine import machine_text
    from pasidlab.rules import counted

    where = "" if output == STANDARD_OUTPUT else f"{output}: "
    for remark in imported.remarks:
        print(remark, file=stream)
    width = console(stderr=stream is sys.stderr).width
    for line in finding_lines(imported.findings, width=width):
        print(line, file=stream)
    left = f"; {counted(imported.left_out, 'device')} left out (--all keeps all)" if imported.left_out else ""
    print(f"{where}{machine_text(imported.spec)}{left}; {counts_text(imported.findings)}", file=stream)


def _print_records(imported: Imported, output: Path) -> None:
    from pasidlab.report.findings import finding_dict

    for finding in imported.findings:
        print_json(finding_dict(finding))
    print_json(
        {
            "summary": True,
            "file": str(output),
            "sources": list(imported.sources),
            "remarks": list(imported.remarks),
            "iommus": len(imported.spec.iommu),
            "devices": len(imported.spec.device),
            "left_out": imported.left_out,
            "findings": len(imported.findings),
        }
    )

"""`pasidlab capture`: copy what bears on PASIDs off a host, for `import`, `audit` and `explain` there or elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pasidlab.cli.common import console, print_json

if TYPE_CHECKING:
    from pasidlab.platforms.host.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog="Example: sudo pasidlab capture machine.tar.gz")(capture)


def capture(
    into: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE.tar.gz",
            help="Where to: a directory that is new or empty, or a new archive.",
            show_default=False,
        ),
    ],
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="The host's root directory, if it is not this machine.")
    ] = Path("/"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Copy this machine's firmware tables, PCI configuration, IOMMU files and kernel settings; read only.

    Without root the kernel shows less: what could not be read is named, with the reason. Of the kernel's command line,
    configuration and log only what bears on IOMMUs is taken. Exit status 0, also where files could not be read; 2 for a
    place that cannot be written.
    """
    from pasidlab.platforms.host.capture import capture as take

    with _progress() as told:
        manifest = take(root, into, progress=told)
    if as_json:
        print_json(_record(manifest, into))
    else:
        _print_summary(manifest, into)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show how many files are read, on standard error if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    columns = BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print_summary(manifest: Manifest, into: Path) -> None:
    from pasidlab.platforms.host.capture import missing_lines

    kernel = f"Linux {manifest.release or 'of unknown release'}{f' on {manifest.machine}' if manifest.machine else ''}"
    size = sum(entry.size for entry in manifest.files)
    print(f"{into}: {kernel}; {len(manifest.files):,} files, {size:,} bytes, {len(manifest.links):,} links")
    lines = missing_lines(manifest.missing)
    if lines:
        print("Not read, or not whole:")
    for line in lines:
        print(f"  {line}")
    print("Left out on purpose:")
    for line in manifest.left_out:
        print(f"  {line}")


def _record(manifest: Manifest, into: Path) -> dict[str, object]:
    return {
        "into": str(into),
        "release": manifest.release,
        "machine": manifest.machine,
        "files": len(manifest.files),
        "bytes": sum(entry.size for entry in manifest.files),
        "links": len(manifest.links),
        "missing": [{"path": one.path, "reason": one.reason} for one in manifest.missing],
        "left_out": manifest.left_out,
    }

"""The command line: `pasidlab run`, `conform`, `schemes`, `rules`, `kernels`, `table`, `decode`, `dump`, `walk`.

Exit status: 0 done and as expected, 1 not as expected, 2 bad input, 130 interrupted. Commands import rich and
the reports when they run, so that `pasidlab --help` is quick.
"""

from __future__ import annotations

import os
import sys

import typer

from pasidlab.cli import commands
from pasidlab.errors import PasidlabError

PIPE_CLOSED = 141
"""Exit status when the reader of standard output went away, as a shell reports SIGPIPE."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, which Typer turns into an exit of its own."""

app = typer.Typer(
    name="pasidlab",
    help="A laboratory for PASID/SSID spaces and Shared Virtual Addressing: why binds fail, and what designs change.",
    epilog="Example: pasidlab run scenarios/narrow.toml --scheme all",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
commands.register(app)


def main() -> None:
    """Run the command line; bad input is one line on standard error and status 2."""
    try:
        app(standalone_mode=True)
    except PasidlabError as error:
        print(f"pasidlab: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        # Typer and rich answer a closed pipe with status 1, which here means that expectations are not met.
        if isinstance(end.__context__, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(PIPE_CLOSED)
        if end.code == INTERRUPTED:
            print("pasidlab: interrupted", file=sys.stderr)
        raise
    except (OSError, UnicodeEncodeError) as error:
        print(f"pasidlab: cannot write the output: {error}", file=sys.stderr)
        sys.exit(2)

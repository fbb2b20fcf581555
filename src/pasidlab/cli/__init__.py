"""The command line: run, check, conform, schemes, rules, kernels, table, decode, dump and walk.

Exit status: 0 done and as expected, 1 not as expected, 2 bad input, 3 a search that a bound stopped, 130 interrupted.
Commands import rich and the reports when they run, so that `pasidlab --help` is quick; `main` imports the commands, so
that Ctrl-C is answered from the start.
"""

from __future__ import annotations

import os
import sys

from pasidlab.errors import PasidlabError

PIPE_CLOSED = 141
"""Exit status when the reader of standard output went away, as a shell reports SIGPIPE."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, which Typer turns into an exit of its own once it runs."""


def main() -> None:
    """Run the command line; bad input is one line on standard error and status 2."""
    try:
        from pasidlab.cli.app import app

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
            _say_interrupted()
        raise
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(INTERRUPTED)
    except (OSError, UnicodeEncodeError) as error:
        print(f"pasidlab: cannot write the output: {error}", file=sys.stderr)
        sys.exit(2)


def _say_interrupted() -> None:
    print("pasidlab: interrupted", file=sys.stderr)

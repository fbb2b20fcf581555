"""The application that Typer runs: every command, and what `pasidlab --help` says of them."""

from __future__ import annotations

import typer

from pasidlab.cli import audit, capture, commands, explain, importing
from pasidlab.cli.check import check
from pasidlab.cli.growth import growth

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
capture.register(app)
importing.register(app)
audit.register(app)
explain.register(app)
app.command(epilog="Example: pasidlab check worlds/portal.toml --scheme hybrid --option guard=mmap")(check)
app.command(epilog="Example: pasidlab growth worlds/growth.toml --processes 1..3 --scheme mainline,v2")(growth)

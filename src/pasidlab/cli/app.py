"""The application that Typer runs: every command, and what `pasidlab --help` says of them."""

from __future__ import annotations

import typer

from pasidlab.cli import commands

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

"""A decoded word as a table of its fields, and the formats as a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pasidlab.errors import InputError
from pasidlab.formats import (
    FORMATS,
    Decoded,
    WordFormat,
    bits_text,
    decode_bytes,
    decode_words,
    field_name,
    number_text,
    words_text,
)

LONGEST_LINE = 4096
"""Most bytes of one line of standard input; no format comes near it."""


def format_lines() -> Iterator[str]:
    """Yield each format with its size and what it is."""
    for form in FORMATS.values():
        yield f"{form.name:<24}{form.bits:>4} bits  {form.summary}"


def format_dicts() -> Iterator[dict[str, object]]:
    """Yield each format as a record."""
    for form in FORMATS.values():
        yield {"format": form.name, "bits": form.bits, "summary": form.summary}


def decode_lines(form: WordFormat, stream: IO[bytes], *, as_bytes: bool) -> Iterator[Decoded]:
    """Decode each line of a stream; empty lines and those that begin with # are skipped."""
    number, found = 0, False
    while line := stream.readline(LONGEST_LINE):
        number += 1
        place = f"standard input, line {number}"
        if len(line) == LONGEST_LINE:
            raise InputError(f"{place}: longer than {LONGEST_LINE} bytes; one entry a line")
        text = line.decode("ascii", errors="backslashreplace").strip()
        if text and not text.startswith("#"):
            yield (decode_bytes if as_bytes else decode_words)(form, text, place)
            found = True
    if not found:
        raise InputError(
            f"standard input: empty; {form.name} is {form.bits} bits of hexadecimal digits, one entry a line"
        )


_COLUMNS = ("field", "bits", "value", "meaning", "of the field")
_RIGHT = ("bits", "value")


def print_decoded(decoded: Decoded, console: Console) -> None:
    """Print a word: its name, its fields, what is reserved and set, and whether hardware would accept it.

    Where there is no terminal the table is laid out without rich, which takes a hundred times as long: a file of
    entries may have thousands.
    """
    unknown = "of unknown code" if decoded.format.named else ""
    name = f"{decoded.format.name} {decoded.name or unknown}".rstrip()
    console.print(f"[bold]{escape(name)}[/bold]  {words_text(decoded.word)}", highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(_table(decoded))
    else:
        console.file.write("".join(f"{line}\n" for line in _plain_table(decoded)))
    for line in _verdict(decoded):
        console.print(line, highlight=False, soft_wrap=True)


def _rows(decoded: Decoded) -> Iterator[tuple[str, ...]]:
    for shown in decoded.word.values():
        field = shown.field
        yield field_name(field), field.bits_text, number_text(shown.value), shown.meaning, field.doc


def _table(decoded: Decoded) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in _RIGHT else "left", overflow="fold")
    for row, shown in zip(_rows(decoded), decoded.word.values(), strict=True):
        table.add_row(*map(escape, row), style=None if shown.value else "dim")
    return table


def _plain_table(decoded: Decoded) -> Iterator[str]:
    rows = list(_rows(decoded))
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        cells = zip(_COLUMNS, row, widths, strict=True)
        aligned = (cell.rjust(width) if name in _RIGHT else cell.ljust(width) for name, cell, width in cells)
        yield " │ ".join(aligned).rstrip()
        if row is _COLUMNS:
            yield "━┿━".join("━" * width for width in widths)


def _verdict(decoded: Decoded) -> Iterator[str]:
    reserved = decoded.word.reserved
    if reserved:
        yield f"[bold red]RESERVED BITS ARE SET: {bits_text(reserved)}[/bold red] ({reserved:#x})"
    if decoded.format.judge is None:
        return
    hardware, refused = decoded.format.judged_by, decoded.refused
    if refused is None:
        yield escape(f"accepted by {hardware}")
    else:
        rule, answer = refused
        yield escape(f"refused with {answer}: {rule.check} [{rule.id}; {rule.where}], by {hardware}")

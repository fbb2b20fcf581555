"""The commands, one function each; what they print comes from `pasidlab.report`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pasidlab.cli.common import console, print_json, read_options
from pasidlab.errors import InputError, blamed_on

if TYPE_CHECKING:
    from pasidlab.conform import Summary
    from pasidlab.conform_words import WordSummary
    from pasidlab.linux.profiles import Profile
    from pasidlab.machine import Machine

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for programs.")]
_UNBROKEN = 1 << 16
"""Columns in which no line of a tree is broken, so that it can be searched."""
Model = Annotated[
    str | None,
    typer.Option(help="mock, arm-smmu-v3 or intel-vtd, for every IOMMU; else what the scenario says of each."),
]
Files = Annotated[list[Path], typer.Argument(help="One or more files.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add every command to the application."""
    app.command(epilog="Example: pasidlab run scenarios/narrow.toml --scheme mainline,hybrid --kernel v6.12")(run)
    app.command(epilog="Example: pasidlab conform tests/data/binds_7.3.jsonl")(conform)
    app.command(epilog="Example: pasidlab schemes --json")(schemes)
    app.command(epilog="Example: pasidlab rules bind.no-number-free")(rules)
    app.command(epilog="Example: pasidlab kernels v6.12")(kernels)
    app.command(epilog="Example: pasidlab table clash")(table)
    app.command(epilog="Example: pasidlab decode smmuv3.l1std 0x0000000080010009")(decode)
    app.command(epilog="Example: pasidlab dump scenarios/narrow_smmu.toml --at 3 --device gpu0")(dump)
    app.command(
        epilog="Example: pasidlab walk scenarios/narrow_smmu.toml --device gpu0 --pasid 1 --address 0x10000000"
    )(walk)


def run(
    files: Files,
    scheme: Annotated[
        str | None, typer.Option(help="NAME, a comma-separated list, all, or FILE.py:CLASS; else the scenario's own.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="Kernel profile, e.g. v7.3; else the scenario's own.")] = None,
    model: Model = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="KEY=VALUE, an option of the schemes, e.g. guard=none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run scenarios: a table of steps by schemes, and a sentence for each refusal.

    Exit status 0 when all expectations are met, 1 when some are not, 2 for bad input.
    """
    from pasidlab.runner import run as run_scenario
    from pasidlab.scenario import Scenario

    options = read_options(option or [])
    scenarios = [Scenario.load(path) for path in files]
    met = True
    for number, (path, scenario) in enumerate(zip(files, scenarios, strict=True)):
        with blamed_on(path):
            reports = run_scenario(scenario, scheme, kernel=kernel, model=model, options=options)
        met = met and all(report.met for report in reports)
        if as_json:
            for report in reports:
                for step in report.steps:
                    print_json(step.as_dict(report.scheme))
                print_json(report.as_dict())
        else:
            from pasidlab.report.text import print_reports

            if number:
                print()
            print_reports(reports, console())
    raise typer.Exit(0 if met else 1)


def conform(
    files: Files,
    kernel: Annotated[
        str | None, typer.Option(help="Kernel profile of SMMU entries, e.g. v7.3; else as the file's name says.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay records of real kernels on the model: call by call, or a change of an SMMU's entry sync by sync.

    Exit status 0 when nothing differs, 1 when something does, 2 for a file that is no record.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from pasidlab.linux.profiles import profile

    chosen = profile(kernel) if kernel is not None else None
    differ = 0
    for path in files:
        columns = SpinnerColumn(), TextColumn("{task.description} {task.completed} records")
        with Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(str(path), total=None)
            summary = _conform_file(path, chosen, lambda done: bar.update(task, completed=done))  # noqa: B023
        differ += len(summary.differences)
        for difference in summary.differences:
            if as_json:
                print_json({"path": summary.path, **_fields(difference)})
            else:
                print(difference)
        if as_json:
            print_json(summary.as_dict())
        else:
            print(summary)
    raise typer.Exit(1 if differ else 0)


def _conform_file(path: Path, kernel: Profile | None, progress: Callable[[int], None]) -> Summary | WordSummary:
    """Replay one file; its first record tells which kind it holds."""
    from pasidlab.conform import conform_file
    from pasidlab.conform_words import conform_words_file
    from pasidlab.records import is_update, read_lines

    lines = read_lines(path)
    first = list(islice(lines, 1))
    opened = chain(first, lines)
    if first and is_update(first[0][1]):
        return conform_words_file(path, kernel, progress, opened)
    return conform_file(path, progress, opened)


def schemes(as_json: Json = False) -> None:
    """List the schemes: who picks the number, and which mail proposed it; and the options."""
    from pasidlab.report.lists import option_lines
    from pasidlab.schemes import SCHEMES

    for scheme in SCHEMES.values():
        if as_json:
            print_json({"name": scheme.name, "summary": scheme.summary, "source": scheme.source})
        else:
            print(f"{scheme.name:<10}{scheme.summary}\n{'':<10}{scheme.source}")
    if not as_json:
        print("\nYour own: --scheme FILE.py:CLASS (docs/schemes.md)\n\nOptions (--option KEY=VALUE, or [options]):")
        print("\n".join(option_lines()))


def rules(
    rule: Annotated[str | None, typer.Argument(help="A rule's id, or its beginning.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the rules, or show one: the kernel function and check, or the message, behind an outcome."""
    from pasidlab.report.lists import rule_dict, rule_text, rules_matching

    found = rules_matching(rule or "")
    if not found:
        raise InputError(f"rule {rule!r}: no such rule; `pasidlab rules` lists them")
    for one in found:
        if as_json:
            print_json(rule_dict(one))
        else:
            print(rule_text(one, whole=len(found) == 1))


def kernels(
    name: Annotated[str | None, typer.Argument(help="A profile, e.g. v6.12.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the kernel profiles, or show the switches of one with their sources."""
    from pasidlab.linux.profiles import PROFILES, profile
    from pasidlab.report.lists import profile_dict, profile_text

    found = [profile(name)] if name else list(PROFILES.values())
    for one in found:
        if as_json:
            print_json(profile_dict(one))
        else:
            print(profile_text(one, whole=name is not None))


def table(
    which: Annotated[str, typer.Argument(help="clash (R21) or global-needed (R14).", show_default=False)],
    as_json: Json = False,
) -> None:
    """Print a table that is computed by trying every case on a small machine."""
    from pasidlab.report.tables import TABLES

    if which not in TABLES:
        raise InputError(f"table {which!r}: no such table; known: {', '.join(TABLES)}")
    computed = TABLES[which]()
    if as_json:
        for row in computed.as_dicts():
            print_json(row)
    else:
        computed.print(console())


def decode(
    form: Annotated[
        str | None, typer.Argument(metavar="[FORMAT]", help="What the digits are, e.g. smmuv3.ste.", show_default=False)
    ] = None,
    digits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HEX]...",
            help="64-bit words, word 0 first, with spaces or commas between; - reads standard input, one entry a line.",
            show_default=False,
        ),
    ] = None,
    as_bytes: Annotated[
        bool, typer.Option("--bytes", help="HEX is bytes in the order of memory, as in a dump.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the formats, as without FORMAT.")] = False,
    as_json: Json = False,
) -> None:
    """Decode a table entry, command, record or register: its fields, reserved bits, and whether hardware accepts it.

    Exit status 0 whatever the word says, 2 for bad input.
    """
    from pasidlab.formats import decode_bytes, decode_words, find_format
    from pasidlab.report import decode as report

    if form is None or listing:
        for line in map(json.dumps, report.format_dicts()) if as_json else report.format_lines():
            print(line)
        return
    found = find_format(form)
    if not digits:
        raise InputError(
            f"HEX: missing; {form} is {found.bits} bits of hexadecimal digits, or - to read standard input"
        )
    if "-" in digits:
        decoded = report.decode_lines(found, _standard_input(digits), as_bytes=as_bytes)
    else:
        decoded = iter([(decode_bytes if as_bytes else decode_words)(found, " ".join(digits))])
    for number, one in enumerate(decoded):
        if as_json:
            print_json(one.as_dict())
        else:
            if number:
                print()
            report.print_decoded(one, console())


def _standard_input(digits: list[str]) -> IO[bytes]:
    if digits != ["-"]:
        raise InputError("HEX '-': stands alone, since it reads standard input")
    if sys.stdin is None:
        raise InputError("HEX '-': standard input is closed")
    return sys.stdin.buffer


File = Annotated[Path, typer.Argument(help="A scenario.", show_default=False)]
At = Annotated[int | None, typer.Option("--at", help="After how many steps; 0 is before the first, default all.")]
OneScheme = Annotated[str, typer.Option(help="NAME or FILE.py:CLASS.")]


def dump(
    file: File,
    at: At = None,
    scheme: OneScheme = "mainline",
    model: Model = None,
    device: Annotated[str | None, typer.Option(help="Only what is about this device.")] = None,
    as_json: Json = False,
) -> None:
    """Print the tables of a scenario's machine as a tree: what each IOMMU finds in memory, in queues and in caches.

    Exit status 0, also where no IOMMU has tables: of a mock IOMMU its entries are shown; 2 for bad input.
    """
    from pasidlab.report.dump import dump as dump_machine

    machine, title = _machine(file, scheme, at, model)
    tree = dump_machine(machine, title, device)
    if as_json:
        for record in tree.records():
            print_json(record)
    else:
        console(width=_UNBROKEN).print(tree.tree())


def walk(
    file: File,
    device: Annotated[str, typer.Option(help="The device whose transaction it is.", show_default=False)],
    address: Annotated[str, typer.Option(help="Where the device reads or writes.", show_default=False)],
    pasid: Annotated[str | None, typer.Option(help="Its PASID; left out, a transaction without.")] = None,
    access: Annotated[str, typer.Option(help="read or write.")] = "read",
    privileged: Annotated[bool, typer.Option("--privileged", help="The access is privileged.")] = False,
    instruction: Annotated[bool, typer.Option("--instruction", help="The read is an instruction fetch.")] = False,
    at: At = None,
    scheme: OneScheme = "mainline",
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Walk for one access of a device behind an SMMU or a VT-d unit: each memory access with its rule, and how it ends.

    Exit status 0 whether it is translated or faults, 2 for bad input.
    """
    from pasidlab.hw.transaction import Operation
    from pasidlab.report.walk import walk as walk_machine
    from pasidlab.report.walked import Transaction

    if access not in ("read", "write"):
        raise InputError(f"--access {access!r}: allowed: read, write")
    if instruction and access == "write":
        raise InputError("--instruction: an instruction fetch is a read; leave out --access write")
    number = None if pasid is None else _number("--pasid", pasid, 20)
    asked = Transaction(number, _number("--address", address, 64), Operation(access), privileged, instruction)
    machine, title = _machine(file, scheme, at, model)
    found = walk_machine(machine, device, asked)
    if as_json:
        for record in found.as_dicts():
            print_json(record)
    else:
        who = f"{device} without PASID" if number is None else f"{device}, PASID {number}"
        found.print(f"{who}: {access} at {asked.address:#x}  ({title})", console())


def _machine(file: Path, scheme: str, at: int | None, model: str | None) -> tuple[Machine, str]:
    """Run a scenario up to a step; returns the machine, and when that is, in words."""
    from pasidlab.runner import machine_at
    from pasidlab.scenario import Scenario

    scenario = Scenario.load(file)
    last = len(scenario.step)
    if at is not None and not 0 <= at <= last:
        raise InputError(f"--at {at}: {file} has {last} steps; allowed: 0 (before the first) to {last}")
    with blamed_on(file):
        machine = machine_at(scenario, scheme, at, model=model)
    done = last if at is None else at
    return machine, f"{scenario.title or file.name}: {scheme}, kernel {scenario.kernel}, after step {done} of {last}"


def _number(option: str, text: str, bits: int) -> int:
    """Read a number of at most so many bits, decimal or with 0x in front."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,32}|[0-9]{1,32}", text):
        value = int(text, 16 if text[:2] in ("0x", "0X") else 10)
        if not value >> bits:
            return value
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    raise InputError(f"{option} {shown!r}: allowed: 0 to {(1 << bits) - 1:#x}, decimal or with 0x in front")


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}

"""Tables that answer a question of the thread by trying every case on a small machine; no cell is written by hand.

`clash` (R21): what holds a number on a device, against what asks for it next, under each scheme.
`global-needed` (R14): Joonwon Kang's question of 2026-05-12 (17), whether the global space may be dropped when the
system has neither ST64BV nor ST64BV0, or the device does not tell posted from non-posted writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pasidlab.description import CpuSpec, DeviceSpec, IommuSpec, MachineSpec, ProcessSpec
from pasidlab.devices import SubmitBy, Work
from pasidlab.hw.cpu import Instruction
from pasidlab.machine import Machine
from pasidlab.outcome import Outcome
from pasidlab.schemes import SCHEMES, Hybrid, Mainline, Options, Scheme


@dataclass(slots=True)
class TruthTable:
    """Named columns and rows of text."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dicts(self) -> Iterator[dict[str, str]]:
        """Yield each row as a record."""
        for row in self.rows:
            yield dict(zip(self.columns, row, strict=True))

    def print(self, console: Console) -> None:
        """Print the table, and the notes under it."""
        table = Table(show_edge=False, pad_edge=False)
        for column in self.columns:
            table.add_column(escape(column), overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(f"[bold]{escape(self.title)}[/bold]", highlight=False)
        console.print(table)
        for note in self.notes:
            console.print(escape(note), highlight=False, soft_wrap=True)


# --- R21 -----------------------------------------------------------------------------------------------------

_NUMBER = 1
HOLDERS: dict[str, Callable[[Machine], Outcome]] = {
    "SVA, core-numbered, other process": lambda m: m.bind_device("dev0", "holder"),
    "SVA, driver-numbered, other process": lambda m: m.bind_device_pasid("dev0", "holder", _NUMBER),
    "SVA, core-numbered, same process": lambda m: m.bind_device("dev0", "asker"),
    "SVA, driver-numbered, same process": lambda m: m.bind_device_pasid("dev0", "asker", _NUMBER),
    "user space, through iommufd": lambda m: m.attach("dev0", _NUMBER),
    "kernel DMA, without handle": lambda m: m.attach("dev0", _NUMBER, with_handle=False),
}
ASKERS: dict[str, Callable[[Machine], Outcome]] = {
    "bind_device": lambda m: m.bind_device("dev0", "asker"),
    "bind_device_pasid": lambda m: m.bind_device_pasid("dev0", "asker", _NUMBER),
    "iommufd attach": lambda m: m.attach("dev0", _NUMBER),
    "kernel attach": lambda m: m.attach("dev0", _NUMBER, with_handle=False),
}


def clash_matrix() -> TruthTable:
    """Try every holder of number 1 against every asker."""
    title = f"Number {_NUMBER} of a device is held; what does the next call get? (R21)"
    table = TruthTable(title, ["scheme", "held by", *ASKERS])
    for name, scheme in SCHEMES.items():
        for holder, hold in HOLDERS.items():
            cells = [_clash(scheme, hold, ask) for ask in ASKERS.values()]
            table.rows.append([name, holder, *cells])
    table.notes.append("`-`: the scheme has no such call, so nobody can hold the number that way.")
    table.notes.append("`ok N`: the call succeeded, under number N.")
    return table


def _clash(scheme: type[Scheme], hold: Callable[[Machine], Outcome], ask: Callable[[Machine], Outcome]) -> str:
    spec = MachineSpec(
        iommu=[IommuSpec("iommu0", per_device_pasid_space=True)],
        device=[DeviceSpec("dev0", "iommu0", pasid_bits=4)],
        process=[ProcessSpec("holder"), ProcessSpec("asker")],
    )
    machine = Machine(spec, scheme())
    if hold(machine).result != "ok":
        return "-"
    outcome = ask(machine)
    return f"ok {outcome.pasid}" if outcome.result == "ok" else outcome.result


# --- R14 -----------------------------------------------------------------------------------------------------

ATTACKS = (Instruction.ST64B, Instruction.ST64BV, Instruction.ST64BV0)


def global_needed() -> TruthTable:
    """Let a process try to reach another's memory with every instruction, with local and with global numbers."""
    columns = ["ST64BV and ST64BV0", "device tells posted writes", "portal mapped", "local numbers", "global numbers"]
    table = TruthTable("May a device's numbers be local? (R14)", [*columns, "global space needed"])
    for present, tells, mapped in product((False, True), (True, False), (False, True)):
        reached = [_reached(scheme, present, tells, mapped) for scheme in (Hybrid, Mainline)]
        local, shared = (f"victim reached by {', '.join(found)}" if found else "safe" for found in reached)
        needed = "no" if not reached[0] else "does not help" if reached[1] else "yes"
        flags = ["present" if present else "absent", "yes" if tells else "no", "yes" if mapped else "no"]
        table.rows.append([*flags, local, shared, needed])
    table.notes.append(
        "The attacker has number 1, global; the victim has local number 1 on the device, or global number 2."
    )
    table.notes.append("ST64BV is trapped from user space, as Linux does; no guard is set (option guard=none).")
    return table


def _reached(scheme: type[Scheme], present: bool, tells: bool, mapped: bool) -> list[str]:
    """Return the instructions with which the attacker changed the victim's memory."""
    return [attack.value for attack in ATTACKS if _attack(scheme, attack, present, tells, mapped)]


def _attack(scheme: type[Scheme], attack: Instruction, present: bool, tells: bool, mapped: bool) -> bool:
    spec = MachineSpec(
        cpu=CpuSpec(arch="arm64", ls64=3 if present else 1, accdata="switched" if present else "off"),
        iommu=[IommuSpec("smmu0", pasid_bits=16)],
        device=[
            DeviceSpec("elsewhere", "smmu0", pasid_bits=16, submit=SubmitBy.ST64BV0),
            DeviceSpec("target", "smmu0", pasid_bits=16, submit=SubmitBy.ST64BV0, pasids="local", sloppy=not tells),
        ],
        process=[ProcessSpec("attacker"), ProcessSpec("victim")],
    )
    machine = Machine(spec, scheme(Options(guard="none")))
    machine.bind("elsewhere", "attacker")
    number = machine.bind("target", "victim").pasid
    assert number is not None
    if mapped:
        machine.mmap_portal("attacker", "target")
    outcome = machine.submit("attacker", "target", attack, Work(), claims=number)
    return outcome.work is not None and outcome.work.owner == "victim"


TABLES: dict[str, Callable[[], TruthTable]] = {"clash": clash_matrix, "global-needed": global_needed}
